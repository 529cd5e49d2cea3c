/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The fake front end: requests from the same process, with no socket.
 *
 * Tests, `freehold run` and `freehold bench engine` drive the engine with it.
 * It is a whole front end (queues, credits, announcements), so what passes
 * through it has gone the way that HTTP goes.
 *
 * Order of use:
 *
 *   fh_fake_create(&svc, &f, &err);
 *   fh_engine_attach(engine, fh_fake_frontend(f), &err);
 *   fh_engine_start(engine, &err);           (or fh_fake_set_pump())
 *   fh_fake_call_init(&call);
 *   call.req.prompt = ids; call.req.nr_prompt = n; call.req.max_tokens = 64;
 *   call.on_text = print;
 *   fh_fake_run(f, &call, &err);
 *   ... fh_engine_stop(); fh_engine_detach(); fh_fake_destroy(f);
 *
 * A fake belongs to one thread: all functions but fh_fake_frontend()'s wake are
 * called from there.  Make one a thread for more.  The caller owns the calls,
 * and what their requests point to, and keeps them until they are done.
 */
#ifndef FH_NET_FAKE_H
#define FH_NET_FAKE_H

#include <stdbool.h>
#include <stdint.h>

#include "runtime/base/err.h"
#include "runtime/base/request.h"
#include "runtime/base/service.h"

struct fh_fake;

#define FH_FAKE_SLOTS 64 /* token slots of a call that asks for no number */

/* One request and what becomes of it. */
struct fh_fake_call {
	/*
	 * The caller sets kind, prompt, nr_prompt, max_tokens, sampling and
	 * whatever else the request needs (for an embedding also `pooled`).
	 * The fake sets id, fe, slots, top, arrival_ns (if 0) and nr_slots (if 0).
	 */
	struct fh_request req;

	/* Each published slot, in order, the LAST one included. Nonzero: cancel. May be NULL. */
	int (*on_slot)(void *ctx, const struct fh_slot *slot, const struct fh_top *top);
	/* The text so far unseen, whole UTF-8 characters, stop strings cut off. May be NULL. */
	void (*on_text)(void *ctx, const char *text, size_t bytes);
	/* The engine's last word; the call may be reused or freed from here on. May be NULL. */
	void (*on_done)(void *ctx, struct fh_fake_call *call);
	void *ctx;
	bool hold; /* leave published slots unread (a slow reader), until cleared and polled */

	/* Valid once done. */
	bool done;
	enum fh_finish finish;
	uint64_t submit_ns; /* when it was handed over; req.first_token_ns and req.done_ns follow */

	/* The fake's own. */
	bool ended, owns_top, owns_slots;
	struct fh_detok detok;
	struct fh_fake_call *next, *prev;
};

/* @svc is copied. svc->text may be empty if no call sets on_text. */
int fh_fake_create(const struct fh_service *svc, struct fh_fake **out, struct fh_err *err);
/* After detaching; calls still open are forgotten, with what the fake allocated for them freed. */
void fh_fake_destroy(struct fh_fake *f);
struct fh_frontend *fh_fake_frontend(struct fh_fake *f);

/*
 * Without an engine thread: call @pump (fh_engine_step) on this thread instead
 * of sleeping.  It returns true when there was anything to do.
 */
void fh_fake_set_pump(struct fh_fake *f, bool (*pump)(void *ctx), void *ctx);

/* Zero-fill, with sampling defaults and greedy temperature. */
void fh_fake_call_init(struct fh_fake_call *call);

/* 0, or what fh_engine_submit() returns (the call is then not open). */
int fh_fake_submit(struct fh_fake *f, struct fh_fake_call *call, uint32_t *retry_after_ms, struct fh_err *err);

/*
 * Deliver what is ready, through the calls' functions.  With @wait sleep until
 * there is something, unless no call is open.  Returns the number of calls
 * that are still open.
 */
uint32_t fh_fake_poll(struct fh_fake *f, bool wait);

/* Ask for the end; it still ends by on_done, with FH_FINISH_CANCELLED unless it was over before. */
void fh_fake_cancel(struct fh_fake *f, struct fh_fake_call *call);

/* Poll until @call is done; others are served too. Returns its req.error (0 unless FH_FINISH_ERROR). */
int fh_fake_wait(struct fh_fake *f, struct fh_fake_call *call);

/* Submit and wait. 0, what fh_engine_submit() returns, or the request's error. */
int fh_fake_run(struct fh_fake *f, struct fh_fake_call *call, struct fh_err *err);

#endif /* FH_NET_FAKE_H */
