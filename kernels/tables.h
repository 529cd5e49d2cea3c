/* SPDX-License-Identifier: Apache-2.0 */
/* The tables that exist only on x86-64; for dispatch.c alone. */
#ifndef FHK_TABLES_H
#define FHK_TABLES_H

#include "kernels/kernels.h"

extern const struct fhk_ops fhk_avx2;
extern const struct fhk_ops fhk_avx512;
extern const struct fhk_ops fhk_avx512_bf16;

#endif /* FHK_TABLES_H */
