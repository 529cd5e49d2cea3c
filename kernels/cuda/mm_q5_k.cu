// SPDX-License-Identifier: Apache-2.0
/* Matrices of Q5_K: see mm.cuh. */
#include "kernels/cuda/mm.cuh"

MM_KERNELS_K(FHK_Q5_K, q5_k)
