// SPDX-License-Identifier: Apache-2.0
/* Which accelerator a name stands for. */
#include <ctype.h>
#include <stdlib.h>
#include <string.h>

#include "runtime/accel/accel.h"

int fh_accel_choose(const char *device, const struct fh_accel_ops **ops, uint32_t *gpu, struct fh_err *err)
{
	*ops = &fh_accel_cpu;
	*gpu = 0;
	/* The GPU only for who asks: it has not been measured, nor tested on a real one. */
	if (!device || !strcmp(device, "auto") || !strcmp(device, "cpu"))
		return 0;
	if (!strncmp(device, "cuda", 4) && (!device[4] || device[4] == ':')) {
		char *end;
		unsigned long n = device[4] ? strtoul(device + 5, &end, 10) : 0;

		*ops = &fh_accel_cuda;
		*gpu = (uint32_t)n;
		if (!device[4] || (isdigit((unsigned char)device[5]) && !*end && n < 1024))
			return 0;
	}
	return fh_errf(err, -EINVAL, "--device %s: one of auto, cpu, cuda and cuda:N (the Nth GPU, from 0) is wanted",
		       device);
}
