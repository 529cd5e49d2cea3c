// SPDX-License-Identifier: Apache-2.0
/* Budgets and usage in the database, for who sets and reads them. */
#include <errno.h>
#include <sqlite3.h>
#include <string.h>

#include "runtime/trust/accounts.h"

static int prepare(struct fh_keydb *db, const char *sql, sqlite3_stmt **st, struct fh_err *err)
{
	return sqlite3_prepare_v2(fh_keydb_handle(db), sql, -1, st, NULL) == SQLITE_OK ? 0 : fh_keydb_fail(db, err);
}

/* One statement with up to two texts, to its end. */
static int run(struct fh_keydb *db, const char *sql, const char *a, const char *b, struct fh_err *err)
{
	sqlite3_stmt *st;
	int rc = prepare(db, sql, &st, err);

	if (rc)
		return rc;
	if (a)
		sqlite3_bind_text(st, 1, a, -1, SQLITE_STATIC);
	if (b)
		sqlite3_bind_text(st, 2, b, -1, SQLITE_STATIC);
	rc = sqlite3_step(st) == SQLITE_DONE ? 0 : fh_keydb_fail(db, err);
	sqlite3_finalize(st);
	return rc;
}

static int key_exists(struct fh_keydb *db, const char *id, struct fh_err *err)
{
	sqlite3_stmt *st;
	int rc = prepare(db, "SELECT 1 FROM keys WHERE id = ?1", &st, err);

	if (rc)
		return rc;
	sqlite3_bind_text(st, 1, id, -1, SQLITE_STATIC);
	if (sqlite3_step(st) != SQLITE_ROW)
		rc = fh_errf(err, -ENOENT, "%s: there is no key '%.40s'; `freehold key list` has their ids",
			     fh_keydb_path(db), id);
	sqlite3_finalize(st);
	return rc;
}

/* Tenants and users are made where they are new, as `freehold key add` does. */
static int make_owner(struct fh_keydb *db, const char *kind, const char *name, struct fh_err *err)
{
	char tenant[FH_IDENTITY_NAME_MAX + 1];
	const char *slash = strchr(name, '/');
	size_t n = slash ? (size_t)(slash - name) : strlen(name);
	bool user = !strcmp(kind, "user");
	int rc;

	if (n < sizeof(tenant)) {
		memcpy(tenant, name, n);
		tenant[n] = 0;
	}
	if (n >= sizeof(tenant) || !fh_identity_name_ok(tenant) || !slash != !user ||
	    (user && !fh_identity_name_ok(slash + 1)))
		return fh_errf(err, -EINVAL,
			       "'%.140s': %s is wanted; names are 1 to 64 of A-Z a-z 0-9 . _ -, no dot first", name,
			       user ? "TENANT/USER" : "a tenant");
	rc = run(db, "INSERT OR IGNORE INTO tenants(name) VALUES(?1)", tenant, NULL, err);
	if (rc || !user)
		return rc;
	return run(db, "INSERT OR IGNORE INTO users(name, tenant) SELECT ?2, id FROM tenants WHERE name = ?1", tenant,
		   slash + 1, err);
}

static int set(struct fh_keydb *db, const char *kind, const char *name, const char *what, uint64_t most,
	       struct fh_err *err)
{
	sqlite3_stmt *st;
	int rc = prepare(db,
			 most ? "INSERT OR REPLACE INTO budgets VALUES(?1, ?2, ?3, ?4)"
			      : "DELETE FROM budgets WHERE kind = ?1 AND name = ?2 AND what = ?3",
			 &st, err);

	if (rc)
		return rc;
	sqlite3_bind_text(st, 1, kind, -1, SQLITE_STATIC);
	sqlite3_bind_text(st, 2, name, -1, SQLITE_STATIC);
	sqlite3_bind_text(st, 3, what, -1, SQLITE_STATIC);
	if (most)
		sqlite3_bind_int64(st, 4, (int64_t)most);
	rc = sqlite3_step(st) == SQLITE_DONE ? 0 : fh_keydb_fail(db, err);
	sqlite3_finalize(st);
	return rc;
}

int fh_budget_set(struct fh_keydb *db, const char *kind, const char *name, const char *what, uint64_t most,
		  struct fh_err *err)
{
	int rc;

	if (!fh_budget_is_limit(what) || most > INT64_MAX)
		return fh_errf(err, -EINVAL, "'%.40s' is no limit", what);
	rc = run(db, "BEGIN IMMEDIATE", NULL, NULL, err);
	if (rc)
		return rc;
	rc = !strcmp(kind, "key") ? key_exists(db, name, err) : make_owner(db, kind, name, err);
	if (!rc)
		rc = set(db, kind, name, what, most, err);
	if (!rc)
		rc = run(db, "COMMIT", NULL, NULL, err);
	if (rc)
		sqlite3_exec(fh_keydb_handle(db), "ROLLBACK", NULL, NULL, NULL);
	return rc;
}

int fh_budget_each(struct fh_keydb *db,
		   int (*fn)(void *ctx, const char *kind, const char *name, const char *what, uint64_t most), void *ctx,
		   struct fh_err *err)
{
	sqlite3_stmt *st;
	int rc = prepare(db, "SELECT kind, name, what, most FROM budgets ORDER BY kind, name, what", &st, err);
	int step = SQLITE_DONE;

	if (rc)
		return rc;
	while (!rc && (step = sqlite3_step(st)) == SQLITE_ROW) {
		const char *text[3];
		bool whole = true;

		for (int i = 0; i < 3; i++) {
			text[i] = (const char *)sqlite3_column_text(st, i);
			whole &= text[i] != NULL;
		}
		rc = whole && sqlite3_column_int64(st, 3) > 0
			     ? fn(ctx, text[0], text[1], text[2], (uint64_t)sqlite3_column_int64(st, 3))
			     : fh_errf(err, -EBADMSG, "%s: a budget's row is damaged", fh_keydb_path(db));
	}
	if (!rc && step != SQLITE_DONE)
		rc = fh_keydb_fail(db, err);
	sqlite3_finalize(st);
	return rc;
}

int fh_usage_get(struct fh_keydb *db, const char *kind, const char *name, enum fh_budget_span span, uint64_t now_s,
		 uint64_t *tokens, uint64_t *money, uint64_t *requests, struct fh_err *err)
{
	sqlite3_stmt *st;
	int rc = prepare(
		db,
		"SELECT sum(tokens), sum(money), sum(requests) FROM usage WHERE kind = ?1 AND name = ?2 AND span = ?3"
		" AND (ends < 0 OR ends > ?4)",
		&st, err);

	*tokens = *money = *requests = 0;
	if (rc)
		return rc;
	sqlite3_bind_text(st, 1, kind, -1, SQLITE_STATIC);
	sqlite3_bind_text(st, 2, name, -1, SQLITE_STATIC);
	sqlite3_bind_int(st, 3, (int)span);
	sqlite3_bind_int64(st, 4, (int64_t)now_s);
	if (sqlite3_step(st) == SQLITE_ROW) {
		*tokens = (uint64_t)sqlite3_column_int64(st, 0);
		*money = (uint64_t)sqlite3_column_int64(st, 1);
		*requests = (uint64_t)sqlite3_column_int64(st, 2);
	}
	sqlite3_finalize(st);
	return 0;
}

int fh_usage_each_hour(struct fh_keydb *db, const char *kind, uint64_t from_s, uint64_t to_s,
		       int (*fn)(void *ctx, const struct fh_usage_hour *h), void *ctx, struct fh_err *err)
{
	sqlite3_stmt *st;
	int rc = prepare(db,
			 "SELECT hour, kind, name, prompt, cached, completion, money, requests, model FROM hours"
			 " WHERE kind = ?1 AND hour >= ?2 AND hour < ?3 ORDER BY hour, name, model",
			 &st, err);
	int step = SQLITE_DONE;

	if (rc)
		return rc;
	sqlite3_bind_text(st, 1, kind, -1, SQLITE_STATIC);
	sqlite3_bind_int64(st, 2, (int64_t)from_s);
	sqlite3_bind_int64(st, 3, to_s < INT64_MAX ? (int64_t)to_s : INT64_MAX);
	while (!rc && (step = sqlite3_step(st)) == SQLITE_ROW) {
		struct fh_usage_hour h = {.hour_s = (uint64_t)sqlite3_column_int64(st, 0),
					  .kind = (const char *)sqlite3_column_text(st, 1),
					  .name = (const char *)sqlite3_column_text(st, 2),
					  .model = (const char *)sqlite3_column_text(st, 8),
					  .prompt = (uint64_t)sqlite3_column_int64(st, 3),
					  .cached = (uint64_t)sqlite3_column_int64(st, 4),
					  .completion = (uint64_t)sqlite3_column_int64(st, 5),
					  .money = (uint64_t)sqlite3_column_int64(st, 6),
					  .requests = (uint64_t)sqlite3_column_int64(st, 7)};

		rc = h.kind && h.name && h.model
			     ? fn(ctx, &h)
			     : fh_errf(err, -EBADMSG, "%s: an hour's row is damaged", fh_keydb_path(db));
	}
	if (!rc && step != SQLITE_DONE)
		rc = fh_keydb_fail(db, err);
	sqlite3_finalize(st);
	return rc;
}
