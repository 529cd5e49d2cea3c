// SPDX-License-Identifier: Apache-2.0
/*
 * One step as a row of kernels, in the order that cuda_kernels.h lays down, and
 * the graphs that replay it.
 *
 * Everything that a launch is given follows from the model and from the step's
 * shape, which is a maximum: kernels bound themselves by the counts in the plan.
 * So the launches for a bucket are captured once, and serve every step that fits.
 */
#include <stddef.h>

#include "runtime/accel/cuda.h"
#include "runtime/base/log.h"

#define NR_TILES (CUDA_K_fhk_cu_mm_f16_8 - CUDA_K_fhk_cu_mm_f32_8) /* 8, 16, 32, ... rows */
#define SHARED_FREE (48 << 10)					   /* what a block gets without asking */

static const char *const names[] = {
#define KERNEL_NAME(name, args) #name,
	FHK_CU_KERNELS(KERNEL_NAME)
#undef KERNEL_NAME
};

static const uint32_t buckets[CUDA_NR_BUCKETS] = {1, 2, 4, 8, 16, 24, 32, 48, CUDA_GRAPH_TOKENS};

int cuda_launch(struct fh_cuda *c, enum cuda_kernel k, struct fhk_cu_grid g, const void *args)
{
	void *params[] = {(void *)(uintptr_t)args};
	cu_result r = c->cu.LaunchKernel(c->fn[k], g.x, g.y, g.z, g.threads, 1, 1, g.shared, c->stream, params, NULL);

	return cuda_failed(c, r, names[k]) ? -EIO : 0;
}

static enum cuda_kernel attn_kernel(uint32_t kv_type, uint32_t pairs)
{
	uint32_t at = kv_type == FHK_F16 ? 0 : kv_type == FHK_BF16 ? 1 : 2;

	return (enum cuda_kernel)(CUDA_K_fhk_cu_attn_f16_8 + 2 * at + (pairs > 8));
}

/* In the order of the kernels */
static const uint32_t mm_types[] = {FHK_F32,  FHK_F16,	FHK_BF16, FHK_Q8_0, FHK_Q4_0,
				    FHK_Q4_K, FHK_Q5_K, FHK_Q6_K, FHK_MXFP4};

enum cuda_kernel cuda_mm_kernel(uint32_t type, uint32_t tile)
{
	uint32_t at = 0, step = 0;

	while (mm_types[at] != type)
		at++;
	while (8u << step < tile)
		step++;
	return (enum cuda_kernel)(CUDA_K_fhk_cu_mm_f32_8 + NR_TILES * at + step);
}

/* ---- a step being launched ---- */

struct run {
	struct fh_cuda *c;
	const struct cuda_shape *s;
	cu_ptr nr_tokens, nr_outs; /* counts in the plan */
	int rc;			   /* of the first launch that failed; nothing is launched after it */
};

static void launch(struct run *r, enum cuda_kernel k, struct fhk_cu_grid g, const void *args)
{
	if (!r->rc)
		r->rc = cuda_launch(r->c, k, g, args);
}

/* Those forms of @act that the matrices want which are given; rows == 0: no matrix. */
static struct fhk_cu_act forms(const struct fhk_cu_act *act, const struct cuda_mat *const *mats, uint32_t nr)
{
	struct fhk_cu_act out = {0};

	for (uint32_t i = 0; i < nr; i++) {
		size_t at = mats[i]->rows ? fhk_cu_act_of(mats[i]->type) / sizeof(uint64_t) : 0;

		if (!mats[i]->rows)
			continue;
		((uint64_t *)&out)[at] = ((const uint64_t *)act)[at];
		if (out.q8)
			out.q8d = act->q8d;
	}
	return out;
}

/* How a multiplication is asked for, beside its matrices. */
struct mm {
	const struct fhk_cu_act *x;
	cu_ptr y;
	uint32_t ldy, flags;
	cu_ptr nr;
	uint32_t max_rows;
	float softcap;
	bool tiles; /* experts: the sorted pairs ... */
	cu_ptr idx; /* ... of these rows of x, or 0: row by row */
};

static const enum fhk_glu glus[] = {
	[FH_ACT_SILU] = FHK_GLU_SILU,
	[FH_ACT_GELU] = FHK_GLU_GELU,
	[FH_ACT_OAI] = FHK_GLU_OAI,
};

/* Rows that an expert gets on average: all the tiles' order depends on it, and no result. */
static uint32_t expert_tile(const struct run *r)
{
	return fhk_cu_mm_tile(fhk_cu_div_up(r->s->tokens * r->c->m->nr_experts_used, r->c->m->nr_experts));
}

static void mm(struct run *r, const struct cuda_mat *w, const struct cuda_mat *w2, const struct mm *how)
{
	uint32_t tile = how->tiles ? expert_tile(r) : fhk_cu_mm_tile(how->max_rows), max_tiles = 0;
	struct fh_cuda *c = r->c;
	struct fhk_cu_mm_args a = {
		.w = w->w,
		.bias = w->bias,
		.x = *(const uint64_t *)((const char *)how->x + fhk_cu_act_of(w->type)),
		.xd = how->x->q8d,
		.y = how->y,
		.nr = how->nr,
		.unit_stride = w->unit_stride,
		.expert_stride = w->expert_stride,
		.rows = w->rows,
		.cols = w->cols,
		.ldy = how->ldy,
		.flags = how->flags,
		.glu = glus[c->m->glu],
		.softcap = how->softcap,
	};

	if (w2) {
		a.w2 = w2->w;
		a.bias2 = w2->bias;
		a.flags |= FHK_CU_MM_GLU;
	}
	if (how->tiles) {
		a.tiles = c->tiles;
		a.nr_tiles = c->nr_tiles;
		a.idx = how->idx;
		max_tiles = fhk_cu_max_tiles(how->max_rows, c->m->nr_experts, tile);
	}
	launch(r, cuda_mm_kernel(w->type, tile), fhk_cu_mm_grid(w->type, w->rows, tile, how->max_rows, max_tiles), &a);
}

/* What layer @i has left undone for the next norm. */
static void pending(const struct run *r, uint32_t i, struct fhk_cu_norm_args *a)
{
	const struct fh_cuda *c = r->c;

	a->pre = FHK_CU_PRE_NONE;
	if (c->m->nr_experts) {
		a->pre = FHK_CU_PRE_MOE;
		a->pair_pos = c->pair_pos;
		a->pair_weight = c->pair_weight;
		a->used = c->m->nr_experts_used;
		a->shared = c->layers[i].shared_down.rows ? c->shared : 0;
		a->y = c->y;
	} else if (c->layers[i].ffn_post_norm) {
		a->pre = FHK_CU_PRE_ADD;
		a->post_w = c->layers[i].ffn_post_norm;
		a->y = c->y;
	}
}

static struct fhk_cu_norm_args norm_args(const struct run *r, cu_ptr w)
{
	const struct fh_cuda *c = r->c;

	return (struct fhk_cu_norm_args){
		.nr = r->nr_tokens, .x = c->x, .w = w, .dim = c->m->dim, .ld = c->ld_x, .eps = c->m->norm_eps};
}

static void embed(struct run *r)
{
	const struct fh_cuda *c = r->c;
	const struct fhk_cu_embed_args a = {
		.plan = c->plan.dev,
		.tokens = c->plan.dev + c->plan.tokens,
		.seqs = c->plan.dev + c->plan.seqs,
		.prev = c->prev,
		.table = c->embd,
		.freq = c->freq,
		.x = c->x,
		.cs = c->cs,
		.type = c->m->token_embd->type,
		.nr_vocab = c->m->nr_vocab,
		.dim = c->m->dim,
		.ld = c->ld_x,
		.nr_pairs = c->m->rope.nr_pairs,
		.scale = c->m->embd_scale,
		.mscale = c->m->rope.mscale,
	};

	launch(r, CUDA_K_fhk_cu_embed, fhk_cu_embed_grid(r->s->tokens), &a);
}

static struct fhk_cu_kv kv_of(const struct fh_cuda *c, uint32_t layer)
{
	return (struct fhk_cu_kv){.base = c->kv.base + layer * c->kv_layer_bytes,
				  .block_bytes = c->kv_block_bytes,
				  .head_bytes = (uint32_t)c->kv_head_bytes,
				  .type = c->kv_type,
				  .head_dim = c->m->head_dim,
				  .nr_heads = c->m->nr_heads,
				  .nr_kv_heads = c->m->nr_kv_heads};
}

static struct fhk_cu_grid attn_grid(const struct fh_cuda *c, const struct cuda_shape *s)
{
	return fhk_cu_attn_grid(s->items, c->m->nr_kv_heads, c->m->nr_heads / c->m->nr_kv_heads, s->nr_q,
				c->m->head_dim, (uint32_t)c->dev.nr_sms * 4);
}

static void attend(struct run *r, uint32_t layer)
{
	const struct fh_cuda *c = r->c;
	const struct cuda_layer *l = &c->layers[layer];
	const struct cuda_mat *o[] = {&l->o};
	uint32_t group = c->m->nr_heads / c->m->nr_kv_heads, ld_att = fhk_cu_kpad(c->q_dim);
	cu_ptr tokens = c->plan.dev + c->plan.tokens, seqs = c->plan.dev + c->plan.seqs,
	       tail = c->plan.dev + c->plan.tail;
	const struct fhk_cu_rope_kv_args rope = {
		.plan = c->plan.dev,
		.tokens = tokens,
		.seqs = seqs,
		.blocks = tail,
		.qkv = c->qkv,
		.cs = c->cs,
		.q_norm = l->q_norm,
		.k_norm = l->k_norm,
		.kv = kv_of(c, layer),
		.ld = c->ld_qkv,
		.nr_pairs = c->m->rope.nr_pairs,
		.interleaved = c->m->rope.interleaved,
		.eps = c->m->norm_eps,
	};
	const struct fhk_cu_attn_args attn = {
		.plan = c->plan.dev,
		.tokens = tokens,
		.seqs = seqs,
		.blocks = tail,
		.items = tail,
		.q = c->qkv,
		.sinks = l->sinks,
		.partial = c->partial,
		.out = c->att.f32,
		.kv = rope.kv,
		.ldq = c->ld_qkv,
		.ld_out = ld_att,
		.window = l->window,
		.scale = c->m->attn_scale,
		.softcap = c->m->attn_softcap,
	};
	const struct fhk_cu_combine_args combine = {
		.plan = c->plan.dev,
		.tokens = tokens,
		.sinks = l->sinks,
		.partial = c->partial,
		.out = c->att.f32,
		.act = forms(&c->att, o, 1),
		.nr_heads = c->m->nr_heads,
		.head_dim = c->m->head_dim,
		.ld_out = ld_att,
		.window = l->window,
	};

	launch(r, CUDA_K_fhk_cu_rope_kv, fhk_cu_rope_kv_grid(r->s->tokens, c->m->nr_heads, c->m->nr_kv_heads), &rope);
	launch(r, attn_kernel(c->kv_type, fhk_cu_attn_pairs(r->s->nr_q, group)), attn_grid(c, r->s), &attn);
	launch(r, CUDA_K_fhk_cu_combine, fhk_cu_combine_grid(r->s->tokens), &combine);
}

/* down(glu(gate, up)) of @nr rows, to @y. */
static void feed_forward(struct run *r, const struct cuda_mat *gate, const struct cuda_mat *up,
			 const struct cuda_mat *down, const struct fhk_cu_act *act, uint32_t ld, cu_ptr y,
			 uint32_t flags)
{
	const struct fh_cuda *c = r->c;
	bool both = gate->type == up->type;
	struct mm how = {.x = &c->norm, .y = c->h, .ldy = ld, .nr = r->nr_tokens, .max_rows = r->s->tokens};
	struct fhk_cu_act_args a = {.nr = r->nr_tokens,
				    .gate = both ? c->h : c->gate,
				    .up = both ? 0 : c->h,
				    .out = forms(act, &down, 1),
				    .cols = gate->rows,
				    .ld = ld,
				    .glu = glus[c->m->glu],
				    .scale_nr = 1};

	if (both) {
		mm(r, gate, up, &how);
	} else {
		mm(r, up, NULL, &how);
		how.y = c->gate;
		mm(r, gate, NULL, &how);
	}
	launch(r, CUDA_K_fhk_cu_act, fhk_cu_act_grid(r->s->tokens), &a);
	how = (struct mm){
		.x = act, .y = y, .ldy = c->ld_x, .flags = flags, .nr = r->nr_tokens, .max_rows = r->s->tokens};
	mm(r, down, NULL, &how);
}

static void route(struct run *r, const struct cuda_layer *l)
{
	const struct fh_cuda *c = r->c;
	bool shared = l->shared_router.rows;
	struct mm how = {
		.x = &c->norm, .y = c->router, .ldy = c->ld_router, .nr = r->nr_tokens, .max_rows = r->s->tokens};
	const struct fhk_cu_route_args a = {
		.nr = r->nr_tokens,
		.logits = c->router,
		.shared = shared ? c->shared_router : 0,
		.pair_expert = c->pair_expert,
		.pair_weight = c->pair_weight,
		.nr_experts = c->m->nr_experts,
		.used = c->m->nr_experts_used,
		.ld = c->ld_router,
		.shared_ld = 1,
		.norm = c->m->gating == FH_GATING_SOFTMAX_NORM,
	};
	const struct fhk_cu_moe_sort_args sort = {
		.nr = r->nr_tokens,
		.pair_expert = c->pair_expert,
		.pair_pos = c->pair_pos,
		.pair_token = c->pair_token,
		.tiles = c->tiles,
		.nr_tiles = c->nr_tiles,
		.nr_experts = c->m->nr_experts,
		.used = c->m->nr_experts_used,
		.tile = expert_tile(r),
	};

	mm(r, &l->router, NULL, &how);
	if (shared) {
		how.y = c->shared_router;
		how.ldy = 1;
		mm(r, &l->shared_router, NULL, &how);
	}
	launch(r, CUDA_K_fhk_cu_route, fhk_cu_route_grid(r->s->tokens), &a);
	launch(r, CUDA_K_fhk_cu_moe_sort, fhk_cu_moe_sort_grid(c->m->nr_experts), &sort);
}

static void experts(struct run *r, const struct cuda_layer *l)
{
	const struct fh_cuda *c = r->c;
	uint32_t pairs = r->s->tokens * c->m->nr_experts_used;
	bool both = l->exp_gate.type == l->exp_up.type;
	const struct cuda_mat *down[] = {&l->exp_down};
	struct mm how = {
		.x = &c->norm, .y = c->h, .ldy = c->ld_h, .max_rows = pairs, .tiles = true, .idx = c->pair_token};
	struct fhk_cu_act_args a = {.nr = r->nr_tokens,
				    .gate = both ? c->h : c->gate,
				    .up = both ? 0 : c->h,
				    .out = forms(&c->act, down, 1),
				    .cols = l->exp_gate.rows,
				    .ld = c->ld_h,
				    .glu = glus[c->m->glu],
				    .scale_nr = c->m->nr_experts_used};

	if (both) {
		mm(r, &l->exp_gate, &l->exp_up, &how);
	} else {
		mm(r, &l->exp_up, NULL, &how);
		how.y = c->gate;
		mm(r, &l->exp_gate, NULL, &how);
	}
	launch(r, CUDA_K_fhk_cu_act, fhk_cu_act_grid(pairs), &a);
	how = (struct mm){.x = &c->act, .y = c->y, .ldy = c->ld_x, .max_rows = pairs, .tiles = true};
	mm(r, &l->exp_down, NULL, &how);
	if (l->shared_down.rows)
		feed_forward(r, &l->shared_gate, &l->shared_up, &l->shared_down, &c->sh_act, c->ld_sh, c->shared, 0);
}

static void layer(struct run *r, uint32_t i)
{
	const struct fh_cuda *c = r->c;
	const struct cuda_layer *l = &c->layers[i];
	const struct cuda_mat *in[] = {&l->qkv[0], &l->qkv[1], &l->qkv[2]};
	const struct cuda_mat *ffn[] = {&l->gate,	   &l->up,	    &l->router,	  &l->exp_gate, &l->exp_up,
					&l->shared_router, &l->shared_gate, &l->shared_up};
	struct mm how = {.x = &c->norm, .y = c->qkv, .ldy = c->ld_qkv, .nr = r->nr_tokens, .max_rows = r->s->tokens};
	struct fhk_cu_norm_args a = norm_args(r, l->attn_norm);

	if (i)
		pending(r, i - 1, &a);
	a.out = forms(&c->norm, in, 3);
	launch(r, CUDA_K_fhk_cu_norm, fhk_cu_norm_grid(r->s->tokens), &a);
	for (uint32_t k = 0, row = 0; k < (l->joined ? 1 : 3); row += l->qkv[k++].rows) {
		how.y = c->qkv + row * sizeof(float);
		mm(r, &l->qkv[k], NULL, &how);
	}
	attend(r, i);

	how = (struct mm){.x = &c->att, .y = c->x, .ldy = c->ld_x, .nr = r->nr_tokens, .max_rows = r->s->tokens};
	how.flags = FHK_CU_MM_ADD;
	a = norm_args(r, l->ffn_norm);
	if (l->attn_post_norm) {
		how.y = c->y;
		how.flags = 0;
		a.pre = FHK_CU_PRE_ADD;
		a.post_w = l->attn_post_norm;
		a.y = c->y;
	}
	mm(r, &l->o, NULL, &how);
	a.out = forms(&c->norm, ffn, sizeof(ffn) / sizeof(ffn[0]));
	launch(r, CUDA_K_fhk_cu_norm, fhk_cu_norm_grid(r->s->tokens), &a);
	if (c->m->nr_experts) {
		route(r, l);
		experts(r, l);
	} else {
		feed_forward(r, &l->gate, &l->up, &l->down, &c->act, c->ld_h, l->ffn_post_norm ? c->y : c->x,
			     l->ffn_post_norm ? 0 : FHK_CU_MM_ADD);
	}
}

static void sample(struct run *r)
{
	const struct fh_cuda *c = r->c;
	const struct fhk_cu_sample_args a = {
		.plan = c->plan.dev,
		.outs = c->plan.dev + c->plan.outs,
		.adj = c->plan.dev + c->plan.tail,
		.logits = c->logits,
		.sampled = c->sampled,
		.nr_vocab = c->m->nr_vocab,
		.ld = c->ld_logits,
	};
	const struct fhk_cu_prev_args prev = {
		.plan = c->plan.dev,
		.tokens = c->plan.dev + c->plan.tokens,
		.seqs = c->plan.dev + c->plan.seqs,
		.outs = a.outs,
		.sampled = c->sampled,
		.prev = c->prev,
	};

	launch(r, CUDA_K_fhk_cu_sample, fhk_cu_sample_grid(r->s->outs, c->m->nr_vocab), &a);
	launch(r, CUDA_K_fhk_cu_prev, fhk_cu_prev_grid(r->s->seqs), &prev);
}

/* Hidden states to logits, tokens and embeddings. */
static void output(struct run *r)
{
	const struct fh_cuda *c = r->c;
	const struct cuda_mat *out[] = {&c->output};
	struct fhk_cu_norm_args a = norm_args(r, 0);
	const struct fhk_cu_pool_args pool = {
		.plan = c->plan.dev,
		.pools = c->plan.dev + c->plan.pools,
		.x = c->x,
		.w = c->output_norm,
		.pooled = c->pooled,
		.dim = c->m->dim,
		.ld = c->ld_x,
		.eps = c->m->norm_eps,
	};
	const struct mm how = {.x = &c->last,
			       .y = c->logits,
			       .ldy = c->ld_logits,
			       .nr = r->nr_outs,
			       .max_rows = r->s->outs,
			       .softcap = c->m->final_softcap};

	pending(r, c->m->nr_layers - 1, &a);
	if (r->s->pools) {
		/* The sum is owed to all rows, not only to those that are sampled. */
		launch(r, CUDA_K_fhk_cu_norm, fhk_cu_norm_grid(r->s->tokens), &a);
		launch(r, CUDA_K_fhk_cu_pool, fhk_cu_pool_grid(r->s->pools), &pool);
		a.pre = FHK_CU_PRE_NONE;
	}
	if (!r->s->outs)
		return;
	a.nr = r->nr_outs;
	a.rows = c->plan.dev + c->plan.outs;
	a.w = c->output_norm;
	a.out = forms(&c->last, out, 1);
	launch(r, CUDA_K_fhk_cu_norm, fhk_cu_norm_grid(r->s->outs), &a);
	mm(r, &c->output, NULL, &how);
	sample(r);
}

int cuda_step(struct fh_cuda *c, const struct cuda_shape *shape)
{
	struct run r = {.c = c,
			.s = shape,
			.nr_tokens = c->plan.dev + offsetof(struct fhk_cu_plan, nr_tokens),
			.nr_outs = c->plan.dev + offsetof(struct fhk_cu_plan, nr_outs)};

	embed(&r);
	for (uint32_t i = 0; i < c->m->nr_layers; i++)
		layer(&r, i);
	output(&r);
	return r.rc;
}

/* ---- graphs ---- */

static void free_graph(struct fh_cuda *c, cu_graph g)
{
	if (g)
		cuda_failed(c, c->cu.GraphDestroy(g), "giving a graph back");
}

/* Capture the launches of a bucket. NULL: it did not work, and the device may be lost. */
static cu_graph_exec capture(struct fh_cuda *c, const struct cuda_shape *shape)
{
	cu_graph_exec exec = NULL;
	cu_graph graph = NULL;
	cu_result r;
	int rc;

	if (cuda_failed(c, c->cu.StreamBeginCapture(c->stream, CU_CAPTURE_THREAD_LOCAL), "capturing a step"))
		return NULL;
	rc = cuda_step(c, shape);
	/* In any case, or the stream stays in capture. */
	r = c->cu.StreamEndCapture(c->stream, &graph);
	if (!cuda_failed(c, r, "capturing a step") && !rc &&
	    cuda_failed(c, c->cu.GraphInstantiateWithFlags(&exec, graph, 0), "making a graph of a step"))
		exec = NULL;
	free_graph(c, graph);
	return exec;
}

int cuda_step_graph(struct fh_cuda *c, const struct cuda_shape *shape)
{
	struct cuda_shape most = *shape;
	uint32_t b = 0, longer = shape->nr_q > 1;
	cu_graph_exec *exec;

	if (c->no_graphs || shape->tokens > CUDA_GRAPH_TOKENS || shape->tokens > c->cfg.max_tokens || shape->pools)
		goto plain;
	while (buckets[b] < shape->tokens)
		b++;
	most.tokens = buckets[b] < c->cfg.max_tokens ? buckets[b] : c->cfg.max_tokens;
	most.seqs = most.tokens < c->cfg.max_seqs ? most.tokens : c->cfg.max_seqs;
	most.outs = most.tokens < c->cfg.max_logits ? most.tokens : c->cfg.max_logits;
	most.items = c->max_items;
	exec = &c->graphs[b][longer];
	if (!*exec)
		*exec = capture(c, &most);
	if (!*exec && c->lost)
		return -EIO;
	if (!*exec) {
		fh_warn("%s: no graph could be made; steps are launched kernel by kernel from now on", c->name);
		c->no_graphs = true;
		goto plain;
	}
	c->nr_graph_steps++;
	return cuda_failed(c, c->cu.GraphLaunch(*exec, c->stream), "launching a step's graph") ? -EIO : 0;

plain:
	c->nr_plain_steps++;
	return cuda_step(c, shape);
}

void cuda_graphs_free(struct fh_cuda *c)
{
	for (uint32_t b = 0; b < CUDA_NR_BUCKETS; b++) {
		for (uint32_t k = 0; k < 2; k++) {
			if (c->graphs[b][k])
				cuda_failed(c, c->cu.GraphExecDestroy(c->graphs[b][k]), "giving a graph back");
			c->graphs[b][k] = NULL;
		}
	}
}

/* ---- shared memory ---- */

static int allow(struct fh_cuda *c, enum cuda_kernel k, uint32_t bytes, struct fh_err *err)
{
	if (bytes <= SHARED_FREE)
		return 0;
	if (bytes > (uint32_t)c->dev.shared_bytes)
		return fh_errf(err, -ENOTSUP,
			       "%s: %s needs %u KiB of shared memory a block for %s, and the GPU has %d KiB", c->name,
			       names[k], bytes >> 10, c->m->name, c->dev.shared_bytes >> 10);
	return fh_cu_errf(&c->cu, c->cu.FuncSetAttribute(c->fn[k], CU_FUNC_MAX_DYNAMIC_SHARED, (int)bytes), err,
			  "%s: %u KiB of shared memory for %s", c->name, bytes >> 10, names[k]);
}

int cuda_allow_shared(struct fh_cuda *c, struct fh_err *err)
{
	uint32_t group = c->m->nr_heads / c->m->nr_kv_heads;
	const uint32_t nr_q[] = {1, fhk_cu_item_queries(group)};
	int rc = allow(c, CUDA_K_fhk_cu_sample, fhk_cu_sample_grid(1, c->m->nr_vocab).shared, err);

	if (!rc && c->m->nr_experts)
		rc = allow(c, CUDA_K_fhk_cu_moe_sort, fhk_cu_moe_sort_grid(c->m->nr_experts).shared, err);
	for (uint32_t k = CUDA_K_fhk_cu_mm_f32_8; k < (uint32_t)CUDA_K_fhk_cu_route && !rc; k++) {
		uint32_t i = k - CUDA_K_fhk_cu_mm_f32_8;

		rc = allow(c, (enum cuda_kernel)k, fhk_cu_mm_shared(mm_types[i / NR_TILES], 8u << i % NR_TILES), err);
	}
	for (int i = 0; i < 2 && !rc; i++) {
		const struct cuda_shape s = {.items = 1, .nr_q = nr_q[i]};

		rc = allow(c, attn_kernel(c->kv_type, fhk_cu_attn_pairs(nr_q[i], group)), attn_grid(c, &s).shared, err);
	}
	return rc;
}
