// SPDX-License-Identifier: Apache-2.0
/* Budgets as HTTP has them: the run that a request names, refusals, and warnings in the header. */
#include <sodium.h>
#include <stdio.h>
#include <string.h>

#include "runtime/net/http_priv.h"

static const char *const kinds[] = {"tenant", "user", "key", "run"};
static const char *const spans[] = {"/minute", "/day", "/month", ""};
static const char *const whats[] = {"tokens", "money", "requests", "concurrent", "depth", "runs"};

void fh_conn_run(struct fh_conn *c)
{
	const struct fh_span *run = &c->head.run_id;

	memset(c->run_id, 0, sizeof(c->run_id));
	/* Any text becomes a number: who finds two of one number has found his own two runs. */
	if (run->n)
		crypto_generichash(c->run_id, sizeof(c->run_id), (const unsigned char *)run->p, run->n, NULL, 0);
}

void fh_call_budget(struct fh_call *call, const struct fh_conn *c)
{
	memcpy(call->budget.account, c->grant.account, sizeof(call->budget.account));
	call->budget.run_depth = c->head.run_depth;
	memcpy(call->run_id, c->run_id, sizeof(call->run_id));
}

static void name_limit(const struct fh_budget_word *w, char out[64])
{
	bool spanned = w->what <= FH_BUDGET_REQUESTS;

	snprintf(out, 64, "%s %s%s", kinds[w->kind], whats[w->what], spanned ? spans[w->span] : "");
}

const char *fh_budget_refusal(const struct fh_budget_word *w, char *what, size_t cap, uint32_t *retry_ms)
{
	char limit[64];

	name_limit(w, limit);
	*retry_ms = w->never ? FH_RETRY_NEVER : w->retry_s * 1000u;
	if (w->what == FH_BUDGET_DEPTH)
		snprintf(what, cap, "This agent run is deeper than its tenant allows (%s).", limit);
	else if (w->never)
		snprintf(what, cap, "This request does not fit into the budget (%s), now or later.", limit);
	else
		snprintf(what, cap, "The budget is used up (%s). It returns in %u s.", limit, w->retry_s);
	return w->what <= FH_BUDGET_MONEY ? "insufficient_quota" : "rate_limit_exceeded";
}

void fh_conn_notice(struct fh_conn *c, const struct fh_budget_word *w)
{
	char limit[64];

	name_limit(w, limit);
	snprintf(c->notice, sizeof(c->notice), "X-Freehold-Budget-Warning: %s %u%%\r\n", limit, w->percent);
}
