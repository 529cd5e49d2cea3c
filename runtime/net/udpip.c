// SPDX-License-Identifier: Apache-2.0
/*
 * UDP over IP over Ethernet: the host's addresses, and what arrives.
 *
 * The way of a payload (IPv4 or IPv6, UDP, our port) is in this file; what asks
 * for an answer is in udpip_control.c, what leaves in udpip_out.c.  Every check
 * of a length stands before the first read that needs it; `off` and `bytes`
 * always describe memory within the frame.
 */
#include "runtime/net/udpip_priv.h"

#include <errno.h>

const char *const fh_udpip_counter_names[FH_UDPIP_NR_COUNTERS] = {
	[FH_UDPIP_DATA_IN] = "data",
	[FH_UDPIP_ARP_IN] = "arp",
	[FH_UDPIP_ND_IN] = "nd",
	[FH_UDPIP_ECHO_IN] = "echo",
	[FH_UDPIP_MLD_IN] = "mld",
	[FH_UDPIP_BAD_LENGTH] = "bad_length",
	[FH_UDPIP_BAD_HEADER] = "bad_header",
	[FH_UDPIP_BAD_CHECKSUM] = "bad_checksum",
	[FH_UDPIP_FRAGMENT] = "fragment",
	[FH_UDPIP_EXTENSION] = "extension",
	[FH_UDPIP_NOT_OURS] = "not_ours",
	[FH_UDPIP_OTHER_PORT] = "other_port",
	[FH_UDPIP_OTHER_PROTO] = "other_proto",
	[FH_UDPIP_REPLIES] = "replies",
	[FH_UDPIP_PROBES] = "probes",
	[FH_UDPIP_UNRESOLVED] = "unresolved",
	[FH_UDPIP_CONFLICT] = "conflict",
	[FH_UDPIP_NEIGH_LOST] = "neigh_lost",
};

/* ---- addresses ---- */

/* The first @bits of both are the same; @from: where in the 16 bytes the family's own begin. */
static bool same_prefix(const struct fh_ip *a, const struct fh_ip *b, uint32_t from, uint32_t bits)
{
	uint32_t whole = bits / 8, rest = bits % 8;

	if (memcmp(a->b + from, b->b + from, whole))
		return false;
	return !rest || !((a->b[from + whole] ^ b->b[from + whole]) >> (8 - rest));
}

bool fh_udpip_on_link(const struct fh_udpip *s, const struct fh_ip *a)
{
	if (fh_ip_is4(a))
		return s->cfg.ip4.set && same_prefix(a, &s->cfg.ip4.ip, 12, s->cfg.ip4.prefix);
	return ip_is_link_local(a) || (s->cfg.ip6.set && same_prefix(a, &s->cfg.ip6.ip, 0, s->cfg.ip6.prefix));
}

bool fh_udpip_is_ours(const struct fh_udpip *s, const struct fh_ip *a)
{
	return (s->cfg.ip4.set && ip_equal(a, &s->cfg.ip4.ip)) ||
	       (s->cfg.ip6.set && (ip_equal(a, &s->cfg.ip6.ip) || ip_equal(a, &s->link_local)));
}

/* Of a host that can be written to: no group, not nothing, not the loopback. */
static bool is_unicast(const struct fh_ip *a)
{
	static const struct fh_ip loopback = {.b = {[15] = 1}};

	if (fh_ip_is4(a))
		return a->b[12] && a->b[12] < 224 && a->b[12] != 127;
	return a->b[0] != 0xff && !ip_is_zero(a) && !ip_equal(a, &loopback);
}

static uint32_t number_of4(const struct fh_ip *a)
{
	return (uint32_t)get16(a->b + 12) << 16 | get16(a->b + 14);
}

/* The bits of an address that tell hosts of its subnet apart; 0: there is no broadcast address. */
static uint32_t hosts_of4(const struct fh_udpip_addr *own)
{
	uint32_t mask = own->prefix < 32 ? UINT32_MAX >> own->prefix : 0;

	return mask < 3 ? 0 : mask;
}

/* Is IPv4 address @v the broadcast address of the subnet of @own, of which @hosts tell hosts apart, or the subnet's? */
static bool is_broadcast4(uint32_t own, uint32_t hosts, uint32_t v)
{
	return hosts && !((v ^ own) & ~hosts) && (!(v & hosts) || (v & hosts) == hosts);
}

/* One that a payload may come from or go to: of one host, which is not us. */
static bool is_another(const struct fh_udpip *s, const struct fh_ip *a)
{
	uint32_t v;

	if (!fh_ip_is4(a))
		return is_unicast(a) && !fh_udpip_is_ours(s, a);
	v = number_of4(a);
	return v >> 24 && v >> 24 < 224 && v >> 24 != 127 &&
	       (!s->cfg.ip4.set || (v != s->ip4 && !is_broadcast4(s->ip4, s->ip4_hosts, v)));
}

void fh_udpip_solicited_node(const struct fh_ip *a, struct fh_ip *group)
{
	*group = (struct fh_ip){.b = {0xff, 0x02, [11] = 1, [12] = 0xff, a->b[13], a->b[14], a->b[15]}};
}

uint32_t fh_udpip_groups(const struct fh_udpip *s, struct fh_ip out[FH_UDPIP_MAX_GROUPS])
{
	if (!s->cfg.ip6.set)
		return 0;
	fh_udpip_solicited_node(&s->link_local, &out[0]);
	fh_udpip_solicited_node(&s->cfg.ip6.ip, &out[1]);
	return ip_equal(&out[0], &out[1]) ? 1 : 2;
}

static bool good_address(const struct fh_udpip_addr *a, bool v4)
{
	if (!a->set)
		return true;
	if (fh_ip_is4(&a->ip) != v4 || !is_unicast(&a->ip) || !a->prefix || a->prefix > (v4 ? 32 : 128))
		return false;
	if (v4 && is_broadcast4(number_of4(&a->ip), hosts_of4(a), number_of4(&a->ip)))
		return false;
	if (ip_is_zero(&a->gateway))
		return true;
	/* A gateway is reached directly, or not at all. */
	return fh_ip_is4(&a->gateway) == v4 && is_unicast(&a->gateway) && !ip_equal(&a->gateway, &a->ip) &&
	       (ip_is_link_local(&a->gateway) || same_prefix(&a->gateway, &a->ip, v4 ? 12 : 0, a->prefix));
}

int fh_udpip_init(struct fh_udpip *s, const struct fh_udpip_config *cfg, uint64_t seed)
{
	static const uint8_t no_mac[6];

	if (cfg->mtu < FH_UDPIP_MTU_MIN || cfg->mtu > FH_UDPIP_MTU_MAX || cfg->mac[0] & 1 ||
	    !memcmp(cfg->mac, no_mac, 6) || (!cfg->ip4.set && !cfg->ip6.set) || !good_address(&cfg->ip4, true) ||
	    !good_address(&cfg->ip6, false))
		return -EINVAL;
	memset(s, 0, sizeof(*s));
	s->cfg = *cfg;
	s->hash_seed = seed;
	s->ip4 = number_of4(&cfg->ip4.ip);
	s->ip4_hosts = hosts_of4(&cfg->ip4);
	s->link_local = (struct fh_ip){.b = {0xfe, 0x80, [8] = cfg->mac[0] ^ 2, cfg->mac[1], cfg->mac[2], 0xff, 0xfe,
					     cfg->mac[3], cfg->mac[4], cfg->mac[5]}};
	return 0;
}

/* ---- checksums ---- */

/* The carry of an addition comes in again as one: sums modulo 0xffff stay what they are. */
static inline uint64_t csum_word(uint64_t sum, const uint8_t *p)
{
	uint64_t w;

	memcpy(&w, p, 8);
	sum += w;
	return sum + (sum < w);
}

/* 32 bytes; compilers make five instructions of each addition with its carry, which is one. */
static inline uint64_t csum_32(uint64_t sum, const uint8_t *p)
{
#ifdef __x86_64__
	const struct block {
		uint8_t b[32];
	} *m = (const struct block *)p;

	__asm__("addq 0(%[p]), %[sum]\n\t"
		"adcq 8(%[p]), %[sum]\n\t"
		"adcq 16(%[p]), %[sum]\n\t"
		"adcq 24(%[p]), %[sum]\n\t"
		"adcq $0, %[sum]"
		: [sum] "+r"(sum)
		: [p] "r"(p), "m"(*m)
		: "cc");
	return sum;
#else
	for (int i = 0; i < 32; i += 8)
		sum = csum_word(sum, p + i);
	return sum;
#endif
}

uint64_t fh_csum_add(uint64_t sum, const void *data, size_t bytes)
{
	const uint8_t *p = data;
	uint32_t w;
	uint16_t h = 0;

	for (; bytes >= 64; bytes -= 64, p += 64)
		sum = csum_32(csum_32(sum, p), p + 32);
	if (bytes & 32) {
		sum = csum_32(sum, p);
		p += 32;
	}
	if (bytes & 16) {
		sum = csum_word(csum_word(sum, p), p + 8);
		p += 16;
	}
	if (bytes & 8) {
		sum = csum_word(sum, p);
		p += 8;
	}
	bytes &= 7;
	/* Room for what callers add. */
	sum = (sum >> 32) + (uint32_t)sum;
	if (bytes >= 4) {
		memcpy(&w, p, 4);
		sum += w;
		bytes -= 4;
		p += 4;
	}
	if (bytes >= 2) {
		memcpy(&h, p, 2);
		sum += h;
		bytes -= 2;
		p += 2;
	}
	if (bytes) {
		h = 0;
		memcpy(&h, p, 1);
		sum += h;
	}
	return sum;
}

uint16_t fh_csum_fold(uint64_t sum)
{
	sum = (sum >> 32) + (uint32_t)sum;
	sum = (sum >> 32) + (uint32_t)sum;
	sum = (sum >> 16) + (sum & 0xffff);
	sum = (sum >> 16) + (sum & 0xffff);
	sum = (sum >> 16) + (sum & 0xffff);
	return (uint16_t)~sum;
}

uint64_t fh_udpip_pseudo(const uint8_t *src, const uint8_t *dst, uint32_t ip_bytes, uint32_t proto, uint32_t l4_bytes)
{
	uint8_t tail[8] = {0};
	uint64_t sum;

	put16(tail + 0, l4_bytes >> 16);
	put16(tail + 2, l4_bytes);
	tail[7] = (uint8_t)proto;
	if (ip_bytes == 4) {
		uint32_t w[4];

		memcpy(&w[0], src, 4);
		memcpy(&w[1], dst, 4);
		memcpy(&w[2], tail, 8);
		return (uint64_t)w[0] + w[1] + w[2] + w[3];
	}
	sum = fh_csum_add(0, src, ip_bytes);
	sum = fh_csum_add(sum, dst, ip_bytes);
	return fh_csum_add(sum, tail, sizeof(tail));
}

/* ---- frames in ---- */

static void drop(struct frame *x, enum fh_udpip_counter why)
{
	count(x->st, why);
	x->out->verdict = FH_UDPIP_DROP;
}

/* @off, @bytes: the UDP header and what the IP header says follows it; addresses of @ip_bytes at @src and @dst. */
static void rx_udp(struct frame *x, uint32_t off, uint32_t bytes, const uint8_t *src, const uint8_t *dst,
		   uint32_t ip_bytes)
{
	const uint8_t *udp = x->f + off;
	uint32_t len;

	if (bytes < FH_UDP_BYTES || get16(udp + 4) < FH_UDP_BYTES || get16(udp + 4) > bytes) {
		drop(x, FH_UDPIP_BAD_LENGTH);
		return;
	}
	if (get16(udp + 2) != x->s->cfg.port || !x->s->cfg.port) {
		drop(x, FH_UDPIP_OTHER_PORT);
		return;
	}
	len = get16(udp + 4);
	/* None was made: IPv4 may do that (RFC 768), IPv6 not (RFC 8200, 8.1). */
	if (!get16(udp + 6)) {
		if (ip_bytes == 16) {
			drop(x, FH_UDPIP_BAD_CHECKSUM);
			return;
		}
	} else if (x->l4_csum == FH_CSUM_BAD ||
		   (x->l4_csum == FH_CSUM_UNKNOWN &&
		    fh_csum_fold(fh_csum_add(fh_udpip_pseudo(src, dst, ip_bytes, PROTO_UDP, len), udp, len)))) {
		drop(x, FH_UDPIP_BAD_CHECKSUM);
		return;
	}
	/* An answer could not go there. */
	if (!is_another(x->s, &x->out->from) || !get16(udp)) {
		drop(x, FH_UDPIP_BAD_HEADER);
		return;
	}
	count(x->st, FH_UDPIP_DATA_IN);
	x->out->verdict = FH_UDPIP_DATA;
	x->out->off = off + FH_UDP_BYTES;
	x->out->bytes = len - FH_UDP_BYTES;
	x->out->port = get16(udp);
}

static void rx_ip4(struct frame *x)
{
	uint8_t *ip = x->f + FH_ETH_BYTES;
	uint32_t have = x->bytes - FH_ETH_BYTES, total;

	if (have < FH_IP4_BYTES) {
		drop(x, FH_UDPIP_BAD_LENGTH);
		return;
	}
	total = get16(ip + 2);
	if (ip[0] >> 4 != 4 || (ip[0] & 15) < 5) {
		drop(x, FH_UDPIP_BAD_HEADER);
		return;
	}
	if (total > have || total < (ip[0] & 15) * 4u) {
		drop(x, FH_UDPIP_BAD_LENGTH);
		return;
	}
	if ((ip[0] & 15) != 5) {
		drop(x, FH_UDPIP_EXTENSION);
		return;
	}
	if (!x->s->cfg.ip4.set || memcmp(ip + 16, x->s->cfg.ip4.ip.b + 12, 4) || x->f[0] & 1) {
		drop(x, FH_UDPIP_NOT_OURS);
		return;
	}
	if (x->ip_csum == FH_CSUM_BAD || (x->ip_csum == FH_CSUM_UNKNOWN && fh_csum_fold(fh_csum_ip4(ip)))) {
		drop(x, FH_UDPIP_BAD_CHECKSUM);
		return;
	}
	/* An offset, or more to come. */
	if (get16(ip + 6) & 0x3fff) {
		drop(x, FH_UDPIP_FRAGMENT);
		return;
	}
	fh_ip_from4(&x->out->from, ip + 12);
	if (ip[9] == PROTO_UDP)
		rx_udp(x, FH_UDPIP_HEAD_IP4 - FH_UDP_BYTES, total - FH_IP4_BYTES, ip + 12, ip + 16, 4);
	else if (ip[9] == PROTO_ICMP)
		fh_udpip_rx_icmp4(x, FH_ETH_BYTES + FH_IP4_BYTES, total - FH_IP4_BYTES);
	else
		drop(x, FH_UDPIP_OTHER_PROTO);
}

/* Multicast is for the neighbours' protocol alone. */
static bool wanted6(const struct frame *x, const struct fh_ip *dst, uint8_t next)
{
	static const struct fh_ip all_nodes = {.b = {0xff, 0x02, [15] = 1}};
	struct fh_ip groups[FH_UDPIP_MAX_GROUPS];
	uint32_t n;

	if (fh_udpip_is_ours(x->s, dst))
		return !(x->f[0] & 1);
	if (next != PROTO_ICMP6 && next != PROTO_HOP_BY_HOP)
		return false;
	n = fh_udpip_groups(x->s, groups);
	for (uint32_t i = 0; i < n; i++)
		if (ip_equal(dst, &groups[i]))
			return true;
	return ip_equal(dst, &all_nodes);
}

static void rx_ip6(struct frame *x)
{
	uint8_t *ip = x->f + FH_ETH_BYTES;
	uint32_t have = x->bytes - FH_ETH_BYTES, payload, off = FH_ETH_BYTES + FH_IP6_BYTES;
	struct fh_ip dst;
	uint8_t next;

	if (have < FH_IP6_BYTES) {
		drop(x, FH_UDPIP_BAD_LENGTH);
		return;
	}
	if (ip[0] >> 4 != 6) {
		drop(x, FH_UDPIP_BAD_HEADER);
		return;
	}
	payload = get16(ip + 4);
	if (payload > have - FH_IP6_BYTES) {
		drop(x, FH_UDPIP_BAD_LENGTH);
		return;
	}
	memcpy(dst.b, ip + 24, 16);
	memcpy(x->out->from.b, ip + 8, 16);
	next = ip[6];
	/* An IPv4 address has no business here: it would be taken for one. */
	if (x->out->from.b[0] == 0xff || fh_ip_is4(&x->out->from)) {
		drop(x, FH_UDPIP_BAD_HEADER);
		return;
	}
	if (!x->s->cfg.ip6.set || !wanted6(x, &dst, next)) {
		drop(x, FH_UDPIP_NOT_OURS);
		return;
	}
	if (next == PROTO_UDP) {
		rx_udp(x, off, payload, ip + 8, ip + 24, 16);
		return;
	}
	/* Router alert, which queries for multicast listeners carry (RFC 3810, 5): eight bytes, nothing else. */
	if (next == PROTO_HOP_BY_HOP && payload >= 8 && x->f[off] == PROTO_ICMP6 && !x->f[off + 1] &&
	    x->f[off + 2] == 5) {
		next = PROTO_ICMP6;
		off += 8;
		payload -= 8;
		if (!payload || x->f[off] != ICMP6_MLD_QUERY) {
			drop(x, FH_UDPIP_EXTENSION);
			return;
		}
	}
	switch (next) {
	case PROTO_ICMP6: fh_udpip_rx_icmp6(x, off, payload); break;
	case 44: drop(x, FH_UDPIP_FRAGMENT); break;
	case PROTO_HOP_BY_HOP:
	case 43: /* routing */
	case 51: /* authentication */
	case 60: /* destination options */ drop(x, FH_UDPIP_EXTENSION); break;
	default: drop(x, FH_UDPIP_OTHER_PROTO); break;
	}
}

void fh_udpip_rx(struct fh_udpip *s, uint8_t *f, uint32_t bytes, uint32_t cap, enum fh_csum_seen ip_csum,
		 enum fh_csum_seen l4_csum, uint64_t now_ns, struct fh_udpip_stats *st, struct fh_udpip_rx *out)
{
	struct frame x = {s, f, bytes, cap, ip_csum, l4_csum, now_ns, st, out};

	*out = (struct fh_udpip_rx){.verdict = FH_UDPIP_DROP};
	if (bytes < FH_ETH_BYTES) {
		drop(&x, FH_UDPIP_BAD_LENGTH);
		return;
	}
	if (f[6] & 1) {
		drop(&x, FH_UDPIP_BAD_HEADER); /* a group sends nothing */
		return;
	}
	if (!(f[0] & 1) && memcmp(f, s->cfg.mac, 6)) {
		drop(&x, FH_UDPIP_NOT_OURS);
		return;
	}
	switch (get16(f + 12)) {
	case ETH_IP4: rx_ip4(&x); break;
	case ETH_IP6: rx_ip6(&x); break;
	case ETH_ARP: fh_udpip_rx_arp(&x); break;
	default: drop(&x, FH_UDPIP_OTHER_PROTO); break;
	}
}

/* ---- the way to somebody ---- */

int fh_udpip_route(const struct fh_udpip *s, const struct fh_ip *to, uint16_t port, struct fh_udpip_route *out)
{
	bool v4 = fh_ip_is4(to);
	const struct fh_udpip_addr *own = v4 ? &s->cfg.ip4 : &s->cfg.ip6;

	if (!port || !is_another(s, to))
		return -EINVAL;
	if (!own->set)
		return -ENETUNREACH;
	*out = (struct fh_udpip_route){.to = *to, .from = own->ip, .hop = *to, .port = port};
	if (!v4 && ip_is_link_local(to))
		out->from = s->link_local;
	if (fh_udpip_on_link(s, to))
		return 0;
	if (ip_is_zero(&own->gateway))
		return -ENETUNREACH;
	out->hop = own->gateway;
	return 0;
}

uint32_t fh_udpip_payload_max(const struct fh_udpip *s, const struct fh_ip *to)
{
	return s->cfg.mtu - FH_UDP_BYTES - (fh_ip_is4(to) ? FH_IP4_BYTES : FH_IP6_BYTES);
}
