/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Containers of the tokenizer: a pool of byte strings, a hash table from
 * string to index in such a pool, and one from a pair of numbers to a number.
 *
 * Built once by one thread, then only read.  Hashes are seeded per tokenizer,
 * so that a file cannot be made to collide.
 */
#ifndef FH_MODEL_TOK_MAP_H
#define FH_MODEL_TOK_MAP_H

#include <stddef.h>
#include <stdint.h>

#include "runtime/model/gguf.h" /* struct fh_str */

/* String i is p[at[i] .. at[i + 1]); at holds nr + 1 entries once anything was added. */
struct fh_pool {
	char *p;
	uint32_t *at;
	size_t cap;
	uint32_t nr, nr_cap;
};

/* Append @n bytes as a new string, or (fh_pool_grow) to the last one.  0, -ENOMEM, or -E2BIG above 4 GiB. */
int fh_pool_add(struct fh_pool *pool, const char *s, size_t n);
int fh_pool_grow(struct fh_pool *pool, const char *s, size_t n);
/* Empty the last string. */
static inline void fh_pool_cut(struct fh_pool *pool)
{
	pool->at[pool->nr] = pool->at[pool->nr - 1];
}
void fh_pool_free(struct fh_pool *pool);

static inline struct fh_str fh_pool_get(const struct fh_pool *pool, uint32_t i)
{
	return (struct fh_str){pool->p + pool->at[i], pool->at[i + 1] - pool->at[i]};
}

#define FH_MAP_NONE UINT32_MAX

/* From string to its index in @pool. */
struct fh_strmap {
	struct fh_strmap_slot {
		uint32_t hash, index;
	} * slots;
	uint32_t mask, nr;
	uint64_t seed;
};

int fh_strmap_init(struct fh_strmap *m, uint32_t nr, uint64_t seed);
/* The index of the string equal to @s, or FH_MAP_NONE. */
uint32_t fh_strmap_get(const struct fh_strmap *m, const struct fh_pool *pool, const char *s, size_t n);
/* Add string @i of @pool; where an equal one is known that one stays.  Returns whichever is known now, or -ENOMEM. */
int64_t fh_strmap_add(struct fh_strmap *m, const struct fh_pool *pool, uint32_t i);
void fh_strmap_free(struct fh_strmap *m);

/* From (left, right) to a value; (UINT32_MAX, UINT32_MAX) cannot be a key. */
struct fh_pairmap {
	struct fh_pairmap_slot {
		uint64_t key, value;
	} * slots;
	uint64_t mask, nr;
	uint64_t seed;
};

#define FH_PAIR_NONE UINT64_MAX

int fh_pairmap_init(struct fh_pairmap *m, uint64_t nr, uint64_t seed);
/* An existing value stays.  0 or -ENOMEM. */
int fh_pairmap_add(struct fh_pairmap *m, uint32_t left, uint32_t right, uint64_t value);
void fh_pairmap_free(struct fh_pairmap *m);

/* One multiplication of 64 x 64 bits, folded: spreads every input bit (as wyhash, public domain, does). */
static inline uint64_t fh_mix(uint64_t a, uint64_t b)
{
	unsigned __int128 m = (unsigned __int128)a * b;

	return (uint64_t)m ^ (uint64_t)(m >> 64);
}

static inline uint64_t fh_pairmap_get(const struct fh_pairmap *m, uint32_t left, uint32_t right)
{
	uint64_t key = (uint64_t)left << 32 | right;

	for (uint64_t i = fh_mix(key ^ m->seed, 0x9e3779b97f4a7c15u) & m->mask;; i = (i + 1) & m->mask) {
		if (m->slots[i].key == key)
			return m->slots[i].value;
		if (m->slots[i].key == FH_PAIR_NONE)
			return FH_PAIR_NONE;
	}
}

#endif /* FH_MODEL_TOK_MAP_H */
