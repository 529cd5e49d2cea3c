// SPDX-License-Identifier: Apache-2.0
/*
 * freehold bench peak: how many operations a second this machine's dot-product
 * and multiply-add instructions can do at most, on one thread and on all,
 * which is what bounds reading a prompt.
 *
 * Threads claim slices of about a millisecond until all are done; the best of
 * several runs counts.  After each slice its thread also times a chain of
 * integer multiplications, from which follows how fast its core was clocked at
 * that moment, right after the vector work: a VM has no cycle counter that tells.
 */
#include <getopt.h>
#include <jansson.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include "runtime/accel/pool.h"
#include "runtime/base/clock.h"
#include "tools/bench.h"
#include "tools/bench_insn.h"
#include "tools/device.h"

#define SLICE_NS 1000000.0
#define WARM_NS 20000000ul /* before anything counts: a core needs time to reach the clock of heavy vectors */

struct options {
	uint32_t threads, ms, reps;
	bool json;
};

struct result {
	double gops;	  /* all threads together */
	double clock_ghz; /* the fastest that a slice's chain saw; 0: not known */
};

struct job {
	const struct bench_insn *insn;
	uint64_t nr_rounds; /* of a slice */
	_Atomic uint64_t cycle_ps;
};

static void run_slice(void *ctx, uint32_t thread, uint32_t item)
{
	struct job *j = ctx;
	uint64_t ps, least = atomic_load_explicit(&j->cycle_ps, memory_order_relaxed);

	(void)thread;
	(void)item;
	j->insn->fn(j->nr_rounds);
	ps = (uint64_t)(bench_cycle_ns() * 1e3 + 0.5);
	while (ps < least && !atomic_compare_exchange_weak(&j->cycle_ps, &least, ps))
		;
}

/* Rounds that take about a slice; warms up on the way. */
static uint64_t calibrate(const struct bench_insn *insn)
{
	uint64_t nr = 1000, begin = fh_now_ns(), t;

	for (;;) {
		t = fh_now_ns();
		insn->fn(nr);
		t = fh_now_ns() - t;
		if (t < SLICE_NS / 2)
			nr *= 2;
		else if (fh_now_ns() - begin > WARM_NS)
			return (uint64_t)((double)nr * SLICE_NS / (double)t) + 1;
	}
}

static int measure(const struct bench_insn *insn, uint32_t threads, const struct options *o, struct result *out)
{
	struct job j = {.insn = insn};
	struct fh_pool *pool;
	int rc = fh_pool_create(threads, &pool);

	if (rc) {
		fprintf(stderr, "freehold: bench: cannot start %u threads: %s\n", threads, strerror(-rc));
		return rc;
	}
	*out = (struct result){0};
	atomic_store(&j.cycle_ps, UINT64_MAX);
	j.nr_rounds = calibrate(insn);
	for (uint32_t r = 0; r < o->reps; r++) {
		uint32_t nr_slices = o->ms * threads;
		double ops = (double)insn->ops * insn->nr_insns * (double)j.nr_rounds * nr_slices, gops;
		uint64_t begin = fh_now_ns();

		fh_pool_run(pool, nr_slices, run_slice, &j);
		gops = ops / (double)(fh_now_ns() - begin);
		if (gops > out->gops)
			out->gops = gops;
	}
	fh_pool_destroy(pool);
	/* 0 where there is no chain to time */
	if (atomic_load(&j.cycle_ps))
		out->clock_ghz = 1e3 / (double)atomic_load(&j.cycle_ps);
	return 0;
}

/* Counted instructions a cycle and thread. */
static double per_cycle(const struct bench_insn *insn, const struct result *r, uint32_t threads)
{
	return r->clock_ghz > 0 ? r->gops / insn->ops / threads / r->clock_ghz : 0;
}

static int run_insn(const struct bench_insn *insn, const struct options *o, json_t *list)
{
	uint32_t counts[2] = {1, o->threads}, nr = o->threads > 1 ? 2 : 1;
	json_t *by_threads = json_array();

	if (!o->json)
		printf("%-12s %-5s %3u bits ", insn->name, insn->numbers, insn->width_bits);
	for (uint32_t i = 0; i < nr; i++) {
		struct result r;
		int rc = measure(insn, counts[i], o, &r);

		if (rc) {
			json_decref(by_threads);
			return rc;
		}
		if (!o->json)
			printf(" %u thread%s %7.1f Gop/s, %.2f a cycle at %.2f GHz%s", counts[i],
			       counts[i] > 1 ? "s:" : ": ", r.gops, per_cycle(insn, &r, counts[i]), r.clock_ghz,
			       i + 1 < nr ? ";" : "\n");
		fflush(stdout);
		json_array_append_new(by_threads,
				      json_pack("{si sf sf sf}", "threads", (int)counts[i], "gops", r.gops, "clock_ghz",
						r.clock_ghz, "per_cycle", per_cycle(insn, &r, counts[i])));
	}
	json_array_append_new(list, json_pack("{ss ss ss si si so}", "instruction", insn->name, "numbers",
					      insn->numbers, "needs", insn->needs, "width_bits", (int)insn->width_bits,
					      "helpers", (int)insn->nr_helpers, "threads", by_threads));
	return 0;
}

static int run_all(const struct options *o)
{
	json_t *list = json_array(), *absent = json_array(), *j;
	uint32_t nr;
	const struct bench_insn *insns = bench_insns(&nr);
	int rc = 0;

	for (uint32_t i = 0; i < nr && !rc; i++) {
		if (insns[i].here()) {
			rc = run_insn(&insns[i], o, list);
			continue;
		}
		json_array_append_new(absent, json_pack("{ss si ss}", "instruction", insns[i].name, "width_bits",
							(int)insns[i].width_bits, "needs", insns[i].needs));
		if (!o->json)
			printf("%-12s %-5s %3u bits  not here: the CPU has no %s\n", insns[i].name, insns[i].numbers,
			       insns[i].width_bits, insns[i].needs);
	}
	if (!nr && !o->json)
		printf("nothing to measure: freehold has no instruction loops for this architecture, and its kernels\n"
		       "there are plain C\n");
	if (!rc && o->json) {
		j = json_pack("{si sO sO}", "threads", (int)o->threads, "instructions", list, "absent", absent);
		json_dumpf(j, stdout, JSON_REAL_PRECISION(6));
		putchar('\n');
		json_decref(j);
	}
	json_decref(list);
	json_decref(absent);
	return rc;
}

static const char usage[] =
	"usage: freehold bench peak [--threads N] [--ms N] [--reps R] [--json]\n"
	"\n"
	"Runs each dot-product and multiply-add instruction that the kernels use on registers alone,\n"
	"on one thread and on N, and tells operations a second (a multiplication and an addition are\n"
	"two). The clock is not read but inferred, from a chain of integer multiplications right\n"
	"after the vector work, 3 cycles each; it is as good as that assumption.\n"
	"\n"
	"      --threads N  (default: as many as this process may use)\n"
	"      --ms N       length of a run (default 100)\n"
	"      --reps R     runs, of which the best counts (default 5)\n"
	"      --json       one JSON object instead of lines for people\n"
	"\n"
	"example: freehold bench peak --threads 2\n";

int bench_peak(int argc, char **argv)
{
	static const struct option longs[] = {
		{"threads", required_argument, NULL, 't'}, {"ms", required_argument, NULL, 'm'},
		{"reps", required_argument, NULL, 'r'},	   {"json", no_argument, NULL, 'j'},
		{"help", no_argument, NULL, 'h'},	   {0},
	};
	struct options o = {.threads = fh_pool_default_threads(), .ms = 100, .reps = 5};
	bool ok = true;
	int c;

	optind = 1;
	while (ok && (c = getopt_long(argc, argv, "h", longs, NULL)) != -1) {
		switch (c) {
		case 't': ok = device_number("--threads", optarg, 1, 1024, &o.threads); break;
		case 'm': ok = device_number("--ms", optarg, 1, 100000, &o.ms); break;
		case 'r': ok = device_number("--reps", optarg, 1, 1000, &o.reps); break;
		case 'j': o.json = true; break;
		case 'h': fputs(usage, stdout); return 0;
		default: ok = false;
		}
	}
	if (!ok || optind != argc) {
		fputs(usage, stderr);
		return 2;
	}
	return run_all(&o) ? 1 : 0;
}
