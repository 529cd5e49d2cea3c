/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Usage by agent run, in the database of keys.
 *
 * A row a model, tenant and run; the row without a run is the sum of all runs of the
 * tenant, those that have no row of their own (any more) included.  A client chooses
 * the names of its runs, and may choose a new one for each request, so rows are
 * bounded: those of the latest runs of each tenant are kept, for some days, and the
 * sums alone are kept for ever.  What a run was charged comes when a request of it
 * ends, which is when the audit log says so, too.
 *
 *   runs         the rows
 *   runs_since   what they were given since the base of a count from the audit log
 *                (recount.h): it is less what the log says of the same time, and
 *                where less than nothing is left, the row lacks that and gets it;
 *                with a run "*" there are too many of them, and nothing is raised
 *
 * Tables are made where they are missing, and a version that does not know them does
 * not mind them.  Joules are in no log, and are left alone by all counts.
 */
#ifndef FH_TRUST_RUNS_H
#define FH_TRUST_RUNS_H

#include "runtime/base/budget.h"
#include "runtime/trust/keydb.h"

#define FH_RUN_ROWS_DEFAULT 10000u /* of a model and tenant */
#define FH_RUN_DAYS_DEFAULT 90u	   /* since a run's last request */
#define FH_RUNS_SINCE_MAX 262144u  /* rows of a model that wait for the log */
#define FH_RUN_NAME_BYTES 33	   /* its id in hexadecimal, with the 0 at the end */

/* How many rows are kept; rows 0: sums alone; days 0: for ever. */
struct fh_run_keep {
	uint32_t rows, days;
};

struct fh_run_row {
	const char *model, *tenant, *run; /* "": the sum of all */
	uint64_t first_s, last_s;	  /* Unix time */
	uint64_t depth;			  /* the greatest */
	uint64_t requests, prompt, cached, completion, reasoning, money;
	uint64_t uj; /* millionths of a joule */
};

/* ---- what the engine tells, until it is saved; of the thread of the watch over keys ---- */

struct fh_runs;

/* NULL: no memory. */
struct fh_runs *fh_runs_create(void);
void fh_runs_free(struct fh_runs *r);
/* A request has ended. Beyond the room, which one tenant cannot use up alone, it is in its tenant's sum only. */
void fh_runs_add(struct fh_runs *r, const struct fh_run_use *u);
/* A run's share of the energy, in millionths of a joule; likewise. */
void fh_runs_add_energy(struct fh_runs *r, uint32_t tenant, const uint8_t id[16], double uj, uint64_t now_s);
uint32_t fh_runs_nr(const struct fh_runs *r);
/* How many are pending of @tenant, or of others that share its room. */
uint32_t fh_runs_nr_of(const struct fh_runs *r, uint32_t tenant);
/*
 * All of it, within a transaction of the caller's, to runs and, where it @follows the audit log, to runs_since, too.
 * @name: of an account; NULL: nobody's.
 */
int fh_runs_save(struct fh_runs *r, struct fh_keydb *db, const char *model, bool follows,
		 const char *(*name)(void *ctx, uint32_t tenant), void *ctx, struct fh_err *err);
/* That transaction is done: what was saved is not pending any more. */
void fh_runs_saved(struct fh_runs *r);

/* ---- the database ---- */

struct sqlite3_stmt;

int fh_runs_tables(struct fh_keydb *db, struct fh_err *err);
/* Are the runs of @model told from its audit log: has it a mark (usage_log.c), and wait not too many? */
int fh_runs_follow(struct fh_keydb *db, const char *model, bool *follows, struct fh_err *err);
/* A statement that adds rows' numbers to @table, of the columns of runs; and one of them. */
int fh_runs_prepare(struct fh_keydb *db, const char *table, struct sqlite3_stmt **st, struct fh_err *err);
int fh_runs_step(struct fh_keydb *db, struct sqlite3_stmt *st, const struct fh_run_row *row, struct fh_err *err);
/* Add a row's numbers to @table; the sum of a tenant's runs is that of run "". */
int fh_runs_put(struct fh_keydb *db, const char *table, const struct fh_run_row *row, struct fh_err *err);
/* How many rows are kept: from the server's settings, for it and for who rebuilds usage. */
int fh_runs_set_keep(struct fh_keydb *db, const struct fh_run_keep *keep, struct fh_err *err);
/* As it was set last, or the defaults. */
int fh_runs_get_keep(struct fh_keydb *db, struct fh_run_keep *keep, struct fh_err *err);
/*
 * Take rows of @table away, of each tenant all but the latest @rows; of @model (NULL: all) and @tenant (NULL: all,
 * which reads every row).  Within a transaction or not.
 */
int fh_runs_trim(struct fh_keydb *db, const char *table, const char *model, const char *tenant, uint32_t rows,
		 struct fh_err *err);
/* Take those away that ended more than @days (0: none) before @now_s, Unix time. */
int fh_runs_expire(struct fh_keydb *db, const char *model, uint32_t days, uint64_t now_s, struct fh_err *err);
/*
 * What of the rows @tenant (NULL: all) had a request from @from_s to before @to_s, sums of all left out or alone;
 * from the earliest end on.  None where there is no table.
 */
int fh_runs_each(struct fh_keydb *db, bool sums, const char *tenant, const char *run, uint64_t from_s, uint64_t to_s,
		 int (*fn)(void *ctx, const struct fh_run_row *row), void *ctx, struct fh_err *err);

/* The id, in hexadecimal, of the run that a client of HTTP calls @name. */
void fh_run_of_name(const char *name, char out[FH_RUN_NAME_BYTES]);

#endif /* FH_TRUST_RUNS_H */
