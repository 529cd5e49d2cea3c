// SPDX-License-Identifier: Apache-2.0
/* Traces that are drawn at random: the same ones everywhere for the same seed. */
#include "tools/trace.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* Splitmix64 spreads the seed (Steele, Lea and Flood, 2014). */
void trace_rng_init(struct trace_rng *r, uint64_t seed)
{
	for (int i = 0; i < 2; i++) {
		uint64_t z = seed += 0x9e3779b97f4a7c15u;

		z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
		z = (z ^ z >> 27) * 0x94d049bb133111ebu;
		r->random.s[i] = z ^ z >> 31;
	}
}

uint64_t trace_rng_next(struct trace_rng *r)
{
	return fh_random_next(&r->random);
}

double trace_rng_unit(struct trace_rng *r)
{
	return ((double)(trace_rng_next(r) >> 11) + 0.5) / 9007199254740992.0;
}

/* Box and Muller (1958). */
static double normal(struct trace_rng *r)
{
	return sqrt(-2 * log(trace_rng_unit(r))) * cos(6.283185307179586 * trace_rng_unit(r));
}

/* Marsaglia and Tsang, "A simple method for generating gamma variables", 2000; mean @shape. */
static double gamma_draw(struct trace_rng *r, double shape)
{
	double d, c, x, v;

	if (shape < 1)
		return gamma_draw(r, shape + 1) * pow(trace_rng_unit(r), 1 / shape);
	d = shape - 1.0 / 3;
	c = 1 / sqrt(9 * d);
	do {
		do {
			x = normal(r);
			v = 1 + c * x;
		} while (v <= 0);
		v = v * v * v;
	} while (log(trace_rng_unit(r)) >= 0.5 * x * x + d - d * v + d * log(v));
	return d * v;
}

/* "A:B", each from @least on. */
static int two_numbers(const char *text, double least, double *a, double *b)
{
	char *end;

	*a = strtod(text, &end);
	if (end == text || *end != ':')
		return -EINVAL;
	text = end + 1;
	*b = strtod(text, &end);
	return end == text || *end || !(*a >= least && *a <= TRACE_MAX_TOKENS && *b <= TRACE_MAX_TOKENS) ? -EINVAL : 0;
}

int trace_length_parse(const char *text, struct trace_length *out, struct fh_err *err)
{
	struct trace_length l = {0};
	char *end;
	int rc;

	if (!strncmp(text, "log:", 4)) {
		l.kind = TRACE_LEN_LOG;
		rc = two_numbers(text + 4, 1, &l.a, &l.b);
	} else if (!strncmp(text, "lognormal:", 10)) {
		l.kind = TRACE_LEN_LOGNORMAL;
		rc = two_numbers(text + 10, 1, &l.a, &l.b);
	} else if (strchr(text, ':')) {
		l.kind = TRACE_LEN_UNIFORM;
		rc = two_numbers(text, 1, &l.a, &l.b);
	} else {
		l.a = l.b = strtod(text, &end);
		rc = end == text || *end || !(l.a >= 1 && l.a <= TRACE_MAX_TOKENS) ? -EINVAL : 0;
	}
	if (!rc && l.kind == TRACE_LEN_LOGNORMAL && !(l.b >= 0 && l.b <= 5))
		rc = -EINVAL;
	if (!rc && l.kind != TRACE_LEN_LOGNORMAL && !(l.b >= l.a))
		rc = -EINVAL;
	if (rc)
		return fh_errf(err, rc,
			       "'%s' is no length: N, A:B, log:A:B (uniform in the logarithm) or "
			       "lognormal:MEDIAN:SIGMA is wanted",
			       text);
	*out = l;
	return 0;
}

uint32_t trace_length_draw(const struct trace_length *l, struct trace_rng *r)
{
	double n = l->a;

	switch (l->kind) {
	case TRACE_LEN_FIXED: break;
	case TRACE_LEN_UNIFORM: n = floor(l->a + trace_rng_unit(r) * (l->b - l->a + 1)); break;
	case TRACE_LEN_LOG: n = l->a * pow(l->b / l->a, trace_rng_unit(r)); break;
	case TRACE_LEN_LOGNORMAL: n = l->a * exp(l->b * normal(r)); break;
	}
	if (l->kind == TRACE_LEN_LOGNORMAL && n > 16 * l->a)
		n = 16 * l->a;
	n = floor(n + (l->kind == TRACE_LEN_UNIFORM ? 0 : 0.5));
	return n < 1 ? 1 : n > TRACE_MAX_TOKENS ? TRACE_MAX_TOKENS : (uint32_t)n;
}

int trace_arrivals_parse(const char *text, struct trace_arrivals *out, struct fh_err *err)
{
	struct trace_arrivals a = {.rate_per_s = out->rate_per_s, .shape = 1, .nr_burst = 1};
	char *end = "";

	if (!strcmp(text, "constant")) {
		a.kind = TRACE_ARR_CONSTANT;
	} else if (!strcmp(text, "poisson")) {
		a.kind = TRACE_ARR_POISSON;
	} else if (!strncmp(text, "gamma:", 6)) {
		a.kind = TRACE_ARR_GAMMA;
		a.shape = strtod(text + 6, &end);
		if (!(a.shape >= 0.01 && a.shape <= 1000))
			end = "?";
	} else if (!strncmp(text, "burst:", 6)) {
		double n = strtod(text + 6, &end);

		a.kind = TRACE_ARR_BURST;
		if (n >= 1 && n <= 1e6)
			a.nr_burst = (uint32_t)n;
		else
			end = "?";
	} else {
		end = "?";
	}
	if (*end)
		return fh_errf(err, -EINVAL,
			       "'%s' are no arrivals: constant, poisson, gamma:SHAPE (0.01 to 1000) or burst:N is "
			       "wanted",
			       text);
	*out = a;
	return 0;
}

double trace_arrivals_gap_s(const struct trace_arrivals *a, uint64_t i, struct trace_rng *r)
{
	double mean = 1 / a->rate_per_s;

	switch (a->kind) {
	case TRACE_ARR_POISSON: return -log(trace_rng_unit(r)) * mean;
	case TRACE_ARR_GAMMA: return gamma_draw(r, a->shape) / a->shape * mean;
	case TRACE_ARR_BURST: return (i + 1) % a->nr_burst ? 0 : mean * a->nr_burst;
	default: return mean;
	}
}

int trace_draw(const struct trace_arrivals *a, const struct trace_length *prompt, const struct trace_length *gen,
	       size_t nr, uint64_t seed, struct trace *out)
{
	struct trace_rng r;
	double at_s = 0;

	*out = (struct trace){0};
	out->req = calloc(nr ? nr : 1, sizeof(*out->req));
	if (!out->req)
		return -ENOMEM;
	out->nr = out->cap = nr;
	trace_rng_init(&r, seed);
	for (size_t i = 0; i < nr; i++) {
		out->req[i].at_ns = (uint64_t)(at_s * 1e9);
		out->req[i].nr_prompt = trace_length_draw(prompt, &r);
		out->req[i].nr_gen = trace_length_draw(gen, &r);
		at_s += trace_arrivals_gap_s(a, i, &r);
	}
	return 0;
}

double trace_rate(const struct trace *t)
{
	uint64_t last_ns = t->nr ? t->req[t->nr - 1].at_ns : 0;

	return t->nr > 1 && last_ns ? (double)(t->nr - 1) * 1e9 / (double)last_ns : 0;
}

void trace_set_rate(struct trace *t, double rate_per_s)
{
	double now = trace_rate(t);

	if (!(now > 0 && rate_per_s > 0))
		return;
	for (size_t i = 0; i < t->nr; i++)
		t->req[i].at_ns = (uint64_t)((double)t->req[i].at_ns * now / rate_per_s);
}
