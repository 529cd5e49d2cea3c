// SPDX-License-Identifier: Apache-2.0
/*
 * The engine under 100,000 random operations (submit, step, cancel, stop
 * reading, read again, fail a step) with a pool that is too small.  Every
 * request that was left alone gives what the oracle says, every other one a
 * beginning of it, each ends exactly once, and nothing is left at the end; with
 * guesses as without.
 */
#include "tests/unit/engine_oracle.h"

enum { NR_JOBS = 60, NR_OPS = 100000 };

struct soak {
	struct rig g;
	struct rng r;
	struct job *job[NR_JOBS];
	bool disturbed[NR_JOBS]; /* cancelled by us */
	uint32_t nr_ctx, spec_tokens;
	uint32_t nr_whole, nr_cut, nr_failed, nr_refused;
};

static void settle(struct soak *s, int i)
{
	struct job *j = s->job[i];

	switch (j->call.finish) {
	case FH_FINISH_ERROR:
		cr_assert_eq(j->call.req.error, -EIO);
		job_check_begun(j, s->nr_ctx);
		s->nr_failed++;
		break;
	case FH_FINISH_CANCELLED:
		cr_assert(s->disturbed[i], "cancelled by nobody");
		job_check_begun(j, s->nr_ctx);
		s->nr_cut++;
		break;
	default: job_check(j, s->nr_ctx); s->nr_whole++;
	}
	free(j->text);
	free(j);
	s->job[i] = NULL;
	s->disturbed[i] = false;
}

static void submit(struct soak *s, int i)
{
	struct job *j = aligned_alloc(_Alignof(struct job), sizeof(*j));
	struct fh_request *q = &j->call.req;
	struct fh_err err = {0};
	uint32_t retry_ms = 0;
	int ret;

	j->text = NULL;
	job_random(j, &s->r, 200, 120);
	j->call.on_text = NULL;
	if (s->spec_tokens && rnd(&s->r, 4))
		q->sampling.seed += ORACLE_LOOPS;
	q->class = rnd(&s->r, 3);
	q->nr_slots = 1u << rnd(&s->r, 6);
	q->sampling.logprobs = rnd(&s->r, 2);
	q->sampling.nr_top = rnd(&s->r, 3);
	if (rnd(&s->r, 4) == 0) {
		/* Held back often, and never found. */
		q->nr_stop = 1;
		q->stop[0] = (struct fh_stop){"aabbaabbaabbaabbz", 17};
	}
	ret = fh_fake_submit(s->g.f, &j->call, &retry_ms, &err);
	if (ret) {
		cr_assert_eq(ret, -EAGAIN, "%s", err.msg);
		cr_assert_gt(retry_ms, 0);
		s->nr_refused++;
		free(j);
		return;
	}
	s->job[i] = j;
}

static void operate(struct soak *s)
{
	int i = (int)rnd(&s->r, NR_JOBS);
	struct job *j = s->job[i];
	uint32_t op = rnd(&s->r, 100);

	if (op < 50)
		fh_engine_step(s->g.e);
	else if (op < 65)
		fh_fake_poll(s->g.f, false);
	else if (!j && op < 90)
		submit(s, i);
	else if (j && op < 70)
		j->call.hold = true;
	else if (j && op < 85)
		j->call.hold = false;
	else if (j && op < 87) {
		s->disturbed[i] = true;
		fh_fake_cancel(s->g.f, &j->call);
	} else if (op == 99 && rnd(&s->r, 60) == 0) {
		s->g.o->fail_at = s->g.o->nr_steps + 1;
	}
	for (i = 0; i < NR_JOBS; i++)
		if (s->job[i] && s->job[i]->call.done)
			settle(s, i);
}

static void soak(bool prefix_cache, uint32_t spec_tokens, enum rig_kind kind, uint64_t seed)
{
	struct soak *s = calloc(1, sizeof(*s));
	struct fh_engine_config cfg = spec_tokens ? rig_config_guessing() : rig_config();
	struct fh_engine_stats st;

	s->spec_tokens = spec_tokens;
	if (spec_tokens)
		cfg.spec_tokens = spec_tokens;

	cfg.nr_blocks = 40;
	cfg.max_seqs = 12;
	cfg.max_step_tokens = 40; /* never enough for everybody and all guesses */
	cfg.prefill_chunk = 24;
	cfg.max_queue = 20;
	cfg.nr_ctx = s->nr_ctx = 400;
	cfg.prefix_cache = prefix_cache;
	rig_open_on(&s->g, cfg, kind);
	s->r.s = seed;
	for (int op = 0; op < NR_OPS; op++)
		operate(s);
	for (int i = 0; i < NR_JOBS; i++)
		if (s->job[i])
			s->job[i]->call.hold = false;
	for (int n = 0; fh_fake_poll(s->g.f, true); n++)
		cr_assert_lt(n, 1000000, "the engine does not get on");
	for (int i = 0; i < NR_JOBS; i++)
		if (s->job[i])
			settle(s, i);
	fh_engine_stats(s->g.e, &st);
	cr_assert(fh_engine_check(s->g.e));
	cr_assert_eq(st.nr_blocks_free + st.nr_blocks_cached, st.nr_blocks);
	cr_assert(s->nr_whole > 1000 && s->nr_cut > 50 && s->nr_failed > 5 && s->nr_refused > 10 &&
			  st.nr_preempted > 100,
		  "%u whole, %u cut, %u failed, %u refused, %lu preempted", s->nr_whole, s->nr_cut, s->nr_failed,
		  s->nr_refused, st.nr_preempted);
	cr_assert_eq(st.prefix_hits > 1000, prefix_cache);
	cr_assert_eq(st.draft_tokens, s->g.o->nr_drafts);
	if (spec_tokens)
		cr_assert(st.accepted_tokens > 2000 && st.draft_tokens - st.accepted_tokens > 1000,
			  "%lu of %lu guesses were right", st.accepted_tokens, st.draft_tokens);
	else
		cr_assert_eq(st.draft_tokens, 0);
	rig_close(&s->g);
	free(s);
}

Test(engine_random, with_prefix_cache)
{
	soak(true, 0, RIG_PLAIN, 41);
}

Test(engine_random, without_prefix_cache)
{
	soak(false, 0, RIG_PLAIN, 43);
}

Test(engine_random, guessing)
{
	soak(true, 7, RIG_PLAIN, 47);
	soak(false, FH_SPEC_MAX, RIG_PLAIN, 53);
}

Test(engine_random, guessing_with_a_draft_model)
{
	soak(true, 5, RIG_DRAFT_MODEL, 59);
	soak(false, 7, RIG_DRAFT_MODEL, 61);
}
