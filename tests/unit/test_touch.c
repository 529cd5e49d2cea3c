// SPDX-License-Identifier: Apache-2.0
/* Memory that is touched ahead of its use: so much of it, no more, and nothing in it changes. */
#include <criterion/criterion.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#include "runtime/base/region.h"
#include "runtime/engine/touch.h"

enum { MIB = 1 << 20 };

/* Bytes of it that are in memory. */
static size_t present(const uint8_t *base, size_t bytes)
{
	size_t page = (size_t)sysconf(_SC_PAGESIZE), nr = bytes / page, sum = 0;
	unsigned char *in = malloc(nr);

	cr_assert(in && !mincore((void *)base, bytes, in));
	for (size_t i = 0; i < nr; i++)
		sum += in[i] & 1;
	free(in);
	return sum * page;
}

/* Wait until @bytes are there, for a minute at most; what is there then. */
static size_t wait_for(const uint8_t *base, size_t all, size_t bytes)
{
	const struct timespec tick = {.tv_nsec = 2000000};
	size_t n = 0;

	for (int i = 0; i < 30000 && (n = present(base, all)) < bytes; i++)
		nanosleep(&tick, NULL);
	return n;
}

/* With huge pages a piece may be there as a whole, and the last one a little later than it is counted. */
static void expect(const struct fh_region *r, size_t bytes)
{
	size_t n = wait_for(r->base, r->bytes, bytes);

	cr_assert_geq(n, bytes, "%zu MiB of %zu", n / MIB, bytes / MIB);
	usleep(20000);
	n = present(r->base, r->bytes);
	cr_assert_leq(n, bytes + FH_TOUCH_PIECE_BYTES, "%zu MiB, not %zu", n / MIB, bytes / MIB);
}

Test(touch, stays_so_far_ahead_of_what_is_in_use)
{
	struct fh_region r;
	struct fh_touch t;

	cr_assert_eq(fh_region_alloc(&r, 2ul * FH_TOUCH_AHEAD_BYTES, FH_REGION_HUGE, NULL), 0);
	if (r.huge == FH_HUGE_TLB)
		cr_skip_test("reserved huge pages are in memory from the start");
	memset(r.base, 0x5a, MIB);
	fh_touch_start(&t, r.base, r.bytes);
	expect(&r, FH_TOUCH_AHEAD_BYTES);
	/* Not for every little bit. */
	fh_touch_used(&t, FH_TOUCH_WAKE_BYTES - 1);
	expect(&r, FH_TOUCH_AHEAD_BYTES);
	fh_touch_used(&t, FH_TOUCH_WAKE_BYTES);
	expect(&r, FH_TOUCH_AHEAD_BYTES + FH_TOUCH_WAKE_BYTES);
	/* Past the end there is none. */
	fh_touch_used(&t, r.bytes);
	expect(&r, r.bytes);
	fh_touch_stop(&t);
	for (size_t i = 0; i < r.bytes; i++)
		cr_assert_eq(r.base[i], i < MIB ? 0x5a : 0, "byte %zu", i);
	fh_region_free(&r);
}

Test(touch, ends_at_any_time)
{
	struct fh_region r;

	cr_assert_eq(fh_region_alloc(&r, 2ul * FH_TOUCH_AHEAD_BYTES, FH_REGION_HUGE, NULL), 0);
	for (int i = 0; i < 200; i++) {
		struct fh_touch t;

		fh_touch_start(&t, r.base, r.bytes);
		fh_touch_used(&t, (size_t)(i % 5) * FH_TOUCH_WAKE_BYTES);
		if (i % 3 == 0)
			usleep(i);
		fh_touch_stop(&t);
	}
	fh_region_free(&r);
}

Test(touch, no_memory_no_thread)
{
	struct fh_touch t;

	fh_touch_start(&t, NULL, 0);
	cr_assert_not(t.runs);
	fh_touch_used(&t, MIB);
	fh_touch_stop(&t);
}
