/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The audit log as a front end sees it: a table of functions that the daemon
 * fills in, so that net/ includes nothing of trust/.
 *
 * An auditor belongs to one front end and is called on that front end's thread
 * alone; no function waits.  What is handed over is copied.  Events are
 * numbered from 1 on, in order; a number that is durable has all before it
 * durable too.
 *
 *   begin(), then exactly one end()     a request that was taken
 *   refused()                           one that was turned away before that
 *
 * Strict: begin() refuses while the log cannot be written; the front end lets
 * nothing of an answer out before its begin is durable, and not the last of it
 * before its end is.  When an event that durable() was asked about in vain
 * becomes durable, the front end is woken.
 */
#ifndef FH_BASE_AUDITOR_H
#define FH_BASE_AUDITOR_H

#include <errno.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "runtime/base/budget.h"
#include "runtime/base/identity.h"
#include "uapi/freehold.h"

/* Numbers stay: they are written into the log. */
enum fh_audited_endpoint {
	FH_AE_OTHER = 0, /* no request for the model, or none that could be read */
	FH_AE_COMPLETION = 1,
	FH_AE_CHAT = 2,
	FH_AE_EMBED = 3,
	FH_AE_TOKENIZE = 4,
	FH_AE_DETOKENIZE = 5,
	FH_AE_CHANNEL = 6,
	FH_AE_UDP = 7,
};

enum fh_audited_body {
	FH_AB_AS_SENT = 0, /* the body of a request as the client sent it, or of an answer as it was sent */
	FH_AB_CHOICES = 1, /* {"choices":[{"index":0,"text":"...","finish_reason":"stop"}, ...]} */
	FH_AB_TOKENS = 2,  /* token ids, 32 bits each, little-endian */
};

/* What is known; zeros are left out of the log. */
struct fh_audited {
	const struct fh_identity *who;
	enum fh_audited_endpoint endpoint;
	const char *request_id; /* that the client gave; NULL: it got ... */
	uint64_t serial;	/* ... one of ours, with this number in it */
	/* The request: begin(). */
	bool stream;
	uint32_t n, max_tokens, top_k;
	uint64_t seed;	       /* that the client gave; in an outcome, the one that was drawn for it */
	uint64_t nr_prompt;    /* of end(), too: as it was said to begin() */
	const uint8_t *run_id; /* [16] the agent run that it is part of; NULL, or zeros: none; of refused(), too */
	uint32_t run_depth;
	bool admitted; /* ready() has promised it room: it begins even if the log fails now */
	float temperature, top_p;
	/* The outcome: end(), refused(). */
	unsigned int status; /* as HTTP counts; 499: the client went away */
	uint8_t finish;	     /* enum fh_finish */
	bool cancelled;
	uint64_t nr_generated, nr_cached, duration_us, ttft_us;
	const char *why;		       /* of a refusal or a failure */
	const struct fh_budget_charge *charge; /* that its payers' budgets have paid; NULL: nothing */
	/* Either. */
	/*
	 * A receipt is wanted: [FH_AUDIT_SALT_BYTES], filled in by begin() and given back to end(); NULL: none.  What
	 * it vouches for: a request as it was sent, an answer as its text.  @cookie of end(): see receipt().
	 */
	uint8_t *salt;
	const void *said;
	size_t said_bytes;
	void *cookie;
	bool *promised; /* of end() with @salt: set, there will be a receipt */
	enum fh_audited_body body_type;
	const void *body; /* [body_bytes]; NULL: none */
	size_t body_bytes;
};

#define FH_AUDIT_SALT_BYTES 32

struct fh_auditor;
struct fh_audit_ticket;

struct fh_auditor_ops {
	/* 0: @nr more events find room and the log can be written; -errno. */
	int (*ready)(struct fh_auditor *a, uint32_t nr);
	/* 0; *t is NULL if it was lost (relaxed). Strict: -errno, and the request is to be refused. */
	int (*begin)(struct fh_auditor *a, const struct fh_audited *r, struct fh_audit_ticket **t, uint64_t *seq);
	/* The event's number. 0: there is none, because @t is NULL or it was lost; strict then lets no answer out. */
	uint64_t (*end)(struct fh_auditor *a, struct fh_audit_ticket *t, const struct fh_audited *r);
	/* 0: it was lost, and counted; strict then lets no answer out. */
	uint64_t (*refused)(struct fh_auditor *a, const struct fh_audited *r);
	bool (*durable)(struct fh_auditor *a, uint64_t seq);
	/* The next receipt that is ready, JSON on one line: *text is malloc'ed, or NULL if none could be made. */
	bool (*receipt)(struct fh_auditor *a, void **cookie, char **text);
	/* 0, or why the log cannot be written. */
	int (*trouble)(struct fh_auditor *a);
	/* What the key @key is called in the log: nothing that could be found out about the key by guessing. */
	void (*name_key)(struct fh_auditor *a, const void *key, size_t n, uint8_t id[FH_IDENTITY_KEY_BYTES]);
};

struct fh_auditor {
	const struct fh_auditor_ops *ops;
	bool strict;
	bool wants_bodies; /* false: only that something was asked and answered is kept */
};

/* How a request that did not come over HTTP ended, as HTTP would say it, so that one query finds them all. */
static inline unsigned int fh_audited_status(enum fh_finish why, int error)
{
	if (why == FH_FINISH_CANCELLED)
		return 499;
	switch (error) {
	case 0: return 200;
	case -EACCES: return 403;
	case -EAGAIN:
	case -EDQUOT: return 429;
	case -ESHUTDOWN: return 503;
	case -EINVAL:
	case -E2BIG: return 400;
	default: return 500;
	}
}

#endif /* FH_BASE_AUDITOR_H */
