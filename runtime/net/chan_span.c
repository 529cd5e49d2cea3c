// SPDX-License-Identifier: Apache-2.0
/*
 * Channels and traces.  Everything here runs on the engine's thread, so what is
 * told of the requests that end in a turn waits until their readers have been
 * shown their ends.
 */
#include "runtime/net/chan_priv.h"
#include "runtime/net/req_span.h"

void fh_chan_span_end(struct fh_chan_req *q, enum fh_finish why, int error)
{
	struct fh_chan *c = q->chan;
	struct fh_chans *f = c->f;
	struct fh_trace_span *s = fh_turn_spans_new(&f->spans);

	if (!s)
		return;
	fh_req_span(&q->req, why, error, &c->grant.who, &f->random, s);
	s->transport = c->ops->transport;
	s->protocol = FH_SPAN_CHANNEL;
	s->has_seed = q->has_seed;
	s->serial = q->req.user_data;
}
