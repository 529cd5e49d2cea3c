// SPDX-License-Identifier: Apache-2.0
/*
 * Rotation, the cache, and attention: some sequences with blocks scattered over
 * the cache, as they decode (in splits), and as the end of a prompt (an item
 * does all splits), against kernels/ref on the keys and values that the cache
 * holds.  Both ways, and both sizes of block, have to give the same bits.
 */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "kernels/half.h"
#include "kernels/kernels.h"
#include "tests/gpu/gpu.h"

#define MAX_SEQS 4
#define MAX_TOKENS 64

struct rig {
	uint32_t kv_type, hd, heads, kv_heads, window, nr_seqs, nr_tokens, nr_blocks, ld, nr_pairs, interleaved;
	float softcap, scale;
	bool sinks, norms;
	struct fhk_cu_seq seqs[MAX_SEQS];
	struct fhk_cu_token tokens[MAX_TOKENS];
	uint32_t *blocks; /* [nr_blocks] of all sequences, a permutation */
	struct fhk_cu_kv kv;
	uint64_t cache, qkv_dev, sinks_dev;
	size_t cache_bytes;
	float *qkv, *cs, *sink, *qn, *kn;
	float *k, *v; /* [seq positions laid end to end][kv_heads][hd]: what the cache holds */
	size_t first[MAX_SEQS];
};

static void make_shape(struct rig *r, uint32_t kv_type)
{
	uint32_t limit = check_small ? 300 : 1100, positions = 0, shuffle;

	r->kv_type = kv_type;
	r->hd = 8 * rnd_in(1, rnd_below(3) ? 16 : 32);
	r->kv_heads = rnd_in(1, 3);
	r->heads = r->kv_heads * rnd_in(1, rnd_below(4) ? 5 : 19);
	r->ld = (r->heads + 2 * r->kv_heads) * r->hd + 3;
	r->window = rnd_below(2) ? 0 : rnd_in(1, limit);
	r->softcap = rnd_below(2) ? 0 : 20;
	r->sinks = rnd_below(2);
	r->norms = rnd_below(2);
	r->nr_pairs = rnd_in(1, r->hd / 2);
	r->interleaved = rnd_below(2);
	r->scale = 1 / sqrtf((float)r->hd);
	r->nr_seqs = rnd_in(1, MAX_SEQS);
	r->nr_tokens = r->nr_blocks = 0;
	for (uint32_t i = 0; i < r->nr_seqs; i++) {
		struct fhk_cu_seq *s = &r->seqs[i];

		*s = (struct fhk_cu_seq){.slot = i, .q_start = r->nr_tokens, .pos = rnd_below(limit)};
		s->q_len = rnd_in(1, 9);
		s->block_off = r->nr_blocks;
		s->nr_blocks = (s->pos + s->q_len + 31) / 32;
		r->nr_blocks += s->nr_blocks;
		r->first[i] = positions;
		positions += s->nr_blocks * 32;
		for (uint32_t t = 0; t < s->q_len; t++)
			r->tokens[r->nr_tokens++] = (struct fhk_cu_token){.seq = i, .pos = s->pos + t};
	}
	r->blocks = host_alloc(sizeof(uint32_t) * r->nr_blocks);
	for (uint32_t i = 0; i < r->nr_blocks; i++) {
		shuffle = rnd_below(i + 1);
		r->blocks[i] = r->blocks[shuffle];
		r->blocks[shuffle] = i;
	}
	r->k = host_alloc(sizeof(float) * positions * r->kv_heads * r->hd);
	r->v = host_alloc(sizeof(float) * positions * r->kv_heads * r->hd);
}

/* A row of the cache as f32 */
static void cache_row(const struct rig *r, const uint8_t *head, uint32_t slot, float *out)
{
	const uint16_t *scales = (const uint16_t *)(head + 32 * r->hd);

	for (uint32_t c = 0; c < r->hd; c++) {
		const uint8_t *p = head + 2 * ((size_t)slot * r->hd + c);

		if (r->kv_type == FHK_Q8_0)
			out[c] = (float)((const int8_t *)head)[slot * r->hd + c] *
				 fhk_f16_f32(scales[slot * ((r->hd + 31) / 32) + c / 32]);
		else
			out[c] = r->kv_type == FHK_BF16 ? fhk_bf16_f32(fhk_ld16(p)) : fhk_f16_f32(fhk_ld16(p));
	}
}

static const uint8_t *cache_head(const struct rig *r, const uint8_t *cache, uint32_t block, uint32_t head, bool value)
{
	return cache + block * r->kv.block_bytes + (r->kv.base - r->cache) +
	       (size_t)(head + (value ? r->kv_heads : 0)) * r->kv.head_bytes;
}

static uint8_t *random_cache(const struct rig *r)
{
	uint8_t *cache = host_alloc(r->cache_bytes);
	uint32_t hd = r->hd;

	for (size_t h = 0; h < r->cache_bytes / r->kv.head_bytes; h++) {
		uint8_t *head = cache + h * r->kv.head_bytes;

		for (uint32_t i = 0; i < 32 * hd; i++) {
			float v = rnd_float();
			uint16_t half = r->kv_type == FHK_BF16 ? fhk_f32_bf16(v) : fhk_f32_f16(v);

			if (r->kv_type == FHK_Q8_0)
				head[i] = (uint8_t)(rnd() >> 24);
			else
				memcpy(head + 2 * i, &half, 2);
		}
		for (uint32_t i = 0; i < 32 * ((hd + 31) / 32) && r->kv_type == FHK_Q8_0; i++) {
			uint16_t half = fhk_f32_f16((0.5f + (float)rnd_below(100) / 100) / 64);

			memcpy(head + 32 * hd + 2 * i, &half, 2);
		}
	}
	return cache;
}

/* What comes after a sequence's end in its last block was never written: no numbers, here. */
static void spoil_ends(const struct rig *r, uint8_t *cache)
{
	uint32_t hd = r->hd, nr_scales = (hd + 31) / 32;

	for (uint32_t i = 0; i < r->nr_seqs; i++) {
		const struct fhk_cu_seq *s = &r->seqs[i];
		uint32_t slot = (s->pos + s->q_len) % 32, block = r->blocks[s->block_off + s->nr_blocks - 1];

		for (uint32_t h = 0; h < 2 * r->kv_heads && slot; h++) {
			uint8_t *head =
				cache + block * r->kv.block_bytes + (2 * (size_t)r->kv_heads + h) * r->kv.head_bytes;

			if (r->kv_type == FHK_Q8_0)
				memset(head + 32 * hd + 2 * slot * nr_scales, 0xff,
				       (size_t)(32 - slot) * nr_scales * 2);
			else
				memset(head + 2 * slot * hd, 0xff, (size_t)(32 - slot) * hd * 2);
		}
	}
}

/* Two layers, of which ours is the second. */
static void make_cache(struct rig *r)
{
	uint32_t layer;
	uint8_t *cache;

	r->kv.head_bytes = fhk_cu_kv_head_bytes(r->kv_type, r->hd);
	layer = 2 * r->kv_heads * r->kv.head_bytes;
	r->kv.block_bytes = 2 * layer;
	r->cache_bytes = r->kv.block_bytes * r->nr_blocks;
	cache = random_cache(r);
	spoil_ends(r, cache);
	r->cache = gpu_up(cache, r->cache_bytes);
	r->kv.base = r->cache + layer;
	r->kv.type = r->kv_type;
	r->kv.head_dim = r->hd;
	r->kv.nr_heads = r->heads;
	r->kv.nr_kv_heads = r->kv_heads;
	r->qkv = rnd_floats((size_t)r->nr_tokens * r->ld, 1);
	r->cs = rnd_floats((size_t)r->nr_tokens * r->nr_pairs * 2, 0.7f);
	r->sink = rnd_floats(r->heads, 1);
	r->qn = rnd_floats(r->hd, 1);
	r->kn = rnd_floats(r->hd, 1);
}

static uint64_t plan_up(const struct rig *r, uint32_t nr_items)
{
	struct fhk_cu_plan plan = {.nr_tokens = r->nr_tokens, .nr_seqs = r->nr_seqs, .nr_items = nr_items};

	return gpu_up(&plan, sizeof(plan));
}

static void append(struct rig *r)
{
	struct fhk_cu_rope_kv_args a = {
		.plan = plan_up(r, 0),
		.tokens = gpu_up(r->tokens, sizeof(r->tokens[0]) * r->nr_tokens),
		.seqs = gpu_up(r->seqs, sizeof(r->seqs[0]) * r->nr_seqs),
		.blocks = gpu_up(r->blocks, sizeof(uint32_t) * r->nr_blocks),
		.qkv = gpu_up(r->qkv, sizeof(float) * r->nr_tokens * r->ld),
		.cs = gpu_up(r->cs, sizeof(float) * r->nr_tokens * r->nr_pairs * 2),
		.q_norm = r->norms ? gpu_up(r->qn, sizeof(float) * r->hd) : 0,
		.k_norm = r->norms ? gpu_up(r->kn, sizeof(float) * r->hd) : 0,
		.kv = r->kv,
		.ld = r->ld,
		.nr_pairs = r->nr_pairs,
		.interleaved = r->interleaved,
		.eps = 1e-5f,
	};

	gpu_launch(FHK_CU_ROPE_KV, fhk_cu_rope_kv_grid(r->nr_tokens + 1, r->heads, r->kv_heads), &a);
	r->qkv_dev = a.qkv;
}

/* q, k and v of a token as the reference has them */
static void ref_rope(const struct rig *r, uint32_t t, float *x)
{
	const float *cs = r->cs + (size_t)t * r->nr_pairs * 2;

	for (uint32_t h = 0; h < r->heads + r->kv_heads; h++, x += r->hd) {
		if (r->norms)
			fhk_ref.rmsnorm(x, x, h < r->heads ? r->qn : r->kn, r->hd, 1e-5f);
		fhk_ref.rope(x, cs, r->nr_pairs, r->interleaved);
	}
}

/* Largest error of a row by its largest value */
static double row_error(const float *a, const float *b, uint32_t n)
{
	double max = 1e-9, worst = 0;

	for (uint32_t i = 0; i < n; i++) {
		max = fmax(max, fabs((double)b[i]));
		worst = a[i] == a[i] ? fmax(worst, fabs((double)a[i] - b[i])) : INFINITY;
	}
	return worst / max;
}

static double kv_limit(const struct rig *r)
{
	return r->kv_type == FHK_F16 ? 0x1p-11 : r->kv_type == FHK_BF16 ? 0x1p-8 : 1 / 250.0;
}

/* Rotated queries, and keys and values that have come into the cache: and then all that it holds, to r->k, r->v. */
static void check_append(struct rig *r)
{
	float *qkv, *row = host_alloc(sizeof(float) * r->hd);
	double q_error = 0, kv_error = 0;
	uint8_t *cache;
	size_t q = (size_t)r->heads * r->hd;

	append(r);
	qkv = gpu_down(r->qkv_dev, sizeof(float) * r->nr_tokens * r->ld);
	cache = gpu_down(r->cache, r->cache_bytes);
	for (uint32_t t = 0; t < r->nr_tokens; t++) {
		const struct fhk_cu_seq *s = &r->seqs[r->tokens[t].seq];
		uint32_t pos = r->tokens[t].pos, block = r->blocks[s->block_off + pos / 32];
		float *x = r->qkv + (size_t)t * r->ld;

		ref_rope(r, t, x);
		q_error = fmax(q_error, rel_error(qkv + (size_t)t * r->ld, x, q, 1));
		for (uint32_t h = 0; h < 2 * r->kv_heads; h++) {
			cache_row(r, cache_head(r, cache, block, h % r->kv_heads, h >= r->kv_heads), pos % 32, row);
			kv_error = fmax(kv_error, row_error(row, x + q + (size_t)h * r->hd, r->hd));
		}
	}
	check("rope_kv, queries", q_error, 3e-6);
	check("rope_kv, cache", kv_error, kv_limit(r));
	for (uint32_t i = 0; i < r->nr_seqs; i++) {
		for (uint32_t p = 0; p < r->seqs[i].nr_blocks * 32; p++) {
			uint32_t block = r->blocks[r->seqs[i].block_off + p / 32];

			for (uint32_t h = 0; h < r->kv_heads; h++) {
				size_t at = ((r->first[i] + p) * r->kv_heads + h) * r->hd;

				cache_row(r, cache_head(r, cache, block, h, false), p % 32, r->k + at);
				cache_row(r, cache_head(r, cache, block, h, true), p % 32, r->v + at);
			}
		}
	}
}

/* ---- attention ---- */

/* Items for sequence @i: in splits, or @queries at a time over all of them. */
static uint32_t add_items(struct rig *r, uint32_t i, bool splits, uint32_t queries, struct fhk_cu_item *items,
			  uint32_t *rows)
{
	const struct fhk_cu_seq *s = &r->seqs[i];
	uint32_t nr = 0, nr_splits = (s->pos + s->q_len - 1) / FHK_CU_SPLIT + 1;

	for (uint32_t t = 0; t < s->q_len; t++) {
		r->tokens[s->q_start + t].part = splits ? *rows : FHK_CU_NONE;
		if (splits)
			*rows += r->tokens[s->q_start + t].pos / FHK_CU_SPLIT + 1;
	}
	for (uint32_t k = 0; splits && k < nr_splits; k++)
		items[nr++] = (struct fhk_cu_item){s->q_start, s->q_len, i, k};
	for (uint32_t t = 0; !splits && t < s->q_len; t += queries)
		items[nr++] = (struct fhk_cu_item){s->q_start + t, s->q_len - t < queries ? s->q_len - t : queries, i,
						   FHK_CU_NONE};
	return nr;
}

/* out: [nr_tokens, heads * hd]. @how: bit i: sequence i in splits */
static float *attend(struct rig *r, uint32_t how, uint32_t queries, uint32_t pairs, uint32_t max_blocks)
{
	struct fhk_cu_item items[MAX_TOKENS + MAX_SEQS * 8];
	uint32_t nr = 0, rows = 0, cols = r->heads * r->hd, group = r->heads / r->kv_heads;
	struct fhk_cu_attn_args a;
	struct fhk_cu_combine_args c;
	struct fhk_cu_grid g;

	for (uint32_t i = 0; i < r->nr_seqs; i++)
		nr += add_items(r, i, how >> i & 1, queries, items + nr, &rows);
	a = (struct fhk_cu_attn_args){
		.plan = plan_up(r, nr),
		.tokens = gpu_up(r->tokens, sizeof(r->tokens[0]) * r->nr_tokens),
		.seqs = gpu_up(r->seqs, sizeof(r->seqs[0]) * r->nr_seqs),
		.blocks = gpu_up(r->blocks, sizeof(uint32_t) * r->nr_blocks),
		.items = gpu_up(items, sizeof(items[0]) * nr),
		.q = r->qkv_dev,
		.sinks = r->sinks ? gpu_up(r->sink, sizeof(float) * r->heads) : 0,
		.partial = gpu_alloc(sizeof(float) * (rows + 1) * r->heads * fhk_cu_partial_floats(r->hd)),
		.out = gpu_alloc(sizeof(float) * r->nr_tokens * cols),
		.kv = r->kv,
		.ldq = r->ld,
		.ld_out = cols,
		.window = r->window,
		.scale = r->scale,
		.softcap = r->softcap,
	};
	g = fhk_cu_attn_grid(nr, r->kv_heads, group, pairs == 8 ? 1 : 99, r->hd, max_blocks);
	if (pairs == 8 && group > 8)
		g = fhk_cu_attn_grid(nr, r->kv_heads, 1, 1, r->hd, max_blocks);
	gpu_launch(fhk_cu_attn_name(r->kv_type, pairs), g, &a);
	c = (struct fhk_cu_combine_args){
		.plan = a.plan,
		.tokens = a.tokens,
		.sinks = a.sinks,
		.partial = a.partial,
		.out = a.out,
		.act = {.f32 = gpu_zero(fhk_cu_act_bytes(offsetof(struct fhk_cu_act, f32), r->nr_tokens, cols))},
		.nr_heads = r->heads,
		.head_dim = r->hd,
		.ld_out = cols,
		.window = r->window,
	};
	gpu_launch(FHK_CU_COMBINE, fhk_cu_combine_grid(r->nr_tokens + 1), &c);
	return act_down(&c.act, FHK_F32, r->nr_tokens, cols);
}

/* One token, one KV head by kernels/ref, whose queries are rounded as ours. out: [group, hd] */
static void ref_attend(const struct rig *r, uint32_t t, uint32_t head, float *out)
{
	const struct fhk_cu_token *token = &r->tokens[t];
	uint32_t group = r->heads / r->kv_heads, hd = r->hd, nr = token->pos / FHK_ATTN_SPLIT + 1, nr_blocks;
	const void **k = host_alloc(sizeof(*k) * (token->pos / 32 + 1)),
		   **v = host_alloc(sizeof(*v) * (token->pos / 32 + 1));
	float *partial = host_alloc(sizeof(float) * nr * group * (hd + 2)), *q = host_alloc(sizeof(float) * group * hd);
	const float *from = r->qkv + (size_t)t * r->ld + (size_t)head * group * hd;
	struct fhk_attn a = {.q = q,
			     .q_ld = (size_t)group * hd,
			     .nr_q = 1,
			     .pos0 = token->pos,
			     .nr_group = group,
			     .head_dim = hd,
			     .kv_type = FHK_F32,
			     .window = r->window,
			     .scale = r->scale,
			     .softcap = r->softcap,
			     .sinks = r->sinks ? r->sink + head * group : NULL,
			     .k = k,
			     .v = v,
			     .nr_splits = nr,
			     .out = out,
			     .out_ld = (size_t)group * hd};

	for (uint32_t i = 0; i < group * hd; i++)
		q[i] = r->kv_type == FHK_BF16 ? fhk_bf16_f32(fhk_f32_bf16(from[i])) : fhk_f16_f32(fhk_f32_f16(from[i]));
	nr_blocks = token->pos / 32 + 1;
	for (uint32_t b = 0; b < nr_blocks; b++) {
		float *rows = host_alloc(sizeof(float) * 2 * 32 * hd);

		for (uint32_t i = 0; i < 32; i++) {
			size_t at = ((r->first[token->seq] + b * 32 + i) * r->kv_heads + head) * hd;

			memcpy(rows + (size_t)i * hd, r->k + at, sizeof(float) * hd);
			memcpy(rows + (size_t)(32 + i) * hd, r->v + at, sizeof(float) * hd);
		}
		k[b] = rows;
		v[b] = rows + (size_t)32 * hd;
	}
	for (a.split = 0; a.split < nr; a.split++) {
		a.partial = partial + (size_t)a.split * group * (hd + 2);
		fhk_ref.attn(&a);
	}
	if (nr > 1)
		fhk_ref.attn_combine(partial, nr, 1, group, hd, out, (size_t)group * hd);
}

static void check_attend(struct rig *r)
{
	uint32_t cols = r->heads * r->hd, all = (1u << r->nr_seqs) - 1, mixed = rnd_below(all + 1);
	uint32_t group = r->heads / r->kv_heads, queries = fhk_cu_item_queries(group), t = rnd_below(r->nr_tokens);
	size_t bytes = sizeof(float) * r->nr_tokens * cols;
	float *split = attend(r, all, queries, 16, 3), *want = host_alloc(sizeof(float) * group * r->hd);
	double error = 0;

	check_equal("attn, prompt or split", attend(r, 0, queries, 16, 100), split, bytes);
	check_equal("attn, mixed, blocks of 8", attend(r, mixed, 3, 8, 5), split, bytes);
	for (uint32_t h = 0; h < r->kv_heads; h++) {
		ref_attend(r, t, h, want);
		error = fmax(error,
			     rel_error(split + (size_t)t * cols + (size_t)h * group * r->hd, want, group * r->hd, 1));
	}
	check("attn", error, r->kv_type == FHK_BF16 ? 8e-3 : 1.5e-3);
}

void check_attn(void)
{
	static const uint32_t types[] = {FHK_F16, FHK_Q8_0, FHK_BF16};

	for (uint32_t i = 0; i < (check_small ? 6 : 18); i++) {
		struct rig r = {0};

		make_shape(&r, types[i % 3]);
		make_cache(&r);
		check_part("%s, %u/%u heads of %u, %u tokens, window %u%s%s", type_name(r.kv_type), r.heads, r.kv_heads,
			   r.hd, r.nr_tokens, r.window, r.softcap > 0 ? ", cap" : "", r.sinks ? ", sinks" : "");
		check_append(&r);
		/* The device's queries: what attention is compared with begins there. */
		gpu->from(r.qkv, r.qkv_dev, sizeof(float) * r.nr_tokens * r.ld);
		check_attend(&r);
		gpu_end_test();
	}
}
