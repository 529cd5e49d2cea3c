// SPDX-License-Identifier: Apache-2.0
/*
 * The sampler, a block a row of logits: the rules, the weights and the random
 * numbers of runtime/accel/sample.c, so that a seed draws the same tokens.
 *
 * Nothing is compacted.  A candidate is one whose key passes the cuts made so
 * far: a smallest key, and among its equals a largest id.  Cuts are found by a
 * radix selection over histograms of counts (top-k) or of weights in fixed
 * point (top-p), both whole numbers, whose sums have no order.  All other sums
 * run in double, span by span and then over the spans in order: the very sums
 * of the CPU where nothing has been cut, else equal to the last bits of double.
 */
#include <float.h>

#include "kernels/cuda/dev.cuh"

#define GREEDY_BELOW 1e-5f
#define WORST_LOGPROB -9999.0f
#define BINS 2048u
#define READ_AHEAD 8u /* logits a thread, in flight together */
#define DEEP -41.0f
#define FIXED 0x1p44 /* of a weight, which is at most 1; 2^19 of them fit 63 bits */

struct cut {
	uint32_t key; /* smallest that stays */
	uint32_t id;  /* of those with this key, ids up to here stay */
};

struct row {
	struct fhk_cu_out o;
	const float *x; /* [n], adjusted */
	uint32_t n;
	float best;
	struct cut k, p; /* top-k, top-p */
	float least;	 /* weight: min-p */
	bool all;	 /* nothing has been cut */
	unsigned long long *hist; /* [BINS] shared */
	double *span;		  /* [n / FHK_CU_SPAN, rounded up] shared */
};

FHK_DEV void philox(uint64_t seed, uint32_t index, uint32_t r[4])
{
	uint32_t c0 = index, c1 = 0, c2 = 0, c3 = 0, k0 = (uint32_t)seed, k1 = (uint32_t)(seed >> 32);

	for (int i = 0; i < 10; i++) {
		uint64_t p0 = (uint64_t)0xd2511f53u * c0, p1 = (uint64_t)0xcd9e8d57u * c2;

		c0 = (uint32_t)(p1 >> 32) ^ c1 ^ k0;
		c1 = (uint32_t)p1;
		c2 = (uint32_t)(p0 >> 32) ^ c3 ^ k1;
		c3 = (uint32_t)p0;
		k0 += 0x9e3779b9u;
		k1 += 0xbb67ae85u;
	}
	r[0] = c0;
	r[1] = c1;
	r[2] = c2;
	r[3] = c3;
}

/* e^x for x <= 0: operation for operation that of sample.c. */
FHK_DEV float exp_neg(float x)
{
	float n, r, p;

	if (!(x > -87.0f))
		return 0;
	n = __fsub_rn(__fadd_rn(__fmul_rn(x, 0x1.715476p0f), 0x1.8p23f), 0x1.8p23f);
	r = __fadd_rn(__fsub_rn(x, __fmul_rn(n, 0x1.63p-1f)), __fmul_rn(n, 0x1.bd0106p-13f));
	p = __fadd_rn(__fmul_rn(r, 1.9875691500e-4f), 1.3981999507e-3f);
	p = __fadd_rn(__fmul_rn(p, r), 8.3334519073e-3f);
	p = __fadd_rn(__fmul_rn(p, r), 4.1665795894e-2f);
	p = __fadd_rn(__fmul_rn(p, r), 1.6666665459e-1f);
	p = __fadd_rn(__fmul_rn(p, r), 5.0000001201e-1f);
	p = __fadd_rn(__fadd_rn(__fmul_rn(__fmul_rn(p, r), r), r), 1.0f);
	return __uint_as_float(__float_as_uint(p) + ((uint32_t)(int)n << 23));
}

FHK_DEV uint32_t order_of(float x)
{
	uint32_t b = __float_as_uint(x);

	return b ^ (b >> 31 ? 0xffffffffu : 0x80000000u);
}

FHK_DEV bool is_masked(const struct row &r, uint32_t i)
{
	return r.o.mask && !(fhk_ptr<const uint32_t>(r.o.mask)[i / 32] >> (i % 32) & 1);
}

/* Logit @i, of which @v was read: adjusted, masked and clean: no NaN, no infinity above. */
FHK_DEV float clean(const struct row &r, uint32_t i, float v)
{
	if (is_masked(r, i) || !(v == v))
		return -INFINITY;
	return __fadd_rn(fminf(v, FLT_MAX), 0.0f);
}

FHK_DEV float logit(const struct row &r, uint32_t i)
{
	return clean(r, i, r.x[i]);
}

FHK_DEV float scaled(const struct row &r, float x, float temperature)
{
	return __fdiv_rn(__fsub_rn(x, r.best), temperature);
}

FHK_DEV float weight(const struct row &r, uint32_t i)
{
	return exp_neg(scaled(r, logit(r, i), r.o.temperature));
}

FHK_DEV bool stays(const struct cut &c, uint32_t key, uint32_t id)
{
	return key > c.key || (key == c.key && id <= c.id);
}

FHK_DEV bool is_candidate(const struct row &r, uint32_t i)
{
	uint32_t key;

	if (r.all)
		return true;
	key = order_of(logit(r, i));
	return stays(r.k, key, i) && stays(r.p, key, i) && !(weight(r, i) < r.least);
}

/* One thread: sum of the weights of a span as sample.c adds them before anything is cut. */
FHK_DEV double weigh_span(const struct row &r, uint32_t from, float temperature)
{
	uint32_t nr = min(r.n - from, FHK_CU_SPAN);
	double sum[4] = {0, 0, 0, 0};
	float peak = -INFINITY;

	for (uint32_t i = 0; i < nr; i++)
		peak = fmaxf(peak, logit(r, from + i));
	if (!(scaled(r, peak, temperature) > DEEP))
		return 0;
	for (uint32_t i = 0; i < nr; i += 4)
#pragma unroll
		for (uint32_t j = 0; j < 4; j++)
			if (i + j < nr)
				sum[j] += (double)exp_neg(scaled(r, logit(r, from + i + j), temperature));
	return (sum[0] + sum[1]) + (sum[2] + sum[3]);
}

/* The same of what is left. */
FHK_DEV double left_span(const struct row &r, uint32_t from)
{
	uint32_t nr = min(r.n - from, FHK_CU_SPAN);
	double sum = 0;

	for (uint32_t i = from; i < from + nr; i++)
		if (is_candidate(r, i))
			sum += (double)weight(r, i);
	return sum;
}

/* Fill span[]; returns the sum of all, in every thread. */
FHK_DEV double weigh(const struct row &r, float temperature)
{
	uint32_t nr = fhk_cu_div_up(r.n, FHK_CU_SPAN);
	double *total = (double *)r.hist;

	__syncthreads();
	for (uint32_t k = threadIdx.x; k < nr; k += blockDim.x)
		r.span[k] = r.all ? weigh_span(r, k * FHK_CU_SPAN, temperature) : left_span(r, k * FHK_CU_SPAN);
	__syncthreads();
	if (threadIdx.x == 0) {
		double sum = 0;

		for (uint32_t k = 0; k < nr; k++)
			sum += r.span[k];
		*total = sum;
	}
	__syncthreads();
	return *total;
}

/* Bias, penalties and bans. */
FHK_DEV void adjust(const struct fhk_cu_out &o, const struct fhk_cu_adj *adj, float *x, uint32_t n)
{
	for (uint32_t i = threadIdx.x; i < o.nr_adj; i += blockDim.x) {
		struct fhk_cu_adj a = adj[i];
		float v;

		if (a.token >= n)
			continue;
		v = __fadd_rn(x[a.token], a.bias);
		if ((a.flags & FHK_CU_ADJ_SEEN) && o.repetition > 0 && o.repetition != 1.0f)
			v = v > 0 ? __fdiv_rn(v, o.repetition) : __fmul_rn(v, o.repetition);
		if (a.count)
			v = __fsub_rn(v, __fadd_rn(__fmul_rn(o.frequency, (float)a.count), o.presence));
		x[a.token] = a.flags & FHK_CU_ADJ_BAN ? -INFINITY : v;
	}
}

/* The largest logit, and its lowest id, in every thread. */
FHK_DEV float find_best(const struct row &r, uint32_t *id)
{
	float best = -INFINITY, *value = (float *)r.hist;
	uint32_t at = FHK_CU_NONE, *ids = (uint32_t *)(value + 32);

	for (uint32_t i0 = threadIdx.x; i0 < r.n; i0 += READ_AHEAD * blockDim.x) {
		float v[READ_AHEAD];

#pragma unroll
		for (uint32_t k = 0; k < READ_AHEAD; k++)
			v[k] = i0 + k * blockDim.x < r.n ? r.x[i0 + k * blockDim.x] : -INFINITY;
#pragma unroll
		for (uint32_t k = 0; k < READ_AHEAD; k++) {
			float x = v[k] > best ? clean(r, i0 + k * blockDim.x, v[k]) : -INFINITY;

			if (x > best) {
				best = x;
				at = i0 + k * blockDim.x;
			}
		}
	}
	for (int d = 16; d; d /= 2) {
		float v = __shfl_xor_sync(FHK_FULL, best, d);
		uint32_t i = __shfl_xor_sync(FHK_FULL, at, d);

		if (v > best || (v == best && i < at)) {
			best = v;
			at = i;
		}
	}
	if (fhk_lane() == 0) {
		value[fhk_warp()] = best;
		ids[fhk_warp()] = at;
	}
	__syncthreads();
	for (uint32_t w = 0; w < blockDim.x / 32; w++) {
		if (value[w] > best || (value[w] == best && ids[w] < at)) {
			best = value[w];
			at = ids[w];
		}
	}
	__syncthreads();
	*id = at;
	return best;
}

/* Every logit is minus infinity: the lowest id that is neither banned nor masked, else 0. */
FHK_DEV uint32_t lowest_allowed(const struct row &r, const struct fhk_cu_adj *adj)
{
	for (uint32_t i = 0; i < r.n; i++) {
		bool banned = is_masked(r, i);

		for (uint32_t k = 0; k < r.o.nr_adj && !banned; k++)
			banned = adj[k].token == i && (adj[k].flags & FHK_CU_ADJ_BAN);
		if (!banned)
			return i;
	}
	return 0;
}

/* What an element adds to a histogram: 1, or its weight. */
FHK_DEV unsigned long long mass_of(const struct row &r, uint32_t i, bool weighed)
{
	return weighed ? (unsigned long long)__double2ll_rn((double)weight(r, i) * FIXED) : 1;
}

struct level {
	uint32_t bin;
	unsigned long long acc, in; /* mass of everything better than the bin, and its own */
};

/*
 * The first warp: the bin in which the mass, from the best bin on and with
 * @acc before it, reaches @target; else the worst that holds anything.
 */
FHK_DEV void find_bin(const unsigned long long *hist, unsigned long long target, unsigned long long acc,
		      struct level *out)
{
	uint32_t lane = fhk_lane(), top = BINS - 1 - lane * (BINS / 32); /* a lane has 64 bins, from the best down */
	unsigned long long mine = 0, before;
	struct level l = {FHK_CU_NONE, 0, 0};
	uint32_t reached, holds;

	for (uint32_t i = 0; i < BINS / 32; i++)
		mine += hist[top - i];
	before = mine;
	for (uint32_t d = 1; d < 32; d *= 2) {
		unsigned long long v = __shfl_up_sync(FHK_FULL, before, d);

		before += lane >= d ? v : 0;
	}
	before += acc - mine;
	reached = __ballot_sync(FHK_FULL, mine && before + mine >= target);
	holds = __ballot_sync(FHK_FULL, mine != 0);
	if (lane != (reached ? __ffs((int)reached) - 1u : holds ? 31u - __clz((int)holds) : 0))
		return;
	for (uint32_t i = 0; i < BINS / 32; i++) {
		unsigned long long v = hist[top - i];

		if (!v)
			continue;
		l = (struct level){top - i, before, v};
		if (before + v >= target)
			break;
		before += v;
	}
	*out = l;
}

/* The id of tie number @nr (from 1) with key @key; all threads. Ranges of ids are counted first. */
FHK_DEV uint32_t tie_id(const struct row &r, uint32_t key, unsigned long long nr)
{
	uint32_t each = fhk_cu_div_up(r.n, blockDim.x), from = min(each * threadIdx.x, r.n), to = min(from + each, r.n);
	uint32_t *count = (uint32_t *)r.hist, *found = count + blockDim.x, mine = 0;

	__syncthreads();
	for (uint32_t i = from; i < to; i++)
		mine += order_of(logit(r, i)) == key && is_candidate(r, i);
	count[threadIdx.x] = mine;
	__syncthreads();
	if (threadIdx.x == 0) {
		uint32_t t = 0, i;

		while (nr > count[t])
			nr -= count[t++];
		for (i = each * t; nr; i++)
			nr -= order_of(logit(r, i)) == key && is_candidate(r, i);
		*found = i - 1;
	}
	__syncthreads();
	return *found;
}

/* The best candidates whose mass together reaches @target; all threads. Among equals the lowest ids. */
FHK_DEV struct cut find_cut(const struct row &r, unsigned long long target, bool weighed)
{
	struct level *found = (struct level *)r.span;
	uint32_t prefix = 0, above = 32;
	unsigned long long acc = 0, need, one, ties;
	struct cut c;

	for (int l = 0; l < 3; l++) {
		uint32_t shift = above > 11 ? above - 11 : 0, mask = (1u << (above - shift)) - 1;

		__syncthreads();
		for (uint32_t i = threadIdx.x; i < BINS; i += blockDim.x)
			r.hist[i] = 0;
		__syncthreads();
		for (uint32_t i = threadIdx.x; i < r.n; i += blockDim.x) {
			uint32_t key = order_of(logit(r, i));

			if ((l && key >> above != prefix) || !is_candidate(r, i))
				continue;
			atomicAdd(&r.hist[key >> shift & mask], mass_of(r, i, weighed));
		}
		__syncthreads();
		if (fhk_warp() == 0)
			find_bin(r.hist, target, acc, found);
		__syncthreads();
		prefix = prefix << (above - shift) | found->bin;
		above = shift;
		acc = found->acc;
		ties = found->in;
	}
	/* Equals weigh the same: how many of them does it take? */
	c = (struct cut){prefix, FHK_CU_NONE};
	one = 1;
	if (weighed) {
		uint32_t bits = prefix ^ (prefix >> 31 ? 0x80000000u : 0xffffffffu);
		float w = exp_neg(scaled(r, __uint_as_float(bits), r.o.temperature));

		one = (unsigned long long)__double2ll_rn((double)w * FIXED);
	}
	if (!one)
		return c;
	need = target > acc ? (target - acc + one - 1) / one : 1;
	if (need * one < ties)
		c.id = tie_id(r, prefix, need);
	return c;
}

/* One thread: the candidate at which the running sum of the weights passes u times the whole. */
FHK_DEV uint32_t draw(const struct row &r, double total, double u)
{
	uint32_t nr = fhk_cu_div_up(r.n, FHK_CU_SPAN), at = 0, last;
	double sum = 0, acc = 0;

	for (uint32_t k = 0; k < nr; k++) {
		if (!(r.span[k] > 0))
			continue;
		at = k;
		acc = sum;
		sum += r.span[k];
		if (sum > u * total)
			break;
	}
	last = at * FHK_CU_SPAN;
	for (uint32_t i = last; i < min(at * FHK_CU_SPAN + FHK_CU_SPAN, r.n); i++) {
		float w = is_candidate(r, i) ? weight(r, i) : 0;

		if (!(w > 0))
			continue;
		last = i;
		acc += (double)w;
		if (acc > u * total)
			break;
	}
	return last;
}

/* Filter and draw; all threads, the first one has the token. */
FHK_DEV uint32_t choose(struct row &r)
{
	double total;
	uint32_t w[4];

	if (r.o.top_k && r.o.top_k < r.n) {
		struct cut c = find_cut(r, r.o.top_k, false);

		r.k = c;
		r.all = false;
	}
	if (r.o.top_p < 1.0f) {
		struct cut c;
		double target;

		total = weigh(r, r.o.temperature);
		target = (double)r.o.top_p * total * FIXED;
		c = find_cut(r, target >= 1 ? (unsigned long long)target : 1, true);
		r.p = c;
		r.all = false;
	}
	if (r.o.min_p > 0) {
		r.least = fminf(r.o.min_p, 1.0f);
		r.all = false;
	}
	total = weigh(r, r.o.temperature);
	if (threadIdx.x)
		return 0;
	philox(r.o.seed, r.o.index, w);
	return draw(r, total, (double)((((uint64_t)w[0] << 32) | w[1]) >> 11) * 0x1p-53);
}

FHK_KERNEL(fhk_cu_sample, 1024)(const struct fhk_cu_sample_args a)
{
	FHK_SHARED(shared);
	const struct fhk_cu_adj *adj;
	struct row r;
	uint32_t token;
	double norm = 0;
	float *x;

	if (blockIdx.x >= fhk_ptr<const struct fhk_cu_plan>(a.plan)->nr_outs)
		return;
	r.o = fhk_ptr<const struct fhk_cu_out>(a.outs)[blockIdx.x];
	if (!(r.o.flags & FHK_CU_OUT_SAMPLE))
		return;
	adj = fhk_ptr<const struct fhk_cu_adj>(a.adj) + r.o.adj_off;
	x = fhk_ptr<float>(a.logits) + (size_t)blockIdx.x * a.ld;
	r.x = x;
	r.n = a.nr_vocab;
	r.k = r.p = (struct cut){0, FHK_CU_NONE};
	r.least = 0;
	r.all = true;
	r.hist = (unsigned long long *)shared;
	r.span = (double *)(r.hist + BINS);

	adjust(r.o, adj, x, r.n);
	__syncthreads();
	r.best = find_best(r, &token);
	if ((r.o.flags & FHK_CU_OUT_LOGPROB) && r.best > -INFINITY)
		norm = (double)r.best + log(weigh(r, 1.0f));
	if (r.best > -INFINITY && r.o.temperature >= GREEDY_BELOW)
		token = choose(r);
	if (threadIdx.x)
		return;
	if (!(r.best > -INFINITY))
		token = lowest_allowed(r, adj);
	fhk_ptr<uint32_t>(a.sampled)[blockIdx.x] = token;
	if (!r.o.slot)
		return;
	if (r.o.flags & FHK_CU_OUT_LOGPROB) {
		float lp = (float)((double)logit(r, token) - norm);

		lp = lp > WORST_LOGPROB ? lp : WORST_LOGPROB;
		fhk_ptr<uint64_t>(r.o.slot)[1] = __float_as_uint(lp) | (uint64_t)FHK_CU_SLOT_LOGPROB << 32;
		fhk_st_release_sys(fhk_ptr<uint64_t>(r.o.slot), token | (uint64_t)(r.o.index + 1) << 32);
		return;
	}
	fhk_st_relaxed_sys(fhk_ptr<uint64_t>(r.o.slot), token | (uint64_t)(r.o.index + 1) << 32);
}

FHK_KERNEL(fhk_cu_prev, 128)(const struct fhk_cu_prev_args a)
{
	const struct fhk_cu_plan *plan = fhk_ptr<const struct fhk_cu_plan>(a.plan);
	const struct fhk_cu_token *tokens = fhk_ptr<const struct fhk_cu_token>(a.tokens);
	const uint32_t *sampled;
	uint32_t i = blockIdx.x * blockDim.x + threadIdx.x, k = 0, guess;
	struct fhk_cu_seq s;

	if (i >= plan->nr_seqs)
		return;
	s = fhk_ptr<const struct fhk_cu_seq>(a.seqs)[i];
	if (s.out == FHK_CU_NONE)
		return;
	sampled = fhk_ptr<const uint32_t>(a.sampled) + s.out;
	guess = s.q_start + s.q_len - s.nr_draft;
	while (k < s.nr_draft && sampled[k] == tokens[guess + k].id)
		k++;
	fhk_ptr<uint32_t>(a.prev)[s.slot] = sampled[k];
}
