// SPDX-License-Identifier: Apache-2.0
/* Matrices of BF16: see mm.cuh. */
#include "kernels/cuda/mm.cuh"

MM_KERNELS(FHK_BF16, bf16)
