// SPDX-License-Identifier: Apache-2.0
/*
 * What the wire protocol costs, to be counted by callgrind: one session, NR
 * requests of IDS token ids and TOKENS tokens each, of which BURST are published
 * at a time and so share a packet.  Packets go from one end to the other by a
 * copy that no carrier would make.
 *
 *	valgrind --tool=callgrind --collect-atstart=no --toggle-collect=server_side \
 *		count_wire NR IDS TOKENS BURST
 *
 * counts the server's end alone, --toggle-collect=client_side the client's.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "runtime/wire/client.h"
#include "runtime/wire/server.h"

#define NR_SLOTS 256u
#define MTU 1452u

static struct fh_slot slots[NR_SLOTS];
static struct fhw_sreq request;
static bool runs;
static uint32_t nr_tokens, tail, head;
static struct fhw_server *srv;
static struct fhw_client *cl;
static uint64_t now_us = 1000000;
static uint8_t kept[MTU + 2];

static struct fhw_sreq *get(void *ctx)
{
	(void)ctx;
	request.slots = slots;
	request.nr_slots = NR_SLOTS;
	tail = head = 0;
	return &request;
}

static void put(void *ctx, struct fhw_sreq *r)
{
	(void)ctx;
	(void)r;
}

static void begin(void *ctx, struct fhw_sreq *r)
{
	(void)ctx;
	runs = true;
	fhw_server_message_read(srv, r);
}

static void credit(void *ctx, struct fhw_sreq *r)
{
	(void)ctx;
	head = r->head;
}

static void release(void *ctx, struct fh_dgram *d)
{
	(void)ctx;
	(void)d;
}

static void make_random(void *ctx, void *out, size_t n)
{
	(void)ctx;
	memset(out, 7, n);
}

static const struct fhw_server_ops ops = {.get = get,
					  .put = put,
					  .begin = begin,
					  .cancel = put,
					  .credit = credit,
					  .release = release,
					  .random = make_random};

/* ---- what is counted ---- */

void server_side(struct fh_dgram *in, struct fh_dgram *out, bool *any);
void client_side(struct fh_dgram *in, struct fh_dgram *out, bool *any);

/* Take @in, if there is one, and say something, if there is something to say. */
__attribute__((noinline)) void server_side(struct fh_dgram *in, struct fh_dgram *out, bool *any)
{
	if (in)
		fhw_server_recv(srv, in, now_us);
	fhw_server_tick(srv, now_us);
	*any = fhw_server_next(srv, out, now_us);
}

__attribute__((noinline)) void client_side(struct fh_dgram *in, struct fh_dgram *out, bool *any)
{
	if (in)
		fhw_client_recv(cl, in, now_us);
	fhw_client_tick(cl, now_us);
	*any = fhw_client_next(cl, out, now_us);
}

/* ---- the network and the engine ---- */

static void flatten(struct fh_dgram *d)
{
	if (!d->tail)
		return;
	memcpy(d->data + d->bytes, d->tail->base, d->tail->bytes);
	d->bytes += d->tail->bytes;
	d->tail->done(d->tail);
	d->tail = NULL;
}

/* Until neither has anything to say. */
static void talk(void)
{
	static uint8_t to_server[MTU + 2], to_client[MTU + 2];
	struct fh_dgram up = {.data = to_server + 2, .room = MTU}, down = {.data = to_client + 2, .room = MTU}, in;
	bool any_up, any_down = false;

	do {
		in = down;
		client_side(any_down ? &in : NULL, &up, &any_up);
		up.peer.port = 2;
		/* Kept where it lies, as a carrier would. */
		if (any_up)
			memcpy(kept + 2, up.data, up.bytes);
		in = up;
		in.data = kept + 2;
		server_side(any_up ? &in : NULL, &down, &any_down);
		flatten(&down);
		down.peer.port = 1;
		now_us += 10;
	} while (any_up || any_down);
}

static void publish(uint32_t burst)
{
	for (uint32_t i = 0; i < burst && tail < nr_tokens && tail - head < NR_SLOTS; i++, tail++)
		slots[tail % NR_SLOTS] = (struct fh_slot){.token = tail,
							  .stamp = tail + 1,
							  .flags = tail + 1 == nr_tokens ? FH_SLOT_LAST : 0,
							  .finish = tail + 1 == nr_tokens ? FH_FINISH_LENGTH : 0};
	fhw_server_tokens(srv, &request, tail);
	if (tail < nr_tokens)
		return;
	runs = false;
	fhw_server_done(srv, &request, NULL);
}

static bool open_both(void)
{
	static const uint8_t secret[2][32] = {{1}, {2}};
	static uint8_t clients[1][FHW_KEY_BYTES];
	struct fhw_server_config sc = {.ops = &ops,
				       .nr_clients = 1,
				       .welcome = {.mtu = MTU, .nr_slots = NR_SLOTS, .max_requests = 4},
				       .max_held = 4};
	struct fhw_client_config cc = {.mtu = MTU, .max_requests = 4, .random = make_random};
	struct fh_err err;

	if (fhw_crypt_init())
		return false;
	fhw_keypair_from(secret[0], &sc.key);
	fhw_keypair_from(secret[1], &cc.key);
	memcpy(cc.server, sc.key.public, sizeof(cc.server));
	memcpy(clients[0], cc.key.public, sizeof(clients[0]));
	sc.clients = (const uint8_t(*)[FHW_KEY_BYTES])clients;
	cc.peer.port = 1;
	if (fhw_server_create(&sc, &srv, &err) || fhw_client_create(&cc, &cl, &err))
		return false;
	fhw_client_start(cl, now_us);
	talk();
	return fhw_client_state(cl) == FHW_CLIENT_OPEN;
}

/* One request to its end. The number of tokens that came. */
static uint32_t run(const uint32_t *ids, uint32_t nr_ids, uint32_t burst)
{
	struct fh_req_desc d = {.max_tokens = nr_tokens};
	struct fhw_token t = {0};
	uint32_t id, got = 0;

	if (fhw_client_submit(cl, &d, ids, nr_ids * 4, 0, now_us, &id))
		return 0;
	talk();
	for (int i = 0; i < 1000000; i++) {
		if (runs)
			publish(burst);
		talk();
		while (fhw_client_pop(cl, &t)) {
			got++;
			if (t.is_end || t.slot.flags & FH_SLOT_LAST) {
				fhw_client_ack(cl, now_us);
				talk();
				return got;
			}
		}
		now_us += 100;
	}
	return 0;
}

int main(int argc, char **argv)
{
	uint32_t nr, nr_ids, burst;
	uint32_t *ids;

	if (argc != 5) {
		fprintf(stderr, "usage: count_wire NR IDS TOKENS BURST\n");
		return 2;
	}
	nr = (uint32_t)atoi(argv[1]);
	nr_ids = (uint32_t)atoi(argv[2]);
	nr_tokens = (uint32_t)atoi(argv[3]);
	burst = (uint32_t)atoi(argv[4]);
	ids = calloc(nr_ids, sizeof(*ids));
	if (!ids || !open_both()) {
		fprintf(stderr, "count_wire: no session\n");
		return 1;
	}
	for (uint32_t i = 0; i < nr; i++) {
		uint32_t got = run(ids, nr_ids, burst);

		if (got != nr_tokens) {
			fprintf(stderr, "count_wire: %u tokens of %u\n", got, nr_tokens);
			return 1;
		}
	}
	free(ids);
	fhw_client_destroy(cl);
	fhw_server_destroy(srv);
	return 0;
}
