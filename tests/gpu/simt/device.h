/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What nvcc knows by itself and the kernels use, for a host compiler: included
 * before each .cu file (-include).  simt.cc has what needs the other threads.
 */
#ifndef FHK_SIMT_DEVICE_H
#define FHK_SIMT_DEVICE_H

#include <cmath>
#include <cstdint>
#include <cstring>

#include "kernels/half.h"

#define __device__
#define __global__
#define __forceinline__ inline
#define __launch_bounds__(...)
#define FHK_SHARED(name) uint8_t *const name = simt_shared()

struct uint3 {
	unsigned int x, y, z;
};
struct alignas(8) uint2 {
	unsigned int x, y;
};
struct alignas(16) uint4 {
	unsigned int x, y, z, w;
};
struct alignas(8) float2 {
	float x, y;
};
struct alignas(16) float4 {
	float x, y, z, w;
};

static inline uint4 make_uint4(unsigned int x, unsigned int y, unsigned int z, unsigned int w)
{
	return uint4{x, y, z, w};
}
static inline float2 make_float2(float x, float y)
{
	return float2{x, y};
}

/* ---- simt.cc ---- */

#define SIMT_MAX_COPIES 256

/* One of cp.async that has been asked for and not been waited for. */
struct simt_copy {
	void *to;
	const void *from;
	unsigned int group;
};

struct simt_thread {
	uint3 tid;
	unsigned int lane;
	unsigned int nr_copies, nr_groups; /* on their way; committed */
	struct simt_copy copies[SIMT_MAX_COPIES];
};
extern struct simt_thread *simt_self;
extern uint3 simt_block, simt_block_dim, simt_grid_dim;
#define threadIdx (simt_self->tid)
#define blockIdx simt_block
#define blockDim simt_block_dim
#define gridDim simt_grid_dim

uint8_t *simt_shared(void);
/* 16 bytes into the block's shared memory, both at multiples of 16: ends the launch otherwise. */
void simt_check_copy(const void *to, const void *from);
void simt_barrier(const char *file, int line);
#define __syncthreads() simt_barrier(__FILE__, __LINE__)

/*
 * All lanes of a warp meet: each leaves @in, and takes what lane @from left.  @done runs once, on what all have
 * left, before anybody goes on.
 */
struct simt_words {
	uint32_t w[12];
};
typedef void (*simt_done)(struct simt_words *all);
struct simt_words simt_meet(const struct simt_words *in, const char *what, simt_done done, unsigned int from);
void simt_memory_fence_of_warp(void);

static inline void simt_syncwarp(void)
{
	struct simt_words none = {};

	simt_memory_fence_of_warp();
	simt_meet(&none, "__syncwarp", nullptr, 0);
	simt_memory_fence_of_warp();
}
#define __syncwarp simt_syncwarp

template <typename T> static inline T simt_exchange(T v, unsigned int from, const char *what)
{
	struct simt_words in = {};
	T out;

	static_assert(sizeof(T) <= sizeof(in), "a lane leaves a few words");
	memcpy(&in, &v, sizeof(v));
	in = simt_meet(&in, what, nullptr, from);
	memcpy(&out, &in, sizeof(out));
	return out;
}

template <typename T> static inline T __shfl_sync(unsigned int, T v, unsigned int from)
{
	return simt_exchange(v, from % 32, "__shfl_sync");
}
template <typename T> static inline T __shfl_xor_sync(unsigned int, T v, int mask)
{
	return simt_exchange(v, simt_self->lane ^ (unsigned int)mask, "__shfl_xor_sync");
}
template <typename T> static inline T __shfl_up_sync(unsigned int, T v, unsigned int delta)
{
	return simt_exchange(v, simt_self->lane >= delta ? simt_self->lane - delta : simt_self->lane, "__shfl_up_sync");
}
unsigned int __ballot_sync(unsigned int mask, bool v);
unsigned int __match_any_sync(unsigned int mask, uint32_t v);

void fhk_mma_s8(int c[4], const uint32_t a[4], uint32_t b0, uint32_t b1);
void fhk_mma_s8_k16(int c[4], uint32_t a0, uint32_t a1, uint32_t b0);
void fhk_mma_f16(float c[4], const uint32_t a[4], uint32_t b0, uint32_t b1);
void fhk_mma_bf16(float c[4], const uint32_t a[4], uint32_t b0, uint32_t b1);

/* Atomic for the race detector too; all of ours are of whole numbers and unordered. */
template <typename T> static inline T atomicAdd(T *p, T v)
{
	return __atomic_fetch_add(p, v, __ATOMIC_RELAXED);
}

/* ---- arithmetic ---- */

static inline unsigned int min(unsigned int a, unsigned int b)
{
	return a < b ? a : b;
}
/* What nvcc never joins with a product or a sum beside it; where this is built as freely as nvcc does, nor may we. */
static inline float simt_exact(float v)
{
#ifdef __FMA__
	asm("" : "+x"(v));
#endif
	return v;
}
static inline float __fadd_rn(float a, float b)
{
	return simt_exact(simt_exact(a) + simt_exact(b));
}
static inline float __fsub_rn(float a, float b)
{
	return simt_exact(simt_exact(a) - simt_exact(b));
}
static inline float __fmul_rn(float a, float b)
{
	return simt_exact(simt_exact(a) * simt_exact(b));
}
static inline float __fdiv_rn(float a, float b)
{
	return a / b;
}
static inline float __uint_as_float(uint32_t v)
{
	return fhk_bits_f32(v);
}
static inline uint32_t __float_as_uint(float v)
{
	return fhk_f32_bits(v);
}
static inline int __float2int_rn(float v)
{
	return (int)nearbyintf(v);
}
static inline long long __double2ll_rn(double v)
{
	return llrint(v);
}
static inline int __popc(unsigned int v)
{
	return __builtin_popcount(v);
}
static inline int __ffs(int v)
{
	return __builtin_ffs(v);
}
static inline int __clz(int v)
{
	return v ? __builtin_clz((unsigned int)v) : 32;
}
static inline uint32_t __byte_perm(uint32_t x, uint32_t y, uint32_t select)
{
	uint64_t both = (uint64_t)y << 32 | x;
	uint32_t out = 0;

	for (int i = 0; i < 4; i++) {
		uint32_t s = select >> (4 * i), byte = (uint32_t)(both >> (8 * (s & 7))) & 255;

		out |= (s & 8 ? (byte & 128 ? 255u : 0u) : byte) << (8 * i);
	}
	return out;
}
static inline void sincospi(double x, double *s, double *c)
{
	x -= 2 * nearbyint(x / 2);
	*s = sin(x * 3.14159265358979323846);
	*c = cos(x * 3.14159265358979323846);
}

static inline float fhk_h2f(uint16_t h)
{
	return fhk_f16_f32(h);
}
static inline uint16_t fhk_f2h(float f)
{
	return fhk_f32_f16(f);
}
static inline uint16_t fhk_f2bf(float f)
{
	return fhk_f32_bf16(f);
}
static inline uint32_t fhk_opaque(uint32_t v)
{
	return v;
}
/*
 * The hardware may write from the moment that it is asked until the wait, and read as late: so what was there is gone
 * at once, and what comes is not there before.
 */
static inline void fhk_cp16(void *to, const void *from)
{
	struct simt_thread *t = simt_self;

	simt_check_copy(to, from);
	memset(to, 0xff, 16);
	t->copies[t->nr_copies++] = simt_copy{to, from, t->nr_groups};
}
static inline void fhk_cp_commit(void)
{
	simt_self->nr_groups++;
}
template <int N> static inline void fhk_cp_wait(void)
{
	struct simt_thread *t = simt_self;
	unsigned int kept = 0;

	for (unsigned int i = 0; i < t->nr_copies; i++) {
		if (t->copies[i].group + N < t->nr_groups)
			memcpy(t->copies[i].to, t->copies[i].from, 16);
		else
			t->copies[kept++] = t->copies[i];
	}
	t->nr_copies = kept;
}
static inline void fhk_prefetch(const void *p)
{
	(void)*static_cast<const volatile uint8_t *>(p); /* it has to be there: a page fault is none the less one */
}
static inline void fhk_st_relaxed_sys(uint64_t *p, uint64_t v)
{
	__atomic_store_n(p, v, __ATOMIC_RELAXED);
}
static inline void fhk_st_release_sys(uint64_t *p, uint64_t v)
{
	__atomic_store_n(p, v, __ATOMIC_RELEASE);
}

#endif /* FHK_SIMT_DEVICE_H */
