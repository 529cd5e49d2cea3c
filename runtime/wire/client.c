// SPDX-License-Identifier: Apache-2.0
/*
 * The client's end: its life, timers, packets.
 *
 * Whether the server is still there is found out by asking: after some silence
 * with open requests, and at once when somebody (a RESET, the network)
 * hints that it is not.  A hint alone ends nothing, since anybody can send one;
 * silence after it does.
 */
#include <stdlib.h>

#include "runtime/wire/client_priv.h"

#define NR_CLOSES 3	     /* nobody acknowledges a goodbye */
#define HINT_MIN_US 30000u   /* after a hint: silence for so long, ... */
#define HINT_MAX_US 2000000u /* and no longer than that, is the end */

int fhw_client_create(const struct fhw_client_config *cfg, struct fhw_client **out, struct fh_err *err)
{
	struct fhw_client *c;

	if (fhw_crypt_init())
		return fh_errf(err, -EIO, "libsodium does not start");
	if (cfg->mtu < FH_DGRAM_MIN_MTU || !cfg->max_requests || cfg->max_requests > FHW_SLOTS)
		return fh_errf(err, -EINVAL, "udp: datagrams of %u bytes, %u requests: out of range", cfg->mtu,
			       cfg->max_requests);
	c = aligned_alloc(64, (sizeof(*c) + 63) & ~(size_t)63);
	if (!c)
		return fh_errf(err, -ENOMEM, "udp: out of memory");
	memset(c, 0, sizeof(*c));
	c->cfg = *cfg;
	c->reqs = calloc(cfg->max_requests, sizeof(*c->reqs));
	c->by_id = calloc(FHW_SLOTS, sizeof(struct fhw_creq *));
	if (!c->reqs || !c->by_id) {
		fhw_client_destroy(c);
		return fh_errf(err, -ENOMEM, "udp: out of memory");
	}
	for (uint32_t i = cfg->max_requests; i--;) {
		c->reqs[i].next_free = c->free_head;
		c->free_head = &c->reqs[i];
	}
	c->out_tail = &c->out_head;
	c->ready_tail = &c->ready_head;
	c->due_us = FHW_NEVER;
	*out = c;
	return 0;
}

void fhw_client_destroy(struct fhw_client *c)
{
	if (!c)
		return;
	for (uint32_t i = 0; c->reqs && i < c->cfg.max_requests; i++) {
		free(c->reqs[i].msg);
		free(c->reqs[i].slots);
	}
	free(c->reqs);
	free(c->by_id);
	sodium_memzero(c, sizeof(*c));
	free(c);
}

enum fhw_client_state fhw_client_state(const struct fhw_client *c)
{
	return c->state;
}

int fhw_client_error(const struct fhw_client *c, const char **why)
{
	if (why)
		*why = c->why ? c->why : "";
	return c->error;
}

const struct fhw_welcome *fhw_client_welcome(const struct fhw_client *c)
{
	return &c->welcome;
}

void fhw_client_die(struct fhw_client *c, int error, const char *why)
{
	if (c->state == FHW_CLIENT_DEAD)
		return;
	c->state = FHW_CLIENT_DEAD;
	c->error = error;
	c->why = why;
	fhw_creq_fail_all(c, error);
}

void fhw_client_close(struct fhw_client *c)
{
	c->close_owed = c->state == FHW_CLIENT_OPEN ? NR_CLOSES : 0;
	fhw_client_die(c, -ESHUTDOWN, "the handle was closed");
}

/* ---- receiving ---- */

/* Somebody says that the server knows us no more: see whether it answers. */
static void hint(struct fhw_client *c, uint64_t now_us)
{
	c->st.nr_hints++;
	/* It counts when nothing better comes, as a refusal does. */
	if (c->state == FHW_CLIENT_HELLO && !c->refusal)
		c->refusal = FHW_REFUSE_GONE;
	if (c->state != FHW_CLIENT_OPEN || c->hint_us)
		return;
	c->hint_us = now_us ? now_us : 1;
	fhw_flow_queue(&c->s.flow, FHW_PING, 0);
}

static void recv_reset(struct fhw_client *c, const struct fh_dgram *d, uint64_t now_us)
{
	if (d->bytes == FHW_RESET_BYTES && d->data[1] == FHW_VERSION && fhw_get32(d->data + 2) == c->s.remote &&
	    fhw_get64(d->data + 6) < c->s.flow.next_pn)
		hint(c, now_us);
	else
		c->st.nr_malformed++;
}

static void recv_data(struct fhw_client *c, struct fh_dgram *d, uint64_t now_us)
{
	const uint8_t *body = d->data + FHW_HDR_BYTES;
	struct fhw_end e;
	struct fhw_hdr h;

	if (c->state != FHW_CLIENT_OPEN || !fhw_hdr_parse(d->data, d->bytes, &h) || h.session != c->s.index) {
		c->st.nr_malformed++;
		return;
	}
	switch (fhw_session_open(&c->s, d->data, d->bytes, &h, false, now_us)) {
	case FHW_MALFORMED: c->st.nr_malformed++; return;
	case FHW_REPLAYED: c->st.nr_replayed++; return;
	case FHW_FORGED: c->st.nr_forged++; return;
	case FHW_RUDE: c->st.nr_rude++; return;
	default: break;
	}
	c->hint_us = 0;
	if (h.kind == FHW_TOKENS || h.kind == FHW_END)
		c->ping_us = FHW_PING_US;
	if (h.kind == FHW_TOKENS)
		fhw_creq_tokens(c, &h, body, d->bytes - FHW_HDR_BYTES);
	else if (h.kind == FHW_END && fhw_end_get(body, &e))
		fhw_creq_end(c, &h, &e);
	else if (h.kind == FHW_CLOSE)
		fhw_client_die(c, -EPIPE, "the server ended the session");
	else if (h.kind == FHW_END)
		c->st.nr_rude++;
}

void fhw_client_recv(struct fhw_client *c, struct fh_dgram *d, uint64_t now_us)
{
	if (d->flags & FH_DGRAM_UNREACHABLE) {
		hint(c, now_us);
		return;
	}
	/* With two bytes at least there is a type and a version. */
	if (d->bytes < FHW_RESET_BYTES || !fh_dgram_addr_same(&d->peer, &c->cfg.peer)) {
		c->st.nr_malformed++;
		return;
	}
	switch (d->data[0]) {
	case FHW_DATA: recv_data(c, d, now_us); break;
	case FHW_RETRY: fhw_hello_retry(c, d, now_us); break;
	case FHW_RESP: fhw_hello_resp(c, d, now_us); break;
	case FHW_REFUSE: fhw_hello_refuse(c, d); break;
	case FHW_RESET: recv_reset(c, d, now_us); break;
	default: c->st.nr_malformed++;
	}
}

/* ---- sending ---- */

bool fhw_client_next(struct fhw_client *c, struct fh_dgram *d, uint64_t now_us)
{
	struct fhw_hdr h = {.kind = FHW_CLOSE};
	struct fhw_creq *r;

	/* Of a session that another is about to replace, too. */
	if (c->close_owed) {
		c->close_owed--;
		fhw_session_put(&c->s, d, &h, NULL, 0, NULL, now_us);
		return true;
	}
	if (c->state == FHW_CLIENT_HELLO) {
		if (!c->init_due)
			return false;
		fhw_hello_next(c, d, now_us);
		return true;
	}
	if (c->state != FHW_CLIENT_OPEN)
		return false;
	if (fhw_creq_next(c, d, now_us))
		return true;
	if (!fhw_flow_ack_due(&c->s.flow, now_us))
		return false;
	r = fhw_creq_find(c, c->last_request);
	h = (struct fhw_hdr){.kind = FHW_ACK, .request = r ? r->id : 0, .ack = r ? r->read : 0};
	fhw_session_put(&c->s, d, &h, NULL, 0, NULL, now_us);
	return true;
}

/* ---- time ---- */

static uint64_t hint_end_us(const struct fhw_client *c)
{
	uint64_t us = 4 * fhw_flow_pto_us(&c->s.flow);

	us = us > HINT_MIN_US ? us : HINT_MIN_US;
	return c->hint_us + (us < HINT_MAX_US ? us : HINT_MAX_US);
}

/* Since when we hear nothing although we wait. */
static uint64_t quiet_us(const struct fhw_client *c)
{
	uint64_t us = c->s.flow.last_us;

	return c->nr_open && c->wait_us > us ? c->wait_us : us;
}

static bool waits(const struct fhw_client *c)
{
	return c->nr_open || c->s.flow.flight.head || c->s.flow.lost.head;
}

/* The longer nothing comes but answers to this, the rarer. */
static void ping(struct fhw_client *c)
{
	fhw_flow_queue(&c->s.flow, FHW_PING, 0);
	c->ping_us = 2 * c->ping_us < FHW_PING_MAX_US ? 2 * c->ping_us : FHW_PING_MAX_US;
}

void fhw_client_tick(struct fhw_client *c, uint64_t now_us)
{
	struct fhw_flow *f = &c->s.flow;
	uint64_t dead_us = c->cfg.dead_us ? c->cfg.dead_us : FHW_DEAD_US;

	if (c->state == FHW_CLIENT_HELLO)
		fhw_hello_tick(c, now_us);
	fhw_creq_tick(c, now_us);
	if (c->state != FHW_CLIENT_OPEN)
		return;
	fhw_flow_tick(f, now_us);
	if (c->hint_us && now_us >= hint_end_us(c))
		fhw_client_die(c, -EPIPE, "the server is gone");
	else if (waits(c) && now_us - quiet_us(c) >= dead_us)
		fhw_client_die(c, -EPIPE, "the server does not answer any more");
	else if (c->nr_open && now_us - quiet_us(c) >= c->ping_us && !f->flight.head && !f->lost.head)
		ping(c);
}

uint64_t fhw_client_next_us(const struct fhw_client *c)
{
	const struct fhw_flow *f = &c->s.flow;
	uint64_t us, dead_us = c->cfg.dead_us ? c->cfg.dead_us : FHW_DEAD_US, open_us;

	if (c->state == FHW_CLIENT_HELLO) {
		open_us = c->begin_us + (c->cfg.open_us ? c->cfg.open_us : 5000000u);
		us = c->again_us < open_us ? c->again_us : open_us;
		return c->due_us < us ? c->due_us : us;
	}
	if (c->state != FHW_CLIENT_OPEN)
		return FHW_NEVER;
	us = fhw_flow_next_us(f);
	if (c->due_us < us)
		us = c->due_us;
	if (c->hint_us && hint_end_us(c) < us)
		us = hint_end_us(c);
	if (waits(c) && quiet_us(c) + dead_us < us)
		us = quiet_us(c) + dead_us;
	if (c->nr_open && !f->flight.head && !f->lost.head && quiet_us(c) + c->ping_us < us)
		us = quiet_us(c) + c->ping_us;
	return us;
}

void fhw_client_stats(const struct fhw_client *c, struct fhw_client_stats *out)
{
	*out = c->st;
	out->nr_lost += c->s.flow.nr_lost;
	out->nr_probes += c->s.flow.nr_probes;
	out->nr_spurious += c->s.flow.nr_spurious;
	out->srtt_us = c->s.flow.srtt_us;
}

void fhw_client_ack(struct fhw_client *c, uint64_t now_us)
{
	if (c->s.flow.nr_owed)
		c->s.flow.ack_us = now_us;
}

/*
 * The server gives a session up when it waits in vain for an acknowledgement,
 * which a client that nobody calls cannot send: one that was idle is not built
 * upon.
 */
bool fhw_client_is_stale(const struct fhw_client *c, uint64_t now_us)
{
	return c->state == FHW_CLIENT_OPEN && !c->nr_open && !c->hint_us && now_us - c->s.flow.last_us > FHW_STALE_US;
}
