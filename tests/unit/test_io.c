// SPDX-License-Identifier: Apache-2.0
/*
 * The event loop, both backends against one contract: accept, receive, stop,
 * send, close, timers, wake-ups.  The test is the peer, over socket pairs and
 * loopback.
 */
#include <arpa/inet.h>
#include <criterion/criterion.h>
#include <dirent.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <seccomp.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "runtime/base/clock.h"
#include "runtime/base/io.h"

/* Each test below runs on both backends. */
#define IO_TEST(name)                                                                                                  \
	static void run_##name(struct fh_io *io);                                                                      \
	Test(io, name##_uring, .timeout = 30)                                                                          \
	{                                                                                                              \
		with_loop(false, run_##name);                                                                          \
	}                                                                                                              \
	Test(io, name##_epoll, .timeout = 30)                                                                          \
	{                                                                                                              \
		with_loop(true, run_##name);                                                                           \
	}                                                                                                              \
	static void run_##name(struct fh_io *io)

static void with_loop(bool epoll, void (*run)(struct fh_io *io))
{
	struct fh_io_config cfg = {.max_socks = 64, .recv_bytes = 1024, .nr_recv = 8, .force_epoll = epoll};
	struct fh_err err = {0};
	struct fh_io *io;

	cr_assert_eq(fh_io_create(&cfg, &io, &err), 0, "%s", err.msg);
	cr_assert_eq(fh_io_start(io, &err), 0, "%s", err.msg);
	cr_expect(!epoll || !strncmp(fh_io_backend(io), "epoll", 5));
	run(io);
	fh_io_destroy(io);
}

/* A peer that remembers what happened to it. */
struct end {
	struct fh_io_sock sock;
	char data[1 << 20];
	size_t n;
	int nr_eof, nr_error, nr_sent, nr_closed, last_sent;
	bool echo, close_on_data;
	char out[4096];
};

static struct end *end_of(struct fh_io_sock *s)
{
	return (struct end *)s; /* first member */
}

static void on_recv(struct fh_io_sock *s, const char *data, ssize_t n)
{
	struct end *e = end_of(s);

	cr_assert_eq(e->nr_closed, 0);
	if (n <= 0) {
		e->nr_eof += n == 0;
		e->nr_error += n < 0;
		return;
	}
	memcpy(e->data + e->n, data, (size_t)n);
	e->n += (size_t)n;
	if (e->echo && !fh_io_sending(s)) {
		memcpy(e->out, data, (size_t)n);
		fh_io_send(s, e->out, (size_t)n);
	}
	if (e->close_on_data)
		fh_io_close(s);
}

static void on_sent(struct fh_io_sock *s, int res)
{
	end_of(s)->nr_sent++;
	end_of(s)->last_sent = res;
}

static void on_closed(struct fh_io_sock *s)
{
	end_of(s)->nr_closed++;
}

static const struct fh_io_sock_ops ops = {on_recv, on_sent, on_closed};

/* Poll until @cond holds, or two seconds have passed. */
#define poll_until(io, cond)                                                                                           \
	do {                                                                                                           \
		uint64_t end_ns = fh_now_ns() + 2000000000u;                                                           \
		while (!(cond) && fh_now_ns() < end_ns)                                                                \
			cr_assert_eq(fh_io_poll(io, 10000000), 0);                                                     \
		cr_assert(cond, #cond);                                                                                \
	} while (0)

static struct end *end_make(struct fh_io *io, int *peer)
{
	struct end *e = calloc(1, sizeof(*e));
	int fd[2];

	cr_assert_eq(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fd), 0);
	fcntl(fd[0], F_SETFL, O_NONBLOCK);
	cr_assert_eq(fh_io_attach(io, &e->sock, &ops, fd[0]), 0);
	*peer = fd[1];
	return e;
}

static void end_drop(struct fh_io *io, struct end *e, int peer)
{
	fh_io_close(&e->sock);
	fh_io_close(&e->sock);
	poll_until(io, e->nr_closed);
	fh_io_poll(io, 0);
	cr_expect_eq(e->nr_closed, 1);
	close(peer);
	free(e);
}

IO_TEST(receives_and_sends)
{
	struct end *e;
	char got[64] = "";
	int peer;

	e = end_make(io, &peer);
	e->echo = true;
	fh_io_recv_start(&e->sock);
	for (int i = 0; i < 100; i++) {
		cr_assert_eq(write(peer, "hello", 5), 5);
		poll_until(io, e->nr_sent == i + 1);
		cr_assert_eq(read(peer, got, sizeof(got)), 5);
		cr_assert_eq(memcmp(got, "hello", 5), 0);
	}
	cr_expect_eq(e->sock.nr_received, 500);
	cr_expect_eq(e->sock.nr_sent, 500);
	end_drop(io, e, peer);
}

/* A socket on loopback whose connect() to @port is under way. */
static int connecting(uint16_t port)
{
	struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = port, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);

	cr_assert_geq(fd, 0);
	cr_assert(!connect(fd, (struct sockaddr *)&to, sizeof(to)) || errno == EINPROGRESS);
	return fd;
}

/* A client hands over a socket before it is connected, and what it sends leaves with the flush. */
IO_TEST(sends_before_it_is_connected)
{
	struct sockaddr_in at = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	int l = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0), peer;
	struct end *e = calloc(1, sizeof(*e));
	socklen_t len = sizeof(at);
	char got[8] = "";

	cr_assert(!bind(l, (struct sockaddr *)&at, sizeof(at)) && !listen(l, 8));
	cr_assert_eq(getsockname(l, (struct sockaddr *)&at, &len), 0);
	cr_assert_eq(fh_io_attach(io, &e->sock, &ops, connecting(at.sin_port)), 0);
	fh_io_recv_start(&e->sock);
	fh_io_send(&e->sock, "early", 5);
	fh_io_flush(io);
	/* No turn of the loop was needed. */
	peer = accept(l, NULL, NULL);
	cr_assert_geq(peer, 0);
	cr_assert_eq(recv(peer, got, sizeof(got), 0), 5);
	cr_assert_eq(e->nr_sent, 0);
	poll_until(io, e->nr_sent == 1);
	cr_assert_eq(send(peer, "late", 4, 0), 4);
	poll_until(io, e->n == 4);
	end_drop(io, e, peer);
	close(l);
}

IO_TEST(says_when_nobody_listens)
{
	struct sockaddr_in at = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	int l = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	struct end *e = calloc(1, sizeof(*e));
	socklen_t len = sizeof(at);

	/* Bound and not listening: nobody else gets the port. */
	cr_assert_eq(bind(l, (struct sockaddr *)&at, sizeof(at)), 0);
	cr_assert_eq(getsockname(l, (struct sockaddr *)&at, &len), 0);
	cr_assert_eq(fh_io_attach(io, &e->sock, &ops, connecting(at.sin_port)), 0);
	fh_io_recv_start(&e->sock);
	fh_io_send(&e->sock, "hello", 5);
	poll_until(io, e->nr_error + e->nr_eof == 1);
	end_drop(io, e, l);
}

/* More than all receive buffers hold: they come back and nothing is lost. */
IO_TEST(receives_more_than_its_buffers)
{
	static char big[300000];
	struct end *e;
	int peer;
	size_t off = 0;

	for (size_t i = 0; i < sizeof(big); i++)
		big[i] = (char)(i * 7 + i / 251);
	e = end_make(io, &peer);
	fcntl(peer, F_SETFL, O_NONBLOCK);
	fh_io_recv_start(&e->sock);
	while (off < sizeof(big)) {
		ssize_t k = write(peer, big + off, sizeof(big) - off);

		off += k > 0 ? (size_t)k : 0;
		fh_io_poll(io, 1000000);
	}
	poll_until(io, e->n == sizeof(big));
	cr_expect_eq(memcmp(e->data, big, sizeof(big)), 0);
	end_drop(io, e, peer);
}

IO_TEST(sends_what_no_buffer_takes_at_once)
{
	char *big = malloc(4 << 20), *got = malloc(4 << 20);
	struct end *e;
	size_t n = 0;
	int peer;

	for (size_t i = 0; i < 4 << 20; i++)
		big[i] = (char)(i * 13 + i / 257);
	e = end_make(io, &peer);
	fcntl(peer, F_SETFL, O_NONBLOCK);
	fh_io_send(&e->sock, big, 4 << 20);
	for (int i = 0; i < 20; i++)
		fh_io_poll(io, 1000000);
	cr_expect_eq(e->nr_sent, 0, "a send that nobody read is complete");
	cr_expect(fh_io_sending(&e->sock));
	while (n < 4 << 20) {
		ssize_t k = read(peer, got + n, (4 << 20) - n);

		n += k > 0 ? (size_t)k : 0;
		fh_io_poll(io, 1000000);
	}
	poll_until(io, e->nr_sent == 1);
	cr_expect_eq(e->last_sent, 0);
	cr_expect_eq(e->sock.nr_sent, 4 << 20);
	cr_expect_eq(memcmp(big, got, 4 << 20), 0);
	end_drop(io, e, peer);
	free(big);
	free(got);
}

IO_TEST(stops_and_starts_receiving)
{
	struct end *e;
	size_t before;
	int peer;

	e = end_make(io, &peer);
	fh_io_recv_start(&e->sock);
	fh_io_poll(io, 0);
	fh_io_recv_stop(&e->sock);
	for (int i = 0; i < 5; i++)
		fh_io_poll(io, 1000000);
	cr_assert_eq(write(peer, "abc", 3), 3);
	for (int i = 0; i < 5; i++)
		fh_io_poll(io, 1000000);
	cr_expect_eq(e->n, 0, "it received although stopped");
	before = e->n;
	fh_io_recv_start(&e->sock);
	poll_until(io, e->n == before + 3);
	/* Stop and start before the stop could take effect. */
	fh_io_recv_stop(&e->sock);
	fh_io_recv_start(&e->sock);
	fh_io_recv_stop(&e->sock);
	fh_io_recv_start(&e->sock);
	fh_io_poll(io, 0);
	cr_assert_eq(write(peer, "def", 3), 3);
	poll_until(io, e->n == before + 6);
	end_drop(io, e, peer);
}

IO_TEST(says_when_the_peer_ends)
{
	struct end *e;
	int peer;

	e = end_make(io, &peer);
	fh_io_recv_start(&e->sock);
	cr_assert_eq(write(peer, "last", 4), 4);
	shutdown(peer, SHUT_WR);
	poll_until(io, e->nr_eof);
	cr_expect_eq(e->n, 4);
	for (int i = 0; i < 5; i++)
		fh_io_poll(io, 1000000);
	cr_expect_eq(e->nr_eof, 1, "the end was told %d times", e->nr_eof);
	/* It can still send, and shut down its own side. */
	fh_io_send(&e->sock, "bye", 3);
	poll_until(io, e->nr_sent);
	fh_io_shutdown(&e->sock);
	for (int i = 0; i < 10; i++)
		fh_io_poll(io, 5000000);
	{
		char got[8];

		cr_expect_eq(read(peer, got, sizeof(got)), 3);
		cr_expect_eq(read(peer, got, sizeof(got)), 0);
	}
	end_drop(io, e, peer);
	/* A peer that is gone: the send fails, once. */
	e = end_make(io, &peer);
	close(peer);
	fh_io_send(&e->sock, "x", 1);
	poll_until(io, e->nr_sent);
	cr_expect_lt(e->last_sent, 0);
	end_drop(io, e, -1);
}

/* Closing with everything under way. */
IO_TEST(closes_in_the_middle)
{
	char *big = calloc(1, 8 << 20);

	for (int i = 0; i < 40; i++) {
		struct end *e;
		int peer;

		e = end_make(io, &peer);
		fh_io_recv_start(&e->sock);
		if (i & 1)
			fh_io_send(&e->sock, big, 8 << 20);
		if (i & 2)
			fh_io_poll(io, 0);
		if (i & 4)
			cr_assert_eq(write(peer, "x", 1), 1);
		e->close_on_data = i & 8;
		if (i & 8)
			fh_io_poll(io, 1000000);
		end_drop(io, e, peer);
	}
	free(big);
}

struct door {
	struct fh_io_listener l;
	struct end *ends[256];
	int nr, nr_refused, max;
};

static struct fh_io_sock *on_accept(struct fh_io_listener *l, const struct fh_io_sock_ops **out)
{
	struct door *d = (struct door *)l; /* first member */

	if (d->nr == d->max) {
		d->nr_refused++;
		return NULL;
	}
	*out = &ops;
	d->ends[d->nr] = calloc(1, sizeof(struct end));
	return &d->ends[d->nr++]->sock;
}

static int listen_any(struct sockaddr_in *sa)
{
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
	socklen_t len = sizeof(*sa);

	*sa = (struct sockaddr_in){.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	cr_assert_eq(bind(fd, (struct sockaddr *)sa, sizeof(*sa)), 0);
	cr_assert_eq(listen(fd, 128), 0);
	getsockname(fd, (struct sockaddr *)sa, &len);
	return fd;
}

static int dial(const struct sockaddr_in *sa)
{
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

	cr_assert_eq(connect(fd, (const struct sockaddr *)sa, sizeof(*sa)), 0);
	return fd;
}

IO_TEST(accepts)
{
	struct door d = {.l.on_accept = on_accept, .max = 20};
	struct sockaddr_in sa;
	int lfd = listen_any(&sa), fd[24];
	char ch;

	cr_assert_eq(fh_io_listen(io, &d.l, lfd), 0);
	for (int i = 0; i < 22; i++)
		fd[i] = dial(&sa);
	poll_until(io, d.nr == 20 && d.nr_refused == 2);
	/* Those refused see the end of their connection. */
	for (int i = 0; i < 5; i++)
		fh_io_poll(io, 1000000);
	cr_expect_leq(read(fd[21], &ch, 1), 0);
	for (int i = 0; i < 20; i++) {
		d.ends[i]->echo = true;
		fh_io_recv_start(&d.ends[i]->sock);
		cr_assert_eq(write(fd[i], "?", 1), 1);
	}
	for (int i = 0; i < 20; i++) {
		poll_until(io, d.ends[i]->nr_sent);
		cr_expect_eq(read(fd[i], &ch, 1), 1);
	}
	/* Not accepting: connections wait, and come in later. */
	fh_io_accept_stop(&d.l);
	for (int i = 0; i < 5; i++)
		fh_io_poll(io, 1000000);
	d.max = 22;
	fd[22] = dial(&sa);
	for (int i = 0; i < 10; i++)
		fh_io_poll(io, 1000000);
	cr_expect_eq(d.nr, 20);
	fh_io_accept_start(&d.l);
	poll_until(io, d.nr == 21);
	for (int i = 0; i < d.nr; i++) {
		fh_io_close(&d.ends[i]->sock);
		poll_until(io, d.ends[i]->nr_closed);
		free(d.ends[i]);
	}
	for (int i = 0; i < 23; i++)
		close(fd[i]);
	close(lfd);
}

/*
 * Descriptors, or slots of the ring's table, do not run out over many
 * connections, and what was asked for one never hits the next in its slot.
 */
static void accept_for_ever(struct fh_io *io, bool with_fds)
{
	struct door d = {.l = {.on_accept = on_accept, .with_fds = with_fds}, .max = 1};
	struct sockaddr_in sa;
	int lfd = listen_any(&sa);
	char ch;

	cr_assert_eq(fh_io_listen(io, &d.l, lfd), 0);
	for (int i = 0; i < 500; i++) {
		int fd = dial(&sa);

		poll_until(io, d.nr == 1);
		cr_expect(!with_fds || fcntl(fh_io_fd(&d.ends[0]->sock), F_GETFD) == FD_CLOEXEC);
		fh_io_send(&d.ends[0]->sock, "x", 1);
		poll_until(io, d.ends[0]->nr_sent);
		cr_assert_eq(d.ends[0]->last_sent, 0, "connection %d was shut down by its predecessor", i);
		cr_assert_eq(read(fd, &ch, 1), 1);
		fh_io_shutdown(&d.ends[0]->sock);
		fh_io_close(&d.ends[0]->sock);
		poll_until(io, d.ends[0]->nr_closed);
		free(d.ends[0]);
		d.nr = 0;
		close(fd);
	}
	/* One that is hung up on, likewise. */
	d.max = 0;
	for (int i = 0; i < 3; i++) {
		int fd = dial(&sa);

		poll_until(io, d.nr_refused == i + 1);
		fh_io_poll(io, 1000000);
		cr_expect_leq(read(fd, &ch, 1), 0);
		close(fd);
	}
	close(lfd);
}

IO_TEST(accepts_for_ever)
{
	accept_for_ever(io, false);
}

IO_TEST(accepts_descriptors_for_ever)
{
	accept_for_ever(io, true);
}

/* A message whose control data matter: here a descriptor, which arrives. */
IO_TEST(sends_a_message)
{
	int pipe_fd[2], peer, got = -1;
	struct end *e = end_make(io, &peer);
	char text[] = "hello", in[16] = "";
	struct iovec iov = {text, 5}, in_iov = {in, sizeof(in)};
	union {
		struct cmsghdr align;
		char bytes[CMSG_SPACE(sizeof(int))];
	} out_control = {0}, in_control;
	struct msghdr msg = {.msg_iov = &iov,
			     .msg_iovlen = 1,
			     .msg_control = &out_control,
			     .msg_controllen = sizeof(out_control)},
		      in_msg = {.msg_iov = &in_iov,
				.msg_iovlen = 1,
				.msg_control = &in_control,
				.msg_controllen = sizeof(in_control)};

	cr_assert_eq(pipe(pipe_fd), 0);
	out_control.align =
		(struct cmsghdr){.cmsg_level = SOL_SOCKET, .cmsg_type = SCM_RIGHTS, .cmsg_len = CMSG_LEN(sizeof(int))};
	memcpy(CMSG_DATA(&out_control.align), &pipe_fd[1], sizeof(int));
	fh_io_sendmsg(&e->sock, &msg, 5);
	cr_expect(fh_io_sending(&e->sock));
	poll_until(io, e->nr_sent);
	cr_expect_eq(e->last_sent, 0);
	cr_expect_eq(e->sock.nr_sent, 5);
	cr_assert_eq(recvmsg(peer, &in_msg, 0), 5);
	memcpy(&got, CMSG_DATA(&in_control.align), sizeof(int));
	cr_expect_eq(write(got, "x", 1), 1);
	cr_expect_eq(read(pipe_fd[0], in, 1), 1);
	/* Bytes follow as ever; nobody is left to read a last message. */
	fh_io_send(&e->sock, "y", 1);
	poll_until(io, e->nr_sent == 2);
	cr_expect_eq(read(peer, in, 1), 1);
	close(peer);
	fh_io_sendmsg(&e->sock, &msg, 5);
	poll_until(io, e->nr_sent == 3);
	cr_expect_eq(e->last_sent, -EPIPE);
	close(got);
	close(pipe_fd[0]);
	close(pipe_fd[1]);
	end_drop(io, e, dup(2));
}

/* Timers */

struct clock {
	struct fh_io_timer t;
	struct fh_io *io;
	uint64_t fired_ns;
	int nr;
	struct clock *kills;
};

static void on_timer(struct fh_io_timer *t)
{
	struct clock *c = (struct clock *)t; /* first member */

	c->fired_ns = fh_now_ns();
	c->nr++;
	if (c->kills)
		fh_io_timer_clear(c->io, &c->kills->t);
}

IO_TEST(timers)
{
	struct clock c[5] = {0};
	uint64_t now = fh_now_ns(), late;

	for (int i = 0; i < 5; i++)
		c[i] = (struct clock){.t.fn = on_timer, .io = io};
	fh_io_timer_set(io, &c[0].t, now + 30000000);
	fh_io_timer_set(io, &c[1].t, now + 100000000);
	fh_io_timer_set(io, &c[1].t, now + 50000000); /* sooner */
	fh_io_timer_set(io, &c[2].t, now + 20000000);
	fh_io_timer_set(io, &c[2].t, now + 150000000); /* later: it stays where it is until then */
	fh_io_timer_set(io, &c[3].t, now + 40000000);
	fh_io_timer_clear(io, &c[3].t);
	fh_io_timer_set(io, &c[4].t, now + 3600000000000u); /* beyond the wheel */
	/* The loop wakes for them by itself. */
	for (int i = 0; i < 200 && !c[2].nr; i++)
		fh_io_poll(io, UINT64_MAX);
	cr_expect(c[0].nr == 1 && c[1].nr == 1 && c[2].nr == 1 && !c[3].nr && !c[4].nr);
	cr_expect_geq(c[0].fired_ns, now + 30000000);
	cr_expect_geq(c[1].fired_ns, now + 50000000);
	cr_expect_geq(c[2].fired_ns, now + 150000000);
	late = c[1].fired_ns - now - 50000000;
	cr_expect_lt(late, 40000000u, "%llu ns late", (unsigned long long)late);
	fh_io_timer_clear(io, &c[4].t);
	fh_io_timer_clear(io, &c[4].t);
	/* A callback may clear a timer that is due in the same slot. */
	now = fh_now_ns();
	c[0].kills = &c[1];
	c[1].kills = &c[0];
	c[0].nr = c[1].nr = 0;
	fh_io_timer_set(io, &c[0].t, now + 1000);
	fh_io_timer_set(io, &c[1].t, now + 1000);
	for (int i = 0; i < 10; i++)
		fh_io_poll(io, 10000000);
	cr_expect_eq(c[0].nr + c[1].nr, 1);
}

/* Many timers, set and moved at random, against plain arithmetic. */
IO_TEST(timers_at_random)
{
	enum { NR = 200 };
	struct clock *c = calloc(NR, sizeof(*c));
	uint64_t due[NR] = {0}, end = fh_now_ns() + 600000000u;
	unsigned int seed = 5;

	for (int i = 0; i < NR; i++)
		c[i].t.fn = on_timer;
	while (fh_now_ns() < end) {
		for (int k = 0; k < 20; k++) {
			int i = rand_r(&seed) % NR;

			if (c[i].nr) {
				cr_assert_geq(c[i].fired_ns, due[i], "timer %d fired early", i);
				cr_assert_lt(c[i].fired_ns - due[i], 400000000u, "timer %d fired late", i);
				c[i].nr = 0;
			}
			due[i] = fh_now_ns() + (uint64_t)(rand_r(&seed) % 120) * 1000000u;
			fh_io_timer_set(io, &c[i].t, due[i]);
		}
		fh_io_poll(io, 2000000);
	}
	for (int i = 0; i < NR; i++)
		fh_io_timer_clear(io, &c[i].t);
	free(c);
}

/* Wake-ups */

struct alarm {
	struct fh_io *io;
	_Atomic uint32_t stop;
	uint32_t delay_us;
};

static void *ring(void *arg)
{
	struct alarm *a = arg;

	while (!atomic_load(&a->stop)) {
		usleep(a->delay_us);
		fh_io_wake(a->io);
	}
	return NULL;
}

IO_TEST(wakes)
{
	struct alarm a = {.io = io, .delay_us = 2000};
	pthread_t thread;
	uint64_t start;

	/* A wake-up before the poll counts for it. */
	fh_io_poll(io, 0);
	fh_io_wake(io);
	start = fh_now_ns();
	fh_io_poll(io, 5000000000u);
	cr_expect_lt(fh_now_ns() - start, 2000000000u);
	pthread_create(&thread, NULL, ring, &a);
	for (int i = 0; i < 200; i++)
		cr_assert_eq(fh_io_poll(io, UINT64_MAX), 0);
	atomic_store(&a.stop, 1);
	pthread_join(thread, NULL);
	/* And without one the loop sleeps. */
	for (int i = 0; i < 3; i++)
		fh_io_poll(io, 1000000);
	start = fh_now_ns();
	fh_io_poll(io, 50000000);
	cr_expect_geq(fh_now_ns() - start, 45000000u);
}

static int count_fds(void)
{
	DIR *dir = opendir("/proc/self/fd");
	int n = 0;

	while (readdir(dir))
		n++;
	closedir(dir);
	return n;
}

Test(io, leaves_no_descriptor, .timeout = 30)
{
	struct fh_err err = {0};
	int before = count_fds();

	for (int i = 0; i < 20; i++) {
		struct fh_io_config cfg = {.max_socks = 16, .force_epoll = i & 1};
		struct fh_io *io;

		cr_assert_eq(fh_io_create(&cfg, &io, &err), 0);
		if (i & 2)
			cr_assert_eq(fh_io_start(io, &err), 0);
		fh_io_destroy(io);
	}
	cr_expect_eq(count_fds(), before);
}

/* As in a container whose filter forbids io_uring: epoll serves, and the reason is told. */
Test(io, falls_back_to_epoll)
{
	struct fh_io_config cfg = {.max_socks = 16};
	scmp_filter_ctx filter = seccomp_init(SCMP_ACT_ALLOW);
	struct fh_err err = {0};
	struct fh_io *io;

	cr_assert(filter);
	cr_assert_eq(seccomp_rule_add(filter, SCMP_ACT_ERRNO(EPERM), SCMP_SYS(io_uring_setup), 0), 0);
	cr_assert_eq(seccomp_load(filter), 0);
	seccomp_release(filter);
	cr_assert_eq(fh_io_create(&cfg, &io, &err), 0, "%s", err.msg);
	cr_expect_str_eq(fh_io_backend(io), "epoll (io_uring: Operation not permitted)");
	cr_assert_eq(fh_io_start(io, &err), 0);
	fh_io_wake(io);
	cr_expect_eq(fh_io_poll(io, 1000000), 0);
	fh_io_destroy(io);
}

Test(io, refuses_odd_sizes)
{
	struct fh_io_config cfg = {.recv_bytes = 1000};
	struct fh_err err = {0};
	struct fh_io *io;

	cr_expect_eq(fh_io_create(&cfg, &io, &err), -EINVAL);
	cr_expect(strstr(err.msg, "powers of two"));
}

/* A descriptor that the test reads itself. */
struct seen {
	struct fh_io_watch w;
	int nr_ready, nr_stopped, read_fd;
	uint32_t events;
	bool stop_at_once;
};

static void on_ready(struct fh_io_watch *w, uint32_t events)
{
	struct seen *s = (struct seen *)w; /* first member */
	char byte;

	cr_assert_eq(s->nr_stopped, 0);
	s->nr_ready++;
	s->events = events;
	if (s->read_fd >= 0 && read(s->read_fd, &byte, 1) != 1)
		s->nr_ready += 1000;
	if (s->stop_at_once)
		fh_io_unwatch(w);
}

static void on_stopped(struct fh_io_watch *w)
{
	((struct seen *)w)->nr_stopped++;
}

IO_TEST(a_watched_descriptor_is_reported_while_it_is_ready)
{
	struct seen s = {.w = {.on_ready = on_ready, .on_stopped = on_stopped}, .read_fd = -1};
	int fd[2];

	cr_assert_eq(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, fd), 0);
	cr_assert_eq(fh_io_watch(io, &s.w, fd[0], POLLIN), 0);
	fh_io_poll(io, 1000000);
	cr_assert_eq(s.nr_ready, 0);
	/* Left unread, so it comes again; then read, one a turn. */
	cr_assert_eq(write(fd[1], "abc", 3), 3);
	cr_assert_eq(write(fd[1], "d", 1), 1);
	poll_until(io, s.nr_ready == 3);
	s.read_fd = fd[0];
	poll_until(io, s.nr_ready == 5);
	cr_assert_eq(s.events, (uint32_t)POLLIN);
	for (int i = 0; i < 3; i++)
		fh_io_poll(io, 1000000);
	cr_assert_eq(s.nr_ready, 5, "two packets were read, and it is still called ready");
	/* The peer's end. */
	s.read_fd = -1;
	s.stop_at_once = true;
	close(fd[1]);
	poll_until(io, s.nr_stopped == 1);
	cr_assert_eq(s.nr_ready, 6);
	cr_assert(s.events & POLLHUP);
	for (int i = 0; i < 3; i++)
		fh_io_poll(io, 1000000);
	cr_assert(s.nr_ready == 6 && s.nr_stopped == 1);
	close(fd[0]);
}

IO_TEST(a_watch_is_stopped_before_anything_happens)
{
	struct seen s = {.w = {.on_ready = on_ready, .on_stopped = on_stopped}, .read_fd = -1};
	int fd[2];

	for (int ready = 0; ready < 2; ready++) {
		cr_assert_eq(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, fd), 0);
		cr_assert_eq(fh_io_watch(io, &s.w, fd[0], POLLIN), 0);
		fh_io_poll(io, 0);
		if (ready)
			cr_assert_eq(write(fd[1], "a", 1), 1);
		fh_io_unwatch(&s.w);
		fh_io_unwatch(&s.w);
		poll_until(io, s.nr_stopped == ready + 1);
		cr_assert_eq(s.nr_ready, 0);
		close(fd[0]);
		close(fd[1]);
	}
}
