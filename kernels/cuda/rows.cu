// SPDX-License-Identifier: Apache-2.0
/*
 * The residual stream, a block a row: embeddings, norms with what comes before
 * them, gated activations, pooled embeddings.  A thread has the same columns
 * from beginning to end, so what it has written it may read again.
 */
#include "kernels/cuda/file_types.cuh"

FHK_DEV void rope_table(const struct fhk_cu_embed_args &a, uint32_t t, uint32_t pos)
{
	float2 *cs = fhk_ptr<float2>(a.cs) + (size_t)t * a.nr_pairs;
	const double *freq = fhk_ptr<const double>(a.freq);

	for (uint32_t i = threadIdx.x; i < a.nr_pairs; i += blockDim.x) {
		double s, c;

		/* In half turns: the reduction of a large angle is then one subtraction. */
		sincospi((double)pos * freq[i] * 0.318309886183790671538, &s, &c);
		cs[i] = make_float2((float)(c * (double)a.mscale), (float)(s * (double)a.mscale));
	}
}

FHK_KERNEL(fhk_cu_embed, 256)(const struct fhk_cu_embed_args a)
{
	uint32_t t = blockIdx.x, id;
	float *x = fhk_ptr<float>(a.x) + (size_t)t * a.ld;
	struct fhk_cu_token token;
	const uint8_t *row;

	if (t >= fhk_ptr<const struct fhk_cu_plan>(a.plan)->nr_tokens)
		return;
	token = fhk_ptr<const struct fhk_cu_token>(a.tokens)[t];
	id = token.id;
	if (id == FHK_CU_NONE)
		id = fhk_ptr<const uint32_t>(a.prev)[fhk_ptr<const struct fhk_cu_seq>(a.seqs)[token.seq].slot];
	if (id >= a.nr_vocab)
		id = 0;
	row = fhk_ptr<const uint8_t>(a.table) + id * fhk_file_row_bytes(a.type, a.dim);
	for (uint32_t c = threadIdx.x; c < a.dim; c += blockDim.x)
		x[c] = fhk_file_value(a.type, row, c) * a.scale;
	rope_table(a, t, token.pos);
}

/* 1 / root of the mean square of a row, in every thread */
FHK_DEV float inverse_rms(const float *x, uint32_t dim, float eps, float *part)
{
	float sum = 0;

	for (uint32_t c = threadIdx.x; c < dim; c += blockDim.x)
		sum = fmaf(x[c], x[c], sum);
	sum = fhk_block_sum(sum, part);
	return 1.0f / sqrtf(sum / (float)dim + eps);
}

FHK_DEV void add_output(const struct fhk_cu_norm_args &a, float *x, size_t row, float *part)
{
	const float *y = fhk_ptr<const float>(a.y) + row * a.ld, *w = fhk_ptr<const float>(a.post_w);
	float scale = w ? inverse_rms(y, a.dim, a.eps, part) : 1.0f;

	for (uint32_t c = threadIdx.x; c < a.dim; c += blockDim.x)
		x[c] = __fadd_rn(x[c], w ? y[c] * scale * w[c] : y[c]);
}

/* In the order of the slots: best expert first, then the shared one */
FHK_DEV void add_experts(const struct fhk_cu_norm_args &a, float *x, size_t row)
{
	const uint32_t *pos = fhk_ptr<const uint32_t>(a.pair_pos) + row * a.used;
	const float *weight = fhk_ptr<const float>(a.pair_weight) + row * (a.used + 1);
	const float *y = fhk_ptr<const float>(a.y), *shared = fhk_ptr<const float>(a.shared);

	for (uint32_t c = threadIdx.x; c < a.dim; c += blockDim.x) {
		float v = x[c];

		for (uint32_t s = 0; s < a.used; s++)
			v = fmaf(weight[s], y[(size_t)pos[s] * a.ld + c], v);
		if (shared)
			v = fmaf(weight[a.used], shared[row * a.ld + c], v);
		x[c] = v;
	}
}

FHK_KERNEL(fhk_cu_norm, 512)(const struct fhk_cu_norm_args a)
{
	uint32_t r = blockIdx.x, ld = fhk_cu_kpad(a.dim);
	const float *w = fhk_ptr<const float>(a.w);
	FHK_SHARED(shared);
	float *part = (float *)shared, *x, scale = 1;
	size_t row = r;

	if (r >= *fhk_ptr<const uint32_t>(a.nr))
		return;
	if (a.rows)
		row = fhk_ptr<const struct fhk_cu_out>(a.rows)[r].token;
	x = fhk_ptr<float>(a.x) + row * a.ld;
	if (a.pre == FHK_CU_PRE_ADD)
		add_output(a, x, row, part);
	else if (a.pre == FHK_CU_PRE_MOE)
		add_experts(a, x, row);
	if (w)
		scale = inverse_rms(x, a.dim, a.eps, part);
	/* A warp's columns are 32 neighbours, and its lanes' columns are those that they have had all along. */
	for (uint32_t c0 = fhk_warp() * 32; c0 < a.dim; c0 += blockDim.x) {
		uint32_t c = c0 + fhk_lane();
		float v = c < a.dim ? x[c] * scale : 0;

		if (w && c < a.dim)
			v *= w[c];
		fhk_emit(a.out, r, ld, c0, v);
	}
}

FHK_KERNEL(fhk_cu_act, 512)(const struct fhk_cu_act_args a)
{
	uint32_t nr = *fhk_ptr<const uint32_t>(a.nr) * a.scale_nr, ld = fhk_cu_kpad(a.cols);
	const float *gate = fhk_ptr<const float>(a.gate) + (size_t)blockIdx.x * a.ld;
	const float *up = a.up ? fhk_ptr<const float>(a.up) + (size_t)blockIdx.x * a.ld : 0;

	if (blockIdx.x >= nr)
		return;
	for (uint32_t c0 = fhk_warp() * 32; c0 < a.cols; c0 += blockDim.x) {
		uint32_t c = c0 + fhk_lane();
		float v = c < a.cols ? gate[c] : 0;

		if (up && c < a.cols)
			v = fhk_glu(v, up[c], a.glu);
		fhk_emit(a.out, blockIdx.x, ld, c0, v);
	}
}

FHK_KERNEL(fhk_cu_pool, 512)(const struct fhk_cu_pool_args a)
{
	struct fhk_cu_pool_item item;
	const float *w = fhk_ptr<const float>(a.w);
	FHK_SHARED(shared);
	float *out;

	if (blockIdx.x >= fhk_ptr<const struct fhk_cu_plan>(a.plan)->nr_pools)
		return;
	item = fhk_ptr<const struct fhk_cu_pool_item>(a.pools)[blockIdx.x];
	out = fhk_ptr<float>(a.pooled) + (size_t)item.row * a.ld;
	for (uint32_t t = item.last ? item.nr - 1 : 0; t < item.nr; t++) {
		const float *x = fhk_ptr<const float>(a.x) + (size_t)(item.token + t) * a.ld;
		float scale = inverse_rms(x, a.dim, a.eps, (float *)shared);

		for (uint32_t c = threadIdx.x; c < a.dim; c += blockDim.x) {
			float v = x[c] * scale * w[c];

			out[c] = item.last ? v : __fadd_rn(out[c], v);
		}
	}
}
