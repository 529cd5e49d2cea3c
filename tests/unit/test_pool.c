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

/* More than a share's 16 bits hold */
static void add_item(void *ctx, uint32_t thread, uint32_t item)
{
	(void)thread;
	atomic_fetch_add_explicit(&((_Atomic uint8_t *)ctx)[item], 1, memory_order_relaxed);
}

Test(pool, many_items)
{
	const uint32_t nr = 3 * 65536 + 7;
	_Atomic uint8_t *runs = calloc(nr, 1);
	struct fh_pool *p;

	cr_assert_eq(fh_pool_create(3, &p), 0);
	fh_pool_run(p, nr, add_item, runs);
	for (uint32_t i = 0; i < nr; i++)
		cr_assert_eq(runs[i], 1, "item %u ran %u times", i, runs[i]);
	fh_pool_destroy(p);
	free(runs);
}

struct span {
	uint32_t first[3], nr[3];
};

static void note_item(void *ctx, uint32_t thread, uint32_t item)
{
	struct span *s = ctx;

	if (!s->nr[thread]++)
		s->first[thread] = item;
	usleep(item < 10 ? 3000 : 100); /* the first share is the slow one */
}

/* A thread begins with its own third, and a slow one's rest is taken off it. */
Test(pool, shares)
{
	struct span s = {0};
	struct fh_pool *p;

	cr_assert_eq(fh_pool_create(3, &p), 0);
	fh_pool_run(p, 30, note_item, &s);
	cr_expect_eq(s.first[0], 0);
	cr_expect_eq(s.nr[0] + s.nr[1] + s.nr[2], 30);
	cr_expect_lt(s.nr[0], 10, "nobody helped the slow thread");
	fh_pool_destroy(p);
}

/* Hints are not accesses: nonsense does no harm, and whatever was hinted, every item runs. */
Test(pool, ahead)
{
	struct job *j = calloc(1, sizeof(*j));
	const void *bad[FH_POOL_RANGES] = {(void *)8, (void *)~(uintptr_t)4095};
	struct fh_pool *p;

	cr_assert_eq(fh_pool_create(3, &p), 0);
	j->max_thread = 3;
	for (uint32_t n = 0; n < 500; n++) {
		for (uint32_t i = 0; i < 3; i++)
			fh_pool_ahead(p, i, n % 2 ? bad : (const void *const *)(const void *[]){j}, n % 2 ? 2 : 1,
				      1 << 20);
		for (uint32_t i = 0; i < MAX_ITEMS; i++)
			atomic_store_explicit(&j->runs[i], 0, memory_order_relaxed);
		fh_pool_run(p, 40, count_item, j);
		for (uint32_t i = 0; i < 40; i++)
			cr_assert_eq(atomic_load_explicit(&j->runs[i], memory_order_relaxed), 1);
	}
	fh_pool_destroy(p);
	free(j);
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
