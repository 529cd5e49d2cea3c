// SPDX-License-Identifier: Apache-2.0
/*
 * Memory that a device reads and writes where it lies: regions of ours made
 * known to DPDK, then mapped in the device's IOMMU.  Virtual devices have no
 * IOMMU and need none.
 */
#include <errno.h>
#include <string.h>

#include <rte_dev.h>
#include <rte_errno.h>
#include <rte_memory.h>

#include "runtime/dpdk/dpdk.h"

static int add(struct fhd_dpdk_device *d, void *base, size_t bytes, size_t page_bytes, struct fh_err *err)
{
	struct fhd_dpdk_memory *m = &d->memory[d->nr_memory];

	if (d->nr_memory == FHD_DPDK_MAX_REGIONS)
		return fh_errf(err, -ENOSPC, "DPDK: more than %u pieces of memory for one device",
			       FHD_DPDK_MAX_REGIONS);
	if ((uintptr_t)base % page_bytes || bytes % page_bytes || !bytes)
		return fh_errf(err, -EINVAL, "DPDK: memory of %zu bytes at %p does not consist of whole pages", bytes,
			       base);
	*m = (struct fhd_dpdk_memory){.base = base, .bytes = bytes, .page_bytes = page_bytes};
	/* A second device finds it known already. */
	if (rte_extmem_register(base, bytes, NULL, 0, page_bytes) && rte_errno != EEXIST)
		return fh_errf(err, -rte_errno, "DPDK: %zu bytes of packet memory cannot be registered: %s", bytes,
			       rte_strerror(rte_errno));
	if (!rte_dev_dma_map(d->info.device, base, (uintptr_t)base, bytes)) {
		m->mapped = true;
	} else if (rte_errno != ENOTSUP) {
		int code = rte_errno;

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
	rc = fhd_dpdk_memory_has(d, base, bytes) ? 0 : add(d, base, bytes, page_bytes, err);
	pthread_mutex_unlock(&d->memory_lock);
	return rc;
}

bool fhd_dpdk_memory_has(const struct fhd_dpdk_device *d, const void *at, size_t bytes)
{
	for (uint32_t i = 0; i < d->nr_memory; i++) {
		uintptr_t off = (uintptr_t)at - (uintptr_t)d->memory[i].base;

		if (off < d->memory[i].bytes && bytes <= d->memory[i].bytes - off)
			return true;
	}
	return false;
}

void fhd_dpdk_memory_drop(struct fhd_dpdk_device *d)
{
	while (d->nr_memory) {
		struct fhd_dpdk_memory *m = &d->memory[--d->nr_memory];

		if (m->mapped)
			rte_dev_dma_unmap(d->info.device, m->base, (uintptr_t)m->base, m->bytes);
		rte_extmem_unregister(m->base, m->bytes);
	}
}
