/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A growable byte buffer and the few writers that responses are made with.
 *
 * A failed allocation sets `failed` and makes every later write a no-op, so
 * that a writer checks once, at the end.
 */
#ifndef FH_NET_BUF_H
#define FH_NET_BUF_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

struct fh_buf {
	char *data;
	size_t len, cap;
	bool failed;
};

/* Grow so that @more bytes fit behind len. False, with failed set, when there is no memory. */
bool fh_buf_grow(struct fh_buf *b, size_t more);
void fh_buf_free(struct fh_buf *b);
/* Empty it; give back memory beyond @keep bytes. */
void fh_buf_reset(struct fh_buf *b, size_t keep);

static inline bool fh_buf_reserve(struct fh_buf *b, size_t more)
{
	return b->cap - b->len >= more || fh_buf_grow(b, more);
}

static inline void fh_buf_put(struct fh_buf *b, const void *p, size_t n)
{
	if (!fh_buf_reserve(b, n))
		return;
	if (n)
		memcpy(b->data + b->len, p, n);
	b->len += n;
}

static inline void fh_buf_puts(struct fh_buf *b, const char *s)
{
	fh_buf_put(b, s, strlen(s));
}

/* A string literal: its length is known to the compiler. */
#define fh_buf_lit(b, s) fh_buf_put((b), "" s, sizeof(s) - 1)

void fh_buf_u64(struct fh_buf *b, uint64_t v);
/* @v with its least significant @digits hexadecimal digits. */
void fh_buf_hex(struct fh_buf *b, uint64_t v, unsigned int digits);
/* A JSON number; what JSON cannot say (infinite, NaN) is held at -9999. */
void fh_buf_f32(struct fh_buf *b, float v);
/* Text inside a JSON string: escaped, without the quotation marks.  Bytes that are no UTF-8 become U+FFFD. */
void fh_buf_json(struct fh_buf *b, const char *s, size_t n);
/* All of it well-formed UTF-8? */
bool fh_utf8_valid(const char *s, size_t n);
void fh_buf_base64(struct fh_buf *b, const void *p, size_t n);
void fh_buf_printf(struct fh_buf *b, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

#endif /* FH_NET_BUF_H */
