// SPDX-License-Identifier: Apache-2.0
/*
 * Power cuts.  The log's writer runs on a real folder while every change is
 * noted; then, for a cut after each change, a folder is built as a disk may have
 * it: what was synced is there, of what was not, any part.  Names are as durable
 * as their folder's last sync; of the changes since, a beginning of any length
 * has happened.  The log that is opened there must have every entry that was
 * durable before the cut, must verify, and must go on.
 *
 * And a disk that is full for a while: what fails changes nothing, and what
 * follows is whole.
 */
#include <fcntl.h>
#include <sys/stat.h>

#include "tests/unit/audit_util.h"

enum { MAX_OPS = 4000, MAX_FILES = 200 };

/* One change, and what was known to be durable before it. */
struct op {
	struct fh_dir_op op;
	char path[FH_DIR_PATH_MAX], to[FH_DIR_PATH_MAX];
	void *bytes;
	uint64_t durable;
};

static struct op ops[MAX_OPS];
static uint32_t nr_ops;
static struct fh_log *writer;

static uint64_t rng_state;

static uint64_t rng(uint64_t below)
{
	rng_state ^= rng_state << 13;
	rng_state ^= rng_state >> 7;
	rng_state ^= rng_state << 17;
	return (rng_state * 2685821657736338717u >> 20) % below;
}

static int note_op(void *ctx, const struct fh_dir_op *op)
{
	struct op *o = &ops[nr_ops++];

	(void)ctx;
	cr_assert_lt(nr_ops, MAX_OPS);
	*o = (struct op){.op = *op, .durable = writer ? fh_log_durable(writer) : 0};
	strcpy(o->path, op->path);
	strcpy(o->to, op->to ? op->to : "");
	o->bytes = malloc(op->nr_bytes + 1);
	if (op->nr_bytes)
		memcpy(o->bytes, op->bytes, op->nr_bytes);
	return 0;
}

/* ---- the disk ---- */

struct content {
	uint8_t *p;
	size_t n;
};

/* A file: what it holds now, and what of that is safe. */
struct inode {
	struct content now, safe;
	bool folder;
};

struct name {
	char path[FH_DIR_PATH_MAX];
	int inode; /* -1: no such name */
};

static struct inode inodes[MAX_OPS];
static int nr_inodes;
static struct name now[MAX_FILES], safe[MAX_FILES];
static uint32_t nr_now, nr_safe;

static struct name *lookup(struct name *table, uint32_t *nr, const char *path)
{
	for (uint32_t i = 0; i < *nr; i++)
		if (!strcmp(table[i].path, path))
			return &table[i];
	cr_assert_lt(*nr, MAX_FILES);
	table[*nr] = (struct name){.inode = -1};
	strcpy(table[*nr].path, path);
	return &table[(*nr)++];
}

static int new_inode(bool folder)
{
	inodes[nr_inodes] = (struct inode){.folder = folder};
	return nr_inodes++;
}

static void resize(struct content *c, size_t n)
{
	c->p = realloc(c->p, n + 1);
	if (n > c->n)
		memset(c->p + c->n, 0, n - c->n);
	c->n = n;
}

static void put(struct content *c, uint64_t at, const void *p, size_t n)
{
	if (at + n > c->n)
		resize(c, at + n);
	if (n)
		memcpy(c->p + at, p, n);
}

static void copy_content(struct content *to, const struct content *from)
{
	resize(to, 0);
	put(to, 0, from->p, from->n);
}

static bool in_folder(const char *path, const char *folder)
{
	size_t n = strlen(folder);

	if (!strcmp(folder, "."))
		return !strchr(path, '/');
	return !strncmp(path, folder, n) && path[n] == '/' && !strchr(path + n + 1, '/');
}

static void play_names(struct name *table, uint32_t *nr, const struct op *o)
{
	struct name *n = lookup(table, nr, o->path);

	if (o->op.kind == FH_DIR_RENAME) {
		int inode = n->inode;

		n->inode = -1;
		lookup(table, nr, o->to)->inode = inode;
	} else if (o->op.kind == FH_DIR_UNLINK) {
		n->inode = -1;
	}
}

/* As the running system sees it. Content that is not synced is safe only by chance: see cut(). */
static void play(const struct op *o)
{
	struct name *n = lookup(now, &nr_now, o->path);

	switch (o->op.kind) {
	case FH_DIR_MKDIR: n->inode = new_inode(true); break;
	case FH_DIR_WRITE:
	case FH_DIR_TRUNCATE:
		if (n->inode < 0)
			n->inode = new_inode(false);
		if (o->op.kind == FH_DIR_WRITE)
			put(&inodes[n->inode].now, o->op.offset, o->bytes, o->op.nr_bytes);
		else
			resize(&inodes[n->inode].now, o->op.offset);
		break;
	case FH_DIR_SYNC: copy_content(&inodes[n->inode].safe, &inodes[n->inode].now); break;
	case FH_DIR_SYNC_NAMES:
		for (uint32_t i = 0; i < nr_now; i++)
			if (in_folder(now[i].path, o->path))
				lookup(safe, &nr_safe, now[i].path)->inode = now[i].inode;
		for (uint32_t i = 0; i < nr_safe; i++)
			if (in_folder(safe[i].path, o->path))
				safe[i].inode = lookup(now, &nr_now, safe[i].path)->inode;
		break;
	default: play_names(now, &nr_now, o); break;
	}
}

/* Unsynced content: a whole, a beginning, a hole in the middle, or nothing of it. */
static void cut_content(const struct inode *f, struct content *out)
{
	size_t from, n;

	copy_content(out, &f->safe);
	switch (rng(4)) {
	case 0: return;
	case 1: copy_content(out, &f->now); return;
	case 2: /* up to some byte */
		n = rng(f->now.n + 1);
		put(out, 0, f->now.p, n);
		return;
	default: /* grown, but with only a part of the data */
		if (out->n < f->now.n)
			resize(out, f->now.n);
		from = rng(f->now.n + 1);
		put(out, from, f->now.p + from, rng(f->now.n - from + 1));
	}
}

static void write_file(const char *dir, const char *path, const struct content *c)
{
	char full[512];
	FILE *f;

	cr_assert_lt(snprintf(full, sizeof(full), "%s/%s", dir, path), (int)sizeof(full));
	for (char *s = strchr(full + strlen(dir) + 1, '/'); s; s = strchr(s + 1, '/')) {
		*s = 0;
		mkdir(full, 0700);
		*s = '/';
	}
	f = fopen(full, "w");
	cr_assert(f);
	cr_assert(fwrite(c->p, 1, c->n, f) == c->n);
	fclose(f);
}

/*
 * What the disk may have now, as a folder.  A name that was never made durable
 * is there or not, by chance; one that was replaced since is the old or the new.
 */
static void cut(const char *dir)
{
	for (uint32_t i = 0; i < nr_now; i++) {
		struct name *s = lookup(safe, &nr_safe, now[i].path);
		int inode = s->inode == now[i].inode || rng(2) ? now[i].inode : s->inode;
		struct content c = {0};

		if (inode < 0 || inodes[inode].folder)
			continue;
		cut_content(&inodes[inode], &c);
		write_file(dir, now[i].path, &c);
		free(c.p);
	}
}

/* ---- the run that is cut ---- */

static void run(const char *dir)
{
	struct fh_log_report report;
	struct fh_err err;

	cr_assert(!fh_log_open(dir, note_op, NULL, &writer, &report, &err), "%s", err.msg);
	for (uint64_t i = 0; i < 3; i++) {
		add_pair(writer, i % 2 ? "alice" : "bob", i, 60);
		cr_assert(!fh_log_commit(writer, true));
	}
	cr_assert(!fh_log_publish(writer));
	for (uint64_t i = 3; i < 6; i++) {
		add_pair(writer, "alice", i, 60);
		cr_assert(!fh_log_commit(writer, i % 2));
	}
	/* Over the border of a tile. */
	for (uint64_t i = 6; i < 130; i++)
		add_pair(writer, "alice", i, 30);
	cr_assert(!fh_log_publish(writer));
	add_pair(writer, "carol", 200, 60);
	cr_assert(!fh_log_commit(writer, true));
	cr_assert(!fh_log_erase_tenant(writer, "bob"));
	cr_assert(!fh_log_commit(writer, true));
	add_pair(writer, "carol", 201, 60);
	fh_log_close(writer);
	writer = NULL;
}

static void check_cut(uint32_t at, uint64_t seed)
{
	uint64_t durable = ops[at].durable;
	struct fh_log_report report;
	static struct findings found;
	struct fh_err err = {0};
	struct fh_log *l;
	char dir[40];
	int rc;

	new_folder(dir);
	cut(dir);
	rc = fh_log_open(dir, NULL, NULL, &l, &report, &err);
	cr_assert(!rc, "cut before change %u, seed %lu: %s", at, seed, err.msg);
	cr_assert_geq(fh_log_size(l), durable,
		      "cut before change %u, seed %lu: %lu entries were durable, %lu are there", at, seed, durable,
		      fh_log_size(l));
	add_pair(l, "alice", 900, 60);
	cr_assert(!fh_log_close(l));
	verify(dir, NULL, &found);
	/* Between the entry that says so and the erasure of a key the verifier sees a key too many. */
	if (!strstr(found.all, "tenant/bob"))
		cr_assert_eq(found.nr, 0, "cut before change %u, seed %lu: %s", at, seed, found.all);
	remove_folder(dir);
}

Test(crash, power_cuts, .timeout = 250)
{
	char dir[40];

	new_folder(dir);
	run(dir);
	remove_folder(dir);
	cr_assert_gt(nr_ops, 60);
	for (uint32_t at = 0; at < nr_ops; at++) {
		for (uint64_t seed = 1; seed <= 8; seed++) {
			rng_state = 0x9e3779b97f4a7c15u * (at * 16 + seed);
			check_cut(at, seed);
		}
		play(&ops[at]);
	}
}

/* ---- a full disk ---- */

static uint32_t fail_at, nr_seen;

static int fail_op(void *ctx, const struct fh_dir_op *op)
{
	bool grows = op->kind == FH_DIR_WRITE || op->kind == FH_DIR_MKDIR || op->kind == FH_DIR_SYNC;

	(void)ctx;
	return grows && fail_at && ++nr_seen >= fail_at && nr_seen < fail_at + 3 ? -ENOSPC : 0;
}

/* Three changes in a row fail, beginning with each that there is. */
Test(crash, full_disk, .timeout = 120)
{
	struct fh_log_report report;
	static struct findings found;
	struct fh_err err;
	struct fh_log *l;
	uint32_t nr_failed = 0;
	char dir[40];

	for (uint32_t at = 1; at < 60; at++) {
		struct fh_verify v;

		fail_at = nr_seen = 0;
		new_folder(dir);
		cr_assert(!fh_log_open(dir, fail_op, NULL, &l, &report, &err), "%s", err.msg);
		add_pair(l, "alice", 0, 60);
		fail_at = at;
		for (uint64_t i = 1; i < 20; i++) {
			uint64_t durable = fh_log_durable(l);
			int rc;

			add_pair(l, "alice", i, 60);
			rc = i % 3 ? fh_log_commit(l, true) : fh_log_publish(l);
			cr_assert(!rc || rc == -ENOSPC);
			cr_assert_geq(fh_log_durable(l), durable);
			cr_assert(rc || fh_log_durable(l) == fh_log_size(l));
			nr_failed += rc != 0;
		}
		fail_at = 0;
		cr_assert(!fh_log_close(l));
		v = verify(dir, NULL, &found);
		cr_assert_eq(found.nr, 0, "failing from change %u: %s", at, found.all);
		cr_assert_eq(v.nr_opened, 40);
		remove_folder(dir);
	}
	cr_expect_gt(nr_failed, 60);
}
