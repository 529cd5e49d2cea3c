/* SPDX-License-Identifier: Apache-2.0 */
/*
 * An HTTP/1.1 answer to a completion request, digested as it arrives: its head,
 * its body by length, by chunks or to the end of the connection, and in it
 * either server-sent events (by the WHATWG's rules: any line end, comments,
 * data of several lines) or one JSON object.
 *
 * The bytes come from a server that is measured, not trusted: what is malformed
 * ends the answer with a reason.  One buffer grows to what the longest line,
 * head or plain body needs, within LOAD_ANSWER_MAX; it belongs to the answer
 * and is kept from one answer to the next.
 */
#ifndef FH_TOOLS_LOAD_ANSWER_H
#define FH_TOOLS_LOAD_ANSWER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "runtime/net/buf.h"
#include "tools/load/chunk.h"

#define LOAD_ANSWER_MAX (16u << 20)

enum load_answer_state {
	LOAD_HEAD,
	LOAD_BODY, /* so many bytes */
	LOAD_CHUNK_SIZE,
	LOAD_CHUNK_EXT,
	LOAD_CHUNK_DATA,
	LOAD_CHUNK_END,
	LOAD_TRAILER,
	LOAD_TO_CLOSE, /* the body ends with the connection */
	LOAD_DONE,
};

struct load_answer {
	/* Read by the user once the state is LOAD_DONE. */
	enum load_answer_state state;
	int status;
	bool closes;		/* the server will close, or the connection cannot be used again */
	bool streamed;		/* it came as events */
	bool finished;		/* a finish_reason, or [DONE] */
	bool failed;		/* the body says that there was an error */
	uint32_t retry_after_s; /* of a refusal; 0: not said */
	uint32_t nr_events;	/* that carried text */
	uint64_t prompt_tokens, completion_tokens, cached_tokens; /* 0: the server did not say */
	uint64_t begin_ns;					  /* the first byte */
	uint64_t first_ns, last_ns;				  /* events with text */
	uint64_t choice_ns, last_choice_ns;			  /* events with choices, with text or not */
	char error[200];

	/* Called for every event with text, with the time given to load_answer_take(); may be NULL. */
	void (*on_text)(struct load_answer *a, uint64_t now_ns);

	/* Its own. */
	bool chunked, skip_lf, in_text, seen_digit;
	uint64_t left; /* bytes of the body or chunk */
	struct fh_buf line, data;
};

/* Begin a new answer; zero it before the first. */
void load_answer_reset(struct load_answer *a);
void load_answer_free(struct load_answer *a);
/* Digest @n received bytes. False: malformed, .error says how; the connection is useless. */
bool load_answer_take(struct load_answer *a, const char *p, size_t n, uint64_t now_ns);
/* The server closed the connection. False: before its answer was complete. */
bool load_answer_eof(struct load_answer *a, uint64_t now_ns);

#endif /* FH_TOOLS_LOAD_ANSWER_H */
