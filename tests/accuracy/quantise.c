// SPDX-License-Identifier: Apache-2.0
/*
 * Quantises weights to every type, by rounding to the nearest: no search for
 * better scales, no importance.  What comes out is a valid file of its type and
 * the same bytes everywhere, so that another engine's figure for it can be
 * committed; it is not how good the type can be.
 *
 * A block's scale comes from the weight of the largest magnitude, which takes
 * the code at the end of the range that has one more; where a type has an
 * offset, from the least and the largest.  Scales are rounded as the format
 * keeps them before the codes are chosen.  The layouts are those that
 * kernels/quant.c reads.  Only additions, multiplications, divisions and
 * roundings: IEEE 754 says what they give.
 */
#include <math.h>
#include <string.h>

#include "kernels/half.h"
#include "kernels/kernels.h"
#include "kernels/quant.h"
#include "tests/accuracy/quantise.h"

#define SUPER 256

static int clamp(float v, int lo, int hi)
{
	float r = rintf(v);

	return r < (float)lo ? lo : r > (float)hi ? hi : (int)r;
}

static float over(float a, float b)
{
	return b != 0 ? a / b : 0; /* a block of zeros has the scale 0 */
}

/* The element of the largest magnitude, with its sign. */
static float extreme(const float *x, int n)
{
	float v = 0;

	for (int i = 0; i < n; i++)
		if (fabsf(x[i]) > fabsf(v))
			v = x[i];
	return v;
}

static void range(const float *x, int n, float *min, float *max)
{
	*min = *max = x[0];
	for (int i = 1; i < n; i++) {
		*min = x[i] < *min ? x[i] : *min;
		*max = x[i] > *max ? x[i] : *max;
	}
}

/* As the file keeps it. */
static float put_f16(uint8_t *b, float v)
{
	uint16_t h = fhk_f32_f16(v);

	memcpy(b, &h, sizeof(h));
	return fhk_f16_f32(h);
}

/* The code of the value nearest to @v; the lowest of equals. */
static int nearest(const int8_t *values, float v)
{
	int best = 0;

	for (int i = 1; i < 16; i++)
		if (fabsf(v - (float)values[i]) < fabsf(v - (float)values[best]))
			best = i;
	return best;
}

/* 32 codes of four bits; the fifth bits go to @qh if there is one. */
static void put_codes(const int *q, uint8_t *qs, uint8_t *qh)
{
	uint32_t high = 0;

	for (int j = 0; j < 16; j++) {
		qs[j] = (uint8_t)((q[j] & 15) | (q[j + 16] & 15) << 4);
		high |= (uint32_t)(q[j] >> 4 & 1) << j | (uint32_t)(q[j + 16] >> 4 & 1) << (j + 16);
	}
	if (qh)
		fhk_st32(qh, high);
}

static void symmetric(const float *x, uint8_t *b, int zero, uint8_t *qs, uint8_t *qh)
{
	float d = put_f16(b, extreme(x, 32) / (float)-zero);
	int q[32];

	for (int i = 0; i < 32; i++)
		q[i] = clamp(over(x[i], d), -zero, zero - 1) + zero;
	put_codes(q, qs, qh);
}

static void affine(const float *x, uint8_t *b, int most, uint8_t *qs, uint8_t *qh)
{
	float min, max, d, m;
	int q[32];

	range(x, 32, &min, &max);
	d = put_f16(b, (max - min) / (float)most);
	m = put_f16(b + 2, min);
	for (int i = 0; i < 32; i++)
		q[i] = clamp(over(x[i] - m, d), 0, most);
	put_codes(q, qs, qh);
}

static void q4_0(const float *x, uint8_t *b)
{
	symmetric(x, b, 8, b + 2, NULL);
}

static void q5_0(const float *x, uint8_t *b)
{
	symmetric(x, b, 16, b + 6, b + 2);
}

static void q4_1(const float *x, uint8_t *b)
{
	affine(x, b, 15, b + 4, NULL);
}

static void q5_1(const float *x, uint8_t *b)
{
	affine(x, b, 31, b + 8, b + 4);
}

static void q8_0(const float *x, uint8_t *b)
{
	float d = put_f16(b, fabsf(extreme(x, 32)) / 127);

	for (int i = 0; i < 32; i++)
		b[2 + i] = (uint8_t)clamp(over(x[i], d), -127, 127);
}

static void iq4_nl(const float *x, uint8_t *b)
{
	float d = put_f16(b, extreme(x, 32) / -127);
	int q[32];

	for (int i = 0; i < 32; i++)
		q[i] = nearest(fhk_iq4_values, over(x[i], d));
	put_codes(q, b + 2, NULL);
}

/* A power of two such that the largest magnitude lies between 4 and 8: 6 is the largest code. */
static void mxfp4(const float *x, uint8_t *b)
{
	int e = 0, q[32];
	float d;

	(void)frexpf(extreme(x, 32), &e);
	b[0] = (uint8_t)clamp((float)(e - 3 + 127), 0, 254);
	d = fhk_e8m0_f32(b[0]) * 0.5F; /* the table holds twice the values */
	for (int i = 0; i < 32; i++)
		q[i] = nearest(fhk_mxfp4_values, x[i] / d);
	put_codes(q, b + 1, NULL);
}

/*
 * The scales of a super-block's @nr parts, each s[i]: one f16 for all, at @d,
 * and integers of -@zero .. @zero - 1.
 */
static float put_scales(uint8_t *d, const float *s, int nr, int zero, int *out)
{
	float all = put_f16(d, extreme(s, nr) / (float)-zero);

	for (int i = 0; i < nr; i++)
		out[i] = clamp(over(s[i], all), -zero, zero - 1);
	return all;
}

/* The same for scales and minimums that are never negative: integers of 0..@most. */
static float put_positive(uint8_t *d, const float *s, int nr, int most, int *out)
{
	float all = put_f16(d, extreme(s, nr) / (float)most);

	for (int i = 0; i < nr; i++)
		out[i] = clamp(over(s[i], all), 0, most);
	return all;
}

/* Scale and minimum of each part: x = scale * code - min, code of 0..@codes. */
static void part_ranges(const float *x, int part, int codes, float *s, float *m)
{
	for (int i = 0; i < SUPER / part; i++) {
		float min, max;

		range(x + i * part, part, &min, &max);
		m[i] = min < 0 ? -min : 0;
		s[i] = (max + m[i] > 0 ? max + m[i] : 0) / (float)codes;
	}
}

static void q2_k(const float *x, uint8_t *b)
{
	float s[16], m[16], d, dmin;
	int si[16], mi[16];

	memset(b, 0, 84);
	part_ranges(x, 16, 3, s, m);
	d = put_positive(b + 80, s, 16, 15, si);
	dmin = put_positive(b + 82, m, 16, 15, mi);
	for (int i = 0; i < 16; i++)
		b[i] = (uint8_t)(si[i] | mi[i] << 4);
	for (int i = 0; i < SUPER; i++) {
		int p = i / 16, q = clamp(over(x[i] + dmin * (float)mi[p], d * (float)si[p]), 0, 3);

		b[16 + i / 128 * 32 + i % 32] |= (uint8_t)(q << (i / 32 % 4 * 2));
	}
}

static void q3_k(const float *x, uint8_t *b)
{
	float s[16], d;
	int si[16];

	memset(b, 0, 110);
	for (int i = 0; i < 16; i++)
		s[i] = extreme(x + 16 * i, 16) / -4;
	d = put_scales(b + 108, s, 16, 32, si);
	for (int i = 0; i < 16; i++) {
		int v = si[i] + 32;

		b[96 + i % 8] |= (uint8_t)((v & 15) << (i / 8 * 4));
		b[104 + i % 4] |= (uint8_t)(v >> 4 << (i / 4 * 2));
	}
	for (int i = 0; i < SUPER; i++) {
		int q = clamp(over(x[i], d * (float)si[i / 16]), -4, 3) + 4;

		b[32 + i / 128 * 32 + i % 32] |= (uint8_t)((q & 3) << (i / 32 % 4 * 2));
		b[i % 32] |= (uint8_t)(q >> 2 << (i / 32));
	}
}

static void put_six_bits(uint8_t *b, const int *s, const int *m)
{
	for (int i = 0; i < 4; i++) {
		b[i] = (uint8_t)(s[i] | s[i + 4] >> 4 << 6);
		b[i + 4] = (uint8_t)(m[i] | m[i + 4] >> 4 << 6);
		b[i + 8] = (uint8_t)((s[i + 4] & 15) | (m[i + 4] & 15) << 4);
	}
}

static void q45_k(const float *x, uint8_t *b, int bits)
{
	uint8_t *qh = b + 16, *qs = bits == 5 ? b + 48 : b + 16;
	int si[8], mi[8], most = (1 << bits) - 1;
	float s[8], m[8], d, dmin;

	memset(b, 0, bits == 5 ? 176 : 144);
	part_ranges(x, 32, most, s, m);
	d = put_positive(b, s, 8, 63, si);
	dmin = put_positive(b + 2, m, 8, 63, mi);
	put_six_bits(b + 4, si, mi);
	for (int i = 0; i < SUPER; i++) {
		int p = i / 32, q = clamp(over(x[i] + dmin * (float)mi[p], d * (float)si[p]), 0, most);

		qs[i / 64 * 32 + i % 32] |= (uint8_t)((q & 15) << (p % 2 * 4));
		if (bits == 5)
			qh[i % 32] |= (uint8_t)(q >> 4 << p);
	}
}

static void q4_k(const float *x, uint8_t *b)
{
	q45_k(x, b, 4);
}

static void q5_k(const float *x, uint8_t *b)
{
	q45_k(x, b, 5);
}

static void q6_k(const float *x, uint8_t *b)
{
	float s[16], d;
	int si[16];

	memset(b, 0, 210);
	for (int i = 0; i < 16; i++)
		s[i] = extreme(x + 16 * i, 16) / -32;
	d = put_scales(b + 208, s, 16, 128, si);
	for (int i = 0; i < 16; i++)
		b[192 + i] = (uint8_t)si[i];
	for (int i = 0; i < SUPER; i++) {
		int half = i / 128, in = i % 128, q = clamp(over(x[i], d * (float)si[i / 16]), -32, 31) + 32;

		b[half * 64 + in % 64] |= (uint8_t)((q & 15) << (in / 64 * 4));
		b[128 + half * 32 + in % 32] |= (uint8_t)(q >> 4 << (in / 32 * 2));
	}
}

static void iq4_xs(const float *x, uint8_t *b)
{
	float s[8], d;
	uint32_t high = 0;
	int si[8];

	memset(b, 0, 136);
	for (int i = 0; i < 8; i++)
		s[i] = extreme(x + 32 * i, 32) / -127;
	d = put_scales(b, s, 8, 32, si);
	for (int i = 0; i < 8; i++) {
		int q[32], v = si[i] + 32;

		b[4 + i / 2] |= (uint8_t)((v & 15) << (i % 2 * 4));
		high |= (uint32_t)(v >> 4) << (2 * i);
		for (int j = 0; j < 32; j++)
			q[j] = nearest(fhk_iq4_values, over(x[32 * i + j], d * (float)si[i]));
		put_codes(q, b + 8 + 16 * i, NULL);
	}
	b[2] = (uint8_t)high;
	b[3] = (uint8_t)(high >> 8);
}

static void (*const block_fns[])(const float *x, uint8_t *b) = {
	[FHK_Q4_0] = q4_0,   [FHK_Q4_1] = q4_1,	    [FHK_Q5_0] = q5_0,	   [FHK_Q5_1] = q5_1, [FHK_Q8_0] = q8_0,
	[FHK_Q2_K] = q2_k,   [FHK_Q3_K] = q3_k,	    [FHK_Q4_K] = q4_k,	   [FHK_Q5_K] = q5_k, [FHK_Q6_K] = q6_k,
	[FHK_MXFP4] = mxfp4, [FHK_IQ4_NL] = iq4_nl, [FHK_IQ4_XS] = iq4_xs,
};

int quantise(uint32_t type, const float *x, void *dst, size_t n)
{
	const struct fhk_type_info *ti = fhk_type_info(type);
	uint8_t *b = dst;

	switch (type) {
	case FHK_F32: memcpy(dst, x, n * sizeof(*x)); return 0;
	case FHK_F16: fhk_quant_f16(x, dst, n); return 0;
	case FHK_BF16: fhk_quant_bf16(x, dst, n); return 0;
	}
	if (!ti)
		return -1;
	for (size_t i = 0; i < n / ti->block_elems; i++)
		block_fns[type](x + i * ti->block_elems, b + i * ti->block_bytes);
	return 0;
}
