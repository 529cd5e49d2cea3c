// SPDX-License-Identifier: Apache-2.0
/*
 * What the audit log is told of a call: its request when it has been read, its
 * outcome when the last of it is known.
 *
 * Every call that was made has a begin and an end, whatever becomes of it: who
 * forgets fh_call_audit_end() is reminded by fh_call_discard().
 */
#include <stdlib.h>
#include <string.h>

#include "runtime/net/http_priv.h"

static bool generates(const struct fh_call *call)
{
	return call->oai.kind == FH_OAI_COMPLETION || call->oai.kind == FH_OAI_CHAT;
}

void fh_call_audit_open(struct fh_call *call, const char *body, size_t n)
{
	struct fh_call_audit *a = &call->audit;
	struct fh_conn *c = call->conn;

	a->who = c->grant.who;
	fh_conn_audit_name(c);
	a->serial = c->serial;
	if (!c->serial)
		memcpy(a->request_id, c->request_id, sizeof(a->request_id));
	a->raw = body;
	a->raw_bytes = n;
	a->keep_text = call->h->fe.audit->wants_bodies;
	a->wants_receipt = c->head.receipt && (generates(call) || call->oai.kind == FH_OAI_EMBED);
}

static enum fh_audited_endpoint endpoint(enum fh_oai_kind kind)
{
	switch (kind) {
	case FH_OAI_COMPLETION: return FH_AE_COMPLETION;
	case FH_OAI_CHAT: return FH_AE_CHAT;
	case FH_OAI_EMBED: return FH_AE_EMBED;
	case FH_OAI_TOKENIZE: return FH_AE_TOKENIZE;
	default: return FH_AE_DETOKENIZE;
	}
}

static struct fh_audited describe(const struct fh_call *call)
{
	const struct fh_call_audit *a = &call->audit;

	return (struct fh_audited){
		.who = &a->who,
		.endpoint = endpoint(call->oai.kind),
		.request_id = a->request_id[0] ? a->request_id : NULL,
		.serial = a->serial,
	};
}

static uint64_t nr_prompt(const struct fh_call *call)
{
	uint64_t nr = 0;

	for (uint32_t i = 0; i < call->oai.nr_prompts; i++)
		nr += call->oai.prompts[i].nr;
	return nr;
}

static void add_parameters(const struct fh_call *call, struct fh_audited *r)
{
	const struct fh_oai *o = &call->oai;

	r->nr_prompt = nr_prompt(call);
	r->run_id = call->run_id;
	r->run_depth = call->budget.run_depth;
	if (!generates(call))
		return;
	r->stream = o->stream;
	r->n = o->n;
	r->max_tokens = o->max_tokens;
	r->seed = o->has_seed ? o->sampling.seed : 0;
	r->temperature = o->sampling.temperature;
	r->top_p = o->sampling.top_p;
	r->top_k = o->sampling.top_k;
}

bool fh_call_audit_begin(struct fh_call *call)
{
	struct fh_auditor *audit = call->h->fe.audit;
	struct fh_call_audit *a = &call->audit;
	struct fh_audited r;
	uint64_t seq = 0;
	int rc;

	if (!audit || a->begun)
		return true;
	a->begun = true;
	r = describe(call);
	if (!call->err.status)
		add_parameters(call, &r);
	if (audit->wants_bodies) {
		r.body = a->raw;
		r.body_bytes = a->raw_bytes;
	}
	if (a->wants_receipt) {
		r.salt = a->salt;
		r.said = a->raw;
		r.said_bytes = a->raw_bytes;
	}
	rc = audit->ops->begin(audit, &r, &a->ticket, &seq);
	a->raw = NULL;
	if (rc) {
		a->ended = true;
		fh_oai_errorf(&call->err, 503, "audit_unavailable", NULL,
			      "This server answers only what it can log, and its audit log cannot be written: %s.",
			      rc == -EAGAIN ? "it is behind" : strerror(-rc));
		return false;
	}
	if (call->conn)
		fh_conn_audit_wait(call->conn, seq);
	return true;
}

void fh_call_audit_last(struct fh_seq *s)
{
	struct fh_call *call = s->call;
	struct fh_auditor *audit = call->h->fe.audit;

	if (!audit || !audit->strict || !call->oai.stream || ++call->audit.nr_last < call->nr_seqs)
		return;
	/* What is in the buffer now is the last of the answer. */
	call->conn->audit_hold = true;
}

static const char *finish_name(uint8_t finish)
{
	switch (finish) {
	case FH_FINISH_STOP: return "stop";
	case FH_FINISH_LENGTH: return "length";
	case FH_FINISH_BUDGET: return "budget";
	case FH_FINISH_FILTER: return "content_filter";
	case FH_FINISH_DEADLINE: return "deadline";
	case FH_FINISH_CANCELLED: return "cancelled";
	case FH_FINISH_ERROR: return "error";
	default: return "";
	}
}

/* The texts of all that was generated, also of choices that were not among the best. */
static void put_choices(const struct fh_call *call, struct fh_buf *b)
{
	b->len = 0;
	fh_buf_lit(b, "{\"choices\":[");
	for (uint32_t i = 0; i < call->nr_submitted; i++) {
		const struct fh_seq *s = call->seqs[i];

		fh_buf_puts(b, i ? ",{\"index\":" : "{\"index\":");
		fh_buf_u64(b, s->index);
		fh_buf_lit(b, ",\"text\":\"");
		fh_buf_put(b, s->text.data, s->text.len);
		b->failed |= s->text.failed;
		fh_buf_lit(b, "\",\"finish_reason\":\"");
		fh_buf_puts(b, finish_name(s->finish));
		fh_buf_lit(b, "\"}");
	}
	fh_buf_lit(b, "]}");
}

static void add_outcome(const struct fh_call *call, struct fh_audited *r)
{
	uint64_t first_ns = 0, now_ns = fh_now_ns();

	for (uint32_t i = 0; i < call->nr_submitted; i++) {
		uint64_t ns = call->seqs[i]->req.first_token_ns;

		if (ns && (!first_ns || ns < first_ns))
			first_ns = ns;
		r->finish = call->seqs[i]->finish;
	}
	/* What was drawn for the first choice, where the client gave none and it mattered. */
	if (call->nr_submitted && generates(call) && !call->oai.has_seed && call->oai.sampling.temperature > 0)
		r->seed = call->seqs[0]->req.sampling.seed;
	if (call->err.status)
		r->why = call->err.message;
	r->cancelled = !call->conn;
	r->status = r->cancelled ? 499 : call->err.status ? (unsigned int)call->err.status : 200;
	r->nr_generated = call->nr_generated;
	r->nr_cached = call->nr_cached;
	r->nr_prompt = nr_prompt(call);
	r->charge = &call->charge;
	r->duration_us = now_ns > call->arrival_ns ? (now_ns - call->arrival_ns) / 1000 : 0;
	r->ttft_us = first_ns > call->arrival_ns ? (first_ns - call->arrival_ns) / 1000 : 0;
}

/* What a receipt is about: the texts of the choices, one after the other, or an answer that is no text as it was sent.
 */
static void add_said(struct fh_call *call, const char *answer, size_t n, struct fh_audited *r)
{
	const struct fh_oai *o = &call->oai;
	struct fh_buf *b = &call->prefix;

	if (!generates(call)) {
		r->said = answer;
		r->said_bytes = n;
		return;
	}
	/* Every event has been written: the buffer of what they begin with is free. */
	b->len = 0;
	for (uint32_t p = 0; p < o->nr_prompts; p++)
		for (uint32_t k = 0; k < o->n; k++) {
			const struct fh_buf *said = &call->seqs[(size_t)p * o->best_of + k]->said;

			fh_buf_put(b, said->data, said->len);
			b->failed |= said->failed;
		}
	r->said = b->data;
	r->said_bytes = b->len;
}

/* Its outcome is nowhere: a strict server says no more of it. */
static void abandon(struct fh_call *call)
{
	struct fh_conn *c = call->conn;

	fh_metrics_count(call->h, c->ep, 500);
	call->conn = NULL;
	c->call = NULL;
	fh_conn_abort(c);
}

void fh_call_audit_end(struct fh_call *call, const char *answer, size_t n)
{
	struct fh_auditor *audit = call->h->fe.audit;
	struct fh_buf *b = &call->h->audit_body;
	struct fh_call_audit *a = &call->audit;
	struct fh_audited r;
	uint64_t seq;

	if (!audit || a->ended)
		return;
	fh_call_audit_begin(call);
	if (a->ended)
		return;
	a->ended = true;
	r = describe(call);
	add_outcome(call, &r);
	if (audit->wants_bodies && generates(call) && call->nr_submitted) {
		put_choices(call, b);
		r.body_type = FH_AB_CHOICES;
		/* Rather an outcome without its text than none. */
		r.body = b->failed ? NULL : b->data;
		r.body_bytes = b->failed ? 0 : b->len;
	} else if (audit->wants_bodies && answer) {
		r.body = answer;
		r.body_bytes = n;
	}
	if (a->wants_receipt && call->conn && !call->err.status) {
		add_said(call, answer, n, &r);
		r.salt = call->prefix.failed ? NULL : a->salt;
		r.cookie = call;
		r.promised = &a->pending;
	}
	seq = audit->ops->end(audit, a->ticket, &r);
	fh_buf_reset(b, FH_KEEP_BYTES);
	if (!call->conn)
		return;
	if (audit->strict && a->ticket && !seq) {
		abandon(call);
		return;
	}
	call->conn->audit_hold = false;
	fh_conn_audit_wait(call->conn, seq);
	fh_conn_flush(call->conn);
}
