// SPDX-License-Identifier: Apache-2.0
/*
 * A DMA map, used: QEMU's edu device, a bus master behind an IOMMU, moves
 * bytes from and to a region at the addresses that the module gave out, and no
 * longer once they have been taken back.
 */
#include <dirent.h>
#include <time.h>

#include "tests/abi/abi.h"

static void nap(void)
{
	struct timespec ts = {.tv_nsec = 20000000};

	nanosleep(&ts, NULL);
}

TEST(dma_edu)
{
	static struct fh_dma_range ranges[64];
	struct fh_mem_import mem = {.size = sizeof(mem), .type = FH_MEM_PAGES, .fd = -1, .length = 65536};
	struct fh_dma_map cmd = {.target_type = FH_TARGET_PCI, .ranges = (uintptr_t)ranges};
	int ctl = open_runtime();
	uint64_t sum = 0;
	struct edu edu;
	char *p;

	if (!edu_open(&edu))
		SKIP("no edu device (QEMU has one)");
	if (!(get_info(ctl).out_caps & FH_CAP_DMA_MAP))
		SKIP("the module was loaded without unsafe_dma=1");
	cmd.target = edu.target;
	CHECK(ioctl(ctl, FH_IOCTL_MEM_IMPORT, &mem) == 0);
	cmd.mem_id = mem.out_mem_id;
	p = mmap(NULL, 65536, PROT_READ | PROT_WRITE, MAP_SHARED, ctl, (off_t)mem.out_mmap_off);
	CHECK(p != MAP_FAILED);

	/* Too small an array says how large it has to be, and maps nothing. */
	CHECK_ERRNO(dma_map(ctl, &cmd), EMSGSIZE);
	CHECK(cmd.num_ranges >= 1 && cmd.num_ranges <= 16 && cmd.out_dma_id == 0);
	CHECK(state_count("dma_maps") == 0);
	cmd.num_ranges = 64;
	CHECK(dma_map(ctl, &cmd) == 0);
	CHECK(state_count("dma_maps") == 1);
	for (uint32_t i = 0; i < cmd.num_ranges; i++)
		sum += ranges[i].length;
	CHECK(sum == 65536);
	/* Its region stays while it is mapped. */
	struct fh_destroy destroy = {.size = sizeof(destroy), .id = mem.out_mem_id};
	CHECK_ERRNO(ioctl(ctl, FH_IOCTL_DESTROY, &destroy), EBUSY);

	for (int i = 0; i < EDU_BYTES; i++)
		p[i] = (char)(i * 7 + 1);
	edu_copy(&edu, dma_bus(ranges, cmd.num_ranges, 0), EDU_MEM, EDU_BYTES, 0);
	edu_copy(&edu, EDU_MEM, dma_bus(ranges, cmd.num_ranges, 8192), EDU_BYTES, EDU_TO_RAM);
	CHECK(memcmp(p, p + 8192, EDU_BYTES) == 0);
	CHECK(p[8191] == 0 && p[8192 + EDU_BYTES] == 0);

	/* Taken back: the IOMMU lets nothing through any more. */
	destroy.id = cmd.out_dma_id;
	CHECK(ioctl(ctl, FH_IOCTL_DESTROY, &destroy) == 0);
	nap();
	memset(p + 8192, 0, EDU_BYTES);
	edu_copy(&edu, EDU_MEM, dma_bus(ranges, cmd.num_ranges, 8192), EDU_BYTES, EDU_TO_RAM);
	nap();
	for (int i = 0; i < EDU_BYTES; i++)
		CHECK(p[8192 + i] == 0);
	destroy.id = mem.out_mem_id;
	CHECK(ioctl(ctl, FH_IOCTL_DESTROY, &destroy) == 0);
}

/* An imported dma-buf: mapped through an attachment of the device, with the IOMMU between. */
TEST(dma_of_dmabuf)
{
	static struct fh_dma_range ranges[64];
	struct fh_mem_import mem = {.size = sizeof(mem), .type = FH_MEM_PAGES, .fd = -1, .length = 65536}, back;
	struct fh_dma_map cmd = {.target_type = FH_TARGET_PCI, .num_ranges = 64, .ranges = (uintptr_t)ranges};
	struct fh_mem_export out = {.size = sizeof(out)};
	struct fh_destroy destroy = {.size = sizeof(destroy)};
	int ctl = open_runtime();
	struct edu edu;
	char *p;

	if (!edu_open(&edu) || !(get_info(ctl).out_caps & FH_CAP_DMA_MAP))
		SKIP("no edu device, or the module was loaded without unsafe_dma=1");
	CHECK(ioctl(ctl, FH_IOCTL_MEM_IMPORT, &mem) == 0);
	out.mem_id = mem.out_mem_id;
	CHECK(ioctl(ctl, FH_IOCTL_MEM_EXPORT, &out) == 0);
	back = (struct fh_mem_import){.size = sizeof(back), .type = FH_MEM_DMABUF, .fd = out.out_fd};
	CHECK(ioctl(ctl, FH_IOCTL_MEM_IMPORT, &back) == 0);
	cmd.target = edu.target;
	cmd.mem_id = back.out_mem_id;
	CHECK(dma_map(ctl, &cmd) == 0);
	p = mmap(NULL, 65536, PROT_READ | PROT_WRITE, MAP_SHARED, out.out_fd, 0);
	CHECK(p != MAP_FAILED);
	for (int i = 0; i < EDU_BYTES; i++)
		p[i] = (char)(i * 13 + 5);
	edu_copy(&edu, dma_bus(ranges, cmd.num_ranges, 0), EDU_MEM, EDU_BYTES, 0);
	edu_copy(&edu, EDU_MEM, dma_bus(ranges, cmd.num_ranges, 32768), EDU_BYTES, EDU_TO_RAM);
	CHECK(memcmp(p, p + 32768, EDU_BYTES) == 0);
	destroy.id = back.out_mem_id;
	CHECK_ERRNO(ioctl(ctl, FH_IOCTL_DESTROY, &destroy), EBUSY);
	destroy.id = cmd.out_dma_id;
	CHECK(ioctl(ctl, FH_IOCTL_DESTROY, &destroy) == 0);
	/* Three maps at once, of the region too, left to the file's end. */
	for (int i = 0; i < 3; i++) {
		cmd.num_ranges = 64;
		cmd.mem_id = i ? mem.out_mem_id : back.out_mem_id;
		CHECK(dma_map(ctl, &cmd) == 0);
	}
	CHECK(state_count("dma_maps") == 3);
}

/* A device that has a driver is that driver's. */
TEST(dma_busy_device)
{
	struct fh_mem_import mem = {.size = sizeof(mem), .type = FH_MEM_PAGES, .fd = -1, .length = 4096};
	struct fh_dma_map cmd = {.target_type = FH_TARGET_PCI};
	DIR *dir = opendir("/sys/bus/pci/devices");
	int ctl = open_runtime(), tried = 0;
	unsigned int domain, b, d, f;
	struct dirent *e;
	char path[512];

	if (!(get_info(ctl).out_caps & FH_CAP_DMA_MAP))
		SKIP("the module was loaded without unsafe_dma=1");
	CHECK(ioctl(ctl, FH_IOCTL_MEM_IMPORT, &mem) == 0);
	cmd.mem_id = mem.out_mem_id;
	while (dir && (e = readdir(dir))) {
		snprintf(path, sizeof(path), "/sys/bus/pci/devices/%s/driver", e->d_name);
		if (access(path, F_OK) || sscanf(e->d_name, "%x:%x:%x.%x", &domain, &b, &d, &f) != 4)
			continue;
		cmd.target = domain << 16 | b << 8 | d << 3 | f;
		CHECK_ERRNO(dma_map(ctl, &cmd), EBUSY);
		tried++;
	}
	if (!tried)
		SKIP("no PCI device with a driver");
}
