// SPDX-License-Identifier: Apache-2.0
/*
 * Names to records, in constant time whatever the names are.
 *
 * The names come from a file that a stranger may have made, so the hash is
 * SipHash-2-4 (Aumasson and Bernstein, 2012) under a key that only this process
 * knows: nobody can prepare a file whose names all fall on one slot.  The table
 * owns its slots; the records stay the caller's.
 */
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <time.h>

#include "runtime/model/gguf_priv.h"

static inline uint64_t rotl(uint64_t x, int b)
{
	return (x << b) | (x >> (64 - b));
}

static inline void sip_rounds(uint64_t v[4], int n)
{
	while (n--) {
		v[0] += v[1];
		v[2] += v[3];
		v[1] = rotl(v[1], 13) ^ v[0];
		v[3] = rotl(v[3], 16) ^ v[2];
		v[0] = rotl(v[0], 32);
		v[2] += v[1];
		v[0] += v[3];
		v[1] = rotl(v[1], 17) ^ v[2];
		v[3] = rotl(v[3], 21) ^ v[0];
		v[2] = rotl(v[2], 32);
	}
}

static uint64_t siphash(const uint64_t seed[2], struct fh_str s)
{
	uint64_t v[4] = {seed[0] ^ 0x736f6d6570736575, seed[1] ^ 0x646f72616e646f6d, seed[0] ^ 0x6c7967656e657261,
			 seed[1] ^ 0x7465646279746573};
	uint64_t last = (uint64_t)s.n << 56;
	size_t i;

	for (i = 0; i + 8 <= s.n; i += 8) {
		uint64_t m = gguf_le64((const uint8_t *)s.p + i);

		v[3] ^= m;
		sip_rounds(v, 2);
		v[0] ^= m;
	}
	for (size_t j = 0; i + j < s.n; j++)
		last |= (uint64_t)(uint8_t)s.p[i + j] << (8 * j);
	v[3] ^= last;
	sip_rounds(v, 2);
	v[0] ^= last;
	v[2] ^= 0xff;
	sip_rounds(v, 4);
	return v[0] ^ v[1] ^ v[2] ^ v[3];
}

static const struct fh_str *record(const struct gguf_table *t, uint32_t index)
{
	return (const struct fh_str *)(t->items + (size_t)index * t->stride);
}

/* The slot that holds @name, or the free one where it belongs. */
static uint32_t probe(const struct gguf_table *t, struct fh_str name)
{
	uint32_t at = (uint32_t)siphash(t->seed, name) & t->mask;

	while (t->slot[at]) {
		const struct fh_str *s = record(t, t->slot[at] - 1);

		if (s->n == name.n && !memcmp(s->p, name.p, name.n))
			break;
		at = (at + 1) & t->mask;
	}
	return at;
}

int gguf_table_build(struct gguf_table *t, const void *items, size_t stride, uint64_t n, uint64_t *dup)
{
	uint32_t size = 8;

	while (size < 2 * n)
		size *= 2;
	t->slot = calloc(size, sizeof(*t->slot));
	if (!t->slot)
		return -ENOMEM;
	t->mask = size - 1;
	t->items = items;
	t->stride = stride;
	if (getrandom(t->seed, sizeof(t->seed), GRND_NONBLOCK) != sizeof(t->seed)) {
		struct timespec now;

		clock_gettime(CLOCK_MONOTONIC, &now);
		t->seed[0] = (uint64_t)(uintptr_t)t->slot * 0x9e3779b97f4a7c15;
		t->seed[1] = (uint64_t)now.tv_nsec ^ ((uint64_t)now.tv_sec << 32);
	}
	for (uint64_t i = 0; i < n; i++) {
		uint32_t at = probe(t, *record(t, (uint32_t)i));

		if (t->slot[at]) {
			*dup = i;
			return -EEXIST;
		}
		t->slot[at] = (uint32_t)i + 1;
	}
	return 0;
}

const void *gguf_table_find(const struct gguf_table *t, struct fh_str name)
{
	uint32_t at;

	if (!t->slot)
		return NULL;
	at = probe(t, name);
	return t->slot[at] ? record(t, t->slot[at] - 1) : NULL;
}

void gguf_table_free(struct gguf_table *t)
{
	free(t->slot);
	t->slot = NULL;
}
