// SPDX-License-Identifier: Apache-2.0
/*
 * The engine with the CPU accelerator on real files: 32 mixed requests
 * together give the tokens that each gives alone; so do they with and without
 * the prefix cache, with a pool that is too small, with another chunk size, and
 * with guesses.
 */
#include <criterion/criterion.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "runtime/engine/engine.h"
#include "runtime/model/model.h"
#include "runtime/net/fake.h"

/* Sanitizers look for other mistakes than a wrong token, and slow the arithmetic down twenty times. */
#if defined(__SANITIZE_THREAD__)
#define NR 6
#elif defined(__SANITIZE_ADDRESS__)
#define NR 10
#else
#define NR 32
#endif

enum { MAX_PROMPT = 150, MAX_OUT = 40, NR_CTX = 256 };

struct bench {
	struct fh_model *m;
	struct fh_tokenizer *tok;
	struct fh_accel *a, *draft;
	struct fh_engine *e;
	struct fh_fake *f;
};

struct one {
	struct fh_fake_call call;
	uint32_t prompt[MAX_PROMPT], out[MAX_OUT], nr_out;
	fh_f32 logprob[MAX_OUT];
	struct fh_logit_bias bias[2];
};

static uint64_t rng_state;

static uint32_t rng(uint32_t below)
{
	rng_state ^= rng_state << 13;
	rng_state ^= rng_state >> 7;
	rng_state ^= rng_state << 17;
	return (uint32_t)((rng_state * 2685821657736338717u >> 32) % below);
}

static const char *model_path(const char *name, char *buf, size_t cap)
{
	const char *shared = getenv("FREEHOLD_SHARED");

	snprintf(buf, cap, "%s/models/%s", shared ? shared : "../shared", name);
	if (access(buf, R_OK))
		cr_skip_test("%s is not there; set FREEHOLD_SHARED", buf);
	return buf;
}

static int do_submit(void *ctx, struct fh_request *r, uint32_t *retry_after_ms, struct fh_err *err)
{
	return fh_engine_submit(ctx, r, retry_after_ms, err);
}

static void do_kick(void *ctx)
{
	fh_engine_kick(ctx);
}

static bool do_step(void *ctx)
{
	return fh_engine_step(ctx);
}

static struct fh_accel *open_accel(const struct fh_accel_config *acfg, const struct fh_model *m, uint32_t nr_blocks)
{
	struct fh_err err = {0};
	struct fh_accel *a;

	cr_assert_eq(fh_accel_cpu.open(acfg, &a, &err), 0, "%s", err.msg);
	cr_assert_eq(a->ops->load(a, m, &err), 0, "%s", err.msg);
	cr_assert_eq(a->ops->kv_alloc(a, nr_blocks, &err), 0, "%s", err.msg);
	return a;
}

static void up(struct bench *b, const char *path, struct fh_engine_config cfg, bool draft)
{
	struct fh_accel_config acfg = {.nr_threads = 2,
				       .max_seqs = cfg.max_seqs,
				       .max_tokens = cfg.max_step_tokens,
				       .max_logits = cfg.max_step_logits ? cfg.max_step_logits : cfg.max_seqs,
				       .max_blocks_per_seq = NR_CTX / FH_KV_BLOCK};
	struct fh_service svc = {.submit = do_submit, .kick = do_kick};
	struct fh_err err = {0};

	cr_assert_eq(fh_model_open(path, &b->m, &err), 0, "%s", err.msg);
	cr_assert_eq(fh_tokenizer_open(b->m->gguf, &b->tok, &err), 0, "%s", err.msg);
	b->a = open_accel(&acfg, b->m, cfg.nr_blocks);
	/* The same model with other roundings: often right, not always. */
	acfg.kv_type = FH_KV_Q8_0;
	b->draft = draft ? open_accel(&acfg, b->m, cfg.nr_blocks) : NULL;
	cfg.draft = b->draft;
	cfg.accel = b->a;
	cfg.tok = b->tok;
	cfg.nr_ctx = NR_CTX;
	cr_assert_eq(fh_engine_create(&cfg, &b->e, &err), 0, "%s", err.msg);
	svc.ctx = b->e;
	cr_assert_eq(fh_fake_create(&svc, &b->f, &err), 0, "%s", err.msg);
	cr_assert_eq(fh_engine_attach(b->e, fh_fake_frontend(b->f), &err), 0, "%s", err.msg);
	fh_fake_set_pump(b->f, do_step, b->e);
}

static void down(struct bench *b)
{
	fh_engine_stop(b->e, 0);
	cr_assert(fh_engine_check(b->e), "the engine leaks");
	fh_engine_detach(b->e, fh_fake_frontend(b->f));
	fh_engine_destroy(b->e);
	fh_fake_destroy(b->f);
	b->a->ops->close(b->a);
	if (b->draft)
		b->draft->ops->close(b->draft);
	fh_tokenizer_close(b->tok);
	fh_model_close(b->m);
}

static int take(void *ctx, const struct fh_slot *slot, const struct fh_top *top)
{
	struct one *o = ctx;

	(void)top;
	if (slot->flags & FH_SLOT_NO_TOKEN)
		return 0;
	cr_assert_lt(o->nr_out, MAX_OUT);
	o->logprob[o->nr_out] = slot->logprob;
	o->out[o->nr_out++] = slot->token;
	return 0;
}

/* The same requests each time: every way of sampling, prompts that share beginnings. */
static struct one *requests(uint32_t nr_vocab)
{
	struct one *o = aligned_alloc(64, NR * sizeof(*o));

	rng_state = 12345;
	memset(o, 0, NR * sizeof(*o));
	for (uint32_t i = 0; i < NR; i++) {
		struct fh_request *r = &o[i].call.req;
		uint32_t shared = rng(3) * 40;

		fh_fake_call_init(&o[i].call);
		r->prompt = o[i].prompt;
		r->nr_prompt = 1 + rng(MAX_PROMPT);
		r->max_tokens = 1 + rng(MAX_OUT - 1);
		for (uint32_t k = 0; k < r->nr_prompt; k++)
			o[i].prompt[k] = k < shared ? (k * 17 + 5) % nr_vocab : rng(nr_vocab);
		/* Some say the same again and again, and the answer goes on with it. */
		for (uint32_t k = 9; i % 4 == 0 && k < r->nr_prompt; k++)
			o[i].prompt[k] = o[i].prompt[k - 9];
		r->sampling.seed = i;
		r->sampling.temperature = i % 4 ? 0.5f + (float)(i % 3) * 0.4f : 0;
		r->sampling.top_k = i % 5 == 1 ? 20 : 0;
		r->sampling.top_p = i % 5 == 2 ? 0.9f : 1;
		r->sampling.typical_p = i % 7 == 3 ? 0.8f : 1;
		r->sampling.min_p = i % 7 == 4 ? 0.05f : 0;
		r->sampling.repetition_penalty = i % 6 == 1 ? 1.2f : 1;
		r->sampling.presence_penalty = i % 6 == 2 ? 0.5f : 0;
		r->sampling.frequency_penalty = i % 6 == 3 ? 0.5f : 0;
		r->sampling.logprobs = i % 3 == 0;
		r->sampling.nr_bias = i % 8 == 5 ? 2 : 0;
		r->sampling.bias = o[i].bias;
		o[i].bias[0] = (struct fh_logit_bias){i, 2};
		o[i].bias[1] = (struct fh_logit_bias){i + 1, -100};
		/* Some answers go in circles for certain. */
		if (i % 8 == 4) {
			r->sampling.nr_bias = 2;
			o[i].bias[0].bias = 50;
			r->max_tokens = MAX_OUT - 1;
		}
		o[i].call.on_slot = take;
		o[i].call.ctx = &o[i];
	}
	return o;
}

static void compare(const struct one *a, const struct one *b, const char *how)
{
	for (int i = 0; i < NR; i++) {
		cr_assert_eq(b[i].call.finish, a[i].call.finish, "%s: request %d", how, i);
		cr_assert_eq(b[i].nr_out, a[i].nr_out, "%s: request %d", how, i);
		for (uint32_t k = 0; k < a[i].nr_out; k++) {
			cr_assert_eq(b[i].out[k], a[i].out[k], "%s: request %d, token %u", how, i, k);
			cr_assert_eq(b[i].logprob[k], a[i].logprob[k], "%s: request %d, logprob %u", how, i, k);
		}
	}
}

static void invariance(const char *name)
{
	static const struct {
		const char *how;
		struct fh_engine_config cfg;
		bool draft; /* a draft model */
	} way[] = {
		{"together, prefix cache",
		 {.nr_blocks = 300, .max_seqs = 32, .max_step_tokens = 256, .prefill_chunk = 64, .prefix_cache = true},
		 false},
		{"together, no prefix cache",
		 {.nr_blocks = 300, .max_seqs = 32, .max_step_tokens = 256, .prefill_chunk = 64},
		 false},
		{"small chunks, few blocks",
		 {.nr_blocks = 10, .max_seqs = 8, .max_step_tokens = 19, .prefill_chunk = 7, .prefix_cache = true},
		 false},
		{"together, guessing",
		 {.nr_blocks = 300,
		  .max_seqs = 32,
		  .max_step_tokens = 256,
		  .prefill_chunk = 64,
		  .prefix_cache = true,
		  .max_step_logits = 90,
		  .spec_tokens = 7,
		  .spec_cost = 1e-6f},
		 false},
		{"guessing, few blocks",
		 {.nr_blocks = 10,
		  .max_seqs = 8,
		  .max_step_tokens = 40,
		  .prefill_chunk = 7,
		  .prefix_cache = true,
		  .max_step_logits = 40,
		  .spec_tokens = FH_SPEC_MAX,
		  .spec_cost = 1e-6f},
		 false},
		{"a draft model, few blocks",
		 {.nr_blocks = 10,
		  .max_seqs = 8,
		  .max_step_tokens = 40,
		  .prefill_chunk = 7,
		  .prefix_cache = true,
		  .max_step_logits = 40,
		  .spec_tokens = 4,
		  .spec_cost = 1e-6f},
		 true},
	};
	struct fh_engine_config alone = {.nr_blocks = 40, .max_seqs = 1, .max_step_tokens = 200, .prefill_chunk = 200};
	char path[512];
	struct bench b;
	struct one *want, *got;
	struct fh_err err = {0};

	model_path(name, path, sizeof(path));
	up(&b, path, alone, false);
	want = requests(b.m->nr_vocab);
	for (int i = 0; i < NR; i++)
		cr_assert_eq(fh_fake_run(b.f, &want[i].call, &err), 0, "%s", err.msg);
	down(&b);

	for (size_t w = 0; w < sizeof(way) / sizeof(*way); w++) {
		struct fh_engine_stats st;

		up(&b, path, way[w].cfg, way[w].draft);
		/* Twice: the second time the cache is warm. */
		for (int round = 0; round < 2; round++) {
			got = requests(b.m->nr_vocab);
			for (int i = 0; i < NR; i++)
				cr_assert_eq(fh_fake_submit(b.f, &got[i].call, NULL, &err), 0, "%s", err.msg);
			while (fh_fake_poll(b.f, true))
				;
			compare(want, got, way[w].how);
			free(got);
		}
		fh_engine_stats(b.e, &st);
		cr_assert_eq(st.prefix_hits > 0, way[w].cfg.prefix_cache);
		cr_assert_eq(st.accepted_tokens > 0, way[w].cfg.spec_tokens > 0, "%s: %lu of %lu guesses were right",
			     way[w].how, st.accepted_tokens, st.draft_tokens);
		if (way[w].cfg.nr_blocks < 20 && !way[w].draft && NR == 32)
			cr_assert_gt(st.nr_preempted, 0, "%s: nobody was preempted", way[w].how);
		down(&b);
	}
	free(want);
}

Test(engine_cpu, invariance_dense)
{
	invariance("stories260K-f32.gguf");
}

Test(engine_cpu, invariance_experts)
{
	invariance("freehold-stories-13M-moe-Q8_0.gguf");
}
