// SPDX-License-Identifier: Apache-2.0
/*
 * Hugepages: as memory at an address and as a sealed memfd.  A pin of one base
 * page keeps the whole hugepage, so the whole is charged, once.
 */
#include <fcntl.h>

#include "tests/abi/abi.h"

#define HUGE (2u << 20)

static char *huge_map(size_t bytes)
{
	char *p = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_HUGETLB, -1, 0);

	if (p == MAP_FAILED)
		SKIP("no hugepages (vm.nr_hugepages)");
	memset(p, 'h', bytes);
	return p;
}

static int import(int ctl, uint32_t type, int fd, uint64_t addr, uint64_t bytes, uint32_t *id)
{
	struct fh_mem_import cmd = {.size = sizeof(cmd), .type = type, .fd = fd, .addr = addr, .length = bytes};

	if (ioctl(ctl, FH_IOCTL_MEM_IMPORT, &cmd))
		return -1;
	*id = cmd.out_mem_id;
	return 0;
}

static int destroy(int ctl, uint32_t id)
{
	struct fh_destroy cmd = {.size = sizeof(cmd), .id = id};

	return ioctl(ctl, FH_IOCTL_DESTROY, &cmd);
}

/* A line of a file of /proc. */
static uint64_t number(const char *path, const char *format)
{
	unsigned long long value = UINT64_MAX;
	char line[256];
	FILE *f = fopen(path, "re");

	CHECK(f);
	while (fgets(line, sizeof(line), f))
		sscanf(line, format, &value);
	fclose(f);
	CHECK(value != UINT64_MAX);
	return value;
}

static uint64_t pinned_kib(void)
{
	return number("/proc/self/status", "VmPin: %llu kB");
}

static uint64_t huge_free(void)
{
	return number("/proc/meminfo", "HugePages_Free: %llu");
}

TEST(hugepages_user)
{
	int ctl = open_runtime();
	char *p = huge_map(2 * HUGE);
	uint64_t before = pinned_kib(), free_before;
	uint32_t id, part;

	CHECK(import(ctl, FH_MEM_USER, -1, (uintptr_t)p, 2 * HUGE, &id) == 0);
	CHECK(pinned_kib() == before + 2 * HUGE / 1024);
	CHECK(get_info(ctl).out_mem_bytes_used == 2 * HUGE);
	CHECK(destroy(ctl, id) == 0 && pinned_kib() == before);
	/* One base page of it, and two that lie in both. */
	CHECK(import(ctl, FH_MEM_USER, -1, (uintptr_t)p + 8192, 4096, &part) == 0);
	CHECK(pinned_kib() == before + HUGE / 1024);
	CHECK(import(ctl, FH_MEM_USER, -1, (uintptr_t)p + HUGE - 4096, 8192, &id) == 0);
	CHECK(pinned_kib() == before + 3 * HUGE / 1024);
	/* Unmapped, they are nobody else's while they are pinned. */
	free_before = huge_free();
	CHECK(munmap(p, 2 * HUGE) == 0);
	CHECK(huge_free() == free_before);
	CHECK(destroy(ctl, id) == 0 && huge_free() == free_before + 1);
	CHECK(destroy(ctl, part) == 0 && huge_free() == free_before + 2);
	CHECK(pinned_kib() == before);
}

static int huge_memfd(size_t bytes, unsigned int seals)
{
	int fd = memfd_create("abi", MFD_ALLOW_SEALING | MFD_CLOEXEC | MFD_HUGETLB);

	if (fd < 0)
		SKIP("no memfd of hugepages");
	CHECK(ftruncate(fd, (off_t)bytes) == 0);
	CHECK(fcntl(fd, F_ADD_SEALS, seals) == 0);
	return fd;
}

TEST(hugepages_memfd)
{
	int ctl = open_runtime(), fd;
	uint64_t before = pinned_kib(), maps;
	uint32_t id;

	munmap(huge_map(HUGE), HUGE);
	fd = huge_memfd(2 * HUGE, F_SEAL_SHRINK);
	maps = number("/proc/self/status", "VmSize: %llu kB");
	CHECK(import(ctl, FH_MEM_MEMFD, fd, 0, 2 * HUGE, &id) == 0);
	CHECK(pinned_kib() == before + 2 * HUGE / 1024);
	CHECK(destroy(ctl, id) == 0);
	CHECK(import(ctl, FH_MEM_MEMFD, fd, HUGE, HUGE, &id) == 0);
	CHECK(pinned_kib() == before + HUGE / 1024);
	CHECK(destroy(ctl, id) == 0 && pinned_kib() == before);
	/* Parts of a hugepage cannot be mapped, and what was tried leaves no mapping behind. */
	CHECK_ERRNO(import(ctl, FH_MEM_MEMFD, fd, 0, 4096, &id), EINVAL);
	CHECK_ERRNO(import(ctl, FH_MEM_MEMFD, fd, 4096, HUGE, &id), EINVAL);
	CHECK(number("/proc/self/status", "VmSize: %llu kB") == maps);
	CHECK_ERRNO(import(ctl, FH_MEM_MEMFD, huge_memfd(HUGE, 0), 0, HUGE, &id), EINVAL);
	CHECK(get_info(ctl).out_mem_bytes_used == 0);
}

/* For a device: the whole of it, in order. */
TEST(dma_of_hugepages)
{
	static struct fh_dma_range ranges[64];
	struct fh_dma_map cmd = {.target_type = FH_TARGET_PCI, .num_ranges = 64, .ranges = (uintptr_t)ranges};
	int ctl = open_runtime();
	uint64_t sum = 0;
	struct edu edu;
	uint32_t id;
	char *p;

	if (!edu_open(&edu) || !(get_info(ctl).out_caps & FH_CAP_DMA_MAP))
		SKIP("no edu device, or the module was loaded without unsafe_dma=1");
	p = huge_map(HUGE);
	CHECK(import(ctl, FH_MEM_USER, -1, (uintptr_t)p, HUGE, &id) == 0);
	cmd.target = edu.target;
	cmd.mem_id = id;
	CHECK(dma_map(ctl, &cmd) == 0);
	for (uint32_t i = 0; i < cmd.num_ranges; i++)
		sum += ranges[i].length;
	CHECK(sum == HUGE && cmd.num_ranges == 1);
	for (int i = 0; i < EDU_BYTES; i++)
		p[i] = (char)(i * 11 + 1);
	edu_copy(&edu, dma_bus(ranges, cmd.num_ranges, 0), EDU_MEM, EDU_BYTES, 0);
	edu_copy(&edu, EDU_MEM, dma_bus(ranges, cmd.num_ranges, HUGE - EDU_BYTES), EDU_BYTES, EDU_TO_RAM);
	CHECK(memcmp(p, p + HUGE - EDU_BYTES, EDU_BYTES) == 0);
	CHECK(p[HUGE - EDU_BYTES - 1] == 'h');
	CHECK(destroy(ctl, cmd.out_dma_id) == 0 && destroy(ctl, id) == 0);
}
