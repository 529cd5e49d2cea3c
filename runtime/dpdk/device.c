// SPDX-License-Identifier: Apache-2.0
/*
 * An Ethernet device of DPDK: found or made, its queues and offloads, and the
 * region that its packets lie in.
 *
 * Every queue has a pool of its own, so that no two threads share one.  A
 * packet buffer holds a whole frame: nothing arrives in pieces.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

#include <rte_errno.h>

#include "runtime/dpdk/dpdk.h"

enum {
	FRAME_EXTRA = FH_ETH_BYTES + 4 + 4, /* around an IP packet: a VLAN tag, the check sequence */
	ROOM_STEP = 1024,		    /* some devices count the room of a buffer in these */
	NR_RECV = 1024,
	NR_SEND = 512,
	NR_RX_DESC = 1024,
	NR_TX_DESC = 512,
	CACHE = 64, /* mbufs that a thread keeps for itself */
	LINK_TRIES = 30,
};

static int dpdk_error(struct fh_err *err, const struct fhd_dpdk_device *d, const char *what, int rc)
{
	int code = rc < 0 ? -rc : rte_errno ? rte_errno : EIO;

	return fh_errf(err, -code, "DPDK device %s: %s: %s%s%s", d->name, what, rte_strerror(code),
		       *fhd_dpdk_last_words() ? ": " : "", fhd_dpdk_last_words());
}

/* ---- which one ---- */

static int find(struct fhd_dpdk_device *d, const char *device, struct fh_err *err)
{
	size_t n = device ? strcspn(device, ",") : 0;

	if (!device) {
		if (rte_eth_dev_count_avail() != 1)
			return fh_errf(err, -ENODEV,
				       "DPDK sees %u Ethernet devices: name the one to use, such as 0000:03:00.0",
				       (unsigned int)rte_eth_dev_count_avail());
		d->id = (uint16_t)rte_eth_find_next(0);
		rte_eth_dev_get_name_by_port(d->id, d->name);
		return 0;
	}
	if (!n || n >= sizeof(d->name))
		return fh_errf(err, -EINVAL, "DPDK device \"%s\": a name has 1 to %zu letters", device,
			       sizeof(d->name) - 1);
	memcpy(d->name, device, n);
	if (!rte_eth_dev_get_port_by_name(d->name, &d->id))
		return 0;
	if (rte_dev_probe(device) || rte_eth_dev_get_port_by_name(d->name, &d->id))
		return fh_errf(
			err, -ENODEV,
			"DPDK device %s: there is no such device, or it cannot be used%s%s; a card is bound with "
			"`dpdk-devbind.py -b vfio-pci %s`",
			d->name, *fhd_dpdk_last_words() ? ": " : "", fhd_dpdk_last_words(), d->name);
	return 0;
}

/* ---- what it can do ---- */

static void choose_offloads(struct fhd_dpdk_device *d, bool none)
{
	uint64_t rx = RTE_ETH_RX_OFFLOAD_IPV4_CKSUM | RTE_ETH_RX_OFFLOAD_UDP_CKSUM;

	if (none)
		return;
	d->rx_offloads = d->info.rx_offload_capa & rx;
	d->tx_offloads = d->info.tx_offload_capa &
			 (RTE_ETH_TX_OFFLOAD_IPV4_CKSUM | RTE_ETH_TX_OFFLOAD_UDP_CKSUM | RTE_ETH_TX_OFFLOAD_MULTI_SEGS);
	d->csum_offload = (d->tx_offloads & RTE_ETH_TX_OFFLOAD_IPV4_CKSUM ? FH_CSUM_OFFLOAD_IP : 0u) |
			  (d->tx_offloads & RTE_ETH_TX_OFFLOAD_UDP_CKSUM ? FH_CSUM_OFFLOAD_UDP : 0u);
}

static int choose_mtu(struct fhd_dpdk_device *d, const struct fh_dgram_open *o, struct fh_err *err)
{
	uint32_t most = d->info.max_mtu ? d->info.max_mtu : RTE_ETHER_MTU, frame = d->info.max_rx_pktlen, want;
	uint16_t now = 0;

	if (rte_eth_dev_get_mtu(d->id, &now))
		now = RTE_ETHER_MTU;
	/* Some drivers name the longest frame alone. */
	if (frame > RTE_ETHER_HDR_LEN + RTE_ETHER_CRC_LEN && most > frame - RTE_ETHER_HDR_LEN - RTE_ETHER_CRC_LEN &&
	    most == UINT16_MAX)
		most = frame - RTE_ETHER_HDR_LEN - RTE_ETHER_CRC_LEN;
	/* Asked for: a payload of this length, over either family. */
	want = o->mtu ? o->mtu + FH_IP6_BYTES + FH_UDP_BYTES : now;
	if (want < FH_UDPIP_MTU_MIN)
		want = FH_UDPIP_MTU_MIN;
	if (want > most || want > FH_UDPIP_MTU_MAX)
		return fh_errf(err, -EMSGSIZE, "DPDK device %s: an MTU of %u is more than its %u", d->name, want,
			       most < FH_UDPIP_MTU_MAX ? most : FH_UDPIP_MTU_MAX);
	d->mtu = (uint16_t)want;
	return 0;
}

/* Does it send all packets of a flow to one queue? */
static bool spreads_flows(const struct rte_eth_dev_info *info)
{
	/* That one asks the kernel to (PACKET_FANOUT_HASH), and does not say so. */
	return info->flow_type_rss_offloads & (RTE_ETH_RSS_IP | RTE_ETH_RSS_NONFRAG_IPV4_UDP) ||
	       !strcmp(info->driver_name, "net_af_packet");
}

/* As many queues as are wanted, or as there can be. */
static int choose_queues(struct fhd_dpdk_device *d, const struct fh_dgram_open *o, struct fh_err *err)
{
	uint32_t most = d->info.max_rx_queues < d->info.max_tx_queues ? d->info.max_rx_queues : d->info.max_tx_queues;

	d->nr_queues = (uint16_t)(o->nr_queues ? o->nr_queues : 1);
	if (o->fewer_queues && d->nr_queues > 1 && !spreads_flows(&d->info))
		d->nr_queues = 1;
	if (d->nr_queues <= most)
		return 0;
	if (!o->fewer_queues || !most)
		return fh_errf(err, -EINVAL, "DPDK device %s: %u queues are wanted, it has %u", d->name, d->nr_queues,
			       most);
	d->nr_queues = (uint16_t)most;
	return 0;
}

static int configure(struct fhd_dpdk_device *d)
{
	uint64_t udp = RTE_ETH_RSS_NONFRAG_IPV4_UDP | RTE_ETH_RSS_NONFRAG_IPV6_UDP, any = RTE_ETH_RSS_IP | udp;
	struct rte_eth_conf conf = {
		.rxmode = {.mtu = d->mtu, .offloads = d->rx_offloads},
		.txmode.offloads = d->tx_offloads,
		.intr_conf.rxq = d->opt.interrupts,
	};
	int rc;

	/* By flow; where a device knows no ports of UDP, by addresses; a virtual one has its own way. */
	if (d->nr_queues > 1 && d->info.flow_type_rss_offloads & any) {
		conf.rxmode.mq_mode = RTE_ETH_MQ_RX_RSS;
		conf.rx_adv_conf.rss_conf.rss_hf =
			d->info.flow_type_rss_offloads & (d->info.flow_type_rss_offloads & udp ? udp : RTE_ETH_RSS_IP);
	}
	rc = rte_eth_dev_configure(d->id, d->nr_queues, d->nr_queues, &conf);
	d->interrupts = !rc && conf.intr_conf.rxq;
	if (rc && conf.intr_conf.rxq) {
		conf.intr_conf.rxq = 0;
		rc = rte_eth_dev_configure(d->id, d->nr_queues, d->nr_queues, &conf);
	}
	return rc;
}

/* ---- its packets ---- */

static uint32_t up_to(uint32_t n, uint32_t step)
{
	return (n + step - 1) / step * step;
}

static int make_pools(struct fhd_dpdk_device *d, const struct fh_dgram_open *o, struct fh_err *err)
{
	uint32_t head = RTE_PKTMBUF_HEADROOM + FH_UDPIP_HEAD_MAX - FH_UDPIP_HEAD_IP4;
	uint32_t room = d->mtu + FRAME_EXTRA + head - RTE_PKTMBUF_HEADROOM, element, nr, nr_send;
	int socket = rte_eth_dev_socket_id(d->id), rc;
	size_t each;

	if (room < d->info.min_rx_bufsize)
		room = d->info.min_rx_bufsize;
	element = RTE_PKTMBUF_HEADROOM + up_to(room, ROOM_STEP);
	nr_send = o->nr_send ? o->nr_send : NR_SEND;
	d->nr_recv = o->nr_recv ? o->nr_recv : NR_RECV;
	nr = d->nr_recv + nr_send + d->nr_rx_desc + d->nr_tx_desc + FHD_DPDK_TX_RING + FHD_DPDK_PENDING +
	     2 * FHD_DPDK_BURST + 2 * CACHE;
	each = (size_t)nr * element;
	rc = fh_region_alloc(&d->packets, each * d->nr_queues, FH_REGION_HUGE | FH_REGION_LOCK, err);
	if (rc)
		return rc;
	rc = fhd_dpdk_memory_add(d, d->packets.base, d->packets.bytes,
				 d->packets.huge == FH_HUGE_TLB ? 2u << 20 : 4096u, err);
	if (rc)
		return rc;
	for (uint16_t q = 0; q < d->nr_queues; q++) {
		struct rte_pktmbuf_extmem mem = {
			.buf_ptr = d->packets.base + q * each,
			.buf_iova = d->memory[0].iova + q * each,
			.buf_len = each,
			.elt_size = (uint16_t)element,
		};
		struct fhd_dpdk_port *p = d->ports[q];

		snprintf(p->pool_name[0], sizeof(p->pool_name[0]), "fh_pkt_%u_%u", d->id, q);
		snprintf(p->pool_name[1], sizeof(p->pool_name[1]), "fh_tail_%u_%u", d->id, q);
		p->pool = rte_pktmbuf_pool_create_extbuf(p->pool_name[0], nr, CACHE, 0, (uint16_t)element, socket, &mem,
							 1);
		p->tails = rte_pktmbuf_pool_create(p->pool_name[1], nr_send + d->nr_tx_desc + FHD_DPDK_TX_RING, CACHE,
						   RTE_ALIGN(sizeof(struct fhd_dpdk_sent), RTE_MBUF_PRIV_ALIGN), 0,
						   socket);
		if (!p->pool || !p->tails)
			return dpdk_error(err, d, "no memory for packets (EAL options -m, --socket-mem)", 0);
	}
	return 0;
}

/*
 * A queue for sending.  A card reports what it has sent once in tx_rs_thresh
 * descriptors, and rte_eth_tx_done_cleanup() frees no more than was reported:
 * tails behind the last report would stay out until somebody sends again.  So it
 * reports each packet, where the driver has that choice and takes it.
 */
static int set_up_tx(const struct fhd_dpdk_device *d, uint16_t q)
{
	unsigned int socket = (unsigned int)rte_eth_dev_socket_id(d->id);
	struct rte_eth_txconf tx = d->info.default_txconf;

	tx.offloads = d->tx_offloads;
	if (tx.tx_rs_thresh > 1 && d->tx_offloads & RTE_ETH_TX_OFFLOAD_MULTI_SEGS) {
		tx.tx_rs_thresh = 1;
		if (!rte_eth_tx_queue_setup(d->id, q, d->nr_tx_desc, socket, &tx))
			return 0;
		tx.tx_rs_thresh = d->info.default_txconf.tx_rs_thresh;
	}
	return rte_eth_tx_queue_setup(d->id, q, d->nr_tx_desc, socket, &tx);
}

static int set_up_queues(struct fhd_dpdk_device *d, struct fh_err *err)
{
	int socket = rte_eth_dev_socket_id(d->id), rc;

	for (uint16_t q = 0; q < d->nr_queues; q++) {
		struct rte_eth_rxconf rx = d->info.default_rxconf;

		rx.offloads = d->rx_offloads;
		rc = rte_eth_rx_queue_setup(d->id, q, d->nr_rx_desc, (unsigned int)socket, &rx, d->ports[q]->pool);
		if (rc)
			return dpdk_error(err, d, "a receive queue cannot be set up", rc);
		rc = set_up_tx(d, q);
		if (rc)
			return dpdk_error(err, d, "a transmit queue cannot be set up", rc);
	}
	return 0;
}

/* They have written, or copied, a frame when rte_eth_tx_burst() returns, and freed it. */
static bool frees_at_once(const struct fhd_dpdk_device *d)
{
	static const char *const names[] = {"net_af_packet", "net_tap"};

	for (size_t i = 0; d->info.driver_name && i < sizeof(names) / sizeof(names[0]); i++)
		if (!strcmp(d->info.driver_name, names[i]))
			return true;
	return false;
}

/*
 * A tail's owner waits for it.  A driver that frees sent frames only when a later
 * burst needs their descriptors, as virtio's does, may keep it for ever on a quiet
 * link: unless it can be told to clean up, it gets copies.  Once started: which
 * of a driver's ways of sending is taken, and so what it can do, is known then.
 */
static void choose_tails(struct fhd_dpdk_device *d)
{
	d->done_cleanup = rte_eth_tx_done_cleanup(d->id, 0, 0) >= 0;
	d->hang_tails = d->tx_offloads & RTE_ETH_TX_OFFLOAD_MULTI_SEGS && (d->done_cleanup || frees_at_once(d));
}

/* The neighbours' questions come to groups: by name, else all groups, else everything. */
static void join_groups(struct fhd_dpdk_device *d)
{
	struct rte_ether_addr mac[2];
	uint32_t n = 0;

	if (!d->ip.cfg.ip6.set)
		return;
	for (uint32_t i = 0; i < 2; i++) {
		const struct fh_ip *own = i ? &d->ip.cfg.ip6.ip : &d->ip.link_local;

		mac[n++] = (struct rte_ether_addr){{0x33, 0x33, 0xff, own->b[13], own->b[14], own->b[15]}};
	}
	if (rte_is_same_ether_addr(&mac[0], &mac[1]))
		n = 1;
	if (rte_eth_dev_set_mc_addr_list(d->id, mac, n) && rte_eth_allmulticast_enable(d->id))
		rte_eth_promiscuous_enable(d->id);
}

/* ---- its addresses ---- */

static int set_addresses(struct fhd_dpdk_device *d, const struct fh_dgram_open *o, struct fh_err *err)
{
	struct fh_udpip_config cfg = {.mtu = d->mtu, .port = o->local.port};
	struct fh_udpip_addr own = {.set = true};
	struct rte_ether_addr mac;
	uint64_t seed;
	int rc = rte_eth_macaddr_get(d->id, &mac);

	if (rc)
		return dpdk_error(err, d, "its Ethernet address cannot be read", rc);
	memcpy(cfg.mac, mac.addr_bytes, 6);
	if (getrandom(&seed, sizeof(seed), 0) != sizeof(seed))
		return fh_errf(err, -errno, "no random numbers: %s", strerror(errno));
	/* No kernel hands out ports here: any of the dynamic ones (RFC 6335), as long as it is hard to guess. */
	if (!cfg.port)
		cfg.port = (uint16_t)(49152 + seed % 16384);
	rc = fhd_dpdk_own_address(o, &own, err);
	if (rc)
		return rc;
	*(fh_ip_is4(&own.ip) ? &cfg.ip4 : &cfg.ip6) = own;
	if (d->opt.second.set) {
		if (fh_ip_is4(&own.ip) == fh_ip_is4(&d->opt.second.ip))
			return fh_errf(
				err, -EINVAL,
				"DPDK device %s: address=: the second address must be of the other family than the "
				"first",
				d->name);
		*(fh_ip_is4(&own.ip) ? &cfg.ip6 : &cfg.ip4) = d->opt.second;
	}
	if (fh_udpip_init(&d->ip, &cfg, seed ^ seed << 21))
		return fh_errf(
			err, -EINVAL,
			"DPDK device %s: no host can have this address, prefix and gateway: a unicast address is "
			"wanted, and a gateway within its prefix",
			d->name);
	return 0;
}

static void wait_for_link(struct fhd_dpdk_device *d)
{
	struct rte_eth_link link = {0};

	for (int i = 0; i < LINK_TRIES; i++) {
		if (rte_eth_link_get_nowait(d->id, &link) || link.link_status == RTE_ETH_LINK_UP)
			return;
		rte_delay_us_sleep(100000);
	}
	fprintf(stderr, "freehold: DPDK device %s has no link yet\n", d->name);
}

static int bring_up(struct fhd_dpdk_device *d, const struct fh_dgram_open *o, struct fh_err *err)
{
	uint16_t nr_rx = d->opt.nr_rx_desc ? d->opt.nr_rx_desc : NR_RX_DESC;
	uint16_t nr_tx = d->opt.nr_tx_desc ? d->opt.nr_tx_desc : NR_TX_DESC;
	int rc;

	choose_offloads(d, o->no_offload);
	rc = choose_mtu(d, o, err);
	if (rc)
		return rc;
	rc = configure(d);
	if (rc)
		return dpdk_error(err, d, "it cannot be configured", rc);
	rc = rte_eth_dev_adjust_nb_rx_tx_desc(d->id, &nr_rx, &nr_tx);
	if (rc)
		return dpdk_error(err, d, "its rings cannot be sized", rc);
	d->nr_rx_desc = nr_rx;
	d->nr_tx_desc = nr_tx;
	rc = set_addresses(d, o, err);
	if (rc)
		return rc;
	rc = make_pools(d, o, err);
	if (rc)
		return rc;
	rc = set_up_queues(d, err);
	if (rc)
		return rc;
	rc = rte_eth_dev_start(d->id);
	if (rc)
		return dpdk_error(err, d, "it does not start", rc);
	d->started = true;
	choose_tails(d);
	join_groups(d);
	wait_for_link(d);
	return 0;
}

int fhd_dpdk_device_open(const struct fh_dgram_open *o, const struct fhd_dpdk_options *opt,
			 struct fhd_dpdk_device **out, struct fh_err *err)
{
	struct fhd_dpdk_device *d = calloc(1, sizeof(*d));
	int rc;

	if (!d)
		return fh_errf(err, -ENOMEM, "out of memory");
	pthread_mutex_init(&d->memory_lock, NULL);
	d->packets.fd = -1;
	d->opt = *opt;
	rc = find(d, o->device, err);
	if (rc)
		goto err_free;
	rc = rte_eth_dev_info_get(d->id, &d->info);
	rc = rc ? dpdk_error(err, d, "what it can do cannot be read", rc) : choose_queues(d, o, err);
	if (rc)
		goto err_close;
	for (uint16_t q = 0; q < d->nr_queues; q++) {
		d->ports[q] = aligned_alloc(64, up_to(sizeof(*d->ports[q]), 64));
		if (!d->ports[q]) {
			rc = fh_errf(err, -ENOMEM, "out of memory");
			goto err_close;
		}
		memset(d->ports[q], 0, sizeof(*d->ports[q]));
		d->ports[q]->dev = d;
		d->ports[q]->queue = q;
	}
	rc = bring_up(d, o, err);
	if (rc)
		goto err_close;
	*out = d;
	return 0;

err_close:
	fhd_dpdk_device_close(d);
	return rc;
err_free:
	pthread_mutex_destroy(&d->memory_lock);
	free(d);
	return rc;
}

/*
 * Frames that the device still had go back to their pools; tails are told of.
 * virtio's driver takes its interrupts back as it stops, and again as it closes,
 * which vfio refuses with EINVAL: DPDK would call that an error.
 */
static void close_device(const struct fhd_dpdk_device *d)
{
	int level;

	if (!rte_eth_dev_is_valid_port(d->id))
		return;
	level = d->interrupts ? fhd_dpdk_hush("lib.eal") : 0;
	rte_eth_dev_close(d->id);
	if (d->interrupts)
		fhd_dpdk_speak("lib.eal", level);
}

void fhd_dpdk_device_close(struct fhd_dpdk_device *d)
{
	struct rte_device *dev = d->info.device;

	if (d->started)
		rte_eth_dev_stop(d->id);
	/* It reads and writes no more; closed, it has left its IOMMU group, and the maps with it. */
	fhd_dpdk_memory_drop(d);
	close_device(d);
	for (uint16_t q = 0; q < d->nr_queues && d->ports[q]; q++) {
		fhd_dpdk_tails_end(d->ports[q]);
		rte_mempool_free(d->ports[q]->pool);
		rte_mempool_free(d->ports[q]->tails);
		free(d->ports[q]);
	}
	/* Closed, it has no name any more: taken out, it can be found and opened again. */
	if (dev)
		rte_dev_remove(dev);
	fh_region_free(&d->packets);
	pthread_mutex_destroy(&d->memory_lock);
	free(d);
}
