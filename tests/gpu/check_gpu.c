// SPDX-License-Identifier: Apache-2.0
/*
 * check-gpu: the CUDA kernels against the reference; see gpu.h.
 *
 *   check_gpu [--seed N] [--small] [--fatbins DIR] [rows mm moe attn sample ...]
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tests/gpu/gpu.h"

static const struct {
	const char *name;
	void (*run)(void);
} parts[] = {
	{"rows", check_rows}, {"mm", check_mm}, {"moe", check_moe}, {"attn", check_attn}, {"sample", check_sample}};

#define NR_PARTS (sizeof(parts) / sizeof(parts[0]))

static int usage(void)
{
	fprintf(stderr, "usage: check_gpu [--seed N] [--small] [--fatbins DIR] [PART ...]\nparts:");
	for (size_t i = 0; i < NR_PARTS; i++)
		fprintf(stderr, " %s", parts[i].name);
	fprintf(stderr, "\n");
	return 2;
}

int main(int argc, char **argv)
{
	const char *fatbins = "build/cuda";
	uint64_t seed = 1;
	bool wanted[NR_PARTS] = {false}, all = true;
	char device[160];

	for (int i = 1; i < argc; i++) {
		size_t p = 0;

		if (!strcmp(argv[i], "--small")) {
			check_small = true;
			continue;
		}
		if (i + 1 < argc && !strcmp(argv[i], "--seed")) {
			seed = strtoull(argv[++i], NULL, 0);
			continue;
		}
		if (i + 1 < argc && !strcmp(argv[i], "--fatbins")) {
			fatbins = argv[++i];
			continue;
		}
		while (p < NR_PARTS && strcmp(argv[i], parts[p].name))
			p++;
		if (p == NR_PARTS)
			return usage();
		wanted[p] = true;
		all = false;
	}
	gpu->open(fatbins, device, sizeof(device));
	printf("device: %s, seed %llu\n", device, (unsigned long long)seed);
	for (size_t i = 0; i < NR_PARTS; i++) {
		if (!all && !wanted[i])
			continue;
		rnd_seed(seed + i * 1000);
		parts[i].run();
		gpu_end_test();
		fflush(stdout);
	}
	return check_summary() ? 1 : 0;
}
