// SPDX-License-Identifier: Apache-2.0
/* Usage by agent run: what is pending in memory, and the tables. */
#include "runtime/trust/runs.h"

#include <errno.h>
#include <inttypes.h>
#include <sodium.h>
#include <sqlite3.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "runtime/base/log.h"

#define MAX_PENDING 4096u /* between two times that they are saved */
#define MAX_OF_TENANT 1024u
#define NR_SLOTS (2 * MAX_PENDING) /* a power of two */
#define NR_TENANTS 1024u	   /* a power of two: counters of pending runs, by hash */
#define COUNT_AFTER (FH_RUNS_SINCE_MAX / 8)

struct pending {
	struct fh_run_use use; /* requests 0: energy alone */
	double uj;
};

struct fh_runs {
	struct pending run[MAX_PENDING];
	uint16_t slot[NR_SLOTS]; /* a run + 1 */
	uint16_t of_tenant[NR_TENANTS];
	uint32_t nr;
	uint32_t nr_put; /* rows of runs_since, since they were counted */
};

static const char tables_sql[] =
	"CREATE TABLE IF NOT EXISTS runs(model TEXT NOT NULL, tenant TEXT NOT NULL, run TEXT NOT NULL,"
	"  first INTEGER NOT NULL, last INTEGER NOT NULL, depth INTEGER NOT NULL, requests INTEGER NOT NULL,"
	"  prompt INTEGER NOT NULL, cached INTEGER NOT NULL, completion INTEGER NOT NULL, reasoning INTEGER NOT NULL,"
	"  money INTEGER NOT NULL, uj INTEGER NOT NULL, PRIMARY KEY(model, tenant, run)) WITHOUT ROWID;"
	"CREATE INDEX IF NOT EXISTS runs_by_last ON runs(model, tenant, last DESC);"
	"CREATE TABLE IF NOT EXISTS runs_since(model TEXT NOT NULL, tenant TEXT NOT NULL, run TEXT NOT NULL,"
	"  first INTEGER NOT NULL, last INTEGER NOT NULL, depth INTEGER NOT NULL, requests INTEGER NOT NULL,"
	"  prompt INTEGER NOT NULL, cached INTEGER NOT NULL, completion INTEGER NOT NULL, reasoning INTEGER NOT NULL,"
	"  money INTEGER NOT NULL, uj INTEGER NOT NULL, PRIMARY KEY(model, tenant, run)) WITHOUT ROWID;";
static const char put_sql[] =
	"INSERT INTO %s VALUES(?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13)"
	" ON CONFLICT(model, tenant, run) DO UPDATE SET first = min(first, ?4), last = max(last, ?5),"
	" depth = max(depth, ?6), requests = requests + ?7, prompt = prompt + ?8, cached = cached + ?9,"
	" completion = completion + ?10, reasoning = reasoning + ?11, money = money + ?12, uj = uj + ?13";

static int prepare(struct fh_keydb *db, const char *sql, sqlite3_stmt **st, struct fh_err *err)
{
	return sqlite3_prepare_v2(fh_keydb_handle(db), sql, -1, st, NULL) == SQLITE_OK ? 0 : fh_keydb_fail(db, err);
}

/* To the end; @st is gone afterwards. */
static int finish(struct fh_keydb *db, sqlite3_stmt *st, struct fh_err *err)
{
	int rc = sqlite3_step(st) == SQLITE_DONE ? 0 : fh_keydb_fail(db, err);

	sqlite3_finalize(st);
	return rc;
}

/* ---- pending ---- */

struct fh_runs *fh_runs_create(void)
{
	return calloc(1, sizeof(struct fh_runs));
}

void fh_runs_free(struct fh_runs *r)
{
	free(r);
}

uint32_t fh_runs_nr(const struct fh_runs *r)
{
	return r->nr;
}

uint32_t fh_runs_nr_of(const struct fh_runs *r, uint32_t tenant)
{
	return r->of_tenant[tenant % NR_TENANTS];
}

/* NULL: there is no room for another one of this tenant. */
static struct pending *find(struct fh_runs *r, uint32_t tenant, const uint8_t id[16])
{
	uint16_t *of_tenant = &r->of_tenant[tenant % NR_TENANTS];
	struct pending *p;
	uint64_t at;

	memcpy(&at, id, sizeof(at));
	at = ((at ^ tenant) * 0x9e3779b97f4a7c15u) >> 32; /* Fibonacci hashing (Knuth) */
	for (; r->slot[at % NR_SLOTS]; at++) {
		p = &r->run[r->slot[at % NR_SLOTS] - 1];
		if (p->use.tenant == tenant && !memcmp(p->use.id, id, sizeof(p->use.id)))
			return p;
	}
	if (r->nr == MAX_PENDING || *of_tenant == MAX_OF_TENANT)
		return NULL;
	++*of_tenant;
	p = &r->run[r->nr++];
	r->slot[at % NR_SLOTS] = (uint16_t)r->nr;
	*p = (struct pending){.use = {.tenant = tenant, .first_s = UINT64_MAX}};
	memcpy(p->use.id, id, sizeof(p->use.id));
	return p;
}

static void note_time(struct fh_run_use *u, uint64_t first_s, uint64_t last_s)
{
	u->first_s = first_s < u->first_s ? first_s : u->first_s;
	u->last_s = last_s > u->last_s ? last_s : u->last_s;
}

void fh_runs_add(struct fh_runs *r, const struct fh_run_use *u)
{
	struct pending *p = find(r, u->tenant, u->id);

	if (!p)
		return;
	note_time(&p->use, u->first_s, u->last_s);
	p->use.depth = u->depth > p->use.depth ? u->depth : p->use.depth;
	p->use.requests += u->requests;
	p->use.prompt += u->prompt;
	p->use.cached += u->cached;
	p->use.completion += u->completion;
	p->use.reasoning += u->reasoning;
	p->use.money += u->money;
}

void fh_runs_add_energy(struct fh_runs *r, uint32_t tenant, const uint8_t id[16], double uj, uint64_t now_s)
{
	struct pending *p = find(r, tenant, id);

	if (!p)
		return;
	note_time(&p->use, now_s, now_s);
	p->uj += uj;
}

int fh_runs_step(struct fh_keydb *db, sqlite3_stmt *st, const struct fh_run_row *row, struct fh_err *err)
{
	const uint64_t v[] = {row->first_s, row->last_s,     row->depth,     row->requests, row->prompt,
			      row->cached,  row->completion, row->reasoning, row->money,    row->uj};
	int rc;

	sqlite3_bind_text(st, 1, row->model, -1, SQLITE_STATIC);
	sqlite3_bind_text(st, 2, row->tenant, -1, SQLITE_STATIC);
	sqlite3_bind_text(st, 3, row->run, -1, SQLITE_STATIC);
	for (int i = 0; i < 10; i++)
		sqlite3_bind_int64(st, 4 + i, (int64_t)v[i]);
	rc = sqlite3_step(st) == SQLITE_DONE ? 0 : fh_keydb_fail(db, err);
	sqlite3_reset(st);
	return rc;
}

int fh_runs_prepare(struct fh_keydb *db, const char *table, sqlite3_stmt **st, struct fh_err *err)
{
	char sql[sizeof(put_sql) + 32];

	snprintf(sql, sizeof(sql), put_sql, table);
	return prepare(db, sql, st, err);
}

int fh_runs_follow(struct fh_keydb *db, const char *model, bool *follows, struct fh_err *err)
{
	sqlite3_stmt *st;
	int rc, step = sqlite3_table_column_metadata(fh_keydb_handle(db), "main", "usage_mark", NULL, NULL, NULL, NULL,
						     NULL, NULL);

	*follows = false;
	/* The table is there once any server with a log was. */
	if (step == SQLITE_ERROR)
		return 0;
	if (step != SQLITE_OK)
		return fh_keydb_fail(db, err);
	rc = prepare(db,
		     "SELECT 1 FROM usage_mark WHERE model = ?1"
		     " AND NOT EXISTS(SELECT 1 FROM runs_since WHERE model = ?1 AND run = '*')",
		     &st, err);
	if (rc)
		return rc;
	sqlite3_bind_text(st, 1, model, -1, SQLITE_STATIC);
	step = sqlite3_step(st);
	*follows = step == SQLITE_ROW;
	/* What cannot be read is not taken for a no: the log would tell of the same runs again. */
	rc = step == SQLITE_ROW || step == SQLITE_DONE ? 0 : fh_keydb_fail(db, err);
	sqlite3_finalize(st);
	return rc;
}

/* One statement of @model, to its end. */
static int of_model(struct fh_keydb *db, const char *sql, const char *model, struct fh_err *err)
{
	sqlite3_stmt *st;
	int rc = prepare(db, sql, &st, err);

	if (rc)
		return rc;
	sqlite3_bind_text(st, 1, model, -1, SQLITE_STATIC);
	return finish(db, st, err);
}

/*
 * A log that cannot be written says nothing, and then runs_since only grows, by as many rows as clients think of names.
 * Where they are too many they give way to one that says so, and nothing is raised any more until the next start.
 */
static int bound_since(struct fh_runs *r, struct fh_keydb *db, const char *model, struct fh_err *err)
{
	sqlite3_stmt *st;
	uint64_t nr = 0;
	int rc;

	r->nr_put += r->nr;
	if (r->nr_put < COUNT_AFTER)
		return 0;
	rc = prepare(db, "SELECT count(*) FROM runs_since WHERE model = ?1", &st, err);
	if (rc)
		return rc;
	sqlite3_bind_text(st, 1, model, -1, SQLITE_STATIC);
	if (sqlite3_step(st) == SQLITE_ROW)
		nr = (uint64_t)sqlite3_column_int64(st, 0);
	else
		rc = fh_keydb_fail(db, err);
	sqlite3_finalize(st);
	if (rc)
		return rc;
	r->nr_put = 0;
	if (nr <= FH_RUNS_SINCE_MAX)
		return 0;
	fh_warn("usage: %" PRIu64
		" agent runs wait for the audit log to tell of them, which cannot be written or is far"
		" behind; what it tells of runs after a crash is not added to theirs until the next start",
		nr);
	rc = of_model(db, "DELETE FROM runs_since WHERE model = ?1", model, err);
	return rc ? rc
		  : of_model(db, "INSERT INTO runs_since VALUES(?1, '', '*', 0, 0, 0, 1, 0, 0, 0, 0, 0, 0)", model,
			     err);
}

static int save_one(struct fh_keydb *db, sqlite3_stmt *put, sqlite3_stmt *since, const struct pending *p,
		    const char *model, const char *tenant, struct fh_err *err)
{
	const struct fh_run_use *u = &p->use;
	char run[FH_RUN_NAME_BYTES];
	struct fh_run_row row = {.model = model,
				 .tenant = tenant,
				 .run = run,
				 .first_s = u->first_s,
				 .last_s = u->last_s,
				 .depth = u->depth,
				 .requests = u->requests,
				 .prompt = u->prompt,
				 .cached = u->cached,
				 .completion = u->completion,
				 .reasoning = u->reasoning,
				 .money = u->money,
				 .uj = (uint64_t)p->uj};
	int rc;

	sodium_bin2hex(run, sizeof(run), u->id, sizeof(u->id));
	rc = fh_runs_step(db, put, &row, err);
	row.uj = 0;
	return rc || !since || !(row.requests || row.prompt || row.completion) ? rc
									       : fh_runs_step(db, since, &row, err);
}

int fh_runs_save(struct fh_runs *r, struct fh_keydb *db, const char *model, bool follows,
		 const char *(*name)(void *ctx, uint32_t tenant), void *ctx, struct fh_err *err)
{
	sqlite3_stmt *put = NULL, *since = NULL;
	int rc = fh_runs_prepare(db, "runs", &put, err);

	if (!rc && follows)
		rc = fh_runs_prepare(db, "runs_since", &since, err);
	for (uint32_t i = 0; i < r->nr && !rc; i++) {
		const char *tenant = name(ctx, r->run[i].use.tenant);

		if (tenant)
			rc = save_one(db, put, since, &r->run[i], model, tenant, err);
	}
	sqlite3_finalize(put);
	sqlite3_finalize(since);
	return rc || !follows ? rc : bound_since(r, db, model, err);
}

void fh_runs_saved(struct fh_runs *r)
{
	r->nr = 0;
	memset(r->slot, 0, sizeof(r->slot));
	memset(r->of_tenant, 0, sizeof(r->of_tenant));
}

/* ---- tables ---- */

int fh_runs_tables(struct fh_keydb *db, struct fh_err *err)
{
	return sqlite3_exec(fh_keydb_handle(db), tables_sql, NULL, NULL, NULL) == SQLITE_OK ? 0
											    : fh_keydb_fail(db, err);
}

int fh_runs_put(struct fh_keydb *db, const char *table, const struct fh_run_row *row, struct fh_err *err)
{
	sqlite3_stmt *st;
	int rc = fh_runs_prepare(db, table, &st, err);

	if (rc)
		return rc;
	rc = fh_runs_step(db, st, row, err);
	sqlite3_finalize(st);
	return rc;
}

int fh_runs_set_keep(struct fh_keydb *db, const struct fh_run_keep *keep, struct fh_err *err)
{
	sqlite3_stmt *st;
	int rc = prepare(db, "INSERT OR REPLACE INTO meta VALUES('run-rows', ?1), ('run-days', ?2)", &st, err);

	if (rc)
		return rc;
	sqlite3_bind_int64(st, 1, keep->rows);
	sqlite3_bind_int64(st, 2, keep->days);
	return finish(db, st, err);
}

int fh_runs_get_keep(struct fh_keydb *db, struct fh_run_keep *keep, struct fh_err *err)
{
	sqlite3_stmt *st;
	int rc = prepare(db, "SELECT name, value FROM meta WHERE name IN ('run-rows', 'run-days')", &st, err), step;

	*keep = (struct fh_run_keep){FH_RUN_ROWS_DEFAULT, FH_RUN_DAYS_DEFAULT};
	if (rc)
		return rc;
	while ((step = sqlite3_step(st)) == SQLITE_ROW) {
		const char *name = (const char *)sqlite3_column_text(st, 0);

		*(name && !strcmp(name, "run-rows") ? &keep->rows : &keep->days) =
			(uint32_t)sqlite3_column_int64(st, 1);
	}
	rc = step == SQLITE_DONE ? 0 : fh_keydb_fail(db, err);
	sqlite3_finalize(st);
	return rc;
}

/* Of a tenant the latest; of those of one second, whichever come first. */
static const char trim_sql[] =
	"DELETE FROM %1$s WHERE (model, tenant, run) IN (SELECT model, tenant, run FROM (SELECT model, tenant, run,"
	" row_number() OVER (PARTITION BY model, tenant ORDER BY last DESC) AS nr FROM %1$s"
	" WHERE run <> '' AND (?1 IS NULL OR model = ?1)) WHERE nr > ?2)";

/* The same of one tenant, which is what can be done while others wait: it reads no rows but those. */
static const char trim_tenant_sql[] =
	"DELETE FROM %1$s WHERE model = ?1 AND tenant = ?3 AND run IN (SELECT run FROM %1$s WHERE model = ?1"
	" AND tenant = ?3 AND run <> '' ORDER BY last DESC LIMIT -1 OFFSET ?2)";

int fh_runs_trim(struct fh_keydb *db, const char *table, const char *model, const char *tenant, uint32_t rows,
		 struct fh_err *err)
{
	char sql[sizeof(trim_sql) + 64];
	sqlite3_stmt *st;
	int rc;

	if (tenant)
		snprintf(sql, sizeof(sql), trim_tenant_sql, table);
	else
		snprintf(sql, sizeof(sql), trim_sql, table);
	rc = prepare(db, sql, &st, err);
	if (rc)
		return rc;
	if (model)
		sqlite3_bind_text(st, 1, model, -1, SQLITE_STATIC);
	sqlite3_bind_int64(st, 2, rows);
	if (tenant)
		sqlite3_bind_text(st, 3, tenant, -1, SQLITE_STATIC);
	return finish(db, st, err);
}

int fh_runs_expire(struct fh_keydb *db, const char *model, uint32_t days, uint64_t now_s, struct fh_err *err)
{
	uint64_t kept_s = (uint64_t)days * 86400;
	sqlite3_stmt *st;
	int rc;

	if (!kept_s || kept_s >= now_s)
		return 0;
	rc = prepare(db, "DELETE FROM runs WHERE run <> '' AND last < ?2 AND (?1 IS NULL OR model = ?1)", &st, err);
	if (rc)
		return rc;
	if (model)
		sqlite3_bind_text(st, 1, model, -1, SQLITE_STATIC);
	sqlite3_bind_int64(st, 2, (int64_t)(now_s - kept_s));
	return finish(db, st, err);
}

/* ---- who reads them ---- */

static void read_row(sqlite3_stmt *st, struct fh_run_row *row)
{
	uint64_t *const v[] = {&row->first_s, &row->last_s,	&row->depth,	 &row->requests, &row->prompt,
			       &row->cached,  &row->completion, &row->reasoning, &row->money,	 &row->uj};

	row->model = (const char *)sqlite3_column_text(st, 0);
	row->tenant = (const char *)sqlite3_column_text(st, 1);
	row->run = (const char *)sqlite3_column_text(st, 2);
	for (int i = 0; i < 10; i++)
		*v[i] = (uint64_t)sqlite3_column_int64(st, 3 + i);
}

int fh_runs_each(struct fh_keydb *db, bool sums, const char *tenant, const char *run, uint64_t from_s, uint64_t to_s,
		 int (*fn)(void *ctx, const struct fh_run_row *row), void *ctx, struct fh_err *err)
{
	struct fh_run_row row;
	sqlite3_stmt *st;
	int rc, step = SQLITE_DONE;

	if (sqlite3_table_column_metadata(fh_keydb_handle(db), "main", "runs", NULL, NULL, NULL, NULL, NULL, NULL))
		return 0;
	rc = prepare(db,
		     "SELECT * FROM runs WHERE (run = '') = ?1 AND (?2 IS NULL OR tenant = ?2) AND (?3 IS NULL OR"
		     " run = ?3) AND last >= ?4 AND first < ?5 ORDER BY last, tenant, run, model",
		     &st, err);
	if (rc)
		return rc;
	sqlite3_bind_int(st, 1, sums);
	if (tenant)
		sqlite3_bind_text(st, 2, tenant, -1, SQLITE_STATIC);
	if (run)
		sqlite3_bind_text(st, 3, run, -1, SQLITE_STATIC);
	sqlite3_bind_int64(st, 4, (int64_t)from_s);
	sqlite3_bind_int64(st, 5, to_s < INT64_MAX ? (int64_t)to_s : INT64_MAX);
	while (!rc && (step = sqlite3_step(st)) == SQLITE_ROW) {
		read_row(st, &row);
		rc = row.model && row.tenant && row.run
			     ? fn(ctx, &row)
			     : fh_errf(err, -EBADMSG, "%s: a run's row is damaged", fh_keydb_path(db));
	}
	if (!rc && step != SQLITE_DONE)
		rc = fh_keydb_fail(db, err);
	sqlite3_finalize(st);
	return rc;
}

void fh_run_of_name(const char *name, char out[FH_RUN_NAME_BYTES])
{
	uint8_t id[16];

	crypto_generichash(id, sizeof(id), (const unsigned char *)name, strlen(name), NULL, 0);
	sodium_bin2hex(out, FH_RUN_NAME_BYTES, id, sizeof(id));
}
