/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the engine's tests share: a vocabulary of a few pieces, and an
 * accelerator whose next token is a hash of all tokens before it, read back
 * through the block table from what it was told to store.  A wrong block, a
 * stale prefix, a wrong position or a lost token changes everything after it;
 * what a request must give is computed without any engine by oracle_expect().
 * With a seed of ORACLE_LOOPS or more it mostly says what it said after the same
 * token before, so that guesses are often right and often wrong.
 *
 * The rig owns the accelerator, the engine and a fake front end; struct job is
 * a request together with what came of it.
 */
#ifndef TESTS_UNIT_ENGINE_ORACLE_H
#define TESTS_UNIT_ENGINE_ORACLE_H

#include <criterion/criterion.h>
#include <stdlib.h>
#include <string.h>

#include "runtime/engine/engine.h"
#include "runtime/net/fake.h"
#include "tests/unit/gguf_build.h"

enum {
	NR_VOCAB = 64,
	ID_EOS = 2,
	ID_BYTE = 3, /* the first of the byte tokens */
	DIM = 4,
	MAX_OUT = 1024,
	ORACLE_BLOCKS = 4096,
	ORACLE_SEQS = 256,
	ORACLE_LOOPS = 1000,
};

/* ---- random numbers ---- */

struct rng {
	uint64_t s;
};

static inline uint32_t rnd(struct rng *r, uint32_t below)
{
	r->s ^= r->s << 13;
	r->s ^= r->s >> 7;
	r->s ^= r->s << 17;
	return (uint32_t)((r->s * 2685821657736338717u >> 32) % below);
}

/* ---- the vocabulary ---- */

/* Small pieces over few letters, so that stop strings are met often; bytes that only together make characters. */
static inline const char *oracle_piece(uint32_t id, char *buf)
{
	static const char *const piece[] = {"<unk>",
					    "<s>",
					    "</s>",
					    "<0xC3>",
					    "<0xA9>",
					    "<0xE2>",
					    "<0x82>",
					    "<0xAC>",
					    "<0xFF>",
					    "a",
					    "b",
					    "ab",
					    "ba",
					    "aab",
					    "abab",
					    "\xc3\xa9",
					    "\xe2\x82\xac"
					    "a",
					    "\xe2\x96\x81"
					    "a",
					    "c",
					    "abc"};

	if (id < sizeof(piece) / sizeof(*piece))
		return piece[id];
	sprintf(buf, "%c%c%u", 'a' + id % 3, 'a' + id % 2, id);
	if (id % 2)
		buf[2] = 0;
	return buf;
}

static inline struct fh_tokenizer *oracle_tokenizer(void)
{
	struct bytes b = header(3, 0, 6);
	struct fh_tokenizer *tok;
	struct fh_err err = {0};
	struct fh_gguf *g;
	char buf[32];

	key_str(&b, "general.architecture", "llama");
	key_str(&b, "tokenizer.ggml.model", "llama");
	key_u32(&b, "tokenizer.ggml.bos_token_id", 1);
	key_u32(&b, "tokenizer.ggml.eos_token_id", ID_EOS);
	key(&b, "tokenizer.ggml.tokens", FH_GGUF_ARR);
	put_u32(&b, FH_GGUF_STR);
	put_u64(&b, NR_VOCAB);
	for (uint32_t i = 0; i < NR_VOCAB; i++)
		put_str(&b, oracle_piece(i, buf));
	key(&b, "tokenizer.ggml.token_type", FH_GGUF_ARR);
	put_u32(&b, FH_GGUF_I32);
	put_u64(&b, NR_VOCAB);
	for (uint32_t i = 0; i < NR_VOCAB; i++)
		put_u32(&b, i == 0 ? 2 : i < ID_BYTE ? 3 : i < ID_BYTE + 6 ? 6 : 1);
	cr_assert_eq(fh_gguf_open_mem(b.p, b.n, &g, &err), 0, "%s", err.msg);
	cr_assert_eq(fh_tokenizer_open(g, &tok, &err), 0, "%s", err.msg);
	fh_gguf_close(g);
	free(b.p);
	return tok;
}

/* ---- the accelerator ---- */

struct oracle {
	struct fh_accel base;
	uint32_t max_seqs, max_tokens, max_logits, nr_blocks, nr_vocab;
	uint32_t cell[ORACLE_BLOCKS * FH_KV_BLOCK]; /* token */
	uint32_t cell_pos[ORACLE_BLOCKS * FH_KV_BLOCK];
	uint64_t nr_computed, nr_steps, nr_drafts;
	uint32_t always[2];	    /* the first token, and all after it; 0: as the hash says */
	const uint32_t *script;	    /* [every index] the tokens; NULL: as the hash says */
	bool no_drafts;		    /* it cannot verify guesses */
	uint32_t blur;		    /* of 16 tokens, so many are others: a draft model's */
	uint64_t fail_at;	    /* step number that fails; 0: none */
	uint32_t max_decode_gap;    /* most tokens in a step that also had decodes */
	void (*in_step)(void *ctx); /* while the device works */
	void *in_step_ctx;
};

static inline uint64_t oracle_mix(uint64_t h, uint64_t v)
{
	h = (h ^ v) * 0x9e3779b97f4a7c15u;
	return h ^ h >> 29;
}

static inline bool oracle_is_banned(const uint32_t *banned, uint32_t nr, uint32_t id)
{
	for (uint32_t i = 0; i < nr; i++)
		if (banned[i] == id)
			return true;
	return false;
}

/* The token after a text of hash @h that ends with @last. */
static inline uint32_t oracle_pick(uint64_t h, uint32_t last, uint64_t seed, const uint32_t *banned, uint32_t nr_banned)
{
	if (seed >= ORACLE_LOOPS && oracle_mix(h, 7) % 16)
		h = oracle_mix(last, 9);
	for (uint64_t try = seed;; try++) {
		uint64_t x = oracle_mix(h, try);
		uint32_t id = x % 101 == 0 ? ID_EOS : ID_BYTE + (uint32_t)(x / 101 % (NR_VOCAB - ID_BYTE));

		if (!oracle_is_banned(banned, nr_banned, id))
			return id;
	}
}

/* One token, with a text of hash @h before it. */
static inline void oracle_draw(struct oracle *o, const struct fh_batch_seq *s, uint64_t h)
{
	*s->slot = (struct fh_slot){
		.token = oracle_pick(h, s->history[s->nr_history - 1], s->sampling->seed, s->banned, s->nr_banned),
		.stamp = s->index + 1};
	if (o->always[s->index > 0])
		s->slot->token = o->always[s->index > 0];
	if (o->script)
		s->slot->token = o->script[s->index];
	if (oracle_mix(h, 3) % 16 < o->blur)
		s->slot->token = ID_BYTE + (s->slot->token + 1) % (NR_VOCAB - ID_BYTE);
	if (s->sampling->logprobs) {
		s->slot->logprob = s->slot->token * 3 + s->index;
		s->slot->flags = FH_SLOT_LOGPROB;
	}
	for (uint32_t i = 0; s->top && i < s->sampling->nr_top; i++)
		s->top[i] = (struct fh_top){s->slot->token + i, s->index};
}

static inline void oracle_run(struct oracle *o, const struct fh_batch *b, const struct fh_batch_seq *s)
{
	uint32_t end = s->pos + s->q_len;
	uint64_t h = 0;

	for (uint32_t i = 0; i < s->q_len; i++) {
		uint32_t p = s->pos + i, block = s->blocks[p / FH_KV_BLOCK], at = block * FH_KV_BLOCK + p % FH_KV_BLOCK;

		cr_assert_lt(b->tokens[s->q_start + i], NR_VOCAB);
		/* Whoever writes a block is alone with it. */
		for (uint32_t j = 0; j < b->nr_seqs; j++)
			for (uint32_t k = 0; &b->seqs[j] != s && k < b->seqs[j].nr_blocks; k++)
				cr_assert_neq(b->seqs[j].blocks[k], block, "a shared block is written");
		o->cell[at] = b->tokens[s->q_start + i];
		o->cell_pos[at] = p;
	}
	o->nr_computed += s->q_len;
	if (s->pooled) {
		for (uint32_t i = 0; i < s->q_len; i++)
			for (uint32_t d = 0; d < DIM; d++) {
				float v = (float)(b->tokens[s->q_start + i] * (d + 1));

				s->pooled[d] = s->pooling == FH_POOL_LAST ? v : s->pooled[d] + v;
			}
	}
	if (!s->sampling) {
		cr_assert_eq(s->nr_draft, 0);
		return;
	}
	cr_assert_lt(s->nr_draft, s->q_len);
	cr_assert_eq(s->nr_history + s->nr_draft, end);
	cr_assert_eq(s->index, s->nr_history - s->nr_prompt);
	for (uint32_t p = 0; p < end; p++) {
		uint32_t at = s->blocks[p / FH_KV_BLOCK] * FH_KV_BLOCK + p % FH_KV_BLOCK;

		cr_assert_eq(o->cell_pos[at], p, "a block was read at another position");
		h = oracle_mix(h, o->cell[at]);
		cr_assert_eq(s->history[p], o->cell[at], "history and KV disagree");
		if (p + 1 >= s->nr_history) {
			struct fh_batch_seq one = fh_batch_sample(s, p + 1 - s->nr_history, NR_VOCAB);

			oracle_draw(o, &one, h);
		}
	}
	o->nr_drafts += s->nr_draft;
}

static inline int oracle_submit(struct fh_accel *a, const struct fh_batch *b)
{
	struct oracle *o = (struct oracle *)a;
	uint32_t at = 0, nr_decode = 0, nr_samples = 0;
	bool seen[ORACLE_SEQS] = {0};

	o->nr_steps++;
	cr_assert(b->nr_seqs && b->nr_seqs <= o->max_seqs && b->nr_tokens <= o->max_tokens);
	for (uint32_t i = 0; i < b->nr_seqs; i++) {
		const struct fh_batch_seq *s = &b->seqs[i];

		cr_assert(s->seq < o->max_seqs && !seen[s->seq]);
		seen[s->seq] = true;
		cr_assert_eq(s->q_start, at);
		cr_assert_gt(s->q_len, 0);
		cr_assert_leq(s->pos + s->q_len, s->nr_blocks * FH_KV_BLOCK);
		for (uint32_t k = 0; k < s->nr_blocks; k++)
			cr_assert_lt(s->blocks[k], o->nr_blocks);
		at += s->q_len;
		nr_decode += s->q_len == 1;
		nr_samples += s->sampling ? s->nr_draft + 1 : 0;
	}
	cr_assert_leq(nr_samples, o->max_logits);
	cr_assert_eq(at, b->nr_tokens);
	if (nr_decode && at > o->max_decode_gap)
		o->max_decode_gap = at;
	if (o->fail_at && o->nr_steps == o->fail_at)
		return -EIO;
	for (uint32_t i = 0; i < b->nr_seqs; i++)
		oracle_run(o, b, &b->seqs[i]);
	if (o->in_step)
		o->in_step(o->in_step_ctx);
	return 0;
}

static inline int oracle_reap(struct fh_accel *a, bool wait)
{
	(void)a;
	(void)wait;
	return 0;
}

static inline void oracle_info(struct fh_accel *a, struct fh_accel_info *out)
{
	struct oracle *o = (struct oracle *)a;

	*out = (struct fh_accel_info){.name = "oracle",
				      .nr_threads = 1,
				      .nr_blocks = o->nr_blocks,
				      .nr_vocab = o->nr_vocab,
				      .dim = DIM,
				      .drafts = !o->no_drafts};
}

static const struct fh_accel_ops oracle_ops = {
	.name = "oracle", .submit = oracle_submit, .reap = oracle_reap, .info = oracle_info};

/* ---- the rig ---- */

struct rig {
	struct oracle *o, *draft; /* draft: a draft model, or NULL */
	struct fh_tokenizer *tok;
	struct fh_engine *e;
	struct fh_service svc;
	struct fh_fake *f;
};

static inline int rig_submit(void *ctx, struct fh_request *r, uint32_t *retry_after_ms, struct fh_err *err)
{
	return fh_engine_submit(ctx, r, retry_after_ms, err);
}

static inline void rig_kick(void *ctx)
{
	fh_engine_kick(ctx);
}

static inline bool rig_pump(void *ctx)
{
	return fh_engine_step(ctx);
}

static inline size_t rig_detok(void *ctx, struct fh_detok *d, uint32_t id, char *out, size_t cap)
{
	return fh_detok_push(ctx, d, id, out, cap);
}

static inline size_t rig_detok_end(void *ctx, struct fh_detok *d, char *out, size_t cap)
{
	return fh_detok_end(ctx, d, out, cap);
}

static inline struct fh_engine_config rig_config(void)
{
	return (struct fh_engine_config){.nr_blocks = 256,
					 .max_seqs = 32,
					 .max_step_tokens = 128,
					 .prefill_chunk = 48,
					 .max_queue = 64,
					 .nr_ctx = 1024,
					 .prefix_cache = true};
}

/* With guesses, whatever they cost: the oracle's own time is no measure. */
static inline struct fh_engine_config rig_config_guessing(void)
{
	struct fh_engine_config cfg = rig_config();

	cfg.spec_tokens = 7;
	cfg.spec_cost = 1e-6f;
	cfg.max_step_logits = 48;
	return cfg;
}

static inline struct oracle *oracle_new(const struct fh_engine_config *cfg)
{
	struct oracle *o = calloc(1, sizeof(*o));

	cr_assert(cfg->nr_blocks <= ORACLE_BLOCKS && cfg->max_seqs <= ORACLE_SEQS);
	o->base.ops = &oracle_ops;
	o->max_seqs = cfg->max_seqs;
	o->max_tokens = cfg->max_step_tokens;
	o->max_logits = cfg->max_step_logits ? cfg->max_step_logits : cfg->max_seqs;
	o->nr_blocks = cfg->nr_blocks;
	o->nr_vocab = NR_VOCAB;
	return o;
}

enum rig_kind { RIG_PLAIN, RIG_NO_DRAFTS, RIG_DRAFT_MODEL };

static inline void rig_open_on(struct rig *g, struct fh_engine_config cfg, enum rig_kind kind)
{
	struct fh_err err = {0};

	*g = (struct rig){0};
	g->o = oracle_new(&cfg);
	g->o->no_drafts = kind == RIG_NO_DRAFTS;
	if (kind == RIG_DRAFT_MODEL) {
		g->draft = oracle_new(&cfg);
		g->draft->no_drafts = true;
		g->draft->max_logits = cfg.max_seqs;
		g->draft->blur = 3;
		cfg.draft = &g->draft->base;
	}
	g->tok = oracle_tokenizer();
	cfg.accel = &g->o->base;
	cfg.tok = g->tok;
	cr_assert_eq(fh_engine_create(&cfg, &g->e, &err), 0, "%s", err.msg);
	g->svc = (struct fh_service){.ctx = g->e, .submit = rig_submit, .kick = rig_kick};
	g->svc.text.ctx = g->tok;
	g->svc.text.detokenize = rig_detok;
	g->svc.text.detokenize_end = rig_detok_end;
	cr_assert_eq(fh_fake_create(&g->svc, &g->f, &err), 0);
	cr_assert_eq(fh_engine_attach(g->e, fh_fake_frontend(g->f), &err), 0, "%s", err.msg);
	fh_fake_set_pump(g->f, rig_pump, g->e);
}

static inline void rig_open(struct rig *g, struct fh_engine_config cfg)
{
	rig_open_on(g, cfg, RIG_PLAIN);
}

static inline void rig_close(struct rig *g)
{
	fh_engine_stop(g->e, 0);
	cr_assert(fh_engine_check(g->e), "the engine leaks");
	fh_engine_detach(g->e, fh_fake_frontend(g->f));
	fh_engine_destroy(g->e);
	fh_fake_destroy(g->f);
	fh_tokenizer_close(g->tok);
	free(g->o);
	free(g->draft);
}

/* ---- jobs ---- */

struct job {
	struct fh_fake_call call;
	uint32_t prompt[MAX_OUT];
	uint32_t out[MAX_OUT]; /* tokens as published */
	uint32_t nr_out, nr_last, nr_done;
	char *text; /* malloc'ed */
	size_t text_bytes, text_cap, text_before_cut;
	bool was_cut; /* its last token is shown in part */
};

static inline int job_slot(void *ctx, const struct fh_slot *slot, const struct fh_top *top)
{
	struct job *j = ctx;
	const struct fh_sampling *p = &j->call.req.sampling;

	cr_assert_eq(j->nr_last, 0, "a slot after the last one");
	if (slot->flags & FH_SLOT_LAST)
		j->nr_last++;
	if (slot->flags & FH_SLOT_NO_TOKEN)
		return 0;
	if (slot->flags & FH_SLOT_CUT) {
		cr_assert(slot->flags & FH_SLOT_LAST);
		j->was_cut = true;
		j->text_before_cut = j->text_bytes;
	}
	cr_assert_eq(slot->stamp, j->nr_out + 1, "stamps have a gap");
	cr_assert_lt(j->nr_out, MAX_OUT);
	if (p->logprobs)
		cr_assert_eq(slot->logprob, slot->token * 3 + j->nr_out, "log-probability of another token");
	for (uint32_t i = 0; i < p->nr_top; i++)
		cr_assert(top[i].token == slot->token + i && top[i].logprob == j->nr_out);
	j->out[j->nr_out++] = slot->token;
	return 0;
}

static inline void job_text(void *ctx, const char *text, size_t bytes)
{
	struct job *j = ctx;

	if (j->text_bytes + bytes > j->text_cap) {
		j->text_cap = 2 * (j->text_bytes + bytes);
		j->text = realloc(j->text, j->text_cap);
	}
	memcpy(j->text + j->text_bytes, text, bytes);
	j->text_bytes += bytes;
}

static inline void job_done(void *ctx, struct fh_fake_call *call)
{
	struct job *j = ctx;

	(void)call;
	j->nr_done++;
	cr_assert_eq(j->nr_done, 1, "done twice");
}

static inline void job_init(struct job *j)
{
	free(j->text);
	memset(j, 0, sizeof(*j));
	fh_fake_call_init(&j->call);
	j->call.req.prompt = j->prompt;
	j->call.on_slot = job_slot;
	j->call.on_text = job_text;
	j->call.on_done = job_done;
	j->call.ctx = j;
}

/* A prompt of one of a few families, so that prefixes are shared. */
static inline void job_random(struct job *j, struct rng *r, uint32_t max_prompt, uint32_t max_tokens)
{
	uint32_t family = rnd(r, 4);

	job_init(j);
	j->call.req.nr_prompt = 1 + rnd(r, max_prompt);
	j->call.req.max_tokens = 1 + rnd(r, max_tokens);
	j->call.req.sampling.seed = rnd(r, 3);
	for (uint32_t i = 0; i < j->call.req.nr_prompt; i++)
		j->prompt[i] = i < family * 50 ? (family * 7 + i) % NR_VOCAB : rnd(r, NR_VOCAB);
}

/* What the request must give, without any engine; stop strings aside. */
static inline enum fh_finish oracle_expect(const struct fh_request *r, uint32_t nr_ctx, uint32_t *out, uint32_t *nr_out)
{
	uint32_t banned[FH_MAX_STOP + 1], nr_banned = 0, nr = 0, last = r->prompt[r->nr_prompt - 1];
	uint64_t h = 0;

	if (!r->ignore_eos)
		banned[nr_banned++] = ID_EOS;
	for (uint32_t i = 0; i < r->nr_stop_ids; i++)
		banned[nr_banned++] = r->stop_ids[i];
	for (uint32_t i = 0; i < r->nr_prompt; i++)
		h = oracle_mix(h, r->prompt[i]);
	for (*nr_out = 0;;) {
		uint32_t id = oracle_pick(h, last, r->sampling.seed, banned, nr < r->min_tokens ? nr_banned : 0);

		nr++;
		if (oracle_is_banned(banned, nr_banned, id))
			return FH_FINISH_STOP;
		out[(*nr_out)++] = last = id;
		h = oracle_mix(h, id);
		if (nr == r->max_tokens || r->nr_prompt + nr == nr_ctx)
			return FH_FINISH_LENGTH;
		if (r->budget_tokens && nr == r->budget_tokens)
			return FH_FINISH_BUDGET;
	}
}

/* A job that was left alone gave exactly what it must. */
static inline void job_check(const struct job *j, uint32_t nr_ctx)
{
	uint32_t want[MAX_OUT], nr_want;
	enum fh_finish why = oracle_expect(&j->call.req, nr_ctx, want, &nr_want);

	cr_assert_eq(j->nr_done, 1);
	cr_assert_eq(j->nr_last, 1);
	cr_assert_eq(j->call.finish, why, "finish %d, not %d", j->call.finish, why);
	cr_assert_eq(j->nr_out, nr_want, "%u tokens, not %u", j->nr_out, nr_want);
	cr_assert_arr_eq(j->out, want, nr_want * sizeof(*want));
	cr_assert_eq(j->call.req.error, 0);
}

/* A job that was cut short gave a beginning of it. */
static inline void job_check_begun(const struct job *j, uint32_t nr_ctx)
{
	uint32_t want[MAX_OUT], nr_want;

	oracle_expect(&j->call.req, nr_ctx, want, &nr_want);
	cr_assert_eq(j->nr_done, 1);
	cr_assert_leq(j->nr_out, nr_want);
	cr_assert_arr_eq(j->out, want, j->nr_out * sizeof(*want));
}

#endif /* TESTS_UNIT_ENGINE_ORACLE_H */
