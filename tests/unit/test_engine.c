// SPDX-License-Identifier: Apache-2.0
/*
 * The engine, a step at a time on the test's own thread, with the oracle
 * accelerator: whatever the batch, the chunks, the cache, the pool or the
 * readers do, a request's tokens are what they would be alone.
 */
#include <time.h>

#include "runtime/base/clock.h"
#include "runtime/engine/engine_priv.h" /* FH_STALL_US */
#include "tests/unit/engine_oracle.h"

static void submit(struct rig *g, struct job *j)
{
	struct fh_err err = {0};
	uint32_t retry_ms;

	cr_assert_eq(fh_fake_submit(g->f, &j->call, &retry_ms, &err), 0, "%s", err.msg);
}

static void run_all(struct rig *g)
{
	for (int i = 0; fh_fake_poll(g->f, true); i++)
		cr_assert_lt(i, 1000000, "the engine does not get on");
}

static struct job *jobs_new(uint32_t nr)
{
	return calloc(nr, sizeof(struct job));
}

static void jobs_free(struct job *jobs, uint32_t nr)
{
	for (uint32_t i = 0; i < nr; i++)
		free(jobs[i].text);
	free(jobs);
}

Test(engine, one_request_of_every_length)
{
	struct rig g;
	struct job *j = jobs_new(1);
	struct rng r = {1};

	rig_open(&g, rig_config());
	for (uint32_t nr = 1; nr <= 200; nr++) {
		job_random(j, &r, 1, 40);
		j->call.req.nr_prompt = nr;
		for (uint32_t i = 0; i < nr; i++)
			j->prompt[i] = rnd(&r, NR_VOCAB);
		submit(&g, j);
		run_all(&g);
		job_check(j, 1024);
	}
	rig_close(&g);
	jobs_free(j, 1);
}

/* 32 mixed requests together, under every way to make life hard. */
Test(engine, a_batch_gives_what_each_gives_alone)
{
	enum { NR = 32 };

	for (int kind = 0; kind < 8; kind++) {
		struct fh_engine_config cfg = rig_config();
		struct fh_engine_stats st;
		struct job *j = jobs_new(NR);
		struct rng r = {100 + (uint64_t)kind};
		struct rig g;

		cfg.prefix_cache = kind & 1;
		if (kind & 2)
			cfg.nr_blocks = 20; /* far too few: they push each other out */
		if (kind & 4) {
			cfg.max_seqs = 5;
			cfg.max_step_tokens = 7;
			cfg.prefill_chunk = 3;
		}
		cfg.nr_ctx = 500;
		rig_open(&g, cfg);
		for (int round = 0; round < 10; round++) {
			for (int i = 0; i < NR; i++) {
				job_random(&j[i], &r, 300, 200);
				j[i].call.req.class = rnd(&r, 3);
				j[i].call.req.sampling.logprobs = rnd(&r, 2);
				j[i].call.req.sampling.nr_top = rnd(&r, 4);
				submit(&g, &j[i]);
				for (uint32_t k = rnd(&r, 4); k; k--)
					fh_fake_poll(g.f, true);
			}
			run_all(&g);
			for (int i = 0; i < NR; i++)
				job_check(&j[i], 500);
			cr_assert(fh_engine_check(g.e));
		}
		fh_engine_stats(g.e, &st);
		cr_assert_eq(st.prefix_hits > 0, kind & 1);
		if ((kind & 6) == 2)
			cr_assert_gt(st.nr_preempted, 10);
		cr_assert_eq(st.nr_blocks_free + st.nr_blocks_cached, st.nr_blocks);
		rig_close(&g);
		jobs_free(j, NR);
	}
}

/* The others wait for the first one's blocks and compute only their own ends; if it is cancelled, one of them goes on.
 */
Test(engine, a_prefix_is_computed_once)
{
	enum { NR = 8, PROMPT = 640 };

	for (int when = -1; when < 12; when++) {
		struct job *j = jobs_new(NR);
		struct fh_engine_config cfg = rig_config();
		struct rig g;

		rig_open(&g, cfg);
		for (int i = 0; i < NR; i++) {
			job_init(&j[i]);
			j[i].call.req.nr_prompt = PROMPT;
			j[i].call.req.max_tokens = 5;
			j[i].call.req.min_tokens = 5;
			for (uint32_t k = 0; k < PROMPT; k++)
				j[i].prompt[k] = k == PROMPT - 1 ? 10 + (uint32_t)i : k % NR_VOCAB;
			submit(&g, &j[i]);
		}
		for (int k = 0; k < when; k++)
			fh_engine_step(g.e);
		if (when >= 0)
			fh_fake_cancel(g.f, &j[0].call);
		run_all(&g);
		for (int i = when >= 0; i < NR; i++)
			job_check(&j[i], 1024);
		if (when < 0) {
			/* Once in full, then a block's rest and the answers of each. */
			cr_assert_leq(g.o->nr_computed, PROMPT + (NR - 1) * FH_KV_BLOCK + NR * 5);
			cr_assert_eq(j[3].call.req.nr_cached_prompt, (PROMPT - 1) / FH_KV_BLOCK * FH_KV_BLOCK);
		} else {
			cr_assert_leq(g.o->nr_computed, PROMPT + 48 + NR * (FH_KV_BLOCK + 5));
		}
		rig_close(&g);
		jobs_free(j, NR);
	}
}

/* The whole pool is free again in the step that notices; the reader gets one last word. */
Test(engine, cancelled_at_every_moment)
{
	for (int stops = 0; stops < 2; stops++) {
		for (int when = 0; when < 60; when++) {
			struct job *j = jobs_new(2);
			struct fh_engine_stats st;
			struct rng r = {7};
			struct rig g;

			rig_open(&g, rig_config());
			for (int i = 0; i < 2; i++) {
				job_random(&j[i], &r, 1, 1);
				j[i].call.req.nr_prompt = 300;
				j[i].call.req.max_tokens = j[i].call.req.min_tokens = 40;
				if (stops && !i) {
					j[i].call.req.nr_stop = 1;
					j[i].call.req.stop[0] = (struct fh_stop){"aababababababab", 15};
				}
				submit(&g, &j[i]);
			}
			for (int k = 0; k < when; k++) {
				fh_engine_step(g.e);
				fh_fake_poll(g.f, false);
			}
			fh_fake_cancel(g.f, &j[0].call);
			fh_engine_step(g.e);
			fh_fake_poll(g.f, false);
			cr_assert(j[0].call.done, "not gone in one step");
			if (j[0].call.finish == FH_FINISH_CANCELLED)
				job_check_begun(&j[0], 1024);
			else
				job_check(&j[0], 1024);
			fh_engine_stats(g.e, &st);
			cr_assert_leq(st.nr_blocks - st.nr_blocks_free - st.nr_blocks_cached, 11,
				      "blocks of the cancelled one are still held");
			run_all(&g);
			job_check(&j[1], 1024);
			rig_close(&g);
			jobs_free(j, 2);
		}
	}
}

/* A reader that takes nothing stops only itself, and even loses its blocks when others need them. */
Test(engine, a_slow_reader_stops_only_itself)
{
	for (int few = 0; few < 2; few++) {
		struct fh_engine_config cfg = rig_config();
		struct job *j = jobs_new(4);
		struct rng r = {11};
		struct rig g;

		cfg.nr_ctx = 320;
		cfg.nr_blocks = few ? 12 : 256;
		rig_open(&g, cfg);
		for (int i = 0; i < 4; i++) {
			job_random(&j[i], &r, 1, 1);
			j[i].call.req.nr_prompt = 200;
			j[i].call.req.max_tokens = j[i].call.req.min_tokens = 100;
			j[i].call.req.nr_slots = 4;
			j[i].call.hold = i == 0;
			submit(&g, &j[i]);
			if (!i)
				for (int k = 0; k < 20; k++)
					fh_fake_poll(g.f, true);
		}
		cr_assert_eq(j[0].nr_out, 0);
		for (int k = 0; !j[1].call.done || !j[2].call.done || !j[3].call.done; k++) {
			cr_assert_lt(k, 100000000, "a slow reader stops others");
			fh_fake_poll(g.f, true);
		}
		for (int i = 1; i < 4; i++)
			job_check(&j[i], 320);
		cr_assert(!j[0].call.done);
		if (few) {
			struct fh_engine_stats st;

			fh_engine_stats(g.e, &st);
			cr_assert_gt(st.nr_preempted, 0);
		}
		j[0].call.hold = false;
		run_all(&g);
		job_check(&j[0], 320);
		rig_close(&g);
		jobs_free(j, 4);
	}
}

/* The one that stalls is first in order, the one that needs its blocks is in the middle of its answer. */
Test(engine, a_stalled_reader_yields_its_blocks_to_growth)
{
	const struct timespec wait = {.tv_nsec = 2000000 + FH_STALL_US * 1000};
	struct fh_engine_config cfg = rig_config();
	struct job *j = jobs_new(2);
	struct fh_engine_stats st;
	struct rng r = {12};
	struct rig g;

	cfg.nr_blocks = 12;
	cfg.nr_ctx = 320;
	rig_open(&g, cfg);
	for (int i = 0; i < 2; i++) {
		job_random(&j[i], &r, 1, 1);
		j[i].call.req.nr_prompt = i ? 100 : 200;
		for (int k = 0; k < 200; k++)
			j[i].prompt[k] = rnd(&r, NR_VOCAB);
		j[i].call.req.max_tokens = j[i].call.req.min_tokens = 100;
		j[i].call.req.nr_slots = 4;
		j[i].call.hold = !i;
		submit(&g, &j[i]);
		for (int k = 0; k < 20; k++)
			fh_fake_poll(g.f, true);
	}
	nanosleep(&wait, NULL);
	fh_engine_stats(g.e, &st);
	cr_assert_eq(st.nr_preempted, 0);
	while (!j[1].call.done)
		fh_fake_poll(g.f, true);
	fh_engine_stats(g.e, &st);
	cr_assert_eq(st.nr_preempted, 1);
	job_check(&j[1], 320);
	j[0].call.hold = false;
	run_all(&g);
	job_check(&j[0], 320);
	rig_close(&g);
	jobs_free(j, 2);
}

/* Decodes go on in every step while a long prompt is computed. */
Test(engine, a_long_prompt_does_not_stall_decodes)
{
	struct fh_engine_config cfg = rig_config();
	struct job *j = jobs_new(2);
	struct rng r = {13};
	struct rig g;

	cfg.prefill_chunk = 16;
	rig_open(&g, cfg);
	job_random(&j[0], &r, 1, 1);
	j[0].call.req.max_tokens = j[0].call.req.min_tokens = 50;
	submit(&g, &j[0]);
	for (int i = 0; i < 5; i++)
		fh_fake_poll(g.f, true);
	job_random(&j[1], &r, 1, 1);
	j[1].call.req.nr_prompt = 480;
	j[1].call.req.max_tokens = 1;
	submit(&g, &j[1]);
	for (int i = 0; i < 29; i++) {
		uint32_t before = j[0].nr_out;

		fh_engine_step(g.e);
		fh_fake_poll(g.f, false);
		cr_assert_eq(j[0].nr_out, before + 1, "a decode waited for a prompt");
		cr_assert(!j[1].call.done);
	}
	run_all(&g);
	cr_assert_leq(g.o->max_decode_gap, 17);
	job_check(&j[0], 1024);
	job_check(&j[1], 1024);
	rig_close(&g);
	jobs_free(j, 2);
}

Test(engine, ends)
{
	struct fh_engine_config cfg = rig_config();
	struct job *j = jobs_new(1);
	struct rng r = {17};
	uint32_t seen[8] = {0};
	struct rig g;

	cfg.nr_ctx = 128;
	rig_open(&g, cfg);
	for (int i = 0; i < 600; i++) {
		struct fh_request *q = &j->call.req;

		job_random(j, &r, 120, 200);
		q->ignore_eos = rnd(&r, 2);
		q->min_tokens = rnd(&r, 2) ? rnd(&r, 30) : 0;
		q->nr_stop_ids = rnd(&r, 3);
		for (uint32_t k = 0; k < q->nr_stop_ids; k++)
			q->stop_ids[k] = ID_BYTE + rnd(&r, 30);
		q->budget_tokens = rnd(&r, 3) ? 0 : 1 + rnd(&r, 20);
		submit(&g, j);
		run_all(&g);
		job_check(j, 128);
		seen[j->call.finish]++;
	}
	cr_assert(seen[FH_FINISH_STOP] > 20 && seen[FH_FINISH_LENGTH] > 20 && seen[FH_FINISH_BUDGET] > 20);
	rig_close(&g);
	jobs_free(j, 1);
}

Test(engine, what_can_never_run_is_refused)
{
	struct fh_engine_config cfg = rig_config();
	struct job *j = jobs_new(1);
	struct fh_request *q = &j->call.req;
	struct fh_err err;
	struct rig g;

	cfg.nr_blocks = 4; /* 128 tokens, less than the context */
	rig_open(&g, cfg);
#define REFUSED(code, ...)                                                                                             \
	do {                                                                                                           \
		job_init(j);                                                                                           \
		q->nr_prompt = 3;                                                                                      \
		q->max_tokens = 3;                                                                                     \
		__VA_ARGS__;                                                                                           \
		err.msg[0] = 0;                                                                                        \
		cr_assert_eq(fh_fake_submit(g.f, &j->call, NULL, &err), code, "%s", #__VA_ARGS__);                     \
		cr_assert_gt(strlen(err.msg), 10);                                                                     \
	} while (0)
	REFUSED(-EINVAL, q->nr_prompt = 0);
	REFUSED(-EINVAL, q->max_tokens = 0);
	REFUSED(-EINVAL, j->prompt[2] = NR_VOCAB);
	REFUSED(-E2BIG, q->nr_prompt = 128);
	REFUSED(-EINVAL, q->nr_slots = 3);
	REFUSED(-EINVAL, q->sampling.nr_top = FH_MAX_TOP_LOGPROBS + 1);
	REFUSED(-EINVAL, q->nr_stop = FH_MAX_STOP + 1);
	REFUSED(-EINVAL, q->nr_stop = 1);
	REFUSED(-EINVAL, q->kind = FH_REQ_EMBED);
#undef REFUSED
	/* The longest that fits does run. */
	job_init(j);
	q->nr_prompt = 127;
	q->max_tokens = 50;
	q->ignore_eos = true;
	submit(&g, j);
	run_all(&g);
	job_check(j, 128);
	cr_assert_eq(j->nr_out, 1);
	rig_close(&g);
	jobs_free(j, 1);
}

/* Memory that others write is judged as it was fetched, not as it was when it was handed over. */
Test(engine, a_prompt_that_changes_after_submission)
{
	struct job *j = jobs_new(2);
	struct rng r = {18};
	struct rig g;

	rig_open(&g, rig_config());
	for (int i = 0; i < 2; i++) {
		job_random(&j[i], &r, 50, 10);
		submit(&g, &j[i]);
	}
	j[0].prompt[0] = NR_VOCAB + 5;
	fh_engine_step(g.e);
	/* From here on it may change as it likes. */
	j[1].prompt[0] ^= 1;
	run_all(&g);
	j[1].prompt[0] ^= 1;
	cr_assert_eq(j[0].call.finish, FH_FINISH_ERROR);
	cr_assert_eq(j[0].call.req.error, -EINVAL);
	cr_assert_eq(j[0].nr_last, 1);
	job_check(&j[1], 1024);
	rig_close(&g);
	jobs_free(j, 2);
}

/* What does not fit in the queue comes back with a time; what has ended and was not collected is bounded, too. */
Test(engine, the_queue_is_bounded)
{
	enum { NR = 400 };
	struct fh_engine_config cfg = rig_config();
	struct job *j = jobs_new(NR);
	uint32_t nr_in = 0, retry_ms = 0, nr_collected = 0;
	struct fh_engine_stats st;
	struct fh_err err;
	struct rng r = {19};
	struct rig g;

	cfg.max_seqs = 4;
	cfg.max_queue = 16;
	rig_open(&g, cfg);
	for (uint32_t i = 0; i < 30; i++) {
		int ret;

		job_random(&j[i], &r, 50, 20);
		ret = fh_fake_submit(g.f, &j[i].call, &retry_ms, &err);
		cr_assert_eq(ret, i < 16 ? 0 : -EAGAIN);
	}
	cr_assert(retry_ms >= 1 && retry_ms <= 60000);
	fh_engine_stats(g.e, &st);
	cr_assert_eq(st.nr_refused, 14);
	run_all(&g);
	for (uint32_t i = 0; i < 16; i++)
		job_check(&j[i], 1024);

	/* The engine finishes them all, the front end looks at none: `ready` never overflows. */
	for (uint32_t i = 0; i < NR; i++) {
		job_random(&j[i], &r, 5, 1);
		j[i].call.req.max_tokens = j[i].call.req.min_tokens = 20;
		if (fh_fake_submit(g.f, &j[i].call, &retry_ms, &err))
			break;
		nr_in++;
		for (int k = 0; k < 25; k++)
			fh_engine_step(g.e);
	}
	cr_assert(nr_in >= 20 && nr_in < NR, "%u", nr_in);
	run_all(&g);
	for (uint32_t i = 0; i < nr_in; i++)
		nr_collected += j[i].call.done;
	cr_assert_eq(nr_collected, nr_in);
	rig_close(&g);
	jobs_free(j, NR);
}

/* A device whose steps take a millisecond at least. */
static void work_a_while(void *ctx)
{
	uint64_t until_ns = fh_now_ns() + 1000000;

	(void)ctx;
	while (fh_now_ns() < until_ns)
		;
}

/* A deadline that nothing could keep is refused at the next turn; one that is easy is kept; both are counted. */
Test(engine, what_cannot_be_on_time_is_refused)
{
	enum { NR = 40, HOUR_US = 3600000000u };
	struct fh_engine_config cfg = rig_config();
	struct job *j = jobs_new(NR);
	struct fh_engine_stats st;
	struct rng r = {23};
	struct rig g;

	cfg.class[FH_CLASS_INTERACTIVE] = (struct fh_sched_class){.ttft_us = 100, .tpot_us = 100};
	rig_open(&g, cfg);
	g.o->in_step = work_a_while;
	for (uint32_t i = 0; i < NR; i++) {
		struct fh_request *q = &j[i].call.req;

		job_random(&j[i], &r, 50, 20);
		q->class = FH_CLASS_STANDARD;
		q->tenant = i % 3;
		/* Nobody is refused before it is known what steps cost: the first is late. */
		if (i == 0)
			q->ttft_us = 100;
		if (i >= 8 && i % 4 == 1)
			q->ttft_us = 100;
		if (i >= 8 && i % 4 == 2)
			q->class = FH_CLASS_INTERACTIVE;
		if (i >= 8 && i % 4 == 3)
			q->ttft_us = q->tpot_us = HOUR_US;
		q->arrival_ns = fh_now_ns();
		submit(&g, &j[i]);
		run_all(&g);
		if (i < 8 || i % 4 == 0 || i % 4 == 3) {
			job_check(&j[i], 1024);
			continue;
		}
		cr_assert_eq(j[i].call.finish, FH_FINISH_DEADLINE);
		cr_assert_eq(q->error, -EAGAIN);
		cr_assert_geq(q->retry_us, 1000);
		cr_assert_eq(q->nr_generated, 0);
	}
	fh_engine_stats(g.e, &st);
	cr_assert_eq(st.nr_refused, 16);
	cr_assert_eq(st.finished[FH_FINISH_DEADLINE], 16);
	cr_assert_eq(atomic_load(&g.e->st.refused[FH_SCHED_NO_TTFT]), 16);
	cr_assert_eq(atomic_load(&g.e->st.ttft_missed), 1, "the one that came before anything was known");
	cr_assert_eq(atomic_load(&g.e->st.ttft_kept), 8);
	cr_assert_eq(atomic_load(&g.e->st.tpot_missed), 0);
	cr_assert(fh_engine_check(g.e));
	cr_assert_eq(g.e->sched.tenants.nr_active, 0);
	rig_close(&g);
	jobs_free(j, NR);
}

Test(engine, a_failed_step_ends_its_requests_and_no_more)
{
	struct fh_engine_config cfg = rig_config();
	struct job *j = jobs_new(8);
	struct fh_engine_stats st;
	struct rng r = {23};
	struct rig g;
	uint32_t nr_failed = 0;

	cfg.max_seqs = 4;
	rig_open(&g, cfg);
	g.o->fail_at = 9;
	for (int i = 0; i < 8; i++) {
		job_random(&j[i], &r, 100, 1);
		j[i].call.req.max_tokens = j[i].call.req.min_tokens = 30;
		submit(&g, &j[i]);
	}
	for (int i = 0; i < 9; i++)
		fh_engine_step(g.e);
	cr_assert_eq(fh_engine_health(g.e, 1000), -EIO);
	run_all(&g);
	for (int i = 0; i < 8; i++) {
		if (j[i].call.finish != FH_FINISH_ERROR) {
			job_check(&j[i], 1024);
			continue;
		}
		nr_failed++;
		cr_assert_eq(j[i].call.req.error, -EIO);
		job_check_begun(&j[i], 1024);
	}
	cr_assert_eq(nr_failed, 4);
	cr_assert_eq(fh_engine_health(g.e, 1000), 0);
	fh_engine_stats(g.e, &st);
	cr_assert_eq(st.finished[FH_FINISH_ERROR], 4);
	rig_close(&g);
	jobs_free(j, 8);
}

Test(engine, embeddings)
{
	struct fh_engine_config cfg = rig_config();
	struct job *j = jobs_new(6);
	float pooled[6][DIM];
	struct rng r = {29};
	struct rig g;

	cfg.nr_blocks = 24; /* some are preempted and begin again */
	rig_open(&g, cfg);
	for (int round = 0; round < 20; round++) {
		for (int i = 0; i < 6; i++) {
			job_random(&j[i], &r, 400, 150);
			if (i % 2) {
				j[i].call.req.kind = FH_REQ_EMBED;
				j[i].call.req.pooled = pooled[i];
				j[i].call.req.pooling = i == 1 ? FH_POOL_MEAN : FH_POOL_LAST;
				j[i].call.req.max_tokens = 0;
				memset(pooled[i], 0x55, sizeof(pooled[i]));
			}
			submit(&g, &j[i]);
		}
		run_all(&g);
		for (int i = 0; i < 6; i++) {
			const struct fh_request *q = &j[i].call.req;
			float sum = 0;

			if (i % 2 == 0) {
				job_check(&j[i], 768);
				continue;
			}
			for (uint32_t k = 0; k < q->nr_prompt; k++)
				sum += (float)j[i].prompt[k];
			for (uint32_t d = 0; d < DIM; d++) {
				float want = q->pooling == FH_POOL_MEAN
						     ? sum * (float)(d + 1) / (float)q->nr_prompt
						     : (float)(j[i].prompt[q->nr_prompt - 1] * (d + 1));

				cr_assert_float_eq(pooled[i][d], want, 1e-3 * (1 + want));
			}
			cr_assert_eq(j[i].call.finish, FH_FINISH_STOP);
			cr_assert_eq(j[i].call.req.error, 0);
		}
	}
	rig_close(&g);
	jobs_free(j, 6);
}

/* Stopping ends everything, with a word to each. */
Test(engine, stopping_cancels_what_is_inside)
{
	struct fh_engine_config cfg = rig_config();
	struct job *j = jobs_new(20);
	struct rng r = {31};
	struct fh_err err;
	struct rig g;

	cfg.max_seqs = 4;
	rig_open(&g, cfg);
	for (int i = 0; i < 20; i++) {
		job_random(&j[i], &r, 100, 500);
		j[i].call.hold = i == 2;
		j[i].call.req.nr_slots = 4;
		submit(&g, &j[i]);
	}
	for (int i = 0; i < 30; i++)
		fh_engine_step(g.e);
	fh_engine_stop(g.e, 0);
	while (fh_fake_poll(g.f, false))
		;
	for (int i = 0; i < 20; i++)
		job_check_begun(&j[i], 1024);
	cr_assert_eq(fh_engine_health(g.e, 1000), -ESHUTDOWN);
	job_random(&j[0], &r, 10, 10);
	cr_assert_eq(fh_fake_submit(g.f, &j[0].call, NULL, &err), -ESHUTDOWN);
	rig_close(&g);
	jobs_free(j, 20);
}

Test(engine, metrics_have_the_names_that_dashboards_know)
{
	static const char *const names[] = {"freehold_num_requests_running 0",
					    "freehold_num_requests_waiting 0",
					    "freehold_kv_cache_usage_perc 0",
					    "freehold_prompt_tokens_total 40",
					    "freehold_generation_tokens_total 7",
					    "freehold_time_to_first_token_seconds_bucket{le=\"1e-05\"}",
					    "freehold_time_to_first_token_seconds_count 1",
					    "freehold_inter_token_latency_seconds_count 6",
					    "freehold_e2e_request_latency_seconds_bucket{le=\"+Inf\"} 1",
					    "freehold_request_success_total{finished_reason=\"length\"} 1",
					    "freehold_prefix_cache_queries_total 40",
					    "freehold_prefix_cache_hits_total 0",
					    "freehold_num_preemptions_total 0"};
	struct job *j = jobs_new(1);
	struct rng r = {37};
	struct rig g;
	char *text = NULL;
	size_t bytes;
	FILE *out;

	rig_open(&g, rig_config());
	job_random(j, &r, 1, 1);
	j->call.req.nr_prompt = 40;
	j->call.req.max_tokens = j->call.req.min_tokens = 7;
	submit(&g, j);
	run_all(&g);
	out = open_memstream(&text, &bytes);
	fh_engine_metrics(g.e, out);
	fclose(out);
	for (size_t i = 0; i < sizeof(names) / sizeof(*names); i++)
		cr_assert(strstr(text, names[i]), "no %s in:\n%s", names[i], text);
	free(text);
	rig_close(&g);
	jobs_free(j, 1);
}
