// SPDX-License-Identifier: Apache-2.0
/* What is told of a call for traces: put together as its sequences end, handed over once, when it is over. */
#include <stdlib.h>
#include <string.h>

#include "runtime/base/clock.h"
#include "runtime/net/http_priv.h"
#include "runtime/net/req_span.h"

void fh_call_span_open(struct fh_call *call, const struct fh_conn *c)
{
	struct fh_trace_span *s;

	if (!call->h->svc->span || call->oai.kind > FH_OAI_EMBED)
		return;
	s = call->span = calloc(1, sizeof(*s));
	if (!s)
		return; /* a trace has a hole; the request is answered */
	s->arrival_ns = call->arrival_ns;
	s->context = c->head.trace;
	memcpy(s->state, c->trace_state, sizeof(s->state));
	s->transport = c->is_unix ? FH_SPAN_UNIX : FH_SPAN_TCP;
	s->protocol = FH_SPAN_HTTP;
	if (c->grant.tenant_nr) {
		memcpy(s->tenant, c->grant.who.tenant, sizeof(s->tenant));
		memcpy(s->user, c->grant.who.user, sizeof(s->user));
	}
}

/* The earlier of two times, of which 0 is none. */
static uint64_t earlier(uint64_t a, uint64_t b)
{
	return !a || (b && b < a) ? b : a;
}

void fh_call_span_seq(struct fh_seq *seq)
{
	const struct fh_request *r = &seq->req;
	struct fh_trace_span *s = seq->call->span;

	if (!s)
		return;
	s->started_ns = earlier(s->started_ns, r->started_ns);
	s->first_token_ns = earlier(s->first_token_ns, r->first_token_ns);
	if (s->nr_choices < FH_SPAN_CHOICES)
		s->finish[s->nr_choices++] = seq->finish;
}

static void fill(struct fh_call *call, struct fh_trace_span *s)
{
	static const uint8_t operations[] = {[FH_OAI_COMPLETION] = FH_SPAN_COMPLETION,
					     [FH_OAI_CHAT] = FH_SPAN_CHAT,
					     [FH_OAI_EMBED] = FH_SPAN_EMBEDDINGS};
	const struct fh_oai *o = &call->oai;

	s->operation = operations[o->kind];
	s->stream = o->stream;
	s->n = o->n;
	s->max_tokens = o->kind == FH_OAI_EMBED ? 0 : o->max_tokens;
	s->temperature = o->sampling.temperature;
	s->top_p = o->sampling.top_p;
	s->top_k = o->sampling.top_k;
	s->has_seed = o->has_seed;
	s->seed = o->sampling.seed;
	for (uint32_t i = 0; i < o->nr_prompts; i++)
		s->nr_prompt += o->prompts[i].nr;
	s->nr_cached = call->nr_cached;
	s->nr_generated = call->nr_generated;
	s->nr_reasoning = call->nr_reasoning;
	s->done_ns = call->done_ns;
	s->end_ns = fh_now_ns();
	memcpy(s->id, call->id, sizeof(s->id));
	s->status = (uint16_t)(call->err.status ? call->err.status : call->conn ? 200 : 499);
	if (call->err.status)
		snprintf(s->error, sizeof(s->error), "%s", call->err.code ? call->err.code : call->err.type);
}

void fh_call_span_end(struct fh_call *call)
{
	struct fh_trace_span *s = call->span;

	call->span = NULL;
	if (!s)
		return;
	fill(call, s);
	fh_span_identify(s, &call->h->random);
	call->h->svc->span(call->h->svc->ctx, s);
	free(s);
}
