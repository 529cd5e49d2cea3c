/* SPDX-License-Identifier: Apache-2.0 */
/*
 * From counters to what people look at: rates, percentiles of the last minute,
 * money, as JSON.  Pure functions of samples and time, for the dashboard and
 * `freehold top`.
 *
 * Samples are taken about once a second while somebody watches.  A rate is the
 * difference to the sample before; percentiles are those of what came since the
 * youngest sample that is a minute old or older, at first since the start.
 */
#ifndef FH_NET_WATCH_H
#define FH_NET_WATCH_H

#include "runtime/base/vitals.h"
#include "runtime/net/buf.h"

#define FH_WATCH_SAMPLES 80
#define FH_WATCH_WINDOW_NS 60000000000ull
#define FH_WATCH_RATE_NS 10000000000ull /* what lies further apart gives no rate */
#define FH_WATCH_MAX_TENANTS 100	/* that are listed */

struct fh_watch_sample {
	uint64_t at_ns;
	struct fh_vitals v;
};

/* The first one, of zeros, is of the server's start. */
struct fh_watch {
	uint64_t begin_ns;
	uint64_t nr; /* taken ever; sample n lies at n % FH_WATCH_SAMPLES */
	struct fh_watch_sample sample[FH_WATCH_SAMPLES];
};

/* What does not come from counters. */
struct fh_watch_facts {
	const char *version, *model, *health;
	uint64_t time_ms; /* Unix time */
	uint32_t nr_viewers;
};

void fh_watch_begin(struct fh_watch *w, uint64_t now_ns);
void fh_watch_add(struct fh_watch *w, const struct fh_vitals *v, uint64_t now_ns);
/* When the newest one was taken. */
uint64_t fh_watch_at_ns(const struct fh_watch *w);

/* The newest sample as a JSON object without its last brace: members may follow. */
void fh_watch_json(const struct fh_watch *w, const struct fh_watch_facts *f, struct fh_buf *out);
/* An array of tenants, @t: [nr]; "null" without @t. */
void fh_watch_tenants_json(const struct fh_tenant_use *t, uint32_t nr, uint64_t now_s, struct fh_buf *out);

#endif /* FH_NET_WATCH_H */
