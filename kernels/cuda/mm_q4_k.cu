// SPDX-License-Identifier: Apache-2.0
/* Matrices of Q4_K: see mm.cuh. */
#include "kernels/cuda/mm.cuh"

MM_KERNELS_K(FHK_Q4_K, q4_k)
