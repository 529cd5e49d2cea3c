// SPDX-License-Identifier: Apache-2.0
/* Calls with plausible arguments, some of whose bytes are not; see fuzz.h. */
#include <fcntl.h>
#include <sys/eventfd.h>

#include "tests/abi/fuzz.h"
#include "tests/vm/bar/fhbar.h"

static uint32_t id(struct fuzz_thread *t)
{
	return fuzz_rand(t, 16) ? 1 + fuzz_rand(t, 12) : (uint32_t)fuzz_u64(t);
}

static int wake(struct fuzz_thread *t)
{
	return fuzz_rand(t, 3) ? fuzz_fd(t) : -1;
}

static uint32_t entries(struct fuzz_thread *t)
{
	return fuzz_rand(t, 8) ? 1u << fuzz_rand(t, 9) : (uint32_t)fuzz_u64(t);
}

static uint64_t length(struct fuzz_thread *t)
{
	return fuzz_rand(t, 8) ? (1 + fuzz_rand(t, 64)) * 4096ull : fuzz_u64(t);
}

/* Memory of this thread, whatever is mapped there by now. */
static uint64_t address(struct fuzz_thread *t)
{
	unsigned int i = fuzz_rand(t, FUZZ_MAPS);

	if (!fuzz_rand(t, 8))
		return fuzz_u64(t);
	return (uintptr_t)t->map[i].p + fuzz_rand(t, (uint32_t)(t->map[i].bytes >> 12) + 1) * 4096ull;
}

static uint32_t import(struct fuzz_thread *t, struct fh_mem_import *cmd)
{
	cmd->type = fuzz_rand(t, 32) ? 1 + fuzz_rand(t, 4) : (uint32_t)fuzz_u64(t);
	cmd->flags = fuzz_rand(t, 4) ? 0 : 1u << fuzz_rand(t, 2);
	cmd->fd = cmd->type == FH_MEM_PAGES || cmd->type == FH_MEM_USER ? -1 : fuzz_fd(t);
	cmd->length = cmd->type == FH_MEM_DMABUF ? 0 : length(t);
	if (cmd->type == FH_MEM_USER)
		cmd->addr = address(t);
	else if (cmd->type == FH_MEM_MEMFD)
		cmd->addr = fuzz_rand(t, 4) * 4096ull;
	return sizeof(*cmd);
}

static uint32_t dma(struct fuzz_thread *t, struct fh_dma_map *cmd)
{
	static struct fh_dma_range ranges[64];

	cmd->mem_id = id(t);
	cmd->target_type = fuzz_rand(t, 8) ? FH_TARGET_PCI : fuzz_rand(t, 4);
	cmd->target = fuzz_rand(t, 8) ? t->target : fuzz_u64(t);
	cmd->num_ranges = fuzz_rand(t, 8) ? fuzz_rand(t, 65) : (uint32_t)fuzz_u64(t) & 0xfffff;
	/* Ours is written by all threads at once, and a count beyond it goes into what follows: memory of ours. */
	cmd->ranges = cmd->num_ranges <= 64 ? (uintptr_t)ranges : fuzz_u64(t) | 1ull << 63;
	return sizeof(*cmd);
}

/* The ranges of an answer go to @ranges only; everything else stays in @arg. */
static unsigned long fill(struct fuzz_thread *t, void *arg, uint32_t *size)
{
	struct fh_chan_create *create = arg;
	struct fh_chan_accept *accept = arg;
	struct fh_chan_revoke *revoke = arg;
	struct fh_mem_export *export = arg;
	struct fh_destroy *destroy = arg;
	struct fh_chan_kick *kick = arg;

	switch (fuzz_rand(t, 14)) {
	case 0: *size = sizeof(struct fh_info); return FH_IOCTL_INFO;
	case 1:
	case 2:
		destroy->id = id(t);
		*size = sizeof(*destroy);
		return FH_IOCTL_DESTROY;
	case 3:
	case 4:
		create->sq_entries = entries(t);
		create->cq_entries = entries(t);
		create->arena_bytes = length(t);
		create->wake_fd = wake(t);
		*size = sizeof(*create);
		return FH_IOCTL_CHAN_CREATE;
	case 5:
	case 6:
		accept->wake_fd = wake(t);
		*size = sizeof(*accept);
		return FH_IOCTL_CHAN_ACCEPT;
	case 7:
		kick->chan_id = id(t);
		*size = sizeof(*kick);
		return FH_IOCTL_CHAN_KICK;
	case 8:
		revoke->chan_id = id(t);
		revoke->reason = fuzz_rand(t, 5);
		*size = sizeof(*revoke);
		return FH_IOCTL_CHAN_REVOKE;
	case 9:
	case 10:
	case 11: *size = import(t, arg); return FH_IOCTL_MEM_IMPORT;
	case 12:
		export->mem_id = id(t);
		*size = sizeof(*export);
		return FH_IOCTL_MEM_EXPORT;
	default: *size = dma(t, arg); return FH_IOCTL_DMA_MAP;
	}
}

static uint32_t wrong_size(struct fuzz_thread *t, uint32_t size)
{
	switch (fuzz_rand(t, 6)) {
	case 0: return size - 1;
	case 1: return size + 1 + fuzz_rand(t, 200);
	case 2: return size + 4096;
	case 3: return 0;
	case 4: return size / 2;
	default: return (uint32_t)fuzz_u64(t);
	}
}

/* The dma-bufs and devices around ours. */
static void call_others(struct fuzz_thread *t)
{
	uint64_t sync = fuzz_rand(t, 8);
	struct fhbar_move move = {
		.fd = fuzz_fd(t), .revoke = !fuzz_rand(t, 8), .off = (uint64_t)fuzz_rand(t, 4096) * 4096};

	switch (fuzz_rand(t, 4)) {
	case 0: ioctl(fuzz_fd(t), _IOW('b', 0, uint64_t) /* DMA_BUF_IOCTL_SYNC */, &sync); break;
	case 1: ioctl(fuzz_fd(t), FHBAR_MOVE, &move); break;
	case 2: ioctl(fuzz_fd(t), _IO(FH_IOC_TYPE, fuzz_rand(t, 256)), &sync); break;
	default: ioctl(fuzz_fd(t), (unsigned long)fuzz_u64(t), NULL); break;
	}
}

void fuzz_call(struct fuzz_thread *t)
{
	/* A page, and behind it none: an argument may end with it. */
	static __thread char *page;
	uint8_t arg[256] = {0};
	unsigned long cmd;
	uint32_t size;
	char *at;

	if (!fuzz_rand(t, 12))
		return call_others(t);
	if (!page) {
		page = mmap(NULL, 8192, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
		if (page == MAP_FAILED || munmap(page + 4096, 4096))
			_exit(1);
	}
	cmd = fill(t, arg, &size);
	memcpy(arg, &size, sizeof(size));
	if (!fuzz_rand(t, 8)) {
		uint32_t wrong = wrong_size(t, size);
		memcpy(arg, &wrong, sizeof(wrong));
	}
	while (!fuzz_rand(t, 6))
		arg[4 + fuzz_rand(t, size - 4)] = (uint8_t)fuzz_u64(t);
	at = fuzz_rand(t, 4) ? page : page + 4096 - size;
	memcpy(at, arg, size);
	if (!fuzz_rand(t, 32))
		at = (char *)(uintptr_t)address(t);
	/* An answer that cannot be written: what was made for it has to go again. */
	if (!fuzz_rand(t, 16))
		mprotect(page, 4096, PROT_READ);
	if (ioctl(fuzz_fd(t), cmd, at) == 0 && cmd == FH_IOCTL_MEM_EXPORT && at >= page && at <= page + 4096 - size) {
		struct fh_mem_export answer;

		memcpy(&answer, at, sizeof(answer));
		if (answer.size == sizeof(answer))
			fuzz_keep(t, answer.out_fd);
	}
	mprotect(page, 4096, PROT_READ | PROT_WRITE);
}

static int bar_buffer(struct fuzz_thread *t)
{
	struct fhbar_export cmd = {.off = (uint64_t)fuzz_rand(t, 4000) * 4096,
				   .bytes = (1 + fuzz_rand(t, 64)) * 4096ull,
				   .kind = fuzz_rand(t, FHBAR_NR_KINDS)};
	int fd = open(FHBAR_DEV, O_RDWR | O_CLOEXEC), rc;

	if (fd < 0)
		return -1;
	rc = ioctl(fd, FHBAR_EXPORT, &cmd);
	/* The device itself goes into the pool, for FHBAR_MOVE. */
	fuzz_keep(t, fd);
	return rc ? -1 : cmd.out_fd;
}

static int memory_file(struct fuzz_thread *t, bool of_dmabuf)
{
	int fd = memfd_create("fuzz", MFD_ALLOW_SEALING | MFD_CLOEXEC);
	struct {
		uint32_t memfd, flags;
		uint64_t offset, size;
	} cmd = {.flags = 1, .size = (1 + fuzz_rand(t, 32)) * 4096ull};
	int dev, rc;

	if (fd < 0 || ftruncate(fd, (off_t)cmd.size) ||
	    fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK | (int)fuzz_rand(t, 2) * 8))
		return fd;
	if (!of_dmabuf)
		return fd;
	dev = open("/dev/udmabuf", O_RDWR | O_CLOEXEC);
	cmd.memfd = (uint32_t)fd;
	rc = dev < 0 ? -1 : ioctl(dev, _IOW('u', 0x42, cmd), &cmd);
	if (dev >= 0)
		close(dev);
	close(fd);
	return rc;
}

void fuzz_source(struct fuzz_thread *t)
{
	switch (fuzz_rand(t, 10)) {
	case 0:
	case 1:
	case 2: fuzz_keep(t, open(CLIENT_DEV, O_CLOEXEC | (fuzz_rand(t, 8) ? O_RDWR : O_RDONLY))); break;
	case 3:
	case 4: fuzz_keep(t, open(RUNTIME_DEV, O_CLOEXEC | (fuzz_rand(t, 8) ? O_RDWR : O_RDONLY))); break;
	case 5: fuzz_keep(t, eventfd(fuzz_rand(t, 2), EFD_NONBLOCK | EFD_CLOEXEC)); break;
	case 6: fuzz_keep(t, memory_file(t, false)); break;
	/* udmabuf's maps overlap when a device has two, and the DMA debug kernel says so: not where there is one. */
	case 7: fuzz_keep(t, memory_file(t, !t->target)); break;
	case 8: fuzz_keep(t, bar_buffer(t)); break;
	default: fuzz_keep(t, dup(fuzz_fd(t))); break;
	}
}
