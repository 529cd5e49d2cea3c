/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A model's description: an open GGUF file turned into data that an
 * accelerator can run without knowing any family by name.
 *
 * The families (llama, qwen2, qwen2moe, qwen3, qwen3moe, phi3, gemma2,
 * gpt-oss) are rows of a table in model_family.c; how to add one is in
 * Documentation/design/model-families.md.  Fused tensors are taken apart here
 * (a linear map is a range of rows of a tensor), and every scaling of the
 * rotary embedding becomes a table of frequencies and a magnitude, so that
 * there is one form of each for the accelerator to run.
 *
 * Everything is checked when the model opens: each tensor's shape agrees with
 * the hyper-parameters, all of them lie in sane bounds, and no tensor is left
 * over that we would silently ignore.  What the numbers of a tensor type mean
 * is for the accelerator to know.
 *
 * Immutable once open; any thread may read it.  The model owns the GGUF handle
 * and all memory that its pointers point to.
 */
#ifndef FH_MODEL_MODEL_H
#define FH_MODEL_MODEL_H

#include <stdbool.h>
#include <stdint.h>

#include "runtime/base/err.h"
#include "runtime/model/gguf.h"

/* y[rows] = W[row0 .. row0 + rows) x[cols] + bias, for each of nr_experts matrices. */
struct fh_linear {
	const struct fh_tensor *w;    /* NULL: the model has no such map */
	const struct fh_tensor *bias; /* [nr_experts, rows], one value a row of this map, or NULL */
	uint32_t rows, cols;
	uint32_t row0;	     /* first row of ours in each expert's matrix */
	uint32_t nr_experts; /* 1 for a plain matrix */
};

enum fh_glu_kind { FH_ACT_SILU, FH_ACT_GELU, FH_ACT_OAI };

/* How the router's logits become the weights of the chosen experts. */
enum fh_gating {
	FH_GATING_SOFTMAX,	/* softmax over all, the best k as they are */
	FH_GATING_SOFTMAX_NORM, /* the same, divided by their sum: softmax over the best k */
};

struct fh_layer {
	uint32_t window; /* a token sees itself and window - 1 before it; 0: all */

	/* [dim] or, for q_norm and k_norm, [head_dim]; NULL: none */
	const struct fh_tensor *attn_norm;
	const struct fh_tensor *q_norm, *k_norm;
	const struct fh_tensor *attn_post_norm; /* of the attention's output, before the residual sum */
	const struct fh_tensor *ffn_norm;
	const struct fh_tensor *ffn_post_norm;
	const struct fh_tensor *sinks; /* [nr_heads]: one more logit in the softmax, without a value */

	struct fh_linear q, k, v, o;

	/* Dense feed-forward: down(glu(gate, up)); absent in a layer with experts. */
	struct fh_linear gate, up, down;

	/* Mixture of experts: router.w == NULL without. */
	struct fh_linear router;
	struct fh_linear exp_gate, exp_up, exp_down; /* nr_experts matrices each */
	/* A shared expert beside them, times sigmoid(shared_router . x). */
	struct fh_linear shared_router, shared_gate, shared_up, shared_down;
};

/* Rotary embedding: dimension pair i of position p turns by p * freq[i]; cos and sin are multiplied by mscale. */
struct fh_rope {
	uint32_t nr_pairs; /* of head_dim / 2; the rest of a head is not rotated */
	bool interleaved;  /* pairs (2i, 2i + 1) rather than (i, i + nr_pairs) */
	float mscale;
	const double *freq;	 /* [nr_pairs] */
	const double *freq_long; /* [nr_pairs] for contexts above ctx_long, or NULL */
	uint32_t ctx_long;
};

struct fh_model {
	struct fh_gguf *gguf;
	const char *arch; /* "llama", ...; "null" for the null model */
	char name[128];	  /* general.name, or the file's name */
	bool null;	  /* a vocabulary only: for fh_accel_null and nothing else */

	uint32_t nr_vocab; /* token ids below this are valid */
	uint32_t nr_ctx;   /* that the file was made for */
	uint32_t dim;	   /* 0 for the null model */
	uint32_t nr_layers;
	uint32_t nr_heads, nr_kv_heads, head_dim;
	uint32_t ffn_dim;	  /* of the dense feed-forward, 0 without */
	uint32_t nr_experts;	  /* 0 without */
	uint32_t nr_experts_used; /* a token */
	uint32_t expert_ffn_dim, shared_ffn_dim;

	float norm_eps;
	float embd_scale;    /* the embedding is multiplied by this */
	float attn_scale;    /* of q.k */
	float attn_softcap;  /* cap * tanh(score / cap); 0: none */
	float final_softcap; /* of the logits; 0: none */
	enum fh_glu_kind glu;
	enum fh_gating gating;
	struct fh_rope rope;

	const struct fh_tensor *token_embd; /* [nr_vocab, dim] */
	const struct fh_tensor *output_norm;
	struct fh_linear output; /* the same tensor as token_embd when tied */
	bool tied;
	struct fh_layer *layers; /* [nr_layers] */

	uint64_t nr_params; /* elements of all tensors */
};

/*
 * Open the GGUF file @path; "null:PATH" opens the null model with PATH's
 * vocabulary.  -ENOTSUP, -EINVAL or what fh_gguf_open() returns, with @err
 * naming the tensor, type or key that is the reason, and what would work.
 */
int fh_model_open(const char *path, struct fh_model **out, struct fh_err *err);
/* Only the vocabulary of @path (vocabulary-only files too), for fh_accel_null. */
int fh_model_open_null(const char *path, struct fh_model **out, struct fh_err *err);
/* From an open handle, which the model owns from success on (for tests and fuzzing). */
int fh_model_from_gguf(struct fh_gguf *g, struct fh_model **out, struct fh_err *err);
void fh_model_close(struct fh_model *m);

/* Names of the families in the table, separated by spaces. */
const char *fh_model_families(void);

#endif /* FH_MODEL_MODEL_H */
