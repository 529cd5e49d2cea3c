// SPDX-License-Identifier: Apache-2.0
/* HTTP answers and server-sent events; see answer.h. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "tools/load/answer.h"

#define MAX_HEAD (64u << 10)
#define MAX_CHUNK ((uint64_t)1 << 40)

static bool wrong(struct load_answer *a, const char *why)
{
	snprintf(a->error, sizeof(a->error), "malformed answer: %s", why);
	return false;
}

/* Append, and keep a zero behind it. False: too much. */
static bool buf_add(struct fh_buf *b, const char *p, size_t n)
{
	if (b->len + n > LOAD_ANSWER_MAX || !fh_buf_reserve(b, n + 1))
		return false;
	fh_buf_put(b, p, n);
	b->data[b->len] = '\0';
	return true;
}

void load_answer_reset(struct load_answer *a)
{
	*a = (struct load_answer){.on_text = a->on_text, .line = a->line, .data = a->data};
	a->line.len = a->data.len = 0;
}

void load_answer_free(struct load_answer *a)
{
	fh_buf_free(&a->line);
	fh_buf_free(&a->data);
}

/* What a body's JSON says: an event's, or the whole of a plain answer. */
static void on_chunk(struct load_answer *a, const struct load_chunk *c, uint64_t now)
{
	if (c->prompt_tokens)
		a->prompt_tokens = c->prompt_tokens;
	if (c->completion_tokens)
		a->completion_tokens = c->completion_tokens;
	if (c->cached_tokens)
		a->cached_tokens = c->cached_tokens;
	a->finished |= c->finished;
	if (c->has_choices) {
		a->choice_ns = a->choice_ns ? a->choice_ns : now;
		a->last_choice_ns = now;
	}
	if (c->has_error) {
		a->failed = true;
		memcpy(a->error, c->error, sizeof(a->error));
	}
	if (!c->has_text)
		return;
	if (a->on_text)
		a->on_text(a, now);
	a->nr_events++;
	a->first_ns = a->first_ns ? a->first_ns : now;
	a->last_ns = now;
}

/* An empty line: the event is complete. */
static bool on_event(struct load_answer *a, uint64_t now)
{
	struct fh_buf *d = &a->data;
	struct load_chunk c;

	if (!d->len)
		return true;
	if (d->len >= 6 && !memcmp(d->data, "[DONE]", 6))
		a->finished = true;
	else if (load_chunk_parse(d->data, d->len, &c))
		on_chunk(a, &c, now);
	else
		return wrong(a, "an event's data is no JSON object");
	d->len = 0;
	return true;
}

/* One line of a stream, without its end. */
static bool on_line(struct load_answer *a, const char *s, size_t n, uint64_t now)
{
	bool error;

	if (n == 0)
		return on_event(a, now);
	/* llama.cpp has sent errors as a field of that name. */
	error = n > 6 && !memcmp(s, "error:", 6);
	if (!error && (n < 5 || memcmp(s, "data:", 5)))
		return true; /* a comment, or a field that says nothing to us */
	s += error ? 6 : 5;
	n -= error ? 6 : 5;
	if (n && *s == ' ')
		s++, n--;
	if (error) {
		a->failed = true;
		snprintf(a->error, sizeof(a->error), "%.*s", (int)(n < 190 ? n : 190), s);
		return true;
	}
	if (a->data.len && !buf_add(&a->data, "\n", 1))
		return wrong(a, "an event is too long");
	return buf_add(&a->data, s, n) || wrong(a, "an event is too long");
}

/* Bytes of a stream: lines end with CR LF, LF or CR. */
static bool on_stream(struct load_answer *a, const char *p, size_t n, uint64_t now)
{
	while (n) {
		const char *lf, *cr, *end;
		size_t len;

		if (a->skip_lf && *p == '\n') {
			a->skip_lf = false;
			p++, n--;
			continue;
		}
		a->skip_lf = false;
		lf = memchr(p, '\n', n);
		cr = memchr(p, '\r', lf ? (size_t)(lf - p) : n);
		end = cr ? cr : lf;
		len = end ? (size_t)(end - p) : n;
		if (!end || a->line.len) {
			if (!buf_add(&a->line, p, len))
				return wrong(a, "a line is too long");
			if (end && !on_line(a, a->line.data, a->line.len, now))
				return false;
			if (end)
				a->line.len = 0;
		} else if (!on_line(a, p, len, now)) {
			return false;
		}
		a->skip_lf = end && *end == '\r';
		p += len + (end != NULL);
		n -= len + (end != NULL);
	}
	return true;
}

static bool on_body(struct load_answer *a, const char *p, size_t n, uint64_t now)
{
	if (!a->streamed)
		return buf_add(&a->line, p, n) || wrong(a, "its body is too long");
	return on_stream(a, p, n, now);
}

/* A plain answer, or the body of an error: JSON, or whatever a proxy had to say. */
static void on_plain(struct load_answer *a, uint64_t now)
{
	struct load_chunk c = {0};
	bool json = a->line.len && load_chunk_parse(a->line.data, a->line.len, &c);

	if (a->status == 200 && json) {
		on_chunk(a, &c, now);
	} else if (a->status == 200) {
		a->failed = true;
		snprintf(a->error, sizeof(a->error), "the answer is no JSON object");
	} else if (c.error[0]) {
		memcpy(a->error, c.error, sizeof(a->error));
	} else if (a->line.len) {
		snprintf(a->error, sizeof(a->error), "%.190s", a->line.data);
	}
}

static bool body_end(struct load_answer *a, uint64_t now)
{
	a->state = LOAD_DONE;
	if (!a->streamed) {
		on_plain(a, now);
		return true;
	}
	/* A last event whose empty line is missing still counts. */
	if (a->line.len && !on_line(a, a->line.data, a->line.len, now))
		return false;
	a->line.len = 0;
	return on_event(a, now);
}

/* The value of header @name in the head, or NULL. */
static const char *header(const struct load_answer *a, const char *name)
{
	const char *p = a->line.data;
	size_t len = strlen(name);

	while ((p = strchr(p, '\n')) != NULL) {
		p++;
		if (strncasecmp(p, name, len) || p[len] != ':')
			continue;
		for (p += len + 1; *p == ' ' || *p == '\t'; p++)
			;
		return p;
	}
	return NULL;
}

/* How long the body is. */
static bool frame_body(struct load_answer *a)
{
	const char *v = header(a, "transfer-encoding");
	char *end;

	a->chunked = v && !strncasecmp(v, "chunked", 7);
	if (a->status == 204 || a->status == 304) {
		a->state = LOAD_DONE;
		return true;
	}
	if (a->chunked) {
		a->state = LOAD_CHUNK_SIZE;
		return true;
	}
	v = header(a, "content-length");
	if (!v) {
		a->state = LOAD_TO_CLOSE;
		a->closes = true;
		return true;
	}
	a->left = strtoull(v, &end, 10);
	if (end == v || *v == '-' || a->left > MAX_CHUNK)
		return wrong(a, "its Content-Length is no length");
	a->state = LOAD_BODY;
	return true;
}

/* The head is complete: what follows it? */
static bool on_head(struct load_answer *a)
{
	const char *h = a->line.data, *v;

	if (strlen(h) != a->line.len || (strncmp(h, "HTTP/1.1 ", 9) && strncmp(h, "HTTP/1.0 ", 9)))
		return wrong(a, "it does not begin as HTTP/1.1");
	a->status = atoi(h + 9);
	if (a->status < 100 || a->status > 599)
		return wrong(a, "it has no status");
	if (a->status < 200) { /* 100 Continue: the answer follows */
		a->line.len = 0;
		return true;
	}
	v = header(a, "connection");
	a->closes = v ? !strncasecmp(v, "close", 5) : h[7] == '0';
	v = header(a, "content-type");
	a->streamed = a->status == 200 && v && !strncasecmp(v, "text/event-stream", 17);
	v = header(a, "retry-after");
	if (v)
		a->retry_after_s = (uint32_t)strtoul(v, NULL, 10);
	if (!frame_body(a))
		return false;
	a->line.len = 0;
	return true;
}

/* Bytes of the head from @p.  Returns how many, or -1. */
static long take_head(struct load_answer *a, const char *p, size_t n)
{
	size_t i = 0;

	/* Line by line: an empty one ends it. */
	while (i < n) {
		const char *lf = memchr(p + i, '\n', n - i);
		size_t len = lf ? (size_t)(lf - p) + 1 - i : n - i;

		if (a->line.len + len > MAX_HEAD || !buf_add(&a->line, p + i, len)) {
			wrong(a, "its head is too long");
			return -1;
		}
		i += len;
		if (!lf)
			break;
		len = a->line.len;
		if (len >= 2 &&
		    (a->line.data[len - 2] == '\n' || (len >= 3 && !memcmp(a->line.data + len - 3, "\n\r", 2))))
			return on_head(a) ? (long)i : -1;
	}
	return (long)i;
}

static int hex(char ch)
{
	if (ch >= '0' && ch <= '9')
		return ch - '0';
	ch |= 32;
	return ch >= 'a' && ch <= 'f' ? ch - 'a' + 10 : -1;
}

/* One byte of a chunk's size line, of the line end after a chunk, or of the trailer. */
static bool take_frame_byte(struct load_answer *a, char ch, uint64_t now)
{
	if (a->state == LOAD_CHUNK_SIZE || a->state == LOAD_CHUNK_EXT) {
		if (ch == '\n') {
			if (!a->seen_digit)
				return wrong(a, "a chunk has no size");
			a->state = a->left ? LOAD_CHUNK_DATA : LOAD_TRAILER;
			a->seen_digit = a->in_text = false;
		} else if (ch == ';' || ch == ' ' || ch == '\t' || a->state == LOAD_CHUNK_EXT) {
			a->state = LOAD_CHUNK_EXT;
		} else if (hex(ch) >= 0 && a->left < MAX_CHUNK) {
			a->left = 16 * a->left + (uint64_t)hex(ch);
			a->seen_digit = true;
		} else if (ch != '\r') {
			return wrong(a, "a chunk's size is no number");
		}
	} else if (a->state == LOAD_CHUNK_END) {
		if (ch == '\n')
			a->state = LOAD_CHUNK_SIZE;
		else if (ch != '\r')
			return wrong(a, "a chunk is longer than its size");
	} else if (ch == '\n') { /* the trailer ends at an empty line */
		if (!a->in_text)
			return body_end(a, now);
		a->in_text = false;
	} else if (ch != '\r') {
		a->in_text = true;
	}
	return true;
}

/* Bytes of the body that belong together.  Returns how many, or -1. */
static long take_body(struct load_answer *a, const char *p, size_t n, uint64_t now)
{
	bool ok;

	if (a->state != LOAD_TO_CLOSE && n > a->left)
		n = (size_t)a->left;
	ok = on_body(a, p, n, now);
	if (ok && a->state != LOAD_TO_CLOSE) {
		a->left -= n;
		if (!a->left && a->state == LOAD_CHUNK_DATA)
			a->state = LOAD_CHUNK_END;
		else if (!a->left)
			ok = body_end(a, now);
	}
	return ok ? (long)n : -1;
}

bool load_answer_take(struct load_answer *a, const char *p, size_t n, uint64_t now_ns)
{
	if (n && !a->begin_ns)
		a->begin_ns = now_ns;
	while (n) {
		long used = 1;

		switch (a->state) {
		case LOAD_HEAD:
			used = take_head(a, p, n);
			if (used >= 0 && a->state == LOAD_BODY && !a->left && !body_end(a, now_ns))
				return false;
			break;
		case LOAD_BODY:
		case LOAD_CHUNK_DATA:
		case LOAD_TO_CLOSE: used = take_body(a, p, n, now_ns); break;
		case LOAD_DONE: return wrong(a, "bytes follow it that nobody asked for");
		default:
			if (!take_frame_byte(a, *p, now_ns))
				return false;
		}
		if (used < 0)
			return false;
		p += used;
		n -= (size_t)used;
	}
	return true;
}

bool load_answer_eof(struct load_answer *a, uint64_t now_ns)
{
	if (a->state == LOAD_TO_CLOSE)
		return body_end(a, now_ns);
	return a->state == LOAD_DONE;
}
