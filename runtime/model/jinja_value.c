// SPDX-License-Identifier: Apache-2.0
/*
 * Chat templates: values as Python has them (the part that templates use):
 * lists and dicts that grow in the rendering's arena, truth, equality, order.
 *
 * Lists and dicts are shared by reference, as in Python, so a template can
 * make one contain itself; everything that walks them charges steps and counts
 * its depth.
 */
#include "runtime/model/jinja.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* ---- memory ---- */

#define CHUNK_BYTES (32u << 10)

struct fh_jchunk {
	struct fh_jchunk *next;
	char *free;
};

void *fh_jarena_alloc(struct fh_jarena *a, size_t n)
{
	const size_t head = (sizeof(struct fh_jchunk) + 15) & ~(size_t)15;
	struct fh_jchunk *chunk = a->head;
	void *p;

	n = (n + 15) & ~(size_t)15;
	if (!chunk || n > a->left) {
		size_t bytes = head + n > CHUNK_BYTES ? head + n : CHUNK_BYTES;

		if (n > a->max || bytes > a->max - a->total)
			return NULL;
		chunk = malloc(bytes);
		if (!chunk)
			return NULL;
		chunk->next = a->head;
		chunk->free = (char *)chunk + head;
		a->head = chunk;
		a->left = bytes - head;
		a->total += bytes;
	}
	p = chunk->free;
	chunk->free += n;
	a->left -= n;
	return p;
}

void *fh_jarena_zalloc(struct fh_jarena *a, size_t n)
{
	void *p = fh_jarena_alloc(a, n);

	return p ? memset(p, 0, n) : NULL;
}

void fh_jarena_free(struct fh_jarena *a)
{
	while (a->head) {
		struct fh_jchunk *next = a->head->next;

		free(a->head);
		a->head = next;
	}
}

static void *ctx_alloc(struct fh_jctx *c, size_t n)
{
	void *p = fh_jarena_alloc(&c->arena, n);

	if (!p)
		fh_jfail(c, "the template needs more than %zu MiB of memory", c->lim->mem_bytes >> 20);
	return p;
}

/* ---- making values ---- */

uint32_t fh_jhash(const char *s, size_t n)
{
	uint32_t h = 2166136261u; /* FNV-1a */

	for (size_t i = 0; i < n; i++)
		h = (h ^ (uint8_t)s[i]) * 16777619u;
	return h;
}

struct fh_jv fh_jundef(const char *name, size_t n)
{
	return (struct fh_jv){.type = FH_J_UNDEF, .s = name, .n = (uint32_t)n};
}

bool fh_jstr_is(struct fh_jv v, const char *s)
{
	return v.type == FH_J_STR && v.n == strlen(s) && !memcmp(v.s, s, v.n);
}

struct fh_jv fh_jlist_new(struct fh_jctx *c, bool tuple)
{
	struct fh_jlist *l = ctx_alloc(c, sizeof(*l));

	if (!l)
		return FH_JV_UNDEF;
	*l = (struct fh_jlist){.tuple = tuple};
	return (struct fh_jv){.type = FH_J_LIST, .l = l};
}

bool fh_jlist_push(struct fh_jctx *c, struct fh_jlist *l, struct fh_jv v)
{
	if (l->n == l->cap) {
		uint32_t cap = l->cap ? l->cap * 2 : 4;
		struct fh_jv *p = ctx_alloc(c, cap * sizeof(*p));

		if (!p)
			return false;
		if (l->n)
			memcpy(p, l->v, l->n * sizeof(*p));
		l->v = p;
		l->cap = cap;
	}
	l->v[l->n++] = v;
	return true;
}

struct fh_jv fh_jpair(struct fh_jctx *c, struct fh_jv a, struct fh_jv b)
{
	struct fh_jv t = fh_jlist_new(c, true);

	if (t.type == FH_J_LIST && fh_jlist_push(c, t.l, a) && fh_jlist_push(c, t.l, b))
		return t;
	return FH_JV_UNDEF;
}

struct fh_jv fh_jdict_new(struct fh_jctx *c, enum fh_jtype type)
{
	struct fh_jdict *d = ctx_alloc(c, sizeof(*d));

	if (!d)
		return FH_JV_UNDEF;
	*d = (struct fh_jdict){0};
	return (struct fh_jv){.type = (uint8_t)type, .d = d};
}

static struct fh_jpair *dict_find(struct fh_jctx *c, const struct fh_jdict *d, struct fh_jv key, uint32_t hash)
{
	if (fh_jcharge(c, d->n / 16))
		return NULL;
	for (uint32_t i = 0; i < d->n; i++) {
		struct fh_jpair *e = &d->e[i];

		if (key.type == FH_J_STR) {
			if (e->hash == hash && e->key.type == FH_J_STR && e->key.n == key.n &&
			    !memcmp(e->key.s, key.s, key.n))
				return e;
		} else if (e->key.type != FH_J_STR && fh_jequal(c, e->key, key)) {
			return e;
		}
	}
	return NULL;
}

static uint32_t key_hash(struct fh_jv key)
{
	return key.type == FH_J_STR ? fh_jhash(key.s, key.n) : 0;
}

const struct fh_jv *fh_jdict_get(struct fh_jctx *c, const struct fh_jdict *d, struct fh_jv key)
{
	struct fh_jpair *e = dict_find(c, d, key, key_hash(key));

	return e ? &e->val : NULL;
}

static bool hashable(struct fh_jctx *c, struct fh_jv v)
{
	if (v.type == FH_J_DICT || v.type == FH_J_NS || (v.type == FH_J_LIST && !v.l->tuple)) {
		fh_jfail(c, "unhashable type: '%s'", fh_jtype_name(v));
		return false;
	}
	return true;
}

bool fh_jdict_set(struct fh_jctx *c, struct fh_jdict *d, struct fh_jv key, struct fh_jv val)
{
	uint32_t hash = key_hash(key);
	struct fh_jpair *e;

	if (!hashable(c, key))
		return false;
	e = dict_find(c, d, key, hash);
	if (e) {
		e->val = val;
		return true;
	}
	if (c->failed)
		return false;
	if (d->n == d->cap) {
		uint32_t cap = d->cap ? d->cap * 2 : 4;
		struct fh_jpair *p = ctx_alloc(c, cap * sizeof(*p));

		if (!p)
			return false;
		if (d->n)
			memcpy(p, d->e, d->n * sizeof(*p));
		d->e = p;
		d->cap = cap;
	}
	d->e[d->n++] = (struct fh_jpair){.key = key, .val = val, .hash = hash};
	return true;
}

bool fh_jbuf_put(struct fh_jctx *c, struct fh_jbuf *b, const char *s, size_t n)
{
	if (!n)
		return true;
	if (c->failed)
		return false;
	if (n > c->out_left) {
		fh_jfail(c, "the template prints more than %zu MiB", c->lim->out_bytes >> 20);
		return false;
	}
	c->out_left -= n;
	if (n > b->cap - b->n) {
		size_t cap = b->cap * 2 > b->n + n ? b->cap * 2 : b->n + n + 64;
		char *p = ctx_alloc(c, cap);

		if (!p)
			return false;
		if (b->n)
			memcpy(p, b->p, b->n);
		b->p = p;
		b->cap = cap;
	}
	memcpy(b->p + b->n, s, n);
	b->n += n;
	return true;
}

/* @j borrowed: its strings are not copied. */
struct fh_jv fh_jfrom_json(struct fh_jctx *c, json_t *j)
{
	struct fh_jv v = FH_JV_NONE;
	const char *key;
	json_t *item;
	size_t i;

	if (fh_jcharge(c, 1) || !fh_jenter(c))
		return FH_JV_UNDEF;
	switch (json_typeof(j)) {
	case JSON_OBJECT:
		v = fh_jdict_new(c, FH_J_DICT);
		json_object_foreach (j, key, item)
			if (v.type == FH_J_DICT && !c->failed)
				fh_jdict_set(c, v.d, fh_jstr(key, strlen(key)), fh_jfrom_json(c, item));
		break;
	case JSON_ARRAY:
		v = fh_jlist_new(c, false);
		json_array_foreach (j, i, item)
			if (v.type == FH_J_LIST && !c->failed)
				fh_jlist_push(c, v.l, fh_jfrom_json(c, item));
		break;
	case JSON_STRING:
		if (json_string_length(j) > UINT32_MAX)
			v = fh_jfail(c, "a string of more than 4 GiB");
		else
			v = fh_jstr(json_string_value(j), json_string_length(j));
		break;
	case JSON_INTEGER: v = fh_jint(json_integer_value(j)); break;
	case JSON_REAL: v = fh_jfloat(json_real_value(j)); break;
	case JSON_TRUE:
	case JSON_FALSE: v = fh_jbool(json_is_true(j)); break;
	case JSON_NULL: break;
	}
	fh_jleave(c);
	return v;
}

/* ---- looking at values ---- */

const char *fh_jtype_name(struct fh_jv v)
{
	static const char *const names[] = {
		[FH_J_UNDEF] = "Undefined",
		[FH_J_NONE] = "NoneType",
		[FH_J_BOOL] = "bool",
		[FH_J_INT] = "int",
		[FH_J_FLOAT] = "float",
		[FH_J_STR] = "str",
		[FH_J_LIST] = "list",
		[FH_J_DICT] = "dict",
		[FH_J_NS] = "Namespace",
		[FH_J_LOOP] = "LoopContext",
		[FH_J_MACRO] = "Macro",
		[FH_J_FUNC] = "function",
		[FH_J_METHOD] = "builtin_function_or_method",
	};

	return v.type == FH_J_LIST && v.l->tuple ? "tuple" : names[v.type];
}

bool fh_jtruth(struct fh_jv v)
{
	switch (v.type) {
	case FH_J_UNDEF:
	case FH_J_NONE: return false;
	case FH_J_BOOL: return v.b;
	case FH_J_INT: return v.i != 0;
	case FH_J_FLOAT: return v.f != 0;
	case FH_J_STR: return v.n != 0;
	case FH_J_LIST: return v.l->n != 0;
	case FH_J_DICT: return v.d->n != 0;
	case FH_J_LOOP: return v.loop->n != 0;
	default: return true;
	}
}

static bool list_equal(struct fh_jctx *c, const struct fh_jlist *a, const struct fh_jlist *b)
{
	bool equal = a->n == b->n && a->tuple == b->tuple;

	for (uint32_t i = 0; equal && i < a->n && i < b->n; i++)
		equal = fh_jequal(c, a->v[i], b->v[i]);
	return equal;
}

static bool dict_equal(struct fh_jctx *c, const struct fh_jdict *a, const struct fh_jdict *b)
{
	bool equal = a->n == b->n;

	for (uint32_t i = 0; equal && i < a->n; i++) {
		const struct fh_jv *v = fh_jdict_get(c, b, a->e[i].key);

		equal = v && fh_jequal(c, a->e[i].val, *v);
	}
	return equal;
}

bool fh_jequal(struct fh_jctx *c, struct fh_jv a, struct fh_jv b)
{
	bool equal;

	if (fh_jis_int(a) && fh_jis_int(b))
		return fh_jget_int(a) == fh_jget_int(b);
	if (fh_jis_num(a) && fh_jis_num(b))
		return fh_jget_num(a) == fh_jget_num(b);
	if (a.type != b.type)
		return false;
	switch (a.type) {
	case FH_J_UNDEF:
	case FH_J_NONE: return true;
	case FH_J_STR: return a.n == b.n && !fh_jcharge(c, a.n / 64) && (!a.n || !memcmp(a.s, b.s, a.n));
	case FH_J_LIST:
	case FH_J_DICT: break;
	default: return a.s == b.s; /* the same object */
	}
	if (fh_jcharge(c, 1) || !fh_jenter(c))
		return false;
	equal = a.type == FH_J_LIST ? list_equal(c, a.l, b.l) : dict_equal(c, a.d, b.d);
	fh_jleave(c);
	return equal;
}

static int sign(int64_t a, int64_t b)
{
	return a < b ? -1 : a > b;
}

static int list_order(struct fh_jctx *c, const struct fh_jlist *a, const struct fh_jlist *b)
{
	int r = 0;

	if (fh_jcharge(c, 1) || !fh_jenter(c))
		return 0;
	for (uint32_t i = 0; !r && i < a->n && i < b->n && !c->failed; i++)
		if (!fh_jequal(c, a->v[i], b->v[i]))
			r = fh_jorder(c, a->v[i], b->v[i]);
	fh_jleave(c);
	return r ? r : sign(a->n, b->n);
}

int fh_jorder(struct fh_jctx *c, struct fh_jv a, struct fh_jv b)
{
	if (fh_jis_int(a) && fh_jis_int(b))
		return sign(fh_jget_int(a), fh_jget_int(b));
	if (fh_jis_num(a) && fh_jis_num(b)) {
		double x = fh_jget_num(a), y = fh_jget_num(b);

		return isnan(x) || isnan(y) ? 2 : x < y ? -1 : x > y;
	}
	if (a.type == FH_J_STR && b.type == FH_J_STR) {
		uint32_t n = a.n < b.n ? a.n : b.n;
		int r = n && !fh_jcharge(c, n / 64) ? memcmp(a.s, b.s, n) : 0;

		return r ? (r < 0 ? -1 : 1) : sign(a.n, b.n);
	}
	if (a.type == FH_J_LIST && b.type == FH_J_LIST && a.l->tuple == b.l->tuple)
		return list_order(c, a.l, b.l);
	if (a.type == FH_J_UNDEF || b.type == FH_J_UNDEF) {
		const struct fh_jv *u = a.type == FH_J_UNDEF ? &a : &b;

		fh_jfail(c, "'%.*s' is undefined", u->s ? (int)u->n : 5, u->s ? u->s : "value");
		return 0;
	}
	fh_jfail(c, "'%s' and '%s' have no order", fh_jtype_name(a), fh_jtype_name(b));
	return 0;
}

bool fh_jcontains(struct fh_jctx *c, struct fh_jv hay, struct fh_jv needle)
{
	switch (hay.type) {
	case FH_J_STR:
		if (needle.type != FH_J_STR) {
			fh_jfail(c, "'in <string>' requires string as left operand, not %s", fh_jtype_name(needle));
			return false;
		}
		return !fh_jcharge(c, hay.n / 64) && fh_jfind(hay, 0, needle);
	case FH_J_LIST:
		for (uint32_t i = 0; i < hay.l->n && !fh_jcharge(c, 1); i++)
			if (fh_jequal(c, hay.l->v[i], needle))
				return true;
		return false;
	case FH_J_DICT: return hashable(c, needle) && fh_jdict_get(c, hay.d, needle);
	case FH_J_UNDEF: return false;
	default: fh_jfail(c, "argument of type '%s' is not iterable", fh_jtype_name(hay)); return false;
	}
}

struct fh_jlist *fh_jiter(struct fh_jctx *c, struct fh_jv v)
{
	struct fh_jv l;
	const char *p, *end;
	uint32_t cp;

	if (v.type == FH_J_LIST)
		return v.l;
	l = fh_jlist_new(c, false);
	if (l.type != FH_J_LIST)
		return NULL;
	switch (v.type) {
	case FH_J_UNDEF: break;
	case FH_J_STR:
		for (p = v.s, end = p + v.n; p < end && !fh_jcharge(c, 1);) {
			size_t n = fh_jutf8(p, end, &cp);

			fh_jlist_push(c, l.l, fh_jstr(p, n));
			p += n;
		}
		break;
	case FH_J_DICT:
		if (fh_jcharge(c, v.d->n / 4))
			return NULL;
		for (uint32_t i = 0; i < v.d->n; i++)
			fh_jlist_push(c, l.l, v.d->e[i].key);
		break;
	default: fh_jfail(c, "'%s' object is not iterable", fh_jtype_name(v)); return NULL;
	}
	return c->failed ? NULL : l.l;
}
