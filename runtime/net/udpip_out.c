// SPDX-License-Identifier: Apache-2.0
/* UDP over IP over Ethernet: headers of what leaves, and the frames that a host sends of its own accord. */
#include "runtime/net/udpip_priv.h"

#include <assert.h>
#include <errno.h>

static const uint8_t everybody[6] = {0xff, 0xff, 0xff, 0xff, 0xff, 0xff};

void fh_udpip_put_eth(uint8_t *f, const uint8_t dst[6], const uint8_t src[6], uint32_t type)
{
	memcpy(f, dst, 6);
	memcpy(f + 6, src, 6);
	put16(f + 12, type);
}

void fh_udpip_put_ip4(uint8_t *ip, uint32_t proto, uint32_t l4_bytes, const uint8_t src[4], const uint8_t dst[4],
		      bool offload)
{
	memset(ip, 0, FH_IP4_BYTES);
	ip[0] = 0x45;
	put16(ip + 2, FH_IP4_BYTES + l4_bytes);
	put16(ip + 6, 0x4000); /* not to be fragmented; then the identification says nothing (RFC 6864) */
	ip[8] = IP_HOPS;
	ip[9] = (uint8_t)proto;
	memcpy(ip + 12, src, 4);
	memcpy(ip + 16, dst, 4);
	if (!offload)
		put_csum(ip + 10, fh_csum_fold(fh_csum_ip4(ip)));
}

void fh_udpip_put_ip6(uint8_t *ip, uint32_t next, uint32_t l4_bytes, uint32_t hops, const struct fh_ip *src,
		      const struct fh_ip *dst)
{
	memset(ip, 0, 8);
	ip[0] = 0x60;
	put16(ip + 4, l4_bytes);
	ip[6] = (uint8_t)next;
	ip[7] = (uint8_t)hops;
	memcpy(ip + 8, src->b, 16);
	memcpy(ip + 24, dst->b, 16);
}

void fh_udpip_icmp6_csum(uint8_t *icmp, uint32_t bytes, const uint8_t *src, const uint8_t *dst)
{
	put16(icmp + 2, 0);
	put_csum(icmp + 2, fh_csum_fold(fh_csum_add(fh_udpip_pseudo(src, dst, 16, PROTO_ICMP6, bytes), icmp, bytes)));
}

void fh_udpip_group_mac(const struct fh_ip *group, uint8_t mac[6])
{
	mac[0] = mac[1] = 0x33;
	memcpy(mac + 2, group->b + 12, 4);
}

/* ---- payloads ---- */

/* The Ethernet address of @hop into @mac; false: unknown. *@probe: it has to be asked for. */
static bool resolve(struct fh_udpip *s, const struct fh_ip *hop, uint8_t mac[6], uint64_t now_ns,
		    struct fh_udpip_stats *st, bool *probe)
{
	enum neigh_state state = fh_neigh_find(s, hop, now_ns, mac);

	*probe = state != NEIGH_KNOWN && fh_udpip_probe_due(s, hop, now_ns, st);
	return state != NEIGH_UNKNOWN;
}

/* Headers for a payload of no bytes into r->head, checksums left out, and their sums. */
static void make_head(const struct fh_udpip *s, struct fh_udpip_route *r, const uint8_t mac[6], bool v4)
{
	uint8_t *f = r->head, *ip = f + FH_ETH_BYTES, *udp = f + fh_udpip_head_bytes(r) - FH_UDP_BYTES;

	fh_udpip_put_eth(f, mac, s->cfg.mac, v4 ? ETH_IP4 : ETH_IP6);
	if (v4)
		fh_udpip_put_ip4(ip, PROTO_UDP, 0, r->from.b + 12, r->to.b + 12, true);
	else
		fh_udpip_put_ip6(ip, PROTO_UDP, 0, IP_HOPS, &r->from, &r->to);
	put16(ip + (v4 ? 2 : 4), 0);
	put16(udp, s->cfg.port);
	put16(udp + 2, r->port);
	put16(udp + 4, 0);
	put16(udp + 6, 0);
	r->ip_sum = v4 ? fh_csum_ip4(ip) : 0;
	r->ports_sum = fh_csum_field(s->cfg.port) + fh_csum_field(r->port);
	r->pseudo_sum = v4 ? fh_udpip_pseudo(r->from.b + 12, r->to.b + 12, 4, PROTO_UDP, 0)
			   : fh_udpip_pseudo(r->from.b, r->to.b, 16, PROTO_UDP, 0);
}

/* The rest, which each payload has for itself. */
static void fill_in(const struct fh_udpip_route *r, uint8_t *ip, uint8_t *udp, uint32_t l4, uint64_t sum,
		    uint32_t offload, bool v4)
{
	uint64_t pseudo = r->pseudo_sum + fh_csum_field(l4);

	put16(ip + (v4 ? 2 : 4), v4 ? FH_IP4_BYTES + l4 : l4);
	if (v4 && !(offload & FH_CSUM_OFFLOAD_IP))
		put_csum(ip + 10, fh_csum_fold(r->ip_sum + fh_csum_field(FH_IP4_BYTES + l4)));
	put16(udp + 4, l4);
	if (offload & FH_CSUM_OFFLOAD_UDP) {
		put_csum(udp + 6, (uint16_t)~fh_csum_fold(pseudo));
	} else {
		uint16_t csum = fh_csum_fold(pseudo + sum + r->ports_sum + fh_csum_field(l4));

		/* 0 says that there is none (RFC 768). */
		put_csum(udp + 6, csum ? csum : 0xffff);
	}
}

int fh_udpip_tx(struct fh_udpip *s, struct fh_udpip_route *r, uint8_t *payload, uint32_t bytes, uint64_t sum,
		uint32_t offload, uint64_t now_ns, struct fh_udpip_stats *st, bool *probe)
{
	uint32_t head = fh_udpip_head_bytes(r), l4 = bytes + FH_UDP_BYTES;
	bool v4 = head == FH_UDPIP_HEAD_IP4, known = true;
	uint8_t *f = payload - head, mac[6] = {0};

	*probe = false;
	if (bytes > fh_udpip_payload_max(s, &r->to))
		return -EMSGSIZE;
	/* Who follows in the same burst has the same way. */
	if (r->made_ns != now_ns || !now_ns) {
		known = resolve(s, &r->hop, mac, now_ns, st, probe);
		make_head(s, r, mac, v4);
		r->made_ns = known && !*probe ? now_ns : 0;
	}
	if (v4)
		memcpy(f, r->head, FH_UDPIP_HEAD_IP4);
	else
		memcpy(f, r->head, FH_UDPIP_HEAD_MAX);
	fill_in(r, f + FH_ETH_BYTES, payload - FH_UDP_BYTES, l4, sum, offload, v4);
	if (known)
		return (int)head;
	count(st, FH_UDPIP_UNRESOLVED);
	return -EAGAIN;
}

bool fh_udpip_set_hop(struct fh_udpip *s, const struct fh_ip *hop, uint8_t *frame, uint64_t now_ns)
{
	uint8_t mac[6];

	if (fh_neigh_find(s, hop, now_ns, mac) == NEIGH_UNKNOWN)
		return false;
	memcpy(frame, mac, 6);
	return true;
}

/* ---- what a host says of its own accord ---- */

static uint32_t put_arp(const struct fh_udpip *s, uint8_t *f, const uint8_t target[4])
{
	uint8_t *arp = f + FH_ETH_BYTES;

	fh_udpip_put_eth(f, everybody, s->cfg.mac, ETH_ARP);
	memset(arp, 0, ARP_BYTES);
	put16(arp, 1);
	put16(arp + 2, ETH_IP4);
	arp[4] = 6;
	arp[5] = 4;
	put16(arp + 6, 1);
	memcpy(arp + 8, s->cfg.mac, 6);
	memcpy(arp + 14, s->cfg.ip4.ip.b + 12, 4);
	memcpy(arp + 24, target, 4);
	return FH_ETH_BYTES + ARP_BYTES;
}

/* A solicitation or an advertisement for @target, with our Ethernet address as its option. */
static uint32_t put_nd(const struct fh_udpip *s, uint8_t *f, uint8_t type, uint8_t flags, const struct fh_ip *src,
		       const struct fh_ip *dst, const struct fh_ip *target)
{
	uint8_t *ip = f + FH_ETH_BYTES, *icmp = ip + FH_IP6_BYTES, mac[6];

	fh_udpip_group_mac(dst, mac);
	fh_udpip_put_eth(f, mac, s->cfg.mac, ETH_IP6);
	fh_udpip_put_ip6(ip, PROTO_ICMP6, ND_BYTES + ND_OPT_BYTES, ND_HOPS, src, dst);
	memset(icmp, 0, 8);
	icmp[0] = type;
	icmp[4] = flags;
	memcpy(icmp + 8, target->b, 16);
	icmp[ND_BYTES] = type == ICMP6_NS ? ND_OPT_SOURCE : ND_OPT_TARGET;
	icmp[ND_BYTES + 1] = 1;
	memcpy(icmp + ND_BYTES + 2, s->cfg.mac, 6);
	fh_udpip_icmp6_csum(icmp, ND_BYTES + ND_OPT_BYTES, ip + 8, ip + 24);
	return FH_ETH_BYTES + FH_IP6_BYTES + ND_BYTES + ND_OPT_BYTES;
}

uint32_t fh_udpip_probe(struct fh_udpip *s, const struct fh_ip *hop, uint8_t *frame, struct fh_udpip_stats *st)
{
	struct fh_ip group;

	count(st, FH_UDPIP_PROBES);
	if (fh_ip_is4(hop))
		return put_arp(s, frame, hop->b + 12);
	fh_udpip_solicited_node(hop, &group);
	return put_nd(s, frame, ICMP6_NS, 0, ip_is_link_local(hop) ? &s->link_local : &s->cfg.ip6.ip, &group, hop);
}

uint32_t fh_udpip_mld_report(const struct fh_udpip *s, uint8_t *f)
{
	static const struct fh_ip routers = {.b = {0xff, 0x02, [15] = 0x16}};
	struct fh_ip groups[FH_UDPIP_MAX_GROUPS];
	uint32_t n = fh_udpip_groups(s, groups), bytes = 8 + 20 * n;
	uint8_t *ip = f + FH_ETH_BYTES, *hop = ip + FH_IP6_BYTES, *icmp = hop + 8, mac[6];
	static const uint8_t alert[8] = {PROTO_ICMP6, 0, 5, 2, 0, 0, 1, 0}; /* RFC 2711 */

	if (!n)
		return 0;
	fh_udpip_group_mac(&routers, mac);
	fh_udpip_put_eth(f, mac, s->cfg.mac, ETH_IP6);
	fh_udpip_put_ip6(ip, PROTO_HOP_BY_HOP, 8 + bytes, 1, &s->link_local, &routers);
	memcpy(hop, alert, 8);
	memset(icmp, 0, bytes);
	icmp[0] = ICMP6_MLD2_REPORT;
	put16(icmp + 6, n);
	for (uint32_t i = 0; i < n; i++) {
		icmp[8 + 20 * i] = 4; /* everything from everybody: exclude none (RFC 3810, 5.2.12) */
		memcpy(icmp + 8 + 20 * i + 4, groups[i].b, 16);
	}
	fh_udpip_icmp6_csum(icmp, bytes, ip + 8, ip + 24);
	return FH_ETH_BYTES + FH_IP6_BYTES + 8 + bytes;
}

uint32_t fh_udpip_announce(const struct fh_udpip *s, uint32_t i, uint8_t *frame)
{
	static const struct fh_ip all_nodes = {.b = {0xff, 0x02, [15] = 1}};

	if (s->cfg.ip4.set && !i--)
		return put_arp(s, frame, s->cfg.ip4.ip.b + 12);
	if (!s->cfg.ip6.set || i > 2)
		return 0;
	if (!i)
		return fh_udpip_mld_report(s, frame);
	return put_nd(s, frame, ICMP6_NA, ND_OVERRIDE, i == 1 ? &s->link_local : &s->cfg.ip6.ip, &all_nodes,
		      i == 1 ? &s->link_local : &s->cfg.ip6.ip);
}
