// SPDX-License-Identifier: Apache-2.0
/* One end of a datagram path: see datagram.h. */
#include "tools/datagram.h"

#include <arpa/inet.h>
#include <sys/socket.h>
#include <unistd.h>

#include "runtime/net/dgram_plugin.h"

enum { BURST = 32, SOCKET_TIMEOUT_US = 100000 };

static bool is4(const struct fh_dgram_addr *a)
{
	static const uint8_t mapped[12] = {[10] = 0xff, [11] = 0xff};

	return !memcmp(a->ip, mapped, 12);
}

static socklen_t to_sockaddr(const struct fh_dgram_addr *a, struct sockaddr_storage *out)
{
	struct sockaddr_in *v4 = (struct sockaddr_in *)out;
	struct sockaddr_in6 *v6 = (struct sockaddr_in6 *)out;

	memset(out, 0, sizeof(*out));
	if (is4(a)) {
		v4->sin_family = AF_INET;
		v4->sin_port = htons(a->port);
		memcpy(&v4->sin_addr, a->ip + 12, 4);
		return sizeof(*v4);
	}
	v6->sin6_family = AF_INET6;
	v6->sin6_port = htons(a->port);
	v6->sin6_scope_id = a->scope;
	memcpy(&v6->sin6_addr, a->ip, 16);
	return sizeof(*v6);
}

static int open_socket(struct end *e, const struct end_options *o, struct fh_err *err)
{
	struct timeval limit = {.tv_usec = SOCKET_TIMEOUT_US};
	struct sockaddr_storage ss;
	const struct fh_dgram_addr *family = o->server ? &o->local : &o->peer;
	socklen_t n;

	e->fd = socket(is4(family) ? AF_INET : AF_INET6, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	if (e->fd < 0)
		return fh_errf(err, -errno, "no socket: %s", strerror(errno));
	setsockopt(e->fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof(limit));
	n = to_sockaddr(&o->local, &ss);
	if (o->server && bind(e->fd, (struct sockaddr *)&ss, n))
		return fh_errf(err, -errno, "the address cannot be had: %s", strerror(errno));
	n = to_sockaddr(&o->peer, &ss);
	if (!o->server && connect(e->fd, (struct sockaddr *)&ss, n))
		return fh_errf(err, -errno, "there is no way to the server: %s", strerror(errno));
	return 0;
}

static int open_port(struct end *e, const struct end_options *o, struct fh_err *err)
{
	struct fh_dgram_open open = {
		.size = sizeof(open),
		.server = o->server,
		.no_offload = o->no_offload,
		.device = o->device,
		.queue = o->queue,
		.nr_queues = o->nr_queues,
		.local = o->local,
		.peer = o->peer,
		.mtu = o->mtu,
		.netmask = o->prefix,
		.gateway = o->gateway,
	};

	return fh_dgram_dpdk(&open, o->eal, &e->port, err);
}

int end_open(struct end *e, const struct end_options *o, struct fh_err *err)
{
	int rc;

	memset(e, 0, sizeof(*e));
	e->fd = -1;
	e->server = o->server;
	rc = o->device ? open_port(e, o, err) : open_socket(e, o, err);
	if (rc)
		end_close(e);
	return rc;
}

void end_close(struct end *e)
{
	if (e->port)
		e->port->ops->close(e->port);
	if (e->fd >= 0)
		close(e->fd);
	e->port = NULL;
	e->fd = -1;
}

static bool send_port(struct end *e, const struct fh_dgram_addr *to, const uint8_t *payload, uint32_t bytes,
		      struct fh_dgram_tail *tail)
{
	struct fh_dgram d;

	if (!e->port->ops->alloc(e->port, &d, 1))
		return false;
	if (bytes <= d.room)
		memcpy(d.data, payload, bytes);
	d.bytes = bytes <= d.room ? bytes : d.room;
	d.peer = *to;
	d.tail = tail;
	if (e->port->ops->send(e->port, &d, 1) != 1) {
		e->port->ops->release(e->port, &d, 1);
		return false;
	}
	e->port->ops->flush(e->port);
	return true;
}

bool end_send(struct end *e, const struct fh_dgram_addr *to, const uint8_t *payload, uint32_t bytes,
	      struct fh_dgram_tail *tail)
{
	struct iovec v[2] = {{(void *)payload, bytes}, {tail ? tail->base : NULL, tail ? tail->bytes : 0}};
	struct msghdr m = {.msg_iov = v, .msg_iovlen = tail ? 2 : 1};
	bool sent;

	if (e->port)
		return send_port(e, to, payload, bytes, tail);
	sent = sendmsg(e->fd, &m, 0) >= 0;
	if (tail)
		tail->done(tail);
	return sent;
}

static int take_port(struct end *e, uint64_t timeout_us, end_fn fn, void *ctx)
{
	struct fh_dgram d[BURST];
	int n = e->port->ops->recv(e->port, d, BURST), rc;
	uint32_t back = 0, out = 0;

	if (!n && timeout_us) {
		rc = e->port->ops->wait(e->port, timeout_us);
		n = rc && rc != -EINTR ? rc : e->port->ops->recv(e->port, d, BURST);
	}
	for (int i = 0; i < n; i++) {
		if (d[i].data && fn(ctx, d[i].data, d[i].bytes))
			d[back++] = d[i];
		else
			e->port->ops->release(e->port, &d[i], 1);
	}
	if (back) {
		out = e->port->ops->send(e->port, d, back);
		e->port->ops->release(e->port, d + out, back - out);
		e->port->ops->flush(e->port);
	}
	return n;
}

/* A blocking read is what is quickest; it gives up after SOCKET_TIMEOUT_US, whatever is asked for. */
static int take_socket(struct end *e, uint64_t timeout_us, end_fn fn, void *ctx)
{
	struct sockaddr_storage from;
	socklen_t from_bytes = sizeof(from);
	ssize_t n = recvfrom(e->fd, e->buf, sizeof(e->buf), timeout_us ? 0 : MSG_DONTWAIT, (struct sockaddr *)&from,
			     &from_bytes);

	if (n < 0)
		return errno == EINTR || errno == ECONNREFUSED || errno == EAGAIN ? 0 : -errno;
	if (fn(ctx, e->buf, (uint32_t)n))
		sendto(e->fd, e->buf, (size_t)n, 0, (struct sockaddr *)&from, from_bytes);
	return 1;
}

int end_take(struct end *e, uint64_t timeout_us, end_fn fn, void *ctx)
{
	return e->port ? take_port(e, timeout_us, fn, ctx) : take_socket(e, timeout_us, fn, ctx);
}
