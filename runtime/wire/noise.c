// SPDX-License-Identifier: Apache-2.0
/*
 * Noise_IK_25519_ChaChaPoly_BLAKE2b:
 *
 *	  <- s
 *	  ...
 *	  -> e, es, s, ss
 *	  <- e, ee, se
 *
 * The names are those of The Noise Protocol Framework, revision 34.
 */
#include "runtime/wire/crypt.h"

#define HASH 64u
#define BLOCK 128u

static const char NAME[] = "Noise_IK_25519_ChaChaPoly_BLAKE2b";

/* HMAC (RFC 2104) with BLAKE2b over two pieces. */
static void hmac(const uint8_t key[HASH], const void *a, size_t an, const void *b, size_t bn, uint8_t out[HASH])
{
	crypto_generichash_state st;
	uint8_t pad[BLOCK], inner[HASH];

	memset(pad, 0x36, sizeof(pad));
	for (size_t i = 0; i < HASH; i++)
		pad[i] ^= key[i];
	crypto_generichash_init(&st, NULL, 0, HASH);
	crypto_generichash_update(&st, pad, sizeof(pad));
	crypto_generichash_update(&st, a, an);
	if (bn)
		crypto_generichash_update(&st, b, bn);
	crypto_generichash_final(&st, inner, HASH);
	for (size_t i = 0; i < BLOCK; i++)
		pad[i] ^= 0x36 ^ 0x5c;
	crypto_generichash_init(&st, NULL, 0, HASH);
	crypto_generichash_update(&st, pad, sizeof(pad));
	crypto_generichash_update(&st, inner, sizeof(inner));
	crypto_generichash_final(&st, out, HASH);
	sodium_memzero(pad, sizeof(pad));
	sodium_memzero(inner, sizeof(inner));
}

/* HKDF with two outputs. */
static void hkdf(const uint8_t ck[HASH], const uint8_t *in, size_t n, uint8_t out1[HASH], uint8_t out2[HASH])
{
	uint8_t temp[HASH], first[HASH];
	const uint8_t one = 1, two = 2;

	hmac(ck, in, n, NULL, 0, temp);
	hmac(temp, &one, 1, NULL, 0, first);
	hmac(temp, first, HASH, &two, 1, out2);
	memcpy(out1, first, HASH);
	sodium_memzero(temp, sizeof(temp));
	sodium_memzero(first, sizeof(first));
}

static void mix_hash(struct fhw_noise *z, const void *p, size_t n)
{
	crypto_generichash_state st;

	crypto_generichash_init(&st, NULL, 0, HASH);
	crypto_generichash_update(&st, z->h, HASH);
	if (n)
		crypto_generichash_update(&st, p, n);
	crypto_generichash_final(&st, z->h, HASH);
}

static int mix_dh(struct fhw_noise *z, const uint8_t secret[32], const uint8_t public[32])
{
	uint8_t dh[32], out2[HASH];

	/* Refuses points of small order. */
	if (crypto_scalarmult(dh, secret, public))
		return -EINVAL;
	hkdf(z->ck, dh, sizeof(dh), z->ck, out2);
	memcpy(z->k, out2, 32);
	z->n = 0;
	sodium_memzero(dh, sizeof(dh));
	sodium_memzero(out2, sizeof(out2));
	return 0;
}

static void nonce_of(uint64_t n, uint8_t out[12])
{
	memset(out, 0, 4);
	fhw_put64(out + 4, n);
}

static void encrypt_and_hash(struct fhw_noise *z, const uint8_t *m, size_t n, uint8_t *out)
{
	uint8_t nonce[12];

	nonce_of(z->n++, nonce);
	crypto_aead_chacha20poly1305_ietf_encrypt(out, NULL, m, n, z->h, HASH, NULL, nonce, z->k);
	mix_hash(z, out, n + 16);
}

static int decrypt_and_hash(struct fhw_noise *z, const uint8_t *c, size_t bytes, uint8_t *out)
{
	uint8_t nonce[12];

	nonce_of(z->n++, nonce);
	if (crypto_aead_chacha20poly1305_ietf_decrypt(out, NULL, NULL, c, bytes, z->h, HASH, nonce, z->k))
		return -EBADMSG;
	mix_hash(z, c, bytes);
	return 0;
}

static void begin(struct fhw_noise *z, const uint8_t server[32], const void *prologue, size_t n)
{
	/* Not longer than a hash: padded with zeros. */
	memset(z->h, 0, sizeof(z->h));
	memcpy(z->h, NAME, sizeof(NAME) - 1);
	memcpy(z->ck, z->h, sizeof(z->ck));
	mix_hash(z, prologue, n);
	mix_hash(z, server, 32);
}

void fhw_noise_client(struct fhw_noise *z, const struct fhw_keypair *s, const uint8_t server[32],
		      const uint8_t e_secret[32], const void *prologue, size_t prologue_bytes)
{
	*z = (struct fhw_noise){.s = *s};
	memcpy(z->rs, server, 32);
	fhw_keypair_from(e_secret, &z->e);
	begin(z, server, prologue, prologue_bytes);
}

void fhw_noise_server(struct fhw_noise *z, const struct fhw_keypair *s, const void *prologue, size_t prologue_bytes)
{
	*z = (struct fhw_noise){.s = *s};
	begin(z, s->public, prologue, prologue_bytes);
}

int fhw_noise_write1(struct fhw_noise *z, const uint8_t *payload, size_t n, uint8_t *out)
{
	memcpy(out, z->e.public, 32);
	mix_hash(z, out, 32);
	if (mix_dh(z, z->e.secret, z->rs))
		return -EINVAL;
	encrypt_and_hash(z, z->s.public, 32, out + 32);
	if (mix_dh(z, z->s.secret, z->rs))
		return -EINVAL;
	encrypt_and_hash(z, payload, n, out + 80);
	return 0;
}

int fhw_noise_read1(struct fhw_noise *z, const uint8_t *msg, size_t bytes, uint8_t *payload)
{
	if (bytes < 96)
		return -EBADMSG;
	memcpy(z->re, msg, 32);
	mix_hash(z, msg, 32);
	if (mix_dh(z, z->s.secret, z->re) || decrypt_and_hash(z, msg + 32, 48, z->rs) ||
	    mix_dh(z, z->s.secret, z->rs) || decrypt_and_hash(z, msg + 80, bytes - 80, payload))
		return -EBADMSG;
	return 0;
}

int fhw_noise_write2(struct fhw_noise *z, const uint8_t e_secret[32], const uint8_t *payload, size_t n, uint8_t *out)
{
	fhw_keypair_from(e_secret, &z->e);
	memcpy(out, z->e.public, 32);
	mix_hash(z, out, 32);
	if (mix_dh(z, z->e.secret, z->re) || mix_dh(z, z->e.secret, z->rs))
		return -EINVAL;
	encrypt_and_hash(z, payload, n, out + 32);
	return 0;
}

int fhw_noise_read2(struct fhw_noise *z, const uint8_t *msg, size_t bytes, uint8_t *payload)
{
	if (bytes < 48)
		return -EBADMSG;
	memcpy(z->re, msg, 32);
	mix_hash(z, msg, 32);
	if (mix_dh(z, z->e.secret, z->re) || mix_dh(z, z->s.secret, z->re) ||
	    decrypt_and_hash(z, msg + 32, bytes - 32, payload))
		return -EBADMSG;
	return 0;
}

void fhw_noise_split(struct fhw_noise *z, uint8_t to_server[32], uint8_t to_client[32])
{
	uint8_t a[HASH], b[HASH];

	hkdf(z->ck, NULL, 0, a, b);
	memcpy(to_server, a, 32);
	memcpy(to_client, b, 32);
	sodium_memzero(a, sizeof(a));
	sodium_memzero(b, sizeof(b));
	sodium_memzero(z, sizeof(*z));
}

void fhw_init_mac(const uint8_t server[32], const uint8_t *init, uint32_t bytes, uint8_t mac[FHW_MAC_BYTES])
{
	static const char label[] = "freehold udp mac";
	crypto_generichash_state st;
	uint8_t key[32];

	crypto_generichash(key, sizeof(key), (const uint8_t *)label, sizeof(label) - 1, server, 32);
	crypto_generichash_init(&st, key, sizeof(key), FHW_MAC_BYTES);
	crypto_generichash_update(&st, init, FHW_INIT_MAC);
	crypto_generichash_update(&st, init + FHW_INIT_COOKIE, bytes - FHW_INIT_COOKIE);
	crypto_generichash_final(&st, mac, FHW_MAC_BYTES);
}
