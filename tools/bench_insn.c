// SPDX-License-Identifier: Apache-2.0
/*
 * The loops of freehold bench peak.
 *
 * A round is one instruction for each accumulator: 24 of them with 32 vector
 * registers, 12 with 16, twice and more what latency (4 or 5 cycles) times
 * throughput (2 a cycle) needs.  The instructions are written as assembly, so
 * that no compiler can find out that their operands never change; the
 * accumulators are the compiler's, which keeps them in registers.  Operands are
 * ordinary numbers of the type: zeros would draw less power, and denormals
 * would take longer.
 */
#include "tools/bench_insn.h"

#ifdef __x86_64__
#include <cpuid.h>

#include "runtime/base/clock.h"

#define CHAIN_STEPS 4000u
#define CHAIN_CYCLES 3u /* latency of a 64-bit multiplication */

typedef float reg256 __attribute__((vector_size(32)));
typedef float reg512 __attribute__((vector_size(64)));
typedef int reg256_int __attribute__((vector_size(32)));
typedef int reg512_int __attribute__((vector_size(64)));

#define TIMES4(m, i) m(i) m(i + 1) m(i + 2) m(i + 3)
#define TIMES12(m) TIMES4(m, 0) TIMES4(m, 4) TIMES4(m, 8)
#define TIMES24(m) TIMES12(m) TIMES4(m, 12) TIMES4(m, 16) TIMES4(m, 20)

/* Constant indices alone, or the array would lie in memory. */
#define CLEAR(i) acc[i] = (__typeof__(acc[0])){0};
/* The accumulators' end: the compiler must believe that somebody looks. */
#define KEEP(i) __asm__ volatile("" : : "v"(acc[i]));

#define CHAINS(name, isa, reg, times, insn)                                                                            \
	__attribute__((target(isa))) static void name(uint64_t nr_rounds)                                              \
	{                                                                                                              \
		reg acc[24], a = (reg)((reg##_int){0} + OPERAND), b = a;                                               \
                                                                                                                       \
		times(CLEAR);                                                                                          \
		for (; nr_rounds; nr_rounds--) {                                                                       \
			times(insn);                                                                                   \
		}                                                                                                      \
		times(KEEP);                                                                                           \
	}

#define VPDPBUSD_EVEX(i) __asm__ volatile("vpdpbusd %2, %1, %0" : "+v"(acc[i]) : "v"(a), "v"(b));
#define VPDPBUSD_VEX(i) __asm__ volatile("%{vex%} vpdpbusd %2, %1, %0" : "+x"(acc[i]) : "x"(a), "x"(b));
#define VDPBF16PS(i) __asm__ volatile("vdpbf16ps %2, %1, %0" : "+v"(acc[i]) : "v"(a), "v"(b));
#define VFMADD(i) __asm__ volatile("vfmadd231ps %2, %1, %0" : "+v"(acc[i]) : "v"(a), "v"(b));
/* Bytes to words to dwords: what vpdpbusd does in one. The first and second have no chain; the sum has. */
#define VPMADDUBSW(i)                                                                                                  \
	{                                                                                                              \
		reg256 t;                                                                                              \
                                                                                                                       \
		__asm__ volatile("vpmaddubsw %3, %2, %1\n\t"                                                           \
				 "vpmaddwd %3, %1, %1\n\t"                                                             \
				 "vpaddd %1, %0, %0"                                                                   \
				 : "+x"(acc[i]), "=&x"(t)                                                              \
				 : "x"(a), "x"(b));                                                                    \
	}

/* 0.0115 as f32; its halves are 0.0115 as bfloat16, its bytes 60 as int8. */
#define OPERAND 0x3c3c3c3c

CHAINS(run_vnni512, "avx512f", reg512, TIMES24, VPDPBUSD_EVEX)
CHAINS(run_vnni256, "avx2", reg256, TIMES12, VPDPBUSD_VEX)
CHAINS(run_maddubs, "avx2", reg256, TIMES12, VPMADDUBSW)
CHAINS(run_bf16, "avx512f", reg512, TIMES24, VDPBF16PS)
CHAINS(run_fma512, "avx512f", reg512, TIMES24, VFMADD)
CHAINS(run_fma256, "avx2", reg256, TIMES12, VFMADD)

static bool has_fma256(void)
{
	__builtin_cpu_init();
	return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
}

static bool has_avx2(void)
{
	__builtin_cpu_init();
	return __builtin_cpu_supports("avx2");
}

static bool has_avx512(void)
{
	__builtin_cpu_init();
	return __builtin_cpu_supports("avx512f");
}

static bool has_vnni512(void)
{
	return has_avx512() && __builtin_cpu_supports("avx512vnni");
}

static bool has_bf16(void)
{
	return has_avx512() && __builtin_cpu_supports("avx512bf16");
}

/* AVX-VNNI has no name that every compiler's run-time support knows; the system saves its registers with AVX2's. */
static bool has_vnni256(void)
{
	unsigned int eax, ebx, ecx, edx;

	return has_avx2() && __get_cpuid_count(7, 1, &eax, &ebx, &ecx, &edx) && (eax & 1u << 4);
}

static const struct bench_insn insns[] = {
	{"vpdpbusd", "int8", "AVX512-VNNI", 512, 128, 24, 0, run_vnni512, has_vnni512},
	{"vpdpbusd", "int8", "AVX-VNNI", 256, 64, 12, 0, run_vnni256, has_vnni256},
	{"vpmaddubsw", "int8", "AVX2", 256, 64, 12, 2, run_maddubs, has_avx2},
	{"vdpbf16ps", "bf16", "AVX512-BF16", 512, 64, 24, 0, run_bf16, has_bf16},
	{"vfmadd231ps", "f32", "AVX512F", 512, 32, 24, 0, run_fma512, has_avx512},
	{"vfmadd231ps", "f32", "AVX2 and FMA", 256, 16, 12, 0, run_fma256, has_fma256},
};

const struct bench_insn *bench_insns(uint32_t *nr)
{
	*nr = sizeof(insns) / sizeof(insns[0]);
	return insns;
}

double bench_cycle_ns(void)
{
	uint64_t x = 3, begin = fh_now_ns();

	for (uint32_t i = 0; i < CHAIN_STEPS; i++)
		__asm__ volatile("imul %0, %0" : "+r"(x));
	return (double)(fh_now_ns() - begin) / ((double)CHAIN_STEPS * CHAIN_CYCLES);
}

#else

const struct bench_insn *bench_insns(uint32_t *nr)
{
	*nr = 0;
	return (const struct bench_insn *)0;
}

double bench_cycle_ns(void)
{
	return 0;
}

#endif
