/* SPDX-License-Identifier: Apache-2.0 */
/* What the parts of bench-gpu share: the limits that stage 0 measured, and arguments of its kernels. */
#ifndef FH_TESTS_BENCH_GPU_H
#define FH_TESTS_BENCH_GPU_H

#include <stdint.h>

struct bench_args {
	uint64_t a, b; /* read from a, write to b */
	uint64_t n;    /* of 16 bytes, or rounds */
};

#ifndef __CUDACC__
#include "tests/gpu/gpu_cuda.h"

extern double limit_read, limit_flops; /* bytes a second, BF16 operations a second */

void bench_limits(void);
void bench_matrices(void);
void bench_attention(void);
void bench_step(void);
#endif

#endif /* FH_TESTS_BENCH_GPU_H */
