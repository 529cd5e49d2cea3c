/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Pieces of the block formats that the dequantiser and the packers share.
 * Pure functions and constants.
 */
#ifndef FHK_QUANT_H
#define FHK_QUANT_H

#include <stdint.h>

extern const int8_t fhk_iq4_values[16];
extern const int8_t fhk_mxfp4_values[16];

/* @s: the 12 bytes of packed scales */
int fhk_q3k_scale(const uint8_t *s, int i);
void fhk_q4k_scale(const uint8_t *s, int i, uint8_t *scale, uint8_t *min);
/* @b: the whole block */
int fhk_iq4xs_scale(const uint8_t *b, int i);

#endif /* FHK_QUANT_H */
