// SPDX-License-Identifier: Apache-2.0
/*
 * Experts: routing, sorting and the grouped products, from a router's logits to
 * sums that are in their sorted places.  Some experts have nothing to do, and
 * in one round all tokens go to the same ones.
 */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "kernels/kernels.h"
#include "tests/gpu/gpu.h"

struct moe {
	uint32_t nr, nr_experts, used, ld, norm;
	float *logits, *shared;
	uint32_t *expert, *pos, *token, *first; /* from the device; first: [nr_experts + 1] */
	float *weight;
	struct fhk_cu_tile *tiles;
	uint32_t nr_tiles, tile;
	struct fhk_cu_moe_sort_args sort;
};

/* As cpu_moe.c's choose() */
static void ref_route(const struct moe *m, uint32_t t, uint32_t *expert, float *weight)
{
	float *x = host_alloc(sizeof(float) * m->nr_experts), max;
	double sum = 0;

	memcpy(x, m->logits + (size_t)t * m->ld, sizeof(float) * m->nr_experts);
	max = x[fhk_ref.argmax(x, m->nr_experts)];
	for (uint32_t e = 0; e < m->nr_experts && !m->norm; e++)
		sum += exp((double)x[e] - max);
	for (uint32_t s = 0; s < m->used; s++) {
		double v;

		expert[s] = fhk_ref.argmax(x, m->nr_experts);
		v = exp((double)x[expert[s]] - max);
		weight[s] = (float)v;
		sum += m->norm ? v : 0;
		x[expert[s]] = -INFINITY;
	}
	for (uint32_t s = 0; s < m->used; s++)
		weight[s] = (float)(weight[s] / sum);
	weight[m->used] = (float)(1 / (1 + exp(-(double)m->shared[t * 3])));
}

static void route(struct moe *m)
{
	size_t pairs = (size_t)m->nr * m->used;
	struct fhk_cu_route_args a = {
		.nr = u32_up(m->nr),
		.logits = gpu_up(m->logits, sizeof(float) * m->nr * m->ld),
		.shared = gpu_up(m->shared, sizeof(float) * m->nr * 3),
		.pair_expert = gpu_alloc(sizeof(uint32_t) * pairs),
		.pair_weight = gpu_alloc(sizeof(float) * (pairs + m->nr)),
		.nr_experts = m->nr_experts,
		.used = m->used,
		.ld = m->ld,
		.shared_ld = 3,
		.norm = m->norm,
	};
	uint32_t *expert = host_alloc(sizeof(uint32_t) * m->used);
	float *weight = host_alloc(sizeof(float) * (m->used + 1));
	uint32_t wrong = 0;
	double error = 0;

	gpu_launch(FHK_CU_ROUTE, fhk_cu_route_grid(m->nr + 3), &a);
	m->expert = gpu_down(a.pair_expert, sizeof(uint32_t) * pairs);
	m->weight = gpu_down(a.pair_weight, sizeof(float) * (pairs + m->nr));
	for (uint32_t t = 0; t < m->nr; t++) {
		ref_route(m, t, expert, weight);
		wrong += memcmp(expert, m->expert + (size_t)t * m->used, sizeof(uint32_t) * m->used) != 0;
		error = fmax(error, rel_error(m->weight + (size_t)t * (m->used + 1), weight, m->used + 1, 1e-3));
	}
	check("route, experts", wrong, 0);
	check("route, weights", error, 3e-6);
	m->sort.nr = a.nr;
	m->sort.pair_expert = a.pair_expert;
}

/* A stable sort, and tiles that cover every expert's pairs in order. */
static void sort(struct moe *m)
{
	uint32_t pairs = m->nr * m->used, max = fhk_cu_max_tiles(pairs, m->nr_experts, m->tile), wrong = 0, at = 0,
		 i = 0;

	m->sort.pair_pos = gpu_alloc(sizeof(uint32_t) * pairs);
	m->sort.pair_token = gpu_alloc(sizeof(uint32_t) * pairs);
	m->sort.tiles = gpu_alloc(sizeof(struct fhk_cu_tile) * max);
	m->sort.nr_tiles = gpu_alloc(4);
	m->sort.nr_experts = m->nr_experts;
	m->sort.used = m->used;
	m->sort.tile = m->tile;
	gpu_launch(FHK_CU_MOE_SORT, fhk_cu_moe_sort_grid(m->nr_experts), &m->sort);
	m->pos = gpu_down(m->sort.pair_pos, sizeof(uint32_t) * pairs);
	m->token = gpu_down(m->sort.pair_token, sizeof(uint32_t) * pairs);
	m->tiles = gpu_down(m->sort.tiles, sizeof(struct fhk_cu_tile) * max);
	gpu->from(&m->nr_tiles, m->sort.nr_tiles, 4);
	for (uint32_t e = 0; e < m->nr_experts; e++) {
		uint32_t first = at;

		for (uint32_t p = 0; p < pairs; p++) {
			if (m->expert[p] != e)
				continue;
			wrong += m->pos[p] != at || m->token[at] != p / m->used;
			at++;
		}
		for (uint32_t p = first; p < at; p += m->tile, i++)
			wrong += i >= m->nr_tiles || m->tiles[i].expert != e || m->tiles[i].first != p ||
				 m->tiles[i].nr != (at - p < m->tile ? at - p : m->tile);
	}
	check("moe_sort", wrong + fabs((double)m->nr_tiles - i) + (i > max), 0);
}

/* The gated product of each pair's expert, through tiles and by itself. */
static void grouped(struct moe *m, uint32_t type)
{
	uint32_t block = fhk_type_info(type)->block_elems, pairs = m->nr * m->used, rows = rnd_in(3, 40), k;
	uint32_t cols = block == 1 ? rnd_in(1, 200) : block * rnd_in(1, 512 / block);
	uint8_t *w = rnd_rows(type, rows * m->nr_experts, cols), *w2 = rnd_rows(type, rows * m->nr_experts, cols);
	float *bias = rnd_floats((size_t)rows * m->nr_experts, 1), *x, *y, g[64], u[64];
	struct fhk_cu_act act = act_up(rnd_floats((size_t)m->nr * cols, 1), m->nr, cols);
	struct fhk_cu_mm_args a = {
		.w = mat_up(type, w, rows, cols, m->nr_experts),
		.w2 = mat_up(type, w2, rows, cols, m->nr_experts),
		.bias = gpu_up(bias, sizeof(float) * rows * m->nr_experts),
		.x = *(const uint64_t *)((const uint8_t *)&act + fhk_cu_act_of(type)),
		.xd = act.q8d,
		.y = gpu_alloc(sizeof(float) * pairs * rows),
		.idx = m->sort.pair_token,
		.tiles = m->sort.tiles,
		.nr_tiles = m->sort.nr_tiles,
		.unit_stride = fhk_cu_unit_bytes(type, cols),
		.expert_stride = fhk_cu_mat_bytes(type, rows, cols),
		.rows = rows,
		.cols = cols,
		.ldy = rows,
		.flags = FHK_CU_MM_GLU,
	};
	char name[32];
	double error = 0;

	check_part("%s, %u tokens, %u of %u experts, tile %u, %u x %u", type_name(type), m->nr, m->used, m->nr_experts,
		   m->tile, rows, cols);
	k = fhk_cu_max_tiles(pairs, m->nr_experts, m->tile);
	gpu_launch(fhk_cu_mm_name(type, m->tile, name), fhk_cu_mm_grid(type, rows, m->tile, 0, k), &a);
	y = gpu_down(a.y, sizeof(float) * pairs * rows);
	x = act_down(&act, type, m->nr, cols);
	for (uint32_t p = 0; p < pairs; p++) {
		struct fhk_mat mat;
		struct fhk_act in = {.cols = cols, .ld = cols, .f32 = x + (size_t)(p / m->used) * cols};
		uint32_t e = m->expert[p];

		fhk_ref.mat_plan(&mat, type, rows, cols, m->nr_experts);
		mat.data = w;
		fhk_ref.matmul(&mat, e, &in, NULL, 1, 0, rows, g, rows, 0);
		mat.data = w2;
		fhk_ref.matmul(&mat, e, &in, NULL, 1, 0, rows, u, rows, 0);
		fhk_ref.axpy(g, 1, bias + (size_t)e * rows, rows);
		fhk_ref.glu(g, g, u, rows, FHK_GLU_SILU);
		error = fmax(error, rel_error(y + (size_t)m->pos[p] * rows, g, rows, cols));
	}
	check("mm, grouped", error, 2e-5);
}

void check_moe(void)
{
	static const uint32_t types[] = {FHK_Q4_K, FHK_MXFP4, FHK_BF16, FHK_Q8_0, FHK_F32, FHK_Q6_K};
	static const uint32_t tiles[] = {8, 16, 32, 64, 128};

	for (uint32_t i = 0; i < (check_small ? 3 : 8); i++) {
		struct moe m = {.tile = tiles[i % 5], .norm = i % 2};

		m.nr_experts = rnd_in(1, i % 3 ? 16 : check_small ? 40 : 260);
		m.used = rnd_in(1, m.nr_experts < 8 ? m.nr_experts : 8);
		m.nr = rnd_in(1, check_small ? 20 : 150);
		m.ld = m.nr_experts + rnd_below(4);
		m.logits = rnd_floats((size_t)m.nr * m.ld, 3);
		m.shared = rnd_floats((size_t)m.nr * 3, 2);
		for (uint32_t t = 0; t < m.nr && i == 1; t++)
			memcpy(m.logits + (size_t)t * m.ld, m.logits, sizeof(float) * m.nr_experts);
		/* Equal logits: the lower id comes first. */
		for (uint32_t t = 0; t < m.nr && i == 2; t++)
			for (uint32_t e = 0; e < m.nr_experts; e++)
				m.logits[(size_t)t * m.ld + e] = (float)(e * 7 % 3);
		check_part("%u tokens, %u of %u experts, tile %u", m.nr, m.used, m.nr_experts, m.tile);
		route(&m);
		sort(&m);
		grouped(&m, types[i % 6]);
		gpu_end_test();
	}
}
