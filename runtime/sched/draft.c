// SPDX-License-Identifier: Apache-2.0
/* What guesses cost and bring; draft.h says how it is used. */
#include "runtime/sched/draft.h"

#define WINDOW 64u /* steps that the line goes through */
/*
 * While all steps are alike, nothing is known of their slope: it is taken to be
 * this share of a step's time, as if so much variance of it had been seen.
 * After a few hundred steps without a guess the old slope is forgotten, too,
 * and one is tried again: the machine may have changed.
 */
#define FIRST_SHARE 0.08
#define FIRST_VARIANCE 0.25
/* A step that was held up this many times is no measure. */
#define OUTLIER 4.0

#define TRUST_WINDOW 16.0f
#define TRUST_TRIED 1.5 /* as if so many had been tried before, of which ... */
#define TRUST_RIGHT 1.0

double fh_sched_token_ns(const struct fh_sched_steps *c)
{
	double first = FIRST_SHARE, slope;

	if (!c->nr)
		return first;
	first *= c->ns / (c->tokens > 1 ? c->tokens : 1);
	slope = (c->cov + FIRST_VARIANCE * first) / (c->var_tokens + FIRST_VARIANCE);
	/* No step gets shorter with more tokens, and none costs more for one than a whole one. */
	if (!(slope > c->ns * 1e-3))
		return c->ns * 1e-3;
	return slope < c->ns ? slope : c->ns;
}

double fh_sched_step_ns(const struct fh_sched_steps *c, double nr_tokens)
{
	double ns;

	if (!c->nr)
		return 1;
	ns = c->ns + (nr_tokens - c->tokens) * fh_sched_token_ns(c);
	return ns > c->ns / 16 ? ns : c->ns / 16;
}

void fh_sched_decoded(struct fh_sched_steps *c, uint32_t nr_tokens, uint64_t step_ns)
{
	double ns = (double)step_ns, most = OUTLIER * fh_sched_step_ns(c, nr_tokens), w, dt, dn;

	if (c->nr >= 8 && ns > most)
		ns = most;
	c->nr += c->nr < WINDOW;
	w = 1.0 / c->nr;
	dt = nr_tokens - c->tokens;
	dn = ns - c->ns;
	c->tokens += w * dt;
	c->ns += w * dn;
	c->var_tokens = (1 - w) * (c->var_tokens + w * dt * dt);
	c->cov = (1 - w) * (c->cov + w * dt * dn);
}

void fh_sched_guessed(struct fh_sched_trust *t, uint32_t nr_right, uint32_t nr_guessed)
{
	uint32_t nr_tried = nr_right < nr_guessed ? nr_right + 1 : nr_guessed;

	for (uint32_t i = 0; i < nr_tried; i++) {
		t->nr_tried += 1 - t->nr_tried / TRUST_WINDOW;
		t->nr_right += (i < nr_right) - t->nr_right / TRUST_WINDOW;
	}
}

double fh_sched_trust(const struct fh_sched_trust *t)
{
	return (t->nr_right + TRUST_RIGHT) / (t->nr_tried + TRUST_TRIED);
}

uint32_t fh_sched_draft(struct fh_sched_draft *d, double trust, uint32_t most)
{
	double all_right = trust;
	uint32_t n = 0;

	for (; n < most && all_right * d->ns > d->tokens * d->token_ns; n++, all_right *= trust) {
		d->tokens += all_right;
		d->ns += d->token_ns;
	}
	return n;
}
