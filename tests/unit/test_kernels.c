// SPDX-License-Identifier: Apache-2.0
/*
 * Weights: what each type means, packing, and multiplication in every table
 * against sums in double precision over the same rounded activations.
 */
#include "tests/unit/kernels_util.h"

/* ---- tables that this machine does not run are named ---- */

#ifdef __x86_64__
#define TABLE(T)                                                                                                       \
	Test(tables, T)                                                                                                \
	{                                                                                                              \
		const struct fhk_ops *k = fhk_select(#T);                                                              \
                                                                                                                       \
		if (!k)                                                                                                \
			cr_skip_test("this CPU cannot run it: no test of the kernels says anything of it");            \
		cr_assert_str_eq(k->name, #T);                                                                         \
	}
TABLE(avx2)
TABLE(avx512)
TABLE(avx512_bf16)
#endif

/* ---- dequantisation, written a second time, as a walk over a block's bytes ---- */

static float half_at(const uint8_t *p)
{
	return fhk_f16_f32(fhk_ld16(p));
}

static void walk_q2_k(const uint8_t *b, float *y)
{
	const uint8_t *q = b + 16;
	int is = 0;

	for (int n = 0; n < 2; n++, q += 32)
		for (int shift = 0; shift < 8; shift += 2)
			for (int h = 0; h < 2; h++, is++)
				for (int l = 0; l < 16; l++)
					*y++ = half_at(b + 80) * (b[is] & 15) * (q[16 * h + l] >> shift & 3) -
					       half_at(b + 82) * (b[is] >> 4);
}

static void walk_q3_k(const uint8_t *b, float *y)
{
	const uint8_t *q = b + 32, *s = b + 96;
	int8_t scales[16];
	int is = 0, bit = 0;

	for (int i = 0; i < 4; i++)
		for (int j = 0; j < 4; j++) {
			int low = i < 2 ? s[4 * i + j] & 15 : s[4 * (i - 2) + j] >> 4;

			scales[4 * i + j] = (int8_t)((low + 16 * (s[8 + j] >> (2 * i) & 3)) - 32);
		}
	for (int n = 0; n < 2; n++, q += 32)
		for (int shift = 0; shift < 8; shift += 2, bit++)
			for (int h = 0; h < 2; h++, is++)
				for (int l = 16 * h; l < 16 * h + 16; l++)
					*y++ = half_at(b + 108) * scales[is] *
					       ((q[l] >> shift & 3) - (b[l] & 1 << bit ? 0 : 4));
}

static void walk_q45_k(const uint8_t *b, float *y, int high)
{
	const uint8_t *q = b + 16 + high;

	for (int j = 0; j < 8; j++) {
		const uint8_t *s = b + 4;
		int sc = j < 4 ? s[j] & 63 : (s[j + 4] & 15) + (s[j - 4] >> 6) * 16;
		int mn = j < 4 ? s[j + 4] & 63 : (s[j + 4] >> 4) + (s[j] >> 6) * 16;

		for (int l = 0; l < 32; l++) {
			int v = j % 2 ? q[l] >> 4 : q[l] & 15;

			if (high && b[16 + l] & 1 << j)
				v += 16;
			*y++ = half_at(b) * sc * v - half_at(b + 2) * mn;
		}
		if (j % 2)
			q += 32;
	}
}

static void walk_q6_k(const uint8_t *b, float *y)
{
	const uint8_t *ql = b, *qh = b + 128;
	const int8_t *sc = (const int8_t *)b + 192;

	for (int n = 0; n < 2; n++, y += 128, ql += 64, qh += 32, sc += 8)
		for (int l = 0; l < 32; l++) {
			float d = half_at(b + 208);

			y[l] = d * sc[l / 16] * ((ql[l] & 15) + (qh[l] & 3) * 16 - 32);
			y[l + 32] = d * sc[l / 16 + 2] * ((ql[l + 32] & 15) + (qh[l] >> 2 & 3) * 16 - 32);
			y[l + 64] = d * sc[l / 16 + 4] * ((ql[l] >> 4) + (qh[l] >> 4 & 3) * 16 - 32);
			y[l + 96] = d * sc[l / 16 + 6] * ((ql[l + 32] >> 4) + (qh[l] >> 6) * 16 - 32);
		}
}

static void walk(uint32_t type, const uint8_t *b, float *y)
{
	switch (type) {
	case FHK_Q2_K: walk_q2_k(b, y); break;
	case FHK_Q3_K: walk_q3_k(b, y); break;
	case FHK_Q4_K: walk_q45_k(b, y, 0); break;
	case FHK_Q5_K: walk_q45_k(b, y, 32); break;
	case FHK_Q6_K: walk_q6_k(b, y); break;
	}
}

Test(dequant, super_blocks_agree_with_a_walk_over_their_bytes)
{
	static const uint32_t types[] = {FHK_Q2_K, FHK_Q3_K, FHK_Q4_K, FHK_Q5_K, FHK_Q6_K};

	for (size_t i = 0; i < COUNT(types); i++) {
		uint32_t bytes = fhk_type_info(types[i])->block_bytes;
		uint8_t *w = rnd_weights(types[i], 8 * 256);

		for (int b = 0; b < 8; b++) {
			float got[256], want[256];

			fhk_dequant(types[i], w + b * bytes, got, 256);
			walk(types[i], w + b * bytes, want);
			for (int c = 0; c < 256; c++)
				cr_assert_float_eq(got[c], want[c], 1e-6, "%s block %d column %d: %g, not %g",
						   fhk_type_info(types[i])->name, b, c, got[c], want[c]);
		}
		free(w);
	}
}

Test(dequant, blocks_of_32_by_hand)
{
	uint8_t b[34] = {0};
	float y[32];

	put_half(b, 0.5f);
	b[2] = 0x1f; /* columns 0 and 16 */
	fhk_dequant(FHK_Q4_0, b, y, 32);
	cr_assert(y[0] == 3.5f && y[16] == -3.5f && y[1] == -4.0f);
	fhk_dequant(FHK_IQ4_NL, b, y, 32);
	cr_assert(y[0] == 56.5f && y[16] == -52.0f && y[1] == -63.5f);
	b[2] = 0x80;
	fhk_dequant(FHK_Q8_0, b, y, 32);
	cr_assert(y[0] == -64.0f && y[1] == 0.0f);
	put_half(b + 2, -1.0f);
	b[4] = 0xf2;
	fhk_dequant(FHK_Q4_1, b, y, 32);
	cr_assert(y[0] == 0.0f && y[16] == 6.5f && y[1] == -1.0f);
	memset(b, 0, sizeof(b));
	put_half(b, 2.0f);
	b[2] = 0x02; /* the fifth bit of column 1 */
	b[4] = 0x80; /* of column 23 */
	b[6 + 1] = 0x07;
	fhk_dequant(FHK_Q5_0, b, y, 32);
	cr_assert(y[1] == 14.0f && y[23] == 0.0f && y[0] == -32.0f);
	memset(b, 0, sizeof(b));
	put_half(b, 2.0f);
	put_half(b + 2, 1.0f);
	b[7] = 0x80; /* column 31 */
	b[8 + 15] = 0x30;
	fhk_dequant(FHK_Q5_1, b, y, 32);
	cr_assert(y[31] == 39.0f && y[15] == 1.0f);
	b[0] = 128; /* 2^1 */
	b[1] = 0xf7;
	fhk_dequant(FHK_MXFP4, b, y, 32);
	cr_assert(y[0] == 12.0f && y[16] == -12.0f);
	b[0] = 0;
	fhk_dequant(FHK_MXFP4, b, y, 32);
	cr_assert(y[0] == 6 * 0x1p-127f);
}

Test(dequant, halves_survive_both_ways)
{
	for (uint32_t h = 0; h < 0x10000; h++) {
		float f = fhk_f16_f32((uint16_t)h), bf = fhk_bf16_f32((uint16_t)h);

		cr_assert(isnan(f) || fhk_f32_f16(f) == h, "half %#x", h);
		cr_assert(isnan(bf) || fhk_f32_bf16(bf) == h, "bfloat %#x", h);
	}
	cr_assert(fhk_f32_f16(65519.0f) == 0x7bff && fhk_f32_f16(65520.0f) == 0x7c00);
	cr_assert(fhk_f32_f16(0x1.002p0f) == 0x3c00 && fhk_f32_f16(0x1.006p0f) == 0x3c02);
}

Test(dequant, unknown_types_have_no_information)
{
	static const uint32_t unknown[] = {4, 5, 9, 15, 16, 24, 31, 40, UINT32_MAX};
	const struct fhk_ops *k;
	struct fhk_mat m;

	for (size_t i = 0; i < COUNT(unknown); i++)
		cr_assert_null(fhk_type_info(unknown[i]));
	for_each_table(k)
	{
		cr_assert_eq(k->mat_plan(&m, 4, 16, 256, 1), -1);
		cr_assert_eq(k->mat_plan(&m, FHK_Q4_K, 16, 128, 1), -1, "half a block");
		cr_assert_eq(k->mat_plan(&m, FHK_Q8_0, 16, 172, 1), -1);
	}
	cr_assert_null(fhk_select("sse9"));
	cr_assert_eq(fhk_select("ref"), &fhk_ref);
}

/* ---- multiplication ---- */

struct problem {
	const struct fhk_ops *k;
	struct fhk_mat m;
	uint8_t *file; /* weights in file order */
	void *packed;
	struct fhk_act x;
	uint32_t nr;
	float *heard; /* [nr, cols] activations as the form rounds them */
};

/* What is left of the activations in their form */
static void round_act(enum fhk_form form, const float *x, float *out, uint32_t cols)
{
	for (uint32_t c = 0; c < cols; c += 32) {
		uint32_t n = cols - c < 32 ? cols - c : 32;
		float max = 0;

		for (uint32_t i = c; i < c + n; i++)
			max = fmaxf(max, fabsf(x[i]));
		for (uint32_t i = c; i < c + n; i++) {
			if (form == FHK_FORM_F32)
				out[i] = x[i];
			else if (form == FHK_FORM_BF16)
				out[i] = fhk_bf16_f32(fhk_f32_bf16(x[i]));
			else
				out[i] = max > 0 ? rintf(x[i] * (127.0f / max)) * (max / 127.0f) : 0;
		}
	}
}

static void problem_open(struct problem *p, const struct fhk_ops *k, uint32_t type, uint32_t rows, uint32_t cols,
			 uint32_t nr_experts, uint32_t nr)
{
	const struct fhk_type_info *ti = fhk_type_info(type);
	size_t expert_file = (size_t)rows * cols / ti->block_elems * ti->block_bytes;

	*p = (struct problem){.k = k, .nr = nr};
	cr_assert_eq(k->mat_plan(&p->m, type, rows, cols, nr_experts), 0);
	p->file = rnd_weights(type, (size_t)rows * cols * nr_experts);
	p->m.data = p->file;
	if (p->m.packed_bytes) {
		p->packed = take(p->m.packed_bytes);
		memset(p->packed, 0xff, p->m.packed_bytes);
		p->m.data = p->packed;
	}
	for (uint32_t e = 0; p->packed && e < nr_experts; e++) {
		uint32_t cut = rows / 2 / FHK_PANEL * FHK_PANEL;

		k->mat_pack(&p->m, e, p->file + e * expert_file, cut, rows, p->packed);
		k->mat_pack(&p->m, e, p->file + e * expert_file, 0, cut, p->packed);
	}
	p->x = (struct fhk_act){.cols = cols, .ld = fhk_pad(cols)};
	p->x.f32 = take((size_t)nr * p->x.ld * sizeof(float));
	p->heard = take((size_t)nr * cols * sizeof(float));
	for (uint32_t t = 0; t < nr; t++) {
		rnd_floats(p->x.f32 + t * p->x.ld, cols, t % 3 == 2 ? 8.0f : 1.0f);
		if (t % 5 == 1 && cols > 40)
			memset(p->x.f32 + t * p->x.ld, 0, 40 * sizeof(float));
		round_act(p->m.form, p->x.f32 + t * p->x.ld, p->heard + t * cols, cols);
	}
	if (k->act_bytes(p->m.form, nr, cols))
		p->x.form[p->m.form] = take(k->act_bytes(p->m.form, nr, cols));
	/* In pieces, as several threads would. */
	k->act_prepare(&p->x, p->m.form, 0, nr / 2, 0, p->x.ld);
	k->act_prepare(&p->x, p->m.form, nr / 2, nr, 32, p->x.ld);
	k->act_prepare(&p->x, p->m.form, nr / 2, nr, 0, 32);
}

static void problem_close(struct problem *p)
{
	for (int f = 0; f < FHK_NR_FORMS; f++)
		free(p->x.form[f]);
	free(p->x.f32);
	free(p->heard);
	free(p->packed);
	free(p->file);
}

/* Every element of y against a sum in double over what the activations became */
static void check_values(const struct problem *p, uint32_t expert, const uint32_t *idx, const float *y, size_t ldy,
			 float before)
{
	const struct fhk_type_info *ti = fhk_type_info(p->m.type);
	size_t row_bytes = (size_t)p->m.cols / ti->block_elems * ti->block_bytes;
	float *w = take(p->m.cols * sizeof(float));

	for (uint32_t r = 0; r < p->m.rows; r++) {
		fhk_dequant(p->m.type, p->file + (expert * (size_t)p->m.rows + r) * row_bytes, w, p->m.cols);
		for (uint32_t i = 0; i < p->nr; i++) {
			const float *x = p->heard + (size_t)(idx ? idx[i] : i) * p->m.cols;
			double sum = before, magnitude = 1e-3;

			for (uint32_t c = 0; c < p->m.cols; c++) {
				sum += (double)w[c] * x[c];
				magnitude += fabs((double)w[c] * x[c]);
			}
			cr_assert_float_eq(y[i * ldy + r], sum, magnitude * 1e-5,
					   "%s %s [%u, %u] expert %u row %u token %u of %u: %g, not %g", p->k->name,
					   ti->name, p->m.rows, p->m.cols, expert, r, i, p->nr, y[i * ldy + r], sum);
		}
	}
	free(w);
}

/* One token at a time, and rows in pieces, must give the same bits. */
static void check_bits(const struct problem *p, uint32_t expert, const uint32_t *idx, const float *y, size_t ldy)
{
	float *one = take(p->m.rows * sizeof(float)), *part = take((size_t)p->nr * FHK_PANEL * 3 * sizeof(float));

	for (uint32_t i = 0; i < p->nr; i++) {
		uint32_t at = idx ? idx[i] : i;

		p->k->matmul(&p->m, expert, &p->x, &at, 1, 0, p->m.rows, one, p->m.rows, 0);
		cr_assert_arr_eq(one, y + i * ldy, p->m.rows * sizeof(float), "%s %s: token %u of %u differs alone",
				 p->k->name, fhk_type_info(p->m.type)->name, i, p->nr);
	}
	for (uint32_t r = 0; r < p->m.rows;) {
		uint32_t end = r + FHK_PANEL * rnd_to(1, 3);

		end = end < p->m.rows ? end : p->m.rows;
		p->k->matmul(&p->m, expert, &p->x, idx, p->nr, r, end, part, FHK_PANEL * 3, 0);
		for (uint32_t i = 0; i < p->nr; i++)
			cr_assert_arr_eq(part + (size_t)i * FHK_PANEL * 3, y + i * ldy + r, (end - r) * sizeof(float),
					 "%s %s: rows %u..%u differ alone", p->k->name, fhk_type_info(p->m.type)->name,
					 r, end);
		r = end;
	}
	free(one);
	free(part);
}

static void check_problem(const struct fhk_ops *k, uint32_t type, uint32_t rows, uint32_t cols, uint32_t nr_experts,
			  uint32_t nr)
{
	uint32_t *idx = take(nr * sizeof(*idx)), expert = rnd_to(0, nr_experts - 1);
	size_t ldy = rows + rnd_to(0, 5);
	float *y = malloc(((nr - 1) * ldy + rows) * sizeof(float)),
	      *sum = malloc(((nr - 1) * ldy + rows) * sizeof(float));
	struct problem p;

	cr_assert(y && sum);
	problem_open(&p, k, type, rows, cols, nr_experts, nr);
	for (uint32_t i = 0; i < nr; i++)
		idx[i] = rnd_to(0, nr - 1);
	k->matmul(&p.m, expert, &p.x, NULL, nr, 0, rows, y, ldy, 0);
	check_values(&p, expert, NULL, y, ldy, 0);
	check_bits(&p, expert, NULL, y, ldy);
	k->matmul(&p.m, expert, &p.x, idx, nr, 0, rows, y, ldy, 0);
	check_values(&p, expert, idx, y, ldy, 0);
	check_bits(&p, expert, idx, y, ldy);
	for (size_t i = 0; i < (nr - 1) * ldy + rows; i++)
		sum[i] = 0.5f;
	k->matmul(&p.m, expert, &p.x, idx, nr, 0, rows, sum, ldy, FHK_ADD);
	for (uint32_t i = 0; i < nr; i++)
		for (uint32_t r = 0; r < rows; r++)
			cr_assert_eq(sum[i * ldy + r], 0.5f + y[i * ldy + r], "%s: adding to y", k->name);
	problem_close(&p);
	free(idx);
	free(y);
	free(sum);
}

Test(matmul, every_type_and_table_in_random_shapes, .timeout = 300)
{
	static const uint32_t tokens[] = {1, 2, 3, 4, 5, 8, 9, 17, 63, 70};
	const struct fhk_ops *k;

	for_each_table(k)
	{
		for (size_t i = 0; i < COUNT(all_types); i++) {
			uint32_t elems = fhk_type_info(all_types[i])->block_elems;

			/* The reference is slow, and the same loop for any number of tokens. */
			for (size_t n = 0; n < COUNT(tokens); n += k == &fhk_ref ? 3 : 1) {
				uint32_t cols = elems == 1 ? rnd_to(1, 300) : elems * rnd_to(1, elems == 32 ? 19 : 3);

				check_problem(k, all_types[i], rnd_to(1, k == &fhk_ref ? 20 : 55), cols, rnd_to(1, 3),
					      tokens[n]);
			}
		}
	}
}

Test(matmul, columns_that_are_no_multiple_of_32)
{
	static const uint32_t types[] = {FHK_F32, FHK_F16, FHK_BF16};
	const struct fhk_ops *k;

	for_each_table(k) for (size_t i = 0; i < COUNT(types); i++)
	{
		check_problem(k, types[i], 64, 172, 1, 8);
		check_problem(k, types[i], 172, 64, 1, 1);
		check_problem(k, types[i], 33, 171, 2, 3);
	}
}

/* The largest integers that a block can sum to, where narrow sums would overflow */
Test(matmul, extreme_quants)
{
	static const uint8_t bytes[] = {0x00, 0xff, 0x7f, 0x80, 0x88};
	const struct fhk_ops *k;

	for_each_table(k) for (size_t i = 0; i < COUNT(all_types); i++)
	{
		const struct fhk_type_info *ti = fhk_type_info(all_types[i]);

		if (ti->block_elems == 1)
			continue;
		for (size_t n = 0; n < COUNT(bytes); n++) {
			struct problem p;
			float y[3 * 20];
			int d, m;

			problem_open(&p, k, all_types[i], 20, 256, 1, 3);
			scale_places(all_types[i], &d, &m);
			for (uint32_t b = 0; b < 20 * 256 / ti->block_elems; b++) {
				uint8_t *blk = p.file + b * ti->block_bytes;

				memset(blk, bytes[n], ti->block_bytes);
				if (d >= 0)
					put_half(blk + d, 0.01f);
				else
					blk[0] = 120;
				if (m >= 0)
					put_half(blk + m, 0.02f);
			}
			for (uint32_t c = 0; c < 3 * 256; c++) {
				float v = c / 256 == 0 ? 1.0f : c / 256 == 1 ? -1.0f : c % 2 ? 1.0f : -1.0f;

				p.x.f32[c] = v;
				p.heard[c] = v;
			}
			if (p.packed)
				k->mat_pack(&p.m, 0, p.file, 0, 20, p.packed);
			k->act_prepare(&p.x, p.m.form, 0, 3, 0, p.x.ld);
			k->matmul(&p.m, 0, &p.x, NULL, 3, 0, 20, y, 20, 0);
			check_values(&p, 0, NULL, y, 20, 0);
			problem_close(&p);
		}
	}
}

/* Packed copies cost little more than the file. */
Test(matmul, packed_size)
{
	const struct fhk_ops *k;

	for_each_table(k) for (size_t i = 0; i < COUNT(all_types); i++)
	{
		const struct fhk_type_info *ti = fhk_type_info(all_types[i]);
		struct fhk_mat m;

		cr_assert_eq(k->mat_plan(&m, all_types[i], 2048, 4096, 2), 0);
		cr_assert(m.packed_bytes <= 1.06 * 2 * 2048 * (4096.0 / ti->block_elems * ti->block_bytes),
			  "%s %s: %zu bytes", k->name, ti->name, m.packed_bytes);
	}
}
