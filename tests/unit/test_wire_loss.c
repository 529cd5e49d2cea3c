// SPDX-License-Identifier: Apache-2.0
/*
 * The wire protocol over a bad network: every request ends with exactly its
 * tokens, once and in order, or with a clear error.
 *
 * A fixed seed decides everything.  `FREEHOLD_CHECK=long` runs 10,000 requests at
 * each rate instead of a few hundred.
 */
#include "runtime/wire/client_priv.h"
#include "runtime/wire/server_priv.h"
#include "tests/unit/wire_sim.h"

struct want {
	bool open;
	uint32_t id, nr_tokens, kind, got;
	uint64_t hash;
	bool cancelled;
};

struct load {
	struct want want[32];
	uint32_t nr_open, nr_begun, nr_ended, nr_errors, nr_tokens;
};

static uint32_t nr_requests(void)
{
	const char *mode = getenv("FREEHOLD_CHECK");

	return mode && !strcmp(mode, "long") ? 10000 : 300;
}

static void submit(struct sim *s, struct load *l)
{
	static uint8_t prompt[16384];
	struct fh_req_desc d = {.user_data = 7, .temperature = 0};
	/* Most are short; some take several packets. */
	uint32_t n = 4 * (1 + sim_rand(&s->rng, sim_rand(&s->rng, 8) ? 64 : 3000)), slot = 0;
	struct want *w;

	while (l->want[slot].open)
		slot++;
	w = &l->want[slot];
	sim_random(s, prompt, n);
	*w = (struct want){.open = true, .nr_tokens = 1 + sim_rand(&s->rng, sim_rand(&s->rng, 4) ? 20 : 200)};
	w->kind = sim_rand(&s->rng, 8) ? 0 : 1 + sim_rand(&s->rng, 2);
	w->hash = sim_hash(prompt, n);
	d.max_tokens = w->nr_tokens;
	d.req_class = w->kind;
	cr_assert_eq(fhw_client_submit(s->c, &d, prompt, n, slot, s->now_us, &w->id), 0);
	l->nr_open++;
	l->nr_begun++;
}

static void end(struct load *l, struct want *w, uint32_t finish, int error)
{
	if (w->cancelled && finish == FH_FINISH_CANCELLED) {
		cr_assert_leq(w->got, w->nr_tokens);
	} else if (error == -EIO) {
		cr_assert_eq(w->kind, 2);
		cr_assert_eq(w->got, w->nr_tokens);
	} else if (error) {
		l->nr_errors++;
	} else {
		cr_assert_eq(w->got, w->nr_tokens, "%u tokens of %u, kind %u, finish %u", w->got, w->nr_tokens, w->kind,
			     finish);
	}
	w->open = false;
	l->nr_open--;
	l->nr_ended++;
}

static void take(struct sim *s, struct load *l)
{
	struct fhw_token t;

	while (fhw_client_pop(s->c, &t)) {
		struct want *w = &l->want[t.user];

		cr_assert(w->open);
		cr_assert_eq(t.request, w->id);
		if (t.is_end) {
			end(l, w, t.end.finish, t.end.error);
			continue;
		}
		cr_assert_eq(t.slot.stamp, w->got + 1);
		cr_assert_eq(t.slot.token, sim_token(w->hash, w->got));
		w->got++;
		l->nr_tokens++;
		if (t.slot.flags & FH_SLOT_LAST)
			end(l, w, t.slot.finish, 0);
	}
}

static void run(struct sim *s, struct load *l, uint32_t nr, uint64_t limit_us)
{
	uint64_t until = s->now_us + limit_us;

	while (l->nr_ended < nr && s->now_us < until) {
		while (l->nr_begun < nr && l->nr_open < 24 && fhw_client_state(s->c) != FHW_CLIENT_DEAD)
			submit(s, l);
		if (!sim_rand(&s->rng, 400)) {
			struct want *w = &l->want[sim_rand(&s->rng, 32)];

			if (w->open && !fhw_client_cancel(s->c, w->id, s->now_us))
				w->cancelled = true;
		}
		sim_turn(s, until);
		take(s, l);
		if (fhw_client_state(s->c) == FHW_CLIENT_DEAD)
			break;
	}
}

static void at_rate(uint32_t per_1000, uint32_t delay_us, bool no_aes)
{
	uint32_t nr = nr_requests();
	struct sim *s = sim_new(per_1000 + delay_us, per_1000, delay_us);
	struct fhw_server_stats st;
	struct load *l = calloc(1, sizeof(*l));

	sim_start_server(s, no_aes);
	sim_start_client(s, no_aes);
	cr_assert(sim_open(s, 20000000));
	run(s, l, nr, 3600000000u);
	fhw_server_stats(s->srv, &st);
	cr_log_info("%u in 1,000 bad, %u us: %u requests, %u tokens, %.1f s, %llu packets, %llu lost, %llu probes",
		    per_1000, delay_us, l->nr_ended, l->nr_tokens, (double)s->now_us * 1e-6,
		    (unsigned long long)s->nr_sent, (unsigned long long)st.nr_lost, (unsigned long long)st.nr_probes);
	cr_assert_eq(l->nr_ended, nr, "%u of %u requests ended", l->nr_ended, nr);
	cr_assert_eq(l->nr_errors, 0);
	cr_assert_eq(st.nr_rude, 0);
	if (per_1000 >= 100)
		cr_assert(st.nr_forged && st.nr_replayed && st.nr_lost, "the network was too kind");
	/* What is left open at the server goes, too: nothing leaks. */
	for (uint64_t until = s->now_us + 30000000; s->now_us < until;)
		sim_turn(s, until);
	fhw_server_stats(s->srv, &st);
	cr_assert_eq(st.nr_open, 0);
	cr_assert_eq(s->nr_kept, 0);
	sim_free(s);
	free(l);
}

Test(wire_loss, none)
{
	at_rate(0, 200, false);
}

Test(wire_loss, one_in_a_hundred)
{
	at_rate(10, 200, false);
}

Test(wire_loss, five_in_a_hundred_far_away)
{
	at_rate(50, 40000, true);
}

Test(wire_loss, ten_in_a_hundred)
{
	at_rate(100, 500, true);
}

Test(wire_loss, twenty_in_a_hundred)
{
	at_rate(200, 1000, false);
}

/* Keys change in mid-session, twice in each direction, on a bad network; entries sealed before are sealed anew after.
 */
Test(wire_loss, epochs)
{
	for (uint32_t epoch = 1; epoch <= 2; epoch++) {
		struct sim *s = sim_new(40 + epoch, 100, 500);
		struct load *l = calloc(1, sizeof(*l));
		uint64_t edge = (uint64_t)epoch << FHW_EPOCH_BITS;

		sim_start_server(s, epoch == 1);
		sim_start_client(s, false);
		cr_assert(sim_open(s, 20000000));
		for (uint32_t e = 1; e <= epoch; e++) {
			/* As if all the numbers up to here had been used. */
			run(s, l, l->nr_begun + 20, 60000000);
			s->c->s.flow.next_pn = ((uint64_t)e << FHW_EPOCH_BITS) - 100;
			s->srv->all->s.flow.next_pn = ((uint64_t)e << FHW_EPOCH_BITS) - 150;
			run(s, l, l->nr_begun + 60, 60000000);
		}
		cr_assert_eq(l->nr_ended, l->nr_begun);
		cr_assert_eq(l->nr_errors, 0);
		cr_assert_gt(s->c->s.flow.next_pn, edge);
		cr_assert_gt(s->srv->all->s.flow.next_pn, edge);
		sim_free(s);
		free(l);
	}
}

/* The server dies in mid-request and another takes its place: an error, and never wrong tokens. */
Test(wire_loss, restart)
{
	for (uint64_t seed = 1; seed <= 20; seed++) {
		struct sim *s = sim_new(seed, 10, 300);
		struct load *l = calloc(1, sizeof(*l));
		uint64_t killed_us;
		const char *why;

		sim_start_server(s, false);
		sim_start_client(s, false);
		cr_assert(sim_open(s, 20000000));
		run(s, l, 1000, 2000 + sim_rand(&s->rng, 20000));
		cr_assert(l->nr_open);
		sim_kill_server(s);
		memset(s->objects, 0, sizeof(s->objects));
		sim_start_server(s, false);
		killed_us = s->now_us;
		while (fhw_client_state(s->c) == FHW_CLIENT_OPEN && s->now_us < killed_us + 60000000)
			sim_turn(s, killed_us + 60000000);
		cr_assert_eq(fhw_client_error(s->c, &why), -EPIPE);
		cr_assert_leq(s->now_us - killed_us, 200000, "it took %llu us to notice",
			      (unsigned long long)(s->now_us - killed_us));
		take(s, l);
		cr_assert_eq(l->nr_open, 0);
		cr_assert_gt(l->nr_errors, 0);
		sim_free(s);
		free(l);
	}
}

/* Nobody answers any more, and nobody says so: an error within the time for it. */
Test(wire_loss, silence)
{
	struct sim *s = sim_new(3, 0, 300);
	struct load *l = calloc(1, sizeof(*l));
	uint64_t from_us;

	sim_start_server(s, false);
	sim_start_client(s, false);
	cr_assert(sim_open(s, 20000000));
	run(s, l, 1000, 5000);
	cr_assert(l->nr_open);
	s->bad_1000 = 1000;
	from_us = s->now_us;
	while (fhw_client_state(s->c) == FHW_CLIENT_OPEN && s->now_us < from_us + 60000000)
		sim_turn(s, from_us + 60000000);
	cr_assert_eq(fhw_client_error(s->c, NULL), -EPIPE);
	cr_assert_leq(s->now_us - from_us, FHW_DEAD_US + 1000);
	take(s, l);
	cr_assert_eq(l->nr_open, 0);
	/* The server gives up, too, and its requests end. */
	while (s->now_us < from_us + 3 * FHW_DEAD_US)
		sim_turn(s, from_us + 3 * FHW_DEAD_US);
	for (uint32_t i = 0; i < SIM_OBJECTS; i++)
		cr_assert(!s->objects[i].used);
	sim_free(s);
	free(l);
}

/* A deadline that the server cannot keep because it is not there. */
Test(wire_loss, deadline)
{
	struct sim *s = sim_new(4, 0, 300);
	struct fh_req_desc d = {.max_tokens = 5, .ttft_us = 300000};
	struct fhw_token t;
	uint64_t from_us;
	uint32_t id, prompt[4] = {1, 2, 3, 4};

	sim_start_server(s, false);
	sim_start_client(s, false);
	cr_assert(sim_open(s, 20000000));
	for (int alive = 1; alive >= 0; alive--) {
		/* What is on its way arrives, and is no sign of life afterwards. */
		for (from_us = s->now_us + 100000; s->now_us < from_us;)
			sim_turn(s, from_us);
		s->bad_1000 = alive ? 0 : 1000;
		from_us = s->now_us;
		cr_assert_eq(fhw_client_submit(s->c, &d, prompt, sizeof(prompt), 0, s->now_us, &id), 0);
		do
			sim_turn(s, from_us + 5000000);
		while (!fhw_client_pop(s->c, &t) && s->now_us < from_us + 5000000);
		cr_assert_eq(t.request, id);
		cr_assert_eq(t.is_end, !alive);
		if (!alive) {
			cr_assert(t.end.finish == FH_FINISH_ERROR && t.end.error == -ETIMEDOUT);
			cr_assert(s->now_us - from_us >= 300000 && s->now_us - from_us < 310000);
		}
		while (alive && !(t.slot.flags & FH_SLOT_LAST)) {
			sim_turn(s, from_us + 5000000);
			fhw_client_pop(s->c, &t);
		}
	}
	/* The server comes back: it is told that nobody wants the request, and nothing more comes of it. */
	s->bad_1000 = 0;
	for (uint64_t until = s->now_us + 3000000; s->now_us < until;) {
		sim_turn(s, until);
		cr_assert(!fhw_client_pop(s->c, &t));
	}
	cr_assert_eq(fhw_client_state(s->c), FHW_CLIENT_OPEN);
	for (uint32_t i = 0; i < SIM_OBJECTS; i++)
		cr_assert(!s->objects[i].used);
	sim_free(s);
}

/* More requests at once than a key may have: the others are refused and may come again, none is lost. */
Test(wire_loss, requests_of_a_key)
{
	struct sim *s = sim_new(9, 20, 300);
	struct fh_req_desc d = {.max_tokens = 3};
	uint32_t id, prompt[4] = {1, 2, 3, 4}, nr_refused = 0, nr_ended = 0, nr = 0;
	uint64_t until = s->now_us + 60000000;
	struct fhw_token t;

	s->max_client_requests = 5;
	sim_start_server(s, false);
	sim_start_client(s, false);
	cr_assert(sim_open(s, 20000000));
	while (nr_ended < 200 && s->now_us < until) {
		while (nr < 200 && !fhw_client_submit(s->c, &d, prompt, sizeof(prompt), 0, s->now_us, &id))
			nr++;
		sim_turn(s, until);
		while (fhw_client_pop(s->c, &t)) {
			nr_ended += t.is_end || t.slot.flags & FH_SLOT_LAST;
			nr_refused += t.is_end;
			if (t.is_end)
				cr_assert(t.end.error == -EAGAIN && t.end.retry_us);
		}
	}
	cr_assert_eq(nr_ended, 200);
	cr_assert(nr_refused > 20 && nr_refused < 195, "%u refused", nr_refused);
	sim_free(s);
}

/* A key may have so many sessions: those that were left behind make room, those in use do not. */
Test(wire_loss, sessions_of_a_key)
{
	struct sim *s = sim_new(8, 0, 300);
	struct fhw_client *kept[3];
	struct fhw_server_stats st;

	s->max_client_sessions = 3;
	sim_start_server(s, false);
	for (int i = 0; i < 10; i++) {
		s->client_addr.port = (uint16_t)(10 + i);
		sim_start_client(s, false);
		if (i < 3) {
			cr_assert(sim_open(s, 20000000));
			kept[i] = s->c;
		} else {
			/* All three were heard just now. */
			cr_assert(!sim_open(s, 3000000));
			cr_assert_eq(fhw_client_error(s->c, NULL), -EDQUOT);
			fhw_client_destroy(s->c);
		}
		s->c = NULL;
		if (i == 3)
			break;
	}
	for (int i = 0; i < 3; i++)
		fhw_client_destroy(kept[i]);
	/* They were not closed, and yet others find a place later. */
	for (int i = 0; i < 5; i++) {
		for (uint64_t until = s->now_us + 6000000; s->now_us < until;)
			sim_turn(s, until);
		s->client_addr.port = (uint16_t)(50 + i);
		sim_start_client(s, false);
		cr_assert(sim_open(s, 20000000));
		fhw_client_destroy(s->c);
		s->c = NULL;
	}
	fhw_server_stats(s->srv, &st);
	cr_assert_leq(st.nr_sessions, 3);
	sim_free(s);
}

/* Nothing is ever sent to an address that did not prove itself but what is shorter than what came from it. */
Test(wire_loss, amplification)
{
	struct sim *s = sim_new(5, 0, 300);
	uint8_t buf[SIM_BYTES];
	struct fh_dgram d = {.data = buf + 2, .room = SIM_BYTES - 2};
	uint64_t in = 0, out = 0;

	sim_start_server(s, false);
	sim_start_client(s, false);
	cr_assert(fhw_client_next(s->c, &d, s->now_us));
	/* The same INIT from a hundred addresses, none of which answers a cookie. */
	for (int i = 0; i < 100; i++) {
		struct fh_dgram got = d;
		uint8_t copy[SIM_BYTES];

		memcpy(copy + 2, d.data, d.bytes);
		got.data = copy + 2;
		got.peer.port = (uint16_t)(1000 + i);
		in += got.bytes;
		fhw_server_recv(s->srv, &got, s->now_us);
		got = (struct fh_dgram){.data = copy + 2, .room = SIM_BYTES - 2};
		while (fhw_server_next(s->srv, &got, s->now_us)) {
			cr_assert_eq(got.data[0], FHW_RETRY);
			out += got.bytes;
		}
	}
	cr_assert_gt(out, 0);
	cr_assert_leq(out * 3, in);
	sim_free(s);
}

/* A path that large datagrams do not pass: the handshake finds the size that does. */
Test(wire_loss, small_path)
{
	struct sim *s = sim_new(6, 0, 300);
	struct load *l = calloc(1, sizeof(*l));

	s->mtu_limit = 1300;
	sim_start_server(s, false);
	sim_start_client(s, false);
	cr_assert(sim_open(s, 20000000));
	cr_assert_eq(fhw_client_welcome(s->c)->mtu, FH_DGRAM_MIN_MTU);
	run(s, l, 100, 60000000);
	cr_assert_eq(l->nr_ended, 100);
	cr_assert_eq(l->nr_errors, 0);
	sim_free(s);
	free(l);
}

/* Between two requests nobody calls the client for a while: the second one comes to its tokens all the same. */
Test(wire_loss, idle)
{
	static const uint64_t pauses_us[] = {1000000, 4000000, 6000000, 30000000, 700000000};

	for (uint64_t seed = 1; seed <= 5; seed++) {
		struct sim *s = sim_new(seed, 50, 300);
		struct load *l = calloc(1, sizeof(*l));
		struct fhw_client *c;

		sim_start_server(s, false);
		sim_start_client(s, false);
		cr_assert(sim_open(s, 20000000));
		for (uint32_t i = 0; i < 10; i++) {
			uint64_t until;

			run(s, l, l->nr_begun + 3, 60000000);
			cr_assert_eq(l->nr_ended, 3 * (i + 1));
			until = s->now_us + pauses_us[i % 5];
			c = s->c;
			s->c = NULL;
			while (s->now_us < until)
				sim_turn(s, until);
			s->c = c;
		}
		cr_assert_eq(l->nr_errors, 0);
		sim_free(s);
		free(l);
	}
}
