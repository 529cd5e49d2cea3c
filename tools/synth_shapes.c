// SPDX-License-Identifier: Apache-2.0
/*
 * The shapes of `freehold synth`: sizes of published models, the tensors and
 * keys that such a model has, and a vocabulary of the right size for those who
 * have none at hand.
 */
#include <math.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "runtime/model/gguf_types.h"
#include "tools/synth.h"

static const struct synth_shape shapes[] = {
	/* name		  dim layers heads kv hd  ffn  experts  vocab  tied   base  stretch */
	{"tiny", 256, 4, 8, 4, 32, 768, 0, 0, 2048, false, 10000.F, 0},
	{"tiny-moe", 256, 4, 8, 4, 32, 512, 8, 2, 2048, false, 10000.F, 0},
	{"tinyllama-1.1b", 2048, 22, 32, 4, 64, 5632, 0, 0, 32000, false, 10000.F, 0},
	{"llama-3.2-1b", 2048, 16, 32, 8, 64, 8192, 0, 0, 128256, true, 500000.F, 32},
	{"llama-3.2-3b", 3072, 28, 24, 8, 128, 8192, 0, 0, 128256, true, 500000.F, 32},
	{"llama-3.1-8b", 4096, 32, 32, 8, 128, 14336, 0, 0, 128256, false, 500000.F, 8},
	{"mixtral-mini", 1024, 16, 16, 4, 64, 3584, 8, 2, 32000, false, 1000000.F, 0},
	{"mixtral-8x1b", 2048, 16, 32, 8, 64, 5632, 8, 2, 32000, false, 1000000.F, 0},
};

#define NR_SHAPES (sizeof(shapes) / sizeof(shapes[0]))

const struct synth_shape *synth_shape_at(unsigned int i)
{
	return i < NR_SHAPES ? &shapes[i] : NULL;
}

const struct synth_shape *synth_shape_by_name(const char *name)
{
	for (size_t i = 0; i < NR_SHAPES; i++) {
		if (!strcmp(shapes[i].name, name))
			return &shapes[i];
	}
	return NULL;
}

float synth_rope_factor(const struct synth_shape *s, uint32_t i, uint32_t n)
{
	/* Meta's rule for Llama 3.1, with its constants: long waves are stretched, short ones kept, a ramp between. */
	const double low = 1, high = 4, ctx = 8192;
	double wave = 2 * M_PI * pow((double)s->rope_base, (double)i / n), smooth;

	if (wave < ctx / high)
		return 1;
	if (wave > ctx / low)
		return s->rope_factor;
	smooth = (ctx / wave - low) / (high - low);
	return (float)(1 / ((1 - smooth) / (double)s->rope_factor + smooth));
}

/* The next entry of a plan; layer < 0: a tensor of no layer. */
static struct synth_tensor *add(struct synth_tensor *plan, uint32_t *nr, int layer, const char *name, uint32_t type,
				uint64_t cols, uint64_t rows, uint64_t experts)
{
	struct synth_tensor *t = &plan[(*nr)++];

	if (layer < 0)
		snprintf(t->name, sizeof(t->name), "%s.weight", name);
	else
		snprintf(t->name, sizeof(t->name), "blk.%d.%s.weight", layer, name);
	t->type = type;
	t->nr_dims = experts ? 3 : rows ? 2 : 1;
	t->ne[0] = cols;
	t->ne[1] = rows ? rows : 1;
	t->ne[2] = experts ? experts : 1;
	t->fill = rows ? SYNTH_RANDOM : SYNTH_ONES;
	t->std = 1.F / sqrtf((float)cols);
	return t;
}

/* What adds to the residual stream is kept small, so that it does not grow with depth. */
static void plan_layer(const struct synth_shape *s, uint32_t type, int i, struct synth_tensor *plan, uint32_t *nr)
{
	float small = 1.F / sqrtf(2.F * (float)s->nr_layers);
	uint32_t q = s->nr_heads * s->head_dim, kv = s->nr_kv_heads * s->head_dim, e = s->nr_experts;

	add(plan, nr, i, "attn_norm", 0, s->dim, 0, 0);
	add(plan, nr, i, "attn_q", type, s->dim, q, 0);
	add(plan, nr, i, "attn_k", type, s->dim, kv, 0);
	add(plan, nr, i, "attn_v", type, s->dim, kv, 0);
	add(plan, nr, i, "attn_output", type, q, s->dim, 0)->std *= small;
	add(plan, nr, i, "ffn_norm", 0, s->dim, 0, 0);
	if (e)
		add(plan, nr, i, "ffn_gate_inp", 0, s->dim, e, 0);
	add(plan, nr, i, e ? "ffn_gate_exps" : "ffn_gate", type, s->dim, s->ffn, e);
	add(plan, nr, i, e ? "ffn_up_exps" : "ffn_up", type, s->dim, s->ffn, e);
	add(plan, nr, i, e ? "ffn_down_exps" : "ffn_down", type, s->ffn, s->dim, e)->std *= small;
}

struct synth_tensor *synth_plan(const struct synth_shape *s, uint32_t type, uint32_t nr_vocab, uint32_t *nr)
{
	struct synth_tensor *plan = calloc(10 * (size_t)s->nr_layers + 4, sizeof(*plan));
	uint32_t embd = synth_embd_type(type);

	*nr = 0;
	if (!plan)
		return NULL;
	add(plan, nr, -1, "token_embd", embd, s->dim, nr_vocab, 0);
	if (!s->tied)
		plan[0].std = 1.F;
	if (s->rope_factor != 0)
		add(plan, nr, -1, "rope_freqs", 0, s->head_dim / 2, 0, 0)->fill = SYNTH_ROPE;
	for (uint32_t i = 0; i < s->nr_layers; i++)
		plan_layer(s, type, (int)i, plan, nr);
	add(plan, nr, -1, "output_norm", 0, s->dim, 0, 0);
	if (!s->tied)
		add(plan, nr, -1, "output", embd, s->dim, nr_vocab, 0);
	return plan;
}

static void put_piece(struct fh_gguf_writer *w, const char *s)
{
	fh_gguf_put_elem_str(w, (struct fh_str){.p = s, .n = strlen(s)});
}

#define NR_SPECIAL 3
#define NR_BYTES 256
#define SPACE "\xe2\x96\x81" /* U+2581, how SentencePiece writes a space */

/* Syllable @i of 105: a consonant and a vowel. */
#define NR_SYLLABLES 105
static void syllable(uint32_t i, char out[3])
{
	out[0] = "bcdfghjklmnpqrstvwxyz"[i / 5 % 21];
	out[1] = "aeiou"[i % 5];
	out[2] = '\0';
}

/*
 * Piece @i after the special and byte tokens: printable characters, then words
 * of one, two and three syllables.  All differ, and each longer one is the sum
 * of two shorter ones, so that SentencePiece's merging can arrive at it.
 */
static void make_piece(uint32_t i, char out[16])
{
	const uint32_t n = NR_SYLLABLES;
	char a[3], b[3], c[3];

	if (i == 0) {
		strcpy(out, SPACE);
		return;
	}
	if (i < 95) { /* '!' .. '~' */
		snprintf(out, 16, "%c", (char)(' ' + i));
		return;
	}
	i -= 95;
	if (i < 2 * n) { /* every other one with a space before it */
		syllable(i / 2, a);
		snprintf(out, 16, "%s%s", i % 2 ? SPACE : "", a);
		return;
	}
	i -= 2 * n;
	if (i < 2 * n * n) {
		syllable(i / 2 / n, a);
		syllable(i / 2 % n, b);
		snprintf(out, 16, "%s%s%s", i % 2 ? SPACE : "", a, b);
		return;
	}
	i -= 2 * n * n;
	syllable(i / n / n % n, a);
	syllable(i / n % n, b);
	syllable(i % n, c);
	snprintf(out, 16, "%s%s%s", a, b, c);
}

static void made_up_tokens(struct fh_gguf_writer *w, uint32_t nr)
{
	static const char *const special[NR_SPECIAL] = {"<unk>", "<s>", "</s>"};
	char s[16];

	fh_gguf_put_arr(w, "tokenizer.ggml.tokens", FH_GGUF_STR, nr);
	for (uint32_t i = 0; i < nr; i++) {
		if (i < NR_SPECIAL) {
			put_piece(w, special[i]);
			continue;
		}
		if (i < NR_SPECIAL + NR_BYTES)
			snprintf(s, sizeof(s), "<0x%02X>", i - NR_SPECIAL);
		else
			make_piece(i - NR_SPECIAL - NR_BYTES, s);
		put_piece(w, s);
	}
}

/* A SentencePiece vocabulary of @nr tokens. */
static void made_up_vocab(struct fh_gguf_writer *w, uint32_t nr)
{
	enum { NORMAL = 1, UNKNOWN = 2, CONTROL = 3, BYTE = 6 };
	const uint32_t plain = NR_SPECIAL + NR_BYTES;

	fh_gguf_put_str(w, "tokenizer.ggml.model", "llama");
	fh_gguf_put_str(w, "tokenizer.ggml.pre", "default");
	made_up_tokens(w, nr);
	fh_gguf_put_arr(w, "tokenizer.ggml.scores", FH_GGUF_F32, nr);
	for (uint32_t i = 0; i < nr; i++) {
		float score = i < plain ? 0 : -(float)(i - plain);

		fh_gguf_put_elem(w, &score, sizeof(score));
	}
	fh_gguf_put_arr(w, "tokenizer.ggml.token_type", FH_GGUF_I32, nr);
	for (uint32_t i = 0; i < nr; i++) {
		int32_t kind = i == 0 ? UNKNOWN : i < NR_SPECIAL ? CONTROL : i < plain ? BYTE : NORMAL;

		fh_gguf_put_elem(w, &kind, sizeof(kind));
	}
	fh_gguf_put_u32(w, "tokenizer.ggml.bos_token_id", 1);
	fh_gguf_put_u32(w, "tokenizer.ggml.eos_token_id", 2);
	fh_gguf_put_u32(w, "tokenizer.ggml.unknown_token_id", 0);
	fh_gguf_put_bool(w, "tokenizer.ggml.add_bos_token", true);
	fh_gguf_put_bool(w, "tokenizer.ggml.add_eos_token", false);
}

static void copy_vocab(struct fh_gguf_writer *w, const struct fh_gguf *vocab)
{
	static const char prefix[] = "tokenizer.";

	for (uint64_t i = 0; i < fh_gguf_nr_keys(vocab); i++) {
		struct fh_str name = fh_gguf_key_at(vocab, i, NULL);

		if (name.n > sizeof(prefix) - 1 && !memcmp(name.p, prefix, sizeof(prefix) - 1))
			fh_gguf_put_copy(w, vocab, i);
	}
}

void synth_keys(struct fh_gguf_writer *w, const struct synth_shape *s, uint32_t type, uint32_t nr_vocab,
		uint32_t nr_ctx, const struct fh_gguf *vocab)
{
	char name[64];

	snprintf(name, sizeof(name), "%s random", s->name);
	fh_gguf_put_str(w, "general.architecture", "llama");
	fh_gguf_put_str(w, "general.name", name);
	fh_gguf_put_u32(w, "general.file_type", synth_file_type(type));
	fh_gguf_put_u32(w, "general.quantization_version", 2);
	fh_gguf_put_u32(w, "general.alignment", FH_GGUF_WRITE_ALIGN);
	fh_gguf_put_u32(w, "llama.block_count", s->nr_layers);
	fh_gguf_put_u32(w, "llama.context_length", nr_ctx);
	fh_gguf_put_u32(w, "llama.embedding_length", s->dim);
	fh_gguf_put_u32(w, "llama.feed_forward_length", s->ffn);
	fh_gguf_put_u32(w, "llama.attention.head_count", s->nr_heads);
	fh_gguf_put_u32(w, "llama.attention.head_count_kv", s->nr_kv_heads);
	fh_gguf_put_u32(w, "llama.attention.key_length", s->head_dim);
	fh_gguf_put_u32(w, "llama.attention.value_length", s->head_dim);
	fh_gguf_put_f32(w, "llama.attention.layer_norm_rms_epsilon", 1e-5F);
	fh_gguf_put_u32(w, "llama.rope.dimension_count", s->head_dim);
	fh_gguf_put_f32(w, "llama.rope.freq_base", s->rope_base);
	fh_gguf_put_u32(w, "llama.vocab_size", nr_vocab);
	if (s->nr_experts) {
		fh_gguf_put_u32(w, "llama.expert_count", s->nr_experts);
		fh_gguf_put_u32(w, "llama.expert_used_count", s->nr_used);
	}
	if (vocab)
		copy_vocab(w, vocab);
	else
		made_up_vocab(w, nr_vocab);
}
