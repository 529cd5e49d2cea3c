// SPDX-License-Identifier: Apache-2.0
/*
 * Chat templates: tokens to statements.
 *
 * Blocks nest, so each parse function reads up to the tag that ends it and
 * leaves the parser just behind that tag's first word.
 */
#include "runtime/model/jinja.h"

#include <string.h>

static struct fh_jnode *parse_body(struct fh_jparser *p, const char *const *ends, const char *opened, uint32_t line);

static void expect_block_end(struct fh_jparser *p)
{
	fh_jexpect(p, FH_JT_BLOCK_END, "'%}'");
}

/* One target of an assignment or a loop: a name, ns.attribute, or a tuple of them. */
static struct fh_jnode *parse_target_one(struct fh_jparser *p, bool with_ns)
{
	struct fh_jnode *n;

	if (p->failed)
		return NULL;
	if (fh_jpeek(p)->type == FH_JT_LPAREN || fh_jpeek(p)->type == FH_JT_LBRACKET)
		return fh_jparse_fail(p, "nested targets are not supported");
	n = fh_jnode_new(p, FH_JN_NAME);
	if (!n)
		return NULL;
	n->name = fh_jexpect_name(p);
	if (with_ns && fh_jaccept(p, FH_JT_DOT)) {
		const struct fh_jtok *tok = fh_jpeek(p);

		n->kind = FH_JN_NS_ATTR;
		fh_jexpect(p, FH_JT_NAME, "a name");
		if (!p->failed)
			n->val = fh_jstr(tok->s, tok->n);
	}
	return n;
}

static struct fh_jnode *parse_target(struct fh_jparser *p, bool with_ns)
{
	bool parens = fh_jaccept(p, FH_JT_LPAREN);
	struct fh_jnode *first = parse_target_one(p, with_ns), *n = first;

	if (!p->failed && fh_jpeek(p)->type == FH_JT_COMMA) {
		n = fh_jnode_new(p, FH_JN_LIST);
		if (!n)
			return NULL;
		fh_jnode_add(p, n, first);
		while (!p->failed && fh_jaccept(p, FH_JT_COMMA) && fh_jpeek(p)->type == FH_JT_NAME &&
		       !fh_jat_name(p, "in"))
			fh_jnode_add(p, n, parse_target_one(p, with_ns));
	}
	if (parens)
		fh_jexpect(p, FH_JT_RPAREN, "')'");
	return p->failed ? NULL : n;
}

static struct fh_jnode *parse_for(struct fh_jparser *p)
{
	static const char *const ends[] = {"else", "endfor", NULL}, *const last[] = {"endfor", NULL};
	struct fh_jnode *n = fh_jnode_new(p, FH_JN_FOR);
	uint32_t line = fh_jpeek(p)->line;

	if (!n)
		return NULL;
	n->a = parse_target(p, false);
	if (!p->failed && !fh_jaccept_name(p, "in"))
		return fh_jparse_fail(p, "expected 'in' after the loop's variable");
	n->b = fh_jparse_tuple(p, false);
	fh_jnode_add(p, n, fh_jaccept_name(p, "if") ? fh_jparse_expr(p) : NULL);
	if (fh_jat_name(p, "recursive"))
		return fh_jparse_fail(p, "recursive loops are not supported");
	expect_block_end(p);
	p->loops++;
	fh_jnode_add(p, n, parse_body(p, ends, "for", line));
	p->loops--;
	if (!p->failed && fh_jaccept_name(p, "else")) {
		expect_block_end(p);
		n->c = parse_body(p, last, "for", line);
	}
	fh_jnext(p); /* endfor */
	expect_block_end(p);
	return n;
}

static struct fh_jnode *parse_if(struct fh_jparser *p)
{
	static const char *const ends[] = {"elif", "else", "endif", NULL}, *const last[] = {"endif", NULL};
	struct fh_jnode *n = fh_jnode_new(p, FH_JN_IF);
	uint32_t line = fh_jpeek(p)->line;

	do {
		fh_jnode_add(p, n, fh_jparse_tuple(p, false));
		expect_block_end(p);
		fh_jnode_add(p, n, parse_body(p, ends, "if", line));
	} while (!p->failed && fh_jaccept_name(p, "elif"));
	if (!p->failed && fh_jaccept_name(p, "else")) {
		expect_block_end(p);
		n->c = parse_body(p, last, "if", line);
	}
	fh_jnext(p); /* endif */
	expect_block_end(p);
	return n;
}

static struct fh_jnode *parse_set(struct fh_jparser *p)
{
	static const char *const ends[] = {"endset", NULL};
	struct fh_jnode *n = fh_jnode_new(p, FH_JN_SET);
	uint32_t line = fh_jpeek(p)->line;

	if (!n)
		return NULL;
	n->a = parse_target(p, true);
	if (fh_jaccept(p, FH_JT_ASSIGN)) {
		n->b = fh_jparse_tuple(p, true);
		expect_block_end(p);
		return n;
	}
	n->kind = FH_JN_SET_BLOCK;
	if (fh_jaccept(p, FH_JT_PIPE))
		n->c = fh_jparse_filters(p, NULL);
	expect_block_end(p);
	n->b = parse_body(p, ends, "set", line);
	fh_jnext(p);
	expect_block_end(p);
	return n;
}

/* "(a, b=1)" into kw_names and kw. */
static void parse_params(struct fh_jparser *p, struct fh_jnode *n)
{
	fh_jexpect(p, FH_JT_LPAREN, "'('");
	while (!p->failed && fh_jpeek(p)->type != FH_JT_RPAREN) {
		const struct fh_jname *name;
		struct fh_jnode *dflt = NULL;

		if (n->nr_kw && !fh_jexpect(p, FH_JT_COMMA, "',' or ')'"))
			return;
		if (fh_jpeek(p)->type == FH_JT_RPAREN)
			break;
		name = fh_jexpect_name(p);
		if (fh_jaccept(p, FH_JT_ASSIGN))
			dflt = fh_jparse_expr(p);
		else if (n->nr_kw && n->kw[n->nr_kw - 1])
			fh_jparse_fail(p, "a parameter without a default after one with a default");
		fh_jnode_add_kw(p, n, name, dflt);
	}
	fh_jexpect(p, FH_JT_RPAREN, "')'");
}

/* A macro's body is no part of the loop around it. */
static struct fh_jnode *parse_macro_body(struct fh_jparser *p, const char *const *ends, const char *opened)
{
	uint32_t loops = p->loops, line = fh_jpeek(p)->line;
	struct fh_jnode *body;

	expect_block_end(p);
	p->loops = 0;
	body = parse_body(p, ends, opened, line);
	p->loops = loops;
	fh_jnext(p);
	expect_block_end(p);
	return body;
}

static struct fh_jnode *parse_macro(struct fh_jparser *p)
{
	static const char *const ends[] = {"endmacro", NULL};
	struct fh_jnode *n = fh_jnode_new(p, FH_JN_MACRO);

	if (!n)
		return NULL;
	n->name = fh_jexpect_name(p);
	parse_params(p, n);
	n->a = parse_macro_body(p, ends, "macro");
	return n;
}

static struct fh_jnode *parse_call_block(struct fh_jparser *p)
{
	static const char *const ends[] = {"endcall", NULL};
	struct fh_jnode *n = fh_jnode_new(p, FH_JN_CALL_BLOCK), *m = fh_jnode_new(p, FH_JN_MACRO);

	if (!n || !m)
		return NULL;
	n->a = m;
	m->name = p->t->name_caller;
	if (fh_jpeek(p)->type == FH_JT_LPAREN)
		parse_params(p, m);
	n->b = fh_jparse_expr(p);
	if (!p->failed && n->b->kind != FH_JN_CALL)
		return fh_jparse_fail(p, "expected a call");
	m->a = parse_macro_body(p, ends, "call");
	return n;
}

static struct fh_jnode *parse_filter_block(struct fh_jparser *p)
{
	static const char *const ends[] = {"endfilter", NULL};
	struct fh_jnode *n = fh_jnode_new(p, FH_JN_FILTER_BLOCK);
	uint32_t line = fh_jpeek(p)->line;

	if (!n)
		return NULL;
	n->b = fh_jparse_filters(p, NULL);
	expect_block_end(p);
	n->a = parse_body(p, ends, "filter", line);
	fh_jnext(p);
	expect_block_end(p);
	return n;
}

static struct fh_jnode *parse_with(struct fh_jparser *p)
{
	static const char *const ends[] = {"endwith", NULL};
	struct fh_jnode *n = fh_jnode_new(p, FH_JN_WITH);
	uint32_t line = fh_jpeek(p)->line;

	while (!p->failed && fh_jpeek(p)->type != FH_JT_BLOCK_END) {
		if (n->nr_kids)
			fh_jexpect(p, FH_JT_COMMA, "','");
		fh_jnode_add(p, n, parse_target_one(p, false));
		fh_jexpect(p, FH_JT_ASSIGN, "'='");
		fh_jnode_add(p, n, fh_jparse_expr(p));
	}
	expect_block_end(p);
	if (p->failed)
		return NULL;
	n->a = parse_body(p, ends, "with", line);
	fh_jnext(p);
	expect_block_end(p);
	return n;
}

/* {% generation %} marks what a model is trained on: it changes nothing here. */
static struct fh_jnode *parse_generation(struct fh_jparser *p)
{
	static const char *const ends[] = {"endgeneration", NULL};
	struct fh_jnode *n;

	expect_block_end(p);
	n = parse_body(p, ends, "generation", fh_jpeek(p)->line);
	fh_jnext(p);
	expect_block_end(p);
	return n;
}

static struct fh_jnode *parse_do(struct fh_jparser *p)
{
	struct fh_jnode *n = fh_jnode_new(p, FH_JN_DO);

	if (!n)
		return NULL;
	n->a = fh_jparse_tuple(p, true);
	expect_block_end(p);
	return n;
}

static struct fh_jnode *parse_jump(struct fh_jparser *p, enum fh_jnode_kind kind)
{
	struct fh_jnode *n = fh_jnode_new(p, kind);

	if (!p->loops)
		return fh_jparse_fail(p, "'%s' outside a loop", kind == FH_JN_BREAK ? "break" : "continue");
	expect_block_end(p);
	return n;
}

static struct fh_jnode *parse_break(struct fh_jparser *p)
{
	return parse_jump(p, FH_JN_BREAK);
}

static struct fh_jnode *parse_continue(struct fh_jparser *p)
{
	return parse_jump(p, FH_JN_CONTINUE);
}

static struct fh_jnode *parse_statement(struct fh_jparser *p)
{
	static const struct {
		const char *word;
		struct fh_jnode *(*parse)(struct fh_jparser *p);
	} statements[] = {
		{"if", parse_if},
		{"for", parse_for},
		{"set", parse_set},
		{"macro", parse_macro},
		{"call", parse_call_block},
		{"filter", parse_filter_block},
		{"with", parse_with},
		{"generation", parse_generation},
		{"do", parse_do},
		{"break", parse_break},
		{"continue", parse_continue},
	};
	const struct fh_jtok *tok = fh_jpeek(p);

	for (size_t i = 0; i < sizeof(statements) / sizeof(statements[0]); i++)
		if (fh_jaccept_name(p, statements[i].word))
			return statements[i].parse(p);
	if (tok->type != FH_JT_NAME)
		return fh_jparse_fail(p, "expected a statement after '{%%'");
	return fh_jparse_fail(p, "no statement '%.*s', or it has no beginning", tok->n > 48 ? 48 : (int)tok->n, tok->s);
}

static bool at_end_word(const struct fh_jparser *p, const char *const *ends)
{
	for (; ends && *ends; ends++)
		if (fh_jat_name(p, *ends))
			return true;
	return false;
}

static struct fh_jnode *parse_data(struct fh_jparser *p)
{
	struct fh_jnode *n = fh_jnode_new(p, FH_JN_DATA);
	const struct fh_jtok *tok = fh_jnext(p);

	if (n)
		n->val = fh_jstr(tok->s, tok->n);
	return n;
}

static struct fh_jnode *parse_print(struct fh_jparser *p)
{
	struct fh_jnode *n = fh_jnode_new(p, FH_JN_PRINT);

	if (!n)
		return NULL;
	n->a = fh_jparse_tuple(p, true);
	fh_jexpect(p, FH_JT_VAR_END, "'}}'");
	return n;
}

/* Up to "{%" and one of @ends (not consumed), or with @ends NULL to the end of the template; @line: where it began. */
static struct fh_jnode *parse_body(struct fh_jparser *p, const char *const *ends, const char *opened, uint32_t line)
{
	struct fh_jnode *n = fh_jnode_new(p, FH_JN_BLOCK);

	if (!p->failed && p->depth >= FH_JMAX_NEST)
		return fh_jparse_fail(p, "blocks are nested more than %d deep", FH_JMAX_NEST);
	p->depth++;
	while (!p->failed) {
		const struct fh_jtok *tok = fh_jpeek(p);

		if (tok->type == FH_JT_EOF) {
			if (ends)
				fh_jparse_fail(p, "the '%s' of line %u has no 'end%s'", opened, line, opened);
			break;
		}
		if (tok->type == FH_JT_DATA) {
			fh_jnode_add(p, n, parse_data(p));
			continue;
		}
		fh_jnext(p); /* only a tag's beginning can follow */
		if (tok->type == FH_JT_VAR_BEGIN) {
			fh_jnode_add(p, n, parse_print(p));
			continue;
		}
		if (at_end_word(p, ends))
			break;
		fh_jnode_add(p, n, parse_statement(p));
	}
	p->depth--;
	return n;
}

struct fh_jnode *fh_jparse_template(struct fh_jparser *p)
{
	return parse_body(p, NULL, "template", 1);
}
