// SPDX-License-Identifier: Apache-2.0
/*
 * bench-gpu: attention by itself, and a whole decode step of an 8B model
 * (32 layers, 4,096 wide, 32 query and 8 KV heads of 128, 14,336, 128,256
 * tokens) as one graph, with weights of one type throughout.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tests/gpu/bench_gpu.h"

#define LAYERS 32u
#define DIM 4096u
#define FFN 14336u
#define HEADS 32u
#define KV_HEADS 8u
#define HEAD 128u
#define QKV ((HEADS + 2 * KV_HEADS) * HEAD)
#define VOCAB 128256u

struct step {
	uint32_t type, nr, context, nr_items;
	struct fhk_cu_kv kv; /* of layer 0 */
	uint64_t plan, tokens, seqs, blocks, items, outs, count, partial;
	uint64_t x, y, qkv, att, h, logits, cs, norm, sampled, slots, prev;
	struct fhk_cu_act act, h_act;
	uint64_t layers[LAYERS], head, table; /* a layer's matrices lie one after the other */
};

/* Plans of @nr sequences that decode at position @context - 1. False: their cache does not fit. */
static bool make_plan(struct step *s, uint32_t layers)
{
	uint32_t each = s->context / 32, splits = (s->context - 1) / FHK_CU_SPLIT + 1;
	struct fhk_cu_plan plan = {.nr_tokens = s->nr, .nr_seqs = s->nr, .nr_outs = s->nr, .nr_items = s->nr * splits};
	struct fhk_cu_token *tokens = host_alloc(sizeof(*tokens) * s->nr);
	struct fhk_cu_seq *seqs = host_alloc(sizeof(*seqs) * s->nr);
	struct fhk_cu_out *outs = host_alloc(sizeof(*outs) * s->nr);
	struct fhk_cu_item *items = host_alloc(sizeof(*items) * s->nr * splits);
	uint32_t *blocks = host_alloc(sizeof(*blocks) * s->nr * each);
	size_t bytes;

	for (uint32_t i = 0; i < s->nr; i++) {
		tokens[i] = (struct fhk_cu_token){.id = i, .seq = i, .pos = s->context - 1, .part = i * splits};
		seqs[i] = (struct fhk_cu_seq){i, i, 1, s->context - 1, i * each, each, i, 0};
		outs[i] = (struct fhk_cu_out){.token = i, .flags = FHK_CU_OUT_SAMPLE};
		for (uint32_t k = 0; k < splits; k++)
			items[i * splits + k] = (struct fhk_cu_item){i, 1, i, k};
		for (uint32_t k = 0; k < each; k++)
			blocks[i * each + k] = k * s->nr + i;
	}
	s->kv = (struct fhk_cu_kv){.head_bytes = fhk_cu_kv_head_bytes(FHK_F16, HEAD),
				   .type = FHK_F16,
				   .head_dim = HEAD,
				   .nr_heads = HEADS,
				   .nr_kv_heads = KV_HEADS};
	s->kv.block_bytes = (uint64_t)layers * 2 * KV_HEADS * s->kv.head_bytes;
	bytes = s->kv.block_bytes * s->nr * each;
	if (bytes + ((size_t)2 << 30) > cuda_free_bytes())
		return false;
	s->kv.base = gpu_alloc(bytes);
	bench_fill(s->kv.base, bytes);
	s->nr_items = plan.nr_items;
	s->plan = gpu_up(&plan, sizeof(plan));
	s->tokens = gpu_up(tokens, sizeof(*tokens) * s->nr);
	s->seqs = gpu_up(seqs, sizeof(*seqs) * s->nr);
	s->outs = gpu_up(outs, sizeof(*outs) * s->nr);
	s->items = gpu_up(items, sizeof(*items) * plan.nr_items);
	s->blocks = gpu_up(blocks, sizeof(*blocks) * s->nr * each);
	s->count = s->plan; /* nr_tokens */
	s->partial = gpu_alloc((size_t)plan.nr_items * HEADS * fhk_cu_partial_floats(HEAD) * 4);
	return true;
}

static struct fhk_cu_act make_act(uint32_t rows, uint32_t cols)
{
	return (struct fhk_cu_act){.q8 = gpu_zero((size_t)rows * cols),
				   .q8d = gpu_zero((size_t)rows * cols / 4),
				   .bf16 = gpu_zero((size_t)rows * cols * 2)};
}

/* Only what matrices of the type read. */
static struct fhk_cu_act wanted(const struct step *s, struct fhk_cu_act a)
{
	if (s->type == FHK_BF16)
		a.q8 = a.q8d = 0;
	else
		a.bf16 = 0;
	return a;
}

static void attend(const struct step *s, uint32_t layer)
{
	struct fhk_cu_attn_args a = {.plan = s->plan,
				     .tokens = s->tokens,
				     .seqs = s->seqs,
				     .blocks = s->blocks,
				     .items = s->items,
				     .q = s->qkv,
				     .partial = s->partial,
				     .out = s->att,
				     .kv = s->kv,
				     .ldq = QKV,
				     .ld_out = HEADS * HEAD,
				     .scale = 0.088f};
	struct fhk_cu_combine_args c = {.plan = s->plan,
					.tokens = s->tokens,
					.partial = s->partial,
					.out = s->att,
					.act = wanted(s, s->act),
					.nr_heads = HEADS,
					.head_dim = HEAD,
					.ld_out = HEADS * HEAD};

	a.kv.base += (uint64_t)layer * 2 * KV_HEADS * s->kv.head_bytes;
	gpu_launch(fhk_cu_attn_name(FHK_F16, 8),
		   fhk_cu_attn_grid(s->nr_items, KV_HEADS, HEADS / KV_HEADS, 1, HEAD, cuda_nr_sms() * 4), &a);
	gpu_launch(FHK_CU_COMBINE, fhk_cu_combine_grid(s->nr), &c);
}

static void multiply(const struct step *s, uint64_t w, uint64_t w2, const struct fhk_cu_act *x, uint64_t y,
		     uint32_t rows, uint32_t cols, uint32_t flags)
{
	uint32_t tile = fhk_cu_mm_tile(s->nr);
	struct fhk_cu_mm_args a = {.w = w,
				   .w2 = w2,
				   .x = s->type == FHK_BF16 ? x->bf16 : x->q8,
				   .xd = x->q8d,
				   .y = y,
				   .nr = s->count,
				   .unit_stride = fhk_cu_unit_bytes(s->type, cols),
				   .rows = rows,
				   .cols = cols,
				   .ldy = rows,
				   .flags = flags};
	char name[32];

	gpu_launch(fhk_cu_mm_name(s->type, tile, name), fhk_cu_mm_grid(s->type, rows, tile, s->nr, 0), &a);
}

static void norm(const struct step *s, uint64_t rows)
{
	struct fhk_cu_norm_args a = {.nr = s->count,
				     .rows = rows,
				     .x = s->x,
				     .w = s->norm,
				     .out = wanted(s, s->act),
				     .dim = DIM,
				     .ld = DIM,
				     .eps = 1e-5f};

	gpu_launch(FHK_CU_NORM, fhk_cu_norm_grid(s->nr), &a);
}

static uint64_t mat(const struct step *s, uint32_t rows, uint32_t cols)
{
	return fhk_cu_mat_bytes(s->type, rows, cols);
}

static void run_layer(const struct step *s, uint32_t layer)
{
	uint64_t qkv = s->layers[layer], o = qkv + mat(s, QKV, DIM), gate = o + mat(s, DIM, HEADS * HEAD);
	uint64_t up = gate + mat(s, FFN, DIM), down = up + mat(s, FFN, DIM);
	struct fhk_cu_rope_kv_args r = {.plan = s->plan,
					.tokens = s->tokens,
					.seqs = s->seqs,
					.blocks = s->blocks,
					.qkv = s->qkv,
					.cs = s->cs,
					.kv = s->kv,
					.ld = QKV,
					.nr_pairs = HEAD / 2};
	struct fhk_cu_act_args h = {
		.nr = s->count, .gate = s->h, .out = wanted(s, s->h_act), .cols = FFN, .ld = FFN, .scale_nr = 1};

	r.kv.base += (uint64_t)layer * 2 * KV_HEADS * s->kv.head_bytes;
	norm(s, 0);
	multiply(s, qkv, 0, &s->act, s->qkv, QKV, DIM, 0);
	gpu_launch(FHK_CU_ROPE_KV, fhk_cu_rope_kv_grid(s->nr, HEADS, KV_HEADS), &r);
	attend(s, layer);
	multiply(s, o, 0, &s->act, s->x, DIM, HEADS * HEAD, FHK_CU_MM_ADD);
	norm(s, 0);
	multiply(s, gate, up, &s->act, s->h, FFN, DIM, FHK_CU_MM_GLU);
	gpu_launch(FHK_CU_ACT, fhk_cu_act_grid(s->nr), &h);
	multiply(s, down, 0, &s->h_act, s->x, DIM, FFN, FHK_CU_MM_ADD);
}

static void run_step(const struct step *s)
{
	struct fhk_cu_embed_args e = {.plan = s->plan,
				      .tokens = s->tokens,
				      .seqs = s->seqs,
				      .prev = s->prev,
				      .table = s->table,
				      .freq = s->norm,
				      .x = s->x,
				      .cs = s->cs,
				      .type = FHK_BF16,
				      .nr_vocab = 64,
				      .dim = DIM,
				      .ld = DIM,
				      .nr_pairs = HEAD / 2,
				      .scale = 1,
				      .mscale = 1};
	struct fhk_cu_sample_args p = {.plan = s->plan,
				       .outs = s->outs,
				       .adj = s->plan,
				       .logits = s->logits,
				       .sampled = s->sampled,
				       .nr_vocab = VOCAB,
				       .ld = VOCAB};

	gpu_launch(FHK_CU_EMBED, fhk_cu_embed_grid(s->nr), &e);
	for (uint32_t l = 0; l < LAYERS; l++)
		run_layer(s, l);
	norm(s, s->outs);
	multiply(s, s->head, 0, &s->act, s->logits, VOCAB, DIM, 0);
	gpu_launch(FHK_CU_SAMPLE, fhk_cu_sample_grid(s->nr, VOCAB), &p);
}

static void make_buffers(struct step *s)
{
	s->x = gpu_zero((size_t)s->nr * DIM * 4);
	s->qkv = gpu_zero((size_t)s->nr * QKV * 4);
	s->att = gpu_zero((size_t)s->nr * HEADS * HEAD * 4);
	s->h = gpu_zero((size_t)s->nr * FFN * 4);
	s->logits = gpu_alloc((size_t)s->nr * VOCAB * 4);
	s->cs = gpu_zero((size_t)s->nr * HEAD * 4);
	s->norm = gpu_zero(DIM * 8);
	s->table = gpu_zero((size_t)64 * DIM * 2);
	s->sampled = gpu_zero((size_t)s->nr * 4);
	s->prev = gpu_zero((size_t)s->nr * 4);
	s->act = make_act(s->nr, DIM);
	s->h_act = make_act(s->nr, FFN);
}

void bench_attention(void)
{
	static const uint32_t nrs[] = {1, 8, 64}, contexts[] = {4096, 32768};

	printf("\nattention of one layer, 32 heads on 8 of 128, F16: us, share of read bandwidth\n");
	for (uint32_t i = 0; i < 3; i++) {
		for (uint32_t k = 0; k < 2; k++) {
			struct step s = {.type = FHK_BF16, .nr = nrs[i], .context = contexts[k]};
			uint32_t layers = 1 + (uint32_t)((512ull << 20) / ((uint64_t)nrs[i] * contexts[k] * 4096));
			double seconds, bytes = (double)nrs[i] * contexts[k] * KV_HEADS * HEAD * 4;

			if (make_plan(&s, layers)) {
				make_buffers(&s);
				attend(&s, 0);
				cuda_capture();
				for (uint32_t l = 0; l < layers; l++)
					attend(&s, l);
				seconds = cuda_time(cuda_captured(), 10) / layers;
				printf("batch %2u context %5u  %8.1f us  %3.0f%%\n", s.nr, s.context, seconds * 1e6,
				       100 * bytes / seconds / limit_read);
			} else {
				printf("batch %2u context %5u  does not fit\n", s.nr, s.context);
			}
			gpu_end_test();
		}
	}
}

static void bench_one(uint32_t type, uint32_t nr, uint32_t context)
{
	struct step s = {.type = type, .nr = nr, .context = context};
	uint64_t layer = mat(&s, QKV, DIM) + mat(&s, DIM, HEADS * HEAD) + 2 * mat(&s, FFN, DIM) + mat(&s, DIM, FFN);
	double bytes =
		(double)layer * LAYERS + mat(&s, VOCAB, DIM) + (double)nr * context * LAYERS * KV_HEADS * HEAD * 4;
	double seconds;

	for (uint32_t l = 0; l < LAYERS; l++) {
		s.layers[l] = gpu_alloc(layer);
		bench_fill(s.layers[l], layer);
	}
	s.head = gpu_alloc(mat(&s, VOCAB, DIM));
	bench_fill(s.head, mat(&s, VOCAB, DIM));
	if (make_plan(&s, LAYERS)) {
		make_buffers(&s);
		run_step(&s);
		cuda_capture();
		run_step(&s);
		seconds = cuda_time(cuda_captured(), 20);
		printf("%-6s batch %2u context %5u  %8.3f ms  %7.0f tokens/s  %3.0f%% of read bandwidth\n",
		       type_name(type), nr, context, seconds * 1e3, nr / seconds, 100 * bytes / seconds / limit_read);
		fflush(stdout);
	}
	gpu_end_test();
}

void bench_step(void)
{
	static const uint32_t types[] = {FHK_BF16, FHK_Q8_0, FHK_Q4_K};

	printf("\na decode step of an 8B model as one graph, greedy\n");
	for (uint32_t t = 0; t < 3; t++) {
		bench_one(types[t], 1, 128);
		bench_one(types[t], 1, 4096);
		bench_one(types[t], 8, 4096);
		bench_one(types[t], 64, 1024);
	}
}
