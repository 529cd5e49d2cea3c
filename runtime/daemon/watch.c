// SPDX-License-Identifier: Apache-2.0
/*
 * What the thread of the keys does for those who watch: it counts what tenants
 * have used, and runs errands to the key database.
 */
#include "runtime/daemon/watch.h"

#include <errno.h>
#include <inttypes.h>
#include <jansson.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "runtime/base/log.h"
#include "runtime/trust/accounts.h"

#define MAX_ERRANDS 16 /* that wait */

/* ---- tenants ---- */

static int by_use(const void *a, const void *b)
{
	const struct fh_tenant_use *x = a, *y = b;

	if (x->tokens[FH_SPAN_DAY] != y->tokens[FH_SPAN_DAY])
		return x->tokens[FH_SPAN_DAY] < y->tokens[FH_SPAN_DAY] ? 1 : -1;
	return strcmp(x->name, y->name);
}

static void fill(const struct fhd_identity *i, uint32_t account, const char *name, struct fh_tenant_use *t)
{
	struct fh_account_use use = {0};

	*t = (struct fh_tenant_use){0};
	snprintf(t->name, sizeof(t->name), "%s", name);
	if (i->table && account < i->table->nr)
		t->limits = i->table->entry[account].own;
	if (!fhd_identity_use(i->engine, account, &use))
		return;
	memcpy(t->ends_s, use.ends_s, sizeof(t->ends_s));
	memcpy(t->tokens, use.tokens, sizeof(t->tokens));
	memcpy(t->money, use.money, sizeof(t->money));
	memcpy(t->requests, use.requests, sizeof(t->requests));
}

static struct fh_tenants *count(const struct fhd_identity *i)
{
	uint32_t nr = fh_accounts_nr(i->accounts);
	struct fh_tenants *t;
	const char *name;
	uint32_t nr_tenants = 0;

	for (uint32_t n = 1; n <= nr; n++)
		nr_tenants += fh_accounts_name(i->accounts, n, FH_BUDGET_TENANT) != NULL;
	t = calloc(1, sizeof(*t) + nr_tenants * sizeof(t->t[0]));
	for (uint32_t n = 1; t && n <= nr; n++)
		if ((name = fh_accounts_name(i->accounts, n, FH_BUDGET_TENANT)))
			fill(i, n, name, &t->t[t->nr++]);
	if (t)
		qsort(t->t, t->nr, sizeof(t->t[0]), by_use);
	return t;
}

struct fh_tenants *fhd_identity_tenants(struct fhd_identity *i)
{
	if (!i->accounts)
		return NULL;
	atomic_store(&i->tenants_wanted, true);
	return atomic_exchange(&i->tenants, NULL);
}

/* ---- errands ---- */

struct list {
	json_t *keys;
	uint64_t now_s;
};

static int add_key(void *ctx, const struct fh_key_row *r)
{
	struct list *l = ctx;
	json_t *j = json_pack("{s:s, s:s, s:s, s:s, s:s, s:s, s:s, s:I, s:I}", "id", r->id, "state",
			      fh_key_state(r, l->now_s), "tenant", r->tenant, "user", r->user, "label", r->label,
			      "models", r->models, "endpoints", r->endpoints, "created", (json_int_t)r->created_s,
			      "expires", (json_int_t)r->expires_s);

	return json_array_append_new(l->keys, j) ? -ENOMEM : 0;
}

static int list_keys(struct fh_keydb *db, struct fh_key_errand *e)
{
	struct list l = {.keys = json_array(), .now_s = (uint64_t)time(NULL)};
	int rc = fh_keydb_each_key(db, NULL, add_key, &l, &e->err);

	e->out = rc ? NULL : json_dumps(l.keys, JSON_COMPACT);
	e->bytes = e->out ? strlen(e->out) : 0;
	json_decref(l.keys);
	return rc ? rc : e->out ? 0 : -ENOMEM;
}

/* Durable before it is answered, whatever the rest of this connection's writes are. */
static int revoke_key(struct fhd_identity *i, struct fh_keydb *db, struct fh_key_errand *e)
{
	struct fh_err ignored;
	int rc = fh_keydb_unrelax(db, &e->err);

	if (!rc)
		rc = fh_keydb_revoke(db, e->revoke, (uint64_t)time(NULL), &e->err);
	fh_keydb_relax(db, &ignored);
	if (rc)
		return rc;
	fh_info("keys: %s was revoked over HTTP by %s%s%s", e->revoke, e->by.tenant, e->by.user[0] ? "/" : "",
		e->by.user);
	/* Revoked, but not in force: the client is to hear of it, and the log says why. */
	return fh_keywatch_look(i->watch)
		       ? fh_errf(&e->err, -EIO, "%s is revoked in the database, but the keys cannot be read", e->revoke)
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

void fhd_watch_tick(struct fhd_identity *i, struct fh_keydb *db)
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
	if (atomic_exchange(&i->tenants_wanted, false))
		free(atomic_exchange(&i->tenants, count(i)));
}

void fhd_watch_limits(struct fhd_identity *i, const struct fh_budget_table *t)
{
	size_t bytes = t ? sizeof(*t) + t->nr * sizeof(t->entry[0]) : 0;

	free(i->table);
	i->table = t ? malloc(bytes) : NULL;
	if (i->table)
		memcpy(i->table, t, bytes);
}
