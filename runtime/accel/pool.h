/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The compute threads: the caller and nr_threads - 1 workers that share out
 * numbered items of one job at a time.
 *
 * Each thread begins with a run of neighbouring items and claims them one by
 * one; whoever is done claims the others' last ones.  So a thread whose core is
 * taken away costs the item in its hands and no more, and a job never waits for
 * a worker that has claimed nothing.  Whoever has nothing to do spins for some
 * microseconds and then sleeps on a futex.
 */
#ifndef FH_ACCEL_POOL_H
#define FH_ACCEL_POOL_H

#include <stddef.h>
#include <stdint.h>

struct fh_pool;

/* @thread: 0 for the caller, 1.. for workers. */
typedef void (*fh_pool_fn)(void *ctx, uint32_t thread, uint32_t item);

/* As many as the affinity mask and the CPU quotas of this process' control groups allow; at least 1. */
uint32_t fh_pool_default_threads(void);

/* 0, -ENOMEM or what pthread_create() says; @nr_threads >= 1 counts the caller. */
int fh_pool_create(uint32_t nr_threads, struct fh_pool **out);
void fh_pool_destroy(struct fh_pool *p);
uint32_t fh_pool_nr_threads(const struct fh_pool *p);

/*
 * Run fn(ctx, thread, item) for every item below @nr_items and return when all
 * are done; what they wrote is then visible here.  One thread at a time calls
 * this.  Allocates nothing; makes no system call while the workers are awake.
 */
void fh_pool_run(struct fh_pool *p, uint32_t nr_items, fh_pool_fn fn, void *ctx);

/*
 * What @thread will read first in the next job: @bytes of each of @nr_ranges <=
 * FH_POOL_RANGES places.  While it waits, for a job or for the end of one, it
 * brings that into its cache.  A hint, never an access: a stale or unmapped
 * address does no harm.  Called by the thread that calls fh_pool_run().
 */
#define FH_POOL_RANGES 2
void fh_pool_ahead(struct fh_pool *p, uint32_t thread, const void *const *ranges, uint32_t nr_ranges, size_t bytes);

#endif /* FH_ACCEL_POOL_H */
