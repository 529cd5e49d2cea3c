/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Datagrams: what lies between the wire protocol (runtime/wire/) and whatever
 * carries its packets.  A kernel socket is one carrier, a DPDK queue another;
 * server and client use the same.
 *
 * A *port* is one local address and one queue.  One thread owns it, which is
 * whoever calls it; only wake() and stats() may be called from elsewhere.
 * Nothing but wait() blocks, and after open nothing allocates.
 *
 * Who owns what
 *   - recv() lends datagrams: payload and handle are the caller's until
 *     release().  The payload may be written (it is decrypted where it lies) and
 *     may be kept for long (a prompt waits in it for a sequence), but a carrier
 *     has only so many buffers: nr_recv of struct fh_dgram_open.  Whoever keeps
 *     more than half of them starves himself.
 *   - alloc() lends empty datagrams.  Each goes back with send(), which takes
 *     it, or with release().
 *   - A tail is memory of the caller's that is sent behind a datagram's own
 *     bytes without being copied.  It lies in memory given to mem_add().  From
 *     the send() that takes it until its done() the carrier may read it at any
 *     time: the caller neither writes nor reuses it before.
 *
 * Alignment: payload addresses are 2 modulo 4, as they are behind Ethernet,
 * IPv4 or IPv6, and UDP in a buffer that begins aligned.  The protocol's header
 * is 2 modulo 4 bytes long, so what follows it is aligned to 4.
 *
 * Addresses are IPv6; IPv4 is mapped (::ffff:a.b.c.d, RFC 4291 2.5.5.2).
 */
#ifndef FH_NET_DGRAM_H
#define FH_NET_DGRAM_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "runtime/base/err.h"

#define FH_DGRAM_ABI 2
#define FH_DGRAM_ALIGN 4u
#define FH_DGRAM_SKEW 2u   /* payload addresses modulo FH_DGRAM_ALIGN */
#define FH_DGRAM_BURST 64u /* more than this in one call is never asked for */
/* Payload that any path carries: 1,280 bytes (RFC 8200, section 5) less IPv6's and UDP's headers. */
#define FH_DGRAM_MIN_MTU 1232u
#define FH_DGRAM_MAX_MTU 8950u /* and of a jumbo frame of 9,000 bytes, rounded down */

struct fh_dgram_port;

struct fh_dgram_addr {
	uint8_t ip[16];	   /* network order; IPv4 mapped */
	uint16_t port;	   /* host order */
	uint16_t reserved; /* zero */
	uint32_t scope;	   /* interface of a link-local address; otherwise 0 */
};

static inline bool fh_dgram_addr_same(const struct fh_dgram_addr *a, const struct fh_dgram_addr *b)
{
	uint64_t x[3], y[3];

	_Static_assert(sizeof(*a) == sizeof(x), "three words, all of them used");
	memcpy(x, a, sizeof(x));
	memcpy(y, b, sizeof(y));
	return !((x[0] ^ y[0]) | (x[1] ^ y[1]) | (x[2] ^ y[2]));
}

/*
 * Memory that a carrier reads for a while.  Embed it in whatever is sent; zero
 * it; fill in done().  One send at a time.
 */
struct fh_dgram_tail {
	/* The carrier reads the memory no more, whether or not the datagram has left.  On the port's thread, from
	 * within any call of the port; it may not call the port. */
	void (*done)(struct fh_dgram_tail *t);
	uint8_t *base; /* what is sent; any alignment */
	uint32_t bytes;
	uint32_t reserved;
	/* The carrier's, from send() to done(): struct rte_mbuf_ext_shared_info fits. */
	_Alignas(8) uint8_t carrier[48];
};

/* fh_dgram.flags */
/* Nothing came: the network says that nobody received what was sent to @peer (ICMP).  A hint that anybody could have
 * forged.  data is NULL, and it is released like any other. */
#define FH_DGRAM_UNREACHABLE 0x1u

struct fh_dgram {
	uint8_t *data;	/* the payload: FH_DGRAM_SKEW modulo FH_DGRAM_ALIGN */
	uint32_t bytes; /* received; to be sent (without the tail): the caller sets it */
	uint32_t room;	/* bytes at data that may be written */
	uint32_t flags;
	struct fh_dgram_addr peer;  /* where from; where to: the caller sets it */
	struct fh_dgram_tail *tail; /* what follows data[bytes]; NULL: nothing. Only for send() */
	void *handle;		    /* the carrier's */
};

/* Since the port was opened; each is read atomically. */
struct fh_dgram_stats {
	uint64_t nr_recv, recv_bytes; /* datagrams lent, and their payload */
	uint64_t nr_sent, sent_bytes; /* datagrams taken, and their payload with tails */
	uint64_t nr_recv_dropped;     /* for want of a buffer, in the kernel, or in the device, as far as known */
	uint64_t nr_recv_bad;	      /* truncated, with a wrong checksum, in pieces, not for us */
	uint64_t nr_send_failed;      /* taken, but refused by kernel or device */
	uint64_t copied_bytes;	      /* payload that the carrier's own code copied; a kernel's copies are not seen */
	uint64_t nr_waits, nr_wakes;  /* wait() that slept; wake() */
	uint64_t nr_empty_polls;      /* recv() that found nothing */
};

struct fh_dgram_ops {
	const char *name; /* "io_uring", "socket", "dpdk" */
	/*
	 * Lend what has come, at most @max (up to FH_DGRAM_BURST).  How many; or
	 * -errno: the port is broken for good.
	 */
	int (*recv)(struct fh_dgram_port *p, struct fh_dgram *d, uint32_t max);
	/* Give back what recv() or alloc() lent. */
	void (*release)(struct fh_dgram_port *p, struct fh_dgram *d, uint32_t nr);
	/* Lend empty datagrams, each with room for mtu() bytes and bytes = 0. How many, at most @max; 0: none now. */
	uint32_t (*alloc)(struct fh_dgram_port *p, struct fh_dgram *d, uint32_t max);
	/*
	 * Take datagrams that alloc() or recv() lent (an answer may be written
	 * over what it answers), in order.  How many were taken, from the front;
	 * the others stay the caller's, to be sent again or released.  What was
	 * taken has left when flush() was called, or the port waits.  Delivery is
	 * nobody's promise.
	 */
	uint32_t (*send)(struct fh_dgram_port *p, struct fh_dgram *d, uint32_t nr);
	void (*flush)(struct fh_dgram_port *p);
	/*
	 * Flush, then sleep until something has come, a tail is done, wake() was
	 * called since the last wait(), or @timeout_us have passed (0: do not
	 * sleep, UINT64_MAX: no limit).  0, -EINTR, or -errno: broken for good.
	 */
	int (*wait)(struct fh_dgram_port *p, uint64_t timeout_us);
	/* Any thread, async-signal-safe. */
	void (*wake)(struct fh_dgram_port *p);
	/*
	 * A descriptor that is readable (POLLIN) when recv() has something, for a
	 * program with a loop of its own; the port's.  It may be readable for
	 * nothing; it is quiet after a recv() that found nothing.  -EOPNOTSUPP:
	 * there is none.
	 */
	int (*fd)(struct fh_dgram_port *p);
	/* Largest payload, tail included, that the local side sends to @peer (NULL: to anyone) in one piece. */
	uint32_t (*mtu)(struct fh_dgram_port *p, const struct fh_dgram_addr *peer);
	/*
	 * Tails will lie in [@base, @base + @bytes), page aligned, which stays
	 * until close(): register it with the device.  0 or -errno with @err.
	 */
	int (*mem_add)(struct fh_dgram_port *p, void *base, size_t bytes, struct fh_err *err);
	/* How many datagrams of recv() may be kept for long; NULL: 256. */
	uint32_t (*max_held)(struct fh_dgram_port *p);
	/* Of how many the device has, or was given less than asked for; NULL: 1. */
	uint32_t (*nr_queues)(struct fh_dgram_port *p);
	/* Where it listens or is bound to, with the port number that was taken for 0. */
	void (*local)(struct fh_dgram_port *p, struct fh_dgram_addr *out);
	void (*stats)(struct fh_dgram_port *p, struct fh_dgram_stats *out);
	/*
	 * Append what else there is to say, in Prometheus' text format; may be NULL.  Any thread.  Queue 0 speaks for
	 * all that are open.  @out: FILE *.
	 */
	void (*metrics)(struct fh_dgram_port *p, void *out);
	/*
	 * No call follows.  All that was lent goes, whether or not it was
	 * released; done() is called for every tail that is still out.
	 */
	void (*close)(struct fh_dgram_port *p);
};

/* The carrier embeds it at the beginning of its own. */
struct fh_dgram_port {
	const struct fh_dgram_ops *ops;
};

struct fh_dgram_open {
	uint32_t size;	    /* sizeof(struct fh_dgram_open) */
	bool server;	    /* to be reached at @local; otherwise a client, which talks to @peer alone */
	bool no_offload;    /* no checksum offload and the like: for tests */
	bool force_plain;   /* kernel socket: no io_uring */
	const char *device; /* carrier's own: a DPDK device and queue, "0000:00:04.0" or "net_af_packet0"; or NULL */
	const char *const *args; /* [nr_args] carrier's own: EAL options */
	uint32_t nr_args;
	uint32_t queue, nr_queues; /* this port is queue @queue of @nr_queues (RSS by flow); 0 and 1 otherwise */
	bool fewer_queues; /* where a device has fewer, or does not spread flows over them, it is opened with fewer */
	struct fh_dgram_addr
		local;		   /* port 0: a free one; ip zero: any (DPDK: the device's own address must be given) */
	struct fh_dgram_addr peer; /* a client's server */
	uint32_t nr_recv, nr_send; /* buffers, powers of two; 0: the carrier's choice */
	uint32_t mtu;		   /* largest payload to be sent or received; 0: what the link carries */
	const char *netmask, *gateway; /* carriers that route themselves: "24" or "64", and an address; or NULL */
};

/*
 * A carrier in a shared object of its own defines one of these under the name
 * FH_DGRAM_SYMBOL; it is loaded with dlopen(RTLD_NOW | RTLD_LOCAL).
 */
struct fh_dgram_carrier {
	uint32_t abi; /* FH_DGRAM_ABI; another one is refused */
	const char *name;
	/* 0 and *out, to be closed by its ops; or -errno with @err. Once for each queue, queue 0 first. */
	int (*open)(const struct fh_dgram_open *o, struct fh_dgram_port **out, struct fh_err *err);
};

#define FH_DGRAM_SYMBOL "fh_dgram_carrier"

#endif /* FH_NET_DGRAM_H */
