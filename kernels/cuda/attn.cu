// SPDX-License-Identifier: Apache-2.0
/*
 * Attention over paged keys and values.
 *
 * A block takes one KV head and up to 16 of the query heads that read it
 * (queries x group) through one split of 256 tokens, a warp to a KV block of
 * 32.  S = K Q^T and O = V^T P run on mma.sync with the tokens, or the values'
 * columns, as the 16 rows and the query heads as the 8 columns of N.  Keys and
 * values go from memory to fragments without a stop: sums over columns do not
 * care for the order of the columns, so a lane takes 16 contiguous bytes, and a
 * value's columns are spread over lanes likewise.
 *
 * A query head's numbers are its own: scores of a split, their maximum, then
 * exponentials, then sums, in an order that positions decide.  Splits join in
 * their order by merge(), here or in fhk_cu_combine, with the same bits.
 */
#include "kernels/cuda/dev.cuh"

#define SPLIT FHK_CU_SPLIT
#define S_LD (SPLIT + 4) /* floats from a head's scores to the next */
#define P_LD (SPLIT + 8) /* halves */
#define RED_LD 68	 /* floats from a head's 64 sums to the next */

/* ---- rotation, and into the cache ---- */

FHK_DEV uint8_t *kv_head(const struct fhk_cu_kv &kv, uint32_t block, uint32_t head, bool value)
{
	return fhk_ptr<uint8_t>(kv.base) + block * kv.block_bytes +
	       (size_t)(value ? kv.nr_kv_heads + head : head) * kv.head_bytes;
}

/* Token @slot of a block's head: a warp writes v: [head_dim] f32. */
FHK_DEV void put_row(const struct fhk_cu_kv &kv, uint8_t *head, uint32_t slot, const float *v)
{
	uint32_t hd = kv.head_dim, nr_scales = fhk_cu_div_up(hd, 32);

	for (uint32_t c0 = 0; c0 < hd; c0 += 32) {
		uint32_t c = c0 + fhk_lane();
		float x = c < hd ? v[c] : 0;

		if (kv.type == FHK_Q8_0) {
			uint16_t half = fhk_f2h(fhk_warp_max(fabsf(x)) / 127.0f);
			float scale = fhk_h2f(half), inverse = scale > 0 ? 1.0f / scale : 0;
			int q = __float2int_rn(fminf(fmaxf(x * inverse, -127.0f), 127.0f));

			if (c < hd)
				((int8_t *)head)[slot * hd + c] = (int8_t)q;
			if (fhk_lane() == 0)
				((uint16_t *)(head + 32 * hd))[slot * nr_scales + c0 / 32] = half;
		} else if (c < hd) {
			((uint16_t *)head)[slot * hd + c] = kv.type == FHK_BF16 ? fhk_f2bf(x) : fhk_f2h(x);
		}
	}
}

/* Root mean square norm of a head by a warp, in place */
FHK_DEV void norm_head(float *v, const float *w, uint32_t hd, float eps)
{
	float sum = 0, scale;

	for (uint32_t c = fhk_lane(); c < hd; c += 32)
		sum = fmaf(v[c], v[c], sum);
	scale = 1.0f / sqrtf(fhk_warp_sum(sum) / (float)hd + eps);
	for (uint32_t c = fhk_lane(); c < hd; c += 32)
		v[c] = v[c] * scale * w[c];
	__syncwarp();
}

FHK_DEV void rotate(float *v, const float2 *cs, uint32_t nr_pairs, bool interleaved)
{
	for (uint32_t i = fhk_lane(); i < nr_pairs; i += 32) {
		float *p = v + (interleaved ? 2 * i : i), *q = interleaved ? p + 1 : p + nr_pairs, a = *p, b = *q;

		*p = a * cs[i].x - b * cs[i].y;
		*q = a * cs[i].y + b * cs[i].x;
	}
	__syncwarp();
}

FHK_KERNEL(fhk_cu_rope_kv, 128)(const struct fhk_cu_rope_kv_args a)
{
	uint32_t t = blockIdx.x, h = blockIdx.y * 4 + fhk_warp(), hd = a.kv.head_dim, block;
	uint32_t nq = a.kv.nr_heads, nkv = a.kv.nr_kv_heads;
	float *x = fhk_ptr<float>(a.qkv) + (size_t)t * a.ld + (size_t)h * hd;
	FHK_SHARED(shared);
	float *v = (float *)shared + fhk_warp() * FHK_CU_MAX_HEAD;
	const float *norm = fhk_ptr<const float>(h < nq ? a.q_norm : a.k_norm);
	struct fhk_cu_token token;
	uint8_t *to;

	if (t >= fhk_ptr<const struct fhk_cu_plan>(a.plan)->nr_tokens || h >= nq + 2 * nkv)
		return;
	for (uint32_t c = fhk_lane(); c < hd; c += 32)
		v[c] = x[c];
	__syncwarp();
	token = fhk_ptr<const struct fhk_cu_token>(a.tokens)[t];
	if (h < nq + nkv) {
		if (norm)
			norm_head(v, norm, hd, a.eps);
		rotate(v, fhk_ptr<const float2>(a.cs) + (size_t)t * a.nr_pairs, a.nr_pairs, a.interleaved);
	}
	if (h < nq) {
		for (uint32_t c = fhk_lane(); c < hd; c += 32)
			x[c] = v[c];
		return;
	}
	h -= nq;
	block = fhk_ptr<const uint32_t>(
		a.blocks)[fhk_ptr<const struct fhk_cu_seq>(a.seqs)[token.seq].block_off + token.pos / 32];
	to = kv_head(a.kv, block, h < nkv ? h : h - nkv, h >= nkv);
	put_row(a.kv, to, token.pos % 32, v);
}

/* ---- one split ---- */

/* A query head's running result */
struct state {
	float max, sum, keep, take; /* keep, take: factors of what was there and of what comes */
};

/* What joins a split: maximum @max and sum @sum. */
FHK_DEV struct state merge(struct state s, float max, float sum)
{
	float m = fmaxf(s.max, max);

	s.keep = s.max == -INFINITY ? 0 : expf(s.max - m);
	s.take = max == -INFINITY ? 0 : expf(max - m);
	s.sum = fmaf(sum, s.take, __fmul_rn(s.sum, s.keep));
	s.max = m;
	return s;
}

FHK_DEV float merge_value(const struct state &s, float have, float comes)
{
	return fmaf(comes, s.take, __fmul_rn(have, s.keep));
}

/* A sink is one more logit without a value, there before the first split. */
FHK_DEV struct state begin(const float *sinks, uint32_t head)
{
	return (struct state){sinks ? sinks[head] : -INFINITY, sinks ? 1.0f : 0.0f, 0, 0};
}

/* Splits first .. end - 1 are those of which a query at @pos may see something. */
FHK_DEV uint32_t first_split(uint32_t pos, uint32_t window)
{
	return window && pos + 1 > window ? (pos + 1 - window) / SPLIT : 0;
}

FHK_DEV bool is_visible(uint32_t p, uint32_t pos, uint32_t window)
{
	return p <= pos && (!window || p + window > pos);
}

FHK_DEV uint32_t pack(bool bf, float a, float b)
{
	uint32_t lo = bf ? fhk_f2bf(a) : fhk_f2h(a), hi = bf ? fhk_f2bf(b) : fhk_f2h(b);

	return lo | hi << 16;
}

/* Eight columns from @c on of token @slot, 16 bits each; zeros past the head. */
template <uint32_t KV> FHK_DEV uint4 load8(const struct fhk_cu_kv &kv, const uint8_t *head, uint32_t slot, uint32_t c)
{
	uint32_t hd = kv.head_dim;
	float d;
	uint2 q;

	if (c >= hd)
		return make_uint4(0, 0, 0, 0);
	if (KV != FHK_Q8_0)
		return *(const uint4 *)(head + (size_t)(slot * hd + c) * 2);
	q = *(const uint2 *)(head + slot * hd + c);
	d = fhk_h2f(((const uint16_t *)(head + 32 * hd))[slot * fhk_cu_div_up(hd, 32) + c / 32]);
	return make_uint4(pack(false, d * (float)(int8_t)q.x, d * (float)(int8_t)(q.x >> 8)),
			  pack(false, d * (float)(int8_t)(q.x >> 16), d * (float)(int8_t)(q.x >> 24)),
			  pack(false, d * (float)(int8_t)q.y, d * (float)(int8_t)(q.y >> 8)),
			  pack(false, d * (float)(int8_t)(q.y >> 16), d * (float)(int8_t)(q.y >> 24)));
}

template <uint32_t KV> FHK_DEV void mma(float c[4], const uint32_t a[4], uint32_t b0, uint32_t b1)
{
	if (KV == FHK_BF16)
		fhk_mma_bf16(c, a, b0, b1);
	else
		fhk_mma_f16(c, a, b0, b1);
}

/* Some query heads that share a KV head: head i is query i / group, head i % group of the group. */
struct work {
	struct fhk_cu_item item;
	const uint32_t *blocks;
	uint32_t kv_head, group;
	uint32_t first, nr; /* query heads first .. first + nr - 1 */
	uint32_t pos;	    /* of the item's first token */
	uint32_t end;	    /* positions below it may be looked at */
};

struct buffers {
	float *s;	     /* [pairs][S_LD]; later sums of the warps, [8][pairs][RED_LD] */
	uint16_t *p;	     /* [pairs][P_LD] */
	uint4 *q;	     /* [dims / 32][pairs / 8][32]: fragments */
	float *o;	     /* [pairs][dims] */
	struct state *state; /* [pairs] */
	float2 *split;	     /* [pairs] maximum and sum of the split at hand */
	uint32_t dims;
};

template <int NP> FHK_DEV void lay_out(struct buffers *b, uint8_t *shared, uint32_t hd)
{
	constexpr uint32_t pairs = NP * 8;

	b->dims = fhk_cu_div_up(hd, 64) * 64;
	b->s = (float *)shared;
	b->q = (uint4 *)(b->s + FHK_CU_SLICES * pairs * RED_LD);
	b->o = (float *)(b->q + b->dims / 32 * NP * 32);
	b->state = (struct state *)(b->o + pairs * b->dims);
	b->split = (float2 *)(b->state + pairs);
	b->p = (uint16_t *)(b->split + pairs);
}

/* Row of q, and of out, of query head @i; a head that is not there is the first. */
FHK_DEV size_t q_at(const struct fhk_cu_attn_args &a, const struct work &w, uint32_t i, uint32_t ld)
{
	i = w.first + (i < w.nr ? i : 0);
	return (size_t)(w.item.token + i / w.group) * ld + (size_t)(w.kv_head * w.group + i % w.group) * a.kv.head_dim;
}

template <uint32_t KV, int NP>
FHK_DEV void load_q(const struct fhk_cu_attn_args &a, const struct work &w, const struct buffers &b)
{
	constexpr bool bf = KV == FHK_BF16;

	for (uint32_t i = threadIdx.x; i < b.dims / 32 * NP * 32; i += blockDim.x) {
		uint32_t lane = i % 32, pair = i / 32 % NP * 8 + lane / 4, c = i / 32 / NP * 32 + lane % 4 * 8;
		const float *q = fhk_ptr<const float>(a.q) + q_at(a, w, pair, a.ldq) + c;

		b.q[i] = make_uint4(0, 0, 0, 0);
		if (c < a.kv.head_dim)
			b.q[i] = make_uint4(pack(bf, q[0], q[1]), pack(bf, q[2], q[3]), pack(bf, q[4], q[5]),
					    pack(bf, q[6], q[7]));
	}
}

/* The values of this warp's tokens will be wanted when the scores are there: on their way as far as L2 meanwhile. */
FHK_DEV void expect_values(const struct fhk_cu_attn_args &a, const struct work &w, uint32_t p0)
{
	const uint8_t *head = kv_head(a.kv, w.blocks[p0 / 32], w.kv_head, true);

	for (uint32_t i = fhk_lane() * 128; i < a.kv.head_bytes; i += 32 * 128)
		fhk_prefetch(head + i);
}

/* Scores of this warp's 32 tokens of split @split, with all heads; what nobody may see is -inf. */
template <uint32_t KV, int NP>
FHK_DEV void scores(const struct fhk_cu_attn_args &a, const struct work &w, const struct buffers &b, uint32_t split)
{
	uint32_t lane = fhk_lane(), p0 = split * SPLIT + fhk_warp() * 32, nr = p0 < w.end ? b.dims / 32 : 0;
	const uint8_t *head = nr ? kv_head(a.kv, w.blocks[p0 / 32], w.kv_head, false) : 0;
	float acc[2][NP][4] = {}; /* of 16 tokens each */

	if (nr)
		expect_values(a, w, p0);
#pragma unroll 2
	for (uint32_t j = 0; j < nr; j++) {
		uint4 k[4]; /* of tokens lane / 4, and 8, 16, 24 further */

#pragma unroll
		for (int i = 0; i < 4; i++)
			k[i] = load8<KV>(a.kv, head, i * 8 + lane / 4, j * 32 + lane % 4 * 8);
#pragma unroll
		for (int n = 0; n < NP; n++) {
			uint4 q = b.q[(j * NP + n) * 32 + lane];

#pragma unroll
			for (int m = 0; m < 2; m++) {
				const uint4 lo = k[2 * m], hi = k[2 * m + 1];
				const uint32_t a0[4] = {lo.x, hi.x, lo.y, hi.y}, a1[4] = {lo.z, hi.z, lo.w, hi.w};

				mma<KV>(acc[m][n], a0, q.x, q.y);
				mma<KV>(acc[m][n], a1, q.z, q.w);
			}
		}
	}
#pragma unroll
	for (int i = 0; i < 2 * NP * 4; i++) {
		uint32_t pair = i / 4 % NP * 8 + lane % 4 * 2 + i % 2;
		uint32_t at = fhk_warp() * 32 + i / 4 / NP * 16 + i % 4 / 2 * 8 + lane / 4, p = split * SPLIT + at;
		float s = __fmul_rn(acc[i / 4 / NP][i / 4 % NP][i % 4], a.scale);

		if (a.softcap > 0)
			s = __fmul_rn(a.softcap, tanhf(__fdiv_rn(s, a.softcap)));
		if (!nr || !is_visible(p, w.pos + (w.first + pair) / w.group, a.window))
			s = -INFINITY;
		b.s[pair * S_LD + at] = s;
	}
}

/* A warp a head: exponentials of the scores, as 16 bits, their maximum and sum. */
template <uint32_t KV, int NP> FHK_DEV void weights(const struct buffers &b)
{
#pragma unroll
	for (uint32_t pair = fhk_warp(); pair < NP * 8; pair += 8) {
		const float *s = b.s + pair * S_LD;
		float v[SPLIT / 32], max = -INFINITY, sum = 0;

#pragma unroll
		for (int i = 0; i < (int)SPLIT / 32; i++) {
			v[i] = s[i * 32 + fhk_lane()];
			max = fmaxf(max, v[i]);
		}
		max = fhk_warp_max(max);
#pragma unroll
		for (int i = 0; i < (int)SPLIT / 32; i++) {
			float e = v[i] == -INFINITY ? 0 : expf(v[i] - max);

			sum = __fadd_rn(sum, e);
			b.p[pair * P_LD + i * 32 + fhk_lane()] = KV == FHK_BF16 ? fhk_f2bf(e) : fhk_f2h(e);
		}
		sum = fhk_warp_sum(sum);
		if (fhk_lane() == 0)
			b.split[pair] = make_float2(max, sum);
	}
}

/* Columns set * 64 .. + 63 of this warp's tokens' values, times their weights, to its share of b.s. */
template <uint32_t KV, int NP>
FHK_DEV void values(const struct fhk_cu_attn_args &a, const struct work &w, const struct buffers &b, uint32_t split,
		    uint32_t set)
{
	uint32_t lane = fhk_lane(), g = lane / 4, i2 = lane % 4 * 2, p0 = split * SPLIT + fhk_warp() * 32;
	float acc[4][NP][4] = {}, *red = b.s + (size_t)fhk_warp() * NP * 8 * RED_LD;
	bool in = p0 < w.end;
	const uint8_t *head = in ? kv_head(a.kv, w.blocks[p0 / 32], w.kv_head, true) : 0;

	for (uint32_t k = 0; in && k < 2; k++) {
		uint4 v[4]; /* of tokens i2, i2 + 1, i2 + 8, i2 + 9 */

#pragma unroll
		for (int i = 0; i < 4; i++) {
			uint32_t slot = k * 16 + i / 2 * 8 + i2 + i % 2;

			/* What was never written may be no number, which a weight of zero does not mend. */
			v[i] = p0 + slot < w.end ? load8<KV>(a.kv, head, slot, set * 64 + g * 8)
						 : make_uint4(0, 0, 0, 0);
		}
#pragma unroll
		for (int m = 0; m < 4; m++) {
			uint32_t r[4], f[4];

#pragma unroll
			for (int i = 0; i < 4; i++)
				r[i] = m == 0 ? v[i].x : m == 1 ? v[i].y : m == 2 ? v[i].z : v[i].w;
			f[0] = __byte_perm(r[0], r[1], 0x5410);
			f[1] = __byte_perm(r[0], r[1], 0x7632);
			f[2] = __byte_perm(r[2], r[3], 0x5410);
			f[3] = __byte_perm(r[2], r[3], 0x7632);
#pragma unroll
			for (int n = 0; n < NP; n++) {
				const uint16_t *p = b.p + (n * 8 + g) * P_LD + fhk_warp() * 32 + k * 16 + i2;

				mma<KV>(acc[m][n], f, *(const uint32_t *)p, *(const uint32_t *)(p + 8));
			}
		}
	}
#pragma unroll
	for (int m = 0; m < 4; m++) {
#pragma unroll
		for (int n = 0; n < NP; n++) {
			float *r = red + (n * 8 + i2) * RED_LD + g * 8 + 2 * m;

			*(float2 *)r = make_float2(acc[m][n][0], acc[m][n][2]);
			*(float2 *)(r + RED_LD) = make_float2(acc[m][n][1], acc[m][n][3]);
		}
	}
}

/* Where the partials of split @split of query head @i lie; 0: that query sees nothing of it. */
FHK_DEV float *partial_at(const struct fhk_cu_attn_args &a, const struct work &w, uint32_t i, uint32_t split)
{
	uint32_t query = (w.first + i) / w.group, head = w.kv_head * w.group + (w.first + i) % w.group;
	size_t part = fhk_ptr<const struct fhk_cu_token>(a.tokens)[w.item.token + query].part;

	if (split * SPLIT > w.pos + query)
		return 0;
	return fhk_ptr<float>(a.partial) +
	       ((part + split) * a.kv.nr_heads + head) * fhk_cu_partial_floats(a.kv.head_dim);
}

/* The warps' sums in order: into what the heads have so far, or out as partials. */
template <int NP>
FHK_DEV void take_values(const struct fhk_cu_attn_args &a, const struct work &w, const struct buffers &b, uint32_t set,
			 uint32_t split)
{
	constexpr uint32_t pairs = NP * 8;

	for (uint32_t i = threadIdx.x; i < pairs * 64; i += blockDim.x) {
		uint32_t pair = i / 64, c = set * 64 + i % 64;
		const float *r = b.s + pair * RED_LD + i % 64;
		float sum = r[0], *o = b.o + pair * b.dims + c;

		for (uint32_t k = 1; k < FHK_CU_SLICES; k++)
			sum = __fadd_rn(sum, r[(size_t)k * pairs * RED_LD]);
		if (w.item.split == FHK_CU_NONE) {
			*o = merge_value(b.state[pair], *o, sum);
		} else if (pair < w.nr && c < a.kv.head_dim) {
			float *to = partial_at(a, w, pair, split);

			if (to)
				to[c] = sum;
		}
	}
}

/* A split's maximum and sum: into the heads' states, or out. */
template <int NP>
FHK_DEV void take_split(const struct fhk_cu_attn_args &a, const struct work &w, const struct buffers &b, uint32_t split)
{
	uint32_t pair = threadIdx.x;
	float *to;

	if (pair >= NP * 8)
		return;
	if (w.item.split == FHK_CU_NONE) {
		b.state[pair] = merge(b.state[pair], b.split[pair].x, b.split[pair].y);
		return;
	}
	to = pair < w.nr ? partial_at(a, w, pair, split) : 0;
	if (to) {
		to[a.kv.head_dim] = b.split[pair].x;
		to[a.kv.head_dim + 1] = b.split[pair].y;
	}
}

template <int NP>
FHK_DEV void begin_heads(const struct fhk_cu_attn_args &a, const struct work &w, const struct buffers &b)
{
	for (uint32_t i = threadIdx.x; i < NP * 8 * b.dims; i += blockDim.x)
		b.o[i] = 0;
	if (threadIdx.x < NP * 8)
		b.state[threadIdx.x] =
			begin(fhk_ptr<const float>(a.sinks), w.kv_head * w.group + (w.first + threadIdx.x) % w.group);
}

template <int NP>
FHK_DEV void end_heads(const struct fhk_cu_attn_args &a, const struct work &w, const struct buffers &b)
{
	for (uint32_t i = threadIdx.x; i < w.nr * a.kv.head_dim; i += blockDim.x) {
		uint32_t pair = i / a.kv.head_dim, c = i % a.kv.head_dim;

		fhk_ptr<float>(a.out)[q_at(a, w, pair, a.ld_out) + c] = b.o[pair * b.dims + c] / b.state[pair].sum;
	}
}

template <uint32_t KV, int NP>
FHK_DEV void attend(const struct fhk_cu_attn_args &a, const struct work &w, const struct buffers &b)
{
	uint32_t split = w.item.split, end = split + 1;

	if (split == FHK_CU_NONE) {
		split = first_split(w.pos, a.window);
		end = (w.end - 1) / SPLIT + 1;
	} else if (split < first_split(w.pos, a.window)) {
		return;
	}
	__syncthreads(); /* the last work's readers */
	load_q<KV, NP>(a, w, b);
	begin_heads<NP>(a, w, b);
	__syncthreads();
	for (; split < end; split++) {
		scores<KV, NP>(a, w, b, split);
		__syncthreads();
		weights<KV, NP>(b);
		__syncthreads();
		take_split<NP>(a, w, b, split);
		for (uint32_t set = 0; set < b.dims / 64; set++) {
			values<KV, NP>(a, w, b, split, set);
			__syncthreads();
			take_values<NP>(a, w, b, set, split);
			__syncthreads();
		}
	}
	if (w.item.split == FHK_CU_NONE)
		end_heads<NP>(a, w, b);
}

template <uint32_t KV, int NP> FHK_DEV void attn_kernel(const struct fhk_cu_attn_args &a)
{
	uint32_t nkv = a.kv.nr_kv_heads, nr = fhk_ptr<const struct fhk_cu_plan>(a.plan)->nr_items * nkv;
	FHK_SHARED(shared);
	struct buffers b;

	lay_out<NP>(&b, shared, a.kv.head_dim);
	for (uint32_t i = blockIdx.x; i < nr; i += gridDim.x) {
		struct work w;
		const struct fhk_cu_seq *seq;
		uint32_t heads;

		w.item = fhk_ptr<const struct fhk_cu_item>(a.items)[i / nkv];
		seq = fhk_ptr<const struct fhk_cu_seq>(a.seqs) + w.item.seq;
		w.blocks = fhk_ptr<const uint32_t>(a.blocks) + seq->block_off;
		w.kv_head = i % nkv;
		w.group = a.kv.nr_heads / nkv;
		w.pos = seq->pos + (w.item.token - seq->q_start);
		w.end = w.pos + w.item.nr_q;
		heads = w.item.nr_q * w.group;
		for (w.first = 0; w.first < heads; w.first += NP * 8) {
			w.nr = min(heads - w.first, NP * 8u);
			attend<KV, NP>(a, w, b);
		}
	}
}

#define ATTN_KERNEL(KV, name, pairs)                                                                                   \
	FHK_KERNEL_2(fhk_cu_attn_##name##_##pairs, 256)(const struct fhk_cu_attn_args a)                               \
	{                                                                                                              \
		attn_kernel<KV, pairs / 8>(a);                                                                         \
	}

ATTN_KERNEL(FHK_F16, f16, 8)
ATTN_KERNEL(FHK_F16, f16, 16)
ATTN_KERNEL(FHK_BF16, bf16, 8)
ATTN_KERNEL(FHK_BF16, bf16, 16)
ATTN_KERNEL(FHK_Q8_0, q8_0, 8)
ATTN_KERNEL(FHK_Q8_0, q8_0, 16)

/* ---- joining splits ---- */

/* Column @c of head @head of a token whose splits' partials begin in row @part. */
FHK_DEV float combined(const struct fhk_cu_combine_args &a, const struct fhk_cu_token &t, uint32_t head, uint32_t c)
{
	struct state s = begin(fhk_ptr<const float>(a.sinks), head);
	uint32_t floats = fhk_cu_partial_floats(a.head_dim);
	float v = 0;

	for (uint32_t i = first_split(t.pos, a.window); i <= t.pos / SPLIT; i++) {
		const float *p = fhk_ptr<const float>(a.partial) + ((size_t)(t.part + i) * a.nr_heads + head) * floats;

		s = merge(s, p[a.head_dim], p[a.head_dim + 1]);
		v = merge_value(s, v, p[c]);
	}
	return v / s.sum;
}

FHK_KERNEL(fhk_cu_combine, 512)(const struct fhk_cu_combine_args a)
{
	uint32_t cols = a.nr_heads * a.head_dim, ld = fhk_cu_kpad(cols);
	struct fhk_cu_token t;

	if (blockIdx.x >= fhk_ptr<const struct fhk_cu_plan>(a.plan)->nr_tokens)
		return;
	t = fhk_ptr<const struct fhk_cu_token>(a.tokens)[blockIdx.x];
	for (uint32_t c0 = fhk_warp() * 32; c0 < cols; c0 += blockDim.x) {
		uint32_t c = c0 + fhk_lane();
		float *out = fhk_ptr<float>(a.out) + (size_t)blockIdx.x * a.ld_out + c, v = 0;

		if (c < cols) {
			if (t.part == FHK_CU_NONE)
				v = *out;
			else
				*out = v = combined(a, t, c / a.head_dim, c % a.head_dim);
		}
		fhk_emit(a.act, blockIdx.x, ld, c0, v);
	}
}
