// SPDX-License-Identifier: Apache-2.0
/*
 * Values of GGUF keys: typed access, arrays, and text for people.
 *
 * gguf_parse() has checked that every value lies inside its file, so these
 * functions check types only.  Values are unaligned: read with memcpy.
 */
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "runtime/model/gguf_priv.h"

uint32_t gguf_vtype_bytes(uint32_t type)
{
	static const uint8_t bytes[] = {
		[FH_GGUF_U8] = 1,  [FH_GGUF_I8] = 1,  [FH_GGUF_U16] = 2,  [FH_GGUF_I16] = 2, [FH_GGUF_U32] = 4,
		[FH_GGUF_I32] = 4, [FH_GGUF_F32] = 4, [FH_GGUF_BOOL] = 1, [FH_GGUF_STR] = 0, [FH_GGUF_ARR] = 0,
		[FH_GGUF_U64] = 8, [FH_GGUF_I64] = 8, [FH_GGUF_F64] = 8,
	};

	return type < sizeof(bytes) ? bytes[type] : 0;
}

/* An integer of any width, as 64 bits; for U64 the bits themselves. False when @type is no integer. */
static bool load_int(uint32_t type, const uint8_t *p, int64_t *out)
{
	switch (type) {
	case FH_GGUF_U8: *out = *p; return true;
	case FH_GGUF_I8: *out = (int8_t)*p; return true;
	case FH_GGUF_U16: *out = (uint16_t)(p[0] | p[1] << 8); return true;
	case FH_GGUF_I16: *out = (int16_t)(p[0] | p[1] << 8); return true;
	case FH_GGUF_U32: *out = gguf_le32(p); return true;
	case FH_GGUF_I32: *out = (int32_t)gguf_le32(p); return true;
	case FH_GGUF_U64:
	case FH_GGUF_I64: *out = (int64_t)gguf_le64(p); return true;
	default: return false;
	}
}

static bool load_float(uint32_t type, const uint8_t *p, double *out)
{
	float f;

	switch (type) {
	case FH_GGUF_F32:
		memcpy(&f, p, sizeof(f));
		*out = (double)f;
		return true;
	case FH_GGUF_F64: memcpy(out, p, sizeof(*out)); return true;
	default: return false;
	}
}

int gguf_key_u64(const struct gguf_key *k, uint64_t *out)
{
	int64_t v;

	if (!load_int(k->type, k->value, &v) || (v < 0 && k->type != FH_GGUF_U64))
		return -EINVAL;
	*out = (uint64_t)v;
	return 0;
}

/* Keys of the model are those of the first file. */
static const struct gguf_key *find(const struct fh_gguf *g, const char *name)
{
	return gguf_file_key(&g->file[0], name);
}

uint64_t fh_gguf_nr_keys(const struct fh_gguf *g)
{
	return g->file[0].nr_keys;
}

struct fh_str fh_gguf_key_at(const struct fh_gguf *g, uint64_t i, enum fh_gguf_vtype *type)
{
	if (i >= g->file[0].nr_keys)
		return (struct fh_str){0};
	if (type)
		*type = (enum fh_gguf_vtype)g->file[0].key[i].type;
	return g->file[0].key[i].name;
}

int fh_gguf_u64(const struct fh_gguf *g, const char *key, uint64_t *out)
{
	const struct gguf_key *k = find(g, key);

	return k ? gguf_key_u64(k, out) : -ENOENT;
}

int fh_gguf_u32(const struct fh_gguf *g, const char *key, uint32_t *out)
{
	uint64_t v;
	int rc = fh_gguf_u64(g, key, &v);

	if (!rc && v > UINT32_MAX)
		rc = -EINVAL;
	if (!rc)
		*out = (uint32_t)v;
	return rc;
}

int fh_gguf_f32(const struct fh_gguf *g, const char *key, float *out)
{
	const struct gguf_key *k = find(g, key);
	int64_t i;
	double d;

	if (!k)
		return -ENOENT;
	if (!load_float(k->type, k->value, &d)) {
		if (!load_int(k->type, k->value, &i))
			return -EINVAL;
		d = k->type == FH_GGUF_U64 ? (double)(uint64_t)i : (double)i;
	}
	*out = (float)d;
	return 0;
}

int fh_gguf_bool(const struct fh_gguf *g, const char *key, bool *out)
{
	const struct gguf_key *k = find(g, key);

	if (!k)
		return -ENOENT;
	if (k->type != FH_GGUF_BOOL)
		return -EINVAL;
	*out = *k->value != 0;
	return 0;
}

static struct fh_str load_str(const uint8_t *p)
{
	return (struct fh_str){.p = (const char *)p + 8, .n = gguf_le64(p)};
}

int fh_gguf_str(const struct fh_gguf *g, const char *key, struct fh_str *out)
{
	const struct gguf_key *k = find(g, key);

	if (!k)
		return -ENOENT;
	if (k->type != FH_GGUF_STR)
		return -EINVAL;
	*out = load_str(k->value);
	return 0;
}

static void load_arr(const struct gguf_key *k, struct fh_gguf_arr *out)
{
	out->type = (enum fh_gguf_vtype)gguf_le32(k->value);
	out->n = gguf_le64(k->value + 4);
	out->cursor = k->value + 12;
	out->data = gguf_vtype_bytes(out->type) ? out->cursor : NULL;
}

int fh_gguf_arr(const struct fh_gguf *g, const char *key, struct fh_gguf_arr *out)
{
	const struct gguf_key *k = find(g, key);

	if (!k)
		return -ENOENT;
	if (k->type != FH_GGUF_ARR || gguf_le32(k->value) == FH_GGUF_ARR)
		return -EINVAL;
	load_arr(k, out);
	return 0;
}

struct fh_str fh_gguf_arr_next(struct fh_gguf_arr *a)
{
	struct fh_str s = load_str(a->cursor);

	a->cursor += 8 + s.n;
	return s;
}

int64_t fh_gguf_arr_i64(const struct fh_gguf_arr *a, uint64_t i)
{
	const uint8_t *p = (const uint8_t *)a->data + i * gguf_vtype_bytes(a->type);
	double d;
	int64_t v;

	if (load_int(a->type, p, &v))
		return a->type == FH_GGUF_U64 && v < 0 ? INT64_MAX : v;
	if (!load_float(a->type, p, &d))
		return *p != 0;
	if (isnan(d))
		return 0;
	if (d >= 0x1p63)
		return INT64_MAX;
	return d < -0x1p63 ? INT64_MIN : (int64_t)d;
}

double fh_gguf_arr_f64(const struct fh_gguf_arr *a, uint64_t i)
{
	const uint8_t *p = (const uint8_t *)a->data + i * gguf_vtype_bytes(a->type);
	double d;
	int64_t v;

	if (load_float(a->type, p, &d))
		return d;
	if (load_int(a->type, p, &v))
		return a->type == FH_GGUF_U64 ? (double)(uint64_t)v : (double)v;
	return *p != 0;
}

/* Text of limited room: what does not fit is cut, and the end is always a zero byte. */
struct text {
	char *p;
	size_t cap, n;
};

static void put(struct text *t, const char *s, size_t n)
{
	for (size_t i = 0; i < n && t->n + 1 < t->cap; i++)
		t->p[t->n++] = s[i];
}

/* Bytes of the character at @s, which has @n left; 0 when it is no valid UTF-8. */
static size_t utf8_len(const uint8_t *s, size_t n)
{
	size_t len = s[0] < 0x80 ? 1 : s[0] < 0xc2 ? 0 : s[0] < 0xe0 ? 2 : s[0] < 0xf0 ? 3 : s[0] < 0xf5 ? 4 : 0;

	if (len > n)
		return 0;
	for (size_t i = 1; i < len; i++) {
		if ((s[i] & 0xc0) != 0x80)
			return 0;
	}
	if ((s[0] == 0xe0 && s[1] < 0xa0) || (s[0] == 0xed && s[1] > 0x9f) || (s[0] == 0xf0 && s[1] < 0x90) ||
	    (s[0] == 0xf4 && s[1] > 0x8f))
		return 0;
	return len;
}

/* At most @max bytes of a string from the file, made harmless: control bytes and bad UTF-8 are escaped. */
static void put_str(struct text *t, struct fh_str s, size_t max, bool quoted)
{
	const uint8_t *p = (const uint8_t *)s.p;
	size_t i = 0;

	while (i < s.n && i < max) {
		size_t len = utf8_len(p + i, s.n - i);
		char esc[8];

		if (len == 0 || p[i] < 0x20 || p[i] == 0x7f) {
			int n = p[i] == '\n'   ? snprintf(esc, sizeof(esc), "\\n")
				: p[i] == '\t' ? snprintf(esc, sizeof(esc), "\\t")
					       : snprintf(esc, sizeof(esc), "\\x%02x", p[i]);

			put(t, esc, (size_t)n);
			i++;
			continue;
		}
		if (t->n + len >= t->cap)
			return;
		if (quoted && (p[i] == '"' || p[i] == '\\'))
			put(t, "\\", 1);
		put(t, s.p + i, len);
		i += len;
	}
	if (i < s.n)
		put(t, "...", 3);
}

/* The shortest text that reads back as the same number. */
static void put_float(struct text *t, double d, bool single)
{
	char s[40];
	int n = 0;

	for (int digits = 6; digits <= 17; digits++) {
		n = snprintf(s, sizeof(s), "%.*g", digits, d);
		if (single ? strtof(s, NULL) == (float)d : strtod(s, NULL) == d)
			break;
		if (isnan(d))
			break;
	}
	put(t, s, (size_t)n);
}

static void put_scalar(struct text *t, uint32_t type, const uint8_t *p)
{
	char s[32];
	int64_t i;
	double d;

	if (type == FH_GGUF_BOOL) {
		put(t, *p ? "true" : "false", *p ? 4 : 5);
	} else if (load_float(type, p, &d)) {
		put_float(t, d, type == FH_GGUF_F32);
	} else if (load_int(type, p, &i)) {
		int n = type == FH_GGUF_U64 ? snprintf(s, sizeof(s), "%" PRIu64, (uint64_t)i)
					    : snprintf(s, sizeof(s), "%" PRId64, i);

		put(t, s, (size_t)n);
	}
}

static void put_array(struct text *t, const struct gguf_key *k)
{
	enum { SHOWN = 6, SHOWN_BYTES = 40 };
	struct fh_gguf_arr a;
	char s[64];

	load_arr(k, &a);
	if (a.type == FH_GGUF_ARR) {
		put(t, s, (size_t)snprintf(s, sizeof(s), "(%" PRIu64 " arrays)", a.n));
		return;
	}
	put(t, "[", 1);
	for (uint64_t i = 0; i < a.n && i < SHOWN; i++) {
		if (i)
			put(t, ", ", 2);
		if (a.type == FH_GGUF_STR) {
			put(t, "\"", 1);
			put_str(t, fh_gguf_arr_next(&a), SHOWN_BYTES, true);
			put(t, "\"", 1);
		} else {
			put_scalar(t, a.type, (const uint8_t *)a.data + i * gguf_vtype_bytes(a.type));
		}
	}
	if (a.n > SHOWN)
		put(t, s, (size_t)snprintf(s, sizeof(s), ", ...] (%" PRIu64 " elements)", a.n));
	else
		put(t, "]", 1);
}

size_t fh_gguf_value_text(const struct fh_gguf *g, uint64_t key_index, char *out, size_t cap)
{
	struct text t = {.p = out, .cap = cap};
	const struct gguf_key *k;

	if (cap == 0)
		return 0;
	if (key_index < g->file[0].nr_keys) {
		k = &g->file[0].key[key_index];
		if (k->type == FH_GGUF_STR)
			put_str(&t, load_str(k->value), SIZE_MAX, false);
		else if (k->type == FH_GGUF_ARR)
			put_array(&t, k);
		else
			put_scalar(&t, k->type, k->value);
	}
	out[t.n] = '\0';
	return t.n;
}
