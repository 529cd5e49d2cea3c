// SPDX-License-Identifier: Apache-2.0
/*
 * Open addressing with linear probing, at most half full.  The tables own
 * their slots; a string table borrows the strings from a pool that its owner
 * passes with every call, because the pool moves while it grows.
 */
#include "runtime/model/tok_map.h"

#include <stdlib.h>
#include <string.h>

static int pool_reserve(struct fh_pool *pool, size_t n)
{
	size_t used = pool->nr ? pool->at[pool->nr] : 0, cap = pool->cap;
	char *p;

	if (n > UINT32_MAX - used)
		return -E2BIG;
	if (cap && used + n <= cap)
		return 0;
	for (cap = cap ? cap : 4096; cap < used + n;)
		cap += cap / 2;
	p = realloc(pool->p, cap);
	if (!p)
		return -ENOMEM;
	pool->p = p;
	pool->cap = cap;
	return 0;
}

int fh_pool_add(struct fh_pool *pool, const char *s, size_t n)
{
	int rc = pool_reserve(pool, n);

	if (rc)
		return rc;
	if (pool->nr + 2 > pool->nr_cap) {
		uint32_t cap = pool->nr_cap ? pool->nr_cap * 2 : 1024;
		uint32_t *at = realloc(pool->at, cap * sizeof(*at));

		if (!at)
			return -ENOMEM;
		if (!pool->nr_cap)
			at[0] = 0;
		pool->at = at;
		pool->nr_cap = cap;
	}
	if (n)
		memcpy(pool->p + pool->at[pool->nr], s, n);
	pool->at[pool->nr + 1] = pool->at[pool->nr] + (uint32_t)n;
	pool->nr++;
	return 0;
}

int fh_pool_grow(struct fh_pool *pool, const char *s, size_t n)
{
	int rc = pool_reserve(pool, n);

	if (rc)
		return rc;
	if (n)
		memcpy(pool->p + pool->at[pool->nr], s, n);
	pool->at[pool->nr] += (uint32_t)n;
	return 0;
}

void fh_pool_free(struct fh_pool *pool)
{
	free(pool->p);
	free(pool->at);
	*pool = (struct fh_pool){0};
}

static uint64_t load_tail(const char *s, size_t n)
{
	uint64_t v = 0;

	memcpy(&v, s, n);
	return v;
}

static uint32_t hash_bytes(const char *s, size_t n, uint64_t seed)
{
	uint64_t h = seed ^ n * 0x9e3779b97f4a7c15u;

	for (; n >= 8; s += 8, n -= 8)
		h = fh_mix(h ^ load_tail(s, 8), 0xd6e8feb86659fd93u);
	return (uint32_t)fh_mix(h ^ load_tail(s, n), 0xa0761d6478bd642fu);
}

int fh_strmap_init(struct fh_strmap *m, uint32_t nr, uint64_t seed)
{
	uint64_t size = 16;

	while (size < (uint64_t)nr * 2)
		size *= 2;
	m->slots = malloc(size * sizeof(*m->slots));
	if (!m->slots)
		return -ENOMEM;
	for (uint64_t i = 0; i < size; i++)
		m->slots[i].index = FH_MAP_NONE;
	m->mask = (uint32_t)(size - 1);
	m->nr = 0;
	m->seed = seed;
	return 0;
}

/* The slot that holds @s or where it would go. */
static uint32_t strmap_find(const struct fh_strmap *m, const struct fh_pool *pool, const char *s, size_t n,
			    uint32_t hash)
{
	uint32_t i = hash & m->mask;

	for (; m->slots[i].index != FH_MAP_NONE; i = (i + 1) & m->mask) {
		struct fh_str known;

		if (m->slots[i].hash != hash)
			continue;
		known = fh_pool_get(pool, m->slots[i].index);
		if (known.n == n && !memcmp(known.p, s, n))
			break;
	}
	return i;
}

uint32_t fh_strmap_get(const struct fh_strmap *m, const struct fh_pool *pool, const char *s, size_t n)
{
	return m->slots[strmap_find(m, pool, s, n, hash_bytes(s, n, m->seed))].index;
}

static int strmap_double(struct fh_strmap *m)
{
	struct fh_strmap bigger = {0};
	int rc;

	if (m->mask >= UINT32_MAX / 2)
		return -ENOMEM;
	rc = fh_strmap_init(&bigger, m->mask + 1, m->seed);
	if (rc)
		return rc;
	for (uint64_t i = 0; i <= m->mask; i++) {
		uint32_t k = m->slots[i].hash & bigger.mask;

		if (m->slots[i].index == FH_MAP_NONE)
			continue;
		while (bigger.slots[k].index != FH_MAP_NONE)
			k = (k + 1) & bigger.mask;
		bigger.slots[k] = m->slots[i];
	}
	bigger.nr = m->nr;
	free(m->slots);
	*m = bigger;
	return 0;
}

int64_t fh_strmap_add(struct fh_strmap *m, const struct fh_pool *pool, uint32_t i)
{
	struct fh_str s = fh_pool_get(pool, i);
	uint32_t hash = hash_bytes(s.p, s.n, m->seed), slot = strmap_find(m, pool, s.p, s.n, hash);

	if (m->slots[slot].index != FH_MAP_NONE)
		return m->slots[slot].index;
	if (m->nr >= m->mask / 2) {
		int rc = strmap_double(m);

		if (rc)
			return rc;
		slot = strmap_find(m, pool, s.p, s.n, hash);
	}
	m->slots[slot] = (struct fh_strmap_slot){hash, i};
	m->nr++;
	return i;
}

void fh_strmap_free(struct fh_strmap *m)
{
	free(m->slots);
	m->slots = NULL;
}

int fh_pairmap_init(struct fh_pairmap *m, uint64_t nr, uint64_t seed)
{
	uint64_t size = 16;

	while (size < nr * 2)
		size *= 2;
	m->slots = malloc(size * sizeof(*m->slots));
	if (!m->slots)
		return -ENOMEM;
	memset(m->slots, 0xff, size * sizeof(*m->slots));
	m->mask = size - 1;
	m->nr = 0;
	m->seed = seed;
	return 0;
}

static struct fh_pairmap_slot *pairmap_find(const struct fh_pairmap *m, uint64_t key)
{
	uint64_t i = fh_mix(key ^ m->seed, 0x9e3779b97f4a7c15u) & m->mask;

	while (m->slots[i].key != key && m->slots[i].key != FH_PAIR_NONE)
		i = (i + 1) & m->mask;
	return &m->slots[i];
}

static int pairmap_double(struct fh_pairmap *m)
{
	struct fh_pairmap bigger = {0};
	int rc = fh_pairmap_init(&bigger, m->mask + 1, m->seed);

	if (rc)
		return rc;
	for (uint64_t i = 0; i <= m->mask; i++)
		if (m->slots[i].key != FH_PAIR_NONE)
			*pairmap_find(&bigger, m->slots[i].key) = m->slots[i];
	bigger.nr = m->nr;
	free(m->slots);
	*m = bigger;
	return 0;
}

int fh_pairmap_add(struct fh_pairmap *m, uint32_t left, uint32_t right, uint64_t value)
{
	uint64_t key = (uint64_t)left << 32 | right;
	struct fh_pairmap_slot *slot;

	if (m->nr >= m->mask / 2) {
		int rc = pairmap_double(m);

		if (rc)
			return rc;
	}
	slot = pairmap_find(m, key);
	if (slot->key == key)
		return 0;
	*slot = (struct fh_pairmap_slot){key, value};
	m->nr++;
	return 0;
}

void fh_pairmap_free(struct fh_pairmap *m)
{
	free(m->slots);
	m->slots = NULL;
}
