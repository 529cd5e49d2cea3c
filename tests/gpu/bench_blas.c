// SPDX-License-Identifier: Apache-2.0
/* The rate of a large BF16 product by cuBLAS, where it can be loaded: the limit that shares of arithmetic refer to. */
#include <dlfcn.h>
#include <string.h>

#include "tests/gpu/bench_gpu.h"

void bench_fill(uint64_t p, size_t bytes)
{
	const struct bench_args a = {.b = p, .n = bytes / 16};

	gpu_launch("bench_fill", ((struct fhk_cu_grid){cuda_nr_sms() * 8, 1, 1, 256, 0}), &a);
}

/* cublasGemmEx(): types and the computation by their numbers in cublas_api.h and library_types.h. */
typedef int gemm_fn(void *, int, int, int, int, int, const void *, const void *, int, int, const void *, int, int,
		    const void *, void *, int, int, int, int);

double cuda_blas_seconds(uint32_t n)
{
	static const char *const names[] = {"libcublas.so.13", "libcublas.so.12"};
	const float one = 1, zero = 0;
	void *lib = NULL, *handle;
	int (*create)(void **), (*set_stream)(void *, void *), rc = 0;
	gemm_fn *gemm;
	uint64_t m[3];

	for (size_t i = 0; i < 2 && !lib; i++)
		lib = dlopen(names[i], RTLD_NOW | RTLD_LOCAL);
	if (!lib)
		return 0;
	*(void **)&create = dlsym(lib, "cublasCreate_v2");
	*(void **)&set_stream = dlsym(lib, "cublasSetStream_v2");
	*(void **)&gemm = dlsym(lib, "cublasGemmEx");
	if (!create || !set_stream || !gemm || create(&handle) || set_stream(handle, cuda_stream()))
		return 0;
	for (int i = 0; i < 3; i++) {
		m[i] = gpu_alloc((size_t)n * n * 2);
		bench_fill(m[i], (size_t)n * n * 2);
	}
	for (int i = 0; i < 11 && !rc; i++) {
		if (i == 1) /* the first one may allocate, which no capture allows */
			cuda_capture();
		rc = gemm(handle, 1, 0, (int)n, (int)n, (int)n, &one, (void *)m[0], 14, (int)n, (void *)m[1], 14,
			  (int)n, &zero, (void *)m[2], 14, (int)n, 68, -1);
	}
	return rc ? 0 : cuda_time(cuda_captured(), 5) / 10;
}
