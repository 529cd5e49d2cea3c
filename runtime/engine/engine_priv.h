/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the engine's files share; nobody else includes this.
 *
 *   engine.c        creation, front ends, submission (front ends' threads)
 *   engine_queue.c  who comes in: the door, the queue, deadlines that pass
 *   engine_step.c   one step: slots and blocks, plan, batch, results
 *   engine_budget.c budgets: at the door, token by token, at the end
 *   spec.c          speculation: guesses that a step verifies
 *   draft.c         the draft model, one of those who guess
 *   seq.c           one sequence: tokens, blocks, what its reader sees, its end
 *   touch.c         the thread that touches memory for keys and values ahead of its use
 *   engine_loop.c   the thread: when to run, when to sleep, start and stop
 *   engine_stats.c  counters, /metrics, health
 *
 * A request waits in a struct fh_waiter (nothing but its place in the queue),
 * then gets a sequence slot and is a struct fh_seq until its end:
 *
 *   FH_SEQ_WAIT    has a slot and a snapshot of its tokens, but no blocks:
 *                  just admitted, or preempted, or waiting for the blocks that
 *                  another sequence with the same prefix is computing
 *   FH_SEQ_RUN     holds blocks for all its tokens; may be planned
 *   FH_SEQ_DRAIN   ended, holds no blocks; its reader has not yet made room
 *                  for the last slots
 *
 * Everything here belongs to the engine's thread, except what is marked atomic.
 */
#ifndef FH_ENGINE_PRIV_H
#define FH_ENGINE_PRIV_H

#include <pthread.h>
#include <stdatomic.h>

#include "runtime/base/hist.h"
#include "runtime/base/sink.h"
#include "runtime/engine/engine.h"
#include "runtime/engine/kv.h"
#include "runtime/engine/ngram.h"
#include "runtime/engine/prefix.h"
#include "runtime/engine/stop.h"
#include "runtime/engine/touch.h"
#include "runtime/sched/draft.h"
#include "runtime/sched/sched.h"

#define FH_MAX_EOG 64	   /* end-of-generation tokens that a vocabulary may have */
#define FH_HELD_SLOTS 1024 /* tokens held back for one stop string; more than it has bytes, for those without text */
#define FH_STALL_US 50000  /* a reader that took nothing for so long may lose its blocks to others */
#define FH_SCAN 32	   /* waiting requests looked at for cancellation in a step */

enum fh_seq_state { FH_SEQ_FREE, FH_SEQ_WAIT, FH_SEQ_RUN, FH_SEQ_DRAIN };

/* A token that its reader may not see yet, because its text may turn out to begin a stop string. */
struct fh_held {
	uint64_t text_begin; /* offset of its text in that of the answer */
	uint64_t text_end;
	uint32_t nr_before; /* bytes of it that earlier tokens had begun: the head of a split character */
};

/* What a sequence guesses, and how good its guesses have been. */
struct fh_spec {
	struct fh_sched_trust trust[3]; /* by the length of the match */
	struct fh_sched_trust model;	/* of the draft model */
	uint32_t nr_drafted;		/* positions of its blocks that hold the draft model's keys and values */
	uint32_t pause, backoff;	/* tokens until a draft model that did not pay is tried again */
	/* Of the step in hand. */
	uint32_t nr_draft;   /* guesses in it, at tokens[nr_tokens ..] */
	uint32_t len, first; /* of the match, 0: none; what would be guessed first */
	bool by_model;	     /* the draft model guesses */
};

struct fh_seq {
	/* A slot's own, as long as there is an engine. */
	uint32_t slot; /* its number, here and on the device */
	uint32_t live_at;
	/* tokens[0 .. nr_prompt) are the snapshot, what follows was generated; behind nr_tokens may be guesses. */
	uint32_t *tokens;
	uint32_t *blocks;
	uint64_t *hashes;	    /* of its whole blocks, chained */
	struct fh_stopper *stopper; /* memory for one; used if r->nr_stop */
	struct fh_slot *held_slot;  /* [FH_HELD_SLOTS], a ring; requests with stop strings: slots of our own ... */
	struct fh_held *held;	    /* [FH_HELD_SLOTS] ... released in order as their text is safe */
	struct fh_top *held_top;    /* [FH_HELD_SLOTS, sampling.nr_top] */
	struct fh_ngram ngram;	    /* of which nr begins anew with a request */
	uint32_t banned[FH_MAX_EOG + FH_MAX_STOP]; /* [nr_banned] */

	/* A request's, from here on: zeroed when one comes. */
	struct fh_request *r;
	struct fh_engine_fe *fe;
	enum fh_seq_state state;
	uint64_t ticket; /* order of arrival; also tells one life of the slot from the next */
	uint32_t class, tenant;

	/* The order of service, and what was promised: see runtime/sched. */
	uint64_t key_ns;
	uint64_t due_ns;       /* the first token's deadline, as long as it can be kept; 0: none */
	uint64_t promised_ns;  /* the client's, whether or not it can */
	uint32_t way_ns;       /* what that leaves to the way between client and engine */
	uint64_t next_due_ns;  /* of the next token, where tpot_us is set */
	uint64_t mean_due_ns;  /* of the last one that was drawn, by the mean that was promised */
	uint64_t drawn_ns;     /* when that was */
	uint64_t predicted_ns; /* when it was admitted, its first token was expected then; 0: nothing was known */
	uint64_t served_ns;    /* when a step last did something for it */
	uint32_t tpot_us;

	uint32_t nr_prompt, nr_tokens;
	uint32_t nr_computed; /* whose keys and values lie in the blocks */
	uint32_t nr_generated;
	uint32_t nr_reasoning; /* of them: thoughts */
	bool thinks;	       /* the next token is one, unless it closes them */

	uint32_t nr_blocks;
	uint32_t nr_hashed; /* valid for its whole life: tokens only grow */
	uint32_t nr_known;  /* blocks that the prefix cache knows */
	bool counted;	    /* in the statistics of prompts and prefixes */

	/* FH_SEQ_WAIT: waits for this one's blocks while it lives and computes the same. */
	struct fh_seq *leader;
	uint64_t leader_ticket;
	uint32_t nr_same; /* of the leader's known blocks */
	/* FH_SEQ_WAIT: blocks that were available when they were too few; 0: not tried. */
	uint32_t nr_too_few;

	uint32_t nr_banned;

	struct fh_spec spec;

	/* With a sink: where the step in hand writes. NULL: to held_slot[nr_taken ..], because it guesses. */
	struct fh_cqe *cqe;
	uint32_t nr_taken;

	uint32_t tail;	    /* as published, but for ... */
	uint32_t nr_unseen; /* slots that fh_seq_show() will publish */
	uint64_t stalled_ns;
	uint64_t last_token_ns;

	/* Requests with stop strings. */
	struct fh_detok detok;
	uint32_t held_from; /* the oldest */
	uint32_t nr_held;
	uint32_t nr_safe; /* of them, to be published as soon as there is room */

	/* FH_SEQ_DRAIN */
	enum fh_finish finish;
	bool owes_end; /* no slot has said FH_SLOT_LAST */
};

/* See draft.c. */
struct fh_draft {
	struct fh_accel *accel; /* borrowed; NULL: there is none, or it failed */
	uint32_t nr_ctx;
	bool *whole;			/* [nr_blocks] NULL: there never was one */
	struct fh_seq **of;		/* [max_seqs] those for which it shall guess */
	struct fh_batch_seq *batch_seq; /* [max_seqs] */
	struct fh_slot *slot;		/* [max_seqs] */
	struct fh_sampling *sampling;	/* [max_seqs] */
	uint32_t *tokens;		/* [max_step_tokens] */
	double guess_ns;		/* what a guess takes */
	uint64_t ns;			/* of the step in hand */
};

/* A request in the queue: engine.queue has its place, item.ref is its index here. */
struct fh_waiter {
	struct fh_request *r; /* NULL: free */
	struct fh_engine_fe *fe;
	uint64_t key_ns, ticket; /* to find it in the queue */
	uint64_t promised_ns, predicted_ns;
	uint32_t way_ns;
	uint32_t next; /* in the free list */
};

#define FH_NO_WAITER UINT32_MAX

struct fh_engine_fe {
	struct fh_frontend *fe; /* NULL: free place */
	bool dirty;		/* something was pushed in this step */
	/* Accepted and FH_READY_DONE not yet pushed; bounds what `ready` can hold. */
	_Alignas(64) _Atomic uint32_t nr_inside;
};

enum fh_engine_state { FH_ENGINE_NEW, FH_ENGINE_RUNNING, FH_ENGINE_DRAINING, FH_ENGINE_STOPPED };

/* Written by the engine's thread (nr_refused: by any), read by any. */
struct fh_counters {
	_Atomic uint64_t nr_steps, nr_preempted, nr_cancelled, nr_refused, nr_device_errors;
	_Atomic uint64_t prompt_tokens, generated_tokens, cached_prompt_tokens;
	_Atomic uint64_t reasoning_tokens;
	_Atomic uint64_t charged_prompt_tokens; /* that were computed, when their budgets were charged */
	_Atomic uint64_t prefix_queries, prefix_hits, copied_bytes, nr_evicted;
	_Atomic uint64_t nr_drafts, draft_tokens, accepted_tokens, accepted_at[FH_SPEC_MAX];
	_Atomic uint64_t finished[8];
	_Atomic uint64_t nr_over_budget;
	_Atomic uint64_t refused[4], nr_late, nr_yielded; /* refused: by enum fh_sched_verdict */
	_Atomic uint64_t ttft_kept, ttft_missed, tpot_kept, tpot_missed;
	_Atomic double cost_error, ttft_error, ttft_margin, tpot_margin, quantum_s, gap_s;
	_Atomic double price_ns[FH_NR_COST_TERMS];
	_Atomic uint32_t nr_running, nr_waiting, nr_free, nr_cached;
	_Atomic uint64_t retry_ms;		      /* for a request refused now */
	_Atomic uint64_t heartbeat_ns, step_since_ns; /* step_since_ns: 0 outside a step */
	struct fh_hist ttft, itl, e2e, queue, step, host;
};

/* What requests of agent runs were charged, on its way to who keeps usage: from the engine's thread to another. */
struct fh_run_uses {
	struct fh_run_use *slot; /* [RUN_USES]; NULL: nothing is metered */
	_Atomic uint32_t tail;	 /* the engine's, as is ... */
	uint32_t head_cache;	 /* ... its copy of head */
	char apart[64];
	_Atomic uint32_t head;
};

struct fh_engine {
	struct fh_engine_config cfg;
	struct fh_accel *accel;
	uint32_t nr_vocab, dim, nr_ctx; /* nr_ctx: no more than all blocks hold */
	uint32_t eog[FH_MAX_EOG], nr_eog;

	struct fh_kv kv;
	struct fh_touch touch, touch_draft; /* of the KV blocks, ours and the draft model's */
	uint32_t nr_touched;		    /* the blocks before it may be in use */
	size_t block_bytes, draft_block_bytes;
	struct fh_prefix prefix;
	struct fh_sched sched;
	struct fh_sched_rate rate;
	struct fh_sched_steps steps;
	struct fh_draft draft;
	struct fh_budget_book book;
	struct fh_run_uses run_uses;
	_Atomic(struct fh_budget_table *) new_budgets; /* to be taken over */

	struct fh_engine_fe fe[FH_MAX_FRONTENDS];
	uint64_t last_ticket;

	struct fh_waiter *waiter; /* [max_queue] */
	uint32_t waiter_free;
	struct fh_sched_queue queue; /* of waiter[], in order of service */
	struct fh_sched_item *queue_item;
	uint32_t scan_at, scan_left;

	struct fh_seq *seq; /* [max_seqs] */
	void *arena;	    /* of all sequences' arrays */
	size_t arena_bytes;
	uint32_t *seq_free, nr_seq_free; /* a stack, so that few arenas are ever touched */
	struct fh_seq **live;		 /* all that are not free, in no order */
	struct fh_seq **run, **wait;	 /* in order of service */
	uint32_t nr_live, nr_run, nr_wait;
	uint32_t nr_paced; /* of live[], those with a pace of their own */

	/* The step in hand. */
	struct fh_sched_seq *view; /* [max_seqs], of run[] */
	struct fh_sched_seq *held; /* [max_seqs], of run[] and wait[], in order: the ground of admission */
	uint32_t *take;		   /* [max_seqs] */
	struct fh_batch_seq *batch_seq;
	struct fh_seq **batch_of; /* [max_seqs] the sequences of batch_seq[] */
	uint32_t *batch_tokens;	  /* [max_step_tokens] */
	uint64_t stepped_ns;	  /* when the step before was over; 0: the turn before had none */

	pthread_t thread;
	bool threaded, device_lost;
	bool alone;		     /* one CPU for all threads: while this one spins nobody can answer it */
	bool no_waitv;		     /* this kernel cannot wait for several words at once */
	_Atomic uint32_t state;	     /* enum fh_engine_state */
	_Atomic uint32_t cancel_all; /* end everything */
	_Atomic uint32_t quit;	     /* and leave the loop then */
	_Atomic uint32_t device_bad; /* the last step failed */

	/* In whose nap() the engine sleeps; NULL: on `sleeping`. Changed by the engine alone once it runs. */
	_Atomic(struct fh_frontend *) napper;

	_Alignas(64) _Atomic uint32_t bell;	 /* front ends: there is something to look at */
	_Atomic uint32_t scan;			 /* front ends: among it perhaps a cancelled request that waits */
	_Alignas(64) _Atomic uint32_t sleeping;	 /* 1: the engine sleeps on this word */
	_Alignas(64) _Atomic uint32_t nr_queued; /* accepted and without a sequence slot */

	struct fh_counters st;
};

/* Counters have one writer. */
static inline void fh_count(_Atomic uint64_t *counter, uint64_t n)
{
	atomic_store_explicit(counter, atomic_load_explicit(counter, memory_order_relaxed) + n, memory_order_relaxed);
}

/* From @then_ns, which a front end may have read a little later than we read @now_ns. */
static inline uint64_t fh_since(uint64_t now_ns, uint64_t then_ns)
{
	return now_ns > then_ns ? now_ns - then_ns : 0;
}

/* engine_queue.c */
bool fh_engine_intake(struct fh_engine *e, uint64_t now_ns);
/* Look for cancelled requests and for deadlines that cannot be kept any more; true if there is more to do. */
bool fh_engine_watch_queue(struct fh_engine *e, uint64_t now_ns);
bool fh_engine_wants_end(const struct fh_engine *e, const struct fh_request *r);
/* What runs and waits, for runtime/sched. Valid until either changes. */
void fh_engine_load(struct fh_engine *e, uint64_t now_ns, struct fh_sched_load *load);
void fh_engine_view(const struct fh_seq *s, struct fh_sched_seq *v);
/* Take the request at @place out of the queue; its waiter is free for the next one. */
struct fh_waiter fh_engine_unqueue(struct fh_engine *e, uint32_t place, struct fh_sched_item *item);
/* @s has one token more: was it in time, and when is the next one due? */
void fh_engine_drew(struct fh_engine *e, struct fh_seq *s, uint64_t now_ns);
/* Its request is over. */
void fh_engine_left(struct fh_engine *e, const struct fh_seq *s);

/* engine_budget.c; all but the first two do nothing for requests without accounts. */
int fh_engine_budget_init(struct fh_engine *e, struct fh_err *err);
void fh_engine_budget_free(struct fh_engine *e);
/* May it begin?  If not, r->budget_word says why. */
bool fh_engine_afford(struct fh_engine *e, struct fh_request *r);
void fh_engine_charge_prompt(struct fh_engine *e, struct fh_request *r);
/* A token was drawn. False: no further one may be. */
bool fh_engine_charge_token(struct fh_engine *e, struct fh_request *r, bool thought);
/* It is over: what it still holds comes back. */
void fh_engine_settle(struct fh_engine *e, struct fh_request *r);

/* engine_step.c */
void fh_engine_measured(struct fh_engine *e, const struct fh_sched_work *w, uint64_t step_ns);
bool fh_engine_turn(struct fh_engine *e);
void fh_engine_publish_levels(struct fh_engine *e);
bool fh_engine_is_empty(struct fh_engine *e);
/* Let polled front ends look for requests. */
bool fh_engine_poll(struct fh_engine *e);

/* draft.c */
int fh_draft_init(struct fh_engine *e, struct fh_err *err);
void fh_draft_free(struct fh_engine *e);
/* A block to write: fh_kv_alloc(), memory is touched ahead of it, and nothing of the draft model's is in it. */
uint32_t fh_engine_take_block(struct fh_engine *e);
/* Note which of its blocks are whole, before others may find them. */
void fh_draft_keep(struct fh_engine *e, struct fh_seq *s);
/* Block @k of @s is another one of the same tokens now. */
void fh_draft_replaced(struct fh_engine *e, struct fh_seq *s, uint32_t k);
/* Guess for draft.of[0 .. nr): spec.nr_draft tokens each, or fewer, to tokens[nr_tokens ..]. */
void fh_draft_run(struct fh_engine *e, uint32_t nr);

/* spec.c */
/* Everything else is planned: add guesses to what is left, spec.nr_draft for each of run[]. Returns their sum. */
uint32_t fh_spec_plan(struct fh_engine *e);
/* The step drew @first_token in the place of the first guess, and @nr_right guesses were right. */
void fh_spec_learn(struct fh_engine *e, struct fh_seq *s, uint32_t first_token, uint32_t nr_right);

/* seq.c */
size_t fh_seq_arena_bytes(uint32_t nr_ctx);
void fh_seq_init(struct fh_seq *s, uint32_t slot, void *arena, uint32_t nr_ctx);
/* Take the request into sequence @s: snapshot its tokens. 0, or -EINVAL for ids that are none. */
int fh_seq_admit(struct fh_engine *e, struct fh_seq *s, struct fh_request *r, uint64_t ticket);
/* There is a free token slot of its reader. */
bool fh_seq_has_credit(const struct fh_seq *s);
/* Hashes of its first @nr whole blocks. */
void fh_seq_hash(struct fh_engine *e, struct fh_seq *s, uint32_t nr);
void fh_seq_release_blocks(struct fh_engine *e, struct fh_seq *s);
/* Where the next token goes; in a sink it is reserved. Called once a step. */
struct fh_slot *fh_seq_next_slot(struct fh_seq *s, struct fh_top **top);
/* Slots from there on, one after the other in memory, that the device may write now. */
uint32_t fh_seq_room(const struct fh_seq *s);
/* The device wrote the next token: look at it, end the sequence where it ends. True if it goes on. */
bool fh_seq_accept(struct fh_engine *e, struct fh_seq *s, uint64_t now_ns);
/* Publish what was accepted and may be seen. */
void fh_seq_show(struct fh_engine *e, struct fh_seq *s, uint64_t now_ns);
/* End it. Its blocks are free on return; its slot, too, unless its reader has to make room first. */
void fh_seq_finish(struct fh_engine *e, struct fh_seq *s, enum fh_finish why, int error, uint64_t now_ns);
/* Publish what there is room for; true if anything was. */
bool fh_seq_drain(struct fh_engine *e, struct fh_seq *s, uint64_t now_ns);
/* The last word on a request that never became a sequence. */
void fh_request_refuse(struct fh_engine *e, struct fh_engine_fe *fe, struct fh_request *r, enum fh_finish why,
		       int error, uint64_t now_ns);

/* engine_step.c, for seq.c: forget the sequence in the lists and give its slot back. */
void fh_engine_unlist(struct fh_engine *e, struct fh_seq *s);
void fh_engine_free_seq(struct fh_engine *e, struct fh_seq *s);

#endif /* FH_ENGINE_PRIV_H */
