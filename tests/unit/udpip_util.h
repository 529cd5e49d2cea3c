/* SPDX-License-Identifier: Apache-2.0 */
/*
 * For tests of UDP over IP over Ethernet (test_udpip*.c): two hosts that talk to
 * each other through nothing but frames, in memory of exactly their size, and
 * checksums by a loop of this file's own.
 */
#ifndef FH_TESTS_UDPIP_UTIL_H
#define FH_TESTS_UDPIP_UTIL_H

#include <criterion/criterion.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "runtime/net/udpip.h"

#define S ((uint64_t)1000000000)
enum { PORT = 4433, CAP = 2048 };

static const uint8_t mac_a[6] = {0x02, 0, 0, 0, 0, 0xa}, mac_b[6] = {0x02, 0, 0, 0, 0, 0xb};

struct host {
	struct fh_udpip s;
	struct fh_udpip_stats st;
	uint64_t now;
};

static inline struct fh_ip ip6(uint8_t net, uint8_t host)
{
	return (struct fh_ip){.b = {0x20, 0x01, 0x0d, 0xb8, [7] = net, [15] = host}};
}

static inline struct fh_ip ip4(uint8_t a, uint8_t b, uint8_t c, uint8_t d)
{
	struct fh_ip ip;

	fh_ip_from4(&ip, (const uint8_t[]){a, b, c, d});
	return ip;
}

static inline struct fh_udpip_config config(const uint8_t mac[6], uint8_t last)
{
	struct fh_udpip_config c = {.port = PORT, .mtu = 1500};

	memcpy(c.mac, mac, 6);
	c.ip4 = (struct fh_udpip_addr){true, ip4(192, 0, 2, last), ip4(192, 0, 2, 254), 24};
	c.ip6 = (struct fh_udpip_addr){true, ip6(1, last), ip6(1, 254), 64};
	return c;
}

static inline struct host *host(const uint8_t mac[6], uint8_t last)
{
	struct fh_udpip_config c = config(mac, last);
	struct host *h = calloc(1, sizeof(*h));

	cr_assert_eq(fh_udpip_init(&h->s, &c, 12345), 0);
	h->now = 1000 * S;
	return h;
}

static inline uint64_t stat(const struct host *h, enum fh_udpip_counter c)
{
	return fh_udpip_stat(&h->st, c);
}

/* ---- checksums, the slow way ---- */

static inline uint32_t naive(uint32_t sum, const uint8_t *p, size_t n)
{
	for (size_t i = 0; i < n; i++)
		sum += i & 1 ? p[i] : (uint32_t)p[i] << 8;
	while (sum >> 16)
		sum = (sum & 0xffff) + (sum >> 16);
	return sum;
}

/* Every checksum of an IPv4 or IPv6 frame is right. */
static inline bool sums_right(const uint8_t *f)
{
	bool v4 = f[12] == 8;
	const uint8_t *ip = f + 14, *l4 = ip + (v4 ? 20 : 40);
	uint32_t len = v4 ? (uint32_t)(ip[2] << 8 | ip[3]) - 20 : (uint32_t)(ip[4] << 8 | ip[5]), pseudo;
	uint8_t proto = v4 ? ip[9] : ip[6];

	if (v4 && naive(0, ip, 20) != 0xffff)
		return false;
	if (!v4 && !proto) {
		proto = l4[0];
		l4 += 8;
		len -= 8;
	}
	pseudo = v4 ? naive(0, ip + 12, 8) : naive(0, ip + 8, 32);
	pseudo = v4 && proto == 1 ? 0 : pseudo + proto + len;
	return naive(pseudo, l4, len) == 0xffff;
}

/* ---- frames ---- */

struct pkt {
	uint8_t *f;
	uint32_t bytes;
};

/* Through @h in memory of exactly @cap bytes; what came out replaces the frame. */
static inline struct fh_udpip_rx feed(struct host *h, struct pkt *p, uint32_t cap)
{
	uint64_t before = 0, after = 0;
	struct fh_udpip_rx rx;
	uint8_t *exact;

	cap = cap < p->bytes ? p->bytes : cap;
	exact = malloc(cap ? cap : 1);
	memcpy(exact, p->f, p->bytes);
	for (int i = 0; i < FH_UDPIP_NR_RX; i++)
		before += stat(h, i);
	fh_udpip_rx(&h->s, exact, p->bytes, cap, FH_CSUM_UNKNOWN, FH_CSUM_UNKNOWN, h->now, &h->st, &rx);
	for (int i = 0; i < FH_UDPIP_NR_RX; i++)
		after += stat(h, i);
	cr_assert_eq(after, before + 1, "a frame counts once");
	if (rx.verdict == FH_UDPIP_DATA)
		cr_assert(rx.off + rx.bytes <= p->bytes);
	if (rx.verdict == FH_UDPIP_REPLY) {
		cr_assert(rx.bytes <= cap && rx.off == 0);
		p->bytes = rx.bytes;
	}
	memcpy(p->f, exact, p->bytes);
	free(exact);
	return rx;
}

/* @n bytes from @h to @to; the neighbour must be known unless @rc says otherwise. */
static inline struct pkt send_to(struct host *h, uint8_t *buf, struct fh_ip to, uint32_t n, int *rc, bool *probe)
{
	struct fh_udpip_route r;
	uint8_t *payload = buf + 64;

	cr_assert_eq(fh_udpip_route(&h->s, &to, PORT, &r), 0);
	for (uint32_t i = 0; i < n; i++)
		payload[i] = (uint8_t)(i * 7 + 1);
	*rc = fh_udpip_tx(&h->s, &r, payload, n, fh_csum_add(0, payload, n), 0, h->now, &h->st, probe);
	return (struct pkt){payload - fh_udpip_head_bytes(&r), n + fh_udpip_head_bytes(&r)};
}

/* Each learns the other's address as it happens on a link: by asking. */
static inline void meet(struct host *a, struct host *b, struct fh_ip to)
{
	uint8_t buf[CAP], ctl[FH_UDPIP_CONTROL_MAX];
	struct pkt p, q = {ctl, 0};
	struct fh_udpip_rx rx;
	bool probe;
	int rc;

	p = send_to(a, buf, to, 100, &rc, &probe);
	cr_assert_eq(rc, -EAGAIN);
	cr_assert(probe);
	cr_assert_not(fh_udpip_set_hop(&a->s, &to, p.f, a->now));
	q.bytes = fh_udpip_probe(&a->s, &to, ctl, &a->st);
	cr_assert(!fh_ip_is4(&to) ? sums_right(ctl) : true);
	rx = feed(b, &q, sizeof(ctl));
	cr_assert_eq(rx.verdict, FH_UDPIP_REPLY);
	cr_assert(!fh_ip_is4(&to) ? sums_right(ctl) : true);
	rx = feed(a, &q, sizeof(ctl));
	cr_assert_eq(rx.verdict, FH_UDPIP_DROP);
	cr_assert(rx.resolved, "packets wait for this");
	cr_assert(fh_udpip_set_hop(&a->s, &to, p.f, a->now));
	cr_assert(sums_right(p.f));
	rx = feed(b, &p, 0);
	cr_assert_eq(rx.verdict, FH_UDPIP_DATA);
	cr_assert_eq(rx.bytes, 100);
	cr_assert_eq(rx.port, PORT);
}

static inline struct pkt arp(uint8_t *f, uint16_t op, const uint8_t *sha, struct fh_ip spa, struct fh_ip tpa)
{
	static const uint8_t head[8] = {0, 1, 8, 0, 6, 4, 0, 0};

	memset(f, 0xff, 6);
	memcpy(f + 6, sha, 6);
	f[12] = 8, f[13] = 6;
	memcpy(f + 14, head, 8);
	f[21] = (uint8_t)op;
	memcpy(f + 22, sha, 6);
	memcpy(f + 28, spa.b + 12, 4);
	memset(f + 32, 0, 6);
	memcpy(f + 38, tpa.b + 12, 4);
	return (struct pkt){f, 42};
}

static inline struct pkt ip_frame(uint8_t *f, bool v4, uint8_t proto, struct fh_ip src, struct fh_ip dst,
				  uint32_t bytes)
{
	uint8_t *ip = f + 14;
	uint32_t sum;

	memcpy(f, mac_a, 6);
	memcpy(f + 6, mac_b, 6);
	memset(ip, 0, 40);
	if (v4) {
		f[12] = 8, f[13] = 0;
		ip[0] = 0x45, ip[8] = 64, ip[9] = proto;
		ip[2] = (uint8_t)((bytes + 20) >> 8), ip[3] = (uint8_t)(bytes + 20);
		memcpy(ip + 12, src.b + 12, 4);
		memcpy(ip + 16, dst.b + 12, 4);
		sum = 0xffff ^ naive(0, ip, 20);
		ip[10] = (uint8_t)(sum >> 8), ip[11] = (uint8_t)sum;
		return (struct pkt){f, 34 + bytes};
	}
	f[12] = 0x86, f[13] = 0xdd;
	ip[0] = 0x60, ip[6] = proto, ip[7] = 255;
	ip[4] = (uint8_t)(bytes >> 8), ip[5] = (uint8_t)bytes;
	memcpy(ip + 8, src.b, 16);
	memcpy(ip + 24, dst.b, 16);
	return (struct pkt){f, 54 + bytes};
}

/* Fill in the checksum of the ICMP message at @off of the frame's IP payload. */
static inline void icmp_sum(struct pkt *p, bool v4, uint32_t skip)
{
	uint8_t *ip = p->f + 14, *icmp = p->f + (v4 ? 34 : 54) + skip;
	uint32_t n = p->bytes - (uint32_t)(icmp - p->f), sum;

	icmp[2] = icmp[3] = 0;
	sum = 0xffff ^ naive(v4 ? 0 : naive(0, ip + 8, 32) + 58 + n, icmp, n);
	icmp[2] = (uint8_t)(sum >> 8), icmp[3] = (uint8_t)sum;
}

#endif /* FH_TESTS_UDPIP_UTIL_H */
