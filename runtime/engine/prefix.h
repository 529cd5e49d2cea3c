/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The prefix cache: which KV block holds which tokens, after which tokens.
 *
 * A whole block of tokens is found by a hash that is chained over all blocks
 * before it.  A hash is only a hint: a hit also needs the block's own tokens
 * to be equal and its parent to be the very entry that matched before it.
 * Entries carry a serial number that is never used twice, so that "the very
 * entry" cannot be mistaken for another one in the same block; by induction a
 * hit is exact, whatever the hashes do.  Hashes are keyed with random numbers,
 * so that nobody outside can aim at one chain of the table.
 *
 * A sequence that holds an entry holds all its parents (fh_prefix_add() hands
 * out the block that is already known instead of a second copy), and releases
 * them after it, so that the LRU list evicts children before parents.
 *
 * One thread; no allocation after fh_prefix_init().
 */
#ifndef FH_ENGINE_PREFIX_H
#define FH_ENGINE_PREFIX_H

#include <stdint.h>

#include "runtime/engine/kv.h"

struct fh_prefix_entry {
	uint64_t hash;
	uint64_t serial; /* 0: this block is unknown */
	uint64_t parent; /* serial of the entry before it; 0: it is a first block */
	uint32_t next;	 /* in its chain of the table */
	uint32_t tokens[FH_KV_BLOCK];
};

struct fh_prefix {
	struct fh_kv *kv;
	struct fh_prefix_entry *entry; /* [nr_blocks], by block; owned */
	uint32_t *table;	       /* [mask + 1] heads of chains; owned */
	uint32_t mask;
	uint64_t seed[2];
	uint64_t last_serial;
	uint32_t nr_entries;
};

/* Takes over @kv's eviction. @seed: two random numbers. */
int fh_prefix_init(struct fh_prefix *p, struct fh_kv *kv, const uint64_t seed[2]);
void fh_prefix_destroy(struct fh_prefix *p);

/* The hash of @tokens: [FH_KV_BLOCK], after a prefix of hash @parent (0: none). */
uint64_t fh_prefix_hash(const struct fh_prefix *p, uint64_t parent, const uint32_t *tokens);

/*
 * The block of these tokens after entry @parent_serial (0: at the beginning),
 * or FH_NO_BLOCK.  Takes no reference.
 */
uint32_t fh_prefix_find(const struct fh_prefix *p, uint64_t hash, uint64_t parent_serial, const uint32_t *tokens);

/*
 * Make held block @block known.  Where an equal one is known already, @block's
 * reference is given up and the known one referenced instead; its number is
 * returned, else @block.
 */
uint32_t fh_prefix_add(struct fh_prefix *p, uint32_t block, uint64_t hash, uint64_t parent_serial,
		       const uint32_t *tokens);

/* The serial of a known block. */
static inline uint64_t fh_prefix_serial(const struct fh_prefix *p, uint32_t block)
{
	return p->entry[block].serial;
}

/* Forget everything (the device lost its memory); held blocks stay held. */
void fh_prefix_forget_all(struct fh_prefix *p);

#endif /* FH_ENGINE_PREFIX_H */
