// SPDX-License-Identifier: Apache-2.0
/* The scheduler's promises, over a million random states. */
#include <criterion/criterion.h>
#include <string.h>

#include "runtime/sched/sched.h"

enum { MAX = 40 };

static uint64_t rng_state = 0x1234567887654321u;

static uint32_t rng(uint32_t below)
{
	rng_state ^= rng_state << 13;
	rng_state ^= rng_state >> 7;
	rng_state ^= rng_state << 17;
	return (uint32_t)((rng_state * 2685821657736338717u >> 32) % below);
}

Test(sched, plans_keep_to_their_limits)
{
	for (int round = 0; round < 1000000; round++) {
		struct fh_sched_limits lim = {.max_step_tokens = 1 + rng(64), .prefill_chunk = 1 + rng(32)};
		uint32_t nr = rng(12), take[MAX], sum = 0, nr_decode = 0, left_out = 0, planned;
		struct fh_sched_seq s[MAX];
		bool someone_waits = false;
		uint32_t nr_prompt_tokens = 0;

		lim.prefill_beside = rng(3) ? 0 : 1 + rng(40);
		for (uint32_t i = 0; i < nr; i++) {
			s[i] = (struct fh_sched_seq){.ticket = i, .nr_left = 1 + (rng(2) ? 0 : rng(100))};
			s[i].stalled_ns = rng(4) ? 0 : 1;
			nr_decode += !s[i].stalled_ns && s[i].nr_left == 1;
		}
		planned = fh_sched_plan(&lim, s, nr, rng(1000), take);
		for (uint32_t i = 0; i < nr; i++) {
			sum += take[i];
			cr_assert_leq(take[i], s[i].nr_left);
			cr_assert(take[i] <= lim.prefill_chunk || take[i] == 1);
			if (s[i].stalled_ns)
				cr_assert_eq(take[i], 0, "planned without credit");
			if (!s[i].stalled_ns && s[i].nr_left == 1)
				left_out += !take[i];
			/* Prompts in order: nobody gets less than it could while a later one gets something. */
			if (s[i].nr_left > 1)
				nr_prompt_tokens += take[i];
			if (!s[i].stalled_ns && s[i].nr_left > 1) {
				cr_assert(!take[i] || !someone_waits, "overtaken");
				someone_waits |= take[i] < s[i].nr_left && take[i] < lim.prefill_chunk;
			}
		}
		cr_assert_eq(sum, planned);
		if (nr_decode && lim.prefill_beside)
			cr_assert_leq(nr_prompt_tokens, lim.prefill_beside, "decodes wait for prompts");
		cr_assert_leq(sum, lim.max_step_tokens);
		cr_assert_eq(left_out, nr_decode > lim.max_step_tokens ? nr_decode - lim.max_step_tokens : 0,
			     "a decode was left out though there was room");
	}
}

/* More decodes than a step holds: each gets its turn. */
Test(sched, nobody_starves)
{
	struct fh_sched_limits lim = {.max_step_tokens = 3, .prefill_chunk = 8};
	struct fh_sched_seq s[10];
	uint32_t take[10], got[10] = {0};

	memset(s, 0, sizeof(s));
	for (int i = 0; i < 10; i++)
		s[i].nr_left = 1;
	for (uint64_t turn = 0; turn < 100; turn++) {
		cr_assert_eq(fh_sched_plan(&lim, s, 10, turn, take), 3);
		for (int i = 0; i < 10; i++)
			got[i] += take[i];
	}
	for (int i = 0; i < 10; i++)
		cr_assert_eq(got[i], 30);
}

/* The cost of prompts is measured, and with it how many tokens fit beside decodes in a given time. */
Test(sched, prompts_are_cut_to_the_time_that_decodes_can_wait)
{
	struct fh_sched_cost cost = {0};

	cr_assert_geq(fh_sched_prefill_beside(&cost, 50000), 1000000, "nothing is known yet");
	for (int i = 0; i < 200; i++)
		fh_sched_measured(&cost, 256, 0, 256 * 1000000ull);
	cr_assert_float_eq((double)fh_sched_prefill_beside(&cost, 50000), 50, 1);
	/* Steps of decodes say nothing. */
	for (int i = 0; i < 200; i++)
		fh_sched_measured(&cost, 30, 20, 30 * 9000000ull);
	cr_assert_float_eq((double)fh_sched_prefill_beside(&cost, 50000), 50, 1);
	for (int i = 0; i < 200; i++)
		fh_sched_measured(&cost, 256, 8, 256 * 50000000ull);
	cr_assert_eq(fh_sched_prefill_beside(&cost, 50000), 16, "never less than is worth the while");
}

Test(sched, order_is_by_class_then_arrival)
{
	cr_assert_lt(fh_sched_order(FH_CLASS_INTERACTIVE, 9, FH_CLASS_STANDARD, 1), 0);
	cr_assert_lt(fh_sched_order(FH_CLASS_STANDARD, 9, FH_CLASS_BATCH, 1), 0);
	cr_assert_lt(fh_sched_order(FH_CLASS_BATCH, 1, FH_CLASS_BATCH, 2), 0);
	cr_assert_gt(fh_sched_order(FH_CLASS_BATCH, 1, FH_CLASS_INTERACTIVE, 2), 0);
	cr_assert_eq(fh_sched_order(FH_CLASS_STANDARD, 3, FH_CLASS_STANDARD, 3), 0);
}

Test(sched, victims)
{
	const struct fh_sched_limits lim = {.stall_us = 50000};
	const uint64_t now_ns = 1000000000u;
	struct fh_sched_seq s[4];

	memset(s, 0, sizeof(s));
	cr_assert_eq(fh_sched_victim(&lim, s, 4, false, now_ns), 4, "nobody holds anything");
	for (int i = 0; i < 4; i++)
		s[i].nr_held = 2;
	cr_assert_eq(fh_sched_victim(&lim, s, 4, false, now_ns), 3, "the last in order");
	cr_assert_eq(fh_sched_victim(&lim, s, 4, true, now_ns), 4);
	s[1].stalled_ns = now_ns - 40000000;
	cr_assert_eq(fh_sched_victim(&lim, s, 4, false, now_ns), 3, "not stalled for long enough");
	s[1].stalled_ns = now_ns - 60000000;
	cr_assert_eq(fh_sched_victim(&lim, s, 4, false, now_ns), 1);
	cr_assert_eq(fh_sched_victim(&lim, s, 4, true, now_ns), 1);
	s[1].nr_held = 0;
	cr_assert_eq(fh_sched_victim(&lim, s, 4, true, now_ns), 4);
}

Test(sched, the_time_to_retry_follows_the_rate)
{
	struct fh_sched_rate rate = {0};
	uint64_t now_ns = 5000000000u;
	uint32_t first;

	cr_assert_geq(fh_sched_retry_ms(&rate, 0), 1);
	for (int i = 0; i < 500; i++)
		fh_sched_departed(&rate, now_ns += 20000000, false);
	first = fh_sched_retry_ms(&rate, 100);
	cr_assert(first >= 900 && first <= 1100, "51 departures of 20 ms each, not %u ms", first);
	/* A pause in which nobody waited does not count. */
	fh_sched_departed(&rate, now_ns += 20000000, true);
	now_ns += 3600000000000u;
	fh_sched_departed(&rate, now_ns, false);
	cr_assert_eq(fh_sched_retry_ms(&rate, 100), first);
	for (int i = 0; i < 500; i++)
		fh_sched_departed(&rate, now_ns += 10000, false);
	cr_assert_eq(fh_sched_retry_ms(&rate, 100), 1);
	for (int i = 0; i < 500; i++)
		fh_sched_departed(&rate, now_ns += 10000000000u, false);
	cr_assert_eq(fh_sched_retry_ms(&rate, 1000), 60000);
}
