// SPDX-License-Identifier: Apache-2.0
/*
 * KV blocks and prefix cache against a plain model of both: 100,000 random
 * operations.  The model keeps the whole prefix of each known block and scans
 * for everything, so it has neither hashes nor lists to get wrong.
 */
#include <criterion/criterion.h>
#include <stdlib.h>
#include <string.h>

#include "runtime/engine/kv.h"
#include "runtime/engine/prefix.h"

enum { NR_BLOCKS = 48, NR_SEQS = 12, MAX_LEN = 8 * FH_KV_BLOCK };

static uint64_t rng_state = 0x9e3779b97f4a7c15u;

static uint32_t rng(uint32_t below)
{
	rng_state ^= rng_state << 13;
	rng_state ^= rng_state >> 7;
	rng_state ^= rng_state << 17;
	return (uint32_t)((rng_state * 2685821657736338717u >> 32) % below);
}

/* The plain model of one block. */
struct plain {
	uint32_t refs;
	bool known;
	uint32_t prefix[MAX_LEN]; /* all tokens up to and with this block */
	uint32_t nr;
	uint64_t released; /* when it became idle */
};

/* A sequence, as the engine would drive it. */
struct seq {
	bool live;
	uint32_t tokens[MAX_LEN];
	uint32_t nr_tokens, nr_blocks, nr_known;
	uint32_t blocks[MAX_LEN / FH_KV_BLOCK];
	uint64_t hashes[MAX_LEN / FH_KV_BLOCK];
};

static struct plain plain[NR_BLOCKS];
static struct seq seqs[NR_SEQS];
static struct fh_kv kv;
static struct fh_prefix prefix;
static uint64_t now;
static uint32_t nr_hits, nr_evictions, nr_dedups, nr_exhausted;

static uint32_t plain_find(const uint32_t *tokens, uint32_t nr)
{
	for (uint32_t b = 0; b < NR_BLOCKS; b++)
		if (plain[b].known && plain[b].nr == nr && !memcmp(plain[b].prefix, tokens, nr * sizeof(*tokens)))
			return b;
	return FH_NO_BLOCK;
}

static void plain_unref(uint32_t b)
{
	cr_assert_gt(plain[b].refs, 0);
	if (!--plain[b].refs)
		plain[b].released = ++now;
}

/* The real allocator may take any free block, but must evict the one idle for longest. */
static uint32_t alloc(void)
{
	uint32_t nr_free = 0, oldest = FH_NO_BLOCK, b;

	for (b = 0; b < NR_BLOCKS; b++) {
		if (plain[b].refs)
			continue;
		if (!plain[b].known)
			nr_free++;
		else if (oldest == FH_NO_BLOCK || plain[b].released < plain[oldest].released)
			oldest = b;
	}
	b = fh_kv_alloc(&kv);
	if (nr_free) {
		cr_assert(b < NR_BLOCKS && !plain[b].refs && !plain[b].known, "not a free block");
	} else {
		cr_assert_eq(b, oldest, "not the block that was idle for longest");
		nr_evictions += b != FH_NO_BLOCK;
		nr_exhausted += b == FH_NO_BLOCK;
	}
	if (b == FH_NO_BLOCK)
		return b;
	plain[b].refs = 1;
	plain[b].known = false;
	return b;
}

static void release(struct seq *s)
{
	while (s->nr_blocks) {
		uint32_t b = s->blocks[--s->nr_blocks];

		plain_unref(b);
		fh_kv_unref(&kv, b);
	}
	s->live = false;
}

static void start(struct seq *s)
{
	uint32_t family = rng(4), k;
	uint64_t serial = 0;

	memset(s, 0, sizeof(*s));
	s->live = true;
	s->nr_tokens = 1 + rng(MAX_LEN / 2);
	/* Prompts of a family share their beginning. */
	for (uint32_t i = 0; i < s->nr_tokens; i++)
		s->tokens[i] = i < family * 40 + 20 ? family * 1000 + i : rng(3);
	for (k = 0; (k + 1) * FH_KV_BLOCK < s->nr_tokens; k++) {
		const uint32_t *t = s->tokens + k * FH_KV_BLOCK;
		uint32_t want = plain_find(s->tokens, (k + 1) * FH_KV_BLOCK), b;

		s->hashes[k] = fh_prefix_hash(&prefix, k ? s->hashes[k - 1] : 0, t);
		b = fh_prefix_find(&prefix, s->hashes[k], serial, t);
		cr_assert_eq(b, want, "the cache and the model disagree about a prefix");
		if (b == FH_NO_BLOCK)
			break;
		serial = fh_prefix_serial(&prefix, b);
		s->blocks[k] = b;
		fh_kv_ref(&kv, b);
		plain[b].refs++;
		nr_hits++;
	}
	s->nr_blocks = s->nr_known = k;
}

/* The sequence got one token more; whole blocks become known. */
static void grow(struct seq *s, uint32_t nr)
{
	for (; nr && s->live && s->nr_tokens < MAX_LEN; nr--) {
		if (s->nr_tokens == s->nr_blocks * FH_KV_BLOCK || s->nr_blocks * FH_KV_BLOCK < s->nr_tokens) {
			uint32_t b = alloc();

			if (b == FH_NO_BLOCK) {
				release(s);
				return;
			}
			s->blocks[s->nr_blocks++] = b;
			continue;
		}
		s->tokens[s->nr_tokens++] = rng(2);
	}
	while (s->live && (s->nr_known + 1) * FH_KV_BLOCK <= s->nr_tokens && s->nr_known < s->nr_blocks) {
		uint32_t k = s->nr_known++, b = s->blocks[k], known = plain_find(s->tokens, (k + 1) * FH_KV_BLOCK), got;
		const uint32_t *t = s->tokens + k * FH_KV_BLOCK;

		s->hashes[k] = fh_prefix_hash(&prefix, k ? s->hashes[k - 1] : 0, t);
		got = fh_prefix_add(&prefix, b, s->hashes[k], k ? fh_prefix_serial(&prefix, s->blocks[k - 1]) : 0, t);
		if (known != FH_NO_BLOCK) {
			cr_assert_eq(got, known, "a second copy was kept");
			plain[known].refs++;
			plain_unref(b);
			nr_dedups++;
		} else {
			cr_assert_eq(got, b);
			plain[b].known = true;
			plain[b].nr = (k + 1) * FH_KV_BLOCK;
			memcpy(plain[b].prefix, s->tokens, plain[b].nr * sizeof(uint32_t));
		}
		s->blocks[k] = got;
	}
}

static void compare(void)
{
	uint32_t nr_free = 0, nr_cached = 0;

	for (uint32_t b = 0; b < NR_BLOCKS; b++) {
		nr_free += !plain[b].refs && !plain[b].known;
		nr_cached += !plain[b].refs && plain[b].known;
		cr_assert_eq(kv.block[b].refs, plain[b].refs);
		cr_assert_eq(kv.block[b].cached, plain[b].known);
	}
	cr_assert_eq(kv.nr_free, nr_free);
	cr_assert_eq(kv.nr_cached, nr_cached);
	cr_assert(fh_kv_check(&kv));
}

Test(kv, random_operations_against_a_plain_model)
{
	const uint64_t seed[2] = {1, 2};

	cr_assert_eq(fh_kv_init(&kv, NR_BLOCKS), 0);
	cr_assert_eq(fh_prefix_init(&prefix, &kv, seed), 0);
	for (int op = 0; op < 100000; op++) {
		struct seq *s = &seqs[rng(NR_SEQS)];

		if (!s->live)
			start(s);
		else if (rng(6))
			grow(s, 1 + rng(40));
		else
			release(s);
		if (op % 8 == 0)
			compare();
	}
	for (int i = 0; i < NR_SEQS; i++)
		if (seqs[i].live)
			release(&seqs[i]);
	compare();
	cr_assert_eq(kv.nr_free + kv.nr_cached, NR_BLOCKS, "blocks leaked");
	/* The test has gone everywhere. */
	cr_assert(nr_hits > 1000 && nr_evictions > 1000 && nr_dedups > 100 && nr_exhausted > 10,
		  "hits %u evictions %u dedups %u exhausted %u", nr_hits, nr_evictions, nr_dedups, nr_exhausted);
	fh_prefix_forget_all(&prefix);
	cr_assert_eq(kv.nr_free, NR_BLOCKS);
	cr_assert_eq(prefix.nr_entries, 0);
	fh_prefix_destroy(&prefix);
	fh_kv_destroy(&kv);
}

/* Hashes that all collide cost time, not truth. */
Test(kv, a_hash_is_only_a_hint)
{
	const uint64_t seed[2] = {1, 2};
	uint32_t a[FH_KV_BLOCK], b[FH_KV_BLOCK], first, second, third;

	for (uint32_t i = 0; i < FH_KV_BLOCK; i++) {
		a[i] = i;
		b[i] = i + 1;
	}
	cr_assert_eq(fh_kv_init(&kv, 4), 0);
	cr_assert_eq(fh_prefix_init(&prefix, &kv, seed), 0);
	first = fh_kv_alloc(&kv);
	second = fh_kv_alloc(&kv);
	third = fh_kv_alloc(&kv);
	cr_assert_eq(fh_prefix_add(&prefix, first, 42, 0, a), first);
	cr_assert_eq(fh_prefix_add(&prefix, second, 42, 0, b), second);
	/* The same tokens, after another prefix. */
	cr_assert_eq(fh_prefix_add(&prefix, third, 42, fh_prefix_serial(&prefix, first), a), third);
	cr_assert_eq(fh_prefix_find(&prefix, 42, 0, a), first);
	cr_assert_eq(fh_prefix_find(&prefix, 42, 0, b), second);
	cr_assert_eq(fh_prefix_find(&prefix, 42, fh_prefix_serial(&prefix, first), a), third);
	cr_assert_eq(fh_prefix_find(&prefix, 42, fh_prefix_serial(&prefix, second), a), FH_NO_BLOCK);
	cr_assert_eq(fh_prefix_find(&prefix, 43, 0, a), FH_NO_BLOCK);
	fh_prefix_destroy(&prefix);
	fh_kv_destroy(&kv);
}
