// SPDX-License-Identifier: Apache-2.0
/*
 * Carriers of datagrams over a kernel's socket, by themselves: io_uring and plain
 * calls, at both ends; what a full buffer, a peer that is gone and another thread
 * do to them.
 */
#include <criterion/criterion.h>
#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "runtime/base/clock.h"
#include "runtime/net/dgram_sock.h"

struct told {
	struct fh_dgram_tail t;
	int nr;
};

static void count_done(struct fh_dgram_tail *t)
{
	((struct told *)t)->nr++;
}

static void carry(bool plain, bool plain_client)
{
	struct fh_dgram_open so = {.size = sizeof(so), .server = true, .mtu = 1400},
			     co = {.size = sizeof(co), .mtu = 1400};
	struct fh_dgram d[4];
	struct fh_dgram_port *s, *c;
	struct fh_dgram_stats st;
	struct told told = {.t = {.done = count_done, .base = (uint8_t *)"behind it", .bytes = 9}};
	struct fh_err err = {0};
	int (*open_client)(const struct fh_dgram_open *, struct fh_dgram_port **, struct fh_err *) =
		plain_client ? fh_dgram_sock_open : fh_dgram_uring_open;
	int nr;

	so.local.ip[10] = so.local.ip[11] = 0xff;
	so.local.ip[12] = 127;
	so.local.ip[15] = 1;
	cr_assert_eq((plain ? fh_dgram_sock_open : fh_dgram_uring_open)(&so, &s, &err), 0, "%s", err.msg);
	s->ops->local(s, &co.peer);
	cr_assert_neq(co.peer.port, 0);
	cr_assert_eq(open_client(&co, &c, &err), 0, "%s", err.msg);
	cr_assert_eq(s->ops->recv(s, d, 4), 0);
	for (int round = 0; round < 3000; round++) {
		cr_assert_eq(c->ops->alloc(c, d, 1), 1);
		cr_assert_eq((uintptr_t)d[0].data % FH_DGRAM_ALIGN, FH_DGRAM_SKEW);
		d[0].bytes = (uint32_t)snprintf((char *)d[0].data, d[0].room, "datagram %d", round);
		d[0].peer = co.peer;
		cr_assert_eq(c->ops->send(c, d, 1), 1);
		c->ops->flush(c);
		while (!(nr = s->ops->recv(s, d, 4)))
			cr_assert_eq(s->ops->wait(s, 1000000), 0);
		cr_assert_eq(nr, 1);
		cr_assert_eq((uintptr_t)d[0].data % FH_DGRAM_ALIGN, FH_DGRAM_SKEW);
		cr_assert_eq(atoi((char *)d[0].data + 9), round);
		/* Back in the same buffer, with a tail. */
		d[0].tail = &told.t;
		cr_assert_eq(s->ops->send(s, d, 1), 1);
		s->ops->flush(s);
		while (!(nr = c->ops->recv(c, d, 4)))
			cr_assert_eq(c->ops->wait(c, 1000000), 0);
		cr_assert_eq(nr, 1);
		cr_assert_eq(d[0].bytes, 9 + 9 + (round > 999) + (round > 99) + (round > 9) + 1);
		cr_assert(!memcmp(d[0].data + d[0].bytes - 9, "behind it", 9));
		c->ops->release(c, d, 1);
		while (told.nr != round + 1) {
			cr_assert_eq(s->ops->wait(s, 0), 0);
			cr_assert_eq(s->ops->recv(s, d, 4), 0);
		}
	}
	/* Too long for a buffer: cut, and so nobody's. */
	co.mtu = 0;
	c->ops->close(c);
	cr_assert_eq(open_client(&co, &c, &err), 0);
	cr_assert_eq(c->ops->alloc(c, d, 1), 1);
	d[0].bytes = 3000;
	cr_assert_eq(c->ops->send(c, d, 1), 1);
	c->ops->flush(c);
	cr_assert_eq(s->ops->wait(s, 1000000), 0);
	cr_assert_eq(s->ops->recv(s, d, 4), 0);
	s->ops->stats(s, &st);
	cr_assert(st.nr_recv == 3000 && st.nr_sent == 3000 && st.nr_recv_bad == 1 && !st.nr_recv_dropped &&
		  !st.copied_bytes);
	/* What finds the socket's buffer full is counted by the kernel. */
	for (int i = 0; i < 40000 && !st.nr_recv_dropped; i++) {
		cr_assert_eq(c->ops->alloc(c, d, 1), 1);
		d[0].bytes = 1400;
		c->ops->send(c, d, 1);
		c->ops->flush(c);
		if (i % 1000 == 999)
			s->ops->stats(s, &st);
	}
	cr_assert_gt(st.nr_recv_dropped, 0);
	/* A wake from before makes the next wait return. */
	s->ops->wake(s);
	cr_assert_eq(s->ops->wait(s, UINT64_MAX), 0);
	s->ops->close(s);
	/* Nobody there any more: the client is told. A ring's sockets are closed by the kernel when it comes to it. */
	nr = 0;
	for (uint64_t until_ns = fh_now_ns() + 10000000000u; !nr && fh_now_ns() < until_ns;) {
		cr_assert_eq(c->ops->alloc(c, d, 1), 1);
		d[0].bytes = 1;
		c->ops->send(c, d, 1);
		c->ops->wait(c, 1000000);
		nr = c->ops->recv(c, d, 4);
	}
	cr_assert_eq(nr, 1);
	cr_assert(d[0].flags & FH_DGRAM_UNREACHABLE);
	c->ops->release(c, d, 1);
	c->ops->close(c);
}

/* What anybody may make the network say ends no socket. */
Test(dgram, errors_of_receiving)
{
	static const int passing[] = {EAGAIN,	    EINTR,	 ENOBUFS,  ENOMEM,    EMSGSIZE,
				      EHOSTUNREACH, ENETUNREACH, ENETDOWN, ECANCELED, ETIMEDOUT};
	static const int nobody[] = {ECONNREFUSED, EACCES, EPROTO, ENOPROTOOPT, EHOSTDOWN, ENONET};
	static const int broken[] = {EBADF, ENOTSOCK, EINVAL, EFAULT};

	for (size_t i = 0; i < sizeof(passing) / sizeof(passing[0]); i++)
		cr_assert_eq(fh_dgram_fault(passing[i]), FH_DGRAM_PASSING, "%s", strerror(passing[i]));
	for (size_t i = 0; i < sizeof(nobody) / sizeof(nobody[0]); i++)
		cr_assert_eq(fh_dgram_fault(nobody[i]), FH_DGRAM_NOBODY, "%s", strerror(nobody[i]));
	for (size_t i = 0; i < sizeof(broken) / sizeof(broken[0]); i++)
		cr_assert_eq(fh_dgram_fault(broken[i]), FH_DGRAM_BROKEN, "%s", strerror(broken[i]));
}

Test(dgram, carrier_socket, .timeout = 60)
{
	carry(true, true);
}

Test(dgram, carrier_uring, .timeout = 60)
{
	carry(false, true);
}

Test(dgram, carrier_uring_at_both_ends, .timeout = 60)
{
	carry(false, false);
}

static bool is_readable(int fd, int ms)
{
	struct pollfd p = {.fd = fd, .events = POLLIN};

	return poll(&p, 1, ms) > 0;
}

static void *use_it(void *arg)
{
	struct fh_dgram_port *c = arg;
	struct fh_dgram d[4];

	cr_assert_eq(c->ops->alloc(c, d, 1), 1);
	d[0].bytes = 1;
	d[0].data[0] = 2;
	c->ops->send(c, d, 1);
	c->ops->flush(c);
	return NULL;
}

/* A client's ring: its descriptor tells of what came and not of what left; threads use it in turn, and end. */
Test(dgram, client_on_a_ring, .timeout = 60)
{
	struct fh_dgram_open so = {.size = sizeof(so), .server = true, .local.ip = {[10] = 0xff, 0xff, 127, 0, 0, 1}},
			     co = {.size = sizeof(co)};
	struct fh_dgram_port *s, *c;
	struct fh_dgram d[4];
	struct fh_err err;
	pthread_t t;
	int fd;

	cr_assert_eq(fh_dgram_sock_open(&so, &s, &err), 0);
	s->ops->local(s, &co.peer);
	cr_assert_eq(fh_dgram_uring_open(&co, &c, &err), 0, "%s", err.msg);
	cr_assert_str_eq(c->ops->name, "io_uring");
	fd = c->ops->fd(c);
	cr_assert_geq(fd, 0);
	for (int round = 0; round < 50; round++) {
		/* Whoever armed the receive may have ended. */
		cr_assert_eq(pthread_create(&t, NULL, use_it, c), 0);
		pthread_join(t, NULL);
		while (!s->ops->recv(s, d, 4))
			cr_assert_eq(s->ops->wait(s, 1000000), 0);
		cr_assert_eq(s->ops->send(s, d, 1), 1);
		do
			cr_assert(is_readable(fd, 5000));
		while (!c->ops->recv(c, d, 4));
		cr_assert_eq(d[0].data[0], 2);
		c->ops->release(c, d, 1);
		cr_assert_eq(c->ops->recv(c, d, 4), 0);
		use_it(c);
		cr_assert(!is_readable(fd, 0), "it tells of what left");
		while (!s->ops->recv(s, d, 4))
			cr_assert_eq(s->ops->wait(s, 1000000), 0);
		s->ops->release(s, d, 1);
	}
	c->ops->close(c);
	s->ops->close(s);
}
