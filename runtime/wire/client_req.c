// SPDX-License-Identifier: Apache-2.0
/*
 * Requests, as the client sees them: the message goes out in pieces, slots come
 * in any order and are handed out in theirs.
 *
 * Slots wait in a ring as large as the server's, so there is always a place for
 * what it may send.  What was popped is told to the server with whatever goes
 * there anyway, and by itself after a quarter of the ring.
 */
#include <stdlib.h>

#include "runtime/wire/client_priv.h"

#define DESC_BYTES ((uint32_t)((sizeof(struct fh_req_desc) + 15) & ~15u))

struct fhw_creq *fhw_creq_find(struct fhw_client *c, uint32_t id)
{
	struct fhw_creq *r = c->by_id[id % FHW_SLOTS];

	return id && r && r->id == id ? r : NULL;
}

/* ---- lists ---- */

static void out_add(struct fhw_client *c, struct fhw_creq *r)
{
	if (r->in_out)
		return;
	r->in_out = true;
	r->next_out = NULL;
	*c->out_tail = r;
	c->out_tail = &r->next_out;
}

static void out_pop(struct fhw_client *c)
{
	struct fhw_creq *r = c->out_head;

	r->in_out = false;
	c->out_head = r->next_out;
	if (!c->out_head)
		c->out_tail = &c->out_head;
}

static void out_remove(struct fhw_client *c, struct fhw_creq *r)
{
	struct fhw_creq **at = &c->out_head;

	if (!r->in_out)
		return;
	while (*at != r)
		at = &(*at)->next_out;
	*at = r->next_out;
	if (!*at)
		c->out_tail = at;
	r->in_out = false;
}

static bool has_ready(const struct fhw_client *c, const struct fhw_creq *r)
{
	if (r->slots && r->slots[r->read & (c->welcome.nr_slots - 1)].stamp)
		return true;
	return r->has_end && r->read == r->end_seq;
}

static void ready_add(struct fhw_client *c, struct fhw_creq *r)
{
	if (r->in_ready || !has_ready(c, r))
		return;
	r->in_ready = true;
	r->next_ready = NULL;
	*c->ready_tail = r;
	c->ready_tail = &r->next_ready;
}

static void ready_pop(struct fhw_client *c)
{
	struct fhw_creq *r = c->ready_head;

	r->in_ready = false;
	c->ready_head = r->next_ready;
	if (!c->ready_head)
		c->ready_tail = &c->ready_head;
}

/* ---- submitting ---- */

/* Request numbers grow; one whose place is taken by an open request is left out. */
static bool take_id(struct fhw_client *c, uint32_t *id)
{
	for (uint32_t i = 0; i <= FHW_SLOTS; i++) {
		if (c->last_id == UINT32_MAX)
			return false;
		if (!c->by_id[++c->last_id % FHW_SLOTS]) {
			*id = c->last_id;
			return true;
		}
	}
	return false;
}

static int write_message(struct fhw_creq *r, const struct fh_req_desc *desc, const void *prompt, uint32_t bytes)
{
	struct fh_req_desc d = *desc;

	if (r->msg_cap < DESC_BYTES + bytes) {
		uint8_t *more = realloc(r->msg, DESC_BYTES + bytes);

		if (!more)
			return -ENOMEM;
		r->msg = more;
		r->msg_cap = DESC_BYTES + bytes;
	}
	d.size = sizeof(d);
	d.prompt_off = DESC_BYTES;
	d.prompt_bytes = bytes;
	memset(r->msg, 0, DESC_BYTES);
	memcpy(r->msg, &d, sizeof(d));
	memcpy(r->msg + DESC_BYTES, prompt, bytes);
	r->total = DESC_BYTES + bytes;
	return 0;
}

int fhw_client_submit(struct fhw_client *c, const struct fh_req_desc *desc, const void *prompt, uint32_t bytes,
		      uint64_t user, uint64_t now_us, uint32_t *id)
{
	struct fhw_creq *r = c->free_head, keep;
	int rc;

	if (c->state == FHW_CLIENT_DEAD)
		return c->error;
	if (!bytes || bytes > UINT32_MAX - DESC_BYTES)
		return bytes ? -E2BIG : -EINVAL;
	if (fhw_client_is_stale(c, now_us)) {
		c->close_owed = 1;
		fhw_client_start(c, now_us);
	}
	if (!r || (c->state == FHW_CLIENT_OPEN && c->nr_open >= c->welcome.max_requests))
		return -EAGAIN;
	rc = write_message(r, desc, prompt, bytes);
	if (rc)
		return rc;
	if (!take_id(c, id))
		return -EOVERFLOW;
	c->free_head = r->next_free;
	keep = *r;
	*r = (struct fhw_creq){.id = *id,
			       .user = user,
			       .msg = keep.msg,
			       .msg_cap = keep.msg_cap,
			       .total = keep.total,
			       .slots = keep.slots};
	r->begin_us = now_us;
	r->due_us = desc->ttft_us && desc->ttft_us != UINT32_MAX ? now_us + desc->ttft_us : FHW_NEVER;
	c->due_us = r->due_us < c->due_us ? r->due_us : c->due_us;
	c->by_id[*id % FHW_SLOTS] = r;
	if (!c->nr_open++) {
		c->wait_us = now_us;
		c->ping_us = FHW_PING_US;
	}
	out_add(c, r);
	return 0;
}

int fhw_client_cancel(struct fhw_client *c, uint32_t id, uint64_t now_us)
{
	struct fhw_creq *r = fhw_creq_find(c, id);

	(void)now_us;
	if (!r)
		return -ENOENT;
	if (r->cancelled || c->state == FHW_CLIENT_DEAD)
		return 0;
	if (!r->sent) {
		/* The server never heard of it. */
		r->cancelled = true;
		out_remove(c, r);
		r->has_end = true;
		r->end_seq = 0;
		r->end = (struct fhw_end){.finish = FH_FINISH_CANCELLED};
		ready_add(c, r);
		return 0;
	}
	if (!fhw_flow_queue(&c->s.flow, FHW_CANCEL, id))
		return -EAGAIN;
	r->cancelled = true;
	out_remove(c, r);
	return 0;
}

static void put(struct fhw_client *c, struct fhw_creq *r)
{
	out_remove(c, r);
	c->by_id[r->id % FHW_SLOTS] = NULL;
	r->id = 0;
	r->next_free = c->free_head;
	c->free_head = r;
	c->nr_open--;
}

/* ---- receiving ---- */

void fhw_creq_tokens(struct fhw_client *c, const struct fhw_hdr *h, const uint8_t *body, uint32_t bytes)
{
	struct fhw_creq *r = fhw_creq_find(c, h->request);
	uint32_t nr = bytes / (uint32_t)sizeof(struct fh_slot), nr_slots = c->welcome.nr_slots;

	/* Of one that is over: it has been acknowledged, which is all that the server wants. */
	if (!r)
		return;
	if (!r->slots)
		r->slots = calloc(nr_slots, sizeof(*r->slots));
	if (!r->slots) {
		fhw_client_die(c, -ENOMEM, "out of memory");
		return;
	}
	c->last_request = r->id;
	for (uint32_t i = 0; i < nr; i++) {
		uint32_t index = h->seq + i;
		struct fh_slot *at = &r->slots[index & (nr_slots - 1)], got;

		/* Behind the end: it came too late, or the server is broken. */
		if (r->has_end && (int32_t)(index - r->end_seq) >= 0)
			return;
		memcpy(&got, body + (size_t)i * sizeof(got), sizeof(got));
		/* Read already, or there already: a packet that was sent twice. */
		if (index - r->read >= nr_slots || at->stamp) {
			c->st.nr_duplicates++;
			continue;
		}
		if (!got.stamp) {
			c->st.nr_rude++;
			return;
		}
		*at = got;
		if ((int32_t)(index + 1 - r->high) > 0)
			r->high = index + 1;
	}
	ready_add(c, r);
}

void fhw_creq_end(struct fhw_client *c, const struct fhw_hdr *h, const struct fhw_end *e)
{
	struct fhw_creq *r = fhw_creq_find(c, h->request);

	if (!r || r->has_end)
		return;
	r->has_end = true;
	/* One that lies in what was read already would never be reached. */
	r->end_seq = (int32_t)(h->seq - r->read) < 0 ? r->read : h->seq;
	r->end = *e;
	ready_add(c, r);
}

/* A server that is there keeps deadlines itself, or refuses; one that is silent cannot. */
void fhw_creq_tick(struct fhw_client *c, uint64_t now_us)
{
	uint64_t next_us = FHW_NEVER;

	if (now_us < c->due_us)
		return;
	for (uint32_t i = 0; i < c->cfg.max_requests; i++) {
		struct fhw_creq *r = &c->reqs[i];

		if (!r->id || r->due_us == FHW_NEVER || r->has_end)
			continue;
		if (r->high || (c->state == FHW_CLIENT_OPEN && c->s.flow.last_us > r->begin_us)) {
			r->due_us = FHW_NEVER;
		} else if (r->due_us > now_us) {
			next_us = r->due_us < next_us ? r->due_us : next_us;
		} else {
			fhw_client_cancel(c, r->id, now_us);
			r->has_end = true;
			r->end_seq = 0;
			r->end = (struct fhw_end){.finish = FH_FINISH_ERROR, .error = -ETIMEDOUT};
			ready_add(c, r);
		}
	}
	c->due_us = next_us;
}

void fhw_creq_fail_all(struct fhw_client *c, int error)
{
	for (uint32_t i = 0; i < c->cfg.max_requests; i++) {
		struct fhw_creq *r = &c->reqs[i];

		if (!r->id)
			continue;
		/* What came in order is still told, then the end. */
		if (!(r->has_end && r->read == r->end_seq)) {
			uint32_t at = r->read, nr_slots = c->welcome.nr_slots;

			while (r->slots && at - r->read < nr_slots && r->slots[at & (nr_slots - 1)].stamp)
				at++;
			if (!(r->has_end && r->end_seq == at)) {
				r->has_end = true;
				r->end_seq = at;
				r->end = (struct fhw_end){.finish = FH_FINISH_ERROR, .error = error};
			}
		}
		ready_add(c, r);
	}
}

bool fhw_client_pop(struct fhw_client *c, struct fhw_token *t)
{
	struct fhw_creq *r = c->ready_head;
	struct fh_slot *at;
	bool last;

	if (!r)
		return false;
	ready_pop(c);
	*t = (struct fhw_token){.request = r->id, .user = r->user};
	at = r->slots ? &r->slots[r->read & (c->welcome.nr_slots - 1)] : NULL;
	/* Slots behind the end may have come before it was known. */
	if (at && at->stamp && !(r->has_end && r->read == r->end_seq)) {
		t->slot = *at;
		at->stamp = 0;
		r->read++;
		last = t->slot.flags & FH_SLOT_LAST;
	} else {
		t->is_end = last = true;
		t->end = r->end;
	}
	if (last) {
		/* Slots that a broken server sent behind the end. */
		for (; r->slots && r->read != r->high; r->read++)
			r->slots[r->read & (c->welcome.nr_slots - 1)].stamp = 0;
		put(c, r);
		return true;
	}
	if (r->read - r->told >= c->welcome.nr_slots / 4 && c->state == FHW_CLIENT_OPEN &&
	    fhw_flow_queue(&c->s.flow, FHW_CREDIT, r->id))
		r->told = r->read;
	ready_add(c, r);
	return true;
}

/* ---- sending ---- */

static void put_piece(struct fhw_client *c, struct fhw_creq *r, uint32_t seq, uint32_t n, struct fhw_rec *rec,
		      struct fh_dgram *d, uint64_t now_us)
{
	struct fhw_hdr h = {.kind = FHW_PROMPT, .request = r->id, .seq = seq, .ack = r->total};

	fhw_session_put(&c->s, d, &h, r->msg + seq, n, rec, now_us);
}

/* Build @old anew; false: nobody wants it any more, or not now. */
static bool again(struct fhw_client *c, struct fhw_rec *old, struct fh_dgram *d, uint64_t now_us, bool *wait)
{
	struct fhw_flow *f = &c->s.flow;
	struct fhw_creq *r = old->request ? fhw_creq_find(c, old->request) : NULL;
	struct fhw_hdr h = {.kind = old->kind, .request = old->request, .ack = r ? r->read : 0};
	struct fhw_rec *rec;

	/* The server knows the end of a request that has gone, and the rest of one that is cancelled is not wanted. */
	if ((old->request && !r && old->kind != FHW_CANCEL) || (old->kind == FHW_PROMPT && r->cancelled)) {
		fhw_flow_forget(f, old);
		return false;
	}
	*wait = !fhw_flow_may_send(f, FHW_HDR_BYTES + old->nr, now_us);
	if (*wait)
		return false;
	rec = fhw_flow_sent(f, FHW_HDR_BYTES + old->nr, old, now_us);
	if (rec->kind == FHW_PROMPT)
		put_piece(c, r, rec->seq, rec->nr, rec, d, now_us);
	else
		fhw_session_put(&c->s, d, &h, NULL, 0, rec, now_us);
	return true;
}

bool fhw_creq_next(struct fhw_client *c, struct fh_dgram *d, uint64_t now_us)
{
	struct fhw_flow *f = &c->s.flow;
	struct fhw_rec *old, *rec;
	struct fhw_creq *r;
	uint32_t n, piece = fhw_piece_bytes(c->s.mtu);
	bool wait = false;

	while ((old = fhw_flow_lost(f))) {
		if (again(c, old, d, now_us, &wait))
			return true;
		if (wait)
			return false;
	}
	r = c->out_head;
	if (!r)
		return false;
	n = r->total - r->sent < piece ? r->total - r->sent : piece;
	if (!fhw_flow_may_send(f, FHW_HDR_BYTES + n, now_us))
		return false;
	rec = fhw_flow_sent(f, FHW_HDR_BYTES + n, NULL, now_us);
	put_piece(c, r, r->sent, n, rec, d, now_us);
	r->sent += n;
	/* The others' turn, piece by piece. */
	out_pop(c);
	if (r->sent < r->total)
		out_add(c, r);
	return true;
}
