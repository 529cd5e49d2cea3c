// SPDX-License-Identifier: Apache-2.0
/*
 * A channel over a Unix socket and two sealed memfds (runtime/base/chan_sock.h).
 *
 * We own: the socket, whose end tells the runtime that we are gone; our memfd,
 * through its mappings; and mappings of the runtime's.  Both descriptors are
 * closed once they are mapped.
 */
#include <fcntl.h>
#include <linux/futex.h>
#include <linux/magic.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <sys/vfs.h>
#include <unistd.h>

#include "runtime/base/chan_sock.h"
#include "runtime/lib/ring.h"

#ifndef F_SEAL_FUTURE_WRITE
#define F_SEAL_FUTURE_WRITE 0x0010
#endif
#define SEALS (F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_FUTURE_WRITE)

struct unix_link {
	struct fhl_ring ring; /* first: c->t */
	int fd;
	struct fh_chan_info info; /* as it was checked */
	void *area[FH_NR_AREAS];
};

static struct unix_link *link_of(struct fhl_ring *r)
{
	return (struct unix_link *)r;
}

/* Waking and sleeping */

static void send_head(int fd, uint32_t type)
{
	struct fh_sock_head head = {.size = sizeof(head), .type = type};

	/* A full socket is readable already: nobody has to be told again. */
	(void)!send(fd, &head, sizeof(head), MSG_DONTWAIT | MSG_NOSIGNAL);
}

static void unix_kick(struct fhl_ring *r)
{
	uint32_t flags = __atomic_load_n(r->runtime_flags, __ATOMIC_RELAXED);

	if (flags & FH_RING_NEED_FUTEX)
		syscall(SYS_futex, r->sq_tail_word, FUTEX_WAKE, 1, NULL, NULL, 0);
	if (flags & FH_RING_NEED_WAKEUP)
		send_head(link_of(r)->fd, FH_SOCK_KICK);
}

static int unix_check(struct fhl_ring *r)
{
	struct fh_client *c = r->c;
	struct fh_sock_head head;

	for (int i = 0; i < 256; i++) {
		ssize_t n = recv(link_of(r)->fd, &head, sizeof(head), MSG_DONTWAIT);

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0 && (errno == EAGAIN || errno == EWOULDBLOCK))
			return 0;
		if (n <= 0)
			return fh_errf(&c->err, -EPIPE, "%s: the server is gone; open again once it is back", c->where);
		if (n != sizeof(head) || head.type != FH_SOCK_KICK)
			return fh_errf(&c->err, -EPROTO, "%s: the server broke the rules of the socket; open again",
				       c->where);
	}
	return 0;
}

static int unix_sleep(struct fhl_ring *r, uint32_t seen, int ms)
{
	struct timespec ts = {ms / 1000, ms % 1000 * 1000000L};

	/* Shared: the runtime wakes it from its own address space. */
	if (syscall(SYS_futex, r->cq_tail_word, FUTEX_WAIT, seen, &ts, NULL, 0) && errno == EINTR)
		return -EINTR;
	return 0;
}

static const struct fhl_link_ops unix_link_ops = {
	.kick = unix_kick,
	.check = unix_check,
	.sleep = unix_sleep,
	.need = FH_RING_NEED_FUTEX,
};

/* The handshake */

static int connect_socket(struct fh_client *c, const char *path)
{
	struct sockaddr_un a = {.sun_family = AF_UNIX};
	int fd, rc;

	if (strlen(path) >= sizeof(a.sun_path))
		return fh_errf(&c->err, -ENAMETOOLONG, "%s: a socket's path has at most %zu bytes", c->where,
			       sizeof(a.sun_path) - 1);
	strcpy(a.sun_path, path);
	fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (fd < 0)
		return fh_errf(&c->err, -errno, "%s: socket: %s", c->where, strerror(errno));
	while (connect(fd, (struct sockaddr *)&a, sizeof(a))) {
		/* The queue of the listener is full. */
		if (errno == EAGAIN && fhl_left_ms(c->opt.open_deadline_ns, 1) > 0) {
			poll(NULL, 0, 1);
			continue;
		}
		rc = errno == EAGAIN ? -ETIMEDOUT : -errno;
		close(fd);
		return fh_errf(&c->err, rc, "%s: %s: %s", c->where, strerror(-rc),
			       rc == -EACCES	   ? "this user may not use the socket; join its group"
			       : rc == -EPROTOTYPE ? "this is no channel socket; is it HTTP's? then say http+unix:PATH"
						   : "is `freehold serve` running, with this channel socket?");
	}
	return fd;
}

/* What came with a packet. */
struct packet {
	union {
		struct fh_sock_head head;
		struct fh_sock_refused refused;
	};
	size_t bytes;
	int fds[FH_SOCK_MAX_FDS];
	int nr_fds;
};

static void drop_fds(struct packet *p)
{
	for (int i = 0; i < p->nr_fds; i++)
		close(p->fds[i]);
	p->nr_fds = 0;
}

static void take_fds(struct packet *p, struct msghdr *m)
{
	for (struct cmsghdr *h = CMSG_FIRSTHDR(m); h; h = CMSG_NXTHDR(m, h)) {
		int n = (int)((h->cmsg_len - CMSG_LEN(0)) / sizeof(int)), fd;

		if (h->cmsg_level != SOL_SOCKET || h->cmsg_type != SCM_RIGHTS)
			continue;
		for (int i = 0; i < n; i++) {
			memcpy(&fd, CMSG_DATA(h) + (size_t)i * sizeof(fd), sizeof(fd));
			if (p->nr_fds < FH_SOCK_MAX_FDS)
				p->fds[p->nr_fds++] = fd;
			else
				close(fd);
		}
	}
}

static int lost(struct fh_client *c, int rc)
{
	return fh_errf(&c->err, rc, "%s: %s", c->where,
		       rc == -ETIMEDOUT ? "the server did not answer in time; it may be busy: try again"
					: "the server closed the socket before the channel was there");
}

static int recv_packet(struct fh_client *c, int fd, struct packet *p)
{
	union {
		char room[CMSG_SPACE(sizeof(int) * FH_SOCK_MAX_FDS)];
		struct cmsghdr align;
	} control;
	struct iovec iov = {&p->refused, sizeof(p->refused)};
	struct msghdr m = {.msg_iov = &iov, .msg_iovlen = 1};
	ssize_t n;

	memset(p, 0, sizeof(*p));
	for (;;) {
		struct pollfd wait = {.fd = fd, .events = POLLIN};
		int left = fhl_left_ms(c->opt.open_deadline_ns, 60000);

		m.msg_control = &control;
		m.msg_controllen = sizeof(control);
		n = recvmsg(fd, &m, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
		if (n >= 0)
			break;
		if (errno != EAGAIN && errno != EINTR)
			return lost(c, errno == ECONNRESET ? -EPIPE : -errno);
		if (!left)
			return lost(c, -ETIMEDOUT);
		poll(&wait, 1, left);
	}
	take_fds(p, &m);
	p->bytes = (size_t)n;
	return n ? 0 : lost(c, -EPIPE);
}

/* The packet of type @want, or why there is none. The caller drops the descriptors of a good one. */
static int expect(struct fh_client *c, int fd, uint32_t want, struct packet *p)
{
	int rc = recv_packet(c, fd, p);

	if (rc)
		return rc;
	if (p->bytes >= sizeof(p->head) && p->head.size == p->bytes && p->head.type == want)
		return 0;
	drop_fds(p);
	if (p->bytes == sizeof(p->refused) && p->head.type == FH_SOCK_REFUSED) {
		rc = p->refused.error < 0 && p->refused.error > -4096 ? p->refused.error : -EPROTO;
		p->refused.why[sizeof(p->refused.why) - 1] = '\0';
		return fh_errf(&c->err, rc, "%s: the server refused the channel: %s", c->where, p->refused.why);
	}
	return fh_errf(&c->err, -EPROTO, "%s: this is no channel socket of a server that this library (%s) can talk to",
		       c->where, FREEHOLD_VERSION);
}

static int say_hello(struct fh_client *c, int fd)
{
	struct fh_sock_hello h = {
		.head = {.size = sizeof(h), .type = FH_SOCK_HELLO},
		.version = FH_SOCK_VERSION,
		.sq_entries = c->opt.sq_entries,
		.cq_entries = c->opt.cq_entries,
		.arena_bytes = c->opt.arena_bytes,
		.page_bytes = (uint32_t)sysconf(_SC_PAGESIZE),
	};

	return send(fd, &h, sizeof(h), MSG_NOSIGNAL) == sizeof(h) ? 0 : lost(c, -EPIPE);
}

/* A memfd that cannot shrink under us, and that its maker can write only through what it has mapped. */
static int check_memfd(struct fh_client *c, int fd, uint64_t bytes)
{
	int seals = fcntl(fd, F_GET_SEALS);
	struct statfs fs;
	struct stat st;

	if (seals < 0 || (seals & (F_SEAL_SHRINK | F_SEAL_GROW)) != (F_SEAL_SHRINK | F_SEAL_GROW) ||
	    !(seals & (F_SEAL_FUTURE_WRITE | F_SEAL_WRITE)))
		return fh_errf(&c->err, -EPROTO, "%s: the server's memory is not sealed", c->where);
	if (fstatfs(fd, &fs) || fs.f_type != TMPFS_MAGIC)
		return fh_errf(&c->err, -EPROTO, "%s: the server's memory is no tmpfs, it could run dry", c->where);
	if (fstat(fd, &st) || st.st_size < 0 || (uint64_t)st.st_size < bytes)
		return fh_errf(&c->err, -EPROTO, "%s: the server's memory is shorter than it says", c->where);
	return 0;
}

static void *map_area(const struct unix_link *l, uint32_t a, int fd, int prot)
{
	void *p = mmap(NULL, l->info.areas[a].bytes, prot, MAP_SHARED, fd, (off_t)l->info.areas[a].off);

	if (p == MAP_FAILED)
		return NULL;
	/* A child would write into the parent's rings. */
	madvise(p, l->info.areas[a].bytes, MADV_DONTFORK);
	return p;
}

static int map_areas(struct unix_link *l, struct fh_client *c, int fd, bool ours)
{
	for (uint32_t a = 0; a < FH_NR_AREAS; a++) {
		if ((l->info.areas[a].writer == FH_WRITER_CLIENT) != ours)
			continue;
		l->area[a] = map_area(l, a, fd, ours ? PROT_READ | PROT_WRITE : PROT_READ);
		if (!l->area[a])
			return fh_errf(&c->err, -errno, "%s: mmap: %s", c->where, strerror(errno));
	}
	return 0;
}

/* The runtime's memfd: read the info area once, believe it when it is sound, map the rest. */
static int map_runtime(struct unix_link *l, struct fh_client *c, int fd)
{
	uint64_t page = (uint64_t)sysconf(_SC_PAGESIZE);
	void *first;
	int rc = check_memfd(c, fd, page);

	if (rc)
		return rc;
	first = mmap(NULL, page, PROT_READ, MAP_SHARED, fd, 0);
	if (first == MAP_FAILED)
		return fh_errf(&c->err, -errno, "%s: mmap: %s", c->where, strerror(errno));
	memcpy(&l->info, first, sizeof(l->info));
	munmap(first, page);
	rc = fhl_ring_check_info(c, &l->info);
	if (!rc && l->info.areas[FH_AREA_INFO].off)
		rc = fh_errf(&c->err, -EPROTO, "%s: the info area is not where it belongs", c->where);
	if (!rc)
		rc = check_memfd(c, fd, l->info.chan_bytes);
	return rc ? rc : map_areas(l, c, fd, false);
}

/* Our memfd, mapped and then sealed. Returns it, or -errno. */
static int make_client(struct unix_link *l, struct fh_client *c)
{
	int fd = memfd_create("freehold-client", MFD_CLOEXEC | MFD_ALLOW_SEALING), rc;

	if (fd < 0)
		return fh_errf(&c->err, -errno, "memfd_create: %s", strerror(errno));
	if (ftruncate(fd, (off_t)l->info.chan_bytes)) {
		rc = fh_errf(&c->err, -errno, "%s: ftruncate to %llu bytes: %s", c->where,
			     (unsigned long long)l->info.chan_bytes, strerror(errno));
		goto err_close;
	}
	rc = map_areas(l, c, fd, true);
	if (rc)
		goto err_close;
	if (fcntl(fd, F_ADD_SEALS, SEALS | F_SEAL_SEAL)) {
		rc = fh_errf(&c->err, -errno, "%s: sealing memory: %s; Linux 5.1 or newer is needed", c->where,
			     strerror(errno));
		goto err_close;
	}
	return fd;

err_close:
	close(fd);
	return rc;
}

static int attach(struct fh_client *c, int sock, int memfd)
{
	struct fh_sock_head head = {.size = sizeof(head), .type = FH_SOCK_ATTACH};
	union {
		char room[CMSG_SPACE(sizeof(int))];
		struct cmsghdr align;
	} control = {0};
	struct iovec iov = {&head, sizeof(head)};
	struct msghdr m = {
		.msg_iov = &iov, .msg_iovlen = 1, .msg_control = &control, .msg_controllen = sizeof(control)};
	struct cmsghdr *h = CMSG_FIRSTHDR(&m);

	h->cmsg_level = SOL_SOCKET;
	h->cmsg_type = SCM_RIGHTS;
	h->cmsg_len = CMSG_LEN(sizeof(int));
	memcpy(CMSG_DATA(h), &memfd, sizeof(memfd));
	return sendmsg(sock, &m, MSG_NOSIGNAL) == sizeof(head) ? 0 : lost(c, -EPIPE);
}

static void read_peer(struct fh_client *c, int fd)
{
	struct ucred u;
	socklen_t len = sizeof(u);

	if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &u, &len))
		return;
	c->peer = (struct fh_peer){.uid = u.uid, .gid = u.gid, .pid = (uint32_t)u.pid, .flags = FH_PEER_VALID};
}

static int handshake(struct unix_link *l, struct fh_client *c)
{
	struct packet p;
	int memfd, rc = say_hello(c, l->fd);

	if (!rc)
		rc = expect(c, l->fd, FH_SOCK_WELCOME, &p);
	if (rc)
		return rc;
	rc = p.nr_fds > FH_SOCK_FD_RUNTIME ? map_runtime(l, c, p.fds[FH_SOCK_FD_RUNTIME])
					   : fh_errf(&c->err, -EPROTO, "%s: WELCOME brought no memory", c->where);
	if (!rc && p.nr_fds > FH_SOCK_FD_VOCAB) {
		rc = check_memfd(c, p.fds[FH_SOCK_FD_VOCAB], sizeof(struct fh_vocab));
		if (!rc)
			rc = fhl_vocab_open(c, p.fds[FH_SOCK_FD_VOCAB], true);
	}
	drop_fds(&p);
	if (rc)
		return rc;
	memfd = make_client(l, c);
	if (memfd < 0)
		return memfd;
	rc = attach(c, l->fd, memfd);
	close(memfd);
	if (!rc)
		rc = expect(c, l->fd, FH_SOCK_OPEN, &p);
	if (!rc)
		drop_fds(&p);
	return rc;
}

/* As a transport */

static int unix_fd(struct fh_client *c)
{
	return ((struct unix_link *)c->t)->fd;
}

static void link_free(struct fh_client *c, struct unix_link *l)
{
	fhl_ring_destroy(&l->ring);
	for (uint32_t a = 0; a < FH_NR_AREAS; a++)
		if (l->area[a])
			munmap(l->area[a], l->info.areas[a].bytes);
	fhl_vocab_close(c);
	if (l->fd >= 0)
		close(l->fd);
	free(l);
}

static void unix_close(struct fh_client *c)
{
	link_free(c, c->t);
}

static const struct fhl_ops unix_ops = {
	.name = "unix",
	.submit = fhl_ring_submit,
	.cancel = fhl_ring_cancel,
	.look = fhl_ring_look,
	.arm = fhl_ring_arm,
	.wait = fhl_ring_wait,
	.fd = unix_fd,
	.close = unix_close,
};

int fhl_unix_open(struct fh_client *c, const char *path)
{
	struct unix_link *l = calloc(1, sizeof(*l));
	int rc;

	if (!l)
		return fh_errf(&c->err, -ENOMEM, "out of memory");
	l->fd = rc = connect_socket(c, path);
	if (rc >= 0)
		rc = handshake(l, c);
	if (!rc)
		rc = fhl_ring_init(&l->ring, c, &unix_link_ops, &l->info, l->area[FH_AREA_INFO], l->area);
	if (rc) {
		link_free(c, l);
		return rc;
	}
	read_peer(c, l->fd);
	c->ops = &unix_ops;
	c->t = l;
	return 0;
}
