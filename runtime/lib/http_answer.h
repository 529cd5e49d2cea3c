/* SPDX-License-Identifier: Apache-2.0 */
/*
 * An HTTP server's answer, read as its bytes come: head, JSON or server-sent
 * events, tokens.  Touches no socket.
 *
 * The answer owns what it has gathered.  Tokens come out of it in their order;
 * a text belongs to the answer and is valid until the next fhl_answer_feed().
 */
#ifndef FH_LIB_HTTP_ANSWER_H
#define FH_LIB_HTTP_ANSWER_H

#include <http_parser.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define FHL_EVENT_BYTES_MAX (16u << 20) /* of one event, or of an answer that is no stream */

/* One thing that the server said about the request. */
struct fhl_piece {
	uint32_t token;
	uint32_t flags;	   /* FH_SLOT_* */
	uint32_t finish;   /* with FH_SLOT_LAST */
	int32_t error;	   /* with FH_FINISH_ERROR */
	float logprob;	   /* with FH_SLOT_LOGPROB */
	size_t text;	   /* where its text lies in texts ... */
	size_t text_bytes; /* ... and how long it is */
};

struct fhl_answer {
	http_parser parser;
	bool stream;	/* what is wanted: events, not one JSON value */
	bool is_events; /* what came */
	bool head_done, complete, keep_alive;
	bool any;    /* a byte has come */
	bool at_end; /* the connection was closed */
	bool ended;  /* the last piece is there */
	int status;  /* of HTTP; 0: not known yet */
	uint32_t retry_us;
	bool retry_exact; /* it came in milliseconds, which the whole seconds do not overrule */
	bool no_deadline; /* refused because its deadline could not be kept */
	uint8_t field;	  /* which header field's value comes now */
	char value[128];  /* of it, so far */
	size_t value_bytes;
	/* The event, or the whole answer, so far; and the line of an event. */
	char *data, *line;
	size_t data_bytes, data_cap, line_bytes, line_cap;
	bool after_cr, has_data;
	/* Pieces that nobody has taken, and their texts. */
	struct fhl_piece *pieces;
	size_t nr_pieces, next_piece, pieces_cap;
	char *texts;
	size_t texts_bytes, texts_cap;
	int error;	   /* -errno; the answer cannot be read on */
	char message[256]; /* with error, or what a refusal says */
};

/* Begin; @a is zeroed, or was used before and keeps its buffers. @stream: of completions. */
void fhl_answer_begin(struct fhl_answer *a, bool stream);
void fhl_answer_free(struct fhl_answer *a);
/*
 * Read @n bytes; 0 bytes: the connection was closed.  Pieces that were taken
 * go.  0, or -errno with a->message: -EPROTO, -ENOMEM.
 */
int fhl_answer_feed(struct fhl_answer *a, const char *bytes, size_t n);
/* The next piece, or NULL. */
const struct fhl_piece *fhl_answer_next(struct fhl_answer *a);
/* Of GET /v1/models: the id of @want, or of the first one, and its context. 0, -ENOENT, -EPROTO. */
int fhl_answer_model(const struct fhl_answer *a, const char *want, char *id, size_t cap, uint32_t *nr_ctx);

#endif /* FH_LIB_HTTP_ANSWER_H */
