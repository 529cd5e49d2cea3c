// SPDX-License-Identifier: Apache-2.0
/*
 * Speculation changes nothing but the number of steps: with guesses every
 * request gives what the oracle says, whatever ends it in the middle of them,
 * however small its ring and however few the blocks; and guesses take nothing
 * that others need.
 */
#include "runtime/model/model.h"
#include "tests/unit/engine_oracle.h"

static void submit(struct rig *g, struct job *j)
{
	struct fh_err err = {0};

	cr_assert_eq(fh_fake_submit(g->f, &j->call, NULL, &err), 0, "%s", err.msg);
}

static void run(struct rig *g, struct job *j)
{
	submit(g, j);
	fh_fake_wait(g->f, &j->call);
}

static struct fh_engine_stats stats(struct rig *g)
{
	struct fh_engine_stats st;

	fh_engine_stats(g->e, &st);
	return st;
}

/* A prompt that says the same again and again, and an answer that mostly does. */
static void job_loop(struct job *j, struct rng *r, uint32_t max_tokens)
{
	uint32_t period = 1 + rnd(r, 20);

	job_random(j, r, 80, max_tokens);
	for (uint32_t i = period; i < j->call.req.nr_prompt; i++)
		j->prompt[i] = j->prompt[i - period];
	j->call.req.sampling.seed = ORACLE_LOOPS + rnd(r, 50);
}

static struct job *job_new(void)
{
	return calloc(1, sizeof(struct job));
}

static void job_free(struct job *j)
{
	free(j->text);
	free(j);
}

/* Everything that a request may carry, alone and in company; as many guesses as there can be. */
Test(engine_spec, tokens_are_those_of_plain_steps)
{
	struct fh_engine_config cfg = rig_config_guessing();
	struct rng r = {77};
	struct job *jobs[24];
	struct fh_engine_stats st;
	uint64_t nr_tokens = 0;
	struct rig g;

	cfg.spec_tokens = FH_SPEC_MAX;
	cfg.max_step_logits = 100;
	rig_open(&g, cfg);
	for (int i = 0; i < 24; i++)
		jobs[i] = job_new();
	for (int round = 0; round < 60; round++) {
		int nr = round % 3 ? 24 : 1;

		for (int i = 0; i < nr; i++) {
			struct fh_request *q = &jobs[i]->call.req;

			job_loop(jobs[i], &r, 300);
			q->nr_slots = 1u << rnd(&r, 7);
			q->sampling.logprobs = rnd(&r, 2);
			q->sampling.nr_top = rnd(&r, 4);
			q->min_tokens = rnd(&r, 3) ? 0 : rnd(&r, 100);
			q->ignore_eos = rnd(&r, 2);
			q->budget_tokens = rnd(&r, 3) ? 0 : 1 + rnd(&r, 100);
			q->nr_stop_ids = rnd(&r, 2);
			q->stop_ids[0] = ID_BYTE + rnd(&r, 40);
			submit(&g, jobs[i]);
		}
		while (fh_fake_poll(g.f, true))
			;
		for (int i = 0; i < nr; i++) {
			job_check(jobs[i], 1024);
			nr_tokens += jobs[i]->nr_out;
		}
	}
	st = stats(&g);
	cr_assert(st.accepted_tokens > nr_tokens / 3, "%lu of %lu tokens were guessed", st.accepted_tokens, nr_tokens);
	cr_assert(st.draft_tokens > st.accepted_tokens + 2000 && st.nr_drafts > 1000);
	cr_assert_eq(st.draft_tokens, g.o->nr_drafts);
	for (int i = 0; i < 24; i++)
		job_free(jobs[i]);
	rig_close(&g);
}

/* max_tokens, or the budget, at every place of a series of guesses; none is computed that could not be said. */
Test(engine_spec, ends_at_every_place)
{
	struct fh_engine_config cfg = rig_config_guessing();
	struct job *j = job_new();
	struct rng r = {3};
	struct rig g;

	cfg.prefix_cache = false;
	rig_open(&g, cfg);
	g.o->always[0] = g.o->always[1] = 9; /* all guesses are right */
	for (uint32_t n = 1; n <= 60; n++) {
		uint64_t nr_computed = g.o->nr_computed, nr_steps = g.o->nr_steps;

		job_random(j, &r, 20, 1);
		j->call.req.max_tokens = n % 2 ? n : 1000;
		j->call.req.budget_tokens = n % 2 ? 0 : n;
		for (uint32_t i = 0; i < j->call.req.nr_prompt; i++)
			j->prompt[i] = 9;
		run(&g, j);
		cr_assert_eq(j->call.finish, n % 2 ? FH_FINISH_LENGTH : FH_FINISH_BUDGET);
		cr_assert_eq(j->nr_out, n);
		cr_assert_eq(j->call.req.nr_generated, n);
		cr_assert_eq(g.o->nr_computed - nr_computed, j->call.req.nr_prompt + n - 1);
		if (n > 30)
			cr_assert_lt(g.o->nr_steps - nr_steps, n / 3);
	}
	rig_close(&g);
	job_free(j);
}

/* The context's end, too. */
Test(engine_spec, ends_with_the_context)
{
	struct fh_engine_config cfg = rig_config_guessing();
	struct job *j = job_new();
	struct rng r = {3};

	for (uint32_t ctx = 40; ctx < 80; ctx++) {
		struct rig g;

		cfg.nr_ctx = ctx;
		cfg.nr_blocks = 3;
		rig_open(&g, cfg);
		g.o->always[0] = g.o->always[1] = 9;
		job_random(j, &r, 20, 1);
		j->call.req.max_tokens = 1000;
		run(&g, j);
		cr_assert_eq(j->call.finish, FH_FINISH_LENGTH);
		cr_assert_eq(j->nr_out, ctx - j->call.req.nr_prompt);
		cr_assert_gt(stats(&g).accepted_tokens, 0);
		rig_close(&g);
	}
	job_free(j);
}

static void copy_request(struct job *to, const struct job *from)
{
	const struct fh_request *q = &from->call.req;

	job_init(to);
	memcpy(to->prompt, from->prompt, sizeof(to->prompt));
	to->call.req.nr_prompt = q->nr_prompt;
	to->call.req.max_tokens = q->max_tokens;
	to->call.req.ignore_eos = q->ignore_eos;
	to->call.req.sampling = q->sampling;
	to->call.req.nr_slots = q->nr_slots;
	to->call.req.nr_stop = q->nr_stop;
	memcpy(to->call.req.stop, q->stop, sizeof(q->stop));
	to->call.on_text = job_text;
}

/* Stop strings out of the answer's own text end the same request at the same byte, wherever a series of guesses ends.
 */
Test(engine_spec, stop_strings)
{
	struct fh_engine_config cfg = rig_config();
	struct job *plain = job_new(), *other = job_new();
	struct rng r = {21};
	uint32_t nr_stopped = 0, nr_cut = 0;
	struct rig g, guessing;

	rig_open(&g, cfg);
	rig_open(&guessing, rig_config_guessing());
	for (int round = 0; round < 3000; round++) {
		char made[2][12];
		struct fh_request *q = &plain->call.req;

		job_loop(plain, &r, 150);
		q->ignore_eos = true;
		q->nr_slots = 1u << rnd(&r, 7);
		q->sampling.logprobs = rnd(&r, 2);
		q->sampling.nr_top = rnd(&r, 3);
		plain->call.on_text = job_text;
		run(&g, plain);
		copy_request(other, plain);
		other->call.req.nr_stop = 1 + rnd(&r, 2);
		for (uint32_t i = 0; i < other->call.req.nr_stop; i++) {
			uint32_t n = 1 + rnd(&r, 11);

			memset(made[i], 'b', sizeof(made[i]));
			if (plain->text_bytes > n)
				memcpy(made[i], plain->text + rnd(&r, (uint32_t)(plain->text_bytes - n)), n);
			other->call.req.stop[i] = (struct fh_stop){made[i], n};
		}
		copy_request(plain, other);
		run(&g, plain);
		run(&guessing, other);
		cr_assert_eq(other->call.finish, plain->call.finish);
		cr_assert_eq(other->nr_out, plain->nr_out);
		cr_assert_arr_eq(other->out, plain->out, plain->nr_out * sizeof(*plain->out));
		cr_assert_eq(other->text_bytes, plain->text_bytes);
		cr_assert(!plain->text_bytes || !memcmp(other->text, plain->text, plain->text_bytes));
		cr_assert_eq(other->was_cut, plain->was_cut);
		cr_assert_eq(other->call.req.nr_generated, plain->call.req.nr_generated);
		nr_stopped += plain->call.finish == FH_FINISH_STOP;
		nr_cut += plain->was_cut;
	}
	cr_assert(nr_stopped > 1000 && nr_cut > 300, "%u stopped, %u cut", nr_stopped, nr_cut);
	cr_assert_gt(stats(&guessing).accepted_tokens, 5000);
	rig_close(&g);
	rig_close(&guessing);
	job_free(plain);
	job_free(other);
}

/* A pool that is too small: guesses never cost anybody a block, and blocks that only guesses needed are given back. */
Test(engine_spec, blocks_are_the_others_first)
{
	struct fh_engine_config cfg = rig_config_guessing();
	struct rng r = {9};
	struct job *jobs[12];
	struct fh_engine_stats st;
	struct rig g;

	cfg.nr_blocks = 14;
	cfg.nr_ctx = 400;
	cfg.max_seqs = 12;
	rig_open(&g, cfg);
	for (int i = 0; i < 12; i++)
		jobs[i] = job_new();
	for (int round = 0; round < 40; round++) {
		for (int i = 0; i < 12; i++) {
			job_loop(jobs[i], &r, 200);
			submit(&g, jobs[i]);
		}
		while (fh_fake_poll(g.f, true)) {
			uint32_t nr_held = 0, nr_running = 0;

			for (int i = 0; i < 12; i++) {
				const struct fh_request *q = &jobs[i]->call.req;
				uint32_t nr = q->nr_prompt + atomic_load(&q->tail);

				nr_held += jobs[i]->call.done ? 0 : (nr + FH_KV_BLOCK - 1) / FH_KV_BLOCK;
				nr_running += !jobs[i]->call.done;
			}
			st = stats(&g);
			cr_assert_leq(st.nr_blocks - st.nr_blocks_free - st.nr_blocks_cached, nr_held);
		}
		for (int i = 0; i < 12; i++)
			job_check(jobs[i], 400);
	}
	st = stats(&g);
	cr_assert(st.nr_preempted > 50 && st.accepted_tokens > 1000, "%lu preempted, %lu accepted", st.nr_preempted,
		  st.accepted_tokens);
	for (int i = 0; i < 12; i++)
		job_free(jobs[i]);
	rig_close(&g);
}

/* The step's budget is for decodes and prompts; guesses get what is left, rows of logits as well. */
Test(engine_spec, guesses_displace_nobody)
{
	struct fh_engine_config cfg = rig_config_guessing();
	struct rng r = {13};
	struct job *jobs[8];

	for (int i = 0; i < 8; i++)
		jobs[i] = job_new();
	for (int way = 0; way < 3; way++) {
		uint64_t nr_steps, nr_drafts;
		struct rig g;

		cfg.max_seqs = 8;
		cfg.max_step_tokens = way == 0 ? 8 : 64;
		cfg.max_step_logits = way == 1 ? 8 : way == 2 ? 11 : 64;
		rig_open(&g, cfg);
		g.o->always[0] = g.o->always[1] = 9;
		for (int i = 0; i < 8; i++) {
			job_random(jobs[i], &r, 1, 1);
			jobs[i]->call.req.max_tokens = 50;
			jobs[i]->call.req.nr_slots = 64;
			submit(&g, jobs[i]);
		}
		while (jobs[0]->nr_out < 10)
			fh_fake_poll(g.f, true);
		nr_steps = g.o->nr_steps;
		nr_drafts = g.o->nr_drafts;
		for (int i = 0; i < 8; i++)
			cr_assert_geq(atomic_load(&jobs[i]->call.req.tail), nr_steps < 10 ? nr_steps : 10);
		if (way < 2)
			cr_assert_eq(nr_drafts, 0);
		else
			cr_assert(nr_drafts > 0 && nr_drafts <= 3 * nr_steps);
		while (fh_fake_poll(g.f, true))
			;
		for (int i = 0; i < 8; i++)
			cr_assert_eq(jobs[i]->nr_out, 50);
		rig_close(&g);
	}
	for (int i = 0; i < 8; i++)
		job_free(jobs[i]);
}

/* A text that says nothing twice costs no guess once that is known, and the first right one is noticed. */
Test(engine_spec, what_does_not_pay_stops)
{
	struct fh_engine_config cfg = rig_config_guessing();
	struct job *j = job_new();
	struct rng r = {4};
	uint64_t nr_drafts;
	struct rig g;

	cfg.spec_cost = 0.2f;
	cfg.spec_tokens = 8;
	rig_open(&g, cfg);
	/* Places that look like the end of the text are found, and what followed them is never what follows. */
	for (int i = 0; i < 5; i++) {
		job_init(j);
		j->call.req.nr_prompt = 200;
		j->call.req.max_tokens = 700;
		j->call.req.ignore_eos = true;
		j->call.req.sampling.seed = (uint64_t)i;
		for (uint32_t k = 0; k < 200; k++)
			j->prompt[k] = ID_BYTE + rnd(&r, 4);
		run(&g, j);
	}
	cr_assert_lt(stats(&g).draft_tokens, 100);
	nr_drafts = stats(&g).draft_tokens;
	job_init(j);
	j->call.req.nr_prompt = 10;
	j->call.req.max_tokens = 700;
	g.o->always[0] = g.o->always[1] = 9;
	run(&g, j);
	cr_assert_gt(stats(&g).draft_tokens - nr_drafts, 500);
	rig_close(&g);
	job_free(j);
}

/*
 * Where guesses were wrong for long and none is made, what would have been
 * guessed is still compared: when it begins to be right, guesses are made again.
 */
Test(engine_spec, what_begins_to_pay_is_noticed)
{
	static uint32_t script[680];
	struct fh_engine_config cfg = rig_config_guessing();
	struct job *j = job_new();
	struct rng r = {4};
	uint64_t nr_drafts, nr_right;
	struct rig g;

	cfg.spec_cost = 0.25f;
	for (uint32_t i = 0; i < 680; i++) {
		/* First ten letters at random, then "abcde" with something between that never stood there before. */
		script[i] = ID_BYTE + rnd(&r, 10);
		if (i >= 500)
			script[i] = i % 6 ? 50 + i % 6 : ID_BYTE + 10 + (i - 500) / 6;
	}
	rig_open(&g, cfg);
	g.o->script = script;
	job_init(j);
	j->call.req.nr_prompt = 1;
	j->call.req.max_tokens = 680;
	j->call.req.nr_slots = 1024;
	j->call.req.ignore_eos = true;
	submit(&g, j);
	while (j->nr_out < 480)
		fh_fake_poll(g.f, true);
	nr_drafts = stats(&g).draft_tokens;
	nr_right = stats(&g).accepted_tokens;
	while (fh_fake_poll(g.f, true))
		;
	cr_assert_arr_eq(j->out, script, sizeof(script));
	cr_assert_lt(nr_drafts, 30, "%lu guesses in random letters", nr_drafts);
	cr_assert_gt(stats(&g).accepted_tokens - nr_right, 15, "%lu guesses were right",
		     stats(&g).accepted_tokens - nr_right);
	rig_close(&g);
	job_free(j);
}

/* An accelerator that cannot verify is asked for nothing. */
Test(engine_spec, without_a_device_that_can)
{
	struct job *j = job_new();
	struct rng r = {4};
	struct rig g;

	rig_open_on(&g, rig_config_guessing(), RIG_NO_DRAFTS);
	for (int i = 0; i < 20; i++) {
		job_loop(j, &r, 200);
		run(&g, j);
		job_check(j, 1024);
	}
	cr_assert_eq(stats(&g).draft_tokens, 0);
	cr_assert_eq(g.o->nr_drafts, 0);
	rig_close(&g);
	job_free(j);
}

/* A draft model that knows the text but for every fifth token, in text that never repeats itself. */
Test(engine_spec, a_draft_model)
{
	struct fh_engine_config cfg = rig_config_guessing();
	struct rng r = {31};
	struct job *jobs[16];

	for (int i = 0; i < 16; i++)
		jobs[i] = job_new();
	for (int way = 0; way < 3; way++) {
		struct fh_engine_stats st;
		uint64_t nr_tokens = 0;
		struct rig g;

		cfg.max_step_tokens = 128;
		cfg.max_step_logits = 100;
		cfg.prefix_cache = way != 1;
		/* Blocks that are shared, given up and found again; drafts of which only some have room. */
		if (way == 2) {
			cfg.nr_blocks = 30;
			cfg.max_step_tokens = 50;
			cfg.max_step_logits = 40;
		}
		rig_open_on(&g, cfg, RIG_DRAFT_MODEL);
		for (int round = 0; round < 30; round++) {
			int nr = round % 3 ? 16 : 1;

			for (int i = 0; i < nr; i++) {
				struct fh_request *q = &jobs[i]->call.req;

				if (round % 2)
					job_loop(jobs[i], &r, 200);
				else
					job_random(jobs[i], &r, 300, 200);
				q->nr_slots = 1u << rnd(&r, 7);
				q->min_tokens = rnd(&r, 3) ? 0 : rnd(&r, 100);
				q->sampling.logprobs = rnd(&r, 2);
				q->sampling.nr_top = rnd(&r, 4);
				submit(&g, jobs[i]);
			}
			while (fh_fake_poll(g.f, true))
				;
			for (int i = 0; i < nr; i++) {
				job_check(jobs[i], 1024);
				nr_tokens += jobs[i]->nr_out;
			}
		}
		st = stats(&g);
		cr_assert(st.accepted_tokens > nr_tokens / (way == 2 ? 5 : 3),
			  "way %d: %lu of %lu tokens were guessed, %lu tried", way, st.accepted_tokens, nr_tokens,
			  st.draft_tokens);
		cr_assert_gt(g.draft->nr_steps, 100);
		if (way == 2)
			cr_assert_gt(st.nr_preempted, 10);
		rig_close(&g);
	}
	for (int i = 0; i < 16; i++)
		job_free(jobs[i]);
}

/* What a prefix's first request computed with the draft model, the next ones find. */
Test(engine_spec, a_draft_model_shares_prefixes)
{
	struct fh_engine_config cfg = rig_config_guessing();
	struct job *j = job_new();
	struct rng r = {8};
	uint64_t nr_first = 0;
	struct rig g;

	rig_open_on(&g, cfg, RIG_DRAFT_MODEL);
	for (int i = 0; i < 4; i++) {
		uint64_t nr = g.draft->nr_computed;

		job_init(j);
		j->call.req.nr_prompt = 400 + (uint32_t)i;
		j->call.req.max_tokens = 40;
		j->call.req.ignore_eos = true;
		for (uint32_t k = 0; k < 400; k++)
			j->prompt[k] = ID_BYTE + k * k % 60;
		j->prompt[400] = j->prompt[401] = j->prompt[402] = ID_BYTE + rnd(&r, 60);
		run(&g, j);
		job_check(j, 1024);
		nr = g.draft->nr_computed - nr;
		if (!i)
			nr_first = nr;
		cr_assert(i ? nr < 150 : nr > 400, "request %d: the draft model computed %lu tokens", i, nr);
	}
	cr_assert_gt(nr_first, 0);
	rig_close(&g);
	job_free(j);
}

/*
 * A request that begins with what another one has just said: the block that both
 * hold then is not written while they are in one batch (the oracle looks).
 */
Test(engine_spec, a_draft_model_leaves_shared_blocks_alone)
{
	struct job *a = job_new(), *b = job_new();
	struct rng r = {12};
	uint32_t nr_together = 0;

	for (uint32_t len = 20; len < 64; len++) {
		struct rig g;

		rig_open_on(&g, rig_config_guessing(), RIG_DRAFT_MODEL);
		g.draft->blur = 0;
		job_random(a, &r, 1, 1);
		a->call.req.nr_prompt = len;
		a->call.req.max_tokens = 150;
		a->call.req.nr_slots = 256;
		a->call.req.ignore_eos = true;
		for (uint32_t i = 0; i < len; i++)
			a->prompt[i] = rnd(&r, NR_VOCAB);
		submit(&g, a);
		while (len + a->nr_out < 65)
			fh_fake_poll(g.f, true);
		job_init(b);
		memcpy(b->prompt, a->prompt, len * sizeof(*a->prompt));
		memcpy(b->prompt + len, a->out, (65 - len) * sizeof(*a->out));
		b->call.req.nr_prompt = 65;
		b->call.req.max_tokens = 100;
		b->call.req.ignore_eos = true;
		submit(&g, b);
		while (fh_fake_poll(g.f, true))
			;
		job_check(a, 1024);
		job_check(b, 1024);
		nr_together += b->call.req.nr_cached_prompt == 64;
		rig_close(&g);
	}
	cr_assert_gt(nr_together, 20);
	job_free(a);
	job_free(b);
}

/* Its device is lost in the middle: everything goes on without it. */
Test(engine_spec, a_draft_model_that_fails)
{
	struct job *j = job_new();
	struct rng r = {6};

	for (uint64_t at = 1; at < 40; at++) {
		struct rig g;

		rig_open_on(&g, rig_config_guessing(), RIG_DRAFT_MODEL);
		g.draft->fail_at = at;
		for (int i = 0; i < 3; i++) {
			job_random(j, &r, 60, 200);
			j->call.req.ignore_eos = true;
			j->call.req.max_tokens = 100;
			run(&g, j);
			job_check(j, 1024);
		}
		cr_assert_eq(g.draft->nr_steps, at);
		rig_close(&g);
	}
	job_free(j);
}

/* One that is always wrong is asked less and less. */
Test(engine_spec, a_draft_model_that_does_not_pay)
{
	struct fh_engine_config cfg = rig_config_guessing();
	struct job *j = job_new();
	struct rng r = {6};
	struct rig g;

	cfg.spec_cost = 0.2f;
	rig_open_on(&g, cfg, RIG_DRAFT_MODEL);
	g.draft->blur = 16;
	job_random(j, &r, 60, 200);
	j->call.req.ignore_eos = true;
	j->call.req.max_tokens = 900;
	run(&g, j);
	job_check(j, 1024);
	cr_assert_lt(stats(&g).draft_tokens, 60);
	g.draft->blur = 0;
	job_random(j, &r, 60, 200);
	j->call.req.ignore_eos = true;
	j->call.req.max_tokens = 900;
	run(&g, j);
	job_check(j, 1024);
	cr_assert_gt(stats(&g).accepted_tokens, 600);
	rig_close(&g);
	job_free(j);
}

/* The null model echoes its prompt, the best that can happen to a guess. */
Test(engine_spec, the_null_model)
{
	struct fh_model m = {.name = "null", .null = true, .nr_vocab = 1000, .nr_ctx = 512};
	struct fh_accel_config acfg = {
		.max_seqs = 4, .max_tokens = 64, .max_logits = 40, .max_blocks_per_seq = 512 / FH_KV_BLOCK};
	struct job *j = job_new();
	struct fh_err err = {0};

	for (int guessing = 0; guessing < 2; guessing++) {
		struct fh_engine_config cfg = rig_config_guessing();
		struct fh_service svc = {.submit = rig_submit, .kick = rig_kick};
		struct fh_engine_stats st;
		struct fh_accel *a;
		struct rig g = {0};

		cr_assert_eq(fh_accel_null.open(&acfg, &a, &err), 0, "%s", err.msg);
		cr_assert_eq(a->ops->load(a, &m, &err), 0);
		cr_assert_eq(a->ops->kv_alloc(a, 64, &err), 0);
		cfg.accel = a;
		cfg.nr_blocks = 64;
		cfg.nr_ctx = 512;
		cfg.max_seqs = 4;
		cfg.max_step_tokens = 64;
		cfg.max_step_logits = 40;
		cfg.spec_tokens = guessing ? 7 : 0;
		cr_assert_eq(fh_engine_create(&cfg, &g.e, &err), 0, "%s", err.msg);
		svc.ctx = g.e;
		cr_assert_eq(fh_fake_create(&svc, &g.f, &err), 0);
		cr_assert_eq(fh_engine_attach(g.e, fh_fake_frontend(g.f), &err), 0, "%s", err.msg);
		fh_fake_set_pump(g.f, rig_pump, g.e);
		job_init(j);
		j->call.on_text = NULL;
		j->call.req.nr_prompt = 21;
		j->call.req.max_tokens = 400;
		for (uint32_t i = 0; i < 21; i++)
			j->prompt[i] = i * 31;
		run(&g, j);
		cr_assert_eq(j->nr_out, 400);
		for (uint32_t i = 0; i < 400; i++)
			cr_assert_eq(j->out[i], j->prompt[i % 21], "token %u", i);
		st = stats(&g);
		cr_assert(guessing ? st.accepted_tokens > 300 && st.nr_steps < 80 : st.nr_steps >= 400,
			  "%lu steps, %lu guesses right", st.nr_steps, st.accepted_tokens);
		fh_engine_stop(g.e, 0);
		cr_assert(fh_engine_check(g.e));
		fh_engine_detach(g.e, fh_fake_frontend(g.f));
		fh_engine_destroy(g.e);
		fh_fake_destroy(g.f);
		a->ops->close(a);
	}
	job_free(j);
}
