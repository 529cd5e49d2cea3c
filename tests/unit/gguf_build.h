/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Builds GGUF files byte by byte for the tests of the reader, so that reader
 * and writer cannot share a mistake.  A struct bytes owns its memory; whoever
 * takes one frees it.
 */
#ifndef TESTS_UNIT_GGUF_BUILD_H
#define TESTS_UNIT_GGUF_BUILD_H

#include <criterion/criterion.h>
#include <stdlib.h>
#include <string.h>

#include "runtime/model/gguf.h"

/* A file under construction. */
struct bytes {
	uint8_t *p;
	size_t n, cap;
};

static inline void put(struct bytes *b, const void *p, size_t n)
{
	if (b->n + n > b->cap) {
		b->cap = 2 * (b->n + n);
		b->p = realloc(b->p, b->cap);
		cr_assert_not_null(b->p);
	}
	if (n)
		memcpy(b->p + b->n, p, n);
	b->n += n;
}

static inline void put_u32(struct bytes *b, uint32_t v)
{
	put(b, &v, sizeof(v));
}

static inline void put_u64(struct bytes *b, uint64_t v)
{
	put(b, &v, sizeof(v));
}

static inline void put_str(struct bytes *b, const char *s)
{
	put_u64(b, strlen(s));
	put(b, s, strlen(s));
}

static inline struct bytes header(uint32_t version, uint64_t nr_tensors, uint64_t nr_keys)
{
	struct bytes b = {0};

	put(&b, "GGUF", 4);
	put_u32(&b, version);
	put_u64(&b, nr_tensors);
	put_u64(&b, nr_keys);
	return b;
}

static inline void key(struct bytes *b, const char *name, uint32_t type)
{
	put_str(b, name);
	put_u32(b, type);
}

static inline void key_u32(struct bytes *b, const char *name, uint32_t v)
{
	key(b, name, FH_GGUF_U32);
	put_u32(b, v);
}

static inline void key_str(struct bytes *b, const char *name, const char *v)
{
	key(b, name, FH_GGUF_STR);
	put_str(b, v);
}

static inline void tensor(struct bytes *b, const char *name, uint32_t type, uint64_t ne0, uint64_t ne1, uint64_t offset)
{
	put_str(b, name);
	put_u32(b, 2);
	put_u64(b, ne0);
	put_u64(b, ne1);
	put_u32(b, type);
	put_u64(b, offset);
}

static inline void pad(struct bytes *b, size_t align)
{
	while (b->n % align)
		put(b, "", 1);
}

static inline void zeros(struct bytes *b, size_t n)
{
	while (n--)
		put(b, "", 1);
}

#endif /* TESTS_UNIT_GGUF_BUILD_H */
