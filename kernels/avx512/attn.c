// SPDX-License-Identifier: Apache-2.0
/*
 * Attention over a paged cache, flash style: a block of 32 tokens at a time,
 * with a running maximum and sum of exponentials (Milakov and Gimelshein,
 * "Online normalizer calculation for softmax", 2018).
 *
 * One head of a block: keys lie transposed, so that 32 tokens fill two vectors
 * and a score needs no sum across lanes; values lie token by token.
 *   F32, F16  k [head_dim][32]                    v [32][head_dim]
 *   Q8_0      k u8 (+128) [dims / 4][32][4]       v i8 [32][dims]
 *             then f16 scale [dims / 32][32] each; dims is head_dim rounded up to 32
 *
 * Rows are pairs of a query token and a head of the group; a key or value that
 * was loaded serves up to eight of them.  A row's arithmetic does not depend on
 * the rows beside it: a block in which it sees nothing leaves it as it is, and
 * a token that it does not see weighs exactly zero.  Values in the cache are
 * finite, because kv_append holds them to F16's range.  Slots that no row sees
 * are never used.  The caller owns all memory; a->scratch holds the rows' state.
 */
#include <math.h>
#include <string.h>

#include "kernels/avx512/avx512.h"
#include "kernels/avx512/math.h"
#include "kernels/half.h"

#define ROWS 8 /* that share loads */
#define MAX_DIM 256
#define F16_MAX 65504.0f

/* A query in eight bits, 32 dimensions */
struct q8_query {
	int8_t q[32];
	float d;
	int32_t nsum128; /* -128 times the sum of q: keys are stored with 128 added */
};

/* The rows' state between blocks */
struct state {
	float *acc; /* [rows, ld] unnormalised sums */
	float *max, *sum;
	struct q8_query *q8; /* [rows, dims / 32], Q8_0 only */
	uint32_t ld, dims, nr_rows;
};

static uint32_t round_up(uint32_t n, uint32_t to)
{
	return (n + to - 1) / to * to;
}

size_t fhk_avx512_kv_head_bytes(uint32_t kv_type, uint32_t head_dim)
{
	size_t dims = round_up(head_dim, 32);

	switch (kv_type) {
	case FHK_F32: return 4 * (size_t)head_dim * FHK_KV_BLOCK;
	case FHK_F16: return 2 * (size_t)head_dim * FHK_KV_BLOCK;
	default: return (dims + dims / 32 * 2) * FHK_KV_BLOCK;
	}
}

/* 32 dimensions (of which @n exist) in eight bits; their scale as f16 comes back. */
static uint16_t quantise32(const float *x, uint32_t n, __m128i q[2])
{
	__m512 a = _mm512_maskz_loadu_ps(fhk_first16(n), x);
	__m512 b = _mm512_maskz_loadu_ps(n > 16 ? fhk_first16(n - 16) : 0, x + 16);
	float max = _mm512_reduce_max_ps(_mm512_max_ps(_mm512_abs_ps(a), _mm512_abs_ps(b)));
	uint16_t half = fhk_f32_f16(max / 127.0f < F16_MAX ? max / 127.0f : F16_MAX);
	float d = fhk_f16_f32(half);
	__m512 inverse = _mm512_set1_ps(d > 0 ? 1.0f / d : 0), limit = _mm512_set1_ps(127.0f);

	a = _mm512_min_ps(_mm512_mul_ps(a, inverse), limit);
	b = _mm512_min_ps(_mm512_mul_ps(b, inverse), limit);
	limit = _mm512_set1_ps(-127.0f);
	q[0] = _mm512_cvtsepi32_epi8(_mm512_cvtps_epi32(_mm512_max_ps(a, limit)));
	q[1] = _mm512_cvtsepi32_epi8(_mm512_cvtps_epi32(_mm512_max_ps(b, limit)));
	return half;
}

static void append_q8(uint32_t head_dim, uint32_t slot, uint8_t *k_head, uint8_t *v_head, const float *k,
		      const float *v)
{
	uint32_t dims = round_up(head_dim, 32);
	uint16_t *k_scales = (uint16_t *)(k_head + dims * FHK_KV_BLOCK);
	uint16_t *v_scales = (uint16_t *)(v_head + dims * FHK_KV_BLOCK);

	for (uint32_t c = 0; c < head_dim; c += 32) {
		__m128i q[2];
		uint32_t quads[8];

		k_scales[c / 32 * FHK_KV_BLOCK + slot] = quantise32(k + c, head_dim - c, q);
		memcpy(quads, q, sizeof(quads));
		for (uint32_t i = 0; i < 8; i++)
			fhk_st32(k_head + ((size_t)(c / 4 + i) * FHK_KV_BLOCK + slot) * 4, quads[i] ^ 0x80808080u);
		v_scales[c / 32 * FHK_KV_BLOCK + slot] = quantise32(v + c, head_dim - c, q);
		memcpy(v_head + (size_t)slot * dims + c, q, sizeof(q));
	}
}

/* Sixteen halves, held finite so that a weight of zero makes them zero */
static __m256i to_halves(__m512 x)
{
	x = _mm512_max_ps(_mm512_min_ps(x, _mm512_set1_ps(F16_MAX)), _mm512_set1_ps(-F16_MAX));
	return _mm512_cvtps_ph(x, _MM_FROUND_TO_NEAREST_INT);
}

static void append_f16(uint32_t head_dim, uint32_t slot, uint16_t *k_head, uint16_t *v_head, const float *k,
		       const float *v)
{
	for (uint32_t c = 0; c < head_dim; c += 16) {
		__mmask16 mask = fhk_first16(head_dim - c);
		uint16_t halves[16];

		_mm256_storeu_si256((__m256i *)halves, to_halves(_mm512_maskz_loadu_ps(mask, k + c)));
		for (uint32_t i = 0; i < 16 && c + i < head_dim; i++)
			k_head[(c + i) * FHK_KV_BLOCK + slot] = halves[i];
		_mm256_mask_storeu_epi16(v_head + (size_t)slot * head_dim + c, mask,
					 to_halves(_mm512_maskz_loadu_ps(mask, v + c)));
	}
}

void fhk_avx512_kv_append(uint32_t kv_type, uint32_t head_dim, uint32_t slot, void *k_head, void *v_head,
			  const float *k, const float *v)
{
	switch (kv_type) {
	case FHK_F32:
		for (uint32_t c = 0; c < head_dim; c++)
			((float *)k_head)[c * FHK_KV_BLOCK + slot] = k[c];
		memcpy((float *)v_head + (size_t)slot * head_dim, v, head_dim * sizeof(*v));
		break;
	case FHK_F16: append_f16(head_dim, slot, k_head, v_head, k, v); break;
	default: append_q8(head_dim, slot, k_head, v_head, k, v); break;
	}
}

size_t fhk_avx512_attn_scratch_bytes(uint32_t max_q, uint32_t nr_group, uint32_t head_dim)
{
	size_t rows = (size_t)max_q * nr_group, ld = round_up(head_dim, 32);

	return (rows * (ld + 2) * sizeof(float) + rows * (ld / 32) * sizeof(struct q8_query) + 3 * FHK_ALIGN) /
	       FHK_ALIGN * FHK_ALIGN;
}

static const float *query(const struct fhk_attn *a, uint32_t row)
{
	return a->q + row / a->nr_group * a->q_ld + (size_t)(row % a->nr_group) * a->head_dim;
}

static void quantise_query(const float *q, uint32_t head_dim, struct q8_query *out)
{
	for (uint32_t c = 0; c < head_dim; c += 32, out++) {
		__m512 a = _mm512_maskz_loadu_ps(fhk_first16(head_dim - c), q + c);
		__m512 b = _mm512_maskz_loadu_ps(head_dim - c > 16 ? fhk_first16(head_dim - c - 16) : 0, q + c + 16);
		float max = _mm512_reduce_max_ps(_mm512_max_ps(_mm512_abs_ps(a), _mm512_abs_ps(b)));
		__m512 inverse = _mm512_set1_ps(max > 1e-30f ? 127.0f / max : 0);
		__m512i qa = _mm512_cvtps_epi32(_mm512_mul_ps(a, inverse));
		__m512i qb = _mm512_cvtps_epi32(_mm512_mul_ps(b, inverse));

		_mm_storeu_si128((__m128i *)out->q, _mm512_cvtsepi32_epi8(qa));
		_mm_storeu_si128((__m128i *)out->q + 1, _mm512_cvtsepi32_epi8(qb));
		out->d = max > 1e-30f ? max / 127.0f : 0;
		out->nsum128 = -128 * _mm512_reduce_add_epi32(_mm512_add_epi32(qa, qb));
	}
}

static void begin(const struct fhk_attn *a, struct state *s)
{
	uint8_t *p = a->scratch;

	s->nr_rows = a->nr_q * a->nr_group;
	s->dims = round_up(a->head_dim, 32);
	s->ld = s->dims;
	s->acc = (float *)p;
	p += (size_t)s->nr_rows * s->ld * sizeof(float);
	s->q8 = (struct q8_query *)p;
	p += (size_t)s->nr_rows * (s->dims / 32) * sizeof(struct q8_query);
	s->max = (float *)p;
	s->sum = s->max + s->nr_rows;
	memset(s->acc, 0, (size_t)s->nr_rows * s->ld * sizeof(float));
	for (uint32_t r = 0; r < s->nr_rows; r++) {
		bool sink = a->sinks && a->split == 0;

		s->max[r] = sink ? a->sinks[r % a->nr_group] : -INFINITY;
		s->sum[r] = sink ? 1.0f : 0.0f;
		if (a->kv_type == FHK_Q8_0)
			quantise_query(query(a, r), a->head_dim, s->q8 + (size_t)r * (s->dims / 32));
	}
}

/* Dimension @c of the block's 32 keys */
FHK_INLINE void load_keys(uint32_t kv_type, const void *k, uint32_t c, __m512 out[2])
{
	if (kv_type == FHK_F32) {
		out[0] = _mm512_load_ps((const float *)k + c * FHK_KV_BLOCK);
		out[1] = _mm512_load_ps((const float *)k + c * FHK_KV_BLOCK + 16);
	} else {
		out[0] = _mm512_cvtph_ps(_mm256_load_si256((const __m256i *)k + 2 * c));
		out[1] = _mm512_cvtph_ps(_mm256_load_si256((const __m256i *)k + 2 * c + 1));
	}
}

/* scores: [nr][2] of 32 tokens, unscaled */
FHK_INLINE void score_float(uint32_t kv_type, const void *k, uint32_t head_dim, const float *const *q, int nr,
			    __m512 scores[][2])
{
	__m512 sums[ROWS][2];

	for (int r = 0; r < nr; r++)
		sums[r][0] = sums[r][1] = _mm512_setzero_ps();
	for (uint32_t c = 0; c < head_dim; c++) {
		__m512 keys[2];

		load_keys(kv_type, k, c, keys);
		for (int r = 0; r < nr; r++) {
			__m512 x = _mm512_set1_ps(q[r][c]);

			sums[r][0] = _mm512_fmadd_ps(keys[0], x, sums[r][0]);
			sums[r][1] = _mm512_fmadd_ps(keys[1], x, sums[r][1]);
		}
	}
	for (int r = 0; r < nr; r++) {
		scores[r][0] = sums[r][0];
		scores[r][1] = sums[r][1];
	}
}

FHK_INLINE void score_q8(const uint8_t *k, uint32_t dims, const struct q8_query *const *q, int nr, __m512 scores[][2])
{
	const uint16_t *scales = (const uint16_t *)(k + dims * FHK_KV_BLOCK);

	for (int r = 0; r < nr; r++)
		scores[r][0] = scores[r][1] = _mm512_setzero_ps();
	for (uint32_t b = 0; b < dims / 32; b++) {
		const __m512i *keys = (const __m512i *)(k + b * 32 * FHK_KV_BLOCK);
		__m512 d0 = _mm512_cvtph_ps(_mm256_load_si256((const __m256i *)(scales + b * 32)));
		__m512 d1 = _mm512_cvtph_ps(_mm256_load_si256((const __m256i *)(scales + b * 32 + 16)));
		__m512i dot[ROWS][2];

		for (int r = 0; r < nr; r++)
			dot[r][0] = dot[r][1] = _mm512_set1_epi32(q[r][b].nsum128);
		for (int i = 0; i < 8; i++)
			for (int r = 0; r < nr; r++) {
				__m512i x = _mm512_set1_epi32((int)fhk_ld32(q[r][b].q + 4 * i));

				dot[r][0] = _mm512_dpbusd_epi32(dot[r][0], keys[2 * i], x);
				dot[r][1] = _mm512_dpbusd_epi32(dot[r][1], keys[2 * i + 1], x);
			}
		for (int r = 0; r < nr; r++) {
			__m512 d = _mm512_set1_ps(q[r][b].d);

			scores[r][0] =
				_mm512_fmadd_ps(_mm512_mul_ps(_mm512_cvtepi32_ps(dot[r][0]), d0), d, scores[r][0]);
			scores[r][1] =
				_mm512_fmadd_ps(_mm512_mul_ps(_mm512_cvtepi32_ps(dot[r][1]), d1), d, scores[r][1]);
		}
	}
}

/* Scores of rows r0.. of the state against block @blk */
FHK_INLINE void score_rows(const struct fhk_attn *a, const struct state *s, uint32_t blk, uint32_t r0, int nr,
			   __m512 scores[][2])
{
	const struct q8_query *q8[ROWS];
	const float *q[ROWS];

	for (int r = 0; r < nr; r++) {
		q[r] = query(a, r0 + r);
		q8[r] = s->q8 + (size_t)(r0 + r) * (s->dims / 32);
	}
	if (a->kv_type == FHK_F16)
		score_float(FHK_F16, a->k[blk], a->head_dim, q, nr, scores);
	else if (a->kv_type == FHK_F32)
		score_float(FHK_F32, a->k[blk], a->head_dim, q, nr, scores);
	else
		score_q8(a->k[blk], s->dims, q8, nr, scores);
}

/* Bit i: the query at @pos sees token 32 * blk + i. */
static uint32_t visible(const struct fhk_attn *a, uint32_t pos, uint32_t blk)
{
	uint32_t first = blk * FHK_KV_BLOCK, from = 0, mask;

	if (pos < first)
		return 0;
	mask = pos - first >= 31 ? UINT32_MAX : (2u << (pos - first)) - 1;
	if (a->window && pos + 1 > a->window)
		from = pos + 1 - a->window;
	if (from >= first + FHK_KV_BLOCK)
		return 0;
	return from > first ? mask & UINT32_MAX << (from - first) : mask;
}

/*
 * Turn a row's scores into weights: exp(score - maximum), zero where @seen is.
 * Returns what its sums so far must be multiplied with.
 */
static float weigh(const struct fhk_attn *a, struct state *s, uint32_t row, uint32_t seen, const __m512 scores[2],
		   float *weights)
{
	__mmask16 m[2] = {(__mmask16)seen, (__mmask16)(seen >> 16)};
	__m512 x[2], sum = _mm512_setzero_ps(), max;
	float old = s->max[row], top, shrink;

	if (!seen) {
		_mm512_store_ps(weights, sum);
		_mm512_store_ps(weights + 16, sum);
		return 1.0f;
	}
	max = _mm512_set1_ps(-INFINITY);
	for (int h = 0; h < 2; h++) {
		x[h] = _mm512_mul_ps(scores[h], _mm512_set1_ps(a->scale));
		if (a->softcap > 0)
			x[h] = _mm512_mul_ps(fhk_tanh16(_mm512_div_ps(x[h], _mm512_set1_ps(a->softcap))),
					     _mm512_set1_ps(a->softcap));
		max = _mm512_mask_max_ps(max, m[h], max, x[h]);
	}
	top = _mm512_reduce_max_ps(max);
	top = top > old ? top : old;
	shrink = old == top ? 1.0f : old == -INFINITY ? 0.0f : _mm512_cvtss_f32(fhk_exp16(_mm512_set1_ps(old - top)));
	for (int h = 0; h < 2; h++) {
		x[h] = _mm512_sub_ps(x[h], _mm512_set1_ps(top));
		m[h] = _mm512_mask_cmp_ps_mask(m[h], x[h], _mm512_set1_ps(-87.0f), _CMP_NLT_UQ);
		x[h] = _mm512_maskz_mov_ps(m[h], fhk_exp16(x[h]));
		_mm512_store_ps(weights + 16 * h, x[h]);
		sum = _mm512_add_ps(sum, x[h]);
	}
	s->max[row] = top;
	s->sum[row] = s->sum[row] * shrink + _mm512_reduce_add_ps(sum);
	return shrink;
}

/* Sixteen dimensions from @c on of token @t's value */
FHK_INLINE __m512 load_value(uint32_t kv_type, const void *v, uint32_t ld, uint32_t t, uint32_t c, __mmask16 mask)
{
	size_t at = (size_t)t * ld + c;

	if (kv_type == FHK_F32)
		return _mm512_maskz_loadu_ps(mask, (const float *)v + at);
	if (kv_type == FHK_F16)
		return _mm512_cvtph_ps(_mm256_maskz_loadu_epi16(mask, (const uint16_t *)v + at));
	return _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128((const __m128i *)((const int8_t *)v + at))));
}

/* acc[row][c .. c + 31] = acc * shrink + weights . values of tokens t0..t1-1 */
FHK_INLINE void add_values(uint32_t kv_type, const void *v, uint32_t head_dim, uint32_t v_ld, uint32_t c, uint32_t t0,
			   uint32_t t1, const float weights[][FHK_KV_BLOCK], const float *shrink, float *acc,
			   uint32_t ld, int nr)
{
	__mmask16 mask[2] = {fhk_first16(head_dim - c), head_dim - c > 16 ? fhk_first16(head_dim - c - 16) : 0};
	__m512 sums[ROWS][2];

	for (int r = 0; r < nr; r++)
		for (int h = 0; h < 2; h++)
			sums[r][h] =
				_mm512_mul_ps(_mm512_loadu_ps(acc + r * ld + c + 16 * h), _mm512_set1_ps(shrink[r]));
	for (uint32_t t = t0; t < t1; t++) {
		__m512 v0 = load_value(kv_type, v, v_ld, t, c, mask[0]);
		__m512 v1 = load_value(kv_type, v, v_ld, t, c + 16, mask[1]);

		for (int r = 0; r < nr; r++) {
			__m512 w = _mm512_set1_ps(weights[r][t]);

			sums[r][0] = _mm512_fmadd_ps(v0, w, sums[r][0]);
			sums[r][1] = _mm512_fmadd_ps(v1, w, sums[r][1]);
		}
	}
	for (int r = 0; r < nr; r++)
		for (int h = 0; h < 2; h++)
			_mm512_storeu_ps(acc + r * ld + c + 16 * h, sums[r][h]);
}

FHK_INLINE void add_rows(const struct fhk_attn *a, const struct state *s, uint32_t blk, uint32_t r0, int nr,
			 uint32_t t0, uint32_t t1, const float weights[][FHK_KV_BLOCK], const float *shrink)
{
	_Alignas(64) float scaled[ROWS][FHK_KV_BLOCK];
	const void *v = a->v[blk];
	float *acc = s->acc + (size_t)r0 * s->ld;

	for (uint32_t c = 0; c < a->head_dim; c += 32) {
		if (a->kv_type == FHK_F16) {
			add_values(FHK_F16, v, a->head_dim, a->head_dim, c, t0, t1, weights, shrink, acc, s->ld, nr);
			continue;
		}
		if (a->kv_type == FHK_F32) {
			add_values(FHK_F32, v, a->head_dim, a->head_dim, c, t0, t1, weights, shrink, acc, s->ld, nr);
			continue;
		}
		for (int h = 0; h < 2; h++) {
			const uint16_t *scales = (const uint16_t *)((const uint8_t *)v + s->dims * FHK_KV_BLOCK);
			__m512 d = _mm512_cvtph_ps(_mm256_load_si256((const __m256i *)(scales + c + 16 * h)));

			for (int r = 0; r < nr; r++)
				_mm512_store_ps(scaled[r] + 16 * h,
						_mm512_mul_ps(d, _mm512_load_ps(weights[r] + 16 * h)));
		}
		add_values(FHK_Q8_0, v, s->dims, s->dims, c, t0, t1, scaled, shrink, acc, s->ld, nr);
	}
}

/* Rows r0 .. r0 + nr - 1 against one block */
FHK_INLINE void block_rows(const struct fhk_attn *a, struct state *s, uint32_t blk, uint32_t r0, int nr)
{
	_Alignas(64) float weights[ROWS][FHK_KV_BLOCK];
	uint32_t seen[ROWS], any = 0;
	__m512 scores[ROWS][2];
	float shrink[ROWS];

	for (int r = 0; r < nr; r++) {
		seen[r] = visible(a, a->pos0 + (r0 + r) / a->nr_group, blk);
		any |= seen[r];
	}
	if (!any)
		return;
	score_rows(a, s, blk, r0, nr, scores);
	for (int r = 0; r < nr; r++)
		shrink[r] = weigh(a, s, r0 + r, seen[r], scores[r], weights[r]);
	add_rows(a, s, blk, r0, nr, (uint32_t)__builtin_ctz(any), 32 - (uint32_t)__builtin_clz(any), weights, shrink);
}

static void finish(const struct fhk_attn *a, const struct state *s)
{
	for (uint32_t r = 0; r < s->nr_rows; r++) {
		const float *acc = s->acc + (size_t)r * s->ld;
		float *out;

		if (a->nr_splits > 1) {
			out = a->partial + (size_t)r * (a->head_dim + 2);
			memcpy(out, acc, a->head_dim * sizeof(*out));
			out[a->head_dim] = s->max[r];
			out[a->head_dim + 1] = s->sum[r];
			continue;
		}
		out = a->out + r / a->nr_group * a->out_ld + (size_t)(r % a->nr_group) * a->head_dim;
		for (uint32_t c = 0; c < a->head_dim; c++)
			out[c] = acc[c] / s->sum[r];
	}
}

void fhk_avx512_attn(const struct fhk_attn *a)
{
	uint32_t first = a->split * (FHK_ATTN_SPLIT / FHK_KV_BLOCK), end = first + FHK_ATTN_SPLIT / FHK_KV_BLOCK;
	uint32_t last = (a->pos0 + a->nr_q - 1) / FHK_KV_BLOCK;
	struct state s;

	begin(a, &s);
	if (a->window && a->pos0 + 1 > a->window && (a->pos0 + 1 - a->window) / FHK_KV_BLOCK > first)
		first = (a->pos0 + 1 - a->window) / FHK_KV_BLOCK;
	for (uint32_t blk = first; blk < end && blk <= last; blk++) {
		uint32_t r = 0;

		for (; r + 8 <= s.nr_rows; r += 8)
			block_rows(a, &s, blk, r, 8);
		for (; r + 4 <= s.nr_rows; r += 4)
			block_rows(a, &s, blk, r, 4);
		for (; r + 2 <= s.nr_rows; r += 2)
			block_rows(a, &s, blk, r, 2);
		if (r < s.nr_rows)
			block_rows(a, &s, blk, r, 1);
	}
	finish(a, &s);
}

/* @part: the first split's partial of one row; @stride: floats to the next split's */
static void combine_row(const float *part, uint32_t nr_splits, size_t stride, uint32_t head_dim, float *out)
{
	float max = -INFINITY, sum = 0;

	for (uint32_t i = 0; i < nr_splits; i++)
		max = part[i * stride + head_dim] > max ? part[i * stride + head_dim] : max;
	memset(out, 0, head_dim * sizeof(*out));
	for (uint32_t i = 0; i < nr_splits; i++) {
		const float *p = part + i * stride;
		float e;

		if (p[head_dim] == -INFINITY) /* it saw nothing there */
			continue;
		e = p[head_dim] == max ? 1.0f : _mm512_cvtss_f32(fhk_exp16(_mm512_set1_ps(p[head_dim] - max)));
		sum += e * p[head_dim + 1];
		for (uint32_t c = 0; c < head_dim; c++)
			out[c] += e * p[c];
	}
	for (uint32_t c = 0; c < head_dim; c++)
		out[c] /= sum;
}

void fhk_avx512_attn_combine(const float *partial, uint32_t nr_splits, uint32_t nr_q, uint32_t nr_group,
			     uint32_t head_dim, float *out, size_t out_ld)
{
	size_t stride = (size_t)nr_q * nr_group * (head_dim + 2);

	for (uint32_t t = 0; t < nr_q; t++)
		for (uint32_t g = 0; g < nr_group; g++)
			combine_row(partial + ((size_t)t * nr_group + g) * (head_dim + 2), nr_splits, stride, head_dim,
				    out + t * out_ld + (size_t)g * head_dim);
}
