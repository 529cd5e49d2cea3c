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

void fh_udp_span_end(struct fh_udp_req *q, enum fh_finish why, int error)
{
	struct fh_trace_span *s = fh_turn_spans_new(&q->u->spans);

	if (!s)
		return;
	fh_req_span(&q->req, why, error, &q->who, &q->u->random, s);
	name(s, q->r.id);
	s->has_seed = q->has_seed;
}

void fh_udp_span_refused(struct fh_udp *u, uint32_t client, uint32_t id, int error)
{
	const struct fh_request none = {0};
	struct fh_trace_span *s = client < u->keys.nr ? fh_turn_spans_new(&u->spans) : NULL;

	if (!s)
		return;
	fh_req_span(&none, error ? FH_FINISH_ERROR : FH_FINISH_CANCELLED, error, &u->keys.clients[client].grant.who,
		    &u->random, s);
	name(s, id);
}
