// SPDX-License-Identifier: Apache-2.0
/*
 * The AVX2 table: its plans, the element-wise kernels, and the list.
 *
 * Reductions run in eight lanes over whole vectors and then over the rest, so
 * their order depends on the length alone.
 */
#include <math.h>

#include "kernels/avx2/avx2.h"
#include "kernels/tables.h"

static int mat_plan(struct fhk_mat *m, uint32_t type, uint32_t rows, uint32_t cols, uint32_t nr_experts)
{
	return fhk_panel_plan(m, type, rows, cols, nr_experts, false);
}

static void act_prepare(struct fhk_act *x, enum fhk_form form, uint32_t t0, uint32_t t1, uint32_t c0, uint32_t c1)
{
	if (form == FHK_FORM_Q8)
		fhk_avx2_quantise(x, t0, t1, c0, c1);
}

static void matmul(const struct fhk_mat *m, uint32_t expert, const struct fhk_act *x, const uint32_t *idx, uint32_t nr,
		   uint32_t r0, uint32_t r1, float *y, size_t ldy, unsigned int flags)
{
	if (m->form == FHK_FORM_Q8)
		fhk_avx2_matmul_q(m, expert, x, idx, nr, r0, r1, y, ldy, flags);
	else
		fhk_avx2_matmul_f(m, expert, x, idx, nr, r0, r1, y, ldy, flags);
}

static void rmsnorm(float *y, const float *x, const float *w, uint32_t n, float eps)
{
	__m256 sum = _mm256_setzero_ps(), s;
	float total, scale;
	uint32_t i = 0;

	for (; i + 8 <= n; i += 8) {
		__m256 v = _mm256_loadu_ps(x + i);

		sum = _mm256_fmadd_ps(v, v, sum);
	}
	total = fhk_hsum(sum);
	for (; i < n; i++)
		total += x[i] * x[i];
	scale = 1.0f / sqrtf(total / (float)n + eps);
	s = _mm256_set1_ps(scale);
	for (i = 0; i + 8 <= n; i += 8) {
		__m256 v = _mm256_mul_ps(_mm256_loadu_ps(x + i), s);

		_mm256_storeu_ps(y + i, w ? _mm256_mul_ps(v, _mm256_loadu_ps(w + i)) : v);
	}
	for (; i < n; i++)
		y[i] = x[i] * scale * (w ? w[i] : 1.0f);
}

static void rope(float *x, const float *cs, uint32_t nr_pairs, bool interleaved)
{
	for (uint32_t i = 0; i < nr_pairs; i++) {
		float *a = x + (interleaved ? 2 * i : i), *b = interleaved ? a + 1 : a + nr_pairs;
		float u = *a, v = *b;

		*a = u * cs[2 * i] - v * cs[2 * i + 1];
		*b = u * cs[2 * i + 1] + v * cs[2 * i];
	}
}

static __m256 glu8(__m256 g, __m256 u, enum fhk_glu kind)
{
	const __m256 one = _mm256_set1_ps(1.0f), seven = _mm256_set1_ps(7.0f);
	__m256 k;

	switch (kind) {
	case FHK_GLU_GELU:
		k = _mm256_fmadd_ps(_mm256_mul_ps(g, g), _mm256_set1_ps(0.044715f), one);
		k = fhk_tanh(_mm256_mul_ps(_mm256_mul_ps(g, k), _mm256_set1_ps(0.79788456080286535588f)));
		k = _mm256_mul_ps(_mm256_mul_ps(g, _mm256_set1_ps(0.5f)), _mm256_add_ps(one, k));
		return _mm256_mul_ps(k, u);
	case FHK_GLU_OAI:
		g = _mm256_min_ps(g, seven);
		u = _mm256_max_ps(_mm256_min_ps(u, seven), _mm256_set1_ps(-7.0f));
		k = fhk_exp(_mm256_mul_ps(g, _mm256_set1_ps(-1.702f)));
		return _mm256_mul_ps(_mm256_div_ps(g, _mm256_add_ps(one, k)), _mm256_add_ps(u, one));
	default:
		k = fhk_exp(_mm256_sub_ps(_mm256_setzero_ps(), g));
		return _mm256_mul_ps(_mm256_div_ps(g, _mm256_add_ps(one, k)), u);
	}
}

static void glu(float *h, const float *g, const float *u, uint32_t n, enum fhk_glu kind)
{
	uint32_t i = 0;

	for (; i + 8 <= n; i += 8)
		_mm256_storeu_ps(h + i, glu8(_mm256_loadu_ps(g + i), _mm256_loadu_ps(u + i), kind));
	if (i < n) {
		float a[8] = {0}, b[8] = {0};

		memcpy(a, g + i, (n - i) * sizeof(*g));
		memcpy(b, u + i, (n - i) * sizeof(*u));
		_mm256_storeu_ps(a, glu8(_mm256_loadu_ps(a), _mm256_loadu_ps(b), kind));
		memcpy(h + i, a, (n - i) * sizeof(*h));
	}
}

static void axpy(float *y, float a, const float *x, uint32_t n)
{
	__m256 v = _mm256_set1_ps(a);
	uint32_t i = 0;

	for (; i + 8 <= n; i += 8)
		_mm256_storeu_ps(y + i, _mm256_fmadd_ps(v, _mm256_loadu_ps(x + i), _mm256_loadu_ps(y + i)));
	for (; i < n; i++)
		y[i] = fmaf(a, x[i], y[i]);
}

static void softcap(float *x, uint32_t n, float cap)
{
	uint32_t i = 0;

	for (; i + 8 <= n; i += 8) {
		__m256 v = _mm256_div_ps(_mm256_loadu_ps(x + i), _mm256_set1_ps(cap));

		_mm256_storeu_ps(x + i, _mm256_mul_ps(fhk_tanh(v), _mm256_set1_ps(cap)));
	}
	for (; i < n; i++)
		x[i] = cap * _mm256_cvtss_f32(fhk_tanh(_mm256_set1_ps(x[i] / cap)));
}

/* Lane l holds the first best of indices l, l + 8, ...; a strict comparison keeps the first and refuses NaN. */
static uint32_t argmax(const float *x, uint32_t n)
{
	const float low = -INFINITY;
	__m256 best = _mm256_set1_ps(low);
	__m256i at = _mm256_setzero_si256(), now = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
	float values[8], top = low;
	uint32_t places[8], i = 0, where = 0;

	for (; i + 8 <= n; i += 8) {
		__m256 v = _mm256_loadu_ps(x + i), more = _mm256_cmp_ps(v, best, _CMP_GT_OQ);

		best = _mm256_blendv_ps(best, v, more);
		at = _mm256_blendv_epi8(at, now, _mm256_castps_si256(more));
		now = _mm256_add_epi32(now, _mm256_set1_epi32(8));
	}
	_mm256_storeu_ps(values, best);
	_mm256_storeu_si256((__m256i *)places, at);
	for (int l = 0; l < 8; l++) {
		if (values[l] > top || (values[l] == top && top > low && places[l] < where)) {
			top = values[l];
			where = places[l];
		}
	}
	for (; i < n; i++) {
		if (x[i] > top) {
			top = x[i];
			where = i;
		}
	}
	return where;
}

static float sumexp(const float *x, uint32_t n, float *max)
{
	__m256 m = _mm256_set1_ps(-INFINITY), sum = _mm256_setzero_ps();
	float top, total;
	uint32_t i = 0;

	for (; i + 8 <= n; i += 8)
		m = _mm256_max_ps(_mm256_loadu_ps(x + i), m);
	top = fhk_hmax(m);
	for (; i < n; i++)
		top = x[i] > top ? x[i] : top;
	*max = top;
	m = _mm256_set1_ps(top);
	for (i = 0; i + 8 <= n; i += 8)
		sum = _mm256_add_ps(sum, fhk_exp(_mm256_sub_ps(_mm256_loadu_ps(x + i), m)));
	total = fhk_hsum(sum);
	for (; i < n; i++)
		total += fhk_exp1(x[i] - top);
	return total;
}

const struct fhk_ops fhk_avx2 = {
	.name = "avx2",
	.mat_plan = mat_plan,
	.mat_pack = fhk_avx2_pack,
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
	.kv_head_bytes = fhk_avx2_kv_head_bytes,
	.kv_append = fhk_avx2_kv_append,
	.attn_scratch_bytes = fhk_avx2_attn_scratch_bytes,
	.attn = fhk_avx2_attn,
	.attn_combine = fhk_avx2_attn_combine,
};
