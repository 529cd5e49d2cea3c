/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The scheduler: what the next step does, who may enter, and who must yield.
 *
 * Pure functions of state and time: no clock, thread, socket or allocation, so
 * that the same code runs in the daemon, in tests and in a simulator.  Its view
 * of a sequence is flat and knows nothing of blocks, models or front ends.
 *
 * Today's policy: first come, first served within a class; running sequences
 * decode first, each step; prompts are computed in chunks in what the step's
 * budget leaves, and beside decodes only as many tokens as the measured cost
 * lets through in a bounded time, so that no decode waits behind a prompt.
 * Deadlines travel in the view already and do not yet change the order.
 */
#ifndef FH_SCHED_SCHED_H
#define FH_SCHED_SCHED_H

#include <stdbool.h>
#include <stdint.h>

#include "runtime/base/request.h" /* enum fh_class */

struct fh_sched_limits {
	uint32_t max_step_tokens; /* tokens in one step */
	uint32_t prefill_chunk;	  /* tokens of one prompt in one step */
	uint32_t prefill_beside;  /* tokens of all prompts in a step that also decodes; 0: as many as fit */
	uint32_t stall_us;	  /* a reader that took nothing for so long may lose its blocks to others */
};

/* A sequence, as the scheduler sees it. */
struct fh_sched_seq {
	uint64_t ticket;       /* order of arrival, unique */
	uint64_t arrival_ns;   /* CLOCK_MONOTONIC */
	uint64_t deadline_ns;  /* of its next token; 0: none */
	uint64_t stalled_ns;   /* since when it has had no credit; 0: it has */
	uint32_t nr_left;      /* tokens to compute before the next one is drawn; 1: it decodes */
	uint32_t nr_generated; /* so far */
	uint32_t nr_held;      /* blocks that it would give back */
	uint32_t class;	       /* enum fh_class */
};

/* Order of service: negative when @a goes before @b, never 0 for different tickets. */
int fh_sched_order(uint32_t class_a, uint64_t ticket_a, uint32_t class_b, uint64_t ticket_b);

/*
 * Plan a step.  @seqs: [nr], the running sequences in order of service.
 * take[i]: how many of seqs[i].nr_left are computed; 0 for those without
 * credit.  @turn: a number that grows with each step, so that no sequence is
 * left out for ever where more decode than the budget holds.  Returns the sum.
 */
uint32_t fh_sched_plan(const struct fh_sched_limits *lim, const struct fh_sched_seq *seqs, uint32_t nr, uint64_t turn,
		       uint32_t *take);

/*
 * Who gives up its blocks when they run out: of those whose reader has stalled
 * for long the last in order, else the last of all.  Index, or @nr when nobody
 * holds any.  With @stalled_only only the former.
 */
uint32_t fh_sched_victim(const struct fh_sched_limits *lim, const struct fh_sched_seq *seqs, uint32_t nr,
			 bool stalled_only, uint64_t now_ns);

/* What a prompt's token costs: an average that follows the last few dozen steps. Zero-fill to begin. */
struct fh_sched_cost {
	double prefill_ns;
};

/* A step of @nr_tokens, @nr_decoding of them decodes, took @step_ns. */
void fh_sched_measured(struct fh_sched_cost *cost, uint32_t nr_tokens, uint32_t nr_decoding, uint64_t step_ns);

/* For fh_sched_limits.prefill_beside: tokens that take about @us, and some even where that is too little. */
uint32_t fh_sched_prefill_beside(const struct fh_sched_cost *cost, uint32_t us);

/* How fast requests leave: an average that follows the last few dozen. Zero-fill to begin. */
struct fh_sched_rate {
	double interval_ns; /* between two departures */
	uint64_t last_ns;
};

/* A request was finished, or nobody was waiting (@idle) so that the time until the next one says nothing. */
void fh_sched_departed(struct fh_sched_rate *rate, uint64_t now_ns, bool idle);

/* When a refused client should come back: half of the @nr_waiting will have left. 1 ms to 60 s. */
uint32_t fh_sched_retry_ms(const struct fh_sched_rate *rate, uint32_t nr_waiting);

#endif /* FH_SCHED_SCHED_H */
