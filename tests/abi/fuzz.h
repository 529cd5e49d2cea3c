/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The fuzzer of the module's two devices, inside: fuzz_ioctl.c makes calls,
 * fuzz_map.c works on mappings, test_fuzz.c has the threads and the processes.
 *
 * A worker is a process of some threads.  Descriptors lie in one pool of the
 * process, which its threads fill, use and close as they like; mappings belong
 * to the thread that made them.  Nothing here knows what is right: the kernel
 * under test has the checkers, and the counters afterwards must be zero.
 */
#ifndef FH_TESTS_ABI_FUZZ_H
#define FH_TESTS_ABI_FUZZ_H

#include <setjmp.h>
#include <stdbool.h>
#include <stdint.h>

#include "tests/abi/abi.h"

#define FUZZ_FDS 48
#define FUZZ_MAPS 24

/**
 * struct fuzz_thread - a thread's state
 * @rng: of xorshift64*, never zero
 * @fds: the process's pool; -1: an empty place.  Read and written with atomics.
 * @sock: [0] is ours, [1] all others': files travel between workers
 * @target: of a device for DMA_MAP, or 0
 * @map: mappings
 */
struct fuzz_thread {
	uint64_t rng;
	int *fds;
	int sock[2];
	uint64_t target;
	struct {
		char *p;
		size_t bytes;
	} map[FUZZ_MAPS];
};

uint32_t fuzz_rand(struct fuzz_thread *t, uint32_t below); /* 0 <= x < below */
uint64_t fuzz_u64(struct fuzz_thread *t);		   /* small, large, near a power of two */
int fuzz_fd(struct fuzz_thread *t);			   /* one of the pool, seldom none at all */
void fuzz_keep(struct fuzz_thread *t, int fd);		   /* into the pool; closes what had its place */

void fuzz_call(struct fuzz_thread *t);	    /* an ioctl, of ours or of those around it */
void fuzz_source(struct fuzz_thread *t);    /* a new descriptor of some kind */
void fuzz_map(struct fuzz_thread *t);	    /* a new mapping */
void fuzz_unmap(struct fuzz_thread *t);	    /* of a part, or moved, or protected, or advised */
void fuzz_scribble(struct fuzz_thread *t);  /* rubbish, into what may be written */
void fuzz_unmap_all(struct fuzz_thread *t); /* at the end */
bool fuzz_guard(void (*fn)(struct fuzz_thread *t, void *arg), struct fuzz_thread *t, void *arg); /* false: it faulted */

#endif /* FH_TESTS_ABI_FUZZ_H */
