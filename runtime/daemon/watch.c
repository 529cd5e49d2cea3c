// SPDX-License-Identifier: Apache-2.0
/* What the thread of the keys does for those who watch: it lists the tenants, and runs errands. */
#include "runtime/daemon/watch.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "runtime/base/log.h"
#include "runtime/engine/engine.h"
#include "runtime/trust/accounts.h"

/* ---- tenants ---- */

/*
 * Names and limits, which are this thread's, go to the front end's as a list when
 * they change.  What was used is read there, at the moment that it is shown.
 */
struct fhd_tenants {
	uint32_t nr;
	struct listed {
		uint32_t account;
		char name[FH_IDENTITY_NAME_MAX + 1];
		struct fh_budget_limits limits;
	} t[]; /* by name */
};

static int by_name(const void *a, const void *b)
{
	return strcmp(((const struct listed *)a)->name, ((const struct listed *)b)->name);
}

static struct fhd_tenants *list_tenants(const struct fhd_identity *i, uint32_t nr)
{
	uint32_t nr_tenants = 0;
	struct fhd_tenants *t;
	const char *name;

	for (uint32_t n = 1; n <= nr; n++)
		nr_tenants += fh_accounts_name(i->accounts, n, FH_BUDGET_TENANT) != NULL;
	t = calloc(1, sizeof(*t) + nr_tenants * sizeof(t->t[0]));
	for (uint32_t n = 1; t && n <= nr; n++) {
		struct listed *l;

		name = fh_accounts_name(i->accounts, n, FH_BUDGET_TENANT);
		if (!name)
			continue;
		l = &t->t[t->nr++];
		l->account = n;
		snprintf(l->name, sizeof(l->name), "%s", name);
		if (i->table && n < i->table->nr)
			l->limits = i->table->entry[n].own;
	}
	if (t)
		qsort(t->t, t->nr, sizeof(t->t[0]), by_name);
	return t;
}

void fhd_watch_list(struct fhd_identity *i)
{
	uint32_t nr = fh_accounts_nr(i->accounts);
	struct fhd_tenants *t;

	if (nr == i->nr_listed && !i->table_is_new)
		return;
	t = list_tenants(i, nr);
	if (!t)
		return; /* the next time, perhaps */
	i->nr_listed = nr;
	i->table_is_new = false;
	free(atomic_exchange(&i->tenants, t));
}

/* The list as it is now; on the front end's thread. */
static const struct fhd_tenants *listed(struct fhd_identity *i)
{
	struct fhd_tenants *t = atomic_exchange(&i->tenants, NULL);

	if (t) {
		free(i->shown);
		i->shown = t;
	}
	return i->shown;
}

static void fill(const struct fhd_identity *i, const struct listed *l, struct fh_tenant_use *t)
{
	struct fh_account_use use = {0};

	*t = (struct fh_tenant_use){.limits = l->limits};
	snprintf(t->name, sizeof(t->name), "%s", l->name);
	if (!fhd_identity_use(i->engine, l->account, &use))
		return;
	memcpy(t->ends_s, use.ends_s, sizeof(t->ends_s));
	memcpy(t->tokens, use.tokens, sizeof(t->tokens));
	memcpy(t->money, use.money, sizeof(t->money));
	memcpy(t->requests, use.requests, sizeof(t->requests));
	t->uj = fh_accounts_energy_uj(i->accounts, l->account);
}

/* Its tokens of today: all that is read of those that are not shown. */
static uint64_t today(const struct fhd_identity *i, const struct listed *l, uint64_t now_s)
{
	const struct fh_budget_account *a = fh_engine_account(i->engine, l->account);

	if (!a || atomic_load_explicit(&a->ends_s[FH_SPAN_DAY], memory_order_relaxed) <= now_s)
		return 0;
	return atomic_load_explicit(&a->tokens[FH_SPAN_DAY], memory_order_relaxed);
}

#define MAX_SHOWN 128

uint32_t fhd_identity_tenants(struct fhd_identity *i, struct fh_tenant_use *out, uint32_t max)
{
	struct {
		uint64_t tokens;
		const struct listed *l;
	} top[MAX_SHOWN];
	const struct fhd_tenants *t = i->accounts && i->engine ? listed(i) : NULL;
	uint64_t now_s = (uint64_t)time(NULL);
	uint32_t nr = 0;

	max = max < MAX_SHOWN ? max : MAX_SHOWN;
	for (uint32_t n = 0; t && n < t->nr; n++) {
		uint64_t tokens = today(i, &t->t[n], now_s);
		uint32_t at;

		if (nr == max && (!max || tokens <= top[nr - 1].tokens))
			continue;
		for (at = nr < max ? nr++ : nr - 1; at && top[at - 1].tokens < tokens; at--)
			top[at] = top[at - 1];
		top[at].tokens = tokens;
		top[at].l = &t->t[n];
	}
	for (uint32_t n = 0; n < nr; n++)
		fill(i, top[n].l, &out[n]);
	return nr;
}

bool fhd_identity_tenant(struct fhd_identity *i, uint32_t account, struct fh_tenant_use *out)
{
	const struct fhd_tenants *t = i->accounts && i->engine ? listed(i) : NULL;

	for (uint32_t n = 0; t && n < t->nr; n++) {
		if (t->t[n].account != account)
			continue;
		fill(i, &t->t[n], out);
		return true;
	}
	return false;
}

static double share(uint64_t used, uint64_t limit)
{
	return limit ? (double)used / (double)limit : 0;
}

void fhd_identity_metrics(struct fhd_identity *i, FILE *out)
{
	static const char *const names[FH_NR_SPANS] = {"minute", "day", "month", "total"};
	const struct fhd_tenants *t = i->accounts && i->engine ? listed(i) : NULL;
	uint64_t now_s = (uint64_t)time(NULL);
	double most[FH_NR_SPANS] = {0};

	for (uint32_t n = 0; t && n < t->nr; n++) {
		const struct fh_budget_limits *l = &t->t[n].limits;
		struct fh_account_use u = {0};

		if (!fhd_identity_use(i->engine, t->t[n].account, &u))
			continue;
		for (int s = FH_SPAN_DAY; s < FH_NR_SPANS; s++) {
			const double shares[] = {share(u.tokens[s], l->tokens[s]), share(u.money[s], l->money[s]),
						 share(u.requests[s], l->requests[s])};

			for (int k = 0; k < 3 && u.ends_s[s] > now_s; k++)
				most[s] = shares[k] > most[s] ? shares[k] : most[s];
		}
	}
	if (!t)
		return;
	fprintf(out, "# HELP freehold_budget_used_ratio Of the tenant's limit that is nearest to its end.\n"
		     "# TYPE freehold_budget_used_ratio gauge\n");
	for (int s = FH_SPAN_DAY; s < FH_NR_SPANS; s++)
		fprintf(out, "freehold_budget_used_ratio{span=\"%s\"} %.6g\n", names[s], most[s]);
}

void fhd_watch_tick(struct fhd_identity *i, struct fh_keydb *db)
{
	fhd_errands_run(i, db);
	fhd_watch_list(i);
}

void fhd_watch_limits(struct fhd_identity *i, const struct fh_budget_table *t)
{
	size_t bytes = t ? sizeof(*t) + t->nr * sizeof(t->entry[0]) : 0;

	free(i->table);
	i->table = t ? malloc(bytes) : NULL;
	if (i->table)
		memcpy(i->table, t, bytes);
	i->table_is_new = true;
}
