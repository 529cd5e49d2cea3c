// SPDX-License-Identifier: Apache-2.0
/*
 * Usage by agent run, by chance: engine, watch and log side by side, and a server that is killed at any moment or ends
 * in order.  Whatever happened, the tables say what the log says.
 */
#include "tests/unit/usage_util.h"

TestSuite(usage_chance, .init = setup, .fini = teardown);

enum { NR_CLIENTS = 12, NR_RUNS = 9, NR_LIVES = 12, NR_OPS = 1500 };

static uint32_t rnd(uint64_t *x)
{
	/* xorshift64 (Marsaglia, 2003) */
	*x ^= *x << 13;
	*x ^= *x >> 7;
	*x ^= *x << 17;
	return (uint32_t)(*x >> 32);
}

struct client {
	struct fh_budget_hold h;
	bool inside;
	uint32_t tenant, run;
	uint64_t begin;
};

struct truth {
	uint64_t requests, completion, reasoning, cached, money;
};

static struct truth truth[4][NR_RUNS + 1]; /* of what has an outcome in the log; run 0: all */

static void tell(struct truth *t, const struct fh_run_use *u)
{
	t->requests += u->requests;
	t->completion += u->completion;
	t->reasoning += u->reasoning;
	t->cached += u->cached;
	t->money += u->money;
}

/* As the engine, then the front end does it. */
static void leave(struct fh_budget_book *book, struct client *k, uint64_t now)
{
	struct fh_record r = {.kind = FH_REC_END, .num[FH_RN_TIME_US] = now * 1000000, .num[FH_RN_REF] = k->begin + 1};
	uint8_t buf[FH_CHARGE_BYTES], id[16];
	struct fh_run_use u;

	run_id(k->run, id);
	cr_assert_eq(fh_budget_run_use(&k->h, id, k->run % 7, now, &u), k->run != 0);
	fh_budget_leave(book, &k->h);
	if (k->run) {
		fh_accounts_run_used(accounts, &u);
		tell(&truth[k->tenant][k->run], &u);
		tell(&truth[k->tenant][0], &u);
	}
	for (uint32_t i = 0; i < k->h.charge.nr; i++) {
		r.num[FH_RN_NR_GENERATED] += k->h.charge.piece[i].completion;
		r.num[FH_RN_NR_CACHED] += k->h.charge.piece[i].cached;
	}
	fh_charge_put(&k->h.charge, 10, &r, buf);
	put(&r);
	k->inside = false;
}

static void step(struct fh_budget_book *book, struct client *k, uint64_t now, uint64_t *x)
{
	struct fh_budget_ask who = {.account = {1 + rnd(x) % 3}};
	struct fh_budget_word w;
	uint8_t id[16] = {0};

	if (!k->inside) {
		k->tenant = who.account[FH_BUDGET_TENANT];
		k->run = rnd(x) % (NR_RUNS + 1);
		if (k->run)
			run_id(k->run, id);
		k->begin = put_begin(now, k->tenant, k->run, k->run % 7);
		k->inside = fh_budget_enter(book, &who, id, 10, 1000000, now, &k->h, &w);
		cr_assert(k->inside);
	} else if (k->h.prompt_due && rnd(x) % 8) {
		fh_budget_prompt(book, &k->h, rnd(x) % 11, now);
	} else if (k->h.prompt_due || rnd(x) % 6 == 0) {
		leave(book, k, now);
	} else {
		for (uint32_t n = rnd(x) % 40; n; n--)
			cr_assert(fh_budget_token(book, &k->h, rnd(x) % 3 == 0, now));
	}
}

static void read_book(const struct fh_budget_book *book)
{
	for (uint32_t i = 1; i < 4; i++) {
		const struct fh_budget_account *a = &book->account[i];

		meter[i].prompt = a->prompt;
		meter[i].cached = a->cached;
		meter[i].completion = a->completion;
		meter[i].reasoning = a->reasoning;
		meter[i].in_runs = (struct fh_account_runs){.requests = a->in_runs.requests,
							    .prompt = a->in_runs.prompt,
							    .cached = a->in_runs.cached,
							    .completion = a->in_runs.completion,
							    .reasoning = a->in_runs.reasoning,
							    .money = a->in_runs.money};
		for (int s = 0; s < FH_NR_SPANS; s++) {
			meter[i].tokens[s] = a->tokens[s];
			meter[i].money[s] = a->money[s];
			meter[i].requests[s] = a->requests[s];
		}
	}
}

static void agree(void)
{
	for (uint32_t t = 1; t < 4; t++) {
		for (uint32_t run = 0; run <= NR_RUNS; run++) {
			const struct truth *w = &truth[t][run];

			if (!w->requests)
				continue;
			cr_expect_eq(of_run(t, run, "requests"), (int64_t)w->requests, "%u %u", t, run);
			cr_expect_eq(of_run(t, run, "completion"), (int64_t)w->completion, "%u %u", t, run);
			cr_expect_eq(of_run(t, run, "reasoning"), (int64_t)w->reasoning, "%u %u", t, run);
			cr_expect_eq(of_run(t, run, "cached"), (int64_t)w->cached, "%u %u", t, run);
			cr_expect_eq(of_run(t, run, "money"), (int64_t)w->money, "%u %u", t, run);
		}
	}
}

/* What the daemon does once a second: how long the log is, then save, then the base, no further than that. */
static void tick(struct fh_budget_book *book, uint64_t now, uint64_t *x)
{
	bool published = rnd(x) % 2 && !fh_log_publish(l);
	uint64_t base = 0, size;
	struct fh_reader r;

	read_book(book);
	save(now);
	if (!published)
		return;
	cr_assert(!fh_reader_open(&r, log_dir, NULL, &err));
	size = r.cp.size;
	base = (uint64_t)ask("SELECT base FROM usage_mark");
	cr_assert(!fh_usage_advance(db, &r, MODEL, now, 1 + rnd(x) % (size - base + 1), &base, &said, &err), "%s",
		  err.msg);
	fh_reader_close(&r);
}

/* A server that is killed at any moment, or ends in order: runs are what the log says, every time. */
Test(usage_chance, the_count_is_the_meter)
{
	static const struct fh_budget_table table = {
		.prices = {.prompt = 3, .cached = 1, .completion = 7, .reasoning = 2}};
	uint64_t x = 20261130, now = NOW;

	for (int life = 0; life < NR_LIVES; life++) {
		struct fh_budget_account account[4] = {0};
		struct fh_budget_run *run = calloc(16, sizeof(*run));
		struct client c[NR_CLIENTS] = {0};
		uint32_t bucket[16] = {0};
		struct fh_budget_book book;

		fh_budget_init(&book, account, 4, run, bucket, 16);
		book.table = &table;
		begin(now);
		agree();
		for (int op = 0; op < NR_OPS; op++) {
			step(&book, &c[rnd(&x) % NR_CLIENTS], now, &x);
			if (rnd(&x) % 64 == 0)
				now += rnd(&x) % 50 ? rnd(&x) % 90 : 3600;
			if (rnd(&x) % 100 == 0)
				tick(&book, now, &x);
		}
		if (life % 3 == 2) {
			for (int i = 0; i < NR_CLIENTS; i++)
				if (c[i].inside)
					leave(&book, &c[i], now);
			read_book(&book);
			save(now);
			end_in_order(now);
			agree();
			cr_expect_eq(ask("SELECT sum(reasoning) FROM measured WHERE name = 'acme'") >=
					     of_run(1, 0, "reasoning"),
				     true);
		} else {
			/* What was saved of answers that never ended is more than any log says, and is of no run. */
			close_it();
		}
		free(run);
	}
	begin(now);
	agree();
	close_it();
	rebuild(false, now);
	agree();
	cr_expect_eq(rebuild(true, now), 0);
}
