// SPDX-License-Identifier: Apache-2.0
/*
 * Handshakes, as the server sees them.
 *
 * In the order of what they cost: length, version, keyed hash (whoever does not
 * know our public key hears nothing), cookie (one keyed hash; nothing is
 * remembered of whoever has none, and the answer is shorter than the question),
 * a limit on how many a second, of one source and of all, and only then the curve.
 *
 * A cookie is a keyed hash over the sender's address and the handshake's
 * ephemeral key, good for one to two periods.  What a replayed INIT with its
 * cookie achieves is a session that nobody can confirm; it goes after a while.
 */
#include <stdlib.h>

#include "runtime/wire/server_priv.h"

#define COOKIE_PERIOD_US 15000000u
#define HANDSHAKES_S 1000u
#define HANDSHAKES_BURST 200u
#define SOURCE_S 20u /* of one address, or network of IPv6 */
#define SOURCE_BURST 100u
#define REPLIES_S 20000u
#define REPLIES_BURST 2000u

static void make_cookie(const struct fhw_server *srv, const struct fh_dgram *d, uint64_t period,
			uint8_t cookie[FHW_MAC_BYTES])
{
	uint8_t m[8 + 16 + 2 + 4 + 4 + 32];

	fhw_put64(m, period);
	memcpy(m + 8, d->peer.ip, 16);
	fhw_put16(m + 24, d->peer.port);
	fhw_put32(m + 26, d->peer.scope);
	memcpy(m + 30, d->data + 2, 4);
	memcpy(m + 34, d->data + FHW_INIT_NOISE, 32);
	crypto_generichash(cookie, FHW_MAC_BYTES, m, sizeof(m), srv->cookie_key, sizeof(srv->cookie_key));
	/* All zeros say that there is none. */
	cookie[0] |= 1;
}

static bool cookie_is_good(const struct fhw_server *srv, const struct fh_dgram *d, uint64_t now_us)
{
	uint64_t period = now_us / COOKIE_PERIOD_US + 1;
	uint8_t want[FHW_MAC_BYTES];

	for (int i = 0; i < 2; i++) {
		make_cookie(srv, d, period - (uint64_t)i, want);
		if (!sodium_memcmp(want, d->data + FHW_INIT_COOKIE, sizeof(want)))
			return true;
	}
	return false;
}

/* The part that RETRY and REFUSE have in common. NULL: too many already. */
static struct fhw_reply *reply_to(struct fhw_server *srv, const struct fh_dgram *d, uint8_t type, uint64_t now_us)
{
	struct fhw_reply *r = NULL;

	if (fhw_bucket_take(&srv->replies_rate, now_us, REPLIES_S, REPLIES_BURST))
		r = fhw_server_reply(srv, &d->peer);
	if (!r) {
		srv->st.nr_limited++;
		return NULL;
	}
	r->data[0] = type;
	r->data[1] = FHW_VERSION;
	memcpy(r->data + 2, d->data + 2, 4);
	memcpy(r->data + 6, d->data + FHW_INIT_MAC, FHW_MAC_BYTES);
	return r;
}

static void retry(struct fhw_server *srv, const struct fh_dgram *d, uint64_t now_us)
{
	struct fhw_reply *r = reply_to(srv, d, FHW_RETRY, now_us);

	if (!r)
		return;
	make_cookie(srv, d, now_us / COOKIE_PERIOD_US + 1, r->data + 22);
	r->used = r->bytes = FHW_RETRY_BYTES;
	srv->st.nr_retries++;
}

static void refuse(struct fhw_server *srv, const struct fh_dgram *d, enum fhw_refuse why, uint64_t now_us)
{
	struct fhw_reply *r = reply_to(srv, d, FHW_REFUSE, now_us);

	srv->st.nr_refused++;
	if (!r)
		return;
	fhw_put32(r->data + 22, why);
	r->used = r->bytes = FHW_REFUSE_BYTES;
}

static void answer(struct fhw_srv_session *s)
{
	struct fhw_reply *r = fhw_server_reply(s->srv, &s->s.peer);

	if (!r) {
		s->srv->st.nr_limited++;
		return;
	}
	memcpy(r->data, s->resp, sizeof(s->resp));
	r->used = sizeof(s->resp);
	r->bytes = s->resp_bytes;
}

/* The session that this INIT made when it came the first time, or NULL. */
static struct fhw_srv_session *find_twin(struct fhw_server *srv, const struct fh_dgram *d)
{
	for (struct fhw_srv_session *s = srv->all; s; s = s->next)
		if (!s->confirmed && !s->dead && !memcmp(s->client_e, d->data + FHW_INIT_NOISE, 32) &&
		    fh_dgram_addr_same(&s->s.peer, &d->peer))
			return s;
	return NULL;
}

/* The place of a key in the list. Not secret, so that the time may tell. */
bool fhw_find_client(const struct fhw_server *srv, const uint8_t key[FHW_KEY_BYTES], uint32_t *client)
{
	for (*client = 0; *client < srv->cfg.nr_clients; ++*client)
		if (!memcmp(srv->cfg.clients[*client], key, FHW_KEY_BYTES))
			return true;
	return false;
}

/* Nobody would miss it: an unfinished handshake, or one that a client does not build upon any more. */
static bool is_spare(const struct fhw_srv_session *s, uint64_t now_us)
{
	const struct fhw_flow *f = &s->s.flow;

	if (s->dead || f->nr_busy)
		return false;
	return !s->confirmed || (!s->reqs && !f->flight.head && !f->lost.head && now_us - f->last_us > FHW_STALE_US);
}

/* Free the one that was quiet longest of those that nobody would miss, of @client alone or (UINT32_MAX) of all. */
static bool make_room(struct fhw_server *srv, uint32_t client, uint64_t now_us)
{
	struct fhw_srv_session *oldest = NULL;

	for (struct fhw_srv_session *s = srv->all; s; s = s->next)
		if ((client == UINT32_MAX || s->client == client) && is_spare(s, now_us) &&
		    (!oldest || s->s.flow.last_us < oldest->s.flow.last_us))
			oldest = s;
	if (oldest)
		fhw_session_free(oldest);
	return oldest;
}

/* A place in the table, or UINT32_MAX. */
static uint32_t find_place(struct fhw_server *srv, uint64_t now_us)
{
	if (srv->st.nr_sessions >= srv->cfg.max_sessions && !make_room(srv, UINT32_MAX, now_us))
		return UINT32_MAX;
	for (uint32_t i = 0; i < FHW_MAX_SESSIONS; i++)
		if (!srv->table[i])
			return i;
	return UINT32_MAX;
}

static struct fhw_srv_session *make_session(struct fhw_server *srv, const struct fh_dgram *d, uint32_t client,
					    uint32_t mtu, uint64_t now_us)
{
	uint32_t place = find_place(srv, now_us), salt;
	struct fhw_srv_session *s;

	if (place == UINT32_MAX)
		return NULL;
	s = aligned_alloc(64, (sizeof(*s) + 63) & ~(size_t)63);
	if (!s)
		return NULL;
	memset(s, 0, sizeof(*s));
	srv->cfg.ops->random(srv->cfg.ctx, &salt, sizeof(salt));
	s->s.index = (salt & ~(FHW_MAX_SESSIONS - 1)) | place;
	s->s.remote = fhw_get32(d->data + 2);
	s->s.mtu = mtu;
	s->s.peer = d->peer;
	fhw_flow_init(&s->s.flow, s->s.recs, mtu, now_us);
	s->s.flow.on_acked = fhw_server_on_acked;
	s->s.flow.owner = s;
	s->srv = srv;
	s->client = client;
	s->begin_us = now_us;
	s->out_tail = &s->out_head;
	memcpy(s->client_e, d->data + FHW_INIT_NOISE, 32);
	srv->table[place] = s;
	s->next = srv->all;
	s->pprev = &srv->all;
	if (s->next)
		s->next->pprev = &s->next;
	srv->all = s;
	srv->st.nr_sessions++;
	srv->use[client].nr_sessions++;
	return s;
}

/* The second message, and the keys. */
static int finish(struct fhw_srv_session *s, struct fhw_noise *z, const struct fhw_hello *hello, uint32_t bytes)
{
	struct fhw_server *srv = s->srv;
	struct fhw_welcome w = srv->cfg.welcome;
	uint8_t e[FHW_KEY_BYTES], to_server[FHW_KEY_BYTES], to_client[FHW_KEY_BYTES], payload[FHW_WELCOME_BYTES];
	bool aes = hello->flags & FHW_HELLO_AES && fhw_has_aes() && !srv->cfg.no_aes;
	int rc;

	w.flags = aes ? FHW_WELCOME_AES : 0;
	w.mtu = s->s.mtu;
	fhw_welcome_put(&w, payload);
	s->resp[0] = FHW_RESP;
	s->resp[1] = FHW_VERSION;
	fhw_put32(s->resp + 2, s->s.remote);
	fhw_put32(s->resp + 6, s->s.index);
	s->resp_bytes = bytes;
	srv->cfg.ops->random(srv->cfg.ctx, e, sizeof(e));
	rc = fhw_noise_write2(z, e, payload, sizeof(payload), s->resp + FHW_RESP_NOISE);
	fhw_noise_split(z, to_server, to_client);
	fhw_dir_init(&s->s.rx, to_server, aes);
	fhw_dir_init(&s->s.tx, to_client, aes);
	sodium_memzero(e, sizeof(e));
	sodium_memzero(to_server, sizeof(to_server));
	sodium_memzero(to_client, sizeof(to_client));
	return rc;
}

/*
 * One source has no more than its part of all handshakes.  A source is an address
 * of IPv4 or a /64 of IPv6, which one host may have to itself; two that share a
 * place share its part, and nobody outside knows which do.
 */
static bool may_shake(struct fhw_server *srv, const struct fh_dgram_addr *peer, uint64_t now_us)
{
	static const uint8_t mapped[12] = {[10] = 0xff, [11] = 0xff};
	bool v4 = !memcmp(peer->ip, mapped, sizeof(mapped));
	uint8_t hash[crypto_shorthash_BYTES];

	crypto_shorthash(hash, peer->ip, v4 ? 16 : 8, srv->source_key);
	return fhw_bucket_take(&srv->sources[fhw_get32(hash) % FHW_SOURCES], now_us, SOURCE_S, SOURCE_BURST) &&
	       fhw_bucket_take(&srv->handshakes, now_us, HANDSHAKES_S, HANDSHAKES_BURST);
}

static void shake(struct fhw_server *srv, const struct fh_dgram *d, uint64_t now_us)
{
	struct fhw_srv_session *s = find_twin(srv, d);
	uint8_t payload[FHW_HELLO_BYTES];
	struct fhw_hello hello;
	struct fhw_noise z;
	uint32_t client, mtu;

	if (s && d->bytes >= s->resp_bytes) {
		answer(s);
		return;
	}
	/* It tries a smaller size. */
	if (s)
		fhw_session_free(s);
	if (!may_shake(srv, &d->peer, now_us)) {
		srv->st.nr_limited++;
		return;
	}
	fhw_noise_server(&z, &srv->cfg.key, FHW_PROLOGUE, sizeof(FHW_PROLOGUE) - 1);
	if (fhw_noise_read1(&z, d->data + FHW_INIT_NOISE, FHW_NOISE1_BYTES, payload)) {
		srv->st.nr_bad_handshake++;
		goto out;
	}
	if (!fhw_find_client(srv, z.rs, &client)) {
		srv->st.nr_unlisted++;
		refuse(srv, d, FHW_REFUSE_KEY, now_us);
		goto out;
	}
	fhw_hello_get(payload, &hello);
	mtu = d->bytes < srv->cfg.welcome.mtu ? d->bytes : srv->cfg.welcome.mtu;
	mtu = hello.mtu < mtu ? hello.mtu : mtu;
	if (mtu < FH_DGRAM_MIN_MTU) {
		srv->st.nr_bad_handshake++;
		goto out;
	}
	if (srv->use[client].nr_sessions < srv->cfg.max_client_sessions || make_room(srv, client, now_us))
		s = make_session(srv, d, client, mtu, now_us);
	else
		s = NULL;
	if (!s) {
		refuse(srv, d, FHW_REFUSE_FULL, now_us);
	} else if (finish(s, &z, &hello, mtu)) {
		srv->st.nr_bad_handshake++;
		fhw_session_free(s);
	} else {
		fhw_session_activate(s);
		answer(s);
	}
out:
	sodium_memzero(&z, sizeof(z));
}

void fhw_server_hello(struct fhw_server *srv, const struct fh_dgram *d, uint64_t now_us)
{
	uint8_t mac[FHW_MAC_BYTES];

	if (d->bytes < FH_DGRAM_MIN_MTU) {
		srv->st.nr_malformed++;
		return;
	}
	if (d->data[1] != FHW_VERSION) {
		refuse(srv, d, FHW_REFUSE_VERSION, now_us);
		return;
	}
	fhw_init_mac(srv->cfg.key.public, d->data, d->bytes, mac);
	if (sodium_memcmp(mac, d->data + FHW_INIT_MAC, sizeof(mac))) {
		srv->st.nr_bad_mac++;
		return;
	}
	if (srv->draining) {
		refuse(srv, d, FHW_REFUSE_CLOSING, now_us);
		return;
	}
	if (cookie_is_good(srv, d, now_us)) {
		shake(srv, d, now_us);
		return;
	}
	if (!sodium_is_zero(d->data + FHW_INIT_COOKIE, FHW_MAC_BYTES))
		srv->st.nr_bad_cookie++;
	retry(srv, d, now_us);
}
