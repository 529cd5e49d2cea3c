// SPDX-License-Identifier: Apache-2.0
/*
 * The engine's creation, its front ends, and the door: what may enter, and
 * what is refused, decided on the thread of the front end that asks.
 *
 * The engine owns everything that it allocates here; nothing is allocated
 * later.  The sequences' arrays lie in one mapping without reservation, so that
 * a long context costs memory only once somebody uses it.
 */
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/random.h>

#include "runtime/base/clock.h"
#include "runtime/engine/engine_priv.h"

#define DEFAULT_QUEUE 1024

static uint32_t pow2_at_least(uint64_t n)
{
	uint32_t p = 1;

	while (p < n && p < 1u << 31)
		p *= 2;
	return p;
}

static int check_config(struct fh_engine *e, struct fh_err *err)
{
	struct fh_engine_config *c = &e->cfg;
	uint64_t nr_kv_tokens = (uint64_t)c->nr_blocks * FH_KV_BLOCK;

	if (!c->nr_blocks || !c->max_seqs)
		return fh_errf(err, -EINVAL, "engine: %u KV blocks and %u sequences: at least one of each is needed",
			       c->nr_blocks, c->max_seqs);
	if (c->max_step_tokens < c->max_seqs)
		return fh_errf(err, -EINVAL, "engine: a step of %u tokens cannot hold one of each of %u sequences",
			       c->max_step_tokens, c->max_seqs);
	e->nr_ctx = c->nr_ctx < nr_kv_tokens ? c->nr_ctx : (uint32_t)nr_kv_tokens;
	if (e->nr_ctx < 2)
		return fh_errf(err, -EINVAL, "engine: a context of %u tokens has no room for a prompt and an answer",
			       e->nr_ctx);
	if (!c->prefill_chunk)
		c->prefill_chunk = c->max_step_tokens;
	if (!c->max_queue)
		c->max_queue = DEFAULT_QUEUE;
	if (c->spec_tokens > FH_SPEC_MAX)
		return fh_errf(err, -EINVAL, "engine: %u guesses in a step; at most %d can be", c->spec_tokens,
			       FH_SPEC_MAX);
	if (c->spec_tokens && c->max_step_logits < c->max_seqs)
		return fh_errf(err, -EINVAL, "engine: %u rows of logits in a step are too few for %u sequences",
			       c->max_step_logits, c->max_seqs);
	if (!e->nr_vocab)
		return fh_errf(err, -EINVAL, "engine: the accelerator has no model loaded");
	return 0;
}

static int find_eog(struct fh_engine *e, struct fh_err *err)
{
	if (!e->cfg.tok)
		return 0;
	for (uint32_t id = 0; id < e->nr_vocab; id++) {
		if (!fh_tokenizer_is_eog(e->cfg.tok, id))
			continue;
		if (e->nr_eog == FH_MAX_EOG)
			return fh_errf(err, -EINVAL, "engine: the vocabulary has more than %d tokens that end a text",
				       FH_MAX_EOG);
		e->eog[e->nr_eog++] = id;
	}
	return 0;
}

static int alloc_lists(struct fh_engine *e)
{
	uint32_t n = e->cfg.max_seqs;

	e->waiter = calloc(e->cfg.max_queue, sizeof(*e->waiter));
	e->seq = calloc(n, sizeof(*e->seq));
	e->seq_free = calloc(n, sizeof(*e->seq_free));
	e->live = calloc(n, sizeof(*e->live));
	e->run = calloc(n, sizeof(*e->run));
	e->wait = calloc(n, sizeof(*e->wait));
	e->view = calloc(n, sizeof(*e->view));
	e->held = calloc(n, sizeof(*e->held));
	e->queue_item = calloc(fh_sched_queue_cap(e->cfg.max_queue), sizeof(*e->queue_item));
	e->take = calloc(n, sizeof(*e->take));
	e->batch_seq = calloc(n, sizeof(*e->batch_seq));
	e->batch_of = calloc(n, sizeof(*e->batch_of));
	e->batch_tokens = calloc(e->cfg.max_step_tokens, sizeof(*e->batch_tokens));
	if (!e->waiter || !e->seq || !e->seq_free || !e->live || !e->run || !e->wait || !e->view || !e->held ||
	    !e->queue_item || !e->take || !e->batch_seq || !e->batch_of || !e->batch_tokens)
		return -ENOMEM;

	for (uint32_t i = 0; i < e->cfg.max_queue; i++)
		e->waiter[i].next = i + 1 < e->cfg.max_queue ? i + 1 : FH_NO_WAITER;
	fh_sched_queue_init(&e->queue, e->queue_item, e->cfg.max_queue);
	/* Slot 0 on top of the stack. */
	while (n)
		e->seq_free[e->nr_seq_free++] = --n;
	return 0;
}

static int map_arena(struct fh_engine *e)
{
	size_t each = fh_seq_arena_bytes(e->nr_ctx);

	e->arena_bytes = each * e->cfg.max_seqs;
	e->arena =
		mmap(NULL, e->arena_bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (e->arena == MAP_FAILED) {
		e->arena = NULL;
		return -errno;
	}
	for (uint32_t i = 0; i < e->cfg.max_seqs; i++)
		fh_seq_init(&e->seq[i], i, (char *)e->arena + each * i, e->nr_ctx);
	return 0;
}

static void init_sched(struct fh_engine *e, const struct fh_accel_info *info)
{
	struct fh_sched_limits lim = {.max_step_tokens = e->cfg.max_step_tokens,
				      .prefill_chunk = e->cfg.prefill_chunk,
				      .max_seqs = e->cfg.max_seqs,
				      .stall_us = FH_STALL_US};

	memcpy(lim.class, e->cfg.class, sizeof(lim.class));
	fh_sched_init(&e->sched, &lim);
	atomic_store(&e->st.ttft_margin, e->sched.ttft.factor);
	atomic_store(&e->st.tpot_margin, e->sched.tpot.factor);
	fh_sched_cost_init(&e->sched.cost, e->cfg.nr_experts, e->cfg.nr_experts_used);
	/* Where each token is read for alone, pairs say all of it. */
	e->sched.cost.nr_together = info->nr_together > 1 ? info->nr_together : 0;
	/* What another shape of model cost says nothing here. */
	if (e->cfg.costs) {
		struct fh_sched_cost c = e->sched.cost;

		if (fh_sched_cost_scan(&c, e->cfg.costs) && c.nr_experts == e->sched.cost.nr_experts &&
		    c.nr_used == e->sched.cost.nr_used && c.nr_together == e->sched.cost.nr_together)
			e->sched.cost = c;
	}
}

int fh_engine_create(const struct fh_engine_config *cfg, struct fh_engine **out, struct fh_err *err)
{
	struct fh_accel_info info = {0};
	struct fh_engine *e;
	uint64_t seed[2];
	int ret;

	e = aligned_alloc(_Alignof(struct fh_engine), sizeof(*e));
	if (!e)
		return fh_errf(err, -ENOMEM, "engine: out of memory");
	memset(e, 0, sizeof(*e));
	e->cfg = *cfg;
	e->accel = cfg->accel;
	e->accel->ops->info(e->accel, &info);
	e->nr_vocab = info.nr_vocab;
	e->dim = info.dim;
	if (!info.drafts)
		e->cfg.spec_tokens = 0;
	ret = check_config(e, err);
	if (!ret)
		ret = find_eog(e, err);
	if (ret)
		goto err_free;
	init_sched(e, &info);
	if (getrandom(seed, sizeof(seed), 0) != (ssize_t)sizeof(seed)) {
		ret = fh_errf(err, -EIO, "engine: getrandom() failed");
		goto err_free;
	}

	ret = fh_engine_budget_init(e, err);
	if (!ret)
		ret = fh_draft_init(e, err);
	if (ret)
		goto err_free;
	ret = alloc_lists(e);
	if (!ret)
		ret = map_arena(e);
	if (!ret)
		ret = fh_kv_init(&e->kv, e->cfg.nr_blocks);
	if (!ret)
		ret = fh_prefix_init(&e->prefix, &e->kv, seed);
	if (ret) {
		fh_errf(err, ret, "engine: no memory for %u sequences of %u tokens and %u KV blocks: %s",
			e->cfg.max_seqs, e->nr_ctx, e->cfg.nr_blocks, strerror(-ret));
		goto err_free;
	}
	atomic_store(&e->st.heartbeat_ns, fh_now_ns());
	fh_engine_publish_levels(e);
	*out = e;
	return 0;

err_free:
	fh_engine_destroy(e);
	return ret;
}

void fh_engine_destroy(struct fh_engine *e)
{
	if (!e)
		return;
	if (e->seq)
		fh_engine_stop(e, 0);
	for (int i = 0; i < FH_MAX_FRONTENDS; i++)
		if (e->fe[i].fe)
			fh_engine_detach(e, e->fe[i].fe);
	fh_draft_free(e);
	fh_engine_budget_free(e);
	fh_prefix_destroy(&e->prefix);
	fh_kv_destroy(&e->kv);
	if (e->arena)
		munmap(e->arena, e->arena_bytes);
	free(e->waiter);
	free(e->seq);
	free(e->seq_free);
	free(e->live);
	free(e->run);
	free(e->wait);
	free(e->view);
	free(e->held);
	free(e->queue_item);
	free(e->take);
	free(e->batch_seq);
	free(e->batch_of);
	free(e->batch_tokens);
	free(e);
}

int fh_engine_attach(struct fh_engine *e, struct fh_frontend *fe, struct fh_err *err)
{
	struct fh_engine_fe *place = NULL;
	uint64_t nr_inside = (uint64_t)e->cfg.max_queue + e->cfg.max_seqs;
	int ret;

	if (atomic_load(&e->state) == FH_ENGINE_RUNNING && e->threaded)
		return fh_errf(err, -EBUSY, "engine: %s must be attached before the engine starts", fe->name);
	for (int i = FH_MAX_FRONTENDS; i--;)
		if (!e->fe[i].fe)
			place = &e->fe[i];
	if (fe->polled && fe->polled->nap && atomic_load(&e->napper))
		return fh_errf(err, -EBUSY, "engine: %s cannot have its thread, which %s has", fe->name,
			       atomic_load(&e->napper)->name);
	if (!place)
		return fh_errf(err, -ENOSPC, "engine: %s would be one front end more than %d", fe->name,
			       FH_MAX_FRONTENDS);
	ret = fh_spsc_init(&fe->submit, pow2_at_least(e->cfg.max_queue));
	if (ret)
		goto err_ret;
	/* Two entries a request, and as much again for those that are done and not yet popped. */
	ret = fh_spsc_init(&fe->ready, pow2_at_least(4 * nr_inside));
	if (ret)
		goto err_submit;
	place->fe = fe;
	place->dirty = false;
	atomic_store(&place->nr_inside, 0);
	if (fe->polled && fe->polled->nap)
		atomic_store(&e->napper, fe);
	return 0;

err_submit:
	fh_spsc_destroy(&fe->submit);
err_ret:
	return fh_errf(err, ret, "engine: no memory for the queues of %s", fe->name);
}

void fh_engine_detach(struct fh_engine *e, struct fh_frontend *fe)
{
	for (int i = 0; i < FH_MAX_FRONTENDS; i++) {
		if (e->fe[i].fe != fe)
			continue;
		if (atomic_load(&e->napper) == fe)
			atomic_store(&e->napper, NULL);
		e->fe[i].fe = NULL;
		fh_spsc_destroy(&fe->submit);
		fh_spsc_destroy(&fe->ready);
	}
}

static int check_generate(const struct fh_engine *e, const struct fh_request *r, struct fh_err *err)
{
	if (!r->max_tokens)
		return fh_errf(err, -EINVAL, "max_tokens is 0: nothing would be generated");
	if (r->nr_prompt >= e->nr_ctx)
		return fh_errf(err, -E2BIG,
			       "the prompt has %u tokens; with one to answer the context of %u is exceeded",
			       r->nr_prompt, e->nr_ctx);
	if (r->sink ? r->nr_slots || r->top : !r->slots || !r->nr_slots || (r->nr_slots & (r->nr_slots - 1)))
		return fh_errf(err, -EINVAL, "a ring of %u token slots: a power of two is needed", r->nr_slots);
	if (r->sampling.nr_top > FH_MAX_TOP_LOGPROBS)
		return fh_errf(err, -EINVAL, "top log-probabilities: %u asked for, at most %d given",
			       r->sampling.nr_top, FH_MAX_TOP_LOGPROBS);
	if (r->nr_stop > FH_MAX_STOP || r->nr_stop_ids > FH_MAX_STOP)
		return fh_errf(err, -EINVAL, "at most %d stop strings, and as many stop token ids", FH_MAX_STOP);
	if (r->nr_stop && !e->cfg.tok)
		return fh_errf(err, -EINVAL, "stop strings need a tokenizer; this engine speaks token ids only");
	for (uint32_t i = 0; i < r->nr_stop; i++)
		if (!r->stop[i].bytes || r->stop[i].bytes > FH_MAX_STOP_BYTES)
			return fh_errf(err, -EINVAL, "stop string %u has %u bytes; 1 to %d are allowed", i,
				       r->stop[i].bytes, FH_MAX_STOP_BYTES);
	return 0;
}

static int check_request(const struct fh_engine *e, const struct fh_request *r, struct fh_err *err)
{
	uint32_t highest = 0;
	int ret = 0;

	if (!r->nr_prompt)
		return fh_errf(err, -EINVAL, "the prompt is empty");
	if (r->kind == FH_REQ_EMBED) {
		if (!r->pooled || !e->dim)
			return fh_errf(err, -EINVAL, "this model gives no embeddings");
		if (r->nr_prompt > e->nr_ctx)
			return fh_errf(err, -E2BIG, "the input has %u tokens, the context %u", r->nr_prompt, e->nr_ctx);
		if (r->nr_slots & (r->nr_slots - 1))
			return fh_errf(err, -EINVAL, "a ring of %u token slots: a power of two is needed", r->nr_slots);
	} else {
		ret = check_generate(e, r, err);
	}
	if (ret || r->shared_prompt)
		return ret;
	for (uint32_t i = 0; i < r->nr_prompt; i++)
		highest = r->prompt[i] > highest ? r->prompt[i] : highest;
	if (highest >= e->nr_vocab)
		return fh_errf(err, -EINVAL, "the prompt has token id %u; ids end at %u", highest, e->nr_vocab - 1);
	return 0;
}

static int refuse(struct fh_engine *e, uint32_t *retry_after_ms, struct fh_err *err, const char *what)
{
	uint64_t ms = atomic_load_explicit(&e->st.retry_ms, memory_order_relaxed);

	atomic_fetch_add_explicit(&e->st.nr_refused, 1, memory_order_relaxed);
	if (retry_after_ms)
		*retry_after_ms = (uint32_t)ms;
	return fh_errf(err, -EAGAIN, "%s; try again in %llu ms", what, (unsigned long long)ms);
}

int fh_engine_submit(struct fh_engine *e, struct fh_request *r, uint32_t *retry_after_ms, struct fh_err *err)
{
	struct fh_engine_fe *fe = NULL;
	uint64_t nr_ready;
	int ret;

	for (int i = 0; i < FH_MAX_FRONTENDS && !fe; i++)
		if (e->fe[i].fe == r->fe)
			fe = &e->fe[i];
	if (!fe || !r->fe)
		return fh_errf(err, -EINVAL, "the front end of this request is not attached");
	ret = check_request(e, r, err);
	if (ret)
		return ret;

	/* Counted before the state is looked at: fh_engine_stop() sets the state, then looks at the count. */
	nr_ready = 2ull * (atomic_fetch_add(&fe->nr_inside, 1) + 1);
	if (atomic_load(&e->state) >= FH_ENGINE_DRAINING) {
		ret = fh_errf(err, -ESHUTDOWN, "the server is shutting down");
		goto err_inside;
	}
	/* A request leaves nr_inside after its last entry is in `ready`, so that this never counts too little. */
	nr_ready += fh_spsc_count(&fe->fe->ready);
	if (nr_ready > (uint64_t)fe->fe->ready.mask + 1) {
		ret = refuse(e, retry_after_ms, err, "too many finished requests have not been collected");
		goto err_inside;
	}
	if (atomic_fetch_add(&e->nr_queued, 1) >= e->cfg.max_queue) {
		ret = refuse(e, retry_after_ms, err, "the queue is full");
		goto err_queued;
	}

	if (!r->arrival_ns)
		r->arrival_ns = fh_now_ns();
	r->error = 0;
	r->retry_us = 0;
	r->nr_generated = 0;
	r->nr_cached_prompt = 0;
	r->first_token_ns = 0;
	r->done_ns = 0;
	r->sink_ended = false;
	r->tokens = NULL;
	r->nr_tokens = 0;
	atomic_store_explicit(&r->tail, 0, memory_order_relaxed);
	atomic_store_explicit(&r->head, 0, memory_order_relaxed);
	atomic_store_explicit(&r->announced, 0, memory_order_relaxed);
	ret = fh_spsc_push(&fe->fe->submit, r);
	if (ret) {
		/* It has as many places as nr_queued may count: only a bookkeeping mistake of ours leads here. */
		ret = refuse(e, retry_after_ms, err, "the queue is full");
		goto err_queued;
	}
	/* Who was asked in a turn need not ask for one; who woke us at the first of a burst would be kept from the
	 * rest. */
	if (!fe->fe->polled && !fe->fe->bursts)
		fh_engine_ring(e);
	return 0;

err_queued:
	atomic_fetch_sub(&e->nr_queued, 1);
err_inside:
	atomic_fetch_sub(&fe->nr_inside, 1);
	return ret;
}

bool fh_engine_check(struct fh_engine *e)
{
	const struct fh_kv *kv = &e->kv;
	uint32_t nr_marked = 0;

	for (uint32_t i = 0; i < kv->nr_blocks; i++) {
		if (kv->block[i].cached != (e->prefix.entry[i].serial != 0))
			return false;
		nr_marked += kv->block[i].cached;
	}
	return fh_kv_check(kv) && kv->nr_free + kv->nr_cached == kv->nr_blocks && nr_marked == e->prefix.nr_entries &&
	       !e->nr_live && !e->nr_run && !e->nr_wait && !e->nr_paced && !e->queue.nr &&
	       e->nr_seq_free == e->cfg.max_seqs && !atomic_load(&e->nr_queued) && fh_engine_is_empty(e);
}
