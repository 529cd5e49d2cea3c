// SPDX-License-Identifier: Apache-2.0
/*
 * Requests over UDP, between the protocol and the engine.
 *
 * The protocol owns the object from get() to put(), the engine from submit() to
 * its last word; put() comes after both, because a request that runs is not
 * settled.  The engine's tail is handed on as it is published; when the last
 * slot tells of a failure it is kept back, and an END tells it with its error.
 */
#include <stdlib.h>

#include "runtime/base/clock.h"
#include "runtime/net/udp_priv.h"

static struct fh_udp_req *req_of(struct fhw_sreq *r)
{
	return (struct fh_udp_req *)r;
}

int fh_udp_reqs_create(struct fh_udp *u, struct fh_err *err)
{
	uint32_t nr = u->cfg.max_requests;
	struct fh_slot *slots;
	int rc = fh_region_alloc(&u->region, (size_t)nr * FH_UDP_SLOTS * sizeof(*slots),
				 FH_REGION_HUGE | FH_REGION_LOCK, err);

	if (rc)
		return rc;
	u->reqs = aligned_alloc(_Alignof(struct fh_udp_req), nr * sizeof(*u->reqs));
	if (!u->reqs)
		return fh_errf(err, -ENOMEM, "udp: no memory for %u requests", nr);
	memset(u->reqs, 0, nr * sizeof(*u->reqs));
	slots = (struct fh_slot *)u->region.base;
	for (uint32_t i = nr; i--;) {
		u->reqs[i].u = u;
		u->reqs[i].slots = slots + (size_t)i * FH_UDP_SLOTS;
		u->reqs[i].next_free = u->free_reqs;
		u->free_reqs = &u->reqs[i];
	}
	return u->port->ops->mem_add(u->port, u->region.base, u->region.bytes, err);
}

void fh_udp_reqs_destroy(struct fh_udp *u)
{
	for (uint32_t i = 0; u->reqs && i < u->cfg.max_requests; i++) {
		free(u->reqs[i].ids);
		free(u->reqs[i].audit.out);
	}
	free(u->reqs);
	fh_region_free(&u->region);
}

/* ---- what the client is told ---- */

void fh_udp_show(struct fh_udp_req *q)
{
	struct fhw_server *srv = q->u->srv;
	uint32_t tail = q->seen - (q->hidden != FH_FINISH_NONE);
	bool ends;

	if (!fh_udp_audit_allows(q, &q->audit.begin_seq))
		return;
	ends = q->over && fh_udp_audit_allows(q, &q->audit.end_seq);
	if (q->told && !ends && fh_udp_audit_holds_last(q->u))
		tail--;
	fhw_server_tokens(srv, &q->r, tail);
	if (!ends)
		return;
	q->over = false;
	fhw_server_done(srv, &q->r, q->told ? NULL : &q->end);
}

/* Its last word, unless the last slot tells it. */
static void finish(struct fh_udp_req *q, enum fh_finish why, int error, uint32_t retry_us)
{
	struct fh_udp *u = q->u;

	q->end = (struct fhw_end){.finish = why, .error = error, .retry_us = retry_us};
	u->nr_errors += error != 0;
	q->over = true;
	fh_udp_audit_end(q, why, error);
	/* Before the protocol may take it back. */
	fh_udp_span_end(q, why, error);
	fh_udp_show(q);
}

/* ---- what the protocol asks for ---- */

static struct fhw_sreq *wire_get(void *ctx)
{
	struct fh_udp *u = ctx;
	struct fh_udp_req *q = u->free_reqs;

	if (!q)
		return NULL;
	u->free_reqs = q->next_free;
	q->r.slots = q->slots;
	q->r.nr_slots = FH_UDP_SLOTS;
	q->in_engine = q->cancelled = q->revoked = q->told = q->over = false;
	if (u->fe.audit)
		q->audit = (struct fh_udp_audit){0};
	q->seen = 0;
	q->hidden = FH_FINISH_NONE;
	q->error = 0;
	return &q->r;
}

static void wire_put(void *ctx, struct fhw_sreq *r)
{
	struct fh_udp_req *q = req_of(r);
	struct fh_udp *u = ctx;

	free(q->ids);
	q->ids = NULL;
	free(q->audit.out);
	q->audit.out = NULL;
	q->next_free = u->free_reqs;
	u->free_reqs = q;
}

static void wire_release(void *ctx, struct fh_dgram *d)
{
	struct fh_udp *u = ctx;

	if (u->port)
		u->port->ops->release(u->port, d, 1);
}

static void wire_random(void *ctx, void *out, size_t bytes)
{
	(void)ctx;
	randombytes_buf(out, bytes);
}

static void submit(struct fh_udp_req *q)
{
	struct fh_udp *u = q->u;
	uint32_t retry_ms = 0;
	struct fh_err err;
	int rc = fh_udp_audit_begin(q);

	if (rc) {
		finish(q, FH_FINISH_ERROR, rc, rc == -EAGAIN ? 1000000 : 0);
		return;
	}
	rc = u->svc->submit(u->svc->ctx, &q->req, &retry_ms, &err);
	if (rc) {
		finish(q, FH_FINISH_ERROR, rc,
		       rc != -EAGAIN		      ? 0
		       : retry_ms < UINT32_MAX / 1000 ? retry_ms * 1000
						      : UINT32_MAX);
		return;
	}
	q->in_engine = true;
	u->nr_inside++;
	u->rings = true;
}

static void wire_begin(void *ctx, struct fhw_sreq *r)
{
	struct fh_udp_req *q = req_of(r);
	struct fh_udp *u = ctx;
	const struct fh_udp_client *c = &u->keys.clients[r->client];
	struct fh_desc d;
	int rc;

	q->req = (struct fh_request){.id = ++u->last_id,
				     .fe = &u->fe,
				     .fe_private = q,
				     .slots = q->slots,
				     .nr_slots = FH_UDP_SLOTS,
				     .tenant = c->grant.tenant_nr,
				     .arrival_ns = u->now_us * 1000};
	memcpy(q->req.budget.account, c->grant.account, sizeof(q->req.budget.account));
	q->has_seed = false;
	if (u->fe.audit || u->svc->span)
		q->who = c->grant.who;
	if (c->verdict != FH_GUARD_OK) {
		finish(q, FH_FINISH_ERROR, -EACCES, 0);
		return;
	}
	rc = fh_desc_parse(r->msg, r->total, r->total, u->cfg.max_text_bytes, &q->req, &d);
	if (rc || d.is_cancel) {
		finish(q, FH_FINISH_ERROR, rc ? rc : -EINVAL, 0);
		return;
	}
	q->has_seed = d.has_seed;
	if (!d.has_seed)
		q->req.sampling.seed = fh_random_next(&u->random);
	u->prompt_bytes += d.prompt_bytes;
	if (!d.is_text) {
		q->req.prompt = (const uint32_t *)(r->msg + d.prompt_off);
		q->req.nr_prompt = d.prompt_bytes / (uint32_t)sizeof(uint32_t);
		submit(q);
		return;
	}
	u->text_bytes += d.prompt_bytes;
	q->text = (const char *)r->msg + d.prompt_off;
	q->text_bytes = d.prompt_bytes;
	if (d.prompt_bytes > (u->cfg.on_engine ? FH_UDP_ENGINE_TEXT_BYTES : FH_UDP_TEXT_BYTES)) {
		u->nr_inside++;
		fh_text_worker_push(&u->text, q); /* has room for every object */
		return;
	}
	rc = fh_udp_tokenize(u, q);
	fhw_server_message_read(u->srv, r);
	q->req.prompt = q->ids;
	if (rc)
		finish(q, FH_FINISH_ERROR, rc, 0);
	else
		submit(q);
}

static void wire_cancel(void *ctx, struct fhw_sreq *r)
{
	struct fh_udp_req *q = req_of(r);
	struct fh_udp *u = ctx;

	q->cancelled = true;
	if (!q->in_engine)
		return;
	atomic_store_explicit(&q->req.cancel, 1, memory_order_relaxed);
	u->svc->kick(u->svc->ctx);
}

/* A client that was on the list when it asked, and would be refused now. */
static bool may_not(const struct fh_udp_req *q)
{
	const struct fh_udp_keys *k = &q->u->keys;

	return q->r.client < k->nr && k->clients[q->r.client].verdict != FH_GUARD_OK;
}

void fh_udp_reqs_recheck(struct fh_udp *u)
{
	bool any = false;

	for (uint32_t i = 0; i < u->cfg.max_requests; i++) {
		struct fh_udp_req *q = &u->reqs[i];

		if (!q->in_engine || !may_not(q))
			continue;
		q->revoked = any = true;
		atomic_store_explicit(&q->req.cancel, 1, memory_order_relaxed);
	}
	if (any)
		u->svc->kick(u->svc->ctx);
}

static void wire_refused(void *ctx, uint32_t client, uint32_t id, int error)
{
	struct fh_udp *u = ctx;

	fh_udp_audit_refused(u, client, id, error);
	fh_udp_span_refused(u, client, id, error);
}

static void wire_credit(void *ctx, struct fhw_sreq *r)
{
	struct fh_udp_req *q = req_of(r);
	struct fh_udp *u = ctx;
	uint32_t before = atomic_load_explicit(&q->req.head, memory_order_relaxed);

	atomic_store(&q->req.head, r->head);
	/* Read the tail again: the engine may have filled the ring meanwhile, and looked at the head before this. */
	if (q->in_engine && atomic_load(&q->req.tail) - before >= FH_UDP_SLOTS)
		u->svc->kick(u->svc->ctx);
}

const struct fhw_server_ops fh_udp_wire_ops = {
	.get = wire_get,
	.put = wire_put,
	.begin = wire_begin,
	.cancel = wire_cancel,
	.credit = wire_credit,
	.refused = wire_refused,
	.release = wire_release,
	.random = wire_random,
};

/* ---- what the engine has done ---- */

/* Look at new slots.  A last one that tells less than an END would is hidden. */
static void look_at_slots(struct fh_udp_req *q, uint32_t tail)
{
	const struct fh_slot *last;

	if (tail == q->seen)
		return;
	fh_udp_audit_tokens(q, q->seen, tail);
	q->seen = tail;
	last = &q->slots[(tail - 1) & (FH_UDP_SLOTS - 1)];
	if (!(last->flags & FH_SLOT_LAST))
		return;
	if (last->flags & FH_SLOT_NO_TOKEN &&
	    (last->finish == FH_FINISH_ERROR || last->finish == FH_FINISH_DEADLINE ||
	     last->finish == FH_FINISH_BUDGET || (q->revoked && last->finish == FH_FINISH_CANCELLED)))
		q->hidden = last->finish;
	else
		q->told = true;
	q->last = last->finish;
}

/* The engine has given @q back. */
static void take_end(struct fh_udp_req *q)
{
	const struct fh_request *r = &q->req;
	enum fh_finish why = q->hidden;

	if (q->told)
		finish(q, q->last, 0, 0);
	else if (q->revoked && (!why || why == FH_FINISH_CANCELLED))
		finish(q, FH_FINISH_ERROR, -EACCES, 0);
	else if (why == FH_FINISH_BUDGET)
		/* Cut is no failure; refused for it is. */
		finish(q, r->error ? FH_FINISH_ERROR : why, r->error, r->retry_us);
	else if (why)
		finish(q, why, r->error ? r->error : -EIO, r->retry_us);
	else
		finish(q, r->error ? FH_FINISH_ERROR : FH_FINISH_CANCELLED, r->error, r->retry_us);
}

static void take_ready(struct fh_udp *u, void *entry)
{
	bool done;
	struct fh_request *r = fh_ready_entry(entry, &done);
	struct fh_udp_req *q = r->fe_private;
	uint32_t tail;

	atomic_exchange(&r->announced, 0);
	tail = atomic_load(&r->tail);
	if (tail || done)
		fhw_server_message_read(u->srv, &q->r); /* the sequence has its own copy */
	look_at_slots(q, tail);
	if (!done) {
		fh_udp_show(q);
		return;
	}
	q->in_engine = false;
	u->nr_inside--;
	u->copied_bytes += (uint64_t)r->nr_prompt * sizeof(*r->prompt);
	free(q->ids);
	q->ids = NULL;
	take_end(q);
}

static void take_text(struct fh_udp *u, struct fh_udp_req *q)
{
	u->nr_inside--;
	fhw_server_message_read(u->srv, &q->r);
	q->req.prompt = q->ids;
	if (q->cancelled)
		finish(q, FH_FINISH_CANCELLED, 0, 0);
	else if (q->error)
		finish(q, FH_FINISH_ERROR, q->error, 0);
	else if (may_not(q))
		finish(q, FH_FINISH_ERROR, -EACCES, 0);
	else
		submit(q);
}

bool fh_udp_take_results(struct fh_udp *u)
{
	struct fh_udp_req *q;
	bool any = false;
	void *entry;

	while ((entry = fh_spsc_pop(&u->fe.ready))) {
		take_ready(u, entry);
		any = true;
	}
	while ((q = fh_text_worker_pop(&u->text))) {
		take_text(u, q);
		any = true;
	}
	return any;
}
