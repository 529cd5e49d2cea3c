// SPDX-License-Identifier: Apache-2.0
/*
 * The compute threads.
 *
 * A job's items are shared out evenly, a run of neighbours to each thread, so
 * that a thread reads memory from one end of its share to the other.  Whoever
 * has finished its own takes from the end of the largest share left: a thread
 * that lost its core costs the item in its hands and no more.
 *
 * A share is one 64-bit word: the job's number (high half), the next item and
 * the end (16 bits each).  A thread loads the word, reads the job's fields, and
 * claims an item, the first of its own share or the last of another's, by
 * compare-and-swap of the whole word.  The caller changes the fields only after
 * every item of the previous job is done, when all shares are empty; so a claim
 * that succeeds proves that the fields read before it were those of the share's
 * job.  A late thread can therefore never run an item of one job with the
 * function of another.
 *
 * Sleeping: a worker counts itself in `sleepers` and looks at the job's number
 * again before it waits on `wake`; the caller stores the number and then looks
 * at `sleepers` (both sequentially consistent), so one of the two sees the
 * other.  The same holds between the caller, which waits on `pending`, and the
 * thread that finishes the last item.
 */
#include <assert.h>
#include <errno.h>
#include <linux/futex.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "runtime/accel/pool.h"
#include "runtime/base/clock.h"
#include "runtime/base/thread.h"

#define SPIN_NS 30000	     /* an idle worker, before it sleeps */
#define SPIN_CALLER_NS 50000 /* the caller, waiting for the last items; about an item */
#define SPIN_CHECK 64	     /* looks at the job between two looks at the clock */
#define MAX_ITEMS 0xffffu    /* of one job; what is more runs as another */
#define AHEAD_BYTES 1024     /* of each range, between two looks at the job */

struct worker {
	struct fh_pool *pool;
	uint32_t index;
	pthread_t thread;
};

/* What is left of a thread's items, on a line of its own. */
struct share {
	_Alignas(64) _Atomic uint64_t word; /* job number << 32 | end << 16 | next */
};

/* What a thread prefetches while it waits. Only hints: a mix of two of them does no harm. */
struct ahead {
	_Alignas(64) _Atomic uintptr_t at[FH_POOL_RANGES];
	_Atomic size_t left; /* bytes of each range */
};

struct fh_pool {
	_Alignas(64) _Atomic uint32_t job;     /* its number; 0 before the first */
	_Alignas(64) _Atomic uint32_t pending; /* unfinished items */
	_Atomic uint32_t caller_sleeps;
	_Alignas(64) _Atomic uint32_t sleepers;
	_Atomic uint32_t wake;
	_Atomic bool stop;
	/* The job; see above for when they may be read. */
	_Alignas(64) _Atomic uint32_t first; /* number of its first item */
	_Atomic(fh_pool_fn) fn;
	_Atomic(void *) ctx;

	uint32_t nr_threads;
	uint32_t nr_workers;	 /* that were started */
	struct share *shares;	 /* [nr_threads] */
	struct ahead *ahead;	 /* [nr_threads] */
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

static inline uint32_t next_of(uint64_t word)
{
	return word & 0xffff;
}

static inline uint32_t end_of(uint64_t word)
{
	return word >> 16 & 0xffff;
}

static inline uint32_t left_in(uint64_t word)
{
	return end_of(word) - next_of(word);
}

/* Claim an item of the share whose word was @w and run it; false: somebody else was faster. */
static bool claim(struct fh_pool *p, uint32_t thread, struct share *s, uint64_t w, bool own)
{
	uint32_t first = atomic_load_explicit(&p->first, memory_order_relaxed);
	fh_pool_fn fn = atomic_load_explicit(&p->fn, memory_order_relaxed);
	void *ctx = atomic_load_explicit(&p->ctx, memory_order_relaxed);
	uint64_t to = own ? w + 1 : w - (1u << 16);

	if (!atomic_compare_exchange_strong_explicit(&s->word, &w, to, memory_order_acq_rel, memory_order_relaxed))
		return false;
	fn(ctx, thread, first + (own ? next_of(w) : end_of(to)));
	if (atomic_fetch_sub(&p->pending, 1) == 1 && atomic_load(&p->caller_sleeps))
		futex_wake(&p->pending, 1);
	return true;
}

/* The share of another thread with the most left; NULL: nobody has any. */
static struct share *largest(struct fh_pool *p, uint64_t *word)
{
	struct share *best = NULL;

	for (uint32_t i = 0; i < p->nr_threads; i++) {
		uint64_t w = atomic_load_explicit(&p->shares[i].word, memory_order_acquire);

		if (left_in(w) && (!best || left_in(w) > left_in(*word))) {
			best = &p->shares[i];
			*word = w;
		}
	}
	return best;
}

/* Claim and run items until the job has none left. */
static void work(struct fh_pool *p, uint32_t thread)
{
	struct share *own = &p->shares[thread], *s;
	uint64_t w;

	for (;;) {
		w = atomic_load_explicit(&own->word, memory_order_acquire);
		if (left_in(w)) {
			claim(p, thread, own, w, true);
			continue;
		}
		s = largest(p, &w);
		if (!s)
			return;
		claim(p, thread, s, w, false);
	}
}

void fh_pool_ahead(struct fh_pool *p, uint32_t thread, const void *const *ranges, uint32_t nr_ranges, size_t bytes)
{
	struct ahead *a = &p->ahead[thread];

	assert(nr_ranges <= FH_POOL_RANGES);
	atomic_store_explicit(&a->left, 0, memory_order_relaxed);
	for (uint32_t i = 0; i < FH_POOL_RANGES; i++)
		atomic_store_explicit(&a->at[i], i < nr_ranges ? (uintptr_t)ranges[i] : 0, memory_order_relaxed);
	atomic_store_explicit(&a->left, bytes, memory_order_relaxed);
}

/* Fetch a little of it; false: all is there. */
static bool look_ahead(struct fh_pool *p, uint32_t thread)
{
	struct ahead *a = &p->ahead[thread];
	size_t left = atomic_load_explicit(&a->left, memory_order_relaxed);

	if (left < AHEAD_BYTES)
		return false;
	atomic_store_explicit(&a->left, left - AHEAD_BYTES, memory_order_relaxed);
	for (uint32_t i = 0; i < FH_POOL_RANGES; i++) {
		uintptr_t at = atomic_load_explicit(&a->at[i], memory_order_relaxed);

		if (!at)
			break;
		for (uint32_t b = 0; b < AHEAD_BYTES; b += 64)
			__builtin_prefetch((const void *)(at + b), 0, 2);
		atomic_store_explicit(&a->at[i], at + AHEAD_BYTES, memory_order_relaxed);
	}
	return true;
}

/* Wait until there may be work. */
static void worker_idle(struct fh_pool *p, uint32_t thread, uint32_t seen_job)
{
	uint64_t until = fh_now_ns() + SPIN_NS;
	uint32_t seen;

	do {
		for (int i = 0; i < SPIN_CHECK; i++) {
			if (atomic_load_explicit(&p->job, memory_order_relaxed) != seen_job ||
			    atomic_load_explicit(&p->stop, memory_order_relaxed))
				return;
			if (!look_ahead(p, thread))
				relax();
		}
	} while (fh_now_ns() < until);

	seen = atomic_load(&p->wake);
	atomic_fetch_add(&p->sleepers, 1);
	if (atomic_load(&p->job) == seen_job && !atomic_load(&p->stop))
		futex_wait(&p->wake, seen);
	atomic_fetch_sub(&p->sleepers, 1);
}

static void *worker_main(void *arg)
{
	struct worker *w = arg;

	while (!atomic_load(&w->pool->stop)) {
		/* Read before its items are looked for: a job that comes later is seen as new. */
		uint32_t job = atomic_load(&w->pool->job);

		work(w->pool, w->index);
		worker_idle(w->pool, w->index, job);
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
				if (!look_ahead(p, 0))
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

/* Items @first .. @first + nr_items - 1 */
static void run_some(struct fh_pool *p, uint32_t first, uint32_t nr_items, fh_pool_fn fn, void *ctx)
{
	uint32_t job = atomic_load_explicit(&p->job, memory_order_relaxed) + 1, sleepers, at = 0;

	atomic_store_explicit(&p->first, first, memory_order_relaxed);
	atomic_store_explicit(&p->fn, fn, memory_order_relaxed);
	atomic_store_explicit(&p->ctx, ctx, memory_order_relaxed);
	atomic_store_explicit(&p->pending, nr_items, memory_order_relaxed);
	for (uint32_t i = 0; i < p->nr_threads; i++) {
		uint32_t end = (uint32_t)((uint64_t)nr_items * (i + 1) / p->nr_threads);

		atomic_store_explicit(&p->shares[i].word, (uint64_t)job << 32 | end << 16 | at, memory_order_release);
		at = end;
	}
	atomic_store(&p->job, job);
	sleepers = atomic_load(&p->sleepers);
	if (sleepers) {
		atomic_fetch_add(&p->wake, 1);
		futex_wake(&p->wake, (int)(sleepers < nr_items - 1 ? sleepers : nr_items - 1));
	}
	work(p, 0);
	wait_done(p);
}

void fh_pool_run(struct fh_pool *p, uint32_t nr_items, fh_pool_fn fn, void *ctx)
{
	if (p->nr_threads == 1 || nr_items == 1) {
		for (uint32_t i = 0; i < nr_items; i++)
			fn(ctx, 0, i);
		return;
	}
	for (uint32_t first = 0, nr; first < nr_items; first += nr) {
		nr = nr_items - first < MAX_ITEMS ? nr_items - first : MAX_ITEMS;
		run_some(p, first, nr, fn, ctx);
	}
}

int fh_pool_create(uint32_t nr_threads, struct fh_pool **out)
{
	struct fh_pool *p;
	char name[16];
	size_t bytes = sizeof(*p) + (nr_threads - 1) * sizeof(p->workers[0]);
	size_t shares_at = (bytes + 63) / 64 * 64, ahead_at = shares_at + nr_threads * sizeof(struct share);
	uint32_t nr = 0;
	int rc = 0;

	bytes = ahead_at + nr_threads * sizeof(struct ahead);
	p = aligned_alloc(64, bytes);
	if (!p)
		return -ENOMEM;
	memset(p, 0, bytes);
	p->shares = (struct share *)((char *)p + shares_at);
	p->ahead = (struct ahead *)((char *)p + ahead_at);
	p->nr_threads = nr_threads;
	for (; nr + 1 < nr_threads; nr++) {
		p->workers[nr] = (struct worker){.pool = p, .index = nr + 1};
		snprintf(name, sizeof(name), "fh-compute-%u", (nr + 1) & 0xfff);
		rc = fh_thread_start(&p->workers[nr].thread, name, worker_main, &p->workers[nr]);
		if (rc)
			break;
	}
	p->nr_workers = nr;
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
	for (uint32_t i = 0; i < p->nr_workers; i++)
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
