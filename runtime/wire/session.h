/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What both ends of a session share: keys, numbers, and how a packet is opened
 * and built.
 */
#ifndef FH_WIRE_SESSION_H
#define FH_WIRE_SESSION_H

#include "runtime/wire/crypt.h"
#include "runtime/wire/flow.h"

#define FHW_PROLOGUE "freehold udp 1"
#define FHW_SLOTS 2048u /* request r has place r % FHW_SLOTS: two with the same place are not open together */

#define FHW_DEAD_US 10000000u	 /* silence after which the other side is gone, while there is something to say */
#define FHW_STALE_US 5000000u	 /* a session without requests that was silent for so long is not built upon */
#define FHW_PING_US 50000u	 /* silence after which a client with open requests asks, twice as long each time ... */
#define FHW_PING_MAX_US 1000000u /* ... up to this */

struct fhw_session {
	uint32_t index, remote; /* our number of it, and theirs */
	uint32_t mtu;
	struct fh_dgram_addr peer;
	struct fhw_dir tx, rx;
	struct fhw_flow flow;
	struct fhw_rec recs[FHW_RECS];
};

enum fhw_verdict {
	FHW_GOOD,
	FHW_MALFORMED, /* no packet of this protocol */
	FHW_REPLAYED,  /* came before, or is too old to tell */
	FHW_FORGED,    /* the tag is wrong */
	FHW_RUDE,      /* genuine, but against the rules */
};

/*
 * Open a DATA packet where it lies, whose header @h was parsed from it; its
 * body is at @p + FHW_HDR_BYTES.  Marks it as received, and takes note of what
 * it acknowledges.
 */
enum fhw_verdict fhw_session_open(struct fhw_session *s, uint8_t *p, uint32_t bytes, const struct fhw_hdr *h,
				  bool from_client, uint64_t now_us);
/*
 * Build a packet in @d from @h (kind, request, seq, ack), encrypting @n bytes
 * from @body behind the header.  @r: its record, whose number it takes; NULL: it
 * is not acknowledged.
 */
void fhw_session_put(struct fhw_session *s, struct fh_dgram *d, struct fhw_hdr *h, const void *body, uint32_t n,
		     struct fhw_rec *r, uint64_t now_us);
/* The same with a body that is encrypted in place and sent as a tail. */
void fhw_session_put_tail(struct fhw_session *s, struct fh_dgram *d, struct fhw_hdr *h, uint8_t *body, uint32_t n,
			  struct fhw_rec *r, uint64_t now_us);

#endif /* FH_WIRE_SESSION_H */
