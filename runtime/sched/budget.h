/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The meter: who has used how much, and may this be used, too?
 *
 * Pure functions of state and time, on one thread (the engine's), so that what is
 * counted is exact however many requests run at once: a request holds what it may
 * use next, each token that is drawn turns a held one into a used one, and what is
 * left is given back at its end.  At every moment, for every account and span,
 *
 *     used + held <= limit
 *
 * unless the limit was lowered below what was used before.  What a token will be,
 * a thought or not, is not known before it is drawn: the dearer of the two is held.  A request holds its
 * prompt and at most FH_BUDGET_AHEAD tokens of its answer, and takes more as it
 * goes: so a long answer does not lock others out, and its last token is the very
 * last that the budget allows; of a budget of money where thoughts have another
 * price, less than the dearer token's price may be left.
 *
 * Counters of use are read by other threads; nothing else is.
 */
#ifndef FH_SCHED_BUDGET_H
#define FH_SCHED_BUDGET_H

#include <stdatomic.h>

#include "runtime/base/budget.h"

#define FH_BUDGET_AHEAD 256u /* tokens of an answer that are held before they are drawn */

struct fh_budget_account {
	/* Used in the span that is running; of FH_SPAN_TOTAL ever. */
	_Atomic uint64_t tokens[FH_NR_SPANS], money[FH_NR_SPANS], requests[FH_NR_SPANS];
	_Atomic uint64_t ends_s[FH_NR_SPANS]; /* Unix time; 0: nothing was used yet */
	/* Ever, by what it was. */
	_Atomic uint64_t prompt, cached, completion;
	_Atomic uint64_t reasoning; /* of completion: thoughts */
	/* Of a tenant: what requests of agent runs were charged, ever; added when they end. */
	struct fh_budget_in_runs {
		_Atomic uint64_t requests, prompt, cached, completion, reasoning, money;
	} in_runs;
	uint64_t held_tokens, held_money;
	uint32_t nr_inside;
};

/* One agent run, while it is remembered. */
struct fh_budget_run {
	/* For other threads: odd while the slot becomes another run's; 0: it was never used. */
	_Atomic uint32_t turn, shown_tenant;
	_Atomic uint64_t shown_id[2];
	uint8_t id[16];
	uint32_t tenant;		       /* account */
	uint32_t next;			       /* in its bucket; by number + 1 */
	struct fh_budget_run *older, *younger; /* in order of last use */
	struct fh_budget_account account;
};

/* Everything that it remembers; the arrays are the caller's. */
struct fh_budget_book {
	const struct fh_budget_table *table; /* NULL: no limits */
	struct fh_budget_account *account;   /* [nr_accounts]; the first is nobody's */
	uint32_t nr_accounts;
	struct fh_budget_run *run; /* [nr_runs] */
	uint32_t *bucket;	   /* [nr_runs], a power of two */
	uint32_t nr_runs, nr_runs_used;
	struct fh_budget_run *oldest, *youngest;
};

/* @account [nr_accounts], @run [nr_runs], @bucket [nr_runs], all zero; nr_runs: a power of two, or 0. */
void fh_budget_init(struct fh_budget_book *b, struct fh_budget_account *account, uint32_t nr_accounts,
		    struct fh_budget_run *run, uint32_t *bucket, uint32_t nr_runs);

/*
 * May it begin?  @max_tokens: of its answer; 0: it has none.  True: @h holds what
 * it needs to begin, and must be given to fh_budget_leave() at its end; @word
 * has a percentage if somebody should be warned.  False: nothing was taken, and
 * @word says why.  @run_id: [16], zeros for none.  @now_s: Unix time.
 */
bool fh_budget_enter(struct fh_budget_book *b, const struct fh_budget_ask *ask, const uint8_t *run_id,
		     uint32_t nr_prompt, uint32_t max_tokens, uint64_t now_s, struct fh_budget_hold *h,
		     struct fh_budget_word *word);
/* Its prompt has been read, @nr_cached tokens of it without computing. Once; a second call does nothing. */
void fh_budget_prompt(struct fh_budget_book *b, struct fh_budget_hold *h, uint32_t nr_cached, uint64_t now_s);
/* A token was drawn, a @thought or one of the answer.  False: it was the last one. */
bool fh_budget_token(struct fh_budget_book *b, struct fh_budget_hold *h, bool thought, uint64_t now_s);
/* Give back what was not used; what was charged stays in h->charge. A second call does nothing. */
void fh_budget_leave(struct fh_budget_book *b, struct fh_budget_hold *h);

/* A run as another thread sees it. */
struct fh_run_live {
	uint8_t id[16];
	uint32_t tenant, turn; /* account; changes when the slot becomes another run's */
	uint64_t tokens;       /* computed, ever: read and not cached, or drawn */
};
/* Any thread.  False: no run was ever in slot @i, nor in those after it.  Turn 0: look again, it is being changed. */
bool fh_budget_run_live(const struct fh_budget_book *b, uint32_t i, struct fh_run_live *out);

/* What @h was charged, before fh_budget_leave().  False: it is of no run. */
bool fh_budget_run_use(const struct fh_budget_hold *h, const uint8_t *run_id, uint32_t depth, uint64_t now_s,
		       struct fh_run_use *out);

/* What was used before, from a record: added where its span is still running. Before anything is entered. */
void fh_budget_restore(struct fh_budget_book *b, uint32_t account, enum fh_budget_span span, uint64_t ends_s,
		       uint64_t tokens, uint64_t money, uint64_t requests, uint64_t now_s);

#endif /* FH_SCHED_BUDGET_H */
