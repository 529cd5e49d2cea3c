/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What every CUDA kernel uses: conversions, matrix fragments, reductions, and
 * writing activations in the forms that matrices multiply with.
 *
 * All PTX of the project is here.  A compiler that is not nvcc gets the same
 * functions, and threadIdx and its like, from the emulator of tests/gpu/simt,
 * which includes its own header before any of these files.
 *
 * Products and sums whose rounding has to be the same in two kernels are
 * written with fmaf() and the _rn intrinsics, so that the compiler has no say.
 */
#ifndef FHK_CUDA_DEV_CUH
#define FHK_CUDA_DEV_CUH

#include "kernels/cuda/cuda_kernels.h"

#define FHK_DEV static __device__ __forceinline__
#define FHK_FULL 0xffffffffu
/*
 * How many blocks a multiprocessor should hold, at least.  Without a number ptxas
 * spills some registers of small kernels for the sake of more blocks; with 1 it
 * takes what it likes, which is too much for the widest tiles (LEAN).
 */
#define FHK_KERNEL(name, threads) extern "C" __global__ void __launch_bounds__(threads, 1) name
#define FHK_KERNEL_LEAN(name, threads) extern "C" __global__ void __launch_bounds__(threads) name
#define FHK_KERNEL_2(name, threads) extern "C" __global__ void __launch_bounds__(threads, 2) name

#ifdef __CUDACC__

extern __shared__ __align__(16) uint8_t fhk_shared[];
#define FHK_SHARED(name) uint8_t *const name = fhk_shared

FHK_DEV float fhk_h2f(uint16_t h)
{
	float f;

	asm("cvt.f32.f16 %0, %1;" : "=f"(f) : "h"(h));
	return f;
}

FHK_DEV uint16_t fhk_f2h(float f)
{
	uint16_t h;

	asm("cvt.rn.f16.f32 %0, %1;" : "=h"(h) : "f"(f));
	return h;
}

FHK_DEV uint16_t fhk_f2bf(float f)
{
	uint16_t h;

	asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(h) : "f"(f));
	return h;
}

/*
 * 16 bytes from memory to shared memory, which nobody waits for: they are there
 * for this thread once it has waited for their group, and for others behind a
 * barrier after that.
 */
FHK_DEV void fhk_cp16(void *to, const void *from)
{
	asm volatile("cp.async.cg.shared.global.L2::128B [%0], [%1], 16;" ::"r"((uint32_t)__cvta_generic_to_shared(to)),
		     "l"(from)
		     : "memory");
}

/* Closes a group: all copies since the last one; it may have none. */
FHK_DEV void fhk_cp_commit(void)
{
	asm volatile("cp.async.commit_group;" ::: "memory");
}

/* Until all groups but the last @N are there. */
template <int N> FHK_DEV void fhk_cp_wait(void)
{
	asm volatile("cp.async.wait_group %0;" ::"n"(N) : "memory");
}

/* Bring the line of 128 bytes into L2; nobody waits. */
FHK_DEV void fhk_prefetch(const void *p)
{
	asm volatile("prefetch.global.L2 [%0];" ::"l"(p));
}

/* To memory that the host reads: no tear, no fence. */
FHK_DEV void fhk_st_relaxed_sys(uint64_t *p, uint64_t v)
{
	asm volatile("st.relaxed.sys.global.u64 [%0], %1;" ::"l"(p), "l"(v) : "memory");
}

/* The same, after all that this thread has written. */
FHK_DEV void fhk_st_release_sys(uint64_t *p, uint64_t v)
{
	asm volatile("st.release.sys.global.u64 [%0], %1;" ::"l"(p), "l"(v) : "memory");
}

/* The same number, which the compiler does not know to be the same. */
FHK_DEV uint32_t fhk_opaque(uint32_t v)
{
	asm volatile("" : "+r"(v));
	return v;
}

/* c += A B of 16 x 8 x 32 signed bytes; fragments as in PTX' mma.m16n8k32 */
FHK_DEV void fhk_mma_s8(int c[4], const uint32_t a[4], uint32_t b0, uint32_t b1)
{
	asm volatile("mma.sync.aligned.m16n8k32.row.col.s32.s8.s8.s32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
		     "{%0, %1, %2, %3};"
		     : "+r"(c[0]), "+r"(c[1]), "+r"(c[2]), "+r"(c[3])
		     : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

/* 16 x 8 x 16: one half of the above */
FHK_DEV void fhk_mma_s8_k16(int c[4], uint32_t a0, uint32_t a1, uint32_t b0)
{
	asm volatile(
		"mma.sync.aligned.m16n8k16.row.col.s32.s8.s8.s32 {%0, %1, %2, %3}, {%4, %5}, {%6}, {%0, %1, %2, %3};"
		: "+r"(c[0]), "+r"(c[1]), "+r"(c[2]), "+r"(c[3])
		: "r"(a0), "r"(a1), "r"(b0));
}

FHK_DEV void fhk_mma_f16(float c[4], const uint32_t a[4], uint32_t b0, uint32_t b1)
{
	asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
		     "{%0, %1, %2, %3};"
		     : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
		     : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

FHK_DEV void fhk_mma_bf16(float c[4], const uint32_t a[4], uint32_t b0, uint32_t b1)
{
	asm volatile(
		"mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
		"{%0, %1, %2, %3};"
		: "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
		: "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

#endif /* __CUDACC__ */

FHK_DEV float fhk_bf2f(uint16_t h)
{
	return __uint_as_float((uint32_t)h << 16);
}

FHK_DEV uint32_t fhk_lane(void)
{
	return threadIdx.x % 32;
}

FHK_DEV uint32_t fhk_warp(void)
{
	return threadIdx.x / 32;
}

template <typename T> FHK_DEV T *fhk_ptr(uint64_t address)
{
	return reinterpret_cast<T *>(static_cast<uintptr_t>(address));
}

FHK_DEV float fhk_warp_sum(float v)
{
	for (int d = 16; d; d /= 2)
		v = __fadd_rn(v, __shfl_xor_sync(FHK_FULL, v, d));
	return v;
}

FHK_DEV float fhk_warp_max(float v)
{
	for (int d = 16; d; d /= 2)
		v = fmaxf(v, __shfl_xor_sync(FHK_FULL, v, d));
	return v;
}

/* Sum over the block, the same in every thread. @part: [nr_warps] floats that nobody uses. */
FHK_DEV float fhk_block_sum(float v, float *part)
{
	float sum = 0;

	v = fhk_warp_sum(v);
	__syncthreads(); /* part may hold the last sum */
	if (fhk_lane() == 0)
		part[fhk_warp()] = v;
	__syncthreads();
	for (uint32_t w = 0; w < blockDim.x / 32; w++)
		sum = __fadd_rn(sum, part[w]);
	return sum;
}

/* In every tile's kernel the same bits: no product may be joined with a sum by one compiler's pass and not by
 * another's. */
FHK_DEV float fhk_glu(float g, float u, uint32_t kind)
{
	float in;

	switch (kind) {
	case FHK_GLU_GELU:
		in = __fmul_rn(__fmul_rn(0.79788456080286535588f, g), fmaf(__fmul_rn(0.044715f, g), g, 1.0f));
		return __fmul_rn(__fmul_rn(__fmul_rn(0.5f, g), __fadd_rn(1.0f, tanhf(in))), u);
	case FHK_GLU_OAI:
		g = fminf(g, 7.0f);
		u = fminf(fmaxf(u, -7.0f), 7.0f);
		return __fmul_rn(__fdiv_rn(g, __fadd_rn(1.0f, expf(__fmul_rn(-1.702f, g)))), __fadd_rn(u, 1.0f));
	default: return __fmul_rn(__fdiv_rn(g, __fadd_rn(1.0f, expf(-g))), u);
	}
}

/*
 * Column col0 + lane of a row of activations, in all forms that are wanted; the
 * whole warp calls, col0 is a multiple of 32, columns past the end come as 0.
 */
FHK_DEV void fhk_emit(const struct fhk_cu_act &a, size_t row, uint32_t ld, uint32_t col0, float v)
{
	uint32_t lane = fhk_lane(), in = col0 % 64 + lane;
	size_t at = row * ld + col0 - col0 % 64;

	if (a.f32)
		fhk_ptr<float>(a.f32)[row * ld + col0 + lane] = v;
	if (a.bf16)
		fhk_ptr<uint16_t>(a.bf16)[at + fhk_cu_h16_at(in)] = fhk_f2bf(v);
	if (a.f16) /* too large stays finite: an infinity would make the whole row NaN */
		fhk_ptr<uint16_t>(a.f16)[at + fhk_cu_h16_at(in)] = fhk_f2h(fminf(fmaxf(v, -65504.0f), 65504.0f));
	if (a.q8) {
		float max = fhk_warp_max(fabsf(v)), d = max / 127.0f;
		float inverse = max > 0 ? 127.0f / max : 0;
		int q = __float2int_rn(v * inverse), sum = q;

		for (int s = 16; s; s /= 2)
			sum += __shfl_xor_sync(FHK_FULL, sum, s);
		fhk_ptr<int8_t>(a.q8)[at + fhk_cu_q8_at(in)] = (int8_t)q;
		if (lane == 0)
			fhk_ptr<float2>(a.q8d)[(row * ld + col0) / 32] = make_float2(d, d * (float)sum);
	}
}

#endif /* FHK_CUDA_DEV_CUH */
