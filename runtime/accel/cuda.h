/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Private to the CUDA accelerator (cuda*.c): what it keeps between steps.
 *
 * A step is one copy to the device (the plan: every number that changes from
 * step to step), a row of kernels, and an event.  The kernels' arguments never
 * change, so for small batches the row is captured once a bucket and then
 * replayed as a graph.  Tokens come back through pinned memory that the
 * sampling kernel writes itself.
 *
 * Device memory is three allocations: weights (load), work (load) and keys and
 * values (kv_alloc).  Nothing is allocated after that.  The host never follows
 * a device address.
 *
 * None of this has run on a GPU so far: Documentation/design/gpu.md says what
 * was checked, and how.
 */
#ifndef FH_ACCEL_CUDA_H
#define FH_ACCEL_CUDA_H

#include "kernels/cuda/cuda_kernels.h"
#include "runtime/accel/accel.h"
#include "runtime/accel/cuda_api.h"
#include "runtime/accel/sample.h"
#include "runtime/model/model.h"

#define CUDA_ALIGN 256u
#define CUDA_STAGES 2u			 /* of the way from the file to the device */
#define CUDA_STAGE_BYTES (8ul << 20)	 /* each, unless 16 rows are more */
#define CUDA_BOUNCE_BYTES (4ul << 20)	 /* pinned, for what goes to and fro beside the plan */
#define CUDA_PARTIAL_BYTES (256ul << 20) /* of attention in splits, at most */
#define CUDA_GRAPH_TOKENS 64u		 /* steps of more are launched kernel by kernel */
#define CUDA_NR_BUCKETS 9u

enum cuda_kernel {
#define CUDA_KERNEL_ID(name, args) CUDA_K_##name,
	FHK_CU_KERNELS(CUDA_KERNEL_ID)
#undef CUDA_KERNEL_ID
		CUDA_NR_KERNELS
};

/* Memory handed out in aligned pieces: first counted (base 0), then allocated, then cut. */
struct cuda_arena {
	cu_ptr base;
	uint64_t used, bytes;
};

/* A linear map on the device; rows == 0: absent. */
struct cuda_mat {
	uint32_t type, rows, cols, nr_experts;
	cu_ptr w, bias; /* bias: f32 [nr_experts, rows] or 0 */
	uint64_t unit_stride, expert_stride;
};

struct cuda_layer {
	uint32_t window;
	cu_ptr attn_norm, q_norm, k_norm, attn_post_norm, ffn_norm, ffn_post_norm, sinks;
	struct cuda_mat qkv[3]; /* q, k, v; where they are joined, the first has the rows of all */
	bool joined;
	struct cuda_mat o, gate, up, down;
	struct cuda_mat router, exp_gate, exp_up, exp_down;
	struct cuda_mat shared_router, shared_gate, shared_up, shared_down;
};

/* What a step of some size launches; everything in it is a maximum. */
struct cuda_shape {
	uint32_t tokens, seqs, outs, items, pools;
	uint32_t nr_q; /* of an attention item */
};

/* The plan in host memory, as the kernels see it on the device: fixed parts, then the tail. */
struct cuda_plan {
	uint8_t *host; /* pinned */
	cu_ptr dev;
	size_t bytes;
	/* Offsets */
	size_t tokens, seqs, outs, pools, tail;
	size_t used; /* bytes to copy */
};

/* What becomes of a row of logits. */
struct cuda_row {
	uint32_t seq;	 /* index in the batch */
	uint32_t sample; /* which of its samples; UINT32_MAX: none */
	uint32_t q;	 /* index among its tokens */
	bool device;	 /* drawn there */
};

struct fh_cuda {
	struct fh_accel base;
	struct fh_accel_config cfg;
	struct fh_cu cu;
	struct fh_cu_device dev;
	cu_context ctx;
	cu_stream stream;
	cu_event done;
	cu_module *modules;
	uint32_t nr_modules;
	cu_function fn[CUDA_NR_KERNELS];
	char name[160];

	const struct fh_model *m;
	struct cuda_arena weights, work, kv;
	struct cuda_layer *layers;
	struct cuda_mat output;
	cu_ptr output_norm, embd, freq;
	uint32_t q_dim, kv_dim;

	/* Keys and values. */
	uint32_t kv_type; /* enum fhk_type */
	uint32_t nr_blocks;
	uint64_t kv_head_bytes, kv_layer_bytes, kv_block_bytes;

	/* Work memory; rows are padded with zeros. */
	uint32_t ld_x, ld_qkv, ld_h, ld_sh, ld_logits, ld_router;
	uint32_t max_pairs, max_items, max_partials; /* partials: rows of all heads */
	cu_ptr x, y, qkv, cs, gate, h, shared, logits, sampled, prev, partial, pooled;
	cu_ptr router, shared_router, pair_expert, pair_weight, pair_pos, pair_token, tiles, nr_tiles;
	struct fhk_cu_act norm, att, act, sh_act, last;

	struct cuda_plan plan;
	struct fh_slot *slots; /* [max_logits] pinned */
	cu_ptr slots_dev;
	uint8_t *bounce; /* pinned */
	size_t bounce_bytes;

	/* The step under way. */
	const struct fh_batch *b;
	struct cuda_row *rows; /* [max_logits] */
	uint32_t nr_rows;
	uint32_t *pools; /* [max_seqs] sequences of the batch that want an embedding */
	uint32_t nr_pools;
	uint64_t *seen; /* [max_seqs] step that named the slot last */
	uint64_t step;
	bool in_flight;

	/* The last token of each sequence slot: here, unless the device drew it. */
	uint32_t *prev_token; /* [max_seqs] */
	bool *prev_on_device; /* [max_seqs] */

	struct fh_sampler *sampler;
	float *row;	  /* [nr_vocab] logits that came to the host */
	uint32_t *adj_at; /* [nr_vocab] zero between uses: place of a token in a row's list */

	bool lost;				  /* a sticky error: nothing works until a new process */
	bool no_graphs;				  /* they were refused, or are not wanted */
	cu_graph_exec graphs[CUDA_NR_BUCKETS][2]; /* for decoding alone, and with longer items */
	uint64_t nr_graph_steps, nr_plain_steps;
};

static inline struct fh_cuda *to_cuda(struct fh_accel *a)
{
	return (struct fh_cuda *)a;
}

/* cuda_image.c: the compiled kernels. */
struct cuda_image {
	const void *data;
	size_t bytes;
};
/* One of those that are built in. */
struct cuda_image cuda_image(uint32_t i);
/* Those of the file that FREEHOLD_CUDA_IMAGE names, instead; NULL: not set. The caller frees it. */
int cuda_image_file(void **out, struct fh_err *err);

/* cuda_mem.c */
/* @bytes, aligned; counted only while the arena has no memory. */
cu_ptr cuda_take(struct cuda_arena *a, uint64_t bytes);
/* Allocate what was counted and begin again. @what: "the weights", for the message. */
int cuda_arena_alloc(struct fh_cuda *c, struct cuda_arena *a, const char *what, struct fh_err *err);
void cuda_arena_free(struct fh_cuda *c, struct cuda_arena *a);
/* Pinned host memory, with its address on the device in @dev if that is not NULL. */
int cuda_pinned(struct fh_cuda *c, size_t bytes, void **host, cu_ptr *dev, const char *what, struct fh_err *err);
/* Copy through the bounce buffer and wait. 0 or -EIO, logged. */
int cuda_fetch(struct fh_cuda *c, void *dst, cu_ptr src, size_t bytes);
int cuda_send(struct fh_cuda *c, cu_ptr dst, const void *src, size_t bytes);
/* Log what failed; true if @r is an error. Notes that the device is lost. */
bool cuda_failed(struct fh_cuda *c, cu_result r, const char *what);

/* cuda_load.c */
int cuda_load_weights(struct fh_cuda *c, const struct fh_model *m, struct fh_err *err);
/* cuda_work.c */
int cuda_work_alloc(struct fh_cuda *c, struct fh_err *err);
void cuda_work_free(struct fh_cuda *c);

/* cuda_plan.c */
/* Check the batch, and write the plan and what is launched for it. 0 or -EINVAL. */
int cuda_plan_batch(struct fh_cuda *c, const struct fh_batch *b, struct cuda_shape *shape);

/* cuda_step.c */
int cuda_launch(struct fh_cuda *c, enum cuda_kernel k, struct fhk_cu_grid g, const void *args);
/* All kernels of a step. 0 or -EIO. */
int cuda_step(struct fh_cuda *c, const struct cuda_shape *shape);
/* The same, by way of a graph where there is one for it. */
int cuda_step_graph(struct fh_cuda *c, const struct cuda_shape *shape);
void cuda_graphs_free(struct fh_cuda *c);
/* Allow the kernels the shared memory that this model needs. */
int cuda_allow_shared(struct fh_cuda *c, struct fh_err *err);
enum cuda_kernel cuda_mm_kernel(uint32_t type, uint32_t tile);

/* cuda_out.c: what a finished step leaves */
int cuda_finish(struct fh_cuda *c);

#endif /* FH_ACCEL_CUDA_H */
