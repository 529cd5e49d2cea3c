// SPDX-License-Identifier: Apache-2.0
/*
 * Channels and the audit log: what is told of a request, and completions that
 * wait for the log.  Everything here runs on the engine's thread.
 *
 * A request begins when the engine has read its prompt: what is logged is the
 * snapshot that the model sees, not memory that its sender can still write.
 * What ends before that is refused.
 *
 * With a strict log a gate says that the entries of a completion ring from a
 * position on wait for an event.  It stands where the turn began, so that
 * whatever the turn has written waits; gates are in order of both, so that the
 * ring is shown up to the first that is still shut.
 */
#include <string.h>

#include "runtime/base/auditor.h"
#include "runtime/net/chan_priv.h"
#include "runtime/net/req_audit.h"

int fh_chan_audit_ready(struct fh_chans *f)
{
	struct fh_auditor *a = f->fe.audit;

	if (!a || !a->strict)
		return 0;
	/* Each request that is inside may still need two places. */
	return a->ops->ready(a, 2 * atomic_load_explicit(&f->st.nr_inside, memory_order_relaxed));
}

static void add_gate(struct fh_chan *c, uint64_t seq)
{
	struct fh_chan_gate *last = &c->gate[(c->gate_from + c->nr_gates - 1) % FH_CHAN_GATES];

	if (!c->f->fe.audit->strict || !seq || c->given_up)
		return;
	if (c->nr_gates && (last->pos == c->turn_tail || c->nr_gates == FH_CHAN_GATES)) {
		last->seq = seq;
		return;
	}
	if (!c->nr_gates++)
		atomic_fetch_add_explicit(&c->f->st.nr_gated, 1, memory_order_relaxed);
	c->gate[(c->gate_from + c->nr_gates - 1) % FH_CHAN_GATES] =
		(struct fh_chan_gate){.pos = c->turn_tail, .seq = seq};
}

uint32_t fh_chan_audit_limit(struct fh_chan *c)
{
	struct fh_auditor *a = c->f->fe.audit;

	while (c->nr_gates) {
		struct fh_chan_gate *g = &c->gate[c->gate_from];

		if (!c->given_up && !a->ops->durable(a, g->seq))
			return g->pos;
		c->gate_from = (c->gate_from + 1) % FH_CHAN_GATES;
		if (!--c->nr_gates)
			atomic_fetch_sub_explicit(&c->f->st.nr_gated, 1, memory_order_relaxed);
	}
	return c->sink.tail;
}

static struct fh_audited describe(const struct fh_chan_req *q)
{
	return (struct fh_audited){
		.who = &q->chan->grant.who,
		.endpoint = FH_AE_CHANNEL,
		.serial = q->req.user_data,
	};
}

static void add_tokens(struct fh_chan_req *q, const uint32_t *ids, uint32_t nr, struct fh_audited *r)
{
	struct fh_chans *f = q->chan->f;

	atomic_fetch_add_explicit(&f->st.copied_bytes, fh_req_audit_tokens(f->fe.audit, ids, nr, r),
				  memory_order_relaxed);
}

bool fh_chan_audit_begin(struct fh_chan_req *q)
{
	const struct fh_request *req = &q->req;
	struct fh_auditor *a = q->chan->f->fe.audit;
	struct fh_audited r = describe(q);
	uint64_t seq = 0;

	if (!a)
		return true;
	fh_req_audit_asked(req, &r);
	r.admitted = true;
	add_tokens(q, req->tokens, req->nr_prompt, &r);
	q->audit_begun = true;
	if (a->ops->begin(a, &r, &q->ticket, &seq))
		return false;
	add_gate(q->chan, seq);
	return true;
}

void fh_chan_audit_end(struct fh_chan_req *q, enum fh_finish why, int error)
{
	struct fh_auditor *a = q->chan->f->fe.audit;
	const struct fh_request *req = &q->req;
	struct fh_audited r;
	uint64_t seq;

	if (!a || q->audit_ended)
		return;
	q->audit_ended = true;
	r = describe(q);
	fh_req_audit_outcome(req, why, error, error ? strerror(-error) : q->chan->given_up ? q->chan->why : NULL, &r);
	if (!q->audit_begun) {
		seq = a->ops->refused(a, &r);
		/* It holds nothing that the model said: while nothing can be written it is told at once. */
		if (a->strict && a->ops->trouble(a))
			return;
	} else {
		if (req->tokens && req->nr_tokens > req->nr_prompt)
			add_tokens(q, req->tokens + req->nr_prompt, req->nr_tokens - req->nr_prompt, &r);
		seq = a->ops->end(a, q->ticket, &r);
		if (a->strict && q->ticket && !seq && !q->chan->given_up)
			fh_chan_give_up(q->chan, FH_REVOKE_DRAIN, "an outcome was lost to the audit log");
	}
	add_gate(q->chan, seq);
}
