// SPDX-License-Identifier: Apache-2.0
/* UDP over IP over Ethernet: what a link asks of a host, and the table of neighbours. */
#include <pthread.h>

#include "tests/unit/udpip_util.h"

Test(udpip_link, arp)
{
	struct host *a = host(mac_a, 1);
	struct fh_ip own = a->s.cfg.ip4.ip, peer = ip4(192, 0, 2, 9), nobody = ip4(0, 0, 0, 0);
	static const uint8_t other[6] = {0x02, 9, 9, 9, 9, 9};
	uint8_t f[64];
	struct fh_udpip_rx rx;
	struct pkt p;

	/* A probe is answered and not remembered. */
	p = arp(f, 1, mac_b, nobody, own);
	rx = feed(a, &p, 0);
	cr_assert_eq(rx.verdict, FH_UDPIP_REPLY);
	cr_assert(p.bytes == 42 && !memcmp(f, mac_b, 6) && !memcmp(f + 6, mac_a, 6) && f[21] == 2);
	cr_assert(!memcmp(f + 22, mac_a, 6) && !memcmp(f + 28, own.b + 12, 4) && !memcmp(f + 32, mac_b, 6) &&
		  !memcmp(f + 38, nobody.b + 12, 4));
	cr_assert_not(fh_udpip_set_hop(&a->s, &nobody, f, a->now));
	/* What others ask each other is no answer's business, and makes no entry. */
	p = arp(f, 1, mac_b, peer, ip4(192, 0, 2, 3));
	cr_assert_eq(feed(a, &p, 0).verdict, FH_UDPIP_DROP);
	cr_assert_not(fh_udpip_set_hop(&a->s, &peer, f, a->now));
	/* A question is remembered; the trailing bytes of a short Ethernet frame do not matter. */
	p = arp(f, 1, mac_b, peer, own);
	p.bytes = 60;
	cr_assert_eq(feed(a, &p, 0).verdict, FH_UDPIP_REPLY);
	cr_assert(fh_udpip_set_hop(&a->s, &peer, f, a->now));
	cr_assert(!memcmp(f, mac_b, 6));
	/* A new card for an address that is known: everybody is told. */
	p = arp(f, 1, other, peer, peer);
	cr_assert_eq(feed(a, &p, 0).verdict, FH_UDPIP_DROP);
	cr_assert(fh_udpip_set_hop(&a->s, &peer, f, a->now));
	cr_assert(!memcmp(f, other, 6));
	/* Not of this link: not remembered. */
	p = arp(f, 1, mac_b, ip4(198, 51, 100, 1), own);
	cr_assert_eq(feed(a, &p, 0).verdict, FH_UDPIP_REPLY);
	peer = ip4(198, 51, 100, 1);
	cr_assert_not(fh_udpip_set_hop(&a->s, &peer, f, a->now));
	/* Somebody else with our address. */
	p = arp(f, 2, mac_b, own, own);
	cr_assert_eq(feed(a, &p, 0).verdict, FH_UDPIP_DROP);
	cr_assert_eq(stat(a, FH_UDPIP_CONFLICT), 1);
	for (int i = 14; i < 22; i++) {
		p = arp(f, 1, mac_b, peer, own);
		f[i] ^= 0x40;
		cr_assert_eq(feed(a, &p, 0).verdict, FH_UDPIP_DROP, "byte %d", i);
	}
	for (uint32_t n = 0; n < 42; n++) {
		p = arp(f, 1, mac_b, peer, own);
		p.bytes = n;
		cr_assert_eq(feed(a, &p, 0).verdict, FH_UDPIP_DROP);
	}
	free(a);
}

Test(udpip_link, ping)
{
	struct host *a = host(mac_a, 1);

	for (int v4 = 0; v4 < 2; v4++)
		for (uint32_t n = 8; n <= 1400; n += n < 80 ? 1 : 333) {
			struct fh_ip own = v4 ? a->s.cfg.ip4.ip : a->s.cfg.ip6.ip;
			struct fh_ip peer = v4 ? ip4(203, 0, 113, 1) : ip6(7, 7);
			uint8_t f[CAP];
			struct pkt p = ip_frame(f, v4, v4 ? 1 : 58, peer, own, n);
			uint8_t *icmp = f + p.bytes - n;

			for (uint32_t i = 0; i < n; i++)
				icmp[i] = (uint8_t)(i * 31);
			icmp[0] = v4 ? 8 : 128;
			icmp[1] = 0;
			icmp_sum(&p, v4, 0);
			cr_assert(sums_right(f));
			cr_assert_eq(feed(a, &p, 0).verdict, FH_UDPIP_REPLY);
			cr_assert_eq(p.bytes, (uint32_t)(icmp - f) + n);
			cr_assert(sums_right(f), "%u bytes", n);
			cr_assert(!memcmp(f, mac_b, 6) && !memcmp(f + 6, mac_a, 6) && icmp[0] == (v4 ? 0 : 129));
			for (uint32_t i = 4; i < n; i++)
				cr_assert_eq(icmp[i], (uint8_t)(i * 31));
			cr_assert(v4 ? !memcmp(f + 30, peer.b + 12, 4) : !memcmp(f + 38, peer.b, 16));
			/* A wrong sum gets none. */
			p = ip_frame(f, v4, v4 ? 1 : 58, peer, own, n);
			icmp[0] = v4 ? 8 : 128;
			icmp_sum(&p, v4, 0);
			icmp[n - 1] ^= 4;
			cr_assert_eq(feed(a, &p, 0).verdict, FH_UDPIP_DROP);
		}
	free(a);
}

/* A solicitation (135) or advertisement (136) of @target with an option of type @opt; 0: none. */
static struct pkt nd(uint8_t *f, uint8_t type, uint8_t flags, struct fh_ip src, struct fh_ip dst, struct fh_ip target,
		     uint8_t opt, const uint8_t *mac)
{
	struct pkt p = ip_frame(f, false, 58, src, dst, opt ? 32 : 24);
	uint8_t *icmp = f + 54;

	if (dst.b[0] == 0xff) {
		f[0] = f[1] = 0x33;
		memcpy(f + 2, dst.b + 12, 4);
	}
	memset(icmp, 0, 32);
	icmp[0] = type;
	icmp[4] = flags;
	memcpy(icmp + 8, target.b, 16);
	icmp[24] = opt;
	icmp[25] = 1;
	if (opt)
		memcpy(icmp + 26, mac, 6);
	icmp_sum(&p, false, 0);
	return p;
}

Test(udpip_link, neighbour_discovery)
{
	struct host *a = host(mac_a, 1);
	struct fh_ip own = a->s.cfg.ip6.ip, peer = ip6(1, 9), group = own, zero = {0}, far = ip6(3, 9);
	struct fh_ip all = {.b = {0xff, 2, [15] = 1}};
	static const uint8_t other[6] = {0x02, 9, 9, 9, 9, 9};
	uint8_t f[128];
	struct pkt p;

	group = (struct fh_ip){.b = {0xff, 2, [11] = 1, [12] = 0xff, own.b[13], own.b[14], own.b[15]}};
	/* Asked at the group, and directly; the answer goes to who asked, with our address. */
	p = nd(f, 135, 0, peer, group, own, 1, mac_b);
	cr_assert_eq(feed(a, &p, 0).verdict, FH_UDPIP_REPLY);
	cr_assert(sums_right(f) && f[54] == 136 && f[58] == 0x60 && f[21] == 255 && !memcmp(f, mac_b, 6));
	cr_assert(!memcmp(f + 38, peer.b, 16) && !memcmp(f + 62, own.b, 16) && f[78] == 2 && !memcmp(f + 80, mac_a, 6));
	cr_assert(fh_udpip_set_hop(&a->s, &peer, f, a->now));
	/* Without the option the answer needs eight bytes more than the question had. */
	p = nd(f, 135, 0, peer, own, own, 0, NULL);
	cr_assert_eq(feed(a, &p, 128).verdict, FH_UDPIP_REPLY);
	cr_assert(sums_right(f) && p.bytes == 86 && !memcmp(f, mac_b, 6));
	p = nd(f, 135, 0, peer, own, own, 0, NULL);
	cr_assert_eq(feed(a, &p, 78).verdict, FH_UDPIP_DROP, "there is no room for it");
	/* Somebody is about to take our address: everybody hears that it is ours. */
	p = nd(f, 135, 0, zero, group, own, 0, NULL);
	cr_assert_eq(feed(a, &p, 128).verdict, FH_UDPIP_REPLY);
	cr_assert(sums_right(f) && f[58] == 0x20 && f[0] == 0x33 && f[5] == 1 && !memcmp(f + 38, all.b, 16));
	cr_assert_eq(stat(a, FH_UDPIP_CONFLICT), 1);
	/* What must not be answered. */
	p = nd(f, 135, 0, zero, group, own, 1, mac_b);
	cr_assert_eq(feed(a, &p, 0).verdict, FH_UDPIP_DROP);
	p = nd(f, 135, 0, peer, group, ip6(1, 3), 1, mac_b);
	cr_assert_eq(feed(a, &p, 0).verdict, FH_UDPIP_DROP);
	p = nd(f, 135, 0, peer, group, own, 1, mac_b);
	f[21] = 254;
	cr_assert_eq(feed(a, &p, 0).verdict, FH_UDPIP_DROP, "it has passed a router");
	p = nd(f, 135, 0, peer, group, own, 1, mac_b);
	f[79] = 0;
	icmp_sum(&p, false, 0);
	cr_assert_eq(feed(a, &p, 0).verdict, FH_UDPIP_DROP, "an option without a length");
	p = nd(f, 135, 0, peer, group, own, 1, mac_b);
	f[79] = 2;
	icmp_sum(&p, false, 0);
	cr_assert_eq(feed(a, &p, 0).verdict, FH_UDPIP_DROP, "an option that is longer than the message");
	/* Advertisements change what is known, with override only, and add nothing. */
	p = nd(f, 136, 0x40, peer, own, peer, 2, other);
	feed(a, &p, 0);
	cr_assert(fh_udpip_set_hop(&a->s, &peer, f, a->now) && !memcmp(f, mac_b, 6));
	p = nd(f, 136, 0x60, peer, own, peer, 2, other);
	feed(a, &p, 0);
	cr_assert(fh_udpip_set_hop(&a->s, &peer, f, a->now) && !memcmp(f, other, 6));
	p = nd(f, 136, 0x20, far, all, far, 2, other);
	feed(a, &p, 0);
	cr_assert_not(fh_udpip_set_hop(&a->s, &far, f, a->now));
	p = nd(f, 136, 0x20, own, all, own, 2, other);
	feed(a, &p, 0);
	cr_assert_eq(stat(a, FH_UDPIP_CONFLICT), 2);
	free(a);
}

Test(udpip_link, multicast_listeners)
{
	struct host *a = host(mac_a, 1);
	struct fh_ip router = {.b = {0xfe, 0x80, [15] = 1}}, all = {.b = {0xff, 2, [15] = 1}};
	static const uint8_t alert[8] = {58, 0, 5, 2, 0, 0, 1, 0};
	uint8_t f[256];
	struct pkt p;

	for (int v = 0; v < 3; v++) {
		p = ip_frame(f, false, 0, router, all, 8 + 28);
		f[0] = f[1] = 0x33;
		memcpy(f + 2, all.b + 12, 4);
		f[21] = 1;
		memcpy(f + 54, alert, 8);
		memset(f + 62, 0, 28);
		f[62] = v == 2 ? 128 : 130;
		icmp_sum(&p, false, 8);
		cr_assert_eq(feed(a, &p, v ? sizeof(f) : 0).verdict, v == 1 ? FH_UDPIP_REPLY : FH_UDPIP_DROP);
	}
	/* Two groups: that of the address, that of the link-local one. */
	p.bytes = fh_udpip_announce(&a->s, 1, f);
	cr_assert_eq(p.bytes, 14 + 40 + 8 + 8 + 40);
	cr_assert(sums_right(f) && f[62] == 143 && f[69] == 2 && f[70] == 4);
	free(a);
}

Test(udpip_link, announcements_are_what_others_understand)
{
	struct host *a = host(mac_a, 1), *b = host(mac_b, 2);
	uint8_t f[FH_UDPIP_CONTROL_MAX], buf[CAP];
	struct pkt p = {f, 0};
	struct fh_ip own = a->s.cfg.ip4.ip;
	uint32_t n = 0;
	bool probe;
	int rc;

	/* b waits for a's address; a comes up. */
	send_to(b, buf, own, 10, &rc, &probe);
	cr_assert_eq(rc, -EAGAIN);
	send_to(b, buf, a->s.cfg.ip6.ip, 10, &rc, &probe);
	cr_assert_eq(rc, -EAGAIN);
	while ((p.bytes = fh_udpip_announce(&a->s, n, f))) {
		cr_assert(f[12] == 8 || sums_right(f));
		feed(b, &p, sizeof(f));
		n++;
	}
	cr_assert_eq(n, 4);
	cr_assert(fh_udpip_set_hop(&b->s, &own, f, b->now) && !memcmp(f, mac_a, 6));
	cr_assert(fh_udpip_set_hop(&b->s, &a->s.cfg.ip6.ip, f, b->now) && !memcmp(f, mac_a, 6));
	cr_assert_eq(stat(b, FH_UDPIP_CONFLICT), 0);
	free(a);
	free(b);
}

/* ---- the table ---- */

Test(udpip_link, neighbours_age)
{
	struct host *a = host(mac_a, 1), *b = host(mac_b, 2);
	struct fh_ip to = b->s.cfg.ip4.ip;
	uint8_t buf[CAP];
	bool probe;
	int rc;

	meet(a, b, to);
	send_to(a, buf, to, 1, &rc, &probe);
	cr_assert(rc > 0 && !probe);
	a->now += FH_NEIGH_STALE_NS;
	/* Still used, but asked for again, once a second. */
	send_to(a, buf, to, 1, &rc, &probe);
	cr_assert(rc > 0 && probe);
	send_to(a, buf, to, 1, &rc, &probe);
	cr_assert(rc > 0 && !probe);
	a->now += FH_NEIGH_PROBE_NS;
	send_to(a, buf, to, 1, &rc, &probe);
	cr_assert(rc > 0 && probe);
	a->now += FH_NEIGH_DEAD_NS;
	send_to(a, buf, to, 1, &rc, &probe);
	cr_assert(rc == -EAGAIN && probe);
	send_to(a, buf, to, 1, &rc, &probe);
	cr_assert(rc == -EAGAIN && !probe);
	/* And comes back. */
	a->now += FH_NEIGH_PROBE_NS;
	meet(a, b, to);
	free(a);
	free(b);
}

Test(udpip_link, requests_are_limited_in_all)
{
	struct host *a = host(mac_a, 1);
	struct fh_udpip_config c = config(mac_a, 1);
	uint8_t buf[CAP];
	uint32_t asked = 0;
	bool probe;
	int rc;

	c.ip4.ip = ip4(10, 0, 0, 1);
	c.ip4.prefix = 8;
	c.ip4.gateway = (struct fh_ip){0};
	cr_assert_eq(fh_udpip_init(&a->s, &c, 77), 0);
	for (int i = 2; i < 2000; i++) {
		send_to(a, buf, ip4(10, 1, (uint8_t)(i >> 8), (uint8_t)i), 1, &rc, &probe);
		cr_assert_eq(rc, -EAGAIN);
		asked += probe;
	}
	cr_assert_eq(asked, FH_NEIGH_PROBES_PER_S);
	a->now += S;
	send_to(a, buf, ip4(10, 9, 9, 9), 1, &rc, &probe);
	cr_assert(probe);
	free(a);
}

/* Whether @n addresses 10.@net.x.x, from the first on, are known. */
static uint32_t still_known(struct host *a, uint8_t net, uint32_t n)
{
	uint32_t known = 0;
	uint8_t f[64];

	for (uint32_t i = 0; i < n; i++) {
		struct fh_ip ip = ip4(10, net, (uint8_t)(i >> 8), (uint8_t)i);

		known += fh_udpip_set_hop(&a->s, &ip, f, a->now);
	}
	return known;
}

/* @n hosts 10.@net.x.x ask for us. */
static void heard_from(struct host *a, uint8_t net, uint32_t n)
{
	uint8_t f[64];

	for (uint32_t i = 0; i < n; i++) {
		struct pkt p = arp(f, 1, mac_b, ip4(10, net, (uint8_t)(i >> 8), (uint8_t)i), a->s.cfg.ip4.ip);

		feed(a, &p, 0);
	}
}

/* Write to so many others that each slot is asked for many times; how many questions that made. */
static uint32_t write_to_nobody(struct host *a, uint32_t seconds)
{
	uint32_t asked = 0;
	uint8_t buf[CAP];
	bool probe;
	int rc;

	for (uint32_t i = 0; i < seconds * FH_NEIGH_PROBES_PER_S; i++) {
		send_to(a, buf, ip4(10, 99, (uint8_t)(i >> 8), (uint8_t)i), 1, &rc, &probe);
		cr_assert_eq(rc, -EAGAIN);
		asked += probe;
		if (i % FH_NEIGH_PROBES_PER_S == FH_NEIGH_PROBES_PER_S - 1)
			a->now += S;
	}
	return asked;
}

Test(udpip_link, what_does_not_answer_displaces_nobody)
{
	enum { CLIENTS = 200, CROWD = 20000 };
	struct host *a = host(mac_a, 1);
	struct fh_udpip_config c = config(mac_a, 1);
	struct fh_ip gateway = ip4(10, 0, 0, 254), far = ip4(203, 0, 113, 5);
	uint8_t f[64], buf[CAP];
	struct pkt p;
	bool probe;
	int rc;

	c.ip4.ip = ip4(10, 0, 0, 1);
	c.ip4.prefix = 8;
	c.ip4.gateway = gateway;
	cr_assert_eq(fh_udpip_init(&a->s, &c, 4711), 0);
	/* A gateway and clients that are known, then a minute of senders that are not there. */
	p = arp(f, 1, mac_b, gateway, c.ip4.ip);
	feed(a, &p, 0);
	heard_from(a, 1, CLIENTS);
	cr_assert_eq(still_known(a, 1, CLIENTS), CLIENTS);
	cr_assert_gt(write_to_nobody(a, 60), 60u * 200, "room is left for questions");
	cr_assert_eq(still_known(a, 1, CLIENTS), CLIENTS);
	cr_assert(fh_udpip_set_hop(&a->s, &gateway, f, a->now));
	/* They answer no more: the next ones make use of their slots, and a new host is heard. */
	a->now += FH_NEIGH_DEAD_NS;
	cr_assert_gt(write_to_nobody(a, 8), 8u * 200);
	heard_from(a, 2, 1);
	cr_assert_eq(still_known(a, 2, 1), 1);
	/* More live hosts than slots displace each other, and never the gateway. */
	p = arp(f, 1, mac_b, gateway, c.ip4.ip);
	feed(a, &p, 0);
	a->now += S;
	heard_from(a, 3, CROWD);
	cr_assert_gt(still_known(a, 3, CROWD), FH_NEIGH_SLOTS / 2);
	cr_assert(fh_udpip_set_hop(&a->s, &gateway, f, a->now));
	/* Among live ones there is no room for a question, but for the gateway's. */
	a->now += S;
	cr_assert_eq(write_to_nobody(a, 1), 0);
	cr_assert_eq(fh_udpip_init(&a->s, &c, 4711), 0);
	heard_from(a, 3, CROWD);
	send_to(a, buf, far, 1, &rc, &probe);
	cr_assert(rc == -EAGAIN && probe);
	p = arp(f, 2, mac_b, gateway, c.ip4.ip);
	feed(a, &p, 0);
	send_to(a, buf, far, 1, &rc, &probe);
	cr_assert_gt(rc, 0);
	free(a);
}

/* Two queues learn and look up at once: whoever finds an address finds the card that goes with it. */
static void *queue(void *arg)
{
	struct host *a = arg;
	struct fh_udpip_stats *st = calloc(1, sizeof(*st));
	uint64_t x = (uintptr_t)st | 1, found = 0;

	for (int i = 0; i < 60000; i++) {
		uint8_t f[64], card[6] = {0x02, 0, 0, 0, 0, 0};
		struct fh_udpip_rx rx;
		struct fh_ip peer;

		x ^= x << 13, x ^= x >> 7, x ^= x << 17;
		card[4] = (uint8_t)(x >> 8 & 7);
		card[5] = (uint8_t)x;
		peer = ip4(10, 7, card[4], card[5]);
		if (x & 0x10000) {
			struct pkt p = arp(f, 1, card, peer, a->s.cfg.ip4.ip);

			fh_udpip_rx(&a->s, p.f, p.bytes, 64, FH_CSUM_UNKNOWN, FH_CSUM_UNKNOWN, 5 * S, st, &rx);
		} else if (fh_udpip_set_hop(&a->s, &peer, f, 5 * S)) {
			found++;
			if (memcmp(f, card, 6))
				return NULL;
		}
	}
	free(st);
	return (void *)found;
}

Test(udpip_link, queues_share_the_table)
{
	struct host *a = host(mac_a, 1);
	struct fh_udpip_config c = config(mac_a, 1);
	pthread_t t[3];
	void *found;

	c.ip4.ip = ip4(10, 0, 0, 1);
	c.ip4.prefix = 8;
	c.ip4.gateway = (struct fh_ip){0};
	cr_assert_eq(fh_udpip_init(&a->s, &c, 99), 0);
	for (int i = 0; i < 3; i++)
		cr_assert_eq(pthread_create(&t[i], NULL, queue, a), 0);
	for (int i = 0; i < 3; i++) {
		pthread_join(t[i], &found);
		cr_assert_neq(found, NULL, "a lookup found another's card, or nothing at all");
	}
	free(a);
}
