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

static const char temp_sql[] =
	"CREATE TEMP TABLE new_models(model TEXT PRIMARY KEY) WITHOUT ROWID;"
	"CREATE TEMP TABLE new_usage(model TEXT, kind TEXT, name TEXT, span INTEGER, ends INTEGER, tokens INTEGER,"
	"  money INTEGER, requests INTEGER, PRIMARY KEY(model, kind, name, span)) WITHOUT ROWID;"
	"CREATE TEMP TABLE new_hours(hour INTEGER, model TEXT, kind TEXT, name TEXT, prompt INTEGER, cached INTEGER,"
	"  completion INTEGER, money INTEGER, requests INTEGER, PRIMARY KEY(hour, model, kind, name)) WITHOUT ROWID;";
static const char drop_sql[] = "DROP TABLE IF EXISTS temp.new_models; DROP TABLE IF EXISTS temp.new_usage;"
			       "DROP TABLE IF EXISTS temp.new_hours;";

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

static int tell_diffs(struct fh_keydb *db, const char *sql, bool hours, const struct fh_usage_rebuild *how,
		      struct fh_err *err)
{
	static const char *const whats[2][5] = {{"tokens", "money", "requests"},
						{"prompt", "cached", "completion", "money", "requests"}};
	static const char *const whens[] = {"this minute", "this day", "this month", ""};
	struct fh_usage_diff d = {0};
	sqlite3_stmt *st;
	int step;

	if (sqlite3_prepare_v2(fh_keydb_handle(db), sql, -1, &st, NULL) != SQLITE_OK)
		return fh_keydb_fail(db, err);
	if (!hours)
		sqlite3_bind_int64(st, 1, (int64_t)how->now_s);
	while ((step = sqlite3_step(st)) == SQLITE_ROW) {
		int64_t at = sqlite3_column_int64(st, 3);

		d.model = (const char *)sqlite3_column_text(st, 0);
		d.kind = (const char *)sqlite3_column_text(st, 1);
		d.name = (const char *)sqlite3_column_text(st, 2);
		d.when = hours ? NULL : at >= 0 && at < FH_NR_SPANS ? whens[at] : "a span that is none";
		d.hour_s = hours ? (uint64_t)at : 0;
		for (int i = 0; i < 5 && whats[hours][i]; i++) {
			d.what = whats[hours][i];
			d.was = (uint64_t)sqlite3_column_int64(st, 4 + 2 * i);
			d.is = (uint64_t)sqlite3_column_int64(st, 5 + 2 * i);
			if (d.was != d.is && d.model && d.kind && d.name)
				how->diff(how->ctx, &d);
		}
	}
	sqlite3_finalize(st);
	return step == SQLITE_DONE ? 0 : fh_keydb_fail(db, err);
}

/* ---- in the place of the other ---- */

static const char swap_sql[] =
	"DELETE FROM usage WHERE model IN temp.new_models; INSERT INTO usage SELECT * FROM temp.new_usage;"
	"DELETE FROM hours WHERE model IN temp.new_models; INSERT INTO hours SELECT * FROM temp.new_hours;"
	/* The next server takes them as they are. */
	"DELETE FROM usage_mark WHERE model IN temp.new_models; DELETE FROM usage_base WHERE model IN temp.new_models;"
	"DELETE FROM usage_open WHERE model IN temp.new_models; DELETE FROM hours_run WHERE model IN temp.new_models;";

static int compare(struct fh_keydb *db, const struct fh_usage_rebuild *how, struct fh_err *err)
{
	int rc = fh_usage_exec(db, how->check ? "BEGIN" : "BEGIN IMMEDIATE", err);

	if (rc)
		return rc;
	rc = tell_diffs(db, usage_diff_sql, false, how, err);
	if (!rc)
		rc = tell_diffs(db, hours_diff_sql, true, how, err);
	if (!rc && !how->check)
		rc = fh_usage_tables(db, err);
	if (!rc && !how->check)
		rc = fh_usage_exec(db, swap_sql, err);
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
