// SPDX-License-Identifier: Apache-2.0
/* Matrices of Q8_0: see mm.cuh. */
#include "kernels/cuda/mm.cuh"

MM_KERNELS(FHK_Q8_0, q8_0)
