// SPDX-License-Identifier: Apache-2.0
/*
 * Chat templates: text to tokens.
 *
 * White space follows Jinja with trim_blocks and lstrip_blocks on, which is
 * how models' templates are meant to be read: a newline right after a block
 * tag or a comment goes, and so does the blank space between the beginning of
 * a line and such a tag; "-" strips all of it on its side, "+" keeps it.
 *
 * Tokens and resolved strings live in the template's arena; data and names
 * point into its text.
 */
#include "runtime/model/jinja.h"

#include <stdlib.h>
#include <string.h>

struct lexer {
	struct fh_template *t;
	const char *p, *end;
	uint32_t line, cap;
	bool trim_next; /* the tag before asked for what follows to lose its white space */
	char stack[FH_JMAX_NEST];
	uint32_t depth; /* open brackets */
	struct fh_err *err;
};

static int lex_fail(const struct lexer *lx, const char *what)
{
	return fh_errf(lx->err, -EINVAL, "chat template, line %u: %s", lx->line, what);
}

static struct fh_jtok *push(struct lexer *lx, enum fh_jtok_type type)
{
	struct fh_template *t = lx->t;
	struct fh_jtok *tok;

	if (t->nr_toks == lx->cap) {
		uint32_t cap = lx->cap ? lx->cap * 2 : 256;
		struct fh_jtok *toks = fh_jarena_alloc(&t->arena, cap * sizeof(*toks));

		if (!toks)
			return NULL;
		if (t->nr_toks)
			memcpy(toks, t->toks, t->nr_toks * sizeof(*toks));
		t->toks = toks;
		lx->cap = cap;
	}
	tok = &t->toks[t->nr_toks++];
	*tok = (struct fh_jtok){.type = (uint8_t)type, .line = lx->line};
	return tok;
}

static int push_simple(struct lexer *lx, enum fh_jtok_type type)
{
	return push(lx, type) ? 0 : -ENOMEM;
}

static int push_text(struct lexer *lx, enum fh_jtok_type type, const char *s, size_t n)
{
	struct fh_jtok *tok = push(lx, type);

	if (!tok)
		return -ENOMEM;
	tok->s = s;
	tok->n = (uint32_t)n;
	return 0;
}

/* Move to @to, counting lines. */
static void advance(struct lexer *lx, const char *to)
{
	for (; lx->p < to; lx->p++)
		lx->line += *lx->p == '\n';
}

static bool at(const struct lexer *lx, const char *s)
{
	size_t n = strlen(s);

	return (size_t)(lx->end - lx->p) >= n && !memcmp(lx->p, s, n);
}

static const char *skip_space(const char *p, const char *end)
{
	uint32_t cp;

	while (p < end) {
		size_t n = fh_jutf8(p, end, &cp);

		if (!fh_jis_space(cp))
			break;
		p += n;
	}
	return p;
}

/* Before a tag: where the text [@s, @e) ends once the tag's sign has had its say. */
static const char *strip_before(const char *text, const char *s, const char *e, char sign, bool variable)
{
	const char *line = e;

	if (sign == '-') {
		struct fh_jv v = fh_jstrip(NULL, fh_jstr(s, (size_t)(e - s)), FH_JV_NONE, false, true);

		return s + v.n;
	}
	if (sign == '+' || variable)
		return e;
	while (line > s && line[-1] != '\n')
		line--;
	if (line == s && s > text && s[-1] != '\n')
		return e; /* the tag before is on the same line */
	return skip_space(line, e) == e ? line : e;
}

static int push_data(struct lexer *lx, const char *s, const char *e)
{
	return e > s ? push_text(lx, FH_JT_DATA, s, (size_t)(e - s)) : 0;
}

/* After "%}" or "#}" (the sign stood before it). */
static void after_block(struct lexer *lx, char sign)
{
	if (sign == '-')
		advance(lx, skip_space(lx->p, lx->end));
	else if (sign != '+' && lx->p < lx->end && *lx->p == '\n')
		advance(lx, lx->p + 1);
}

static int lex_comment(struct lexer *lx)
{
	const char *e = memmem(lx->p, (size_t)(lx->end - lx->p), "#}", 2);
	char sign;

	if (!e)
		return lex_fail(lx, "a comment is not closed: '#}' is missing");
	sign = e > lx->p ? e[-1] : 0;
	advance(lx, e + 2);
	after_block(lx, sign);
	return 0;
}

/*
 * Is "{%[-+]? WORD [-+]?%}" at @p?  Returns where it ends, and its signs.
 */
static const char *match_word_tag(const char *p, const char *end, const char *word, char *open, char *close)
{
	size_t n = strlen(word);

	if (end - p < 2 || p[0] != '{' || p[1] != '%')
		return NULL;
	p += 2;
	*open = 0;
	*close = 0;
	if (p < end && (*p == '-' || *p == '+'))
		*open = *p++;
	p = skip_space(p, end);
	if ((size_t)(end - p) < n || memcmp(p, word, n))
		return NULL;
	p = skip_space(p + n, end);
	if (p < end && (*p == '-' || *p == '+'))
		*close = *p++;
	if (end - p < 2 || p[0] != '%' || p[1] != '}')
		return NULL;
	return p + 2;
}

/* Past "{% raw %}": everything is data until "{% endraw %}". */
static int lex_raw(struct lexer *lx, char close)
{
	char open, sign;
	const char *s, *p;
	int rc;

	if (close == '-')
		advance(lx, skip_space(lx->p, lx->end));
	s = lx->p;
	for (p = s; (p = memmem(p, (size_t)(lx->end - p), "{%", 2)); p += 2) {
		const char *e = match_word_tag(p, lx->end, "endraw", &open, &sign);

		if (!e)
			continue;
		rc = push_data(lx, s, strip_before(lx->t->text, s, p, open, false));
		advance(lx, e);
		after_block(lx, sign);
		return rc;
	}
	return lex_fail(lx, "{% raw %} without {% endraw %}");
}

static const struct {
	char text[3];
	uint8_t type;
} operators[] = {
	{"**", FH_JT_POW},   {"//", FH_JT_FLOORDIV}, {"==", FH_JT_EQ},	    {"!=", FH_JT_NE},	   {"<=", FH_JT_LE},
	{">=", FH_JT_GE},    {"+", FH_JT_ADD},	     {"-", FH_JT_SUB},	    {"*", FH_JT_MUL},	   {"/", FH_JT_DIV},
	{"%", FH_JT_MOD},    {"~", FH_JT_TILDE},     {"<", FH_JT_LT},	    {">", FH_JT_GT},	   {"=", FH_JT_ASSIGN},
	{".", FH_JT_DOT},    {",", FH_JT_COMMA},     {":", FH_JT_COLON},    {";", FH_JT_SEMI},	   {"|", FH_JT_PIPE},
	{"(", FH_JT_LPAREN}, {")", FH_JT_RPAREN},    {"[", FH_JT_LBRACKET}, {"]", FH_JT_RBRACKET}, {"{", FH_JT_LBRACE},
	{"}", FH_JT_RBRACE},
};

static int lex_operator(struct lexer *lx)
{
	static const char openers[] = "([{", closers[] = ")]}";
	const char *q;
	char msg[64];
	char ch = *lx->p;

	if (ch && (q = strchr(openers, ch))) {
		if (lx->depth == FH_JMAX_NEST)
			return lex_fail(lx, "brackets are nested too deeply");
		lx->stack[lx->depth++] = closers[q - openers];
	} else if (ch && strchr(closers, ch)) {
		if (!lx->depth || lx->stack[lx->depth - 1] != ch) {
			snprintf(msg, sizeof(msg), "unexpected '%c'", ch);
			return lex_fail(lx, msg);
		}
		lx->depth--;
	}
	for (size_t i = 0; i < sizeof(operators) / sizeof(operators[0]); i++) {
		if (!at(lx, operators[i].text))
			continue;
		lx->p += strlen(operators[i].text);
		return push_simple(lx, operators[i].type);
	}
	snprintf(msg, sizeof(msg), ch > ' ' && ch < 0x7f ? "unexpected character '%c'" : "unexpected byte 0x%02x",
		 (unsigned char)ch);
	return lex_fail(lx, msg);
}

static int digit(char ch, unsigned int base)
{
	int v = ch >= '0' && ch <= '9' ? ch - '0' : (ch | 32) >= 'a' && (ch | 32) <= 'f' ? (ch | 32) - 'a' + 10 : 99;

	return v < (int)base ? v : -1;
}

/* Digits with single underscores between them. */
static const char *skip_digits(const char *p, const char *end, unsigned int base)
{
	while (p < end && (digit(*p, base) >= 0 || (*p == '_' && p + 1 < end && digit(p[1], base) >= 0)))
		p++;
	return p;
}

static int lex_float(struct lexer *lx, const char *e)
{
	char digits[128];
	size_t n = 0;
	struct fh_jtok *tok;

	for (const char *p = lx->p; p < e; p++) {
		if (*p == '_')
			continue;
		if (n == sizeof(digits) - 1)
			return lex_fail(lx, "a number with too many digits");
		digits[n++] = *p;
	}
	digits[n] = 0;
	tok = push(lx, FH_JT_FLOAT);
	if (!tok)
		return -ENOMEM;
	tok->f = strtod(digits, NULL);
	lx->p = e;
	return 0;
}

static int lex_number(struct lexer *lx)
{
	const char *p = lx->p, *e, *x;
	bool after_dot = lx->t->nr_toks && lx->t->toks[lx->t->nr_toks - 1].type == FH_JT_DOT;
	unsigned int base = 10;
	struct fh_jtok *tok;
	int64_t v = 0;

	if (*p == '0' && lx->end - p > 2 && strchr("xXbBoO", p[1])) {
		base = (p[1] | 32) == 'x' ? 16 : (p[1] | 32) == 'b' ? 2 : 8;
		p += 2;
	}
	e = skip_digits(p, lx->end, base);
	if (base == 10 && !after_dot) {
		x = e;
		if (lx->end - x > 1 && *x == '.' && digit(x[1], 10) >= 0)
			x = skip_digits(x + 1, lx->end, 10);
		if (lx->end - x > 1 && (*x | 32) == 'e') {
			const char *exp = x + 1 + (x[1] == '+' || x[1] == '-');

			if (exp < lx->end && digit(*exp, 10) >= 0)
				x = skip_digits(exp, lx->end, 10);
		}
		if (x > e)
			return lex_float(lx, x);
	}
	if (e == p)
		return lex_fail(lx, "a number without digits");
	for (; p < e; p++)
		if (*p != '_' && (__builtin_mul_overflow(v, (int64_t)base, &v) ||
				  __builtin_add_overflow(v, (int64_t)digit(*p, base), &v)))
			return lex_fail(lx, "an integer does not fit in 64 bits");
	tok = push(lx, FH_JT_INT);
	if (!tok)
		return -ENOMEM;
	tok->i = v;
	lx->p = e;
	return 0;
}

/* One escape at @p (past the backslash) into @out; returns where it ends, NULL when it is broken. */
static const char *lex_escape(const char *p, const char *end, char *out, size_t *n)
{
	static const char from[] = "abfnrtv\\'\"", to[] = "\a\b\f\n\r\t\v\\'\"";
	int digits = *p == 'x' ? 2 : *p == 'u' ? 4 : *p == 'U' ? 8 : 0;
	const char *q = *p ? strchr(from, *p) : NULL;
	uint32_t cp = 0;

	if (q) {
		out[(*n)++] = to[q - from];
		return p + 1;
	}
	if (*p == '\n')
		return p + 1;
	if (digits) {
		for (p++; digits; digits--, p++) {
			if (p == end || digit(*p, 16) < 0)
				return NULL;
			cp = cp << 4 | (uint32_t)digit(*p, 16);
		}
	} else if (digit(*p, 8) >= 0) {
		for (digits = 3; digits && p < end && digit(*p, 8) >= 0; digits--)
			cp = cp << 3 | (uint32_t)digit(*p++, 8);
	} else {
		out[(*n)++] = '\\'; /* Python keeps what it does not know */
		return p;
	}
	if (cp > 0x10ffff)
		return NULL;
	*n += fh_jutf8_put(out + *n, cp);
	return p;
}

static int lex_string(struct lexer *lx)
{
	char quote = *lx->p;
	const char *s = lx->p + 1, *e = s;
	size_t n = 0;
	char *out;

	while (e < lx->end && *e != quote)
		e += *e == '\\' && e + 1 < lx->end ? 2 : 1;
	if (e >= lx->end)
		return lex_fail(lx, "a string is not closed");
	/* An escape never becomes longer than it was, but for an unknown one's backslash, which it had. */
	out = fh_jarena_alloc(&lx->t->arena, (size_t)(e - s) + 4);
	if (!out)
		return -ENOMEM;
	for (const char *p = s; p < e;) {
		if (*p != '\\') {
			out[n++] = *p++;
			continue;
		}
		p = lex_escape(p + 1, e, out, &n);
		if (!p)
			return lex_fail(lx, "a broken escape in a string");
	}
	if (push_text(lx, FH_JT_STR, out, n))
		return -ENOMEM;
	advance(lx, e + 1);
	return 0;
}

static bool name_byte(char ch, bool first)
{
	return (ch >= 'a' && ch <= 'z') || (ch >= 'A' && ch <= 'Z') || ch == '_' || (unsigned char)ch >= 0x80 ||
	       (!first && ch >= '0' && ch <= '9');
}

/* The inside of a tag up to and with its end ("}}" or "%}"). */
static int lex_tag(struct lexer *lx, bool variable)
{
	const char *close = variable ? "}}" : "%}";
	int rc;

	for (lx->depth = 0;;) {
		const char *s;

		advance(lx, skip_space(lx->p, lx->end));
		if (lx->p == lx->end)
			return lex_fail(lx, variable ? "'}}' is missing" : "'%}' is missing");
		if (!lx->depth) {
			char sign = *lx->p == '-' || (*lx->p == '+' && !variable) ? *lx->p : 0;

			lx->p += sign != 0;
			if (at(lx, close)) {
				rc = push_simple(lx, variable ? FH_JT_VAR_END : FH_JT_BLOCK_END);
				lx->p += 2;
				if (!variable)
					after_block(lx, sign);
				else if (sign)
					advance(lx, skip_space(lx->p, lx->end));
				return rc;
			}
			lx->p -= sign != 0;
		}
		s = lx->p;
		if (name_byte(*s, true)) {
			while (lx->p < lx->end && name_byte(*lx->p, false))
				lx->p++;
			rc = push_text(lx, FH_JT_NAME, s, (size_t)(lx->p - s));
		} else if (*s >= '0' && *s <= '9') {
			rc = lex_number(lx);
		} else if (*s == '\'' || *s == '"') {
			rc = lex_string(lx);
		} else {
			rc = lex_operator(lx);
		}
		if (rc)
			return rc;
	}
}

/* The tag that begins at lx->p, with the data [@s, lx->p) before it. */
static int lex_one(struct lexer *lx, const char *s)
{
	char kind = lx->p[1], sign = 0, close;
	const char *raw;
	int rc;

	if (lx->end - lx->p > 2 && (lx->p[2] == '-' || lx->p[2] == '+'))
		sign = lx->p[2];
	rc = push_data(lx, s, strip_before(lx->t->text, s, lx->p, sign, kind == '{'));
	if (rc)
		return rc;
	raw = kind == '%' ? match_word_tag(lx->p, lx->end, "raw", &sign, &close) : NULL;
	if (raw) {
		advance(lx, raw);
		return lex_raw(lx, close);
	}
	lx->p += 2 + (sign != 0);
	if (kind == '#')
		return lex_comment(lx);
	rc = push_simple(lx, kind == '{' ? FH_JT_VAR_BEGIN : FH_JT_BLOCK_BEGIN);
	return rc ? rc : lex_tag(lx, kind == '{');
}

/* The first "{{", "{%" or "{#" at or after @p. */
static const char *find_tag(const char *p, const char *end)
{
	for (; (p = memchr(p, '{', (size_t)(end - p))); p++) {
		if (p + 1 == end)
			return NULL;
		if (p[1] == '{' || p[1] == '%' || p[1] == '#')
			return p;
	}
	return NULL;
}

int fh_jlex(struct fh_template *t, struct fh_err *err)
{
	struct lexer lx = {.t = t, .p = t->text, .end = t->text + strlen(t->text), .line = 1, .err = err};
	int rc = 0;

	while (!rc && lx.p < lx.end) {
		const char *s = lx.p, *tag = find_tag(lx.p, lx.end);

		if (!tag) {
			rc = push_data(&lx, s, lx.end);
			break;
		}
		advance(&lx, tag);
		rc = lex_one(&lx, s);
	}
	if (!rc)
		rc = push_simple(&lx, FH_JT_EOF);
	if (rc == -ENOMEM)
		return fh_errf(err, rc, "chat template: more than %u MiB of tokens", FH_JMAX_PARSE_MEM >> 20);
	return rc;
}
