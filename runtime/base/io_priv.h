/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What io.c and its two backends share.  Nobody else includes this.
 *
 * io.c owns the timers, the clock and the wake-up descriptor; a backend owns
 * its ring or epoll set and the state words of sockets and listeners.
 */
#ifndef FH_BASE_IO_PRIV_H
#define FH_BASE_IO_PRIV_H

#include "runtime/base/io.h"

#define FH_IO_WHEEL_SLOTS 2048u /* of FH_IO_TICK_NS: 34 s; what is further off goes round again */
#define FH_IO_ACCEPT_RETRY_NS 100000000u

/* fh_io_sock.state */
#define FH_SOCK_WANT_RECV 0x01u	  /* the user wants bytes */
#define FH_SOCK_RECV_ARMED 0x02u  /* uring: a receive is in the kernel; epoll: may be readable */
#define FH_SOCK_RECV_CANCEL 0x04u /* uring: its cancellation is on the way */
#define FH_SOCK_SENDING 0x08u
#define FH_SOCK_SEND_DONE 0x10u /* epoll: on_sent() is due */
#define FH_SOCK_CLOSING 0x20u
#define FH_SOCK_CLOSE_SENT 0x40u /* uring: the close is in the kernel */
#define FH_SOCK_FIXED 0x80u	 /* uring: fd is an index into the ring's files */
#define FH_SOCK_EOF 0x100u	 /* nothing more will be received */
#define FH_SOCK_SHUTTING 0x400u	 /* uring: a shutdown is in the kernel */
#define FH_SOCK_DEFERRED 0x200u	 /* epoll: on the deferred list */

/* fh_io_listener.state */
#define FH_LISTEN_WANT 0x01u
#define FH_LISTEN_ARMED 0x02u
#define FH_LISTEN_CANCEL 0x04u

/* fh_io_watch.state */
#define FH_WATCH_ARMED 0x01u /* uring: a poll is in the kernel */
#define FH_WATCH_STOPPING 0x02u

struct fh_io_backend {
	const char *name;
	int (*create)(struct fh_io *io, const struct fh_io_config *cfg, struct fh_err *err);
	int (*start)(struct fh_io *io, struct fh_err *err);
	void (*destroy)(struct fh_io *io);
	int (*attach)(struct fh_io_sock *s);	   /* s->fd is a plain descriptor */
	void (*recv_update)(struct fh_io_sock *s); /* FH_SOCK_WANT_RECV changed */
	void (*send)(struct fh_io_sock *s);
	void (*shutdown)(struct fh_io_sock *s);
	void (*close)(struct fh_io_sock *s);
	int (*listen)(struct fh_io_listener *l);
	void (*accept_update)(struct fh_io_listener *l); /* FH_LISTEN_WANT changed */
	void (*flush)(struct fh_io *io);		 /* NULL: nothing is ever held back */
	int (*watch)(struct fh_io_watch *w);
	void (*unwatch)(struct fh_io_watch *w);
	/* Submit, wait, then call fh_io_turn() and run callbacks. */
	int (*wait)(struct fh_io *io, uint64_t timeout_ns);
};

struct fh_io {
	const struct fh_io_backend *be;
	void *priv; /* the backend's */
	int wake_fd;
	uint64_t now_ns;
	struct fh_io_listener *listeners;
	char backend[96];
	uint64_t cursor; /* ticks up to this one have fired */
	uint32_t nr_timers;
	struct fh_io_timer *wheel[FH_IO_WHEEL_SLOTS];
	uint64_t occupied[FH_IO_WHEEL_SLOTS / 64]; /* one bit a slot that may hold timers */
};

extern const struct fh_io_backend fh_io_uring_backend;
extern const struct fh_io_backend fh_io_epoll_backend;

/* The clock has moved: a backend calls it after waiting, before any callback. */
void fh_io_turn(struct fh_io *io);
/* A listener ran out of descriptors or memory: try again later. */
void fh_io_accept_later(struct fh_io_listener *l);

#endif /* FH_BASE_IO_PRIV_H */
