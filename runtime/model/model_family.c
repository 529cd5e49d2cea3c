// SPDX-License-Identifier: Apache-2.0
/*
 * The families that we run, and the tensors of their layers, as two tables.
 *
 * A family is a row: what it has, its gated activation, its router and its
 * windows.  A tensor is a row: its name, its shape and the families that have
 * it.  model.c reads both and knows no family by name.  The names and their
 * meaning are those of the GGUF files that are published
 * (https://github.com/ggml-org/ggml/blob/master/docs/gguf.md).
 *
 * Both tables are constant.
 */
#include <string.h>

#include "runtime/model/model_family.h"

static const struct fh_family families[] = {
	/* Llama 2, 3, 3.1, 3.2, Mistral, Mixtral and what else calls itself llama. */
	{
		.arch = "llama",
		.has = FAM_INTERLEAVED | FAM_FFN_NORM,
		.gating = FH_GATING_SOFTMAX_NORM,
		.window_period = 1,
	},
	{
		.arch = "qwen2",
		.has = FAM_QKV_BIAS | FAM_FFN_NORM | FAM_MOE_NEVER,
		.window_period = 1,
	},
	{
		.arch = "qwen2moe",
		.has = FAM_QKV_BIAS | FAM_FFN_NORM | FAM_SHARED_EXPERT | FAM_MOE_ONLY,
		.gating = FH_GATING_SOFTMAX,
		.window_period = 1,
	},
	{
		.arch = "qwen3",
		.has = FAM_QK_NORM | FAM_FFN_NORM | FAM_MOE_NEVER,
		.window_period = 1,
	},
	{
		.arch = "qwen3moe",
		.has = FAM_QK_NORM | FAM_FFN_NORM | FAM_MOE_ONLY,
		.gating = FH_GATING_SOFTMAX_NORM,
		.window_period = 1,
	},
	{
		.arch = "phi3",
		.has = FAM_FUSED_GLU | FAM_FFN_NORM | FAM_MOE_NEVER,
		.window_period = 1,
	},
	{
		/* The 27B model (46 layers) scales by its width a head, the smaller ones by their head. */
		.arch = "gemma2",
		.has = FAM_POST_NORMS | FAM_FFN_NORM | FAM_EMBD_SQRT | FAM_MOE_NEVER,
		.glu = FH_ACT_GELU,
		.window_period = 2,
		.window_default = 4096,
		.wide_scale_layers = 46,
	},
	{
		.arch = "gpt-oss",
		.has = FAM_QKV_BIAS | FAM_OUT_BIAS | FAM_LATE_FFN_NORM | FAM_SINKS | FAM_EXPERT_BIAS | FAM_MOE_ONLY,
		.glu = FH_ACT_OAI,
		.gating = FH_GATING_SOFTMAX_NORM,
		.window_period = 2,
	},
};

#define AT(field) offsetof(struct fh_layer, field)
#define VECTOR(n, size, field, need_, allow_)                                                                          \
	{                                                                                                              \
		n, R_VECTOR, D_ONE, size, D_ONE, AT(field), need_, allow_                                              \
	}
#define LINEAR(n, rows_, cols_, field, need_)                                                                          \
	{                                                                                                              \
		n, R_LINEAR, D_ONE, rows_, cols_, AT(field), need_, 0                                                  \
	}
#define EXPERT(n, rows_, cols_, field)                                                                                 \
	{                                                                                                              \
		n, R_LINEAR, D_EXPERTS, rows_, cols_, AT(field), FILE_EXPERTS, 0                                       \
	}
#define BIAS(n, rows_, field, need_, allow_)                                                                           \
	{                                                                                                              \
		n, R_BIAS, D_ONE, rows_, D_ONE, AT(field), need_, allow_                                               \
	}
#define EXPERT_BIAS(n, rows_, field)                                                                                   \
	{                                                                                                              \
		n, R_BIAS, D_EXPERTS, rows_, D_ONE, AT(field), FAM_EXPERT_BIAS, 0                                      \
	}

const struct fh_rule fh_layer_rules[] = {
	VECTOR("attn_norm.weight", D_DIM, attn_norm, FAM_ALWAYS, 0),
	VECTOR("attn_q_norm.weight", D_HEAD, q_norm, FAM_QK_NORM, 0),
	VECTOR("attn_k_norm.weight", D_HEAD, k_norm, FAM_QK_NORM, 0),
	VECTOR("attn_sinks.weight", D_NR_HEADS, sinks, FAM_SINKS, 0),
	VECTOR("post_attention_norm.weight", D_DIM, attn_post_norm, FAM_POST_NORMS, 0),
	VECTOR("post_attention_norm.weight", D_DIM, ffn_norm, FAM_LATE_FFN_NORM, 0),
	VECTOR("ffn_norm.weight", D_DIM, ffn_norm, FAM_FFN_NORM, 0),
	VECTOR("post_ffw_norm.weight", D_DIM, ffn_post_norm, FAM_POST_NORMS, 0),

	/* A fused tensor goes to the first of its maps; model.c takes it apart. */
	LINEAR("attn_qkv.weight", D_QKV, D_DIM, q, FILE_FUSED_QKV),
	LINEAR("attn_q.weight", D_Q, D_DIM, q, FILE_SPLIT_QKV),
	LINEAR("attn_k.weight", D_KV, D_DIM, k, FILE_SPLIT_QKV),
	LINEAR("attn_v.weight", D_KV, D_DIM, v, FILE_SPLIT_QKV),
	LINEAR("attn_output.weight", D_DIM, D_Q, o, FAM_ALWAYS),
	BIAS("attn_q.bias", D_Q, q, FAM_QKV_BIAS, FILE_SPLIT_QKV),
	BIAS("attn_k.bias", D_KV, k, FAM_QKV_BIAS, FILE_SPLIT_QKV),
	BIAS("attn_v.bias", D_KV, v, FAM_QKV_BIAS, FILE_SPLIT_QKV),
	BIAS("attn_output.bias", D_DIM, o, FAM_OUT_BIAS, FAM_ALWAYS),

	LINEAR("ffn_gate.weight", D_FFN, D_DIM, gate, FILE_GATE),
	LINEAR("ffn_up.weight", D_FFN, D_DIM, up, FILE_GATE),
	LINEAR("ffn_up.weight", D_FFN2, D_DIM, gate, FAM_FUSED_GLU),
	LINEAR("ffn_down.weight", D_DIM, D_FFN, down, FILE_DENSE),
	BIAS("ffn_gate.bias", D_FFN, gate, 0, FILE_GATE),
	BIAS("ffn_up.bias", D_FFN, up, 0, FILE_GATE),
	BIAS("ffn_down.bias", D_DIM, down, 0, FILE_DENSE),

	LINEAR("ffn_gate_inp.weight", D_EXPERTS, D_DIM, router, FILE_EXPERTS),
	BIAS("ffn_gate_inp.bias", D_EXPERTS, router, FAM_EXPERT_BIAS, FILE_EXPERTS),
	EXPERT("ffn_gate_exps.weight", D_EXPERT_FFN, D_DIM, exp_gate),
	EXPERT("ffn_up_exps.weight", D_EXPERT_FFN, D_DIM, exp_up),
	EXPERT("ffn_down_exps.weight", D_DIM, D_EXPERT_FFN, exp_down),
	EXPERT_BIAS("ffn_gate_exps.bias", D_EXPERT_FFN, exp_gate),
	EXPERT_BIAS("ffn_up_exps.bias", D_EXPERT_FFN, exp_up),
	EXPERT_BIAS("ffn_down_exps.bias", D_DIM, exp_down),
	LINEAR("ffn_gate_inp_shexp.weight", D_ONE, D_DIM, shared_router, FAM_SHARED_EXPERT),
	LINEAR("ffn_gate_shexp.weight", D_SHARED_FFN, D_DIM, shared_gate, FAM_SHARED_EXPERT),
	LINEAR("ffn_up_shexp.weight", D_SHARED_FFN, D_DIM, shared_up, FAM_SHARED_EXPERT),
	LINEAR("ffn_down_shexp.weight", D_DIM, D_SHARED_FFN, shared_down, FAM_SHARED_EXPERT),
};
const unsigned int fh_nr_layer_rules = sizeof(fh_layer_rules) / sizeof(fh_layer_rules[0]);

const struct fh_family *fh_family_find(struct fh_str arch)
{
	for (unsigned int i = 0; i < sizeof(families) / sizeof(families[0]); i++)
		if (strlen(families[i].arch) == arch.n && !memcmp(families[i].arch, arch.p, arch.n))
			return &families[i];
	return NULL;
}

const char *fh_model_families(void)
{
	return "llama qwen2 qwen2moe qwen3 qwen3moe phi3 gemma2 gpt-oss";
}
