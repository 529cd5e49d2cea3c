// SPDX-License-Identifier: Apache-2.0
/*
 * What a request over /dev/freehold costs in instructions, from its submission
 * to its last token in the client's hands: client, kernel, module and daemon,
 * with the model that costs nothing.  For a machine whose time stamp counter
 * counts instructions (tests/vm/qemu.sh serve-cost): one core, so that all that
 * runs in between is counted.  A line a figure, as tests/abi/cost.c has them.
 *
 * Both sides sleep when a request begins, and the client sleeps whenever it
 * has nothing to read: the kicks are in the figures.  It has precedence, so
 * that each kick lets it run at once: left to the kernel's fairness, whether a
 * token wakes it or several do changes from boot to boot, and the figure with
 * it.  Each is the least of some tries; interrupts can only add.
 */
#include <sched.h>
#include <x86intrin.h>

#include "tests/vm/serve.h"

#define TRIES 60
#define MORE 256

static uint64_t now(void)
{
	uint64_t t;

	_mm_lfence();
	t = __rdtsc();
	_mm_lfence();
	return t;
}

static uint64_t request(struct ring *r, uint32_t nr_prompt, uint32_t nr_tokens, unsigned int pause_us)
{
	struct fh_req_desc d = ring_desc(nr_prompt, nr_tokens, FH_REQ_IGNORE_EOS);
	uint32_t *ids = (uint32_t *)r->c.area[FH_AREA_ARENA], got = 0;
	struct fh_cqe e = {0};
	uint64_t begin;

	d.flags &= ~(uint32_t)FH_REQ_TEXT;
	d.prompt_bytes = nr_prompt * 4;
	for (uint32_t i = 0; i < nr_prompt; i++)
		ids[i] = 1000 + i;
	/* The daemon goes to sleep. */
	nap_us(pause_us);
	begin = now();
	ring_publish(r, &d);
	while (!(e.slot.flags & FH_SLOT_LAST)) {
		CHECK(ring_next(r, &e, 60000) && !e.error);
		got += !(e.slot.flags & FH_SLOT_NO_TOKEN);
	}
	begin = now() - begin;
	/* The model echoes: it did read the prompt. */
	CHECK(got == nr_tokens && e.slot.token == 1000 + (nr_tokens - 1) % nr_prompt);
	return begin;
}

static uint64_t least(struct ring *r, uint32_t nr_prompt, uint32_t nr_tokens)
{
	uint64_t best = UINT64_MAX, n;

	for (int i = 0; i < TRIES; i++) {
		/* At another time between two ticks of the kernel each. */
		n = request(r, nr_prompt, nr_tokens, 20000 + (unsigned int)i * 70);
		best = n < best ? n : best;
	}
	return best;
}

TEST(cost_of_requests)
{
	const char *model = getenv("FH_MODEL");
	char spec[512];
	const char *const args[] = {"--model",
				    spec,
				    "--threads",
				    "1",
				    "--ctx",
				    "2048",
				    "--prefill-chunk",
				    "512",
				    "--step-tokens",
				    "1024",
				    "--speculate",
				    "off",
				    "--log-level",
				    "info",
				    NULL};
	const struct sched_param first = {.sched_priority = 1};
	uint64_t one, prompt, tokens;
	struct daemon d;
	struct ring r;

	CHECK(model);
	snprintf(spec, sizeof(spec), "null:%s", model);
	daemon_start(&d, args);
	CHECK(ring_open(&r, 1024) == 0);
	CHECK(sched_setscheduler(0, SCHED_FIFO, &first) == 0);
	/* The first ones are dearer: pages are touched, the daemon has just begun. */
	least(&r, 1, 1);
	one = least(&r, 1, 1);
	prompt = least(&r, 1 + MORE, 1);
	tokens = least(&r, 1, 1 + MORE);
	printf("COST request %llu\n", (unsigned long long)one);
	printf("COST request_of_%d_prompt_tokens %llu\n", 1 + MORE, (unsigned long long)prompt);
	printf("COST request_of_%d_tokens %llu\n", 1 + MORE, (unsigned long long)tokens);
	ring_close(&r);
	daemon_stop(&d);
}
