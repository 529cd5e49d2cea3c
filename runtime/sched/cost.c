// SPDX-License-Identifier: Apache-2.0
/* Prices of what steps do, fitted as they come; cost.h says how. */
#include "runtime/sched/cost.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define FORGET (1.0 - 1.0 / 512) /* of all earlier steps, with each new one */
#define PULL 1e-3		 /* towards the mean prices, as a share of what is known of a price */
#define MEAN_WEIGHT (1.0 / 256)
#define SPEED_WEIGHT (1.0 / 32)
#define ERROR_WEIGHT (1.0 / 64)
#define LATELY_WEIGHT (1.0 / 16)
#define GAP_WEIGHT (1.0 / 64)
#define GAP_MOST 4.0 /* times the usual: what takes longer is somebody else's doing */
#define ROUNDS 6
#define FIRST_ROUNDS 200 /* of the first steps: there is no solution to go on from */
#define USUAL 4.0	 /* times the usual error that a step may be off and still count in full */
#define SPREAD_LEAST 0.02
#define SHORT_NS 100000u
#define SHORT_AFTER 1024u
#define SHORT_ONE_IN 8u
#define FIT_ROUNDS 20
#define FIT_EXACT 1e-3
#define FRESH 32 /* steps before a step can be called far off */
/* Steps after which finer prices are told apart: a few steps would lay all of their time on any of them. */
#define COARSE 64

const char *const fh_sched_cost_names[FH_NR_COST_TERMS] = {
	[FH_COST_STEP] = "step",       [FH_COST_PROMPT] = "prompt_token", [FH_COST_DECODE] = "decode_token",
	[FH_COST_SEQ] = "drawn_token", [FH_COST_KV] = "kv_position",	  [FH_COST_PAIR] = "prompt_pair",
	[FH_COST_EXPERTS] = "experts",
};

void fh_sched_cost_init(struct fh_sched_cost *c, uint32_t nr_experts, uint32_t nr_used)
{
	*c = (struct fh_sched_cost){.speed = 1, .spread = 0.1, .nr_experts = nr_experts, .nr_used = nr_used};
}

double fh_sched_cost_experts(const struct fh_sched_cost *c, double tokens)
{
	if (!(c->nr_experts > 0) || !(tokens > 0))
		return 0;
	return 1 - pow(1 - c->nr_used / c->nr_experts, tokens);
}

static void terms_of(const struct fh_sched_cost *c, const struct fh_sched_work *w, double *x)
{
	x[FH_COST_STEP] = 1;
	x[FH_COST_PROMPT] = w->prompt_tokens;
	x[FH_COST_DECODE] = w->decode_tokens;
	x[FH_COST_SEQ] = w->seqs;
	x[FH_COST_KV] = w->kv_positions;
	x[FH_COST_PAIR] = w->pairs;
	x[FH_COST_EXPERTS] = fh_sched_cost_experts(c, w->prompt_tokens + w->decode_tokens);
}

static double sum_of(const struct fh_sched_cost *c, const double *x)
{
	double ns = 0;

	for (int i = 0; i < FH_NR_COST_TERMS; i++)
		ns += c->ns[i] * x[i];
	return ns;
}

double fh_sched_cost_ns(const struct fh_sched_cost *c, const struct fh_sched_work *w)
{
	double x[FH_NR_COST_TERMS];

	terms_of(c, w, x);
	return sum_of(c, x) * c->speed;
}

double fh_sched_cost_chunks_ns(const struct fh_sched_cost *c, double context, double tokens, double chunk)
{
	double pairs = tokens * c->ns[FH_COST_PAIR] + fh_sched_cost_passes(c, tokens, chunk) * c->ns[FH_COST_KV];

	return (tokens * c->ns[FH_COST_PROMPT] + pairs * (context + tokens / 2)) * c->speed;
}

double fh_sched_cost_prompt_ns(const struct fh_sched_cost *c, double context, double tokens)
{
	return fh_sched_cost_chunks_ns(c, context, tokens, tokens);
}

double fh_sched_cost_experts_ns(const struct fh_sched_cost *c, double beside, double tokens)
{
	if (!(c->nr_experts > 0))
		return 0;
	return c->ns[FH_COST_EXPERTS] * c->speed *
	       (fh_sched_cost_experts(c, beside + tokens) - fh_sched_cost_experts(c, beside));
}

/* p n + q n^2 / 2 = ns, solved so that a small q does no harm. */
static double fit_square(double p, double q, double ns)
{
	if (!(ns > 0))
		return 0;
	p = p + sqrt(p * p + 2 * q * ns);
	return p > 0 ? 2 * ns / p : 1e9;
}

/* All experts that they read have been read. */
static double fit_dense(const struct fh_sched_cost *c, double context, double ns)
{
	double pair = c->ns[FH_COST_PAIR] * c->speed, token = c->ns[FH_COST_PROMPT] * c->speed, n,
	       kv = c->nr_together > 0 ? c->ns[FH_COST_KV] * c->speed : 0, each = kv > 0 ? kv / c->nr_together : 0;

	n = fit_square(token + (pair + each) * context, pair + each, ns);
	if (!(kv > 0) || n >= c->nr_together)
		return n;
	/* Fewer are read in one pass, which costs what it costs. */
	n = fit_square(token + kv / 2 + pair * context, pair, ns - kv * context);
	return n < c->nr_together ? n : c->nr_together;
}

double fh_sched_cost_fit(const struct fh_sched_cost *c, double beside, double context, double ns)
{
	double lo, hi = fit_dense(c, context, ns);

	if (!(c->nr_experts > 0) || !(hi > 0))
		return hi;
	/* Between none of the experts that are left and all of them. */
	lo = fit_dense(c, context, ns - fh_sched_cost_experts_ns(c, beside, 1e9));
	for (int i = 0; i < FIT_ROUNDS && hi - lo > FIT_EXACT * hi; i++) {
		double n = (lo + hi) / 2,
		       rest = ns - fh_sched_cost_experts_ns(c, beside, n) - fh_sched_cost_prompt_ns(c, context, n);

		lo = rest >= 0 ? n : lo;
		hi = rest >= 0 ? hi : n;
	}
	return lo;
}

void fh_sched_cost_between(struct fh_sched_cost *c, uint64_t ns)
{
	double gap_ns = (double)ns, most_ns = GAP_MOST * c->gap_ns;

	if (!(c->gap_ns > 0))
		c->gap_ns = gap_ns;
	else
		c->gap_ns += ((gap_ns < most_ns ? gap_ns : most_ns) - c->gap_ns) * GAP_WEIGHT;
}

/* Coordinate descent on the normal equations, clipped at zero. */
static void solve(struct fh_sched_cost *c, int rounds)
{
	while (rounds--) {
		for (int i = 0; i < FH_NR_COST_TERMS; i++) {
			double pull = PULL * c->a[i][i], v = c->b[i] + pull * c->mean_ns[i];

			if (!(c->a[i][i] > 1e-200) || (c->nr_steps < COARSE && i > FH_COST_DECODE))
				continue;
			for (int k = 0; k < FH_NR_COST_TERMS; k++)
				v -= k != i ? c->a[i][k] * c->ns[k] : 0;
			v /= c->a[i][i] + pull;
			c->ns[i] = v > 0 ? v : 0;
		}
	}
}

static void learn(struct fh_sched_cost *c, const double *x, double ns)
{
	double weight = 1 / (ns * ns);

	for (int i = 0; i < FH_NR_COST_TERMS; i++) {
		for (int k = 0; k < FH_NR_COST_TERMS; k++)
			c->a[i][k] = FORGET * c->a[i][k] + weight * x[i] * x[k];
		c->b[i] = FORGET * c->b[i] + weight * x[i] * ns;
	}
	solve(c, c->nr_steps < FRESH ? FIRST_ROUNDS : ROUNDS);
	for (int i = 0; i < FH_NR_COST_TERMS; i++)
		c->mean_ns[i] += (c->ns[i] - c->mean_ns[i]) * (c->nr_steps < FRESH ? 0.5 : MEAN_WEIGHT);
}

static double clip(double v, double least, double most)
{
	return v < least ? least : v > most ? most : v;
}

/*
 * Steps so short that it would cost as much as they do, when there have been many of them: one in some is enough.  How
 * long this one took has no say in it, or slow ones would count for more; nor has its place in a pattern of requests.
 */
static bool is_one_of_many(struct fh_sched_cost *c, uint64_t step_ns)
{
	c->lately_ns += ((double)step_ns - c->lately_ns) * LATELY_WEIGHT;
	if (c->lately_ns >= SHORT_NS || c->nr_steps < SHORT_AFTER)
		return false;
	/* The multiplier of Fibonacci hashing (Knuth): as even as counting, and in step with nothing. */
	return (uint64_t)(uint32_t)(c->nr_short++ * 0x9e3779b9u) * SHORT_ONE_IN >> 32 != 0;
}

bool fh_sched_cost_measured(struct fh_sched_cost *c, const struct fh_sched_work *w, uint64_t step_ns)
{
	double x[FH_NR_COST_TERMS], fitted, off, far, ns = (double)(step_ns ? step_ns : 1);

	if (is_one_of_many(c, step_ns))
		return false;
	terms_of(c, w, x);
	fitted = sum_of(c, x);
	if (c->nr_steps && fitted > 0) {
		off = ns / (fitted * c->speed) - 1;
		c->error += (fabs(clip(off, -1, 10)) - c->error) * ERROR_WEIGHT;
		far = USUAL * (c->spread > SPREAD_LEAST ? c->spread : SPREAD_LEAST);
		if (c->nr_fresh >= FRESH) {
			off = clip(off, far < 0.8 ? -far : -0.8, far);
			ns = fitted * c->speed * (1 + off);
		}
		c->spread += (clip(fabs(off), 0, 1) - c->spread) * ERROR_WEIGHT;
		c->speed = clip(c->speed + (clip(ns / fitted, 0.25, 4) - c->speed) * SPEED_WEIGHT, 0.25, 4);
	}
	learn(c, x, ns);
	c->nr_steps++;
	c->nr_fresh += c->nr_fresh < FRESH;
	return true;
}

size_t fh_sched_cost_print(const struct fh_sched_cost *c, char *text, size_t cap)
{
	size_t n = 0;

	n += (size_t)snprintf(text, cap,
			      "freehold-cost 2\nsteps %llu\nerror %.6g\nexperts_of_layer %.9g\n"
			      "experts_of_token %.9g\ntokens_together %.9g\n",
			      (unsigned long long)c->nr_steps, c->error, c->nr_experts, c->nr_used, c->nr_together);
	if (c->gap_ns > 0)
		n += (size_t)snprintf(n < cap ? text + n : NULL, n < cap ? cap - n : 0, "ns_between_steps %.9g\n",
				      c->gap_ns);
	for (int i = 0; i < FH_NR_COST_TERMS; i++)
		n += (size_t)snprintf(n < cap ? text + n : NULL, n < cap ? cap - n : 0, "ns_%s %.9g\nweight_%s %.9g\n",
				      fh_sched_cost_names[i], c->ns[i] * c->speed, fh_sched_cost_names[i], c->a[i][i]);
	return n;
}

/* The number after @key at the beginning of a line, from 0 to @most; -1: there is none. */
static double find(const char *text, const char *key, double most)
{
	size_t n = strlen(key);

	for (const char *p = text; p && *p; p = strchr(p, '\n'), p = p ? p + 1 : NULL) {
		char *end;
		double v;

		if (strncmp(p, key, n) || p[n] != ' ')
			continue;
		v = strtod(p + n + 1, &end);
		return end != p + n + 1 && (*end == '\n' || !*end) && v >= 0 && v <= most ? v : -1;
	}
	return -1;
}

bool fh_sched_cost_scan(struct fh_sched_cost *c, const char *text)
{
	struct fh_sched_cost got;
	double steps = find(text, "steps", 1e18), error = find(text, "error", 10), sum = 0;
	double all = find(text, "experts_of_layer", 65536), used = find(text, "experts_of_token", 65536);
	double together = find(text, "tokens_together", 65536), between = find(text, "ns_between_steps", 1e12);

	if (strncmp(text, "freehold-cost 2\n", 16) || !(steps >= 1) || error < 0 || all < 0 || used < 0 || used > all ||
	    together < 0)
		return false;
	fh_sched_cost_init(&got, (uint32_t)all, (uint32_t)used);
	for (int i = 0; i < FH_NR_COST_TERMS; i++) {
		char key[32];
		double v;

		snprintf(key, sizeof(key), "ns_%s", fh_sched_cost_names[i]);
		v = find(text, key, 1e12);
		if (v < 0)
			return false;
		got.ns[i] = got.mean_ns[i] = v;
		sum += v;
		/* As if so much had been seen of each price alone: one new step does not overturn them. */
		snprintf(key, sizeof(key), "weight_%s", fh_sched_cost_names[i]);
		v = find(text, key, 1e12);
		got.a[i][i] = v > 0 ? v : 0;
		got.b[i] = got.a[i][i] * got.ns[i];
	}
	if (!(sum > 0))
		return false;
	got.nr_together = together;
	/* Files of earlier versions have none. */
	got.gap_ns = between > 0 ? between : 0;
	got.nr_steps = (uint64_t)steps;
	got.error = error;
	got.spread = error;
	*c = got;
	return true;
}
