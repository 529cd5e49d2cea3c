// SPDX-License-Identifier: Apache-2.0
/* Settings and batches that no accelerator takes, whatever it is. */
#include <errno.h>

#include "runtime/accel/check.h"

#define MAX_SEQS (1u << 16)
#define MAX_TOKENS (1u << 16)
#define MAX_BLOCKS (1u << 22)

int fh_accel_check_config(const struct fh_accel_config *cfg, struct fh_err *err)
{
	if (!cfg->max_seqs || cfg->max_seqs > MAX_SEQS)
		return fh_errf(err, -EINVAL, "max_seqs is %u; 1 to %u can be run", cfg->max_seqs, MAX_SEQS);
	if (!cfg->max_tokens || cfg->max_tokens > MAX_TOKENS)
		return fh_errf(err, -EINVAL, "max_tokens is %u; 1 to %u can be run", cfg->max_tokens, MAX_TOKENS);
	if (!cfg->max_logits || cfg->max_logits > MAX_TOKENS)
		return fh_errf(err, -EINVAL, "max_logits is %u; 1 to %u can be run", cfg->max_logits, MAX_TOKENS);
	if (!cfg->max_blocks_per_seq || cfg->max_blocks_per_seq > MAX_BLOCKS)
		return fh_errf(err, -EINVAL, "max_blocks_per_seq is %u; 1 to %u can be run", cfg->max_blocks_per_seq,
			       MAX_BLOCKS);
	return 0;
}

/* Everything that the step will use as an index or follow as a pointer. */
static bool check_sampling(const struct fh_accel_room *r, const struct fh_batch_seq *s)
{
	const struct fh_sampling *p = s->sampling;

	if (!s->slot || (p->nr_top && !s->top) || p->nr_top > FH_MAX_TOP_LOGPROBS)
		return false;
	if ((p->nr_bias && !p->bias) || (s->nr_banned && !s->banned) || (s->nr_history && !s->history) ||
	    s->nr_prompt > s->nr_history || s->nr_draft >= s->q_len || (s->nr_draft && !s->history))
		return false;
	for (uint32_t i = 0; i < p->nr_bias; i++)
		if (p->bias[i].token >= r->nr_vocab)
			return false;
	for (uint32_t i = 0; i < s->nr_banned; i++)
		if (s->banned[i] >= r->nr_vocab)
			return false;
	return true;
}

static bool check_seq(const struct fh_accel_room *r, const struct fh_batch *b, const struct fh_batch_seq *s,
		      uint32_t q_start)
{
	uint64_t end = (uint64_t)s->pos + s->q_len;

	if (s->seq >= r->cfg->max_seqs || r->seen[s->seq] == r->step || s->adapter)
		return false;
	r->seen[s->seq] = r->step;
	if (s->q_start != q_start || !s->q_len || s->q_len > b->nr_tokens - q_start)
		return false;
	if (!s->blocks || s->nr_blocks > r->cfg->max_blocks_per_seq || end > (uint64_t)s->nr_blocks * FH_KV_BLOCK)
		return false;
	for (uint64_t i = 0; i * FH_KV_BLOCK < end; i++)
		if (s->blocks[i] >= r->nr_blocks)
			return false;
	for (uint32_t i = 0; i < s->q_len; i++)
		if (b->tokens[q_start + i] >= r->nr_vocab && b->tokens[q_start + i] != FH_TOKEN_PREV)
			return false;
	if (s->logits && s->logits_from >= s->q_len)
		return false;
	return s->sampling ? check_sampling(r, s) : !s->nr_draft;
}

bool fh_accel_check_batch(const struct fh_accel_room *r, const struct fh_batch *b)
{
	uint32_t at = 0;

	if (!r->nr_blocks || !b->nr_tokens || b->nr_tokens > r->cfg->max_tokens || b->nr_seqs > r->cfg->max_seqs)
		return false;
	for (uint32_t i = 0; i < b->nr_seqs; i++) {
		if (!check_seq(r, b, &b->seqs[i], at))
			return false;
		at += b->seqs[i].q_len;
	}
	return at == b->nr_tokens;
}
