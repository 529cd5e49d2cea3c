// SPDX-License-Identifier: Apache-2.0
/*
 * F32, F16 and BF16 weights times f32 activations, AVX2.
 *
 * A panel's 16 rows are two vectors; each output is one chain of fused
 * multiply-adds from the first column to the last.  Several panels, or several
 * tokens, run side by side to hide the latency, which changes no chain.
 */
#include "kernels/avx2/avx2.h"

/* Column @c of a panel's 16 rows; BF16 columns lie in pairs, the even one in the low half of each lane. */
FHK_INLINE void load16(uint32_t type, const uint8_t *panel, uint32_t c, __m256 w[2])
{
	for (int i = 0; i < 2; i++) {
		__m256i v;

		if (type == FHK_F32) {
			w[i] = _mm256_load_ps((const float *)panel + 16 * c + 8 * i);
		} else if (type == FHK_F16) {
			w[i] = _mm256_cvtph_ps(_mm_load_si128((const __m128i *)panel + 2 * c + i));
		} else {
			v = _mm256_load_si256((const __m256i *)panel + c / 2 * 2 + i);
			v = c % 2 ? _mm256_and_si256(v, _mm256_set1_epi32((int)0xffff0000)) : _mm256_slli_epi32(v, 16);
			w[i] = _mm256_castsi256_ps(v);
		}
	}
}

/* out[t][panel][16] = panels times tokens; p: the first panel, @step bytes to the next; cols: even */
FHK_INLINE void block(uint32_t type, const int panels, const int nr, const uint8_t *p, size_t step, uint32_t cols,
		      const float *const *x, float *out)
{
	__m256 acc[12];

#pragma GCC unroll 12
	for (int i = 0; i < panels * nr * 2; i++)
		acc[i] = _mm256_setzero_ps();
	for (uint32_t c2 = 0; c2 < cols; c2 += 2) {
#pragma GCC unroll 2
		for (uint32_t c = 0; c < 2; c++) {
#pragma GCC unroll 4
			for (int k = 0; k < panels; k++) {
				__m256 w[2];

				load16(type, p + k * step, c2 + c, w);
#pragma GCC unroll 6
				for (int t = 0; t < nr; t++) {
					__m256 v = _mm256_broadcast_ss(x[t] + c2 + c), *a = acc + (t * panels + k) * 2;

					a[0] = _mm256_fmadd_ps(w[0], v, a[0]);
					a[1] = _mm256_fmadd_ps(w[1], v, a[1]);
				}
			}
		}
	}
#pragma GCC unroll 12
	for (int i = 0; i < panels * nr * 2; i++)
		_mm256_storeu_ps(out + i * 8, acc[i]);
}

#define BLOCK_FNS(name, type)                                                                                          \
	static void name(int panels, int nr, const uint8_t *p, size_t step, uint32_t cols, const float *const *x,      \
			 float *out)                                                                                   \
	{                                                                                                              \
		switch (nr * 8 + panels) {                                                                             \
		case 8 + 4: block(type, 4, 1, p, step, cols, x, out); break;                                           \
		case 8 + 1: block(type, 1, 1, p, step, cols, x, out); break;                                           \
		case 16 + 2: block(type, 2, 2, p, step, cols, x, out); break;                                          \
		case 16 + 1: block(type, 1, 2, p, step, cols, x, out); break;                                          \
		case 24 + 1: block(type, 1, 3, p, step, cols, x, out); break;                                          \
		case 32 + 1: block(type, 1, 4, p, step, cols, x, out); break;                                          \
		case 40 + 1: block(type, 1, 5, p, step, cols, x, out); break;                                          \
		default: block(type, 1, 6, p, step, cols, x, out);                                                     \
		}                                                                                                      \
	}

BLOCK_FNS(block_f32, FHK_F32)
BLOCK_FNS(block_f16, FHK_F16)
BLOCK_FNS(block_bf16, FHK_BF16)

typedef void (*block_fn)(int panels, int nr, const uint8_t *p, size_t step, uint32_t cols, const float *const *x,
			 float *out);

/* @n <= 6 tokens; w: panel of row r0; y: of the first token */
static void rows_times(block_fn fn, const uint8_t *w, size_t step, uint32_t cols, const float *const *from, uint32_t n,
		       uint32_t nr_rows, float *y, size_t ldy, unsigned int flags)
{
	uint32_t panels;

	for (uint32_t r = 0; r < nr_rows; r += panels * FHK_PANEL) {
		uint32_t left = (nr_rows - r + FHK_PANEL - 1) / FHK_PANEL, rows;
		float out[96];

		panels = n == 1 && left >= 4 ? 4 : n == 2 && left >= 2 ? 2 : 1;
		rows = nr_rows - r < panels * FHK_PANEL ? nr_rows - r : panels * FHK_PANEL;
		fn((int)panels, (int)n, w + r / FHK_PANEL * step, step, cols, from, out);
		for (uint32_t i = 0; i < n; i++) {
			const float *sums = out + i * panels * FHK_PANEL;
			float *to = y + i * ldy + r;

			for (uint32_t j = 0; j < rows; j++)
				to[j] = flags & FHK_ADD ? to[j] + sums[j] : sums[j];
		}
	}
}

void fhk_avx2_matmul_f(const struct fhk_mat *m, uint32_t expert, const struct fhk_act *x, const uint32_t *idx,
		       uint32_t nr, uint32_t r0, uint32_t r1, float *y, size_t ldy, unsigned int flags)
{
	block_fn fn = m->type == FHK_F32 ? block_f32 : m->type == FHK_F16 ? block_f16 : block_bf16;
	size_t step = fhk_panel_bytes(m->type, m->cols);
	const uint8_t *w = (const uint8_t *)m->data + expert * m->expert_bytes;
	/* Some panels at a time, so that they stay in the second-level cache for all tokens. */
	uint32_t piece = (uint32_t)(262144 / step + 1) * FHK_PANEL;

	for (uint32_t r = r0; r < r1; r += piece) {
		uint32_t rows = r1 - r < piece ? r1 - r : piece;

		for (uint32_t t = 0; t < nr; t += 6) {
			uint32_t n = nr - t < 6 ? nr - t : 6;
			const float *from[6];

			for (uint32_t i = 0; i < n; i++)
				from[i] = x->f32 + (size_t)(idx ? idx[t + i] : t + i) * x->ld;
			rows_times(fn, w + r / FHK_PANEL * step, step, fhk_kpad(m->cols), from, n, rows,
				   y + t * ldy + (r - r0), ldy, flags);
		}
	}
}
