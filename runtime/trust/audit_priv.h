/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the files of the audit writer share.
 *
 *   audit.c         the writer's thread, opening and closing
 *   audit_source.c  the producers: handing events over
 */
#ifndef FH_TRUST_AUDIT_PRIV_H
#define FH_TRUST_AUDIT_PRIV_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>

#include "runtime/base/spsc.h"
#include "runtime/trust/audit.h"

/*
 * Of a pool, or allocated.  One of the pool is free again when its end was
 * pushed: the writer looks at it in the order of the queue, so that a later
 * begin cannot overtake the end before.
 */
struct fh_audit_ticket {
	uint64_t index;		      /* writer: the entry of the begin */
	struct fh_audit_ticket *next; /* producer: in the pool */
	bool pooled;
};

/*
 * Where events lie, oldest first, until the writer is done with them.  Positions
 * run freely; what does not fit before the end of the memory begins at its
 * beginning.
 */
struct arena {
	uint8_t *p;
	size_t bytes;
	size_t head;			  /* producer */
	_Alignas(64) _Atomic size_t tail; /* writer */
};

/* One piece of memory: the event, its strings, its body. */
struct event {
	size_t in_arena; /* bytes there, with what was skipped; 0: it is malloc'ed */
	struct fh_record rec;
	struct fh_audit_ticket *ticket;
	struct wish *wish; /* of an end: a receipt is wanted */
	bool has_tenant, has_body;
	char tenant[FH_RECORD_NAME_MAX + 1];
	size_t n;
	uint8_t *body; /* [n] */
};

/* For a receipt, on its way to the writer and back. */
struct wish {
	struct fh_audit_source *source;
	struct wish *next; /* writer */
	void *cookie;
	uint8_t salt[FH_RECEIPT_SALT_BYTES];
	uint64_t begin, end; /* entries */
	char *text;
};

struct fh_audit_source {
	struct fh_audit *a;
	struct fh_spsc queue;	 /* of struct event * */
	struct fh_spsc receipts; /* of struct wish *, back */
	void (*wake)(void *ctx);
	void *wake_ctx;
	/* Producer. */
	struct arena arena;
	struct fh_audit_ticket *tickets, *free_tickets; /* [queue_entries] */
	uint64_t nr_pushed;
	uint32_t nr_open; /* requests that have begun and not ended: each has a place kept */
	/* Writer. */
	struct event *held; /* could not be appended yet */
	uint64_t nr_taken;
	_Alignas(64) _Atomic uint64_t nr_durable;
	_Atomic uint32_t waiting; /* producer sets, writer clears: wake() is due */
};

struct fh_audit {
	struct fh_audit_config cfg;
	struct fh_log *log;
	struct fh_audit_source source[FH_AUDIT_MAX_SOURCES];
	uint32_t nr_sources;
	pthread_t thread;
	bool started;
	uint64_t start_ref;    /* writer: 1 + entry of the last START */
	struct fh_record last; /* fh_audit_note_last() */
	uint64_t publish_ns, retry_ns, expire_ns;
	bool dirty; /* writer: there are entries that are not known to be durable */
	uint64_t nr_lost_logged;
	struct wish *wishes; /* writer: whose ends are in the log */
	int wish_error;
	_Atomic uint32_t stop, sleeping, bell;
	_Atomic int error;
	_Atomic uint64_t nr_entries, nr_durable, nr_published, nr_lost, nr_syncs;
	_Atomic uint64_t head_turn, head_nr, head_root[4]; /* the signed head; the turn is odd while it changes */
};

/* audit_source.c */
/* An event that nobody needs any more: in the order in which a source made them. */
void fh_audit_free_event(struct fh_audit_source *s, struct event *e);
void fh_audit_free_wish(struct wish *w);
int fh_audit_make_arena(struct fh_audit_source *s, size_t bytes, uint32_t nr_tickets);

#endif /* FH_TRUST_AUDIT_PRIV_H */
