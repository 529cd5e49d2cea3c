/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Budgets as data: what accounts may use, which accounts a request draws on, and
 * what it holds of them.  The arithmetic is runtime/sched/budget.h's; the names
 * behind accounts are runtime/trust's.
 *
 * Money is counted in millionths of a millionth of the currency, so that a price
 * with six digits after the point for a million tokens is a whole number a token.
 */
#ifndef FH_BASE_BUDGET_H
#define FH_BASE_BUDGET_H

#include <stdbool.h>
#include <stdint.h>

#define FH_MONEY_UNIT ((uint64_t)1000000000000) /* of one unit of the currency */

/* Calendar spans, in UTC; a total has no end. */
enum fh_budget_span { FH_SPAN_MINUTE, FH_SPAN_DAY, FH_SPAN_MONTH, FH_SPAN_TOTAL, FH_NR_SPANS };

/* When the span that @now_s, Unix time, lies in ends; UINT64_MAX: never. */
uint64_t fh_span_end(enum fh_budget_span span, uint64_t now_s);

enum fh_budget_kind { FH_BUDGET_TENANT, FH_BUDGET_USER, FH_BUDGET_KEY, FH_BUDGET_RUN, FH_NR_BUDGET_KINDS };

enum fh_budget_what {
	FH_BUDGET_TOKENS,
	FH_BUDGET_MONEY,
	FH_BUDGET_REQUESTS,
	FH_BUDGET_CONCURRENT,
	FH_BUDGET_DEPTH,
	FH_BUDGET_RUNS, /* not a limit of anybody's: too many runs are under way at once */
};

/* 0: no limit. */
struct fh_budget_limits {
	uint64_t tokens[FH_NR_SPANS], money[FH_NR_SPANS], requests[FH_NR_SPANS];
	uint32_t concurrent;   /* sequences that wait or run */
	uint32_t soft_percent; /* of a limit: beyond it a warning is given; 0: none */
};

struct fh_budget_entry {
	struct fh_budget_limits own;
	/* A tenant's: of each of its agent runs. */
	struct fh_budget_limits run;
	uint32_t run_depth; /* 0: no limit */
};

/* Money a token. */
struct fh_prices {
	uint64_t prompt, cached, completion;
	uint64_t reasoning; /* a completion token that is a thought */
};

/* All limits, by account; immutable.  Accounts beyond nr have none. */
struct fh_budget_table {
	struct fh_prices prices;
	uint32_t nr;
	struct fh_budget_entry entry[];
};

/* What a request draws on.  Zero: nothing. */
struct fh_budget_ask {
	uint32_t account[FH_BUDGET_RUN]; /* by enum fh_budget_kind, less the run, which fh_request.run_id names; 0: none
					  */
	uint32_t run_depth;		 /* how deep in the run's tree of agents it is asked */
	bool prompt_paid;		 /* another request of the same call pays for the prompt, and is counted */
};

/* Why it was refused, or what it was warned of. */
struct fh_budget_word {
	uint8_t kind, what, span; /* enums of above */
	bool never;		  /* refused: trying again is of no use */
	uint32_t percent;	  /* used or held of the limit; 0: nothing is to be said */
	uint32_t retry_s;	  /* refused: when the budget returns */
};

/*
 * What was charged, and when: for the audit log, from which usage can be counted
 * again.  A piece is what came within a minute, the last one; pieces before it
 * are put together by the hour, because of minutes that are over nobody asks.
 */
struct fh_budget_piece {
	uint64_t minute;				      /* since 1970, UTC */
	uint64_t requests, prompt, cached, completion, money; /* cached: of prompt */
	uint64_t reasoning;				      /* of completion: thoughts */
};

#define FH_BUDGET_PIECES 8 /* beyond that the oldest are put together, as if they had come last */

struct fh_budget_charge {
	uint8_t payers; /* a bit an enum fh_budget_kind; 0: nobody pays, and there are no pieces */
	uint8_t nr;
	struct fh_budget_piece piece[FH_BUDGET_PIECES]; /* [nr], from the oldest on */
};

/* The piece that what is charged at @now_s, Unix time, belongs to. */
struct fh_budget_piece *fh_charge_now(struct fh_budget_charge *c, uint64_t now_s);
/* Add @more to @sum: of several requests of one call. */
void fh_charge_add(struct fh_budget_charge *sum, const struct fh_budget_charge *more);

/* What a request that has ended was charged, and of which agent run it was: the engine's word to whoever keeps usage.
 */
struct fh_run_use {
	uint8_t id[16];
	uint32_t tenant;	  /* account */
	uint32_t depth;		  /* in the run's tree of agents */
	uint64_t first_s, last_s; /* Unix time: when it began and ended */
	uint64_t requests, prompt, cached, completion, reasoning, money;
};

struct fh_budget_account;

/* What it holds: the scheduler's. */
struct fh_budget_hold {
	struct fh_budget_account *of[FH_NR_BUDGET_KINDS];
	uint8_t kind[FH_NR_BUDGET_KINDS];
	uint8_t nr;
	bool prompt_due; /* nr_prompt is held and not used yet */
	uint32_t nr_prompt;
	uint32_t ahead; /* tokens that are held and not drawn yet */
	uint32_t left;	/* that may be asked for beyond those */
	uint32_t tenant;
	uint64_t began_s;		/* Unix time */
	struct fh_prices prices;	/* as of its beginning */
	struct fh_budget_charge charge; /* stays when it has left */
};

#endif /* FH_BASE_BUDGET_H */
