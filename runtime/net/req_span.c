// SPDX-License-Identifier: Apache-2.0
/* From a request to what is told of it for traces: nothing but copying. */
#include "runtime/net/req_span.h"

#include <errno.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "runtime/base/auditor.h"
#include "runtime/base/clock.h"

void fh_span_identify(struct fh_trace_span *s, struct fh_random *random)
{
	/* They need not be secret, and are never zero but by a chance of 2^-64. */
	for (int i = 0; i < 2 && !s->context.known; i++) {
		uint64_t r = fh_random_next(random);

		memcpy(s->context.trace_id + (ptrdiff_t)i * 8, &r, sizeof(r));
	}
	memcpy(s->span_id, &(uint64_t){fh_random_next(random)}, sizeof(s->span_id));
}

void fh_req_span(const struct fh_request *r, enum fh_finish finish, int error, const struct fh_identity *who,
		 struct fh_random *random, struct fh_trace_span *s)
{
	const char *name = error ? strerrorname_np(-error) : NULL;
	uint64_t now_ns = fh_now_ns();

	*s = (struct fh_trace_span){
		.operation = FH_SPAN_COMPLETION,
		.stream = true,
		.nr_choices = 1,
		.finish = {(uint8_t)finish},
		.status = (uint16_t)fh_audited_status(finish, error),
		/* A descriptor that could not be read has no time of its own. */
		.arrival_ns = r->arrival_ns ? r->arrival_ns : now_ns,
		.started_ns = r->started_ns,
		.first_token_ns = r->first_token_ns,
		.done_ns = r->done_ns,
		.end_ns = now_ns,
		.nr_prompt = r->nr_prompt,
		.nr_cached = r->nr_cached_prompt,
		.nr_generated = r->nr_generated,
		.nr_reasoning = r->nr_reasoning,
		.seed = r->sampling.seed,
		.n = 1,
		.max_tokens = r->max_tokens,
		.top_k = r->sampling.top_k,
		.temperature = r->sampling.temperature,
		.top_p = r->sampling.top_p,
	};
	snprintf(s->error, sizeof(s->error), "%s", name ? name : "");
	memcpy(s->tenant, who->tenant, sizeof(s->tenant));
	memcpy(s->user, who->user, sizeof(s->user));
	fh_span_identify(s, random);
}

int fh_turn_spans_open(struct fh_turn_spans *t, uint32_t max)
{
	t->span = calloc(max, sizeof(*t->span));
	t->max = max;
	return t->span ? 0 : -ENOMEM;
}

void fh_turn_spans_close(struct fh_turn_spans *t)
{
	free(t->span);
	*t = (struct fh_turn_spans){0};
}

struct fh_trace_span *fh_turn_spans_new(struct fh_turn_spans *t)
{
	if (!t->span)
		return NULL;
	if (t->nr < t->max)
		return &t->span[t->nr++];
	t->nr_lost++;
	return NULL;
}

void fh_turn_spans_flush(struct fh_turn_spans *t, const struct fh_service *svc)
{
	for (uint32_t i = 0; i < t->nr; i++)
		svc->span(svc->ctx, &t->span[i]);
	if (t->nr_lost)
		svc->spans_lost(svc->ctx, t->nr_lost);
	t->nr = t->nr_lost = 0;
}
