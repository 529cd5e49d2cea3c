// SPDX-License-Identifier: Apache-2.0
/*
 * The client's half of a channel's rings.
 *
 * The letters name the loads and stores of the diagram in uapi/freehold.h.
 * A full fence stands between a store and a load: both are sequentially
 * consistent here, which says the same.  Whatever is read from memory that the runtime writes is read once, into a
 * variable of ours, and then judged.  A runtime that breaks a rule costs the
 * handle; one that dies is noticed when the ring is empty, so that tokens that
 * were published before are still handed out.
 */
#include <limits.h>
#include <string.h>

#include "runtime/base/chan_sock.h"
#include "runtime/base/futex.h"
#include "runtime/lib/ring.h"

#define LOOK_NS (FH_SOCK_LOOK_MS * 1000000ull)

static uint32_t load_acquire(const uint32_t *word)
{
	return __atomic_load_n(word, __ATOMIC_ACQUIRE);
}

static int broke(struct fhl_ring *r, const char *what)
{
	return fhl_die(r->c, -EPROTO, "%s: the server broke the rules of the ring (%s); open again", r->c->where, what);
}

/* The channel has ended: say how. */
static int how_ended(struct fhl_ring *r, uint32_t state)
{
	static const char *const why[] = {
		[FH_REVOKE_NONE] = "it did not say why",
		[FH_REVOKE_PROTOCOL] = "it says that we broke the rules",
		[FH_REVOKE_LIMIT] = "it says that we used more than we may",
		[FH_REVOKE_DRAIN] = "it is shutting down",
	};
	uint32_t reason = load_acquire(r->revoke_reason);

	if (state == FH_CHAN_REVOKED)
		return fh_errf(&r->c->err, -EPIPE, "%s: the server took the channel away: %s; open again", r->c->where,
			       why[reason < sizeof(why) / sizeof(why[0]) ? reason : FH_REVOKE_NONE]);
	return fh_errf(&r->c->err, -EPIPE, "%s: the server is gone; open again once it is back", r->c->where);
}

/* The same, and nothing is left to read. */
static int ended(struct fhl_ring *r, uint32_t state)
{
	return r->c->dead = how_ended(r, state);
}

/* Memory may be touched: 0, or the handle is dead. */
static int alive(struct fhl_ring *r)
{
	uint32_t state = load_acquire(r->state); /* (N) */

	return state > FH_CHAN_OPEN && r->link->zaps ? ended(r, state) : 0;
}

/* After a sequentially consistent store (J): the runtime sees what we published, or we see that it sleeps. */
static void kick_if_asked(struct fhl_ring *r)
{
	if (__atomic_load_n(r->runtime_flags, __ATOMIC_SEQ_CST) & (FH_RING_NEED_WAKEUP | FH_RING_NEED_FUTEX))
		r->link->kick(r);
}

static void set_flags(struct fhl_ring *r, uint32_t flags)
{
	if (flags == r->flags)
		return;
	r->flags = flags;
	__atomic_store_n(r->client_flags, flags, __ATOMIC_SEQ_CST);
}

/* Submission */

/* See what the runtime has consumed, and free the prompts. */
static int reclaim(struct fhl_ring *r)
{
	uint32_t head = load_acquire(r->sq_head_word); /* (D) */

	if (head - r->sq_head > r->sq_tail - r->sq_head)
		return broke(r, "sq_head");
	if (head == r->sq_head)
		return 0;
	r->sq_head = head;
	r->arena_head = r->prompt_end[(head - 1) & (r->sq_entries - 1)];
	/* Empty: begin at the beginning, so that the same few pages serve. */
	if (head == r->sq_tail)
		r->arena_head = r->arena_tail = 0;
	return 0;
}

/* Where @bytes may lie in one piece, or -EAGAIN. Taken when arena_tail is moved to *end. */
static int arena_find(const struct fhl_ring *r, uint64_t bytes, uint64_t *at, uint64_t *end)
{
	uint64_t begin = r->arena_tail, off = begin % r->arena_bytes;

	bytes = (bytes + 7) & ~7ull;
	if (off + bytes > r->arena_bytes)
		begin += r->arena_bytes - off;
	if (begin + bytes - r->arena_head > r->arena_bytes)
		return -EAGAIN;
	*at = begin % r->arena_bytes;
	*end = begin + bytes;
	return 0;
}

static fh_f32 bits_of(float f)
{
	fh_f32 bits;

	memcpy(&bits, &f, sizeof(bits));
	return bits;
}

void fhl_fill_desc(struct fh_req_desc *d, const struct fhl_req *req, const struct fhl_prompt *prompt,
		   const struct fh_params *p)
{
	*d = (struct fh_req_desc){
		.size = sizeof(*d),
		.flags = p->flags | (prompt->text ? FH_REQ_TEXT : 0),
		.user_data = req->id,
		.prompt_bytes = (uint32_t)prompt->bytes,
		.max_tokens = p->max_tokens,
		.ttft_us = p->ttft_us,
		.tpot_us = p->tpot_us,
		.budget_tokens = p->budget_tokens,
		.seed = p->seed,
		.top_k = p->top_k,
		.temperature = bits_of(p->temperature),
		.top_p = bits_of(p->top_p),
		.min_p = bits_of(p->min_p),
		.typical_p = bits_of(p->typical_p),
		.repetition_penalty = bits_of(p->repetition_penalty),
		.presence_penalty = bits_of(p->presence_penalty),
		.frequency_penalty = bits_of(p->frequency_penalty),
		.req_class = p->req_class,
	};
	memcpy(d->run_id, p->run_id, sizeof(d->run_id));
}

/* The entry at the tail; there is room. */
static void publish(struct fhl_ring *r, const struct fh_req_desc *d)
{
	uint32_t at = r->sq_tail & (r->sq_entries - 1);

	memcpy(r->sq + (size_t)at * r->sq_entry_bytes, d, sizeof(*d));
	r->prompt_end[at] = r->arena_tail;
	__atomic_store_n(r->sq_tail_word, ++r->sq_tail, __ATOMIC_SEQ_CST); /* (A) and (J) */
	kick_if_asked(r);
}

/* Room for one entry: 0, -EAGAIN, or the handle is dead. */
static int sq_room(struct fhl_ring *r)
{
	uint32_t state = load_acquire(r->state); /* (N) */
	int rc;

	if (state > FH_CHAN_OPEN)
		return r->link->zaps ? ended(r, state) : how_ended(r, state);
	rc = reclaim(r);
	if (!rc && r->sq_tail - r->sq_head == r->sq_entries)
		rc = -EAGAIN;
	return rc;
}

int fhl_ring_submit(struct fh_client *c, struct fhl_req *req, const struct fhl_prompt *prompt,
		    const struct fh_params *p)
{
	struct fhl_ring *r = c->t;
	struct fh_req_desc d;
	uint64_t at, end;
	int rc = sq_room(r);

	if (rc && rc != -EAGAIN)
		return rc;
	if (prompt->bytes > r->arena_bytes)
		return fh_errf(&c->err, -E2BIG,
			       "the prompt has %zu bytes and the arena %llu: open with a larger arena_bytes",
			       prompt->bytes, (unsigned long long)r->arena_bytes);
	if (!rc)
		rc = arena_find(r, prompt->bytes, &at, &end);
	if (rc) {
		/* A dead server frees nothing any more: say so instead of "later". */
		int gone = r->link->check(r);

		return gone ? gone
			    : fh_errf(&c->err, -EAGAIN,
				      "the server has not read the last prompts yet: read tokens and try again, "
				      "or open with a larger arena_bytes");
	}
	memcpy(r->arena + at, prompt->data, prompt->bytes);
	r->arena_tail = end;
	fhl_fill_desc(&d, req, prompt, p);
	d.prompt_off = at;
	publish(r, &d);
	return 0;
}

int fhl_ring_cancel(struct fh_client *c, struct fhl_req *req)
{
	struct fhl_ring *r = c->t;
	struct fh_req_desc d = {.size = sizeof(d), .flags = FH_REQ_CANCEL, .user_data = req->id};
	int rc = sq_room(r);

	if (!rc)
		publish(r, &d);
	return rc;
}

/* Completion */

/* Entries to read: 1, 0, or the handle is dead. */
static int cq_some(struct fhl_ring *r)
{
	uint32_t tail;

	if (r->cq_head != r->cq_tail)
		return 1;
	tail = __atomic_load_n(r->cq_tail_word, __ATOMIC_SEQ_CST); /* (F) */
	if (tail - r->cq_head > r->cq_entries)
		return broke(r, "cq_tail");
	/*
	 * The runtime cannot write above head + entries, for a head that it has
	 * seen since we looked last: if the tail has come that far, it may be
	 * asleep for want of room.
	 */
	if (tail - r->cq_seen >= r->cq_entries)
		r->made_room = true;
	r->cq_tail = tail;
	r->cq_seen = r->cq_head;
	if (r->made_room && tail == r->cq_head) {
		/* All is read; say it once more, in the order that the kick needs. */
		r->made_room = false;
		__atomic_store_n(r->cq_head_word, r->cq_head, __ATOMIC_SEQ_CST);
		kick_if_asked(r);
	}
	return tail != r->cq_head;
}

/* One entry, read once; its place is the runtime's again. */
static void cq_take(struct fhl_ring *r, struct fh_cqe *e)
{
	const uint64_t *from =
		(const uint64_t *)(r->cq + (size_t)(r->cq_head & (r->cq_entries - 1)) * r->cq_entry_bytes);
	uint64_t words[sizeof(*e) / 8];

	for (size_t i = 0; i < sizeof(words) / 8; i++)
		words[i] = __atomic_load_n(&from[i], __ATOMIC_RELAXED);
	memcpy(e, words, sizeof(*e));
	r->cq_head++;
	if (!r->made_room) {
		__atomic_store_n(r->cq_head_word, r->cq_head, __ATOMIC_RELEASE); /* (G) */
		return;
	}
	r->made_room = false;
	__atomic_store_n(r->cq_head_word, r->cq_head, __ATOMIC_SEQ_CST);
	kick_if_asked(r);
}

static void finish_of(const struct fh_cqe *e, struct fh_token *t)
{
	t->finish = e->slot.finish;
	if (t->finish == FH_FINISH_NONE || t->finish > FH_FINISH_FILTER) {
		t->finish = FH_FINISH_ERROR;
		t->error = -EPROTO;
	} else if (t->finish == FH_FINISH_ERROR || t->finish == FH_FINISH_DEADLINE) {
		t->error = e->error < 0 && e->error > -4096  ? e->error
			   : t->finish == FH_FINISH_DEADLINE ? -EAGAIN
							     : -EIO;
		t->retry_us = e->retry_us;
	}
}

/* What the caller gets of @e: 0, or the handle is dead. */
static int translate(struct fhl_ring *r, const struct fh_cqe *e, struct fh_token *t)
{
	struct fhl_req *req = fhl_req_find(r->c, e->user_data);

	if (!req)
		return broke(r, "an answer to a request that is not in flight");
	fhl_token_begin(t, req);
	t->flags = e->slot.flags & FHL_SLOT_FLAGS;
	if (!(t->flags & FH_SLOT_NO_TOKEN)) {
		if (e->slot.stamp != req->nr_tokens + 1)
			return broke(r, "a token that is not the next of its request");
		req->nr_tokens++;
		t->token = e->slot.token;
		memcpy(&t->logprob, &e->slot.logprob, sizeof(t->logprob));
		t->cut_bytes = t->flags & FH_SLOT_CUT ? e->slot.cut_bytes : 0;
	}
	if (!(t->flags & FH_SLOT_LOGPROB))
		t->logprob = 0;
	if (t->flags & FH_SLOT_LAST) {
		finish_of(e, t);
		if (t->error)
			fh_errf(&r->c->err, t->error, "%s: the request was refused or failed: %s", r->c->where,
				strerror(-t->error));
		fhl_req_put(r->c, req);
	}
	return 0;
}

/* The link says that the other side is gone: -EAGAIN while there is something to read, then @code. */
static int gone_for_good(struct fhl_ring *r, int code)
{
	int rc = cq_some(r);

	if (rc > 0)
		return -EAGAIN;
	if (!r->c->dead)
		r->c->dead = code;
	return r->c->dead;
}

int fhl_ring_look(struct fh_client *c, struct fh_token *t)
{
	struct fhl_ring *r = c->t;
	struct fh_cqe e;
	uint64_t now;
	int rc;

	/* A runtime that fills the ring with nothing must not keep us here. */
	for (uint32_t i = 0; i <= r->cq_entries; i++) {
		rc = alive(r);
		if (!rc)
			rc = cq_some(r);
		if (rc < 0)
			return rc;
		if (!rc)
			break;
		set_flags(r, 0);
		cq_take(r, &e);
		if ((e.slot.flags & (FH_SLOT_NO_TOKEN | FH_SLOT_LAST)) != FH_SLOT_NO_TOKEN)
			return translate(r, &e, t);
	}
	if (load_acquire(r->state) > FH_CHAN_OPEN) { /* (N): what was published before is there now */
		rc = cq_some(r);
		return rc < 0 ? rc : rc ? -EAGAIN : ended(r, load_acquire(r->state));
	}
	now = fh_now_ns();
	if (now - r->checked_ns < LOOK_NS)
		return -EAGAIN;
	r->checked_ns = now;
	rc = r->link->check(r);
	return rc ? gone_for_good(r, rc) : -EAGAIN;
}

/* Ask to be woken, and look again: 0, -EALREADY, or the handle is dead. */
static int ask(struct fhl_ring *r, uint32_t need)
{
	int rc = alive(r);

	if (rc)
		return rc;
	set_flags(r, need); /* (K) */
	rc = cq_some(r);
	if (!rc)
		return 0;
	set_flags(r, 0);
	return rc < 0 ? rc : -EALREADY;
}

int fhl_ring_arm(struct fh_client *c)
{
	struct fhl_ring *r = c->t;
	/* First take old wake-ups: one that comes from here on is news. */
	int gone = r->link->check(r), rc;

	r->checked_ns = fh_now_ns();
	rc = ask(r, FH_RING_NEED_WAKEUP);
	return !rc && gone ? gone_for_good(r, gone) : rc;
}

/* Watch memory for a while: true if something is there. */
static bool spin(struct fhl_ring *r, uint64_t until_ns)
{
	uint64_t stop = fh_now_ns() + r->c->opt.spin_ns;

	stop = stop < until_ns ? stop : until_ns;
	do {
		for (int i = 0; i < 32; i++) {
			/* The state first: it says whether the tail may be touched. */
			if (load_acquire(r->state) > FH_CHAN_OPEN || load_acquire(r->cq_tail_word) != r->cq_tail)
				return true;
			fh_cpu_relax();
		}
	} while (fh_now_ns() < stop);
	return false;
}

int fhl_ring_wait(struct fh_client *c, uint64_t until_ns)
{
	struct fhl_ring *r = c->t;
	uint64_t now;
	int rc = alive(r);

	if (rc || (c->opt.spin_ns && spin(r, until_ns)))
		return rc;
	rc = ask(r, r->link->need);
	if (rc)
		return rc == -EALREADY ? 0 : rc;
	rc = r->link->sleep(r, r->cq_tail, fhl_left_ms(until_ns, FH_SOCK_LOOK_MS));
	if (alive(r))
		return c->dead;
	set_flags(r, 0);
	now = fh_now_ns();
	if (now - r->checked_ns >= LOOK_NS / 2) {
		int gone = r->link->check(r);

		r->checked_ns = now;
		if (gone)
			return gone_for_good(r, gone) == -EAGAIN ? 0 : c->dead;
	}
	return rc;
}
