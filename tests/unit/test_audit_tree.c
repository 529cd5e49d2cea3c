// SPDX-License-Identifier: Apache-2.0
/*
 * The audit log's tree against known answers (the eight entries that RFC 6962's
 * reference implementations share) and against a plain recursion over all
 * leaves; every inclusion and consistency proof of every size up to 70, and
 * around the borders of tiles; names of tiles; signed notes.
 */
#include <criterion/criterion.h>
#include <sodium.h>
#include <stdlib.h>
#include <string.h>

#include "runtime/trust/body.h"
#include "runtime/trust/merkle.h"
#include "runtime/trust/note.h"
#include "runtime/trust/record.h"

static void from_hex(const char *hex, struct fh_hash *out)
{
	cr_assert(!sodium_hex2bin(out->b, sizeof(*out), hex, strlen(hex), NULL, NULL, NULL));
}

static bool same(const struct fh_hash *a, const struct fh_hash *b)
{
	return !memcmp(a, b, sizeof(*a));
}

Test(tree, known_answers)
{
	static const struct {
		const char *entry;
		size_t n;
		const char *root; /* of the tree that ends with it */
	} known[] = {
		{"", 0, "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d"},
		{"\x00", 1, "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125"},
		{"\x10", 1, "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77"},
		{"\x20\x21", 2, "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7"},
		{"\x30\x31", 2, "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4"},
		{"\x40\x41\x42\x43", 4, "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef"},
		{"\x50\x51\x52\x53\x54\x55\x56\x57", 8,
		 "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c"},
		{"\x60\x61\x62\x63\x64\x65\x66\x67\x68\x69\x6a\x6b\x6c\x6d\x6e\x6f", 16,
		 "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328"},
	};
	struct fh_tree *t = calloc(1, sizeof(*t));
	struct fh_hash h, want;

	fh_tree_root(t, &h);
	from_hex("e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855", &want);
	cr_expect(same(&h, &want));
	for (size_t i = 0; i < sizeof(known) / sizeof(known[0]); i++) {
		fh_leaf_hash(known[i].entry, known[i].n, &h);
		fh_tree_append(t, &h);
		fh_tree_root(t, &h);
		from_hex(known[i].root, &want);
		cr_expect(same(&h, &want), "%zu entries", i + 1);
	}
	free(t);
}

/* ---- a tree that keeps everything ---- */

enum { MAX = 256 * 256 + 600 };

struct plain {
	struct fh_hash leaf[MAX], tile1[MAX / 256 + 1], tile2[2];
};

static void mth(const struct fh_hash *leaf, uint64_t n, struct fh_hash *out)
{
	struct fh_hash l, r;
	uint64_t k = 1;

	if (n == 1) {
		*out = *leaf;
		return;
	}
	while (k * 2 < n)
		k *= 2;
	mth(leaf, k, &l);
	mth(leaf + k, n - k, &r);
	fh_node_hash(&l, &r, out);
}

static struct plain *make_plain(void)
{
	struct plain *p = malloc(sizeof(*p));

	cr_assert(sodium_init() >= 0);
	for (uint32_t i = 0; i < MAX; i++)
		fh_leaf_hash(&i, sizeof(i), &p->leaf[i]);
	for (uint32_t i = 0; (i + 1) * 256 <= MAX; i++)
		mth(p->leaf + i * 256, 256, &p->tile1[i]);
	mth(p->tile1, 256, &p->tile2[0]);
	return p;
}

static int plain_at(void *ctx, unsigned int level, uint64_t index, struct fh_hash *out)
{
	struct plain *p = ctx;

	cr_assert(level <= 2);
	*out = level == 2 ? p->tile2[index] : level ? p->tile1[index] : p->leaf[index];
	return 0;
}

Test(tree, roots)
{
	struct plain *p = make_plain();
	struct fh_hashes h = {p, plain_at};
	struct fh_tree *t = calloc(1, sizeof(*t));
	struct fh_hash want, got;

	for (uint32_t n = 1; n <= MAX; n++) {
		fh_tree_append(t, &p->leaf[n - 1]);
		if (n > 600 && n % 4099 && n < 256 * 256 - 2)
			continue;
		mth(p->leaf, n, &want);
		fh_tree_root(t, &got);
		cr_assert(same(&got, &want), "%u entries", n);
		cr_assert(!fh_range_hash(&h, 0, n, &got));
		cr_assert(same(&got, &want), "%u entries, from tiles", n);
		if (n > 256 * 256 + 4)
			break;
	}
	free(t);
	free(p);
}

static void check_proofs(struct plain *p, uint64_t m, uint64_t n)
{
	struct fh_hashes h = {p, plain_at};
	struct fh_hash proof[FH_MAX_PROOF], root, old, bad;
	uint32_t nr;

	mth(p->leaf, n, &root);
	cr_assert(!fh_prove_inclusion(&h, m, n, proof, &nr));
	cr_assert(fh_check_inclusion(m, n, &p->leaf[m], proof, nr, &root), "%lu of %lu", m, n);
	cr_assert(!fh_check_inclusion(m, n, &p->leaf[(m + 1) % MAX], proof, nr, &root));
	cr_assert(n == 1 || !fh_check_inclusion((m + 1) % n, n, &p->leaf[m], proof, nr, &root));
	for (uint32_t i = 0; i < nr; i++) {
		bad = proof[i];
		proof[i].b[i % 32] ^= 1;
		cr_assert(!fh_check_inclusion(m, n, &p->leaf[m], proof, nr, &root));
		proof[i] = bad;
	}
	cr_assert(!nr || !fh_check_inclusion(m, n, &p->leaf[m], proof, nr - 1, &root));
	cr_assert(!fh_prove_consistency(&h, m + 1, n, proof, &nr));
	mth(p->leaf, m + 1, &old);
	cr_assert(fh_check_consistency(m + 1, n, &old, &root, proof, nr), "%lu to %lu", m + 1, n);
	bad = old;
	bad.b[7] ^= 4;
	cr_assert(!fh_check_consistency(m + 1, n, &bad, &root, proof, nr));
	for (uint32_t i = 0; i < nr; i++) {
		proof[i].b[i % 32] ^= 1;
		cr_assert(!fh_check_consistency(m + 1, n, &old, &root, proof, nr), "%lu to %lu: %u", m + 1, n, i);
		proof[i].b[i % 32] ^= 1;
	}
}

Test(tree, proofs)
{
	struct plain *p = make_plain();
	struct fh_hash proof[FH_MAX_PROOF];
	struct fh_hashes h = {p, plain_at};
	uint32_t nr;

	for (uint64_t n = 1; n <= 70; n++)
		for (uint64_t m = 0; m < n; m++)
			check_proofs(p, m, n);
	for (uint64_t n = 254; n <= 258; n++)
		for (uint64_t m = 0; m < n; m += m < 250 ? 31 : 1)
			check_proofs(p, m, n);
	check_proofs(p, 65535, 65536 + 300);
	check_proofs(p, 65536, 65536 + 300);
	check_proofs(p, 300, 65536);
	cr_expect_eq(fh_prove_inclusion(&h, 5, 5, proof, &nr), -EINVAL);
	cr_expect_eq(fh_prove_consistency(&h, 0, 5, proof, &nr), -EINVAL);
	cr_expect_eq(fh_prove_consistency(&h, 6, 5, proof, &nr), -EINVAL);
	cr_expect_not(fh_check_inclusion(0, 0, &p->leaf[0], proof, 0, &p->leaf[0]));
	cr_expect_not(fh_check_consistency(0, 1, &p->leaf[0], &p->leaf[0], proof, 0));
	free(p);
}

/* ---- names ---- */

Test(tree, names_of_tiles)
{
	static const struct {
		int level;
		uint64_t index;
		uint32_t width;
		const char *path;
	} known[] = {
		{0, 0, 256, "tile/0/000"},
		{0, 1067, 256, "tile/0/x001/067"},
		{3, 1234067, 256, "tile/3/x001/x234/067"},
		{-1, 999, 5, "tile/entries/999.p/5"},
		{1, 1000, 255, "tile/1/x001/000.p/255"},
	};
	static const char *const wrong[] = {
		"tile/0",	   "tile/0/",	       "tile/0/00",
		"tile/0/0000",	   "tile/0/x000/001",  "tile/00/001",
		"tile/0/001.p/0",  "tile/0/001.p/256", "tile/0/001.p/05",
		"tile/0/001.p",	   "tile/64/000",      "tile/-1/000",
		"tile/entries",	   "tile/0/001/067",   "tile/0/x001",
		"tile/0/001.p/5/", "checkpoint",       "",
	};
	char path[FH_TILE_PATH_MAX];
	uint64_t index;
	uint32_t width;
	int level;

	for (size_t i = 0; i < sizeof(known) / sizeof(known[0]); i++) {
		fh_tile_path(known[i].level, known[i].index, known[i].width, path);
		cr_expect_str_eq(path, known[i].path);
		cr_expect(fh_tile_parse(path, &level, &index, &width));
		cr_expect(level == known[i].level && index == known[i].index && width == known[i].width);
	}
	for (size_t i = 0; i < sizeof(wrong) / sizeof(wrong[0]); i++)
		cr_expect_not(fh_tile_parse(wrong[i], &level, &index, &width), "%s", wrong[i]);
}

/* ---- notes ---- */

#define SKEY "PRIVATE+KEY+PeterNeumann+c74f20a3+AYEKFALVFGyNhPJEMzD1QIDr+Y7hfZx09iUvxdXHKDFz"
#define VKEY "PeterNeumann+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW"
#define TEXT "If you think cryptography is the answer to your problem,\nthen you don't know what your problem is.\n"
#define SIGNATURE                                                                                                      \
	"\xe2\x80\x94 PeterNeumann "                                                                                   \
	"x08go/ZJkuBS9UG/SffcvIAQxVBtiFupLLr8pAcElZInNIuGUgYN1FFYC2pZSNXgKvqfqdngotpRZb6KE6R"                          \
	"yyBwJnAM=\n"

/* The example that other implementations of signed notes publish. */
Test(note, known_answer)
{
	struct fh_note_key secret, public;
	char out[1024], key[FH_NOTE_KEY_MAX];
	struct fh_err err = {0};
	int n;

	cr_assert(sodium_init() >= 0);
	cr_assert(!fh_note_key_parse(SKEY, &secret, &err), "%s", err.msg);
	cr_assert(!fh_note_key_parse(VKEY "\n", &public, &err), "%s", err.msg);
	fh_note_key_public(&secret, key);
	cr_expect_str_eq(key, VKEY);
	fh_note_key_private(&secret, key);
	cr_expect_str_eq(key, SKEY);
	n = fh_note_sign(&secret, TEXT, out, sizeof(out));
	cr_assert(n > 0);
	cr_expect_str_eq(out, TEXT "\n" SIGNATURE);
	cr_expect_eq(fh_note_open(out, (size_t)n, &public, &err), (int)strlen(TEXT), "%s", err.msg);
	cr_expect_eq(fh_note_sign(&secret, TEXT, out, (size_t)n), -ENOSPC);
}

Test(note, every_flipped_bit_is_found)
{
	struct fh_checkpoint cp = {.origin = "host/log", .size = 123456}, back;
	char note[FH_CHECKPOINT_MAX];
	struct fh_note_key key;
	struct fh_err err;
	int n;

	cr_assert(sodium_init() >= 0);
	cr_assert(!fh_note_key_make("host/log", &key));
	n = fh_checkpoint_sign(&key, &cp, note);
	cr_assert(n > 0);
	cr_assert(!fh_checkpoint_open(note, (size_t)n, &key, &back, &err), "%s", err.msg);
	cr_expect(back.size == cp.size && !strcmp(back.origin, cp.origin) && same(&back.root, &cp.root));
	for (int i = 0; i < 8 * n; i++) {
		note[i / 8] ^= (char)(1 << i % 8);
		cr_expect(fh_checkpoint_open(note, (size_t)n, &key, &back, &err) < 0, "bit %d", i);
		note[i / 8] ^= (char)(1 << i % 8);
	}
	for (int i = 0; i < n; i++)
		cr_expect(fh_checkpoint_open(note, (size_t)i, &key, &back, &err) < 0, "%d bytes", i);
}

Test(note, wrong_keys)
{
	static const char *const wrong[] = {
		"",
		"+",
		"a+b",
		"a+00000000+AA==",
		"PeterNeumann+c74f20a4+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW",
		"Peter Neumann+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW",
		"PeterNeumann+c74f20a3+Ahpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW",
		VKEY "\n\n",
	};
	struct fh_note_key key;
	struct fh_err err;

	cr_assert(sodium_init() >= 0);
	for (size_t i = 0; i < sizeof(wrong) / sizeof(wrong[0]); i++)
		cr_expect_eq(fh_note_key_parse(wrong[i], &key, &err), -EINVAL, "%s", wrong[i]);
	cr_expect_eq(fh_note_key_make("", &key), -EINVAL);
	cr_expect_eq(fh_note_key_make("a b", &key), -EINVAL);
	cr_expect_eq(fh_note_key_make("a+b", &key), -EINVAL);
}

/* ---- records ---- */

Test(record, there_and_back)
{
	uint8_t leaf[FH_RECORD_MAX], again[FH_RECORD_MAX];
	struct fh_record r = {.kind = FH_REC_BEGIN}, back;
	size_t n, at;

	for (int i = 1; i < FH_NR_RN; i++)
		r.num[i] = i % 3 ? 1ull << (i * 2) : UINT64_MAX;
	fh_record_set_str(&r, FH_RS_TENANT, "alice", 5);
	fh_record_set_str(&r, FH_RS_TEXT, "x", 1);
	n = fh_record_encode(&r, leaf);
	cr_assert(!fh_record_decode(leaf, n, &back, &at));
	cr_expect_eq(back.kind, r.kind);
	cr_expect_arr_eq(back.num, r.num, sizeof(r.num));
	cr_expect_eq(fh_record_encode(&back, again), n);
	cr_expect_arr_eq(again, leaf, n);
	/* A part of it is a record only where a field ends, and then another one. */
	for (size_t k = 0; k < n; k++)
		if (!fh_record_decode(leaf, k, &back, &at))
			cr_expect_eq(fh_record_encode(&back, again), k);
}

Test(record, one_encoding_only)
{
	static const struct {
		const char *bytes;
		size_t n;
	} wrong[] = {
		{"", 0},
		{"\x01", 1},
		{"\x03\x03", 2},					      /* another version */
		{"\x01\x0d", 2},					      /* a kind that version 1 had not */
		{"\x01\x00", 2},					      /* no kind */
		{"\x01\x63", 2},					      /* none that is known */
		{"\x01\x03\x01\x00", 4},				      /* a zero */
		{"\x01\x03\x01\x80\x00", 5},				      /* a long zero */
		{"\x01\x03\x01\x81\x00", 5},				      /* a long one */
		{"\x01\x03\x02\x01\x01\x01", 6},			      /* falling tags */
		{"\x01\x03\x01\x01\x01\x01", 6},			      /* twice */
		{"\x01\x03\x40\x02\x61", 5},				      /* more bytes than there are */
		{"\x01\x03\x40\x00", 4},				      /* empty bytes */
		{"\x01\x03\x80\x01", 4},				      /* a tag beyond */
		{"\x01\x03\x01\xff\xff\xff\xff\xff\xff\xff\xff\xff\x02", 13}, /* beyond 64 bits */
	};
	struct fh_record r;
	size_t at;

	for (size_t i = 0; i < sizeof(wrong) / sizeof(wrong[0]); i++)
		cr_expect_eq(fh_record_decode((const uint8_t *)wrong[i].bytes, wrong[i].n, &r, &at), -EINVAL, "%zu", i);
	cr_expect_eq(
		fh_record_decode((const uint8_t *)"\x01\x03\x01\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01", 13, &r, &at),
		0);
	cr_expect_eq(r.num[FH_RN_TIME_US], UINT64_MAX);
	/* Unknown tags are let by. */
	cr_expect_eq(fh_record_decode((const uint8_t *)"\x01\x03\x3f\x05\x7f\x01z", 7, &r, &at), 0);
	cr_expect_eq(r.nr_unknown, 2);
}

/* Every chapter of version 2 begins with it: it must never change. */
Test(record, what_the_compressor_knows)
{
	uint8_t hash[32];
	char hex[65];

	crypto_hash_sha256(hash, (const uint8_t *)fh_body_prime, fh_body_prime_bytes);
	sodium_bin2hex(hex, sizeof(hex), hash, sizeof(hash));
	cr_expect_str_eq(hex, "2e262dbc780d139aada5a5f5744ab5b5961b65430b95abbab477ddfc6f8af671");
}

Test(record, everything_fits)
{
	static uint8_t big[FH_RECORD_TEXT_MAX * 2];
	uint8_t leaf[FH_RECORD_MAX];
	struct fh_record r = {.kind = FH_REC_START}, back;
	size_t n, at;

	memset(big, 'x', sizeof(big));
	for (int i = 1; i < FH_NR_RN; i++)
		r.num[i] = UINT64_MAX;
	for (int i = 0; i < FH_NR_RS; i++)
		fh_record_set_str(&r, (enum fh_record_str)(64 + i), big, sizeof(big));
	n = fh_record_encode(&r, leaf);
	cr_expect_leq(n, FH_RECORD_MAX);
	cr_assert(!fh_record_decode(leaf, n, &back, &at));
	for (int i = 0; i < FH_NR_RS; i++)
		cr_expect_geq(back.str[i].n, 256);
}
