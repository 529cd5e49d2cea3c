// SPDX-License-Identifier: Apache-2.0
/*
 * The strict reader of HTTP: what it takes, what it refuses and with which
 * status, whole and byte by byte.  Every input lies at the end of a page that
 * nothing follows, so that reading one byte too far is seen.
 */
#include <criterion/criterion.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>

#include "runtime/net/http_parse.h"
#include "runtime/net/traceparent.h"

/* A copy of @s that ends where memory ends. */
static char *at_page_end(const char *s, size_t n)
{
	size_t bytes = (n + 4095) / 4096 * 4096 + 4096;
	char *p = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	cr_assert_neq(p, MAP_FAILED);
	mprotect(p + bytes - 4096, 4096, PROT_NONE);
	memcpy(p + bytes - 4096 - n, s, n);
	return p + bytes - 4096 - n;
}

static void drop(char *p, size_t n)
{
	size_t bytes = (n + 4095) / 4096 * 4096 + 4096;

	munmap(p + n + 4096 - bytes, bytes);
}

static int parse(const char *s, size_t n, struct fh_http_head *h, const char **why)
{
	char *p = at_page_end(s, n);
	size_t scanned = 0;
	int rc;

	*why = "";
	rc = fh_http_head_parse(p, n, &scanned, h, why);
	/* What points into the buffer must not be used after this; the tests compare numbers. */
	drop(p, n);
	return rc;
}

/* As it comes over a slow line; every prefix but the last asks for more, or refuses for good. */
static int parse_slowly(const char *s, size_t n, struct fh_http_head *h)
{
	size_t scanned = 0;
	const char *why;

	for (size_t k = 1; k <= n; k++) {
		char *p = at_page_end(s, k);
		int rc = fh_http_head_parse(p, k, &scanned, h, &why);

		drop(p, k);
		if (rc)
			return rc;
	}
	return 0;
}

static void expect_status(const char *s, size_t n, int want)
{
	struct fh_http_head h;
	const char *why;
	int rc = parse(s, n, &h, &why);

	cr_expect_eq(rc, -want, "got %d, wanted %d for: %s (%s)", rc, -want, s, why);
	rc = parse_slowly(s, n, &h);
	cr_expect_eq(rc, -want, "byte by byte: got %d, wanted %d for: %s", rc, -want, s);
	if (want != 0)
		cr_expect_neq(why[0], '\0');
}

#define REFUSED(status, text) expect_status(text, sizeof(text) - 1, status)

static struct fh_http_head accepted(const char *s)
{
	struct fh_http_head h = {0};
	const char *why;
	int rc = parse(s, strlen(s), &h, &why);

	cr_expect_eq(rc, (int)strlen(s), "%d %s: %s", rc, why, s);
	rc = parse_slowly(s, strlen(s), &h);
	cr_expect_eq(rc, (int)strlen(s), "byte by byte: %d: %s", rc, s);
	return h;
}

Test(http_parse, accepts_what_clients_send)
{
	struct fh_http_head h;

	h = accepted("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
	cr_expect(h.method == FH_HTTP_GET && h.minor == 1 && h.keep_alive && !h.has_length && !h.chunked);
	h = accepted("\r\nGET /x?y=z HTTP/1.1\r\nhost:[::1]:80\r\nAccept: */*\r\n\r\n");
	cr_expect_eq(h.target.n, 6);
	h = accepted("POST /v1 HTTP/1.1\r\nHOST: a.b-c:1\r\ncOnTeNt-LeNgTh:  12 \r\nConnection: Close\r\n\r\n");
	cr_expect(h.method == FH_HTTP_POST && h.has_length && h.content_length == 12 && !h.keep_alive);
	h = accepted("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: Chunked\r\nExpect: 100-continue\r\n\r\n");
	cr_expect(h.chunked && h.expect_continue && !h.has_length);
	h = accepted("GET / HTTP/1.0\r\n\r\n");
	cr_expect(h.minor == 0 && !h.keep_alive);
	h = accepted("GET / HTTP/1.0\r\nConnection: foo, Keep-Alive\r\n\r\n");
	cr_expect(h.keep_alive);
	h = accepted("HEAD / HTTP/1.1\r\nHost: a\r\nX-Request-Id: abc\r\nAuthorization: Bearer k\r\n\r\n");
	cr_expect(h.method == FH_HTTP_HEAD && h.request_id.n == 3 && h.authorization.n == 8);
	h = accepted("OPTIONS / HTTP/1.1\r\nHost: a\r\n\r\n");
	cr_expect(h.method == FH_HTTP_OTHER);
	/* An upgrade is overlooked (RFC 9110, 7.8): the request is answered as it stands. */
	h = accepted("GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\n\r\n");
	cr_expect(h.keep_alive);
	h = accepted("GET / HTTP/1.1\r\nHost: a\r\nX: \xc3\xa4 \t b\r\nEmpty:\r\n\r\n");
	h = accepted("GET / HTTP/1.1\r\nHost:\r\n\r\n");
	h = accepted("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n");
	cr_expect(h.has_length && h.content_length == 0);
}

Test(http_parse, deadlines_in_the_header)
{
	struct fh_http_head h;

	h = accepted("GET / HTTP/1.1\r\nHost: a\r\nx-freehold-ttft-ms: 500\r\nX-Freehold-Tpot-Ms: 12.5\r\n"
		     "X-Freehold-Priority: batch\r\n\r\n");
	cr_expect_eq(h.ttft_us, 500000);
	cr_expect_eq(h.tpot_us, 12500);
	cr_expect_eq(h.priority, FH_HTTP_BATCH);
	h = accepted("GET / HTTP/1.1\r\nHost: a\r\nX-Freehold-Ttft-Ms: none\r\nX-Freehold-Tpot-Ms: 0.001\r\n\r\n");
	cr_expect_eq(h.ttft_us, UINT32_MAX);
	cr_expect_eq(h.tpot_us, 1);
	cr_expect_eq(h.priority, FH_HTTP_NO_PRIORITY);
	REFUSED(400, "GET / HTTP/1.1\r\nHost: a\r\nX-Freehold-Ttft-Ms: soon\r\n\r\n");
	REFUSED(400, "GET / HTTP/1.1\r\nHost: a\r\nX-Freehold-Ttft-Ms: 1.0001\r\n\r\n");
	REFUSED(400, "GET / HTTP/1.1\r\nHost: a\r\nX-Freehold-Tpot-Ms: -1\r\n\r\n");
	REFUSED(400, "GET / HTTP/1.1\r\nHost: a\r\nX-Freehold-Tpot-Ms: 4294968\r\n\r\n");
	REFUSED(400, "GET / HTTP/1.1\r\nHost: a\r\nX-Freehold-Priority: urgent\r\n\r\n");
}

#define TRACEPARENT "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-0"

/* W3C Trace Context: one that is malformed, or is there twice, is none; it refuses no request. */
Test(http_parse, whose_trace_it_is)
{
	static const struct {
		const char *fields;
		bool known, sampled;
	} of[] = {
		{"traceparent: " TRACEPARENT "1\r\n", true, true},
		{"TraceParent:" TRACEPARENT "0 \r\n", true, false},
		{"traceparent: cc" TRACEPARENT "3-later\r\n", false, false},
		{"traceparent: " TRACEPARENT "1-later\r\n", false, false},
		{"traceparent: \r\n", false, false},
		{"traceparent: " TRACEPARENT "1\r\ntraceparent: " TRACEPARENT "1\r\n", false, false},
		{"tracestate: a=b\r\n", false, false},
	};

	for (size_t i = 0; i < sizeof(of) / sizeof(of[0]); i++) {
		struct fh_http_head h;
		size_t scanned = 0;
		const char *why;
		char text[512];
		int n = snprintf(text, sizeof(text), "GET / HTTP/1.1\r\nHost: x\r\n%s\r\n", of[i].fields);

		cr_assert_eq(fh_http_head_parse(text, (size_t)n, &scanned, &h, &why), n, "%zu: %s", i, why);
		cr_expect_eq(h.trace.known, of[i].known, "%s", of[i].fields);
		cr_expect_eq(h.trace.sampled, of[i].sampled, "%s", of[i].fields);
		cr_expect_eq(h.trace.parent_id[7], of[i].known ? 0xb7 : 0);
		cr_expect_eq(h.trace.trace_id[0], of[i].known ? 0x4b : 0);
	}
}

static const char *state(const char *const *fields, uint32_t nr)
{
	static char out[FH_SPAN_STATE_MAX + 1];
	struct fh_span f[8];

	for (uint32_t i = 0; i < nr; i++)
		f[i] = (struct fh_span){fields[i], strlen(fields[i])};
	memset(out, 'x', sizeof(out));
	return fh_tracestate_parse(f, nr, out) ? out : *out ? "rubbish" : "none";
}

static const char *state_of(const char *field)
{
	return state(&field, 1);
}

/* W3C Trace Context, 3.3. */
Test(http_parse, state_of_a_trace)
{
	static const char *const bad[] = {"a",	    "=b",    "a=",	   "a=b ,c", "A=b",
					  "a b=c",  "a=b=c", "a=b;c=\x7f", "_a=b",   "a=b,,a=c",
					  "a=b\tc", "a =b",  "a=\xc3\xa4", "@a=b",   "a=b\x01"};
	char text[4096], want[4096];
	size_t n = 0;

	cr_expect_str_eq(state_of(""), "");
	cr_expect_str_eq(state_of(" ,\t, "), "");
	cr_expect_str_eq(state_of("congo=t61rcWkgMzE"), "congo=t61rcWkgMzE");
	cr_expect_str_eq(state_of(" b=1 2 , \ta_-*/@1=!~ ,,0=x"), "b=1 2,a_-*/@1=!~,0=x");
	cr_expect_str_eq(state((const char *const[]){"b=1,", "", "tenant@sys=2", ",c=3 "}, 4), "b=1,tenant@sys=2,c=3");
	cr_expect_str_eq(state((const char *const[]){"b=1", "b=2"}, 2), "none", "a key twice");
	cr_expect_str_eq(state_of("b=1,bc=2,c=3"), "b=1,bc=2,c=3");
	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		cr_expect_str_eq(state_of(bad[i]), "none", "%s", bad[i]);
		cr_expect_str_eq(state((const char *const[]){"x=1", bad[i]}, 2), "none", "%s", bad[i]);
	}
	for (int i = 0; i < 32; i++)
		n += (size_t)sprintf(text + n, "%sk%d=v", i ? "," : "", i);
	cr_expect_str_eq(state_of(text), text);
	strcpy(text + n, ",one=more");
	cr_expect_str_eq(state_of(text), "none", "33 members");
	/* 256 characters of a key and of a value, and no more: too long for us, and passed on without them. */
	memset(text, 'k', 256);
	text[256] = '=';
	memset(text + 257, 'v', 256);
	strcpy(text + 513, ",a=1");
	cr_expect_str_eq(state_of(text), "a=1");
	memmove(text + 257, text + 256, 300);
	text[256] = 'k';
	cr_expect_str_eq(state_of(text), "none");
	memset(text + 2, 'v', 257);
	memcpy(text, "k=", 3);
	text[2] = 'v';
	text[259] = 0;
	cr_expect_str_eq(state_of(text), "none");
	/* Long members go first, from the end on; then the last ones, whole. */
	n = (size_t)sprintf(text, "long0=%0*d,s=1,long1=%0*d,t=2,long2=%0*d", 200, 0, 200, 1, 200, 2);
	sprintf(want, "long0=%0*d,s=1,long1=%0*d,t=2", 200, 0, 200, 1);
	cr_expect_str_eq(state_of(text), want);
	n = 0;
	for (int i = 0; i < 20; i++)
		n += (size_t)sprintf(text + n, "%sk%02d=%0*d", i ? "," : "", i, 28, i);
	text[33 * 15 - 1] = 0;
	strcpy(want, text);
	text[33 * 15 - 1] = ',';
	cr_expect_str_eq(state_of(text), want, "15 of 33 bytes");
}

Test(http_parse, fields_of_a_state_are_kept_in_order)
{
	char text[1024] = "GET / HTTP/1.1\r\nHost: x\r\n";
	struct fh_http_head h;
	const char *why;

	for (int i = 0; i < 9; i++) {
		size_t scanned = 0, n;

		sprintf(text + strlen(text), "TraceState: k%d=v\r\n", i);
		n = strlen(text);
		strcpy(text + n, "\r\n");
		cr_assert_eq(fh_http_head_parse(text, n + 2, &scanned, &h, &why), (int)n + 2);
		cr_expect_eq(h.nr_states, i < 8 ? (uint32_t)i + 1 : 0);
		cr_expect(i >= 8 || !memcmp(h.states[i].p, (char[]){'k', (char)('0' + i), '='}, 3));
		text[n] = 0;
	}
}

Test(http_parse, takes_no_more_than_the_head)
{
	static const char two[] = "GET / HTTP/1.1\r\nHost: a\r\n\r\nGET /2 HTTP/1.1\r\nHost: a\r\n\r\n";
	struct fh_http_head h;
	size_t scanned = 0;
	const char *why;

	cr_expect_eq(fh_http_head_parse(two, sizeof(two) - 1, &scanned, &h, &why), 27);
}

/* What servers and proxies have been seen to read differently. */
Test(http_parse, refuses_what_smuggles)
{
	REFUSED(400, "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n");
	REFUSED(400, "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nContent-Length: 3\r\n\r\n");
	REFUSED(400, "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\n");
	REFUSED(400, "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3, 3\r\n\r\n");
	REFUSED(400, "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: +3\r\n\r\n");
	REFUSED(400, "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: -3\r\n\r\n");
	REFUSED(400, "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0x3\r\n\r\n");
	REFUSED(400, "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1 2\r\n\r\n");
	REFUSED(400, "POST / HTTP/1.1\r\nHost: a\r\nContent-Length:\r\n\r\n");
	REFUSED(413, "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 9999999999999999999\r\n\r\n");
	REFUSED(501, "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip, chunked\r\n\r\n");
	REFUSED(501, "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: xchunked\r\n\r\n");
	REFUSED(501, "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked, identity\r\n\r\n");
	REFUSED(501, "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: \"chunked\"\r\n\r\n");
	REFUSED(501, "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding:\r\n\r\n");
	REFUSED(400, "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n");
	REFUSED(400, "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding : chunked\r\n\r\n");
	REFUSED(400, "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding\t: chunked\r\n\r\n");
	REFUSED(400, "POST / HTTP/1.1\r\nHost: a\r\n Transfer-Encoding: chunked\r\n\r\n");
	REFUSED(400, "POST / HTTP/1.1\r\nHost: a\r\nX: y\r\n Transfer-Encoding: chunked\r\n\r\n");
	REFUSED(400, "POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n");
	REFUSED(400, "POST / HTTP/1.1\r\nHost: a\r\nX: y\rContent-Length: 5\r\n\r\n");
	REFUSED(400, "POST / HTTP/1.1\nHost: a\n\n");
	REFUSED(400, "POST / HTTP/1.1\r\nHost: a\nContent-Length: 5\r\n\r\n");
	REFUSED(400, "POST / HTTP/1.1\r\nHost: a\r\nX: a\0b\r\n\r\n");
	REFUSED(400, "POST / HTTP/1.1\r\nHost: a\r\nX\0: b\r\n\r\n");
	REFUSED(400, "POST / HTTP/1.1\r\nHost: a\r\nX: a\x7f\r\n\r\n");
	REFUSED(400, "POST / HTTP/1.1\r\nHost: a\r\nX: a\x01\r\n\r\n");
	REFUSED(400, "POST / HTTP/1.1\r\nHost: a\r\n: no name\r\n\r\n");
	REFUSED(400, "POST / HTTP/1.1\r\nHost: a\r\nno colon\r\n\r\n");
	REFUSED(400, "POST / HTTP/1.1\r\nHost: a\r\nX(y): z\r\n\r\n");
	REFUSED(400, "POST / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n");
	REFUSED(400, "POST / HTTP/1.1\r\n\r\n");
	REFUSED(400, "POST / HTTP/1.1\r\nHost: a b\r\n\r\n");
	REFUSED(400, "POST / HTTP/1.1\r\nHost: a/b\r\n\r\n");
	REFUSED(417, "POST / HTTP/1.1\r\nHost: a\r\nExpect: 200-ok\r\n\r\n");
}

Test(http_parse, refuses_bad_request_lines)
{
	REFUSED(400, "\x16\x03\x01\x02\x00\x01\x00");
	REFUSED(400, " GET / HTTP/1.1\r\nHost: a\r\n\r\n");
	REFUSED(400, "GET  / HTTP/1.1\r\nHost: a\r\n\r\n");
	REFUSED(400, "GET /  HTTP/1.1\r\nHost: a\r\n\r\n");
	REFUSED(400, "GET /\tHTTP/1.1\r\nHost: a\r\n\r\n");
	REFUSED(400, "GET / HTTP/1.1 \r\nHost: a\r\n\r\n");
	REFUSED(400, "GET / HTTP/1.10\r\nHost: a\r\n\r\n");
	REFUSED(400, "GET /\r\nHost: a\r\n\r\n");
	REFUSED(400, "GET\r\n\r\n");
	REFUSED(400, "GET / http/1.1\r\nHost: a\r\n\r\n");
	REFUSED(400, "GET /\x80 HTTP/1.1\r\nHost: a\r\n\r\n");
	REFUSED(400, "G(T / HTTP/1.1\r\nHost: a\r\n\r\n");
	REFUSED(400, "GET x HTTP/1.1\r\nHost: a\r\n\r\n");
	REFUSED(400, "GET / HTTP/1.1\r\r\nHost: a\r\n\r\n");
	REFUSED(400, "\r\n\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n");
	REFUSED(501, "FROBNICATE / HTTP/1.1\r\nHost: a\r\n\r\n");
	REFUSED(505, "GET / HTTP/2.0\r\nHost: a\r\n\r\n");
	REFUSED(505, "GET / HTTP/1.2\r\nHost: a\r\n\r\n");
	REFUSED(505, "GET / HTTP/0.9\r\nHost: a\r\n\r\n");
}

Test(http_parse, has_limits)
{
	static char big[200000];
	struct fh_http_head h;
	const char *why;
	size_t n;

	/* One hundred fields are enough, one hundred and one too many. */
	for (int nr = 100; nr <= 101; nr++) {
		n = (size_t)sprintf(big, "GET / HTTP/1.1\r\nHost: a\r\n");
		for (int i = 1; i < nr; i++)
			n += (size_t)sprintf(big + n, "X-%d: y\r\n", i);
		n += (size_t)sprintf(big + n, "\r\n");
		cr_expect_eq(parse(big, n, &h, &why), nr == 100 ? (int)n : -431);
	}
	n = (size_t)sprintf(big, "GET /");
	memset(big + n, 'a', 5000);
	cr_expect_eq(parse(big, 5000, &h, &why), -414);
	n = (size_t)sprintf(big, "GET /%4096s HTTP/1.1\r\nHost: a\r\n\r\n", "");
	memset(big + 5, 'a', 4096);
	cr_expect_eq(parse(big, n, &h, &why), -414);
	n = (size_t)sprintf(big, "GET /%4095s HTTP/1.1\r\nHost: a\r\n\r\n", "");
	memset(big + 5, 'a', 4095);
	cr_expect_eq(parse(big, n, &h, &why), (int)n);
	n = (size_t)sprintf(big, "GET / HTTP/1.1\r\nHost: a\r\nX: ");
	memset(big + n, 'a', 40000);
	cr_expect_eq(parse(big, 32767, &h, &why), 0);
	cr_expect_eq(parse(big, 32768, &h, &why), -431);
	cr_expect_eq(parse(big, 40000, &h, &why), -431);
}

/* Chunked bodies */

/* Decode @in in pieces of @step bytes. Returns consumed bytes, or -status; the body is put into @out. */
static int unchunk(const char *in, size_t n, size_t step, char *out, size_t *nr_out, bool *done)
{
	struct fh_http_chunked c = {0};
	size_t off = 0;

	*nr_out = 0;
	while (off < n && !c.done) {
		size_t len = n - off < step ? n - off : step, used = 0;
		char *p = at_page_end(in + off, len);

		while (used < len && !c.done) {
			struct fh_span data;
			const char *why = "";
			int rc = fh_http_chunked_next(&c, p + used, len - used, &data, &why);

			if (rc < 0) {
				drop(p, len);
				return rc;
			}
			cr_assert(rc > 0);
			memcpy(out + *nr_out, data.n ? data.p : "", data.n);
			*nr_out += data.n;
			used += (size_t)rc;
		}
		drop(p, len);
		off += used;
	}
	*done = c.done;
	return (int)off;
}

static void expect_chunks(const char *in, size_t n, int want, const char *body)
{
	for (size_t step = 1; step <= 64; step = step * 3 + 1) {
		char out[512];
		size_t nr;
		bool done;
		int rc = unchunk(in, n, step, out, &nr, &done);

		cr_expect_eq(rc, want, "step %zu: %d, wanted %d: %s", step, rc, want, in);
		if (body) {
			cr_expect(done);
			cr_expect(nr == strlen(body) && !memcmp(out, body, nr), "step %zu: %.*s", step, (int)nr, out);
		}
	}
}

#define CHUNKS(want, text, body) expect_chunks(text, sizeof(text) - 1, want, body)

Test(http_parse, decodes_chunks)
{
	CHUNKS(5, "0\r\n\r\n", "");
	CHUNKS(15, "5\r\nhello\r\n0\r\n\r\n", "hello");
	/* What follows belongs to the next request. */
	CHUNKS(15, "5\r\nhello\r\n0\r\n\r\nGET / HTTP/1.1\r\n", "hello");
	CHUNKS(28, "2;a=b\r\nhe\r\n003\r\nllo\r\n0;x\r\n\r\n", "hello");
	CHUNKS(39, "A\r\n0123456789\r\n0\r\nX-Sum: abc\r\nY: \xc3\xa4\r\n\r\n", "0123456789");
}

Test(http_parse, refuses_bad_chunks)
{
	CHUNKS(-400, "\r\n", NULL);
	CHUNKS(-400, "x\r\n", NULL);
	CHUNKS(-400, " 5\r\nhello\r\n", NULL);
	CHUNKS(-400, "5 \r\nhello\r\n", NULL);
	CHUNKS(-400, "-5\r\nhello\r\n", NULL);
	CHUNKS(-400, "0x5\r\nhello\r\n", NULL);
	CHUNKS(-400, "5\nhello\r\n", NULL);
	CHUNKS(-400, "5;a\nhello\r\n", NULL);
	CHUNKS(-400, "5;a\0\r\nhello\r\n", NULL);
	CHUNKS(-400, "5\r\nhelloX\n0\r\n\r\n", NULL);
	CHUNKS(-400, "5\r\nhello\n0\r\n\r\n", NULL);
	CHUNKS(-400, "5\r\nhello\r0\r\n\r\n", NULL);
	CHUNKS(-400, "0\r\nno colon\r\n\r\n", NULL);
	CHUNKS(-400, "0\r\n folded: x\r\n\r\n", NULL);
	CHUNKS(-400, "0\r\nA: b\nC: d\r\n\r\n", NULL);
	CHUNKS(-400, "0\r\nA: \x01\r\n\r\n", NULL);
	CHUNKS(-400, "0\r\n\rX", NULL);
	CHUNKS(-413, "ffffffffffffffff\r\n", NULL);
	CHUNKS(-413, "00000000000000005\r\nhello\r\n", NULL);
}

Test(http_parse, bounds_extensions_and_trailers)
{
	static char big[20000];
	struct fh_http_chunked c = {0};
	struct fh_span data;
	const char *why;
	int rc;

	memset(big, 'a', sizeof(big));
	memcpy(big, "5;", 2);
	cr_expect_eq(fh_http_chunked_next(&c, big, 1000, &data, &why), -400);
	c = (struct fh_http_chunked){0};
	memcpy(big, "0\r\nA:", 5);
	rc = fh_http_chunked_next(&c, big, sizeof(big), &data, &why);
	cr_expect_eq(rc, -431);
}
