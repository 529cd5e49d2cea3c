// SPDX-License-Identifier: Apache-2.0
/*
 * Random weights in every type that the kernels run.
 *
 * A block's codes are random bytes, all of them valid; its scales are chosen so
 * that what comes out has mean about 0 and the deviation asked for.  With codes
 * uniform, that is arithmetic: `unit` below is the deviation of a type's weights
 * at scale 1, `shift` the offset in units of the scale that brings the mean to 0.
 * The block layouts are those of ggml-common.h in https://github.com/ggml-org/ggml.
 */
#include <math.h>
#include <stddef.h>
#include <string.h>

#include "runtime/model/gguf_types.h"
#include "tools/synth.h"

enum { F32 = 0, F16 = 1, Q8_0 = 8, Q6_K = 14, IQ4_XS = 23, BF16 = 30, MXFP4 = 39 };

/* Where a block keeps its scale and what the rest of it amounts to. */
struct layout {
	uint8_t type;
	uint8_t file_type; /* general.file_type */
	uint8_t d_at;	   /* byte of the f16 scale */
	int8_t m_at;	   /* byte of the f16 offset; -1: none */
	bool k_quant;	   /* llama.cpp's mixes keep the output at Q6_K */
	float unit, shift;
};

static const struct layout layouts[] = {
	{.type = F32, .file_type = 0},
	{.type = F16, .file_type = 1},
	{.type = BF16, .file_type = 32},
	{.type = 2, .file_type = 2, .d_at = 0, .m_at = -1, .unit = 4.64F},		   /* Q4_0: d (q - 8) */
	{.type = 3, .file_type = 3, .d_at = 0, .m_at = 2, .unit = 4.61F, .shift = -7.5F},  /* Q4_1: d q + m */
	{.type = 6, .file_type = 8, .d_at = 0, .m_at = -1, .unit = 9.25F},		   /* Q5_0: d (q - 16) */
	{.type = 7, .file_type = 9, .d_at = 0, .m_at = 2, .unit = 9.23F, .shift = -15.5F}, /* Q5_1: d q + m */
	{.type = Q8_0, .file_type = 7, .d_at = 0, .m_at = -1, .unit = 73.9F},		   /* d q */
	{.type = 10, .file_type = 10, .d_at = 80, .m_at = 82, .k_quant = true, .unit = 13.9F, .shift = 1.5F}, /* Q2_K */
	{.type = 11, .file_type = 12, .d_at = 108, .m_at = -1, .k_quant = true, .unit = 43.3F},		      /* Q3_K */
	{.type = 12, .file_type = 15, .d_at = 0, .m_at = 2, .k_quant = true, .unit = 258.F, .shift = 7.5F},   /* Q4_K */
	{.type = 13, .file_type = 17, .d_at = 0, .m_at = 2, .k_quant = true, .unit = 527.F, .shift = 15.5F},  /* Q5_K */
	{.type = Q6_K, .file_type = 18, .d_at = 208, .m_at = -1, .k_quant = true, .unit = 1222.F},
	{.type = 20, .file_type = 25, .d_at = 0, .m_at = -1, .k_quant = true, .unit = 67.4F}, /* IQ4_NL */
	{.type = IQ4_XS, .file_type = 30, .d_at = 0, .m_at = -1, .k_quant = true, .unit = 1246.F},
	{.type = MXFP4, .file_type = 38, .unit = 2.93F},
};

static const struct layout *layout_of(uint32_t type)
{
	for (size_t i = 0; i < sizeof(layouts) / sizeof(layouts[0]); i++) {
		if (layouts[i].type == type)
			return &layouts[i];
	}
	return NULL;
}

bool synth_type_ok(uint32_t type)
{
	return layout_of(type) != NULL;
}

uint32_t synth_file_type(uint32_t type)
{
	return layout_of(type)->file_type;
}

uint32_t synth_embd_type(uint32_t type)
{
	if (type == MXFP4)
		return Q8_0;
	return layout_of(type)->k_quant ? Q6_K : type;
}

/* xoshiro256++ (Blackman and Vigna, 2019) */
static inline uint64_t next(struct synth_rng *r)
{
	uint64_t *s = r->s, sum = s[0] + s[3], out = ((sum << 23) | (sum >> 41)) + s[0], t = s[1] << 17;

	s[2] ^= s[0];
	s[3] ^= s[1];
	s[1] ^= s[2];
	s[0] ^= s[3];
	s[2] ^= t;
	s[3] = (s[3] << 45) | (s[3] >> 19);
	return out;
}

void synth_rng_seed(struct synth_rng *r, uint64_t seed, uint64_t stream)
{
	uint64_t x = seed ^ (stream + 1) * 0xd1342543de82ef95;

	for (int i = 0; i < 4; i++) { /* splitmix64 */
		uint64_t z = x += 0x9e3779b97f4a7c15;

		z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9;
		z = (z ^ (z >> 27)) * 0x94d049bb133111eb;
		r->s[i] = z ^ (z >> 31);
	}
}

/* Nearly normal, deviation 1: the sum of four uniform numbers. */
static inline float normal(struct synth_rng *r)
{
	uint64_t x = next(r);
	int sum = (int)(x & 0xffff) + (int)(x >> 16 & 0xffff) + (int)(x >> 32 & 0xffff) + (int)(x >> 48);

	return (float)(sum - 2 * 65535) * (1.7320508F / 65536.F);
}

static inline uint32_t bits(float f)
{
	uint32_t u;

	memcpy(&u, &f, sizeof(u));
	return u;
}

/* f32 to f16, to nearest even; for magnitudes below 65504 only, which all of ours are. */
static uint16_t to_f16(float f)
{
	uint32_t u = bits(f), sign = u >> 16 & 0x8000, mag = u & 0x7fffffff;

	if (mag < 0x38800000) /* below 2^-14: a count of 2^-24 */
		return (uint16_t)(sign | (uint32_t)lrintf(fabsf(f) * 0x1p24F));
	mag += 0xfff + (mag >> 13 & 1);
	return (uint16_t)(sign | (mag - 0x38000000) >> 13);
}

static inline uint16_t to_bf16(float f)
{
	uint32_t u = bits(f);

	return (uint16_t)((u + 0x7fff + (u >> 16 & 1)) >> 16);
}

static void put16(uint8_t *at, uint16_t v)
{
	memcpy(at, &v, sizeof(v));
}

static void random_bytes(struct synth_rng *r, uint8_t *dst, uint32_t n)
{
	uint64_t x;

	for (; n >= 8; n -= 8, dst += 8) {
		x = next(r);
		memcpy(dst, &x, 8);
	}
	if (n) {
		x = next(r);
		memcpy(dst, &x, n);
	}
}

/* One block: random codes, then scales. */
static void fill_block(struct synth_rng *r, const struct layout *l, uint32_t bytes, uint8_t *b, float std)
{
	float spread = 0.8F + 0.4F * (float)(next(r) >> 40) * 0x1p-24F; /* blocks differ, as real ones do */
	float d = fmaxf(std * spread / l->unit, 0x1p-24F);

	random_bytes(r, b, bytes);
	if (l->type == MXFP4) {
		b[0] = (uint8_t)(127 + ilogbf(d * 1.4142135F)); /* the nearest power of two; d is at least 2^-24 */
		return;
	}
	if (l->type == Q6_K) { /* signed scales: 32 .. 95 */
		for (int i = 192; i < 208; i++)
			b[i] = (b[i] & 63) + 32;
	}
	put16(b + l->d_at, to_f16(d));
	if (l->m_at >= 0)
		put16(b + l->m_at, to_f16(d * l->shift));
}

void synth_weights(struct synth_rng *r, uint32_t type, void *dst, uint64_t n, float std)
{
	const struct fh_gguf_type *t = fh_gguf_type(type);
	const struct layout *l = layout_of(type);
	uint8_t *p = dst;

	if (t->block == 1) {
		for (uint64_t i = 0; i < n; i++) {
			float f = normal(r) * std;

			if (type == F32)
				memcpy(p + 4 * i, &f, 4);
			else
				put16(p + 2 * i, type == F16 ? to_f16(f) : to_bf16(f));
		}
		return;
	}
	for (uint64_t i = 0; i < n / t->block; i++)
		fill_block(r, l, t->block_bytes, p + i * t->block_bytes, std);
}

uint64_t synth_bytes(uint32_t type, uint64_t n)
{
	const struct fh_gguf_type *t = fh_gguf_type(type);

	return n % t->block ? 0 : n / t->block * t->block_bytes;
}
