// SPDX-License-Identifier: Apache-2.0
/*
 * A kernel socket on io_uring: the server's carrier.
 *
 * One multishot receive out of a ring of provided buffers, whose payloads the
 * protocol decrypts where they lie and may keep; each send is an entry of its own
 * whose message header waits beside its buffer.  One io_uring_enter() submits the
 * sends of a turn and waits.
 *
 * The ring is restricted to the four operations that this needs, as the event
 * loop's is (runtime/base/io_uring.c), and enabled by the thread that uses it.
 *
 * Kernels: multishot recvmsg needs 6.0; without it, or where io_uring is refused,
 * fh_dgram_uring_open() fails and the caller takes dgram_sock.c.
 */
#include <liburing.h>
#include <poll.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <time.h>

#include "runtime/net/dgram_sock.h"

#define BUF_GROUP 1
#define RING_ENTRIES 512u

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
	struct io_uring_buf_ring *bufs;
	size_t bufs_bytes;
	struct tx *tx; /* [nr_recv + nr_send] */
	struct msghdr recv_msg;
	uint32_t nr_returned; /* buffers put back but not shown to the kernel yet */
	bool open, enabled, armed, single;
};

static struct uport *uport_of(struct fh_dgram_port *p)
{
	return container_of(container_of(p, struct fh_dgram_sock, port), struct uport, s);
}

/* ---- the ring ---- */

static struct io_uring_sqe *get_sqe(struct uport *u)
{
	struct io_uring_sqe *sqe = io_uring_get_sqe(&u->ring);

	while (!sqe) {
		if (io_uring_submit(&u->ring) < 0)
			io_uring_get_events(&u->ring);
		sqe = io_uring_get_sqe(&u->ring);
	}
	return sqe;
}

static int open_ring(struct uport *u)
{
	static const unsigned int ladder[] = {
		IORING_SETUP_R_DISABLED | IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_DEFER_TASKRUN,
		IORING_SETUP_R_DISABLED | IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_COOP_TASKRUN,
	};
	int rc = -EINVAL;

	for (size_t i = 0; i < sizeof(ladder) / sizeof(ladder[0]) && rc == -EINVAL; i++) {
		struct io_uring_params p = {
			.flags = ladder[i] | IORING_SETUP_CQSIZE | IORING_SETUP_CLAMP | IORING_SETUP_SUBMIT_ALL,
			.cq_entries = 2 * (u->s.nr_recv + u->s.nr_send) + 2 * RING_ENTRIES,
		};

		rc = io_uring_queue_init_params(RING_ENTRIES, &u->ring, &p);
	}
	u->open = !rc;
	return rc;
}

/* An old kernel's refusal costs a line of defence, not the service. */
static void restrict_ring(struct uport *u)
{
	static const uint8_t ops[] = {IORING_OP_RECVMSG, IORING_OP_SENDMSG, IORING_OP_POLL_ADD};
	struct io_uring_restriction res[sizeof(ops) + 4] = {0};
	unsigned int n = 0;

	for (; n < sizeof(ops); n++) {
		res[n].opcode = IORING_RESTRICTION_SQE_OP;
		res[n].sqe_op = ops[n];
	}
	res[n].opcode = IORING_RESTRICTION_SQE_FLAGS_ALLOWED;
	res[n++].sqe_flags = IOSQE_BUFFER_SELECT;
	res[n].opcode = IORING_RESTRICTION_REGISTER_OP;
	res[n++].register_op = IORING_REGISTER_ENABLE_RINGS;
	res[n].opcode = IORING_RESTRICTION_REGISTER_OP;
	res[n++].register_op = IORING_REGISTER_RING_FDS;
	res[n].opcode = IORING_RESTRICTION_REGISTER_OP;
	res[n++].register_op = IORING_UNREGISTER_RING_FDS;
	io_uring_register_restrictions(&u->ring, res, n);
}

static void put_recv(struct uport *u, struct fh_dgram_buf *b)
{
	io_uring_buf_ring_add(u->bufs, b->data - OUT_BYTES, (unsigned int)(OUT_BYTES + u->s.mtu),
			      (unsigned short)b->index, (int)(u->s.nr_recv - 1), (int)u->nr_returned++);
}

static void show_buffers(struct uport *u)
{
	if (!u->nr_returned)
		return;
	io_uring_buf_ring_advance(u->bufs, (int)u->nr_returned);
	u->nr_returned = 0;
}

static int map_ring_buffers(struct uport *u)
{
	struct io_uring_buf_reg reg = {.ring_entries = u->s.nr_recv, .bgid = BUF_GROUP};
	int rc;

	u->bufs_bytes = u->s.nr_recv * sizeof(struct io_uring_buf);
	u->bufs = mmap(NULL, u->bufs_bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (u->bufs == MAP_FAILED) {
		u->bufs = NULL;
		return -ENOMEM;
	}
	reg.ring_addr = (uint64_t)(uintptr_t)u->bufs;
	rc = io_uring_register_buf_ring(&u->ring, &reg, 0);
	if (rc)
		return rc;
	io_uring_buf_ring_init(u->bufs);
	for (uint32_t i = 0; i < u->s.nr_recv; i++)
		put_recv(u, &u->s.bufs[i]);
	show_buffers(u);
	return 0;
}

static void arm(struct uport *u)
{
	struct io_uring_sqe *sqe = get_sqe(u);

	show_buffers(u);
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
		if (cqe->res < 0 && fh_dgram_fault(-cqe->res) == FH_DGRAM_BROKEN)
			*broken = cqe->res;
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
	fh_dgram_from_sockaddr(io_uring_recvmsg_name(out), &d->peer);
	fh_dgram_add(&u->s.recv_bytes, d->bytes);
	return true;
}

static int uring_recv(struct fh_dgram_port *p, struct fh_dgram *d, uint32_t max)
{
	struct uport *u = uport_of(p);
	struct io_uring_cqe *cqe;
	unsigned int head, seen = 0;
	uint32_t nr = 0;
	int broken = enable(u);

	if (!broken && !io_uring_cq_ready(&u->ring) && io_uring_sq_ready(&u->ring))
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
	show_buffers(u);
	if (!u->armed && !broken)
		arm(u);
	fh_dgram_add(&u->s.nr_recv_, nr);
	fh_dgram_add(&u->s.nr_empty, !nr);
	return broken ? broken : (int)nr;
}

static void uring_release(struct fh_dgram_port *p, struct fh_dgram *d, uint32_t nr)
{
	struct uport *u = uport_of(p);

	for (uint32_t i = 0; i < nr; i++) {
		struct fh_dgram_buf *b = d[i].handle;

		if (b->is_send)
			fh_dgram_put_buf(&u->s, b);
		else
			put_recv(u, b);
	}
	show_buffers(u);
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
		t->msg = (struct msghdr){.msg_name = &t->to,
					 .msg_namelen = fh_dgram_sockaddr(&u->s, &d[i].peer, &t->to),
					 .msg_iov = t->iov,
					 .msg_iovlen = t->tail ? 2 : 1};
		io_uring_prep_sendmsg(sqe, u->s.fd, &t->msg, MSG_NOSIGNAL | MSG_DONTWAIT);
		io_uring_sqe_set_data64(sqe, (uint64_t)b->index << 2 | OP_SEND);
		fh_dgram_add(&u->s.sent_bytes, d[i].bytes + (t->tail ? t->tail->bytes : 0));
	}
	fh_dgram_add(&u->s.nr_sent, nr);
	return nr;
}

static void uring_flush(struct fh_dgram_port *p)
{
	io_uring_submit(&uport_of(p)->ring);
}

static int uring_wait(struct fh_dgram_port *p, uint64_t timeout_us)
{
	struct uport *u = uport_of(p);
	struct __kernel_timespec ts = {.tv_sec = (long long)(timeout_us / 1000000),
				       .tv_nsec = (long long)(timeout_us % 1000000) * 1000};
	struct io_uring_cqe *cqe;
	int rc = enable(u);

	if (rc)
		return rc;
	fh_dgram_add(&u->s.nr_waits, timeout_us != 0);
	if (!timeout_us)
		rc = io_uring_submit_and_get_events(&u->ring);
	else
		rc = io_uring_submit_and_wait_timeout(&u->ring, &cqe, 1, timeout_us == UINT64_MAX ? NULL : &ts, NULL);
	return rc >= 0 || rc == -ETIME || rc == -EBUSY || rc == -EAGAIN ? 0 : rc;
}

/* ---- the rest ---- */

static int uring_fd(struct fh_dgram_port *p)
{
	(void)p;
	return -EOPNOTSUPP;
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
	if (u->bufs)
		munmap(u->bufs, u->bufs_bytes);
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
	rc = u->tx ? open_ring(u) : -ENOMEM;
	if (!rc)
		rc = map_ring_buffers(u);
	if (rc) {
		uring_close(&u->s.port);
		return fh_errf(err, rc, "io_uring: %s", strerror(-rc));
	}
	restrict_ring(u);
	*out = &u->s.port;
	return 0;
}
