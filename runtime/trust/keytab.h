/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The keys in memory: an immutable table (runtime/base/guard.h) made from the
 * database and the rules.
 *
 * A presented key is hashed with the database's secret and looked up by the
 * hash.  What the time of a look-up tells is about the hash, which nobody can
 * choose or compute who does not know the secret; the hash itself is compared in
 * constant time.
 */
#ifndef FH_TRUST_KEYTAB_H
#define FH_TRUST_KEYTAB_H

#include "runtime/base/err.h"
#include "runtime/base/guard.h"
#include "runtime/trust/accounts.h"
#include "runtime/trust/keydb.h"
#include "runtime/trust/rules.h"

/* What the scopes of keys are about. Outlives every table. */
struct fh_keytab_world {
	const char *model;	      /* the name of the one that is served */
	const char *const *endpoints; /* [nr_endpoints] paths; "" for one that no scope can name */
	uint32_t nr_endpoints;	      /* at most 63 */
	const struct fh_rules *rules; /* NULL: none */
	struct fh_accounts *accounts; /* where budgets are counted; NULL: nowhere */
};

/* @db: NULL: nobody has a key. *out has one reference. -errno with @err. */
int fh_keytab_load(struct fh_keydb *db, const struct fh_keytab_world *world, struct fh_guard **out, struct fh_err *err);
uint32_t fh_keytab_nr_keys(const struct fh_guard *g);
/* BLAKE2b-256 of all that the table says, so that two tables can be told apart. */
void fh_keytab_digest(const struct fh_guard *g, uint8_t out[32]);

/*
 * What @now says of keys and tenants that @before did not, as one line: "revoked 0123456789abcdef (alice)".  No more
 * than @cap allows; the rest is counted.  Both are tables of the same database.
 */
void fh_keytab_changes(const struct fh_guard *before, const struct fh_guard *now, char *out, size_t cap);

/*
 * The endpoints of a comma-separated list as bits; -EINVAL: @bad is the one that is not there.  "" and the word all:
 * all, without FH_GRANT_ADMIN, which only the word admin gives.
 */
int fh_keytab_endpoints(const struct fh_keytab_world *world, const char *list, uint64_t *bits, char bad[64]);

/* The scheduler's number of a tenant. */
uint32_t fh_tenant_nr(const char *name);

#endif /* FH_TRUST_KEYTAB_H */
