/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Private to the CPU accelerator (cpu*.c): what it keeps between steps.
 *
 * A step runs as phases on the pool, a barrier after each:
 *
 *   tokens   finish what came before (residual sums), norm, activations
 *   matmul   one or more maps that share their input, in chunks of rows
 *   attend   (sequence, KV head, query tile[, split of the context])
 *   sample   logits to a token, an item a sequence
 *
 * A phase that would take less time than a wake-up runs on the calling thread
 * alone.  No phase's result depends on how it was split.
 *
 * Three regions hold all memory: weights (load), scratch (load) and KV
 * (kv_alloc).  Nothing is allocated after that.
 */
#ifndef FH_ACCEL_CPU_H
#define FH_ACCEL_CPU_H

#include <stdatomic.h>

#include "kernels/kernels.h"
#include "runtime/accel/accel.h"
#include "runtime/accel/pool.h"
#include "runtime/accel/sample.h"
#include "runtime/base/region.h"
#include "runtime/model/model.h"

#define CPU_TOKEN_TILE 128u /* tokens that one call of matmul takes */
#define CPU_GLU_ROWS 256u   /* rows of a gated chunk, at most */
#define CPU_OUT_ROWS 32u    /* unit of a chunk whose rows become activations: FHK_PANEL and FHK_ACT_COLS */
#define CPU_ATTN_ROWS 8u    /* query heads that keys and values are read for at once */
#define CPU_QUERY_TILE 32u  /* queries of one attention item; divides FHK_ATTN_SPLIT */

/* One region, handed out in aligned pieces: first counted, then mapped, then cut. */
struct cpu_arena {
	uint8_t *base; /* NULL while pieces are only counted */
	size_t used, bytes;
	struct fh_region region;
};

/* A linear map, ready; mat.rows == 0: absent. */
struct cpu_lin {
	struct fhk_mat mat;
	const float *bias; /* [nr_experts, rows] or NULL */
};

struct cpu_layer {
	uint32_t window;
	const float *attn_norm, *q_norm, *k_norm, *attn_post_norm, *ffn_norm, *ffn_post_norm, *sinks;
	struct cpu_lin q, k, v, o, gate, up, down;
	struct cpu_lin router, exp_gate, exp_up, exp_down;
	struct cpu_lin shared_router, shared_gate, shared_up, shared_down;
	/* Forms that the inputs of these maps take, 1 << enum fhk_form. */
	uint8_t attn_forms, o_forms, ffn_forms, down_forms, shared_forms;
};

/* One matrix of a matmul phase. */
struct cpu_task {
	const struct cpu_lin *lin;
	const struct cpu_lin *up; /* y = glu(lin, up) instead of lin */
	const struct fhk_act *x;
	const uint32_t *idx; /* [nr] rows of x, or NULL for 0..nr-1 */
	uint32_t expert, nr;
	float *y; /* [nr, ldy] */
	size_t ldy;
	unsigned int flags;
	struct fhk_act *out; /* gated tasks: y as activations of the next phase, from row out_row on; or NULL */
	uint32_t out_row;
	uint8_t out_forms;   /* that they are wanted in */
	bool best;	     /* no y: keep the largest of each token's in cpu_thread.best */
	uint32_t chunk;	     /* rows of an item */
	uint32_t first_item; /* of this task in the phase */
};

/* One sequence's share of an attention phase. */
struct cpu_attn_seq {
	uint32_t first_item;
	uint32_t tile;	    /* queries a tile, aligned to positions */
	uint32_t width;	    /* queries that a tile has at most: fewer when decoding */
	uint32_t nr_tiles;  /* of each KV head */
	uint32_t nr_splits; /* items a tile: 1 if a thread does all splits itself */
	uint32_t first_tile;
	uint32_t tile_id;   /* of its first tile in c->tile_left, where nr_splits > 1 */
	size_t partial_off; /* floats into c->partial, where nr_splits > 1 */
};

/* A row of logits that somebody wants. */
struct cpu_out {
	uint32_t token; /* index in the batch */
	uint32_t seq;	/* index in the batch */
	uint32_t row;	/* of x, after the last layer */
};

/* The largest logit of a row that a thread has seen. */
struct cpu_best {
	float logit;
	uint32_t id;
};

/* What one thread needs for itself. */
struct cpu_thread {
	float *up;	       /* [CPU_TOKEN_TILE, CPU_GLU_ROWS] */
	void *attn_scratch;    /* attn_scratch_bytes() */
	float *partial;	       /* splits of one tile, when this thread does them all */
	const void **k, **v;   /* [max_blocks_per_seq] */
	float *row;	       /* [max(dim, nr_experts)] */
	struct cpu_best *best; /* [max_logits] */
	struct fh_sampler *sampler;
};

struct fh_cpu {
	struct fh_accel base;
	struct fh_accel_config cfg;
	const struct fhk_ops *k;
	const struct fh_model *m;
	struct fh_pool *pool;
	uint32_t nr_threads;
	char name[32];

	struct cpu_arena weights, scratch, kv;
	uint64_t unpacked_bytes; /* of tensors that run from the file */

	struct cpu_layer *layers;
	const float *output_norm;
	struct cpu_lin output;
	uint8_t output_forms;
	const double *freq; /* the rotary table for this context length */
	/* Guesses at one thread's time, to decide who wakes up: arithmetic for a token, weights read in a step. */
	double token_macs_ns, token_bytes_ns;
	double bytes_per_ns; /* that weights come from memory, or the caches, with */
	size_t ahead_bytes;  /* of weights that a waiting thread fetches: a share of its cache */

	/* KV: block b, layer l: K heads, then V heads. */
	uint32_t nr_blocks;
	size_t kv_head_bytes, kv_layer_bytes, kv_block_bytes;
	uint32_t kv_type; /* enum fhk_type */

	/* Scratch of a step, all padded with zeros.  ld: floats a row. */
	uint32_t q_dim, kv_dim;
	uint32_t ld_x, ld_qkv;
	float *x;	     /* [max_tokens, ld_x] the residual stream */
	float *y;	     /* [max_pairs, ld_x] outputs that are summed later: experts, post-norms */
	float *qkv;	     /* [max_tokens, ld_qkv] q, k, v of each token */
	float *rope;	     /* [max_tokens, nr_pairs, 2] cos, sin */
	struct fhk_act norm; /* [max_tokens, dim] input of q, k, v and of the feed-forward */
	struct fhk_act att;  /* [max_tokens, q_dim] */
	struct fhk_act h;    /* [max_pairs or max_tokens, ffn] */
	struct fhk_act sh;   /* [max_tokens, shared ffn] */
	struct fhk_act last; /* [max_logits, dim] */
	float *logits;	     /* [max_logits, ld_logits] */
	uint32_t ld_logits;
	float *partial; /* attention splits */
	size_t partial_floats;
	_Atomic uint32_t *tile_left; /* [max_tiles] splits of a tile that are not done */
	uint32_t max_tiles;
	uint32_t max_splits; /* of the longest sequence */
	size_t thread_partial_floats;
	struct cpu_thread *threads;
	uint32_t *prev; /* [max_seqs] last token sampled */
	uint64_t *seen; /* [max_seqs] step that named the slot last */
	uint64_t step;

	/* Experts: pair p = (token, slot), sorted by expert. */
	uint32_t max_pairs;
	uint32_t *pair_expert; /* [max_tokens, used] */
	float *pair_weight;    /* [max_tokens, used + 1]; the last is the shared expert's */
	uint32_t *pair_pos;    /* [max_tokens, used] where in the sorted order */
	uint32_t *pair_token;  /* [max_pairs] sorted */
	uint32_t *expert_end;  /* [nr_experts + 1] */

	uint32_t *identity; /* [max(max_tokens, max_pairs)] 0, 1, 2, ... */

	/* The step under way. */
	const struct fh_batch *b;
	uint32_t nr;	     /* tokens in it; after the last attention those whose logits are wanted */
	uint32_t *token_seq; /* [max_tokens] index of the token's sequence in the batch */
	const struct cpu_layer *layer;
	uint32_t layer_index;
	uint8_t att_forms; /* that finished tiles of attention are converted to */
	bool solo;	   /* too small a step to wake anybody */
	struct cpu_task *tasks;
	uint32_t nr_tasks;
	struct cpu_attn_seq *attn_seqs; /* [max_seqs] */
	struct cpu_out *outs;		/* [max_logits] */
	uint32_t nr_outs;
	uint32_t *pooled; /* [max_seqs] sequences of the batch that want an embedding */
	uint32_t nr_pooled;
	uint32_t token_chunk; /* tokens of an item in a phase over tokens */
	void (*token_fn)(struct fh_cpu *c, uint32_t thread, uint32_t token);
	uint32_t token_nr;
};

/* cpu_load.c */
int cpu_arena_map(struct cpu_arena *a, bool pin, bool huge, struct fh_err *err);
void cpu_arena_unmap(struct cpu_arena *a);
/* @bytes, aligned, zero; NULL while counting. */
void *cpu_arena_take(struct cpu_arena *a, size_t bytes);
int cpu_load(struct fh_accel *a, const struct fh_model *m, struct fh_err *err);
void cpu_unload(struct fh_cpu *c);

/* cpu_scratch.c: all that a step needs, once the layers are known */
int cpu_scratch_alloc(struct fh_cpu *c, struct fh_err *err);
void cpu_scratch_free(struct fh_cpu *c);

/* cpu_step.c: run the batch c->b, which has been checked. */
void cpu_step(struct fh_cpu *c);
/* Run @fn for items 0..nr-1, on all threads if @ns (one thread's time) is worth it. */
void cpu_run(struct fh_cpu *c, fh_pool_fn fn, uint32_t nr_items, double ns);
/* Run c->tasks. */
void cpu_matmuls(struct fh_cpu *c);
/*
 * While threads wait for the phases between this matmul phase and the next,
 * memory would be idle: each fetches what it will read first of the next one,
 * whose rows are those of @a, one after the other.
 */
struct cpu_ahead {
	const struct cpu_lin *lin, *up; /* up: NULL, or what is read beside lin */
	uint32_t expert;
};
void cpu_ahead(struct fh_cpu *c, const struct cpu_ahead *a, uint32_t nr);
/* The same of what follows this layer. */
void cpu_ahead_of_next(struct fh_cpu *c);
/* Run @fn for tokens 0..nr-1; @ns is the time of one. */
void cpu_tokens(struct fh_cpu *c, void (*fn)(struct fh_cpu *c, uint32_t thread, uint32_t token), uint32_t nr,
		double ns);
/* Convert row @t of @x to every form of the set. */
void cpu_prepare(struct fh_cpu *c, struct fhk_act *x, uint8_t forms, uint32_t t);
/* Columns c0..c1 of rows t0..t1; multiples of FHK_ACT_COLS, or the last column. */
void cpu_prepare_part(struct fh_cpu *c, struct fhk_act *x, uint8_t forms, uint32_t t0, uint32_t t1, uint32_t c0,
		      uint32_t c1);
/* Nanoseconds that one thread may take for rows x cols weights and nr tokens. */
double cpu_matmul_ns(const struct fh_cpu *c, const struct fhk_mat *m, uint32_t nr);

void cpu_add_bias(struct fh_cpu *c, const struct cpu_lin *l, uint32_t expert, uint32_t nr, uint32_t r0, uint32_t r1,
		  float *y, size_t ldy);

/* cpu_out.c: what follows the layers */
void cpu_output(struct fh_cpu *c);
/* A piece of a task with .best */
void cpu_best_rows(struct fh_cpu *c, struct cpu_thread *th, const struct cpu_task *k, uint32_t t0, uint32_t nr,
		   uint32_t r0, uint32_t r1);

/* And for one layer's attention of the step under way. */
double cpu_attend_ns(const struct fh_cpu *c);

/* cpu_attn.c: c->qkv into c->att.f32, and with @prepare into the forms that the output projection wants */
void cpu_attend(struct fh_cpu *c, bool prepare);
/* Those forms of all tokens, where cpu_attend() was not asked for them. */
void cpu_prepare_att(struct fh_cpu *c);

/* cpu_moe.c: choose a token's experts by c->norm */
void cpu_moe_route(struct fh_cpu *c, uint32_t thread, uint32_t token);
/* Run them: c->norm into c->y. */
void cpu_moe(struct fh_cpu *c);
/* x[token] += its experts' outputs times their weights, in the order of the router's choice. */
void cpu_moe_sum(struct fh_cpu *c, uint32_t token);

static inline struct fh_cpu *to_cpu(struct fh_accel *a)
{
	return (struct fh_cpu *)a;
}

static inline uint8_t *cpu_kv_head(const struct fh_cpu *c, uint32_t block, uint32_t layer, uint32_t head, bool v)
{
	return c->kv.base + block * c->kv_block_bytes + layer * c->kv_layer_bytes +
	       (head + (v ? c->m->nr_kv_heads : 0)) * c->kv_head_bytes;
}

#endif /* FH_ACCEL_CPU_H */
