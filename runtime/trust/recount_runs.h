/* SPDX-License-Identifier: Apache-2.0 */
/* Between the files of a count from the audit log: its agent runs.  See recount.h and runs.h. */
#ifndef FH_TRUST_RECOUNT_RUNS_H
#define FH_TRUST_RECOUNT_RUNS_H

#include "runtime/trust/runs.h"

struct fh_recount_runs;

/* To @table (borrowed), of the columns of runs, is added what there is, or taken away. NULL: no memory. */
struct fh_recount_runs *fh_recount_runs_create(struct fh_keydb *db, const char *table, bool subtract);
void fh_recount_runs_free(struct fh_recount_runs *r);
/*
 * What an outcome charged a run of @tenant.  @model: borrowed until the flush, and one pointer a model.  @vague: it did
 * not say how much of it was thoughts; where nothing is taken away, uj is how many there were of these.
 */
int fh_recount_runs_add(struct fh_recount_runs *r, const char *model, const char *tenant, const struct fh_run_use *u,
			bool vague, struct fh_err *err);
int fh_recount_runs_flush(struct fh_recount_runs *r, struct fh_err *err);

/* After a step of the base: rows get what runs_since is short of, as the log has it and they have not. */
int fh_recount_runs_raise(struct fh_keydb *db, const char *model, uint64_t now_s, struct fh_err *err);

#endif /* FH_TRUST_RECOUNT_RUNS_H */
