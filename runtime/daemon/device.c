// SPDX-License-Identifier: Apache-2.0
/* The kernel module's device; see device.h. */
#include "runtime/daemon/device.h"

#include <string.h>

#include "runtime/base/log.h"

static bool wants(const struct fhd_config *cfg, const char *what)
{
	for (uint32_t i = 0; i < cfg->channel.n; i++)
		if (!strcmp(cfg->channel.v[i], what))
			return true;
	return false;
}

int fhd_device_open(const struct fhd_config *cfg, struct fh_ctl **out, struct fh_err *err)
{
	struct fh_info info;
	struct fh_err why;
	int rc;

	*out = NULL;
	if (!wants(cfg, "dev") && !wants(cfg, "auto"))
		return 0;
	rc = fh_ctl_open(NULL, out, &why);
	if (rc && wants(cfg, "dev"))
		return fh_errf(err, rc, "--channel dev: %s", why.msg);
	if (rc) {
		/* Where there is no module nothing is amiss; where there is one, somebody wants to know. */
		fh_log(rc == -ENOENT ? FH_LOG_INFO : FH_LOG_WARN, "kernel module: not used: %s", why.msg);
		return 0;
	}
	fh_ctl_info(*out, &info);
	fh_info("kernel module: ABI %u; regions up to %llu MiB, channels up to %u and %llu MiB a user%s",
		info.out_abi_version, (unsigned long long)info.out_mem_bytes_max >> 20, info.out_chan_max,
		(unsigned long long)info.out_chan_bytes_max >> 20,
		info.out_caps & FH_CAP_DMA_MAP ? "; bus addresses are shown (unsafe_dma)" : "");
	return 0;
}
