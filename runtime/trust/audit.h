/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The audit log as the serving threads see it: they hand over events and never
 * wait; one thread writes.
 *
 * Each thread that has something to say attaches a source: a bounded queue from
 * that thread to the writer.  Events of a source are numbered from 1 on, and an
 * event is durable when fh_audit_durable() says so, or the source's wake() has
 * been called since it was asked.  The writer takes whatever has come, writes it
 * and syncs once (group commit).
 *
 * A request is a begin and, always, an end.  begin() keeps room for its end, so
 * an end never finds the queue full.
 *
 *   strict    begin() refuses while the log cannot be written or is behind; what
 *             is written is synced at once.  Who answers waits for its begin to
 *             be durable before the first token leaves, and for its end before
 *             the last.
 *   relaxed   begin() never refuses: what finds no room is counted, and the log
 *             says how many were lost when it can be written again.  Synced with
 *             each checkpoint, once a second.
 *
 * Memory: begin(), end() and note() copy what they are given.
 */
#ifndef FH_TRUST_AUDIT_H
#define FH_TRUST_AUDIT_H

#include "runtime/trust/log.h"
#include "runtime/trust/receipt.h"

#define FH_AUDIT_MAX_SOURCES 16
#define FH_AUDIT_HOLD_MS 3600000u
#define FH_AUDIT_HELD_BYTES (64u << 20) /* that the writer keeps while the log cannot be written */

struct fh_audit_config {
	const char *dir;
	bool strict;
	enum fh_body_mode body;
	uint32_t queue_entries; /* of each source, a power of two; 0: 16384 */
	size_t arena_bytes; /* of each source: memory for events, so that handing one over allocates nothing; 0: none */
	uint64_t retain_us; /* bodies that are older are removed; 0: never */
	uint32_t expire_ms; /* between two looks at that; 0: an hour */
	uint32_t nap_ms;    /* relaxed: events may lie so long; 0: 100 */
	uint32_t publish_ms; /* between checkpoints; 0: 1000 */
	uint32_t hold_ms;    /* a text may wait so long for others of its tenant; 0: FH_AUDIT_HOLD_MS */
	uint32_t give_up_ms; /* at the end, with a log that cannot be written; 0: 5000 */
	/* See dir.h; for tests. */
	int (*watch)(void *ctx, const struct fh_dir_op *op);
	void *watch_ctx;
};

struct fh_audit;
struct fh_audit_source;
struct fh_audit_ticket; /* of a request that has begun */

/* Open or make the log, and mend it. No thread yet: before the process gives up its rights. */
int fh_audit_open(const struct fh_audit_config *cfg, struct fh_audit **out, struct fh_log_report *report,
		  struct fh_err *err);
/*
 * @wake: called by the writer, which must not be held up, after events became
 * durable that fh_audit_durable() had been asked about in vain; NULL: none.
 * Before fh_audit_start().  NULL: too many, or no memory.
 */
struct fh_audit_source *fh_audit_attach(struct fh_audit *a, void (*wake)(void *ctx), void *ctx);
int fh_audit_start(struct fh_audit *a, struct fh_err *err);
/* An event without strings that is to be the log's last, behind all that the sources have told: fh_audit_close()
 * appends it. */
void fh_audit_note_last(struct fh_audit *a, const struct fh_record *r);
/* Write what is left, publish, end the thread, close. No source is used any more. -errno: not all could be written. */
int fh_audit_close(struct fh_audit *a);

const char *fh_audit_verifier_key(const struct fh_audit *a);
struct fh_log *fh_audit_log(struct fh_audit *a); /* before fh_audit_start() only */
/* As fh_log_keyed_hash(); any thread. */
void fh_audit_keyed_hash(const struct fh_audit *a, const void *p, size_t n, uint8_t *out, size_t out_n);

/*
 * A request of @tenant begins; @r without REF and hashes, which the writer fills
 * in.  *t: its ticket; NULL if it was lost (relaxed).  *seq: the event's number, 0
 * if it was lost.  Strict: -EAGAIN (behind), or why the log cannot be written.
 */
int fh_audit_begin(struct fh_audit_source *s, const struct fh_record *r, const char *tenant, const void *body, size_t n,
		   struct fh_audit_ticket **t, uint64_t *seq);
/* Will @nr events find room?  0; strict: also -errno when the log cannot be written; -EAGAIN. */
int fh_audit_ready(struct fh_audit_source *s, uint32_t nr);
/* As fh_audit_begin(), of a request that was taken because fh_audit_ready() had said so: the log's state is no matter.
 */
int fh_audit_begin_anyway(struct fh_audit_source *s, const struct fh_record *r, const char *tenant, const void *body,
			  size_t n, struct fh_audit_ticket **t, uint64_t *seq);
/* And ends. @t is gone then; NULL: nothing is done, and 0. Returns the event's number; 0: it was lost (counted). */
uint64_t fh_audit_end(struct fh_audit_source *s, struct fh_audit_ticket *t, const struct fh_record *r,
		      const char *tenant, const void *body, size_t n);
/*
 * The same, and a receipt is wanted (receipt.h): a checkpoint is signed at once, and fh_audit_receipt() gives it with
 * @cookie.  *promised: there will be one.
 */
uint64_t fh_audit_end_with_receipt(struct fh_audit_source *s, struct fh_audit_ticket *t, const struct fh_record *r,
				   const char *tenant, const void *body, size_t n,
				   const uint8_t salt[FH_RECEIPT_SALT_BYTES], void *cookie, bool *promised);
/*
 * The next one that is ready: true, with *text malloc'ed, or NULL when it could not be made (relaxed, and the log
 * cannot be written).  wake() is called when there is one.
 */
bool fh_audit_receipt(struct fh_audit_source *s, void **cookie, char **text);
/* Any other event. Its number; 0: it was lost (counted). */
uint64_t fh_audit_note(struct fh_audit_source *s, const struct fh_record *r);

/* Is the source's event @seq, and so every one before it, durable?  If not, wake() will be called. */
bool fh_audit_durable(struct fh_audit_source *s, uint64_t seq);

/* Any thread. */
struct fh_audit_state {
	int error; /* 0, or -errno of the last attempt to write */
	uint64_t nr_entries, nr_durable, nr_published, nr_lost, nr_syncs;
};
void fh_audit_state(const struct fh_audit *a, struct fh_audit_state *st);
/* The signed head: entries, and the root over them. False: there is none yet. Any thread. */
bool fh_audit_head(const struct fh_audit *a, uint64_t *nr, uint8_t root[32]);

#endif /* FH_TRUST_AUDIT_H */
