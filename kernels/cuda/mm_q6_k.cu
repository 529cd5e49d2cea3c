// SPDX-License-Identifier: Apache-2.0
/* Matrices of Q6_K: see mm.cuh. */
#include "kernels/cuda/mm.cuh"

MM_KERNELS_K(FHK_Q6_K, q6_k)
