/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the parts of `freehold synth` share: the shapes, the plan of a model's
 * tensors, and random weights in every type.
 */
#ifndef FH_TOOLS_SYNTH_H
#define FH_TOOLS_SYNTH_H

#include <stdbool.h>
#include <stdint.h>

#include "runtime/model/gguf.h"
#include "runtime/model/gguf_write.h"

struct synth_shape {
	const char *name;
	uint32_t dim, nr_layers, nr_heads, nr_kv_heads, head_dim, ffn;
	uint32_t nr_experts, nr_used; /* 0: dense */
	uint32_t nr_vocab;	      /* of the model that it is shaped after */
	bool tied;		      /* token_embd is the output matrix as well */
	float rope_base;
	float rope_factor; /* Llama 3's stretch of low frequencies; 0: none */
};

/* Shape @i, or NULL past the last. */
const struct synth_shape *synth_shape_at(unsigned int i);
const struct synth_shape *synth_shape_by_name(const char *name);

/* How a tensor is filled. */
enum synth_fill {
	SYNTH_RANDOM, /* around 0, deviation std */
	SYNTH_ONES,   /* F32 */
	SYNTH_ROPE,   /* F32: Llama 3's factor of each frequency */
};

struct synth_tensor {
	char name[48];
	enum synth_fill fill;
	uint32_t type;
	uint32_t nr_dims;
	uint64_t ne[3];
	float std;
	uint32_t stream; /* of random numbers */
	uint32_t rotate; /* rows, in groups of so many, are written with the last one first; 0: in order */
};

/*
 * The tensors of @s with matrices of @type, in file order; *nr of them.  The
 * caller frees the array.  NULL: no memory.
 */
struct synth_tensor *synth_plan(const struct synth_shape *s, uint32_t type, uint32_t nr_vocab, uint32_t *nr);

/* Bytes of @n weights of @type whatever the rows are; 0 when @n is no whole number of blocks. */
uint64_t synth_bytes(uint32_t type, uint64_t n);

/* The model's keys; those of the tokenizer from @vocab, or made up where it is NULL. */
void synth_keys(struct fh_gguf_writer *w, const struct synth_shape *s, uint32_t type, uint32_t nr_vocab,
		uint32_t nr_ctx, const struct fh_gguf *vocab);

/* A random generator whose streams do not meet: one a tensor. */
struct synth_rng {
	uint64_t s[4];
};

void synth_rng_seed(struct synth_rng *r, uint64_t seed, uint64_t stream);

/* Can we make weights of @type? */
bool synth_type_ok(uint32_t type);
/* GGUF's general.file_type for a model of mostly @type. */
uint32_t synth_file_type(uint32_t type);
/* The type of embedding and output where the other matrices are of @type. */
uint32_t synth_embd_type(uint32_t type);

/*
 * @n random weights (whole blocks) of mean about 0 and deviation about @std, in
 * @type's blocks, at @dst.  The same generator state gives the same bytes.
 */
void synth_weights(struct synth_rng *r, uint32_t type, void *dst, uint64_t n, float std);

/* Factor of rotary frequency @i of @n as Llama 3 has it, for SYNTH_ROPE. */
float synth_rope_factor(const struct synth_shape *s, uint32_t i, uint32_t n);

#endif /* FH_TOOLS_SYNTH_H */
