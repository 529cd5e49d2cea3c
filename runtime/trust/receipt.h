/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A receipt: what somebody who asked takes home, so that he can show later that
 * this log holds his request and its outcome.  Both records, their proofs of
 * inclusion, and the signed checkpoint that these lead to; it is checked with the
 * verifier key alone, without the log.
 *
 *   {"object":"freehold.receipt","begin":{"entry":5,"leaf":"...","proof":["...", ...]},"end":{...},
 *    "salt":"...","checkpoint":"..."}              binary as base64
 *
 * The log never holds a hash of a text that could be guessed at.  With a receipt
 * both records have a commitment, BLAKE2b-256 of the text keyed with 32 random
 * bytes that only the receipt knows: whoever has receipt and text can show that
 * they belong together, and nobody else learns anything.
 */
#ifndef FH_TRUST_RECEIPT_H
#define FH_TRUST_RECEIPT_H

#include "runtime/trust/reader.h"

#define FH_RECEIPT_SALT_BYTES 32
#define FH_RECEIPT_COMMIT_BYTES 32
#define FH_RECEIPT_MAX (1u << 16) /* bytes of one as JSON */

enum fh_receipt_part { FH_RECEIPT_BEGIN, FH_RECEIPT_END, FH_NR_RECEIPT };

struct fh_receipt {
	struct fh_checkpoint cp;
	uint8_t salt[FH_RECEIPT_SALT_BYTES];
	struct fh_receipt_part_entry {
		uint64_t entry;
		struct fh_record rec; /* borrows from leaf */
		uint8_t *leaf;
	} part[FH_NR_RECEIPT];
};

void fh_receipt_commit(const uint8_t salt[FH_RECEIPT_SALT_BYTES], const void *text, size_t n,
		       uint8_t out[FH_RECEIPT_COMMIT_BYTES]);
/* From a log whose checkpoint has both entries. *text: malloc'ed, one line. 0, -ENOENT, -EBADMSG, -ENOMEM. */
int fh_receipt_make(struct fh_reader *r, uint64_t begin, uint64_t end, const uint8_t salt[FH_RECEIPT_SALT_BYTES],
		    char **text);
/*
 * Read @text and check all of it against @key.  0, or -EINVAL (no receipt) or -EBADMSG (not true) with @err;
 * fh_receipt_free() after 0.
 */
int fh_receipt_check(const char *text, size_t n, const struct fh_note_key *key, struct fh_receipt *out,
		     struct fh_err *err);
/* Is @text what was committed to? */
bool fh_receipt_is_text(const struct fh_receipt *r, enum fh_receipt_part part, const void *text, size_t n);
void fh_receipt_free(struct fh_receipt *r);

#endif /* FH_TRUST_RECEIPT_H */
