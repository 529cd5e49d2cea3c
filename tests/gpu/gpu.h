/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The tests of the CUDA kernels: one harness, two machines.  On the CPU it is
 * the emulator of tests/gpu/simt, which checks the kernels' logic; on a GPU the
 * driver API and the fatbins of `make cuda`.  Every kernel is compared with
 * kernels/ref, or with the CPU's sampler, over random shapes.
 *
 * One thread.  A test's device memory is given back when the next one begins.
 */
#ifndef FH_TESTS_GPU_H
#define FH_TESTS_GPU_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "kernels/cuda/cuda_kernels.h"

/* What the tests run on. Whatever fails ends the program with the reason. */
struct gpu_ops {
	const char *name;
	void (*open)(const char *fatbins, char *device, size_t device_bytes);
	uint64_t (*alloc)(size_t bytes); /* filled with 0xff: NaN, and no valid index */
	void (*free)(uint64_t p);
	void (*to)(uint64_t dst, const void *src, size_t bytes);
	void (*from)(void *dst, uint64_t src, size_t bytes); /* after all that was launched */
	void (*launch)(const char *kernel, struct fhk_cu_grid g, const void *args, size_t bytes);
};
extern const struct gpu_ops gpu_simt, gpu_cuda;
extern const struct gpu_ops *gpu;

/* ---- gpu_util.c ---- */

uint64_t gpu_alloc(size_t bytes);
uint64_t gpu_zero(size_t bytes);
uint64_t gpu_up(const void *src, size_t bytes);
void *gpu_down(uint64_t src, size_t bytes); /* freed with the test */
void *host_alloc(size_t bytes);		    /* zero; freed with the test */
void gpu_end_test(void);

#define gpu_launch(kernel, grid, args) gpu->launch(kernel, grid, args, sizeof(*(args)))

/* xorshift64*: the same everywhere. */
uint32_t rnd(void);
uint32_t rnd_below(uint32_t n); /* 0..n-1 */
uint32_t rnd_in(uint32_t lo, uint32_t hi);
float rnd_float(void); /* about normal */
float *rnd_floats(size_t n, float scale);
void rnd_seed(uint64_t seed);
extern bool check_small; /* smaller shapes: the emulator under a sanitizer */

/* @rows of @cols columns in file order, with scales that keep values around 1. */
uint8_t *rnd_rows(uint32_t type, uint32_t rows, uint32_t cols);
size_t row_bytes(uint32_t type, uint32_t cols);
const char *type_name(uint32_t type);

/* One line a check: @error against @limit; NaN fails. */
void check(const char *name, double error, double limit);
/* Bits that have to be the same. */
void check_equal(const char *name, const void *a, const void *b, size_t bytes);
/* Largest |a - b| / (floor + |b|) */
double rel_error(const float *a, const float *b, size_t n, double floor);
void check_part(const char *format, ...) __attribute__((format(printf, 1, 2))); /* the shape, for the lines below */
uint32_t check_summary(void);

/* x: [rows, cols] f32 to activations in the forms of @types, by fhk_cu_act. */
struct fhk_cu_act act_up(const float *x, uint32_t rows, uint32_t cols);
/* What a form holds, back to f32 [rows, ld = cols]: @type is that of the weights. */
float *act_down(const struct fhk_cu_act *a, uint32_t type, uint32_t rows, uint32_t cols);
/* A packed matrix of nr_experts, from file rows. */
uint64_t mat_up(uint32_t type, const uint8_t *src, uint32_t rows, uint32_t cols, uint32_t nr_experts);
uint64_t u32_up(uint32_t v);

/* ---- the tests ---- */

void check_rows(void);
void check_mm(void);
void check_moe(void);
void check_attn(void);
void check_sample(void);

#endif /* FH_TESTS_GPU_H */
