// SPDX-License-Identifier: Apache-2.0
/*
 * QEMU's edu device, a bus master behind an IOMMU: what the tests of DMA maps
 * and of the stand-in for a GPU share; see abi.h.
 */
#include <dirent.h>
#include <fcntl.h>
#include <time.h>

#include "tests/abi/abi.h"

enum { EDU_SRC = 0x80, EDU_DST = 0x88, EDU_COUNT = 0x90, EDU_CMD = 0x98, EDU_START = 1 };

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

static bool find(char *name, size_t room)
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

static volatile uint8_t *map_registers(const char *name)
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

void edu_copy(const struct edu *edu, uint64_t from, uint64_t to, uint64_t bytes, uint64_t cmd)
{
	volatile uint8_t *bar = edu->bar;

	*(volatile uint64_t *)(bar + EDU_SRC) = from;
	*(volatile uint64_t *)(bar + EDU_DST) = to;
	*(volatile uint64_t *)(bar + EDU_COUNT) = bytes;
	*(volatile uint64_t *)(bar + EDU_CMD) = EDU_START | cmd;
	for (int i = 0; i < 500 && (*(volatile uint64_t *)(bar + EDU_CMD) & EDU_START); i++)
		nap();
	CHECK(!(*(volatile uint64_t *)(bar + EDU_CMD) & EDU_START));
}

/* The first one; false: there is none. */
bool edu_open(struct edu *edu)
{
	unsigned int domain, bus, dev, fn;
	char name[256];

	if (!find(name, sizeof(name)))
		return false;
	CHECK(sscanf(name, "%x:%x:%x.%x", &domain, &bus, &dev, &fn) == 4);
	edu->target = domain << 16 | bus << 8 | dev << 3 | fn;
	edu->bar = map_registers(name);
	return true;
}

int dma_map(int ctl, struct fh_dma_map *cmd)
{
	cmd->size = sizeof(*cmd);
	return ioctl(ctl, FH_IOCTL_DMA_MAP, cmd);
}

/* Where byte @off of the region is, for the device. */
uint64_t dma_bus(const struct fh_dma_range *r, uint32_t nr, uint64_t off)
{
	for (uint32_t i = 0; i < nr; i++) {
		if (off < r[i].length)
			return r[i].dma_addr + off;
		off -= r[i].length;
	}
	CHECK(false);
	return 0;
}
