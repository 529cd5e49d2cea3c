// SPDX-License-Identifier: Apache-2.0
/*
 * Attention over paged keys and values, AVX2: blocked, with an online softmax
 * (Milakov and Gimelshein, arXiv:1805.02867; Dao et al., arXiv:2205.14135).
 *
 * One head's block of 32 tokens:
 *   keys    [head_dim][32], so that eight tokens lie in a vector
 *   values  [32][head_dim]
 *   Q8_0    int8 in those shapes, then f32 scales, one for each token and 32
 *           dimensions: keys [dims / 32][32], values [32][dims / 32]
 *
 * A block is widened to f32 once for all query tokens and heads of the group,
 * then each query head takes it as one tile of 32 positions.  A tile that is
 * wholly masked is skipped, one partly masked adds exact zeros: so a query's
 * bits depend on its own position alone.  Positions past the end of a sequence
 * hold whatever was there before; they are masked before use and their values
 * are never read.
 */
#include <math.h>

#include "kernels/avx2/avx2.h"
#include "kernels/half.h"

#define TOKENS FHK_KV_BLOCK

static uint32_t nr_scales(uint32_t head_dim)
{
	return (head_dim + 31) / 32;
}

size_t fhk_avx2_kv_head_bytes(uint32_t kv_type, uint32_t head_dim)
{
	size_t bytes = (size_t)TOKENS * head_dim * (kv_type == FHK_F32 ? 4 : kv_type == FHK_Q8_0 ? 1 : 2);

	if (kv_type == FHK_Q8_0)
		bytes += (size_t)TOKENS * nr_scales(head_dim) * sizeof(float);
	return (bytes + FHK_ALIGN - 1) / FHK_ALIGN * FHK_ALIGN;
}

/* @x as int8 with @step bytes between elements, and its scales with @scale_step floats between. */
static void put_q8(const float *x, uint32_t head_dim, int8_t *q, size_t step, float *scales, size_t scale_step)
{
	for (uint32_t c = 0; c < head_dim; c += 32) {
		uint32_t n = head_dim - c < 32 ? head_dim - c : 32;
		float max = 0, inverse;

		for (uint32_t i = 0; i < n; i++)
			max = fabsf(x[c + i]) > max ? fabsf(x[c + i]) : max;
		scales[c / 32 * scale_step] = max / 127.0f;
		inverse = max > 0 ? 127.0f / max : 0;
		for (uint32_t i = 0; i < n; i++)
			q[(c + i) * step] = (int8_t)_mm_cvtss_si32(_mm_set_ss(x[c + i] * inverse));
	}
}

void fhk_avx2_kv_append(uint32_t kv_type, uint32_t head_dim, uint32_t slot, void *k_head, void *v_head, const float *k,
			const float *v)
{
	uint32_t ns = nr_scales(head_dim);

	switch (kv_type) {
	case FHK_F32:
		for (uint32_t c = 0; c < head_dim; c++)
			((float *)k_head)[c * TOKENS + slot] = k[c];
		memcpy((float *)v_head + slot * head_dim, v, head_dim * sizeof(*v));
		break;
	case FHK_F16:
		for (uint32_t c = 0; c < head_dim; c++)
			((uint16_t *)k_head)[c * TOKENS + slot] = (uint16_t)_cvtss_sh(k[c], 0);
		for (uint32_t c = 0; c < head_dim; c += 8)
			_mm_storeu_si128((__m128i *)((uint16_t *)v_head + slot * head_dim + c),
					 _mm256_cvtps_ph(_mm256_loadu_ps(v + c), 0));
		break;
	case FHK_BF16:
		for (uint32_t c = 0; c < head_dim; c++)
			((uint16_t *)k_head)[c * TOKENS + slot] = fhk_f32_bf16(k[c]);
		fhk_quant_bf16(v, (uint16_t *)v_head + slot * head_dim, head_dim);
		break;
	default:
		put_q8(k, head_dim, (int8_t *)k_head + slot, TOKENS,
		       (float *)((int8_t *)k_head + TOKENS * head_dim) + slot, TOKENS);
		put_q8(v, head_dim, (int8_t *)v_head + slot * head_dim, 1,
		       (float *)((int8_t *)v_head + TOKENS * head_dim) + slot * ns, 1);
	}
}

/* Scratch: keys and values of one block in f32, then a running result for each query head. */
size_t fhk_avx2_attn_scratch_bytes(uint32_t max_q, uint32_t nr_group, uint32_t head_dim)
{
	size_t floats = (size_t)2 * TOKENS * head_dim + (size_t)max_q * nr_group * (head_dim + 2);

	return (floats * sizeof(float) + FHK_ALIGN - 1) / FHK_ALIGN * FHK_ALIGN;
}

static __m256 widen8(uint32_t kv_type, const void *p, size_t at)
{
	if (kv_type == FHK_F16)
		return _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)((const uint16_t *)p + at)));
	if (kv_type == FHK_BF16)
		return _mm256_castsi256_ps(_mm256_slli_epi32(
			_mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i *)((const uint16_t *)p + at))), 16));
	return _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64((const __m128i *)((const int8_t *)p + at))));
}

/* Keys of a block as f32 [head_dim][32]; F32 blocks are used where they lie. */
static const float *widen_keys(const struct fhk_attn *a, const void *block, float *out)
{
	const float *scales = (const float *)((const int8_t *)block + TOKENS * a->head_dim);

	if (a->kv_type == FHK_F32)
		return block;
	for (uint32_t c = 0; c < a->head_dim; c++) {
		for (uint32_t t = 0; t < TOKENS; t += 8) {
			__m256 v = widen8(a->kv_type, block, (size_t)c * TOKENS + t);

			if (a->kv_type == FHK_Q8_0)
				v = _mm256_mul_ps(v, _mm256_loadu_ps(scales + c / 32 * TOKENS + t));
			_mm256_storeu_ps(out + c * TOKENS + t, v);
		}
	}
	return out;
}

/* Values of tokens lo..hi of a block as f32 [32][head_dim]. */
static const float *widen_values(const struct fhk_attn *a, const void *block, uint32_t lo, uint32_t hi, float *out)
{
	const float *scales = (const float *)((const int8_t *)block + TOKENS * a->head_dim);
	uint32_t ns = nr_scales(a->head_dim);

	if (a->kv_type == FHK_F32)
		return block;
	for (uint32_t t = lo; t < hi; t++) {
		for (uint32_t c = 0; c < a->head_dim; c += 8) {
			__m256 v = widen8(a->kv_type, block, (size_t)t * a->head_dim + c);

			if (a->kv_type == FHK_Q8_0)
				v = _mm256_mul_ps(v, _mm256_set1_ps(scales[t * ns + c / 32]));
			_mm256_storeu_ps(out + t * a->head_dim + c, v);
		}
	}
	return out;
}

/* Scores of 32 positions, those outside lo..hi at minus infinity; returns their maximum. */
static float tile_scores(const struct fhk_attn *a, const float *q, const float *k, uint32_t lo, uint32_t hi, float *s)
{
	const __m256i eight = _mm256_set1_epi32(8), first = _mm256_set1_epi32((int)lo - 1);
	const __m256i end = _mm256_set1_epi32((int)hi);
	__m256i now = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
	__m256 v[4], max = _mm256_set1_ps(-INFINITY);

	for (int i = 0; i < 4; i++)
		v[i] = _mm256_setzero_ps();
	for (uint32_t c = 0; c < a->head_dim; c++) {
		__m256 b = _mm256_broadcast_ss(q + c);

		for (int i = 0; i < 4; i++)
			v[i] = _mm256_fmadd_ps(b, _mm256_loadu_ps(k + c * TOKENS + 8 * i), v[i]);
	}
	for (int i = 0; i < 4; i++) {
		__m256i in = _mm256_and_si256(_mm256_cmpgt_epi32(now, first), _mm256_cmpgt_epi32(end, now));

		v[i] = _mm256_mul_ps(v[i], _mm256_set1_ps(a->scale));
		if (a->softcap > 0)
			v[i] = _mm256_mul_ps(fhk_tanh(_mm256_div_ps(v[i], _mm256_set1_ps(a->softcap))),
					     _mm256_set1_ps(a->softcap));
		v[i] = _mm256_blendv_ps(_mm256_set1_ps(-INFINITY), v[i], _mm256_castsi256_ps(in));
		max = _mm256_max_ps(max, v[i]);
		_mm256_storeu_ps(s + 8 * i, v[i]);
		now = _mm256_add_epi32(now, eight);
	}
	return fhk_hmax(max);
}

/* Fold positions lo..hi of a tile into @run: [head_dim] sum, maximum, sum of exponentials. */
static void tile(const struct fhk_attn *a, const float *q, const float *k, const float *v, uint32_t lo, uint32_t hi,
		 float *run)
{
	float s[TOKENS], max = tile_scores(a, q, k, lo, hi, s), old = run[a->head_dim], keep;
	__m256 sum = _mm256_setzero_ps();
	uint32_t c = 0;

	max = old > max ? old : max;
	keep = old == max ? 1.0f : fhk_exp1(old - max);
	for (uint32_t t = 0; t < TOKENS; t += 8) {
		__m256 e = fhk_exp(_mm256_sub_ps(_mm256_loadu_ps(s + t), _mm256_set1_ps(max)));

		_mm256_storeu_ps(s + t, e);
		sum = _mm256_add_ps(sum, e);
	}
	run[a->head_dim] = max;
	run[a->head_dim + 1] = run[a->head_dim + 1] * keep + fhk_hsum(sum);
	for (; c + 32 <= a->head_dim; c += 32) {
		__m256 acc[4];

		for (int i = 0; i < 4; i++)
			acc[i] = _mm256_mul_ps(_mm256_loadu_ps(run + c + 8 * i), _mm256_set1_ps(keep));
		for (uint32_t t = lo; t < hi; t++)
			for (int i = 0; i < 4; i++)
				acc[i] = _mm256_fmadd_ps(_mm256_broadcast_ss(s + t),
							 _mm256_loadu_ps(v + t * a->head_dim + c + 8 * i), acc[i]);
		for (int i = 0; i < 4; i++)
			_mm256_storeu_ps(run + c + 8 * i, acc[i]);
	}
	for (; c < a->head_dim; c += 8) {
		__m256 acc = _mm256_mul_ps(_mm256_loadu_ps(run + c), _mm256_set1_ps(keep));

		for (uint32_t t = lo; t < hi; t++)
			acc = _mm256_fmadd_ps(_mm256_broadcast_ss(s + t), _mm256_loadu_ps(v + t * a->head_dim + c),
					      acc);
		_mm256_storeu_ps(run + c, acc);
	}
}

static void start(const struct fhk_attn *a, float *run)
{
	size_t step = a->head_dim + 2;

	memset(run, 0, a->nr_q * a->nr_group * step * sizeof(*run));
	for (uint32_t i = 0; i < a->nr_q * a->nr_group; i++) {
		bool sink = a->sinks && a->split == 0;

		run[i * step + a->head_dim] = sink ? a->sinks[i % a->nr_group] : -INFINITY;
		run[i * step + a->head_dim + 1] = sink ? 1.0f : 0;
	}
}

/* All query tokens against one block, which holds positions @base .. @base + 31. */
static void block(const struct fhk_attn *a, uint32_t base, float *scratch, float *run)
{
	uint32_t last = a->pos0 + a->nr_q - 1, seen = last - base + 1 < TOKENS ? last - base + 1 : TOKENS;
	uint32_t first = a->window && a->pos0 + 1 > a->window ? a->pos0 + 1 - a->window : 0;
	const float *k, *v;

	if (first >= base + TOKENS)
		return; /* the window of even the first query begins later */
	k = widen_keys(a, a->k[base / TOKENS], scratch);
	v = widen_values(a, a->v[base / TOKENS], first > base ? first - base : 0, seen, scratch + TOKENS * a->head_dim);
	for (uint32_t t = 0; t < a->nr_q; t++) {
		uint32_t pos = a->pos0 + t, lo = 0, hi;

		if (pos < base)
			continue;
		hi = pos - base + 1 < TOKENS ? pos - base + 1 : TOKENS;
		if (a->window && pos + 1 > a->window && pos + 1 - a->window > base)
			lo = pos + 1 - a->window - base;
		if (lo >= hi)
			continue;
		for (uint32_t g = 0; g < a->nr_group; g++)
			tile(a, a->q + t * a->q_ld + (size_t)g * a->head_dim, k, v, lo, hi,
			     run + ((size_t)t * a->nr_group + g) * (a->head_dim + 2));
	}
}

void fhk_avx2_attn(const struct fhk_attn *a)
{
	float *scratch = a->scratch;
	float *run = a->nr_splits > 1 ? a->partial : scratch + (size_t)2 * TOKENS * a->head_dim;
	uint32_t last = a->pos0 + a->nr_q - 1, begin = a->split * FHK_ATTN_SPLIT, end = begin + FHK_ATTN_SPLIT;

	start(a, run);
	end = end < last + 1 ? end : last + 1;
	for (uint32_t base = begin; base < end; base += TOKENS)
		block(a, base, scratch, run);
	if (a->nr_splits == 1)
		fhk_avx2_attn_combine(run, 1, a->nr_q, a->nr_group, a->head_dim, a->out, a->out_ld);
}

/* @part: the first split's partial of one query head; @stride: floats to the next split's */
static void combine_one(const float *part, uint32_t nr_splits, size_t stride, uint32_t head_dim, float *out)
{
	float max = -INFINITY, sum = 0;
	__m256 inverse;

	for (uint32_t s = 0; s < nr_splits; s++)
		max = part[s * stride + head_dim] > max ? part[s * stride + head_dim] : max;
	memset(out, 0, head_dim * sizeof(*out));
	for (uint32_t s = 0; s < nr_splits; s++) {
		const float *p = part + s * stride;
		float e = p[head_dim] == max ? 1.0f : fhk_exp1(p[head_dim] - max);

		if (p[head_dim] == -INFINITY) /* nothing of this split is visible */
			continue;
		sum += e * p[head_dim + 1];
		for (uint32_t c = 0; c < head_dim; c += 8)
			_mm256_storeu_ps(out + c, _mm256_fmadd_ps(_mm256_set1_ps(e), _mm256_loadu_ps(p + c),
								  _mm256_loadu_ps(out + c)));
	}
	inverse = _mm256_set1_ps(1.0f / sum);
	for (uint32_t c = 0; c < head_dim; c += 8)
		_mm256_storeu_ps(out + c, _mm256_mul_ps(_mm256_loadu_ps(out + c), inverse));
}

void fhk_avx2_attn_combine(const float *partial, uint32_t nr_splits, uint32_t nr_q, uint32_t nr_group,
			   uint32_t head_dim, float *out, size_t out_ld)
{
	size_t stride = (size_t)nr_q * nr_group * (head_dim + 2);

	for (uint32_t t = 0; t < nr_q; t++)
		for (uint32_t g = 0; g < nr_group; g++)
			combine_one(partial + ((size_t)t * nr_group + g) * (head_dim + 2), nr_splits, stride, head_dim,
				    out + t * out_ld + (size_t)g * head_dim);
}
