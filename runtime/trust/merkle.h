/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The Merkle tree of RFC 6962 (and 9162), section 2.1, over SHA-256, and its
 * cut into tiles as C2SP tlog-tiles has it.
 *
 *   leaf hash   SHA-256(0x00 || entry)
 *   node hash   SHA-256(0x01 || left || right)
 *
 * Level L of the tiles holds the hashes of complete subtrees of 256^L entries;
 * tile N of a level, hashes 256 N to 256 N + 255.  Whatever can say the hash at
 * (level, index) is a struct fh_hashes: the running tree, or a folder of tiles.
 * Every hash of a range of entries, and so every root and proof of every earlier
 * size, is computed from those alone.
 *
 * The running tree keeps the rightmost tile of each level and nothing else:
 * 8 KiB a level.
 */
#ifndef FH_TRUST_MERKLE_H
#define FH_TRUST_MERKLE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define FH_HASH_BYTES 32
#define FH_TILE_WIDTH 256u
#define FH_TILE_LEVELS 8 /* 256^8 entries are more than there are */
#define FH_MAX_PROOF 64	 /* hashes in a proof: one a level of the tree */

struct fh_hash {
	uint8_t b[FH_HASH_BYTES];
};

struct fh_hashes {
	void *ctx;
	/* The hash of complete subtree @index of 256^@level entries: 0, or -errno. */
	int (*at)(void *ctx, unsigned int level, uint64_t index, struct fh_hash *out);
};

void fh_leaf_hash(const void *entry, size_t bytes, struct fh_hash *out);
void fh_node_hash(const struct fh_hash *left, const struct fh_hash *right, struct fh_hash *out);

/* MTH of entries @lo .. @hi - 1, as RFC 6962 has it; @lo < @hi, or both 0 for the empty tree. */
int fh_range_hash(const struct fh_hashes *h, uint64_t lo, uint64_t hi, struct fh_hash *out);

/* PATH(m, D[n]): @proof [FH_MAX_PROOF].  0, -EINVAL for m >= n, or what @h said. */
int fh_prove_inclusion(const struct fh_hashes *h, uint64_t m, uint64_t n, struct fh_hash *proof, uint32_t *nr);
/* PROOF(m, D[n]), 0 < m <= n. */
int fh_prove_consistency(const struct fh_hashes *h, uint64_t m, uint64_t n, struct fh_hash *proof, uint32_t *nr);

/* As in RFC 9162, 2.1.3.2 and 2.1.4.2. False: it proves nothing. */
bool fh_check_inclusion(uint64_t m, uint64_t n, const struct fh_hash *leaf, const struct fh_hash *proof, uint32_t nr,
			const struct fh_hash *root);
bool fh_check_consistency(uint64_t m, uint64_t n, const struct fh_hash *old_root, const struct fh_hash *root,
			  const struct fh_hash *proof, uint32_t nr);

struct fh_tree {
	uint64_t nr; /* entries */
	/* hash[L][k]: index k of the rightmost tile of level L; the last tile is kept whole until the next begins. */
	struct fh_hash hash[FH_TILE_LEVELS][FH_TILE_WIDTH];
};

/* Append a leaf hash. */
void fh_tree_append(struct fh_tree *t, const struct fh_hash *leaf);
/* The tree's own hashes: those in the rightmost tiles, else -ENOENT. */
struct fh_hashes fh_tree_hashes(struct fh_tree *t);
void fh_tree_root(struct fh_tree *t, struct fh_hash *out);

/* How many hashes level @level of a tree of @nr entries has. */
static inline uint64_t fh_level_nr(uint64_t nr, unsigned int level)
{
	return level < 8 ? nr >> (8 * level) : 0;
}

#define FH_TILE_PATH_MAX 80

/*
 * "tile/0/x001/067", "tile/entries/000.p/5": @level of hashes, or -1 for
 * entries; @width 1..256, where 256 is a whole tile.
 */
void fh_tile_path(int level, uint64_t index, uint32_t width, char out[FH_TILE_PATH_MAX]);
/* The reverse; false for what fh_tile_path() would not write. */
bool fh_tile_parse(const char *path, int *level, uint64_t *index, uint32_t *width);

#endif /* FH_TRUST_MERKLE_H */
