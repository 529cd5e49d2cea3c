// SPDX-License-Identifier: Apache-2.0
/* From a request to what the audit log is told of it: nothing but copying. */
#include "runtime/net/req_audit.h"

#include "runtime/base/clock.h"

void fh_req_audit_asked(const struct fh_request *req, struct fh_audited *r)
{
	r->stream = true;
	r->n = 1;
	r->max_tokens = req->max_tokens;
	r->seed = req->sampling.temperature > 0 ? req->sampling.seed : 0;
	r->temperature = req->sampling.temperature;
	r->top_p = req->sampling.top_p;
	r->top_k = req->sampling.top_k;
	r->nr_prompt = req->nr_prompt;
	r->run_id = req->run_id;
	r->run_depth = req->budget.run_depth;
}

void fh_req_audit_outcome(const struct fh_request *req, enum fh_finish finish, int error, const char *why,
			  struct fh_audited *r)
{
	uint64_t now_ns = fh_now_ns();

	r->status = fh_audited_status(finish, error);
	r->finish = (uint8_t)finish;
	r->cancelled = finish == FH_FINISH_CANCELLED;
	r->why = why;
	r->nr_generated = req->nr_generated;
	r->nr_cached = req->nr_cached_prompt;
	r->nr_prompt = req->nr_prompt;
	r->charge = &req->hold.charge;
	r->run_id = req->run_id;
	r->run_depth = req->budget.run_depth;
	/* A descriptor that could not be read has no time of its own. */
	if (!req->arrival_ns)
		return;
	r->duration_us = (now_ns - req->arrival_ns) / 1000;
	r->ttft_us = req->first_token_ns > req->arrival_ns ? (req->first_token_ns - req->arrival_ns) / 1000 : 0;
}

size_t fh_req_audit_tokens(const struct fh_auditor *a, const uint32_t *ids, uint32_t nr, struct fh_audited *r)
{
	if (!a->wants_bodies || !nr)
		return 0;
	r->body_type = FH_AB_TOKENS;
	r->body = ids;
	r->body_bytes = (size_t)nr * sizeof(*ids);
	return r->body_bytes;
}
