// SPDX-License-Identifier: Apache-2.0
/*
 * An API call: from its parsed body through its sequences to its end.
 *
 * A call has one sequence for each prompt and choice.  All are submitted at
 * once if the engine's queue takes them; if it takes only some, the call waits
 * and submits the rest as sequences end.  If it takes none, the answer is 429.
 *
 * A call ends when every submitted sequence is back from the engine and, with
 * a client still there, every slot has been read.  Its memory goes then, and
 * not before: the engine reads prompts, stop strings and biases from it.
 */
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "runtime/net/http_priv.h"

/* The pool of sequences */

static struct fh_seq *seq_get(struct fh_http *h)
{
	struct fh_seq *s = h->free_seqs;

	if (s) {
		h->free_seqs = s->next_free;
	} else {
		if (h->nr_seqs_made >= h->cfg.max_requests)
			return NULL;
		s = aligned_alloc(_Alignof(struct fh_seq), sizeof(*s));
		if (!s)
			return NULL;
		memset(s, 0, sizeof(*s));
		h->nr_seqs_made++;
	}
	h->nr_seqs_out++;
	return s;
}

static void seq_put(struct fh_http *h, struct fh_seq *s)
{
	fh_buf_reset(&s->text, FH_KEEP_BYTES);
	fh_buf_reset(&s->said, FH_KEEP_BYTES);
	fh_buf_reset(&s->lp, FH_KEEP_BYTES);
	fh_buf_reset(&s->lp_num, FH_KEEP_BYTES);
	fh_buf_reset(&s->lp_top, FH_KEEP_BYTES);
	fh_buf_reset(&s->lp_off, FH_KEEP_BYTES);
	fh_buf_reset(&s->ids, FH_KEEP_BYTES);
	s->call = NULL;
	s->next_free = h->free_seqs;
	h->free_seqs = s;
	h->nr_seqs_out--;
}

void fh_seqs_free_all(struct fh_http *h)
{
	struct fh_seq *s;

	while ((s = h->free_seqs)) {
		h->free_seqs = s->next_free;
		fh_buf_free(&s->text);
		fh_buf_free(&s->said);
		fh_buf_free(&s->lp);
		fh_buf_free(&s->lp_num);
		fh_buf_free(&s->lp_top);
		fh_buf_free(&s->lp_off);
		fh_buf_free(&s->ids);
		free(s->top);
		free(s->pooled);
		free(s);
	}
}

/* What the pool does not hold for every sequence. */
static int seq_extras(struct fh_seq *s, struct fh_call *call)
{
	if (call->oai.sampling.nr_top && !s->top) {
		s->top = calloc((size_t)FH_SEQ_SLOTS * FH_MAX_TOP_LOGPROBS, sizeof(*s->top));
		if (!s->top)
			return -ENOMEM;
	}
	if (call->oai.kind == FH_OAI_EMBED && !s->pooled) {
		s->pooled = calloc(call->h->svc->model.dim, sizeof(*s->pooled));
		if (!s->pooled)
			return -ENOMEM;
	}
	return 0;
}

static void seq_fill(struct fh_seq *s, struct fh_call *call, uint32_t i)
{
	struct fh_oai *o = &call->oai;
	struct fh_request *r = &s->req;

	s->call = call;
	s->prompt = i / o->best_of;
	s->index = i;
	/* The answer goes on after a prompt: its first word keeps its space. */
	s->detok = (struct fh_detok){.started = true};
	s->sum_logprob = 0;
	s->nr_tokens = 0;
	s->nr_chars = 0;
	s->finish = FH_FINISH_NONE;
	s->ended = s->finished = s->opened = s->last_seen = false;
	*r = (struct fh_request){
		.id = ++call->h->id_count,
		.kind = o->kind == FH_OAI_EMBED ? FH_REQ_EMBED : FH_REQ_GENERATE,
		.fe = &call->h->fe,
		.fe_private = s,
		.prompt = o->prompts[s->prompt].ids,
		.nr_prompt = o->prompts[s->prompt].nr,
		.max_tokens = o->max_tokens,
		.min_tokens = o->min_tokens,
		.sampling = o->sampling,
		.ignore_eos = o->ignore_eos,
		.nr_stop = o->nr_stop,
		.nr_stop_ids = o->nr_stop_ids,
		.arrival_ns = call->arrival_ns,
		.class = o->class,
		.ttft_us = o->ttft_us,
		.tpot_us = o->tpot_us,
		.tenant = call->tenant,
		.budget = call->budget,
		.slots = s->slots,
		.top = o->sampling.nr_top ? s->top : NULL,
		.nr_slots = FH_SEQ_SLOTS,
		.pooled = o->kind == FH_OAI_EMBED ? s->pooled : NULL,
		.pooling = o->pooling,
	};
	r->budget.prompt_paid = i % o->best_of;
	memcpy(r->run_id, call->run_id, sizeof(r->run_id));
	r->sampling.seed = o->has_seed ? o->sampling.seed + i % o->best_of : fh_random_next(&call->h->random);
	memcpy(r->stop, o->stop, o->nr_stop * sizeof(o->stop[0]));
	memcpy(r->stop_ids, o->stop_ids, o->nr_stop_ids * sizeof(o->stop_ids[0]));
}

/* The end of a call */

static void unwait(struct fh_call *call)
{
	struct fh_http *h = call->h;
	struct fh_call **pp = &h->waiting_head;

	if (!call->waiting)
		return;
	while (*pp != call)
		pp = &(*pp)->next_waiting;
	*pp = call->next_waiting;
	if (h->waiting_tail == &call->next_waiting)
		h->waiting_tail = pp;
	call->waiting = false;
}

void fh_call_discard(struct fh_call *call)
{
	struct fh_http *h = call->h;

	unwait(call);
	fh_call_audit_end(call, NULL, 0);
	fh_call_span_end(call);
	for (uint32_t i = 0; i < call->nr_submitted; i++)
		seq_put(h, call->seqs[i]);
	free(call->seqs);
	fh_oai_free(&call->oai);
	fh_buf_free(&call->prefix);
	fh_buf_free(&call->body);
	fh_buf_free(&call->answer);
	free(call->audit.receipt);
	fh_body_account(h, &call->body_accounted, 0);
	h->nr_calls--;
	free(call);
}

static void respond_failure(struct fh_call *call)
{
	uint32_t ms = call->retry_after_ms ? call->retry_after_ms : 1000;
	char extra[80] = "";

	/* The second one is OpenAI's; its clients prefer it. */
	if ((call->err.status == 429 || call->err.status == 503) && ms != FH_RETRY_NEVER)
		snprintf(extra, sizeof(extra), "Retry-After: %u\r\nRetry-After-Ms: %u\r\n", (ms + 999) / 1000, ms);
	fh_conn_respond_error(call->conn, &call->err, extra);
}

static void respond_answer(struct fh_call *call)
{
	const char *receipt = call->audit.receipt;
	struct fh_buf extra = {0};

	if (call->audit.wants_receipt) {
		fh_buf_lit(&extra, "X-Freehold-Receipt: ");
		if (receipt)
			fh_buf_base64(&extra, receipt, strlen(receipt));
		else
			fh_buf_lit(&extra, "unavailable");
		fh_buf_put(&extra, "\r\n", 3); /* with its zero */
	}
	fh_conn_respond(call->conn, 200, "application/json", extra.failed ? NULL : extra.data, call->answer.data,
			call->answer.len);
	fh_buf_free(&extra);
}

/* The answer is known, and so what the audit log is told. */
static void conclude(struct fh_call *call)
{
	if (!call->streaming && !call->failed && !call->audit.receipt && !call->answer.len) {
		fh_call_put_answer(call, &call->answer);
		if (call->answer.failed) {
			call->failed = true;
			fh_oai_errorf(&call->err, 500, NULL, NULL, "Out of memory.");
		}
	}
	fh_call_audit_end(call, call->answer.data, call->answer.len);
}

/* Every sequence is back: the last word to the client. The call is gone afterwards, unless it waits for a receipt. */
static void finish(struct fh_call *call)
{
	struct fh_conn *c = call->conn;

	if (c)
		conclude(call);
	if (call->audit.pending)
		return;
	c = call->conn;
	if (c) {
		c->done_ns = call->done_ns;
		c->call = NULL;
		if (call->streaming) {
			if (call->failed) {
				fh_call_put_stream_error(call);
				/* Whoever overlooks the event sees at least that the connection ends. */
				c->keep_alive = false;
			} else {
				if (call->audit.wants_receipt)
					fh_call_put_receipt(call);
				fh_call_put_stream_end(call);
			}
			fh_conn_stream_end(c);
		} else if (call->failed) {
			respond_failure(call);
		} else {
			respond_answer(call);
		}
	}
	fh_call_discard(call);
}

void fh_call_receipt(struct fh_call *call, char *receipt)
{
	call->audit.pending = false;
	call->audit.receipt = receipt;
	finish(call);
}

/* True when the call is gone. */
static bool finish_if_over(struct fh_call *call)
{
	if (call->nr_live || call->in_helper || call->waiting)
		return false;
	if (call->conn && !call->failed && call->nr_submitted < call->nr_seqs)
		return false;
	finish(call);
	return true;
}

static void cancel_live(struct fh_call *call)
{
	bool any = false;

	for (uint32_t i = 0; i < call->nr_submitted; i++) {
		if (call->seqs[i]->ended)
			continue;
		atomic_store(&call->seqs[i]->req.cancel, 1);
		any = true;
	}
	if (any)
		call->h->svc->kick(call->h->svc->ctx);
}

/* The engine has given @s back, and nobody reads its slots any more. */
static void count_out(struct fh_seq *s)
{
	const struct fh_request *r = &s->req;
	struct fh_call *call = s->call;

	s->finished = true;
	call->nr_live--;
	call->nr_generated += r->nr_generated;
	call->nr_reasoning += r->nr_reasoning;
	if (s->index % call->oai.best_of == 0)
		call->nr_cached += r->nr_cached_prompt;
	fh_charge_add(&call->charge, &r->hold.charge);
	call->done_ns = r->done_ns > call->done_ns ? r->done_ns : call->done_ns;
}

/* Nobody will read the slots any more: sequences that only waited for that are finished. */
static void forget_unread(struct fh_call *call)
{
	for (uint32_t i = 0; i < call->nr_submitted; i++)
		if (call->seqs[i]->ended && !call->seqs[i]->finished)
			count_out(call->seqs[i]);
}

/* No answer but an error. True when the call is gone. */
static bool fail(struct fh_call *call, unsigned int status, const char *code, const char *what)
{
	if (!call->failed) {
		call->failed = true;
		fh_oai_errorf(&call->err, (int)status, code, NULL, "%s", what);
		unwait(call);
		cancel_live(call);
		forget_unread(call);
	}
	return finish_if_over(call);
}

static bool refused(struct fh_call *call, int rc, const struct fh_err *err)
{
	char what[560];

	switch (rc) {
	case -EAGAIN:
		return fail(call, 429, "rate_limit_exceeded",
			    "The queue is full. Try again after the time in Retry-After.");
	case -ESHUTDOWN:
		call->retry_after_ms = 5000;
		return fail(call, 503, "shutting_down", "The server is shutting down.");
	case -EINVAL:
	case -E2BIG:
		snprintf(what, sizeof(what), "The request can never run: %s.", err->msg);
		return fail(call, 400, NULL, what);
	case -ENOMEM: return fail(call, 500, NULL, "Out of memory.");
	default:
		snprintf(what, sizeof(what), "The engine refused: %s.", err->msg[0] ? err->msg : strerror(-rc));
		return fail(call, 500, NULL, what);
	}
}

/* Submission */

static int submit_one(struct fh_call *call, struct fh_err *err)
{
	struct fh_http *h = call->h;
	struct fh_seq *s = seq_get(h);
	int rc;

	if (!s) {
		call->retry_after_ms = 1000;
		return h->nr_seqs_made < h->cfg.max_requests ? -ENOMEM : -EAGAIN;
	}
	rc = seq_extras(s, call);
	if (!rc) {
		seq_fill(s, call, call->nr_submitted);
		rc = h->svc->submit(h->svc->ctx, &s->req, &call->retry_after_ms, err);
	}
	if (rc) {
		seq_put(h, s);
		return rc;
	}
	call->seqs[call->nr_submitted++] = s;
	call->nr_live++;
	return 0;
}

/* As many as the engine takes. True when the call is gone. */
static bool submit_more(struct fh_call *call)
{
	struct fh_http *h = call->h;
	struct fh_err err = {0};
	int rc;

	while (call->nr_submitted < call->nr_seqs) {
		rc = submit_one(call, &err);
		if (!rc)
			continue;
		if (rc != -EAGAIN || !call->nr_submitted)
			return refused(call, rc, &err);
		call->waiting = true;
		call->next_waiting = NULL;
		*h->waiting_tail = call;
		h->waiting_tail = &call->next_waiting;
		return false;
	}
	return false;
}

/* Sequences have ended somewhere: there may be room. */
static void submit_waiting(struct fh_http *h)
{
	struct fh_call *call;

	while ((call = h->waiting_head)) {
		uint32_t before = call->nr_submitted;

		unwait(call);
		if (!submit_more(call) && call->waiting && call->nr_submitted == before)
			return;
	}
}

static void make_id(struct fh_call *call)
{
	struct timespec ts;

	clock_gettime(CLOCK_REALTIME_COARSE, &ts);
	call->created = (uint64_t)ts.tv_sec;
	snprintf(call->id, sizeof(call->id), "%s-%016llx%08llx", call->oai.kind == FH_OAI_CHAT ? "chatcmpl" : "cmpl",
		 (unsigned long long)call->h->id_nonce, (unsigned long long)++call->h->id_count);
}

/* The body goes before the header. */
static void set_deadlines(struct fh_call *call)
{
	struct fh_oai *o = &call->oai;

	if (!o->ttft_us)
		o->ttft_us = call->ttft_us;
	if (!o->tpot_us)
		o->tpot_us = call->tpot_us;
	if (!o->has_class && call->priority != FH_HTTP_NO_PRIORITY)
		o->class = call->priority == FH_HTTP_INTERACTIVE ? FH_CLASS_INTERACTIVE
			   : call->priority == FH_HTTP_BATCH	 ? FH_CLASS_BATCH
								 : FH_CLASS_STANDARD;
}

void fh_call_parsed(struct fh_call *call)
{
	struct fh_http *h = call->h;
	struct fh_conn *c = call->conn;

	/* The helper may have had it for a while. */
	if (c && !fh_conn_still_admitted(c)) {
		call->err = c->err;
		fh_buf_free(&call->oai.reply);
	}
	fh_call_audit_begin(call);
	if (call->body.data) {
		fh_buf_free(&call->body);
		fh_body_account(h, &call->body_accounted, 0);
	}
	if (!c) {
		fh_call_discard(call);
		return;
	}
	if (call->oai.tokenize_ns)
		fh_hist_add(&h->c.tokenize_time, call->oai.tokenize_ns);
	if (call->err.status || call->oai.reply.len) {
		c->call = NULL;
		fh_call_audit_end(call, call->oai.reply.data, call->oai.reply.len);
		if (call->conn && call->err.status)
			respond_failure(call);
		else if (call->conn)
			fh_conn_respond(c, 200, "application/json", NULL, call->oai.reply.data, call->oai.reply.len);
		fh_call_discard(call);
		return;
	}
	if (!call->oai.best_of)
		call->oai.best_of = 1;
	set_deadlines(call);
	call->nr_seqs = call->oai.nr_prompts * call->oai.best_of;
	call->seqs = calloc(call->nr_seqs, sizeof(struct fh_seq *));
	make_id(call);
	if (!call->seqs)
		fail(call, 500, NULL, "Out of memory.");
	else if (h->draining)
		refused(call, -ESHUTDOWN, NULL);
	else
		submit_more(call);
}

void fh_call_start(struct fh_conn *c, enum fh_oai_kind kind, const char *body, size_t n)
{
	struct fh_http *h = c->h;
	struct fh_call *call = calloc(1, sizeof(*call));

	if (!call) {
		fh_conn_abort(c);
		return;
	}
	call->h = h;
	call->conn = c;
	call->arrival_ns = c->arrival_ns;
	call->tenant = c->tenant;
	fh_call_budget(call, c);
	call->ttft_us = c->head.ttft_us;
	call->tpot_us = c->head.tpot_us;
	call->priority = c->head.priority;
	call->oai.kind = kind;
	c->call = call;
	h->nr_calls++;
	h->c.copied_bytes += n;
	fh_call_span_open(call, c);
	if (h->fe.audit)
		fh_call_audit_open(call, body, n);
	if (n <= FH_LONG_BODY) {
		fh_oai_parse(kind, body, n, &h->svc->text, &h->svc->model, &call->oai, &call->err);
		fh_call_parsed(call);
		return;
	}
	if (body == c->body.data) {
		call->body = c->body;
		call->body_accounted = c->body_accounted;
		c->body = (struct fh_buf){0};
		c->body_accounted = 0;
	} else {
		fh_buf_put(&call->body, body, n);
		fh_body_account(h, &call->body_accounted, call->body.cap);
	}
	call->audit.raw = call->body.data;
	call->audit.raw_bytes = call->body.len;
	if (call->body.failed)
		fail(call, 500, NULL, "Out of memory.");
	else
		fh_helper_submit(h, call);
}

/* What comes back */

static bool seq_drained(const struct fh_seq *s)
{
	return s->call->failed || !s->call->conn ||
	       atomic_load_explicit(&s->req.head, memory_order_relaxed) ==
		       atomic_load_explicit(&s->req.tail, memory_order_acquire);
}

/* The engine has given @s back, and its slots have been read. True when its call is gone. */
static bool seq_finish(struct fh_seq *s)
{
	struct fh_call *call = s->call;
	struct fh_request *r = &s->req;

	count_out(s);
	if (!s->last_seen && r->kind == FH_REQ_GENERATE)
		s->finish = r->error ? FH_FINISH_ERROR : FH_FINISH_CANCELLED;
	fh_call_span_seq(s);
	if (call->conn && !call->failed && (r->error || s->finish == FH_FINISH_ERROR)) {
		int error = r->error ? -r->error : EIO;
		char what[160];

		/* A device that is lost comes back by itself where it can; what was computed on it does not. */
		snprintf(what, sizeof(what), "The engine failed: %s%s.", strerror(error),
			 error == EIO ? " (the device was lost; the request may be sent again)" : "");
		return fail(call, 500, NULL, what);
	}
	return finish_if_over(call);
}

/* The scheduler has refused @s: nothing of it was computed. */
static void seq_refused(struct fh_seq *s)
{
	struct fh_call *call = s->call;
	const char *code = "deadline_impossible";
	char what[200];

	if (s->req.error == -EDQUOT) {
		code = fh_budget_refusal(&s->req.budget_word, what, sizeof(what), &call->retry_after_ms);
	} else {
		call->retry_after_ms = (s->req.retry_us + 999) / 1000;
		snprintf(what, sizeof(what),
			 "The deadline cannot be kept now. Try again in %u ms, or with a larger ttft_ms or tpot_ms.",
			 call->retry_after_ms);
	}
	s->finished = true;
	call->nr_live--;
	fail(call, 429, code, what);
}

void fh_calls_drain_ready(struct fh_http *h)
{
	/* Bounded, so that sockets get their turn. */
	for (int i = 0; i < 4096; i++) {
		void *entry = fh_spsc_pop(&h->fe.ready);
		struct fh_request *r;
		struct fh_seq *s;
		bool done;

		if (!entry)
			break;
		r = fh_ready_entry(entry, &done);
		s = r->fe_private;
		s->ended |= done;
		atomic_store(&r->announced, 0);
		if (done && (r->error == -EAGAIN || r->error == -EDQUOT) && s->call->conn && !s->call->failed) {
			seq_refused(s);
			continue;
		}
		if (r->budget_word.percent && !(done && r->error) && s->call->conn && !s->call->streaming)
			fh_conn_notice(s->call->conn, &r->budget_word);
		if (s->call->conn && !s->call->failed)
			fh_seq_consume(s);
		if (s->ended && !s->finished && seq_drained(s))
			seq_finish(s);
	}
	if (h->waiting_head)
		submit_waiting(h);
}

void fh_call_resume(struct fh_call *call)
{
	call->stalled = false;
	/* Who was revoked meanwhile has had the last word. */
	if (call->failed)
		return;
	for (uint32_t i = 0; i < call->nr_submitted; i++) {
		struct fh_seq *s = call->seqs[i];

		if (s->finished)
			continue;
		fh_seq_consume(s);
		if (s->ended && seq_drained(s) && seq_finish(s))
			return;
	}
}

void fh_call_revoke(struct fh_call *call, unsigned int status, const char *code, const char *what)
{
	/* What the helper has is looked at again when it runs; of what waits for its receipt all is said. */
	if (!call->failed && !call->in_helper && !call->audit.pending)
		fail(call, status, code, what);
}

void fh_call_cancel(struct fh_call *call)
{
	unwait(call);
	cancel_live(call);
	forget_unread(call);
	call->conn = NULL;
	finish_if_over(call);
}
