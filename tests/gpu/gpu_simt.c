// SPDX-License-Identifier: Apache-2.0
/* The tests' machine without a GPU: memory is the host's, launches go to the emulator. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tests/gpu/gpu.h"
#include "tests/gpu/simt/simt.h"

static void simt_open(const char *fatbins, char *device, size_t bytes)
{
	const char *order = getenv("SIMT_ORDER");

	(void)fatbins;
	if (order)
		fhk_simt_order((unsigned int)strtoul(order, NULL, 0));
	snprintf(device, bytes, "the emulator of tests/gpu/simt: no GPU, logic only");
}

/* Its end is the end of an allocation, so that the sanitizer sees what reads beyond. */
static uint64_t simt_alloc(size_t bytes)
{
	void *p;

	if (posix_memalign(&p, 256, bytes ? bytes : 1))
		abort();
	memset(p, 0xff, bytes);
	return (uint64_t)(uintptr_t)p;
}

static void simt_free(uint64_t p)
{
	free((void *)(uintptr_t)p);
}

static void simt_to(uint64_t dst, const void *src, size_t bytes)
{
	memcpy((void *)(uintptr_t)dst, src, bytes);
}

static void simt_from(void *dst, uint64_t src, size_t bytes)
{
	memcpy(dst, (const void *)(uintptr_t)src, bytes);
}

static void simt_launch(const char *kernel, struct fhk_cu_grid g, const void *args, size_t bytes)
{
	const unsigned int grid[3] = {g.x, g.y, g.z}, block[3] = {g.threads, 1, 1};
	char err[256] = "";
	int rc = fhk_simt_launch(kernel, grid, block, g.shared, args, bytes, err, sizeof(err));

	if (!rc)
		return;
	fprintf(stderr, "check-gpu: %s: %s (%s)\n", kernel, err, strerror(-rc));
	exit(1);
}

const struct gpu_ops gpu_simt = {
	.name = "simt",
	.open = simt_open,
	.alloc = simt_alloc,
	.free = simt_free,
	.to = simt_to,
	.from = simt_from,
	.launch = simt_launch,
};

const struct gpu_ops *gpu = &gpu_simt;
