// SPDX-License-Identifier: Apache-2.0
/*
 * Strict reading of HTTP/1.1 requests: the scanner, its agreement with
 * libhttp-parser, and the decoder of chunked bodies.
 *
 * Refused, because two programs on the path may read it differently: bare CR
 * or LF, NUL and other controls, folded lines, white space before a colon,
 * repeated or odd Content-Length, any Transfer-Encoding but "chunked", both
 * together, no or several Host fields.
 */
#include <http_parser.h>
#include <string.h>
#include <strings.h>

#include "runtime/net/http_parse.h"
#include "runtime/net/traceparent.h"

/* RFC 9110, 5.6.2: what a method or a field name is made of. */
static bool is_token(unsigned char c)
{
	static const char marks[] = "!#$%&'*+-.^_`|~";

	return (c >= '0' && c <= '9') || ((c | 0x20) >= 'a' && (c | 0x20) <= 'z') || (c && strchr(marks, c));
}

static bool is_host_char(unsigned char c)
{
	static const char marks[] = ".-_~:[]%!$&'()*+,;=";

	return (c >= '0' && c <= '9') || ((c | 0x20) >= 'a' && (c | 0x20) <= 'z') || (c && strchr(marks, c));
}

static bool is_printable(const char *p, size_t n)
{
	for (size_t i = 0; i < n; i++)
		if ((unsigned char)p[i] <= 0x20 || (unsigned char)p[i] >= 0x7f)
			return false;
	return true;
}

static bool span_is(struct fh_span s, const char *text)
{
	return s.n == strlen(text) && !strncasecmp(s.p, text, s.n);
}

static int refuse(int status, const char *text, const char **why)
{
	*why = text;
	return -status;
}

/* The end of the head, or 0, or -status. Every LF on the way must follow a CR. */
static int find_end(const char *buf, size_t start, size_t len, size_t *scanned, const char **why)
{
	size_t limit = len < start + FH_HTTP_MAX_HEAD ? len : start + FH_HTTP_MAX_HEAD;
	size_t i = *scanned < start ? start : *scanned;
	const char *lf;

	while (i < limit && (lf = memchr(buf + i, '\n', limit - i))) {
		i = (size_t)(lf - buf);
		if (i == start || buf[i - 1] != '\r')
			return refuse(400, "a line ends without CR LF", why);
		if (i >= start + 3 && buf[i - 2] == '\n')
			return (int)(i + 1);
		i++;
		*scanned = i;
	}
	*scanned = limit;
	if (limit < len || limit == start + FH_HTTP_MAX_HEAD)
		return refuse(431, "the header is larger than 32 KiB", why);
	return 0;
}

static int read_method(struct fh_span m, struct fh_http_head *h)
{
	static const char *const names[] = {
		[FH_HTTP_GET] = "GET", [FH_HTTP_HEAD] = "HEAD", [FH_HTTP_POST] = "POST", [FH_HTTP_DELETE] = "DELETE"};

	h->method = FH_HTTP_OTHER;
	if (!m.n || m.n > 24)
		return -1;
	for (size_t i = 0; i < m.n; i++)
		if (!is_token((unsigned char)m.p[i]))
			return -1;
	for (unsigned int i = 0; i < FH_HTTP_OTHER; i++)
		if (m.n == strlen(names[i]) && !memcmp(m.p, names[i], m.n))
			h->method = i;
	return 0;
}

/* METHOD SP target SP HTTP/1.x; @line is without its CR LF. */
static int read_request_line(struct fh_span line, struct fh_http_head *h, const char **why)
{
	const char *end = line.p + line.n, *sp = memchr(line.p, ' ', line.n), *sp2;

	if (!sp || read_method((struct fh_span){line.p, (size_t)(sp - line.p)}, h))
		return refuse(400, "the request line has no method", why);
	sp++;
	sp2 = memchr(sp, ' ', (size_t)(end - sp));
	if (!sp2 || sp2 == sp)
		return refuse(400, "the request line has no target or no version", why);
	h->target = (struct fh_span){sp, (size_t)(sp2 - sp)};
	if (h->target.n > FH_HTTP_MAX_TARGET)
		return refuse(414, "the request target is longer than 4096 bytes", why);
	if (!is_printable(h->target.p, h->target.n))
		return refuse(400, "the request target has a character that must be encoded", why);
	sp2++;
	if (end - sp2 != 8 || memcmp(sp2, "HTTP/", 5))
		return refuse(400, "the request line ends in no HTTP version", why);
	if (memcmp(sp2, "HTTP/1.", 7) || (sp2[7] != '0' && sp2[7] != '1'))
		return refuse(505, "only HTTP/1.0 and HTTP/1.1 are spoken here", why);
	h->minor = (unsigned int)(sp2[7] - '0');
	return 0;
}

struct fields {
	unsigned int nr, nr_host, nr_length, nr_te, nr_traceparent, nr_tracestate;
	bool close, keep;
};

static int read_length(struct fh_span v, struct fh_http_head *h, struct fields *f, const char **why)
{
	if (f->nr_length++)
		return refuse(400, "more than one Content-Length", why);
	if (!v.n || v.n > 18)
		return refuse(v.n ? 413 : 400, "Content-Length is no sensible number", why);
	for (size_t i = 0; i < v.n; i++) {
		if (v.p[i] < '0' || v.p[i] > '9')
			return refuse(400, "Content-Length is no plain decimal number", why);
		h->content_length = h->content_length * 10 + (uint64_t)(v.p[i] - '0');
	}
	h->has_length = true;
	return 0;
}

static void read_connection(struct fh_span v, struct fields *f)
{
	while (v.n) {
		const char *comma = memchr(v.p, ',', v.n);
		struct fh_span t = {v.p, comma ? (size_t)(comma - v.p) : v.n};

		v.p += t.n + (comma ? 1 : 0);
		v.n -= t.n + (comma ? 1 : 0);
		while (t.n && (*t.p == ' ' || *t.p == '\t'))
			t.p++, t.n--;
		while (t.n && (t.p[t.n - 1] == ' ' || t.p[t.n - 1] == '\t'))
			t.n--;
		f->close |= span_is(t, "close");
		f->keep |= span_is(t, "keep-alive");
	}
}

/* Milliseconds with up to three decimals, or "none". */
static int read_deadline(struct fh_span v, uint32_t *us, const char **why)
{
	uint64_t n = 0;
	size_t i = 0, digits = 0, decimals = 0;

	if (span_is(v, "none")) {
		*us = UINT32_MAX;
		return 0;
	}
	for (; i < v.n && v.p[i] >= '0' && v.p[i] <= '9' && digits < 8; i++, digits++)
		n = n * 10 + (uint64_t)(v.p[i] - '0');
	if (i < v.n && v.p[i] == '.')
		for (i++; i < v.n && v.p[i] >= '0' && v.p[i] <= '9' && decimals < 3; i++, decimals++)
			n = n * 10 + (uint64_t)(v.p[i] - '0');
	for (size_t k = decimals; k < 3; k++)
		n *= 10;
	if (i != v.n || !digits || n >= UINT32_MAX)
		return refuse(400, "a deadline in an X-Freehold field is milliseconds, such as 500 or 12.5, or none",
			      why);
	*us = (uint32_t)n;
	return 0;
}

static int read_depth(struct fh_span v, struct fh_http_head *h, const char **why)
{
	if (!v.n || v.n > 6)
		return refuse(400, "X-Freehold-Run-Depth is a number of at most six digits", why);
	for (size_t i = 0; i < v.n; i++) {
		if (v.p[i] < '0' || v.p[i] > '9')
			return refuse(400, "X-Freehold-Run-Depth is a number of at most six digits", why);
		h->run_depth = h->run_depth * 10 + (uint32_t)(v.p[i] - '0');
	}
	return 0;
}

static int read_priority(struct fh_span v, struct fh_http_head *h, const char **why)
{
	if (span_is(v, "interactive"))
		h->priority = FH_HTTP_INTERACTIVE;
	else if (span_is(v, "standard"))
		h->priority = FH_HTTP_STANDARD;
	else if (span_is(v, "batch"))
		h->priority = FH_HTTP_BATCH;
	else
		return refuse(400, "X-Freehold-Priority is interactive, standard or batch", why);
	return 0;
}

/* Several are one list, of which nothing may be missing. */
static void keep_state(struct fh_span v, struct fh_http_head *h, struct fields *f)
{
	if (f->nr_tracestate++ < FH_HTTP_MAX_STATES)
		h->states[h->nr_states++] = v;
	else
		h->nr_states = 0;
}

/* A field that means something here. */
static int read_known(struct fh_span name, struct fh_span v, struct fh_http_head *h, struct fields *f, const char **why)
{
	switch (name.n) {
	case 4:
		if (!span_is(name, "Host"))
			return 0;
		f->nr_host++;
		for (size_t i = 0; i < v.n; i++)
			if (!is_host_char((unsigned char)v.p[i]))
				return refuse(400, "the Host field is malformed", why);
		return 0;
	case 6:
		if (!span_is(name, "Expect"))
			return 0;
		if (!span_is(v, "100-continue"))
			return refuse(417, "the only expectation that can be met is 100-continue", why);
		h->expect_continue = true;
		return 0;
	case 10:
		if (span_is(name, "Connection"))
			read_connection(v, f);
		else if (span_is(name, "tracestate"))
			keep_state(v, h, f);
		return 0;
	case 11:
		/* Twice is as good as not at all: who knows which is meant. */
		if (span_is(name, "traceparent") && f->nr_traceparent++)
			h->trace = (struct fh_trace_context){0};
		else if (span_is(name, "traceparent"))
			fh_traceparent_parse(v.p, v.n, &h->trace);
		return 0;
	case 12:
		if (span_is(name, "X-Request-Id") && v.n <= 128 && is_printable(v.p, v.n))
			h->request_id = v;
		return 0;
	case 13:
		if (span_is(name, "Authorization"))
			h->authorization = v;
		return 0;
	case 14: return span_is(name, "Content-Length") ? read_length(v, h, f, why) : 0;
	case 18:
		if (span_is(name, "X-Freehold-Ttft-Ms"))
			return read_deadline(v, &h->ttft_us, why);
		if (span_is(name, "X-Freehold-Tpot-Ms"))
			return read_deadline(v, &h->tpot_us, why);
		if (span_is(name, "X-Freehold-Receipt"))
			h->receipt = span_is(v, "1");
		return 0;
	case 19: return span_is(name, "X-Freehold-Priority") ? read_priority(v, h, why) : 0;
	case 20: return span_is(name, "X-Freehold-Run-Depth") ? read_depth(v, h, why) : 0;
	case 17:
		if (span_is(name, "X-Freehold-Run-Id")) {
			if (!v.n || v.n > 128 || !is_printable(v.p, v.n))
				return refuse(400, "X-Freehold-Run-Id takes 1 to 128 printable characters", why);
			h->run_id = v;
			return 0;
		}
		if (!span_is(name, "Transfer-Encoding"))
			return 0;
		if (f->nr_te++ || h->minor == 0)
			return refuse(400, "Transfer-Encoding is repeated, or sent with HTTP/1.0", why);
		if (!span_is(v, "chunked"))
			return refuse(501, "the only transfer coding that is understood is chunked", why);
		h->chunked = true;
		return 0;
	default: return 0;
	}
}

/* NAME ":" OWS value OWS; @line is without its CR LF. */
static int read_field(struct fh_span line, struct fh_http_head *h, struct fields *f, const char **why)
{
	struct fh_span name = {line.p, 0}, v;

	if (++f->nr > FH_HTTP_MAX_FIELDS)
		return refuse(431, "more than 100 header fields", why);
	while (name.n < line.n && is_token((unsigned char)line.p[name.n]))
		name.n++;
	if (!name.n || name.n == line.n || line.p[name.n] != ':')
		return refuse(400, "a header field is malformed: no name, a folded line, or a space before the colon",
			      why);
	v = (struct fh_span){line.p + name.n + 1, line.n - name.n - 1};
	while (v.n && (*v.p == ' ' || *v.p == '\t'))
		v.p++, v.n--;
	while (v.n && (v.p[v.n - 1] == ' ' || v.p[v.n - 1] == '\t'))
		v.n--;
	for (size_t i = 0; i < v.n; i++) {
		unsigned char c = (unsigned char)v.p[i];

		if ((c < 0x20 && c != '\t') || c == 0x7f)
			return refuse(400, "a header field contains a control character", why);
	}
	return read_known(name, v, h, f, why);
}

static int read_fields(const char *p, const char *end, struct fh_http_head *h, const char **why)
{
	struct fields f = {0};
	const char *lf;
	int rc;

	/* The last line is the empty one. */
	for (; end - p > 2; p = lf + 1) {
		lf = memchr(p, '\n', (size_t)(end - p));
		rc = read_field((struct fh_span){p, (size_t)(lf - p - 1)}, h, &f, why);
		if (rc)
			return rc;
	}
	if (h->chunked && h->has_length)
		return refuse(400, "both Content-Length and Transfer-Encoding", why);
	if (f.nr_host > 1 || (!f.nr_host && h->minor == 1))
		return refuse(400, "HTTP/1.1 needs exactly one Host field", why);
	h->keep_alive = h->minor == 1 ? !f.close : f.keep && !f.close;
	return 0;
}

/* What libhttp-parser made of the same bytes. */
struct second_opinion {
	bool complete, chunked;
	uint64_t content_length;
};

static int on_headers_complete(http_parser *p)
{
	struct second_opinion *s = p->data;

	s->complete = true;
	s->chunked = p->flags & F_CHUNKED;
	s->content_length = p->content_length;
	return 0;
}

static int cross_check(const char *buf, size_t len, const struct fh_http_head *h, const char **why)
{
	static const http_parser_settings settings = {.on_headers_complete = on_headers_complete};
	struct second_opinion s = {0};
	http_parser p;
	bool agree;

	http_parser_init(&p, HTTP_REQUEST);
	p.data = &s;
	http_parser_execute(&p, &settings, buf, len);
	if (HTTP_PARSER_ERRNO(&p) == HPE_INVALID_METHOD)
		return refuse(501, "no such method", why);
	if (HTTP_PARSER_ERRNO(&p) != HPE_OK)
		return refuse(400, http_errno_description(HTTP_PARSER_ERRNO(&p)), why);
	agree = s.complete && s.chunked == h->chunked && p.http_major == 1 && p.http_minor == h->minor &&
		(h->has_length ? s.content_length == h->content_length : s.content_length == UINT64_MAX) &&
		(p.method == HTTP_GET) == (h->method == FH_HTTP_GET) &&
		(p.method == HTTP_POST) == (h->method == FH_HTTP_POST) &&
		(p.method == HTTP_HEAD) == (h->method == FH_HTTP_HEAD) &&
		(p.method == HTTP_DELETE) == (h->method == FH_HTTP_DELETE);
	return agree ? 0 : refuse(400, "the header can be read in more than one way", why);
}

int fh_http_head_parse(const char *buf, size_t len, size_t *scanned, struct fh_http_head *head, const char **why)
{
	size_t start = 0;
	const char *lf;
	int end, rc;

	/* RFC 9112, 2.2: one empty line before a request may be overlooked. */
	if (len >= 2 && buf[0] == '\r' && buf[1] == '\n')
		start = 2;
	else if (len == 1 && buf[0] == '\r')
		return 0;
	if (len > start && !is_token((unsigned char)buf[start]))
		return refuse(400, "this is no HTTP request", why);
	end = find_end(buf, start, len, scanned, why);
	if (end <= 0) {
		/* No reason to wait for 32 KiB when the first line alone is too long. */
		if (end != -400 && len - start > FH_HTTP_MAX_TARGET + 64 &&
		    !memchr(buf + start, '\n', FH_HTTP_MAX_TARGET + 64))
			return refuse(414, "the request line is longer than 4096 bytes", why);
		return end;
	}
	*head = (struct fh_http_head){0};
	lf = memchr(buf + start, '\n', (size_t)end - start);
	rc = read_request_line((struct fh_span){buf + start, (size_t)(lf - buf) - start - 1}, head, why);
	if (!rc)
		rc = read_fields(lf + 1, buf + end, head, why);
	if (!rc)
		rc = cross_check(buf + start, (size_t)end - start, head, why);
	return rc ? rc : end;
}

/* Chunked bodies: one byte a step but for the data itself. */

enum { C_SIZE, C_EXT, C_SIZE_LF, C_DATA, C_DATA_CR, C_DATA_LF, C_TRAILER, C_NAME, C_VALUE, C_VALUE_LF, C_END_LF };

static int hex_value(char c)
{
	if (c >= '0' && c <= '9')
		return c - '0';
	c |= 0x20;
	return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

static int size_byte(struct fh_http_chunked *c, char ch, const char **why)
{
	int v = hex_value(ch);

	if (v >= 0) {
		/* 15 digits cannot overflow, and no body is that long. */
		if (++c->digits > 15)
			return refuse(413, "a chunk is too large", why);
		c->left = c->left << 4 | (unsigned int)v;
		return 0;
	}
	if (!c->digits || (ch != '\r' && ch != ';'))
		return refuse(400, "a chunk size is malformed", why);
	c->state = ch == '\r' ? C_SIZE_LF : C_EXT;
	return 0;
}

static int trailer_byte(struct fh_http_chunked *c, char ch, const char **why)
{
	if (++c->trailer > FH_HTTP_MAX_TRAILER)
		return refuse(431, "the trailer is larger than 8 KiB", why);
	switch (c->state) {
	case C_TRAILER:
		if (ch == '\r') {
			c->state = C_END_LF;
			return 0;
		}
		c->state = C_NAME;
		return is_token((unsigned char)ch) ? 0 : refuse(400, "a trailer field is malformed", why);
	case C_NAME:
		if (ch == ':')
			c->state = C_VALUE;
		else if (!is_token((unsigned char)ch))
			return refuse(400, "a trailer field is malformed", why);
		return 0;
	default:
		if (ch == '\r')
			c->state = C_VALUE_LF;
		else if (((unsigned char)ch < 0x20 && ch != '\t') || ch == 0x7f)
			return refuse(400, "a trailer field contains a control character", why);
		return 0;
	}
}

static int expect_byte(struct fh_http_chunked *c, char ch, char want, uint8_t next, const char **why)
{
	c->state = next;
	return ch == want ? 0 : refuse(400, "a chunk does not end in CR LF", why);
}

static int framing_byte(struct fh_http_chunked *c, char ch, const char **why)
{
	switch (c->state) {
	case C_SIZE: return size_byte(c, ch, why);
	case C_EXT:
		if (++c->line > FH_HTTP_MAX_CHUNK_LINE)
			return refuse(400, "a chunk extension is longer than 256 bytes", why);
		if (ch == '\r')
			c->state = C_SIZE_LF;
		else if (((unsigned char)ch < 0x20 && ch != '\t') || ch == 0x7f)
			return refuse(400, "a chunk extension contains a control character", why);
		return 0;
	case C_SIZE_LF: return expect_byte(c, ch, '\n', c->left ? C_DATA : C_TRAILER, why);
	case C_DATA_CR: return expect_byte(c, ch, '\r', C_DATA_LF, why);
	case C_DATA_LF:
		c->digits = 0;
		c->line = 0;
		return expect_byte(c, ch, '\n', C_SIZE, why);
	case C_VALUE_LF: return expect_byte(c, ch, '\n', C_TRAILER, why);
	case C_END_LF: c->done = true; return expect_byte(c, ch, '\n', C_END_LF, why);
	default: return trailer_byte(c, ch, why);
	}
}

int fh_http_chunked_next(struct fh_http_chunked *c, const char *in, size_t len, struct fh_span *data, const char **why)
{
	size_t i = 0, max = INT32_MAX;
	int rc;

	*data = (struct fh_span){0};
	len = len < max ? len : max;
	while (i < len && !c->done) {
		if (c->state == C_DATA) {
			data->p = in + i;
			data->n = len - i < c->left ? len - i : (size_t)c->left;
			c->left -= data->n;
			if (!c->left)
				c->state = C_DATA_CR;
			return (int)(i + data->n);
		}
		rc = framing_byte(c, in[i++], why);
		if (rc)
			return rc;
	}
	return (int)i;
}
