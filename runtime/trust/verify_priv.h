/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the verifier's files share.
 *
 *   verify.c         key, checkpoint, entries, tiles
 *   verify_record.c  what the records say, bodies, tenants, journal, strangers
 */
#ifndef FH_TRUST_VERIFY_PRIV_H
#define FH_TRUST_VERIFY_PRIV_H

#include "runtime/trust/verify.h"

struct fh_known_tenant {
	char name[FH_RECORD_NAME_MAX + 1];
	uint8_t hash[32];
	bool known;   /* an entry says so, and not only bodies of it */
	bool erased;  /* and no new key was made since */
	bool held;    /* texts of it are held, and not as they were signed: that is told once */
	bool key_bad; /* the key that is there is not the one in the log: told once, at the end */
	/* Texts that no segment has had yet. */
	uint64_t nr_texts, text_bytes, texts_from;
};

struct fh_verifier {
	struct fh_verify *v;
	struct fh_reader r;
	struct fh_tree tree; /* of what is right */
	struct fh_opener *opener;
	uint8_t *kind; /* [cp.size] of each entry, 0: unreadable; END's are marked on their BEGIN with 0x80 */
	struct fh_known_tenant *tenants;
	uint32_t nr_tenants;
	uint64_t expired; /* bodies of entries before it may be gone */
	/* The file of bodies in hand. */
	int64_t body_which; /* -1: none */
	char body_path[FH_DIR_PATH_MAX];
	size_t body_at;
	bool body_lost;	   /* it cannot be read */
	bool damaged;	   /* a body was: what builds on it cannot be opened, and that is no finding of its own */
	uint64_t last_ref; /* the last START */
};

void fh_found(struct fh_verifier *x, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
/* Entry @i, which is as signed, in file @path at @at. 0 or -ENOMEM. */
int fh_verify_record(struct fh_verifier *x, uint64_t i, const struct fh_record_bytes *leaf, const char *path,
		     size_t at);
/* After the last entry. */
int fh_verify_rest(struct fh_verifier *x);
/* Tenants' erasures, and what has expired, before the first body is opened. */
int fh_verify_erasures(struct fh_verifier *x);

#endif /* FH_TRUST_VERIFY_PRIV_H */
