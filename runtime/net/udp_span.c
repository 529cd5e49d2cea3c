// SPDX-License-Identifier: Apache-2.0
/* Requests over UDP and traces. Everything here runs on the front end's thread, or when that has ended. */
#include "runtime/net/req_span.h"
#include "runtime/net/udp_priv.h"

static void name(struct fh_trace_span *s, uint32_t id)
{
	s->transport = FH_SPAN_UDP;
	s->protocol = FH_SPAN_DATAGRAM;
	s->serial = id;
}

/* NULL: nobody wants to know, or it is one too many: told at once it would keep this turn's answers waiting. */
static struct fh_trace_span *new_span(struct fh_udp *u)
{
	if (!u->spans)
		return NULL;
	if (u->nr_spans < FH_UDP_SPANS)
		return &u->spans[u->nr_spans++];
	u->nr_spans_lost++;
	return NULL;
}

void fh_udp_span_flush(struct fh_udp *u)
{
	for (uint32_t i = 0; i < u->nr_spans; i++)
		u->svc->span(u->svc->ctx, &u->spans[i]);
	if (u->nr_spans_lost)
		u->svc->spans_lost(u->svc->ctx, u->nr_spans_lost);
	u->nr_spans = u->nr_spans_lost = 0;
}

void fh_udp_span_end(struct fh_udp_req *q, enum fh_finish why, int error)
{
	struct fh_trace_span *s = new_span(q->u);

	if (!s)
		return;
	fh_req_span(&q->req, why, error, &q->who, &q->u->random, s);
	name(s, q->r.id);
	s->has_seed = q->has_seed;
}

void fh_udp_span_refused(struct fh_udp *u, uint32_t client, uint32_t id, int error)
{
	const struct fh_request none = {0};
	struct fh_trace_span *s = client < u->keys.nr ? new_span(u) : NULL;

	if (!s)
		return;
	fh_req_span(&none, error ? FH_FINISH_ERROR : FH_FINISH_CANCELLED, error, &u->keys.clients[client].grant.who,
		    &u->random, s);
	name(s, id);
}
