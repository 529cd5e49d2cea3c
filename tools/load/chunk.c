// SPDX-License-Identifier: Apache-2.0
/*
 * A JSON reader that knows where in a completion it is; see chunk.h.
 *
 * It is lenient where leniency cannot change a figure: numbers and words are
 * stepped over without a check of their form.  Brackets, strings and commas
 * have to be right.
 */
#include <string.h>

#include "tools/load/chunk.h"

#define MAX_DEPTH 64

/* The objects on the way to what is wanted. */
enum place { ROOT, CHOICES, CHOICE, TEXT, USAGE, DETAILS, ERROR, OTHER };

struct reader {
	const char *p, *end;
	struct load_chunk *c;
	int depth;
};

struct str {
	const char *p; /* as written, escapes and all */
	size_t n;
};

static void skip_space(struct reader *r)
{
	while (r->p < r->end && (*r->p == ' ' || *r->p == '\t' || *r->p == '\n' || *r->p == '\r'))
		r->p++;
}

static bool take(struct reader *r, char ch)
{
	skip_space(r);
	if (r->p == r->end || *r->p != ch)
		return false;
	r->p++;
	return true;
}

static bool read_string(struct reader *r, struct str *s)
{
	if (!take(r, '"'))
		return false;
	s->p = r->p;
	for (; r->p < r->end; r->p++) {
		if (*r->p == '"') {
			s->n = (size_t)(r->p++ - s->p);
			return true;
		}
		if (*r->p == '\\' && ++r->p == r->end)
			return false;
	}
	return false;
}

static bool is(const struct str *s, const char *name)
{
	return s->n == strlen(name) && !memcmp(s->p, name, s->n);
}

static void keep_error(struct load_chunk *c, const char *p, size_t n)
{
	if (n > sizeof(c->error) - 1)
		n = sizeof(c->error) - 1;
	memcpy(c->error, p, n);
	c->error[n] = '\0';
	for (size_t i = 0; i < n; i++)
		if ((unsigned char)c->error[i] < ' ')
			c->error[i] = ' ';
}

static void on_string(struct reader *r, enum place at, const struct str *key, const struct str *s)
{
	struct load_chunk *c = r->c;

	if (at == CHOICE && is(key, "text"))
		c->has_text |= s->n > 0;
	else if (at == CHOICE && is(key, "finish_reason"))
		c->finished = true;
	else if (at == TEXT && (is(key, "content") || is(key, "reasoning_content") || is(key, "reasoning")))
		c->has_text |= s->n > 0;
	else if ((at == ERROR && is(key, "message")) || (at == ROOT && (is(key, "detail") || is(key, "message"))))
		keep_error(c, s->p, s->n);
	if (at == ROOT && is(key, "error")) {
		c->has_error = true;
		keep_error(c, s->p, s->n);
	}
}

static void on_scalar(struct reader *r, enum place at, const struct str *key, const char *p, size_t n)
{
	uint64_t v = 0;

	for (size_t i = 0; i < n && p[i] >= '0' && p[i] <= '9' && v < UINT32_MAX; i++)
		v = 10 * v + (uint64_t)(p[i] - '0');
	if (at == USAGE && is(key, "completion_tokens"))
		r->c->completion_tokens = v;
	else if (at == USAGE && is(key, "prompt_tokens"))
		r->c->prompt_tokens = v;
	else if (at == DETAILS && is(key, "cached_tokens"))
		r->c->cached_tokens = v;
}

/* Where the value of @key in @at leads. */
static enum place below(enum place at, const struct str *key)
{
	switch (at) {
	case ROOT: return is(key, "choices") ? CHOICES : is(key, "usage") ? USAGE : is(key, "error") ? ERROR : OTHER;
	case CHOICE: return is(key, "delta") || is(key, "message") ? TEXT : OTHER;
	case USAGE: return is(key, "prompt_tokens_details") ? DETAILS : OTHER;
	default: return OTHER;
	}
}

static bool read_value(struct reader *r, enum place at, const struct str *key, enum place inside);

static bool read_object(struct reader *r, enum place at)
{
	struct str key;

	if (at == CHOICE)
		r->c->has_choices = true;
	if (at == ERROR)
		r->c->has_error = true;
	if (take(r, '}'))
		return true;
	do {
		if (!read_string(r, &key) || !take(r, ':') || !read_value(r, at, &key, below(at, &key)))
			return false;
	} while (take(r, ','));
	return take(r, '}');
}

static bool read_array(struct reader *r, enum place inside)
{
	static const struct str none = {"", 0};

	if (take(r, ']'))
		return true;
	do {
		if (!read_value(r, OTHER, &none, inside == CHOICES ? CHOICE : OTHER))
			return false;
	} while (take(r, ','));
	return take(r, ']');
}

/* The value of @key in @at; @inside is where it leads if it holds more. */
static bool read_value(struct reader *r, enum place at, const struct str *key, enum place inside)
{
	const char *begin;
	struct str s;
	bool ok;

	skip_space(r);
	if (r->p == r->end || r->depth == MAX_DEPTH)
		return false;
	if (*r->p == '"') {
		ok = read_string(r, &s);
		if (ok)
			on_string(r, at, key, &s);
		return ok;
	}
	if (*r->p == '{' || *r->p == '[') {
		r->depth++;
		ok = *r->p++ == '{' ? read_object(r, inside == CHOICES ? OTHER : inside) : read_array(r, inside);
		r->depth--;
		return ok;
	}
	begin = r->p;
	while (r->p < r->end && !strchr(",}] \t\r\n\"[{:", *r->p))
		r->p++;
	if (r->p == begin)
		return false;
	on_scalar(r, at, key, begin, (size_t)(r->p - begin));
	return true;
}

bool load_chunk_parse(const char *s, size_t n, struct load_chunk *c)
{
	struct reader r = {.p = s, .end = s + n, .c = c};

	*c = (struct load_chunk){0};
	if (!take(&r, '{'))
		return false;
	r.depth = 1;
	if (!read_object(&r, ROOT))
		return false;
	skip_space(&r);
	return r.p == r.end;
}
