// SPDX-License-Identifier: Apache-2.0
/*
 * The CUDA back end's host side against the stand-in (sim.h): what it computes,
 * the order of its calls, and what becomes of it when any of them fails.
 *
 * Each trial is a process of its own, since an error of CUDA's stays with the
 * process.  A trial opens the back end, runs everything that a batch can ask for
 * on a model of a few kilobytes, and closes it; the stand-in's report says what
 * was left behind.  LD_LIBRARY_PATH has to lead to the stand-in and
 * FREEHOLD_CUDA_IMAGE to any file that begins like a fat binary.
 */
#include <fcntl.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "kernels/kernels.h"
#include "runtime/accel/accel.h"
#include "runtime/accel/cuda_abi.h"
#include "runtime/base/log.h"
#include "runtime/model/gguf_write.h"
#include "runtime/model/model.h"

#define VOCAB 96u
#define DIM 64u
#define FFN 96u
#define NR_BLOCKS 24u
#define PROMPT 80u /* more than a graph takes */
#define SHORT 5u
#define NR_DECODE 4u
#define LOGIT_ERROR 0.03f /* two ways to round activations to eight bits, and their order */

enum { TRIAL_OK = 0, TRIAL_REFUSED = 3, TRIAL_WRONG = 4 };

/* ---- a model ---- */

struct tensor {
	char name[48];
	uint32_t type, rows, cols, experts;
};

static uint32_t rng_state = 12345;

static float noise(void)
{
	rng_state = rng_state * 1664525u + 1013904223u;
	return (float)(rng_state >> 8) / (float)(1 << 23) - 1;
}

/* Q8_0 or F32, random, small enough that the residual stream keeps its size. */
static void fill(uint8_t *out, const struct tensor *t)
{
	size_t n = (size_t)t->rows * t->cols * t->experts;
	float scale = t->rows == 1 ? 0.0f : 1.0f / sqrtf((float)t->cols);

	for (size_t i = 0; i < n && t->type == FHK_F32; i++)
		((float *)(void *)out)[i] = t->rows == 1 ? 1 : noise() * scale;
	for (size_t i = 0; i < n / 32 && t->type == FHK_Q8_0; i++) {
		float d = scale / 100;
		uint16_t half;

		fhk_quant_f16(&d, &half, 1);
		memcpy(out + i * 34, &half, 2);
		for (int k = 0; k < 32; k++)
			out[i * 34 + 2 + k] = (uint8_t)(int8_t)(noise() * 100);
	}
}

static uint32_t list_tensors(struct tensor *t, bool moe)
{
	uint32_t n = 0;

	t[n++] = (struct tensor){"token_embd.weight", FHK_Q8_0, VOCAB, DIM, 1};
	t[n++] = (struct tensor){"output_norm.weight", FHK_F32, 1, DIM, 1};
	t[n++] = (struct tensor){"output.weight", FHK_Q8_0, VOCAB, DIM, 1};
	for (int i = 0; i < 2; i++) {
		const struct {
			const char *name;
			uint32_t type, rows, cols, experts;
		} layer[] = {
			{"attn_norm", FHK_F32, 1, DIM, 1},
			{"attn_q", FHK_Q8_0, 64, DIM, 1},
			{"attn_k", FHK_Q8_0, 32, DIM, 1},
			{"attn_v", FHK_Q8_0, 32, DIM, 1},
			{"attn_output", FHK_Q8_0, DIM, 64, 1},
			{"ffn_norm", FHK_F32, 1, DIM, 1},
			{moe ? "ffn_gate_inp" : "ffn_gate", moe ? FHK_F32 : FHK_Q8_0, moe ? 4 : FFN, DIM, 1},
			{moe ? "ffn_gate_exps" : "ffn_up", FHK_Q8_0, FFN, DIM, moe ? 4 : 1},
			{moe ? "ffn_up_exps" : "ffn_down", FHK_Q8_0, moe ? FFN : DIM, moe ? DIM : FFN, moe ? 4 : 1},
			{"ffn_down_exps", FHK_Q8_0, DIM, FFN, 4}};

		for (int k = 0; k < (moe ? 10 : 9); k++) {
			t[n] = (struct tensor){.type = layer[k].type,
					       .rows = layer[k].rows,
					       .cols = layer[k].cols,
					       .experts = layer[k].experts};
			snprintf(t[n++].name, sizeof(t->name), "blk.%d.%.15s.weight", i, layer[k].name);
		}
	}
	return n;
}

static void put_keys(struct fh_gguf_writer *w, bool moe)
{
	fh_gguf_put_str(w, "general.architecture", "llama");
	fh_gguf_put_u32(w, "llama.vocab_size", VOCAB);
	fh_gguf_put_u32(w, "llama.context_length", 512);
	fh_gguf_put_u32(w, "llama.embedding_length", DIM);
	fh_gguf_put_u32(w, "llama.block_count", 2);
	fh_gguf_put_u32(w, "llama.feed_forward_length", FFN);
	fh_gguf_put_u32(w, "llama.attention.head_count", 4);
	fh_gguf_put_u32(w, "llama.attention.head_count_kv", 2);
	fh_gguf_put_f32(w, "llama.attention.layer_norm_rms_epsilon", 1e-5f);
	fh_gguf_put_u32(w, "llama.rope.dimension_count", 16);
	if (moe) {
		fh_gguf_put_u32(w, "llama.expert_count", 4);
		fh_gguf_put_u32(w, "llama.expert_used_count", 2);
	}
}

static uint8_t *model_file; /* the model points into it */

static struct fh_model *make_model(bool moe)
{
	struct fh_gguf_writer *w = fh_gguf_writer_new();
	struct tensor t[32];
	uint32_t nr = list_tensors(t, moe);
	struct fh_err err = {.msg = ""};
	struct fh_gguf *g = NULL;
	struct fh_model *m = NULL;
	const void *head;
	uint8_t *file;
	size_t bytes, at;

	put_keys(w, moe);
	for (uint32_t i = 0; i < nr; i++) {
		const uint64_t ne[] = {t[i].cols, t[i].rows, t[i].experts};

		fh_gguf_put_tensor(w, t[i].name, t[i].type, t[i].experts > 1 ? 3 : t[i].rows > 1 ? 2 : 1, ne);
	}
	if (fh_gguf_writer_header(w, &head, &bytes))
		exit(TRIAL_WRONG);
	file = aligned_alloc(64, (bytes + fh_gguf_writer_data_bytes(w) + 63) / 64 * 64);
	memcpy(file, head, bytes);
	rng_state = 12345;
	for (uint32_t i = 0; i < nr; i++) {
		size_t n = (size_t)t[i].rows * t[i].cols * t[i].experts;

		at = bytes;
		bytes += t[i].type == FHK_F32 ? n * 4 : n / 32 * 34;
		fill(file + at, &t[i]);
		while (bytes % FH_GGUF_WRITE_ALIGN)
			file[bytes++] = 0;
	}
	fh_gguf_writer_free(w);
	model_file = file;
	if (fh_gguf_open_mem(file, bytes, &g, &err) || fh_model_from_gguf(g, &m, &err)) {
		fprintf(stderr, "the model: %s\n", err.msg);
		exit(TRIAL_WRONG);
	}
	return m;
}

/* ---- what a trial does ---- */

struct outcome {
	uint32_t nr;
	uint32_t tokens[64];
	uint32_t nr_logits;
	float logits[8][VOCAB];
	float pooled[DIM];
};

struct rig {
	struct fh_accel *a;
	struct outcome *o;
	uint32_t blocks[3][6];
	uint32_t history[2][PROMPT + 64];
	struct fh_sampling greedy;
	bool on_host; /* ask for logits, too: then the host draws */
	float *spare; /* [2, VOCAB] */
	int rc;
};

static void step(struct rig *r, const struct fh_batch *b)
{
	if (r->rc)
		return;
	r->rc = r->a->ops->submit(r->a, b);
	while (!r->rc && (r->rc = r->a->ops->reap(r->a, false)) == -EAGAIN)
		r->rc = r->a->ops->reap(r->a, true);
}

static void note(struct rig *r, const struct fh_slot *slot, uint32_t index)
{
	if (!r->rc && slot->stamp != index + 1) {
		fprintf(stderr, "token %u has stamp %u\n", index, slot->stamp);
		r->rc = -EPROTO;
	}
	r->o->tokens[r->o->nr++] = slot->token;
}

static struct fh_batch_seq seq_of(struct rig *r, uint32_t seq, uint32_t q_start, uint32_t q_len, uint32_t pos)
{
	return (struct fh_batch_seq){.seq = seq,
				     .q_start = q_start,
				     .q_len = q_len,
				     .pos = pos,
				     .nr_blocks = 6,
				     .blocks = r->blocks[seq],
				     .history = r->history[seq % 2],
				     .nr_prompt = seq ? SHORT : PROMPT};
}

/* A long prompt alone; a short one with logits to the host beside an embedding. */
static void prompts(struct rig *r, uint32_t *tokens)
{
	struct fh_slot slot[2] = {0};
	struct fh_batch_seq s[2] = {seq_of(r, 0, 0, PROMPT, 0)};
	struct fh_batch b = {.nr_seqs = 1, .nr_tokens = PROMPT, .tokens = tokens, .seqs = s};

	for (uint32_t i = 0; i < PROMPT; i++)
		tokens[i] = r->history[0][i] = (i * 37 + 11) % VOCAB;
	s[0].sampling = &r->greedy;
	s[0].nr_history = PROMPT;
	s[0].slot = &slot[0];
	step(r, &b);
	note(r, &slot[0], 0);
	r->history[0][PROMPT] = slot[0].token;

	for (uint32_t i = 0; i < SHORT; i++)
		tokens[i] = tokens[SHORT + i] = r->history[1][i] = (i * 53 + 3) % VOCAB;
	s[0] = seq_of(r, 1, 0, SHORT, 0);
	s[0].sampling = &r->greedy;
	s[0].nr_history = SHORT;
	s[0].slot = &slot[1];
	s[0].logits = r->o->logits[r->o->nr_logits];
	s[0].logits_from = SHORT - 2;
	r->o->nr_logits += 2;
	s[1] = seq_of(r, 2, SHORT, SHORT, 0);
	s[1].pooled = r->o->pooled;
	b.nr_seqs = 2;
	b.nr_tokens = 2 * SHORT;
	step(r, &b);
	note(r, &slot[1], 0);
	r->history[1][SHORT] = slot[1].token;
}

/* Both sequences, with everything that the sampling may be asked for in turn. */
static void decode(struct rig *r, uint32_t *tokens, const struct fh_sampling *sampling, uint32_t index,
		   const uint32_t *mask, bool prev)
{
	static const uint32_t banned[] = {7, 8, 9};
	struct fh_slot slot[2] = {0};
	struct fh_top top[2][4];
	struct fh_batch_seq s[2];
	struct fh_batch b = {.nr_seqs = 2, .nr_tokens = 2, .tokens = tokens, .seqs = s};

	for (uint32_t i = 0; i < 2; i++) {
		uint32_t n = i ? SHORT : PROMPT;

		s[i] = seq_of(r, i, i, 1, n + index - 1);
		s[i].sampling = sampling;
		s[i].index = index;
		s[i].nr_history = n + index;
		s[i].slot = &slot[i];
		s[i].top = sampling->nr_top ? top[i] : NULL;
		s[i].mask = mask;
		s[i].banned = banned;
		s[i].nr_banned = 3;
		s[i].logits = r->on_host ? r->spare + i * VOCAB : NULL;
		tokens[i] = prev ? FH_TOKEN_PREV : r->history[i][n + index - 1];
	}
	step(r, &b);
	for (uint32_t i = 0; i < 2; i++) {
		note(r, &slot[i], index);
		r->history[i][(i ? SHORT : PROMPT) + index] = slot[i].token;
	}
}

/* Guesses: the right one, then a wrong one; three samples come. */
static void guess(struct rig *r, uint32_t *tokens, uint32_t index)
{
	struct fh_slot slot[3] = {0};
	struct fh_batch_seq s = seq_of(r, 0, 0, 3, PROMPT + index - 1);
	const struct fh_batch b = {.nr_seqs = 1, .nr_tokens = 3, .tokens = tokens, .seqs = &s};

	tokens[0] = r->history[0][PROMPT + index - 1];
	for (uint32_t i = 1; i < 3; i++)
		tokens[i] = r->history[0][PROMPT + index + i - 1] = (tokens[i - 1] + i) % VOCAB;
	s.sampling = &r->greedy;
	s.index = index;
	s.nr_history = PROMPT + index;
	s.nr_draft = 2;
	s.slot = slot;
	step(r, &b);
	for (uint32_t i = 0; i < 3; i++)
		note(r, &slot[i], index + i);
}

/* A block leaves for the host, its place is spoilt by another, and it comes back. */
static void move_blocks(struct rig *r)
{
	size_t bytes = r->a->ops->kv_block_bytes(r->a);
	void *host = malloc(bytes);

	if (!r->rc)
		r->rc = r->a->ops->kv_swap(r->a, r->blocks[0][0], host, true);
	if (!r->rc)
		r->rc = r->a->ops->kv_copy(r->a, r->blocks[0][0], r->blocks[1][0]);
	if (!r->rc)
		r->rc = r->a->ops->kv_swap(r->a, r->blocks[0][0], host, false);
	free(host);
}

static void run_all(struct rig *r)
{
	static const struct fh_logit_bias bias[] = {{20, 2.5f}, {21, -100}, {20, 0.5f}};
	struct fh_sampling p;
	uint32_t tokens[PROMPT], mask[(VOCAB + 31) / 32] = {0xffffffff, 0x0000ffff, 0xffffffff};
	uint32_t index = 1;

	fh_sampling_default(&r->greedy);
	r->greedy.temperature = 0;
	for (uint32_t i = 0; i < 3; i++)
		for (uint32_t k = 0; k < 6; k++)
			r->blocks[i][k] = k * 3 + i;
	prompts(r, tokens);
	for (uint32_t i = 0; i < NR_DECODE; i++)
		decode(r, tokens, &r->greedy, index++, NULL, i > 0);
	move_blocks(r);
	p = r->greedy;
	p.repetition_penalty = 1.3f;
	p.presence_penalty = 0.2f;
	p.frequency_penalty = 0.1f;
	p.bias = bias;
	p.nr_bias = 3;
	p.logprobs = true;
	decode(r, tokens, &p, index++, mask, true);
	p.temperature = 0.9f;
	p.top_k = 40;
	p.top_p = 0.9f;
	p.min_p = 0.02f;
	for (p.seed = 1; p.seed < 5; p.seed++)
		decode(r, tokens, &p, index++, NULL, true);
	p.nr_top = 4; /* on the host */
	decode(r, tokens, &p, index++, NULL, true);
	r->a->ops->set_prev(r->a, 0, r->history[0][PROMPT + index - 1]);
	decode(r, tokens, &r->greedy, index++, NULL, true);
	guess(r, tokens, index);
}

static struct fh_accel_config config(void)
{
	return (struct fh_accel_config){
		.nr_threads = 1, .max_seqs = 4, .max_tokens = 96, .max_logits = 8, .max_blocks_per_seq = 6};
}

/* All of it on one accelerator. 0, or -errno with what was said. */
static int run_on(const struct fh_accel_ops *ops, bool on_host, const struct fh_model *m, struct outcome *o,
		  struct fh_err *err)
{
	struct fh_accel_config cfg = config();
	float spare[2 * VOCAB];
	struct rig r = {.o = o, .on_host = on_host, .spare = spare};
	const char *gpu = getenv("TRIAL_GPU");
	int rc;

	cfg.gpu = gpu ? (uint32_t)atoi(gpu) : 0;
	*err = (struct fh_err){0};
	memset(o, 0, sizeof(*o));
	rc = ops->open(&cfg, &r.a, err);
	if (rc)
		return rc;
	rc = ops->load(r.a, m, err);
	if (!rc)
		rc = ops->kv_alloc(r.a, NR_BLOCKS, err);
	if (!rc) {
		run_all(&r);
		rc = r.rc;
	}
	ops->close(r.a);
	return rc;
}

/* The larger one; no number is the largest of all. */
static float worse(float worst, float d)
{
	return d <= worst ? worst : isnan(d) ? INFINITY : d;
}

static void say_tokens(const char *who, const struct outcome *o)
{
	fprintf(stderr, "%s:", who);
	for (uint32_t i = 0; i < o->nr; i++)
		fprintf(stderr, " %u", o->tokens[i]);
	fputc('\n', stderr);
}

/* Logits and embeddings near the CPU's; tokens exactly those that the CPU's sampler draws from the same logits. */
static int compare(const struct fh_model *m, const struct outcome *cuda)
{
	static struct outcome cpu, host;
	struct fh_err err;
	float worst = 0;

	if (run_on(&fh_accel_cpu, false, m, &cpu, &err) || run_on(&fh_accel_cuda, true, m, &host, &err)) {
		fprintf(stderr, "%s\n", err.msg);
		return TRIAL_WRONG;
	}
	for (uint32_t i = 0; i < cpu.nr_logits; i++)
		for (uint32_t k = 0; k < VOCAB; k++)
			worst = worse(worst, fabsf(cpu.logits[i][k] - cuda->logits[i][k]));
	for (uint32_t k = 0; k < DIM; k++)
		worst = worse(worst, fabsf(cpu.pooled[k] - cuda->pooled[k]) / SHORT);
	if (worst < LOGIT_ERROR && host.nr == cuda->nr && !memcmp(host.tokens, cuda->tokens, sizeof(host.tokens)))
		return TRIAL_OK;
	fprintf(stderr, "logits differ by %g from the CPU's\n", worst);
	say_tokens("drawn on the device", cuda);
	say_tokens("drawn on the host  ", &host);
	return TRIAL_WRONG;
}

int main(int argc, char **argv)
{
	bool moe = argc > 1 && !strcmp(argv[1], "moe"), quick = argc > 2 && !strcmp(argv[2], "quick");
	static struct outcome cuda;
	struct fh_model *m = make_model(moe);
	struct fh_err err;
	int rc;

	fh_log_setup(FH_LOG_INFO, false);
	rc = run_on(&fh_accel_cuda, false, m, &cuda, &err);
	if (rc) {
		fprintf(stderr, "refused: %s (%s)\n", err.msg[0] ? err.msg : "a step", strerror(-rc));
		rc = rc == -EPROTO ? TRIAL_WRONG : TRIAL_REFUSED;
	} else {
		rc = quick ? TRIAL_OK : compare(m, &cuda);
		for (uint32_t i = 0; i < cuda.nr; i++)
			printf("%u ", cuda.tokens[i]);
	}
	fh_model_close(m);
	free(model_file);
	return rc;
}
