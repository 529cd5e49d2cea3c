/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Sealed bodies: what was asked and answered, compressed and then encrypted with
 * a key of the tenant's own.
 *
 * The texts of a tenant that came between two checkpoints, up to
 * FH_SEGMENT_BYTES of them, are one body, a segment, with an entry of its own: a
 * hash, a tag and the compressor's tables are paid once for all of them.  Until
 * then each lies in the journal, sealed alone.
 *
 * One zstd stream a tenant, flushed after each segment, so that one of a few
 * hundred bytes is told in terms of those before it; a stream is begun anew (a
 * chapter) after FH_CHAPTER_BYTES, at each start of the daemon and in each new
 * file of bodies.  A chapter begins as if fh_body_prime had been said (version 1:
 * nothing).  Each flush is sealed with XChaCha20-Poly1305:
 *
 *   sealed body   [salt, 16 random bytes, at the beginning of a chapter]
 *                 ciphertext, tag (16)
 *   nonce         salt, number of the body in its chapter (big-endian, 8)
 *   bound to      "freehold-body-1", entry number (big-endian, 8), tenant
 *
 * A salt is never used by two chapters, so no nonce is used twice, whatever a
 * crash forgot.  Compression looks at one tenant's bodies only.
 *
 *   text in the journal   nonce (24), ciphertext, tag (16)
 *   bound to              "freehold-text-1", entry number (big-endian, 8), tenant
 *   nonce                 BLAKE2b-192, keyed with the tenant's key, of "freehold-nonce1", entry number, text
 *
 * So a text is sealed to the same bytes each time, and what was signed of it while it
 * lay there (held.h) can be looked at later.  No nonce comes twice for two texts.
 *
 * Files of bodies, body/FIRST (entry of the first body, 12 digits): frames of
 *   entry number (5), length (4; its highest bit: a chapter), both big-endian; the sealed body
 */
#ifndef FH_TRUST_BODY_H
#define FH_TRUST_BODY_H

#include <stdbool.h>

#include "runtime/trust/dir.h"
#include "runtime/trust/merkle.h"
#include "runtime/trust/record.h"

#define FH_BODY_KEY_BYTES 32
#define FH_BODY_SALT_BYTES 16
#define FH_BODY_TAG_BYTES 16
#define FH_BODY_MAX (64u << 20)	       /* bytes of one body */
#define FH_BODY_FRAME_BYTES 9	       /* before a sealed body in its file */
#define FH_BODY_FILE_BYTES (16u << 20) /* a file is ended by the body that would make it longer */
#define FH_CHAPTER_BYTES (1u << 20)
#define FH_SEGMENT_BYTES (64u << 10) /* of text; one that is longer is a segment alone */
#define FH_TEXT_NONCE_BYTES 24
#define FH_TEXT_SEAL_BYTES (FH_TEXT_NONCE_BYTES + FH_BODY_TAG_BYTES) /* that a text in the journal is longer by */
#define FH_TENANTS_OPEN 16 /* streams at once; the one that was used last longest ago makes room */

struct fh_stream; /* of body.c */

/* Texts that are in the journal and in no segment yet, one after the other. */
struct fh_texts {
	uint8_t *p;
	size_t n, cap;
	uint32_t nr;
	uint64_t first;		 /* entry of the first */
	uint64_t from_us, to_us; /* the earliest and the latest time of their entries */
};

struct fh_tenant {
	char name[FH_RECORD_NAME_MAX + 1];
	uint64_t id; /* of this run's */
	uint8_t key[FH_BODY_KEY_BYTES];
	struct fh_stream *stream; /* NULL: none open */
	uint64_t used;		  /* a clock of uses */
	struct fh_texts texts;	  /* the log's writer's */
};

/* May @name be a tenant's: 1 to 64 of A-Z a-z 0-9 . _ -, no dot first. */
bool fh_tenant_name_ok(const char *name);

/*
 * Read the key of tenant/@name.  -ENOENT: there is none (or it was erased);
 * -EBADMSG: the file is damaged.
 */
int fh_tenant_load(const struct fh_dir *d, const char *name, uint8_t key[FH_BODY_KEY_BYTES]);
/* Make and store one; durable on return. */
int fh_tenant_make(struct fh_dir *d, const char *name, uint8_t key[FH_BODY_KEY_BYTES]);
/* Overwrite and remove it; durable on return. 0, -ENOENT, -errno. */
int fh_tenant_erase(struct fh_dir *d, const char *name);
/* What the log says of a key. */
void fh_tenant_key_hash(const uint8_t key[FH_BODY_KEY_BYTES], uint8_t out[32]);

/*
 * Seal @text as the body of entry @index.  *out is malloc'ed; *chapter: one
 * begins here; @fresh asks for that.  0, -ENOMEM, -E2BIG.
 */
int fh_body_seal(struct fh_tenant *t, uint64_t index, const void *text, size_t n, bool fresh, uint8_t **out,
		 size_t *sealed, bool *chapter);
/* A sealed body of @n bytes of text is no longer. */
size_t fh_body_sealed_most(size_t n);
void fh_stream_close(struct fh_tenant *t);

/* Seal @text as that of entry @index in the journal, into @out: @n and FH_TEXT_SEAL_BYTES. */
void fh_text_seal(const uint8_t key[FH_BODY_KEY_BYTES], const char *tenant, uint64_t index, const void *text, size_t n,
		  uint8_t *out);
/* Open it into @out: @n less FH_TEXT_SEAL_BYTES. 0, -EBADMSG. */
int fh_text_open(const uint8_t key[FH_BODY_KEY_BYTES], const char *tenant, uint64_t index, const uint8_t *sealed,
		 size_t n, uint8_t *out);

/* prime.c */
extern const char fh_body_prime[]; /* [fh_body_prime_bytes] */
extern const size_t fh_body_prime_bytes;

/* The reading side of a stream. Bodies of a chapter are opened in order, from its first. */
struct fh_body_reader;
int fh_body_reader_create(struct fh_body_reader **out);
void fh_body_reader_free(struct fh_body_reader *r);
/* @primed: the chapter is one of version 2. *text: malloc'ed. -EBADMSG: not sealed with this key, or not as this entry;
 * -EINVAL: not a zstd stream. */
int fh_body_open(struct fh_body_reader *r, const uint8_t key[FH_BODY_KEY_BYTES], const char *tenant, uint64_t index,
		 bool chapter, bool primed, const uint8_t *sealed, size_t n, size_t want, char **text);

void fh_body_frame(uint64_t index, uint32_t n, bool chapter, uint8_t out[FH_BODY_FRAME_BYTES]);
/* What a frame says; anything can stand there, so look before using it. Returns the sealed body's length. */
uint32_t fh_body_frame_read(const void *frame, uint64_t *index);
void fh_body_path(uint64_t first, char out[FH_DIR_PATH_MAX]);

#endif /* FH_TRUST_BODY_H */
