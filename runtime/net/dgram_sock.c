// SPDX-License-Identifier: Apache-2.0
/*
 * A kernel socket with recvmmsg() and sendmmsg(): the carrier where io_uring is
 * refused.
 *
 * The kernel copies what is sent before the call returns, so a tail is done at
 * once.
 */
#include <fcntl.h>
#include <linux/sock_diag.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#include "runtime/net/dgram_sock.h"

#define BIND_TRIES 50
#define BIND_PAUSE_NS 20000000
#define SOCKET_BYTES (8 << 20) /* of the socket's own buffers, as far as the kernel allows */

#define container_of(ptr, type, member) ((type *)((char *)(ptr)-offsetof(type, member)))

static struct fh_dgram_sock *sock_of(struct fh_dgram_port *p)
{
	return container_of(p, struct fh_dgram_sock, port);
}

/* ---- addresses ---- */

static const uint8_t mapped[12] = {0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff};

socklen_t fh_dgram_sockaddr(const struct fh_dgram_sock *s, const struct fh_dgram_addr *a, struct sockaddr_in6 *out)
{
	struct sockaddr_in v4 = {.sin_family = AF_INET, .sin_port = htons(a->port)};

	if (s->v4) {
		memcpy(&v4.sin_addr, a->ip + 12, 4);
		memcpy(out, &v4, sizeof(v4));
		return sizeof(v4);
	}
	*out = (struct sockaddr_in6){.sin6_family = AF_INET6, .sin6_port = htons(a->port), .sin6_scope_id = a->scope};
	memcpy(&out->sin6_addr, a->ip, 16);
	return sizeof(*out);
}

void fh_dgram_from_sockaddr(const struct sockaddr *sa, struct fh_dgram_addr *out)
{
	*out = (struct fh_dgram_addr){0};
	if (sa->sa_family == AF_INET) {
		struct sockaddr_in v4;

		memcpy(&v4, sa, sizeof(v4));
		memcpy(out->ip, mapped, sizeof(mapped));
		memcpy(out->ip + 12, &v4.sin_addr, 4);
		out->port = ntohs(v4.sin_port);
	} else {
		struct sockaddr_in6 v6;

		memcpy(&v6, sa, sizeof(v6));
		memcpy(out->ip, &v6.sin6_addr, 16);
		out->port = ntohs(v6.sin6_port);
		out->scope = v6.sin6_scope_id;
	}
}

/* ---- the socket ---- */

static void set(int fd, int level, int name, int value)
{
	/* What an old kernel does not know costs a nicety. */
	setsockopt(fd, level, name, &value, sizeof(value));
}

/* A ring of a process that has just ended may hold its socket for a moment longer. */
static int bind_socket(int fd, const struct sockaddr *sa, socklen_t n)
{
	const struct timespec pause = {.tv_nsec = BIND_PAUSE_NS};

	for (int i = 0; bind(fd, sa, n); i++) {
		if (errno != EADDRINUSE || i == BIND_TRIES)
			return -1;
		nanosleep(&pause, NULL);
	}
	return 0;
}

static int open_socket(struct fh_dgram_sock *s, const struct fh_dgram_open *o, struct fh_err *err)
{
	const struct fh_dgram_addr *a = o->server ? &o->local : &o->peer;
	struct sockaddr_in6 sa;
	socklen_t n;

	s->fd = socket(AF_INET6, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	s->v4 = s->fd < 0;
	if (s->v4)
		s->fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (s->fd < 0)
		return fh_errf(err, -errno, "udp: no socket: %s", strerror(errno));
	if (!s->v4) {
		set(s->fd, IPPROTO_IPV6, IPV6_V6ONLY, 0);
		set(s->fd, IPPROTO_IPV6, IPV6_MTU_DISCOVER, IPV6_PMTUDISC_DO);
	}
	set(s->fd, IPPROTO_IP, IP_MTU_DISCOVER, IP_PMTUDISC_DO);
	set(s->fd, SOL_SOCKET, SO_RCVBUF, SOCKET_BYTES);
	set(s->fd, SOL_SOCKET, SO_SNDBUF, SOCKET_BYTES);
	set(s->fd, SOL_SOCKET, SO_RCVBUFFORCE, SOCKET_BYTES);
	set(s->fd, SOL_SOCKET, SO_SNDBUFFORCE, SOCKET_BYTES);
	n = fh_dgram_sockaddr(s, a, &sa);
	if (o->server ? bind_socket(s->fd, (struct sockaddr *)&sa, n) : connect(s->fd, (struct sockaddr *)&sa, n))
		return fh_errf(err, -errno, "udp: cannot %s port %u: %s", o->server ? "listen on" : "send to", a->port,
			       strerror(errno));
	return 0;
}

/* What the route to the client's server carries. */
static uint32_t route_mtu(const struct fh_dgram_sock *s)
{
	int mtu = 0;
	socklen_t n = sizeof(mtu);
	bool v4 = s->v4 || !memcmp(s->peer.ip, mapped, sizeof(mapped));

	if (getsockopt(s->fd, v4 ? IPPROTO_IP : IPPROTO_IPV6, v4 ? IP_MTU : IPV6_MTU, &mtu, &n) || mtu < 1280)
		return FH_DGRAM_MIN_MTU;
	return (uint32_t)mtu - (v4 ? 28 : 48);
}

static int map_buffers(struct fh_dgram_sock *s, struct fh_err *err)
{
	uint32_t nr = s->nr_recv + s->nr_send;

	/* A payload's address is FH_DGRAM_SKEW modulo FH_DGRAM_ALIGN. */
	s->head_room += (FH_DGRAM_SKEW + FH_DGRAM_ALIGN - s->head_room % FH_DGRAM_ALIGN) % FH_DGRAM_ALIGN;
	s->stride = (s->head_room + s->mtu + 63) & ~63ul;
	s->mem_bytes = nr * s->stride;
	s->bufs = calloc(nr, sizeof(*s->bufs));
	s->mem = mmap(NULL, s->mem_bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (!s->bufs || s->mem == MAP_FAILED) {
		s->mem = NULL;
		return fh_errf(err, -ENOMEM, "udp: no memory for %u packets of %u bytes", nr, s->mtu);
	}
	for (uint32_t i = nr; i--;) {
		s->bufs[i] = (struct fh_dgram_buf){
			.data = s->mem + i * s->stride + s->head_room, .is_send = i >= s->nr_recv, .index = i};
		fh_dgram_put_buf(s, &s->bufs[i]);
	}
	return 0;
}

int fh_dgram_sock_init(struct fh_dgram_sock *s, const struct fh_dgram_open *o, uint32_t head_room, struct fh_err *err)
{
	int rc;

	s->wake_fd = -1;
	s->server = o->server;
	s->peer = o->peer;
	s->head_room = head_room;
	s->nr_recv = o->nr_recv ? o->nr_recv : o->server ? 1024 : 128;
	s->nr_send = o->nr_send ? o->nr_send : o->server ? 512 : FH_DGRAM_BURST;
	rc = open_socket(s, o, err);
	if (!rc) {
		s->mtu = o->mtu ? o->mtu : FH_DGRAM_MAX_MTU;
		if (!o->server && route_mtu(s) < s->mtu)
			s->mtu = route_mtu(s);
		if (s->mtu > FH_DGRAM_MAX_MTU)
			s->mtu = FH_DGRAM_MAX_MTU;
		s->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
		if (s->wake_fd < 0)
			rc = fh_errf(err, -errno, "udp: eventfd: %s", strerror(errno));
	}
	if (!rc)
		rc = map_buffers(s, err);
	if (rc)
		fh_dgram_sock_fini(s);
	return rc;
}

void fh_dgram_sock_fini(struct fh_dgram_sock *s)
{
	if (s->fd >= 0)
		close(s->fd);
	if (s->wake_fd >= 0)
		close(s->wake_fd);
	if (s->mem)
		munmap(s->mem, s->mem_bytes);
	free(s->bufs);
}

/* ---- buffers ---- */

void fh_dgram_put_buf(struct fh_dgram_sock *s, struct fh_dgram_buf *b)
{
	struct fh_dgram_buf **list = b->is_send ? &s->free_send : &s->free_recv;

	b->next_free = *list;
	*list = b;
	s->nr_free_recv += !b->is_send;
}

uint32_t fh_dgram_sock_alloc(struct fh_dgram_port *p, struct fh_dgram *d, uint32_t max)
{
	struct fh_dgram_sock *s = sock_of(p);
	uint32_t nr = 0;

	for (; nr < max && s->free_send; nr++) {
		struct fh_dgram_buf *b = s->free_send;

		s->free_send = b->next_free;
		d[nr] = (struct fh_dgram){.data = b->data, .room = s->mtu, .handle = b};
	}
	return nr;
}

static void release(struct fh_dgram_port *p, struct fh_dgram *d, uint32_t nr)
{
	for (uint32_t i = 0; i < nr; i++)
		if (d[i].handle)
			fh_dgram_put_buf(sock_of(p), d[i].handle);
}

/* ---- receiving ---- */

/*
 * Beside its own errors, a connected socket tells what an ICMP message made of it
 * (RFC 792, RFC 4443; ip(7), ipv6(7)), which no one has signed.
 */
enum fh_dgram_fault fh_dgram_fault(int error)
{
	switch (error) {
	case EBADF:
	case ENOTSOCK:
	case EINVAL:
	case EFAULT: return FH_DGRAM_BROKEN;
	case ECONNREFUSED: /* the port is closed */
	case EACCES:	   /* administratively prohibited */
	case EPROTO:
	case ENOPROTOOPT:
	case EOPNOTSUPP:
	case EHOSTDOWN:
	case ENONET: return FH_DGRAM_NOBODY;
	/* No route for now, no memory for now, too long for the path: what was lost is sent again. */
	default: return FH_DGRAM_PASSING;
	}
}

static int sock_recv(struct fh_dgram_port *p, struct fh_dgram *d, uint32_t max)
{
	struct fh_dgram_sock *s = sock_of(p);
	struct mmsghdr m[FH_DGRAM_BURST];
	struct iovec iov[FH_DGRAM_BURST];
	struct sockaddr_in6 from[FH_DGRAM_BURST];
	struct fh_dgram_buf *b[FH_DGRAM_BURST];
	uint32_t nr = 0, nr_good = 0;
	enum fh_dgram_fault fault;
	int got, rc;

	if (s->unreachable) {
		s->unreachable = false;
		d[0] = (struct fh_dgram){.flags = FH_DGRAM_UNREACHABLE, .peer = s->peer};
		return 1;
	}
	for (; nr < max && nr < FH_DGRAM_BURST && s->free_recv; nr++) {
		b[nr] = s->free_recv;
		s->free_recv = b[nr]->next_free;
		iov[nr] = (struct iovec){b[nr]->data, s->mtu};
		m[nr] = (struct mmsghdr){.msg_hdr = {.msg_name = &from[nr],
						     .msg_namelen = sizeof(from[nr]),
						     .msg_iov = &iov[nr],
						     .msg_iovlen = 1}};
	}
	s->nr_free_recv -= nr;
	got = nr ? recvmmsg(s->fd, m, nr, MSG_DONTWAIT, NULL) : 0;
	fault = got < 0 ? fh_dgram_fault(errno) : FH_DGRAM_PASSING;
	rc = fault == FH_DGRAM_BROKEN ? -errno : 0;
	s->unreachable |= fault == FH_DGRAM_NOBODY;
	for (uint32_t i = 0; i < nr; i++) {
		if ((int)i >= got || m[i].msg_hdr.msg_flags & MSG_TRUNC) {
			fh_dgram_add(&s->nr_bad, (int)i < got);
			fh_dgram_put_buf(s, b[i]);
			continue;
		}
		d[nr_good] =
			(struct fh_dgram){.data = b[i]->data, .bytes = m[i].msg_len, .room = s->mtu, .handle = b[i]};
		fh_dgram_from_sockaddr((struct sockaddr *)&from[i], &d[nr_good].peer);
		if (!s->server)
			d[nr_good].peer = s->peer; /* the socket is connected; its kernel may name a mapped address */
		fh_dgram_add(&s->recv_bytes, m[i].msg_len);
		nr_good++;
	}
	fh_dgram_add(&s->nr_recv_, nr_good);
	fh_dgram_add(&s->nr_empty, !nr_good);
	if (!nr_good && s->unreachable)
		return sock_recv(p, d, max);
	return rc ? rc : (int)nr_good;
}

/* ---- sending ---- */

static uint32_t sock_send(struct fh_dgram_port *p, struct fh_dgram *d, uint32_t nr)
{
	struct fh_dgram_sock *s = sock_of(p);
	struct mmsghdr m[FH_DGRAM_BURST];
	struct iovec iov[FH_DGRAM_BURST][2];
	struct sockaddr_in6 to[FH_DGRAM_BURST];
	uint32_t at = 0;

	nr = nr < FH_DGRAM_BURST ? nr : FH_DGRAM_BURST;
	for (uint32_t i = 0; i < nr; i++) {
		iov[i][0] = (struct iovec){d[i].data, d[i].bytes};
		if (d[i].tail)
			iov[i][1] = (struct iovec){d[i].tail->base, d[i].tail->bytes};
		m[i] = (struct mmsghdr){.msg_hdr = {.msg_iov = iov[i], .msg_iovlen = d[i].tail ? 2 : 1}};
		fh_dgram_add(&s->sent_bytes, d[i].bytes + (d[i].tail ? d[i].tail->bytes : 0));
		if (!s->server)
			continue;
		m[i].msg_hdr.msg_name = &to[i];
		m[i].msg_hdr.msg_namelen = fh_dgram_sockaddr(s, &d[i].peer, &to[i]);
	}
	while (at < nr) {
		int sent = sendmmsg(s->fd, m + at, nr - at, MSG_DONTWAIT | MSG_NOSIGNAL);

		if (sent < 0 && errno == EINTR)
			continue;
		if (sent < 0) {
			/* This one is lost, as any may be: too long, no route, no room. */
			s->unreachable |= errno == ECONNREFUSED && !s->server;
			fh_dgram_add(&s->nr_failed, 1);
			sent = 1;
		}
		at += (uint32_t)sent;
	}
	fh_dgram_add(&s->nr_sent, nr);
	for (uint32_t i = 0; i < nr; i++) {
		fh_dgram_put_buf(s, d[i].handle);
		if (d[i].tail)
			d[i].tail->done(d[i].tail);
	}
	return nr;
}

static void sock_flush(struct fh_dgram_port *p)
{
	(void)p;
}

static int sock_wait(struct fh_dgram_port *p, uint64_t timeout_us)
{
	struct fh_dgram_sock *s = sock_of(p);
	struct timespec ts = {(time_t)(timeout_us / 1000000), (long)(timeout_us % 1000000) * 1000};
	struct pollfd fds[2] = {{.fd = s->fd, .events = s->free_recv ? POLLIN : 0},
				{.fd = s->wake_fd, .events = POLLIN}};
	uint64_t n;

	if (s->unreachable)
		return 0;
	fh_dgram_add(&s->nr_waits, timeout_us != 0);
	if (ppoll(fds, 2, timeout_us == UINT64_MAX ? NULL : &ts, NULL) < 0)
		return errno == EINTR ? -EINTR : -errno;
	if (fds[1].revents && read(s->wake_fd, &n, sizeof(n)) != sizeof(n) && errno != EAGAIN)
		return -errno;
	return 0;
}

void fh_dgram_sock_wake(struct fh_dgram_port *p)
{
	struct fh_dgram_sock *s = sock_of(p);
	const uint64_t one = 1;

	/* From any thread: a counter of its own kind. */
	__atomic_fetch_add((uint64_t *)&s->nr_wakes.v, 1, __ATOMIC_RELAXED);
	if (write(s->wake_fd, &one, sizeof(one)) < 0)
		return; /* it is full of wakes already */
}

static int sock_fd(struct fh_dgram_port *p)
{
	return sock_of(p)->fd;
}

/* ---- the rest ---- */

uint32_t fh_dgram_sock_mtu(struct fh_dgram_port *p, const struct fh_dgram_addr *peer)
{
	(void)peer;
	return sock_of(p)->mtu;
}

int fh_dgram_sock_mem_add(struct fh_dgram_port *p, void *base, size_t bytes, struct fh_err *err)
{
	(void)p;
	(void)base;
	(void)bytes;
	(void)err;
	return 0; /* the kernel reads any memory of ours */
}

uint32_t fh_dgram_sock_max_held(struct fh_dgram_port *p)
{
	return sock_of(p)->nr_recv / 2;
}

void fh_dgram_sock_local(struct fh_dgram_port *p, struct fh_dgram_addr *out)
{
	struct sockaddr_in6 sa = {0};
	socklen_t n = sizeof(sa);

	*out = (struct fh_dgram_addr){0};
	if (!getsockname(sock_of(p)->fd, (struct sockaddr *)&sa, &n))
		fh_dgram_from_sockaddr((struct sockaddr *)&sa, out);
}

static uint64_t get(struct fh_dgram_count *c)
{
	return __atomic_load_n((uint64_t *)&c->v, __ATOMIC_RELAXED);
}

/* Datagrams that found the socket's buffer full. */
static uint64_t nr_dropped(const struct fh_dgram_sock *s)
{
	uint32_t info[SK_MEMINFO_VARS] = {0};
	socklen_t n = sizeof(info);

	return getsockopt(s->fd, SOL_SOCKET, SO_MEMINFO, info, &n) ? 0 : info[SK_MEMINFO_DROPS];
}

void fh_dgram_sock_stats(struct fh_dgram_port *p, struct fh_dgram_stats *out)
{
	struct fh_dgram_sock *s = sock_of(p);

	*out = (struct fh_dgram_stats){.nr_recv = get(&s->nr_recv_),
				       .recv_bytes = get(&s->recv_bytes),
				       .nr_sent = get(&s->nr_sent),
				       .sent_bytes = get(&s->sent_bytes),
				       .nr_recv_dropped = nr_dropped(s),
				       .nr_recv_bad = get(&s->nr_bad),
				       .nr_send_failed = get(&s->nr_failed),
				       .nr_waits = get(&s->nr_waits),
				       .nr_wakes = get(&s->nr_wakes),
				       .nr_empty_polls = get(&s->nr_empty)};
}

static void sock_close(struct fh_dgram_port *p)
{
	struct fh_dgram_sock *s = sock_of(p);

	fh_dgram_sock_fini(s);
	free(s);
}

static const struct fh_dgram_ops ops = {
	.name = "socket",
	.recv = sock_recv,
	.release = release,
	.alloc = fh_dgram_sock_alloc,
	.send = sock_send,
	.flush = sock_flush,
	.wait = sock_wait,
	.wake = fh_dgram_sock_wake,
	.fd = sock_fd,
	.mtu = fh_dgram_sock_mtu,
	.mem_add = fh_dgram_sock_mem_add,
	.max_held = fh_dgram_sock_max_held,
	.local = fh_dgram_sock_local,
	.stats = fh_dgram_sock_stats,
	.close = sock_close,
};

int fh_dgram_sock_open(const struct fh_dgram_open *o, struct fh_dgram_port **out, struct fh_err *err)
{
	struct fh_dgram_sock *s = calloc(1, sizeof(*s));
	int rc;

	if (!s)
		return fh_errf(err, -ENOMEM, "udp: out of memory");
	s->port.ops = &ops;
	rc = fh_dgram_sock_init(s, o, 0, err);
	if (rc)
		free(s);
	else
		*out = &s->port;
	return rc;
}
