// SPDX-License-Identifier: Apache-2.0
/*
 * Chat templates: evaluates expressions, with Python's arithmetic on 64-bit
 * integers (an overflow is an error), its slices and its chained comparisons.
 */
#include "runtime/model/jinja.h"

#include <math.h>
#include <string.h>

static struct fh_jv fail_undefined(struct fh_jctx *c, struct fh_jv v)
{
	return fh_jfail(c, "'%.*s' is undefined", v.s ? (int)(v.n < 100 ? v.n : 100) : 5, v.s ? v.s : "value");
}

/* ---- arithmetic ---- */

static struct fh_jv fail_operands(struct fh_jctx *c, const char *op, struct fh_jv a, struct fh_jv b)
{
	if (a.type == FH_J_UNDEF)
		return fail_undefined(c, a);
	if (b.type == FH_J_UNDEF)
		return fail_undefined(c, b);
	return fh_jfail(c, "unsupported operand types for %s: '%s' and '%s'", op, fh_jtype_name(a), fh_jtype_name(b));
}

static struct fh_jv concat(struct fh_jctx *c, struct fh_jv a, struct fh_jv b)
{
	struct fh_jbuf buf = {0};

	if (fh_jcharge(c, (a.n + (uint64_t)b.n) / 64))
		return FH_JV_UNDEF;
	fh_jbuf_put(c, &buf, a.s, a.n);
	fh_jbuf_put(c, &buf, b.s, b.n);
	c->out_left += buf.n; /* not printed: memory bounds it */
	return fh_jbuf_str(&buf);
}

static struct fh_jv list_concat(struct fh_jctx *c, struct fh_jv a, struct fh_jv b)
{
	struct fh_jv l = fh_jlist_new(c, a.l->tuple);

	if (l.type != FH_J_LIST || fh_jcharge(c, ((uint64_t)a.l->n + b.l->n) / 4))
		return FH_JV_UNDEF;
	for (uint32_t i = 0; i < a.l->n && !c->failed; i++)
		fh_jlist_push(c, l.l, a.l->v[i]);
	for (uint32_t i = 0; i < b.l->n && !c->failed; i++)
		fh_jlist_push(c, l.l, b.l->v[i]);
	return l;
}

static struct fh_jv repeat(struct fh_jctx *c, struct fh_jv s, int64_t times)
{
	struct fh_jbuf buf = {0};
	size_t each = s.type == FH_J_STR ? s.n : s.l->n * sizeof(*s.l->v);
	struct fh_jv l;

	if (each && times > 0 && (uint64_t)times > c->lim->mem_bytes / each)
		return fh_jfail(c, "a repetition of more than %zu MiB", c->lim->mem_bytes >> 20);
	if (s.type == FH_J_STR) {
		for (int64_t i = 0; i < times && s.n && !fh_jcharge(c, 1); i++)
			fh_jbuf_put(c, &buf, s.s, s.n);
		c->out_left += buf.n;
		return fh_jbuf_str(&buf);
	}
	l = fh_jlist_new(c, s.l->tuple);
	for (int64_t i = 0; l.type == FH_J_LIST && i < times && s.l->n && !fh_jcharge(c, 1 + s.l->n / 4); i++)
		for (uint32_t k = 0; k < s.l->n && !c->failed; k++)
			fh_jlist_push(c, l.l, s.l->v[k]);
	return l;
}

static struct fh_jv int_pow(struct fh_jctx *c, int64_t a, int64_t b)
{
	int64_t r = 1;

	if (b < 0)
		return a ? fh_jfloat(pow((double)a, (double)b)) : fh_jfail(c, "0 to a negative power");
	for (; b; b >>= 1) {
		if ((b & 1) && __builtin_mul_overflow(r, a, &r))
			return fh_jfail(c, "an integer does not fit in 64 bits");
		if (b > 1 && __builtin_mul_overflow(a, a, &a))
			return fh_jfail(c, "an integer does not fit in 64 bits");
	}
	return fh_jint(r);
}

static struct fh_jv int_op(struct fh_jctx *c, enum fh_jtok_type op, int64_t a, int64_t b)
{
	int64_t r = 0;
	bool overflow = false;

	if (!b && (op == FH_JT_DIV || op == FH_JT_FLOORDIV || op == FH_JT_MOD))
		return fh_jfail(c, "division by zero");
	switch (op) {
	case FH_JT_ADD: overflow = __builtin_add_overflow(a, b, &r); break;
	case FH_JT_SUB: overflow = __builtin_sub_overflow(a, b, &r); break;
	case FH_JT_MUL: overflow = __builtin_mul_overflow(a, b, &r); break;
	case FH_JT_DIV: return fh_jfloat((double)a / (double)b);
	case FH_JT_POW: return int_pow(c, a, b);
	case FH_JT_FLOORDIV: /* towards minus infinity */
		if (b == -1)
			overflow = __builtin_sub_overflow((int64_t)0, a, &r);
		else
			r = a / b - (a % b && (a < 0) != (b < 0));
		break;
	default: /* the sign of the divisor */
		r = b == -1 ? 0 : a % b;
		if (r && (r < 0) != (b < 0))
			r += b;
	}
	return overflow ? fh_jfail(c, "an integer does not fit in 64 bits") : fh_jint(r);
}

static struct fh_jv float_op(struct fh_jctx *c, enum fh_jtok_type op, double a, double b)
{
	double r;

	switch (op) {
	case FH_JT_ADD: return fh_jfloat(a + b);
	case FH_JT_SUB: return fh_jfloat(a - b);
	case FH_JT_MUL: return fh_jfloat(a * b);
	case FH_JT_POW:
		r = pow(a, b);
		return isnan(r) && !isnan(a) && !isnan(b) ? fh_jfail(c, "a complex power") : fh_jfloat(r);
	default: break;
	}
	if (b == 0)
		return fh_jfail(c, "division by zero");
	if (op == FH_JT_DIV)
		return fh_jfloat(a / b);
	if (op == FH_JT_FLOORDIV)
		return fh_jfloat(floor(a / b));
	r = fmod(a, b);
	if (r && (r < 0) != (b < 0))
		r += b;
	return fh_jfloat(r);
}

struct fh_jv fh_jbinary(struct fh_jctx *c, enum fh_jtok_type op, struct fh_jv a, struct fh_jv b)
{
	static const char *const names[] = {
		[FH_JT_ADD] = "+",	 [FH_JT_SUB] = "-", [FH_JT_MUL] = "*",	[FH_JT_DIV] = "/",
		[FH_JT_FLOORDIV] = "//", [FH_JT_MOD] = "%", [FH_JT_POW] = "**",
	};

	if (fh_jis_int(a) && fh_jis_int(b))
		return int_op(c, op, fh_jget_int(a), fh_jget_int(b));
	if (fh_jis_num(a) && fh_jis_num(b))
		return float_op(c, op, fh_jget_num(a), fh_jget_num(b));
	if (op == FH_JT_ADD && a.type == FH_J_STR && b.type == FH_J_STR)
		return concat(c, a, b);
	if (op == FH_JT_ADD && a.type == FH_J_LIST && b.type == FH_J_LIST && a.l->tuple == b.l->tuple)
		return list_concat(c, a, b);
	if (op == FH_JT_MUL && (a.type == FH_J_STR || a.type == FH_J_LIST) && fh_jis_int(b))
		return repeat(c, a, fh_jget_int(b));
	if (op == FH_JT_MUL && (b.type == FH_J_STR || b.type == FH_J_LIST) && fh_jis_int(a))
		return repeat(c, b, fh_jget_int(a));
	if (op == FH_JT_MOD && a.type == FH_J_STR) {
		struct fh_jargs args = {.pos = &b, .nr = 1};

		if (b.type == FH_J_LIST && b.l->tuple)
			args = (struct fh_jargs){.pos = b.l->v, .nr = b.l->n};
		return fh_jpercent(c, a, &args);
	}
	return fail_operands(c, names[op], a, b);
}

bool fh_jcompare(struct fh_jctx *c, enum fh_jtok_type op, struct fh_jv a, struct fh_jv b)
{
	int order;

	switch (op) {
	case FH_JT_EQ: return fh_jequal(c, a, b);
	case FH_JT_NE: return !fh_jequal(c, a, b);
	case FH_JT_IN: return fh_jcontains(c, b, a);
	case FH_JT_NOT_IN: return !fh_jcontains(c, b, a);
	default: break;
	}
	order = fh_jorder(c, a, b);
	if (c->failed || order == 2)
		return false;
	return op == FH_JT_LT ? order < 0 : op == FH_JT_LE ? order <= 0 : op == FH_JT_GT ? order > 0 : order >= 0;
}

static struct fh_jv eval_compare(struct fh_jctx *c, const struct fh_jnode *n)
{
	struct fh_jv left = fh_jeval(c, n->kids[0]);

	for (uint32_t i = 1; i < n->nr_kids; i++) {
		const struct fh_jnode *operand = n->kids[i];
		struct fh_jv right = fh_jeval(c, operand->a);

		if (c->failed)
			return FH_JV_UNDEF;
		if (!fh_jcompare(c, (enum fh_jtok_type)operand->op, left, right))
			return fh_jbool(false);
		left = right;
	}
	return fh_jbool(true);
}

static struct fh_jv eval_unary(struct fh_jctx *c, const struct fh_jnode *n)
{
	struct fh_jv v = fh_jeval(c, n->a);
	bool neg = n->kind == FH_JN_NEG;
	int64_t r;

	if (v.type == FH_J_FLOAT)
		return neg ? fh_jfloat(-v.f) : v;
	if (!fh_jis_int(v)) {
		if (v.type == FH_J_UNDEF)
			return fail_undefined(c, v);
		return fh_jfail(c, "bad operand type for unary %s: '%s'", neg ? "-" : "+", fh_jtype_name(v));
	}
	if (!neg)
		return fh_jint(fh_jget_int(v));
	if (__builtin_sub_overflow((int64_t)0, fh_jget_int(v), &r))
		return fh_jfail(c, "an integer does not fit in 64 bits");
	return fh_jint(r);
}

static struct fh_jv eval_concat(struct fh_jctx *c, const struct fh_jnode *n)
{
	struct fh_jbuf buf = {0};

	for (uint32_t i = 0; i < n->nr_kids && !c->failed; i++)
		fh_jprint(c, &buf, fh_jeval(c, n->kids[i]));
	c->out_left += buf.n;
	return fh_jbuf_str(&buf);
}

/* ---- attributes, items, slices ---- */

static struct fh_jv loop_attr(struct fh_jctx *c, struct fh_jloop *l, const char *name, size_t n)
{
	const struct {
		const char *name;
		int64_t val;
	} numbers[] = {
		{"index", (int64_t)l->index0 + 1},
		{"index0", l->index0},
		{"revindex", (int64_t)l->n - l->index0},
		{"revindex0", (int64_t)l->n - l->index0 - 1},
		{"length", l->n},
		{"depth", 1},
		{"depth0", 0}, /* as no loop is recursive */
	};
	struct fh_jv key = fh_jstr(name, n);

	for (size_t i = 0; i < sizeof(numbers) / sizeof(numbers[0]); i++)
		if (fh_jstr_is(key, numbers[i].name))
			return fh_jint(numbers[i].val);
	if (fh_jstr_is(key, "first"))
		return fh_jbool(!l->index0);
	if (fh_jstr_is(key, "last"))
		return fh_jbool(l->index0 + 1 == l->n);
	if (fh_jstr_is(key, "previtem"))
		return l->index0 ? l->items->v[l->index0 - 1] : fh_jundef("there is no previous item", 25);
	if (fh_jstr_is(key, "nextitem"))
		return l->index0 + 1 < l->n ? l->items->v[l->index0 + 1] : fh_jundef("there is no next item", 21);
	(void)c;
	return fh_jundef(name, n);
}

/* obj.name: a method, then a key, as Python looks them up. */
struct fh_jv fh_jattr(struct fh_jctx *c, struct fh_jv obj, const char *name, size_t n)
{
	struct fh_jmethod m, *copy;
	const struct fh_jv *v;

	if (obj.type == FH_J_UNDEF)
		return fail_undefined(c, obj);
	if (obj.type == FH_J_LOOP && !fh_jmethod_find(obj, name, n, &m))
		return loop_attr(c, obj.loop, name, n);
	if (obj.type != FH_J_NS && fh_jmethod_find(obj, name, n, &m)) {
		copy = fh_jarena_alloc(&c->arena, sizeof(*copy));
		if (!copy)
			return fh_jfail(c, "out of memory");
		*copy = m;
		return (struct fh_jv){.type = FH_J_METHOD, .method = copy};
	}
	if (obj.type == FH_J_MACRO && fh_jstr_is(fh_jstr(name, n), "name"))
		return fh_jstr(obj.m->node->name->s, obj.m->node->name->n);
	if (obj.type == FH_J_DICT || obj.type == FH_J_NS) {
		v = fh_jdict_get(c, obj.d, fh_jstr(name, n));
		if (v)
			return *v;
	}
	return fh_jundef(name, n);
}

struct fh_jv fh_jitem(struct fh_jctx *c, struct fh_jv obj, struct fh_jv key)
{
	const struct fh_jv *v;
	int64_t i, len;

	switch (obj.type) {
	case FH_J_UNDEF: return fail_undefined(c, obj);
	case FH_J_DICT:
		v = fh_jdict_get(c, obj.d, key);
		if (v)
			return *v;
		return key.type == FH_J_STR ? fh_jattr(c, obj, key.s, key.n) : fh_jundef(NULL, 0);
	case FH_J_LIST:
	case FH_J_STR:
		if (!fh_jis_int(key))
			break;
		i = fh_jget_int(key);
		if (obj.type == FH_J_STR && fh_jcharge(c, obj.n / 64))
			return FH_JV_UNDEF;
		len = obj.type == FH_J_LIST ? (int64_t)obj.l->n : (int64_t)fh_jutf8_len(obj);
		i += i < 0 ? len : 0;
		if (i < 0 || i >= len)
			return fh_jundef("an index out of range", 21);
		if (obj.type == FH_J_LIST)
			return obj.l->v[i];
		len = (int64_t)fh_jutf8_at(obj, (size_t)i);
		i = (int64_t)fh_jutf8_at(obj, (size_t)i + 1);
		return fh_jstr(obj.s + len, (size_t)(i - len));
	default: break;
	}
	return key.type == FH_J_STR ? fh_jattr(c, obj, key.s, key.n) : fh_jundef(NULL, 0);
}

/* One bound of a slice, clipped as Python does; @dflt when it is absent. */
static int64_t slice_bound(struct fh_jctx *c, const struct fh_jnode *n, int64_t len, int64_t lo, int64_t hi,
			   int64_t dflt)
{
	struct fh_jv v = n ? fh_jeval(c, n) : FH_JV_NONE;
	int64_t i;

	if (v.type == FH_J_NONE)
		return dflt;
	if (!fh_jis_int(v)) {
		fh_jfail(c, "slice indices must be integers, not %s", fh_jtype_name(v));
		return dflt;
	}
	i = fh_jget_int(v);
	if (i < 0)
		i = i < -len ? lo : i + len;
	return i < lo ? lo : i > hi ? hi : i;
}

static struct fh_jv slice_str(struct fh_jctx *c, struct fh_jv s, int64_t from, int64_t to, int64_t step)
{
	struct fh_jlist *chars;
	struct fh_jbuf buf = {0};

	if (step == 1) {
		size_t a = fh_jutf8_at(s, (size_t)from), b = fh_jutf8_at(s, (size_t)(to < from ? from : to));

		return fh_jstr(s.s + a, b - a);
	}
	chars = fh_jiter(c, s);
	for (int64_t i = from; chars && (step > 0 ? i < to : i > to) && !fh_jcharge(c, 1);) {
		fh_jbuf_put(c, &buf, chars->v[i].s, chars->v[i].n);
		if (__builtin_add_overflow(i, step, &i))
			break;
	}
	c->out_left += buf.n;
	return fh_jbuf_str(&buf);
}

static struct fh_jv eval_slice(struct fh_jctx *c, const struct fh_jnode *n)
{
	struct fh_jv obj = fh_jeval(c, n->a), l;
	struct fh_jv step_v = n->kids[2] ? fh_jeval(c, n->kids[2]) : FH_JV_NONE;
	int64_t step = step_v.type == FH_J_NONE ? 1 : fh_jis_int(step_v) ? fh_jget_int(step_v) : 0;
	int64_t len, from, to;

	if (obj.type == FH_J_UNDEF)
		return fail_undefined(c, obj);
	if (obj.type != FH_J_LIST && obj.type != FH_J_STR)
		return fh_jfail(c, "'%s' object cannot be sliced", fh_jtype_name(obj));
	if (!step)
		return fh_jfail(c, "a slice's step must be an integer other than zero");
	if (obj.type == FH_J_STR && fh_jcharge(c, obj.n / 16))
		return FH_JV_UNDEF;
	len = obj.type == FH_J_LIST ? (int64_t)obj.l->n : (int64_t)fh_jutf8_len(obj);
	if (step > 0) {
		from = slice_bound(c, n->kids[0], len, 0, len, 0);
		to = slice_bound(c, n->kids[1], len, 0, len, len);
	} else {
		from = slice_bound(c, n->kids[0], len, -1, len - 1, len - 1);
		to = slice_bound(c, n->kids[1], len, -1, len - 1, -1);
	}
	if (c->failed)
		return FH_JV_UNDEF;
	if (obj.type == FH_J_STR)
		return slice_str(c, obj, from, to, step);
	l = fh_jlist_new(c, obj.l->tuple);
	for (int64_t i = from; l.type == FH_J_LIST && (step > 0 ? i < to : i > to) && !fh_jcharge(c, 1);) {
		fh_jlist_push(c, l.l, obj.l->v[i]);
		if (__builtin_add_overflow(i, step, &i))
			break;
	}
	return l;
}

/* ---- calls ---- */

bool fh_jeval_args(struct fh_jctx *c, const struct fh_jnode *n, struct fh_jargs *out)
{
	struct fh_jv *pos = NULL;
	struct fh_jvar *kw = NULL;

	*out = (struct fh_jargs){0};
	if (n->nr_kids)
		pos = fh_jarena_alloc(&c->arena, n->nr_kids * sizeof(*pos));
	if (n->nr_kw)
		kw = fh_jarena_alloc(&c->arena, n->nr_kw * sizeof(*kw));
	if ((n->nr_kids && !pos) || (n->nr_kw && !kw)) {
		fh_jfail(c, "out of memory");
		return false;
	}
	for (uint32_t i = 0; i < n->nr_kids; i++)
		pos[i] = fh_jeval(c, n->kids[i]);
	for (uint32_t i = 0; i < n->nr_kw; i++)
		kw[i] = (struct fh_jvar){.name = n->kw_names[i], .val = fh_jeval(c, n->kw[i])};
	*out = (struct fh_jargs){.pos = pos, .nr = n->nr_kids, .kw = kw, .nr_kw = n->nr_kw};
	return !c->failed;
}

struct fh_jv fh_jcall(struct fh_jctx *c, struct fh_jv f, const struct fh_jargs *a)
{
	switch (f.type) {
	case FH_J_MACRO: return fh_jcall_macro(c, f.m, a);
	case FH_J_FUNC: return f.func->fn(c, a);
	case FH_J_METHOD: return f.method->fn(c, f.method->self, a);
	case FH_J_UNDEF: return fail_undefined(c, f);
	default: return fh_jfail(c, "'%s' object is not callable", fh_jtype_name(f));
	}
}

static struct fh_jv eval_call(struct fh_jctx *c, const struct fh_jnode *n)
{
	const struct fh_jnode *callee = n->a;
	struct fh_jargs args;
	struct fh_jmethod m;
	struct fh_jv f;

	if (callee->kind == FH_JN_ATTR) { /* the usual case without making a method object */
		struct fh_jv obj = fh_jeval(c, callee->a);

		if (c->failed)
			return FH_JV_UNDEF;
		if (obj.type != FH_J_NS && obj.type != FH_J_UNDEF &&
		    fh_jmethod_find(obj, callee->name->s, callee->name->n, &m)) {
			if (!fh_jeval_args(c, n, &args))
				return FH_JV_UNDEF;
			c->line = n->line;
			return m.fn(c, obj, &args);
		}
		f = fh_jattr(c, obj, callee->name->s, callee->name->n);
		if (f.type == FH_J_UNDEF && !c->failed)
			return fh_jfail(c, "'%s' object has no method '%.*s'", fh_jtype_name(obj),
					(int)(callee->name->n < 64 ? callee->name->n : 64), callee->name->s);
	} else {
		f = fh_jeval(c, callee);
	}
	if (c->failed || !fh_jeval_args(c, n, &args))
		return FH_JV_UNDEF;
	c->line = n->line;
	return fh_jcall(c, f, &args);
}

static struct fh_jv fail_unknown(struct fh_jctx *c, const char *what, const struct fh_jname *name)
{
	return fh_jfail(c, "no %s named '%.*s'", what, (int)(name->n < 64 ? name->n : 64), name->s);
}

/* A chain of filters from the inside out; @in is the operand of the innermost, which has none of its own. */
struct fh_jv fh_japply_filter(struct fh_jctx *c, const struct fh_jnode *n, struct fh_jv in)
{
	struct fh_jargs args;

	if (!fh_jenter(c))
		return FH_JV_UNDEF;
	if (n->a)
		in = n->a->kind == FH_JN_FILTER ? fh_japply_filter(c, n->a, in) : fh_jeval(c, n->a);
	c->line = n->line;
	fh_jleave(c);
	if (c->failed)
		return FH_JV_UNDEF;
	if (!n->filter)
		return fail_unknown(c, "filter", n->name);
	return fh_jeval_args(c, n, &args) ? n->filter->fn(c, in, &args) : FH_JV_UNDEF;
}

static struct fh_jv eval_test(struct fh_jctx *c, const struct fh_jnode *n)
{
	struct fh_jv v = fh_jeval(c, n->a);
	struct fh_jargs args;

	if (c->failed)
		return FH_JV_UNDEF;
	if (!n->test)
		return fail_unknown(c, "test", n->name);
	return fh_jeval_args(c, n, &args) ? fh_jbool(n->test->fn(c, v, &args)) : FH_JV_UNDEF;
}

/* ---- the rest ---- */

static struct fh_jv eval_name(struct fh_jctx *c, const struct fh_jname *name)
{
	const struct fh_jfunc *func;

	for (const struct fh_jscope *s = c->scope; s; s = s->up) {
		const struct fh_jv *v = fh_jscope_get(s, name);

		if (v)
			return *v;
	}
	func = fh_jfunc_find(name->s, name->n);
	if (func)
		return (struct fh_jv){.type = FH_J_FUNC, .func = func};
	return fh_jundef(name->s, name->n);
}

static struct fh_jv eval_list(struct fh_jctx *c, const struct fh_jnode *n)
{
	struct fh_jv l = fh_jlist_new(c, n->flag);

	for (uint32_t i = 0; i < n->nr_kids && !c->failed; i++)
		fh_jlist_push(c, l.l, fh_jeval(c, n->kids[i]));
	return l;
}

static struct fh_jv eval_dict(struct fh_jctx *c, const struct fh_jnode *n)
{
	struct fh_jv d = fh_jdict_new(c, FH_J_DICT);

	for (uint32_t i = 0; i + 1 < n->nr_kids && !c->failed; i += 2) {
		struct fh_jv key = fh_jeval(c, n->kids[i]);

		fh_jdict_set(c, d.d, key, fh_jeval(c, n->kids[i + 1]));
	}
	return d;
}

static struct fh_jv eval_cond(struct fh_jctx *c, const struct fh_jnode *n)
{
	if (fh_jtruth(fh_jeval(c, n->b)))
		return fh_jeval(c, n->a);
	return n->c && !c->failed ? fh_jeval(c, n->c) : fh_jundef(NULL, 0);
}

static struct fh_jv eval_logic(struct fh_jctx *c, const struct fh_jnode *n)
{
	struct fh_jv v = fh_jeval(c, n->a);

	if (c->failed || fh_jtruth(v) == (n->kind == FH_JN_OR))
		return v;
	return fh_jeval(c, n->b);
}

static struct fh_jv eval_binary(struct fh_jctx *c, const struct fh_jnode *n)
{
	struct fh_jv a = fh_jeval(c, n->a), b = fh_jeval(c, n->b);

	if (c->failed)
		return FH_JV_UNDEF;
	c->line = n->line;
	return fh_jbinary(c, (enum fh_jtok_type)n->op, a, b);
}

static struct fh_jv eval_item(struct fh_jctx *c, const struct fh_jnode *n)
{
	struct fh_jv obj = fh_jeval(c, n->a), key = fh_jeval(c, n->b);

	return c->failed ? FH_JV_UNDEF : fh_jitem(c, obj, key);
}

static struct fh_jv eval_kind(struct fh_jctx *c, const struct fh_jnode *n)
{
	struct fh_jv v;

	switch (n->kind) {
	case FH_JN_CONST: return n->val;
	case FH_JN_NAME: return eval_name(c, n->name);
	case FH_JN_LIST: return eval_list(c, n);
	case FH_JN_DICT: return eval_dict(c, n);
	case FH_JN_COND: return eval_cond(c, n);
	case FH_JN_AND:
	case FH_JN_OR: return eval_logic(c, n);
	case FH_JN_NOT: return fh_jbool(!fh_jtruth(fh_jeval(c, n->a)));
	case FH_JN_COMPARE: return eval_compare(c, n);
	case FH_JN_BINARY: return eval_binary(c, n);
	case FH_JN_CONCAT: return eval_concat(c, n);
	case FH_JN_NEG:
	case FH_JN_POS: return eval_unary(c, n);
	case FH_JN_ATTR: v = fh_jeval(c, n->a); return c->failed ? FH_JV_UNDEF : fh_jattr(c, v, n->name->s, n->name->n);
	case FH_JN_ITEM: return eval_item(c, n);
	case FH_JN_SLICE: return eval_slice(c, n);
	case FH_JN_CALL: return eval_call(c, n);
	case FH_JN_FILTER: return fh_japply_filter(c, n, FH_JV_UNDEF);
	case FH_JN_TEST: return eval_test(c, n);
	default: return fh_jfail(c, "not an expression");
	}
}

struct fh_jv fh_jeval(struct fh_jctx *c, const struct fh_jnode *n)
{
	struct fh_jv v;

	if (fh_jcharge(c, 1) || !fh_jenter(c))
		return FH_JV_UNDEF;
	c->line = n->line;
	v = eval_kind(c, n);
	fh_jleave(c);
	return c->failed ? FH_JV_UNDEF : v;
}
