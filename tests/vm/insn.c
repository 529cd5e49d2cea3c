// SPDX-License-Identifier: Apache-2.0
/*
 * A plug-in of QEMU's that counts the guest's instructions into a file, which
 * others map while the guest runs: programs' and the kernel's apart, and, if it
 * is wanted, each block of code by itself, for a profile (dpdk_cost.py).
 *
 *   qemu-system-x86_64 -plugin insn.so,counts=PATH[,blocks=on] ...
 *
 * A block counts when it is entered: what an exception cuts short counts whole.
 * Adding is not atomic, so one processor at a time must run (thread=single).
 * A string move that repeats counts once a round, as it does under -icount.
 *
 * QEMU's header for plug-ins is in no Debian package.  What is used of version 1
 * of that interface is declared here; QEMU 4.2 to 8.2 have it.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

struct qemu_plugin_tb;
enum qemu_plugin_op { QEMU_PLUGIN_INLINE_ADD_U64 };

int qemu_plugin_install(uint64_t id, const void *info, int argc, char **argv);
void qemu_plugin_register_vcpu_tb_trans_cb(uint64_t id, void (*fn)(uint64_t id, struct qemu_plugin_tb *tb));
void qemu_plugin_register_vcpu_tb_exec_inline(struct qemu_plugin_tb *tb, enum qemu_plugin_op op, void *ptr,
					      uint64_t imm);
size_t qemu_plugin_tb_n_insns(const struct qemu_plugin_tb *tb);
uint64_t qemu_plugin_tb_vaddr(const struct qemu_plugin_tb *tb);

__attribute__((visibility("default"))) extern int qemu_plugin_version;
int qemu_plugin_version = 1;

enum { BITS = 19, NR_BLOCKS = 1 << BITS };

/* The file; dpdk_cost.py reads it. */
struct counts {
	uint64_t user, kernel;
	uint64_t nr_blocks; /* places in block[]; 0: blocks are not counted */
	struct block {
		uint64_t vaddr, insns; /* vaddr 0: a free place */
	} block[NR_BLOCKS];
};

static struct counts *counts;

/* Where @vaddr is counted. Code of several programs at one address is counted together; NULL: the table is full. */
static uint64_t *block_of(uint64_t vaddr)
{
	uint64_t at = vaddr * 0x9e3779b97f4a7c15ull >> (64 - BITS);

	for (uint32_t i = 0; i < NR_BLOCKS; i++, at = (at + 1) % NR_BLOCKS) {
		struct block *b = &counts->block[at];

		if (b->vaddr && b->vaddr != vaddr)
			continue;
		b->vaddr = vaddr;
		return &b->insns;
	}
	return NULL;
}

static void on_translate(uint64_t id, struct qemu_plugin_tb *tb)
{
	uint64_t vaddr = qemu_plugin_tb_vaddr(tb), n = qemu_plugin_tb_n_insns(tb);
	uint64_t *block = counts->nr_blocks ? block_of(vaddr) : NULL;

	(void)id;
	qemu_plugin_register_vcpu_tb_exec_inline(tb, QEMU_PLUGIN_INLINE_ADD_U64,
						 vaddr >> 63 ? &counts->kernel : &counts->user, n);
	if (block)
		qemu_plugin_register_vcpu_tb_exec_inline(tb, QEMU_PLUGIN_INLINE_ADD_U64, block, n);
}

static int map(const char *path, bool blocks)
{
	int fd = open(path, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600), rc = 0;

	if (fd < 0)
		return -errno;
	if (ftruncate(fd, sizeof(*counts)))
		rc = -errno;
	if (!rc) {
		counts = mmap(NULL, sizeof(*counts), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
		rc = counts == MAP_FAILED ? -errno : 0;
	}
	close(fd);
	if (!rc)
		counts->nr_blocks = blocks ? NR_BLOCKS : 0;
	return rc;
}

__attribute__((visibility("default"))) int qemu_plugin_install(uint64_t id, const void *info, int argc, char **argv)
{
	const char *path = NULL;
	bool blocks = false;
	int rc;

	(void)info;
	for (int i = 0; i < argc; i++) {
		if (!strncmp(argv[i], "counts=", 7))
			path = argv[i] + 7;
		else if (!strcmp(argv[i], "blocks=on"))
			blocks = true;
		else
			path = NULL, i = argc;
	}
	rc = path ? map(path, blocks) : -EINVAL;
	if (rc) {
		fprintf(stderr, "insn: counts=PATH[,blocks=on] is wanted, a file to write: %s\n", strerror(-rc));
		return -1;
	}
	qemu_plugin_register_vcpu_tb_trans_cb(id, on_translate);
	return 0;
}
