// SPDX-License-Identifier: Apache-2.0
/*
 * Packing weights with AVX2: the moves that kernels/pack.h builds on, 8 rows a
 * vector.  Pure functions; the caller owns all memory.
 */
#include <immintrin.h>
#include <string.h>

#include "kernels/avx2/avx2.h"

#define VROWS 8
typedef uint32_t vec __attribute__((vector_size(32)));
typedef uint8_t vec_bytes __attribute__((vector_size(32)));

/* Rows k and k + 4 in the lanes of one vector: then four by four words are turned in each lane. */
FHK_INLINE __m256i load_lanes(const uint8_t *src, size_t stride)
{
	__m256i x = _mm256_castsi128_si256(_mm_loadu_si128((const __m128i *)src));

	return _mm256_inserti128_si256(x, _mm_loadu_si128((const __m128i *)(src + 4 * stride)), 1);
}

FHK_INLINE void load_quads(const uint8_t *src, size_t stride, vec out[4])
{
	__m256i a = load_lanes(src, stride), b = load_lanes(src + stride, stride);
	__m256i c = load_lanes(src + 2 * stride, stride), d = load_lanes(src + 3 * stride, stride);
	__m256i ab = _mm256_unpacklo_epi32(a, b), cd = _mm256_unpacklo_epi32(c, d);

	out[0] = (vec)_mm256_unpacklo_epi64(ab, cd);
	out[1] = (vec)_mm256_unpackhi_epi64(ab, cd);
	ab = _mm256_unpackhi_epi32(a, b);
	cd = _mm256_unpackhi_epi32(c, d);
	out[2] = (vec)_mm256_unpacklo_epi64(ab, cd);
	out[3] = (vec)_mm256_unpackhi_epi64(ab, cd);
}

FHK_INLINE void put_bytes(uint8_t *dst, vec x)
{
	const __m256i bytes =
		_mm256_broadcastsi128_si256(_mm_setr_epi8(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15));
	const __m256i words = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7);
	__m256i y = _mm256_permutevar8x32_epi32(_mm256_shuffle_epi8((__m256i)x, bytes), words);
	uint64_t eight[4];

	_mm256_storeu_si256((__m256i *)eight, y);
	for (int i = 0; i < 4; i++)
		memcpy(dst + 16 * i, &eight[i], 8);
}

FHK_INLINE void put_halves(uint8_t *dst, vec x)
{
	const __m256i low =
		_mm256_broadcastsi128_si256(_mm_setr_epi8(0, 1, 4, 5, 8, 9, 12, 13, -1, -1, -1, -1, -1, -1, -1, -1));
	__m256i y = _mm256_permute4x64_epi64(_mm256_shuffle_epi8((__m256i)x, low), 0x08);

	_mm_storeu_si128((__m128i *)dst, _mm256_castsi256_si128(y));
}

#include "kernels/pack.h"

void fhk_avx2_pack(const struct fhk_mat *m, uint32_t expert, const void *src, uint32_t r0, uint32_t r1, void *dst)
{
	pack_rows(m, expert, src, r0, r1, dst);
}
