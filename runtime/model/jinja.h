/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Inside the chat templates' interpreter: what its files share.  Nobody else
 * includes this; chat.h is the interface.
 *
 *   jinja_lex.c    text to tokens, with Jinja's rules for white space
 *   jinja_parse.c  tokens to expressions
 *   jinja_stmt.c   tokens to statements
 *   jinja_value.c  values, strings, lists, dicts
 *   jinja_text.c   UTF-8: lengths, case, white space
 *   jinja_print.c  values as Python prints them, and as JSON
 *   jinja_expr.c   evaluates expressions
 *   jinja_exec.c   executes statements and macros
 *   jinja_filter.c jinja_seq.c jinja_test.c jinja_method.c jinja_func.c
 *                  the built-in filters, tests, methods and functions
 *
 * Memory: a parsed template owns one arena (tokens, nodes, names); a rendering
 * owns another (all values).  Nothing is freed one by one.
 *
 * Failure is sticky: fh_jfail() keeps the first message and sets ctx->failed.
 * After that every function still returns a valid value (undefined), and every
 * loop ends at its next fh_jcharge().  So callers need not test each result,
 * only whatever they would index or loop over.
 */
#ifndef FH_MODEL_JINJA_H
#define FH_MODEL_JINJA_H

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "runtime/base/err.h"

/* ---- memory ---- */

struct fh_jchunk;

struct fh_jarena {
	struct fh_jchunk *head;
	size_t left;  /* in the chunk at the head */
	size_t total; /* of all chunks */
	size_t max;   /* total never exceeds it */
};

void *fh_jarena_alloc(struct fh_jarena *a, size_t n); /* aligned to 16; NULL past the limit; not zeroed */
void *fh_jarena_zalloc(struct fh_jarena *a, size_t n);
void fh_jarena_free(struct fh_jarena *a);

/* ---- values ---- */

enum fh_jtype {
	FH_J_UNDEF,
	FH_J_NONE,
	FH_J_BOOL,
	FH_J_INT,
	FH_J_FLOAT,
	FH_J_STR,
	FH_J_LIST,
	FH_J_DICT,
	FH_J_NS,     /* namespace(): a dict that `set` may write to */
	FH_J_LOOP,   /* the loop variable */
	FH_J_MACRO,  /* and caller() */
	FH_J_FUNC,   /* a global function */
	FH_J_METHOD, /* a method with its object */
};

struct fh_jlist;
struct fh_jdict;
struct fh_jloop;
struct fh_jmacro;
struct fh_jmethod;
struct fh_jfunc;

struct fh_jv {
	uint8_t type; /* enum fh_jtype */
	uint32_t n;   /* bytes of a string; of an undefined value's name */
	union {
		bool b;
		int64_t i;
		double f;
		const char *s; /* not terminated; the name, or NULL, of an undefined value */
		struct fh_jlist *l;
		struct fh_jdict *d; /* also a namespace's */
		struct fh_jloop *loop;
		struct fh_jmacro *m;
		struct fh_jmethod *method;
		const struct fh_jfunc *func;
	};
};

struct fh_jlist {
	struct fh_jv *v; /* [n] */
	uint32_t n, cap;
	bool tuple;
};

struct fh_jpair {
	struct fh_jv key, val;
	uint32_t hash; /* of a string key */
};

struct fh_jdict {	    /* in order of insertion */
	struct fh_jpair *e; /* [n] */
	uint32_t n, cap;
};

struct fh_jloop {
	struct fh_jlist *items;
	uint32_t n, index0;
	struct fh_jv last_changed; /* loop.changed() */
	bool has_changed;
};

/* A name that occurs in the template; equal names are one object. */
struct fh_jname {
	const char *s;
	uint32_t n, hash;
	struct fh_jname *next; /* of the same bucket */
};

/* ---- tokens ---- */

enum fh_jtok_type {
	FH_JT_EOF,
	FH_JT_DATA,
	FH_JT_VAR_BEGIN,
	FH_JT_VAR_END,
	FH_JT_BLOCK_BEGIN,
	FH_JT_BLOCK_END,
	FH_JT_NAME,
	FH_JT_STR,
	FH_JT_INT,
	FH_JT_FLOAT,
	FH_JT_ADD,
	FH_JT_SUB,
	FH_JT_MUL,
	FH_JT_DIV,
	FH_JT_FLOORDIV,
	FH_JT_MOD,
	FH_JT_POW,
	FH_JT_TILDE,
	FH_JT_EQ,
	FH_JT_NE,
	FH_JT_LT,
	FH_JT_LE,
	FH_JT_GT,
	FH_JT_GE,
	FH_JT_IN,     /* operators only: made by the parser from names */
	FH_JT_NOT_IN, /* likewise */
	FH_JT_ASSIGN,
	FH_JT_DOT,
	FH_JT_COMMA,
	FH_JT_COLON,
	FH_JT_SEMI,
	FH_JT_PIPE,
	FH_JT_LPAREN,
	FH_JT_RPAREN,
	FH_JT_LBRACKET,
	FH_JT_RBRACKET,
	FH_JT_LBRACE,
	FH_JT_RBRACE,
};

struct fh_jtok {
	uint8_t type;
	uint32_t line, n;
	union {
		const char *s; /* data, name, string (escapes resolved) */
		int64_t i;
		double f;
	};
};

/* ---- nodes ---- */

enum fh_jnode_kind {
	/* expressions */
	FH_JN_CONST,   /* val */
	FH_JN_NAME,    /* name */
	FH_JN_LIST,    /* kids; flag: a tuple */
	FH_JN_DICT,    /* kids: key, value, key, value, ... */
	FH_JN_COND,    /* a if b else c; c may be NULL */
	FH_JN_AND,     /* a, b */
	FH_JN_OR,      /* a, b */
	FH_JN_NOT,     /* a */
	FH_JN_COMPARE, /* kids: first operand, then one a comparison; ops in op of FH_JN_OPERAND */
	FH_JN_OPERAND, /* op, a */
	FH_JN_BINARY,  /* op, a, b */
	FH_JN_CONCAT,  /* kids */
	FH_JN_NEG,     /* a */
	FH_JN_POS,     /* a */
	FH_JN_ATTR,    /* a.name */
	FH_JN_ITEM,    /* a[b] */
	FH_JN_SLICE,   /* a[kids[0]:kids[1]:kids[2]], each may be NULL */
	FH_JN_CALL,    /* a(args) */
	FH_JN_FILTER,  /* a | name(args); a NULL in a filter block */
	FH_JN_TEST,    /* a is name(args) */
	/* statements */
	FH_JN_BLOCK,	    /* kids */
	FH_JN_DATA,	    /* val */
	FH_JN_PRINT,	    /* a */
	FH_JN_IF,	    /* kids: condition, body, condition, body, ...; c: else */
	FH_JN_FOR,	    /* for a in b if kids[0]: kids[1] else c */
	FH_JN_SET,	    /* a = b */
	FH_JN_SET_BLOCK,    /* a = text of b, through the filter chain c */
	FH_JN_MACRO,	    /* name, args (kw: defaults), body a */
	FH_JN_CALL_BLOCK,   /* a: the macro that is caller(); b: the call */
	FH_JN_FILTER_BLOCK, /* body a through filter chain b */
	FH_JN_WITH,	    /* kids: target, value, ...; body a */
	FH_JN_DO,	    /* a */
	FH_JN_BREAK,
	FH_JN_CONTINUE,
	FH_JN_NS_ATTR, /* target of an assignment: name.val */
};

struct fh_jfilter;
struct fh_jtest;

struct fh_jnode {
	uint8_t kind, op;
	bool flag;
	uint32_t line;
	uint32_t nr_kids, cap_kids, nr_kw, cap_kw;
	struct fh_jnode *a, *b, *c;
	struct fh_jnode **kids; /* arguments by position in a call, filter, test; parameters of a macro */
	struct fh_jnode **kw;	/* arguments by name; a macro's defaults, NULL where none */
	const struct fh_jname **kw_names;
	const struct fh_jname *name;
	struct fh_jv val;
	union {
		const struct fh_jfilter *filter;
		const struct fh_jtest *test; /* NULL: no such filter, test; an error only when it runs */
	};
};

#define FH_JNAME_BUCKETS 256

struct fh_template {
	struct fh_jarena arena;
	char *text; /* in the arena, line ends normalised */
	struct fh_jtok *toks;
	uint32_t nr_toks;
	struct fh_jname *names[FH_JNAME_BUCKETS];
	const struct fh_jname *name_loop, *name_caller;
	struct fh_jnode *root;
};

/* ---- parsing ---- */

struct fh_jparser {
	struct fh_template *t;
	uint32_t pos;
	uint32_t depth;
	uint32_t loops; /* how many for-blocks are open */
	bool failed;
	struct fh_err *err;
};

#define FH_JMAX_TEXT (4u << 20)	       /* bytes of a template */
#define FH_JMAX_PARSE_MEM (256u << 20) /* of its tokens and nodes */
#define FH_JMAX_NEST 100	       /* of blocks, and of parentheses */

int fh_jlex(struct fh_template *t, struct fh_err *err);
const struct fh_jname *fh_jintern(struct fh_template *t, const char *s, uint32_t n);
const struct fh_jname *fh_jname_find(const struct fh_template *t, const char *s, size_t n);
uint32_t fh_jhash(const char *s, size_t n);

/* All return NULL after a failure, which p->failed and p->err describe. */
void *fh_jparse_fail(struct fh_jparser *p, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
const struct fh_jtok *fh_jpeek(const struct fh_jparser *p);
const struct fh_jtok *fh_jnext(struct fh_jparser *p);
bool fh_jaccept(struct fh_jparser *p, enum fh_jtok_type type);
bool fh_jaccept_name(struct fh_jparser *p, const char *name);
bool fh_jat_name(const struct fh_jparser *p, const char *name);
bool fh_jexpect(struct fh_jparser *p, enum fh_jtok_type type, const char *what);
const struct fh_jname *fh_jexpect_name(struct fh_jparser *p);
struct fh_jnode *fh_jnode_new(struct fh_jparser *p, enum fh_jnode_kind kind);
bool fh_jnode_add(struct fh_jparser *p, struct fh_jnode *n, struct fh_jnode *kid);
bool fh_jnode_add_kw(struct fh_jparser *p, struct fh_jnode *n, const struct fh_jname *name, struct fh_jnode *val);
struct fh_jnode *fh_jparse_expr(struct fh_jparser *p); /* with a condition */
struct fh_jnode *fh_jparse_tuple(struct fh_jparser *p, bool with_cond);
struct fh_jnode *fh_jparse_filters(struct fh_jparser *p, struct fh_jnode *operand); /* name(args)|name... */
struct fh_jnode *fh_jparse_call_args(struct fh_jparser *p, struct fh_jnode *n);	    /* from its parenthesis */
struct fh_jnode *fh_jparse_postfix(struct fh_jparser *p, struct fh_jnode *n);
struct fh_jnode *fh_jparse_template(struct fh_jparser *p);

/* ---- rendering ---- */

struct fh_jlimits {
	uint64_t steps;	  /* nodes evaluated, elements and some bytes looked at */
	size_t mem_bytes; /* of values */
	size_t out_bytes;
	uint32_t depth; /* of evaluation, so of the C stack */
	uint32_t range; /* elements of a range() */
	int64_t now;	/* Unix time for strftime_now, UTC; 0: the clock, local time */
};

extern const struct fh_jlimits fh_jlimits_default;

struct fh_jvar {
	const struct fh_jname *name;
	struct fh_jv val;
};

struct fh_jscope {
	struct fh_jscope *up;
	struct fh_jvar *vars; /* [n] */
	uint32_t n, cap;
	bool captured; /* a macro refers to it: it must live on */
};

struct fh_jbuf { /* a string that grows, in the rendering's arena */
	char *p;
	size_t n, cap;
};

struct fh_jctx {
	const struct fh_template *t;
	const struct fh_jlimits *lim;
	struct fh_jarena arena;
	uint64_t steps;	 /* left */
	size_t out_left; /* bytes that may still be printed, into whatever buffer */
	uint32_t depth;	 /* left */
	uint32_t line;	 /* of the node in hand */
	bool failed;
	struct fh_err *err;
	struct fh_jbuf *out;
	struct fh_jscope *scope;
};

struct fh_jargs {
	const struct fh_jv *pos; /* [nr] */
	uint32_t nr, nr_kw;
	const struct fh_jvar *kw; /* [nr_kw] */
};

struct fh_jfilter {
	const char *name;
	struct fh_jv (*fn)(struct fh_jctx *c, struct fh_jv in, const struct fh_jargs *a);
};

struct fh_jtest {
	const char *name;
	bool (*fn)(struct fh_jctx *c, struct fh_jv in, const struct fh_jargs *a);
};

struct fh_jfunc {
	const char *name;
	struct fh_jv (*fn)(struct fh_jctx *c, const struct fh_jargs *a);
};

struct fh_jmethod {
	struct fh_jv self;
	const char *name; /* of a static table */
	struct fh_jv (*fn)(struct fh_jctx *c, struct fh_jv self, const struct fh_jargs *a);
};

struct fh_jmacro {
	const struct fh_jnode *node;
	struct fh_jscope *scope; /* where it was defined */
};

int fh_jrender(const struct fh_template *t, const struct fh_jlimits *lim, json_t *vars, char **out, size_t *bytes,
	       struct fh_err *err);

/* Keeps the first message; returns the undefined value. */
struct fh_jv fh_jfail(struct fh_jctx *c, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
/* Take @n steps; true when the rendering has to end. */
bool fh_jcharge(struct fh_jctx *c, uint64_t n);
bool fh_jenter(struct fh_jctx *c); /* one level deeper; false, and failed, at the limit */
static inline void fh_jleave(struct fh_jctx *c)
{
	c->depth++;
}

/* jinja_value.c */
#define FH_JV_NONE ((struct fh_jv){.type = FH_J_NONE})
#define FH_JV_UNDEF ((struct fh_jv){.type = FH_J_UNDEF})
static inline struct fh_jv fh_jbool(bool b)
{
	return (struct fh_jv){.type = FH_J_BOOL, .b = b};
}
static inline struct fh_jv fh_jint(int64_t i)
{
	return (struct fh_jv){.type = FH_J_INT, .i = i};
}
static inline struct fh_jv fh_jfloat(double f)
{
	return (struct fh_jv){.type = FH_J_FLOAT, .f = f};
}
/* An empty string may come as NULL; inside it is never that, so that s + n is always defined. */
static inline struct fh_jv fh_jstr(const char *s, size_t n)
{
	return (struct fh_jv){.type = FH_J_STR, .s = s ? s : "", .n = (uint32_t)n};
}
static inline bool fh_jis_int(struct fh_jv v) /* Python's bool is an int */
{
	return v.type == FH_J_INT || v.type == FH_J_BOOL;
}
static inline bool fh_jis_num(struct fh_jv v)
{
	return fh_jis_int(v) || v.type == FH_J_FLOAT;
}
static inline int64_t fh_jget_int(struct fh_jv v)
{
	return v.type == FH_J_BOOL ? v.b : v.i;
}
static inline double fh_jget_num(struct fh_jv v)
{
	return v.type == FH_J_FLOAT ? v.f : (double)fh_jget_int(v);
}
struct fh_jv fh_jundef(const char *name, size_t n);
struct fh_jv fh_jlist_new(struct fh_jctx *c, bool tuple); /* undefined when it fails */
bool fh_jlist_push(struct fh_jctx *c, struct fh_jlist *l, struct fh_jv v);
struct fh_jv fh_jpair(struct fh_jctx *c, struct fh_jv a, struct fh_jv b); /* a tuple */
struct fh_jv fh_jdict_new(struct fh_jctx *c, enum fh_jtype type);
bool fh_jdict_set(struct fh_jctx *c, struct fh_jdict *d, struct fh_jv key, struct fh_jv val);
const struct fh_jv *fh_jdict_get(struct fh_jctx *c, const struct fh_jdict *d, struct fh_jv key);
bool fh_jtruth(struct fh_jv v);
bool fh_jequal(struct fh_jctx *c, struct fh_jv a, struct fh_jv b);
int fh_jorder(struct fh_jctx *c, struct fh_jv a, struct fh_jv b); /* <0, 0, >0; 2: NaN; fails where Python does */
bool fh_jcontains(struct fh_jctx *c, struct fh_jv hay, struct fh_jv needle);
struct fh_jlist *fh_jiter(struct fh_jctx *c, struct fh_jv v); /* its elements; NULL when it has none and failed */
struct fh_jv fh_jfrom_json(struct fh_jctx *c, json_t *j);     /* borrows the strings of @j */
const char *fh_jtype_name(struct fh_jv v);		      /* Python's name */
bool fh_jstr_is(struct fh_jv v, const char *s);

bool fh_jbuf_put(struct fh_jctx *c, struct fh_jbuf *b, const char *s, size_t n);
static inline struct fh_jv fh_jbuf_str(const struct fh_jbuf *b)
{
	return fh_jstr(b->p ? b->p : "", b->n);
}

/* jinja_print.c */
bool fh_jprint(struct fh_jctx *c, struct fh_jbuf *b, struct fh_jv v); /* str() */
bool fh_jrepr(struct fh_jctx *c, struct fh_jbuf *b, struct fh_jv v);  /* repr() */
struct fh_jv fh_jto_str(struct fh_jctx *c, struct fh_jv v);
size_t fh_jprint_float(double f, char out[64]);

struct fh_jjson {
	int indent; /* <0: one line */
	struct fh_jv indent_text, item_sep, key_sep;
	bool sort_keys, ascii;
};
bool fh_jprint_json(struct fh_jctx *c, struct fh_jbuf *b, struct fh_jv v, const struct fh_jjson *o, uint32_t level);

/* jinja_text.c: UTF-8; a broken byte counts as one character */
size_t fh_jutf8(const char *p, const char *end, uint32_t *cp); /* bytes of the character at @p < @end */
size_t fh_jutf8_put(char out[4], uint32_t cp);
size_t fh_jutf8_len(struct fh_jv s);	      /* characters */
size_t fh_jutf8_at(struct fh_jv s, size_t i); /* where character @i begins, in bytes */
bool fh_jis_space(uint32_t cp);		      /* str.isspace() */
bool fh_jis_alpha(uint32_t cp);		      /* a letter, as title() sees it */
uint32_t fh_jto_upper(uint32_t cp);
uint32_t fh_jto_lower(uint32_t cp);
enum fh_jcase { FH_JCASE_UPPER, FH_JCASE_LOWER, FH_JCASE_TITLE, FH_JCASE_CAPITALIZE };
struct fh_jv fh_jrecase(struct fh_jctx *c, struct fh_jv s, enum fh_jcase how);
/* @chars: a set of characters, or no string at all for white space */
struct fh_jv fh_jstrip(struct fh_jctx *c, struct fh_jv s, struct fh_jv chars, bool left, bool right);
struct fh_jv fh_jreplace(struct fh_jctx *c, struct fh_jv s, struct fh_jv old, struct fh_jv new_s, int64_t count);
const char *fh_jfind(struct fh_jv hay, size_t from, struct fh_jv needle);		 /* memmem */
struct fh_jv fh_jpercent(struct fh_jctx *c, struct fh_jv fmt, const struct fh_jargs *a); /* '%s' % x */

/* jinja_expr.c, jinja_exec.c */
struct fh_jv fh_jeval(struct fh_jctx *c, const struct fh_jnode *n);
enum fh_jflow { FH_JFLOW_NEXT, FH_JFLOW_BREAK, FH_JFLOW_CONTINUE };
enum fh_jflow fh_jexec(struct fh_jctx *c, const struct fh_jnode *n);
struct fh_jv fh_jcall(struct fh_jctx *c, struct fh_jv f, const struct fh_jargs *a);
struct fh_jv fh_jcall_macro(struct fh_jctx *c, struct fh_jmacro *m, const struct fh_jargs *a);
bool fh_jeval_args(struct fh_jctx *c, const struct fh_jnode *n, struct fh_jargs *out);
struct fh_jv fh_jattr(struct fh_jctx *c, struct fh_jv obj, const char *name, size_t n);
struct fh_jv fh_jitem(struct fh_jctx *c, struct fh_jv obj, struct fh_jv key);
struct fh_jv fh_jbinary(struct fh_jctx *c, enum fh_jtok_type op, struct fh_jv a, struct fh_jv b);
bool fh_jcompare(struct fh_jctx *c, enum fh_jtok_type op, struct fh_jv a, struct fh_jv b);
bool fh_jscope_set(struct fh_jctx *c, struct fh_jscope *s, const struct fh_jname *name, struct fh_jv v);
const struct fh_jv *fh_jscope_get(const struct fh_jscope *s, const struct fh_jname *name);
struct fh_jscope *fh_jscope_push(struct fh_jctx *c, struct fh_jscope *up);
bool fh_jassign(struct fh_jctx *c, const struct fh_jnode *target, struct fh_jv v);
struct fh_jv fh_japply_filter(struct fh_jctx *c, const struct fh_jnode *n, struct fh_jv in);

/* the built-in tables */
const struct fh_jfilter *fh_jfilter_find(const char *name, size_t n);
const struct fh_jfilter *fh_jfilter_seq_find(const char *name, size_t n);
const struct fh_jtest *fh_jtest_find(const char *name, size_t n);
const struct fh_jfunc *fh_jfunc_find(const char *name, size_t n);
bool fh_jmethod_find(struct fh_jv self, const char *name, size_t n, struct fh_jmethod *out);
/* Argument @i, or by @name; false when it is not there. */
bool fh_jarg(const struct fh_jargs *a, uint32_t i, const char *name, struct fh_jv *out);
int64_t fh_jarg_int(struct fh_jctx *c, const struct fh_jargs *a, uint32_t i, const char *name, int64_t dflt);
bool fh_jarg_bool(const struct fh_jargs *a, uint32_t i, const char *name, bool dflt);
struct fh_jv fh_jarg_str(struct fh_jctx *c, const struct fh_jargs *a, uint32_t i, const char *name, const char *dflt);

#endif /* FH_MODEL_JINJA_H */
