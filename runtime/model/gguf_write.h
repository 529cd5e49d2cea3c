/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Writing GGUF files (version 3): first all keys, then all tensors' shapes,
 * then the header comes out as bytes, and the caller streams the tensors' data
 * after it, in the order in which they were added, each padded with zero bytes
 * to a multiple of FH_GGUF_WRITE_ALIGN.
 *
 * Errors stick: after one, further calls do nothing, and
 * fh_gguf_writer_header() reports it.  Names and values are the caller's own,
 * so a wrong one (a row of no whole blocks) is an assertion.
 */
#ifndef FH_MODEL_GGUF_WRITE_H
#define FH_MODEL_GGUF_WRITE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "runtime/model/gguf.h"

#define FH_GGUF_WRITE_ALIGN 32

struct fh_gguf_writer;

struct fh_gguf_writer *fh_gguf_writer_new(void); /* NULL: no memory */
void fh_gguf_writer_free(struct fh_gguf_writer *w);

void fh_gguf_put_u32(struct fh_gguf_writer *w, const char *key, uint32_t v);
void fh_gguf_put_f32(struct fh_gguf_writer *w, const char *key, float v);
void fh_gguf_put_bool(struct fh_gguf_writer *w, const char *key, bool v);
void fh_gguf_put_str(struct fh_gguf_writer *w, const char *key, const char *v);
/* An array of @n elements of @type, which must follow through the two calls below. */
void fh_gguf_put_arr(struct fh_gguf_writer *w, const char *key, enum fh_gguf_vtype type, uint64_t n);
void fh_gguf_put_elem_str(struct fh_gguf_writer *w, struct fh_str s);
void fh_gguf_put_elem(struct fh_gguf_writer *w, const void *p, size_t bytes);
/* Key @i of @g, with its value, as it is. */
void fh_gguf_put_copy(struct fh_gguf_writer *w, const struct fh_gguf *g, uint64_t i);

/* Add a tensor. Returns the bytes of its data, without padding. No key may follow. */
uint64_t fh_gguf_put_tensor(struct fh_gguf_writer *w, const char *name, uint32_t type, uint32_t nr_dims,
			    const uint64_t *ne);

/*
 * Everything before the data, padding included.  The bytes are the writer's.
 * 0 or -ENOMEM.
 */
int fh_gguf_writer_header(struct fh_gguf_writer *w, const void **data, size_t *bytes);
/* Bytes of all tensors, padding included. */
uint64_t fh_gguf_writer_data_bytes(const struct fh_gguf_writer *w);

#endif /* FH_MODEL_GGUF_WRITE_H */
