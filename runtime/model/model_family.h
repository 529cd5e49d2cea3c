/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Private to the model's description: what a family is, and which tensors a
 * layer has.  See model_family.c.
 */
#ifndef FH_MODEL_MODEL_FAMILY_H
#define FH_MODEL_MODEL_FAMILY_H

#include <stdint.h>
#include <stddef.h>

#include "runtime/model/model.h"

/* What a family, or one file of it, has.  A rule of a tensor names those that it goes with. */
#define FAM_ALWAYS 0x0001u
#define FAM_INTERLEAVED 0x0002u	  /* rotary pairs (2i, 2i + 1) */
#define FAM_QKV_BIAS 0x0004u	  /* biases on q, k and v */
#define FAM_OUT_BIAS 0x0008u	  /* and on the attention's output */
#define FAM_QK_NORM 0x0010u	  /* each head's q and k are normalised before the rotation */
#define FAM_POST_NORMS 0x0020u	  /* a norm after attention and after the feed-forward */
#define FAM_FUSED_GLU 0x0040u	  /* ffn_up holds the gate's rows, then up's */
#define FAM_LATE_FFN_NORM 0x0080u /* the norm before the feed-forward is called post_attention_norm */
#define FAM_FFN_NORM 0x0100u	  /* and here ffn_norm */
#define FAM_SINKS 0x0200u	  /* attention sinks */
#define FAM_EMBD_SQRT 0x0400u	  /* the embedding is multiplied by sqrt(dim) */
#define FAM_EXPERT_BIAS 0x0800u	  /* biases on the router and on every expert */
#define FAM_SHARED_EXPERT 0x1000u /* a gated shared expert */
#define FAM_MOE_ONLY 0x2000u	  /* a file without experts is broken */
#define FAM_MOE_NEVER 0x4000u	  /* and here one with experts */
/* Found out from the file. */
#define FILE_SPLIT_QKV 0x10000u
#define FILE_FUSED_QKV 0x20000u
#define FILE_GATE 0x40000u /* a dense feed-forward with a gate tensor of its own */
#define FILE_DENSE 0x80000u
#define FILE_EXPERTS 0x100000u

struct fh_family {
	const char *arch; /* general.architecture, and the prefix of its keys */
	uint32_t has;	  /* FAM_* */
	enum fh_glu_kind glu;
	enum fh_gating gating;
	uint32_t window_period;	 /* of each so many layers all but the last are windowed; 1: every layer */
	uint32_t window_default; /* where the file names none */
	/* A layer count whose q.k is scaled by (dim / heads)^-1/2 instead of head_dim^-1/2; 0: none. */
	uint32_t wide_scale_layers;
};

const struct fh_family *fh_family_find(struct fh_str arch);

/* Sizes that a shape is written in. */
enum fh_dim {
	D_ONE,
	D_DIM,
	D_Q,
	D_KV,
	D_QKV,
	D_HEAD,
	D_NR_HEADS,
	D_FFN,
	D_FFN2,
	D_EXPERTS,
	D_EXPERT_FFN,
	D_SHARED_FFN,
};

enum fh_rule_kind {
	R_VECTOR, /* a `const struct fh_tensor *` of [rows] */
	R_LINEAR, /* a struct fh_linear, [experts, rows, cols] */
	R_BIAS,	  /* the bias of one, [experts, rows] */
};

/* One tensor of a layer. */
struct fh_rule {
	const char *name; /* after "blk.N." */
	enum fh_rule_kind kind;
	enum fh_dim experts, rows, cols;
	size_t offset;	/* of the field in struct fh_layer */
	uint32_t need;	/* required where any of these */
	uint32_t allow; /* may be there where any of these */
};

extern const struct fh_rule fh_layer_rules[];
extern const unsigned int fh_nr_layer_rules;

/* model_rope.c: fill m->rope from the keys and factor tensors of @arch. */
int fh_model_rope(struct fh_model *m, const struct fh_family *fam, struct fh_err *err);

/* Keys "<arch>.<key>"; the value stays as it is when there is none.  -EINVAL, with @err, for one of another type. */
int fh_model_key_u32(const struct fh_model *m, const char *key, uint32_t *v, struct fh_err *err);
int fh_model_key_f32(const struct fh_model *m, const char *key, float *v, struct fh_err *err);

#endif /* FH_MODEL_MODEL_FAMILY_H */
