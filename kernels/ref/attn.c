// SPDX-License-Identifier: Apache-2.0
/*
 * Reference attention over paged keys and values.
 *
 * A block of one head is 32 rows, one a token: head_dim floats, halves, BF16, or
 * GGUF's Q8_0 blocks (34 bytes for 32 values, the last one padded).  Each query
 * is done alone: scores, their maximum, exponentials, and the weighted sum of
 * the values in order of position, in double.  A final result goes through the
 * same arithmetic as a merge of one split, so that a query's bits do not
 * depend on how far its neighbours' contexts reach.
 */
#include <math.h>
#include <string.h>

#include "kernels/half.h"
#include "kernels/ref/ref.h"

#define MAX_HEAD_DIM 256
#define Q8_BYTES 34

static size_t row_bytes(uint32_t kv_type, uint32_t head_dim)
{
	switch (kv_type) {
	case FHK_F32: return head_dim * 4;
	case FHK_F16:
	case FHK_BF16: return head_dim * 2;
	default: return (head_dim + 31) / 32 * Q8_BYTES;
	}
}

size_t fhk_ref_kv_head_bytes(uint32_t kv_type, uint32_t head_dim)
{
	return (FHK_KV_BLOCK * row_bytes(kv_type, head_dim) + FHK_ALIGN - 1) / FHK_ALIGN * FHK_ALIGN;
}

/* GGUF's Q8_0 from @n floats, n <= 32; what is missing is zero. */
static void put_q8(uint8_t *out, const float *x, uint32_t n)
{
	float max = 0, scale, inverse;
	uint16_t half;

	for (uint32_t i = 0; i < n; i++)
		max = fabsf(x[i]) > max ? fabsf(x[i]) : max;
	half = fhk_f32_f16(max / 127.0f);
	scale = fhk_f16_f32(half);
	inverse = scale > 0 ? 1.0f / scale : 0;
	memset(out, 0, Q8_BYTES);
	memcpy(out, &half, 2);
	for (uint32_t i = 0; i < n; i++) {
		float v = nearbyintf(x[i] * inverse);

		v = v > 127 ? 127 : v < -127 ? -127 : v;
		out[2 + i] = (uint8_t)(int8_t)v;
	}
}

static void put_row(uint32_t kv_type, uint32_t head_dim, uint8_t *row, const float *x)
{
	if (kv_type == FHK_F32) {
		memcpy(row, x, head_dim * sizeof(*x));
		return;
	}
	if (kv_type == FHK_F16) {
		fhk_quant_f16(x, (uint16_t *)row, head_dim);
		return;
	}
	if (kv_type == FHK_BF16) {
		fhk_quant_bf16(x, (uint16_t *)row, head_dim);
		return;
	}
	for (uint32_t c = 0; c < head_dim; c += 32, row += Q8_BYTES)
		put_q8(row, x + c, head_dim - c < 32 ? head_dim - c : 32);
}

static void get_row(uint32_t kv_type, uint32_t head_dim, const uint8_t *row, float *x)
{
	if (kv_type != FHK_Q8_0) {
		fhk_dequant(kv_type, row, x, head_dim);
		return;
	}
	for (uint32_t c = 0; c < head_dim; c += 32, row += Q8_BYTES) {
		float piece[32];

		fhk_dequant(FHK_Q8_0, row, piece, 32);
		memcpy(x + c, piece, sizeof(float) * (head_dim - c < 32 ? head_dim - c : 32));
	}
}

void fhk_ref_kv_append(uint32_t kv_type, uint32_t head_dim, uint32_t slot, void *k_head, void *v_head, const float *k,
		       const float *v)
{
	size_t at = slot * row_bytes(kv_type, head_dim);

	put_row(kv_type, head_dim, (uint8_t *)k_head + at, k);
	put_row(kv_type, head_dim, (uint8_t *)v_head + at, v);
}

size_t fhk_ref_attn_scratch_bytes(uint32_t max_q, uint32_t nr_group, uint32_t head_dim)
{
	(void)max_q, (void)nr_group, (void)head_dim;
	return FHK_ALIGN;
}

static float score(const struct fhk_attn *a, const float *q, uint32_t pos)
{
	const uint8_t *block = a->k[pos / FHK_KV_BLOCK];
	float k[MAX_HEAD_DIM];
	double sum = 0;
	float s;

	get_row(a->kv_type, a->head_dim, block + pos % FHK_KV_BLOCK * row_bytes(a->kv_type, a->head_dim), k);
	for (uint32_t c = 0; c < a->head_dim; c++)
		sum += (double)q[c] * k[c];
	s = (float)sum * a->scale;
	return a->softcap > 0 ? a->softcap * tanhf(s / a->softcap) : s;
}

/* One query head: out: [head_dim + 2] unnormalised sum, maximum, sum of exponentials */
static void one_query(const struct fhk_attn *a, uint32_t t, uint32_t g, float *out)
{
	uint32_t pos = a->pos0 + t, first = a->split * FHK_ATTN_SPLIT, end = first + FHK_ATTN_SPLIT;
	const float *q = a->q + t * a->q_ld + (size_t)g * a->head_dim;
	float scores[FHK_ATTN_SPLIT], v[MAX_HEAD_DIM], max = -INFINITY;
	double sums[MAX_HEAD_DIM] = {0}, sum = 0;

	end = end < pos + 1 ? end : pos + 1;
	if (a->window && pos + 1 > a->window && first < pos + 1 - a->window)
		first = pos + 1 - a->window;
	if (a->sinks && a->split == 0)
		max = a->sinks[g];
	for (uint32_t p = first; p < end; p++) {
		scores[p - first] = score(a, q, p);
		max = scores[p - first] > max ? scores[p - first] : max;
	}
	if (a->sinks && a->split == 0)
		sum = exp((double)a->sinks[g] - max);
	for (uint32_t p = first; p < end; p++) {
		const uint8_t *block = a->v[p / FHK_KV_BLOCK];
		double e = exp((double)scores[p - first] - max);

		get_row(a->kv_type, a->head_dim, block + p % FHK_KV_BLOCK * row_bytes(a->kv_type, a->head_dim), v);
		sum += e;
		for (uint32_t c = 0; c < a->head_dim; c++)
			sums[c] += e * v[c];
	}
	for (uint32_t c = 0; c < a->head_dim; c++)
		out[c] = (float)sums[c];
	out[a->head_dim] = max;
	out[a->head_dim + 1] = (float)sum;
}

void fhk_ref_attn(const struct fhk_attn *a)
{
	for (uint32_t t = 0; t < a->nr_q; t++) {
		for (uint32_t g = 0; g < a->nr_group; g++) {
			float one[MAX_HEAD_DIM + 2];

			if (a->nr_splits > 1) {
				one_query(a, t, g, a->partial + ((size_t)t * a->nr_group + g) * (a->head_dim + 2));
				continue;
			}
			one_query(a, t, g, one);
			fhk_ref_attn_combine(one, 1, 1, 1, a->head_dim,
					     a->out + t * a->out_ld + (size_t)g * a->head_dim, a->out_ld);
		}
	}
}

/* @part: the first split's partial of one query head; @stride: floats to the next split's */
static void combine_one(const float *part, uint32_t nr_splits, size_t stride, uint32_t head_dim, float *out)
{
	float max = -INFINITY, sum = 0;

	for (uint32_t s = 0; s < nr_splits; s++)
		max = part[s * stride + head_dim] > max ? part[s * stride + head_dim] : max;
	memset(out, 0, head_dim * sizeof(*out));
	for (uint32_t s = 0; s < nr_splits; s++) {
		const float *p = part + s * stride;
		float e = p[head_dim] == max ? 1.0f : expf(p[head_dim] - max);

		if (p[head_dim] == -INFINITY) /* nothing of this split is visible */
			continue;
		sum += e * p[head_dim + 1];
		for (uint32_t c = 0; c < head_dim; c++)
			out[c] += e * p[c];
	}
	for (uint32_t c = 0; c < head_dim; c++)
		out[c] /= sum;
}

void fhk_ref_attn_combine(const float *partial, uint32_t nr_splits, uint32_t nr_q, uint32_t nr_group, uint32_t head_dim,
			  float *out, size_t out_ld)
{
	size_t stride = (size_t)nr_q * nr_group * (head_dim + 2);

	for (uint32_t t = 0; t < nr_q; t++)
		for (uint32_t g = 0; g < nr_group; g++)
			combine_one(partial + ((size_t)t * nr_group + g) * (head_dim + 2), nr_splits, stride, head_dim,
				    out + t * out_ld + (size_t)g * head_dim);
}
