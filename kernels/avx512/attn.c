// SPDX-License-Identifier: Apache-2.0
/*
 * Attention over a paged cache.  An item covers at most FHK_ATTN_SPLIT tokens of
 * context, so all its scores are kept: they are computed first, then turned into
 * weights with one maximum and one sum, then the values are added up.  Splits
 * are merged with a running maximum (Milakov and Gimelshein, "Online normalizer
 * calculation for softmax", 2018; Dao et al., "FlashAttention", 2022).
 *
 * One head of a block: keys lie transposed, so that 32 tokens fill two vectors
 * and a score needs no sum across lanes; values lie token by token.
 *   F32, F16  k [head_dim][32]                    v [32][head_dim]
 *   BF16      k [head_dim / 2][32][2]             v [16][head_dim][2]
 *   Q8_0      k u8 (+128) [dims / 4][32][4]       v i8 [32][dims]
 *             then f16 scale [dims / 32][32] each; dims is head_dim rounded up to 32
 *
 * Rows are pairs of a query token and a head of the group; a key or value that
 * was loaded serves up to eight of them.  A row's arithmetic does not depend on
 * the rows beside it: each score is one chain over the dimensions, each output
 * two chains over the tokens (even and odd positions), and a token that a row
 * does not see weighs exactly zero, which changes no sum.  Values in the cache
 * are finite, because kv_append holds them to the type's range.  Slots past the
 * last token that a row sees are never used.  The caller owns all memory.
 *
 * A BF16 cache is widened to F32, and the rest is as for F16.  Or, where
 * vdpbf16ps is fast (fhk_avx512_attn_pairs()), it is multiplied as it lies, two
 * dimensions of a key or two tokens' values at a time, sums in f32: queries and
 * weights are rounded to BF16 too, and a row's weights are summed as rounded, so
 * that they still add up to one.  Scores and outputs are then one chain each,
 * over pairs.
 */
#include <math.h>
#include <string.h>

#include "kernels/avx512/avx512.h"
#include "kernels/avx512/math.h"
#include "kernels/half.h"

#define ROWS 8			     /* that share loads */
#define SCORES (FHK_ATTN_SPLIT + 16) /* of a row; rows do not fall into the same cache sets */
#define MAX_DIM 256
#define F16_MAX 65504.0f
#define BF16_MAX 0x1.fep127f

/* A query in eight bits, 32 dimensions */
struct q8_query {
	int8_t q[32];
	float d;
	int32_t nsum128; /* -128 times the sum of q: keys are stored with 128 added */
};

/* Up to ROWS rows at work */
struct rows {
	const float *q[ROWS];
	struct q8_query *q8[ROWS]; /* [dims / 32], Q8_0 only */
	uint16_t *q16[ROWS];	   /* [dims], BF16 only, in the same place */
	uint32_t pos[ROWS];
	uint32_t first, end;	 /* blocks that a row sees some of */
	uint32_t tokens;	 /* from the first of them to the last token seen */
	float (*scores)[SCORES]; /* [ROWS], from block first on; then the weights, BF16 in the row's first half */
	float max[ROWS], sum[ROWS];
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
	case FHK_F16:
	case FHK_BF16: return 2 * (size_t)head_dim * FHK_KV_BLOCK;
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

/* Sixteen finite numbers to the nearest of BF16, ties to even */
static __m256i round_bf16(__m512 x)
{
	__m512i bits = _mm512_castps_si512(x);
	__m512i even = _mm512_and_si512(_mm512_srli_epi32(bits, 16), _mm512_set1_epi32(1));

	bits = _mm512_add_epi32(bits, _mm512_add_epi32(even, _mm512_set1_epi32(0x7fff)));
	return _mm512_cvtepi32_epi16(_mm512_srli_epi32(bits, 16));
}

/* The same, held finite for the same reason */
static __m256i to_bf16(__m512 x)
{
	x = _mm512_max_ps(_mm512_min_ps(x, _mm512_set1_ps(BF16_MAX)), _mm512_set1_ps(-BF16_MAX));
	return round_bf16(x);
}

/* A value's halves lie every other one, between those of the token that it is paired with. */
static void append_bf16(uint32_t head_dim, uint32_t slot, uint32_t *k_head, uint16_t *v_head, const float *k,
			const float *v)
{
	for (uint32_t c = 0; c < head_dim; c += 16) {
		__mmask16 mask = fhk_first16(head_dim - c);
		__mmask32 halves = (head_dim - c < 16 ? (1u << 2 * (head_dim - c)) - 1 : UINT32_MAX) & 0x55555555u;
		__m512i values = _mm512_cvtepu16_epi32(to_bf16(_mm512_maskz_loadu_ps(mask, v + c)));
		uint32_t pairs[8];

		_mm256_storeu_si256((__m256i *)pairs, to_bf16(_mm512_maskz_loadu_ps(mask, k + c)));
		for (uint32_t i = 0; i < 8 && c + 2 * i < head_dim; i++)
			k_head[(c / 2 + i) * FHK_KV_BLOCK + slot] = pairs[i];
		if (slot % 2) {
			values = _mm512_slli_epi32(values, 16);
			halves <<= 1;
		}
		_mm512_mask_storeu_epi16(v_head + ((size_t)(slot / 2) * head_dim + c) * 2, halves, values);
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
	case FHK_BF16: append_bf16(head_dim, slot, k_head, v_head, k, v); break;
	default: append_q8(head_dim, slot, k_head, v_head, k, v); break;
	}
}

size_t fhk_avx512_attn_scratch_bytes(uint32_t max_q, uint32_t nr_group, uint32_t head_dim)
{
	(void)max_q, (void)nr_group;
	_Static_assert(sizeof(struct q8_query) <= sizeof(uint16_t[32]), "either form of a query fits");
	return sizeof(float[ROWS][SCORES]) + sizeof(uint16_t[ROWS]) * round_up(head_dim, 32);
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

static void round_query(const float *q, uint32_t head_dim, uint16_t *out)
{
	for (uint32_t c = 0; c < head_dim; c += 16)
		_mm256_storeu_si256((__m256i *)(out + c),
				    to_bf16(_mm512_maskz_loadu_ps(fhk_first16(head_dim - c), q + c)));
}

/* Dimension @c of the block's 32 keys; @odd: c is */
FHK_INLINE void load_keys(uint32_t kv_type, const void *k, uint32_t c, bool odd, __m512 out[2])
{
	if (kv_type == WIDE_BF16) {
		out[0] = fhk_bf16_half(_mm512_load_si512((const __m512i *)k + c / 2 * 2), odd);
		out[1] = fhk_bf16_half(_mm512_load_si512((const __m512i *)k + c / 2 * 2 + 1), odd);
	} else if (kv_type == FHK_F32) {
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
	for (uint32_t c2 = 0; c2 < head_dim; c2 += 2) {
#pragma GCC unroll 2
		for (uint32_t c = 0; c < 2; c++) {
			__m512 keys[2];

			load_keys(kv_type, k, c2 + c, c, keys);
			for (int r = 0; r < nr; r++) {
				__m512 x = _mm512_set1_ps(q[r][c2 + c]);

				sums[r][0] = _mm512_fmadd_ps(keys[0], x, sums[r][0]);
				sums[r][1] = _mm512_fmadd_ps(keys[1], x, sums[r][1]);
			}
		}
	}
	for (int r = 0; r < nr; r++) {
		scores[r][0] = sums[r][0];
		scores[r][1] = sums[r][1];
	}
}

FHK_INLINE __m512 pair_times(__m512 sum, __m512i pairs, uint32_t pair)
{
	return _mm512_dpbf16_ps(sum, (__m512bh)pairs, (__m512bh)_mm512_set1_epi32((int)pair));
}

FHK_INLINE void score_bf16(const __m512i *k, uint32_t head_dim, const uint16_t *const *q, int nr, __m512 scores[][2])
{
	__m512 sums[ROWS][2];

	for (int r = 0; r < nr; r++)
		sums[r][0] = sums[r][1] = _mm512_setzero_ps();
	for (uint32_t c = 0; c < head_dim; c += 2, k += 2)
		for (int r = 0; r < nr; r++) {
			uint32_t x = fhk_ld32(q[r] + c);

			sums[r][0] = pair_times(sums[r][0], k[0], x);
			sums[r][1] = pair_times(sums[r][1], k[1], x);
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

/* @pairs here and below: of a BF16 cache, that it is multiplied as it lies */
FHK_INLINE void score_rows(const struct fhk_attn *a, const struct rows *w, uint32_t blk, int nr, bool pairs,
			   __m512 scores[][2])
{
	const void *k = a->k[blk];

	if (a->kv_type == FHK_F16)
		score_float(FHK_F16, k, a->head_dim, w->q, nr, scores);
	else if (a->kv_type == FHK_F32)
		score_float(FHK_F32, k, a->head_dim, w->q, nr, scores);
	else if (a->kv_type == FHK_BF16 && pairs)
		score_bf16(k, a->head_dim, (const uint16_t *const *)w->q16, nr, scores);
	else if (a->kv_type == FHK_BF16)
		score_float(WIDE_BF16, k, a->head_dim, w->q, nr, scores);
	else
		score_q8(k, round_up(a->head_dim, 32), (const struct q8_query *const *)w->q8, nr, scores);
}

/* All scores of @nr rows, minus infinity where a token is not seen, and their vectors' maxima */
FHK_INLINE void score_all(const struct fhk_attn *a, struct rows *w, int nr, bool pairs)
{
	const __m512 none = _mm512_set1_ps(-INFINITY), scale = _mm512_set1_ps(a->scale);
	__m512 scores[ROWS][2], max[ROWS];

	for (int r = 0; r < nr; r++)
		max[r] = none;
	for (uint32_t blk = w->first; blk < w->end; blk++) {
		score_rows(a, w, blk, nr, pairs, scores);
		for (int r = 0; r < nr; r++) {
			uint32_t seen = visible(a, w->pos[r], blk);
			float *out = w->scores[r] + (blk - w->first) * FHK_KV_BLOCK;

			for (int h = 0; h < 2; h++) {
				__m512 x = _mm512_mul_ps(scores[r][h], scale);

				if (a->softcap > 0)
					x = _mm512_mul_ps(fhk_tanh16(_mm512_div_ps(x, _mm512_set1_ps(a->softcap))),
							  _mm512_set1_ps(a->softcap));
				x = _mm512_mask_mov_ps(none, (__mmask16)(seen >> (16 * h)), x);
				max[r] = _mm512_max_ps(max[r], x);
				_mm512_store_ps(out + 16 * h, x);
			}
		}
	}
	for (int r = 0; r < nr; r++)
		w->max[r] = _mm512_reduce_max_ps(max[r]);
}

/*
 * Scores of row @r become weights: exp(score - maximum), exactly zero where there
 * is none.  With @bf16 they are rounded and lie together, each half where scores
 * were that have been read.
 */
FHK_INLINE void weigh(struct rows *w, int r, const float *sink, bool bf16)
{
	uint16_t *halves = (uint16_t *)w->scores[r];
	__m512 sum[2] = {_mm512_setzero_ps(), _mm512_setzero_ps()}, max;

	if (sink && *sink > w->max[r])
		w->max[r] = *sink;
	max = _mm512_set1_ps(w->max[r]);
	for (uint32_t i = 0; i < (w->end - w->first) * FHK_KV_BLOCK; i += 16) {
		__m512 x = _mm512_sub_ps(_mm512_load_ps(w->scores[r] + i), max);
		__mmask16 some = _mm512_cmp_ps_mask(x, _mm512_set1_ps(-87.0f), _CMP_GE_OQ);

		x = _mm512_maskz_mov_ps(some, fhk_exp16(x));
		if (bf16) {
			__m256i rounded = (__m256i)_mm512_cvtneps_pbh(x);

			_mm256_store_si256((__m256i *)(halves + i), rounded);
			x = _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(rounded), 16));
		} else {
			_mm512_store_ps(w->scores[r] + i, x);
		}
		sum[i / 16 % 2] = _mm512_add_ps(sum[i / 16 % 2], x);
	}
	w->sum[r] = _mm512_reduce_add_ps(_mm512_add_ps(sum[0], sum[1]));
	if (sink)
		w->sum[r] += _mm512_cvtss_f32(fhk_exp16(_mm512_set1_ps(*sink - w->max[r])));
}

/* Sixteen dimensions from @c on of token @t's value; @odd: t is */
FHK_INLINE __m512 load_value(uint32_t kv_type, const void *v, uint32_t ld, uint32_t t, bool odd, uint32_t c,
			     __mmask16 mask)
{
	size_t at = (size_t)t * ld + c;

	if (kv_type == WIDE_BF16)
		return fhk_bf16_half(_mm512_maskz_loadu_epi32(mask, (const uint32_t *)v + (size_t)(t / 2) * ld + c),
				     odd);
	if (kv_type == FHK_F32)
		return _mm512_maskz_loadu_ps(mask, (const float *)v + at);
	if (kv_type == FHK_F16)
		return _mm512_cvtph_ps(_mm256_maskz_loadu_epi16(mask, (const uint16_t *)v + at));
	return _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128((const __m128i *)((const int8_t *)v + at))));
}

/*
 * sums[row][chunk] over all tokens, 16 dimensions a chunk from @c on.  Two chains,
 * of even and odd tokens; @nr * @nr_c <= ROWS.
 */
FHK_INLINE void add_values(uint32_t kv_type, const struct fhk_attn *a, const struct rows *w, uint32_t c, int nr,
			   int nr_c, __m512 *sums)
{
	_Alignas(64) float scaled[ROWS][FHK_KV_BLOCK];
	uint32_t ld = kv_type == FHK_Q8_0 ? round_up(a->head_dim, 32) : a->head_dim;
	__m512 even[ROWS], odd[ROWS];
	__mmask16 mask[4];

	for (int i = 0; i < nr_c; i++)
		mask[i] = fhk_first16(a->head_dim - c - 16 * (uint32_t)i);
	for (int i = 0; i < nr * nr_c; i++)
		even[i] = odd[i] = _mm512_setzero_ps();
	for (uint32_t i = 0; i < w->tokens; i += FHK_KV_BLOCK) {
		const void *v = a->v[w->first + i / FHK_KV_BLOCK];
		uint32_t n = w->tokens - i < FHK_KV_BLOCK ? w->tokens - i : FHK_KV_BLOCK, t;
		const float *weights[ROWS];

		for (int r = 0; r < nr; r++)
			weights[r] = kv_type == FHK_Q8_0 ? scaled[r] : w->scores[r] + i;
		for (int h = 0; kv_type == FHK_Q8_0 && h < 2; h++) {
			const uint16_t *scales =
				(const uint16_t *)((const uint8_t *)v + ld * FHK_KV_BLOCK) + c / 32 * 32;
			__m512 d = _mm512_cvtph_ps(_mm256_load_si256((const __m256i *)scales + h));

			for (int r = 0; r < nr; r++)
				_mm512_store_ps(scaled[r] + 16 * h,
						_mm512_mul_ps(d, _mm512_load_ps(w->scores[r] + i + 16 * h)));
		}
		for (t = 0; t + 2 <= n; t += 2)
			for (int j = 0; j < nr_c; j++) {
				__m512 v0 = load_value(kv_type, v, ld, t, false, c + 16 * (uint32_t)j, mask[j]);
				__m512 v1 = load_value(kv_type, v, ld, t + 1, true, c + 16 * (uint32_t)j, mask[j]);

				for (int r = 0; r < nr; r++) {
					__m512 *e = &even[r * nr_c + j], *o = &odd[r * nr_c + j];

					*e = _mm512_fmadd_ps(v0, _mm512_set1_ps(weights[r][t]), *e);
					*o = _mm512_fmadd_ps(v1, _mm512_set1_ps(weights[r][t + 1]), *o);
				}
			}
		for (int j = 0; t < n && j < nr_c; j++) {
			__m512 v0 = load_value(kv_type, v, ld, t, false, c + 16 * (uint32_t)j, mask[j]);

			for (int r = 0; r < nr; r++)
				even[r * nr_c + j] =
					_mm512_fmadd_ps(v0, _mm512_set1_ps(weights[r][t]), even[r * nr_c + j]);
		}
	}
	for (int i = 0; i < nr * nr_c; i++)
		sums[i] = _mm512_add_ps(even[i], odd[i]);
}

/* The same of a BF16 cache; one chain, so twice as many fit: @nr * @nr_c <= 2 * ROWS. */
FHK_INLINE void add_pairs(const struct fhk_attn *a, const struct rows *w, uint32_t c, int nr, int nr_c, __m512 *sums)
{
	__mmask16 mask[4];

	for (int i = 0; i < nr_c; i++)
		mask[i] = fhk_first16(a->head_dim - c - 16 * (uint32_t)i);
	for (int i = 0; i < nr * nr_c; i++)
		sums[i] = _mm512_setzero_ps();
	for (uint32_t i = 0; i < w->tokens; i += FHK_KV_BLOCK) {
		const uint16_t *v = (const uint16_t *)a->v[w->first + i / FHK_KV_BLOCK] + 2 * c;
		uint32_t n = w->tokens - i < FHK_KV_BLOCK ? w->tokens - i : FHK_KV_BLOCK;

		for (uint32_t t = 0; t < n; t += 2, v += 2 * a->head_dim)
			for (int j = 0; j < nr_c; j++) {
				__m512i pairs = _mm512_maskz_loadu_epi32(mask[j], v + 32 * j);

				if (t + 1 == n) /* its other token may never have been written */
					pairs = _mm512_and_si512(pairs, _mm512_set1_epi32(0xffff));
				for (int r = 0; r < nr; r++)
					sums[r * nr_c + j] =
						pair_times(sums[r * nr_c + j], pairs,
							   fhk_ld32((const uint16_t *)w->scores[r] + i + t));
			}
	}
}

/* Add up @nr_c chunks from dimension @c on and store them. @out: [nr] rows */
FHK_INLINE void put_values(const struct fhk_attn *a, const struct rows *w, uint32_t c, int nr, int nr_c, bool pairs,
			   float *const *out)
{
	__m512 sums[2 * ROWS];

	if (a->kv_type == FHK_BF16 && pairs)
		add_pairs(a, w, c, nr, nr_c, sums);
	else if (a->kv_type == FHK_BF16)
		add_values(WIDE_BF16, a, w, c, nr, nr_c, sums);
	else if (a->kv_type == FHK_F16)
		add_values(FHK_F16, a, w, c, nr, nr_c, sums);
	else if (a->kv_type == FHK_F32)
		add_values(FHK_F32, a, w, c, nr, nr_c, sums);
	else
		add_values(FHK_Q8_0, a, w, c, nr, nr_c, sums);
	for (int r = 0; r < nr; r++)
		for (int j = 0; j < nr_c; j++) {
			uint32_t at = c + 16 * (uint32_t)j;
			__m512 x = sums[r * nr_c + j];

			if (a->nr_splits == 1)
				x = _mm512_div_ps(x, _mm512_set1_ps(w->sum[r]));
			_mm512_mask_storeu_ps(out[r] + at, fhk_first16(a->head_dim - at), x);
		}
}

/* The blocks of this split that one of the rows from @pos0 to @pos1 sees some of */
static void bound(const struct fhk_attn *a, struct rows *w, uint32_t pos0, uint32_t pos1)
{
	uint32_t first = a->split * (FHK_ATTN_SPLIT / FHK_KV_BLOCK), end = first + FHK_ATTN_SPLIT / FHK_KV_BLOCK;

	w->end = pos1 / FHK_KV_BLOCK + 1 < end ? pos1 / FHK_KV_BLOCK + 1 : end;
	w->first = first;
	if (a->window && pos0 + 1 > a->window && (pos0 + 1 - a->window) / FHK_KV_BLOCK > first)
		w->first = (pos0 + 1 - a->window) / FHK_KV_BLOCK;
	w->first = w->first < w->end ? w->first : w->end;
	w->tokens = (w->end - w->first) * FHK_KV_BLOCK;
	if (w->end > w->first && pos1 + 1 - w->first * FHK_KV_BLOCK < w->tokens)
		w->tokens = pos1 + 1 - w->first * FHK_KV_BLOCK;
}

/* All dimensions of the outputs, as many chunks at a time as there are registers for. @out: [nr] rows */
FHK_INLINE void put_all_values(const struct fhk_attn *a, const struct rows *w, int nr, bool pairs, float *const *out)
{
	for (uint32_t c = 0, left; c < a->head_dim;) {
		left = a->head_dim - c;
		if (pairs && nr <= 4 && left > 48) {
			put_values(a, w, c, nr, nr <= 4 ? 4 : 1, true, out);
			c += 64;
		} else if (pairs && left > 16) {
			put_values(a, w, c, nr, 2, true, out);
			c += 32;
		} else if (nr <= 2 && a->kv_type != FHK_Q8_0 && left > 48) {
			put_values(a, w, c, nr, nr <= 2 ? 4 : 1, pairs, out);
			c += 64;
		} else if (nr <= 4 && left > 16) {
			put_values(a, w, c, nr, nr <= 4 ? 2 : 1, pairs, out);
			c += 32;
		} else {
			put_values(a, w, c, nr, 1, pairs, out);
			c += 16;
		}
	}
}

/* Rows r0 .. r0 + nr - 1 of the item */
FHK_INLINE void attend(const struct fhk_attn *a, struct rows *w, uint32_t r0, int nr, bool can_pair)
{
	const bool pairs = can_pair && a->kv_type == FHK_BF16;
	float *out[ROWS];

	bound(a, w, a->pos0 + r0 / a->nr_group, a->pos0 + (r0 + (uint32_t)nr - 1) / a->nr_group);
	for (int r = 0; r < nr; r++) {
		uint32_t row = r0 + (uint32_t)r, t = row / a->nr_group, g = row % a->nr_group;

		w->pos[r] = a->pos0 + t;
		w->q[r] = a->q + t * a->q_ld + (size_t)g * a->head_dim;
		out[r] = a->nr_splits > 1 ? a->partial + (size_t)row * (a->head_dim + 2)
					  : a->out + t * a->out_ld + (size_t)g * a->head_dim;
		if (a->kv_type == FHK_Q8_0)
			quantise_query(w->q[r], a->head_dim, w->q8[r]);
		else if (pairs)
			round_query(w->q[r], a->head_dim, w->q16[r]);
	}
	score_all(a, w, nr, pairs);
	for (int r = 0; r < nr; r++) {
		weigh(w, r, a->sinks && a->split == 0 ? &a->sinks[(r0 + (uint32_t)r) % a->nr_group] : NULL, pairs);
		if (a->nr_splits > 1) {
			out[r][a->head_dim] = w->max[r];
			out[r][a->head_dim + 1] = w->sum[r];
		}
	}
	put_all_values(a, w, nr, pairs, out);
}

FHK_INLINE void attend_all(const struct fhk_attn *a, bool can_pair)
{
	uint32_t nr_rows = a->nr_q * a->nr_group, dims = round_up(a->head_dim, 32), r = 0;
	struct rows w = {.scores = a->scratch};

	for (uint32_t i = 0; i < ROWS; i++) {
		w.q16[i] = (uint16_t *)(w.scores + ROWS) + i * dims;
		w.q8[i] = (struct q8_query *)w.q16[i];
	}
	for (; r + 8 <= nr_rows; r += 8)
		attend(a, &w, r, 8, can_pair);
	for (; r + 4 <= nr_rows; r += 4)
		attend(a, &w, r, 4, can_pair);
	for (; r + 2 <= nr_rows; r += 2)
		attend(a, &w, r, 2, can_pair);
	if (r < nr_rows)
		attend(a, &w, r, 1, can_pair);
}

void fhk_avx512_attn(const struct fhk_attn *a)
{
	attend_all(a, false);
}

void fhk_avx512_attn_pairs(const struct fhk_attn *a)
{
	attend_all(a, true);
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
