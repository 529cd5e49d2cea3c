/* SPDX-License-Identifier: Apache-2.0 */
/*
 * One element of a row as the file has it: its code (repacking) or its value
 * (embeddings).  The formats are those of kernels/quant.c, read byte by byte.
 */
#ifndef FHK_CUDA_FILE_TYPES_CUH
#define FHK_CUDA_FILE_TYPES_CUH

#include "kernels/cuda/dev.cuh"

FHK_DEV uint32_t fhk_file_u16(const uint8_t *p)
{
	return p[0] | (uint32_t)p[1] << 8;
}

FHK_DEV float fhk_file_h(const uint8_t *p)
{
	return fhk_h2f((uint16_t)fhk_file_u16(p));
}

/* Columns of a block of the file, and its bytes */
FHK_DEV uint32_t fhk_file_cols(uint32_t type)
{
	switch (type) {
	case FHK_F32:
	case FHK_F16:
	case FHK_BF16: return 1;
	case FHK_Q4_K:
	case FHK_Q5_K:
	case FHK_Q6_K: return 256;
	default: return 32;
	}
}

FHK_DEV uint32_t fhk_file_bytes(uint32_t type)
{
	switch (type) {
	case FHK_F32: return 4;
	case FHK_F16:
	case FHK_BF16: return 2;
	case FHK_Q8_0: return 34;
	case FHK_Q4_0: return 18;
	case FHK_MXFP4: return 17;
	case FHK_Q4_K: return 144;
	case FHK_Q5_K: return 176;
	default: return 210;
	}
}

FHK_DEV size_t fhk_file_row_bytes(uint32_t type, uint32_t cols)
{
	return (size_t)(cols / fhk_file_cols(type)) * fhk_file_bytes(type);
}

FHK_DEV const uint8_t *fhk_file_block(uint32_t type, const uint8_t *row, uint32_t c)
{
	return row + (size_t)(c / fhk_file_cols(type)) * fhk_file_bytes(type);
}

/* The code of column @c, unsigned as it is stored. */
FHK_DEV uint32_t fhk_file_code(uint32_t type, const uint8_t *row, uint32_t c)
{
	const uint8_t *b = fhk_file_block(type, row, c);
	uint32_t i = c % fhk_file_cols(type), lo, hi;

	switch (type) {
	case FHK_F16:
	case FHK_BF16: return fhk_file_u16(b);
	case FHK_Q8_0: return b[2 + i];
	case FHK_Q4_0: return b[2 + i % 16] >> (i / 16 * 4) & 15;
	case FHK_MXFP4: return b[1 + i % 16] >> (i / 16 * 4) & 15;
	case FHK_Q4_K: return b[16 + i / 64 * 32 + i % 32] >> (i / 32 % 2 * 4) & 15;
	case FHK_Q5_K:
		lo = b[48 + i / 64 * 32 + i % 32] >> (i / 32 % 2 * 4) & 15;
		return lo | (b[16 + i % 32] >> (i / 32) & 1u) << 4;
	default: /* Q6_K */
		lo = b[i / 128 * 64 + i % 64] >> (i % 128 / 64 * 4) & 15;
		hi = b[128 + i / 128 * 32 + i % 32] >> (i % 128 / 32 * 2) & 3;
		return lo | hi << 4;
	}
}

/* Six-bit scale and minimum @i of eight of Q4_K and Q5_K. */
FHK_DEV void fhk_file_scale6(const uint8_t *s, uint32_t i, uint32_t *scale, uint32_t *min)
{
	if (i < 4) {
		*scale = s[i] & 63;
		*min = s[i + 4] & 63;
	} else {
		*scale = (s[i + 4] & 15) | s[i - 4] >> 6 << 4;
		*min = s[i + 4] >> 4 | s[i] >> 6 << 4;
	}
}

FHK_DEV int fhk_mxfp4_value(uint32_t code)
{
	int m = code & 7, v = m < 5 ? m : m == 5 ? 6 : m == 6 ? 8 : 12;

	return code & 8 ? -v : v;
}

FHK_DEV float fhk_e8m0(uint32_t e)
{
	return __uint_as_float(e ? e << 23 : 0x00400000u);
}

FHK_DEV float fhk_file_value(uint32_t type, const uint8_t *row, uint32_t c)
{
	const uint8_t *b = fhk_file_block(type, row, c);
	uint32_t code, s, m, i = c % fhk_file_cols(type);

	if (type == FHK_F32)
		return __uint_as_float(fhk_file_u16(b) | fhk_file_u16(b + 2) << 16);
	code = fhk_file_code(type, row, c);
	switch (type) {
	case FHK_F16: return fhk_h2f((uint16_t)code);
	case FHK_BF16: return fhk_bf2f((uint16_t)code);
	case FHK_Q8_0: return (float)(int8_t)code * fhk_file_h(b);
	case FHK_Q4_0: return ((float)code - 8.0f) * fhk_file_h(b);
	case FHK_MXFP4: return (float)fhk_mxfp4_value(code) * (fhk_e8m0(b[0]) * 0.5f);
	case FHK_Q4_K:
	case FHK_Q5_K:
		fhk_file_scale6(b + 4, i / 32, &s, &m);
		/* As kernels/quant.c rounds it: the difference may be small against both. */
		return __fsub_rn(__fmul_rn(__fmul_rn(fhk_file_h(b), (float)s), (float)code),
				 __fmul_rn(fhk_file_h(b + 2), (float)m));
	default: return fhk_file_h(b + 208) * (float)(int8_t)b[192 + i / 16] * ((float)code - 32.0f);
	}
}

#endif /* FHK_CUDA_FILE_TYPES_CUH */
