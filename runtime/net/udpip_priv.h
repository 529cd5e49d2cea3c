/* SPDX-License-Identifier: Apache-2.0 */
/* What the files of udpip.h share: header fields, the frame in hand, the neighbour table. */
#ifndef FH_NET_UDPIP_PRIV_H
#define FH_NET_UDPIP_PRIV_H

#include <string.h>

#include "runtime/net/udpip.h"

enum { ETH_IP4 = 0x0800, ETH_ARP = 0x0806, ETH_IP6 = 0x86dd };
enum { PROTO_HOP_BY_HOP = 0, PROTO_ICMP = 1, PROTO_UDP = 17, PROTO_ICMP6 = 58 };
enum { ICMP_ECHO_REPLY = 0, ICMP_ECHO = 8 };
enum {
	ICMP6_ECHO = 128,
	ICMP6_ECHO_REPLY = 129,
	ICMP6_MLD_QUERY = 130,
	ICMP6_NS = 135,
	ICMP6_NA = 136,
	ICMP6_MLD2_REPORT = 143,
};
enum { ND_OPT_SOURCE = 1, ND_OPT_TARGET = 2 };
enum { ND_SOLICITED = 0x40, ND_OVERRIDE = 0x20 };
#define ARP_BYTES 28u
#define ND_BYTES 24u	/* header and target */
#define ND_OPT_BYTES 8u /* an option with an Ethernet address */
#define IP_HOPS 64	/* of what we send */
#define ND_HOPS 255	/* what has not passed a router */
#define FH_UDPIP_MAX_GROUPS 2u

/* Fields lie anywhere: no load is wider than a byte in the source, the compiler joins them. */
static inline uint16_t get16(const uint8_t *p)
{
	return (uint16_t)(p[0] << 8 | p[1]);
}

static inline void put16(uint8_t *p, uint32_t v)
{
	p[0] = (uint8_t)(v >> 8);
	p[1] = (uint8_t)v;
}

/* A sum as fh_csum_fold() gives it lies in memory order already. */
static inline void put_csum(uint8_t *p, uint16_t v)
{
	memcpy(p, &v, 2);
}

/* Of an IPv4 header without options. */
static inline uint64_t fh_csum_ip4(const uint8_t *ip)
{
	uint32_t w[5];

	memcpy(w, ip, sizeof(w));
	return (uint64_t)w[0] + w[1] + w[2] + w[3] + w[4];
}

/* Of a field of 16 bits that holds @v. */
static inline uint32_t fh_csum_field(uint32_t v)
{
	uint8_t b[2];
	uint16_t w;

	put16(b, v);
	memcpy(&w, b, 2);
	return w;
}

static inline uint64_t mac_word(const uint8_t *mac)
{
	uint64_t v = 0;

	memcpy(&v, mac, 6);
	return v;
}

static inline bool ip_equal(const struct fh_ip *a, const struct fh_ip *b)
{
	return !memcmp(a->b, b->b, 16);
}

static inline bool ip_is_zero(const struct fh_ip *a)
{
	static const struct fh_ip zero;

	return ip_equal(a, &zero);
}

static inline bool ip_is_link_local(const struct fh_ip *a)
{
	return a->b[0] == 0xfe && (a->b[1] & 0xc0) == 0x80;
}

/* The frame in hand. */
struct frame {
	struct fh_udpip *s;
	uint8_t *f;
	uint32_t bytes, cap;
	enum fh_csum_seen ip_csum, l4_csum;
	uint64_t now_ns;
	struct fh_udpip_stats *st;
	struct fh_udpip_rx *out;
};

static inline void count(struct fh_udpip_stats *st, enum fh_udpip_counter c)
{
	/* One writer: no locked instruction. */
	atomic_store_explicit(&st->n[c], fh_udpip_stat(st, c) + 1, memory_order_relaxed);
}

/* ff02::1:ffXX:XXXX of @a (RFC 4291, 2.7.1). */
void fh_udpip_solicited_node(const struct fh_ip *a, struct fh_ip *group);
/* Our solicited-node groups, one of each; how many. */
uint32_t fh_udpip_groups(const struct fh_udpip *s, struct fh_ip out[FH_UDPIP_MAX_GROUPS]);
/* Whether @a can be reached without a router: within the prefix, or link-local. */
bool fh_udpip_on_link(const struct fh_udpip *s, const struct fh_ip *a);
/* Whether @a is the host's own, of either family. */
bool fh_udpip_is_ours(const struct fh_udpip *s, const struct fh_ip *a);
/* Of the pseudo header of @proto, not folded; @src and @dst of @ip_bytes (4 or 16), as they lie in the packet. */
uint64_t fh_udpip_pseudo(const uint8_t *src, const uint8_t *dst, uint32_t ip_bytes, uint32_t proto, uint32_t l4_bytes);

/* Headers; all but the checksums of what follows. @f: the frame's beginning. */
void fh_udpip_put_eth(uint8_t *f, const uint8_t dst[6], const uint8_t src[6], uint32_t type);
void fh_udpip_put_ip4(uint8_t *ip, uint32_t proto, uint32_t l4_bytes, const uint8_t src[4], const uint8_t dst[4],
		      bool offload);
void fh_udpip_put_ip6(uint8_t *ip, uint32_t next, uint32_t l4_bytes, uint32_t hops, const struct fh_ip *src,
		      const struct fh_ip *dst);
/* Fill in the checksum of the ICMPv6 message of @bytes at @icmp, whose addresses are @src and @dst. */
void fh_udpip_icmp6_csum(uint8_t *icmp, uint32_t bytes, const uint8_t *src, const uint8_t *dst);
/* 33:33 and the last four bytes (RFC 2464, 7). */
void fh_udpip_group_mac(const struct fh_ip *group, uint8_t mac[6]);
/* A report of our groups into @f, FH_UDPIP_CONTROL_MAX; its bytes, 0 without IPv6. */
uint32_t fh_udpip_mld_report(const struct fh_udpip *s, uint8_t *f);

/* udpip_control.c: frames that are not for the port. @off: of the message, @bytes of it. */
void fh_udpip_rx_arp(struct frame *x);
void fh_udpip_rx_icmp4(struct frame *x, uint32_t off, uint32_t bytes);
void fh_udpip_rx_icmp6(struct frame *x, uint32_t off, uint32_t bytes);

/* ---- the neighbour table, udpip_neigh.c ---- */

enum neigh_state { NEIGH_UNKNOWN, NEIGH_STALE, NEIGH_KNOWN };

/* @mac is written unless NEIGH_UNKNOWN. */
enum neigh_state fh_neigh_find(struct fh_udpip *s, const struct fh_ip *ip, uint64_t now_ns, uint8_t mac[6]);
enum neigh_note {
	NEIGH_ADD = 1,	     /* make an entry if there is none */
	NEIGH_KEEP_MAC = 2,  /* what is known already stays */
	NEIGH_CONFIRMED = 4, /* its owner said so just now; else it is taken for stale */
};
/* @ip has @mac. True: packets may have waited for it. */
bool fh_neigh_note(struct fh_udpip *s, const struct fh_ip *ip, const uint8_t mac[6], uint32_t how, uint64_t now_ns,
		   struct fh_udpip_stats *st);

#endif /* FH_NET_UDPIP_PRIV_H */
