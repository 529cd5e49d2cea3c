/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Is the log what was signed, all of it, and nothing else?
 *
 * Goes through every byte of the folder: key, checkpoint, each entry, each hash
 * of each tile, each body, each tenant's key, the journal.  Where an entry and
 * its hash disagree, the hash above them (or the signed root) says which of the
 * two was changed.  A finding names the file, the offset and the entry.
 *
 * What it cannot see: a log whose end was cut off together with the checkpoints
 * that vouched for it.  For that an auditor keeps a checkpoint, and asks for
 * consistency with it.
 */
#ifndef FH_TRUST_VERIFY_H
#define FH_TRUST_VERIFY_H

#include "runtime/trust/reader.h"

struct fh_verify {
	/* Called for each finding, with a line of text. */
	void (*finding)(void *ctx, const char *text);
	void *ctx;
	/* Results. */
	struct fh_checkpoint cp;
	char verifier_key[FH_NOTE_KEY_MAX];
	uint64_t nr_findings;
	uint64_t nr_entries, nr_interactions, nr_open; /* open: begun, and no outcome */
	uint64_t nr_bodies, nr_opened, nr_erased; /* sealed bodies; those whose text could be read; whose key is gone */
	uint64_t nr_expired;			  /* bodies that were removed because they were old enough */
	uint64_t nr_journal;			  /* entries that are beyond the checkpoint */
	uint64_t first_us, last_us;		  /* times of the first and the last entry */
};

/* 0: it was gone through (look at nr_findings); -errno with @err: it could not be. @verifier_key: NULL, or the key. */
int fh_verify(const char *path, const char *verifier_key, struct fh_verify *v, struct fh_err *err);

#endif /* FH_TRUST_VERIFY_H */
