// SPDX-License-Identifier: Apache-2.0
/*
 * Chat templates: filters on strings and single values, tojson among them.
 * Those on sequences are in jinja_seq.c.
 */
#include "runtime/model/jinja.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* ---- arguments ---- */

bool fh_jarg(const struct fh_jargs *a, uint32_t i, const char *name, struct fh_jv *out)
{
	if (i < a->nr) {
		*out = a->pos[i];
		return true;
	}
	for (uint32_t k = 0; k < a->nr_kw; k++) {
		if (fh_jstr_is(fh_jstr(a->kw[k].name->s, a->kw[k].name->n), name)) {
			*out = a->kw[k].val;
			return true;
		}
	}
	return false;
}

int64_t fh_jarg_int(struct fh_jctx *c, const struct fh_jargs *a, uint32_t i, const char *name, int64_t dflt)
{
	struct fh_jv v;

	if (!fh_jarg(a, i, name, &v) || v.type == FH_J_NONE)
		return dflt;
	if (!fh_jis_int(v)) {
		fh_jfail(c, "argument '%s' must be an integer, not %s", name, fh_jtype_name(v));
		return dflt;
	}
	return fh_jget_int(v);
}

bool fh_jarg_bool(const struct fh_jargs *a, uint32_t i, const char *name, bool dflt)
{
	struct fh_jv v;

	return fh_jarg(a, i, name, &v) ? fh_jtruth(v) : dflt;
}

struct fh_jv fh_jarg_str(struct fh_jctx *c, const struct fh_jargs *a, uint32_t i, const char *name, const char *dflt)
{
	struct fh_jv v;

	if (!fh_jarg(a, i, name, &v))
		return dflt ? fh_jstr(dflt, strlen(dflt)) : fh_jfail(c, "argument '%s' is missing", name);
	if (v.type != FH_J_STR)
		return fh_jfail(c, "argument '%s' must be a string, not %s", name, fh_jtype_name(v));
	return v;
}

/* ---- strings ---- */

/* Filters take anything and make a string of it first. */
static struct fh_jv f_upper(struct fh_jctx *c, struct fh_jv in, const struct fh_jargs *a)
{
	(void)a;
	return fh_jrecase(c, fh_jto_str(c, in), FH_JCASE_UPPER);
}

static struct fh_jv f_lower(struct fh_jctx *c, struct fh_jv in, const struct fh_jargs *a)
{
	(void)a;
	return fh_jrecase(c, fh_jto_str(c, in), FH_JCASE_LOWER);
}

static struct fh_jv f_capitalize(struct fh_jctx *c, struct fh_jv in, const struct fh_jargs *a)
{
	(void)a;
	return fh_jrecase(c, fh_jto_str(c, in), FH_JCASE_CAPITALIZE);
}

/* The filter breaks words at white space and opening brackets, unlike the method. */
static struct fh_jv f_title(struct fh_jctx *c, struct fh_jv in, const struct fh_jargs *a)
{
	struct fh_jv s = fh_jto_str(c, in);
	const char *p = s.s, *end = p + s.n;
	struct fh_jbuf b = {0};
	bool start = true;
	uint32_t cp;
	char out[4];

	(void)a;
	while (p < end && !fh_jcharge(c, 1)) {
		p += fh_jutf8(p, end, &cp);
		fh_jbuf_put(c, &b, out, fh_jutf8_put(out, start ? fh_jto_upper(cp) : fh_jto_lower(cp)));
		start = fh_jis_space(cp) || (cp < 0x80 && strchr("-({[<", (int)cp));
	}
	return fh_jbuf_str(&b);
}

static struct fh_jv f_trim(struct fh_jctx *c, struct fh_jv in, const struct fh_jargs *a)
{
	struct fh_jv chars = FH_JV_NONE;

	fh_jarg(a, 0, "chars", &chars);
	return fh_jstrip(c, fh_jto_str(c, in), chars, true, true);
}

static struct fh_jv f_string(struct fh_jctx *c, struct fh_jv in, const struct fh_jargs *a)
{
	(void)a;
	return fh_jto_str(c, in);
}

static struct fh_jv f_replace(struct fh_jctx *c, struct fh_jv in, const struct fh_jargs *a)
{
	struct fh_jv old = fh_jarg_str(c, a, 0, "old", NULL), new_s = fh_jarg_str(c, a, 1, "new", NULL);
	int64_t count = fh_jarg_int(c, a, 2, "count", -1);

	return c->failed ? FH_JV_UNDEF : fh_jreplace(c, fh_jto_str(c, in), old, new_s, count);
}

static struct fh_jv f_escape(struct fh_jctx *c, struct fh_jv in, const struct fh_jargs *a)
{
	static const struct {
		char ch;
		const char *text;
	} map[] = {{'&', "&amp;"}, {'<', "&lt;"}, {'>', "&gt;"}, {'\'', "&#39;"}, {'"', "&#34;"}};
	struct fh_jv s = fh_jto_str(c, in);
	struct fh_jbuf b = {0};

	(void)a;
	for (uint32_t i = 0; i < s.n && !c->failed; i++) {
		const char *text = NULL;

		for (size_t k = 0; k < sizeof(map) / sizeof(map[0]); k++)
			if (s.s[i] == map[k].ch)
				text = map[k].text;
		fh_jbuf_put(c, &b, text ? text : s.s + i, text ? strlen(text) : 1);
	}
	return fh_jbuf_str(&b);
}

/* Every line but the first (unless `first`) begins with the indentation; blank ones only with `blank`. */
static struct fh_jv f_indent(struct fh_jctx *c, struct fh_jv in, const struct fh_jargs *a)
{
	struct fh_jv s = fh_jto_str(c, in), width = fh_jint(4), pad;
	bool first = fh_jarg_bool(a, 1, "first", false), blank = fh_jarg_bool(a, 2, "blank", false);
	const char *p = s.s, *end = p + s.n;
	struct fh_jbuf b = {0};

	fh_jarg(a, 0, "width", &width);
	if (width.type == FH_J_STR)
		pad = width;
	else if (fh_jis_int(width))
		pad = fh_jbinary(c, FH_JT_MUL, fh_jstr(" ", 1), width);
	else
		return fh_jfail(c, "indent needs a width or a string");
	for (bool line1 = true; !fh_jcharge(c, 1); line1 = false) {
		const char *nl = memchr(p, '\n', (size_t)(end - p)), *e = nl ? nl : end;

		if (line1 ? first : (blank || e > p))
			fh_jbuf_put(c, &b, pad.s, pad.n);
		fh_jbuf_put(c, &b, p, (size_t)(e - p));
		if (!nl)
			break;
		fh_jbuf_put(c, &b, "\n", 1);
		p = nl + 1;
	}
	return fh_jbuf_str(&b);
}

static struct fh_jv f_format(struct fh_jctx *c, struct fh_jv in, const struct fh_jargs *a)
{
	if (a->nr_kw)
		return fh_jfail(c, "format with arguments by name is not supported");
	return fh_jpercent(c, fh_jto_str(c, in), a);
}

static struct fh_jv f_wordcount(struct fh_jctx *c, struct fh_jv in, const struct fh_jargs *a)
{
	struct fh_jv s = fh_jto_str(c, in);
	const char *p = s.s, *end = p + s.n;
	bool in_word = false;
	int64_t n = 0;
	uint32_t cp;

	(void)a;
	while (p < end && !fh_jcharge(c, 1)) {
		p += fh_jutf8(p, end, &cp);
		n += !fh_jis_space(cp) && !in_word;
		in_word = !fh_jis_space(cp);
	}
	return fh_jint(n);
}

/* ---- numbers ---- */

/* A whole string as a number; false when it is none. */
static bool parse_number(struct fh_jctx *c, struct fh_jv s, bool whole, int base, struct fh_jv *out)
{
	struct fh_jv t = fh_jstrip(c, s, FH_JV_NONE, true, true);
	char buf[512], *end;
	size_t n = 0;

	if (!t.n || t.n >= sizeof(buf))
		return false;
	for (uint32_t i = 0; i < t.n; i++) {
		char ch = t.s[i];

		if (ch == '_' && i && i + 1 < t.n && t.s[i - 1] != '_' && t.s[i + 1] != '_')
			continue;
		if ((ch | 32) == 'x' && base != 16)
			return false; /* hexadecimal floats are C's, not Python's */
		buf[n++] = ch;
	}
	buf[n] = 0;
	if (strlen(buf) != n || fh_jis_space((uint8_t)buf[0]))
		return false;
	errno = 0;
	*out = whole ? fh_jint(strtoll(buf, &end, base)) : fh_jfloat(strtod(buf, &end));
	return end == buf + n && end > buf && (!whole || errno != ERANGE);
}

static struct fh_jv f_int(struct fh_jctx *c, struct fh_jv in, const struct fh_jargs *a)
{
	struct fh_jv dflt = fh_jint(0), v;
	int64_t base = fh_jarg_int(c, a, 1, "base", 10);

	fh_jarg(a, 0, "default", &dflt);
	if (fh_jis_int(in))
		return fh_jint(fh_jget_int(in));
	if (in.type == FH_J_STR && base >= 2 && base <= 36) {
		if (parse_number(c, in, true, (int)base, &v))
			return v;
		if (!parse_number(c, in, false, 10, &v))
			return dflt;
		in = v;
	}
	if (in.type == FH_J_FLOAT)
		return fabs(in.f) < 9.2e18 ? fh_jint((int64_t)in.f) : dflt;
	if (in.type == FH_J_UNDEF)
		return fh_jfail(c, "'%.*s' is undefined", in.s ? (int)in.n : 5, in.s ? in.s : "value");
	return dflt;
}

static struct fh_jv f_float(struct fh_jctx *c, struct fh_jv in, const struct fh_jargs *a)
{
	struct fh_jv dflt = fh_jfloat(0), v;

	fh_jarg(a, 0, "default", &dflt);
	if (fh_jis_num(in))
		return fh_jfloat(fh_jget_num(in));
	if (in.type == FH_J_STR && parse_number(c, in, false, 10, &v))
		return v;
	if (in.type == FH_J_UNDEF)
		return fh_jfail(c, "'%.*s' is undefined", in.s ? (int)in.n : 5, in.s ? in.s : "value");
	return dflt;
}

static struct fh_jv f_abs(struct fh_jctx *c, struct fh_jv in, const struct fh_jargs *a)
{
	(void)a;
	if (in.type == FH_J_FLOAT)
		return fh_jfloat(fabs(in.f));
	if (!fh_jis_int(in))
		return fh_jfail(c, "bad operand type for abs(): '%s'", fh_jtype_name(in));
	if (fh_jget_int(in) == INT64_MIN)
		return fh_jfail(c, "an integer does not fit in 64 bits");
	return fh_jint(llabs(fh_jget_int(in)));
}

static struct fh_jv f_round(struct fh_jctx *c, struct fh_jv in, const struct fh_jargs *a)
{
	int64_t prec = fh_jarg_int(c, a, 0, "precision", 0);
	struct fh_jv method = fh_jarg_str(c, a, 1, "method", "common");
	double scale, v;
	char buf[400];

	if (c->failed)
		return FH_JV_UNDEF;
	if (!fh_jis_num(in))
		return fh_jfail(c, "round needs a number, not %s", fh_jtype_name(in));
	if (prec < -20 || prec > 20)
		return fh_jfail(c, "round: a precision outside -20..20");
	v = fh_jget_num(in);
	if (fh_jis_int(in) && (prec >= 0 || !fh_jstr_is(method, "common")))
		return fh_jstr_is(method, "common") ? fh_jint(fh_jget_int(in)) : fh_jfloat(v);
	if (!isfinite(v))
		return in;
	scale = pow(10, (double)prec);
	if (fh_jstr_is(method, "ceil"))
		return fh_jfloat(ceil(v * scale) / scale);
	if (fh_jstr_is(method, "floor"))
		return fh_jfloat(floor(v * scale) / scale);
	if (!fh_jstr_is(method, "common"))
		return fh_jfail(c, "method must be common, ceil or floor");
	if (prec >= 0) { /* to the even neighbour of the exact value, as printf does */
		snprintf(buf, sizeof(buf), "%.*f", (int)prec, v);
		return fh_jfloat(strtod(buf, NULL));
	}
	v = nearbyint(v * scale) / scale;
	return fh_jis_int(in) ? fh_jint((int64_t)v) : fh_jfloat(v);
}

/* ---- any value ---- */

static struct fh_jv f_length(struct fh_jctx *c, struct fh_jv in, const struct fh_jargs *a)
{
	(void)a;
	switch (in.type) {
	case FH_J_UNDEF: return fh_jint(0);
	case FH_J_STR: return fh_jcharge(c, in.n / 32) ? FH_JV_UNDEF : fh_jint((int64_t)fh_jutf8_len(in));
	case FH_J_LIST: return fh_jint(in.l->n);
	case FH_J_DICT: return fh_jint(in.d->n);
	default: return fh_jfail(c, "object of type '%s' has no length", fh_jtype_name(in));
	}
}

static struct fh_jv f_default(struct fh_jctx *c, struct fh_jv in, const struct fh_jargs *a)
{
	struct fh_jv dflt = fh_jstr("", 0);
	bool also_false = fh_jarg_bool(a, 1, "boolean", false);

	(void)c;
	fh_jarg(a, 0, "default_value", &dflt);
	return in.type == FH_J_UNDEF || (also_false && !fh_jtruth(in)) ? dflt : in;
}

static struct fh_jv f_attr(struct fh_jctx *c, struct fh_jv in, const struct fh_jargs *a)
{
	struct fh_jv name = fh_jarg_str(c, a, 0, "name", NULL);

	if (c->failed || in.type == FH_J_DICT) /* attributes only, and a dict has none */
		return FH_JV_UNDEF;
	return fh_jattr(c, in, name.s, name.n);
}

/* json.dumps: with an indentation the separator of elements loses its space. */
static struct fh_jv f_tojson(struct fh_jctx *c, struct fh_jv in, const struct fh_jargs *a)
{
	struct fh_jjson o = {.indent = -1, .item_sep = fh_jstr(", ", 2), .key_sep = fh_jstr(": ", 2)};
	struct fh_jbuf b = {0};
	struct fh_jv v;

	if (fh_jarg(a, a->nr, "indent", &v) || fh_jarg(a, 0, "indent", &v)) {
		if (v.type == FH_J_STR) {
			o.indent = 0;
			o.indent_text = v;
		} else if (fh_jis_int(v)) {
			o.indent = fh_jget_int(v) < 0 ? 0 : fh_jget_int(v) > 64 ? 64 : (int)fh_jget_int(v);
		} else if (v.type != FH_J_NONE) {
			return fh_jfail(c, "tojson: indent must be an integer or a string");
		}
		if (o.indent >= 0)
			o.item_sep.n = 1;
	}
	if (fh_jarg(a, a->nr, "separators", &v) && v.type != FH_J_NONE) {
		if (v.type != FH_J_LIST || v.l->n != 2 || v.l->v[0].type != FH_J_STR || v.l->v[1].type != FH_J_STR)
			return fh_jfail(c, "tojson: separators must be two strings");
		o.item_sep = v.l->v[0];
		o.key_sep = v.l->v[1];
	}
	o.sort_keys = fh_jarg_bool(a, a->nr, "sort_keys", false);
	o.ascii = fh_jarg_bool(a, a->nr, "ensure_ascii", false);
	fh_jprint_json(c, &b, in, &o, 0);
	c->out_left += b.n;
	return fh_jbuf_str(&b);
}

static const struct fh_jfilter filters[] = {
	{"upper", f_upper},	    {"lower", f_lower},	  {"capitalize", f_capitalize}, {"title", f_title},
	{"trim", f_trim},	    {"string", f_string}, {"safe", f_string},		{"replace", f_replace},
	{"escape", f_escape},	    {"e", f_escape},	  {"indent", f_indent},		{"format", f_format},
	{"wordcount", f_wordcount}, {"int", f_int},	  {"float", f_float},		{"abs", f_abs},
	{"round", f_round},	    {"length", f_length}, {"count", f_length},		{"default", f_default},
	{"d", f_default},	    {"attr", f_attr},	  {"tojson", f_tojson},
};

const struct fh_jfilter *fh_jfilter_find(const char *name, size_t n)
{
	for (size_t i = 0; i < sizeof(filters) / sizeof(filters[0]); i++)
		if (strlen(filters[i].name) == n && !memcmp(filters[i].name, name, n))
			return &filters[i];
	return fh_jfilter_seq_find(name, n);
}
