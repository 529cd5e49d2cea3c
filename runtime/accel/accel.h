/* SPDX-License-Identifier: Apache-2.0 */
/*
 * An accelerator: a device that runs one step of a batch at a time.
 *
 * It works a step at a time, never an operation at a time, so that a GPU can
 * run the step as one graph and the host can plan step n+1 while n runs.  A
 * plan names sequences, never token values that the device knows: the token
 * that a sequence sampled last stays on the device (FH_TOKEN_PREV).
 *
 * One thread (the engine's) makes all calls.  Everything that a batch points
 * at stays valid and unchanged from submit() to the reap() that returns 0.
 */
#ifndef FH_ACCEL_ACCEL_H
#define FH_ACCEL_ACCEL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "runtime/base/err.h"
#include "runtime/base/request.h"

#define FH_KV_BLOCK 32		 /* tokens in a KV block */
#define FH_TOKEN_PREV UINT32_MAX /* in fh_batch.tokens: what this sequence sampled last */
#define FH_NO_BLOCK UINT32_MAX

struct fh_model;
struct fh_accel;
struct fh_ctl;
struct fh_region;

enum fh_kv_type { FH_KV_F16, FH_KV_Q8_0, FH_KV_F32, FH_KV_BF16 };

struct fh_accel_config {
	uint32_t nr_threads; /* 0: as many as the affinity mask and the CPU quota allow */
	uint32_t max_seqs;   /* sequence slots, numbered from 0 */
	uint32_t max_tokens; /* in one batch */
	uint32_t max_logits; /* rows of logits wanted in one batch, sampling included */
	uint32_t max_blocks_per_seq;
	enum fh_kv_type kv_type;
	const char *isa; /* CPU: NULL for the best */
	uint32_t gpu;	 /* CUDA: which, by the driver's order */
	bool pin_memory; /* mlock what is hot, where the limit allows */
	/* Register weights and KV blocks with the kernel module, which outlives the accelerator; NULL: do not. */
	struct fh_ctl *ctl;
	/* Progress of load(): @done of @total bytes; may be NULL. */
	void (*progress)(void *ctx, uint64_t done, uint64_t total);
	void *progress_ctx;
};

/* One sequence's part of a step. */
struct fh_batch_seq {
	uint32_t seq;	  /* its slot, 0..max_seqs-1; state such as the last token is kept there */
	uint32_t q_start; /* its tokens are fh_batch.tokens[q_start .. q_start + q_len) */
	uint32_t q_len;	  /* 1 when decoding, more in prefill or with guesses */
	uint32_t pos;	  /* position of the first of them; position p lies in blocks[p / FH_KV_BLOCK] */
	uint32_t nr_blocks;
	const uint32_t *blocks; /* [nr_blocks] physical KV blocks */

	/* Sampling after the last token; sampling == NULL: none (more prompt follows, or scoring). */
	const struct fh_sampling *sampling;
	uint32_t index;		 /* of the token to be sampled among those generated: 0, 1, ... */
	const uint32_t *history; /* [nr_history + nr_draft] prompt and output so far, FH_TOKEN_PREV's value excepted */
	uint32_t nr_prompt;	 /* of them the prompt */
	uint32_t nr_history;
	const uint32_t *banned; /* [nr_banned] ids that may not be sampled (EOG before min_tokens) */
	uint32_t nr_banned;
	const uint32_t *mask; /* [nr_draft + 1, ceil(vocab / 32)] bit set: allowed; NULL: all */
	struct fh_slot *slot; /* [nr_draft + 1] token, stamp = index + 1, logprob; flags are FH_SLOT_LOGPROB or 0 */
	struct fh_top *top;   /* [nr_draft + 1, sampling->nr_top] or NULL */

	/*
	 * Speculation: the last nr_draft of its tokens are guesses at what will
	 * be sampled; history[nr_history ..] repeats them.  Not only the token
	 * after the last one is drawn but also one in the place of each guess:
	 * sample i of nr_draft + 1 comes from the logits of token q_len - 1 -
	 * nr_draft + i and is in every respect (index, history, mask, slot) what
	 * fh_batch_sample() says, so it is the token that a step of its own
	 * would have drawn, provided that all guesses before it were right.  The
	 * caller compares; what comes after the first wrong guess means nothing,
	 * and its keys and values are overwritten by the next step.
	 * FH_TOKEN_PREV is then the sample in the place of the first wrong guess,
	 * or the last one.  0 unless sampling, and where fh_accel_info.drafts is
	 * not set.
	 */
	uint32_t nr_draft;

	/* Logits of the tokens from q index logits_from on, [q_len - logits_from, vocab] f32; NULL: none. */
	float *logits;
	uint32_t logits_from;

	/* Embeddings: after the final norm, the sum over this step's tokens is added to pooled[dim], or
	 * (FH_POOL_LAST) the last token's vector replaces it. NULL: none. */
	float *pooled;
	enum fh_pooling pooling;
	uint32_t adapter; /* LoRA; 0: none */
};

/* Sample @i of @s, 0..nr_draft, as if no guess had been involved. */
static inline struct fh_batch_seq fh_batch_sample(const struct fh_batch_seq *s, uint32_t i, uint32_t nr_vocab)
{
	struct fh_batch_seq one = *s;

	one.index += i;
	one.nr_history += i;
	one.slot += i;
	one.mask = s->mask ? s->mask + (size_t)i * ((nr_vocab + 31) / 32) : NULL;
	one.top = s->top ? s->top + (size_t)i * s->sampling->nr_top : NULL;
	one.nr_draft = 0;
	return one;
}

struct fh_batch {
	uint32_t nr_seqs;
	uint32_t nr_tokens;
	const uint32_t *tokens;		 /* [nr_tokens] ids or FH_TOKEN_PREV */
	const struct fh_batch_seq *seqs; /* [nr_seqs], in order of q_start, contiguous */
};

struct fh_accel_info {
	const char *name; /* "cpu/avx512", "null" */
	uint32_t nr_threads;
	uint64_t weight_bytes;	 /* resident, packed copies included */
	uint64_t kv_block_bytes; /* one block, all layers */
	uint32_t nr_blocks;
	uint32_t nr_vocab, nr_ctx, dim;
	uint32_t nr_together; /* tokens of a prompt that keys and values are read for at once; 0: unknown */
	bool drafts;	      /* takes fh_batch_seq.nr_draft */
	uint64_t free_bytes;  /* of a device with memory of its own; 0: it uses the host's */
	const struct fh_region *weights, *kv; /* where they lie, until close(); NULL: nowhere of ours */
};

struct fh_accel_ops {
	const char *name;
	int (*open)(const struct fh_accel_config *cfg, struct fh_accel **out, struct fh_err *err);
	/* @m must outlive the accelerator. */
	int (*load)(struct fh_accel *a, const struct fh_model *m, struct fh_err *err);
	/* Bytes that one KV block takes, known after load(); the caller decides how many fit. */
	uint64_t (*kv_block_bytes)(struct fh_accel *a);
	int (*kv_alloc)(struct fh_accel *a, uint32_t nr_blocks, struct fh_err *err);
	/* Begin a step. 0, or -EINVAL for a batch that breaks the limits, -EIO when the device is lost. */
	int (*submit)(struct fh_accel *a, const struct fh_batch *b);
	/* 0: the step is done and its slots are written; -EAGAIN: not yet (only if !wait); -EIO. */
	int (*reap)(struct fh_accel *a, bool wait);
	/* Copy whole blocks on the device, in order (copy-on-write of a shared prefix). */
	int (*kv_copy)(struct fh_accel *a, uint32_t dst, uint32_t src);
	/* Block <-> host memory of kv_block_bytes. */
	int (*kv_swap)(struct fh_accel *a, uint32_t block, void *host, bool out);
	/* Set the "last token" of a sequence slot (after a preemption). */
	void (*set_prev)(struct fh_accel *a, uint32_t seq, uint32_t token);
	void (*info)(struct fh_accel *a, struct fh_accel_info *out);
	/*
	 * Cheap, asked before a step is planned; NULL: always.  0; -EAGAIN: the
	 * device is coming back, nothing may be submitted; -EIO, once: it lost
	 * what its KV blocks held.
	 */
	int (*ready)(struct fh_accel *a);
	void (*close)(struct fh_accel *a);
};

struct fh_accel {
	const struct fh_accel_ops *ops;
};

extern const struct fh_accel_ops fh_accel_cpu;
/* An NVIDIA GPU, by way of the driver that is loaded at run time.  It has never run on one so far. */
extern const struct fh_accel_ops fh_accel_cuda;
/* Costs nothing: token i of a request is its prompt's id i modulo its length (the prompt is echoed). */
extern const struct fh_accel_ops fh_accel_null;

/*
 * What --device says: NULL, "auto" or "cpu" is the CPU (so far auto never takes
 * a GPU), "cuda" or "cuda:N" a GPU, whose number goes to fh_accel_config.gpu.
 * 0, or -EINVAL.  Whether it is there is for open() to say.
 */
int fh_accel_choose(const char *device, const struct fh_accel_ops **ops, uint32_t *gpu, struct fh_err *err);

#endif /* FH_ACCEL_ACCEL_H */
