// SPDX-License-Identifier: Apache-2.0
/*
 * The plug-in's only visible name: a carrier of datagrams (runtime/net/dgram.h).
 *
 * fh_dgram_open.device names a device that DPDK knows (a PCI address), or one to
 * be made, with its parameters ("net_af_packet0,iface=eth0").  Of
 * fh_dgram_open.args those before "--" are EAL options, those behind it ours:
 *
 *   address=ADDR/PREFIX[@GATEWAY]  a second address, of the other family
 *   idle-polls=N        empty polls before the core is given back
 *   idle-sleep-us=N     the longest sleep where the device does not interrupt
 *   no-interrupts, no-monitor      do without
 *   rx-desc=N, tx-desc=N           entries of the device's rings
 */
#include <arpa/inet.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "runtime/dpdk/dpdk.h"

/* Some tens of microseconds, by the device: more than the answer to an answer takes on a link. */
enum { IDLE_POLLS = 2000, IDLE_SLEEP_US = 250 };

/* Devices whose queues are open; opening and closing come from any thread. */
static pthread_mutex_t devices_lock = PTHREAD_MUTEX_INITIALIZER;
static struct fhd_dpdk_device *devices;

/* ---- options ---- */

static bool parse_ip(const char *text, struct fh_ip *out)
{
	uint8_t v4[4];

	if (inet_pton(AF_INET, text, v4) == 1) {
		fh_ip_from4(out, v4);
		return true;
	}
	return inet_pton(AF_INET6, text, out->b) == 1;
}

static bool parse_number(const char *text, unsigned long most, unsigned long *out)
{
	char *end;

	if (*text < '0' || *text > '9')
		return false;
	errno = 0;
	*out = strtoul(text, &end, 10);
	return !errno && !*end && *out <= most;
}

/* "ADDR/PREFIX[@GATEWAY]" */
static bool parse_address(const char *text, struct fh_udpip_addr *out)
{
	char copy[128], *slash, *at;
	unsigned long prefix;

	if (strlen(text) >= sizeof(copy))
		return false;
	strcpy(copy, text);
	slash = strchr(copy, '/');
	if (!slash)
		return false;
	*slash = 0;
	at = strchr(slash + 1, '@');
	if (at)
		*at = 0;
	*out = (struct fh_udpip_addr){.set = true};
	if (!parse_ip(copy, &out->ip) || !parse_number(slash + 1, 128, &prefix) ||
	    (at && !parse_ip(at + 1, &out->gateway)))
		return false;
	out->prefix = (uint8_t)prefix;
	return true;
}

int fhd_dpdk_own_address(const struct fh_dgram_open *o, struct fh_udpip_addr *own, struct fh_err *err)
{
	unsigned long prefix;

	*own = (struct fh_udpip_addr){.set = true, .ip = fhd_ip(o->local.ip)};
	if (!o->netmask || !parse_number(o->netmask, 128, &prefix))
		return fh_errf(
			err, -EINVAL,
			"DPDK: the device's own address needs its prefix, such as 24 or 64: no kernel looks after it");
	own->prefix = (uint8_t)prefix;
	if (o->gateway && !parse_ip(o->gateway, &own->gateway))
		return fh_errf(err, -EINVAL, "DPDK: gateway %s is no address", o->gateway);
	return 0;
}

static bool set_option(struct fhd_dpdk_options *opt, const char *name)
{
	const char *v = strchr(name, '=');
	unsigned long n;

	if (!strcmp(name, "no-interrupts")) {
		opt->interrupts = false;
		return true;
	}
	if (!strcmp(name, "no-monitor")) {
		opt->monitor = false;
		return true;
	}
	if (!v++)
		return false;
	if (!strncmp(name, "address=", 8))
		return parse_address(v, &opt->second);
	if (!strncmp(name, "idle-polls=", 11) && parse_number(v, 1000000000, &n)) {
		opt->idle_polls = (uint32_t)n;
		return true;
	}
	if (!strncmp(name, "idle-sleep-us=", 14) && parse_number(v, 1000000, &n) && n) {
		opt->idle_sleep_us = (uint32_t)n;
		return true;
	}
	if (!strncmp(name, "rx-desc=", 8) && parse_number(v, 32768, &n) && n) {
		opt->nr_rx_desc = (uint16_t)n;
		return true;
	}
	if (!strncmp(name, "tx-desc=", 8) && parse_number(v, 32768, &n) && n) {
		opt->nr_tx_desc = (uint16_t)n;
		return true;
	}
	return false;
}

/* @nr_eal: how many of the arguments are EAL's. */
static int parse_options(const struct fh_dgram_open *o, struct fhd_dpdk_options *opt, uint32_t *nr_eal,
			 struct fh_err *err)
{
	uint32_t i = 0;

	*opt = (struct fhd_dpdk_options){
		.idle_polls = IDLE_POLLS, .idle_sleep_us = IDLE_SLEEP_US, .interrupts = true, .monitor = true};
	while (i < o->nr_args && strcmp(o->args[i], "--"))
		i++;
	*nr_eal = i;
	for (i++; i < o->nr_args; i++)
		if (!set_option(opt, o->args[i]))
			return fh_errf(
				err, -EINVAL,
				"DPDK: \"%s\" behind \"--\" is none of address=ADDR/PREFIX[@GATEWAY], idle-polls=N, "
				"idle-sleep-us=N, no-interrupts, no-monitor, rx-desc=N, tx-desc=N",
				o->args[i]);
	return 0;
}

/* ---- ports ---- */

static int mem_add(struct fh_dgram_port *base, void *at, size_t bytes, struct fh_err *err)
{
	return fhd_dpdk_memory_add(fhd_port(base)->dev, at, bytes, 4096, err);
}

/* The device keeps its own: what is kept for long comes out of what the caller asked for. */
static uint32_t max_held(struct fh_dgram_port *base)
{
	return fhd_port(base)->dev->nr_recv / 2;
}

static uint32_t nr_queues(struct fh_dgram_port *base)
{
	return fhd_port(base)->dev->nr_queues;
}

static void local(struct fh_dgram_port *base, struct fh_dgram_addr *out)
{
	const struct fhd_dpdk_port *p = fhd_port(base);
	const struct fh_udpip_config *c = &p->dev->ip.cfg;

	*out = (struct fh_dgram_addr){.port = c->port};
	memcpy(out->ip, p->local_ip.b, 16);
}

/* What waits in the port itself. The device may be running for others. */
static void drop_frames(struct fhd_dpdk_port *p)
{
	for (uint32_t i = 0; i < p->tx_n; i++)
		rte_pktmbuf_free(p->tx[i]);
	for (uint32_t i = 0; i < p->nr_pending; i++)
		rte_pktmbuf_free(p->pending[i].m);
	while (p->ready_at < p->ready_n)
		rte_pktmbuf_free(p->ready[p->ready_at++].handle);
	p->tx_n = p->nr_pending = 0;
}

static void close_port(struct fh_dgram_port *base)
{
	struct fhd_dpdk_port *p = fhd_port(base);
	struct fhd_dpdk_device *d = p->dev, **at;
	bool last;

	pthread_mutex_lock(&devices_lock);
	last = !--d->nr_open;
	/* What was taken leaves, if the device lets it. */
	fhd_dpdk_flush(base);
	drop_frames(p);
	fhd_dpdk_idle_close(p);
	if (last) {
		for (at = &devices; *at != d; at = &(*at)->next)
			;
		*at = d->next;
		fhd_dpdk_device_close(d);
	} else {
		/* The others go on: this queue alone is stopped, where the driver can. */
		rte_eth_dev_tx_queue_stop(d->id, p->queue);
		fhd_dpdk_tails_end(p);
	}
	pthread_mutex_unlock(&devices_lock);
}

static const struct fh_dgram_ops ops = {
	.name = "dpdk",
	.recv = fhd_dpdk_recv,
	.release = fhd_dpdk_release,
	.alloc = fhd_dpdk_alloc,
	.send = fhd_dpdk_send,
	.flush = fhd_dpdk_flush,
	.wait = fhd_dpdk_wait,
	.wake = fhd_dpdk_wake,
	.fd = fhd_dpdk_fd,
	.mtu = fhd_dpdk_mtu,
	.mem_add = mem_add,
	.max_held = max_held,
	.nr_queues = nr_queues,
	.local = local,
	.stats = fhd_dpdk_stats,
	.metrics = fhd_dpdk_metrics,
	.close = close_port,
};

static bool same_device(const struct fhd_dpdk_device *d, const char *device)
{
	size_t n = device ? strcspn(device, ",") : 0;

	return !device || (strlen(d->name) == n && !strncmp(d->name, device, n));
}

static struct fhd_dpdk_device *open_device(const char *device)
{
	struct fhd_dpdk_device *d = devices;

	while (d && !same_device(d, device))
		d = d->next;
	return d;
}

static int open_queue(const struct fh_dgram_open *o, const struct fhd_dpdk_options *opt, struct fh_dgram_port **out,
		      struct fh_err *err)
{
	struct fhd_dpdk_device *d = open_device(o->device);
	struct fhd_dpdk_port *p;
	int rc;

	if (!d && o->queue)
		return fh_errf(err, -EINVAL, "DPDK: queue %u is opened before queue 0", o->queue);
	if (d && !o->queue)
		return fh_errf(err, -EBUSY, "DPDK device %s is open already", d->name);
	if (!d) {
		rc = fhd_dpdk_device_open(o, opt, &d, err);
		if (rc)
			return rc;
		d->next = devices;
		devices = d;
	}
	if (o->queue >= d->nr_queues || d->ports[o->queue]->used)
		return fh_errf(err, -EINVAL, "DPDK device %s: queue %u of %u cannot be opened, or not again", d->name,
			       o->queue, d->nr_queues);
	p = d->ports[o->queue];
	rc = fhd_dpdk_idle_open(p, err);
	if (rc)
		goto err_close;
	p->base.ops = &ops;
	p->server = o->server;
	p->peer = o->peer;
	p->peer.scope = 0; /* the device is the only link there is */
	p->local_ip = fhd_ip(o->local.ip);
	p->payload_max = o->mtu ? o->mtu : d->mtu;
	p->used = true;
	d->nr_open++;
	if (!o->queue)
		fhd_dpdk_announce(p);
	*out = &p->base;
	return 0;

err_close:
	if (!d->nr_open) {
		devices = d->next;
		fhd_dpdk_device_close(d);
	}
	return rc;
}

static int carrier_open(const struct fh_dgram_open *o, struct fh_dgram_port **out, struct fh_err *err)
{
	static const uint8_t any[16];
	struct fhd_dpdk_options opt;
	uint32_t nr_eal;
	int rc;

	if (o->size < sizeof(*o))
		return fh_errf(err, -EINVAL, "freehold-dpdk.so and this program are of different versions");
	if (!memcmp(o->local.ip, any, 16))
		return fh_errf(err, -EINVAL, "DPDK: the device's own address must be given: no kernel looks after it");
	if (o->nr_queues > FHD_DPDK_MAX_QUEUES)
		return fh_errf(err, -EINVAL, "DPDK: at most %u queues", FHD_DPDK_MAX_QUEUES);
	rc = parse_options(o, &opt, &nr_eal, err);
	if (rc)
		return rc;
	rc = fhd_dpdk_eal(o->args, nr_eal, err);
	if (rc)
		return rc;
	pthread_mutex_lock(&devices_lock);
	rc = open_queue(o, &opt, out, err);
	pthread_mutex_unlock(&devices_lock);
	return rc;
}

__attribute__((visibility("default"))) extern const struct fh_dgram_carrier fh_dgram_carrier;
const struct fh_dgram_carrier fh_dgram_carrier = {.abi = FH_DGRAM_ABI, .name = "dpdk", .open = carrier_open};
