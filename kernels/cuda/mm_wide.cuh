/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The wide form of mm.cuh, for prompts: eight units, a warp each, times 128 rows
 * of x, or 64 of them in each of two blocks.
 * Steps of 64 columns, of x for all warps and of each warp's weights, come
 * through a ring of stages.  A warp does all slices of its unit, one after the
 * other, and adds up their sums: the same order as there, so the same bits.
 */
#ifndef FHK_CUDA_MM_WIDE_CUH
#define FHK_CUDA_MM_WIDE_CUH

#define MM_WIDE 128u

template <uint32_t TYPE> struct mm_wide {
	using form = mm_form<TYPE>;
	static constexpr uint32_t depth = fhk_cu_mm_stages(TYPE), element = form::wide ? 2 : 1;
	static constexpr uint32_t tile = fhk_cu_mm_wide_rows(TYPE), nt = tile / 8;
	/* Elements from a staged row to the next: the eight lanes that load together then find all banks. */
	static constexpr uint32_t ld = form::wide ? 72 : 64;
	static constexpr uint32_t d_at = tile * ld * element; /* scales of x: 16 bytes a row */
	static constexpr uint32_t w_at = d_at + (form::wide ? 0 : tile * 16);
	static constexpr uint32_t bytes = fhk_cu_mm_stage_bytes(TYPE);
	/* A thread copies 16 bytes of each of so many rows, from the first of which on each is so many further. */
	static constexpr uint32_t pieces = 64 * element / 16, nr_rows = tile * pieces / 256, apart = 256 / pieces;

	static_assert(bytes == w_at + 8 * form::part_bytes, "what the host gives is what is used");

	const uint8_t *x, *xd, *w, *w2; /* w: of this warp's unit, 0: it has none */
	uint8_t *stages;
	uint32_t row[nr_rows], d_row; /* of x that this thread copies; NONE: none */
	uint32_t ldx, nr, all;	      /* steps of one matrix, of both */

	__device__ __forceinline__ void fetch_x(uint8_t *to, uint32_t col) const
	{
#pragma unroll
		for (uint32_t k = 0; k < nr_rows; k++)
			if (row[k] != FHK_CU_NONE)
				fhk_cp16(to + (threadIdx.x / pieces + k * apart) * ld * element +
						 threadIdx.x % pieces * 16,
					 x + ((size_t)row[k] * ldx + col) * element + threadIdx.x % pieces * 16);
		if (!form::wide && d_row != FHK_CU_NONE)
			fhk_cp16(to + d_at + threadIdx.x * 16, xd + ((size_t)d_row * ldx + col) / 4);
	}

	__device__ __forceinline__ void fetch_w(uint8_t *to, const uint8_t *chunk, uint32_t p) const
	{
#pragma unroll
		for (uint32_t i0 = 0; i0 < form::part_bytes; i0 += 512) {
			uint32_t i = i0 + fhk_lane() * 16, from = p * form::q + i;

			if (i >= form::part_bytes)
				continue;
			if (form::bits && i >= form::q)
				from = form::bits_at + p * form::bits + (i - form::q);
			if (i >= form::q + form::bits)
				from = form::scales_at + (i - form::q - form::bits);
			fhk_cp16(to + i, chunk + from);
		}
	}

	/* Ask for step @t, if there is one; a group of copies in any case. */
	__device__ __forceinline__ void fetch(uint32_t t) const
	{
		uint8_t *to = stages + t % depth * bytes;
		uint32_t s = t < nr ? t : t - nr;

		if (t < all) {
			fetch_x(to, s * 64);
			if (w)
				fetch_w(to + w_at + fhk_warp() * form::part_bytes,
					(t < nr ? w : w2) + (size_t)(s / form::parts) * fhk_cu_chunk_bytes(TYPE),
					s % form::parts);
		}
		fhk_cp_commit();
	}

	/* Step @t, when all of it is there; asks for the one that takes the place of the last, which all have read. */
	__device__ __forceinline__ const uint8_t *next(uint32_t t) const
	{
		fhk_cp_wait<depth - 2>();
		__syncthreads();
		fetch(t + depth - 1);
		return stages + t % depth * bytes;
	}
};

template <uint32_t TYPE>
FHK_DEV void mm_wide_begin(mm_wide<TYPE> *m, const struct fhk_cu_mm_args &a, const struct mm_block &b, uint8_t *shared)
{
	uint32_t nr_rows = (b.nr + 7) / 8 * 8, unit = blockIdx.y * 8 + fhk_warp();
	size_t at = (size_t)b.expert * a.expert_stride + (size_t)unit * a.unit_stride;
	bool in = unit * FHK_CU_ROWS < a.rows;

	m->x = fhk_ptr<const uint8_t>(a.x);
	m->xd = fhk_ptr<const uint8_t>(a.xd);
	m->w = in ? fhk_ptr<const uint8_t>(a.w) + at : 0;
	m->w2 = fhk_ptr<const uint8_t>(a.w2) + at;
	m->stages = shared;
#pragma unroll
	for (uint32_t k = 0; k < m->nr_rows; k++) {
		uint32_t i = threadIdx.x / m->pieces + k * m->apart;

		m->row[k] = i < nr_rows ? mm_row(a, b, i) : FHK_CU_NONE;
	}
	m->d_row = threadIdx.x < nr_rows ? mm_row(a, b, threadIdx.x) : FHK_CU_NONE;
	m->ldx = fhk_cu_kpad(a.cols);
	m->nr = fhk_cu_div_up(a.cols, fhk_cu_chunk_cols(TYPE)) * mm_form<TYPE>::parts;
	m->all = a.flags & FHK_CU_MM_GLU ? 2 * m->nr : m->nr;
	for (uint32_t t = 0; t < m->depth - 1; t++)
		m->fetch(t);
}

/* total: the sums of this warp's unit of matrix @pass with all rows of the block */
template <uint32_t TYPE>
FHK_DEV void mm_wide_unit(const mm_wide<TYPE> &m, uint32_t pass, float total[mm_wide<TYPE>::nt][4])
{
	using form = mm_form<TYPE>;
	constexpr int nt = mm_wide<TYPE>::nt;
	uint32_t nr = m.nr / form::parts, s = 0;
	const mm_staged_rows rows = {};

#pragma unroll 1
	for (uint32_t slice = 0; slice < FHK_CU_SLICES; slice++) {
		float acc[nt][4];

#pragma unroll
		for (int j = 0; j < nt; j++)
			acc[j][0] = acc[j][1] = acc[j][2] = acc[j][3] = 0;
#pragma unroll 1
		for (; s < nr * (slice + 1) / FHK_CU_SLICES * form::parts; s++) {
			const uint8_t *stage = m.next(pass * m.nr + s),
				      *w = stage + m.w_at + fhk_warp() * form::part_bytes;
			const mm_x x = {stage, (const float2 *)(stage + m.d_at), m.ld};

			if (m.w)
				mm_type<TYPE>::template part<nt>(acc, mm_part{w, w + form::q, w + form::q + form::bits},
								 (int)(s % form::parts), x, rows, 0);
		}
#pragma unroll
		for (int j = 0; j < nt; j++)
#pragma unroll
			for (int i = 0; i < 4; i++)
				total[j][i] = slice ? __fadd_rn(total[j][i], acc[j][i]) : acc[j][i];
	}
}

template <uint32_t TYPE> FHK_DEV void mm_wide_kernel(const struct fhk_cu_mm_args &a)
{
	uint32_t row0 = (blockIdx.y * 8 + fhk_warp()) * FHK_CU_ROWS + fhk_lane() / 4;
	constexpr int nt = mm_wide<TYPE>::nt;
	float total[nt][4];
	struct mm_block b;
	mm_wide<TYPE> m;
	FHK_SHARED(shared);

	if (!mm_find(a, MM_WIDE, &b) || b.nr <= blockIdx.z * m.tile)
		return;
	b.first += blockIdx.z * m.tile;
	b.nr = min(b.nr - blockIdx.z * m.tile, m.tile);
	mm_wide_begin<TYPE>(&m, a, b, shared);
#pragma unroll 1
	for (uint32_t pass = 0; pass < (a.flags & FHK_CU_MM_GLU ? 2 : 1); pass++) {
		bool last = pass || !(a.flags & FHK_CU_MM_GLU);
		/* Addresses are made when they are wanted: kept over a pass they would fill the registers. */
		struct mm_block out = {fhk_opaque(b.first), b.nr, b.expert};

		mm_wide_unit<TYPE>(m, pass, total);
#pragma unroll
		for (int i = 0; i < nt * 4; i++) {
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

#endif /* FHK_CUDA_MM_WIDE_CUH */
