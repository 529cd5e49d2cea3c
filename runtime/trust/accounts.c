// SPDX-License-Identifier: Apache-2.0
/* Numbers for names, limits for numbers, and the copy of the meter in the database. */
#include "runtime/trust/accounts.h"

#include <errno.h>
#include <sqlite3.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "runtime/base/log.h"
#include "runtime/trust/measured.h"

#define NAME_MAX_BYTES (2 * FH_IDENTITY_NAME_MAX + 2)
#define NR_BUCKETS 16384u /* a power of two */
#define SOFT_DEFAULT 80
#define HOST_SAVE_S 60	/* between two records of the energy of a host that does nothing */
#define TRIM_S 60	/* between two times that a tenant's rows of runs are taken away that are too many ... */
#define TRIM_RUNS 1024u /* ... but for so many new ones */
#define EXPIRE_S 3600	/* between two times that those go that are too old */

struct account {
	uint8_t kind;
	uint32_t next; /* in its bucket */
	char name[NAME_MAX_BYTES];
	struct fh_account_use saved;
	/* Of the energy that tokens took. */
	uint64_t shared_tokens; /* that have got theirs */
	uint64_t due_tokens;	/* that get it now */
	double uj;
	uint64_t saved_uj;
	double runs_uj; /* of it, its agent runs' */
	uint64_t saved_runs_uj;
	uint32_t nr_since_trim; /* rows of runs that may be new */
};

struct fh_accounts {
	struct fh_prices prices;
	char *model;
	uint32_t nr; /* numbers 1 .. nr are given */
	bool said_full;
	/* The host's energy: as it is, as it was saved, and how much of it waits for tokens. */
	struct fh_vitals_energy energy, saved_energy;
	uint64_t energy_saved_s, shared_tokens;
	double waiting_uj;
	struct account **of;  /* [FH_ACCOUNTS_MAX + 1] */
	_Atomic uint64_t *uj; /* [FH_ACCOUNTS_MAX + 1] each account's energy, for other threads */
	uint32_t *bucket;     /* [NR_BUCKETS] */
	/* Agent runs: what is to be saved of them, and how long that is kept; of slots of the engine's, what has got
	 * energy. */
	struct fh_runs *runs;
	struct fh_run_keep keep;
	uint64_t trimmed_s, expired_s; /* 0: not since the start */
	double token_uj;	       /* a tenant's token got so much of the last share; 0: there was none */
	struct shared_run {
		uint32_t turn;
		uint64_t tokens;
	} * shared_run; /* [nr_shared_runs] */
	uint32_t nr_shared_runs;
};

static const char *const kinds[] = {"tenant", "user", "key"};

struct fh_accounts *fh_accounts_create(const char *model, const struct fh_prices *prices)
{
	struct fh_accounts *a = calloc(1, sizeof(*a));

	if (!a)
		return NULL;
	a->prices = *prices;
	a->model = strdup(model);
	a->of = calloc(FH_ACCOUNTS_MAX + 1, sizeof(struct account *));
	a->bucket = calloc(NR_BUCKETS, sizeof(*a->bucket));
	a->uj = calloc(FH_ACCOUNTS_MAX + 1, sizeof(*a->uj));
	a->runs = fh_runs_create();
	a->keep = (struct fh_run_keep){FH_RUN_ROWS_DEFAULT, FH_RUN_DAYS_DEFAULT};
	if (!a->model || !a->of || !a->bucket || !a->uj || !a->runs) {
		fh_accounts_free(a);
		return NULL;
	}
	return a;
}

void fh_accounts_free(struct fh_accounts *a)
{
	if (!a)
		return;
	for (uint32_t i = 1; i <= a->nr; i++)
		free(a->of[i]);
	free(a->model);
	free(a->of);
	free(a->bucket);
	free(a->uj);
	free(a->shared_run);
	fh_runs_free(a->runs);
	free(a);
}

static uint32_t *bucket_of(const struct fh_accounts *a, enum fh_budget_kind kind, const char *name)
{
	uint32_t h = 2166136261u ^ (uint32_t)kind; /* FNV-1a */

	for (; *name; name++)
		h = (h ^ (unsigned char)*name) * 16777619u;
	return &a->bucket[h & (NR_BUCKETS - 1)];
}

uint32_t fh_accounts_find(const struct fh_accounts *a, enum fh_budget_kind kind, const char *name)
{
	for (uint32_t n = *bucket_of(a, kind, name); n; n = a->of[n]->next)
		if (a->of[n]->kind == kind && !strcmp(a->of[n]->name, name))
			return n;
	return 0;
}

/* Once: tables are made anew all the time. */
static uint32_t say_full(struct fh_accounts *a, enum fh_budget_kind kind, const char *name)
{
	if (!a->said_full)
		fh_warn("budgets: there are accounts for %d tenants, users and keys, and none is left for %s %s: what "
			"it and "
			"others after it use is neither counted nor limited by budgets of their own; a restart gives "
			"those of "
			"keys that are revoked or expired to others",
			FH_ACCOUNTS_MAX, kinds[kind], name);
	a->said_full = true;
	return 0;
}

uint32_t fh_accounts_number(struct fh_accounts *a, enum fh_budget_kind kind, const char *name)
{
	uint32_t n = fh_accounts_find(a, kind, name), *bucket;
	struct account *c;

	if (n || strlen(name) >= NAME_MAX_BYTES)
		return n;
	if (a->nr == FH_ACCOUNTS_MAX)
		return say_full(a, kind, name);
	c = calloc(1, sizeof(*c));
	if (!c)
		return 0;
	c->kind = (uint8_t)kind;
	strcpy(c->name, name);
	bucket = bucket_of(a, kind, name);
	c->next = *bucket;
	*bucket = n = ++a->nr;
	a->of[n] = c;
	return n;
}

uint32_t fh_accounts_nr(const struct fh_accounts *a)
{
	return a->nr;
}

const char *fh_accounts_name(const struct fh_accounts *a, uint32_t n, enum fh_budget_kind kind)
{
	return n && n <= a->nr && a->of[n]->kind == kind ? a->of[n]->name : NULL;
}

/* ---- limits ---- */

bool fh_budget_split(const char *text, const char **kind, const char **name)
{
	static const char *const known[] = {"tenant", "user", "key", "run"};
	const char *colon = strchr(text, ':');

	for (size_t i = 0; colon && i < sizeof(known) / sizeof(known[0]); i++) {
		if (strlen(known[i]) == (size_t)(colon - text) && !strncmp(text, known[i], (size_t)(colon - text))) {
			*kind = known[i];
			*name = colon + 1;
			return colon[1];
		}
	}
	return false;
}

/* "tokens/day": which of the limits' arrays, and which span of it. */
static uint64_t *spanned(struct fh_budget_limits *l, const char *what)
{
	static const char *const spans[] = {"/minute", "/day", "/month", ""};
	const struct {
		const char *name;
		uint64_t *of;
	} whats[] = {{"tokens", l->tokens}, {"money", l->money}, {"requests", l->requests}};

	for (size_t i = 0; i < sizeof(whats) / sizeof(whats[0]); i++) {
		size_t n = strlen(whats[i].name);

		for (int s = 0; s < FH_NR_SPANS && !strncmp(what, whats[i].name, n); s++)
			if (!strcmp(what + n, spans[s]))
				return &whats[i].of[s];
	}
	return NULL;
}

static uint32_t clip(uint64_t v)
{
	return v < UINT32_MAX ? (uint32_t)v : UINT32_MAX;
}

static bool set_limit(struct fh_budget_entry *e, struct fh_budget_limits *l, const char *what, uint64_t most)
{
	uint64_t *at = spanned(l, what);

	if (at)
		*at = most;
	else if (!strcmp(what, "concurrent"))
		l->concurrent = clip(most);
	else if (!strcmp(what, "soft"))
		l->soft_percent = clip(most);
	else if (!strcmp(what, "depth") && l == &e->run)
		e->run_depth = clip(most);
	else
		return false;
	return true;
}

bool fh_budget_is_limit(const char *what)
{
	struct fh_budget_entry e = {0};

	return set_limit(&e, &e.run, what, 1);
}

struct limits_ctx {
	struct fh_accounts *a;
	struct fh_budget_table *t;
	bool too_many;
};

static int number_it(void *ctx, const char *kind, const char *name, const char *what, uint64_t most)
{
	struct limits_ctx *c = ctx;
	enum fh_budget_kind k = FH_BUDGET_TENANT;

	(void)what;
	(void)most;
	while (k < FH_BUDGET_KEY && strcmp(kind, kinds[k]))
		k++;
	if (!strcmp(kind, "run"))
		k = FH_BUDGET_TENANT;
	c->too_many |= !fh_accounts_number(c->a, k, name);
	return 0;
}

static int enter_it(void *ctx, const char *kind, const char *name, const char *what, uint64_t most)
{
	struct limits_ctx *c = ctx;
	bool run = !strcmp(kind, "run");
	enum fh_budget_kind k = FH_BUDGET_TENANT;
	struct fh_budget_entry *e;
	uint32_t n;

	while (!run && k < FH_BUDGET_KEY && strcmp(kind, kinds[k]))
		k++;
	n = fh_accounts_find(c->a, k, name);
	/* Set between the two passes: the next look at the database finds it. */
	if (!n || n >= c->t->nr)
		return 0;
	e = &c->t->entry[n];
	/* A limit of a later version: nobody here can hold it, so nobody comes in on it. */
	if (!set_limit(e, run ? &e->run : &e->own, what, most))
		e->own.requests[FH_SPAN_TOTAL] = 1;
	return 0;
}

int fh_accounts_limits(struct fh_accounts *a, struct fh_keydb *db, struct fh_budget_table **out, struct fh_err *err)
{
	struct limits_ctx c = {.a = a};
	int rc = fh_budget_each(db, number_it, &c, err);

	if (rc)
		return rc;
	if (c.too_many)
		return fh_errf(err, -E2BIG, "%s: more than %d tenants, users and keys have budgets", fh_keydb_path(db),
			       FH_ACCOUNTS_MAX);
	c.t = calloc(1, sizeof(*c.t) + (a->nr + 1) * sizeof(c.t->entry[0]));
	if (!c.t)
		return fh_errf(err, -ENOMEM, "no memory for budgets");
	c.t->prices = a->prices;
	c.t->nr = a->nr + 1;
	for (uint32_t i = 0; i < c.t->nr; i++)
		c.t->entry[i].own.soft_percent = c.t->entry[i].run.soft_percent = SOFT_DEFAULT;
	rc = fh_budget_each(db, enter_it, &c, err);
	if (rc)
		free(c.t);
	else
		*out = c.t;
	return rc;
}

/* ---- the copy of the meter ---- */

static int prepare(struct fh_keydb *db, const char *sql, sqlite3_stmt **st, struct fh_err *err)
{
	return sqlite3_prepare_v2(fh_keydb_handle(db), sql, -1, st, NULL) == SQLITE_OK ? 0 : fh_keydb_fail(db, err);
}

static int step_done(struct fh_keydb *db, sqlite3_stmt *st, struct fh_err *err)
{
	int rc = sqlite3_step(st) == SQLITE_DONE ? 0 : fh_keydb_fail(db, err);

	sqlite3_reset(st);
	return rc;
}

static int save_spans(struct fh_keydb *db, sqlite3_stmt *st, const struct account *c, const struct fh_account_use *u,
		      struct fh_err *err)
{
	int rc = 0;

	for (int s = 0; s < FH_NR_SPANS && !rc; s++) {
		sqlite3_bind_text(st, 1, kinds[c->kind], -1, SQLITE_STATIC);
		sqlite3_bind_text(st, 2, c->name, -1, SQLITE_STATIC);
		sqlite3_bind_int(st, 3, s);
		sqlite3_bind_int64(st, 4, (int64_t)u->ends_s[s]);
		sqlite3_bind_int64(st, 5, (int64_t)u->tokens[s]);
		sqlite3_bind_int64(st, 6, (int64_t)u->money[s]);
		sqlite3_bind_int64(st, 7, (int64_t)u->requests[s]);
		rc = step_done(db, st, err);
	}
	return rc;
}

/* ---- energy ---- */

/* Tokens of @c's that have none yet; where counters that are not of one moment look like fewer: 0, until later. */
static uint64_t due_tokens(const struct account *c, const struct fh_account_use *u)
{
	uint64_t computed = u->cached <= u->prompt ? u->prompt - u->cached + u->completion : 0;

	return computed > c->shared_tokens ? computed - c->shared_tokens : 0;
}

void fh_accounts_share_energy(struct fh_accounts *a, const struct fh_vitals_energy *v, uint64_t tokens,
			      bool (*read)(void *ctx, uint32_t account, struct fh_account_use *use), void *ctx)
{
	uint64_t nr = tokens - a->shared_tokens, due[FH_NR_BUDGET_KINDS] = {0};
	double waiting_uj;

	a->waiting_uj += (double)(v->busy_uj - a->energy.busy_uj);
	a->energy = *v;
	a->token_uj = 0;
	if (!nr)
		return;
	waiting_uj = a->waiting_uj;
	a->waiting_uj = 0;
	a->shared_tokens = tokens;
	for (uint32_t i = 1; i <= a->nr; i++) {
		struct account *c = a->of[i];
		struct fh_account_use u = {0};

		c->due_tokens = read(ctx, i, &u) ? due_tokens(c, &u) : 0;
		due[c->kind] += c->due_tokens;
	}
	a->token_uj = waiting_uj / (double)(due[FH_BUDGET_TENANT] > nr ? due[FH_BUDGET_TENANT] : nr);
	for (uint32_t i = 1; i <= a->nr; i++) {
		struct account *c = a->of[i];
		/* A token is a tenant's, a user's and a key's; each of these kinds gets no more than all there is. */
		uint64_t of = due[c->kind] > nr ? due[c->kind] : nr;

		if (!c->due_tokens)
			continue;
		c->uj += waiting_uj / (double)of * (double)c->due_tokens;
		c->shared_tokens += c->due_tokens;
		atomic_store_explicit(&a->uj[i], (uint64_t)c->uj, memory_order_relaxed);
	}
}

/* False: no memory. */
static bool hold_runs(struct fh_accounts *a, uint32_t nr)
{
	struct shared_run *more;

	if (nr <= a->nr_shared_runs)
		return true;
	more = realloc(a->shared_run, nr * sizeof(*more));
	if (!more)
		return false;
	memset(more + a->nr_shared_runs, 0, (nr - a->nr_shared_runs) * sizeof(*more));
	a->shared_run = more;
	a->nr_shared_runs = nr;
	return true;
}

void fh_accounts_share_runs(struct fh_accounts *a, const struct fh_account_run *run, uint32_t nr, uint64_t now_s)
{
	if (a->token_uj <= 0 || !hold_runs(a, nr))
		return;
	for (uint32_t i = 0; i < nr; i++) {
		struct shared_run *s = &a->shared_run[i];
		struct account *c = run[i].tenant && run[i].tenant <= a->nr ? a->of[run[i].tenant] : NULL;
		double uj, left;

		if (!run[i].turn || !c)
			continue;
		if (s->turn != run[i].turn)
			*s = (struct shared_run){.turn = run[i].turn};
		if (run[i].tokens <= s->tokens)
			continue;
		uj = a->token_uj * (double)(run[i].tokens - s->tokens);
		left = c->uj - c->runs_uj;
		uj = uj < left ? uj : left;
		s->tokens = run[i].tokens;
		c->runs_uj += uj;
		fh_runs_add_energy(a->runs, run[i].tenant, run[i].id, uj, now_s);
	}
}

void fh_accounts_run_used(struct fh_accounts *a, const struct fh_run_use *u)
{
	fh_runs_add(a->runs, u);
}

void fh_accounts_keep_runs(struct fh_accounts *a, const struct fh_run_keep *keep)
{
	a->keep = *keep;
}

uint64_t fh_accounts_energy_uj(const struct fh_accounts *a, uint32_t n)
{
	return n <= FH_ACCOUNTS_MAX ? atomic_load_explicit(&a->uj[n], memory_order_relaxed) : 0;
}

static bool host_is_due(const struct fh_accounts *a, uint64_t now_s, bool all)
{
	return a->energy.on && (all || now_s >= a->energy_saved_s + HOST_SAVE_S || now_s < a->energy_saved_s) &&
	       memcmp(&a->energy, &a->saved_energy, sizeof(a->energy)) != 0;
}

static int save_host(struct fh_accounts *a, struct fh_keydb *db, sqlite3_stmt *st, uint64_t hour_s, struct fh_err *err)
{
	const struct fh_vitals_energy *now = &a->energy, *was = &a->saved_energy;
	struct fh_measured busy = {.hour_s = hour_s,
				   .model = a->model,
				   .kind = "host",
				   .name = "busy",
				   .uj = now->busy_uj - was->busy_uj,
				   .seconds = (double)(now->busy_ns - was->busy_ns) / 1e9};
	struct fh_measured idle = {.hour_s = hour_s,
				   .model = a->model,
				   .kind = "host",
				   .name = "idle",
				   .uj = now->idle_uj - was->idle_uj,
				   .seconds = (double)(now->idle_ns - was->idle_ns) / 1e9};
	int rc = now->on ? fh_measured_add(db, st, &busy, err) : 0;

	return rc || !now->on ? rc : fh_measured_add(db, st, &idle, err);
}

static int save_measured(const struct fh_accounts *a, struct fh_keydb *db, sqlite3_stmt *st, const struct account *c,
			 const struct fh_account_use *u, uint64_t hour_s, struct fh_err *err)
{
	struct fh_measured m = {.hour_s = hour_s,
				.model = a->model,
				.kind = kinds[c->kind],
				.name = c->name,
				.uj = (uint64_t)c->uj - c->saved_uj,
				.reasoning = u->reasoning - c->saved.reasoning};

	return m.uj || m.reasoning ? fh_measured_add(db, st, &m, err) : 0;
}

/* What has come since the last time belongs to the hour that it is now. */
static int save_hour(struct fh_keydb *db, sqlite3_stmt *st, const struct account *c, const struct fh_account_use *u,
		     uint64_t now_s, struct fh_err *err)
{
	const struct fh_account_use *was = &c->saved;
	const uint64_t more[] = {u->prompt - was->prompt, u->cached - was->cached, u->completion - was->completion,
				 u->money[FH_SPAN_TOTAL] - was->money[FH_SPAN_TOTAL],
				 u->requests[FH_SPAN_TOTAL] - was->requests[FH_SPAN_TOTAL]};

	sqlite3_bind_int64(st, 1, (int64_t)(now_s - now_s % 3600));
	sqlite3_bind_text(st, 2, kinds[c->kind], -1, SQLITE_STATIC);
	sqlite3_bind_text(st, 3, c->name, -1, SQLITE_STATIC);
	for (int i = 0; i < 5; i++)
		sqlite3_bind_int64(st, 4 + i, (int64_t)more[i]);
	return step_done(db, st, err);
}

static const char save_spans_sql[] =
	"INSERT INTO usage VALUES(?8, ?1, ?2, ?3, ?4, ?5, ?6, ?7) ON CONFLICT(model, kind, name, span) DO UPDATE SET"
	" ends = ?4, tokens = ?5, money = ?6, requests = ?7";
static const char save_hour_sql[] =
	"INSERT INTO hours VALUES(?1, ?9, ?2, ?3, ?4, ?5, ?6, ?7, ?8) ON CONFLICT(hour, model, kind, name) DO UPDATE "
	"SET"
	" prompt = prompt + ?4, cached = cached + ?5, completion = completion + ?6, money = money + ?7,"
	" requests = requests + ?8";

/* The same beside it, where the usage of this model has a mark in the audit log (usage_log.c). */
static const char save_run_sql[] =
	"INSERT INTO hours_run SELECT ?1, ?9, ?2, ?3, ?4, ?5, ?6, ?7, ?8 WHERE EXISTS(SELECT 1 FROM usage_mark WHERE"
	" model = ?9) ON CONFLICT(hour, model, kind, name) DO UPDATE SET"
	" prompt = prompt + ?4, cached = cached + ?5, completion = completion + ?6, money = money + ?7,"
	" requests = requests + ?8";

static const char *name_tenant(void *ctx, uint32_t tenant)
{
	return fh_accounts_name(ctx, tenant, FH_BUDGET_TENANT);
}

/* The sum of a tenant's runs has grown; since the base of a count from the audit log, too, where there is one. */
static int save_sum(struct fh_accounts *a, struct fh_keydb *db, const struct account *c, const struct fh_account_use *u,
		    uint64_t now_s, bool follows, struct fh_err *err)
{
	const struct fh_account_runs *is = &u->in_runs, *was = &c->saved.in_runs;
	struct fh_run_row row = {.model = a->model,
				 .tenant = c->name,
				 .run = "",
				 .first_s = now_s,
				 .last_s = now_s,
				 .requests = is->requests - was->requests,
				 .prompt = is->prompt - was->prompt,
				 .cached = is->cached - was->cached,
				 .completion = is->completion - was->completion,
				 .reasoning = is->reasoning - was->reasoning,
				 .money = is->money - was->money,
				 .uj = (uint64_t)c->runs_uj - c->saved_runs_uj};
	int rc;

	if (!row.uj && !memcmp(is, was, sizeof(*is)))
		return 0;
	rc = fh_runs_put(db, "runs", &row, err);
	row.uj = 0;
	return rc || !follows ? rc : fh_runs_put(db, "runs_since", &row, err);
}

/*
 * Other processes wait for the database meanwhile: after the first time nobody's rows are read but of tenants that have
 * new ones.
 */
static int trim_runs(struct fh_accounts *a, struct fh_keydb *db, uint64_t now_s, struct fh_err *err)
{
	bool all = !a->trimmed_s, due = all || now_s < a->trimmed_s || now_s >= a->trimmed_s + TRIM_S;
	int rc = all ? fh_runs_trim(db, "runs", a->model, NULL, a->keep.rows, err) : 0;

	for (uint32_t i = 1; i <= a->nr && !rc; i++) {
		struct account *c = a->of[i];

		if (c->kind != FH_BUDGET_TENANT)
			continue;
		c->nr_since_trim += fh_runs_nr_of(a->runs, i);
		if (!c->nr_since_trim || (c->nr_since_trim < TRIM_RUNS && !due))
			continue;
		c->nr_since_trim = 0;
		if (!all)
			rc = fh_runs_trim(db, "runs", a->model, c->name, a->keep.rows, err);
	}
	if (!rc && (!a->expired_s || now_s < a->expired_s || now_s >= a->expired_s + EXPIRE_S)) {
		rc = fh_runs_expire(db, a->model, a->keep.days, now_s, err);
		a->expired_s = now_s;
	}
	if (due && !rc)
		a->trimmed_s = now_s;
	return rc;
}

/* @fresh: as save_all() had it. */
static int save_runs(struct fh_accounts *a, struct fh_keydb *db, uint64_t now_s, const struct fh_account_use *fresh,
		     struct fh_err *err)
{
	bool follows = false;
	int rc = fh_runs_tables(db, err);

	if (!rc)
		rc = fh_runs_follow(db, a->model, &follows, err);
	for (uint32_t i = 1; i <= a->nr && !rc; i++)
		if (a->of[i]->kind == FH_BUDGET_TENANT)
			rc = save_sum(a, db, a->of[i], &fresh[i], now_s, follows, err);
	if (!rc)
		rc = fh_runs_save(a->runs, db, a->model, follows, name_tenant, a, err);
	return rc ? rc : trim_runs(a, db, now_s, err);
}

static const char save_thoughts_sql[] =
	"INSERT INTO thoughts_run SELECT ?1, ?4, ?2, ?3, ?5, 0 WHERE EXISTS(SELECT 1 FROM usage_mark WHERE model = ?4)"
	" ON CONFLICT(hour, model, kind, name) DO UPDATE SET reasoning = reasoning + ?5";

/* Beside measured, what save_run_sql is beside hours. */
static int save_thoughts(const struct fh_accounts *a, struct fh_keydb *db, sqlite3_stmt *st, const struct account *c,
			 const struct fh_account_use *u, uint64_t hour_s, struct fh_err *err)
{
	if (!st || u->reasoning == c->saved.reasoning)
		return 0;
	sqlite3_bind_int64(st, 1, (int64_t)hour_s);
	sqlite3_bind_text(st, 2, kinds[c->kind], -1, SQLITE_STATIC);
	sqlite3_bind_text(st, 3, c->name, -1, SQLITE_STATIC);
	sqlite3_bind_text(st, 4, a->model, -1, SQLITE_STATIC);
	sqlite3_bind_int64(st, 5, (int64_t)(u->reasoning - c->saved.reasoning));
	return step_done(db, st, err);
}

static int exec(struct fh_keydb *db, const char *sql, struct fh_err *err)
{
	return sqlite3_exec(fh_keydb_handle(db), sql, NULL, NULL, NULL) == SQLITE_OK ? 0 : fh_keydb_fail(db, err);
}

static bool has_table(struct fh_keydb *db, const char *name)
{
	return !sqlite3_table_column_metadata(fh_keydb_handle(db), "main", name, NULL, NULL, NULL, NULL, NULL, NULL);
}

static int save_all(struct fh_accounts *a, struct fh_keydb *db, uint64_t now_s,
		    bool (*read)(void *ctx, uint32_t account, struct fh_account_use *use), void *ctx,
		    struct fh_account_use *fresh, struct fh_err *err)
{
	sqlite3_stmt *spans = NULL, *hour = NULL, *measured = NULL, *run = NULL, *thoughts = NULL;
	uint64_t hour_s = now_s - now_s % 3600;
	int rc = prepare(db, save_spans_sql, &spans, err);

	if (!rc)
		rc = prepare(db, save_hour_sql, &hour, err);
	if (!rc)
		rc = fh_measured_begin(db, &measured, err);
	if (!rc)
		rc = save_host(a, db, measured, hour_s, err);
	/* The tables are there once any server with a log was. */
	if (!rc && has_table(db, "hours_run"))
		rc = prepare(db, save_run_sql, &run, err);
	if (!rc && has_table(db, "thoughts_run"))
		rc = prepare(db, save_thoughts_sql, &thoughts, err);
	if (!rc) {
		sqlite3_bind_text(spans, 8, a->model, -1, SQLITE_STATIC);
		sqlite3_bind_text(hour, 9, a->model, -1, SQLITE_STATIC);
		sqlite3_bind_text(run, 9, a->model, -1, SQLITE_STATIC);
	}
	for (uint32_t i = 1; i <= a->nr && !rc; i++) {
		fresh[i] = a->of[i]->saved;
		if (!read(ctx, i, &fresh[i]))
			continue;
		if (memcmp(&fresh[i], &a->of[i]->saved, sizeof(fresh[i]))) {
			rc = save_spans(db, spans, a->of[i], &fresh[i], err);
			if (!rc)
				rc = save_hour(db, hour, a->of[i], &fresh[i], now_s, err);
			if (!rc && run)
				rc = save_hour(db, run, a->of[i], &fresh[i], now_s, err);
		}
		if (!rc)
			rc = save_measured(a, db, measured, a->of[i], &fresh[i], hour_s, err);
		if (!rc)
			rc = save_thoughts(a, db, thoughts, a->of[i], &fresh[i], hour_s, err);
	}
	sqlite3_finalize(measured);
	sqlite3_finalize(spans);
	sqlite3_finalize(hour);
	sqlite3_finalize(run);
	sqlite3_finalize(thoughts);
	return rc;
}

int fh_accounts_save(struct fh_accounts *a, struct fh_keydb *db, uint64_t now_s, bool all,
		     bool (*read)(void *ctx, uint32_t account, struct fh_account_use *use), void *ctx,
		     struct fh_err *err)
{
	struct fh_account_use *fresh = calloc(a->nr + 1, sizeof(*fresh)), u;
	bool any = host_is_due(a, now_s, all) || fh_runs_nr(a->runs);
	uint64_t trimmed_s = a->trimmed_s, expired_s = a->expired_s;
	int rc;

	if (!fresh)
		return fh_errf(err, -ENOMEM, "no memory to save what was used");
	for (uint32_t i = 1; i <= a->nr && !any; i++) {
		u = a->of[i]->saved;
		any = read(ctx, i, &u) && memcmp(&u, &a->of[i]->saved, sizeof(u));
		any |= (uint64_t)a->of[i]->uj != a->of[i]->saved_uj;
		any |= (uint64_t)a->of[i]->runs_uj != a->of[i]->saved_runs_uj;
	}
	/* Nothing to say: no write, and nobody who watches the database is woken. */
	rc = any ? exec(db, "BEGIN IMMEDIATE", err) : 0;
	if (!rc && any) {
		rc = save_all(a, db, now_s, read, ctx, fresh, err);
		if (!rc)
			rc = save_runs(a, db, now_s, fresh, err);
		if (!rc)
			rc = exec(db, "COMMIT", err);
		if (rc) {
			sqlite3_exec(fh_keydb_handle(db), "ROLLBACK", NULL, NULL, NULL);
			a->trimmed_s = trimmed_s;
			a->expired_s = expired_s;
		}
		for (uint32_t i = 1; i <= a->nr && !rc; i++) {
			a->of[i]->saved = fresh[i];
			a->of[i]->saved_uj = (uint64_t)a->of[i]->uj;
			a->of[i]->saved_runs_uj = (uint64_t)a->of[i]->runs_uj;
		}
		if (!rc) {
			fh_runs_saved(a->runs);
			a->saved_energy = a->energy;
			a->energy_saved_s = now_s;
		}
	}
	free(fresh);
	return rc;
}

static int kind_of(const char *name)
{
	for (int k = 0; name && k < FH_BUDGET_RUN; k++)
		if (!strcmp(kinds[k], name))
			return k;
	return -1;
}

int fh_accounts_load(struct fh_accounts *a, struct fh_keydb *db,
		     void (*fn)(void *ctx, uint32_t account, enum fh_budget_span span, uint64_t ends_s, uint64_t tokens,
				uint64_t money, uint64_t requests),
		     void *ctx, struct fh_err *err)
{
	sqlite3_stmt *st;
	int rc = prepare(db, "SELECT kind, name, span, ends, tokens, money, requests FROM usage WHERE model = ?1", &st,
			 err),
	    step;

	if (rc)
		return rc;
	sqlite3_bind_text(st, 1, a->model, -1, SQLITE_STATIC);
	while ((step = sqlite3_step(st)) == SQLITE_ROW) {
		int kind = kind_of((const char *)sqlite3_column_text(st, 0)), span = sqlite3_column_int(st, 2);
		const char *name = (const char *)sqlite3_column_text(st, 1);
		uint64_t v[4];
		uint32_t n = kind >= 0 && name ? fh_accounts_find(a, (enum fh_budget_kind)kind, name) : 0;

		for (int i = 0; i < 4; i++)
			v[i] = (uint64_t)sqlite3_column_int64(st, 3 + i);
		if (!n || span < 0 || span >= FH_NR_SPANS)
			continue;
		a->of[n]->saved.ends_s[span] = v[0];
		a->of[n]->saved.tokens[span] = v[1];
		a->of[n]->saved.money[span] = v[2];
		a->of[n]->saved.requests[span] = v[3];
		fn(ctx, n, (enum fh_budget_span)span, v[0], v[1], v[2], v[3]);
	}
	if (step != SQLITE_DONE)
		rc = fh_keydb_fail(db, err);
	sqlite3_finalize(st);
	return rc;
}
