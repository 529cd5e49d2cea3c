// SPDX-License-Identifier: Apache-2.0
/*
 * What the link asks of a host: ARP, neighbour discovery, echo, and which
 * groups it listens to.  An answer is written over the question, in the same
 * frame, where the frame's memory is large enough.
 *
 * Questions are answered to where they came from (the frame's own source), not
 * to where the table would send: an answer costs the link no more than the
 * question did, and needs no entry in the table.
 */
#include "runtime/net/udpip_priv.h"

static void drop(struct frame *x, enum fh_udpip_counter why)
{
	count(x->st, why);
	x->out->verdict = FH_UDPIP_DROP;
}

static void reply(struct frame *x, uint32_t bytes)
{
	count(x->st, FH_UDPIP_REPLIES);
	x->out->verdict = FH_UDPIP_REPLY;
	x->out->off = 0;
	x->out->bytes = bytes;
}

/* ---- ARP ---- */

void fh_udpip_rx_arp(struct frame *x)
{
	uint8_t *arp = x->f + FH_ETH_BYTES;
	const uint8_t *own = x->s->cfg.ip4.ip.b + 12;
	static const uint8_t none[4];
	struct fh_ip sender;
	uint8_t asker[6];
	bool for_us;

	if (x->bytes < FH_ETH_BYTES + ARP_BYTES) {
		drop(x, FH_UDPIP_BAD_LENGTH);
		return;
	}
	/* Ethernet and IPv4, with addresses of six and four bytes; a request or a reply; from a host. */
	if (get16(arp) != 1 || get16(arp + 2) != ETH_IP4 || arp[4] != 6 || arp[5] != 4 || get16(arp + 6) < 1 ||
	    get16(arp + 6) > 2 || arp[8] & 1) {
		drop(x, FH_UDPIP_BAD_HEADER);
		return;
	}
	if (!x->s->cfg.ip4.set) {
		drop(x, FH_UDPIP_NOT_OURS);
		return;
	}
	drop(x, FH_UDPIP_ARP_IN);
	memcpy(asker, arp + 8, 6);
	fh_ip_from4(&sender, arp + 14);
	if (!memcmp(arp + 14, own, 4)) {
		/* Our own announcement may come back to us. */
		if (memcmp(asker, x->s->cfg.mac, 6))
			count(x->st, FH_UDPIP_CONFLICT);
		return;
	}
	for_us = !memcmp(arp + 24, own, 4);
	/* A probe (RFC 5227) has no address yet. */
	if (memcmp(arp + 14, none, 4) && fh_udpip_on_link(x->s, &sender))
		x->out->resolved = fh_neigh_note(x->s, &sender, asker, NEIGH_CONFIRMED | (for_us ? NEIGH_ADD : 0),
						 x->now_ns, x->st);
	if (!for_us || get16(arp + 6) != 1)
		return;
	put16(arp + 6, 2);
	memmove(arp + 18, arp + 8, 10);
	memcpy(arp + 8, x->s->cfg.mac, 6);
	memcpy(arp + 14, own, 4);
	fh_udpip_put_eth(x->f, asker, x->s->cfg.mac, ETH_ARP);
	reply(x, FH_ETH_BYTES + ARP_BYTES);
}

/* ---- ICMP ---- */

static void turn_eth(struct frame *x)
{
	memcpy(x->f, x->f + 6, 6);
	memcpy(x->f + 6, x->s->cfg.mac, 6);
}

/* A checksum at @p over a 16-bit word that changes from @from to @to (RFC 1624). */
static void csum_change(uint8_t *p, uint32_t from, uint32_t to)
{
	uint32_t sum = (uint16_t)~get16(p) + (uint16_t)~from + to;

	sum = (sum & 0xffff) + (sum >> 16);
	sum = (sum & 0xffff) + (sum >> 16);
	put16(p, (uint16_t)~sum);
}

void fh_udpip_rx_icmp4(struct frame *x, uint32_t off, uint32_t bytes)
{
	uint8_t *icmp = x->f + off, *ip = x->f + FH_ETH_BYTES, peer[4];

	if (bytes < 8) {
		drop(x, FH_UDPIP_BAD_LENGTH);
		return;
	}
	if (fh_csum_fold(fh_csum_add(0, icmp, bytes))) {
		drop(x, FH_UDPIP_BAD_CHECKSUM);
		return;
	}
	if (icmp[0] != ICMP_ECHO || icmp[1]) {
		drop(x, FH_UDPIP_OTHER_PROTO);
		return;
	}
	count(x->st, FH_UDPIP_ECHO_IN);
	memcpy(peer, ip + 12, 4);
	csum_change(icmp + 2, ICMP_ECHO << 8, ICMP_ECHO_REPLY << 8);
	icmp[0] = ICMP_ECHO_REPLY;
	fh_udpip_put_ip4(ip, PROTO_ICMP, bytes, x->s->cfg.ip4.ip.b + 12, peer, false);
	turn_eth(x);
	reply(x, off + bytes);
}

/* The Ethernet address in the first option of @type; NULL: there is none. False: the options make no sense. */
static bool nd_option(const uint8_t *opt, uint32_t bytes, uint8_t type, const uint8_t **mac)
{
	*mac = NULL;
	while (bytes) {
		uint32_t len = bytes >= 2 ? opt[1] * 8u : 0;

		if (!len || len > bytes)
			return false;
		if (opt[0] == type && len == ND_OPT_BYTES && !*mac)
			*mac = opt + 2;
		opt += len;
		bytes -= len;
	}
	return !*mac || !(**mac & 1);
}

/* Whether the message has come from this link, and is whole. */
static bool nd_fits(struct frame *x, const uint8_t *icmp, uint32_t bytes)
{
	if (bytes < ND_BYTES) {
		drop(x, FH_UDPIP_BAD_LENGTH);
		return false;
	}
	if (x->f[FH_ETH_BYTES + 7] != ND_HOPS || icmp[1] || icmp[8] == 0xff) {
		drop(x, FH_UDPIP_BAD_HEADER);
		return false;
	}
	return true;
}

/* Somebody asks who has an address of ours (RFC 4861, 7.2.3 and 7.2.4). */
static void rx_solicitation(struct frame *x, uint32_t off, uint32_t bytes)
{
	static const struct fh_ip all_nodes = {.b = {0xff, 0x02, [15] = 1}};
	uint8_t *icmp = x->f + off, *ip = x->f + FH_ETH_BYTES, mac[6];
	struct fh_ip target, to = x->out->from;
	bool nobody = ip_is_zero(&to);
	const uint8_t *source;

	if (!nd_fits(x, icmp, bytes))
		return;
	if (!nd_option(icmp + ND_BYTES, bytes - ND_BYTES, ND_OPT_SOURCE, &source) ||
	    (nobody && (source || ip[24] != 0xff))) {
		drop(x, FH_UDPIP_BAD_HEADER);
		return;
	}
	memcpy(target.b, icmp + 8, 16);
	if (!fh_udpip_is_ours(x->s, &target)) {
		drop(x, FH_UDPIP_NOT_OURS);
		return;
	}
	drop(x, FH_UDPIP_ND_IN);
	/* Its own address: a look for duplicates by somebody who wants it, which our answer ends. */
	if (nobody)
		count(x->st, FH_UDPIP_CONFLICT);
	if (source && fh_udpip_on_link(x->s, &to) && !fh_udpip_is_ours(x->s, &to))
		x->out->resolved = fh_neigh_note(x->s, &to, source, NEIGH_ADD, x->now_ns, x->st);
	if (x->cap < off + ND_BYTES + ND_OPT_BYTES)
		return;
	memcpy(mac, source ? source : x->f + 6, 6);
	if (nobody) {
		to = all_nodes;
		fh_udpip_group_mac(&to, mac);
	}
	memset(icmp, 0, 8);
	icmp[0] = ICMP6_NA;
	icmp[4] = (uint8_t)(ND_OVERRIDE | (nobody ? 0 : ND_SOLICITED));
	icmp[ND_BYTES] = ND_OPT_TARGET;
	icmp[ND_BYTES + 1] = 1;
	memcpy(icmp + ND_BYTES + 2, x->s->cfg.mac, 6);
	fh_udpip_put_eth(x->f, mac, x->s->cfg.mac, ETH_IP6);
	fh_udpip_put_ip6(ip, PROTO_ICMP6, ND_BYTES + ND_OPT_BYTES, ND_HOPS, &target, &to);
	fh_udpip_icmp6_csum(icmp, ND_BYTES + ND_OPT_BYTES, ip + 8, ip + 24);
	reply(x, off + ND_BYTES + ND_OPT_BYTES);
}

/* Somebody says what address he has (RFC 4861, 7.2.5). */
static void rx_advertisement(struct frame *x, uint32_t off, uint32_t bytes)
{
	const uint8_t *icmp = x->f + off, *mac;
	bool solicited = icmp[4] & ND_SOLICITED;
	struct fh_ip target;

	if (!nd_fits(x, icmp, bytes))
		return;
	if (!nd_option(icmp + ND_BYTES, bytes - ND_BYTES, ND_OPT_TARGET, &mac) ||
	    (solicited && x->f[FH_ETH_BYTES + 24] == 0xff)) {
		drop(x, FH_UDPIP_BAD_HEADER);
		return;
	}
	drop(x, FH_UDPIP_ND_IN);
	memcpy(target.b, icmp + 8, 16);
	if (fh_udpip_is_ours(x->s, &target)) {
		if (!mac || memcmp(mac, x->s->cfg.mac, 6))
			count(x->st, FH_UDPIP_CONFLICT);
		return;
	}
	/* Without the option it is the sender's own, as an answer to a question that went to him alone may be. */
	if (!mac)
		mac = x->f + 6;
	x->out->resolved = fh_neigh_note(
		x->s, &target, mac, (solicited ? NEIGH_CONFIRMED : 0u) | (icmp[4] & ND_OVERRIDE ? 0u : NEIGH_KEEP_MAC),
		x->now_ns, x->st);
}

static void rx_query(struct frame *x, uint32_t bytes)
{
	uint32_t n;

	/* A router of this link asks, and that from its link-local address (RFC 3810, 6.2). */
	if (bytes < 24) {
		drop(x, FH_UDPIP_BAD_LENGTH);
		return;
	}
	if (!ip_is_link_local(&x->out->from) || x->f[FH_ETH_BYTES + 7] != 1) {
		drop(x, FH_UDPIP_BAD_HEADER);
		return;
	}
	drop(x, FH_UDPIP_MLD_IN);
	if (x->cap < FH_UDPIP_CONTROL_MAX)
		return;
	n = fh_udpip_mld_report(x->s, x->f);
	if (n)
		reply(x, n);
}

static void rx_echo6(struct frame *x, uint32_t off, uint32_t bytes)
{
	uint8_t *icmp = x->f + off, *ip = x->f + FH_ETH_BYTES;
	struct fh_ip own, to = x->out->from;

	memcpy(own.b, ip + 24, 16);
	if (icmp[1] || own.b[0] == 0xff || ip_is_zero(&to)) {
		drop(x, FH_UDPIP_OTHER_PROTO);
		return;
	}
	count(x->st, FH_UDPIP_ECHO_IN);
	/* Swapping the addresses leaves the sum of the pseudo header as it is. */
	csum_change(icmp + 2, ICMP6_ECHO << 8, ICMP6_ECHO_REPLY << 8);
	icmp[0] = ICMP6_ECHO_REPLY;
	fh_udpip_put_ip6(ip, PROTO_ICMP6, bytes, IP_HOPS, &own, &to);
	turn_eth(x);
	reply(x, off + bytes);
}

void fh_udpip_rx_icmp6(struct frame *x, uint32_t off, uint32_t bytes)
{
	const uint8_t *icmp = x->f + off, *ip = x->f + FH_ETH_BYTES;

	if (bytes < 8) {
		drop(x, FH_UDPIP_BAD_LENGTH);
		return;
	}
	if (fh_csum_fold(fh_csum_add(fh_udpip_pseudo(ip + 8, ip + 24, 16, PROTO_ICMP6, bytes), icmp, bytes))) {
		drop(x, FH_UDPIP_BAD_CHECKSUM);
		return;
	}
	switch (icmp[0]) {
	case ICMP6_ECHO: rx_echo6(x, off, bytes); break;
	case ICMP6_NS: rx_solicitation(x, off, bytes); break;
	case ICMP6_NA: rx_advertisement(x, off, bytes); break;
	case ICMP6_MLD_QUERY: rx_query(x, bytes); break;
	default: drop(x, FH_UDPIP_OTHER_PROTO); break;
	}
}
