// SPDX-License-Identifier: Apache-2.0
/*
 * Requests that share a completion ring (runtime/base/sink.h) against the same
 * ones with rings of their own: whatever stop strings, guesses, cancellations
 * and the size of the ring do, each says the same, and the ring keeps its rules.
 * On the test's own thread, a step at a time.
 */
#include "runtime/base/sink.h"
#include "tests/unit/engine_oracle.h"

enum { NR = 6, MAX_SAID = 300, MAX_RING = 64 };

struct said {
	struct fh_slot slot[MAX_SAID];
	uint32_t nr;
};

struct sink_fe {
	struct fh_frontend fe;
	struct fh_sink sink, *dirty;
	struct fh_cqe ring[MAX_RING];
	_Atomic uint32_t head, tail;
	struct said said[NR];
	uint32_t nr_admitted, nr_done, nr_inside, nr_owed, nr_polls;
	bool ended[NR];
};

static struct sink_fe *of(struct fh_frontend *fe)
{
	return (struct sink_fe *)fe; /* first member */
}

static bool on_poll(struct fh_frontend *fe)
{
	of(fe)->nr_polls++;
	return false;
}

static void on_admitted(struct fh_frontend *fe, struct fh_request *r)
{
	(void)r;
	of(fe)->nr_admitted++;
}

static void on_done(struct fh_frontend *fe, struct fh_request *r, enum fh_finish why, int error)
{
	struct sink_fe *f = of(fe);

	cr_assert_eq(error, 0);
	cr_assert(!f->ended[r->user_data], "done twice");
	f->ended[r->user_data] = true;
	f->nr_done++;
	f->nr_inside--;
	/* Only who is cancelled has had no last entry. */
	cr_assert_eq(r->sink_ended, why != FH_FINISH_CANCELLED);
}

static void on_flush(struct fh_frontend *fe)
{
	struct sink_fe *f = of(fe);

	if (!f->dirty)
		return;
	cr_assert(f->dirty == &f->sink && !f->sink.next_dirty);
	f->dirty = NULL;
	fh_sink_show(&f->sink);
	cr_assert_leq(atomic_load(&f->tail) - atomic_load(&f->head), f->sink.nr_entries, "the ring was overrun");
}

static int on_doze(struct fh_frontend *fe, struct fh_sleep_word *words, uint32_t max)
{
	(void)fe;
	(void)words;
	(void)max;
	return 0;
}

static void on_rise(struct fh_frontend *fe)
{
	(void)fe;
}

static const struct fh_polled_ops polled = {
	.poll = on_poll,
	.admitted = on_admitted,
	.done = on_done,
	.flush = on_flush,
	.doze = on_doze,
	.rise = on_rise,
};

/* Read at most @most entries. */
static void read_ring(struct sink_fe *f, uint32_t most)
{
	uint32_t head = atomic_load(&f->head), tail = atomic_load(&f->tail);

	for (; most && head != tail; most--, head++) {
		const struct fh_cqe *e = &f->ring[head & (f->sink.nr_entries - 1)];
		struct said *s = &f->said[e->user_data];

		cr_assert(e->user_data < NR && s->nr < MAX_SAID && !e->error);
		s->slot[s->nr++] = e->slot;
	}
	atomic_store(&f->head, head);
}

static int collect(void *ctx, const struct fh_slot *slot, const struct fh_top *top)
{
	struct said *s = ctx;

	(void)top;
	cr_assert_lt(s->nr, MAX_SAID);
	s->slot[s->nr++] = *slot;
	return 0;
}

static void random_request(struct fh_request *r, uint32_t *prompt, struct rng *g)
{
	static const char *const stops[] = {"ab", "ba", "abc", "aabab", "c", "cab"};

	r->prompt = prompt;
	r->nr_prompt = 1 + rnd(g, 60);
	r->max_tokens = 1 + rnd(g, 120);
	r->sampling.seed = rnd(g, 2) ? ORACLE_LOOPS + rnd(g, 3) : rnd(g, 3);
	r->min_tokens = rnd(g, 3) ? 0 : rnd(g, 20);
	for (uint32_t i = 0; i < r->nr_prompt; i++)
		prompt[i] = rnd(g, NR_VOCAB);
	r->nr_stop = rnd(g, 2) ? 1 + rnd(g, 2) : 0;
	for (uint32_t i = 0; i < r->nr_stop; i++) {
		r->stop[i].text = stops[rnd(g, 6)];
		r->stop[i].bytes = (uint32_t)strlen(r->stop[i].text);
	}
}

static void expect_same(const struct said *want, const struct said *got, bool whole)
{
	cr_assert(whole ? got->nr == want->nr : got->nr <= want->nr, "%u entries, not %u", got->nr, want->nr);
	for (uint32_t i = 0; i < got->nr; i++) {
		const struct fh_slot *a = &want->slot[i], *b = &got->slot[i];

		cr_assert(a->stamp == b->stamp && a->flags == b->flags && a->finish == b->finish &&
				  a->cut_bytes == b->cut_bytes,
			  "entry %u: stamp %u flags %u finish %u, not %u %u %u", i, b->stamp, b->flags, b->finish,
			  a->stamp, a->flags, a->finish);
		cr_assert(a->flags & FH_SLOT_NO_TOKEN || a->token == b->token);
	}
}

static void sink_open(struct sink_fe *f, struct rig *g, uint32_t nr_entries)
{
	struct fh_err err = {0};

	memset(f, 0, sizeof(*f));
	f->fe.name = "sink";
	f->fe.polled = &polled;
	f->sink = (struct fh_sink){.entries = (char *)f->ring,
				   .nr_entries = nr_entries,
				   .entry_bytes = sizeof(f->ring[0]),
				   .head_word = &f->head,
				   .tail_word = &f->tail,
				   .dirty_list = &f->dirty};
	cr_assert_eq(fh_engine_attach(g->e, &f->fe, &err), 0, "%s", err.msg);
}

/* NR requests, first each in its own ring, then together in one sink of @nr_entries. */
static void one_round(struct rig *g, struct sink_fe *f, struct rng *r, bool cancel)
{
	struct fh_fake_call call[NR];
	struct fh_request req[NR];
	struct said want[NR] = {0};
	uint32_t prompt[NR][60];
	struct fh_err err = {0};
	bool cancelled[NR] = {0};

	memset(f->said, 0, sizeof(f->said));
	memset(f->ended, 0, sizeof(f->ended));
	f->nr_done = 0;
	f->nr_inside = NR;
	for (uint32_t i = 0; i < NR; i++) {
		fh_fake_call_init(&call[i]);
		random_request(&call[i].req, prompt[i], r);
		call[i].on_slot = collect;
		call[i].ctx = &want[i];
		req[i] = call[i].req;
		req[i].fe = &f->fe;
		req[i].sink = &f->sink;
		req[i].user_data = i;
		cr_assert_eq(fh_fake_run(g->f, &call[i], &err), 0, "%s", err.msg);
	}
	for (uint32_t i = 0; i < NR; i++)
		cr_assert_eq(g->svc.submit(g->svc.ctx, &req[i], NULL, &err), 0, "%s", err.msg);
	for (int turn = 0; f->nr_inside; turn++) {
		cr_assert_lt(turn, 100000, "the engine does not get on");
		if (cancel && turn == 10) {
			cancelled[2] = !f->ended[2];
			atomic_store(&req[2].cancel, 1);
		}
		fh_engine_step(g->e);
		if (cancel && turn == 10)
			cr_assert(f->ended[2], "a cancelled request is still there");
		read_ring(f, rnd(r, 5));
	}
	read_ring(f, UINT32_MAX);
	cr_assert_eq(f->nr_done, (uint32_t)NR);
	for (uint32_t i = 0; i < NR; i++)
		expect_same(&want[i], &f->said[i], !cancelled[i]);
}

Test(engine_sink, the_same_as_in_rings_of_their_own)
{
	for (int kind = 0; kind < 8; kind++) {
		struct fh_engine_config cfg = kind & 1 ? rig_config_guessing() : rig_config();
		struct sink_fe *f = aligned_alloc(64, (sizeof(*f) + 63) / 64 * 64);
		struct rng r = {900 + (uint64_t)kind};
		struct fh_engine_stats st;
		struct rig g;

		if (kind & 2) {
			cfg.nr_ctx = 192;
			cfg.nr_blocks = 8;
		}
		rig_open(&g, cfg);
		sink_open(f, &g, kind & 4 ? 2 : MAX_RING);
		for (int round = 0; round < 30; round++)
			one_round(&g, f, &r, round % 3 == 0);
		fh_engine_stats(g.e, &st);
		if (kind & 1)
			cr_assert_gt(st.accepted_tokens, 50);
		cr_assert_gt(f->sink.copied_bytes, 0, "held tokens are copied, and counted");
		fh_engine_stop(g.e, 0);
		fh_engine_detach(g.e, &f->fe);
		rig_close(&g);
		free(f);
	}
}

/* A head that cannot be is noticed, not believed. */
Test(engine_sink, a_lying_head_breaks_the_sink)
{
	struct fh_cqe ring[4] = {0};
	_Atomic uint32_t head = 0, tail = 0;
	struct fh_sink *dirty = NULL;

	for (int kind = 0; kind < 3; kind++) {
		struct fh_sink k = {.entries = (char *)ring,
				    .nr_entries = 4,
				    .entry_bytes = sizeof(ring[0]),
				    .head_word = &head,
				    .tail_word = &tail,
				    .dirty_list = &dirty};

		atomic_store(&head, 0);
		dirty = NULL;
		for (uint64_t i = 0; i < 3; i++)
			fh_sink_reserve(&k, i, false);
		cr_assert_eq(fh_sink_room(&k), 1u);
		cr_assert(fh_sink_show(&k) && !fh_sink_show(&k) && atomic_load(&tail) >= 3);
		atomic_store(&head, 2);
		cr_assert(fh_sink_room(&k) == 3 && !k.broken);
		atomic_store(&head, kind == 0 ? 1 : kind == 1 ? 4 : 0x80000000u);
		cr_assert(fh_sink_room(&k) == 3 && k.broken, "kind %d", kind);
		/* The truth comes too late. */
		atomic_store(&head, 3);
		fh_sink_room(&k);
		cr_assert(k.broken);
	}
}
