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

struct fh_vitals {
	/* Levels. */
	uint32_t nr_running, nr_waiting, max_running, max_waiting;
	uint32_t nr_blocks, nr_blocks_free, nr_blocks_cached;
	/* Counters since the start. */
	uint64_t prompt_tokens, cached_tokens, generated_tokens;
	uint64_t finished[8];		      /* by enum fh_finish */
	uint64_t refused[FH_VITALS_REFUSALS]; /* by fh_refusal_names[] */
	uint64_t ttft_kept, ttft_missed, tpot_kept, tpot_missed;
	uint64_t guesses, guesses_right;
	struct fh_hist_view ttft, itl;
	/* Settings: deadlines by enum fh_class, 0: none; what tokens cost, zeros: nothing. */
	uint32_t ttft_us[FH_VITALS_CLASSES], tpot_us[FH_VITALS_CLASSES];
	struct fh_prices prices;
	struct fh_vitals_audit audit;
};

static const char *const fh_refusal_names[FH_VITALS_REFUSALS] = {"queue_full", "budget", "ttft", "tpot", "others"};

/* What a tenant has used of what it may; spans that are over count as unused. */
struct fh_tenant_use {
	char name[FH_IDENTITY_NAME_MAX + 1];
	struct fh_budget_limits limits;
	uint64_t ends_s[FH_NR_SPANS];
	uint64_t tokens[FH_NR_SPANS], money[FH_NR_SPANS], requests[FH_NR_SPANS];
};

/* All tenants, those that used most today first; immutable, malloc'ed. */
struct fh_tenants {
	uint32_t nr;
	struct fh_tenant_use t[];
};

#endif /* FH_BASE_VITALS_H */
