// SPDX-License-Identifier: Apache-2.0
/*
 * Frames in.  A payload is lent where the device wrote it.  Questions of the
 * link are answered in the frame that asked, on the way.
 */
#include <rte_prefetch.h>

#include "runtime/dpdk/dpdk.h"

static enum fh_csum_seen ip_csum(const struct rte_mbuf *m)
{
	switch (m->ol_flags & RTE_MBUF_F_RX_IP_CKSUM_MASK) {
	case RTE_MBUF_F_RX_IP_CKSUM_GOOD: return FH_CSUM_GOOD;
	case RTE_MBUF_F_RX_IP_CKSUM_BAD: return FH_CSUM_BAD;
	default: return FH_CSUM_UNKNOWN;
	}
}

static enum fh_csum_seen l4_csum(const struct rte_mbuf *m)
{
	switch (m->ol_flags & RTE_MBUF_F_RX_L4_CKSUM_MASK) {
	case RTE_MBUF_F_RX_L4_CKSUM_GOOD:
	/* Not filled in, because the packet has not been on a wire: between guests of one host. */
	case RTE_MBUF_F_RX_L4_CKSUM_NONE: return FH_CSUM_GOOD;
	case RTE_MBUF_F_RX_L4_CKSUM_BAD: return FH_CSUM_BAD;
	default: return FH_CSUM_UNKNOWN;
	}
}

/* A payload for the caller; false: it is none of his. */
static bool lend(struct fhd_dpdk_port *p, struct rte_mbuf *m, const struct fh_udpip_rx *rx, struct fh_dgram *d)
{
	*d = (struct fh_dgram){
		.data = rte_pktmbuf_mtod_offset(m, uint8_t *, rx->off),
		.bytes = rx->bytes,
		.handle = m,
	};
	memcpy(d->peer.ip, rx->from.b, 16);
	d->peer.port = rx->port;
	if (!p->server && !fh_dgram_addr_same(&d->peer, &p->peer)) {
		fhd_count(&p->n.nr_not_peer, 1);
		return false;
	}
	if (d->bytes > p->payload_max) {
		fhd_count(&p->n.nr_too_long, 1);
		return false;
	}
	/* A device that puts frames elsewhere than where it was told to: into place, over headers that are read. */
	if (((uintptr_t)d->data & (FH_DGRAM_ALIGN - 1)) != FH_DGRAM_SKEW) {
		uint32_t back = (uint32_t)((uintptr_t)d->data - FH_DGRAM_SKEW) & (FH_DGRAM_ALIGN - 1);

		memmove(d->data - back, d->data, d->bytes);
		d->data -= back;
		fhd_count(&p->n.copied_bytes, d->bytes);
	}
	d->room = m->buf_len - (uint32_t)(d->data - (uint8_t *)m->buf_addr);
	fhd_count(&p->n.nr_recv, 1);
	fhd_count(&p->n.recv_bytes, d->bytes);
	return true;
}

/* One frame; true: @d is to be lent. */
static bool take_frame(struct fhd_dpdk_port *p, struct rte_mbuf *m, struct fh_dgram *d)
{
	struct fh_udpip_rx rx;

	if (m->nb_segs != 1) {
		fhd_count(&p->n.nr_pieces, 1);
		goto drop;
	}
	fh_udpip_rx(&p->dev->ip, rte_pktmbuf_mtod(m, uint8_t *), m->data_len, (uint32_t)m->buf_len - m->data_off,
		    ip_csum(m), l4_csum(m), p->now_ns, &p->ip, &rx);
	switch (rx.verdict) {
	case FH_UDPIP_DATA:
		if (lend(p, m, &rx, d))
			return true;
		break;
	case FH_UDPIP_REPLY:
		m->data_len = (uint16_t)rx.bytes;
		m->pkt_len = rx.bytes;
		m->ol_flags &= RTE_MBUF_F_EXTERNAL;
		fhd_dpdk_push(p, m);
		return false;
	case FH_UDPIP_DROP: break;
	}
drop:
	rte_pktmbuf_free(m);
	return false;
}

/* A burst of the device's frames; those that are to be lent into @d, [FHD_DPDK_BURST]; how many. */
static uint32_t take(struct fhd_dpdk_port *p, struct fh_dgram *d)
{
	struct rte_mbuf *m[FHD_DPDK_BURST];
	uint16_t n = rte_eth_rx_burst(p->dev->id, p->queue, m, FHD_DPDK_BURST);
	uint32_t lent = 0;

	if (!n)
		return 0;
	p->now_ns = fhd_dpdk_clock_ns();
	for (uint16_t i = 0; i < n; i++) {
		if (i + 1 < n)
			rte_prefetch0(rte_pktmbuf_mtod(m[i + 1], void *));
		lent += take_frame(p, m[i], &d[lent]);
	}
	/* An answer to the link is waited for. */
	if (lent < n)
		fhd_dpdk_flush(&p->base);
	return lent;
}

uint32_t fhd_dpdk_look(struct fhd_dpdk_port *p)
{
	if (p->ready_at == p->ready_n) {
		p->ready_at = 0;
		p->ready_n = take(p, p->ready);
		if (p->nr_pending)
			fhd_dpdk_pending(p);
	}
	return p->ready_n - p->ready_at;
}

int fhd_dpdk_recv(struct fh_dgram_port *base, struct fh_dgram *d, uint32_t max)
{
	struct fhd_dpdk_port *p = fhd_port(base);
	uint32_t got = 0;

	fhd_dpdk_thread(p);
	/* Some drivers give nothing when they are asked for little: always ask for a burst. */
	if (p->ready_at == p->ready_n && max >= FHD_DPDK_BURST)
		got = take(p, d);
	else
		fhd_dpdk_look(p);
	while (p->ready_at < p->ready_n && got < max)
		d[got++] = p->ready[p->ready_at++];
	if (p->nr_pending)
		fhd_dpdk_pending(p);
	if (p->tails_out)
		fhd_dpdk_reap(p);
	if (!got) {
		fhd_count(&p->n.nr_empty_polls, 1);
		if (p->outer_fd >= 0)
			fhd_dpdk_arm(p);
	}
	return (int)got;
}

void fhd_dpdk_release(struct fh_dgram_port *base, struct fh_dgram *d, uint32_t nr)
{
	(void)base;
	for (uint32_t i = 0; i < nr; i++)
		rte_pktmbuf_free(d[i].handle);
}
