// SPDX-License-Identifier: Apache-2.0
/*
 * Every ioctl of both devices at every size: one byte less than its first
 * version, exactly, one more that is zero, one more that is not; and what does
 * not belong: flags, padding, numbers, pointers.
 */
#include "tests/abi/abi.h"

/* What a zeroed argument of the right size gives: 0, or this errno, from the handler itself. */
struct op {
	const char *name;
	unsigned long cmd;
	uint32_t size;
	int client_errno; /* -1: the client's device has no such ioctl */
	int runtime_errno;
	bool flags; /* has a flags word at offset 4 */
	uint32_t reserved_off;
};

static const struct op ops[] = {
	{"INFO", FH_IOCTL_INFO, sizeof(struct fh_info), 0, 0, true, offsetof(struct fh_info, __reserved)},
	{"DESTROY", FH_IOCTL_DESTROY, sizeof(struct fh_destroy), ENOENT, ENOENT, false, 0},
	{"CHAN_CREATE", FH_IOCTL_CHAN_CREATE, sizeof(struct fh_chan_create), EINVAL, -1, true, 0},
	{"CHAN_ACCEPT", FH_IOCTL_CHAN_ACCEPT, sizeof(struct fh_chan_accept), -1, EINVAL, true, 0},
	{"CHAN_KICK", FH_IOCTL_CHAN_KICK, sizeof(struct fh_chan_kick), ENOENT, ENOENT, true,
	 offsetof(struct fh_chan_kick, __reserved)},
	{"CHAN_REVOKE", FH_IOCTL_CHAN_REVOKE, sizeof(struct fh_chan_revoke), -1, ENOENT, true, 0},
	{"MEM_IMPORT", FH_IOCTL_MEM_IMPORT, sizeof(struct fh_mem_import), -1, EOPNOTSUPP, true, 0},
	{"MEM_EXPORT", FH_IOCTL_MEM_EXPORT, sizeof(struct fh_mem_export), -1, ENOENT, true, 0},
	{"DMA_MAP", FH_IOCTL_DMA_MAP, sizeof(struct fh_dma_map), -1, EOPNOTSUPP, true, 0},
};
#define NR_OPS (sizeof(ops) / sizeof(ops[0]))

/* A zeroed argument in which only `size` is set; -1 in wake_fd would make CREATE and ACCEPT valid. */
static int call(int fd, const struct op *op, uint32_t size, uint32_t at, uint8_t value)
{
	static uint8_t buf[512];

	memset(buf, 0, sizeof(buf));
	memcpy(buf, &size, sizeof(size));
	if (at)
		buf[at] = value;
	errno = 0;
	return ioctl(fd, op->cmd, buf) ? errno : 0;
}

static void want(const struct op *op, const char *what, int got, int wanted)
{
	if (got == wanted)
		return;
	printf("  %s, %s: errno %d (%s), not %d\n", op->name, what, got, strerror(got), wanted);
	fflush(stdout);
	_exit(1);
}

static void go_through(int fd, const struct op *op, int wanted)
{
	/* Descriptor 0 is no eventfd: CREATE and ACCEPT refuse it with EINVAL, which is what the table says. */
	want(op, "its size", call(fd, op, op->size, 0, 0), wanted);
	want(op, "size 0", call(fd, op, 0, 0, 0), EINVAL);
	want(op, "size 4", call(fd, op, 4, 0, 0), EINVAL);
	want(op, "one byte less", call(fd, op, op->size - 1, 0, 0), EINVAL);
	want(op, "one byte more, zero", call(fd, op, op->size + 1, 0, 0), wanted);
	want(op, "one byte more, not zero", call(fd, op, op->size + 1, op->size, 1), E2BIG);
	want(op, "100 bytes more, zero", call(fd, op, op->size + 100, 0, 0), wanted);
	want(op, "100 bytes more, the last not zero", call(fd, op, op->size + 100, op->size + 99, 0x80), E2BIG);
	if (op->flags) {
		want(op, "the lowest flag", call(fd, op, op->size, 4, 1), EOPNOTSUPP);
		want(op, "the highest flag", call(fd, op, op->size, 7, 0x80), EOPNOTSUPP);
	}
	if (op->reserved_off)
		want(op, "padding", call(fd, op, op->size, op->reserved_off, 1), EINVAL);
}

TEST(sizes_client)
{
	int ctl = open_runtime(), fd = open_client();

	for (unsigned int i = 0; i < NR_OPS; i++) {
		if (ops[i].client_errno < 0)
			want(&ops[i], "the client's device", call(fd, &ops[i], ops[i].size, 0, 0), ENOTTY);
		else
			go_through(fd, &ops[i], ops[i].client_errno);
	}
	close(ctl);
}

TEST(sizes_runtime)
{
	int fd = open_runtime();

	for (unsigned int i = 0; i < NR_OPS; i++) {
		if (ops[i].runtime_errno < 0)
			want(&ops[i], "the runtime's device", call(fd, &ops[i], ops[i].size, 0, 0), ENOTTY);
		else
			go_through(fd, &ops[i], ops[i].runtime_errno);
	}
}

/* Numbers of ours with a direction or a size in them, and all others. */
TEST(no_such_ioctl)
{
	int ctl = open_runtime(), fd = open_client();
	struct fh_info info = {.size = sizeof(info)};

	for (unsigned int nr = 0; nr < 256; nr++) {
		if (nr >= FH_CMD_INFO && nr <= FH_CMD_DMA_MAP)
			continue;
		CHECK_ERRNO(ioctl(fd, _IO(FH_IOC_TYPE, nr), &info), ENOTTY);
		CHECK_ERRNO(ioctl(ctl, _IO(FH_IOC_TYPE, nr), &info), ENOTTY);
	}
	CHECK_ERRNO(ioctl(fd, _IOWR(FH_IOC_TYPE, FH_CMD_INFO, struct fh_info), &info), ENOTTY);
	CHECK_ERRNO(ioctl(fd, _IO(FH_IOC_TYPE + 1, FH_CMD_INFO), &info), ENOTTY);
}

/* Memory that is not there, or ends in the middle, or cannot be written. */
TEST(bad_pointers)
{
	int ctl = open_runtime(), fd = open_client();
	char *two = mmap(NULL, 8192, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	uint32_t size;

	CHECK(two != MAP_FAILED);
	CHECK(munmap(two + 4096, 4096) == 0);
	for (unsigned int i = 0; i < NR_OPS; i++) {
		int on = ops[i].client_errno < 0 ? ctl : fd;

		CHECK_ERRNO(ioctl(on, ops[i].cmd, NULL), EFAULT);
		CHECK_ERRNO(ioctl(on, ops[i].cmd, two + 4096), EFAULT);
		size = ops[i].size;
		memcpy(two + 4092, &size, 4);
		CHECK_ERRNO(ioctl(on, ops[i].cmd, two + 4092), EFAULT);
	}
	/* Readable is not enough for an answer; what was made for it is undone. */
	struct chan c;
	struct fh_chan_create *cmd = (struct fh_chan_create *)two;
	*cmd = (struct fh_chan_create){
		.size = sizeof(*cmd), .sq_entries = 1, .cq_entries = 1, .arena_bytes = 4096, .wake_fd = -1};
	CHECK(mprotect(two, 4096, PROT_READ) == 0);
	CHECK_ERRNO(ioctl(fd, FH_IOCTL_CHAN_CREATE, cmd), EFAULT);
	CHECK(get_info(fd).out_chan_used == 0);
	CHECK(chan_create(&c, fd, 1, 1, 4096) == 0);
	CHECK(c.id == 1);
}

/* Only as much is written back as the caller said that it knows. */
TEST(answer_ends_with_size)
{
	int fd = open_client();
	struct {
		struct fh_info info;
		uint8_t after[64];
	} arg;

	memset(&arg, 0, sizeof(arg));
	arg.info.size = sizeof(arg);
	CHECK(ioctl(fd, FH_IOCTL_INFO, &arg) == 0);
	CHECK(arg.info.out_abi_version == FH_ABI_VERSION);
	CHECK(arg.info.size == sizeof(arg));
	for (unsigned int i = 0; i < sizeof(arg.after); i++)
		CHECK(arg.after[i] == 0);
	/* And what lies behind a structure of its own size is not touched. */
	memset(arg.after, 0xaa, sizeof(arg.after));
	memset(&arg.info, 0, sizeof(arg.info));
	arg.info.size = sizeof(arg.info);
	CHECK(ioctl(fd, FH_IOCTL_INFO, &arg) == 0);
	for (unsigned int i = 0; i < sizeof(arg.after); i++)
		CHECK(arg.after[i] == 0xaa);
}
