// SPDX-License-Identifier: Apache-2.0
/*
 * What calls of the module cost, in instructions.  For a machine whose time
 * stamp counter counts instructions (QEMU with -icount shift=0), one core and
 * nothing beside: `abi --cost` prints a line a figure, `COST name instructions`,
 * which tests/perf/driver_costs.py compares with what was written down.
 *
 * Each figure is the least of many tries: interrupts can only add.  Both sides
 * are this one process, and it has precedence, so that nothing is scheduled in
 * between: whether the worker that ends a channel ran before the call was over
 * or after it changed from boot to boot.  What the time stamps themselves cost
 * is taken off.
 */
#include <fcntl.h>
#include <sched.h>
#include <x86intrin.h>

#include "tests/abi/abi.h"

#define TRIES 40

static uint64_t empty;

static uint64_t now(void)
{
	uint64_t t;

	_mm_lfence();
	t = __rdtsc();
	_mm_lfence();
	return t;
}

static uint64_t least(uint64_t a, uint64_t b)
{
	return a < b ? a : b;
}

static void tell(const char *name, uint64_t cost)
{
	printf("COST %s %llu\n", name, (unsigned long long)(cost - empty));
}

/* What @fn does between two stamps, after @before and before @after, which are not counted. */
static uint64_t measure(void (*fn)(void *), void (*before)(void *), void (*after)(void *), void *arg)
{
	uint64_t best = UINT64_MAX, begin;

	for (int i = 0; i < TRIES; i++) {
		if (before)
			before(arg);
		begin = now();
		fn(arg);
		best = least(best, now() - begin);
		if (after)
			after(arg);
	}
	return best;
}

struct both {
	int ctl, client;
	struct fh_mem_import mem;
	struct fh_dma_map map;
	struct chan c, r;
	char *user;
	int memfd;
};

static void nothing(void *arg)
{
	(void)arg;
}

static void null_call(void *arg)
{
	(void)arg;
	ioctl(-1, 0, NULL);
}

static void info_client(void *arg)
{
	struct both *b = arg;
	struct fh_info info = {.size = sizeof(info)};

	CHECK(ioctl(b->client, FH_IOCTL_INFO, &info) == 0);
}

static void info_runtime(void *arg)
{
	struct both *b = arg;
	struct fh_info info = {.size = sizeof(info)};

	CHECK(ioctl(b->ctl, FH_IOCTL_INFO, &info) == 0);
}

/* --- channels ------------------------------------------------------------------------- */

static void create(void *arg)
{
	struct both *b = arg;
	struct fh_chan_create cmd = {
		.size = sizeof(cmd), .sq_entries = 8, .cq_entries = 64, .arena_bytes = 16384, .wake_fd = -1};

	CHECK(ioctl(b->client, FH_IOCTL_CHAN_CREATE, &cmd) == 0);
	b->c = (struct chan){
		.fd = b->client, .id = cmd.out_chan_id, .mmap_off = cmd.out_mmap_off, .client = true, .wake = -1};
}

static void map_client(void *arg)
{
	struct both *b = arg;

	chan_map_all(&b->c);
}

static void create_and_map(void *arg)
{
	create(arg);
	map_client(arg);
}

static void accept_one(void *arg)
{
	struct both *b = arg;
	struct fh_chan_accept cmd = {.size = sizeof(cmd), .wake_fd = -1};

	CHECK(ioctl(b->ctl, FH_IOCTL_CHAN_ACCEPT, &cmd) == 0);
	b->r = (struct chan){.fd = b->ctl, .id = cmd.out_chan_id, .mmap_off = cmd.out_mmap_off, .wake = -1};
}

static void destroy_client(void *arg)
{
	struct both *b = arg;

	CHECK(chan_destroy(&b->c) == 0);
}

static void unmap_client(void *arg)
{
	struct both *b = arg;

	for (int i = FH_NR_AREAS - 1; i >= 0; i--)
		CHECK(munmap(b->c.area[i], b->c.info->areas[i].bytes) == 0);
}

static void drop_client(void *arg)
{
	destroy_client(arg);
	unmap_client(arg);
	/* The end of a channel is a worker's work: let it run outside of what is counted. */
	usleep(1000);
}

static void drop_both(void *arg)
{
	struct both *b = arg;

	drop_client(arg);
	CHECK(chan_destroy(&b->r) == 0);
}

static void idle(void *arg)
{
	(void)arg;
	usleep(1000);
}

static void drop_created(void *arg)
{
	destroy_client(arg);
	idle(arg);
}

static void kick(void *arg)
{
	struct both *b = arg;

	CHECK(chan_kick(&b->c) == 0);
}

static void revoke_client(void *arg)
{
	struct both *b = arg;

	CHECK(chan_revoke(&b->r, FH_REVOKE_DRAIN) == 0);
}

static void create_map_accept(void *arg)
{
	create_and_map(arg);
	accept_one(arg);
}

static void touch(void *arg)
{
	struct both *b = arg;

	*(volatile char *)b->c.area[FH_AREA_ARENA] = 1;
}

static void channels(struct both *b)
{
	tell("chan_create", measure(create, NULL, drop_created, b));
	tell("chan_map_all", measure(map_client, create, drop_client, b));
	tell("chan_accept", measure(accept_one, create_and_map, drop_both, b));
	tell("chan_first_touch", measure(touch, create_and_map, drop_client, b));
	tell("chan_destroy", measure(destroy_client, create, idle, b));
	tell("chan_revoke", measure(revoke_client, create_map_accept, drop_both, b));
	create_map_accept(b);
	tell("chan_kick", measure(kick, NULL, NULL, b));
	drop_both(b);
}

/* --- regions -------------------------------------------------------------------------- */

static void import(void *arg)
{
	struct both *b = arg;

	CHECK(ioctl(b->ctl, FH_IOCTL_MEM_IMPORT, &b->mem) == 0);
}

static void destroy_region(void *arg)
{
	struct both *b = arg;
	struct fh_destroy cmd = {.size = sizeof(cmd), .id = b->mem.out_mem_id};

	CHECK(ioctl(b->ctl, FH_IOCTL_DESTROY, &cmd) == 0);
}

static void prepare(struct both *b, uint32_t type, uint64_t pages)
{
	b->mem = (struct fh_mem_import){.size = sizeof(b->mem),
					.type = type,
					.fd = type == FH_MEM_MEMFD ? b->memfd : -1,
					.length = pages * 4096};
	if (type == FH_MEM_USER)
		b->mem.addr = (uintptr_t)b->user;
}

/* One page, and how much more each further one costs: of 256, so that single steps of tables do not show. */
static void region(struct both *b, const char *name, uint32_t type)
{
	char line[64];
	uint64_t one, many;

	prepare(b, type, 1);
	one = measure(import, NULL, destroy_region, b);
	prepare(b, type, 257);
	many = measure(import, NULL, destroy_region, b);
	snprintf(line, sizeof(line), "import_%s", name);
	tell(line, one);
	printf("COST import_%s_per_256_pages %llu\n", name, (unsigned long long)(many - one));
}

static void map_for_device(void *arg)
{
	struct both *b = arg;

	b->map.num_ranges = 64;
	CHECK(dma_map(b->ctl, &b->map) == 0);
}

static void unmap_for_device(void *arg)
{
	struct both *b = arg;
	struct fh_destroy cmd = {.size = sizeof(cmd), .id = b->map.out_dma_id};

	CHECK(ioctl(b->ctl, FH_IOCTL_DESTROY, &cmd) == 0);
}

static void export(void *arg)
{
	struct both *b = arg;
	struct fh_mem_export cmd = {.size = sizeof(cmd), .mem_id = b->mem.out_mem_id};

	CHECK(ioctl(b->ctl, FH_IOCTL_MEM_EXPORT, &cmd) == 0);
	b->memfd = cmd.out_fd;
}

static void close_export(void *arg)
{
	struct both *b = arg;

	close(b->memfd);
}

static void regions(struct both *b)
{
	static struct fh_dma_range ranges[64];
	struct edu edu;

	region(b, "pages", FH_MEM_PAGES);
	region(b, "user", FH_MEM_USER);
	region(b, "memfd", FH_MEM_MEMFD);
	prepare(b, FH_MEM_PAGES, 16);
	import(b);
	tell("mem_export", measure(export, NULL, close_export, b));
	if (edu_open(&edu)) {
		b->map = (struct fh_dma_map){.target_type = FH_TARGET_PCI,
					     .target = edu.target,
					     .mem_id = b->mem.out_mem_id,
					     .ranges = (uintptr_t)ranges};
		tell("dma_map_16_pages", measure(map_for_device, NULL, unmap_for_device, b));
	}
	destroy_region(b);
}

void cost(void)
{
	struct both b = {.ctl = open_runtime(), .client = open_client()};
	const struct sched_param first = {.sched_priority = 1};

	CHECK(sched_setscheduler(0, SCHED_FIFO, &first) == 0);
	b.user = mmap(NULL, 257 * 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);
	b.memfd = memfd_create("cost", MFD_ALLOW_SEALING | MFD_CLOEXEC);
	CHECK(b.user != MAP_FAILED && b.memfd >= 0 && ftruncate(b.memfd, 257 * 4096) == 0);
	CHECK(fcntl(b.memfd, F_ADD_SEALS, F_SEAL_SHRINK) == 0);
	/* As base pages: whether the kernel finds a huge one is chance. */
	madvise(b.user, 257 * 4096, MADV_NOHUGEPAGE);
	empty = measure(nothing, NULL, NULL, &b);
	tell("null_ioctl", measure(null_call, NULL, NULL, &b));
	tell("info_client", measure(info_client, NULL, NULL, &b));
	tell("info_runtime", measure(info_runtime, NULL, NULL, &b));
	channels(&b);
	regions(&b);
	fflush(stdout);
}
