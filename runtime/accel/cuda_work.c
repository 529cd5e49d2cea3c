// SPDX-License-Identifier: Apache-2.0
/*
 * The memory that a step works in, on the device and on the host: sized by the
 * configuration and the model, counted, allocated and cut once.  On the device it
 * starts as zeros, and no kernel writes past a row's meaningful columns, so the
 * padding stays zero for ever.
 */
#include <stdlib.h>
#include <string.h>

#include "runtime/accel/cuda.h"

/* A set of forms, as offsets in struct fhk_cu_act, a bit each. */
static uint32_t form_bit(const struct cuda_mat *m)
{
	return m->rows ? 1u << fhk_cu_act_of(m->type) / sizeof(uint64_t) : 0;
}

static void take_act(struct cuda_arena *a, struct fhk_cu_act *act, uint32_t forms, uint32_t rows, uint32_t cols)
{
	uint64_t *at = (uint64_t *)act;

	for (size_t f = 0; f < sizeof(*act) / sizeof(uint64_t); f++)
		if (forms & 1u << f)
			at[f] = cuda_take(a, fhk_cu_act_bytes(f * sizeof(uint64_t), rows, cols));
	if (forms & 1u << offsetof(struct fhk_cu_act, q8) / sizeof(uint64_t))
		act->q8d = cuda_take(a, fhk_cu_act_bytes(offsetof(struct fhk_cu_act, q8d), rows, cols));
}

static void take_acts(struct fh_cuda *c)
{
	uint32_t in = 0, att = 0, act = 0, sh = 0, rows = c->cfg.max_tokens;
	const struct fh_model *m = c->m;
	struct cuda_arena *a = &c->work;

	for (uint32_t i = 0; i < m->nr_layers; i++) {
		const struct cuda_layer *l = &c->layers[i];

		in |= form_bit(&l->qkv[0]) | form_bit(&l->qkv[1]) | form_bit(&l->qkv[2]) | form_bit(&l->gate) |
		      form_bit(&l->up) | form_bit(&l->router) | form_bit(&l->exp_gate) | form_bit(&l->exp_up) |
		      form_bit(&l->shared_router) | form_bit(&l->shared_gate) | form_bit(&l->shared_up);
		att |= form_bit(&l->o);
		act |= form_bit(&l->down) | form_bit(&l->exp_down);
		sh |= form_bit(&l->shared_down);
	}
	take_act(a, &c->norm, in, rows, m->dim);
	/* Attention writes f32 in any case. */
	take_act(a, &c->att, att | 1u, rows, c->q_dim);
	take_act(a, &c->act, act, m->nr_experts ? c->max_pairs : rows, m->nr_experts ? m->expert_ffn_dim : m->ffn_dim);
	if (m->shared_ffn_dim)
		take_act(a, &c->sh_act, sh, rows, m->shared_ffn_dim);
	take_act(a, &c->last, form_bit(&c->output), c->cfg.max_logits, m->dim);
}

static uint64_t partial_row_bytes(const struct fh_cuda *c)
{
	return (uint64_t)c->m->nr_heads * fhk_cu_partial_floats(c->m->head_dim) * sizeof(float);
}

static void take_experts(struct fh_cuda *c)
{
	uint64_t nr = c->cfg.max_tokens, used = c->m->nr_experts_used, nr_tiles = 0;

	if (!c->m->nr_experts)
		return;
	for (uint32_t tile = 8; tile <= 64; tile *= 2) {
		uint32_t n = fhk_cu_max_tiles(c->max_pairs, c->m->nr_experts, tile);

		nr_tiles = n > nr_tiles ? n : nr_tiles;
	}
	c->router = cuda_take(&c->work, nr * c->ld_router * sizeof(float));
	c->shared_router = cuda_take(&c->work, nr * sizeof(float));
	c->pair_expert = cuda_take(&c->work, nr * used * 4);
	c->pair_weight = cuda_take(&c->work, nr * (used + 1) * 4);
	c->pair_pos = cuda_take(&c->work, nr * used * 4);
	c->pair_token = cuda_take(&c->work, nr * used * 4);
	c->tiles = cuda_take(&c->work, nr_tiles * sizeof(struct fhk_cu_tile));
	c->nr_tiles = cuda_take(&c->work, 4);
	if (c->m->shared_ffn_dim)
		c->shared = cuda_take(&c->work, nr * c->ld_x * sizeof(float));
}

/* Cut every piece; addresses mean something only once there is memory. */
static void carve(struct fh_cuda *c)
{
	uint64_t nr = c->cfg.max_tokens, rows = c->m->nr_experts ? c->max_pairs : nr, f = sizeof(float);
	uint64_t h_rows = rows > nr ? rows : nr, y_rows = rows > nr ? rows : nr;
	struct cuda_arena *a = &c->work;

	c->x = cuda_take(a, nr * c->ld_x * f);
	c->y = cuda_take(a, y_rows * c->ld_x * f);
	c->qkv = cuda_take(a, nr * c->ld_qkv * f);
	c->cs = cuda_take(a, nr * c->m->rope.nr_pairs * 2 * f);
	c->gate = cuda_take(a, h_rows * (c->ld_h > c->ld_sh ? c->ld_h : c->ld_sh) * f);
	c->h = cuda_take(a, h_rows * (c->ld_h > c->ld_sh ? c->ld_h : c->ld_sh) * f);
	c->logits = cuda_take(a, (uint64_t)c->cfg.max_logits * c->ld_logits * f);
	c->sampled = cuda_take(a, (uint64_t)c->cfg.max_logits * 4);
	c->prev = cuda_take(a, (uint64_t)c->cfg.max_seqs * 4);
	c->partial = cuda_take(a, c->max_partials * partial_row_bytes(c));
	c->pooled = cuda_take(a, (uint64_t)c->cfg.max_seqs * c->ld_x * f);
	take_experts(c);
	take_acts(c);
	c->plan.dev = cuda_take(a, c->plan.bytes);
}

static void set_sizes(struct fh_cuda *c)
{
	const struct fh_model *m = c->m;
	uint64_t ctx = (uint64_t)c->cfg.max_blocks_per_seq * FH_KV_BLOCK, splits = ctx / FHK_CU_SPLIT + 1, partials;

	c->q_dim = m->nr_heads * m->head_dim;
	c->kv_dim = m->nr_kv_heads * m->head_dim;
	c->ld_x = fhk_cu_kpad(m->dim);
	c->ld_qkv = fhk_cu_kpad(c->q_dim + 2 * c->kv_dim);
	c->ld_h = fhk_cu_kpad(m->nr_experts ? m->expert_ffn_dim : m->ffn_dim);
	c->ld_sh = fhk_cu_kpad(m->shared_ffn_dim);
	c->ld_logits = fhk_cu_kpad(m->nr_vocab);
	c->ld_router = fhk_cu_kpad(m->nr_experts);
	c->max_pairs = c->cfg.max_tokens * m->nr_experts_used;
	partials = splits * c->cfg.max_seqs;
	if (partials > CUDA_PARTIAL_BYTES / partial_row_bytes(c))
		partials = CUDA_PARTIAL_BYTES / partial_row_bytes(c);
	c->max_partials = (uint32_t)partials;
	/* An item a split of a token that decodes, or an item for one token at least. */
	c->max_items = c->max_partials + c->cfg.max_tokens;
}

static size_t place(size_t *at, size_t bytes)
{
	size_t here = *at;

	*at += (bytes + CUDA_ALIGN - 1) / CUDA_ALIGN * CUDA_ALIGN;
	return here;
}

/* Offsets of the plan's parts. The tail is sized for what a batch may hold at most. */
static void lay_out_plan(struct fh_cuda *c)
{
	struct cuda_plan *p = &c->plan;
	uint64_t mask = ((uint64_t)c->m->nr_vocab + 31) / 32 * 4;
	size_t at = 0;

	place(&at, sizeof(struct fhk_cu_plan));
	p->tokens = place(&at, sizeof(struct fhk_cu_token) * c->cfg.max_tokens);
	p->seqs = place(&at, sizeof(struct fhk_cu_seq) * c->cfg.max_seqs);
	p->outs = place(&at, sizeof(struct fhk_cu_out) * c->cfg.max_logits);
	p->pools = place(&at, sizeof(struct fhk_cu_pool_item) * c->cfg.max_seqs);
	p->tail = place(&at, sizeof(struct fhk_cu_item) * c->max_items);
	place(&at,
	      sizeof(uint32_t) * c->cfg.max_seqs * (c->cfg.max_blocks_per_seq + 4ul)); /* each begins at 16 bytes */
	/* Masks, and lists of tokens: where they do not fit, a row is sampled on the host. */
	place(&at, c->cfg.max_logits * mask);
	place(&at, sizeof(struct fhk_cu_adj) * c->cfg.max_logits * 1024ul);
	p->bytes = at;
}

static int host_alloc(struct fh_cuda *c, struct fh_err *err)
{
	int rc = cuda_pinned(c, c->plan.bytes, (void **)&c->plan.host, NULL, "the plan", err);

	if (!rc)
		rc = cuda_pinned(c, sizeof(*c->slots) * c->cfg.max_logits, (void **)&c->slots, &c->slots_dev, "tokens",
				 err);
	c->rows = calloc(c->cfg.max_logits, sizeof(*c->rows));
	c->pools = calloc(c->cfg.max_seqs, sizeof(*c->pools));
	c->seen = calloc(c->cfg.max_seqs, sizeof(*c->seen));
	c->prev_token = calloc(c->cfg.max_seqs, sizeof(*c->prev_token));
	c->prev_on_device = calloc(c->cfg.max_seqs, sizeof(*c->prev_on_device));
	c->row = calloc(c->m->nr_vocab, sizeof(*c->row));
	c->adj_at = calloc(c->m->nr_vocab, sizeof(*c->adj_at));
	if (rc)
		return rc;
	if (!c->rows || !c->pools || !c->seen || !c->prev_token || !c->prev_on_device || !c->row || !c->adj_at ||
	    fh_sampler_create(c->m->nr_vocab, &c->sampler))
		return fh_errf(err, -ENOMEM, "out of memory");
	return 0;
}

int cuda_work_alloc(struct fh_cuda *c, struct fh_err *err)
{
	cu_result r;
	int rc;

	set_sizes(c);
	lay_out_plan(c);
	carve(c);
	rc = cuda_arena_alloc(c, &c->work, "the buffers of a step", err);
	if (rc)
		return rc;
	r = c->cu.MemsetD8Async(c->work.base, 0, c->work.bytes, c->stream);
	if (r == CU_OK)
		r = c->cu.StreamSynchronize(c->stream);
	rc = fh_cu_errf(&c->cu, r, err, "%s: clearing memory", c->name);
	if (rc)
		return rc;
	carve(c);
	return host_alloc(c, err);
}

void cuda_work_free(struct fh_cuda *c)
{
	if (c->plan.host)
		cuda_failed(c, c->cu.MemFreeHost(c->plan.host), "giving pinned memory back");
	if (c->slots)
		cuda_failed(c, c->cu.MemFreeHost(c->slots), "giving pinned memory back");
	cuda_arena_free(c, &c->work);
	free(c->rows);
	free(c->pools);
	free(c->seen);
	free(c->prev_token);
	free(c->prev_on_device);
	free(c->row);
	free(c->adj_at);
	fh_sampler_destroy(c->sampler);
	c->plan = (struct cuda_plan){0};
	c->slots = NULL;
	c->rows = NULL;
	c->pools = NULL;
	c->seen = NULL;
	c->prev_token = NULL;
	c->prev_on_device = NULL;
	c->row = NULL;
	c->adj_at = NULL;
	c->sampler = NULL;
}
