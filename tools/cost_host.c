// SPDX-License-Identifier: Apache-2.0
/*
 * freehold cost host: what a million tokens of this host really cost, beside what
 * others ask, and the load from which owning wins.
 *
 * A month of the host costs A + e * L at a load of L million tokens: A is the
 * hardware, its place and the power of a host that idles, e the energy that a
 * million tokens take beyond that.  Renting costs r * L, so owning wins from
 * A / (r - e) on, and never where r is no more than e.  Where power was not
 * measured all of it is in A.
 */
#include <errno.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "runtime/daemon/options.h"
#include "runtime/trust/accounts.h"
#include "runtime/trust/measured.h"
#include "tools/cmd.h"
#include "tools/cost.h"

#define HOURS_A_YEAR 8766.0
#define HOURS_A_MONTH (HOURS_A_YEAR / 12)
#define MAX_RENTALS 64

int cost_read_config(const char *path, struct fhd_host_cost *out)
{
	struct fhd_option_set set;
	struct fhd_config c;
	struct fh_err err;
	int rc;

	fhd_config_init(&c, FHD_USE_SERVE, &set);
	rc = path ? fhd_options_file(path, &set, 1, &err) : 0;
	*out = c.host;
	fhd_options_free(&set);
	return rc ? cmd_failed("cost", "%s", err.msg) : 0;
}

struct rental {
	char name[64];
	double prompt, cached, completion, reasoning;
};

/* A line of the table without its comment; false: it is wrong. */
static bool read_rental(const char *text, struct rental *x)
{
	char rest[2];
	int n = sscanf(text, " %63s %lf/%lf/%lf/%lf %1s", x->name, &x->prompt, &x->cached, &x->completion,
		       &x->reasoning, rest);

	if (n == 4)
		n = sscanf(text, " %63s %lf/%lf/%lf %1s", x->name, &x->prompt, &x->cached, &x->completion, rest) == 4
			    ? 4
			    : 0;
	if (n == 4)
		x->reasoning = x->completion;
	return (n == 4 || n == 5) && x->prompt >= 0 && x->cached >= 0 && x->completion >= 0 && x->reasoning >= 0;
}

static int read_rentals(const char *path, struct rental *r, uint32_t *nr)
{
	char text[256];
	uint32_t line = 0;
	FILE *in = fopen(path, "re");

	*nr = 0;
	if (!in)
		return cmd_failed("cost", "%s: %s", path, strerror(errno));
	while (fgets(text, sizeof(text), in)) {
		line++;
		text[strcspn(text, "#\r\n")] = 0;
		if (!text[strspn(text, " \t")])
			continue;
		if (*nr == MAX_RENTALS || !read_rental(text, &r[*nr])) {
			fclose(in);
			return cmd_failed(
				"cost", "%s:%u: %s", path, line,
				*nr == MAX_RENTALS
					? "there are too many"
					: "NAME PROMPT/CACHED/COMPLETION is wanted, such as "
					  "\"them 0.50/0.05/1.50\", with /REASONING if that is another price");
		}
		++*nr;
	}
	fclose(in);
	return 0;
}

/* ---- what was done ---- */

/* An hour in which the host of a model was measured. */
struct measured_hour {
	uint64_t hour_s;
	char *model;
};

struct load {
	double prompt, cached, completion, reasoning; /* millions of tokens; each without the next finer one */
	/* Of them, in hours that were measured: all, and those that were computed. */
	double measured, measured_computed;
	double hours, millions;
	uint64_t first_s, last_s;		 /* hours with any use */
	double busy_uj, idle_uj, busy_s, idle_s; /* that were measured */
	struct measured_hour *hour;		 /* [nr_hours], in order of time; owned */
	size_t nr_hours, room;
};

static bool was_measured(const struct load *l, const struct fh_usage_hour *h)
{
	size_t low = 0, high = l->nr_hours;

	while (low < high) {
		size_t mid = low + (high - low) / 2;

		if (l->hour[mid].hour_s < h->hour_s)
			low = mid + 1;
		else
			high = mid;
	}
	for (; low < l->nr_hours && l->hour[low].hour_s == h->hour_s; low++)
		if (!strcmp(l->hour[low].model, h->model))
			return true;
	return false;
}

static int note_hour(struct load *l, const struct fh_measured *m)
{
	size_t room = l->room ? 2 * l->room : 64;
	struct measured_hour *more;

	if (l->nr_hours == l->room) {
		more = realloc(l->hour, room * sizeof(*more));
		if (!more)
			return -ENOMEM;
		l->hour = more;
		l->room = room;
	}
	l->hour[l->nr_hours] = (struct measured_hour){m->hour_s, strdup(m->model)};
	return l->hour[l->nr_hours].model ? (l->nr_hours++, 0) : -ENOMEM;
}

static void free_load(struct load *l)
{
	for (size_t i = 0; i < l->nr_hours; i++)
		free(l->hour[i].model);
	free(l->hour);
}

static int add_hour(void *ctx, const struct fh_usage_hour *h)
{
	struct load *l = ctx;

	l->first_s = l->first_s ? l->first_s : h->hour_s;
	l->last_s = h->hour_s;
	l->prompt += (double)(h->prompt - h->cached) / 1e6;
	l->cached += (double)h->cached / 1e6;
	l->completion += (double)h->completion / 1e6;
	if (was_measured(l, h)) {
		l->measured += (double)(h->prompt + h->completion) / 1e6;
		l->measured_computed += (double)(h->prompt - h->cached + h->completion) / 1e6;
	}
	return 0;
}

static int add_thoughts(void *ctx, const struct fh_measured *m)
{
	struct load *l = ctx;

	l->reasoning += (double)m->reasoning / 1e6;
	l->completion -= (double)m->reasoning / 1e6;
	return 0;
}

static int add_host(void *ctx, const struct fh_measured *m)
{
	struct load *l = ctx;
	bool busy = !strcmp(m->name, "busy");

	*(busy ? &l->busy_uj : &l->idle_uj) += (double)m->uj;
	*(busy ? &l->busy_s : &l->idle_s) += m->seconds;
	return busy ? note_hour(l, m) : 0;
}

static int read_load(struct fh_keydb *db, const struct cost_span *span, struct load *l)
{
	struct fh_err err = {.msg = "no memory"};
	uint64_t end_s;
	int rc = fh_measured_each(db, "host", span->from_s, span->to_s, add_host, l, &err);

	if (!rc)
		rc = fh_usage_each_hour(db, "tenant", span->from_s, span->to_s, add_hour, l, &err);
	if (!rc)
		rc = fh_measured_each(db, "tenant", span->from_s, span->to_s, add_thoughts, l, &err);
	if (rc)
		return cmd_failed("cost", "%s", err.msg);
	l->millions = l->prompt + l->cached + l->completion + l->reasoning;
	if (!(l->millions > 0))
		return cmd_failed("cost", "nothing was used in that time, so there is no price of it");
	end_s = span->to_s < l->last_s + 3600 ? span->to_s : l->last_s + 3600;
	l->hours = (double)(end_s - (span->from_s ? span->from_s : l->first_s)) / 3600;
	l->hours = l->hours > 1.0 / 60 ? l->hours : 1.0 / 60;
	return 0;
}

/* ---- what that cost ---- */

struct bill {
	double hour, month;   /* of the host, at the load that it had */
	double base, million; /* A and e of above: money a month, and of a million tokens */
	double watts, idle_watts;
	bool measured;
	double busy; /* share of the time; 0 where nothing was measured */
};

static struct bill make_bill(const struct fhd_host_cost *c, const struct load *l)
{
	double on = (double)c->hours / HOURS_A_YEAR, s = l->busy_s + l->idle_s, busy_watts;
	double fixed = c->hardware / (c->years * HOURS_A_YEAR) + c->other * 12 / HOURS_A_YEAR;
	/* Money of a watt that is taken for an hour, as long as the host is on. */
	double watt = c->kwh_price / 1000 * on;
	struct bill b = {.measured = s > 0, .watts = c->watts, .idle_watts = c->watts};

	if (b.measured) {
		b.busy = l->busy_s / s;
		b.watts = (l->busy_uj + l->idle_uj) / 1e6 / s * c->overhead;
		b.idle_watts = l->idle_s > 0 ? l->idle_uj / 1e6 / l->idle_s * c->overhead : b.watts;
		busy_watts = l->busy_s > 0 ? l->busy_uj / 1e6 / l->busy_s * c->overhead : b.watts;
		/* Of hours that were measured, tokens as well as energy. */
		if (busy_watts > b.idle_watts && l->measured > 0)
			b.million = (busy_watts - b.idle_watts) * l->busy_s / 3600 / l->measured * c->kwh_price / 1000;
	}
	b.hour = fixed + b.watts * watt;
	b.month = b.hour * HOURS_A_MONTH;
	b.base = (fixed + b.idle_watts * watt) * HOURS_A_MONTH;
	return b;
}

static double same_use(const struct load *l, const struct rental *r)
{
	return l->prompt * r->prompt + l->cached * r->cached + l->completion * r->completion +
	       l->reasoning * r->reasoning;
}

/* Million tokens a month from which owning is cheaper; 0: never. */
static double wins_from(const struct load *l, const struct bill *b, const struct rental *r)
{
	double million = same_use(l, r) / l->millions;

	return million > b->million ? b->base / (million - b->million) : 0;
}

static void print_power(const struct load *l, const struct bill *b, const struct fhd_host_cost *c)
{
	if (!b->measured && c->watts > 0)
		printf("it takes %.0f W, which were not measured\n", b->watts);
	if (!b->measured)
		return;
	printf("it took %.1f W on average, %.1f W idle, as measured for %.1f hours%s; it computed %.1f %% of the "
	       "time\n",
	       b->watts, b->idle_watts, (l->busy_s + l->idle_s) / 3600, c->watts > 0 ? " (--watts is not used)" : "",
	       100 * b->busy);
	if (l->measured_computed > 0)
		printf("a token took %.4f J, and a million of them beyond what idling takes %.4f\n",
		       l->busy_uj / 1e6 / (l->measured_computed * 1e6), b->million);
}

static void print_host(const struct load *l, const struct bill *b, const struct fhd_host_cost *c,
		       const struct rental *r, uint32_t nr)
{
	double a_month = l->millions / l->hours * HOURS_A_MONTH;

	printf("this host costs %.4f an hour, %.2f a month\n", b->hour, b->month);
	print_power(l, b, c);
	printf("in %.0f hours it read %.3f million tokens, found %.3f more in the cache, and wrote %.3f", l->hours,
	       l->prompt, l->cached, l->completion + l->reasoning);
	if (l->reasoning > 0)
		printf(", of them %.3f thoughts", l->reasoning);
	printf("\na million tokens cost %.4f at that load (%.3f million a month)\n", b->hour * l->hours / l->millions,
	       a_month);
	if (b->busy > 0)
		printf("a million tokens would cost %.4f if it computed all the time (%.3f million a month)\n",
		       b->base / (a_month / b->busy) + b->million, a_month / b->busy);
	if (nr)
		printf("\n%-24s  %12s  %12s  %22s\n", "rented from", "a million", "the same", "owning wins from");
	for (uint32_t i = 0; i < nr; i++) {
		double same = same_use(l, &r[i]), wins = wins_from(l, b, &r[i]);
		char from[40] = "never";

		if (wins > 0)
			snprintf(from, sizeof(from), "%.3f million/month%s", wins,
				 b->busy > 0 && wins > a_month / b->busy ? "*" : "");
		printf("%-24s  %12.4f  %12.4f  %22s\n", r[i].name, same / l->millions, same, from);
	}
	for (uint32_t i = 0; i < nr; i++)
		if (b->busy > 0 && wins_from(l, b, &r[i]) > a_month / b->busy) {
			puts("* more than this host can do, going by the share of the time that it computed");
			break;
		}
}

static void print_host_json(const struct load *l, const struct bill *b, const struct rental *r, uint32_t nr)
{
	json_t *list = json_array(), *j;

	for (uint32_t i = 0; i < nr; i++) {
		double same = same_use(l, &r[i]), wins = wins_from(l, b, &r[i]);

		j = json_pack("{s:s, s:f, s:f}", "name", r[i].name, "million_tokens", same / l->millions, "same_use",
			      same);
		if (wins > 0)
			json_object_set_new(j, "owning_wins_from_million_tokens_a_month", json_real(wins));
		json_array_append_new(list, j);
	}
	j = json_pack("{s:f, s:f, s:f, s:f, s:f, s:f, s:b, s:o}", "hour", b->hour, "month", b->month, "hours", l->hours,
		      "million_tokens_used", l->millions, "million_tokens", b->hour * l->hours / l->millions, "watts",
		      b->watts, "power_measured", b->measured, "rental", list);
	if (b->measured) {
		json_object_set_new(j, "idle_watts", json_real(b->idle_watts));
		json_object_set_new(j, "busy_joules", json_real(l->busy_uj / 1e6));
		json_object_set_new(j, "idle_joules", json_real(l->idle_uj / 1e6));
		json_object_set_new(j, "busy_share", json_real(b->busy));
		json_object_set_new(j, "energy_of_a_million_tokens", json_real(b->million));
	}
	json_dumpf(j, stdout, JSON_COMPACT | JSON_REAL_PRECISION(15));
	putchar('\n');
	json_decref(j);
}

int cost_host(struct fh_keydb *db, const struct cost_args *a, const struct cost_span *span)
{
	struct rental rental[MAX_RENTALS];
	struct load l = {0};
	struct bill b;
	uint32_t nr = 0;

	if (a->rental && read_rentals(a->rental, rental, &nr))
		return 1;
	if (read_load(db, span, &l)) {
		free_load(&l);
		return 1;
	}
	b = make_bill(&a->host, &l);
	if (a->json)
		print_host_json(&l, &b, rental, nr);
	else
		print_host(&l, &b, &a->host, rental, nr);
	free_load(&l);
	return 0;
}
