// SPDX-License-Identifier: Apache-2.0
/* From the settings to a guard, and from the guard to the front ends. */
#include "runtime/daemon/identity.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "runtime/base/clock.h"
#include "runtime/base/log.h"
#include "runtime/daemon/audit.h"
#include "runtime/daemon/energy.h"
#include "runtime/daemon/watch.h"
#include "runtime/engine/engine.h"
#include "runtime/trust/recount.h"

#define SAVE_TICKS 5	   /* of the watch, of 200 ms each */
#define FOLLOW_STEP 16384u /* entries of the audit log; some 40 ms */
#define MAX_READS 8
#define MAX_RUN_USES 65536u /* more than the engine has room for */

bool fhd_identity_guards_http(const struct fhd_config *cfg)
{
	return cfg->keys || cfg->tls_client_ca;
}

static void changed(void *ctx, struct fh_guard *g)
{
	struct fhd_identity *i = ctx;

	fhd_audit_key_table(i->audit, g);
	if (i->chans)
		fh_chans_set_guard(i->chans, fh_guard_get(g));
	if (i->udp)
		fh_udp_set_guard(i->udp, fh_guard_get(g));
	fh_http_set_guard(i->http, g);
}

static void limits(void *ctx, struct fh_budget_table *t)
{
	struct fhd_identity *i = ctx;

	fhd_watch_limits(i, t);
	fh_engine_set_budgets(i->engine, t);
}

bool fhd_identity_use(struct fh_engine *engine, uint32_t n, struct fh_account_use *u)
{
	const struct fh_budget_account *a = fh_engine_account(engine, n);
	bool any = false;

	for (int s = 0; a && s < FH_NR_SPANS; s++) {
		uint64_t ends_s = atomic_load_explicit(&a->ends_s[s], memory_order_acquire), again;

		/* A span that ends meanwhile is read again. */
		for (; ends_s; ends_s = again) {
			u->ends_s[s] = ends_s;
			u->tokens[s] = atomic_load_explicit(&a->tokens[s], memory_order_acquire);
			u->money[s] = atomic_load_explicit(&a->money[s], memory_order_acquire);
			u->requests[s] = atomic_load_explicit(&a->requests[s], memory_order_acquire);
			any = true;
			again = atomic_load_explicit(&a->ends_s[s], memory_order_acquire);
			if (again == ends_s)
				break;
		}
	}
	if (!any)
		return false;
	/* The meter adds to the whole first and to the part of it then: the other way round, no part is ahead. */
	u->cached = atomic_load_explicit(&a->cached, memory_order_acquire);
	u->prompt = atomic_load_explicit(&a->prompt, memory_order_relaxed);
	u->reasoning = atomic_load_explicit(&a->reasoning, memory_order_acquire);
	u->completion = atomic_load_explicit(&a->completion, memory_order_relaxed);
	u->in_runs = (struct fh_account_runs){
		.requests = atomic_load_explicit(&a->in_runs.requests, memory_order_acquire),
		.prompt = atomic_load_explicit(&a->in_runs.prompt, memory_order_acquire),
		.cached = atomic_load_explicit(&a->in_runs.cached, memory_order_acquire),
		.completion = atomic_load_explicit(&a->in_runs.completion, memory_order_acquire),
		.reasoning = atomic_load_explicit(&a->in_runs.reasoning, memory_order_acquire),
		.money = atomic_load_explicit(&a->in_runs.money, memory_order_acquire),
	};
	return true;
}

/* Agent runs that have slots, for their share of the energy; as many as there were ever at once. */
static int read_runs(struct fhd_identity *i)
{
	struct fh_run_live live;

	for (i->nr_runs = 0; fh_engine_run_live(i->engine, i->nr_runs, &live); i->nr_runs++) {
		if (i->nr_runs == i->room_runs) {
			uint32_t room = i->room_runs ? 2 * i->room_runs : 64;
			struct fh_account_run *more = realloc(i->runs, room * sizeof(*more));

			if (!more)
				return -ENOMEM;
			i->runs = more;
			i->room_runs = room;
		}
		i->runs[i->nr_runs] =
			(struct fh_account_run){.tenant = live.tenant, .turn = live.turn, .tokens = live.tokens};
		memcpy(i->runs[i->nr_runs].id, live.id, sizeof(live.id));
	}
	return 0;
}

/* What requests of runs that have ended were charged. Before accounts are read: so no run has more than its tenant. */
static void take_run_uses(struct fhd_identity *i)
{
	struct fh_run_use u;

	/* So many at most are there now. */
	for (uint32_t nr = 0; nr < MAX_RUN_USES && fh_engine_next_run_use(i->engine, &u); nr++)
		fh_accounts_run_used(i->accounts, &u);
}

/* What all accounts have used, as the engine had it when they were read; the watch's. */
struct fhd_uses {
	uint32_t nr, room;
	struct {
		bool any;
		struct fh_account_use use;
	} of[]; /* [nr + 1], by number */
};

static bool read_use(void *ctx, uint32_t account, struct fh_account_use *u)
{
	const struct fhd_uses *all = ctx;
	const struct fh_account_use *use;

	if (account > all->nr || !all->of[account].any)
		return false;
	use = &all->of[account].use;
	/* Of a span that has not begun, @u keeps what it has. */
	for (int s = 0; s < FH_NR_SPANS; s++) {
		if (!use->ends_s[s])
			continue;
		u->ends_s[s] = use->ends_s[s];
		u->tokens[s] = use->tokens[s];
		u->money[s] = use->money[s];
		u->requests[s] = use->requests[s];
	}
	u->prompt = use->prompt;
	u->cached = use->cached;
	u->completion = use->completion;
	u->reasoning = use->reasoning;
	u->in_runs = use->in_runs;
	return true;
}

static int read_uses(struct fhd_identity *i)
{
	uint32_t nr = fh_accounts_nr(i->accounts), room = nr + nr / 4 + 64;
	struct fhd_uses *all = i->uses;

	if (!all || nr > all->room) {
		all = calloc(1, sizeof(*all) + (room + 1) * sizeof(all->of[0]));
		if (!all)
			return -ENOMEM;
		free(i->uses);
		i->uses = all;
		all->room = room;
	}
	all->nr = nr;
	for (uint32_t n = 1; n <= nr; n++)
		all->of[n].any = fhd_identity_use(i->engine, n, &all->of[n].use);
	return 0;
}

/*
 * Read here and not by the main thread, so that joules and the tokens that took them are of one moment: the accounts
 * first, again where tokens came meanwhile (which happens seldom, and not MAX_READS times in a row), then how many
 * tokens there are, then the energy, which takes milliseconds; what comes in these is the next time's.
 */
static int read_all(struct fhd_identity *i)
{
	struct fh_vitals_energy v;
	struct fh_engine_work w, before;
	uint64_t now_ns;
	int rc, nr = 0;

	do {
		fh_engine_work(i->engine, fh_now_ns(), &before);
		rc = i->energy ? read_runs(i) : 0;
		if (!rc)
			rc = read_uses(i);
		now_ns = fh_now_ns();
		fh_engine_work(i->engine, now_ns, &w);
	} while (!rc && i->energy && w.tokens != before.tokens && ++nr < MAX_READS);
	if (rc || !i->energy)
		return rc;
	fhd_energy_sample(i->energy, now_ns, w.busy_ns);
	fhd_energy_vitals(i->energy, &v);
	fh_accounts_share_energy(i->accounts, &v, w.tokens, read_use, i->uses);
	fh_accounts_share_runs(i->accounts, i->runs, i->nr_runs, (uint64_t)time(NULL));
	return 0;
}

/* @all: it is the last time. */
static void save(struct fhd_identity *i, struct fh_keydb *db, bool all)
{
	struct fh_err err;
	int rc;

	take_run_uses(i);
	rc = read_all(i);
	if (rc)
		fh_errf(&err, rc, "no memory to read what was used");
	else
		rc = fh_accounts_save(i->accounts, db, (uint64_t)time(NULL), all, read_use, i->uses, &err);
	if (rc && !i->save_failed)
		fh_error("usage: %s; it is kept in memory until it can be saved", err.msg);
	i->save_failed = rc;
}

/*
 * The base of what usage is counted from again moves on with the log, a step a second at most, so that a start has
 * little to count; and how long the log is, is noted, so that an older state of it is told from it.
 */
static void follow(struct fhd_identity *i, struct fh_keydb *db, uint64_t nr_published)
{
	struct fh_recount c = {0};
	struct fh_err err = {0};
	struct fh_reader r;
	uint64_t most;
	int rc;

	if (nr_published <= i->log_seen && nr_published < i->log_base + FOLLOW_STEP)
		return;
	if (nr_published < i->log_base + FOLLOW_STEP) {
		rc = fh_usage_saw(db, i->model, nr_published, &err);
	} else {
		rc = fh_reader_open(&r, i->counted, NULL, &err);
		if (!rc) {
			most = nr_published - i->log_base;
			most = most < 2 * FOLLOW_STEP ? most : 2 * FOLLOW_STEP;
			rc = fh_usage_advance(db, &r, i->model, (uint64_t)time(NULL), most, &i->log_base, &c, &err);
			fh_reader_close(&r);
		}
	}
	if (!rc)
		i->log_seen = nr_published;
	else if (!i->follow_failed)
		fh_warn("usage: %s; the next start has more of the audit log to count", err.msg);
	i->follow_failed = rc;
}

static void tick(void *ctx, struct fh_keydb *db)
{
	struct fhd_identity *i = ctx;
	struct fh_vitals_audit log;

	fhd_watch_tick(i, db);
	if (!i->engine)
		return;
	take_run_uses(i);
	if (++i->nr_ticks % SAVE_TICKS)
		return;
	/* Of the log only what was there before is taken: all of that is saved then, and none of it lacks in runs. */
	fhd_audit_vitals(i->audit, &log);
	save(i, db, false);
	if (i->counted && !i->save_failed)
		follow(i, db, log.nr_published);
}

/* Whoever rebuilds usage without a server finds in the database how many rows there are to be. */
static int keep_runs(struct fhd_identity *i, const struct fhd_config *cfg, struct fh_err *err)
{
	const struct fh_run_keep keep = {.rows = cfg->run_rows, .days = cfg->run_days};
	struct fh_keydb *db = fh_keywatch_db(i->watch);
	struct fh_run_keep was;
	int rc = fh_runs_get_keep(db, &was, err);

	fh_accounts_keep_runs(i->accounts, &keep);
	if (rc || (was.rows == keep.rows && was.days == keep.days))
		return rc;
	return fh_runs_set_keep(db, &keep, err);
}

int fhd_identity_open(struct fhd_identity *i, const struct fhd_config *cfg, const char *model, bool thinks,
		      struct fh_err *err)
{
	struct fh_keywatch_config kc = {
		.path = cfg->keys, .world = {.model = model}, .changed = changed, .limits = limits, .ctx = i};
	int rc = fhd_config_prices(cfg, model, thinks, &i->prices, err);

	i->model = model;
	if (rc)
		return rc;
	if (!fhd_identity_guards_http(cfg) && !cfg->rule.n)
		return 0;
	if (cfg->rule.n)
		rc = fh_rules_parse((const char *const *)cfg->rule.v, cfg->rule.n, &i->rules, err);
	if (rc)
		return rc;
	if (cfg->keys) {
		i->accounts = fh_accounts_create(model, &i->prices);
		if (!i->accounts)
			return fh_errf(err, -ENOMEM, "no memory for budgets");
		kc.tick = tick;
	}
	kc.world.accounts = i->accounts;
	kc.world.rules = i->rules;
	kc.world.endpoints = fh_http_endpoints(&kc.world.nr_endpoints);
	rc = fh_keywatch_open(&kc, &i->watch, err);
	if (rc)
		return rc;
	if (cfg->keys)
		rc = keep_runs(i, cfg, err);
	if (rc)
		return rc;
	i->first = fh_keywatch_guard(i->watch);
	if (cfg->keys)
		fh_info("keys: %s, %u keys", cfg->keys, fh_keytab_nr_keys(i->first));
	return 0;
}

/* ---- usage and the audit log ---- */

static void say_counted(const struct fh_recount *c, uint64_t took_ns)
{
	if (c->strange)
		fh_warn("usage: the audit log is not the one that usage was counted from, or it is shorter; "
			"usage stays as it was saved (`freehold audit rebuild-usage` makes it what the log says, "
			"and forgets what was used otherwise)");
	else if (c->changed)
		fh_warn("usage: it was changed in the database while no server ran; of each total, minute, day "
			"and month the larger number stays, that or what was left there "
			"(`freehold audit rebuild-usage` takes the log's)");
	else if (c->recounted && c->nr_entries)
		fh_info("usage: counted again from entry %" PRIu64
			" of the audit log on, as it was not closed: %" PRIu64 " entries, %" PRIu64
			" outcomes with a charge, %" PRIu64 " requests without an outcome (%.1f s)",
			c->from, c->nr_entries, c->nr_charged, c->nr_open, (double)took_ns / 1e9);
	if (c->nr_ahead && !c->changed)
		fh_warn("usage: %" PRIu64 " tenants, users and keys had used more than the audit log says (%s: %" PRIu64
			" tokens saved, %" PRIu64 " in the log), %s; the larger number stays",
			c->nr_ahead, c->ahead, c->saved, c->logged,
			c->nr_lost   ? "which lost records"
			: c->nr_open ? "which has no outcome of what was running"
				     : "which could not be written to the end");
	if (c->nr_bad)
		fh_warn("usage: %" PRIu64 " outcomes in the audit log have no request, or a charge that makes no sense",
			c->nr_bad);
}

struct counting {
	const struct fhd_notify *notify;
	uint64_t begin_ns;
};

/* A start may take so long as there is something to count; the service manager is told each time that it goes on. */
static void say_progress(void *ctx, uint64_t nr, uint64_t of)
{
	struct counting *c = ctx;
	char state[128];

	snprintf(state, sizeof(state),
		 "EXTEND_TIMEOUT_USEC=60000000\nSTATUS=counting usage from the audit log: entry %" PRIu64
		 " of %" PRIu64,
		 nr, of);
	fhd_notify(c->notify, state);
}

void fhd_identity_recount(struct fhd_identity *i, const char *dir, const struct fhd_notify *notify)
{
	struct counting c = {.notify = notify, .begin_ns = fh_now_ns()};
	struct fh_recount counted;
	struct fh_err err, ignored;
	struct fh_keydb *db;
	struct fh_reader r;
	int rc;

	if (!i->accounts)
		return;
	db = fh_keywatch_db(i->watch);
	/*
	 * Durable before anything is served: a mark that a power cut takes back leaves what is logged from here on to
	 * be taken for what the tables have already.  What is saved later may be lost, for it is counted again from
	 * here.
	 */
	rc = fh_keydb_unrelax(db, &err);
	if (!rc && dir)
		rc = fh_reader_open_any(&r, dir, &err);
	if (!rc) {
		rc = fh_usage_open(db, dir ? &r : NULL, i->model, (uint64_t)time(NULL), say_progress, &c, &counted,
				   &err);
		i->log_base = i->log_seen = dir ? r.cp.size : 0;
		if (dir)
			fh_reader_close(&r);
	}
	fh_keydb_relax(db, &ignored);
	if (rc) {
		fh_error("usage: it cannot be counted from the audit log: %s; it stays as it was saved", err.msg);
		return;
	}
	i->counted = dir;
	say_counted(&counted, fh_now_ns() - c.begin_ns);
}

void fhd_identity_settle(struct fhd_identity *i, const char *dir)
{
	struct fh_reader r;
	struct fh_err err;
	int rc;

	if (!i->counted || i->save_failed)
		return;
	rc = fh_reader_open(&r, dir, NULL, &err);
	if (!rc) {
		rc = fh_usage_close(fh_keywatch_db(i->watch), &r, i->model, (uint64_t)time(NULL), &err);
		fh_reader_close(&r);
	}
	if (rc == -ESTALE)
		fh_warn("usage: %s: another server or `freehold audit rebuild-usage` has set it anew; "
			"the next start takes it as it is saved",
			err.msg);
	else if (rc)
		fh_warn("usage: %s; the next start counts it from the audit log", err.msg);
}

static void restore(void *ctx, uint32_t account, enum fh_budget_span span, uint64_t ends_s, uint64_t tokens,
		    uint64_t money, uint64_t requests)
{
	fh_engine_restore_budget(ctx, account, span, ends_s, tokens, money, requests);
}

int fhd_identity_meter(struct fhd_identity *i, struct fh_engine *engine, struct fh_err *err)
{
	struct fh_budget_table *first;

	if (!i->accounts)
		return 0;
	i->engine = engine;
	first = fh_keywatch_limits(i->watch);
	fhd_watch_limits(i, first);
	fh_engine_set_budgets(engine, first);
	fhd_watch_list(i);
	return fh_accounts_load(i->accounts, fh_keywatch_db(i->watch), restore, engine, err);
}

int fhd_identity_start(struct fhd_identity *i, struct fh_http *http, struct fh_chans *chans, struct fh_udp *udp,
		       struct fh_err *err)
{
	if (!i->watch)
		return 0;
	i->http = http;
	i->chans = chans;
	fhd_audit_key_table(i->audit, i->first);
	i->udp = udp;
	return fh_keywatch_start(i->watch, err);
}

void fhd_identity_stop(struct fhd_identity *i)
{
	if (!i->watch)
		return;
	fh_keywatch_stop(i->watch);
	if (i->engine)
		save(i, fh_keywatch_db(i->watch), true);
	i->engine = NULL;
}

void fhd_identity_close(struct fhd_identity *i)
{
	fh_guard_put(i->first);
	fh_keywatch_close(i->watch);
	fh_accounts_free(i->accounts);
	free(i->table);
	free(i->uses);
	free(i->runs);
	free(atomic_load(&i->tenants));
	free(i->shown);
	fh_rules_free(i->rules);
	memset(i, 0, sizeof(*i));
}
