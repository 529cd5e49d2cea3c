/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What is told for traces of a request that is token ids in and token ids out, over a channel or over UDP.  Neither
 * carries a trace's identity: its descriptor has no room for one, so each request begins a trace of its own.
 */
#ifndef FH_NET_REQ_SPAN_H
#define FH_NET_REQ_SPAN_H

#include "runtime/base/random.h"
#include "runtime/base/request.h"
#include "runtime/base/service.h"
#include "runtime/base/span.h"

/*
 * Fill in @s of @r, which is over, as @finish says and with the failure @error (-errno; 0: none); it came from @who.
 * What tells transports apart is left to the caller: s->transport and protocol, s->has_seed and s->serial.
 */
void fh_req_span(const struct fh_request *r, enum fh_finish finish, int error, const struct fh_identity *who,
		 struct fh_random *random, struct fh_trace_span *s);
/* Give @s the identities that it has not: its own, and a trace's if its client did not say one. */
void fh_span_identify(struct fh_trace_span *s, struct fh_random *random);

/* ---- ends of a turn, told after it: at once they would keep its readers waiting for as many system calls ---- */

struct fh_turn_spans {
	struct fh_trace_span *span; /* [max]; NULL: nobody wants to know */
	uint32_t nr, max, nr_lost;  /* lost: more than there is room for are only counted */
};

/* Room for @max. 0 or -ENOMEM. */
int fh_turn_spans_open(struct fh_turn_spans *t, uint32_t max);
void fh_turn_spans_close(struct fh_turn_spans *t);
/* One more, to be filled in; NULL: nobody wants to know, or it is one too many. */
struct fh_trace_span *fh_turn_spans_new(struct fh_turn_spans *t);
/* Tell of them all. */
void fh_turn_spans_flush(struct fh_turn_spans *t, const struct fh_service *svc);

#endif /* FH_NET_REQ_SPAN_H */
