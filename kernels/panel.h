/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The packed form of a weight matrix that the x86 tables share, and the eight
 * bit form of activations.
 *
 * A panel is FHK_PANEL = 16 rows, the last one padded with zeros.  Float types
 * hold it column by column: [cols] of 16 values (BF16: [cols / 2] of 16 pairs).
 *
 * A quantised panel is a run of groups of up to eight blocks of 32 columns:
 *
 *   head   scales of the group, row by row within a block (see fhk_head_bytes)
 *   planes of each block in turn; a plane is [.. quad ..][16 rows][4 columns]
 *          bytes, which is what a dot product of four bytes in 32-bit lanes
 *          wants: lane r of a vector belongs to row r.
 *          Quad i (0..7) is columns 4 i .. 4 i + 3 of the block.
 *     4 bits: [4][16][4], low nibble quad j, high nibble quad j + 4
 *     1 bit:  [16][4], bit i belongs to quad i
 *     2 bits: [2][16][4], bits 2 j and 2 j + 1 of vector h belong to quad 4 h + j
 *     8 bits: [8][16][4]
 *
 * Quants are stored as the file has them, unsigned; Q8_0's get 128 added.  Heads
 * and planes start on 64 bytes.  Packing loses nothing of the file's values.
 */
#ifndef FHK_PANEL_H
#define FHK_PANEL_H

#include "kernels/kernels.h"

#define FHK_GROUP 8 /* blocks */

/*
 * 1.5 x 2^23 as the bits of a float: whole numbers of at most 22 bits, added to
 * them as integers, give the bits of that float plus the number.  A sum of
 * products that begins here needs no conversion: with a scale d of at most 21
 * bits (an f16, or an f16 times eight bits) d times this float is exact, and
 * one fused multiply and subtract gives d times the number, rounded once.
 */
#define FHK_MAGIC_BITS 0x4b400000
#define FHK_MAGIC 0x1.8p23f

/* 32 columns of one token; 64 bytes, a cache line. */
struct fhk_q8 {
	int8_t q[32];
	float d;	   /* value = d * q */
	int32_t start8;	   /* FHK_MAGIC_BITS minus 8 times the sum of q: takes off a zero point of 8 */
	int32_t start128;  /* the same of 128 */
	int32_t nsum16[2]; /* minus the sum of q of each half */
	float fsum;	   /* d * sum of q: for minimums */
	float fsum16[2];
};
_Static_assert(sizeof(struct fhk_q8) == 64, "a block of activations is a cache line");

enum fhk_layout {
	FHK_LAYOUT_FLOAT = 1, /* F32, F16: [cols rounded up to 4][16] */
	FHK_LAYOUT_PAIRS = 2, /* BF16: [cols / 2][16][2], cols rounded up to 4 */
	FHK_LAYOUT_QUANT = 3,
};

#define FHK_INLINE static inline __attribute__((always_inline))

/*
 * Bytes of a group's head:
 *   Q4_0 Q5_0 Q8_0 IQ4_NL  f16 d[8][16]
 *   Q4_1 Q5_1              f16 d[8][16], m[8][16]
 *   MXFP4                  e8m0 e[8][16]
 *   Q4_K Q5_K              f16 d[16], dmin[16]; u8 scale[8][16], min[8][16]
 *   IQ4_XS                 f16 d[16], 32 bytes unused; i8 scale[8][16]
 *   Q6_K Q3_K              f16 d[16], 32 bytes unused; i8 scale[8][2][16]
 *   Q2_K                   f16 d[16], dmin[16]; u8 scale | min << 4 [8][2][16]
 */
FHK_INLINE uint32_t fhk_head_bytes(uint32_t type)
{
	switch (type) {
	case FHK_Q4_1:
	case FHK_Q5_1: return 512;
	case FHK_MXFP4: return 128;
	case FHK_IQ4_XS: return 192;
	case FHK_Q2_K:
	case FHK_Q3_K:
	case FHK_Q4_K:
	case FHK_Q5_K:
	case FHK_Q6_K: return 320;
	default: return 256;
	}
}

FHK_INLINE uint32_t fhk_plane_bytes(uint32_t type)
{
	switch (type) {
	case FHK_Q8_0: return 512;
	case FHK_Q6_K: return 256 + 128;
	case FHK_Q5_0:
	case FHK_Q5_1:
	case FHK_Q5_K: return 256 + 64;
	case FHK_Q3_K: return 128 + 64;
	case FHK_Q2_K: return 128;
	default: return 256;
	}
}

/* value = d * (q - zero) for types without minimums; the zero point is 1 << this. */
FHK_INLINE int fhk_zero_shift(uint32_t type)
{
	switch (type) {
	case FHK_Q4_0: return 3;
	case FHK_Q5_0:
	case FHK_MXFP4: return 4; /* the table holds value + 16 */
	case FHK_Q6_K: return 5;
	case FHK_Q3_K: return 2;
	default: return 7; /* Q8_0, and the tables of IQ4: value + 128 */
	}
}

FHK_INLINE bool fhk_has_min(uint32_t type)
{
	return type == FHK_Q4_1 || type == FHK_Q5_1 || type == FHK_Q2_K || type == FHK_Q4_K || type == FHK_Q5_K;
}

/* A scale for 16 columns rather than 32. */
FHK_INLINE bool fhk_is_sub16(uint32_t type)
{
	return type == FHK_Q2_K || type == FHK_Q3_K || type == FHK_Q6_K;
}

/* A group of 256 columns shares one f16 scale. */
FHK_INLINE bool fhk_is_super(uint32_t type)
{
	return type == FHK_Q2_K || type == FHK_Q3_K || type == FHK_Q4_K || type == FHK_Q5_K || type == FHK_Q6_K ||
	       type == FHK_IQ4_XS;
}

FHK_INLINE uint32_t fhk_kpad(uint32_t cols)
{
	return (cols + 3) & ~3u;
}

size_t fhk_panel_bytes(uint32_t type, uint32_t cols);
/* As fhk_ops.mat_plan, mat_pack and act_bytes. @bf16: BF16 wants BF16 activations, else f32. */
int fhk_panel_plan(struct fhk_mat *m, uint32_t type, uint32_t rows, uint32_t cols, uint32_t nr_experts, bool bf16);
void fhk_panel_pack(const struct fhk_mat *m, uint32_t expert, const void *src, uint32_t r0, uint32_t r1, void *dst);
/* The same bytes with vectors; x86-64 has them. */
void fhk_avx2_pack(const struct fhk_mat *m, uint32_t expert, const void *src, uint32_t r0, uint32_t r1, void *dst);
void fhk_avx512_pack(const struct fhk_mat *m, uint32_t expert, const void *src, uint32_t r0, uint32_t r1, void *dst);
size_t fhk_panel_act_bytes(enum fhk_form form, uint32_t nr_tokens, uint32_t cols);

#endif /* FHK_PANEL_H */
