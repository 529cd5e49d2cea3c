/* SPDX-License-Identifier: Apache-2.0 */
/* What the files of the AVX-512 table share; for kernels/avx512 alone. */
#ifndef FHK_AVX512_AVX512_H
#define FHK_AVX512_AVX512_H

#include <immintrin.h>

#include "kernels/panel.h"

/* BF16 that is widened to F32, not multiplied in pairs; beside the types of enum fhk_type */
#define WIDE_BF16 64

/* One half of each pair as F32 */
FHK_INLINE __m512 fhk_bf16_half(__m512i pairs, bool odd)
{
	return _mm512_castsi512_ps(odd ? _mm512_and_si512(pairs, _mm512_set1_epi32((int)0xffff0000))
				       : _mm512_slli_epi32(pairs, 16));
}

/* matmul() for panels of quants, of floats, and of BF16 pairs */
void fhk_avx512_mul_quant(const struct fhk_mat *m, uint32_t expert, const struct fhk_act *x, const uint32_t *idx,
			  uint32_t nr, uint32_t r0, uint32_t r1, float *y, size_t ldy, unsigned int flags);
void fhk_avx512_mul_float(const struct fhk_mat *m, uint32_t expert, const struct fhk_act *x, const uint32_t *idx,
			  uint32_t nr, uint32_t r0, uint32_t r1, float *y, size_t ldy, unsigned int flags);

size_t fhk_avx512_kv_head_bytes(uint32_t kv_type, uint32_t head_dim);
void fhk_avx512_kv_append(uint32_t kv_type, uint32_t head_dim, uint32_t slot, void *k_head, void *v_head,
			  const float *k, const float *v);
size_t fhk_avx512_attn_scratch_bytes(uint32_t max_q, uint32_t nr_group, uint32_t head_dim);
/* BF16 caches widened, and multiplied in pairs (which takes AVX512-BF16) */
void fhk_avx512_attn(const struct fhk_attn *a);
void fhk_avx512_attn_pairs(const struct fhk_attn *a);
void fhk_avx512_attn_combine(const float *partial, uint32_t nr_splits, uint32_t nr_q, uint32_t nr_group,
			     uint32_t head_dim, float *out, size_t out_ld);

#endif /* FHK_AVX512_AVX512_H */
