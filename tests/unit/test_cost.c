// SPDX-License-Identifier: Apache-2.0
/* The price list of a step: it finds prices, follows changes, and is not fooled by a step that was held up. */
#include <criterion/criterion.h>
#include <math.h>
#include <string.h>

#include "runtime/sched/cost.h"

static uint64_t state = 0x9876543212345679u;

static double unit(void)
{
	state ^= state << 13;
	state ^= state >> 7;
	state ^= state << 17;
	return (double)(state >> 11) / 9007199254740992.0;
}

/* A machine: what it really costs, and how unsteady it is. */
static const double real_ns[FH_NR_COST_TERMS] = {14e6, 2e6, 1.4e6, 0.3e6, 300, 60, 0};

static double real(const struct fh_sched_cost *c, const struct fh_sched_work *w)
{
	return real_ns[0] + real_ns[1] * w->prompt_tokens + real_ns[2] * w->decode_tokens + real_ns[3] * w->seqs +
	       real_ns[4] * w->kv_positions + real_ns[5] * w->pairs +
	       real_ns[6] * fh_sched_cost_experts(c, w->prompt_tokens + w->decode_tokens);
}

static struct fh_sched_work random_work(void)
{
	double nr = floor(unit() * 12), tokens = unit() < 0.4 ? floor(unit() * 256) : 0, at = unit() * 3000;

	if (!nr && !tokens)
		nr = 1;
	return (struct fh_sched_work){.prompt_tokens = tokens,
				      .decode_tokens = nr,
				      .seqs = nr + (tokens > 0 && unit() < 0.3),
				      .kv_positions = nr * (100 + unit() * 1000),
				      .pairs = tokens * (at + tokens / 2)};
}

static void teach(struct fh_sched_cost *c, int nr, double factor, double noise)
{
	for (int i = 0; i < nr; i++) {
		struct fh_sched_work w = random_work();

		fh_sched_cost_measured(c, &w, (uint64_t)(real(c, &w) * factor * (1 + noise * (2 * unit() - 1))));
	}
}

/* The mean error over fresh steps. */
static double error_of(const struct fh_sched_cost *c, double factor)
{
	double sum = 0;

	for (int i = 0; i < 1000; i++) {
		struct fh_sched_work w = random_work();

		sum += fabs(fh_sched_cost_ns(c, &w) / (real(c, &w) * factor) - 1);
	}
	return sum / 1000;
}

Test(cost, prices_are_found)
{
	struct fh_sched_cost c;

	fh_sched_cost_init(&c, 0, 0);
	cr_assert(!fh_sched_cost_known(&c));
	teach(&c, 100, 1, 0.1);
	cr_assert_lt(error_of(&c, 1), 0.05, "after 100 steps: %g", error_of(&c, 1));
	teach(&c, 900, 1, 0.1);
	cr_assert_lt(error_of(&c, 1), 0.02, "after 1000: %g", error_of(&c, 1));
	cr_assert_float_eq(c.ns[FH_COST_PROMPT], 2e6, 0.1e6);
	cr_assert_float_eq(c.ns[FH_COST_STEP] * c.speed, 14e6, 1.5e6);
	/* Its own error is that of the noise. */
	cr_assert(c.error > 0.03 && c.error < 0.07, "%g", c.error);
}

Test(cost, no_price_is_negative_whatever_comes)
{
	struct fh_sched_cost c;

	fh_sched_cost_init(&c, 8, 2);
	for (int i = 0; i < 20000; i++) {
		struct fh_sched_work w = random_work();

		fh_sched_cost_measured(&c, &w, (uint64_t)(unit() * 1e8));
		for (int k = 0; k < FH_NR_COST_TERMS; k++)
			cr_assert(c.ns[k] >= 0 && isfinite(c.ns[k]));
		cr_assert(isfinite(fh_sched_cost_ns(&c, &w)) && fh_sched_cost_ns(&c, &w) >= 0);
	}
}

Test(cost, steps_that_were_held_up_teach_little)
{
	struct fh_sched_cost c;
	double before;

	fh_sched_cost_init(&c, 0, 0);
	teach(&c, 500, 1, 0.05);
	before = error_of(&c, 1);
	for (int i = 0; i < 300; i++) {
		teach(&c, 1, i % 30 ? 1 : 40, 0.05);
	}
	cr_assert_lt(error_of(&c, 1), before + 0.05, "%g, was %g", error_of(&c, 1), before);
}

Test(cost, a_slower_machine_is_followed_within_dozens_of_steps)
{
	struct fh_sched_cost c;

	fh_sched_cost_init(&c, 0, 0);
	teach(&c, 2000, 1, 0.05);
	teach(&c, 150, 2, 0.05);
	cr_assert_lt(error_of(&c, 2), 0.12, "%g", error_of(&c, 2));
	teach(&c, 3000, 1, 0.05);
	cr_assert_lt(error_of(&c, 1), 0.04, "%g", error_of(&c, 1));
}

/* Long after the last prompt its price is still known. */
Test(cost, prices_that_nothing_is_said_about_stay)
{
	struct fh_sched_cost c;
	double before;

	fh_sched_cost_init(&c, 0, 0);
	teach(&c, 1000, 1, 0.02);
	before = c.ns[FH_COST_PROMPT];
	for (int i = 0; i < 200000; i++) {
		struct fh_sched_work w = {.decode_tokens = 4, .seqs = 4, .kv_positions = 2000};

		fh_sched_cost_measured(&c, &w, (uint64_t)(real(&c, &w) * (0.98 + 0.04 * unit())));
	}
	cr_assert_float_eq(c.ns[FH_COST_PROMPT], before, 0.1 * before, "%g, was %g", c.ns[FH_COST_PROMPT], before);
	cr_assert_lt(error_of(&c, 1), 0.1, "%g", error_of(&c, 1));
}

Test(cost, experts_are_read_once)
{
	struct fh_sched_cost c;

	fh_sched_cost_init(&c, 8, 2);
	cr_assert_float_eq(fh_sched_cost_experts(&c, 1), 0.25, 1e-9);
	cr_assert_float_eq(fh_sched_cost_experts(&c, 100), 1, 1e-9);
	fh_sched_cost_init(&c, 0, 0);
	cr_assert_eq(fh_sched_cost_experts(&c, 5), 0);
}

Test(cost, what_fits_takes_that_long)
{
	struct fh_sched_cost c;

	fh_sched_cost_init(&c, 0, 0);
	teach(&c, 500, 1, 0);
	for (int i = 0; i < 1000; i++) {
		double context = unit() * 4000, ns = unit() * 1e9, n = fh_sched_cost_fit(&c, 1, context, ns);

		cr_assert_float_eq(fh_sched_cost_prompt_ns(&c, context, n), ns, 1e-6 * ns + 1);
	}
	cr_assert_eq(fh_sched_cost_fit(&c, 0, 10, -1), 0);
}

/* Keys and values are read once for some tokens together: fewer cost as much. */
Test(cost, a_short_chunk_after_a_long_context_is_no_share_of_a_long_one)
{
	struct fh_sched_cost c;

	fh_sched_cost_init(&c, 0, 0);
	c.ns[FH_COST_PROMPT] = 4e4;
	c.ns[FH_COST_PAIR] = 17;
	c.ns[FH_COST_KV] = 200;
	c.nr_together = 4;
	cr_assert_float_eq(fh_sched_cost_chunks_ns(&c, 4000, 1, 1), 4e4 + 4000.5 * 217, 1);
	cr_assert_float_eq(fh_sched_cost_chunks_ns(&c, 4000, 4, 4), 4 * 4e4 + 4002 * (4 * 17 + 200), 1);
	/* One by one, sixteen read them sixteen times, not four times. */
	cr_assert_float_eq(fh_sched_cost_chunks_ns(&c, 4000, 16, 1), 16 * 4e4 + 4008 * (16 * 17 + 16 * 200), 1);
	for (int i = 0; i < 2000; i++) {
		double context = unit() * 4000, ns = unit() * (i % 2 ? 1e7 : 1e6), n;

		c.nr_together = 1 << (int)(unit() * 6);
		n = fh_sched_cost_fit(&c, 0, context, ns);
		if (n > 0 && n != c.nr_together)
			cr_assert_float_eq(fh_sched_cost_prompt_ns(&c, context, n), ns, 1e-6 * ns + 1,
					   "%g tokens after %g", n, context);
		else
			cr_assert_leq(fh_sched_cost_prompt_ns(&c, context, n), n > 0 ? ns : 0);
	}
}

/* Few tokens read few experts: where all of them are too much, some tokens fit. */
Test(cost, what_fits_reads_its_own_experts_only)
{
	struct fh_sched_cost c;
	uint32_t nr_few = 0;

	fh_sched_cost_init(&c, 8, 2);
	c.ns[FH_COST_PROMPT] = 2e4;
	c.ns[FH_COST_PAIR] = 3;
	c.ns[FH_COST_EXPERTS] = 1e6;
	for (int i = 0; i < 1000; i++) {
		double beside = (int)(unit() * 4), context = unit() * 4000;
		double all_ns = fh_sched_cost_experts_ns(&c, beside, 1e9), ns = unit() * 3 * all_ns;
		double n = fh_sched_cost_fit(&c, beside, context, ns);
		double took = fh_sched_cost_prompt_ns(&c, context, n) + fh_sched_cost_experts_ns(&c, beside, n);

		cr_assert_leq(took, ns * (1 + 1e-9), "%g tokens beside %g take %g of %g", n, beside, took, ns);
		cr_assert_geq(took, 0.99 * ns, "%g tokens beside %g take %g of %g", n, beside, took, ns);
		nr_few += ns < all_ns && n >= 1;
	}
	cr_assert_gt(nr_few, 50, "%u", nr_few);
	cr_assert_eq(fh_sched_cost_fit(&c, 0, 10, -1), 0);
}

/* Between steps: a mean of late, of which no single one makes much. */
Test(cost, what_lies_between_steps_is_no_part_of_them)
{
	struct fh_sched_cost c;

	fh_sched_cost_init(&c, 0, 0);
	fh_sched_cost_between(&c, 50000);
	cr_assert_float_eq(c.gap_ns, 50000, 1);
	fh_sched_cost_between(&c, 100000000);
	cr_assert_float_eq(c.gap_ns, 50000 + 150000 / 64.0, 1);
	for (int i = 0; i < 600; i++)
		fh_sched_cost_between(&c, 20000);
	cr_assert_float_eq(c.gap_ns, 20000, 10);
	cr_assert_eq(c.nr_steps, 0);
}

Test(cost, text_gives_the_same_prices)
{
	struct fh_sched_cost c, d;
	char text[1024];

	fh_sched_cost_init(&c, 8, 2);
	teach(&c, 500, 1, 0.05);
	fh_sched_cost_between(&c, 70000);
	cr_assert_lt(fh_sched_cost_print(&c, text, sizeof(text)), sizeof(text));
	fh_sched_cost_init(&d, 8, 2);
	cr_assert(fh_sched_cost_scan(&d, text));
	cr_assert_float_eq(d.gap_ns, 70000, 1);
	cr_assert_lt(error_of(&d, 1), 0.05);
	/* One step does not overturn them. */
	teach(&d, 1, 3, 0);
	cr_assert_lt(error_of(&d, 1), 0.2, "%g", error_of(&d, 1));
	cr_assert(!fh_sched_cost_scan(&d, ""));
	cr_assert(!fh_sched_cost_scan(&d, "freehold-cost 2\nsteps 5\n"));
	cr_assert(!fh_sched_cost_scan(&d, "freehold-cost 1\n"));
	*strstr(text, "ns_step ") = 'x';
	cr_assert(!fh_sched_cost_scan(&d, text));
}

/* Steps of microseconds by the thousand: one in eight is looked at, which finds the price, and a change of it. */
Test(cost, short_steps)
{
	struct fh_sched_work w = {.decode_tokens = 8, .seqs = 8, .kv_positions = 800};
	uint32_t nr_looked = 0, nr = 0;
	struct fh_sched_cost c;

	fh_sched_cost_init(&c, 0, 0);
	for (; nr < 1024; nr++)
		cr_assert(fh_sched_cost_measured(&c, &w, 20000), "the first are all of use");
	for (; nr < 1024 + 800; nr++)
		nr_looked += fh_sched_cost_measured(&c, &w, 20000);
	cr_assert(nr_looked >= 95 && nr_looked <= 105, "%u", nr_looked);
	cr_assert_float_eq(fh_sched_cost_ns(&c, &w), 20000, 200);
	for (nr = 0; nr < 8 * 2000; nr++)
		fh_sched_cost_measured(&c, &w, 40000);
	cr_assert_float_eq(fh_sched_cost_ns(&c, &w), 40000, 2000);
	/* A few of them that last, and they are no such steps. */
	for (nr = 0; nr < 16; nr++)
		fh_sched_cost_measured(&c, &w, 200000);
	for (nr = 0; nr < 16; nr++)
		cr_assert(fh_sched_cost_measured(&c, &w, 200000));
}

/* Which ones are looked at goes neither by how long they took nor by their place among requests of eight steps. */
Test(cost, short_steps_are_a_fair_sample)
{
	struct fh_sched_work w = {.decode_tokens = 1, .seqs = 1, .kv_positions = 100};
	uint32_t nr_looked = 0, nr_slow = 0, nr_first = 0;
	struct fh_sched_cost c;

	fh_sched_cost_init(&c, 0, 0);
	for (uint32_t i = 0; i < 1024; i++)
		fh_sched_cost_measured(&c, &w, 70000);
	for (uint32_t i = 0; i < 80000; i++) {
		bool slow = i / 8 % 4 == 0 && i % 2, first = i % 8 == 0;

		if (!fh_sched_cost_measured(&c, &w, slow ? 130000 : 70000))
			continue;
		nr_looked++;
		nr_slow += slow;
		nr_first += first;
	}
	cr_assert(nr_looked > 9000 && nr_looked < 11000, "%u", nr_looked);
	cr_assert_float_eq((double)nr_slow / nr_looked, 1.0 / 8, 0.02);
	cr_assert_float_eq((double)nr_first / nr_looked, 1.0 / 8, 0.02);
}
