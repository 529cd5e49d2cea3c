/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Where in a sequence did its last few tokens stand before, and what followed?
 *
 * A table of hashes of FH_NGRAM tokens, with chains through the positions that
 * share one, newest first, as LZ77 compressors keep it.  The table is only a
 * hint: whatever it says is compared with the tokens themselves, so that it is
 * never cleared.  What an earlier sequence left in it is either not true of this
 * one, and skipped, or true.
 *
 * Constant time a token, FH_NGRAM_CHAIN comparisons a search, no allocation:
 * both arrays are the caller's.  One thread.
 */
#ifndef FH_ENGINE_NGRAM_H
#define FH_ENGINE_NGRAM_H

#include <stdint.h>

#define FH_NGRAM 3u	   /* tokens that must be equal */
#define FH_NGRAM_LONG 32u  /* more are not counted */
#define FH_NGRAM_CHAIN 16u /* places that one search looks at */

struct fh_ngram {
	uint32_t *head; /* [mask + 1] by hash: the newest position that follows such tokens */
	uint32_t *prev; /* [longest sequence] by position: the one before it with the same hash */
	uint32_t mask;	/* a power of two, less one */
	uint32_t nr;	/* positions below it are known */
};

/* Entries of head[] for sequences of up to @nr_ctx tokens. */
uint32_t fh_ngram_heads(uint32_t nr_ctx);

/*
 * The position in @tokens: [nr], of what followed the last place in which the
 * last FH_NGRAM or more tokens stood before, *@len: how many were equal, at most
 * FH_NGRAM_LONG; among several places the one with the most.  0: there is none.
 * Tokens must not change between two calls, only grow; g->nr = 0 begins anew.
 */
uint32_t fh_ngram_find(struct fh_ngram *g, const uint32_t *tokens, uint32_t nr, uint32_t *len);

#endif /* FH_ENGINE_NGRAM_H */
