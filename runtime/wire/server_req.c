// SPDX-License-Identifier: Apache-2.0
/*
 * Requests, as the server sees them: messages come in pieces, slots go out.
 *
 * A slot range is sealed where it lies.  When its packet is lost it is opened
 * with the old number and sealed with a new one, once the carrier has let go of
 * it.  A place in the ring is given back to the writer (r->head) only when the
 * client has read it and no packet stands for it any more.
 */
#include <stdlib.h>

#include "runtime/wire/server_priv.h"

#define GATHER_US 30000000u /* a message is whole within */
#define READ_US 60000000u   /* slots are read and packets acknowledged within, some of them */

/* ---- objects ---- */

static void out_add(struct fhw_srv_session *s, struct fhw_sreq *r)
{
	if (r->in_out)
		return;
	r->in_out = true;
	r->next_out = NULL;
	*s->out_tail = r;
	s->out_tail = &r->next_out;
	fhw_session_activate(s);
}

static void out_pop(struct fhw_srv_session *s)
{
	struct fhw_sreq *r = s->out_head;

	r->in_out = false;
	s->out_head = r->next_out;
	if (!s->out_head)
		s->out_tail = &s->out_head;
}

/* Does a carrier still read slots of @r? */
static bool has_busy(const struct fhw_srv_session *s, const struct fhw_sreq *r)
{
	if (s->s.flow.nr_busy)
		for (uint32_t i = 0; i < FHW_RECS; i++)
			if (s->s.recs[i].busy && s->s.recs[i].request == r->id)
				return true;
	return false;
}

static void count_gathered(struct fhw_server *srv, const struct fhw_sreq *r, int64_t bytes)
{
	srv->gathered_now += (uint64_t)bytes;
	srv->use[r->client].gathered += (uint64_t)bytes;
}

static void drop_message(struct fhw_server *srv, struct fhw_sreq *r)
{
	if (!r->msg && !r->buf && !r->have)
		return;
	if (r->held.data) {
		srv->st.nr_held--;
		srv->cfg.ops->release(srv->cfg.ctx, &r->held);
		r->held.data = NULL;
	}
	if (r->buf)
		count_gathered(srv, r, -(int64_t)r->total);
	free(r->buf);
	free(r->have);
	r->buf = NULL;
	r->have = NULL;
	r->msg = NULL;
}

static void put(struct fhw_srv_session *s, struct fhw_sreq *r)
{
	struct fhw_server *srv = s->srv;

	drop_message(srv, r);
	*r->pprev = r->next;
	if (r->next)
		r->next->pprev = r->pprev;
	if (s->slots[r->id % FHW_SLOTS].r == r)
		s->slots[r->id % FHW_SLOTS].r = NULL;
	s->nr_reqs--;
	srv->use[s->client].nr_reqs--;
	srv->st.nr_open--;
	r->s = NULL;
	srv->cfg.ops->put(srv->cfg.ctx, r);
}

static void put_if_settled(struct fhw_srv_session *s, struct fhw_sreq *r)
{
	if (r->running || !r->ended || r->sent != r->tail || r->end_owed || r->nr_recs || r->in_out)
		return;
	if (has_busy(s, r))
		s->sweep = true;
	else
		put(s, r);
}

bool fhw_server_put_all(struct fhw_srv_session *s)
{
	struct fhw_sreq *r;

	if (s->s.flow.nr_busy)
		return false;
	for (r = s->reqs; r; r = r->next)
		if (r->running)
			return false;
	while (s->reqs)
		put(s, s->reqs);
	return true;
}

void fhw_server_cancel_all(struct fhw_srv_session *s)
{
	struct fhw_server *srv = s->srv;

	while (s->out_head)
		out_pop(s);
	for (struct fhw_sreq *r = s->reqs; r; r = r->next) {
		if (!r->running || r->cancelled)
			continue;
		r->cancelled = true;
		srv->cfg.ops->cancel(srv->cfg.ctx, r);
	}
}

/* The end of a request that has no object: the record is all there is. */
static void refuse(struct fhw_srv_session *s, uint32_t id, int error)
{
	struct fhw_rec *rec = fhw_flow_queue(&s->s.flow, FHW_END, id);

	s->slots[id % FHW_SLOTS].id = id;
	s->slots[id % FHW_SLOTS].r = NULL;
	if (rec)
		rec->ack = (uint32_t)-error;
	else
		fhw_session_kill(s, true);
}

/* @id never began. */
static void say_refused(struct fhw_srv_session *s, uint32_t id, int error)
{
	const struct fhw_server_config *cfg = &s->srv->cfg;

	if (cfg->ops->refused)
		cfg->ops->refused(cfg->ctx, s->client, id, error);
}

/* A session has its bound, and one key is not to have all that there is. */
static bool is_full(const struct fhw_srv_session *s)
{
	const struct fhw_server_config *cfg = &s->srv->cfg;
	uint32_t most = cfg->max_client_requests;

	return s->nr_reqs >= 2 * cfg->welcome.max_requests || (most && s->srv->use[s->client].nr_reqs >= most);
}

static struct fhw_sreq *make(struct fhw_srv_session *s, uint32_t id, uint32_t total, uint64_t now_us)
{
	struct fhw_server *srv = s->srv;
	struct fhw_sreq *r = NULL;
	struct fh_slot *slots;
	uint32_t nr_slots;
	int error = 0;

	/* Some may be over since this burst of packets began. */
	if (s->sweep && is_full(s))
		fhw_server_sweep(s);
	if (srv->draining)
		error = -ESHUTDOWN;
	else if (total > srv->cfg.max_message_bytes)
		error = -E2BIG;
	else if (total < sizeof(struct fh_req_desc))
		error = -EINVAL;
	else if (is_full(s) || !(r = srv->cfg.ops->get(srv->cfg.ctx)))
		error = -EAGAIN;
	srv->st.nr_requests++;
	if (error) {
		say_refused(s, id, error);
		refuse(s, id, error);
		return NULL;
	}
	slots = r->slots;
	nr_slots = r->nr_slots;
	*r = (struct fhw_sreq){.slots = slots,
			       .nr_slots = nr_slots,
			       .total = total,
			       .client = s->client,
			       .id = id,
			       .s = s,
			       .begin_us = now_us,
			       .moved_us = now_us};
	r->next = s->reqs;
	r->pprev = &s->reqs;
	if (r->next)
		r->next->pprev = &r->next;
	s->reqs = r;
	s->nr_reqs++;
	srv->use[s->client].nr_reqs++;
	srv->st.nr_open++;
	s->slots[id % FHW_SLOTS].id = id;
	s->slots[id % FHW_SLOTS].r = r;
	return r;
}

/* ---- messages ---- */

static void begin(struct fhw_srv_session *s, struct fhw_sreq *r)
{
	r->running = true;
	s->srv->cfg.ops->begin(s->srv->cfg.ctx, r);
}

static void end(struct fhw_srv_session *s, struct fhw_sreq *r, uint32_t finish, int error, uint32_t retry_us)
{
	say_refused(s, r->id, error);
	/* Not only when the client has heard of it: it may take its time. */
	drop_message(s->srv, r);
	r->end = (struct fhw_end){.finish = finish, .error = error, .retry_us = retry_us};
	r->ended = r->end_owed = true;
	out_add(s, r);
}

/* The whole of it, in one packet. True: the packet is kept. */
static bool take_whole(struct fhw_srv_session *s, struct fhw_sreq *r, struct fh_dgram *d)
{
	struct fhw_server *srv = s->srv;
	uint8_t *body = d->data + FHW_HDR_BYTES;
	bool keep = srv->st.nr_held < srv->cfg.max_held && !((uintptr_t)body % 4);

	if (keep) {
		r->held = *d;
		r->msg = body;
		srv->st.nr_held++;
	} else {
		r->buf = malloc(r->total);
		if (!r->buf) {
			end(s, r, FH_FINISH_ERROR, -ENOMEM, 0);
			return false;
		}
		count_gathered(srv, r, r->total);
		srv->st.copied_bytes += r->total;
		memcpy(r->buf, body, r->total);
		r->msg = r->buf;
	}
	begin(s, r);
	return keep;
}

/* One key is not to have all of it. */
static bool has_room(const struct fhw_server *srv, const struct fhw_sreq *r)
{
	uint64_t most = srv->cfg.max_gathered_bytes;

	return srv->gathered_now + r->total <= most && srv->use[r->client].gathered + r->total <= most / 4 * 3;
}

static void take_piece(struct fhw_srv_session *s, struct fhw_sreq *r, const uint8_t *body, uint32_t seq, uint32_t n)
{
	struct fhw_server *srv = s->srv;
	uint32_t piece = fhw_piece_bytes(s->s.mtu), nr = (r->total + piece - 1) / piece, at = seq / piece;

	if (!r->buf) {
		if (!has_room(srv, r)) {
			end(s, r, FH_FINISH_ERROR, -EAGAIN, 100000);
			return;
		}
		r->buf = malloc(r->total);
		r->have = calloc((nr + 63) / 64, sizeof(*r->have));
		if (r->buf)
			count_gathered(srv, r, r->total);
		if (!r->buf || !r->have) {
			end(s, r, FH_FINISH_ERROR, -ENOMEM, 0);
			return;
		}
		r->gathered = true;
	}
	if (r->have[at / 64] >> at % 64 & 1)
		return;
	r->have[at / 64] |= 1ull << at % 64;
	memcpy(r->buf + seq, body, n);
	srv->st.gathered_bytes += n;
	srv->st.copied_bytes += n;
	if (++r->nr_have < nr)
		return;
	r->msg = r->buf;
	begin(s, r);
}

static bool take_message(struct fhw_srv_session *s, struct fh_dgram *d, const struct fhw_hdr *h, uint64_t now_us)
{
	struct fhw_sreq *r = s->slots[h->request % FHW_SLOTS].r;
	uint32_t id = s->slots[h->request % FHW_SLOTS].id, piece = fhw_piece_bytes(s->s.mtu);
	uint32_t n = d->bytes - FHW_HDR_BYTES, left = h->ack - h->seq;

	if (h->seq % piece || n != (left < piece ? left : piece)) {
		s->srv->st.nr_rude++;
		return false;
	}
	/* Of one that is over, or that came before; what was sent twice is known by its packet number already. */
	if (h->request < id || (h->request == id && !r))
		return false;
	if (h->request > id)
		r = make(s, h->request, h->ack, now_us);
	if (!r || r->running || r->ended)
		return false;
	if (h->ack != r->total) {
		s->srv->st.nr_rude++;
		return false;
	}
	if (r->total <= piece)
		return take_whole(s, r, d);
	take_piece(s, r, d->data + FHW_HDR_BYTES, h->seq, n);
	return false;
}

static void cancel(struct fhw_srv_session *s, uint32_t request)
{
	struct fhw_sreq *r = s->slots[request % FHW_SLOTS].r;
	uint32_t id = s->slots[request % FHW_SLOTS].id;

	if (request > id) {
		s->srv->st.nr_requests++;
		refuse(s, request, 0);
		return;
	}
	if (request < id || !r || r->ended || r->cancelled)
		return;
	r->cancelled = true;
	if (r->running)
		s->srv->cfg.ops->cancel(s->srv->cfg.ctx, r);
	else
		end(s, r, FH_FINISH_CANCELLED, 0, 0);
}

/* Half a ring: a client tells of what it has read a quarter at a time. */
static bool waits_for_client(const struct fhw_sreq *r)
{
	return r->nr_recs || r->sent != r->tail || r->end_owed || (r->running && r->tail - r->told > r->nr_slots / 2);
}

void fhw_server_expire(struct fhw_srv_session *s, uint64_t now_us)
{
	for (uint32_t i = 0; s->nr_kept && i < FHW_KEPT; i++)
		if (s->kept[i].used && now_us - s->kept[i].since_us > READ_US) {
			fhw_session_kill(s, true);
			return;
		}
	for (struct fhw_sreq *r = s->reqs; r; r = r->next) {
		if (!r->running && !r->ended && now_us - r->begin_us > GATHER_US)
			end(s, r, FH_FINISH_ERROR, -ETIMEDOUT, 0);
		if (!waits_for_client(r)) {
			r->moved_us = now_us;
		} else if (now_us - r->moved_us > READ_US) {
			if (!r->running) {
				fhw_session_kill(s, true);
				return;
			}
			r->moved_us = now_us;
			cancel(s, r->id);
		}
	}
}

/* ---- credit ---- */

static uint32_t first_of(const struct fhw_rec *rec, const struct fhw_sreq *r, uint32_t head)
{
	if (rec->kind != FHW_TOKENS || rec->request != r->id)
		return head;
	return (int32_t)(rec->seq - head) < 0 ? rec->seq : head;
}

static bool was_read(const struct fhw_sreq *r, const struct fhw_rec *rec)
{
	return rec->kind == FHW_TOKENS &&
	       (int32_t)(r->told - (rec->seq + rec->nr / (uint32_t)sizeof(struct fh_slot))) >= 0;
}

/* Packets of which all was read need no acknowledgement. */
static void settle(struct fhw_flow *f, struct fhw_list *l, struct fhw_sreq *r)
{
	struct fhw_rec *rec, *next;

	for (rec = l->head; rec; rec = next) {
		next = rec->next;
		if (rec->owner != r || !was_read(r, rec))
			continue;
		r->nr_recs--;
		fhw_flow_forget(f, rec);
	}
}

/* Give back to the writer what was read and nothing sends any more. */
static void advance(struct fhw_srv_session *s, struct fhw_sreq *r)
{
	struct fhw_flow *f = &s->s.flow;
	uint32_t head = r->told;

	if (head - r->head < r->nr_slots / 8)
		return;
	if (r->nr_recs) {
		settle(f, &f->flight, r);
		settle(f, &f->lost, r);
	}
	for (struct fhw_rec *rec = f->flight.head; r->nr_recs && rec; rec = rec->next)
		head = first_of(rec, r, head);
	for (struct fhw_rec *rec = f->lost.head; r->nr_recs && rec; rec = rec->next)
		head = first_of(rec, r, head);
	for (uint32_t i = 0; f->nr_busy && i < FHW_RECS; i++)
		if (s->s.recs[i].busy)
			head = first_of(&s->s.recs[i], r, head);
	/* A carrier that is done tells nobody: look again, or the writer waits for ever. */
	if (head != r->told && f->nr_busy)
		s->sweep = true;
	if ((int32_t)(head - r->head) <= 0)
		return;
	r->head = head;
	s->srv->cfg.ops->credit(s->srv->cfg.ctx, r);
}

/* The client says that it has read up to @told. */
static void credit(struct fhw_srv_session *s, uint32_t request, uint32_t told)
{
	struct fhw_sreq *r = s->slots[request % FHW_SLOTS].r;

	if (!r || r->id != request || !(told - r->told) || told - r->told > r->sent - r->told)
		return;
	r->told = told;
	r->moved_us = s->s.flow.last_us;
	advance(s, r);
	put_if_settled(s, r);
}

void fhw_server_sweep(struct fhw_srv_session *s)
{
	struct fhw_sreq *r, *next;

	s->sweep = false;
	for (r = s->reqs; r; r = next) {
		next = r->next;
		if (r->running)
			advance(s, r);
		put_if_settled(s, r);
	}
}

/* ---- what is over ---- */

/* Requests of which a packet cannot be kept apart stay. */
static void mark_staying(const struct fhw_list *l)
{
	for (const struct fhw_rec *rec = l->head; rec; rec = rec->next)
		if (rec->owner && (rec->busy || rec->nr > FHW_KEPT_BYTES))
			((struct fhw_sreq *)rec->owner)->stays = true;
}

/* What is sent again in @rec's place, where it does not lie in its request. */
static void keep(struct fhw_srv_session *s, struct fhw_rec *rec, const struct fhw_sreq *r)
{
	struct fhw_kept *k = s->kept;

	while (k->used)
		k++;
	*k = (struct fhw_kept){.used = true, .since_us = r->moved_us, .bytes = rec->nr};
	if (rec->kind == FHW_END) {
		fhw_end_put(&r->end, k->body);
	} else {
		memcpy(k->body, &r->slots[rec->seq & (r->nr_slots - 1)], rec->nr);
		if (!fhw_unseal(&s->s.tx, rec->pn, k->body, rec->nr))
			fhw_session_kill(s, true);
	}
	rec->kept = (uint8_t)(1 + (k - s->kept));
	rec->owner = NULL;
	s->nr_kept++;
	s->srv->st.nr_kept++;
}

static void keep_all(struct fhw_srv_session *s, struct fhw_list *l, struct fhw_sreq *r)
{
	struct fhw_rec *rec, *next;

	for (rec = l->head; rec && !s->dead; rec = next) {
		next = rec->next;
		if (rec->owner != r)
			continue;
		r->nr_recs--;
		keep(s, rec, r);
	}
}

static void drop_kept(struct fhw_srv_session *s, const struct fhw_rec *rec)
{
	sodium_memzero(&s->kept[rec->kept - 1], sizeof(s->kept[0]));
	s->nr_kept--;
	s->srv->st.nr_kept--;
}

void fhw_server_linger(struct fhw_srv_session *s)
{
	struct fhw_flow *f = &s->s.flow;
	struct fhw_sreq *r, *next;

	for (r = s->reqs; r; r = r->next)
		r->stays = r->running || !r->ended || r->sent != r->tail || r->end_owed || r->in_out || !r->nr_recs;
	mark_staying(&f->flight);
	mark_staying(&f->lost);
	/* The lists are walked for no more than FHW_KEPT of them, for each has a packet that takes a place. */
	for (r = s->reqs; r && !s->dead; r = next) {
		next = r->next;
		if (r->stays || r->nr_recs > FHW_KEPT - s->nr_kept)
			continue;
		keep_all(s, &f->flight, r);
		keep_all(s, &f->lost, r);
		if (!s->dead)
			put_if_settled(s, r);
	}
}

/* ---- packets ---- */

void fhw_server_on_acked(struct fhw_flow *f, struct fhw_rec *rec)
{
	struct fhw_sreq *r = rec->owner;

	if (rec->kept)
		drop_kept(f->owner, rec);
	if (!r)
		return;
	r->nr_recs--;
	r->moved_us = f->last_us;
	((struct fhw_srv_session *)f->owner)->sweep = true;
}

bool fhw_server_data(struct fhw_srv_session *s, struct fh_dgram *d, const struct fhw_hdr *h, uint64_t now_us)
{
	switch (h->kind) {
	case FHW_PROMPT: return take_message(s, d, h, now_us);
	case FHW_CANCEL: cancel(s, h->request); break;
	case FHW_CLOSE: fhw_session_kill(s, false); return false;
	default: break;
	}
	if (h->request)
		credit(s, h->request, h->ack);
	return false;
}

static void put_end(struct fhw_srv_session *s, struct fh_dgram *d, struct fhw_rec *rec, uint32_t seq,
		    const struct fhw_end *e, uint64_t now_us)
{
	struct fhw_hdr h = {.kind = FHW_END, .request = rec->request, .seq = seq};
	uint32_t error = rec->ack; /* of one without an object: it stays in the record */
	uint8_t body[FHW_END_BYTES];

	fhw_end_put(e, body);
	fhw_session_put(&s->s, d, &h, body, sizeof(body), rec, now_us);
	rec->ack = error;
}

/* Build @old anew. False: nothing was built. */
static bool again(struct fhw_srv_session *s, struct fhw_rec *old, struct fh_dgram *d, uint64_t now_us)
{
	struct fhw_flow *f = &s->s.flow;
	struct fhw_sreq *r = old->owner;
	struct fhw_rec *rec;

	if (old->kept) {
		struct fhw_hdr h = {.kind = old->kind, .request = old->request, .seq = old->seq};
		const struct fhw_kept *k = &s->kept[old->kept - 1];

		rec = fhw_flow_sent(f, FHW_HDR_BYTES + k->bytes, old, now_us);
		fhw_session_put(&s->s, d, &h, k->body, k->bytes, rec, now_us);
		return true;
	}
	if (old->kind == FHW_END) {
		/* Without an object, the error stands in the record. */
		struct fhw_end e = r ? r->end
				     : (struct fhw_end){.finish = old->ack ? FH_FINISH_ERROR : FH_FINISH_CANCELLED,
							.error = -(int32_t)old->ack,
							.retry_us = old->ack == EAGAIN ? 10000 : 0};

		rec = fhw_flow_sent(f, FHW_HDR_BYTES + FHW_END_BYTES, old, now_us);
		put_end(s, d, rec, rec->seq, &e, now_us);
		return true;
	}
	if (old->kind == FHW_TOKENS) {
		struct fhw_hdr h = {.kind = FHW_TOKENS, .request = r->id, .seq = old->seq};
		uint8_t *body = (uint8_t *)&r->slots[old->seq & (r->nr_slots - 1)];
		uint32_t n = old->nr;

		if (!fhw_unseal(&s->s.tx, old->pn, body, n)) {
			fhw_session_kill(s, true);
			return false;
		}
		rec = fhw_flow_sent(f, FHW_HDR_BYTES + n, old, now_us);
		fhw_session_put_tail(&s->s, d, &h, body, n, rec, now_us);
		return true;
	}
	/* The server sends nothing else that is to be acknowledged. */
	fhw_flow_forget(f, old);
	return false;
}

static bool next_lost(struct fhw_srv_session *s, struct fh_dgram *d, uint64_t now_us)
{
	struct fhw_flow *f = &s->s.flow;
	struct fhw_rec *old;

	while (!s->dead && (old = fhw_flow_lost(f))) {
		struct fhw_sreq *r = old->owner;

		if (r && was_read(r, old)) {
			r->nr_recs--;
			s->sweep = true;
			fhw_flow_forget(f, old);
			continue;
		}
		if (!fhw_flow_may_send(f, FHW_HDR_BYTES + old->nr, now_us))
			return false;
		if (again(s, old, d, now_us))
			return true;
	}
	return false;
}

static bool next_tokens(struct fhw_srv_session *s, struct fhw_sreq *r, struct fh_dgram *d, uint64_t now_us)
{
	struct fhw_hdr h = {.kind = FHW_TOKENS, .request = r->id, .seq = r->sent};
	uint32_t at = r->sent & (r->nr_slots - 1), nr = r->tail - r->sent, most = fhw_piece_slots(s->s.mtu);
	struct fhw_rec *rec;

	nr = nr < most ? nr : most;
	nr = nr < r->nr_slots - at ? nr : r->nr_slots - at;
	if (!fhw_flow_may_send(&s->s.flow, FHW_HDR_BYTES + nr * (uint32_t)sizeof(struct fh_slot), now_us))
		return false;
	rec = fhw_flow_sent(&s->s.flow, FHW_HDR_BYTES + nr * (uint32_t)sizeof(struct fh_slot), NULL, now_us);
	rec->owner = r;
	r->nr_recs++;
	r->sent += nr;
	r->moved_us = now_us;
	s->srv->st.nr_tokens += nr;
	s->srv->st.nr_token_packets++;
	fhw_session_put_tail(&s->s, d, &h, (uint8_t *)&r->slots[at], nr * (uint32_t)sizeof(struct fh_slot), rec,
			     now_us);
	return true;
}

static bool next_end(struct fhw_srv_session *s, struct fhw_sreq *r, struct fh_dgram *d, uint64_t now_us)
{
	struct fhw_rec *rec;

	if (!fhw_flow_may_send(&s->s.flow, FHW_HDR_BYTES + FHW_END_BYTES, now_us))
		return false;
	rec = fhw_flow_sent(&s->s.flow, FHW_HDR_BYTES + FHW_END_BYTES, NULL, now_us);
	rec->owner = r;
	rec->request = r->id;
	r->nr_recs++;
	r->end_owed = false;
	r->moved_us = now_us;
	put_end(s, d, rec, r->tail, &r->end, now_us);
	return true;
}

bool fhw_server_next_data(struct fhw_srv_session *s, struct fh_dgram *d, uint64_t now_us)
{
	struct fhw_sreq *r;

	if (next_lost(s, d, now_us))
		return true;
	/* What was lost goes first: nothing new while the window is shut. */
	while (!s->dead && (r = s->out_head)) {
		if (r->sent != r->tail) {
			if (!next_tokens(s, r, d, now_us))
				return false;
		} else if (r->end_owed) {
			if (!next_end(s, r, d, now_us))
				return false;
		} else {
			out_pop(s);
			put_if_settled(s, r);
			continue;
		}
		out_pop(s);
		if (r->sent != r->tail || r->end_owed)
			out_add(s, r);
		return true;
	}
	return false;
}

/* ---- for the user ---- */

void fhw_server_tokens(struct fhw_server *srv, struct fhw_sreq *r, uint32_t tail)
{
	(void)srv;
	r->tail = tail;
	if (!r->s->dead && r->sent != tail)
		out_add(r->s, r);
}

void fhw_server_message_read(struct fhw_server *srv, struct fhw_sreq *r)
{
	drop_message(srv, r);
}

void fhw_server_done(struct fhw_server *srv, struct fhw_sreq *r, const struct fhw_end *end_)
{
	struct fhw_srv_session *s = r->s;

	drop_message(srv, r);
	r->running = false;
	r->ended = true;
	if (end_) {
		r->end = *end_;
		r->end_owed = true;
	}
	fhw_session_activate(s);
	if (s->dead)
		return;
	if (r->end_owed || r->sent != r->tail)
		out_add(s, r);
	else
		s->sweep = true;
}
