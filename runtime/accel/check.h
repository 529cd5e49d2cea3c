/* SPDX-License-Identifier: Apache-2.0 */
/* What every accelerator asks of its settings and of a batch before it uses anything of them. */
#ifndef FH_ACCEL_CHECK_H
#define FH_ACCEL_CHECK_H

#include "runtime/accel/accel.h"

/* What a batch may refer to. */
struct fh_accel_room {
	const struct fh_accel_config *cfg;
	uint32_t nr_vocab, nr_blocks;
	uint64_t *seen; /* [max_seqs] step that named the slot last; the caller's, written here */
	uint64_t step;	/* of this batch: another one each time, from 1 on */
};

/* Limits of which all accelerators are capable. 0, or -EINVAL with @err. */
int fh_accel_check_config(const struct fh_accel_config *cfg, struct fh_err *err);
/* Is all that the step will use as an index, or follow as a pointer, within its bounds? */
bool fh_accel_check_batch(const struct fh_accel_room *r, const struct fh_batch *b);

#endif /* FH_ACCEL_CHECK_H */
