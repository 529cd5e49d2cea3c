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
