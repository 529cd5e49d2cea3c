// SPDX-License-Identifier: Apache-2.0
/* What the thread of the keys does for those who watch: it counts what tenants have used, and runs errands. */
#include "runtime/daemon/watch.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "runtime/base/log.h"
#include "runtime/trust/accounts.h"

/* ---- tenants ---- */

static int by_use(const void *a, const void *b)
{
	const struct fh_tenant_use *x = a, *y = b;

	if (x->tokens[FH_SPAN_DAY] != y->tokens[FH_SPAN_DAY])
		return x->tokens[FH_SPAN_DAY] < y->tokens[FH_SPAN_DAY] ? 1 : -1;
	return strcmp(x->name, y->name);
}

static void fill(const struct fhd_identity *i, uint32_t account, const char *name, struct fh_tenant_use *t)
{
	struct fh_account_use use = {0};

	*t = (struct fh_tenant_use){0};
	snprintf(t->name, sizeof(t->name), "%s", name);
	if (i->table && account < i->table->nr)
		t->limits = i->table->entry[account].own;
	if (!fhd_identity_use(i->engine, account, &use))
		return;
	memcpy(t->ends_s, use.ends_s, sizeof(t->ends_s));
	memcpy(t->tokens, use.tokens, sizeof(t->tokens));
	memcpy(t->money, use.money, sizeof(t->money));
	memcpy(t->requests, use.requests, sizeof(t->requests));
}

static struct fh_tenants *count(const struct fhd_identity *i)
{
	uint32_t nr = fh_accounts_nr(i->accounts);
	struct fh_tenants *t;
	const char *name;
	uint32_t nr_tenants = 0;

	for (uint32_t n = 1; n <= nr; n++)
		nr_tenants += fh_accounts_name(i->accounts, n, FH_BUDGET_TENANT) != NULL;
	t = calloc(1, sizeof(*t) + nr_tenants * sizeof(t->t[0]));
	for (uint32_t n = 1; t && n <= nr; n++)
		if ((name = fh_accounts_name(i->accounts, n, FH_BUDGET_TENANT)))
			fill(i, n, name, &t->t[t->nr++]);
	if (t)
		qsort(t->t, t->nr, sizeof(t->t[0]), by_use);
	return t;
}

struct fh_tenants *fhd_identity_tenants(struct fhd_identity *i)
{
	if (!i->accounts)
		return NULL;
	atomic_store(&i->tenants_wanted, true);
	return atomic_exchange(&i->tenants, NULL);
}

void fhd_watch_tick(struct fhd_identity *i, struct fh_keydb *db)
{
	fhd_errands_run(i, db);
	if (atomic_exchange(&i->tenants_wanted, false))
		free(atomic_exchange(&i->tenants, count(i)));
}

void fhd_watch_limits(struct fhd_identity *i, const struct fh_budget_table *t)
{
	size_t bytes = t ? sizeof(*t) + t->nr * sizeof(t->entry[0]) : 0;

	free(i->table);
	i->table = t ? malloc(bytes) : NULL;
	if (i->table)
		memcpy(i->table, t, bytes);
}
