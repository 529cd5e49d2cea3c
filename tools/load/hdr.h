/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Times, where an array of them would be too long: buckets whose width is at
 * most 1/128 of their value (high dynamic range), from 1 ns to 584 years, and
 * the exact sum, smallest and largest.  64 KiB; one thread.
 */
#ifndef FH_TOOLS_LOAD_HDR_H
#define FH_TOOLS_LOAD_HDR_H

#include <math.h>
#include <stdint.h>

#define LOAD_HDR_BITS 7u /* buckets to a power of two: 128 */
#define LOAD_HDR_BUCKETS ((65 - LOAD_HDR_BITS) << LOAD_HDR_BITS)

struct load_hdr {
	uint64_t nr[LOAD_HDR_BUCKETS];
	uint64_t total, min, max;
	double sum, sum2; /* of the values and of their squares */
};

static inline uint32_t load_hdr_bucket(uint64_t ns)
{
	uint32_t top = 63 - (uint32_t)__builtin_clzll(ns | 1), shift = top > LOAD_HDR_BITS ? top - LOAD_HDR_BITS : 0;

	return (shift << LOAD_HDR_BITS) + (uint32_t)(ns >> shift);
}

/* The least value of bucket @i; that of the next one is where it ends. */
static inline uint64_t load_hdr_from(uint32_t i)
{
	uint32_t shift = i >> LOAD_HDR_BITS;

	if (shift < 2)
		return i;
	return (uint64_t)((1u << LOAD_HDR_BITS) + (i & ((1u << LOAD_HDR_BITS) - 1))) << (shift - 1);
}

static inline void load_hdr_add(struct load_hdr *h, uint64_t ns)
{
	h->nr[load_hdr_bucket(ns)]++;
	h->min = h->total++ && h->min < ns ? h->min : ns;
	h->max = h->max > ns ? h->max : ns;
	h->sum += (double)ns;
	h->sum2 += (double)ns * (double)ns;
}

/* The value that the share @q (0..1) lies below: right to 1/256 of itself. 0 when empty. */
static inline double load_hdr_quantile(const struct load_hdr *h, double q)
{
	double rank = q * (double)(h->total ? h->total - 1 : 0), v;
	uint64_t seen = 0;

	for (uint32_t i = 0; i < LOAD_HDR_BUCKETS && h->total; i++) {
		seen += h->nr[i];
		if ((double)seen <= rank)
			continue;
		v = ((double)load_hdr_from(i) + (double)load_hdr_from(i + 1) - 1) / 2;
		return v < (double)h->min ? (double)h->min : v > (double)h->max ? (double)h->max : v;
	}
	return (double)h->max;
}

static inline double load_hdr_mean(const struct load_hdr *h)
{
	return h->total ? h->sum / (double)h->total : 0;
}

static inline double load_hdr_std(const struct load_hdr *h)
{
	double mean = load_hdr_mean(h), var = h->total ? h->sum2 / (double)h->total - mean * mean : 0;

	return var > 0 ? sqrt(var) : 0;
}

#endif /* FH_TOOLS_LOAD_HDR_H */
