// SPDX-License-Identifier: Apache-2.0
/*
 * An HTTP server's answer.
 *
 * libhttp-parser reads the framing; server-sent events are read as the HTML
 * standard has them (lines end in LF, CR LF or CR; several data lines make one
 * event; comments and other fields are passed over); jansson reads each event.
 * An event's choices[0] has text, token_ids (which vLLM and Freehold add with
 * return_token_ids) and, in the end, a finish_reason.
 */
#include <errno.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "runtime/lib/http_answer.h"
#include "uapi/freehold.h"

enum { FIELD_OTHER, FIELD_TYPE, FIELD_RETRY, FIELD_RETRY_MS };

static int fail(struct fhl_answer *a, int code, const char *what)
{
	if (!a->error) {
		a->error = code;
		snprintf(a->message, sizeof(a->message), "%s", what);
	}
	return code;
}

/* Room for @more bytes behind @used. */
static int room_for(char **p, size_t *cap, size_t used, size_t more)
{
	size_t want = *cap ? *cap : 512;
	char *q;

	while (want < used + more)
		want *= 2;
	if (want == *cap)
		return 0;
	q = realloc(*p, want);
	if (!q)
		return -ENOMEM;
	*p = q;
	*cap = want;
	return 0;
}

static int append(struct fhl_answer *a, char **p, size_t *cap, size_t *used, const char *bytes, size_t n)
{
	if (*used + n > FHL_EVENT_BYTES_MAX)
		return fail(a, -EPROTO, "an event, or the answer, is larger than 16 MiB");
	if (room_for(p, cap, *used, n))
		return fail(a, -ENOMEM, "out of memory");
	memcpy(*p + *used, bytes, n);
	*used += n;
	return 0;
}

/* Pieces */

static struct fhl_piece *add_piece(struct fhl_answer *a)
{
	if (a->nr_pieces == a->pieces_cap) {
		size_t cap = a->pieces_cap ? 2 * a->pieces_cap : 16;
		struct fhl_piece *p = realloc(a->pieces, cap * sizeof(*p));

		if (!p) {
			fail(a, -ENOMEM, "out of memory");
			return NULL;
		}
		a->pieces = p;
		a->pieces_cap = cap;
	}
	a->pieces[a->nr_pieces] = (struct fhl_piece){.flags = FH_SLOT_NO_TOKEN};
	return &a->pieces[a->nr_pieces++];
}

const struct fhl_piece *fhl_answer_next(struct fhl_answer *a)
{
	return a->next_piece < a->nr_pieces ? &a->pieces[a->next_piece++] : NULL;
}

static void add_error(struct fhl_answer *a, int error)
{
	struct fhl_piece *p = a->ended ? NULL : add_piece(a);

	if (!p)
		return;
	p->flags |= FH_SLOT_LAST;
	p->finish = a->no_deadline ? FH_FINISH_DEADLINE : FH_FINISH_ERROR;
	p->error = error;
	a->ended = true;
}

/* Events */

static uint32_t finish_of(const char *name)
{
	static const struct {
		const char *name;
		uint32_t finish;
	} table[] = {
		{"stop", FH_FINISH_STOP},     {"length", FH_FINISH_LENGTH},	    {"abort", FH_FINISH_CANCELLED},
		{"budget", FH_FINISH_BUDGET}, {"content_filter", FH_FINISH_FILTER}, {"deadline", FH_FINISH_DEADLINE},
	};

	for (size_t i = 0; i < sizeof(table) / sizeof(table[0]); i++)
		if (!strcmp(name, table[i].name))
			return table[i].finish;
	/* Another server's own reason: it ended as it wanted to. */
	return FH_FINISH_STOP;
}

static void read_error_text(struct fhl_answer *a, json_t *root)
{
	json_t *e = json_object_get(root, "error");
	const char *text = json_string_value(json_is_object(e) ? json_object_get(e, "message") : e);
	const char *code = json_string_value(json_object_get(e, "code"));

	a->no_deadline = a->status == 429 && code && !strcmp(code, "deadline_impossible");
	snprintf(a->message, sizeof(a->message), "%s", text ? text : "the server did not say why");
	/* One line. */
	for (char *p = a->message; *p; p++)
		if ((unsigned char)*p < 0x20)
			*p = ' ';
}

static int add_ids(struct fhl_answer *a, json_t *ids, json_t *logprobs)
{
	json_t *id, *lp;
	size_t i;

	json_array_foreach (ids, i, id) {
		json_int_t v = json_is_integer(id) ? json_integer_value(id) : -1;
		struct fhl_piece *p;

		if (v < 0 || v > UINT32_MAX)
			return fail(a, -EPROTO, "token_ids holds something that is no token id");
		p = add_piece(a);
		if (!p)
			return a->error;
		p->flags = 0;
		p->token = (uint32_t)v;
		lp = json_array_get(logprobs, i);
		if (json_is_number(lp)) {
			p->flags |= FH_SLOT_LOGPROB;
			p->logprob = (float)json_number_value(lp);
		}
	}
	return 0;
}

static int read_choice(struct fhl_answer *a, json_t *choice)
{
	json_t *text = json_object_get(choice, "text");
	const char *finish = json_string_value(json_object_get(choice, "finish_reason"));
	size_t n = json_is_string(text) ? json_string_length(text) : 0, before = a->nr_pieces;
	struct fhl_piece *p;
	int rc = add_ids(a, json_object_get(choice, "token_ids"),
			 json_object_get(json_object_get(choice, "logprobs"), "token_logprobs"));

	if (rc || (a->nr_pieces == before && !n && !finish))
		return rc;
	/* Text and end belong to the last token, or to an entry without one. */
	p = a->nr_pieces > before ? &a->pieces[a->nr_pieces - 1] : add_piece(a);
	if (!p)
		return a->error;
	p->text = a->texts_bytes;
	p->text_bytes = n;
	if (n) {
		rc = append(a, &a->texts, &a->texts_cap, &a->texts_bytes, json_string_value(text), n);
		if (rc)
			return rc;
	}
	if (finish) {
		p->flags |= FH_SLOT_LAST;
		p->finish = finish_of(finish);
		a->ended = true;
	}
	return 0;
}

static int read_event(struct fhl_answer *a)
{
	json_error_t je;
	json_t *root, *choices;
	int rc = 0;

	if (a->ended)
		return 0;
	if (a->data_bytes == 6 && !memcmp(a->data, "[DONE]", 6))
		return fail(a, -EPROTO, "the stream ended without a finish_reason");
	root = json_loadb(a->data, a->data_bytes, JSON_REJECT_DUPLICATES | JSON_ALLOW_NUL, &je);
	if (!json_is_object(root)) {
		rc = fail(a, -EPROTO, "an event holds no JSON object");
	} else if (json_object_get(root, "error")) {
		read_error_text(a, root);
		add_error(a, -EIO);
	} else {
		choices = json_object_get(root, "choices");
		if (json_array_size(choices))
			rc = read_choice(a, json_array_get(choices, 0));
	}
	json_decref(root);
	return rc;
}

/* A whole line of the stream, without its end. */
static int event_line(struct fhl_answer *a)
{
	const char *p = a->line;
	size_t n = a->line_bytes;
	int rc = 0;

	a->line_bytes = 0;
	if (!n) {
		if (a->has_data)
			rc = read_event(a);
		a->data_bytes = 0;
		a->has_data = false;
		return rc;
	}
	if (n < 5 || memcmp(p, "data:", 5))
		return 0;
	p += 5;
	n -= 5;
	if (n && *p == ' ')
		p++, n--;
	if (a->has_data)
		rc = append(a, &a->data, &a->data_cap, &a->data_bytes, "\n", 1);
	a->has_data = true;
	return rc ? rc : append(a, &a->data, &a->data_cap, &a->data_bytes, p, n);
}

static int event_bytes(struct fhl_answer *a, const char *p, size_t n)
{
	const char *end = p + n;
	int rc = 0;

	while (!rc && p < end) {
		const char *q = p;

		if (a->after_cr) {
			a->after_cr = false;
			if (*p == '\n') {
				p++;
				continue;
			}
		}
		while (q < end && *q != '\n' && *q != '\r')
			q++;
		rc = append(a, &a->line, &a->line_cap, &a->line_bytes, p, (size_t)(q - p));
		if (!rc && q < end) {
			a->after_cr = *q == '\r';
			rc = event_line(a);
			q++;
		}
		p = q;
	}
	return rc;
}

/* The head */

static int on_begin(http_parser *hp)
{
	struct fhl_answer *a = hp->data;

	a->field = FIELD_OTHER;
	a->value_bytes = 0;
	return 0;
}

static void value_done(struct fhl_answer *a)
{
	a->value[a->value_bytes] = '\0';
	if (a->field == FIELD_TYPE)
		a->is_events = !strncasecmp(a->value, "text/event-stream", 17);
	if (a->field == FIELD_RETRY && a->value_bytes && !a->retry_exact) {
		unsigned long s = strtoul(a->value, NULL, 10);

		a->retry_us = s < 4000 ? (uint32_t)s * 1000000u : 4000000000u;
	}
	if (a->field == FIELD_RETRY_MS && a->value_bytes) {
		unsigned long ms = strtoul(a->value, NULL, 10);

		a->retry_us = ms < 4000000 ? (uint32_t)ms * 1000u : 4000000000u;
		a->retry_exact = true;
	}
	a->field = FIELD_OTHER;
	a->value_bytes = 0;
}

/* The beginning of a name or a value is enough: none that matters is longer. */
static void keep(struct fhl_answer *a, const char *p, size_t n)
{
	size_t room = sizeof(a->value) - 1 - a->value_bytes;

	n = n < room ? n : room;
	memcpy(a->value + a->value_bytes, p, n);
	a->value_bytes += n;
}

/* A field's name may come in pieces: they are joined where its value will be. */
static int on_field(http_parser *hp, const char *p, size_t n)
{
	struct fhl_answer *a = hp->data;

	if (a->field != FIELD_OTHER)
		value_done(a);
	keep(a, p, n);
	return 0;
}

static int on_value(http_parser *hp, const char *p, size_t n)
{
	struct fhl_answer *a = hp->data;

	if (a->field == FIELD_OTHER) {
		if (a->value_bytes == 12 && !strncasecmp(a->value, "Content-Type", 12))
			a->field = FIELD_TYPE;
		else if (a->value_bytes == 11 && !strncasecmp(a->value, "Retry-After", 11))
			a->field = FIELD_RETRY;
		else if (a->value_bytes == 14 && !strncasecmp(a->value, "Retry-After-Ms", 14))
			a->field = FIELD_RETRY_MS;
		a->value_bytes = 0;
		if (a->field == FIELD_OTHER)
			return 0;
	}
	keep(a, p, n);
	return 0;
}

static int on_head(http_parser *hp)
{
	struct fhl_answer *a = hp->data;

	value_done(a);
	/* 100 Continue and its like come before the answer. */
	if (hp->status_code / 100 == 1)
		return 0;
	a->status = hp->status_code;
	a->head_done = true;
	if (a->stream && a->status == 200 && !a->is_events)
		return fail(a, -EPROTO, "the server answers without a stream of events");
	return 0;
}

static int on_body(http_parser *hp, const char *p, size_t n)
{
	struct fhl_answer *a = hp->data;

	if (a->stream && a->status == 200)
		return event_bytes(a, p, n);
	return append(a, &a->data, &a->data_cap, &a->data_bytes, p, n);
}

/* What a status says about a request. */
static int error_of(int status)
{
	switch (status) {
	case 400:
	case 422: return -EINVAL;
	case 401:
	case 403: return -EACCES;
	case 404: return -ENOENT;
	case 413: return -E2BIG;
	case 429: return -EAGAIN;
	case 503: return -ESHUTDOWN;
	default: return status >= 500 ? -EIO : -EPROTO;
	}
}

static int on_complete(http_parser *hp)
{
	struct fhl_answer *a = hp->data;

	if (!a->head_done)
		return 0;
	a->complete = true;
	a->keep_alive = http_should_keep_alive(hp);
	if (a->status != 200) {
		json_t *root = json_loadb(a->data ? a->data : "", a->data_bytes, 0, NULL);

		read_error_text(a, root);
		json_decref(root);
		add_error(a, error_of(a->status));
	} else if (a->stream && !a->ended) {
		return a->at_end ? fail(a, -EPIPE, "the server closed the connection before the answer had ended")
				 : fail(a, -EPROTO, "the stream ended without a finish_reason");
	}
	/* Nothing may follow before we ask again. */
	http_parser_pause(hp, 1);
	return 0;
}

static const http_parser_settings settings = {
	.on_message_begin = on_begin,
	.on_header_field = on_field,
	.on_header_value = on_value,
	.on_headers_complete = on_head,
	.on_body = on_body,
	.on_message_complete = on_complete,
};

void fhl_answer_begin(struct fhl_answer *a, bool stream)
{
	struct fhl_answer kept = *a;

	*a = (struct fhl_answer){
		.stream = stream,
		.data = kept.data,
		.data_cap = kept.data_cap,
		.line = kept.line,
		.line_cap = kept.line_cap,
		.pieces = kept.pieces,
		.pieces_cap = kept.pieces_cap,
		.texts = kept.texts,
		.texts_cap = kept.texts_cap,
	};
	http_parser_init(&a->parser, HTTP_RESPONSE);
	a->parser.data = a;
}

void fhl_answer_free(struct fhl_answer *a)
{
	free(a->data);
	free(a->line);
	free(a->pieces);
	free(a->texts);
	*a = (struct fhl_answer){0};
}

int fhl_answer_feed(struct fhl_answer *a, const char *bytes, size_t n)
{
	enum http_errno e;
	size_t used;

	if (a->error)
		return a->error;
	if (a->next_piece == a->nr_pieces) {
		a->next_piece = a->nr_pieces = 0;
		a->texts_bytes = 0;
	}
	if (a->complete)
		return n ? fail(a, -EPROTO, "bytes came that belong to no answer") : 0;
	a->any |= n > 0;
	a->at_end = !n;
	a->parser.data = a;
	used = http_parser_execute(&a->parser, &settings, bytes, n);
	e = HTTP_PARSER_ERRNO(&a->parser);
	if (a->error)
		return a->error;
	if (e == HPE_PAUSED)
		return used < n ? fail(a, -EPROTO, "bytes came that belong to no answer") : 0;
	if (e == HPE_OK && (n || a->complete))
		return 0;
	if (!n)
		return fail(a, -EPIPE, "the server closed the connection before the answer had ended");
	return fail(a, -EPROTO, http_errno_description(e));
}

int fhl_answer_model(const struct fhl_answer *a, const char *want, char *id, size_t cap, uint32_t *nr_ctx)
{
	json_t *root = json_loadb(a->data ? a->data : "", a->data_bytes, JSON_REJECT_DUPLICATES, NULL), *item;
	json_t *list = json_object_get(root, "data");
	int rc = json_is_array(list) ? -ENOENT : -EPROTO;
	size_t i;

	json_array_foreach (list, i, item) {
		const char *name = json_string_value(json_object_get(item, "id"));
		json_int_t ctx = json_integer_value(json_object_get(item, "max_model_len"));

		if (!name || (want && strcmp(name, want)))
			continue;
		snprintf(id, cap, "%s", name);
		*nr_ctx = ctx > 0 && ctx <= UINT32_MAX ? (uint32_t)ctx : 0;
		rc = 0;
		break;
	}
	json_decref(root);
	return rc;
}
