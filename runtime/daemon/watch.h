/* SPDX-License-Identifier: Apache-2.0 */
/* What the thread of the keys does for those who watch; see identity.h. */
#ifndef FH_DAEMON_WATCH_H
#define FH_DAEMON_WATCH_H

#include "runtime/daemon/identity.h"

/* A few times a second. */
void fhd_watch_tick(struct fhd_identity *i, struct fh_keydb *db);
/* errands.c: run those that wait. */
void fhd_errands_run(struct fhd_identity *i, struct fh_keydb *db);
/* The tenants that there are, if others than before: for the front end. */
void fhd_watch_list(struct fhd_identity *i);
/* The limits from now on; NULL: none. */
void fhd_watch_limits(struct fhd_identity *i, const struct fh_budget_table *t);

#endif /* FH_DAEMON_WATCH_H */
