/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the files of the AVX2 table share.  Weights lie in the panels of
 * kernels/panel.h; a vector takes half of one, 8 rows.
 */
#ifndef FHK_AVX2_AVX2_H
#define FHK_AVX2_AVX2_H

#include <immintrin.h>
#include <string.h>

#include "kernels/panel.h"

/* Tokens t0..t1 of x->f32 as blocks of struct fhk_q8. */
void fhk_avx2_quantise(struct fhk_act *x, uint32_t t0, uint32_t t1, uint32_t c0, uint32_t c1);
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
