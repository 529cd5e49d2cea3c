/* SPDX-License-Identifier: Apache-2.0 */
/*
 * AES-256-GCM for packets.  libsodium's is the one that is always there.  Where
 * Intel's multi-buffer library (Debian: libipsec-mb1, which DPDK's drivers bring
 * along) can be loaded it is used instead: the same bytes for less than half of
 * the instructions, most of all in short packets, because the powers of the hash
 * key lie ready in the expanded key.  Before it is used it has to agree with
 * libsodium.
 *
 * Its code runs in constant time as libsodium's does: AES and the hash are the
 * CPU's own instructions in either.
 */
#ifndef FH_WIRE_GCM_H
#define FH_WIRE_GCM_H

#include <sodium.h>

#include "runtime/wire/packet.h"

#define FHW_GCM_KEY_BYTES 1088u /* an expanded key of either, and room to align it */

struct fhw_gcm_key {
	_Alignas(16) uint8_t room[FHW_GCM_KEY_BYTES];
};

/* Once a process and before the others, any thread, any number of times. libsodium has started. */
void fhw_gcm_init(void);
/* Whose it is: "libsodium" or "libipsec-mb". */
const char *fhw_gcm_name(void);
/* @key: 32 bytes. @k stays where it is: it cannot be copied. */
void fhw_gcm_expand(struct fhw_gcm_key *k, const uint8_t *key);
/* @n bytes from @m to @c, the same or apart; @ad: @ad_bytes; @nonce: 12 bytes. */
void fhw_gcm_seal(const struct fhw_gcm_key *k, const uint8_t *nonce, const uint8_t *ad, uint32_t ad_bytes, uint8_t *c,
		  const uint8_t *m, uint32_t n, uint8_t tag[FHW_TAG_BYTES]);
/* In place. False: forged, and then @c is wiped. */
bool fhw_gcm_open(const struct fhw_gcm_key *k, const uint8_t *nonce, const uint8_t *ad, uint32_t ad_bytes, uint8_t *c,
		  uint32_t n, const uint8_t tag[FHW_TAG_BYTES]);

#endif /* FH_WIRE_GCM_H */
