/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The scheduler: who may enter, what the next step does, and who must yield.
 *
 * Pure functions of state and time: no clock, thread, socket or allocation, so
 * that the same code runs in the daemon, in tests and in a simulator.  Its view
 * of a sequence is flat and knows nothing of blocks, models or front ends.
 *
 * The policy, in short (Documentation/design/scheduling.md has the whole):
 *
 *   order      earliest deadline first; without one, a wish that the class says
 *   admission  who has a deadline enters only if it is predicted to be met, and
 *              nobody's who entered before is broken by it; else refused at once
 *   step       running sequences decode; prompts get what the earliest deadline
 *              of a next token leaves; the batch class gets the rest
 *   late       who cannot be on time any more goes behind those who can, for a
 *              few seconds, and keeps its place from then on
 *   margin     predictions are stretched by a factor that follows the share of
 *              deadlines that were missed, so that it stays below a target
 */
#ifndef FH_SCHED_SCHED_H
#define FH_SCHED_SCHED_H

#include <stdbool.h>
#include <stdint.h>

#include "runtime/base/request.h" /* enum fh_class */
#include "runtime/sched/cost.h"
#include "runtime/sched/queue.h"

#define FH_SCHED_CLASSES 3
#define FH_SCHED_BESIDE_NS 50000000u	     /* a step that also decodes, where no deadline says how long it may take */
#define FH_SCHED_LATE_NS 5000000000u	     /* who is late goes behind what is due within so long */
#define FH_SCHED_STARVE_NS 250000000u	     /* a prompt that waited so long goes on, whatever the slack */
#define FH_SCHED_STARVE_BATCH_NS 5000000000u /* likewise of the batch class, its decodes too */
#define FH_SCHED_PREFILL_LEAST 16	     /* tokens; fewer at a time are no use: they cost what one costs */

/* Deadlines of a class for requests that name none; 0: none. */
struct fh_sched_class {
	uint32_t ttft_us, tpot_us;
};

struct fh_sched_limits {
	uint32_t max_step_tokens; /* tokens in one step */
	uint32_t prefill_chunk;	  /* tokens of one prompt in one step */
	uint32_t max_seqs;	  /* that run together */
	uint32_t stall_us;	  /* a reader that took nothing for so long may lose its blocks to others */
	struct fh_sched_class class[FH_SCHED_CLASSES];
};

/* How much predictions are stretched. See fh_sched_kept(). */
struct fh_sched_margin {
	double factor;
	uint64_t nr_kept, nr_missed;
	uint32_t nr_refused; /* since a deadline was kept or missed, up to some */
};

/* Everything that it remembers. */
struct fh_sched {
	struct fh_sched_limits limits;
	struct fh_sched_cost cost;
	struct fh_sched_tenants tenants;
	struct fh_sched_margin ttft, tpot;
	double quantum_ns;     /* how long a step should take at most, for the shortest deadlines of late; 0: any */
	double mean_generated; /* tokens of an answer; 0: none has ended */
	double mean_tpot_ns;   /* of those admitted of late that have one; 0: none has */
};

/*
 * How long a step with prompts should take; huge: as long as it likes.  Never so
 * short that most of it would be spent on what every step costs.
 */
double fh_sched_quantum_ns(const struct fh_sched *s);
/*
 * How long a step that begins now should take at most so that tokens come evenly: as one of the mean TPOT would have
 * it, where who decodes would wait for longer; but prompts keep half of the time that @budget_ns, until somebody's next
 * token is due, leaves beside the @base_ns of the decodes.
 */
double fh_sched_even_ns(const struct fh_sched *s, double base_ns, double budget_ns);
#define FH_SCHED_HURRY 4 /* quanta that a step may take where a first token would be late otherwise */
/*
 * How many tokens an answer may still have of which at most @most are left (0: nobody knows): no more than twice the
 * mean.  FH_SCHED_NEVER where nothing is known.
 */
#define FH_SCHED_NEVER 1e15
double fh_sched_answer_left(const struct fh_sched *s, uint32_t most);
/* A chunk of a prompt as it is cut: whole tiles of the kernels, where there is one, else whole tokens. */
static inline double fh_sched_whole_chunk(double tokens)
{
	uint32_t n = tokens < 1e9 ? (uint32_t)(tokens > 0 ? tokens : 0) : 0;

	return tokens >= 1e9 ? 1e9 : n >= FH_SCHED_PREFILL_LEAST ? (double)(n & ~(FH_SCHED_PREFILL_LEAST - 1u)) : n;
}

void fh_sched_init(struct fh_sched *s, const struct fh_sched_limits *limits);

/* A sequence, as the scheduler sees it. */
struct fh_sched_seq {
	uint64_t key_ns, ticket; /* order of service */
	uint64_t due_ns;	 /* when its next token is due; 0: no deadline */
	uint64_t stalled_ns;	 /* since when its reader has had no room; 0: it has */
	uint64_t served_ns;	 /* when a step last did something for it, or when it began */
	uint32_t tpot_us;	 /* 0: no deadline */
	uint32_t nr_left;	 /* tokens to compute before the next one is drawn; 1: it decodes */
	uint32_t nr_context;	 /* tokens computed */
	uint32_t nr_held;	 /* blocks that it would give back */
	uint32_t nr_most;	 /* tokens that it may still draw; 0: nobody knows */
	uint32_t class;		 /* enum fh_class */
};

/* What a request asks of the scheduler. */
struct fh_sched_ask {
	uint64_t arrival_ns, ticket;
	uint32_t ttft_us, tpot_us; /* 0: the class's own; UINT32_MAX: none */
	uint32_t way_ns;	   /* what lies between the client and here, both ways */
	uint32_t class, tenant;
	uint32_t nr_prompt, nr_cached; /* the part of the prompt that is expected to be found */
	uint32_t nr_most;	       /* tokens of the answer, at most; 0: nobody knows */
	uint32_t ref;
};

/* Its place in the order, and its deadlines. */
void fh_sched_place(const struct fh_sched *s, const struct fh_sched_ask *ask, struct fh_sched_item *out);
/*
 * It was let in: its tenant is there, and steps become short enough for its
 * deadline.  Not before: who is refused must not make them short.  The tenant
 * leaves with fh_sched_tenant_leave().
 */
void fh_sched_entered(struct fh_sched *s, const struct fh_sched_item *item, uint64_t arrival_ns);

/* What runs and what waits, in order of service: the ground that a request is judged on. */
struct fh_sched_load {
	const struct fh_sched_seq *seqs; /* [nr_seqs] with slots, those that wait for blocks included */
	uint32_t nr_seqs;
	const struct fh_sched_queue *queue; /* without slots */
	uint64_t kv_free_tokens;	    /* room for keys and values that nobody holds */
	uint64_t now_ns;
};

enum fh_sched_verdict {
	FH_SCHED_ADMIT,
	FH_SCHED_NO_TTFT, /* its first token would be late */
	FH_SCHED_NO_TPOT, /* so many together cannot decode as fast as the strictest of them asks */
	FH_SCHED_BREAKS,  /* somebody who was admitted would be late */
};

/* "ttft", "tpot", "others", as metrics and logs name why somebody was refused; "" for FH_SCHED_ADMIT. */
const char *fh_sched_verdict_name(enum fh_sched_verdict v);

/*
 * May @item enter?  Requests without deadlines always may: they wait.  *first_ns: when its first token is predicted, 0:
 * nothing is known; *retry_us: with a refusal, when trying again may help.
 */
enum fh_sched_verdict fh_sched_admit(const struct fh_sched *s, const struct fh_sched_load *load,
				     const struct fh_sched_item *item, uint64_t *first_ns, uint32_t *retry_us);

/*
 * Whose turn it is to take a slot: a place in the queue, or its nr when nobody
 * may.  Requests without deadlines are held where one more that decodes would
 * break a running one's TPOT, until their wish has passed; the batch class
 * leaves an eighth of the slots to others.  @nr_free: slots.
 */
uint32_t fh_sched_next(const struct fh_sched *s, const struct fh_sched_load *load, uint32_t nr_free);

/*
 * Can its first token not be on time any more?  Then fh_sched_late_key() is its
 * place in the order from now on, and it has no deadline.
 */
bool fh_sched_is_late(const struct fh_sched *s, uint64_t due_ns, uint32_t nr_context, uint32_t nr_tokens,
		      uint64_t now_ns);
uint64_t fh_sched_late_key(uint64_t now_ns);

/*
 * When the next token of an answer is due of which one was drawn at @now_ns that
 * was due at @mean_due_ns, by the mean that was promised.  What it is behind is
 * caught up with, a quarter of a token's time with each: a price that is too low
 * for this answer would make each of its tokens a little late.  What it is ahead is
 * not used up.
 */
uint64_t fh_sched_next_due(uint64_t now_ns, uint64_t mean_due_ns, uint32_t tpot_us);

/*
 * Plan a step.  @seqs: [nr], the running sequences in order of service.
 * take[i]: how many of seqs[i].nr_left are computed; 0 for those without
 * credit.  @turn: a number that grows with each step, so that no sequence is
 * left out for ever where more decode than the budget holds.  Returns the sum.
 */
uint32_t fh_sched_plan(const struct fh_sched *s, const struct fh_sched_seq *seqs, uint32_t nr, uint64_t turn,
		       uint64_t now_ns, uint32_t *take);

/* What the planned step does, for the cost model. take[i] of seqs[i], and @nr_guesses. */
void fh_sched_work_of(const struct fh_sched_cost *c, const struct fh_sched_seq *seqs, const uint32_t *take, uint32_t nr,
		      uint32_t nr_guesses, struct fh_sched_work *out);

/*
 * Who gives up its blocks when they run out: of those whose reader has stalled
 * for long the last in order, else the last of all that have no deadline, else
 * the last.  Index, or @nr when nobody holds any.  With @stalled_only only the
 * first kind.
 */
uint32_t fh_sched_victim(const struct fh_sched *s, const struct fh_sched_seq *seqs, uint32_t nr, bool stalled_only,
			 uint64_t now_ns);

/*
 * Who gives up its blocks so that a request that is due at @due_ns can begin:
 * the last in order without a deadline that goes behind it; @nr: nobody, or it
 * is not that urgent.
 */
uint32_t fh_sched_yields(const struct fh_sched *s, const struct fh_sched_seq *seqs, uint32_t nr, uint64_t due_ns,
			 uint32_t nr_tokens, uint64_t now_ns);

/*
 * What was promised for so long took so long (of one unit); was it kept?  The margin grows with each that is missed and
 * shrinks a little with each that is kept, so that in the long run one in
 * FH_SCHED_MISS_ONE_IN is missed, and none where nothing is near its limit.  What
 * is a quarter and more too late was held up by something that no prediction
 * knows: a larger margin would refuse others and not prevent the next time.
 */
#define FH_SCHED_MISS_ONE_IN 400
bool fh_sched_kept(struct fh_sched_margin *m, double took, double promised);
/* Somebody was refused: after many in a row, margins shrink, or one that lets nobody in would stay for ever. */
void fh_sched_refused(struct fh_sched *s);

/* An answer ended after so many tokens. */
void fh_sched_ended(struct fh_sched *s, uint32_t nr_generated);

/* How fast requests leave: an average that follows the last few dozen. Zero-fill to begin. */
struct fh_sched_rate {
	double interval_ns; /* between two departures */
	uint64_t last_ns;
};

/* A request was finished, or nobody was waiting (@idle) so that the time until the next one says nothing. */
void fh_sched_departed(struct fh_sched_rate *rate, uint64_t now_ns, bool idle);

/* When a refused client should come back: half of the @nr_waiting will have left. 1 ms to 60 s. */
uint32_t fh_sched_retry_ms(const struct fh_sched_rate *rate, uint32_t nr_waiting);

#endif /* FH_SCHED_SCHED_H */
