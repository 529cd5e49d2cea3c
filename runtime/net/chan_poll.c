// SPDX-License-Identifier: Apache-2.0
/*
 * The engine's side of the channels: submission rings in, completions out.
 *
 * Everything here runs on the engine's thread and blocks nowhere.  It owns the
 * list of open channels and their request objects.
 *
 * Descriptors are read in order, and ahead: one that waits for a sequence keeps
 * its place in the ring (its prompt was not read yet), while those behind it
 * are looked at, so that all of them are in the engine's queue with the time of
 * their arrival.  sq_head moves over the prompts that were read, in order.  What
 * bounds a channel is its request objects, as many as it has submission entries.
 *
 * Who lives how long: an object is used from the descriptor until its last entry
 * is written into the completion ring; a channel stays until it was given up
 * and none of its objects is used.
 */
#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "runtime/base/clock.h"
#include "runtime/base/futex.h"
#include "runtime/net/chan_priv.h"

#define BURST 64 /* descriptors of a channel in a turn, for fairness */

#define container_of(ptr, type, member) ((type *)((char *)(ptr)-offsetof(type, member)))

static struct fh_chans *chans_of(struct fh_frontend *fe)
{
	return container_of(fe, struct fh_chans, fe);
}

/* Counters that only this thread writes. */
static void count(_Atomic uint64_t *c, uint64_t n)
{
	atomic_store_explicit(c, atomic_load_explicit(c, memory_order_relaxed) + n, memory_order_relaxed);
}

/* ---- request objects ---- */

static struct fh_chan_req *take_object(struct fh_chan *c)
{
	struct fh_chan_req *q = c->free;

	if (!q)
		return NULL;
	c->free = q->next;
	c->nr_used++;
	atomic_fetch_add_explicit(&c->f->st.nr_inside, 1, memory_order_relaxed);
	return q;
}

static void free_object(struct fh_chan_req *q)
{
	struct fh_chan *c = q->chan;

	free(q->ids);
	q->ids = NULL;
	q->next = c->free;
	c->free = q;
	c->nr_used--;
	c->stuck = false;
	atomic_fetch_sub_explicit(&c->f->st.nr_inside, 1, memory_order_relaxed);
	c->f->sweep |= c->given_up;
}

static void open_link(struct fh_chan *c, struct fh_chan_req *q)
{
	q->next = c->open_head;
	q->pprev = &c->open_head;
	if (q->next)
		q->next->pprev = &q->next;
	c->open_head = q;
}

static void open_unlink(struct fh_chan_req *q)
{
	*q->pprev = q->next;
	if (q->next)
		q->next->pprev = q->pprev;
}

/* ---- the submission ring ---- */

/* The prompt of entry @index has been read, or will never be: move the head over all of which that is true. */
static void entry_read(struct fh_chan *c, uint32_t index)
{
	uint32_t mask = c->info.sq_entries - 1, head = c->sq_head;

	c->sq_taken[(index & mask) / 64] |= 1ull << (index & mask) % 64;
	while (head != c->sq_seen && c->sq_taken[(head & mask) / 64] >> (head & mask) % 64 & 1) {
		c->sq_taken[(head & mask) / 64] &= ~(1ull << (head & mask) % 64);
		head++;
	}
	if (head == c->sq_head)
		return;
	c->sq_head = head;
	if (!c->given_up)
		atomic_store_explicit(c->sq_head_word, head, memory_order_release); /* (C) */
}

static void prompt_read(struct fh_chan_req *q)
{
	if (!q->holds_entry)
		return;
	q->holds_entry = false;
	entry_read(q->chan, q->sq_index);
}

/* Say the ends for which there was no room. */
static bool say_owed(struct fh_chan *c)
{
	struct fh_chan_req *q;
	bool any = false;

	while ((q = c->owed_head) && fh_sink_room(&c->sink)) {
		struct fh_cqe *e = fh_sink_reserve(&c->sink, q->req.user_data, false);

		e->slot = (struct fh_slot){.stamp = q->req.nr_generated + 1,
					   .flags = FH_SLOT_NO_TOKEN | FH_SLOT_LAST,
					   .finish = (uint8_t)q->finish};
		e->error = q->error;
		e->retry_us = q->retry_us;
		c->owed_head = q->next;
		if (!c->owed_head)
			c->owed_tail = &c->owed_head;
		free_object(q);
		any = true;
	}
	return any;
}

/* It is over, whoever tells its client: once. */
static void note_end(struct fh_chan_req *q, enum fh_finish why, int error)
{
	fh_chan_audit_end(q, why, error);
	fh_chan_span_end(q, why, error);
}

/* The end of a request that no entry has told yet, and that was noted. */
static void owe_noted(struct fh_chan_req *q, enum fh_finish why, int error)
{
	struct fh_chan *c = q->chan;

	prompt_read(q);
	if (c->given_up) {
		free_object(q);
		return;
	}
	if (error)
		count(&c->f->st.nr_request_errors, 1);
	/* Refused for its deadline is no failure: -EAGAIN says that it may come back. */
	q->finish = error && why != FH_FINISH_DEADLINE ? FH_FINISH_ERROR : why;
	q->error = error;
	q->next = NULL;
	*c->owed_tail = q;
	c->owed_tail = &q->next;
	say_owed(c);
}

static void owe_end(struct fh_chan_req *q, enum fh_finish why, int error)
{
	note_end(q, why, error);
	owe_noted(q, why, error);
}

static void submit(struct fh_chan_req *q)
{
	struct fh_chan *c = q->chan;
	struct fh_chans *f = c->f;
	uint32_t retry_ms = 0;
	struct fh_err err;
	int ret;

	open_link(c, q);
	ret = f->svc->submit(f->svc->ctx, &q->req, &retry_ms, &err);
	if (!ret)
		return;
	open_unlink(q);
	q->retry_us = ret == -EAGAIN ? (retry_ms < UINT32_MAX / 1000 ? retry_ms * 1000 : UINT32_MAX) : 0;
	owe_end(q, FH_FINISH_ERROR, ret);
}

static void begin(struct fh_chan *c, struct fh_chan_req *q, uint64_t now_ns)
{
	struct fh_chans *f = c->f;
	struct fh_request *r = &q->req;
	int ret;

	r->id = ++f->last_id;
	r->arrival_ns = now_ns;
	if (!q->has_seed)
		r->sampling.seed = fh_random_next(&f->random);
	count(&f->st.nr_requests, 1);
	if (fh_chan_audit_ready(f)) {
		q->retry_us = 1000000;
		owe_end(q, FH_FINISH_ERROR, -EAGAIN);
		return;
	}
	if (atomic_load_explicit(&f->draining, memory_order_relaxed)) {
		owe_end(q, FH_FINISH_ERROR, -ESHUTDOWN);
		return;
	}
	if (q->is_text) {
		open_link(c, q);
		ret = fh_text_worker_push(&f->text, q);
		if (ret) {
			open_unlink(q);
			q->retry_us = 10000;
			owe_end(q, FH_FINISH_ERROR, ret);
		}
		return;
	}
	r->prompt = (const uint32_t *)((const char *)c->area[FH_AREA_ARENA] + q->text_off);
	r->nr_prompt = q->text_bytes / (uint32_t)sizeof(uint32_t);
	r->shared_prompt = true;
	submit(q);
}

static void cancel(struct fh_chan *c, uint64_t user_data)
{
	bool any = false;

	for (struct fh_chan_req *q = c->open_head; q; q = q->next) {
		if (q->req.user_data != user_data)
			continue;
		atomic_store_explicit(&q->req.cancel, 1, memory_order_relaxed);
		any = true;
	}
	if (any)
		c->f->svc->kick(c->f->svc->ctx);
}

/* Read the next descriptor, once. False: there is no object for it; it stays in the ring. */
static bool take_descriptor(struct fh_chan *c, uint64_t now_ns)
{
	uint32_t index = c->sq_seen, at = index & (c->info.sq_entries - 1);
	struct fh_chan_req *q = take_object(c), *spare;
	uint8_t entry[FH_SQ_ENTRY_BYTES];
	int ret;

	memcpy(entry, (const char *)c->area[FH_AREA_SQ] + (size_t)at * FH_SQ_ENTRY_BYTES, sizeof(entry));
	/* The copy is what is used: the compiler must not look at the original again. */
	__asm__ volatile("" ::: "memory");
	spare = q ? q : &c->f->spare;
	spare->req = (struct fh_request){
		.fe = &c->f->fe, .fe_private = spare, .sink = &c->sink, .tenant = c->grant.tenant_nr};
	memcpy(spare->req.budget.account, c->grant.account, sizeof(spare->req.budget.account));
	spare->ids = NULL;
	spare->error = 0;
	spare->retry_us = 0;
	spare->ticket = NULL;
	spare->audit_begun = spare->audit_ended = spare->has_seed = false;
	ret = fh_chan_desc_parse(entry, sizeof(entry), c->info.arena_bytes, c->f->cfg.max_text_bytes, spare);
	if (!ret && spare->is_cancel) {
		if (q)
			free_object(q);
		c->sq_seen++;
		cancel(c, spare->req.user_data);
		entry_read(c, index);
		return true;
	}
	c->stuck = !q;
	if (!q)
		return false;
	c->sq_seen++;
	q->sq_index = index;
	q->holds_entry = true;
	if (ret) {
		count(&c->f->st.nr_requests, 1);
		owe_end(q, FH_FINISH_ERROR, ret);
	} else {
		begin(c, q, now_ns);
	}
	return true;
}

/* ---- channels ---- */

/* Nothing is read from it or written to it any more; its requests end in this turn. */
static void let_go(struct fh_chan *c)
{
	struct fh_chan_req *q;

	c->given_up = true;
	for (q = c->open_head; q; q = q->next)
		atomic_store_explicit(&q->req.cancel, 1, memory_order_relaxed);
	while ((q = c->owed_head)) {
		c->owed_head = q->next;
		free_object(q);
	}
	c->owed_tail = &c->owed_head;
	c->f->sweep = true;
	c->f->svc->kick(c->f->svc->ctx);
}

void fh_chan_give_up(struct fh_chan *c, uint32_t reason, const char *why)
{
	if (reason == FH_REVOKE_PROTOCOL)
		atomic_fetch_add_explicit(&c->f->st.nr_violations, 1, memory_order_relaxed);
	c->why = why;
	c->ops->revoke(c, reason);
	let_go(c);
}

static bool poll_channel(struct fh_chan *c, uint64_t *now_ns)
{
	uint32_t tail, n = 0;
	bool any = false;

	if (c->given_up)
		return false;
	if (c->owed_head)
		any = say_owed(c);
	if (c->sink.broken) {
		fh_chan_give_up(c, FH_REVOKE_PROTOCOL,
				"its cq_head is not between what it had read and what there was");
		return true;
	}
	tail = atomic_load_explicit(c->sq_tail_word, memory_order_acquire); /* (B) */
	if (tail == c->sq_seen)
		return any;
	if (fh_chan_check_tail(tail, c->sq_head, c->sq_seen, c->info.sq_entries)) {
		fh_chan_give_up(c, FH_REVOKE_PROTOCOL, "its sq_tail goes beyond its ring, or backwards");
		return true;
	}
	c->sq_tail = tail;
	if (c->stuck)
		return any;
	if (!*now_ns)
		*now_ns = fh_now_ns();
	while (c->sq_seen != tail && n < BURST && take_descriptor(c, *now_ns))
		n++;
	return any || n;
}

static void take_arrivals(struct fh_chans *f)
{
	struct fh_chan *c, *next;

	if (!atomic_load_explicit(&f->arrivals, memory_order_relaxed))
		return;
	for (c = atomic_exchange(&f->arrivals, NULL); c; c = next) {
		next = c->next_arrival;
		/* fh_chan_open() counts them. */
		assert(f->nr_open < f->cfg.max_channels);
		f->open[f->nr_open++] = c;
		/* It came in by a table that has been replaced since. */
		if (c->guard_nr != f->guard_seen)
			f->guard_seen = c->guard_nr;
	}
}

static void take_texts(struct fh_chans *f)
{
	struct fh_chan_req *q;

	while ((q = fh_text_worker_pop(&f->text))) {
		open_unlink(q);
		prompt_read(q);
		count(&f->st.text_bytes, q->text_bytes);
		count(&f->st.copied_bytes, q->text_bytes);
		if (q->chan->given_up) {
			note_end(q, FH_FINISH_CANCELLED, 0);
			free_object(q);
		} else if (atomic_load_explicit(&q->req.cancel, memory_order_relaxed)) {
			owe_end(q, FH_FINISH_CANCELLED, 0);
		} else if (q->error) {
			owe_end(q, FH_FINISH_ERROR, q->error);
		} else {
			q->req.prompt = q->ids;
			submit(q);
		}
	}
}

/* Those whose client died, and all of them when we go. */
static void look_for_dead(struct fh_chans *f)
{
	bool closing = atomic_load_explicit(&f->closing, memory_order_acquire);

	if (!closing && (!atomic_load_explicit(&f->nr_gone, memory_order_relaxed) || !atomic_exchange(&f->nr_gone, 0)))
		return;
	for (uint32_t i = 0; i < f->nr_open; i++) {
		struct fh_chan *c = f->open[i];

		if (c->given_up)
			continue;
		if (atomic_load_explicit(&c->gone, memory_order_acquire))
			let_go(c);
		else if (closing)
			fh_chan_give_up(c, FH_REVOKE_DRAIN, "the server is going down");
	}
}

/*
 * Those whose tenant a new table locks out.  Whose a channel is was decided when it was opened: the table alone is
 * asked, and no file system.  Who has no tenant but his user is in no table.
 */
static void look_for_locked(struct fh_chans *f)
{
	struct fh_guard *g = NULL;
	uint32_t nr;

	if (atomic_load_explicit(&f->guard_nr, memory_order_relaxed) == f->guard_seen)
		return;
	/* Nobody has it for longer than to look at a pointer. */
	pthread_mutex_lock(&f->guard_lock);
	if (f->guard)
		g = fh_guard_get(f->guard);
	nr = atomic_load(&f->guard_nr);
	pthread_mutex_unlock(&f->guard_lock);
	for (uint32_t i = 0; i < f->nr_open; i++) {
		struct fh_chan *c = f->open[i];

		if (c->given_up || c->guard_nr == nr)
			continue;
		c->guard_nr = nr;
		if (g && !(c->grant.tenant_nr & FH_TENANT_UID) && g->ops->locked(g, c->grant.who.tenant))
			fh_chan_give_up(c, FH_REVOKE_LIMIT, "its tenant is locked out");
	}
	f->guard_seen = nr;
	fh_guard_put(g);
}

/* Release the channels of which nothing is left. */
static void sweep(struct fh_chans *f)
{
	f->sweep = false;
	for (uint32_t i = f->nr_open; i--;) {
		struct fh_chan *c = f->open[i];

		if (!c->given_up || c->nr_used)
			continue;
		/* It stands in f->dirty: after the flush, then. */
		if (c->sink.dirty) {
			f->sweep = true;
			continue;
		}
		fh_chan_audit_limit(c);
		f->open[i] = f->open[--f->nr_open];
		free(c->reqs);
		free(c->sq_taken);
		c->reqs = NULL;
		c->sq_taken = NULL;
		atomic_fetch_sub(&f->st.nr_open, 1);
		c->ops->release(c);
	}
}

/* Show what the turn has written, and wake who sleeps. */
static void show(struct fh_chans *f, struct fh_chan *c)
{
	uint32_t flags, limit;

	count(&f->st.copied_bytes, c->sink.copied_bytes);
	c->sink.copied_bytes = 0;
	c->turn_tail = c->sink.tail;
	limit = c->given_up ? c->sink.shown : c->nr_gates ? fh_chan_audit_limit(c) : c->sink.tail;
	if (!fh_sink_show_to(&c->sink, limit))
		return;
	flags = atomic_load(c->client_flags); /* (L): the store before and this load are both sequentially consistent */
	if (flags & FH_RING_NEED_FUTEX && c->can_futex) {
		fh_futex_wake_shared(c->sink.tail_word);
		count(&f->st.nr_futex_wakes, 1);
	}
	if (flags & FH_RING_NEED_WAKEUP) {
		c->ops->kick(c);
		count(&f->st.nr_kicks_out, 1);
	}
}

/* Events of the audit log have become durable, perhaps those that something waits for. */
static bool show_gated(struct fh_chans *f)
{
	bool any = false;

	for (uint32_t i = 0; i < f->nr_open; i++) {
		struct fh_chan *c = f->open[i];
		uint32_t shown = c->sink.shown;

		/* What was written to in this turn is shown at its end. */
		if (!c->nr_gates || c->sink.dirty)
			continue;
		show(f, c);
		any |= c->sink.shown != shown;
	}
	return any;
}

static bool chan_poll(struct fh_frontend *fe)
{
	struct fh_chans *f = chans_of(fe);
	uint64_t now_ns = 0;
	bool any = false;
	uint32_t first;

	if (atomic_load_explicit(&f->st.nr_gated, memory_order_relaxed))
		any = show_gated(f);
	take_arrivals(f);
	take_texts(f);
	look_for_dead(f);
	look_for_locked(f);
	first = f->nr_open ? f->turn_at++ % f->nr_open : 0;
	for (uint32_t k = 0; k < f->nr_open; k++)
		any |= poll_channel(f->open[first + k < f->nr_open ? first + k : first + k - f->nr_open], &now_ns);
	if (f->sweep)
		sweep(f);
	return any;
}

static void chan_admitted(struct fh_frontend *fe, struct fh_request *r)
{
	struct fh_chan_req *q = r->fe_private;

	count(&chans_of(fe)->st.copied_bytes, (uint64_t)r->nr_prompt * sizeof(*r->prompt));
	prompt_read(q);
	free(q->ids);
	q->ids = NULL;
	if (!fh_chan_audit_begin(q))
		fh_chan_give_up(q->chan, FH_REVOKE_DRAIN, "its request cannot be written into the audit log");
}

static void chan_done(struct fh_frontend *fe, struct fh_request *r, enum fh_finish why, int error)
{
	struct fh_chan_req *q = r->fe_private;

	(void)fe;
	open_unlink(q);
	q->retry_us = r->retry_us;
	note_end(q, why, error);
	if (r->sink_ended) {
		prompt_read(q);
		free_object(q);
		return;
	}
	owe_noted(q, why, error);
}

static void chan_flush(struct fh_frontend *fe)
{
	struct fh_chans *f = chans_of(fe);
	struct fh_sink *k = f->dirty, *next;

	f->dirty = NULL;
	for (; k; k = next) {
		next = k->next_dirty;
		show(f, container_of(k, struct fh_chan, sink));
	}
	fh_turn_spans_flush(&f->spans, f->svc);
	/* What was given up in this turn goes in this turn. */
	if (f->sweep)
		sweep(f);
}

/* Has @c anything that we would act on if we looked now? */
static bool has_news(struct fh_chan *c)
{
	bool was_full = c->sink.tail - c->sink.head == c->sink.nr_entries;

	if (atomic_load(c->sq_tail_word) != c->sq_tail) /* (B) after (I) */
		return true;
	if (c->sq_tail != c->sq_seen && !c->stuck)
		return true;
	/* Sequences and ends that wait for room. */
	return was_full && c->nr_used && fh_sink_room(&c->sink);
}

static int chan_doze(struct fh_frontend *fe, struct fh_sleep_word *words, uint32_t max)
{
	struct fh_chans *f = chans_of(fe);
	uint32_t nr = 0;

	for (uint32_t i = 0; i < f->nr_open; i++) {
		struct fh_chan *c = f->open[i];

		if (c->given_up)
			continue;
		c->asked = FH_RING_NEED_WAKEUP;
		if (c->can_futex && nr < max && !f->cfg.no_futex) {
			words[nr++] = (struct fh_sleep_word){c->sq_tail_word, c->sq_tail};
			c->asked = FH_RING_NEED_FUTEX;
		}
		atomic_store(c->runtime_flags, c->asked); /* (I) */
	}
	for (uint32_t i = 0; i < f->nr_open; i++)
		if (!f->open[i]->given_up && has_news(f->open[i]))
			return -EAGAIN;
	return (int)nr;
}

static void chan_rise(struct fh_frontend *fe)
{
	struct fh_chans *f = chans_of(fe);

	for (uint32_t i = 0; i < f->nr_open; i++) {
		if (!f->open[i]->asked)
			continue;
		f->open[i]->asked = 0;
		atomic_store_explicit(f->open[i]->runtime_flags, 0, memory_order_relaxed);
	}
}

const struct fh_polled_ops fh_chan_polled = {
	.poll = chan_poll,
	.admitted = chan_admitted,
	.done = chan_done,
	.flush = chan_flush,
	.doze = chan_doze,
	.rise = chan_rise,
};

void fh_chan_release_all(struct fh_chans *f)
{
	atomic_store(&f->closing, 1);
	chan_poll(&f->fe);
	chan_flush(&f->fe);
	/* The engine has none of their requests, and the tokenizer has ended: nothing can be left. */
	assert(!f->nr_open);
}
