/* SPDX-License-Identifier: Apache-2.0 */
/*
 * GGUF files (https://github.com/ggml-org/ggml/blob/master/docs/gguf.md),
 * versions 2 and 3, little endian, single or split (-00001-of-0000N).
 *
 * The file is mapped read-only and stays open, for fh_gguf_fetch(), until the
 * handle is closed.  Every length and offset that it states is checked against
 * what is left of it before use, so a pointer that this interface hands out
 * always lies, with its whole extent, inside the mapping.  All pointers stay
 * valid until fh_gguf_close().
 */
#ifndef FH_MODEL_GGUF_H
#define FH_MODEL_GGUF_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "runtime/base/err.h"

enum fh_gguf_vtype {
	FH_GGUF_U8,
	FH_GGUF_I8,
	FH_GGUF_U16,
	FH_GGUF_I16,
	FH_GGUF_U32,
	FH_GGUF_I32,
	FH_GGUF_F32,
	FH_GGUF_BOOL,
	FH_GGUF_STR,
	FH_GGUF_ARR,
	FH_GGUF_U64,
	FH_GGUF_I64,
	FH_GGUF_F64,
};

struct fh_gguf;

/* A string inside the file: not terminated. */
struct fh_str {
	const char *p;
	size_t n;
};

struct fh_tensor {
	struct fh_str name;
	uint32_t type;	  /* GGUF's numbers: enum fhk_type in kernels/kernels.h */
	uint32_t nr_dims; /* 1..4 */
	uint64_t ne[4];	  /* ne[0] is the contiguous one: columns; ne[1] rows; ne[2] experts */
	uint64_t bytes;
	const void *data; /* inside the mapping of its split */
};

/* Open @path (any split of a split model). 0, or -errno with @err saying what and where. */
int fh_gguf_open(const char *path, struct fh_gguf **out, struct fh_err *err);
/* The same from memory, for tests and fuzzing; @data must outlive the handle. Refuses split files. */
int fh_gguf_open_mem(const void *data, size_t bytes, struct fh_gguf **out, struct fh_err *err);
void fh_gguf_close(struct fh_gguf *g);
/*
 * Ask the kernel to read the files ahead.  For whoever is about to load the
 * weights; opening alone does not, so that `inspect` of a huge file stays quick.
 */
void fh_gguf_willneed(const struct fh_gguf *g);

uint32_t fh_gguf_version(const struct fh_gguf *g);
uint64_t fh_gguf_file_bytes(const struct fh_gguf *g); /* of all splits together */
const char *fh_gguf_path(const struct fh_gguf *g);
/* Its splits, in order; 1 for most. The path of the one with number @i, from 0. */
uint32_t fh_gguf_nr_files(const struct fh_gguf *g);
const char *fh_gguf_file_path(const struct fh_gguf *g, uint32_t i);

/* Tensors of all splits, in file order. */
uint64_t fh_gguf_nr_tensors(const struct fh_gguf *g);
const struct fh_tensor *fh_gguf_tensor_at(const struct fh_gguf *g, uint64_t i);
/* NULL when there is none of that name (hashed: constant time). */
const struct fh_tensor *fh_gguf_tensor(const struct fh_gguf *g, const char *name);

/* Keys of the first split, in file order. */
uint64_t fh_gguf_nr_keys(const struct fh_gguf *g);
struct fh_str fh_gguf_key_at(const struct fh_gguf *g, uint64_t i, enum fh_gguf_vtype *type);

/*
 * Scalars.  0; -ENOENT when the key is absent; -EINVAL when its type does not
 * convert without loss (any integer type converts to u64/i64, F32/F64 and
 * integers to f64).  *out is untouched on failure, so a default set before the
 * call stays.
 */
int fh_gguf_u64(const struct fh_gguf *g, const char *key, uint64_t *out);
int fh_gguf_u32(const struct fh_gguf *g, const char *key, uint32_t *out);
int fh_gguf_f32(const struct fh_gguf *g, const char *key, float *out);
int fh_gguf_bool(const struct fh_gguf *g, const char *key, bool *out);
int fh_gguf_str(const struct fh_gguf *g, const char *key, struct fh_str *out);

/* An array; elements of fixed size lie packed (unaligned) at @data. */
struct fh_gguf_arr {
	enum fh_gguf_vtype type;
	uint64_t n;
	const void *data; /* NULL for strings: iterate with fh_gguf_arr_next() */
	const uint8_t *cursor;
};
int fh_gguf_arr(const struct fh_gguf *g, const char *key, struct fh_gguf_arr *out);
/* Next string of a string array; call at most n times. */
struct fh_str fh_gguf_arr_next(struct fh_gguf_arr *a);
/* Element @i of a numeric or bool array. */
int64_t fh_gguf_arr_i64(const struct fh_gguf_arr *a, uint64_t i);
double fh_gguf_arr_f64(const struct fh_gguf_arr *a, uint64_t i);

/* Write a value as text, arrays as their first few elements, for `inspect`. Returns the length written. */
size_t fh_gguf_value_text(const struct fh_gguf *g, uint64_t key_index, char *out, size_t cap);

/*
 * @bytes at @at, all of them a tensor's, for whoever copies them into another
 * form.  *@out is where they are: in @buf, read from the file without touching
 * its mapping, or @at itself if the model was opened from memory.  0; -ENODATA
 * when the file became shorter since it was opened; or what read said.  Any
 * thread may call this.
 */
int fh_gguf_fetch(const struct fh_gguf *g, const void *at, size_t bytes, void *buf, const void **out);

#endif /* FH_MODEL_GGUF_H */
