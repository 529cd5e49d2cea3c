/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Datagrams over a kernel's UDP socket: on io_uring (dgram_uring.c), or, where
 * that is refused, with recvmmsg() and sendmmsg() (dgram_sock.c).
 *
 * One dual-stack socket; packets are never fragmented (RFC 8899 wants a probe's
 * loss to mean something), so a datagram that is too long is lost.
 */
#ifndef FH_NET_DGRAM_SOCK_H
#define FH_NET_DGRAM_SOCK_H

#include <netinet/in.h>
#include <sys/socket.h>

#include "runtime/net/dgram.h"

/* recvmmsg(), sendmmsg(). 0, or -errno with @err. */
int fh_dgram_sock_open(const struct fh_dgram_open *o, struct fh_dgram_port **out, struct fh_err *err);
/* io_uring; -errno with @err where the kernel refuses it or lacks something. */
int fh_dgram_uring_open(const struct fh_dgram_open *o, struct fh_dgram_port **out, struct fh_err *err);

/* ---- what the two share ---- */

struct fh_dgram_buf {
	uint8_t *data; /* where a payload begins: FH_DGRAM_SKEW modulo FH_DGRAM_ALIGN */
	struct fh_dgram_buf *next_free;
	bool is_send;
	uint32_t index;
};

/* Counters have one writer, the port's thread; others read them. */
struct fh_dgram_count {
	_Atomic uint64_t v;
};

struct fh_dgram_sock {
	struct fh_dgram_port port;
	int fd, wake_fd;
	bool server, v4; /* v4: the socket is of AF_INET, where there is no IPv6 */
	bool unreachable;
	uint32_t mtu;
	struct fh_dgram_addr peer;
	/* Buffers: nr_recv, then nr_send. */
	uint8_t *mem;
	size_t mem_bytes, stride;
	uint32_t nr_recv, nr_send, head_room;
	struct fh_dgram_buf *bufs, *free_recv, *free_send;
	uint32_t nr_free_recv;
	struct fh_dgram_count nr_recv_, recv_bytes, nr_sent, sent_bytes, nr_bad, nr_failed, nr_waits, nr_wakes,
		nr_empty;
};

static inline void fh_dgram_add(struct fh_dgram_count *c, uint64_t n)
{
	__atomic_store_n((uint64_t *)&c->v, __atomic_load_n((uint64_t *)&c->v, __ATOMIC_RELAXED) + n, __ATOMIC_RELAXED);
}

/* What an error of receiving says. */
enum fh_dgram_fault {
	FH_DGRAM_PASSING, /* nothing: try again */
	FH_DGRAM_NOBODY,  /* the network, which anybody may be, says that the peer cannot be reached */
	FH_DGRAM_BROKEN,  /* there is no socket any more */
};
/* @error: a positive errno of recvmmsg() or of a receive in io_uring. */
enum fh_dgram_fault fh_dgram_fault(int error);

/* The socket and the buffers, @head_room bytes before each payload. 0, or -errno with @err and nothing left. */
int fh_dgram_sock_init(struct fh_dgram_sock *s, const struct fh_dgram_open *o, uint32_t head_room, struct fh_err *err);
void fh_dgram_sock_fini(struct fh_dgram_sock *s);
void fh_dgram_put_buf(struct fh_dgram_sock *s, struct fh_dgram_buf *b);
socklen_t fh_dgram_sockaddr(const struct fh_dgram_sock *s, const struct fh_dgram_addr *a, struct sockaddr_in6 *out);
void fh_dgram_from_sockaddr(const struct sockaddr *sa, struct fh_dgram_addr *out);
uint32_t fh_dgram_sock_alloc(struct fh_dgram_port *p, struct fh_dgram *d, uint32_t max);
void fh_dgram_sock_wake(struct fh_dgram_port *p);
uint32_t fh_dgram_sock_mtu(struct fh_dgram_port *p, const struct fh_dgram_addr *peer);
int fh_dgram_sock_mem_add(struct fh_dgram_port *p, void *base, size_t bytes, struct fh_err *err);
uint32_t fh_dgram_sock_max_held(struct fh_dgram_port *p);
void fh_dgram_sock_local(struct fh_dgram_port *p, struct fh_dgram_addr *out);
void fh_dgram_sock_stats(struct fh_dgram_port *p, struct fh_dgram_stats *out);

#endif /* FH_NET_DGRAM_SOCK_H */
