// SPDX-License-Identifier: Apache-2.0
/* Hashes, roots and proofs. The recursions are those of RFC 6962, 2.1; no deeper than 64. */
#include "runtime/trust/merkle.h"

#include <assert.h>
#include <errno.h>
#include <sodium.h>
#include <string.h>

void fh_leaf_hash(const void *entry, size_t bytes, struct fh_hash *out)
{
	static const uint8_t prefix = 0;
	crypto_hash_sha256_state st;

	crypto_hash_sha256_init(&st);
	crypto_hash_sha256_update(&st, &prefix, 1);
	crypto_hash_sha256_update(&st, entry, bytes);
	crypto_hash_sha256_final(&st, out->b);
}

void fh_node_hash(const struct fh_hash *left, const struct fh_hash *right, struct fh_hash *out)
{
	uint8_t both[1 + 2 * FH_HASH_BYTES];

	both[0] = 1;
	memcpy(both + 1, left->b, FH_HASH_BYTES);
	memcpy(both + 1 + FH_HASH_BYTES, right->b, FH_HASH_BYTES);
	crypto_hash_sha256(out->b, both, sizeof(both));
}

/* The largest power of two below @n, as a shift; @n > 1. */
static unsigned int split_bits(uint64_t n)
{
	return 63 - (unsigned int)__builtin_clzll(n - 1);
}

/* The complete subtree of 2^@bits entries that begins at @lo. */
static int subtree_hash(const struct fh_hashes *h, uint64_t lo, unsigned int bits, struct fh_hash *out)
{
	struct fh_hash part[FH_TILE_WIDTH / 2];
	unsigned int level = bits / 8;
	uint32_t nr = 1u << bits % 8;
	int rc = 0;

	if (nr == 1)
		return h->at(h->ctx, level, lo >> 8 * level, out);
	for (uint32_t i = 0; i < nr && !rc; i++)
		rc = h->at(h->ctx, level, (lo >> 8 * level) + i, &part[i]);
	for (; nr > 1 && !rc; nr /= 2)
		for (uint32_t i = 0; i < nr / 2; i++)
			fh_node_hash(&part[2 * i], &part[2 * i + 1], &part[i]);
	*out = part[0];
	return rc;
}

int fh_range_hash(const struct fh_hashes *h, uint64_t lo, uint64_t hi, struct fh_hash *out)
{
	struct fh_hash left, right;
	uint64_t n = hi - lo, mid;
	int rc;

	if (!n) {
		crypto_hash_sha256(out->b, NULL, 0);
		return 0;
	}
	if (!(n & (n - 1)) && !(lo & (n - 1)))
		return subtree_hash(h, lo, (unsigned int)__builtin_ctzll(n), out);
	mid = lo + (1ull << split_bits(n));
	rc = fh_range_hash(h, lo, mid, &left);
	if (!rc)
		rc = fh_range_hash(h, mid, hi, &right);
	if (!rc)
		fh_node_hash(&left, &right, out);
	return rc;
}

/* Going down is a loop; what is met on the way belongs at the proof's end. */
static void reverse(struct fh_hash *proof, uint32_t nr)
{
	for (uint32_t i = 0; i < nr / 2; i++) {
		struct fh_hash t = proof[i];

		proof[i] = proof[nr - 1 - i];
		proof[nr - 1 - i] = t;
	}
}

int fh_prove_inclusion(const struct fh_hashes *h, uint64_t m, uint64_t n, struct fh_hash *proof, uint32_t *nr)
{
	uint64_t lo = 0, hi = n;
	int rc = 0;

	*nr = 0;
	if (m >= n)
		return -EINVAL;
	while (hi - lo > 1 && !rc) {
		uint64_t mid = lo + (1ull << split_bits(hi - lo));

		assert(*nr < FH_MAX_PROOF);
		if (m < mid) {
			rc = fh_range_hash(h, mid, hi, &proof[(*nr)++]);
			hi = mid;
		} else {
			rc = fh_range_hash(h, lo, mid, &proof[(*nr)++]);
			lo = mid;
		}
	}
	reverse(proof, *nr);
	return rc;
}

int fh_prove_consistency(const struct fh_hashes *h, uint64_t m, uint64_t n, struct fh_hash *proof, uint32_t *nr)
{
	uint64_t lo = 0, hi = n;
	bool whole = true; /* the old tree is all of lo .. m - 1, and its root is known to the reader */
	int rc = 0;

	*nr = 0;
	if (!m || m > n)
		return -EINVAL;
	while (m != hi && !rc) {
		uint64_t mid = lo + (1ull << split_bits(hi - lo));

		assert(*nr < FH_MAX_PROOF);
		if (m <= mid) {
			rc = fh_range_hash(h, mid, hi, &proof[(*nr)++]);
			hi = mid;
		} else {
			rc = fh_range_hash(h, lo, mid, &proof[(*nr)++]);
			lo = mid;
			whole = false;
		}
	}
	if (!whole && !rc) {
		assert(*nr < FH_MAX_PROOF);
		rc = fh_range_hash(h, lo, hi, &proof[(*nr)++]);
	}
	reverse(proof, *nr);
	return rc;
}

static bool same(const struct fh_hash *a, const struct fh_hash *b)
{
	return !memcmp(a->b, b->b, FH_HASH_BYTES);
}

bool fh_check_inclusion(uint64_t m, uint64_t n, const struct fh_hash *leaf, const struct fh_hash *proof, uint32_t nr,
			const struct fh_hash *root)
{
	struct fh_hash r = *leaf;
	uint64_t fn = m, sn = n - 1;

	if (m >= n)
		return false;
	for (uint32_t i = 0; i < nr; i++) {
		if (!sn)
			return false;
		if (fn & 1 || fn == sn) {
			fh_node_hash(&proof[i], &r, &r);
			while (!(fn & 1) && fn) {
				fn >>= 1;
				sn >>= 1;
			}
		} else {
			fh_node_hash(&r, &proof[i], &r);
		}
		fn >>= 1;
		sn >>= 1;
	}
	return !sn && same(&r, root);
}

bool fh_check_consistency(uint64_t m, uint64_t n, const struct fh_hash *old_root, const struct fh_hash *root,
			  const struct fh_hash *proof, uint32_t nr)
{
	uint64_t fn = m - 1, sn = n - 1;
	struct fh_hash fr, sr;
	uint32_t i = 0;

	if (!m || m > n)
		return false;
	if (m == n)
		return !nr && same(old_root, root);
	/* A complete old tree is the proof's first hash, left out. */
	if (!(m & (m - 1))) {
		fr = *old_root;
	} else {
		if (!nr)
			return false;
		fr = proof[i++];
	}
	sr = fr;
	for (; fn & 1; fn >>= 1)
		sn >>= 1;
	for (; i < nr; i++) {
		if (!sn)
			return false;
		if (fn & 1 || fn == sn) {
			fh_node_hash(&proof[i], &fr, &fr);
			fh_node_hash(&proof[i], &sr, &sr);
			while (!(fn & 1) && fn) {
				fn >>= 1;
				sn >>= 1;
			}
		} else {
			fh_node_hash(&sr, &proof[i], &sr);
		}
		fn >>= 1;
		sn >>= 1;
	}
	return !sn && same(&fr, old_root) && same(&sr, root);
}

void fh_tree_append(struct fh_tree *t, const struct fh_hash *leaf)
{
	struct fh_hash row[FH_TILE_WIDTH / 2], h = *leaf;
	uint64_t at = t->nr++;

	for (unsigned int level = 0; level < FH_TILE_LEVELS; level++) {
		t->hash[level][at % FH_TILE_WIDTH] = h;
		if (at % FH_TILE_WIDTH != FH_TILE_WIDTH - 1)
			return;
		/* The tile is whole: its root is a hash of the next level. */
		for (uint32_t i = 0; i < FH_TILE_WIDTH / 2; i++)
			fh_node_hash(&t->hash[level][2 * i], &t->hash[level][2 * i + 1], &row[i]);
		for (uint32_t nr = FH_TILE_WIDTH / 2; nr > 1; nr /= 2)
			for (uint32_t i = 0; i < nr / 2; i++)
				fh_node_hash(&row[2 * i], &row[2 * i + 1], &row[i]);
		h = row[0];
		at /= FH_TILE_WIDTH;
	}
}

static int tree_at(void *ctx, unsigned int level, uint64_t index, struct fh_hash *out)
{
	struct fh_tree *t = ctx;
	uint64_t nr = fh_level_nr(t->nr, level);

	if (level >= FH_TILE_LEVELS || index >= nr || index / FH_TILE_WIDTH != (nr - 1) / FH_TILE_WIDTH)
		return -ENOENT;
	*out = t->hash[level][index % FH_TILE_WIDTH];
	return 0;
}

struct fh_hashes fh_tree_hashes(struct fh_tree *t)
{
	return (struct fh_hashes){.ctx = t, .at = tree_at};
}

void fh_tree_root(struct fh_tree *t, struct fh_hash *out)
{
	struct fh_hashes h = fh_tree_hashes(t);
	int rc = fh_range_hash(&h, 0, t->nr, out);

	/* A root needs the rightmost hashes of each level only, and those are here. */
	assert(!rc);
	(void)rc;
}
