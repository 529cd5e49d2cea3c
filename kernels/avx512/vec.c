// SPDX-License-Identifier: Apache-2.0
/*
 * The AVX-512 tables, their activations and their element-wise kernels.  They
 * differ in BF16 alone: avx512 widens it to F32, avx512_bf16 multiplies pairs of
 * it (vdpbf16ps).  Only that one executes instructions of AVX512-BF16.
 *
 * Sums over a vector (norms, softmax) go in an order fixed by its length.  All
 * buffers are the caller's.
 */
#include <math.h>

#include "kernels/avx512/avx512.h"
#include "kernels/avx512/math.h"
#include "kernels/tables.h"

static int mat_plan(struct fhk_mat *m, uint32_t type, uint32_t rows, uint32_t cols, uint32_t nr_experts)
{
	return fhk_panel_plan(m, type, rows, cols, nr_experts, false);
}

static int mat_plan_pairs(struct fhk_mat *m, uint32_t type, uint32_t rows, uint32_t cols, uint32_t nr_experts)
{
	return fhk_panel_plan(m, type, rows, cols, nr_experts, true);
}

static void matmul(const struct fhk_mat *m, uint32_t expert, const struct fhk_act *x, const uint32_t *idx, uint32_t nr,
		   uint32_t r0, uint32_t r1, float *y, size_t ldy, unsigned int flags)
{
	if (m->layout == FHK_LAYOUT_QUANT)
		fhk_avx512_mul_quant(m, expert, x, idx, nr, r0, r1, y, ldy, flags);
	else
		fhk_avx512_mul_float(m, expert, x, idx, nr, r0, r1, y, ldy, flags);
}

/* 32 columns: the largest magnitude becomes 127. */
static void quantise(const float *x, struct fhk_q8 *out)
{
	__m512 a = _mm512_loadu_ps(x), b = _mm512_loadu_ps(x + 16);
	float max = _mm512_reduce_max_ps(_mm512_max_ps(_mm512_abs_ps(a), _mm512_abs_ps(b)));
	__m512 inverse = _mm512_set1_ps(max > 1e-30f ? 127.0f / max : 0);
	__m512i qa = _mm512_cvtps_epi32(_mm512_mul_ps(a, inverse)), qb = _mm512_cvtps_epi32(_mm512_mul_ps(b, inverse));
	int32_t sum0 = _mm512_reduce_add_epi32(qa), sum1 = _mm512_reduce_add_epi32(qb);

	_mm_store_si128((__m128i *)out->q, _mm512_cvtsepi32_epi8(qa));
	_mm_store_si128((__m128i *)out->q + 1, _mm512_cvtsepi32_epi8(qb));
	out->d = max > 1e-30f ? max / 127.0f : 0;
	out->start8 = FHK_MAGIC_BITS - 8 * (sum0 + sum1);
	out->start128 = FHK_MAGIC_BITS - 128 * (sum0 + sum1);
	out->nsum16[0] = -sum0;
	out->nsum16[1] = -sum1;
	out->fsum = out->d * (float)(sum0 + sum1);
	out->fsum16[0] = out->d * (float)sum0;
	out->fsum16[1] = out->d * (float)sum1;
}

static void act_prepare(struct fhk_act *x, enum fhk_form form, uint32_t t0, uint32_t t1, uint32_t c0, uint32_t c1)
{
	for (uint32_t t = t0; t < t1; t++) {
		const float *row = x->f32 + (size_t)t * x->ld;

		if (form == FHK_FORM_Q8) {
			struct fhk_q8 *out = (struct fhk_q8 *)x->form[form] + (size_t)t * (x->ld / 32);

			for (uint32_t b = c0 / 32; b < c1 / 32; b++)
				quantise(row + 32 * b, &out[b]);
		} else if (form == FHK_FORM_BF16) {
			uint16_t *out = (uint16_t *)x->form[form] + (size_t)t * x->ld;

			for (uint32_t c = c0; c < c1; c += 16)
				_mm256_storeu_si256((__m256i *)(out + c),
						    (__m256i)_mm512_cvtneps_pbh(_mm512_loadu_ps(row + c)));
		}
	}
}

static void rmsnorm(float *y, const float *x, const float *w, uint32_t n, float eps)
{
	__m512 sum[2] = {_mm512_setzero_ps(), _mm512_setzero_ps()}, scale;

	for (uint32_t i = 0; i < n; i += 16) {
		__m512 v = _mm512_maskz_loadu_ps(fhk_first16(n - i), x + i);

		sum[i / 16 % 2] = _mm512_fmadd_ps(v, v, sum[i / 16 % 2]);
	}
	scale = _mm512_set1_ps(1.0f / sqrtf(_mm512_reduce_add_ps(_mm512_add_ps(sum[0], sum[1])) / n + eps));
	for (uint32_t i = 0; i < n; i += 16) {
		__mmask16 mask = fhk_first16(n - i);
		__m512 v = _mm512_mul_ps(_mm512_maskz_loadu_ps(mask, x + i), scale);

		if (w)
			v = _mm512_mul_ps(v, _mm512_maskz_loadu_ps(mask, w + i));
		_mm512_mask_storeu_ps(y + i, mask, v);
	}
}

/* Pairs side by side: (x0 c - x1 s, x1 c + x0 s) */
static void rope_interleaved(float *x, const float *cs, uint32_t n)
{
	for (uint32_t i = 0; i < n; i += 16) {
		__mmask16 mask = fhk_first16(n - i);
		__m512 v = _mm512_maskz_loadu_ps(mask, x + i), f = _mm512_maskz_loadu_ps(mask, cs + i);
		__m512 swapped = _mm512_mul_ps(_mm512_permute_ps(v, 0xb1), _mm512_movehdup_ps(f));

		_mm512_mask_storeu_ps(x + i, mask, _mm512_fmaddsub_ps(v, _mm512_moveldup_ps(f), swapped));
	}
}

static void rope(float *x, const float *cs, uint32_t nr_pairs, bool interleaved)
{
	const __m512i evens = _mm512_setr_epi32(0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30);
	const __m512i odds = _mm512_add_epi32(evens, _mm512_set1_epi32(1));

	if (interleaved) {
		rope_interleaved(x, cs, 2 * nr_pairs);
		return;
	}
	for (uint32_t i = 0; i < nr_pairs; i += 16) {
		uint32_t n = nr_pairs - i;
		__mmask16 mask = fhk_first16(n);
		__m512 lo = _mm512_maskz_loadu_ps(fhk_first16(2 * n), cs + 2 * i);
		__m512 hi = _mm512_maskz_loadu_ps(n > 8 ? fhk_first16(2 * n - 16) : 0, cs + 2 * i + 16);
		__m512 c = _mm512_permutex2var_ps(lo, evens, hi), s = _mm512_permutex2var_ps(lo, odds, hi);
		__m512 a = _mm512_maskz_loadu_ps(mask, x + i), b = _mm512_maskz_loadu_ps(mask, x + nr_pairs + i);

		_mm512_mask_storeu_ps(x + i, mask, _mm512_fmsub_ps(a, c, _mm512_mul_ps(b, s)));
		_mm512_mask_storeu_ps(x + nr_pairs + i, mask, _mm512_fmadd_ps(b, c, _mm512_mul_ps(a, s)));
	}
}

FHK_INLINE __m512 glu16(__m512 g, __m512 u, enum fhk_glu kind)
{
	const __m512 seven = _mm512_set1_ps(7.0f);
	__m512 z;

	switch (kind) {
	case FHK_GLU_GELU: /* (1 + tanh z) / 2 is sigmoid 2 z */
		z = _mm512_fmadd_ps(_mm512_mul_ps(g, g), _mm512_set1_ps(0.044715f), _mm512_set1_ps(1.0f));
		z = _mm512_mul_ps(_mm512_mul_ps(g, z), _mm512_set1_ps(1.595769122f));
		return _mm512_mul_ps(_mm512_mul_ps(g, fhk_sigmoid16(z)), u);
	case FHK_GLU_OAI:
		g = _mm512_min_ps(g, seven);
		u = _mm512_max_ps(_mm512_min_ps(u, seven), _mm512_set1_ps(-7.0f));
		z = fhk_sigmoid16(_mm512_mul_ps(g, _mm512_set1_ps(1.702f)));
		return _mm512_mul_ps(_mm512_mul_ps(g, z), _mm512_add_ps(u, _mm512_set1_ps(1.0f)));
	default: return _mm512_mul_ps(_mm512_mul_ps(g, fhk_sigmoid16(g)), u);
	}
}

static void glu(float *h, const float *g, const float *u, uint32_t n, enum fhk_glu kind)
{
	for (uint32_t i = 0; i < n; i += 16) {
		__mmask16 mask = fhk_first16(n - i);
		__m512 r = glu16(_mm512_maskz_loadu_ps(mask, g + i), _mm512_maskz_loadu_ps(mask, u + i), kind);

		_mm512_mask_storeu_ps(h + i, mask, r);
	}
}

static void axpy(float *y, float a, const float *x, uint32_t n)
{
	for (uint32_t i = 0; i < n; i += 16) {
		__mmask16 mask = fhk_first16(n - i);
		__m512 v = _mm512_maskz_loadu_ps(mask, x + i);

		v = _mm512_fmadd_ps(_mm512_set1_ps(a), v, _mm512_maskz_loadu_ps(mask, y + i));
		_mm512_mask_storeu_ps(y + i, mask, v);
	}
}

static void softcap(float *x, uint32_t n, float cap)
{
	for (uint32_t i = 0; i < n; i += 16) {
		__mmask16 mask = fhk_first16(n - i);
		__m512 v = _mm512_div_ps(_mm512_maskz_loadu_ps(mask, x + i), _mm512_set1_ps(cap));

		_mm512_mask_storeu_ps(x + i, mask, _mm512_mul_ps(fhk_tanh16(v), _mm512_set1_ps(cap)));
	}
}

static uint32_t argmax(const float *x, uint32_t n)
{
	const __m512i lanes = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
	__m512 best = _mm512_set1_ps(-INFINITY);
	__m512i at = _mm512_setzero_si512();
	float values[16], top = -INFINITY;
	uint32_t indices[16], winner = 0;

	for (uint32_t i = 0; i < n; i += 16) {
		__mmask16 mask = fhk_first16(n - i);
		__m512 v = _mm512_maskz_loadu_ps(mask, x + i);
		__mmask16 more = _mm512_mask_cmp_ps_mask(mask, v, best, _CMP_GT_OQ);

		best = _mm512_mask_mov_ps(best, more, v);
		at = _mm512_mask_add_epi32(at, more, lanes, _mm512_set1_epi32((int)i));
	}
	_mm512_storeu_ps(values, best);
	_mm512_storeu_si512(indices, at);
	for (int i = 0; i < 16; i++) {
		if (values[i] > top || (values[i] == top && top > -INFINITY && indices[i] < winner)) {
			top = values[i];
			winner = indices[i];
		}
	}
	return winner;
}

static float sumexp(const float *x, uint32_t n, float *max)
{
	__m512 m = _mm512_set1_ps(-INFINITY), sum = _mm512_setzero_ps();

	/* The second operand wins where one is NaN. */
	for (uint32_t i = 0; i < n; i += 16)
		m = _mm512_max_ps(_mm512_mask_loadu_ps(m, fhk_first16(n - i), x + i), m);
	*max = _mm512_reduce_max_ps(m);
	m = _mm512_set1_ps(*max);
	for (uint32_t i = 0; i < n; i += 16) {
		__mmask16 mask = fhk_first16(n - i);
		__m512 d = _mm512_sub_ps(_mm512_maskz_loadu_ps(mask, x + i), m);

		mask = _mm512_mask_cmp_ps_mask(mask, d, _mm512_set1_ps(-87.0f), _CMP_GT_OQ);
		sum = _mm512_mask_add_ps(sum, mask, sum, fhk_exp16(d));
	}
	return _mm512_reduce_add_ps(sum);
}

const struct fhk_ops fhk_avx512 = {
	.name = "avx512",
	.mat_plan = mat_plan,
	.mat_pack = fhk_avx512_pack,
	.act_bytes = fhk_panel_act_bytes,
	.act_prepare = act_prepare,
	.matmul = matmul,
	.rmsnorm = rmsnorm,
	.rope = rope,
	.glu = glu,
	.axpy = axpy,
	.softcap = softcap,
	.argmax = argmax,
	.sumexp = sumexp,
	.kv_head_bytes = fhk_avx512_kv_head_bytes,
	.kv_append = fhk_avx512_kv_append,
	.attn_scratch_bytes = fhk_avx512_attn_scratch_bytes,
	.attn = fhk_avx512_attn,
	.attn_combine = fhk_avx512_attn_combine,
};

const struct fhk_ops fhk_avx512_bf16 = {
	.name = "avx512_bf16",
	.mat_plan = mat_plan_pairs,
	.mat_pack = fhk_avx512_pack,
	.act_bytes = fhk_panel_act_bytes,
	.act_prepare = act_prepare,
	.matmul = matmul,
	.rmsnorm = rmsnorm,
	.rope = rope,
	.glu = glu,
	.axpy = axpy,
	.softcap = softcap,
	.argmax = argmax,
	.sumexp = sumexp,
	.kv_head_bytes = fhk_avx512_kv_head_bytes,
	.kv_append = fhk_avx512_kv_append,
	.attn_scratch_bytes = fhk_avx512_attn_scratch_bytes,
	.attn = fhk_avx512_attn_pairs,
	.attn_combine = fhk_avx512_attn_combine,
};
