/* SPDX-License-Identifier: Apache-2.0 */
/* Vector functions of sixteen floats.  Pure. */
#ifndef FHK_AVX512_MATH_H
#define FHK_AVX512_MATH_H

#include <immintrin.h>

#include "kernels/panel.h"

/* The first @n of 16 lanes, n >= 0. */
FHK_INLINE __mmask16 fhk_first16(uint32_t n)
{
	return n >= 16 ? 0xffff : (__mmask16)((1u << n) - 1);
}

/*
 * exp(x) to about 2 ulp: x = n ln 2 + r, a Taylor series of degree 6 on
 * |r| <= ln 2 / 2.  Clamped to [-87, 88]; exp(0) is exactly 1.
 */
FHK_INLINE __m512 fhk_exp16(__m512 x)
{
	__m512 n, r, p;

	x = _mm512_min_ps(_mm512_max_ps(x, _mm512_set1_ps(-87.0f)), _mm512_set1_ps(88.0f));
	n = _mm512_roundscale_ps(_mm512_mul_ps(x, _mm512_set1_ps(1.44269504f)), _MM_FROUND_TO_NEAREST_INT);
	r = _mm512_fnmadd_ps(n, _mm512_set1_ps(0.693359375f), x);
	r = _mm512_fnmadd_ps(n, _mm512_set1_ps(-2.12194440e-4f), r);
	p = _mm512_set1_ps(1.0f / 720);
	p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(1.0f / 120));
	p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(1.0f / 24));
	p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(1.0f / 6));
	p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(0.5f));
	p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(1.0f));
	p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(1.0f));
	return _mm512_scalef_ps(p, n);
}

/* 1 / (1 + exp(-x)) */
FHK_INLINE __m512 fhk_sigmoid16(__m512 x)
{
	__m512 e = fhk_exp16(_mm512_sub_ps(_mm512_setzero_ps(), x));

	return _mm512_div_ps(_mm512_set1_ps(1.0f), _mm512_add_ps(e, _mm512_set1_ps(1.0f)));
}

FHK_INLINE __m512 fhk_tanh16(__m512 x)
{
	__m512 s = fhk_sigmoid16(_mm512_add_ps(x, x));

	return _mm512_fmsub_ps(s, _mm512_set1_ps(2.0f), _mm512_set1_ps(1.0f));
}

#endif /* FHK_AVX512_MATH_H */
