// SPDX-License-Identifier: Apache-2.0
/*
 * Chat templates: executes statements.
 *
 * Scopes follow Jinja: a loop's body, a macro and `with` have one of their own,
 * each turn of a loop a fresh one; `if` has none.  `set` writes to the
 * innermost, reading looks outwards.  A macro keeps the scope where it was
 * defined.
 */
#include "runtime/model/jinja.h"

#include <string.h>

struct fh_jscope *fh_jscope_push(struct fh_jctx *c, struct fh_jscope *up)
{
	struct fh_jscope *s = fh_jarena_zalloc(&c->arena, sizeof(*s));

	if (!s) {
		fh_jfail(c, "out of memory");
		return NULL;
	}
	s->up = up;
	return s;
}

const struct fh_jv *fh_jscope_get(const struct fh_jscope *s, const struct fh_jname *name)
{
	for (uint32_t i = 0; i < s->n; i++)
		if (s->vars[i].name == name)
			return &s->vars[i].val;
	return NULL;
}

bool fh_jscope_set(struct fh_jctx *c, struct fh_jscope *s, const struct fh_jname *name, struct fh_jv v)
{
	for (uint32_t i = 0; i < s->n; i++) {
		if (s->vars[i].name == name) {
			s->vars[i].val = v;
			return true;
		}
	}
	if (s->n == s->cap) {
		uint32_t cap = s->cap ? s->cap * 2 : 8;
		struct fh_jvar *vars = fh_jarena_alloc(&c->arena, cap * sizeof(*vars));

		if (!vars) {
			fh_jfail(c, "out of memory");
			return false;
		}
		if (s->n)
			memcpy(vars, s->vars, s->n * sizeof(*vars));
		s->vars = vars;
		s->cap = cap;
	}
	s->vars[s->n++] = (struct fh_jvar){.name = name, .val = v};
	return true;
}

static bool assign_ns(struct fh_jctx *c, const struct fh_jnode *target, struct fh_jv v)
{
	for (const struct fh_jscope *s = c->scope; s; s = s->up) {
		const struct fh_jv *ns = fh_jscope_get(s, target->name);

		if (!ns)
			continue;
		if (ns->type == FH_J_NS)
			return fh_jdict_set(c, ns->d, target->val, v);
		break;
	}
	fh_jfail(c, "'%.*s' is no namespace: only a namespace's attributes can be set",
		 (int)(target->name->n < 64 ? target->name->n : 64), target->name->s);
	return false;
}

bool fh_jassign(struct fh_jctx *c, const struct fh_jnode *target, struct fh_jv v)
{
	struct fh_jlist *l;

	if (c->failed)
		return false;
	c->line = target->line;
	if (target->kind == FH_JN_NAME)
		return fh_jscope_set(c, c->scope, target->name, v);
	if (target->kind == FH_JN_NS_ATTR)
		return assign_ns(c, target, v);
	l = fh_jiter(c, v);
	if (!l)
		return false;
	if (l->n != target->nr_kids) {
		fh_jfail(c, "%u values to unpack into %u names", l->n, target->nr_kids);
		return false;
	}
	for (uint32_t i = 0; i < l->n; i++)
		if (!fh_jassign(c, target->kids[i], l->v[i]))
			return false;
	return true;
}

/* Execute @n with its output in a string of its own. */
static struct fh_jv capture(struct fh_jctx *c, const struct fh_jnode *n)
{
	struct fh_jbuf buf = {0}, *out = c->out;

	c->out = &buf;
	fh_jexec(c, n);
	c->out = out;
	if (!c->failed)
		c->out_left += buf.n;
	return fh_jbuf_str(&buf);
}

static struct fh_jv new_macro(struct fh_jctx *c, const struct fh_jnode *n)
{
	struct fh_jmacro *m = fh_jarena_alloc(&c->arena, sizeof(*m));

	if (!m)
		return fh_jfail(c, "out of memory");
	*m = (struct fh_jmacro){.node = n, .scope = c->scope};
	for (struct fh_jscope *s = c->scope; s; s = s->up)
		s->captured = true;
	return (struct fh_jv){.type = FH_J_MACRO, .m = m};
}

static bool is_param(const struct fh_jnode *n, const struct fh_jname *name)
{
	for (uint32_t i = 0; i < n->nr_kw; i++)
		if (n->kw_names[i] == name)
			return true;
	return false;
}

/* The value of parameter @i: by position, by name, its default, or undefined. */
static struct fh_jv param_value(struct fh_jctx *c, const struct fh_jnode *n, uint32_t i, const struct fh_jargs *a)
{
	if (i < a->nr)
		return a->pos[i];
	for (uint32_t k = 0; k < a->nr_kw; k++)
		if (a->kw[k].name == n->kw_names[i])
			return a->kw[k].val;
	return n->kw[i] ? fh_jeval(c, n->kw[i]) : fh_jundef(n->kw_names[i]->s, n->kw_names[i]->n);
}

struct fh_jv fh_jcall_macro(struct fh_jctx *c, struct fh_jmacro *m, const struct fh_jargs *a)
{
	const struct fh_jnode *n = m->node;
	struct fh_jscope *saved = c->scope, *scope = fh_jscope_push(c, m->scope);
	struct fh_jv out = FH_JV_UNDEF;

	if (!scope || !fh_jenter(c))
		return out;
	if (a->nr > n->nr_kw)
		fh_jfail(c, "macro '%.*s' takes %u arguments, %u given", (int)(n->name->n < 64 ? n->name->n : 64),
			 n->name->s, n->nr_kw, a->nr);
	c->scope = scope;
	for (uint32_t i = 0; i < a->nr_kw && !c->failed; i++) {
		if (a->kw[i].name == c->t->name_caller)
			fh_jscope_set(c, scope, a->kw[i].name, a->kw[i].val);
		else if (!is_param(n, a->kw[i].name))
			fh_jfail(c, "macro '%.*s' has no parameter '%.*s'", (int)(n->name->n < 64 ? n->name->n : 64),
				 n->name->s, (int)(a->kw[i].name->n < 64 ? a->kw[i].name->n : 64), a->kw[i].name->s);
	}
	for (uint32_t i = 0; i < n->nr_kw && !c->failed; i++)
		fh_jscope_set(c, scope, n->kw_names[i], param_value(c, n, i, a));
	if (!c->failed)
		out = capture(c, n->a);
	c->scope = saved;
	fh_jleave(c);
	return out;
}

/* {% call(x) macro(args) %}body{% endcall %}: the body is the macro's caller(). */
static void exec_call_block(struct fh_jctx *c, const struct fh_jnode *n)
{
	struct fh_jv callee = fh_jeval(c, n->b->a), caller = new_macro(c, n->a);
	struct fh_jargs args;
	struct fh_jvar *kw;

	if (c->failed || !fh_jeval_args(c, n->b, &args))
		return;
	kw = fh_jarena_alloc(&c->arena, (args.nr_kw + 1) * sizeof(*kw));
	if (!kw) {
		fh_jfail(c, "out of memory");
		return;
	}
	if (args.nr_kw)
		memcpy(kw, args.kw, args.nr_kw * sizeof(*kw));
	kw[args.nr_kw++] = (struct fh_jvar){.name = c->t->name_caller, .val = caller};
	args.kw = kw;
	fh_jprint(c, c->out, fh_jcall(c, callee, &args));
}

/* The elements of @items for which the loop's condition holds. */
static struct fh_jlist *filter_items(struct fh_jctx *c, const struct fh_jnode *n, struct fh_jlist *items)
{
	struct fh_jscope *saved = c->scope, *scope = fh_jscope_push(c, saved);
	struct fh_jv kept = fh_jlist_new(c, false);

	if (c->failed)
		return NULL;
	c->scope = scope;
	for (uint32_t i = 0, nr = items->n; i < nr && !fh_jcharge(c, 1); i++) {
		struct fh_jv v = items->v[i];

		if (fh_jassign(c, n->a, v) && fh_jtruth(fh_jeval(c, n->kids[0])))
			fh_jlist_push(c, kept.l, v);
	}
	c->scope = saved;
	return c->failed ? NULL : kept.l;
}

static void exec_for(struct fh_jctx *c, const struct fh_jnode *n)
{
	struct fh_jlist *items = fh_jiter(c, fh_jeval(c, n->b));
	struct fh_jscope *saved = c->scope, *scope = NULL;
	struct fh_jloop *loop = fh_jarena_zalloc(&c->arena, sizeof(*loop));
	enum fh_jflow flow = FH_JFLOW_NEXT;

	if (items && !c->failed && n->kids[0])
		items = filter_items(c, n, items);
	if (!items || !loop || c->failed) {
		fh_jfail(c, "out of memory");
		return;
	}
	*loop = (struct fh_jloop){.items = items, .n = items->n};
	for (; loop->index0 < loop->n && flow != FH_JFLOW_BREAK && !fh_jcharge(c, 1); loop->index0++) {
		if (!scope || scope->captured)
			scope = fh_jscope_push(c, saved);
		if (!scope)
			break;
		scope->n = 0;
		c->scope = scope;
		fh_jscope_set(c, scope, c->t->name_loop, (struct fh_jv){.type = FH_J_LOOP, .loop = loop});
		if (fh_jassign(c, n->a, items->v[loop->index0]))
			flow = fh_jexec(c, n->kids[1]);
	}
	c->scope = saved;
	if (!loop->n && n->c && !c->failed)
		fh_jexec(c, n->c);
}

static enum fh_jflow exec_if(struct fh_jctx *c, const struct fh_jnode *n)
{
	for (uint32_t i = 0; i + 1 < n->nr_kids; i += 2) {
		bool yes = fh_jtruth(fh_jeval(c, n->kids[i]));

		if (c->failed)
			return FH_JFLOW_NEXT;
		if (yes)
			return fh_jexec(c, n->kids[i + 1]);
	}
	return n->c ? fh_jexec(c, n->c) : FH_JFLOW_NEXT;
}

static enum fh_jflow exec_with(struct fh_jctx *c, const struct fh_jnode *n)
{
	struct fh_jscope *saved = c->scope, *scope = fh_jscope_push(c, saved);
	enum fh_jflow flow = FH_JFLOW_NEXT;

	for (uint32_t i = 0; i + 1 < n->nr_kids && !c->failed; i += 2) {
		struct fh_jv v = fh_jeval(c, n->kids[i + 1]); /* seen from outside */

		c->scope = scope;
		fh_jassign(c, n->kids[i], v);
		c->scope = saved;
	}
	if (c->failed)
		return flow;
	c->scope = scope;
	flow = fh_jexec(c, n->a);
	c->scope = saved;
	return flow;
}

/* A captured body has a scope of its own. */
static struct fh_jv capture_scoped(struct fh_jctx *c, const struct fh_jnode *n)
{
	struct fh_jscope *saved = c->scope, *scope = fh_jscope_push(c, saved);
	struct fh_jv v;

	if (!scope)
		return FH_JV_UNDEF;
	c->scope = scope;
	v = capture(c, n);
	c->scope = saved;
	return v;
}

static enum fh_jflow exec_block(struct fh_jctx *c, const struct fh_jnode *n)
{
	enum fh_jflow flow = FH_JFLOW_NEXT;

	for (uint32_t i = 0; i < n->nr_kids && flow == FH_JFLOW_NEXT && !c->failed; i++)
		flow = fh_jexec(c, n->kids[i]);
	return flow;
}

static enum fh_jflow exec_kind(struct fh_jctx *c, const struct fh_jnode *n)
{
	struct fh_jv v;

	switch (n->kind) {
	case FH_JN_BLOCK: return exec_block(c, n);
	case FH_JN_DATA: fh_jbuf_put(c, c->out, n->val.s, n->val.n); break;
	case FH_JN_PRINT: fh_jprint(c, c->out, fh_jeval(c, n->a)); break;
	case FH_JN_IF: return exec_if(c, n);
	case FH_JN_FOR: exec_for(c, n); break;
	case FH_JN_SET: fh_jassign(c, n->a, fh_jeval(c, n->b)); break;
	case FH_JN_SET_BLOCK:
		v = capture_scoped(c, n->b);
		fh_jassign(c, n->a, n->c && !c->failed ? fh_japply_filter(c, n->c, v) : v);
		break;
	case FH_JN_MACRO: fh_jscope_set(c, c->scope, n->name, new_macro(c, n)); break;
	case FH_JN_CALL_BLOCK: exec_call_block(c, n); break;
	case FH_JN_FILTER_BLOCK:
		v = capture_scoped(c, n->a);
		if (!c->failed)
			fh_jprint(c, c->out, fh_japply_filter(c, n->b, v));
		break;
	case FH_JN_WITH: return exec_with(c, n);
	case FH_JN_DO: fh_jeval(c, n->a); break;
	case FH_JN_BREAK: return FH_JFLOW_BREAK;
	case FH_JN_CONTINUE: return FH_JFLOW_CONTINUE;
	default: fh_jfail(c, "not a statement");
	}
	return FH_JFLOW_NEXT;
}

enum fh_jflow fh_jexec(struct fh_jctx *c, const struct fh_jnode *n)
{
	enum fh_jflow flow;

	if (fh_jcharge(c, 1) || !fh_jenter(c))
		return FH_JFLOW_NEXT;
	c->line = n->line;
	flow = exec_kind(c, n);
	fh_jleave(c);
	return flow;
}
