// SPDX-License-Identifier: Apache-2.0
/*
 * What a finished step leaves: tokens that the device wrote into pinned memory,
 * rows of logits that somebody wants or that are sampled on the host, embeddings.
 */
#include <string.h>

#include "runtime/accel/cuda.h"
#include "runtime/base/log.h"

/* A token that the device drew: its first eight bytes come last and at once. */
static int take_slot(struct fh_cuda *c, const struct fh_batch_seq *s, uint32_t row)
{
	uint64_t word = __atomic_load_n((const uint64_t *)&c->slots[row], __ATOMIC_ACQUIRE);
	uint32_t sample = c->rows[row].sample;
	struct fh_slot slot = c->slots[row];

	memcpy(&slot, &word, sizeof(word));
	if (slot.stamp != s->index + sample + 1 || slot.token >= c->m->nr_vocab) {
		fh_error("%s: the step ended, and token %u of sequence %u did not come (its slot has %u, stamp %u)",
			 c->name, s->index + sample, s->seq, slot.token, slot.stamp);
		return -EIO;
	}
	s->slot[sample] = slot;
	return 0;
}

/* A row that goes to the host: to whoever wants it, and to the sampler. */
static int take_logits(struct fh_cuda *c, const struct fh_batch_seq *s, uint32_t row)
{
	const struct cuda_row *r = &c->rows[row];
	uint32_t nr_vocab = c->m->nr_vocab;
	struct fh_batch_seq one;
	float *logits = c->row;

	if (cuda_fetch(c, logits, c->logits + (uint64_t)row * c->ld_logits * sizeof(float), sizeof(float) * nr_vocab))
		return -EIO;
	if (s->logits && r->q >= s->logits_from)
		memcpy(s->logits + (size_t)(r->q - s->logits_from) * nr_vocab, logits, sizeof(float) * nr_vocab);
	if (r->sample == UINT32_MAX)
		return 0;
	one = fh_batch_sample(s, r->sample, nr_vocab);
	fh_sample(c->sampler, &one, logits);
	return 0;
}

/* The last token that a sequence sampled: with guesses the one in the place of the first wrong one. */
static void keep_prev(struct fh_cuda *c, uint32_t i, bool device)
{
	const struct fh_batch_seq *s = &c->b->seqs[i];
	const uint32_t *guess = c->b->tokens + s->q_start + s->q_len - s->nr_draft;
	uint32_t k = 0;

	while (k < s->nr_draft && s->slot[k].token == guess[k])
		k++;
	c->prev_token[s->seq] = s->slot[k].token;
	c->prev_on_device[s->seq] = device;
}

int cuda_finish(struct fh_cuda *c)
{
	for (uint32_t row = 0; row < c->nr_rows; row++) {
		const struct cuda_row *r = &c->rows[row];
		const struct fh_batch_seq *s = &c->b->seqs[r->seq];

		if (r->device ? take_slot(c, s, row) : take_logits(c, s, row))
			return -EIO;
		if (r->sample != UINT32_MAX && r->sample == s->nr_draft)
			keep_prev(c, r->seq, r->device);
	}
	for (uint32_t i = 0; i < c->nr_pools; i++)
		if (cuda_fetch(c, c->b->seqs[c->pools[i]].pooled, c->pooled + (uint64_t)i * c->ld_x * sizeof(float),
			       sizeof(float) * c->m->dim))
			return -EIO;
	return 0;
}
