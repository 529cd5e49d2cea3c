// SPDX-License-Identifier: Apache-2.0
/*
 * The sampler against published vectors, against chi-square, and against a
 * plain sampler in double precision that sorts.
 */
#include <criterion/criterion.h>
#include <float.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "runtime/accel/sample.h"

static uint64_t rng_state = 88172645463325252u;

static uint64_t rng(void)
{
	rng_state ^= rng_state << 13;
	rng_state ^= rng_state >> 7;
	rng_state ^= rng_state << 17;
	return rng_state * 2685821657736338717u;
}

static double uniform(void)
{
	return (double)(rng() >> 11) * 0x1p-53;
}

static float normal(void)
{
	return (float)(sqrt(-2 * log(uniform() + 1e-300)) * cos(6.283185307179586 * uniform()));
}

static float f32(fh_f32 bits)
{
	float f;

	memcpy(&f, &bits, sizeof(f));
	return f;
}

static uint32_t sample(struct fh_sampler *s, struct fh_batch_seq *b, const float *logits, uint32_t n)
{
	float *copy = malloc(n * sizeof(*copy));
	uint32_t token;

	memcpy(copy, logits, n * sizeof(*copy));
	fh_sample(s, b, copy);
	token = b->slot->token;
	free(copy);
	return token;
}

/* Known answers that Random123 publishes for philox4x32 with 10 rounds (its kat_vectors file). */
Test(sample, philox_known_answers)
{
	static const struct {
		uint32_t ctr[4], key[2], want[4];
	} kat[] = {
		{{0, 0, 0, 0}, {0, 0}, {0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}},
		{{~0u, ~0u, ~0u, ~0u}, {~0u, ~0u}, {0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}},
		{{0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344},
		 {0xa4093822, 0x299f31d0},
		 {0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1}},
	};

	for (size_t i = 0; i < sizeof(kat) / sizeof(*kat); i++) {
		uint32_t out[4];

		fh_philox4x32(kat[i].ctr, kat[i].key, out);
		cr_assert_arr_eq(out, kat[i].want, sizeof(out), "vector %zu", i);
	}
}

Test(sample, greedy_ties_and_odd_numbers)
{
	struct fh_sampling p = {.top_p = 1, .typical_p = 1, .repetition_penalty = 1};
	struct fh_slot slot;
	struct fh_batch_seq b = {.sampling = &p, .slot = &slot, .index = 6};
	uint32_t banned[] = {0, 1};
	float x[37];
	struct fh_sampler *s;

	cr_assert_eq(fh_sampler_create(37, &s), 0);
	for (int i = 0; i < 37; i++)
		x[i] = (float)(i % 7);
	cr_assert_eq(sample(s, &b, x, 37), 6, "the lowest of equals");
	cr_assert_eq(slot.stamp, 7);
	cr_assert_eq(slot.flags, 0);
	x[20] = INFINITY;
	x[3] = NAN;
	cr_assert_eq(sample(s, &b, x, 37), 20);
	p.logprobs = true;
	p.temperature = 1;
	cr_assert_eq(sample(s, &b, x, 37), 20, "infinity takes all");
	cr_assert_float_eq(f32(slot.logprob), 0, 1e-6);
	for (int i = 0; i < 37; i++)
		x[i] = i & 1 ? NAN : -INFINITY;
	b.banned = banned;
	b.nr_banned = 2;
	for (p.temperature = 0; p.temperature < 2; p.temperature += 1)
		cr_assert_eq(sample(s, &b, x, 37), 2, "the lowest that is allowed");
	cr_assert(isfinite(f32(slot.logprob)));
	fh_sampler_destroy(s);
}

struct oracle {
	double logit[4096], p[4096];
	bool kept[4096];
	int order[4096];
	int n;
};

static const struct oracle *sorting;

static int by_logit(const void *a, const void *b)
{
	int i = *(const int *)a, j = *(const int *)b;

	if (sorting->logit[i] != sorting->logit[j])
		return sorting->logit[i] < sorting->logit[j] ? 1 : -1;
	return i - j;
}

static double surprise_off[4096];

static int by_surprise(const void *a, const void *b)
{
	int i = *(const int *)a, j = *(const int *)b;

	if (surprise_off[i] != surprise_off[j])
		return surprise_off[i] > surprise_off[j] ? 1 : -1;
	return i - j;
}

static void oracle_softmax(struct oracle *o, double temperature)
{
	double best = -INFINITY, sum = 0;

	for (int i = 0; i < o->n; i++)
		if (o->kept[i] && o->logit[i] > best)
			best = o->logit[i];
	for (int i = 0; i < o->n; i++) {
		o->p[i] = o->kept[i] ? exp((o->logit[i] - best) / temperature) : 0;
		sum += o->p[i];
	}
	for (int i = 0; i < o->n; i++)
		o->p[i] /= sum;
}

/* Keep the first of o->order until their mass reaches @mass. */
static void oracle_keep_mass(struct oracle *o, double mass)
{
	double cum = 0;
	int i;

	for (i = 0; i < o->n && (i == 0 || cum < mass); i++)
		cum += o->p[o->order[i]];
	for (; i < o->n; i++)
		o->kept[o->order[i]] = false;
}

static void oracle_filter(struct oracle *o, const struct fh_sampling *p, double slack)
{
	double most = 0, entropy = 0;

	for (int i = 0; i < o->n; i++)
		o->kept[i] = o->logit[i] > -INFINITY;
	sorting = o;
	for (int i = 0; i < o->n; i++)
		o->order[i] = i;
	qsort(o->order, o->n, sizeof(int), by_logit);
	if (p->top_k)
		for (int i = p->top_k; i < o->n; i++)
			o->kept[o->order[i]] = false;
	oracle_softmax(o, p->temperature);
	if (p->typical_p < 1) {
		for (int i = 0; i < o->n; i++)
			if (o->p[i] > 0)
				entropy -= o->p[i] * log(o->p[i]);
		for (int i = 0; i < o->n; i++)
			surprise_off[i] = o->p[i] > 0 ? fabs(-log(o->p[i]) - entropy) : INFINITY;
		qsort(o->order, o->n, sizeof(int), by_surprise);
		oracle_keep_mass(o, p->typical_p + slack);
		oracle_softmax(o, p->temperature);
		qsort(o->order, o->n, sizeof(int), by_logit);
	}
	if (p->top_p < 1) {
		/* What typical removed has no mass, so that where it lies in the order does not matter. */
		oracle_keep_mass(o, p->top_p + slack);
		if (p->typical_p < 1) {
			int best = -1;

			for (int i = 0; i < o->n; i++)
				if (o->p[o->order[i]] > 0) {
					best = o->order[i];
					break;
				}
			o->kept[best] = true;
		}
		oracle_softmax(o, p->temperature);
	}
	for (int i = 0; i < o->n; i++)
		most = o->p[i] > most ? o->p[i] : most;
	for (int i = 0; i < o->n; i++)
		if (o->p[i] < most * (p->min_p + slack))
			o->kept[i] = false;
	oracle_softmax(o, p->temperature);
}

/* Random filters on random logits: the drawn token is the one that the plain sampler draws. */
Test(sample, filters_against_a_sorting_oracle)
{
	static struct oracle a, lo, hi;
	int compared = 0, rounds = 20000;

	for (int round = 0; round < rounds; round++) {
		struct fh_sampling p = {.top_p = 1, .typical_p = 1, .repetition_penalty = 1};
		struct fh_slot slot;
		struct fh_batch_seq b = {.sampling = &p, .slot = &slot, .index = (uint32_t)(rng() % 1000)};
		uint32_t n = 1 + (uint32_t)(rng() % (round % 50 ? 100 : 3000)), token, key[2], ctr[4] = {b.index}, r[4];
		float x[4096], spread = (float)(uniform() * 6);
		struct fh_sampler *s;
		double u, cum = 0;
		int want = 0;

		for (uint32_t i = 0; i < n; i++) {
			x[i] = normal() * spread;
			if (round % 3 == 0)
				x[i] = (float)(int)x[i]; /* many ties */
		}
		p.temperature = (float)(0.1 + uniform() * 2);
		p.seed = rng();
		if (rng() & 1)
			p.top_k = (uint32_t)(rng() % (n + 3));
		if (rng() & 1)
			p.top_p = (float)uniform();
		if (rng() % 4 == 0)
			p.typical_p = (float)uniform();
		if (rng() % 4 == 0)
			p.min_p = (float)uniform();

		a.n = lo.n = hi.n = (int)n;
		for (uint32_t i = 0; i < n; i++)
			a.logit[i] = lo.logit[i] = hi.logit[i] = x[i];
		oracle_filter(&a, &p, 0);
		oracle_filter(&lo, &p, -2e-6);
		oracle_filter(&hi, &p, 2e-6);

		cr_assert_eq(fh_sampler_create(n, &s), 0);
		token = sample(s, &b, x, n);
		fh_sampler_destroy(s);
		/* Where rounding decides the filter, or the draw, nothing can be said. */
		if (memcmp(a.kept, lo.kept, n) || memcmp(a.kept, hi.kept, n))
			continue;
		/* Typical: equal distances on both sides of the entropy tie in one precision only. */
		if (p.typical_p < 1 && round % 3 == 0)
			continue;
		key[0] = (uint32_t)p.seed;
		key[1] = (uint32_t)(p.seed >> 32);
		fh_philox4x32(ctr, key, r);
		u = (double)((((uint64_t)r[0] << 32) | r[1]) >> 11) * 0x1p-53;
		for (uint32_t i = 0; i < n; i++) {
			cum += a.p[i];
			if (fabs(cum - u) < 1e-5)
				want = -1;
			if (want == 0 && cum > u) {
				want = 1;
				cr_assert_eq(token, i, "round %d: n %u top_k %u top_p %f typical %f min_p %f", round, n,
					     p.top_k, p.top_p, p.typical_p, p.min_p);
				compared++;
			}
			if (want)
				break;
		}
		cr_assert(a.kept[token]);
	}
	cr_assert_gt(compared, rounds * 8 / 10, "only %d compared", compared);
}

/* The share of each token over many draws, with and without each filter. */
Test(sample, chi_square)
{
	enum { N = 40, DRAWS = 100000 };
	static struct oracle o;

	for (int kind = 0; kind < 6; kind++) {
		struct fh_sampling p = {.temperature = 0.8f,
					.top_p = 1,
					.typical_p = 1,
					.repetition_penalty = 1,
					.seed = 77u + (uint64_t)kind};
		struct fh_slot slot;
		struct fh_batch_seq b = {.sampling = &p, .slot = &slot};
		uint32_t seen[N] = {0};
		double chi = 0;
		int free_degrees = -1;
		struct fh_sampler *s;
		float x[N];

		p.top_k = kind == 1 ? 9 : 0;
		p.top_p = kind == 2 ? 0.7f : 1;
		p.typical_p = kind == 3 ? 0.6f : 1;
		p.min_p = kind == 4 ? 0.1f : 0;
		if (kind == 5)
			p.temperature = 3;
		cr_assert_eq(fh_sampler_create(N, &s), 0);
		o.n = N;
		for (int i = 0; i < N; i++) {
			x[i] = normal() * 1.5f;
			o.logit[i] = x[i];
		}
		oracle_filter(&o, &p, 0);
		for (b.index = 0; b.index < DRAWS; b.index++)
			seen[sample(s, &b, x, N)]++;
		for (int i = 0; i < N; i++) {
			double want = o.p[i] * DRAWS;

			if (!o.kept[i]) {
				cr_assert_eq(seen[i], 0, "kind %d drew %d", kind, i);
				continue;
			}
			chi += (seen[i] - want) * (seen[i] - want) / want;
			free_degrees++;
		}
		/* Five standard deviations of a chi-square with that many degrees of freedom. */
		cr_assert_lt(chi, free_degrees + 5 * sqrt(2.0 * free_degrees) + 5, "kind %d: %f of %d", kind, chi,
			     free_degrees);
		fh_sampler_destroy(s);
	}
}

/* Bias, penalties and bans move the logits as the formulas say; log-probabilities are of what results. */
Test(sample, penalties_bias_and_logprobs)
{
	enum { N = 64 };

	for (int round = 0; round < 2000; round++) {
		struct fh_logit_bias bias[3];
		struct fh_top top[FH_MAX_TOP_LOGPROBS];
		struct fh_sampling p = {.top_p = 1, .typical_p = 1, .repetition_penalty = 1, .logprobs = true};
		struct fh_slot slot;
		uint32_t history[50], banned[2], mask[N / 32] = {UINT32_MAX, (uint32_t)rng() | 1};
		struct fh_batch_seq b = {.sampling = &p, .slot = &slot, .history = history, .top = top};
		double y[N], sum = 0;
		uint32_t count[N] = {0}, best = 0;
		bool in_history[N] = {0};
		struct fh_sampler *s;
		float x[N];

		b.nr_history = (uint32_t)(rng() % 50);
		b.nr_prompt = b.nr_history ? (uint32_t)(rng() % b.nr_history) : 0;
		for (uint32_t i = 0; i < b.nr_history; i++) {
			history[i] = (uint32_t)(rng() % (N + 4)); /* some out of range */
			if (history[i] >= N)
				continue;
			in_history[history[i]] = true;
			count[history[i]] += i >= b.nr_prompt;
		}
		if (rng() & 1)
			p.repetition_penalty = (float)(0.5 + uniform());
		if (rng() & 1)
			p.presence_penalty = (float)(uniform() * 4 - 2);
		if (rng() & 1)
			p.frequency_penalty = (float)(uniform() * 4 - 2);
		p.nr_bias = (uint32_t)(rng() % 4);
		p.bias = bias;
		p.nr_top = (uint32_t)(rng() % (FH_MAX_TOP_LOGPROBS + 1));
		for (int i = 0; i < N; i++)
			y[i] = x[i] = normal() * 3;
		for (uint32_t i = 0; i < p.nr_bias; i++) {
			bias[i] = (struct fh_logit_bias){(uint32_t)(rng() % (N + 1)), normal() * 5};
			if (bias[i].token < N)
				y[bias[i].token] += bias[i].bias;
		}
		for (int i = 0; i < N; i++) {
			if (in_history[i])
				y[i] = y[i] > 0 ? y[i] / p.repetition_penalty : y[i] * p.repetition_penalty;
			y[i] -= p.frequency_penalty * count[i] + (count[i] ? p.presence_penalty : 0);
		}
		b.banned = banned;
		b.nr_banned = (uint32_t)(rng() % 3);
		for (uint32_t i = 0; i < b.nr_banned; i++) {
			banned[i] = (uint32_t)(rng() % N);
			y[banned[i]] = -INFINITY;
		}
		if (rng() & 1) {
			b.mask = mask;
			for (int i = 0; i < N; i++)
				if (!(mask[i / 32] >> (i % 32) & 1))
					y[i] = -INFINITY;
		}
		for (int i = 0; i < N; i++) {
			sum += exp(y[i]);
			best = y[i] > y[best] ? (uint32_t)i : best;
		}

		cr_assert_eq(fh_sampler_create(N, &s), 0);
		cr_assert_eq(sample(s, &b, x, N), best);
		cr_assert(slot.flags & FH_SLOT_LOGPROB);
		cr_assert_float_eq(f32(slot.logprob), y[best] - log(sum), 1e-4);
		for (uint32_t i = 0; i < p.nr_top; i++) {
			double want = -INFINITY;
			int at = 0;

			for (int j = 0; j < N; j++)
				if (y[j] > want) {
					want = y[j];
					at = j;
				}
			if (want == -INFINITY) {
				cr_assert_eq(f32(top[i].logprob), -9999.0f);
				continue;
			}
			cr_assert_eq(top[i].token, at);
			cr_assert_float_eq(f32(top[i].logprob), want - log(sum), 1e-3);
			y[at] = -INFINITY;
		}
		/* The scratch is clean: the same again gives the same. */
		cr_assert_eq(sample(s, &b, x, N), best);
		fh_sampler_destroy(s);
	}
}

/* A vocabulary of today's size, where the histograms and the partial sums are many. */
Test(sample, large_vocabulary)
{
	enum { N = 128256 };
	float *x = malloc(N * sizeof(*x));
	struct fh_sampler *s;
	struct fh_slot slot;
	struct fh_sampling p = {.temperature = 1, .top_p = 0.9f, .typical_p = 1, .repetition_penalty = 1};
	struct fh_batch_seq b = {.sampling = &p, .slot = &slot};
	double mean = 0;

	cr_assert_eq(fh_sampler_create(N, &s), 0);
	for (int i = 0; i < N; i++)
		x[i] = 1;
	/* Uniform: top_p keeps the lowest 90 % of the ids, top_k the lowest k, and the draws spread evenly. */
	for (b.index = 0; b.index < 200; b.index++) {
		uint32_t token = sample(s, &b, x, N);

		cr_assert_leq(token, (uint32_t)(0.9 * N) + 1);
		mean += token / 200.0;
	}
	cr_assert_float_eq(mean, 0.45 * N, 0.07 * N);
	p.top_p = 1;
	for (b.index = 0, mean = 0; b.index < 200; b.index++)
		mean += sample(s, &b, x, N) / 200.0;
	cr_assert_float_eq(mean, 0.5 * N, 0.07 * N);
	p.top_k = 1000;
	for (b.index = 0; b.index < 50; b.index++)
		cr_assert_lt(sample(s, &b, x, N), 1000);
	/* Only the last id is likely. */
	p.top_k = 0;
	x[N - 1] = 60;
	cr_assert_eq(sample(s, &b, x, N), N - 1);
	fh_sampler_destroy(s);
	free(x);
}
