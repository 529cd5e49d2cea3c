// SPDX-License-Identifier: Apache-2.0
/* The residual stream: embeddings and the rotary table, norms with what precedes them, gated activations, pooling. */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "kernels/kernels.h"
#include "tests/gpu/gpu.h"

static const uint32_t types[] = {FHK_F32,  FHK_F16,  FHK_BF16, FHK_Q8_0, FHK_Q4_0,
				 FHK_Q4_K, FHK_Q5_K, FHK_Q6_K, FHK_MXFP4};

struct embed {
	uint32_t type, vocab, dim, nr, nr_pairs;
	struct fhk_cu_token tokens[8];
	struct fhk_cu_seq seqs[8];
	uint32_t prev[8];
	uint8_t *table;
	double *freq;
};

/* Every other token is what its sequence sampled last. */
static void make_embed(struct embed *e)
{
	uint32_t block = fhk_type_info(e->type)->block_elems;

	e->vocab = rnd_in(1, 40);
	e->dim = block == 1 ? rnd_in(1, 300) : block * rnd_in(1, 3);
	e->nr = rnd_in(1, 8);
	e->nr_pairs = rnd_in(1, 64);
	e->table = rnd_rows(e->type, e->vocab, e->dim);
	e->freq = host_alloc(sizeof(double) * e->nr_pairs);
	for (uint32_t i = 0; i < e->nr_pairs; i++)
		e->freq[i] = pow(500000, -(double)i / e->nr_pairs);
	for (uint32_t i = 0; i < e->nr; i++) {
		uint32_t slot = e->nr - 1 - i;

		e->prev[slot] = rnd_below(e->vocab);
		e->seqs[i] = (struct fhk_cu_seq){.slot = slot, .q_start = i, .q_len = 1};
		e->tokens[i] = (struct fhk_cu_token){
			.id = i % 2 ? FHK_CU_NONE : rnd_below(e->vocab), .seq = i, .pos = rnd_below(131072)};
	}
}

static void check_embed(uint32_t type)
{
	struct embed e = {.type = type};
	struct fhk_cu_embed_args a;
	struct fhk_cu_plan plan = {0};
	float *x, *cs, *want, *angles;
	uint32_t ld;

	make_embed(&e);
	ld = e.dim + 3;
	plan.nr_tokens = e.nr;
	check_part("%s, %u x %u, %u tokens, %u pairs", type_name(type), e.vocab, e.dim, e.nr, e.nr_pairs);
	a = (struct fhk_cu_embed_args){
		.plan = gpu_up(&plan, sizeof(plan)),
		.tokens = gpu_up(e.tokens, sizeof(e.tokens[0]) * e.nr),
		.seqs = gpu_up(e.seqs, sizeof(e.seqs[0]) * e.nr),
		.prev = gpu_up(e.prev, sizeof(e.prev[0]) * e.nr),
		.table = gpu_up(e.table, row_bytes(type, e.dim) * e.vocab),
		.freq = gpu_up(e.freq, sizeof(double) * e.nr_pairs),
		.x = gpu_alloc(sizeof(float) * e.nr * ld),
		.cs = gpu_alloc(sizeof(float) * 2 * e.nr * e.nr_pairs),
		.type = type,
		.nr_vocab = e.vocab,
		.dim = e.dim,
		.ld = ld,
		.nr_pairs = e.nr_pairs,
		.scale = 2.5f,
		.mscale = 1.25f,
	};
	gpu_launch(FHK_CU_EMBED, fhk_cu_embed_grid(e.nr + 2), &a);
	x = gpu_down(a.x, sizeof(float) * e.nr * ld);
	cs = gpu_down(a.cs, sizeof(float) * 2 * e.nr * e.nr_pairs);
	want = host_alloc(sizeof(float) * e.dim);
	angles = host_alloc(sizeof(float) * 2 * e.nr_pairs);
	for (uint32_t t = 0; t < e.nr; t++) {
		uint32_t id = e.tokens[t].id == FHK_CU_NONE ? e.prev[e.seqs[t].slot] : e.tokens[t].id;

		fhk_dequant(type, e.table + row_bytes(type, e.dim) * id, want, e.dim);
		for (uint32_t c = 0; c < e.dim; c++)
			want[c] *= 2.5f;
		for (uint32_t i = 0; i < e.nr_pairs; i++) {
			angles[2 * i] = (float)(cos(e.tokens[t].pos * e.freq[i]) * 1.25);
			angles[2 * i + 1] = (float)(sin(e.tokens[t].pos * e.freq[i]) * 1.25);
		}
		check("embed", rel_error(x + (size_t)t * ld, want, e.dim, 1e-3), 1e-6);
		check("embed, rotary table", rel_error(cs + (size_t)t * 2 * e.nr_pairs, angles, 2 * e.nr_pairs, 1),
		      2e-7);
	}
	gpu_end_test();
}

struct norm {
	uint32_t rows, dim, ld, used, pairs;
	float *x, *y, *w, *post, *weight, *shared;
	uint32_t *pos;
};

static void make_norm(struct norm *n)
{
	n->rows = rnd_in(1, 6);
	n->dim = rnd_in(1, 1500);
	n->ld = n->dim + rnd_below(9);
	n->used = rnd_in(1, 5);
	n->pairs = n->rows * n->used;
	n->x = rnd_floats((size_t)n->rows * n->ld, 2);
	n->y = rnd_floats((size_t)n->pairs * n->ld, 1);
	n->w = rnd_floats(n->dim, 1);
	n->post = rnd_floats(n->dim, 1);
	n->shared = rnd_floats((size_t)n->rows * n->ld, 1);
	n->weight = rnd_floats((size_t)n->rows * (n->used + 1), 1);
	n->pos = host_alloc(sizeof(*n->pos) * n->pairs);
	for (uint32_t i = 0; i < n->pairs; i++)
		n->pos[i] = n->pairs - 1 - i;
}

/* What x and then the normed rows should be, for @pre; x: changed, out: [dim] */
static void ref_norm(const struct norm *n, uint32_t pre, bool post, uint32_t row, float *x, float *out)
{
	float *y = host_alloc(sizeof(float) * n->dim);

	memcpy(y, n->y + (size_t)row * n->ld, sizeof(float) * n->dim);
	if (pre == FHK_CU_PRE_ADD) {
		if (post)
			fhk_ref.rmsnorm(y, y, n->post, n->dim, 1e-5f);
		fhk_ref.axpy(x, 1, y, n->dim);
	} else if (pre == FHK_CU_PRE_MOE) {
		const float *weight = n->weight + (size_t)row * (n->used + 1);

		for (uint32_t s = 0; s < n->used; s++)
			fhk_ref.axpy(x, weight[s], n->y + (size_t)n->pos[row * n->used + s] * n->ld, n->dim);
		fhk_ref.axpy(x, weight[n->used], n->shared + (size_t)row * n->ld, n->dim);
	}
	fhk_ref.rmsnorm(out, x, n->w, n->dim, 1e-5f);
}

static void check_norm(uint32_t pre, bool post, bool chosen)
{
	struct norm n;
	struct fhk_cu_norm_args a;
	struct fhk_cu_out outs[8] = {0};
	float *x, *out, *want;
	uint32_t nr;

	make_norm(&n);
	nr = chosen ? n.rows - n.rows / 2 : n.rows;
	for (uint32_t i = 0; i < nr; i++)
		outs[i].token = n.rows - 1 - i;
	check_part("%u rows of %u, %s%s%s", nr, n.dim,
		   pre == FHK_CU_PRE_ADD ? "add"
		   : pre		 ? "moe"
					 : "none",
		   post ? ", post norm" : "", chosen ? ", chosen" : "");
	a = (struct fhk_cu_norm_args){
		.nr = u32_up(nr),
		.rows = chosen ? gpu_up(outs, sizeof(outs)) : 0,
		.x = gpu_up(n.x, sizeof(float) * n.rows * n.ld),
		.y = gpu_up(n.y, sizeof(float) * n.pairs * n.ld),
		.post_w = post ? gpu_up(n.post, sizeof(float) * n.dim) : 0,
		.w = gpu_up(n.w, sizeof(float) * n.dim),
		.pair_pos = gpu_up(n.pos, sizeof(uint32_t) * n.pairs),
		.pair_weight = gpu_up(n.weight, sizeof(float) * n.rows * (n.used + 1)),
		.shared = gpu_up(n.shared, sizeof(float) * n.rows * n.ld),
		.out = {.f32 = gpu_zero(fhk_cu_act_bytes(offsetof(struct fhk_cu_act, f32), nr, n.dim))},
		.pre = pre,
		.used = n.used,
		.dim = n.dim,
		.ld = n.ld,
		.eps = 1e-5f,
	};
	gpu_launch(FHK_CU_NORM, fhk_cu_norm_grid(n.rows + 1), &a);
	x = gpu_down(a.x, sizeof(float) * n.rows * n.ld);
	out = gpu_down(a.out.f32, fhk_cu_act_bytes(offsetof(struct fhk_cu_act, f32), nr, n.dim));
	want = host_alloc(sizeof(float) * n.dim);
	for (uint32_t i = 0; i < nr; i++) {
		uint32_t row = chosen ? outs[i].token : i;
		float *from = n.x + (size_t)row * n.ld;

		ref_norm(&n, pre, post, row, from, want);
		check("norm, residual", rel_error(x + (size_t)row * n.ld, from, n.dim, 1), 1e-6);
		check("norm", rel_error(out + (size_t)i * fhk_cu_kpad(n.dim), want, n.dim, 1), 2e-6);
	}
	gpu_end_test();
}

static void check_glu(uint32_t kind)
{
	uint32_t rows = rnd_in(1, 4), used = rnd_in(1, 3), cols = rnd_in(1, 900), ld = cols + rnd_below(5);
	uint32_t nr = rows * used;
	float *g = rnd_floats((size_t)nr * ld, 3), *u = rnd_floats((size_t)nr * ld, 3), *out;
	struct fhk_cu_act_args a = {
		.nr = u32_up(rows),
		.gate = gpu_up(g, sizeof(float) * nr * ld),
		.up = gpu_up(u, sizeof(float) * nr * ld),
		.out = {.f32 = gpu_zero(fhk_cu_act_bytes(offsetof(struct fhk_cu_act, f32), nr, cols))},
		.cols = cols,
		.ld = ld,
		.glu = kind,
		.scale_nr = used,
	};

	check_part("%u x %u rows of %u, kind %u", rows, used, cols, kind);
	gpu_launch(FHK_CU_ACT, fhk_cu_act_grid(nr), &a);
	out = gpu_down(a.out.f32, fhk_cu_act_bytes(offsetof(struct fhk_cu_act, f32), nr, cols));
	for (uint32_t r = 0; r < nr; r++) {
		fhk_ref.glu(g + (size_t)r * ld, g + (size_t)r * ld, u + (size_t)r * ld, cols, kind);
		check("act, gated", rel_error(out + (size_t)r * fhk_cu_kpad(cols), g + (size_t)r * ld, cols, 1), 2e-6);
	}
	gpu_end_test();
}

static void check_pool(void)
{
	uint32_t dim = rnd_in(1, 600), nr = rnd_in(2, 7), ld = dim + 5;
	struct fhk_cu_pool_item items[2] = {{.token = 1, .nr = nr - 1, .row = 1}, {.nr = nr, .last = 1, .row = 0}};
	struct fhk_cu_plan plan = {.nr_pools = 2};
	float *x = rnd_floats((size_t)nr * ld, 1), *w = rnd_floats(dim, 1), *pooled = rnd_floats((size_t)2 * ld, 1);
	float *one = host_alloc(sizeof(float) * dim), *got;
	struct fhk_cu_pool_args a = {
		.plan = gpu_up(&plan, sizeof(plan)),
		.pools = gpu_up(items, sizeof(items)),
		.x = gpu_up(x, sizeof(float) * nr * ld),
		.w = gpu_up(w, sizeof(float) * dim),
		.pooled = gpu_up(pooled, sizeof(float) * 2 * ld),
		.dim = dim,
		.ld = ld,
		.eps = 1e-6f,
	};

	check_part("%u rows of %u", nr, dim);
	gpu_launch(FHK_CU_POOL, fhk_cu_pool_grid(3), &a);
	got = gpu_down(a.pooled, sizeof(float) * 2 * ld);
	for (uint32_t t = 1; t < nr; t++) {
		fhk_ref.rmsnorm(one, x + (size_t)t * ld, w, dim, 1e-6f);
		fhk_ref.axpy(pooled + ld, 1, one, dim);
	}
	check("pool, sum", rel_error(got + ld, pooled + ld, dim, 1), 3e-6);
	check("pool, last", rel_error(got, one, dim, 1), 2e-6);
	gpu_end_test();
}

void check_rows(void)
{
	for (uint32_t i = 0; i < sizeof(types) / sizeof(types[0]); i++)
		check_embed(types[i]);
	for (uint32_t i = 0; i < (check_small ? 1 : 4); i++) {
		check_norm(FHK_CU_PRE_NONE, false, false);
		check_norm(FHK_CU_PRE_ADD, false, false);
		check_norm(FHK_CU_PRE_ADD, true, false);
		check_norm(FHK_CU_PRE_MOE, false, false);
		check_norm(FHK_CU_PRE_MOE, false, true);
		check_norm(FHK_CU_PRE_ADD, true, true);
		check_glu(i % 3);
		check_pool();
	}
}
