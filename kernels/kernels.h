/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The CPU kernels: one table of functions an instruction set.
 *
 * Arithmetic only: no I/O, no allocation, no locks, no threads, nothing of
 * ours included.  A caller splits work into items (rows, heads, tokens) and
 * may run them on any thread in any order.
 *
 * The contract: the result for one token does not depend on which tokens are
 * computed beside it, nor on how rows or items are split among calls.  Every
 * output element is reduced in one order that depends on the shape alone, and
 * KV tiles are aligned to positions.  So a batch gives bit for bit what each
 * of its members gives alone.
 *
 * `ref` (plain C) is the oracle and runs everywhere; avx2, avx512 and
 * avx512_bf16 are chosen at run time.  Tables agree within the noise of their activation form, not
 * bit for bit with each other.
 */
#ifndef FHK_KERNELS_H
#define FHK_KERNELS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Weight types, by GGUF's numbers
 * (https://github.com/ggml-org/ggml/blob/master/docs/gguf.md). */
enum fhk_type {
	FHK_F32 = 0,
	FHK_F16 = 1,
	FHK_Q4_0 = 2,
	FHK_Q4_1 = 3,
	FHK_Q5_0 = 6,
	FHK_Q5_1 = 7,
	FHK_Q8_0 = 8,
	FHK_Q2_K = 10,
	FHK_Q3_K = 11,
	FHK_Q4_K = 12,
	FHK_Q5_K = 13,
	FHK_Q6_K = 14,
	FHK_IQ4_NL = 20,
	FHK_IQ4_XS = 23,
	FHK_BF16 = 30,
	FHK_MXFP4 = 39,
};

struct fhk_type_info {
	const char *name;
	uint32_t block_elems; /* 1, 32 or 256 */
	uint32_t block_bytes;
};

/* NULL for a type that the kernels cannot run. */
const struct fhk_type_info *fhk_type_info(uint32_t type);

/*
 * Dequantise @n elements (whole blocks) of a row in file order to f32: the
 * definition of what each type means, and the embedding look-up.
 * src: [n / block_elems] blocks, any alignment; dst: [n] f32
 */
void fhk_dequant(uint32_t type, const void *src, float *dst, size_t n);
/* The reverse, for F16, BF16, Q8_0 and F32 (tests, KV). */
void fhk_quant_f16(const float *src, uint16_t *dst, size_t n);
void fhk_quant_bf16(const float *src, uint16_t *dst, size_t n);

#define FHK_PANEL 16	   /* rows in a packed panel; row ranges begin and end on it (or at the matrix' end) */
#define FHK_KV_BLOCK 32	   /* tokens in a KV block */
#define FHK_ALIGN 64	   /* alignment of every buffer that a caller passes */
#define FHK_ACT_COLS 32	   /* columns of activations that are converted together */
#define FHK_PAD 64	   /* f32 rows of activations are padded with zeros to a multiple of this */
#define FHK_ATTN_SPLIT 512 /* tokens of context that one attention item covers */

/*
 * Floats from one row of activations to the next.  Never a multiple of 2 KiB:
 * the same column of several rows would fall into the same cache sets.
 */
static inline uint32_t fhk_pad(uint32_t n)
{
	uint32_t ld = (n + FHK_PAD - 1) / FHK_PAD * FHK_PAD;

	return ld % 512 ? ld : ld + FHK_PAD;
}

/* What a matrix multiplication wants its activations to be. */
enum fhk_form {
	FHK_FORM_F32,  /* f32 as it is */
	FHK_FORM_Q8,   /* int8, one f32 scale for each 32 columns */
	FHK_FORM_BF16, /* bfloat16 */
	FHK_NR_FORMS,
};

/*
 * Activations of some tokens.  The caller owns every buffer and sizes them with
 * act_bytes(); f32 is always there, the others after act_prepare().
 */
struct fhk_act {
	uint32_t cols;		  /* meaningful columns */
	uint32_t ld;		  /* fhk_pad(cols) */
	float *f32;		  /* [nr_tokens, ld], columns past cols are zero */
	void *form[FHK_NR_FORMS]; /* private layout, [nr_tokens] rows; NULL where unused */
};

/*
 * A weight matrix, or a stack of them (experts), ready to multiply with.
 * Filled in by mat_plan(); data is set by the caller: packed memory of
 * packed_bytes (FHK_ALIGN aligned), or the file's own bytes if that is 0.
 */
struct fhk_mat {
	uint32_t type;
	uint32_t rows, cols; /* of one expert; y[rows] = W[rows, cols] x[cols] */
	uint32_t nr_experts; /* 1 for a plain matrix */
	enum fhk_form form;  /* of the activations */
	uint32_t layout;     /* private to the table */
	size_t expert_bytes; /* from one expert to the next, in data */
	size_t packed_bytes; /* of all experts; 0: runs from the file's bytes */
	const void *data;
};

/* matmul flags */
#define FHK_ADD 1u /* y += instead of y = */

/* One item of attention: some query tokens of one sequence, one KV head, one split of its context. */
struct fhk_attn {
	const float *q; /* [nr_q, q_ld]: this KV head's query heads lie at q[t * q_ld + g * head_dim], rotated */
	size_t q_ld;	/* floats from a token to the next */
	uint32_t nr_q;	/* query tokens, at positions pos0 .. pos0 + nr_q - 1 */
	uint32_t pos0;
	uint32_t nr_group;  /* query heads that share this KV head, 1.. */
	uint32_t head_dim;  /* of k and v; a multiple of 8, at most 256 */
	uint32_t kv_type;   /* FHK_F32, FHK_F16, FHK_BF16 or FHK_Q8_0 */
	uint32_t window;    /* a token sees itself and window - 1 before it; 0: all */
	float scale;	    /* of q.k */
	float softcap;	    /* 0: none; else cap * tanh(score / cap) */
	const float *sinks; /* [nr_group] one more logit without a value, or NULL; counted in split 0 only */
	const void *const
		*k; /* [blocks of the context] this KV head's keys, block i holds positions 32 i .. 32 i + 31 */
	const void *const *v;
	uint32_t split;	    /* covers positions split * FHK_ATTN_SPLIT .. + FHK_ATTN_SPLIT - 1 */
	uint32_t nr_splits; /* of this sequence at this step; with 1, out is final */
	float *out;	    /* final: [nr_q, out_ld], head g at out[t * out_ld + g * head_dim] */
	size_t out_ld;
	float *partial; /* nr_splits > 1: [nr_q, nr_group, head_dim + 2]: unnormalised sum, maximum, sum of exp */
	void *scratch;	/* attn_scratch_bytes() */
};

/* Gated activations of a feed-forward layer */
enum fhk_glu {
	FHK_GLU_SILU, /* silu(g) * u */
	FHK_GLU_GELU, /* gelu_tanh(g) * u */
	FHK_GLU_OAI,  /* gpt-oss: g = min(g, 7), u clamped to +-7, g * sigmoid(1.702 g) * (u + 1) */
};

struct fhk_ops {
	const char *name; /* "ref", "avx2", "avx512", "avx512_bf16" */

	/* How this table wants a [rows, cols] x nr_experts matrix of @type. 0, or -1: the type is unknown. */
	int (*mat_plan)(struct fhk_mat *m, uint32_t type, uint32_t rows, uint32_t cols, uint32_t nr_experts);
	/*
	 * Pack rows r0..r1 of @expert from the file's rows (src: row 0 of that
	 * expert, file order) into dst (the whole packed matrix).  Row ranges
	 * are whole panels, so threads may pack different ones at once.
	 */
	void (*mat_pack)(const struct fhk_mat *m, uint32_t expert, const void *src, uint32_t r0, uint32_t r1,
			 void *dst);

	/* Bytes of x->form[form] for @nr_tokens tokens of @cols columns; 0 for F32. */
	size_t (*act_bytes)(enum fhk_form form, uint32_t nr_tokens, uint32_t cols);
	/*
	 * Convert columns c0..c1 of f32 rows t0..t1 into x->form[form]: c0 is a
	 * multiple of FHK_ACT_COLS, and so is c1, or it is x->ld.  Pieces may be
	 * converted by different threads.  No-op for F32.
	 */
	void (*act_prepare)(struct fhk_act *x, enum fhk_form form, uint32_t t0, uint32_t t1, uint32_t c0, uint32_t c1);

	/*
	 * y[i * ldy + (r - r0)] (+)= W[r] . x[idx ? idx[i] : i] for i < nr,
	 * r0 <= r < r1.  Reads x->form[m->form].  y: [nr, ldy] f32, nr >= 1.
	 * m->layout decides the reduction order, nr never does.
	 */
	void (*matmul)(const struct fhk_mat *m, uint32_t expert, const struct fhk_act *x, const uint32_t *idx,
		       uint32_t nr, uint32_t r0, uint32_t r1, float *y, size_t ldy, unsigned int flags);

	/* y = x / rms(x) * (w ? w : 1); x, w, y: [n] f32; y may be x. */
	void (*rmsnorm)(float *y, const float *x, const float *w, uint32_t n, float eps);
	/* Rotate the first 2 * nr_pairs of head x: pairs (i, i + nr_pairs), or (2i, 2i + 1) if interleaved. cs:
	 * [nr_pairs, 2] cos, sin */
	void (*rope)(float *x, const float *cs, uint32_t nr_pairs, bool interleaved);
	/* h[i] = glu(g[i], u[i]); [n] f32; h may be g. */
	void (*glu)(float *h, const float *g, const float *u, uint32_t n, enum fhk_glu kind);
	/* y += a * x; [n] f32 */
	void (*axpy)(float *y, float a, const float *x, uint32_t n);
	/* cap * tanh(x / cap) in place */
	void (*softcap)(float *x, uint32_t n, float cap);
	/* Index of the largest of x: [n]; ties go to the lowest index; NaN never wins. */
	uint32_t (*argmax)(const float *x, uint32_t n);
	/* Maximum, and sum of exp(x - maximum), in one fixed order. */
	float (*sumexp)(const float *x, uint32_t n, float *max);

	/* Bytes of one KV head's keys (or values) in one block. */
	size_t (*kv_head_bytes)(uint32_t kv_type, uint32_t head_dim);
	/* Write k and v: [head_dim] f32 as token @slot (0..31) of a block's head. */
	void (*kv_append)(uint32_t kv_type, uint32_t head_dim, uint32_t slot, void *k_head, void *v_head,
			  const float *k, const float *v);
	size_t (*attn_scratch_bytes)(uint32_t max_q, uint32_t nr_group, uint32_t head_dim);
	void (*attn)(const struct fhk_attn *a);
	/*
	 * Merge the partials of all splits, in order of the splits, into out.
	 * partial: [nr_splits][nr_q, nr_group, head_dim + 2]
	 */
	void (*attn_combine)(const float *partial, uint32_t nr_splits, uint32_t nr_q, uint32_t nr_group,
			     uint32_t head_dim, float *out, size_t out_ld);
};

extern const struct fhk_ops fhk_ref;

/*
 * The best table that this CPU (and its operating system) runs.  @isa: NULL or
 * "" for the best, or "ref", "avx2", "avx512", "avx512_bf16"; NULL comes back
 * for one that does not exist here.
 */
const struct fhk_ops *fhk_select(const char *isa);

#endif /* FHK_KERNELS_H */
