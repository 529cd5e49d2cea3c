/* SPDX-License-Identifier: Apache-2.0 */
/*
 * An event loop for sockets: io_uring, or epoll where io_uring is refused.
 *
 * One thread owns a loop and everything attached to it; only fh_io_wake() may
 * be called from elsewhere.  Both backends keep the same contract, so that a
 * user cannot tell them apart but by fh_io_backend():
 *
 *   - Callbacks run only inside fh_io_poll(), never inside the call that asked
 *     for something.
 *   - Received bytes belong to the loop and are valid during the callback.
 *   - Bytes to send belong to the caller until on_sent() or on_closed().  One
 *     send at a time is under way on a socket.
 *   - A socket's memory belongs to the caller and must stay until on_closed(),
 *     which follows fh_io_close() in a later callback, exactly once.
 *
 * Requests made during a turn are gathered and leave in one system call when
 * the loop polls next.
 */
#ifndef FH_BASE_IO_H
#define FH_BASE_IO_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/socket.h>
#include <sys/types.h>

#include "runtime/base/err.h"

struct fh_io;
struct fh_io_sock;
struct fh_io_listener;
struct fh_io_timer;
struct fh_io_watch;

struct fh_io_config {
	uint32_t max_socks;  /* open at once, listeners included; 0: 4096 */
	uint32_t recv_bytes; /* size of one receive buffer; 0: 8192; a power of two */
	uint32_t nr_recv;    /* how many of them; 0: 512; a power of two */
	bool force_epoll;    /* do not try io_uring */
};

/* Makes the loop; any thread.  What it registers it registers here, so that a sandbox may follow. */
int fh_io_create(const struct fh_io_config *cfg, struct fh_io **out, struct fh_err *err);
/* Once, on the thread that will poll, before its first poll. */
int fh_io_start(struct fh_io *io, struct fh_err *err);
/* Every socket has been closed, or is abandoned: descriptors go, no callback runs any more. */
void fh_io_destroy(struct fh_io *io);

/* "io_uring", or "epoll" with the reason in parentheses where io_uring was refused. */
const char *fh_io_backend(const struct fh_io *io);

/*
 * Send what was asked for, wait at most @timeout_ns (UINT64_MAX: as long as it
 * takes) for something to happen, then run callbacks and due timers.  0, or
 * -errno when the loop itself is broken.
 */
int fh_io_poll(struct fh_io *io, uint64_t timeout_ns);
/*
 * Let what was asked for so far leave now, from within a callback too, instead
 * of at the next poll.  It costs a system call; for what has to leave in time.
 */
void fh_io_flush(struct fh_io *io);
/* Make the present or the next fh_io_poll() return.  Any thread, async-signal-safe. */
void fh_io_wake(struct fh_io *io);
/* CLOCK_MONOTONIC at the beginning of this turn's callbacks: free of charge. */
uint64_t fh_io_now_ns(const struct fh_io *io);

struct fh_io_sock_ops {
	/* @n > 0: so many bytes at @data.  0: the peer sends no more.  < 0: -errno, the connection is lost. */
	void (*on_recv)(struct fh_io_sock *s, const char *data, ssize_t n);
	/* All bytes of the send have left (0), or -errno. */
	void (*on_sent)(struct fh_io_sock *s, int res);
	/* The loop's last touch. */
	void (*on_closed)(struct fh_io_sock *s);
};

/* Embed it; zero it; read only nr_sent and nr_received. */
struct fh_io_sock {
	const struct fh_io_sock_ops *ops;
	struct fh_io *io;
	uint64_t nr_sent, nr_received; /* bytes; nr_sent grows while a long send makes progress */
	/* The backend's own. */
	const struct msghdr *send_msg; /* being sent; NULL: bytes are */
	const char *send_buf;
	size_t send_left;
	struct fh_io_sock *next_deferred;
	int fd;
	uint32_t state;
};

/*
 * Give a non-blocking descriptor that is connected, or whose connect() is under
 * way, to the loop, which will close it.  0 or -errno (then it stays yours).
 * What is sent before the connection stands waits for it; a connection that
 * fails shows as on_recv() with the reason.
 */
int fh_io_attach(struct fh_io *io, struct fh_io_sock *s, const struct fh_io_sock_ops *ops, int fd);
/* Receive, until stopped.  After a stop what was already on its way may still arrive. */
void fh_io_recv_start(struct fh_io_sock *s);
void fh_io_recv_stop(struct fh_io_sock *s);
void fh_io_send(struct fh_io_sock *s, const void *buf, size_t bytes);
/*
 * Likewise one message, with its control data, of @bytes that leave together or not at all.  All of it belongs to
 * the caller until on_sent().
 */
void fh_io_sendmsg(struct fh_io_sock *s, const struct msghdr *msg, size_t bytes);
bool fh_io_sending(const struct fh_io_sock *s);
/* Its descriptor, for options of the socket; -1: it has none, see fh_io_listener. */
int fh_io_fd(const struct fh_io_sock *s);
/* Send no more, let the peer finish. */
void fh_io_shutdown(struct fh_io_sock *s);
/* Cancels what is under way; on_closed() follows.  A second call does nothing. */
void fh_io_close(struct fh_io_sock *s);

/* A listening descriptor.  Embed it; zero it; fill in on_accept. */
struct fh_io_listener {
	/* Return the socket to attach the new connection to and its ops, or NULL to hang up at once. */
	struct fh_io_sock *(*on_accept)(struct fh_io_listener *l, const struct fh_io_sock_ops **ops);
	/* Connections are descriptors of the process, which cost more than those that io_uring keeps to itself. */
	bool with_fds;
	/* The loop's own. */
	struct fh_io *io;
	struct fh_io_listener *next;
	uint64_t retry_ns; /* accept again then, after the process ran out of something */
	int fd;
	uint32_t state;
};

/* Accept on @fd (listening, non-blocking), which stays the caller's; it is not used once nobody polls any more. */
int fh_io_listen(struct fh_io *io, struct fh_io_listener *l, int fd);
/* Stop and start accepting; connections wait in the backlog meanwhile (a few may still come). */
void fh_io_accept_stop(struct fh_io_listener *l);
void fh_io_accept_start(struct fh_io_listener *l);

/*
 * A descriptor that the caller reads itself, such as a socket whose packets carry
 * descriptors, or a device.  The loop says when it is ready, and says it again
 * in the next turn while it still is.  The descriptor stays the caller's and
 * stays open until on_stopped(), which follows fh_io_unwatch() in a later
 * callback, exactly once.  Embed it; zero it; fill in the functions.
 */
struct fh_io_watch {
	/* @events as of poll(2); POLLHUP and POLLERR come unasked. */
	void (*on_ready)(struct fh_io_watch *w, uint32_t events);
	void (*on_stopped)(struct fh_io_watch *w);
	/* The loop's own. */
	struct fh_io *io;
	struct fh_io_watch *next_stopped;
	int fd;
	uint32_t events, state;
};

/* @events: POLLIN, POLLPRI, POLLRDHUP.  0 or -errno. */
int fh_io_watch(struct fh_io *io, struct fh_io_watch *w, int fd, uint32_t events);
void fh_io_unwatch(struct fh_io_watch *w);

/* A timer for timeouts: cheap to move forward, late by up to FH_IO_TICK_NS.  Embed it; zero it; fill in fn. */
struct fh_io_timer {
	void (*fn)(struct fh_io_timer *t);
	struct fh_io_timer *next, **pprev; /* in a slot of the wheel; pprev NULL: not armed */
	uint64_t due_ns;		   /* when to fire */
	uint64_t tick;			   /* the slot that it is in, which may be earlier */
};

#define FH_IO_TICK_NS ((uint64_t)1 << 24)

void fh_io_timer_set(struct fh_io *io, struct fh_io_timer *t, uint64_t due_ns);
void fh_io_timer_clear(struct fh_io *io, struct fh_io_timer *t);

#endif /* FH_BASE_IO_H */
