/* SPDX-License-Identifier: Apache-2.0 */
/*
 * y = W x for a unit of 16 rows and up to 64 rows of x: one block, whose eight
 * warps each take a slice of the columns.  All types go through mma.sync, the
 * tokens being its N: quants as signed bytes, 32 columns an instruction, whose
 * exact sums are scaled and added in f32; 16 bits with f32 sums.
 *
 * Weights come through rings in shared memory (cp.async): what is in flight is
 * then a number of ours, and no matter of registers or of what the compiler
 * moves where.
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
	uint32_t at[NT], sums[NT][2];

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

/* Of what a chunk consists: for each 64 columns (a part) quants and further bits of them; then scales of all. */
template <uint32_t TYPE> struct mm_form {
	static constexpr bool wide = TYPE == FHK_BF16 || TYPE == FHK_F16;
	static constexpr bool k45 = TYPE == FHK_Q4_K || TYPE == FHK_Q5_K;
	static constexpr uint32_t parts = fhk_cu_chunk_cols(TYPE) / 64;
	static constexpr uint32_t q = wide ? 2048 : TYPE == FHK_Q8_0 ? 1024 : 512;
	static constexpr uint32_t bits = TYPE == FHK_Q5_K ? 128 : TYPE == FHK_Q6_K ? 256 : 0;
	static constexpr uint32_t scales = fhk_cu_chunk_bytes(TYPE) - parts * (q + bits);
	static constexpr uint32_t bits_at = k45 ? parts * q + scales : parts * q;
	static constexpr uint32_t scales_at = k45 ? parts * q : parts * (q + bits);
	static constexpr uint32_t part_bytes = q + bits + scales; /* of a part alone */
};

/* Where they are, in shared memory */
struct mm_part {
	const uint8_t *q, *bits, *scales;
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
	const uint8_t *q; /* [rows][ld] */
	const float2 *qd; /* [rows][ld / 32] */
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

/* 64 columns of each type, from @col on: part @p of a chunk of weights. */
template <uint32_t TYPE> struct mm_type;

template <> struct mm_type<FHK_Q8_0> {
	template <int NT, typename ROWS>
	static __device__ __forceinline__ void part(float acc[NT][4], const mm_part &m, int, const mm_x &x,
						    const ROWS &rows, uint32_t col)
	{
		uint4 v0 = *(const uint4 *)(m.q + fhk_lane() * 16), v1 = *(const uint4 *)(m.q + 512 + fhk_lane() * 16);
		const uint8_t *d = m.scales + fhk_lane() / 4 * 4;
		const float2 dw[2] = {mm_halves(d), mm_halves(d + 32)};
		const mm_frags f = {{{v0.x, v0.y, v0.z, v0.w}, {v1.x, v1.y, v1.z, v1.w}}};

		mm_q64<NT>(acc, f, dw, x, rows, col);
	}
};

template <> struct mm_type<FHK_Q4_0> {
	template <int NT, typename ROWS>
	static __device__ __forceinline__ void part(float acc[NT][4], const mm_part &m, int, const mm_x &x,
						    const ROWS &rows, uint32_t col)
	{
		uint4 v = *(const uint4 *)(m.q + fhk_lane() * 16);
		const uint8_t *d = m.scales + fhk_lane() / 4 * 4;
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
	static __device__ __forceinline__ void part(float acc[NT][4], const mm_part &m, int, const mm_x &x,
						    const ROWS &rows, uint32_t col)
	{
		uint4 v = *(const uint4 *)(m.q + fhk_lane() * 16);
		float2 dw[2];
		mm_frags f;

#pragma unroll
		for (int b = 0; b < 2; b++) {
			uint32_t e = *(const uint16_t *)(m.scales + b * 16 + fhk_lane() / 4 * 2);

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
FHK_DEV void mm_k_part(float acc[NT][4], const mm_part &m, int p, const mm_x &x, const ROWS &rows, uint32_t col)
{
	const mm_scales lo = mm_k_scales(m.scales + fhk_lane() / 4 * 16);
	const mm_scales hi = mm_k_scales(m.scales + 128 + fhk_lane() / 4 * 16);
	uint32_t bits = FIVE ? *(const uint32_t *)(m.bits + fhk_lane() * 4) : 0;
	float2 dw[2], mw[2];
	mm_frags f;

	mm_nibbles(f, *(const uint4 *)(m.q + fhk_lane() * 16));
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
	mm_q64_min<NT>(acc, f, dw, mw, x, rows, col);
}

template <> struct mm_type<FHK_Q4_K> {
	template <int NT, typename ROWS>
	static __device__ __forceinline__ void part(float acc[NT][4], const mm_part &m, int p, const mm_x &x,
						    const ROWS &rows, uint32_t col)
	{
		mm_k_part<false, NT>(acc, m, p, x, rows, col);
	}
};

template <> struct mm_type<FHK_Q5_K> {
	template <int NT, typename ROWS>
	static __device__ __forceinline__ void part(float acc[NT][4], const mm_part &m, int p, const mm_x &x,
						    const ROWS &rows, uint32_t col)
	{
		mm_k_part<true, NT>(acc, m, p, x, rows, col);
	}
};

/* Scales for 16 columns: two instructions of half the depth, whose sums are joined while they are whole numbers. */
template <> struct mm_type<FHK_Q6_K> {
	static __device__ __forceinline__ void frag(float acc[4], const uint32_t a[4], const int s[2][2], float2 d,
						    uint32_t b0, uint32_t b1, float d0, float d1)
	{
		int c[4] = {0, 0, 0, 0}, e[4] = {0, 0, 0, 0};

		fhk_mma_s8_k16(c, a[0], a[1], b0);
		fhk_mma_s8_k16(e, a[2], a[3], b1);
#pragma unroll
		for (int i = 0; i < 4; i++)
			c[i] = c[i] * s[i / 2][0] + e[i] * s[i / 2][1];
		mm_scale(acc, c, d, d0, d1);
	}

	template <int NT, typename ROWS>
	static __device__ __forceinline__ void part(float acc[NT][4], const mm_part &m, int p, const mm_x &x,
						    const ROWS &rows, uint32_t col)
	{
		uint32_t g = fhk_lane() / 4;
		uint32_t lo = *(const uint32_t *)(m.scales + g * 16 + p * 4);
		uint32_t hi = *(const uint32_t *)(m.scales + 128 + g * 16 + p * 4);
		const float2 d = {fhk_h2f(*(const uint16_t *)(m.scales + 256 + g * 2)),
				  fhk_h2f(*(const uint16_t *)(m.scales + 272 + g * 2))};
		const int s[2][2][2] = {
			{{(int8_t)lo, (int8_t)(lo >> 8)}, {(int8_t)hi, (int8_t)(hi >> 8)}},
			{{(int8_t)(lo >> 16), (int8_t)(lo >> 24)}, {(int8_t)(hi >> 16), (int8_t)(hi >> 24)}}};
		uint2 bits = *(const uint2 *)(m.bits + fhk_lane() * 8);
		mm_frags f;

		mm_nibbles(f, *(const uint4 *)(m.q + fhk_lane() * 16));
#pragma unroll
		for (int i = 0; i < 8; i++)
			f.a[i / 4][i % 4] = mm_minus<32>(
				f.a[i / 4][i % 4] | ((i / 4 ? bits.y : bits.x) >> (2 * (i % 4)) & 0x03030303u) << 4);
#pragma unroll
		for (int j = 0; j < NT; j++) {
			uint4 b = *(const uint4 *)(x.q + rows.frag(j) * x.ld + col + fhk_lane() % 4 * 16);
			float4 d0 = *(const float4 *)(x.qd + (rows.sum(j, 0) * x.ld + col) / 32);
			float4 d1 = *(const float4 *)(x.qd + (rows.sum(j, 1) * x.ld + col) / 32);

			frag(acc[j], f.a[0], s[0], d, b.x, b.y, d0.x, d1.x);
			frag(acc[j], f.a[1], s[1], d, b.z, b.w, d0.z, d1.z);
		}
	}
};

template <bool BF, int NT, typename ROWS>
FHK_DEV void mm_16_part(float acc[NT][4], const mm_part &m, const mm_x &x, const ROWS &rows, uint32_t col)
{
	uint4 v[4];

#pragma unroll
	for (int s = 0; s < 4; s++)
		v[s] = *(const uint4 *)(m.q + s * 512 + fhk_lane() * 16);
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
	static __device__ __forceinline__ void part(float acc[NT][4], const mm_part &m, int, const mm_x &x,
						    const ROWS &rows, uint32_t col)
	{
		mm_16_part<true, NT>(acc, m, x, rows, col);
	}
};

template <> struct mm_type<FHK_F16> {
	template <int NT, typename ROWS>
	static __device__ __forceinline__ void part(float acc[NT][4], const mm_part &m, int, const mm_x &x,
						    const ROWS &rows, uint32_t col)
	{
		mm_16_part<false, NT>(acc, m, x, rows, col);
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
FHK_DEV uint32_t mm_row(const struct fhk_cu_mm_args &a, const struct mm_block &b, uint32_t i)
{
	uint32_t r = b.first + min(i, b.nr - 1);

	return a.idx ? fhk_ptr<const uint32_t>(a.idx)[r] : r;
}

/* What one thread writes of row @row of y, from the sums of the gate or the only matrix and those of the second. */
FHK_DEV void mm_put(const struct fhk_cu_mm_args &a, const struct mm_block &b, uint32_t row, uint32_t i, float v,
		    float u)
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
		v = __fmul_rn(a.softcap, tanhf(__fdiv_rn(v, a.softcap)));
	*y = a.flags & FHK_CU_MM_ADD ? __fadd_rn(*y, v) : v;
}

/*
 * A warp's way to its slice of a unit: chunks of the first matrix, then those of
 * the second, through a ring of its own.  Copies are complete for the lane that
 * asked for them; the other lanes need the barrier of the warp behind the wait.
 */
template <uint32_t TYPE> struct mm_ring {
	static constexpr uint32_t depth = fhk_cu_mm_depth(TYPE), bytes = fhk_cu_chunk_bytes(TYPE);
	uint8_t *at;	       /* [depth][bytes] shared */
	const uint8_t *w, *w2; /* the slice's first chunk */
	uint32_t nr, all;      /* chunks of one matrix, of both */

	/* Ask for chunk @k, if there is one; a group of copies in any case, so that they can be counted. */
	__device__ __forceinline__ void fetch(uint32_t k) const
	{
		const uint8_t *from = k < nr ? w + (size_t)k * bytes : w2 + (size_t)(k - nr) * bytes;
		uint8_t *to = at + k % depth * bytes;

		if (k < all)
#pragma unroll
			for (uint32_t i = 0; i < bytes; i += 512)
				if (bytes - i >= 512 || fhk_lane() * 16 < bytes - i)
					fhk_cp16(to + i + fhk_lane() * 16, from + i + fhk_lane() * 16);
		fhk_cp_commit();
	}

	/* Chunk @k, when it is there; asks for the one that takes the place of the last. */
	__device__ __forceinline__ const uint8_t *next(uint32_t k) const
	{
		__syncwarp(); /* all lanes have read the last one */
		fetch(k + depth - 1);
		fhk_cp_wait<depth - 1>();
		__syncwarp();
		return at + k % depth * bytes;
	}
};

template <uint32_t TYPE> FHK_DEV void mm_begin(mm_ring<TYPE> *r, const struct fhk_cu_mm_args &a, uint32_t expert)
{
	uint32_t nr = fhk_cu_div_up(a.cols, fhk_cu_chunk_cols(TYPE)), first = nr * fhk_warp() / FHK_CU_SLICES;
	size_t at = (size_t)expert * a.expert_stride + (size_t)blockIdx.y * a.unit_stride +
		    (size_t)first * fhk_cu_chunk_bytes(TYPE);

	r->nr = nr * (fhk_warp() + 1) / FHK_CU_SLICES - first;
	r->all = a.flags & FHK_CU_MM_GLU ? 2 * r->nr : r->nr;
	r->w = fhk_ptr<const uint8_t>(a.w) + at;
	r->w2 = fhk_ptr<const uint8_t>(a.w2) + at;
	for (uint32_t k = 0; k < r->depth - 1; k++)
		r->fetch(k);
}

/* The ring's chunks k0 .. k0 + nr - 1, which are the columns from @col on: sums to red[warp]: [tile][MM_RED_LD] */
template <uint32_t TYPE, int NT, typename ROWS>
FHK_DEV void mm_slice(const mm_ring<TYPE> &r, uint32_t k0, uint32_t col, const mm_x &x, const ROWS &rows, float *red)
{
	using form = mm_form<TYPE>;
	uint32_t lane = fhk_lane();
	float acc[NT][4], *out = red + (size_t)fhk_warp() * NT * 8 * MM_RED_LD;

#pragma unroll
	for (int j = 0; j < NT; j++)
		acc[j][0] = acc[j][1] = acc[j][2] = acc[j][3] = 0;
#pragma unroll 1
	for (uint32_t k = k0; k < k0 + r.nr; k++, col += 64 * form::parts) {
		const uint8_t *w = r.next(k);

#pragma unroll(NT > 2 ? 1 : 2)
		for (int p = 0; p < (int)form::parts; p++)
			mm_type<TYPE>::template part<NT>(
				acc, mm_part{w + p * form::q, w + form::bits_at + p * form::bits, w + form::scales_at},
				p, x, rows, col + 64 * p);
	}
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
	uint32_t r = threadIdx.x % FHK_CU_ROWS, row = blockIdx.y * FHK_CU_ROWS + r, col, passes;
	struct mm_block b = {};
	mm_ring<TYPE> ring;
	mm_rows<NT> rows;
	mm_x x;
	float v[each] = {};
	FHK_SHARED(shared);
	float *red = (float *)(shared + FHK_CU_SLICES * ring.depth * ring.bytes);

	ring.at = shared + fhk_warp() * ring.depth * ring.bytes;
	/* Weights fly before anything else is known, but for experts. */
	if (!a.tiles)
		mm_begin<TYPE>(&ring, a, 0);
	if (!mm_find(a, tile, &b)) {
		fhk_cp_wait<0>();
		return;
	}
	if (a.tiles)
		mm_begin<TYPE>(&ring, a, b.expert);
	x.q = fhk_ptr<const uint8_t>(a.x);
	x.qd = fhk_ptr<const float2>(a.xd);
	x.ld = fhk_cu_kpad(a.cols);
#pragma unroll
	for (int j = 0; j < NT; j++) {
		rows.at[j] = mm_row(a, b, j * 8 + fhk_lane() / 4);
		rows.sums[j][0] = mm_row(a, b, j * 8 + fhk_lane() % 4 * 2);
		rows.sums[j][1] = mm_row(a, b, j * 8 + fhk_lane() % 4 * 2 + 1);
	}
	col = fhk_cu_div_up(a.cols, fhk_cu_chunk_cols(TYPE)) * fhk_warp() / FHK_CU_SLICES * fhk_cu_chunk_cols(TYPE);
	passes = a.flags & FHK_CU_MM_GLU ? 2 : 1;
#pragma unroll 1
	for (uint32_t pass = 0; pass < passes; pass++) {
		mm_slice<TYPE, NT>(ring, pass * ring.nr, col, x, rows, red);
		__syncthreads();
		if (pass + 1 == passes)
			break;
#pragma unroll
		for (uint32_t k = 0; k < each; k++) {
			uint32_t i = threadIdx.x / FHK_CU_ROWS + k * 16;

			v[k] = i < tile ? mm_reduce(red, tile, i, r) : 0;
		}
		__syncthreads();
	}
#pragma unroll
	for (uint32_t k = 0; k < each; k++) {
		uint32_t i = threadIdx.x / FHK_CU_ROWS + k * 16;
		float u;

		if (i >= b.nr || row >= a.rows)
			continue;
		u = mm_reduce(red, tile, i, r);
		mm_put(a, b, row, i, passes == 2 ? v[k] : u, u);
	}
}

#include "kernels/cuda/mm_wide.cuh"

#define MM_KERNEL(TYPE, name, tile, KERNEL)                                                                            \
	KERNEL(fhk_cu_mm_##name##_##tile, 256)(const struct fhk_cu_mm_args a)                                          \
	{                                                                                                              \
		mm_kernel<TYPE, tile / 8>(a);                                                                          \
	}

#define MM_KERNELS_(TYPE, name, WIDE)                                                                                  \
	MM_KERNEL(TYPE, name, 8, FHK_KERNEL_2)                                                                         \
	MM_KERNEL(TYPE, name, 16, FHK_KERNEL)                                                                          \
	MM_KERNEL(TYPE, name, 32, FHK_KERNEL)                                                                          \
	MM_KERNEL(TYPE, name, 64, FHK_KERNEL)                                                                          \
	WIDE(fhk_cu_mm_##name##_128, 256)(const struct fhk_cu_mm_args a)                                               \
	{                                                                                                              \
		mm_wide_kernel<TYPE>(a);                                                                               \
	}

#define MM_KERNELS(TYPE, name) MM_KERNELS_(TYPE, name, FHK_KERNEL_LEAN)
#define MM_KERNELS_K(TYPE, name) MM_KERNELS_(TYPE, name, FHK_KERNEL) /* those of 64 rows */

#endif /* FHK_CUDA_MM_CUH */
