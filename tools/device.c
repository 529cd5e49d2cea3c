// SPDX-License-Identifier: Apache-2.0
/* A model on an accelerator without an engine.  The device owns all that it opens. */
#include <stdlib.h>
#include <string.h>

#include "tools/device.h"

int device_open(struct device *d, const char *path, const char *device, const struct fh_accel_config *cfg,
		struct fh_err *err)
{
	const struct fh_accel_ops *ops;
	uint32_t nr = cfg->max_seqs * cfg->max_blocks_per_seq;
	struct fh_accel_config chosen = *cfg;
	int rc;

	memset(d, 0, sizeof(*d));
	if (!chosen.isa)
		chosen.isa = getenv("FREEHOLD_ISA");
	rc = fh_accel_choose(device ? device : getenv("FREEHOLD_DEVICE"), &ops, &chosen.gpu, err);
	if (!rc)
		rc = fh_model_open(path, &d->model, err);
	if (rc)
		return rc;
	if (d->model->null)
		ops = &fh_accel_null;
	/* The F32 that score asks for by itself is for the CPU alone. */
	if (ops == &fh_accel_cuda && chosen.kv_type == FH_KV_F32)
		chosen.kv_type = FH_KV_F16;
	rc = ops->open(&chosen, &d->accel, err);
	if (!rc)
		rc = d->accel->ops->load(d->accel, d->model, err);
	if (!rc)
		rc = d->accel->ops->kv_alloc(d->accel, nr, err);
	d->max_blocks = cfg->max_blocks_per_seq;
	d->blocks = rc ? NULL : malloc(sizeof(*d->blocks) * nr);
	if (!rc && !d->blocks)
		rc = fh_errf(err, -ENOMEM, "out of memory");
	if (rc) {
		device_close(d);
		return rc;
	}
	for (uint32_t i = 0; i < nr; i++)
		d->blocks[i] = i;
	d->accel->ops->info(d->accel, &d->info);
	return 0;
}

void device_close(struct device *d)
{
	if (d->accel)
		d->accel->ops->close(d->accel);
	fh_model_close(d->model);
	free(d->blocks);
	memset(d, 0, sizeof(*d));
}

int device_kv_type(const char *text, enum fh_kv_type *out)
{
	static const char *const names[] = {
		[FH_KV_F16] = "f16",
		[FH_KV_Q8_0] = "q8_0",
		[FH_KV_F32] = "f32",
		[FH_KV_BF16] = "bf16",
	};

	for (unsigned int i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
		if (!strcmp(text, names[i])) {
			*out = (enum fh_kv_type)i;
			return 0;
		}
	}
	return -EINVAL;
}

bool device_number(const char *option, const char *text, uint32_t min, uint32_t max, uint32_t *out)
{
	char *end;
	unsigned long long v;

	errno = 0;
	v = strtoull(text, &end, 10);
	if (errno || end == text || *end || *text == '-' || v < min || v > max) {
		fprintf(stderr, "freehold: %s %s: a number from %u to %u is wanted\n", option, text, min, max);
		return false;
	}
	*out = (uint32_t)v;
	return true;
}
