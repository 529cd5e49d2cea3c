// SPDX-License-Identifier: Apache-2.0
/*
 * Quantised weights times eight bit activations, with VNNI.
 *
 * One vector register is 16 rows: lane r sums row r.  For a block of 32 columns
 * eight vpdpbusd give the exact integer dot products of a token, which are then
 * scaled and added to that token's float sums, block after block.  That float
 * chain is the only order that matters, and it is the same however many tokens
 * or panels are done together.
 *
 * Weights are unsigned; a zero point is taken off by starting the integer sum
 * at minus zero point times the sum of the activations, which act_prepare left
 * beside them, added to the bits of a float (see FHK_MAGIC): one instruction then
 * makes the scaled float.  Minimums (value = d q + m) take one more multiplication.
 *
 * A block's weights are unpacked into registers and used for up to eight tokens
 * at once.  For more tokens a group of blocks of two panels is unpacked to the
 * stack, where the first-level cache holds it for all of them, and the panels
 * share the loads of a token's columns: each product needs one of those, and a
 * core does two 512-bit products and two loads a cycle.  Buffers are the
 * caller's; the panels' heads and planes are aligned.
 */
#include <immintrin.h>

#include "kernels/avx512/avx512.h"
#include "kernels/quant.h"

#define TILE 8	   /* tokens in registers */
#define CHUNK 64   /* tokens that a panel is kept in cache for */
#define AHEAD 4096 /* bytes to prefetch ahead, past the panel's end into the next */

/* Scales of one block, 16 rows: one, or one for each half, and what is added; d[0] times FHK_MAGIC. */
struct scales {
	__m512 d[2], m[2], magic;
};

/* A group of blocks, unpacked */
struct group {
	__m512i w[FHK_GROUP][8];
	struct scales s[FHK_GROUP];
};

/* Sums begin at FHK_MAGIC: scales of few enough bits.  (Those of MXFP4 may be as large as floats get.) */
FHK_INLINE bool is_magic(uint32_t type)
{
	return !fhk_is_sub16(type) && type != FHK_MXFP4;
}

FHK_INLINE __m512i table16(const int8_t *values, int offset)
{
	__m128i v = _mm_add_epi8(_mm_loadu_si128((const __m128i *)values), _mm_set1_epi8((char)offset));

	return _mm512_broadcast_i32x4(v);
}

/* One bit of 512 for each of the bytes of @w, at position @to */
#define OR_BITS(w, bits, from, to, mask)                                                                               \
	_mm512_ternarylogic_epi32(w,                                                                                   \
				  (from) > (to) ? _mm512_srli_epi32(bits, (from) > (to) ? (from) - (to) : 0)           \
						: _mm512_slli_epi32(bits, (from) > (to) ? 0 : (to) - (from)),          \
				  _mm512_set1_epi8(mask), 0xf8)

FHK_INLINE void load_weights(uint32_t type, const uint8_t *planes, __m512i w[8])
{
	const __m512i low4 = _mm512_set1_epi8(15), low2 = _mm512_set1_epi8(3);
	const __m512i *p = (const __m512i *)planes;
	__m512i bits;

	if (type == FHK_Q8_0) {
		for (int i = 0; i < 8; i++)
			w[i] = p[i];
		return;
	}
	if (type == FHK_Q2_K || type == FHK_Q3_K) {
		for (int h = 0; h < 2; h++)
			for (int j = 0; j < 4; j++)
				w[4 * h + j] = _mm512_and_si512(_mm512_srli_epi32(p[h], 2 * j), low2);
		if (type == FHK_Q2_K)
			return;
		bits = p[2];
		for (int i = 0; i < 8; i++)
			w[i] = OR_BITS(w[i], bits, i, 2, 4);
		return;
	}
	for (int j = 0; j < 4; j++) {
		w[j] = _mm512_and_si512(p[j], low4);
		w[j + 4] = _mm512_and_si512(_mm512_srli_epi32(p[j], 4), low4);
	}
	if (type == FHK_IQ4_NL || type == FHK_IQ4_XS || type == FHK_MXFP4) {
		__m512i t = table16(type == FHK_MXFP4 ? fhk_mxfp4_values : fhk_iq4_values, 128);

		for (int i = 0; i < 8; i++)
			w[i] = _mm512_shuffle_epi8(t, w[i]);
	} else if (fhk_plane_bytes(type) == 256 + 64) {
		bits = p[4];
		for (int i = 0; i < 8; i++)
			w[i] = OR_BITS(w[i], bits, i, 4, 16);
	} else if (type == FHK_Q6_K) {
		for (int h = 0; h < 2; h++) {
			bits = p[4 + h];
			for (int j = 0; j < 4; j++)
				w[4 * h + j] = OR_BITS(w[4 * h + j], bits, 2 * j, 4, 48);
		}
	}
}

FHK_INLINE __m512 halves(const void *p)
{
	return _mm512_cvtph_ps(_mm256_load_si256(p));
}

FHK_INLINE __m512 u8_floats(const void *p)
{
	return _mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(_mm_load_si128(p)));
}

FHK_INLINE __m512 s8_floats(const void *p)
{
	return _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_load_si128(p)));
}

/* @super: d and minus dmin of the group, for types that have them */
FHK_INLINE void load_scales(uint32_t type, const uint8_t *head, const __m512 super[2], uint32_t b, struct scales *s)
{
	const uint8_t *k = head + 64;
	__m512i e;

	switch (type) {
	case FHK_Q4_K:
	case FHK_Q5_K:
		s->d[0] = _mm512_mul_ps(super[0], u8_floats(k + 16 * b));
		s->m[0] = _mm512_mul_ps(super[1], u8_floats(k + 128 + 16 * b));
		break;
	case FHK_IQ4_XS: s->d[0] = _mm512_mul_ps(super[0], s8_floats(k + 16 * b)); break;
	case FHK_Q6_K:
	case FHK_Q3_K:
		s->d[0] = _mm512_mul_ps(super[0], s8_floats(k + 32 * b));
		s->d[1] = _mm512_mul_ps(super[0], s8_floats(k + 32 * b + 16));
		break;
	case FHK_Q2_K:
		for (int h = 0; h < 2; h++) {
			e = _mm512_cvtepu8_epi32(_mm_load_si128((const __m128i *)(k + 32 * b + 16 * h)));
			s->d[h] =
				_mm512_mul_ps(super[0], _mm512_cvtepi32_ps(_mm512_and_si512(e, _mm512_set1_epi32(15))));
			s->m[h] = _mm512_mul_ps(super[1], _mm512_cvtepi32_ps(_mm512_srli_epi32(e, 4)));
		}
		break;
	case FHK_MXFP4: /* half of 2^(e - 127), because the table holds twice the values; e = 0 is subnormal */
		e = _mm512_slli_epi32(_mm512_cvtepu8_epi32(_mm_load_si128((const __m128i *)(head + 16 * b))), 23);
		e = _mm512_max_epu32(e, _mm512_set1_epi32(0x00400000));
		s->d[0] = _mm512_mul_ps(_mm512_castsi512_ps(e), _mm512_set1_ps(0.5f));
		break;
	default:
		s->d[0] = halves(head + 32 * b);
		if (fhk_has_min(type))
			s->m[0] = halves(head + 256 + 32 * b);
		break;
	}
	if (is_magic(type))
		s->magic = _mm512_mul_ps(s->d[0], _mm512_set1_ps(FHK_MAGIC));
}

FHK_INLINE void load_super(uint32_t type, const uint8_t *head, __m512 super[2])
{
	if (!fhk_is_super(type))
		return;
	super[0] = halves(head);
	if (fhk_has_min(type))
		super[1] = _mm512_sub_ps(_mm512_setzero_ps(), halves(head + 32));
}

FHK_INLINE __m512i quad(const int8_t *q, int i)
{
	return _mm512_set1_epi32(((const int32_t *)q)[i]);
}

/* Where the sums of a block, or of its half @h, begin */
FHK_INLINE __m512i start(uint32_t type, const struct fhk_q8 *x, int h)
{
	__m512i v;

	if (fhk_is_sub16(type))
		return fhk_has_min(type) ? _mm512_setzero_si512()
					 : _mm512_slli_epi32(_mm512_set1_epi32(x->nsum16[h]), fhk_zero_shift(type));
	if (fhk_has_min(type))
		return _mm512_set1_epi32(FHK_MAGIC_BITS);
	if (type == FHK_Q4_0)
		return _mm512_set1_epi32(x->start8);
	if (type != FHK_Q5_0)
		return _mm512_set1_epi32(x->start128);
	v = _mm512_set1_epi32(x->start8); /* twice what is beside FHK_MAGIC_BITS */
	return _mm512_sub_epi32(_mm512_add_epi32(v, v), _mm512_set1_epi32(FHK_MAGIC_BITS));
}

/* The dot product times the scale, from sums that began at start(); of types of one scale a block */
FHK_INLINE __m512 scaled(uint32_t type, __m512i dot, const struct scales *s)
{
	__m512 f = _mm512_castsi512_ps(dot);

	if (is_magic(type))
		return _mm512_fmsub_ps(f, s->d[0], s->magic);
	return _mm512_mul_ps(_mm512_sub_ps(f, _mm512_set1_ps(FHK_MAGIC)), s->d[0]);
}

/* sums[t] += block of weights . x[t][at], for nr tokens */
FHK_INLINE void add_block(uint32_t type, const __m512i w[8], const struct scales *s, const struct fhk_q8 *const *x,
			  size_t at, int nr, __m512 *sums)
{
	bool sub16 = fhk_is_sub16(type);
	__m512i dot[TILE];
	__m512 f[TILE];

	for (int t = 0; t < nr; t++)
		dot[t] = start(type, &x[t][at], 0);
	for (int i = 0; i < 4; i++)
		for (int t = 0; t < nr; t++)
			dot[t] = _mm512_dpbusd_epi32(dot[t], w[i], quad(x[t][at].q, i));
	if (sub16) {
		for (int t = 0; t < nr; t++) {
			f[t] = _mm512_mul_ps(_mm512_cvtepi32_ps(dot[t]), s->d[0]);
			dot[t] = start(type, &x[t][at], 1);
		}
	}
	for (int i = 4; i < 8; i++)
		for (int t = 0; t < nr; t++)
			dot[t] = _mm512_dpbusd_epi32(dot[t], w[i], quad(x[t][at].q, i));
	for (int t = 0; t < nr; t++) {
		const struct fhk_q8 *xt = &x[t][at];

		if (sub16)
			f[t] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(dot[t]), s->d[1], f[t]);
		else
			f[t] = scaled(type, dot[t], s);
		sums[t] = _mm512_fmadd_ps(f[t], _mm512_set1_ps(xt->d), sums[t]);
		if (fhk_has_min(type) && sub16) {
			sums[t] = _mm512_fmadd_ps(s->m[0], _mm512_set1_ps(xt->fsum16[0]), sums[t]);
			sums[t] = _mm512_fmadd_ps(s->m[1], _mm512_set1_ps(xt->fsum16[1]), sums[t]);
		} else if (fhk_has_min(type)) {
			sums[t] = _mm512_fmadd_ps(s->m[0], _mm512_set1_ps(xt->fsum), sums[t]);
		}
	}
}

/* y: one token's 16 rows, of which those in @mask exist */
FHK_INLINE void put_sums(float *y, __m512 sums, __mmask16 mask, unsigned int flags)
{
	if (flags & FHK_ADD)
		sums = _mm512_add_ps(_mm512_maskz_loadu_ps(mask, y), sums);
	_mm512_mask_storeu_ps(y, mask, sums);
}

FHK_INLINE void prefetch(const uint8_t *p, uint32_t bytes)
{
	for (uint32_t line = 0; line < bytes; line += 64)
		_mm_prefetch((const char *)p + AHEAD + line, _MM_HINT_T0);
}

/* A panel times nr <= TILE tokens */
FHK_INLINE void panel_times(uint32_t type, const uint8_t *panel, uint32_t nr_blocks, const struct fhk_q8 *const *x,
			    int nr, __m512 *sums)
{
	for (int t = 0; t < nr; t++)
		sums[t] = _mm512_setzero_ps();
	for (uint32_t g = 0; g < nr_blocks; g += FHK_GROUP) {
		uint32_t n = nr_blocks - g < FHK_GROUP ? nr_blocks - g : FHK_GROUP;
		const uint8_t *planes = panel + fhk_head_bytes(type);
		__m512 super[2];

		prefetch(panel, fhk_head_bytes(type));
		load_super(type, panel, super);
		for (uint32_t b = 0; b < n; b++, planes += fhk_plane_bytes(type)) {
			struct scales s;
			__m512i w[8];

			prefetch(planes, fhk_plane_bytes(type));
			load_weights(type, planes, w);
			load_scales(type, panel, super, b, &s);
			add_block(type, w, &s, x, g + b, nr, sums);
		}
		panel = planes;
	}
}

/* What a multiplication is about, without the types of the table */
struct job {
	const uint8_t *panels;
	size_t panel_bytes;
	uint32_t nr_blocks;
	uint32_t r0, r1;
	float *y;
	size_t ldy;
	unsigned int flags;
};

/* Rows of a panel times nr <= TILE tokens, of which the first @nr_out are wanted */
FHK_INLINE void mul_tile(uint32_t type, const struct job *j, const uint8_t *panel, uint32_t r,
			 const struct fhk_q8 *const *x, uint32_t t, int nr, uint32_t nr_out)
{
	__mmask16 mask = j->r1 - r >= 16 ? 0xffff : (__mmask16)((1u << (j->r1 - r)) - 1);
	float *y = j->y + t * j->ldy + (r - j->r0);
	__m512 sums[TILE];

	panel_times(type, panel, j->nr_blocks, x + t, nr, sums);
	for (int i = 0; i < nr && (uint32_t)i < nr_out; i++)
		put_sums(y + i * j->ldy, sums[i], mask, j->flags);
}

/* The @n blocks of a group, whose head is at @p */
FHK_INLINE void unpack(uint32_t type, const uint8_t *p, uint32_t n, struct group *out)
{
	const uint8_t *planes = p + fhk_head_bytes(type);
	__m512 super[2];

	prefetch(p, fhk_head_bytes(type));
	load_super(type, p, super);
	for (uint32_t b = 0; b < n; b++, planes += fhk_plane_bytes(type)) {
		prefetch(planes, fhk_plane_bytes(type));
		load_scales(type, p, super, b, &out->s[b]);
		if (type != FHK_Q8_0)
			load_weights(type, planes, out->w[b]);
	}
}

/*
 * sums[p][t] += block of panel p . x[t][at], for two panels, which share the
 * loads of the tokens' columns, and TILE tokens; the arithmetic of add_block().
 */
FHK_INLINE void add_two(uint32_t type, const __m512i *const w[2], const struct scales *const s[2],
			const struct fhk_q8 *const *x, size_t at, __m512 *const sums[2])
{
	const struct fhk_q8 *xt[TILE];
	__m512i dot[2][TILE];

#pragma GCC unroll 8
	for (int t = 0; t < TILE; t++) {
		xt[t] = &x[t][at];
		dot[0][t] = dot[1][t] = start(type, xt[t], 0);
	}
#pragma GCC unroll 8
	for (int i = 0; i < 8; i++) {
		__m512i w0 = w[0][i], w1 = w[1][i];

#pragma GCC unroll 8
		for (int t = 0; t < TILE; t++) {
			__m512i v = quad(xt[t]->q, i);

			dot[0][t] = _mm512_dpbusd_epi32(dot[0][t], w0, v);
			dot[1][t] = _mm512_dpbusd_epi32(dot[1][t], w1, v);
		}
	}
#pragma GCC unroll 2
	for (int p = 0; p < 2; p++) {
#pragma GCC unroll 8
		for (int t = 0; t < TILE; t++) {
			__m512 sum = sums[p][t];

			sum = _mm512_fmadd_ps(scaled(type, dot[p][t], s[p]), _mm512_set1_ps(xt[t]->d), sum);
			if (fhk_has_min(type))
				sum = _mm512_fmadd_ps(s[p]->m[0], _mm512_set1_ps(xt[t]->fsum), sum);
			sums[p][t] = sum;
		}
	}
}

/* One group of a panel, unpacked, times one tile */
FHK_INLINE void add_group(uint32_t type, const __m512i *w, const struct group *u, uint32_t n,
			  const struct fhk_q8 *const *x, size_t at, __m512 *sums)
{
	__m512 tile[TILE];

	for (int t = 0; t < TILE; t++)
		tile[t] = sums[t];
	for (uint32_t b = 0; b < n; b++)
		add_block(type, w + 8 * b, &u->s[b], x, at + b, TILE, tile);
	for (int t = 0; t < TILE; t++)
		sums[t] = tile[t];
}

/*
 * Rows of @nr_p panels, one or two, times the first @nr tokens, whole tiles of
 * them, of which @nr_out are wanted.  A group of blocks is unpacked once for all.
 */
FHK_INLINE void mul_tiles(uint32_t type, const struct job *j, const uint8_t *panel, uint32_t r, int nr_p,
			  const struct fhk_q8 *const *x, uint32_t nr, uint32_t nr_out)
{
	__m512 sums[2][CHUNK];
	struct group u[2];

	for (int p = 0; p < nr_p; p++)
		for (uint32_t t = 0; t < nr; t++)
			sums[p][t] = _mm512_setzero_ps();
	for (uint32_t g = 0; g < j->nr_blocks; g += FHK_GROUP) {
		uint32_t n = j->nr_blocks - g < FHK_GROUP ? j->nr_blocks - g : FHK_GROUP;
		const __m512i *w[2];

		for (int p = 0; p < nr_p; p++) {
			const uint8_t *at = panel + p * j->panel_bytes;

			w[p] = type == FHK_Q8_0 ? (const __m512i *)(at + fhk_head_bytes(type)) : u[p].w[0];
			unpack(type, at, n, &u[p]);
		}
		panel += fhk_head_bytes(type) + n * fhk_plane_bytes(type);
		for (uint32_t t = 0; t < nr; t += TILE) {
			if (nr_p == 1) {
				add_group(type, w[0], u, n, x + t, g, sums[0] + t);
				continue;
			}
			for (uint32_t b = 0; b < n; b++)
				add_two(type, (const __m512i *const[2]){w[0] + 8 * b, w[1] + 8 * b},
					(const struct scales *const[2]){&u[0].s[b], &u[1].s[b]}, x + t, g + b,
					(__m512 *const[2]){sums[0] + t, sums[1] + t});
		}
	}
	for (int p = 0; p < nr_p; p++, r += FHK_PANEL) {
		__mmask16 mask = j->r1 - r >= 16 ? 0xffff : (__mmask16)((1u << (j->r1 - r)) - 1);

		for (uint32_t t = 0; t < nr && t < nr_out; t++)
			put_sums(j->y + t * j->ldy + (r - j->r0), sums[p][t], mask, j->flags);
	}
}

/*
 * Rows of two panels, @apart panels from one another, times one token, block by
 * block in turn: two streams from memory, and each block of the token is loaded
 * once.  Sums as mul_tile()'s.
 */
FHK_INLINE void mul_one(uint32_t type, const struct job *j, const uint8_t *panel, uint32_t r, uint32_t apart,
			const struct fhk_q8 *x)
{
	const uint8_t *p[2] = {panel, panel + apart * j->panel_bytes};
	uint32_t r2 = r + apart * FHK_PANEL;
	__mmask16 mask = j->r1 - r2 >= 16 ? 0xffff : (__mmask16)((1u << (j->r1 - r2)) - 1);
	__m512 sums[2] = {_mm512_setzero_ps(), _mm512_setzero_ps()}, super[2][2];

	for (uint32_t g = 0; g < j->nr_blocks; g += FHK_GROUP) {
		uint32_t n = j->nr_blocks - g < FHK_GROUP ? j->nr_blocks - g : FHK_GROUP, at = fhk_head_bytes(type);

		for (int i = 0; i < 2; i++) {
			prefetch(p[i], fhk_head_bytes(type));
			load_super(type, p[i], super[i]);
		}
		for (uint32_t b = 0; b < n; b++, at += fhk_plane_bytes(type))
			for (int i = 0; i < 2; i++) {
				struct scales s;
				__m512i w[8];

				prefetch(p[i] + at, fhk_plane_bytes(type));
				load_weights(type, p[i] + at, w);
				load_scales(type, p[i], super[i], b, &s);
				add_block(type, w, &s, &x, g + b, 1, &sums[i]);
			}
		p[0] += at;
		p[1] += at;
	}
	put_sums(j->y + (r - j->r0), sums[0], 0xffff, j->flags);
	put_sums(j->y + (r2 - j->r0), sums[1], mask, j->flags);
}

/* Rows of a panel times fewer than TILE tokens from @t on */
FHK_INLINE void mul_rest(uint32_t type, const struct job *j, const uint8_t *panel, uint32_t r,
			 const struct fhk_q8 *const *x, uint32_t t, uint32_t nr)
{
	if (nr - t == 1)
		mul_tile(type, j, panel, r, x, t, 1, 1);
	else if (nr - t == 2)
		mul_tile(type, j, panel, r, x, t, 2, 2);
	else if (nr > t)
		mul_tile(type, j, panel, r, x, t, 4, nr - t);
}

/* @x: [nr rounded up to a multiple of TILE], the last token repeated */
FHK_INLINE void mul_type(uint32_t type, const struct job *j, const struct fhk_q8 *const *x, uint32_t nr)
{
	uint32_t tiled = (nr + TILE - 5) / TILE * TILE; /* a tile of five tokens or more is as good as a whole one */
	/* Sums of half a block for two panels would not fit in the registers; and one tile waits for memory anyway. */
	const bool two = !fhk_is_sub16(type) && tiled > TILE;
	const uint8_t *panel = j->panels;
	uint32_t r = j->r0;

	if (nr == 1) { /* the first half of the panels beside the second; an odd one is left */
		uint32_t half = (j->r1 - r + FHK_PANEL - 1) / FHK_PANEL / 2;

		for (uint32_t i = 0; i < half; i++, r += FHK_PANEL, panel += j->panel_bytes)
			mul_one(type, j, panel, r, half, x[0]);
		r += half * FHK_PANEL;
		panel += half * j->panel_bytes;
	}
	for (; two && r + FHK_PANEL < j->r1; r += 2 * FHK_PANEL, panel += 2 * j->panel_bytes) {
		mul_tiles(type, j, panel, r, 2, x, tiled, nr);
		mul_rest(type, j, panel, r, x, tiled, nr);
		mul_rest(type, j, panel + j->panel_bytes, r + FHK_PANEL, x, tiled, nr);
	}
	for (; r < j->r1; r += FHK_PANEL, panel += j->panel_bytes) {
		if (tiled > TILE)
			mul_tiles(type, j, panel, r, 1, x, tiled, nr);
		else if (tiled)
			mul_tile(type, j, panel, r, x, 0, TILE, nr);
		mul_rest(type, j, panel, r, x, tiled, nr);
	}
}

#define MUL(T)                                                                                                         \
	static __attribute__((noinline)) void mul_##T(const struct job *j, const struct fhk_q8 *const *x, uint32_t nr) \
	{                                                                                                              \
		mul_type(FHK_##T, j, x, nr);                                                                           \
	}
MUL(Q4_0)
MUL(Q4_1)
MUL(Q5_0)
MUL(Q5_1)
MUL(Q8_0)
MUL(Q2_K)
MUL(Q3_K)
MUL(Q4_K)
MUL(Q5_K)
MUL(Q6_K)
MUL(IQ4_NL)
MUL(IQ4_XS)
MUL(MXFP4)

static void (*const mul_fns[])(const struct job *j, const struct fhk_q8 *const *x, uint32_t nr) = {
	[FHK_Q4_0] = mul_Q4_0,	   [FHK_Q4_1] = mul_Q4_1, [FHK_Q5_0] = mul_Q5_0,   [FHK_Q5_1] = mul_Q5_1,
	[FHK_Q8_0] = mul_Q8_0,	   [FHK_Q2_K] = mul_Q2_K, [FHK_Q3_K] = mul_Q3_K,   [FHK_Q4_K] = mul_Q4_K,
	[FHK_Q5_K] = mul_Q5_K,	   [FHK_Q6_K] = mul_Q6_K, [FHK_MXFP4] = mul_MXFP4, [FHK_IQ4_NL] = mul_IQ4_NL,
	[FHK_IQ4_XS] = mul_IQ4_XS,
};

void fhk_avx512_mul_quant(const struct fhk_mat *m, uint32_t expert, const struct fhk_act *x, const uint32_t *idx,
			  uint32_t nr, uint32_t r0, uint32_t r1, float *y, size_t ldy, unsigned int flags)
{
	size_t panel_bytes = fhk_panel_bytes(m->type, m->cols);
	const struct fhk_q8 *rows = x->form[FHK_FORM_Q8], *tokens[CHUNK];
	struct job j = {
		.panels = (const uint8_t *)m->data + expert * m->expert_bytes + r0 / FHK_PANEL * panel_bytes,
		.panel_bytes = panel_bytes,
		.nr_blocks = m->cols / 32,
		.r0 = r0,
		.r1 = r1,
		.ldy = ldy,
		.flags = flags,
	};

	for (uint32_t t = 0; t < nr; t += CHUNK) {
		uint32_t n = nr - t < CHUNK ? nr - t : CHUNK;

		for (uint32_t i = 0; i < n; i++)
			tokens[i] = rows + (size_t)(idx ? idx[t + i] : t + i) * (x->ld / 32);
		for (uint32_t i = n; i % TILE; i++)
			tokens[i] = tokens[n - 1];
		j.y = y + t * ldy;
		mul_fns[m->type](&j, tokens, n);
	}
}
