/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the files of the AVX2 table share: packed layouts and small vector
 * helpers.
 *
 * Float weights (F32, F16, BF16) lie in panels of 16 rows, column by column:
 * [panel][cols][16].  The last panel is padded with zero rows.
 *
 * Quantised weights lie in strips of 8 rows, two strips a panel.  A strip is a
 * row of units of 32 columns; a unit is its scales, then bit planes in which
 * each 32-byte vector holds four columns of each of the 8 rows:
 *
 *   vector j of a unit = [row 0: columns 4j..4j+3][row 1: ...] ... [row 7]
 *
 *   P4  4 vectors: byte i's low nibble is vector v's bits, high vector v + 4's
 *   P2  2 vectors: byte i holds 2 bits of vectors v, v + 2, v + 4, v + 6
 *   P1  1 vector:  bit j of a byte belongs to vector j
 *   P8  8 vectors as they are
 *
 * Types with 256-column blocks put their f16 super scales before each run of 8
 * units.  So nothing is rounded and nothing grows by more than 4 %.
 */
#ifndef FHK_AVX2_AVX2_H
#define FHK_AVX2_AVX2_H

#include <immintrin.h>
#include <string.h>

#include "kernels/kernels.h"

#define FHK_STRIP 8 /* rows in a strip of quantised weights */
#define UNIT_COLS 32

/* How a quantised type lies in a strip. */
struct fhk_qlayout {
	uint8_t super_bytes; /* before each 8 units; 0: none */
	uint8_t scale_bytes; /* at the head of each unit */
	uint8_t p8, p4, p2, p1;
	uint8_t offset; /* weight = scale * (bits - offset) */
};

/* NULL for a type that is not quantised. */
const struct fhk_qlayout *fhk_avx2_qlayout(uint32_t type);

static inline uint32_t fhk_q_unit_bytes(const struct fhk_qlayout *l)
{
	return l->scale_bytes + l->p8 * 256u + l->p4 * 128u + l->p2 * 64u + l->p1 * 32u;
}

/* Bytes of one strip of @cols columns. */
static inline size_t fhk_q_strip_bytes(const struct fhk_qlayout *l, uint32_t cols)
{
	return (size_t)(cols / UNIT_COLS) * fhk_q_unit_bytes(l) + (size_t)(cols / 256) * l->super_bytes;
}

/* Activations of one token in FHK_FORM_Q8, one after another in a row: */
static inline size_t fhk_q8_row_bytes(uint32_t ld)
{
	/* int8 [ld], f32 scale [ld / 32], int32 sum [ld / 16], then padding */
	return (ld + ld / 8 + ld / 4 + 63) / 64 * 64;
}

void fhk_avx2_pack(const struct fhk_mat *m, uint32_t expert, const void *src, uint32_t r0, uint32_t r1, void *dst);
void fhk_avx2_quantise(const float *x, uint32_t cols, uint32_t ld, void *row);
void fhk_avx2_matmul_f(const struct fhk_mat *m, uint32_t expert, const struct fhk_act *x, const uint32_t *idx,
		       uint32_t nr, uint32_t r0, uint32_t r1, float *y, size_t ldy, unsigned int flags);
void fhk_avx2_matmul_q(const struct fhk_mat *m, uint32_t expert, const struct fhk_act *x, const uint32_t *idx,
		       uint32_t nr, uint32_t r0, uint32_t r1, float *y, size_t ldy, unsigned int flags);

size_t fhk_avx2_kv_head_bytes(uint32_t kv_type, uint32_t head_dim);
void fhk_avx2_kv_append(uint32_t kv_type, uint32_t head_dim, uint32_t slot, void *k_head, void *v_head, const float *k,
			const float *v);
size_t fhk_avx2_attn_scratch_bytes(uint32_t max_q, uint32_t nr_group, uint32_t head_dim);
void fhk_avx2_attn(const struct fhk_attn *a);
void fhk_avx2_attn_combine(const float *partial, uint32_t nr_splits, uint32_t nr_q, uint32_t nr_group,
			   uint32_t head_dim, float *out, size_t out_ld);

/* Sum of the eight lanes, in one order. */
static inline float fhk_hsum(__m256 v)
{
	__m128 s = _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));

	s = _mm_add_ps(s, _mm_movehl_ps(s, s));
	s = _mm_add_ss(s, _mm_movehdup_ps(s));
	return _mm_cvtss_f32(s);
}

static inline float fhk_hmax(__m256 v)
{
	__m128 s = _mm_max_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));

	s = _mm_max_ps(s, _mm_movehl_ps(s, s));
	s = _mm_max_ss(s, _mm_movehdup_ps(s));
	return _mm_cvtss_f32(s);
}

/*
 * exp(x), within 2 units in the last place for x in [-87, 88]; 0 below, and
 * exactly 1 at 0.  Cody and Waite's reduction by ln 2, then a polynomial of
 * degree 6 on [-ln 2 / 2, ln 2 / 2] (coefficients as in Cephes' expf).
 */
static inline __m256 fhk_exp(__m256 x)
{
	const __m256 low = _mm256_set1_ps(-87.33654f);
	__m256 under = _mm256_cmp_ps(x, low, _CMP_LT_OQ), n, r, p;
	__m256i e;

	x = _mm256_min_ps(_mm256_max_ps(x, low), _mm256_set1_ps(88.3762626647949f));
	n = _mm256_round_ps(_mm256_mul_ps(x, _mm256_set1_ps(1.44269504088896341f)),
			    _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
	r = _mm256_fnmadd_ps(n, _mm256_set1_ps(0.693359375f), x);
	r = _mm256_fnmadd_ps(n, _mm256_set1_ps(-2.12194440e-4f), r);
	p = _mm256_set1_ps(1.9875691500e-4f);
	p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(1.3981999507e-3f));
	p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(8.3334519073e-3f));
	p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(4.1665795894e-2f));
	p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(1.6666665459e-1f));
	p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(5.0000001201e-1f));
	p = _mm256_fmadd_ps(_mm256_mul_ps(r, r), p, _mm256_add_ps(r, _mm256_set1_ps(1.0f)));
	e = _mm256_slli_epi32(_mm256_add_epi32(_mm256_cvtps_epi32(n), _mm256_set1_epi32(127)), 23);
	return _mm256_andnot_ps(under, _mm256_mul_ps(p, _mm256_castsi256_ps(e)));
}

/* The same for one number: the vector's bits. */
static inline float fhk_exp1(float x)
{
	return _mm256_cvtss_f32(fhk_exp(_mm256_set1_ps(x)));
}

/* tanh(x) = 1 - 2 / (exp(2x) + 1) */
static inline __m256 fhk_tanh(__m256 x)
{
	const __m256 one = _mm256_set1_ps(1.0f);

	x = fhk_exp(_mm256_add_ps(x, x));
	return _mm256_sub_ps(one, _mm256_div_ps(_mm256_set1_ps(2.0f), _mm256_add_ps(x, one)));
}

#endif /* FHK_AVX2_AVX2_H */
