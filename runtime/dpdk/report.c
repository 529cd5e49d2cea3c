// SPDX-License-Identifier: Apache-2.0
/* Counters: those that every carrier has, and what only this one can say, for any thread. */
#include <inttypes.h>
#include <stdio.h>

#include "runtime/dpdk/dpdk.h"

static uint64_t get(const _Atomic uint64_t *c)
{
	return atomic_load_explicit(c, memory_order_relaxed);
}

void fhd_dpdk_stats(struct fh_dgram_port *base, struct fh_dgram_stats *out)
{
	struct fhd_dpdk_port *p = fhd_port(base);
	struct rte_eth_stats dev = {0};

	*out = (struct fh_dgram_stats){
		.nr_recv = get(&p->n.nr_recv),
		.recv_bytes = get(&p->n.recv_bytes),
		.nr_sent = get(&p->n.nr_sent),
		.sent_bytes = get(&p->n.sent_bytes),
		.nr_send_failed = get(&p->n.nr_send_failed),
		.copied_bytes = get(&p->n.copied_bytes),
		.nr_waits = get(&p->n.nr_waits),
		.nr_wakes = get(&p->n.nr_wakes),
		.nr_empty_polls = get(&p->n.nr_empty_polls),
		.nr_recv_bad = get(&p->n.nr_not_peer) + get(&p->n.nr_pieces) + get(&p->n.nr_too_long),
	};
	for (int i = FH_UDPIP_BAD_LENGTH; i < FH_UDPIP_NR_RX; i++)
		out->nr_recv_bad += fh_udpip_stat(&p->ip, i);
	/* Of the device as a whole; it is said once. */
	if (!p->queue && !rte_eth_stats_get(p->dev->id, &dev)) {
		out->nr_recv_dropped = dev.imissed + dev.rx_nombuf;
		out->nr_recv_bad += dev.ierrors;
	}
}

static void one(FILE *f, const struct fhd_dpdk_port *p, const char *name, uint64_t v)
{
	/* A port of another queue would say it again. */
	if (!p->queue)
		fprintf(f, "# TYPE freehold_dpdk_%s counter\n", name);
	fprintf(f, "freehold_dpdk_%s{device=\"%s\",queue=\"%u\"} %" PRIu64 "\n", name, p->dev->name, p->queue, v);
}

void fhd_dpdk_metrics(struct fh_dgram_port *base, void *out)
{
	struct fhd_dpdk_port *p = fhd_port(base);
	struct rte_eth_stats dev = {0};
	FILE *f = out;

	if (!p->queue)
		fputs("# HELP freehold_dpdk_frames_total Frames by what became of them.\n"
		      "# TYPE freehold_dpdk_frames_total counter\n",
		      f);
	for (int i = 0; i < FH_UDPIP_NR_COUNTERS; i++)
		fprintf(f, "freehold_dpdk_frames_total{device=\"%s\",queue=\"%u\",kind=\"%s\"} %" PRIu64 "\n",
			p->dev->name, p->queue, fh_udpip_counter_names[i], fh_udpip_stat(&p->ip, i));
	one(f, p, "not_peer_total", get(&p->n.nr_not_peer));
	one(f, p, "pieces_total", get(&p->n.nr_pieces));
	one(f, p, "too_long_total", get(&p->n.nr_too_long));
	one(f, p, "neighbour_lost_total", get(&p->n.nr_pending_lost));
	one(f, p, "sleeps_total", get(&p->n.nr_sleeps));
	one(f, p, "interrupts_total", get(&p->n.nr_interrupts));
	one(f, p, "monitors_total", get(&p->n.nr_monitors));
	if (p->queue || rte_eth_stats_get(p->dev->id, &dev))
		return;
	one(f, p, "rx_packets_total", dev.ipackets);
	one(f, p, "rx_bytes_total", dev.ibytes);
	one(f, p, "rx_missed_total", dev.imissed);
	one(f, p, "rx_errors_total", dev.ierrors);
	one(f, p, "rx_no_buffer_total", dev.rx_nombuf);
	one(f, p, "tx_packets_total", dev.opackets);
	one(f, p, "tx_bytes_total", dev.obytes);
	one(f, p, "tx_errors_total", dev.oerrors);
}
