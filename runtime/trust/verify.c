// SPDX-License-Identifier: Apache-2.0
/* The verifier: key, checkpoint, entries and tiles, from the entries upwards. */
#include <inttypes.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include "runtime/trust/verify_priv.h"

#define TRIES 50

void fh_found(struct fh_verifier *x, const char *fmt, ...)
{
	char text[512];
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(text, sizeof(text), fmt, ap);
	va_end(ap);
	x->v->nr_findings++;
	if (x->v->finding)
		x->v->finding(x->v->ctx, text);
}

/* One bundle and the tile of its hashes. */
struct pair {
	uint64_t index;
	uint32_t nr; /* entries that there must be */
	char *p;     /* [n] a copy: opening a body may read other bundles */
	size_t n;
	bool has_entries, has_hashes;
	char entries_path[FH_TILE_PATH_MAX], hashes_path[FH_TILE_PATH_MAX];
	uint32_t at[FH_TILE_WIDTH + 1];
	struct fh_hash from_entry[FH_TILE_WIDTH], stored[FH_TILE_WIDTH];
};

/* What the hash above says of @hash[nr]: are they those that were signed? */
static bool vouched_for(struct fh_verifier *x, const struct pair *pr, const struct fh_hash *hash)
{
	struct fh_hashes above = fh_reader_hashes(&x->r);
	struct fh_tree *t = malloc(sizeof(*t));
	struct fh_hash want, got = {{0}};
	bool same = false;

	if (!t)
		return false;
	*t = x->tree;
	for (uint32_t k = 0; k < pr->nr; k++)
		fh_tree_append(t, &hash[k]);
	if (pr->nr == FH_TILE_WIDTH) {
		got = t->hash[1][pr->index % FH_TILE_WIDTH];
		same = !above.at(above.ctx, 1, pr->index, &want) && !memcmp(&want, &got, sizeof(got));
	}
	/* The root speaks for the last tile, and for a whole one that ends the log. */
	if (!same && t->nr == x->r.cp.size) {
		fh_tree_root(t, &got);
		same = !memcmp(&got, &x->r.cp.root, sizeof(got));
	}
	free(t);
	return same;
}

static void read_entries(struct fh_verifier *x, struct pair *pr)
{
	const char *p;
	uint32_t whole;
	int rc = fh_reader_tile(&x->r, -1, pr->index, &p, &pr->n, pr->entries_path);

	pr->p = rc ? NULL : malloc(pr->n + 1);
	if (pr->p)
		memcpy(pr->p, p, pr->n);
	else if (!rc)
		rc = -ENOMEM;
	pr->has_entries = !rc;
	if (rc) {
		fh_found(x, "%s: %s: entries %" PRIu64 " to %" PRIu64, pr->entries_path,
			 rc == -ENOENT ? "the file is gone" : strerror(-rc), pr->index * FH_TILE_WIDTH,
			 pr->index * FH_TILE_WIDTH + pr->nr - 1);
		return;
	}
	whole = fh_bundle_split(pr->p, pr->n, pr->nr, pr->at);
	for (uint32_t k = 0; k < whole; k++)
		fh_leaf_hash(pr->p + pr->at[k] + 2, pr->at[k + 1] - pr->at[k] - 2, &pr->from_entry[k]);
	for (uint32_t k = whole; k < pr->nr; k++)
		memset(&pr->from_entry[k], 0, sizeof(pr->from_entry[k]));
	if (whole == pr->nr && pr->at[whole] != pr->n)
		fh_found(x, "%s: byte %u: %zu bytes too many", pr->entries_path, pr->at[whole], pr->n - pr->at[whole]);
	/* Where it breaks is where the first entry that does not fit its hash begins; that is told below. */
	for (uint32_t k = whole + 1; k <= pr->nr; k++)
		pr->at[k] = pr->at[whole];
}

static void read_hashes(struct fh_verifier *x, struct pair *pr)
{
	const char *p;
	size_t n, want = pr->nr * sizeof(struct fh_hash);
	int rc = fh_reader_tile(&x->r, 0, pr->index, &p, &n, pr->hashes_path);

	pr->has_hashes = !rc && n == want;
	if (pr->has_hashes)
		memcpy(pr->stored, p, n);
	else if (rc)
		fh_found(x, "%s: %s", pr->hashes_path, rc == -ENOENT ? "the file is gone" : strerror(-rc));
	else
		fh_found(x, "%s: %zu bytes where %zu belong", pr->hashes_path, n, want);
}

static bool differs(const struct pair *pr, uint32_t k)
{
	return k < pr->nr && memcmp(&pr->stored[k], &pr->from_entry[k], sizeof(pr->stored[k]));
}

/*
 * They differ at some k: who was changed? Neighbours are one finding: a length
 * that was changed moves every entry after it.  Returns the hashes to go on with.
 */
static const struct fh_hash *judge(struct fh_verifier *x, struct pair *pr)
{
	bool hashes_right = vouched_for(x, pr, pr->stored);
	bool entries_right = !hashes_right && vouched_for(x, pr, pr->from_entry);

	for (uint32_t k = 0; k < pr->nr; k++) {
		uint64_t i = pr->index * FH_TILE_WIDTH + k;
		uint32_t more = 0;
		char who[64];

		if (!differs(pr, k))
			continue;
		while (differs(pr, k + more + 1))
			more++;
		snprintf(who, sizeof(who), more ? "entries %" PRIu64 " to %" PRIu64 : "entry %" PRIu64, i, i + more);
		x->damaged |= !entries_right;
		if (entries_right)
			fh_found(x, "%s: byte %zu: the hash of %s was changed", pr->hashes_path,
				 k * sizeof(struct fh_hash), who);
		else
			fh_found(x, "%s: byte %u: %s %s%s", pr->entries_path, pr->at[k], who,
				 more ? "are not those that were signed" : "is not the one that was signed",
				 hashes_right ? "" : " (nor is its hash)");
		k += more;
	}
	return entries_right ? pr->from_entry : pr->stored;
}

/* The tiles above that the last entry has filled, or, at the end, the edge. */
static void check_above(struct fh_verifier *x, unsigned int level, uint64_t index, uint32_t nr)
{
	char path[FH_TILE_PATH_MAX];
	const char *p;
	size_t n;
	int rc = fh_reader_tile(&x->r, (int)level, index, &p, &n, path);

	if (rc) {
		fh_found(x, "%s: %s", path, rc == -ENOENT ? "the file is gone" : strerror(-rc));
		return;
	}
	if (n != nr * sizeof(struct fh_hash)) {
		fh_found(x, "%s: %zu bytes where %zu belong", path, n, nr * sizeof(struct fh_hash));
		return;
	}
	for (uint32_t k = 0; k < nr; k++)
		if (memcmp(p + k * sizeof(struct fh_hash), &x->tree.hash[level][k], sizeof(struct fh_hash)))
			fh_found(x, "%s: byte %zu: this hash is not that of the tile below, which is right", path,
				 k * sizeof(struct fh_hash));
}

static void append(struct fh_verifier *x, const struct fh_hash *hash)
{
	uint64_t nr;

	fh_tree_append(&x->tree, hash);
	nr = x->tree.nr / FH_TILE_WIDTH;
	if (x->tree.nr % FH_TILE_WIDTH)
		return;
	for (unsigned int level = 1; level < FH_TILE_LEVELS && nr && nr % FH_TILE_WIDTH == 0; level++) {
		nr /= FH_TILE_WIDTH;
		check_above(x, level, nr - 1, FH_TILE_WIDTH);
	}
}

static int check_pair(struct fh_verifier *x, struct pair *pr)
{
	const struct fh_hash *right;
	int rc = 0;

	read_entries(x, pr);
	read_hashes(x, pr);
	if (!pr->has_entries && !pr->has_hashes)
		return -ENODATA;
	right = pr->has_entries ? pr->from_entry : pr->stored;
	if (pr->has_entries && pr->has_hashes && memcmp(pr->from_entry, pr->stored, pr->nr * sizeof(*right)))
		right = judge(x, pr);
	for (uint32_t k = 0; k < pr->nr && !rc; k++) {
		append(x, &right[k]);
		if (pr->has_entries && !memcmp(&right[k], &pr->from_entry[k], sizeof(*right))) {
			struct fh_record_bytes leaf = {(const uint8_t *)pr->p + pr->at[k] + 2,
						       pr->at[k + 1] - pr->at[k] - 2};

			rc = fh_verify_record(x, pr->index * FH_TILE_WIDTH + k, &leaf, pr->entries_path, pr->at[k] + 2);
		}
	}
	return rc;
}

static int check_tree(struct fh_verifier *x)
{
	struct pair *pr = malloc(sizeof(*pr));
	uint64_t size = x->r.cp.size;
	struct fh_hash root;
	int rc = pr ? 0 : -ENOMEM;

	for (uint64_t i = 0; i < size && !rc; i += FH_TILE_WIDTH) {
		*pr = (struct pair){.index = i / FH_TILE_WIDTH,
				    .nr = size - i < FH_TILE_WIDTH ? (uint32_t)(size - i) : FH_TILE_WIDTH};
		rc = check_pair(x, pr);
		free(pr->p);
	}
	free(pr);
	if (rc)
		return rc;
	for (unsigned int level = 1; level < FH_TILE_LEVELS; level++) {
		uint64_t nr = fh_level_nr(size, level);

		if (nr % FH_TILE_WIDTH)
			check_above(x, level, nr / FH_TILE_WIDTH, nr % FH_TILE_WIDTH);
	}
	fh_tree_root(&x->tree, &root);
	if (memcmp(&root, &x->r.cp.root, sizeof(root)))
		fh_found(x, "checkpoint: the %" PRIu64 " entries do not give the root hash that was signed", size);
	return 0;
}

static int open_reader(struct fh_verifier *x, const char *path, const char *verifier_key, struct fh_err *err)
{
	int rc = fh_reader_open(&x->r, path, verifier_key, err);
	struct fh_err why;

	if (!rc || rc == -ENOENT || rc == -ENOMEM)
		return rc;
	/* What keeps a reader out is a finding. Whether more can be said hangs on the checkpoint's being readable. */
	fh_found(x, "%s", err->msg);
	rc = fh_dir_open(&x->r.dir, path, false, err);
	if (!rc && !fh_reader_key(&x->r, verifier_key, &why) && fh_reader_checkpoint(&x->r, &x->r.key, &why))
		fh_reader_checkpoint(&x->r, NULL, &why);
	x->r.hashes.level = x->r.bundle.level = -2;
	x->r.body_file = -1;
	return rc ? rc : fh_reader_list_bodies(&x->r);
}

static int check_all(struct fh_verifier *x, struct fh_err *err)
{
	int rc = fh_opener_create(&x->r, &x->opener);

	x->v->cp = x->r.cp;
	x->v->nr_entries = x->r.cp.size;
	fh_note_key_public(&x->r.key, x->v->verifier_key);
	x->kind = rc || !x->r.cp.size ? NULL : calloc(x->r.cp.size, 1);
	if (!rc && x->r.cp.size && !x->kind)
		rc = -ENOMEM;
	if (rc == -ESTALE)
		return rc;
	if (!rc)
		rc = fh_verify_erasures(x);
	if (!rc)
		rc = check_tree(x);
	if (!rc || rc == -ENODATA)
		rc = fh_verify_rest(x);
	return rc ? fh_errf(err, rc, "verifying stopped: %s", strerror(-rc)) : 0;
}

static int verify_once(const char *path, const char *verifier_key, struct fh_verify *v, struct fh_err *err)
{
	struct fh_verifier *x = calloc(1, sizeof(*x));
	int rc;

	if (!x)
		return fh_errf(err, -ENOMEM, "out of memory");
	x->v = v;
	x->body_which = -1;
	rc = open_reader(x, path, verifier_key, err);
	if (!rc && x->r.cp.size > 1ull << 40)
		fh_found(x, "checkpoint: %" PRIu64 " entries cannot be", x->r.cp.size);
	else if (!rc)
		rc = check_all(x, err);
	fh_opener_free(x->opener);
	fh_reader_close(&x->r);
	free(x->kind);
	free(x->tenants);
	free(x);
	return rc;
}

int fh_verify(const char *path, const char *verifier_key, struct fh_verify *v, struct fh_err *err)
{
	int rc = -ESTALE;

	/* A writer may go on while we open it. */
	for (int i = 0; i < TRIES && rc == -ESTALE; i++)
		rc = verify_once(path, verifier_key, v, err);
	return rc == -ESTALE ? fh_errf(err, rc, "it changes faster than it can be opened") : rc;
}
