// SPDX-License-Identifier: Apache-2.0
/*
 * Usage and the audit log: the mark that says how far the tables are the log's
 * sum, and the base from which they can be made again.
 *
 *   usage_log             a row a model: the log's origin; `base`, the entries that usage_base and hours_base are the
 *                         sum of; `since`, from which hour on hours_base has a copy; `entries` and `sum`, once it is
 *                         closed: the entries that the tables are the sum of, and what the tables had then
 *   usage_base, hours_base  as usage and hours
 */
#include "runtime/trust/recount.h"

#include <errno.h>
#include <sqlite3.h>
#include <stdio.h>
#include <string.h>

#define KEPT_S 86400 /* hours before the start that the base has: clocks are set back, too */

static const char tables[] =
	"CREATE TABLE IF NOT EXISTS usage_log(model TEXT PRIMARY KEY, origin TEXT NOT NULL, base INTEGER NOT NULL,"
	"  since INTEGER NOT NULL, entries INTEGER NOT NULL, closed INTEGER NOT NULL, sum INTEGER NOT NULL) WITHOUT "
	"ROWID;"
	"CREATE TABLE IF NOT EXISTS usage_base(model TEXT NOT NULL, kind TEXT NOT NULL, name TEXT NOT NULL,"
	"  span INTEGER NOT NULL, ends INTEGER NOT NULL, tokens INTEGER NOT NULL, money INTEGER NOT NULL,"
	"  requests INTEGER NOT NULL, PRIMARY KEY(model, kind, name, span)) WITHOUT ROWID;"
	"CREATE TABLE IF NOT EXISTS hours_base(hour INTEGER NOT NULL, model TEXT NOT NULL, kind TEXT NOT NULL,"
	"  name TEXT NOT NULL, prompt INTEGER NOT NULL, cached INTEGER NOT NULL, completion INTEGER NOT NULL,"
	"  money INTEGER NOT NULL, requests INTEGER NOT NULL, PRIMARY KEY(hour, model, kind, name)) WITHOUT ROWID;";

struct mark {
	bool there, same_log, closed;
	uint64_t base, since, entries;
	int64_t sum;
};

static int exec(struct fh_keydb *db, const char *sql, struct fh_err *err)
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

/* A statement about @model (?1) and a number (?2), to its end. */
static int run(struct fh_keydb *db, const char *sql, const char *model, uint64_t v, struct fh_err *err)
{
	sqlite3_stmt *st;
	int rc = prepare(db, sql, model, &st, err);

	if (rc)
		return rc;
	if (sqlite3_bind_parameter_count(st) > 1)
		sqlite3_bind_int64(st, 2, (int64_t)v);
	if (sqlite3_step(st) != SQLITE_DONE)
		rc = fh_keydb_fail(db, err);
	sqlite3_finalize(st);
	return rc;
}

static int ask(struct fh_keydb *db, const char *sql, const char *model, int64_t *out, struct fh_err *err)
{
	sqlite3_stmt *st;
	int rc = prepare(db, sql, model, &st, err);

	if (rc)
		return rc;
	if (sqlite3_step(st) == SQLITE_ROW)
		*out = sqlite3_column_int64(st, 0);
	else
		rc = fh_keydb_fail(db, err);
	sqlite3_finalize(st);
	return rc;
}

/* Commit, or undo when @rc says that something went wrong. */
static int end(struct fh_keydb *db, int rc, struct fh_err *err)
{
	if (!rc)
		rc = exec(db, "COMMIT", err);
	if (rc)
		sqlite3_exec(fh_keydb_handle(db), "ROLLBACK", NULL, NULL, NULL);
	return rc;
}

/* ---- the mark ---- */

/* So that rows which somebody took away or added are missed. */
static const char sum_sql[] = "SELECT (SELECT count(*) + ifnull(sum(tokens), 0) + ifnull(sum(requests), 0) FROM usage"
			      "  WHERE model = ?1 AND span = 3) + (SELECT count(*) FROM hours WHERE model = ?1)";

static int read_mark(struct fh_keydb *db, const struct fh_reader *r, const char *model, struct mark *m,
		     struct fh_err *err)
{
	const char *origin;
	sqlite3_stmt *st;
	int rc = prepare(db, "SELECT origin, base, since, entries, closed, sum FROM usage_log WHERE model = ?1", model,
			 &st, err),
	    step;

	*m = (struct mark){0};
	if (rc)
		return rc;
	step = sqlite3_step(st);
	if (step == SQLITE_ROW) {
		origin = (const char *)sqlite3_column_text(st, 0);
		m->there = true;
		m->same_log = r && origin && !strcmp(origin, r->cp.origin);
		m->base = (uint64_t)sqlite3_column_int64(st, 1);
		m->since = (uint64_t)sqlite3_column_int64(st, 2);
		m->entries = (uint64_t)sqlite3_column_int64(st, 3);
		m->closed = sqlite3_column_int(st, 4);
		m->sum = sqlite3_column_int64(st, 5);
	} else if (step != SQLITE_DONE) {
		rc = fh_keydb_fail(db, err);
	}
	sqlite3_finalize(st);
	return rc;
}

static int drop_base(struct fh_keydb *db, const char *model, struct fh_err *err)
{
	int rc = run(db, "DELETE FROM usage_base WHERE model = ?1", model, 0, err);

	return rc ? rc : run(db, "DELETE FROM hours_base WHERE model = ?1", model, 0, err);
}

/* The tables as they are now are the base, of all of @r; from here on they run ahead of it. */
static int open_mark(struct fh_keydb *db, const struct fh_reader *r, const char *model, uint64_t now_s,
		     struct fh_err *err)
{
	uint64_t since = now_s - now_s % 3600 - KEPT_S;
	sqlite3_stmt *st;
	int rc = drop_base(db, model, err);

	if (!rc)
		rc = run(db, "INSERT INTO usage_base SELECT * FROM usage WHERE model = ?1", model, 0, err);
	if (!rc)
		rc = run(db, "INSERT INTO hours_base SELECT * FROM hours WHERE model = ?1 AND hour >= ?2", model, since,
			 err);
	if (!rc)
		rc = prepare(db, "INSERT OR REPLACE INTO usage_log VALUES(?1, ?2, ?3, ?4, ?3, 0, 0)", model, &st, err);
	if (rc)
		return rc;
	sqlite3_bind_text(st, 2, r->cp.origin, -1, SQLITE_STATIC);
	sqlite3_bind_int64(st, 3, (int64_t)r->cp.size);
	sqlite3_bind_int64(st, 4, (int64_t)since);
	if (sqlite3_step(st) != SQLITE_DONE)
		rc = fh_keydb_fail(db, err);
	sqlite3_finalize(st);
	return rc;
}

static int drop_mark(struct fh_keydb *db, const char *model, struct fh_err *err)
{
	int rc = drop_base(db, model, err);

	return rc ? rc : run(db, "DELETE FROM usage_log WHERE model = ?1", model, 0, err);
}

/* The tables as they were at the mark's base. */
static int take_base(struct fh_keydb *db, const char *model, const struct mark *m, struct fh_err *err)
{
	int rc = run(db, "DELETE FROM usage WHERE model = ?1", model, 0, err);

	if (!rc)
		rc = run(db, "INSERT INTO usage SELECT * FROM usage_base WHERE model = ?1", model, 0, err);
	if (!rc)
		rc = run(db, "DELETE FROM hours WHERE model = ?1 AND hour >= ?2", model, m->since, err);
	if (!rc)
		rc = run(db, "INSERT OR REPLACE INTO hours SELECT * FROM hours_base WHERE model = ?1", model, 0, err);
	return rc;
}

/* The first time that this log is met, or another than before. Where there is usage, it is that of the time before. */
static int meet(struct fh_keydb *db, const struct fh_reader *r, const char *model, const struct mark *m,
		struct fh_recount *out, struct fh_err *err)
{
	int64_t rows = 0;
	int rc = ask(db, "SELECT count(*) FROM usage WHERE model = ?1", model, &rows, err);

	if (rc)
		return rc;
	out->strange = m->there && (m->same_log || !m->closed);
	out->from = rows ? r->cp.size : 0;
	out->recounted = !rows;
	return rows ? 0 : run(db, "DELETE FROM hours WHERE model = ?1", model, 0, err);
}

static int reconcile(struct fh_keydb *db, struct fh_reader *r, const char *model, struct fh_recount *out,
		     struct fh_err *err)
{
	struct mark m;
	int64_t sum = 0;
	int rc = read_mark(db, r, model, &m, err);

	if (!rc)
		rc = ask(db, sum_sql, model, &sum, err);
	if (rc)
		return rc;
	if (!m.there || !m.same_log || m.base > r->cp.size || m.entries > r->cp.size) {
		rc = meet(db, r, model, &m, out, err);
	} else if (m.closed && m.sum == sum) {
		out->from = m.entries;
	} else {
		out->from = m.base;
		out->recounted = true;
		rc = take_base(db, model, &m, err);
	}
	return rc ? rc : fh_recount_log(db, r, out->from, model, out, err);
}

int fh_usage_open(struct fh_keydb *db, struct fh_reader *r, const char *model, uint64_t now_s, struct fh_recount *out,
		  struct fh_err *err)
{
	int rc = exec(db, "BEGIN IMMEDIATE", err);

	*out = (struct fh_recount){0};
	if (rc)
		return rc;
	rc = exec(db, tables, err);
	if (!rc && !r)
		return end(db, drop_mark(db, model, err), err);
	if (!rc)
		rc = reconcile(db, r, model, out, err);
	if (!rc)
		rc = open_mark(db, r, model, now_s, err);
	return end(db, rc, err);
}

int fh_usage_close(struct fh_keydb *db, struct fh_reader *r, const char *model, struct fh_err *err)
{
	int64_t sum = 0;
	struct mark m;
	int rc = exec(db, "BEGIN IMMEDIATE", err);

	if (rc)
		return rc;
	rc = read_mark(db, r, model, &m, err);
	if (!rc && !m.same_log)
		rc = fh_errf(err, -ESTALE, "%s: the usage of %s is not of this log any more", fh_keydb_path(db), model);
	if (!rc)
		rc = ask(db, sum_sql, model, &sum, err);
	if (!rc)
		rc = run(db, "UPDATE usage_log SET closed = 1, entries = ?2 WHERE model = ?1", model, r->cp.size, err);
	if (!rc)
		rc = run(db, "UPDATE usage_log SET sum = ?2 WHERE model = ?1", model, (uint64_t)sum, err);
	return end(db, rc, err);
}

/* ---- all of it anew ---- */

static const char before_sql[] = "CREATE TEMP TABLE was AS SELECT model, kind, name, tokens, money, requests FROM usage"
				 " WHERE span = 3";
static const char diff_sql[] =
	"SELECT k.model, k.kind, k.name, ifnull(w.tokens, 0), ifnull(u.tokens, 0), ifnull(w.money, 0),"
	" ifnull(u.money, 0), ifnull(w.requests, 0), ifnull(u.requests, 0) FROM"
	" (SELECT model, kind, name FROM was UNION SELECT model, kind, name FROM usage WHERE span = 3) k"
	" LEFT JOIN was w USING(model, kind, name)"
	" LEFT JOIN usage u ON u.model = k.model AND u.kind = k.kind AND u.name = k.name AND u.span = 3"
	" ORDER BY 1, 2, 3";

static int tell_diffs(struct fh_keydb *db, void (*fn)(void *ctx, const struct fh_usage_diff *d), void *ctx,
		      struct fh_err *err)
{
	static const char *const whats[] = {"tokens", "money", "requests"};
	struct fh_usage_diff d;
	sqlite3_stmt *st;
	int step;

	if (sqlite3_prepare_v2(fh_keydb_handle(db), diff_sql, -1, &st, NULL) != SQLITE_OK)
		return fh_keydb_fail(db, err);
	while ((step = sqlite3_step(st)) == SQLITE_ROW) {
		d.model = (const char *)sqlite3_column_text(st, 0);
		d.kind = (const char *)sqlite3_column_text(st, 1);
		d.name = (const char *)sqlite3_column_text(st, 2);
		for (int i = 0; i < 3; i++) {
			d.what = whats[i];
			d.was = (uint64_t)sqlite3_column_int64(st, 3 + 2 * i);
			d.is = (uint64_t)sqlite3_column_int64(st, 4 + 2 * i);
			if (d.was != d.is && d.model && d.kind && d.name)
				fn(ctx, &d);
		}
	}
	sqlite3_finalize(st);
	return step == SQLITE_DONE ? 0 : fh_keydb_fail(db, err);
}

/* The models of a log: those of its STARTs. Their usage goes, and their marks are of this log. */
static int clear_models(struct fh_keydb *db, struct fh_reader *r, struct fh_err *err)
{
	struct fh_record_bytes leaf;
	struct fh_record rec;
	char model[FH_RECORD_TEXT_MAX + 1];
	int rc = 0;

	for (uint64_t i = 0; i < r->cp.size && !rc; i++) {
		size_t bad, n;

		if (fh_reader_entry(r, i, &leaf) || fh_record_decode(leaf.p, leaf.n, &rec, &bad))
			return fh_errf(err, -EBADMSG, "entry %llu cannot be read; `freehold audit verify` says more",
				       (unsigned long long)i);
		if (rec.kind != FH_REC_START)
			continue;
		n = rec.str[FH_RS_MODEL - 64].n;
		memcpy(model, rec.str[FH_RS_MODEL - 64].p, n);
		model[n] = 0;
		rc = run(db, "DELETE FROM usage WHERE model = ?1", model, 0, err);
		if (!rc)
			rc = run(db, "DELETE FROM hours WHERE model = ?1", model, 0, err);
		if (!rc)
			rc = drop_mark(db, model, err);
	}
	return rc;
}

int fh_usage_rebuild(struct fh_keydb *db, struct fh_reader *r, uint32_t nr, bool check,
		     void (*diff)(void *ctx, const struct fh_usage_diff *d), void *ctx, struct fh_recount *out,
		     struct fh_err *err)
{
	int rc = exec(db, "BEGIN IMMEDIATE", err);

	*out = (struct fh_recount){.recounted = true};
	if (rc)
		return rc;
	rc = exec(db, tables, err);
	if (!rc)
		rc = exec(db, before_sql, err);
	for (uint32_t i = 0; i < nr && !rc; i++)
		rc = clear_models(db, &r[i], err);
	for (uint32_t i = 0; i < nr && !rc; i++)
		rc = fh_recount_log(db, &r[i], 0, NULL, out, err);
	if (!rc)
		rc = tell_diffs(db, diff, ctx, err);
	if (!rc)
		rc = exec(db, "DROP TABLE was", err);
	if (!rc && check) {
		sqlite3_exec(fh_keydb_handle(db), "ROLLBACK", NULL, NULL, NULL);
		return 0;
	}
	return end(db, rc, err);
}
