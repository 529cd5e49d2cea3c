// SPDX-License-Identifier: Apache-2.0
/* Matrices of Q4_0: see mm.cuh. */
#include "kernels/cuda/mm.cuh"

MM_KERNELS(FHK_Q4_0, q4_0)
