// SPDX-License-Identifier: Apache-2.0
/*
 * The compute threads.
 *
 * One 64-bit word, the ticket, holds the job's number (high half) and how many
 * of its items are unclaimed (low half).  A thread loads the ticket, reads the
 * job's fields, and claims an item by compare-and-swap of the whole word.
 * The caller changes the fields only after every item of the previous job is
 * done, when the low half is 0; so a claim that succeeds proves that the
 * fields read before it were those of the ticket's job.  A late thread can
 * therefore never run an item of one job with the function of another.
 *
 * Sleeping: a worker counts itself in `sleepers` and looks at the ticket again
 * before it waits on `wake`; the caller stores the ticket and then looks at
 * `sleepers` (both sequentially consistent), so one of the two sees the other.
 * The same holds between the caller, which waits on `pending`, and the thread
 * that finishes the last item.
 */
#include <errno.h>
#include <linux/futex.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "runtime/accel/pool.h"
#include "runtime/base/clock.h"

#define SPIN_NS 30000	     /* an idle worker, before it sleeps */
#define SPIN_CALLER_NS 50000 /* the caller, waiting for the last items; about an item */
#define SPIN_CHECK 64	     /* looks at the ticket between two looks at the clock */

struct worker {
	struct fh_pool *pool;
	uint32_t index;
	pthread_t thread;
};

struct fh_pool {
	_Alignas(64) _Atomic uint64_t ticket;  /* job number << 32 | unclaimed items */
	_Alignas(64) _Atomic uint32_t pending; /* unfinished items */
	_Atomic uint32_t caller_sleeps;
	_Alignas(64) _Atomic uint32_t sleepers;
	_Atomic uint32_t wake;
	_Atomic bool stop;
	/* The job; see above for when they may be read. */
	_Alignas(64) _Atomic uint32_t nr_items;
	_Atomic(fh_pool_fn) fn;
	_Atomic(void *) ctx;

	uint32_t nr_threads;
	struct worker workers[]; /* [nr_threads - 1] */
};

static void futex_wait(_Atomic uint32_t *word, uint32_t value)
{
	syscall(SYS_futex, word, FUTEX_WAIT_PRIVATE, value, NULL, NULL, 0);
}

static void futex_wake(_Atomic uint32_t *word, int nr)
{
	syscall(SYS_futex, word, FUTEX_WAKE_PRIVATE, nr, NULL, NULL, 0);
}

static inline void relax(void)
{
#if defined(__x86_64__)
	__builtin_ia32_pause();
#elif defined(__aarch64__)
	__asm__ volatile("yield");
#endif
}

/* Claim and run items until the job has none left. */
static void work(struct fh_pool *p, uint32_t thread)
{
	uint64_t t = atomic_load_explicit(&p->ticket, memory_order_acquire);

	while ((uint32_t)t) {
		uint32_t nr = atomic_load_explicit(&p->nr_items, memory_order_relaxed);
		fh_pool_fn fn = atomic_load_explicit(&p->fn, memory_order_relaxed);
		void *ctx = atomic_load_explicit(&p->ctx, memory_order_relaxed);

		if (!atomic_compare_exchange_weak_explicit(&p->ticket, &t, t - 1, memory_order_acq_rel,
							   memory_order_acquire))
			continue;
		fn(ctx, thread, nr - (uint32_t)t);
		if (atomic_fetch_sub(&p->pending, 1) == 1 && atomic_load(&p->caller_sleeps))
			futex_wake(&p->pending, 1);
		t = atomic_load_explicit(&p->ticket, memory_order_acquire);
	}
}

/* Wait until there may be work. */
static void worker_idle(struct fh_pool *p)
{
	uint64_t until = fh_now_ns() + SPIN_NS;
	uint32_t seen;

	do {
		for (int i = 0; i < SPIN_CHECK; i++) {
			if ((uint32_t)atomic_load_explicit(&p->ticket, memory_order_relaxed) ||
			    atomic_load_explicit(&p->stop, memory_order_relaxed))
				return;
			relax();
		}
	} while (fh_now_ns() < until);

	seen = atomic_load(&p->wake);
	atomic_fetch_add(&p->sleepers, 1);
	if (!(uint32_t)atomic_load(&p->ticket) && !atomic_load(&p->stop))
		futex_wait(&p->wake, seen);
	atomic_fetch_sub(&p->sleepers, 1);
}

static void *worker_main(void *arg)
{
	struct worker *w = arg;
	char name[16];

	snprintf(name, sizeof(name), "fh-compute-%u", w->index & 0xfff);
	pthread_setname_np(pthread_self(), name);
	while (!atomic_load(&w->pool->stop)) {
		work(w->pool, w->index);
		worker_idle(w->pool);
	}
	return NULL;
}

static void wait_done(struct fh_pool *p)
{
	uint64_t until = 0;
	uint32_t left;

	while ((left = atomic_load_explicit(&p->pending, memory_order_acquire)) != 0) {
		uint64_t now = fh_now_ns();

		if (!until)
			until = now + SPIN_CALLER_NS;
		if (now < until) {
			for (int i = 0; i < SPIN_CHECK && atomic_load_explicit(&p->pending, memory_order_relaxed); i++)
				relax();
			continue;
		}
		/* Somebody lost its core: give this one back until it is done. */
		atomic_store(&p->caller_sleeps, 1);
		left = atomic_load(&p->pending);
		if (left)
			futex_wait(&p->pending, left);
		atomic_store(&p->caller_sleeps, 0);
	}
}

void fh_pool_run(struct fh_pool *p, uint32_t nr_items, fh_pool_fn fn, void *ctx)
{
	uint64_t job = (atomic_load_explicit(&p->ticket, memory_order_relaxed) >> 32) + 1;
	uint32_t sleepers;

	if (!nr_items)
		return;
	if (p->nr_threads == 1 || nr_items == 1) {
		for (uint32_t i = 0; i < nr_items; i++)
			fn(ctx, 0, i);
		return;
	}
	atomic_store_explicit(&p->nr_items, nr_items, memory_order_relaxed);
	atomic_store_explicit(&p->fn, fn, memory_order_relaxed);
	atomic_store_explicit(&p->ctx, ctx, memory_order_relaxed);
	atomic_store_explicit(&p->pending, nr_items, memory_order_relaxed);
	atomic_store(&p->ticket, job << 32 | nr_items);
	sleepers = atomic_load(&p->sleepers);
	if (sleepers) {
		atomic_fetch_add(&p->wake, 1);
		futex_wake(&p->wake, (int)(sleepers < nr_items - 1 ? sleepers : nr_items - 1));
	}
	work(p, 0);
	wait_done(p);
}

int fh_pool_create(uint32_t nr_threads, struct fh_pool **out)
{
	sigset_t all, old;
	struct fh_pool *p;
	size_t bytes = sizeof(*p) + (nr_threads - 1) * sizeof(p->workers[0]);
	uint32_t nr = 0;
	int rc = 0;

	p = aligned_alloc(64, (bytes + 63) / 64 * 64);
	if (!p)
		return -ENOMEM;
	memset(p, 0, bytes);
	/* Signals are the main thread's business. */
	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &old);
	for (; nr + 1 < nr_threads && !rc; nr++) {
		p->workers[nr] = (struct worker){.pool = p, .index = nr + 1};
		rc = -pthread_create(&p->workers[nr].thread, NULL, worker_main, &p->workers[nr]);
		if (rc)
			break;
	}
	pthread_sigmask(SIG_SETMASK, &old, NULL);
	p->nr_threads = nr + 1;
	if (rc) {
		fh_pool_destroy(p);
		return rc;
	}
	*out = p;
	return 0;
}

void fh_pool_destroy(struct fh_pool *p)
{
	if (!p)
		return;
	atomic_store(&p->stop, true);
	atomic_fetch_add(&p->wake, 1);
	futex_wake(&p->wake, (int)p->nr_threads);
	for (uint32_t i = 0; i + 1 < p->nr_threads; i++)
		pthread_join(p->workers[i].thread, NULL);
	free(p);
}

uint32_t fh_pool_nr_threads(const struct fh_pool *p)
{
	return p->nr_threads;
}

/* First line of a small file; false when there is none. */
static bool read_line(const char *path, char *buf, int cap)
{
	FILE *f = fopen(path, "re");
	bool ok;

	if (!f)
		return false;
	ok = fgets(buf, cap, f);
	fclose(f);
	return ok;
}

/* CPUs that cpu.max of a version 2 control group @path, and of those above it, allows; 0: no limit. */
static double quota_v2(char *path)
{
	char file[600], line[128];
	double least = 0;
	char *slash;

	for (;;) {
		double quota, period;

		snprintf(file, sizeof(file), "/sys/fs/cgroup%s/cpu.max", path);
		if (read_line(file, line, sizeof(line)) && sscanf(line, "%lf %lf", &quota, &period) == 2 && quota > 0 &&
		    period > 0 && (least == 0 || quota / period < least))
			least = quota / period;
		slash = strrchr(path, '/');
		if (!slash)
			return least;
		*slash = '\0';
	}
}

static double cpu_quota(void)
{
	char line[512], path[512] = "";
	double quota, period;
	FILE *f;

	f = fopen("/proc/self/cgroup", "re");
	if (f) {
		while (fgets(line, sizeof(line), f))
			if (sscanf(line, "0::%511[^\n]", path) == 1)
				break;
		fclose(f);
	}
	quota = quota_v2(path);
	if (quota > 0)
		return quota;
	/* Version 1, as containers see it. */
	if (read_line("/sys/fs/cgroup/cpu/cpu.cfs_quota_us", line, sizeof(line)) && sscanf(line, "%lf", &quota) == 1 &&
	    quota > 0 && read_line("/sys/fs/cgroup/cpu/cpu.cfs_period_us", line, sizeof(line)) &&
	    sscanf(line, "%lf", &period) == 1 && period > 0)
		return quota / period;
	return 0;
}

uint32_t fh_pool_default_threads(void)
{
	long nr = sysconf(_SC_NPROCESSORS_ONLN);
	double quota = cpu_quota();
	cpu_set_t set;

	if (!sched_getaffinity(0, sizeof(set), &set))
		nr = CPU_COUNT(&set);
	if (quota > 0 && quota < (double)nr)
		nr = (long)(quota + 0.5);
	if (nr < 1)
		nr = 1;
	return nr > 1024 ? 1024 : (uint32_t)nr;
}
