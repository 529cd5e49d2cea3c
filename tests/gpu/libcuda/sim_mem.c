// SPDX-License-Identifier: Apache-2.0
/* The stand-in's memory: see sim.h.  Allocations lie between pages without access; the list owns them. */
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "tests/gpu/libcuda/sim.h"

#define PAGE 4096u
#define ALIGN 256u /* what CUDA promises */
#define RUBBISH 0xcd
#define RUBBISH_MAX (256ul << 20) /* more is left zero: touching it would cost memory */
#define FENCE 0xfe

static int nr_open;

static size_t round_up(size_t n, size_t to)
{
	return (n + to - 1) / to * to;
}

/* The bytes between the end and the page that nobody may touch. */
static size_t fence_bytes(const struct sim_mem *m)
{
	return (size_t)(m->map + m->map_bytes - PAGE - (m->base + m->bytes));
}

cu_result sim_mem_alloc(enum sim_kind kind, size_t bytes, void **out)
{
	size_t body = round_up(bytes, PAGE);
	struct sim_mem *m;

	if (!bytes)
		return CU_INVALID_VALUE;
	if (kind == SIM_DEVICE && bytes > sim.mem_bytes - sim.used_bytes)
		return CU_OUT_OF_MEMORY;
	m = calloc(1, sizeof(*m));
	if (!m)
		return CU_OUT_OF_MEMORY;
	m->map_bytes = body + 2 * PAGE;
	m->map = mmap(NULL, m->map_bytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (m->map == MAP_FAILED || mprotect(m->map + PAGE, body, PROT_READ | PROT_WRITE)) {
		free(m);
		return CU_OUT_OF_MEMORY;
	}
	m->kind = kind;
	m->bytes = bytes;
	/* Against the page behind it, as far as the alignment allows. */
	m->base = m->map + PAGE + (body - bytes) / ALIGN * ALIGN;
	memset(m->base, RUBBISH, bytes < RUBBISH_MAX ? bytes : RUBBISH_MAX);
	memset(m->base + bytes, FENCE, fence_bytes(m));
	if (kind == SIM_DEVICE) {
		sim.used_bytes += bytes;
		if (sim.used_bytes > sim.peak_bytes)
			sim.peak_bytes = sim.used_bytes;
		if (!nr_open)
			mprotect(m->map + PAGE, body, PROT_NONE);
	}
	m->next = sim.mem;
	sim.mem = m;
	*out = m->base;
	return CU_OK;
}

static void protect_all(int prot)
{
	for (struct sim_mem *m = sim.mem; m; m = m->next)
		if (m->kind == SIM_DEVICE)
			mprotect(m->map + PAGE, m->map_bytes - 2 * PAGE, prot);
}

void sim_mem_open(void)
{
	if (!nr_open++)
		protect_all(PROT_READ | PROT_WRITE);
}

void sim_mem_close(void)
{
	if (!--nr_open)
		protect_all(PROT_NONE);
}

static void check_fence(const struct sim_mem *m)
{
	const uint8_t *end = m->base + m->bytes;

	for (size_t i = 0; i < fence_bytes(m); i++) {
		if (end[i] != FENCE) {
			sim_complain("%s memory of %zu bytes was written %zu bytes behind its end",
				     m->kind == SIM_DEVICE ? "device" : "pinned", m->bytes, i);
			return;
		}
	}
}

void sim_mem_check(void)
{
	sim_mem_open();
	for (struct sim_mem *m = sim.mem; m; m = m->next)
		check_fence(m);
	sim_mem_close();
}

cu_result sim_mem_free(enum sim_kind kind, void *p)
{
	for (struct sim_mem **at = &sim.mem; *at; at = &(*at)->next) {
		struct sim_mem *m = *at;

		if (m->base != p || m->kind != kind)
			continue;
		sim_mem_open();
		check_fence(m);
		sim_mem_close();
		*at = m->next;
		if (kind == SIM_DEVICE)
			sim.used_bytes -= m->bytes;
		munmap(m->map, m->map_bytes);
		free(m);
		return CU_OK;
	}
	return CU_INVALID_VALUE;
}

struct sim_mem *sim_mem_find(enum sim_kind kind, const void *p, size_t bytes)
{
	uintptr_t at = (uintptr_t)p;

	for (struct sim_mem *m = sim.mem; m; m = m->next) {
		uintptr_t base = (uintptr_t)m->base;

		if (m->kind == kind && at >= base && at - base <= m->bytes && bytes <= m->bytes - (at - base))
			return m;
	}
	return NULL;
}

void sim_mem_counts(int *nr_device, int *nr_pinned)
{
	*nr_device = *nr_pinned = 0;
	for (const struct sim_mem *m = sim.mem; m; m = m->next)
		++*(m->kind == SIM_DEVICE ? nr_device : nr_pinned);
}
