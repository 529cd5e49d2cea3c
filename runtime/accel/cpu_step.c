// SPDX-License-Identifier: Apache-2.0
/*
 * One step of a batch, as the phases that cpu.h describes.
 *
 * The residual stream x is only ever changed by the phase that owns a token or
 * a chunk of rows, in an order that the model alone decides, so a token's
 * numbers are the same bits in any batch, chunking or number of threads.
 */
#include <math.h>
#include <string.h>

#include "runtime/accel/cpu.h"

#define SOLO_NS 100e3  /* a step below this runs on one thread: a wake-up and the other's core cost as much */
#define PHASE_NS 4e3   /* and so does a phase: a hand-over takes a microsecond or two */
#define ITEM_NS 3e3    /* an item is no shorter, for the sake of the counter */
#define AHEAD_TOKENS 8 /* steps of more are bound by arithmetic, not by memory */
#define ITEMS_EACH 12u /* items a thread in a phase: what a lost core may hold up */

double cpu_matmul_ns(const struct fh_cpu *c, const struct fhk_mat *m, uint32_t nr)
{
	double macs = (double)m->rows * m->cols * nr, bytes = (double)m->expert_bytes;

	if (c->k == &fhk_ref)
		return macs;
	return fmax(macs / (m->form == FHK_FORM_F32 ? 50 : 150), bytes / c->bytes_per_ns);
}

double cpu_attend_ns(const struct fh_cpu *c)
{
	double pairs = 0;

	for (uint32_t i = 0; i < c->b->nr_seqs; i++)
		pairs += (double)c->b->seqs[i].q_len * (c->b->seqs[i].pos + c->b->seqs[i].q_len);
	return pairs * c->q_dim * (c->k == &fhk_ref ? 1.0 : 0.03);
}

void cpu_run(struct fh_cpu *c, fh_pool_fn fn, uint32_t nr_items, double ns)
{
	if (!c->solo && ns >= PHASE_NS) {
		fh_pool_run(c->pool, nr_items, fn, c);
		return;
	}
	for (uint32_t i = 0; i < nr_items; i++)
		fn(c, 0, i);
}

static void tokens_item(void *ctx, uint32_t thread, uint32_t item)
{
	struct fh_cpu *c = ctx;
	uint32_t t = item * c->token_chunk, end = t + c->token_chunk;

	for (end = end < c->token_nr ? end : c->token_nr; t < end; t++)
		c->token_fn(c, thread, t);
}

void cpu_tokens(struct fh_cpu *c, void (*fn)(struct fh_cpu *c, uint32_t thread, uint32_t token), uint32_t nr, double ns)
{
	uint32_t items = c->nr_threads * ITEMS_EACH;

	c->token_fn = fn;
	c->token_nr = nr;
	c->token_chunk = (nr + items - 1) / items;
	if (c->token_chunk * ns < ITEM_NS)
		c->token_chunk = (uint32_t)fmin(ceil(ITEM_NS / ns), nr);
	if (nr)
		cpu_run(c, tokens_item, (nr + c->token_chunk - 1) / c->token_chunk, ns * nr);
}

void cpu_prepare_part(struct fh_cpu *c, struct fhk_act *x, uint8_t forms, uint32_t t0, uint32_t t1, uint32_t c0,
		      uint32_t c1)
{
	c1 = c1 < x->cols ? c1 : x->ld;
	for (unsigned int f = 0; f < FHK_NR_FORMS; f++)
		if (forms & 1u << f)
			c->k->act_prepare(x, (enum fhk_form)f, t0, t1, c0, c1);
}

void cpu_prepare(struct fh_cpu *c, struct fhk_act *x, uint8_t forms, uint32_t t)
{
	cpu_prepare_part(c, x, forms, t, t + 1, 0, x->cols);
}

void cpu_add_bias(struct fh_cpu *c, const struct cpu_lin *l, uint32_t expert, uint32_t nr, uint32_t r0, uint32_t r1,
		  float *y, size_t ldy)
{
	if (!l->bias)
		return;
	for (uint32_t i = 0; i < nr; i++)
		c->k->axpy(y + i * ldy, 1, l->bias + (size_t)expert * l->mat.rows + r0, r1 - r0);
}

/* Rows of one task, for a tile of its tokens. */
static void matmul_tile(struct fh_cpu *c, struct cpu_thread *th, const struct cpu_task *k, uint32_t t0, uint32_t r0,
			uint32_t r1)
{
	static const enum fhk_glu glus[] = {
		[FH_ACT_SILU] = FHK_GLU_SILU,
		[FH_ACT_GELU] = FHK_GLU_GELU,
		[FH_ACT_OAI] = FHK_GLU_OAI,
	};
	uint32_t nr = k->nr - t0 < CPU_TOKEN_TILE ? k->nr - t0 : CPU_TOKEN_TILE;
	const uint32_t *idx = k->idx ? k->idx + t0 : t0 ? c->identity + t0 : NULL;
	float *y;

	if (k->best) {
		cpu_best_rows(c, th, k, t0, nr, r0, r1);
		return;
	}
	y = k->y + t0 * k->ldy + r0;
	c->k->matmul(&k->lin->mat, k->expert, k->x, idx, nr, r0, r1, y, k->ldy, k->flags);
	cpu_add_bias(c, k->lin, k->expert, nr, r0, r1, y, k->ldy);
	if (!k->up)
		return;
	c->k->matmul(&k->up->mat, k->expert, k->x, idx, nr, r0, r1, th->up, CPU_GLU_ROWS, 0);
	cpu_add_bias(c, k->up, k->expert, nr, r0, r1, th->up, CPU_GLU_ROWS);
	for (uint32_t i = 0; i < nr; i++)
		c->k->glu(y + i * k->ldy, y + i * k->ldy, th->up + (size_t)i * CPU_GLU_ROWS, r1 - r0, glus[c->m->glu]);
	if (k->out)
		cpu_prepare_part(c, k->out, k->out_forms, k->out_row + t0, k->out_row + t0 + nr, r0, r1);
}

static void matmul_item(void *ctx, uint32_t thread, uint32_t item)
{
	struct fh_cpu *c = ctx;
	uint32_t lo = 0, hi = c->nr_tasks, r0, r1;
	const struct cpu_task *k;

	while (hi - lo > 1) { /* the last task that begins at or before the item */
		uint32_t mid = (lo + hi) / 2;

		if (c->tasks[mid].first_item <= item)
			lo = mid;
		else
			hi = mid;
	}
	k = &c->tasks[lo];
	r0 = (item - k->first_item) * k->chunk;
	r1 = r0 + k->chunk < k->lin->mat.rows ? r0 + k->chunk : k->lin->mat.rows;
	for (uint32_t t0 = 0; t0 < k->nr; t0 += CPU_TOKEN_TILE)
		matmul_tile(c, &c->threads[thread], k, t0, r0, r1);
}

static double task_ns(const struct fh_cpu *c, const struct cpu_task *k)
{
	return cpu_matmul_ns(c, &k->lin->mat, k->nr) + (k->up ? cpu_matmul_ns(c, &k->up->mat, k->nr) : 0);
}

void cpu_matmuls(struct fh_cpu *c)
{
	uint32_t items = 0;
	double ns = 0, item_ns;

	for (uint32_t i = 0; i < c->nr_tasks; i++)
		ns += task_ns(c, &c->tasks[i]);
	item_ns = fmax(ns / (c->nr_threads * ITEMS_EACH), ITEM_NS);
	for (uint32_t i = 0; i < c->nr_tasks; i++) {
		struct cpu_task *k = &c->tasks[i];
		uint32_t rows = k->lin->mat.rows, most = k->up || k->best ? CPU_GLU_ROWS : rows;
		uint32_t unit = k->out ? CPU_OUT_ROWS : FHK_PANEL;
		double chunk = c->solo ? rows : rows * item_ns / task_ns(c, k);

		chunk = fmin(fmax(chunk, FHK_PANEL), most);
		k->chunk = ((uint32_t)chunk + unit - 1) / unit * unit;
		k->first_item = items;
		items += (rows + k->chunk - 1) / k->chunk;
	}
	cpu_run(c, matmul_item, items, ns);
}

/* Where thread @i of @nr begins when the rows of @lins are shared out one after the other; *row: in the one found */
static const struct cpu_ahead *share_of(const struct cpu_ahead *a, uint32_t nr_a, uint32_t i, uint32_t nr,
					uint32_t *row)
{
	uint64_t rows = 0, at;

	for (uint32_t k = 0; k < nr_a; k++)
		rows += a[k].lin->mat.rows;
	at = rows * i / nr;
	while (nr_a-- > 1 && at >= a->lin->mat.rows)
		at -= (a++)->lin->mat.rows;
	*row = (uint32_t)at / FHK_PANEL * FHK_PANEL;
	return a;
}

void cpu_ahead(struct fh_cpu *c, const struct cpu_ahead *a, uint32_t nr)
{
	if (c->solo || c->nr > AHEAD_TOKENS)
		return;
	for (uint32_t i = 0; i < c->nr_threads; i++) {
		const void *from[FH_POOL_RANGES];
		uint32_t row, nr_ranges = 0;
		const struct cpu_ahead *mine = share_of(a, nr, i, c->nr_threads, &row);
		const struct cpu_lin *both[FH_POOL_RANGES] = {mine->lin, mine->up};
		size_t share = mine->lin->mat.expert_bytes / c->nr_threads, bytes;

		for (; nr_ranges < FH_POOL_RANGES && both[nr_ranges]; nr_ranges++) {
			const struct fhk_mat *m = &both[nr_ranges]->mat;

			from[nr_ranges] = (const uint8_t *)m->data + mine->expert * m->expert_bytes +
					  m->expert_bytes / m->rows * row;
		}
		bytes = c->ahead_bytes / nr_ranges;
		fh_pool_ahead(c->pool, i, from, nr_ranges, bytes < share ? bytes : share);
	}
}

static void ahead_of_layer(struct fh_cpu *c, const struct cpu_layer *l)
{
	const struct cpu_ahead qkv[] = {{.lin = &l->q}, {.lin = &l->k}, {.lin = &l->v}};

	cpu_ahead(c, qkv, 3);
}

void cpu_ahead_of_next(struct fh_cpu *c)
{
	const struct cpu_ahead out = {.lin = &c->output};

	if (c->layer_index + 1 < c->m->nr_layers)
		ahead_of_layer(c, c->layer + 1);
	else
		cpu_ahead(c, &out, 1);
}

/* y = lin(x), or += with FHK_ADD, for all tokens, as one more task of the phase. */
static void add_task(struct fh_cpu *c, const struct cpu_lin *lin, const struct cpu_lin *up, const struct fhk_act *x,
		     uint32_t nr, float *y, size_t ldy, unsigned int flags)
{
	c->tasks[c->nr_tasks++] =
		(struct cpu_task){.lin = lin, .up = up, .x = x, .nr = nr, .y = y, .ldy = ldy, .flags = flags};
}

static void embed(struct fh_cpu *c, uint32_t t)
{
	const struct fh_tensor *e = c->m->token_embd;
	const struct fh_batch_seq *s = &c->b->seqs[c->token_seq[t]];
	uint32_t id = c->b->tokens[t], nr_pairs = c->m->rope.nr_pairs;
	float *x = c->x + (size_t)t * c->ld_x, *cs = c->rope + (size_t)t * nr_pairs * 2;
	double pos = (double)s->pos + (t - s->q_start);

	if (id == FH_TOKEN_PREV)
		id = c->prev[s->seq];
	fhk_dequant(e->type, (const uint8_t *)e->data + e->bytes / c->m->nr_vocab * id, x, c->m->dim);
	if (c->m->embd_scale != 1)
		for (uint32_t i = 0; i < c->m->dim; i++)
			x[i] *= c->m->embd_scale;
	for (uint32_t i = 0; i < nr_pairs; i++) {
		cs[2 * i] = (float)(cos(pos * c->freq[i]) * c->m->rope.mscale);
		cs[2 * i + 1] = (float)(sin(pos * c->freq[i]) * c->m->rope.mscale);
	}
}

/* The norm before attention of the layer c->layer, and its activations. */
static void attn_input(struct fh_cpu *c, uint32_t t)
{
	c->k->rmsnorm(c->norm.f32 + (size_t)t * c->norm.ld, c->x + (size_t)t * c->ld_x, c->layer->attn_norm, c->m->dim,
		      c->m->norm_eps);
	cpu_prepare(c, &c->norm, c->layer->attn_forms, t);
}

static void begin_token(struct fh_cpu *c, uint32_t thread, uint32_t t)
{
	(void)thread;
	embed(c, t);
	attn_input(c, t);
}

/* Norms of heads, rotation, and into the KV cache. */
static void rope_token(struct fh_cpu *c, uint32_t thread, uint32_t t)
{
	const struct fh_batch_seq *s = &c->b->seqs[c->token_seq[t]];
	const struct fh_model *m = c->m;
	const struct cpu_layer *l = c->layer;
	const float *cs = c->rope + (size_t)t * m->rope.nr_pairs * 2;
	uint32_t pos = s->pos + (t - s->q_start), block = s->blocks[pos / FHK_KV_BLOCK], hd = m->head_dim;
	float *q = c->qkv + (size_t)t * c->ld_qkv, *k = q + c->q_dim, *v = k + c->kv_dim;

	(void)thread;
	for (uint32_t h = 0; h < m->nr_heads; h++, q += hd) {
		if (l->q_norm)
			c->k->rmsnorm(q, q, l->q_norm, hd, m->norm_eps);
		c->k->rope(q, cs, m->rope.nr_pairs, m->rope.interleaved);
	}
	for (uint32_t h = 0; h < m->nr_kv_heads; h++, k += hd, v += hd) {
		if (l->k_norm)
			c->k->rmsnorm(k, k, l->k_norm, hd, m->norm_eps);
		c->k->rope(k, cs, m->rope.nr_pairs, m->rope.interleaved);
		c->k->kv_append(c->kv_type, hd, pos % FHK_KV_BLOCK, cpu_kv_head(c, block, c->layer_index, h, false),
				cpu_kv_head(c, block, c->layer_index, h, true), k, v);
	}
}

/* x += norm(y) */
static void add_normed(struct fh_cpu *c, const float *w, uint32_t t)
{
	float *x = c->x + (size_t)t * c->ld_x, *y = c->y + (size_t)t * c->ld_x;

	c->k->rmsnorm(y, y, w, c->m->dim, c->m->norm_eps);
	c->k->axpy(x, 1, y, c->m->dim);
}

/* Between attention and the feed-forward. */
static void mid_token(struct fh_cpu *c, uint32_t thread, uint32_t t)
{
	if (c->layer->attn_post_norm)
		add_normed(c, c->layer->attn_post_norm, t);
	c->k->rmsnorm(c->norm.f32 + (size_t)t * c->norm.ld, c->x + (size_t)t * c->ld_x, c->layer->ffn_norm, c->m->dim,
		      c->m->norm_eps);
	cpu_prepare(c, &c->norm, c->layer->ffn_forms, t);
	if (c->m->nr_experts)
		cpu_moe_route(c, thread, t);
}

/* After the feed-forward: its residual sum, then the next layer's input if there is one. */
static void end_token(struct fh_cpu *c, uint32_t thread, uint32_t t)
{
	const struct cpu_layer *done = c->layer;

	(void)thread;
	if (c->m->nr_experts)
		cpu_moe_sum(c, t);
	else if (done->ffn_post_norm)
		add_normed(c, done->ffn_post_norm, t);
	if (c->layer_index + 1 < c->m->nr_layers) {
		c->k->rmsnorm(c->norm.f32 + (size_t)t * c->norm.ld, c->x + (size_t)t * c->ld_x, done[1].attn_norm,
			      c->m->dim, c->m->norm_eps);
		cpu_prepare(c, &c->norm, done[1].attn_forms, t);
	}
}

static void feed_forward(struct fh_cpu *c)
{
	const struct cpu_layer *l = c->layer;
	const struct cpu_ahead down = {.lin = &l->down};
	bool post = l->ffn_post_norm;

	c->nr_tasks = 0;
	add_task(c, &l->gate, &l->up, &c->norm, c->nr, c->h.f32, c->h.ld, 0);
	c->tasks[0].out = &c->h;
	c->tasks[0].out_forms = l->down_forms;
	cpu_ahead(c, &down, 1);
	cpu_matmuls(c);
	c->nr_tasks = 0;
	add_task(c, &l->down, NULL, &c->h, c->nr, post ? c->y : c->x, c->ld_x, post ? 0 : FHK_ADD);
	cpu_ahead_of_next(c);
	cpu_matmuls(c);
}

/* After the last attention, only tokens whose logits are wanted go on: move them together. */
static void keep_outs(struct fh_cpu *c)
{
	for (uint32_t i = 0; i < c->nr_outs; i++) {
		size_t from = c->outs[i].token;

		c->outs[i].row = i; /* they ascend, so nothing is overwritten before it is read */
		if (from == i)
			continue;
		memcpy(c->x + (size_t)i * c->ld_x, c->x + from * c->ld_x, sizeof(float) * c->m->dim);
		memcpy(c->att.f32 + (size_t)i * c->att.ld, c->att.f32 + from * c->att.ld, sizeof(float) * c->q_dim);
	}
	c->nr = c->nr_outs;
}

static void run_layer(struct fh_cpu *c)
{
	const struct cpu_layer *l = c->layer;
	const struct cpu_ahead o = {.lin = &l->o}, gate_up = {.lin = &l->gate, .up = &l->up};
	bool post = l->attn_post_norm, last = c->layer_index + 1 == c->m->nr_layers && !c->nr_pooled;

	c->nr_tasks = 0;
	add_task(c, &l->q, NULL, &c->norm, c->nr, c->qkv, c->ld_qkv, 0);
	add_task(c, &l->k, NULL, &c->norm, c->nr, c->qkv + c->q_dim, c->ld_qkv, 0);
	add_task(c, &l->v, NULL, &c->norm, c->nr, c->qkv + c->q_dim + c->kv_dim, c->ld_qkv, 0);
	cpu_ahead(c, &o, 1);
	cpu_matmuls(c);
	cpu_tokens(c, rope_token, c->nr, (c->q_dim + 2 * c->kv_dim) * 0.5);
	if (last && !c->nr_outs)
		return; /* the keys and values were all that was asked for */
	cpu_attend(c, !last);
	if (last) {
		keep_outs(c);
		cpu_prepare_att(c);
	}
	c->nr_tasks = 0;
	add_task(c, &l->o, NULL, &c->att, c->nr, post ? c->y : c->x, c->ld_x, post ? 0 : FHK_ADD);
	if (!c->m->nr_experts)
		cpu_ahead(c, &gate_up, 1);
	cpu_matmuls(c);
	cpu_tokens(c, mid_token, c->nr,
		   c->m->dim * 0.5 + (l->router.mat.rows ? cpu_matmul_ns(c, &l->router.mat, 1) : 0));
	if (c->m->nr_experts)
		cpu_moe(c);
	else
		feed_forward(c);
	cpu_tokens(c, end_token, c->nr, c->m->dim * 0.5);
}

void cpu_step(struct fh_cpu *c)
{
	double ns = fmax(c->token_macs_ns * c->nr, c->token_bytes_ns) + cpu_attend_ns(c) * c->m->nr_layers;

	c->solo = c->nr_threads == 1 || ns < SOLO_NS;
	c->layer = c->layers;
	c->layer_index = 0;
	ahead_of_layer(c, c->layers);
	cpu_tokens(c, begin_token, c->nr, c->m->dim * 1.0 + c->m->rope.nr_pairs * 30);
	for (; c->layer_index < c->m->nr_layers; c->layer_index++, c->layer++)
		run_layer(c);
	cpu_output(c);
}
