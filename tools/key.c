// SPDX-License-Identifier: Apache-2.0
/* freehold key: who may come in.  Writes the database that `freehold serve --keys` watches. */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <jansson.h>

#include "runtime/daemon/options.h"
#include "runtime/net/http.h"
#include "runtime/trust/keydb.h"
#include "runtime/trust/keytab.h"
#include "tools/audit.h"
#include "tools/cmd.h"

struct key_args {
	char *keys, *tenant, *user, *label, *expires, *models, *endpoints, *overlap, *after;
	uint32_t limit;
	bool json, help;
	const char *word; /* what is no option: an id, or a tenant */
};

#define AT(field) offsetof(struct key_args, field)

static const struct fhd_option options[] = {
	{"keys", 0, FHD_OPT_STR, AT(keys), 0, 0, "FILE", "the database (default: " CMD_KEYS_PATH ")"},
	{"tenant", 0, FHD_OPT_STR, AT(tenant), 0, 0, "NAME", "add: whose key it is; list: only this one's"},
	{"user", 0, FHD_OPT_STR, AT(user), 0, 0, "NAME", "add: which of the tenant's users'"},
	{"label", 0, FHD_OPT_STR, AT(label), 0, 0, "TEXT", "add: what people call it"},
	{"expires", 0, FHD_OPT_STR, AT(expires), 0, 0, "WHEN",
	 "add: after so long (90d, 12h, 30m), or at a time such as\n2027-01-31 (default: never)"},
	{"models", 0, FHD_OPT_STR, AT(models), 0, 0, "LIST",
	 "add: models that it may use, separated by commas; * and ?\nstand for anything (default: all)"},
	{"endpoints", 0, FHD_OPT_STR, AT(endpoints), 0, 0, "LIST",
	 "add: likewise, such as /v1/chat/completions,/v1/models\n(default: all); all,admin: it may also see what all "
	 "tenants\nuse, and list and revoke keys over HTTP"},
	{"overlap", 0, FHD_OPT_STR, AT(overlap), 0, 0, "TIME",
	 "rotate: the old key stays good for so long (default: 0s)"},
	{"after", 0, FHD_OPT_STR, AT(after), 0, 0, "ID", "list: those that were made after this one"},
	{"limit", 0, FHD_OPT_U32, AT(limit), 1, UINT32_MAX, "N", "list: no more than so many (default: all)"},
	{"json", 0, FHD_OPT_ON, AT(json), 0, 0, NULL, "print JSON"},
	{"help", 'h', FHD_OPT_ON, AT(help), 0, 0, NULL, "print this"},
};

static void usage(void)
{
	const struct fhd_option_set set = {.opts = options, .nr = sizeof(options) / sizeof(options[0])};

	fputs("usage: freehold key add --tenant NAME [--user NAME] [OPTION...]\n"
	      "       freehold key list [--tenant NAME] [--after ID] [--limit N] [--json]\n"
	      "       freehold key revoke ID\n"
	      "       freehold key rotate ID [--overlap TIME]\n"
	      "       freehold key lock TENANT\n"
	      "       freehold key unlock TENANT\n"
	      "\n"
	      "Keep the API keys of `freehold serve --keys FILE`.  A server that runs notices\n"
	      "each change within a second; what it is answering to a key that is not good any\n"
	      "more ends then.\n"
	      "\n"
	      "  add           make a key, and tenant and user where they are new.  The key is\n"
	      "                shown now and never again: the database has only its hash\n"
	      "  list          the keys: id, whose, scopes, how long they are good\n"
	      "  revoke        a key is not good any more\n"
	      "  rotate        a new key like the old one, which is not good any more after --overlap\n"
	      "  lock, unlock  shut a tenant out, with all its keys, and let it in again\n"
	      "\n",
	      stdout);
	fhd_options_help(stdout, &set, 1);
	fputs("\n"
	      "examples:\n"
	      "  freehold key add --tenant acme --user alice --label laptop --expires 90d\n"
	      "  freehold key add --tenant ops --endpoints /metrics,/health\n"
	      "  freehold key list --tenant acme\n"
	      "  freehold key rotate 4f3a9c01d2e5b678 --overlap 1h\n",
	      stdout);
}

/* Seconds of "90d", "12h", "30m" or "45s". */
static bool read_duration(const char *text, uint64_t *s)
{
	static const struct {
		char unit;
		uint32_t s;
	} units[] = {{'s', 1}, {'m', 60}, {'h', 3600}, {'d', 86400}};
	char *end;

	if (*text < '0' || *text > '9')
		return false;
	errno = 0;
	*s = strtoull(text, &end, 10);
	if (errno || *s > UINT32_MAX || !*end || end[1])
		return false;
	for (size_t i = 0; i < sizeof(units) / sizeof(units[0]); i++) {
		if (*end == units[i].unit) {
			*s *= units[i].s;
			return true;
		}
	}
	return false;
}

static bool read_when(const char *text, uint64_t now_s, uint64_t *s)
{
	uint64_t us;

	if (read_duration(text, s)) {
		*s += now_s;
		return true;
	}
	if (!audit_parse_time(text, &us))
		return false;
	*s = us / 1000000;
	return true;
}

static void put_time(char out[32], uint64_t s)
{
	time_t t = (time_t)s;
	struct tm tm;

	gmtime_r(&t, &tm);
	strftime(out, 32, "%Y-%m-%dT%H:%M:%SZ", &tm);
}

/* ---- the commands; each returns the exit status ---- */

static void show_new(const struct key_args *a, const struct fh_key_new *k, const char *instead_of)
{
	if (a->json) {
		json_t *j = json_pack("{s:s, s:s, s:s*}", "id", k->id, "key", k->text, "replaces", instead_of);

		json_dumpf(j, stdout, JSON_COMPACT);
		putchar('\n');
		json_decref(j);
		return;
	}
	printf("%s\n", k->text);
	fprintf(stderr, "This is key %s%s%s. It is shown this once: keep it now.\n", k->id,
		instead_of ? " in the place of " : "", instead_of ? instead_of : "");
}

static int do_add(struct fh_keydb *db, const struct key_args *a, uint64_t now_s)
{
	struct fh_key_spec spec = {.tenant = a->tenant,
				   .user = a->user,
				   .label = a->label,
				   .models = a->models,
				   .endpoints = a->endpoints};
	struct fh_key_new k;
	struct fh_err err;

	if (a->expires)
		read_when(a->expires, now_s, &spec.expires_s);
	if (fh_keydb_add(db, &spec, now_s, &k, &err))
		return cmd_failed("key", "%s", err.msg);
	show_new(a, &k, NULL);
	return 0;
}

struct list_ctx {
	uint64_t now_s;
	bool json;
	uint32_t nr;
};

static int print_key(void *ctx, const struct fh_key_row *r)
{
	char label[FH_KEY_SCOPE_MAX + 1], models[FH_KEY_SCOPE_MAX + 1], endpoints[FH_KEY_SCOPE_MAX + 1];
	char created[32], expires[32] = "never";
	struct list_ctx *c = ctx;

	put_time(created, r->created_s);
	if (r->expires_s)
		put_time(expires, r->expires_s);
	fh_key_text(r->label, label);
	fh_key_text(r->models, models);
	fh_key_text(r->endpoints, endpoints);
	if (c->json) {
		json_t *j = json_pack("{s:s, s:s, s:s, s:s, s:s, s:s, s:s, s:s, s:s, s:s}", "id", r->id, "tenant",
				      r->tenant, "user", r->user, "label", label, "models", models, "endpoints",
				      endpoints, "created", created, "expires", expires, "replaced_by", r->replaced_by,
				      "state", fh_key_state(r, c->now_s));

		printf("%s", c->nr++ ? ",\n" : "[");
		json_dumpf(j, stdout, JSON_COMPACT);
		json_decref(j);
		return 0;
	}
	if (!c->nr++)
		printf("%-16s  %-8s  %-20s  %-20s  %-20s  %s\n", "id", "state", "tenant/user", "created", "expires",
		       "label, scopes");
	printf("%-16s  %-8s  %s%s%s%*s  %-20s  %-20s  %s%s%s%s%s\n", r->id, fh_key_state(r, c->now_s), r->tenant,
	       r->user[0] ? "/" : "", r->user,
	       (int)(20 - (int)strlen(r->tenant) - (int)(r->user[0] ? strlen(r->user) + 1 : 0)) > 0
		       ? (int)(20 - (int)strlen(r->tenant) - (int)(r->user[0] ? strlen(r->user) + 1 : 0))
		       : 0,
	       "", created, expires, label, models[0] ? " models: " : "", models, endpoints[0] ? " endpoints: " : "",
	       endpoints);
	return 0;
}

static int do_list(struct fh_keydb *db, const struct key_args *a, uint64_t now_s)
{
	struct list_ctx c = {.now_s = now_s, .json = a->json};
	struct fh_err err = {0};

	if (fh_keydb_page(db, a->tenant, a->after, a->limit, print_key, &c, &err))
		return cmd_failed("key", "%s", err.msg);
	if (a->json)
		puts(c.nr ? "]" : "[]");
	else if (!c.nr)
		puts("no keys");
	return 0;
}

static int do_revoke(struct fh_keydb *db, const struct key_args *a, uint64_t now_s)
{
	struct fh_err err;

	return fh_keydb_revoke(db, a->word, now_s, &err) ? cmd_failed("key", "%s", err.msg) : 0;
}

static int do_rotate(struct fh_keydb *db, const struct key_args *a, uint64_t now_s)
{
	uint64_t overlap_s = 0;
	struct fh_key_new k;
	struct fh_err err;

	if (a->overlap)
		read_duration(a->overlap, &overlap_s);
	if (fh_keydb_rotate(db, a->word, overlap_s, now_s, &k, &err))
		return cmd_failed("key", "%s", err.msg);
	show_new(a, &k, a->word);
	return 0;
}

static int set_lock(struct fh_keydb *db, const struct key_args *a, bool on)
{
	struct fh_err err;

	return fh_keydb_set_disabled(db, a->word, on, &err) ? cmd_failed("key", "%s", err.msg) : 0;
}

static int do_lock(struct fh_keydb *db, const struct key_args *a, uint64_t now_s)
{
	(void)now_s;
	return set_lock(db, a, true);
}

static int do_unlock(struct fh_keydb *db, const struct key_args *a, uint64_t now_s)
{
	(void)now_s;
	return set_lock(db, a, false);
}

static const struct verb {
	const char *name, *word; /* word: what has to follow; NULL: nothing */
	int (*fn)(struct fh_keydb *db, const struct key_args *a, uint64_t now_s);
} verbs[] = {
	{"add", NULL, do_add},
	{"list", NULL, do_list},
	{"revoke", "a key's id", do_revoke},
	{"rotate", "a key's id", do_rotate},
	{"lock", "a tenant", do_lock},
	{"unlock", "a tenant", do_unlock},
};

/* ---- arguments ---- */

static int check_args(const struct verb *v, const struct key_args *a, uint64_t now_s)
{
	struct fh_keytab_world world = {0};
	char bad[64];
	uint64_t x;

	if (v->word && !a->word)
		return cmd_wrong("key", "%s: %s is wanted", v->name, v->word);
	if (v->fn == do_add && !a->tenant)
		return cmd_wrong("key", "add: --tenant NAME is wanted");
	if (a->expires && !read_when(a->expires, now_s, &x))
		return cmd_wrong("key", "--expires: a time such as 90d, 12h or 2027-01-31 is wanted");
	if (a->overlap && !read_duration(a->overlap, &x))
		return cmd_wrong("key", "--overlap: a time such as 1h or 7d is wanted");
	world.endpoints = fh_http_endpoints(&world.nr_endpoints);
	if (a->endpoints && fh_keytab_endpoints(&world, a->endpoints, &x, bad))
		return cmd_wrong("key", "--endpoints: there is no endpoint '%s'", bad);
	return 0;
}

/* The verb's word, if it has one, then options. */
static int read_args(const struct verb *v, struct key_args *a, int argc, char **argv, struct fh_err *err)
{
	const struct fhd_option_set set = {.opts = options, .nr = sizeof(options) / sizeof(options[0]), .base = a};
	int skip = 1;

	if (v->word && argc > 2 && argv[2][0] != '-') {
		a->word = argv[2];
		skip = 2;
	}
	return fhd_options_argv(argc - skip, argv + skip, &set, 1, err);
}

static int run(const struct verb *v, const struct key_args *a)
{
	uint64_t now_s = (uint64_t)time(NULL);
	int status = check_args(v, a, now_s);
	struct fh_keydb *db;
	struct fh_err err;

	if (status)
		return status;
	if (fh_keydb_open(a->keys ? a->keys : CMD_KEYS_PATH, v->fn == do_add, &db, &err))
		return cmd_failed("key", "%s", err.msg);
	status = v->fn(db, a, now_s);
	fh_keydb_close(db);
	return status;
}

int cmd_key(int argc, char **argv)
{
	struct key_args a = {0};
	const struct fhd_option_set set = {.opts = options, .nr = sizeof(options) / sizeof(options[0]), .base = &a};
	const struct verb *v = NULL;
	struct fh_err err;
	int status;

	if (cmd_wants_help(argc, argv)) {
		usage();
		return 0;
	}
	for (size_t i = 0; argc > 1 && i < sizeof(verbs) / sizeof(verbs[0]); i++)
		if (!strcmp(argv[1], verbs[i].name))
			v = &verbs[i];
	if (!v)
		return cmd_wrong("key", "%s",
				 argc > 1 ? "one of add, list, revoke, rotate, lock and unlock is wanted first"
					  : "what is to be done: add, list, revoke, rotate, lock or unlock?");
	status = read_args(v, &a, argc, argv, &err) ? cmd_wrong("key", "%s", err.msg) : run(v, &a);
	fhd_options_free(&set);
	return status;
}
