// SPDX-License-Identifier: Apache-2.0
/* Keys and packets; see crypt.h. */
#include <stdio.h>
#include <string.h>

#include "runtime/wire/crypt.h"

int fhw_crypt_init(void)
{
	if (sodium_init() < 0)
		return -EIO;
	fhw_gcm_init();
	return 0;
}

bool fhw_has_aes(void)
{
	return crypto_aead_aes256gcm_is_available();
}

void fhw_keypair_from(const uint8_t secret[FHW_KEY_BYTES], struct fhw_keypair *k)
{
	memcpy(k->secret, secret, FHW_KEY_BYTES);
	crypto_scalarmult_base(k->public, k->secret);
}

/* ---- text ---- */

void fhw_key_text(const uint8_t key[FHW_KEY_BYTES], char out[FHW_KEY_TEXT])
{
	sodium_bin2base64(out, FHW_KEY_TEXT, key, FHW_KEY_BYTES, sodium_base64_VARIANT_URLSAFE_NO_PADDING);
}

int fhw_key_parse(const char *text, size_t n, uint8_t key[FHW_KEY_BYTES])
{
	size_t got = 0;
	const char *end;

	if (n != FHW_KEY_TEXT - 1 ||
	    sodium_base642bin(key, FHW_KEY_BYTES, text, n, NULL, &got, &end, sodium_base64_VARIANT_URLSAFE_NO_PADDING))
		return -EINVAL;
	return got == FHW_KEY_BYTES && end == text + n ? 0 : -EINVAL;
}

int fhw_key_load(const char *path, struct fhw_keypair *k, struct fh_err *err)
{
	uint8_t secret[FHW_KEY_BYTES];
	char line[256];
	int rc = -ENODATA;
	FILE *f;

	if (fhw_crypt_init())
		return fh_errf(err, -EIO, "libsodium does not start");
	f = fopen(path, "re");
	if (!f)
		return fh_errf(err, -errno, "%s: %s: `freehold udp-key` makes such a file", path, strerror(errno));
	while (rc == -ENODATA && fgets(line, sizeof(line), f)) {
		char *p = line + strspn(line, " \t\r\n");
		size_t n = strcspn(p, " \t\r\n");

		if (n && *p != '#')
			rc = fhw_key_parse(p, n, secret);
	}
	fclose(f);
	sodium_memzero(line, sizeof(line));
	if (rc)
		return fh_errf(err, -EINVAL, "%s: no secret key in it: `freehold udp-key` makes such a file", path);
	fhw_keypair_from(secret, k);
	sodium_memzero(secret, sizeof(secret));
	return 0;
}

/* ---- packets ---- */

static void hash(const uint8_t key[FHW_KEY_BYTES], const char *label, uint8_t out[FHW_KEY_BYTES])
{
	uint8_t tmp[FHW_KEY_BYTES];

	crypto_generichash(tmp, sizeof(tmp), (const uint8_t *)label, strlen(label), key, FHW_KEY_BYTES);
	memcpy(out, tmp, sizeof(tmp));
	sodium_memzero(tmp, sizeof(tmp));
}

/* The key of the epoch that d->chain is of, to its place; the chain moves on. */
static void next_key(struct fhw_dir *d, uint64_t epoch)
{
	union fhw_key *k = &d->keys[epoch % 3];
	uint8_t key[FHW_KEY_BYTES];

	hash(d->chain, d->aes ? "freehold aes256gcm" : "freehold chacha20poly1305", key);
	hash(d->chain, "freehold next", d->chain);
	if (d->aes)
		fhw_gcm_expand(&k->aes, key);
	else
		memcpy(k->chacha, key, sizeof(key));
	sodium_memzero(key, sizeof(key));
}

void fhw_dir_init(struct fhw_dir *d, const uint8_t secret[FHW_KEY_BYTES], bool aes)
{
	d->aes = aes;
	d->epoch = 0;
	memcpy(d->chain, secret, FHW_KEY_BYTES);
	next_key(d, 0);
	next_key(d, 1);
}

/* The key of @pn, or NULL. */
static const union fhw_key *key_of(const struct fhw_dir *d, uint64_t pn)
{
	uint64_t epoch = pn >> FHW_EPOCH_BITS;

	if (epoch > d->epoch + 1 || epoch + 1 < d->epoch)
		return NULL;
	return &d->keys[epoch % 3];
}

/* A packet of @pn is known to be genuine, or is ours. */
static void move_on(struct fhw_dir *d, uint64_t pn)
{
	if (pn >> FHW_EPOCH_BITS <= d->epoch)
		return;
	d->epoch++;
	next_key(d, d->epoch + 1);
}

static void nonce_of(uint64_t pn, uint8_t nonce[12])
{
	memset(nonce, 0, 4);
	fhw_put64(nonce + 4, pn);
}

void fhw_seal(struct fhw_dir *d, uint64_t pn, const uint8_t *ad, uint8_t *c, const uint8_t *m, uint32_t n,
	      uint8_t tag[FHW_TAG_BYTES])
{
	const union fhw_key *k;
	uint8_t nonce[12];

	move_on(d, pn);
	k = key_of(d, pn);
	nonce_of(pn, nonce);
	if (d->aes)
		fhw_gcm_seal(&k->aes, nonce, ad, FHW_AD_BYTES, c, m, n, tag);
	else
		crypto_aead_chacha20poly1305_ietf_encrypt_detached(c, tag, NULL, m, n, ad, FHW_AD_BYTES, NULL, nonce,
								   k->chacha);
}

bool fhw_unseal(struct fhw_dir *d, uint64_t pn, uint8_t *c, uint32_t n)
{
	const union fhw_key *k = key_of(d, pn);
	uint8_t nonce[12], tag[FHW_TAG_BYTES];

	if (!k)
		return false;
	nonce_of(pn, nonce);
	if (d->aes)
		fhw_gcm_seal(&k->aes, nonce, NULL, 0, c, c, n, tag);
	else
		crypto_aead_chacha20poly1305_ietf_encrypt_detached(c, tag, NULL, c, n, NULL, 0, NULL, nonce, k->chacha);
	return true;
}

bool fhw_open(struct fhw_dir *d, uint64_t pn, const uint8_t *ad, uint8_t *c, uint32_t n,
	      const uint8_t tag[FHW_TAG_BYTES])
{
	const union fhw_key *k = key_of(d, pn);
	uint8_t nonce[12];
	bool good;

	if (!k)
		return false;
	nonce_of(pn, nonce);
	if (d->aes)
		good = fhw_gcm_open(&k->aes, nonce, ad, FHW_AD_BYTES, c, n, tag);
	else
		good = !crypto_aead_chacha20poly1305_ietf_decrypt_detached(c, NULL, c, n, tag, ad, FHW_AD_BYTES, nonce,
									   k->chacha);
	if (good)
		move_on(d, pn);
	return good;
}
