// SPDX-License-Identifier: Apache-2.0
/*
 * The sampler.
 *
 * Nothing is sorted: top-k, typical and top-p all ask for "the best elements
 * until their mass reaches a target", which a radix selection over ordered
 * 32-bit keys answers in linear time (three histograms of at most 2,048 bins,
 * the later ones over the few elements that the first one leaves).  Elements
 * stay in the order of their ids throughout, so that ties go to the lowest id
 * and the draw walks in one fixed order.
 *
 * Sums run in double precision and in a fixed order, and nothing depends on
 * the instruction set, so a seed draws the same tokens on every machine whose
 * logits are the same.
 *
 * The sampler owns its scratch arrays, sized once; the logits are the caller's.
 * nr_seen[] is all zero between calls.
 */
#include <errno.h>
#include <float.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "runtime/accel/sample.h"

#define SAMPLE_GREEDY_BELOW 1e-5f
#define SAMPLE_WORST_LOGPROB -9999.0f /* JSON knows no infinity */
#define SAMPLE_BINS 2048
#define SAMPLE_SPAN 64	   /* elements with a maximum and a partial sum of their own */
#define SAMPLE_DEEP -41.0f /* e^-41 < 2^-59: less than a draw of 53 bits can hit */
#define SAMPLE_SEEN 0x80000000u

typedef float v4f __attribute__((vector_size(16), aligned(4), may_alias));
typedef int32_t v4i __attribute__((vector_size(16)));
typedef uint32_t v4u __attribute__((vector_size(16)));
typedef double v4d __attribute__((vector_size(32)));

struct fh_sampler {
	uint32_t nr_vocab;
	float *weight;	   /* [nr_vocab] exp((logit - best) / temperature) */
	uint32_t *id;	   /* [nr_vocab] of the candidates, once some are gone */
	uint32_t *key;	   /* [nr_vocab] order of the candidates; the largest is best */
	uint32_t *nr_seen; /* [nr_vocab] times that a token occurs in the output */
	double *span;	   /* [nr_vocab / SAMPLE_SPAN + 1] partial sums of weights */
	float *peak;	   /* [nr_vocab / SAMPLE_SPAN + 1] largest logits, before anything is removed */
	float *peak_copy;  /* the same size, for the search of a bound */
	struct {
		double mass;
		uint32_t nr;
	} bin[SAMPLE_BINS];
};

/* What may still be chosen: element i is token id[i] (or i), with its logit and, when weighed, its weight. */
struct cand {
	uint32_t nr;
	bool all; /* nobody has been removed: element i is token i */
	bool weighed;
	float *logit;
};

int fh_sampler_create(uint32_t nr_vocab, struct fh_sampler **out)
{
	struct fh_sampler *s;

	if (!nr_vocab)
		return -EINVAL;
	s = calloc(1, sizeof(*s));
	if (!s)
		return -ENOMEM;
	s->nr_vocab = nr_vocab;
	s->weight = calloc(nr_vocab, sizeof(*s->weight));
	s->id = calloc(nr_vocab, sizeof(*s->id));
	s->key = calloc(nr_vocab, sizeof(*s->key));
	s->nr_seen = calloc(nr_vocab, sizeof(*s->nr_seen));
	s->span = calloc(nr_vocab / SAMPLE_SPAN + 1, sizeof(*s->span));
	s->peak = calloc(nr_vocab / SAMPLE_SPAN + 1, sizeof(*s->peak));
	s->peak_copy = calloc(nr_vocab / SAMPLE_SPAN + 1, sizeof(*s->peak_copy));
	if (!s->weight || !s->id || !s->key || !s->nr_seen || !s->span || !s->peak || !s->peak_copy) {
		fh_sampler_destroy(s);
		return -ENOMEM;
	}
	*out = s;
	return 0;
}

void fh_sampler_destroy(struct fh_sampler *s)
{
	if (!s)
		return;
	free(s->weight);
	free(s->id);
	free(s->key);
	free(s->nr_seen);
	free(s->span);
	free(s->peak);
	free(s->peak_copy);
	free(s);
}

void fh_philox4x32(const uint32_t ctr[4], const uint32_t key[2], uint32_t out[4])
{
	uint32_t c0 = ctr[0], c1 = ctr[1], c2 = ctr[2], c3 = ctr[3], k0 = key[0], k1 = key[1];

	for (int round = 0; round < 10; round++) {
		uint64_t p0 = (uint64_t)0xd2511f53u * c0, p1 = (uint64_t)0xcd9e8d57u * c2;

		c0 = (uint32_t)(p1 >> 32) ^ c1 ^ k0;
		c1 = (uint32_t)p1;
		c2 = (uint32_t)(p0 >> 32) ^ c3 ^ k1;
		c3 = (uint32_t)p0;
		k0 += 0x9e3779b9u;
		k1 += 0xbb67ae85u;
	}
	out[0] = c0;
	out[1] = c1;
	out[2] = c2;
	out[3] = c3;
}

/* The draw of token @index: uniform in [0, 1), 53 bits. */
static double draw_uniform(uint64_t seed, uint32_t index)
{
	const uint32_t key[2] = {(uint32_t)seed, (uint32_t)(seed >> 32)};
	const uint32_t ctr[4] = {index, 0, 0, 0};
	uint32_t r[4];

	fh_philox4x32(ctr, key, r);
	return (double)((((uint64_t)r[0] << 32) | r[1]) >> 11) * 0x1p-53;
}

static inline v4f load4(const float *p)
{
	return *(const v4f *)p;
}

/* Lane by lane: a where m, else b. */
static inline v4f pick4(v4i m, v4f a, v4f b)
{
	return (v4f)(((v4i)a & m) | ((v4i)b & ~m));
}

/* Largest logit; NaN never is. Minus infinity when there is none. */
static float max_of(const float *x, uint32_t n)
{
	v4f m0 = {-INFINITY, -INFINITY, -INFINITY, -INFINITY}, m1 = m0, m2 = m0, m3 = m0;
	float best = -INFINITY;
	uint32_t i = 0;

	for (; i + 16 <= n; i += 16) {
		v4f a = load4(x + i), b = load4(x + i + 4), c = load4(x + i + 8), d = load4(x + i + 12);

		m0 = pick4(a > m0, a, m0);
		m1 = pick4(b > m1, b, m1);
		m2 = pick4(c > m2, c, m2);
		m3 = pick4(d > m3, d, m3);
	}
	for (; i < n; i++)
		best = x[i] > best ? x[i] : best;
	m0 = pick4(m1 > m0, m1, m0);
	m2 = pick4(m3 > m2, m3, m2);
	m0 = pick4(m2 > m0, m2, m0);
	for (int j = 0; j < 4; j++)
		best = m0[j] > best ? m0[j] : best;
	return best;
}

/* e^x for x <= 0, to 2 units in the last place; below the normal numbers it is 0. Coefficients: Cephes' expf. */
static inline v4f exp4(v4f x)
{
	const v4f magic = {0x1.8p23f, 0x1.8p23f, 0x1.8p23f, 0x1.8p23f};
	v4i live = x > -87.0f;
	v4f n, r, p;

	x = pick4(live, x, (v4f){0});
	n = (x * 0x1.715476p0f + magic) - magic;
	r = x - n * 0x1.63p-1f + n * 0x1.bd0106p-13f;
	p = r * 1.9875691500e-4f + 1.3981999507e-3f;
	p = p * r + 8.3334519073e-3f;
	p = p * r + 4.1665795894e-2f;
	p = p * r + 1.6666665459e-1f;
	p = p * r + 5.0000001201e-1f;
	p = p * r * r + r + 1.0f;
	p = (v4f)((v4u)p + ((v4u) __builtin_convertvector(n, v4i) << 23));
	return pick4(live, p, (v4f){0});
}

/* w[0 .. n) = exp((x - best) / temperature), n <= SAMPLE_SPAN; w may be NULL. Returns the sum. */
static double weigh_span(const float *x, uint32_t n, float best, float temperature, float *w)
{
	v4d sum = {0};
	uint32_t i = 0;

	for (; i + 4 <= n; i += 4) {
		v4f e = exp4((load4(x + i) - best) / temperature);

		if (w)
			*(v4f *)(w + i) = e;
		sum += __builtin_convertvector(e, v4d);
	}
	if (i < n) {
		float lane[4] = {-INFINITY, -INFINITY, -INFINITY, -INFINITY};
		v4f e;

		memcpy(lane, x + i, (n - i) * sizeof(*lane));
		e = exp4((load4(lane) - best) / temperature);
		if (w)
			memcpy(w + i, &e, (n - i) * sizeof(*w));
		sum += __builtin_convertvector(e, v4d);
	}
	return (sum[0] + sum[1]) + (sum[2] + sum[3]);
}

/*
 * w[i] = exp((x[i] - best) / temperature); span[] receives the sum of each
 * SAMPLE_SPAN of them.  Where @peak says that none of a span can ever be drawn,
 * its weights are zero.  @w and @peak may be NULL.  Returns the sum of all.
 */
static double weigh(const float *x, uint32_t n, float best, float temperature, float *w, const float *peak,
		    double *span)
{
	double total = 0;

	for (uint32_t k = 0, from = 0; from < n; k++, from += SAMPLE_SPAN) {
		uint32_t nr = n - from < SAMPLE_SPAN ? n - from : SAMPLE_SPAN;

		if (peak && !((peak[k] - best) / temperature > SAMPLE_DEEP)) {
			span[k] = 0;
			if (w)
				memset(w + from, 0, nr * sizeof(*w));
			continue;
		}
		span[k] = weigh_span(x + from, nr, best, temperature, w ? w + from : NULL);
		total += span[k];
	}
	return total;
}

/* Order of a float that is not NaN, as an unsigned number. */
static inline uint32_t order_of(float x)
{
	uint32_t b;

	memcpy(&b, &x, sizeof(b));
	return b ^ (b >> 31 ? UINT32_MAX : SAMPLE_SEEN);
}

/* Count occurrences in the output, then change each token's logit once. Linear in the history. */
static void penalize(struct fh_sampler *s, const struct fh_batch_seq *b, float *x)
{
	const struct fh_sampling *p = b->sampling;
	bool repetition = p->repetition_penalty > 0 && p->repetition_penalty != 1.0f;
	uint32_t from = repetition ? 0 : b->nr_prompt;

	for (uint32_t i = b->nr_prompt; i < b->nr_history; i++)
		if (b->history[i] < s->nr_vocab)
			s->nr_seen[b->history[i]]++;
	for (uint32_t i = from; i < b->nr_history; i++) {
		uint32_t id = b->history[i], nr;

		if (id >= s->nr_vocab || s->nr_seen[id] & SAMPLE_SEEN)
			continue;
		nr = s->nr_seen[id];
		s->nr_seen[id] |= SAMPLE_SEEN;
		if (repetition)
			x[id] = x[id] > 0 ? x[id] / p->repetition_penalty : x[id] * p->repetition_penalty;
		if (nr)
			x[id] -= p->frequency_penalty * (float)nr + p->presence_penalty;
	}
	for (uint32_t i = from; i < b->nr_history; i++)
		if (b->history[i] < s->nr_vocab)
			s->nr_seen[b->history[i]] = 0;
}

static bool has_penalty(const struct fh_sampling *p)
{
	return (p->repetition_penalty > 0 && p->repetition_penalty != 1.0f) || p->presence_penalty != 0 ||
	       p->frequency_penalty != 0;
}

static bool is_ruled_out(const struct fh_batch_seq *b, uint32_t id)
{
	if (b->mask && !(b->mask[id / 32] >> (id % 32) & 1))
		return true;
	for (uint32_t i = 0; i < b->nr_banned; i++)
		if (b->banned[i] == id)
			return true;
	return false;
}

/* Bias, penalties, bans and mask; the last two win over everything. */
static void shape_logits(struct fh_sampler *s, const struct fh_batch_seq *b, float *x)
{
	const struct fh_sampling *p = b->sampling;
	uint32_t n = s->nr_vocab;

	for (uint32_t i = 0; i < p->nr_bias; i++)
		if (p->bias[i].token < n)
			x[p->bias[i].token] += p->bias[i].bias;
	if (has_penalty(p) && b->nr_history)
		penalize(s, b, x);
	for (uint32_t i = 0; i < b->nr_banned; i++)
		if (b->banned[i] < n)
			x[b->banned[i]] = -INFINITY;
	if (!b->mask)
		return;
	for (uint32_t i = 0; i < n; i++) {
		if (i % 32 == 0 && n - i >= 32 && b->mask[i / 32] == UINT32_MAX) {
			i += 31;
			continue;
		}
		if (!(b->mask[i / 32] >> (i % 32) & 1))
			x[i] = -INFINITY;
	}
}

/* The best token, or the lowest that is allowed when every logit is minus infinity. */
static uint32_t best_of(const struct fh_sampler *s, const struct fh_batch_seq *b, const float *x, float best)
{
	uint32_t n = s->nr_vocab;

	if (best == -INFINITY) {
		for (uint32_t i = 0; i < n; i++)
			if (!is_ruled_out(b, i))
				return i;
		return 0;
	}
	for (uint32_t i = 0; i < n; i++)
		if (x[i] == best)
			return i;
	return 0;
}

/* NaN becomes minus infinity, plus infinity the largest number, minus zero zero. */
static inline v4f clean4(v4f v)
{
	const v4f most = {FLT_MAX, FLT_MAX, FLT_MAX, FLT_MAX}, least = {-INFINITY, -INFINITY, -INFINITY, -INFINITY};

	v = pick4(v == v, v, least);
	return pick4(v > most, most, v) + 0.0f;
}

/* Clean all logits; peak[] receives the largest of each SAMPLE_SPAN. Returns the largest of all. */
static float clean(float *x, uint32_t n, float *peak)
{
	float best = -INFINITY;

	for (uint32_t k = 0, from = 0; from < n; k++, from += SAMPLE_SPAN) {
		uint32_t nr = n - from < SAMPLE_SPAN ? n - from : SAMPLE_SPAN, i = 0;

		for (; i + 4 <= nr; i += 4)
			*(v4f *)(x + from + i) = clean4(load4(x + from + i));
		for (; i < nr; i++)
			x[from + i] = clean4((v4f){x[from + i]})[0];
		peak[k] = max_of(x + from, nr);
		best = peak[k] > best ? peak[k] : best;
	}
	return best;
}

/* The best tokens with their log-probabilities, best first. x has been cleaned. */
static void write_top(struct fh_top *top, uint32_t nr_top, const float *x, const float *peak, uint32_t n, double norm)
{
	float value[FH_MAX_TOP_LOGPROBS];
	uint32_t nr = 0;

	if (nr_top > FH_MAX_TOP_LOGPROBS)
		nr_top = FH_MAX_TOP_LOGPROBS;
	for (uint32_t i = 0; i < n; i++) {
		uint32_t at = nr;

		if (nr == nr_top && i % SAMPLE_SPAN == 0 && !(peak[i / SAMPLE_SPAN] > value[nr - 1])) {
			i += SAMPLE_SPAN - 1;
			continue;
		}
		if (nr == nr_top && !(x[i] > value[nr - 1]))
			continue;
		if (nr == nr_top)
			at--;
		else
			nr++;
		for (; at && x[i] > value[at - 1]; at--) {
			value[at] = value[at - 1];
			top[at].token = top[at - 1].token;
		}
		value[at] = x[i];
		top[at].token = i;
	}
	for (uint32_t i = 0; i < nr_top; i++) {
		float lp = i < nr ? (float)(value[i] - norm) : SAMPLE_WORST_LOGPROB;

		if (i >= nr)
			top[i].token = 0;
		if (!(lp > SAMPLE_WORST_LOGPROB))
			lp = SAMPLE_WORST_LOGPROB;
		memcpy(&top[i].logprob, &lp, sizeof(lp));
	}
}

/* Keep element i as number @to. */
static inline void keep(struct fh_sampler *s, struct cand *c, uint32_t to, uint32_t i)
{
	c->logit[to] = c->logit[i];
	s->id[to] = c->all ? i : s->id[i];
	s->key[to] = s->key[i];
	if (c->weighed)
		s->weight[to] = s->weight[i];
}

static inline double mass_of(const struct fh_sampler *s, const struct cand *c, uint32_t i)
{
	return c->weighed ? (double)s->weight[i] : 1.0;
}

/*
 * One level of the selection: among the elements whose key >> @above is
 * @prefix, the bin of (key >> @shift) in which the mass, from the best bin on,
 * reaches @target.  *@acc: the mass of everything better.
 */
static uint32_t cut_level(struct fh_sampler *s, const struct cand *c, uint32_t above, uint32_t shift, uint32_t prefix,
			  double target, double *acc)
{
	uint32_t last = 0;

	memset(s->bin, 0, sizeof(s->bin));
	for (uint32_t i = 0; i < c->nr; i++) {
		uint32_t bin = s->key[i] >> shift & (SAMPLE_BINS - 1);

		if (above < 32 && s->key[i] >> above != prefix)
			continue;
		if (above - shift < 11)
			bin &= (1u << (above - shift)) - 1;
		s->bin[bin].mass += mass_of(s, c, i);
		s->bin[bin].nr++;
	}
	for (uint32_t bin = SAMPLE_BINS; bin--;) {
		if (!s->bin[bin].nr)
			continue;
		last = bin;
		if (*acc + s->bin[bin].mass >= target)
			return bin;
		*acc += s->bin[bin].mass;
	}
	/* Rounding kept the whole from reaching the target: the cut is after the worst. */
	*acc -= s->bin[last].mass;
	return last;
}

/* Keep the elements with the largest keys, until their mass reaches @target; among equals the lowest ids. */
static void cut(struct fh_sampler *s, struct cand *c, double target)
{
	uint32_t bin, nr = 0;
	double acc = 0;

	if (!(target > 0))
		target = DBL_MIN;
	bin = cut_level(s, c, 32, 21, 0, target, &acc);
	for (uint32_t i = 0; i < c->nr; i++) {
		bool stays = s->key[i] >> 21 >= bin;

		keep(s, c, nr, i);
		nr += stays;
	}
	c->nr = nr;
	c->all = false;
	bin = bin << 11 | cut_level(s, c, 21, 10, bin, target, &acc);
	bin = bin << 10 | cut_level(s, c, 10, 0, bin, target, &acc);

	nr = 0;
	for (uint32_t i = 0; i < c->nr; i++) {
		if (s->key[i] < bin)
			continue;
		if (s->key[i] == bin) {
			if (acc >= target)
				continue;
			acc += mass_of(s, c, i);
		}
		keep(s, c, nr++, i);
	}
	c->nr = nr;
}

static void order_by_logit(struct fh_sampler *s, const struct cand *c)
{
	for (uint32_t i = 0; i < c->nr; i++)
		s->key[i] = order_of(c->logit[i]);
}

static double total_weight(struct fh_sampler *s, const struct cand *c)
{
	double total = 0;

	for (uint32_t i = 0; i < c->nr; i++)
		total += s->weight[i];
	return total;
}

/* Locally typical sampling (Meister et al., 2022): the tokens whose surprise is nearest to the expected one. */
static void cut_typical(struct fh_sampler *s, struct cand *c, float best, float temperature, float mass)
{
	double total = total_weight(s, c), log_total = log(total), entropy = 0;

	for (uint32_t i = 0; i < c->nr; i++)
		if (s->weight[i] > 0)
			entropy +=
				s->weight[i] / total * (log_total - ((double)c->logit[i] - best) / (double)temperature);
	for (uint32_t i = 0; i < c->nr; i++) {
		double surprise = log_total - ((double)c->logit[i] - best) / (double)temperature;
		float off = (float)fabs(surprise - entropy);

		/* What has no weight is never typical. */
		s->key[i] = s->weight[i] > 0 ? ~order_of(off) : 0;
	}
	cut(s, c, mass * total);
}

/* Drop what has less than @share of the best one's weight. */
static void cut_min_p(struct fh_sampler *s, struct cand *c, float share)
{
	float most = max_of(s->weight, c->nr), least = most * share;
	uint32_t nr = 0;

	for (uint32_t i = 0; i < c->nr; i++)
		if (s->weight[i] >= least)
			keep(s, c, nr++, i);
	c->nr = nr;
	c->all = false;
}

/* The element at which the running sum of the weights passes u times the whole. */
static uint32_t draw(struct fh_sampler *s, const struct cand *c, double u)
{
	uint32_t nr_spans = (c->nr + SAMPLE_SPAN - 1) / SAMPLE_SPAN, span = 0, i, to, last = 0;
	double total = 0, sum = 0, acc = 0;

	for (uint32_t k = 0; k < nr_spans; k++) {
		uint32_t end = c->nr - k * SAMPLE_SPAN < SAMPLE_SPAN ? c->nr : (k + 1) * SAMPLE_SPAN;

		/* Where nobody was removed, weigh() left the sums here. */
		if (!c->all) {
			s->span[k] = 0;
			for (i = k * SAMPLE_SPAN; i < end; i++)
				s->span[k] += s->weight[i];
		}
		total += s->span[k];
	}
	for (uint32_t k = 0; k < nr_spans; k++) {
		if (!(s->span[k] > 0))
			continue;
		span = k;
		acc = sum;
		sum += s->span[k];
		if (sum > u * total)
			break;
	}
	i = span * SAMPLE_SPAN;
	to = c->nr - i < SAMPLE_SPAN ? c->nr : i + SAMPLE_SPAN;
	for (last = i; i < to; i++) {
		if (!(s->weight[i] > 0))
			continue;
		last = i;
		acc += s->weight[i];
		if (acc > u * total)
			break;
	}
	return last;
}

/*
 * Remove most of what top-k removes, cheaply: the k-th largest of the spans'
 * peaks is at most the k-th largest logit.
 */
static void bound_top_k(struct fh_sampler *s, struct cand *c, uint32_t k)
{
	uint32_t nr_spans = (c->nr + SAMPLE_SPAN - 1) / SAMPLE_SPAN, nr = 0;
	struct cand peaks = {.nr = nr_spans, .all = true, .logit = s->peak_copy};
	float bound = INFINITY;

	if (k >= nr_spans / 2)
		return;
	memcpy(s->peak_copy, s->peak, nr_spans * sizeof(*s->peak));
	order_by_logit(s, &peaks);
	cut(s, &peaks, k);
	for (uint32_t i = 0; i < peaks.nr; i++)
		bound = s->peak_copy[i] < bound ? s->peak_copy[i] : bound;
	for (uint32_t span = 0; span < nr_spans; span++) {
		uint32_t i = span * SAMPLE_SPAN, to = c->nr - i < SAMPLE_SPAN ? c->nr : i + SAMPLE_SPAN;

		if (!(s->peak[span] >= bound))
			continue;
		for (; i < to; i++)
			if (c->logit[i] >= bound)
				keep(s, c, nr++, i);
	}
	c->nr = nr;
	c->all = false;
}

/*
 * Remove most of what top-p removes, cheaply: all elements lighter than an nth
 * of what may go weigh less than that together.
 */
static void bound_top_p(struct fh_sampler *s, struct cand *c, double spare)
{
	double least = spare / c->nr;
	uint32_t nr = 0;

	/* Written in any case, counted if it stays: a branch here would be guessed wrong too often. */
	for (uint32_t i = 0; i < c->nr; i++) {
		float w = s->weight[i];

		s->id[nr] = c->all ? i : s->id[i];
		c->logit[nr] = c->logit[i];
		s->weight[nr] = w;
		nr += w >= least;
	}
	c->nr = nr;
	c->all = false;
}

/* Filter and draw. @x has been cleaned and its largest, @best, is a number. Returns the token; its logit in *@logit. */
static uint32_t choose(struct fh_sampler *s, const struct fh_batch_seq *b, float *x, float best, float *logit)
{
	const struct fh_sampling *p = b->sampling;
	struct cand c = {.nr = s->nr_vocab, .all = true, .logit = x};
	double total;
	uint32_t i;

	if (p->top_k && p->top_k < c.nr) {
		bound_top_k(s, &c, p->top_k);
		order_by_logit(s, &c);
		cut(s, &c, p->top_k);
	}
	total = weigh(c.logit, c.nr, best, p->temperature, s->weight, c.all ? s->peak : NULL, s->span);
	c.weighed = true;
	if (p->typical_p < 1.0f) {
		cut_typical(s, &c, best, p->temperature, p->typical_p);
		total = total_weight(s, &c);
	}
	if (p->top_p < 1.0f) {
		bound_top_p(s, &c, (1 - (double)p->top_p) * total / 2);
		order_by_logit(s, &c);
		cut(s, &c, p->top_p * total);
	}
	if (p->min_p > 0)
		cut_min_p(s, &c, p->min_p < 1.0f ? p->min_p : 1.0f);
	i = draw(s, &c, draw_uniform(p->seed, b->index));
	*logit = c.logit[i];
	return c.all ? i : s->id[i];
}

void fh_sample(struct fh_sampler *s, const struct fh_batch_seq *b, float *logits)
{
	const struct fh_sampling *p = b->sampling;
	bool greedy = !(p->temperature >= SAMPLE_GREEDY_BELOW), top = b->top && p->nr_top;
	struct fh_slot slot = {.stamp = b->index + 1};
	float best, logit, logprob;
	double norm = 0;

	shape_logits(s, b, logits);
	if (greedy && !p->logprobs && !top) {
		slot.token = best_of(s, b, logits, max_of(logits, s->nr_vocab));
		*b->slot = slot;
		return;
	}

	best = clean(logits, s->nr_vocab, s->peak);
	if (best == -INFINITY)
		greedy = true;
	if ((p->logprobs || top) && best > -INFINITY)
		norm = (double)best + log(weigh(logits, s->nr_vocab, best, 1.0f, NULL, s->peak, s->span));
	if (top)
		write_top(b->top, p->nr_top, logits, s->peak, s->nr_vocab, norm);
	if (greedy) {
		slot.token = best_of(s, b, logits, best);
		logit = logits[slot.token];
	} else {
		slot.token = choose(s, b, logits, best, &logit);
	}
	if (p->logprobs) {
		logprob = (float)((double)logit - norm);
		if (!(logprob > SAMPLE_WORST_LOGPROB))
			logprob = SAMPLE_WORST_LOGPROB;
		memcpy(&slot.logprob, &logprob, sizeof(logprob));
		slot.flags = FH_SLOT_LOGPROB;
	}
	*b->slot = slot;
}
