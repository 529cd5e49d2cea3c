/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Ways to read memory, for freehold bench memory: which vectors, how many
 * streams, which prefetch instruction.  The table holds only what this CPU and
 * its operating system run.
 */
#ifndef FH_TOOLS_BENCH_READ_H
#define FH_TOOLS_BENCH_READ_H

#include <stddef.h>
#include <stdint.h>

#define READ_STEP_BYTES 1024u  /* a piece is a multiple of it */
#define READ_AHEAD_MAX 16384ul /* the furthest prefetch; so much after the buffer must be mapped */

/* Read [bytes] at @p, 64-byte aligned; the sum keeps the compiler honest. @ahead: bytes to the prefetched line. */
typedef uint64_t (*read_fn)(const uint8_t *p, size_t bytes, size_t ahead);

struct read_way {
	const char *vector; /* "512-bit", "256-bit", "128-bit" */
	uint32_t nr_streams;
	const char *hint; /* "none", "t0", "nta" */
	read_fn fn;
};

/* The ways of this machine, [*nr]: those of its widest vectors and, on x86-64, of the next narrower ones. */
const struct read_way *bench_read_ways(uint32_t *nr);

#endif /* FH_TOOLS_BENCH_READ_H */
