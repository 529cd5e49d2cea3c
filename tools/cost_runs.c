// SPDX-License-Identifier: Apache-2.0
/* freehold cost --by run: what agent runs used, the latest at the end. */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <jansson.h>

#include "runtime/base/budget.h"
#include "runtime/trust/runs.h"
#include "tools/cmd.h"
#include "tools/cost.h"

/* A run, of all models; or what of a tenant's runs has no row of its own. */
struct run_line {
	char tenant[FH_IDENTITY_NAME_MAX + 1], id[FH_RUN_NAME_BYTES]; /* "": others */
	struct fh_run_row sum;					      /* its strings are not set */
};

struct run_lines {
	struct run_line *line;
	uint32_t nr, cap;
};

static int take(void *ctx, const struct fh_run_row *row)
{
	struct run_lines *l = ctx;
	struct run_line *more;

	if (l->nr == l->cap) {
		uint32_t cap = l->cap ? 2 * l->cap : 256;

		more = realloc(l->line, cap * sizeof(*more));
		if (!more)
			return -ENOMEM;
		l->line = more;
		l->cap = cap;
	}
	more = &l->line[l->nr++];
	*more = (struct run_line){.sum = *row};
	snprintf(more->tenant, sizeof(more->tenant), "%s", row->tenant);
	snprintf(more->id, sizeof(more->id), "%s", row->run);
	return 0;
}

/* The sums of all come first of their tenant, as their id is empty. */
static int by_name(const void *a, const void *b)
{
	const struct run_line *x = a, *y = b;
	int c = strcmp(x->tenant, y->tenant);

	return c ? c : strcmp(x->id, y->id);
}

static int by_time(const void *a, const void *b)
{
	const struct run_line *x = a, *y = b;

	/* Others stand at the end. */
	if (!*x->id != !*y->id)
		return !*x->id - !*y->id;
	if (x->sum.last_s != y->sum.last_s)
		return x->sum.last_s < y->sum.last_s ? -1 : 1;
	return by_name(a, b);
}

static void add(struct fh_run_row *to, const struct fh_run_row *r)
{
	to->first_s = r->first_s < to->first_s ? r->first_s : to->first_s;
	to->last_s = r->last_s > to->last_s ? r->last_s : to->last_s;
	to->depth = r->depth > to->depth ? r->depth : to->depth;
	to->requests += r->requests;
	to->prompt += r->prompt;
	to->cached += r->cached;
	to->completion += r->completion;
	to->reasoning += r->reasoning;
	to->money += r->money;
	to->uj += r->uj;
}

static uint64_t less(uint64_t a, uint64_t b)
{
	return a > b ? a - b : 0;
}

static void subtract(struct fh_run_row *from, const struct fh_run_row *r)
{
	from->requests = less(from->requests, r->requests);
	from->prompt = less(from->prompt, r->prompt);
	from->cached = less(from->cached, r->cached);
	from->completion = less(from->completion, r->completion);
	from->reasoning = less(from->reasoning, r->reasoning);
	from->money = less(from->money, r->money);
	from->uj = less(from->uj, r->uj);
}

/* Of several models one line; and of a tenant's sum what is in no other line. */
static void put_together(struct run_lines *l)
{
	struct run_line *others = NULL, *to;
	uint32_t nr = 0;

	if (l->nr)
		qsort(l->line, l->nr, sizeof(*l->line), by_name);
	for (uint32_t i = 0; i < l->nr; i++) {
		to = nr ? &l->line[nr - 1] : NULL;
		if (to && !by_name(to, &l->line[i]))
			add(&to->sum, &l->line[i].sum);
		else
			l->line[nr++] = l->line[i];
	}
	for (uint32_t i = 0; i < nr; i++) {
		to = &l->line[i];
		if (!*to->id)
			others = to;
		else if (others && !strcmp(others->tenant, to->tenant))
			subtract(&others->sum, &to->sum);
	}
	l->nr = 0;
	for (uint32_t i = 0; i < nr; i++) {
		const struct fh_run_row *s = &l->line[i].sum;

		/* Joules of rows are cut to whole millionths, those of the sum too. */
		if (*l->line[i].id || s->requests || s->prompt || s->completion)
			l->line[l->nr++] = l->line[i];
	}
	if (l->nr)
		qsort(l->line, l->nr, sizeof(*l->line), by_time);
}

static void put_time(char out[32], uint64_t s)
{
	time_t t = (time_t)s;
	struct tm tm = {0};

	gmtime_r(&t, &tm);
	strftime(out, 32, "%Y-%m-%dT%H:%M:%SZ", &tm);
}

static double money_of(uint64_t v)
{
	return (double)v / (double)FH_MONEY_UNIT;
}

static void print_json(const struct run_lines *l)
{
	char when[32];

	for (uint32_t i = 0; i < l->nr; i++) {
		const struct run_line *r = &l->line[i];
		const struct fh_run_row *s = &r->sum;
		json_t *j =
			json_pack("{s:s?, s:s, s:I, s:I, s:I, s:I, s:I, s:f, s:f}", "run", *r->id ? r->id : NULL,
				  "tenant", r->tenant, "requests", (json_int_t)s->requests, "prompt_tokens",
				  (json_int_t)s->prompt, "cached_tokens", (json_int_t)s->cached, "completion_tokens",
				  (json_int_t)s->completion, "reasoning_tokens", (json_int_t)s->reasoning, "money",
				  money_of(s->money), "joules", (double)s->uj / 1e6);

		if (*r->id) {
			json_object_set_new(j, "depth", json_integer((json_int_t)s->depth));
			put_time(when, s->first_s);
			json_object_set_new(j, "first", json_string(when));
			put_time(when, s->last_s);
			json_object_set_new(j, "last", json_string(when));
		}
		printf("%s", i ? ",\n" : "[");
		json_dumpf(j, stdout, JSON_COMPACT | JSON_REAL_PRECISION(15));
		json_decref(j);
	}
	puts(l->nr ? "]" : "[]");
}

static void print_table(const struct run_lines *l)
{
	char first[32], last[32];

	if (!l->nr) {
		puts("no run used anything");
		return;
	}
	printf("%-32s  %-16s  %9s  %11s  %11s  %11s  %11s  %13s  %12s  %5s  %-20s  %s\n", "run", "tenant", "requests",
	       "prompt", "cached", "completion", "reasoning", "money", "joules", "depth", "first", "last");
	for (uint32_t i = 0; i < l->nr; i++) {
		const struct run_line *r = &l->line[i];
		const struct fh_run_row *s = &r->sum;

		printf("%-32s  %-16s  %9" PRIu64 "  %11" PRIu64 "  %11" PRIu64 "  %11" PRIu64 "  %11" PRIu64
		       "  %13.6f  %12.1f",
		       *r->id ? r->id : "others", r->tenant, s->requests, s->prompt, s->cached, s->completion,
		       s->reasoning, money_of(s->money), (double)s->uj / 1e6);
		put_time(first, s->first_s);
		put_time(last, s->last_s);
		if (*r->id)
			printf("  %5" PRIu64 "  %s  %s", s->depth, first, last);
		putchar('\n');
	}
}

static bool is_id(const char *text)
{
	return strlen(text) == FH_RUN_NAME_BYTES - 1 && strspn(text, "0123456789abcdef") == FH_RUN_NAME_BYTES - 1;
}

int cost_runs(struct fh_keydb *db, const struct cost_args *a, const struct cost_span *span, bool all)
{
	struct run_lines l = {0};
	struct fh_err err = {.msg = "no memory"};
	char id[FH_RUN_NAME_BYTES];
	/* What began this second, too. */
	uint64_t to_s = a->to ? span->to_s : UINT64_MAX;
	int rc;

	if (a->run)
		fh_run_of_name(a->run, id);
	rc = fh_runs_each(db, false, a->tenant, a->run ? id : NULL, span->from_s, to_s, take, &l, &err);
	/* Somebody may call his run what another one's id looks like. */
	if (!rc && a->run && is_id(a->run))
		rc = fh_runs_each(db, false, a->tenant, a->run, span->from_s, to_s, take, &l, &err);
	if (!rc && all && !a->run)
		rc = fh_runs_each(db, true, a->tenant, NULL, 0, UINT64_MAX, take, &l, &err);
	if (!rc) {
		put_together(&l);
		if (a->json)
			print_json(&l);
		else
			print_table(&l);
	}
	free(l.line);
	return rc ? cmd_failed("cost", "%s", err.msg) : 0;
}
