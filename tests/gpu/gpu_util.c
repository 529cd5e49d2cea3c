// SPDX-License-Identifier: Apache-2.0
/* What the tests of the CUDA kernels share: memory, random numbers and shapes, the lines of the report. */
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/half.h"
#include "kernels/kernels.h"
#include "tests/gpu/gpu.h"

#define MAX_BUFFERS 512

bool check_small;

static uint64_t device[MAX_BUFFERS];
static void *host[MAX_BUFFERS];
static uint32_t nr_device, nr_host, nr_passed, nr_failed;
static uint64_t random_state = 1;
static char part[160];

static void die(const char *what)
{
	fprintf(stderr, "check-gpu: %s\n", what);
	exit(2);
}

uint64_t gpu_alloc(size_t bytes)
{
	if (nr_device == MAX_BUFFERS)
		die("too many buffers in one test");
	return device[nr_device++] = gpu->alloc(bytes);
}

void *host_alloc(size_t bytes)
{
	if (nr_host == MAX_BUFFERS)
		die("too many buffers in one test");
	host[nr_host] = calloc(1, bytes ? bytes : 1);
	if (!host[nr_host])
		die("out of memory");
	return host[nr_host++];
}

uint64_t gpu_up(const void *src, size_t bytes)
{
	uint64_t p = gpu_alloc(bytes);

	gpu->to(p, src, bytes);
	return p;
}

uint64_t gpu_zero(size_t bytes)
{
	return gpu_up(host_alloc(bytes), bytes);
}

void *gpu_down(uint64_t src, size_t bytes)
{
	void *p = host_alloc(bytes);

	gpu->from(p, src, bytes);
	return p;
}

void gpu_end_test(void)
{
	while (nr_device)
		gpu->free(device[--nr_device]);
	while (nr_host)
		free(host[--nr_host]);
}

uint64_t u32_up(uint32_t v)
{
	return gpu_up(&v, sizeof(v));
}

/* ---- random ---- */

void rnd_seed(uint64_t seed)
{
	random_state = seed * 0x9e3779b97f4a7c15ull | 1;
}

uint32_t rnd(void)
{
	random_state ^= random_state >> 12;
	random_state ^= random_state << 25;
	random_state ^= random_state >> 27;
	return (uint32_t)((random_state * 0x2545f4914f6cdd1dull) >> 32);
}

uint32_t rnd_below(uint32_t n)
{
	return (uint32_t)(((uint64_t)rnd() * n) >> 32);
}

uint32_t rnd_in(uint32_t lo, uint32_t hi)
{
	return lo + rnd_below(hi - lo + 1);
}

float rnd_float(void)
{
	float sum = 0;

	for (int i = 0; i < 6; i++)
		sum += (float)rnd() * 0x1p-32f - 0.5f;
	return sum * 1.4142f;
}

float *rnd_floats(size_t n, float scale)
{
	float *x = host_alloc(n * sizeof(*x));

	for (size_t i = 0; i < n; i++)
		x[i] = rnd_float() * scale;
	return x;
}

size_t row_bytes(uint32_t type, uint32_t cols)
{
	const struct fhk_type_info *info = fhk_type_info(type);

	return (size_t)(cols / info->block_elems) * info->block_bytes;
}

const char *type_name(uint32_t type)
{
	return fhk_type_info(type)->name;
}

static void put_half(uint8_t *p, float v)
{
	uint16_t h = fhk_f32_f16(v);

	memcpy(p, &h, 2);
}

/* Sound scales for a block of random bytes. */
static void fix_block(uint32_t type, uint8_t *b)
{
	float scale = 0.5f + 0.5f * (float)rnd() * 0x1p-32f;

	switch (type) {
	case FHK_Q8_0: put_half(b, scale / 64); break;
	case FHK_Q4_0: put_half(b, rnd() % 4 ? scale / 4 : -scale / 4); break;
	case FHK_MXFP4: b[0] = (uint8_t)rnd_in(124, 128); break;
	case FHK_Q4_K:
	case FHK_Q5_K:
		put_half(b, scale / (type == FHK_Q4_K ? 256 : 512));
		put_half(b + 2, scale / 64);
		break;
	case FHK_Q6_K: put_half(b + 208, scale / 1024); break;
	}
}

uint8_t *rnd_rows(uint32_t type, uint32_t rows, uint32_t cols)
{
	const struct fhk_type_info *info = fhk_type_info(type);
	size_t bytes = row_bytes(type, cols) * rows;
	uint8_t *p = host_alloc(bytes);

	for (size_t i = 0; i < bytes / info->block_bytes; i++) {
		uint8_t *b = p + i * info->block_bytes;
		float v = rnd_float();
		uint16_t h = type == FHK_BF16 ? fhk_f32_bf16(v) : fhk_f32_f16(v);

		if (info->block_elems == 1) {
			memcpy(b, type == FHK_F32 ? (void *)&v : (void *)&h, info->block_bytes);
			continue;
		}
		for (uint32_t k = 0; k < info->block_bytes; k++)
			b[k] = (uint8_t)(rnd() >> 24);
		fix_block(type, b);
	}
	return p;
}

/* ---- the report ---- */

void check_part(const char *format, ...)
{
	va_list ap;

	va_start(ap, format);
	vsnprintf(part, sizeof(part), format, ap);
	va_end(ap);
}

void check(const char *name, double error, double limit)
{
	bool ok = error <= limit;

	printf("%-6s %-28s %-60s error %9.3g of %9.3g\n", ok ? "ok" : "FAILED", name, part, error, limit);
	if (ok)
		nr_passed++;
	else
		nr_failed++;
}

void check_equal(const char *name, const void *a, const void *b, size_t bytes)
{
	const uint8_t *p = a, *q = b;
	size_t nr = 0;

	for (size_t i = 0; i < bytes; i++)
		nr += p[i] != q[i];
	check(name, (double)nr, 0);
}

double rel_error(const float *a, const float *b, size_t n, double floor)
{
	double worst = 0;

	for (size_t i = 0; i < n; i++) {
		double e = fabs((double)a[i] - b[i]) / (floor + fabs((double)b[i]));

		if (!(e <= worst))
			worst = e;
		if (isnan(worst))
			return worst;
	}
	return worst;
}

uint32_t check_summary(void)
{
	printf("%u passed, %u failed, 0 skipped\n", nr_passed, nr_failed);
	return nr_failed;
}

/* ---- activations and matrices ---- */

struct fhk_cu_act act_up(const float *x, uint32_t rows, uint32_t cols)
{
	struct fhk_cu_act a = {
		.f32 = gpu_zero(fhk_cu_act_bytes(offsetof(struct fhk_cu_act, f32), rows, cols)),
		.q8 = gpu_zero(fhk_cu_act_bytes(offsetof(struct fhk_cu_act, q8), rows, cols)),
		.q8d = gpu_zero(fhk_cu_act_bytes(offsetof(struct fhk_cu_act, q8d), rows, cols)),
		.bf16 = gpu_zero(fhk_cu_act_bytes(offsetof(struct fhk_cu_act, bf16), rows, cols)),
		.f16 = gpu_zero(fhk_cu_act_bytes(offsetof(struct fhk_cu_act, f16), rows, cols)),
	};
	struct fhk_cu_act_args args = {
		.nr = u32_up(rows),
		.gate = gpu_up(x, sizeof(*x) * rows * cols),
		.out = a,
		.cols = cols,
		.ld = cols,
		.scale_nr = 1,
	};

	gpu_launch(FHK_CU_ACT, fhk_cu_act_grid(rows + 1), &args);
	return a;
}

static float act_value(uint32_t type, const uint8_t *p, const float *d, size_t row, uint32_t ld, uint32_t c)
{
	size_t at = row * ld + c / 64 * 64;

	switch (type) {
	case FHK_F32: return ((const float *)p)[row * ld + c];
	case FHK_BF16: return fhk_bf16_f32(((const uint16_t *)p)[at + fhk_cu_h16_at(c % 64)]);
	case FHK_F16: return fhk_f16_f32(((const uint16_t *)p)[at + fhk_cu_h16_at(c % 64)]);
	default: return (float)((const int8_t *)p)[at + fhk_cu_q8_at(c % 64)] * d[(row * ld + c) / 32 * 2];
	}
}

float *act_down(const struct fhk_cu_act *a, uint32_t type, uint32_t rows, uint32_t cols)
{
	size_t of = fhk_cu_act_of(type);
	const uint8_t *p = gpu_down(*(const uint64_t *)((const uint8_t *)a + of), fhk_cu_act_bytes(of, rows, cols));
	size_t scales = a->q8d ? fhk_cu_act_bytes(offsetof(struct fhk_cu_act, q8d), rows, cols) : 0;
	const float *d = scales ? gpu_down(a->q8d, scales) : NULL;
	float *x = host_alloc(sizeof(*x) * rows * cols);

	for (uint32_t r = 0; r < rows; r++)
		for (uint32_t c = 0; c < cols; c++)
			x[(size_t)r * cols + c] = act_value(type, p, d, r, fhk_cu_kpad(cols), c);
	return x;
}

uint64_t mat_up(uint32_t type, const uint8_t *src, uint32_t rows, uint32_t cols, uint32_t nr_experts)
{
	size_t file = row_bytes(type, cols) * rows, bytes = fhk_cu_mat_bytes(type, rows, cols);
	uint64_t raw = gpu_up(src, file * nr_experts), to;

	if (type == FHK_F32)
		return raw;
	to = gpu_alloc(bytes * nr_experts);
	for (uint32_t e = 0; e < nr_experts; e++) {
		struct fhk_cu_repack_args args = {
			.src = raw + file * e,
			.dst = to + bytes * e,
			.dst_stride = fhk_cu_unit_bytes(type, cols),
			.type = type,
			.rows = rows,
			.cols = cols,
		};

		gpu_launch(FHK_CU_REPACK, fhk_cu_repack_grid(type, rows, cols), &args);
	}
	return to;
}
