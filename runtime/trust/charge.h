/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What a request was charged, as its END has it.
 *
 * FH_RN_PAYERS says whose budgets paid: of the tenant, the user, the key and the
 * run that its BEGIN names.  What they paid is mostly said by then: one request,
 * the prompt of the BEGIN, cached tokens and generated ones, all in the minute
 * that the END is of, and FH_RN_MONEY.  Where any of that is otherwise,
 * FH_RS_CHARGES has it, piece by piece (base/budget.h), and FH_RN_MONEY is not
 * there: of each piece the minute since 1970, requests, prompt, cached,
 * completion and money, as varints.  A REFUSED that was counted before its prompt
 * was read says the same of itself; its prompt is 0.
 *
 * FH_RN_NR_REASONING says how many of the completion's tokens were thoughts; where
 * they came in more than one piece, FH_RS_THOUGHTS has a varint for each piece.  An
 * END of a version that did not say so (its START has no FH_RF_THOUGHTS) has none.
 */
#ifndef FH_TRUST_CHARGE_H
#define FH_TRUST_CHARGE_H

#include "runtime/base/budget.h"
#include "runtime/trust/record.h"

#define FH_CHARGE_BYTES (FH_BUDGET_PIECES * 7 * 10)

/*
 * Put @c into the END @r, whose time, NR_GENERATED and NR_CACHED are set, of a
 * BEGIN with @nr_prompt.  @buf: for what @r then borrows.
 */
void fh_charge_put(const struct fh_budget_charge *c, uint64_t nr_prompt, struct fh_record *r,
		   uint8_t buf[FH_CHARGE_BYTES]);
/* Read it. 0; -EINVAL: that is no charge. Payers 0: nobody paid, or the END is of a version that did not say. */
int fh_charge_get(const struct fh_record *end, uint64_t nr_prompt, struct fh_budget_charge *c);

#endif /* FH_TRUST_CHARGE_H */
