/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The engine: sequences, paged KV, prefix cache and the step loop.
 *
 * One thread runs it, which also computes.  Front ends reach it through their
 * two queues (runtime/base/request.h) and nothing else.  After creation it
 * allocates nothing on the hot path.
 *
 * Counters that prove the absence of leaks: at rest, nr_blocks_free +
 * nr_blocks_cached == nr_blocks and every sequence slot is free.
 */
#ifndef FH_ENGINE_ENGINE_H
#define FH_ENGINE_ENGINE_H

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

#include "runtime/accel/accel.h"
#include "runtime/base/err.h"
#include "runtime/base/request.h"
#include "runtime/base/vitals.h"
#include "runtime/model/tokenizer.h"
#include "runtime/sched/budget.h"
#include "runtime/sched/sched.h"

struct fh_engine;

#define FH_MAX_FRONTENDS 8
#define FH_SPEC_MAX 16 /* guesses of one sequence in a step */

struct fh_engine_config {
	struct fh_accel *accel;		/* loaded, KV allocated; borrowed */
	const struct fh_tokenizer *tok; /* for stop strings and EOG; borrowed; NULL: ids only */
	uint32_t nr_blocks;		/* as given to kv_alloc() */
	uint32_t max_seqs;		/* running together; as in fh_accel_config */
	uint32_t max_step_tokens;	/* in one step */
	uint32_t prefill_chunk;		/* tokens of one prompt in one step, at most */
	uint32_t max_queue;		/* requests waiting, over all front ends; more are refused */
	uint32_t nr_ctx;		/* tokens a sequence may hold */
	uint32_t max_step_logits;	/* as in fh_accel_config; matters for guesses only */
	/*
	 * Speculation: at most so many tokens of a sequence are guessed in a
	 * step, FH_SPEC_MAX or fewer; 0: none.  Answers do not depend on it.
	 */
	uint32_t spec_tokens;
	float spec_cost; /* of a guess, in plain steps; 0: as measured */
	/*
	 * A smaller model of the same vocabulary that guesses, too: loaded, KV
	 * allocated for nr_blocks, limits as of @accel; borrowed.  NULL: none.
	 */
	struct fh_accel *draft;
	/* Deadlines of each class's requests that name none; 0: none. */
	struct fh_sched_class class[FH_SCHED_CLASSES];
	uint32_t nr_experts, nr_experts_used; /* of a layer; 0: dense */
	/* What fh_engine_costs() gave in an earlier run on the same host with the same model; NULL: nothing is known.
	 */
	const char *costs;
	bool calibrate; /* with nothing known, measure a few steps before the first request */
	/* Token ids that open and close the model's thoughts; the same: it has none. */
	uint32_t think_open, think_close;
	uint32_t nr_accounts; /* of budgets, less one: the first is nobody's; 0: nothing is metered */
	uint32_t nr_runs;     /* agent runs that are remembered */
	bool prefix_cache;
	bool pin_thread; /* keep the engine thread on one CPU */
};

int fh_engine_create(const struct fh_engine_config *cfg, struct fh_engine **out, struct fh_err *err);
/* After stop.  Requests still inside are ended with FH_FINISH_CANCELLED first. */
void fh_engine_destroy(struct fh_engine *e);

/*
 * Attach a front end before start.  Sizes fe->submit and fe->ready so that
 * ready can never overflow; the front end sets name and wake first.
 */
int fh_engine_attach(struct fh_engine *e, struct fh_frontend *fe, struct fh_err *err);
/* Before start or after stop; frees its queues. */
void fh_engine_detach(struct fh_engine *e, struct fh_frontend *fe);

/* Run the loop in a thread of its own. */
int fh_engine_start(struct fh_engine *e, struct fh_err *err);
/* Refuse new requests; let the running ones end for at most @drain_ms, cancel the rest; join the thread. */
void fh_engine_stop(struct fh_engine *e, uint32_t drain_ms);
/* Instead of start: one step on the calling thread. Returns true when there was anything to do. */
bool fh_engine_step(struct fh_engine *e);

/*
 * Hand over a request; on the thread of its front end, which is the engine's
 * where it is polled.  Its ring begins empty.
 *
 * Text: an answer goes on after a prompt, so its detokenizer begins with
 * .started set (the first word keeps its space).  Where a stop string ends it,
 * the reader shows, of what its detokenizer prints for the cut token, as many
 * bytes as it held back before plus fh_slot.cut_bytes, and nothing after that.
 *
 * A request that is cancelled while its ring is full gets no slot with
 * FH_SLOT_LAST, only FH_READY_DONE.
 *
 * A request whose deadlines cannot be kept is accepted here and ends at the
 * engine's next turn with FH_FINISH_DEADLINE, error -EAGAIN and retry_us set;
 * one that a budget does not allow with FH_FINISH_BUDGET, error -EDQUOT and
 * budget_word set.
 *
 * 0; -EAGAIN: the queue is full (*retry_after_ms says when to come back);
 * -EINVAL, -E2BIG: it can never run (prompt empty, ids out of range, longer
 * than the context or than all KV blocks), with @err; -ESHUTDOWN: draining.
 */
int fh_engine_submit(struct fh_engine *e, struct fh_request *r, uint32_t *retry_after_ms, struct fh_err *err);
/* Wake the engine after setting r->cancel or consuming slots of a stalled ring. */
void fh_engine_kick(struct fh_engine *e);
/* Requests were submitted by a front end that does so in bursts. Any thread. */
void fh_engine_ring(struct fh_engine *e);

/*
 * The limits of accounts from now on; any thread; takes over @t, which is malloc'ed.  A request that is handed over
 * afterwards is judged by them.
 */
void fh_engine_set_budgets(struct fh_engine *e, struct fh_budget_table *t);
/* What was used in an earlier run; before start. */
void fh_engine_restore_budget(struct fh_engine *e, uint32_t account, enum fh_budget_span span, uint64_t ends_s,
			      uint64_t tokens, uint64_t money, uint64_t requests);
/* Its counters of use, which any thread may read; NULL: there is no such account. */
const struct fh_budget_account *fh_engine_account(const struct fh_engine *e, uint32_t account);
/*
 * What the next request of an agent run that has ended was charged; one thread, any.
 * False: there is none now.  Where nobody asks, the latest are not told; the sum of
 * all is the tenant's account's (in_runs), and never behind what was told here.
 */
bool fh_engine_next_run_use(struct fh_engine *e, struct fh_run_use *out);
/* As fh_budget_run_live(). */
bool fh_engine_run_live(const struct fh_engine *e, uint32_t i, struct fh_run_live *out);

struct fh_engine_stats {
	uint32_t nr_running, nr_waiting;
	uint32_t nr_blocks, nr_blocks_free, nr_blocks_cached;	   /* cached: idle but holding a reusable prefix */
	uint64_t nr_steps, nr_preempted, nr_cancelled, nr_refused; /* nr_refused: whatever the reason */
	uint64_t prompt_tokens, generated_tokens, cached_prompt_tokens;
	uint64_t prefix_queries, prefix_hits; /* in tokens */
	uint64_t nr_drafts, draft_tokens;     /* steps of a sequence with guesses, and these */
	uint64_t accepted_tokens;	      /* guesses that were right */
	uint64_t copied_bytes;		      /* payload bytes that the CPU copied (prompt snapshots, private slots) */
	uint64_t finished[8];		      /* by enum fh_finish */
	uint64_t heartbeat_ns;		      /* CLOCK_MONOTONIC of the last turn of the loop */
	bool busy;			      /* a step is under way or due */
};

/* Any thread; each field is read atomically. */
void fh_engine_stats(struct fh_engine *e, struct fh_engine_stats *out);
/* The engine's part of what those who watch are told: levels, counters, deadlines; any thread. */
void fh_engine_vitals(const struct fh_engine *e, struct fh_vitals *out);
/* What it has done since its start: the ground on which energy is shared out. */
struct fh_engine_work {
	uint64_t busy_ns; /* in steps, the one under way included */
	uint64_t tokens;  /* read without the cache, and drawn; counted when budgets are charged for them */
};
/* Any thread. @now_ns: CLOCK_MONOTONIC. */
void fh_engine_work(const struct fh_engine *e, uint64_t now_ns, struct fh_engine_work *out);
/* What steps cost, as text for the next run (fh_engine_config.costs); after stop. Returns its length, or what it would
 * be. */
size_t fh_engine_costs(const struct fh_engine *e, char *text, size_t cap);
/* Append the engine's part of /metrics (Prometheus text format 0.0.4); any thread. */
void fh_engine_metrics(struct fh_engine *e, FILE *out);
/*
 * 0 while the engine makes progress; -ETIMEDOUT when a step has been under way, or a request has lain untouched, for
 * more than @stall_ms; -EIO when the last step failed on the device; -ESHUTDOWN.
 */
int fh_engine_health(struct fh_engine *e, uint32_t stall_ms);

/*
 * At rest (no request inside, no step under way): true if every list and
 * counter agrees, every sequence slot is free and no block is held.
 */
bool fh_engine_check(struct fh_engine *e);

#endif /* FH_ENGINE_ENGINE_H */
