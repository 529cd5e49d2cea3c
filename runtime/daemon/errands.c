// SPDX-License-Identifier: Apache-2.0
/*
 * Errands to the key database, on the thread that watches it: list keys, revoke
 * one.
 *
 * With an audit log that is strict no key is changed that could not be logged,
 * and who asked is answered when it has been.
 */
#include <errno.h>
#include <jansson.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "runtime/base/log.h"
#include "runtime/daemon/audit.h"
#include "runtime/daemon/watch.h"

#define MAX_ERRANDS 16 /* that wait */

struct list {
	json_t *keys;
	uint64_t now_s;
	uint32_t limit;
	bool more;
};

static int add_key(void *ctx, const struct fh_key_row *r)
{
	char label[FH_KEY_SCOPE_MAX + 1], models[FH_KEY_SCOPE_MAX + 1], endpoints[FH_KEY_SCOPE_MAX + 1];
	struct list *l = ctx;
	json_t *j;

	/* The one that is asked for beyond the page only says that there is one. */
	l->more = json_array_size(l->keys) == l->limit;
	if (l->more)
		return 0;
	j = json_pack("{s:s, s:s, s:s, s:s, s:s, s:s, s:s, s:I, s:I}", "id", r->id, "state", fh_key_state(r, l->now_s),
		      "tenant", r->tenant, "user", r->user, "label", fh_key_text(r->label, label), "models",
		      fh_key_text(r->models, models), "endpoints", fh_key_text(r->endpoints, endpoints), "created",
		      (json_int_t)r->created_s, "expires", (json_int_t)r->expires_s);
	return json_array_append_new(l->keys, j) ? -ENOMEM : 0;
}

static int list_keys(struct fh_keydb *db, struct fh_key_errand *e)
{
	struct list l = {.keys = json_array(), .now_s = (uint64_t)time(NULL), .limit = e->limit};
	int rc = fh_keydb_page(db, NULL, e->after, e->limit + 1, add_key, &l, &e->err);

	e->out = rc ? NULL : json_dumps(l.keys, JSON_COMPACT);
	e->bytes = e->out ? strlen(e->out) : 0;
	e->more = l.more;
	json_decref(l.keys);
	return rc ? rc : e->out ? 0 : fh_errf(&e->err, -ENOMEM, "no memory for a list of keys");
}

/* Durable before it is answered, whatever the rest of this connection's writes are. */
static int write_revocation(struct fh_keydb *db, struct fh_key_errand *e)
{
	struct fh_err ignored;
	int rc = fh_keydb_unrelax(db, &e->err);

	if (!rc)
		rc = fh_keydb_revoke(db, e->revoke, (uint64_t)time(NULL), &e->err);
	fh_keydb_relax(db, &ignored);
	return rc;
}

static int revoke_key(struct fhd_identity *i, struct fh_keydb *db, struct fh_key_errand *e)
{
	int rc = fhd_audit_key_change(i->audit);

	if (rc)
		return fh_errf(&e->err, -EROFS, "%s is not revoked: the audit log is strict, and cannot be written: %s",
			       e->revoke, strerror(-rc));
	/* What others have changed until now is not this one's doing, and told of by itself. */
	fh_keywatch_look(i->watch);
	rc = write_revocation(db, e);
	if (rc)
		return rc;
	fhd_audit_key_by(i->audit, &e->by, e->revoke);
	fh_info("keys: %s was revoked over HTTP by %s%s%s", e->revoke, e->by.tenant, e->by.user[0] ? "/" : "",
		e->by.user);
	/* Revoked, but not in force, or not in the log: the client is to hear of it, and the log says why. */
	if (fh_keywatch_look(i->watch))
		return fh_errf(&e->err, -EIO, "%s is revoked in the database, but the keys cannot be read", e->revoke);
	return fhd_audit_key_changed(i->audit)
		       ? fh_errf(&e->err, -EIO, "%s is revoked, but the audit log does not get to it", e->revoke)
		       : 0;
}

static void run(struct fhd_identity *i, struct fh_keydb *db, struct fh_key_errand *e)
{
	e->rc = e->revoke[0] ? revoke_key(i, db, e) : list_keys(db, e);
	if (e->rc && e->rc != -ENOENT && e->rc != -EALREADY)
		fh_error("keys: an errand of %s: %s", e->by.tenant, e->err.msg);
	atomic_fetch_sub(&i->nr_errands, 1);
	e->done(e);
}

int fhd_identity_keys(struct fhd_identity *i, struct fh_key_errand *e)
{
	if (!i->accounts || atomic_fetch_add(&i->nr_errands, 1) >= MAX_ERRANDS) {
		if (i->accounts)
			atomic_fetch_sub(&i->nr_errands, 1);
		return -EAGAIN;
	}
	e->next = atomic_load(&i->errands);
	while (!atomic_compare_exchange_weak(&i->errands, &e->next, e))
		;
	return 0;
}

void fhd_errands_run(struct fhd_identity *i, struct fh_keydb *db)
{
	struct fh_key_errand *e = atomic_exchange(&i->errands, NULL), *next, *first = NULL;

	/* They lie with the last first. */
	for (; e; e = next) {
		next = e->next;
		e->next = first;
		first = e;
	}
	for (e = first; e; e = next) {
		next = e->next;
		run(i, db, e);
	}
}
