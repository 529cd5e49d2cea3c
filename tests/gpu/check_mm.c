// SPDX-License-Identifier: Apache-2.0
/*
 * Matrices: every type, tile and epilogue, odd shapes, against kernels/ref on
 * the very activations that the kernel read.  And the promise: not a bit
 * depends on the tile or on how many rows there are.
 */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "kernels/kernels.h"
#include "tests/gpu/gpu.h"

static const uint32_t types[] = {FHK_F32,  FHK_F16,  FHK_BF16, FHK_Q8_0, FHK_Q4_0,
				 FHK_Q4_K, FHK_Q5_K, FHK_Q6_K, FHK_MXFP4};
static const uint32_t tiles[] = {8, 16, 32, 64, 128};

struct mm {
	uint32_t type, rows, cols, nr;
	uint8_t *file, *file2;
	uint64_t w, w2;
	float *bias, *bias2, *y0; /* [rows], [nr, rows] */
	struct fhk_cu_act act;
	float *x; /* [nr, cols] what the activations hold */
};

static struct fhk_cu_mm_args args_of(const struct mm *m)
{
	size_t of = fhk_cu_act_of(m->type);

	return (struct fhk_cu_mm_args){
		.w = m->w,
		.x = *(const uint64_t *)((const uint8_t *)&m->act + of),
		.xd = m->act.q8d,
		.nr = u32_up(m->nr),
		.unit_stride = fhk_cu_unit_bytes(m->type, m->cols),
		.expert_stride = fhk_cu_mat_bytes(m->type, m->rows, m->cols),
		.rows = m->rows,
		.cols = m->cols,
		.ldy = m->rows,
	};
}

static float *run(const struct mm *m, struct fhk_cu_mm_args a, uint32_t tile)
{
	size_t bytes = sizeof(float) * m->nr * m->rows;
	char name[32];

	a.y = gpu_up(m->y0, bytes);
	gpu_launch(fhk_cu_mm_name(m->type, tile, name), fhk_cu_mm_grid(m->type, m->rows, tile, m->nr + tile, 0), &a);
	return gpu_down(a.y, bytes);
}

/* y: [nr, rows] = W x by the reference */
static void ref_times(const struct mm *m, const uint8_t *file, const float *x, float *y)
{
	struct fhk_mat mat;
	struct fhk_act act = {.cols = m->cols, .ld = m->cols, .f32 = (float *)x};

	fhk_ref.mat_plan(&mat, m->type, m->rows, m->cols, 1);
	mat.data = file;
	fhk_ref.matmul(&mat, 0, &act, NULL, m->nr, 0, m->rows, y, m->rows, 0);
}

/* What an error is measured by: |W| |x| of a typical element. */
static double size_of(const struct mm *m)
{
	uint32_t cols = m->cols < 256 ? m->cols : 256, rows = m->rows < 16 ? m->rows : 16;
	double sum = 0;
	float w[256];

	for (uint32_t r = 0; r < rows; r++) {
		fhk_dequant(m->type, m->file + r * row_bytes(m->type, m->cols), w, cols);
		for (uint32_t c = 0; c < cols; c++)
			sum += fabs((double)w[c]);
	}
	return sum / rows / cols * m->cols;
}

static void setup(struct mm *m)
{
	float *x;

	m->file = rnd_rows(m->type, m->rows, m->cols);
	m->file2 = rnd_rows(m->type, m->rows, m->cols);
	m->w = mat_up(m->type, m->file, m->rows, m->cols, 1);
	m->w2 = mat_up(m->type, m->file2, m->rows, m->cols, 1);
	m->bias = rnd_floats(m->rows, 1);
	m->bias2 = rnd_floats(m->rows, 1);
	m->y0 = rnd_floats((size_t)m->nr * m->rows, 1);
	x = rnd_floats((size_t)m->nr * m->cols, 1);
	m->act = act_up(x, m->nr, m->cols);
	m->x = act_down(&m->act, m->type, m->nr, m->cols);
}

/* Quantised activations are within half a step of what they stand for. */
static void check_forms(void)
{
	uint32_t rows = rnd_in(1, 5), cols = rnd_in(1, 700);
	float *x = rnd_floats((size_t)rows * cols, 3), *q;
	struct fhk_cu_act a;
	double worst = 0;

	check_part("%u x %u", rows, cols);
	a = act_up(x, rows, cols);
	check_equal("act f32", act_down(&a, FHK_F32, rows, cols), x, sizeof(*x) * rows * cols);
	check("act bf16", rel_error(act_down(&a, FHK_BF16, rows, cols), x, (size_t)rows * cols, 1e-3), 0x1p-8);
	check("act f16", rel_error(act_down(&a, FHK_F16, rows, cols), x, (size_t)rows * cols, 1e-3), 0x1p-11);
	q = act_down(&a, FHK_Q8_0, rows, cols);
	for (uint32_t r = 0; r < rows; r++) {
		for (uint32_t c0 = 0; c0 < cols; c0 += 32) {
			uint32_t n = cols - c0 < 32 ? cols - c0 : 32;
			const float *p = x + (size_t)r * cols + c0;
			double max = 0;

			for (uint32_t c = 0; c < n; c++)
				max = fmax(max, fabs((double)p[c]));
			for (uint32_t c = 0; c < n; c++)
				worst = fmax(worst, fabs((double)q[(size_t)r * cols + c0 + c] - p[c]) / (max / 254));
		}
	}
	check("act q8 (half steps)", worst, 1.001);
	gpu_end_test();
}

static void check_plain(struct mm *m)
{
	float *y[5], *ref = host_alloc(sizeof(float) * m->nr * m->rows), *one;
	double size;
	struct mm first = *m;

	setup(m);
	size = size_of(m);
	for (int i = 0; i < 5; i++)
		y[i] = run(m, args_of(m), tiles[i]);
	ref_times(m, m->file, m->x, ref);
	check("mm", rel_error(y[0], ref, (size_t)m->nr * m->rows, size), 2e-6);
	for (int i = 1; i < 5; i++)
		check_equal("mm, another tile", y[i], y[0], sizeof(float) * m->nr * m->rows);
	first = *m;
	first.nr = 1;
	one = run(&first, args_of(&first), 8);
	check_equal("mm, one row alone", one, y[0], sizeof(float) * m->rows);
}

/* Bias, residual sum, gated product and soft cap. */
static void check_epilogue(struct mm *m)
{
	struct fhk_cu_mm_args a = args_of(m);
	size_t n = (size_t)m->nr * m->rows;
	float *g = host_alloc(sizeof(float) * n), *u = host_alloc(sizeof(float) * n), *y;
	uint32_t tile = tiles[rnd_below(5)], glu = rnd_below(3);
	double size = size_of(m);

	ref_times(m, m->file, m->x, g);
	ref_times(m, m->file2, m->x, u);
	a.bias = gpu_up(m->bias, sizeof(float) * m->rows);
	a.flags = FHK_CU_MM_ADD;
	y = run(m, a, tile);
	for (size_t i = 0; i < n; i++)
		y[i] -= m->y0[i] + m->bias[i % m->rows];
	check("mm bias, add", rel_error(y, g, n, size), 3e-6);

	for (size_t i = 0; i < n; i++) {
		g[i] += m->bias[i % m->rows];
		u[i] += m->bias2[i % m->rows];
	}
	a.bias2 = gpu_up(m->bias2, sizeof(float) * m->rows);
	a.w2 = m->w2;
	a.flags = FHK_CU_MM_GLU;
	a.glu = glu;
	y = run(m, a, tile);
	fhk_ref.glu(g, g, u, (uint32_t)n, glu);
	check(glu == FHK_GLU_SILU   ? "mm silu"
	      : glu == FHK_GLU_GELU ? "mm gelu"
				    : "mm oai glu",
	      rel_error(y, g, n, size * size / 16 + 1), 2e-5);

	a = args_of(m);
	a.softcap = 3;
	y = run(m, a, tile);
	ref_times(m, m->file, m->x, g);
	fhk_ref.softcap(g, (uint32_t)n, 3);
	check("mm softcap", rel_error(y, g, n, 1), 2e-6 * (size + 1));
}

/* More chunks a warp than its ring holds, of two matrices one behind the other. */
static void check_ring(uint32_t type)
{
	struct mm m = {.type = type, .rows = rnd_in(1, 16), .nr = rnd_in(1, 8)};
	struct fhk_cu_mm_args a;
	float *g, *u, *y;
	double size;
	size_t n = (size_t)m.nr * m.rows;

	m.cols = FHK_CU_SLICES * (fhk_cu_mm_depth(type) + 2) * fhk_cu_chunk_cols(type);
	check_part("%s, %u rows of %u, %u tokens", type_name(type), m.rows, m.cols, m.nr);
	setup(&m);
	size = size_of(&m);
	g = host_alloc(sizeof(float) * n);
	u = host_alloc(sizeof(float) * n);
	ref_times(&m, m.file, m.x, g);
	ref_times(&m, m.file2, m.x, u);
	check("mm, long rows", rel_error(run(&m, args_of(&m), 8), g, n, size), 2e-6);
	a = args_of(&m);
	a.w2 = m.w2;
	a.flags = FHK_CU_MM_GLU;
	a.glu = FHK_GLU_SILU;
	y = run(&m, a, 8);
	fhk_ref.glu(g, g, u, (uint32_t)n, FHK_GLU_SILU);
	check("mm silu, long rows", rel_error(y, g, n, size * size / 16 + 1), 2e-5);
	gpu_end_test();
}

void check_mm(void)
{
	static const uint32_t nrs[] = {1, 2, 7, 8, 9, 17, 33, 70, 130};
	uint32_t rounds = check_small ? 1 : 3;

	for (uint32_t i = 0; i < rounds; i++)
		check_forms();
	for (uint32_t t = 0; t < sizeof(types) / sizeof(types[0]); t++) {
		uint32_t block = fhk_type_info(types[t])->block_elems;

		for (uint32_t i = 0; i < rounds; i++) {
			struct mm m = {.type = types[t]};

			m.rows = rnd_in(1, check_small ? 20 : rnd_below(4) ? 50 : 150);
			m.nr = nrs[rnd_below(check_small ? 6 : 9)];
			if (block == 1)
				m.cols = rnd_in(1, check_small ? 300 : 1200);
			else
				m.cols = block * rnd_in(1, (check_small ? 768 : 3000) / block);
			check_part("%s, %u rows of %u, %u tokens", type_name(m.type), m.rows, m.cols, m.nr);
			check_plain(&m);
			check_epilogue(&m);
			gpu_end_test();
		}
		if (types[t] != FHK_F32)
			check_ring(types[t]);
	}
}
