/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A client of a channel, for tests: it speaks uapi/freehold.h and
 * runtime/base/chan_sock.h to the letter, or breaks them where a test says so,
 * and shares no code with the client library.
 */
#ifndef TESTS_UNIT_CHAN_CLIENT_H
#define TESTS_UNIT_CHAN_CLIENT_H

#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "runtime/base/chan_sock.h"
#include "runtime/base/clock.h"
#include "runtime/base/futex.h"
#include "uapi/freehold.h"

/* In a program that is no test: say what was expected, and end. */
#ifdef CHAN_CLIENT_ALONE
#define cr_assert(cond, ...)                                                                                           \
	do {                                                                                                           \
		if (!(cond)) {                                                                                         \
			fprintf(stderr, "%s:%d: %s\n", __FILE__, __LINE__, #cond);                                     \
			exit(1);                                                                                       \
		}                                                                                                      \
	} while (0)
#define cr_assert_eq(a, b, ...) cr_assert((a) == (b))
#define cr_assert_neq(a, b, ...) cr_assert((a) != (b))
#define cr_assert_leq(a, b, ...) cr_assert((a) <= (b))
#else
#include <criterion/criterion.h>
#endif

enum client_sleep { CLIENT_SPIN, CLIENT_FUTEX, CLIENT_SOCKET };

struct client {
	int fd, own_fd, vocab_fd;
	enum client_sleep how;
	struct fh_chan_info info;
	char *runtime, *own; /* the two memfds, [info.chan_bytes] */
	_Atomic uint32_t *sq_tail, *cq_head, *client_flags;
	const _Atomic uint32_t *sq_head, *cq_tail, *runtime_flags;
	uint32_t tail, head; /* private copies of sq_tail and cq_head */
	uint32_t nr_kicks, nr_futex_kicks;
};

static inline int client_dial(const char *url)
{
	struct sockaddr_un sa = {.sun_family = AF_UNIX};
	int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);

	strcpy(sa.sun_path, url + strlen("unix:"));
	cr_assert_eq(connect(fd, (struct sockaddr *)&sa, sizeof(sa)), 0, "connect %s: %s", url, strerror(errno));
	return fd;
}

/* Send a packet with @nr descriptors. */
static inline ssize_t client_send(int fd, const void *buf, size_t n, const int *fds, size_t nr)
{
	char control[CMSG_SPACE(16 * sizeof(int))] = {0};
	struct iovec iov = {(void *)buf, n};
	struct msghdr msg = {.msg_iov = &iov, .msg_iovlen = 1};

	if (nr) {
		struct cmsghdr *c;

		msg.msg_control = control;
		msg.msg_controllen = CMSG_SPACE(nr * sizeof(int));
		c = CMSG_FIRSTHDR(&msg);
		c->cmsg_level = SOL_SOCKET;
		c->cmsg_type = SCM_RIGHTS;
		c->cmsg_len = CMSG_LEN(nr * sizeof(int));
		memcpy(CMSG_DATA(c), fds, nr * sizeof(int));
	}
	return sendmsg(fd, &msg, MSG_NOSIGNAL);
}

/* The type of the next packet, 0 at the end; its descriptors to @fds[2], -1 where there is none. */
static inline uint32_t client_recv(int fd, struct fh_sock_refused *p, int fds[2])
{
	char control[CMSG_SPACE(4 * sizeof(int))];
	struct iovec iov = {p, sizeof(*p)};
	struct msghdr msg = {
		.msg_iov = &iov, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof(control)};
	struct pollfd pfd = {fd, POLLIN, 0};
	ssize_t n;

	fds[0] = fds[1] = -1;
	cr_assert_eq(poll(&pfd, 1, 10000), 1, "no packet within 10 s");
	n = recvmsg(fd, &msg, MSG_CMSG_CLOEXEC);
	if (n <= 0)
		return 0;
	for (struct cmsghdr *c = CMSG_FIRSTHDR(&msg); c; c = CMSG_NXTHDR(&msg, c))
		memcpy(fds, CMSG_DATA(c), c->cmsg_len - CMSG_LEN(0));
	cr_assert_eq((size_t)n, p->head.size);
	return p->head.type;
}

static inline struct fh_sock_hello client_hello(uint32_t sq, uint32_t cq, uint64_t arena)
{
	return (struct fh_sock_hello){.head = {sizeof(struct fh_sock_hello), FH_SOCK_HELLO},
				      .version = FH_SOCK_VERSION,
				      .sq_entries = sq,
				      .cq_entries = cq,
				      .arena_bytes = arena,
				      .page_bytes = 4096};
}

/* As far as WELCOME: map the runtime's part and check that nobody can write it. */
static inline void client_welcome(struct client *c, const char *url, uint32_t sq, uint32_t cq, uint64_t arena)
{
	struct fh_sock_hello hello = client_hello(sq, cq, arena);
	struct fh_sock_refused p;
	int fds[2], seals;

	*c = (struct client){.fd = client_dial(url), .own_fd = -1};
	cr_assert_eq(client_send(c->fd, &hello, sizeof(hello), NULL, 0), (ssize_t)sizeof(hello));
	cr_assert_eq(client_recv(c->fd, &p, fds), FH_SOCK_WELCOME, "refused: %s", p.why);
	seals = fcntl(fds[0], F_GET_SEALS);
	cr_assert_eq(seals & (F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_FUTURE_WRITE),
		     F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_FUTURE_WRITE);
	cr_assert_eq(pread(fds[0], &c->info, sizeof(c->info), 0), (ssize_t)sizeof(c->info));
	cr_assert_eq(mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fds[0], 0), MAP_FAILED);
	c->runtime = mmap(NULL, c->info.chan_bytes, PROT_READ, MAP_SHARED, fds[0], 0);
	cr_assert_neq(c->runtime, MAP_FAILED);
	close(fds[0]);
	c->vocab_fd = fds[1];
}

static inline void client_words(struct client *c)
{
	char *own = c->own + c->info.areas[FH_AREA_CLIENT].off;
	const char *runtime = c->runtime + c->info.areas[FH_AREA_RUNTIME].off;

	c->sq_tail = (_Atomic uint32_t *)(own + c->info.sq_tail_off);
	c->cq_head = (_Atomic uint32_t *)(own + c->info.cq_head_off);
	c->client_flags = (_Atomic uint32_t *)(own + c->info.client_flags_off);
	c->sq_head = (const _Atomic uint32_t *)(runtime + c->info.sq_head_off);
	c->cq_tail = (const _Atomic uint32_t *)(runtime + c->info.cq_tail_off);
	c->runtime_flags = (const _Atomic uint32_t *)(runtime + c->info.runtime_flags_off);
}

static inline void client_map_own(struct client *c)
{
	c->own_fd = memfd_create("client", MFD_CLOEXEC | MFD_ALLOW_SEALING);
	cr_assert_eq(ftruncate(c->own_fd, (off_t)c->info.chan_bytes), 0);
	c->own = mmap(NULL, c->info.chan_bytes, PROT_READ | PROT_WRITE, MAP_SHARED, c->own_fd, 0);
	cr_assert_neq(c->own, MAP_FAILED);
	client_words(c);
}

static inline void client_seal(struct client *c)
{
	cr_assert_eq(fcntl(c->own_fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_FUTURE_WRITE | F_SEAL_SEAL), 0);
}

static inline void client_open(struct client *c, const char *url, uint32_t sq, uint32_t cq, uint64_t arena)
{
	const struct fh_sock_head attach = {sizeof(attach), FH_SOCK_ATTACH};
	struct fh_sock_refused p;
	int fds[2];

	client_welcome(c, url, sq, cq, arena);
	client_map_own(c);
	client_seal(c);
	cr_assert_eq(client_send(c->fd, &attach, sizeof(attach), &c->own_fd, 1), (ssize_t)sizeof(attach));
	cr_assert_eq(client_recv(c->fd, &p, fds), FH_SOCK_OPEN, "refused: %s", p.why);
}

/* What the process's end does. */
static inline void client_close(struct client *c)
{
	close(c->fd);
	if (c->own_fd >= 0)
		close(c->own_fd);
	if (c->vocab_fd >= 0)
		close(c->vocab_fd);
	munmap(c->runtime, c->info.chan_bytes);
	if (c->own)
		munmap(c->own, c->info.chan_bytes);
}

static inline uint32_t client_state(const struct client *c)
{
	return atomic_load((const _Atomic uint32_t *)&((const struct fh_chan_info *)c->runtime)->state);
}

static inline uint32_t *client_arena(const struct client *c)
{
	return (uint32_t *)(c->own + c->info.areas[FH_AREA_ARENA].off);
}

/* (J): the runtime may sleep. */
static inline void client_kick(struct client *c)
{
	const struct fh_sock_head kick = {sizeof(kick), FH_SOCK_KICK};
	uint32_t flags = atomic_load(c->runtime_flags);

	if (flags & FH_RING_NEED_FUTEX) {
		c->nr_futex_kicks++;
		fh_futex_wake_shared(c->sq_tail);
	}
	if (flags & FH_RING_NEED_WAKEUP) {
		c->nr_kicks++;
		client_send(c->fd, &kick, sizeof(kick), NULL, 0);
	}
}

static inline bool client_sq_full(const struct client *c)
{
	return c->tail - atomic_load_explicit(c->sq_head, memory_order_acquire) >= c->info.sq_entries;
}

/* Write the entry and show it; there is room. */
static inline void client_submit(struct client *c, const struct fh_req_desc *d)
{
	char *sq = c->own + c->info.areas[FH_AREA_SQ].off;

	memcpy(sq + (size_t)(c->tail & (c->info.sq_entries - 1)) * c->info.sq_entry_bytes, d, sizeof(*d));
	atomic_store(c->sq_tail, ++c->tail); /* (A) and the fence */
	client_kick(c);
}

/* The next completion, if there is one: copied, and its place given back. */
static inline bool client_poll(struct client *c, struct fh_cqe *e)
{
	uint32_t tail = atomic_load(c->cq_tail), nr = c->info.cq_entries;
	const char *cq = c->runtime + c->info.areas[FH_AREA_CQ].off;

	cr_assert_leq(tail - c->head, nr, "the ring was overrun");
	if (tail == c->head)
		return false;
	memcpy(e, cq + (size_t)(c->head & (nr - 1)) * c->info.cq_entry_bytes, sizeof(*e));
	atomic_store(c->cq_head, ++c->head); /* (G) and the fence */
	if (tail - (c->head - 1) == nr)
		client_kick(c);
	return true;
}

static inline void client_sleep(struct client *c, uint32_t seen)
{
	const struct timespec ts = {.tv_nsec = FH_SOCK_LOOK_MS * 1000000};
	struct pollfd pfd = {c->fd, POLLIN, 0};
	struct fh_sock_refused p;

	atomic_store(c->client_flags, c->how == CLIENT_FUTEX ? FH_RING_NEED_FUTEX : FH_RING_NEED_WAKEUP);
	if (atomic_load(c->cq_tail) == seen) { /* (F) after (K) */
		if (c->how == CLIENT_FUTEX)
			syscall(SYS_futex, c->cq_tail, FUTEX_WAIT, seen, &ts, NULL, 0);
		else if (poll(&pfd, 1, FH_SOCK_LOOK_MS) == 1)
			recv(c->fd, &p, sizeof(p), MSG_DONTWAIT);
	}
	atomic_store(c->client_flags, 0);
}

/* Wait for the next completion; false when the channel ended, or nothing came for 20 s. */
static inline bool client_next(struct client *c, struct fh_cqe *e)
{
	uint64_t until = fh_now_ns() + 20000000000u;

	while (!client_poll(c, e)) {
		if (client_state(c) != FH_CHAN_OPEN || fh_now_ns() > until)
			return client_poll(c, e);
		if (c->how == CLIENT_SPIN)
			fh_cpu_relax();
		else
			client_sleep(c, c->head);
	}
	return true;
}

/* A greedy request for the ids at @word of the arena. */
static inline struct fh_req_desc client_desc(uint64_t user_data, uint32_t word, uint32_t nr_ids, uint32_t max_tokens)
{
	const float one = 1;
	struct fh_req_desc d = {.size = sizeof(d),
				.user_data = user_data,
				.prompt_off = word * 4ull,
				.prompt_bytes = nr_ids * 4,
				.max_tokens = max_tokens};

	memcpy(&d.top_p, &one, 4);
	memcpy(&d.typical_p, &one, 4);
	memcpy(&d.repetition_penalty, &one, 4);
	return d;
}

#endif /* TESTS_UNIT_CHAN_CLIENT_H */
