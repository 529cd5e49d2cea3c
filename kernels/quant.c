// SPDX-License-Identifier: Apache-2.0
/*
 * What each weight type means: the block formats of GGUF files, element by
 * element.  Everything else (packing, the fast tables) is checked against this.
 *
 * The formats are those of https://github.com/ggml-org/ggml (docs/gguf.md and
 * the block structures in ggml-common.h); MXFP4 is the Open Compute Project's
 * "Microscaling Formats" 1.0 with GGUF's order of nibbles.  Blocks are read
 * byte by byte, so that any alignment will do.  No state.
 */
#include <math.h>

#include "kernels/half.h"
#include "kernels/kernels.h"
#include "kernels/quant.h"

const int8_t fhk_iq4_values[16] = {-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113};
/* Twice the value, so that they are whole. */
const int8_t fhk_mxfp4_values[16] = {0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12};

static const struct fhk_type_info infos[] = {
	[FHK_F32] = {"F32", 1, 4},	   [FHK_F16] = {"F16", 1, 2},		[FHK_Q4_0] = {"Q4_0", 32, 18},
	[FHK_Q4_1] = {"Q4_1", 32, 20},	   [FHK_Q5_0] = {"Q5_0", 32, 22},	[FHK_Q5_1] = {"Q5_1", 32, 24},
	[FHK_Q8_0] = {"Q8_0", 32, 34},	   [FHK_Q2_K] = {"Q2_K", 256, 84},	[FHK_Q3_K] = {"Q3_K", 256, 110},
	[FHK_Q4_K] = {"Q4_K", 256, 144},   [FHK_Q5_K] = {"Q5_K", 256, 176},	[FHK_Q6_K] = {"Q6_K", 256, 210},
	[FHK_IQ4_NL] = {"IQ4_NL", 32, 18}, [FHK_IQ4_XS] = {"IQ4_XS", 256, 136}, [FHK_BF16] = {"BF16", 1, 2},
	[FHK_MXFP4] = {"MXFP4", 32, 17},
};

const struct fhk_type_info *fhk_type_info(uint32_t type)
{
	if (type >= sizeof(infos) / sizeof(infos[0]) || !infos[type].name)
		return NULL;
	return &infos[type];
}

void fhk_quant_f16(const float *src, uint16_t *dst, size_t n)
{
	for (size_t i = 0; i < n; i++)
		dst[i] = fhk_f32_f16(src[i]);
}

void fhk_quant_bf16(const float *src, uint16_t *dst, size_t n)
{
	for (size_t i = 0; i < n; i++)
		dst[i] = fhk_f32_bf16(src[i]);
}

/* Sixteen bytes: low nibbles are elements 0..15, high nibbles 16..31. */
static void nibbles(const uint8_t *qs, float d, float m, float *y)
{
	for (int j = 0; j < 16; j++) {
		y[j] = (qs[j] & 15) * d + m;
		y[j + 16] = (qs[j] >> 4) * d + m;
	}
}

static void nibbles_table(const uint8_t *qs, const int8_t *values, float d, float *y)
{
	for (int j = 0; j < 16; j++) {
		y[j] = values[qs[j] & 15] * d;
		y[j + 16] = values[qs[j] >> 4] * d;
	}
}

/* As nibbles(), with a fifth bit from @qh. */
static void five_bits(const uint8_t *qs, uint32_t qh, int zero, float d, float m, float *y)
{
	for (int j = 0; j < 16; j++) {
		int lo = (qs[j] & 15) | (qh >> j & 1) << 4;
		int hi = qs[j] >> 4 | (qh >> (j + 16) & 1) << 4;

		y[j] = (lo - zero) * d + m;
		y[j + 16] = (hi - zero) * d + m;
	}
}

static void q4_0(const uint8_t *b, float *y)
{
	float d = fhk_f16_f32(fhk_ld16(b));

	nibbles(b + 2, d, -8 * d, y);
}

static void q4_1(const uint8_t *b, float *y)
{
	nibbles(b + 4, fhk_f16_f32(fhk_ld16(b)), fhk_f16_f32(fhk_ld16(b + 2)), y);
}

static void q5_0(const uint8_t *b, float *y)
{
	five_bits(b + 6, fhk_ld32(b + 2), 16, fhk_f16_f32(fhk_ld16(b)), 0, y);
}

static void q5_1(const uint8_t *b, float *y)
{
	five_bits(b + 8, fhk_ld32(b + 4), 0, fhk_f16_f32(fhk_ld16(b)), fhk_f16_f32(fhk_ld16(b + 2)), y);
}

static void q8_0(const uint8_t *b, float *y)
{
	float d = fhk_f16_f32(fhk_ld16(b));

	for (int j = 0; j < 32; j++)
		y[j] = (int8_t)b[2 + j] * d;
}

static void iq4_nl(const uint8_t *b, float *y)
{
	nibbles_table(b + 2, fhk_iq4_values, fhk_f16_f32(fhk_ld16(b)), y);
}

static void mxfp4(const uint8_t *b, float *y)
{
	nibbles_table(b + 1, fhk_mxfp4_values, fhk_e8m0_f32(b[0]) * 0.5f, y);
}

/* Sixteen bytes of scales (low nibble) and minimums (high), 64 of two-bit quants, d, dmin. */
static void q2_k(const uint8_t *b, float *y)
{
	const uint8_t *qs = b + 16;
	float d = fhk_f16_f32(fhk_ld16(b + 80)), dmin = fhk_f16_f32(fhk_ld16(b + 82));

	for (int i = 0; i < 256; i++) {
		int s = b[i / 16], q = qs[i / 128 * 32 + i % 32] >> (i / 32 % 4 * 2) & 3;

		y[i] = d * (s & 15) * q - dmin * (s >> 4);
	}
}

/* Scale @i of sixteen of Q3_K: four low bits, then two high ones, biased by 32. */
int fhk_q3k_scale(const uint8_t *s, int i)
{
	int lo = i < 8 ? s[i] & 15 : s[i - 8] >> 4;

	return (lo | (s[8 + i % 4] >> (i / 4 * 2) & 3) << 4) - 32;
}

/* 32 bytes of inverted third bits, 64 of two low bits, 12 of scales, d. */
static void q3_k(const uint8_t *b, float *y)
{
	const uint8_t *qs = b + 32;
	float d = fhk_f16_f32(fhk_ld16(b + 108));

	for (int i = 0; i < 256; i++) {
		int q = (qs[i / 128 * 32 + i % 32] >> (i / 32 % 4 * 2) & 3) | (b[i % 32] >> (i / 32) & 1) << 2;

		y[i] = d * fhk_q3k_scale(b + 96, i / 16) * (q - 4);
	}
}

/* Six-bit scale and minimum @i of eight of Q4_K and Q5_K. */
void fhk_q4k_scale(const uint8_t *s, int i, uint8_t *scale, uint8_t *min)
{
	if (i < 4) {
		*scale = s[i] & 63;
		*min = s[i + 4] & 63;
	} else {
		*scale = (s[i + 4] & 15) | s[i - 4] >> 6 << 4;
		*min = s[i + 4] >> 4 | s[i] >> 6 << 4;
	}
}

/* d, dmin, 12 bytes of scales, (Q5_K: 32 of fifth bits,) 128 of nibbles, 64 elements in 32 bytes. */
static void q45_k(const uint8_t *b, float *y, bool five)
{
	const uint8_t *qh = b + 16, *qs = five ? b + 48 : b + 16;
	float d = fhk_f16_f32(fhk_ld16(b)), dmin = fhk_f16_f32(fhk_ld16(b + 2));

	for (int i = 0; i < 256; i++) {
		int q = qs[i / 64 * 32 + i % 32] >> (i / 32 % 2 * 4) & 15;
		uint8_t s, m;

		fhk_q4k_scale(b + 4, i / 32, &s, &m);
		if (five)
			q |= (qh[i % 32] >> (i / 32) & 1) << 4;
		y[i] = d * s * q - dmin * m;
	}
}

static void q4_k(const uint8_t *b, float *y)
{
	q45_k(b, y, false);
}

static void q5_k(const uint8_t *b, float *y)
{
	q45_k(b, y, true);
}

/* 128 bytes of low nibbles, 64 of two high bits, 16 scales, d. */
static void q6_k(const uint8_t *b, float *y)
{
	const uint8_t *qh = b + 128;
	float d = fhk_f16_f32(fhk_ld16(b + 208));

	for (int i = 0; i < 256; i++) {
		int half = i / 128, in = i % 128;
		int lo = b[half * 64 + in % 64] >> (in / 64 * 4) & 15;
		int hi = qh[half * 32 + in % 32] >> (in / 32 * 2) & 3;

		y[i] = d * (int8_t)b[192 + i / 16] * ((lo | hi << 4) - 32);
	}
}

/* Scale @i of eight of IQ4_XS; @b is the block. */
int fhk_iq4xs_scale(const uint8_t *b, int i)
{
	return ((b[4 + i / 2] >> (i % 2 * 4) & 15) | (fhk_ld16(b + 2) >> (2 * i) & 3) << 4) - 32;
}

static void iq4_xs(const uint8_t *b, float *y)
{
	float d = fhk_f16_f32(fhk_ld16(b));

	for (int i = 0; i < 8; i++)
		nibbles_table(b + 8 + 16 * i, fhk_iq4_values, d * fhk_iq4xs_scale(b, i), y + 32 * i);
}

static void (*const block_fns[])(const uint8_t *b, float *y) = {
	[FHK_Q4_0] = q4_0,   [FHK_Q4_1] = q4_1,	    [FHK_Q5_0] = q5_0,	   [FHK_Q5_1] = q5_1, [FHK_Q8_0] = q8_0,
	[FHK_Q2_K] = q2_k,   [FHK_Q3_K] = q3_k,	    [FHK_Q4_K] = q4_k,	   [FHK_Q5_K] = q5_k, [FHK_Q6_K] = q6_k,
	[FHK_MXFP4] = mxfp4, [FHK_IQ4_NL] = iq4_nl, [FHK_IQ4_XS] = iq4_xs,
};

void fhk_dequant(uint32_t type, const void *src, float *dst, size_t n)
{
	const struct fhk_type_info *info = fhk_type_info(type);
	const uint8_t *b = src;

	switch (type) {
	case FHK_F32: memcpy(dst, src, n * sizeof(float)); return;
	case FHK_F16:
		for (size_t i = 0; i < n; i++)
			dst[i] = fhk_f16_f32(fhk_ld16(b + 2 * i));
		return;
	case FHK_BF16:
		for (size_t i = 0; i < n; i++)
			dst[i] = fhk_bf16_f32(fhk_ld16(b + 2 * i));
		return;
	}
	for (size_t i = 0; i < n / info->block_elems; i++)
		block_fns[type](b + i * info->block_bytes, dst + i * info->block_elems);
}
