// SPDX-License-Identifier: Apache-2.0
/*
 * Guesses on the CPU accelerator: every sample of a step with guesses is, with
 * its log-probability, its alternatives and its row of logits, what a step of its
 * own gives, as long as the guesses before it are right; wrong ones leave no
 * trace; and batches whose guesses make no sense are refused.
 */
#include <criterion/criterion.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "runtime/accel/accel.h"
#include "runtime/model/model.h"

enum { LEN = 20, NR = 60, MOST = 9, NR_TOP = 3, NR_BLOCKS = 4, MAX_WORDS = 2048 };

static uint64_t rng_state = 88172645463325252u;

static uint32_t rng(uint32_t below)
{
	rng_state ^= rng_state << 13;
	rng_state ^= rng_state >> 7;
	rng_state ^= rng_state << 17;
	return (uint32_t)((rng_state * 2685821657736338717u) >> 33) % below;
}

struct ctx {
	struct fh_model *m;
	struct fh_accel *a;
	struct fh_sampling sampling;
	struct fh_logit_bias bias;
	uint32_t text[LEN + NR + MOST + 1], blocks[NR_BLOCKS], batch[LEN + MOST + 1];
	struct fh_slot want[NR], slot[MOST + 1];
	struct fh_top want_top[NR * NR_TOP], top[(MOST + 1) * NR_TOP];
	uint32_t *mask;	    /* [NR + MOST + 1, words], a different one for each token */
	float *want_logits; /* [NR, vocab] */
	float *logits;	    /* [MOST + 1, vocab] */
	uint32_t words, nr_right, nr_wrong;
};

static void open_ctx(struct ctx *c, const char *name, uint32_t threads)
{
	const char *shared = getenv("FREEHOLD_SHARED");
	struct fh_accel_config cfg = {.nr_threads = threads,
				      .max_seqs = 1,
				      .max_tokens = LEN + MOST + 1,
				      .max_logits = MOST + 1,
				      .max_blocks_per_seq = NR_BLOCKS};
	struct fh_accel_info info;
	struct fh_err err = {.msg = ""};
	char path[4096];

	memset(c, 0, sizeof(*c));
	snprintf(path, sizeof(path), "%s/models/%s.gguf", shared ? shared : "../shared", name);
	if (access(path, R_OK))
		cr_skip_test("no %s (FREEHOLD_SHARED says where the models are)", path);
	cr_assert_eq(fh_model_open(path, &c->m, &err), 0, "%s", err.msg);
	cr_assert_eq(fh_accel_cpu.open(&cfg, &c->a, &err), 0, "%s", err.msg);
	cr_assert_eq(c->a->ops->load(c->a, c->m, &err), 0, "%s", err.msg);
	cr_assert_eq(c->a->ops->kv_alloc(c->a, NR_BLOCKS, &err), 0, "%s", err.msg);
	c->a->ops->info(c->a, &info);
	cr_assert(info.drafts);
	c->words = (c->m->nr_vocab + 31) / 32;
	c->mask = malloc(sizeof(*c->mask) * (NR + MOST + 1) * c->words);
	c->want_logits = malloc(sizeof(float) * NR * c->m->nr_vocab);
	c->logits = malloc(sizeof(float) * (MOST + 1) * c->m->nr_vocab);
	for (uint32_t i = 0; i < (NR + MOST + 1) * c->words; i++)
		c->mask[i] = rng(UINT32_MAX) | rng(UINT32_MAX);
	for (uint32_t i = 0; i < NR_BLOCKS; i++)
		c->blocks[i] = (i * 3 + 1) % NR_BLOCKS;
	for (uint32_t i = 0; i < LEN; i++)
		c->text[i] = rng(c->m->nr_vocab);
}

static void close_ctx(struct ctx *c)
{
	c->a->ops->close(c->a);
	fh_model_close(c->m);
	free(c->mask);
	free(c->want_logits);
	free(c->logits);
}

/* Ways of sampling, the plain greedy one first. */
static void set_sampling(struct ctx *c, uint32_t way)
{
	fh_sampling_default(&c->sampling);
	c->sampling.seed = 5 + way;
	c->sampling.temperature = way < 2 ? 0 : 0.8f;
	if (way == 0)
		return;
	c->sampling.logprobs = true;
	c->sampling.nr_top = NR_TOP;
	c->sampling.repetition_penalty = way == 2 ? 1.3f : 1;
	c->sampling.presence_penalty = way == 3 ? 0.7f : 0;
	c->sampling.frequency_penalty = way == 3 ? 0.4f : 0;
	c->sampling.top_k = way == 4 ? 30 : 0;
	c->bias = (struct fh_logit_bias){3, 4};
	c->sampling.bias = &c->bias;
	c->sampling.nr_bias = way == 4;
}

/* One step that draws token @index, after text[.. LEN + index), with @nr_draft guesses behind it. */
static void draw(struct ctx *c, uint32_t index, uint32_t nr_draft, bool masked, bool prev)
{
	uint32_t end = LEN + index, from = index ? end - 1 : 0;
	struct fh_batch_seq s = {.q_len = end - from + nr_draft,
				 .pos = from,
				 .nr_blocks = NR_BLOCKS,
				 .blocks = c->blocks,
				 .sampling = &c->sampling,
				 .index = index,
				 .history = c->text,
				 .nr_prompt = LEN,
				 .nr_history = end,
				 .mask = masked ? c->mask + (size_t)index * c->words : NULL,
				 .slot = c->slot,
				 .top = c->sampling.nr_top ? c->top : NULL,
				 .logits = c->logits,
				 .logits_from = end - from - 1,
				 .nr_draft = nr_draft};
	struct fh_batch b = {.nr_seqs = 1, .nr_tokens = s.q_len, .tokens = c->batch, .seqs = &s};

	memcpy(c->batch, c->text + from, s.q_len * sizeof(*c->batch));
	if (prev && index)
		c->batch[0] = FH_TOKEN_PREV;
	memset(c->slot, 0xff, sizeof(c->slot));
	cr_assert_eq(c->a->ops->submit(c->a, &b), 0);
	cr_assert_eq(c->a->ops->reap(c->a, true), 0);
}

static void check(struct ctx *c, uint32_t index, uint32_t i)
{
	size_t row = sizeof(float) * c->m->nr_vocab;

	cr_assert_eq(memcmp(&c->slot[i], &c->want[index + i], sizeof(c->slot[i])), 0, "token %u, guess %u", index, i);
	cr_assert_eq(memcmp((char *)c->logits + i * row, (char *)c->want_logits + (index + i) * row, row), 0,
		     "logits of token %u, guess %u", index, i);
	if (c->sampling.nr_top)
		cr_assert_eq(memcmp(c->top + i * NR_TOP, c->want_top + (index + i) * NR_TOP, NR_TOP * sizeof(*c->top)),
			     0, "alternatives of token %u, guess %u", index, i);
}

static void check_way(struct ctx *c, uint32_t way, bool masked)
{
	size_t row = sizeof(float) * c->m->nr_vocab;

	set_sampling(c, way);
	for (uint32_t i = 0; i < NR; i++) {
		draw(c, i, 0, masked, false);
		c->want[i] = c->slot[0];
		c->text[LEN + i] = c->slot[0].token;
		memcpy((char *)c->want_logits + i * row, c->logits, row);
		memcpy(c->want_top + i * NR_TOP, c->top, NR_TOP * sizeof(*c->top));
	}
	for (uint32_t index = 0; index + MOST < NR;) {
		uint32_t nr_draft = rng(MOST + 1), first_wrong = rng(MOST + 3), i = 0;

		for (i = 0; i < nr_draft; i++) {
			c->text[LEN + index + i] = c->want[index + i].token;
			if (i >= first_wrong)
				c->text[LEN + index + i] = (c->want[index + i].token + 1 + rng(50)) % c->m->nr_vocab;
		}
		draw(c, index, nr_draft, masked, rng(2));
		for (i = 0; i <= nr_draft && i <= first_wrong; i++)
			check(c, index, i);
		c->nr_right += i - 1;
		c->nr_wrong += nr_draft > first_wrong;
		index += i;
		for (i = 0; i < index; i++)
			c->text[LEN + i] = c->want[i].token;
	}
}

static void check_model(const char *name, uint32_t threads)
{
	struct ctx *c = calloc(1, sizeof(*c));

	open_ctx(c, name, threads);
	for (uint32_t way = 0; way < 5; way++) {
		check_way(c, way, false);
		check_way(c, way, true);
	}
	cr_assert(c->nr_right > 200 && c->nr_wrong > 20, "%u right, %u wrong", c->nr_right, c->nr_wrong);
	close_ctx(c);
	free(c);
}

Test(accel_draft, dense)
{
	check_model("stories260K-f32", 2);
	check_model("micro/llama-Q4_K_M-mix", 2);
}

Test(accel_draft, sliding_windows_and_experts)
{
	check_model("micro/gpt-oss", 2);
	check_model("micro/qwen2moe", 1);
}

Test(accel_draft, what_makes_no_sense_is_refused)
{
	struct ctx *c = calloc(1, sizeof(*c));
	struct fh_batch_seq good, s;
	struct fh_batch b = {.nr_seqs = 1, .nr_tokens = 4, .tokens = c->batch, .seqs = &s};

	open_ctx(c, "stories260K-f32", 1);
	set_sampling(c, 0);
	good = (struct fh_batch_seq){.q_len = 4,
				     .nr_blocks = 1,
				     .blocks = c->blocks,
				     .sampling = &c->sampling,
				     .history = c->text,
				     .nr_prompt = 1,
				     .nr_history = 1,
				     .slot = c->slot,
				     .nr_draft = 3};
	s = good;
	cr_assert_eq(c->a->ops->submit(c->a, &b), 0);
	s.nr_draft = 4;
	cr_assert_eq(c->a->ops->submit(c->a, &b), -EINVAL, "nothing but guesses");
	s = good;
	s.sampling = NULL;
	cr_assert_eq(c->a->ops->submit(c->a, &b), -EINVAL, "guesses and no sample");
	s = good;
	s.history = NULL;
	s.nr_history = s.nr_prompt = 0;
	cr_assert_eq(c->a->ops->submit(c->a, &b), -EINVAL, "guesses without a history");
	s = good;
	s.q_len = b.nr_tokens = MOST + 2;
	s.nr_draft = MOST + 1;
	cr_assert_eq(c->a->ops->submit(c->a, &b), -EINVAL, "more rows of logits than there are");
	close_ctx(c);
	free(c);
}
