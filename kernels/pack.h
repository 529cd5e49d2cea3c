/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Packing weights into panels (panel.h) with vectors: what the tables of one
 * instruction set and another share.  A pack.c defines the types and the four
 * moves below and then includes this, once; fhk_panel_pack() says in plain C
 * what comes out, to the byte.
 *
 *   VROWS          rows that a vector holds: 8 or 16
 *   vec            VROWS words of 32 bits, lane r belongs to row r
 *   vec_bytes      the same as bytes
 *   load_quads()   16 bytes of each row, @stride bytes apart, four a vector
 *   put_bytes()    byte i of lane r to dst[16 * i + r]
 *   put_halves()   the low half of lane r to ((uint16_t *)dst)[r]
 *
 * A plane wants four columns of a row in the lane of that row, which is what
 * load_quads() gives; the rest is moving bits between words.  Nothing outside
 * of the rows is read.  The caller owns all memory.
 */
#ifndef FHK_PACK_H
#define FHK_PACK_H

#include <string.h>

#include "kernels/panel.h"

#define LOW1 0x01010101u
#define LOW2 0x03030303u
#define LOW4 0x0f0f0f0fu
#define LOW6 0x3f3f3f3fu
#define HIGH4 0xf0f0f0f0u
#define BITS45 0x30303030u
#define TOP 0x80808080u

/* Where some rows of a panel lie, in the file and in the group that is written. */
struct rows {
	const uint8_t *src; /* the first row */
	size_t stride;	    /* from a row to the next */
	uint32_t r;	    /* its number in the panel */
};

FHK_INLINE void put(uint8_t *plane, vec v)
{
	memcpy(plane, &v, sizeof(v));
}

FHK_INLINE void load(struct rows w, size_t at, vec x[4])
{
	load_quads(w.src + at, w.stride, x);
}

FHK_INLINE void load8(struct rows w, size_t at, vec x[8])
{
	load(w, at, x);
	load(w, at + 16, x + 4);
}

/* Exchange the bits of @b under @mask for those of @a @shift places above. */
FHK_INLINE void swap_bits(vec *a, vec *b, int shift, uint32_t mask)
{
	vec t = (*a >> shift ^ *b) & mask;

	*b ^= t;
	*a ^= t << shift;
}

/* Bit b of byte k of word i becomes bit i of byte k of word b. */
FHK_INLINE void turn_bits(vec x[8])
{
	for (int i = 0; i < 8; i += 2)
		swap_bits(&x[i], &x[i + 1], 1, 0x55555555u);
	for (int i = 0; i < 4; i++)
		swap_bits(&x[i / 2 * 4 + i % 2], &x[i / 2 * 4 + i % 2 + 2], 2, 0x33333333u);
	for (int i = 0; i < 4; i++)
		swap_bits(&x[i], &x[i + 4], 4, LOW4);
}

/* The same with pairs of bits, of four words. */
FHK_INLINE void turn_pairs(vec x[4])
{
	swap_bits(&x[0], &x[1], 2, 0x33333333u);
	swap_bits(&x[2], &x[3], 2, 0x33333333u);
	swap_bits(&x[0], &x[2], 4, LOW4);
	swap_bits(&x[1], &x[3], 4, LOW4);
}

/* Two blocks whose quants are the low and the high nibbles of the same 32 bytes. */
FHK_INLINE void put_nibbles(const vec x[8], uint8_t *low, uint8_t *high)
{
	for (int j = 0; j < 4; j++) {
		put(low + 64 * j, (x[j] & LOW4) | (x[j + 4] & LOW4) << 4);
		put(high + 64 * j, (x[j] >> 4 & LOW4) | (x[j + 4] & HIGH4));
	}
}

/* ---- blocks with scales of their own ---- */

/* Bit c of @qh, of column c, to its place: bit i of byte k is column 4 i + k. */
FHK_INLINE vec fifth_bits(vec qh)
{
	vec bits = qh & 0; /* the first bit of a column needs no product */

	for (int i = 0; i < 8; i++)
		bits |= ((qh >> (4 * i) & 15) * 0x00204081u & LOW1) << i;
	return bits;
}

FHK_INLINE void pack_simple(uint32_t type, struct rows w, uint32_t n, uint8_t *group)
{
	uint32_t bytes = fhk_type_info(type)->block_bytes, plane = fhk_plane_bytes(type);
	uint8_t *planes = group + fhk_head_bytes(type) + 4 * w.r;

	for (uint32_t b = 0; b < n; b++, w.src += bytes, planes += plane) {
		uint8_t *head = group + (type == FHK_MXFP4 ? 1 : 2) * (16 * b + w.r);
		vec x[8];

		for (uint32_t i = 0; i < VROWS; i++) {
			const uint8_t *block = w.src + i * w.stride;

			if (type == FHK_MXFP4) {
				head[i] = block[0];
				continue;
			}
			memcpy(head + 2 * i, block, 2);
			if (fhk_has_min(type))
				memcpy(head + 256 + 2 * i, block + 2, 2);
		}
		if (type == FHK_Q8_0) {
			load8(w, 2, x);
			for (int i = 0; i < 8; i++)
				put(planes + 64 * i, x[i] ^ TOP);
			continue;
		}
		if (type == FHK_Q5_0 || type == FHK_Q5_1) {
			load(w, bytes - 20, x);
			put(planes + 256, fifth_bits(x[0]));
		}
		load(w, bytes - 16, x);
		for (int j = 0; j < 4; j++)
			put(planes + 64 * j, x[j]);
	}
}

/* ---- super-blocks ---- */

FHK_INLINE vec minus32(vec x)
{
	return (vec)((vec_bytes)x - 32);
}

/* A scale for 16 columns, sixteen a row; d follows them or its minimum does. */
FHK_INLINE void scales_sub16(uint32_t type, struct rows w, uint8_t *head)
{
	uint8_t *scales = head + 64 + w.r;
	vec x[4], y[4];

	if (type == FHK_Q3_K) {
		vec lo, hi, two;

		load(w, 94, x); /* the block ends 16 bytes later; the scales begin at 96 */
		lo = x[0] >> 16 | x[1] << 16;
		hi = x[1] >> 16 | x[2] << 16;
		two = x[2] >> 16 | x[3] << 16;
		put_halves(head + 2 * w.r, x[3] >> 16);
		put_bytes(scales, minus32((lo & LOW4) | (two << 4 & BITS45)));
		put_bytes(scales + 64, minus32((hi & LOW4) | (two << 2 & BITS45)));
		put_bytes(scales + 128, minus32((lo >> 4 & LOW4) | (two & BITS45)));
		put_bytes(scales + 192, minus32((hi >> 4 & LOW4) | (two >> 2 & BITS45)));
		return;
	}
	load(w, type == FHK_Q2_K ? 0 : 192, x);
	for (int k = 0; k < 4; k++)
		put_bytes(scales + 64 * k, x[k]);
	load(w, type == FHK_Q2_K ? 68 : 194, y); /* up to the block's end */
	put_halves(head + 2 * w.r, type == FHK_Q2_K ? y[3] : y[3] >> 16);
	if (type == FHK_Q2_K)
		put_halves(head + 32 + 2 * w.r, y[3] >> 16);
}

/* Four nibbles, or pairs of bits, of the low bytes to a byte each. */
FHK_INLINE vec spread_nibbles(vec x)
{
	x = (x | x << 8) & 0x00ff00ffu;
	return (x | x << 4) & LOW4;
}

FHK_INLINE vec spread_pairs(vec x)
{
	x = (x | x << 12) & 0x000f000fu;
	return (x | x << 6) & LOW2;
}

/* A scale for 32 columns, eight a row. */
FHK_INLINE void scales_sub32(uint32_t type, struct rows w, uint8_t *head)
{
	uint8_t *scales = head + 64 + w.r;
	vec x[4];

	load(w, 0, x);
	put_halves(head + 2 * w.r, x[0]);
	if (type == FHK_IQ4_XS) {
		for (int k = 0; k < 2; k++)
			put_bytes(scales + 64 * k, minus32(spread_nibbles(x[1] >> (16 * k) & 0xffff) |
							   spread_pairs(x[0] >> (16 + 8 * k) & 0xff) << 4));
		return;
	}
	put_halves(head + 32 + 2 * w.r, x[0] >> 16);
	put_bytes(scales, x[1] & LOW6);
	put_bytes(scales + 64, (x[3] & LOW4) | (x[1] >> 2 & BITS45));
	put_bytes(scales + 128, x[2] & LOW6);
	put_bytes(scales + 192, (x[3] >> 4 & LOW4) | (x[2] >> 2 & BITS45));
}

/* Bit b of 32 bytes at @at: the bit plane of block b, @bit_at in its planes. */
FHK_INLINE void put_bit_planes(uint32_t type, struct rows w, size_t at, uint8_t *planes, uint32_t bit_at)
{
	vec x[8];

	load8(w, at, x);
	turn_bits(x);
	for (uint32_t b = 0; b < FHK_GROUP; b++)
		put(planes + b * fhk_plane_bytes(type) + bit_at, x[b]);
}

/* Pairs of bits 2 in and 2 in + 1 of 32 bytes at @at: those of block @b + in, @pair_at in its planes. */
FHK_INLINE void put_pair_planes(uint32_t type, struct rows w, size_t at, uint8_t *planes, uint32_t pair_at)
{
	vec x[8];

	load8(w, at, x);
	turn_pairs(x);
	turn_pairs(x + 4);
	for (uint32_t in = 0; in < 4; in++) {
		put(planes + in * fhk_plane_bytes(type) + pair_at, x[in]);
		put(planes + in * fhk_plane_bytes(type) + pair_at + 64, x[in + 4]);
	}
}

FHK_INLINE void pack_super(uint32_t type, struct rows w, uint8_t *group)
{
	uint8_t *planes = group + fhk_head_bytes(type) + 4 * w.r;
	uint32_t plane = fhk_plane_bytes(type);
	vec x[8];

	if (fhk_is_sub16(type))
		scales_sub16(type, w, group);
	else
		scales_sub32(type, w, group);
	switch (type) {
	case FHK_IQ4_XS:
		for (uint32_t b = 0; b < FHK_GROUP; b++) {
			load(w, 8 + 16 * b, x);
			for (int j = 0; j < 4; j++)
				put(planes + b * plane + 64 * j, x[j]);
		}
		break;
	case FHK_Q4_K:
	case FHK_Q5_K:
		for (uint32_t b = 0; b < FHK_GROUP; b += 2) {
			load8(w, (type == FHK_Q5_K ? 48 : 16) + 16 * b, x);
			put_nibbles(x, planes + b * plane, planes + (b + 1) * plane);
		}
		if (type == FHK_Q5_K)
			put_bit_planes(type, w, 16, planes, 256);
		break;
	case FHK_Q6_K:
		for (uint32_t b = 0; b < FHK_GROUP; b += b % 4 ? 3 : 1) {
			load8(w, b / 4 * 64 + b % 4 * 32, x);
			put_nibbles(x, planes + b * plane, planes + (b + 2) * plane);
		}
		put_pair_planes(type, w, 128, planes, 256);
		put_pair_planes(type, w, 160, planes + 4 * plane, 256);
		break;
	default:
		put_pair_planes(type, w, type == FHK_Q3_K ? 32 : 16, planes, 0);
		put_pair_planes(type, w, type == FHK_Q3_K ? 64 : 48, planes + 4 * plane, 0);
		if (type == FHK_Q3_K)
			put_bit_planes(type, w, 0, planes, 128);
		break;
	}
}

/* ---- panels ---- */

/* A whole panel of a quantised type. */
FHK_INLINE void panel_quant(uint32_t type, uint32_t cols, const uint8_t *src, uint8_t *panel)
{
	const struct fhk_type_info *info = fhk_type_info(type);
	size_t stride = (size_t)(cols / info->block_elems) * info->block_bytes;
	uint32_t nr_blocks = cols / 32;

	for (uint32_t g = 0; g < nr_blocks; g += FHK_GROUP) {
		uint32_t n = nr_blocks - g < FHK_GROUP ? nr_blocks - g : FHK_GROUP;

		for (uint32_t r = 0; r < FHK_PANEL; r += VROWS) {
			struct rows w = {.src = src + r * stride, .stride = stride, .r = r};

			if (fhk_is_super(type))
				pack_super(type, w, panel);
			else
				pack_simple(type, w, n, panel);
		}
		src += (size_t)(n * 32 / info->block_elems) * info->block_bytes;
		panel += fhk_head_bytes(type) + (size_t)n * fhk_plane_bytes(type);
	}
}

/* A whole panel of floats; 16 bytes of each row at a time, of which there must be no rest. */
FHK_INLINE void panel_float(uint32_t type, uint32_t cols, const uint8_t *src, uint8_t *panel)
{
	size_t stride = (size_t)cols * fhk_type_info(type)->block_bytes;

	for (size_t at = 0; at < stride; at += 16)
		for (uint32_t r = 0; r < FHK_PANEL; r += VROWS) {
			uint8_t *p = panel + at * FHK_PANEL;
			vec x[4];

			load_quads(src + r * stride + at, stride, x);
			for (int j = 0; j < 4; j++) {
				if (type != FHK_F16) {
					put(p + 64 * j + 4 * r, x[j]);
					continue;
				}
				put_halves(p + 64 * j + 2 * r, x[j]);
				put_halves(p + 64 * j + 32 + 2 * r, x[j] >> 16);
			}
		}
}

/* One loop a type, so that none decides anything inside. */
static void pack_panel(uint32_t type, uint32_t cols, const uint8_t *src, uint8_t *panel)
{
	switch (type) {
	case FHK_F32: panel_float(FHK_F32, cols, src, panel); break;
	case FHK_F16: panel_float(FHK_F16, cols, src, panel); break;
	case FHK_BF16: panel_float(FHK_BF16, cols, src, panel); break;
	case FHK_Q4_0: panel_quant(FHK_Q4_0, cols, src, panel); break;
	case FHK_Q4_1: panel_quant(FHK_Q4_1, cols, src, panel); break;
	case FHK_Q5_0: panel_quant(FHK_Q5_0, cols, src, panel); break;
	case FHK_Q5_1: panel_quant(FHK_Q5_1, cols, src, panel); break;
	case FHK_Q8_0: panel_quant(FHK_Q8_0, cols, src, panel); break;
	case FHK_Q2_K: panel_quant(FHK_Q2_K, cols, src, panel); break;
	case FHK_Q3_K: panel_quant(FHK_Q3_K, cols, src, panel); break;
	case FHK_Q4_K: panel_quant(FHK_Q4_K, cols, src, panel); break;
	case FHK_Q5_K: panel_quant(FHK_Q5_K, cols, src, panel); break;
	case FHK_Q6_K: panel_quant(FHK_Q6_K, cols, src, panel); break;
	case FHK_IQ4_NL: panel_quant(FHK_IQ4_NL, cols, src, panel); break;
	case FHK_IQ4_XS: panel_quant(FHK_IQ4_XS, cols, src, panel); break;
	case FHK_MXFP4: panel_quant(FHK_MXFP4, cols, src, panel); break;
	}
}

/* As mat_pack: whole panels with vectors, what is left as the reference does it. */
FHK_INLINE void pack_rows(const struct fhk_mat *m, uint32_t expert, const void *src, uint32_t r0, uint32_t r1,
			  void *dst)
{
	const struct fhk_type_info *info = fhk_type_info(m->type);
	size_t row_bytes = (size_t)(m->cols / info->block_elems) * info->block_bytes;
	size_t panel_bytes = fhk_panel_bytes(m->type, m->cols);
	uint8_t *to = (uint8_t *)dst + expert * m->expert_bytes;
	uint32_t r = r0;

	if (m->layout == FHK_LAYOUT_QUANT || row_bytes % 16 == 0)
		for (; r + FHK_PANEL <= r1; r += FHK_PANEL)
			pack_panel(m->type, m->cols, (const uint8_t *)src + r * row_bytes,
				   to + r / FHK_PANEL * panel_bytes);
	if (r < r1)
		fhk_panel_pack(m, expert, src, r, r1, dst);
}

#endif /* FHK_PACK_H */
