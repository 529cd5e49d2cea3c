/* SPDX-License-Identifier: Apache-2.0 */
/*
 * An engine in its own thread with channels before it: on the oracle
 * accelerator, whose tokens are known beforehand, or on a model file.
 */
#ifndef TESTS_UNIT_CHAN_RIG_H
#define TESTS_UNIT_CHAN_RIG_H

#include "runtime/base/log.h"
#include "runtime/model/model.h"
#include "runtime/net/chan_priv.h"
#include "tests/unit/chan_client.h"
#include "tests/unit/engine_oracle.h"

struct chan_rig {
	struct rig g; /* g.f: the fake front end beside the channels */
	struct fh_chans *f;
	char dir[32], path[64];
	/* Instead of the oracle. */
	struct fh_model *m;
	struct fh_accel *a;
};

static inline int chan_rig_tokenize(void *ctx, const char *text, size_t bytes, unsigned int flags, uint32_t **ids,
				    uint32_t *nr)
{
	return fh_tokenize(ctx, text, bytes, flags, ids, nr);
}

static inline size_t chan_rig_bytes(void *ctx, uint32_t id, char *out, size_t cap)
{
	return fh_token_bytes(ctx, id, false, out, cap);
}

static inline void chan_rig_start(struct chan_rig *r, struct fh_chans_config cc)
{
	struct fh_err err = {0};

	fh_log_setup(getenv("CHAN_LOG") ? FH_LOG_INFO : FH_LOG_ERROR, false);
	strcpy(r->dir, "/tmp/fhchanXXXXXX");
	cr_assert(mkdtemp(r->dir));
	snprintf(r->path, sizeof(r->path), "%s/sock", r->dir);
	cc.unix_path = r->path;
	cr_assert_eq(fh_chans_create(&cc, &r->g.svc, &r->f, &err), 0, "%s", err.msg);
	cr_assert_eq(fh_engine_attach(r->g.e, fh_chans_frontend(r->f), &err), 0, "%s", err.msg);
	fh_fake_set_pump(r->g.f, NULL, NULL);
	cr_assert_eq(fh_engine_start(r->g.e, &err), 0, "%s", err.msg);
	cr_assert_eq(fh_chans_start(r->f, &err), 0, "%s", err.msg);
}

static inline void chan_rig_text(struct chan_rig *r, uint32_t nr_vocab, uint32_t nr_ctx, const char *id)
{
	r->g.svc.text.tokenize = chan_rig_tokenize;
	r->g.svc.text.token_bytes = chan_rig_bytes;
	r->g.svc.model = (struct fh_model_info){.id = id, .nr_vocab = nr_vocab, .nr_ctx = nr_ctx};
}

static inline void chan_rig_open(struct chan_rig *r, struct fh_engine_config cfg, struct fh_chans_config cc)
{
	memset(r, 0, sizeof(*r));
	rig_open(&r->g, cfg);
	chan_rig_text(r, NR_VOCAB, cfg.nr_ctx, "oracle");
	chan_rig_start(r, cc);
}

/* On @path: a file, or null:FILE. */
static inline void chan_rig_open_model(struct chan_rig *r, const char *path, struct fh_chans_config cc)
{
	struct fh_engine_config cfg = rig_config();
	struct fh_accel_config ac = {.nr_threads = 1,
				     .max_seqs = cfg.max_seqs,
				     .max_tokens = cfg.max_step_tokens,
				     .max_logits = cfg.max_seqs,
				     .max_blocks_per_seq = cfg.nr_ctx / FH_KV_BLOCK};
	const struct fh_accel_ops *ops = &fh_accel_cpu;
	struct fh_err err = {0};

	memset(r, 0, sizeof(*r));
	cr_assert_eq(fh_model_open(path, &r->m, &err), 0, "%s", err.msg);
	ops = r->m->null ? &fh_accel_null : ops;
	cr_assert_eq(fh_tokenizer_open(r->m->gguf, &r->g.tok, &err), 0, "%s", err.msg);
	cr_assert_eq(ops->open(&ac, &r->a, &err), 0, "%s", err.msg);
	cr_assert_eq(ops->load(r->a, r->m, &err), 0, "%s", err.msg);
	cr_assert_eq(ops->kv_alloc(r->a, cfg.nr_blocks, &err), 0, "%s", err.msg);
	cfg.accel = r->a;
	cfg.tok = r->g.tok;
	cr_assert_eq(fh_engine_create(&cfg, &r->g.e, &err), 0, "%s", err.msg);
	r->g.svc = (struct fh_service){.ctx = r->g.e, .submit = rig_submit, .kick = rig_kick};
	r->g.svc.text.ctx = r->g.tok;
	chan_rig_text(r, r->m->nr_vocab, cfg.nr_ctx, "file");
	cr_assert_eq(fh_fake_create(&r->g.svc, &r->g.f, &err), 0);
	cr_assert_eq(fh_engine_attach(r->g.e, fh_fake_frontend(r->g.f), &err), 0, "%s", err.msg);
	chan_rig_start(r, cc);
}

static inline void chan_rig_close(struct chan_rig *r)
{
	fh_chans_stop(r->f, 2000);
	fh_engine_stop(r->g.e, 0);
	cr_assert(fh_engine_check(r->g.e), "the engine leaks");
	fh_engine_detach(r->g.e, fh_chans_frontend(r->f));
	fh_chans_destroy(r->f);
	if (r->a) {
		fh_engine_detach(r->g.e, fh_fake_frontend(r->g.f));
		fh_engine_destroy(r->g.e);
		fh_fake_destroy(r->g.f);
		r->a->ops->close(r->a);
		fh_tokenizer_close(r->g.tok);
		fh_model_close(r->m);
	} else {
		rig_close(&r->g);
	}
	cr_assert_eq(access(r->path, F_OK), -1, "the socket's file is left behind");
	rmdir(r->dir);
}

static inline const char *chan_rig_url(const struct chan_rig *r)
{
	return fh_chans_url(r->f);
}

/* Wait at most @ms for @cond. */
#define soon(ms, cond)                                                                                                 \
	({                                                                                                             \
		uint64_t soon_until = fh_now_ns() + (ms)*1000000ull;                                                   \
		while (!(cond) && fh_now_ns() < soon_until)                                                            \
			usleep(200);                                                                                   \
		(cond);                                                                                                \
	})

/* ---- requests whose tokens are known ---- */

enum { WORK_IDS = 64, WORK_OUT = 200 };

struct work {
	uint32_t ids[WORK_IDS], nr_ids, max_tokens;
	uint64_t seed, budget;
	uint32_t out[WORK_OUT], nr_out;
	bool busy;
};

static inline void work_random(struct work *w, struct rng *r)
{
	*w = (struct work){.nr_ids = 1 + rnd(r, WORK_IDS),
			   .max_tokens = 1 + rnd(r, WORK_OUT - 1),
			   .seed = rnd(r, 2) ? ORACLE_LOOPS + rnd(r, 5) : rnd(r, 5)};
	if (!rnd(r, 4))
		w->budget = 1 + rnd(r, 30);
	for (uint32_t i = 0; i < w->nr_ids; i++)
		w->ids[i] = rnd(r, NR_VOCAB);
}

/* Submit it under @user_data, with its prompt in a place of the arena that is its own. */
static inline void work_submit(struct client *c, struct work *w, uint64_t user_data)
{
	struct fh_req_desc d = client_desc(user_data, (uint32_t)user_data * WORK_IDS, w->nr_ids, w->max_tokens);

	memcpy(client_arena(c) + user_data * WORK_IDS, w->ids, w->nr_ids * sizeof(*w->ids));
	d.flags = FH_REQ_SEED;
	d.seed = w->seed;
	d.budget_tokens = w->budget;
	w->nr_out = 0;
	w->busy = true;
	client_submit(c, &d);
}

/* Take a completion of it. True at its end, which is checked. */
static inline bool work_take(struct work *w, const struct fh_cqe *e, uint32_t nr_ctx)
{
	struct fh_request r = {.prompt = w->ids,
			       .nr_prompt = w->nr_ids,
			       .max_tokens = w->max_tokens,
			       .budget_tokens = w->budget,
			       .sampling.seed = w->seed};
	uint32_t want[MAX_OUT], nr_want;
	enum fh_finish why;

	cr_assert(w->busy, "an entry of a request that has ended");
	cr_assert_eq(e->error, 0, "error %d", e->error);
	if (!(e->slot.flags & FH_SLOT_NO_TOKEN)) {
		cr_assert_lt(w->nr_out, WORK_OUT);
		w->out[w->nr_out++] = e->slot.token;
		cr_assert_eq(e->slot.stamp, w->nr_out, "stamp %u of token %u", e->slot.stamp, w->nr_out);
	}
	if (!(e->slot.flags & FH_SLOT_LAST))
		return false;
	w->busy = false;
	why = oracle_expect(&r, nr_ctx, want, &nr_want);
	cr_assert_eq(e->slot.finish, why, "finish %d, not %d", e->slot.finish, why);
	cr_assert_eq(w->nr_out, nr_want, "%u tokens, not %u", w->nr_out, nr_want);
	cr_assert_arr_eq(w->out, want, nr_want * sizeof(*want));
	return true;
}

/* Run @nr requests, at most @at_once together. Returns the ids of their prompts together. */
static inline uint64_t work_run(struct client *c, struct rng *r, uint32_t nr, uint32_t at_once, uint32_t nr_ctx)
{
	struct work *w = calloc(at_once, sizeof(*w));
	uint32_t nr_begun = 0, nr_ended = 0;
	uint64_t nr_ids = 0;

	while (nr_ended < nr) {
		struct fh_cqe e;

		for (uint32_t i = 0; i < at_once && nr_begun < nr && !client_sq_full(c); i++) {
			if (w[i].busy)
				continue;
			work_random(&w[i], r);
			work_submit(c, &w[i], i);
			nr_ids += w[i].nr_ids;
			nr_begun++;
		}
		cr_assert(client_next(c, &e), "%u of %u requests ended, state %u", nr_ended, nr, client_state(c));
		cr_assert_lt(e.user_data, at_once);
		nr_ended += work_take(&w[e.user_data], &e, nr_ctx);
	}
	free(w);
	return nr_ids;
}

#endif /* TESTS_UNIT_CHAN_RIG_H */
