// SPDX-License-Identifier: Apache-2.0
/*
 * A batch as the kernels read it: checked, then written into the plan, which one
 * copy takes to the device.
 *
 * The plan's fixed parts lie where the kernels' arguments say, for good.  Behind
 * them is a tail of what differs in length from step to step, one after the
 * other from one base: items of attention, lists of tokens to adjust, block
 * tables, masks.
 */
#include <assert.h>
#include <string.h>

#include "runtime/accel/check.h"
#include "runtime/accel/cuda.h"

/* ---- tokens and attention ---- */

struct planner {
	struct fh_cuda *c;
	const struct fh_batch *b;
	struct cuda_shape *shape;
	struct fhk_cu_token *tokens;
	struct fhk_cu_seq *seqs;
	struct fhk_cu_out *outs;
	struct fhk_cu_item *items; /* the head of the tail */
	uint32_t nr_partials;
};

static void add_item(struct planner *p, uint32_t token, uint32_t nr_q, uint32_t seq, uint32_t split)
{
	assert(p->shape->items < p->c->max_items);
	p->items[p->shape->items++] = (struct fhk_cu_item){token, nr_q, seq, split};
}

/* A token that decodes: in splits, while there is memory for their results, or in one go. */
static void plan_decode(struct planner *p, const struct fh_batch_seq *s, uint32_t i)
{
	uint32_t nr_splits = s->pos / FHK_CU_SPLIT + 1;

	if (nr_splits == 1 || nr_splits > p->c->max_partials - p->nr_partials) {
		add_item(p, s->q_start, 1, i, FHK_CU_NONE);
		return;
	}
	p->tokens[s->q_start].part = p->nr_partials;
	p->nr_partials += nr_splits;
	for (uint32_t split = 0; split < nr_splits; split++)
		add_item(p, s->q_start, 1, i, split);
}

static void plan_tokens(struct planner *p, uint32_t i)
{
	const struct fh_batch_seq *s = &p->b->seqs[i];
	struct fh_cuda *c = p->c;
	uint32_t most = fhk_cu_item_queries(c->m->nr_heads / c->m->nr_kv_heads);

	for (uint32_t t = 0; t < s->q_len; t++) {
		uint32_t id = p->b->tokens[s->q_start + t];

		if (id == FH_TOKEN_PREV)
			id = c->prev_on_device[s->seq] ? FHK_CU_NONE : c->prev_token[s->seq];
		p->tokens[s->q_start + t] =
			(struct fhk_cu_token){.id = id, .seq = i, .pos = s->pos + t, .part = FHK_CU_NONE};
	}
	if (s->q_len == 1) {
		plan_decode(p, s, i);
		return;
	}
	p->shape->nr_q = most;
	for (uint32_t t = 0; t < s->q_len; t += most)
		add_item(p, s->q_start + t, s->q_len - t < most ? s->q_len - t : most, i, FHK_CU_NONE);
}

/* ---- the tail ---- */

/* @bytes of the tail, at a multiple of 16 from its base; -1: there is no more. */
static int64_t tail_take(struct cuda_plan *p, uint64_t bytes)
{
	size_t at = (p->used - p->tail + 15) / 16 * 16;

	if (bytes > p->bytes - p->tail - at)
		return -1;
	p->used = p->tail + at + bytes;
	return (int64_t)at;
}

/* Its entry in the list that is being made, or the place behind the last one. */
static struct fhk_cu_adj *adjust(struct fh_cuda *c, struct fhk_cu_adj *list, uint32_t *nr, uint32_t token)
{
	if (!c->adj_at[token]) {
		c->adj_at[token] = *nr + 1;
		list[(*nr)++] = (struct fhk_cu_adj){.token = token};
	}
	return &list[c->adj_at[token] - 1];
}

/*
 * What is added to the logits of sample @k of @s: bias, penalties, bans.  The
 * list holds each token once.  False when there is no room for it.
 */
static bool plan_adjustments(struct fh_cuda *c, const struct fh_batch_seq *s, uint32_t k, struct fhk_cu_out *out)
{
	const struct fh_sampling *p = s->sampling;
	bool repeats = p->repetition_penalty > 0 && p->repetition_penalty != 1.0f;
	bool counts = p->presence_penalty != 0 || p->frequency_penalty != 0;
	uint32_t nr_history = s->nr_history + k, from = repeats ? 0 : counts ? s->nr_prompt : nr_history;
	uint64_t most = (uint64_t)p->nr_bias + s->nr_banned + (nr_history - from);
	struct cuda_plan *plan = &c->plan;
	struct fhk_cu_adj *list;
	uint32_t nr = 0;
	int64_t at;

	if (!most)
		return true;
	if (most > c->m->nr_vocab)
		most = c->m->nr_vocab;
	at = tail_take(plan, most * sizeof(*list));
	if (at < 0)
		return false;
	list = (struct fhk_cu_adj *)(plan->host + plan->tail + at);
	for (uint32_t i = 0; i < p->nr_bias; i++)
		adjust(c, list, &nr, p->bias[i].token)->bias += p->bias[i].bias;
	for (uint32_t i = from; i < nr_history; i++) {
		struct fhk_cu_adj *a;

		if (s->history[i] >= c->m->nr_vocab)
			continue;
		a = adjust(c, list, &nr, s->history[i]);
		a->flags |= FHK_CU_ADJ_SEEN;
		a->count += i >= s->nr_prompt;
	}
	for (uint32_t i = 0; i < s->nr_banned; i++)
		adjust(c, list, &nr, s->banned[i])->flags |= FHK_CU_ADJ_BAN;
	for (uint32_t i = 0; i < nr; i++)
		c->adj_at[list[i].token] = 0;
	/* Give back what was too much. */
	plan->used = plan->tail + (size_t)at + nr * sizeof(*list);
	out->adj_off = (uint32_t)((uint64_t)at / sizeof(*list));
	out->nr_adj = nr;
	return true;
}

static bool plan_mask(struct fh_cuda *c, const uint32_t *mask, struct fhk_cu_out *out)
{
	size_t bytes = ((size_t)c->m->nr_vocab + 31) / 32 * 4;
	int64_t at;

	if (!mask)
		return true;
	at = tail_take(&c->plan, bytes);
	if (at < 0)
		return false;
	memcpy(c->plan.host + c->plan.tail + at, mask, bytes);
	out->mask = c->plan.dev + c->plan.tail + (uint64_t)at;
	return true;
}

/* ---- what comes out ---- */

/* What the device's sampler does not know, and what it would overwrite, is drawn on the host. */
static bool device_samples(const struct fh_batch_seq *s)
{
	return s->sampling && !s->logits && !(s->sampling->typical_p < 1.0f) && !(s->sampling->nr_top && s->top);
}

/* Sample @k of @s in row @row on the device. False: no room. */
static bool plan_sample(struct fh_cuda *c, const struct fh_batch_seq *s, uint32_t k, struct fhk_cu_out *out)
{
	const struct fh_sampling *p = s->sampling;
	size_t words = ((size_t)c->m->nr_vocab + 31) / 32;

	out->flags = FHK_CU_OUT_SAMPLE | (p->logprobs ? FHK_CU_OUT_LOGPROB : 0);
	out->index = s->index + k;
	out->top_k = p->top_k;
	out->seed = p->seed;
	out->temperature = p->temperature;
	out->top_p = p->top_p;
	out->min_p = p->min_p;
	out->repetition = p->repetition_penalty;
	out->presence = p->presence_penalty;
	out->frequency = p->frequency_penalty;
	return plan_adjustments(c, s, k, out) && plan_mask(c, s->mask ? s->mask + k * words : NULL, out);
}

/* The rows of logits of sequence @i; false when there are too many. */
static bool plan_outs(struct planner *p, uint32_t i)
{
	const struct fh_batch_seq *s = &p->b->seqs[i];
	uint32_t nr_samples = s->sampling ? s->nr_draft + 1 : 0, nr = nr_samples, first = p->shape->outs;
	struct fh_cuda *c = p->c;
	bool device = device_samples(s);

	if (s->logits && s->q_len - s->logits_from > nr)
		nr = s->q_len - s->logits_from;
	if (nr > c->cfg.max_logits - first)
		return false;
	for (uint32_t k = 0; k < nr; k++) {
		uint32_t row = first + k, q = s->q_len - nr + k, sample = k + nr_samples - nr;
		struct fhk_cu_out out = {.token = s->q_start + q, .slot = c->slots_dev + row * sizeof(*c->slots)};

		if (k + nr_samples < nr)
			sample = UINT32_MAX;
		else if (device && !plan_sample(c, s, sample, &out))
			device = false;
		p->outs[row] = out;
		c->rows[row] = (struct cuda_row){.seq = i, .sample = sample, .q = q};
	}
	for (uint32_t row = first; row < first + nr; row++) {
		c->rows[row].device = device && c->rows[row].sample != UINT32_MAX;
		if (!c->rows[row].device)
			p->outs[row].flags = 0;
		c->slots[row] = (struct fh_slot){0};
	}
	p->seqs[i].out = device && nr_samples ? first + nr - nr_samples : FHK_CU_NONE;
	p->shape->outs += nr;
	return true;
}

static void plan_blocks(struct planner *p, uint32_t i)
{
	const struct fh_batch_seq *s = &p->b->seqs[i];
	uint32_t nr = (s->pos + s->q_len + FH_KV_BLOCK - 1) / FH_KV_BLOCK;
	int64_t at = tail_take(&p->c->plan, nr * sizeof(*s->blocks));

	assert(at >= 0); /* there is room for all tables, and they come first */
	memcpy(p->c->plan.host + p->c->plan.tail + at, s->blocks, nr * sizeof(*s->blocks));
	p->seqs[i].block_off = (uint32_t)((uint64_t)at / sizeof(*s->blocks));
	p->seqs[i].nr_blocks = nr;
}

static void plan_pool(struct planner *p, uint32_t i)
{
	const struct fh_batch_seq *s = &p->b->seqs[i];
	bool last = s->pooling == FH_POOL_LAST;
	struct fhk_cu_pool_item *pools = (struct fhk_cu_pool_item *)(p->c->plan.host + p->c->plan.pools);
	uint32_t row = p->shape->pools++;

	pools[row] = (struct fhk_cu_pool_item){.token = last ? s->q_start + s->q_len - 1 : s->q_start,
					       .nr = last ? 1 : s->q_len,
					       .last = last,
					       .row = row};
	p->c->pools[row] = i;
}

int cuda_plan_batch(struct fh_cuda *c, const struct fh_batch *b, struct cuda_shape *shape)
{
	struct planner p = {.c = c,
			    .b = b,
			    .shape = shape,
			    .tokens = (void *)(c->plan.host + c->plan.tokens),
			    .seqs = (void *)(c->plan.host + c->plan.seqs),
			    .outs = (void *)(c->plan.host + c->plan.outs),
			    .items = (void *)(c->plan.host + c->plan.tail)};
	const struct fh_accel_room room = {.cfg = &c->cfg,
					   .nr_vocab = c->m ? c->m->nr_vocab : 0,
					   .nr_blocks = c->nr_blocks,
					   .seen = c->seen,
					   .step = ++c->step};

	if (!fh_accel_check_batch(&room, b))
		return -EINVAL;
	*shape = (struct cuda_shape){.tokens = b->nr_tokens, .seqs = b->nr_seqs, .nr_q = 1};
	for (uint32_t i = 0; i < b->nr_seqs; i++) {
		const struct fh_batch_seq *s = &b->seqs[i];

		p.seqs[i] = (struct fhk_cu_seq){.slot = s->seq,
						.q_start = s->q_start,
						.q_len = s->q_len,
						.pos = s->pos,
						.nr_draft = s->nr_draft};
		plan_tokens(&p, i);
	}
	c->plan.used = c->plan.tail + shape->items * sizeof(*p.items);
	for (uint32_t i = 0; i < b->nr_seqs; i++)
		plan_blocks(&p, i);
	for (uint32_t i = 0; i < b->nr_seqs; i++) {
		if (!plan_outs(&p, i))
			return -EINVAL;
		if (b->seqs[i].pooled)
			plan_pool(&p, i);
	}
	*(struct fhk_cu_plan *)c->plan.host = (struct fhk_cu_plan){.nr_tokens = b->nr_tokens,
								   .nr_seqs = b->nr_seqs,
								   .nr_outs = shape->outs,
								   .nr_items = shape->items,
								   .nr_pools = shape->pools};
	c->nr_rows = shape->outs;
	c->nr_pools = shape->pools;
	return 0;
}
