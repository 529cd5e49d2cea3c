// SPDX-License-Identifier: Apache-2.0
/* Tenants' keys, and bodies to sealed bodies and back. */
#include "runtime/trust/body.h"

#include <fcntl.h>
#include <inttypes.h>
#include <sodium.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include <zstd.h>

#define KEY_FILE "freehold-tenant-key-1 "
#define B64 sodium_base64_VARIANT_ORIGINAL
/* Level 9's search with smaller tables: a stream takes 2.5 MiB, not 14, for the same size within 1 %. */
#define LEVEL 9
#define TABLE_LOG 17
#define CHAPTER 0x80000000u /* in the length of a frame */
#define WINDOW_LOG 20	    /* 1 MiB, a chapter: between two requests of one conversation others speak */

struct fh_stream {
	ZSTD_CCtx *z;
	uint8_t salt[FH_BODY_SALT_BYTES];
	uint64_t nr, bytes; /* bodies and their bytes in the chapter */
	bool open;
};

bool fh_tenant_name_ok(const char *name)
{
	size_t n = strlen(name);

	if (!n || n > FH_RECORD_NAME_MAX || *name == '.')
		return false;
	return strspn(name, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._-") == n;
}

static void key_path(const char *name, char out[FH_DIR_PATH_MAX])
{
	snprintf(out, FH_DIR_PATH_MAX, "tenant/%s", name);
}

int fh_tenant_load(const struct fh_dir *d, const char *name, uint8_t key[FH_BODY_KEY_BYTES])
{
	const size_t coded = sodium_base64_ENCODED_LEN(FH_BODY_KEY_BYTES, B64) - 1, before = sizeof(KEY_FILE) - 1;
	char path[FH_DIR_PATH_MAX], *text;
	const char *end;
	size_t n, got;
	int rc;

	key_path(name, path);
	rc = fh_dir_read(d, path, 256, &text, &n);
	if (rc)
		return rc == -EFBIG ? -EBADMSG : rc;
	/* libsodium 1.0.18 takes some characters with the highest bit set for those without. */
	for (size_t i = 0; i < n && !rc; i++)
		rc = text[i] & 0x80 ? -EBADMSG : 0;
	if (rc || n != before + coded + 1 || memcmp(text, KEY_FILE, before) || text[n - 1] != '\n' ||
	    sodium_base642bin(key, FH_BODY_KEY_BYTES, text + before, coded, NULL, &got, &end, B64) ||
	    got != FH_BODY_KEY_BYTES)
		rc = -EBADMSG;
	sodium_memzero(text, n);
	free(text);
	return rc;
}

int fh_tenant_make(struct fh_dir *d, const char *name, uint8_t key[FH_BODY_KEY_BYTES])
{
	char path[FH_DIR_PATH_MAX], coded[sodium_base64_ENCODED_LEN(FH_BODY_KEY_BYTES, B64)], text[128];
	int n, rc;

	randombytes_buf(key, FH_BODY_KEY_BYTES);
	sodium_bin2base64(coded, sizeof(coded), key, FH_BODY_KEY_BYTES, B64);
	n = snprintf(text, sizeof(text), KEY_FILE "%s\n", coded);
	key_path(name, path);
	rc = fh_dir_put(d, path, text, (size_t)n);
	if (!rc)
		rc = fh_dir_sync_names(d);
	sodium_memzero(coded, sizeof(coded));
	sodium_memzero(text, sizeof(text));
	return rc;
}

int fh_tenant_erase(struct fh_dir *d, const char *name)
{
	char path[FH_DIR_PATH_MAX];
	uint8_t noise[128];
	struct stat st;
	int fd, rc;

	key_path(name, path);
	if (fstatat(d->fd, path, &st, AT_SYMLINK_NOFOLLOW))
		return -errno;
	fd = fh_dir_open_file(d, path);
	if (fd < 0)
		return fd;
	randombytes_buf(noise, sizeof(noise));
	rc = fh_dir_write(d, fd, path, 0, noise, st.st_size < 128 ? (size_t)st.st_size : 128);
	if (!rc)
		rc = fh_dir_sync(d, fd, path);
	close(fd);
	if (!rc)
		rc = fh_dir_unlink(d, path, false);
	return rc ? rc : fh_dir_sync_names(d);
}

void fh_tenant_key_hash(const uint8_t key[FH_BODY_KEY_BYTES], uint8_t out[32])
{
	crypto_generichash(out, 32, key, FH_BODY_KEY_BYTES, NULL, 0);
}

static void put_be(uint8_t *out, uint64_t v, int bytes)
{
	for (int i = 0; i < bytes; i++)
		out[i] = (uint8_t)(v >> 8 * (bytes - 1 - i));
}

#define AD_MAX (15 + 8 + FH_RECORD_NAME_MAX)
#define BODY "freehold-body-1"
#define TEXT "freehold-text-1"
#define NONCE "freehold-nonce1"

/* @what: 15 bytes. */
static size_t bound_to(const char *what, uint64_t index, const char *tenant, uint8_t out[AD_MAX])
{
	size_t n = strnlen(tenant, FH_RECORD_NAME_MAX);

	memcpy(out, what, 15);
	put_be(out + 15, index, 8);
	memcpy(out + 23, tenant, n);
	return 23 + n;
}

static void make_nonce(const uint8_t salt[FH_BODY_SALT_BYTES], uint64_t nr, uint8_t out[24])
{
	memcpy(out, salt, FH_BODY_SALT_BYTES);
	put_be(out + FH_BODY_SALT_BYTES, nr, 8);
}

static int stream_begin(struct fh_tenant *t)
{
	struct fh_stream *s = t->stream;

	if (!s) {
		s = calloc(1, sizeof(*s));
		if (!s)
			return -ENOMEM;
		s->z = ZSTD_createCCtx();
		if (!s->z) {
			free(s);
			return -ENOMEM;
		}
		ZSTD_CCtx_setParameter(s->z, ZSTD_c_compressionLevel, LEVEL);
		ZSTD_CCtx_setParameter(s->z, ZSTD_c_windowLog, WINDOW_LOG);
		ZSTD_CCtx_setParameter(s->z, ZSTD_c_hashLog, TABLE_LOG);
		ZSTD_CCtx_setParameter(s->z, ZSTD_c_chainLog, TABLE_LOG);
		t->stream = s;
	}
	ZSTD_CCtx_reset(s->z, ZSTD_reset_session_only);
	if (ZSTD_isError(ZSTD_CCtx_refPrefix(s->z, fh_body_prime, fh_body_prime_bytes)))
		return -ENOMEM;
	randombytes_buf(s->salt, sizeof(s->salt));
	s->nr = s->bytes = 0;
	s->open = true;
	return 0;
}

void fh_stream_close(struct fh_tenant *t)
{
	if (!t->stream)
		return;
	ZSTD_freeCCtx(t->stream->z);
	sodium_memzero(t->stream, sizeof(*t->stream));
	free(t->stream);
	t->stream = NULL;
}

/* Compress and flush into @out. Bytes, or -errno. */
static ssize_t deflate_body(struct fh_stream *s, const void *text, size_t n, uint8_t *out, size_t cap)
{
	ZSTD_inBuffer in = {text, n, 0};
	ZSTD_outBuffer to = {out, cap, 0};
	size_t left;

	do {
		left = ZSTD_compressStream2(s->z, &to, &in, ZSTD_e_flush);
		if (ZSTD_isError(left) || (left && to.pos == to.size))
			return -ENOMEM;
	} while (left);
	return (ssize_t)to.pos;
}

size_t fh_body_sealed_most(size_t n)
{
	return FH_BODY_SALT_BYTES + ZSTD_compressBound(n) + 64 + FH_BODY_TAG_BYTES;
}

int fh_body_seal(struct fh_tenant *t, uint64_t index, const void *text, size_t n, bool fresh, uint8_t **out,
		 size_t *sealed, bool *chapter)
{
	size_t cap = ZSTD_compressBound(n) + 64, salt;
	uint8_t nonce[24], ad[AD_MAX];
	unsigned long long len;
	ssize_t packed;
	int rc = 0;

	if (n > FH_BODY_MAX)
		return -E2BIG;
	fresh |= !t->stream || !t->stream->open || t->stream->bytes > FH_CHAPTER_BYTES;
	if (fresh)
		rc = stream_begin(t);
	if (rc)
		return rc;
	salt = fresh ? FH_BODY_SALT_BYTES : 0;
	*out = malloc(fh_body_sealed_most(n));
	packed = *out ? deflate_body(t->stream, text, n, *out + salt, cap) : -ENOMEM;
	if (packed < 0) {
		/* The stream has taken part of it in. */
		t->stream->open = false;
		free(*out);
		return (int)packed;
	}
	memcpy(*out, t->stream->salt, salt);
	make_nonce(t->stream->salt, t->stream->nr++, nonce);
	t->stream->bytes += n;
	crypto_aead_xchacha20poly1305_ietf_encrypt(*out + salt, &len, *out + salt, (unsigned long long)packed, ad,
						   bound_to(BODY, index, t->name, ad), NULL, nonce, t->key);
	*sealed = salt + (size_t)len;
	*chapter = fresh;
	return 0;
}

/* A hash with the key, and no random number: see body.h. */
static void text_nonce(const uint8_t key[FH_BODY_KEY_BYTES], uint64_t index, const void *text, size_t n,
		       uint8_t out[FH_TEXT_NONCE_BYTES])
{
	crypto_generichash_state state;
	uint8_t head[AD_MAX];

	crypto_generichash_init(&state, key, FH_BODY_KEY_BYTES, FH_TEXT_NONCE_BYTES);
	crypto_generichash_update(&state, head, bound_to(NONCE, index, "", head));
	crypto_generichash_update(&state, text, n);
	crypto_generichash_final(&state, out, FH_TEXT_NONCE_BYTES);
	sodium_memzero(&state, sizeof(state));
}

void fh_text_seal(const uint8_t key[FH_BODY_KEY_BYTES], const char *tenant, uint64_t index, const void *text, size_t n,
		  uint8_t *out)
{
	unsigned long long len;
	uint8_t ad[AD_MAX];

	text_nonce(key, index, text, n, out);
	crypto_aead_xchacha20poly1305_ietf_encrypt(out + FH_TEXT_NONCE_BYTES, &len, text, n, ad,
						   bound_to(TEXT, index, tenant, ad), NULL, out, key);
}

int fh_text_open(const uint8_t key[FH_BODY_KEY_BYTES], const char *tenant, uint64_t index, const uint8_t *sealed,
		 size_t n, uint8_t *out)
{
	unsigned long long len;
	uint8_t ad[AD_MAX];

	if (n < FH_TEXT_SEAL_BYTES || crypto_aead_xchacha20poly1305_ietf_decrypt(
					      out, &len, NULL, sealed + FH_TEXT_NONCE_BYTES, n - FH_TEXT_NONCE_BYTES,
					      ad, bound_to(TEXT, index, tenant, ad), sealed, key))
		return -EBADMSG;
	return 0;
}

struct fh_body_reader {
	ZSTD_DCtx *z;
	uint8_t salt[FH_BODY_SALT_BYTES];
	uint64_t nr;
	bool open;
};

int fh_body_reader_create(struct fh_body_reader **out)
{
	struct fh_body_reader *r = calloc(1, sizeof(*r));

	if (!r)
		return -ENOMEM;
	r->z = ZSTD_createDCtx();
	if (!r->z) {
		free(r);
		return -ENOMEM;
	}
	ZSTD_DCtx_setParameter(r->z, ZSTD_d_windowLogMax, WINDOW_LOG);
	*out = r;
	return 0;
}

void fh_body_reader_free(struct fh_body_reader *r)
{
	if (!r)
		return;
	ZSTD_freeDCtx(r->z);
	free(r);
}

/* Exactly @want bytes, and all of @p used. @out: [want + 1]: one more would be seen there. */
static int inflate_body(struct fh_body_reader *r, const uint8_t *p, size_t n, char *out, size_t want)
{
	ZSTD_inBuffer in = {p, n, 0};
	ZSTD_outBuffer to = {out, want + 1, 0};
	size_t at, rc;

	do {
		at = in.pos + to.pos;
		rc = ZSTD_decompressStream(r->z, &to, &in);
		if (ZSTD_isError(rc) || !rc)
			return -EINVAL;
	} while (in.pos + to.pos != at && to.pos <= want);
	return in.pos == in.size && to.pos == want ? 0 : -EINVAL;
}

int fh_body_open(struct fh_body_reader *r, const uint8_t key[FH_BODY_KEY_BYTES], const char *tenant, uint64_t index,
		 bool chapter, bool primed, const uint8_t *sealed, size_t n, size_t want, char **text)
{
	uint8_t nonce[24], ad[AD_MAX], *packed;
	unsigned long long len;
	int rc = 0;

	*text = NULL;
	if (chapter) {
		if (n < FH_BODY_SALT_BYTES)
			return -EBADMSG;
		memcpy(r->salt, sealed, FH_BODY_SALT_BYTES);
		sealed += FH_BODY_SALT_BYTES;
		n -= FH_BODY_SALT_BYTES;
		ZSTD_DCtx_reset(r->z, ZSTD_reset_session_only);
		if (ZSTD_isError(
			    ZSTD_DCtx_refPrefix(r->z, primed ? fh_body_prime : NULL, primed ? fh_body_prime_bytes : 0)))
			return -ENOMEM;
		r->nr = 0;
		r->open = true;
	}
	if (!r->open || n < FH_BODY_TAG_BYTES || want > FH_BODY_MAX)
		return -EBADMSG;
	make_nonce(r->salt, r->nr++, nonce);
	packed = malloc(n);
	if (!packed)
		return -ENOMEM;
	if (crypto_aead_xchacha20poly1305_ietf_decrypt(packed, &len, NULL, sealed, n, ad,
						       bound_to(BODY, index, tenant, ad), nonce, key))
		rc = -EBADMSG;
	if (!rc) {
		*text = malloc(want + 1);
		rc = *text ? inflate_body(r, packed, (size_t)len, *text, want) : -ENOMEM;
	}
	free(packed);
	if (rc) {
		r->open = false;
		free(*text);
		*text = NULL;
		return rc;
	}
	(*text)[want] = 0;
	return 0;
}

void fh_body_frame(uint64_t index, uint32_t n, bool chapter, uint8_t out[FH_BODY_FRAME_BYTES])
{
	put_be(out, index, 5);
	put_be(out + 5, n | (chapter ? CHAPTER : 0), 4);
}

static uint64_t get_be(const uint8_t *p, int bytes)
{
	uint64_t v = 0;

	for (int i = 0; i < bytes; i++)
		v = v << 8 | p[i];
	return v;
}

uint32_t fh_body_frame_read(const void *frame, uint64_t *index)
{
	const uint8_t *p = frame;

	*index = get_be(p, 5);
	return (uint32_t)get_be(p + 5, 4) & ~CHAPTER;
}

void fh_body_path(uint64_t first, char out[FH_DIR_PATH_MAX])
{
	snprintf(out, FH_DIR_PATH_MAX, "body/%012" PRIu64, first);
}
