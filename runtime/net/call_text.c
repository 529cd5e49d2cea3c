// SPDX-License-Identifier: Apache-2.0
/*
 * Tokens to JSON: server-sent events for streams, one object otherwise.
 *
 * One event a token, so that clients can time them; all events that are ready
 * at once leave in one send.  What every event of a call begins with is made
 * once (call->prefix); the rest is copied and escaped straight into the
 * connection's buffer.
 */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "runtime/net/http_priv.h"

static const char *finish_name(uint8_t finish)
{
	switch (finish) {
	case FH_FINISH_STOP: return "stop";
	case FH_FINISH_LENGTH: return "length";
	case FH_FINISH_BUDGET: return "budget";
	case FH_FINISH_FILTER: return "content_filter";
	case FH_FINISH_DEADLINE: return "deadline";
	default: return "abort";
	}
}

static void put_finish(struct fh_buf *b, uint8_t finish)
{
	fh_buf_lit(b, "\"");
	fh_buf_puts(b, finish_name(finish));
	fh_buf_lit(b, "\"");
}

/* {"id":...,"object":...,"created":...,"model":..., without the closing brace */
static void put_envelope(struct fh_call *call, struct fh_buf *b, const char *object)
{
	const char *model = call->h->svc->model.id;

	fh_buf_lit(b, "{\"id\":\"");
	fh_buf_puts(b, call->id);
	fh_buf_lit(b, "\",\"object\":\"");
	fh_buf_puts(b, object);
	fh_buf_lit(b, "\",\"created\":");
	fh_buf_u64(b, call->created);
	fh_buf_lit(b, ",\"model\":\"");
	fh_buf_json(b, model, strlen(model));
	fh_buf_lit(b, "\",");
}

static void put_usage(struct fh_call *call, struct fh_buf *b)
{
	uint64_t prompt = 0;

	for (uint32_t i = 0; i < call->oai.nr_prompts; i++)
		prompt += call->oai.prompts[i].nr;
	fh_buf_lit(b, "\"usage\":{\"prompt_tokens\":");
	fh_buf_u64(b, prompt);
	fh_buf_lit(b, ",\"completion_tokens\":");
	fh_buf_u64(b, call->nr_generated);
	fh_buf_lit(b, ",\"total_tokens\":");
	fh_buf_u64(b, prompt + call->nr_generated);
	fh_buf_lit(b, ",\"prompt_tokens_details\":{\"cached_tokens\":");
	fh_buf_u64(b, call->nr_cached);
	fh_buf_lit(b, "},\"completion_tokens_details\":{\"reasoning_tokens\":");
	fh_buf_u64(b, call->nr_reasoning);
	fh_buf_lit(b, "}}");
}

static uint32_t count_chars(const char *s, size_t n)
{
	uint32_t nr = 0;

	for (size_t i = 0; i < n; i++)
		nr += ((unsigned char)s[i] & 0xc0) != 0x80;
	return nr;
}

/* The prompt in front of its completion, as the client wrote it or as its ids read. */
static void put_echo(struct fh_seq *s, struct fh_buf *b)
{
	const struct fh_oai_prompt *p = &s->call->oai.prompts[s->prompt];
	const struct fh_text_ops *text = &s->call->h->svc->text;
	struct fh_detok d = {0};
	char piece[FH_DETOK_MAX];

	if (p->text) {
		fh_buf_json(b, p->text, p->text_bytes);
		s->nr_chars += count_chars(p->text, p->text_bytes);
		return;
	}
	for (uint32_t i = 0; i <= p->nr; i++) {
		size_t n = i < p->nr ? text->detokenize(text->ctx, &d, p->ids[i], piece, sizeof(piece))
				     : text->detokenize_end(text->ctx, &d, piece, sizeof(piece));

		fh_buf_json(b, piece, n);
		s->nr_chars += count_chars(piece, n);
	}
}

/* Token ids, where return_token_ids asks for them: those of the prompt once, those of the answer as they come. */

static void put_prompt_ids(struct fh_seq *s, struct fh_buf *b)
{
	const struct fh_oai_prompt *p = &s->call->oai.prompts[s->prompt];

	if (!s->call->oai.token_ids)
		return;
	fh_buf_lit(b, ",\"prompt_token_ids\":[");
	for (uint32_t i = 0; i < p->nr; i++) {
		if (i)
			fh_buf_lit(b, ",");
		fh_buf_u64(b, p->ids[i]);
	}
	fh_buf_lit(b, "]");
}

static void put_token_ids(struct fh_seq *s, struct fh_buf *b)
{
	if (!s->call->oai.token_ids)
		return;
	fh_buf_lit(b, ",\"token_ids\":[");
	fh_buf_put(b, s->ids.data, s->ids.len);
	b->failed |= s->ids.failed;
	s->ids.len = 0;
	fh_buf_lit(b, "]");
}

static void add_token_id(struct fh_seq *s, uint32_t id)
{
	if (s->ids.len)
		fh_buf_lit(&s->ids, ",");
	fh_buf_u64(&s->ids, id);
}

/* Streams */

static void open_stream(struct fh_call *call)
{
	bool chat = call->oai.kind == FH_OAI_CHAT;

	call->streaming = true;
	fh_buf_lit(&call->prefix, "data: ");
	put_envelope(call, &call->prefix, chat ? "chat.completion.chunk" : "text_completion");
	fh_buf_lit(&call->prefix, "\"choices\":[{\"index\":");
	fh_conn_stream_begin(call->conn);
}

static void event_begin(struct fh_seq *s, struct fh_buf *b)
{
	struct fh_call *call = s->call;

	fh_conn_piece(call->conn);
	fh_buf_put(b, call->prefix.data, call->prefix.len);
	fh_buf_u64(b, s->index);
	b->failed |= call->prefix.failed;
}

static void event_end(struct fh_call *call, struct fh_buf *b, struct fh_seq *with_prompt)
{
	fh_buf_lit(b, "}]");
	if (with_prompt)
		put_prompt_ids(with_prompt, b);
	if (call->oai.include_usage)
		fh_buf_lit(b, ",\"usage\":null}\n\n");
	else
		fh_buf_lit(b, "}\n\n");
}

static void stream_completion(struct fh_seq *s, struct fh_buf *b, const char *text, size_t n, bool last)
{
	bool first = !s->opened;

	event_begin(s, b);
	fh_buf_lit(b, ",\"text\":\"");
	if (first && s->call->oai.echo)
		put_echo(s, b);
	s->opened = true;
	fh_buf_json(b, text, n);
	fh_buf_lit(b, "\",\"logprobs\":");
	if (s->lp.len)
		fh_seq_put_logprobs(s, b);
	else
		fh_buf_lit(b, "null");
	fh_buf_lit(b, ",\"finish_reason\":");
	if (last)
		put_finish(b, s->finish);
	else
		fh_buf_lit(b, "null");
	if (first)
		put_prompt_ids(s, b);
	put_token_ids(s, b);
	event_end(s->call, b, NULL);
}

static void stream_chat(struct fh_seq *s, struct fh_buf *b, const char *text, size_t n, bool last)
{
	if (!s->opened) {
		s->opened = true;
		event_begin(s, b);
		fh_buf_lit(b, ",\"delta\":{\"role\":\"assistant\",\"content\":\"\"},\"logprobs\":null,\"finish_"
			      "reason\":null");
		event_end(s->call, b, s);
	}
	if (n || s->lp.len || s->ids.len) {
		event_begin(s, b);
		fh_buf_lit(b, ",\"delta\":{\"content\":\"");
		fh_buf_json(b, text, n);
		fh_buf_lit(b, "\"},\"logprobs\":");
		fh_seq_put_logprobs(s, b);
		fh_buf_lit(b, ",\"finish_reason\":null");
		put_token_ids(s, b);
		event_end(s->call, b, NULL);
	}
	if (last) {
		event_begin(s, b);
		fh_buf_lit(b, ",\"delta\":{},\"logprobs\":null,\"finish_reason\":");
		put_finish(b, s->finish);
		put_token_ids(s, b);
		event_end(s->call, b, NULL);
	}
}

void fh_call_put_stream_end(struct fh_call *call)
{
	struct fh_conn *c = call->conn;
	struct fh_buf *b = &c->out;

	fh_conn_piece(c);
	if (call->oai.include_usage) {
		fh_buf_lit(b, "data: ");
		put_envelope(call, b, call->oai.kind == FH_OAI_CHAT ? "chat.completion.chunk" : "text_completion");
		fh_buf_lit(b, "\"choices\":[],");
		put_usage(call, b);
		fh_buf_lit(b, "}\n\n");
	}
	fh_buf_lit(b, "data: [DONE]\n\n");
}

void fh_call_put_receipt(struct fh_call *call)
{
	struct fh_buf *b = &call->conn->out;

	fh_conn_piece(call->conn);
	fh_buf_lit(b, "data: ");
	put_envelope(call, b, "freehold.receipt");
	fh_buf_lit(b, "\"choices\":[],\"receipt\":");
	fh_buf_puts(b, call->audit.receipt ? call->audit.receipt : "null");
	fh_buf_lit(b, "}\n\n");
}

void fh_call_put_stream_error(struct fh_call *call)
{
	struct fh_conn *c = call->conn;

	fh_conn_piece(c);
	fh_buf_lit(&c->out, "data: ");
	fh_oai_put_error(&c->out, &call->err);
	fh_buf_lit(&c->out, "\n\n");
}

/* One slot, with the text that it completes. */

static void give_text(struct fh_seq *s, const char *text, size_t n, bool last)
{
	struct fh_call *call = s->call;

	call->h->c.copied_bytes += n;
	if (call->audit.wants_receipt)
		fh_buf_put(&s->said, text, n);
	if (!call->oai.stream) {
		if (!s->opened && call->oai.echo)
			put_echo(s, &s->text);
		s->opened = true;
		fh_buf_json(&s->text, text, n);
		return;
	}
	if (call->audit.keep_text)
		fh_buf_json(&s->text, text, n);
	/* A token may have no text yet: half a character, or a control token. */
	if (!n && !last && !s->lp.len && !s->ids.len)
		return;
	if (!call->streaming)
		open_stream(call);
	if (call->oai.kind == FH_OAI_CHAT)
		stream_chat(s, &call->conn->out, text, n, last);
	else
		stream_completion(s, &call->conn->out, text, n, last);
	fh_conn_flush(call->conn);
}

/* The stop string begins inside this token: its text ends at @limit, never inside a character. */
static size_t cut_text(const char *text, size_t n, size_t limit)
{
	if (n <= limit)
		return n;
	while (limit && ((unsigned char)text[limit] & 0xc0) == 0x80)
		limit--;
	return limit;
}

static void read_slot(struct fh_seq *s, const struct fh_slot *slot, const struct fh_top *top)
{
	const struct fh_text_ops *ops = &s->call->h->svc->text;
	bool last = slot->flags & FH_SLOT_LAST;
	char text[2 * FH_DETOK_MAX];
	size_t n = 0, held = s->detok.nr_pending;

	if (!(slot->flags & FH_SLOT_NO_TOKEN)) {
		s->nr_tokens++;
		s->call->h->c.tokens++;
		n = ops->detokenize(ops->ctx, &s->detok, slot->token, text, FH_DETOK_MAX);
		if (slot->flags & FH_SLOT_CUT)
			n = cut_text(text, n, held + slot->cut_bytes);
		if (slot->flags & FH_SLOT_LOGPROB) {
			float lp;

			memcpy(&lp, &slot->logprob, sizeof(lp));
			s->sum_logprob += (double)lp;
		}
		if (s->call->oai.logprobs)
			fh_seq_add_logprobs(s, slot, top);
		if (s->call->oai.token_ids)
			add_token_id(s, slot->token);
	}
	if (last) {
		s->last_seen = true;
		s->finish = slot->finish;
		if (!(slot->flags & FH_SLOT_CUT))
			n += ops->detokenize_end(ops->ctx, &s->detok, text + n, FH_DETOK_MAX);
	}
	give_text(s, text, n, last);
	if (last)
		fh_call_audit_last(s);
	if (s->call->oai.logprobs)
		s->nr_chars += count_chars(text, n);
}

void fh_seq_consume(struct fh_seq *s)
{
	struct fh_request *r = &s->req;
	struct fh_call *call = s->call;
	struct fh_http *h = call->h;
	uint32_t tail = atomic_load_explicit(&r->tail, memory_order_acquire);
	uint32_t head = atomic_load_explicit(&r->head, memory_order_relaxed), first = head;

	for (; head != tail; head++) {
		uint32_t i = head & (r->nr_slots - 1);

		if (call->oai.stream && fh_conn_backlogged(call->conn)) {
			h->c.stalls += !call->stalled;
			call->stalled = true;
			break;
		}
		read_slot(s, &r->slots[i], r->top ? r->top + (size_t)i * r->sampling.nr_top : NULL);
	}
	if (head == first)
		return;
	/*
	 * The engine may have found the ring full and gone to sleep at any
	 * moment before this store, while it still published above @tail: so
	 * look at the tail again, and be generous with the kick.
	 */
	atomic_store(&r->head, head);
	if (!s->ended && atomic_load(&r->tail) - first >= r->nr_slots / 2)
		h->svc->kick(h->svc->ctx);
}

/* Whole answers */

static void put_choice(struct fh_seq *s, struct fh_buf *b, uint32_t index)
{
	bool chat = s->call->oai.kind == FH_OAI_CHAT;

	fh_buf_lit(b, "{\"index\":");
	fh_buf_u64(b, index);
	if (chat)
		fh_buf_lit(b, ",\"message\":{\"role\":\"assistant\",\"content\":\"");
	else
		fh_buf_lit(b, ",\"text\":\"");
	fh_buf_put(b, s->text.data, s->text.len);
	b->failed |= s->text.failed;
	if (chat)
		fh_buf_lit(b, "\",\"refusal\":null},\"logprobs\":");
	else
		fh_buf_lit(b, "\",\"logprobs\":");
	fh_seq_put_logprobs(s, b);
	fh_buf_lit(b, ",\"finish_reason\":");
	put_finish(b, s->finish);
	if (!chat)
		put_prompt_ids(s, b);
	put_token_ids(s, b);
	fh_buf_lit(b, "}");
}

static double mean_logprob(const struct fh_seq *s)
{
	return s->nr_tokens ? s->sum_logprob / s->nr_tokens : -INFINITY;
}

static int by_logprob(const void *a, const void *b)
{
	const struct fh_seq *const *x = a, *const *y = b;
	double dx = mean_logprob(*x), dy = mean_logprob(*y);

	if (dx != dy)
		return dx < dy ? 1 : -1;
	return (*x)->index < (*y)->index ? -1 : 1;
}

static void put_choices(struct fh_call *call, struct fh_buf *b)
{
	struct fh_oai *o = &call->oai;

	for (uint32_t p = 0; p < o->nr_prompts; p++) {
		struct fh_seq **group = call->seqs + (size_t)p * o->best_of;

		if (o->best_of > o->n)
			qsort(group, o->best_of, sizeof(struct fh_seq *), by_logprob);
		for (uint32_t k = 0; k < o->n; k++) {
			if (p || k)
				fh_buf_lit(b, ",");
			put_choice(group[k], b, p * o->n + k);
		}
	}
}

/* Scaled to length 1, as clients expect; a vector of zeros stays. */
static void put_embedding(struct fh_call *call, struct fh_seq *s, struct fh_buf *b)
{
	uint32_t dim = call->h->svc->model.dim;
	double sum = 0, scale;

	for (uint32_t i = 0; i < dim; i++)
		sum += (double)s->pooled[i] * (double)s->pooled[i];
	scale = sum > 0 ? 1 / sqrt(sum) : 1;
	for (uint32_t i = 0; i < dim; i++)
		s->pooled[i] = (float)((double)s->pooled[i] * scale);
	fh_buf_lit(b, "{\"object\":\"embedding\",\"index\":");
	fh_buf_u64(b, s->index);
	fh_buf_lit(b, ",\"embedding\":");
	if (call->oai.base64) {
		fh_buf_lit(b, "\"");
		fh_buf_base64(b, s->pooled, dim * sizeof(float));
		fh_buf_lit(b, "\"}");
		return;
	}
	for (uint32_t i = 0; i < dim; i++) {
		fh_buf_put(b, i ? "," : "[", 1);
		fh_buf_f32(b, s->pooled[i]);
	}
	fh_buf_lit(b, "]}");
}

static void put_embeddings(struct fh_call *call, struct fh_buf *b)
{
	const char *model = call->h->svc->model.id;
	uint64_t nr = 0;

	fh_buf_lit(b, "{\"object\":\"list\",\"data\":[");
	for (uint32_t i = 0; i < call->nr_seqs; i++) {
		if (i)
			fh_buf_lit(b, ",");
		put_embedding(call, call->seqs[i], b);
		nr += call->seqs[i]->req.nr_prompt;
	}
	fh_buf_lit(b, "],\"model\":\"");
	fh_buf_json(b, model, strlen(model));
	fh_buf_lit(b, "\",\"usage\":{\"prompt_tokens\":");
	fh_buf_u64(b, nr);
	fh_buf_lit(b, ",\"total_tokens\":");
	fh_buf_u64(b, nr);
	fh_buf_lit(b, "}}");
}

void fh_call_put_answer(struct fh_call *call, struct fh_buf *b)
{
	if (call->oai.kind == FH_OAI_EMBED) {
		put_embeddings(call, b);
		return;
	}
	put_envelope(call, b, call->oai.kind == FH_OAI_CHAT ? "chat.completion" : "text_completion");
	fh_buf_lit(b, "\"choices\":[");
	put_choices(call, b);
	fh_buf_lit(b, "]");
	if (call->oai.kind == FH_OAI_CHAT)
		put_prompt_ids(call->seqs[0], b);
	fh_buf_lit(b, ",");
	put_usage(call, b);
	fh_buf_lit(b, "}");
}
