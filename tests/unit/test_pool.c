// SPDX-License-Identifier: Apache-2.0
/*
 * The compute threads: every item of every job runs exactly once, with that
 * job's function and context, whoever sleeps, wakes or comes late.  Made for
 * ThreadSanitizer as much as for what it asserts.
 */
#include <criterion/criterion.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <unistd.h>

#include "runtime/accel/pool.h"

#define MAX_ITEMS 512u

struct job {
	uint32_t number;
	_Atomic uint32_t runs[MAX_ITEMS];
	uint32_t result[MAX_ITEMS]; /* plain: the pool orders these */
	uint32_t max_thread;
	bool slow;
};

static void count_item(void *ctx, uint32_t thread, uint32_t item)
{
	struct job *j = ctx;

	cr_assert_lt(thread, j->max_thread);
	atomic_fetch_add_explicit(&j->runs[item], 1, memory_order_relaxed);
	j->result[item] = j->number + item;
	if (j->slow && item % 16 == 3)
		usleep(200); /* a thread that lost its core */
}

static void check_jobs(uint32_t nr_threads, uint32_t nr_jobs, bool slow)
{
	struct job *j = calloc(1, sizeof(*j));
	struct fh_pool *p;

	cr_assert_eq(fh_pool_create(nr_threads, &p), 0);
	cr_assert_eq(fh_pool_nr_threads(p), nr_threads);
	j->max_thread = nr_threads;
	j->slow = slow;
	for (uint32_t n = 0; n < nr_jobs; n++) {
		uint32_t items = n * 37 % (slow ? 40 : MAX_ITEMS) + (n % 5 != 0);

		j->number = n;
		for (uint32_t i = 0; i < MAX_ITEMS; i++)
			atomic_store_explicit(&j->runs[i], 0, memory_order_relaxed);
		fh_pool_run(p, items, count_item, j);
		for (uint32_t i = 0; i < MAX_ITEMS; i++)
			cr_assert_eq(atomic_load_explicit(&j->runs[i], memory_order_relaxed), i < items);
		for (uint32_t i = 0; i < items; i++)
			cr_assert_eq(j->result[i], n + i);
		if (n % 100 == 99)
			usleep(n % 200 == 99 ? 20 : 200); /* awake, then asleep */
	}
	fh_pool_destroy(p);
	free(j);
}

Test(pool, one_thread)
{
	check_jobs(1, 100, false);
}

Test(pool, three_threads)
{
	check_jobs(3, 3000, false);
}

Test(pool, more_threads_than_cores)
{
	check_jobs(9, 300, false);
}

Test(pool, slow_threads)
{
	check_jobs(3, 200, true);
}

Test(pool, destroyed_at_once)
{
	for (int i = 0; i < 50; i++) {
		struct fh_pool *p;

		cr_assert_eq(fh_pool_create(4, &p), 0);
		fh_pool_destroy(p);
	}
}

Test(pool, default_threads)
{
	uint32_t nr = fh_pool_default_threads();

	cr_assert(nr >= 1 && nr <= 1024, "%u", nr);
}
