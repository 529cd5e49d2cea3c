// SPDX-License-Identifier: Apache-2.0
/*
 * How fast the kernels are, one thread: for each weight type a large matrix
 * (4096 x 4096) and a small one (64 x 172) times 1, 8 and 64 tokens.
 *
 *   bench_kernels [ISA [TYPE [MS]]]     MS: milliseconds a figure, 30 by default; TYPE attn: attention alone
 *
 * GB/s counts weight bytes as they lie in memory, Gop/s two operations a
 * weight and token.  The best of several rounds is printed, because a shared
 * machine only ever makes things slower; for the same reason it is the thread's
 * own processor time that counts.
 */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "kernels/half.h"
#include "kernels/kernels.h"

static const uint32_t types[] = {FHK_F32,  FHK_F16,  FHK_BF16, FHK_Q8_0, FHK_Q4_0, FHK_Q4_1,   FHK_Q5_0,   FHK_Q5_1,
				 FHK_Q2_K, FHK_Q3_K, FHK_Q4_K, FHK_Q5_K, FHK_Q6_K, FHK_IQ4_NL, FHK_IQ4_XS, FHK_MXFP4};
static const uint32_t tokens[] = {1, 8, 64};

#define COUNT(a) (sizeof(a) / sizeof((a)[0]))
#define MAX_TOKENS 64

static double now_s(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_THREAD_CPUTIME_ID, &ts);
	return (double)ts.tv_sec + ts.tv_nsec * 1e-9;
}

static void *take(size_t bytes)
{
	void *p = aligned_alloc(FHK_ALIGN, (bytes + FHK_ALIGN) / FHK_ALIGN * FHK_ALIGN);

	if (!p) {
		fprintf(stderr, "bench_kernels: no memory for %zu bytes\n", bytes);
		exit(1);
	}
	memset(p, 0, bytes);
	return p;
}

struct bench {
	const struct fhk_ops *k;
	struct fhk_mat m;
	struct fhk_act x;
	void *file, *packed;
	float *y;
};

/* Bytes that are small numbers in every format */
static void *random_file(size_t bytes)
{
	uint8_t *p = take(bytes);
	uint32_t s = 1;

	for (size_t i = 0; i < bytes; i++) {
		s = s * 1664525 + 1013904223;
		p[i] = s >> 24 & 0x3b;
	}
	return p;
}

static int bench_open(struct bench *b, const struct fhk_ops *k, uint32_t type, uint32_t rows, uint32_t cols)
{
	const struct fhk_type_info *ti = fhk_type_info(type);

	*b = (struct bench){.k = k};
	if (k->mat_plan(&b->m, type, rows, cols, 1))
		return -1;
	b->file = random_file((size_t)rows * cols / ti->block_elems * ti->block_bytes);
	/* A scale of 2^-68, or floats of exponents near zero, would measure how slow subnormal numbers are. */
	for (size_t i = 0; type == FHK_MXFP4 && i < (size_t)rows * cols / 32; i++)
		((uint8_t *)b->file)[i * ti->block_bytes] = 120;
	for (size_t i = 1; ti->block_elems == 1 && i <= (size_t)rows * cols; i++)
		((uint8_t *)b->file)[i * ti->block_bytes - 1] |= 0x30;
	b->m.data = b->file;
	if (b->m.packed_bytes) {
		b->packed = take(b->m.packed_bytes);
		b->m.data = b->packed;
		k->mat_pack(&b->m, 0, b->file, 0, rows, b->packed);
	}
	b->x = (struct fhk_act){.cols = cols, .ld = fhk_pad(cols)};
	b->x.f32 = take((size_t)MAX_TOKENS * b->x.ld * sizeof(float));
	for (uint32_t t = 0; t < MAX_TOKENS; t++)
		for (uint32_t c = 0; c < cols; c++)
			b->x.f32[t * b->x.ld + c] = (float)((t * 31 + c * 17) % 101) / 50 - 1;
	b->x.form[b->m.form] = take(k->act_bytes(b->m.form, MAX_TOKENS, cols));
	k->act_prepare(&b->x, b->m.form, 0, MAX_TOKENS, 0, b->x.ld);
	b->y = take((size_t)MAX_TOKENS * rows * sizeof(float));
	return 0;
}

static void bench_close(struct bench *b)
{
	free(b->file);
	free(b->packed);
	free(b->x.f32);
	free(b->x.form[b->m.form]);
	free(b->y);
}

/* Seconds of one multiplication, the best of rounds of at least a millisecond */
static double seconds(struct bench *b, uint32_t nr, double budget_s)
{
	double end = now_s() + budget_s, best = 1e9, t0, t;
	uint32_t reps = 1;

	do {
		t0 = now_s();
		for (uint32_t i = 0; i < reps; i++)
			b->k->matmul(&b->m, 0, &b->x, NULL, nr, 0, b->m.rows, b->y, b->m.rows, 0);
		t = now_s() - t0;
		best = t / reps < best ? t / reps : best;
		if (t < 1e-3)
			reps *= 2;
	} while (now_s() < end);
	return best;
}

static void report(const struct fhk_ops *k, uint32_t type, uint32_t rows, uint32_t cols, double budget_s)
{
	struct bench b;
	size_t bytes;
	double t0;

	if (bench_open(&b, k, type, rows, cols))
		return;
	bytes = b.packed ? b.m.packed_bytes : b.m.expert_bytes;
	printf("%-6s %-6s %4ux%-4u", k->name, fhk_type_info(type)->name, rows, cols);
	for (size_t i = 0; i < COUNT(tokens); i++) {
		double s = seconds(&b, tokens[i], budget_s);

		printf("  %2u: %8.2f us %6.1f GB/s %6.1f Gop/s", tokens[i], s * 1e6, bytes / s * 1e-9,
		       2.0 * rows * cols * tokens[i] / s * 1e-9);
	}
	if (b.packed) {
		t0 = now_s();
		k->mat_pack(&b.m, 0, b.file, 0, rows, b.packed);
		printf("  pack %5.2f GB/s", bytes / (now_s() - t0) * 1e-9);
	}
	printf("\n");
	fflush(stdout);
	bench_close(&b);
}

/* Attention over @context tokens: a decode step, and the last 16 tokens of a prefill; one KV head. */
static void report_attn(const struct fhk_ops *k, uint32_t kv_type, uint32_t head_dim, uint32_t group, uint32_t nr_q,
			double budget_s)
{
	enum { CONTEXT = FHK_ATTN_SPLIT, BLOCKS = CONTEXT / FHK_KV_BLOCK };
	size_t bytes = k->kv_head_bytes(kv_type, head_dim), floats = (size_t)nr_q * group * head_dim;
	void *keys[BLOCKS], *values[BLOCKS];
	float *q = take(floats * sizeof(float)), *out = take(floats * sizeof(float));
	double end = now_s() + budget_s, best = 1e9, t;
	struct fhk_attn a = {
		.q = q,
		.q_ld = (size_t)group * head_dim,
		.nr_q = nr_q,
		.pos0 = CONTEXT - nr_q,
		.nr_group = group,
		.head_dim = head_dim,
		.kv_type = kv_type,
		.scale = 0.1f,
		.k = (const void *const *)keys,
		.v = (const void *const *)values,
		.nr_splits = 1,
		.out = out,
		.out_ld = (size_t)group * head_dim,
		.scratch = take(k->attn_scratch_bytes(nr_q, group, head_dim)),
	};

	for (size_t i = 0; i < floats; i++)
		q[i] = (float)(i % 13) / 13 - 0.5f;
	for (uint32_t p = 0; p < CONTEXT; p++) {
		if (p % FHK_KV_BLOCK == 0) {
			keys[p / FHK_KV_BLOCK] = take(bytes);
			values[p / FHK_KV_BLOCK] = take(bytes);
		}
		k->kv_append(kv_type, head_dim, p % FHK_KV_BLOCK, keys[p / FHK_KV_BLOCK], values[p / FHK_KV_BLOCK], q,
			     q);
	}
	do {
		t = now_s();
		k->attn(&a);
		t = now_s() - t;
		best = t < best ? t : best;
	} while (now_s() < end);
	printf("%-6s attention kv %-4s dim %3u group %u queries %2u: %8.2f us %6.1f GB/s %6.1f Gop/s\n", k->name,
	       fhk_type_info(kv_type)->name, head_dim, group, nr_q, best * 1e6, 2.0 * BLOCKS * bytes / best * 1e-9,
	       4.0 * CONTEXT * floats / best * 1e-9);
	for (uint32_t i = 0; i < BLOCKS; i++) {
		free(keys[i]);
		free(values[i]);
	}
	free(q);
	free(out);
	free(a.scratch);
}

int main(int argc, char **argv)
{
	static const uint32_t kv_types[] = {FHK_F32, FHK_F16, FHK_BF16, FHK_Q8_0};
	const struct fhk_ops *k = fhk_select(argc > 1 ? argv[1] : NULL);
	double budget_s = argc > 3 ? atof(argv[3]) * 1e-3 : 0.03;

	if (!k) {
		fprintf(stderr, "bench_kernels: this machine has no %s\n", argv[1]);
		return 1;
	}
	for (size_t i = 0; i < COUNT(types); i++) {
		uint32_t elems = fhk_type_info(types[i])->block_elems;

		if (argc > 2 && *argv[2] && strcmp(argv[2], fhk_type_info(types[i])->name))
			continue;
		report(k, types[i], 4096, 4096, budget_s);
		report(k, types[i], 64, elems == 1 ? 172 : elems == 32 ? 160 : 256, budget_s);
	}
	for (size_t i = 0; i < COUNT(kv_types) && (argc < 3 || !*argv[2] || !strcmp(argv[2], "attn")); i++) {
		report_attn(k, kv_types[i], 128, 1, 1, budget_s);
		report_attn(k, kv_types[i], 64, 8, 1, budget_s);
		report_attn(k, kv_types[i], 64, 8, 16, budget_s);
		report_attn(k, kv_types[i], 128, 4, 16, budget_s);
	}
	return 0;
}
