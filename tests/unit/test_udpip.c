// SPDX-License-Identifier: Apache-2.0
/* UDP over IP over Ethernet: payloads from host to host, and each reason not to take one. */
#include "tests/unit/udpip_util.h"

Test(udpip, hosts_that_cannot_be_are_refused)
{
	struct fh_udpip *s = malloc(sizeof(*s));
	struct fh_udpip_config c;

#define REFUSED(change)                                                                                                \
	do {                                                                                                           \
		c = config(mac_a, 1);                                                                                  \
		change;                                                                                                \
		cr_assert_eq(fh_udpip_init(s, &c, 1), -EINVAL, #change);                                               \
	} while (0)
	REFUSED(c.mtu = 1279);
	REFUSED(c.mtu = FH_UDPIP_MTU_MAX + 1);
	REFUSED(c.mac[0] = 1);
	REFUSED(memset(c.mac, 0, 6));
	REFUSED(c.ip4.set = c.ip6.set = false);
	REFUSED(c.ip4.ip = ip6(1, 1));
	REFUSED(c.ip6.ip = ip4(10, 0, 0, 1));
	REFUSED(c.ip4.prefix = 0);
	REFUSED(c.ip4.prefix = 33);
	REFUSED(c.ip6.prefix = 129);
	REFUSED(c.ip4.ip = ip4(192, 0, 2, 255));
	REFUSED(c.ip4.ip = ip4(192, 0, 2, 0));
	REFUSED(c.ip4.ip = ip4(224, 0, 0, 1));
	REFUSED(c.ip4.ip = ip4(127, 0, 0, 1));
	REFUSED(c.ip4.gateway = ip4(192, 0, 3, 1));
	REFUSED(c.ip4.gateway = c.ip4.ip);
	REFUSED(c.ip6.gateway = ip6(2, 1));
	REFUSED(c.ip6.ip.b[0] = 0xff);
#undef REFUSED
	c = config(mac_a, 1);
	c.ip4.prefix = 32;
	c.ip4.gateway = (struct fh_ip){0};
	c.ip6.gateway = (struct fh_ip){.b = {0xfe, 0x80, [15] = 1}};
	cr_assert_eq(fh_udpip_init(s, &c, 1), 0);
	free(s);
}

Test(udpip, checksum_is_the_sum_of_words)
{
	uint8_t buf[4096 + 8];
	uint64_t x = 88172645463325252ull;

	for (size_t i = 0; i < sizeof(buf); i++) {
		x ^= x << 13, x ^= x >> 7, x ^= x << 17;
		buf[i] = (uint8_t)x;
	}
	for (uint32_t at = 0; at < 8; at++)
		for (uint32_t n = 0; n < 300; n++) {
			uint32_t cut = n / 3 & ~1u;
			uint16_t want = (uint16_t)~naive(0, buf + at, n), got;
			uint8_t bytes[2];

			got = fh_csum_fold(fh_csum_add(0, buf + at, n));
			memcpy(bytes, &got, 2);
			cr_assert_eq(bytes[0] << 8 | bytes[1], want, "%u bytes at %u", n, at);
			/* In two pieces, the first of them even. */
			got = fh_csum_fold(fh_csum_add(fh_csum_add(0, buf + at, cut), buf + at + cut, n - cut));
			memcpy(bytes, &got, 2);
			cr_assert_eq(bytes[0] << 8 | bytes[1], want);
		}
	memset(buf, 0xff, sizeof(buf));
	cr_assert_eq(fh_csum_fold(fh_csum_add(0, buf, 4096)), 0);
}

Test(udpip, hosts_find_each_other_and_talk)
{
	for (int v = 0; v < 3; v++) {
		struct host *a = host(mac_a, 1), *b = host(mac_b, 2);
		struct fh_ip to_b = v == 0 ? b->s.cfg.ip4.ip : v == 1 ? b->s.cfg.ip6.ip : b->s.link_local;
		struct fh_ip to_a = v == 0 ? a->s.cfg.ip4.ip : v == 1 ? a->s.cfg.ip6.ip : a->s.link_local;
		uint8_t buf[CAP];
		bool probe;
		struct pkt p;
		int rc;

		meet(a, b, to_b);
		/* Who was asked knows who asked: his answer goes at once, and every size arrives. */
		for (uint32_t n = 0; n <= fh_udpip_payload_max(&b->s, &to_a); n += n < 70 ? 1 : 97) {
			struct fh_udpip_rx rx;

			p = send_to(b, buf, to_a, n, &rc, &probe);
			cr_assert_eq(rc, (int)(p.bytes - n));
			cr_assert(sums_right(p.f), "%u bytes", n);
			cr_assert_eq((uintptr_t)(rc % 4), 2, "the payload lies as dgram.h says");
			rx = feed(a, &p, 0);
			cr_assert_eq(rx.verdict, FH_UDPIP_DATA);
			cr_assert_eq(rx.bytes, n);
			cr_assert(!memcmp(&rx.from, v < 2 ? &to_b : &to_b, 16));
			for (uint32_t i = 0; i < n; i++)
				cr_assert_eq(p.f[rx.off + i], (uint8_t)(i * 7 + 1));
		}
		free(a);
		free(b);
	}
}

Test(udpip, a_payload_that_does_not_fit_is_refused)
{
	struct host *a = host(mac_a, 1);
	struct fh_udpip_route r;
	struct fh_ip to = ip4(192, 0, 2, 2);
	uint8_t buf[CAP];
	bool probe;

	cr_assert_eq(fh_udpip_payload_max(&a->s, &to), 1472);
	cr_assert_eq(fh_udpip_route(&a->s, &to, PORT, &r), 0);
	cr_assert_eq(fh_udpip_tx(&a->s, &r, buf + 64, 1473, 0, 0, a->now, &a->st, &probe), -EMSGSIZE);
	cr_assert_not(probe);
	free(a);
}

Test(udpip, ways)
{
	struct host *a = host(mac_a, 1);
	struct fh_udpip_config c = config(mac_a, 1);
	struct fh_udpip_route r;
	struct fh_ip to;

#define WAY(addr) (to = (addr), fh_udpip_route(&a->s, &to, 9, &r))
	cr_assert_eq(WAY(ip4(192, 0, 2, 77)), 0);
	cr_assert(!memcmp(&r.hop, &to, 16));
	cr_assert_eq(WAY(ip4(198, 51, 100, 1)), 0);
	cr_assert(!memcmp(&r.hop, &c.ip4.gateway, 16));
	cr_assert_eq(WAY(ip6(1, 9)), 0);
	cr_assert(!memcmp(&r.hop, &to, 16) && !memcmp(&r.from, &c.ip6.ip, 16));
	cr_assert_eq(WAY(ip6(2, 9)), 0);
	cr_assert(!memcmp(&r.hop, &c.ip6.gateway, 16));
	cr_assert_eq(WAY(((struct fh_ip){.b = {0xfe, 0x80, [15] = 7}})), 0);
	cr_assert(!memcmp(&r.hop, &to, 16) && !memcmp(&r.from, &a->s.link_local, 16));
	cr_assert_eq(WAY(ip4(192, 0, 2, 255)), -EINVAL);
	cr_assert_eq(WAY(ip4(192, 0, 2, 1)), -EINVAL, "ourselves");
	cr_assert_eq(WAY(ip4(239, 1, 1, 1)), -EINVAL);
	cr_assert_eq(WAY(((struct fh_ip){.b = {0xff, 0x02, [15] = 1}})), -EINVAL);
	cr_assert_eq(WAY((struct fh_ip){0}), -EINVAL);
	c.ip4.gateway = c.ip6.gateway = (struct fh_ip){0};
	c.ip6.set = false;
	cr_assert_eq(fh_udpip_init(&a->s, &c, 1), 0);
	cr_assert_eq(WAY(ip4(198, 51, 100, 1)), -ENETUNREACH);
	cr_assert_eq(WAY(ip6(1, 9)), -ENETUNREACH);
#undef WAY
	free(a);
}

/* ---- what is not taken ---- */

Test(udpip, damage_is_seen)
{
	for (int v4 = 0; v4 < 2; v4++) {
		struct host *a = host(mac_a, 1), *b = host(mac_b, 2);
		uint8_t buf[CAP], copy[CAP], good[32];
		bool probe;
		struct pkt p, q = {copy, 0};
		uint32_t passed = 0;
		int rc;

		meet(a, b, v4 ? b->s.cfg.ip4.ip : b->s.cfg.ip6.ip);
		p = send_to(a, buf, v4 ? b->s.cfg.ip4.ip : b->s.cfg.ip6.ip, 32, &rc, &probe);
		memcpy(good, p.f + rc, 32);
		for (uint32_t bit = 0; bit < p.bytes * 8; bit++) {
			struct fh_udpip_rx rx;

			memcpy(copy, p.f, p.bytes);
			copy[bit / 8] ^= (uint8_t)(1 << bit % 8);
			q.bytes = p.bytes;
			rx = feed(b, &q, 0);
			if (rx.verdict != FH_UDPIP_DATA)
				continue;
			/* The sender's card, or fields that no sum of IPv6 covers: what was sent is still what came. */
			cr_assert(bit / 8 < (v4 ? 12u : 22u), "bit %u", bit);
			cr_assert(rx.bytes == 32 && !memcmp(copy + rx.off, good, 32));
			passed++;
		}
		cr_assert_eq(passed, v4 ? 47u : 47u + 28u + 8u, "%u", passed);
		for (uint32_t n = 0; n < p.bytes; n++) {
			memcpy(copy, p.f, n);
			q.bytes = n;
			cr_assert_eq(feed(b, &q, 0).verdict, FH_UDPIP_DROP, "%u bytes of it", n);
		}
		free(a);
		free(b);
	}
}

/* A datagram for @h with a right checksum, or none. */
static struct pkt datagram(struct host *h, uint8_t *f, bool v4, struct fh_ip from, bool sum)
{
	struct pkt p = ip_frame(f, v4, 17, from, v4 ? h->s.cfg.ip4.ip : h->s.cfg.ip6.ip, 8 + 6);
	uint8_t *udp = f + (v4 ? 34 : 54);
	uint32_t s;

	memset(udp, 0, 14);
	udp[1] = 99, udp[2] = PORT >> 8, udp[3] = PORT & 255, udp[5] = 14;
	s = 0xffff ^ naive(naive(0, f + (v4 ? 26 : 22), v4 ? 8 : 32) + 17 + 14, udp, 14);
	if (sum)
		udp[6] = (uint8_t)(s >> 8), udp[7] = (uint8_t)s;
	return p;
}

static void refix(uint8_t *f)
{
	uint32_t s;

	f[24] = f[25] = 0;
	s = 0xffff ^ naive(0, f + 14, 20);
	f[24] = (uint8_t)(s >> 8), f[25] = (uint8_t)s;
}

Test(udpip, each_refusal_has_its_counter)
{
	struct host *a = host(mac_a, 1);
	struct fh_ip p4 = ip4(192, 0, 2, 9), p6 = ip6(1, 9);
	uint8_t f[256];
	struct pkt p;

#define COUNTS(counter, v4, from, sum, change)                                                                         \
	do {                                                                                                           \
		uint64_t before = stat(a, counter);                                                                    \
		p = datagram(a, f, v4, from, sum);                                                                     \
		change;                                                                                                \
		cr_assert_neq(feed(a, &p, 0).verdict, FH_UDPIP_REPLY);                                                 \
		cr_assert_eq(stat(a, counter), before + 1, #counter ": " #change);                                     \
	} while (0)
	COUNTS(FH_UDPIP_DATA_IN, true, p4, true, );
	COUNTS(FH_UDPIP_DATA_IN, false, p6, true, );
	COUNTS(FH_UDPIP_DATA_IN, true, p4, false, );
	COUNTS(FH_UDPIP_DATA_IN, true, p4, true, p.bytes += 12);
	COUNTS(FH_UDPIP_BAD_CHECKSUM, false, p6, false, );
	COUNTS(FH_UDPIP_BAD_LENGTH, true, p4, true, p.bytes = 13);
	COUNTS(FH_UDPIP_BAD_LENGTH, true, p4, true, f[39] = 7);
	COUNTS(FH_UDPIP_BAD_LENGTH, true, p4, true, f[39] = 15);
	COUNTS(FH_UDPIP_BAD_LENGTH, false, p6, true, f[19] = 200);
	COUNTS(FH_UDPIP_BAD_HEADER, true, p4, true, f[6] |= 1);
	COUNTS(FH_UDPIP_BAD_HEADER, true, p4, true, f[14] = 0x55);
	COUNTS(FH_UDPIP_BAD_HEADER, true, p4, true, f[14] = 0x44);
	COUNTS(FH_UDPIP_BAD_HEADER, false, p6, true, f[14] = 0x50);
	COUNTS(FH_UDPIP_BAD_HEADER, true, ip4(224, 0, 0, 1), true, );
	COUNTS(FH_UDPIP_BAD_HEADER, true, ip4(127, 0, 0, 1), true, );
	COUNTS(FH_UDPIP_BAD_HEADER, true, ip4(192, 0, 2, 255), true, );
	COUNTS(FH_UDPIP_BAD_HEADER, true, ip4(192, 0, 2, 1), true, );
	COUNTS(FH_UDPIP_BAD_HEADER, false, ((struct fh_ip){.b = {0xff, 2, [15] = 9}}), true, );
	COUNTS(FH_UDPIP_BAD_HEADER, false, p4, true, );
	COUNTS(FH_UDPIP_BAD_HEADER, false, ((struct fh_ip){0}), true, );
	COUNTS(FH_UDPIP_BAD_CHECKSUM, true, p4, true, f[25] ^= 1);
	COUNTS(FH_UDPIP_BAD_CHECKSUM, true, p4, true, f[47] ^= 1);
	COUNTS(FH_UDPIP_FRAGMENT, true, p4, true, (f[20] = 0x20, refix(f)));
	COUNTS(FH_UDPIP_FRAGMENT, true, p4, true, (f[21] = 1, refix(f)));
	COUNTS(FH_UDPIP_FRAGMENT, false, p6, true, f[20] = 44);
	COUNTS(FH_UDPIP_EXTENSION, true, p4, true, (f[14] = 0x46, refix(f)));
	COUNTS(FH_UDPIP_EXTENSION, false, p6, true, f[20] = 60);
	COUNTS(FH_UDPIP_NOT_OURS, false, p6, true, (f[20] = 0, f[0] = 0x33, f[1] = 0x33, f[53] ^= 1));
	COUNTS(FH_UDPIP_NOT_OURS, true, p4, true, f[5] ^= 1);
	COUNTS(FH_UDPIP_NOT_OURS, true, p4, true, memset(f, 0xff, 6));
	COUNTS(FH_UDPIP_NOT_OURS, true, p4, true, (f[33] ^= 2, refix(f)));
	COUNTS(FH_UDPIP_NOT_OURS, false, p6, true, f[53] ^= 2);
	COUNTS(FH_UDPIP_OTHER_PORT, true, p4, true, f[37] ^= 2);
	COUNTS(FH_UDPIP_OTHER_PROTO, true, p4, true, (f[23] = 6, refix(f)));
	COUNTS(FH_UDPIP_OTHER_PROTO, false, p6, true, f[20] = 6);
	COUNTS(FH_UDPIP_OTHER_PROTO, true, p4, true, (f[12] = 0x81, f[13] = 0));
#undef COUNTS
	free(a);
}

Test(udpip, what_the_card_found_out_counts)
{
	struct host *a = host(mac_a, 1);
	struct fh_udpip_rx rx;
	uint8_t f[256];
	struct pkt p = datagram(a, f, true, ip4(192, 0, 2, 9), true);

	f[47] ^= 1; /* the payload is wrong, which only a sum can tell */
	fh_udpip_rx(&a->s, f, p.bytes, p.bytes, FH_CSUM_GOOD, FH_CSUM_GOOD, a->now, &a->st, &rx);
	cr_assert_eq(rx.verdict, FH_UDPIP_DATA);
	f[47] ^= 1;
	fh_udpip_rx(&a->s, f, p.bytes, p.bytes, FH_CSUM_GOOD, FH_CSUM_BAD, a->now, &a->st, &rx);
	cr_assert_eq(rx.verdict, FH_UDPIP_DROP);
	fh_udpip_rx(&a->s, f, p.bytes, p.bytes, FH_CSUM_BAD, FH_CSUM_GOOD, a->now, &a->st, &rx);
	cr_assert_eq(rx.verdict, FH_UDPIP_DROP);
	cr_assert_eq(stat(a, FH_UDPIP_BAD_CHECKSUM), 2);
	free(a);
}

Test(udpip, sums_left_to_the_card_are_completed_by_it)
{
	struct host *a = host(mac_a, 1), *b = host(mac_b, 2);
	uint8_t buf[CAP], *payload = buf + 64;

	for (int v4 = 0; v4 < 2; v4++) {
		struct fh_ip to = v4 ? b->s.cfg.ip4.ip : b->s.cfg.ip6.ip;
		struct fh_udpip_route r;
		uint8_t *udp = payload - 8, *f;
		uint32_t sum;
		bool probe;
		int rc;

		meet(a, b, to);
		memset(payload, 0x5a, 101);
		cr_assert_eq(fh_udpip_route(&a->s, &to, PORT, &r), 0);
		rc = fh_udpip_tx(&a->s, &r, payload, 101, 0, FH_CSUM_OFFLOAD_IP | FH_CSUM_OFFLOAD_UDP, a->now, &a->st,
				 &probe);
		cr_assert(rc > 0);
		f = payload - rc;
		/* What a card does: the sum over UDP, with what lies in the field. */
		sum = 0xffff ^ naive(0, udp, 109);
		udp[6] = (uint8_t)(sum >> 8), udp[7] = (uint8_t)sum;
		if (v4) {
			cr_assert(!f[24] && !f[25]);
			refix(f);
		}
		cr_assert(sums_right(f));
	}
	free(a);
	free(b);
}
