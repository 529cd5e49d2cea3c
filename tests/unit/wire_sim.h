/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Both ends of the wire protocol over a network that is made up: packets are
 * lost, doubled, delayed, turned over and spoiled as a seeded generator says, and
 * time is a number that jumps from one event to the next.
 *
 * The engine is made up, too: the tokens of a request are a function of its
 * message, come in bursts of random size at random times, never beyond the
 * credit, and end as the message asks.
 */
#ifndef FH_TESTS_WIRE_SIM_H
#define FH_TESTS_WIRE_SIM_H

#include <criterion/criterion.h>
#include <stdlib.h>
#include <string.h>

#include "runtime/wire/client.h"
#include "runtime/wire/server.h"

#define SIM_FLYING 8192u
#define SIM_BYTES 9000u
#define SIM_OBJECTS 128u
#define SIM_SLOTS 32u /* small, so that rings wrap and stall */

struct sim_rng {
	uint64_t s;
};

static inline uint32_t sim_rand(struct sim_rng *r, uint32_t below)
{
	r->s ^= r->s << 13;
	r->s ^= r->s >> 7;
	r->s ^= r->s << 17;
	return below ? (uint32_t)((r->s * 2685821657736338717u >> 32) % below) : 0;
}

/* The token of index @i in the answer to a message with this hash. */
static inline uint32_t sim_token(uint64_t hash, uint32_t i)
{
	return (uint32_t)((hash + i * 0x9e3779b97f4a7c15u) * 0xbf58476d1ce4e5b9u >> 40);
}

static inline uint64_t sim_hash(const uint8_t *p, uint32_t n)
{
	uint64_t h = 14695981039346656037u;

	for (uint32_t i = 0; i < n; i++)
		h = (h ^ p[i]) * 1099511628211u;
	return h;
}

struct sim_packet {
	uint64_t at_us;
	uint8_t *data;
	uint32_t bytes;
	bool to_server;
	struct fh_dgram_addr from;
};

/* A request in the made-up engine. */
struct sim_object {
	struct fhw_sreq r;
	struct fh_slot slots[SIM_SLOTS];
	bool used, runs, wants_end;
	uint64_t hash, next_us;
	uint32_t nr_tokens, tail, head, kind;
	struct sim_object *next;
};

struct sim_tail {
	struct fh_dgram_tail *t;
	uint64_t at_us;
};

struct sim {
	struct sim_rng rng;
	uint64_t now_us;
	uint32_t bad_1000; /* of 1,000 packets: so many are lost, and so many of each other kind */
	uint32_t delay_us;
	struct fhw_server *srv;
	struct fhw_client *c;
	struct fhw_keypair server_key, client_key;
	uint8_t clients[1][FHW_KEY_BYTES];
	struct fh_dgram_addr server_addr, client_addr;
	struct sim_packet *flying;
	uint32_t nr_flying;
	struct sim_object objects[SIM_OBJECTS];
	struct sim_tail tails[1024];
	uint32_t nr_tails;
	bool slow_tails;      /* the carrier reads them for a while */
	uint64_t tails_at_us; /* and until then at least */
	/* Bytes to and from an address before its first genuine packet. */
	uint64_t bytes_in, bytes_out;
	uint64_t nr_sent, nr_delivered, nr_spoiled;
	struct fh_dgram kept[4096];
	uint32_t nr_kept;
	uint8_t server_secret[32], client_secret[32];
	/* A copy of what went by, for whoever wants to replay it. */
	void (*tap)(struct sim *s, const uint8_t *p, uint32_t n, bool to_server);
	uint32_t max_client_sessions, max_client_requests;
	const uint8_t *cookie_key;
	uint64_t max_gathered_bytes;
	uint32_t mtu_limit; /* longer datagrams vanish; 0: none */
};

static inline void sim_random(void *ctx, void *out, size_t n)
{
	struct sim *s = ctx;

	for (size_t i = 0; i < n; i++)
		((uint8_t *)out)[i] = (uint8_t)sim_rand(&s->rng, 256);
}

/* ---- the engine ---- */

static inline struct fhw_sreq *sim_get(void *ctx)
{
	struct sim *s = ctx;

	for (uint32_t i = 0; i < SIM_OBJECTS; i++) {
		struct sim_object *o = &s->objects[i];

		if (o->used)
			continue;
		memset(o, 0, sizeof(*o));
		o->used = true;
		o->r.slots = o->slots;
		o->r.nr_slots = SIM_SLOTS;
		return &o->r;
	}
	return NULL;
}

static inline void sim_put(void *ctx, struct fhw_sreq *r)
{
	struct sim_object *o = (struct sim_object *)r;

	(void)ctx;
	cr_assert(o->used && !o->runs);
	o->used = false;
	memset(o->slots, 0xa5, sizeof(o->slots));
}

static inline void sim_begin(void *ctx, struct fhw_sreq *r)
{
	struct sim_object *o = (struct sim_object *)r;
	struct sim *s = ctx;
	struct fh_req_desc d;

	memcpy(&d, r->msg, sizeof(d));
	cr_assert_eq((uintptr_t)r->msg % 4, 0);
	cr_assert_eq(d.prompt_off + d.prompt_bytes, r->total);
	o->hash = sim_hash(r->msg + d.prompt_off, d.prompt_bytes);
	o->nr_tokens = d.max_tokens;
	o->kind = d.req_class; /* 0: the last slot tells the end; 1: an END does; 2: an error does */
	o->runs = true;
	o->next_us = s->now_us + sim_rand(&s->rng, 300);
	if (sim_rand(&s->rng, 2))
		fhw_server_message_read(s->srv, r);
}

static inline void sim_cancel(void *ctx, struct fhw_sreq *r)
{
	(void)ctx;
	((struct sim_object *)r)->wants_end = true;
}

static inline void sim_credit(void *ctx, struct fhw_sreq *r)
{
	(void)ctx;
	((struct sim_object *)r)->head = r->head;
}

static inline void sim_release(void *ctx, struct fh_dgram *d)
{
	struct sim *s = ctx;

	for (uint32_t i = 0; i < s->nr_kept; i++) {
		if (s->kept[i].handle != d->handle)
			continue;
		free(d->handle);
		s->kept[i] = s->kept[--s->nr_kept];
		return;
	}
	cr_assert_fail("a datagram was released that was not kept");
}

static inline void sim_step(struct sim *s, struct sim_object *o)
{
	uint32_t room = SIM_SLOTS - (o->tail - o->head), n = 1 + sim_rand(&s->rng, 8);
	struct fhw_end end = {.finish = FH_FINISH_STOP};

	o->next_us = s->now_us + 20 + sim_rand(&s->rng, 400);
	n = n < room ? n : room;
	n = n < o->nr_tokens - o->tail ? n : o->nr_tokens - o->tail;
	if (!o->wants_end) {
		for (uint32_t i = 0; i < n; i++, o->tail++) {
			struct fh_slot *slot = &o->slots[o->tail % SIM_SLOTS];

			*slot = (struct fh_slot){.token = sim_token(o->hash, o->tail), .stamp = o->tail + 1};
			if (o->tail + 1 == o->nr_tokens && o->kind == 0) {
				slot->flags = FH_SLOT_LAST;
				slot->finish = FH_FINISH_LENGTH;
			}
		}
		if (n)
			fhw_server_tokens(s->srv, &o->r, o->tail);
		if (o->tail != o->nr_tokens)
			return;
	}
	if (o->wants_end && !(o->tail == o->nr_tokens && o->kind == 0))
		end.finish = FH_FINISH_CANCELLED;
	else if (o->kind == 2)
		end = (struct fhw_end){.finish = FH_FINISH_ERROR, .error = -EIO};
	o->runs = false;
	fhw_server_done(s->srv, &o->r, o->kind == 0 && o->tail == o->nr_tokens ? NULL : &end);
}

/* ---- the network ---- */

static inline bool sim_chance(struct sim *s, uint32_t per_1000)
{
	return sim_rand(&s->rng, 1000) < per_1000;
}

static inline void sim_launch(struct sim *s, const uint8_t *p, uint32_t n, bool to_server)
{
	struct sim_packet *k;

	if (s->nr_flying == SIM_FLYING || (s->mtu_limit && n > s->mtu_limit))
		return;
	k = &s->flying[s->nr_flying++];
	*k = (struct sim_packet){.at_us = s->now_us + s->delay_us / 2 + sim_rand(&s->rng, s->delay_us / 4 + 1),
				 .data = malloc(n + 4),
				 .bytes = n,
				 .to_server = to_server,
				 .from = to_server ? s->client_addr : s->server_addr};
	if (sim_chance(s, s->bad_1000))
		k->at_us += sim_rand(&s->rng, 4 * s->delay_us + 1); /* reordered */
	memcpy(k->data + 2, p, n);
	if (sim_chance(s, s->bad_1000)) {
		k->data[2 + sim_rand(&s->rng, n)] ^= (uint8_t)(1 + sim_rand(&s->rng, 255));
		s->nr_spoiled++;
	}
}

static inline uint64_t sim_tail_end(struct sim *s)
{
	uint64_t us = s->now_us + sim_rand(&s->rng, s->delay_us);

	return us > s->tails_at_us ? us : s->tails_at_us;
}

static inline void sim_send(struct sim *s, struct fh_dgram *d, bool to_server)
{
	uint8_t buf[SIM_BYTES];
	uint32_t n = d->bytes;

	memcpy(buf, d->data, n);
	if (d->tail) {
		memcpy(buf + n, d->tail->base, d->tail->bytes);
		n += d->tail->bytes;
		if (s->slow_tails && s->nr_tails < 1024)
			s->tails[s->nr_tails++] = (struct sim_tail){.t = d->tail, .at_us = sim_tail_end(s)};
		else
			d->tail->done(d->tail);
	}
	s->nr_sent++;
	*(to_server ? &s->bytes_in : &s->bytes_out) += n;
	if (s->tap)
		s->tap(s, buf, n, to_server);
	if (!sim_chance(s, s->bad_1000))
		sim_launch(s, buf, n, to_server);
	if (sim_chance(s, s->bad_1000))
		sim_launch(s, buf, n, to_server);
}

static inline void sim_deliver(struct sim *s, uint8_t *data, uint32_t n, bool to_server,
			       const struct fh_dgram_addr *from)
{
	struct fh_dgram d = {.data = data + 2, .bytes = n, .room = n, .peer = *from, .handle = data};

	s->nr_delivered++;
	if (!to_server) {
		fhw_client_recv(s->c, &d, s->now_us);
		free(data);
	} else {
		/* It may be released before the call returns. */
		s->kept[s->nr_kept++] = d;
		if (!fhw_server_recv(s->srv, &d, s->now_us))
			sim_release(s, &d);
	}
}

static inline void sim_pump(struct sim *s)
{
	uint8_t buf[SIM_BYTES];
	struct fh_dgram d;

	for (uint32_t i = 0; i < s->nr_tails;) {
		if (s->tails[i].at_us > s->now_us) {
			i++;
			continue;
		}
		s->tails[i].t->done(s->tails[i].t);
		s->tails[i] = s->tails[--s->nr_tails];
	}
	fhw_server_tick(s->srv, s->now_us);
	if (s->c)
		fhw_client_tick(s->c, s->now_us);
	d = (struct fh_dgram){.data = buf + 2, .room = SIM_BYTES - 2};
	while (s->c && fhw_client_next(s->c, &d, s->now_us))
		sim_send(s, &d, true);
	while (fhw_server_next(s->srv, &d, s->now_us))
		sim_send(s, &d, false);
}

/* Go to the next event, and do what is due. At most to @until_us. */
static inline void sim_turn(struct sim *s, uint64_t until_us)
{
	uint64_t next = until_us, us;

	sim_pump(s);
	us = fhw_server_next_us(s->srv);
	next = us < next ? us : next;
	us = s->c ? fhw_client_next_us(s->c) : FHW_NEVER;
	next = us < next ? us : next;
	for (uint32_t i = 0; i < s->nr_flying; i++)
		next = s->flying[i].at_us < next ? s->flying[i].at_us : next;
	for (uint32_t i = 0; i < s->nr_tails; i++)
		next = s->tails[i].at_us < next ? s->tails[i].at_us : next;
	for (uint32_t i = 0; i < SIM_OBJECTS; i++)
		if (s->objects[i].runs && s->objects[i].next_us < next)
			next = s->objects[i].next_us;
	s->now_us = next > s->now_us ? next : s->now_us + 1;
	for (uint32_t i = 0; i < s->nr_flying;) {
		struct sim_packet k = s->flying[i];

		if (k.at_us > s->now_us) {
			i++;
			continue;
		}
		s->flying[i] = s->flying[--s->nr_flying];
		if (!k.to_server && !s->c)
			free(k.data);
		else
			sim_deliver(s, k.data, k.bytes, k.to_server, &k.from);
	}
	for (uint32_t i = 0; i < SIM_OBJECTS; i++)
		if (s->objects[i].runs && s->objects[i].next_us <= s->now_us)
			sim_step(s, &s->objects[i]);
	sim_pump(s);
}

/* ---- life ---- */

static const struct fhw_server_ops sim_ops = {
	.get = sim_get,
	.put = sim_put,
	.begin = sim_begin,
	.cancel = sim_cancel,
	.credit = sim_credit,
	.release = sim_release,
	.random = sim_random,
};

static inline void sim_start_server(struct sim *s, bool no_aes)
{
	struct fhw_server_config cfg = {.ctx = s,
					.ops = &sim_ops,
					.key = s->server_key,
					.clients = s->clients,
					.nr_clients = 1,
					.welcome = {.mtu = 1500,
						    .nr_slots = SIM_SLOTS,
						    .max_requests = 32,
						    .nr_ctx = 4096,
						    .nr_vocab = 1000,
						    .model = "made-up"},
					.max_message_bytes = 1u << 20,
					.max_held = 16,
					.cookie_key = s->cookie_key,
					.max_client_sessions = s->max_client_sessions,
					.max_client_requests = s->max_client_requests,
					.max_gathered_bytes = s->max_gathered_bytes,
					.no_aes = no_aes};
	struct fh_err err;

	cr_assert_eq(fhw_server_create(&cfg, &s->srv, &err), 0);
}

static inline void sim_start_client(struct sim *s, bool no_aes)
{
	struct fhw_client_config cfg = {.key = s->client_key,
					.peer = s->server_addr,
					.mtu = 1452,
					.max_requests = 32,
					.no_aes = no_aes,
					.ctx = s,
					.random = sim_random};
	struct fh_err err;

	memcpy(cfg.server, s->server_key.public, sizeof(cfg.server));
	cr_assert_eq(fhw_client_create(&cfg, &s->c, &err), 0);
	fhw_client_start(s->c, s->now_us);
}

static inline struct sim *sim_new(uint64_t seed, uint32_t bad_1000, uint32_t delay_us)
{
	struct sim *s = calloc(1, sizeof(*s));

	cr_assert_eq(fhw_crypt_init(), 0);
	s->rng.s = seed * 2654435769u + 88172645463325252u;
	s->bad_1000 = bad_1000;
	s->delay_us = delay_us;
	s->now_us = 1000000;
	s->flying = calloc(SIM_FLYING, sizeof(*s->flying));
	s->slow_tails = true;
	sim_random(s, s->server_secret, 32);
	sim_random(s, s->client_secret, 32);
	fhw_keypair_from(s->server_secret, &s->server_key);
	fhw_keypair_from(s->client_secret, &s->client_key);
	memcpy(s->clients[0], s->client_key.public, 32);
	s->server_addr.port = 1;
	s->client_addr.port = 2;
	return s;
}

/* The server stops as if it had died: what it had in hand is gone. */
static inline void sim_kill_server(struct sim *s)
{
	while (s->nr_tails) {
		s->nr_tails--;
		s->tails[s->nr_tails].t->done(s->tails[s->nr_tails].t);
	}
	for (uint32_t i = 0; i < SIM_OBJECTS; i++) {
		if (!s->objects[i].runs)
			continue;
		s->objects[i].runs = false;
		s->objects[i].r.running = false;
	}
	fhw_server_destroy(s->srv);
	cr_assert_eq(s->nr_kept, 0);
	s->srv = NULL;
}

static inline void sim_free(struct sim *s)
{
	for (uint32_t i = 0; i < s->nr_flying; i++)
		free(s->flying[i].data);
	fhw_client_destroy(s->c);
	if (s->srv)
		sim_kill_server(s);
	free(s->flying);
	free(s);
}

static inline bool sim_open(struct sim *s, uint64_t within_us)
{
	uint64_t until = s->now_us + within_us;

	while (s->now_us < until && fhw_client_state(s->c) == FHW_CLIENT_HELLO)
		sim_turn(s, until);
	return fhw_client_state(s->c) == FHW_CLIENT_OPEN;
}

#endif /* FH_TESTS_WIRE_SIM_H */
