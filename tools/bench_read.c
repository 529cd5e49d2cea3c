// SPDX-License-Identifier: Apache-2.0
/*
 * The read kernels of freehold bench memory.
 *
 * Each step reads four lines of 64 bytes and folds them into four sums, so that
 * no load waits for another.  With two or four streams the lines come from as
 * many places, equally far apart in the piece: more rows of memory are open and
 * more of the hardware's prefetchers run.  The width, the number of streams and
 * the prefetch instruction are constants of each function: one macro writes
 * them all, because a generic vector is lowered for the target of the function
 * that it stands in, before anything is inlined.
 */
#include "tools/bench_read.h"

#define LINE_BYTES 64u

/* Memory may be read as any of these. */
typedef uint64_t vec128 __attribute__((vector_size(16), may_alias));
#ifdef __x86_64__
typedef uint64_t vec256 __attribute__((vector_size(32), may_alias));
typedef uint64_t vec512 __attribute__((vector_size(64), may_alias));
#endif

#define PREFETCH_none(p) ((void)(p))
#define PREFETCH_t0(p) __builtin_prefetch(p, 0, 3)
#define PREFETCH_nta(p) __builtin_prefetch(p, 0, 0)

/* A line at @p into the sum @s, by vectors of 16, 32 or 64 bytes. */
#define LOAD_vec128(s, p)                                                                                              \
	(s ^= (*(const vec128 *)(p) ^ *(const vec128 *)((p) + 16)) ^                                                   \
	      (*(const vec128 *)((p) + 32) ^ *(const vec128 *)((p) + 48)))
#define LOAD_vec256(s, p) (s ^= *(const vec256 *)(p) ^ *(const vec256 *)((p) + 32))
#define LOAD_vec512(s, p) (s ^= *(const vec512 *)(p))

/* Where line @k of a step lies: @part from one stream to the next. */
#define AT(k, streams) (p + (k) / (4 / (streams)) * part + (k) % (4 / (streams)) * LINE_BYTES + i)

#define DEFINE(vec, attr, streams, hint)                                                                               \
	attr static uint64_t read_##vec##_##streams##_##hint(const uint8_t *p, size_t bytes, size_t ahead)             \
	{                                                                                                              \
		size_t part = bytes / (streams);                                                                       \
		vec a = {0}, b = {0}, c = {0}, d = {0};                                                                \
		uint64_t sum = 0;                                                                                      \
                                                                                                                       \
		for (size_t i = 0; i < part; i += 4 / (streams)*LINE_BYTES) {                                          \
			PREFETCH_##hint(AT(0, streams) + ahead);                                                       \
			PREFETCH_##hint(AT(1, streams) + ahead);                                                       \
			PREFETCH_##hint(AT(2, streams) + ahead);                                                       \
			PREFETCH_##hint(AT(3, streams) + ahead);                                                       \
			LOAD_##vec(a, AT(0, streams));                                                                 \
			LOAD_##vec(b, AT(1, streams));                                                                 \
			LOAD_##vec(c, AT(2, streams));                                                                 \
			LOAD_##vec(d, AT(3, streams));                                                                 \
		}                                                                                                      \
		a ^= b ^ c ^ d;                                                                                        \
		for (size_t i = 0; i < sizeof(vec) / sizeof(uint64_t); i++)                                            \
			sum ^= a[i];                                                                                   \
		return sum;                                                                                            \
	}

#define DEFINE_HINTS(vec, attr, streams)                                                                               \
	DEFINE(vec, attr, streams, none) DEFINE(vec, attr, streams, t0) DEFINE(vec, attr, streams, nta)
#define DEFINE_ALL(vec, attr) DEFINE_HINTS(vec, attr, 1) DEFINE_HINTS(vec, attr, 2) DEFINE_HINTS(vec, attr, 4)

#define WAYS_HINTS(vec, text, streams)                                                                                 \
	{text, streams, "none", read_##vec##_##streams##_none}, {text, streams, "t0", read_##vec##_##streams##_t0},    \
	{                                                                                                              \
		text, streams, "nta", read_##vec##_##streams##_nta                                                     \
	}
#define WAYS_ALL(vec, text) WAYS_HINTS(vec, text, 1), WAYS_HINTS(vec, text, 2), WAYS_HINTS(vec, text, 4)
#define NR_WAYS_ALL 9u

DEFINE_ALL(vec128, )
#ifdef __x86_64__
DEFINE_ALL(vec256, __attribute__((target("avx2"))))
DEFINE_ALL(vec512, __attribute__((target("avx512f"))))
#endif

/* Widest first, so that a CPU's own ways are one run of the table. */
static const struct read_way ways[] = {
#ifdef __x86_64__
	WAYS_ALL(vec512, "512-bit"),
	WAYS_ALL(vec256, "256-bit"),
#endif
	WAYS_ALL(vec128, "128-bit"),
};

const struct read_way *bench_read_ways(uint32_t *nr)
{
#ifdef __x86_64__
	__builtin_cpu_init();
	*nr = 2 * NR_WAYS_ALL;
	if (__builtin_cpu_supports("avx512f"))
		return ways;
	if (__builtin_cpu_supports("avx2"))
		return ways + NR_WAYS_ALL;
	*nr = NR_WAYS_ALL;
	return ways + 2 * NR_WAYS_ALL;
#else
	*nr = NR_WAYS_ALL;
	return ways;
#endif
}
