// SPDX-License-Identifier: Apache-2.0
/*
 * The meter: spans, limits, cuts at the very token, and by chance: thousands of
 * requests that come, draw, are killed and end in any order never use one token
 * or one millionth more than anybody's limit, and what they held comes back.
 */
#include <pthread.h>
#include <criterion/criterion.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "runtime/sched/budget.h"
#include "runtime/trust/charge.h"

#define NOW 1790000000u /* 2026-09-21 13:33:20 UTC */
#define NR_ACCOUNTS 16u
#define NR_RUNS 8u

struct rig {
	struct fh_budget_book book;
	struct fh_budget_account account[NR_ACCOUNTS];
	struct fh_budget_run run[NR_RUNS];
	uint32_t bucket[NR_RUNS];
	struct fh_budget_table *table;
};

static struct rig *rig_up(void)
{
	struct rig *r = calloc(1, sizeof(*r));

	r->table = calloc(1, sizeof(*r->table) + NR_ACCOUNTS * sizeof(r->table->entry[0]));
	r->table->nr = NR_ACCOUNTS;
	fh_budget_init(&r->book, r->account, NR_ACCOUNTS, r->run, r->bucket, NR_RUNS);
	r->book.table = r->table;
	return r;
}

static void rig_down(struct rig *r)
{
	free(r->table);
	free(r);
}

static const uint8_t no_run[16];

static bool enter(struct rig *r, const struct fh_budget_ask *ask, uint32_t prompt, uint32_t most, uint64_t now,
		  struct fh_budget_hold *h, struct fh_budget_word *w)
{
	return fh_budget_enter(&r->book, ask, no_run, prompt, most, now, h, w);
}

Test(budget, spans_end_where_the_calendar_says)
{
	/* A day of each month of four centuries, by the C library's calendar. */
	for (int year = 1970; year < 2370; year++) {
		for (int month = 0; month < 12; month++) {
			struct tm tm = {.tm_year = year - 1900,
					.tm_mon = month,
					.tm_mday = 1 + (year * 7 + month) % 28,
					.tm_hour = 23,
					.tm_min = 59,
					.tm_sec = 59};
			uint64_t now = (uint64_t)timegm(&tm);
			struct tm next = {.tm_year = year - 1900, .tm_mon = month + 1, .tm_mday = 1};

			cr_assert_eq(fh_span_end(FH_SPAN_MONTH, now), (uint64_t)timegm(&next), "%d-%d", year,
				     month + 1);
			cr_assert_eq(fh_span_end(FH_SPAN_DAY, now), now + 1);
			cr_assert_eq(fh_span_end(FH_SPAN_MINUTE, now), now + 1);
			cr_assert_eq(fh_span_end(FH_SPAN_MINUTE, now - 59), now + 1);
		}
	}
	cr_expect_eq(fh_span_end(FH_SPAN_TOTAL, NOW), UINT64_MAX);
}

/* Tokens that a request draws until it is told to stop. */
static uint32_t draw_all(struct rig *r, struct fh_budget_hold *h, uint32_t most, uint64_t now)
{
	uint32_t n = 0;

	fh_budget_prompt(&r->book, h, 0, now);
	while (n < most) {
		n++;
		if (!fh_budget_token(&r->book, h, false, now))
			break;
	}
	return n;
}

Test(budget, an_answer_is_cut_at_the_very_token)
{
	static const uint32_t limits[] = {11, 12, 265, 266, 267, 522, 523, 1000, 5000};

	for (size_t i = 0; i < sizeof(limits) / sizeof(limits[0]); i++) {
		struct fh_budget_ask ask = {.account = {1, 2, 3}};
		struct rig *r = rig_up();
		struct fh_budget_hold h, other;
		struct fh_budget_word w;
		uint32_t retry_s;

		r->table->entry[2].own.tokens[FH_SPAN_DAY] = limits[i];
		cr_assert(enter(r, &ask, 10, 100000, NOW, &h, &w));
		cr_expect_eq(draw_all(r, &h, 100000, NOW), limits[i] - 10);
		/* Nothing is left, and the word says when it will be. */
		cr_expect(!enter(r, &ask, 1, 1, NOW, &other, &w));
		cr_expect_eq(w.kind, FH_BUDGET_USER);
		cr_expect_eq(w.what, FH_BUDGET_TOKENS);
		cr_expect_eq(w.span, FH_SPAN_DAY);
		retry_s = w.retry_s;
		cr_expect_eq(retry_s, 86400 - NOW % 86400);
		cr_expect(!w.never);
		fh_budget_leave(&r->book, &h);
		cr_expect(!enter(r, &ask, 1, 1, NOW + retry_s - 1, &h, &w));
		cr_expect(enter(r, &ask, 1, 1, NOW + retry_s, &h, &w));
		for (int k = 1; k <= 3; k++)
			cr_expect_eq(atomic_load(&r->account[k].tokens[FH_SPAN_TOTAL]), limits[i]);
		rig_down(r);
	}
}

Test(budget, money_by_kind_of_token)
{
	struct fh_budget_ask ask = {.account = {1}};
	struct rig *r = rig_up();
	struct fh_budget_hold h;
	struct fh_budget_word w;

	r->table->prices = (struct fh_prices){.prompt = 5, .cached = 1, .completion = 20};
	r->table->entry[1].own.money[FH_SPAN_MONTH] = 1000;
	cr_assert(enter(r, &ask, 100, 50, NOW, &h, &w));
	cr_expect_eq(r->account[1].held_money, 500 + 25 * 20, "all that there is, and no more");
	fh_budget_prompt(&r->book, &h, 60, NOW);
	cr_expect_eq(atomic_load(&r->account[1].money[FH_SPAN_MONTH]), 40 * 5 + 60);
	/* What the cache saved can be spent on the answer: 740 for 37 tokens. */
	for (int i = 1; i <= 37; i++)
		cr_expect_eq(fh_budget_token(&r->book, &h, false, NOW), i < 37, "token %d", i);
	cr_expect_eq(atomic_load(&r->account[1].money[FH_SPAN_MONTH]), 1000);
	fh_budget_leave(&r->book, &h);
	cr_expect_eq(r->account[1].held_money, 0);
	cr_expect_eq(atomic_load(&r->account[1].cached), 60);
	cr_expect_eq(atomic_load(&r->account[1].completion), 37);
	rig_down(r);
}

/* The dearer price is held and the real one used, whichever of the two thoughts have. */
Test(budget, thoughts_have_a_price_of_their_own)
{
	static const struct fh_prices of[] = {{.completion = 20, .reasoning = 5}, {.completion = 5, .reasoning = 20}};
	struct fh_budget_ask ask = {.account = {1}};
	struct fh_budget_hold h;
	struct fh_budget_word w;

	for (int i = 0; i < 2; i++) {
		struct rig *r = rig_up();
		uint64_t used = 0;
		int nr = 0;

		r->table->prices = of[i];
		r->table->entry[1].own.money[FH_SPAN_MONTH] = 1000;
		cr_assert(enter(r, &ask, 10, 400, NOW, &h, &w));
		cr_expect_eq(r->account[1].held_money, 50 * 20);
		fh_budget_prompt(&r->book, &h, 0, NOW);
		for (bool more = true; more; nr++) {
			bool thought = nr % 3 != 2;

			more = fh_budget_token(&r->book, &h, thought, NOW);
			used += thought ? of[i].reasoning : of[i].completion;
			cr_expect_eq(atomic_load(&r->account[1].money[FH_SPAN_MONTH]), used);
			cr_expect_leq(used + r->account[1].held_money, 1000);
		}
		/* It ends where the next one might have been too dear. */
		cr_expect(used <= 1000 && used > 1000 - 20, "%lu", used);
		cr_expect_eq(atomic_load(&r->account[1].completion), nr);
		cr_expect_eq(atomic_load(&r->account[1].reasoning), nr - nr / 3);
		fh_budget_leave(&r->book, &h);
		cr_expect_eq(r->account[1].held_money, 0);
		rig_down(r);
	}
}

Test(budget, who_waits_for_others_comes_back_soon)
{
	struct fh_budget_ask ask = {.account = {1}};
	struct fh_budget_hold a, b;
	struct rig *r = rig_up();
	struct fh_budget_word w;

	r->table->entry[1].own.tokens[FH_SPAN_MONTH] = 100;
	cr_assert(enter(r, &ask, 50, 50, NOW, &a, &w));
	cr_expect(!enter(r, &ask, 20, 1, NOW, &b, &w));
	cr_expect_eq(w.retry_s, 1, "held by another, who may give it back");
	cr_expect(!enter(r, &ask, 100, 1, NOW, &b, &w));
	cr_expect(w.never, "it can never fit");
	fh_budget_leave(&r->book, &a);
	cr_expect(enter(r, &ask, 20, 1, NOW, &b, &w));
	rig_down(r);
}

Test(budget, requests_concurrency_and_warnings)
{
	struct fh_budget_ask ask = {.account = {1, 0, 2}}, second = {.account = {1, 0, 2}, .prompt_paid = true};
	struct fh_budget_hold h[4];
	struct rig *r = rig_up();
	struct fh_budget_word w;

	r->table->entry[2].own.requests[FH_SPAN_MINUTE] = 3;
	r->table->entry[2].own.soft_percent = 60;
	r->table->entry[1].own.concurrent = 3;
	cr_assert(enter(r, &ask, 1, 1, NOW, &h[0], &w));
	cr_expect_eq(w.percent, 0);
	/* A second choice of the same call is no second request, and its prompt is paid. */
	cr_assert(enter(r, &second, 1000, 1, NOW, &h[1], &w));
	cr_expect_eq(h[1].nr_prompt, 0);
	cr_assert(enter(r, &ask, 1, 1, NOW, &h[2], &w));
	cr_expect_eq(w.percent, 66);
	cr_expect_eq(w.what, FH_BUDGET_REQUESTS);
	cr_expect_eq(w.kind, FH_BUDGET_KEY);
	cr_expect(!enter(r, &ask, 1, 1, NOW, &h[3], &w));
	cr_expect_eq(w.what, FH_BUDGET_CONCURRENT);
	fh_budget_leave(&r->book, &h[0]);
	cr_assert(enter(r, &ask, 1, 1, NOW, &h[3], &w));
	fh_budget_leave(&r->book, &h[1]);
	cr_expect(!enter(r, &ask, 1, 1, NOW, &h[0], &w));
	cr_expect_eq(w.what, FH_BUDGET_REQUESTS);
	cr_expect_eq(w.retry_s, 60 - NOW % 60);
	rig_down(r);
}

Test(budget, runs_are_told_apart_and_cut)
{
	struct fh_budget_ask ask = {.account = {1}}, stranger = {.account = {3}};
	uint8_t one[16] = {1}, two[16] = {2}, id[16] = {9};
	struct fh_budget_hold h, keep;
	struct rig *r = rig_up();
	struct fh_budget_word w;

	r->table->entry[1].run.tokens[FH_SPAN_TOTAL] = 20;
	r->table->entry[1].run.requests[FH_SPAN_TOTAL] = 2;
	r->table->entry[1].run_depth = 3;
	ask.run_depth = 4;
	cr_expect(!fh_budget_enter(&r->book, &ask, one, 1, 1, NOW, &h, &w));
	cr_expect_eq(w.what, FH_BUDGET_DEPTH);
	cr_expect(w.never);
	ask.run_depth = 3;
	cr_assert(fh_budget_enter(&r->book, &ask, one, 5, 100, NOW, &h, &w));
	cr_expect_eq(draw_all(r, &h, 100, NOW), 15);
	fh_budget_leave(&r->book, &h);
	/* Another day changes nothing for a run. */
	cr_expect(!fh_budget_enter(&r->book, &ask, one, 1, 1, NOW + 86400 * 40, &h, &w));
	cr_expect_eq(w.kind, FH_BUDGET_RUN);
	cr_expect(w.never);
	/* The same id is another run of another tenant, and no run at all without an id. */
	cr_expect(fh_budget_enter(&r->book, &ask, two, 1, 1, NOW, &h, &w));
	fh_budget_leave(&r->book, &h);
	cr_expect(fh_budget_enter(&r->book, &stranger, one, 100, 100, NOW, &h, &w));
	fh_budget_leave(&r->book, &h);
	cr_expect(fh_budget_enter(&r->book, &ask, no_run, 100, 100, NOW, &h, &w));
	fh_budget_leave(&r->book, &h);
	/* More runs than are remembered: those under way are kept. */
	cr_assert(fh_budget_enter(&r->book, &ask, id, 1, 1, NOW, &keep, &w));
	for (uint32_t i = 0; i < 10 * NR_RUNS; i++) {
		uint8_t many[16] = {(uint8_t)i, 77};

		cr_assert(fh_budget_enter(&r->book, &ask, many, 1, 1, NOW, &h, &w));
		fh_budget_leave(&r->book, &h);
	}
	cr_expect_eq(keep.of[1]->nr_inside, 1);
	cr_expect_eq(keep.of[1]->held_tokens, 2);
	cr_assert(fh_budget_enter(&r->book, &ask, id, 1, 1, NOW, &h, &w));
	cr_expect_eq(keep.of[1]->nr_inside, 2);
	rig_down(r);
}

/* ---- charges ---- */

/* A long answer: one piece an hour, and the last minute for itself; beyond eight the oldest are put together. */
Test(budget, charges_by_the_hour)
{
	const uint64_t first = 500000 * 3600; /* an hour begins */
	struct fh_budget_ask ask = {.account = {1}};
	struct fh_budget_charge sum = {0};
	struct rig *r = rig_up();
	struct fh_budget_hold h;
	struct fh_budget_word w;
	uint64_t total = 0;

	cr_assert(enter(r, &ask, 10, 100000, first, &h, &w));
	fh_budget_prompt(&r->book, &h, 4, first);
	for (int m = 0; m < 130; m++)
		cr_assert(fh_budget_token(&r->book, &h, false, first + (uint64_t)m * 60 + 59));
	cr_assert_eq(h.charge.payers, 1u << FH_BUDGET_TENANT);
	cr_assert_eq(h.charge.nr, 4);
	cr_expect_eq(h.charge.piece[0].completion, 60);
	cr_expect_eq(h.charge.piece[0].prompt, 10);
	cr_expect_eq(h.charge.piece[0].requests, 1);
	cr_expect_eq(h.charge.piece[1].completion, 60);
	cr_expect_eq(h.charge.piece[1].minute / 60, 500001);
	cr_expect_eq(h.charge.piece[2].completion, 9);
	cr_expect_eq(h.charge.piece[3].completion, 1);
	cr_expect_eq(h.charge.piece[3].minute, first / 60 + 129);
	/* A clock that goes back begins nothing. */
	cr_assert(fh_budget_token(&r->book, &h, false, first));
	cr_expect_eq(h.charge.piece[3].completion, 2);
	for (int hour = 3; hour < 30; hour++)
		cr_assert(fh_budget_token(&r->book, &h, false, first + (uint64_t)hour * 3600));
	cr_expect_eq(h.charge.nr, FH_BUDGET_PIECES);
	cr_expect_eq(h.charge.piece[7].minute, first / 60 + 29 * 60);
	fh_budget_leave(&r->book, &h);
	/* Another of the same call, in the same minutes and one in between. */
	fh_charge_add(&sum, &h.charge);
	fh_charge_now(&h.charge, first + 29 * 3600 + 120)->completion++;
	fh_charge_add(&sum, &h.charge);
	for (uint32_t i = 0; i < sum.nr; i++) {
		total += sum.piece[i].completion + sum.piece[i].prompt;
		cr_expect(!i || sum.piece[i - 1].minute < sum.piece[i].minute);
	}
	cr_expect_eq(total, 2 * (10 + 131 + 27) + 1);
	rig_down(r);
}

Test(budget, charges_that_make_no_sense)
{
	uint8_t many[FH_BUDGET_PIECES * 6 + 6];
	struct fh_record r = {.kind = FH_REC_END};
	struct fh_budget_charge c;

	cr_expect_eq(fh_charge_get(&r, 5, &c), 0);
	cr_expect_eq(c.payers, 0, "nobody");
	r.num[FH_RN_PAYERS] = 16;
	cr_expect_eq(fh_charge_get(&r, 5, &c), -EINVAL, "nobody that is known");
	r.num[FH_RN_PAYERS] = 1;
	cr_expect_eq(fh_charge_get(&r, 5, &c), 0);
	cr_expect_eq(c.piece[0].prompt, 5);
	fh_record_set_str(&r, FH_RS_CHARGES, "\x01\x01\x01\x01\x01", 5);
	cr_expect_eq(fh_charge_get(&r, 5, &c), -EINVAL, "a value is missing");
	fh_record_set_str(&r, FH_RS_CHARGES, "\x01\x01\x01\x01\x01\x81\x00", 7);
	cr_expect_eq(fh_charge_get(&r, 5, &c), -EINVAL, "longer than need be");
	memset(many, 1, sizeof(many));
	for (uint8_t i = 0; i <= FH_BUDGET_PIECES; i++)
		many[6 * i] = 1 + i;
	fh_record_set_str(&r, FH_RS_CHARGES, many, sizeof(many));
	cr_expect_eq(fh_charge_get(&r, 5, &c), -EINVAL, "too many pieces");
	fh_record_set_str(&r, FH_RS_CHARGES, many, sizeof(many) - 6);
	cr_expect_eq(fh_charge_get(&r, 5, &c), 0);
	cr_expect_eq(c.nr, FH_BUDGET_PIECES);
	many[6] = 1;
	cr_expect_eq(fh_charge_get(&r, 5, &c), -EINVAL, "a minute twice");
}

Test(budget, charges_beyond_all_measure)
{
	/* Minute, requests, prompt, cached, completion, money: the largest that is let in of each. */
	const uint64_t most[6] = {1ull << 32, 1ull << 48, 1ull << 48, 1ull << 48, 1ull << 48, 1ull << 60};
	struct fh_record r = {.kind = FH_REC_END, .num[FH_RN_PAYERS] = 1};
	struct fh_budget_charge c;
	uint8_t buf[60];

	for (int beyond = -1; beyond < 6; beyond++) {
		size_t n = 0;

		for (int k = 0; k < 6; k++)
			n += fh_varint_put(buf + n, most[k] + (k == beyond));
		fh_record_set_str(&r, FH_RS_CHARGES, buf, n);
		cr_expect_eq(fh_charge_get(&r, 0, &c), beyond < 0 ? 0 : -EINVAL, "value %d", beyond);
	}
	r.str[FH_RS_CHARGES - 64].n = 0;
	r.num[FH_RN_NR_CACHED] = 6;
	cr_expect_eq(fh_charge_get(&r, 5, &c), -EINVAL, "more of a prompt is cached than there is");
}

/* ---- by chance ---- */

#define NR_CLIENTS 64u
#define NR_OPS 200000u

struct client {
	struct fh_budget_hold h;
	bool inside, read, stopped;
	uint32_t left, account[3], run, prompt;
	uint64_t money; /* of its prompt */
};

static uint32_t rnd(uint64_t *x)
{
	/* xorshift64 (Marsaglia, 2003) */
	*x ^= *x << 13;
	*x ^= *x >> 7;
	*x ^= *x << 17;
	return (uint32_t)(*x >> 32);
}

static void hold_the_line(struct rig *r, const char *when)
{
	for (uint32_t i = 1; i < NR_ACCOUNTS; i++) {
		const struct fh_budget_limits *l = &r->table->entry[i].own;
		const struct fh_budget_account *a = &r->account[i];

		for (int s = 0; s < FH_NR_SPANS; s++) {
			uint64_t tokens = atomic_load(&a->tokens[s]), money = atomic_load(&a->money[s]);

			cr_assert(!l->tokens[s] || tokens + a->held_tokens <= l->tokens[s],
				  "%s: account %u: %lu + %lu > %lu", when, i, tokens, a->held_tokens, l->tokens[s]);
			cr_assert(!l->money[s] || money + a->held_money <= l->money[s], "%s: account %u: money", when,
				  i);
			cr_assert(!l->requests[s] || atomic_load(&a->requests[s]) <= l->requests[s]);
		}
		cr_assert(!l->concurrent || a->nr_inside <= l->concurrent);
	}
	for (uint32_t i = 0; i < r->book.nr_runs_used; i++) {
		const struct fh_budget_run *run = &r->run[i];
		uint64_t most = r->table->entry[run->tenant].run.tokens[FH_SPAN_TOTAL];
		uint64_t tokens = atomic_load(&run->account.tokens[FH_SPAN_TOTAL]);

		cr_assert(!most || tokens + run->account.held_tokens <= most, "%s: run %u", when, i);
	}
}

/* What the audit log says was used: of each account the spans that were paid in last. */
struct ledger {
	uint64_t ends_s[FH_NR_SPANS], tokens[FH_NR_SPANS], money[FH_NR_SPANS], requests[FH_NR_SPANS];
};

static void note(struct ledger *l, const struct fh_budget_piece *p)
{
	for (int s = 0; s < FH_NR_SPANS; s++) {
		uint64_t ends_s = fh_span_end((enum fh_budget_span)s, p->minute * 60);

		if (ends_s < l->ends_s[s])
			continue;
		if (ends_s > l->ends_s[s])
			l->tokens[s] = l->money[s] = l->requests[s] = 0;
		l->ends_s[s] = ends_s;
		l->tokens[s] += p->prompt + p->completion;
		l->money[s] += p->money;
		l->requests[s] += p->requests;
	}
}

/* ---- runs, read by another thread ---- */

struct watched {
	struct fh_budget_book book;
	_Atomic bool end;
	uint64_t nr_seen;
};

/* The id says which tenant's it is, and how many tokens it can have. */
static void *watch_main(void *arg)
{
	struct watched *w = arg;
	struct fh_run_live live;

	while (!atomic_load(&w->end)) {
		for (uint32_t i = 0; fh_budget_run_live(&w->book, i, &live); i++) {
			if (!live.turn)
				continue;
			cr_assert_eq(live.tenant, live.id[0]);
			cr_assert_eq(live.id[15], live.id[8]);
			cr_assert_leq(live.tokens, live.id[8]);
			w->nr_seen++;
		}
	}
	return NULL;
}

Test(budget, runs_are_seen_whole_or_not_at_all)
{
	struct watched w = {0};
	struct fh_budget_account account[4] = {0};
	struct fh_budget_run *run = calloc(8, sizeof(*run));
	uint32_t bucket[8] = {0};
	pthread_t thread;

	fh_budget_init(&w.book, account, 4, run, bucket, 8);
	pthread_create(&thread, NULL, watch_main, &w);
	for (uint32_t n = 0; n < 60000; n++) {
		uint32_t most = n % 41, tenant = 1 + n % 3;
		uint8_t id[16] = {(uint8_t)tenant, (uint8_t)n, (uint8_t)(n >> 8)};
		struct fh_budget_ask ask = {.account = {tenant}};
		struct fh_budget_hold h;
		struct fh_budget_word word;

		id[8] = id[15] = (uint8_t)most;
		cr_assert(fh_budget_enter(&w.book, &ask, id, 1, 100, 1000000, &h, &word));
		for (uint32_t i = 0; i < most; i++)
			fh_budget_token(&w.book, &h, false, 1000000);
		fh_budget_leave(&w.book, &h);
	}
	atomic_store(&w.end, true);
	pthread_join(thread, NULL);
	cr_expect_gt(w.nr_seen, 0);
	cr_expect_eq(account[1].in_runs.requests, 20000);
	cr_expect_eq(account[1].in_runs.completion, account[1].completion);
	free(run);
}

/* Through a record and back, as the log has it; sometimes with a prompt of which the record says otherwise. */
static void log_charge(struct ledger *l, const struct client *k, uint64_t now, uint64_t nr_prompt)
{
	const struct fh_budget_charge *c = &k->h.charge;
	struct fh_record r = {.kind = FH_REC_END}, back;
	uint8_t buf[FH_CHARGE_BYTES], leaf[FH_RECORD_MAX];
	struct fh_budget_charge got;
	size_t at;

	r.num[FH_RN_TIME_US] = now * 1000000 + 5;
	for (uint32_t i = 0; i < c->nr; i++) {
		r.num[FH_RN_NR_GENERATED] += c->piece[i].completion;
		r.num[FH_RN_NR_CACHED] += c->piece[i].cached;
	}
	fh_charge_put(c, nr_prompt, &r, buf);
	cr_assert(!fh_record_decode(leaf, fh_record_encode(&r, leaf), &back, &at));
	cr_assert(!fh_charge_get(&back, nr_prompt, &got));
	cr_assert_eq(got.payers & 7, 7);
	for (uint32_t i = 0; i < got.nr; i++)
		for (int a = 0; a < 3; a++)
			note(&l[k->account[a]], &got.piece[i]);
}

/* The log and the meter agree, in every span that has not ended. */
static void balance(struct rig *r, const struct ledger *l)
{
	for (uint32_t i = 1; i < NR_ACCOUNTS; i++) {
		const struct fh_budget_account *a = &r->account[i];

		for (int s = 0; s < FH_NR_SPANS; s++) {
			bool same = l[i].ends_s[s] == atomic_load(&a->ends_s[s]);

			cr_assert_leq(l[i].ends_s[s], atomic_load(&a->ends_s[s]));
			cr_assert_eq(atomic_load(&a->tokens[s]), same ? l[i].tokens[s] : 0, "account %u, span %d", i,
				     s);
			cr_assert_eq(atomic_load(&a->money[s]), same ? l[i].money[s] : 0);
			cr_assert_eq(atomic_load(&a->requests[s]), same ? l[i].requests[s] : 0);
		}
	}
}

static void chance(uint64_t seed)
{
	struct ledger ledger[NR_ACCOUNTS] = {0};
	struct client *c = calloc(NR_CLIENTS, sizeof(*c));
	uint64_t x = seed, now = NOW, tokens[NR_ACCOUNTS] = {0}, money[NR_ACCOUNTS] = {0}, nr_cut = 0, nr_refused = 0;
	struct rig *r = rig_up();

	r->table->prices = (struct fh_prices){.prompt = 3, .cached = 1, .completion = 7};
	for (uint32_t i = 1; i < NR_ACCOUNTS; i++) {
		struct fh_budget_limits *l = &r->table->entry[i].own;

		for (int s = 0; s < FH_NR_SPANS; s++) {
			l->tokens[s] = rnd(&x) % 3 ? 0 : 1000 + rnd(&x) % 4000 * (1u << 2 * s);
			l->money[s] = rnd(&x) % 3 ? 0 : 5000 + rnd(&x) % 20000 * (1u << 2 * s);
			l->requests[s] = rnd(&x) % 4 ? 0 : 50 * (1u << 3 * s);
		}
		l->concurrent = rnd(&x) % 2 ? 0 : 8;
	}
	for (uint32_t i = 1; i <= 3; i++)
		r->table->entry[i].run.tokens[FH_SPAN_TOTAL] = 3000 + rnd(&x) % 30000;
	for (uint32_t op = 0; op < NR_OPS; op++) {
		struct client *k = &c[rnd(&x) % NR_CLIENTS];
		struct fh_budget_word w;

		if (!k->inside) {
			struct fh_budget_ask ask = {.account = {1 + rnd(&x) % 3, 4 + rnd(&x) % 6, 10 + rnd(&x) % 6},
						    .prompt_paid = rnd(&x) % 16 == 0};
			uint8_t run[16] = {(uint8_t)(rnd(&x) % 12)};

			k->left = rnd(&x) % 8 ? 1 + rnd(&x) % 700 : 0;
			k->read = k->stopped = false;
			k->inside = fh_budget_enter(&r->book, &ask, run, 1 + rnd(&x) % 300, k->left, now, &k->h, &w);
			memcpy(k->account, ask.account, sizeof(k->account));
			k->prompt = k->h.nr_prompt;
			nr_refused += !k->inside;
			cr_assert(k->inside || w.percent);
		} else if (rnd(&x) % 64 == 0 || k->stopped || (k->read && !k->left)) {
			/* Killed, or at its end. */
			fh_budget_leave(&r->book, &k->h);
			k->inside = false;
			log_charge(ledger, k, now, k->prompt);
		} else if (!k->read) {
			uint32_t n = k->h.nr_prompt, cached = n ? rnd(&x) % (n + 1) : 0;

			fh_budget_prompt(&r->book, &k->h, cached, now);
			for (int i = 0; i < 3; i++) {
				tokens[k->account[i]] += n;
				money[k->account[i]] += (n - cached) * 3 + cached;
			}
			k->read = true;
		} else {
			uint32_t n = 1 + rnd(&x) % 40;

			while (n-- && k->left && !k->stopped) {
				k->stopped = !fh_budget_token(&r->book, &k->h, false, now);
				k->left--;
				for (int i = 0; i < 3; i++) {
					tokens[k->account[i]]++;
					money[k->account[i]] += 7;
				}
			}
			nr_cut += k->stopped;
		}
		if (rnd(&x) % 512 == 0)
			now += rnd(&x) % 50 ? rnd(&x) % 90 : 86400;
		hold_the_line(r, "in the midst");
	}
	for (uint32_t i = 0; i < NR_CLIENTS; i++) {
		fh_budget_leave(&r->book, &c[i].h);
		if (c[i].inside)
			log_charge(ledger, &c[i], now, c[i].prompt);
	}
	balance(r, ledger);
	for (uint32_t i = 1; i < NR_ACCOUNTS; i++) {
		cr_assert_eq(r->account[i].held_tokens, 0);
		cr_assert_eq(r->account[i].held_money, 0);
		cr_assert_eq(r->account[i].nr_inside, 0);
		/* The meter says what the clients say. */
		cr_assert_eq(atomic_load(&r->account[i].tokens[FH_SPAN_TOTAL]), tokens[i]);
		cr_assert_eq(atomic_load(&r->account[i].money[FH_SPAN_TOTAL]), money[i]);
		cr_assert_eq(atomic_load(&r->account[i].prompt) + atomic_load(&r->account[i].completion), tokens[i]);
	}
	cr_assert_gt(nr_cut, 0, "nobody was cut: the limits were no limits");
	cr_assert_gt(nr_refused, 0);
	free(c);
	rig_down(r);
}

Test(budget, by_chance_nobody_overspends, .timeout = 120)
{
	const char *check = getenv("FREEHOLD_CHECK");
	uint64_t nr = check && !strcmp(check, "long") ? 40 : 4;

	/* One thread. */
#ifdef __SANITIZE_THREAD__
	nr = 1;
#endif
	for (uint64_t seed = 1; seed <= nr; seed++)
		chance(seed * 0x9e3779b97f4a7c15u);
}
