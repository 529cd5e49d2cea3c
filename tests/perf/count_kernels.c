// SPDX-License-Identifier: Apache-2.0
/*
 * What tests/perf/counts.py counts the instructions of: each kernel of one
 * table, once, on small shapes, under callgrind.
 *
 *   count_kernels ISA        every case, its name on stdout as it runs
 *
 * All that is counted happens below counted(), which callgrind is told to
 * collect in and to write a dump after: the n-th name belongs to the n-th dump.
 * Data are the same in every run.  Nothing here calls the C library's
 * mathematics, whose instructions are another matter and another version.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/kernels.h"

#define COUNT(a) (sizeof(a) / sizeof((a)[0]))
#define ROWS 64u
#define COLS 512u
#define MAX_TOKENS 16u

static const uint32_t types[] = {FHK_F32,  FHK_F16,  FHK_BF16, FHK_Q8_0, FHK_Q4_0, FHK_Q4_1,   FHK_Q5_0,   FHK_Q5_1,
				 FHK_Q2_K, FHK_Q3_K, FHK_Q4_K, FHK_Q5_K, FHK_Q6_K, FHK_IQ4_NL, FHK_IQ4_XS, FHK_MXFP4};
static const uint32_t tokens[] = {1, MAX_TOKENS};

struct work {
	const struct fhk_ops *k;
	struct fhk_mat m;
	struct fhk_act x;
	void *file, *packed;
	float *y;
	uint32_t nr;
	struct fhk_attn attn;
};

typedef void (*case_fn)(struct work *w);

static void *take(size_t bytes)
{
	void *p = aligned_alloc(FHK_ALIGN, (bytes + FHK_ALIGN) / FHK_ALIGN * FHK_ALIGN);

	if (!p) {
		fprintf(stderr, "count_kernels: no memory for %zu bytes\n", bytes);
		exit(1);
	}
	memset(p, 0, bytes);
	return p;
}

/* Callgrind collects in here and below; a call through a pointer, so that nothing is inlined into it. */
__attribute__((noinline, noipa)) void counted(case_fn fn, struct work *w);
void counted(case_fn fn, struct work *w)
{
	fn(w);
}

static void run_case(const char *what, case_fn fn, struct work *w)
{
	printf("%s %s\n", w->k->name, what);
	counted(fn, w);
}

static void do_pack(struct work *w)
{
	w->k->mat_pack(&w->m, 0, w->file, 0, ROWS, w->packed);
}

static void do_prepare(struct work *w)
{
	w->k->act_prepare(&w->x, w->m.form, 0, MAX_TOKENS, 0, w->x.ld);
}

static void do_matmul(struct work *w)
{
	w->k->matmul(&w->m, 0, &w->x, NULL, w->nr, 0, ROWS, w->y, ROWS, 0);
}

static void do_attn(struct work *w)
{
	w->k->attn(&w->attn);
}

static void do_rope(struct work *w)
{
	w->k->rope(w->y, w->x.f32, ROWS / 2, false);
}

static void do_argmax(struct work *w)
{
	w->nr = w->k->argmax(w->x.f32, COLS);
}

/* Bytes that are small numbers in every format */
static void *random_file(uint32_t type)
{
	const struct fhk_type_info *ti = fhk_type_info(type);
	size_t bytes = (size_t)ROWS * COLS / ti->block_elems * ti->block_bytes;
	uint8_t *p = take(bytes);
	uint32_t s = 1;

	for (size_t i = 0; i < bytes; i++) {
		s = s * 1664525 + 1013904223;
		p[i] = s >> 24 & 0x3b;
	}
	return p;
}

static void count_type(const struct fhk_ops *k, uint32_t type)
{
	struct work w = {.k = k, .y = take(MAX_TOKENS * ROWS * sizeof(float))};
	const char *name = fhk_type_info(type)->name;
	char what[64];

	if (k->mat_plan(&w.m, type, ROWS, COLS, 1)) {
		free(w.y);
		return;
	}
	w.m.data = w.file = random_file(type);
	if (w.m.packed_bytes) {
		w.m.data = w.packed = take(w.m.packed_bytes);
		snprintf(what, sizeof(what), "pack %s", name);
		run_case(what, do_pack, &w);
	}
	w.x = (struct fhk_act){.cols = COLS, .ld = fhk_pad(COLS)};
	w.x.f32 = take((size_t)MAX_TOKENS * w.x.ld * sizeof(float));
	for (uint32_t i = 0; i < MAX_TOKENS * w.x.ld; i++)
		w.x.f32[i] = i % w.x.ld < COLS ? (float)(i * 17 % 101) / 50 - 1 : 0;
	if (w.m.form != FHK_FORM_F32) {
		w.x.form[w.m.form] = take(k->act_bytes(w.m.form, MAX_TOKENS, COLS));
		/* Once a form, not once a type. */
		if (type == FHK_BF16 || type == FHK_Q8_0) {
			snprintf(what, sizeof(what), "activations for %s", name);
			run_case(what, do_prepare, &w);
		} else {
			do_prepare(&w);
		}
	}
	for (size_t i = 0; i < COUNT(tokens); i++) {
		w.nr = tokens[i];
		snprintf(what, sizeof(what), "matmul %s %u token%s", name, w.nr, w.nr > 1 ? "s" : "");
		run_case(what, do_matmul, &w);
	}
	if (type == FHK_F32) {
		run_case("rope", do_rope, &w);
		run_case("argmax", do_argmax, &w);
	}
	free(w.x.form[w.m.form]);
	free(w.x.f32);
	free(w.packed);
	free(w.file);
	free(w.y);
}

/* Two blocks of context, a group of four query heads of 64: a decode step, and eight tokens of a prompt. */
static void count_attn(const struct fhk_ops *k, uint32_t kv_type, uint32_t nr_q)
{
	enum { HEAD = 64, GROUP = 4, BLOCKS = 2, MAX_Q = 8 };
	size_t bytes = k->kv_head_bytes(kv_type, HEAD), floats = (size_t)MAX_Q * GROUP * HEAD;
	void *keys[BLOCKS], *values[BLOCKS];
	struct work w = {.k = k};
	float *q = take(floats * sizeof(float));
	char what[64];

	for (size_t i = 0; i < floats; i++)
		q[i] = (float)(i % 13) / 13 - 0.5f;
	for (uint32_t p = 0; p < BLOCKS * FHK_KV_BLOCK; p++) {
		if (p % FHK_KV_BLOCK == 0) {
			keys[p / FHK_KV_BLOCK] = take(bytes);
			values[p / FHK_KV_BLOCK] = take(bytes);
		}
		k->kv_append(kv_type, HEAD, p % FHK_KV_BLOCK, keys[p / FHK_KV_BLOCK], values[p / FHK_KV_BLOCK], q + p,
			     q);
	}
	w.attn = (struct fhk_attn){
		.q = q,
		.q_ld = (size_t)GROUP * HEAD,
		.nr_q = nr_q,
		.pos0 = BLOCKS * FHK_KV_BLOCK - nr_q,
		.nr_group = GROUP,
		.head_dim = HEAD,
		.kv_type = kv_type,
		.scale = 0.1f,
		.k = (const void *const *)keys,
		.v = (const void *const *)values,
		.nr_splits = 1,
		.out = take(floats * sizeof(float)),
		.out_ld = (size_t)GROUP * HEAD,
		.scratch = take(k->attn_scratch_bytes(MAX_Q, GROUP, HEAD)),
	};
	snprintf(what, sizeof(what), "attention %s %u quer%s", fhk_type_info(kv_type)->name, nr_q,
		 nr_q > 1 ? "ies" : "y");
	run_case(what, do_attn, &w);
	for (uint32_t i = 0; i < BLOCKS; i++) {
		free(keys[i]);
		free(values[i]);
	}
	free(w.attn.out);
	free(w.attn.scratch);
	free(q);
}

int main(int argc, char **argv)
{
	static const uint32_t kv_types[] = {FHK_F32, FHK_F16, FHK_BF16, FHK_Q8_0};
	const struct fhk_ops *k = argc == 2 ? fhk_select(argv[1]) : NULL;

	if (!k) {
		fprintf(stderr, "usage: count_kernels ISA, one that this machine runs\n");
		return 2;
	}
	for (size_t i = 0; i < COUNT(types); i++)
		count_type(k, types[i]);
	/* The reference takes its exponentials from the C library. */
	for (size_t i = 0; i < COUNT(kv_types) && strcmp(k->name, "ref"); i++) {
		count_attn(k, kv_types[i], 1);
		count_attn(k, kv_types[i], 8);
	}
	return 0;
}
