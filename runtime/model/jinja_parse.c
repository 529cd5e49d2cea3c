// SPDX-License-Identifier: Apache-2.0
/*
 * Chat templates: tokens to expressions, by recursive descent, one function a
 * level of precedence:
 *
 *   a if c else b | or | and | not | comparisons, in | + - | ~ | * / // % | ** | unary | postfix, filters, tests
 *
 * The first failure sets p->failed and moves the parser to the end of its
 * tokens, so that every loop ends by itself.
 */
#include "runtime/model/jinja.h"

#include <stdarg.h>
#include <string.h>

void *fh_jparse_fail(struct fh_jparser *p, const char *fmt, ...)
{
	char msg[256];
	va_list ap;

	if (p->failed)
		return NULL;
	va_start(ap, fmt);
	vsnprintf(msg, sizeof(msg), fmt, ap);
	va_end(ap);
	fh_errf(p->err, -EINVAL, "chat template, line %u: %s", fh_jpeek(p)->line, msg);
	p->failed = true;
	p->pos = p->t->nr_toks - 1;
	return NULL;
}

const struct fh_jtok *fh_jpeek(const struct fh_jparser *p)
{
	return &p->t->toks[p->pos];
}

const struct fh_jtok *fh_jnext(struct fh_jparser *p)
{
	const struct fh_jtok *tok = &p->t->toks[p->pos];

	if (tok->type != FH_JT_EOF)
		p->pos++;
	return tok;
}

bool fh_jaccept(struct fh_jparser *p, enum fh_jtok_type type)
{
	if (fh_jpeek(p)->type != type)
		return false;
	fh_jnext(p);
	return true;
}

static bool tok_is_name(const struct fh_jtok *tok, const char *name)
{
	return tok->type == FH_JT_NAME && tok->n == strlen(name) && !memcmp(tok->s, name, tok->n);
}

bool fh_jat_name(const struct fh_jparser *p, const char *name)
{
	return tok_is_name(fh_jpeek(p), name);
}

bool fh_jaccept_name(struct fh_jparser *p, const char *name)
{
	if (!fh_jat_name(p, name))
		return false;
	fh_jnext(p);
	return true;
}

static const char *tok_text(const struct fh_jtok *tok, char buf[64])
{
	static const char *const names[] = {
		[FH_JT_EOF] = "the end of the template",
		[FH_JT_DATA] = "text",
		[FH_JT_VAR_BEGIN] = "'{{'",
		[FH_JT_VAR_END] = "'}}'",
		[FH_JT_BLOCK_BEGIN] = "'{%'",
		[FH_JT_BLOCK_END] = "'%}'",
		[FH_JT_STR] = "a string",
		[FH_JT_INT] = "a number",
		[FH_JT_FLOAT] = "a number",
		[FH_JT_COMMA] = "','",
		[FH_JT_COLON] = "':'",
		[FH_JT_RPAREN] = "')'",
		[FH_JT_RBRACKET] = "']'",
		[FH_JT_RBRACE] = "'}'",
		[FH_JT_ASSIGN] = "'='",
	};

	if (tok->type == FH_JT_NAME) {
		snprintf(buf, 64, "'%.*s'", tok->n > 48 ? 48 : (int)tok->n, tok->s);
		return buf;
	}
	if (tok->type < sizeof(names) / sizeof(names[0]) && names[tok->type])
		return names[tok->type];
	return "an operator";
}

bool fh_jexpect(struct fh_jparser *p, enum fh_jtok_type type, const char *what)
{
	char buf[64];

	if (fh_jaccept(p, type))
		return true;
	fh_jparse_fail(p, "expected %s, found %s", what, tok_text(fh_jpeek(p), buf));
	return false;
}

const struct fh_jname *fh_jexpect_name(struct fh_jparser *p)
{
	const struct fh_jtok *tok = fh_jpeek(p);
	const struct fh_jname *name;

	if (!fh_jexpect(p, FH_JT_NAME, "a name"))
		return NULL;
	name = fh_jintern(p->t, tok->s, tok->n);
	return name ? name : fh_jparse_fail(p, "the template is too large");
}

struct fh_jnode *fh_jnode_new(struct fh_jparser *p, enum fh_jnode_kind kind)
{
	struct fh_jnode *n = fh_jarena_zalloc(&p->t->arena, sizeof(*n));

	if (!n)
		return fh_jparse_fail(p, "the template is too large");
	n->kind = (uint8_t)kind;
	n->line = fh_jpeek(p)->line;
	return n;
}

/* Double an array of pointers in the arena. */
static void *grow(struct fh_jparser *p, void *old, uint32_t n, uint32_t *cap)
{
	uint32_t want = *cap ? *cap * 2 : 4;
	void **q = fh_jarena_alloc(&p->t->arena, want * sizeof(*q));

	if (!q)
		return fh_jparse_fail(p, "the template is too large");
	if (n)
		memcpy(q, old, n * sizeof(*q));
	*cap = want;
	return q;
}

bool fh_jnode_add(struct fh_jparser *p, struct fh_jnode *n, struct fh_jnode *kid)
{
	if (p->failed)
		return false;
	if (n->nr_kids == n->cap_kids) {
		struct fh_jnode **kids = grow(p, n->kids, n->nr_kids, &n->cap_kids);

		if (!kids)
			return false;
		n->kids = kids;
	}
	n->kids[n->nr_kids++] = kid;
	return true;
}

bool fh_jnode_add_kw(struct fh_jparser *p, struct fh_jnode *n, const struct fh_jname *name, struct fh_jnode *val)
{
	if (p->failed)
		return false;
	if (n->nr_kw == n->cap_kw) {
		uint32_t cap = n->cap_kw;
		struct fh_jnode **kw = grow(p, n->kw, n->nr_kw, &cap);
		const struct fh_jname **names;

		cap = n->cap_kw;
		names = kw ? grow(p, n->kw_names, n->nr_kw, &cap) : NULL;
		if (!names)
			return false;
		n->kw = kw;
		n->kw_names = names;
		n->cap_kw = cap;
	}
	n->kw[n->nr_kw] = val;
	n->kw_names[n->nr_kw++] = name;
	return true;
}

static bool too_deep(struct fh_jparser *p)
{
	if (p->depth < FH_JMAX_NEST)
		return false;
	fh_jparse_fail(p, "expressions or blocks are nested more than %d deep", FH_JMAX_NEST);
	return true;
}

/* ---- literals ---- */

static struct fh_jnode *parse_list(struct fh_jparser *p)
{
	struct fh_jnode *n = fh_jnode_new(p, FH_JN_LIST);

	while (!p->failed && fh_jpeek(p)->type != FH_JT_RBRACKET) {
		if (n->nr_kids && !fh_jexpect(p, FH_JT_COMMA, "',' or ']'"))
			return NULL;
		if (fh_jpeek(p)->type == FH_JT_RBRACKET)
			break;
		fh_jnode_add(p, n, fh_jparse_expr(p));
	}
	return fh_jexpect(p, FH_JT_RBRACKET, "']'") ? n : NULL;
}

static struct fh_jnode *parse_dict(struct fh_jparser *p)
{
	struct fh_jnode *n = fh_jnode_new(p, FH_JN_DICT);

	while (!p->failed && fh_jpeek(p)->type != FH_JT_RBRACE) {
		if (n->nr_kids && !fh_jexpect(p, FH_JT_COMMA, "',' or '}'"))
			return NULL;
		if (fh_jpeek(p)->type == FH_JT_RBRACE)
			break;
		fh_jnode_add(p, n, fh_jparse_expr(p));
		fh_jexpect(p, FH_JT_COLON, "':'");
		fh_jnode_add(p, n, fh_jparse_expr(p));
	}
	return fh_jexpect(p, FH_JT_RBRACE, "'}'") ? n : NULL;
}

/* Adjacent strings are one. */
static struct fh_jnode *parse_string(struct fh_jparser *p)
{
	struct fh_jnode *n = fh_jnode_new(p, FH_JN_CONST);
	uint32_t first = p->pos;
	size_t bytes = 0;
	char *s;

	for (; fh_jpeek(p)->type == FH_JT_STR; p->pos++)
		bytes += fh_jpeek(p)->n;
	if (!n || p->failed)
		return NULL;
	if (p->pos == first + 1) {
		n->val = fh_jstr(p->t->toks[first].s, bytes);
		return n;
	}
	s = fh_jarena_alloc(&p->t->arena, bytes + 1);
	if (!s)
		return fh_jparse_fail(p, "the template is too large");
	n->val = fh_jstr(s, bytes);
	for (uint32_t i = first; i < p->pos; i++) {
		memcpy(s, p->t->toks[i].s, p->t->toks[i].n);
		s += p->t->toks[i].n;
	}
	return n;
}

static struct fh_jnode *parse_const(struct fh_jparser *p, struct fh_jv v)
{
	struct fh_jnode *n = fh_jnode_new(p, FH_JN_CONST);

	if (n)
		n->val = v;
	fh_jnext(p);
	return n;
}

static struct fh_jnode *parse_name(struct fh_jparser *p)
{
	static const struct {
		const char *name;
		struct fh_jv val;
	} constants[] = {
		{"true", {.type = FH_J_BOOL, .b = true}},
		{"True", {.type = FH_J_BOOL, .b = true}},
		{"false", {.type = FH_J_BOOL, .b = false}},
		{"False", {.type = FH_J_BOOL, .b = false}},
		{"none", {.type = FH_J_NONE}},
		{"None", {.type = FH_J_NONE}},
	};
	struct fh_jnode *n;

	for (size_t i = 0; i < sizeof(constants) / sizeof(constants[0]); i++)
		if (fh_jat_name(p, constants[i].name))
			return parse_const(p, constants[i].val);
	n = fh_jnode_new(p, FH_JN_NAME);
	if (n)
		n->name = fh_jexpect_name(p);
	return n;
}

static struct fh_jnode *parse_primary(struct fh_jparser *p)
{
	const struct fh_jtok *tok = fh_jpeek(p);
	struct fh_jnode *n;
	char buf[64];

	switch (tok->type) {
	case FH_JT_NAME: return parse_name(p);
	case FH_JT_STR: return parse_string(p);
	case FH_JT_INT: return parse_const(p, fh_jint(tok->i));
	case FH_JT_FLOAT: return parse_const(p, fh_jfloat(tok->f));
	case FH_JT_LPAREN:
		fh_jnext(p);
		n = fh_jparse_tuple(p, true);
		return fh_jexpect(p, FH_JT_RPAREN, "')'") ? n : NULL;
	case FH_JT_LBRACKET: fh_jnext(p); return parse_list(p);
	case FH_JT_LBRACE: fh_jnext(p); return parse_dict(p);
	default: return fh_jparse_fail(p, "expected an expression, found %s", tok_text(tok, buf));
	}
}

/* ---- postfix: .name [x] (args) |filter is test ---- */

struct fh_jnode *fh_jparse_call_args(struct fh_jparser *p, struct fh_jnode *n)
{
	fh_jexpect(p, FH_JT_LPAREN, "'('");
	while (!p->failed && fh_jpeek(p)->type != FH_JT_RPAREN) {
		const struct fh_jtok *tok = fh_jpeek(p);

		if ((n->nr_kids || n->nr_kw) && !fh_jexpect(p, FH_JT_COMMA, "',' or ')'"))
			return NULL;
		tok = fh_jpeek(p);
		if (tok->type == FH_JT_RPAREN)
			break;
		if (tok->type == FH_JT_MUL || tok->type == FH_JT_POW)
			return fh_jparse_fail(p, "'*' and '**' arguments are not supported");
		if (tok->type == FH_JT_NAME && tok[1].type == FH_JT_ASSIGN) {
			const struct fh_jname *name = fh_jexpect_name(p);

			fh_jnext(p);
			fh_jnode_add_kw(p, n, name, fh_jparse_expr(p));
		} else if (n->nr_kw) {
			return fh_jparse_fail(p, "an argument by position after one by name");
		} else {
			fh_jnode_add(p, n, fh_jparse_expr(p));
		}
	}
	return fh_jexpect(p, FH_JT_RPAREN, "')'") ? n : NULL;
}

static bool at_slice_end(const struct fh_jparser *p)
{
	uint8_t type = fh_jpeek(p)->type;

	return type == FH_JT_COLON || type == FH_JT_RBRACKET || type == FH_JT_COMMA;
}

static struct fh_jnode *parse_subscript(struct fh_jparser *p, struct fh_jnode *obj)
{
	struct fh_jnode *n = fh_jnode_new(p, FH_JN_ITEM), *first = NULL;
	int parts = 1;

	if (!n)
		return NULL;
	n->a = obj;
	if (!at_slice_end(p))
		first = fh_jparse_expr(p);
	if (fh_jpeek(p)->type != FH_JT_COLON) {
		n->b = first;
		if (!first)
			return fh_jparse_fail(p, "expected an index");
		return fh_jexpect(p, FH_JT_RBRACKET, "']'") ? n : NULL;
	}
	n->kind = FH_JN_SLICE;
	fh_jnode_add(p, n, first);
	for (; parts < 3 && fh_jaccept(p, FH_JT_COLON); parts++)
		fh_jnode_add(p, n, at_slice_end(p) ? NULL : fh_jparse_expr(p));
	for (; parts < 3; parts++)
		fh_jnode_add(p, n, NULL);
	return fh_jexpect(p, FH_JT_RBRACKET, "']'") ? n : NULL;
}

static struct fh_jnode *parse_dot(struct fh_jparser *p, struct fh_jnode *obj)
{
	struct fh_jnode *n = fh_jnode_new(p, FH_JN_ATTR);

	if (!n)
		return NULL;
	n->a = obj;
	if (fh_jpeek(p)->type == FH_JT_INT) { /* x.0 is x[0] */
		n->kind = FH_JN_ITEM;
		n->b = parse_const(p, fh_jint(fh_jpeek(p)->i));
	} else {
		n->name = fh_jexpect_name(p);
	}
	return n;
}

static struct fh_jnode *parse_call(struct fh_jparser *p, struct fh_jnode *callee)
{
	struct fh_jnode *n = fh_jnode_new(p, FH_JN_CALL);

	if (!n)
		return NULL;
	n->a = callee;
	return fh_jparse_call_args(p, n);
}

struct fh_jnode *fh_jparse_postfix(struct fh_jparser *p, struct fh_jnode *n)
{
	while (!p->failed) {
		if (fh_jaccept(p, FH_JT_DOT))
			n = parse_dot(p, n);
		else if (fh_jaccept(p, FH_JT_LBRACKET))
			n = parse_subscript(p, n);
		else if (fh_jpeek(p)->type == FH_JT_LPAREN)
			n = parse_call(p, n);
		else
			return n;
	}
	return NULL;
}

struct fh_jnode *fh_jparse_filters(struct fh_jparser *p, struct fh_jnode *operand)
{
	do {
		struct fh_jnode *n = fh_jnode_new(p, FH_JN_FILTER);

		if (!n)
			return NULL;
		n->a = operand;
		n->name = fh_jexpect_name(p);
		if (p->failed)
			return NULL;
		n->filter = fh_jfilter_find(n->name->s, n->name->n);
		if (fh_jpeek(p)->type == FH_JT_LPAREN)
			fh_jparse_call_args(p, n);
		operand = n;
	} while (!p->failed && fh_jaccept(p, FH_JT_PIPE));
	return operand;
}

/* May what follows a test's name be its argument, without parentheses? */
static bool at_test_arg(const struct fh_jparser *p)
{
	static const char *const words[] = {"else", "or", "and", "if", "in", "not", "is"};

	switch (fh_jpeek(p)->type) {
	case FH_JT_STR:
	case FH_JT_INT:
	case FH_JT_FLOAT:
	case FH_JT_LBRACKET:
	case FH_JT_LBRACE: return true;
	case FH_JT_NAME:
		for (size_t i = 0; i < sizeof(words) / sizeof(words[0]); i++)
			if (fh_jat_name(p, words[i]))
				return false;
		return true;
	default: return false;
	}
}

static struct fh_jnode *parse_test(struct fh_jparser *p, struct fh_jnode *operand)
{
	struct fh_jnode *n = fh_jnode_new(p, FH_JN_TEST), *not ;
	bool negate = fh_jaccept_name(p, "not");

	if (!n)
		return NULL;
	n->a = operand;
	n->name = fh_jexpect_name(p);
	if (p->failed)
		return NULL;
	n->test = fh_jtest_find(n->name->s, n->name->n);
	if (fh_jpeek(p)->type == FH_JT_LPAREN)
		fh_jparse_call_args(p, n);
	else if (at_test_arg(p))
		fh_jnode_add(p, n, fh_jparse_postfix(p, parse_primary(p)));
	if (!negate)
		return n;
	not = fh_jnode_new(p, FH_JN_NOT);
	if (not )
		not ->a = n;
	return not ;
}

static struct fh_jnode *parse_filters_and_tests(struct fh_jparser *p, struct fh_jnode *n)
{
	while (!p->failed) {
		if (fh_jaccept(p, FH_JT_PIPE))
			n = fh_jparse_filters(p, n);
		else if (fh_jaccept_name(p, "is"))
			n = parse_test(p, n);
		else if (fh_jpeek(p)->type == FH_JT_LPAREN)
			n = parse_call(p, n);
		else
			return n;
	}
	return NULL;
}

/* ---- operators ---- */

static struct fh_jnode *parse_unary(struct fh_jparser *p, bool with_filters)
{
	uint8_t type = fh_jpeek(p)->type;
	struct fh_jnode *n;

	if (type == FH_JT_SUB || type == FH_JT_ADD) {
		if (too_deep(p))
			return NULL;
		n = fh_jnode_new(p, type == FH_JT_SUB ? FH_JN_NEG : FH_JN_POS);
		fh_jnext(p);
		p->depth++;
		if (n)
			n->a = parse_unary(p, false);
		p->depth--;
	} else {
		n = parse_primary(p);
	}
	n = fh_jparse_postfix(p, n);
	return with_filters ? parse_filters_and_tests(p, n) : n;
}

static struct fh_jnode *binary(struct fh_jparser *p, enum fh_jnode_kind kind, struct fh_jnode *a)
{
	struct fh_jnode *n = fh_jnode_new(p, kind);

	if (n) {
		n->a = a;
		n->op = fh_jpeek(p)->type;
	}
	fh_jnext(p);
	return n;
}

static struct fh_jnode *parse_pow(struct fh_jparser *p)
{
	struct fh_jnode *n = parse_unary(p, true);

	while (!p->failed && fh_jpeek(p)->type == FH_JT_POW) {
		n = binary(p, FH_JN_BINARY, n);
		if (n)
			n->b = parse_unary(p, true);
	}
	return n;
}

static struct fh_jnode *parse_mul(struct fh_jparser *p)
{
	struct fh_jnode *n = parse_pow(p);

	while (!p->failed && fh_jpeek(p)->type >= FH_JT_MUL && fh_jpeek(p)->type <= FH_JT_MOD) {
		n = binary(p, FH_JN_BINARY, n);
		if (n)
			n->b = parse_pow(p);
	}
	return n;
}

static struct fh_jnode *parse_concat(struct fh_jparser *p)
{
	struct fh_jnode *first = parse_mul(p), *n;

	if (p->failed || fh_jpeek(p)->type != FH_JT_TILDE)
		return first;
	n = fh_jnode_new(p, FH_JN_CONCAT);
	if (n)
		fh_jnode_add(p, n, first);
	while (!p->failed && fh_jaccept(p, FH_JT_TILDE))
		fh_jnode_add(p, n, parse_mul(p));
	return n;
}

static struct fh_jnode *parse_add(struct fh_jparser *p)
{
	struct fh_jnode *n = parse_concat(p);

	while (!p->failed && (fh_jpeek(p)->type == FH_JT_ADD || fh_jpeek(p)->type == FH_JT_SUB)) {
		n = binary(p, FH_JN_BINARY, n);
		if (n)
			n->b = parse_concat(p);
	}
	return n;
}

/* The comparison at the parser, consumed; FH_JT_EOF when there is none. */
static enum fh_jtok_type accept_comparison(struct fh_jparser *p)
{
	const struct fh_jtok *tok = fh_jpeek(p);

	if (tok->type >= FH_JT_EQ && tok->type <= FH_JT_GE)
		return fh_jnext(p)->type;
	if (fh_jaccept_name(p, "in"))
		return FH_JT_IN;
	if (fh_jat_name(p, "not") && tok_is_name(&tok[1], "in")) {
		p->pos += 2;
		return FH_JT_NOT_IN;
	}
	return FH_JT_EOF;
}

static struct fh_jnode *parse_compare(struct fh_jparser *p)
{
	struct fh_jnode *first = parse_add(p), *n = NULL;
	enum fh_jtok_type op;

	while (!p->failed && (op = accept_comparison(p)) != FH_JT_EOF) {
		struct fh_jnode *operand = fh_jnode_new(p, FH_JN_OPERAND);

		if (!n) {
			n = fh_jnode_new(p, FH_JN_COMPARE);
			if (n)
				fh_jnode_add(p, n, first);
		}
		if (!operand || !n)
			return NULL;
		operand->op = (uint8_t)op;
		operand->a = parse_add(p);
		fh_jnode_add(p, n, operand);
	}
	return n ? n : first;
}

static struct fh_jnode *parse_not(struct fh_jparser *p)
{
	struct fh_jnode *n;

	if (!fh_jat_name(p, "not"))
		return parse_compare(p);
	if (too_deep(p))
		return NULL;
	n = binary(p, FH_JN_NOT, NULL);
	p->depth++;
	if (n)
		n->a = parse_not(p);
	p->depth--;
	return n;
}

static struct fh_jnode *parse_and(struct fh_jparser *p)
{
	struct fh_jnode *n = parse_not(p);

	while (!p->failed && fh_jat_name(p, "and")) {
		n = binary(p, FH_JN_AND, n);
		if (n)
			n->b = parse_not(p);
	}
	return n;
}

static struct fh_jnode *parse_or(struct fh_jparser *p)
{
	struct fh_jnode *n = parse_and(p);

	while (!p->failed && fh_jat_name(p, "or")) {
		n = binary(p, FH_JN_OR, n);
		if (n)
			n->b = parse_and(p);
	}
	return n;
}

struct fh_jnode *fh_jparse_expr(struct fh_jparser *p)
{
	struct fh_jnode *n, *cond;

	if (too_deep(p))
		return NULL;
	p->depth++;
	n = parse_or(p);
	while (!p->failed && fh_jat_name(p, "if")) {
		cond = fh_jnode_new(p, FH_JN_COND);
		if (!cond)
			break;
		fh_jnext(p);
		cond->a = n;
		cond->b = parse_or(p);
		if (fh_jaccept_name(p, "else"))
			cond->c = fh_jparse_expr(p);
		n = cond;
	}
	p->depth--;
	return p->failed ? NULL : n;
}

/* Does the tuple (or the expression) end here? */
static bool at_tuple_end(const struct fh_jparser *p)
{
	uint8_t type = fh_jpeek(p)->type;

	return type == FH_JT_VAR_END || type == FH_JT_BLOCK_END || type == FH_JT_RPAREN || type == FH_JT_EOF;
}

struct fh_jnode *fh_jparse_tuple(struct fh_jparser *p, bool with_cond)
{
	struct fh_jnode *n = NULL, *tuple = NULL;

	for (;;) {
		if (at_tuple_end(p))
			break;
		n = with_cond ? fh_jparse_expr(p) : parse_or(p);
		if (tuple)
			fh_jnode_add(p, tuple, n);
		if (p->failed || fh_jpeek(p)->type != FH_JT_COMMA)
			break;
		if (!tuple) {
			tuple = fh_jnode_new(p, FH_JN_LIST);
			if (!tuple)
				return NULL;
			tuple->flag = true;
			fh_jnode_add(p, tuple, n);
		}
		fh_jnext(p);
	}
	if (p->failed)
		return NULL;
	if (tuple)
		return tuple;
	if (!n && fh_jpeek(p)->type == FH_JT_RPAREN) { /* () */
		n = fh_jnode_new(p, FH_JN_LIST);
		if (n)
			n->flag = true;
		return n;
	}
	return n ? n : fh_jparse_fail(p, "expected an expression");
}
