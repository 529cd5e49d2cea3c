// SPDX-License-Identifier: Apache-2.0
/*
 * The event loop on io_uring.
 *
 * One ring.  Connections are direct descriptors: multishot accept puts each
 * into the ring's own file table, so they cost no descriptor and no reference
 * counting a system call.  Receives are multishot out of one provided buffer
 * ring; a buffer goes back as soon as its callback has returned.  One
 * io_uring_enter() a turn submits everything and waits.
 *
 * The ring is born disabled and restricted to the operations that a server
 * needs, so that whoever takes over the process cannot use it to connect or
 * to open a file, whatever a system call filter overlooks.
 *
 * What the kernel may lack is found out one by one: DEFER_TASKRUN (6.1),
 * SINGLE_ISSUER and multishot receive (6.0), provided rings (5.19).  Without
 * provided rings or direct accept, create() fails and the loop runs on epoll.
 *
 * user_data is the address of a socket, listener or watch with one of the OP_*
 * in its low bits, which alignment leaves free.
 */
#include <fcntl.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "runtime/base/io_priv.h"
#include "runtime/base/io_ring.h"

enum { OP_NONE, OP_RECV, OP_SEND, OP_SHUTDOWN, OP_CLOSE, OP_ACCEPT, OP_WAKE, OP_WATCH, OP_MASK = 7 };

#define RING_ENTRIES 1024u
#define BUF_GROUP 1

struct uring {
	struct io_uring ring;
	struct fh_io_bufs bufs;
	char *mem; /* [nr_recv][recv_bytes] */
	size_t mem_bytes;
	uint32_t recv_bytes, nr_recv;
	bool single_recv; /* this kernel knows no multishot receive */
};

static struct uring *uring_of(struct fh_io *io)
{
	return io->priv;
}

static uint64_t tagged(const void *p, unsigned int op)
{
	return (uint64_t)(uintptr_t)p | op;
}

static struct io_uring_sqe *get_sqe(struct uring *u)
{
	return fh_io_ring_sqe(&u->ring);
}

static void put_buffer(struct uring *u, uint32_t id)
{
	fh_io_bufs_put(&u->bufs, u->mem + (size_t)id * u->recv_bytes, u->recv_bytes, id);
}

static int map_buffers(struct uring *u)
{
	void *mem;
	int rc;

	u->mem_bytes = (size_t)u->nr_recv * u->recv_bytes;
	mem = mmap(NULL, u->mem_bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (mem == MAP_FAILED)
		return -ENOMEM;
	u->mem = mem;
	rc = fh_io_bufs_map(&u->bufs, &u->ring, u->nr_recv, BUF_GROUP);
	for (uint32_t i = 0; !rc && i < u->nr_recv; i++)
		put_buffer(u, i);
	fh_io_bufs_show(&u->bufs);
	return rc;
}

static void uring_destroy(struct fh_io *io)
{
	struct uring *u = uring_of(io);

	/* The ring first: it may still be writing into the buffers. */
	io_uring_queue_exit(&u->ring);
	fh_io_bufs_unmap(&u->bufs);
	if (u->mem)
		munmap(u->mem, u->mem_bytes);
	free(u);
}

static int uring_create(struct fh_io *io, const struct fh_io_config *cfg, struct fh_err *err)
{
	/* What this file submits. */
	static const uint8_t ops[] = {IORING_OP_ACCEPT, IORING_OP_RECV,	    IORING_OP_SEND,	IORING_OP_SENDMSG,
				      IORING_OP_CLOSE,	IORING_OP_POLL_ADD, IORING_OP_SHUTDOWN, IORING_OP_ASYNC_CANCEL};
	struct uring *u = calloc(1, sizeof(*u));
	int rc;

	if (!u)
		return fh_errf(err, -ENOMEM, "io_uring: no memory");
	u->recv_bytes = cfg->recv_bytes;
	u->nr_recv = cfg->nr_recv;
	rc = fh_io_ring_open(&u->ring, RING_ENTRIES,
			     2 * (cfg->max_socks > RING_ENTRIES ? cfg->max_socks : RING_ENTRIES), false);
	if (rc) {
		free(u);
		return fh_errf(err, rc, "io_uring: %s", strerror(-rc));
	}
	io->priv = u;
	rc = map_buffers(u);
	if (rc) {
		fh_errf(err, rc, "io_uring: provided buffers: %s", strerror(-rc));
		goto err_destroy;
	}
	rc = io_uring_register_files_sparse(&u->ring, cfg->max_socks);
	if (rc) {
		fh_errf(err, rc, "io_uring: a table of %u files: %s", cfg->max_socks, strerror(-rc));
		goto err_destroy;
	}
	fh_io_ring_restrict(&u->ring, ops, sizeof(ops),
			    IOSQE_FIXED_FILE | IOSQE_BUFFER_SELECT | IOSQE_CQE_SKIP_SUCCESS);
	return 0;

err_destroy:
	uring_destroy(io);
	return rc;
}

static void arm_wake(struct fh_io *io)
{
	struct io_uring_sqe *sqe = get_sqe(uring_of(io));

	/* Edge-triggered: each write to the eventfd completes it once more, and nobody need read the counter. */
	io_uring_prep_poll_multishot(sqe, io->wake_fd, POLLIN);
	io_uring_sqe_set_data64(sqe, tagged(io, OP_WAKE));
}

static int uring_start(struct fh_io *io, struct fh_err *err)
{
	struct uring *u = uring_of(io);
	int rc = io_uring_enable_rings(&u->ring);

	if (rc)
		return fh_errf(err, rc, "io_uring: cannot enable the ring: %s", strerror(-rc));
	/* Saves a look-up of the ring's descriptor a call; not everywhere to be had. */
	io_uring_register_ring_fd(&u->ring);
	arm_wake(io);
	return 0;
}

static void sock_flags(struct io_uring_sqe *sqe, const struct fh_io_sock *s)
{
	if (s->state & FH_SOCK_FIXED)
		sqe->flags |= IOSQE_FIXED_FILE;
}

static void arm_recv(struct fh_io_sock *s)
{
	struct uring *u = uring_of(s->io);
	struct io_uring_sqe *sqe = get_sqe(u);

	io_uring_prep_recv(sqe, s->fd, NULL, 0, 0);
	if (!u->single_recv)
		sqe->ioprio |= IORING_RECV_MULTISHOT;
	sqe->flags |= IOSQE_BUFFER_SELECT;
	sqe->buf_group = BUF_GROUP;
	sock_flags(sqe, s);
	io_uring_sqe_set_data64(sqe, tagged(s, OP_RECV));
	s->state |= FH_SOCK_RECV_ARMED;
}

static void cancel(struct uring *u, uint64_t user_data)
{
	struct io_uring_sqe *sqe = get_sqe(u);

	io_uring_prep_cancel64(sqe, user_data, 0);
	sqe->flags |= IOSQE_CQE_SKIP_SUCCESS;
	io_uring_sqe_set_data64(sqe, OP_NONE);
}

static void uring_recv_update(struct fh_io_sock *s)
{
	bool want = s->state & FH_SOCK_WANT_RECV, armed = s->state & FH_SOCK_RECV_ARMED;

	if (want && !armed && !(s->state & FH_SOCK_EOF)) {
		arm_recv(s);
	} else if (!want && armed && !(s->state & FH_SOCK_RECV_CANCEL)) {
		s->state |= FH_SOCK_RECV_CANCEL;
		cancel(uring_of(s->io), tagged(s, OP_RECV));
	}
}

static void uring_send(struct fh_io_sock *s)
{
	struct io_uring_sqe *sqe = get_sqe(uring_of(s->io));
	size_t n = s->send_left < INT32_MAX ? s->send_left : INT32_MAX;

	if (s->send_msg)
		io_uring_prep_sendmsg(sqe, s->fd, s->send_msg, MSG_NOSIGNAL);
	else
		io_uring_prep_send(sqe, s->fd, s->send_buf, n, MSG_NOSIGNAL);
	sock_flags(sqe, s);
	io_uring_sqe_set_data64(sqe, tagged(s, OP_SEND));
}

/*
 * The kernel runs it on a worker thread, which looks the file up only then: a
 * close must wait for it, or it would hit whoever got the slot next.
 */
static void uring_shutdown(struct fh_io_sock *s)
{
	struct io_uring_sqe *sqe;

	if (s->state & FH_SOCK_SHUTTING)
		return;
	sqe = get_sqe(uring_of(s->io));
	io_uring_prep_shutdown(sqe, s->fd, SHUT_WR);
	sock_flags(sqe, s);
	io_uring_sqe_set_data64(sqe, tagged(s, OP_SHUTDOWN));
	s->state |= FH_SOCK_SHUTTING;
}

/* Close once nothing of the socket is in the kernel any more. */
static void try_close(struct fh_io_sock *s)
{
	struct io_uring_sqe *sqe;

	if (s->state & (FH_SOCK_RECV_ARMED | FH_SOCK_SENDING | FH_SOCK_SHUTTING | FH_SOCK_CLOSE_SENT))
		return;
	s->state |= FH_SOCK_CLOSE_SENT;
	sqe = get_sqe(uring_of(s->io));
	if (s->state & FH_SOCK_FIXED)
		io_uring_prep_close_direct(sqe, (unsigned int)s->fd);
	else
		io_uring_prep_close(sqe, s->fd);
	io_uring_sqe_set_data64(sqe, tagged(s, OP_CLOSE));
}

static void uring_close(struct fh_io_sock *s)
{
	struct uring *u = uring_of(s->io);

	if ((s->state & FH_SOCK_RECV_ARMED) && !(s->state & FH_SOCK_RECV_CANCEL)) {
		s->state |= FH_SOCK_RECV_CANCEL;
		cancel(u, tagged(s, OP_RECV));
	}
	if (s->state & FH_SOCK_SENDING)
		cancel(u, tagged(s, OP_SEND));
	try_close(s);
}

/* The kernel waits for us; on O_NONBLOCK some versions report -EAGAIN instead. */
static int make_blocking(int fd)
{
	int flags = fcntl(fd, F_GETFL);

	if (flags < 0)
		return -errno;
	return (flags & O_NONBLOCK) && fcntl(fd, F_SETFL, flags & ~O_NONBLOCK) ? -errno : 0;
}

static int uring_attach(struct fh_io_sock *s)
{
	return make_blocking(s->fd);
}

static int uring_listen(struct fh_io_listener *l)
{
	return make_blocking(l->fd);
}

static void uring_accept_update(struct fh_io_listener *l)
{
	struct uring *u = uring_of(l->io);
	bool want = (l->state & FH_LISTEN_WANT) && !l->retry_ns;

	if (want && !(l->state & FH_LISTEN_ARMED)) {
		struct io_uring_sqe *sqe = get_sqe(u);

		if (l->with_fds)
			io_uring_prep_multishot_accept(sqe, l->fd, NULL, NULL, SOCK_CLOEXEC);
		else
			io_uring_prep_multishot_accept_direct(sqe, l->fd, NULL, NULL, 0);
		io_uring_sqe_set_data64(sqe, tagged(l, OP_ACCEPT));
		l->state |= FH_LISTEN_ARMED;
	} else if (!want && (l->state & FH_LISTEN_ARMED) && !(l->state & FH_LISTEN_CANCEL)) {
		l->state |= FH_LISTEN_CANCEL;
		cancel(u, tagged(l, OP_ACCEPT));
	}
}

/* One poll at a time, armed again after the callback: so what is left unread is reported again. */
static void arm_watch(struct fh_io_watch *w)
{
	struct io_uring_sqe *sqe = get_sqe(uring_of(w->io));

	io_uring_prep_poll_add(sqe, w->fd, w->events);
	io_uring_sqe_set_data64(sqe, tagged(w, OP_WATCH));
	w->state |= FH_WATCH_ARMED;
}

static int uring_watch(struct fh_io_watch *w)
{
	arm_watch(w);
	return 0;
}

static void uring_unwatch(struct fh_io_watch *w)
{
	/* Not armed: it is in its own callback, after which it is stopped. */
	if (w->state & FH_WATCH_ARMED)
		cancel(uring_of(w->io), tagged(w, OP_WATCH));
}

/* Completions */

static void on_watch(struct fh_io_watch *w, int res)
{
	w->state &= ~FH_WATCH_ARMED;
	if (!(w->state & FH_WATCH_STOPPING))
		w->on_ready(w, res < 0 ? POLLERR : (uint32_t)res);
	if (w->state & FH_WATCH_STOPPING)
		w->on_stopped(w);
	else
		arm_watch(w);
}

static void hang_up(struct uring *u, int fd, bool fixed)
{
	struct io_uring_sqe *sqe = get_sqe(u);

	if (fixed)
		io_uring_prep_close_direct(sqe, (unsigned int)fd);
	else
		io_uring_prep_close(sqe, fd);
	sqe->flags |= IOSQE_CQE_SKIP_SUCCESS;
	io_uring_sqe_set_data64(sqe, OP_NONE);
}

static void on_accept(struct fh_io_listener *l, int res, unsigned int flags)
{
	const struct fh_io_sock_ops *ops = NULL;
	struct fh_io_sock *s;

	if (!(flags & IORING_CQE_F_MORE))
		l->state &= ~(FH_LISTEN_ARMED | FH_LISTEN_CANCEL);
	if (res >= 0) {
		s = l->on_accept(l, &ops);
		if (s)
			*s = (struct fh_io_sock){
				.ops = ops, .io = l->io, .fd = res, .state = l->with_fds ? 0 : FH_SOCK_FIXED};
		else
			hang_up(uring_of(l->io), res, !l->with_fds);
	} else if (res != -ECANCELED && res != -ECONNABORTED && res != -EINTR) {
		fh_io_accept_later(l);
	}
	if (!(l->state & FH_LISTEN_ARMED))
		uring_accept_update(l);
}

static void recv_failed(struct fh_io_sock *s, int res)
{
	struct uring *u = uring_of(s->io);

	switch (res) {
	case -ENOBUFS: /* this turn's buffers will be back before the new receive is submitted */
	case -ECANCELED:
	case -EINTR:
	case -EAGAIN: return;
	case -EINVAL:
		if (!u->single_recv) {
			u->single_recv = true;
			return;
		}
		break;
	default: break;
	}
	s->state |= FH_SOCK_EOF;
	if (s->state & FH_SOCK_WANT_RECV)
		s->ops->on_recv(s, NULL, res);
}

static void on_recv(struct fh_io_sock *s, int res, unsigned int flags)
{
	struct uring *u = uring_of(s->io);

	if (!(flags & IORING_CQE_F_MORE))
		s->state &= ~(FH_SOCK_RECV_ARMED | FH_SOCK_RECV_CANCEL);
	if (res > 0) {
		uint32_t id = flags >> IORING_CQE_BUFFER_SHIFT;

		s->nr_received += (uint32_t)res;
		if (!(s->state & FH_SOCK_CLOSING))
			s->ops->on_recv(s, u->mem + (size_t)id * u->recv_bytes, res);
		put_buffer(u, id);
	} else if (s->state & FH_SOCK_CLOSING) {
		;
	} else if (res == 0) {
		s->state |= FH_SOCK_EOF;
		s->ops->on_recv(s, NULL, 0);
	} else {
		recv_failed(s, res);
	}
	if (s->state & FH_SOCK_CLOSING)
		try_close(s);
	else if (!(s->state & FH_SOCK_RECV_ARMED))
		uring_recv_update(s);
}

static void on_send(struct fh_io_sock *s, int res)
{
	if (res > 0) {
		s->nr_sent += (uint32_t)res;
		s->send_left -= (size_t)res;
		if (!s->send_msg)
			s->send_buf += res;
		else if (s->send_left)
			res = -EMSGSIZE;
	}
	if (s->state & FH_SOCK_CLOSING) {
		s->state &= ~FH_SOCK_SENDING;
		try_close(s);
		return;
	}
	if ((res >= 0 && s->send_left) || res == -EINTR || res == -EAGAIN) {
		uring_send(s);
		return;
	}
	s->state &= ~FH_SOCK_SENDING;
	s->ops->on_sent(s, res < 0 ? res : 0);
}

static void on_shutdown(struct fh_io_sock *s)
{
	s->state &= ~FH_SOCK_SHUTTING;
	if (s->state & FH_SOCK_CLOSING)
		try_close(s);
}

static void on_cqe(struct fh_io *io, uint64_t data, int res, unsigned int flags)
{
	void *p = (void *)(uintptr_t)(data & ~(uint64_t)OP_MASK);

	switch (data & OP_MASK) {
	case OP_ACCEPT: on_accept(p, res, flags); break;
	case OP_RECV: on_recv(p, res, flags); break;
	case OP_SEND: on_send(p, res); break;
	case OP_SHUTDOWN: on_shutdown(p); break;
	case OP_WATCH: on_watch(p, res); break;
	case OP_CLOSE: ((struct fh_io_sock *)p)->ops->on_closed(p); break;
	case OP_WAKE:
		if (!(flags & IORING_CQE_F_MORE))
			arm_wake(io);
		break;
	default: break; /* a cancellation that came too late */
	}
}

static int submit_and_wait(struct uring *u, uint64_t timeout_ns)
{
	struct __kernel_timespec ts;
	struct io_uring_cqe *cqe;
	int rc;

	if (!timeout_ns) {
		/* With DEFER_TASKRUN completions appear only when asked for. */
		rc = io_uring_submit_and_get_events(&u->ring);
	} else if (timeout_ns == UINT64_MAX) {
		rc = io_uring_submit_and_wait(&u->ring, 1);
	} else {
		ts.tv_sec = (long long)(timeout_ns / 1000000000u);
		ts.tv_nsec = (long long)(timeout_ns % 1000000000u);
		rc = io_uring_submit_and_wait_timeout(&u->ring, &cqe, 1, &ts, NULL);
	}
	return rc >= 0 || rc == -ETIME || rc == -EINTR || rc == -EBUSY || rc == -EAGAIN ? 0 : rc;
}

static void uring_flush(struct fh_io *io)
{
	/* What it refuses now stays queued for the next turn. */
	io_uring_submit(&uring_of(io)->ring);
}

static int uring_wait(struct fh_io *io, uint64_t timeout_ns)
{
	struct uring *u = uring_of(io);
	struct io_uring_cqe *cqe;
	unsigned int n;
	int rc;

	fh_io_bufs_show(&u->bufs);
	rc = submit_and_wait(u, timeout_ns);
	fh_io_turn(io);
	/*
	 * Only what is there now: callbacks queue more, which belongs to the
	 * next turn.  Each entry is copied and given back before its callback,
	 * which may have to push out a full submission queue.
	 */
	for (n = io_uring_cq_ready(&u->ring); n; n--) {
		uint64_t data;
		unsigned int flags;
		int res;

		if (io_uring_peek_cqe(&u->ring, &cqe))
			break;
		data = cqe->user_data;
		res = cqe->res;
		flags = cqe->flags;
		io_uring_cq_advance(&u->ring, 1);
		on_cqe(io, data, res, flags);
	}
	fh_io_bufs_show(&u->bufs);
	return rc;
}

const struct fh_io_backend fh_io_uring_backend = {
	.name = "io_uring",
	.create = uring_create,
	.start = uring_start,
	.destroy = uring_destroy,
	.attach = uring_attach,
	.recv_update = uring_recv_update,
	.send = uring_send,
	.shutdown = uring_shutdown,
	.close = uring_close,
	.listen = uring_listen,
	.accept_update = uring_accept_update,
	.flush = uring_flush,
	.watch = uring_watch,
	.unwatch = uring_unwatch,
	.wait = uring_wait,
};
