// SPDX-License-Identifier: Apache-2.0
/*
 * traceparent: VERSION "-" TRACE-ID "-" PARENT-ID "-" FLAGS, in lower-case hexadecimal digits; identities are not all
 * zero.  tracestate: a list of KEY "=" VALUE, the latest first, which mean something to their owners alone.
 */
#include "runtime/net/traceparent.h"

#include <string.h>

#define LENGTH 55 /* of version 00, and of what is understood of later ones */

static int digit(char c)
{
	if (c >= '0' && c <= '9')
		return c - '0';
	return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

static bool read_hex(const char *text, uint8_t *out, size_t bytes)
{
	for (size_t i = 0; i < bytes; i++) {
		int high = digit(text[2 * i]), low = digit(text[2 * i + 1]);

		if (high < 0 || low < 0)
			return false;
		out[i] = (uint8_t)(high << 4 | low);
	}
	return true;
}

static bool is_zero(const uint8_t *p, size_t n)
{
	while (n && !p[n - 1])
		n--;
	return !n;
}

static bool parse(const char *text, size_t n, struct fh_trace_context *out)
{
	uint8_t version, flags;

	if (n < LENGTH || text[2] != '-' || text[35] != '-' || text[52] != '-')
		return false;
	if (!read_hex(text, &version, 1) || version == 0xff || (n > LENGTH && (!version || text[LENGTH] != '-')))
		return false;
	if (!read_hex(text + 3, out->trace_id, sizeof(out->trace_id)) ||
	    !read_hex(text + 36, out->parent_id, sizeof(out->parent_id)) || !read_hex(text + 53, &flags, 1))
		return false;
	out->known = true;
	out->sampled = flags & 1;
	return !is_zero(out->trace_id, sizeof(out->trace_id)) && !is_zero(out->parent_id, sizeof(out->parent_id));
}

bool fh_traceparent_parse(const char *text, size_t n, struct fh_trace_context *out)
{
	*out = (struct fh_trace_context){0};
	if (parse(text, n, out))
		return true;
	*out = (struct fh_trace_context){0};
	return false;
}

/* ---- tracestate ---- */

#define MAX_MEMBERS 32
#define MAX_KEY 256
#define MAX_VALUE 256
#define LONG_MEMBER 128 /* those are the first to go */

struct members {
	struct fh_span of[MAX_MEMBERS];
	uint32_t nr;
	size_t bytes; /* of all of them, with a comma between two */
};

/* As the standard's second level has it, which takes whatever the first takes. */
static size_t key_length(struct fh_span m)
{
	size_t n = 0;

	while (n < m.n && m.p[n] != '=') {
		char c = m.p[n++];
		bool alnum = (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9');

		if (!alnum && (n == 1 || !memchr("_-*/@", c, 5)))
			return 0;
	}
	return n <= MAX_KEY && n < m.n ? n : 0;
}

static bool is_value(const char *text, size_t n)
{
	for (size_t i = 0; i < n; i++)
		if (text[i] < ' ' || text[i] > '~' || text[i] == ',' || text[i] == '=')
			return false;
	return n && n <= MAX_VALUE && text[n - 1] != ' ';
}

static bool add_member(struct members *all, struct fh_span m)
{
	size_t key = key_length(m);

	if (!key || !is_value(m.p + key + 1, m.n - key - 1) || all->nr == MAX_MEMBERS)
		return false;
	for (uint32_t i = 0; i < all->nr; i++)
		if (all->of[i].n > key && !memcmp(all->of[i].p, m.p, key + 1))
			return false;
	all->bytes += m.n + (all->nr != 0);
	all->of[all->nr++] = m;
	return true;
}

static bool add_field(struct members *all, struct fh_span f)
{
	while (f.n) {
		const char *comma = memchr(f.p, ',', f.n);
		struct fh_span m = {f.p, comma ? (size_t)(comma - f.p) : f.n};

		f.p += m.n + (comma != NULL);
		f.n -= m.n + (comma != NULL);
		while (m.n && (*m.p == ' ' || *m.p == '\t'))
			m.p++, m.n--;
		while (m.n && (m.p[m.n - 1] == ' ' || m.p[m.n - 1] == '\t'))
			m.n--;
		if (m.n && !add_member(all, m))
			return false;
	}
	return true;
}

/* From the end on, those of more than @bytes, until the rest finds room. */
static void drop_longer(struct members *all, size_t bytes)
{
	for (uint32_t i = all->nr; i-- && all->bytes > FH_SPAN_STATE_MAX;) {
		if (all->of[i].n <= bytes)
			continue;
		all->bytes -= all->of[i].n + (all->nr > 1);
		memmove(&all->of[i], &all->of[i + 1], (--all->nr - i) * sizeof(all->of[0]));
	}
}

bool fh_tracestate_parse(const struct fh_span *fields, uint32_t nr, char out[FH_SPAN_STATE_MAX + 1])
{
	struct members all = {.nr = 0};

	*out = 0;
	for (uint32_t i = 0; i < nr; i++)
		if (!add_field(&all, fields[i]))
			return false;
	drop_longer(&all, LONG_MEMBER);
	drop_longer(&all, 0);
	for (uint32_t i = 0; i < all.nr; i++) {
		if (i)
			*out++ = ',';
		memcpy(out, all.of[i].p, all.of[i].n);
		out += all.of[i].n;
	}
	*out = 0;
	return true;
}
