// SPDX-License-Identifier: Apache-2.0
/*
 * One sequence: its tokens, its blocks, what its reader may see, and its end.
 *
 * Tokens reach the reader in one of two ways.  Without stop strings the device
 * writes the reader's own slot and we move the tail.  With them it writes a
 * slot of ours (held[]), and a token is copied to the reader when no stop
 * string can begin before its text ends; so nothing that may have to be
 * withdrawn ever lies in memory that the reader sees.
 *
 * A reader is a ring of the request's own, or a sink that several requests
 * share.  In a sink an entry is reserved for each token before the step; how
 * many of a sequence's guesses are right is not known then, so a sequence that
 * guesses writes to slots of ours, too, and what is right is copied.
 *
 * Every sequence ends in end_seq(), which gives the blocks back at once, and in
 * complete(), which says the last word to the front end, exactly once.
 */
#include <assert.h>
#include <string.h>

#include "runtime/engine/engine_priv.h"
#include "runtime/engine/think.h"

#define ARENA_ALIGN 64

static size_t carve(size_t *at, size_t bytes)
{
	size_t from = *at;

	*at = (from + bytes + ARENA_ALIGN - 1) & ~(size_t)(ARENA_ALIGN - 1);
	return from;
}

/* Lay out the arrays of a sequence from @base on; returns the bytes that they take. */
static size_t lay_out(struct fh_seq *s, char *base, uint32_t nr_ctx)
{
	size_t nr_blocks = (nr_ctx + FH_KV_BLOCK - 1) / FH_KV_BLOCK, at = 0;

	s->tokens = (void *)(base + carve(&at, nr_ctx * sizeof(*s->tokens)));
	s->blocks = (void *)(base + carve(&at, nr_blocks * sizeof(*s->blocks)));
	s->hashes = (void *)(base + carve(&at, nr_blocks * sizeof(*s->hashes)));
	s->ngram.mask = fh_ngram_heads(nr_ctx) - 1;
	s->ngram.head = (void *)(base + carve(&at, (s->ngram.mask + 1ul) * sizeof(uint32_t)));
	s->ngram.prev = (void *)(base + carve(&at, nr_ctx * sizeof(uint32_t)));
	s->stopper = (void *)(base + carve(&at, sizeof(*s->stopper)));
	s->held_slot = (void *)(base + carve(&at, FH_HELD_SLOTS * sizeof(*s->held_slot)));
	s->held = (void *)(base + carve(&at, FH_HELD_SLOTS * sizeof(*s->held)));
	s->held_top = (void *)(base + carve(&at, FH_HELD_SLOTS * FH_MAX_TOP_LOGPROBS * sizeof(*s->held_top)));
	return at;
}

size_t fh_seq_arena_bytes(uint32_t nr_ctx)
{
	struct fh_seq s;

	return lay_out(&s, NULL, nr_ctx);
}

void fh_seq_init(struct fh_seq *s, uint32_t slot, void *arena, uint32_t nr_ctx)
{
	*s = (struct fh_seq){.slot = slot};
	lay_out(s, arena, nr_ctx);
}

int fh_seq_admit(struct fh_engine *e, struct fh_seq *s, struct fh_request *r, uint64_t ticket)
{
	uint32_t highest = 0;

	memset(&s->r, 0, sizeof(*s) - offsetof(struct fh_seq, r));
	s->ngram.nr = 0;
	s->r = r;
	s->ticket = ticket;
	s->class = r->class;
	s->nr_prompt = s->nr_tokens = r->nr_prompt;
	s->tail = atomic_load_explicit(&r->tail, memory_order_relaxed);
	/* The prompt may lie in memory that others write: fetched once, then judged. */
	memcpy(s->tokens, r->prompt, r->nr_prompt * sizeof(*s->tokens));
	r->tokens = s->tokens;
	r->nr_tokens = s->nr_tokens;
	fh_count(&e->st.copied_bytes, r->nr_prompt * sizeof(*s->tokens));
	for (uint32_t i = 0; i < s->nr_prompt; i++)
		highest = s->tokens[i] > highest ? s->tokens[i] : highest;
	if (highest >= e->nr_vocab)
		return -EINVAL;
	s->thinks = fh_think_begins(s->tokens, s->nr_prompt, e->cfg.think_open, e->cfg.think_close);

	if (r->min_tokens) {
		if (!r->ignore_eos)
			for (uint32_t i = 0; i < e->nr_eog; i++)
				s->banned[s->nr_banned++] = e->eog[i];
		for (uint32_t i = 0; i < r->nr_stop_ids; i++)
			s->banned[s->nr_banned++] = r->stop_ids[i];
	}
	if (r->nr_stop) {
		fh_stop_init(s->stopper, r->stop, r->nr_stop);
		/* The answer goes on after a prompt: its first word keeps its space. */
		s->detok.started = true;
	}
	if (r->kind == FH_REQ_EMBED)
		memset(r->pooled, 0, e->dim * sizeof(*r->pooled));
	return 0;
}

/* In its ring, or not promised to anybody in its sink. */
static uint32_t nr_free_slots(const struct fh_seq *s)
{
	uint32_t used;

	if (s->r->sink)
		return fh_sink_room(s->r->sink);
	used = s->tail - atomic_load_explicit(&s->r->head, memory_order_seq_cst);

	return used < s->r->nr_slots ? s->r->nr_slots - used : 0;
}

bool fh_seq_has_credit(const struct fh_seq *s)
{
	return s->r->kind == FH_REQ_EMBED || (!s->nr_safe && nr_free_slots(s));
}

void fh_seq_hash(struct fh_engine *e, struct fh_seq *s, uint32_t nr)
{
	for (; s->nr_hashed < nr; s->nr_hashed++)
		s->hashes[s->nr_hashed] = fh_prefix_hash(&e->prefix, s->nr_hashed ? s->hashes[s->nr_hashed - 1] : 0,
							 s->tokens + (size_t)s->nr_hashed * FH_KV_BLOCK);
}

/* The last block first, so that the cache evicts the ends of prefixes before their beginnings. */
void fh_seq_release_blocks(struct fh_engine *e, struct fh_seq *s)
{
	fh_draft_keep(e, s);
	s->spec.nr_drafted = 0;
	while (s->nr_blocks)
		fh_kv_unref(&e->kv, s->blocks[--s->nr_blocks]);
	s->nr_computed = 0;
	s->nr_known = 0;
}

struct fh_slot *fh_seq_next_slot(struct fh_seq *s, struct fh_top **top)
{
	struct fh_request *r = s->r;
	uint32_t at;

	if (r->nr_stop) {
		at = (s->held_from + s->nr_held) % FH_HELD_SLOTS;
		*top = r->top ? s->held_top + (size_t)at * r->sampling.nr_top : NULL;
		return &s->held_slot[at];
	}
	if (r->sink) {
		*top = NULL;
		s->nr_taken = 0;
		s->cqe = s->spec.nr_draft ? NULL : fh_sink_reserve(r->sink, r->user_data, true);
		return s->cqe ? &s->cqe->slot : s->held_slot;
	}
	at = s->tail & (r->nr_slots - 1);
	*top = r->top ? r->top + (size_t)at * r->sampling.nr_top : NULL;
	return &r->slots[at];
}

uint32_t fh_seq_room(const struct fh_seq *s)
{
	uint32_t nr = s->r->nr_slots, at, room;

	if (s->r->nr_stop) {
		nr = FH_HELD_SLOTS;
		at = (s->held_from + s->nr_held) % FH_HELD_SLOTS;
		room = FH_HELD_SLOTS - s->nr_held;
	} else if (s->r->sink) {
		/* One is claimed already. */
		nr = FH_HELD_SLOTS;
		at = 0;
		room = nr_free_slots(s) + 1;
	} else {
		at = s->tail & (nr - 1);
		room = nr_free_slots(s);
	}
	return room < nr - at ? room : nr - at;
}

static void push_ready(struct fh_engine_fe *fe, struct fh_request *r, uintptr_t bits)
{
	int ret = fh_spsc_push(&fe->fe->ready, (void *)((uintptr_t)r | bits));

	/* fh_engine_submit() accepts no more than fit. */
	assert(!ret);
	(void)ret;
	fe->dirty = true;
}

/* Show the reader everything below s->tail, among it @nr_tokens new tokens; the last of it is told with the end. */
static void show_tail(struct fh_engine *e, struct fh_seq *s, uint32_t nr_tokens, uint64_t now_ns)
{
	struct fh_request *r = s->r;

	if (nr_tokens) {
		if (!r->first_token_ns) {
			r->first_token_ns = now_ns;
			fh_hist_add(&e->st.ttft, fh_since(now_ns, r->arrival_ns));
		} else {
			fh_hist_add(&e->st.itl, fh_since(now_ns, s->last_token_ns));
		}
		s->last_token_ns = now_ns;
	}
	/* The front end shows a sink when the turn ends. */
	if (!r->sink)
		atomic_store_explicit(&r->tail, s->tail, memory_order_seq_cst);
}

/* The same, and tell it. */
static void publish(struct fh_engine *e, struct fh_seq *s, uint32_t nr_tokens, uint64_t now_ns)
{
	show_tail(e, s, nr_tokens, now_ns);
	if (!s->r->sink && !atomic_exchange(&s->r->announced, 1))
		push_ready(s->fe, s->r, 0);
}

/* The engine's last touch of a request. */
static void say_done(struct fh_engine *e, struct fh_engine_fe *fe, struct fh_request *r, enum fh_finish why, int error,
		     uint64_t now_ns)
{
	r->error = error;
	r->done_ns = now_ns;
	fh_engine_settle(e, r);
	fh_count(&e->st.finished[why], 1);
	if (why == FH_FINISH_CANCELLED)
		fh_count(&e->st.nr_cancelled, 1);
	fh_hist_add(&e->st.e2e, fh_since(now_ns, r->arrival_ns));
	if (fe->fe->polled && fe->fe->polled->done)
		fe->fe->polled->done(fe->fe, r, why, error);
	else
		push_ready(fe, r, FH_READY_DONE);
	atomic_fetch_sub_explicit(&fe->nr_inside, 1, memory_order_release);
}

static void complete(struct fh_engine *e, struct fh_seq *s, uint64_t now_ns)
{
	struct fh_request *r = s->r;
	bool idle = e->nr_live == 1 && !e->queue.nr;

	r->nr_generated = s->nr_generated;
	r->nr_reasoning = s->nr_reasoning;
	r->nr_tokens = s->nr_tokens;
	fh_sched_departed(&e->rate, now_ns, idle);
	fh_engine_left(e, s);
	say_done(e, s->fe, r, s->finish, r->error, now_ns);
	fh_engine_free_seq(e, s);
}

/* Write an end without a token to the slot below the tail-to-be. */
static void write_end(struct fh_slot *slot, uint32_t index, enum fh_finish why)
{
	*slot = (struct fh_slot){.stamp = index + 1, .flags = FH_SLOT_NO_TOKEN | FH_SLOT_LAST, .finish = (uint8_t)why};
}

/* Copy the oldest held token to the reader, who has room. */
static void copy_held(struct fh_engine *e, struct fh_seq *s)
{
	const struct fh_slot *slot = &s->held_slot[s->held_from];
	struct fh_request *r = s->r;
	uint32_t nr_top = r->top ? r->sampling.nr_top : 0, at = s->tail++ & (r->nr_slots - 1);

	if (r->sink) {
		fh_sink_reserve(r->sink, r->user_data, false)->slot = *slot;
		r->sink->copied_bytes += sizeof(*slot);
		r->sink_ended |= slot->flags & FH_SLOT_LAST;
	} else {
		r->slots[at] = *slot;
	}
	if (nr_top)
		memcpy(r->top + (size_t)at * nr_top, s->held_top + (size_t)s->held_from * nr_top,
		       nr_top * sizeof(*r->top));
	fh_count(&e->st.copied_bytes, sizeof(*slot) + nr_top * sizeof(*r->top));
}

bool fh_seq_drain(struct fh_engine *e, struct fh_seq *s, uint64_t now_ns)
{
	struct fh_request *r = s->r;
	uint32_t room = r->nr_slots || r->sink ? nr_free_slots(s) : 0, nr_tokens = 0, from = s->tail;

	for (; s->nr_safe && room; room--) {
		nr_tokens += !(s->held_slot[s->held_from].flags & FH_SLOT_NO_TOKEN);
		copy_held(e, s);
		s->held_from = (s->held_from + 1) % FH_HELD_SLOTS;
		s->nr_held--;
		s->nr_safe--;
	}
	if (s->state == FH_SEQ_DRAIN && !s->nr_safe && s->owes_end && room) {
		write_end(&r->slots[s->tail++ & (r->nr_slots - 1)], s->nr_generated, s->finish);
		s->owes_end = false;
	}
	if (s->tail != from)
		publish(e, s, nr_tokens, now_ns);
	/* Who asked for the end does not wait for it to be read. */
	if (s->state == FH_SEQ_DRAIN && !s->nr_safe && (!s->owes_end || s->finish == FH_FINISH_CANCELLED)) {
		complete(e, s, now_ns);
		return true;
	}
	return s->tail != from;
}

/* @owes_end: no slot has said yet that this is the end. */
static void end_seq(struct fh_engine *e, struct fh_seq *s, enum fh_finish why, int error, bool owes_end,
		    uint64_t now_ns)
{
	fh_seq_release_blocks(e, s);
	fh_engine_unlist(e, s);
	s->state = FH_SEQ_DRAIN;
	s->finish = why;
	s->r->error = error;
	/* In a sink the front end says it, unless an entry was reserved in vain: that must be made whole anyway. */
	if (s->cqe) {
		write_end(&s->cqe->slot, s->nr_generated, why);
		s->cqe->error = error;
		s->cqe = NULL;
		s->r->sink_ended = true;
	}
	s->owes_end = owes_end && s->r->nr_slots;
	if (why == FH_FINISH_CANCELLED)
		s->nr_held = 0;
	s->nr_safe = s->nr_held;
	/* Most often nothing is held back and all is said. */
	if (s->nr_safe || s->owes_end)
		fh_seq_drain(e, s, now_ns);
	else
		complete(e, s, now_ns);
}

void fh_seq_finish(struct fh_engine *e, struct fh_seq *s, enum fh_finish why, int error, uint64_t now_ns)
{
	end_seq(e, s, why, error, true, now_ns);
}

/* Does the sequence end with @token?  @more: its budget allows more of them.  *@hidden: then the token is no part of
 * the answer. */
static enum fh_finish judge(const struct fh_engine *e, const struct fh_seq *s, uint32_t token, bool more, bool *hidden)
{
	const struct fh_request *r = s->r;

	*hidden = true;
	if (!r->ignore_eos)
		for (uint32_t i = 0; i < e->nr_eog; i++)
			if (token == e->eog[i])
				return FH_FINISH_STOP;
	for (uint32_t i = 0; i < r->nr_stop_ids; i++)
		if (token == r->stop_ids[i])
			return FH_FINISH_STOP;
	*hidden = false;
	if (s->nr_generated >= r->max_tokens || s->nr_tokens + 1 >= e->nr_ctx)
		return FH_FINISH_LENGTH;
	if (!more || (r->budget_tokens && s->nr_generated >= r->budget_tokens))
		return FH_FINISH_BUDGET;
	return FH_FINISH_NONE;
}

static struct fh_held *held_at(struct fh_seq *s, uint32_t i)
{
	return &s->held[(s->held_from + i) % FH_HELD_SLOTS];
}

static struct fh_slot *held_slot_at(struct fh_seq *s, uint32_t i)
{
	return &s->held_slot[(s->held_from + i) % FH_HELD_SLOTS];
}

/* A stop string begins at offset @begin of the text: cut there, and drop what follows. */
static void cut_at(struct fh_seq *s, uint64_t begin)
{
	uint32_t i = 0;
	struct fh_slot *slot;
	struct fh_held *h;

	while (i + 1 < s->nr_held && held_at(s, i)->text_end <= begin)
		i++;
	h = held_at(s, i);
	slot = held_slot_at(s, i);
	if (begin > h->text_begin) {
		uint64_t end = begin < h->text_end ? begin : h->text_end;

		slot->flags |= FH_SLOT_LAST | FH_SLOT_CUT;
		slot->cut_bytes = (uint16_t)(end - h->text_begin - h->nr_before);
		slot->finish = FH_FINISH_STOP;
	} else {
		/* Nothing of it is shown, nor what the reader's detokenizer holds back. */
		write_end(slot, slot->stamp - 1, FH_FINISH_STOP);
		slot->flags |= FH_SLOT_CUT;
	}
	s->nr_held = i + 1;
}

/* The newest token is in held[]: release what is safe. Returns the reason when a stop string, or @why, ends it. */
static enum fh_finish accept_held(struct fh_engine *e, struct fh_seq *s, enum fh_finish why, bool hidden)
{
	struct fh_slot *slot = held_slot_at(s, s->nr_held);
	struct fh_held *h = held_at(s, s->nr_held++);
	struct fh_stopper *st = s->stopper;
	char text[FH_DETOK_MAX];
	bool found = false;
	uint64_t begin;
	size_t n = 0;

	h->text_begin = st->offset;
	h->nr_before = s->detok.nr_pending;
	if (!hidden)
		n = fh_detok_push(e->cfg.tok, &s->detok, slot->token, text, sizeof(text));
	if (s->nr_generated > s->r->min_tokens)
		found = fh_stop_feed(st, text, n, &begin);
	else
		fh_stop_skip(st, n);
	h->text_end = st->offset;
	if (!found && why != FH_FINISH_NONE) {
		/* At the end readers print what is left of a broken character. */
		n = fh_detok_end(e->cfg.tok, &s->detok, text, sizeof(text));
		found = s->nr_generated > s->r->min_tokens && fh_stop_feed(st, text, n, &begin);
	}
	if (found) {
		cut_at(s, begin);
		return FH_FINISH_STOP;
	}
	if (why != FH_FINISH_NONE) {
		slot->flags |= FH_SLOT_LAST | (hidden ? FH_SLOT_NO_TOKEN : 0);
		slot->finish = (uint8_t)why;
		return why;
	}
	while (s->nr_safe < s->nr_held && held_at(s, s->nr_safe)->text_end <= fh_stop_safe(st))
		s->nr_safe++;
	return FH_FINISH_NONE;
}

void fh_seq_show(struct fh_engine *e, struct fh_seq *s, uint64_t now_ns)
{
	if (s->r->nr_stop)
		fh_seq_drain(e, s, now_ns);
	else if (s->nr_unseen)
		publish(e, s, s->nr_unseen, now_ns);
	s->nr_unseen = 0;
}

/* The next slot that the step has written; in a sink it is the reader's from the end of the turn on. */
static struct fh_slot *drawn_slot(struct fh_engine *e, struct fh_seq *s)
{
	struct fh_request *r = s->r;
	struct fh_slot *slot;
	struct fh_top *top;

	if (!r->sink || r->nr_stop)
		return fh_seq_next_slot(s, &top);
	if (s->cqe) {
		slot = &s->cqe->slot;
		s->cqe = NULL;
		return slot;
	}
	slot = &fh_sink_reserve(r->sink, r->user_data, true)->slot;
	*slot = s->held_slot[s->nr_taken++];
	r->sink->copied_bytes += sizeof(*slot);
	fh_count(&e->st.copied_bytes, sizeof(*slot));
	return slot;
}

bool fh_seq_accept(struct fh_engine *e, struct fh_seq *s, uint64_t now_ns)
{
	struct fh_slot *slot = drawn_slot(e, s);
	uint32_t token = slot->token;
	enum fh_finish why;
	bool hidden, more, thought;

	if (!s->nr_generated++)
		fh_engine_charge_prompt(e, s->r);
	thought = fh_think_token(&s->thinks, token, e->cfg.think_open, e->cfg.think_close);
	more = fh_engine_charge_token(e, s->r, thought);
	fh_count(&e->st.generated_tokens, 1);
	if (thought) {
		s->nr_reasoning++;
		fh_count(&e->st.reasoning_tokens, 1);
	}
	fh_engine_drew(e, s, now_ns);
	why = judge(e, s, token, more, &hidden);
	if (!hidden)
		s->tokens[s->nr_tokens++] = token;

	if (s->r->nr_stop) {
		why = accept_held(e, s, why, hidden);
		if (why != FH_FINISH_NONE)
			end_seq(e, s, why, 0, false, now_ns);
		else if (s->nr_held == FH_HELD_SLOTS && !s->nr_safe)
			end_seq(e, s, FH_FINISH_ERROR, -EOVERFLOW, true, now_ns);
		else
			return true;
		return false;
	}
	if (why != FH_FINISH_NONE) {
		slot->flags |= FH_SLOT_LAST | (hidden ? FH_SLOT_NO_TOKEN : 0);
		slot->finish = (uint8_t)why;
		s->r->sink_ended = s->r->sink;
	}
	s->tail++;
	s->nr_unseen += !hidden;
	if (why == FH_FINISH_NONE)
		return true;
	show_tail(e, s, s->nr_unseen, now_ns);
	end_seq(e, s, why, 0, false, now_ns);
	return false;
}

void fh_request_refuse(struct fh_engine *e, struct fh_engine_fe *fe, struct fh_request *r, enum fh_finish why,
		       int error, uint64_t now_ns)
{
	uint32_t tail = atomic_load_explicit(&r->tail, memory_order_relaxed);

	if (r->nr_slots) {
		write_end(&r->slots[tail & (r->nr_slots - 1)], 0, why);
		atomic_store_explicit(&r->tail, tail + 1, memory_order_release);
	}
	say_done(e, fe, r, why, error, now_ns);
}
