// SPDX-License-Identifier: Apache-2.0
/*
 * The reference table: plain C, no packing, every product in f32 and every sum
 * in double.  It is the oracle that the fast tables are checked against and
 * what hosts without AVX2 run.
 *
 * Weights run from the file's own bytes through fhk_dequant(); sums go over
 * the columns from left to right in four interleaved chains, so the order
 * depends on the column count alone.
 */
#include <math.h>
#include <string.h>

#include "kernels/half.h"
#include "kernels/kernels.h"
#include "kernels/ref/ref.h"

#define PIECE 256 /* columns dequantised at a time: a whole block of every type */
#define TILE 32	  /* tokens whose sums are kept at a time */

static int ref_mat_plan(struct fhk_mat *m, uint32_t type, uint32_t rows, uint32_t cols, uint32_t nr_experts)
{
	const struct fhk_type_info *info = fhk_type_info(type);

	if (!info || cols % info->block_elems)
		return -1;
	*m = (struct fhk_mat){.type = type, .rows = rows, .cols = cols, .nr_experts = nr_experts, .form = FHK_FORM_F32};
	m->expert_bytes = (size_t)(cols / info->block_elems) * info->block_bytes * rows;
	return 0;
}

/* Nothing is packed: packed_bytes is 0 and no caller comes here. */
static void ref_mat_pack(const struct fhk_mat *m, uint32_t expert, const void *src, uint32_t r0, uint32_t r1, void *dst)
{
	(void)m, (void)expert, (void)src, (void)r0, (void)r1, (void)dst;
}

static size_t ref_act_bytes(enum fhk_form form, uint32_t nr_tokens, uint32_t cols)
{
	(void)form, (void)nr_tokens, (void)cols;
	return 0;
}

static void ref_act_prepare(struct fhk_act *x, enum fhk_form form, uint32_t t0, uint32_t t1, uint32_t c0, uint32_t c1)
{
	(void)x, (void)form, (void)t0, (void)t1, (void)c0, (void)c1;
}

/* sum[0..3] += w . x over @n columns, column j in chain j % 4 */
static void dot_piece(const float *w, const float *x, uint32_t n, double *sum)
{
	uint32_t j = 0;

	for (; j + 4 <= n; j += 4)
		for (int c = 0; c < 4; c++)
			sum[c] += (double)w[j + c] * x[j + c];
	for (int c = 0; j < n; j++, c++)
		sum[c] += (double)w[j] * x[j];
}

/* y[i] (+)= row . x[token i] for nr <= TILE tokens */
static void row_times(const struct fhk_mat *m, const uint8_t *row, const struct fhk_act *x, const uint32_t *idx,
		      uint32_t nr, float *y, size_t ldy, unsigned int flags)
{
	const struct fhk_type_info *info = fhk_type_info(m->type);
	double sums[TILE][4] = {{0}};
	float w[PIECE];

	for (uint32_t c = 0; c < m->cols; c += PIECE) {
		uint32_t n = m->cols - c < PIECE ? m->cols - c : PIECE;

		fhk_dequant(m->type, row + (size_t)(c / info->block_elems) * info->block_bytes, w, n);
		for (uint32_t i = 0; i < nr; i++)
			dot_piece(w, x->f32 + (size_t)(idx ? idx[i] : i) * x->ld + c, n, sums[i]);
	}
	for (uint32_t i = 0; i < nr; i++) {
		float v = (float)((sums[i][0] + sums[i][1]) + (sums[i][2] + sums[i][3]));

		y[i * ldy] = flags & FHK_ADD ? y[i * ldy] + v : v;
	}
}

static void ref_matmul(const struct fhk_mat *m, uint32_t expert, const struct fhk_act *x, const uint32_t *idx,
		       uint32_t nr, uint32_t r0, uint32_t r1, float *y, size_t ldy, unsigned int flags)
{
	size_t row_bytes = m->expert_bytes / m->rows;
	const uint8_t *w = (const uint8_t *)m->data + expert * m->expert_bytes;

	for (uint32_t t = 0; t < nr; t += TILE) {
		uint32_t n = nr - t < TILE ? nr - t : TILE;
		struct fhk_act from = *x;

		if (!idx)
			from.f32 += (size_t)t * x->ld;
		for (uint32_t r = r0; r < r1; r++)
			row_times(m, w + r * row_bytes, &from, idx ? idx + t : NULL, n, y + t * ldy + (r - r0), ldy,
				  flags);
	}
}

static void ref_rmsnorm(float *y, const float *x, const float *w, uint32_t n, float eps)
{
	double sum = 0;
	float scale;

	for (uint32_t i = 0; i < n; i++)
		sum += (double)x[i] * x[i];
	scale = (float)(1.0 / sqrt(sum / n + eps));
	for (uint32_t i = 0; i < n; i++)
		y[i] = x[i] * scale * (w ? w[i] : 1.0f);
}

static void ref_rope(float *x, const float *cs, uint32_t nr_pairs, bool interleaved)
{
	for (uint32_t i = 0; i < nr_pairs; i++) {
		float *a = x + (interleaved ? 2 * i : i), *b = interleaved ? a + 1 : a + nr_pairs;
		float u = *a, v = *b;

		*a = u * cs[2 * i] - v * cs[2 * i + 1];
		*b = u * cs[2 * i + 1] + v * cs[2 * i];
	}
}

static float glu_one(float g, float u, enum fhk_glu kind)
{
	switch (kind) {
	case FHK_GLU_GELU:
		return 0.5f * g * (1.0f + tanhf(0.79788456080286535588f * g * (1.0f + 0.044715f * g * g))) * u;
	case FHK_GLU_OAI:
		g = g < 7.0f ? g : 7.0f;
		u = u < -7.0f ? -7.0f : u > 7.0f ? 7.0f : u;
		return g / (1.0f + expf(-1.702f * g)) * (u + 1.0f);
	default: return g / (1.0f + expf(-g)) * u;
	}
}

static void ref_glu(float *h, const float *g, const float *u, uint32_t n, enum fhk_glu kind)
{
	for (uint32_t i = 0; i < n; i++)
		h[i] = glu_one(g[i], u[i], kind);
}

static void ref_axpy(float *y, float a, const float *x, uint32_t n)
{
	for (uint32_t i = 0; i < n; i++)
		y[i] += a * x[i];
}

static void ref_softcap(float *x, uint32_t n, float cap)
{
	for (uint32_t i = 0; i < n; i++)
		x[i] = cap * tanhf(x[i] / cap);
}

static uint32_t ref_argmax(const float *x, uint32_t n)
{
	float best = -INFINITY;
	uint32_t at = 0;

	for (uint32_t i = 0; i < n; i++) {
		if (x[i] > best) {
			best = x[i];
			at = i;
		}
	}
	return at;
}

static float ref_sumexp(const float *x, uint32_t n, float *max)
{
	float m = -INFINITY;
	double sum = 0;

	for (uint32_t i = 0; i < n; i++)
		m = x[i] > m ? x[i] : m;
	*max = m;
	for (uint32_t i = 0; i < n; i++)
		sum += exp((double)x[i] - m);
	return (float)sum;
}

const struct fhk_ops fhk_ref = {
	.name = "ref",
	.mat_plan = ref_mat_plan,
	.mat_pack = ref_mat_pack,
	.act_bytes = ref_act_bytes,
	.act_prepare = ref_act_prepare,
	.matmul = ref_matmul,
	.rmsnorm = ref_rmsnorm,
	.rope = ref_rope,
	.glu = ref_glu,
	.axpy = ref_axpy,
	.softcap = ref_softcap,
	.argmax = ref_argmax,
	.sumexp = ref_sumexp,
	.kv_head_bytes = fhk_ref_kv_head_bytes,
	.kv_append = fhk_ref_kv_append,
	.attn_scratch_bytes = fhk_ref_attn_scratch_bytes,
	.attn = fhk_ref_attn,
	.attn_combine = fhk_ref_attn_combine,
};
