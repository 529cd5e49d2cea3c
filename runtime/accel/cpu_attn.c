// SPDX-License-Identifier: Apache-2.0
/*
 * Attention over the paged KV cache, in items of one sequence, one KV head and
 * one tile of queries; where those are too few for the threads and the context
 * is long, also of one split of the context.
 *
 * A tile is aligned to positions and lies within one split, so the number of
 * splits that a query's result is combined from depends on its position alone.
 * Whoever finishes the last split of a tile combines them, in their order.
 */
#include "runtime/accel/cpu.h"

/* A tile's place: which head, which tokens. */
struct tile {
	uint32_t head;
	uint32_t token; /* index in the batch of its first query */
	uint32_t pos0, nr_q, nr_splits;
};

static uint32_t splits_of(uint32_t end)
{
	return (end + FHK_ATTN_SPLIT - 1) / FHK_ATTN_SPLIT;
}

static struct tile tile_at(const struct cpu_attn_seq *as, const struct fh_batch_seq *s, uint32_t i)
{
	uint32_t n = as->first_tile + i % as->nr_tiles;
	uint32_t p0 = n * as->tile, p1 = p0 + as->tile, end = s->pos + s->q_len;

	p0 = p0 > s->pos ? p0 : s->pos;
	p1 = p1 < end ? p1 : end;
	return (struct tile){
		.head = i / as->nr_tiles,
		.token = s->q_start + (p0 - s->pos),
		.pos0 = p0,
		.nr_q = p1 - p0,
		.nr_splits = splits_of(p1),
	};
}

/* Run splits s0..s1 of a tile; @partial: of all its splits, unused with one. */
static void attend_tile(struct fh_cpu *c, struct cpu_thread *th, const struct fh_batch_seq *s, const struct tile *t,
			uint32_t s0, uint32_t s1, float *partial)
{
	const struct fh_model *m = c->m;
	uint32_t hd = m->head_dim, group = m->nr_heads / m->nr_kv_heads;
	uint32_t b0 = s0 * (FHK_ATTN_SPLIT / FHK_KV_BLOCK), b1 = s1 * (FHK_ATTN_SPLIT / FHK_KV_BLOCK);
	uint32_t last = (t->pos0 + t->nr_q + FHK_KV_BLOCK - 1) / FHK_KV_BLOCK;
	struct fhk_attn a = {
		.q = c->qkv + (size_t)t->token * c->ld_qkv + (size_t)t->head * group * hd,
		.q_ld = c->ld_qkv,
		.nr_q = t->nr_q,
		.pos0 = t->pos0,
		.nr_group = group,
		.head_dim = hd,
		.kv_type = c->kv_type,
		.window = c->layer->window,
		.scale = m->attn_scale,
		.softcap = m->attn_softcap,
		.sinks = c->layer->sinks ? c->layer->sinks + t->head * group : NULL,
		.k = th->k,
		.v = th->v,
		.nr_splits = t->nr_splits,
		.out = c->att.f32 + (size_t)t->token * c->att.ld + (size_t)t->head * group * hd,
		.out_ld = c->att.ld,
		.scratch = th->attn_scratch,
	};

	for (uint32_t b = b0; b < b1 && b < last; b++) {
		th->k[b] = cpu_kv_head(c, s->blocks[b], c->layer_index, t->head, false);
		th->v[b] = cpu_kv_head(c, s->blocks[b], c->layer_index, t->head, true);
	}
	for (a.split = s0; a.split < s1; a.split++) {
		a.partial = partial + (size_t)a.split * t->nr_q * group * (hd + 2);
		c->k->attn(&a);
	}
}

static void combine_tile(struct fh_cpu *c, const struct tile *t, const float *partial)
{
	uint32_t hd = c->m->head_dim, group = c->m->nr_heads / c->m->nr_kv_heads;

	c->k->attn_combine(partial, t->nr_splits, t->nr_q, group, hd,
			   c->att.f32 + (size_t)t->token * c->att.ld + (size_t)t->head * group * hd, c->att.ld);
}

/* A tile's result is final: what follows multiplies with it. */
static void finish_tile(struct fh_cpu *c, const struct tile *t)
{
	uint32_t cols = c->m->nr_heads / c->m->nr_kv_heads * c->m->head_dim;

	if (c->att_forms)
		cpu_prepare_part(c, &c->att, c->att_forms, t->token, t->token + t->nr_q, t->head * cols,
				 (t->head + 1) * cols);
}

/* One split of a tile; the last one to finish combines. */
static void attend_split(struct fh_cpu *c, struct cpu_thread *th, const struct cpu_attn_seq *as,
			 const struct fh_batch_seq *s, uint32_t item)
{
	uint32_t i = item / as->nr_splits, split = item % as->nr_splits;
	uint32_t group = c->m->nr_heads / c->m->nr_kv_heads;
	struct tile t = tile_at(as, s, i);
	float *partial =
		c->partial + as->partial_off + (size_t)i * as->nr_splits * as->width * group * (c->m->head_dim + 2);

	if (split >= t.nr_splits)
		return;
	attend_tile(c, th, s, &t, split, split + 1, partial);
	if (t.nr_splits > 1) {
		if (atomic_fetch_sub(&c->tile_left[as->tile_id + i], 1) != 1)
			return;
		combine_tile(c, &t, partial);
	}
	finish_tile(c, &t);
}

static void attend_item(void *ctx, uint32_t thread, uint32_t item)
{
	struct fh_cpu *c = ctx;
	struct cpu_thread *th = &c->threads[thread];
	uint32_t lo = 0, hi = c->b->nr_seqs;
	const struct cpu_attn_seq *as;
	const struct fh_batch_seq *s;
	struct tile t;

	while (hi - lo > 1) {
		uint32_t mid = (lo + hi) / 2;

		if (c->attn_seqs[mid].first_item <= item)
			lo = mid;
		else
			hi = mid;
	}
	as = &c->attn_seqs[lo];
	s = &c->b->seqs[lo];
	item -= as->first_item;
	if (as->nr_splits > 1) {
		attend_split(c, th, as, s, item);
		return;
	}
	t = tile_at(as, s, item);
	attend_tile(c, th, s, &t, 0, t.nr_splits, th->partial);
	if (t.nr_splits > 1)
		combine_tile(c, &t, th->partial);
	finish_tile(c, &t);
}

/* The widest tile whose partial results fit @floats. */
static uint32_t tile_width(const struct fh_cpu *c, uint32_t nr_splits, size_t floats)
{
	size_t one = (size_t)nr_splits * (c->m->nr_heads / c->m->nr_kv_heads) * (c->m->head_dim + 2);
	uint32_t tile = CPU_QUERY_TILE;

	while (tile > 1 && tile * one > floats)
		tile /= 2;
	return tile;
}

static void set_tiles(struct cpu_attn_seq *as, const struct fh_batch_seq *s, uint32_t tile)
{
	as->tile = tile;
	as->width = tile < s->q_len ? tile : s->q_len;
	as->first_tile = s->pos / tile;
	as->nr_tiles = (s->pos + s->q_len - 1) / tile - as->first_tile + 1;
}

/* Share out the splits of @as as well, if there is memory for their partial results. */
static void try_splits(struct fh_cpu *c, struct cpu_attn_seq *as, const struct fh_batch_seq *s, uint32_t *tile_id,
		       size_t *partial)
{
	uint32_t nr = c->m->nr_kv_heads * as->nr_tiles, nr_splits = splits_of(s->pos + s->q_len);
	size_t floats =
		(size_t)nr * nr_splits * as->width * (c->m->nr_heads / c->m->nr_kv_heads) * (c->m->head_dim + 2);

	if (nr_splits < 2 || nr > c->max_tiles - *tile_id || floats > c->partial_floats - *partial)
		return;
	as->nr_splits = nr_splits;
	as->tile_id = *tile_id;
	as->partial_off = *partial;
	for (uint32_t i = 0; i < nr; i++)
		atomic_store_explicit(&c->tile_left[*tile_id + i], tile_at(as, s, i).nr_splits, memory_order_relaxed);
	*tile_id += nr;
	*partial += floats;
}

static void att_token(struct fh_cpu *c, uint32_t thread, uint32_t t)
{
	(void)thread;
	cpu_prepare(c, &c->att, c->layer->o_forms, t);
}

void cpu_prepare_att(struct fh_cpu *c)
{
	if (c->layer->o_forms)
		cpu_tokens(c, att_token, c->nr, c->q_dim * 0.2);
}

void cpu_attend(struct fh_cpu *c, bool prepare)
{
	/* A KV head's columns are whole pieces of activations, nearly always. */
	bool whole = c->m->nr_heads / c->m->nr_kv_heads * c->m->head_dim % FHK_ACT_COLS == 0;
	uint32_t kv = c->m->nr_kv_heads, nr_tiles = 0, items = 0, tile_id = 0;
	size_t partial = 0;

	for (uint32_t i = 0; i < c->b->nr_seqs; i++) {
		const struct fh_batch_seq *s = &c->b->seqs[i];
		struct cpu_attn_seq *as = &c->attn_seqs[i];

		as->nr_splits = 1;
		set_tiles(as, s, tile_width(c, splits_of(s->pos + s->q_len), c->thread_partial_floats));
		nr_tiles += kv * as->nr_tiles;
	}
	for (uint32_t i = 0; i < c->b->nr_seqs; i++) {
		struct cpu_attn_seq *as = &c->attn_seqs[i];

		if (!c->solo && nr_tiles < c->nr_threads * 4)
			try_splits(c, as, &c->b->seqs[i], &tile_id, &partial);
		as->first_item = items;
		items += kv * as->nr_tiles * as->nr_splits;
	}
	c->att_forms = prepare && whole ? c->layer->o_forms : 0;
	cpu_run(c, attend_item, items, cpu_attend_ns(c));
	if (prepare && !whole)
		cpu_prepare_att(c);
}
