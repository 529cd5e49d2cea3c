/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What a step costs: a sum of what it does, each thing at its price, and the
 * prices fitted to the steps that were measured.
 *
 * The fit is least squares over relative errors, with forgetting (older steps
 * count less), by normal equations that each step updates.  Prices are never
 * negative: after each step a few rounds of coordinate descent, each clipped at
 * zero, go on from the last solution; with so few prices that is the exact
 * constrained minimum to all that matters.  A step that is far off is clipped to
 * what is usual (Huber), so that one that was held up teaches little; where all
 * of them are off, the usual grows and they teach.  Prices that the last steps
 * say nothing about stay where they were.
 *
 * A slow machine is slow at everything: the mean of measured over predicted of
 * the last few dozen steps scales each prediction, long before the prices follow.
 *
 * Pure functions of state, as all of sched; whoever has it owns it.
 */
#ifndef FH_SCHED_COST_H
#define FH_SCHED_COST_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum fh_cost_term {
	FH_COST_STEP,	 /* a step, whatever it does: the weights are read once */
	FH_COST_PROMPT,	 /* a token of a prompt */
	FH_COST_DECODE,	 /* a token that is decoded, or a guess that is checked */
	FH_COST_SEQ,	 /* a token that is drawn: logits and sampling */
	FH_COST_KV,	 /* a position whose keys and values are read, by a decode or for some of a prompt's tokens */
	FH_COST_PAIR,	 /* a pair of prompt token and position before it */
	FH_COST_EXPERTS, /* a share of all experts' weights that is read (1: all of them) */
	FH_NR_COST_TERMS,
};

extern const char *const fh_sched_cost_names[FH_NR_COST_TERMS];

/* What a step does. */
struct fh_sched_work {
	double prompt_tokens, decode_tokens, seqs, kv_positions, pairs;
};

struct fh_sched_cost {
	double ns[FH_NR_COST_TERMS];	  /* prices; never negative */
	double mean_ns[FH_NR_COST_TERMS]; /* as they have been of late: what a pull without data goes to */
	double a[FH_NR_COST_TERMS][FH_NR_COST_TERMS], b[FH_NR_COST_TERMS];
	double speed;  /* measured over fitted, of late */
	double gap_ns; /* from a step's end to the beginning of one that follows at once; no part of any step's price */
	double error;  /* mean of |measured / predicted - 1|, of late */
	double spread; /* the same with what is far off clipped: what is usual */
	double nr_experts, nr_used; /* of a layer, and of a token; 0: dense */
	double nr_together; /* tokens of a prompt that keys and values are read for at once; 0: pairs are all there is
			     */
	uint64_t nr_steps;  /* that it was fitted to, in all runs */
	uint32_t nr_fresh;  /* in this one, up to some */
	double lately_ns;   /* what steps took of late */
	uint32_t nr_short;  /* steps that were short, in this one */
};

void fh_sched_cost_init(struct fh_sched_cost *c, uint32_t nr_experts, uint32_t nr_used);

/* Does it know anything? False: predictions are 0. */
static inline bool fh_sched_cost_known(const struct fh_sched_cost *c)
{
	return c->nr_steps != 0;
}

/* Of the experts' weights, the share that @tokens read if they choose alike often. */
double fh_sched_cost_experts(const struct fh_sched_cost *c, double tokens);

/* Time of a step. */
double fh_sched_cost_ns(const struct fh_sched_cost *c, const struct fh_sched_work *w);

/* Time of the experts that @tokens more read in a step that has @beside already. */
double fh_sched_cost_experts_ns(const struct fh_sched_cost *c, double beside, double tokens);

/* How many tokens of a prompt that has @context behind it fit in @ns more, in a step that has @beside already. */
double fh_sched_cost_fit(const struct fh_sched_cost *c, double beside, double context, double ns);
/* How often keys and values are read for @tokens of a prompt, @chunk in a step. */
static inline double fh_sched_cost_passes(const struct fh_sched_cost *c, double tokens, double chunk)
{
	double each = chunk < c->nr_together ? chunk : c->nr_together;

	return !(c->nr_together > 0) || !(tokens > 0) ? 0 : tokens > each ? tokens / each : 1;
}

/* Time that @tokens of a prompt after @context take, @chunk in a step, beside the steps themselves and their experts.
 */
double fh_sched_cost_chunks_ns(const struct fh_sched_cost *c, double context, double tokens, double chunk);
/* The same, in chunks of any size that wastes nothing. */
double fh_sched_cost_prompt_ns(const struct fh_sched_cost *c, double context, double tokens);

/*
 * A step began @ns after the one before, with nothing but work in between: tokens are shown, front ends woken, requests
 * taken in.  Who predicts counts it once a step; a plan begins when it is over.
 */
void fh_sched_cost_between(struct fh_sched_cost *c, uint64_t ns);

/* A step that did @w took @step_ns. False: it was not looked at, because short ones are many. */
bool fh_sched_cost_measured(struct fh_sched_cost *c, const struct fh_sched_work *w, uint64_t step_ns);

/*
 * As text, a line a price, so that the next run begins with what this one
 * knew.  @text: [cap].  Returns its length, or what it would be.
 */
size_t fh_sched_cost_print(const struct fh_sched_cost *c, char *text, size_t cap);
/* Read it again; false, and @c as it was, unless all of it is sane. */
bool fh_sched_cost_scan(struct fh_sched_cost *c, const char *text);

#endif /* FH_SCHED_COST_H */
