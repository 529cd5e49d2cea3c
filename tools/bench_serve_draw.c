// SPDX-License-Identifier: Apache-2.0
/* What a run sends: arrivals, lengths, deadlines. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "tools/bench_serve_priv.h"

/* The rate goes from @a to @b evenly in time: stretch what was drawn at rate 1. */
static void ramp(struct trace *t, double a, double b)
{
	double t_s = 2.0 * (double)t->nr / (a + b), k = (b - a) / t_s;

	for (size_t i = 0; i < t->nr; i++) {
		double s = (double)t->req[i].at_ns / 1e9, root = a * a + 2 * k * s, at;

		if (fabs(k) * t_s < 1e-9 * a)
			at = s / a;
		else if (root <= b * b * (b < a))
			at = t_s + (s - (double)t->nr) / b; /* a falling rate's end goes on */
		else
			at = (sqrt(root) - a) / k;
		t->req[i].at_ns = (uint64_t)(at * 1e9);
	}
}

static int copy_trace(const struct bench *b, double rate, struct trace *out)
{
	size_t nr = b->file.nr, bytes;

	*out = (struct trace){.nr = nr, .cap = nr, .nr_hashes = b->file.nr_hashes, .cap_hashes = b->file.nr_hashes};
	bytes = nr * sizeof(*out->req);
	out->req = malloc(bytes ? bytes : 1);
	out->hash = malloc(b->file.nr_hashes ? b->file.nr_hashes * sizeof(*out->hash) : 1);
	if (!out->req || !out->hash)
		return -ENOMEM;
	memcpy(out->req, b->file.req, bytes);
	if (b->file.nr_hashes)
		memcpy(out->hash, b->file.hash, b->file.nr_hashes * sizeof(*out->hash));
	if (rate > 0 && !isinf(rate))
		trace_set_rate(out, rate);
	return 0;
}

/*
 * A searched share has to be counted among enough requests: of 200 for 99 %, so
 * that two may miss.  A run of fewer shows luck.
 */
double serve_fewest(const struct serve_options *o)
{
	if (!(o->search_start > 0))
		return 1;
	return o->search_share < 0.999 ? ceil(2 / (1 - o->search_share) - 1e-9) : 2000;
}

/* Keep what is due within --duration, and at most --num-prompts where that was said. */
static void cut_short(struct bench *b)
{
	struct trace *t = &b->trace;
	double limit_ns = b->o->duration_s > 0 ? b->o->duration_s * 1e9 : INFINITY, least = serve_fewest(b->o);
	size_t nr = 0;

	while (nr < t->nr &&
	       ((double)nr < least || (b->o->duration_s > 0 ? (double)t->req[nr].at_ns < limit_ns : nr < b->o->nr)))
		nr++;
	t->nr = nr ? nr : (t->nr > 0);
}

/* Cut prompts, then answers, to what the context holds; take a dataset's lengths. */
static void fit_lengths(struct bench *b)
{
	uint32_t ctx = b->o->target.nr_ctx;

	b->nr_cut = 0;
	for (size_t i = 0; i < b->trace.nr; i++) {
		struct trace_req *r = &b->trace.req[i];

		if (b->data.nr) {
			const struct load_text *x = &b->data.text[i % b->data.nr];

			r->nr_prompt = (uint32_t)(x->bytes / 4 + 1);
			r->nr_gen = x->nr_out ? x->nr_out : r->nr_gen;
			continue;
		}
		if (!ctx || (uint64_t)r->nr_prompt + r->nr_gen + 1 <= ctx)
			continue;
		r->nr_gen = r->nr_gen < ctx / 2 ? r->nr_gen : ctx / 2;
		if ((uint64_t)r->nr_prompt + r->nr_gen + 1 > ctx)
			r->nr_prompt = ctx > r->nr_gen + 2 ? ctx - r->nr_gen - 1 : 1;
		b->nr_cut++;
	}
}

/* A run's arrivals and lengths. @rate 0: a closed loop, or a trace at its own pace. */
int serve_draw(struct bench *b, double rate, struct fh_err *err)
{
	struct serve_options *o = b->o;
	struct trace_arrivals a = o->arrivals;
	double per_s = o->ramp_to > 0 ? (o->ramp_to + rate) / 2 : rate, nr = fmax(o->nr, serve_fewest(o));
	int rc;

	trace_free(&b->trace);
	if (o->trace) {
		rc = copy_trace(b, rate, &b->trace);
	} else {
		if (o->duration_s > 0)
			nr = ceil(o->duration_s * per_s * 1.2 + 6 * sqrt(o->duration_s * per_s) + 10 + serve_fewest(o));
		if (nr > 1e8)
			return fh_errf(err, -EINVAL, "%.3g requests are more than fit; lower the rate or the duration",
				       nr);
		a.rate_per_s = o->ramp_to > 0 || !(rate > 0) || isinf(rate) ? 1 : rate;
		rc = trace_draw(&a, &o->in, &o->out, (size_t)nr, o->seed + b->repeat * 0x9e3779b97f4a7c15u, &b->trace);
	}
	if (rc)
		return fh_errf(err, rc, "no memory for the requests");
	if (o->ramp_to > 0)
		ramp(&b->trace, rate, o->ramp_to);
	if (isinf(rate))
		for (size_t i = 0; i < b->trace.nr; i++)
			b->trace.req[i].at_ns = 0;
	cut_short(b);
	fit_lengths(b);
	return 0;
}

int serve_set_deadlines(struct bench *b, struct fh_err *err)
{
	struct serve_options *o = b->o;

	free(b->deadline);
	b->deadline = NULL;
	if (o->deadline_factor == 0 && o->deadline_ttft_ms == 0 && o->deadline_tpot_ms == 0)
		return 0;
	b->deadline = calloc(b->trace.nr ? b->trace.nr : 1, sizeof(*b->deadline));
	if (!b->deadline)
		return fh_errf(err, -ENOMEM, "no memory");
	for (size_t i = 0; i < b->trace.nr; i++)
		b->deadline[i] =
			o->deadline_factor > 0
				? load_calibration_deadline(&b->cal, b->trace.req[i].nr_prompt, o->deadline_factor)
				: (struct load_deadline){o->deadline_ttft_ms, o->deadline_tpot_ms};
	return 0;
}
