// SPDX-License-Identifier: Apache-2.0
/* The in-process front end itself: its calls, its texts, and its manners towards the engine. */
#include "runtime/base/clock.h"
#include "tests/unit/engine_oracle.h"

Test(fake, a_call_may_be_used_again)
{
	struct job *j = calloc(1, sizeof(*j));
	struct fh_err err = {0};
	struct rng r = {5};
	struct rig g;

	rig_open(&g, rig_config());
	for (int i = 0; i < 50; i++) {
		job_random(j, &r, 30, 90);
		j->call.req.sampling.nr_top = i % 3;
		cr_assert_eq(fh_fake_run(g.f, &j->call, &err), 0, "%s", err.msg);
		job_check(j, 1024);
		cr_assert(j->call.req.first_token_ns >= j->call.submit_ns || !j->nr_out);
		cr_assert_geq(j->call.req.done_ns, j->call.submit_ns);
		cr_assert_null(j->call.req.slots, "the fake's slots are gone with the call");
	}
	rig_close(&g);
	free(j->text);
	free(j);
}

/* Nothing that nobody reads: no callbacks at all. */
Test(fake, callbacks_are_optional)
{
	struct fh_fake_call call;
	const uint32_t prompt[] = {9, 10, 11};
	struct fh_err err = {0};
	struct rig g;

	rig_open(&g, rig_config());
	fh_fake_call_init(&call);
	call.req.prompt = prompt;
	call.req.nr_prompt = 3;
	call.req.max_tokens = 200;
	call.req.min_tokens = 200;
	cr_assert_eq(fh_fake_run(g.f, &call, &err), 0);
	cr_assert(call.done);
	cr_assert_eq(call.finish, FH_FINISH_LENGTH);
	cr_assert_eq(call.req.nr_generated, 200);
	rig_close(&g);
}

static int stop_at_five(void *ctx, const struct fh_slot *slot, const struct fh_top *top)
{
	(void)ctx;
	(void)top;
	return slot->stamp >= 5;
}

Test(fake, a_callback_may_cancel)
{
	struct fh_fake_call call;
	const uint32_t prompt[] = {9, 10, 11};
	struct fh_err err = {0};
	struct rig g;

	rig_open(&g, rig_config());
	fh_fake_call_init(&call);
	call.req.prompt = prompt;
	call.req.nr_prompt = 3;
	call.req.max_tokens = call.req.min_tokens = 200;
	call.req.nr_slots = 4;
	call.on_slot = stop_at_five;
	cr_assert_eq(fh_fake_run(g.f, &call, &err), 0);
	cr_assert_eq(call.finish, FH_FINISH_CANCELLED);
	cr_assert_lt(call.req.nr_generated, 20);
	rig_close(&g);
}

/* The slots belong to the caller where the caller brings them. */
Test(fake, slots_of_the_caller)
{
	static struct fh_slot slots[8];
	struct fh_fake_call call;
	const uint32_t prompt[] = {9, 10, 11};
	struct fh_err err = {0};
	struct rig g;

	rig_open(&g, rig_config());
	fh_fake_call_init(&call);
	call.req.prompt = prompt;
	call.req.nr_prompt = 3;
	call.req.max_tokens = call.req.min_tokens = 20;
	call.req.slots = slots;
	call.req.nr_slots = 8;
	cr_assert_eq(fh_fake_run(g.f, &call, &err), 0);
	cr_assert_eq(call.req.slots, slots);
	cr_assert_eq(slots[19 % 8].stamp, 20);
	cr_assert(slots[19 % 8].flags & FH_SLOT_LAST);
	rig_close(&g);
}

/* One token, there and back between two threads: the wake-ups work, and none is lost. */
Test(fake, round_trips_between_threads)
{
	struct fh_fake_call call;
	const uint32_t prompt[] = {9, 10, 11};
	struct fh_err err = {0};
	struct rig g;

	rig_open(&g, rig_config());
	fh_fake_set_pump(g.f, NULL, NULL);
	cr_assert_eq(fh_engine_start(g.e, &err), 0);
	for (int i = 0; i < 2000; i++) {
		fh_fake_call_init(&call);
		call.req.prompt = prompt;
		call.req.nr_prompt = 3;
		call.req.max_tokens = call.req.min_tokens = 1;
		cr_assert_eq(fh_fake_run(g.f, &call, &err), 0);
		if (i % 100 == 0) {
			/* Long enough for both sides to fall asleep. */
			const struct timespec nap = {.tv_nsec = 1000000};

			nanosleep(&nap, NULL);
		}
	}
	fh_engine_stop(g.e, 100);
	rig_close(&g);
}
