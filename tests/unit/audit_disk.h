/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A disk whose power is cut.  A writer of the audit log runs on a real folder while
 * every change is noted; then they are played again, and for a cut before any of
 * them a folder is built as a disk may have it: what was synced is there, of what
 * was not, any part.  Names are as durable as their folder's last sync; of the
 * changes since, any have happened.
 */
#ifndef FH_TESTS_UNIT_AUDIT_DISK_H
#define FH_TESTS_UNIT_AUDIT_DISK_H

#include <fcntl.h>
#include <sys/stat.h>

#include "tests/unit/audit_util.h"

enum { MAX_OPS = 20000, MAX_FILES = 400, DISK_KNOWN = 4 };

/* One change, and what was known to be durable before it, in the words of the test. */
struct op {
	struct fh_dir_op op;
	char path[FH_DIR_PATH_MAX], to[FH_DIR_PATH_MAX];
	void *bytes;
	uint64_t known[DISK_KNOWN];
};

static struct op ops[MAX_OPS];
static uint32_t nr_ops;
static uint64_t disk_rng_state;

static inline uint64_t rng(uint64_t below)
{
	disk_rng_state ^= disk_rng_state << 13;
	disk_rng_state ^= disk_rng_state >> 7;
	disk_rng_state ^= disk_rng_state << 17;
	return (disk_rng_state * 2685821657736338717u >> 20) % below;
}

static inline void disk_note(const struct fh_dir_op *op, const uint64_t known[DISK_KNOWN])
{
	struct op *o = &ops[nr_ops++];

	cr_assert_lt(nr_ops, MAX_OPS);
	*o = (struct op){.op = *op};
	memcpy(o->known, known, sizeof(o->known));
	strcpy(o->path, op->path);
	strcpy(o->to, op->to ? op->to : "");
	o->bytes = malloc(op->nr_bytes + 1);
	if (op->nr_bytes)
		memcpy(o->bytes, op->bytes, op->nr_bytes);
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

static inline struct name *lookup(struct name *table, uint32_t *nr, const char *path)
{
	for (uint32_t i = 0; i < *nr; i++)
		if (!strcmp(table[i].path, path))
			return &table[i];
	cr_assert_lt(*nr, MAX_FILES);
	table[*nr] = (struct name){.inode = -1};
	strcpy(table[*nr].path, path);
	return &table[(*nr)++];
}

static inline int new_inode(bool folder)
{
	inodes[nr_inodes] = (struct inode){.folder = folder};
	return nr_inodes++;
}

static inline void resize(struct content *c, size_t n)
{
	c->p = realloc(c->p, n + 1);
	if (n > c->n)
		memset(c->p + c->n, 0, n - c->n);
	c->n = n;
}

static inline void put(struct content *c, uint64_t at, const void *p, size_t n)
{
	if (at + n > c->n)
		resize(c, at + n);
	if (n)
		memcpy(c->p + at, p, n);
}

static inline void copy_content(struct content *to, const struct content *from)
{
	resize(to, 0);
	put(to, 0, from->p, from->n);
}

static inline bool in_folder(const char *path, const char *folder)
{
	size_t n = strlen(folder);

	if (!strcmp(folder, "."))
		return !strchr(path, '/');
	return !strncmp(path, folder, n) && path[n] == '/' && !strchr(path + n + 1, '/');
}

static inline void play_names(struct name *table, uint32_t *nr, const struct op *o)
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
static inline void disk_play(const struct op *o)
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
static inline void cut_content(const struct inode *f, struct content *out)
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

static inline void write_file(const char *dir, const char *path, const struct content *c)
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
static inline void disk_cut(const char *dir)
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

#endif /* FH_TESTS_UNIT_AUDIT_DISK_H */
