/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the kernels' tests share: random numbers that are the same everywhere,
 * random weights of each type, and a walk over the tables of this machine.
 */
#ifndef TEST_KERNELS_UTIL_H
#define TEST_KERNELS_UTIL_H

#include <criterion/criterion.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/half.h"
#include "kernels/kernels.h"

#define COUNT(a) (sizeof(a) / sizeof((a)[0]))

static const uint32_t all_types[] = {FHK_F32,  FHK_F16,	   FHK_BF16,   FHK_Q8_0, FHK_Q4_0, FHK_Q4_1,
				     FHK_Q5_0, FHK_Q5_1,   FHK_Q2_K,   FHK_Q3_K, FHK_Q4_K, FHK_Q5_K,
				     FHK_Q6_K, FHK_IQ4_NL, FHK_IQ4_XS, FHK_MXFP4};

static uint64_t rng_state = 1;

/* splitmix64 (Steele, Lea, Flood 2014) */
static inline uint64_t rnd(void)
{
	uint64_t z = rng_state += 0x9e3779b97f4a7c15u;

	z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
	z = (z ^ z >> 27) * 0x94d049bb133111ebu;
	return z ^ z >> 31;
}

static inline uint32_t rnd_to(uint32_t lo, uint32_t hi)
{
	return lo + (uint32_t)(rnd() % (hi - lo + 1));
}

static inline float rnd_float(void)
{
	return (float)((double)(rnd() >> 11) / 0x1p53 * 2 - 1);
}

static inline void rnd_floats(float *x, size_t n, float scale)
{
	for (size_t i = 0; i < n; i++)
		x[i] = rnd_float() * scale;
}

static inline void *take(size_t bytes)
{
	void *p = aligned_alloc(FHK_ALIGN, (bytes + FHK_ALIGN - 1) / FHK_ALIGN * FHK_ALIGN);

	cr_assert_not_null(p);
	memset(p, 0, bytes);
	return p;
}

static inline void put_half(uint8_t *p, float v)
{
	uint16_t h = fhk_f32_f16(v);

	memcpy(p, &h, 2);
}

/* Where a block keeps its f16 scale and minimum; -1: none. */
static inline void scale_places(uint32_t type, int *d, int *m)
{
	*d = type == FHK_Q2_K ? 80 : type == FHK_Q3_K ? 108 : type == FHK_Q6_K ? 208 : type == FHK_MXFP4 ? -1 : 0;
	*m = -1;
	if (type == FHK_Q4_1 || type == FHK_Q5_1 || type == FHK_Q4_K || type == FHK_Q5_K)
		*m = 2;
	if (type == FHK_Q2_K)
		*m = 82;
}

/* @n weights of random bytes with sane scales, exactly as many bytes as they take */
static inline uint8_t *rnd_weights(uint32_t type, size_t n)
{
	const struct fhk_type_info *ti = fhk_type_info(type);
	size_t blocks = n / ti->block_elems;
	uint8_t *w = malloc(blocks * ti->block_bytes);
	int d, m;

	cr_assert_not_null(w);
	scale_places(type, &d, &m);
	for (size_t i = 0; i < blocks; i++) {
		uint8_t *b = w + i * ti->block_bytes;
		float v = rnd_float();

		for (uint32_t j = 0; j < ti->block_bytes; j++)
			b[j] = (uint8_t)rnd();
		switch (type) {
		case FHK_F32: memcpy(b, &v, 4); continue;
		case FHK_F16: put_half(b, v); continue;
		case FHK_BF16: fhk_quant_bf16(&v, (uint16_t *)b, 1); continue;
		case FHK_MXFP4: b[0] = (uint8_t)rnd_to(118, 127); continue;
		}
		put_half(b + d, rnd_float() * 0.02f);
		if (m >= 0)
			put_half(b + m, rnd_float() * 0.05f);
	}
	return w;
}

static const char *const table_names[] = {"ref", "avx2", "avx512", "avx512_bf16"};

/* Walk over the tables that this machine runs; test_kernels.c names those that it lacks. */
#define for_each_table(k)                                                                                              \
	for (uint32_t table_i = 0; table_i < sizeof(table_names) / sizeof(table_names[0]); table_i++)                  \
		if (((k) = fhk_select(table_names[table_i])) != NULL)

#endif /* TEST_KERNELS_UTIL_H */
