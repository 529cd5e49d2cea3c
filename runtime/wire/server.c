// SPDX-License-Identifier: Apache-2.0
/*
 * The server's end: its life, its sessions, timers, what is sent next.
 *
 * A session is *active* while it has something in flight, to say or to wait for;
 * only those are looked at in each turn, the others once in a while.
 */
#include <stdlib.h>

#include "runtime/wire/server_priv.h"

#define COARSE_US 500000u	/* how often silence is looked for */
#define UNCONFIRMED_US 5000000u /* a handshake is finished within */
#define RESETS_S 1000u
#define RESETS_BURST 100u

bool fhw_bucket_take(struct fhw_bucket *b, uint64_t now_us, uint32_t per_second, uint32_t burst)
{
	uint64_t cost_us = 1000000u / per_second, room_us = cost_us * burst;

	if (b->full_us < now_us)
		b->full_us = now_us;
	if (b->full_us - now_us + cost_us > room_us)
		return false;
	b->full_us += cost_us;
	return true;
}

int fhw_server_create(const struct fhw_server_config *cfg, struct fhw_server **out, struct fh_err *err)
{
	struct fhw_server *srv;

	if (fhw_crypt_init())
		return fh_errf(err, -EIO, "libsodium does not start");
	if (cfg->welcome.mtu < FH_DGRAM_MIN_MTU || cfg->max_sessions > FHW_MAX_SESSIONS ||
	    cfg->welcome.max_requests > FHW_SLOTS || !cfg->welcome.max_requests)
		return fh_errf(err, -EINVAL, "udp: datagrams of %u bytes, %u sessions, %u requests each: out of range",
			       cfg->welcome.mtu, cfg->max_sessions, cfg->welcome.max_requests);
	srv = calloc(1, sizeof(*srv));
	if (!srv)
		return fh_errf(err, -ENOMEM, "udp: out of memory");
	srv->cfg = *cfg;
	srv->nr_clients_before = cfg->nr_clients;
	if (!srv->cfg.max_sessions)
		srv->cfg.max_sessions = 1024;
	if (!srv->cfg.max_client_sessions)
		srv->cfg.max_client_sessions = 64;
	if (!srv->cfg.max_message_bytes)
		srv->cfg.max_message_bytes = 16u << 20;
	if (!srv->cfg.max_gathered_bytes)
		srv->cfg.max_gathered_bytes = 256u << 20;
	if (!srv->cfg.idle_us)
		srv->cfg.idle_us = 60000000u;
	srv->active_tail = &srv->active_head;
	srv->use = calloc(cfg->nr_clients + 1, sizeof(*srv->use));
	if (!srv->use) {
		free(srv);
		return fh_errf(err, -ENOMEM, "udp: out of memory");
	}
	if (cfg->cookie_key)
		memcpy(srv->cookie_key, cfg->cookie_key, sizeof(srv->cookie_key));
	else
		cfg->ops->random(cfg->ctx, srv->cookie_key, sizeof(srv->cookie_key));
	srv->cfg.cookie_key = NULL;
	cfg->ops->random(cfg->ctx, srv->source_key, sizeof(srv->source_key));
	*out = srv;
	return 0;
}

/* ---- sessions ---- */

void fhw_session_activate(struct fhw_srv_session *s)
{
	if (s->active)
		return;
	s->active = true;
	s->next_active = NULL;
	*s->srv->active_tail = s;
	s->srv->active_tail = &s->next_active;
}

static void deactivate(struct fhw_server *srv, struct fhw_srv_session **at)
{
	struct fhw_srv_session *s = *at;

	*at = s->next_active;
	if (!*at)
		srv->active_tail = at;
	s->active = false;
}

void fhw_session_free(struct fhw_srv_session *s)
{
	struct fhw_server *srv = s->srv;
	struct fhw_srv_session **at;

	if (s->active) {
		for (at = &srv->active_head; *at != s; at = &(*at)->next_active)
			;
		deactivate(srv, at);
	}
	*s->pprev = s->next;
	if (s->next)
		s->next->pprev = s->pprev;
	srv->table[s->s.index % FHW_MAX_SESSIONS] = NULL;
	srv->st.nr_sessions--;
	srv->st.nr_lost += s->s.flow.nr_lost;
	srv->st.nr_probes += s->s.flow.nr_probes;
	srv->st.nr_spurious += s->s.flow.nr_spurious;
	srv->st.nr_kept -= s->nr_kept;
	srv->use[s->client].nr_sessions--;
	sodium_memzero(&s->s, sizeof(s->s));
	sodium_memzero(s->kept, sizeof(s->kept));
	free(s);
}

void fhw_session_kill(struct fhw_srv_session *s, bool say)
{
	struct fhw_flow *f = &s->s.flow;

	if (s->dead)
		return;
	s->dead = true;
	s->close_owed = say && s->confirmed;
	while (f->flight.head)
		fhw_flow_forget(f, f->flight.head);
	while (f->lost.head)
		fhw_flow_forget(f, f->lost.head);
	fhw_server_cancel_all(s);
	fhw_session_activate(s);
}

void fhw_server_destroy(struct fhw_server *srv)
{
	if (!srv)
		return;
	while (srv->all) {
		fhw_session_kill(srv->all, false);
		fhw_server_put_all(srv->all);
		fhw_session_free(srv->all);
	}
	free(srv->use);
	sodium_memzero(srv, sizeof(*srv));
	free(srv);
}

/* ---- receiving ---- */

struct fhw_reply *fhw_server_reply(struct fhw_server *srv, const struct fh_dgram_addr *peer)
{
	struct fhw_reply *r;

	if (srv->reply_tail - srv->reply_head == FHW_NR_REPLIES)
		return NULL;
	r = &srv->replies[srv->reply_tail++ % FHW_NR_REPLIES];
	memset(r, 0, sizeof(*r));
	r->peer = *peer;
	return r;
}

/* No such session, or not from there: say so, in case that it is a client of before our restart. */
static void reset(struct fhw_server *srv, const struct fh_dgram *d, const struct fhw_hdr *h, uint64_t now_us)
{
	struct fhw_reply *r = NULL;

	srv->st.nr_unknown++;
	/* The goodbye is said more than once. */
	if (h->kind == FHW_CLOSE)
		return;
	if (fhw_bucket_take(&srv->replies_rate, now_us, RESETS_S, RESETS_BURST))
		r = fhw_server_reply(srv, &d->peer);
	if (!r)
		return;
	r->data[0] = FHW_RESET;
	r->data[1] = FHW_VERSION;
	fhw_put32(r->data + 2, h->session);
	fhw_put64(r->data + 6, h->pn);
	r->used = r->bytes = FHW_RESET_BYTES;
	srv->st.nr_resets++;
}

/* Somebody holds the keys. A session of before from the same socket is one that its client has given up. */
static void confirm(struct fhw_srv_session *s, uint64_t now_us)
{
	s->confirmed = true;
	s->srv->st.nr_sessions_total++;
	fhw_flow_rtt(&s->s.flow, now_us - s->begin_us, 0);
	for (struct fhw_srv_session *old = s->srv->all; old; old = old->next)
		if (old != s && old->confirmed && old->client == s->client &&
		    fh_dgram_addr_same(&old->s.peer, &s->s.peer))
			fhw_session_kill(old, false);
}

static bool recv_data(struct fhw_server *srv, struct fh_dgram *d, uint64_t now_us)
{
	struct fhw_srv_session *s;
	struct fhw_hdr h;

	if (!fhw_hdr_parse(d->data, d->bytes, &h)) {
		srv->st.nr_malformed++;
		return false;
	}
	s = srv->table[h.session % FHW_MAX_SESSIONS];
	if (!s || s->dead || s->s.index != h.session || !fh_dgram_addr_same(&s->s.peer, &d->peer)) {
		reset(srv, d, &h, now_us);
		return false;
	}
	switch (fhw_session_open(&s->s, d->data, d->bytes, &h, true, now_us)) {
	case FHW_MALFORMED: srv->st.nr_malformed++; return false;
	case FHW_REPLAYED: srv->st.nr_replayed++; return false;
	case FHW_FORGED: srv->st.nr_forged++; return false;
	case FHW_RUDE: srv->st.nr_rude++; return false;
	default: break;
	}
	if (!s->confirmed)
		confirm(s, now_us);
	fhw_session_activate(s);
	return fhw_server_data(s, d, &h, now_us);
}

bool fhw_server_recv(struct fhw_server *srv, struct fh_dgram *d, uint64_t now_us)
{
	if (d->flags & FH_DGRAM_UNREACHABLE || !d->bytes)
		return false;
	switch (d->data[0]) {
	case FHW_INIT: fhw_server_hello(srv, d, now_us); return false;
	case FHW_DATA: return recv_data(srv, d, now_us);
	default: srv->st.nr_malformed++; return false;
	}
}

/* ---- sending ---- */

static bool next_reply(struct fhw_server *srv, struct fh_dgram *d)
{
	struct fhw_reply *r;

	if (srv->reply_head == srv->reply_tail)
		return false;
	r = &srv->replies[srv->reply_head++ % FHW_NR_REPLIES];
	memcpy(d->data, r->data, r->used);
	memset(d->data + r->used, 0, r->bytes - r->used);
	d->bytes = r->bytes;
	d->peer = r->peer;
	d->tail = NULL;
	return true;
}

static bool next_of(struct fhw_srv_session *s, struct fh_dgram *d, uint64_t now_us)
{
	struct fhw_hdr h = {.kind = FHW_CLOSE};

	if (s->dead) {
		if (!s->close_owed)
			return false;
		s->close_owed = false;
		fhw_session_put(&s->s, d, &h, NULL, 0, NULL, now_us);
		return true;
	}
	if (!s->confirmed)
		return false;
	if (fhw_server_next_data(s, d, now_us))
		return true;
	if (!fhw_flow_ack_due(&s->s.flow, now_us))
		return false;
	h.kind = FHW_ACK;
	fhw_session_put(&s->s, d, &h, NULL, 0, NULL, now_us);
	return true;
}

bool fhw_server_next(struct fhw_server *srv, struct fh_dgram *d, uint64_t now_us)
{
	struct fhw_srv_session *s;

	if (next_reply(srv, d))
		return true;
	for (s = srv->active_head; s; s = s->next_active) {
		if (!next_of(s, d, now_us))
			continue;
		/* The next call begins with who follows, so that all get their turn. */
		if (s->next_active) {
			*srv->active_tail = srv->active_head;
			srv->active_head = s->next_active;
			srv->active_tail = &s->next_active;
			s->next_active = NULL;
		}
		return true;
	}
	return false;
}

/* ---- time ---- */

static bool has_business(const struct fhw_srv_session *s)
{
	const struct fhw_flow *f = &s->s.flow;

	return s->dead || !s->confirmed || s->reqs || f->flight.head || f->lost.head || f->nr_owed || s->sweep;
}

static void look_for_silence(struct fhw_server *srv, uint64_t now_us)
{
	struct fhw_srv_session *s, *next;

	for (s = srv->all; s; s = next) {
		uint64_t quiet_us = now_us - s->s.flow.last_us;
		bool waits = s->reqs || s->s.flow.flight.head || s->s.flow.lost.head;

		next = s->next;
		if (s->dead)
			continue;
		if (!s->confirmed) {
			if (now_us - s->begin_us > UNCONFIRMED_US)
				fhw_session_free(s);
		} else if (waits ? quiet_us > FHW_DEAD_US : quiet_us > srv->cfg.idle_us) {
			srv->st.nr_sessions_dead += waits;
			fhw_session_kill(s, true);
		} else if (s->reqs || s->nr_kept) {
			fhw_server_expire(s, now_us);
		}
	}
}

void fhw_server_tick(struct fhw_server *srv, uint64_t now_us)
{
	struct fhw_srv_session **at = &srv->active_head, *s;

	if (now_us >= srv->coarse_us) {
		srv->coarse_us = now_us + COARSE_US;
		look_for_silence(srv, now_us);
	}
	while ((s = *at)) {
		if (s->dead && !s->close_owed && fhw_server_put_all(s)) {
			fhw_session_free(s); /* which takes it out of the list */
			continue;
		}
		/* Not in each turn until the probe is answered: it looks at all that is in flight. */
		if (!s->dead && fhw_flow_tick(&s->s.flow, now_us) && s->reqs)
			fhw_server_linger(s);
		if (s->sweep && !s->dead)
			fhw_server_sweep(s);
		if (has_business(s))
			at = &s->next_active;
		else
			deactivate(srv, at);
	}
}

uint64_t fhw_server_next_us(const struct fhw_server *srv)
{
	uint64_t us = srv->all ? srv->coarse_us : FHW_NEVER;

	if (srv->all && !srv->active_head)
		us += 60000000u;
	for (const struct fhw_srv_session *s = srv->active_head; s; s = s->next_active) {
		uint64_t own = s->dead ? FHW_NEVER : fhw_flow_next_us(&s->s.flow);

		us = own < us ? own : us;
	}
	return us;
}

int fhw_server_set_clients(struct fhw_server *srv, const uint8_t (*clients)[FHW_KEY_BYTES], uint32_t nr_clients)
{
	const uint8_t(*before)[FHW_KEY_BYTES] = srv->cfg.clients;
	/* One more: sessions of keys that went count there until they are gone. */
	struct fhw_client_use *use = calloc(nr_clients + 1, sizeof(*use));
	uint32_t place;

	if (!use)
		return -ENOMEM;
	free(srv->use);
	srv->use = use;
	srv->cfg.clients = clients;
	srv->cfg.nr_clients = nr_clients;
	for (struct fhw_srv_session *s = srv->all; s; s = s->next) {
		bool known = s->client < srv->nr_clients_before && fhw_find_client(srv, before[s->client], &place);

		s->client = known ? place : nr_clients;
		use[s->client].nr_sessions++;
		use[s->client].nr_reqs += s->nr_reqs;
		for (struct fhw_sreq *r = s->reqs; r; r = r->next) {
			r->client = s->client;
			use[s->client].gathered += r->buf ? r->total : 0;
		}
		if (!known)
			fhw_session_kill(s, true);
	}
	srv->nr_clients_before = nr_clients;
	return 0;
}

void fhw_server_drain(struct fhw_server *srv)
{
	srv->draining = true;
}

void fhw_server_close_all(struct fhw_server *srv)
{
	srv->draining = true;
	for (struct fhw_srv_session *s = srv->all; s; s = s->next)
		fhw_session_kill(s, true);
}

void fhw_server_stats(const struct fhw_server *srv, struct fhw_server_stats *out)
{
	*out = srv->st;
	for (const struct fhw_srv_session *s = srv->all; s; s = s->next) {
		out->nr_lost += s->s.flow.nr_lost;
		out->nr_probes += s->s.flow.nr_probes;
		out->nr_spurious += s->s.flow.nr_spurious;
	}
}
