/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What steps cost, kept between runs in a small text file a model, a host and a
 * way to compute: the file's name is made of all that would make other costs.
 *
 * The file is opened before rights are given up and written through its
 * descriptor at the end, so that the confined process needs no folder.
 */
#ifndef FH_DAEMON_COSTS_H
#define FH_DAEMON_COSTS_H

#include "runtime/daemon/core.h"

#define FHD_COSTS_BYTES 2048 /* more than such a file has */

/* Open @c's file, if there is a place for it, and read it to @c->costs. Failing is only a debug message. */
void fhd_costs_open(struct fhd_core *c);
/* Write what the engine knows; before it is destroyed. */
void fhd_costs_save(struct fhd_core *c);
void fhd_costs_close(struct fhd_core *c);

#endif /* FH_DAEMON_COSTS_H */
