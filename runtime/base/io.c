// SPDX-License-Identifier: Apache-2.0
/*
 * The part of the event loop that does not depend on the kernel's interface:
 * choice of a backend, wake-ups, timers.
 *
 * Timers lie in a wheel of FH_IO_WHEEL_SLOTS ticks.  Moving a timer forward,
 * which happens with every request, only stores the new time: the timer stays
 * in its old slot and is put into the right one when that slot comes round.
 * A timer whose time lies beyond the wheel waits in the last slot in the same
 * way.  So a slot may hold timers that are not due, and never one that is late.
 */
#include <assert.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/resource.h>
#include <unistd.h>

#include "runtime/base/clock.h"
#include "runtime/base/io_priv.h"

#define WHEEL_MASK (FH_IO_WHEEL_SLOTS - 1)

/* Room for @max_socks descriptors, as far as the hard limit allows. */
static void raise_nofile(uint32_t max_socks)
{
	rlim_t need = (rlim_t)max_socks + 128;
	struct rlimit rl;

	if (getrlimit(RLIMIT_NOFILE, &rl) || rl.rlim_cur >= need)
		return;
	rl.rlim_cur = rl.rlim_max < need ? rl.rlim_max : need;
	setrlimit(RLIMIT_NOFILE, &rl);
}

static int choose_backend(struct fh_io *io, const struct fh_io_config *cfg, struct fh_err *err)
{
	struct fh_err why;
	int rc;

	if (!cfg->force_epoll) {
		io->be = &fh_io_uring_backend;
		rc = io->be->create(io, cfg, &why);
		if (!rc) {
			snprintf(io->backend, sizeof(io->backend), "%s", io->be->name);
			return 0;
		}
	} else {
		snprintf(why.msg, sizeof(why.msg), "as configured");
	}
	io->be = &fh_io_epoll_backend;
	rc = io->be->create(io, cfg, err);
	if (!rc)
		snprintf(io->backend, sizeof(io->backend), "%s (%.80s)", io->be->name, why.msg);
	return rc;
}

int fh_io_create(const struct fh_io_config *cfg, struct fh_io **out, struct fh_err *err)
{
	struct fh_io_config c = *cfg;
	struct fh_io *io;
	int rc;

	c.max_socks = c.max_socks ? c.max_socks : 4096;
	c.recv_bytes = c.recv_bytes ? c.recv_bytes : 8192;
	c.nr_recv = c.nr_recv ? c.nr_recv : 512;
	if ((c.recv_bytes & (c.recv_bytes - 1)) || (c.nr_recv & (c.nr_recv - 1)) || c.nr_recv > 32768)
		return fh_errf(err, -EINVAL,
			       "receive buffers: size and number must be powers of two, at most 32768 buffers");
	io = calloc(1, sizeof(*io));
	if (!io)
		return fh_errf(err, -ENOMEM, "no memory for an event loop");
	raise_nofile(c.max_socks);
	io->wake_fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
	if (io->wake_fd < 0) {
		rc = fh_errf(err, -errno, "eventfd: %s", strerror(errno));
		goto err_free;
	}
	io->now_ns = fh_now_ns();
	io->cursor = io->now_ns / FH_IO_TICK_NS;
	rc = choose_backend(io, &c, err);
	if (rc)
		goto err_wake;
	*out = io;
	return 0;

err_wake:
	close(io->wake_fd);
err_free:
	free(io);
	return rc;
}

int fh_io_start(struct fh_io *io, struct fh_err *err)
{
	return io->be->start(io, err);
}

void fh_io_destroy(struct fh_io *io)
{
	if (!io)
		return;
	io->be->destroy(io);
	close(io->wake_fd);
	free(io);
}

const char *fh_io_backend(const struct fh_io *io)
{
	return io->backend;
}

void fh_io_wake(struct fh_io *io)
{
	uint64_t one = 1;

	/* It fails only when the counter is full, and then the loop is about to wake anyway. */
	if (write(io->wake_fd, &one, sizeof(one)) < 0)
		return;
}

uint64_t fh_io_now_ns(const struct fh_io *io)
{
	return io->now_ns;
}

void fh_io_turn(struct fh_io *io)
{
	io->now_ns = fh_now_ns();
}

/* Timers */

static void wheel_insert(struct fh_io *io, struct fh_io_timer *t)
{
	uint64_t tick = t->due_ns / FH_IO_TICK_NS + 1;
	uint32_t slot;

	if (tick <= io->cursor)
		tick = io->cursor + 1;
	if (tick > io->cursor + WHEEL_MASK)
		tick = io->cursor + WHEEL_MASK;
	slot = tick & WHEEL_MASK;
	t->tick = tick;
	t->next = io->wheel[slot];
	if (t->next)
		t->next->pprev = &t->next;
	t->pprev = &io->wheel[slot];
	io->wheel[slot] = t;
	io->occupied[slot / 64] |= 1ull << (slot % 64);
	io->nr_timers++;
}

void fh_io_timer_clear(struct fh_io *io, struct fh_io_timer *t)
{
	if (!t->pprev)
		return;
	*t->pprev = t->next;
	if (t->next)
		t->next->pprev = t->pprev;
	t->pprev = NULL;
	io->nr_timers--;
}

void fh_io_timer_set(struct fh_io *io, struct fh_io_timer *t, uint64_t due_ns)
{
	t->due_ns = due_ns;
	if (t->pprev) {
		if (due_ns / FH_IO_TICK_NS + 1 >= t->tick)
			return;
		fh_io_timer_clear(io, t);
	}
	wheel_insert(io, t);
}

static void wheel_fire_slot(struct fh_io *io, uint32_t slot)
{
	struct fh_io_timer *list = io->wheel[slot], *t;

	io->wheel[slot] = NULL;
	io->occupied[slot / 64] &= ~(1ull << (slot % 64));
	if (list)
		list->pprev = &list;
	/* A callback may clear any timer, of this list too: take them from the head. */
	while ((t = list)) {
		fh_io_timer_clear(io, t);
		if (t->due_ns <= io->now_ns)
			t->fn(t);
		else
			wheel_insert(io, t);
	}
}

static void wheel_advance(struct fh_io *io)
{
	uint64_t now = io->now_ns / FH_IO_TICK_NS, first = io->cursor + 1;

	if (now <= io->cursor)
		return;
	/* After a sleep longer than the wheel every slot is visited once. */
	if (now - first >= FH_IO_WHEEL_SLOTS)
		first = now - WHEEL_MASK;
	io->cursor = now;
	for (uint64_t tick = first; tick <= now && io->nr_timers; tick++) {
		uint32_t slot = tick & WHEEL_MASK;

		if (io->occupied[slot / 64] >> (slot % 64) & 1)
			wheel_fire_slot(io, slot);
	}
}

/* Nanoseconds from now until the first occupied slot, UINT64_MAX when there is none. */
static uint64_t wheel_next_ns(struct fh_io *io)
{
	uint64_t tick = io->cursor + 1, end = io->cursor + FH_IO_WHEEL_SLOTS, now, due;

	if (!io->nr_timers)
		return UINT64_MAX;
	while (tick < end) {
		uint32_t slot = tick & WHEEL_MASK;
		uint64_t bits = io->occupied[slot / 64] >> (slot % 64);

		if (bits) {
			now = fh_now_ns();
			due = (tick + (uint32_t)__builtin_ctzll(bits)) * FH_IO_TICK_NS;
			return due > now ? due - now : 0;
		}
		tick += 64 - slot % 64;
	}
	return UINT64_MAX;
}

/* Listeners that ran out of something, once their time has come. */
static uint64_t retry_listeners(struct fh_io *io)
{
	uint64_t next = UINT64_MAX;

	for (struct fh_io_listener *l = io->listeners; l; l = l->next) {
		if (!l->retry_ns)
			continue;
		if (l->retry_ns <= io->now_ns) {
			l->retry_ns = 0;
			io->be->accept_update(l);
		} else if (l->retry_ns - io->now_ns < next) {
			next = l->retry_ns - io->now_ns;
		}
	}
	return next;
}

int fh_io_poll(struct fh_io *io, uint64_t timeout_ns)
{
	uint64_t limit;
	int rc;

	if (timeout_ns) {
		limit = wheel_next_ns(io);
		timeout_ns = limit < timeout_ns ? limit : timeout_ns;
		limit = retry_listeners(io);
		timeout_ns = limit < timeout_ns ? limit : timeout_ns;
	}
	rc = io->be->wait(io, timeout_ns);
	wheel_advance(io);
	return rc;
}

void fh_io_flush(struct fh_io *io)
{
	if (io->be->flush)
		io->be->flush(io);
}

/* Sockets and listeners */

int fh_io_attach(struct fh_io *io, struct fh_io_sock *s, const struct fh_io_sock_ops *ops, int fd)
{
	*s = (struct fh_io_sock){.ops = ops, .io = io, .fd = fd};
	return io->be->attach(s);
}

void fh_io_recv_start(struct fh_io_sock *s)
{
	if (s->state & (FH_SOCK_WANT_RECV | FH_SOCK_CLOSING))
		return;
	s->state |= FH_SOCK_WANT_RECV;
	s->io->be->recv_update(s);
}

void fh_io_recv_stop(struct fh_io_sock *s)
{
	if (!(s->state & FH_SOCK_WANT_RECV) || (s->state & FH_SOCK_CLOSING))
		return;
	s->state &= ~FH_SOCK_WANT_RECV;
	s->io->be->recv_update(s);
}

void fh_io_send(struct fh_io_sock *s, const void *buf, size_t bytes)
{
	assert(bytes && !(s->state & FH_SOCK_SENDING));
	if (s->state & FH_SOCK_CLOSING)
		return;
	s->send_msg = NULL;
	s->send_buf = buf;
	s->send_left = bytes;
	s->state |= FH_SOCK_SENDING;
	s->io->be->send(s);
}

void fh_io_sendmsg(struct fh_io_sock *s, const struct msghdr *msg, size_t bytes)
{
	assert(bytes && !(s->state & FH_SOCK_SENDING));
	if (s->state & FH_SOCK_CLOSING)
		return;
	s->send_msg = msg;
	s->send_left = bytes;
	s->state |= FH_SOCK_SENDING;
	s->io->be->send(s);
}

int fh_io_fd(const struct fh_io_sock *s)
{
	return s->state & FH_SOCK_FIXED ? -1 : s->fd;
}

bool fh_io_sending(const struct fh_io_sock *s)
{
	return s->state & FH_SOCK_SENDING;
}

void fh_io_shutdown(struct fh_io_sock *s)
{
	if (!(s->state & FH_SOCK_CLOSING))
		s->io->be->shutdown(s);
}

void fh_io_close(struct fh_io_sock *s)
{
	if (s->state & FH_SOCK_CLOSING)
		return;
	s->state |= FH_SOCK_CLOSING;
	s->state &= ~FH_SOCK_WANT_RECV;
	s->io->be->close(s);
}

int fh_io_listen(struct fh_io *io, struct fh_io_listener *l, int fd)
{
	int rc;

	l->io = io;
	l->fd = fd;
	l->state = 0;
	l->retry_ns = 0;
	rc = io->be->listen(l);
	if (rc)
		return rc;
	l->next = io->listeners;
	io->listeners = l;
	fh_io_accept_start(l);
	return 0;
}

void fh_io_accept_stop(struct fh_io_listener *l)
{
	if (!(l->state & FH_LISTEN_WANT))
		return;
	l->state &= ~FH_LISTEN_WANT;
	l->retry_ns = 0;
	l->io->be->accept_update(l);
}

void fh_io_accept_start(struct fh_io_listener *l)
{
	if (l->state & FH_LISTEN_WANT)
		return;
	l->state |= FH_LISTEN_WANT;
	l->io->be->accept_update(l);
}

void fh_io_accept_later(struct fh_io_listener *l)
{
	l->retry_ns = l->io->now_ns + FH_IO_ACCEPT_RETRY_NS;
}

int fh_io_watch(struct fh_io *io, struct fh_io_watch *w, int fd, uint32_t events)
{
	w->io = io;
	w->fd = fd;
	w->events = events;
	w->state = 0;
	return io->be->watch(w);
}

void fh_io_unwatch(struct fh_io_watch *w)
{
	if (w->state & FH_WATCH_STOPPING)
		return;
	w->state |= FH_WATCH_STOPPING;
	w->io->be->unwatch(w);
}
