/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Half precision (IEEE binary16), bfloat16 and unaligned loads in plain C, for
 * the reference kernels, the packers and every host.  Pure functions.
 */
#ifndef FHK_HALF_H
#define FHK_HALF_H

#include <stdint.h>
#include <string.h>

static inline uint16_t fhk_ld16(const void *p)
{
	uint16_t v;

	memcpy(&v, p, sizeof(v));
	return v;
}

static inline uint32_t fhk_ld32(const void *p)
{
	uint32_t v;

	memcpy(&v, p, sizeof(v));
	return v;
}

static inline void fhk_st32(void *p, uint32_t v)
{
	memcpy(p, &v, sizeof(v));
}

static inline float fhk_bits_f32(uint32_t bits)
{
	float f;

	memcpy(&f, &bits, sizeof(f));
	return f;
}

static inline uint32_t fhk_f32_bits(float f)
{
	uint32_t bits;

	memcpy(&bits, &f, sizeof(bits));
	return bits;
}

/* Shifted into f32's place a half is 2^-112 of its value, subnormals too; one exact product mends that. */
static inline float fhk_f16_f32(uint16_t h)
{
	uint32_t sign = (uint32_t)(h & 0x8000) << 16, mag = h & 0x7fff;
	float f = fhk_bits_f32(mag << 13) * 0x1p112f;

	if (mag >= 0x7c00)
		f = fhk_bits_f32(0x7f800000 | (mag & 0x3ff) << 13);
	return fhk_bits_f32(fhk_f32_bits(f) | sign);
}

/* Round to nearest, ties to even; too large becomes infinite, NaN stays one. */
static inline uint16_t fhk_f32_f16(float f)
{
	uint32_t bits = fhk_f32_bits(f), sign = bits >> 16 & 0x8000;

	bits &= 0x7fffffff;
	if (bits > 0x7f800000)
		return sign | 0x7e00;
	if (bits >= 0x47800000)
		return sign | 0x7c00;
	if (bits < 0x38800000) /* a subnormal half: let the FPU round it at 2^-24 */
		return sign | (fhk_f32_bits(fhk_bits_f32(bits) + 0.5f) - 0x3f000000);
	bits += 0xc8000fff + (bits >> 13 & 1);
	return sign | bits >> 13;
}

static inline float fhk_bf16_f32(uint16_t h)
{
	return fhk_bits_f32((uint32_t)h << 16);
}

static inline uint16_t fhk_f32_bf16(float f)
{
	uint32_t bits = fhk_f32_bits(f);

	if ((bits & 0x7fffffff) > 0x7f800000)
		return bits >> 16 | 0x40;
	return (bits + 0x7fff + (bits >> 16 & 1)) >> 16;
}

/* A scale of MXFP4: 2^(e - 127); 2^-127 is a subnormal float. */
static inline float fhk_e8m0_f32(uint8_t e)
{
	return fhk_bits_f32(e ? (uint32_t)e << 23 : 0x00400000);
}

#endif /* FHK_HALF_H */
