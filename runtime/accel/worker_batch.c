// SPDX-License-Identifier: Apache-2.0
/*
 * A batch in memory that the worker shares: the arrays that it points to, one
 * after the other, and room for tokens, logits and embeddings.
 *
 * The copies are a few bytes a token, and each sequence's block table.  A history
 * is copied only where somebody reads it, which is when there are penalties.
 */
#include <string.h>

#include "runtime/accel/worker_priv.h"

#define LISTS_BYTES (16ul << 20) /* of biases and banned tokens, all sequences together */

struct cursor {
	uint8_t *base;
	size_t at, bytes;
	bool full;
};

/* Room for @n elements of @size, and a copy of @from unless it is NULL. */
static void *put(struct cursor *c, const void *from, size_t n, size_t size)
{
	size_t at = (c->at + 15) / 16 * 16, bytes = n * size;
	void *p = c->base + at;

	if (at > c->bytes || (size && n > (c->bytes - at) / size)) {
		c->full = true;
		return NULL;
	}
	c->at = at + bytes;
	if (from && bytes)
		memcpy(p, from, bytes);
	return p;
}

size_t worker_arena_bytes(const struct fh_accel_config *cfg, const struct fh_model *m)
{
	size_t seqs = cfg->max_seqs, ctx = (size_t)cfg->max_blocks_per_seq * FH_KV_BLOCK, out = cfg->max_logits;
	size_t step = seqs * (sizeof(struct fh_batch_seq) + sizeof(struct fh_sampling) + 256) + cfg->max_tokens * 4ul;
	size_t tables = seqs * (cfg->max_blocks_per_seq + ctx + cfg->max_tokens) * 4;
	size_t rows = out * (sizeof(struct fh_slot) + FH_MAX_TOP_LOGPROBS * sizeof(struct fh_top) + m->nr_vocab / 8 +
			     64 + m->nr_vocab * sizeof(float));
	size_t block = (size_t)m->nr_layers * 2 * m->nr_kv_heads * FH_KV_BLOCK * (m->head_dim + 64) * sizeof(float);

	step += tables + rows + seqs * (m->dim * sizeof(float) + 64) + LISTS_BYTES;
	return (step > block ? step : block) + 4096;
}

static bool reads_history(const struct fh_sampling *p)
{
	return p->repetition_penalty != 1.0f || p->presence_penalty != 0 || p->frequency_penalty != 0;
}

static void put_sampling(struct cursor *c, const struct fh_model *m, const struct fh_batch_seq *from,
			 struct fh_batch_seq *to)
{
	size_t nr = from->nr_draft + 1ul, words = ((size_t)m->nr_vocab + 31) / 32;
	struct fh_sampling *p = put(c, from->sampling, 1, sizeof(*p));

	to->sampling = p;
	if (p && p->bias)
		p->bias = put(c, p->bias, p->nr_bias, sizeof(*p->bias));
	if (p && reads_history(p)) {
		to->history = put(c, from->history, (size_t)from->nr_history + from->nr_draft, sizeof(*to->history));
	} else {
		/* The guesses are among the tokens, too: what stands here is not read. */
		to->nr_history = to->nr_prompt = 0;
		to->history = from->history ? put(c, NULL, nr, sizeof(*to->history)) : NULL;
	}
	to->banned = from->banned ? put(c, from->banned, from->nr_banned, sizeof(*to->banned)) : NULL;
	to->mask = from->mask ? put(c, from->mask, nr * words, sizeof(*to->mask)) : NULL;
	to->slot = from->slot ? put(c, NULL, nr, sizeof(*to->slot)) : NULL;
	to->top = from->top ? put(c, NULL, nr * (from->sampling->nr_top + 1ul), sizeof(*to->top)) : NULL;
	if (to->slot)
		memset(to->slot, 0, nr * sizeof(*to->slot));
}

static void put_seq(struct cursor *c, const struct fh_model *m, const struct fh_batch_seq *from,
		    struct fh_batch_seq *to)
{
	*to = *from;
	to->blocks = from->blocks ? put(c, from->blocks, from->nr_blocks, sizeof(*to->blocks)) : NULL;
	if (from->sampling)
		put_sampling(c, m, from, to);
	if (from->logits && from->logits_from < from->q_len)
		to->logits = put(c, NULL, (size_t)(from->q_len - from->logits_from) * m->nr_vocab, sizeof(*to->logits));
	if (from->pooled)
		to->pooled = put(c, from->pooled, m->dim, sizeof(*to->pooled));
}

int worker_put_batch(struct worker_shared *s, const struct fh_accel_config *cfg, const struct fh_model *m,
		     const struct fh_batch *b)
{
	struct cursor c = {.base = s->arena, .bytes = s->arena_bytes};
	struct fh_batch_seq *seqs;

	/* The limits first: what is copied depends on them. */
	if (!b->nr_tokens || b->nr_tokens > cfg->max_tokens || b->nr_seqs > cfg->max_seqs)
		return -EINVAL;
	for (uint32_t i = 0; i < b->nr_seqs; i++)
		if (b->seqs[i].nr_blocks > cfg->max_blocks_per_seq || b->seqs[i].q_len > b->nr_tokens ||
		    b->seqs[i].nr_draft >= b->nr_tokens ||
		    (b->seqs[i].sampling && b->seqs[i].sampling->nr_top > FH_MAX_TOP_LOGPROBS))
			return -EINVAL;
	s->batch = *b;
	s->batch.tokens = put(&c, b->tokens, b->nr_tokens, sizeof(*b->tokens));
	s->batch.seqs = seqs = put(&c, NULL, b->nr_seqs, sizeof(*seqs));
	for (uint32_t i = 0; i < b->nr_seqs && !c.full; i++)
		put_seq(&c, m, &b->seqs[i], &seqs[i]);
	return c.full ? -EINVAL : 0;
}

void worker_get_batch(const struct worker_shared *s, const struct fh_model *m, const struct fh_batch *b)
{
	for (uint32_t i = 0; i < b->nr_seqs; i++) {
		const struct fh_batch_seq *from = &s->batch.seqs[i], *to = &b->seqs[i];
		size_t nr = to->nr_draft + 1ul;

		if (to->sampling && to->slot)
			memcpy(to->slot, from->slot, nr * sizeof(*to->slot));
		if (to->sampling && to->top)
			memcpy(to->top, from->top, nr * to->sampling->nr_top * sizeof(*to->top));
		if (to->logits)
			memcpy(to->logits, from->logits,
			       (size_t)(to->q_len - to->logits_from) * m->nr_vocab * sizeof(*to->logits));
		if (to->pooled)
			memcpy(to->pooled, from->pooled, m->dim * sizeof(*to->pooled));
	}
}
