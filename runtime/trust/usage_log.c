// SPDX-License-Identifier: Apache-2.0
/*
 * Usage and the audit log: the mark, the base, and how they and the tables become one.
 *
 *   usage_mark   a row a model: the log's origin; `base`, the entries that usage_base is the sum of; `entries`, the
 * most that the log was seen with; `live`, `says` and `high`, what else a count from there has to know (see recount.h);
 * `closed`, and then `sum`, a digest of the tables usage_base   as usage, at the base usage_open   the requests that
 * had begun and not ended there hours_run    what hours was given since the base: whoever saves adds to both
 * (accounts.c), and where the base moves on, what the log says of those entries is taken away.  What is left is how far
 * hours is from the log.
 */
#include "runtime/trust/recount.h"

#include <errno.h>
#include <sodium.h>
#include <sqlite3.h>
#include <stdio.h>
#include <string.h>

#include "runtime/base/budget.h"
#include "runtime/trust/measured.h"
#include "runtime/trust/record.h"
#include "runtime/trust/recount_runs.h"

#define STEP 32768u /* entries of a transaction */

static const char tables_sql[] =
	"DROP TABLE IF EXISTS usage_log; DROP TABLE IF EXISTS hours_base;" /* of the versions before these */
	"CREATE TABLE IF NOT EXISTS usage_mark(model TEXT PRIMARY KEY, origin TEXT NOT NULL, base INTEGER NOT NULL,"
	"  entries INTEGER NOT NULL, live INTEGER NOT NULL, says INTEGER NOT NULL, high INTEGER NOT NULL,"
	"  closed INTEGER NOT NULL, sum INTEGER NOT NULL) WITHOUT ROWID;"
	"CREATE TABLE IF NOT EXISTS usage_base(model TEXT NOT NULL, kind TEXT NOT NULL, name TEXT NOT NULL,"
	"  span INTEGER NOT NULL, ends INTEGER NOT NULL, tokens INTEGER NOT NULL, money INTEGER NOT NULL,"
	"  requests INTEGER NOT NULL, PRIMARY KEY(model, kind, name, span)) WITHOUT ROWID;"
	"CREATE TABLE IF NOT EXISTS usage_open(model TEXT NOT NULL, entry INTEGER NOT NULL, prompt INTEGER NOT NULL,"
	"  high INTEGER NOT NULL, tenant TEXT NOT NULL, user TEXT NOT NULL, key TEXT NOT NULL,"
	"  PRIMARY KEY(model, entry)) WITHOUT ROWID;"
	"CREATE TABLE IF NOT EXISTS hours_run(hour INTEGER NOT NULL, model TEXT NOT NULL, kind TEXT NOT NULL,"
	"  name TEXT NOT NULL, prompt INTEGER NOT NULL, cached INTEGER NOT NULL, completion INTEGER NOT NULL,"
	"  money INTEGER NOT NULL, requests INTEGER NOT NULL, PRIMARY KEY(hour, model, kind, name)) WITHOUT ROWID;"
	"CREATE TABLE IF NOT EXISTS usage_open_run(model TEXT NOT NULL, entry INTEGER NOT NULL, began INTEGER NOT NULL,"
	"  depth INTEGER NOT NULL, run BLOB NOT NULL, PRIMARY KEY(model, entry)) WITHOUT ROWID;"
	"CREATE TABLE IF NOT EXISTS thoughts_run(hour INTEGER NOT NULL, model TEXT NOT NULL, kind TEXT NOT NULL,"
	"  name TEXT NOT NULL, reasoning INTEGER NOT NULL, vague INTEGER NOT NULL,"
	"  PRIMARY KEY(hour, model, kind, name)) WITHOUT ROWID;";

struct mark {
	bool there, same_log, closed, on;
	uint64_t base, entries, high, says;
	int64_t sum;
};

int fh_usage_exec(struct fh_keydb *db, const char *sql, struct fh_err *err)
{
	return sqlite3_exec(fh_keydb_handle(db), sql, NULL, NULL, NULL) == SQLITE_OK ? 0 : fh_keydb_fail(db, err);
}

static int prepare(struct fh_keydb *db, const char *sql, const char *model, sqlite3_stmt **st, struct fh_err *err)
{
	if (sqlite3_prepare_v2(fh_keydb_handle(db), sql, -1, st, NULL) != SQLITE_OK)
		return fh_keydb_fail(db, err);
	sqlite3_bind_text(*st, 1, model, -1, SQLITE_STATIC);
	return 0;
}

static int finish(struct fh_keydb *db, sqlite3_stmt *st, struct fh_err *err)
{
	int rc = sqlite3_step(st) == SQLITE_DONE ? 0 : fh_keydb_fail(db, err);

	sqlite3_finalize(st);
	return rc;
}

int fh_usage_run(struct fh_keydb *db, const char *sql, const char *model, uint64_t v, struct fh_err *err)
{
	sqlite3_stmt *st;
	int rc = prepare(db, sql, model, &st, err);

	if (rc)
		return rc;
	if (sqlite3_bind_parameter_count(st) > 1)
		sqlite3_bind_int64(st, 2, (int64_t)v);
	return finish(db, st, err);
}

/* Several of them. */
static int run_all(struct fh_keydb *db, const char *const *sql, size_t nr, const char *model, struct fh_err *err)
{
	int rc = 0;

	for (size_t i = 0; i < nr && !rc; i++)
		rc = fh_usage_run(db, sql[i], model, 0, err);
	return rc;
}

#define RUN_ALL(db, list, model, err) run_all(db, list, sizeof(list) / sizeof((list)[0]), model, err)

int fh_usage_end(struct fh_keydb *db, int rc, struct fh_err *err)
{
	if (!rc)
		rc = fh_usage_exec(db, "COMMIT", err);
	if (rc)
		sqlite3_exec(fh_keydb_handle(db), "ROLLBACK", NULL, NULL, NULL);
	return rc;
}

int fh_usage_tables(struct fh_keydb *db, struct fh_err *err)
{
	int rc = fh_usage_exec(db, tables_sql, err);

	if (!rc)
		rc = fh_measured_table(db, err);
	return rc ? rc : fh_runs_tables(db, err);
}

/* ---- the mark ---- */

/* So that rows which somebody changed, took away or added are missed. */
static int digest(struct fh_keydb *db, const char *model, int64_t *out, struct fh_err *err)
{
	static const char *const sql[] = {"SELECT * FROM usage WHERE model = ?1 ORDER BY kind, name, span",
					  "SELECT * FROM hours WHERE model = ?1 ORDER BY hour, kind, name"};
	crypto_generichash_state h;
	sqlite3_stmt *st;
	int rc = 0, step;

	crypto_generichash_init(&h, NULL, 0, crypto_generichash_BYTES_MIN);
	for (int i = 0; i < 2 && !rc; i++) {
		rc = prepare(db, sql[i], model, &st, err);
		if (rc)
			break;
		while ((step = sqlite3_step(st)) == SQLITE_ROW)
			for (int k = 0; k < sqlite3_column_count(st); k++) {
				const unsigned char *text = sqlite3_column_text(st, k);

				crypto_generichash_update(&h, text ?: (const unsigned char *)"",
							  (size_t)sqlite3_column_bytes(st, k) + 1);
			}
		if (step != SQLITE_DONE)
			rc = fh_keydb_fail(db, err);
		sqlite3_finalize(st);
	}
	if (!rc) {
		uint8_t hash[crypto_generichash_BYTES_MIN];

		crypto_generichash_final(&h, hash, sizeof(hash));
		memcpy(out, hash, sizeof(*out));
	}
	return rc;
}

/* 1: what was paid; 2: and what of it were thoughts. */
static uint64_t flags_of(int says)
{
	return (says & 1 ? FH_RF_CHARGES : 0) | (says & 2 ? FH_RF_THOUGHTS : 0);
}

static int read_mark(struct fh_keydb *db, const struct fh_reader *r, const char *model, struct mark *m,
		     struct fh_err *err)
{
	const char *origin;
	sqlite3_stmt *st;
	int rc = prepare(db,
			 "SELECT origin, base, entries, live, says, high, closed, sum FROM usage_mark WHERE model = ?1",
			 model, &st, err),
	    step;

	*m = (struct mark){0};
	if (rc)
		return rc;
	step = sqlite3_step(st);
	if (step == SQLITE_ROW) {
		origin = (const char *)sqlite3_column_text(st, 0);
		m->there = true;
		m->same_log = origin && !strcmp(origin, r->cp.origin);
		m->base = (uint64_t)sqlite3_column_int64(st, 1);
		m->entries = (uint64_t)sqlite3_column_int64(st, 2);
		m->on = sqlite3_column_int(st, 3);
		m->says = flags_of(sqlite3_column_int(st, 4));
		m->high = (uint64_t)sqlite3_column_int64(st, 5);
		m->closed = sqlite3_column_int(st, 6);
		m->sum = sqlite3_column_int64(st, 7);
	} else if (step != SQLITE_DONE) {
		rc = fh_keydb_fail(db, err);
	}
	sqlite3_finalize(st);
	return rc;
}

static int write_mark(struct fh_keydb *db, const struct fh_reader *r, const char *model, const struct mark *m,
		      struct fh_err *err)
{
	sqlite3_stmt *st;
	int rc = prepare(db, "INSERT OR REPLACE INTO usage_mark VALUES(?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)", model, &st,
			 err);

	if (rc)
		return rc;
	sqlite3_bind_text(st, 2, r->cp.origin, -1, SQLITE_STATIC);
	sqlite3_bind_int64(st, 3, (int64_t)m->base);
	sqlite3_bind_int64(st, 4, (int64_t)m->entries);
	sqlite3_bind_int(st, 5, m->on);
	sqlite3_bind_int(st, 6, !!(m->says & FH_RF_CHARGES) + 2 * !!(m->says & FH_RF_THOUGHTS));
	sqlite3_bind_int64(st, 7, (int64_t)m->high);
	sqlite3_bind_int(st, 8, m->closed);
	sqlite3_bind_int64(st, 9, m->sum);
	return finish(db, st, err);
}

int fh_usage_drop_mark(struct fh_keydb *db, const char *model, struct fh_err *err)
{
	static const char *const sql[] = {
		"DELETE FROM usage_mark WHERE model = ?1",     "DELETE FROM usage_base WHERE model = ?1",
		"DELETE FROM usage_open WHERE model = ?1",     "DELETE FROM hours_run WHERE model = ?1",
		"DELETE FROM usage_open_run WHERE model = ?1", "DELETE FROM thoughts_run WHERE model = ?1",
		"DELETE FROM runs_since WHERE model = ?1"};

	return RUN_ALL(db, sql, model, err);
}

/* The tables as they are now are the base, of all of @r. */
static int base_is_now(struct fh_keydb *db, const struct fh_reader *r, const char *model, struct mark *m,
		       struct fh_err *err)
{
	int rc = fh_usage_drop_mark(db, model, err);

	if (!rc)
		rc = fh_usage_run(db, "INSERT INTO usage_base SELECT * FROM usage WHERE model = ?1", model, 0, err);
	m->base = m->entries = r->cp.size;
	m->on = false; /* whoever wrote has ended: a START comes next */
	m->says = 0;
	return rc ? rc : write_mark(db, r, model, m, err);
}

static const char *const anew[] = {
	"DELETE FROM hours WHERE model = ?1",
	/* What is beside usage, and may be there without it, counts as what it was given. */
	"INSERT INTO thoughts_run SELECT hour, model, kind, name, reasoning, 0 FROM measured WHERE model = ?1"
	" AND reasoning > 0",
	"INSERT INTO runs_since SELECT model, tenant, run, first, last, depth, requests, prompt, cached, completion,"
	" reasoning, money, 0 FROM runs WHERE model = ?1",
};

/*
 * The first time that this log is met, or another than before, or an older state of it.  Where there is usage, it is
 * that of the time before; else it is counted from the log's beginning.
 */
static int meet(struct fh_keydb *db, const struct fh_reader *r, const char *model, struct mark *m,
		struct fh_recount *out, struct fh_err *err)
{
	sqlite3_stmt *st;
	bool any;
	int rc = prepare(db, "SELECT 1 FROM usage WHERE model = ?1 LIMIT 1", model, &st, err);

	if (rc)
		return rc;
	any = sqlite3_step(st) == SQLITE_ROW;
	sqlite3_finalize(st);
	out->strange = m->there && (m->same_log || !m->closed);
	*m = (struct mark){0};
	if (any)
		return base_is_now(db, r, model, m, err);
	out->recounted = true;
	rc = fh_usage_drop_mark(db, model, err);
	if (!rc)
		rc = RUN_ALL(db, anew, model, err);
	return rc ? rc : write_mark(db, r, model, m, err);
}

/* ---- the base moves on ---- */

static int advance(struct fh_keydb *db, struct fh_reader *r, const char *model, uint64_t now_s, uint64_t most,
		   struct mark *m, struct fh_recount *out, struct fh_err *err)
{
	struct fh_recount_job job = {.from = m->base,
				     .to = r->cp.size - m->base < most ? r->cp.size : m->base + most,
				     .model = model,
				     .now_s = now_s,
				     .usage = "usage_base",
				     .hours = "hours_run",
				     .thoughts = "thoughts_run",
				     .runs = "runs_since",
				     .subtract = true,
				     .on = m->on,
				     .says = m->says,
				     .high = m->high};
	int rc;

	if (job.from >= job.to)
		return 0;
	rc = fh_recount_log(db, r, &job, out, err);
	if (!rc)
		rc = fh_usage_run(
			db,
			"DELETE FROM hours_run WHERE model = ?1 AND prompt = 0 AND cached = 0 AND completion = 0"
			" AND money = 0 AND requests = 0",
			model, 0, err);
	if (!rc)
		rc = fh_usage_run(db, "DELETE FROM thoughts_run WHERE model = ?1 AND reasoning = 0 AND vague = 0",
				  model, 0, err);
	if (!rc)
		rc = fh_recount_runs_raise(db, model, now_s, err);
	if (rc)
		return rc;
	m->base = job.to;
	m->entries = m->entries > r->cp.size ? m->entries : r->cp.size;
	m->on = job.on;
	m->says = job.says;
	m->high = job.high;
	return write_mark(db, r, model, m, err);
}

int fh_usage_advance(struct fh_keydb *db, struct fh_reader *r, const char *model, uint64_t now_s, uint64_t most,
		     uint64_t *base, struct fh_recount *out, struct fh_err *err)
{
	struct mark m;
	int rc = fh_usage_exec(db, "BEGIN IMMEDIATE", err);

	if (rc)
		return rc;
	rc = read_mark(db, r, model, &m, err);
	if (!rc && (!m.same_log || m.closed || m.base > r->cp.size))
		rc = fh_errf(err, -ESTALE, "%s: the usage of %s is not of this log any more", fh_keydb_path(db), model);
	if (!rc)
		rc = advance(db, r, model, now_s, most, &m, out, err);
	rc = fh_usage_end(db, rc, err);
	if (!rc)
		*base = m.base;
	return rc;
}

int fh_usage_saw(struct fh_keydb *db, const char *model, uint64_t nr, struct fh_err *err)
{
	return fh_usage_run(db, "UPDATE usage_mark SET entries = ?2 WHERE model = ?1 AND entries < ?2", model, nr, err);
}

/* ---- two become one ---- */

/* Those that have used more than the log says. */
static const char *const find_ahead[] = {
	"DROP TABLE IF EXISTS temp.ahead",
	"CREATE TEMP TABLE ahead(kind TEXT, name TEXT, saved INTEGER, logged INTEGER,"
	" PRIMARY KEY(kind, name)) WITHOUT ROWID",
	"INSERT INTO temp.ahead SELECT u.kind, u.name, u.tokens, ifnull(b.tokens, 0) FROM usage u"
	" LEFT JOIN usage_base b ON b.model = u.model AND b.kind = u.kind AND b.name = u.name AND b.span = u.span"
	" WHERE u.model = ?1 AND u.span = 3"
	" AND (u.tokens > ifnull(b.tokens, 0) OR u.money > ifnull(b.money, 0) OR u.requests > ifnull(b.requests, 0))",
};

static int tell_ahead(struct fh_keydb *db, const char *model, struct fh_recount *out, struct fh_err *err)
{
	sqlite3_stmt *st;
	int rc = prepare(db, "SELECT count(*) FROM usage_open WHERE model = ?1", model, &st, err);

	if (rc)
		return rc;
	if (sqlite3_step(st) == SQLITE_ROW)
		out->nr_open += (uint64_t)sqlite3_column_int64(st, 0);
	sqlite3_finalize(st);
	if (sqlite3_prepare_v2(fh_keydb_handle(db),
			       "SELECT count(*) OVER (), kind || ' ' || name, saved, logged FROM temp.ahead"
			       " ORDER BY saved - logged DESC LIMIT 1",
			       -1, &st, NULL) != SQLITE_OK)
		return fh_keydb_fail(db, err);
	if (sqlite3_step(st) == SQLITE_ROW) {
		out->nr_ahead = (uint64_t)sqlite3_column_int64(st, 0);
		snprintf(out->ahead, sizeof(out->ahead), "%s", (const char *)sqlite3_column_text(st, 1) ?: "");
		out->saved = (uint64_t)sqlite3_column_int64(st, 2);
		out->logged = (uint64_t)sqlite3_column_int64(st, 3);
	}
	sqlite3_finalize(st);
	return 0;
}

/* Spans that end beyond the present one were begun by a clock that was ahead: they become the present one. */
static int to_the_present(struct fh_keydb *db, const char *model, uint64_t now_s, struct fh_err *err)
{
	static const char *const sql[] = {
		"DELETE FROM usage AS u WHERE model = ?1 AND span = ?3 AND ends > ?2 AND"
		" EXISTS(SELECT 1 FROM usage_base b WHERE b.model = ?1 AND b.kind = u.kind AND b.name = u.name"
		"  AND b.span = ?3 AND b.ends = ?2)"
		" AND NOT EXISTS(SELECT 1 FROM temp.ahead a WHERE a.kind = u.kind AND a.name = u.name)",
		"UPDATE usage SET ends = ?2 WHERE model = ?1 AND span = ?3 AND ends > ?2",
		"UPDATE usage_base SET ends = ?2 WHERE model = ?1 AND span = ?3 AND ends > ?2",
	};
	int rc = 0;

	for (int i = 0; i < 3 * FH_SPAN_TOTAL && !rc; i++) {
		int span = i % FH_SPAN_TOTAL;
		sqlite3_stmt *st;

		rc = prepare(db, sql[i / FH_SPAN_TOTAL], model, &st, err);
		if (rc)
			break;
		sqlite3_bind_int64(st, 2, (int64_t)fh_span_end((enum fh_budget_span)span, now_s));
		sqlite3_bind_int(st, 3, span);
		rc = finish(db, st, err);
	}
	return rc;
}

/* Of equal spans the larger, else the later. */
static const char take_usage[] =
	"INSERT INTO usage SELECT * FROM usage_base WHERE model = ?1 ON CONFLICT(model, kind, name, span) DO UPDATE SET"
	" tokens = max(excluded.tokens, CASE WHEN ends = excluded.ends THEN tokens ELSE 0 END),"
	" money = max(excluded.money, CASE WHEN ends = excluded.ends THEN money ELSE 0 END),"
	" requests = max(excluded.requests, CASE WHEN ends = excluded.ends THEN requests ELSE 0 END),"
	" ends = excluded.ends WHERE excluded.ends >= ends";

#define AHEAD "EXISTS(SELECT 1 FROM temp.ahead a WHERE a.kind = r.kind AND a.name = r.name)"
/* Less what hours has beyond the log; of those who are ahead of it only where it has less. */
#define LESS(column)                                                                                                   \
	column " = max(0, hours." column " - CASE WHEN " AHEAD " THEN min(r." column ", 0) ELSE r." column " END)"
static const char *const take_hours[] = {
	"INSERT OR IGNORE INTO hours SELECT hour, model, kind, name, 0, 0, 0, 0, 0 FROM hours_run WHERE model = ?1",
	"UPDATE hours SET " LESS("prompt") ", " LESS("cached") ", " LESS("completion") ", " LESS("money") ", " LESS(
		"requests") " FROM hours_run r WHERE hours.model = ?1 AND r.model = ?1 AND r.hour = hours.hour AND"
			    " r.kind = hours.kind AND r.name = hours.name",
	("DELETE FROM hours WHERE model = ?1 AND prompt = 0 AND cached = 0 AND completion = 0 AND money = 0"
	 " AND requests = 0 AND (hour, kind, name) IN (SELECT hour, kind, name FROM hours_run WHERE model = ?1)"),
	/* Thoughts likewise; where an outcome did not say how many there were, no fewer than there are. */
	"INSERT OR IGNORE INTO measured SELECT hour, model, kind, name, 0, 0, 0 FROM thoughts_run WHERE model = ?1"
	" AND reasoning < 0",
	"UPDATE measured SET reasoning = max(0, measured.reasoning - CASE WHEN r.vague > 0 OR " AHEAD
	" THEN min(r.reasoning, 0) ELSE r.reasoning END) FROM thoughts_run r WHERE measured.model = ?1 AND r.model = ?1"
	" AND r.hour = measured.hour AND r.kind = measured.kind AND r.name = measured.name",
	"DROP TABLE temp.ahead",
};

static int become_one(struct fh_keydb *db, const struct fh_reader *r, const char *model, uint64_t now_s, struct mark *m,
		      struct fh_recount *out, struct fh_err *err)
{
	int rc = read_mark(db, r, model, m, err);

	if (!rc)
		rc = run_all(db, find_ahead, 2, NULL, err);
	if (!rc)
		rc = fh_usage_run(db, find_ahead[2], model, 0, err);
	if (!rc)
		rc = tell_ahead(db, model, out, err);
	if (!rc)
		rc = to_the_present(db, model, now_s, err);
	if (!rc)
		rc = fh_usage_run(db, take_usage, model, 0, err);
	/* Whoever changed the tables behind our back has not said so in hours_run. */
	if (!rc)
		rc = out->changed ? fh_usage_exec(db, "DROP TABLE temp.ahead", err)
				  : RUN_ALL(db, take_hours, model, err);
	return rc ? rc : base_is_now(db, r, model, m, err);
}

/* ---- a server's life ---- */

/* What is the base, and is the log the one that it is of? */
static int look(struct fh_keydb *db, struct fh_reader *r, const char *model, struct mark *m, struct fh_recount *out,
		struct fh_err *err)
{
	int64_t sum = 0;
	int rc = read_mark(db, r, model, m, err);

	if (!rc && (!m->there || !m->same_log || m->base > r->cp.size || m->entries > r->cp.size))
		return meet(db, r, model, m, out, err);
	if (!rc)
		rc = digest(db, model, &sum, err);
	out->recounted = !m->closed || m->sum != sum;
	out->changed = m->closed && m->sum != sum;
	m->closed = false;
	return rc ? rc : write_mark(db, r, model, m, err);
}

int fh_usage_open(struct fh_keydb *db, struct fh_reader *r, const char *model, uint64_t now_s,
		  void (*progress)(void *ctx, uint64_t nr, uint64_t of), void *ctx, struct fh_recount *out,
		  struct fh_err *err)
{
	struct mark m = {0};
	int rc = fh_usage_exec(db, "BEGIN IMMEDIATE", err);

	*out = (struct fh_recount){0};
	if (rc)
		return rc;
	rc = fh_usage_tables(db, err);
	if (!rc)
		rc = r ? look(db, r, model, &m, out, err) : fh_usage_drop_mark(db, model, err);
	rc = fh_usage_end(db, rc, err);
	if (rc || !r)
		return rc;
	out->from = m.base;
	/* A step at a time: who is stopped in between goes on from there. */
	while (m.base < r->cp.size) {
		rc = fh_usage_advance(db, r, model, now_s, STEP, &m.base, out, err);
		if (rc)
			return rc;
		if (progress)
			progress(ctx, m.base, r->cp.size);
	}
	rc = fh_usage_exec(db, "BEGIN IMMEDIATE", err);
	if (rc)
		return rc;
	rc = become_one(db, r, model, now_s, &m, out, err);
	return fh_usage_end(db, rc, err);
}

int fh_usage_close(struct fh_keydb *db, struct fh_reader *r, const char *model, uint64_t now_s, struct fh_err *err)
{
	struct fh_recount out = {0};
	struct mark m = {0};
	int rc;

	do {
		rc = fh_usage_advance(db, r, model, now_s, STEP, &m.base, &out, err);
		if (rc)
			return rc;
	} while (m.base < r->cp.size);
	rc = fh_usage_exec(db, "BEGIN IMMEDIATE", err);
	if (rc)
		return rc;
	rc = become_one(db, r, model, now_s, &m, &out, err);
	m.closed = true;
	if (!rc)
		rc = digest(db, model, &m.sum, err);
	if (!rc)
		rc = write_mark(db, r, model, &m, err);
	return fh_usage_end(db, rc, err);
}
