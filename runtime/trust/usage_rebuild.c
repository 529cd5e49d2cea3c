// SPDX-License-Identifier: Apache-2.0
/*
 * The tables of usage as logs say, from the beginning.
 *
 * Counted into temporary tables, which nobody waits for; the database itself is read in one snapshot, and
 * locked only to put the one in the place of the other.
 */
#include "runtime/trust/recount.h"

#include <errno.h>
#include <inttypes.h>
#include <sqlite3.h>
#include <string.h>

#include "runtime/base/budget.h"
#include "runtime/trust/runs.h"

static const char temp_sql[] =
	"CREATE TEMP TABLE new_models(model TEXT PRIMARY KEY) WITHOUT ROWID;"
	"CREATE TEMP TABLE new_usage(model TEXT, kind TEXT, name TEXT, span INTEGER, ends INTEGER, tokens INTEGER,"
	"  money INTEGER, requests INTEGER, PRIMARY KEY(model, kind, name, span)) WITHOUT ROWID;"
	"CREATE TEMP TABLE new_hours(hour INTEGER, model TEXT, kind TEXT, name TEXT, prompt INTEGER, cached INTEGER,"
	"  completion INTEGER, money INTEGER, requests INTEGER, PRIMARY KEY(hour, model, kind, name)) WITHOUT ROWID;"
	"CREATE TEMP TABLE new_thoughts(hour INTEGER, model TEXT, kind TEXT, name TEXT, reasoning INTEGER, vague "
	"INTEGER,"
	"  PRIMARY KEY(hour, model, kind, name)) WITHOUT ROWID;"
	/* As runs; but uj: outcomes that did not say how much of them was thoughts. */
	"CREATE TEMP TABLE new_runs(model TEXT, tenant TEXT, run TEXT, first INTEGER, last INTEGER, depth INTEGER,"
	"  requests INTEGER, prompt INTEGER, cached INTEGER, completion INTEGER, reasoning INTEGER, money INTEGER,"
	"  uj INTEGER, PRIMARY KEY(model, tenant, run)) WITHOUT ROWID;"
	/* Tenants that have as many rows of runs as are kept, or more, so that some may be missing. */
	"CREATE TEMP TABLE full_runs(model TEXT, tenant TEXT, PRIMARY KEY(model, tenant)) WITHOUT ROWID;";
static const char drop_sql[] = "DROP TABLE IF EXISTS temp.new_models; DROP TABLE IF EXISTS temp.new_usage;"
			       "DROP TABLE IF EXISTS temp.new_hours; DROP TABLE IF EXISTS temp.new_thoughts;"
			       "DROP TABLE IF EXISTS temp.new_runs; DROP TABLE IF EXISTS temp.full_runs;";

static int note_model(void *ctx, const char *model, struct fh_err *err)
{
	return fh_usage_run(ctx, "INSERT OR IGNORE INTO temp.new_models VALUES(?1)", model, 0, err);
}

static int count(struct fh_keydb *db, struct fh_reader *r, uint32_t nr, const struct fh_usage_rebuild *how,
		 struct fh_recount *out, struct fh_err *err)
{
	int rc = fh_usage_exec(db, drop_sql, err);

	if (!rc)
		rc = fh_usage_exec(db, temp_sql, err);
	if (!rc)
		rc = fh_usage_exec(db, "BEGIN", err); /* of temporary tables alone: nobody is shut out */
	if (rc)
		return rc;
	for (uint32_t i = 0; i < nr && !rc; i++) {
		struct fh_recount_job job = {.to = r[i].cp.size,
					     .now_s = how->now_s,
					     .usage = "temp.new_usage",
					     .hours = "temp.new_hours",
					     .thoughts = "temp.new_thoughts",
					     .runs = "temp.new_runs",
					     .met = note_model,
					     .ctx = db};

		rc = fh_recount_log(db, &r[i], &job, out, err);
	}
	return fh_usage_end(db, rc, err);
}

/* ---- what differs ---- */

/* Of the spans that have not ended, and the total. */
static const char usage_diff_sql[] =
	"WITH old AS (SELECT * FROM usage WHERE model IN temp.new_models AND (ends < 0 OR ends > ?1)),"
	" new AS (SELECT * FROM temp.new_usage WHERE ends < 0 OR ends > ?1)"
	" SELECT k.model, k.kind, k.name, k.span, ifnull(o.tokens, 0), ifnull(n.tokens, 0), ifnull(o.money, 0),"
	" ifnull(n.money, 0), ifnull(o.requests, 0), ifnull(n.requests, 0) FROM"
	" (SELECT model, kind, name, span, ends FROM old UNION SELECT model, kind, name, span, ends FROM new) k"
	" LEFT JOIN old o USING(model, kind, name, span, ends) LEFT JOIN new n USING(model, kind, name, span, ends)"
	" ORDER BY k.model, k.kind, k.name, k.span DESC";
static const char hours_diff_sql[] =
	"WITH old AS (SELECT * FROM hours WHERE model IN temp.new_models)"
	" SELECT k.model, k.kind, k.name, k.hour, ifnull(o.prompt, 0), ifnull(n.prompt, 0), ifnull(o.cached, 0),"
	" ifnull(n.cached, 0), ifnull(o.completion, 0), ifnull(n.completion, 0), ifnull(o.money, 0),"
	" ifnull(n.money, 0), ifnull(o.requests, 0), ifnull(n.requests, 0) FROM"
	" (SELECT model, kind, name, hour FROM old UNION SELECT model, kind, name, hour FROM temp.new_hours) k"
	" LEFT JOIN old o USING(model, kind, name, hour) LEFT JOIN temp.new_hours n USING(model, kind, name, hour)"
	" ORDER BY k.model, k.kind, k.name, k.hour";

/* Of hours of which all outcomes said how much of them was thoughts. */
static const char thoughts_diff_sql[] =
	"WITH old AS (SELECT * FROM measured WHERE reasoning > 0 AND model IN temp.new_models)"
	" SELECT k.model, k.kind, k.name, k.hour, ifnull(o.reasoning, 0), ifnull(n.reasoning, 0) FROM"
	" (SELECT model, kind, name, hour FROM old UNION SELECT model, kind, name, hour FROM temp.new_thoughts) k"
	" LEFT JOIN old o USING(model, kind, name, hour) LEFT JOIN temp.new_thoughts n USING(model, kind, name, hour)"
	" WHERE ifnull(n.vague, 0) = 0 ORDER BY k.model, k.kind, k.name, k.hour";

/* A row that is missing was taken away if it is old, or if its tenant has so many. */
static const char full_runs_sql[] =
	"INSERT INTO temp.full_runs SELECT model, tenant FROM runs WHERE run <> '' GROUP BY model, tenant"
	" HAVING count(*) >= ?2 UNION SELECT model, tenant FROM temp.new_runs GROUP BY model, tenant"
	" HAVING count(*) - 1 >= ?2";
static const char runs_diff_sql[] =
	"WITH old AS (SELECT * FROM runs WHERE model IN temp.new_models)"
	" SELECT k.model, 'run', k.tenant || CASE k.run WHEN '' THEN '' ELSE '/' || k.run END, 3,"
	" ifnull(o.requests, 0), ifnull(n.requests, 0), ifnull(o.prompt, 0), ifnull(n.prompt, 0),"
	" ifnull(o.cached, 0), ifnull(n.cached, 0), ifnull(o.completion, 0), ifnull(n.completion, 0),"
	" ifnull(o.money, 0), ifnull(n.money, 0),"
	" ifnull(o.reasoning, 0), CASE WHEN n.uj > 0 THEN ifnull(o.reasoning, 0) ELSE ifnull(n.reasoning, 0) END,"
	" ifnull(o.depth, 0), ifnull(n.depth, 0) FROM"
	" (SELECT model, tenant, run FROM old UNION SELECT model, tenant, run FROM temp.new_runs) k"
	" LEFT JOIN old o USING(model, tenant, run) LEFT JOIN temp.new_runs n USING(model, tenant, run)"
	" WHERE k.run = '' OR ((o.last IS NOT NULL OR n.last >= ?1) AND"
	"  NOT EXISTS(SELECT 1 FROM temp.full_runs f WHERE f.model = k.model AND f.tenant = k.tenant))"
	" ORDER BY k.model, k.tenant, k.run";

/* A query of differences: model, kind, name, a span or an hour, then of each number what it was and what it is. */
enum { USAGE, HOURS, THOUGHTS, RUNS };
static const struct diff {
	const char *sql;
	bool hours;
	const char *whats[8];
} diffs[] = {
	[USAGE] = {usage_diff_sql, false, {"tokens", "money", "requests"}},
	[HOURS] = {hours_diff_sql, true, {"prompt", "cached", "completion", "money", "requests"}},
	[THOUGHTS] = {thoughts_diff_sql, true, {"reasoning"}},
	[RUNS] = {runs_diff_sql, false, {"requests", "prompt", "cached", "completion", "money", "reasoning", "depth"}},
};

/* @since: ?1 of it, if it has one. */
static int tell_diffs(struct fh_keydb *db, const struct diff *q, uint64_t since, const struct fh_usage_rebuild *how,
		      struct fh_err *err)
{
	static const char *const whens[] = {"this minute", "this day", "this month", ""};
	struct fh_usage_diff d = {0};
	sqlite3_stmt *st;
	int step;

	if (sqlite3_prepare_v2(fh_keydb_handle(db), q->sql, -1, &st, NULL) != SQLITE_OK)
		return fh_keydb_fail(db, err);
	if (sqlite3_bind_parameter_count(st))
		sqlite3_bind_int64(st, 1, (int64_t)since);
	while ((step = sqlite3_step(st)) == SQLITE_ROW) {
		int64_t at = sqlite3_column_int64(st, 3);

		d.model = (const char *)sqlite3_column_text(st, 0);
		d.kind = (const char *)sqlite3_column_text(st, 1);
		d.name = (const char *)sqlite3_column_text(st, 2);
		d.when = q->hours ? NULL : at >= 0 && at < FH_NR_SPANS ? whens[at] : "a span that is none";
		d.hour_s = q->hours ? (uint64_t)at : 0;
		for (int i = 0; q->whats[i]; i++) {
			d.what = q->whats[i];
			d.was = (uint64_t)sqlite3_column_int64(st, 4 + 2 * i);
			d.is = (uint64_t)sqlite3_column_int64(st, 5 + 2 * i);
			if (d.was != d.is && d.model && d.kind && d.name)
				how->diff(how->ctx, &d);
		}
	}
	sqlite3_finalize(st);
	return step == SQLITE_DONE ? 0 : fh_keydb_fail(db, err);
}

static int tell_run_diffs(struct fh_keydb *db, const struct fh_usage_rebuild *how, struct fh_err *err)
{
	struct fh_run_keep keep;
	uint64_t kept_s;
	int rc = fh_runs_get_keep(db, &keep, err);

	if (rc)
		return rc;
	kept_s = (uint64_t)keep.days * 86400;
	rc = fh_usage_run(db, full_runs_sql, NULL, keep.rows, err);
	return rc ? rc
		  : tell_diffs(db, &diffs[RUNS], kept_s && kept_s < how->now_s ? how->now_s - kept_s : 0, how, err);
}

/* ---- in the place of the other ---- */

static const char swap_sql[] =
	"DELETE FROM usage WHERE model IN temp.new_models; INSERT INTO usage SELECT * FROM temp.new_usage;"
	"DELETE FROM hours WHERE model IN temp.new_models; INSERT INTO hours SELECT * FROM temp.new_hours;"
	/* What stands beside them and no log has stays, and thoughts where outcomes did not say how many there were. */
	"UPDATE measured SET reasoning = 0 WHERE model IN temp.new_models AND NOT EXISTS(SELECT 1 FROM"
	"  temp.new_thoughts n WHERE n.vague > 0 AND n.hour = measured.hour AND n.model = measured.model"
	"  AND n.kind = measured.kind AND n.name = measured.name);"
	"INSERT INTO measured SELECT hour, model, kind, name, 0, 0, reasoning FROM temp.new_thoughts WHERE reasoning > "
	"0"
	"  ON CONFLICT(hour, model, kind, name) DO UPDATE SET reasoning = max(reasoning, excluded.reasoning);"
	"UPDATE temp.new_runs SET reasoning = max(reasoning, ifnull((SELECT o.reasoning FROM runs o WHERE"
	"  o.model = new_runs.model AND o.tenant = new_runs.tenant AND o.run = new_runs.run), 0)) WHERE uj > 0;"
	"UPDATE temp.new_runs SET uj = ifnull((SELECT o.uj FROM runs o WHERE o.model = new_runs.model"
	"  AND o.tenant = new_runs.tenant AND o.run = new_runs.run), 0);"
	/* Joules are in no log: they stay where it has no outcome of the run. */
	"INSERT OR IGNORE INTO temp.new_runs SELECT model, tenant, run, first, last, 0, 0, 0, 0, 0, 0, 0, uj FROM runs"
	"  WHERE uj > 0 AND model IN temp.new_models;"
	"DELETE FROM runs WHERE model IN temp.new_models; INSERT INTO runs SELECT * FROM temp.new_runs;"
	/* The next server takes them as they are. */
	"DELETE FROM usage_mark WHERE model IN temp.new_models; DELETE FROM usage_base WHERE model IN temp.new_models;"
	"DELETE FROM usage_open WHERE model IN temp.new_models; DELETE FROM hours_run WHERE model IN temp.new_models;"
	"DELETE FROM usage_open_run WHERE model IN temp.new_models;"
	"DELETE FROM thoughts_run WHERE model IN temp.new_models; DELETE FROM runs_since WHERE model IN "
	"temp.new_models;";

static int swap(struct fh_keydb *db, const struct fh_usage_rebuild *how, struct fh_err *err)
{
	struct fh_run_keep keep;
	int rc = fh_usage_exec(db, swap_sql, err);

	if (!rc)
		rc = fh_runs_get_keep(db, &keep, err);
	if (!rc)
		rc = fh_runs_trim(db, "runs", NULL, NULL, keep.rows, err);
	return rc ? rc : fh_runs_expire(db, NULL, keep.days, how->now_s, err);
}

static int compare(struct fh_keydb *db, const struct fh_usage_rebuild *how, struct fh_err *err)
{
	int rc = fh_usage_exec(db, how->check ? "BEGIN" : "BEGIN IMMEDIATE", err);

	if (rc)
		return rc;
	/* A database of a version that had none of them has none to compare; nothing is left of them after a check. */
	rc = fh_usage_tables(db, err);
	if (!rc)
		rc = tell_diffs(db, &diffs[USAGE], how->now_s, how, err);
	if (!rc)
		rc = tell_diffs(db, &diffs[HOURS], 0, how, err);
	if (!rc)
		rc = tell_diffs(db, &diffs[THOUGHTS], 0, how, err);
	if (!rc)
		rc = tell_run_diffs(db, how, err);
	if (!rc && how->check) {
		sqlite3_exec(fh_keydb_handle(db), "ROLLBACK", NULL, NULL, NULL);
		return 0;
	}
	if (!rc)
		rc = swap(db, how, err);
	return fh_usage_end(db, rc, err);
}

int fh_usage_rebuild(struct fh_keydb *db, struct fh_reader *r, uint32_t nr, const struct fh_usage_rebuild *how,
		     struct fh_recount *out, struct fh_err *err)
{
	int rc;

	*out = (struct fh_recount){.recounted = true};
	for (uint32_t i = 0; i < nr; i++)
		for (uint32_t k = 0; k < i; k++)
			if (!memcmp(r[i].key.pub, r[k].key.pub, sizeof(r[i].key.pub)))
				return fh_errf(err, -EEXIST, "%s is named twice, or a copy of it: it would count twice",
					       r[i].cp.origin);
	rc = count(db, r, nr, how, out, err);
	if (!rc && out->nr_old && !how->check && !how->force)
		rc = fh_errf(err, -EOPNOTSUPP,
			     "%" PRIu64
			     " outcomes are of a version that did not log what was paid, so what they used is "
			     "in the database alone and would be forgotten; --force does it all the same",
			     out->nr_old);
	if (!rc)
		rc = compare(db, how, err);
	if (fh_usage_exec(db, drop_sql, rc ? NULL : err) && !rc)
		rc = -EIO;
	return rc;
}
