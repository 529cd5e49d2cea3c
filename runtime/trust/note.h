/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Signed notes and checkpoints, as C2SP signed-note and tlog-checkpoint have
 * them, with Ed25519 keys.
 *
 *   origin\n  size\n  base64(root)\n  [texts NR FIRST base64(hash)\n]  \n  — NAME base64(key id || signature)\n
 *
 * A key is known by its verifier key, NAME+ID+base64(0x01 || public key), which
 * is what an auditor is given once and keeps.
 */
#ifndef FH_TRUST_NOTE_H
#define FH_TRUST_NOTE_H

#include "runtime/base/err.h"
#include "runtime/trust/merkle.h"

#define FH_NOTE_MAX 65536      /* bytes of a note that is read */
#define FH_NOTE_NAME_MAX 128   /* of a key, with its zero */
#define FH_NOTE_KEY_MAX 256    /* a key as text */
#define FH_CHECKPOINT_MAX 1024 /* bytes of a checkpoint that is written */

struct fh_note_key {
	char name[FH_NOTE_NAME_MAX];
	uint32_t id;
	uint8_t pub[32];
	uint8_t secret[64]; /* as libsodium has it; only with can_sign */
	bool can_sign;
};

/* A new key. -EINVAL for a name that is empty or has a space, a '+' or a control character. */
int fh_note_key_make(const char *name, struct fh_note_key *key);
/* NAME+ID+DATA, or PRIVATE+KEY+NAME+ID+DATA; a newline at the end is no matter. -EINVAL with @err. */
int fh_note_key_parse(const char *text, struct fh_note_key *key, struct fh_err *err);
void fh_note_key_public(const struct fh_note_key *key, char out[FH_NOTE_KEY_MAX]);
void fh_note_key_private(const struct fh_note_key *key, char out[FH_NOTE_KEY_MAX]);

/*
 * @text (which ends with a newline) with its signature, into @out.  Bytes
 * written without the final zero, or -ENOSPC.
 */
int fh_note_sign(const struct fh_note_key *key, const char *text, char *out, size_t cap);
/* Is there a signature by @key?  Bytes of the text, with its last newline; -EINVAL or -EBADMSG with @err. */
int fh_note_open(const char *note, size_t n, const struct fh_note_key *key, struct fh_err *err);

struct fh_checkpoint {
	char origin[FH_NOTE_NAME_MAX];
	uint64_t size;
	struct fh_hash root;
	/* Texts that are in no segment yet (held.h): a fourth line, if there are any. */
	struct {
		uint64_t nr, first; /* how many, the entry of the first */
		struct fh_hash hash;
	} held;
};

/* Bytes written, or -ENOSPC. */
int fh_checkpoint_sign(const struct fh_note_key *key, const struct fh_checkpoint *cp, char out[FH_CHECKPOINT_MAX]);
/* @key NULL: read it, trusting nobody. */
int fh_checkpoint_open(const char *note, size_t n, const struct fh_note_key *key, struct fh_checkpoint *cp,
		       struct fh_err *err);

#endif /* FH_TRUST_NOTE_H */
