// SPDX-License-Identifier: Apache-2.0
/*
 * Budgets at the door and token by token: runtime/sched's meter, with the wall
 * clock and the engine's memory.  All of it on the engine's thread, but for the
 * table of limits, which comes through a box, and counters, which others read.
 */
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "runtime/engine/engine_priv.h"

#define RUN_USES 16384u /* a power of two */

int fh_engine_budget_init(struct fh_engine *e, struct fh_err *err)
{
	uint32_t nr = e->cfg.nr_accounts, nr_runs = 1;
	struct fh_budget_account *account;
	struct fh_budget_run *run;
	uint32_t *bucket;

	if (!nr)
		return 0;
	while (nr_runs < e->cfg.nr_runs)
		nr_runs *= 2;
	e->run_uses.slot = calloc(RUN_USES, sizeof(*e->run_uses.slot));
	/* Touched as they are used. */
	account = calloc(nr, sizeof(*account));
	run = calloc(nr_runs, sizeof(*run));
	bucket = calloc(nr_runs, sizeof(*bucket));
	fh_budget_init(&e->book, account, nr, run, bucket, nr_runs);
	return account && run && bucket && e->run_uses.slot ? 0
							    : fh_errf(err, -ENOMEM, "no memory for %u accounts", nr);
}

void fh_engine_budget_free(struct fh_engine *e)
{
	free(e->book.account);
	free(e->book.run);
	free(e->book.bucket);
	free(e->run_uses.slot);
	free((void *)e->book.table);
	free(atomic_load(&e->new_budgets));
}

void fh_engine_set_budgets(struct fh_engine *e, struct fh_budget_table *t)
{
	free(atomic_exchange(&e->new_budgets, t));
}

const struct fh_budget_account *fh_engine_account(const struct fh_engine *e, uint32_t account)
{
	return account < e->book.nr_accounts ? &e->book.account[account] : NULL;
}

static uint64_t unix_time(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_REALTIME_COARSE, &ts);
	return (uint64_t)ts.tv_sec;
}

void fh_engine_restore_budget(struct fh_engine *e, uint32_t account, enum fh_budget_span span, uint64_t ends_s,
			      uint64_t tokens, uint64_t money, uint64_t requests)
{
	fh_budget_restore(&e->book, account, span, ends_s, tokens, money, requests, unix_time());
}

/* Looked at with each request: whoever was given a new account knows that its limits were here before. */
static void take_table(struct fh_engine *e)
{
	const struct fh_budget_table *old = e->book.table;

	if (!atomic_load_explicit(&e->new_budgets, memory_order_acquire))
		return;
	e->book.table = atomic_exchange(&e->new_budgets, NULL);
	free((void *)old);
}

bool fh_engine_afford(struct fh_engine *e, struct fh_request *r)
{
	if (!e->book.nr_accounts)
		return true;
	take_table(e);
	return fh_budget_enter(&e->book, &r->budget, r->run_id, r->nr_prompt,
			       r->kind == FH_REQ_EMBED ? 0 : r->max_tokens, unix_time(), &r->hold, &r->budget_word);
}

void fh_engine_charge_prompt(struct fh_engine *e, struct fh_request *r)
{
	if (!r->budget.prompt_paid && r->nr_prompt > r->nr_cached_prompt)
		fh_count(&e->st.charged_prompt_tokens, r->nr_prompt - r->nr_cached_prompt);
	if (r->hold.nr)
		fh_budget_prompt(&e->book, &r->hold, r->nr_cached_prompt, unix_time());
}

bool fh_engine_charge_token(struct fh_engine *e, struct fh_request *r, bool thought)
{
	return !r->hold.nr || fh_budget_token(&e->book, &r->hold, thought, unix_time());
}

/* Nobody waits for who takes them: beyond the room the run's own part is not told, and all runs' is in the account. */
static void tell_use(struct fh_engine *e, const struct fh_run_use *use)
{
	struct fh_run_uses *q = &e->run_uses;
	uint32_t tail = atomic_load_explicit(&q->tail, memory_order_relaxed);

	if (tail - q->head_cache >= RUN_USES)
		q->head_cache = atomic_load_explicit(&q->head, memory_order_acquire);
	if (tail - q->head_cache >= RUN_USES)
		return;
	q->slot[tail % RUN_USES] = *use;
	atomic_store_explicit(&q->tail, tail + 1, memory_order_release);
}

bool fh_engine_next_run_use(struct fh_engine *e, struct fh_run_use *out)
{
	struct fh_run_uses *q = &e->run_uses;
	uint32_t head = atomic_load_explicit(&q->head, memory_order_relaxed);

	if (!q->slot || head == atomic_load_explicit(&q->tail, memory_order_acquire))
		return false;
	*out = q->slot[head % RUN_USES];
	atomic_store_explicit(&q->head, head + 1, memory_order_release);
	return true;
}

bool fh_engine_run_live(const struct fh_engine *e, uint32_t i, struct fh_run_live *out)
{
	return fh_budget_run_live(&e->book, i, out);
}

void fh_engine_settle(struct fh_engine *e, struct fh_request *r)
{
	struct fh_run_use use;
	bool of_run;

	if (!r->hold.nr)
		return;
	of_run = fh_budget_run_use(&r->hold, r->run_id, r->budget.run_depth, unix_time(), &use);
	fh_budget_leave(&e->book, &r->hold);
	if (of_run)
		tell_use(e, &use);
}
