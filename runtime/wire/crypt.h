/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The protocol's cryptography, over libsodium.
 *
 * Handshake: Noise_IK_25519_ChaChaPoly_BLAKE2b (The Noise Protocol Framework,
 * revision 34, sections 5 and 7.5): the client knows the server's key before,
 * the server learns the client's, encrypted, and compares it with its list.  As
 * in WireGuard (Donenfeld, NDSS 2017) a keyed hash over the first message keeps
 * the server silent towards who does not know its public key, and a cookie
 * shows that an address is the sender's.
 *
 * Packets: AES-256-GCM where both CPUs have it, else ChaCha20-Poly1305 (RFC
 * 8439), with the tag apart from the text and the packet number as nonce.  Every
 * 2^FHW_EPOCH_BITS packets of a direction its key moves on (a hash chain), long
 * before AES-GCM's limits (RFC 9001, appendix B), and what was used before cannot
 * be computed any more.
 */
#ifndef FH_WIRE_CRYPT_H
#define FH_WIRE_CRYPT_H

#include <sodium.h>

#include "runtime/base/err.h"
#include "runtime/wire/gcm.h"
#include "runtime/wire/packet.h"

#define FHW_EPOCH_BITS 20

struct fhw_keypair {
	uint8_t secret[FHW_KEY_BYTES], public[FHW_KEY_BYTES];
};

/* Once a process, any thread, any number of times; 0 or -EIO. */
int fhw_crypt_init(void);
/* This CPU has what AES-256-GCM needs. */
bool fhw_has_aes(void);
void fhw_keypair_from(const uint8_t secret[FHW_KEY_BYTES], struct fhw_keypair *k);

/* Keys as text: base64 for URLs (RFC 4648, section 5) without padding, 43 characters. */
#define FHW_KEY_TEXT 44
void fhw_key_text(const uint8_t key[FHW_KEY_BYTES], char out[FHW_KEY_TEXT]);
/* @n characters; -EINVAL: that is none. */
int fhw_key_parse(const char *text, size_t n, uint8_t key[FHW_KEY_BYTES]);
/* A secret key's file: its first line that is no comment. 0 or -errno with @err. */
int fhw_key_load(const char *path, struct fhw_keypair *k, struct fh_err *err);

/* ---- handshake ---- */

struct fhw_noise {
	uint8_t h[64], ck[64], k[32];
	uint64_t n;
	struct fhw_keypair s, e;
	uint8_t rs[FHW_KEY_BYTES], re[FHW_KEY_BYTES];
};

/* A client that talks to @server. @e_secret: 32 random bytes. */
void fhw_noise_client(struct fhw_noise *z, const struct fhw_keypair *s, const uint8_t server[FHW_KEY_BYTES],
		      const uint8_t e_secret[FHW_KEY_BYTES], const void *prologue, size_t prologue_bytes);
void fhw_noise_server(struct fhw_noise *z, const struct fhw_keypair *s, const void *prologue, size_t prologue_bytes);
/* Message 1: 32 + 48 + @n + 16 bytes at @out, which must not overlap @payload. 0, or -EINVAL for a weak key. */
int fhw_noise_write1(struct fhw_noise *z, const uint8_t *payload, size_t n, uint8_t *out);
/* @bytes of message 1: the payload (@bytes - 96) to @payload, the client's key to z->rs. -EBADMSG: forged. */
int fhw_noise_read1(struct fhw_noise *z, const uint8_t *msg, size_t bytes, uint8_t *payload);
/* Message 2: 32 + @n + 16 bytes at @out. */
int fhw_noise_write2(struct fhw_noise *z, const uint8_t e_secret[FHW_KEY_BYTES], const uint8_t *payload, size_t n,
		     uint8_t *out);
int fhw_noise_read2(struct fhw_noise *z, const uint8_t *msg, size_t bytes, uint8_t *payload);
/* The secrets of both directions; the handshake's state is wiped. */
void fhw_noise_split(struct fhw_noise *z, uint8_t to_server[FHW_KEY_BYTES], uint8_t to_client[FHW_KEY_BYTES]);

/* The keyed hash over an INIT of @bytes (which has room for it at FHW_INIT_MAC), for @server's public key. */
void fhw_init_mac(const uint8_t server[FHW_KEY_BYTES], const uint8_t *init, uint32_t bytes, uint8_t mac[FHW_MAC_BYTES]);

/* ---- packets ---- */

union fhw_key {
	struct fhw_gcm_key aes;
	uint8_t chacha[FHW_KEY_BYTES];
};

/* One direction of a session. It stays where it was set up (gcm.h). */
struct fhw_dir {
	union fhw_key keys[3];	      /* of epochs @epoch - 1, @epoch and @epoch + 1, at epoch % 3 */
	uint8_t chain[FHW_KEY_BYTES]; /* of epoch + 2 */
	uint64_t epoch;
	bool aes;
};

void fhw_dir_init(struct fhw_dir *d, const uint8_t secret[FHW_KEY_BYTES], bool aes);
/*
 * Encrypt @n bytes from @m to @c (the same, or apart) as packet @pn; @ad:
 * FHW_AD_BYTES.  Packet numbers of a sender grow.
 */
void fhw_seal(struct fhw_dir *d, uint64_t pn, const uint8_t *ad, uint8_t *c, const uint8_t *m, uint32_t n,
	      uint8_t tag[FHW_TAG_BYTES]);
/*
 * Undo what was sealed in place as @pn, to be sealed again under another
 * number: the ciphers are their own inverse but for the tag.  False: its key is
 * gone.
 */
bool fhw_unseal(struct fhw_dir *d, uint64_t pn, uint8_t *c, uint32_t n);
/* Decrypt in place. False: forged, and then @c is wiped; or from an epoch whose key we do not have. */
bool fhw_open(struct fhw_dir *d, uint64_t pn, const uint8_t *ad, uint8_t *c, uint32_t n,
	      const uint8_t tag[FHW_TAG_BYTES]);

#endif /* FH_WIRE_CRYPT_H */
