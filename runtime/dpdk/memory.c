// SPDX-License-Identifier: Apache-2.0
/*
 * Memory that a device reads and writes where it lies: regions of ours made
 * known to DPDK, then mapped in the device's IOMMU.  Virtual devices have no
 * IOMMU and need none.
 *
 * I/O addresses of regions are handed out from a window below 4 GiB: many IOMMUs
 * have 39 bits or 48, and a process's addresses have 47.  DPDK's own memory lies
 * above 4 GiB (its base-virtaddr), at its virtual address.  When the window is
 * full a region's virtual address is tried.
 */
#include <errno.h>
#include <string.h>

#include <rte_dev.h>
#include <rte_errno.h>
#include <rte_memory.h>

#include "runtime/dpdk/dpdk.h"

#define WINDOW_BEGIN 0x40000000ull /* 1 GiB, above what firmware reserves */
#define WINDOW_END 0xc0000000ull   /* 3 GiB, below where interrupts are written to */
#define WINDOW_STEP (2ull << 20)

static pthread_mutex_t window_lock = PTHREAD_MUTEX_INITIALIZER;
static uint64_t window_next = WINDOW_BEGIN;
static uint32_t window_users; /* none: all of it is free again */

static uint64_t window_take(size_t bytes)
{
	uint64_t n = (bytes + WINDOW_STEP - 1) / WINDOW_STEP * WINDOW_STEP, at = 0;

	pthread_mutex_lock(&window_lock);
	if (n <= WINDOW_END - window_next) {
		at = window_next;
		window_next += n;
		window_users++;
	}
	pthread_mutex_unlock(&window_lock);
	return at;
}

static void window_give(void)
{
	pthread_mutex_lock(&window_lock);
	if (!--window_users)
		window_next = WINDOW_BEGIN;
	pthread_mutex_unlock(&window_lock);
}

static int add(struct fhd_dpdk_device *d, void *base, size_t bytes, size_t page_bytes, struct fh_err *err)
{
	struct fhd_dpdk_memory *m = &d->memory[d->nr_memory];
	uint64_t window;

	if (d->nr_memory == FHD_DPDK_MAX_REGIONS)
		return fh_errf(err, -ENOSPC, "DPDK: more than %u pieces of memory for one device",
			       FHD_DPDK_MAX_REGIONS);
	if ((uintptr_t)base % page_bytes || bytes % page_bytes || !bytes)
		return fh_errf(err, -EINVAL, "DPDK: memory of %zu bytes at %p does not consist of whole pages", bytes,
			       base);
	*m = (struct fhd_dpdk_memory){.base = base, .bytes = bytes, .page_bytes = page_bytes, .iova = (uintptr_t)base};
	/* A second device finds it known already. */
	if (rte_extmem_register(base, bytes, NULL, 0, page_bytes) && rte_errno != EEXIST)
		return fh_errf(err, -rte_errno, "DPDK: %zu bytes of packet memory cannot be registered: %s", bytes,
			       rte_strerror(rte_errno));
	window = window_take(bytes);
	if (window)
		m->iova = window;
	m->windowed = window;
	if (!rte_dev_dma_map(d->info.device, base, m->iova, bytes)) {
		m->mapped = true;
	} else if (rte_errno == ENOTSUP) {
		/* No IOMMU of its own: nobody will look at the address. */
		m->iova = (uintptr_t)base;
	} else {
		int code = rte_errno;

		if (window)
			window_give();
		rte_extmem_unregister(base, bytes);
		return fh_errf(
			err, -code,
			"DPDK: the IOMMU does not take %zu bytes of packet memory for %s: %s; RLIMIT_MEMLOCK must "
			"allow them (LimitMEMLOCK= in a service)",
			bytes, d->name, rte_strerror(code));
	}
	d->nr_memory++;
	return 0;
}

int fhd_dpdk_memory_add(struct fhd_dpdk_device *d, void *base, size_t bytes, size_t page_bytes, struct fh_err *err)
{
	int rc;

	pthread_mutex_lock(&d->memory_lock);
	rc = fhd_dpdk_iova(d, base, bytes) != RTE_BAD_IOVA ? 0 : add(d, base, bytes, page_bytes, err);
	pthread_mutex_unlock(&d->memory_lock);
	return rc;
}

rte_iova_t fhd_dpdk_iova(const struct fhd_dpdk_device *d, const void *at, size_t bytes)
{
	uint32_t n = atomic_load_explicit(&d->nr_memory, memory_order_acquire);

	for (uint32_t i = 0; i < n; i++) {
		uintptr_t off = (uintptr_t)at - (uintptr_t)d->memory[i].base;

		if (off < d->memory[i].bytes && bytes <= d->memory[i].bytes - off)
			return d->memory[i].iova + off;
	}
	return RTE_BAD_IOVA;
}

void fhd_dpdk_memory_drop(struct fhd_dpdk_device *d)
{
	while (d->nr_memory) {
		struct fhd_dpdk_memory *m = &d->memory[--d->nr_memory];

		if (m->mapped)
			rte_dev_dma_unmap(d->info.device, m->base, m->iova, m->bytes);
		if (m->windowed)
			window_give();
		rte_extmem_unregister(m->base, m->bytes);
	}
}
