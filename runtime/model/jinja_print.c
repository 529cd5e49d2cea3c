// SPDX-License-Identifier: Apache-2.0
/*
 * Chat templates: values as Python prints them (str, repr) and as JSON in the
 * form that models were trained on: json.dumps with ", " and ": ", keys in
 * their order, text not escaped to ASCII unless asked for.
 */
#include "runtime/model/jinja.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

static bool put_str(struct fh_jctx *c, struct fh_jbuf *b, const char *s)
{
	return fh_jbuf_put(c, b, s, strlen(s));
}

/*
 * Python's repr of a float: the fewest digits that read back as the same
 * number; an exponent outside 1e-4 <= x < 1e16.
 */
size_t fh_jprint_float(double f, char out[64])
{
	char digits[32], *mant = digits, *dot, *e;
	int prec = 0, exp, nr;
	size_t n = 0;

	if (isnan(f))
		return (size_t)sprintf(out, "nan");
	if (isinf(f))
		return (size_t)sprintf(out, f < 0 ? "-inf" : "inf");
	do {
		snprintf(digits, sizeof(digits), "%.*e", prec, f);
	} while (strtod(digits, NULL) != f && prec++ < 17);
	if (*mant == '-') {
		out[n++] = '-';
		mant++;
	}
	e = strchr(mant, 'e');
	exp = atoi(e + 1);
	*e = 0;
	dot = strchr(mant, '.');
	if (dot)
		memmove(dot, dot + 1, strlen(dot)); /* digits only */
	nr = (int)strlen(mant);
	if (exp < -4 || exp >= 16) {
		n += (size_t)sprintf(out + n, "%c%s%s", *mant, nr > 1 ? "." : "", mant + 1);
		return n + (size_t)sprintf(out + n, "e%c%02d", exp < 0 ? '-' : '+', abs(exp));
	}
	if (exp < 0)
		return n + (size_t)sprintf(out + n, "0.%.*s%s", -exp - 1, "0000", mant);
	if (nr <= exp + 1)
		return n + (size_t)sprintf(out + n, "%s%.*s.0", mant, exp + 1 - nr, "0000000000000000");
	return n + (size_t)sprintf(out + n, "%.*s.%s", exp + 1, mant, mant + exp + 1);
}

/* Would Python's repr print the character as it is? */
static bool printable(uint32_t cp)
{
	return cp >= 0x20 && !(cp >= 0x7f && cp <= 0xa0) && cp != 0xad && !(cp >= 0x200b && cp <= 0x200f) &&
	       !(cp > 0xa0 && fh_jis_space(cp)) && !(cp >= 0x202a && cp <= 0x202e) && !(cp >= 0x2060 && cp <= 0x206f) &&
	       !(cp >= 0xd800 && cp <= 0xf8ff) && cp != 0xfeff && !(cp >= 0xfff0 && cp <= 0xfffb) &&
	       (cp & 0xfffe) != 0xfffe && cp < 0xe0000;
}

static void repr_str(struct fh_jctx *c, struct fh_jbuf *b, struct fh_jv v)
{
	char quote = memchr(v.s, '\'', v.n) && !memchr(v.s, '"', v.n) ? '"' : '\'';
	const char *p = v.s, *end = p + v.n;
	char esc[16];
	uint32_t cp;

	fh_jbuf_put(c, b, &quote, 1);
	while (p < end && !c->failed) {
		size_t n = fh_jutf8(p, end, &cp);

		if (cp == (uint8_t)quote || cp == '\\')
			sprintf(esc, "\\%c", (char)cp);
		else if (cp == '\n' || cp == '\r' || cp == '\t')
			sprintf(esc, "\\%c", cp == '\n' ? 'n' : cp == '\r' ? 'r' : 't');
		else if (printable(cp))
			*esc = 0;
		else
			sprintf(esc, cp < 0x100 ? "\\x%02x" : cp < 0x10000 ? "\\u%04x" : "\\U%08x", cp);
		if (*esc)
			put_str(c, b, esc);
		else
			fh_jbuf_put(c, b, p, n);
		p += n;
	}
	fh_jbuf_put(c, b, &quote, 1);
}

static void repr_list(struct fh_jctx *c, struct fh_jbuf *b, const struct fh_jlist *l)
{
	put_str(c, b, l->tuple ? "(" : "[");
	for (uint32_t i = 0; i < l->n && !fh_jcharge(c, 1); i++) {
		put_str(c, b, i ? ", " : "");
		fh_jrepr(c, b, l->v[i]);
	}
	put_str(c, b, l->tuple ? (l->n == 1 ? ",)" : ")") : "]");
}

static void repr_dict(struct fh_jctx *c, struct fh_jbuf *b, const struct fh_jdict *d)
{
	put_str(c, b, "{");
	for (uint32_t i = 0; i < d->n && !fh_jcharge(c, 1); i++) {
		put_str(c, b, i ? ", " : "");
		fh_jrepr(c, b, d->e[i].key);
		put_str(c, b, ": ");
		fh_jrepr(c, b, d->e[i].val);
	}
	put_str(c, b, "}");
}

bool fh_jrepr(struct fh_jctx *c, struct fh_jbuf *b, struct fh_jv v)
{
	char num[64];

	if (!fh_jenter(c))
		return false;
	switch (v.type) {
	case FH_J_UNDEF: put_str(c, b, "Undefined"); break;
	case FH_J_NONE: put_str(c, b, "None"); break;
	case FH_J_BOOL: put_str(c, b, v.b ? "True" : "False"); break;
	case FH_J_INT: fh_jbuf_put(c, b, num, (size_t)sprintf(num, "%lld", (long long)v.i)); break;
	case FH_J_FLOAT: fh_jbuf_put(c, b, num, fh_jprint_float(v.f, num)); break;
	case FH_J_STR: repr_str(c, b, v); break;
	case FH_J_LIST: repr_list(c, b, v.l); break;
	case FH_J_DICT: repr_dict(c, b, v.d); break;
	case FH_J_NS:
		put_str(c, b, "<Namespace ");
		repr_dict(c, b, v.d);
		put_str(c, b, ">");
		break;
	default:
		put_str(c, b, "<");
		put_str(c, b, fh_jtype_name(v));
		put_str(c, b, ">");
	}
	fh_jleave(c);
	return !c->failed;
}

bool fh_jprint(struct fh_jctx *c, struct fh_jbuf *b, struct fh_jv v)
{
	if (v.type == FH_J_STR)
		return !fh_jcharge(c, v.n / 64) && fh_jbuf_put(c, b, v.s, v.n);
	return v.type == FH_J_UNDEF || fh_jrepr(c, b, v);
}

struct fh_jv fh_jto_str(struct fh_jctx *c, struct fh_jv v)
{
	struct fh_jbuf b = {0};

	if (v.type == FH_J_STR)
		return v;
	fh_jprint(c, &b, v);
	return fh_jbuf_str(&b);
}

/* ---- JSON ---- */

static void json_str(struct fh_jctx *c, struct fh_jbuf *b, struct fh_jv v, bool ascii)
{
	static const char plain[] = "\"\\\n\r\t\b\f", name[] = "\"\\nrtbf";
	const char *p = v.s, *end = p + v.n;
	char esc[16];
	uint32_t cp;

	put_str(c, b, "\"");
	while (p < end && !c->failed) {
		size_t n = fh_jutf8(p, end, &cp);
		const char *q = cp && cp < 0x80 ? strchr(plain, (int)cp) : NULL;

		if (q)
			sprintf(esc, "\\%c", name[q - plain]);
		else if (cp < 0x20 || (ascii && cp > 0x7f && cp < 0x10000))
			sprintf(esc, "\\u%04x", cp);
		else if (ascii && cp >= 0x10000)
			sprintf(esc, "\\u%04x\\u%04x", 0xd7c0 + (cp >> 10), 0xdc00 + (cp & 0x3ff));
		else
			*esc = 0;
		if (*esc)
			put_str(c, b, esc);
		else
			fh_jbuf_put(c, b, p, n);
		p += n;
	}
	put_str(c, b, "\"");
}

static void json_newline(struct fh_jctx *c, struct fh_jbuf *b, const struct fh_jjson *o, uint32_t level)
{
	if (o->indent < 0)
		return;
	put_str(c, b, "\n");
	for (uint32_t i = 0; i < level && !c->failed; i++) {
		if (o->indent_text.n)
			fh_jbuf_put(c, b, o->indent_text.s, o->indent_text.n);
		for (int s = 0; s < o->indent && !c->failed; s++)
			put_str(c, b, " ");
	}
}

static void json_list(struct fh_jctx *c, struct fh_jbuf *b, const struct fh_jlist *l, const struct fh_jjson *o,
		      uint32_t level)
{
	put_str(c, b, "[");
	for (uint32_t i = 0; i < l->n && !fh_jcharge(c, 1); i++) {
		if (i)
			fh_jbuf_put(c, b, o->item_sep.s, o->item_sep.n);
		json_newline(c, b, o, level + 1);
		fh_jprint_json(c, b, l->v[i], o, level + 1);
	}
	if (l->n)
		json_newline(c, b, o, level);
	put_str(c, b, "]");
}

static int by_key(const void *a, const void *b)
{
	const struct fh_jpair *x = a, *y = b;
	uint32_t n = x->key.n < y->key.n ? x->key.n : y->key.n;
	int r = n ? memcmp(x->key.s, y->key.s, n) : 0;

	return r ? r : (x->key.n > y->key.n) - (x->key.n < y->key.n);
}

/* A copy of @d in the order of its keys, which are all strings. */
static const struct fh_jdict *sorted(struct fh_jctx *c, const struct fh_jdict *d)
{
	struct fh_jdict *copy = fh_jarena_alloc(&c->arena, sizeof(*copy) + d->n * sizeof(*d->e));

	for (uint32_t i = 0; i < d->n; i++)
		if (d->e[i].key.type != FH_J_STR)
			copy = NULL;
	if (!copy || fh_jcharge(c, d->n)) {
		fh_jfail(c, "cannot sort the keys of a dict");
		return d;
	}
	*copy = *d;
	copy->e = (struct fh_jpair *)(copy + 1);
	if (d->n)
		memcpy(copy->e, d->e, d->n * sizeof(*d->e));
	qsort(copy->e, copy->n, sizeof(*copy->e), by_key);
	return copy;
}

static void json_dict(struct fh_jctx *c, struct fh_jbuf *b, const struct fh_jdict *d, const struct fh_jjson *o,
		      uint32_t level)
{
	if (o->sort_keys)
		d = sorted(c, d);
	put_str(c, b, "{");
	for (uint32_t i = 0; i < d->n && !fh_jcharge(c, 1); i++) {
		struct fh_jv key = d->e[i].key;

		if (i)
			fh_jbuf_put(c, b, o->item_sep.s, o->item_sep.n);
		json_newline(c, b, o, level + 1);
		if (key.type == FH_J_STR) {
			json_str(c, b, key, o->ascii);
		} else if (key.type == FH_J_LIST) {
			fh_jfail(c, "keys must be str, int, float, bool or None, not %s", fh_jtype_name(key));
		} else {
			put_str(c, b, "\"");
			fh_jprint_json(c, b, key, o, level);
			put_str(c, b, "\"");
		}
		fh_jbuf_put(c, b, o->key_sep.s, o->key_sep.n);
		fh_jprint_json(c, b, d->e[i].val, o, level + 1);
	}
	if (d->n)
		json_newline(c, b, o, level);
	put_str(c, b, "}");
}

bool fh_jprint_json(struct fh_jctx *c, struct fh_jbuf *b, struct fh_jv v, const struct fh_jjson *o, uint32_t level)
{
	char num[64];

	if (!fh_jenter(c))
		return false;
	switch (v.type) {
	case FH_J_NONE: put_str(c, b, "null"); break;
	case FH_J_BOOL: put_str(c, b, v.b ? "true" : "false"); break;
	case FH_J_INT: fh_jbuf_put(c, b, num, (size_t)sprintf(num, "%lld", (long long)v.i)); break;
	case FH_J_FLOAT:
		if (isnan(v.f))
			put_str(c, b, "NaN");
		else if (isinf(v.f))
			put_str(c, b, v.f < 0 ? "-Infinity" : "Infinity");
		else
			fh_jbuf_put(c, b, num, fh_jprint_float(v.f, num));
		break;
	case FH_J_STR: json_str(c, b, v, o->ascii); break;
	case FH_J_LIST: json_list(c, b, v.l, o, level); break;
	case FH_J_DICT: json_dict(c, b, v.d, o, level); break;
	default: fh_jfail(c, "Object of type %s is not JSON serializable", fh_jtype_name(v));
	}
	fh_jleave(c);
	return !c->failed;
}
