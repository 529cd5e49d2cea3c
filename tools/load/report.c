// SPDX-License-Identifier: Apache-2.0
/* Figures for people and programs; see report.h. */
#include <math.h>
#include <string.h>

#include "tools/load/report.h"

const char *load_metric_key(enum load_metric m)
{
	static const char *const keys[] = {"ttft", "tpot", "itl", "e2el", "send_delay", "client_queue_time"};

	return keys[m];
}

const char *load_metric_name(enum load_metric m)
{
	static const char *const names[] = {
		"Time to first token", "Time per output token",	     "Between chunks (ITL)",
		"Request, end to end", "Generator's own send delay", "Waited for --max-concurrency",
	};

	return names[m];
}

static bool shown(const struct load_figures *f, enum load_metric m, bool limited)
{
	return f->dist[m].nr && (m != LOAD_CLIENT_QUEUE || limited);
}

static void put_outcomes(const struct load_figures *f, FILE *out)
{
	for (int o = LOAD_UNSENT; o < LOAD_NR_OUTCOMES; o++)
		if (f->nr_by_outcome[o] && o != LOAD_OK)
			fprintf(out, "  %-28s %u\n", load_outcome_name(o), f->nr_by_outcome[o]);
}

void load_report_text(const struct load_figures *f, const struct load_goals *g, bool limited, FILE *out)
{
	double s = f->duration_s;

	fprintf(out, "%u requests in %.2f s: %u completed\n", f->nr, s, f->nr_by_outcome[LOAD_OK]);
	put_outcomes(f, out);
	fprintf(out, "  %-28s %.2f requests/s, %.1f tokens/s out, %.1f in and out; best second %.0f chunks\n",
		"throughput", f->nr_by_outcome[LOAD_OK] / s, (double)f->output_tokens / s,
		(double)(f->input_tokens + f->output_tokens) / s, f->max_output_tokens_per_s);
	fprintf(out, "  %-28s %llu in (%llu cached by the server), %llu out in %llu chunks%s\n", "tokens",
		(unsigned long long)f->input_tokens, (unsigned long long)f->cached_tokens,
		(unsigned long long)f->output_tokens, (unsigned long long)f->nr_events,
		f->uncounted ? "; the server gave no usage: chunks are counted as tokens" : "");
	if (f->has_goals) {
		fprintf(out, "  %-28s %.2f requests/s; %.2f %% of all met", "goodput", f->nr_good / s,
			f->attainment * 100);
		if (g->ttft_ms > 0)
			fprintf(out, " ttft %g ms", g->ttft_ms);
		if (g->tpot_ms > 0)
			fprintf(out, " tpot %g ms", g->tpot_ms);
		if (g->e2el_ms > 0)
			fprintf(out, " e2el %g ms", g->e2el_ms);
		fprintf(out, "; %.2f %% of those not refused\n", f->admitted_attainment * 100);
	}
	fprintf(out, "\n%-30s %9s %9s %9s %9s %9s %9s\n", "ms", "mean", "median", "p90", "p99", "p99.9", "max");
	for (int m = 0; m < LOAD_NR_METRICS; m++) {
		const struct load_dist *d = &f->dist[m];

		if (shown(f, m, limited))
			fprintf(out, "%-30s %9.3f %9.3f %9.3f %9.3f %9.3f %9.3f\n", load_metric_name(m), d->mean,
				d->median, d->p90, d->p99, d->p999, d->max);
	}
	fprintf(out,
		"\ngenerator: %.2f s of CPU (%.0f %%), waited %.2f s for a core, longest turn %.2f ms, %u connections, "
		"%s\n",
		f->self.cpu_s, f->self.cpu_s / s * 100, f->self.run_delay_s, (double)f->self.max_turn_ns / 1e6,
		f->self.nr_opened, f->self.backend);
	if (f->bottleneck[0])
		fprintf(out, "warning: the generator may have been the bottleneck: %s\n", f->bottleneck);
}

static void put(json_t *o, const char *key, double v)
{
	json_object_set_new(o, key, isfinite(v) ? json_real(v) : json_string("inf"));
}

static void put_int(json_t *o, const char *key, uint64_t v)
{
	json_object_set_new(o, key, json_integer((json_int_t)v));
}

static void put_dist(json_t *o, const char *key, const struct load_dist *d)
{
	const struct {
		const char *name;
		double v;
	} all[] = {{"mean", d->mean}, {"median", d->median}, {"std", d->std}, {"p90", d->p90},
		   {"p99", d->p99},   {"p99.9", d->p999},    {"max", d->max}};
	char name[64];

	for (size_t i = 0; i < sizeof(all) / sizeof(all[0]); i++) {
		snprintf(name, sizeof(name), "%s_%s_ms", all[i].name, key);
		put(o, name, all[i].v);
	}
}

static json_t *self_json(const struct load_figures *f)
{
	json_t *o = json_object();

	put(o, "cpu_s", f->self.cpu_s);
	put(o, "run_delay_s", f->self.run_delay_s);
	put(o, "max_turn_ms", (double)f->self.max_turn_ns / 1e6);
	put_int(o, "connections", f->self.nr_opened);
	put_int(o, "retried", f->self.nr_retried);
	put_int(o, "waited_for_ring", f->self.nr_waited);
	json_object_set_new(o, "event_loop", json_string(f->self.backend));
	json_object_set_new(o, "bottleneck", f->bottleneck[0] ? json_string(f->bottleneck) : json_null());
	return o;
}

json_t *load_report_json(const struct load_figures *f, const struct load_goals *g, bool limited)
{
	json_t *o = json_object(), *outcomes = json_object(), *goals = json_object();
	double s = f->duration_s;

	put(o, "duration", s);
	put_int(o, "num_prompts", f->nr);
	put_int(o, "completed", f->nr_by_outcome[LOAD_OK]);
	put_int(o, "failed", f->nr - f->nr_by_outcome[LOAD_OK]);
	for (int i = 0; i < LOAD_NR_OUTCOMES; i++)
		put_int(outcomes, load_outcome_name(i), f->nr_by_outcome[i]);
	json_object_set_new(o, "outcomes", outcomes);
	put_int(o, "total_input_tokens", f->input_tokens);
	put_int(o, "total_output_tokens", f->output_tokens);
	put_int(o, "total_cached_tokens", f->cached_tokens);
	put_int(o, "total_chunks", f->nr_events);
	put(o, "request_throughput", f->nr_by_outcome[LOAD_OK] / s);
	json_object_set_new(o, "request_goodput", f->has_goals ? json_real(f->nr_good / s) : json_null());
	put(o, "output_throughput", (double)f->output_tokens / s);
	put(o, "total_token_throughput", (double)(f->input_tokens + f->output_tokens) / s);
	put(o, "max_output_tokens_per_s", f->max_output_tokens_per_s);
	put_int(o, "max_concurrent_requests", f->max_concurrent);
	if (g->ttft_ms > 0)
		put(goals, "ttft", g->ttft_ms);
	if (g->tpot_ms > 0)
		put(goals, "tpot", g->tpot_ms);
	if (g->e2el_ms > 0)
		put(goals, "e2el", g->e2el_ms);
	json_object_set_new(o, "goodput", goals);
	if (f->has_goals) {
		put(o, "attainment", f->attainment);
		put(o, "admitted_attainment", f->admitted_attainment);
	}
	for (int m = 0; m < LOAD_NR_METRICS; m++)
		if (shown(f, m, limited))
			put_dist(o, load_metric_key(m), &f->dist[m]);
	json_object_set_new(o, "generator", self_json(f));
	return o;
}

int load_report_detail(json_t *into, const struct load_record *r)
{
	static const char *const names[] = {"input_lens", "output_lens", "ttfts", "itls",
					    "latencies",  "start_times", "errors"};
	json_t *a[7];

	for (int i = 0; i < 7; i++)
		a[i] = json_array();
	for (uint32_t i = 0; i < r->nr; i++) {
		const struct load_result *x = &r->res[i];
		bool ok = x->outcome == LOAD_OK;
		json_t *itls = json_array();

		for (uint32_t k = 0; r->itls && k < r->itls[i].nr; k++)
			json_array_append_new(itls, json_real((double)r->itls[i].ms[k] / 1e3));
		json_array_append_new(a[0], json_integer(x->nr_in));
		json_array_append_new(a[1], json_integer(ok ? x->nr_out : 0));
		json_array_append_new(a[2], json_real(ok ? load_ttft_ms(x) / 1e3 : 0));
		json_array_append_new(a[3], itls);
		json_array_append_new(a[4], json_real(ok ? load_e2el_ms(x) / 1e3 : 0));
		json_array_append_new(a[5], json_real((double)x->due_ns / 1e9));
		json_array_append_new(a[6], json_string(ok ? "" : load_outcome_name(x->outcome)));
	}
	for (int i = 0; i < 7; i++)
		if (json_object_set_new(into, names[i], a[i]))
			return -ENOMEM;
	return 0;
}

void load_report_csv(const struct load_record *r, const struct trace *t, const struct load_deadline *d,
		     const struct load_goals *g, FILE *out)
{
	fputs("request,scheduled_s,outcome,status,input_tokens,max_tokens,output_tokens,chunks,cached_tokens,ttft_ms,"
	      "tpot_ms,e2el_ms,send_delay_ms,client_queue_ms,deadline_ttft_ms,deadline_tpot_ms,good\n",
	      out);
	for (uint32_t i = 0; i < r->nr; i++) {
		const struct load_result *x = &r->res[i];
		bool ok = x->outcome == LOAD_OK;

		fprintf(out, "%u,%.6f,%s,%u,%u,%u,%u,%u,%u,", i, (double)x->due_ns / 1e9, load_outcome_name(x->outcome),
			x->status, x->nr_in, t->req[i].nr_gen, x->nr_out, x->nr_events, x->nr_cached);
		if (ok)
			fprintf(out, "%.4f,%.4f,%.4f,", load_ttft_ms(x), load_tpot_ms(x), load_e2el_ms(x));
		else
			fputs(",,,", out);
		if (x->sent_ns)
			fprintf(out, "%.4f,%.4f,", ((double)x->sent_ns - (double)x->ready_ns) / 1e6,
				((double)x->ready_ns - (double)x->due_ns) / 1e6);
		else
			fputs(",,", out);
		if (d)
			fprintf(out, "%.4f,%.4f,", d[i].ttft_ms, d[i].tpot_ms);
		else
			fputs(",,", out);
		fprintf(out, "%d\n", load_is_good(x, g, d ? &d[i] : NULL));
	}
}
