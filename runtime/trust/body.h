/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Sealed bodies: what was asked and answered, compressed and then encrypted with
 * a key of the tenant's own.
 *
 * One zstd stream a tenant, flushed after each body, so that a body of a few
 * hundred bytes is told in terms of those before it; a stream is begun anew (a
 * chapter) after FH_CHAPTER_BYTES, at each start of the daemon and in each new
 * file of bodies.  Each flush is sealed with XChaCha20-Poly1305:
 *
 *   sealed body   [salt, 16 random bytes, at the beginning of a chapter]
 *                 ciphertext, tag (16)
 *   nonce         salt, number of the body in its chapter (big-endian, 8)
 *   bound to      "freehold-body-1", entry number (big-endian, 8), tenant
 *
 * A salt is never used by two chapters, so no nonce is used twice, whatever a
 * crash forgot.  Compression looks at one tenant's bodies only.
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
#define FH_TENANTS_OPEN 16 /* streams at once; the one that was used last longest ago makes room */

struct fh_stream; /* of body.c */

struct fh_tenant {
	char name[FH_RECORD_NAME_MAX + 1];
	uint8_t key[FH_BODY_KEY_BYTES];
	struct fh_stream *stream; /* NULL: none open */
	uint64_t used;		  /* a clock of uses */
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

/* The reading side of a stream. Bodies of a chapter are opened in order, from its first. */
struct fh_body_reader;
int fh_body_reader_create(struct fh_body_reader **out);
void fh_body_reader_free(struct fh_body_reader *r);
/* *text: malloc'ed. -EBADMSG: not sealed with this key, or not as this entry; -EINVAL: not a zstd stream. */
int fh_body_open(struct fh_body_reader *r, const uint8_t key[FH_BODY_KEY_BYTES], const char *tenant, uint64_t index,
		 bool chapter, const uint8_t *sealed, size_t n, size_t want, char **text);

void fh_body_frame(uint64_t index, uint32_t n, bool chapter, uint8_t out[FH_BODY_FRAME_BYTES]);
/* What a frame says; anything can stand there, so look before using it. Returns the sealed body's length. */
uint32_t fh_body_frame_read(const void *frame, uint64_t *index);
void fh_body_path(uint64_t first, char out[FH_DIR_PATH_MAX]);

#endif /* FH_TRUST_BODY_H */
