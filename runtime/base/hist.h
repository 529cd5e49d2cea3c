/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A histogram of times, as Prometheus wants it: counts under fixed bounds from
 * 10 us to 100 s in steps of 1, 2 and 5, and the sum.
 *
 * One thread adds; any thread reads.  Counters are relaxed atomics, so a
 * reader may see an addition in the count and not yet in the sum.
 */
#ifndef FH_BASE_HIST_H
#define FH_BASE_HIST_H

#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>

#define FH_HIST_BOUNDS 22

struct fh_hist {
	_Atomic uint64_t nr[FH_HIST_BOUNDS + 1]; /* the last: above all bounds */
	_Atomic uint64_t sum_ns;
};

/* Upper bound of bucket @i, inclusive. */
static inline uint64_t fh_hist_bound_ns(unsigned int i)
{
	static const uint64_t bound_us[FH_HIST_BOUNDS] = {
		10,    20,     50,     100,    200,	500,	 1000,	  2000,	    5000,     10000,	20000,
		50000, 100000, 200000, 500000, 1000000, 2000000, 5000000, 10000000, 20000000, 50000000, 100000000};

	return bound_us[i] * 1000;
}

/* Single writer: a load and a store do, no locked instruction is needed. */
static inline void fh_hist_add(struct fh_hist *h, uint64_t ns)
{
	/* By the highest bit of @ns: the first bound that is no less than that bit alone; two more at most are below
	 * @ns. */
	static const uint8_t first[64] = {
		0,  0,	0,  0,	0,  0,	0,  0,	0,  0,	0,  0,	0,  0,	1,  2,	3,  4,	5,  6,	7,  8,
		8,  9,	10, 11, 12, 13, 14, 15, 16, 17, 17, 18, 19, 20, 21, 22, 22, 22, 22, 22, 22, 22,
		22, 22, 22, 22, 22, 22, 22, 22, 22, 22, 22, 22, 22, 22, 22, 22, 22, 22, 22, 22,
	};
	unsigned int i = first[63 - __builtin_clzll(ns | 1)];

	while (i < FH_HIST_BOUNDS && ns > fh_hist_bound_ns(i))
		i++;
	atomic_store_explicit(&h->nr[i], atomic_load_explicit(&h->nr[i], memory_order_relaxed) + 1,
			      memory_order_relaxed);
	atomic_store_explicit(&h->sum_ns, atomic_load_explicit(&h->sum_ns, memory_order_relaxed) + ns,
			      memory_order_relaxed);
}

static inline uint64_t fh_hist_count(const struct fh_hist *h)
{
	uint64_t nr = 0;

	for (unsigned int i = 0; i <= FH_HIST_BOUNDS; i++)
		nr += atomic_load_explicit(&h->nr[i], memory_order_relaxed);
	return nr;
}

/* Its counts as they were at one moment, or between two. */
struct fh_hist_view {
	uint64_t nr[FH_HIST_BOUNDS + 1];
};

static inline void fh_hist_view(const struct fh_hist *h, struct fh_hist_view *out)
{
	for (unsigned int i = 0; i <= FH_HIST_BOUNDS; i++)
		out->nr[i] = atomic_load_explicit(&h->nr[i], memory_order_relaxed);
}

static inline uint64_t fh_hist_view_count(const struct fh_hist_view *v)
{
	uint64_t nr = 0;

	for (unsigned int i = 0; i <= FH_HIST_BOUNDS; i++)
		nr += v->nr[i];
	return nr;
}

/* The time below which the share @q (0..1) of the values lies, to the width of a bucket; 0 when empty. */
static inline uint64_t fh_hist_view_quantile_ns(const struct fh_hist_view *v, double q)
{
	double want = q * (double)fh_hist_view_count(v), below = 0;

	for (unsigned int i = 0; i < FH_HIST_BOUNDS; i++) {
		double nr = (double)v->nr[i];
		double from = i ? (double)fh_hist_bound_ns(i - 1) : 0;

		if (nr > 0 && below + nr >= want)
			return (uint64_t)(from + ((double)fh_hist_bound_ns(i) - from) * (want - below) / nr);
		below += nr;
	}
	return below < want ? fh_hist_bound_ns(FH_HIST_BOUNDS - 1) : 0;
}

static inline uint64_t fh_hist_quantile_ns(const struct fh_hist *h, double q)
{
	struct fh_hist_view v;

	fh_hist_view(h, &v);
	return fh_hist_view_quantile_ns(&v, q);
}

/* Append as a Prometheus histogram in seconds. */
static inline void fh_hist_print(const struct fh_hist *h, const char *name, const char *help, FILE *out)
{
	uint64_t nr = 0;

	fprintf(out, "# HELP %s %s\n# TYPE %s histogram\n", name, help, name);
	for (unsigned int i = 0; i <= FH_HIST_BOUNDS; i++) {
		nr += atomic_load_explicit(&h->nr[i], memory_order_relaxed);
		if (i < FH_HIST_BOUNDS)
			fprintf(out, "%s_bucket{le=\"%g\"} %llu\n", name, (double)fh_hist_bound_ns(i) / 1e9,
				(unsigned long long)nr);
	}
	fprintf(out, "%s_bucket{le=\"+Inf\"} %llu\n%s_sum %.9g\n%s_count %llu\n", name, (unsigned long long)nr, name,
		(double)atomic_load_explicit(&h->sum_ns, memory_order_relaxed) / 1e9, name, (unsigned long long)nr);
}

#endif /* FH_BASE_HIST_H */
