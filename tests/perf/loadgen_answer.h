/* SPDX-License-Identifier: Apache-2.0 */
/*
 * An HTTP/1.1 answer to a completion request, digested as it arrives: its head,
 * its body by length, by chunks or to the end of the connection, and in it the
 * SSE events that carry text, each of which counts as a token unless the server
 * states a count of its own.
 *
 * Nothing is allocated, and no byte of a body is copied unless its line arrives
 * in pieces.
 */
#ifndef TESTS_PERF_LOADGEN_ANSWER_H
#define TESTS_PERF_LOADGEN_ANSWER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/types.h>

#include "tests/perf/loadgen_stats.h"

enum {
	ANSWER_HEAD_MAX = 8192,
	ANSWER_LINE_MAX = 8192, /* of a line that arrives in pieces; of longer ones the end is kept */
};

enum answer_state { HEAD, BODY, CHUNK_SIZE, CHUNK_DATA, CHUNK_END, TRAILER, TO_CLOSE, DONE };

struct answer {
	enum answer_state state;
	bool chunked, closes;
	int status;
	uint64_t left; /* bytes of the body or chunk */
	uint32_t events;
	uint64_t usage; /* tokens by the server's count; 0: it did not say */
	uint64_t first_ns, last_ns;
	struct hist *gaps; /* between events; may be NULL */
	size_t head_len, line_len;
	char head[ANSWER_HEAD_MAX];
	char line[ANSWER_LINE_MAX];
};

/* Begin a new answer. */
static inline void answer_reset(struct answer *a, struct hist *gaps)
{
	memset(a, 0, offsetof(struct answer, head));
	a->gaps = gaps;
	a->head[0] = '\0';
}

/* The number after @name in @s, or 0. */
static inline uint64_t field(const char *s, size_t n, const char *name)
{
	const char *p = memmem(s, n, name, strlen(name)), *end = s + n;
	uint64_t v = 0;

	if (!p)
		return 0;
	for (p += strlen(name); p < end && *p == ' '; p++)
		;
	for (; p < end && *p >= '0' && *p <= '9' && v < UINT32_MAX; p++)
		v = 10 * v + (uint64_t)(*p - '0');
	return v;
}

/* Does the event carry text?  Those with an empty one only say how it ended. */
static inline bool has_text(const char *s, size_t n)
{
	static const char *const names[] = {"\"text\":", "\"content\":"};

	for (int i = 0; i < 2; i++) {
		size_t len = strlen(names[i]);
		const char *p = memmem(s, n, names[i], len);

		if (!p)
			continue;
		for (p += len; p < s + n && *p == ' '; p++)
			;
		return p + 1 < s + n && *p == '"' && p[1] != '"';
	}
	return false;
}

/* A whole line of a body, without its end: an SSE event, or the JSON of a plain answer. */
static inline void on_line(struct answer *a, const char *s, size_t n, uint64_t now)
{
	uint64_t usage;

	if (n && s[n - 1] == '\r')
		n--;
	if (n < 6)
		return;
	usage = field(s, n, "\"completion_tokens\":");
	if (!usage)
		usage = field(s, n, "\"tokens_predicted\":");
	if (usage)
		a->usage = usage;
	if (memcmp(s, "data:", 5) || !has_text(s, n))
		return;
	if (a->events++ == 0)
		a->first_ns = now;
	else if (a->gaps)
		hist_add(a->gaps, now - a->last_ns);
	a->last_ns = now;
}

/* Keep the beginning of a line; when it grows too long, its end. */
static inline void keep(struct answer *a, const char *p, size_t n)
{
	if (n > ANSWER_LINE_MAX) {
		p += n - ANSWER_LINE_MAX;
		n = ANSWER_LINE_MAX;
	}
	if (a->line_len + n > ANSWER_LINE_MAX) {
		size_t drop = a->line_len + n - ANSWER_LINE_MAX;

		memmove(a->line, a->line + drop, a->line_len - drop);
		a->line_len -= drop;
	}
	memcpy(a->line + a->line_len, p, n);
	a->line_len += n;
}

static inline void on_body(struct answer *a, const char *p, size_t n, uint64_t now)
{
	while (n) {
		const char *nl = memchr(p, '\n', n);
		size_t len = nl ? (size_t)(nl - p) : n;

		if (!nl || a->line_len || a->status != 200) {
			keep(a, p, len);
			if (nl && a->status == 200) {
				on_line(a, a->line, a->line_len, now);
				a->line_len = 0;
			}
		} else {
			on_line(a, p, len, now);
		}
		p += len + (nl != NULL);
		n -= len + (nl != NULL);
	}
}

static inline void body_end(struct answer *a, uint64_t now)
{
	if (a->line_len && a->status == 200) {
		on_line(a, a->line, a->line_len, now);
		a->line_len = 0;
	}
	a->state = DONE;
}

/* The value of header @name in the head, or NULL. */
static inline const char *header(const struct answer *a, const char *name)
{
	const char *p = a->head;
	size_t len = strlen(name);

	while ((p = strstr(p, "\r\n")) != NULL) {
		p += 2;
		if (!strncasecmp(p, name, len) && p[len] == ':') {
			for (p += len + 1; *p == ' '; p++)
				;
			return p;
		}
	}
	return NULL;
}

/* The head is complete: what follows it? False: it is no HTTP that we know. */
static inline bool on_head(struct answer *a)
{
	const char *v;

	if (strncmp(a->head, "HTTP/1.1 ", 9) && strncmp(a->head, "HTTP/1.0 ", 9))
		return false;
	a->status = atoi(a->head + 9);
	if (a->status < 100 || a->status > 599)
		return false;
	if (a->status < 200) { /* 100 Continue: the answer follows */
		a->head_len = 0;
		return true;
	}
	v = header(a, "connection");
	a->closes = (v && !strncasecmp(v, "close", 5)) || a->head[7] == '0';
	v = header(a, "transfer-encoding");
	a->chunked = v && !strncasecmp(v, "chunked", 7);
	a->left = 0;
	if (a->chunked) {
		a->state = CHUNK_SIZE;
		return true;
	}
	v = header(a, "content-length");
	if (v) {
		a->left = strtoull(v, NULL, 10);
		a->state = BODY;
	} else {
		a->state = TO_CLOSE;
		a->closes = true;
	}
	return true;
}

/* Take bytes of the head from @p. Returns how many, or -1. */
static inline ssize_t take_head(struct answer *a, const char *p, size_t n)
{
	size_t before = a->head_len, room = ANSWER_HEAD_MAX - 1 - before, k = n < room ? n : room;
	char *end;

	memcpy(a->head + before, p, k);
	a->head[before + k] = '\0';
	end = strstr(a->head + (before > 3 ? before - 3 : 0), "\r\n\r\n");
	if (!end) {
		a->head_len = before + k;
		return k == n ? (ssize_t)n : -1;
	}
	end[2] = '\0';
	k = (size_t)(end + 4 - a->head) - before;
	a->head_len = before + k;
	return on_head(a) ? (ssize_t)k : -1;
}

/* One byte of a chunk's size line or trailer. False: malformed. */
static inline bool take_chunk_byte(struct answer *a, char ch, uint64_t now)
{
	if (a->state == CHUNK_SIZE) {
		int digit = ch >= '0' && ch <= '9'		   ? ch - '0'
			    : (ch | 32) >= 'a' && (ch | 32) <= 'f' ? (ch | 32) - 'a' + 10
								   : -1;

		if (ch == '\n') {
			a->state = a->left ? CHUNK_DATA : TRAILER;
			a->head_len = 0;
		} else if (digit >= 0 && a->left < (1ULL << 40)) {
			a->left = 16 * a->left + (uint64_t)digit;
		} else if (ch != '\r') {
			return false;
		}
	} else if (a->state == CHUNK_END) {
		if (ch == '\n')
			a->state = CHUNK_SIZE;
		else if (ch != '\r')
			return false;
	} else if (ch == '\n') { /* TRAILER: ends at an empty line */
		if (a->head_len == 0)
			body_end(a, now);
		a->head_len = 0;
	} else if (ch != '\r') {
		a->head_len = 1;
	}
	return true;
}

/* Digest @n received bytes. False: malformed, the connection is useless. */
static inline bool answer_take(struct answer *a, const char *p, size_t n, uint64_t now)
{
	while (n) {
		size_t k = 1;

		switch (a->state) {
		case HEAD: {
			ssize_t used = take_head(a, p, n);

			if (used < 0)
				return false;
			k = (size_t)used;
			if (a->state == BODY && a->left == 0)
				body_end(a, now);
			break;
		}
		case BODY:
		case CHUNK_DATA:
			k = n < a->left ? n : (size_t)a->left;
			on_body(a, p, k, now);
			a->left -= k;
			if (a->left == 0 && a->state == CHUNK_DATA)
				a->state = CHUNK_END;
			else if (a->left == 0)
				body_end(a, now);
			break;
		case CHUNK_SIZE:
		case CHUNK_END:
		case TRAILER:
			if (!take_chunk_byte(a, *p, now))
				return false;
			break;
		case TO_CLOSE:
			k = n;
			on_body(a, p, n, now);
			break;
		default: /* bytes that nobody asked for */ return false;
		}
		p += k;
		n -= k;
	}
	return true;
}

/* The server closed the connection. False: before its answer was complete. */
static inline bool answer_eof(struct answer *a, uint64_t now)
{
	if (a->state == TO_CLOSE)
		body_end(a, now);
	return a->state == DONE;
}

#endif /* TESTS_PERF_LOADGEN_ANSWER_H */
