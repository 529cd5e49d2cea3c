// SPDX-License-Identifier: Apache-2.0
/* What a GPU can do at most: reading, copying, matrix instructions alone, launches that do nothing. */
#include "kernels/cuda/dev.cuh"
#include "tests/gpu/bench_gpu.h"

/* Read once */
FHK_DEV uint4 load(const void *p)
{
	uint4 v;

	asm("ld.global.nc.L1::no_allocate.v4.u32 {%0, %1, %2, %3}, [%4];"
	    : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w)
	    : "l"(p));
	return v;
}

FHK_KERNEL(bench_empty, 256)(const struct bench_args a)
{
	(void)a;
}

/* Arbitrary 16 bit numbers of either type, none infinite: what chips draw power for. */
FHK_KERNEL(bench_fill, 256)(const struct bench_args a)
{
	for (uint64_t i = (uint64_t)blockIdx.x * 256 + threadIdx.x; i < a.n; i += (uint64_t)gridDim.x * 256) {
		uint32_t w[4];

#pragma unroll
		for (int k = 0; k < 4; k++) {
			uint32_t x = (uint32_t)i * 4 + k;

			x = (x ^ x >> 16) * 0x7feb352du;
			x = (x ^ x >> 15) * 0x846ca68bu;
			w[k] = ((x ^ x >> 16) & 0x83ff83ffu) | 0x3c003c00u;
		}
		fhk_ptr<uint4>(a.b)[i] = make_uint4(w[0], w[1], w[2], w[3]);
	}
}

/* Sixteen loads of 16 bytes a thread at a time; the condition never holds, but nobody knows. */
FHK_KERNEL(bench_read, 256)(const struct bench_args a)
{
	const uint4 *p = fhk_ptr<const uint4>(a.a);
	uint64_t step = (uint64_t)gridDim.x * 256, i = (uint64_t)blockIdx.x * 256 + threadIdx.x;
	uint32_t x = 0;

	for (; i + 15 * step < a.n; i += 16 * step) {
		uint4 v[16];

#pragma unroll
		for (int k = 0; k < 16; k++)
			v[k] = load(p + i + k * step);
#pragma unroll
		for (int k = 0; k < 16; k++)
			x ^= v[k].x ^ v[k].y ^ v[k].z ^ v[k].w;
	}
	if (x == 0x12345678 && a.n == 1)
		*fhk_ptr<uint32_t>(a.b) = x;
}

FHK_KERNEL(bench_copy, 256)(const struct bench_args a)
{
	uint64_t step = (uint64_t)gridDim.x * 256, i = (uint64_t)blockIdx.x * 256 + threadIdx.x;

	for (; i + 3 * step < a.n; i += 4 * step) {
#pragma unroll
		for (int k = 0; k < 4; k++)
			fhk_ptr<uint4>(a.b)[i + k * step] = load(fhk_ptr<const uint4>(a.a) + i + k * step);
	}
}

/* Eight independent sums a warp, a.n rounds; 16 x 8 x 16 (BF16) and 16 x 8 x 32 (bytes) products an instruction. */
FHK_KERNEL(bench_mma_bf16, 256)(const struct bench_args a)
{
	float c[8][4] = {};
	const uint32_t f[4] = {threadIdx.x, 0x3f803f80, 0x3f803f80, 0x3f813f80};

	for (uint64_t i = 0; i < a.n; i++)
#pragma unroll
		for (int k = 0; k < 8; k++)
			fhk_mma_bf16(c[k], f, 0x3f803f80, 0x3f803f82);
	if (c[0][0] + c[1][0] + c[2][0] + c[3][0] + c[4][0] + c[5][0] + c[6][0] + c[7][0] == 1.5f)
		*fhk_ptr<float>(a.b) = 1;
}

FHK_KERNEL(bench_mma_s8, 256)(const struct bench_args a)
{
	int c[8][4] = {};
	const uint32_t f[4] = {threadIdx.x, 0x01020304, 0x01020305, 0x01020306};

	for (uint64_t i = 0; i < a.n; i++)
#pragma unroll
		for (int k = 0; k < 8; k++)
			fhk_mma_s8(c[k], f, 0x01010101, 0x01020101);
	if ((c[0][0] ^ c[1][0] ^ c[2][0] ^ c[3][0] ^ c[4][0] ^ c[5][0] ^ c[6][0] ^ c[7][0]) == 0x1234567)
		*fhk_ptr<int>(a.b) = 1;
}
