// SPDX-License-Identifier: Apache-2.0
/*
 * Budgets through the whole engine: requests of several tenants that are
 * preempted, cancelled, refused and cut, with guesses as without, by one thread
 * and by several.  The meter must say what the requests drew, no limit may be
 * exceeded by a token, and what was cut is a beginning of what it would have been.
 */
#include <pthread.h>
#include <unistd.h>

#include "tests/unit/engine_oracle.h"

enum { NR_TENANTS = 3, NR_JOBS = 24, NR_OPS = 40000, NR_CLIENTS = 3, NR_ROUNDS = 250 };

static const uint64_t limit_of[NR_TENANTS + 1] = {0, 60000, 25000, 9000};

static struct fh_budget_table *limits(void)
{
	struct fh_budget_table *t = calloc(1, sizeof(*t) + (NR_TENANTS + 1) * sizeof(t->entry[0]));

	t->nr = NR_TENANTS + 1;
	t->prices = (struct fh_prices){.prompt = 2, .cached = 1, .completion = 3, .reasoning = 5};
	for (uint32_t i = 1; i <= NR_TENANTS; i++)
		t->entry[i].own = (struct fh_budget_limits){.tokens[FH_SPAN_TOTAL] = limit_of[i], .concurrent = 9};
	return t;
}

/* What a request that is over has used: its prompt once a token was drawn, and those that were. */
static uint64_t used(const struct fh_request *r)
{
	return r->nr_generated ? r->nr_prompt + r->nr_generated : 0;
}

static void job_budget(struct job *j, struct rng *r)
{
	job_random(j, r, 150, 400);
	j->call.on_text = NULL;
	j->call.req.ignore_eos = true;
	j->call.req.budget.account[FH_BUDGET_TENANT] = 1 + rnd(r, NR_TENANTS);
	/* More runs than are remembered, and none. */
	memset(j->call.req.run_id, (int)rnd(r, 7), sizeof(j->call.req.run_id));
	j->call.req.budget.run_depth = rnd(r, 3);
}

/* Two pieces of the vocabulary stand for what opens and closes thoughts. */
enum { THINK = ID_BYTE + 20, END_THINK = ID_BYTE + 21 };

/* Of an answer that was read whole: its thoughts, counted by what the reader has. */
static uint32_t nr_thoughts(const struct job *j)
{
	const struct fh_request *r = &j->call.req;
	bool open = false;
	uint32_t nr = 0;

	for (uint32_t i = r->nr_prompt > 4 ? r->nr_prompt - 4 : 0; i < r->nr_prompt; i++)
		open = r->prompt[i] == THINK || (open && r->prompt[i] != END_THINK);
	for (uint32_t i = 0; i < j->nr_out; i++) {
		bool mark = j->out[i] == THINK || j->out[i] == END_THINK;

		nr += open && !mark;
		open = mark ? j->out[i] == THINK : open;
	}
	return nr;
}

struct tally {
	uint64_t tokens[NR_TENANTS + 1];
	uint64_t thoughts[NR_TENANTS + 1];
	uint64_t in_runs[NR_TENANTS + 1]; /* tokens, of requests that say that a run paid, too */
	uint32_t nr_whole, nr_cut, nr_over, nr_cancelled;
};

/* What the engine told of runs. */
struct told {
	struct fh_engine *e;
	uint64_t tokens[NR_TENANTS + 1], requests;
};

static void hear(struct fh_engine *e, struct told *t)
{
	struct fh_run_use u;

	while (fh_engine_next_run_use(e, &u)) {
		cr_assert(u.tenant && u.tenant <= NR_TENANTS && u.id[0] && u.id[0] < 7 && u.depth < 3);
		cr_assert(u.requests <= 1 && u.first_s && u.first_s <= u.last_s && u.reasoning <= u.completion);
		t->tokens[u.tenant] += u.prompt + u.completion;
		t->requests += u.requests;
	}
}

static void settle(struct job *j, uint32_t nr_ctx, struct tally *t)
{
	const struct fh_request *r = &j->call.req;

	t->tokens[r->budget.account[FH_BUDGET_TENANT]] += used(r);
	t->thoughts[r->budget.account[FH_BUDGET_TENANT]] += r->nr_reasoning;
	cr_assert_eq(!!(r->hold.charge.payers & 1u << FH_BUDGET_RUN), r->hold.charge.payers && r->run_id[0]);
	if (r->hold.charge.payers & 1u << FH_BUDGET_RUN)
		t->in_runs[r->budget.account[FH_BUDGET_TENANT]] += used(r);
	if (j->nr_out == r->nr_generated)
		cr_assert_eq(r->nr_reasoning, nr_thoughts(j));
	if (r->error == -EDQUOT) {
		cr_assert_eq(j->call.finish, FH_FINISH_BUDGET);
		cr_assert_eq(r->nr_generated, 0);
		cr_assert_eq(j->nr_out, 0);
		cr_assert_gt(r->budget_word.percent, 0);
		t->nr_over++;
	} else if (j->call.finish == FH_FINISH_BUDGET) {
		cr_assert_eq(j->nr_out, r->nr_generated);
		job_check_begun(j, nr_ctx);
		t->nr_cut++;
	} else if (j->call.finish == FH_FINISH_CANCELLED) {
		job_check_begun(j, nr_ctx);
		t->nr_cancelled++;
	} else {
		job_check(j, nr_ctx);
		t->nr_whole++;
	}
}

static void check_runs(struct fh_engine *e, const struct tally *t, struct told *told)
{
	hear(e, told);
	for (uint32_t i = 1; i <= NR_TENANTS; i++) {
		const struct fh_budget_in_runs *a = &fh_engine_account(e, i)->in_runs;

		cr_expect_eq(atomic_load(&a->prompt) + atomic_load(&a->completion), t->in_runs[i], "tenant %u", i);
		cr_expect_eq(told->tokens[i], t->in_runs[i], "tenant %u", i);
		cr_expect_gt(t->in_runs[i], 100);
	}
	cr_expect_gt(told->requests, 100);
}

static void check_meter(struct fh_engine *e, const struct tally *t)
{
	for (uint32_t i = 1; i <= NR_TENANTS; i++) {
		const struct fh_budget_account *a = fh_engine_account(e, i);
		uint64_t tokens = atomic_load(&a->tokens[FH_SPAN_TOTAL]);

		cr_expect_eq(tokens, t->tokens[i], "tenant %u: the meter says %lu, the requests %lu", i, tokens,
			     t->tokens[i]);
		cr_expect_leq(tokens, limit_of[i]);
		cr_expect_eq(atomic_load(&a->prompt) + atomic_load(&a->completion), tokens);
		cr_expect_eq(atomic_load(&a->money[FH_SPAN_TOTAL]),
			     (atomic_load(&a->prompt) - atomic_load(&a->cached)) * 2 + atomic_load(&a->cached) +
				     atomic_load(&a->completion) * 3 + atomic_load(&a->reasoning) * 2);
		cr_expect_eq(atomic_load(&a->reasoning), t->thoughts[i]);
		cr_expect(t->thoughts[i] > 20, "tenant %u has thought %lu tokens", i, t->thoughts[i]);
		cr_expect_eq(a->held_tokens, 0);
		cr_expect_eq(a->held_money, 0);
		cr_expect_eq(a->nr_inside, 0);
	}
}

static struct fh_engine_config config(bool guessing)
{
	struct fh_engine_config cfg = guessing ? rig_config_guessing() : rig_config();

	cfg.nr_blocks = 40;
	cfg.max_seqs = 12;
	cfg.max_step_tokens = 40;
	cfg.prefill_chunk = 24;
	cfg.nr_ctx = 600;
	cfg.nr_accounts = NR_TENANTS + 1;
	cfg.nr_runs = 4;
	cfg.think_open = THINK;
	cfg.think_close = END_THINK;
	return cfg;
}

static void soak(bool guessing, uint64_t seed)
{
	struct job *job[NR_JOBS] = {0};
	struct tally t = {0};
	struct told told = {0};
	struct rng r = {seed};
	struct rig g;

	rig_open(&g, config(guessing));
	fh_engine_set_budgets(g.e, limits());
	for (uint32_t op = 0; op < NR_OPS; op++) {
		uint32_t i = rnd(&r, NR_JOBS), what = rnd(&r, 100);
		struct fh_err err;
		uint32_t retry_ms;

		if (what < 60) {
			fh_engine_step(g.e);
		} else if (what < 75) {
			fh_fake_poll(g.f, false);
		} else if (!job[i]) {
			job[i] = aligned_alloc(_Alignof(struct job), sizeof(struct job));
			job[i]->text = NULL;
			job_budget(job[i], &r);
			job[i]->call.req.sampling.seed += guessing ? ORACLE_LOOPS : 0;
			cr_assert_eq(fh_fake_submit(g.f, &job[i]->call, &retry_ms, &err), 0, "%s", err.msg);
		} else if (what == 99 && rnd(&r, 3) == 0 && !job[i]->call.done) {
			fh_fake_cancel(g.f, &job[i]->call);
		}
		/* The same limits anew, while requests hold some of them. */
		if (op % 997 == 0) {
			fh_engine_set_budgets(g.e, limits());
			hear(g.e, &told);
		}
		for (i = 0; i < NR_JOBS; i++) {
			if (job[i] && job[i]->call.done) {
				settle(job[i], 600, &t);
				free(job[i]);
				job[i] = NULL;
			}
		}
	}
	while (fh_fake_poll(g.f, true))
		;
	for (uint32_t i = 0; i < NR_JOBS; i++) {
		if (job[i])
			settle(job[i], 600, &t);
		free(job[i]);
	}
	check_meter(g.e, &t);
	check_runs(g.e, &t, &told);
	cr_expect(t.nr_whole > 100 && t.nr_cut > 1 && t.nr_over > 20 && t.nr_cancelled > 5,
		  "%u whole, %u cut, %u refused, %u cancelled", t.nr_whole, t.nr_cut, t.nr_over, t.nr_cancelled);
	rig_close(&g);
}

Test(engine_budget, soak, .timeout = 120)
{
	soak(false, 71);
	soak(true, 73);
}

/* ---- several front ends ---- */

struct client {
	struct fh_fake *f;
	pthread_t thread;
	struct tally t;
	uint64_t seed;
};

static void *client_main(void *arg)
{
	struct client *c = arg;
	struct job *j = aligned_alloc(_Alignof(struct job), sizeof(*j));
	struct rng r = {c->seed};
	struct fh_err err;
	uint32_t retry_ms;

	j->text = NULL;
	for (int round = 0; round < NR_ROUNDS; round++) {
		job_budget(j, &r);
		cr_assert_eq(fh_fake_submit(c->f, &j->call, &retry_ms, &err), 0, "%s", err.msg);
		if (rnd(&r, 8) == 0) {
			fh_fake_poll(c->f, false);
			if (!j->call.done)
				fh_fake_cancel(c->f, &j->call);
		}
		fh_fake_wait(c->f, &j->call);
		settle(j, 600, &c->t);
	}
	free(j);
	return NULL;
}

/* The daemon's thread that saves what was used reads along. */
static void *read_main(void *arg)
{
	struct told *told = arg;
	struct fh_engine *e = told->e;
	uint64_t last[NR_TENANTS + 1] = {0};
	struct fh_run_live live;

	for (int n = 0; n < 2000; n++) {
		for (uint32_t i = 1; i <= NR_TENANTS; i++) {
			uint64_t v = atomic_load(&fh_engine_account(e, i)->tokens[FH_SPAN_TOTAL]);

			cr_assert_geq(v, last[i], "a total went back");
			cr_assert_leq(v, limit_of[i]);
			last[i] = v;
		}
		for (uint32_t i = 0; fh_engine_run_live(e, i, &live); i++)
			if (live.turn)
				cr_assert(live.tenant && live.tenant <= NR_TENANTS && live.id[0] && live.id[0] < 7 &&
					  live.id[0] == live.id[15]);
		hear(e, told);
		usleep(20);
	}
	return NULL;
}

Test(engine_budget, several_front_ends_and_limits_that_come_anew, .timeout = 120)
{
	struct client c[NR_CLIENTS] = {0};
	struct tally sum = {0};
	struct told told = {0};
	pthread_t reader;
	struct fh_err err;
	struct rig g;

	rig_open(&g, config(false));
	fh_engine_set_budgets(g.e, limits());
	for (int i = 0; i < NR_CLIENTS; i++) {
		cr_assert_eq(fh_fake_create(&g.svc, &c[i].f, &err), 0);
		cr_assert_eq(fh_engine_attach(g.e, fh_fake_frontend(c[i].f), &err), 0, "%s", err.msg);
		c[i].seed = 100 + (uint64_t)i;
	}
	cr_assert_eq(fh_engine_start(g.e, &err), 0);
	told.e = g.e;
	pthread_create(&reader, NULL, read_main, &told);
	for (int i = 0; i < NR_CLIENTS; i++)
		pthread_create(&c[i].thread, NULL, client_main, &c[i]);
	for (int n = 0; n < 50; n++) {
		fh_engine_set_budgets(g.e, limits());
		usleep(500);
	}
	for (int i = 0; i < NR_CLIENTS; i++)
		pthread_join(c[i].thread, NULL);
	pthread_join(reader, NULL);
	fh_engine_stop(g.e, 1000);
	for (int i = 0; i < NR_CLIENTS; i++) {
		for (int k = 0; k <= NR_TENANTS; k++)
			sum.tokens[k] += c[i].t.tokens[k], sum.thoughts[k] += c[i].t.thoughts[k],
				sum.in_runs[k] += c[i].t.in_runs[k];
		sum.nr_whole += c[i].t.nr_whole;
		sum.nr_cut += c[i].t.nr_cut;
		sum.nr_over += c[i].t.nr_over;
		fh_engine_detach(g.e, fh_fake_frontend(c[i].f));
		fh_fake_destroy(c[i].f);
	}
	check_meter(g.e, &sum);
	check_runs(g.e, &sum, &told);
	cr_expect(sum.nr_whole > 50 && sum.nr_over > 10, "%u whole, %u refused", sum.nr_whole, sum.nr_over);
	rig_close(&g);
}
