// SPDX-License-Identifier: Apache-2.0
/* The table of keys: made once, then only read. */
#include "runtime/trust/keytab.h"

#include <errno.h>
#include <fnmatch.h>
#include <sodium.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define CLOCK_STEP_S 86400 /* that a clock may be set back by while a table is in use */

struct entry {
	uint8_t hash[FH_KEY_HASH_BYTES];
	uint64_t expires_s;
	bool revoked, disabled;
	char replaced_by[2 * FH_IDENTITY_KEY_BYTES + 1]; /* "": by none */
	struct fh_grant grant;
};

struct tenant {
	char name[FH_IDENTITY_NAME_MAX + 1];
	bool disabled;
};

/* Accounts of tenants and users, for those who come without a key. */
struct named {
	char name[2 * FH_IDENTITY_NAME_MAX + 2]; /* "tenant" or "tenant/user" */
	uint32_t account;
};

struct keytab {
	struct fh_guard guard;
	const struct fh_keytab_world *world;
	uint8_t secret[FH_KEY_SECRET_BYTES];
	bool has_db;
	uint32_t nr, cap;
	struct entry *e;	/* [cap] */
	uint32_t mask;		/* of slot[] */
	uint32_t *slot;		/* [mask + 1] 1 + index of an entry; 0: free */
	struct tenant *tenants; /* [nr_tenants] by name */
	uint32_t nr_tenants, cap_tenants;
	struct named *named; /* [nr_named] by name */
	uint32_t nr_named, cap_named;
};

static const struct keytab *keytab_of(const struct fh_guard *g)
{
	return (const struct keytab *)((const char *)g - offsetof(struct keytab, guard));
}

/* FNV-1a (Fowler, Noll, Vo). */
uint32_t fh_tenant_nr(const char *name)
{
	uint32_t h = 2166136261u;

	for (; *name; name++)
		h = (h ^ (unsigned char)*name) * 16777619u;
	h &= 0x7fffffffu;
	return h ? h : 1;
}

static uint32_t first_slot(const struct keytab *t, const uint8_t *hash)
{
	uint32_t v;

	memcpy(&v, hash, sizeof(v));
	return v & t->mask;
}

/* ---- scopes ---- */

/* The next of a comma-separated list, without blanks around it. False: there are no more. */
static bool next_word(const char **list, char *word, size_t cap)
{
	size_t n;

	*list += strspn(*list, ", \t");
	n = strcspn(*list, ",");
	if (!n)
		return false;
	snprintf(word, cap, "%.*s", (int)(n < cap ? n : cap - 1), *list);
	*list += n;
	for (n = strlen(word); n && (word[n - 1] == ' ' || word[n - 1] == '\t'); n--)
		word[n - 1] = 0;
	return true;
}

int fh_keytab_endpoints(const struct fh_keytab_world *w, const char *list, uint64_t *bits, char bad[64])
{
	char word[64];

	*bits = *list ? 0 : FH_GRANT_ALL;
	while (next_word(&list, word, sizeof(word))) {
		size_t n = strlen(word);
		bool found = true;

		if (!strcmp(word, "all"))
			*bits |= FH_GRANT_ALL;
		else if (!strcmp(word, "admin"))
			*bits |= FH_GRANT_ADMIN;
		else
			found = false;

		for (uint32_t i = 0; i < w->nr_endpoints; i++) {
			const char *path = w->endpoints[i];

			/* Who may read /v1/models may read /v1/models/{id}. */
			if (*path && !strncmp(path, word, n) && (!path[n] || !strcmp(path + n, "/{id}"))) {
				*bits |= 1ull << i;
				found = true;
			}
		}
		if (!found) {
			memcpy(bad, word, sizeof(word));
			return -EINVAL;
		}
	}
	return 0;
}

static bool may_use(const char *models, const char *model)
{
	char word[256];

	if (!*models)
		return true;
	while (next_word(&models, word, sizeof(word)))
		if (!fnmatch(word, model, 0))
			return true;
	return false;
}

/* ---- making one ---- */

static void *more(void *at, uint32_t nr, uint32_t *cap, size_t bytes)
{
	void *p = at;

	if (nr < *cap)
		return at;
	p = realloc(at, (size_t)(*cap ? *cap * 2 : 16) * bytes);
	if (p)
		*cap = *cap ? *cap * 2 : 16;
	return p;
}

/* ---- accounts ---- */

static void user_name(char out[2 * FH_IDENTITY_NAME_MAX + 2], const char *tenant, const char *user)
{
	snprintf(out, 2 * FH_IDENTITY_NAME_MAX + 2, "%s/%s", tenant, user);
}

/* The number of @name, noted for those who come without a key. */
static int number(struct keytab *t, enum fh_budget_kind kind, const char *name, uint32_t *account)
{
	struct named *list;

	*account = t->world->accounts ? fh_accounts_number(t->world->accounts, kind, name) : 0;
	if (!t->world->accounts || kind == FH_BUDGET_KEY)
		return 0;
	list = more(t->named, t->nr_named, &t->cap_named, sizeof(*list));
	if (!list)
		return -ENOMEM;
	t->named = list;
	list += t->nr_named++;
	snprintf(list->name, sizeof(list->name), "%s", name);
	list->account = *account;
	return 0;
}

static int number_user(struct keytab *t, const char *tenant, const char *user, uint32_t *account)
{
	char name[2 * FH_IDENTITY_NAME_MAX + 2];

	*account = 0;
	if (!*user)
		return 0;
	user_name(name, tenant, user);
	return number(t, FH_BUDGET_USER, name, account);
}

static int by_name(const void *a, const void *b)
{
	return strcmp(((const struct named *)a)->name, ((const struct named *)b)->name);
}

static int number_rules(struct keytab *t)
{
	const char *tenant, *user;
	uint32_t account;
	int rc = 0;

	for (uint32_t i = 0; i < fh_rules_nr(t->world->rules) && !rc; i++) {
		if (!fh_rules_target(t->world->rules, i, &tenant, &user))
			continue;
		rc = number(t, FH_BUDGET_TENANT, tenant, &account);
		if (!rc)
			rc = number_user(t, tenant, user, &account);
	}
	if (!rc && t->nr_named)
		qsort(t->named, t->nr_named, sizeof(*t->named), by_name);
	return rc;
}

static uint32_t account_of(const struct keytab *t, const char *name)
{
	struct named key, *found;

	snprintf(key.name, sizeof(key.name), "%s", name);
	found = t->nr_named ? bsearch(&key, t->named, t->nr_named, sizeof(key), by_name) : NULL;
	return found ? found->account : 0;
}

/* A key that lets nobody in uses nothing. Numbers are never given back: none for those. */
static bool is_over(const struct fh_key_row *r)
{
	return r->revoked_s || (r->expires_s && r->expires_s + CLOCK_STEP_S <= (uint64_t)time(NULL));
}

static int add_key(void *ctx, const struct fh_key_row *r)
{
	struct keytab *t = ctx;
	struct entry *list = more(t->e, t->nr, &t->cap, sizeof(*t->e)), *e;
	char bad[64];
	int rc;

	if (!list)
		return -ENOMEM;
	t->e = list;
	e = &list[t->nr++];
	*e = (struct entry){.expires_s = r->expires_s, .revoked = r->revoked_s != 0, .disabled = r->disabled};
	memcpy(e->hash, r->hash, sizeof(e->hash));
	snprintf(e->replaced_by, sizeof(e->replaced_by), "%s", r->replaced_by);
	e->grant = (struct fh_grant){.who = {.how = FH_ID_KEY, .has_key_id = true},
				     .tenant_nr = fh_tenant_nr(r->tenant),
				     .model = may_use(r->models, t->world->model)};
	strcpy(e->grant.who.tenant, r->tenant);
	strcpy(e->grant.who.user, r->user);
	memcpy(e->grant.who.key_id, r->hash, sizeof(e->grant.who.key_id));
	/* A scope that speaks of an endpoint which this version lacks grants what is left of it. */
	fh_keytab_endpoints(t->world, r->endpoints, &e->grant.endpoints, bad);
	rc = number(t, FH_BUDGET_TENANT, r->tenant, &e->grant.account[FH_BUDGET_TENANT]);
	if (!rc)
		rc = number_user(t, r->tenant, r->user, &e->grant.account[FH_BUDGET_USER]);
	if (!rc && !is_over(r))
		rc = number(t, FH_BUDGET_KEY, r->id, &e->grant.account[FH_BUDGET_KEY]);
	return rc;
}

static int add_tenant(void *ctx, const char *name, bool disabled)
{
	struct keytab *t = ctx;
	struct tenant *list;
	uint32_t account;

	if (!name || !fh_identity_name_ok(name))
		return -EBADMSG;
	list = more(t->tenants, t->nr_tenants, &t->cap_tenants, sizeof(*t->tenants));
	if (!list)
		return -ENOMEM;
	t->tenants = list;
	strcpy(list[t->nr_tenants].name, name);
	list[t->nr_tenants++].disabled = disabled;
	return number(t, FH_BUDGET_TENANT, name, &account);
}

/* Whoever has a budget is a user, with a key or without: certificates and rules name users, too. */
static int add_user(void *ctx, const char *tenant, const char *user)
{
	uint32_t account;

	/* Nobody comes in by a name that is none. */
	if (!tenant || !user || !fh_identity_name_ok(tenant) || !fh_identity_name_ok(user))
		return 0;
	return number_user(ctx, tenant, user, &account);
}

static int make_slots(struct keytab *t)
{
	uint32_t n = 16;

	while (n < 2 * t->nr)
		n *= 2;
	t->slot = calloc(n, sizeof(*t->slot));
	if (!t->slot)
		return -ENOMEM;
	t->mask = n - 1;
	for (uint32_t i = 0; i < t->nr; i++) {
		uint32_t at = first_slot(t, t->e[i].hash);

		while (t->slot[at])
			at = (at + 1) & t->mask;
		t->slot[at] = i + 1;
	}
	return 0;
}

static void keytab_free(struct fh_guard *g)
{
	struct keytab *t = (struct keytab *)keytab_of(g);

	free(t->e);
	free(t->slot);
	free(t->tenants);
	free(t->named);
	sodium_memzero(t, sizeof(*t));
	free(t);
}

/* ---- asking ---- */

static enum fh_guard_verdict verdict(const struct entry *e, uint64_t now_s)
{
	if (e->revoked)
		return FH_GUARD_REVOKED;
	if (e->expires_s && e->expires_s <= now_s)
		return FH_GUARD_EXPIRED;
	return e->disabled ? FH_GUARD_DISABLED : FH_GUARD_OK;
}

static enum fh_guard_verdict bearer(const struct fh_guard *g, const char *key, size_t n, uint64_t now_s,
				    struct fh_grant *out)
{
	const struct keytab *t = keytab_of(g);
	uint8_t hash[FH_KEY_HASH_BYTES];

	if (!t->nr)
		return FH_GUARD_UNKNOWN;
	fh_key_hash(t->secret, key, n, hash);
	for (uint32_t at = first_slot(t, hash); t->slot[at]; at = (at + 1) & t->mask) {
		const struct entry *e = &t->e[t->slot[at] - 1];

		if (sodium_memcmp(e->hash, hash, sizeof(hash)))
			continue;
		if (verdict(e, now_s) == FH_GUARD_OK)
			*out = e->grant;
		return verdict(e, now_s);
	}
	return FH_GUARD_UNKNOWN;
}

static const struct tenant *find_tenant(const struct keytab *t, const char *name)
{
	uint32_t lo = 0, hi = t->nr_tenants;

	while (lo < hi) {
		uint32_t mid = lo + (hi - lo) / 2;
		int c = strcmp(t->tenants[mid].name, name);

		if (!c)
			return &t->tenants[mid];
		if (c < 0)
			lo = mid + 1;
		else
			hi = mid;
	}
	return NULL;
}

static bool locked(const struct fh_guard *g, const char *name)
{
	const struct tenant *tenant = find_tenant(keytab_of(g), name);

	return tenant && tenant->disabled;
}

static enum fh_guard_verdict still(const struct fh_guard *g, const struct fh_identity *who, uint64_t now_s)
{
	const struct keytab *t = keytab_of(g);

	if (who->how != FH_ID_KEY)
		return locked(g, who->tenant) ? FH_GUARD_DISABLED : FH_GUARD_OK;
	/* What it is looked up by begins as its id does. */
	for (uint32_t at = first_slot(t, who->key_id); t->slot[at]; at = (at + 1) & t->mask) {
		const struct entry *e = &t->e[t->slot[at] - 1];

		if (!memcmp(e->hash, who->key_id, sizeof(who->key_id)))
			return verdict(e, now_s);
	}
	return FH_GUARD_UNKNOWN;
}

/* All that is served, to whom @out->who names. */
static enum fh_guard_verdict grant_all(const struct keytab *t, struct fh_grant *out)
{
	const struct tenant *tenant = find_tenant(t, out->who.tenant);
	char user[2 * FH_IDENTITY_NAME_MAX + 2];

	if (tenant && tenant->disabled)
		return FH_GUARD_DISABLED;
	out->tenant_nr = fh_tenant_nr(out->who.tenant);
	out->account[FH_BUDGET_TENANT] = account_of(t, out->who.tenant);
	if (out->who.user[0]) {
		user_name(user, out->who.tenant, out->who.user);
		out->account[FH_BUDGET_USER] = account_of(t, user);
	}
	out->endpoints = FH_GRANT_ALL;
	out->model = true;
	return FH_GUARD_OK;
}

static enum fh_guard_verdict cert(const struct fh_guard *g, const struct fh_guard_cert *c, struct fh_grant *out)
{
	const struct keytab *t = keytab_of(g);

	*out = (struct fh_grant){.who = {.how = FH_ID_CERT, .has_key_id = true}};
	memcpy(out->who.key_id, c->sha256, sizeof(out->who.key_id));
	switch (fh_rules_cert(t->world->rules, c->common_name, &out->who)) {
	case FH_RULES_REFUSE: return FH_GUARD_DISABLED;
	case FH_RULES_YES: return grant_all(t, out);
	default: break;
	}
	/* Without a rule: the organization is the tenant, which must be there if there is a database. */
	if (!fh_identity_name_ok(c->organization) || (t->has_db && !find_tenant(t, c->organization)))
		return FH_GUARD_UNKNOWN;
	strcpy(out->who.tenant, c->organization);
	if (fh_identity_name_ok(c->common_name))
		strcpy(out->who.user, c->common_name);
	return grant_all(t, out);
}

static enum fh_guard_verdict peer(const struct fh_guard *g, uint32_t uid, uint32_t pid, uint64_t cgroup_id,
				  struct fh_grant *out)
{
	const struct keytab *t = keytab_of(g);

	*out = (struct fh_grant){0};
	fh_identity_peer(&out->who, uid, pid, cgroup_id);
	switch (fh_rules_peer(t->world->rules, uid, pid, cgroup_id, &out->who)) {
	case FH_RULES_REFUSE: return FH_GUARD_DISABLED;
	case FH_RULES_YES: return grant_all(t, out);
	default: return FH_GUARD_UNKNOWN;
	}
}

static enum fh_guard_verdict udp(const struct fh_guard *g, const char *name,
				 const uint8_t key_id[FH_IDENTITY_KEY_BYTES], struct fh_grant *out)
{
	const struct keytab *t = keytab_of(g);

	*out = (struct fh_grant){.who = {.how = FH_ID_PUBKEY, .has_key_id = true}};
	memcpy(out->who.key_id, key_id, sizeof(out->who.key_id));
	switch (fh_rules_udp(t->world->rules, name, &out->who)) {
	case FH_RULES_REFUSE: return FH_GUARD_DISABLED;
	case FH_RULES_YES: return grant_all(t, out);
	default: break;
	}
	/* Without a rule: its name is the tenant, which must be there if there is a database. */
	if (!fh_identity_name_ok(name) || (t->has_db && !find_tenant(t, name)))
		return FH_GUARD_UNKNOWN;
	strcpy(out->who.tenant, name);
	return grant_all(t, out);
}

static const struct fh_guard_ops ops = {.bearer = bearer,
					.cert = cert,
					.peer = peer,
					.udp = udp,
					.still = still,
					.locked = locked,
					.free = keytab_free};

int fh_keytab_load(struct fh_keydb *db, const struct fh_keytab_world *world, struct fh_guard **out, struct fh_err *err)
{
	struct keytab *t = calloc(1, sizeof(*t));
	int rc = 0;

	if (!t)
		return fh_errf(err, -ENOMEM, "no memory for the table of keys");
	t->guard.ops = &ops;
	atomic_init(&t->guard.nr_refs, 1);
	t->world = world;
	t->has_db = db;
	err->msg[0] = 0;
	if (db) {
		memcpy(t->secret, fh_keydb_secret(db), sizeof(t->secret));
		rc = fh_keydb_each_tenant(db, add_tenant, t, err);
		if (!rc && world->accounts)
			rc = fh_keydb_each_user(db, add_user, t, err);
		if (!rc)
			rc = fh_keydb_each_key(db, NULL, add_key, t, err);
	}
	if (!rc)
		rc = number_rules(t);
	if (!rc)
		rc = make_slots(t);
	if (rc) {
		if (!err->msg[0])
			fh_errf(err, rc, "the table of keys: %s", strerror(-rc));
		keytab_free(&t->guard);
		return rc;
	}
	*out = &t->guard;
	return 0;
}

uint32_t fh_keytab_nr_keys(const struct fh_guard *g)
{
	return keytab_of(g)->nr;
}

void fh_keytab_digest(const struct fh_guard *g, uint8_t out[32])
{
	const struct keytab *t = keytab_of(g);
	crypto_generichash_state st;

	crypto_generichash_init(&st, NULL, 0, 32);
	for (uint32_t i = 0; i < t->nr; i++) {
		const struct entry *e = &t->e[i];
		const uint64_t v[] = {e->expires_s, e->revoked, e->disabled, e->grant.endpoints, e->grant.model};

		crypto_generichash_update(&st, e->hash, sizeof(e->hash));
		crypto_generichash_update(&st, (const uint8_t *)v, sizeof(v));
		crypto_generichash_update(&st, (const uint8_t *)e->replaced_by, sizeof(e->replaced_by));
	}
	for (uint32_t i = 0; i < t->nr_tenants; i++) {
		crypto_generichash_update(&st, (const uint8_t *)t->tenants[i].name, strlen(t->tenants[i].name) + 1);
		crypto_generichash_update(&st, (const uint8_t *)&t->tenants[i].disabled, 1);
	}
	crypto_generichash_final(&st, out, 32);
}

/* ---- what has changed ---- */

static const struct entry *find_entry(const struct keytab *t, const uint8_t *hash)
{
	for (uint32_t at = first_slot(t, hash); t->slot[at]; at = (at + 1) & t->mask)
		if (!memcmp(t->e[t->slot[at] - 1].hash, hash, FH_KEY_HASH_BYTES))
			return &t->e[t->slot[at] - 1];
	return NULL;
}

struct changes {
	char *out;
	size_t n, cap;
	uint32_t nr_more;
};

#define MORE_BYTES 24 /* "; and 4294967295 more" */

static void __attribute__((format(printf, 2, 3))) add_change(struct changes *c, const char *fmt, ...)
{
	char text[256];
	va_list ap;
	int n;

	va_start(ap, fmt);
	n = vsnprintf(text, sizeof(text), fmt, ap);
	va_end(ap);
	if (c->nr_more || n < 0 || c->n + (size_t)n + 2 + MORE_BYTES > c->cap) {
		c->nr_more++;
		return;
	}
	c->n += (size_t)snprintf(c->out + c->n, c->cap - c->n, "%s%s", c->n ? "; " : "", text);
}

static void add_key_change(struct changes *c, const char *what, const struct entry *e, const char *to)
{
	const struct fh_identity *who = &e->grant.who;
	char id[2 * FH_IDENTITY_KEY_BYTES + 1];

	sodium_bin2hex(id, sizeof(id), who->key_id, sizeof(who->key_id));
	add_change(c, "%s %s (%s%s%s)%s%s", what, id, who->tenant, who->user[0] ? "/" : "", who->user,
		   *to ? " to " : "", to);
}

static void compare_entries(struct changes *c, const struct entry *old, const struct entry *e)
{
	if (!old)
		add_key_change(c, "added", e, "");
	else if (e->revoked && !old->revoked)
		add_key_change(c, "revoked", e, "");
	else if (strcmp(e->replaced_by, old->replaced_by))
		add_key_change(c, "rotated", e, e->replaced_by);
	else if (e->revoked != old->revoked || e->expires_s != old->expires_s ||
		 e->grant.endpoints != old->grant.endpoints || e->grant.model != old->grant.model ||
		 strcmp(e->grant.who.tenant, old->grant.who.tenant) || strcmp(e->grant.who.user, old->grant.who.user))
		add_key_change(c, "changed", e, "");
}

void fh_keytab_changes(const struct fh_guard *before, const struct fh_guard *now, char *out, size_t cap)
{
	const struct keytab *a = keytab_of(before), *b = keytab_of(now);
	struct changes c = {.out = out, .cap = cap};

	*out = 0;
	for (uint32_t i = 0; i < b->nr_tenants; i++) {
		const struct tenant *old = find_tenant(a, b->tenants[i].name);

		if (!old)
			add_change(&c, "new tenant %s", b->tenants[i].name);
		if (b->tenants[i].disabled != (old && old->disabled))
			add_change(&c, "%s tenant %s", b->tenants[i].disabled ? "locked out" : "let in",
				   b->tenants[i].name);
	}
	for (uint32_t i = 0; i < b->nr; i++)
		compare_entries(&c, find_entry(a, b->e[i].hash), &b->e[i]);
	for (uint32_t i = 0; i < a->nr; i++)
		if (!find_entry(b, a->e[i].hash))
			add_key_change(&c, "removed", &a->e[i], "");
	if (c.nr_more)
		snprintf(out + c.n, cap - c.n, "%sand %u more", c.n ? "; " : "", c.nr_more);
}
