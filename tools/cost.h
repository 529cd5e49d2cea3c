/* SPDX-License-Identifier: Apache-2.0 */
/* freehold cost: what its two halves share. */
#ifndef FH_TOOLS_COST_H
#define FH_TOOLS_COST_H

#include "runtime/daemon/config.h"
#include "runtime/trust/keydb.h"

struct cost_args {
	char *keys, *by, *run, *tenant, *per, *from, *to, *rental, *config;
	struct fhd_host_cost host;
	bool json;
};

/* Unix time, from .. before to; from_s 0: since the first use. */
struct cost_span {
	uint64_t from_s, to_s;
};

/* The host's part of the server's settings in @path, or the defaults; an exit status, and what is wrong was said. */
int cost_read_config(const char *path, struct fhd_host_cost *out);
/* What agent runs used. @all: @span is all there ever was, so what has no row of its own is told, too. An exit status.
 */
int cost_runs(struct fh_keydb *db, const struct cost_args *a, const struct cost_span *span, bool all);
/* Owning and renting; an exit status. */
int cost_host(struct fh_keydb *db, const struct cost_args *a, const struct cost_span *span);

#endif /* FH_TOOLS_COST_H */
