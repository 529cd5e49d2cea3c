/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the gguf*.c files share among themselves; nobody else includes this.
 *
 * A struct gguf_file is one file (one split); a struct fh_gguf is one or more
 * of them.  Everything that points into a file's bytes has been checked to lie
 * inside it, whole, by gguf_parse().
 */
#ifndef FH_MODEL_GGUF_PRIV_H
#define FH_MODEL_GGUF_PRIV_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "runtime/model/gguf.h"

_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "GGUF files are mapped, not converted");

enum {
	GGUF_MAX_KEYS = 1 << 16,
	GGUF_MAX_TENSORS = 1 << 20,
	GGUF_MAX_NAME = 65535, /* of a key, as the specification has it; we allow tensors the same */
	GGUF_MAX_NESTING = 4,  /* arrays in arrays */
	GGUF_MAX_SPLITS = 4096,
	GGUF_ALIGN_DEFAULT = 32,
};

/* A finder of names: open addressing, at most half full, so a lookup ends. */
struct gguf_table {
	uint32_t *slot; /* index + 1; 0 is free */
	uint32_t mask;
	uint64_t seed[2];
	const uint8_t *items; /* records that begin with a struct fh_str */
	size_t stride;
};

struct gguf_key {
	struct fh_str name; /* first, for the table */
	uint32_t type;
	uint64_t bytes; /* of the value */
	const uint8_t *value;
};

struct gguf_file {
	char *path;
	const uint8_t *base;
	uint64_t bytes;
	bool mapped; /* base is ours to unmap, and fd to close */
	int fd;
	uint32_t version;
	uint32_t alignment;
	struct gguf_key *key;
	uint64_t nr_keys;
	struct gguf_table key_table;
	struct fh_tensor *tensor;
	uint64_t nr_tensors;
};

struct fh_gguf {
	struct gguf_file *file; /* [nr_files], in split order */
	uint32_t nr_files;
	uint64_t file_bytes;
	char *path;		  /* as it was asked for */
	struct fh_tensor *tensor; /* of all files */
	uint64_t nr_tensors;
	struct gguf_table tensor_table;
};

/*
 * Index @n records at @items, each @stride bytes long and with a struct fh_str
 * at its head.  0; -ENOMEM; or -EEXIST with *@dup the record that repeats an
 * earlier name.  gguf_table_free() after any of them.
 */
int gguf_table_build(struct gguf_table *t, const void *items, size_t stride, uint64_t n, uint64_t *dup);
/* The record called @name, or NULL. */
const void *gguf_table_find(const struct gguf_table *t, struct fh_str name);
void gguf_table_free(struct gguf_table *t);

/* Fill @f (path, base and bytes are set) from its bytes. 0 or -errno with @err; gguf_file_drop() after either. */
int gguf_parse(struct gguf_file *f, struct fh_err *err);

/* The file that holds @p, which points into one of them. */
const struct gguf_file *gguf_file_of(const struct fh_gguf *g, const void *p);

/* @f's key called @name, or NULL. */
const struct gguf_key *gguf_file_key(const struct gguf_file *f, const char *name);
/* The value of an integer key: 0, or -EINVAL when it is none or is negative. */
int gguf_key_u64(const struct gguf_key *k, uint64_t *out);
/* Bytes of a value of fixed size; 0 for strings, arrays and unknown types. */
uint32_t gguf_vtype_bytes(uint32_t type);

/* The end of a long path, for messages. */
const char *gguf_path_tail(const char *path);

/* A name from the file, made fit for a message: cut short, control bytes as '?'. */
struct gguf_shown {
	char s[80];
};
struct gguf_shown gguf_show(struct fh_str name);

static inline uint32_t gguf_le32(const uint8_t *p)
{
	uint32_t v;

	__builtin_memcpy(&v, p, sizeof(v));
	return v;
}

static inline uint64_t gguf_le64(const uint8_t *p)
{
	uint64_t v;

	__builtin_memcpy(&v, p, sizeof(v));
	return v;
}

#endif /* FH_MODEL_GGUF_PRIV_H */
