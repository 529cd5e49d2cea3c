// SPDX-License-Identifier: Apache-2.0
/*
 * Chat templates: filters on sequences.  Where Jinja returns a generator, these
 * return a list.
 */
#include "runtime/model/jinja.h"

#include <string.h>

static struct fh_jv list_of(struct fh_jctx *c, struct fh_jlist *l)
{
	return l && !c->failed ? (struct fh_jv){.type = FH_J_LIST, .l = l} : FH_JV_UNDEF;
}

/* The elements of @in in a new list. */
static struct fh_jv copy_list(struct fh_jctx *c, struct fh_jv in)
{
	struct fh_jlist *src = fh_jiter(c, in);
	struct fh_jv out = fh_jlist_new(c, false);

	for (uint32_t i = 0; src && i < src->n && !fh_jcharge(c, 1); i++)
		fh_jlist_push(c, out.l, src->v[i]);
	return c->failed ? FH_JV_UNDEF : out;
}

static struct fh_jv f_list(struct fh_jctx *c, struct fh_jv in, const struct fh_jargs *a)
{
	(void)a;
	return copy_list(c, in);
}

static struct fh_jv f_first(struct fh_jctx *c, struct fh_jv in, const struct fh_jargs *a)
{
	struct fh_jlist *l = fh_jiter(c, in);

	(void)a;
	return l && l->n ? l->v[0] : fh_jundef("the first item of an empty sequence", 35);
}

static struct fh_jv f_last(struct fh_jctx *c, struct fh_jv in, const struct fh_jargs *a)
{
	struct fh_jlist *l = fh_jiter(c, in);

	(void)a;
	return l && l->n ? l->v[l->n - 1] : fh_jundef("the last item of an empty sequence", 34);
}

/* "a.b.0" of @v, or an index. */
static struct fh_jv path_get(struct fh_jctx *c, struct fh_jv v, struct fh_jv path)
{
	const char *p, *end;

	if (path.type != FH_J_STR)
		return fh_jitem(c, v, path);
	for (p = path.s, end = p + path.n; !c->failed; p++) {
		const char *dot = memchr(p, '.', (size_t)(end - p)), *e = dot ? dot : end;
		struct fh_jv key = fh_jstr(p, (size_t)(e - p));
		bool number = e > p && e - p < 10;
		int64_t i = 0;

		for (const char *q = p; q < e && number; q++) {
			number = *q >= '0' && *q <= '9';
			i = i * 10 + (*q - '0');
		}
		v = fh_jitem(c, v, number ? fh_jint(i) : key);
		if (!dot)
			break;
		p = dot;
	}
	return v;
}

/* What a filter with an `attribute` argument looks at. */
static struct fh_jv key_of(struct fh_jctx *c, struct fh_jv v, struct fh_jv attribute, bool fold)
{
	if (attribute.type != FH_J_NONE)
		v = path_get(c, v, attribute);
	return fold && v.type == FH_J_STR ? fh_jrecase(c, v, FH_JCASE_LOWER) : v;
}

static struct fh_jv f_join(struct fh_jctx *c, struct fh_jv in, const struct fh_jargs *a)
{
	struct fh_jv sep = fh_jstr("", 0), attribute = FH_JV_NONE;
	struct fh_jlist *l = fh_jiter(c, in);
	struct fh_jbuf b = {0};

	fh_jarg(a, 0, "d", &sep);
	fh_jarg(a, 1, "attribute", &attribute);
	sep = fh_jto_str(c, sep);
	for (uint32_t i = 0; l && i < l->n && !fh_jcharge(c, 1); i++) {
		if (i)
			fh_jbuf_put(c, &b, sep.s, sep.n);
		fh_jprint(c, &b, key_of(c, l->v[i], attribute, false));
	}
	c->out_left += b.n;
	return fh_jbuf_str(&b);
}

static struct fh_jv f_reverse(struct fh_jctx *c, struct fh_jv in, const struct fh_jargs *a)
{
	struct fh_jlist *src = fh_jiter(c, in);
	struct fh_jv out = fh_jlist_new(c, false);
	const struct fh_jargs none = {0};

	(void)a;
	for (uint32_t i = src ? src->n : 0; i-- && !fh_jcharge(c, 1);)
		fh_jlist_push(c, out.l, src->v[i]);
	if (c->failed)
		return FH_JV_UNDEF;
	return in.type == FH_J_STR ? f_join(c, out, &none) : out;
}

/* ---- order ---- */

struct keyed {
	struct fh_jv key, val;
};

/* Stable merge sort; @tmp: [n]. */
static void merge_sort(struct fh_jctx *c, struct keyed *v, struct keyed *tmp, uint32_t n, bool down)
{
	uint32_t half = n / 2, i = 0, j = half, k = 0;

	if (n < 2 || fh_jcharge(c, n))
		return;
	merge_sort(c, v, tmp, half, down);
	merge_sort(c, v + half, tmp, n - half, down);
	while (i < half && j < n && !c->failed) {
		int order = fh_jorder(c, v[j].key, v[i].key);
		bool right = order != 2 && (down ? order > 0 : order < 0);

		tmp[k++] = right ? v[j++] : v[i++];
	}
	if (c->failed)
		return;
	while (i < half)
		tmp[k++] = v[i++];
	memcpy(v, tmp, k * sizeof(*v)); /* the rest is in its place */
}

/* The elements of @l in the order of their keys (@which: of a pair, else of key_of()). */
static struct fh_jv sort_list(struct fh_jctx *c, struct fh_jlist *l, int which, struct fh_jv attribute, bool fold,
			      bool down)
{
	struct keyed *v = l ? fh_jarena_alloc(&c->arena, ((size_t)l->n * 2 + 1) * sizeof(*v)) : NULL;
	struct fh_jv out = fh_jlist_new(c, false);
	uint32_t n = l ? l->n : 0;

	if (!v || c->failed)
		return fh_jfail(c, "out of memory");
	for (uint32_t i = 0; i < n; i++) {
		struct fh_jv item = l->v[i], from = which >= 0 ? item.l->v[which] : item;

		v[i] = (struct keyed){.key = key_of(c, from, attribute, fold), .val = item};
		if (fh_jcharge(c, 1))
			return FH_JV_UNDEF;
	}
	merge_sort(c, v, v + n, n, down);
	for (uint32_t i = 0; i < n && !c->failed; i++)
		fh_jlist_push(c, out.l, v[i].val);
	return c->failed ? FH_JV_UNDEF : out;
}

static struct fh_jv f_sort(struct fh_jctx *c, struct fh_jv in, const struct fh_jargs *a)
{
	struct fh_jv attribute = FH_JV_NONE;
	bool down = fh_jarg_bool(a, 0, "reverse", false), exact = fh_jarg_bool(a, 1, "case_sensitive", false);

	fh_jarg(a, 2, "attribute", &attribute);
	return sort_list(c, fh_jiter(c, in), -1, attribute, !exact, down);
}

/* The (key, value) pairs of a dict. */
static struct fh_jv f_items(struct fh_jctx *c, struct fh_jv in, const struct fh_jargs *a)
{
	struct fh_jv out = fh_jlist_new(c, false);

	(void)a;
	if (in.type == FH_J_UNDEF)
		return out;
	if (in.type != FH_J_DICT)
		return fh_jfail(c, "can only get item pairs from a mapping, not %s", fh_jtype_name(in));
	for (uint32_t i = 0; i < in.d->n && !fh_jcharge(c, 1); i++)
		fh_jlist_push(c, out.l, fh_jpair(c, in.d->e[i].key, in.d->e[i].val));
	return c->failed ? FH_JV_UNDEF : out;
}

static struct fh_jv f_dictsort(struct fh_jctx *c, struct fh_jv in, const struct fh_jargs *a)
{
	bool exact = fh_jarg_bool(a, 0, "case_sensitive", false), down = fh_jarg_bool(a, 2, "reverse", false);
	struct fh_jv by = fh_jarg_str(c, a, 1, "by", "key"), items = f_items(c, in, a);

	if (c->failed)
		return FH_JV_UNDEF;
	if (!fh_jstr_is(by, "key") && !fh_jstr_is(by, "value"))
		return fh_jfail(c, "dictsort: by must be \"key\" or \"value\"");
	return sort_list(c, items.l, fh_jstr_is(by, "value"), FH_JV_NONE, !exact, down);
}

static struct fh_jv extreme(struct fh_jctx *c, struct fh_jv in, const struct fh_jargs *a, bool max)
{
	struct fh_jlist *l = fh_jiter(c, in);
	struct fh_jv attribute = FH_JV_NONE, best = FH_JV_UNDEF, best_key = FH_JV_UNDEF;
	bool exact = fh_jarg_bool(a, 0, "case_sensitive", false);

	fh_jarg(a, 1, "attribute", &attribute);
	if (!l || !l->n)
		return fh_jundef("an item of an empty sequence", 28);
	for (uint32_t i = 0; i < l->n && !fh_jcharge(c, 1); i++) {
		struct fh_jv key = key_of(c, l->v[i], attribute, !exact);
		int order = i ? fh_jorder(c, key, best_key) : 0;

		if (!i || (order != 2 && (max ? order > 0 : order < 0))) {
			best = l->v[i];
			best_key = key;
		}
	}
	return best;
}

static struct fh_jv f_min(struct fh_jctx *c, struct fh_jv in, const struct fh_jargs *a)
{
	return extreme(c, in, a, false);
}

static struct fh_jv f_max(struct fh_jctx *c, struct fh_jv in, const struct fh_jargs *a)
{
	return extreme(c, in, a, true);
}

static struct fh_jv f_sum(struct fh_jctx *c, struct fh_jv in, const struct fh_jargs *a)
{
	struct fh_jlist *l = fh_jiter(c, in);
	struct fh_jv attribute = FH_JV_NONE, sum = fh_jint(0);

	fh_jarg(a, 0, "attribute", &attribute);
	fh_jarg(a, 1, "start", &sum);
	for (uint32_t i = 0; l && i < l->n && !fh_jcharge(c, 1); i++)
		sum = fh_jbinary(c, FH_JT_ADD, sum, key_of(c, l->v[i], attribute, false));
	return sum;
}

static struct fh_jv f_unique(struct fh_jctx *c, struct fh_jv in, const struct fh_jargs *a)
{
	struct fh_jlist *l = fh_jiter(c, in);
	struct fh_jv attribute = FH_JV_NONE, out = fh_jlist_new(c, false), seen = fh_jdict_new(c, FH_J_DICT);
	bool exact = fh_jarg_bool(a, 0, "case_sensitive", false);

	fh_jarg(a, 1, "attribute", &attribute);
	for (uint32_t i = 0; l && i < l->n && !fh_jcharge(c, 1); i++) {
		struct fh_jv key = key_of(c, l->v[i], attribute, !exact);
		uint32_t nr = seen.d->n;

		if (fh_jdict_set(c, seen.d, key, FH_JV_NONE) && seen.d->n > nr)
			fh_jlist_push(c, out.l, l->v[i]);
	}
	return list_of(c, c->failed ? NULL : out.l);
}

/* Lists of `linecount` elements each, the last filled up with `fill_with`. */
static struct fh_jv f_batch(struct fh_jctx *c, struct fh_jv in, const struct fh_jargs *a)
{
	struct fh_jlist *l = fh_jiter(c, in);
	int64_t size = fh_jarg_int(c, a, 0, "linecount", 0);
	struct fh_jv out = fh_jlist_new(c, false), row = FH_JV_UNDEF, fill;

	if (size < 1)
		return fh_jfail(c, "batch: the number of items must be positive");
	for (uint32_t i = 0; l && i < l->n && !fh_jcharge(c, 1); i++) {
		if (i % size == 0) {
			row = fh_jlist_new(c, false);
			if (!c->failed)
				fh_jlist_push(c, out.l, row);
		}
		if (!c->failed)
			fh_jlist_push(c, row.l, l->v[i]);
	}
	if (!c->failed && row.type == FH_J_LIST && fh_jarg(a, 1, "fill_with", &fill) && fill.type != FH_J_NONE)
		while (row.l->n < size && !fh_jcharge(c, 1))
			fh_jlist_push(c, row.l, fill);
	return list_of(c, c->failed ? NULL : out.l);
}

/* ---- map, select, reject ---- */

/* The arguments behind the first @n. */
static struct fh_jargs rest(const struct fh_jargs *a, uint32_t n)
{
	struct fh_jargs r = *a;

	r.pos = a->nr > n ? a->pos + n : NULL;
	r.nr = a->nr > n ? a->nr - n : 0;
	return r;
}

static struct fh_jv f_map(struct fh_jctx *c, struct fh_jv in, const struct fh_jargs *a)
{
	struct fh_jlist *l = fh_jiter(c, in);
	struct fh_jv out = fh_jlist_new(c, false), attribute, dflt, name;
	struct fh_jargs args = rest(a, 1);
	const struct fh_jfilter *f = NULL;
	bool by_attr = !a->nr && fh_jarg(a, 0, "attribute", &attribute), has_dflt = fh_jarg(a, a->nr, "default", &dflt);

	if (!by_attr) {
		name = fh_jarg_str(c, a, 0, "filter", NULL);
		f = c->failed ? NULL : fh_jfilter_find(name.s, name.n);
		if (!f)
			return fh_jfail(c, "map: no filter named '%.*s'", (int)(name.n < 64 ? name.n : 64), name.s);
	}
	for (uint32_t i = 0, n = l ? l->n : 0; i < n && !fh_jcharge(c, 1); i++) {
		struct fh_jv v;

		if (!fh_jenter(c))
			break;
		v = by_attr ? path_get(c, l->v[i], attribute) : f->fn(c, l->v[i], &args);
		fh_jleave(c);
		if (by_attr && has_dflt && v.type == FH_J_UNDEF)
			v = dflt;
		if (!c->failed)
			fh_jlist_push(c, out.l, v);
	}
	return list_of(c, c->failed ? NULL : out.l);
}

/* Keep the elements (or those whose attribute) for which a test, by default truth, gives @keep. */
static struct fh_jv select_items(struct fh_jctx *c, struct fh_jv in, const struct fh_jargs *a, bool by_attr, bool keep)
{
	struct fh_jlist *l = fh_jiter(c, in);
	struct fh_jv out = fh_jlist_new(c, false), attribute = FH_JV_NONE, name;
	const struct fh_jtest *t = NULL;
	struct fh_jargs args = rest(a, by_attr ? 2 : 1);

	if (by_attr && !fh_jarg(a, 0, "attribute", &attribute))
		return fh_jfail(c, "an attribute's name is missing");
	if (a->nr > (by_attr ? 1u : 0u)) {
		name = fh_jarg_str(c, a, by_attr ? 1 : 0, "test", NULL);
		t = c->failed ? NULL : fh_jtest_find(name.s, name.n);
		if (!t)
			return fh_jfail(c, "no test named '%.*s'", (int)(name.n < 64 ? name.n : 64), name.s);
	}
	for (uint32_t i = 0, n = l ? l->n : 0; i < n && !fh_jcharge(c, 1); i++) {
		struct fh_jv v = key_of(c, l->v[i], attribute, false);
		bool yes = !c->failed && (t ? t->fn(c, v, &args) : fh_jtruth(v));

		if (yes == keep && !c->failed)
			fh_jlist_push(c, out.l, l->v[i]);
	}
	return list_of(c, c->failed ? NULL : out.l);
}

static struct fh_jv f_select(struct fh_jctx *c, struct fh_jv in, const struct fh_jargs *a)
{
	return select_items(c, in, a, false, true);
}

static struct fh_jv f_reject(struct fh_jctx *c, struct fh_jv in, const struct fh_jargs *a)
{
	return select_items(c, in, a, false, false);
}

static struct fh_jv f_selectattr(struct fh_jctx *c, struct fh_jv in, const struct fh_jargs *a)
{
	return select_items(c, in, a, true, true);
}

static struct fh_jv f_rejectattr(struct fh_jctx *c, struct fh_jv in, const struct fh_jargs *a)
{
	return select_items(c, in, a, true, false);
}

static const struct fh_jfilter filters[] = {
	{"list", f_list},
	{"first", f_first},
	{"last", f_last},
	{"join", f_join},
	{"reverse", f_reverse},
	{"sort", f_sort},
	{"items", f_items},
	{"dictsort", f_dictsort},
	{"min", f_min},
	{"max", f_max},
	{"sum", f_sum},
	{"unique", f_unique},
	{"batch", f_batch},
	{"map", f_map},
	{"select", f_select},
	{"reject", f_reject},
	{"selectattr", f_selectattr},
	{"rejectattr", f_rejectattr},
};

const struct fh_jfilter *fh_jfilter_seq_find(const char *name, size_t n)
{
	for (size_t i = 0; i < sizeof(filters) / sizeof(filters[0]); i++)
		if (strlen(filters[i].name) == n && !memcmp(filters[i].name, name, n))
			return &filters[i];
	return NULL;
}
