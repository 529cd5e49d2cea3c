/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A request, the ring of its token slots, and the front end that it came from.
 *
 * Ownership
 *   The front end allocates a request, its prompt and its slots, and hands it
 *   over with fh_engine_submit().  From then on the engine reads everything
 *   and writes only slots[], top[], the ring's tail and the fields marked
 *   "engine".  The front end may set `cancel` at any time.  The request goes
 *   back to the front end when it pops a ready entry with FH_READY_DONE: that
 *   entry is the engine's last touch.
 *
 * Publication (engine -> front end)
 *   slots[i] is written, then tail is stored with release; the front end loads
 *   tail with acquire and reads slots below it.  The engine announces a change
 *   by pushing the request on the front end's `ready` queue, at most once
 *   until the front end clears `announced` (which it does *before* it reads
 *   tail), and once more, with FH_READY_DONE, at the end, which may be the
 *   first that is heard of the last slots.  So `ready` never holds more than
 *   two entries a request.
 *
 * Credits
 *   nr_slots - (tail - head) slots are free.  The engine does not plan a
 *   sequence without a free slot, so a slow reader stops only itself.
 *
 * A polled front end
 *   A front end whose clients share memory with us (fh_frontend.polled) needs
 *   no thread between them and the engine: the engine looks for requests
 *   itself, and its requests have a sink (sink.h) instead of a ring of their
 *   own.  Then all of the above but `cancel` is void: it submits from poll(),
 *   on the engine's thread, and learns of the end from done().
 *
 *   A front end of a network may have no thread of its own either.  Its
 *   requests have rings, and `ready` tells it of them as it would any other; it
 *   looks there in flush().  Nobody else can wake it then: the engine sleeps in
 *   its nap().
 */
#ifndef FH_BASE_REQUEST_H
#define FH_BASE_REQUEST_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "runtime/base/budget.h"
#include "runtime/base/spsc.h"
#include "uapi/freehold.h"

#define FH_MAX_STOP 16	       /* stop strings, and stop ids, a request */
#define FH_MAX_STOP_BYTES 256  /* in one stop string */
#define FH_MAX_TOP_LOGPROBS 20 /* alternatives a position */

struct fh_logit_bias {
	uint32_t token;
	float bias; /* added to the logit; -100 bans in effect, +100 forces */
};

/* How the next token is chosen.  Zero-fill, then fh_sampling_default(). */
struct fh_sampling {
	float temperature;	  /* 0: greedy */
	float top_p;		  /* 1: all */
	float min_p;		  /* 0: all */
	float typical_p;	  /* 1: all */
	float repetition_penalty; /* over prompt and output; 1: none */
	float presence_penalty;	  /* over output; 0: none */
	float frequency_penalty;  /* over output; 0: none */
	uint32_t top_k;		  /* 0: all */
	uint64_t seed;		  /* always valid: the front end draws one if the client gave none */
	uint32_t nr_bias;
	const struct fh_logit_bias *bias; /* [nr_bias], owned by the request's front end */
	bool logprobs;			  /* fill slot.logprob */
	uint32_t nr_top;		  /* and this many alternatives, <= FH_MAX_TOP_LOGPROBS */
};

static inline void fh_sampling_default(struct fh_sampling *s)
{
	*s = (struct fh_sampling){.temperature = 1.0f, .top_p = 1.0f, .typical_p = 1.0f, .repetition_penalty = 1.0f};
}

enum fh_request_kind {
	FH_REQ_GENERATE,
	FH_REQ_EMBED, /* no tokens; `pooled` receives the embedding */
};

enum fh_pooling { FH_POOL_MEAN, FH_POOL_LAST };

struct fh_stop {
	const char *text;
	uint32_t bytes; /* 1..FH_MAX_STOP_BYTES */
};

/* fh_request.tenant of a user of this host is his number with this bit; without it, that of an API key. */
#define FH_TENANT_UID 0x80000000u
/* And of a client that is known by its public key, the line of that key with this one. */
#define FH_TENANT_UDP 0x40000000u

struct fh_frontend;
struct fh_sink;
struct fh_auditor; /* auditor.h */

struct fh_request {
	/* The front end fills these in before submission. */
	uint64_t id;
	enum fh_request_kind kind;
	struct fh_frontend *fe;
	void *fe_private; /* whatever the front end wants to find again */

	const uint32_t *prompt; /* [nr_prompt] token ids; snapshotted when admitted */
	uint32_t nr_prompt;
	uint32_t max_tokens; /* 0 is legal for FH_REQ_EMBED only */
	uint32_t min_tokens; /* end-of-generation is masked before so many */
	struct fh_sampling sampling;
	bool ignore_eos;
	bool echo_logprobs; /* reserved for prompt scoring; front ends refuse it today */
	uint32_t nr_stop;
	struct fh_stop stop[FH_MAX_STOP];
	uint32_t nr_stop_ids;
	uint32_t stop_ids[FH_MAX_STOP];

	enum fh_class class;
	uint32_t ttft_us, tpot_us; /* deadlines; 0: the class's own; UINT32_MAX: none */
	uint32_t tenant;	   /* who pays: tokens are shared out fairly between tenants; 0: nobody known */
	uint8_t run_id[16];
	uint64_t budget_tokens;	     /* 0: none */
	struct fh_budget_ask budget; /* whose budgets it draws on */
	uint64_t arrival_ns;	     /* CLOCK_MONOTONIC, when its last byte had been read */

	/*
	 * The prompt lies in memory that its sender can still write: it is read
	 * once, into the sequence, and judged there (done() says -EINVAL), and
	 * polled->admitted() tells when that has happened.
	 */
	bool shared_prompt;

	/* Where tokens go instead of a ring of its own, and what is said with each; then nr_slots and nr_top are 0. */
	struct fh_sink *sink;
	uint64_t user_data;

	/* The ring of token slots. */
	struct fh_slot *slots; /* [nr_slots], a power of two */
	struct fh_top *top;    /* [nr_slots, sampling.nr_top] or NULL */
	uint32_t nr_slots;
	float *pooled; /* [dim] for FH_REQ_EMBED */
	enum fh_pooling pooling;

	_Alignas(64) _Atomic uint32_t tail; /* engine: slots below it are published */
	_Alignas(64) _Atomic uint32_t head; /* front end: slots below it were consumed */
	_Atomic uint32_t cancel;	    /* front end: nonzero asks for the end */
	_Atomic uint32_t announced;	    /* engine sets, front end clears */

	/* Engine: valid once FH_READY_DONE was popped. */
	/*
	 * -errno with FH_FINISH_ERROR.  Refused at once: -EAGAIN with FH_FINISH_DEADLINE, -EDQUOT with FH_FINISH_BUDGET
	 * (budget_word says why).
	 */
	int error;
	uint32_t retry_us; /* with -EAGAIN: when trying again may help */
	uint32_t nr_generated;
	uint32_t nr_reasoning;	   /* of nr_generated: thoughts, see runtime/engine/think.h */
	uint32_t nr_cached_prompt; /* prompt tokens found in the prefix cache */
	bool sink_ended;	   /* its sink has an entry with FH_SLOT_LAST */
	/* [nr_tokens] the prompt as it was read, then the answer; during admitted() and done() alone. NULL: not
	 * admitted. */
	const uint32_t *tokens;
	uint32_t nr_tokens;
	uint64_t started_ns;	 /* CLOCK_MONOTONIC: it left the queue; 0: it never did */
	uint64_t first_token_ns; /* CLOCK_MONOTONIC of the first publication */
	uint64_t done_ns;

	/* Valid from the first published slot on: a budget that is nearly used up. */
	struct fh_budget_word budget_word;

	void *engine_private;	    /* engine: its sequence */
	struct fh_budget_hold hold; /* engine: what it holds of its budgets */
};

/* Low bit of an entry popped from fh_frontend.ready. */
#define FH_READY_DONE ((uintptr_t)1)

/* A word that a polled front end's clients move, and the value at which the engine may sleep. */
struct fh_sleep_word {
	const _Atomic uint32_t *word; /* in memory shared with another process */
	uint32_t value;
};

/* What the engine calls, always on its own thread; nothing of it may block. */
struct fh_polled_ops {
	/* Each turn, and while the engine spins: submit what there is. True if anything was. */
	bool (*poll)(struct fh_frontend *fe);
	/* The prompt was read: its memory is the sender's again. NULL: it need not know. */
	void (*admitted)(struct fh_frontend *fe, struct fh_request *r);
	/*
	 * The engine's last word; the request is the front end's again. Where !r->sink_ended it says the end itself.
	 * NULL: it reads `ready`.
	 */
	void (*done)(struct fh_frontend *fe, struct fh_request *r, enum fh_finish why, int error);
	/* The turn is over: show the readers what their sinks hold. */
	void (*flush)(struct fh_frontend *fe);
	/*
	 * The engine is about to sleep.  Ask the clients for a wake-up, look
	 * once more (-EAGAIN: something is there, do not sleep), and return the
	 * number of words, at most @max, on whose movement the engine must wake.
	 */
	int (*doze)(struct fh_frontend *fe, struct fh_sleep_word *words, uint32_t max);
	/* Take that back. */
	void (*rise)(struct fh_frontend *fe);
	/*
	 * Sleep, for the engine: until there is something to poll() or flush(), fe->wake() was called since the last
	 * nap, or @ns have passed.  False: it cannot, and is not asked again.  NULL: it has nothing to sleep on.  One
	 * front end of an engine at most has it; then no words are slept on.
	 */
	bool (*nap)(struct fh_frontend *fe, uint64_t ns);
};

/*
 * A front end, as the engine sees it: two queues and a way to wake it.  HTTP,
 * DPDK, driver rings and the fake one embed this.
 */
struct fh_frontend {
	const char *name;
	struct fh_auditor *audit;	    /* set by the daemon before the start; NULL: nothing is logged */
	const struct fh_polled_ops *polled; /* NULL: it has a thread and uses `ready` */
	bool bursts;			    /* it calls fh_engine_ring() itself when it has submitted some */
	struct fh_spsc submit;		    /* of struct fh_request *, front end -> engine */
	struct fh_spsc ready;		    /* of struct fh_request * | FH_READY_DONE, engine -> front end */
	/*
	 * The front end stores 1 before it sleeps, then looks at `ready` once
	 * more; the engine exchanges it for 0 after pushing and, if it was 1,
	 * calls wake().  Sequentially consistent on both sides.
	 */
	_Atomic uint32_t sleeping;
	void (*wake)(struct fh_frontend *fe); /* any thread; must not block */
	/* Nanoseconds from the engine's last word to the wire, a mean of late; 0: it does not know. Its own thread
	 * writes it. */
	_Atomic uint32_t way_ns;
};

#define FH_WAY_WEIGHT 32 /* so many of the last ones make the mean */

/* Something took so long on its way out. */
static inline void fh_frontend_way(struct fh_frontend *fe, uint64_t took_ns)
{
	int64_t was = atomic_load_explicit(&fe->way_ns, memory_order_relaxed);
	int64_t took = took_ns < 100000000u ? (int64_t)took_ns : 100000000;

	atomic_store_explicit(&fe->way_ns, (uint32_t)(was ? was + (took - was) / FH_WAY_WEIGHT : took),
			      memory_order_relaxed);
}

/* True when the popped entry is the engine's last word on the request. */
static inline struct fh_request *fh_ready_entry(void *entry, bool *done)
{
	uintptr_t v = (uintptr_t)entry;

	*done = v & FH_READY_DONE;
	return (struct fh_request *)(v & ~FH_READY_DONE);
}

/*
 * What a front end that carries text needs to know of the model, so that net/
 * includes no model header.  Filled in by the daemon; every function may be
 * called from any thread.
 */
#define FH_TOK_BOS 0x1u	    /* add the model's BOS (and EOS) as its metadata says */
#define FH_TOK_SPECIAL 0x2u /* texts of special tokens become those tokens */

/* State of one streaming detokenizer; zero-fill to begin. */
struct fh_detok {
	uint8_t pending[8]; /* bytes of an unfinished UTF-8 character */
	uint8_t nr_pending;
	bool started; /* the first piece has lost its leading space, where the model wants that */
};

struct fh_err;

struct fh_text_ops {
	void *ctx;
	/* *ids: malloc'ed [*nr], the caller frees.  0, -EINVAL, -ENOMEM. */
	int (*tokenize)(void *ctx, const char *text, size_t bytes, unsigned int flags, uint32_t **ids, uint32_t *nr);
	/*
	 * Bytes of @id's text, appended to what @d holds back; whole UTF-8
	 * characters only.  Returns the number of bytes written to @out
	 * (at most @cap, which FH_DETOK_MAX always satisfies).
	 */
	size_t (*detokenize)(void *ctx, struct fh_detok *d, uint32_t id, char *out, size_t cap);
	/* What @d still holds back at the end, with U+FFFD for a broken character. */
	size_t (*detokenize_end)(void *ctx, struct fh_detok *d, char *out, size_t cap);
	/*
	 * Render the model's chat template over OpenAI-style messages.
	 * @messages_json: the JSON array; @extra_json: an object of further
	 * template variables, or NULL.  *text: malloc'ed; the caller frees.
	 */
	int (*apply_template)(void *ctx, const char *messages_json, const char *extra_json, bool add_generation_prompt,
			      char **text, size_t *bytes, struct fh_err *err);
	/* The raw bytes of one token's text, for log-probabilities. Optional: NULL derives them from detokenize(). */
	size_t (*token_bytes)(void *ctx, uint32_t id, char *out, size_t cap);
};

#define FH_DETOK_MAX 1024 /* more than the longest piece of any vocabulary, with what was held back */

/* What a front end tells its clients about the model. */
struct fh_model_info {
	const char *id;	   /* name that clients ask for */
	uint64_t created;  /* Unix time of the file */
	uint32_t nr_vocab; /* ids below this are valid */
	uint32_t nr_ctx;   /* tokens a sequence may hold */
	uint32_t dim;	   /* of an embedding */
	bool has_template; /* the file carries a chat template */
	bool can_embed;
};

#endif /* FH_BASE_REQUEST_H */
