// SPDX-License-Identifier: Apache-2.0
/*
 * Which table this machine runs.  The compiler's run-time support asks CPUID
 * and XGETBV, so a feature counts only if the operating system saves its
 * registers too.
 */
#ifdef __x86_64__
#include <cpuid.h>
#endif
#include <string.h>

#include "kernels/kernels.h"
#include "kernels/tables.h"

#ifdef __x86_64__
static inline bool has_avx2(void)
{
	unsigned int eax, ebx, ecx, edx;

	/* Clang 14 does not know F16C by name; the system saves its registers with AVX2's. */
	__builtin_cpu_init();
	return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
	       __get_cpuid(1, &eax, &ebx, &ecx, &edx) && (ecx & bit_F16C);
}

static inline bool has_avx512(void)
{
	return has_avx2() && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
	       __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq") &&
	       __builtin_cpu_supports("avx512vnni");
}

static inline bool has_bf16(void)
{
	return has_avx512() && __builtin_cpu_supports("avx512bf16");
}

/* Whether a vdpbf16ps does more than the multiply-adds that take its place: not on Intel's cores, which do half of one
 * a cycle. */
static inline bool has_fast_bf16(void)
{
	return has_bf16() && !__builtin_cpu_is("intel");
}
#endif

const struct fhk_ops *fhk_select(const char *isa)
{
	bool any = !isa || !*isa;

#ifdef __x86_64__
#if __has_include("kernels/avx512/avx512.h")
	if (any ? has_fast_bf16() : !strcmp(isa, "avx512_bf16") && has_bf16())
		return &fhk_avx512_bf16;
	if ((any || !strcmp(isa, "avx512")) && has_avx512())
		return &fhk_avx512;
#endif
#if __has_include("kernels/avx2/avx2.h")
	if ((any || !strcmp(isa, "avx2")) && has_avx2())
		return &fhk_avx2;
#endif
#endif
	if (any || !strcmp(isa, "ref"))
		return &fhk_ref;
	return NULL;
}
