// SPDX-License-Identifier: Apache-2.0
/*
 * The lookup behind prompt-lookup speculation: against a plain search, on
 * tables that other sequences have used, and in time that does not depend on the
 * text.  And what guesses cost and bring, as sched/draft.c reckons it.
 */
#include <criterion/criterion.h>
#include <stdlib.h>
#include <string.h>

#include "runtime/engine/ngram.h"
#include "runtime/sched/draft.h"

static uint64_t rng_state = 88172645463325252u;

static uint32_t rng(uint32_t below)
{
	rng_state ^= rng_state << 13;
	rng_state ^= rng_state >> 7;
	rng_state ^= rng_state << 17;
	return (uint32_t)((rng_state * 2685821657736338717u >> 32) % below);
}

static uint32_t equal_before(const uint32_t *t, uint32_t a, uint32_t b)
{
	uint32_t n = 0;

	while (n < a && n < FH_NGRAM_LONG && t[a - 1 - n] == t[b - 1 - n])
		n++;
	return n;
}

/* The newest of the places with the longest match, among the newest FH_NGRAM_CHAIN that match at all. */
static uint32_t search(const uint32_t *t, uint32_t nr, uint32_t *len)
{
	uint32_t best = 0, seen = 0;

	*len = 0;
	for (uint32_t at = nr - 1; at >= FH_NGRAM && at < nr && seen < FH_NGRAM_CHAIN; at--) {
		uint32_t n = equal_before(t, at, nr);

		if (n < FH_NGRAM)
			continue;
		seen++;
		if (n > *len) {
			*len = n;
			best = at;
		}
	}
	return best;
}

enum { MAX = 4000 };

static struct fh_ngram make(uint32_t nr_ctx)
{
	struct fh_ngram g = {.mask = fh_ngram_heads(nr_ctx) - 1};

	g.head = calloc(g.mask + 1, sizeof(*g.head));
	g.prev = calloc(nr_ctx, sizeof(*g.prev));
	return g;
}

static void drop(struct fh_ngram *g)
{
	free(g->head);
	free(g->prev);
}

/* Alphabets of 1 to a few hundred tokens, looked at after every token or now and then; the table is never cleared. */
Test(ngram, finds_what_a_plain_search_finds)
{
	uint32_t *t = calloc(MAX, sizeof(*t)), nr_found = 0, nr_long = 0, nr_other = 0;
	struct fh_ngram g = make(MAX);

	for (int round = 0; round < 150; round++) {
		uint32_t nr_ids = 1 + (round % 4 ? rng(300) : rng(4)), nr = 0, total = 1 + rng(1500);

		g.nr = 0;
		while (nr < total) {
			uint32_t from, len, want_len, want;

			/* Some of the text is copied from before. */
			if (nr > 40 && !rng(30)) {
				uint32_t src = rng(nr - 30), n = 1 + rng(60);

				for (uint32_t i = 0; i < n && nr < total; i++)
					t[nr++] = t[src + i];
			} else {
				t[nr++] = rng(nr_ids);
			}
			if (rng(4) == 0)
				continue;
			from = fh_ngram_find(&g, t, nr, &len);
			want = search(t, nr, &want_len);
			if (from != want) {
				/* Other n-grams with the same hash used up some of the places looked at. */
				cr_assert_lt(len, want_len, "round %d: %u (%u) not %u (%u)", round, from, len, want,
					     want_len);
				cr_assert(!from || equal_before(t, from, nr) == len);
				nr_other++;
				continue;
			}
			cr_assert_eq(len, want_len);
			nr_found += from != 0;
			nr_long += len == FH_NGRAM_LONG;
		}
	}
	cr_assert(nr_found > 10000 && nr_long > 300 && nr_other < nr_found / 50, "%u found, %u long, %u other",
		  nr_found, nr_long, nr_other);
	drop(&g);
	free(t);
}

/* Whatever an earlier life left: nothing is found that does not stand there. */
Test(ngram, rubbish_in_the_table_is_only_a_hint)
{
	uint32_t *t = calloc(MAX, sizeof(*t));
	struct fh_ngram g = make(MAX);

	for (int round = 0; round < 200; round++) {
		uint32_t len, from;

		for (uint32_t i = 0; i <= g.mask; i++)
			g.head[i] = rng(4) ? rng(MAX) : rng(UINT32_MAX);
		for (uint32_t i = 0; i < MAX; i++)
			g.prev[i] = rng(4) ? rng(MAX) : rng(UINT32_MAX);
		g.nr = 0;
		for (uint32_t nr = 0; nr < 300; t[nr++] = rng(6)) {
			from = fh_ngram_find(&g, t, nr, &len);
			cr_assert(!from || (from >= FH_NGRAM && from < nr && len >= FH_NGRAM));
			cr_assert(!from || equal_before(t, from, nr) == len);
		}
	}
	drop(&g);
	free(t);
}

/* Every token alike: the longest match at once, the newest place. */
Test(ngram, a_text_of_one_token)
{
	static uint32_t t[MAX];
	struct fh_ngram g = make(MAX);
	uint32_t len;

	for (uint32_t nr = FH_NGRAM + 1; nr <= MAX; nr++) {
		cr_assert_eq(fh_ngram_find(&g, t, nr, &len), nr - 1);
		cr_assert_eq(len, nr - 1 < FH_NGRAM_LONG ? nr - 1 : FH_NGRAM_LONG);
	}
	drop(&g);
}

/* ---- what guesses cost and bring ---- */

/* Steps of base + each * tokens, with noise. */
static void feed(struct fh_sched_steps *c, double base_us, double each_us, uint32_t nr, uint32_t least, uint32_t most)
{
	for (uint32_t i = 0; i < nr; i++) {
		uint32_t n = least + rng(most - least + 1);
		double us = (base_us + each_us * n) * (0.97 + rng(61) / 1000.0);

		/* Now and then another process takes the machine for a while. */
		if (!rng(40))
			us *= 10;
		fh_sched_decoded(c, n, (uint64_t)(us * 1000));
	}
}

static uint32_t length(const struct fh_sched_steps *c, double nr_tokens, double trust)
{
	struct fh_sched_draft d = {nr_tokens, fh_sched_step_ns(c, nr_tokens), fh_sched_token_ns(c)};

	return fh_sched_draft(&d, trust, 16);
}

Test(draft, the_line_follows_the_machine)
{
	struct fh_sched_steps c = {0};

	/* Bound by memory: a token more costs a twentieth of the step. */
	feed(&c, 9500, 500, 400, 1, 9);
	cr_assert(fh_sched_token_ns(&c) > 200e3 && fh_sched_token_ns(&c) < 1000e3, "%g", fh_sched_token_ns(&c));
	cr_assert(fh_sched_step_ns(&c, 1) > 8e6 && fh_sched_step_ns(&c, 1) < 14e6, "%g", fh_sched_step_ns(&c, 1));
	cr_assert_geq(length(&c, 1, 0.9), 5);
	/* Bound by arithmetic: each token costs what the first costs. */
	feed(&c, 100, 5000, 400, 1, 9);
	cr_assert(fh_sched_token_ns(&c) > 3500e3, "%g", fh_sched_token_ns(&c));
	cr_assert_eq(length(&c, 1, 0.9), 0);
	/* After hundreds of steps without a guess one is tried again. */
	feed(&c, 100, 5000, 600, 1, 1);
	cr_assert_geq(length(&c, 1, 0.9), 1);
}

Test(draft, guesses_pay_or_are_not_made)
{
	struct fh_sched_steps c = {0};

	/* Nothing measured, or nothing but single tokens: optimistic. */
	cr_assert_geq(length(&c, 1, 0.66), 2);
	feed(&c, 10000, 0, 64, 1, 1);
	cr_assert_geq(length(&c, 1, 0.66), 2);

	memset(&c, 0, sizeof(c));
	feed(&c, 8800, 1200, 400, 1, 9);
	for (uint32_t i = 1; i <= 20; i++)
		cr_assert_geq(length(&c, 1, i * 0.05), length(&c, 1, (i - 1) * 0.05), "more trust, more guesses");
	cr_assert_eq(length(&c, 1, 0.05), 0);
	cr_assert_eq(length(&c, 1, 1), 16);
	/* The more sequences share the step, the less a guess is worth. */
	for (uint32_t n = 2; n < 64; n++)
		cr_assert_leq(length(&c, n, 0.8), length(&c, n - 1, 0.8));
	cr_assert_eq(length(&c, 64, 0.8), 0);
}

/* What is added to a step makes it bring more a second, to the last guess. */
Test(draft, each_guess_raises_the_rate)
{
	for (int round = 0; round < 2000; round++) {
		struct fh_sched_draft d = {1 + rng(20), 1000 + rng(9000), 1 + rng(2000)}, one = d, more;
		double trust = rng(101) / 100.0;
		uint32_t n = fh_sched_draft(&d, trust, 16);

		for (uint32_t i = 0; i < n; i++) {
			double rate = one.tokens / one.ns, p = 1;

			for (uint32_t k = 0; k <= i; k++)
				p *= trust;
			one.tokens += p;
			one.ns += one.token_ns;
			cr_assert_gt(one.tokens / one.ns, rate * (1 - 1e-9));
		}
		cr_assert(one.tokens == d.tokens && one.ns == d.ns);
		more = d;
		cr_assert(n == 16 || fh_sched_draft(&more, trust, 0) == 0);
	}
}

Test(draft, trust_follows_what_was_right)
{
	struct fh_sched_trust t = {0};

	cr_assert(fh_sched_trust(&t) > 0.5 && fh_sched_trust(&t) < 0.8);
	for (int i = 0; i < 20; i++)
		fh_sched_guessed(&t, 8, 8);
	cr_assert_gt(fh_sched_trust(&t), 0.93);
	/* Of a series that failed, only the first wrong one counts, not those after it. */
	for (int i = 0; i < 40; i++)
		fh_sched_guessed(&t, 1, 8);
	cr_assert(fh_sched_trust(&t) > 0.4 && fh_sched_trust(&t) < 0.6, "%g", fh_sched_trust(&t));
	for (int i = 0; i < 20; i++)
		fh_sched_guessed(&t, 0, 1);
	cr_assert_lt(fh_sched_trust(&t), 0.3);
	for (int i = 0; i < 10; i++)
		fh_sched_guessed(&t, 8, 8);
	cr_assert_gt(fh_sched_trust(&t), 0.9);
}
