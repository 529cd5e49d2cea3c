// SPDX-License-Identifier: Apache-2.0
/*
 * Channels without the kernel module: the handshake of runtime/base/chan_sock.h
 * over a Unix socket, and the death of either side.
 *
 * Everything here runs on the I/O thread but the three functions of
 * struct fh_chan_ops, which the engine's thread calls and which touch only the
 * socket (a packet, a shutdown) and the info area.
 *
 * A connection owns its socket, both memfds and both mappings.  It is freed when
 * nobody needs it any more: the loop (on_stopped) and, once fh_chan_open() took
 * it, the front end (release).  Until then its descriptor stays open, so that
 * the engine never sends to whoever got the number next.
 */
#include <fcntl.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#include "runtime/base/futex.h"
#include "runtime/base/log.h"
#include "runtime/net/chan_priv.h"
#include "runtime/net/unix_listen.h"

#define BACKLOG 128
#define HANDSHAKE_NS 5000000000u /* that a client may take for it */
#define ACCEPT_PER_TURN 32
#define PACKETS_PER_TURN 16
#define ACCEPT_AGAIN_NS 100000000u /* after the process ran out of descriptors */

#define container_of(ptr, type, member) ((type *)((char *)(ptr)-offsetof(type, member)))

struct sock_conn {
	struct fh_chan chan;
	struct sock *t;
	struct sock_conn *next, **pprev; /* in t->conns */
	struct fh_io_watch watch;
	struct fh_io_timer timer; /* of the handshake */
	int fd, runtime_fd;
	enum fh_sock_stage stage;
	void *runtime_map, *client_map; /* [info.chan_bytes] or NULL */
	uint64_t counted_bytes;		/* of its uid's */
	bool stopped;			/* the loop has let go of it */
	bool handed_over, released;	/* the front end has it; had it */
};

/* What a user has. Entries without channels are free. */
struct sock_uid {
	uint32_t uid, nr;
	uint64_t bytes;
};

struct sock {
	struct fh_chan_transport base;
	struct fh_unix_listener file;
	struct fh_io_watch watch;
	struct fh_io_timer again;
	bool drained, paused;
	char url[128];
	int vocab_fd;
	struct sock_conn *conns;
	struct sock_uid *uids; /* [max_channels] */
	uint32_t nr_conns;     /* those in handshake included */
	uint64_t last_gen;
	_Atomic(struct fh_chan *) released;
};

static struct sock_conn *conn_of(struct fh_chan *c)
{
	return container_of(c, struct sock_conn, chan);
}

/* ---- limits ---- */

/* The entry of @uid, or a free one, or NULL. */
static struct sock_uid *find_uid(struct sock *t, uint32_t uid)
{
	struct sock_uid *spare = NULL;

	for (uint32_t i = 0; i < t->base.f->cfg.max_channels; i++) {
		if (t->uids[i].nr && t->uids[i].uid == uid)
			return &t->uids[i];
		if (!t->uids[i].nr && !spare)
			spare = &t->uids[i];
	}
	if (spare)
		*spare = (struct sock_uid){.uid = uid};
	return spare;
}

static int charge_conn(struct sock *t, struct sock_conn *s, struct fh_err *err)
{
	const struct fh_chans_config *cfg = &t->base.f->cfg;
	struct sock_uid *u = find_uid(t, s->chan.peer.uid);

	if (!u || t->nr_conns >= cfg->max_channels)
		return fh_errf(err, -EDQUOT, "%u channels are open already", t->nr_conns);
	if (u->nr >= cfg->max_per_uid)
		return fh_errf(err, -EDQUOT, "user %u has %u channels already", u->uid, u->nr);
	u->nr++;
	t->nr_conns++;
	return 0;
}

static int charge_bytes(struct sock_conn *s, uint64_t bytes, struct fh_err *err)
{
	struct sock_uid *u = find_uid(s->t, s->chan.peer.uid);
	uint64_t most = s->t->base.f->cfg.max_uid_bytes;

	if (bytes > most || u->bytes > most - bytes)
		return fh_errf(err, -EDQUOT, "a channel of %llu KiB: user %u has %llu of %llu KiB already",
			       (unsigned long long)bytes >> 10, u->uid, (unsigned long long)u->bytes >> 10,
			       (unsigned long long)most >> 10);
	u->bytes += bytes;
	s->counted_bytes = bytes;
	return 0;
}

static void uncharge(struct sock_conn *s)
{
	struct sock_uid *u = find_uid(s->t, s->chan.peer.uid);

	u->bytes -= s->counted_bytes;
	u->nr--;
	s->t->nr_conns--;
}

/* ---- the end of a connection ---- */

static void unmap(void *map, uint64_t bytes)
{
	if (map)
		munmap(map, bytes);
}

static void free_conn(struct sock_conn *s)
{
	if (s->handed_over)
		fh_chan_log_end(&s->chan);
	fh_io_timer_clear(s->t->base.f->io, &s->timer);
	unmap(s->runtime_map, s->chan.info.chan_bytes);
	unmap(s->client_map, s->chan.info.chan_bytes);
	if (s->runtime_fd >= 0)
		close(s->runtime_fd);
	close(s->fd);
	*s->pprev = s->next;
	if (s->next)
		s->next->pprev = s->pprev;
	uncharge(s);
	free(s);
}

static void free_if_unused(struct sock_conn *s)
{
	if (s->stopped && (!s->handed_over || s->released))
		free_conn(s);
}

static void on_stopped(struct fh_io_watch *w)
{
	struct sock_conn *s = container_of(w, struct sock_conn, watch);

	s->stopped = true;
	free_if_unused(s);
}

/* The client is gone, or to be treated so. */
static void end_conn(struct sock_conn *s, uint32_t why)
{
	fh_io_timer_clear(s->t->base.f->io, &s->timer);
	fh_io_unwatch(&s->watch);
	if (s->handed_over)
		fh_chan_gone(&s->chan, why);
}

static void set_state(struct sock_conn *s, uint32_t state, uint32_t reason)
{
	struct fh_chan_info *info = s->runtime_map;

	atomic_store((_Atomic uint32_t *)&info->revoke_reason, reason);
	atomic_store((_Atomic uint32_t *)&info->state, state); /* (M) */
}

static void send_refused(struct sock *t, int fd, const struct fh_peer *peer, const struct fh_err *err, int error)
{
	struct fh_sock_refused p = {.head = {sizeof(p), FH_SOCK_REFUSED}, .error = error};

	p.retry_us = error == -EDQUOT ? 1000000 : 0;
	snprintf(p.why, sizeof(p.why), "%.119s", err->msg);
	send(fd, &p, sizeof(p), MSG_DONTWAIT | MSG_NOSIGNAL);
	if (fh_chan_may_log(t->base.f))
		fh_warn("unix channel: uid %u, pid %u refused: %s", peer->uid, peer->pid, err->msg);
}

/* Say why not, and hang up. */
static void refuse(struct sock_conn *s, const struct fh_err *err, int error)
{
	send_refused(s->t, s->fd, &s->chan.peer, err, error);
	shutdown(s->fd, SHUT_RDWR);
	end_conn(s, FH_CHAN_CLOSED);
}

/* The client broke the socket's rules. */
static void violation(struct sock_conn *s, const struct fh_err *err, int error)
{
	atomic_fetch_add_explicit(&s->t->base.f->st.nr_violations, 1, memory_order_relaxed);
	if (s->handed_over)
		set_state(s, FH_CHAN_REVOKED, FH_REVOKE_PROTOCOL);
	refuse(s, err, error);
}

/* ---- what the engine's thread calls ---- */

static void sock_kick(struct fh_chan *c)
{
	const struct fh_sock_head kick = {sizeof(kick), FH_SOCK_KICK};

	/* Full: the client has packets to read, so it wakes anyway. */
	send(conn_of(c)->fd, &kick, sizeof(kick), MSG_DONTWAIT | MSG_NOSIGNAL);
}

static void sock_revoke(struct fh_chan *c, uint32_t reason)
{
	struct sock_conn *s = conn_of(c);

	set_state(s, FH_CHAN_REVOKED, reason);
	fh_futex_wake_shared(c->sink.tail_word);
	/* Both sides see the end; the I/O thread hangs up. */
	shutdown(s->fd, SHUT_RDWR);
}

static void sock_release(struct fh_chan *c)
{
	struct sock *t = conn_of(c)->t;

	c->next_released = atomic_load(&t->released);
	while (!atomic_compare_exchange_weak(&t->released, &c->next_released, c))
		;
	fh_io_wake(t->base.f->io);
}

static const struct fh_chan_ops sock_ops = {
	.name = "unix",
	.transport = FH_SPAN_UNIX,
	.kick = sock_kick,
	.revoke = sock_revoke,
	.release = sock_release,
};

/* ---- the handshake ---- */

/*
 * The same file, opened anew for reading: the client gets neither our right to
 * write nor a position in it that others move.  Without /proc a duplicate has to
 * do; the seals hold for that, too.
 */
static int open_for_client(int fd)
{
	char path[32];
	int ret;

	snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
	ret = open(path, O_RDONLY | O_CLOEXEC);
	return ret >= 0 ? ret : fcntl(fd, F_DUPFD_CLOEXEC, 3);
}

/* Send WELCOME with the descriptors of the runtime's memfd and of the vocabulary. */
static int send_welcome(struct sock_conn *s)
{
	const struct fh_sock_head welcome = {sizeof(welcome), FH_SOCK_WELCOME};
	union {
		char buf[CMSG_SPACE(FH_SOCK_MAX_FDS * sizeof(int))];
		struct cmsghdr align;
	} control = {0};
	struct iovec iov = {(void *)&welcome, sizeof(welcome)};
	struct msghdr msg = {.msg_iov = &iov, .msg_iovlen = 1, .msg_control = control.buf};
	size_t n = s->t->vocab_fd >= 0 ? 2 : 1;
	int fds[FH_SOCK_MAX_FDS] = {-1, -1}, rc;
	struct cmsghdr *cmsg;

	fds[FH_SOCK_FD_RUNTIME] = open_for_client(s->runtime_fd);
	if (n == 2)
		fds[FH_SOCK_FD_VOCAB] = open_for_client(s->t->vocab_fd);
	msg.msg_controllen = CMSG_SPACE(n * sizeof(int));
	cmsg = CMSG_FIRSTHDR(&msg);
	cmsg->cmsg_level = SOL_SOCKET;
	cmsg->cmsg_type = SCM_RIGHTS;
	cmsg->cmsg_len = CMSG_LEN(n * sizeof(int));
	memcpy(CMSG_DATA(cmsg), fds, n * sizeof(int));
	/* -EBADF where we are out of descriptors. */
	rc = sendmsg(s->fd, &msg, MSG_DONTWAIT | MSG_NOSIGNAL) < 0 ? -errno : 0;
	for (size_t i = 0; i < n; i++)
		if (fds[i] >= 0)
			close(fds[i]);
	return rc;
}

/* Touch what we write, so that no page is missing later, on the hot path. */
static void touch(struct sock_conn *s)
{
	static const uint32_t ours[] = {FH_AREA_INFO, FH_AREA_RUNTIME, FH_AREA_CQ};
	const struct fh_chan_info *info = &s->chan.info;

	for (size_t i = 0; i < sizeof(ours) / sizeof(ours[0]); i++)
		memset((char *)s->runtime_map + info->areas[ours[i]].off, 0, info->areas[ours[i]].bytes);
}

static void on_hello(struct sock_conn *s, const struct fh_sock_hello *h)
{
	struct fh_chan_info *info = &s->chan.info;
	uint32_t page = (uint32_t)sysconf(_SC_PAGESIZE);
	struct fh_err err;
	int rc;

	/* Checked by fh_sock_packet(). */
	fh_chan_layout(info, h->page_bytes > page ? h->page_bytes : page, h->sq_entries, h->cq_entries, h->arena_bytes);
	rc = charge_bytes(s, info->chan_bytes, &err);
	if (!rc)
		rc = fh_memfd_make("freehold-channel", info->chan_bytes, &s->runtime_fd, &s->runtime_map, &err);
	if (rc) {
		s->runtime_map = NULL;
		atomic_fetch_add_explicit(&s->t->base.f->st.nr_refused, 1, memory_order_relaxed);
		refuse(s, &err, rc);
		return;
	}
	touch(s);
	info->state = FH_CHAN_WAITING;
	memcpy(s->runtime_map, info, sizeof(*info));
	rc = send_welcome(s);
	if (rc) {
		fh_errf(&err, rc, "WELCOME could not be sent: %s", strerror(-rc));
		refuse(s, &err, rc);
		return;
	}
	/* The client has it now; our mapping needs it no longer. */
	close(s->runtime_fd);
	s->runtime_fd = -1;
	s->stage = FH_STAGE_ATTACH;
}

static void on_attach(struct sock_conn *s, int fd)
{
	const struct fh_sock_head open = {sizeof(open), FH_SOCK_OPEN};
	const struct fh_chan_info *info = &s->chan.info;
	struct fh_err err;
	int rc = fh_memfd_map(fd, info->chan_bytes, &s->client_map, &err);

	if (rc) {
		s->client_map = NULL;
		violation(s, &err, rc);
		return;
	}
	for (int i = 0; i < FH_NR_AREAS; i++) {
		char *base = info->areas[i].writer == FH_WRITER_CLIENT ? s->client_map : s->runtime_map;

		s->chan.area[i] = base + info->areas[i].off;
	}
	s->chan.can_futex = true;
	rc = fh_chan_open(s->t->base.f, &s->chan, &err);
	if (rc) {
		refuse(s, &err, rc);
		return;
	}
	s->handed_over = true;
	s->stage = FH_STAGE_OPEN;
	fh_io_timer_clear(s->t->base.f->io, &s->timer);
	set_state(s, FH_CHAN_OPEN, FH_REVOKE_NONE);
	fh_chan_log_open(&s->chan);
	if (send(s->fd, &open, sizeof(open), MSG_DONTWAIT | MSG_NOSIGNAL) < 0)
		end_conn(s, FH_CHAN_CLIENT_DEAD);
}

/* One packet and its descriptors.  False: there is none, or the connection ends. */
static bool recv_packet(struct sock_conn *s, bool *kicked)
{
	union {
		char buf[CMSG_SPACE(FH_SOCK_MAX_FDS * sizeof(int))];
		struct cmsghdr align;
	} control;
	char buf[sizeof(struct fh_sock_refused)];
	struct iovec iov = {buf, sizeof(buf)};
	struct msghdr msg = {
		.msg_iov = &iov, .msg_iovlen = 1, .msg_control = control.buf, .msg_controllen = sizeof(control.buf)};
	ssize_t n = recvmsg(s->fd, &msg, MSG_DONTWAIT | MSG_CMSG_CLOEXEC | MSG_TRUNC);
	int fds[FH_SOCK_MAX_FDS] = {-1, -1};
	struct fh_sock_hello hello;
	uint32_t nr_fds = 0;
	struct fh_err err;
	int rc;

	if (n < 0 && (errno == EAGAIN || errno == EINTR))
		return false;
	if (n <= 0) {
		end_conn(s, FH_CHAN_CLIENT_DEAD);
		return false;
	}
	for (struct cmsghdr *c = CMSG_FIRSTHDR(&msg); c; c = CMSG_NXTHDR(&msg, c)) {
		if (c->cmsg_level != SOL_SOCKET || c->cmsg_type != SCM_RIGHTS)
			continue;
		/* No more fit than there is room for; the kernel closes the rest. */
		nr_fds = (uint32_t)((c->cmsg_len - CMSG_LEN(0)) / sizeof(int));
		memcpy(fds, CMSG_DATA(c), nr_fds * sizeof(int));
	}
	rc = fh_sock_packet(buf, (size_t)n, nr_fds + !!(msg.msg_flags & MSG_CTRUNC), s->stage, &hello, &err);
	if (rc)
		violation(s, &err, rc);
	else if (s->stage == FH_STAGE_HELLO)
		on_hello(s, &hello);
	else if (s->stage == FH_STAGE_ATTACH)
		on_attach(s, fds[0]);
	else
		*kicked = true;
	for (uint32_t i = 0; i < nr_fds; i++)
		close(fds[i]);
	return !rc;
}

static void on_ready(struct fh_io_watch *w, uint32_t events)
{
	struct sock_conn *s = container_of(w, struct sock_conn, watch);
	bool kicked = false;

	(void)events;
	for (int i = 0; i < PACKETS_PER_TURN && recv_packet(s, &kicked); i++)
		;
	/* However many there were: one is enough. */
	if (kicked)
		fh_chan_kicked(s->t->base.f);
}

static void on_late(struct fh_io_timer *timer)
{
	struct sock_conn *s = container_of(timer, struct sock_conn, timer);
	struct fh_err err;

	fh_errf(&err, -ETIMEDOUT, "the handshake took more than %u s", (unsigned int)(HANDSHAKE_NS / 1000000000u));
	refuse(s, &err, -ETIMEDOUT);
}

/* ---- listening ---- */

static void new_conn(struct sock *t, int fd)
{
	struct sock_conn *s = calloc(1, sizeof(*s));
	struct fh_io *io = t->base.f->io;
	struct fh_err err;
	int rc;

	if (!s)
		goto err_close;
	s->t = t;
	s->fd = fd;
	s->runtime_fd = -1;
	s->chan.ops = &sock_ops;
	s->watch.on_ready = on_ready;
	s->watch.on_stopped = on_stopped;
	s->timer.fn = on_late;
	if (fh_chan_peer(fd, &s->chan.peer))
		goto err_free;
	rc = charge_conn(t, s, &err);
	if (rc) {
		atomic_fetch_add_explicit(&t->base.f->st.nr_refused, 1, memory_order_relaxed);
		send_refused(t, fd, &s->chan.peer, &err, rc);
		goto err_free;
	}
	s->chan.peer.chan_gen = ++t->last_gen;
	s->next = t->conns;
	s->pprev = &t->conns;
	if (s->next)
		s->next->pprev = &s->next;
	t->conns = s;
	fh_io_timer_set(io, &s->timer, fh_io_now_ns(io) + HANDSHAKE_NS);
	if (fh_io_watch(io, &s->watch, fd, POLLIN)) {
		s->stopped = true;
		free_conn(s);
	}
	return;

err_free:
	free(s);
err_close:
	close(fd);
}

static void on_acceptable(struct fh_io_watch *w, uint32_t events)
{
	struct sock *t = container_of(w, struct sock, watch);
	struct fh_io *io = t->base.f->io;

	(void)events;
	for (int i = 0; i < ACCEPT_PER_TURN; i++) {
		int fd = accept4(t->file.fd, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);

		if (fd >= 0) {
			new_conn(t, fd);
			continue;
		}
		if (errno == EINTR || errno == ECONNABORTED)
			continue;
		if (errno != EAGAIN && errno != EWOULDBLOCK) {
			/* Out of descriptors or memory: it would be ready again at once. */
			t->paused = true;
			fh_io_unwatch(&t->watch);
			fh_io_timer_set(io, &t->again, fh_io_now_ns(io) + ACCEPT_AGAIN_NS);
		}
		return;
	}
}

static void on_listener_stopped(struct fh_io_watch *w)
{
	struct sock *t = container_of(w, struct sock, watch);

	if (t->drained)
		fh_unix_unlisten(&t->file);
}

static void listen_again(struct fh_io_timer *timer)
{
	struct sock *t = container_of(timer, struct sock, again);

	t->paused = false;
	if (!t->drained)
		fh_io_watch(t->base.f->io, &t->watch, t->file.fd, POLLIN);
}

/* ---- the transport ---- */

static int sock_start(struct fh_chan_transport *base, struct fh_err *err)
{
	struct sock *t = container_of(base, struct sock, base);
	int rc = fh_io_watch(base->f->io, &t->watch, t->file.fd, POLLIN);

	return rc ? fh_errf(err, rc, "%s: cannot accept: %s", t->url, strerror(-rc)) : 0;
}

static void sock_turn(struct fh_chan_transport *base)
{
	struct sock *t = container_of(base, struct sock, base);
	struct fh_chan *c = atomic_exchange(&t->released, NULL), *next;

	for (; c; c = next) {
		struct sock_conn *s = conn_of(c);

		next = c->next_released;
		s->released = true;
		if (!s->stopped)
			fh_io_unwatch(&s->watch);
		free_if_unused(s);
	}
}

static void sock_drain(struct fh_chan_transport *base)
{
	struct sock *t = container_of(base, struct sock, base);

	t->drained = true;
	if (t->paused)
		fh_unix_unlisten(&t->file);
	else
		fh_io_unwatch(&t->watch);
}

static void sock_destroy(struct fh_chan_transport *base)
{
	struct sock *t = container_of(base, struct sock, base);

	while (t->conns)
		free_conn(t->conns);
	fh_unix_unlisten(&t->file);
	if (t->vocab_fd >= 0)
		close(t->vocab_fd);
	free(t->uids);
	free(t);
}

const char *fh_chan_sock_url(const struct fh_chan_transport *base)
{
	return container_of(base, struct sock, base)->url;
}

int fh_chan_sock_create(struct fh_chans *f, struct fh_chan_transport **out, struct fh_err *err)
{
	struct sock *t = calloc(1, sizeof(*t));
	int rc;

	if (!t)
		return fh_errf(err, -ENOMEM, "no memory for the channels' socket");
	t->base = (struct fh_chan_transport){.name = "unix",
					     .f = f,
					     .start = sock_start,
					     .turn = sock_turn,
					     .drain = sock_drain,
					     .destroy = sock_destroy};
	t->vocab_fd = t->file.fd = -1;
	t->watch.on_ready = on_acceptable;
	t->watch.on_stopped = on_listener_stopped;
	t->again.fn = listen_again;
	t->uids = calloc(f->cfg.max_channels, sizeof(*t->uids));
	rc = t->uids ? 0 : fh_errf(err, -ENOMEM, "no memory for the channels' socket");
	if (!rc)
		rc = fh_chan_vocab(f->svc, &t->vocab_fd, err);
	if (!rc)
		rc = fh_unix_listen(&t->file, f->cfg.unix_path, SOCK_SEQPACKET, BACKLOG, err);
	if (rc) {
		sock_destroy(&t->base);
		return rc;
	}
	snprintf(t->url, sizeof(t->url), "unix:%s", t->file.path);
	*out = &t->base;
	return 0;
}
