/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The wire protocol's packets, as bytes (Documentation/design/wire-protocol.rst).
 *
 * Everything is little endian and read a byte at a time: a packet may lie at any
 * address.  Nothing here keeps state; a parser says yes or no, and what it says
 * yes to lies within the bytes that it was given.
 *
 *   INIT    client -> server   the handshake's first message, perhaps with a cookie
 *   RETRY   server -> client   here is a cookie: show that you receive what is sent to you
 *   RESP    server -> client   the handshake's second message
 *   REFUSE  server -> client   no session for you, and why; a hint, anybody could have sent it
 *   RESET   server -> client   no such session; a hint likewise
 *   DATA    both               everything else, sealed
 */
#ifndef FH_WIRE_PACKET_H
#define FH_WIRE_PACKET_H

#include <stdbool.h>
#include <stdint.h>
#include <string.h>

#include "uapi/freehold.h"

#define FHW_VERSION 1
#define FHW_KEY_BYTES 32u
#define FHW_TAG_BYTES 16u
#define FHW_MAC_BYTES 16u

enum fhw_type {
	FHW_INIT = 1,
	FHW_RETRY = 2,
	FHW_RESP = 3,
	FHW_REFUSE = 4,
	FHW_RESET = 5,
	FHW_DATA = 6,
};

/* Of a DATA packet. All but FHW_ACK and FHW_CLOSE are acknowledged, and sent again until they are. */
enum fhw_kind {
	FHW_ACK = 0,	/* nothing but the header */
	FHW_PROMPT = 1, /* client: a piece of a request's message */
	FHW_TOKENS = 2, /* server: token slots */
	FHW_END = 3,	/* server: the end of a request that no slot tells */
	FHW_CANCEL = 4, /* client: end the request */
	FHW_CREDIT = 5, /* client: so many entries of the request have been read */
	FHW_PING = 6,	/* are you there? */
	FHW_CLOSE = 7,	/* the session is over */
	FHW_NR_KINDS,
};

enum fhw_refuse {
	FHW_REFUSE_KEY = 1,	/* the client's key is not on the server's list */
	FHW_REFUSE_FULL = 2,	/* too many sessions */
	FHW_REFUSE_VERSION = 3, /* another version of the protocol */
	FHW_REFUSE_CLOSING = 4, /* the server is going down */
};

/* INIT: type, version, client's session, mac, cookie, Noise message 1, zeros up to the size to be tried. */
#define FHW_INIT_MAC 6u
#define FHW_INIT_COOKIE 22u
#define FHW_INIT_NOISE 38u
#define FHW_HELLO_BYTES 16u /* the payload of Noise message 1 */
#define FHW_NOISE1_BYTES (32u + 48u + FHW_HELLO_BYTES + 16u)
#define FHW_INIT_BYTES (FHW_INIT_NOISE + FHW_NOISE1_BYTES)

/* RETRY: type, version, client's session, the INIT's mac, cookie.  REFUSE: likewise, with the reason for a cookie. */
#define FHW_RETRY_BYTES 38u
#define FHW_REFUSE_BYTES 26u

/* RESP: type, version, client's session, server's session, Noise message 2, zeros up to the INIT's size. */
#define FHW_RESP_NOISE 10u
#define FHW_MODEL_BYTES 96u
#define FHW_WELCOME_BYTES (24u + FHW_MODEL_BYTES) /* the payload of Noise message 2 */
#define FHW_NOISE2_BYTES (32u + FHW_WELCOME_BYTES + 16u)
#define FHW_RESP_BYTES (FHW_RESP_NOISE + FHW_NOISE2_BYTES)

/* RESET: type, version, session and number of the packet that it answers. */
#define FHW_RESET_BYTES 14u

/* DATA: see struct fhw_hdr; the tag, then what is encrypted. The header is FH_DGRAM_SKEW modulo 4 bytes long. */
#define FHW_AD_BYTES 46u
#define FHW_HDR_BYTES (FHW_AD_BYTES + FHW_TAG_BYTES)
#define FHW_END_BYTES 16u
#define FHW_DELAY_US 16u /* unit of fhw_hdr.delay */

#define FHW_HELLO_AES 0x1u   /* the client's CPU has AES and carry-less multiplication */
#define FHW_WELCOME_AES 0x1u /* the session uses AES-256-GCM; otherwise ChaCha20-Poly1305 */

struct fhw_hdr {
	uint8_t kind;	   /* enum fhw_kind */
	uint32_t session;  /* the receiver's number of the session */
	uint64_t pn;	   /* packet number, from 1: the nonce, never used again in a session's direction */
	uint32_t request;  /* which request this is about; 0: none */
	uint32_t seq;	   /* PROMPT: offset; TOKENS: index of the first entry; END: number of entries before */
	uint32_t ack;	   /* PROMPT: bytes of the whole message; client otherwise: entries of @request read */
	uint64_t largest;  /* largest packet number received; 0: none */
	uint64_t received; /* bit i: packet @largest - 1 - i was received */
	uint16_t delay;	   /* how long ago @largest came, in FHW_DELAY_US */
	uint16_t reserved; /* zero */
};

/* What the client says of itself in the handshake, encrypted. */
struct fhw_hello {
	uint32_t flags; /* FHW_HELLO_* */
	uint32_t mtu;	/* largest datagram that it takes */
};

/* And what the server answers. */
struct fhw_welcome {
	uint32_t flags;	       /* FHW_WELCOME_* */
	uint32_t mtu;	       /* of both directions: no datagram of the session is longer */
	uint32_t nr_slots;     /* entries of a request that may wait to be read, a power of two */
	uint32_t max_requests; /* of a session at once */
	uint32_t nr_ctx, nr_vocab;
	char model[FHW_MODEL_BYTES]; /* UTF-8, terminated */
};

/* The body of an END. */
struct fhw_end {
	uint32_t finish; /* enum fh_finish */
	int32_t error;	 /* 0 or negative errno, Linux' numbers */
	uint32_t retry_us;
	uint32_t reserved; /* zero */
};

static inline uint16_t fhw_get16(const uint8_t *p)
{
	return (uint16_t)(p[0] | p[1] << 8);
}

static inline uint32_t fhw_get32(const uint8_t *p)
{
	return (uint32_t)p[0] | (uint32_t)p[1] << 8 | (uint32_t)p[2] << 16 | (uint32_t)p[3] << 24;
}

static inline uint64_t fhw_get64(const uint8_t *p)
{
	return fhw_get32(p) | (uint64_t)fhw_get32(p + 4) << 32;
}

static inline void fhw_put16(uint8_t *p, uint16_t v)
{
	p[0] = (uint8_t)v;
	p[1] = (uint8_t)(v >> 8);
}

static inline void fhw_put32(uint8_t *p, uint32_t v)
{
	fhw_put16(p, (uint16_t)v);
	fhw_put16(p + 2, (uint16_t)(v >> 16));
}

static inline void fhw_put64(uint8_t *p, uint64_t v)
{
	fhw_put32(p, (uint32_t)v);
	fhw_put32(p + 4, (uint32_t)(v >> 32));
}

/* The header of a DATA packet of @bytes. False: it is none. Its tag is at p + FHW_AD_BYTES, its body behind. */
bool fhw_hdr_parse(const uint8_t *p, uint32_t bytes, struct fhw_hdr *h);
/* FHW_AD_BYTES of @h to @p. */
void fhw_hdr_put(const struct fhw_hdr *h, uint8_t *p);
/* Is a body of @bytes possible for this header, and is the header possible for its kind? @from_client: who sent it. */
bool fhw_hdr_sane(const struct fhw_hdr *h, uint32_t bytes, bool from_client);

void fhw_hello_put(const struct fhw_hello *h, uint8_t p[FHW_HELLO_BYTES]);
void fhw_hello_get(const uint8_t p[FHW_HELLO_BYTES], struct fhw_hello *h);
void fhw_welcome_put(const struct fhw_welcome *w, uint8_t p[FHW_WELCOME_BYTES]);
/* False: no server of ours could have sent it. */
bool fhw_welcome_get(const uint8_t p[FHW_WELCOME_BYTES], struct fhw_welcome *w);
void fhw_end_put(const struct fhw_end *e, uint8_t p[FHW_END_BYTES]);
bool fhw_end_get(const uint8_t p[FHW_END_BYTES], struct fhw_end *e);

/* Bytes of a request's message in one packet of a session whose datagrams have up to @mtu bytes. */
static inline uint32_t fhw_piece_bytes(uint32_t mtu)
{
	return (mtu - FHW_HDR_BYTES) & ~15u;
}

/* Token slots likewise. */
static inline uint32_t fhw_piece_slots(uint32_t mtu)
{
	return (mtu - FHW_HDR_BYTES) / (uint32_t)sizeof(struct fh_slot);
}

#endif /* FH_WIRE_PACKET_H */
