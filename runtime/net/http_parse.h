/* SPDX-License-Identifier: Apache-2.0 */
/*
 * HTTP/1.1 requests, read strictly.
 *
 * Two readers must agree: a scanner of our own, which knows only the exact
 * grammar of RFC 9112 and refuses everything that servers and proxies are
 * known to read differently, and libhttp-parser.  Chunked bodies are decoded
 * here alone, because libhttp-parser takes a bare LF in a chunk extension.
 *
 * Nothing is allocated.  Results point into the caller's buffer.
 */
#ifndef FH_NET_HTTP_PARSE_H
#define FH_NET_HTTP_PARSE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "runtime/base/span.h"

#define FH_HTTP_MAX_HEAD 32768	/* request line and header fields */
#define FH_HTTP_MAX_TARGET 4096 /* request target */
#define FH_HTTP_MAX_FIELDS 100
#define FH_HTTP_MAX_CHUNK_LINE 256 /* chunk size and extensions */
#define FH_HTTP_MAX_STATES 8	   /* fields of tracestate that are looked at; one more, and none of them is */
#define FH_HTTP_MAX_TRAILER 8192   /* all trailer fields, which are read and dropped */

struct fh_span {
	const char *p; /* not terminated */
	size_t n;
};

enum fh_http_method { FH_HTTP_GET, FH_HTTP_HEAD, FH_HTTP_POST, FH_HTTP_DELETE, FH_HTTP_OTHER };

/* As enum fh_class, one higher. */
enum fh_http_priority { FH_HTTP_NO_PRIORITY, FH_HTTP_STANDARD, FH_HTTP_INTERACTIVE, FH_HTTP_BATCH };

struct fh_http_head {
	enum fh_http_method method;
	unsigned int minor; /* of HTTP/1.x */
	struct fh_span target;
	struct fh_span authorization;		   /* n 0: absent */
	struct fh_span request_id;		   /* X-Request-Id, printable, at most 128 bytes, or absent */
	struct fh_span run_id;			   /* X-Freehold-Run-Id, likewise */
	uint32_t run_depth;			   /* X-Freehold-Run-Depth; 0: absent */
	uint32_t ttft_us, tpot_us;		   /* X-Freehold-Ttft-Ms, -Tpot-Ms: 0: absent, UINT32_MAX: "none" */
	enum fh_http_priority priority;		   /* X-Freehold-Priority */
	bool receipt;				   /* X-Freehold-Receipt: 1 */
	struct fh_trace_context trace;		   /* traceparent */
	struct fh_span states[FH_HTTP_MAX_STATES]; /* [nr_states] tracestate, unread */
	uint32_t nr_states;
	uint64_t content_length;
	bool has_length;
	bool chunked;
	bool keep_alive;
	bool expect_continue;
};

/*
 * Read one head at the beginning of @buf.  @scanned: 0 for a new head; keeps
 * where the search for its end stopped, so that feeding byte by byte stays
 * linear.  Returns the bytes of the head; 0: more is needed; -status: refuse
 * with that status and close, *why says what is wrong.
 */
int fh_http_head_parse(const char *buf, size_t len, size_t *scanned, struct fh_http_head *head, const char **why);

struct fh_http_chunked {
	uint64_t left; /* of the present chunk's data */
	uint32_t line; /* bytes of the present line */
	uint32_t trailer;
	uint8_t state;
	uint8_t digits;
	bool done; /* the whole body, trailers too, has been read */
};

/*
 * Decode some of a chunked body: reads from @in, points *data at the next run
 * of body bytes (n 0: none).  Returns bytes consumed from @in, which include
 * that run; call again until done or until it has consumed all.  Negative:
 * -status, *why.  Zero-fill @c to begin.
 */
int fh_http_chunked_next(struct fh_http_chunked *c, const char *in, size_t len, struct fh_span *data, const char **why);

#endif /* FH_NET_HTTP_PARSE_H */
