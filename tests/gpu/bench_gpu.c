// SPDX-License-Identifier: Apache-2.0
/*
 * bench-gpu: what the GPU of this machine can do, and which share of it the
 * CUDA kernels reach.  Times are medians of graph launches, of the device.
 *
 *   bench_gpu [--fatbins DIR:DIR] [matrices attention step]   (the limits always come first)
 *
 * Weights and caches hold arbitrary bits: these are times, not results; those
 * are for check-gpu.  Weights rotate over more memory than the L2 cache holds.
 */
#include <stdio.h>
#include <string.h>

#include "tests/gpu/bench_gpu.h"

#define MAX_ROTATE 64
#define COLD_BYTES (512ull << 20) /* read between two uses of the same weights: far more than any L2 */

double limit_read, limit_flops;

static double time_kernel(const char *kernel, uint32_t blocks, const struct bench_args *a, uint32_t nr)
{
	cuda_capture();
	for (uint32_t i = 0; i < nr; i++)
		gpu_launch(kernel, ((struct fhk_cu_grid){blocks, 1, 1, 256, 0}), a);
	return cuda_time(cuda_captured(), 10) / nr;
}

void bench_limits(void)
{
	size_t bytes = (size_t)4 << 30;
	struct bench_args a = {.a = cuda_alloc_raw(bytes), .b = cuda_alloc_raw(bytes), .n = bytes / 16};
	struct bench_args few = {.b = a.b, .n = 20000};
	double copy, s, blas;
	uint32_t sms = cuda_nr_sms();

	if (!a.a || !a.b) {
		printf("limits: no memory for 8 GiB\n");
		return;
	}
	bench_fill(a.a, bytes);
	for (uint32_t each = 1; each <= 8; each *= 2) {
		uint64_t step = (uint64_t)sms * each * 256 * 16;

		a.n = bytes / 16 / step * step; /* what its threads read in whole rounds */
		s = 16.0 * a.n / time_kernel("bench_read", sms * each, &a, 2);
		printf("read   %u blocks an SM, %3u KiB in flight   %7.0f GB/s\n", each, each * 64, s / 1e9);
		limit_read = s > limit_read ? s : limit_read;
	}
	copy = 2 * 16.0 * a.n / time_kernel("bench_copy", sms * 8, &a, 2);
	printf("copy   read and written                     %7.0f GB/s\n", copy / 1e9);
	s = time_kernel("bench_mma_bf16", sms * 2, &few, 1);
	limit_flops = 20000.0 * 8 * 2 * 16 * 8 * 16 * sms * 2 * 8 / s;
	printf("mma    m16n8k16 BF16, registers alone       %7.0f TFLOPS\n", limit_flops / 1e12);
	s = time_kernel("bench_mma_s8", sms * 2, &few, 1);
	printf("mma    m16n8k32 bytes, registers alone      %7.0f TOPS\n",
	       20000.0 * 8 * 2 * 16 * 8 * 32 * sms * 2 * 8 / s / 1e12);
	blas = cuda_blas_seconds(8192);
	if (blas > 0) {
		limit_flops = 2 * 8192.0 * 8192 * 8192 / blas;
		printf("cuBLAS BF16 8192 x 8192 x 8192              %7.0f TFLOPS\n", limit_flops / 1e12);
	} else {
		printf("cuBLAS could not be loaded: shares of arithmetic below are of mma.sync's rate\n");
	}
	s = time_kernel("bench_empty", 1, &few, 200);
	printf("launch an empty kernel in a graph of 200    %7.2f us\n", s * 1e6);
	gpu_end_test();
}

struct matrix {
	const char *name;
	uint32_t rows, cols, glu;
};

static const struct matrix matrices[] = {
	{"q k v", 6144, 4096, 0}, {"o", 4096, 4096, 0},	     {"gate, up", 14336, 4096, 1},
	{"down", 4096, 14336, 0}, {"head", 128256, 4096, 0},
};

/* Seconds of one product, its weights not in any cache. */
static double time_matrix(const struct matrix *m, uint32_t type, uint32_t nr, double *bytes)
{
	uint64_t one = fhk_cu_mat_bytes(type, m->rows, m->cols) * (m->glu ? 2 : 1);
	uint32_t rotate = (uint32_t)(COLD_BYTES / one + 2), tile = fhk_cu_mm_tile(nr);
	uint64_t w[MAX_ROTATE], x = gpu_zero((size_t)nr * fhk_cu_kpad(m->cols) * 4);
	struct fhk_cu_mm_args a = {
		.x = x,
		.xd = gpu_zero((size_t)nr * fhk_cu_kpad(m->cols) / 4),
		.y = gpu_alloc((size_t)nr * m->rows * 4),
		.nr = u32_up(nr),
		.unit_stride = fhk_cu_unit_bytes(type, m->cols),
		.rows = m->rows,
		.cols = m->cols,
		.ldy = m->rows,
		.flags = m->glu ? FHK_CU_MM_GLU : 0,
	};
	char name[32];

	rotate = rotate < MAX_ROTATE ? rotate : MAX_ROTATE;
	for (uint32_t i = 0; i < rotate; i++) {
		w[i] = gpu_alloc(one);
		bench_fill(w[i], one);
	}
	fhk_cu_mm_name(type, tile, name);
	gpu_launch(name, fhk_cu_mm_grid(type, m->rows, tile, nr, 0), (a.w = w[0], a.w2 = w[0] + one / 2, &a));
	cuda_capture();
	for (uint32_t i = 0; i < rotate; i++) {
		a.w = w[i];
		a.w2 = w[i] + one / 2;
		gpu_launch(name, fhk_cu_mm_grid(type, m->rows, tile, nr, 0), &a);
	}
	*bytes = (double)one;
	return cuda_time(cuda_captured(), 10) / rotate;
}

void bench_matrices(void)
{
	static const uint32_t types[] = {FHK_BF16, FHK_Q8_0, FHK_Q4_0, FHK_Q4_K, FHK_Q5_K, FHK_Q6_K, FHK_MXFP4};
	static const uint32_t nrs[] = {1, 8, 16, 64, 2048};

	printf("\nmatrices of an 8B model: us, share of read bandwidth; with 2,048 rows TFLOPS, share of BF16 "
	       "arithmetic\n");
	for (uint32_t t = 0; t < sizeof(types) / sizeof(types[0]); t++) {
		for (uint32_t i = 0; i < sizeof(matrices) / sizeof(matrices[0]); i++) {
			const struct matrix *m = &matrices[i];

			printf("%-6s %-9s", type_name(types[t]), m->name);
			for (uint32_t k = 0; k < sizeof(nrs) / sizeof(nrs[0]); k++) {
				double bytes, s, flops = 2.0 * m->rows * m->cols * nrs[k] * (m->glu ? 2 : 1);

				if (nrs[k] > 64 && m->rows > 100000)
					continue;
				s = time_matrix(m, types[t], nrs[k], &bytes);
				gpu_end_test();
				if (nrs[k] > 64)
					printf(" | %4u: %6.0f us %4.0f TF %3.0f%%", nrs[k], s * 1e6, flops / s / 1e12,
					       100 * flops / s / limit_flops);
				else
					printf(" | %2u: %6.1f us %3.0f%%", nrs[k], s * 1e6,
					       100 * bytes / s / limit_read);
			}
			printf("\n");
			fflush(stdout);
		}
	}
}

int main(int argc, char **argv)
{
	const char *fatbins = "build/cuda:build/gpu";
	bool wanted[3] = {false}, all = true;
	static const char *const names[] = {"matrices", "attention", "step"};
	static void (*const parts[])(void) = {bench_matrices, bench_attention, bench_step};
	char text[160];

	for (int i = 1; i < argc; i++) {
		size_t p = 0;

		if (i + 1 < argc && !strcmp(argv[i], "--fatbins")) {
			fatbins = argv[++i];
			continue;
		}
		while (p < 3 && strcmp(argv[i], names[p]))
			p++;
		if (p == 3) {
			fprintf(stderr, "usage: bench_gpu [--fatbins DIR:DIR] [matrices] [attention] [step]\n");
			return 2;
		}
		wanted[p] = true;
		all = false;
	}
	gpu->open(fatbins, text, sizeof(text));
	printf("device: %s\n", text);
	bench_limits();
	for (size_t p = 0; p < 3; p++)
		if (all || wanted[p])
			parts[p]();
	return 0;
}
