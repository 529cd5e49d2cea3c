// SPDX-License-Identifier: Apache-2.0
/*
 * A DMA map, used: QEMU's edu device, a bus master behind an IOMMU, moves
 * bytes from and to a region at the addresses that the module gave out, and no
 * longer once they have been taken back.
 */
#include <dirent.h>
#include <fcntl.h>
#include <time.h>

#include "tests/abi/abi.h"

/* The device's registers, and its own memory as its DMA engine sees it. */
enum { EDU_SRC = 0x80, EDU_DST = 0x88, EDU_COUNT = 0x90, EDU_CMD = 0x98, EDU_MEM = 0x40000, EDU_BYTES = 2048 };
enum { EDU_START = 1, EDU_TO_RAM = 2 };

static bool reads(const char *dev, const char *file, const char *want)
{
	char path[512], text[64] = "";
	FILE *f;

	snprintf(path, sizeof(path), "/sys/bus/pci/devices/%s/%s", dev, file);
	f = fopen(path, "re");
	if (!f)
		return false;
	bool ok = fgets(text, sizeof(text), f) && strncmp(text, want, strlen(want)) == 0;
	fclose(f);
	return ok;
}

static bool edu_find(char *name, size_t room)
{
	DIR *dir = opendir("/sys/bus/pci/devices");
	struct dirent *e;
	bool found = false;

	while (dir && !found && (e = readdir(dir))) {
		if (!reads(e->d_name, "vendor", "0x1234") || !reads(e->d_name, "device", "0x11e8"))
			continue;
		snprintf(name, room, "%s", e->d_name);
		found = true;
	}
	if (dir)
		closedir(dir);
	return found;
}

static volatile uint8_t *edu_open(const char *name)
{
	uint16_t command;
	char path[512];
	void *bar;
	int fd;

	snprintf(path, sizeof(path), "/sys/bus/pci/devices/%s/config", name);
	fd = open(path, O_RDWR | O_CLOEXEC);
	CHECK(fd >= 0 && pread(fd, &command, 2, 4) == 2);
	command |= 6; /* memory space, bus master */
	CHECK(pwrite(fd, &command, 2, 4) == 2);
	close(fd);
	snprintf(path, sizeof(path), "/sys/bus/pci/devices/%s/resource0", name);
	fd = open(path, O_RDWR | O_CLOEXEC);
	CHECK(fd >= 0);
	bar = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	CHECK(bar != MAP_FAILED);
	close(fd);
	return bar;
}

static void nap(void)
{
	struct timespec ts = {.tv_nsec = 20000000};

	nanosleep(&ts, NULL);
}

static void edu_copy(volatile uint8_t *bar, uint64_t from, uint64_t to, uint64_t bytes, uint64_t cmd)
{
	*(volatile uint64_t *)(bar + EDU_SRC) = from;
	*(volatile uint64_t *)(bar + EDU_DST) = to;
	*(volatile uint64_t *)(bar + EDU_COUNT) = bytes;
	*(volatile uint64_t *)(bar + EDU_CMD) = EDU_START | cmd;
	for (int i = 0; i < 500 && (*(volatile uint64_t *)(bar + EDU_CMD) & EDU_START); i++)
		nap();
	CHECK(!(*(volatile uint64_t *)(bar + EDU_CMD) & EDU_START));
}

static int dma_map(int ctl, struct fh_dma_map *cmd)
{
	cmd->size = sizeof(*cmd);
	return ioctl(ctl, FH_IOCTL_DMA_MAP, cmd);
}

/* Where byte @off of the region is, for the device. */
static uint64_t bus(const struct fh_dma_range *r, uint32_t nr, uint64_t off)
{
	for (uint32_t i = 0; i < nr; i++) {
		if (off < r[i].length)
			return r[i].dma_addr + off;
		off -= r[i].length;
	}
	CHECK(false);
	return 0;
}

TEST(dma_edu)
{
	static struct fh_dma_range ranges[64];
	struct fh_mem_import mem = {.size = sizeof(mem), .type = FH_MEM_PAGES, .fd = -1, .length = 65536};
	struct fh_dma_map cmd = {.target_type = FH_TARGET_PCI, .ranges = (uintptr_t)ranges};
	unsigned int domain, b, d, f;
	int ctl = open_runtime();
	volatile uint8_t *bar;
	uint64_t sum = 0;
	char name[256];
	char *p;

	if (!edu_find(name, sizeof(name)))
		SKIP("no edu device (QEMU has one)");
	if (!(get_info(ctl).out_caps & FH_CAP_DMA_MAP))
		SKIP("the module was loaded without unsafe_dma=1");
	CHECK(sscanf(name, "%x:%x:%x.%x", &domain, &b, &d, &f) == 4);
	cmd.target = domain << 16 | b << 8 | d << 3 | f;
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

	bar = edu_open(name);
	for (int i = 0; i < EDU_BYTES; i++)
		p[i] = (char)(i * 7 + 1);
	edu_copy(bar, bus(ranges, cmd.num_ranges, 0), EDU_MEM, EDU_BYTES, 0);
	edu_copy(bar, EDU_MEM, bus(ranges, cmd.num_ranges, 8192), EDU_BYTES, EDU_TO_RAM);
	CHECK(memcmp(p, p + 8192, EDU_BYTES) == 0);
	CHECK(p[8191] == 0 && p[8192 + EDU_BYTES] == 0);

	/* Taken back: the IOMMU lets nothing through any more. */
	destroy.id = cmd.out_dma_id;
	CHECK(ioctl(ctl, FH_IOCTL_DESTROY, &destroy) == 0);
	nap();
	memset(p + 8192, 0, EDU_BYTES);
	edu_copy(bar, EDU_MEM, bus(ranges, cmd.num_ranges, 8192), EDU_BYTES, EDU_TO_RAM);
	nap();
	for (int i = 0; i < EDU_BYTES; i++)
		CHECK(p[8192 + i] == 0);
	destroy.id = mem.out_mem_id;
	CHECK(ioctl(ctl, FH_IOCTL_DESTROY, &destroy) == 0);
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
