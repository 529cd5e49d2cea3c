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
#include "tools/audit.h"
#include "tools/cmd.h"

#define HOURS_A_YEAR 8766.0
#define MAX_RENTALS 64

struct cost_args {
	char *keys, *by, *per, *from, *to, *rental;
	float hardware, years, watts, kwh_price, other;
	bool json;
};

#define AT(field) offsetof(struct cost_args, field)

static const struct fhd_option options[] = {
	{"usage:", 0, FHD_OPT_GROUP, 0, 0, 0, NULL, NULL},
	{"keys", 0, FHD_OPT_STR, AT(keys), 0, 0, "FILE", "the database (default: " CMD_KEYS_PATH ")"},
	{"by", 0, FHD_OPT_CHOICE, AT(by), 0, 0, "tenant|user|key|model", "whose use (default: tenant)"},
	{"per", 0, FHD_OPT_CHOICE, AT(per), 0, 0, "hour|day|all", "summed up over (default: all)"},
	{"from", 0, FHD_OPT_STR, AT(from), 0, 0, "TIME", "from then on, such as 2026-11-01 (default: ever)"},
	{"to", 0, FHD_OPT_STR, AT(to), 0, 0, "TIME", "before then (default: now)"},
	{"json", 0, FHD_OPT_ON, AT(json), 0, 0, NULL, "print JSON"},
	{"the host:", 0, FHD_OPT_GROUP, 0, 0, 0, NULL, NULL},
	{"hardware", 0, FHD_OPT_FLOAT, AT(hardware), 0, 1e9, "MONEY", "what it cost"},
	{"years", 0, FHD_OPT_FLOAT, AT(years), 0.01, 100, "N", "that it is used for (default: 4)"},
	{"watts", 0, FHD_OPT_FLOAT, AT(watts), 0, 1e6, "N", "that it takes on average, cooling included"},
	{"kwh-price", 0, FHD_OPT_FLOAT, AT(kwh_price), 0, 1000, "MONEY", "of a kilowatt hour"},
	{"other", 0, FHD_OPT_FLOAT, AT(other), 0, 1e9, "MONEY", "rent of its place, people: a month"},
	{"rental", 0, FHD_OPT_STR, AT(rental), 0, 0, "FILE",
	 "what others ask: a line each, NAME PROMPT/CACHED/COMPLETION,\nof a million tokens; # begins a comment"},
};

static struct fhd_option_set set_of(struct cost_args *a)
{
	return (struct fhd_option_set){.opts = options, .nr = sizeof(options) / sizeof(options[0]), .base = a};
}

static void usage(void)
{
	const struct fhd_option_set set = set_of(NULL);

	fputs("usage: freehold cost [usage] [--by WHOM] [--per SPAN] [--from TIME] [--to TIME] [OPTION...]\n"
	      "       freehold cost host --hardware MONEY --watts N --kwh-price MONEY [OPTION...]\n"
	      "\n"
	      "  usage  tokens, requests and money by tenant, user, key or model, as `freehold serve\n"
	      "         --keys` has counted them (as of about a second ago)\n"
	      "  host   what a million tokens of this host really cost, at the load that it had\n"
	      "         from --from (or the first use) to --to; with --rental what others would have asked\n"
	      "         for the same, and the load from which owning wins\n",
	      stdout);
	fhd_options_help(stdout, &set, 1);
	fputs("\n"
	      "examples:\n"
	      "  freehold cost usage --by key --per day --from 2026-11-01\n"
	      "  freehold cost host --hardware 12000 --years 4 --watts 600 --kwh-price 0.30 --other 50 --rental "
	      "prices\n",
	      stdout);
}

/* ---- sums ---- */

struct line {
	uint64_t begin_s;
	char name[160];
	uint64_t prompt, cached, completion, money, requests;
};

struct sums {
	struct line *line;
	uint32_t nr, cap;
	uint32_t per_s; /* 0: all */
	bool by_model;
	uint64_t first_s, last_s; /* hours with any use */
};

static int add_hour(void *ctx, const struct fh_usage_hour *h)
{
	struct sums *s = ctx;
	uint64_t begin_s = s->per_s ? h->hour_s - h->hour_s % s->per_s : 0;
	const char *name = s->by_model ? h->model : h->name;
	struct line *l = NULL;

	s->first_s = s->first_s ? s->first_s : h->hour_s;
	s->last_s = h->hour_s;
	/* Hours come in order: what it belongs to is among the last, or is new. */
	for (uint32_t i = s->nr; i-- && s->line[i].begin_s == begin_s && !l;)
		if (!strcmp(s->line[i].name, name))
			l = &s->line[i];
	if (!l) {
		if (s->nr == s->cap) {
			uint32_t cap = s->cap ? 2 * s->cap : 64;
			struct line *more = realloc(s->line, cap * sizeof(*more));

			if (!more)
				return -ENOMEM;
			s->line = more;
			s->cap = cap;
		}
		l = &s->line[s->nr++];
		*l = (struct line){.begin_s = begin_s};
		snprintf(l->name, sizeof(l->name), "%s", name);
	}
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
		json_t *j =
			json_pack("{s:s, s:I, s:I, s:I, s:I, s:f}", by, l->name, "requests", (json_int_t)l->requests,
				  "prompt_tokens", (json_int_t)l->prompt, "cached_tokens", (json_int_t)l->cached,
				  "completion_tokens", (json_int_t)l->completion, "money", money_of(l->money));

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
	printf("%-18s%-36s  %10s  %12s  %12s  %12s  %14s\n", s->per_s ? "from" : "", by, "requests", "prompt", "cached",
	       "completion", "money");
	for (uint32_t i = 0; i < s->nr; i++) {
		const struct line *l = &s->line[i];

		if (s->per_s)
			put_time(when, l->begin_s);
		printf("%-18s%-36s  %10" PRIu64 "  %12" PRIu64 "  %12" PRIu64 "  %12" PRIu64 "  %14.6f\n", when,
		       l->name, l->requests, l->prompt, l->cached, l->completion, money_of(l->money));
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
	if (!rc && a->json)
		print_json(&s, by);
	else if (!rc)
		print_table(&s, by);
	free(s.line);
	return rc ? cmd_failed("cost", "%s", err.msg) : 0;
}

/* ---- owning and renting ---- */

struct rental {
	char name[64];
	double prompt, cached, completion;
};

static int read_rentals(const char *path, struct rental *r, uint32_t *nr)
{
	char text[256];
	uint32_t line = 0;
	FILE *in = fopen(path, "re");

	*nr = 0;
	if (!in)
		return cmd_failed("cost", "%s: %s", path, strerror(errno));
	while (fgets(text, sizeof(text), in)) {
		struct rental *x = &r[*nr];
		char rest[2];

		line++;
		text[strcspn(text, "#\r\n")] = 0;
		if (!text[strspn(text, " \t")])
			continue;
		if (*nr == MAX_RENTALS ||
		    sscanf(text, " %63s %lf/%lf/%lf %1s", x->name, &x->prompt, &x->cached, &x->completion, rest) != 4 ||
		    !(x->prompt >= 0 && x->cached >= 0 && x->completion >= 0)) {
			fclose(in);
			return cmd_failed("cost", "%s:%u: %s", path, line,
					  *nr == MAX_RENTALS ? "there are too many"
							     : "NAME PROMPT/CACHED/COMPLETION is wanted, such as "
							       "\"them 0.50/0.05/1.50\"");
		}
		++*nr;
	}
	fclose(in);
	return 0;
}

struct load {
	double prompt, cached, completion; /* millions of tokens; prompt without cached */
	double hours, millions;
};

static void print_host(const struct load *l, double hour, const struct rental *r, uint32_t nr)
{
	double month = hour * HOURS_A_YEAR / 12, all = hour * l->hours;

	printf("this host costs %.4f an hour, %.2f a month\n", hour, month);
	printf("in %.0f hours it read %.3f million tokens, found %.3f more in the cache, and wrote %.3f\n", l->hours,
	       l->prompt, l->cached, l->completion);
	printf("a million tokens cost %.4f at that load (%.3f million a month)\n", all / l->millions,
	       l->millions / l->hours * HOURS_A_YEAR / 12);
	if (nr)
		printf("\n%-24s  %12s  %12s  %22s\n", "rented from", "a million", "the same", "owning wins from");
	for (uint32_t i = 0; i < nr; i++) {
		double same = l->prompt * r[i].prompt + l->cached * r[i].cached + l->completion * r[i].completion;
		char from[40] = "never";

		if (same > 0)
			snprintf(from, sizeof(from), "%.3f million/month", month / (same / l->millions));
		printf("%-24s  %12.4f  %12.4f  %22s\n", r[i].name, same / l->millions, same, from);
	}
}

static void print_host_json(const struct load *l, double hour, const struct rental *r, uint32_t nr)
{
	double month = hour * HOURS_A_YEAR / 12;
	json_t *list = json_array(), *j;

	for (uint32_t i = 0; i < nr; i++) {
		double same = l->prompt * r[i].prompt + l->cached * r[i].cached + l->completion * r[i].completion;

		j = json_pack("{s:s, s:f, s:f}", "name", r[i].name, "million_tokens", same / l->millions, "same_use",
			      same);
		if (same > 0)
			json_object_set_new(j, "owning_wins_from_million_tokens_a_month",
					    json_real(month / (same / l->millions)));
		json_array_append_new(list, j);
	}
	j = json_pack("{s:f, s:f, s:f, s:f, s:f, s:o}", "hour", hour, "month", month, "hours", l->hours,
		      "million_tokens_used", l->millions, "million_tokens", hour * l->hours / l->millions, "rental",
		      list);
	json_dumpf(j, stdout, JSON_COMPACT | JSON_REAL_PRECISION(15));
	putchar('\n');
	json_decref(j);
}

static int do_host(struct fh_keydb *db, const struct cost_args *a, uint64_t from_s, uint64_t to_s)
{
	double hour =
		a->hardware / (a->years * HOURS_A_YEAR) + a->watts / 1000 * a->kwh_price + a->other * 12 / HOURS_A_YEAR;
	struct rental rental[MAX_RENTALS];
	struct sums s = {0};
	struct load l = {0};
	struct fh_err err = {.msg = "no memory"};
	uint32_t nr = 0;
	int rc;

	if (a->rental && read_rentals(a->rental, rental, &nr))
		return 1;
	rc = fh_usage_each_hour(db, "tenant", from_s, to_s, add_hour, &s, &err);
	for (uint32_t i = 0; i < s.nr; i++) {
		l.prompt += (double)(s.line[i].prompt - s.line[i].cached) / 1e6;
		l.cached += (double)s.line[i].cached / 1e6;
		l.completion += (double)s.line[i].completion / 1e6;
	}
	free(s.line);
	if (rc)
		return cmd_failed("cost", "%s", err.msg);
	l.millions = l.prompt + l.cached + l.completion;
	if (!(l.millions > 0))
		return cmd_failed("cost", "nothing was used in that time, so there is no price of it");
	l.hours = (double)((to_s < s.last_s + 3600 ? to_s : s.last_s + 3600) - (from_s ? from_s : s.first_s)) / 3600;
	l.hours = l.hours > 1.0 / 60 ? l.hours : 1.0 / 60;
	if (a->json)
		print_host_json(&l, hour, rental, nr);
	else
		print_host(&l, hour, rental, nr);
	return 0;
}

int cmd_cost(int argc, char **argv)
{
	struct cost_args a = {.years = 4};
	const struct fhd_option_set set = set_of(&a);
	uint64_t from_s = 0, to_s = (uint64_t)time(NULL), us;
	bool host = argc > 1 && !strcmp(argv[1], "host");
	int skip = argc > 1 && (host || !strcmp(argv[1], "usage")), status;
	struct fh_keydb *db;
	struct fh_err err;

	if (cmd_wants_help(argc, argv)) {
		usage();
		return 0;
	}
	status = fhd_options_argv(argc - skip, argv + skip, &set, 1, &err) ? cmd_wrong("cost", "%s", err.msg) : 0;
	if (!status && a.from && !audit_parse_time(a.from, &us))
		status = cmd_wrong("cost", "--from: a time such as 2026-11-01 or 2026-11-01T12:00:00Z is wanted");
	else if (!status && a.from)
		from_s = us / 1000000;
	if (!status && a.to && !audit_parse_time(a.to, &us))
		status = cmd_wrong("cost", "--to: a time such as 2026-12-01 is wanted");
	else if (!status && a.to)
		to_s = us / 1000000;
	if (!status && host && !(a.hardware > 0 || a.watts > 0 || a.other > 0))
		status = cmd_wrong(
			"cost", "host: --hardware, --watts with --kwh-price, or --other is wanted: what does it cost?");
	if (!status && fh_keydb_open(a.keys ? a.keys : CMD_KEYS_PATH, false, &db, &err))
		status = cmd_failed("cost", "%s", err.msg);
	else if (!status) {
		status = host ? do_host(db, &a, from_s, to_s) : do_usage(db, &a, from_s, to_s);
		fh_keydb_close(db);
	}
	fhd_options_free(&set);
	return status;
}
