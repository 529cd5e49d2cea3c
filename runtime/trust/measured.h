/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What was measured beside the usage of an hour: energy, and for how long it was
 * measured.  A table of its own in the database of keys, because it is no part
 * of what the audit log can give back: it is made where it is missing, and a
 * version that does not know it does not mind.
 *
 * Rows of kind "tenant", "user", "key" and "run" are shares of the busy energy;
 * the host's own are of kind "host", named "busy" and "idle".
 */
#ifndef FH_TRUST_MEASURED_H
#define FH_TRUST_MEASURED_H

#include "runtime/trust/keydb.h"

struct fh_measured {
	uint64_t hour_s; /* its beginning, Unix time */
	const char *model, *kind, *name;
	uint64_t uj;	    /* millionths of a joule */
	double seconds;	    /* the host's: for how long */
	uint64_t reasoning; /* completion tokens that were thoughts */
};

struct sqlite3_stmt;

/* The table, where it is missing. */
int fh_measured_table(struct fh_keydb *db, struct fh_err *err);
/* Within a transaction of the caller's: make the table if need be, and a statement that adds to its rows. */
int fh_measured_begin(struct fh_keydb *db, struct sqlite3_stmt **st, struct fh_err *err);
int fh_measured_add(struct fh_keydb *db, struct sqlite3_stmt *st, const struct fh_measured *m, struct fh_err *err);

/* Rows of @kind in the hours from @from_s to before @to_s, by hour, name and model; none where there is no table. */
int fh_measured_each(struct fh_keydb *db, const char *kind, uint64_t from_s, uint64_t to_s,
		     int (*fn)(void *ctx, const struct fh_measured *m), void *ctx, struct fh_err *err);

#endif /* FH_TRUST_MEASURED_H */
