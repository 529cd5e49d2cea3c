// SPDX-License-Identifier: Apache-2.0
/*
 * Speculation: tokens are guessed, and the device draws one in the place of each
 * guess in the same step.  Guesses come from what the sequence has said before
 * (ngram.c) or, where that has been right less often, from a draft model
 * (draft.c).
 *
 * A guess never changes what a reader sees.  Guesses stand behind the
 * sequence's own tokens (tokens[nr_tokens ..]) for one step only; those that
 * the device drew as well are accepted one by one, exactly as if each had had
 * its own step, and with the first that it did not draw all others are
 * forgotten.  Guesses take nothing that others need: they get tokens of the
 * step's budget, rows of logits and KV blocks only from what is left when
 * everything else has been planned, and never make anybody lose a block.
 *
 * How many: fh_sched_draft().  Even where none is worth its cost, the first one
 * is looked up and compared afterwards, so that it is noticed for nothing when
 * guessing begins to pay.
 */
#include <string.h>

#include "runtime/engine/engine_priv.h"

/* Tokens without the draft model before it is tried again. */
#define PAUSE_LEAST 16u
#define PAUSE_MOST 512u

/* The longer the match, the better the guess: each kind has its own record. */
static struct fh_sched_trust *trust_of(struct fh_spec *sp, uint32_t len)
{
	return &sp->trust[len < 6 ? 0 : len < 16 ? 1 : 2];
}

/* Guesses that the request allows, whatever they cost. */
static uint32_t limit_of(const struct fh_engine *e, const struct fh_seq *s)
{
	const struct fh_request *r = s->r;
	uint32_t most = e->cfg.spec_tokens, left;

	/* The last sample of a step needs no guess, so each limit loses one. */
	left = r->max_tokens - s->nr_generated - 1;
	if (!left)
		return 0;
	most = left < most ? left : most;
	left = e->nr_ctx - s->nr_tokens - 1;
	most = left < most ? left : most;
	if (r->budget_tokens) {
		uint64_t budget = r->budget_tokens - s->nr_generated - 1;

		most = budget < most ? (uint32_t)budget : most;
	}
	/* All samples of a step share one list of banned tokens. */
	if (s->nr_banned && s->nr_generated < r->min_tokens) {
		left = r->min_tokens - s->nr_generated - 1;
		most = left < most ? left : most;
	}
	left = fh_seq_room(s) - 1;
	return left < most ? left : most;
}

/* Blocks for @nr guesses behind the sequence's tokens; how many of them have one. */
static uint32_t find_blocks(struct fh_engine *e, struct fh_seq *s, uint32_t nr)
{
	while (s->nr_blocks * FH_KV_BLOCK < s->nr_tokens + nr) {
		uint32_t b = fh_engine_take_block(e);

		if (b == FH_NO_BLOCK)
			return s->nr_blocks * FH_KV_BLOCK - s->nr_tokens;
		s->blocks[s->nr_blocks++] = b;
	}
	return nr;
}

/*
 * How many the draft model shall guess for @s.  What it would have said is not
 * known for nothing: where it does not pay, it is asked for one guess after a
 * while, and after twice as long the next time.
 */
static uint32_t ask_model(struct fh_engine *e, struct fh_seq *s, struct fh_sched_draft *d, uint32_t most)
{
	struct fh_spec *sp = &s->spec;
	double token_ns = d->token_ns;
	uint32_t nr;

	if (s->nr_tokens + most > e->draft.nr_ctx)
		return 0;
	if (!(e->cfg.spec_cost > 0))
		d->token_ns += e->draft.guess_ns;
	nr = fh_sched_draft(d, fh_sched_trust(&sp->model), most);
	if (nr) {
		sp->backoff = sp->pause = 0;
	} else if (sp->pause) {
		sp->pause--;
	} else if (fh_sched_draft(d, 1, 1)) {
		sp->backoff = !sp->backoff ? PAUSE_LEAST : sp->backoff < PAUSE_MOST ? 2 * sp->backoff : PAUSE_MOST;
		sp->pause = sp->backoff;
		nr = 1;
	}
	d->token_ns = token_ns;
	return find_blocks(e, s, nr);
}

/* Guess for @s, or leave it to the draft model; returns for how many tokens, at most @left. */
static uint32_t guess(struct fh_engine *e, struct fh_seq *s, struct fh_sched_draft *d, uint32_t left)
{
	struct fh_spec *sp = &s->spec;
	uint32_t most = limit_of(e, s), from, nr;

	if (!most)
		return 0;
	most = left < most ? left : most;
	from = fh_ngram_find(&s->ngram, s->tokens, s->nr_tokens, &sp->len);
	if (from)
		sp->first = s->tokens[from];
	if (e->draft.accel && (!from || fh_sched_trust(trust_of(sp, sp->len)) < fh_sched_trust(&sp->model))) {
		sp->by_model = true;
		return ask_model(e, s, d, most);
	}
	if (!from)
		return 0;
	nr = fh_sched_draft(d, fh_sched_trust(trust_of(sp, sp->len)), most);
	nr = find_blocks(e, s, nr);
	/* What follows the place may be the guesses themselves, where the text is a loop. */
	for (uint32_t i = 0; i < nr; i++)
		s->tokens[s->nr_tokens + i] = s->tokens[from + i];
	return nr;
}

uint32_t fh_spec_plan(struct fh_engine *e)
{
	uint32_t nr_tokens = 0, nr_samples = 0, nr_asked = 0, left, all = 0;
	struct fh_sched_draft d;

	if (!e->cfg.spec_tokens)
		return 0;
	for (uint32_t i = 0; i < e->nr_run; i++) {
		e->run[i]->spec.nr_draft = e->run[i]->spec.len = 0;
		e->run[i]->spec.by_model = false;
		nr_tokens += e->take[i];
		nr_samples += e->take[i] == e->view[i].nr_left;
	}
	left = e->cfg.max_step_tokens - nr_tokens;
	if (left > e->cfg.max_step_logits - nr_samples)
		left = e->cfg.max_step_logits - nr_samples;
	d = (struct fh_sched_draft){.tokens = nr_tokens,
				    .ns = fh_sched_step_ns(&e->steps, nr_tokens),
				    .token_ns = fh_sched_token_ns(&e->steps)};
	if (e->cfg.spec_cost > 0) {
		d.ns = 1;
		d.token_ns = e->cfg.spec_cost;
	}
	for (uint32_t i = 0; i < e->nr_run && left; i++) {
		struct fh_seq *s = e->run[i];
		uint32_t nr;

		if (e->take[i] != 1 || e->view[i].nr_left != 1 || s->r->kind != FH_REQ_GENERATE)
			continue;
		nr = guess(e, s, &d, left);
		s->spec.nr_draft = nr;
		left -= nr;
		all += nr;
		if (nr && s->r->sink && !s->r->nr_stop)
			fh_sink_claim(s->r->sink, nr);
		if (nr && s->spec.by_model)
			e->draft.of[nr_asked++] = s;
	}
	e->draft.ns = 0;
	if (!nr_asked)
		return all;
	fh_draft_run(e, nr_asked);
	all = 0;
	for (uint32_t i = 0; i < e->nr_run; i++)
		all += e->run[i]->spec.nr_draft;
	return all;
}

void fh_spec_learn(struct fh_engine *e, struct fh_seq *s, uint32_t first_token, uint32_t nr_right)
{
	struct fh_counters *st = &e->st;
	struct fh_spec *sp = &s->spec;

	if (sp->len && (!sp->nr_draft || sp->by_model))
		fh_sched_guessed(trust_of(sp, sp->len), first_token == sp->first, 1);
	if (!sp->nr_draft)
		return;
	fh_sched_guessed(sp->by_model ? &sp->model : trust_of(sp, sp->len), nr_right, sp->nr_draft);
	/* The draft model's keys and values behind the first wrong guess are another text's. */
	if (sp->by_model && sp->nr_drafted > s->nr_tokens + nr_right)
		sp->nr_drafted = s->nr_tokens + nr_right;
	fh_count(&st->nr_drafts, 1);
	fh_count(&st->draft_tokens, sp->nr_draft);
	fh_count(&st->accepted_tokens, nr_right);
	for (uint32_t i = 0; i < nr_right; i++)
		fh_count(&st->accepted_at[i], 1);
}
