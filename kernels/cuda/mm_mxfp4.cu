// SPDX-License-Identifier: Apache-2.0
/* Matrices of MXFP4: see mm.cuh. */
#include "kernels/cuda/mm.cuh"

MM_KERNELS(FHK_MXFP4, mxfp4)
