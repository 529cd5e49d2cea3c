// SPDX-License-Identifier: Apache-2.0
/*
 * The key database: its tables, and the changes that `freehold key` makes.
 *
 * Statements are prepared for each call: keys change a few times a day.  All
 * SQL is constant; values are bound.
 */
#include "runtime/trust/keydb.h"

#include <errno.h>
#include <fcntl.h>
#include <sodium.h>
#include <sqlite3.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define BUSY_MS 5000
#define APPLICATION_ID 0x46484b59 /* "FHKY" */
#define SCHEMA_VERSION 1

struct fh_keydb {
	sqlite3 *db;
	uint8_t secret[FH_KEY_SECRET_BYTES];
	char path[512];
};

static const char schema[] =
	"CREATE TABLE meta(name TEXT PRIMARY KEY, value BLOB NOT NULL) WITHOUT ROWID;"
	"CREATE TABLE tenants(id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE, disabled INTEGER NOT NULL DEFAULT 0);"
	"CREATE TABLE users(id INTEGER PRIMARY KEY, tenant INTEGER NOT NULL REFERENCES tenants, name TEXT NOT NULL,"
	"  UNIQUE(tenant, name));"
	"CREATE TABLE keys(hash BLOB PRIMARY KEY, id TEXT NOT NULL UNIQUE, tenant INTEGER NOT NULL REFERENCES tenants,"
	"  user INTEGER REFERENCES users, label TEXT NOT NULL, models TEXT NOT NULL, endpoints TEXT NOT NULL,"
	"  created INTEGER NOT NULL, expires INTEGER NOT NULL, revoked INTEGER NOT NULL DEFAULT 0,"
	"  replaced_by TEXT NOT NULL DEFAULT '');"
	"CREATE TABLE budgets(kind TEXT NOT NULL, name TEXT NOT NULL, what TEXT NOT NULL, most INTEGER NOT NULL,"
	"  PRIMARY KEY(kind, name, what)) WITHOUT ROWID;"
	"CREATE TABLE usage(model TEXT NOT NULL, kind TEXT NOT NULL, name TEXT NOT NULL, span INTEGER NOT NULL, ends "
	"INTEGER NOT NULL,"
	"  tokens INTEGER NOT NULL, money INTEGER NOT NULL, requests INTEGER NOT NULL, PRIMARY KEY(model, kind, name, "
	"span))"
	"  WITHOUT ROWID;"
	"CREATE TABLE hours(hour INTEGER NOT NULL, model TEXT NOT NULL, kind TEXT NOT NULL, name TEXT NOT NULL, prompt "
	"INTEGER NOT NULL,"
	"  cached INTEGER NOT NULL, completion INTEGER NOT NULL, money INTEGER NOT NULL, requests INTEGER NOT NULL,"
	"  PRIMARY KEY(hour, model, kind, name)) WITHOUT ROWID;";

int fh_keydb_fail(struct fh_keydb *db, struct fh_err *err)
{
	int code = sqlite3_errcode(db->db) & 0xff;
	int rc = code == SQLITE_BUSY || code == SQLITE_LOCKED	   ? -EBUSY
		 : code == SQLITE_NOMEM				   ? -ENOMEM
		 : code == SQLITE_FULL				   ? -ENOSPC
		 : code == SQLITE_READONLY || code == SQLITE_PERM  ? -EACCES
		 : code == SQLITE_CANTOPEN			   ? -ENOENT
		 : code == SQLITE_NOTADB || code == SQLITE_CORRUPT ? -EBADMSG
								   : -EIO;

	return fh_errf(err, rc, "%s: %s", db->path, sqlite3_errmsg(db->db));
}

static int exec(struct fh_keydb *db, const char *sql, struct fh_err *err)
{
	return sqlite3_exec(db->db, sql, NULL, NULL, NULL) == SQLITE_OK ? 0 : fh_keydb_fail(db, err);
}

static int prepare(struct fh_keydb *db, const char *sql, sqlite3_stmt **st, struct fh_err *err)
{
	return sqlite3_prepare_v2(db->db, sql, -1, st, NULL) == SQLITE_OK ? 0 : fh_keydb_fail(db, err);
}

static void bind_text(sqlite3_stmt *st, int at, const char *text)
{
	sqlite3_bind_text(st, at, text ? text : "", -1, SQLITE_STATIC);
}

/* To the end; @st is gone afterwards. */
static int finish(struct fh_keydb *db, sqlite3_stmt *st, struct fh_err *err)
{
	int rc = sqlite3_step(st) == SQLITE_DONE ? 0 : fh_keydb_fail(db, err);

	sqlite3_finalize(st);
	return rc;
}

/* The one number of a query; -ENOENT without @err: no row. */
static int ask(struct fh_keydb *db, const char *sql, const char *a, int64_t *out, struct fh_err *err)
{
	sqlite3_stmt *st;
	int rc = prepare(db, sql, &st, err), step;

	if (rc)
		return rc;
	if (a)
		bind_text(st, 1, a);
	step = sqlite3_step(st);
	if (step == SQLITE_ROW)
		*out = sqlite3_column_int64(st, 0);
	else
		rc = step == SQLITE_DONE ? -ENOENT : fh_keydb_fail(db, err);
	sqlite3_finalize(st);
	return rc;
}

/* ---- the file ---- */

static int begin(struct fh_keydb *db, struct fh_err *err)
{
	return exec(db, "BEGIN IMMEDIATE", err);
}

/* Commit, or undo when @rc says that something went wrong. */
static int end(struct fh_keydb *db, int rc, struct fh_err *err)
{
	if (!rc)
		rc = exec(db, "COMMIT", err);
	if (rc)
		sqlite3_exec(db->db, "ROLLBACK", NULL, NULL, NULL);
	return rc;
}

static int make_schema(struct fh_keydb *db, struct fh_err *err)
{
	char pragma[96];
	sqlite3_stmt *st;
	int rc = exec(db, schema, err);

	if (rc)
		return rc;
	snprintf(pragma, sizeof(pragma), "PRAGMA application_id=%d; PRAGMA user_version=%d", APPLICATION_ID,
		 SCHEMA_VERSION);
	rc = exec(db, pragma, err);
	if (!rc)
		rc = prepare(db, "INSERT INTO meta VALUES('secret', ?)", &st, err);
	if (rc)
		return rc;
	randombytes_buf(db->secret, sizeof(db->secret));
	sqlite3_bind_blob(st, 1, db->secret, sizeof(db->secret), SQLITE_STATIC);
	return finish(db, st, err);
}

static int read_secret(struct fh_keydb *db, struct fh_err *err)
{
	sqlite3_stmt *st;
	int rc = prepare(db, "SELECT value FROM meta WHERE name = 'secret'", &st, err);

	if (rc)
		return rc;
	if (sqlite3_step(st) == SQLITE_ROW && sqlite3_column_bytes(st, 0) == FH_KEY_SECRET_BYTES)
		memcpy(db->secret, sqlite3_column_blob(st, 0), FH_KEY_SECRET_BYTES);
	else
		rc = fh_errf(err, -EBADMSG, "%s: this is no key database: it has no secret", db->path);
	sqlite3_finalize(st);
	return rc;
}

static int check_schema(struct fh_keydb *db, bool create, struct fh_err *err)
{
	int64_t app = 0, version = 0, tables = 0;
	int rc = begin(db, err);

	if (rc)
		return rc;
	rc = ask(db, "PRAGMA application_id", NULL, &app, err);
	if (!rc)
		rc = ask(db, "PRAGMA user_version", NULL, &version, err);
	if (!rc)
		rc = ask(db, "SELECT count(*) FROM sqlite_master", NULL, &tables, err);
	if (rc)
		return end(db, rc, err);
	if (!tables && create)
		rc = make_schema(db, err);
	else if (app != APPLICATION_ID)
		rc = fh_errf(err, -EBADMSG, "%s: this is no key database; `freehold key add` makes one", db->path);
	else if (version != SCHEMA_VERSION)
		rc = fh_errf(err, -EBADMSG, "%s: a key database of version %lld; this program knows version %d",
			     db->path, (long long)version, SCHEMA_VERSION);
	else
		rc = read_secret(db, err);
	return end(db, rc, err);
}

/* SQLite would make the file with what the umask leaves. */
static int make_file(const char *path, struct fh_err *err)
{
	int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);

	if (fd < 0)
		return fh_errf(err, -errno, "%s: cannot make the key database: %s", path, strerror(errno));
	close(fd);
	return 0;
}

/*
 * The name of SQLite's log (-wal) is as durable as its folder.  SQLite syncs that with the log's first sync, on the
 * connection that made it alone, and takes no for an answer, as a server behind Landlock is given: what was committed
 * since would go with the name when the power does.
 */
static int sync_names(struct fh_keydb *db, struct fh_err *err)
{
	const char *file = sqlite3_db_filename(db->db, "main"), *slash = file ? strrchr(file, '/') : NULL;
	char *folder = slash ? strndup(file, (size_t)(slash - file) + 1) : strdup(".");
	int fd = folder ? open(folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC) : -1, rc = 0;

	free(folder);
	/* Who may not read the folder cannot sync it. */
	if (fd < 0)
		return errno == EACCES ? 0 : fh_errf(err, -errno, "%s: its folder: %s", db->path, strerror(errno));
	if (fsync(fd) && errno != EINVAL && errno != EOPNOTSUPP && errno != ENOSYS)
		rc = fh_errf(err, -errno, "%s: its folder cannot be synced: %s", db->path, strerror(errno));
	close(fd);
	return rc;
}

int fh_keydb_open(const char *path, bool create, struct fh_keydb **out, struct fh_err *err)
{
	struct fh_keydb *db;
	int rc = 0;

	if (sodium_init() < 0)
		return fh_errf(err, -EIO, "libsodium cannot begin");
	if (strlen(path) >= sizeof(db->path))
		return fh_errf(err, -ENAMETOOLONG, "the path of the key database is too long");
	if (create)
		rc = make_file(path, err);
	else if (access(path, F_OK))
		rc = fh_errf(err, -errno, "%s: %s; `freehold key add --keys %s --tenant NAME` makes it", path,
			     strerror(errno), path);
	if (rc)
		return rc;
	db = calloc(1, sizeof(*db));
	if (!db)
		return fh_errf(err, -ENOMEM, "no memory for the key database");
	strcpy(db->path, path);
	if (sqlite3_open_v2(path, &db->db, SQLITE_OPEN_READWRITE | SQLITE_OPEN_NOMUTEX, NULL) != SQLITE_OK) {
		rc = db->db ? fh_keydb_fail(db, err) : fh_errf(err, -ENOMEM, "no memory for SQLite");
	} else {
		sqlite3_busy_timeout(db->db, BUSY_MS);
		/* Nothing is written anywhere but in this file and its log. */
		rc = exec(db,
			  "PRAGMA temp_store=MEMORY; PRAGMA foreign_keys=ON; PRAGMA trusted_schema=OFF;"
			  "PRAGMA journal_mode=WAL; PRAGMA synchronous=FULL",
			  err);
		if (!rc)
			rc = check_schema(db, create, err);
		if (!rc)
			rc = sync_names(db, err);
	}
	if (rc)
		fh_keydb_close(db);
	else
		*out = db;
	return rc;
}

void fh_keydb_close(struct fh_keydb *db)
{
	if (!db)
		return;
	sqlite3_close(db->db);
	sodium_memzero(db, sizeof(*db));
	free(db);
}

struct sqlite3 *fh_keydb_handle(struct fh_keydb *db)
{
	return db->db;
}

const char *fh_keydb_path(const struct fh_keydb *db)
{
	return db->path;
}

const uint8_t *fh_keydb_secret(const struct fh_keydb *db)
{
	return db->secret;
}

int fh_keydb_relax(struct fh_keydb *db, struct fh_err *err)
{
	return exec(db, "PRAGMA synchronous=NORMAL", err);
}

int fh_keydb_unrelax(struct fh_keydb *db, struct fh_err *err)
{
	return exec(db, "PRAGMA synchronous=FULL", err);
}

int fh_keydb_version(struct fh_keydb *db, uint32_t *version, struct fh_err *err)
{
	int64_t v = 0;
	int rc = ask(db, "PRAGMA data_version", NULL, &v, err);

	*version = (uint32_t)v;
	return rc;
}

/* ---- keys ---- */

void fh_key_hash(const uint8_t secret[FH_KEY_SECRET_BYTES], const char *key, size_t n, uint8_t hash[FH_KEY_HASH_BYTES])
{
	crypto_generichash(hash, FH_KEY_HASH_BYTES, (const unsigned char *)key, n, secret, FH_KEY_SECRET_BYTES);
}

static void make_key(struct fh_keydb *db, struct fh_key_new *out, uint8_t hash[FH_KEY_HASH_BYTES])
{
	uint8_t raw[32];
	char b64[45];

	randombytes_buf(raw, sizeof(raw));
	sodium_bin2base64(b64, sizeof(b64), raw, sizeof(raw), sodium_base64_VARIANT_URLSAFE_NO_PADDING);
	snprintf(out->text, sizeof(out->text), "fh-%.43s", b64);
	sodium_memzero(raw, sizeof(raw));
	sodium_memzero(b64, sizeof(b64));
	fh_key_hash(db->secret, out->text, strlen(out->text), hash);
	sodium_bin2hex(out->id, sizeof(out->id), hash, FH_IDENTITY_KEY_BYTES);
}

/* Bytes of the character at @s, of UTF-8 (RFC 3629) that has none that is longer than it need be; 0: there is none. */
static size_t utf8_bytes(const char *s)
{
	const unsigned char *p = (const unsigned char *)s;
	unsigned char low = 0x80, high = 0xbf;
	size_t n = p[0] < 0x80 ? 1 : p[0] >= 0xc2 && p[0] < 0xe0 ? 2 : p[0] >= 0xe0 && p[0] < 0xf0 ? 3 : 4;

	if (p[0] >= 0x80 && (p[0] < 0xc2 || p[0] > 0xf4))
		return 0;
	if (p[0] == 0xe0)
		low = 0xa0;
	else if (p[0] == 0xed)
		high = 0x9f; /* surrogates */
	else if (p[0] == 0xf0)
		low = 0x90;
	else if (p[0] == 0xf4)
		high = 0x8f;
	for (size_t i = 1; i < n; i++, low = 0x80, high = 0xbf)
		if (p[i] < low || p[i] > high)
			return 0;
	return n;
}

const char *fh_key_text(const char *text, char out[FH_KEY_SCOPE_MAX + 1])
{
	size_t n = 0, m;

	for (; *text && n < FH_KEY_SCOPE_MAX; text += m ? m : 1) {
		m = utf8_bytes(text);
		if (m && n + m > FH_KEY_SCOPE_MAX)
			break;
		memcpy(out + n, m ? text : "?", m ? m : 1);
		n += m ? m : 1;
	}
	out[n] = 0;
	return out;
}

/* Printable, and no longer than @max: it is shown to people. */
static int check_text(const char *what, const char *text, size_t max, struct fh_err *err)
{
	size_t n = text ? strlen(text) : 0;

	if (n > max)
		return fh_errf(err, -EINVAL, "the %s is longer than %zu bytes", what, max);
	for (size_t i = 0; i < n; i++)
		if ((unsigned char)text[i] < 0x20 || text[i] == 0x7f)
			return fh_errf(err, -EINVAL, "the %s has a control character", what);
	for (size_t i = 0, m; i < n; i += m) {
		m = utf8_bytes(text + i);
		if (!m)
			return fh_errf(err, -EINVAL, "the %s is not UTF-8", what);
	}
	return 0;
}

static int check_spec(const struct fh_key_spec *s, uint64_t now_s, struct fh_err *err)
{
	static const char names[] = "1 to 64 of A-Z a-z 0-9 . _ -, no dot first";
	int rc;

	if (!s->tenant || !fh_identity_name_ok(s->tenant))
		return fh_errf(err, -EINVAL, "a tenant's name is %s", names);
	if (s->user && !fh_identity_name_ok(s->user))
		return fh_errf(err, -EINVAL, "a user's name is %s", names);
	if (s->expires_s && s->expires_s <= now_s)
		return fh_errf(err, -EINVAL, "the key would have expired already");
	rc = check_text("label", s->label, FH_KEY_LABEL_MAX, err);
	rc = rc ? rc : check_text("list of models", s->models, FH_KEY_SCOPE_MAX, err);
	return rc ? rc : check_text("list of endpoints", s->endpoints, FH_KEY_SCOPE_MAX, err);
}

static int find_or_make(struct fh_keydb *db, const char *insert, const char *select, int64_t tenant, const char *name,
			int64_t *id, struct fh_err *err)
{
	sqlite3_stmt *st;
	int rc = prepare(db, insert, &st, err);

	if (rc)
		return rc;
	bind_text(st, 1, name);
	if (tenant)
		sqlite3_bind_int64(st, 2, tenant);
	rc = finish(db, st, err);
	if (!rc)
		rc = prepare(db, select, &st, err);
	if (rc)
		return rc;
	bind_text(st, 1, name);
	if (tenant)
		sqlite3_bind_int64(st, 2, tenant);
	if (sqlite3_step(st) == SQLITE_ROW)
		*id = sqlite3_column_int64(st, 0);
	else
		rc = fh_keydb_fail(db, err);
	sqlite3_finalize(st);
	return rc;
}

static int insert_key(struct fh_keydb *db, const struct fh_key_spec *s, uint64_t now_s, struct fh_key_new *out,
		      struct fh_err *err)
{
	uint8_t hash[FH_KEY_HASH_BYTES];
	int64_t tenant, user = 0;
	sqlite3_stmt *st;
	int rc = find_or_make(db, "INSERT OR IGNORE INTO tenants(name) VALUES(?1)",
			      "SELECT id FROM tenants WHERE name = ?1", 0, s->tenant, &tenant, err);

	if (!rc && s->user)
		rc = find_or_make(db, "INSERT OR IGNORE INTO users(name, tenant) VALUES(?1, ?2)",
				  "SELECT id FROM users WHERE name = ?1 AND tenant = ?2", tenant, s->user, &user, err);
	if (!rc)
		rc = prepare(db,
			     "INSERT INTO keys(hash, id, tenant, user, label, models, endpoints, created, expires)"
			     " VALUES(?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)",
			     &st, err);
	if (rc)
		return rc;
	make_key(db, out, hash);
	sqlite3_bind_blob(st, 1, hash, sizeof(hash), SQLITE_TRANSIENT);
	bind_text(st, 2, out->id);
	sqlite3_bind_int64(st, 3, tenant);
	if (user)
		sqlite3_bind_int64(st, 4, user);
	bind_text(st, 5, s->label);
	bind_text(st, 6, s->models);
	bind_text(st, 7, s->endpoints);
	sqlite3_bind_int64(st, 8, (int64_t)now_s);
	sqlite3_bind_int64(st, 9, (int64_t)s->expires_s);
	return finish(db, st, err);
}

int fh_keydb_add(struct fh_keydb *db, const struct fh_key_spec *spec, uint64_t now_s, struct fh_key_new *out,
		 struct fh_err *err)
{
	int rc = check_spec(spec, now_s, err);

	if (!rc)
		rc = begin(db, err);
	if (rc)
		return rc;
	return end(db, insert_key(db, spec, now_s, out, err), err);
}

static int no_key(struct fh_keydb *db, const char *id, struct fh_err *err)
{
	return fh_errf(err, -ENOENT, "%s: there is no key '%.40s'; `freehold key list` has their ids", db->path, id);
}

int fh_keydb_revoke(struct fh_keydb *db, const char *id, uint64_t now_s, struct fh_err *err)
{
	int64_t revoked = 0;
	sqlite3_stmt *st;
	int rc = begin(db, err);

	if (rc)
		return rc;
	rc = ask(db, "SELECT revoked FROM keys WHERE id = ?1", id, &revoked, err);
	if (rc == -ENOENT)
		rc = no_key(db, id, err);
	else if (!rc && revoked)
		rc = fh_errf(err, -EALREADY, "key %s was revoked before", id);
	if (!rc)
		rc = prepare(db, "UPDATE keys SET revoked = ?2 WHERE id = ?1", &st, err);
	if (!rc) {
		bind_text(st, 1, id);
		sqlite3_bind_int64(st, 2, (int64_t)now_s);
		rc = finish(db, st, err);
	}
	return end(db, rc, err);
}

static const char select_keys[] =
	"SELECT k.hash, k.id, t.name, ifnull(u.name, ''), k.label, k.models, k.endpoints, k.created, k.expires, "
	"k.revoked,"
	" k.replaced_by, t.disabled FROM keys k JOIN tenants t ON t.id = k.tenant LEFT JOIN users u ON u.id = k.user"
	" WHERE (?1 = '' OR t.name = ?1) AND (?2 = '' OR k.id = ?2)"
	" AND (?3 = '' OR (k.created, k.id) > (SELECT created, id FROM keys WHERE id = ?3))"
	" ORDER BY k.created, k.id LIMIT ?4";

static bool read_row(sqlite3_stmt *st, struct fh_key_row *r)
{
	*r = (struct fh_key_row){.hash = sqlite3_column_blob(st, 0),
				 .id = (const char *)sqlite3_column_text(st, 1),
				 .tenant = (const char *)sqlite3_column_text(st, 2),
				 .user = (const char *)sqlite3_column_text(st, 3),
				 .label = (const char *)sqlite3_column_text(st, 4),
				 .models = (const char *)sqlite3_column_text(st, 5),
				 .endpoints = (const char *)sqlite3_column_text(st, 6),
				 .created_s = (uint64_t)sqlite3_column_int64(st, 7),
				 .expires_s = (uint64_t)sqlite3_column_int64(st, 8),
				 .revoked_s = (uint64_t)sqlite3_column_int64(st, 9),
				 .replaced_by = (const char *)sqlite3_column_text(st, 10),
				 .disabled = sqlite3_column_int(st, 11)};
	return sqlite3_column_bytes(st, 0) == FH_KEY_HASH_BYTES && r->id && r->tenant && r->user && r->label &&
	       r->models && r->endpoints && r->replaced_by && fh_identity_name_ok(r->tenant) &&
	       (!r->user[0] || fh_identity_name_ok(r->user));
}

const char *fh_key_state(const struct fh_key_row *r, uint64_t now_s)
{
	return r->revoked_s			       ? "revoked"
	       : r->expires_s && r->expires_s <= now_s ? (r->replaced_by[0] ? "replaced" : "expired")
	       : r->disabled			       ? "locked"
						       : "good";
}

/* @id, @after: NULL: any, from the first on. @limit 0: all. */
static int each_key(struct fh_keydb *db, const char *tenant, const char *id, const char *after, uint32_t limit,
		    int (*fn)(void *ctx, const struct fh_key_row *row), void *ctx, struct fh_err *err)
{
	struct fh_key_row row;
	sqlite3_stmt *st;
	int rc = prepare(db, select_keys, &st, err), step = SQLITE_DONE;

	if (rc)
		return rc;
	bind_text(st, 1, tenant);
	bind_text(st, 2, id);
	bind_text(st, 3, after);
	sqlite3_bind_int64(st, 4, limit ? (int64_t)limit : -1);
	while (!rc && (step = sqlite3_step(st)) == SQLITE_ROW)
		rc = read_row(st, &row) ? fn(ctx, &row)
					: fh_errf(err, -EBADMSG, "%s: a key's row is damaged", db->path);
	if (!rc && step != SQLITE_DONE)
		rc = fh_keydb_fail(db, err);
	sqlite3_finalize(st);
	return rc;
}

int fh_keydb_each_key(struct fh_keydb *db, const char *tenant, int (*fn)(void *ctx, const struct fh_key_row *row),
		      void *ctx, struct fh_err *err)
{
	return each_key(db, tenant, NULL, NULL, 0, fn, ctx, err);
}

int fh_keydb_page(struct fh_keydb *db, const char *tenant, const char *after, uint32_t limit,
		  int (*fn)(void *ctx, const struct fh_key_row *row), void *ctx, struct fh_err *err)
{
	int64_t there = 0;
	int rc = after && *after ? ask(db, "SELECT 1 FROM keys WHERE id = ?1", after, &there, err) : 0;

	if (rc == -ENOENT)
		return no_key(db, after, err);
	return rc ? rc : each_key(db, tenant, NULL, after, limit, fn, ctx, err);
}

/* Rotation */

struct successor {
	struct fh_key_new *out;
	struct fh_key_spec spec;
	char tenant[FH_IDENTITY_NAME_MAX + 1], user[FH_IDENTITY_NAME_MAX + 1], label[FH_KEY_LABEL_MAX + 1];
	char models[FH_KEY_SCOPE_MAX + 1], endpoints[FH_KEY_SCOPE_MAX + 1];
	uint64_t expires_s, revoked_s;
	bool found;
};

static int copy_row(void *ctx, const struct fh_key_row *r)
{
	struct successor *s = ctx;

	snprintf(s->tenant, sizeof(s->tenant), "%s", r->tenant);
	snprintf(s->user, sizeof(s->user), "%s", r->user);
	snprintf(s->label, sizeof(s->label), "%s", r->label);
	snprintf(s->models, sizeof(s->models), "%s", r->models);
	snprintf(s->endpoints, sizeof(s->endpoints), "%s", r->endpoints);
	s->expires_s = r->expires_s;
	s->revoked_s = r->revoked_s;
	s->spec = (struct fh_key_spec){.tenant = s->tenant,
				       .user = s->user[0] ? s->user : NULL,
				       .label = s->label,
				       .models = s->models,
				       .endpoints = s->endpoints,
				       .expires_s = r->expires_s};
	s->found = true;
	return 0;
}

static int retire(struct fh_keydb *db, const char *id, uint64_t until_s, const char *successor, struct fh_err *err)
{
	sqlite3_stmt *st;
	int rc = prepare(db, "UPDATE keys SET expires = ?2, replaced_by = ?3 WHERE id = ?1", &st, err);

	if (rc)
		return rc;
	bind_text(st, 1, id);
	sqlite3_bind_int64(st, 2, (int64_t)until_s);
	bind_text(st, 3, successor);
	rc = finish(db, st, err);
	if (!rc)
		rc = prepare(db,
			     "INSERT OR IGNORE INTO budgets SELECT kind, ?2, what, most FROM budgets"
			     " WHERE kind = 'key' AND name = ?1",
			     &st, err);
	if (rc)
		return rc;
	bind_text(st, 1, id);
	bind_text(st, 2, successor);
	return finish(db, st, err);
}

int fh_keydb_rotate(struct fh_keydb *db, const char *id, uint64_t overlap_s, uint64_t now_s, struct fh_key_new *out,
		    struct fh_err *err)
{
	struct successor s = {.out = out};
	uint64_t until_s = now_s + overlap_s;
	int rc = begin(db, err);

	if (rc)
		return rc;
	rc = each_key(db, NULL, id, NULL, 0, copy_row, &s, err);
	if (!rc && !s.found)
		rc = no_key(db, id, err);
	else if (!rc && (s.revoked_s || (s.expires_s && s.expires_s <= now_s)))
		rc = fh_errf(err, -EINVAL, "key %s is not good any more; `freehold key add` makes a new one", id);
	if (!rc)
		rc = insert_key(db, &s.spec, now_s, out, err);
	if (!rc)
		rc = retire(db, id, s.expires_s && s.expires_s < until_s ? s.expires_s : until_s, out->id, err);
	return end(db, rc, err);
}

/* ---- tenants ---- */

int fh_keydb_set_disabled(struct fh_keydb *db, const char *tenant, bool disabled, struct fh_err *err)
{
	sqlite3_stmt *st;
	int rc = prepare(db, "UPDATE tenants SET disabled = ?2 WHERE name = ?1", &st, err);

	if (rc)
		return rc;
	bind_text(st, 1, tenant);
	sqlite3_bind_int(st, 2, disabled);
	rc = finish(db, st, err);
	if (!rc && !sqlite3_changes(db->db))
		rc = fh_errf(err, -ENOENT, "%s: there is no tenant '%.64s'", db->path, tenant);
	return rc;
}

int fh_keydb_each_tenant(struct fh_keydb *db, int (*fn)(void *ctx, const char *name, bool disabled), void *ctx,
			 struct fh_err *err)
{
	sqlite3_stmt *st;
	int rc = prepare(db, "SELECT name, disabled FROM tenants ORDER BY name", &st, err), step = SQLITE_DONE;

	if (rc)
		return rc;
	while (!rc && (step = sqlite3_step(st)) == SQLITE_ROW)
		rc = fn(ctx, (const char *)sqlite3_column_text(st, 0), sqlite3_column_int(st, 1));
	if (!rc && step != SQLITE_DONE)
		rc = fh_keydb_fail(db, err);
	sqlite3_finalize(st);
	return rc;
}

int fh_keydb_each_user(struct fh_keydb *db, int (*fn)(void *ctx, const char *tenant, const char *user), void *ctx,
		       struct fh_err *err)
{
	sqlite3_stmt *st;
	int rc = prepare(db, "SELECT t.name, u.name FROM users u JOIN tenants t ON t.id = u.tenant", &st, err),
	    step = SQLITE_DONE;

	if (rc)
		return rc;
	while (!rc && (step = sqlite3_step(st)) == SQLITE_ROW)
		rc = fn(ctx, (const char *)sqlite3_column_text(st, 0), (const char *)sqlite3_column_text(st, 1));
	if (!rc && step != SQLITE_DONE)
		rc = fh_keydb_fail(db, err);
	sqlite3_finalize(st);
	return rc;
}
