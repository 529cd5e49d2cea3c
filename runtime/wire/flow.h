/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What both ends of a session do with packet numbers: remember which came,
 * acknowledge them, notice which of our own were lost, and how fast to send.
 *
 * Loss detection and round-trip times are those of RFC 9002 (sections 5 and 6),
 * congestion control is its NewReno (section 7) with pacing (7.7).  What differs:
 * acknowledgements name the largest packet number and the 64 before it instead
 * of ranges, and a probe sends again the oldest packet in flight.
 *
 * Nothing is sent again under its old number.  A *record* stands for a packet
 * that has to be acknowledged: it is in flight, or lost and waiting to be built
 * anew under another number from what the record says of it.
 *
 * Time is an argument, in microseconds of any monotonic clock.
 */
#ifndef FH_WIRE_FLOW_H
#define FH_WIRE_FLOW_H

#include "runtime/net/dgram.h"
#include "runtime/wire/packet.h"

#define FHW_RECS 512u		   /* packet numbers that may be in flight together, a power of two */
#define FHW_WINDOW_WORDS 32u	   /* of the replay window, 64 packet numbers each */
#define FHW_ACK_DELAY_US 5000u	   /* an acknowledgement waits at most so long for company */
#define FHW_ACK_EVERY 4u	   /* packets */
#define FHW_GRANULARITY_US 1000u   /* kGranularity */
#define FHW_INITIAL_RTT_US 100000u /* until there is a sample */
#define FHW_MAX_PTO_US 1000000u
#define FHW_REORDER 3u /* kPacketThreshold */
#define FHW_NEVER UINT64_MAX

enum fhw_rec_state { FHW_REC_FREE, FHW_REC_FLIGHT, FHW_REC_LOST };

struct fhw_rec {
	struct fhw_rec *next, *prev; /* in the list of its state */
	uint64_t pn, sent_us;
	void *owner; /* the request that it belongs to; NULL: none */
	uint32_t request, seq, ack;
	uint32_t nr;	/* bytes of the body */
	uint16_t bytes; /* of the datagram */
	uint8_t kind, state;
	bool tailed;  /* sent with a tail, which was sealed in place as @pn */
	bool busy;    /* and the carrier may still read it */
	uint8_t kept; /* the server's: 1 + the place of its body, where its request is gone; 0: it is not */
	struct fhw_flow *flow;
	struct fh_dgram_tail tail;
};

struct fhw_list {
	struct fhw_rec *head, *tail;
};

struct fhw_flow {
	/* Receiving. */
	uint64_t largest, received, largest_us;
	uint64_t window[FHW_WINDOW_WORDS];
	uint32_t nr_owed; /* packets that want to be acknowledged and were not */
	uint64_t ack_us;  /* when to do that at the latest; FHW_NEVER */
	uint64_t last_us; /* when the other side was last heard */
	/* Sending. */
	uint64_t next_pn, largest_acked;
	uint64_t acked_base, acked_bits; /* largest and received of the header that told most: looked at already */
	struct fhw_rec *recs;		 /* [FHW_RECS] by pn modulo FHW_RECS */
	struct fhw_list flight, lost;
	uint32_t nr_busy; /* records whose tail the carrier reads */
	uint64_t srtt_us, rttvar_us, min_rtt_us;
	bool has_rtt;
	uint32_t mtu;
	uint64_t cwnd, ssthresh, in_flight; /* bytes */
	uint64_t recovery_us;		    /* packets sent before belong to a loss that was answered */
	uint64_t loss_us;		    /* when the oldest is lost for good; FHW_NEVER */
	uint64_t eliciting_us;		    /* when the last record was sent */
	uint32_t pto_count;
	bool probe;	  /* one packet may go out whatever the window says */
	bool limited;	  /* the window kept something back since the last acknowledgement */
	uint64_t pace_us; /* when the pacer has paid for what was sent */
	bool paced;	  /* it holds something back until then */
	/* Its owner: a record was acknowledged, and will be free when this returns. */
	void (*on_acked)(struct fhw_flow *f, struct fhw_rec *r);
	void *owner;
	uint64_t nr_lost, nr_probes, nr_spurious;
};

/* @recs: [FHW_RECS], borrowed, zeroed here. @mtu: of datagrams. */
void fhw_flow_init(struct fhw_flow *f, struct fhw_rec *recs, uint32_t mtu, uint64_t now_us);
/* A round trip that was seen otherwise (the handshake's). */
void fhw_flow_rtt(struct fhw_flow *f, uint64_t sample_us, uint64_t delay_us);

/* ---- receiving ---- */

/* Came already, or so long ago that it cannot be told. */
bool fhw_flow_is_old(const struct fhw_flow *f, uint64_t pn);
/* A genuine packet; @eliciting: it wants to be acknowledged. */
void fhw_flow_received(struct fhw_flow *f, uint64_t pn, bool eliciting, uint64_t now_us);
/* What its header says of ours. False: it acknowledges what was never sent. */
bool fhw_flow_acked(struct fhw_flow *f, const struct fhw_hdr *h, uint64_t now_us);
/* The acknowledging fields of a header that is about to be sent, which pays what is owed. */
void fhw_flow_put_ack(struct fhw_flow *f, struct fhw_hdr *h, uint64_t now_us);
static inline bool fhw_flow_ack_due(const struct fhw_flow *f, uint64_t now_us)
{
	return f->nr_owed && f->ack_us <= now_us;
}

/* ---- sending ---- */

/* May a packet of @bytes that has to be acknowledged leave now? */
bool fhw_flow_may_send(struct fhw_flow *f, uint32_t bytes, uint64_t now_us);
/* It leaves as f->next_pn, which moves on: its record, for the caller to say what it is. @old: what it replaces, or
 * NULL. */
struct fhw_rec *fhw_flow_sent(struct fhw_flow *f, uint32_t bytes, struct fhw_rec *old, uint64_t now_us);
/* The number of a packet that nobody acknowledges. */
static inline uint64_t fhw_flow_pn(struct fhw_flow *f)
{
	return f->next_pn++;
}
/*
 * A record of something that was never sent: it waits among the lost ones. A
 * number is spent on it. NULL: there are FHW_RECS already.
 */
struct fhw_rec *fhw_flow_queue(struct fhw_flow *f, uint8_t kind, uint32_t request);
/* The oldest lost record that can be built anew, or NULL. */
struct fhw_rec *fhw_flow_lost(struct fhw_flow *f);
/* Nobody cares about it any more. */
void fhw_flow_forget(struct fhw_flow *f, struct fhw_rec *r);
/* The carrier has taken, or done with, a record's tail. */
void fhw_flow_tail_out(struct fhw_rec *r);
void fhw_flow_tail_done(struct fh_dgram_tail *t);

/* ---- time ---- */

/* Losses and probes that are due. True: a probe was. */
bool fhw_flow_tick(struct fhw_flow *f, uint64_t now_us);
/* When to call it, or to send, next; FHW_NEVER. */
uint64_t fhw_flow_next_us(const struct fhw_flow *f);
/* Probe timeout, without backoff. */
uint64_t fhw_flow_pto_us(const struct fhw_flow *f);

#endif /* FH_WIRE_FLOW_H */
