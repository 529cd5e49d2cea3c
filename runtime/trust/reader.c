// SPDX-License-Identifier: Apache-2.0
/* Reading a log: checkpoint, tiles, entries. */
#include "runtime/trust/reader.h"

#include <fcntl.h>
#include <sodium.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define TRIES 50 /* a writer may put a new checkpoint between our reading the last one and its tiles */
#define BUNDLE_MAX (FH_TILE_WIDTH * (2u + 65535u))

int fh_reader_key(struct fh_reader *r, const char *verifier_key, struct fh_err *err)
{
	struct fh_note_key own;
	struct fh_err why = {0};
	char *text;
	size_t n;
	int rc = fh_dir_read(&r->dir, "key.pub", FH_NOTE_KEY_MAX, &text, &n);

	if (rc)
		return fh_errf(err, rc, "key.pub: %s",
			       rc == -ENOENT ? "not there: is this an audit log?" : strerror(-rc));
	rc = fh_note_key_parse(text, &own, &why);
	if (!rc && (strlen(text) != n || !n || text[n - 1] != '\n'))
		rc = fh_errf(&why, -EINVAL, "it is not one line");
	free(text);
	if (rc)
		return fh_errf(err, rc, "key.pub: %s", why.msg);
	r->key = own;
	if (!verifier_key)
		return 0;
	rc = fh_note_key_parse(verifier_key, &r->key, &why);
	if (rc)
		return fh_errf(err, rc, "the verifier key given: %s", why.msg);
	if (own.id != r->key.id || strcmp(own.name, r->key.name) || memcmp(own.pub, r->key.pub, sizeof(own.pub)))
		return fh_errf(err, -EKEYREJECTED, "key.pub: this log was written with %s+%08x, not with the key given",
			       own.name, own.id);
	return 0;
}

int fh_reader_checkpoint(struct fh_reader *r, const struct fh_note_key *key, struct fh_err *err)
{
	struct fh_err why = {0};
	int rc;

	free(r->note);
	rc = fh_dir_read(&r->dir, "checkpoint", FH_NOTE_MAX, &r->note, &r->note_n);
	if (rc)
		return fh_errf(err, rc, "checkpoint: %s", strerror(-rc));
	rc = fh_checkpoint_open(r->note, r->note_n, key, &r->cp, &why);
	if (!rc && key && strcmp(r->cp.origin, key->name))
		rc = fh_errf(&why, -EBADMSG, "it is that of another log, %s", r->cp.origin);
	return rc ? fh_errf(err, rc, "checkpoint: %s", why.msg) : 0;
}

static void drop_edge(struct fh_reader *r)
{
	for (int i = 0; i <= FH_TILE_LEVELS; i++) {
		free(r->edge[i]);
		r->edge[i] = NULL;
	}
	r->split = UINT64_MAX;
}

static int read_edge(struct fh_reader *r)
{
	char path[FH_TILE_PATH_MAX];
	int rc = 0;

	drop_edge(r);
	for (int i = 0; i <= FH_TILE_LEVELS && !rc; i++) {
		int level = i == FH_TILE_LEVELS ? -1 : i;
		uint64_t nr = fh_level_nr(r->cp.size, level < 0 ? 0 : (unsigned int)level);

		if (!(nr % FH_TILE_WIDTH))
			continue;
		fh_tile_path(level, nr / FH_TILE_WIDTH, nr % FH_TILE_WIDTH, path);
		rc = fh_dir_read(&r->dir, path, BUNDLE_MAX, &r->edge[i], &r->edge_n[i]);
	}
	return rc;
}

static int by_number(const void *a, const void *b)
{
	uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;

	return x < y ? -1 : x > y;
}

static int add_body_file(void *ctx, const char *name)
{
	struct fh_reader *r = ctx;
	char path[FH_DIR_PATH_MAX], *end;
	uint64_t first = strtoull(name, &end, 10), *more;

	fh_body_path(first, path);
	if (*end || strcmp(path + 5, name))
		return 0;
	more = realloc(r->body_files, (r->nr_body_files + 1) * sizeof(*more));
	if (!more)
		return -ENOMEM;
	r->body_files = more;
	more[r->nr_body_files++] = first;
	return 0;
}

int fh_reader_list_bodies(struct fh_reader *r)
{
	int rc = fh_dir_list(&r->dir, "body", add_body_file, r);

	if (r->nr_body_files)
		qsort(r->body_files, r->nr_body_files, sizeof(*r->body_files), by_number);
	return rc;
}

int fh_reader_open(struct fh_reader *r, const char *path, const char *verifier_key, struct fh_err *err)
{
	int rc;

	*r = (struct fh_reader){.hashes.level = -2, .bundle.level = -2, .split = UINT64_MAX, .body_file = -1};
	if (sodium_init() < 0)
		return fh_errf(err, -EIO, "libsodium does not start");
	rc = fh_dir_open(&r->dir, path, false, err);
	if (!rc)
		rc = fh_reader_key(r, verifier_key, err);
	for (int i = 0; i < TRIES && !rc; i++) {
		rc = fh_reader_checkpoint(r, &r->key, err);
		if (rc)
			break;
		rc = read_edge(r);
		if (rc == -ENOENT && i < TRIES - 1)
			rc = 0;
		else if (rc)
			fh_errf(err, rc == -ENOENT ? -EBADMSG : rc, "a tile of the checkpoint cannot be read: %s",
				strerror(-rc));
		else
			break;
	}
	if (!rc) {
		rc = fh_reader_list_bodies(r);
		if (rc)
			fh_errf(err, rc, "body: %s", strerror(-rc));
	}
	if (rc)
		fh_reader_close(r);
	return rc;
}

int fh_reader_open_any(struct fh_reader *r, const char *path, struct fh_err *err)
{
	struct fh_err why;
	int rc = fh_reader_open(r, path, NULL, err);

	if (rc != -ENOENT || fh_dir_open(&r->dir, path, false, &why))
		return rc;
	/* Who has a key and nothing else has begun just now. */
	if (fh_reader_key(r, NULL, &why) || !faccessat(r->dir.fd, "checkpoint", F_OK, 0) ||
	    !faccessat(r->dir.fd, "tile", F_OK, 0)) {
		fh_reader_close(r);
		return rc;
	}
	snprintf(r->cp.origin, sizeof(r->cp.origin), "%s", r->key.name);
	r->hashes.level = r->bundle.level = -2;
	r->split = UINT64_MAX;
	r->body_file = -1;
	return 0;
}

void fh_reader_close(struct fh_reader *r)
{
	drop_edge(r);
	free(r->note);
	free(r->hashes.p);
	free(r->bundle.p);
	free(r->body_files);
	free(r->body);
	fh_dir_close(&r->dir);
	*r = (struct fh_reader){.dir.fd = -1};
}

int fh_reader_tile(struct fh_reader *r, int level, uint64_t index, const char **p, size_t *n,
		   char path[FH_TILE_PATH_MAX])
{
	struct fh_reader_tile *t = level < 0 ? &r->bundle : &r->hashes;
	uint64_t nr = fh_level_nr(r->cp.size, level < 0 ? 0 : (unsigned int)level);
	int edge = level < 0 ? FH_TILE_LEVELS : level, rc;
	bool partial = index == nr / FH_TILE_WIDTH;

	if (level >= FH_TILE_LEVELS || index * FH_TILE_WIDTH >= nr)
		return -ENOENT;
	fh_tile_path(level, index, partial ? nr % FH_TILE_WIDTH : FH_TILE_WIDTH, path);
	if (partial && r->edge[edge]) {
		*p = r->edge[edge];
		*n = r->edge_n[edge];
		return 0;
	}
	if (t->level != level || t->index != index) {
		free(t->p);
		t->p = NULL;
		t->level = -2;
		if (level < 0)
			r->split = UINT64_MAX;
		rc = fh_dir_read(&r->dir, path, BUNDLE_MAX, &t->p, &t->n);
		if (rc)
			return rc;
		t->level = level;
		t->index = index;
	}
	*p = t->p;
	*n = t->n;
	return 0;
}

uint32_t fh_bundle_split(const char *p, size_t n, uint32_t nr, uint32_t at[FH_TILE_WIDTH + 1])
{
	size_t off = 0;
	uint32_t k = 0;

	for (; k < nr; k++) {
		size_t len;

		at[k] = (uint32_t)off;
		if (n - off < 2)
			break;
		len = (size_t)(uint8_t)p[off] << 8 | (uint8_t)p[off + 1];
		if (len > n - off - 2)
			break;
		off += 2 + len;
	}
	at[k] = (uint32_t)off;
	return k;
}

int fh_reader_entry(struct fh_reader *r, uint64_t i, struct fh_record_bytes *leaf)
{
	uint64_t index = i / FH_TILE_WIDTH;
	char path[FH_TILE_PATH_MAX];
	uint32_t nr, k = i % FH_TILE_WIDTH;
	const char *p;
	size_t n;
	int rc;

	if (i >= r->cp.size)
		return -ENOENT;
	r->nr_read++;
	rc = fh_reader_tile(r, -1, index, &p, &n, path);
	if (rc)
		return rc == -ENOENT ? -EBADMSG : rc;
	nr = r->cp.size / FH_TILE_WIDTH == index ? r->cp.size % FH_TILE_WIDTH : FH_TILE_WIDTH;
	if (r->split != index) {
		r->split = UINT64_MAX;
		if (fh_bundle_split(p, n, nr, r->entry_at) < nr || r->entry_at[nr] != n)
			return -EBADMSG;
		r->split = index;
	}
	*leaf = (struct fh_record_bytes){(const uint8_t *)p + r->entry_at[k] + 2,
					 r->entry_at[k + 1] - r->entry_at[k] - 2};
	return 0;
}

static int reader_hash_at(void *ctx, unsigned int level, uint64_t index, struct fh_hash *out)
{
	char path[FH_TILE_PATH_MAX];
	size_t n, at = index % FH_TILE_WIDTH * sizeof(*out);
	const char *p;
	int rc = fh_reader_tile(ctx, (int)level, index / FH_TILE_WIDTH, &p, &n, path);

	if (rc)
		return rc;
	if (at + sizeof(*out) > n)
		return -EBADMSG;
	memcpy(out, p + at, sizeof(*out));
	return 0;
}

struct fh_hashes fh_reader_hashes(struct fh_reader *r)
{
	return (struct fh_hashes){.ctx = r, .at = reader_hash_at};
}
