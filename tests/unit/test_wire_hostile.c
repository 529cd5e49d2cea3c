// SPDX-License-Identifier: Apache-2.0
/*
 * The wire protocol with a slow carrier, a client that hoards and a server that
 * is broken: nobody else suffers from it, and nothing waits for ever.
 */
#include "runtime/wire/client_priv.h"
#include "runtime/wire/server_priv.h"
#include "tests/unit/wire_sim.h"

static struct sim *opened(uint64_t seed)
{
	struct sim *s = sim_new(seed, 0, 300);

	sim_start_server(s, false);
	sim_start_client(s, false);
	cr_assert(sim_open(s, 20000000));
	return s;
}

static uint32_t submit(struct sim *s, uint32_t nr_tokens, uint32_t bytes)
{
	static const uint32_t prompt[16384];
	struct fh_req_desc d = {.max_tokens = nr_tokens};
	uint32_t id;

	cr_assert_eq(fhw_client_submit(s->c, &d, prompt, bytes, 0, s->now_us, &id), 0);
	return id;
}

static void go_on(struct sim *s, uint64_t us)
{
	for (uint64_t until = s->now_us + us; s->now_us < until;)
		sim_turn(s, until);
}

/* Read for so long, or until the end. The tokens that came. */
static uint32_t read_for(struct sim *s, uint64_t us, bool *ended)
{
	uint64_t until = s->now_us + us;
	struct fhw_token t;
	uint32_t nr = 0;

	*ended = false;
	while (!*ended && s->now_us < until) {
		sim_turn(s, until);
		while (!*ended && fhw_client_pop(s->c, &t)) {
			nr += !t.is_end;
			*ended = t.is_end || t.slot.flags & FH_SLOT_LAST;
		}
	}
	return nr;
}

/* All was acknowledged and read while the carrier still held the packets: the ring is given back afterwards. */
Test(wire_hostile, slow_carrier)
{
	struct sim *s = opened(1);
	bool ended;
	uint32_t nr;

	submit(s, 4 * SIM_SLOTS, 64);
	s->tails_at_us = s->now_us + 1000000;
	nr = read_for(s, 900000, &ended);
	cr_assert(!ended && nr == SIM_SLOTS, "%u tokens", nr);
	nr += read_for(s, 9000000, &ended);
	cr_assert(ended && nr == 4 * SIM_SLOTS, "%u tokens", nr);
	sim_free(s);
}

/* A message that never becomes whole: its memory is free when the request ends, not when the client has heard of it. */
Test(wire_hostile, half_a_message)
{
	struct sim *s = opened(2);
	uint64_t until = s->now_us + 1000000;
	const struct fhw_sreq *r;
	uint32_t id = submit(s, 1, 49152);

	while (!s->srv->gathered_now && s->now_us < until)
		sim_turn(s, until);
	cr_assert(s->srv->gathered_now >= 49152);
	s->mtu_limit = 1000;
	cr_assert_eq(fhw_client_cancel(s->c, id, s->now_us), 0);
	r = s->srv->all->reqs;
	while (!r->ended && s->now_us < until)
		sim_turn(s, until);
	cr_assert(r->ended && s->srv->st.nr_open == 1);
	cr_assert_eq(s->srv->gathered_now, 0);
	cr_assert_eq(s->srv->use[0].gathered, 0);
	go_on(s, 100000);
	cr_assert_eq(s->srv->st.nr_open, 0);
	sim_free(s);
}

/* There is room for two, but not for two of one key. */
Test(wire_hostile, large_messages_of_a_key)
{
	struct sim *s = sim_new(3, 0, 300);
	uint64_t until = s->now_us + 5000000;
	uint32_t nr_ended = 0, nr_refused = 0;
	struct fhw_token t;

	s->max_gathered_bytes = 100000;
	sim_start_server(s, false);
	sim_start_client(s, false);
	cr_assert(sim_open(s, 20000000));
	submit(s, 1, 49152);
	submit(s, 1, 49152);
	while (nr_ended + nr_refused < 2 && s->now_us < until) {
		sim_turn(s, until);
		while (fhw_client_pop(s->c, &t)) {
			nr_refused += t.is_end && t.end.error == -EAGAIN && t.end.retry_us;
			nr_ended += !t.is_end && t.slot.flags & FH_SLOT_LAST;
		}
	}
	cr_assert(nr_ended == 1 && nr_refused == 1, "%u, %u refused", nr_ended, nr_refused);
	go_on(s, 100000);
	cr_assert(!s->srv->gathered_now && !s->srv->use[0].gathered);
	sim_free(s);
}

static void say_tokens(struct sim *s, uint32_t id, uint32_t seq, uint32_t nr)
{
	struct fhw_hdr h = {.kind = FHW_TOKENS, .request = id, .seq = seq};
	struct fh_slot slots[SIM_SLOTS] = {0};

	for (uint32_t i = 0; i < nr; i++)
		slots[i] = (struct fh_slot){.token = seq + i, .stamp = seq + i + 1};
	fhw_creq_tokens(s->c, &h, (const uint8_t *)slots, nr * (uint32_t)sizeof(*slots));
}

static void say_end(struct sim *s, uint32_t id, uint32_t seq)
{
	struct fhw_hdr h = {.kind = FHW_END, .request = id, .seq = seq};
	struct fhw_end e = {.finish = FH_FINISH_STOP};

	fhw_creq_end(s->c, &h, &e);
}

static uint32_t pop_all(struct sim *s, bool *ended)
{
	struct fhw_token t;
	uint32_t nr = 0;

	*ended = false;
	while (fhw_client_pop(s->c, &t)) {
		cr_assert(!*ended, "more behind the end");
		*ended = t.is_end;
		nr += !t.is_end;
	}
	return nr;
}

/* An end is reached, wherever a broken server says that it lies. */
Test(wire_hostile, ends)
{
	struct sim *s = opened(4);
	bool ended;
	uint32_t id = submit(s, 1, 64);

	/* Slots that come behind it. */
	say_end(s, id, 0);
	say_tokens(s, id, 0, 3);
	cr_assert_eq(pop_all(s, &ended), 0);
	cr_assert(ended);
	/* Slots that are there already. */
	id = submit(s, 1, 64);
	say_tokens(s, id, 0, 5);
	say_end(s, id, 2);
	cr_assert_eq(pop_all(s, &ended), 2);
	cr_assert(ended);
	/* In what was read. */
	id = submit(s, 1, 64);
	say_tokens(s, id, 0, 5);
	cr_assert_eq(pop_all(s, &ended), 5);
	cr_assert(!ended);
	say_end(s, id, 2);
	cr_assert_eq(pop_all(s, &ended), 0);
	cr_assert(ended);
	/* Nothing of them is left in the ring. */
	id = submit(s, 1, 64);
	say_end(s, id, 7);
	say_tokens(s, id, 0, 7);
	cr_assert_eq(pop_all(s, &ended), 7);
	cr_assert(ended);
	sim_free(s);
}

/* A client that is there and reads nothing holds no request for ever; a slow one is served to the end. */
Test(wire_hostile, readers)
{
	struct sim *s = opened(5);
	uint32_t nr = 0, nr_used = 0;
	struct fhw_token t;
	bool ended = false;

	submit(s, 4 * SIM_SLOTS, 64);
	go_on(s, 55000000);
	cr_assert_eq(s->srv->st.nr_open, 1);
	/* It reads a little, and has as long again. */
	for (uint32_t i = 0; i < SIM_SLOTS / 4; i++)
		cr_assert(fhw_client_pop(s->c, &t));
	go_on(s, 55000000);
	cr_assert_eq(s->srv->st.nr_open, 1);
	go_on(s, 10000000);
	cr_assert_eq(s->srv->st.nr_open, 0);
	for (uint32_t i = 0; i < SIM_OBJECTS; i++)
		nr_used += s->objects[i].used;
	cr_assert_eq(nr_used, 0);
	cr_assert_eq(fhw_client_state(s->c), FHW_CLIENT_OPEN);
	while (fhw_client_pop(s->c, &t))
		cr_assert(!t.is_end || t.end.finish == FH_FINISH_CANCELLED);
	cr_assert(t.is_end);
	submit(s, 4 * SIM_SLOTS, 64);
	while (!ended && nr < 4 * SIM_SLOTS) {
		go_on(s, 3000000);
		cr_assert(fhw_client_pop(s->c, &t));
		nr += !t.is_end;
		ended = t.is_end || t.slot.flags & FH_SLOT_LAST;
	}
	cr_assert(ended && nr == 4 * SIM_SLOTS, "%u tokens", nr);
	sim_free(s);
}

/* One that is heard, but does not acknowledge what it is told, goes. */
Test(wire_hostile, deaf)
{
	struct sim *s = opened(6);
	struct fhw_srv_session *ss = s->srv->all;

	submit(s, 1, 64);
	for (uint64_t until = s->now_us + 58000000; s->now_us < until;) {
		sim_turn(s, s->now_us + 100000);
		if (ss->reqs && ss->reqs->ended)
			break;
	}
	cr_assert(ss->reqs && ss->reqs->ended);
	for (uint32_t i = 0; i < 590; i++) {
		s->now_us += 100000;
		ss->s.flow.last_us = s->now_us;
		fhw_server_tick(s->srv, s->now_us);
	}
	cr_assert(!ss->dead);
	for (uint32_t i = 0; i < 20 && s->srv->all; i++) {
		s->now_us += 100000;
		ss->s.flow.last_us = s->now_us;
		fhw_server_tick(s->srv, s->now_us);
	}
	cr_assert(!s->srv->all || ss->dead);
	sim_free(s);
}

static void let_nothing_through(struct sim *s)
{
	for (uint32_t i = 0; i < s->nr_flying; i++)
		free(s->flying[i].data);
	s->nr_flying = 0;
}

static bool to_client(const struct sim *s)
{
	for (uint32_t i = 0; i < s->nr_flying; i++)
		if (!s->flying[i].to_server)
			return true;
	return false;
}

/* The server alone for @us, whose packets are all lost. */
static void alone(struct sim *s, uint64_t us)
{
	struct fhw_client *c = s->c;

	s->c = NULL;
	for (uint64_t until = s->now_us + us; s->now_us < until;) {
		sim_turn(s, until);
		let_nothing_through(s);
	}
	s->c = c;
}

/*
 * What ended is no request any more while its last packet, or the word that it
 * came, is lost: it is sent again from what was kept of it, until the client
 * says so.
 */
Test(wire_hostile, last_packet_lost)
{
	for (int lost_ack = 0; lost_ack < 2; lost_ack++)
		for (int kind = 0; kind < 3; kind++) {
			struct sim *s = opened(20 + (uint64_t)kind);
			struct fhw_srv_session *ss = s->srv->all;
			uint32_t nr = 0, nr_used = 0;
			uint64_t until = s->now_us + 5000000;
			struct fhw_token t;
			bool ended = false;

			submit(s, 1, 64);
			while (!ss->reqs)
				sim_turn(s, s->now_us + 10);
			((struct sim_object *)ss->reqs)->kind = (uint32_t)kind;
			/* Until all is sent, and a little more: it has come, or is on its way. */
			while (!ss->reqs->ended || ss->reqs->sent != ss->reqs->tail || ss->reqs->end_owed)
				sim_turn(s, s->now_us + 10);
			while (lost_ack && to_client(s))
				sim_turn(s, s->now_us + 10);
			let_nothing_through(s);
			cr_assert_eq(s->srv->st.nr_open, 1);
			alone(s, 500000);
			cr_assert_eq(s->srv->st.nr_open, 0);
			cr_assert_gt(s->srv->st.nr_kept, 0);
			for (uint32_t i = 0; i < SIM_OBJECTS; i++)
				nr_used += s->objects[i].used;
			cr_assert_eq(nr_used, 0);
			alone(s, 5000000);
			cr_assert(!ss->dead);
			/* It is back. */
			while (s->now_us < until + 10000000 && !ended) {
				sim_turn(s, s->now_us + 1000);
				while (fhw_client_pop(s->c, &t)) {
					ended = t.is_end || t.slot.flags & FH_SLOT_LAST;
					nr += !t.is_end;
					cr_assert(!t.is_end || t.end.error == (kind == 2 ? -EIO : 0));
				}
			}
			cr_assert(ended && nr == 1, "%u tokens", nr);
			for (uint64_t end = s->now_us + 2000000; s->now_us < end;)
				sim_turn(s, end);
			cr_assert_eq(s->srv->st.nr_kept, 0);
			cr_assert(!ss->dead);
			sim_free(s);
		}
}

/* Packets to and fro at one moment, until there are none. */
static void talk(struct sim *s)
{
	uint8_t buf[SIM_BYTES];
	struct fh_dgram d;
	bool any = true;

	while (any) {
		any = false;
		d = (struct fh_dgram){.data = buf + 2, .room = SIM_BYTES - 2};
		while (fhw_client_next(s->c, &d, s->now_us)) {
			d.peer = s->client_addr;
			fhw_server_recv(s->srv, &d, s->now_us);
			any = true;
		}
		while (fhw_server_next(s->srv, &d, s->now_us)) {
			d.peer = s->server_addr;
			fhw_client_recv(s->c, &d, s->now_us);
			any = true;
		}
	}
}

/* Whoever knows the server's public key, but is on no list: it does not use up the handshakes of the others. */
Test(wire_hostile, many_handshakes_of_an_address)
{
	static const uint8_t ipv4[16] = {[10] = 0xff, 0xff, 192, 0, 2, 1}, net[16] = {0x20, 0x01, 0x0d, 0xb8};
	struct sim *s = sim_new(7, 0, 300);
	struct fhw_keypair listed = s->client_key;
	uint8_t secret[32];
	uint64_t nr_unlisted = 0;

	sim_start_server(s, false);
	for (int v6 = 0; v6 < 2; v6++) {
		memcpy(s->client_addr.ip, v6 ? net : ipv4, 16);
		sim_random(s, secret, 32);
		fhw_keypair_from(secret, &s->client_key);
		for (uint32_t i = 0; i < 150; i++) {
			s->client_addr.port = (uint16_t)(1000 + i);
			s->client_addr.ip[15] = v6 ? (uint8_t)i : 1;
			sim_start_client(s, false);
			talk(s);
			fhw_client_destroy(s->c);
			s->c = NULL;
		}
		nr_unlisted = s->srv->st.nr_unlisted - nr_unlisted;
		cr_assert_eq(nr_unlisted, 100, "%llu", (unsigned long long)nr_unlisted);
		/* Another one of the same moment. */
		s->now_us += 1000;
		s->client_key = listed;
		s->client_addr.ip[v6 ? 7 : 14] = 9;
		sim_start_client(s, false);
		talk(s);
		cr_assert_eq(fhw_client_state(s->c), FHW_CLIENT_OPEN);
		fhw_client_destroy(s->c);
		s->c = NULL;
		nr_unlisted = s->srv->st.nr_unlisted;
		s->now_us += 1000000;
	}
	sim_free(s);
}

/* Servers at one address, each behind a queue of its own, take each other's cookies; one with another key does not. */
Test(wire_hostile, cookie_of_another_queue)
{
	static const uint8_t key[2][FHW_KEY_BYTES] = {{1}, {2}};
	struct sim *s = sim_new(8, 0, 300);
	struct fhw_server *queue[3];
	uint8_t packet[1500 + 2];
	struct fh_dgram d;

	for (int i = 0; i < 3; i++) {
		s->cookie_key = key[i == 2];
		sim_start_server(s, false);
		queue[i] = s->srv;
	}
	sim_start_client(s, false);
	d = (struct fh_dgram){.data = packet + 2, .room = 1500};
	cr_assert(fhw_client_next(s->c, &d, s->now_us));
	d.peer = s->client_addr;
	fhw_server_recv(queue[0], &d, s->now_us);
	cr_assert(fhw_server_next(queue[0], &d, s->now_us));
	cr_assert_eq(d.data[0], FHW_RETRY);
	d.peer = s->server_addr;
	fhw_client_recv(s->c, &d, s->now_us);
	for (int i = 2; i > 0; i--) {
		uint8_t copy[1500 + 2];
		struct fh_dgram in;

		if (i == 2)
			cr_assert(fhw_client_next(s->c, &d, s->now_us));
		memcpy(copy, packet, sizeof(copy));
		in = d;
		in.data = copy + 2;
		in.peer = s->client_addr;
		fhw_server_recv(queue[i], &in, s->now_us);
		cr_assert(fhw_server_next(queue[i], &in, s->now_us));
		cr_assert_eq(in.data[0], i == 2 ? FHW_RETRY : FHW_RESP);
	}
	for (int i = 0; i < 2; i++)
		fhw_server_destroy(queue[i]);
	sim_free(s);
}
