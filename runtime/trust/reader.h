/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The audit log as a reader sees it: a folder, perhaps one that a daemon goes on
 * writing, perhaps a copy on another machine.  Nothing is locked or changed.
 *
 * The right edge (the partial tiles of the checkpoint) is read at opening and
 * kept, because the writer removes it when it publishes the next checkpoint.
 */
#ifndef FH_TRUST_READER_H
#define FH_TRUST_READER_H

#include "runtime/trust/body.h"
#include "runtime/trust/dir.h"
#include "runtime/trust/note.h"
#include "runtime/trust/record.h"

struct fh_reader {
	struct fh_dir dir;
	struct fh_note_key key;
	struct fh_checkpoint cp;
	char *note; /* the checkpoint as it is */
	size_t note_n;
	/* The edge: of each level the last tile, if it is partial; index FH_TILE_LEVELS: the entries. */
	char *edge[FH_TILE_LEVELS + 1];
	size_t edge_n[FH_TILE_LEVELS + 1];
	/* The tile or bundle that was read last. */
	struct fh_reader_tile {
		int level;
		uint64_t index;
		char *p;
		size_t n;
	} hashes, bundle;
	uint32_t entry_at[FH_TILE_WIDTH + 1]; /* of the entries in the bundle ... */
	uint64_t split;			      /* ... of this number; UINT64_MAX: of none */
	uint64_t nr_read;		      /* entries, each as often as it was asked for */
	/* The file of bodies that was read last. */
	uint64_t *body_files; /* [nr_body_files] their first entries, rising */
	uint32_t nr_body_files;
	int64_t body_file; /* -1: none */
	char *body;
	size_t body_n;
	size_t body_seen; /* 0, or the offset in it of the frame of ... */
	uint64_t body_seen_entry;
};

/*
 * Open the log in @path and check its checkpoint: against @verifier_key, or with
 * NULL against its own key.pub.  -ENOENT: no log there.
 */
int fh_reader_open(struct fh_reader *r, const char *path, const char *verifier_key, struct fh_err *err);
/* The same, of a log that may have no checkpoint yet: then it is empty. */
int fh_reader_open_any(struct fh_reader *r, const char *path, struct fh_err *err);
void fh_reader_close(struct fh_reader *r);

/* The parts of opening, for the verifier, which goes on where opening stops. */
int fh_reader_key(struct fh_reader *r, const char *verifier_key, struct fh_err *err);
int fh_reader_list_bodies(struct fh_reader *r);
int fh_reader_checkpoint(struct fh_reader *r, const struct fh_note_key *key, struct fh_err *err);

/* File (@level, @index) as it is at this checkpoint; borrowed until the next call. @path: its name, for messages. */
int fh_reader_tile(struct fh_reader *r, int level, uint64_t index, const char **p, size_t *n,
		   char path[FH_TILE_PATH_MAX]);
/* Find the entries in a bundle: @at [nr + 1]. How many are whole (then at[those] is where it breaks), up to @nr. */
uint32_t fh_bundle_split(const char *p, size_t n, uint32_t nr, uint32_t at[FH_TILE_WIDTH + 1]);

/* Entry @i: borrowed until the next call. -ENOENT beyond the checkpoint; -EBADMSG. */
int fh_reader_entry(struct fh_reader *r, uint64_t i, struct fh_record_bytes *leaf);
struct fh_hashes fh_reader_hashes(struct fh_reader *r);

/* The sealed body of entry @i: borrowed until the next call. *at: its offset in *path. -ENOENT, -EBADMSG. */
int fh_reader_body(struct fh_reader *r, uint64_t i, struct fh_record_bytes *sealed, char path[FH_DIR_PATH_MAX],
		   uint64_t *at);
/* Load file @which of body_files. */
int fh_reader_body_file(struct fh_reader *r, uint32_t which, char path[FH_DIR_PATH_MAX]);

/*
 * Opens bodies one after the other.  A tenant's bodies are opened in order, so
 * what is asked for in rising order costs each body once.
 */
struct fh_opener;
struct fh_held_text; /* of held.h */
/*
 * Texts that are held in the journal are read here.  -ESTALE: the log's writer has put another checkpoint meanwhile
 * and they are gone from there; open the log again.
 */
int fh_opener_create(struct fh_reader *r, struct fh_opener **out);
void fh_opener_free(struct fh_opener *o);
/* What of them the journal has, in rising order: whether that is what was signed is for the caller to see. */
const struct fh_held_text *fh_opener_held(const struct fh_opener *o, uint32_t *nr);
/* Entry @i says that @tenant's key was erased: texts before it are gone. For whoever has read that. */
int fh_opener_erased(struct fh_opener *o, const struct fh_record_bytes *tenant, uint64_t i);
/*
 * The text of the body of entry @i, which is @rec: malloc'ed.  -ENOENT: there is
 * none; -ENOKEY: its tenant's key was erased; -EKEYREJECTED: that key is not here;
 * -ENODATA: it was lost, and an entry says so; -EBADMSG.
 */
int fh_opener_text(struct fh_opener *o, uint64_t i, const struct fh_record *rec, char **text, size_t *n);

#endif /* FH_TRUST_READER_H */
