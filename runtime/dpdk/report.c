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

/* A counter of every open queue, one line each. @off: where it lies in struct fhd_dpdk_counters. */
static void of_queues(FILE *f, const struct fhd_dpdk_device *d, const char *name, size_t off)
{
	fprintf(f, "# TYPE freehold_dpdk_%s counter\n", name);
	for (uint16_t q = 0; q < d->nr_queues; q++) {
		const struct fhd_dpdk_port *p = d->ports[q];

		if (p->used)
			fprintf(f, "freehold_dpdk_%s{device=\"%s\",queue=\"%u\"} %" PRIu64 "\n", name, d->name, q,
				get((const _Atomic uint64_t *)((const char *)&p->n + off)));
	}
}

static void frames(FILE *f, const struct fhd_dpdk_device *d)
{
	fputs("# HELP freehold_dpdk_frames_total Frames by what became of them.\n"
	      "# TYPE freehold_dpdk_frames_total counter\n",
	      f);
	for (uint16_t q = 0; q < d->nr_queues; q++)
		for (int i = 0; d->ports[q]->used && i < FH_UDPIP_NR_COUNTERS; i++)
			fprintf(f, "freehold_dpdk_frames_total{device=\"%s\",queue=\"%u\",kind=\"%s\"} %" PRIu64 "\n",
				d->name, q, fh_udpip_counter_names[i], fh_udpip_stat(&d->ports[q]->ip, i));
}

/* Of the device as a whole: said of queue 0. */
static void one(FILE *f, const struct fhd_dpdk_device *d, const char *name, uint64_t v)
{
	fprintf(f, "# TYPE freehold_dpdk_%s counter\nfreehold_dpdk_%s{device=\"%s\",queue=\"0\"} %" PRIu64 "\n", name,
		name, d->name, v);
}

void fhd_dpdk_metrics(struct fh_dgram_port *base, void *out)
{
	const struct fhd_dpdk_device *d = fhd_port(base)->dev;
	struct rte_eth_stats dev = {0};
	FILE *f = out;

	/* All lines of a counter stand together. */
	if (fhd_port(base)->queue)
		return;
	frames(f, d);
	of_queues(f, d, "not_peer_total", offsetof(struct fhd_dpdk_counters, nr_not_peer));
	of_queues(f, d, "pieces_total", offsetof(struct fhd_dpdk_counters, nr_pieces));
	of_queues(f, d, "too_long_total", offsetof(struct fhd_dpdk_counters, nr_too_long));
	of_queues(f, d, "neighbour_lost_total", offsetof(struct fhd_dpdk_counters, nr_pending_lost));
	of_queues(f, d, "sleeps_total", offsetof(struct fhd_dpdk_counters, nr_sleeps));
	of_queues(f, d, "interrupts_total", offsetof(struct fhd_dpdk_counters, nr_interrupts));
	of_queues(f, d, "monitors_total", offsetof(struct fhd_dpdk_counters, nr_monitors));
	if (rte_eth_stats_get(d->id, &dev))
		return;
	one(f, d, "rx_packets_total", dev.ipackets);
	one(f, d, "rx_bytes_total", dev.ibytes);
	one(f, d, "rx_missed_total", dev.imissed);
	one(f, d, "rx_errors_total", dev.ierrors);
	one(f, d, "rx_no_buffer_total", dev.rx_nombuf);
	one(f, d, "tx_packets_total", dev.opackets);
	one(f, d, "tx_bytes_total", dev.obytes);
	one(f, d, "tx_errors_total", dev.oerrors);
}
