// SPDX-License-Identifier: Apache-2.0
/* The policy; sched.h says what it is. */
#include "runtime/sched/sched.h"

/* Fewer prompt tokens at a time are no use: the weights are read for 16 in the time that they are read for one. */
#define PREFILL_LEAST 16
#define COST_WEIGHT (1.0 / 16)

/* The share of the newest departure in the average, and what is assumed before there was one. */
#define RATE_WEIGHT (1.0 / 32)
#define RATE_FIRST_NS 10e6

static uint32_t class_rank(uint32_t class)
{
	switch (class) {
	case FH_CLASS_INTERACTIVE: return 0;
	case FH_CLASS_BATCH: return 2;
	default: return 1;
	}
}

int fh_sched_order(uint32_t class_a, uint64_t ticket_a, uint32_t class_b, uint64_t ticket_b)
{
	uint32_t a = class_rank(class_a), b = class_rank(class_b);

	if (a != b)
		return a < b ? -1 : 1;
	return ticket_a < ticket_b ? -1 : ticket_a > ticket_b;
}

uint32_t fh_sched_plan(const struct fh_sched_limits *lim, const struct fh_sched_seq *seqs, uint32_t nr, uint64_t turn,
		       uint32_t *take)
{
	uint32_t left = lim->max_step_tokens, nr_decoding = 0, from = 0, taken;

	for (uint32_t i = 0; i < nr; i++) {
		take[i] = 0;
		nr_decoding += !seqs[i].stalled_ns && seqs[i].nr_left == 1;
	}
	if (nr_decoding > left)
		from = (uint32_t)(turn % nr);
	for (uint32_t k = 0; k < nr && left; k++) {
		uint32_t i = from + k < nr ? from + k : from + k - nr;

		if (!seqs[i].stalled_ns && seqs[i].nr_left == 1) {
			take[i] = 1;
			left--;
		}
	}
	taken = lim->max_step_tokens - left;
	if (nr_decoding && lim->prefill_beside && lim->prefill_beside < left)
		left = lim->prefill_beside;
	for (uint32_t i = 0; i < nr && left; i++) {
		uint32_t n = seqs[i].nr_left;

		if (seqs[i].stalled_ns || n <= 1)
			continue;
		n = n < lim->prefill_chunk ? n : lim->prefill_chunk;
		take[i] = n < left ? n : left;
		left -= take[i];
		taken += take[i];
	}
	return taken;
}

uint32_t fh_sched_victim(const struct fh_sched_limits *lim, const struct fh_sched_seq *seqs, uint32_t nr,
			 bool stalled_only, uint64_t now_ns)
{
	uint32_t last = nr;

	for (uint32_t i = nr; i--;) {
		if (!seqs[i].nr_held)
			continue;
		if (seqs[i].stalled_ns && now_ns - seqs[i].stalled_ns >= (uint64_t)lim->stall_us * 1000)
			return i;
		if (last == nr)
			last = i;
	}
	return stalled_only ? nr : last;
}

void fh_sched_measured(struct fh_sched_cost *cost, uint32_t nr_tokens, uint32_t nr_decoding, uint64_t step_ns)
{
	double each;

	/* Where decodes are the larger part, the step says little about prompts. */
	if (nr_tokens < nr_decoding + PREFILL_LEAST || nr_tokens < 2 * nr_decoding)
		return;
	each = (double)step_ns / nr_tokens;
	cost->prefill_ns = cost->prefill_ns > 0 ? cost->prefill_ns + (each - cost->prefill_ns) * COST_WEIGHT : each;
}

uint32_t fh_sched_prefill_beside(const struct fh_sched_cost *cost, uint32_t us)
{
	double n = cost->prefill_ns > 0 ? us * 1e3 / cost->prefill_ns : 1e9;

	return n < PREFILL_LEAST ? PREFILL_LEAST : n > 1e9 ? 1000000000 : (uint32_t)n;
}

void fh_sched_departed(struct fh_sched_rate *rate, uint64_t now_ns, bool idle)
{
	if (rate->last_ns && now_ns >= rate->last_ns) {
		double gap = (double)(now_ns - rate->last_ns);

		rate->interval_ns =
			rate->interval_ns > 0 ? rate->interval_ns + (gap - rate->interval_ns) * RATE_WEIGHT : gap;
	}
	rate->last_ns = idle ? 0 : now_ns;
}

uint32_t fh_sched_retry_ms(const struct fh_sched_rate *rate, uint32_t nr_waiting)
{
	double interval_ns = rate->interval_ns > 0 ? rate->interval_ns : RATE_FIRST_NS;
	double ms = (nr_waiting / 2 + 1) * interval_ns / 1e6;

	return ms < 1 ? 1 : ms > 60000 ? 60000 : (uint32_t)ms;
}
