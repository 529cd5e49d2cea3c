// SPDX-License-Identifier: Apache-2.0
/* Charges to records and back. */
#include "runtime/trust/charge.h"

#include <errno.h>

#define MINUTE_US 60000000u
#define NR_VALUES 6
/* Beyond these nothing is a charge: a minute of the year 10135, some 10^14 tokens, a million of the currency. */
#define MINUTE_MAX (UINT64_C(1) << 32)
#define COUNT_MAX (UINT64_C(1) << 48)
#define MONEY_MAX (UINT64_C(1) << 60)

static void spread(const struct fh_budget_piece *p, uint64_t v[NR_VALUES])
{
	v[0] = p->minute;
	v[1] = p->requests;
	v[2] = p->prompt;
	v[3] = p->cached;
	v[4] = p->completion;
	v[5] = p->money;
}

/* What an END says that has no CHARGES. */
static struct fh_budget_piece usual(const struct fh_record *end, uint64_t nr_prompt)
{
	return (struct fh_budget_piece){.minute = end->num[FH_RN_TIME_US] / MINUTE_US,
					.requests = 1,
					.prompt = nr_prompt,
					.cached = end->num[FH_RN_NR_CACHED],
					.completion = end->num[FH_RN_NR_GENERATED],
					.reasoning = end->num[FH_RN_NR_REASONING],
					.money = end->num[FH_RN_MONEY]};
}

void fh_charge_put(const struct fh_budget_charge *c, uint64_t nr_prompt, struct fh_record *r,
		   uint8_t buf[FH_CHARGE_BYTES])
{
	struct fh_budget_piece p;
	uint64_t v[NR_VALUES];
	size_t n = 0, begin;

	if (!c || !c->payers || !c->nr)
		return;
	r->num[FH_RN_PAYERS] = c->payers;
	r->num[FH_RN_MONEY] = c->piece[0].money;
	for (uint32_t i = 0; i < c->nr; i++)
		r->num[FH_RN_NR_REASONING] += c->piece[i].reasoning;
	p = usual(r, nr_prompt);
	if (c->nr == 1 && p.minute == c->piece[0].minute && c->piece[0].requests == 1 &&
	    p.prompt == c->piece[0].prompt && p.cached == c->piece[0].cached && p.completion == c->piece[0].completion)
		return;
	r->num[FH_RN_MONEY] = 0;
	for (uint32_t i = 0; i < c->nr; i++) {
		spread(&c->piece[i], v);
		for (int k = 0; k < NR_VALUES; k++)
			n += fh_varint_put(buf + n, v[k]);
	}
	fh_record_set_str(r, FH_RS_CHARGES, buf, n);
	if (c->nr == 1 || !r->num[FH_RN_NR_REASONING])
		return;
	begin = n;
	for (uint32_t i = 0; i < c->nr; i++)
		n += fh_varint_put(buf + n, c->piece[i].reasoning);
	fh_record_set_str(r, FH_RS_THOUGHTS, buf + begin, n - begin);
}

static bool makes_sense(const struct fh_budget_charge *c)
{
	for (uint32_t i = 0; i < c->nr; i++) {
		const struct fh_budget_piece *p = &c->piece[i];

		if (p->minute > MINUTE_MAX || p->requests > COUNT_MAX || p->prompt > COUNT_MAX ||
		    p->cached > p->prompt || p->completion > COUNT_MAX || p->money > MONEY_MAX ||
		    p->reasoning > p->completion || (i && p->minute <= c->piece[i - 1].minute))
			return false;
	}
	return true;
}

/* Of each piece, how much of it was thoughts. False: the END says nothing that makes sense of them. */
static bool get_thoughts(const struct fh_record *end, struct fh_budget_charge *c)
{
	const struct fh_record_bytes *b = &end->str[FH_RS_THOUGHTS - 64];
	uint64_t sum = 0;
	size_t at = 0;

	if (!b->n) {
		c->piece[0].reasoning = c->nr == 1 ? end->num[FH_RN_NR_REASONING] : 0;
		return c->nr == 1 || !end->num[FH_RN_NR_REASONING];
	}
	for (uint32_t i = 0; i < c->nr; i++) {
		size_t used = fh_varint_get(b->p + at, b->n - at, &c->piece[i].reasoning);

		if (!used || c->piece[i].reasoning > COUNT_MAX)
			return false;
		at += used;
		sum += c->piece[i].reasoning;
	}
	return at == b->n && sum == end->num[FH_RN_NR_REASONING];
}

int fh_charge_get(const struct fh_record *end, uint64_t nr_prompt, struct fh_budget_charge *c)
{
	const struct fh_record_bytes *b = &end->str[FH_RS_CHARGES - 64];
	uint64_t v[NR_VALUES];

	*c = (struct fh_budget_charge){.payers = (uint8_t)end->num[FH_RN_PAYERS]};
	if (!c->payers || end->num[FH_RN_PAYERS] >= 1u << FH_NR_BUDGET_KINDS)
		return end->num[FH_RN_PAYERS] || b->n ? -EINVAL : 0;
	if (!b->n) {
		c->piece[c->nr++] = usual(end, nr_prompt);
		return makes_sense(c) ? 0 : -EINVAL;
	}
	for (size_t at = 0; at < b->n; c->nr++) {
		if (c->nr == FH_BUDGET_PIECES)
			return -EINVAL;
		for (int k = 0; k < NR_VALUES; k++) {
			size_t used = fh_varint_get(b->p + at, b->n - at, &v[k]);

			if (!used)
				return -EINVAL;
			at += used;
		}
		c->piece[c->nr] = (struct fh_budget_piece){.minute = v[0],
							   .requests = v[1],
							   .prompt = v[2],
							   .cached = v[3],
							   .completion = v[4],
							   .money = v[5]};
	}
	return get_thoughts(end, c) && makes_sense(c) ? 0 : -EINVAL;
}
