/* SPDX-License-Identifier: Apache-2.0 */
/* Who may come in: the key database and the rules, and who is told when they change. */
#ifndef FH_DAEMON_IDENTITY_H
#define FH_DAEMON_IDENTITY_H

#include <pthread.h>

#include "runtime/base/service.h"
#include "runtime/daemon/config.h"
#include "runtime/daemon/notify.h"
#include "runtime/net/chan.h"
#include "runtime/net/http.h"
#include "runtime/net/udp.h"
#include "runtime/trust/keywatch.h"

struct fh_engine;
struct fhd_tenants;
struct fhd_audit;
struct fhd_energy;
struct fhd_uses;

struct fhd_identity {
	struct fhd_audit *audit;      /* set before fhd_identity_start(): told of each table; NULL: nobody is */
	struct fh_accounts *accounts; /* NULL: nothing is metered */
	struct fh_engine *engine;     /* that meters */
	struct fhd_energy *energy;    /* set before fhd_identity_start(), sampled here; NULL: none is measured */
	struct fhd_uses *uses;	      /* of the last tick, as is ... */
	struct fh_account_run *runs;  /* [nr_runs] ... this */
	uint32_t nr_runs, room_runs;
	uint32_t nr_ticks;
	bool save_failed; /* said so already */
	struct fh_rules *rules;
	struct fh_keywatch *watch; /* NULL: nothing was configured, and all who can connect come in */
	struct fh_guard *first;	   /* the table of the start */
	struct fh_http *http;
	struct fh_chans *chans; /* NULL: none */
	struct fh_udp *udp;	/* NULL: none */
	struct fh_prices prices;
	const char *model; /* what clients call it; borrowed */
	/* Usage is counted with the audit log in this folder; NULL: with none. */
	const char *counted;
	uint64_t log_seen, log_base; /* entries: as many were noted, so many are counted */
	bool follow_failed;	     /* said so already */
	/* For those who watch. */
	struct fh_budget_table *table;		 /* a copy of the limits; the watch's, as ... */
	bool table_is_new;			 /* ... this, and ... */
	uint32_t nr_listed;			 /* ... how many accounts there were when tenants were listed */
	_Atomic(struct fhd_tenants *) tenants;	 /* a new list, for the front end to take */
	struct fhd_tenants *shown;		 /* the front end's */
	_Atomic(struct fh_key_errand *) errands; /* to be run; as long as the watch runs */
	_Atomic uint32_t nr_errands;
};

/* Does HTTP ask who comes, beside the key file? */
bool fhd_identity_guards_http(const struct fhd_config *cfg);
/*
 * Before the process gives up its rights. @model: what clients call it; borrowed. @thinks: it marks its thoughts.
 * Zero-fill @i before.
 */
int fhd_identity_open(struct fhd_identity *i, const struct fhd_config *cfg, const char *model, bool thinks,
		      struct fh_err *err);
/*
 * Before fhd_identity_meter(): bring the usage in the database up to the audit log in @dir, where it is behind (NULL:
 * there is no log; else it lives as long as @i).  What hinders that is said, and no error.  @notify is told while it
 * takes time.
 */
void fhd_identity_recount(struct fhd_identity *i, const char *dir, const struct fhd_notify *notify);
/* When the log is whole: the usage in the database is its sum, and the next start need not count. */
void fhd_identity_settle(struct fhd_identity *i, const char *dir);
/* Before the engine starts: give it the limits, and what was used before. */
int fhd_identity_meter(struct fhd_identity *i, struct fh_engine *engine, struct fh_err *err);
/* Once front ends run, which have the first table from their creation: watch, and hand them each new one. */
int fhd_identity_start(struct fhd_identity *i, struct fh_http *http, struct fh_chans *chans, struct fh_udp *udp,
		       struct fh_err *err);
/* After the engine has stopped: what was used is saved once more. */
void fhd_identity_stop(struct fhd_identity *i);
/* What account @n of @engine has used; false: nothing yet. Any thread. */
bool fhd_identity_use(struct fh_engine *engine, uint32_t n, struct fh_account_use *use);
/* See struct fh_service; on the HTTP front end's thread. */
uint32_t fhd_identity_tenants(struct fhd_identity *i, struct fh_tenant_use *out, uint32_t max);
bool fhd_identity_tenant(struct fhd_identity *i, uint32_t account, struct fh_tenant_use *out);
/* Its part of /metrics; the HTTP front end's thread. */
void fhd_identity_metrics(struct fhd_identity *i, FILE *out);
int fhd_identity_keys(struct fhd_identity *i, struct fh_key_errand *e);
void fhd_identity_close(struct fhd_identity *i);

#endif /* FH_DAEMON_IDENTITY_H */
