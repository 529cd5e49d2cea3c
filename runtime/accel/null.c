// SPDX-License-Identifier: Apache-2.0
/*
 * The null model's accelerator: no weights, no KV, no time.  Token i of a
 * request is its prompt's id i modulo its length, so that everything but the
 * model (front ends, engine, scheduler) can be measured and checked.
 *
 * It has no logits and no embeddings, and refuses a batch that asks for them.
 */
#include <stdlib.h>
#include <string.h>

#include "runtime/accel/accel.h"
#include "runtime/model/model.h"

struct fh_null {
	struct fh_accel base;
	struct fh_accel_config cfg;
	const struct fh_model *m;
	uint32_t nr_blocks;
};

static int null_open(const struct fh_accel_config *cfg, struct fh_accel **out, struct fh_err *err)
{
	struct fh_null *n;

	if (!cfg->max_seqs || !cfg->max_tokens)
		return fh_errf(err, -EINVAL, "max_seqs and max_tokens must be at least 1");
	n = calloc(1, sizeof(*n));
	if (!n)
		return fh_errf(err, -ENOMEM, "out of memory");
	n->base.ops = &fh_accel_null;
	n->cfg = *cfg;
	*out = &n->base;
	return 0;
}

static int null_load(struct fh_accel *a, const struct fh_model *m, struct fh_err *err)
{
	if (!m->null)
		return fh_errf(err, -EINVAL, "%s has weights; the null model takes a vocabulary (null:FILE)", m->name);
	((struct fh_null *)a)->m = m;
	return 0;
}

/* Nothing is stored; one byte keeps whoever divides by it safe. */
static uint64_t null_kv_block_bytes(struct fh_accel *a)
{
	(void)a;
	return 1;
}

static int null_kv_alloc(struct fh_accel *a, uint32_t nr_blocks, struct fh_err *err)
{
	if (!nr_blocks || nr_blocks == FH_NO_BLOCK)
		return fh_errf(err, -EINVAL, "%u KV blocks cannot be had", nr_blocks);
	((struct fh_null *)a)->nr_blocks = nr_blocks;
	return 0;
}

static bool check_seq(const struct fh_null *n, const struct fh_batch *b, const struct fh_batch_seq *s, uint32_t q_start)
{
	uint64_t end = (uint64_t)s->pos + s->q_len;

	if (s->seq >= n->cfg.max_seqs || s->adapter || s->logits || s->pooled)
		return false;
	if (s->q_start != q_start || !s->q_len || s->q_len > b->nr_tokens - q_start)
		return false;
	if (!s->blocks || s->nr_blocks > n->cfg.max_blocks_per_seq || end > (uint64_t)s->nr_blocks * FH_KV_BLOCK)
		return false;
	for (uint64_t i = s->pos / FH_KV_BLOCK; i * FH_KV_BLOCK < end; i++)
		if (s->blocks[i] >= n->nr_blocks)
			return false;
	for (uint32_t i = 0; i < s->q_len; i++)
		if (b->tokens[q_start + i] >= n->m->nr_vocab && b->tokens[q_start + i] != FH_TOKEN_PREV)
			return false;
	if (!s->sampling)
		return !s->nr_draft;
	return s->slot && s->history && s->nr_prompt && s->nr_prompt <= s->nr_history && s->nr_draft < s->q_len;
}

static void sample(const struct fh_batch_seq *s)
{
	struct fh_slot slot = {.token = s->history[s->index % s->nr_prompt], .stamp = s->index + 1};

	if (s->sampling->logprobs)
		slot.flags = FH_SLOT_LOGPROB; /* the echo is certain: ln 1 = 0 */
	for (uint32_t t = 0; t < s->sampling->nr_top && s->top; t++)
		s->top[t] = (struct fh_top){.token = slot.token};
	*s->slot = slot;
}

static int null_submit(struct fh_accel *a, const struct fh_batch *b)
{
	struct fh_null *n = (struct fh_null *)a;
	uint32_t at = 0;

	if (!n->m || !n->nr_blocks || !b->nr_tokens || b->nr_tokens > n->cfg.max_tokens || b->nr_seqs > n->cfg.max_seqs)
		return -EINVAL;
	for (uint32_t i = 0; i < b->nr_seqs; i++) {
		if (!check_seq(n, b, &b->seqs[i], at))
			return -EINVAL;
		at += b->seqs[i].q_len;
	}
	if (at != b->nr_tokens)
		return -EINVAL;
	for (uint32_t i = 0; i < b->nr_seqs; i++) {
		const struct fh_batch_seq *s = &b->seqs[i];

		if (s->sampling && !s->nr_draft)
			sample(s);
		for (uint32_t k = 0; s->sampling && s->nr_draft && k <= s->nr_draft; k++) {
			struct fh_batch_seq one = fh_batch_sample(s, k, n->m->nr_vocab);

			sample(&one);
		}
	}
	return 0;
}

static int null_reap(struct fh_accel *a, bool wait)
{
	(void)a;
	(void)wait;
	return 0;
}

static int null_kv_copy(struct fh_accel *a, uint32_t dst, uint32_t src)
{
	const struct fh_null *n = (const struct fh_null *)a;

	return dst < n->nr_blocks && src < n->nr_blocks ? 0 : -EINVAL;
}

static int null_kv_swap(struct fh_accel *a, uint32_t block, void *host, bool out)
{
	const struct fh_null *n = (const struct fh_null *)a;

	if (block >= n->nr_blocks)
		return -EINVAL;
	if (out)
		memset(host, 0, 1);
	return 0;
}

static void null_set_prev(struct fh_accel *a, uint32_t seq, uint32_t token)
{
	(void)a; /* the next token does not depend on the last */
	(void)seq;
	(void)token;
}

static void null_info(struct fh_accel *a, struct fh_accel_info *out)
{
	const struct fh_null *n = (const struct fh_null *)a;

	*out = (struct fh_accel_info){
		.name = "null",
		.nr_threads = 1,
		.kv_block_bytes = 1,
		.nr_blocks = n->nr_blocks,
		.nr_vocab = n->m ? n->m->nr_vocab : 0,
		.nr_ctx = n->m ? n->m->nr_ctx : 0,
		.drafts = true,
	};
}

static void null_close(struct fh_accel *a)
{
	free(a);
}

const struct fh_accel_ops fh_accel_null = {
	.name = "null",
	.open = null_open,
	.load = null_load,
	.kv_block_bytes = null_kv_block_bytes,
	.kv_alloc = null_kv_alloc,
	.submit = null_submit,
	.reap = null_reap,
	.kv_copy = null_kv_copy,
	.kv_swap = null_kv_swap,
	.set_prev = null_set_prev,
	.info = null_info,
	.close = null_close,
};
