// SPDX-License-Identifier: Apache-2.0
/*
 * Who comes in: requests from the front ends' queues are judged by runtime/sched,
 * and either wait in order of service or are refused at once.
 *
 * A judgement needs the state between two steps, so it is made on the engine's
 * thread, at the next turn.  Nothing of a refused request has been copied by then.
 *
 * Deadlines are watched here, too: whether tokens were in time, and who can not
 * be on time any more.
 */
#include <assert.h>
#include <math.h>
#include <string.h>

#include "runtime/base/clock.h"
#include "runtime/base/log.h"
#include "runtime/engine/engine_priv.h"

#define ERROR_WEIGHT (1.0 / 64)
#define WAYS 3 /* times the mean way out: in, out, and what both vary by */

static void set(_Atomic double *to, double v)
{
	atomic_store_explicit(to, v, memory_order_relaxed);
}

bool fh_engine_wants_end(const struct fh_engine *e, const struct fh_request *r)
{
	return atomic_load_explicit(&r->cancel, memory_order_relaxed) ||
	       atomic_load_explicit(&e->cancel_all, memory_order_relaxed);
}

void fh_engine_view(const struct fh_seq *s, struct fh_sched_seq *v)
{
	*v = (struct fh_sched_seq){.key_ns = s->key_ns,
				   .ticket = s->ticket,
				   .due_ns = s->nr_generated ? (s->tpot_us ? s->next_due_ns : 0) : s->due_ns,
				   .stalled_ns = s->stalled_ns,
				   .served_ns = s->served_ns,
				   .tpot_us = s->tpot_us,
				   .nr_left = s->nr_tokens - s->nr_computed,
				   .nr_context = s->nr_computed,
				   .nr_held = s->nr_blocks,
				   .nr_most =
					   s->r->max_tokens > s->nr_generated ? s->r->max_tokens - s->nr_generated : 1,
				   .class = s->class};
}

void fh_engine_load(struct fh_engine *e, uint64_t now_ns, struct fh_sched_load *load)
{
	uint32_t r = 0, w = 0, nr = 0;

	while (r < e->nr_run || w < e->nr_wait) {
		const struct fh_seq *a = r < e->nr_run ? e->run[r] : NULL, *b = w < e->nr_wait ? e->wait[w] : NULL;
		bool first = a && (!b || fh_sched_order(a->key_ns, a->ticket, b->key_ns, b->ticket) < 0);

		fh_engine_view(first ? a : b, &e->held[nr++]);
		r += first;
		w += !first;
	}
	*load = (struct fh_sched_load){.seqs = e->held,
				       .nr_seqs = nr,
				       .queue = &e->queue,
				       .kv_free_tokens = (uint64_t)fh_kv_available(&e->kv) * FH_KV_BLOCK,
				       .now_ns = now_ns};
}

/*
 * How much of a prompt the prefix cache has now.  A prompt that its sender can
 * still write is read once only, when its turn comes: for it, none.
 */
static uint32_t nr_cached(const struct fh_engine *e, const struct fh_request *r)
{
	uint32_t most = (r->nr_prompt - 1) / FH_KV_BLOCK, nr = 0;
	uint64_t serial = 0, hash = 0;

	if (!e->cfg.prefix_cache || r->kind != FH_REQ_GENERATE || r->shared_prompt)
		return 0;
	for (; nr < most; nr++) {
		const uint32_t *tokens = r->prompt + (size_t)nr * FH_KV_BLOCK;
		uint32_t b;

		hash = fh_prefix_hash(&e->prefix, hash, tokens);
		b = fh_prefix_find(&e->prefix, hash, serial, tokens);
		if (b == FH_NO_BLOCK)
			break;
		serial = fh_prefix_serial(&e->prefix, b);
	}
	return nr * FH_KV_BLOCK;
}

static void append(struct fh_engine *e, struct fh_engine_fe *fe, struct fh_request *r, struct fh_sched_item *item,
		   uint64_t predicted_ns)
{
	uint32_t i = e->waiter_free;
	struct fh_waiter *w = &e->waiter[i];

	/* fh_engine_submit() counts what it lets in. */
	assert(i != FH_NO_WAITER);
	e->waiter_free = w->next;
	*w = (struct fh_waiter){.r = r,
				.fe = fe,
				.key_ns = item->key_ns,
				.ticket = item->ticket,
				.promised_ns = item->due_ns ? item->due_ns + item->way_ns : 0,
				.way_ns = item->way_ns,
				.predicted_ns = predicted_ns};
	item->ref = i;
	fh_sched_queue_add(&e->queue, item);
	fh_sched_entered(&e->sched, item, r->arrival_ns);
	set(&e->st.quantum_s, e->sched.quantum_ns * 1e-9);
}

struct fh_waiter fh_engine_unqueue(struct fh_engine *e, uint32_t place, struct fh_sched_item *item)
{
	struct fh_waiter w, *at;

	*item = *fh_sched_queue_at(&e->queue, place);
	fh_sched_queue_remove(&e->queue, place);
	at = &e->waiter[item->ref];
	w = *at;
	at->r = NULL;
	at->next = e->waiter_free;
	e->waiter_free = item->ref;
	atomic_fetch_sub_explicit(&e->nr_queued, 1, memory_order_relaxed);
	return w;
}

static double ms(uint64_t to_ns, uint64_t from_ns)
{
	return (double)fh_since(to_ns, from_ns) / 1e6;
}

static void enter(struct fh_engine *e, struct fh_engine_fe *fe, struct fh_request *r, uint64_t now_ns)
{
	struct fh_sched_ask ask = {.arrival_ns = r->arrival_ns,
				   .ticket = ++e->last_ticket,
				   .ttft_us = r->ttft_us,
				   .tpot_us = r->tpot_us,
				   .way_ns = WAYS * atomic_load_explicit(&fe->fe->way_ns, memory_order_relaxed),
				   .class = r->class,
				   .tenant = r->tenant,
				   .nr_prompt = r->nr_prompt,
				   .nr_most = r->max_tokens};
	enum fh_sched_verdict v = FH_SCHED_ADMIT;
	struct fh_sched_item item;
	uint64_t first_ns = 0;
	uint32_t retry_us = 0;

	fh_sched_place(&e->sched, &ask, &item);
	if (item.due_ns || item.tpot_us) {
		struct fh_sched_load load;

		item.nr_context = nr_cached(e, r);
		item.nr_tokens -= item.nr_context;
		fh_engine_load(e, now_ns, &load);
		v = fh_sched_admit(&e->sched, &load, &item, &first_ns, &retry_us);
	}
	if (v == FH_SCHED_ADMIT && fh_engine_afford(e, r)) {
		append(e, fe, r, &item, first_ns);
		return;
	}
	if (v == FH_SCHED_ADMIT) {
		fh_count(&e->st.nr_over_budget, 1);
		atomic_fetch_sub_explicit(&e->nr_queued, 1, memory_order_relaxed);
		fh_request_refuse(e, fe, r, FH_FINISH_BUDGET, -EDQUOT, now_ns);
		return;
	}
	fh_sched_refused(&e->sched);
	fh_count(&e->st.refused[v], 1);
	fh_debug("request refused: reason=%s prompt_tokens=%u ttft_deadline_ms=%.3f ttft_predicted_ms=%.3f "
		 "tpot_deadline_ms=%.3f retry_ms=%.3f",
		 fh_sched_verdict_name(v), r->nr_prompt, item.due_ns ? ms(item.due_ns + item.way_ns, r->arrival_ns) : 0,
		 first_ns ? ms(first_ns, r->arrival_ns) : 0, item.tpot_us / 1e3, retry_us / 1e3);
	atomic_fetch_sub_explicit(&e->nr_queued, 1, memory_order_relaxed);
	r->retry_us = retry_us;
	fh_request_refuse(e, fe, r, FH_FINISH_DEADLINE, -EAGAIN, now_ns);
}

bool fh_engine_poll(struct fh_engine *e)
{
	bool any = false;

	for (int i = 0; i < FH_MAX_FRONTENDS; i++)
		if (e->fe[i].fe && e->fe[i].fe->polled)
			any |= e->fe[i].fe->polled->poll(e->fe[i].fe);
	return any;
}

bool fh_engine_intake(struct fh_engine *e, uint64_t now_ns)
{
	bool any = false;

	for (int i = 0; i < FH_MAX_FRONTENDS; i++) {
		struct fh_request *r;

		if (!e->fe[i].fe)
			continue;
		while ((r = fh_spsc_pop(&e->fe[i].fe->submit))) {
			/* The last few may have come after the turn began. */
			if (r->arrival_ns > now_ns)
				now_ns = fh_now_ns();
			enter(e, &e->fe[i], r, now_ns);
			any = true;
		}
	}
	return any;
}

/* Those who cannot be on time any more go behind those who can; they stand in front. */
static void relegate(struct fh_engine *e, uint64_t now_ns)
{
	for (uint32_t left = FH_SCAN; left && e->queue.nr_due; left--) {
		struct fh_sched_item item = *fh_sched_queue_at(&e->queue, 0);

		if (!fh_sched_is_late(&e->sched, item.due_ns, item.nr_context, item.nr_tokens, now_ns))
			return;
		fh_sched_queue_remove(&e->queue, 0);
		item.key_ns = fh_sched_late_key(now_ns);
		item.due_ns = 0;
		e->waiter[item.ref].key_ns = item.key_ns;
		fh_sched_queue_add(&e->queue, &item);
		fh_count(&e->st.nr_late, 1);
	}
}

/* Look at some of the waiting requests, or at all after a kick, a part of them in each turn. */
bool fh_engine_watch_queue(struct fh_engine *e, uint64_t now_ns)
{
	uint32_t left = FH_SCAN;
	bool any = false;

	if (atomic_load_explicit(&e->scan, memory_order_relaxed) && atomic_exchange(&e->scan, 0))
		e->scan_left = e->cfg.max_queue;
	if (!e->queue.nr) {
		e->scan_left = 0;
		return false;
	}
	relegate(e, now_ns);
	for (; left; left--) {
		struct fh_waiter *w = &e->waiter[e->scan_at];

		if (w->r && fh_engine_wants_end(e, w->r)) {
			uint32_t place = fh_sched_queue_find(&e->queue, w->key_ns, w->ticket);
			struct fh_sched_item item;
			struct fh_waiter gone;

			assert(place < e->queue.nr);
			gone = fh_engine_unqueue(e, place, &item);
			fh_sched_tenant_leave(&e->sched.tenants, item.tenant);
			fh_request_refuse(e, gone.fe, gone.r, FH_FINISH_CANCELLED, 0, now_ns);
			any = true;
		}
		e->scan_at = e->scan_at + 1 < e->cfg.max_queue ? e->scan_at + 1 : 0;
		e->scan_left -= e->scan_left > 0;
	}
	return any || e->scan_left;
}

/* ---- deadlines ---- */

static void first_token(struct fh_engine *e, struct fh_seq *s, uint64_t now_ns)
{
	struct fh_counters *st = &e->st;

	if (s->promised_ns) {
		bool kept = fh_sched_kept(&e->sched.ttft, (double)fh_since(now_ns, s->r->arrival_ns) + s->way_ns,
					  (double)fh_since(s->promised_ns, s->r->arrival_ns));

		fh_count(kept ? &st->ttft_kept : &st->ttft_missed, 1);
		set(&st->ttft_margin, e->sched.ttft.factor);
	}
	if (s->predicted_ns) {
		double took = (double)fh_since(now_ns, s->r->arrival_ns);
		double said = (double)fh_since(s->predicted_ns, s->r->arrival_ns);
		double was = atomic_load_explicit(&st->ttft_error, memory_order_relaxed);

		set(&st->ttft_error, was + (fabs(said / (took > 1 ? took : 1) - 1) - was) * ERROR_WEIGHT);
	}
}

void fh_engine_drew(struct fh_engine *e, struct fh_seq *s, uint64_t now_ns)
{
	if (s->nr_generated == 1) {
		first_token(e, s, now_ns);
		s->mean_due_ns = now_ns;
	} else {
		s->mean_due_ns += s->tpot_us * 1000ull;
	}
	s->drawn_ns = now_ns;
	s->next_due_ns = fh_sched_next_due(now_ns, s->mean_due_ns, s->tpot_us);
}

/* The plan goes by the time from one token to the next; what was promised is their mean. */
static void last_token(struct fh_engine *e, const struct fh_seq *s)
{
	double promised_ns = (s->nr_generated - 1) * 1e3 * s->tpot_us;
	bool kept;

	if (!s->tpot_us || s->nr_generated < 2)
		return;
	kept = fh_sched_kept(&e->sched.tpot, (double)s->drawn_ns - (double)s->mean_due_ns + promised_ns, promised_ns);
	fh_count(kept ? &e->st.tpot_kept : &e->st.tpot_missed, 1);
	set(&e->st.tpot_margin, e->sched.tpot.factor);
}

/* What was promised and what came of it; 0: nothing was. */
static void log_deadlines(const struct fh_seq *s)
{
	uint64_t arrival_ns = s->r->arrival_ns, spent_ns = (s->nr_generated - 1) * (s->tpot_us * 1000ull);

	if ((!s->promised_ns && !s->tpot_us) || !s->nr_generated)
		return;
	fh_debug("request done: prompt_tokens=%u output_tokens=%u ttft_ms=%.3f ttft_deadline_ms=%.3f "
		 "ttft_predicted_ms=%.3f tpot_ms=%.3f tpot_deadline_ms=%.3f",
		 s->nr_prompt, s->nr_generated, ms(s->mean_due_ns - spent_ns, arrival_ns),
		 s->promised_ns ? ms(s->promised_ns, arrival_ns) : 0,
		 s->predicted_ns ? ms(s->predicted_ns, arrival_ns) : 0,
		 s->nr_generated > 1 ? ms(s->drawn_ns, s->mean_due_ns - spent_ns) / (s->nr_generated - 1) : 0,
		 s->tpot_us / 1e3);
}

void fh_engine_left(struct fh_engine *e, const struct fh_seq *s)
{
	log_deadlines(s);
	fh_sched_tenant_leave(&e->sched.tenants, s->tenant);
	last_token(e, s);
	if (s->r->kind == FH_REQ_GENERATE && s->finish != FH_FINISH_CANCELLED && s->finish != FH_FINISH_ERROR)
		fh_sched_ended(&e->sched, s->nr_generated);
}
