/* SPDX-License-Identifier: GPL-2.0-only WITH Linux-syscall-note */
/*
 * What the stand-in for a GPU (fhbar.c) and the tests that drive it share.
 * Test code: nothing of this is installed, and the numbers may change.
 */
#ifndef FH_TESTS_VM_BAR_H
#define FH_TESTS_VM_BAR_H

#include <linux/types.h>

#define FHBAR_DEV "/dev/fhbar"

/**
 * enum fhbar_kind - whose exporter it behaves like
 * @FHBAR_DYNAMIC: video memory of a DRM driver: moves, can be pinned, is mapped by the CPU
 * @FHBAR_NO_MMAP: the same, and its operations have no mmap at all
 * @FHBAR_STATIC: NVIDIA's: never moves, has no pin, and an mmap that answers ENOTSUPP
 * @FHBAR_NR_KINDS: how many there are
 */
enum fhbar_kind {
	FHBAR_DYNAMIC = 0,
	FHBAR_NO_MMAP = 1,
	FHBAR_STATIC = 2,
	FHBAR_NR_KINDS = 3,
};

/**
 * struct fhbar_export - a dma-buf over a piece of the BAR
 * @off: in the BAR, whole pages
 * @bytes: whole pages
 * @kind: enum fhbar_kind
 * @out_fd: the dma-buf, close-on-exec
 */
struct fhbar_export {
	__u64 off;
	__u64 bytes;
	__u32 kind;
	__s32 out_fd;
};
#define FHBAR_EXPORT _IOWR('H', 0x70, struct fhbar_export)

/**
 * struct fhbar_move - put a buffer elsewhere in the BAR, or take it away
 * @fd: one of ours
 * @revoke: take it away: no new place, mappings give SIGBUS, maps are refused
 * @off: where it goes
 *
 * EBUSY: it is pinned, or of a kind that never moves.
 */
struct fhbar_move {
	__s32 fd;
	__u32 revoke;
	__u64 off;
};
#define FHBAR_MOVE _IOW('H', 0x71, struct fhbar_move)

/**
 * struct fhbar_stat - what others hold of a buffer
 * @fd: one of ours
 * @out_attached: attachments
 * @out_pinned: pins
 * @out_mapped: maps for devices
 */
struct fhbar_stat {
	__s32 fd;
	__u32 out_attached;
	__u32 out_pinned;
	__u32 out_mapped;
};
#define FHBAR_STAT _IOWR('H', 0x72, struct fhbar_stat)

#endif /* FH_TESTS_VM_BAR_H */
