// SPDX-License-Identifier: Apache-2.0
/* The table behind prompt-lookup speculation; ngram.h says what holds in it. */
#include "runtime/engine/ngram.h"

/* A larger table takes memory for every sequence; a smaller one only makes chains longer. */
#define HEADS_MOST (1u << 14)
#define HEADS_LEAST 64u

uint32_t fh_ngram_heads(uint32_t nr_ctx)
{
	uint32_t n = HEADS_LEAST;

	while (n < nr_ctx && n < HEADS_MOST)
		n *= 2;
	return n;
}

/* Of the FH_NGRAM tokens before position @end. */
static uint32_t hash(const uint32_t *tokens, uint32_t end)
{
	uint64_t h = 0;

	for (uint32_t i = end - FH_NGRAM; i < end; i++)
		h = (h ^ tokens[i]) * 0x9e3779b97f4a7c15u;
	return (uint32_t)(h >> 32);
}

/* Tokens before @a and before @b that are equal, counted backwards; a < b. */
static uint32_t equal_before(const uint32_t *tokens, uint32_t a, uint32_t b)
{
	uint32_t most = a < FH_NGRAM_LONG ? a : FH_NGRAM_LONG, n = 0;

	while (n < most && tokens[a - 1 - n] == tokens[b - 1 - n])
		n++;
	return n;
}

uint32_t fh_ngram_find(struct fh_ngram *g, const uint32_t *tokens, uint32_t nr, uint32_t *len)
{
	uint32_t at, limit = nr, best = 0;

	*len = 0;
	if (nr <= FH_NGRAM)
		return 0;
	/* The end itself stays out of the table, or it would be found. */
	for (at = g->nr > FH_NGRAM ? g->nr : FH_NGRAM; at < nr; at++) {
		uint32_t *head = &g->head[hash(tokens, at) & g->mask];

		g->prev[at] = *head;
		*head = at;
	}
	g->nr = nr;

	/* A chain leads down; where it does not, another sequence left the entry. */
	at = g->head[hash(tokens, nr) & g->mask];
	for (uint32_t i = 0; i < FH_NGRAM_CHAIN && at >= FH_NGRAM && at < limit; i++) {
		uint32_t n = equal_before(tokens, at, nr);

		if (n >= FH_NGRAM && n > *len) {
			*len = n;
			best = at;
			if (n == FH_NGRAM_LONG)
				break;
		}
		limit = at;
		at = g->prev[at];
	}
	return best;
}
