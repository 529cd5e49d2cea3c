// SPDX-License-Identifier: Apache-2.0
/*
 * Requests over UDP and the audit log: what is told of a request, and answers
 * that wait for the log.  Everything here runs on the front end's thread, or
 * when that has ended.
 *
 * A request begins when its prompt is token ids in our own memory, which its
 * sender cannot write any more, and before the engine has it: what cannot be
 * logged is not run.  What ends before that is refused.
 *
 * With a strict log the protocol is told of no slot of a request before its begin
 * is durable, and of the last one, or of the end, only when its end is, too.  A request that waits stands in a list,
 * and fh_udp_audit_release() alone takes it out again.
 *
 * Slots are sealed where they lie, so the tokens of an answer are kept before
 * the protocol is told of them.
 */
#include <assert.h>
#include <stdlib.h>

#include "runtime/net/req_audit.h"
#include "runtime/net/udp_priv.h"

static struct fh_audited describe(const struct fh_udp_req *q)
{
	return (struct fh_audited){
		.who = &q->who,
		.endpoint = FH_AE_UDP,
		.serial = q->r.id,
	};
}

/* Room for the answer, as long as it can get. */
static int make_room(struct fh_udp_req *q)
{
	uint32_t nr = q->u->svc->model.nr_ctx;

	if (!q->u->fe.audit->wants_bodies)
		return 0;
	nr = q->req.max_tokens < nr ? q->req.max_tokens : nr;
	q->audit.out = malloc((size_t)(nr ? nr : 1) * sizeof(*q->audit.out));
	q->audit.max_out = nr;
	return q->audit.out ? 0 : -ENOMEM;
}

int fh_udp_audit_begin(struct fh_udp_req *q)
{
	const struct fh_request *req = &q->req;
	struct fh_auditor *a = q->u->fe.audit;
	struct fh_audited r;
	uint64_t seq = 0;
	int rc;

	if (!a)
		return 0;
	rc = make_room(q);
	if (rc)
		return rc;
	r = describe(q);
	fh_req_audit_asked(req, &r);
	q->u->copied_bytes += fh_req_audit_tokens(a, req->prompt, req->nr_prompt, &r);
	if (a->ops->begin(a, &r, &q->audit.ticket, &seq))
		return -EAGAIN;
	q->audit.begun = true;
	q->audit.begin_seq = a->strict ? seq : 0;
	return 0;
}

void fh_udp_audit_tokens(struct fh_udp_req *q, uint32_t from, uint32_t to)
{
	struct fh_udp_audit *a = &q->audit;

	if (!a->out)
		return;
	for (; from != to; from++) {
		const struct fh_slot *s = &q->slots[from & (FH_UDP_SLOTS - 1)];

		if (!(s->flags & FH_SLOT_NO_TOKEN) && a->nr_out < a->max_out)
			a->out[a->nr_out++] = s->token;
	}
}

static const char *reason(int error)
{
	if (!error)
		return NULL;
	return error == -EACCES ? "access is refused to this client, by a rule or because its tenant is locked out or "
				  "not known"
				: strerror(-error);
}

/* A refusal holds nothing that the model said: while nothing can be written it is told at once. */
static void note_refusal(struct fh_udp_req *q, const struct fh_audited *r)
{
	struct fh_auditor *a = q->u->fe.audit;
	uint64_t seq = a->ops->refused(a, r);

	if (a->strict && !a->ops->trouble(a))
		q->audit.end_seq = seq;
}

void fh_udp_audit_end(struct fh_udp_req *q, enum fh_finish why, int error)
{
	struct fh_auditor *a = q->u->fe.audit;
	struct fh_audited r;
	uint64_t seq;

	if (!a)
		return;
	assert(!q->audit.ended);
	q->audit.ended = true;
	r = describe(q);
	fh_req_audit_outcome(&q->req, why, error, reason(error), &r);
	if (!q->audit.begun) {
		note_refusal(q, &r);
		return;
	}
	q->u->copied_bytes += fh_req_audit_tokens(a, q->audit.out, q->audit.nr_out, &r);
	seq = a->ops->end(a, q->audit.ticket, &r);
	q->audit.end_seq = a->strict ? seq : 0;
	if (!a->strict || !q->audit.ticket || seq)
		return;
	/* Its outcome is lost: the last of it stays here. */
	if (q->told)
		q->hidden = FH_FINISH_ERROR;
	q->told = false;
	q->end = (struct fhw_end){.finish = FH_FINISH_ERROR, .error = -EIO};
}

void fh_udp_audit_refused(struct fh_udp *u, uint32_t client, uint32_t id, int error)
{
	struct fh_auditor *a = u->fe.audit;
	struct fh_audited r = {
		.endpoint = FH_AE_UDP,
		.serial = id,
		.status = fh_audited_status(error ? FH_FINISH_ERROR : FH_FINISH_CANCELLED, error),
		.finish = error ? FH_FINISH_ERROR : FH_FINISH_CANCELLED,
		.cancelled = !error,
		.why = reason(error),
	};

	if (!a || client >= u->keys.nr)
		return;
	r.who = &u->keys.clients[client].grant.who;
	a->ops->refused(a, &r);
}

bool fh_udp_audit_holds_last(const struct fh_udp *u)
{
	return u->fe.audit && u->fe.audit->strict && !u->ending;
}

bool fh_udp_audit_allows(struct fh_udp_req *q, uint64_t *seq)
{
	struct fh_udp *u = q->u;

	if (q->audit.waits)
		return false;
	if (!*seq || u->ending)
		return true;
	if (u->fe.audit->ops->durable(u->fe.audit, *seq)) {
		*seq = 0;
		return true;
	}
	q->audit.waits = true;
	q->audit.next_waiting = u->waiting;
	u->waiting = q;
	return false;
}

bool fh_udp_audit_release(struct fh_udp *u)
{
	struct fh_udp_req *q = u->waiting, *next;
	bool any = false;

	/* Those that still wait link themselves in again. */
	u->waiting = NULL;
	for (; q; q = next) {
		next = q->audit.next_waiting;
		q->audit.waits = false;
		fh_udp_show(q);
		any |= !q->audit.waits;
	}
	return any;
}
