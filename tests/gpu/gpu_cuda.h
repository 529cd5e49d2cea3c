/* SPDX-License-Identifier: Apache-2.0 */
/* What bench-gpu needs of a device beyond gpu.h: graphs and their time.  check-gpu and bench-gpu only. */
#ifndef FH_TESTS_GPU_CUDA_H
#define FH_TESTS_GPU_CUDA_H

#include "tests/gpu/gpu.h"

uint32_t cuda_nr_sms(void);
void *cuda_stream(void);
int cuda_cc(void); /* 10 * major + minor */
size_t cuda_free_bytes(void);
uint64_t cuda_alloc_raw(size_t bytes); /* as it comes, for good. 0: no memory */
/* Launches from here on become a graph. */
void cuda_capture(void);
void *cuda_captured(void);
/* Median seconds of one launch of the graph, of @reps after two that do not count; then the graph is gone. */
double cuda_time(void *graph, uint32_t reps);
/* Arbitrary numbers, by bench_limits.cu. */
void bench_fill(uint64_t p, size_t bytes);
/* BF16 [n, n] times [n, n] by cuBLAS, if it can be loaded: seconds of one, or 0. */
double cuda_blas_seconds(uint32_t n);

#endif /* FH_TESTS_GPU_CUDA_H */
