/* SPDX-License-Identifier: Apache-2.0 */
/*
 * y = W x for a unit of 16 rows and up to 64 rows of x: one block, whose eight
 * warps each take a slice of the columns.  All types go through mma.sync, the
 * tokens being its N: quants as signed bytes, 32 columns an instruction, whose
 * exact sums are scaled and added in f32; 16 bits with f32 sums.
 *
 * The order of every sum: columns of a slice from left to right, then the
 * slices in order.  Slices follow from the number of columns alone, so the
 * number of rows of x, and what tile takes them, cannot change a bit.
 */
#ifndef FHK_CUDA_MM_CUH
#define FHK_CUDA_MM_CUH

#include "kernels/cuda/dev.cuh"

#define MM_RED_LD 20 /* floats from a token's 16 sums to the next: no two lanes in a bank */

/* What a lane needs to know about the rows of x: of each eight tokens the one whose fragment it
 * loads, and the two whose sums it holds.  Tokens past the end read a row that exists. */
template <int NT> struct mm_rows {
	size_t at[NT], sums[NT][2];

	__device__ __forceinline__ size_t frag(int j) const
	{
		return at[j];
	}
	__device__ __forceinline__ size_t sum(int j, int k) const
	{
		return sums[j][k];
	}
};

/* The same where the rows of x lie one after the other in shared memory. */
struct mm_staged_rows {
	__device__ __forceinline__ uint32_t frag(int j) const
	{
		return j * 8 + fhk_lane() / 4;
	}
	__device__ __forceinline__ uint32_t sum(int j, int k) const
	{
		return j * 8 + fhk_lane() % 4 * 2 + k;
	}
};

/* The weights of 64 columns of 32-column types, as fragments of signed bytes. */
struct mm_frags {
	uint32_t a[2][4];
};

FHK_DEV uint32_t mm_word(const uint4 &v, int i)
{
	return i == 0 ? v.x : i == 1 ? v.y : i == 2 ? v.z : v.w;
}

/* Bytes below 128 - n, less n, each. */
template <uint32_t N> FHK_DEV uint32_t mm_minus(uint32_t v)
{
	return (v + (0x80 - N) * 0x01010101u) ^ 0x80808080u;
}

/* The two halves of a word: scales of rows g and g + 8 */
FHK_DEV float2 mm_halves(const uint8_t *p)
{
	uint32_t v = *(const uint32_t *)p;

	return make_float2(fhk_h2f((uint16_t)v), fhk_h2f((uint16_t)(v >> 16)));
}

/* c: sums of a fragment over 32 columns; the scale of a row (.x: g, .y: g + 8) times that of a token. */
FHK_DEV void mm_scale(float acc[4], const int c[4], float2 dw, float dx0, float dx1)
{
	acc[0] = fmaf((float)c[0], __fmul_rn(dw.x, dx0), acc[0]);
	acc[1] = fmaf((float)c[1], __fmul_rn(dw.x, dx1), acc[1]);
	acc[2] = fmaf((float)c[2], __fmul_rn(dw.y, dx0), acc[2]);
	acc[3] = fmaf((float)c[3], __fmul_rn(dw.y, dx1), acc[3]);
}

/* Less the minimums of two rows times d * sum of q of two tokens. */
FHK_DEV void mm_less_min(float acc[4], float2 m, float s0, float s1)
{
	acc[0] = fmaf(-m.x, s0, acc[0]);
	acc[1] = fmaf(-m.x, s1, acc[1]);
	acc[2] = fmaf(-m.y, s0, acc[2]);
	acc[3] = fmaf(-m.y, s1, acc[3]);
}

struct mm_x {
	const uint8_t *q;  /* [rows][ld] */
	const float2 *qd;  /* [rows][ld / 32] */
	uint32_t ld;
};

/* 64 columns from @col on, for types with one scale a row and 32 columns: dw[b]. */
template <int NT, typename ROWS>
FHK_DEV void mm_q64(float acc[NT][4], const mm_frags &f, const float2 dw[2], const mm_x &x, const ROWS &rows,
		    uint32_t col)
{
#pragma unroll
	for (int j = 0; j < NT; j++) {
		uint4 b = *(const uint4 *)(x.q + rows.frag(j) * x.ld + col + fhk_lane() % 4 * 16);
		float4 d0 = *(const float4 *)(x.qd + (rows.sum(j, 0) * x.ld + col) / 32);
		float4 d1 = *(const float4 *)(x.qd + (rows.sum(j, 1) * x.ld + col) / 32);
		int c0[4] = {0, 0, 0, 0}, c1[4] = {0, 0, 0, 0};

		fhk_mma_s8(c0, f.a[0], b.x, b.y);
		fhk_mma_s8(c1, f.a[1], b.z, b.w);
		mm_scale(acc[j], c0, dw[0], d0.x, d1.x);
		mm_scale(acc[j], c1, dw[1], d0.z, d1.z);
	}
}

/* The same with minimums. */
template <int NT, typename ROWS>
FHK_DEV void mm_q64_min(float acc[NT][4], const mm_frags &f, const float2 dw[2], const float2 mw[2], const mm_x &x,
			const ROWS &rows, uint32_t col)
{
#pragma unroll
	for (int j = 0; j < NT; j++) {
		uint4 b = *(const uint4 *)(x.q + rows.frag(j) * x.ld + col + fhk_lane() % 4 * 16);
		float4 d0 = *(const float4 *)(x.qd + (rows.sum(j, 0) * x.ld + col) / 32);
		float4 d1 = *(const float4 *)(x.qd + (rows.sum(j, 1) * x.ld + col) / 32);
		int c0[4] = {0, 0, 0, 0}, c1[4] = {0, 0, 0, 0};

		fhk_mma_s8(c0, f.a[0], b.x, b.y);
		fhk_mma_s8(c1, f.a[1], b.z, b.w);
		mm_scale(acc[j], c0, dw[0], d0.x, d1.x);
		mm_less_min(acc[j], mw[0], d0.y, d1.y);
		mm_scale(acc[j], c1, dw[1], d0.z, d1.z);
		mm_less_min(acc[j], mw[1], d0.w, d1.w);
	}
}

/* Nibbles of 64 columns: low ones the first fragment. */
FHK_DEV void mm_nibbles(mm_frags &f, const uint4 &v)
{
#pragma unroll
	for (int w = 0; w < 4; w++) {
		f.a[0][w] = mm_word(v, w) & 0x0f0f0f0fu;
		f.a[1][w] = mm_word(v, w) >> 4 & 0x0f0f0f0fu;
	}
}

/* Eight codes of MXFP4 to twice their values: magnitude and sign come from tables of four bytes a register. */
FHK_DEV void mm_mxfp4(uint32_t v, uint32_t *lo, uint32_t *hi)
{
	uint32_t at = v & 0x77777777u, pick = 0x32103210u | (v & 0x88888888u) >> 1, t[2];

#pragma unroll
	for (int h = 0; h < 2; h++) {
		uint32_t plus = __byte_perm(0x03020100u, 0x0c080604u, at >> (16 * h) & 0xffff);
		uint32_t minus = __byte_perm(0xfdfeff00u, 0xf4f8fafcu, at >> (16 * h) & 0xffff);

		t[h] = __byte_perm(plus, minus, pick >> (16 * h) & 0xffff);
	}
	*lo = __byte_perm(t[0], t[1], 0x6420);
	*hi = __byte_perm(t[0], t[1], 0x7531);
}

/* Scales and minimums of Q4_K and Q5_K, four a word, from the twelve bytes of a row. */
struct mm_scales {
	uint32_t s[2], m[2];
	float d, dmin;
};

FHK_DEV mm_scales mm_k_scales(const uint8_t *head)
{
	uint4 v = *(const uint4 *)head;
	mm_scales k;

	k.d = fhk_h2f((uint16_t)v.x);
	k.dmin = fhk_h2f((uint16_t)(v.x >> 16));
	k.s[0] = v.y & 0x3f3f3f3fu;
	k.m[0] = v.z & 0x3f3f3f3fu;
	k.s[1] = (v.w & 0x0f0f0f0fu) | (v.y >> 2 & 0x30303030u);
	k.m[1] = (v.w >> 4 & 0x0f0f0f0fu) | (v.z >> 2 & 0x30303030u);
	return k;
}

FHK_DEV float mm_byte(const uint32_t w[2], int i)
{
	return (float)((i < 4 ? w[0] : w[1]) >> (i % 4 * 8) & 255);
}

/* A chunk of each type: its weights at @w, columns from @col on. */
template <uint32_t TYPE> struct mm_type;

template <> struct mm_type<FHK_Q8_0> {
	template <int NT, typename ROWS>
	static __device__ __forceinline__ void chunk(float acc[NT][4], const uint8_t *w, const mm_x &x, const ROWS &rows,
					uint32_t col)
	{
		uint4 v0 = fhk_ld_w(w + fhk_lane() * 16), v1 = fhk_ld_w(w + 512 + fhk_lane() * 16);
		const uint8_t *d = w + 1024 + fhk_lane() / 4 * 4;
		const float2 dw[2] = {mm_halves(d), mm_halves(d + 32)};
		const mm_frags f = {{{v0.x, v0.y, v0.z, v0.w}, {v1.x, v1.y, v1.z, v1.w}}};

		mm_q64<NT>(acc, f, dw, x, rows, col);
	}
};

template <> struct mm_type<FHK_Q4_0> {
	template <int NT, typename ROWS>
	static __device__ __forceinline__ void chunk(float acc[NT][4], const uint8_t *w, const mm_x &x, const ROWS &rows,
					uint32_t col)
	{
		uint4 v = fhk_ld_w(w + fhk_lane() * 16);
		const uint8_t *d = w + 512 + fhk_lane() / 4 * 4;
		const float2 dw[2] = {mm_halves(d), mm_halves(d + 32)};
		mm_frags f;

		mm_nibbles(f, v);
#pragma unroll
		for (int i = 0; i < 8; i++)
			f.a[i / 4][i % 4] = mm_minus<8>(f.a[i / 4][i % 4]);
		mm_q64<NT>(acc, f, dw, x, rows, col);
	}
};

template <> struct mm_type<FHK_MXFP4> {
	template <int NT, typename ROWS>
	static __device__ __forceinline__ void chunk(float acc[NT][4], const uint8_t *w, const mm_x &x, const ROWS &rows,
					uint32_t col)
	{
		uint4 v = fhk_ld_w(w + fhk_lane() * 16);
		float2 dw[2];
		mm_frags f;

#pragma unroll
		for (int b = 0; b < 2; b++) {
			uint32_t e = *(const uint16_t *)(w + 512 + b * 16 + fhk_lane() / 4 * 2);

			/* 2^(e - 127) / 2; where that is no normal number nothing is left of it anyway */
			dw[b].x = __uint_as_float(((e & 255) ? (e & 255) - 1 : 0) << 23);
			dw[b].y = __uint_as_float((e >> 8 ? (e >> 8) - 1 : 0) << 23);
		}
#pragma unroll
		for (int i = 0; i < 4; i++)
			mm_mxfp4(mm_word(v, i), &f.a[0][i], &f.a[1][i]);
		mm_q64<NT>(acc, f, dw, x, rows, col);
	}
};

/* Q4_K, and Q5_K with a fifth bit */
template <bool FIVE, int NT, typename ROWS>
FHK_DEV void mm_k_chunk(float acc[NT][4], const uint8_t *w, const mm_x &x, const ROWS &rows, uint32_t col)
{
	const mm_scales lo = mm_k_scales(w + 2048 + fhk_lane() / 4 * 16);
	const mm_scales hi = mm_k_scales(w + 2048 + 128 + fhk_lane() / 4 * 16);

#pragma unroll(NT > 8 ? 1 : 4) /* so that its loads fly together, but where sums fill the registers */
	for (int p = 0; p < 4; p++) {
		uint4 v = fhk_ld_w(w + p * 512 + fhk_lane() * 16);
		uint32_t bits = FIVE ? *(const uint32_t *)(w + 2304 + p * 128 + fhk_lane() * 4) : 0;
		float2 dw[2], mw[2];
		mm_frags f;

		mm_nibbles(f, v);
		if (FIVE)
#pragma unroll
			for (int i = 0; i < 8; i++)
				f.a[i / 4][i % 4] |= (bits >> i & 0x01010101u) << 4;
#pragma unroll
		for (int b = 0; b < 2; b++) {
			dw[b] = make_float2(__fmul_rn(lo.d, mm_byte(lo.s, 2 * p + b)),
					    __fmul_rn(hi.d, mm_byte(hi.s, 2 * p + b)));
			mw[b] = make_float2(__fmul_rn(lo.dmin, mm_byte(lo.m, 2 * p + b)),
					    __fmul_rn(hi.dmin, mm_byte(hi.m, 2 * p + b)));
		}
		mm_q64_min<NT>(acc, f, dw, mw, x, rows, col + 64 * p);
	}
}

template <> struct mm_type<FHK_Q4_K> {
	template <int NT, typename ROWS>
	static __device__ __forceinline__ void chunk(float acc[NT][4], const uint8_t *w, const mm_x &x, const ROWS &rows,
					uint32_t col)
	{
		mm_k_chunk<false, NT>(acc, w, x, rows, col);
	}
};

template <> struct mm_type<FHK_Q5_K> {
	template <int NT, typename ROWS>
	static __device__ __forceinline__ void chunk(float acc[NT][4], const uint8_t *w, const mm_x &x, const ROWS &rows,
					uint32_t col)
	{
		mm_k_chunk<true, NT>(acc, w, x, rows, col);
	}
};

/* Scales for 16 columns: two instructions of half the depth, whose sums are joined while they are whole numbers. */
template <> struct mm_type<FHK_Q6_K> {
	template <int NT, typename ROWS>
	static __device__ __forceinline__ void frag(float acc[NT][4], const uint32_t a[4], const int s[2][2], float2 d,
				       const mm_x &x, const ROWS &rows, uint32_t col)
	{
#pragma unroll
		for (int j = 0; j < NT; j++) {
			uint2 b = *(const uint2 *)(x.q + rows.frag(j) * x.ld + col / 64 * 64 + fhk_lane() % 4 * 16 +
						   col % 64 / 4);
			float d0 = x.qd[(rows.sum(j, 0) * x.ld + col) / 32].x;
			float d1 = x.qd[(rows.sum(j, 1) * x.ld + col) / 32].x;
			int c[4] = {0, 0, 0, 0}, e[4] = {0, 0, 0, 0};

			fhk_mma_s8_k16(c, a[0], a[1], b.x);
			fhk_mma_s8_k16(e, a[2], a[3], b.y);
#pragma unroll
			for (int i = 0; i < 4; i++)
				c[i] = c[i] * s[i / 2][0] + e[i] * s[i / 2][1];
			mm_scale(acc[j], c, d, d0, d1);
		}
	}

	template <int NT, typename ROWS>
	static __device__ __forceinline__ void chunk(float acc[NT][4], const uint8_t *w, const mm_x &x, const ROWS &rows,
					uint32_t col)
	{
		uint32_t g = fhk_lane() / 4;
		const uint4 s0 = *(const uint4 *)(w + 3072 + g * 16), s1 = *(const uint4 *)(w + 3072 + 128 + g * 16);
		const float2 d = {fhk_h2f(*(const uint16_t *)(w + 3328 + g * 2)),
				  fhk_h2f(*(const uint16_t *)(w + 3344 + g * 2))};

#pragma unroll(NT > 8 ? 1 : 4) /* so that its loads fly together, but where sums fill the registers */
		for (int p = 0; p < 4; p++) {
			uint4 v = fhk_ld_w(w + p * 512 + fhk_lane() * 16);
			uint2 bits = *(const uint2 *)(w + 2048 + p * 256 + fhk_lane() * 8);
			uint32_t lo = mm_word(s0, p), hi = mm_word(s1, p);
			mm_frags f;

			mm_nibbles(f, v);
#pragma unroll
			for (int b = 0; b < 2; b++) {
				const int s[2][2] = {{(int8_t)(lo >> (16 * b)), (int8_t)(lo >> (16 * b + 8))},
						     {(int8_t)(hi >> (16 * b)), (int8_t)(hi >> (16 * b + 8))}};

#pragma unroll
				for (int i = 0; i < 4; i++)
					f.a[b][i] = mm_minus<32>(
						f.a[b][i] | ((b ? bits.y : bits.x) >> (2 * i) & 0x03030303u) << 4);
				frag<NT>(acc, f.a[b], s, d, x, rows, col + 64 * p + 32 * b);
			}
		}
	}
};

template <bool BF, int NT, typename ROWS>
FHK_DEV void mm_16_chunk(float acc[NT][4], const uint8_t *w, const mm_x &x, const ROWS &rows, uint32_t col)
{
	uint4 v[4];

#pragma unroll
	for (int s = 0; s < 4; s++)
		v[s] = fhk_ld_w(w + s * 512 + fhk_lane() * 16);
#pragma unroll
	for (int j = 0; j < NT; j++) {
		const uint4 *p = (const uint4 *)(x.q + (rows.frag(j) * x.ld + col + fhk_lane() % 4 * 16) * 2);
		uint4 b[2] = {p[0], p[1]};

#pragma unroll
		for (int s = 0; s < 4; s++) {
			const uint32_t a[4] = {v[s].x, v[s].y, v[s].z, v[s].w};
			uint32_t b0 = s % 2 ? b[s / 2].z : b[s / 2].x, b1 = s % 2 ? b[s / 2].w : b[s / 2].y;

			if (BF)
				fhk_mma_bf16(acc[j], a, b0, b1);
			else
				fhk_mma_f16(acc[j], a, b0, b1);
		}
	}
}

template <> struct mm_type<FHK_BF16> {
	template <int NT, typename ROWS>
	static __device__ __forceinline__ void chunk(float acc[NT][4], const uint8_t *w, const mm_x &x, const ROWS &rows,
					uint32_t col)
	{
		mm_16_chunk<true, NT>(acc, w, x, rows, col);
	}
};

template <> struct mm_type<FHK_F16> {
	template <int NT, typename ROWS>
	static __device__ __forceinline__ void chunk(float acc[NT][4], const uint8_t *w, const mm_x &x, const ROWS &rows,
					uint32_t col)
	{
		mm_16_chunk<false, NT>(acc, w, x, rows, col);
	}
};

/* Which rows of y and x a block takes. */
struct mm_block {
	uint32_t first, nr; /* of y */
	uint32_t expert;
};

/* False: nothing to do. */
FHK_DEV bool mm_find(const struct fhk_cu_mm_args &a, uint32_t tile, struct mm_block *b)
{
	uint32_t nr;

	if (a.tiles) {
		struct fhk_cu_tile t;

		if (blockIdx.x >= *fhk_ptr<const uint32_t>(a.nr_tiles))
			return false;
		t = fhk_ptr<const struct fhk_cu_tile>(a.tiles)[blockIdx.x];
		*b = (struct mm_block){t.first, t.nr, t.expert};
		return true;
	}
	nr = *fhk_ptr<const uint32_t>(a.nr);
	if (blockIdx.x * tile >= nr)
		return false;
	*b = (struct mm_block){blockIdx.x * tile, min(tile, nr - blockIdx.x * tile), 0};
	return true;
}

/* Row of x that belongs to row @i of the block, or to its last one. */
FHK_DEV size_t mm_row(const struct fhk_cu_mm_args &a, const struct mm_block &b, uint32_t i)
{
	uint32_t r = b.first + min(i, b.nr - 1);

	return a.idx ? fhk_ptr<const uint32_t>(a.idx)[r] : r;
}

/* What one thread writes of row @row of y, from the sums of the gate or the only matrix and those of the second. */
FHK_DEV void mm_put(const struct fhk_cu_mm_args &a, const struct mm_block &b, uint32_t row, uint32_t i, float v, float u)
{
	float *y = fhk_ptr<float>(a.y) + (size_t)(b.first + i) * a.ldy + row;
	size_t at = (size_t)b.expert * a.rows + row;

	if (a.bias)
		v = __fadd_rn(v, fhk_ptr<const float>(a.bias)[at]);
	if (a.flags & FHK_CU_MM_GLU) {
		if (a.bias2)
			u = __fadd_rn(u, fhk_ptr<const float>(a.bias2)[at]);
		v = fhk_glu(v, u, a.glu);
	}
	if (a.softcap > 0)
		v = a.softcap * tanhf(v / a.softcap);
	*y = a.flags & FHK_CU_MM_ADD ? __fadd_rn(*y, v) : v;
}

/* Sums of this warp's slice of a unit to red[warp]: [tile][MM_RED_LD] */
template <uint32_t TYPE, int NT, typename ROWS>
FHK_DEV void mm_slice(const struct fhk_cu_mm_args &a, const uint8_t *unit, const mm_x &x, const ROWS &rows,
		      float *red)
{
	uint32_t nr = fhk_cu_div_up(a.cols, fhk_cu_chunk_cols(TYPE)), lane = fhk_lane();
	uint32_t c = nr * fhk_warp() / FHK_CU_SLICES, end = nr * (fhk_warp() + 1) / FHK_CU_SLICES;
	float acc[NT][4], *out = red + (size_t)fhk_warp() * NT * 8 * MM_RED_LD;

#pragma unroll
	for (int j = 0; j < NT; j++)
		acc[j][0] = acc[j][1] = acc[j][2] = acc[j][3] = 0;
#pragma unroll(NT > 2 ? 1 : fhk_cu_chunk_cols(TYPE) == 64 ? 4 : 2)
	for (; c < end; c++)
		mm_type<TYPE>::template chunk<NT>(acc, unit + (size_t)c * fhk_cu_chunk_bytes(TYPE), x, rows,
						  c * fhk_cu_chunk_cols(TYPE));
#pragma unroll
	for (int j = 0; j < NT; j++) {
		float *p = out + (j * 8 + lane % 4 * 2) * MM_RED_LD + lane / 4;

		p[0] = acc[j][0];
		p[MM_RED_LD] = acc[j][1];
		p[8] = acc[j][2];
		p[MM_RED_LD + 8] = acc[j][3];
	}
}

/* The sum over the slices, in their order. */
FHK_DEV float mm_reduce(const float *red, uint32_t tile, uint32_t i, uint32_t r)
{
	float v = red[i * MM_RED_LD + r];

	for (uint32_t w = 1; w < FHK_CU_SLICES; w++)
		v = __fadd_rn(v, red[(w * tile + i) * MM_RED_LD + r]);
	return v;
}

template <uint32_t TYPE, int NT> FHK_DEV void mm_kernel(const struct fhk_cu_mm_args &a)
{
	constexpr uint32_t tile = NT * 8;
	constexpr uint32_t each = tile * FHK_CU_ROWS / 256 ? tile * FHK_CU_ROWS / 256 : 1;
	uint32_t r = threadIdx.x % FHK_CU_ROWS, row = blockIdx.y * FHK_CU_ROWS + r;
	struct mm_block b;
	mm_rows<NT> rows;
	mm_x x;
	size_t at;
	float v[each];
	FHK_SHARED(shared);
	float *red = (float *)shared;

	if (!mm_find(a, tile, &b))
		return;
	x.q = fhk_ptr<const uint8_t>(a.x);
	x.qd = fhk_ptr<const float2>(a.xd);
	x.ld = fhk_cu_kpad(a.cols);
#pragma unroll
	for (int j = 0; j < NT; j++) {
		rows.at[j] = mm_row(a, b, j * 8 + fhk_lane() / 4);
		rows.sums[j][0] = mm_row(a, b, j * 8 + fhk_lane() % 4 * 2);
		rows.sums[j][1] = mm_row(a, b, j * 8 + fhk_lane() % 4 * 2 + 1);
	}
	at = (size_t)b.expert * a.expert_stride + (size_t)blockIdx.y * a.unit_stride;
	mm_slice<TYPE, NT>(a, fhk_ptr<const uint8_t>(a.w) + at, x, rows, red);
	__syncthreads();
#pragma unroll
	for (uint32_t k = 0; k < each; k++) {
		uint32_t i = threadIdx.x / FHK_CU_ROWS + k * 16;

		v[k] = i < tile ? mm_reduce(red, tile, i, r) : 0;
	}
	if (a.flags & FHK_CU_MM_GLU) {
		__syncthreads();
		mm_slice<TYPE, NT>(a, fhk_ptr<const uint8_t>(a.w2) + at, x, rows, red);
		__syncthreads();
	}
#pragma unroll
	for (uint32_t k = 0; k < each; k++) {
		uint32_t i = threadIdx.x / FHK_CU_ROWS + k * 16;

		if (i < b.nr && row < a.rows)
			mm_put(a, b, row, i, v[k], a.flags & FHK_CU_MM_GLU ? mm_reduce(red, tile, i, r) : 0);
	}
}

/*
 * The wide form, for prompts: eight units, a warp each, times 128 rows of x,
 * whose columns of a chunk are staged in shared memory for all warps.  A warp
 * does all slices of its unit, one after the other, and adds up their sums: the
 * same order as above, so the same bits.
 */
#define MM_WIDE 128u
#define MM_WIDE_NT 16

/* Elements from a staged row to the next: the eight lanes that load together then find all banks. */
template <uint32_t TYPE> struct mm_stage {
	static constexpr bool wide = TYPE == FHK_BF16 || TYPE == FHK_F16;
	static constexpr uint32_t cols = fhk_cu_chunk_cols(TYPE);
	static constexpr uint32_t ld = wide ? cols + 8 : cols == 64 ? cols : cols + 64;
	static constexpr uint32_t element = wide ? 2 : 1;
};

template <uint32_t TYPE>
FHK_DEV void mm_fill(const struct fhk_cu_mm_args &a, const struct mm_block &b, uint32_t chunk, uint8_t *q, uint8_t *qd)
{
	using st = mm_stage<TYPE>;
	constexpr uint32_t each = st::cols * st::element / 16, scales = st::wide ? 0 : st::cols / 64;
	uint32_t nr = (b.nr + 7) / 8 * 8, ld = fhk_cu_kpad(a.cols);

	for (uint32_t i = threadIdx.x; i < nr * each; i += 256) {
		const uint8_t *from = fhk_ptr<const uint8_t>(a.x) +
				      (mm_row(a, b, i / each) * ld + chunk * st::cols) * st::element;

		*(uint4 *)(q + i / each * st::ld * st::element + i % each * 16) = *(const uint4 *)(from + i % each * 16);
	}
	for (uint32_t i = threadIdx.x; i < nr * scales; i += 256) {
		const uint8_t *from = fhk_ptr<const uint8_t>(a.xd) +
				      (mm_row(a, b, i / (scales ? scales : 1)) * ld + chunk * st::cols) / 4;
		uint32_t k = i % (scales ? scales : 1);

		*(uint4 *)(qd + i / (scales ? scales : 1) * (st::ld / 4) + k * 16) = *(const uint4 *)(from + k * 16);
	}
}

/* total: the sums of this warp's unit with all rows of the block */
template <uint32_t TYPE>
FHK_DEV void mm_wide_unit(const struct fhk_cu_mm_args &a, const struct mm_block &b, const uint8_t *unit, bool in,
			  uint8_t *shared, float total[MM_WIDE_NT][4])
{
	using st = mm_stage<TYPE>;
	uint8_t *qd = shared + MM_WIDE * st::ld * st::element;
	uint32_t nr = fhk_cu_div_up(a.cols, st::cols), chunk = 0;
	const mm_x x = {shared, (const float2 *)qd, st::ld};
	const mm_staged_rows rows = {};

#pragma unroll 1
	for (uint32_t slice = 0; slice < FHK_CU_SLICES; slice++) {
		float acc[MM_WIDE_NT][4];

#pragma unroll
		for (int j = 0; j < MM_WIDE_NT; j++)
			acc[j][0] = acc[j][1] = acc[j][2] = acc[j][3] = 0;
#pragma unroll 1
		for (; chunk < nr * (slice + 1) / FHK_CU_SLICES; chunk++) {
			__syncthreads(); /* all have read the last one */
			mm_fill<TYPE>(a, b, chunk, shared, qd);
			__syncthreads();
			if (in)
				mm_type<TYPE>::template chunk<MM_WIDE_NT>(
					acc, unit + (size_t)chunk * fhk_cu_chunk_bytes(TYPE), x, rows, 0);
		}
#pragma unroll
		for (int j = 0; j < MM_WIDE_NT; j++)
#pragma unroll
			for (int i = 0; i < 4; i++)
				total[j][i] = slice ? __fadd_rn(total[j][i], acc[j][i]) : acc[j][i];
	}
}

template <uint32_t TYPE> FHK_DEV void mm_wide_kernel(const struct fhk_cu_mm_args &a)
{
	uint32_t unit = blockIdx.y * 8 + fhk_warp(), row0 = unit * FHK_CU_ROWS + fhk_lane() / 4;
	bool in = unit * FHK_CU_ROWS < a.rows;
	float total[MM_WIDE_NT][4];
	struct mm_block b;
	FHK_SHARED(shared);
	size_t at;

	if (!mm_find(a, MM_WIDE, &b))
		return;
	at = (size_t)b.expert * a.expert_stride + (size_t)unit * a.unit_stride;
#pragma unroll 1
	for (int pass = 0; pass < (a.flags & FHK_CU_MM_GLU ? 2 : 1); pass++) {
		bool last = pass || !(a.flags & FHK_CU_MM_GLU);
		/* Addresses are made when they are wanted: kept over a pass they would fill the registers. */
		struct mm_block out = {fhk_opaque(b.first), b.nr, b.expert};

		mm_wide_unit<TYPE>(a, b, fhk_ptr<const uint8_t>(pass ? a.w2 : a.w) + at, in, shared, total);
#pragma unroll
		for (int i = 0; i < MM_WIDE_NT * 4; i++) {
			uint32_t r = row0 + i % 4 / 2 * 8, t = i / 4 * 8 + fhk_lane() % 4 * 2 + i % 2;
			float v = total[i / 4][i % 4], *y = fhk_ptr<float>(a.y) + (size_t)(out.first + t) * a.ldy + r;

			if (r >= a.rows || t >= b.nr)
				continue;
			if (!last) /* the gate waits where its product will be */
				*y = v;
			else
				mm_put(a, out, r, t, pass ? *y : v, v);
		}
	}
}

#define MM_KERNEL(TYPE, name, tile, KERNEL)                                     \
	KERNEL(fhk_cu_mm_##name##_##tile, 256)(const struct fhk_cu_mm_args a)   \
	{                                                                       \
		mm_kernel<TYPE, tile / 8>(a);                                   \
	}

#define MM_KERNELS_(TYPE, name, WIDE)            \
	MM_KERNEL(TYPE, name, 8, FHK_KERNEL_2)   \
	MM_KERNEL(TYPE, name, 16, FHK_KERNEL)    \
	MM_KERNEL(TYPE, name, 32, FHK_KERNEL)    \
	MM_KERNEL(TYPE, name, 64, WIDE)          \
	MM_WIDE_KERNEL(TYPE, name)

#define MM_WIDE_KERNEL(TYPE, name)                                                 \
	FHK_KERNEL_LEAN(fhk_cu_mm_##name##_128, 256)(const struct fhk_cu_mm_args a)     \
	{                                                                          \
		mm_wide_kernel<TYPE>(a);                                           \
	}

#define MM_KERNELS(TYPE, name) MM_KERNELS_(TYPE, name, FHK_KERNEL)
#define MM_KERNELS_K(TYPE, name) MM_KERNELS_(TYPE, name, FHK_KERNEL_LEAN)

#endif /* FHK_CUDA_MM_CUH */
