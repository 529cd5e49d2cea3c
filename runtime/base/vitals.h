/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What a server tells those who watch it: plain numbers, read from counters
 * without a lock, about once a second and only while somebody watches.
 *
 * The daemon fills them in (struct fh_service), the HTTP front end makes rates
 * and JSON of them, so that net/ includes neither engine nor trust headers.
 */
#ifndef FH_BASE_VITALS_H
#define FH_BASE_VITALS_H

#include "runtime/base/budget.h"
#include "runtime/base/hist.h"
#include "runtime/base/identity.h"

#define FH_VITALS_CLASSES 3
#define FH_VITALS_REFUSALS 5

struct fh_vitals_audit {
	bool on, strict;
	int error;	       /* 0, or why the log cannot be written */
	uint64_t nr_entries;   /* appended */
	uint64_t nr_durable;   /* of them, on the disk */
	uint64_t nr_published; /* of them, under the signed head */
	uint64_t nr_lost;
	uint8_t root[32]; /* the head's, if nr_published is not 0 */
};

/* What the host has measured since the start, in millionths of a joule; see runtime/daemon/energy.h. */
struct fh_vitals_energy {
	bool on;
	uint64_t busy_uj, idle_uj; /* while the engine computed, and while it did not */
	uint64_t busy_ns, idle_ns; /* for how long that was */
	uint64_t cpu_uj, gpu_uj;   /* the same, by what took it */
};

/* What the host costs, in the currency of the prices. */
struct fh_vitals_host {
	bool on;
	double hour;		 /* hardware, place and people, an hour */
	double watts, kwh_price; /* watts: that it takes, where nothing is measured */
	double overhead;	 /* what leaves the socket, in terms of what is measured */
};

struct fh_vitals {
	/* Levels. */
	uint32_t nr_running, nr_waiting, max_running, max_waiting;
	uint32_t nr_blocks, nr_blocks_free, nr_blocks_cached;
	/* Counters since the start. */
	uint64_t prompt_tokens, cached_tokens, generated_tokens;
	uint64_t reasoning_tokens;	      /* of those generated */
	uint64_t finished[8];		      /* by enum fh_finish */
	uint64_t refused[FH_VITALS_REFUSALS]; /* by fh_refusal_names[] */
	uint64_t ttft_kept, ttft_missed, tpot_kept, tpot_missed;
	uint64_t guesses, guesses_right;
	struct fh_hist_view ttft, itl;
	/* Settings: deadlines by enum fh_class, 0: none; what tokens cost, zeros: nothing. */
	uint32_t ttft_us[FH_VITALS_CLASSES], tpot_us[FH_VITALS_CLASSES];
	struct fh_prices prices;
	struct fh_vitals_audit audit;
	struct fh_vitals_energy energy;
	struct fh_vitals_host host;
};

static const char *const fh_refusal_names[FH_VITALS_REFUSALS] = {"queue_full", "budget", "ttft", "tpot", "others"};

/* What a tenant has used of what it may; spans that are over count as unused. */
struct fh_tenant_use {
	char name[FH_IDENTITY_NAME_MAX + 1];
	struct fh_budget_limits limits;
	uint64_t ends_s[FH_NR_SPANS];
	uint64_t tokens[FH_NR_SPANS], money[FH_NR_SPANS], requests[FH_NR_SPANS];
	uint64_t uj; /* its share of the busy energy since the start */
};

#endif /* FH_BASE_VITALS_H */
