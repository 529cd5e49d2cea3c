// SPDX-License-Identifier: Apache-2.0
/* freehold audit rebuild-usage: the tables of usage from what logs say, or whether they agree. */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <time.h>
#include <unistd.h>

#include "runtime/base/budget.h"
#include "runtime/trust/recount.h"
#include "tools/audit.h"
#include "tools/cmd.h"

struct diffs {
	uint64_t nr;
};

static void print_number(const char *what, uint64_t v)
{
	if (strcmp(what, "money"))
		printf("%" PRIu64, v);
	else
		printf("%" PRIu64 ".%012" PRIu64, v / FH_MONEY_UNIT, v % FH_MONEY_UNIT);
}

static void print_diff(void *ctx, const struct fh_usage_diff *d)
{
	time_t t = (time_t)d->hour_s;
	char hour[40] = "";
	struct tm tm;

	((struct diffs *)ctx)->nr++;
	if (!d->when && gmtime_r(&t, &tm))
		strftime(hour, sizeof(hour), "%Y-%m-%dT%H", &tm);
	printf("%s:%s of %s%s%s: %s: the database has ", d->kind, d->name, d->model, d->when && !*d->when ? "" : ", ",
	       d->when ? d->when : hour, d->what);
	print_number(d->what, d->was);
	fputs(", the log has ", stdout);
	print_number(d->what, d->is);
	putchar('\n');
}

/*
 * Who writes a log overwrites usage once a second, and is ahead of both.  The descriptor of a lock that keeps such a
 * server from beginning; -1: there is no such file; -EBUSY: one runs.
 */
static int lock_log(const struct fh_reader *r)
{
	int fd = openat(r->dir.fd, "lock", O_RDONLY | O_CLOEXEC);

	if (fd >= 0 && flock(fd, LOCK_SH | LOCK_NB) && errno == EWOULDBLOCK) {
		close(fd);
		return -EBUSY;
	}
	return fd >= 0 ? fd : -1;
}

static int say(const struct audit_args *a, const struct fh_recount *c, const struct diffs *d)
{
	printf("%" PRIu64 " entries: %" PRIu64 " outcomes with a charge, %" PRIu64 " without, %" PRIu64
	       " requests without an outcome",
	       c->nr_entries, c->nr_charged, c->nr_unpaid, c->nr_open);
	if (c->nr_old)
		printf(", %" PRIu64 " outcomes of a version that did not log what was paid", c->nr_old);
	if (c->nr_lost)
		printf(", %" PRIu64 " records lost", c->nr_lost);
	if (c->nr_bad)
		printf(", %" PRIu64 " outcomes that make no sense", c->nr_bad);
	printf(!d->nr	  ? "\nusage is what the log says\n"
	       : a->check ? "\nusage is NOT what the log says\n"
			  : "\nusage was rebuilt\n");
	return (a->check && d->nr) || c->nr_bad;
}

struct logs {
	struct fh_reader r[AUDIT_MAX_WORDS];
	int lock[AUDIT_MAX_WORDS];
	uint32_t nr;
};

/* Locked before it is read: what is read is all there is. */
static int open_log(struct logs *l, const char *path, const struct audit_args *a)
{
	struct fh_reader *r = &l->r[l->nr];
	struct fh_err err = {0};
	char key[FH_NOTE_KEY_MAX];
	int rc = fh_reader_open(r, path, audit_key_text(a->key, key), &err), fd;

	if (rc) {
		fprintf(stderr, "freehold audit: %s: %s\n", path, err.msg);
		return rc;
	}
	fd = lock_log(r);
	l->lock[l->nr++] = fd;
	if (fd == -EBUSY) {
		fprintf(stderr,
			"freehold audit: %s: a server writes this log, and its usage, which is ahead of what lies "
			"there; "
			"end it first\n",
			path);
		return -EBUSY;
	}
	return 0;
}

/* The log that was locked only now may have grown in between. */
static int read_again(struct logs *l, const struct audit_args *a)
{
	struct fh_err err = {0};
	char key[FH_NOTE_KEY_MAX];
	int rc = 0;

	for (uint32_t i = 0; i < l->nr && !rc; i++) {
		fh_reader_close(&l->r[i]);
		rc = fh_reader_open(&l->r[i], a->words[i], audit_key_text(a->key, key), &err);
		if (rc)
			fprintf(stderr, "freehold audit: %s: %s\n", a->words[i], err.msg);
	}
	return rc;
}

static void close_logs(struct logs *l)
{
	for (; l->nr; l->nr--) {
		fh_reader_close(&l->r[l->nr - 1]);
		if (l->lock[l->nr - 1] >= 0)
			close(l->lock[l->nr - 1]);
	}
}

int audit_rebuild_usage(const struct audit_args *a)
{
	struct diffs d = {0};
	struct fh_usage_rebuild how = {
		.now_s = (uint64_t)time(NULL), .check = a->check, .force = a->force, .diff = print_diff, .ctx = &d};
	struct logs *l = calloc(1, sizeof(*l));
	struct fh_recount counted = {0};
	struct fh_keydb *db = NULL;
	struct fh_err err = {0};
	int rc = l ? 0 : -ENOMEM;

	for (uint32_t i = 0; i < a->nr_words && !rc; i++)
		rc = open_log(l, a->words[i], a);
	if (!rc)
		rc = read_again(l, a);
	if (!rc) {
		rc = fh_keydb_open(a->keys ? a->keys : CMD_KEYS_PATH, false, &db, &err);
		if (!rc)
			rc = fh_usage_rebuild(db, l->r, l->nr, &how, &counted, &err);
		if (rc)
			fprintf(stderr, "freehold audit: %s\n", err.msg);
	}
	fh_keydb_close(db);
	if (l)
		close_logs(l);
	free(l);
	return rc ? 1 : say(a, &counted, &d);
}
