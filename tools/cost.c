// SPDX-License-Identifier: Apache-2.0
/*
 * freehold cost: who used what, from the database of `freehold key`, and what a
 * million tokens of this host really cost, beside what others ask.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <jansson.h>

#include "runtime/daemon/options.h"
#include "runtime/trust/accounts.h"
#include "runtime/trust/measured.h"
#include "tools/audit.h"
#include "tools/cmd.h"
#include "tools/cost.h"

#define AT(field) offsetof(struct cost_args, field)

static const struct fhd_option options[] = {
	{"usage:", 0, FHD_OPT_GROUP, 0, 0, 0, NULL, NULL},
	{"keys", 0, FHD_OPT_STR, AT(keys), 0, 0, "FILE", "the database (default: " CMD_KEYS_PATH ")"},
	{"by", 0, FHD_OPT_CHOICE, AT(by), 0, 0, "tenant|user|key|model|run", "whose use (default: tenant)"},
	{"run", 0, FHD_OPT_STR, AT(run), 0, 0, "NAME",
	 "of the agent run that its client calls so (X-Freehold-Run-Id),\nor that has this id; --by run"},
	{"tenant", 0, FHD_OPT_STR, AT(tenant), 0, 0, "NAME", "with --by run: of this tenant only"},
	{"per", 0, FHD_OPT_CHOICE, AT(per), 0, 0, "hour|day|all", "summed up over (default: all)"},
	{"from", 0, FHD_OPT_STR, AT(from), 0, 0, "TIME", "from then on, such as 2026-11-01 (default: ever)"},
	{"to", 0, FHD_OPT_STR, AT(to), 0, 0, "TIME", "before then (default: now)"},
	{"json", 0, FHD_OPT_ON, AT(json), 0, 0, NULL, "print JSON"},
	{"the host:", 0, FHD_OPT_GROUP, 0, 0, 0, NULL, NULL},
	{"config", 0, FHD_OPT_STR, AT(config), 0, 0, "FILE",
	 "the server's settings: host-hardware and its like are read\nfrom there; the options below go before them"},
	{"hardware", 0, FHD_OPT_FLOAT, AT(host.hardware), 0, 1e9, "MONEY", "what it cost"},
	{"years", 0, FHD_OPT_FLOAT, AT(host.years), 0.01, 100, "N", "that it is used for (default: 4)"},
	{"hours", 0, FHD_OPT_FLOAT, AT(host.hours), 1, 8784, "N", "a year that it is on (default: 8766, all)"},
	{"watts", 0, FHD_OPT_FLOAT, AT(host.watts), 0, 1e6, "N",
	 "that it takes on average, cooling included, where the server\ncould not measure it"},
	{"overhead", 0, FHD_OPT_FLOAT, AT(host.overhead), 1, 100, "FACTOR",
	 "what leaves the socket, in terms of what was measured: fans,\ndisks, cooling, the supply's losses (default: "
	 "1)"},
	{"kwh-price", 0, FHD_OPT_FLOAT, AT(host.kwh_price), 0, 1000, "MONEY", "of a kilowatt hour"},
	{"other", 0, FHD_OPT_FLOAT, AT(host.other), 0, 1e9, "MONEY", "rent of its place, people: a month"},
	{"rental", 0, FHD_OPT_STR, AT(rental), 0, 0, "FILE",
	 "what others ask: a line each, NAME PROMPT/CACHED/COMPLETION,\nof a million tokens, and /REASONING if that is "
	 "another price;\n# begins a comment"},
};

static struct fhd_option_set set_of(struct cost_args *a)
{
	return (struct fhd_option_set){.opts = options, .nr = sizeof(options) / sizeof(options[0]), .base = a};
}

static void usage(void)
{
	const struct fhd_option_set set = set_of(NULL);

	fputs("usage: freehold cost [usage] [--by WHOM] [--per SPAN] [--from TIME] [--to TIME] [OPTION...]\n"
	      "       freehold cost host --hardware MONEY --kwh-price MONEY [--watts N] [OPTION...]\n"
	      "\n"
	      "  usage  tokens, requests, money and joules by tenant, user, key, model or agent run, as\n"
	      "         `freehold serve --keys` has counted them (as of about a second ago)\n"
	      "  host   what a million tokens of this host really cost, at the load that it had\n"
	      "         from --from (or the first use) to --to; with --rental what others would have asked\n"
	      "         for the same, and the load from which owning wins; with the power that was\n"
	      "         measured, else with that of --watts\n",
	      stdout);
	fhd_options_help(stdout, &set, 1);
	fputs("\n"
	      "examples:\n"
	      "  freehold cost usage --by key --per day --from 2026-11-01\n"
	      "  freehold cost --by run --tenant acme --from 2026-11-01\n"
	      "  freehold cost --run nightly-report-7 --json\n"
	      "  freehold cost host --hardware 12000 --years 4 --watts 600 --kwh-price 0.30 --other 50 --rental "
	      "prices\n"
	      "  freehold cost host --config /etc/freehold/freehold.conf --from 2026-11-01 --json\n",
	      stdout);
}

/* ---- sums ---- */

struct line {
	uint64_t begin_s;
	char name[160];
	uint64_t prompt, cached, completion, reasoning, money, requests, uj;
};

struct sums {
	struct line *line;
	uint32_t nr, cap;
	uint32_t per_s; /* 0: all */
	bool by_model;
	uint32_t at; /* of measured rows: where the lines of their time begin */
};

static uint64_t begin_of(const struct sums *s, uint64_t hour_s)
{
	return s->per_s ? hour_s - hour_s % s->per_s : 0;
}

/* NULL: no memory. */
static struct line *new_line(struct sums *s, uint64_t begin_s, const char *name)
{
	struct line *l;

	if (s->nr == s->cap) {
		uint32_t cap = s->cap ? 2 * s->cap : 64;
		struct line *more = realloc(s->line, cap * sizeof(*more));

		if (!more)
			return NULL;
		s->line = more;
		s->cap = cap;
	}
	l = &s->line[s->nr++];
	*l = (struct line){.begin_s = begin_s};
	snprintf(l->name, sizeof(l->name), "%s", name);
	return l;
}

/* After the hours, and in order as they are. */
static int add_measured(void *ctx, const struct fh_measured *m)
{
	struct sums *s = ctx;
	uint64_t begin_s = begin_of(s, m->hour_s);
	const char *name = s->by_model ? m->model : m->name;
	struct line *l = NULL;

	while (s->at < s->nr && s->line[s->at].begin_s < begin_s)
		s->at++;
	for (uint32_t i = s->at; i < s->nr && s->line[i].begin_s == begin_s && !l; i++)
		if (!strcmp(s->line[i].name, name))
			l = &s->line[i];
	l = l ? l : new_line(s, begin_s, name);
	if (!l)
		return -ENOMEM;
	l->uj += m->uj;
	l->reasoning += m->reasoning;
	return 0;
}

static int add_hour(void *ctx, const struct fh_usage_hour *h)
{
	struct sums *s = ctx;
	uint64_t begin_s = begin_of(s, h->hour_s);
	const char *name = s->by_model ? h->model : h->name;
	struct line *l = NULL;

	/* Hours come in order: what it belongs to is among the last, or is new. */
	for (uint32_t i = s->nr; i-- && s->line[i].begin_s == begin_s && !l;)
		if (!strcmp(s->line[i].name, name))
			l = &s->line[i];
	l = l ? l : new_line(s, begin_s, name);
	if (!l)
		return -ENOMEM;
	l->prompt += h->prompt;
	l->cached += h->cached;
	l->completion += h->completion;
	l->money += h->money;
	l->requests += h->requests;
	return 0;
}

static double money_of(uint64_t v)
{
	return (double)v / (double)FH_MONEY_UNIT;
}

static void put_time(char out[32], uint64_t s)
{
	time_t t = (time_t)s;
	struct tm tm;

	gmtime_r(&t, &tm);
	strftime(out, 32, "%Y-%m-%dT%H:%MZ", &tm);
}

static void print_json(const struct sums *s, const char *by)
{
	char when[32];

	for (uint32_t i = 0; i < s->nr; i++) {
		const struct line *l = &s->line[i];
		json_t *j = json_pack("{s:s, s:I, s:I, s:I, s:I, s:I, s:f, s:f}", by, l->name, "requests",
				      (json_int_t)l->requests, "prompt_tokens", (json_int_t)l->prompt, "cached_tokens",
				      (json_int_t)l->cached, "completion_tokens", (json_int_t)l->completion,
				      "reasoning_tokens", (json_int_t)l->reasoning, "money", money_of(l->money),
				      "joules", (double)l->uj / 1e6);

		if (s->per_s) {
			put_time(when, l->begin_s);
			json_object_set_new(j, "from", json_string(when));
		}
		printf("%s", i ? ",\n" : "[");
		json_dumpf(j, stdout, JSON_COMPACT | JSON_REAL_PRECISION(15));
		json_decref(j);
	}
	puts(s->nr ? "]" : "[]");
}

static void print_table(const struct sums *s, const char *by)
{
	char when[32] = "";

	if (!s->nr) {
		puts("nothing was used");
		return;
	}
	printf("%-18s%-28s  %9s  %11s  %11s  %11s  %11s  %13s  %12s\n", s->per_s ? "from" : "", by, "requests",
	       "prompt", "cached", "completion", "reasoning", "money", "joules");
	for (uint32_t i = 0; i < s->nr; i++) {
		const struct line *l = &s->line[i];

		if (s->per_s)
			put_time(when, l->begin_s);
		printf("%-18s%-28s  %9" PRIu64 "  %11" PRIu64 "  %11" PRIu64 "  %11" PRIu64 "  %11" PRIu64
		       "  %13.6f  %12.1f\n",
		       when, l->name, l->requests, l->prompt, l->cached, l->completion, l->reasoning,
		       money_of(l->money), (double)l->uj / 1e6);
	}
}

static int do_usage(struct fh_keydb *db, const struct cost_args *a, uint64_t from_s, uint64_t to_s)
{
	const char *by = a->by ? a->by : "tenant", *per = a->per ? a->per : "all";
	struct sums s = {.per_s = !strcmp(per, "hour") ? 3600 : !strcmp(per, "day") ? 86400 : 0};
	struct fh_err err = {.msg = "no memory"};
	int rc;

	/* Each tenant's are all there are. */
	s.by_model = !strcmp(by, "model");
	rc = fh_usage_each_hour(db, s.by_model ? "tenant" : by, from_s, to_s, add_hour, &s, &err);
	if (!rc)
		rc = fh_measured_each(db, s.by_model ? "tenant" : by, from_s, to_s, add_measured, &s, &err);
	if (!rc && a->json)
		print_json(&s, by);
	else if (!rc)
		print_table(&s, by);
	free(s.line);
	return rc ? cmd_failed("cost", "%s", err.msg) : 0;
}

/* Are the options that are about runs with those that they go with? An exit status. */
static int check_runs(const struct cost_args *a, bool host, bool of_runs)
{
	if (host && (a->run || a->tenant || (a->by && !strcmp(a->by, "run"))))
		return cmd_wrong("cost", "host: it knows nothing of runs and tenants");
	if (a->run && a->by && strcmp(a->by, "run"))
		return cmd_wrong("cost", "--run is of --by run alone");
	if (a->tenant && !of_runs)
		return cmd_wrong("cost", "--tenant goes with --by run");
	if (of_runs && a->per && strcmp(a->per, "all"))
		return cmd_wrong("cost", "--per: what a run used is not kept by hour or day; --from and --to take "
					 "the runs of a time");
	return 0;
}

int cmd_cost(int argc, char **argv)
{
	struct cost_args a = {0};
	const struct fhd_option_set set = set_of(&a);
	struct cost_span span;
	uint64_t from_s = 0, to_s = (uint64_t)time(NULL), us;
	bool host = argc > 1 && !strcmp(argv[1], "host");
	int skip = argc > 1 && (host || !strcmp(argv[1], "usage")), status;
	struct fh_keydb *db;
	struct fh_err err;
	bool of_runs;

	if (cmd_wants_help(argc, argv)) {
		usage();
		return 0;
	}
	status = cost_read_config(fhd_options_peek(argc, argv, "config"), &a.host);
	if (!status && fhd_options_argv(argc - skip, argv + skip, &set, 1, &err))
		status = cmd_wrong("cost", "%s", err.msg);
	if (!status && a.from && !audit_parse_time(a.from, &us))
		status = cmd_wrong("cost", "--from: a time such as 2026-11-01 or 2026-11-01T12:00:00Z is wanted");
	else if (!status && a.from)
		from_s = us / 1000000;
	if (!status && a.to && !audit_parse_time(a.to, &us))
		status = cmd_wrong("cost", "--to: a time such as 2026-12-01 is wanted");
	else if (!status && a.to)
		to_s = us / 1000000;
	if (!status && host && !(a.host.hardware > 0 || a.host.kwh_price > 0 || a.host.other > 0))
		status = cmd_wrong("cost", "host: --hardware, --kwh-price or --other, or --config with a file that has "
					   "them, is wanted: what does it cost?");
	of_runs = !host && (a.run || (a.by && !strcmp(a.by, "run")));
	if (!status)
		status = check_runs(&a, host, of_runs);
	if (!status && fh_keydb_open(a.keys ? a.keys : CMD_KEYS_PATH, false, &db, &err))
		status = cmd_failed("cost", "%s", err.msg);
	else if (!status) {
		span = (struct cost_span){from_s, to_s};
		if (host)
			status = cost_host(db, &a, &span);
		else if (of_runs)
			status = cost_runs(db, &a, &span, !a.from && !a.to);
		else
			status = do_usage(db, &a, from_s, to_s);
		fh_keydb_close(db);
	}
	fhd_options_free(&set);
	return status;
}
