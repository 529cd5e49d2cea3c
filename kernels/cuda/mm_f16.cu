// SPDX-License-Identifier: Apache-2.0
/* Matrices of F16: see mm.cuh. */
#include "kernels/cuda/mm.cuh"

MM_KERNELS(FHK_F16, f16)
