// SPDX-License-Identifier: Apache-2.0
/* Figures from results; see result.h. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tools/load/result.h"

const char *load_outcome_name(enum load_outcome o)
{
	static const char *const names[LOAD_NR_OUTCOMES] = {
		"unsent", "completed",	       "refused_429",	  "unavailable_503", "http_error", "stream_error",
		"empty",  "connection_failed", "connection_lost", "malformed",	     "timeout",
	};

	return names[o];
}

double load_ttft_ms(const struct load_result *r)
{
	return ((double)r->first_ns - (double)r->due_ns) / 1e6;
}

double load_e2el_ms(const struct load_result *r)
{
	return ((double)r->last_ns - (double)r->due_ns) / 1e6;
}

double load_tpot_ms(const struct load_result *r)
{
	return r->nr_out > 1 ? (double)(r->last_ns - r->first_ns) / (r->nr_out - 1) / 1e6 : 0;
}

bool load_is_good(const struct load_result *r, const struct load_goals *g, const struct load_deadline *d)
{
	double ttft = load_ttft_ms(r), tpot = load_tpot_ms(r);

	if (r->outcome != LOAD_OK)
		return false;
	if ((g->ttft_ms > 0 && ttft > g->ttft_ms) || (g->tpot_ms > 0 && tpot > g->tpot_ms) ||
	    (g->e2el_ms > 0 && load_e2el_ms(r) > g->e2el_ms))
		return false;
	return !d || !((d->ttft_ms > 0 && ttft > d->ttft_ms) || (d->tpot_ms > 0 && tpot > d->tpot_ms));
}

static int by_value(const void *a, const void *b)
{
	double x = *(const double *)a, y = *(const double *)b;

	return (x > y) - (x < y);
}

double load_percentile(const double *sorted, size_t nr, double q)
{
	double rank = q * (double)(nr - 1);
	size_t i = (size_t)rank;

	if (!nr)
		return 0;
	if (i + 1 >= nr)
		return sorted[nr - 1];
	return sorted[i] + (rank - (double)i) * (sorted[i + 1] - sorted[i]);
}

void load_dist_of(double *values, size_t nr, struct load_dist *out)
{
	double sum = 0, sum2 = 0;

	*out = (struct load_dist){.nr = nr};
	if (!nr)
		return;
	qsort(values, nr, sizeof(*values), by_value);
	for (size_t i = 0; i < nr; i++)
		sum += values[i];
	out->mean = sum / (double)nr;
	for (size_t i = 0; i < nr; i++)
		sum2 += (values[i] - out->mean) * (values[i] - out->mean);
	out->std = sqrt(sum2 / (double)nr);
	out->median = load_percentile(values, nr, 0.5);
	out->p90 = load_percentile(values, nr, 0.9);
	out->p99 = load_percentile(values, nr, 0.99);
	out->p999 = load_percentile(values, nr, 0.999);
	out->max = values[nr - 1];
}

void load_dist_of_hdr(const struct load_hdr *h, struct load_dist *out)
{
	*out = (struct load_dist){
		.nr = h->total,
		.mean = load_hdr_mean(h) / 1e6,
		.std = load_hdr_std(h) / 1e6,
		.median = load_hdr_quantile(h, 0.5) / 1e6,
		.p90 = load_hdr_quantile(h, 0.9) / 1e6,
		.p99 = load_hdr_quantile(h, 0.99) / 1e6,
		.p999 = load_hdr_quantile(h, 0.999) / 1e6,
		.max = (double)h->max / 1e6,
	};
}

/* Requests under way at once, at most. */
static uint32_t most_at_once(const struct load_result *res, uint32_t nr, double *scratch)
{
	uint32_t n = 0, now = 0, most = 0, b = 0;
	double *begin = scratch, *end = scratch + nr;

	for (uint32_t i = 0; i < nr; i++) {
		if (res[i].outcome == LOAD_UNSENT)
			continue;
		begin[n] = (double)res[i].ready_ns;
		end[n++] = (double)(res[i].end_ns > res[i].ready_ns ? res[i].end_ns : res[i].ready_ns);
	}
	qsort(begin, n, sizeof(*begin), by_value);
	qsort(end, n, sizeof(*end), by_value);
	for (uint32_t e = 0; e < n; e++) {
		while (b < n && begin[b] < end[e]) {
			b++;
			now++;
			most = now > most ? now : most;
		}
		now--;
	}
	return most;
}

static double metric_of(const struct load_result *r, enum load_metric m)
{
	switch (m) {
	case LOAD_TTFT: return load_ttft_ms(r);
	case LOAD_TPOT: return load_tpot_ms(r);
	case LOAD_E2EL: return load_e2el_ms(r);
	case LOAD_SEND_DELAY: return ((double)r->sent_ns - (double)r->ready_ns) / 1e6;
	default: return ((double)r->ready_ns - (double)r->due_ns) / 1e6;
	}
}

static void distributions(const struct load_result *res, uint32_t nr, double *scratch, struct load_figures *f)
{
	for (int m = 0; m < LOAD_NR_METRICS; m++) {
		size_t n = 0;

		if (m == LOAD_ITL)
			continue;
		for (uint32_t i = 0; i < nr; i++) {
			const struct load_result *r = &res[i];

			/* The generator's own delays count for every request that left. */
			if (m >= LOAD_SEND_DELAY ? !r->sent_ns : r->outcome != LOAD_OK)
				continue;
			if (m == LOAD_TPOT && r->nr_out < 2)
				continue;
			scratch[n++] = metric_of(r, m);
		}
		load_dist_of(scratch, n, &f->dist[m]);
	}
}

int load_figures(const struct load_result *res, uint32_t nr, const struct load_goals *g, const struct load_deadline *d,
		 const struct load_hdr *itl, const uint64_t *tokens, size_t nr_s, struct load_figures *f)
{
	double *scratch = malloc((2 * (size_t)nr + 1) * sizeof(*scratch));
	uint32_t sent, admitted;
	uint64_t end_ns = 0;

	if (!scratch)
		return -ENOMEM;
	f->nr = nr;
	f->has_goals = d || g->ttft_ms > 0 || g->tpot_ms > 0 || g->e2el_ms > 0;
	for (uint32_t i = 0; i < nr; i++) {
		const struct load_result *r = &res[i];

		f->nr_by_outcome[r->outcome]++;
		f->nr_good += load_is_good(r, g, d ? &d[i] : NULL);
		end_ns = r->end_ns > end_ns ? r->end_ns : end_ns;
		if (r->outcome != LOAD_OK)
			continue;
		f->input_tokens += r->nr_in;
		f->output_tokens += r->nr_out;
		f->cached_tokens += r->nr_cached;
		f->nr_events += r->nr_events;
		f->uncounted |= !r->counted;
	}
	sent = nr - f->nr_by_outcome[LOAD_UNSENT];
	admitted = sent - f->nr_by_outcome[LOAD_REFUSED] - f->nr_by_outcome[LOAD_UNAVAILABLE];
	f->attainment = sent ? (double)f->nr_good / sent : 0;
	f->admitted_attainment = admitted ? (double)f->nr_good / admitted : 0;
	f->duration_s = end_ns ? (double)end_ns / 1e9 : 1e-9;
	for (size_t i = 0; i < nr_s; i++)
		if ((double)tokens[i] > f->max_output_tokens_per_s)
			f->max_output_tokens_per_s = (double)tokens[i];
	distributions(res, nr, scratch, f);
	load_dist_of_hdr(itl, &f->dist[LOAD_ITL]);
	f->max_concurrent = most_at_once(res, nr, scratch);
	free(scratch);
	return 0;
}
