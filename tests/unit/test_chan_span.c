// SPDX-License-Identifier: Apache-2.0
/* Ends of a turn of channels wait for their readers, however many they are: too many are dropped, and counted. */
#include <criterion/criterion.h>
#include <stdlib.h>
#include <string.h>

#include "runtime/net/chan_priv.h"

static const struct fh_chan_ops ops = {.name = "test", .transport = FH_SPAN_UNIX};
static uint64_t nr_told, nr_lost, last_serial;

static void take(void *ctx, struct fh_trace_span *s)
{
	(void)ctx;
	cr_assert_eq(s->serial, last_serial + 1);
	last_serial = s->serial;
	nr_told++;
}

static void lose(void *ctx, uint32_t nr)
{
	(void)ctx;
	nr_lost += nr;
}

Test(chan_span, too_many_ends_in_a_turn)
{
	const struct fh_service svc = {.span = take, .spans_lost = lose};
	struct fh_chans *f = aligned_alloc(64, (sizeof(*f) + 63) / 64 * 64);
	struct fh_chan *c = aligned_alloc(64, (sizeof(*c) + 63) / 64 * 64);
	struct fh_chan_req q = {.chan = c};

	cr_assert(f && c);
	memset(f, 0, sizeof(*f));
	memset(c, 0, sizeof(*c));
	f->svc = &svc;
	cr_assert_eq(fh_turn_spans_open(&f->spans, FH_CHAN_SPANS), 0);
	c->f = f;
	c->ops = &ops;
	for (uint32_t turn = 1; turn <= 2; turn++) {
		last_serial = 0;
		for (uint32_t i = 0; i < FH_CHAN_SPANS + 7; i++) {
			q.req.user_data = i + 1;
			fh_chan_span_end(&q, FH_FINISH_STOP, 0);
		}
		/* Nothing is told before the turn is over. */
		cr_expect_eq(nr_told, (uint64_t)(turn - 1) * FH_CHAN_SPANS);
		fh_turn_spans_flush(&f->spans, f->svc);
		cr_expect_eq(nr_told, (uint64_t)turn * FH_CHAN_SPANS);
		cr_expect_eq(nr_lost, 7 * turn);
	}
	fh_turn_spans_flush(&f->spans, f->svc);
	cr_expect_eq(nr_lost, 14);
	fh_turn_spans_close(&f->spans);
	free(f);
	free(c);
}
