/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Who holds which KV block.
 *
 * A block is in exactly one of three states, and the counters of the three add
 * up to nr_blocks at all times:
 *
 *   free    nobody holds it, nothing in it is worth keeping
 *   held    refs > 0: so many sequences have it in their tables
 *   cached  refs == 0, but the prefix cache knows it; in the LRU list
 *
 * Only whole blocks are ever shared, and a sequence only writes behind its last
 * whole block, so that a shared block is never written and copy-on-write is
 * never needed.
 *
 * No I/O, no clock, no allocation after fh_kv_init().  One thread.
 */
#ifndef FH_ENGINE_KV_H
#define FH_ENGINE_KV_H

#include <stdbool.h>
#include <stdint.h>

#include "runtime/accel/accel.h" /* FH_KV_BLOCK, FH_NO_BLOCK */

struct fh_kv_block {
	uint32_t refs;
	uint32_t next, prev; /* in the free list (next only) or the LRU list */
	bool cached;	     /* the prefix cache knows it, whether held or not */
};

struct fh_kv {
	struct fh_kv_block *block; /* [nr_blocks], owned */
	uint32_t nr_blocks;
	uint32_t nr_free, nr_cached; /* the rest is held */
	uint32_t free_head;
	uint32_t lru_head, lru_tail; /* the head is evicted first */
	uint64_t nr_evicted;
	/* Called when a cached block is taken for something else; it must forget the block. */
	void (*evict)(void *ctx, uint32_t block);
	void *evict_ctx;
};

int fh_kv_init(struct fh_kv *kv, uint32_t nr_blocks);
void fh_kv_destroy(struct fh_kv *kv);

/* Blocks that fh_kv_alloc() could hand out now. */
static inline uint32_t fh_kv_available(const struct fh_kv *kv)
{
	return kv->nr_free + kv->nr_cached;
}

/* A block with one reference: a free one, else the cached one unused for longest. FH_NO_BLOCK when all are held. */
uint32_t fh_kv_alloc(struct fh_kv *kv);
/* One more reference, of a held or a cached block. */
void fh_kv_ref(struct fh_kv *kv, uint32_t block);
/* One less. The last one makes the block free or, if marked, cached (as the most recently used). */
void fh_kv_unref(struct fh_kv *kv, uint32_t block);
/* The prefix cache knows a held block now, or no longer knows a block in whatever state. */
void fh_kv_mark(struct fh_kv *kv, uint32_t block);
void fh_kv_unmark(struct fh_kv *kv, uint32_t block);

/* Walk everything and return true if states, lists and counters agree. For tests and fh_engine_check(). */
bool fh_kv_check(const struct fh_kv *kv);

#endif /* FH_ENGINE_KV_H */
