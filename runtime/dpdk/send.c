// SPDX-License-Identifier: Apache-2.0
/*
 * Frames out.  Headers are written in front of the payload, in the buffer that
 * it lies in; a tail hangs on the frame as a second piece of memory that the
 * device reads where it lies.  Only where a driver takes no second piece, or
 * gives none back when it is asked to (choose_tails()), is the tail copied, and
 * that is counted.
 */
#include <assert.h>
#include <errno.h>

#include "runtime/dpdk/dpdk.h"

/* Enough for a device to make room in a full ring; then the frames wait for the next call. */
enum { FLUSH_TRIES = 200 };

/* ---- tails ---- */

static void unlink_sent(struct fhd_dpdk_sent *s)
{
	*s->pprev = s->next;
	if (s->next)
		s->next->pprev = s->pprev;
}

/* The device has read the memory: from within a call of the driver, on the port's thread. */
static void tail_read(void *addr, void *opaque)
{
	struct fhd_dpdk_sent *s = opaque;
	struct fh_dgram_tail *t = s->tail;

	(void)addr;
	if (!t)
		return;
	unlink_sent(s);
	s->tail = NULL;
	s->port->tail_done = true;
	t->done(t);
}

/* Hang @t on @m without copying it; false: no mbuf is left for it. */
static bool hang_on(struct fhd_dpdk_port *p, struct rte_mbuf *m, struct fh_dgram_tail *t, rte_iova_t iova)
{
	struct rte_mbuf *piece = rte_pktmbuf_alloc(p->tails);
	struct fhd_dpdk_sent *s;

	if (!piece)
		return false;
	s = rte_mbuf_to_priv(piece);
	s->shared.free_cb = tail_read;
	s->shared.fcb_opaque = s;
	rte_mbuf_ext_refcnt_set(&s->shared, 1);
	s->port = p;
	s->tail = t;
	s->next = p->tails_out;
	s->pprev = &p->tails_out;
	if (s->next)
		s->next->pprev = &s->next;
	p->tails_out = s;
	rte_pktmbuf_attach_extbuf(piece, t->base, iova, (uint16_t)t->bytes, &s->shared);
	piece->data_off = 0;
	piece->data_len = (uint16_t)t->bytes;
	piece->pkt_len = t->bytes;
	m->next = piece;
	m->nb_segs = 2;
	m->pkt_len += t->bytes;
	return true;
}

void fhd_dpdk_reap(struct fhd_dpdk_port *p)
{
	if (p->dev->done_cleanup)
		rte_eth_tx_done_cleanup(p->dev->id, p->queue, 0);
}

void fhd_dpdk_tails_end(struct fhd_dpdk_port *p)
{
	while (p->tails_out) {
		struct fhd_dpdk_sent *s = p->tails_out;
		struct fh_dgram_tail *t = s->tail;

		unlink_sent(s);
		s->tail = NULL;
		t->done(t);
	}
}

/* ---- frames ---- */

void fhd_dpdk_flush(struct fh_dgram_port *base)
{
	struct fhd_dpdk_port *p = fhd_port(base);
	uint32_t at = 0;

	for (int i = 0; at < p->tx_n && i < FLUSH_TRIES; i++) {
		uint16_t n = (uint16_t)(p->tx_n - at);

		if (p->dev->csum_offload) {
			n = rte_eth_tx_prepare(p->dev->id, p->queue, p->tx + at, n);
			if (!n) {
				/* The driver will never take this one. */
				fhd_count(&p->n.nr_send_failed, 1);
				rte_pktmbuf_free(p->tx[at++]);
				continue;
			}
		}
		n = rte_eth_tx_burst(p->dev->id, p->queue, p->tx + at, n);
		at += n;
		if (!n)
			fhd_dpdk_reap(p);
	}
	p->tx_n -= at;
	if (at && p->tx_n)
		memmove(p->tx, p->tx + at, p->tx_n * sizeof(p->tx[0]));
}

void fhd_dpdk_push(struct fhd_dpdk_port *p, struct rte_mbuf *m)
{
	if (p->tx_n == FHD_DPDK_TX_RING)
		fhd_dpdk_flush(&p->base);
	if (p->tx_n == FHD_DPDK_TX_RING) {
		fhd_count(&p->n.nr_send_failed, 1);
		rte_pktmbuf_free(m);
		return;
	}
	p->tx[p->tx_n++] = m;
}

/* A frame of ours of at most FH_UDPIP_CONTROL_MAX bytes, to be filled in; NULL: no buffer, and the link asks again. */
static struct rte_mbuf *control(struct fhd_dpdk_port *p)
{
	return rte_pktmbuf_alloc(p->pool);
}

static void push_control(struct fhd_dpdk_port *p, struct rte_mbuf *m, uint32_t bytes)
{
	m->data_len = (uint16_t)bytes;
	m->pkt_len = bytes;
	fhd_dpdk_push(p, m);
}

static void ask(struct fhd_dpdk_port *p, const struct fh_ip *hop)
{
	struct rte_mbuf *m = control(p);

	if (m)
		push_control(p, m, fh_udpip_probe(&p->dev->ip, hop, rte_pktmbuf_mtod(m, uint8_t *), &p->ip));
}

void fhd_dpdk_announce(struct fhd_dpdk_port *p)
{
	for (uint32_t i = 0;; i++) {
		struct rte_mbuf *m = control(p);
		uint32_t n = m ? fh_udpip_announce(&p->dev->ip, i, rte_pktmbuf_mtod(m, uint8_t *)) : 0;

		if (!n) {
			rte_pktmbuf_free(m);
			break;
		}
		push_control(p, m, n);
	}
	fhd_dpdk_flush(&p->base);
}

/* ---- frames whose next hop is not known yet ---- */

static void wait_for(struct fhd_dpdk_port *p, struct rte_mbuf *m, const struct fh_ip *hop)
{
	if (p->nr_pending == FHD_DPDK_PENDING) {
		/* The oldest will not be missed most. */
		rte_pktmbuf_free(p->pending[0].m);
		memmove(p->pending, p->pending + 1, --p->nr_pending * sizeof(p->pending[0]));
		fhd_count(&p->n.nr_pending_lost, 1);
		fhd_count(&p->n.nr_send_failed, 1);
	}
	p->pending[p->nr_pending++] = (struct fhd_dpdk_pending){m, *hop, p->now_ns};
}

void fhd_dpdk_pending(struct fhd_dpdk_port *p)
{
	uint32_t kept = 0, n = p->nr_pending;

	p->now_ns = fhd_dpdk_clock_ns();
	p->nr_pending = 0;
	for (uint32_t i = 0; i < n; i++) {
		struct fhd_dpdk_pending w = p->pending[i];

		if (fh_udpip_set_hop(&p->dev->ip, &w.hop, rte_pktmbuf_mtod(w.m, uint8_t *), p->now_ns)) {
			fhd_dpdk_push(p, w.m);
		} else if (p->now_ns - w.since_ns > FHD_DPDK_PENDING_NS) {
			fhd_count(&p->n.nr_pending_lost, 1);
			fhd_count(&p->n.nr_send_failed, 1);
			rte_pktmbuf_free(w.m);
		} else {
			if (fh_udpip_probe_due(&p->dev->ip, &w.hop, p->now_ns, &p->ip))
				ask(p, &w.hop);
			p->pending[kept++] = w;
		}
	}
	p->nr_pending = kept;
	if (p->tx_n)
		fhd_dpdk_flush(&p->base);
}

/* ---- datagrams ---- */

uint32_t fhd_dpdk_mtu(struct fh_dgram_port *base, const struct fh_dgram_addr *peer)
{
	struct fhd_dpdk_port *p = fhd_port(base);
	struct fh_ip to = peer			   ? fhd_ip(peer->ip)
			  : p->dev->ip.cfg.ip6.set ? p->dev->ip.cfg.ip6.ip
						   : p->dev->ip.cfg.ip4.ip;
	uint32_t link = fh_udpip_payload_max(&p->dev->ip, &to);

	return link < p->payload_max ? link : p->payload_max;
}

uint32_t fhd_dpdk_alloc(struct fh_dgram_port *base, struct fh_dgram *d, uint32_t max)
{
	/* Every head fits in front of it, and the address is as dgram.h wants it: buffers begin at multiples of 64. */
	enum { AT = RTE_PKTMBUF_HEADROOM + FH_UDPIP_HEAD_MAX };
	struct fhd_dpdk_port *p = fhd_port(base);
	struct rte_mbuf *m[FH_DGRAM_BURST];
	uint32_t n = 0;

	static_assert(AT % FH_DGRAM_ALIGN == FH_DGRAM_SKEW, "payloads lie where dgram.h says");
	max = max < FH_DGRAM_BURST ? max : FH_DGRAM_BURST;
	if (!rte_pktmbuf_alloc_bulk(p->pool, m, max))
		n = max;
	while (n < max && (m[n] = rte_pktmbuf_alloc(p->pool)))
		n++;
	for (uint32_t i = 0; i < n; i++)
		d[i] = (struct fh_dgram){
			.data = (uint8_t *)m[i]->buf_addr + AT,
			.room = m[i]->buf_len - AT,
			.handle = m[i],
		};
	return n;
}

static uint64_t add_swapped(uint64_t sum, const void *data, uint32_t bytes)
{
	/* A piece that begins at an odd byte counts with its bytes swapped (RFC 1071, 2.B). */
	uint16_t s = (uint16_t)~fh_csum_fold(fh_csum_add(0, data, bytes));

	return sum + (uint16_t)(s << 8 | s >> 8);
}

static uint64_t payload_sum(const struct fh_dgram *d, const struct rte_mbuf *m)
{
	uint64_t sum = fh_csum_add(0, d->data, d->bytes);
	const struct fh_dgram_tail *t = m->next ? d->tail : NULL;

	if (!t)
		return sum;
	return d->bytes & 1 ? add_swapped(sum, t->base, t->bytes) : fh_csum_add(sum, t->base, t->bytes);
}

/* A datagram that goes nowhere is taken all the same: delivery is nobody's promise. */
static void refuse(struct fhd_dpdk_port *p, struct rte_mbuf *m)
{
	fhd_count(&p->n.nr_send_failed, 1);
	rte_pktmbuf_free(m);
}

/* The tail onto @m, or into it. False: not now. */
static bool put_tail(struct fhd_dpdk_port *p, struct rte_mbuf *m, struct fh_dgram *d)
{
	struct fh_dgram_tail *t = d->tail;
	rte_iova_t iova = p->dev->hang_tails ? fhd_dpdk_iova(p->dev, t->base, t->bytes) : RTE_BAD_IOVA;

	if (iova != RTE_BAD_IOVA)
		return hang_on(p, m, t, iova);
	if (t->bytes > d->room - d->bytes) {
		/* Longer than any frame: it is refused below. */
		d->bytes = FH_UDPIP_MTU_MAX;
	} else {
		memcpy(d->data + d->bytes, t->base, t->bytes);
		d->bytes += t->bytes;
		m->pkt_len += t->bytes;
		fhd_count(&p->n.copied_bytes, t->bytes);
	}
	p->tail_done = true;
	t->done(t);
	return true;
}

static bool find_route(struct fhd_dpdk_port *p, const struct fh_dgram_addr *to)
{
	struct fh_ip ip = fhd_ip(to->ip);

	if (fh_dgram_addr_same(to, &p->route_for))
		return true;
	if (fh_udpip_route(&p->dev->ip, &ip, to->port, &p->route)) {
		p->route_for.port = 0; /* nobody's */
		return false;
	}
	p->route_for = *to;
	return true;
}

/* False: it stays the caller's. */
static bool send_one(struct fhd_dpdk_port *p, struct fh_dgram *d)
{
	struct rte_mbuf *m = d->handle;
	uint32_t off = (uint32_t)(d->data - (uint8_t *)m->buf_addr), offload = p->dev->csum_offload, bytes;
	bool probe, v4;
	int head;

	assert(d->bytes <= d->room);
	m->pkt_len = d->bytes;
	if (d->tail && d->tail->bytes && !put_tail(p, m, d))
		return false;
	if (!find_route(p, &d->peer)) {
		refuse(p, m);
		return true;
	}
	v4 = fh_ip_is4(&p->route.to);
	bytes = m->pkt_len;
	if (d->bytes > d->room || bytes > p->payload_max)
		bytes = UINT32_MAX; /* of no MTU */
	head = fh_udpip_tx(&p->dev->ip, &p->route, d->data, bytes,
			   offload & FH_CSUM_OFFLOAD_UDP || bytes == UINT32_MAX ? 0 : payload_sum(d, m), offload,
			   p->now_ns, &p->ip, &probe);
	if (head == -EMSGSIZE) {
		refuse(p, m);
		return true;
	}
	m->l2_len = FH_ETH_BYTES;
	m->l3_len = v4 ? FH_IP4_BYTES : FH_IP6_BYTES;
	m->data_off = (uint16_t)(off - fh_udpip_head_bytes(&p->route));
	m->data_len = (uint16_t)(d->bytes + fh_udpip_head_bytes(&p->route));
	m->pkt_len += fh_udpip_head_bytes(&p->route);
	m->ol_flags &= RTE_MBUF_F_EXTERNAL;
	if (offload & FH_CSUM_OFFLOAD_UDP)
		m->ol_flags |= RTE_MBUF_F_TX_UDP_CKSUM | (v4 ? RTE_MBUF_F_TX_IPV4 : RTE_MBUF_F_TX_IPV6);
	if (offload & FH_CSUM_OFFLOAD_IP && v4)
		m->ol_flags |= RTE_MBUF_F_TX_IP_CKSUM | RTE_MBUF_F_TX_IPV4;
	fhd_count(&p->n.nr_sent, 1);
	fhd_count(&p->n.sent_bytes, bytes);
	if (probe)
		ask(p, &p->route.hop);
	if (head == -EAGAIN)
		wait_for(p, m, &p->route.hop);
	else
		fhd_dpdk_push(p, m);
	return true;
}

uint32_t fhd_dpdk_send(struct fh_dgram_port *base, struct fh_dgram *d, uint32_t nr)
{
	struct fhd_dpdk_port *p = fhd_port(base);
	uint32_t i;

	fhd_dpdk_thread(p);
	p->now_ns = fhd_dpdk_clock_ns();
	for (i = 0; i < nr; i++) {
		/* The device is behind: so is the caller, then. */
		if (p->tx_n == FHD_DPDK_TX_RING)
			fhd_dpdk_flush(base);
		if (p->tx_n == FHD_DPDK_TX_RING || !send_one(p, &d[i]))
			break;
	}
	return i;
}
