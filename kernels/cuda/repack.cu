// SPDX-License-Identifier: Apache-2.0
/*
 * File rows to units of 16 rows (cuda_kernels.h has the layout): a block a
 * chunk, at load time only.  Rows and columns past the end become zeros: their
 * scales are zero, and so are the activations that they meet.
 */
#include "kernels/cuda/file_types.cuh"

struct chunk {
	uint32_t type, row0, rows, col0, cols;
	const uint8_t *src; /* row 0 of the matrix */
	size_t row_bytes;
};

FHK_DEV const uint8_t *row_of(const struct chunk &c, uint32_t r)
{
	return c.src + (size_t)(c.row0 + r) * c.row_bytes;
}

FHK_DEV uint32_t code_at(const struct chunk &c, uint32_t r, uint32_t col)
{
	if (c.row0 + r >= c.rows || c.col0 + col >= c.cols)
		return 0;
	return fhk_file_code(c.type, row_of(c, r), c.col0 + col);
}

/* Row and first column of the four bytes of word @w of a lane's fragment of 32 columns */
FHK_DEV uint32_t frag_row(uint32_t lane, uint32_t w)
{
	return lane / 4 + w % 2 * 8;
}

FHK_DEV uint32_t frag_col(uint32_t lane, uint32_t w)
{
	return w / 2 * 16 + lane % 4 * 4;
}

/* Word @i of the fragments of 64 columns from @col on: 16 bits or 8 */
FHK_DEV uint32_t wide_word(const struct chunk &c, uint32_t i)
{
	uint32_t lane = i / 4 % 32, w = i % 4, frag = i / 128, r = frag_row(lane, w), col, v = 0;

	if (c.type != FHK_Q8_0) {
		col = frag * 16 + w / 2 * 8 + lane % 4 * 2;
		return code_at(c, r, col) | code_at(c, r, col + 1) << 16;
	}
	col = frag * 32 + frag_col(lane, w);
	for (uint32_t k = 0; k < 4; k++)
		v |= code_at(c, r, col + k) << (8 * k);
	return v;
}

/* Word @i of the nibbles of the chunk */
FHK_DEV uint32_t nibble_word(const struct chunk &c, uint32_t i)
{
	uint32_t lane = i / 4 % 32, w = i % 4, r = frag_row(lane, w), col = i / 128 * 64 + frag_col(lane, w), v = 0;

	for (uint32_t k = 0; k < 4; k++)
		v |= ((code_at(c, r, col + k) & 15) | (code_at(c, r, col + 32 + k) & 15) << 4) << (8 * k);
	return v;
}

/* The fifth bits of 64 columns */
FHK_DEV uint32_t bits5_word(const struct chunk &c, uint32_t i)
{
	uint32_t lane = i % 32, col0 = i / 32 * 64, v = 0;

	for (uint32_t b = 0; b < 2; b++)
		for (uint32_t w = 0; w < 4; w++)
			for (uint32_t k = 0; k < 4; k++)
				v |= (code_at(c, frag_row(lane, w), col0 + 32 * b + frag_col(lane, w) + k) >> 4 & 1)
				     << (8 * k + 4 * b + w);
	return v;
}

/* Bits 4 and 5 of the codes of fragment i % 2 of 64 columns */
FHK_DEV uint32_t bits6_word(const struct chunk &c, uint32_t i)
{
	uint32_t lane = i / 2 % 32, col0 = i / 64 * 64 + i % 2 * 32, v = 0;

	for (uint32_t w = 0; w < 4; w++)
		for (uint32_t k = 0; k < 4; k++)
			v |= (code_at(c, frag_row(lane, w), col0 + frag_col(lane, w) + k) >> 4 & 3) << (8 * k + 2 * w);
	return v;
}

/* Scales of the chunk that are not in the layout's order in the file; every thread writes some bytes. */
FHK_DEV void put_scales(const struct chunk &c, uint8_t *dst)
{
	uint32_t t = threadIdx.x;

	if (c.type == FHK_Q8_0 || c.type == FHK_Q4_0 || c.type == FHK_MXFP4) {
		uint32_t b = t / 16, r = t % 16 / 2 + t % 2 * 8;
		bool in = c.row0 + r < c.rows && c.col0 + 32 * b < c.cols;
		const uint8_t *block;

		if (t >= 32)
			return;
		block = in ? fhk_file_block(c.type, row_of(c, r), c.col0 + 32 * b) : 0;
		if (c.type == FHK_MXFP4) {
			dst[512 + t] = in ? block[0] : 0;
			return;
		}
		dst += c.type == FHK_Q8_0 ? 1024 : 512;
		dst[2 * t] = in ? block[0] : 0;
		dst[2 * t + 1] = in ? block[1] : 0;
		return;
	}
	for (uint32_t i = t; i < 16 * 18; i += blockDim.x) {
		uint32_t r = i / 18, k = i % 18;
		bool in = c.row0 + r < c.rows;
		const uint8_t *block = in ? fhk_file_block(c.type, row_of(c, r), c.col0) : 0;

		if (c.type == FHK_Q6_K) {
			uint8_t v = in ? block[192 + k] : 0;

			if (k < 16)
				dst[3072 + 16 * r + k] = v;
			else
				dst[3328 + 2 * r + k - 16] = v;
		} else if (k < 16) {
			dst[2048 + 16 * r + k] = in ? block[k] : 0;
		}
	}
}

FHK_KERNEL(fhk_cu_repack, 128)(const struct fhk_cu_repack_args a)
{
	uint32_t wide = a.type == FHK_F16 || a.type == FHK_BF16 || a.type == FHK_Q8_0;
	uint32_t cols = fhk_cu_chunk_cols(a.type), bytes = fhk_cu_chunk_bytes(a.type);
	uint32_t nr_words = a.type == FHK_Q8_0 ? 256 : wide ? 512 : cols * 2;
	uint8_t *dst = fhk_ptr<uint8_t>(a.dst) + (size_t)blockIdx.y * a.dst_stride + (size_t)blockIdx.x * bytes;
	const struct chunk c = {a.type,		   blockIdx.y * FHK_CU_ROWS,	    a.rows,
				blockIdx.x * cols, a.cols,			    fhk_ptr<const uint8_t>(a.src),
				fhk_file_row_bytes(a.type, a.cols)};
	uint32_t *words = (uint32_t *)dst;

	for (uint32_t i = threadIdx.x; i < nr_words; i += blockDim.x)
		words[i] = wide ? wide_word(c, i) : nibble_word(c, i);
	if (a.type == FHK_F16 || a.type == FHK_BF16)
		return;
	put_scales(c, dst);
	if (a.type == FHK_Q5_K)
		for (uint32_t i = threadIdx.x; i < 128; i += blockDim.x)
			words[576 + i] = bits5_word(c, i);
	if (a.type == FHK_Q6_K)
		for (uint32_t i = threadIdx.x; i < 256; i += blockDim.x)
			words[512 + i] = bits6_word(c, i);
}
