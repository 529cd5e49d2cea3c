/* SPDX-License-Identifier: Apache-2.0 */
/* The daemon: start-up order, signals, shut-down order. */
#ifndef FH_DAEMON_DAEMON_H
#define FH_DAEMON_DAEMON_H

#include "runtime/base/err.h"
#include "runtime/daemon/config.h"

/*
 * Serve until SIGTERM or SIGINT; a second one of them ends the process at once,
 * SIGHUP reads the key file again.  0 after an orderly end, else -errno with @err.
 */
int fhd_daemon_run(const struct fhd_config *cfg, struct fh_err *err);

#endif /* FH_DAEMON_DAEMON_H */
