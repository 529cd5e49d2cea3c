// SPDX-License-Identifier: Apache-2.0
/* The allocator of KV blocks; kv.h tells the states. */
#include <assert.h>
#include <errno.h>
#include <stdlib.h>

#include "runtime/engine/kv.h"

int fh_kv_init(struct fh_kv *kv, uint32_t nr_blocks)
{
	*kv = (struct fh_kv){.nr_blocks = nr_blocks, .lru_head = FH_NO_BLOCK, .lru_tail = FH_NO_BLOCK};
	if (!nr_blocks || nr_blocks == FH_NO_BLOCK)
		return -EINVAL;
	kv->block = calloc(nr_blocks, sizeof(*kv->block));
	if (!kv->block)
		return -ENOMEM;
	for (uint32_t i = 0; i < nr_blocks; i++)
		kv->block[i].next = i + 1 < nr_blocks ? i + 1 : FH_NO_BLOCK;
	kv->nr_free = nr_blocks;
	return 0;
}

void fh_kv_destroy(struct fh_kv *kv)
{
	free(kv->block);
	kv->block = NULL;
}

static void lru_remove(struct fh_kv *kv, uint32_t i)
{
	struct fh_kv_block *b = &kv->block[i];

	if (b->prev == FH_NO_BLOCK)
		kv->lru_head = b->next;
	else
		kv->block[b->prev].next = b->next;
	if (b->next == FH_NO_BLOCK)
		kv->lru_tail = b->prev;
	else
		kv->block[b->next].prev = b->prev;
	kv->nr_cached--;
}

static void lru_append(struct fh_kv *kv, uint32_t i)
{
	struct fh_kv_block *b = &kv->block[i];

	b->next = FH_NO_BLOCK;
	b->prev = kv->lru_tail;
	if (kv->lru_tail == FH_NO_BLOCK)
		kv->lru_head = i;
	else
		kv->block[kv->lru_tail].next = i;
	kv->lru_tail = i;
	kv->nr_cached++;
}

static void make_free(struct fh_kv *kv, uint32_t i)
{
	kv->block[i].next = kv->free_head;
	if (!kv->nr_free)
		kv->block[i].next = FH_NO_BLOCK;
	kv->free_head = i;
	kv->nr_free++;
}

uint32_t fh_kv_alloc(struct fh_kv *kv)
{
	uint32_t i;

	if (!kv->nr_free) {
		i = kv->lru_head;
		if (i == FH_NO_BLOCK)
			return FH_NO_BLOCK;
		lru_remove(kv, i);
		kv->block[i].cached = false;
		kv->nr_evicted++;
		if (kv->evict)
			kv->evict(kv->evict_ctx, i);
	} else {
		i = kv->free_head;
		kv->free_head = kv->block[i].next;
		kv->nr_free--;
	}
	kv->block[i].refs = 1;
	return i;
}

void fh_kv_ref(struct fh_kv *kv, uint32_t i)
{
	struct fh_kv_block *b = &kv->block[i];

	assert(i < kv->nr_blocks && (b->refs || b->cached));
	if (!b->refs++)
		lru_remove(kv, i);
}

void fh_kv_unref(struct fh_kv *kv, uint32_t i)
{
	struct fh_kv_block *b = &kv->block[i];

	assert(i < kv->nr_blocks && b->refs);
	if (--b->refs)
		return;
	if (b->cached)
		lru_append(kv, i);
	else
		make_free(kv, i);
}

void fh_kv_mark(struct fh_kv *kv, uint32_t i)
{
	assert(i < kv->nr_blocks && kv->block[i].refs);
	kv->block[i].cached = true;
}

void fh_kv_unmark(struct fh_kv *kv, uint32_t i)
{
	struct fh_kv_block *b = &kv->block[i];

	if (!b->cached)
		return;
	b->cached = false;
	if (!b->refs) {
		lru_remove(kv, i);
		make_free(kv, i);
	}
}

bool fh_kv_check(const struct fh_kv *kv)
{
	uint32_t nr_free = 0, nr_cached = 0, nr_held = 0, prev = FH_NO_BLOCK, i;

	for (i = kv->free_head; nr_free < kv->nr_free; i = kv->block[i].next, nr_free++)
		if (i >= kv->nr_blocks || kv->block[i].refs || kv->block[i].cached)
			return false;
	for (i = kv->lru_head; i != FH_NO_BLOCK; prev = i, i = kv->block[i].next, nr_cached++)
		if (nr_cached > kv->nr_blocks || kv->block[i].refs || !kv->block[i].cached || kv->block[i].prev != prev)
			return false;
	for (i = 0; i < kv->nr_blocks; i++)
		nr_held += kv->block[i].refs > 0;
	return prev == kv->lru_tail && nr_cached == kv->nr_cached && nr_free + nr_cached + nr_held == kv->nr_blocks;
}
