// SPDX-License-Identifier: Apache-2.0
/*
 * A kernel socket on io_uring: the server's carrier, and a client's.
 *
 * One multishot receive out of a ring of provided buffers, whose payloads the
 * protocol decrypts where they lie and may keep; each send is an entry of its own
 * whose message header waits beside its buffer.  One io_uring_enter() submits the
 * sends of a turn and waits.
 *
 * The ring is restricted to the three operations that this needs, as the event
 * loop's is (runtime/base/io_uring.c), and enabled by the thread that uses it.
 *
 * A client's socket is connected.  Threads may use it in turn, so its ring takes
 * the flags that know but one thread not; and somebody may watch the ring's
 * descriptor, so sends that are done are taken out of it as they leave.
 *
 * Kernels: multishot recvmsg needs 6.0; without it, or where io_uring is refused,
 * fh_dgram_uring_open() fails and the caller takes dgram_sock.c.
 */
#include <poll.h>
#include <stdlib.h>
#include <time.h>

#include "runtime/base/io_ring.h"
#include "runtime/net/dgram_sock.h"

#define BUF_GROUP 1
#define RING_ENTRIES 512u
#define CLIENT_ENTRIES 128u

enum { OP_RECV = 1, OP_WAKE, OP_SEND, OP_MASK = 3 };

#define container_of(ptr, type, member) ((type *)((char *)(ptr)-offsetof(type, member)))

/* What the kernel writes before each payload, which is to lie at FH_DGRAM_SKEW while this lies aligned. */
#define NAME_BYTES (sizeof(struct sockaddr_in6) + FH_DGRAM_SKEW)
#define OUT_BYTES (sizeof(struct io_uring_recvmsg_out) + NAME_BYTES)

/* A send in the kernel, one a buffer. */
struct tx {
	struct msghdr msg;
	struct iovec iov[2];
	struct sockaddr_in6 to;
	struct fh_dgram_tail *tail;
	bool out;
};

struct uport {
	struct fh_dgram_sock s;
	struct io_uring ring;
	struct fh_io_bufs bufs;
	struct tx *tx; /* [nr_recv + nr_send] */
	struct msghdr recv_msg;
	bool open, enabled, armed;
};

static struct uport *uport_of(struct fh_dgram_port *p)
{
	return container_of(container_of(p, struct fh_dgram_sock, port), struct uport, s);
}

/* ---- the ring ---- */

static struct io_uring_sqe *get_sqe(struct uport *u)
{
	return fh_io_ring_sqe(&u->ring);
}

static void put_recv(struct uport *u, struct fh_dgram_buf *b)
{
	fh_io_bufs_put(&u->bufs, b->data - OUT_BYTES, (uint32_t)OUT_BYTES + u->s.mtu, b->index);
}

static int map_ring_buffers(struct uport *u)
{
	int rc = fh_io_bufs_map(&u->bufs, &u->ring, u->s.nr_recv, BUF_GROUP);

	for (uint32_t i = 0; !rc && i < u->s.nr_recv; i++)
		put_recv(u, &u->s.bufs[i]);
	fh_io_bufs_show(&u->bufs);
	return rc;
}

static void arm(struct uport *u)
{
	struct io_uring_sqe *sqe = get_sqe(u);

	fh_io_bufs_show(&u->bufs);
	u->recv_msg = (struct msghdr){.msg_namelen = NAME_BYTES};
	io_uring_prep_recvmsg_multishot(sqe, u->s.fd, &u->recv_msg, 0);
	sqe->flags |= IOSQE_BUFFER_SELECT;
	sqe->buf_group = BUF_GROUP;
	io_uring_sqe_set_data64(sqe, OP_RECV);
	u->armed = true;
}

static void arm_wake(struct uport *u)
{
	struct io_uring_sqe *sqe = get_sqe(u);

	/* Edge-triggered: each write to the eventfd completes it once more, and nobody need read the counter. */
	io_uring_prep_poll_multishot(sqe, u->s.wake_fd, POLLIN);
	io_uring_sqe_set_data64(sqe, OP_WAKE);
}

/* By the thread that uses the ring. */
static int enable(struct uport *u)
{
	int rc;

	if (u->enabled)
		return 0;
	rc = io_uring_enable_rings(&u->ring);
	if (rc)
		return rc;
	u->enabled = true;
	/* That is a thread's own. */
	if (u->s.server)
		io_uring_register_ring_fd(&u->ring);
	arm_wake(u);
	arm(u);
	rc = io_uring_submit(&u->ring);
	return rc < 0 ? rc : 0;
}

/* ---- completions ---- */

static void send_done(struct uport *u, const struct io_uring_cqe *cqe)
{
	uint32_t index = (uint32_t)(cqe->user_data >> 2);
	struct tx *t = &u->tx[index];
	struct fh_dgram_tail *tail = t->tail;

	fh_dgram_add(&u->s.nr_failed, cqe->res < 0);
	u->s.unreachable |= cqe->res == -ECONNREFUSED && !u->s.server;
	t->out = false;
	t->tail = NULL;
	if (u->s.bufs[index].is_send)
		fh_dgram_put_buf(&u->s, &u->s.bufs[index]);
	else
		put_recv(u, &u->s.bufs[index]);
	if (tail)
		tail->done(tail);
}

/* True: @d was filled in. */
static bool recv_done(struct uport *u, const struct io_uring_cqe *cqe, struct fh_dgram *d, int *broken)
{
	struct io_uring_recvmsg_out *out;
	struct fh_dgram_buf *b;

	if (!(cqe->flags & IORING_CQE_F_MORE))
		u->armed = false;
	if (!(cqe->flags & IORING_CQE_F_BUFFER)) {
		/* For want of a buffer or memory the kernel stops; its socket keeps what it has room for. */
		enum fh_dgram_fault fault = cqe->res < 0 ? fh_dgram_fault(-cqe->res) : FH_DGRAM_PASSING;

		if (fault == FH_DGRAM_BROKEN)
			*broken = cqe->res;
		u->s.unreachable |= fault == FH_DGRAM_NOBODY && !u->s.server;
		return false;
	}
	b = &u->s.bufs[cqe->flags >> IORING_CQE_BUFFER_SHIFT];
	out = io_uring_recvmsg_validate(b->data - OUT_BYTES, cqe->res, &u->recv_msg);
	if (!out || out->flags & MSG_TRUNC || io_uring_recvmsg_payload_length(out, cqe->res, &u->recv_msg) > u->s.mtu) {
		fh_dgram_add(&u->s.nr_bad, 1);
		put_recv(u, b);
		return false;
	}
	*d = (struct fh_dgram){.data = b->data,
			       .bytes = io_uring_recvmsg_payload_length(out, cqe->res, &u->recv_msg),
			       .room = u->s.mtu,
			       .handle = b};
	if (u->s.server)
		fh_dgram_from_sockaddr(io_uring_recvmsg_name(out), &d->peer);
	else
		d->peer = u->s.peer;
	fh_dgram_add(&u->s.recv_bytes, d->bytes);
	return true;
}

/* Has the kernel something that it shows only to who asks: what came, with DEFER_TASKRUN? */
static bool holds_back(const struct uport *u)
{
	return IO_URING_READ_ONCE(*u->ring.sq.kflags) & (IORING_SQ_TASKRUN | IORING_SQ_CQ_OVERFLOW);
}

static int uring_recv(struct fh_dgram_port *p, struct fh_dgram *d, uint32_t max)
{
	struct uport *u = uport_of(p);
	struct io_uring_cqe *cqe;
	unsigned int head, seen = 0;
	uint32_t nr = 0;
	int broken = enable(u);

	/* Who never waits, because there is always something to do, comes by what was sent to him here. */
	if (!broken && !io_uring_cq_ready(&u->ring) && (io_uring_sq_ready(&u->ring) || holds_back(u)))
		io_uring_submit_and_get_events(&u->ring);
	io_uring_for_each_cqe(&u->ring, head, cqe)
	{
		if (nr == max || broken)
			break;
		seen++;
		switch (cqe->user_data & OP_MASK) {
		case OP_RECV: nr += recv_done(u, cqe, &d[nr], &broken); break;
		case OP_SEND: send_done(u, cqe); break;
		default:
			if (!(cqe->flags & IORING_CQE_F_MORE))
				arm_wake(u);
		}
	}
	io_uring_cq_advance(&u->ring, seen);
	fh_io_bufs_show(&u->bufs);
	if (!u->armed && !broken)
		arm(u);
	/* Who watches the descriptor may not wait() for long, and nothing would come. */
	if (!u->s.server && io_uring_sq_ready(&u->ring))
		io_uring_submit(&u->ring);
	fh_dgram_add(&u->s.nr_recv_, nr);
	if (u->s.unreachable && nr < max) {
		u->s.unreachable = false;
		d[nr++] = (struct fh_dgram){.flags = FH_DGRAM_UNREACHABLE, .peer = u->s.peer};
	}
	fh_dgram_add(&u->s.nr_empty, !nr);
	return broken ? broken : (int)nr;
}

static void uring_release(struct fh_dgram_port *p, struct fh_dgram *d, uint32_t nr)
{
	struct uport *u = uport_of(p);

	for (uint32_t i = 0; i < nr; i++) {
		struct fh_dgram_buf *b = d[i].handle;

		if (!b)
			continue;
		if (b->is_send)
			fh_dgram_put_buf(&u->s, b);
		else
			put_recv(u, b);
	}
	fh_io_bufs_show(&u->bufs);
}

/* ---- sending ---- */

static uint32_t uring_send(struct fh_dgram_port *p, struct fh_dgram *d, uint32_t nr)
{
	struct uport *u = uport_of(p);

	if (enable(u))
		return 0;
	for (uint32_t i = 0; i < nr; i++) {
		struct fh_dgram_buf *b = d[i].handle;
		struct tx *t = &u->tx[b->index];
		struct io_uring_sqe *sqe = get_sqe(u);

		*t = (struct tx){.iov = {{d[i].data, d[i].bytes}}, .tail = d[i].tail, .out = true};
		if (t->tail)
			t->iov[1] = (struct iovec){t->tail->base, t->tail->bytes};
		t->msg = (struct msghdr){.msg_iov = t->iov, .msg_iovlen = t->tail ? 2 : 1};
		if (u->s.server) {
			t->msg.msg_name = &t->to;
			t->msg.msg_namelen = fh_dgram_sockaddr(&u->s, &d[i].peer, &t->to);
		}
		io_uring_prep_sendmsg(sqe, u->s.fd, &t->msg, MSG_NOSIGNAL | MSG_DONTWAIT);
		io_uring_sqe_set_data64(sqe, (uint64_t)b->index << 2 | OP_SEND);
		fh_dgram_add(&u->s.sent_bytes, d[i].bytes + (t->tail ? t->tail->bytes : 0));
	}
	fh_dgram_add(&u->s.nr_sent, nr);
	return nr;
}

/* Sends that are done at the head of the queue: nobody need be woken for them. */
static void take_sends(struct uport *u)
{
	struct io_uring_cqe *cqe;
	unsigned int head, seen = 0;

	io_uring_for_each_cqe(&u->ring, head, cqe)
	{
		if ((cqe->user_data & OP_MASK) != OP_SEND)
			break;
		seen++;
		send_done(u, cqe);
	}
	io_uring_cq_advance(&u->ring, seen);
	fh_io_bufs_show(&u->bufs);
}

static void uring_flush(struct fh_dgram_port *p)
{
	struct uport *u = uport_of(p);

	io_uring_submit(&u->ring);
	if (!u->s.server)
		take_sends(u);
}

static int uring_wait(struct fh_dgram_port *p, uint64_t timeout_us)
{
	struct uport *u = uport_of(p);
	struct __kernel_timespec ts = {.tv_sec = (long long)(timeout_us / 1000000),
				       .tv_nsec = (long long)(timeout_us % 1000000) * 1000};
	struct io_uring_cqe *cqe;
	int rc = enable(u);

	if (rc || u->s.unreachable)
		return rc;
	fh_dgram_add(&u->s.nr_waits, timeout_us != 0);
	if (!timeout_us)
		rc = io_uring_submit_and_get_events(&u->ring);
	else
		rc = io_uring_submit_and_wait_timeout(&u->ring, &cqe, 1, timeout_us == UINT64_MAX ? NULL : &ts, NULL);
	return rc >= 0 || rc == -ETIME || rc == -EBUSY || rc == -EAGAIN ? 0 : rc;
}

/* ---- the rest ---- */

/* A server has no loop but its own. */
static int uring_fd(struct fh_dgram_port *p)
{
	struct uport *u = uport_of(p);

	if (u->s.server)
		return -EOPNOTSUPP;
	return enable(u) ? -EOPNOTSUPP : u->ring.ring_fd;
}

static void uring_close(struct fh_dgram_port *p)
{
	struct uport *u = uport_of(p);

	/* The ring first: it may still be writing into the buffers. */
	if (u->open)
		io_uring_queue_exit(&u->ring);
	for (uint32_t i = 0; u->tx && i < u->s.nr_recv + u->s.nr_send; i++)
		if (u->tx[i].out && u->tx[i].tail)
			u->tx[i].tail->done(u->tx[i].tail);
	fh_io_bufs_unmap(&u->bufs);
	free(u->tx);
	fh_dgram_sock_fini(&u->s);
	free(u);
}

static const struct fh_dgram_ops ops = {
	.name = "io_uring",
	.recv = uring_recv,
	.release = uring_release,
	.alloc = fh_dgram_sock_alloc,
	.send = uring_send,
	.flush = uring_flush,
	.wait = uring_wait,
	.wake = fh_dgram_sock_wake,
	.fd = uring_fd,
	.mtu = fh_dgram_sock_mtu,
	.mem_add = fh_dgram_sock_mem_add,
	.max_held = fh_dgram_sock_max_held,
	.local = fh_dgram_sock_local,
	.stats = fh_dgram_sock_stats,
	.close = uring_close,
};

int fh_dgram_uring_open(const struct fh_dgram_open *o, struct fh_dgram_port **out, struct fh_err *err)
{
	static const uint8_t ring_ops[] = {IORING_OP_RECVMSG, IORING_OP_SENDMSG, IORING_OP_POLL_ADD};
	struct uport *u = calloc(1, sizeof(*u));
	int rc;

	if (!u)
		return fh_errf(err, -ENOMEM, "udp: out of memory");
	u->s.port.ops = &ops;
	rc = fh_dgram_sock_init(&u->s, o, OUT_BYTES, err);
	if (rc) {
		free(u);
		return rc;
	}
	/* The kernel's ring hands the receive buffers out. */
	u->s.free_recv = NULL;
	u->tx = calloc(u->s.nr_recv + u->s.nr_send, sizeof(*u->tx));
	/* Multishot recvmsg came with SINGLE_ISSUER. */
	if (!u->tx)
		rc = -ENOMEM;
	else if (o->server)
		rc = fh_io_ring_open(&u->ring, RING_ENTRIES, 2 * (u->s.nr_recv + u->s.nr_send + RING_ENTRIES), true);
	else
		rc = fh_io_ring_open_shared(&u->ring, CLIENT_ENTRIES,
					    2 * (u->s.nr_recv + u->s.nr_send + CLIENT_ENTRIES));
	u->open = !rc;
	if (!rc)
		rc = map_ring_buffers(u);
	if (rc) {
		uring_close(&u->s.port);
		return fh_errf(err, rc, "io_uring: %s", strerror(-rc));
	}
	fh_io_ring_restrict(&u->ring, ring_ops, sizeof(ring_ops), IOSQE_BUFFER_SELECT);
	*out = &u->s.port;
	return 0;
}
