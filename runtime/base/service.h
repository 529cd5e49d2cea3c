/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What a front end is handed by the daemon: the engine, the model's texts and
 * the model's facts, as tables of functions, so that net/ includes neither
 * engine nor model headers.
 */
#ifndef FH_BASE_SERVICE_H
#define FH_BASE_SERVICE_H

#include <stdio.h>

#include "runtime/base/err.h"
#include "runtime/base/request.h"
#include "runtime/base/span.h"
#include "runtime/base/vitals.h"

/* List some keys, or revoke one. Whoever made it frees it, and out, after done(). */
struct fh_key_errand {
	char revoke[2 * FH_IDENTITY_KEY_BYTES + 1]; /* the id of a key; empty: list */
	char after[2 * FH_IDENTITY_KEY_BYTES + 1];  /* list those behind this one; empty: from the first on */
	uint32_t limit;				    /* how many of them at most */
	bool more;				    /* there are further ones */
	struct fh_identity by;
	/*
	 * 0; -ENOENT: no such key; -EALREADY: revoked before; -EROFS: it could not be logged, and the log is strict;
	 * -errno.
	 */
	int rc;
	struct fh_err err; /* for the log: it may name files */
	char *out;	   /* a JSON array of keys; malloc'ed */
	size_t bytes;
	void (*done)(struct fh_key_errand *e);
	struct fh_key_errand *next; /* of whoever has it */
};

struct fh_service {
	void *ctx; /* of the functions below */
	/* As fh_engine_submit(), fh_engine_kick(), fh_engine_metrics() and fh_engine_health(). */
	int (*submit)(void *ctx, struct fh_request *r, uint32_t *retry_after_ms, struct fh_err *err);
	void (*kick)(void *ctx);
	/* For front ends that submit in bursts (fh_frontend.bursts), behind each of them. NULL: submit() does it. */
	void (*ring)(void *ctx);
	void (*metrics)(void *ctx, FILE *out);
	int (*health)(void *ctx);
	/* For those who watch; the front end's thread. NULL: there is nothing to see. */
	void (*vitals)(void *ctx, struct fh_vitals *out);
	/* Likewise: what the tenants have used that used most today, up to @max of them, the most first. NULL: nobody
	 * counts. */
	uint32_t (*tenants)(void *ctx, struct fh_tenant_use *out, uint32_t max);
	/* And one of them, by its account; false: it is no tenant. */
	bool (*tenant)(void *ctx, uint32_t account, struct fh_tenant_use *out);
	/*
	 * An errand to whoever keeps the keys.  0: e->done() will be called on another thread, exactly once; -EAGAIN:
	 * too many wait already.  NULL: nobody keeps any.
	 */
	int (*keys)(void *ctx, struct fh_key_errand *e);
	/* A request is over, for traces; any front end's thread; does not wait. NULL: nobody wants to know. */
	void (*span)(void *ctx, struct fh_trace_span *s);
	/* With span(): of so many that are over nothing can be told, because too many ended at once. */
	void (*spans_lost)(void *ctx, uint32_t nr);
	struct fh_text_ops text;
	struct fh_model_info model;
};

#endif /* FH_BASE_SERVICE_H */
