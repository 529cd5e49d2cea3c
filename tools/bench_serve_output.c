// SPDX-License-Identifier: Apache-2.0
/* What freehold bench serve tells: text, JSON, CSV, plots. */
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "tools/bench_serve_priv.h"

#define CURVE_POINTS 400u

static FILE *open_output(const char *path, struct fh_err *err)
{
	FILE *f = fopen(path, "we");

	if (!f)
		fh_errf(err, -errno, "%s: %s", path, strerror(errno));
	return f;
}

static int close_output(FILE *f, const char *path, struct fh_err *err)
{
	bool bad = ferror(f);

	return fclose(f) || bad ? fh_errf(err, -EIO, "%s: cannot be written", path) : 0;
}

static const char *backend_of(const struct load_target *t)
{
	if (!t->channel)
		return "openai";
	return strncmp(t->channel, "udp:", 4) ? "freehold-channel" : "freehold-udp";
}

static int write_json(struct bench *b, struct fh_err *err)
{
	const struct serve_options *o = b->o;
	json_t *j = load_report_json(&b->rec.fig, &o->goals, b->limited);
	double rate = b->rec.fig.rate;
	char date[32];
	time_t now = time(NULL);
	struct tm tm;
	int rc = 0;

	strftime(date, sizeof(date), "%Y%m%d-%H%M%S", localtime_r(&now, &tm));
	json_object_set_new(j, "date", json_string(date));
	json_object_set_new(j, "backend", json_string(backend_of(&o->target)));
	json_object_set_new(j, "label", o->label ? json_string(o->label) : json_null());
	json_object_set_new(j, "model_id", json_string(o->target.model));
	json_object_set_new(j, "endpoint", json_string(o->target.channel ? o->target.channel : o->target.path));
	json_object_set_new(j, "request_rate", rate > 0 && !isinf(rate) ? json_real(rate) : json_string("inf"));
	json_object_set_new(j, "arrivals", json_string(o->trace ? "trace" : rate > 0 ? o->arrivals_text : "closed"));
	if (o->arrivals.kind == TRACE_ARR_GAMMA || o->arrivals.kind == TRACE_ARR_POISSON)
		json_object_set_new(j, "burstiness", json_real(o->arrivals.shape > 0 ? o->arrivals.shape : 1));
	json_object_set_new(j, "max_concurrency", o->max_concurrency ? json_integer(o->max_concurrency) : json_null());
	json_object_set_new(j, "seed", json_integer((json_int_t)o->seed));
	json_object_set_new(j, "prompts_cut", json_integer(b->nr_cut));
	if (b->points) {
		json_object_set(j, "points", b->points);
		json_object_set_new(j, "search_share", json_real(o->search_share));
	}
	if (o->search_start > 0) {
		json_object_set_new(j, "max_rate", json_real(b->max_rate));
		json_object_set_new(j, "search_sure", json_boolean(b->search.sure));
		json_object_set_new(j, "search_missed_rate",
				    b->search.bad > 0 ? json_real(b->search.bad) : json_null());
		json_object_set_new(j, "search_time_s", json_real(b->search_took_s));
	}
	if (o->detailed)
		rc = load_report_detail(j, &b->rec);
	if (!rc && !strcmp(o->json, "-")) {
		rc = json_dumpf(j, stdout, JSON_INDENT(1)) || puts("") < 0;
	} else if (!rc) {
		rc = json_dump_file(j, o->json, JSON_INDENT(1));
	}
	json_decref(j);
	return rc ? fh_errf(err, -EIO, "%s: cannot be written", o->json) : 0;
}

/* The share of requests (%) whose time is at most x: of each kind a curve. [3][CURVE_POINTS] x and y. */
static uint32_t latency_curves(const struct load_record *r, struct load_curve *c, double *x, double *y)
{
	static const enum load_metric of[] = {LOAD_TTFT, LOAD_TPOT, LOAD_E2EL};
	double *v = malloc((r->nr ? r->nr : 1) * sizeof(*v));
	uint32_t nr = 0;

	for (int m = 0; m < 3 && v; m++) {
		size_t n = 0;

		for (uint32_t i = 0; i < r->nr; i++)
			if (r->res[i].outcome == LOAD_OK && (of[m] != LOAD_TPOT || r->res[i].nr_out > 1))
				v[n++] = of[m] == LOAD_TTFT   ? load_ttft_ms(&r->res[i])
					 : of[m] == LOAD_TPOT ? load_tpot_ms(&r->res[i])
							      : load_e2el_ms(&r->res[i]);
		if (n < 2)
			continue;
		qsort(v, n, sizeof(*v), serve_by_value);
		c[nr] = (struct load_curve){.x = x + nr * CURVE_POINTS, .y = y + nr * CURVE_POINTS, .nr = CURVE_POINTS};
		snprintf(c[nr].name, sizeof(c[nr].name), "%s", load_metric_name(of[m]));
		for (uint32_t k = 0; k < CURVE_POINTS; k++) {
			c[nr].y[k] = 100.0 * k / (CURVE_POINTS - 1);
			c[nr].x[k] = load_percentile(v, n, (double)k / (CURVE_POINTS - 1));
		}
		nr++;
	}
	free(v);
	return nr;
}

/* Goals met over the rate, points in order of rate. */
static void rate_curve(struct bench *b, struct load_curve *c)
{
	for (uint32_t i = 1; i < b->nr_points; i++) {
		for (uint32_t k = i; k && b->rate[k] < b->rate[k - 1]; k--) {
			double r = b->rate[k], a = b->attainment[k];

			b->rate[k] = b->rate[k - 1];
			b->attainment[k] = b->attainment[k - 1];
			b->rate[k - 1] = r;
			b->attainment[k - 1] = a;
		}
	}
	for (uint32_t i = 0; i < b->nr_points; i++)
		b->attainment[i] *= 100;
	*c = (struct load_curve){.x = b->rate, .y = b->attainment, .nr = b->nr_points, .dots = true};
	snprintf(c->name, sizeof(c->name), "%s", b->o->label ? b->o->label : b->o->target.url);
}

static int write_plots(struct bench *b, struct fh_err *err)
{
	const struct serve_options *o = b->o;
	static double x[3 * CURVE_POINTS], y[3 * CURVE_POINTS];
	struct load_curve c[3];
	char mark[48];
	struct load_axes axes = {.title = "Share of requests within a time",
				 .x = "ms",
				 .y = "% of requests",
				 .log_x = true,
				 .y_max = 100};
	uint32_t nr;
	FILE *f;

	if (b->points) {
		rate_curve(b, &c[0]);
		snprintf(mark, sizeof(mark), "%g %%", o->search_share * 100);
		axes = (struct load_axes){.title = "Requests that met their goals",
					  .x = "requests a second",
					  .y = "% of requests",
					  .log_x = true,
					  .y_max = 100,
					  .mark_y = o->search_share * 100,
					  .mark = mark};
		nr = 1;
	} else {
		nr = latency_curves(&b->rec, c, x, y);
	}
	if (o->plot && (!o->json || strcmp(o->json, "-")))
		load_plot_text(&axes, c, nr, 100, stdout);
	if (!o->svg)
		return 0;
	f = open_output(o->svg, err);
	if (!f)
		return -EIO;
	load_plot_svg(&axes, c, nr, f);
	return close_output(f, o->svg, err);
}

static int write_csv(struct bench *b, struct fh_err *err)
{
	FILE *f = open_output(b->o->csv, err);

	if (!f)
		return -EIO;
	load_report_csv(&b->rec, &b->trace, b->deadline, &b->o->goals, f);
	return close_output(f, b->o->csv, err);
}

int serve_output(struct bench *b, struct fh_err *err)
{
	const struct serve_options *o = b->o;
	bool quiet = o->json && !strcmp(o->json, "-");
	int rc = 0;

	if (!quiet && !b->points)
		load_report_text(&b->rec.fig, &o->goals, b->limited, stdout);
	if (!quiet && o->search_start > 0 && !(b->max_rate > 0))
		printf("%g %% met their goals at no rate that was tried\n", o->search_share * 100);
	else if (!quiet && o->search_start > 0)
		printf("largest rate at which %g %% met their goals: %.3f requests/s%s\n", o->search_share * 100,
		       b->max_rate, b->search.sure ? "" : " (the search ended early)");
	if (quiet && b->rec.fig.bottleneck[0])
		fprintf(stderr, "freehold: bench serve: warning: the generator may have been the bottleneck: %s\n",
			b->rec.fig.bottleneck);
	if (b->nr_cut)
		fprintf(stderr, "freehold: bench serve: %u prompts were cut to fit the context of %u tokens\n",
			b->nr_cut, o->target.nr_ctx);
	if (b->rec.first_error[0])
		fprintf(stderr, "freehold: bench serve: the first request that failed: %s\n", b->rec.first_error);
	if (o->json)
		rc = write_json(b, err);
	if (!rc && o->csv)
		rc = write_csv(b, err);
	if (!rc && (o->svg || o->plot))
		rc = write_plots(b, err);
	return rc;
}
