// SPDX-License-Identifier: Apache-2.0
/*
 * F32, F16 and BF16 weights times f32 activations, AVX2.
 *
 * A panel's 16 rows are two vectors; each output is one chain of fused
 * multiply-adds from the first column to the last.  Several panels, or several
 * tokens, run side by side to hide the latency, which changes no chain.
 */
#include "kernels/avx2/avx2.h"

#define INLINE static inline __attribute__((always_inline))

INLINE void load16(const uint32_t type, const uint8_t *p, __m256 w[2])
{
	if (type == FHK_F32) {
		w[0] = _mm256_loadu_ps((const float *)p);
		w[1] = _mm256_loadu_ps((const float *)p + 8);
	} else if (type == FHK_F16) {
		w[0] = _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)p));
		w[1] = _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)p + 1));
	} else {
		for (int i = 0; i < 2; i++) {
			__m256i v = _mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i *)p + i));

			w[i] = _mm256_castsi256_ps(_mm256_slli_epi32(v, 16));
		}
	}
}

/* out[t][panel][16] = panels times tokens; p: the first panel, @step bytes to the next */
INLINE void block(const uint32_t type, const int panels, const int nr, const uint8_t *p, size_t step, uint32_t cols,
		  const float *const *x, float *out)
{
	const size_t col_bytes = type == FHK_F32 ? 64 : 32;
	__m256 acc[12];

#pragma GCC unroll 12
	for (int i = 0; i < panels * nr * 2; i++)
		acc[i] = _mm256_setzero_ps();
	for (uint32_t c = 0; c < cols; c++) {
#pragma GCC unroll 4
		for (int k = 0; k < panels; k++) {
			__m256 w[2];

			load16(type, p + k * step + c * col_bytes, w);
#pragma GCC unroll 6
			for (int t = 0; t < nr; t++) {
				__m256 v = _mm256_broadcast_ss(x[t] + c);

				acc[(t * panels + k) * 2] = _mm256_fmadd_ps(w[0], v, acc[(t * panels + k) * 2]);
				acc[(t * panels + k) * 2 + 1] = _mm256_fmadd_ps(w[1], v, acc[(t * panels + k) * 2 + 1]);
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

void fhk_avx2_matmul_f(const struct fhk_mat *m, uint32_t expert, const struct fhk_act *x, const uint32_t *idx,
		       uint32_t nr, uint32_t r0, uint32_t r1, float *y, size_t ldy, unsigned int flags)
{
	void (*fn)(int, int, const uint8_t *, size_t, uint32_t, const float *const *, float *) =
		m->type == FHK_F32   ? block_f32
		: m->type == FHK_F16 ? block_f16
				     : block_bf16;
	size_t step = (size_t)m->cols * FHK_PANEL * (m->type == FHK_F32 ? 4 : 2);
	const uint8_t *w = (const uint8_t *)m->data + expert * m->expert_bytes;

	for (uint32_t t = 0; t < nr;) {
		uint32_t n = nr - t < 6 ? nr - t : 6, panels;
		const float *from[6];

		for (uint32_t i = 0; i < n; i++)
			from[i] = x->f32 + (size_t)(idx ? idx[t + i] : t + i) * x->ld;
		for (uint32_t r = r0; r < r1; r += panels * FHK_PANEL) {
			uint32_t left = (r1 - r + FHK_PANEL - 1) / FHK_PANEL, rows;
			float out[96];

			panels = n == 1 && left >= 4 ? 4 : n == 2 && left >= 2 ? 2 : 1;
			rows = r1 - r < panels * FHK_PANEL ? r1 - r : panels * FHK_PANEL;
			fn((int)panels, (int)n, w + r / FHK_PANEL * step, step, m->cols, from, out);
			for (uint32_t i = 0; i < n; i++) {
				float *to = y + (t + i) * ldy + (r - r0);

				for (uint32_t j = 0; j < rows; j++)
					to[j] = flags & FHK_ADD ? to[j] + out[i * panels * FHK_PANEL + j]
								: out[i * panels * FHK_PANEL + j];
			}
		}
		t += n;
	}
}
