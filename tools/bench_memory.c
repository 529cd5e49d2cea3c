// SPDX-License-Identifier: Apache-2.0
/*
 * freehold bench memory: how fast this machine's memory can be read, which is
 * what bounds a single sequence's decoding.  The best of several ways to read,
 * on huge pages where the system gives them, for 1 to N threads.
 */
#include <getopt.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "runtime/accel/pool.h"
#include "runtime/base/clock.h"
#include "tools/bench.h"
#include "tools/device.h"

#define PIECE_BYTES (1ul << 20) /* an item of the pool */
#define PAGE_BYTES 4096ul

typedef uint64_t vec __attribute__((vector_size(64)));

/* A way to read [bytes], a multiple of PAGE_BYTES; the sum keeps the compiler honest. */
typedef uint64_t (*read_fn)(const uint8_t *p, size_t bytes);

static uint64_t fold(const vec *v)
{
	const uint64_t *a = (const uint64_t *)v;

	return a[0] ^ a[1] ^ a[2] ^ a[3] ^ a[4] ^ a[5] ^ a[6] ^ a[7];
}

static uint64_t read_one(const uint8_t *p, size_t bytes)
{
	vec a = {0}, b = {0};

	for (size_t i = 0; i < bytes; i += 128) {
		a ^= *(const vec *)(p + i);
		b ^= *(const vec *)(p + i + 64);
	}
	a ^= b;
	return fold(&a);
}

/* Four streams a quarter of the piece apart keep more banks busy. */
static uint64_t read_four(const uint8_t *p, size_t bytes)
{
	size_t q = bytes / 4;
	vec a = {0}, b = {0};

	for (size_t i = 0; i < q; i += 64) {
		a ^= *(const vec *)(p + i) ^ *(const vec *)(p + q + i);
		b ^= *(const vec *)(p + 2 * q + i) ^ *(const vec *)(p + 3 * q + i);
	}
	a ^= b;
	return fold(&a);
}

static uint64_t read_ahead(const uint8_t *p, size_t bytes)
{
	vec a = {0}, b = {0};

	for (size_t i = 0; i < bytes; i += 128) {
		__builtin_prefetch(p + i + PAGE_BYTES);
		__builtin_prefetch(p + i + PAGE_BYTES + 64);
		a ^= *(const vec *)(p + i);
		b ^= *(const vec *)(p + i + 64);
	}
	a ^= b;
	return fold(&a);
}

static const struct {
	const char *name;
	read_fn fn;
} ways[] = {{"one stream", read_one}, {"four streams", read_four}, {"prefetch", read_ahead}};
#define NR_WAYS (sizeof(ways) / sizeof(ways[0]))

struct job {
	const uint8_t *p;
	read_fn fn;
	_Atomic uint64_t sum;
};

static void read_item(void *ctx, uint32_t thread, uint32_t item)
{
	struct job *j = ctx;

	(void)thread;
	atomic_fetch_xor(&j->sum, j->fn(j->p + item * PIECE_BYTES, PIECE_BYTES));
}

/* The best rate of @reps passes, in GB/s, and the way that had it. */
static double measure(struct fh_pool *pool, const uint8_t *p, size_t bytes, uint32_t reps, const char **way)
{
	double best = 0;

	for (size_t w = 0; w < NR_WAYS; w++) {
		for (uint32_t r = 0; r < reps; r++) {
			struct job j = {.p = p, .fn = ways[w].fn};
			uint64_t begin = fh_now_ns();
			double rate;

			fh_pool_run(pool, (uint32_t)(bytes / PIECE_BYTES), read_item, &j);
			rate = (double)bytes / (double)(fh_now_ns() - begin);
			if (rate > best) {
				best = rate;
				*way = ways[w].name;
			}
		}
	}
	return best;
}

static const char usage[] = "usage: freehold bench memory [--threads N] [--mib N] [--reps R] [--json]\n"
			    "\n"
			    "Reads a buffer (default 1024 MiB) with 1 to N threads; the best of R passes (default 5)\n"
			    "of each way to read counts.\n"
			    "\n"
			    "example: freehold bench memory --threads 2\n";

int bench_memory(int argc, char **argv)
{
	static const struct option longs[] = {
		{"threads", required_argument, NULL, 't'}, {"mib", required_argument, NULL, 'm'},
		{"reps", required_argument, NULL, 'r'},	   {"json", no_argument, NULL, 'j'},
		{"help", no_argument, NULL, 'h'},	   {0},
	};
	uint32_t threads = fh_pool_default_threads(), mib = 1024, reps = 5;
	bool json = false, ok = true;
	size_t bytes;
	uint8_t *p;
	int c;

	optind = 1;
	while (ok && (c = getopt_long(argc, argv, "h", longs, NULL)) != -1) {
		switch (c) {
		case 't': ok = device_number("--threads", optarg, 1, 1024, &threads); break;
		case 'm': ok = device_number("--mib", optarg, 1, 1 << 20, &mib); break;
		case 'r': ok = device_number("--reps", optarg, 1, 1000, &reps); break;
		case 'j': json = true; break;
		case 'h': fputs(usage, stdout); return 0;
		default: ok = false;
		}
	}
	if (!ok || optind != argc) {
		fputs(usage, stderr);
		return 2;
	}
	bytes = (size_t)mib << 20;
	/* One page more: the last prefetch looks past the end. */
	p = mmap(NULL, bytes + PAGE_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (p == MAP_FAILED) {
		fprintf(stderr, "freehold: bench: cannot have %u MiB\n", mib);
		return 1;
	}
	madvise(p, bytes, MADV_HUGEPAGE);
	memset(p, 1, bytes);
	for (uint32_t t = 1; t <= threads; t++) {
		const char *way = "";
		struct fh_pool *pool;
		double rate;

		if (fh_pool_create(t, &pool)) {
			fprintf(stderr, "freehold: bench: cannot start %u threads\n", t);
			munmap(p, bytes + PAGE_BYTES);
			return 1;
		}
		rate = measure(pool, p, bytes, reps, &way);
		fh_pool_destroy(pool);
		if (json)
			printf("{\"threads\":%u,\"read_gb_per_s\":%.2f,\"way\":\"%s\"}\n", t, rate, way);
		else
			printf("%3u threads: %.1f GB/s (%s)\n", t, rate, way);
	}
	munmap(p, bytes + PAGE_BYTES);
	return 0;
}
