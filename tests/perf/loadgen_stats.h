/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Latencies: exact quantiles of an array, and a histogram where an array would
 * be too long.
 */
#ifndef TESTS_PERF_LOADGEN_STATS_H
#define TESTS_PERF_LOADGEN_STATS_H

#include <stdint.h>
#include <stdlib.h>

/* Durations: 16 buckets to each power of two of nanoseconds. */
struct hist {
	uint64_t n[64 * 16];
	uint64_t total, max;
	double sum;
};

static inline unsigned int bucket(uint64_t ns)
{
	unsigned int top = 63 - (unsigned int)__builtin_clzll(ns | 16);

	return (top - 4) * 16 + (unsigned int)(ns >> (top - 4));
}

static inline void hist_add(struct hist *h, uint64_t ns)
{
	h->n[bucket(ns)]++;
	h->total++;
	h->sum += (double)ns;
	if (ns > h->max)
		h->max = ns;
}

/* The middle of the bucket that holds quantile @q. */
static inline double hist_quantile_ns(const struct hist *h, double q)
{
	uint64_t want = (uint64_t)(q * (double)h->total), seen = 0;

	for (unsigned int i = 0; i < sizeof(h->n) / sizeof(h->n[0]) && h->total; i++) {
		seen += h->n[i];
		if (seen > want || (seen == h->total && seen))
			return i < 32 ? i : ((double)(16 + i % 16) + 0.5) * (double)(1ULL << (i / 16 - 1));
	}
	return 0;
}

static inline int by_size(const void *a, const void *b)
{
	uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;

	return x < y ? -1 : x > y;
}

/* Quantile @q of @n sorted values, in ms: the smallest that so many are not above (nearest rank). */
static inline double quantile_ms(const uint64_t *v, uint32_t n, double q)
{
	uint32_t rank = (uint32_t)(q * n);

	if (n == 0)
		return 0;
	if (rank < q * n)
		rank++;
	return (double)v[rank ? (rank > n ? n - 1 : rank - 1) : 0] / 1e6;
}

struct summary {
	double mean, p50, p90, p99, p999, max; /* ms */
};

static inline struct summary summarise(uint64_t *v, uint32_t n)
{
	struct summary s = {0};

	qsort(v, n, sizeof(*v), by_size);
	for (uint32_t i = 0; i < n; i++)
		s.mean += (double)v[i] / 1e6 / n;
	s.p50 = quantile_ms(v, n, 0.5);
	s.p90 = quantile_ms(v, n, 0.9);
	s.p99 = quantile_ms(v, n, 0.99);
	s.p999 = quantile_ms(v, n, 0.999);
	s.max = n ? (double)v[n - 1] / 1e6 : 0;
	return s;
}

#endif /* TESTS_PERF_LOADGEN_STATS_H */
