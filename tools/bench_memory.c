// SPDX-License-Identifier: Apache-2.0
/*
 * freehold bench memory: how fast this machine's memory can be read, which is
 * what bounds a single sequence's decoding.
 *
 * A buffer on huge pages, where the system gives them, is read piece by piece;
 * the threads claim pieces as the decode claims rows.  Every way to read
 * (tools/bench_read.c), at every prefetch distance and piece size, has one
 * pass; the best few have --reps more.  The best single pass is the limit: a
 * neighbour can only make a pass slower.
 */
#include <getopt.h>
#include <inttypes.h>
#include <jansson.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "runtime/accel/pool.h"
#include "runtime/base/clock.h"
#include "tools/bench.h"
#include "tools/bench_read.h"
#include "tools/device.h"

#define HUGE_BYTES (2ul << 20)
#define PIECE_MAX (1ul << 20)
#define NR_FINALISTS 4u
#define MAX_TRIALS 256u

static const size_t pieces[] = {64ul << 10, PIECE_MAX};
static const size_t distances[] = {1024, 4096, READ_AHEAD_MAX};
#define COUNT(a) (sizeof(a) / sizeof((a)[0]))

/* A way with its parameters, and the best that it has shown. */
struct trial {
	const struct read_way *way;
	size_t piece_bytes, ahead_bytes;
	double gb_per_s;
};

struct buffer {
	uint8_t *map, *p; /* p: [bytes] from the first whole huge page on */
	size_t map_bytes, bytes;
};

struct job {
	const uint8_t *p;
	size_t piece_bytes, ahead_bytes;
	read_fn fn;
	_Atomic uint64_t sum;
};

struct options {
	uint32_t threads, mib, reps;
	bool json, all;
};

static void fill_item(void *ctx, uint32_t thread, uint32_t item)
{
	struct buffer *b = ctx;

	(void)thread;
	memset(b->p + item * PIECE_MAX, 1, PIECE_MAX);
}

static void read_item(void *ctx, uint32_t thread, uint32_t item)
{
	struct job *j = ctx;

	(void)thread;
	atomic_fetch_xor(&j->sum, j->fn(j->p + item * j->piece_bytes, j->piece_bytes, j->ahead_bytes));
}

static void run_trial(struct fh_pool *pool, const struct buffer *b, struct trial *t)
{
	struct job j = {.p = b->p, .piece_bytes = t->piece_bytes, .ahead_bytes = t->ahead_bytes, .fn = t->way->fn};
	uint64_t begin = fh_now_ns();
	double rate;

	fh_pool_run(pool, (uint32_t)(b->bytes / t->piece_bytes), read_item, &j);
	rate = (double)b->bytes / (double)(fh_now_ns() - begin);
	if (rate > t->gb_per_s)
		t->gb_per_s = rate;
}

static int best_first(const void *a, const void *b)
{
	const struct trial *x = a, *y = b;

	return (x->gb_per_s < y->gb_per_s) - (x->gb_per_s > y->gb_per_s);
}

static uint32_t make_trials(struct trial *trials)
{
	uint32_t nr_ways, n = 0;
	const struct read_way *ways = bench_read_ways(&nr_ways);

	for (uint32_t w = 0; w < nr_ways; w++) {
		uint32_t nr = strcmp(ways[w].hint, "none") ? COUNT(distances) : 1;

		for (uint32_t p = 0; p < COUNT(pieces); p++)
			for (uint32_t d = 0; d < nr && n < MAX_TRIALS; d++)
				trials[n++] = (struct trial){&ways[w], pieces[p], nr > 1 ? distances[d] : 0, 0};
	}
	return n;
}

/* trials: [returned], best first */
static uint32_t measure(struct fh_pool *pool, const struct buffer *b, uint32_t reps, struct trial *trials)
{
	uint32_t n = make_trials(trials);

	for (uint32_t i = 0; i < n; i++)
		run_trial(pool, b, &trials[i]);
	qsort(trials, n, sizeof(*trials), best_first);
	for (uint32_t r = 0; r < reps; r++)
		for (uint32_t i = 0; i < n && i < NR_FINALISTS; i++)
			run_trial(pool, b, &trials[i]);
	qsort(trials, n, sizeof(*trials), best_first);
	return n;
}

/* How much of the buffer lies on huge pages; the system decides. */
static size_t huge_bytes(const struct buffer *b)
{
	FILE *f = fopen("/proc/self/smaps", "re");
	uintptr_t lo = (uintptr_t)b->map, hi = lo + b->map_bytes, from, to;
	size_t sum = 0, kib;
	bool ours = false;
	char line[512];

	if (!f)
		return 0;
	while (fgets(line, sizeof(line), f)) {
		if (sscanf(line, "%" SCNxPTR "-%" SCNxPTR " ", &from, &to) == 2)
			ours = from < hi && to > lo;
		else if (ours && sscanf(line, "AnonHugePages: %zu", &kib) == 1)
			sum += kib << 10;
	}
	fclose(f);
	return sum < b->bytes ? sum : b->bytes;
}

static int buffer_open(struct buffer *b, uint32_t mib)
{
	b->bytes = (size_t)mib << 20;
	/* A huge page more to begin on one, and what the last prefetch looks at. */
	b->map_bytes = b->bytes + HUGE_BYTES + READ_AHEAD_MAX;
	b->map = mmap(NULL, b->map_bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (b->map == MAP_FAILED)
		return -ENOMEM;
	b->p = (uint8_t *)(((uintptr_t)b->map + HUGE_BYTES - 1) / HUGE_BYTES * HUGE_BYTES);
	madvise(b->p, b->bytes, MADV_HUGEPAGE);
	return 0;
}

static json_t *trial_json(const struct trial *t)
{
	return json_pack("{sf ss si ss sI sI}", "gb_per_s", t->gb_per_s, "vector", t->way->vector, "streams",
			 (int)t->way->nr_streams, "prefetch", t->way->hint, "ahead_bytes", (json_int_t)t->ahead_bytes,
			 "piece_bytes", (json_int_t)t->piece_bytes);
}

static void trial_print(const struct trial *t)
{
	printf("%.1f GB/s (%s loads, %u stream%s a thread, pieces of %zu KiB, ", t->gb_per_s, t->way->vector,
	       t->way->nr_streams, t->way->nr_streams > 1 ? "s" : "", t->piece_bytes >> 10);
	if (t->ahead_bytes)
		printf("prefetch %s %zu bytes ahead)\n", t->way->hint, t->ahead_bytes);
	else
		printf("no prefetch)\n");
}

/* One thread count; its figures go to stdout or into @list. */
static int run_threads(const struct options *o, const struct buffer *b, uint32_t threads, json_t *list, double *best)
{
	struct trial trials[MAX_TRIALS];
	uint32_t n, shown;
	struct fh_pool *pool;
	json_t *j, *all;
	int rc = fh_pool_create(threads, &pool);

	if (rc)
		return rc;
	n = measure(pool, b, o->reps, trials);
	fh_pool_destroy(pool);
	if (trials[0].gb_per_s > *best)
		*best = trials[0].gb_per_s;
	shown = o->all ? n : 1;
	if (!o->json) {
		for (uint32_t i = 0; i < shown; i++) {
			printf("%3u thread%s ", threads, threads > 1 ? "s:" : ": ");
			trial_print(&trials[i]);
		}
		return 0;
	}
	all = json_array();
	for (uint32_t i = 0; i < shown; i++)
		json_array_append_new(all, trial_json(&trials[i]));
	j = json_pack("{si sf so}", "threads", (int)threads, "read_gb_per_s", trials[0].gb_per_s, "ways", all);
	return json_array_append_new(list, j) ? -ENOMEM : 0;
}

static int run_all(const struct options *o, const struct buffer *b)
{
	json_t *list = json_array(), *j;
	double best = 0;
	size_t huge;
	int rc = 0;

	for (uint32_t t = 1; t <= o->threads && !rc; t++) {
		rc = run_threads(o, b, t, list, &best);
		if (rc)
			fprintf(stderr, "freehold: bench: cannot start %u threads: %s\n", t, strerror(-rc));
	}
	huge = huge_bytes(b);
	if (!rc && !o->json)
		printf("best: %.1f GB/s; %zu of %u MiB on huge pages\n", best, huge >> 20, o->mib);
	if (!rc && o->json) {
		j = json_pack("{sf sI sI sO}", "read_gb_per_s", best, "buffer_bytes", (json_int_t)b->bytes,
			      "huge_page_bytes", (json_int_t)huge, "threads", list);
		json_dumpf(j, stdout, JSON_REAL_PRECISION(6));
		putchar('\n');
		json_decref(j);
	}
	json_decref(list);
	return rc;
}

static const char usage[] = "usage: freehold bench memory [--threads N] [--mib N] [--reps R] [--all] [--json]\n"
			    "\n"
			    "Reads a buffer on huge pages with 1 to N threads, in every way that this CPU has: vector\n"
			    "widths, streams a thread, prefetch distances, piece sizes. Each way has a pass, the four\n"
			    "best have R more; the best pass counts.\n"
			    "\n"
			    "      --threads N  at most so many (default: as many as this process may use)\n"
			    "      --mib N      size of the buffer (default 1024); well above the last cache\n"
			    "      --reps R     more passes of the four best ways (default 5)\n"
			    "      --all        tell every way, best first, and not the best alone\n"
			    "      --json       one JSON object instead of lines for people\n"
			    "\n"
			    "example: freehold bench memory --threads 2\n";

static bool parse_options(int argc, char **argv, struct options *o, int *status)
{
	static const struct option longs[] = {
		{"threads", required_argument, NULL, 't'},
		{"mib", required_argument, NULL, 'm'},
		{"reps", required_argument, NULL, 'r'},
		{"all", no_argument, NULL, 'a'},
		{"json", no_argument, NULL, 'j'},
		{"help", no_argument, NULL, 'h'},
		{0},
	};
	bool ok = true;
	int c;

	*status = 2;
	optind = 1;
	while (ok && (c = getopt_long(argc, argv, "h", longs, NULL)) != -1) {
		switch (c) {
		case 't': ok = device_number("--threads", optarg, 1, 1024, &o->threads); break;
		case 'm': ok = device_number("--mib", optarg, 1, 1 << 20, &o->mib); break;
		case 'r': ok = device_number("--reps", optarg, 1, 1000, &o->reps); break;
		case 'a': o->all = true; break;
		case 'j': o->json = true; break;
		case 'h':
			fputs(usage, stdout);
			*status = 0;
			return false;
		default: ok = false;
		}
	}
	if (!ok || optind != argc) {
		fputs(usage, stderr);
		return false;
	}
	return true;
}

int bench_memory(int argc, char **argv)
{
	struct options o = {.threads = fh_pool_default_threads(), .mib = 1024, .reps = 5};
	struct fh_pool *pool;
	struct buffer b;
	int rc, status;

	if (!parse_options(argc, argv, &o, &status))
		return status;
	if (buffer_open(&b, o.mib)) {
		fprintf(stderr, "freehold: bench: cannot have %u MiB (see --mib)\n", o.mib);
		return 1;
	}
	/* Every thread touches a part first, so that each memory node of the machine holds some. */
	rc = fh_pool_create(o.threads, &pool);
	if (rc) {
		fprintf(stderr, "freehold: bench: cannot start %u threads: %s\n", o.threads, strerror(-rc));
	} else {
		fh_pool_run(pool, (uint32_t)(b.bytes / PIECE_MAX), fill_item, &b);
		fh_pool_destroy(pool);
		rc = run_all(&o, &b);
	}
	munmap(b.map, b.map_bytes);
	return rc ? 1 : 0;
}
