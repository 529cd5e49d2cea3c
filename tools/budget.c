// SPDX-License-Identifier: Apache-2.0
/* freehold budget: what tenants, users, keys and agent runs may use, in the database of `freehold key`. */
#include <ctype.h>
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <jansson.h>

#include "runtime/trust/accounts.h"
#include "tools/cmd.h"

#define MAX_LIMITS 32

static void usage(void)
{
	fputs("usage: freehold budget set WHO LIMIT=VALUE... [--keys FILE]\n"
	      "       freehold budget list [--json] [--keys FILE]\n"
	      "       freehold budget remove WHO [--keys FILE]\n"
	      "\n"
	      "Limit what is used.  A server that runs notices within a second.  What a limit\n"
	      "does not allow is refused with status 429; an answer that reaches one ends there,\n"
	      "with finish_reason \"budget\".\n"
	      "\n"
	      "WHO is tenant:NAME, user:TENANT/NAME, key:ID, or run:TENANT for each agent run of\n"
	      "a tenant (requests that send the same X-Freehold-Run-Id; what each has used is\n"
	      "printed by `freehold cost --by run`).\n"
	      "\n"
	      "LIMIT is one of\n"
	      "  tokens/minute tokens/day tokens/month tokens       prompt and answer together\n"
	      "  money/minute money/day money/month money           in the currency of --price\n"
	      "  requests/minute requests/day requests/month requests\n"
	      "  concurrent                                         that wait or run at once\n"
	      "  depth                                              of a run (X-Freehold-Run-Depth)\n"
	      "  soft                                               percent from which answers warn (80)\n"
	      "Days and months are UTC's; without one it is for ever, or for the whole run.\n"
	      "VALUE is a number, with k, M or G for thousands; 0 takes the limit away.\n"
	      "\n"
	      "  --keys FILE   the database (default: " CMD_KEYS_PATH ")\n"
	      "  --json        print JSON\n"
	      "\n"
	      "examples:\n"
	      "  freehold budget set tenant:acme tokens/day=2M money/month=100 requests/minute=600\n"
	      "  freehold budget set key:4f3a9c01d2e5b678 concurrent=4\n"
	      "  freehold budget set run:acme tokens=200k requests=50 depth=3\n"
	      "  freehold budget list\n",
	      stdout);
}

static bool is_money(const char *what)
{
	return !strncmp(what, "money", 5);
}

/* A number with decimals and k, M or G, in units of 1 / @unit. */
static bool read_value(const char *text, uint64_t unit, uint64_t *out)
{
	unsigned __int128 v = 0, scale = 1;
	unsigned int digits = 0;
	bool point = false;
	const char *p = text;

	if (!isdigit((unsigned char)*p))
		return false;
	for (; isdigit((unsigned char)*p) || (*p == '.' && !point); p++) {
		if (*p == '.') {
			point = true;
			continue;
		}
		/* So that nothing below overflows. */
		if (++digits > 17)
			return false;
		v = v * 10 + (unsigned int)(*p - '0');
		scale *= point ? 10 : 1;
	}
	v *= unit;
	v *= *p == 'k' ? 1000 : *p == 'M' ? 1000000 : *p == 'G' ? 1000000000 : 1;
	p += *p == 'k' || *p == 'M' || *p == 'G';
	if (*p || v % scale || v / scale > INT64_MAX)
		return false;
	*out = (uint64_t)(v / scale);
	return true;
}

static void put_money(char out[48], uint64_t money)
{
	int n = snprintf(out, 48, "%" PRIu64 ".%012" PRIu64, money / FH_MONEY_UNIT, money % FH_MONEY_UNIT);

	/* Two decimals at least. */
	while (out[n - 1] == '0' && out[n - 3] != '.')
		out[--n] = 0;
}

static void put_value(char out[48], const char *what, uint64_t v)
{
	if (is_money(what))
		put_money(out, v);
	else
		snprintf(out, 48, "%" PRIu64, v);
}

/* ---- list ---- */

struct list_ctx {
	struct fh_keydb *db;
	struct fh_err *err;
	bool json;
	uint32_t nr;
};

/* What was used of a limit; false: that is not counted by name. */
static bool used_of(struct list_ctx *c, const char *kind, const char *name, const char *what, uint64_t *used)
{
	static const char *const spans[] = {"/minute", "/day", "/month", ""};
	uint64_t v[3];

	for (int s = 0; strcmp(kind, "run") && s < FH_NR_SPANS; s++) {
		static const char *const whats[] = {"tokens", "money", "requests"};

		for (int i = 0; i < 3; i++) {
			size_t n = strlen(whats[i]);

			if (strncmp(what, whats[i], n) || strcmp(what + n, spans[s]))
				continue;
			if (fh_usage_get(c->db, kind, name, (enum fh_budget_span)s, (uint64_t)time(NULL), &v[0], &v[1],
					 &v[2], c->err))
				return false;
			*used = v[i];
			return true;
		}
	}
	return false;
}

static int print_limit(void *ctx, const char *kind, const char *name, const char *what, uint64_t most)
{
	struct list_ctx *c = ctx;
	char limit[48], use[48] = "";
	uint64_t used = 0;
	bool counted = used_of(c, kind, name, what, &used);

	put_value(limit, what, most);
	if (counted)
		put_value(use, what, used);
	if (c->json) {
		json_t *j = json_pack("{s:s, s:s, s:s, s:s, s:s*}", "kind", kind, "name", name, "limit", what, "most",
				      limit, "used", counted ? use : NULL);

		printf("%s", c->nr++ ? ",\n" : "[");
		json_dumpf(j, stdout, JSON_COMPACT);
		json_decref(j);
		return 0;
	}
	if (!c->nr++)
		printf("%-36s  %-16s  %20s  %20s\n", "who", "limit", "at most", "used");
	printf("%s:%-*s  %-16s  %20s  %20s\n", kind, (int)(35 - strlen(kind)), name, what, limit, use);
	return 0;
}

static int do_list(struct fh_keydb *db, bool json)
{
	struct fh_err err = {0};
	struct list_ctx c = {.db = db, .err = &err, .json = json};

	if (fh_budget_each(db, print_limit, &c, &err) || err.msg[0])
		return cmd_failed("budget", "%s", err.msg);
	if (json)
		puts(c.nr ? "]" : "[]");
	else if (!c.nr)
		puts("no limits");
	return 0;
}

/* ---- set and remove ---- */

struct limit {
	char what[24];
	uint64_t most;
};

static int read_limit(const char *kind, const char *arg, struct limit *l)
{
	const char *eq = strchr(arg, '=');
	size_t n = eq ? (size_t)(eq - arg) : 0;

	if (!n || n >= sizeof(l->what))
		return cmd_wrong("budget", "'%s' is not LIMIT=VALUE", arg);
	memcpy(l->what, arg, n);
	l->what[n] = 0;
	if (!fh_budget_is_limit(l->what))
		return cmd_wrong("budget", "there is no limit '%s'", l->what);
	if (!strcmp(l->what, "depth") && strcmp(kind, "run"))
		return cmd_wrong("budget", "%s: only runs have a depth", arg);
	if (!read_value(eq + 1, is_money(l->what) ? FH_MONEY_UNIT : 1, &l->most))
		return cmd_wrong("budget", "%s: a number is wanted, such as 1000, 200k or 12.50", arg);
	return 0;
}

static int do_set(struct fh_keydb *db, const char *kind, const char *name, const struct limit *l, uint32_t nr)
{
	struct fh_err err;

	for (uint32_t i = 0; i < nr; i++)
		if (fh_budget_set(db, kind, name, l[i].what, l[i].most, &err))
			return cmd_failed("budget", "%s", err.msg);
	return 0;
}

struct remove_ctx {
	const char *kind, *name;
	struct limit l[MAX_LIMITS];
	uint32_t nr;
};

static int collect(void *ctx, const char *kind, const char *name, const char *what, uint64_t most)
{
	struct remove_ctx *c = ctx;

	(void)most;
	if (!strcmp(kind, c->kind) && !strcmp(name, c->name) && c->nr < MAX_LIMITS)
		snprintf(c->l[c->nr++].what, sizeof(c->l[0].what), "%s", what);
	return 0;
}

static int do_remove(struct fh_keydb *db, const char *kind, const char *name)
{
	struct remove_ctx c = {.kind = kind, .name = name};
	struct fh_err err;

	if (fh_budget_each(db, collect, &c, &err))
		return cmd_failed("budget", "%s", err.msg);
	return c.nr ? do_set(db, kind, name, c.l, c.nr) : cmd_failed("budget", "it has no limits");
}

/* ---- arguments ---- */

struct args {
	const char *verb, *kind, *name, *path;
	struct limit l[MAX_LIMITS];
	uint32_t nr;
	bool json;
};

static int read_word(struct args *a, const char *arg)
{
	if (!a->verb) {
		a->verb = arg;
	} else if (!a->kind) {
		if (!fh_budget_split(arg, &a->kind, &a->name))
			return cmd_wrong("budget",
					 "'%s': tenant:NAME, user:TENANT/NAME, key:ID or run:TENANT is wanted", arg);
	} else {
		if (a->nr == MAX_LIMITS)
			return cmd_wrong("budget", "'%s': there are too many limits", arg);
		return read_limit(a->kind, arg, &a->l[a->nr++]);
	}
	return 0;
}

static int read_args(struct args *a, int argc, char **argv)
{
	for (int i = 1; i < argc; i++) {
		int status = 0;

		if (!strcmp(argv[i], "--json"))
			a->json = true;
		else if (!strcmp(argv[i], "--keys") && i + 1 < argc)
			a->path = argv[++i];
		else if (!strncmp(argv[i], "--keys=", 7))
			a->path = argv[i] + 7;
		else if (argv[i][0] == '-')
			status = cmd_wrong("budget", "there is no option '%s'", argv[i]);
		else
			status = read_word(a, argv[i]);
		if (status)
			return status;
	}
	if (!a->verb || (strcmp(a->verb, "set") && strcmp(a->verb, "list") && strcmp(a->verb, "remove")))
		return cmd_wrong("budget", "%s is wanted first", "set, list or remove");
	if (!strcmp(a->verb, "set") && !a->nr)
		return cmd_wrong("budget", "set: %s are wanted", "WHO and LIMIT=VALUE");
	if (!strcmp(a->verb, "remove") && (!a->kind || a->nr))
		return cmd_wrong("budget", "remove: %s is wanted, and nothing else", "WHO");
	if (!strcmp(a->verb, "list") && a->kind)
		return cmd_wrong("budget", "list: '%s' is too much", a->name);
	return 0;
}

int cmd_budget(int argc, char **argv)
{
	struct args a = {.path = CMD_KEYS_PATH};
	struct fh_keydb *db;
	struct fh_err err;
	int status;

	if (cmd_wants_help(argc, argv)) {
		usage();
		return 0;
	}
	status = read_args(&a, argc, argv);
	if (status)
		return status;
	if (fh_keydb_open(a.path, false, &db, &err))
		return cmd_failed("budget", "%s", err.msg);
	status = !strcmp(a.verb, "list")  ? do_list(db, a.json)
		 : !strcmp(a.verb, "set") ? do_set(db, a.kind, a.name, a.l, a.nr)
					  : do_remove(db, a.kind, a.name);
	fh_keydb_close(db);
	return status;
}
