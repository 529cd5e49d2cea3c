// SPDX-License-Identifier: Apache-2.0
/*
 * One turn of the engine: take requests in, notice who left, admit, plan, run
 * the step, hand out its tokens.
 *
 * The cost of a turn depends on the sequences that have a slot, never on the
 * length of the queue.
 */
#include <assert.h>
#include <string.h>

#include "runtime/base/clock.h"
#include "runtime/base/log.h"
#include "runtime/engine/engine_priv.h"

/* ---- lists ---- */

static int order(const struct fh_seq *a, const struct fh_seq *b)
{
	return fh_sched_order(a->key_ns, a->ticket, b->key_ns, b->ticket);
}

static uint32_t list_insert(struct fh_seq **list, uint32_t *nr, struct fh_seq *s)
{
	uint32_t i = *nr;

	for (; i && order(s, list[i - 1]) < 0; i--)
		list[i] = list[i - 1];
	list[i] = s;
	++*nr;
	return i;
}

static void list_remove(struct fh_seq **list, uint32_t *nr, struct fh_seq *s)
{
	uint32_t i = 0;

	while (list[i] != s)
		i++;
	if (i < --*nr)
		memmove(list + i, list + i + 1, (*nr - i) * sizeof(*list));
}

void fh_engine_unlist(struct fh_engine *e, struct fh_seq *s)
{
	if (s->state == FH_SEQ_RUN)
		list_remove(e->run, &e->nr_run, s);
	else if (s->state == FH_SEQ_WAIT)
		list_remove(e->wait, &e->nr_wait, s);
}

void fh_engine_free_seq(struct fh_engine *e, struct fh_seq *s)
{
	struct fh_seq *last = e->live[--e->nr_live];

	assert(s->state == FH_SEQ_DRAIN && !s->nr_blocks);
	e->live[s->live_at] = last;
	last->live_at = s->live_at;
	s->state = FH_SEQ_FREE;
	s->r = NULL;
	e->nr_paced -= s->tpot_us != 0;
	e->seq_free[e->nr_seq_free++] = s->slot;
}

/* ---- those who have a slot ---- */

/* Who cannot be on time any more goes behind those who can. */
static void relegate(struct fh_engine *e, struct fh_seq *s, uint64_t now_ns)
{
	if (!s->due_ns || s->nr_generated ||
	    !fh_sched_is_late(&e->sched, s->due_ns, s->nr_computed, s->nr_tokens - s->nr_computed, now_ns))
		return;
	fh_engine_unlist(e, s);
	s->key_ns = fh_sched_late_key(now_ns);
	s->due_ns = 0;
	if (s->state == FH_SEQ_RUN)
		list_insert(e->run, &e->nr_run, s);
	else
		list_insert(e->wait, &e->nr_wait, s);
	fh_count(&e->st.nr_late, 1);
}

static void watch_credit(struct fh_engine *e, struct fh_seq *s, uint64_t now_ns)
{
	if (!fh_seq_has_credit(s)) {
		s->stalled_ns = s->stalled_ns ? s->stalled_ns : now_ns;
	} else if (s->stalled_ns) {
		/* The time that its reader took is not ours. */
		s->mean_due_ns += now_ns - s->stalled_ns;
		s->stalled_ns = 0;
		s->next_due_ns = now_ns + s->tpot_us * 1000ull;
	}
	relegate(e, s, now_ns);
}

/* Cancelled sequences end, readers that made room get what they are owed. */
static bool watch_seqs(struct fh_engine *e, uint64_t now_ns)
{
	bool any = false;

	for (uint32_t i = e->nr_live; i--;) {
		struct fh_seq *s = e->live[i];

		if (fh_engine_wants_end(e, s->r)) {
			fh_seq_finish(e, s, FH_FINISH_CANCELLED, 0, now_ns);
			any = true;
			continue;
		}
		if (s->nr_safe || s->state == FH_SEQ_DRAIN)
			any |= fh_seq_drain(e, s, now_ns);
		if (s->state == FH_SEQ_RUN || s->state == FH_SEQ_WAIT)
			watch_credit(e, s, now_ns);
	}
	return any;
}

/* ---- admission ---- */

/* Give the blocks back; its tokens stay, and are computed again as a prompt. */
static void preempt(struct fh_engine *e, struct fh_seq *s)
{
	fh_seq_release_blocks(e, s);
	list_remove(e->run, &e->nr_run, s);
	s->state = FH_SEQ_WAIT;
	s->leader = NULL;
	s->nr_too_few = 0;
	list_insert(e->wait, &e->nr_wait, s);
	if (s->r->kind == FH_REQ_EMBED)
		memset(s->r->pooled, 0, e->dim * sizeof(*s->r->pooled));
	fh_count(&e->st.nr_preempted, 1);
}

/* Is whole block @k the same in both? @s has its hash, and everything before is the same. */
static bool same_block(struct fh_engine *e, struct fh_seq *leader, const struct fh_seq *s, uint32_t k)
{
	size_t at = (size_t)k * FH_KV_BLOCK;

	if (at + FH_KV_BLOCK > leader->nr_tokens)
		return false;
	fh_seq_hash(e, leader, k + 1);
	return leader->hashes[k] == s->hashes[k] &&
	       !memcmp(leader->tokens + at, s->tokens + at, FH_KV_BLOCK * sizeof(*s->tokens));
}

/* It computes a prompt and nothing keeps it from going on. */
static bool can_lead(const struct fh_seq *s)
{
	return s->state == FH_SEQ_RUN && s->r->kind == FH_REQ_GENERATE && s->nr_tokens - s->nr_computed > 1 &&
	       !s->stalled_ns;
}

/*
 * Does another sequence compute the block that @s would have to compute first?
 * @nr_match blocks of @s were found in the cache, the last of them @last.
 */
static bool find_leader(struct fh_engine *e, struct fh_seq *s, uint32_t nr_match, uint32_t last)
{
	for (uint32_t i = 0; i < e->nr_run; i++) {
		struct fh_seq *l = e->run[i];

		/* run[] is in order of service, and nobody waits for one who is served after him. */
		if (order(l, s) > 0)
			return false;
		if (!can_lead(l) || l->nr_known != nr_match || (nr_match && l->blocks[nr_match - 1] != last))
			continue;
		if (!same_block(e, l, s, nr_match))
			continue;
		s->leader = l;
		s->leader_ticket = l->ticket;
		s->nr_same = nr_match;
		return true;
	}
	return false;
}

/* Is the leader still on the way to the block that @s needs next? */
static bool still_led(struct fh_engine *e, struct fh_seq *s, uint32_t max_match)
{
	struct fh_seq *l = s->leader;

	if (!l || l->ticket != s->leader_ticket || !can_lead(l) || order(l, s) > 0)
		return false;
	while (s->nr_same < max_match && s->nr_same <= l->nr_known) {
		fh_seq_hash(e, s, s->nr_same + 1);
		if (!same_block(e, l, s, s->nr_same))
			return false;
		if (s->nr_same == l->nr_known)
			return true;
		s->nr_same++;
	}
	return false;
}

enum start { START_DONE, START_LATER, START_NO_BLOCKS };

/*
 * Preempt until @nr blocks are available for @s: those whose readers have
 * stalled for long, and those without a deadline where that saves one.
 */
static bool reclaim(struct fh_engine *e, const struct fh_seq *s, uint32_t nr, uint64_t now_ns)
{
	while (fh_kv_available(&e->kv) < nr) {
		uint32_t v;

		for (uint32_t i = 0; i < e->nr_run; i++)
			fh_engine_view(e->run[i], &e->view[i]);
		v = fh_sched_victim(&e->sched, e->view, e->nr_run, true, now_ns);
		if (v == e->nr_run) {
			v = fh_sched_yields(&e->sched, e->view, e->nr_run, s->due_ns, s->nr_tokens, now_ns);
			if (v < e->nr_run)
				fh_count(&e->st.nr_yielded, 1);
		}
		if (v == e->nr_run)
			return false;
		preempt(e, e->run[v]);
	}
	return true;
}

/* Find what is cached of it and allocate the rest of its blocks: FH_SEQ_WAIT -> FH_SEQ_RUN. */
static enum start try_start(struct fh_engine *e, struct fh_seq *s, uint64_t now_ns)
{
	uint32_t nr_blocks = (s->nr_tokens + FH_KV_BLOCK - 1) / FH_KV_BLOCK;
	/* The last token is always computed: its logits are wanted. */
	uint32_t max_match = (s->nr_tokens - 1) / FH_KV_BLOCK, nr_match = 0, need;
	bool cache = e->cfg.prefix_cache && s->r->kind == FH_REQ_GENERATE;
	uint64_t serial = 0;

	if (s->stalled_ns)
		return START_LATER;
	if (cache && still_led(e, s, max_match))
		return START_LATER;
	s->leader = NULL;
	if (s->nr_too_few && fh_kv_available(&e->kv) <= s->nr_too_few && !reclaim(e, s, s->nr_too_few + 1, now_ns))
		return START_NO_BLOCKS;

	for (; cache && nr_match < max_match; nr_match++) {
		uint32_t b;

		fh_seq_hash(e, s, nr_match + 1);
		b = fh_prefix_find(&e->prefix, s->hashes[nr_match], serial, s->tokens + (size_t)nr_match * FH_KV_BLOCK);
		if (b == FH_NO_BLOCK)
			break;
		s->blocks[nr_match] = b;
		serial = fh_prefix_serial(&e->prefix, b);
	}
	if (cache && nr_match < max_match && find_leader(e, s, nr_match, nr_match ? s->blocks[nr_match - 1] : 0))
		return START_LATER;

	/* Held from here on, so that neither eviction nor preemption takes them away. */
	for (uint32_t i = 0; i < nr_match; i++)
		fh_kv_ref(&e->kv, s->blocks[i]);
	/* Some room for the others to grow, or they would push it out again at once. */
	need = nr_blocks - nr_match + (e->nr_run ? 1 + e->nr_run / 8 : 0);
	if (fh_kv_available(&e->kv) < need && !reclaim(e, s, need, now_ns)) {
		s->nr_blocks = nr_match;
		fh_seq_release_blocks(e, s);
		s->nr_too_few = fh_kv_available(&e->kv);
		return START_NO_BLOCKS;
	}
	for (s->nr_blocks = nr_match; s->nr_blocks < nr_blocks; s->nr_blocks++)
		s->blocks[s->nr_blocks] = fh_engine_take_block(e);
	s->nr_known = nr_match;
	s->nr_computed = nr_match * FH_KV_BLOCK;
	if (!s->counted) {
		s->counted = true;
		s->r->nr_cached_prompt = s->nr_computed;
		fh_count(&e->st.prompt_tokens, s->nr_prompt);
		fh_count(&e->st.cached_prompt_tokens, s->nr_computed);
		if (cache) {
			fh_count(&e->st.prefix_queries, s->nr_prompt);
			fh_count(&e->st.prefix_hits, s->nr_computed);
		}
		fh_hist_add(&e->st.queue, fh_since(now_ns, s->r->arrival_ns));
		s->r->started_ns = now_ns;
	}
	s->served_ns = now_ns;
	s->state = FH_SEQ_RUN;
	list_remove(e->wait, &e->nr_wait, s);
	list_insert(e->run, &e->nr_run, s);
	return START_DONE;
}

/* From the queue into a sequence slot; NULL when the request ended instead. */
static struct fh_seq *admit_waiter(struct fh_engine *e, uint32_t place, uint64_t now_ns)
{
	struct fh_sched_item item;
	struct fh_waiter w = fh_engine_unqueue(e, place, &item);
	struct fh_seq *s;
	int ret;

	if (fh_engine_wants_end(e, w.r)) {
		fh_sched_tenant_leave(&e->sched.tenants, item.tenant);
		fh_request_refuse(e, w.fe, w.r, FH_FINISH_CANCELLED, 0, now_ns);
		return NULL;
	}
	s = &e->seq[e->seq_free[e->nr_seq_free - 1]];
	ret = fh_seq_admit(e, s, w.r, item.ticket);
	if (w.fe->fe->polled && w.fe->fe->polled->admitted)
		w.fe->fe->polled->admitted(w.fe->fe, w.r);
	if (ret) {
		fh_sched_tenant_leave(&e->sched.tenants, item.tenant);
		fh_request_refuse(e, w.fe, w.r, FH_FINISH_ERROR, -EINVAL, now_ns);
		return NULL;
	}
	e->nr_seq_free--;
	s->fe = w.fe;
	s->class = item.class;
	s->tenant = item.tenant;
	s->key_ns = item.key_ns;
	s->due_ns = item.due_ns;
	s->promised_ns = w.promised_ns;
	s->way_ns = w.way_ns;
	s->predicted_ns = w.predicted_ns;
	s->tpot_us = item.tpot_us;
	e->nr_paced += s->tpot_us != 0;
	s->state = FH_SEQ_WAIT;
	s->live_at = e->nr_live;
	e->live[e->nr_live++] = s;
	w.r->engine_private = s;
	list_insert(e->wait, &e->nr_wait, s);
	return s;
}

/* Who is to take the next slot: a place in the queue, or its nr. */
static uint32_t next_waiter(struct fh_engine *e, uint64_t now_ns)
{
	struct fh_sched_load load = {.queue = &e->queue, .now_ns = now_ns};

	if (!e->nr_seq_free || !e->queue.nr)
		return e->queue.nr;
	/* Only those that have a pace of their own matter for who follows; to list all costs as much as there are. */
	if (e->nr_paced)
		fh_engine_load(e, now_ns, &load);
	return fh_sched_next(&e->sched, &load, e->nr_seq_free);
}

/*
 * In order of service: start who can start.  Nobody overtakes a sequence that
 * lacks blocks; those who wait for another's prefix or for their reader let
 * others pass.
 */
static bool admit(struct fh_engine *e, uint64_t now_ns)
{
	uint32_t i = 0;
	bool any = false;

	for (;;) {
		uint32_t w = next_waiter(e, now_ns);
		const struct fh_sched_item *it = w < e->queue.nr ? fh_sched_queue_at(&e->queue, w) : NULL;
		struct fh_seq *s = i < e->nr_wait ? e->wait[i] : NULL;
		enum start start;

		if (it && (!s || fh_sched_order(it->key_ns, it->ticket, s->key_ns, s->ticket) < 0)) {
			any = true;
			s = admit_waiter(e, w, now_ns);
			if (!s)
				continue;
		}
		if (!s)
			return any;
		start = try_start(e, s, now_ns);
		if (start == START_NO_BLOCKS)
			return any;
		if (start == START_DONE)
			any = true;
		else
			i++;
	}
}

/* ---- the step ---- */

/* Will the step draw a token of @s, of which @take tokens are planned, into an entry of its sink? */
static bool needs_entry(const struct fh_seq *s, uint32_t take, uint32_t nr_left)
{
	return s->r->sink && !s->r->nr_stop && s->r->kind == FH_REQ_GENERATE && take && take == nr_left;
}

/*
 * Sequences that share a sink share its credits: who finds none left sits this
 * step out.  Who comes first changes from step to step.  False if nobody is
 * left in the plan.
 */
static bool claim_entries(struct fh_engine *e)
{
	uint64_t turn = atomic_load_explicit(&e->st.nr_steps, memory_order_relaxed);
	bool any = false;

	for (uint32_t k = 0; k < e->nr_run; k++) {
		uint32_t i = (uint32_t)((turn + k) % e->nr_run);
		struct fh_seq *s = e->run[i];

		if (needs_entry(s, e->take[i], e->view[i].nr_left)) {
			if (fh_sink_room(s->r->sink))
				fh_sink_claim(s->r->sink, 1);
			else
				e->take[i] = 0;
		}
		any |= e->take[i] > 0;
	}
	return any;
}

/* Remove running sequence @v from the plan and preempt it. */
static void drop_from_plan(struct fh_engine *e, uint32_t v)
{
	uint32_t nr_after = e->nr_run - v - 1;

	preempt(e, e->run[v]);
	memmove(e->view + v, e->view + v + 1, nr_after * sizeof(*e->view));
	memmove(e->take + v, e->take + v + 1, nr_after * sizeof(*e->take));
}

/* Blocks for all that is planned; who loses them is not in the plan afterwards. */
static void find_blocks(struct fh_engine *e, uint64_t now_ns)
{
	uint32_t i = 0;

	while (i < e->nr_run) {
		struct fh_seq *s = e->run[i];
		uint32_t b, v;

		if (s->nr_blocks * FH_KV_BLOCK >= s->nr_computed + e->take[i]) {
			i++;
			continue;
		}
		b = fh_engine_take_block(e);
		if (b != FH_NO_BLOCK) {
			s->blocks[s->nr_blocks++] = b;
			e->view[i].nr_held++;
			continue;
		}
		v = fh_sched_victim(&e->sched, e->view, e->nr_run, false, now_ns);
		assert(v < e->nr_run);
		drop_from_plan(e, v);
		i -= v < i;
	}
}

static void batch_seq(struct fh_engine *e, struct fh_batch *b, struct fh_seq *s, uint32_t take)
{
	struct fh_batch_seq *q = &e->batch_seq[b->nr_seqs];
	uint32_t nr_draft = s->spec.nr_draft;

	take += nr_draft;
	*q = (struct fh_batch_seq){.seq = s->slot,
				   .q_start = b->nr_tokens,
				   .q_len = take,
				   .pos = s->nr_computed,
				   .nr_blocks = s->nr_blocks,
				   .blocks = s->blocks};
	if (s->r->kind == FH_REQ_EMBED) {
		q->pooled = s->r->pooled;
		q->pooling = s->r->pooling;
	} else if (s->nr_computed + take == s->nr_tokens + nr_draft) {
		q->sampling = &s->r->sampling;
		q->index = s->nr_generated;
		q->history = s->tokens;
		q->nr_prompt = s->nr_prompt;
		q->nr_history = s->nr_tokens;
		q->banned = s->banned;
		q->nr_banned = s->nr_generated < s->r->min_tokens ? s->nr_banned : 0;
		q->nr_draft = nr_draft;
		q->slot = fh_seq_next_slot(s, &q->top);
		for (uint32_t i = 0; i <= nr_draft; i++)
			q->slot[i] = (struct fh_slot){0};
	}
	for (uint32_t i = 0; i < take; i++)
		e->batch_tokens[b->nr_tokens + i] = s->tokens[s->nr_computed + i];
	e->batch_of[b->nr_seqs++] = s;
	b->nr_tokens += take;
}

/* The blocks that became whole are known to the cache from now on. */
static void know_blocks(struct fh_engine *e, struct fh_seq *s)
{
	uint32_t nr = s->nr_computed / FH_KV_BLOCK;

	if (!e->cfg.prefix_cache || s->r->kind != FH_REQ_GENERATE || s->nr_known == nr)
		return;
	fh_seq_hash(e, s, nr);
	for (; s->nr_known < nr; s->nr_known++) {
		uint32_t k = s->nr_known;
		uint64_t parent = k ? fh_prefix_serial(&e->prefix, s->blocks[k - 1]) : 0;
		uint32_t own = s->blocks[k];

		s->blocks[k] =
			fh_prefix_add(&e->prefix, own, s->hashes[k], parent, s->tokens + (size_t)k * FH_KV_BLOCK);
		if (s->blocks[k] != own)
			fh_draft_replaced(e, s, k);
	}
}

/*
 * The device has drawn: accept its tokens as long as they are what was guessed,
 * and the one after those.  Before each the sequence is in the state in which a
 * step of its own would have left it.
 */
static void take_tokens(struct fh_engine *e, struct fh_seq *s, const struct fh_batch_seq *q, uint64_t now_ns)
{
	const uint32_t *guess = e->batch_tokens + q->q_start + q->q_len - q->nr_draft;
	uint32_t nr_right = 0, first = q->slot->token, nr_blocks;

	/* Looked at before the reader sees any: with the last one the request is no longer ours. */
	while (nr_right < q->nr_draft && q->slot[nr_right].token == guess[nr_right])
		nr_right++;
	if (e->cfg.spec_tokens)
		fh_spec_learn(e, s, first, nr_right);
	for (uint32_t i = 0; fh_seq_accept(e, s, now_ns); i++) {
		if (i == nr_right) {
			fh_seq_show(e, s, now_ns);
			break;
		}
		s->nr_computed++;
		know_blocks(e, s);
	}
	/* What wrong guesses have written is written again; blocks that only they needed go back. */
	nr_blocks = (s->nr_tokens + FH_KV_BLOCK - 1) / FH_KV_BLOCK;
	while (s->nr_blocks > nr_blocks)
		fh_kv_unref(&e->kv, s->blocks[--s->nr_blocks]);
}

static void device_failed(struct fh_engine *e, int error, uint64_t now_ns)
{
	if (!e->device_lost)
		fh_error("%s: a step failed (%s); its requests end with an error", e->accel->ops->name,
			 strerror(-error));
	e->device_lost = true;
	atomic_store(&e->device_bad, 1);
	fh_count(&e->st.nr_device_errors, 1);
	while (e->nr_run)
		fh_seq_finish(e, e->run[e->nr_run - 1], FH_FINISH_ERROR, error, now_ns);
	/* Who knows what the device's memory holds now. */
	if (e->cfg.prefix_cache)
		fh_prefix_forget_all(&e->prefix);
}

/*
 * A device that may go and come back: false while it is away.  Requests wait
 * then; those that had keys and values on it have lost them.
 */
static bool device_ready(struct fh_engine *e, uint64_t now_ns)
{
	int ret = e->accel->ops->ready ? e->accel->ops->ready(e->accel) : 0;

	if (ret && ret != -EAGAIN)
		device_failed(e, ret, now_ns);
	if (!ret && e->device_lost && e->accel->ops->ready) {
		e->device_lost = false;
		atomic_store(&e->device_bad, 0);
	}
	return !ret;
}

static void finish_embedding(struct fh_engine *e, struct fh_seq *s, uint64_t now_ns)
{
	if (s->r->pooling == FH_POOL_MEAN)
		for (uint32_t i = 0; i < e->dim; i++)
			s->r->pooled[i] /= (float)s->nr_prompt;
	fh_engine_charge_prompt(e, s->r);
	fh_seq_finish(e, s, FH_FINISH_STOP, 0, now_ns);
}

static void count_gap(struct fh_engine *e, uint64_t ns)
{
	fh_sched_cost_between(&e->sched.cost, ns);
	atomic_store_explicit(&e->st.gap_s, e->sched.cost.gap_ns * 1e-9, memory_order_relaxed);
}

/* Run the planned step; returns whether there was one. */
static bool step(struct fh_engine *e, uint64_t begin_ns)
{
	struct fh_batch b = {.tokens = e->batch_tokens, .seqs = e->batch_seq};
	uint64_t submit_ns, done_ns;
	uint32_t nr_decoding = 0, nr_guessed;
	struct fh_sched_work work;
	int ret;

	for (uint32_t i = 0; i < e->nr_run; i++)
		fh_engine_view(e->run[i], &e->view[i]);
	if (!e->nr_run ||
	    !fh_sched_plan(&e->sched, e->view, e->nr_run, atomic_load_explicit(&e->st.nr_steps, memory_order_relaxed),
			   begin_ns, e->take))
		return false;
	if (!claim_entries(e))
		return false;
	find_blocks(e, begin_ns);
	nr_guessed = fh_spec_plan(e);
	fh_sched_work_of(&e->sched.cost, e->view, e->take, e->nr_run, nr_guessed, &work);
	for (uint32_t i = 0; i < e->nr_run; i++) {
		if (!e->take[i])
			continue;
		nr_decoding += e->view[i].nr_left == 1;
		batch_seq(e, &b, e->run[i], e->take[i]);
	}
	if (!b.nr_seqs)
		return true;

	if (e->stepped_ns)
		count_gap(e, begin_ns - e->stepped_ns);
	submit_ns = fh_now_ns();
	atomic_store_explicit(&e->st.step_since_ns, submit_ns, memory_order_relaxed);
	ret = e->accel->ops->submit(e->accel, &b);
	if (!ret)
		ret = e->accel->ops->reap(e->accel, true);
	done_ns = fh_now_ns();
	atomic_store_explicit(&e->st.step_since_ns, 0, memory_order_relaxed);
	fh_count(&e->st.nr_steps, 1);
	e->stepped_ns = done_ns;
	if (ret) {
		device_failed(e, ret, done_ns);
		return true;
	}
	fh_engine_measured(e, &work, done_ns - begin_ns);
	if (b.nr_tokens == nr_decoding + nr_guessed)
		fh_sched_decoded(&e->steps, b.nr_tokens, done_ns - submit_ns);
	if (e->device_lost) {
		e->device_lost = false;
		atomic_store(&e->device_bad, 0);
	}
	for (uint32_t i = 0; i < b.nr_seqs; i++) {
		const struct fh_batch_seq *q = &e->batch_seq[i];
		struct fh_seq *s = e->batch_of[i];

		s->served_ns = done_ns;
		fh_sched_tenant_served(&e->sched.tenants, s->tenant, q->q_len - q->nr_draft - (q->sampling != NULL),
				       q->sampling != NULL);
		s->nr_computed += q->q_len - q->nr_draft;
		know_blocks(e, s);
		if (q->sampling)
			take_tokens(e, s, q, done_ns);
		else if (s->r->kind == FH_REQ_EMBED && s->nr_computed == s->nr_tokens)
			finish_embedding(e, s, done_ns);
	}
	fh_hist_add(&e->st.step, done_ns - submit_ns + e->draft.ns);
	fh_hist_add(&e->st.host, submit_ns - begin_ns - e->draft.ns + (fh_now_ns() - done_ns));
	return true;
}

void fh_engine_measured(struct fh_engine *e, const struct fh_sched_work *w, uint64_t step_ns)
{
	const struct fh_sched_cost *c = &e->sched.cost;

	if (!fh_sched_cost_measured(&e->sched.cost, w, step_ns))
		return;
	for (int i = 0; i < FH_NR_COST_TERMS; i++)
		atomic_store_explicit(&e->st.price_ns[i], c->ns[i] * c->speed, memory_order_relaxed);
	atomic_store_explicit(&e->st.cost_error, c->error, memory_order_relaxed);
}

/* Wake the front ends that got something; polled ones wake their readers. */
static void wake_frontends(struct fh_engine *e)
{
	for (int i = 0; i < FH_MAX_FRONTENDS; i++) {
		struct fh_engine_fe *fe = &e->fe[i];

		if (fe->fe && fe->fe->polled)
			fe->fe->polled->flush(fe->fe);
		if (!fe->dirty)
			continue;
		fe->dirty = false;
		if (atomic_exchange(&fe->fe->sleeping, 0))
			fe->fe->wake(fe->fe);
	}
}

void fh_engine_publish_levels(struct fh_engine *e)
{
	struct fh_counters *st = &e->st;

	atomic_store_explicit(&st->nr_running, e->nr_run, memory_order_relaxed);
	atomic_store_explicit(&st->nr_waiting, e->nr_wait + e->queue.nr, memory_order_relaxed);
	atomic_store_explicit(&st->nr_free, e->kv.nr_free, memory_order_relaxed);
	atomic_store_explicit(&st->nr_cached, e->kv.nr_cached, memory_order_relaxed);
	atomic_store_explicit(&st->nr_evicted, e->kv.nr_evicted, memory_order_relaxed);
	atomic_store_explicit(&st->retry_ms, fh_sched_retry_ms(&e->rate, e->queue.nr), memory_order_relaxed);
}

bool fh_engine_is_empty(struct fh_engine *e)
{
	for (int i = 0; i < FH_MAX_FRONTENDS; i++)
		if (e->fe[i].fe && atomic_load(&e->fe[i].nr_inside))
			return false;
	return true;
}

bool fh_engine_turn(struct fh_engine *e)
{
	uint64_t now_ns = fh_now_ns();
	bool any, stepped = false;

	atomic_store_explicit(&e->st.heartbeat_ns, now_ns, memory_order_relaxed);
	if (atomic_load_explicit(&e->bell, memory_order_relaxed))
		atomic_exchange(&e->bell, 0);
	any = fh_engine_poll(e);
	/* Those have just come. */
	if (any)
		now_ns = fh_now_ns();
	any |= fh_engine_intake(e, now_ns);
	any |= fh_engine_watch_queue(e, now_ns);
	any |= watch_seqs(e, now_ns);
	if (device_ready(e, now_ns)) {
		any |= admit(e, now_ns);
		stepped = step(e, now_ns);
		any |= stepped;
	}
	/* After a turn without a step, what passes until the next one is no work of ours. */
	if (!stepped)
		e->stepped_ns = 0;
	/* Before anybody is woken, who may look at them. */
	fh_engine_publish_levels(e);
	wake_frontends(e);
	return any;
}
