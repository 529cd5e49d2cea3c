// SPDX-License-Identifier: Apache-2.0
/*
 * Quantised weights times int8 activations, AVX2.
 *
 * A strip of 8 rows is walked unit by unit (32 columns).  Its bits are unpacked
 * once for up to four tokens; each token's whole-number dot products come from
 * vpmaddubsw and vpmaddwd without any rounding or saturation, and are scaled
 * and added to f32 sums unit after unit.  So one output is reduced in one
 * order, whatever the number of tokens beside it.
 *
 * No step saturates: unsigned weights below 2^4 times 127 fit eight times in
 * an int16 pair sum, below 2^5 four times, below 2^6 twice; signed ones go in
 * as |w| times (x with w's sign), which fits once.
 */
#include "kernels/avx2/avx2.h"
#include "kernels/quant.h"

#define INLINE static inline __attribute__((always_inline))
#define TILE 4 /* tokens that share one unpacking */

/* What is known of a type when the code is compiled. */
#define IS_SIGNED(t) ((t) == FHK_Q8_0 || (t) == FHK_IQ4_NL || (t) == FHK_IQ4_XS || (t) == FHK_MXFP4)
#define IS_HALVED(t) ((t) == FHK_Q2_K || (t) == FHK_Q3_K || (t) == FHK_Q6_K) /* a scale for each 16 columns */
#define HAS_MIN(t) ((t) == FHK_Q4_1 || (t) == FHK_Q5_1 || (t) == FHK_Q2_K || (t) == FHK_Q4_K || (t) == FHK_Q5_K)
#define HAS_SUPER(t)                                                                                                   \
	((t) == FHK_Q2_K || (t) == FHK_Q3_K || (t) == FHK_Q4_K || (t) == FHK_Q5_K || (t) == FHK_Q6_K ||                \
	 (t) == FHK_IQ4_XS)
/* vpmaddubsw results that may be added before they are widened */
#define RUN(t) (IS_SIGNED(t) ? 1 : (t) == FHK_Q6_K ? 2 : 4)

/* The scales of one unit: [half] of 8 rows. */
struct scales {
	__m256 d[2], m[2];
};

INLINE __m256i bytes8(const uint8_t *p, bool is_signed)
{
	__m128i b = _mm_loadl_epi64((const __m128i *)p);

	return is_signed ? _mm256_cvtepi8_epi32(b) : _mm256_cvtepu8_epi32(b);
}

INLINE __m256 halves8(const uint8_t *p)
{
	return _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)p));
}

INLINE void load_scales(const uint32_t type, const uint8_t *p, __m256 d, __m256 dmin, struct scales *s)
{
	__m256i v, w;

	switch (type) {
	case FHK_Q4_1:
	case FHK_Q5_1:
		s->d[0] = halves8(p);
		s->m[0] = halves8(p + 16);
		break;
	case FHK_Q2_K:
		for (int h = 0; h < 2; h++) {
			v = bytes8(p + 8 * h, false);
			w = _mm256_and_si256(v, _mm256_set1_epi32(15));
			s->d[h] = _mm256_mul_ps(d, _mm256_cvtepi32_ps(w));
			s->m[h] = _mm256_mul_ps(dmin, _mm256_cvtepi32_ps(_mm256_srli_epi32(v, 4)));
		}
		break;
	case FHK_Q3_K:
	case FHK_Q6_K:
		for (int h = 0; h < 2; h++)
			s->d[h] = _mm256_mul_ps(d, _mm256_cvtepi32_ps(bytes8(p + 8 * h, true)));
		break;
	case FHK_Q4_K:
	case FHK_Q5_K:
		s->d[0] = _mm256_mul_ps(d, _mm256_cvtepi32_ps(bytes8(p, false)));
		s->m[0] = _mm256_mul_ps(dmin, _mm256_cvtepi32_ps(bytes8(p + 8, false)));
		break;
	case FHK_IQ4_XS: s->d[0] = _mm256_mul_ps(d, _mm256_cvtepi32_ps(bytes8(p, true))); break;
	case FHK_MXFP4:
		v = bytes8(p, false);
		w = _mm256_cmpeq_epi32(v, _mm256_setzero_si256());
		v = _mm256_blendv_epi8(_mm256_slli_epi32(v, 23), _mm256_set1_epi32(0x00400000), w);
		s->d[0] = _mm256_mul_ps(_mm256_castsi256_ps(v), _mm256_set1_ps(0.5f));
		break;
	default: s->d[0] = halves8(p);
	}
}

INLINE __m256i table16(const int8_t *values)
{
	return _mm256_broadcastsi128_si256(_mm_loadu_si128((const __m128i *)values));
}

/* Bits (@mask) of each byte of @v from bit @shift on, moved to bit @to. */
INLINE __m256i bits(__m256i v, const int shift, const int mask, const int to)
{
	v = shift >= to ? _mm256_srli_epi16(v, shift - to) : _mm256_slli_epi16(v, to - shift);
	return _mm256_and_si256(v, _mm256_set1_epi8((char)(mask << to)));
}

/* The eight vectors of a unit whose planes begin at @p. */
INLINE void unpack(const uint32_t type, const uint8_t *p, __m256i q[8])
{
	const __m256i *plane = (const __m256i *)p;
	const bool p4 = type != FHK_Q8_0 && type != FHK_Q2_K && type != FHK_Q3_K;

#pragma GCC unroll 8
	for (int v = 0; v < 8; v++) {
		if (type == FHK_Q8_0)
			q[v] = _mm256_loadu_si256(plane + v);
		else if (p4)
			q[v] = bits(_mm256_loadu_si256(plane + v % 4), v / 4 * 4, 15, 0);
		else
			q[v] = bits(_mm256_loadu_si256(plane + v % 2), v / 2 * 2, 3, 0);
		if (type == FHK_IQ4_NL || type == FHK_IQ4_XS)
			q[v] = _mm256_shuffle_epi8(table16(fhk_iq4_values), q[v]);
		if (type == FHK_MXFP4)
			q[v] = _mm256_shuffle_epi8(table16(fhk_mxfp4_values), q[v]);
		if (type == FHK_Q5_0 || type == FHK_Q5_1 || type == FHK_Q5_K)
			q[v] = _mm256_or_si256(q[v], bits(_mm256_loadu_si256(plane + 4), v, 1, 4));
		if (type == FHK_Q6_K)
			q[v] = _mm256_or_si256(q[v], bits(_mm256_loadu_si256(plane + 4 + v % 2), v / 2 * 2, 3, 4));
		if (type == FHK_Q3_K)
			q[v] = _mm256_or_si256(q[v], bits(_mm256_loadu_si256(plane + 2), v, 1, 2));
	}
}

/* Vectors v0 .. v0 + n - 1 against the token's bytes: whole-number sums of 8 rows. */
INLINE __m256i dot(const uint32_t type, const __m256i q[8], const int8_t *x, const int v0, const int n)
{
	const __m256i ones = _mm256_set1_epi16(1);
	__m256i sum = _mm256_setzero_si256(), run = _mm256_setzero_si256();

#pragma GCC unroll 8
	for (int v = v0; v < v0 + n; v++) {
		int32_t four;
		__m256i b, pairs;

		memcpy(&four, x + 4 * v, 4);
		b = _mm256_set1_epi32(four);
		if (IS_SIGNED(type))
			pairs = _mm256_maddubs_epi16(_mm256_abs_epi8(q[v]), _mm256_sign_epi8(b, q[v]));
		else
			pairs = _mm256_maddubs_epi16(q[v], b);
		run = (v - v0) % RUN(type) ? _mm256_add_epi16(run, pairs) : pairs;
		if ((v - v0) % RUN(type) == RUN(type) - 1)
			sum = _mm256_add_epi32(sum, _mm256_madd_epi16(run, ones));
	}
	return sum;
}

/* One unit of one token: @x its 32 bytes, @scale and @sums its scale and half sums. */
INLINE __m256 unit_token(const uint32_t type, const int offset, const __m256i q[8], const struct scales *s,
			 const int8_t *x, float scale, const int32_t *sums, __m256 acc)
{
	const int nr = IS_HALVED(type) ? 2 : 1;

#pragma GCC unroll 2
	for (int h = 0; h < nr; h++) {
		int32_t sum = nr == 2 ? sums[h] : sums[0] + sums[1];
		__m256i whole = dot(type, q, x, h * 4, 8 / nr);

		if (offset)
			whole = _mm256_sub_epi32(whole, _mm256_set1_epi32(offset * sum));
		acc = _mm256_fmadd_ps(_mm256_cvtepi32_ps(whole), _mm256_mul_ps(s->d[h], _mm256_set1_ps(scale)), acc);
		if (HAS_MIN(type)) {
			__m256 x_sum = _mm256_set1_ps(scale * (float)sum);

			acc = HAS_SUPER(type) ? _mm256_fnmadd_ps(s->m[h], x_sum, acc)
					      : _mm256_fmadd_ps(s->m[h], x_sum, acc);
		}
	}
	return acc;
}

/*
 * One strip times @nr tokens.
 * x: [nr] rows as fhk_q8_row_bytes() says; out: [nr][8] f32
 */
INLINE void strip(const uint32_t type, const int nr, const uint8_t *p, uint32_t cols, uint32_t ld,
		  const int8_t *const *x, float (*out)[FHK_STRIP])
{
	const struct fhk_qlayout *l = fhk_avx2_qlayout(type);
	const uint32_t unit_bytes = fhk_q_unit_bytes(l), scale_bytes = l->scale_bytes;
	const int offset = l->offset;
	__m256 acc[TILE], d = _mm256_setzero_ps(), dmin = _mm256_setzero_ps();

	for (int t = 0; t < nr; t++)
		acc[t] = _mm256_setzero_ps();
	for (uint32_t n = 0; n < cols / UNIT_COLS; n++) {
		struct scales s;
		__m256i q[8];

		if (HAS_SUPER(type) && n % 8 == 0) {
			d = halves8(p);
			if (HAS_MIN(type))
				dmin = halves8(p + 16);
			p += HAS_MIN(type) ? 32 : 16;
		}
		load_scales(type, p, d, dmin, &s);
		unpack(type, p + scale_bytes, q);
		for (int t = 0; t < nr; t++) {
			const float *scale = (const float *)(x[t] + ld);
			const int32_t *sums = (const int32_t *)(scale + ld / 32);

			acc[t] = unit_token(type, offset, q, &s, x[t] + n * UNIT_COLS, scale[n], sums + 2 * n, acc[t]);
		}
		p += unit_bytes;
	}
	for (int t = 0; t < nr; t++)
		_mm256_storeu_ps(out[t], acc[t]);
}

#define STRIP_FN(name, type)                                                                                           \
	static void name(int nr, const uint8_t *p, uint32_t cols, uint32_t ld, const int8_t *const *x,                 \
			 float(*out)[FHK_STRIP])                                                                       \
	{                                                                                                              \
		switch (nr) {                                                                                          \
		case 1: strip(type, 1, p, cols, ld, x, out); break;                                                    \
		case 2: strip(type, 2, p, cols, ld, x, out); break;                                                    \
		case 3: strip(type, 3, p, cols, ld, x, out); break;                                                    \
		default: strip(type, 4, p, cols, ld, x, out);                                                          \
		}                                                                                                      \
	}

STRIP_FN(strip_q4_0, FHK_Q4_0)
STRIP_FN(strip_q4_1, FHK_Q4_1)
STRIP_FN(strip_q5_0, FHK_Q5_0)
STRIP_FN(strip_q5_1, FHK_Q5_1)
STRIP_FN(strip_q8_0, FHK_Q8_0)
STRIP_FN(strip_q2_k, FHK_Q2_K)
STRIP_FN(strip_q3_k, FHK_Q3_K)
STRIP_FN(strip_q4_k, FHK_Q4_K)
STRIP_FN(strip_q5_k, FHK_Q5_K)
STRIP_FN(strip_q6_k, FHK_Q6_K)
STRIP_FN(strip_iq4_nl, FHK_IQ4_NL)
STRIP_FN(strip_iq4_xs, FHK_IQ4_XS)
STRIP_FN(strip_mxfp4, FHK_MXFP4)

typedef void (*strip_fn)(int nr, const uint8_t *p, uint32_t cols, uint32_t ld, const int8_t *const *x,
			 float (*out)[FHK_STRIP]);

static const strip_fn strip_fns[] = {
	[FHK_Q4_0] = strip_q4_0,   [FHK_Q4_1] = strip_q4_1, [FHK_Q5_0] = strip_q5_0,	 [FHK_Q5_1] = strip_q5_1,
	[FHK_Q8_0] = strip_q8_0,   [FHK_Q2_K] = strip_q2_k, [FHK_Q3_K] = strip_q3_k,	 [FHK_Q4_K] = strip_q4_k,
	[FHK_Q5_K] = strip_q5_k,   [FHK_Q6_K] = strip_q6_k, [FHK_IQ4_NL] = strip_iq4_nl, [FHK_IQ4_XS] = strip_iq4_xs,
	[FHK_MXFP4] = strip_mxfp4,
};

void fhk_avx2_matmul_q(const struct fhk_mat *m, uint32_t expert, const struct fhk_act *x, const uint32_t *idx,
		       uint32_t nr, uint32_t r0, uint32_t r1, float *y, size_t ldy, unsigned int flags)
{
	size_t strip_bytes = fhk_q_strip_bytes(fhk_avx2_qlayout(m->type), m->cols), row_bytes = fhk_q8_row_bytes(x->ld);
	const uint8_t *w = (const uint8_t *)m->data + expert * m->expert_bytes;
	const int8_t *act = x->form[FHK_FORM_Q8];

	for (uint32_t r = r0; r < r1; r += FHK_STRIP) {
		uint32_t rows = r1 - r < FHK_STRIP ? r1 - r : FHK_STRIP;

		for (uint32_t t = 0; t < nr; t += TILE) {
			uint32_t n = nr - t < TILE ? nr - t : TILE;
			float out[TILE][FHK_STRIP];
			const int8_t *from[TILE];

			for (uint32_t i = 0; i < n; i++)
				from[i] = act + (idx ? idx[t + i] : t + i) * row_bytes;
			strip_fns[m->type]((int)n, w + r / FHK_STRIP * strip_bytes, m->cols, x->ld, from, out);
			for (uint32_t i = 0; i < n; i++) {
				float *to = y + (t + i) * ldy + (r - r0);

				for (uint32_t j = 0; j < rows; j++)
					to[j] = flags & FHK_ADD ? to[j] + out[i][j] : out[i][j];
			}
		}
	}
}
