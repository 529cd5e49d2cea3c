/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The audit log as its writer sees it.  One thread, one writer: flock() on
 * DIR/lock keeps others out.
 *
 *   DIR/key, key.pub    the signing key (0600) and its verifier key
 *   DIR/checkpoint      the signed head: origin, size, root
 *   DIR/tile/...        hashes and entries, as C2SP tlog-tiles has them
 *   DIR/body/FIRST      sealed bodies (see body.h)
 *   DIR/tenant/NAME     the tenants' body keys
 *   DIR/journal         what is durable and not yet in a checkpoint
 *   DIR/erase/NAME      a wish: erase that tenant's key
 *
 * Three stages
 *   append    a record and its sealed text, in memory; its entry number is fixed
 *   commit    the journal is written, and synced: a crash loses nothing of it
 *   publish   the texts of each tenant whose time has come become a segment, with an
 *             entry of its own, and that is committed; then bodies, tiles, the
 *             checkpoint, each synced before the next; then the journal begins anew,
 *             unless it holds texts that are in no segment yet (held.h)
 *
 * A stage that fails (disk full) changes nothing of what is known to be durable
 * and can be tried again; what is tried again is written again in full, because
 * after a failed sync nobody knows what the disk has.
 *
 * A frame of the journal: checksum (16, BLAKE2b over what follows, keyed with the
 * log's public key), entry number (8), bytes of the record (4) and of what is
 * sealed (4, the highest bit: it begins a file of bodies), little-endian; record;
 * what is sealed: a body, if the record has its size, or else a text (body.h).
 * The first frame that does not follow from the one before is a torn tail: it was
 * never acknowledged, is cut off, and reported.
 */
#ifndef FH_TRUST_LOG_H
#define FH_TRUST_LOG_H

#include "runtime/trust/body.h"
#include "runtime/trust/dir.h"
#include "runtime/trust/note.h"
#include "runtime/trust/record.h"

#define FH_JOURNAL_FRAME_BYTES 32
#define FH_JOURNAL_SUM_BYTES 16
#define FH_LOG_PENDING_BYTES (4u << 20) /* unpublished: more than this is published at once */
#define FH_LOG_HELD_BYTES (4u << 20)	/* of the journal, with which texts are held in it */
#define FH_LOG_HELD_TURNS 2u		/* as long as a text is held: longer than that no text lies there */

enum fh_body_mode { FH_BODY_FULL, FH_BODY_HASH, FH_BODY_NONE };

/* What opening found and mended. */
struct fh_log_report {
	bool created;		/* there was no log: a key was made */
	uint64_t nr_replayed;	/* entries from the journal, beyond the checkpoint */
	uint64_t torn_bytes;	/* cut off the journal's end ... */
	uint64_t torn_at;	/* ... at this offset */
	uint64_t nr_after_torn; /* frames beyond the cut that would have been whole */
	uint64_t broken_bytes;	/* of the journal, before entries that were taken from it: what is published in tiles */
	uint64_t body_torn_bytes;
};

struct fh_log; /* of log.c */

/*
 * Open for writing, or make, the log in the folder @path; mend what a crash
 * left.  @watch: see dir.h, or NULL.  -EBUSY: another process writes it;
 * -EBADMSG: it was damaged or tampered with, and @err says where.
 */
int fh_log_open(const char *path, int (*watch)(void *ctx, const struct fh_dir_op *op), void *watch_ctx,
		struct fh_log **out, struct fh_log_report *report, struct fh_err *err);
/* Commit and publish what there is, then close. What commit or publish said. */
int fh_log_close(struct fh_log *l);
/* Close at once, as a crash would. */
void fh_log_abandon(struct fh_log *l);

const struct fh_note_key *fh_log_key(const struct fh_log *l);
const char *fh_log_verifier_key(const struct fh_log *l);
/* Descriptor of the folder, for the sandbox. */
int fh_log_fd(const struct fh_log *l);

/*
 * Append @r; with a @tenant and a @body, also its body, by @mode: then
 * the record's hash, sizes and flags are filled in.  A tenant that is new gets a
 * key, and a record of that before this one, as may a segment that is full.
 * *index: the entry's number.
 * 0, -ENOMEM, or why a key could not be stored.
 */
int fh_log_append(struct fh_log *l, struct fh_record *r, const char *tenant, const void *body, size_t n,
		  enum fh_body_mode mode, uint64_t *index);
/* All texts that are in no segment yet become segments: what is to stand behind their entries is appended then. */
int fh_log_seal(struct fh_log *l);
/* Those whose time has come, as fh_log_publish() does first. */
int fh_log_seal_due(struct fh_log *l);
/*
 * The texts of a tenant may wait for more of his until the first of them is @us old, in microseconds; 0, which is how
 * a log is opened: until the next publication.  They do not wait beyond FH_SEGMENT_BYTES, nor for longer than the
 * journal has FH_LOG_HELD_BYTES, nor once its first text, whosever it is, is FH_LOG_HELD_TURNS * @us old.
 */
void fh_log_set_hold(struct fh_log *l, uint64_t us);
/* What time it is, since 1970: else that of the record that was appended last. */
void fh_log_set_time(struct fh_log *l, uint64_t us);
/* Write the journal; with @sync also make it durable. */
int fh_log_commit(struct fh_log *l, bool sync);
/* Commit with sync, then publish. Nothing to do: 0. */
int fh_log_publish(struct fh_log *l);

uint64_t fh_log_size(const struct fh_log *l);	   /* entries appended */
uint64_t fh_log_durable(const struct fh_log *l);   /* of them, durable */
uint64_t fh_log_published(const struct fh_log *l); /* of them, in the checkpoint */
/* The root in the checkpoint; of no meaning while nothing was published. */
const struct fh_hash *fh_log_root(const struct fh_log *l);
size_t fh_log_pending(const struct fh_log *l); /* bytes not published */

/* Append a record that the key of @name is erased, make it durable, erase it. -ENOENT: no such tenant. */
int fh_log_erase_tenant(struct fh_log *l, const char *name);
/* Do what DIR/erase asks for. The number of tenants erased, or -errno. */
int fh_log_do_erasures(struct fh_log *l);

struct fh_reader;
/*
 * Remove the files of bodies that are all older than @before_us, after an entry that says so.  @r: the log as
 * published.  How many, or -errno.
 */
int fh_log_expire(struct fh_log *l, struct fh_reader *r, uint64_t before_us, uint64_t now_us);
/* Begin a new file of bodies once the one in hand is as old; 0: never. */
void fh_log_set_file_age(struct fh_log *l, uint64_t us);

/* A name for an API key, or a file of them: BLAKE2b keyed with the signing key. */
void fh_log_keyed_hash(const struct fh_log *l, const void *p, size_t n, uint8_t *out, size_t out_n);

/* Write the head of a frame before a record of @leaf_n bytes and @sealed_n that are sealed, which lie there already. */
void fh_journal_head(const struct fh_note_key *key, uint64_t index, size_t leaf_n, size_t sealed_n, bool new_file,
		     uint8_t *frame);
/* One frame at @p of @n bytes: bytes used, 0: none that is whole. For the journal's readers. */
size_t fh_journal_frame(const struct fh_note_key *key, const uint8_t *p, size_t n, uint64_t *index,
			struct fh_record_bytes *leaf, struct fh_record_bytes *sealed, bool *new_file);

#endif /* FH_TRUST_LOG_H */
