/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Usage, counted again from the audit log.
 *
 * The log is the truth of what was charged; the tables of usage in the database
 * (accounts.h) are a copy of the meter that is written once a second.  A process
 * that was killed leaves them behind the log.  So each model's usage has a mark: of
 * which log it is, a base, which is the sum of its entries up to one of them, and
 * what the tables were given beyond that.  The base moves on while a server runs,
 * so that a start has little left to count; each step is a transaction of its own,
 * and one that was begun is gone on with.
 *
 * A start, and an end in order, brings the base to the log's end and puts the two
 * together.  Nothing goes down there: of each number the larger one stays, because
 * a log that could not be written lacks what was served meanwhile, and an outcome
 * that its process did not live to see is in no log.  fh_usage_rebuild() is for
 * whoever wants the log's word alone.
 */
#ifndef FH_TRUST_RECOUNT_H
#define FH_TRUST_RECOUNT_H

#include "runtime/trust/keydb.h"
#include "runtime/trust/reader.h"

struct fh_recount {
	uint64_t from, nr_entries; /* entries that were looked at */
	uint64_t nr_charged;	   /* outcomes that were paid for */
	uint64_t nr_unpaid;	   /* of nobody with an account, or of a version that did not say ... */
	uint64_t nr_old;	   /* ... of them, such */
	uint64_t nr_open;	   /* requests without an outcome */
	uint64_t nr_bad;	   /* outcomes that make no sense */
	uint64_t nr_lost;	   /* records of which the log says that it lacks them */
	bool recounted;		   /* the tables were not as the mark says ... */
	bool changed;		   /* ... although the last server ended in order */
	bool strange;		   /* the log is not the one, or shorter than it was: the tables were left alone */
	/* Tenants, users and keys that had used more than the log says; and of the one with the most tokens more: */
	uint64_t nr_ahead;
	uint64_t saved, logged; /* its tokens */
	char ahead[2 * FH_IDENTITY_NAME_MAX + 16];
};

/*
 * At the start of a server of @model, before it reads usage: bring the tables up to
 * the log @r, and open the mark.  @r NULL: it has no log; then there is no mark
 * either.  @progress, or NULL: called now and then, with how many of the log's
 * entries are counted.
 */
int fh_usage_open(struct fh_keydb *db, struct fh_reader *r, const char *model, uint64_t now_s,
		  void (*progress)(void *ctx, uint64_t nr, uint64_t of), void *ctx, struct fh_recount *out,
		  struct fh_err *err);
/*
 * While it runs: move the base on by up to @most entries of @r.  *base: where it is
 * then.  @out is added to.  -ESTALE: the mark is not of this log.
 */
int fh_usage_advance(struct fh_keydb *db, struct fh_reader *r, const char *model, uint64_t now_s, uint64_t most,
		     uint64_t *base, struct fh_recount *out, struct fh_err *err);
/* The log has been seen with @nr entries: one with less is an older one. Nothing without a mark. */
int fh_usage_saw(struct fh_keydb *db, const char *model, uint64_t nr, struct fh_err *err);
/* At its end, when the tables are saved and the log @r is whole: close the mark. */
int fh_usage_close(struct fh_keydb *db, struct fh_reader *r, const char *model, uint64_t now_s, struct fh_err *err);

/* A number that the tables have and the log has otherwise. */
struct fh_usage_diff {
	/*
	 * Kind "run": of "TENANT", all its runs, or of "TENANT/ID".  What: "tokens", "prompt", "cached", "completion",
	 * "reasoning", "money", "requests", "depth".
	 */
	const char *model, *kind, *name, *what;
	const char *when; /* "", "this minute", "this day", "this month"; else NULL and ... */
	uint64_t hour_s;  /* ... of the hour that begins then */
	uint64_t was, is;
};

struct fh_usage_rebuild {
	uint64_t now_s;
	bool check; /* change nothing */
	bool force; /* also where outcomes are of a version that did not say what was paid */
	void (*diff)(void *ctx, const struct fh_usage_diff *d); /* told of each number that changes */
	void *ctx;
};
/*
 * Make the usage of all models of the logs @r [@nr], and of no other, what these
 * logs say, from their beginnings.  The database is locked for the last step only.
 * -EEXIST: a log is named twice; -EOPNOTSUPP: it would forget what only the tables
 * know (see force).
 */
int fh_usage_rebuild(struct fh_keydb *db, struct fh_reader *r, uint32_t nr, const struct fh_usage_rebuild *how,
		     struct fh_recount *out, struct fh_err *err);

/* ---- between the files of this ---- */

struct fh_recount_job {
	uint64_t from, to; /* entries */
	const char *model; /* NULL: all, and nothing is gone on with */
	uint64_t now_s;
	const char *usage, *hours; /* tables, to which is added ... */
	const char *thoughts;	   /* of hours: as measured.h has them, and how many outcomes did not say */
	const char *runs;	   /* see recount_runs.h */
	bool subtract;		   /* ... but for the last three, from which it is taken away */
	/* With a model: the state at @from, then at @to; the requests that are open lie in usage_open. */
	bool on;
	uint64_t says; /* FH_RF_CHARGES and FH_RF_THOUGHTS of the last START */
	uint64_t high; /* the last minute that anybody paid in */
	int (*met)(void *ctx, const char *model, struct fh_err *err); /* of each model; NULL: no */
	void *ctx;
};
/* recount.c: count what entries of @r charge, within a transaction. */
int fh_recount_log(struct fh_keydb *db, struct fh_reader *r, struct fh_recount_job *job, struct fh_recount *out,
		   struct fh_err *err);

/* usage_log.c */
int fh_usage_exec(struct fh_keydb *db, const char *sql, struct fh_err *err);
/* @sql, with @model as ?1 and @v as ?2, to its end. */
int fh_usage_run(struct fh_keydb *db, const char *sql, const char *model, uint64_t v, struct fh_err *err);
/* Commit, or undo when @rc says that something went wrong. */
int fh_usage_end(struct fh_keydb *db, int rc, struct fh_err *err);
int fh_usage_tables(struct fh_keydb *db, struct fh_err *err);
int fh_usage_drop_mark(struct fh_keydb *db, const char *model, struct fh_err *err);

#endif /* FH_TRUST_RECOUNT_H */
