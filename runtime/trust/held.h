/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Texts that are held: their entries are in the tree, and they are in no segment
 * yet, because their tenant has not said enough to fill one.  They lie in the
 * journal, and the checkpoint signs for them with a line of its own:
 *
 *   texts NR FIRST base64(BLAKE2b-256 over NR times, in the order of their entries:
 *                         entry (big-endian, 8), checksum of the frame (16), nonce (24))
 *
 * The checksum is that of the journal (log.h), over the entry and the sealed text;
 * the nonce is a keyed hash of the text (body.h).  So while they lie in the journal
 * anybody can see whether they are what was signed, and once they are in a segment
 * whoever has the tenant's key can: he seals the text again and gets the same bytes.
 */
#ifndef FH_TRUST_HELD_H
#define FH_TRUST_HELD_H

#include "runtime/trust/reader.h"

#define FH_HELD_BYTES 48 /* that are hashed of each */

/* Of a journal; the bytes are borrowed from there. */
struct fh_held_text {
	uint64_t index;
	struct fh_record_bytes leaf, sealed;
	uint8_t sum[FH_HELD_BYTES];
};

/* @frame: that of entry @index, with a sealed text. */
void fh_held_sum(uint64_t index, const uint8_t *frame, const uint8_t nonce[FH_TEXT_NONCE_BYTES],
		 uint8_t out[FH_HELD_BYTES]);
/* The entry that a sum is of. */
uint64_t fh_held_index(const uint8_t sum[FH_HELD_BYTES]);
void fh_held_hash(uint8_t (*sums)[FH_HELD_BYTES], uint32_t nr, uint8_t out[FH_HASH_BYTES]);

/*
 * The texts that the journal @p of @n bytes holds of the first @size entries: those that no segment among these
 * entries has.  *out: malloc'ed, in rising order; NULL for none.  0, -ENOMEM.
 */
int fh_held_find(const struct fh_note_key *key, const uint8_t *p, size_t n, uint64_t size, struct fh_held_text **out,
		 uint32_t *nr);
/* Are they what @cp signed for? */
bool fh_held_are(const struct fh_checkpoint *cp, const struct fh_held_text *t, uint32_t nr);

/*
 * The texts that @old, an earlier checkpoint of the log @r, signed for: are they those that the log has now?  They are
 * opened, with @o, which knows of the erasures, and sealed again.  One that cannot be opened leaves all of them
 * uncompared: what was signed is one hash.  0; -EBADMSG: they are not; -ENOKEY: of *nr of them nobody can say, and
 * entries of the log tell why: the key was erased, or the body removed when it was old enough; -EKEYREJECTED: of *nr of
 * them key or text is not here, and no such entry tells why.  Another -errno: it could not be found out.
 */
int fh_held_check(struct fh_reader *r, struct fh_opener *o, const struct fh_checkpoint *old, uint64_t *nr);

#endif /* FH_TRUST_HELD_H */
