/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Usage, counted again from the audit log.
 *
 * The log is the truth of what was charged; the tables of usage in the database
 * (accounts.h) are a copy of the meter that is written once a second.  A process
 * that was killed leaves them behind the log.  So each model's usage has a mark,
 * which says of which log, and up to which entry of it, the tables are the sum,
 * and a base: what they were when the last server began.  A start that finds the
 * mark closed, by a server that ended in order, goes on with the tables; any other
 * takes the base and adds what the log says after it.  All of that is one
 * transaction.
 *
 * Not in the log, and so not counted again: what a request had used that had no
 * outcome when its process was killed.
 */
#ifndef FH_TRUST_RECOUNT_H
#define FH_TRUST_RECOUNT_H

#include "runtime/trust/keydb.h"
#include "runtime/trust/reader.h"

struct fh_recount {
	uint64_t from, nr_entries; /* entries that were looked at */
	uint64_t nr_charged;	   /* outcomes that were paid for */
	uint64_t nr_unpaid;	   /* of nobody with an account, or of a version that did not say */
	uint64_t nr_open;	   /* requests without an outcome */
	uint64_t nr_bad;	   /* outcomes that make no sense */
	bool recounted;		   /* the tables were not as the mark says: the base was taken */
	bool strange;		   /* the log is not the one, or shorter than the tables know: they were left alone */
};

/*
 * At the start of a server of @model, before it reads usage: make the tables the
 * sum of the log @r, and open the mark.  @r NULL: it has no log; then there is no
 * mark either.
 */
int fh_usage_open(struct fh_keydb *db, struct fh_reader *r, const char *model, uint64_t now_s, struct fh_recount *out,
		  struct fh_err *err);
/* At its end, when the tables are saved and the log @r is whole: close the mark. */
int fh_usage_close(struct fh_keydb *db, struct fh_reader *r, const char *model, struct fh_err *err);

/* A number that the tables have and the log has otherwise. */
struct fh_usage_diff {
	const char *model, *kind, *name, *what; /* "tokens", "money", "requests" */
	uint64_t was, is;
};
/*
 * Make the usage of all models of the logs @r [@nr], and of no other, what these
 * logs say, from their beginnings.  @diff is told of each total that changes.
 * @check: only that.
 */
int fh_usage_rebuild(struct fh_keydb *db, struct fh_reader *r, uint32_t nr, bool check,
		     void (*diff)(void *ctx, const struct fh_usage_diff *d), void *ctx, struct fh_recount *out,
		     struct fh_err *err);

/* recount.c: add what entries of @r from @from on charge, of @model or (NULL) of all, within a transaction. */
int fh_recount_log(struct fh_keydb *db, struct fh_reader *r, uint64_t from, const char *model, struct fh_recount *out,
		   struct fh_err *err);

#endif /* FH_TRUST_RECOUNT_H */
