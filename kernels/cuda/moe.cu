// SPDX-License-Identifier: Apache-2.0
/*
 * Experts: who runs where.  Routing takes a warp a token; sorting the (token,
 * slot) pairs by expert takes one block, which goes over them twice: count,
 * then place.  Within an expert the pairs stay in the order of the tokens.
 */
#include "kernels/cuda/dev.cuh"

/* The best expert after (@value, @id) in the order of falling logits and rising ids; NONE: no number is left. */
FHK_DEV uint32_t next_best(const float *logits, uint32_t nr, float value, uint32_t id, float *found)
{
	float best = -INFINITY;
	uint32_t at = FHK_CU_NONE;

	for (uint32_t e = fhk_lane(); e < nr; e += 32) {
		float v = logits[e];

		if (v > best && (id == FHK_CU_NONE || v < value || (v == value && e > id))) {
			best = v;
			at = e;
		}
	}
	for (int d = 16; d; d /= 2) {
		float v = __shfl_xor_sync(FHK_FULL, best, d);
		uint32_t e = __shfl_xor_sync(FHK_FULL, at, d);

		if (v > best || (v == best && e < at)) {
			best = v;
			at = e;
		}
	}
	*found = best;
	return at;
}

FHK_KERNEL(fhk_cu_route, 128)(const struct fhk_cu_route_args a)
{
	uint32_t t = blockIdx.x * 4 + fhk_warp(), id = FHK_CU_NONE, *expert;
	const float *logits = fhk_ptr<const float>(a.logits) + (size_t)t * a.ld;
	float value = 0, max = 0, sum = 0, *weight;

	if (t >= *fhk_ptr<const uint32_t>(a.nr))
		return;
	expert = fhk_ptr<uint32_t>(a.pair_expert) + (size_t)t * a.used;
	weight = fhk_ptr<float>(a.pair_weight) + (size_t)t * (a.used + 1);
	for (uint32_t s = 0; s < a.used; s++) {
		float e;

		id = next_best(logits, a.nr_experts, value, id, &value);
		if (s == 0)
			max = value;
		e = id == FHK_CU_NONE ? 0 : expf(value - max);
		if (a.norm)
			sum = __fadd_rn(sum, e);
		if (fhk_lane() == 0) {
			expert[s] = id == FHK_CU_NONE ? 0 : id;
			weight[s] = e;
		}
		if (id == FHK_CU_NONE) { /* nor will there be one: what comes after has no weight */
			for (uint32_t k = s + 1 + fhk_lane(); k < a.used; k += 32) {
				expert[k] = 0;
				weight[k] = 0;
			}
			break;
		}
	}
	if (!a.norm) {
		for (uint32_t e = fhk_lane(); e < a.nr_experts; e += 32)
			if (logits[e] > -INFINITY)
				sum = __fadd_rn(sum, expf(logits[e] - max));
		sum = fhk_warp_sum(sum);
	}
	__syncwarp();
	for (uint32_t s = fhk_lane(); s < a.used; s += 32)
		weight[s] = sum > 0 ? weight[s] / sum : 0;
	if (a.shared && fhk_lane() == 0)
		weight[a.used] = 1.0f / (1.0f + expf(-fhk_ptr<const float>(a.shared)[(size_t)t * a.shared_ld]));
}

/*
 * This warp's pairs p0 .. p1, 32 at a time: mine[e] counts those of expert e.
 * The second time it begins where the warps before left off, and each pair
 * finds its place: @pos, @token (0 the first time).
 */
FHK_DEV void each_pair(const struct fhk_cu_moe_sort_args &a, uint32_t p0, uint32_t p1, uint32_t *mine,
		       const uint32_t *first, uint32_t *pos, uint32_t *token)
{
	for (uint32_t p = p0; p < p1; p += 32) {
		uint32_t pair = p + fhk_lane(), base = 0;
		uint32_t e = pair < p1 ? fhk_ptr<const uint32_t>(a.pair_expert)[pair] : FHK_CU_NONE;
		uint32_t same = __match_any_sync(FHK_FULL, e), before = __popc(same & ((1u << fhk_lane()) - 1));

		if (pair < p1)
			base = mine[e] + before;
		__syncwarp();
		if (pair < p1 && before + 1 == (uint32_t)__popc(same))
			mine[e] = base + 1;
		if (pair < p1 && pos) {
			pos[pair] = first[e] + base;
			token[first[e] + base] = pair / a.used;
		}
		__syncwarp();
	}
}

/* count[w][e] to where warp w's pairs of expert e begin; first[e], tile0[e] of [nr + 1]: sums so far. */
FHK_DEV void scan(uint32_t *count, uint32_t *first, uint32_t *tile0, uint32_t nr, uint32_t nr_warps, uint32_t tile)
{
	for (uint32_t e = threadIdx.x; e < nr; e += blockDim.x) {
		uint32_t sum = 0;

		for (uint32_t w = 0; w < nr_warps; w++) {
			uint32_t n = count[w * nr + e];

			count[w * nr + e] = sum;
			sum += n;
		}
		first[e] = sum;
		tile0[e] = fhk_cu_div_up(sum, tile);
	}
	__syncthreads();
	if (fhk_warp() == 0) {
		uint32_t pairs = 0, tiles = 0;

		for (uint32_t e0 = 0; e0 < nr; e0 += 32) {
			uint32_t e = e0 + fhk_lane(), p = e < nr ? first[e] : 0, t = e < nr ? tile0[e] : 0, ps = p, ts = t;

			for (uint32_t d = 1; d < 32; d *= 2) {
				uint32_t pd = __shfl_up_sync(FHK_FULL, ps, d), td = __shfl_up_sync(FHK_FULL, ts, d);

				ps += fhk_lane() >= d ? pd : 0;
				ts += fhk_lane() >= d ? td : 0;
			}
			if (e < nr) {
				first[e] = pairs + ps - p;
				tile0[e] = tiles + ts - t;
			}
			pairs += __shfl_sync(FHK_FULL, ps, 31);
			tiles += __shfl_sync(FHK_FULL, ts, 31);
		}
		if (fhk_lane() == 0) {
			first[nr] = pairs;
			tile0[nr] = tiles;
		}
	}
	__syncthreads();
}

FHK_KERNEL(fhk_cu_moe_sort, 1024)(const struct fhk_cu_moe_sort_args a)
{
	uint32_t nr = a.nr_experts, nr_warps = blockDim.x / 32, nr_pairs = *fhk_ptr<const uint32_t>(a.nr) * a.used;
	uint32_t each = fhk_cu_div_up(fhk_cu_div_up(nr_pairs, nr_warps), 32) * 32;
	uint32_t p0 = min(each * fhk_warp(), nr_pairs), p1 = min(p0 + each, nr_pairs);
	struct fhk_cu_tile *tiles = fhk_ptr<struct fhk_cu_tile>(a.tiles);
	FHK_SHARED(shared);
	uint32_t *count = (uint32_t *)shared, *first = count + nr_warps * nr, *tile0 = first + nr + 1;
	uint32_t *mine = count + fhk_warp() * nr;

	for (uint32_t e = fhk_lane(); e < nr; e += 32)
		mine[e] = 0;
	__syncwarp();
	each_pair(a, p0, p1, mine, 0, 0, 0);
	__syncthreads();
	scan(count, first, tile0, nr, nr_warps, a.tile);
	each_pair(a, p0, p1, mine, first, fhk_ptr<uint32_t>(a.pair_pos), fhk_ptr<uint32_t>(a.pair_token));
	for (uint32_t e = threadIdx.x; e < nr; e += blockDim.x)
		for (uint32_t p = first[e], i = tile0[e]; p < first[e + 1]; p += a.tile, i++)
			tiles[i] = (struct fhk_cu_tile){e, p, min(a.tile, first[e + 1] - p), 0};
	if (threadIdx.x == 0)
		*fhk_ptr<uint32_t>(a.nr_tiles) = tile0[nr];
}
