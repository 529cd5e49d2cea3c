/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Keys that change while the daemon runs.
 *
 * A thread of its own asks the database a few times a second whether somebody
 * has changed it (PRAGMA data_version: a look at shared memory), and if so makes
 * a new table and hands it on.  Nothing of that is on the path of a request.
 * What cannot be read is tried again at every look.  Limits that cannot be read
 * hold no table back: a revocation arrives whatever is wrong with budgets.
 *
 * The database is opened before the process gives up its rights and stays open:
 * a file of that name that is put in its place is not noticed.
 */
#ifndef FH_TRUST_KEYWATCH_H
#define FH_TRUST_KEYWATCH_H

#include "runtime/trust/keytab.h"

struct fh_keywatch;

struct fh_keywatch_config {
	const char *path;	      /* of the database; NULL: rules alone, and no thread */
	struct fh_keytab_world world; /* copied; what it points to is borrowed */
	uint32_t poll_ms;	      /* 0: 200 */
	/* A new table; the reference is the callee's. On the watch's thread. */
	void (*changed)(void *ctx, struct fh_guard *g);
	/* Before that, with world.accounts: the limits of its accounts; malloc'ed, the callee's. */
	void (*limits)(void *ctx, struct fh_budget_table *t);
	/* After each look, for whoever keeps something in the same file; NULL: nobody. */
	void (*tick)(void *ctx, struct fh_keydb *db);
	void *ctx;
};

/* Opens the database and makes the first table. */
int fh_keywatch_open(const struct fh_keywatch_config *cfg, struct fh_keywatch **out, struct fh_err *err);
/* The present table, with a reference for the caller; any thread. */
struct fh_guard *fh_keywatch_guard(struct fh_keywatch *w);
/* The first limits, once; NULL: there are none. */
struct fh_budget_table *fh_keywatch_limits(struct fh_keywatch *w);
/* The database, until fh_keywatch_start() and after fh_keywatch_stop(); NULL: there is none. */
struct fh_keydb *fh_keywatch_db(struct fh_keywatch *w);
/*
 * On the watch's own thread, in tick(): it changed something itself, which the database does not tell it.
 * 0: the front ends have the keys as they are now; -errno: they keep those they had.
 */
int fh_keywatch_look(struct fh_keywatch *w);
int fh_keywatch_start(struct fh_keywatch *w, struct fh_err *err);
/* Ends the thread, after one more tick. */
void fh_keywatch_stop(struct fh_keywatch *w);
/* NULL is fine. */
void fh_keywatch_close(struct fh_keywatch *w);

#endif /* FH_TRUST_KEYWATCH_H */
