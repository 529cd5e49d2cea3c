// SPDX-License-Identifier: Apache-2.0
/*
 * Packing weights into panels (panel.h), in plain C on four bytes at a time:
 * what every other packer must give, byte for byte, and what packs the last
 * rows of a matrix.
 *
 * A group of 16 rows stays in the first-level cache while it is written.  Rows
 * past the matrix' end are zero, scales included.  The caller owns all memory;
 * different panels may be packed at the same time.
 */
#include <string.h>

#include "kernels/half.h"
#include "kernels/panel.h"
#include "kernels/quant.h"

#define LOW4 0x0f0f0f0fu
#define LOW2 0x03030303u
#define LOW1 0x01010101u

size_t fhk_panel_bytes(uint32_t type, uint32_t cols)
{
	uint32_t nr_blocks = cols / 32, rest = nr_blocks % FHK_GROUP;
	size_t bytes;

	if (type == FHK_F32)
		return (size_t)fhk_kpad(cols) * FHK_PANEL * 4;
	if (type == FHK_F16 || type == FHK_BF16)
		return (size_t)fhk_kpad(cols) * FHK_PANEL * 2;
	bytes = (size_t)(nr_blocks / FHK_GROUP) * (fhk_head_bytes(type) + FHK_GROUP * fhk_plane_bytes(type));
	if (rest)
		bytes += fhk_head_bytes(type) + rest * fhk_plane_bytes(type);
	return bytes;
}

int fhk_panel_plan(struct fhk_mat *m, uint32_t type, uint32_t rows, uint32_t cols, uint32_t nr_experts, bool bf16)
{
	const struct fhk_type_info *info = fhk_type_info(type);

	if (!info || cols % info->block_elems)
		return -1;
	*m = (struct fhk_mat){.type = type, .rows = rows, .cols = cols, .nr_experts = nr_experts};
	switch (type) {
	case FHK_F32:
	case FHK_F16:
		m->form = FHK_FORM_F32;
		m->layout = FHK_LAYOUT_FLOAT;
		break;
	case FHK_BF16:
		m->form = bf16 ? FHK_FORM_BF16 : FHK_FORM_F32;
		m->layout = FHK_LAYOUT_PAIRS;
		break;
	default:
		m->form = FHK_FORM_Q8;
		m->layout = FHK_LAYOUT_QUANT;
		break;
	}
	m->expert_bytes = ((size_t)rows + FHK_PANEL - 1) / FHK_PANEL * fhk_panel_bytes(type, cols);
	m->packed_bytes = m->expert_bytes * nr_experts;
	return 0;
}

size_t fhk_panel_act_bytes(enum fhk_form form, uint32_t nr_tokens, uint32_t cols)
{
	switch (form) {
	case FHK_FORM_Q8: return (size_t)nr_tokens * (fhk_pad(cols) / 32) * sizeof(struct fhk_q8);
	case FHK_FORM_BF16: return (size_t)nr_tokens * fhk_pad(cols) * 2;
	default: return 0;
	}
}

/* Sixteen bytes of nibbles, columns 0..15 low and 16..31 high. */
static inline void quads_nibbles(const uint8_t *qs, uint32_t *v)
{
	for (int j = 0; j < 4; j++) {
		uint32_t x = fhk_ld32(qs + 4 * j);

		v[j] = x & LOW4;
		v[j + 4] = x >> 4 & LOW4;
	}
}

/* Bit c of @qh becomes bit 4 of column c. */
static inline void quads_fifth(uint32_t qh, uint32_t *v)
{
	for (int i = 0; i < 8; i++)
		v[i] |= ((qh >> (4 * i) & 15) * 0x00204081u & LOW1) << 4;
}

/* The 32 quants of block @b of a super-block, four columns a word. */
static inline void quads_super(uint32_t type, const uint8_t *src, uint32_t b, uint32_t *v)
{
	uint32_t half = b / 4, in = b % 4;

	if (type == FHK_IQ4_XS) {
		quads_nibbles(src + 8 + 16 * b, v);
		return;
	}
	for (int i = 0; i < 8; i++) {
		switch (type) {
		case FHK_Q4_K: v[i] = fhk_ld32(src + 16 + b / 2 * 32 + 4 * i) >> (b % 2 * 4) & LOW4; break;
		case FHK_Q5_K:
			v[i] = fhk_ld32(src + 48 + b / 2 * 32 + 4 * i) >> (b % 2 * 4) & LOW4;
			v[i] |= (fhk_ld32(src + 16 + 4 * i) >> b & LOW1) << 4;
			break;
		case FHK_Q6_K:
			v[i] = fhk_ld32(src + half * 64 + in % 2 * 32 + 4 * i) >> (in / 2 * 4) & LOW4;
			v[i] |= (fhk_ld32(src + 128 + half * 32 + 4 * i) >> (in * 2) & LOW2) << 4;
			break;
		case FHK_Q2_K: v[i] = fhk_ld32(src + 16 + half * 32 + 4 * i) >> (in * 2) & LOW2; break;
		case FHK_Q3_K:
			v[i] = fhk_ld32(src + 32 + half * 32 + 4 * i) >> (in * 2) & LOW2;
			v[i] |= (fhk_ld32(src + 4 * i) >> b & LOW1) << 2;
			break;
		}
	}
}

/* Store row @r of a block's planes. */
static inline void put_planes(uint32_t type, const uint32_t *v, uint8_t *planes, uint32_t r)
{
	uint8_t *p = planes + 4 * r;
	uint32_t bits = 0;

	if (type == FHK_Q8_0) {
		for (int i = 0; i < 8; i++)
			fhk_st32(p + 64 * i, v[i]);
		return;
	}
	if (type == FHK_Q2_K || type == FHK_Q3_K) {
		for (int h = 0; h < 2; h++) {
			uint32_t two = 0;

			for (int j = 0; j < 4; j++)
				two |= (v[4 * h + j] & LOW2) << (2 * j);
			fhk_st32(p + 64 * h, two);
		}
		for (int i = 0; i < 8; i++)
			bits |= (v[i] >> 2 & LOW1) << i;
		if (type == FHK_Q3_K)
			fhk_st32(p + 128, bits);
		return;
	}
	for (int j = 0; j < 4; j++)
		fhk_st32(p + 64 * j, (v[j] & LOW4) | (v[j + 4] & LOW4) << 4);
	if (fhk_plane_bytes(type) == 256 + 64) {
		for (int i = 0; i < 8; i++)
			bits |= (v[i] >> 4 & LOW1) << i;
		fhk_st32(p + 256, bits);
	} else if (type == FHK_Q6_K) {
		for (int h = 0; h < 2; h++) {
			uint32_t two = 0;

			for (int j = 0; j < 4; j++)
				two |= (v[4 * h + j] >> 4 & LOW2) << (2 * j);
			fhk_st32(p + 256 + 64 * h, two);
		}
	}
}

/* Row @r of a group of @n blocks of 32 with scales of their own. */
static inline void pack_simple(uint32_t type, const uint8_t *src, uint32_t n, uint32_t r, uint8_t *group)
{
	uint32_t bytes = fhk_type_info(type)->block_bytes;

	for (uint32_t b = 0; b < n; b++, src += bytes) {
		uint8_t *planes = group + fhk_head_bytes(type) + b * fhk_plane_bytes(type);
		uint32_t v[8];

		if (type == FHK_MXFP4) {
			group[16 * b + r] = src[0];
			quads_nibbles(src + 1, v);
		} else {
			memcpy(group + 2 * (16 * b + r), src, 2);
			if (fhk_has_min(type))
				memcpy(group + 256 + 2 * (16 * b + r), src + 2, 2);
			if (type == FHK_Q8_0)
				for (int i = 0; i < 8; i++)
					v[i] = fhk_ld32(src + 2 + 4 * i) ^ 0x80808080u;
			else
				quads_nibbles(src + bytes - 16, v);
			if (type == FHK_Q5_0 || type == FHK_Q5_1)
				quads_fifth(fhk_ld32(src + bytes - 20), v);
		}
		put_planes(type, v, planes, r);
	}
}

/* The scales of row @r of a super-block. */
static inline void pack_super_scales(uint32_t type, const uint8_t *src, uint32_t r, uint8_t *head)
{
	uint32_t d_at = type == FHK_Q2_K ? 80 : type == FHK_Q3_K ? 108 : type == FHK_Q6_K ? 208 : 0;
	uint8_t *scales = head + 64 + r;

	memcpy(head + 2 * r, src + d_at, 2);
	if (fhk_has_min(type))
		memcpy(head + 32 + 2 * r, src + d_at + 2, 2);
	switch (type) {
	case FHK_Q2_K:
		for (int i = 0; i < 16; i++)
			scales[16 * i] = src[i];
		break;
	case FHK_Q3_K:
		for (int i = 0; i < 16; i++)
			scales[16 * i] = (uint8_t)fhk_q3k_scale(src + 96, i);
		break;
	case FHK_Q6_K:
		for (int i = 0; i < 16; i++)
			scales[16 * i] = src[192 + i];
		break;
	case FHK_IQ4_XS:
		for (int i = 0; i < 8; i++)
			scales[16 * i] = (uint8_t)fhk_iq4xs_scale(src, i);
		break;
	default:
		for (int i = 0; i < 8; i++)
			fhk_q4k_scale(src + 4, i, &scales[16 * i], &scales[128 + 16 * i]);
		break;
	}
}

FHK_INLINE void pack_quant_type(uint32_t type, uint32_t cols, const uint8_t *src, uint32_t nr_rows, uint8_t *panel)
{
	const struct fhk_type_info *info = fhk_type_info(type);
	size_t row_bytes = (size_t)(cols / info->block_elems) * info->block_bytes;
	uint32_t nr_blocks = cols / 32;

	for (uint32_t g = 0; g < nr_blocks; g += FHK_GROUP) {
		uint32_t n = nr_blocks - g < FHK_GROUP ? nr_blocks - g : FHK_GROUP;
		size_t bytes = fhk_head_bytes(type) + (size_t)n * fhk_plane_bytes(type);

		if (nr_rows < FHK_PANEL)
			memset(panel, 0, bytes);
		for (uint32_t r = 0; r < nr_rows; r++) {
			const uint8_t *row =
				src + r * row_bytes + (size_t)(g * 32 / info->block_elems) * info->block_bytes;

			if (!fhk_is_super(type)) {
				pack_simple(type, row, n, r, panel);
				continue;
			}
			pack_super_scales(type, row, r, panel);
			for (uint32_t b = 0; b < FHK_GROUP; b++) {
				uint32_t v[8];

				quads_super(type, row, b, v);
				put_planes(type, v, panel + fhk_head_bytes(type) + b * fhk_plane_bytes(type), r);
			}
		}
		panel += bytes;
	}
}

/* One loop a type, so that none decides anything inside. */
static void pack_quant(uint32_t type, uint32_t cols, const uint8_t *src, uint32_t nr_rows, uint8_t *panel)
{
	switch (type) {
	case FHK_Q4_0: pack_quant_type(FHK_Q4_0, cols, src, nr_rows, panel); break;
	case FHK_Q4_1: pack_quant_type(FHK_Q4_1, cols, src, nr_rows, panel); break;
	case FHK_Q5_0: pack_quant_type(FHK_Q5_0, cols, src, nr_rows, panel); break;
	case FHK_Q5_1: pack_quant_type(FHK_Q5_1, cols, src, nr_rows, panel); break;
	case FHK_Q8_0: pack_quant_type(FHK_Q8_0, cols, src, nr_rows, panel); break;
	case FHK_Q2_K: pack_quant_type(FHK_Q2_K, cols, src, nr_rows, panel); break;
	case FHK_Q3_K: pack_quant_type(FHK_Q3_K, cols, src, nr_rows, panel); break;
	case FHK_Q4_K: pack_quant_type(FHK_Q4_K, cols, src, nr_rows, panel); break;
	case FHK_Q5_K: pack_quant_type(FHK_Q5_K, cols, src, nr_rows, panel); break;
	case FHK_Q6_K: pack_quant_type(FHK_Q6_K, cols, src, nr_rows, panel); break;
	case FHK_IQ4_NL: pack_quant_type(FHK_IQ4_NL, cols, src, nr_rows, panel); break;
	case FHK_IQ4_XS: pack_quant_type(FHK_IQ4_XS, cols, src, nr_rows, panel); break;
	case FHK_MXFP4: pack_quant_type(FHK_MXFP4, cols, src, nr_rows, panel); break;
	}
}

/*
 * Columns of @size bytes (4: F32; 2: F16); @pair: two columns lie side by side.
 * Some columns of all rows at a time, so that what is written stays in cache.
 */
FHK_INLINE void pack_float(uint32_t size, uint32_t pair, uint32_t cols, const uint8_t *src, uint32_t nr_rows,
			   uint8_t *panel)
{
	enum { COLS = 64 };
	uint32_t whole = cols / pair * pair;

	memset(panel + (size_t)whole * FHK_PANEL * size, 0, (size_t)(fhk_kpad(cols) - whole) * FHK_PANEL * size);
	if (nr_rows < FHK_PANEL)
		memset(panel, 0, (size_t)fhk_kpad(cols) * FHK_PANEL * size);
	for (uint32_t c0 = 0; c0 < cols; c0 += COLS) {
		uint32_t end = cols - c0 < COLS ? cols : c0 + COLS;

		for (uint32_t r = 0; r < nr_rows; r++) {
			const uint8_t *row = src + (size_t)r * cols * size;
			uint32_t c = c0;

			for (; pair == 2 && c + 1 < end; c += 2)
				fhk_st32(panel + ((size_t)c / 2 * FHK_PANEL + r) * 4, fhk_ld32(row + (size_t)c * 2));
			for (; c < end; c++)
				memcpy(panel + ((size_t)(c / pair) * FHK_PANEL + r) * pair * size,
				       row + (size_t)c * size, size);
		}
	}
}

void fhk_panel_pack(const struct fhk_mat *m, uint32_t expert, const void *src, uint32_t r0, uint32_t r1, void *dst)
{
	const struct fhk_type_info *info = fhk_type_info(m->type);
	size_t row_bytes = (size_t)(m->cols / info->block_elems) * info->block_bytes;
	size_t panel_bytes = fhk_panel_bytes(m->type, m->cols);

	for (uint32_t r = r0; r < r1; r += FHK_PANEL) {
		uint8_t *panel = (uint8_t *)dst + expert * m->expert_bytes + r / FHK_PANEL * panel_bytes;
		const uint8_t *rows = (const uint8_t *)src + r * row_bytes;
		uint32_t n = r1 - r < FHK_PANEL ? r1 - r : FHK_PANEL;

		switch (m->type) {
		case FHK_F32: pack_float(4, 1, m->cols, rows, n, panel); break;
		case FHK_F16: pack_float(2, 1, m->cols, rows, n, panel); break;
		case FHK_BF16: pack_float(2, 2, m->cols, rows, n, panel); break;
		default: pack_quant(m->type, m->cols, rows, n, panel); break;
		}
	}
}
