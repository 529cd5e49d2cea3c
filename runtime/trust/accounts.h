/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Budgets by name: the numbers that the meter counts by, the limits that the
 * database has for them, and what was used, kept there.
 *
 * A tenant, a user or a key that was ever heard of keeps its number for as long as
 * the process lives.  The usage in the database is a copy of the meter, written
 * about once a second and at the end, and read back at the start: a process that
 * is killed loses the last second of it.  It is kept by model, so that servers of
 * several models can share a database; each meters for itself.
 *
 * All functions but fh_accounts_number() belong to the thread of the watch over
 * keys, and to the main thread before that runs and after it has ended.
 */
#ifndef FH_TRUST_ACCOUNTS_H
#define FH_TRUST_ACCOUNTS_H

#include "runtime/base/budget.h"
#include "runtime/base/vitals.h"
#include "runtime/trust/keydb.h"
#include "runtime/trust/runs.h"

#define FH_ACCOUNTS_MAX 16384 /* numbers from 1 on */

struct fh_accounts;

/* @model: that is served; copied. @prices: its. NULL: no memory. */
struct fh_accounts *fh_accounts_create(const char *model, const struct fh_prices *prices);
void fh_accounts_free(struct fh_accounts *a);

/*
 * The number of a tenant (@name its name), a user ("tenant/user") or a key (its
 * id), made if it is new.  0: there are too many, which is said in the journal once.
 */
uint32_t fh_accounts_number(struct fh_accounts *a, enum fh_budget_kind kind, const char *name);
/* Likewise, and 0 for one that is new. */
uint32_t fh_accounts_find(const struct fh_accounts *a, enum fh_budget_kind kind, const char *name);
uint32_t fh_accounts_nr(const struct fh_accounts *a);
/* The name of account @n, if it is of @kind; else NULL. */
const char *fh_accounts_name(const struct fh_accounts *a, uint32_t n, enum fh_budget_kind kind);

/* The limits as the database has them now; *out: malloc'ed. */
int fh_accounts_limits(struct fh_accounts *a, struct fh_keydb *db, struct fh_budget_table **out, struct fh_err *err);

/* Counters of one account, as the engine has them. */
struct fh_account_use {
	uint64_t ends_s[FH_NR_SPANS], tokens[FH_NR_SPANS], money[FH_NR_SPANS], requests[FH_NR_SPANS];
	uint64_t prompt, cached, completion;
	uint64_t reasoning; /* of completion: thoughts */
	/* A tenant's: of agent runs, when their requests had ended. */
	struct fh_account_runs {
		uint64_t requests, prompt, cached, completion, reasoning, money;
	} in_runs;
};

/*
 * What a request of an agent run was charged, which the engine told; before the accounts are read that are saved next,
 * so that no run has more than its tenant.
 */
void fh_accounts_run_used(struct fh_accounts *a, const struct fh_run_use *u);
/* Rows of runs to be kept; at first the defaults. They are taken away about once a minute, and earlier if many come. */
void fh_accounts_keep_runs(struct fh_accounts *a, const struct fh_run_keep *keep);

/*
 * The engine has read and drawn @tokens tokens, ever, and the host has measured @v.
 * The busy energy that has come since the last call goes to the tokens that have
 * come since, each the same; where there are none it waits for the next ones.
 * What @read says should be of the same moment; where it is ahead, all accounts of
 * a kind still get no more than there is, and an account that seems to have fewer
 * tokens than before gets its part the next time.
 */
void fh_accounts_share_energy(struct fh_accounts *a, const struct fh_vitals_energy *v, uint64_t tokens,
			      bool (*read)(void *ctx, uint32_t account, struct fh_account_use *use), void *ctx);
/* A slot of the engine's agent runs (sched/budget.h), as it was when the accounts were read. */
struct fh_account_run {
	uint8_t id[16];
	uint32_t tenant, turn; /* account; another one: another run's slot; 0: not known now */
	uint64_t tokens;       /* computed, ever */
};
/*
 * After fh_accounts_share_energy(): each run gets of it what its tokens cost, as much as a tenant's; all runs of a
 * tenant no more than the tenant.  @run [@nr]: all slots that were ever used.
 */
void fh_accounts_share_runs(struct fh_accounts *a, const struct fh_account_run *run, uint32_t nr, uint64_t now_s);
/* What account @n has got of it since the start, in millionths of a joule; any thread. */
uint64_t fh_accounts_energy_uj(const struct fh_accounts *a, uint32_t n);

/*
 * What is written of each account is read by @read; false: there is no such account.  The host's own energy alone is
 * no reason to write, but for once a minute, or with @all.
 */
int fh_accounts_save(struct fh_accounts *a, struct fh_keydb *db, uint64_t now_s, bool all,
		     bool (*read)(void *ctx, uint32_t account, struct fh_account_use *use), void *ctx,
		     struct fh_err *err);
/* What was written: @fn for each account and span. */
int fh_accounts_load(struct fh_accounts *a, struct fh_keydb *db,
		     void (*fn)(void *ctx, uint32_t account, enum fh_budget_span span, uint64_t ends_s, uint64_t tokens,
				uint64_t money, uint64_t requests),
		     void *ctx, struct fh_err *err);

/* ---- the database's side, for `freehold budget` and `freehold cost` ---- */

/* "tenant:acme", "user:acme/alice", "key:ID" or "run:acme" into its two parts; false: it is none. */
bool fh_budget_split(const char *text, const char **kind, const char **name);
/* Is @what a limit's name, such as "tokens/day", "money/month", "concurrent", "depth" or "soft"? */
bool fh_budget_is_limit(const char *what);
/* @most 0: no limit any more. -ENOENT: no such tenant, user or key. */
int fh_budget_set(struct fh_keydb *db, const char *kind, const char *name, const char *what, uint64_t most,
		  struct fh_err *err);
int fh_budget_each(struct fh_keydb *db,
		   int (*fn)(void *ctx, const char *kind, const char *name, const char *what, uint64_t most), void *ctx,
		   struct fh_err *err);
/* What @kind and @name used of all models in the span that has not ended at @now_s; zeros where nothing was. */
int fh_usage_get(struct fh_keydb *db, const char *kind, const char *name, enum fh_budget_span span, uint64_t now_s,
		 uint64_t *tokens, uint64_t *money, uint64_t *requests, struct fh_err *err);

/* An hour of somebody's use. */
struct fh_usage_hour {
	uint64_t hour_s; /* its beginning, Unix time */
	const char *model, *kind, *name;
	uint64_t prompt, cached, completion, money, requests;
};
int fh_usage_each_hour(struct fh_keydb *db, const char *kind, uint64_t from_s, uint64_t to_s,
		       int (*fn)(void *ctx, const struct fh_usage_hour *h), void *ctx, struct fh_err *err);

#endif /* FH_TRUST_ACCOUNTS_H */
