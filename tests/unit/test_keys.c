// SPDX-License-Identifier: Apache-2.0
/* The key database, the table that is made of it, the rules, and that changes arrive while readers read. */
#include <criterion/criterion.h>
#include <dirent.h>
#include <pthread.h>
#include <sqlite3.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "runtime/base/clock.h"
#include "runtime/trust/keytab.h"
#include "runtime/trust/keywatch.h"

#define NOW 1790000000u

static const char *const paths[] = {"/v1/models", "/v1/models/{id}", "/v1/chat/completions", "/metrics"};

struct rig {
	char dir[64], path[80];
	struct fh_keydb *db;
	struct fh_keytab_world world;
};

static void rig_up(struct rig *r)
{
	struct fh_err err;

	*r = (struct rig){.dir = "/tmp/fh-keys-XXXXXX",
			  .world = {.model = "stories", .endpoints = paths, .nr_endpoints = 4}};
	cr_assert(mkdtemp(r->dir));
	snprintf(r->path, sizeof(r->path), "%s/keys.db", r->dir);
	cr_assert_eq(fh_keydb_open(r->path, true, &r->db, &err), 0, "%s", err.msg);
}

static void rig_down(struct rig *r)
{
	static const char *const ends[] = {"", "-wal", "-shm"};
	char path[128];

	fh_keydb_close(r->db);
	for (int i = 0; i < 3; i++) {
		snprintf(path, sizeof(path), "%s%s", r->path, ends[i]);
		unlink(path);
	}
	cr_expect_eq(rmdir(r->dir), 0);
}

static struct fh_key_new add(struct rig *r, struct fh_key_spec spec)
{
	struct fh_key_new k;
	struct fh_err err;

	cr_assert_eq(fh_keydb_add(r->db, &spec, NOW, &k, &err), 0, "%s", err.msg);
	return k;
}

static struct fh_guard *table(struct rig *r)
{
	struct fh_guard *g;
	struct fh_err err;

	cr_assert_eq(fh_keytab_load(r->db, &r->world, &g, &err), 0, "%s", err.msg);
	return g;
}

/* What a fresh table says of @key at @now. */
static enum fh_guard_verdict ask(struct rig *r, const char *key, uint64_t now, struct fh_grant *out)
{
	struct fh_guard *g = table(r);
	enum fh_guard_verdict v = g->ops->bearer(g, key, strlen(key), now, out);

	fh_guard_put(g);
	return v;
}

Test(keys, a_key_says_whose_it_is)
{
	struct fh_key_new k, other;
	struct fh_grant who;
	struct rig r;
	char wrong[64];

	rig_up(&r);
	cr_expect_eq(ask(&r, "fh-nothing", NOW, &who), FH_GUARD_UNKNOWN);
	k = add(&r, (struct fh_key_spec){.tenant = "acme", .user = "alice"});
	other = add(&r, (struct fh_key_spec){.tenant = "acme"});
	cr_expect_eq(strlen(k.text), FH_KEY_TEXT_BYTES);
	cr_expect_eq(ask(&r, k.text, NOW, &who), FH_GUARD_OK);
	cr_expect_str_eq(who.who.tenant, "acme");
	cr_expect_str_eq(who.who.user, "alice");
	cr_expect_eq(who.who.how, FH_ID_KEY);
	cr_expect(who.model);
	cr_expect_eq(who.endpoints, FH_GRANT_ALL);
	cr_expect_eq(who.tenant_nr, fh_tenant_nr("acme"));
	cr_expect_eq(ask(&r, other.text, NOW, &who), FH_GUARD_OK);
	cr_expect_str_eq(who.who.user, "");
	/* Any other byte, a byte more or less: nobody. */
	for (size_t i = 0; k.text[i]; i++) {
		strcpy(wrong, k.text);
		wrong[i] ^= 1;
		cr_expect_eq(ask(&r, wrong, NOW, &who), FH_GUARD_UNKNOWN);
	}
	snprintf(wrong, sizeof(wrong), "%sx", k.text);
	cr_expect_eq(ask(&r, wrong, NOW, &who), FH_GUARD_UNKNOWN);
	strcpy(wrong, k.text);
	wrong[FH_KEY_TEXT_BYTES - 1] = 0;
	cr_expect_eq(ask(&r, wrong, NOW, &who), FH_GUARD_UNKNOWN);
	cr_expect_eq(ask(&r, "", NOW, &who), FH_GUARD_UNKNOWN);
	rig_down(&r);
}

/* Nothing in any file of the database gives a key away. */
Test(keys, the_key_itself_is_not_stored)
{
	static char data[1 << 20];
	struct fh_key_new k;
	struct dirent *de;
	struct stat st;
	struct rig r;
	DIR *d;

	rig_up(&r);
	k = add(&r, (struct fh_key_spec){.tenant = "acme"});
	cr_assert_eq(stat(r.path, &st), 0);
	cr_expect_eq(st.st_mode & 0777, 0600);
	d = opendir(r.dir);
	while ((de = readdir(d))) {
		char path[512];
		size_t n;
		FILE *f;

		if (de->d_name[0] == '.')
			continue;
		snprintf(path, sizeof(path), "%s/%s", r.dir, de->d_name);
		f = fopen(path, "r");
		cr_assert(f);
		n = fread(data, 1, sizeof(data), f);
		fclose(f);
		cr_expect_lt(n, sizeof(data));
		cr_expect(!memmem(data, n, k.text, strlen(k.text)), "%s has the key", de->d_name);
		cr_expect(!memmem(data, n, k.text + 3, 20), "%s has a part of the key", de->d_name);
	}
	closedir(d);
	rig_down(&r);
}

Test(keys, expiry_revocation_and_locks)
{
	struct fh_key_new k;
	struct fh_grant who;
	struct fh_err err;
	struct rig r;

	rig_up(&r);
	k = add(&r, (struct fh_key_spec){.tenant = "acme", .expires_s = NOW + 10});
	cr_expect_eq(ask(&r, k.text, NOW + 9, &who), FH_GUARD_OK);
	cr_expect_eq(ask(&r, k.text, NOW + 10, &who), FH_GUARD_EXPIRED);
	cr_expect_eq(fh_keydb_set_disabled(r.db, "acme", true, &err), 0);
	cr_expect_eq(ask(&r, k.text, NOW, &who), FH_GUARD_DISABLED);
	cr_expect_eq(fh_keydb_set_disabled(r.db, "acme", false, &err), 0);
	cr_expect_eq(ask(&r, k.text, NOW, &who), FH_GUARD_OK);
	cr_expect_eq(fh_keydb_set_disabled(r.db, "nobody", true, &err), -ENOENT);
	cr_expect_eq(fh_keydb_revoke(r.db, k.id, NOW, &err), 0);
	cr_expect_eq(ask(&r, k.text, NOW, &who), FH_GUARD_REVOKED);
	cr_expect_eq(fh_keydb_revoke(r.db, k.id, NOW, &err), -EALREADY);
	cr_expect_eq(fh_keydb_revoke(r.db, "0123456789abcdef", NOW, &err), -ENOENT);
	rig_down(&r);
}

Test(keys, rotation_keeps_what_the_key_may)
{
	struct fh_key_new k, next, again;
	struct fh_grant who;
	struct fh_err err;
	struct rig r;

	rig_up(&r);
	k = add(&r,
		(struct fh_key_spec){.tenant = "acme", .user = "bob", .endpoints = "/metrics", .expires_s = NOW + 50});
	cr_assert_eq(fh_keydb_rotate(r.db, k.id, 10, NOW, &next, &err), 0, "%s", err.msg);
	cr_expect_neq(strcmp(k.text, next.text), 0);
	cr_expect_eq(ask(&r, k.text, NOW + 9, &who), FH_GUARD_OK);
	cr_expect_eq(ask(&r, k.text, NOW + 10, &who), FH_GUARD_EXPIRED);
	cr_expect_eq(ask(&r, next.text, NOW + 49, &who), FH_GUARD_OK);
	cr_expect_str_eq(who.who.user, "bob");
	cr_expect_eq(who.endpoints, 8);
	cr_expect_eq(ask(&r, next.text, NOW + 50, &who), FH_GUARD_EXPIRED);
	/* An overlap does not make a key live longer than it was to. */
	cr_assert_eq(fh_keydb_rotate(r.db, next.id, 1000, NOW, &again, &err), 0);
	cr_expect_eq(ask(&r, next.text, NOW + 50, &who), FH_GUARD_EXPIRED);
	/* What is over has no successor. */
	cr_expect_eq(fh_keydb_rotate(r.db, again.id, 0, NOW + 60, &k, &err), -EINVAL);
	cr_expect_eq(fh_keydb_rotate(r.db, "feed", 0, NOW, &k, &err), -ENOENT);
	rig_down(&r);
}

Test(keys, scopes)
{
	static const struct {
		const char *models, *endpoints;
		bool model;
		uint64_t bits;
	} cases[] = {
		{"", "", true, FH_GRANT_ALL},
		{"", "all", true, FH_GRANT_ALL},
		{"", "all, admin", true, UINT64_MAX},
		{"", "admin", true, FH_GRANT_ADMIN},
		{"stories", "/v1/models", true, 3},
		{"llama*, st?ries ,x", " /v1/chat/completions , /metrics", true, 12},
		{"stories2", "/metrics", false, 8},
		{"storie", "/v1/models/{id}", false, 2},
	};
	struct rig r;

	rig_up(&r);
	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		struct fh_key_new k =
			add(&r, (struct fh_key_spec){
					.tenant = "acme", .models = cases[i].models, .endpoints = cases[i].endpoints});
		struct fh_grant who;

		cr_expect_eq(ask(&r, k.text, NOW, &who), FH_GUARD_OK);
		cr_expect_eq(who.model, cases[i].model, "case %zu", i);
		cr_expect_eq(who.endpoints, cases[i].bits, "case %zu: %llx", i, (unsigned long long)who.endpoints);
	}
	rig_down(&r);
}

Test(keys, a_scope_of_nothing_known_grants_nothing)
{
	struct fh_key_new k;
	struct fh_grant who;
	char bad[64];
	uint64_t bits;
	struct rig r;

	rig_up(&r);
	cr_expect_eq(fh_keytab_endpoints(&r.world, "/v1/models,/v2", &bits, bad), -EINVAL);
	cr_expect_str_eq(bad, "/v2");
	k = add(&r, (struct fh_key_spec){.tenant = "acme", .endpoints = "/v2/future"});
	cr_expect_eq(ask(&r, k.text, NOW, &who), FH_GUARD_OK);
	cr_expect_eq(who.endpoints, 0);
	/* A list of blanks is a list, of nothing. */
	k = add(&r, (struct fh_key_spec){.tenant = "acme", .endpoints = " , ", .models = ","});
	cr_expect_eq(ask(&r, k.text, NOW, &who), FH_GUARD_OK);
	cr_expect_eq(who.endpoints, 0);
	cr_expect(!who.model);
	rig_down(&r);
}

Test(keys, bad_input_is_refused)
{
	char longer[FH_KEY_SCOPE_MAX + 2];
	const struct fh_key_spec bad[] = {
		{.tenant = NULL},
		{.tenant = ""},
		{.tenant = "a/b"},
		{.tenant = ".hidden"},
		{.tenant = "acme", .user = ""},
		{.tenant = "acme", .user = "x y"},
		{.tenant = "acme", .label = "line\nbreak"},
		{.tenant = "acme", .models = longer},
		{.tenant = "acme", .expires_s = NOW},
	};
	struct fh_keydb *db;
	struct fh_key_new k;
	struct fh_guard *g;
	struct fh_err err;
	struct rig r;
	FILE *f;

	memset(longer, 'x', sizeof(longer) - 1);
	longer[sizeof(longer) - 1] = 0;
	rig_up(&r);
	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++)
		cr_expect_eq(fh_keydb_add(r.db, &bad[i], NOW, &k, &err), -EINVAL, "case %zu", i);
	g = table(&r);
	cr_expect_eq(fh_keytab_nr_keys(g), 0);
	fh_guard_put(g);
	fh_keydb_close(r.db);
	/* What is no database of keys is not touched. */
	f = fopen(r.path, "w");
	fputs("this is not a database, and longer than its header would be: ................................", f);
	fclose(f);
	r.db = NULL;
	cr_expect_lt(fh_keydb_open(r.path, false, &db, &err), 0);
	cr_expect_lt(fh_keydb_open(r.path, true, &db, &err), 0);
	cr_expect(strstr(err.msg, r.path), "%s", err.msg);
	unlink(r.path);
	cr_expect_eq(fh_keydb_open(r.path, false, &db, &err), -ENOENT);
	rig_down(&r);
}

Test(keys, many_keys_each_found)
{
	struct fh_key_new k[600];
	struct fh_grant who;
	struct fh_guard *g;
	struct rig r;

	rig_up(&r);
	for (int i = 0; i < 600; i++) {
		char tenant[16];

		snprintf(tenant, sizeof(tenant), "t%d", i % 40);
		k[i] = add(&r, (struct fh_key_spec){.tenant = tenant});
	}
	g = table(&r);
	cr_expect_eq(fh_keytab_nr_keys(g), 600);
	for (int i = 0; i < 600; i++) {
		char tenant[16];

		snprintf(tenant, sizeof(tenant), "t%d", i % 40);
		cr_expect_eq(g->ops->bearer(g, k[i].text, strlen(k[i].text), NOW, &who), FH_GUARD_OK);
		cr_expect_str_eq(who.who.tenant, tenant);
	}
	fh_guard_put(g);
	rig_down(&r);
}

/* ---- rules ---- */

static struct fh_rules *rules(const char *const *texts, uint32_t nr)
{
	struct fh_rules *r;
	struct fh_err err;

	cr_assert_eq(fh_rules_parse(texts, nr, &r, &err), 0, "%s", err.msg);
	return r;
}

Test(rules, the_first_that_fits_counts)
{
	static const char *const texts[] = {
		"uid:1000 pid:42 acme/special", "uid:1000 acme",	"uid:root refuse",
		"udp:phone acme/phone",		"cert:gateway edge/gw", "cgroup:/ any root-group"};
	struct fh_rules *r = rules(texts, 6);
	struct fh_identity who = {0};
	struct stat st;

	cr_expect_eq(fh_rules_peer(r, 1000, 42, 0, &who), FH_RULES_YES);
	cr_expect_str_eq(who.user, "special");
	cr_expect_eq(fh_rules_peer(r, 1000, 43, 0, &who), FH_RULES_YES);
	cr_expect_str_eq(who.tenant, "acme");
	cr_expect_str_eq(who.user, "");
	cr_expect_eq(fh_rules_peer(r, 0, 1, 0, &who), FH_RULES_REFUSE);
	cr_expect_eq(fh_rules_peer(r, 7, 1, 0, &who), FH_RULES_NOTHING, "a cgroup that is not known is no rule's");
	if (!stat("/sys/fs/cgroup/", &st)) {
		cr_expect_eq(fh_rules_peer(r, 7, 1, st.st_ino, &who), FH_RULES_YES);
		cr_expect_str_eq(who.tenant, "root-group");
		cr_expect_eq(fh_rules_peer(r, 7, 1, st.st_ino + 1, &who), FH_RULES_NOTHING);
	}
	cr_expect_eq(fh_rules_cert(r, "gateway", &who), FH_RULES_YES);
	cr_expect_str_eq(who.user, "gw");
	cr_expect_eq(fh_rules_cert(r, "gatewa", &who), FH_RULES_NOTHING);
	cr_expect_eq(fh_rules_udp(r, "phone", &who), FH_RULES_YES);
	cr_expect_str_eq(who.user, "phone");
	cr_expect_eq(fh_rules_udp(r, "gateway", &who), FH_RULES_NOTHING, "that is a certificate's");
	cr_expect_eq(fh_rules_cert(r, "phone", &who), FH_RULES_NOTHING);
	cr_expect_eq(fh_rules_peer(NULL, 1000, 42, 0, &who), FH_RULES_NOTHING);
	fh_rules_free(r);
}

Test(rules, bad_rules_are_named)
{
	static const char *const bad[] = {"",
					  "acme",
					  "uid:1000",
					  "uid: acme",
					  "uid:99999999999 acme",
					  "uid:no-such-user-here acme",
					  "pid:0 acme",
					  "cgroup:relative acme",
					  "cgroup:/../etc acme",
					  "cert: acme",
					  "cert:x uid:1 acme",
					  "udp: acme",
					  "udp:x any acme",
					  "udp:x cert:x acme",
					  "uid:1 a/b/c",
					  "uid:1 .acme",
					  "uid:1 acme/",
					  "gid:1 acme"};
	struct fh_rules *r;
	struct fh_err err;

	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		err.msg[0] = 0;
		cr_expect_eq(fh_rules_parse(&bad[i], 1, &r, &err), -EINVAL, "\"%s\" was taken", bad[i]);
		cr_expect(strstr(err.msg, "rule \""), "%s", err.msg);
	}
}

Test(rules, clients_over_udp)
{
	static const char *const texts[] = {"udp:phone edge/phone", "udp:evil refuse"};
	static const uint8_t key_id[FH_IDENTITY_KEY_BYTES] = {1, 2, 3};
	struct fh_grant who;
	struct fh_guard *g;
	struct fh_err err;
	struct rig r;

	rig_up(&r);
	r.world.rules = rules(texts, 2);
	/* Without a database whoever is listed comes in, as the tenant of that name; with one it must be there. */
	cr_assert_eq(fh_keytab_load(NULL, &r.world, &g, &err), 0);
	cr_expect_eq(g->ops->udp(g, "acme", key_id, &who), FH_GUARD_OK);
	cr_expect_str_eq(who.who.tenant, "acme");
	cr_expect_eq(who.who.how, FH_ID_PUBKEY);
	cr_expect(who.who.has_key_id && !memcmp(who.who.key_id, key_id, sizeof(key_id)));
	cr_expect_eq(who.tenant_nr, fh_tenant_nr("acme"));
	cr_expect_eq(g->ops->udp(g, "not/a/name", key_id, &who), FH_GUARD_UNKNOWN);
	fh_guard_put(g);
	g = table(&r);
	cr_expect_eq(g->ops->udp(g, "acme", key_id, &who), FH_GUARD_UNKNOWN);
	cr_expect_eq(g->ops->udp(g, "phone", key_id, &who), FH_GUARD_OK);
	cr_expect_str_eq(who.who.tenant, "edge");
	cr_expect_str_eq(who.who.user, "phone");
	cr_expect_eq(g->ops->udp(g, "evil", key_id, &who), FH_GUARD_DISABLED);
	fh_guard_put(g);
	add(&r, (struct fh_key_spec){.tenant = "acme"});
	g = table(&r);
	cr_expect_eq(g->ops->udp(g, "acme", key_id, &who), FH_GUARD_OK);
	fh_guard_put(g);
	cr_assert_eq(fh_keydb_set_disabled(r.db, "acme", true, &err), 0);
	g = table(&r);
	cr_expect_eq(g->ops->udp(g, "acme", key_id, &who), FH_GUARD_DISABLED);
	fh_guard_put(g);
	fh_rules_free((struct fh_rules *)r.world.rules);
	rig_down(&r);
}

Test(rules, certificates)
{
	static const char *const texts[] = {"cert:gateway edge/gw", "cert:evil refuse"};
	struct fh_guard_cert c = {.organization = "acme", .common_name = "alice"};
	struct fh_grant who;
	struct fh_guard *g;
	struct fh_err err;
	struct rig r;

	rig_up(&r);
	r.world.rules = rules(texts, 2);
	/* Without a database the CA's word is enough; with one the tenant must be there. */
	cr_assert_eq(fh_keytab_load(NULL, &r.world, &g, &err), 0);
	cr_expect_eq(g->ops->cert(g, &c, &who), FH_GUARD_OK);
	cr_expect_str_eq(who.who.tenant, "acme");
	cr_expect_str_eq(who.who.user, "alice");
	cr_expect_eq(who.who.how, FH_ID_CERT);
	strcpy(c.organization, "not a name");
	cr_expect_eq(g->ops->cert(g, &c, &who), FH_GUARD_UNKNOWN);
	fh_guard_put(g);
	strcpy(c.organization, "acme");
	g = table(&r);
	cr_expect_eq(g->ops->cert(g, &c, &who), FH_GUARD_UNKNOWN);
	fh_guard_put(g);
	add(&r, (struct fh_key_spec){.tenant = "acme"});
	g = table(&r);
	cr_expect_eq(g->ops->cert(g, &c, &who), FH_GUARD_OK);
	strcpy(c.common_name, "gateway");
	cr_expect_eq(g->ops->cert(g, &c, &who), FH_GUARD_OK);
	cr_expect_str_eq(who.who.tenant, "edge");
	strcpy(c.common_name, "evil");
	cr_expect_eq(g->ops->cert(g, &c, &who), FH_GUARD_DISABLED);
	fh_guard_put(g);
	cr_assert_eq(fh_keydb_set_disabled(r.db, "acme", true, &err), 0);
	g = table(&r);
	strcpy(c.common_name, "alice");
	cr_expect_eq(g->ops->cert(g, &c, &who), FH_GUARD_DISABLED);
	fh_guard_put(g);
	fh_rules_free((struct fh_rules *)r.world.rules);
	rig_down(&r);
}

Test(rules, a_user_without_a_key_has_his_account)
{
	const struct fh_prices prices = {0};
	struct fh_guard_cert c = {.organization = "acme", .common_name = "carol"};
	struct fh_budget_table *limits;
	struct fh_grant who;
	struct fh_guard *g;
	struct fh_err err;
	struct rig r;
	uint32_t account;

	rig_up(&r);
	r.world.accounts = fh_accounts_create("stories", &prices);
	cr_assert_eq(fh_budget_set(r.db, "user", "acme/carol", "tokens/day", 1000, &err), 0, "%s", err.msg);
	cr_assert_eq(fh_accounts_limits(r.world.accounts, r.db, &limits, &err), 0, "%s", err.msg);
	g = table(&r);
	account = fh_accounts_find(r.world.accounts, FH_BUDGET_USER, "acme/carol");
	cr_expect_neq(account, 0);
	cr_expect_eq(g->ops->cert(g, &c, &who), FH_GUARD_OK);
	cr_expect_eq(who.account[FH_BUDGET_USER], account);
	cr_expect_eq(limits->entry[account].own.tokens[FH_SPAN_DAY], 1000);
	free(limits);
	cr_expect_eq(who.account[FH_BUDGET_TENANT], fh_accounts_find(r.world.accounts, FH_BUDGET_TENANT, "acme"));
	strcpy(c.common_name, "dave");
	cr_expect_eq(g->ops->cert(g, &c, &who), FH_GUARD_OK);
	cr_expect_eq(who.account[FH_BUDGET_USER], 0);
	fh_guard_put(g);
	fh_accounts_free(r.world.accounts);
	rig_down(&r);
}

/* What is said on the standard error from here on goes into the file that is returned. */
static FILE *listen_in(int *was)
{
	FILE *f = tmpfile();

	cr_assert(f);
	*was = dup(STDERR_FILENO);
	cr_assert_geq(*was, 0);
	cr_assert_geq(dup2(fileno(f), STDERR_FILENO), 0);
	return f;
}

/* The end of that. */
static void expect_said_once(FILE *f, int was, const char *what)
{
	static char text[65536];
	const char *at;

	cr_assert_geq(dup2(was, STDERR_FILENO), 0);
	close(was);
	rewind(f);
	text[fread(text, 1, sizeof(text) - 1, f)] = 0;
	fclose(f);
	at = strstr(text, what);
	cr_expect(at, "\"%s\" was not said: %s", what, text);
	cr_expect(!at || !strstr(at + 1, what), "\"%s\" was said again", what);
}

/* Numbers are for those who can use something, and last for the life of the process. */
Test(keys, no_account_for_a_key_that_is_over)
{
	const struct fh_key_spec late = {.tenant = "acme", .expires_s = 1000010};
	const struct fh_prices prices = {0};
	struct fh_key_new good, revoked, expired;
	struct fh_accounts *a;
	struct fh_grant who;
	struct fh_err err;
	char name[32];
	struct rig r;
	FILE *f;
	int was;

	rig_up(&r);
	r.world.accounts = a = fh_accounts_create("stories", &prices);
	good = add(&r, (struct fh_key_spec){.tenant = "acme"});
	revoked = add(&r, (struct fh_key_spec){.tenant = "acme"});
	cr_assert_eq(fh_keydb_revoke(r.db, revoked.id, NOW, &err), 0);
	cr_assert_eq(fh_keydb_add(r.db, &late, 1000000, &expired, &err), 0, "%s", err.msg);
	cr_expect_eq(ask(&r, good.text, NOW, &who), FH_GUARD_OK);
	cr_expect_neq(who.account[FH_BUDGET_KEY], 0);
	cr_expect_eq(who.account[FH_BUDGET_KEY], fh_accounts_find(a, FH_BUDGET_KEY, good.id));
	cr_expect_eq(fh_accounts_find(a, FH_BUDGET_KEY, revoked.id), 0);
	cr_expect_eq(fh_accounts_find(a, FH_BUDGET_KEY, expired.id), 0);
	cr_expect_eq(ask(&r, revoked.text, NOW, &who), FH_GUARD_REVOKED);
	cr_expect_eq(ask(&r, expired.text, NOW, &who), FH_GUARD_EXPIRED);
	/* When all are given, keys still come and go; that they are not counted is said, once. */
	while (fh_accounts_nr(a) < FH_ACCOUNTS_MAX) {
		snprintf(name, sizeof(name), "filler-%u", fh_accounts_nr(a));
		cr_assert_neq(fh_accounts_number(a, FH_BUDGET_TENANT, name), 0);
	}
	f = listen_in(&was);
	good = add(&r, (struct fh_key_spec){.tenant = "acme"});
	revoked = add(&r, (struct fh_key_spec){.tenant = "acme"});
	cr_expect_eq(ask(&r, good.text, NOW, &who), FH_GUARD_OK);
	cr_expect_eq(who.account[FH_BUDGET_KEY], 0);
	cr_expect_eq(ask(&r, revoked.text, NOW, &who), FH_GUARD_OK);
	expect_said_once(f, was, "none is left for key");
	fh_accounts_free(a);
	rig_down(&r);
}

/* ---- the watch ---- */

struct reader {
	_Atomic(struct fh_guard *) box; /* as of a front end */
	_Atomic uint32_t stop, nr_ok, nr_other;
	const char *key;
};

static void changed(void *ctx, struct fh_guard *g)
{
	struct reader *r = ctx;

	fh_guard_put(atomic_exchange(&r->box, g));
}

/* As a front end does: take over what lies in the box, ask, all the time. */
static void *read_main(void *arg)
{
	struct reader *r = arg;
	struct fh_guard *mine = NULL, *g;
	struct fh_grant who;

	while (!atomic_load(&r->stop)) {
		g = atomic_exchange(&r->box, NULL);
		if (g) {
			fh_guard_put(mine);
			mine = g;
		}
		if (mine->ops->bearer(mine, r->key, strlen(r->key), NOW, &who) == FH_GUARD_OK)
			atomic_fetch_add(&r->nr_ok, 1);
		else
			atomic_fetch_add(&r->nr_other, 1);
		if (!(atomic_load(&r->nr_ok) % 64))
			usleep(50);
	}
	fh_guard_put(mine);
	return NULL;
}

Test(keywatch, changes_arrive_while_readers_read, .timeout = 60)
{
	struct fh_key_new k;
	struct fh_keywatch_config cfg;
	struct fh_keywatch *w;
	struct reader reader = {0};
	uint64_t begin_ns;
	pthread_t thread;
	struct fh_err err;
	struct rig r;

	rig_up(&r);
	k = add(&r, (struct fh_key_spec){.tenant = "acme"});
	reader.key = k.text;
	cfg = (struct fh_keywatch_config){
		.path = r.path, .world = r.world, .poll_ms = 5, .changed = changed, .ctx = &reader};
	cr_assert_eq(fh_keywatch_open(&cfg, &w, &err), 0, "%s", err.msg);
	atomic_store(&reader.box, fh_keywatch_guard(w));
	pthread_create(&thread, NULL, read_main, &reader);
	cr_assert_eq(fh_keywatch_start(w, &err), 0);
	/* Churn: every table that comes has the key. */
	for (int i = 0; i < 20; i++) {
		add(&r, (struct fh_key_spec){.tenant = "other"});
		usleep(3000);
	}
	cr_expect_eq(atomic_load(&reader.nr_other), 0);
	cr_expect_gt(atomic_load(&reader.nr_ok), 0);
	cr_assert_eq(fh_keydb_revoke(r.db, k.id, NOW, &err), 0);
	begin_ns = fh_now_ns();
	while (!atomic_load(&reader.nr_other) && fh_now_ns() - begin_ns < 10000000000u)
		usleep(1000);
	cr_expect_gt(atomic_load(&reader.nr_other), 0, "the revocation did not arrive");
	atomic_store(&reader.stop, 1);
	pthread_join(thread, NULL);
	fh_keywatch_close(w);
	fh_guard_put(atomic_load(&reader.box));
	rig_down(&r);
}

/* A watch whose database can be made to refuse a table to it, as a full disk or a lock would. */
struct trouble {
	struct rig r;
	struct reader reader; /* box: the newest table */
	struct fh_keywatch *w;
	_Atomic(const char *) refused; /* table */
	_Atomic uint32_t nr_refused, nr_limits;
};

static int may_read(void *ctx, int action, const char *what, const char *column, const char *db, const char *trigger)
{
	struct trouble *t = ctx;
	const char *refused = atomic_load(&t->refused);

	(void)column;
	(void)db;
	(void)trigger;
	if (action != SQLITE_READ || !refused || strcmp(what, refused))
		return SQLITE_OK;
	atomic_fetch_add(&t->nr_refused, 1);
	return SQLITE_DENY;
}

static void trouble_changed(void *ctx, struct fh_guard *g)
{
	changed(&((struct trouble *)ctx)->reader, g);
}

static void trouble_limits(void *ctx, struct fh_budget_table *table)
{
	free(table);
	atomic_fetch_add(&((struct trouble *)ctx)->nr_limits, 1);
}

static struct fh_key_new trouble_up(struct trouble *t)
{
	const struct fh_prices prices = {0};
	struct fh_keywatch_config cfg;
	struct fh_key_new k;
	struct fh_err err;

	memset(t, 0, sizeof(*t));
	rig_up(&t->r);
	k = add(&t->r, (struct fh_key_spec){.tenant = "acme"});
	t->r.world.accounts = fh_accounts_create("stories", &prices);
	cfg = (struct fh_keywatch_config){.path = t->r.path,
					  .world = t->r.world,
					  .poll_ms = 5,
					  .changed = trouble_changed,
					  .limits = trouble_limits,
					  .ctx = t};
	cr_assert_eq(fh_keywatch_open(&cfg, &t->w, &err), 0, "%s", err.msg);
	free(fh_keywatch_limits(t->w));
	sqlite3_set_authorizer(fh_keydb_handle(fh_keywatch_db(t->w)), may_read, t);
	cr_assert_eq(fh_keywatch_start(t->w, &err), 0);
	return k;
}

static void trouble_down(struct trouble *t)
{
	fh_keywatch_close(t->w);
	fh_guard_put(atomic_load(&t->reader.box));
	fh_accounts_free(t->r.world.accounts);
	rig_down(&t->r);
}

static bool until(const _Atomic uint32_t *what, uint32_t least)
{
	uint64_t begin_ns = fh_now_ns();

	while (atomic_load(what) < least && fh_now_ns() - begin_ns < 10000000000u)
		usleep(1000);
	return atomic_load(what) >= least;
}

static bool becomes_revoked(struct trouble *t, const struct fh_key_new *k)
{
	enum fh_guard_verdict v = FH_GUARD_OK;
	uint64_t begin_ns = fh_now_ns();
	struct fh_grant who;

	while (v != FH_GUARD_REVOKED && fh_now_ns() - begin_ns < 10000000000u) {
		struct fh_guard *g = fh_keywatch_guard(t->w);

		v = g->ops->bearer(g, k->text, strlen(k->text), NOW, &who);
		fh_guard_put(g);
		usleep(1000);
	}
	return v == FH_GUARD_REVOKED;
}

Test(keywatch, a_table_that_could_not_be_read_is_read_later, .timeout = 60)
{
	struct trouble t;
	struct fh_key_new k = trouble_up(&t);
	struct fh_err err;

	atomic_store(&t.refused, "keys");
	cr_assert_eq(fh_keydb_revoke(t.r.db, k.id, NOW, &err), 0);
	/* More than once, though the database changed once. */
	cr_expect(until(&t.nr_refused, 3), "tried %u times", atomic_load(&t.nr_refused));
	atomic_store(&t.refused, NULL);
	cr_expect(becomes_revoked(&t, &k));
	trouble_down(&t);
}

Test(keywatch, trouble_with_budgets_holds_no_revocation_back, .timeout = 60)
{
	struct trouble t;
	struct fh_key_new k = trouble_up(&t);
	uint32_t nr_limits;
	struct fh_err err;

	atomic_store(&t.refused, "budgets");
	cr_assert_eq(fh_keydb_revoke(t.r.db, k.id, NOW, &err), 0);
	cr_expect(becomes_revoked(&t, &k));
	cr_expect(until(&t.nr_refused, 3), "tried %u times", atomic_load(&t.nr_refused));
	/* And the limits come as soon as they can, though nothing changes any more. */
	nr_limits = atomic_load(&t.nr_limits);
	atomic_store(&t.refused, NULL);
	cr_expect(until(&t.nr_limits, nr_limits + 1));
	/* A damaged row is no lasting ill either. */
	k = add(&t.r, (struct fh_key_spec){.tenant = "acme"});
	cr_assert_eq(sqlite3_exec(fh_keydb_handle(t.r.db), "INSERT INTO budgets VALUES('tenant', 'acme', 'tokens', -1)",
				  NULL, NULL, NULL),
		     SQLITE_OK);
	cr_assert_eq(fh_keydb_revoke(t.r.db, k.id, NOW, &err), 0);
	cr_expect(becomes_revoked(&t, &k));
	nr_limits = atomic_load(&t.nr_limits);
	cr_assert_eq(fh_budget_set(t.r.db, "tenant", "acme", "tokens", 1000, &err), 0, "%s", err.msg);
	cr_expect(until(&t.nr_limits, nr_limits + 1));
	trouble_down(&t);
}
