// SPDX-License-Identifier: Apache-2.0
/*
 * The wire protocol under whatever comes.  A session is made, then the input is
 * read as a script of packets:
 *
 *	0  bytes as they are, to the server		4  a request of the client's own
 *	1  bytes as they are, to the client		5  time passes, in steps of @n ms
 *	2  a header and a body that the client seals	6  the engine publishes @n tokens
 *	3  a header and a body that the server seals	7  both ends say what they have to say
 *
 * so that what is behind the seal is reached, too: 2 and 3 are genuine packets
 * with any content.  Each entry is a kind, a length and that many bytes.
 */
#include <assert.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include "runtime/wire/client_priv.h"
#include "runtime/wire/server_priv.h"

#define NR_OBJECTS 8u
#define NR_SLOTS 16u

struct object {
	struct fhw_sreq r;
	struct fh_slot slots[NR_SLOTS];
	bool used, runs, cancelled;
	uint32_t tail, head;
};

struct world {
	struct fhw_server *srv;
	struct fhw_client *c;
	struct object objects[NR_OBJECTS];
	struct fh_dgram_addr server_addr, client_addr;
	uint64_t now_us;
	uint8_t counter;
	uint32_t nr_kept, depth;
};

static void w_random(void *ctx, void *out, size_t n)
{
	struct world *w = ctx;

	for (size_t i = 0; i < n; i++)
		((uint8_t *)out)[i] = w->counter++;
}

static struct fhw_sreq *w_get(void *ctx)
{
	struct world *w = ctx;

	for (uint32_t i = 0; i < NR_OBJECTS; i++) {
		struct object *o = &w->objects[i];

		if (o->used)
			continue;
		memset(o, 0, sizeof(*o));
		o->used = true;
		o->r.slots = o->slots;
		o->r.nr_slots = NR_SLOTS;
		return &o->r;
	}
	return NULL;
}

static void w_put(void *ctx, struct fhw_sreq *r)
{
	struct object *o = (struct object *)r;

	(void)ctx;
	assert(o->used && !o->runs);
	o->used = false;
}

static void w_begin(void *ctx, struct fhw_sreq *r)
{
	struct object *o = (struct object *)r;
	uint8_t sum = 0;

	(void)ctx;
	/* All of it is there. */
	for (uint32_t i = 0; i < r->total; i++)
		sum ^= r->msg[i];
	__asm__ volatile("" : : "r"(sum)); /* it was read */
	o->runs = true;
}

static void w_cancel(void *ctx, struct fhw_sreq *r)
{
	(void)ctx;
	((struct object *)r)->cancelled = true;
}

static void w_credit(void *ctx, struct fhw_sreq *r)
{
	struct object *o = (struct object *)r;

	(void)ctx;
	assert(r->head - o->head <= o->tail - o->head);
	o->head = r->head;
}

static void w_release(void *ctx, struct fh_dgram *d)
{
	((struct world *)ctx)->nr_kept--;
	free(d->handle);
}

static const struct fhw_server_ops ops = {
	.get = w_get,
	.put = w_put,
	.begin = w_begin,
	.cancel = w_cancel,
	.credit = w_credit,
	.release = w_release,
	.random = w_random,
};

/* An exact copy, so that a read beyond its end is seen; two bytes in, as carriers have it. */
static void to_server(struct world *w, const uint8_t *p, uint32_t n)
{
	uint8_t *copy = malloc(n + 2);
	struct fh_dgram d = {.data = copy + 2, .bytes = n, .room = n, .peer = w->client_addr, .handle = copy};

	if (!copy)
		return;
	memcpy(copy + 2, p, n);
	w->nr_kept++;
	if (!fhw_server_recv(w->srv, &d, w->now_us))
		w_release(w, &d);
}

static void to_client(struct world *w, const uint8_t *p, uint32_t n)
{
	uint8_t *copy = malloc(n + 2);
	struct fh_dgram d = {.data = copy + 2, .bytes = n, .room = n, .peer = w->server_addr};

	if (!copy)
		return;
	memcpy(copy + 2, p, n);
	fhw_client_recv(w->c, &d, w->now_us);
	free(copy);
}

/* Let both say what they have; each packet reaches the other. */
static void talk(struct world *w)
{
	uint8_t buf[4096], flat[4096];
	struct fh_dgram d = {.data = buf + 2, .room = 1500};

	fhw_server_tick(w->srv, w->now_us);
	fhw_client_tick(w->c, w->now_us);
	for (int i = 0; i < 64 && fhw_client_next(w->c, &d, w->now_us); i++)
		to_server(w, d.data, d.bytes);
	for (int i = 0; i < 64 && fhw_server_next(w->srv, &d, w->now_us); i++) {
		uint32_t n = d.bytes;

		memcpy(flat, d.data, n);
		if (d.tail) {
			memcpy(flat + n, d.tail->base, d.tail->bytes);
			n += d.tail->bytes;
			d.tail->done(d.tail);
		}
		to_client(w, flat, n);
	}
}

/* 46 bytes of header as the input has them, but for what must be right to be opened at all. */
static uint32_t sealed(struct fhw_session *s, const uint8_t *p, uint32_t n, uint8_t *out)
{
	uint8_t ad[FHW_AD_BYTES] = {0};
	uint32_t body = n > FHW_AD_BYTES ? n - FHW_AD_BYTES : 0;

	memcpy(ad, p, n < FHW_AD_BYTES ? n : FHW_AD_BYTES);
	ad[0] = FHW_DATA;
	fhw_put32(ad + 2, s->remote);
	/* Mostly the next number; now and then another. */
	if (ad[6] & 7)
		fhw_put64(ad + 6, s->flow.next_pn++);
	else
		fhw_put64(ad + 6, 1 + ad[7]);
	memcpy(out, ad, sizeof(ad));
	fhw_seal(&s->tx, fhw_get64(ad + 6), ad, out + FHW_HDR_BYTES, p + FHW_AD_BYTES, body, out + FHW_AD_BYTES);
	return FHW_HDR_BYTES + body;
}

static struct fhw_session *server_session(struct world *w)
{
	return w->srv->all && w->srv->all->confirmed && !w->srv->all->dead ? &w->srv->all->s : NULL;
}

static void engine(struct world *w, uint32_t n)
{
	for (uint32_t i = 0; i < NR_OBJECTS; i++) {
		struct object *o = &w->objects[i];
		const struct fhw_end end = {.finish = FH_FINISH_CANCELLED};
		uint32_t room = NR_SLOTS - (o->tail - o->head);

		if (!o->runs)
			continue;
		for (uint32_t k = 0; k < n && k < room; k++, o->tail++)
			o->slots[o->tail % NR_SLOTS] = (struct fh_slot){.token = k, .stamp = o->tail + 1};
		fhw_server_tokens(w->srv, &o->r, o->tail);
		if (!o->cancelled && o->tail < 40)
			continue;
		o->runs = false;
		fhw_server_done(w->srv, &o->r, &end);
	}
}

static void pop_all(struct world *w)
{
	struct fhw_token t;

	while (fhw_client_pop(w->c, &t))
		;
}

static void one(struct world *w, unsigned int kind, const uint8_t *p, uint32_t n)
{
	struct fh_req_desc d = {.max_tokens = 4};
	struct fhw_session *s = server_session(w);
	uint8_t out[4096];
	uint32_t id;

	switch (kind) {
	case 0: to_server(w, p, n); break;
	case 1: to_client(w, p, n); break;
	case 2:
		if (fhw_client_state(w->c) == FHW_CLIENT_OPEN)
			to_server(w, out, sealed(&w->c->s, p, n, out));
		break;
	case 3:
		if (s)
			to_client(w, out, sealed(s, p, n, out));
		break;
	case 4:
		if (n && !fhw_client_submit(w->c, &d, p, n, n, w->now_us, &id) && n % 5 == 0)
			fhw_client_cancel(w->c, id, w->now_us);
		break;
	case 5: w->now_us += n * 1000ull; break;
	case 6: engine(w, n); break;
	default: talk(w); pop_all(w);
	}
}

static bool make(struct world *w)
{
	static const uint8_t secret[2][32] = {{1}, {2}};
	struct fhw_server_config sc = {.ctx = w,
				       .ops = &ops,
				       .nr_clients = 1,
				       .welcome = {.mtu = 1232, .nr_slots = NR_SLOTS, .max_requests = 4},
				       .max_sessions = 2,
				       .max_message_bytes = 65536,
				       .max_held = 2,
				       .no_aes = true};
	struct fhw_client_config cc = {.mtu = 1232, .max_requests = 4, .ctx = w, .random = w_random, .no_aes = true};
	static uint8_t clients[1][FHW_KEY_BYTES];
	struct fh_err err;

	if (fhw_crypt_init())
		return false;
	w->now_us = 1000000;
	w->server_addr.port = 1;
	w->client_addr.port = 2;
	fhw_keypair_from(secret[0], &sc.key);
	fhw_keypair_from(secret[1], &cc.key);
	memcpy(cc.server, sc.key.public, sizeof(cc.server));
	memcpy(clients[0], cc.key.public, sizeof(clients[0]));
	sc.clients = (const uint8_t(*)[FHW_KEY_BYTES])clients;
	cc.peer = w->server_addr;
	if (fhw_server_create(&sc, &w->srv, &err) || fhw_client_create(&cc, &w->c, &err))
		return false;
	fhw_client_start(w->c, w->now_us);
	for (int i = 0; i < 4; i++)
		talk(w);
	assert(fhw_client_state(w->c) == FHW_CLIENT_OPEN && server_session(w));
	return true;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct world *w = calloc(1, sizeof(*w));

	if (!w || !make(w))
		abort();
	while (size >= 3) {
		uint32_t n = fhw_get16(data + 1) % 1400;

		n = n < size - 3 ? n : (uint32_t)(size - 3);
		one(w, data[0] & 7, data + 3, n);
		data += 3 + n;
		size -= 3 + n;
	}
	/* Whatever was said: it all ends, and nothing is kept. */
	pop_all(w);
	for (uint32_t i = 0; i < NR_OBJECTS; i++) {
		w->objects[i].runs = false;
		w->objects[i].r.running = false;
	}
	fhw_client_destroy(w->c);
	fhw_server_destroy(w->srv);
	assert(!w->nr_kept);
	for (uint32_t i = 0; i < NR_OBJECTS; i++)
		assert(!w->objects[i].used);
	free(w);
	return 0;
}
