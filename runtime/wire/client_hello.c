// SPDX-License-Identifier: Apache-2.0
/*
 * The handshake, as the client sees it.
 *
 * The first message is made once and sent until something answers: with the
 * cookie that a RETRY brought, and padded to the size of the datagrams that the
 * session is to use, so that its arrival shows that they pass.  When the large
 * size meets silence, the size that passes everywhere is tried.
 */
#include <stdlib.h>

#include "runtime/wire/client_priv.h"

#define FIRST_WAIT_US 200000u
#define MAX_WAIT_US 1000000u
#define LARGE_TRIES 2u
#define MAX_RETRIES 16u /* cookies taken in one handshake: who sends more is no server of ours */

void fhw_client_start(struct fhw_client *c, uint64_t now_us)
{
	const struct fhw_hello hello = {.flags = fhw_has_aes() && !c->cfg.no_aes ? FHW_HELLO_AES : 0,
					.mtu = c->cfg.mtu};
	uint8_t payload[FHW_HELLO_BYTES], e[FHW_KEY_BYTES];

	c->cfg.random(c->cfg.ctx, e, sizeof(e));
	c->cfg.random(c->cfg.ctx, &c->index, sizeof(c->index));
	fhw_noise_client(&c->noise, &c->cfg.key, c->cfg.server, e, FHW_PROLOGUE, sizeof(FHW_PROLOGUE) - 1);
	sodium_memzero(e, sizeof(e));
	fhw_hello_put(&hello, payload);
	if (fhw_noise_write1(&c->noise, payload, sizeof(payload), c->noise1)) {
		fhw_client_die(c, -EINVAL, "the server's public key is none");
		return;
	}
	memset(c->cookie, 0, sizeof(c->cookie));
	c->state = FHW_CLIENT_HELLO;
	c->try_mtu = c->cfg.mtu;
	c->nr_sent = c->nr_retries = c->refusal = 0;
	c->begin_us = now_us;
	c->again_us = FHW_NEVER;
	c->init_due = true;
	c->st.nr_handshakes++;
}

void fhw_hello_next(struct fhw_client *c, struct fh_dgram *d, uint64_t now_us)
{
	uint64_t wait_us = FIRST_WAIT_US << (c->nr_sent < 4 ? c->nr_sent : 4);
	uint32_t bytes;

	if (c->nr_sent >= LARGE_TRIES)
		c->try_mtu = FH_DGRAM_MIN_MTU;
	bytes = c->try_mtu < d->room ? c->try_mtu : d->room;
	memset(d->data, 0, bytes);
	d->data[0] = FHW_INIT;
	d->data[1] = FHW_VERSION;
	fhw_put32(d->data + 2, c->index);
	memcpy(d->data + FHW_INIT_COOKIE, c->cookie, sizeof(c->cookie));
	memcpy(d->data + FHW_INIT_NOISE, c->noise1, sizeof(c->noise1));
	fhw_init_mac(c->cfg.server, d->data, bytes, c->mac);
	memcpy(d->data + FHW_INIT_MAC, c->mac, sizeof(c->mac));
	d->bytes = bytes;
	d->peer = c->cfg.peer;
	d->tail = NULL;
	c->init_due = false;
	c->init_us = now_us;
	c->again_us = now_us + (wait_us < MAX_WAIT_US ? wait_us : MAX_WAIT_US);
	c->nr_sent++;
}

/* An answer to our latest INIT: nobody else can know its hash without having seen it. */
static bool answers_us(const struct fhw_client *c, const struct fh_dgram *d)
{
	return c->state == FHW_CLIENT_HELLO && d->data[1] == FHW_VERSION && fhw_get32(d->data + 2) == c->index &&
	       !sodium_memcmp(d->data + 6, c->mac, sizeof(c->mac));
}

void fhw_hello_retry(struct fhw_client *c, const struct fh_dgram *d, uint64_t now_us)
{
	(void)now_us;
	if (d->bytes != FHW_RETRY_BYTES || !answers_us(c, d) || c->nr_retries == MAX_RETRIES) {
		c->st.nr_malformed++;
		return;
	}
	memcpy(c->cookie, d->data + 22, sizeof(c->cookie));
	c->nr_retries++;
	c->nr_sent = 0; /* this size has passed */
	c->init_due = true;
}

void fhw_hello_refuse(struct fhw_client *c, const struct fh_dgram *d)
{
	if (d->bytes != FHW_REFUSE_BYTES || !answers_us(c, d)) {
		c->st.nr_malformed++;
		return;
	}
	/* A hint: it counts when nothing better comes. */
	c->refusal = fhw_get32(d->data + 22);
}

/* Requests keep no count of their packets: a record says it all. */
static void on_acked(struct fhw_flow *f, struct fhw_rec *r)
{
	(void)f;
	(void)r;
}

void fhw_hello_resp(struct fhw_client *c, const struct fh_dgram *d, uint64_t now_us)
{
	uint8_t payload[FHW_WELCOME_BYTES], to_server[FHW_KEY_BYTES], to_client[FHW_KEY_BYTES];
	struct fhw_noise z = c->noise; /* a forged answer must not spoil it */
	struct fhw_session *s = &c->s;
	struct fhw_welcome w;
	bool aes;

	if (c->state != FHW_CLIENT_HELLO || d->bytes < FHW_RESP_BYTES || d->data[1] != FHW_VERSION ||
	    fhw_get32(d->data + 2) != c->index) {
		c->st.nr_malformed++;
		return;
	}
	if (fhw_noise_read2(&z, d->data + FHW_RESP_NOISE, FHW_NOISE2_BYTES, payload)) {
		c->st.nr_forged++;
		sodium_memzero(&z, sizeof(z));
		return;
	}
	aes = fhw_get32(payload) & FHW_WELCOME_AES;
	/* It may answer an INIT from before a shorter one was tried: it came, as long as that, so the path carries it.
	 */
	if (!fhw_welcome_get(payload, &w) || w.mtu > c->cfg.mtu || w.mtu < FH_DGRAM_MIN_MTU ||
	    (aes && (!fhw_has_aes() || c->cfg.no_aes))) {
		fhw_client_die(c, -EPROTO, "the server's answer to the handshake breaks the rules");
		return;
	}
	/* Nothing is in them yet. */
	for (uint32_t i = 0; i < c->cfg.max_requests && w.nr_slots != c->welcome.nr_slots; i++) {
		free(c->reqs[i].slots);
		c->reqs[i].slots = NULL;
	}
	c->welcome = w;
	s->index = c->index;
	s->remote = fhw_get32(d->data + 6);
	s->mtu = w.mtu;
	s->peer = c->cfg.peer;
	fhw_noise_split(&z, to_server, to_client);
	sodium_memzero(&c->noise, sizeof(c->noise));
	fhw_dir_init(&s->tx, to_server, aes);
	fhw_dir_init(&s->rx, to_client, aes);
	sodium_memzero(to_server, sizeof(to_server));
	sodium_memzero(to_client, sizeof(to_client));
	fhw_flow_init(&s->flow, s->recs, w.mtu, now_us);
	s->flow.on_acked = on_acked;
	s->flow.owner = c;
	fhw_flow_rtt(&s->flow, now_us - c->init_us, 0);
	c->state = FHW_CLIENT_OPEN;
	c->hint_us = 0;
	/* The first genuine packet confirms the session. */
	if (!c->out_head)
		fhw_flow_queue(&s->flow, FHW_PING, 0);
}

static const char *reason(uint32_t refusal, int *error)
{
	switch (refusal) {
	case FHW_REFUSE_KEY: *error = -EACCES; return "the server does not know this client's public key";
	case FHW_REFUSE_FULL: *error = -EDQUOT; return "the server has too many sessions";
	case FHW_REFUSE_VERSION: *error = -EPROTONOSUPPORT; return "the server speaks another version of the protocol";
	case FHW_REFUSE_CLOSING: *error = -ESHUTDOWN; return "the server is shutting down";
	case FHW_REFUSE_GONE: *error = -ECONNREFUSED; return "nobody listens there";
	default: break;
	}
	*error = -ETIMEDOUT;
	return "no answer: is the server there, and is this its public key?";
}

void fhw_hello_tick(struct fhw_client *c, uint64_t now_us)
{
	uint64_t open_us = c->cfg.open_us ? c->cfg.open_us : 5000000u;
	const char *why;
	int error;

	if (now_us - c->begin_us >= open_us || (c->refusal && now_us >= c->again_us)) {
		why = reason(c->refusal, &error);
		fhw_client_die(c, error, why);
	} else if (now_us >= c->again_us) {
		c->again_us = FHW_NEVER;
		c->init_due = true;
	}
}
