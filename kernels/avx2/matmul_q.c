// SPDX-License-Identifier: Apache-2.0
/*
 * Activations to int8, and quantised weights times them, AVX2.
 *
 * Half a panel, 8 rows, is walked block by block (32 columns).  Its bits are
 * unpacked once for up to four tokens; each token's whole-number dot products
 * come from vpmaddubsw and vpmaddwd without any rounding or saturation, and are
 * scaled and added to f32 sums block after block.  One token by itself, which
 * waits for memory, takes both halves of a block before the next, so that each
 * line is visited once.  Whole numbers add up to the same in any order, and the
 * f32 sums know one: an output does not depend on the tokens beside it.
 *
 * No step saturates: unsigned weights below 2^4 times 127 fit eight times in
 * an int16 pair sum, below 2^5 four times, below 2^6 twice; signed ones go in
 * as |w| times (x with w's sign), which fits once.
 */
#include "kernels/avx2/avx2.h"
#include "kernels/quant.h"

#define ROWS 8	   /* in a vector, half a panel */
#define TILE 4	   /* tokens that share one unpacking */
#define AHEAD 4096 /* bytes to prefetch ahead, past the panel's end into the next */

/* Weights of one block whose bits stand for signed numbers; the others are unsigned, with a zero point or minimum. */
FHK_INLINE bool is_signed(uint32_t type)
{
	return type == FHK_Q8_0 || type == FHK_IQ4_NL || type == FHK_IQ4_XS;
}

/* vpmaddubsw results that may be added before they are widened */
FHK_INLINE int run_length(uint32_t type)
{
	switch (type) {
	case FHK_Q8_0:
	case FHK_IQ4_NL:
	case FHK_IQ4_XS: return 1;
	case FHK_Q6_K: return 2;
	case FHK_Q4_0:
	case FHK_Q4_1:
	case FHK_Q4_K: return 8;
	default: return 4;
	}
}

/* The scales of one block: [half] of 8 rows, and what is added. */
struct scales {
	__m256 d[2], m[2];
};

FHK_INLINE __m256i bytes8(const uint8_t *p, bool is_signed)
{
	__m128i b = _mm_loadl_epi64((const __m128i *)p);

	return is_signed ? _mm256_cvtepi8_epi32(b) : _mm256_cvtepu8_epi32(b);
}

FHK_INLINE __m256 halves8(const uint8_t *p)
{
	return _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)p));
}

FHK_INLINE __m256 floats8(const uint8_t *p, bool negative)
{
	return _mm256_cvtepi32_ps(bytes8(p, negative));
}

/* Block @b of the group whose head is at @head, rows @r .. @r + 7; @super: d and minus dmin of the group */
FHK_INLINE void load_scales(uint32_t type, const uint8_t *head, const __m256 super[2], uint32_t b, uint32_t r,
			    struct scales *s)
{
	const uint8_t *k = head + 64 + r;
	__m256i v;

	switch (type) {
	case FHK_Q4_K:
	case FHK_Q5_K:
		s->d[0] = _mm256_mul_ps(super[0], floats8(k + 16 * b, false));
		s->m[0] = _mm256_mul_ps(super[1], floats8(k + 128 + 16 * b, false));
		break;
	case FHK_IQ4_XS: s->d[0] = _mm256_mul_ps(super[0], floats8(k + 16 * b, true)); break;
	case FHK_Q3_K:
	case FHK_Q6_K:
		s->d[0] = _mm256_mul_ps(super[0], floats8(k + 32 * b, true));
		s->d[1] = _mm256_mul_ps(super[0], floats8(k + 32 * b + 16, true));
		break;
	case FHK_Q2_K:
		for (int h = 0; h < 2; h++) {
			__m256i low;

			v = bytes8(k + 32 * b + 16 * h, false);
			low = _mm256_and_si256(v, _mm256_set1_epi32(15));
			s->d[h] = _mm256_mul_ps(super[0], _mm256_cvtepi32_ps(low));
			s->m[h] = _mm256_mul_ps(super[1], _mm256_cvtepi32_ps(_mm256_srli_epi32(v, 4)));
		}
		break;
	case FHK_MXFP4: /* half of 2^(e - 127), because the table holds twice the values; e = 0 is subnormal */
		v = _mm256_slli_epi32(bytes8(head + 16 * b + r, false), 23);
		v = _mm256_max_epu32(v, _mm256_set1_epi32(0x00400000));
		s->d[0] = _mm256_mul_ps(_mm256_castsi256_ps(v), _mm256_set1_ps(0.5f));
		break;
	default:
		s->d[0] = halves8(head + 32 * b + 2 * r);
		if (fhk_has_min(type))
			s->m[0] = halves8(head + 256 + 32 * b + 2 * r);
	}
}

FHK_INLINE __m256i table16(const int8_t *values, int offset)
{
	__m128i v = _mm_add_epi8(_mm_loadu_si128((const __m128i *)values), _mm_set1_epi8((char)offset));

	return _mm256_broadcastsi128_si256(v);
}

/* Bits (@mask) of each byte of @v from bit @shift on, moved to bit @to. */
FHK_INLINE __m256i bits(__m256i v, const int shift, const int mask, const int to)
{
	v = shift >= to ? _mm256_srli_epi16(v, shift - to) : _mm256_slli_epi16(v, to - shift);
	return _mm256_and_si256(v, _mm256_set1_epi8((char)(mask << to)));
}

/* Quad @v of columns of a block whose planes begin at @p, rows @r .. @r + 7 */
FHK_INLINE __m256i unpack(uint32_t type, const uint8_t *p, uint32_t r, const int v)
{
#define PLANE(i) _mm256_load_si256((const __m256i *)(p + 64 * (i) + 4 * r))
	__m256i q;

	if (type == FHK_Q8_0)
		return _mm256_xor_si256(PLANE(v), _mm256_set1_epi8((char)0x80));
	if (type == FHK_Q2_K || type == FHK_Q3_K)
		q = bits(PLANE(v / 4), v % 4 * 2, 3, 0);
	else
		q = bits(PLANE(v % 4), v / 4 * 4, 15, 0);
	switch (type) {
	case FHK_IQ4_NL:
	case FHK_IQ4_XS: return _mm256_shuffle_epi8(table16(fhk_iq4_values, 0), q);
	case FHK_MXFP4: return _mm256_shuffle_epi8(table16(fhk_mxfp4_values, 16), q);
	case FHK_Q5_0:
	case FHK_Q5_1:
	case FHK_Q5_K: return _mm256_or_si256(q, bits(PLANE(4), v, 1, 4));
	case FHK_Q6_K: return _mm256_or_si256(q, bits(PLANE(4 + v / 4), v % 4 * 2, 3, 4));
	case FHK_Q3_K: return _mm256_or_si256(q, bits(PLANE(2), v, 1, 2));
	default: return q;
	}
#undef PLANE
}

FHK_INLINE __m256i quad(const int8_t *q, int v)
{
	int32_t x;

	memcpy(&x, q + 4 * v, 4);
	return _mm256_set1_epi32(x);
}

/* Sixteen sums of two products each: a quad of 8 rows times a token's four bytes, in each lane of @x */
FHK_INLINE __m256i products(uint32_t type, __m256i w, __m256i x)
{
	if (is_signed(type))
		return _mm256_maddubs_epi16(_mm256_abs_epi8(w), _mm256_sign_epi8(x, w));
	return _mm256_maddubs_epi16(w, x);
}

/* The dot products of part @h of a block as floats; @whole: of the weights as they are stored */
FHK_INLINE __m256 dots(uint32_t type, __m256i whole, const struct fhk_q8 *x, int h)
{
	const int shift = fhk_zero_shift(type), up = shift > 3 ? shift - 3 : 0;

	if (is_signed(type) || fhk_has_min(type))
		return _mm256_cvtepi32_ps(whole);
	if (fhk_is_sub16(type)) {
		whole = _mm256_add_epi32(whole, _mm256_slli_epi32(_mm256_set1_epi32(x->nsum16[h]), shift));
		return _mm256_cvtepi32_ps(whole);
	}
	if (shift == 3) {
		whole = _mm256_add_epi32(whole, _mm256_set1_epi32(x->start8));
		return _mm256_sub_ps(_mm256_castsi256_ps(whole), _mm256_set1_ps(FHK_MAGIC));
	}
	whole = _mm256_add_epi32(whole, _mm256_slli_epi32(_mm256_set1_epi32(x->start8), up));
	whole = _mm256_sub_epi32(whole, _mm256_set1_epi32((int32_t)((uint32_t)FHK_MAGIC_BITS << up)));
	return _mm256_cvtepi32_ps(whole);
}

/* sum + part @h of a block, whose whole-number dot products are @whole */
FHK_INLINE __m256 scale(uint32_t type, __m256i whole, const struct scales *s, const struct fhk_q8 *x, int h, __m256 sum)
{
	sum = _mm256_fmadd_ps(dots(type, whole, x, h), _mm256_mul_ps(s->d[h], _mm256_set1_ps(x->d)), sum);
	if (fhk_has_min(type))
		sum = _mm256_fmadd_ps(s->m[h], _mm256_set1_ps(fhk_is_sub16(type) ? x->fsum16[h] : x->fsum), sum);
	return sum;
}

/* One token's sums of a quad, @two, join those of the quads before it, of which @v is the number in their part. */
FHK_INLINE void join(uint32_t type, int v, __m256i two, __m256i *pairs, __m256i *whole)
{
	const int run = run_length(type);
	const __m256i ones = _mm256_set1_epi16(1);

	*pairs = v % run ? _mm256_add_epi16(*pairs, two) : two;
	if (v == run - 1)
		*whole = _mm256_madd_epi16(*pairs, ones);
	else if (v % run == run - 1)
		*whole = _mm256_add_epi32(*whole, _mm256_madd_epi16(*pairs, ones));
}

/* sums[t] += block of weights . x[t][at], 8 rows: all quads unpacked, then token by token */
FHK_INLINE void add_narrow(uint32_t type, const uint8_t *p, uint32_t r, const struct scales *s,
			   const struct fhk_q8 *const *x, size_t at, const int nr, __m256 *sums)
{
	__m256i w[8];

#pragma GCC unroll 8
	for (int v = 0; v < 8; v++)
		w[v] = unpack(type, p, r, v);
	for (int t = 0; t < nr; t++) {
		const struct fhk_q8 *xt = &x[t][at];
		__m256i pairs, whole;

#pragma GCC unroll 8
		for (int v = 0; v < 8; v++)
			join(type, v, products(type, w[v], quad(xt->q, v)), &pairs, &whole);
		sums[t] = scale(type, whole, s, xt, 0, sums[t]);
	}
}

/* The same quad by quad, which takes fewer registers, for sums that must be widened on the way */
FHK_INLINE void add_wide(uint32_t type, const uint8_t *p, uint32_t r, const struct scales *s,
			 const struct fhk_q8 *const *x, size_t at, const int nr, __m256 *sums)
{
	const int part = fhk_is_sub16(type) ? 4 : 8;
	__m256i whole[TILE], pairs[TILE];

#pragma GCC unroll 8
	for (int v = 0; v < 8; v++) {
		__m256i w = unpack(type, p, r, v);

		for (int t = 0; t < nr; t++)
			join(type, v % part, products(type, w, quad(x[t][at].q, v)), &pairs[t], &whole[t]);
		for (int t = 0; v % part == part - 1 && t < nr; t++)
			sums[t] = scale(type, whole[t], s, &x[t][at], v / part, sums[t]);
	}
}

/* The lines of @bytes from @p on, AHEAD of them */
FHK_INLINE void prefetch(const uint8_t *p, uint32_t bytes)
{
	for (uint32_t line = 0; line < bytes; line += 64)
		_mm_prefetch((const char *)p + AHEAD + line, _MM_HINT_T0);
}

FHK_INLINE void load_super(uint32_t type, const uint8_t *head, uint32_t r, __m256 super[2])
{
	if (!fhk_is_super(type))
		return;
	super[0] = halves8(head + 2 * r);
	super[1] = _mm256_sub_ps(_mm256_setzero_ps(), halves8(head + 32 + 2 * r));
}

/*
 * Rows r .. r + 7 of a panel times @nr tokens; @fetch: nobody has read its lines yet
 * x: [nr] rows of blocks; out: 8 f32 a token, FHK_PANEL from one to the next
 */
FHK_INLINE void half_panel(uint32_t type, const int nr, const uint8_t *p, uint32_t nr_blocks, uint32_t r, bool fetch,
			   const struct fhk_q8 *const *x, float *out)
{
	__m256 sums[TILE], super[2];

	for (int t = 0; t < nr; t++)
		sums[t] = _mm256_setzero_ps();
	for (uint32_t g = 0; g < nr_blocks; g += FHK_GROUP) {
		uint32_t n = nr_blocks - g < FHK_GROUP ? nr_blocks - g : FHK_GROUP;
		const uint8_t *head = p;

		if (fetch)
			prefetch(head, fhk_head_bytes(type));
		load_super(type, head, r, super);
		p += fhk_head_bytes(type);
		for (uint32_t b = 0; b < n; b++, p += fhk_plane_bytes(type)) {
			struct scales s;

			if (fetch)
				prefetch(p, fhk_plane_bytes(type));
			load_scales(type, head, super, b, r, &s);
			if (run_length(type) == 8)
				add_narrow(type, p, r, &s, x, g + b, nr, sums);
			else
				add_wide(type, p, r, &s, x, g + b, nr, sums);
		}
	}
	for (int t = 0; t < nr; t++)
		_mm256_storeu_ps(out + FHK_PANEL * t, sums[t]);
}

/*
 * Sixteen rows of a panel times one token, each line of it visited once.  Both
 * halves share the token's broadcasts, and sum in the order of half_panel().
 * x: row of blocks; out: [16] f32
 */
FHK_INLINE void whole_panel(uint32_t type, const uint8_t *p, uint32_t nr_blocks, const struct fhk_q8 *x, float *out)
{
	const int part = fhk_is_sub16(type) ? 4 : 8;
	__m256 sums[2] = {_mm256_setzero_ps(), _mm256_setzero_ps()}, super[2][2];

	for (uint32_t g = 0; g < nr_blocks; g += FHK_GROUP) {
		uint32_t n = nr_blocks - g < FHK_GROUP ? nr_blocks - g : FHK_GROUP;
		const uint8_t *head = p;

		prefetch(head, fhk_head_bytes(type));
		for (int h = 0; h < 2; h++)
			load_super(type, head, ROWS * h, super[h]);
		p += fhk_head_bytes(type);
		for (uint32_t b = 0; b < n; b++, p += fhk_plane_bytes(type), x++) {
			__m256i whole[2], pairs[2];
			struct scales s[2];

			prefetch(p, fhk_plane_bytes(type));
#pragma GCC unroll 8
			for (int i = 0; i < 8; i++) {
				/* a vector of nibbles is done with before the next, where all quads are summed */
				int v = run_length(type) == 8 ? i / 2 + i % 2 * 4 : i;
				__m256i four = quad(x->q, v);

				for (int h = 0; h < 2; h++)
					join(type, i % part, products(type, unpack(type, p, ROWS * h, v), four),
					     &pairs[h], &whole[h]);
				for (int h = 0; h < 2 && i % part == part - 1; h++) {
					if (i < part)
						load_scales(type, head, super[h], b, ROWS * h, &s[h]);
					sums[h] = scale(type, whole[h], &s[h], x, i / part, sums[h]);
				}
			}
		}
	}
	for (int h = 0; h < 2; h++)
		_mm256_storeu_ps(out + ROWS * h, sums[h]);
}

/*
 * The first @rows of a panel, or more, times @nr tokens
 * out: [nr][16] f32
 */
FHK_INLINE void two_halves(uint32_t type, const int nr, const uint8_t *p, uint32_t nr_blocks, uint32_t rows, bool fetch,
			   const struct fhk_q8 *const *x, float *out)
{
	for (uint32_t r = 0; r < rows; r += ROWS)
		half_panel(type, nr, p, nr_blocks, r, fetch && !r, x, out + r);
}

typedef void (*panel_fn)(int nr, const uint8_t *p, uint32_t nr_blocks, uint32_t rows, bool fetch,
			 const struct fhk_q8 *const *x, float *out);

#define PANEL(T)                                                                                                       \
	static void panel_##T(int nr, const uint8_t *p, uint32_t nr_blocks, uint32_t rows, bool fetch,                 \
			      const struct fhk_q8 *const *x, float *out)                                               \
	{                                                                                                              \
		switch (nr) {                                                                                          \
		case 1: whole_panel(FHK_##T, p, nr_blocks, x[0], out); break;                                          \
		case 2: two_halves(FHK_##T, 2, p, nr_blocks, rows, fetch, x, out); break;                              \
		case 3: two_halves(FHK_##T, 3, p, nr_blocks, rows, fetch, x, out); break;                              \
		default: two_halves(FHK_##T, TILE, p, nr_blocks, rows, fetch, x, out);                                 \
		}                                                                                                      \
	}
PANEL(Q4_0)
PANEL(Q4_1)
PANEL(Q5_0)
PANEL(Q5_1)
PANEL(Q8_0)
PANEL(Q2_K)
PANEL(Q3_K)
PANEL(Q4_K)
PANEL(Q5_K)
PANEL(Q6_K)
PANEL(IQ4_NL)
PANEL(IQ4_XS)
PANEL(MXFP4)

static const panel_fn panel_fns[] = {
	[FHK_Q4_0] = panel_Q4_0,   [FHK_Q4_1] = panel_Q4_1, [FHK_Q5_0] = panel_Q5_0,	 [FHK_Q5_1] = panel_Q5_1,
	[FHK_Q8_0] = panel_Q8_0,   [FHK_Q2_K] = panel_Q2_K, [FHK_Q3_K] = panel_Q3_K,	 [FHK_Q4_K] = panel_Q4_K,
	[FHK_Q5_K] = panel_Q5_K,   [FHK_Q6_K] = panel_Q6_K, [FHK_IQ4_NL] = panel_IQ4_NL, [FHK_IQ4_XS] = panel_IQ4_XS,
	[FHK_MXFP4] = panel_MXFP4,
};

void fhk_avx2_matmul_q(const struct fhk_mat *m, uint32_t expert, const struct fhk_act *x, const uint32_t *idx,
		       uint32_t nr, uint32_t r0, uint32_t r1, float *y, size_t ldy, unsigned int flags)
{
	size_t panel_bytes = fhk_panel_bytes(m->type, m->cols);
	const uint8_t *w = (const uint8_t *)m->data + expert * m->expert_bytes;
	const struct fhk_q8 *act = x->form[FHK_FORM_Q8];

	for (uint32_t r = r0; r < r1; r += FHK_PANEL) {
		uint32_t rows = r1 - r < FHK_PANEL ? r1 - r : FHK_PANEL;

		for (uint32_t t = 0; t < nr; t += TILE) {
			uint32_t n = nr - t < TILE ? nr - t : TILE;
			const struct fhk_q8 *from[TILE];
			float out[TILE * FHK_PANEL];

			for (uint32_t i = 0; i < n; i++)
				from[i] = act + (size_t)(idx ? idx[t + i] : t + i) * (x->ld / 32);
			panel_fns[m->type]((int)n, w + r / FHK_PANEL * panel_bytes, m->cols / 32, rows, !t, from, out);
			for (uint32_t i = 0; i < n; i++) {
				const float *sums = out + i * FHK_PANEL;
				float *to = y + (t + i) * ldy + (r - r0);

				for (uint32_t j = 0; j < rows; j++)
					to[j] = flags & FHK_ADD ? to[j] + sums[j] : sums[j];
			}
		}
	}
}

static __m256 abs_max8(const float *x, __m256 max)
{
	return _mm256_max_ps(max, _mm256_andnot_ps(_mm256_set1_ps(-0.0f), _mm256_loadu_ps(x)));
}

/* Sum of sixteen int16 */
static int32_t sum16(__m256i v)
{
	__m128i s;

	v = _mm256_madd_epi16(v, _mm256_set1_epi16(1));
	s = _mm_add_epi32(_mm256_castsi256_si128(v), _mm256_extracti128_si256(v, 1));
	s = _mm_add_epi32(s, _mm_shuffle_epi32(s, 0x4e));
	s = _mm_add_epi32(s, _mm_shuffle_epi32(s, 0xb1));
	return _mm_cvtsi128_si32(s);
}

/* x: [32] f32 */
static void quantise32(const float *x, struct fhk_q8 *b)
{
	__m256 max = abs_max8(x, abs_max8(x + 8, abs_max8(x + 16, abs_max8(x + 24, _mm256_setzero_ps()))));
	float top = fhk_hmax(max);
	__m256 inverse = _mm256_set1_ps(top > 0 ? 127.0f / top : 0);
	__m256i v[4], words[2];
	int32_t nsum;

	for (int i = 0; i < 4; i++)
		v[i] = _mm256_cvtps_epi32(_mm256_mul_ps(_mm256_loadu_ps(x + 8 * i), inverse));
	for (int i = 0; i < 2; i++)
		words[i] = _mm256_permute4x64_epi64(_mm256_packs_epi32(v[2 * i], v[2 * i + 1]), 0xd8);
	_mm256_storeu_si256((__m256i *)b->q, _mm256_permute4x64_epi64(_mm256_packs_epi16(words[0], words[1]), 0xd8));
	b->d = top / 127.0f;
	for (int h = 0; h < 2; h++) {
		int32_t sum = sum16(words[h]);

		b->nsum16[h] = -sum;
		b->fsum16[h] = b->d * (float)sum;
	}
	nsum = b->nsum16[0] + b->nsum16[1];
	b->start8 = FHK_MAGIC_BITS + 8 * nsum;
	b->start128 = FHK_MAGIC_BITS + 128 * nsum;
	b->fsum = b->d * (float)-nsum;
}

void fhk_avx2_quantise(struct fhk_act *x, uint32_t t0, uint32_t t1, uint32_t c0, uint32_t c1)
{
	uint32_t nr = x->ld / 32;

	for (uint32_t t = t0; t < t1; t++)
		for (uint32_t i = c0 / 32; i < c1 / 32; i++)
			quantise32(x->f32 + (size_t)t * x->ld + 32 * i,
				   (struct fhk_q8 *)x->form[FHK_FORM_Q8] + (size_t)t * nr + i);
}
