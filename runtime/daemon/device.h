/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The kernel module, as the daemon uses it: whether its device is opened, and
 * what is said about it.
 */
#ifndef FH_DAEMON_DEVICE_H
#define FH_DAEMON_DEVICE_H

#include "runtime/base/region.h"
#include "runtime/daemon/config.h"

/*
 * With --channel dev the device must be there; with auto it is used if it is,
 * and the log says what was found.  *out is NULL where it is not used.  Before
 * the sandbox: afterwards nothing can be opened.
 */
int fhd_device_open(const struct fhd_config *cfg, struct fh_ctl **out, struct fh_err *err);

#endif /* FH_DAEMON_DEVICE_H */
