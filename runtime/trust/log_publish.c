// SPDX-License-Identifier: Apache-2.0
/*
 * From the journal to the tiles and the checkpoint.
 *
 * Everything is worked out in copies of the published edge, which take its place
 * only when the new checkpoint is durable: a disk that fills up half-way costs
 * nothing but the attempt.
 */
#include "runtime/trust/log_priv.h"

#include <assert.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* ---- bodies ---- */

/* The bodies of one file, or what the journal has of it, in one write. */
struct body_run {
	uint64_t first, at; /* the file; where these go */
	struct fh_grow bytes;
};

static int flush_run(struct fh_log *l, struct body_run *run)
{
	char path[FH_DIR_PATH_MAX];
	int fd, rc;

	if (!run->bytes.n)
		return 0;
	rc = fh_dir_mkdir(&l->dir, "body");
	if (rc)
		return rc;
	fh_body_path(run->first, path);
	fd = fh_dir_open_file(&l->dir, path);
	if (fd < 0)
		return fd;
	/* A file of that name may be left from an attempt before this. */
	rc = run->at ? 0 : fh_dir_truncate(&l->dir, fd, path, 0);
	if (!rc)
		rc = fh_dir_write(&l->dir, fd, path, run->at, run->bytes.p, run->bytes.n);
	if (!rc)
		rc = fh_dir_sync(&l->dir, fd, path);
	close(fd);
	run->at += run->bytes.n;
	run->bytes.n = 0;
	return rc;
}

/* Write all pending bodies; *first and *bytes: the file that is being added to then. */
static int publish_bodies(struct fh_log *l, uint64_t *first, uint64_t *bytes)
{
	struct body_run run = {.first = l->body_first, .at = l->body_bytes};
	struct fh_record_bytes leaf, sealed;
	struct fh_record r;
	size_t used, bad;
	uint64_t index;
	bool new_file;
	int rc = 0;

	for (size_t at = 0; at < l->frames.n && !rc; at += used) {
		uint8_t head[FH_BODY_FRAME_BYTES];

		used = fh_journal_frame(&l->key, l->frames.p + at, l->frames.n - at, &index, &leaf, &sealed, &new_file);
		assert(used);
		if (!sealed.n)
			continue;
		if (fh_record_decode(leaf.p, leaf.n, &r, &bad))
			rc = -EBADMSG;
		/* A text, that is in a segment as well. */
		if (!rc && !r.num[FH_RN_SEALED_BYTES])
			continue;
		if (!rc && new_file) {
			rc = flush_run(l, &run);
			run.first = index;
			run.at = 0;
		}
		fh_body_frame(index, sealed.n, r.num[FH_RN_CHAPTER], head);
		if (!rc)
			rc = fh_grow_put(&run.bytes, head, sizeof(head));
		if (!rc)
			rc = fh_grow_put(&run.bytes, sealed.p, sealed.n);
	}
	if (!rc)
		rc = flush_run(l, &run);
	*first = run.first;
	*bytes = run.at;
	fh_grow_free(&run.bytes);
	return rc;
}

/* ---- tiles ---- */

static int put_hashes(struct fh_log *l, const struct fh_tree *t, unsigned int level, uint64_t tile, uint32_t width)
{
	char path[FH_TILE_PATH_MAX];

	fh_tile_path((int)level, tile, width, path);
	return fh_dir_put(&l->dir, path, t->hash[level], width * sizeof(struct fh_hash));
}

static int put_bundle(struct fh_log *l, const struct fh_grow *b, uint64_t tile, uint32_t width)
{
	char path[FH_TILE_PATH_MAX];

	fh_tile_path(-1, tile, width, path);
	return fh_dir_put(&l->dir, path, b->p, b->n);
}

/* One more entry; the tiles that it fills are written. */
static int publish_entry(struct fh_log *l, struct fh_log_edge *e, const struct fh_record_bytes *leaf)
{
	uint8_t len[2] = {(uint8_t)(leaf->n >> 8), (uint8_t)leaf->n};
	struct fh_hash hash;
	uint64_t nr;
	int rc;

	rc = fh_grow_put(&e->bundle, len, sizeof(len));
	if (!rc)
		rc = fh_grow_put(&e->bundle, leaf->p, leaf->n);
	if (rc)
		return rc;
	fh_leaf_hash(leaf->p, leaf->n, &hash);
	fh_tree_append(&e->tree, &hash);
	nr = e->tree.nr;
	for (unsigned int level = 0; level < FH_TILE_LEVELS && nr % FH_TILE_WIDTH == 0 && !rc; level++) {
		nr /= FH_TILE_WIDTH;
		rc = put_hashes(l, &e->tree, level, nr - 1, FH_TILE_WIDTH);
		if (!rc && !level) {
			rc = put_bundle(l, &e->bundle, nr - 1, FH_TILE_WIDTH);
			e->bundle.n = 0;
		}
	}
	return rc;
}

static int publish_tiles(struct fh_log *l, struct fh_log_edge *e)
{
	struct fh_record_bytes leaf, sealed;
	uint64_t index, nr;
	size_t used;
	bool new_file;
	int rc = 0;

	for (size_t at = 0; at < l->frames.n && !rc; at += used) {
		used = fh_journal_frame(&l->key, l->frames.p + at, l->frames.n - at, &index, &leaf, &sealed, &new_file);
		assert(used);
		rc = publish_entry(l, e, &leaf);
	}
	if (!rc && e->tree.nr % FH_TILE_WIDTH)
		rc = put_bundle(l, &e->bundle, e->tree.nr / FH_TILE_WIDTH, e->tree.nr % FH_TILE_WIDTH);
	for (unsigned int level = 0; level < FH_TILE_LEVELS && !rc; level++) {
		nr = fh_level_nr(e->tree.nr, level);
		if (nr % FH_TILE_WIDTH)
			rc = put_hashes(l, &e->tree, level, nr / FH_TILE_WIDTH, nr % FH_TILE_WIDTH);
	}
	return rc;
}

static int publish_checkpoint(struct fh_log *l, const struct fh_log_edge *e, struct fh_hash *root)
{
	struct fh_checkpoint cp = {.size = e->tree.nr};
	struct fh_tree *t = malloc(sizeof(*t));
	char note[FH_CHECKPOINT_MAX];
	int n, rc;

	if (!t)
		return -ENOMEM;
	*t = e->tree;
	fh_tree_root(t, &cp.root);
	*root = cp.root;
	free(t);
	strcpy(cp.origin, l->key.name);
	cp.held.nr = l->nr_held;
	if (l->nr_held) {
		cp.held.first = fh_held_index(l->held[0]);
		fh_held_hash(l->held, l->nr_held, cp.held.hash.b);
	}
	n = fh_checkpoint_sign(&l->key, &cp, note);
	if (n < 0)
		return n;
	/* What it promises must be there before it is. */
	rc = fh_dir_sync_names(&l->dir);
	if (!rc)
		rc = fh_dir_put(&l->dir, "checkpoint", note, (size_t)n);
	return rc ? rc : fh_dir_sync_names(&l->dir);
}

/* ---- what is left of earlier edges ---- */

struct leftovers {
	struct fh_dir *dir;
	const char *folder;
	char keep[12];
	bool kept;
};

static int remove_leftover(void *ctx, const char *name)
{
	struct leftovers *left = ctx;
	char path[FH_DIR_PATH_MAX];

	if (!strcmp(name, left->keep)) {
		left->kept = true;
		return 0;
	}
	snprintf(path, sizeof(path), "%.120s/%.60s", left->folder, name);
	return fh_dir_unlink(left->dir, path, false);
}

/* Of the partial tiles of (@level, @tile) only that of @width stays; 0: none. */
static void clean_tile(struct fh_log *l, int level, uint64_t tile, uint32_t width)
{
	char folder[FH_TILE_PATH_MAX];
	struct leftovers left = {.dir = &l->dir, .folder = folder};

	fh_tile_path(level, tile, 1, folder);
	*strrchr(folder, '/') = 0;
	if (width)
		snprintf(left.keep, sizeof(left.keep), "%u", width);
	if (faccessat(l->dir.fd, folder, F_OK, 0))
		return;
	/* What cannot be removed is in nobody's way. */
	if (!fh_dir_list(&l->dir, folder, remove_leftover, &left) && !left.kept)
		fh_dir_unlink(&l->dir, folder, true);
}

static void clean_level(struct fh_log *l, int level, uint64_t before, uint64_t nr)
{
	for (uint64_t tile = before / FH_TILE_WIDTH; tile <= nr / FH_TILE_WIDTH; tile++)
		clean_tile(l, level, tile, tile == nr / FH_TILE_WIDTH ? nr % FH_TILE_WIDTH : 0);
}

void fh_log_clean_partials(struct fh_log *l, uint64_t before)
{
	clean_level(l, -1, before, l->edge.tree.nr);
	for (unsigned int level = 0; level < FH_TILE_LEVELS; level++)
		if (fh_level_nr(l->edge.tree.nr, level))
			clean_level(l, (int)level, fh_level_nr(before, level), fh_level_nr(l->edge.tree.nr, level));
}

/* ---- all of it ---- */

static struct fh_log_edge *copy_edge(const struct fh_log_edge *from)
{
	struct fh_log_edge *e = malloc(sizeof(*e));

	if (!e)
		return NULL;
	e->tree = from->tree;
	e->bundle = (struct fh_grow){0};
	if (fh_grow_put(&e->bundle, from->bundle.p, from->bundle.n)) {
		free(e);
		return NULL;
	}
	return e;
}

/* Frames that stay in the journal are known by their numbers: that it cannot be emptied costs room, until next time. */
static void empty_journal(struct fh_log *l)
{
	if (l->nr_held || !l->journal_at || fh_dir_truncate(&l->dir, l->journal_fd, "journal", 0))
		return;
	l->journal_at = 0;
	l->journal_since_us = 0;
}

int fh_log_publish(struct fh_log *l)
{
	uint64_t first, bytes, before = l->edge.tree.nr;
	struct fh_log_edge *e;
	struct fh_hash root;
	int rc;

	rc = fh_log_seal_due(l);
	if (!rc)
		rc = fh_log_commit(l, true);
	if (!rc && !l->frames.n)
		empty_journal(l);
	if (rc || !l->frames.n)
		return rc;
	e = copy_edge(&l->edge);
	if (!e)
		return -ENOMEM;
	rc = publish_bodies(l, &first, &bytes);
	if (!rc)
		rc = publish_tiles(l, e);
	if (!rc)
		rc = publish_checkpoint(l, e, &root);
	if (rc) {
		fh_grow_free(&e->bundle);
		free(e);
		return rc;
	}
	fh_grow_free(&l->edge.bundle);
	l->edge = *e;
	l->root = root;
	free(e);
	l->body_first = first;
	l->body_bytes = bytes;
	l->journal_at += l->frames.n;
	empty_journal(l);
	l->frames.n = l->nr_written = l->nr_synced = 0;
	if (l->frames.cap > FH_LOG_PENDING_BYTES)
		fh_grow_free(&l->frames);
	fh_log_clean_partials(l, before);
	return 0;
}
