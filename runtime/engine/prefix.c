// SPDX-License-Identifier: Apache-2.0
/* The prefix cache; prefix.h tells why a hit is exact. */
#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "runtime/engine/prefix.h"

static void unlink_entry(struct fh_prefix *p, uint32_t block)
{
	struct fh_prefix_entry *e = &p->entry[block];
	uint32_t *at = &p->table[e->hash & p->mask];

	while (*at != block)
		at = &p->entry[*at].next;
	*at = e->next;
	e->serial = 0;
	p->nr_entries--;
}

static void evict(void *ctx, uint32_t block)
{
	unlink_entry(ctx, block);
}

int fh_prefix_init(struct fh_prefix *p, struct fh_kv *kv, const uint64_t seed[2])
{
	uint32_t size = 64;

	*p = (struct fh_prefix){.kv = kv, .seed = {seed[0], seed[1]}};
	while (size < kv->nr_blocks * 2 && size < 1u << 31)
		size *= 2;
	p->mask = size - 1;
	p->entry = calloc(kv->nr_blocks, sizeof(*p->entry));
	p->table = malloc(size * sizeof(*p->table));
	if (!p->entry || !p->table) {
		fh_prefix_destroy(p);
		return -ENOMEM;
	}
	memset(p->table, 0xff, size * sizeof(*p->table));
	kv->evict = evict;
	kv->evict_ctx = p;
	return 0;
}

void fh_prefix_destroy(struct fh_prefix *p)
{
	free(p->entry);
	free(p->table);
	p->entry = NULL;
	p->table = NULL;
}

/* Both halves of the product: one multiplication mixes all bits of both. */
static inline uint64_t mix(uint64_t a, uint64_t b)
{
	unsigned __int128 m = (unsigned __int128)a * b;

	return (uint64_t)m ^ (uint64_t)(m >> 64);
}

uint64_t fh_prefix_hash(const struct fh_prefix *p, uint64_t parent, const uint32_t *tokens)
{
	uint64_t h = mix(parent ^ p->seed[0], p->seed[1] | 1);

	for (int i = 0; i < FH_KV_BLOCK; i += 4) {
		uint64_t a, b;

		memcpy(&a, tokens + i, sizeof(a));
		memcpy(&b, tokens + i + 2, sizeof(b));
		h = mix(h ^ a ^ p->seed[1], b ^ h ^ p->seed[0] ^ 0x9e3779b97f4a7c15u);
	}
	h = mix(h, p->seed[0] | 1);
	return h ? h : 1;
}

uint32_t fh_prefix_find(const struct fh_prefix *p, uint64_t hash, uint64_t parent_serial, const uint32_t *tokens)
{
	for (uint32_t i = p->table[hash & p->mask]; i != FH_NO_BLOCK; i = p->entry[i].next) {
		const struct fh_prefix_entry *e = &p->entry[i];

		if (e->hash == hash && e->parent == parent_serial && !memcmp(e->tokens, tokens, sizeof(e->tokens)))
			return i;
	}
	return FH_NO_BLOCK;
}

uint32_t fh_prefix_add(struct fh_prefix *p, uint32_t block, uint64_t hash, uint64_t parent_serial,
		       const uint32_t *tokens)
{
	uint32_t known = fh_prefix_find(p, hash, parent_serial, tokens);
	struct fh_prefix_entry *e = &p->entry[block];

	if (known == block)
		return block;
	if (known != FH_NO_BLOCK) {
		fh_kv_ref(p->kv, known);
		fh_kv_unref(p->kv, block);
		return known;
	}
	assert(!e->serial);
	e->hash = hash;
	e->serial = ++p->last_serial;
	e->parent = parent_serial;
	e->next = p->table[hash & p->mask];
	memcpy(e->tokens, tokens, sizeof(e->tokens));
	p->table[hash & p->mask] = block;
	p->nr_entries++;
	fh_kv_mark(p->kv, block);
	return block;
}

void fh_prefix_forget_all(struct fh_prefix *p)
{
	for (uint32_t i = 0; i < p->kv->nr_blocks; i++) {
		if (!p->entry[i].serial)
			continue;
		unlink_entry(p, i);
		fh_kv_unmark(p->kv, i);
	}
}
