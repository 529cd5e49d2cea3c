// SPDX-License-Identifier: Apache-2.0
/*
 * F32, F16 and BF16 weights times float activations.
 *
 * Lane r of a register is row r of a panel.  Each token has two chains of fused
 * multiply-adds, over even and odd steps (a column; for BF16 a pair), added at
 * the end: the order never depends on how many tokens or panels are done at
 * once, which only serves to keep eight chains or more in flight.
 *
 * BF16 comes in two ways: dot products of pairs with BF16 activations, or, for
 * FHK_FORM_F32, each half of a pair widened to F32, which takes a shift and a
 * mask for all tokens.  Intel's cores do half a vdpbf16ps a cycle and two
 * multiply-adds, so that the second is nearly twice as fast there.
 *
 * Panels have their columns padded to a multiple of four with zeros, and so
 * have the activations.
 */
#include <immintrin.h>

#include "kernels/avx512/avx512.h"

#define TILE 8	   /* tokens in registers */
#define AHEAD 4096 /* bytes to prefetch ahead, past the panel's end into the next */

struct job {
	const uint8_t *panels;
	size_t panel_bytes;
	uint32_t steps; /* columns, or pairs of them for dot products; even */
	uint32_t r0, r1;
	float *y;
	size_t ldy;
	unsigned int flags;
};

/* Of step @k */
FHK_INLINE __m512 weights(uint32_t type, const uint8_t *panel, uint32_t k)
{
	if (type == FHK_F16)
		return _mm512_cvtph_ps(_mm256_load_si256((const __m256i *)panel + k));
	if (type == WIDE_BF16)
		return fhk_bf16_half(_mm512_load_si512((const __m512i *)panel + k / 2), k % 2);
	return _mm512_load_ps((const float *)panel + (size_t)k * FHK_PANEL);
}

/* sum + weights . step @k of x */
FHK_INLINE __m512 step(uint32_t type, __m512 w, const void *x, uint32_t k, __m512 sum)
{
	if (type == FHK_BF16)
		return _mm512_dpbf16_ps(sum, (__m512bh)_mm512_castps_si512(w),
					(__m512bh)_mm512_set1_epi32(((const int32_t *)x)[k]));
	return _mm512_fmadd_ps(w, _mm512_set1_ps(((const float *)x)[k]), sum);
}

/* @nr_p panels from row @r on times @nr tokens; nr_p * nr <= TILE.  @nr_out: tokens that are stored */
FHK_INLINE void mul_tile(uint32_t type, const struct job *j, uint32_t r, const void *const *x, int nr_p, int nr,
			 uint32_t nr_out)
{
	const uint8_t *panel = j->panels + (r - j->r0) / FHK_PANEL * j->panel_bytes;
	const size_t bytes = type == FHK_F16 || type == WIDE_BF16 ? 32 : 64; /* a step of a panel */
	__m512 even[TILE], odd[TILE];

	for (int i = 0; i < nr_p * nr; i++)
		even[i] = odd[i] = _mm512_setzero_ps();
	for (uint32_t k = 0; k < j->steps; k += 2) {
		for (int p = 0; p < nr_p; p++) {
			const char *ahead = (const char *)panel + p * j->panel_bytes + k * bytes + AHEAD;
			__m512 w = weights(type, panel + p * j->panel_bytes, k);

			/* Many panels at once are streams enough for the hardware. */
			if (nr_p == 1) {
				_mm_prefetch(ahead, _MM_HINT_T0);
				if (bytes == 64)
					_mm_prefetch(ahead + 64, _MM_HINT_T0);
			}
			for (int t = 0; t < nr; t++)
				even[p * nr + t] = step(type, w, x[t], k, even[p * nr + t]);
			w = weights(type, panel + p * j->panel_bytes, k + 1);
			for (int t = 0; t < nr; t++)
				odd[p * nr + t] = step(type, w, x[t], k + 1, odd[p * nr + t]);
		}
	}
	for (int p = 0; p < nr_p; p++) {
		uint32_t at = r - j->r0 + p * FHK_PANEL, left = j->r1 - j->r0 - at;
		__mmask16 mask = left >= 16 ? 0xffff : (__mmask16)((1u << left) - 1);

		for (int t = 0; t < nr; t++) {
			__m512 sum = _mm512_add_ps(even[p * nr + t], odd[p * nr + t]);
			float *y = j->y + t * j->ldy + at;

			if ((uint32_t)t >= nr_out)
				break;
			if (j->flags & FHK_ADD)
				sum = _mm512_add_ps(_mm512_maskz_loadu_ps(mask, y), sum);
			_mm512_mask_storeu_ps(y, mask, sum);
		}
	}
}

/* @x: [nr rounded up to 1, 2, 4 or TILE], the last token repeated */
FHK_INLINE void mul_type(uint32_t type, const struct job *j, const void *const *x, uint32_t nr)
{
	uint32_t r = j->r0;

	if (nr == 1)
		for (; r + 3 * FHK_PANEL < j->r1; r += 4 * FHK_PANEL)
			mul_tile(type, j, r, x, 4, 1, nr);
	else if (nr == 2)
		for (; r + FHK_PANEL < j->r1; r += 2 * FHK_PANEL)
			mul_tile(type, j, r, x, 2, 2, nr);
	for (; r < j->r1; r += FHK_PANEL) {
		if (nr == 1)
			mul_tile(type, j, r, x, 1, 1, nr);
		else if (nr == 2)
			mul_tile(type, j, r, x, 1, 2, nr);
		else if (nr <= 4)
			mul_tile(type, j, r, x, 1, 4, nr);
		else
			mul_tile(type, j, r, x, 1, TILE, nr);
	}
}

static __attribute__((noinline)) void mul_f32(const struct job *j, const void *const *x, uint32_t nr)
{
	mul_type(FHK_F32, j, x, nr);
}

static __attribute__((noinline)) void mul_f16(const struct job *j, const void *const *x, uint32_t nr)
{
	mul_type(FHK_F16, j, x, nr);
}

static __attribute__((noinline)) void mul_bf16(const struct job *j, const void *const *x, uint32_t nr)
{
	mul_type(FHK_BF16, j, x, nr);
}

static __attribute__((noinline)) void mul_wide_bf16(const struct job *j, const void *const *x, uint32_t nr)
{
	mul_type(WIDE_BF16, j, x, nr);
}

static void mul_rows(const struct fhk_mat *m, const struct job *j, const void *const *x, uint32_t nr)
{
	switch (m->type) {
	case FHK_F32: mul_f32(j, x, nr); break;
	case FHK_F16: mul_f16(j, x, nr); break;
	default: (m->form == FHK_FORM_BF16 ? mul_bf16 : mul_wide_bf16)(j, x, nr); break;
	}
}

void fhk_avx512_mul_float(const struct fhk_mat *m, uint32_t expert, const struct fhk_act *x, const uint32_t *idx,
			  uint32_t nr, uint32_t r0, uint32_t r1, float *y, size_t ldy, unsigned int flags)
{
	bool pairs = m->form == FHK_FORM_BF16;
	const uint8_t *acts = pairs ? x->form[FHK_FORM_BF16] : (const uint8_t *)x->f32;
	size_t token_bytes = (size_t)x->ld * (pairs ? 2 : 4);
	size_t panel_bytes = fhk_panel_bytes(m->type, m->cols);
	const void *tokens[TILE];
	/* Some panels at a time, so that they stay in the second-level cache for all tokens. */
	uint32_t rows = nr <= TILE ? r1 - r0 : (uint32_t)(262144 / panel_bytes + 1) * FHK_PANEL;

	for (uint32_t r = r0; r < r1; r += rows) {
		struct job j = {
			.panels = (const uint8_t *)m->data + expert * m->expert_bytes + r / FHK_PANEL * panel_bytes,
			.panel_bytes = panel_bytes,
			.steps = fhk_kpad(m->cols) / (pairs ? 2 : 1),
			.r0 = r,
			.r1 = r1 - r < rows ? r1 : r + rows,
			.ldy = ldy,
			.flags = flags,
		};

		for (uint32_t t = 0; t < nr; t += TILE) {
			uint32_t n = nr - t < TILE ? nr - t : TILE;

			for (uint32_t i = 0; i < TILE; i++) {
				uint32_t at = t + (i < n ? i : n - 1);

				tokens[i] = acts + (idx ? idx[at] : at) * token_bytes;
			}
			j.y = y + t * ldy + (r - r0);
			mul_rows(m, &j, tokens, n);
		}
	}
}
