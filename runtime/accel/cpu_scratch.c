// SPDX-License-Identifier: Apache-2.0
/*
 * The memory that a step works in: sized by the configuration and the model,
 * counted, mapped and cut once.  It starts as zeros, and no kernel writes past
 * a row's meaningful columns, so the padding stays zero for ever.
 */
#include <stdlib.h>
#include <string.h>

#include "runtime/accel/cpu.h"

#define HUGE_BESIDE (256ul << 20) /* bytes of weights */
#define THREAD_PARTIAL_FLOATS (256u << 10)

static void take_act(struct fh_cpu *c, struct fhk_act *x, uint32_t rows, uint32_t cols, unsigned int forms)
{
	if (!rows || !cols)
		return;
	x->cols = cols;
	x->ld = fhk_pad(cols);
	x->f32 = cpu_arena_take(&c->scratch, sizeof(float) * rows * x->ld);
	for (unsigned int f = 0; f < FHK_NR_FORMS; f++)
		if (forms & 1u << f)
			x->form[f] = cpu_arena_take(&c->scratch, c->k->act_bytes((enum fhk_form)f, rows, cols));
}

static void take_acts(struct fh_cpu *c)
{
	const struct fh_model *m = c->m;
	unsigned int in = 0, o = 0, down = 0, shared = 0;
	uint32_t rows = c->cfg.max_tokens;

	for (uint32_t i = 0; i < m->nr_layers; i++) {
		in |= c->layers[i].attn_forms | c->layers[i].ffn_forms;
		o |= c->layers[i].o_forms;
		down |= c->layers[i].down_forms;
		shared |= c->layers[i].shared_forms;
	}
	take_act(c, &c->norm, rows, m->dim, in);
	take_act(c, &c->att, rows, c->q_dim, o);
	if (m->nr_experts)
		take_act(c, &c->h, c->max_pairs, m->expert_ffn_dim, down);
	else
		take_act(c, &c->h, rows, m->ffn_dim, down);
	take_act(c, &c->sh, rows, m->shared_ffn_dim, shared);
	take_act(c, &c->last, c->cfg.max_logits, m->dim, c->output_forms);
}

#define TAKE(c, n, type) ((type *)cpu_arena_take(&(c)->scratch, sizeof(type) * (n)))

static void take_thread(struct fh_cpu *c, struct cpu_thread *t)
{
	uint32_t group = c->m->nr_heads / c->m->nr_kv_heads;
	uint32_t row = c->m->dim > c->m->nr_experts ? c->m->dim : c->m->nr_experts;
	struct cpu_thread th = {
		.up = TAKE(c, (size_t)CPU_TOKEN_TILE * CPU_GLU_ROWS, float),
		.attn_scratch = TAKE(c, c->k->attn_scratch_bytes(CPU_QUERY_TILE, group, c->m->head_dim), char),
		.partial = TAKE(c, c->thread_partial_floats, float),
		.k = TAKE(c, c->cfg.max_blocks_per_seq, const void *),
		.v = TAKE(c, c->cfg.max_blocks_per_seq, const void *),
		.row = TAKE(c, fhk_pad(row), float),
		.best = TAKE(c, c->cfg.max_logits, struct cpu_best),
	};

	if (t)
		*t = th;
}

/* Cut every piece; pointers are meaningful only once the arena is mapped. */
static void carve(struct fh_cpu *c)
{
	const struct fh_model *m = c->m;
	size_t nr = c->cfg.max_tokens, seqs = c->cfg.max_seqs, used = m->nr_experts_used;
	size_t rows = nr > c->max_pairs ? nr : c->max_pairs, y_rows = 0;

	if (m->nr_experts)
		y_rows = c->max_pairs + (m->shared_ffn_dim ? nr : 0);
	else if (c->layers[0].attn_post_norm || c->layers[0].ffn_post_norm)
		y_rows = nr;
	if (c->layers[0].attn_post_norm && y_rows < nr)
		y_rows = nr;

	c->x = TAKE(c, nr * c->ld_x, float);
	c->y = TAKE(c, y_rows * c->ld_x, float);
	c->qkv = TAKE(c, nr * c->ld_qkv, float);
	c->rope = TAKE(c, nr * m->rope.nr_pairs * 2, float);
	c->logits = TAKE(c, (size_t)c->cfg.max_logits * c->ld_logits, float);
	take_acts(c);
	c->partial = TAKE(c, c->partial_floats, float);
	c->tile_left = TAKE(c, c->max_tiles, _Atomic uint32_t);
	c->prev = TAKE(c, seqs, uint32_t);
	c->seen = TAKE(c, seqs, uint64_t);
	c->token_seq = TAKE(c, nr, uint32_t);
	c->attn_seqs = TAKE(c, seqs, struct cpu_attn_seq);
	c->pooled = TAKE(c, seqs, uint32_t);
	c->outs = TAKE(c, c->cfg.max_logits, struct cpu_out);
	c->tasks = TAKE(c, m->nr_experts + 4, struct cpu_task);
	c->identity = TAKE(c, rows, uint32_t);
	if (m->nr_experts) {
		c->pair_expert = TAKE(c, nr * used, uint32_t);
		c->pair_weight = TAKE(c, nr * (used + 1), float);
		c->pair_pos = TAKE(c, nr * used, uint32_t);
		c->pair_token = TAKE(c, c->max_pairs, uint32_t);
		c->expert_end = TAKE(c, m->nr_experts + 1, uint32_t);
	}
	for (uint32_t i = 0; i < c->nr_threads; i++)
		take_thread(c, c->threads ? &c->threads[i] : NULL);
}

static void set_sizes(struct fh_cpu *c)
{
	const struct fh_model *m = c->m;
	uint32_t blocks = c->cfg.max_blocks_per_seq;
	size_t tile_floats;

	c->q_dim = m->nr_heads * m->head_dim;
	c->kv_dim = m->nr_kv_heads * m->head_dim;
	c->ld_x = fhk_pad(m->dim);
	c->ld_qkv = fhk_pad(c->q_dim + 2 * c->kv_dim);
	c->ld_logits = fhk_pad(m->nr_vocab);
	c->max_pairs = c->cfg.max_tokens * m->nr_experts_used;
	c->max_splits = (uint32_t)(((uint64_t)blocks * FHK_KV_BLOCK + FHK_ATTN_SPLIT - 1) / FHK_ATTN_SPLIT);
	c->max_tiles = 64 > 8 * c->nr_threads ? 64 : 8 * c->nr_threads;
	tile_floats = (size_t)c->max_splits * (m->head_dim + 2);
	/* A thread can do all splits of one query at least; four sequences can decode with their splits shared out. */
	c->thread_partial_floats = tile_floats * (m->nr_heads / m->nr_kv_heads);
	if (c->thread_partial_floats < THREAD_PARTIAL_FLOATS)
		c->thread_partial_floats = THREAD_PARTIAL_FLOATS;
	c->partial_floats = tile_floats * m->nr_heads * 4;
	c->freq = m->rope.freq;
	if (m->rope.freq_long && (uint64_t)blocks * FHK_KV_BLOCK > m->rope.ctx_long)
		c->freq = m->rope.freq_long;
}

int cpu_scratch_alloc(struct fh_cpu *c, struct fh_err *err)
{
	struct cpu_thread *threads;
	int rc;

	threads = calloc(c->nr_threads, sizeof(*threads));
	if (!threads)
		return fh_errf(err, -ENOMEM, "out of memory");
	set_sizes(c);
	carve(c);
	/* Most of it is touched by large batches only: beside a small model, huge pages would cost more than they gain.
	 */
	rc = cpu_arena_map(&c->scratch, c->cfg.pin_memory, c->weights.bytes >= HUGE_BESIDE, err);
	if (rc) {
		free(threads);
		return rc;
	}
	c->threads = threads;
	carve(c);
	for (uint32_t i = 0; i < c->cfg.max_tokens || i < c->max_pairs; i++)
		c->identity[i] = i;
	for (uint32_t i = 0; i < c->nr_threads && !rc; i++)
		rc = fh_sampler_create(c->m->nr_vocab, &threads[i].sampler);
	if (rc) {
		cpu_scratch_free(c);
		return fh_errf(err, rc, "out of memory");
	}
	return 0;
}

void cpu_scratch_free(struct fh_cpu *c)
{
	for (uint32_t i = 0; c->threads && i < c->nr_threads; i++)
		fh_sampler_destroy(c->threads[i].sampler);
	free(c->threads);
	c->threads = NULL;
	cpu_arena_unmap(&c->scratch);
}
