/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the files of the log's writer share.
 *
 *   log.c          append, commit, tenants
 *   segment.c      texts, and the segments that are made of them
 *   log_open.c     making, opening, mending
 *   log_publish.c  bodies, tiles, checkpoint
 *   expire.c       the removal of old bodies
 */
#ifndef FH_TRUST_LOG_PRIV_H
#define FH_TRUST_LOG_PRIV_H

#include "runtime/trust/held.h"
#include "runtime/trust/log.h"

/* Bytes that grow. */
struct fh_grow {
	uint8_t *p;
	size_t n, cap;
};

/* The log at one size: the rightmost tiles, and the rightmost bundle's bytes. */
struct fh_log_edge {
	struct fh_tree tree;
	struct fh_grow bundle; /* of the entries beyond the last whole bundle */
};

struct fh_log {
	struct fh_dir dir;
	int lock_fd, journal_fd;
	struct fh_note_key key;
	char verifier_key[FH_NOTE_KEY_MAX];

	uint64_t nr; /* entries appended */
	uint64_t nr_durable;
	struct fh_log_edge edge; /* as published */
	struct fh_hash root;	 /* of that, if it is not empty */

	/* Frames since the last publication, as they are, or will be, in the journal. */
	struct fh_grow frames;
	uint64_t journal_at;	      /* where in the file they begin */
	size_t nr_written, nr_synced; /* of their bytes */
	uint64_t nr_at_write;	      /* entries in those that were written */

	/* The file of bodies that is being added to: its first entry, its length as published, and with what is
	 * pending. */
	uint64_t body_first, body_bytes, fill; /* 0 bytes: there is none */

	/* When that file was begun, 0: not by this process; how old it may become, 0: as it likes. */
	uint64_t fill_since_us, file_age_us;

	uint64_t texts_since_us; /* the time of the first text that is in no segment; 0: there is none */
	uint64_t now_us, hold_us;
	uint64_t journal_since_us; /* the time of the first text in the journal, in a segment or not; 0: none */

	/* Of each text that is in no segment, in the order of their entries: what is signed, and its tenant's id. */
	uint8_t (*held)[FH_HELD_BYTES]; /* [nr_held] */
	uint64_t *held_of;		/* [nr_held] */
	uint32_t nr_held, cap_held;
	/* While it is opened: the frames of the journal that are in the checkpoint, and what that signed of them. */
	struct fh_grow published;
	struct fh_checkpoint cp;

	struct fh_tenant *tenants; /* [nr_tenants] in order of first use; name, key and stream */
	uint32_t nr_tenants, cap_tenants;
	uint64_t clock, last_id;
};

int fh_grow_put(struct fh_grow *g, const void *p, size_t n);
void fh_grow_free(struct fh_grow *g);

/* log.c: append a frame that is ready. @sealed: a text, or a body. */
int fh_log_put_frame(struct fh_log *l, const uint8_t *leaf, size_t leaf_n, const uint8_t *sealed, size_t sealed_n,
		     bool new_file);
/* log.c: the tenant of that name, with a key; its record is appended where this run needs one. */
int fh_log_tenant(struct fh_log *l, const char *name, struct fh_tenant **out);

/* segment.c */
/* Append @r with a text of @t. */
int fh_log_append_text(struct fh_log *l, struct fh_record *r, struct fh_tenant *t, const void *text, size_t n);
/* What of @t is in no segment yet becomes one. */
int fh_log_seal_tenant(struct fh_log *l, struct fh_tenant *t);
/* After opening: of the texts that the journal gave, take those in hand that are in no segment. */
int fh_log_restore_texts(struct fh_log *l);
void fh_texts_free(struct fh_texts *x);

/* Free everything but the folder's contents. */
void fh_log_free(struct fh_log *l);

/* Remove what checkpoints from @before entries on had at the right edge. */
void fh_log_clean_partials(struct fh_log *l, uint64_t before);

#endif /* FH_TRUST_LOG_PRIV_H */
