/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Tenants, users and API keys, in SQLite.
 *
 * One file in WAL mode, so that `freehold key` writes while the daemon reads.
 * Every change is one transaction, durable when the call returns.
 *
 * A key is 32 random bytes.  What is stored is its BLAKE2b-256, keyed with a
 * secret of the database: a slow hash (Argon2, scrypt) makes guesses of
 * passwords dear, but nobody guesses 256 bits, and it would be paid for on
 * every request.  So a stolen database lets nobody in, and nobody can find out
 * whether a key that he holds is in a database whose secret he has not seen.
 *
 * A connection belongs to one thread at a time.
 */
#ifndef FH_TRUST_KEYDB_H
#define FH_TRUST_KEYDB_H

#include <stdbool.h>
#include <stdint.h>

#include "runtime/base/err.h"
#include "runtime/base/identity.h"

#define FH_KEY_HASH_BYTES 32
#define FH_KEY_SECRET_BYTES 32
#define FH_KEY_TEXT_BYTES 46 /* "fh-" and 32 bytes in base64url */
#define FH_KEY_LABEL_MAX 128
#define FH_KEY_SCOPE_MAX 1024 /* bytes of a list of models or endpoints */

struct fh_keydb;
struct sqlite3;

/* @create: make the file (0600) where there is none. -errno with @err, which names the file. */
int fh_keydb_open(const char *path, bool create, struct fh_keydb **out, struct fh_err *err);
/* NULL is fine. */
void fh_keydb_close(struct fh_keydb *db);

/* What a key is to be. Lists are comma-separated; NULL or "": all. */
struct fh_key_spec {
	const char *tenant; /* made if it is not there */
	const char *user;   /* of that tenant, likewise; NULL: none */
	const char *label;  /* for people; NULL: none */
	const char *models; /* names, or patterns as of fnmatch(3) */
	const char *endpoints;
	uint64_t expires_s; /* Unix time; 0: never */
};

/* A key as it is shown, once. */
struct fh_key_new {
	char id[2 * FH_IDENTITY_KEY_BYTES + 1]; /* hexadecimal */
	char text[FH_KEY_TEXT_BYTES + 1];
};

/* 0; -EINVAL: a name, label or list is not possible. @now_s: Unix time. */
int fh_keydb_add(struct fh_keydb *db, const struct fh_key_spec *spec, uint64_t now_s, struct fh_key_new *out,
		 struct fh_err *err);
/* 0; -ENOENT: there is no such key; -EALREADY: it was revoked before. */
int fh_keydb_revoke(struct fh_keydb *db, const char *id, uint64_t now_s, struct fh_err *err);
/*
 * A new key of the same tenant, user, label, scopes and expiry in the place of
 * @id, which stays good for @overlap_s seconds (no longer than it was).
 */
int fh_keydb_rotate(struct fh_keydb *db, const char *id, uint64_t overlap_s, uint64_t now_s, struct fh_key_new *out,
		    struct fh_err *err);
/* Lock a tenant out, or let it in again. */
int fh_keydb_set_disabled(struct fh_keydb *db, const char *tenant, bool disabled, struct fh_err *err);

/* A key as stored. Strings are borrowed for the call and never NULL. */
struct fh_key_row {
	const uint8_t *hash; /* [FH_KEY_HASH_BYTES]; the first FH_IDENTITY_KEY_BYTES of it are the key's id */
	const char *id, *tenant, *user, *label, *models, *endpoints;
	const char *replaced_by;		  /* the id of the key that took its place; "": none */
	uint64_t created_s, expires_s, revoked_s; /* 0: never */
	bool disabled;				  /* its tenant */
};

/* "good", "revoked", "replaced", "expired" or "locked". */
const char *fh_key_state(const struct fh_key_row *r, uint64_t now_s);
/* In order of creation. @fn: 0 to go on, else the end and the result. @tenant: only of that one; NULL: all. */
int fh_keydb_each_key(struct fh_keydb *db, const char *tenant, int (*fn)(void *ctx, const struct fh_key_row *row),
		      void *ctx, struct fh_err *err);
/* Likewise, at most @limit of them (0: all) behind the key @after (NULL: the first; -ENOENT: it is not there). */
int fh_keydb_page(struct fh_keydb *db, const char *tenant, const char *after, uint32_t limit,
		  int (*fn)(void *ctx, const struct fh_key_row *row), void *ctx, struct fh_err *err);
/*
 * A label or a list of scopes as UTF-8 in any case: new ones are, and what an
 * older database holds may have other bytes, each of which becomes a '?'. @out.
 */
const char *fh_key_text(const char *text, char out[FH_KEY_SCOPE_MAX + 1]);
int fh_keydb_each_tenant(struct fh_keydb *db, int (*fn)(void *ctx, const char *name, bool disabled), void *ctx,
			 struct fh_err *err);
/* All users of all tenants, with and without keys. */
int fh_keydb_each_user(struct fh_keydb *db, int (*fn)(void *ctx, const char *tenant, const char *user), void *ctx,
		       struct fh_err *err);

/* From now on a commit of this connection may be lost in a power cut (never torn): for copies of what is elsewhere. */
int fh_keydb_relax(struct fh_keydb *db, struct fh_err *err);
/* As at first: a commit is durable. */
int fh_keydb_unrelax(struct fh_keydb *db, struct fh_err *err);
/* What a presented key is looked up by. */
void fh_key_hash(const uint8_t secret[FH_KEY_SECRET_BYTES], const char *key, size_t n, uint8_t hash[FH_KEY_HASH_BYTES]);
/* Changes when another connection has changed the database; costs no read of the file. */
int fh_keydb_version(struct fh_keydb *db, uint32_t *version, struct fh_err *err);
const uint8_t *fh_keydb_secret(const struct fh_keydb *db); /* [FH_KEY_SECRET_BYTES] */
/* For the other tables of the file. */
struct sqlite3 *fh_keydb_handle(struct fh_keydb *db);
const char *fh_keydb_path(const struct fh_keydb *db);
/* "PATH: what SQLite says", and its code as -errno. */
int fh_keydb_fail(struct fh_keydb *db, struct fh_err *err);

#endif /* FH_TRUST_KEYDB_H */
