/* SPDX-License-Identifier: Apache-2.0 */
/*
 * How many tokens to guess: speculation pays while a token more in a step costs
 * less of the step's time than it brings of its tokens.
 *
 * Both sides are measured: what a step takes by the number of its tokens (a
 * line through the last few dozen steps that only decode), and how often the
 * guesses of a sequence were right.  A step that is bound by memory takes hardly
 * longer for some tokens more; in a large batch each costs its full price, and
 * nothing is guessed.
 *
 * Pure functions of state and time, as all of sched.
 */
#ifndef FH_SCHED_DRAFT_H
#define FH_SCHED_DRAFT_H

#include <stdint.h>

/* The cost of steps that only decode: moments of (tokens, ns), weighted towards the newest. Zero-fill to begin. */
struct fh_sched_steps {
	double tokens, ns;	/* means */
	double var_tokens, cov; /* tokens with tokens, tokens with ns */
	uint32_t nr;		/* steps, up to the window */
};

/* A step of @nr_tokens that computed no prompt took @step_ns. */
void fh_sched_decoded(struct fh_sched_steps *c, uint32_t nr_tokens, uint64_t step_ns);

/* One token more in a step, and a step of @nr_tokens. Before the first measurement a step takes 1. */
double fh_sched_token_ns(const struct fh_sched_steps *c);
double fh_sched_step_ns(const struct fh_sched_steps *c, double nr_tokens);

/* How often guesses were right, each counted only if all before it were; forgets. Zero-fill to begin. */
struct fh_sched_trust {
	float nr_tried, nr_right;
};

/* Of one series of guesses @nr_right were right, then one was not unless @nr_right == @nr_guessed. */
void fh_sched_guessed(struct fh_sched_trust *t, uint32_t nr_right, uint32_t nr_guessed);
/* The probability that the next guess is right. */
double fh_sched_trust(const struct fh_sched_trust *t);

/* A step being planned: tokens that it is expected to bring, and its time. */
struct fh_sched_draft {
	double tokens, ns;
	double token_ns; /* of one more */
};

/*
 * How many guesses of a sequence, at most @most, make the step bring more
 * tokens a second, if each is right with probability @trust; they are added to @d.
 */
uint32_t fh_sched_draft(struct fh_sched_draft *d, double trust, uint32_t most);

#endif /* FH_SCHED_DRAFT_H */
