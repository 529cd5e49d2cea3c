/* SPDX-License-Identifier: Apache-2.0 */
/* The way from f32 into every weight type, for tests: see quantise.c. */
#ifndef FH_TESTS_QUANTISE_H
#define FH_TESTS_QUANTISE_H

#include <stddef.h>
#include <stdint.h>

/* @n weights, whole blocks, at @x to @type (enum fhk_type) at @dst. -1: the type is unknown. */
int quantise(uint32_t type, const float *x, void *dst, size_t n);

#endif /* FH_TESTS_QUANTISE_H */
