// SPDX-License-Identifier: Apache-2.0
/* The growable buffer and its writers. */
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#include "runtime/net/buf.h"

bool fh_buf_grow(struct fh_buf *b, size_t more)
{
	size_t cap = b->cap ? b->cap : 1024;
	char *p;

	if (b->failed || more > SIZE_MAX / 4 || b->len > SIZE_MAX / 4) {
		b->failed = true;
		return false;
	}
	while (cap - b->len < more)
		cap *= 2;
	p = realloc(b->data, cap);
	if (!p) {
		b->failed = true;
		return false;
	}
	b->data = p;
	b->cap = cap;
	return true;
}

void fh_buf_free(struct fh_buf *b)
{
	free(b->data);
	*b = (struct fh_buf){0};
}

void fh_buf_reset(struct fh_buf *b, size_t keep)
{
	b->len = 0;
	b->failed = false;
	if (b->cap > keep)
		fh_buf_free(b);
}

void fh_buf_u64(struct fh_buf *b, uint64_t v)
{
	char tmp[20];
	size_t n = sizeof(tmp);

	do {
		tmp[--n] = (char)('0' + v % 10);
		v /= 10;
	} while (v);
	fh_buf_put(b, tmp + n, sizeof(tmp) - n);
}

void fh_buf_hex(struct fh_buf *b, uint64_t v, unsigned int digits)
{
	char tmp[16];

	for (unsigned int i = digits; i--; v >>= 4)
		tmp[i] = "0123456789abcdef"[v & 15];
	fh_buf_put(b, tmp, digits);
}

void fh_buf_f32(struct fh_buf *b, float v)
{
	/* Nine digits bring every binary32 back exactly. */
	fh_buf_printf(b, "%.9g", isfinite(v) ? (double)v : -9999.0);
}

void fh_buf_printf(struct fh_buf *b, const char *fmt, ...)
{
	va_list ap;
	int n;

	if (!fh_buf_reserve(b, 256))
		return;
	va_start(ap, fmt);
	n = vsnprintf(b->data + b->len, b->cap - b->len, fmt, ap);
	va_end(ap);
	if (n < 0)
		return;
	if ((size_t)n >= b->cap - b->len) {
		if (!fh_buf_grow(b, (size_t)n + 1))
			return;
		va_start(ap, fmt);
		vsnprintf(b->data + b->len, b->cap - b->len, fmt, ap);
		va_end(ap);
	}
	b->len += (size_t)n;
}

/* Length of the well-formed UTF-8 sequence at @s, 0 if there is none (Unicode 15, table 3-7). */
static size_t utf8_len(const unsigned char *s, size_t n)
{
	unsigned char lo = 0x80, hi = 0xbf;
	size_t len;

	if (s[0] < 0x80)
		return 1;
	if (s[0] >= 0xc2 && s[0] <= 0xdf) {
		len = 2;
	} else if ((s[0] & 0xf0) == 0xe0) {
		len = 3;
		lo = s[0] == 0xe0 ? 0xa0 : lo;
		hi = s[0] == 0xed ? 0x9f : hi;
	} else if (s[0] >= 0xf0 && s[0] <= 0xf4) {
		len = 4;
		lo = s[0] == 0xf0 ? 0x90 : lo;
		hi = s[0] == 0xf4 ? 0x8f : hi;
	} else {
		return 0;
	}
	if (n < len || s[1] < lo || s[1] > hi)
		return 0;
	for (size_t i = 2; i < len; i++)
		if ((s[i] & 0xc0) != 0x80)
			return 0;
	return len;
}

bool fh_utf8_valid(const char *s, size_t n)
{
	size_t len;

	for (size_t i = 0; i < n; i += len) {
		len = utf8_len((const unsigned char *)s + i, n - i);
		if (!len)
			return false;
	}
	return true;
}

static void put_escaped(struct fh_buf *b, unsigned char c)
{
	char e[6] = {'\\', 0};

	switch (c) {
	case '"':
	case '\\': e[1] = (char)c; break;
	case '\n': e[1] = 'n'; break;
	case '\r': e[1] = 'r'; break;
	case '\t': e[1] = 't'; break;
	default:
		memcpy(e, "\\u00", 4);
		e[4] = "0123456789abcdef"[c >> 4];
		e[5] = "0123456789abcdef"[c & 15];
		fh_buf_put(b, e, 6);
		return;
	}
	fh_buf_put(b, e, 2);
}

void fh_buf_json(struct fh_buf *b, const char *text, size_t n)
{
	const unsigned char *s = (const unsigned char *)text;
	size_t plain = 0, i = 0, len;

	/* Runs of plain text are copied whole; only what stops a run is looked at twice. */
	while (i < n) {
		if (s[i] >= 0x20 && s[i] < 0x80 && s[i] != '"' && s[i] != '\\') {
			i++;
			continue;
		}
		len = s[i] >= 0x80 ? utf8_len(s + i, n - i) : 0;
		if (len) {
			i += len;
			continue;
		}
		fh_buf_put(b, s + plain, i - plain);
		if (s[i] >= 0x80)
			fh_buf_lit(b, "\xef\xbf\xbd");
		else
			put_escaped(b, s[i]);
		plain = ++i;
	}
	fh_buf_put(b, s + plain, i - plain);
}

void fh_buf_base64(struct fh_buf *b, const void *p, size_t n)
{
	static const char abc[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
	const unsigned char *s = p;
	char *o;

	if (!fh_buf_reserve(b, (n + 2) / 3 * 4))
		return;
	o = b->data + b->len;
	for (; n >= 3; n -= 3, s += 3) {
		*o++ = abc[s[0] >> 2];
		*o++ = abc[(s[0] & 3) << 4 | s[1] >> 4];
		*o++ = abc[(s[1] & 15) << 2 | s[2] >> 6];
		*o++ = abc[s[2] & 63];
	}
	if (n) {
		*o++ = abc[s[0] >> 2];
		*o++ = abc[(s[0] & 3) << 4 | (n > 1 ? s[1] >> 4 : 0)];
		*o++ = n > 1 ? abc[(s[1] & 15) << 2] : '=';
		*o++ = '=';
	}
	b->len = (size_t)(o - b->data);
}
