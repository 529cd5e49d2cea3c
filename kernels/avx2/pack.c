// SPDX-License-Identifier: Apache-2.0
/*
 * From the file's rows to the AVX2 table's panels and strips (avx2.h draws
 * them), and activations to int8.
 *
 * Packing takes each block apart into numbers (32 weights of 6 bits or fewer,
 * or 8 with a sign, and their scales), which are then laid out the same way
 * for every type.  The formats are those of kernels/quant.c.
 */
#include "kernels/avx2/avx2.h"
#include "kernels/half.h"
#include "kernels/quant.h"

/* One row's 32 columns, taken apart. */
struct unit {
	uint8_t q[UNIT_COLS];
	uint8_t scale[4]; /* bytes of this row in the unit's head, in the type's order */
};

static const struct fhk_qlayout layouts[] = {
	[FHK_Q4_0] = {.scale_bytes = 16, .p4 = 1, .offset = 8},
	[FHK_Q4_1] = {.scale_bytes = 32, .p4 = 1},
	[FHK_Q5_0] = {.scale_bytes = 16, .p4 = 1, .p1 = 1, .offset = 16},
	[FHK_Q5_1] = {.scale_bytes = 32, .p4 = 1, .p1 = 1},
	[FHK_Q8_0] = {.scale_bytes = 16, .p8 = 1},
	[FHK_Q2_K] = {.super_bytes = 32, .scale_bytes = 16, .p2 = 1},
	[FHK_Q3_K] = {.super_bytes = 16, .scale_bytes = 16, .p2 = 1, .p1 = 1, .offset = 4},
	[FHK_Q4_K] = {.super_bytes = 32, .scale_bytes = 16, .p4 = 1},
	[FHK_Q5_K] = {.super_bytes = 32, .scale_bytes = 16, .p4 = 1, .p1 = 1},
	[FHK_Q6_K] = {.super_bytes = 16, .scale_bytes = 16, .p4 = 1, .p2 = 1, .offset = 32},
	[FHK_IQ4_NL] = {.scale_bytes = 16, .p4 = 1},
	[FHK_IQ4_XS] = {.super_bytes = 16, .scale_bytes = 8, .p4 = 1},
	[FHK_MXFP4] = {.scale_bytes = 8, .p4 = 1},
};

const struct fhk_qlayout *fhk_avx2_qlayout(uint32_t type)
{
	if (type >= sizeof(layouts) / sizeof(layouts[0]) || !layouts[type].scale_bytes)
		return NULL;
	return &layouts[type];
}

static void nibbles(const uint8_t *qs, uint8_t *q)
{
	for (int j = 0; j < 16; j++) {
		q[j] = qs[j] & 15;
		q[j + 16] = qs[j] >> 4;
	}
}

static void fifth_bits(uint32_t qh, uint8_t *q)
{
	for (int j = 0; j < 32; j++)
		q[j] |= (qh >> j & 1) << 4;
}

/* Types whose block is one unit: @b is the block. */
static void take_small(uint32_t type, const uint8_t *b, struct unit *u)
{
	switch (type) {
	case FHK_Q4_0:
	case FHK_IQ4_NL:
		memcpy(u->scale, b, 2);
		nibbles(b + 2, u->q);
		break;
	case FHK_Q4_1:
		memcpy(u->scale, b, 4);
		nibbles(b + 4, u->q);
		break;
	case FHK_Q5_0:
		memcpy(u->scale, b, 2);
		nibbles(b + 6, u->q);
		fifth_bits(fhk_ld32(b + 2), u->q);
		break;
	case FHK_Q5_1:
		memcpy(u->scale, b, 4);
		nibbles(b + 8, u->q);
		fifth_bits(fhk_ld32(b + 4), u->q);
		break;
	case FHK_MXFP4:
		u->scale[0] = b[0];
		nibbles(b + 1, u->q);
		break;
	default: /* Q8_0 */ memcpy(u->scale, b, 2); memcpy(u->q, b + 2, 32);
	}
}

/* Q2_K and Q3_K keep 2 bits of columns 128 h + 32 j + i in byte 32 h + i, at bit 2 j. */
static void two_bits(const uint8_t *qs, int at, uint8_t *q)
{
	qs += at / 4 * 32;
	for (int i = 0; i < 32; i++)
		q[i] = qs[i] >> (at % 4 * 2) & 3;
}

/* Four bits of columns 64 h + i (low) and 64 h + 32 + i (high) in byte 32 h + i. */
static void four_bits(const uint8_t *qs, int at, uint8_t *q)
{
	qs += at / 2 * 32;
	for (int i = 0; i < 32; i++)
		q[i] = at % 2 ? qs[i] >> 4 : qs[i] & 15;
}

static void take_q6k(const uint8_t *b, int at, struct unit *u)
{
	const uint8_t *ql = b + at / 4 * 64 + at % 2 * 32, *qh = b + 128 + at / 4 * 32;

	for (int i = 0; i < 32; i++) {
		int low = at % 4 >= 2 ? ql[i] >> 4 : ql[i] & 15;

		u->q[i] = (uint8_t)(low | (qh[i] >> (at % 4 * 2) & 3) << 4);
	}
	memcpy(u->scale, b + 192 + at * 2, 2);
}

/* Types whose block is 256 columns: unit @at (0..7) of block @b. */
static void take_large(uint32_t type, const uint8_t *b, int at, struct unit *u)
{
	switch (type) {
	case FHK_Q2_K:
		two_bits(b + 16, at, u->q);
		memcpy(u->scale, b + at * 2, 2);
		break;
	case FHK_Q3_K:
		two_bits(b + 32, at, u->q);
		for (int i = 0; i < 32; i++)
			u->q[i] |= (b[i] >> at & 1) << 2;
		for (int i = 0; i < 2; i++)
			u->scale[i] = (uint8_t)(int8_t)fhk_q3k_scale(b + 96, at * 2 + i);
		break;
	case FHK_Q4_K:
		four_bits(b + 16, at, u->q);
		fhk_q4k_scale(b + 4, at, &u->scale[0], &u->scale[1]);
		break;
	case FHK_Q5_K:
		four_bits(b + 48, at, u->q);
		for (int i = 0; i < 32; i++)
			u->q[i] |= (b[16 + i] >> at & 1) << 4;
		fhk_q4k_scale(b + 4, at, &u->scale[0], &u->scale[1]);
		break;
	case FHK_Q6_K: take_q6k(b, at, u); break;
	default: /* IQ4_XS */ nibbles(b + 8 + at * 16, u->q); u->scale[0] = (uint8_t)(int8_t)fhk_iq4xs_scale(b, at);
	}
}

/* The f16 super scales of a 256-column block: d, and dmin where there is one. */
static void super_scales(uint32_t type, const uint8_t *b, uint16_t *d, uint16_t *dmin)
{
	*dmin = 0;
	switch (type) {
	case FHK_Q2_K:
		*d = fhk_ld16(b + 80);
		*dmin = fhk_ld16(b + 82);
		break;
	case FHK_Q3_K: *d = fhk_ld16(b + 108); break;
	case FHK_Q6_K: *d = fhk_ld16(b + 208); break;
	case FHK_IQ4_XS: *d = fhk_ld16(b); break;
	default: *d = fhk_ld16(b); *dmin = fhk_ld16(b + 2);
	}
}

/* Put weight bits @q of columns 32.. of row @r into the unit's planes at @p. */
static void put_planes(const struct fhk_qlayout *l, const uint8_t *q, int r, uint8_t *p)
{
	for (int c = 0; c < UNIT_COLS; c++) {
		int v = c / 4, byte = r * 4 + c % 4;
		uint8_t *plane = p;

		if (l->p8) {
			plane[v * 32 + byte] = q[c];
			continue;
		}
		if (l->p4) {
			plane[v % 4 * 32 + byte] |= (uint8_t)((q[c] & 15) << (v / 4 * 4));
			plane += 128;
		}
		if (l->p2) {
			int bits = l->p4 ? q[c] >> 4 : q[c] & 3;

			plane[v % 2 * 32 + byte] |= (uint8_t)(bits << (v / 2 * 2));
			plane += 64;
		}
		if (l->p1)
			plane[byte] |= (uint8_t)((l->p4 ? q[c] >> 4 & 1 : q[c] >> 2 & 1) << v);
	}
}

/* Scale byte(s) of row @r: fields of the same kind lie together, 8 rows side by side. */
static void put_scales(uint32_t type, const struct fhk_qlayout *l, const struct unit *u, int r, uint8_t *p)
{
	if (l->super_bytes || type == FHK_MXFP4) {
		for (int i = 0; i < l->scale_bytes / 8; i++)
			p[i * 8 + r] = u->scale[i];
		return;
	}
	for (int i = 0; i < l->scale_bytes / 16; i++)
		memcpy(p + i * 16 + r * 2, u->scale + i * 2, 2);
}

/* One row into lane @r of its strip, which was zeroed. */
static void pack_row_q(const struct fhk_mat *m, const struct fhk_qlayout *l, const uint8_t *src, int r, uint8_t *strip)
{
	const struct fhk_type_info *info = fhk_type_info(m->type);
	uint32_t unit_bytes = fhk_q_unit_bytes(l);

	for (uint32_t n = 0; n < m->cols / UNIT_COLS; n++) {
		struct unit u;

		if (l->super_bytes && n % 8 == 0) {
			uint16_t d, dmin;

			super_scales(m->type, src, &d, &dmin);
			memcpy(strip + r * 2, &d, 2);
			if (l->super_bytes == 32)
				memcpy(strip + 16 + r * 2, &dmin, 2);
			strip += l->super_bytes;
		}
		if (info->block_elems == 256)
			take_large(m->type, src, (int)(n % 8), &u);
		else
			take_small(m->type, src, &u);
		put_scales(m->type, l, &u, r, strip);
		put_planes(l, u.q, r, strip + l->scale_bytes);
		strip += unit_bytes;
		if (info->block_elems == 32 || n % 8 == 7)
			src += info->block_bytes;
	}
}

static void pack_row_f(const struct fhk_mat *m, const uint8_t *src, uint32_t r, uint8_t *panel)
{
	if (m->type == FHK_F32) {
		for (uint32_t c = 0; c < m->cols; c++)
			memcpy(panel + ((size_t)c * FHK_PANEL + r) * 4, src + (size_t)c * 4, 4);
		return;
	}
	for (uint32_t c = 0; c < m->cols; c++)
		memcpy(panel + ((size_t)c * FHK_PANEL + r) * 2, src + (size_t)c * 2, 2);
}

void fhk_avx2_pack(const struct fhk_mat *m, uint32_t expert, const void *src, uint32_t r0, uint32_t r1, void *dst)
{
	const struct fhk_type_info *info = fhk_type_info(m->type);
	const struct fhk_qlayout *l = fhk_avx2_qlayout(m->type);
	size_t row_bytes = (size_t)(m->cols / info->block_elems) * info->block_bytes;
	uint32_t lanes = l ? FHK_STRIP : FHK_PANEL;
	size_t step = l ? fhk_q_strip_bytes(l, m->cols) : (size_t)m->cols * FHK_PANEL * info->block_bytes;
	uint32_t end = (r1 + FHK_PANEL - 1) / FHK_PANEL * FHK_PANEL;
	uint8_t *out = (uint8_t *)dst + expert * m->expert_bytes;

	memset(out + r0 / lanes * step, 0, (end - r0) / lanes * step);
	for (uint32_t r = r0; r < r1; r++) {
		const uint8_t *row = (const uint8_t *)src + r * row_bytes;

		if (l)
			pack_row_q(m, l, row, (int)(r % FHK_STRIP), out + r / FHK_STRIP * step);
		else
			pack_row_f(m, row, r % FHK_PANEL, out + r / FHK_PANEL * step);
	}
}

static __m256 abs_max8(const float *x, __m256 max)
{
	return _mm256_max_ps(max, _mm256_andnot_ps(_mm256_set1_ps(-0.0f), _mm256_loadu_ps(x)));
}

/* 32 floats to int8, with their scale and the sums of each half. */
static float quantise32(const float *x, int8_t *q, int32_t *sums)
{
	__m256 max = abs_max8(x, abs_max8(x + 8, abs_max8(x + 16, abs_max8(x + 24, _mm256_setzero_ps()))));
	float top = fhk_hmax(max);
	__m256 inverse = _mm256_set1_ps(top > 0 ? 127.0f / top : 0);
	__m256i v[4], words[2], bytes, pairs;

	for (int i = 0; i < 4; i++)
		v[i] = _mm256_cvtps_epi32(_mm256_mul_ps(_mm256_loadu_ps(x + 8 * i), inverse));
	words[0] = _mm256_permute4x64_epi64(_mm256_packs_epi32(v[0], v[1]), 0xd8);
	words[1] = _mm256_permute4x64_epi64(_mm256_packs_epi32(v[2], v[3]), 0xd8);
	bytes = _mm256_permute4x64_epi64(_mm256_packs_epi16(words[0], words[1]), 0xd8);
	_mm256_storeu_si256((__m256i *)q, bytes);
	for (int i = 0; i < 2; i++) {
		__m128i s;

		pairs = _mm256_madd_epi16(words[i], _mm256_set1_epi16(1));
		s = _mm_add_epi32(_mm256_castsi256_si128(pairs), _mm256_extracti128_si256(pairs, 1));
		s = _mm_add_epi32(s, _mm_shuffle_epi32(s, 0x4e));
		s = _mm_add_epi32(s, _mm_shuffle_epi32(s, 0xb1));
		sums[i] = _mm_cvtsi128_si32(s);
	}
	return top / 127.0f;
}

/* x: [ld] f32, zero past @cols; row: as fhk_q8_row_bytes() says */
void fhk_avx2_quantise(const float *x, uint32_t cols, uint32_t ld, void *row)
{
	int8_t *q = row;
	float *scale = (float *)(q + ld);
	int32_t *sums = (int32_t *)(scale + ld / 32);

	for (uint32_t c = 0; c < cols; c += 32)
		scale[c / 32] = quantise32(x + c, q + c, sums + c / 16);
}
