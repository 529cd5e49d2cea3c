/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A model on an accelerator without an engine, for the subcommands that feed
 * it token by token themselves (score, bench engine).
 */
#ifndef FH_TOOLS_DEVICE_H
#define FH_TOOLS_DEVICE_H

#include "runtime/accel/accel.h"
#include "runtime/base/err.h"
#include "runtime/model/model.h"

struct device {
	struct fh_model *model;
	struct fh_accel *accel;
	struct fh_accel_info info;
	uint32_t max_blocks; /* a sequence */
	uint32_t *blocks;    /* [max_seqs, max_blocks]: each sequence's own */
};

/*
 * Open and load, with KV for cfg->max_seqs sequences of cfg->max_blocks_per_seq blocks, on @device (as of
 * fh_accel_choose()).  Without cfg->isa or @device, FREEHOLD_ISA and FREEHOLD_DEVICE in the environment count, as they
 * do for serve and run.  A GPU keeps F16 where F32 is asked for.
 */
int device_open(struct device *d, const char *path, const char *device, const struct fh_accel_config *cfg,
		struct fh_err *err);
void device_close(struct device *d);

/* "f16", "q8_0" or "f32"; -EINVAL. */
int device_kv_type(const char *text, enum fh_kv_type *out);

/* A decimal number in min..max, or an error on stderr that names @option, and false. */
bool device_number(const char *option, const char *text, uint32_t min, uint32_t max, uint32_t *out);

#endif /* FH_TOOLS_DEVICE_H */
