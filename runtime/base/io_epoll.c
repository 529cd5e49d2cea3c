// SPDX-License-Identifier: Apache-2.0
/*
 * The event loop on epoll, for where io_uring is refused.
 *
 * Sockets are edge-triggered and registered once, for everything: no
 * epoll_ctl() is needed when a receive stops or a send blocks.  The price is
 * that readiness must be remembered here (FH_SOCK_RECV_ARMED: "may be
 * readable") and that what can go on without an event is put on the deferred
 * list: completed sends, closed sockets, sockets that still hold bytes when
 * their share of a turn is used up.  Events carry the socket's address, which
 * stays valid for the turn because on_closed() is deferred too.
 */
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include "runtime/base/io_priv.h"

#define MAX_EVENTS 256
#define RECV_BYTES 65536u
#define RECV_ROUNDS 8 /* buffers a socket may fill in one turn, for fairness */

enum { EV_SOCK, EV_LISTENER, EV_WAKE, EV_WATCH, EV_MASK = 7 };

struct epoll_loop {
	int fd;
	bool no_pwait2;		     /* old kernel: milliseconds only */
	struct fh_io_sock *deferred; /* last in, first out; order among sockets means nothing */
	struct fh_io_watch *stopped; /* to be told so */
	char *buf;		     /* [RECV_BYTES] */
	struct epoll_event events[MAX_EVENTS];
};

static struct epoll_loop *loop_of(struct fh_io *io)
{
	return io->priv;
}

static void *ev_tag(void *p, unsigned int kind)
{
	return (void *)((uintptr_t)p | kind);
}

static int epoll_create_loop(struct fh_io *io, const struct fh_io_config *cfg, struct fh_err *err)
{
	struct epoll_event ev = {.events = EPOLLIN, .data.ptr = ev_tag(io, EV_WAKE)};
	struct epoll_loop *e = calloc(1, sizeof(*e));

	(void)cfg;
	if (!e)
		return fh_errf(err, -ENOMEM, "epoll: no memory");
	e->buf = malloc(RECV_BYTES);
	e->fd = epoll_create1(EPOLL_CLOEXEC);
	if (!e->buf || e->fd < 0 || epoll_ctl(e->fd, EPOLL_CTL_ADD, io->wake_fd, &ev)) {
		int rc = e->buf ? -errno : -ENOMEM;

		if (e->fd >= 0)
			close(e->fd);
		free(e->buf);
		free(e);
		return fh_errf(err, rc, "epoll: %s", strerror(-rc));
	}
	io->priv = e;
	return 0;
}

static int epoll_start(struct fh_io *io, struct fh_err *err)
{
	(void)io;
	(void)err;
	return 0;
}

static void epoll_destroy(struct fh_io *io)
{
	struct epoll_loop *e = loop_of(io);

	close(e->fd);
	free(e->buf);
	free(e);
}

static void defer(struct fh_io_sock *s)
{
	struct epoll_loop *e = loop_of(s->io);

	if (s->state & FH_SOCK_DEFERRED)
		return;
	s->state |= FH_SOCK_DEFERRED;
	s->next_deferred = e->deferred;
	e->deferred = s;
}

static int epoll_attach(struct fh_io_sock *s)
{
	struct epoll_event ev = {.events = EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLET, .data.ptr = s};

	return epoll_ctl(loop_of(s->io)->fd, EPOLL_CTL_ADD, s->fd, &ev) ? -errno : 0;
}

static void epoll_recv_update(struct fh_io_sock *s)
{
	if ((s->state & FH_SOCK_WANT_RECV) && (s->state & FH_SOCK_RECV_ARMED))
		defer(s);
}

/* Send what the socket takes. The result is reported from the deferred list. */
static void try_send(struct fh_io_sock *s)
{
	ssize_t n = 0;

	while (s->send_left) {
		n = s->send_msg ? sendmsg(s->fd, s->send_msg, MSG_NOSIGNAL | MSG_DONTWAIT)
				: send(s->fd, s->send_buf, s->send_left, MSG_NOSIGNAL | MSG_DONTWAIT);
		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			break;
		s->nr_sent += (uint64_t)n;
		s->send_left -= (size_t)n;
		if (s->send_msg)
			break;
		s->send_buf += n;
	}
	if (n < 0 && (errno == EAGAIN || errno == EWOULDBLOCK))
		return; /* EPOLLOUT will come */
	s->state |= FH_SOCK_SEND_DONE;
	defer(s);
}

static void epoll_shutdown(struct fh_io_sock *s)
{
	shutdown(s->fd, SHUT_WR);
}

static void epoll_close(struct fh_io_sock *s)
{
	close(s->fd); /* takes it out of the epoll set: nobody else holds the file */
	s->fd = -1;
	defer(s);
}

static int epoll_listen(struct fh_io_listener *l)
{
	(void)l;
	return 0;
}

static void epoll_accept_update(struct fh_io_listener *l)
{
	struct epoll_event ev = {.events = EPOLLIN, .data.ptr = ev_tag(l, EV_LISTENER)};
	struct epoll_loop *e = loop_of(l->io);
	bool want = (l->state & FH_LISTEN_WANT) && !l->retry_ns;

	if (want && !(l->state & FH_LISTEN_ARMED)) {
		if (epoll_ctl(e->fd, EPOLL_CTL_ADD, l->fd, &ev)) {
			fh_io_accept_later(l);
			return;
		}
		l->state |= FH_LISTEN_ARMED;
	} else if (!want && (l->state & FH_LISTEN_ARMED)) {
		epoll_ctl(e->fd, EPOLL_CTL_DEL, l->fd, NULL);
		l->state &= ~FH_LISTEN_ARMED;
	}
}

static void on_acceptable(struct fh_io_listener *l)
{
	for (int i = 0; i < MAX_EVENTS && (l->state & FH_LISTEN_WANT); i++) {
		const struct fh_io_sock_ops *ops = NULL;
		struct fh_io_sock *s;
		int fd = accept4(l->fd, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);

		if (fd < 0) {
			if (errno == EINTR || errno == ECONNABORTED)
				continue;
			if (errno != EAGAIN && errno != EWOULDBLOCK) {
				fh_io_accept_later(l);
				epoll_accept_update(l);
			}
			return;
		}
		s = l->on_accept(l, &ops);
		if (!s) {
			close(fd);
			continue;
		}
		if (fh_io_attach(l->io, s, ops, fd)) {
			/* The set is full: report the socket closed, in a later callback as promised. */
			s->state |= FH_SOCK_CLOSING;
			epoll_close(s);
		}
	}
}

static void recv_turn(struct fh_io_sock *s)
{
	struct epoll_loop *e = loop_of(s->io);

	for (int i = 0; i < RECV_ROUNDS; i++) {
		ssize_t n;

		if (!(s->state & FH_SOCK_WANT_RECV) || !(s->state & FH_SOCK_RECV_ARMED))
			return;
		n = recv(s->fd, e->buf, RECV_BYTES, MSG_DONTWAIT);
		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0 && (errno == EAGAIN || errno == EWOULDBLOCK)) {
			s->state &= ~FH_SOCK_RECV_ARMED;
			return;
		}
		if (n <= 0) {
			n = n < 0 ? -errno : 0;
			s->state |= FH_SOCK_EOF;
			s->state &= ~FH_SOCK_RECV_ARMED;
			s->ops->on_recv(s, NULL, n);
			return;
		}
		s->nr_received += (uint64_t)n;
		s->ops->on_recv(s, e->buf, n);
	}
	defer(s);
}

/* Report a completed send. False: the socket's turn is over. */
static bool report_sent(struct fh_io_sock *s)
{
	int res = s->send_left ? -EPIPE : 0;

	if (!(s->state & FH_SOCK_SEND_DONE))
		return true;
	s->state &= ~(FH_SOCK_SEND_DONE | FH_SOCK_SENDING);
	s->ops->on_sent(s, res);
	return !(s->state & FH_SOCK_CLOSING);
}

static void on_sock_event(struct fh_io_sock *s, uint32_t events)
{
	if ((events & (EPOLLIN | EPOLLRDHUP | EPOLLHUP | EPOLLERR)) && !(s->state & (FH_SOCK_EOF | FH_SOCK_CLOSING)))
		s->state |= FH_SOCK_RECV_ARMED;
	if ((events & (EPOLLOUT | EPOLLHUP | EPOLLERR)) && !(s->state & FH_SOCK_CLOSING) &&
	    (s->state & FH_SOCK_SENDING) && !(s->state & FH_SOCK_SEND_DONE))
		try_send(s);
	/* An answer is not to be heard of before the question has left. */
	if (!(s->state & FH_SOCK_CLOSING) && report_sent(s))
		recv_turn(s);
}

/* One socket off the deferred list. */
static void on_deferred(struct fh_io_sock *s)
{
	s->state &= ~FH_SOCK_DEFERRED;
	if (s->state & FH_SOCK_CLOSING) {
		s->ops->on_closed(s);
		return;
	}
	/* The callback may have put it back on the list, to be closed or to go on there. */
	if (report_sent(s) && !(s->state & FH_SOCK_DEFERRED))
		recv_turn(s);
}

/* Level-triggered: what was left unread is reported again. */
static int epoll_watch(struct fh_io_watch *w)
{
	struct epoll_event ev = {.events = w->events, .data.ptr = ev_tag(w, EV_WATCH)};

	return epoll_ctl(loop_of(w->io)->fd, EPOLL_CTL_ADD, w->fd, &ev) ? -errno : 0;
}

static void epoll_unwatch(struct fh_io_watch *w)
{
	struct epoll_loop *e = loop_of(w->io);

	epoll_ctl(e->fd, EPOLL_CTL_DEL, w->fd, NULL);
	w->next_stopped = e->stopped;
	e->stopped = w;
}

static void on_watch_event(struct fh_io_watch *w, uint32_t events)
{
	if (!(w->state & FH_WATCH_STOPPING))
		w->on_ready(w, events);
}

static int epoll_wait_ns(struct epoll_loop *e, uint64_t timeout_ns)
{
	struct timespec ts = {.tv_sec = (time_t)(timeout_ns / 1000000000u),
			      .tv_nsec = (long)(timeout_ns % 1000000000u)};
	uint64_t ms;
	int n;

	if (!e->no_pwait2) {
		n = epoll_pwait2(e->fd, e->events, MAX_EVENTS, timeout_ns == UINT64_MAX ? NULL : &ts, NULL);
		if (n >= 0 || errno == EINTR)
			return n < 0 ? 0 : n;
		e->no_pwait2 = true; /* before 5.11, or filtered */
	}
	ms = (timeout_ns + 999999) / 1000000;
	n = epoll_wait(e->fd, e->events, MAX_EVENTS, timeout_ns == UINT64_MAX ? -1 : ms > 60000 ? 60000 : (int)ms);
	return n >= 0 ? n : errno == EINTR ? 0 : -errno;
}

static int epoll_wait_turn(struct fh_io *io, uint64_t timeout_ns)
{
	struct epoll_loop *e = loop_of(io);
	struct fh_io_sock *list, *s;
	struct fh_io_watch *stopped, *w;
	int n = epoll_wait_ns(e, e->deferred || e->stopped ? 0 : timeout_ns);
	uint64_t count;

	fh_io_turn(io);
	/* What was deferred before this turn; what it defers belongs to the next. */
	list = e->deferred;
	e->deferred = NULL;
	stopped = e->stopped;
	e->stopped = NULL;
	for (int i = 0; i < n; i++) {
		void *p = (void *)((uintptr_t)e->events[i].data.ptr & ~(uintptr_t)EV_MASK);

		switch ((uintptr_t)e->events[i].data.ptr & EV_MASK) {
		case EV_SOCK: on_sock_event(p, e->events[i].events); break;
		case EV_LISTENER: on_acceptable(p); break;
		case EV_WATCH: on_watch_event(p, e->events[i].events); break;
		default:
			if (read(io->wake_fd, &count, sizeof(count)) < 0)
				break;
		}
	}
	while ((s = list)) {
		list = s->next_deferred;
		on_deferred(s);
	}
	while ((w = stopped)) {
		stopped = w->next_stopped;
		w->on_stopped(w);
	}
	return n < 0 ? n : 0;
}

const struct fh_io_backend fh_io_epoll_backend = {
	.name = "epoll",
	.create = epoll_create_loop,
	.start = epoll_start,
	.destroy = epoll_destroy,
	.attach = epoll_attach,
	.recv_update = epoll_recv_update,
	.send = try_send,
	.shutdown = epoll_shutdown,
	.close = epoll_close,
	.listen = epoll_listen,
	.accept_update = epoll_accept_update,
	.watch = epoll_watch,
	.unwatch = epoll_unwatch,
	.wait = epoll_wait_turn,
};
