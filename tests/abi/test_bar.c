// SPDX-License-Identifier: Apache-2.0
/*
 * Memory of a GPU, stood in for by a PCI BAR (tests/vm/bar): imported as a
 * dma-buf, mapped, moved and taken away under its users, and mapped for a
 * device that does DMA into it.  What each kind of exporter refuses, the module
 * refuses too, and holds nothing afterwards.
 */
#include <fcntl.h>
#include <signal.h>
#include <sys/utsname.h>
#include <sys/wait.h>
#include <time.h>

#include "tests/abi/abi.h"
#include "tests/vm/bar/fhbar.h"

#define MIB (1u << 20)

static int bar_open(void)
{
	int fd = open(FHBAR_DEV, O_RDWR | O_CLOEXEC);

	if (fd < 0)
		SKIP("no stand-in for a GPU (QEMU's ivshmem device and tests/vm/bar)");
	return fd;
}

static int bar_export(int bar, uint64_t off, uint64_t bytes, uint32_t kind)
{
	struct fhbar_export cmd = {.off = off, .bytes = bytes, .kind = kind};

	CHECK(ioctl(bar, FHBAR_EXPORT, &cmd) == 0);
	return cmd.out_fd;
}

static int bar_move(int bar, int buf, uint64_t off)
{
	struct fhbar_move cmd = {.fd = buf, .off = off};

	return ioctl(bar, FHBAR_MOVE, &cmd);
}

static int bar_revoke(int bar, int buf)
{
	struct fhbar_move cmd = {.fd = buf, .revoke = 1};

	return ioctl(bar, FHBAR_MOVE, &cmd);
}

static void check_held(int bar, int buf, uint32_t attached, uint32_t pinned, uint32_t mapped)
{
	struct fhbar_stat st = {.fd = buf};

	CHECK(ioctl(bar, FHBAR_STAT, &st) == 0);
	if (st.out_attached == attached && st.out_pinned == pinned && st.out_mapped == mapped)
		return;
	printf("  attached %u, pinned %u, mapped %u; not %u, %u, %u\n", st.out_attached, st.out_pinned, st.out_mapped,
	       attached, pinned, mapped);
	CHECK(false);
}

static int import(int ctl, int buf, uint32_t flags, struct fh_mem_import *cmd)
{
	*cmd = (struct fh_mem_import){.size = sizeof(*cmd), .type = FH_MEM_DMABUF, .fd = buf, .flags = flags};
	return ioctl(ctl, FH_IOCTL_MEM_IMPORT, cmd);
}

static int destroy(int ctl, uint32_t id)
{
	struct fh_destroy cmd = {.size = sizeof(cmd), .id = id};

	return ioctl(ctl, FH_IOCTL_DESTROY, &cmd);
}

static char *map(int fd, uint64_t off, size_t bytes)
{
	return mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, (off_t)off);
}

/* The last column of the region's line in debugfs. */
static unsigned int moves(uint32_t id)
{
	unsigned int at, found = UINT32_MAX, nr;
	unsigned long long bytes, pages;
	char line[256], type[32];
	FILE *f = fopen("/sys/kernel/debug/freehold/regions", "re");

	CHECK(f);
	while (fgets(line, sizeof(line), f)) {
		if (sscanf(line, "%u %31s %llu %llu %u", &at, type, &bytes, &pages, &nr) == 5 && at == id)
			found = nr;
	}
	fclose(f);
	CHECK(found != UINT32_MAX);
	return found;
}

static void fill(volatile char *p, size_t bytes, char key)
{
	for (size_t i = 0; i < bytes; i += 1021)
		p[i] = (char)(key + (char)(i >> 12));
}

static bool filled(volatile const char *p, size_t bytes, char key)
{
	for (size_t i = 0; i < bytes; i += 1021) {
		if (p[i] != (char)(key + (char)(i >> 12)))
			return false;
	}
	return true;
}

TEST(bar_import)
{
	int bar = bar_open(), ctl = open_runtime();
	int buf = bar_export(bar, 0, MIB, FHBAR_DYNAMIC);
	struct fh_mem_import mem;
	char *p, *q;

	CHECK(import(ctl, buf, 0, &mem) == 0);
	CHECK(mem.length == MIB && mem.out_mmap_off);
	/* Held, and free to move: neither pinned nor mapped for anybody. */
	check_held(bar, buf, 1, 0, 0);
	p = map(ctl, mem.out_mmap_off, MIB);
	q = map(buf, 0, MIB);
	CHECK(p != MAP_FAILED && q != MAP_FAILED);
	fill(p, MIB, 'a');
	CHECK(filled(q, MIB, 'a'));
	CHECK_ERRNO((long)map(ctl, mem.out_mmap_off, MIB + 4096), EINVAL);
	CHECK(destroy(ctl, mem.out_mem_id) == 0);
	check_held(bar, buf, 0, 0, 0);
	CHECK(get_info(ctl).out_mem_bytes_used == 0);
}

TEST(bar_pinned)
{
	int bar = bar_open(), ctl = open_runtime();
	int buf = bar_export(bar, 0, MIB, FHBAR_DYNAMIC);
	struct fh_mem_import mem;

	CHECK(import(ctl, buf, FH_MEM_PIN, &mem) == 0);
	check_held(bar, buf, 1, 1, 0);
	CHECK_ERRNO(bar_move(bar, buf, 2 * MIB), EBUSY);
	CHECK_ERRNO(bar_revoke(bar, buf), EBUSY);
	CHECK(moves(mem.out_mem_id) == 0);
	CHECK(destroy(ctl, mem.out_mem_id) == 0);
	check_held(bar, buf, 0, 0, 0);
	CHECK(bar_move(bar, buf, 2 * MIB) == 0);
	/* The file's end unpins as well. */
	CHECK(import(ctl, buf, FH_MEM_PIN, &mem) == 0);
	close(ctl);
	check_held(bar, buf, 0, 0, 0);
	CHECK(bar_revoke(bar, buf) == 0);
}

TEST(bar_moves)
{
	int bar = bar_open(), ctl = open_runtime();
	int buf = bar_export(bar, 0, MIB, FHBAR_DYNAMIC), next;
	struct fh_mem_import mem;
	char *p, *q;

	CHECK(import(ctl, buf, 0, &mem) == 0);
	p = map(ctl, mem.out_mmap_off, MIB);
	CHECK(p != MAP_FAILED);
	fill(p, MIB, 'm');
	for (unsigned int i = 1; i < 8; i++) {
		CHECK(bar_move(bar, buf, (uint64_t)i * 2 * MIB) == 0);
		CHECK(moves(mem.out_mem_id) == i);
		/* Another has the old place at once, and neither sees the other. */
		next = bar_export(bar, (uint64_t)(i - 1) * 2 * MIB, MIB, FHBAR_DYNAMIC);
		q = map(next, 0, MIB);
		CHECK(q != MAP_FAILED);
		fill(q, MIB, 'x');
		CHECK(filled(p, MIB, 'm'));
		fill(p, MIB, 'm');
		CHECK(filled(q, MIB, 'x'));
		CHECK(munmap(q, MIB) == 0);
		close(next);
	}
}

TEST(bar_revoked)
{
	int bar = bar_open(), ctl = open_runtime();
	int buf = bar_export(bar, 0, MIB, FHBAR_DYNAMIC), next;
	struct fh_mem_import mem, again;
	char *p, *q;

	CHECK(import(ctl, buf, 0, &mem) == 0);
	p = map(ctl, mem.out_mmap_off, MIB);
	CHECK(p != MAP_FAILED);
	fill(p, MIB, 'r');
	CHECK(bar_revoke(bar, buf) == 0);
	CHECK(moves(mem.out_mem_id) == 1);
	next = bar_export(bar, 0, MIB, FHBAR_DYNAMIC);
	q = map(next, 0, MIB);
	CHECK(q != MAP_FAILED);
	fill(q, MIB, 'n');
	/* Never another's memory. */
	for (size_t at = 0; at < MIB; at += MIB / 16)
		CHECK(touch_is_sigbus(p + at, true));
	CHECK(filled(q, MIB, 'n'));
	/* It can still be held, but not pinned. */
	CHECK(import(ctl, buf, 0, &again) == 0);
	CHECK(destroy(ctl, again.out_mem_id) == 0);
	CHECK_ERRNO(import(ctl, buf, FH_MEM_PIN, &again), ENODEV);
	check_held(bar, buf, 1, 0, 0);
	CHECK(get_info(ctl).out_mem_bytes_used == MIB);
}

/* No operation at all, and one that refuses with a number that user space does not know. */
TEST(bar_no_cpu_mapping)
{
	int bar = bar_open(), ctl = open_runtime();
	int none = bar_export(bar, 0, MIB, FHBAR_NO_MMAP), nvidia = bar_export(bar, MIB, MIB, FHBAR_STATIC);
	struct fh_mem_import mem;

	CHECK(import(ctl, none, 0, &mem) == 0);
	CHECK(mem.out_mmap_off == 0);
	CHECK_ERRNO((long)map(ctl, (1ull << 61) | (uint64_t)mem.out_mem_id << 40, MIB), EOPNOTSUPP);
	check_held(bar, none, 1, 0, 0);
	CHECK(destroy(ctl, mem.out_mem_id) == 0);

	CHECK(import(ctl, nvidia, 0, &mem) == 0);
	CHECK_ERRNO((long)map(ctl, mem.out_mmap_off, MIB), EOPNOTSUPP);
	/* It cannot move, so that it is held without being mapped for anybody. */
	check_held(bar, nvidia, 1, 0, 0);
	CHECK(destroy(ctl, mem.out_mem_id) == 0);
	CHECK(import(ctl, nvidia, FH_MEM_PIN, &mem) == 0);
	CHECK_ERRNO(bar_move(bar, nvidia, 2 * MIB), EBUSY);
	CHECK(destroy(ctl, mem.out_mem_id) == 0);
	check_held(bar, nvidia, 0, 0, 0);
	check_held(bar, none, 0, 0, 0);
}

/* --- for another device ------------------------------------------------------------- */

/* The kernels of debug.config have peer-to-peer DMA; Debian's have not. */
static bool p2p_expected(void)
{
	struct utsname un;

	CHECK(uname(&un) == 0);
	return strstr(un.release, "-fhdbg");
}

struct target {
	int bar, ctl, buf;
	struct edu edu;
	struct fh_mem_import mem;
	struct fh_dma_range ranges[64];
	struct fh_dma_map map;
};

static void target_open(struct target *t, uint32_t kind)
{
	t->bar = bar_open();
	t->ctl = open_runtime();
	if (!edu_open(&t->edu))
		SKIP("no edu device (QEMU has one)");
	if (!(get_info(t->ctl).out_caps & FH_CAP_DMA_MAP))
		SKIP("the module was loaded without unsafe_dma=1");
	t->buf = bar_export(t->bar, 0, MIB, kind);
	CHECK(import(t->ctl, t->buf, 0, &t->mem) == 0);
	t->map = (struct fh_dma_map){.target_type = FH_TARGET_PCI,
				     .target = t->edu.target,
				     .mem_id = t->mem.out_mem_id,
				     .num_ranges = 64,
				     .ranges = (uintptr_t)t->ranges};
}

static void use_for_dma(struct target *t)
{
	char *p = map(t->ctl, t->mem.out_mmap_off, MIB);
	uint64_t there;

	CHECK(p != MAP_FAILED);
	CHECK(dma_map(t->ctl, &t->map) == 0);
	there = dma_bus(t->ranges, t->map.num_ranges, 65536);
	check_held(t->bar, t->buf, 2, 1, 1);
	CHECK_ERRNO(bar_move(t->bar, t->buf, 4 * MIB), EBUSY);
	CHECK_ERRNO(destroy(t->ctl, t->mem.out_mem_id), EBUSY);
	for (int i = 0; i < EDU_BYTES; i++)
		p[i] = (char)(i * 5 + 3);
	edu_copy(&t->edu, dma_bus(t->ranges, t->map.num_ranges, 0), EDU_MEM, EDU_BYTES, 0);
	edu_copy(&t->edu, EDU_MEM, there, EDU_BYTES, EDU_TO_RAM);
	CHECK(memcmp(p, p + 65536, EDU_BYTES) == 0);
	/* Taken back, moved, and the device's address leads nowhere. */
	CHECK(destroy(t->ctl, t->map.out_dma_id) == 0);
	check_held(t->bar, t->buf, 1, 0, 0);
	memset(p + 65536, 'k', EDU_BYTES);
	CHECK(bar_move(t->bar, t->buf, 4 * MIB) == 0);
	edu_copy(&t->edu, EDU_MEM, there, EDU_BYTES, EDU_TO_RAM);
	for (int i = 0; i < EDU_BYTES; i++)
		CHECK(p[65536 + i] == 'k');
}

static void refused_for_dma(struct target *t, int want)
{
	CHECK_ERRNO(dma_map(t->ctl, &t->map), want);
	CHECK(t->map.out_dma_id == 0 && state_count("dma_maps") == 0);
}

/* A device that reaches the BAR does DMA into it; one that does not is refused, and nothing stays held. */
TEST(dma_of_bar)
{
	static struct target t;

	target_open(&t, FHBAR_DYNAMIC);
	if (p2p_expected())
		return use_for_dma(&t);
	refused_for_dma(&t, EREMOTEIO);
	check_held(t.bar, t.buf, 1, 0, 0);
	CHECK(bar_move(t.bar, t.buf, 4 * MIB) == 0);
}

/* An exporter that does not say why it refuses: the kernel makes ENOMEM of it. */
TEST(dma_of_bar_static)
{
	static struct target t;

	target_open(&t, FHBAR_STATIC);
	if (p2p_expected()) {
		CHECK(dma_map(t.ctl, &t.map) == 0);
		check_held(t.bar, t.buf, 2, 0, 1);
		CHECK(destroy(t.ctl, t.map.out_dma_id) == 0);
	} else {
		refused_for_dma(&t, ENOMEM);
	}
	check_held(t.bar, t.buf, 1, 0, 0);
}

TEST(dma_of_bar_revoked)
{
	static struct target t;

	target_open(&t, FHBAR_DYNAMIC);
	CHECK(bar_revoke(t.bar, t.buf) == 0);
	refused_for_dma(&t, ENODEV);
	check_held(t.bar, t.buf, 1, 0, 0);
}

/* --- under fire ----------------------------------------------------------------------- */

static void nap_ms(long ms)
{
	struct timespec ts = {.tv_nsec = ms * 1000000};

	nanosleep(&ts, NULL);
}

/* Writes and reads its own pages until they are taken away. */
static void uses_until_sigbus(void *arg)
{
	volatile char *p = arg;

	for (unsigned int i = 0;; i++) {
		size_t at = (size_t)(i * 4096) % MIB;

		if (touch_is_sigbus(p + at, true))
			return;
		/* Between two faults it may have been taken away. */
		if (touch_is_sigbus(p + at, false))
			return;
	}
}

TEST(bar_moves_under_fire)
{
	int bar = bar_open(), ctl = open_runtime();
	unsigned int rounds = setting("FH_ROUNDS", 50) / 5;

	alarm(120 + rounds);
	for (unsigned int round = 0; round < rounds; round++) {
		int buf = bar_export(bar, 0, MIB, FHBAR_DYNAMIC);
		struct fh_mem_import mem;
		pid_t pid[2];
		char *p;

		CHECK(import(ctl, buf, 0, &mem) == 0);
		p = map(ctl, mem.out_mmap_off, MIB);
		CHECK(p != MAP_FAILED);
		for (int i = 0; i < 2; i++)
			pid[i] = spawn(uses_until_sigbus, p);
		for (uint64_t i = 1; i < 6; i++) {
			CHECK(bar_move(bar, buf, i * 2 * MIB) == 0);
			nap_ms(round % 3);
		}
		CHECK(bar_revoke(bar, buf) == 0);
		for (int i = 0; i < 2; i++)
			reap(pid[i]);
		CHECK(munmap(p, MIB) == 0 && destroy(ctl, mem.out_mem_id) == 0);
		check_held(bar, buf, 0, 0, 0);
		close(buf);
	}
}
