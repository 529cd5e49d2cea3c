// SPDX-License-Identifier: Apache-2.0
/*
 * The CPU accelerator: the same bits in any batch, chunking and number of
 * threads; batches that break the limits are refused; KV blocks can be copied
 * and moved.  The models are the small ones of FREEHOLD_SHARED.
 */
#include <criterion/criterion.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "kernels/kernels.h"
#include "runtime/accel/accel.h"
#include "runtime/model/model.h"

#define NR_SEQS 32u
#define MAX_BLOCKS 40u
#define MAX_BATCH 96u
#define MAX_LEN 1200u
#define NR_DECODE 6u

static uint64_t rng_state;

static uint32_t rng(uint32_t below)
{
	rng_state ^= rng_state << 13;
	rng_state ^= rng_state >> 7;
	rng_state ^= rng_state << 17;
	return (uint32_t)((rng_state * 2685821657736338717u) >> 33) % below;
}

/* The model @name of the shared fixtures; skips the test where they are not. */
static struct fh_model *open_model(const char *name)
{
	const char *shared = getenv("FREEHOLD_SHARED");
	struct fh_err err = {.msg = ""};
	struct fh_model *m;
	char path[4096];

	snprintf(path, sizeof(path), "%s/models/%s.gguf", shared ? shared : "../shared", name);
	if (access(path, R_OK))
		cr_skip_test("no %s (FREEHOLD_SHARED says where the models are)", path);
	cr_assert_eq(fh_model_open(path, &m, &err), 0, "%s", err.msg);
	return m;
}

static void copy_file(const char *from, int to)
{
	FILE *f = fopen(from, "rb");
	char buf[4096];
	size_t n;

	cr_assert_not_null(f);
	while ((n = fread(buf, 1, sizeof(buf), f)) > 0)
		cr_assert_eq(write(to, buf, n), (ssize_t)n);
	fclose(f);
}

static struct fh_accel *open_accel(const struct fh_model *m, const char *isa, uint32_t threads, enum fh_kv_type kv,
				   uint32_t nr_blocks)
{
	struct fh_accel_config cfg = {
		.nr_threads = threads,
		.max_seqs = NR_SEQS,
		.max_tokens = MAX_BATCH,
		.max_logits = MAX_BATCH,
		.max_blocks_per_seq = MAX_BLOCKS,
		.kv_type = kv,
		.isa = isa,
	};
	struct fh_err err = {.msg = ""};
	struct fh_accel *a;

	cr_assert_eq(fh_accel_cpu.open(&cfg, &a, &err), 0, "%s", err.msg);
	cr_assert_eq(a->ops->load(a, m, &err), 0, "%s", err.msg);
	cr_assert_eq(a->ops->kv_alloc(a, nr_blocks, &err), 0, "%s", err.msg);
	return a;
}

/* One sequence: its forced tokens, then NR_DECODE sampled ones, and every logit on the way. */
struct run {
	uint32_t len, at, nr_generated;
	uint32_t ids[MAX_LEN];
	uint32_t blocks[MAX_BLOCKS];
	struct fh_sampling sampling;
	struct fh_slot slots[NR_DECODE];
	uint32_t history[MAX_LEN + NR_DECODE];
	float *logits;				    /* [len + NR_DECODE, vocab] */
	float *pooled;				    /* [dim] */
	enum { ALL, LAST_OF_PART, SAMPLED } wanted; /* whose logits */
	bool pool;
	bool have[MAX_LEN + NR_DECODE];
};

static void run_init(struct run *r, const struct fh_model *m, uint32_t len, uint32_t index)
{
	memset(r, 0, sizeof(*r));
	r->len = len;
	for (uint32_t i = 0; i < len; i++)
		r->history[i] = r->ids[i] = rng(m->nr_vocab);
	fh_sampling_default(&r->sampling);
	r->sampling.seed = index;
	r->sampling.temperature = index % 3 ? 1.0f : 0.0f;
	r->logits = calloc((size_t)(len + NR_DECODE) * m->nr_vocab, sizeof(float));
	r->pooled = calloc(m->dim, sizeof(float));
	cr_assert(r->logits && r->pooled);
}

static void run_free(struct run *r)
{
	free(r->logits);
	free(r->pooled);
}

static bool run_over(const struct run *r)
{
	return r->nr_generated == NR_DECODE;
}

/* At most @most tokens of @r as one more part of the batch. */
static void run_part(struct run *r, const struct fh_model *m, uint32_t slot, uint32_t most, uint32_t *tokens,
		     struct fh_batch *b, struct fh_batch_seq *seqs)
{
	struct fh_batch_seq *s = &seqs[b->nr_seqs++];
	uint32_t left = r->at < r->len ? r->len - r->at : 1;

	*s = (struct fh_batch_seq){
		.seq = slot,
		.q_start = b->nr_tokens,
		.q_len = left < most ? left : most,
		.pos = r->at,
		.nr_blocks = MAX_BLOCKS,
		.blocks = r->blocks,
		.logits = r->logits + (size_t)r->at * m->nr_vocab,
	};
	if (r->wanted != ALL)
		s->logits_from = s->q_len - 1;
	if (r->wanted == SAMPLED && r->at + s->q_len < r->len)
		s->logits = NULL;
	else
		s->logits += (size_t)s->logits_from * m->nr_vocab;
	for (uint32_t i = s->logits_from; s->logits && i < s->q_len; i++)
		r->have[r->at + i] = true;
	if (r->at < r->len) {
		memcpy(tokens + b->nr_tokens, r->ids + r->at, sizeof(*tokens) * s->q_len);
		s->pooled = r->pool ? r->pooled : NULL;
	} else {
		tokens[b->nr_tokens] = FH_TOKEN_PREV;
	}
	r->at += s->q_len;
	b->nr_tokens += s->q_len;
	if (r->at < r->len)
		return;
	s->sampling = &r->sampling;
	s->index = r->nr_generated;
	s->history = r->history;
	s->nr_prompt = r->len;
	s->nr_history = r->len + r->nr_generated - (r->nr_generated > 0);
	s->slot = &r->slots[r->nr_generated++];
}

static void step(struct fh_accel *a, struct fh_batch *b)
{
	cr_assert_eq(a->ops->submit(a, b), 0);
	cr_assert_eq(a->ops->reap(a, true), 0);
}

/* After a step: the history gains what was sampled before the last token. */
static void run_note(struct run *r)
{
	if (r->nr_generated)
		r->history[r->len + r->nr_generated - 1] = r->slots[r->nr_generated - 1].token;
}

static void run_alone(struct fh_accel *a, const struct fh_model *m, struct run *r, uint32_t chunk)
{
	uint32_t tokens[MAX_BATCH];

	for (uint32_t i = 0; i < MAX_BLOCKS; i++)
		r->blocks[i] = i;
	while (!run_over(r)) {
		struct fh_batch_seq s;
		struct fh_batch b = {.tokens = tokens, .seqs = &s};

		run_part(r, m, 0, chunk, tokens, &b, &s);
		step(a, &b);
		run_note(r);
	}
}

/* All of them at once, in batches of a random few with random chunks. */
static void run_together(struct fh_accel *a, const struct fh_model *m, struct run *runs, uint32_t nr)
{
	uint32_t tokens[MAX_BATCH], left = nr;

	for (uint32_t i = 0; i < nr; i++)
		for (uint32_t k = 0; k < MAX_BLOCKS; k++)
			runs[i].blocks[k] = k * nr + (i * 7 + k) % nr; /* scattered, nobody else's */
	while (left) {
		struct fh_batch_seq seqs[NR_SEQS];
		struct fh_batch b = {.tokens = tokens, .seqs = seqs};
		uint32_t first = rng(nr);

		for (uint32_t i = 0; i < nr; i++) {
			uint32_t slot = (first + i) % nr, room = MAX_BATCH - b.nr_tokens;

			if (run_over(&runs[slot]) || !room || !rng(4))
				continue;
			run_part(&runs[slot], m, slot, 1 + rng(room < 40 ? room : 40), tokens, &b, seqs);
		}
		if (!b.nr_seqs)
			continue;
		step(a, &b);
		for (uint32_t i = 0; i < b.nr_seqs; i++) {
			run_note(&runs[seqs[i].seq]);
			left -= run_over(&runs[seqs[i].seq]);
		}
	}
}

static void compare(const struct fh_model *m, const struct run *alone, const struct run *mixed, uint32_t index,
		    const char *what)
{
	for (uint32_t i = 0; i < NR_DECODE; i++)
		cr_assert_eq(alone->slots[i].token, mixed->slots[i].token, "%s: sequence %u, token %u", what, index, i);
	for (uint32_t p = 0; p < alone->len + NR_DECODE - 1; p++)
		cr_assert(!mixed->have[p] ||
				  !memcmp(alone->logits + (size_t)p * m->nr_vocab,
					  mixed->logits + (size_t)p * m->nr_vocab, sizeof(float) * m->nr_vocab),
			  "%s: sequence %u of %u, logits at %u are other bits", what, index, alone->len, p);
	cr_assert(mixed->have[alone->len - 1] && alone->have[0]);
	if (!mixed->pool)
		return;
	cr_assert_eq(memcmp(alone->pooled, mixed->pooled, sizeof(float) * m->dim), 0, "%s: sequence %u, pooled", what,
		     index);
}

/* AddressSanitizer looks for other mistakes than a wrong bit, and slows the arithmetic down twenty times. */
#ifdef __SANITIZE_ADDRESS__
enum { PART = 4, THREADS_STEP = 2, LONGEST = FHK_ATTN_SPLIT + 40 };
#else
enum { PART = 1, THREADS_STEP = 1, LONGEST = MAX_LEN };
#endif

/* @longest tokens in one sequence, up to 24 in the others. */
static void check_invariance(const char *name, const char *isa, enum fh_kv_type kv, uint32_t nr, uint32_t longest)
{
	struct fh_model *m = open_model(name);
	struct run *alone = calloc(nr, sizeof(*alone)), *mixed = calloc(nr, sizeof(*mixed));
	struct fh_accel *a;
	char what[96];

	if (!fhk_select(isa)) {
		free(alone);
		free(mixed);
		fh_model_close(m);
		return;
	}
	longest = longest < LONGEST ? longest : LONGEST;
	rng_state = 88172645463325252u;
	a = open_accel(m, isa, 1, kv, NR_SEQS * MAX_BLOCKS);
	for (uint32_t i = 0; i < nr; i++) {
		run_init(&alone[i], m, i ? 1 + rng(24) : longest, i);
		alone[i].pool = true;
		run_alone(a, m, &alone[i], i % 2 ? 1 : MAX_BATCH);
	}
	a->ops->close(a);
	for (uint32_t threads = 1; threads <= 3; threads += THREADS_STEP) {
		a = open_accel(m, isa, threads, kv, NR_SEQS * MAX_BLOCKS);
		snprintf(what, sizeof(what), "%s, %s, %u threads", name, isa, threads);
		for (uint32_t i = 0; i < nr; i++) {
			run_init(&mixed[i], m, alone[i].len, i);
			mixed[i].wanted = (i + threads) % 3;
			mixed[i].pool = threads == 1;
			memcpy(mixed[i].ids, alone[i].ids, sizeof(mixed[i].ids));
			memcpy(mixed[i].history, alone[i].ids, sizeof(alone[i].ids));
		}
		run_together(a, m, mixed, nr);
		for (uint32_t i = 0; i < nr; i++) {
			compare(m, &alone[i], &mixed[i], i, what);
			run_free(&mixed[i]);
		}
		a->ops->close(a);
	}
	for (uint32_t i = 0; i < nr; i++)
		run_free(&alone[i]);
	free(alone);
	free(mixed);
	fh_model_close(m);
}

static void check_all_tables(const char *name, enum fh_kv_type kv, uint32_t nr, uint32_t longest)
{
	nr /= PART;
	check_invariance(name, "ref", kv, nr > 16 ? nr / 4 : 4, longest / 4);
	check_invariance(name, "avx2", kv, nr, longest);
	check_invariance(name, "avx512", kv, nr, longest);
}

/* Longer than FHK_ATTN_SPLIT, so that results are combined from splits. */
Test(accel, invariant_stories_f32)
{
	check_all_tables("stories260K-f32", FH_KV_F32, NR_SEQS, 1100);
}

Test(accel, invariant_stories_f16)
{
	check_all_tables("stories260K-f32", FH_KV_F16, NR_SEQS, 700);
}

Test(accel, invariant_stories_q8)
{
	check_all_tables("micro/llama31", FH_KV_Q8_0, NR_SEQS, 600);
	check_all_tables("micro/llama31", FH_KV_BF16, NR_SEQS, 600);
	check_invariance("micro/llama31", "avx512_bf16", FH_KV_BF16, NR_SEQS / PART, 600);
}

/* Alone, so that there are fewer tiles than threads and the splits themselves are shared out. */
Test(accel, invariant_alone_on_threads)
{
	check_invariance("stories260K-f32", "ref", FH_KV_F16, 1, 600);
	check_invariance("micro/llama31", "avx2", FH_KV_F16, 1, 1150);
	check_invariance("micro/llama31", "avx512", FH_KV_F16, 1, 1150);
	check_invariance("micro/gpt-oss", "avx512", FH_KV_F16, 1, 1150);
	check_invariance("micro/gpt-oss", "avx512", FH_KV_BF16, 1, 1150);
	check_invariance("micro/gpt-oss", "avx512_bf16", FH_KV_BF16, 1, 1150);
}

Test(accel, invariant_quantised)
{
	check_all_tables("micro/llama-Q4_K_M-mix", FH_KV_F16, NR_SEQS, 60);
	check_all_tables("micro/llama-Q8_0", FH_KV_F16, NR_SEQS, 60);
	check_all_tables("micro/llama-BF16", FH_KV_F16, NR_SEQS, 60);
	check_invariance("micro/llama-BF16", "avx512_bf16", FH_KV_F16, NR_SEQS / PART, 60);
}

Test(accel, invariant_experts)
{
	check_all_tables("micro/qwen2moe", FH_KV_F16, NR_SEQS, 60);
	check_all_tables("micro/qwen3moe", FH_KV_F16, NR_SEQS, 60);
}

Test(accel, invariant_built_in_model)
{
	check_invariance("freehold-stories-13M-moe-Q8_0", "avx512", FH_KV_F16, NR_SEQS / PART, 60);
	check_invariance("freehold-stories-13M-moe-Q8_0", "avx2", FH_KV_F16, 8 / PART, 60);
}

Test(accel, invariant_gemma2)
{
	check_all_tables("micro/gemma2", FH_KV_F16, NR_SEQS, 80);
}

Test(accel, invariant_gpt_oss)
{
	check_all_tables("micro/gpt-oss-MXFP4", FH_KV_F16, NR_SEQS, 80);
	check_all_tables("micro/gpt-oss", FH_KV_F32, NR_SEQS, 600);
}

/* A small accelerator with one sequence's batch that is in order, for spoiling. */
struct small {
	struct fh_model *m;
	struct fh_accel *a;
	uint32_t tokens[8], blocks[2];
	float *logits;
	struct fh_sampling sampling;
	struct fh_slot slot;
	struct fh_batch_seq seqs[2];
	struct fh_batch b;
};

static void small_batch(struct small *t)
{
	memset(t->seqs, 0, sizeof(t->seqs));
	memset(t->tokens, 0, sizeof(t->tokens));
	t->blocks[0] = 0;
	t->blocks[1] = 1;
	fh_sampling_default(&t->sampling);
	for (int i = 0; i < 2; i++)
		t->seqs[i] = (struct fh_batch_seq){
			.seq = (uint32_t)i,
			.q_start = 4u * (uint32_t)i,
			.q_len = 4,
			.nr_blocks = 1,
			.blocks = &t->blocks[i],
		};
	t->b = (struct fh_batch){.nr_seqs = 2, .nr_tokens = 8, .tokens = t->tokens, .seqs = t->seqs};
}

static void small_open(struct small *t)
{
	t->m = open_model("stories260K-f32");
	t->a = open_accel(t->m, "ref", 1, FH_KV_F32, 4);
	t->logits = calloc(8ul * t->m->nr_vocab, sizeof(float));
	small_batch(t);
}

static void small_close(struct small *t)
{
	t->a->ops->close(t->a);
	fh_model_close(t->m);
	free(t->logits);
}

#define REFUSED(t, what)                                                                                               \
	do {                                                                                                           \
		small_batch(t);                                                                                        \
		what;                                                                                                  \
		cr_expect_eq((t)->a->ops->submit((t)->a, &(t)->b), -EINVAL, #what);                                    \
	} while (0)

Test(accel, refuses_broken_batches)
{
	struct fh_logit_bias bias = {.token = 1 << 20};
	uint32_t banned = UINT32_MAX;
	struct small t;

	small_open(&t);
	cr_assert_eq(t.a->ops->submit(t.a, &t.b), 0);
	REFUSED(&t, t.b.nr_tokens = 0);
	REFUSED(&t, t.b.nr_tokens = MAX_BATCH + 1);
	REFUSED(&t, t.b.nr_tokens = 7);
	REFUSED(&t, t.b.nr_seqs = 1);
	REFUSED(&t, t.b.nr_seqs = NR_SEQS + 1);
	REFUSED(&t, t.tokens[5] = t.m->nr_vocab);
	REFUSED(&t, t.tokens[0] = FH_TOKEN_PREV - 1);
	REFUSED(&t, t.seqs[0].seq = NR_SEQS);
	REFUSED(&t, t.seqs[1].seq = 0);
	REFUSED(&t, t.seqs[1].q_start = 3);
	REFUSED(&t, t.seqs[1].q_len = 0);
	REFUSED(&t, t.seqs[1].q_len = UINT32_MAX);
	REFUSED(&t, t.seqs[1].blocks = NULL);
	REFUSED(&t, t.blocks[1] = 4);
	REFUSED(&t, t.blocks[0] = FH_NO_BLOCK);
	REFUSED(&t, t.seqs[0].pos = 29);
	REFUSED(&t, t.seqs[0].pos = UINT32_MAX);
	REFUSED(&t, t.seqs[0].nr_blocks = 0);
	REFUSED(&t, t.seqs[0].nr_blocks = MAX_BLOCKS + 1);
	REFUSED(&t, t.seqs[0].adapter = 1);
	REFUSED(&t, (t.seqs[0].logits = t.logits, t.seqs[0].logits_from = 4));
	REFUSED(&t, t.seqs[0].sampling = &t.sampling);
	REFUSED(&t, (t.seqs[0].sampling = &t.sampling, t.seqs[0].slot = &t.slot, t.sampling.nr_top = 1));
	REFUSED(&t, (t.seqs[0].sampling = &t.sampling, t.seqs[0].slot = &t.slot, t.sampling.nr_bias = 1,
		     t.sampling.bias = &bias));
	REFUSED(&t, (t.seqs[0].sampling = &t.sampling, t.seqs[0].slot = &t.slot, t.seqs[0].nr_banned = 1,
		     t.seqs[0].banned = &banned));
	REFUSED(&t, (t.seqs[0].sampling = &t.sampling, t.seqs[0].slot = &t.slot, t.seqs[0].nr_prompt = 1));
	cr_expect_eq(t.a->ops->kv_copy(t.a, 4, 0), -EINVAL);
	cr_expect_eq(t.a->ops->kv_copy(t.a, 0, 4), -EINVAL);
	cr_expect_eq(t.a->ops->kv_swap(t.a, 4, NULL, true), -EINVAL);
	small_batch(&t);
	cr_expect_eq(t.a->ops->submit(t.a, &t.b), 0, "and works again afterwards");
	small_close(&t);
}

/* Sequence 0 at position 4, on @block: the bits of its logits. */
static void decode_on(struct small *t, uint32_t block, float *out)
{
	uint32_t token = 7;
	struct fh_batch_seq s = {.pos = 4, .q_len = 1, .nr_blocks = 1, .blocks = &block, .logits = out};
	struct fh_batch b = {.nr_seqs = 1, .nr_tokens = 1, .tokens = &token, .seqs = &s};

	cr_assert_eq(t->a->ops->submit(t->a, &b), 0);
}

Test(accel, copies_and_moves_blocks)
{
	struct small t;
	uint64_t bytes;
	size_t row;
	void *host;

	small_open(&t);
	row = sizeof(float) * t.m->nr_vocab;
	bytes = t.a->ops->kv_block_bytes(t.a);
	host = malloc(bytes);
	t.tokens[1] = 5;
	t.tokens[2] = 9;
	cr_assert_eq(t.a->ops->submit(t.a, &t.b), 0);
	cr_assert_eq(t.a->ops->kv_copy(t.a, 3, 0), 0);
	cr_assert_eq(t.a->ops->kv_swap(t.a, 0, host, true), 0);
	cr_assert_eq(t.a->ops->kv_swap(t.a, 2, host, false), 0);
	decode_on(&t, 0, t.logits);
	for (uint32_t block = 1; block < 4; block++) {
		decode_on(&t, block, t.logits + t.m->nr_vocab);
		cr_expect_eq(memcmp(t.logits, t.logits + t.m->nr_vocab, row) == 0, block != 1, "block %u", block);
	}
	free(host);
	small_close(&t);
}

Test(accel, remembers_the_last_token)
{
	struct small t;
	float *other;

	small_open(&t);
	other = t.logits + t.m->nr_vocab;
	decode_on(&t, 0, t.logits);
	t.a->ops->set_prev(t.a, 0, 7);
	t.a->ops->set_prev(t.a, 0, t.m->nr_vocab); /* no token: ignored */
	t.a->ops->set_prev(t.a, NR_SEQS, 1);
	t.tokens[0] = FH_TOKEN_PREV;
	t.seqs[0].q_len = 1;
	t.seqs[0].pos = 4;
	t.seqs[0].logits = other;
	t.b.nr_seqs = 1;
	t.b.nr_tokens = 1;
	cr_assert_eq(t.a->ops->submit(t.a, &t.b), 0);
	cr_expect_eq(memcmp(t.logits, other, sizeof(float) * t.m->nr_vocab), 0);
	small_close(&t);
}

/* Greedy tokens are found without writing logits; they are those that the logits say, lowest id first. */
static void check_greedy(const char *name, uint32_t threads)
{
	struct fh_model *m = open_model(name);
	struct fh_accel *a = open_accel(m, NULL, threads, FH_KV_F32, 4);
	float *logits = calloc(2ul * m->nr_vocab, sizeof(float));
	struct small t;

	small_batch(&t);
	t.sampling.temperature = 0;
	for (uint32_t n = 0; n < 40; n++) {
		struct fh_slot slots[2][2] = {0};

		for (uint32_t i = 0; i < 8; i++)
			t.tokens[i] = rng(m->nr_vocab);
		for (int with = 1; with >= 0; with--) {
			for (uint32_t i = 0; i < 2; i++) {
				t.seqs[i].logits = with ? logits + (size_t)i * m->nr_vocab : NULL;
				t.seqs[i].logits_from = 3;
				t.seqs[i].sampling = &t.sampling;
				t.seqs[i].slot = &slots[with][i];
			}
			cr_assert_eq(a->ops->submit(a, &t.b), 0);
		}
		for (uint32_t i = 0; i < 2; i++) {
			const float *row = logits + (size_t)i * m->nr_vocab;
			uint32_t best = 0;

			for (uint32_t id = 1; id < m->nr_vocab; id++)
				best = row[id] > row[best] ? id : best;
			cr_expect_eq(slots[0][i].token, best, "%s, %u threads, prompt %u", name, threads, n);
			cr_expect_eq(slots[1][i].token, best);
			cr_expect_eq(slots[0][i].stamp, 1);
		}
	}
	free(logits);
	a->ops->close(a);
	fh_model_close(m);
}

Test(accel, greedy_without_logits)
{
	check_greedy("stories260K-f32", 1);
	check_greedy("stories260K-f32", 3);
	check_greedy("micro/gemma2", 3);
	check_greedy("freehold-stories-13M-moe-Q8_0", 3);
}

Test(accel, refuses_what_it_cannot_open)
{
	struct fh_accel_config cfg = {.max_seqs = 1, .max_tokens = 1, .max_logits = 1, .max_blocks_per_seq = 1};
	struct fh_model *m = open_model("stories260K-f32");
	struct fh_err err = {.msg = ""};
	struct fh_accel *a;

	cfg.isa = "z80";
	cr_expect_eq(fh_accel_cpu.open(&cfg, &a, &err), -ENOTSUP);
	cr_expect(strstr(err.msg, "z80"), "%s", err.msg);
	cfg.isa = NULL;
	cfg.max_tokens = 0;
	cr_expect_eq(fh_accel_cpu.open(&cfg, &a, &err), -EINVAL);
	cfg.max_tokens = 1;
	cfg.nr_threads = 5000;
	cr_expect_eq(fh_accel_cpu.open(&cfg, &a, &err), -EINVAL);
	cfg.nr_threads = 1;
	cr_assert_eq(fh_accel_cpu.open(&cfg, &a, &err), 0, "%s", err.msg);
	cr_expect_eq(a->ops->kv_alloc(a, 1, &err), -EINVAL, "before load");
	cr_expect_eq(a->ops->load(a, m, &err), 0, "%s", err.msg);
	cr_expect_eq(a->ops->load(a, m, &err), -EBUSY);
	cr_expect_eq(a->ops->kv_alloc(a, 0, &err), -EINVAL);
	a->ops->close(a);
	fh_model_close(m);
}

/* Files are read, not touched through their mapping, while weights are packed: a short one is an error. */
Test(accel, refuses_a_file_that_became_shorter)
{
	struct fh_accel_config cfg = {.max_seqs = 1, .max_tokens = 1, .max_logits = 1, .max_blocks_per_seq = 1};
	char path[] = "/tmp/fh-accel-XXXXXX";
	const struct fhk_ops *k = fhk_select(NULL);
	struct fh_err err = {.msg = ""};
	struct fh_model *whole, *m;
	struct fh_accel *a;
	int fd = mkstemp(path);
	uint64_t bytes;

	cr_assert_geq(fd, 0);
	if (!strcmp(k->name, "ref")) {
		unlink(path);
		cr_skip_test("the reference kernels pack nothing");
	}
	whole = open_model("stories260K-f32");
	bytes = fh_gguf_file_bytes(whole->gguf);
	copy_file(fh_gguf_path(whole->gguf), fd);
	cr_assert_eq(fh_model_open(path, &m, &err), 0, "%s", err.msg);
	cr_assert_eq(fh_accel_cpu.open(&cfg, &a, &err), 0, "%s", err.msg);
	cr_assert_eq(ftruncate(fd, (off_t)(bytes / 2)), 0);
	cr_expect_eq(a->ops->load(a, m, &err), -ENODATA);
	cr_expect_not_null(strstr(err.msg, "the file has become shorter"), "%s", err.msg);
	/* Nothing is left behind that a second load would trip over. */
	cr_expect_eq(a->ops->load(a, whole, &err), 0, "%s", err.msg);
	a->ops->close(a);
	fh_model_close(m);
	fh_model_close(whole);
	close(fd);
	unlink(path);
}

Test(accel, null_model_echoes)
{
	struct fh_accel_config cfg = {.max_seqs = 2, .max_tokens = 8, .max_logits = 2, .max_blocks_per_seq = 2};
	struct fh_model *real = open_model("stories260K-f32"), *m;
	uint32_t prompt[] = {5, 6, 7}, block = 0, token = FH_TOKEN_PREV;
	struct fh_sampling sampling;
	struct fh_err err = {.msg = ""};
	struct fh_slot slot;
	float logits[1];
	struct fh_batch_seq s = {
		.q_len = 1,
		.nr_blocks = 1,
		.blocks = &block,
		.sampling = &sampling,
		.history = prompt,
		.nr_prompt = 3,
		.nr_history = 3,
		.slot = &slot,
	};
	struct fh_batch b = {.nr_seqs = 1, .nr_tokens = 1, .tokens = &token, .seqs = &s};
	struct fh_accel_info info;
	struct fh_accel *a;

	cr_assert_eq(fh_model_open_null(fh_gguf_path(real->gguf), &m, &err), 0, "%s", err.msg);
	cr_assert_eq(fh_accel_null.open(&cfg, &a, &err), 0);
	cr_expect_eq(a->ops->load(a, real, &err), -EINVAL, "a real model is not for the null accelerator");
	cr_assert_eq(a->ops->load(a, m, &err), 0, "%s", err.msg);
	cr_assert_eq(a->ops->kv_alloc(a, 4, &err), 0);
	a->ops->info(a, &info);
	cr_expect_eq(info.nr_vocab, real->nr_vocab);
	fh_sampling_default(&sampling);
	for (uint32_t i = 0; i < 10; i++) {
		s.index = i;
		cr_assert_eq(a->ops->submit(a, &b), 0);
		cr_assert_eq(a->ops->reap(a, true), 0);
		cr_expect_eq(slot.token, prompt[i % 3]);
		cr_expect_eq(slot.stamp, i + 1);
	}
	s.logits = logits;
	cr_expect_eq(a->ops->submit(a, &b), -EINVAL, "it has no logits");
	s.logits = NULL;
	block = 4;
	cr_expect_eq(a->ops->submit(a, &b), -EINVAL);
	block = 0;
	token = real->nr_vocab;
	cr_expect_eq(a->ops->submit(a, &b), -EINVAL);
	a->ops->close(a);
	cr_assert_eq(fh_accel_cpu.open(&cfg, &a, &err), 0, "%s", err.msg);
	cr_expect_eq(a->ops->load(a, m, &err), -EINVAL, "the null model has nothing for a CPU");
	a->ops->close(a);
	fh_model_close(m);
	fh_model_close(real);
}
