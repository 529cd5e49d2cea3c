/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The DPDK carrier of datagrams (runtime/net/dgram.h), a plug-in of its own:
 * freehold-dpdk.so, loaded at run time by server and libfreehold.  What its
 * files share.
 *
 *   carrier.c  opening and closing, options
 *   eal.c      DPDK's environment, once in a process
 *   device.c   an Ethernet device: queues, offloads, its packet memory
 *   memory.c   regions that devices may reach
 *   recv.c     frames in, and neighbours' questions
 *   send.c     frames out
 *   idle.c     waiting without keeping the core
 *   report.c   counters
 *
 * A *device* is one Ethernet port of DPDK with nr_queues queue pairs; a *port*
 * is one of them, and has one thread.  They share the device's addresses and
 * its table of neighbours.  The device is set up when queue 0 is opened and
 * taken down when the last of its ports is closed.
 *
 * Memory: packets lie in a region (runtime/base/region.h), made known to DPDK
 * with rte_extmem_register() and mapped for the device with rte_dev_dma_map().
 * mbuf headers lie in DPDK's own memory.  I/O addresses are virtual ones
 * (--iova-mode=va), so a region is contiguous for the device.
 */
#ifndef FH_DPDK_DPDK_H
#define FH_DPDK_DPDK_H

#include <pthread.h>
#include <stdatomic.h>

#include <rte_epoll.h>
#include <rte_ethdev.h>
#include <rte_mbuf.h>

#include "runtime/base/region.h"
#include "runtime/net/dgram.h"
#include "runtime/net/udpip.h"

#define FHD_DPDK_MAX_QUEUES 64u
#define FHD_DPDK_MAX_REGIONS 16u
#define FHD_DPDK_BURST 32u   /* frames in one call of the driver */
#define FHD_DPDK_PENDING 64u /* frames that wait for a neighbour's address */
#define FHD_DPDK_PENDING_NS (3ull * 1000000000)
#define FHD_DPDK_TX_RING 128u /* frames between two calls of the driver */

/* Options behind "--" in fh_dgram_open.args. */
struct fhd_dpdk_options {
	struct fh_udpip_addr second; /* an address of the other family */
	uint32_t idle_polls;	     /* empty polls before the core is given back */
	uint32_t idle_sleep_us;	     /* longest sleep where the device does not interrupt */
	bool interrupts, monitor;
	uint16_t nr_rx_desc, nr_tx_desc; /* 0: by the buffers */
};

/* A region that the device reads or writes. */
struct fhd_dpdk_memory {
	void *base;
	size_t bytes, page_bytes;
	rte_iova_t iova; /* of base, for the device */
	bool mapped, windowed;
};

struct fhd_dpdk_port;

/* In the private part of an mbuf that a tail hangs on; it outlives the port, the tail need not. */
struct fhd_dpdk_sent {
	struct rte_mbuf_ext_shared_info shared;
	struct fhd_dpdk_port *port;
	struct fh_dgram_tail *tail; /* NULL: its owner was told already */
	struct fhd_dpdk_sent *next, **pprev;
};

struct fhd_dpdk_device {
	uint16_t id;
	char name[RTE_ETH_NAME_MAX_LEN];
	struct rte_eth_dev_info info;
	uint64_t rx_offloads, tx_offloads;
	uint32_t csum_offload; /* FH_CSUM_OFFLOAD_* */
	bool hang_tails;       /* as second pieces; else they are copied */
	bool done_cleanup;     /* the driver gives back what was sent when asked */
	bool started, interrupts;
	uint16_t mtu, nr_queues, nr_rx_desc, nr_tx_desc;
	uint32_t nr_recv; /* buffers of a queue beside those in its rings */
	struct fhd_dpdk_options opt;
	struct fh_region packets;
	struct fhd_dpdk_memory memory[FHD_DPDK_MAX_REGIONS]; /* the first: packets */
	_Atomic uint32_t nr_memory;
	pthread_mutex_t memory_lock; /* mem_add() of several ports */
	struct fhd_dpdk_port *ports[FHD_DPDK_MAX_QUEUES];
	uint32_t nr_open; /* ports that were handed out and not closed */
	struct fhd_dpdk_device *next;
	struct fh_udpip ip;
};

/* A frame that waits until its next hop's address is known. */
struct fhd_dpdk_pending {
	struct rte_mbuf *m;
	struct fh_ip hop;
	uint64_t since_ns;
};

/* Written by the port's thread, read by any. */
struct fhd_dpdk_counters {
	_Atomic uint64_t nr_recv, recv_bytes, nr_sent, sent_bytes, nr_send_failed, copied_bytes, nr_waits,
		nr_empty_polls, nr_not_peer, nr_pieces, nr_too_long, nr_pending_lost, nr_sleeps, nr_interrupts,
		nr_monitors;
	_Atomic uint64_t nr_wakes; /* any thread */
};

struct fhd_dpdk_port {
	struct fh_dgram_port base; /* first */
	struct fhd_dpdk_device *dev;
	uint16_t queue;
	bool server, used; /* used: handed out once */
	struct fh_ip local_ip;
	struct fh_dgram_addr peer; /* a client's; its datagrams alone are taken */
	struct rte_mempool *pool;  /* packets */
	struct rte_mempool *tails; /* mbufs without memory of their own */
	char pool_name[2][RTE_MEMZONE_NAMESIZE];
	uint32_t payload_max; /* what the caller allows */
	/* Where the last datagrams went, so that most need no look at the addresses. */
	struct fh_udpip_route route;
	struct fh_dgram_addr route_for;
	/* What was received and not lent yet: wait() looks before it sleeps. */
	struct fh_dgram ready[FHD_DPDK_BURST];
	uint32_t ready_at, ready_n;
	struct rte_mbuf *tx[FHD_DPDK_TX_RING];
	uint32_t tx_n;
	struct fhd_dpdk_pending pending[FHD_DPDK_PENDING];
	uint32_t nr_pending;
	struct fhd_dpdk_sent *tails_out; /* that the device may still read */
	bool tail_done;			 /* one came back since the last wait() */
	/* Waiting. */
	pthread_t thread;
	bool has_thread, lcore;
	int wake_fd, intr_fd; /* an eventfd; an epoll descriptor of DPDK's, or -1 */
	int outer_fd;	      /* both, for the caller's loop; -1: nobody has asked */
	bool armed;
	struct rte_epoll_event wake_event; /* of wake_fd, in intr_fd */
	_Atomic uint32_t sleeping, woken;
	uint64_t now_ns; /* of the last look at the clock */
	struct fh_udpip_stats ip;
	struct fhd_dpdk_counters n;
};

static inline void fhd_count(_Atomic uint64_t *c, uint64_t by)
{
	atomic_store_explicit(c, atomic_load_explicit(c, memory_order_relaxed) + by, memory_order_relaxed);
}

static inline struct fhd_dpdk_port *fhd_port(struct fh_dgram_port *p)
{
	return (struct fhd_dpdk_port *)p;
}

static inline struct fh_ip fhd_ip(const uint8_t ip[16])
{
	struct fh_ip a;

	memcpy(a.b, ip, 16);
	return a;
}

/* eal.c: starts DPDK with @args unless it runs already. 0 or -errno. */
int fhd_dpdk_eal(const char *const *args, uint32_t nr_args, struct fh_err *err);
/* What DPDK's libraries said last, for messages; "" when nothing. */
const char *fhd_dpdk_last_words(void);
/* What follows may fail and be no error: one of DPDK's logs says nothing of it, from here until it may speak again. */
int fhd_dpdk_hush(const char *log);
void fhd_dpdk_speak(const char *log, int level);

/* device.c */
int fhd_dpdk_device_open(const struct fh_dgram_open *o, const struct fhd_dpdk_options *opt,
			 struct fhd_dpdk_device **out, struct fh_err *err);
/* All of its ports are closed, or were never handed out. */
void fhd_dpdk_device_close(struct fhd_dpdk_device *d);

/* carrier.c: the address and the way out of it that @o gives; 0 or -EINVAL. */
int fhd_dpdk_own_address(const struct fh_dgram_open *o, struct fh_udpip_addr *own, struct fh_err *err);

/* memory.c: 0 or -errno; @page_bytes: of what lies under it. */
int fhd_dpdk_memory_add(struct fhd_dpdk_device *d, void *base, size_t bytes, size_t page_bytes, struct fh_err *err);
void fhd_dpdk_memory_drop(struct fhd_dpdk_device *d);
/* Where the device finds @at; RTE_BAD_IOVA: it does not. */
rte_iova_t fhd_dpdk_iova(const struct fhd_dpdk_device *d, const void *at, size_t bytes);

/* recv.c */
int fhd_dpdk_recv(struct fh_dgram_port *p, struct fh_dgram *d, uint32_t max);
void fhd_dpdk_release(struct fh_dgram_port *p, struct fh_dgram *d, uint32_t nr);
/* Ask the device if nothing is there yet; how many datagrams wait to be lent. */
uint32_t fhd_dpdk_look(struct fhd_dpdk_port *p);

/* send.c */
uint32_t fhd_dpdk_alloc(struct fh_dgram_port *p, struct fh_dgram *d, uint32_t max);
uint32_t fhd_dpdk_send(struct fh_dgram_port *p, struct fh_dgram *d, uint32_t nr);
void fhd_dpdk_flush(struct fh_dgram_port *p);
uint32_t fhd_dpdk_mtu(struct fh_dgram_port *p, const struct fh_dgram_addr *peer);
/* One frame that needs nothing any more; it is the driver's or gone. */
void fhd_dpdk_push(struct fhd_dpdk_port *p, struct rte_mbuf *m);
/* Look whether the waiting frames may go. */
void fhd_dpdk_pending(struct fhd_dpdk_port *p);
/* Let the device give back what it has sent. */
void fhd_dpdk_reap(struct fhd_dpdk_port *p);
/* The port closes: no tail stays out. The device is stopped. */
void fhd_dpdk_tails_end(struct fhd_dpdk_port *p);
/* The host says that it is there. */
void fhd_dpdk_announce(struct fhd_dpdk_port *p);

/* idle.c */
int fhd_dpdk_idle_open(struct fhd_dpdk_port *p, struct fh_err *err);
void fhd_dpdk_idle_close(struct fhd_dpdk_port *p);
int fhd_dpdk_wait(struct fh_dgram_port *p, uint64_t timeout_us);
void fhd_dpdk_wake(struct fh_dgram_port *p);
int fhd_dpdk_fd(struct fh_dgram_port *p);
/* The thread's first call: DPDK's per-thread caches. */
void fhd_dpdk_thread(struct fhd_dpdk_port *p);
/* After a recv() that found nothing, when somebody watches fd(). */
void fhd_dpdk_arm(struct fhd_dpdk_port *p);
uint64_t fhd_dpdk_clock_ns(void);

/* report.c */
void fhd_dpdk_stats(struct fh_dgram_port *p, struct fh_dgram_stats *out);
void fhd_dpdk_metrics(struct fh_dgram_port *p, void *out);

#endif /* FH_DPDK_DPDK_H */
