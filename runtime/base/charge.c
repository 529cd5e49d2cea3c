// SPDX-License-Identifier: Apache-2.0
/* The calendar of budgets, and what a request was charged, minute by minute.  See budget.h. */
#include <string.h>

#include "runtime/base/budget.h"

/* The first day of the month after that of @day, both in days since 1970 (after Hinnant, "chrono-compatible low-level
 * date algorithms"). */
static uint64_t month_end(uint64_t day)
{
	uint64_t z = day + 719468, era = z / 146097, doe = z - era * 146097;
	uint64_t yoe = (doe - doe / 1460 + doe / 36524 - doe / 146096) / 365, doy, mp, y, m;

	doy = doe - (365 * yoe + yoe / 4 - yoe / 100);
	mp = (5 * doy + 2) / 153 + 1; /* of the month after it, from March = 0 */
	y = yoe + era * 400 + (mp == 12);
	m = mp % 12;
	return y / 400 * 146097 + (y % 400) * 365 + y % 400 / 4 - y % 400 / 100 + (153 * m + 2) / 5 - 719468;
}

uint64_t fh_span_end(enum fh_budget_span span, uint64_t now_s)
{
	switch (span) {
	case FH_SPAN_MINUTE: return now_s - now_s % 60 + 60;
	case FH_SPAN_DAY: return now_s - now_s % 86400 + 86400;
	case FH_SPAN_MONTH: return month_end(now_s / 86400) * 86400;
	default: return UINT64_MAX;
	}
}

/* ---- charges ---- */

static void add_piece(struct fh_budget_piece *to, const struct fh_budget_piece *p)
{
	to->requests += p->requests;
	to->prompt += p->prompt;
	to->cached += p->cached;
	to->completion += p->completion;
	to->money += p->money;
	to->reasoning += p->reasoning;
}

/* Piece @i and the one after it become one, of the later minute. */
static void join(struct fh_budget_charge *c, uint32_t i)
{
	add_piece(&c->piece[i + 1], &c->piece[i]);
	c->nr--;
	memmove(&c->piece[i], &c->piece[i + 1], (c->nr - i) * sizeof(c->piece[0]));
}

/* Only of the last minute it matters which it is; of those before it, which hour it lay in. */
static void put_in(struct fh_budget_charge *c, const struct fh_budget_piece *p)
{
	uint32_t i = c->nr;

	while (i && c->piece[i - 1].minute > p->minute)
		i--;
	if (i && c->piece[i - 1].minute == p->minute) {
		add_piece(&c->piece[i - 1], p);
		return;
	}
	/* The last one stays for itself, unless it is the last no more. */
	for (uint32_t k = 1; k + (i < c->nr) < c->nr; k++) {
		if (c->piece[k - 1].minute / 60 != c->piece[k].minute / 60)
			continue;
		join(c, k - 1);
		i -= i >= k;
		k--;
	}
	if (c->nr == FH_BUDGET_PIECES) {
		join(c, 0);
		i -= i > 0;
	}
	memmove(&c->piece[i + 1], &c->piece[i], (c->nr++ - i) * sizeof(c->piece[0]));
	c->piece[i] = *p;
}

void fh_charge_add(struct fh_budget_charge *sum, const struct fh_budget_charge *more)
{
	sum->payers |= more->payers;
	for (uint32_t i = 0; i < more->nr; i++)
		put_in(sum, &more->piece[i]);
}

struct fh_budget_piece *fh_charge_now(struct fh_budget_charge *c, uint64_t now_s)
{
	struct fh_budget_piece p = {.minute = now_s / 60};

	/* A clock that was set back begins no piece, as it begins no span. */
	if (!c->nr || c->piece[c->nr - 1].minute < p.minute)
		put_in(c, &p);
	return &c->piece[c->nr - 1];
}
