/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Runs the kernels of kernels/cuda/ on the CPU: the same .cu files, compiled as
 * C++, each thread of a block a coroutine.  Blocks run one after the other.
 *
 * It tests the kernels' logic - index arithmetic, reductions, barriers - and
 * with -fsanitize=address their bounds, with -fsanitize=thread races between
 * threads of a block and between blocks.  It is no test of a GPU: not of its
 * memory model beyond that, its rounding inside a matrix instruction, its
 * speed, nor of what nvcc makes of the code.
 *
 * Shared memory is filled with NaN before each block.  What a GPU leaves
 * undefined and we can see is an error: a barrier that not all threads of a
 * block reach at the same line, a warp instruction that not all lanes reach.
 *
 * One thread at a time.
 */
#ifndef FHK_SIMT_H
#define FHK_SIMT_H

#include <stddef.h>

#ifdef __cplusplus
extern "C" {
#endif

/*
 * 0; -ENOENT: no such kernel; -EINVAL: a launch that a GPU would refuse, or what
 * the top of this file calls an error; -EFAULT: an address that is not mapped (not
 * with a sanitizer, which reports it itself).  @err receives what went wrong.
 */
int fhk_simt_launch(const char *kernel, const unsigned int grid[3], const unsigned int block[3], unsigned int shared,
		    const void *param, size_t param_bytes, char *err, size_t err_bytes);

/* Bytes of a kernel's argument; 0: no such kernel. */
size_t fhk_simt_param_bytes(const char *kernel);

/* The order in which threads get to run: 0 ascending, else drawn from this seed. Results may not depend on it. */
void fhk_simt_order(unsigned int seed);

#ifdef __cplusplus
}
#endif

#endif /* FHK_SIMT_H */
