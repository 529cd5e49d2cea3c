// SPDX-License-Identifier: Apache-2.0
/*
 * The draft model: a smaller model of the same vocabulary that guesses what the
 * large one will say.
 *
 * It has keys and values of its own under the same block numbers, so that block
 * tables, shared prefixes, eviction and preemption are one piece of bookkeeping
 * for both.  spec.nr_drafted says how many positions of a sequence's blocks
 * hold its draft keys and values; whole[] says so of a block that others may
 * find in the prefix cache.  Where the draft model lags behind (a prompt, tokens
 * that it did not guess) it catches up when it is asked again, a bounded piece
 * in each step, one sequence at a time: so nobody writes a block of which
 * another sequence in the same batch has a part.
 *
 * It draws with the request's own sampling and the random numbers of the very
 * positions that it guesses, because the token drawn there has to be the same.
 * Whatever it says is only a guess (spec.c), so its failures cost nothing but
 * time: when its device is lost, the engine goes on without it.
 */
#include <stdlib.h>
#include <string.h>

#include "runtime/base/clock.h"
#include "runtime/base/log.h"
#include "runtime/engine/engine_priv.h"

#define LAG 4u /* tokens, at most, that a sequence catches up with in company */
#define COST_WEIGHT (1.0 / 32)

uint32_t fh_engine_take_block(struct fh_engine *e)
{
	uint32_t b = fh_kv_alloc(&e->kv);

	if (b != FH_NO_BLOCK && b >= e->nr_touched) {
		e->nr_touched = b + 1;
		fh_touch_used(&e->touch, e->nr_touched * e->block_bytes);
		fh_touch_used(&e->touch_draft, e->nr_touched * e->draft_block_bytes);
	}
	if (b != FH_NO_BLOCK && e->draft.whole)
		e->draft.whole[b] = false;
	return b;
}

void fh_draft_keep(struct fh_engine *e, struct fh_seq *s)
{
	for (uint32_t k = 0; e->draft.whole && (k + 1) * FH_KV_BLOCK <= s->spec.nr_drafted; k++)
		e->draft.whole[s->blocks[k]] = true;
}

void fh_draft_replaced(struct fh_engine *e, struct fh_seq *s, uint32_t k)
{
	if (e->draft.whole && !e->draft.whole[s->blocks[k]] && s->spec.nr_drafted > k * FH_KV_BLOCK)
		s->spec.nr_drafted = k * FH_KV_BLOCK;
}

/* Take over what others have computed of its whole blocks. */
static void skip_known(struct fh_engine *e, struct fh_seq *s)
{
	uint32_t k;

	fh_draft_keep(e, s);
	for (k = s->spec.nr_drafted / FH_KV_BLOCK; k < s->nr_known && e->draft.whole[s->blocks[k]]; k++)
		s->spec.nr_drafted = (k + 1) * FH_KV_BLOCK;
}

static void lost(struct fh_engine *e, int error)
{
	fh_error("the draft model's device failed (%s); going on without it", strerror(-error));
	e->draft.accel = NULL;
}

static bool run(struct fh_engine *e, uint32_t nr_seqs, uint32_t nr_tokens)
{
	const struct fh_batch b = {
		.nr_seqs = nr_seqs, .nr_tokens = nr_tokens, .tokens = e->draft.tokens, .seqs = e->draft.batch_seq};
	int ret = e->draft.accel->ops->submit(e->draft.accel, &b);

	if (!ret)
		ret = e->draft.accel->ops->reap(e->draft.accel, true);
	if (ret)
		lost(e, ret);
	return !ret;
}

/* Add tokens @from .. @to of @s to batch entry @i. */
static struct fh_batch_seq *add(struct fh_engine *e, struct fh_seq *s, uint32_t i, uint32_t *nr_tokens, uint32_t from,
				uint32_t to)
{
	struct fh_batch_seq *q = &e->draft.batch_seq[i];

	*q = (struct fh_batch_seq){.seq = s->slot,
				   .q_start = *nr_tokens,
				   .q_len = to - from,
				   .pos = from,
				   .nr_blocks = s->nr_blocks,
				   .blocks = s->blocks};
	memcpy(e->draft.tokens + *nr_tokens, s->tokens + from, (to - from) * sizeof(*s->tokens));
	*nr_tokens += to - from;
	return q;
}

/* Bring @s near its end with at most *@budget tokens; false if that is not enough, or the device is gone. */
static bool catch_up(struct fh_engine *e, struct fh_seq *s, uint32_t *budget)
{
	struct fh_spec *sp = &s->spec;

	skip_known(e, s);
	while (sp->nr_drafted < s->nr_known * FH_KV_BLOCK || s->nr_tokens - sp->nr_drafted > LAG) {
		uint32_t n = s->nr_tokens - 1 - sp->nr_drafted, nr_tokens = 0;

		if (n > e->cfg.prefill_chunk)
			n = e->cfg.prefill_chunk;
		if (n > *budget)
			n = *budget;
		if (!n)
			return false;
		add(e, s, 0, &nr_tokens, sp->nr_drafted, sp->nr_drafted + n);
		if (!run(e, 1, nr_tokens))
			return false;
		*budget -= n;
		sp->nr_drafted += n;
		skip_known(e, s);
	}
	return true;
}

/* Guess number @k of all sequences that want so many; returns how many did, 0 when the device is gone. */
static uint32_t guess_one(struct fh_engine *e, uint32_t nr, uint32_t k)
{
	struct fh_draft *d = &e->draft;
	uint32_t nr_seqs = 0, nr_tokens = 0;

	for (uint32_t i = 0; i < nr; i++) {
		struct fh_seq *s = d->of[i];
		struct fh_batch_seq *q;

		if (s->spec.nr_draft <= k)
			continue;
		q = add(e, s, nr_seqs++, &nr_tokens, s->spec.nr_drafted, s->nr_tokens + k);
		d->sampling[i] = s->r->sampling;
		d->sampling[i].logprobs = false;
		d->sampling[i].nr_top = 0;
		q->sampling = &d->sampling[i];
		q->index = s->nr_generated + k;
		q->history = s->tokens;
		q->nr_prompt = s->nr_prompt;
		q->nr_history = s->nr_tokens + k;
		q->banned = s->banned;
		q->nr_banned = s->nr_generated < s->r->min_tokens ? s->nr_banned : 0;
		q->slot = &d->slot[i];
	}
	if (!nr_seqs || !run(e, nr_seqs, nr_tokens))
		return 0;
	for (uint32_t i = 0; i < nr; i++) {
		struct fh_seq *s = d->of[i];

		if (s->spec.nr_draft <= k)
			continue;
		s->tokens[s->nr_tokens + k] = d->slot[i].token;
		s->spec.nr_drafted = s->nr_tokens + k;
	}
	return nr_seqs;
}

void fh_draft_run(struct fh_engine *e, uint32_t nr)
{
	uint32_t budget = e->cfg.prefill_chunk, nr_guessed = 0, to = 0, k, n;
	uint64_t begin_ns = fh_now_ns(), guess_ns;
	struct fh_draft *d = &e->draft;

	d->ns = 0;
	for (uint32_t i = 0; i < nr; i++) {
		struct fh_seq *s = d->of[i];

		if (d->accel && (to + 1) * LAG <= e->cfg.max_step_tokens && catch_up(e, s, &budget))
			d->of[to++] = s;
		else
			s->spec.nr_draft = 0;
	}
	guess_ns = fh_now_ns();
	for (k = 0; d->accel && (n = guess_one(e, to, k)); k++)
		nr_guessed += n;
	/* What the device did not come to guess. */
	for (uint32_t i = 0; i < to && !d->accel; i++)
		if (d->of[i]->spec.nr_draft > k)
			d->of[i]->spec.nr_draft = k;
	if (nr_guessed) {
		double each = (double)(fh_now_ns() - guess_ns) / nr_guessed;

		d->guess_ns += d->guess_ns > 0 ? (each - d->guess_ns) * COST_WEIGHT : each;
	}
	d->ns = fh_now_ns() - begin_ns;
}

int fh_draft_init(struct fh_engine *e, struct fh_err *err)
{
	struct fh_draft *d = &e->draft;
	struct fh_accel_info info = {0};
	uint32_t n = e->cfg.max_seqs;

	if (!e->cfg.draft || !e->cfg.spec_tokens)
		return 0;
	e->cfg.draft->ops->info(e->cfg.draft, &info);
	if (info.nr_vocab != e->nr_vocab || info.nr_blocks < e->cfg.nr_blocks)
		return fh_errf(err, -EINVAL,
			       "engine: a draft model of %u tokens and %u KV blocks beside a model of %u and %u",
			       info.nr_vocab, info.nr_blocks, e->nr_vocab, e->cfg.nr_blocks);
	d->nr_ctx = info.nr_ctx ? info.nr_ctx : UINT32_MAX;
	d->whole = calloc(e->cfg.nr_blocks, sizeof(*d->whole));
	d->batch_seq = calloc(n, sizeof(*d->batch_seq));
	d->of = calloc(n, sizeof(*d->of));
	d->slot = calloc(n, sizeof(*d->slot));
	d->sampling = calloc(n, sizeof(*d->sampling));
	d->tokens = calloc(e->cfg.max_step_tokens, sizeof(*d->tokens));
	if (!d->whole || !d->batch_seq || !d->of || !d->slot || !d->sampling || !d->tokens)
		return fh_errf(err, -ENOMEM, "engine: no memory for the draft model's batches");
	d->accel = e->cfg.draft;
	return 0;
}

void fh_draft_free(struct fh_engine *e)
{
	struct fh_draft *d = &e->draft;

	free(d->whole);
	free(d->batch_seq);
	free(d->of);
	free(d->slot);
	free(d->sampling);
	free(d->tokens);
}
