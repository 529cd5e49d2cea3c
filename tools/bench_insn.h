/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The instructions whose peak freehold bench peak measures: loops that run on
 * registers alone.
 */
#ifndef FH_TOOLS_BENCH_INSN_H
#define FH_TOOLS_BENCH_INSN_H

#include <stdbool.h>
#include <stdint.h>

struct bench_insn {
	const char *name;    /* as an assembler spells it */
	const char *numbers; /* what it multiplies: "int8", "bf16", "f32" */
	const char *needs;   /* what the CPU must have, in words */
	uint32_t width_bits;
	uint32_t ops;	     /* of one: a multiplication and an addition count as two */
	uint32_t nr_insns;   /* counted instructions in one round of fn */
	uint32_t nr_helpers; /* of other instructions that each counted one takes with it */
	void (*fn)(uint64_t nr_rounds);
	bool (*here)(void); /* this CPU and its operating system run it */
};

/* All that this architecture has, [*nr], whether this CPU has them or not; *nr is 0 on one that has none here. */
const struct bench_insn *bench_insns(uint32_t *nr);

/*
 * Nanoseconds of one cycle of this thread's core at this moment: a chain of
 * multiplications, each of which waits for the one before.  They take three
 * cycles on every x86-64 core of the last fifteen years.  0 where that is not known.
 */
double bench_cycle_ns(void);

#endif /* FH_TOOLS_BENCH_INSN_H */
