// SPDX-License-Identifier: Apache-2.0
/*
 * Channels and traces.  Everything here runs on the engine's thread, so what is
 * told of the requests that end in a turn waits until their readers have been
 * shown their ends.
 */
#include "runtime/net/chan_priv.h"
#include "runtime/net/req_span.h"

void fh_chan_span_flush(struct fh_chans *f)
{
	for (uint32_t i = 0; i < f->nr_spans; i++)
		f->svc->span(f->svc->ctx, &f->spans[i]);
	if (f->nr_spans_lost)
		f->svc->spans_lost(f->svc->ctx, f->nr_spans_lost);
	f->nr_spans = f->nr_spans_lost = 0;
}

void fh_chan_span_end(struct fh_chan_req *q, enum fh_finish why, int error)
{
	struct fh_chan *c = q->chan;
	struct fh_chans *f = c->f;
	struct fh_trace_span *s;

	if (!f->spans)
		return;
	/* To tell them now would keep this turn's readers waiting for as many system calls. */
	if (f->nr_spans == FH_CHAN_SPANS) {
		f->nr_spans_lost++;
		return;
	}
	s = &f->spans[f->nr_spans++];
	fh_req_span(&q->req, why, error, &c->grant.who, &f->random, s);
	s->transport = c->ops->transport;
	s->protocol = FH_SPAN_CHANNEL;
	s->has_seed = q->has_seed;
	s->serial = q->req.user_data;
}
