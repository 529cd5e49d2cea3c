// SPDX-License-Identifier: Apache-2.0
/* freehold audit rebuild-usage: the tables of usage from what logs say, or whether they agree. */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
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
	((struct diffs *)ctx)->nr++;
	printf("%s:%s of %s: %s: the database has ", d->kind, d->name, d->model, d->what);
	print_number(d->what, d->was);
	fputs(", the log has ", stdout);
	print_number(d->what, d->is);
	putchar('\n');
}

/* Who writes a log overwrites usage once a second. */
static bool is_written(const struct fh_reader *r)
{
	int fd = openat(r->dir.fd, "lock", O_RDONLY | O_CLOEXEC);
	bool busy = fd >= 0 && flock(fd, LOCK_SH | LOCK_NB) && errno == EWOULDBLOCK;

	if (fd >= 0)
		close(fd);
	return busy;
}

static int say(const struct audit_args *a, const struct fh_recount *c, const struct diffs *d)
{
	printf("%" PRIu64 " entries: %" PRIu64 " outcomes with a charge, %" PRIu64 " without, %" PRIu64
	       " requests without an outcome",
	       c->nr_entries, c->nr_charged, c->nr_unpaid, c->nr_open);
	if (c->nr_bad)
		printf(", %" PRIu64 " outcomes that make no sense", c->nr_bad);
	printf(!d->nr	  ? "\nusage is what the log says\n"
	       : a->check ? "\nusage is NOT what the log says\n"
			  : "\nusage was rebuilt\n");
	return (a->check && d->nr) || c->nr_bad;
}

int audit_rebuild_usage(const struct audit_args *a)
{
	const char *path = a->keys ? a->keys : CMD_KEYS_PATH;
	struct fh_reader r[AUDIT_MAX_WORDS];
	struct fh_recount counted = {0};
	struct fh_keydb *db = NULL;
	struct diffs d = {0};
	struct fh_err err = {0};
	char key[FH_NOTE_KEY_MAX];
	uint32_t nr = 0;
	int rc = 0;

	for (; nr < a->nr_words && !rc; nr += !rc) {
		rc = fh_reader_open(&r[nr], a->words[nr], audit_key_text(a->key, key), &err);
		if (rc)
			fprintf(stderr, "freehold audit: %s: %s\n", a->words[nr], err.msg);
		else if (!a->check && is_written(&r[nr])) {
			fprintf(stderr,
				"freehold audit: %s: a server writes this log, and its usage; end it first, or ask "
				"with --check\n",
				a->words[nr++]);
			rc = -EBUSY;
			break;
		}
	}
	if (!rc) {
		rc = fh_keydb_open(path, false, &db, &err);
		if (!rc)
			rc = fh_usage_rebuild(db, r, nr, a->check, print_diff, &d, &counted, &err);
		if (rc)
			fprintf(stderr, "freehold audit: %s\n", err.msg);
	}
	fh_keydb_close(db);
	while (nr)
		fh_reader_close(&r[--nr]);
	return rc ? 1 : say(a, &counted, &d);
}
