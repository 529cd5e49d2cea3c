/* SPDX-License-Identifier: Apache-2.0 */
/*
 * UDP over IPv4 and IPv6 over Ethernet, for a port that no kernel looks after:
 * frames in, payloads out, and the other way round.
 *
 * It is an end host with one UDP port, and does what such a host owes its link:
 * ARP (RFC 826, RFC 5227 announcements), neighbour discovery (RFC 4861, RFC
 * 4862: duplicates are told, not looked for), echo (RFC 792, RFC 4443) and the
 * report of its multicast groups (MLDv2, RFC 3810).  It does not fragment and
 * does not reassemble, does not route, takes no address from DHCP or router
 * advertisements, and ignores what ICMP says about errors.
 *
 * Pure functions of frames, state and time: no descriptor, no clock, no
 * allocation.  A frame is one contiguous buffer.  Nothing of a frame is believed
 * before it has been checked against the frame's length.
 *
 * Ownership: the caller owns frames and struct fh_udpip.  After fh_udpip_init()
 * any number of threads may call the other functions on one of them, each with
 * counters of its own: the neighbour table, the only thing that changes, is read
 * without a lock and written under one that nobody waits for.
 */
#ifndef FH_NET_UDPIP_H
#define FH_NET_UDPIP_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define FH_ETH_BYTES 14u
#define FH_IP4_BYTES 20u
#define FH_IP6_BYTES 40u
#define FH_UDP_BYTES 8u
#define FH_UDPIP_HEAD_MAX (FH_ETH_BYTES + FH_IP6_BYTES + FH_UDP_BYTES) /* before a payload */
#define FH_UDPIP_HEAD_IP4 (FH_ETH_BYTES + FH_IP4_BYTES + FH_UDP_BYTES)
#define FH_UDPIP_MTU_MIN 1280u	  /* what IPv6 wants of every link (RFC 8200, 5) */
#define FH_UDPIP_MTU_MAX 9728u	  /* of network cards that we know of */
#define FH_UDPIP_CONTROL_MAX 128u /* bytes of a frame that this code makes by itself */

/* An address; IPv4 as ::ffff:a.b.c.d (RFC 4291, 2.5.5.2). */
struct fh_ip {
	uint8_t b[16];
};

static inline bool fh_ip_is4(const struct fh_ip *a)
{
	static const uint8_t mapped[12] = {[10] = 0xff, [11] = 0xff};

	return !__builtin_memcmp(a->b, mapped, 12);
}

static inline void fh_ip_from4(struct fh_ip *a, const uint8_t v4[4])
{
	*a = (struct fh_ip){.b = {[10] = 0xff, [11] = 0xff}};
	__builtin_memcpy(a->b + 12, v4, 4);
}

/* One of our addresses; prefix in bits of the family's own address; an all-zero gateway: none. */
struct fh_udpip_addr {
	bool set;
	struct fh_ip ip, gateway;
	uint8_t prefix;
};

struct fh_udpip_config {
	uint8_t mac[6];
	uint16_t port; /* UDP, host order; 0 takes none */
	uint16_t mtu;  /* of IP packets */
	struct fh_udpip_addr ip4, ip6;
};

/* Why frames ended as they did; each received frame counts once among the first group. */
enum fh_udpip_counter {
	FH_UDPIP_DATA_IN, /* payloads for our port */
	FH_UDPIP_ARP_IN,
	FH_UDPIP_ND_IN,
	FH_UDPIP_ECHO_IN,
	FH_UDPIP_MLD_IN,
	FH_UDPIP_BAD_LENGTH,   /* shorter than its headers say, or than headers are */
	FH_UDPIP_BAD_HEADER,   /* fields that contradict themselves or the standard */
	FH_UDPIP_BAD_CHECKSUM, /* of IP, ICMP or UDP */
	FH_UDPIP_FRAGMENT,     /* never put together */
	FH_UDPIP_EXTENSION,    /* IPv4 options, IPv6 extension headers */
	FH_UDPIP_NOT_OURS,     /* another's address, Ethernet's or IP's */
	FH_UDPIP_OTHER_PORT,
	FH_UDPIP_OTHER_PROTO, /* Ethernet's, IP's or ICMP's types that are of no use here */
	FH_UDPIP_NR_RX,
	FH_UDPIP_REPLIES = FH_UDPIP_NR_RX, /* frames that became an answer */
	FH_UDPIP_PROBES,		   /* requests for a neighbour's address */
	FH_UDPIP_UNRESOLVED,		   /* sends that had to wait for it */
	FH_UDPIP_CONFLICT,		   /* frames of somebody else who claims an address of ours */
	FH_UDPIP_NEIGH_LOST,		   /* table updates left undone because another thread had the table */
	FH_UDPIP_NR_COUNTERS
};

extern const char *const fh_udpip_counter_names[FH_UDPIP_NR_COUNTERS];

/* Written by one thread, read by any. */
struct fh_udpip_stats {
	_Atomic uint64_t n[FH_UDPIP_NR_COUNTERS];
};

static inline uint64_t fh_udpip_stat(const struct fh_udpip_stats *st, enum fh_udpip_counter c)
{
	return atomic_load_explicit(&st->n[c], memory_order_relaxed);
}

#define FH_NEIGH_SLOTS 1024u		       /* a power of two */
#define FH_NEIGH_WAYS 8u		       /* slots in which an address may lie */
#define FH_NEIGH_STALE_NS (30ull * 1000000000) /* then its owner is asked again (RFC 4861: REACHABLE_TIME) */
#define FH_NEIGH_DEAD_NS (90ull * 1000000000)  /* then it is as if never heard of */
#define FH_NEIGH_PROBE_NS (1ull * 1000000000)  /* between two requests for one address */
#define FH_NEIGH_PROBES_PER_S 256u	       /* requests for all of them together */

/* Slots are read under a sequence count (odd: being written), so every field is atomic. */
struct fh_neigh {
	_Atomic uint32_t seq;
	_Atomic uint32_t known; /* 0: asked for, no answer yet */
	_Atomic uint64_t ip[2]; /* both 0: free */
	_Atomic uint64_t mac;	/* its bytes from the lowest on */
	_Atomic uint64_t heard_ns, probed_ns;
};

struct fh_udpip {
	struct fh_udpip_config cfg;
	struct fh_ip link_local; /* fe80::, from the MAC (RFC 4291, appendix A) */
	uint32_t ip4, ip4_hosts; /* our IPv4 address as a number, and the bits that tell hosts of the subnet apart */
	uint64_t hash_seed;
	_Atomic uint32_t neigh_lock;
	_Atomic uint64_t probe_second; /* the second and the requests in it: s << 16 | n */
	struct fh_neigh neigh[FH_NEIGH_SLOTS];
};

/**
 * fh_udpip_init() - make a host of @cfg
 * @s: owned by the caller
 * @cfg: copied
 * @seed: random, so that nobody knows which addresses share a slot
 *
 * Return: 0; -EINVAL: an MTU, a prefix or an address that no host can have.
 */
int fh_udpip_init(struct fh_udpip *s, const struct fh_udpip_config *cfg, uint64_t seed);

/* What the port found out about a received frame's checksum. */
enum fh_csum_seen {
	FH_CSUM_UNKNOWN, /* nothing: we look ourselves */
	FH_CSUM_GOOD,
	FH_CSUM_BAD,
};

enum fh_udpip_verdict {
	FH_UDPIP_DROP,
	FH_UDPIP_DATA,	/* a payload */
	FH_UDPIP_REPLY, /* the frame was turned into the answer: send it */
};

struct fh_udpip_rx {
	enum fh_udpip_verdict verdict;
	uint32_t off, bytes; /* DATA: the payload in the frame; REPLY: off 0, and the new length of the frame */
	struct fh_ip from;   /* DATA: who sent it */
	uint16_t port;	     /* and from which port, host order */
	bool resolved;	     /* a neighbour's address became known: packets may wait for it */
};

/**
 * fh_udpip_rx() - look at one frame
 * @s: the host
 * @frame: written to when the verdict is FH_UDPIP_REPLY
 * @bytes: of it
 * @cap: bytes that may be written at @frame, at least @bytes
 * @ip_csum: of the IPv4 header
 * @l4_csum: of UDP
 * @now_ns: CLOCK_MONOTONIC
 * @st: counters of the calling thread
 * @out: filled in
 */
void fh_udpip_rx(struct fh_udpip *s, uint8_t *frame, uint32_t bytes, uint32_t cap, enum fh_csum_seen ip_csum,
		 enum fh_csum_seen l4_csum, uint64_t now_ns, struct fh_udpip_stats *st, struct fh_udpip_rx *out);

/* Where a payload goes, found once for many packets: fh_udpip_route(). */
struct fh_udpip_route {
	struct fh_ip to, from, hop;
	uint16_t port; /* host order */
	/* The headers of the last payload, for others of the same moment: fh_udpip_tx()'s. */
	uint64_t made_ns;			/* 0: none */
	uint64_t ip_sum, pseudo_sum, ports_sum; /* without lengths and checksums */
	uint8_t head[FH_UDPIP_HEAD_MAX];
};

/* How to reach @to; -ENETUNREACH: no address of its family here, or no gateway; -EINVAL: none that one can send to. */
int fh_udpip_route(const struct fh_udpip *s, const struct fh_ip *to, uint16_t port, struct fh_udpip_route *out);

/* Bytes in front of a payload on this route. */
static inline uint32_t fh_udpip_head_bytes(const struct fh_udpip_route *r)
{
	return fh_ip_is4(&r->to) ? FH_UDPIP_HEAD_IP4 : FH_UDPIP_HEAD_MAX;
}

/* What the port does by itself while it sends. */
#define FH_CSUM_OFFLOAD_IP 1u  /* IPv4 header: we leave 0 */
#define FH_CSUM_OFFLOAD_UDP 2u /* UDP: we leave the sum of the pseudo header, not complemented */

/**
 * fh_udpip_tx() - write the headers in front of a payload
 * @s: the host
 * @r: from fh_udpip_route(); remembers the headers
 * @payload: the headers end here: fh_udpip_head_bytes() in front of it are written
 * @bytes: of the payload, in all its pieces; at most the MTU allows
 * @sum: of the payload, from fh_csum_add(); looked at without FH_CSUM_OFFLOAD_UDP
 * @offload: FH_CSUM_OFFLOAD_*
 * @now_ns: CLOCK_MONOTONIC
 * @st: counters of the calling thread
 * @probe: 0, or the bytes of the request that is now due: write it with fh_udpip_probe()
 *
 * Return: bytes of headers; -EAGAIN: the next hop's address is not known yet
 * (everything but that address was written: fh_udpip_set_hop() completes it);
 * -EMSGSIZE: more than the MTU.
 */
int fh_udpip_tx(struct fh_udpip *s, struct fh_udpip_route *r, uint8_t *payload, uint32_t bytes, uint64_t sum,
		uint32_t offload, uint64_t now_ns, struct fh_udpip_stats *st, bool *probe);
/* The frame that asks for @hop's address, into @frame (FH_UDPIP_CONTROL_MAX); its bytes. */
uint32_t fh_udpip_probe(struct fh_udpip *s, const struct fh_ip *hop, uint8_t *frame, struct fh_udpip_stats *st);
/* Whether @hop, for which a frame waits, is to be asked for (again) now; true: it is taken for done. */
bool fh_udpip_probe_due(struct fh_udpip *s, const struct fh_ip *hop, uint64_t now_ns, struct fh_udpip_stats *st);
/* Put the next hop's address into a frame that had to wait; false: it is still unknown. */
bool fh_udpip_set_hop(struct fh_udpip *s, const struct fh_ip *hop, uint8_t *frame, uint64_t now_ns);
/*
 * What a host says when it comes up, frame number @i from 0 on, into @frame
 * (FH_UDPIP_CONTROL_MAX): its bytes, 0 when there is no further one.
 */
uint32_t fh_udpip_announce(const struct fh_udpip *s, uint32_t i, uint8_t *frame);

/* Payload bytes that fit a packet to @to. */
uint32_t fh_udpip_payload_max(const struct fh_udpip *s, const struct fh_ip *to);

/*
 * The Internet checksum (RFC 1071).  Pieces may be added one after the other as
 * long as each but the last has an even length.
 */
uint64_t fh_csum_add(uint64_t sum, const void *data, size_t bytes);
/* Folded and complemented, to be stored as it is (network order comes of itself). */
uint16_t fh_csum_fold(uint64_t sum);

#endif /* FH_NET_UDPIP_H */
