/* SPDX-License-Identifier: Apache-2.0 */
/*
 * How GGUF's tensor types lie in memory: blocks of a fixed number of weights
 * in a fixed number of bytes.  Numbers, names and sizes as ggml defines them
 * (https://github.com/ggml-org/ggml, enum ggml_type and ggml-common.h).
 *
 * The table knows more types than the kernels can compute, so that a file which
 * we cannot run can still be opened and described.
 */
#ifndef FH_MODEL_GGUF_TYPES_H
#define FH_MODEL_GGUF_TYPES_H

#include <stdint.h>

struct fh_gguf_type {
	const char *name;
	uint32_t block;	      /* weights in a block */
	uint32_t block_bytes; /* bytes of a block */
};

/* The layout of type number @type; NULL for a number that we do not know. */
const struct fh_gguf_type *fh_gguf_type(uint32_t type);

/* The number of the type called @name (any case), or -1. */
int fh_gguf_type_by_name(const char *name);

#endif /* FH_MODEL_GGUF_TYPES_H */
