/* SPDX-License-Identifier: Apache-2.0 */
/* What the two files of the reference table share. */
#ifndef FHK_REF_REF_H
#define FHK_REF_REF_H

#include "kernels/kernels.h"

size_t fhk_ref_kv_head_bytes(uint32_t kv_type, uint32_t head_dim);
void fhk_ref_kv_append(uint32_t kv_type, uint32_t head_dim, uint32_t slot, void *k_head, void *v_head, const float *k,
		       const float *v);
size_t fhk_ref_attn_scratch_bytes(uint32_t max_q, uint32_t nr_group, uint32_t head_dim);
void fhk_ref_attn(const struct fhk_attn *a);
void fhk_ref_attn_combine(const float *partial, uint32_t nr_splits, uint32_t nr_q, uint32_t nr_group, uint32_t head_dim,
			  float *out, size_t out_ld);

#endif /* FHK_REF_REF_H */
