// SPDX-License-Identifier: Apache-2.0
/*
 * Packing weights with AVX-512: the moves that kernels/pack.h builds on, 16
 * rows a vector.  Pure functions; the caller owns all memory.
 */
#include <immintrin.h>

#include "kernels/panel.h"

#define VROWS 16
typedef uint32_t vec __attribute__((vector_size(64)));
typedef uint8_t vec_bytes __attribute__((vector_size(64)));

/* Rows k, k + 4, k + 8 and k + 12 in the lanes of one vector: then four by four words are turned in each lane. */
FHK_INLINE __m512i load_lanes(const uint8_t *src, size_t stride)
{
	__m512i x = _mm512_castsi128_si512(_mm_loadu_si128((const __m128i *)src));

	x = _mm512_inserti32x4(x, _mm_loadu_si128((const __m128i *)(src + 4 * stride)), 1);
	x = _mm512_inserti32x4(x, _mm_loadu_si128((const __m128i *)(src + 8 * stride)), 2);
	return _mm512_inserti32x4(x, _mm_loadu_si128((const __m128i *)(src + 12 * stride)), 3);
}

FHK_INLINE void load_quads(const uint8_t *src, size_t stride, vec out[4])
{
	__m512i a = load_lanes(src, stride), b = load_lanes(src + stride, stride);
	__m512i c = load_lanes(src + 2 * stride, stride), d = load_lanes(src + 3 * stride, stride);
	__m512i ab = _mm512_unpacklo_epi32(a, b), cd = _mm512_unpacklo_epi32(c, d);

	out[0] = (vec)_mm512_unpacklo_epi64(ab, cd);
	out[1] = (vec)_mm512_unpackhi_epi64(ab, cd);
	ab = _mm512_unpackhi_epi32(a, b);
	cd = _mm512_unpackhi_epi32(c, d);
	out[2] = (vec)_mm512_unpacklo_epi64(ab, cd);
	out[3] = (vec)_mm512_unpackhi_epi64(ab, cd);
}

FHK_INLINE void put_bytes(uint8_t *dst, vec x)
{
	const __m512i bytes =
		_mm512_broadcast_i32x4(_mm_setr_epi8(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15));
	const __m512i words = _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);

	_mm512_storeu_si512(dst, _mm512_permutexvar_epi32(words, _mm512_shuffle_epi8((__m512i)x, bytes)));
}

FHK_INLINE void put_halves(uint8_t *dst, vec x)
{
	_mm256_storeu_si256((__m256i *)dst, _mm512_cvtepi32_epi16((__m512i)x));
}

#include "kernels/pack.h"

void fhk_avx512_pack(const struct fhk_mat *m, uint32_t expert, const void *src, uint32_t r0, uint32_t r1, void *dst)
{
	pack_rows(m, expert, src, r0, r1, dst);
}
