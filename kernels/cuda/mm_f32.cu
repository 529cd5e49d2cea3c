// SPDX-License-Identifier: Apache-2.0
/*
 * Matrices of F32: routers and other small maps, in full precision and from
 * the file's own order.  A warp has some rows of a unit; its lanes take every
 * 32nd column, and their sums are joined in a tree.
 */
#include "kernels/cuda/mm.cuh"

#define GROUP 8 /* rows of x at a time */

/* Sums of one row of W with GROUP rows of x; lane i holds that of row i. */
FHK_DEV float times(const float *w, const float *const x[GROUP], uint32_t cols)
{
	float acc[GROUP], mine = 0;

#pragma unroll
	for (int i = 0; i < GROUP; i++)
		acc[i] = 0;
	for (uint32_t c = fhk_lane(); c < cols; c += 32) {
		float v = w[c];

#pragma unroll
		for (int i = 0; i < GROUP; i++)
			acc[i] = fmaf(v, x[i][c], acc[i]);
	}
#pragma unroll
	for (int i = 0; i < GROUP; i++) {
		float sum = fhk_warp_sum(acc[i]);

		mine = fhk_lane() == (uint32_t)i ? sum : mine;
	}
	return mine;
}

/* One row of W with all rows of x of the block */
FHK_DEV void f32_row(const struct fhk_cu_mm_args &a, const struct mm_block &b, uint32_t row)
{
	size_t at = (size_t)b.expert * a.expert_stride + (size_t)row * a.cols * 4;

	for (uint32_t i0 = 0; i0 < b.nr; i0 += GROUP) {
		const float *x[GROUP];
		float v, u = 0;

#pragma unroll
		for (int i = 0; i < GROUP; i++)
			x[i] = fhk_ptr<const float>(a.x) + (size_t)mm_row(a, b, i0 + i) * fhk_cu_kpad(a.cols);
		v = times((const float *)(fhk_ptr<const uint8_t>(a.w) + at), x, a.cols);
		if (a.flags & FHK_CU_MM_GLU)
			u = times((const float *)(fhk_ptr<const uint8_t>(a.w2) + at), x, a.cols);
		if (fhk_lane() < GROUP && i0 + fhk_lane() < b.nr)
			mm_put(a, b, row, i0 + fhk_lane(), v, u);
	}
}

/* Two rows a warp for each of a block's units, of which the widest tile has eight. */
template <uint32_t TILE> FHK_DEV void f32_kernel(const struct fhk_cu_mm_args &a)
{
	constexpr uint32_t rows = TILE == MM_WIDE ? 8 * FHK_CU_ROWS : FHK_CU_ROWS;
	struct mm_block b;

	if (!mm_find(a, TILE, &b))
		return;
	for (uint32_t r = fhk_warp(); r < rows && blockIdx.y * rows + r < a.rows; r += FHK_CU_SLICES)
		f32_row(a, b, blockIdx.y * rows + r);
}

#define F32_KERNEL(tile)                                                      \
	FHK_KERNEL(fhk_cu_mm_f32_##tile, 256)(const struct fhk_cu_mm_args a)  \
	{                                                                     \
		f32_kernel<tile>(a);                                          \
	}

F32_KERNEL(8)
F32_KERNEL(16)
F32_KERNEL(32)
F32_KERNEL(64)
F32_KERNEL(128)
