// SPDX-License-Identifier: Apache-2.0
/* The table of what was measured. */
#include "runtime/trust/measured.h"

#include <errno.h>
#include <sqlite3.h>

static const char table_sql[] =
	"CREATE TABLE IF NOT EXISTS measured(hour INTEGER NOT NULL, model TEXT NOT NULL, kind TEXT NOT NULL, name "
	"TEXT NOT NULL, uj INTEGER NOT NULL, seconds REAL NOT NULL, reasoning INTEGER NOT NULL,"
	"  PRIMARY KEY(hour, model, kind, name)) WITHOUT ROWID";
static const char add_sql[] =
	"INSERT INTO measured VALUES(?1, ?2, ?3, ?4, ?5, ?6, ?7) ON CONFLICT(hour, model, kind, name) DO UPDATE SET"
	" uj = uj + ?5, seconds = seconds + ?6, reasoning = reasoning + ?7";
static const char each_sql[] = "SELECT hour, model, kind, name, uj, seconds, reasoning FROM measured"
			       " WHERE kind = ?1 AND hour >= ?2 AND hour < ?3 ORDER BY hour, name, model";

static int prepare(struct fh_keydb *db, const char *sql, sqlite3_stmt **st, struct fh_err *err)
{
	return sqlite3_prepare_v2(fh_keydb_handle(db), sql, -1, st, NULL) == SQLITE_OK ? 0 : fh_keydb_fail(db, err);
}

int fh_measured_table(struct fh_keydb *db, struct fh_err *err)
{
	return sqlite3_exec(fh_keydb_handle(db), table_sql, NULL, NULL, NULL) == SQLITE_OK ? 0 : fh_keydb_fail(db, err);
}

int fh_measured_begin(struct fh_keydb *db, sqlite3_stmt **st, struct fh_err *err)
{
	int rc = fh_measured_table(db, err);

	return rc ? rc : prepare(db, add_sql, st, err);
}

int fh_measured_add(struct fh_keydb *db, sqlite3_stmt *st, const struct fh_measured *m, struct fh_err *err)
{
	int rc;

	sqlite3_bind_int64(st, 1, (int64_t)m->hour_s);
	sqlite3_bind_text(st, 2, m->model, -1, SQLITE_STATIC);
	sqlite3_bind_text(st, 3, m->kind, -1, SQLITE_STATIC);
	sqlite3_bind_text(st, 4, m->name, -1, SQLITE_STATIC);
	sqlite3_bind_int64(st, 5, (int64_t)m->uj);
	sqlite3_bind_double(st, 6, m->seconds);
	sqlite3_bind_int64(st, 7, (int64_t)m->reasoning);
	rc = sqlite3_step(st) == SQLITE_DONE ? 0 : fh_keydb_fail(db, err);
	sqlite3_reset(st);
	return rc;
}

/* -ENOENT: there is no such table. */
static int find_table(struct fh_keydb *db, struct fh_err *err)
{
	sqlite3_stmt *st;
	int rc = prepare(db, "SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = 'measured'", &st, err), step;

	if (rc)
		return rc;
	step = sqlite3_step(st);
	rc = step == SQLITE_ROW ? 0 : step == SQLITE_DONE ? -ENOENT : fh_keydb_fail(db, err);
	sqlite3_finalize(st);
	return rc;
}

int fh_measured_each(struct fh_keydb *db, const char *kind, uint64_t from_s, uint64_t to_s,
		     int (*fn)(void *ctx, const struct fh_measured *m), void *ctx, struct fh_err *err)
{
	sqlite3_stmt *st;
	int rc = find_table(db, err), step = SQLITE_DONE;

	if (!rc)
		rc = prepare(db, each_sql, &st, err);
	if (rc)
		return rc == -ENOENT ? 0 : rc;
	sqlite3_bind_text(st, 1, kind, -1, SQLITE_STATIC);
	sqlite3_bind_int64(st, 2, (int64_t)from_s);
	sqlite3_bind_int64(st, 3, to_s < INT64_MAX ? (int64_t)to_s : INT64_MAX);
	while (!rc && (step = sqlite3_step(st)) == SQLITE_ROW) {
		struct fh_measured m = {.hour_s = (uint64_t)sqlite3_column_int64(st, 0),
					.model = (const char *)sqlite3_column_text(st, 1),
					.kind = (const char *)sqlite3_column_text(st, 2),
					.name = (const char *)sqlite3_column_text(st, 3),
					.uj = (uint64_t)sqlite3_column_int64(st, 4),
					.seconds = sqlite3_column_double(st, 5),
					.reasoning = (uint64_t)sqlite3_column_int64(st, 6)};

		rc = m.model && m.kind && m.name
			     ? fn(ctx, &m)
			     : fh_errf(err, -EBADMSG, "%s: a measured row is damaged", fh_keydb_path(db));
	}
	if (!rc && step != SQLITE_DONE)
		rc = fh_keydb_fail(db, err);
	sqlite3_finalize(st);
	return rc;
}
