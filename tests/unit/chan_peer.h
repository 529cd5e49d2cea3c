/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The runtime's half of a channel (uapi/freehold.h, runtime/base/chan_sock.h),
 * for tests of the client library.
 *
 * It speaks the ABI for real, and can be told to break it: to lie in the info
 * area, to leave seals out, to refuse, to die.  After the handshake a test
 * moves the rings itself, entry by entry, or starts peer_serve(), an engine
 * that echoes: token i of an answer is token i of the prompt, over and over; a
 * prompt that is text is its bytes.  The vocabulary is the 256 bytes and one
 * control token.
 */
#ifndef FH_TESTS_CHAN_PEER_H
#define FH_TESTS_CHAN_PEER_H

#include <criterion/criterion.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/futex.h>
#include <poll.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <unistd.h>

#include "runtime/base/chan_sock.h"
#include "runtime/base/clock.h"
#include "uapi/freehold.h"

#define PEER_VOCAB 257u
#define PEER_MODEL "echo \xe2\x9c\x93"
#define PEER_CTX 4096u

enum peer_fault {
	PEER_GOOD,
	PEER_NO_WELCOME,   /* closes the socket after HELLO */
	PEER_MUTE,	   /* never answers */
	PEER_REFUSES,	   /* REFUSED, -EDQUOT */
	PEER_WRONG_PACKET, /* OPEN where WELCOME belongs */
	PEER_NO_FD,	   /* WELCOME without memory */
	PEER_UNSEALED,
	PEER_SHORT,   /* memory shorter than the channel */
	PEER_NO_OPEN, /* closes the socket after ATTACH */
	PEER_NO_VOCAB,
	PEER_BAD_VOCAB,
};

struct peer {
	enum peer_fault fault;
	void (*lie)(struct fh_chan_info *info); /* changes what the info area says */
	char dir[64], path[108], where[128];
	int listen_fd, sock, memfd;
	pthread_t thread;
	bool shaken; /* the handshake was done */
	bool client_sealed;
	struct fh_chan_info info; /* the true one */
	char *ours, *theirs;	  /* [info.chan_bytes] whole memfds; the client's read-only */
	uint32_t sq_head, cq_tail;
	_Atomic bool stop;
	bool serving;
	_Atomic uint32_t token_us; /* pause between tokens */
	_Atomic uint32_t nr_cancelled, nr_kicks, nr_futex_wakes;
};

static inline uint32_t *peer_word(struct peer *p, uint32_t area, uint32_t off)
{
	char *base = p->info.areas[area].writer == FH_WRITER_CLIENT ? p->theirs : p->ours;

	return (uint32_t *)(base + p->info.areas[area].off + off);
}

static inline struct fh_chan_info *peer_shared(struct peer *p)
{
	return (struct fh_chan_info *)p->ours;
}

static inline void peer_send(struct peer *p, uint32_t type, const int *fds, int nr)
{
	struct fh_sock_head head = {.size = sizeof(head), .type = type};
	union {
		char room[CMSG_SPACE(sizeof(int) * FH_SOCK_MAX_FDS)];
		struct cmsghdr align;
	} control = {0};
	struct iovec iov = {&head, sizeof(head)};
	struct msghdr m = {.msg_iov = &iov, .msg_iovlen = 1};

	if (nr) {
		struct cmsghdr *h = (struct cmsghdr *)control.room;

		m.msg_control = &control;
		m.msg_controllen = CMSG_SPACE(sizeof(int) * (size_t)nr);
		h->cmsg_level = SOL_SOCKET;
		h->cmsg_type = SCM_RIGHTS;
		h->cmsg_len = CMSG_LEN(sizeof(int) * (size_t)nr);
		memcpy(CMSG_DATA(h), fds, sizeof(int) * (size_t)nr);
	}
	sendmsg(p->sock, &m, MSG_NOSIGNAL);
}

static inline int peer_memfd(const char *name, uint64_t bytes)
{
	int fd = memfd_create(name, MFD_CLOEXEC | MFD_ALLOW_SEALING);

	if (fd < 0 || ftruncate(fd, (off_t)bytes))
		abort();
	return fd;
}

/* As the daemon makes it; PEER_BAD_VOCAB: with offsets that lead out of it. */
static inline int peer_vocab(enum peer_fault fault)
{
	static const char model[] = PEER_MODEL;
	struct fh_vocab h = {.magic = FH_VOCAB_MAGIC,
			     .nr_tokens = PEER_VOCAB,
			     .model_bytes_off = sizeof(h),
			     .model_bytes = sizeof(model) - 1,
			     .nr_ctx = PEER_CTX};
	uint32_t off[PEER_VOCAB + 1];
	uint8_t pieces[256];
	int fd;

	h.off_off = (sizeof(h) + sizeof(model) + 7) & ~7ull;
	h.bytes_off = h.off_off + sizeof(off);
	h.total_bytes = h.bytes_off + sizeof(pieces);
	for (uint32_t i = 0; i <= PEER_VOCAB; i++)
		off[i] = i < 256 ? i : 256;
	for (uint32_t i = 0; i < 256; i++)
		pieces[i] = (uint8_t)i;
	if (fault == PEER_BAD_VOCAB)
		off[66] = 1u << 30;
	fd = peer_memfd("vocab", h.total_bytes);
	if (pwrite(fd, &h, sizeof(h), 0) < 0 || pwrite(fd, model, sizeof(model), (off_t)h.model_bytes_off) < 0 ||
	    pwrite(fd, off, sizeof(off), (off_t)h.off_off) < 0 ||
	    pwrite(fd, pieces, sizeof(pieces), (off_t)h.bytes_off) < 0)
		abort();
	fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_WRITE | F_SEAL_SEAL);
	return fd;
}

static inline void peer_layout(struct peer *p, const struct fh_sock_hello *hello)
{
	struct fh_chan_info *shared;

	if (fh_chan_layout(&p->info, hello->page_bytes, hello->sq_entries, hello->cq_entries, hello->arena_bytes))
		abort();
	p->info.state = FH_CHAN_WAITING;
	p->memfd = peer_memfd("runtime", p->info.chan_bytes);
	p->ours = mmap(NULL, p->info.chan_bytes, PROT_READ | PROT_WRITE, MAP_SHARED, p->memfd, 0);
	if (p->ours == MAP_FAILED)
		abort();
	shared = peer_shared(p);
	*shared = p->info;
	if (p->lie)
		p->lie(shared);
	if (p->fault == PEER_SHORT && ftruncate(p->memfd, (off_t)p->info.page_bytes))
		abort();
	if (p->fault != PEER_UNSEALED)
		fcntl(p->memfd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | 0x10 | F_SEAL_SEAL);
}

static inline bool peer_attach(struct peer *p)
{
	union {
		char room[CMSG_SPACE(sizeof(int))];
		struct cmsghdr align;
	} control;
	struct fh_sock_head head;
	struct iovec iov = {&head, sizeof(head)};
	struct msghdr m = {
		.msg_iov = &iov, .msg_iovlen = 1, .msg_control = &control, .msg_controllen = sizeof(control)};
	struct stat st;
	int fd;

	if (recvmsg(p->sock, &m, MSG_CMSG_CLOEXEC) != sizeof(head) || head.type != FH_SOCK_ATTACH || !m.msg_controllen)
		return false;
	memcpy(&fd, CMSG_DATA(CMSG_FIRSTHDR(&m)), sizeof(fd));
	p->client_sealed = (fcntl(fd, F_GET_SEALS) & (F_SEAL_SHRINK | F_SEAL_GROW | 0x10)) ==
				   (F_SEAL_SHRINK | F_SEAL_GROW | 0x10) &&
			   !fstat(fd, &st) && (uint64_t)st.st_size == p->info.chan_bytes;
	/* What was mapped before the sealing may be written; nothing new may. */
	p->client_sealed &= mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0) == MAP_FAILED;
	p->theirs = mmap(NULL, p->info.chan_bytes, PROT_READ, MAP_SHARED, fd, 0);
	close(fd);
	return p->theirs != MAP_FAILED;
}

/* From accept() to OPEN, on a thread of its own: fh_open() waits for it. */
static inline void *peer_shake(void *arg)
{
	struct peer *p = arg;
	struct fh_sock_refused no = {.head = {sizeof(no), FH_SOCK_REFUSED}, .error = -EDQUOT, .why = "256 are open"};
	struct fh_sock_hello hello;
	int fds[2], nr = 2;

	p->sock = accept4(p->listen_fd, NULL, NULL, SOCK_CLOEXEC);
	if (p->sock < 0 || recv(p->sock, &hello, sizeof(hello), 0) != sizeof(hello))
		return NULL;
	if (hello.head.type != FH_SOCK_HELLO || hello.version != FH_SOCK_VERSION || hello.flags)
		abort();
	switch (p->fault) {
	case PEER_NO_WELCOME: goto hang_up;
	case PEER_MUTE: return NULL;
	case PEER_REFUSES: (void)!send(p->sock, &no, sizeof(no), 0); return NULL;
	case PEER_WRONG_PACKET: peer_send(p, FH_SOCK_OPEN, NULL, 0); return NULL;
	case PEER_NO_FD: peer_send(p, FH_SOCK_WELCOME, NULL, 0); return NULL;
	default: break;
	}
	peer_layout(p, &hello);
	fds[0] = p->memfd;
	fds[1] = p->fault == PEER_NO_VOCAB ? -1 : peer_vocab(p->fault);
	nr = fds[1] < 0 ? 1 : 2;
	peer_send(p, FH_SOCK_WELCOME, fds, nr);
	if (nr == 2)
		close(fds[1]);
	if (!peer_attach(p) || p->fault == PEER_NO_OPEN)
		goto hang_up;
	__atomic_store_n(&peer_shared(p)->state, FH_CHAN_OPEN, __ATOMIC_RELEASE);
	peer_send(p, FH_SOCK_OPEN, NULL, 0);
	p->shaken = true;
	return NULL;

hang_up:
	close(p->sock);
	p->sock = -1;
	return NULL;
}

/* Listen, and answer one client. */
static inline void peer_start(struct peer *p)
{
	struct sockaddr_un a = {.sun_family = AF_UNIX};

	p->sock = p->memfd = -1;
	strcpy(p->dir, "/tmp/freehold-lib-XXXXXX");
	cr_assert(mkdtemp(p->dir));
	snprintf(p->path, sizeof(p->path), "%s/s", p->dir);
	snprintf(p->where, sizeof(p->where), "unix:%s", p->path);
	strcpy(a.sun_path, p->path);
	p->listen_fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
	cr_assert_eq(bind(p->listen_fd, (struct sockaddr *)&a, sizeof(a)), 0);
	cr_assert_eq(listen(p->listen_fd, 8), 0);
	cr_assert_eq(pthread_create(&p->thread, NULL, peer_shake, p), 0);
}

/* The runtime's process has gone: its socket closes, nobody stores a state. */
static inline void peer_die(struct peer *p)
{
	if (p->sock >= 0)
		close(p->sock);
	p->sock = -1;
}

static inline void peer_end(struct peer *p)
{
	atomic_store(&p->stop, true);
	if (p->serving)
		pthread_join(p->thread, NULL);
	peer_die(p);
	if (p->ours)
		munmap(p->ours, p->info.chan_bytes);
	if (p->theirs && p->theirs != MAP_FAILED)
		munmap(p->theirs, p->info.chan_bytes);
	if (p->memfd >= 0)
		close(p->memfd);
	close(p->listen_fd);
	unlink(p->path);
	rmdir(p->dir);
}

/* The rings */

/* The oldest entry that was not consumed, copied. */
static inline bool peer_peek(struct peer *p, struct fh_req_desc *d)
{
	uint32_t tail = __atomic_load_n(peer_word(p, FH_AREA_CLIENT, p->info.sq_tail_off), __ATOMIC_ACQUIRE); /* (B) */

	if (tail == p->sq_head)
		return false;
	memcpy(d,
	       p->theirs + p->info.areas[FH_AREA_SQ].off +
		       (size_t)(p->sq_head & (p->info.sq_entries - 1)) * p->info.sq_entry_bytes,
	       sizeof(*d));
	return true;
}

static inline const void *peer_prompt(struct peer *p, const struct fh_req_desc *d)
{
	return p->theirs + p->info.areas[FH_AREA_ARENA].off + d->prompt_off;
}

static inline void peer_consume(struct peer *p)
{
	__atomic_store_n(peer_word(p, FH_AREA_RUNTIME, p->info.sq_head_off), ++p->sq_head, __ATOMIC_RELEASE); /* (C) */
}

static inline uint32_t peer_room(struct peer *p)
{
	uint32_t head = __atomic_load_n(peer_word(p, FH_AREA_CLIENT, p->info.cq_head_off), __ATOMIC_ACQUIRE); /* (H) */

	return p->info.cq_entries - (p->cq_tail - head);
}

/* (L): wake the client as it asked to be. */
static inline void peer_wake(struct peer *p)
{
	uint32_t *tail = peer_word(p, FH_AREA_RUNTIME, p->info.cq_tail_off);
	uint32_t flags = __atomic_load_n(peer_word(p, FH_AREA_CLIENT, p->info.client_flags_off), __ATOMIC_SEQ_CST);

	if (flags & FH_RING_NEED_FUTEX) {
		atomic_fetch_add(&p->nr_futex_wakes, 1);
		syscall(SYS_futex, tail, FUTEX_WAKE, 1, NULL, NULL, 0);
	}
	if (flags & FH_RING_NEED_WAKEUP) {
		atomic_fetch_add(&p->nr_kicks, 1);
		peer_send(p, FH_SOCK_KICK, NULL, 0);
	}
}

/* Publish @e; there is room. */
static inline void peer_put(struct peer *p, const struct fh_cqe *e)
{
	memcpy(p->ours + p->info.areas[FH_AREA_CQ].off +
		       (size_t)(p->cq_tail & (p->info.cq_entries - 1)) * p->info.cq_entry_bytes,
	       e, sizeof(*e));
	__atomic_store_n(peer_word(p, FH_AREA_RUNTIME, p->info.cq_tail_off), ++p->cq_tail,
			 __ATOMIC_SEQ_CST); /* (E) and the fence */
	peer_wake(p);
}

/* Token @index of a request; @finish: its last one. */
static inline void peer_token(struct peer *p, uint64_t id, uint32_t token, uint32_t index, uint32_t finish)
{
	struct fh_cqe e = {.slot = {.token = token, .stamp = index + 1}, .user_data = id};

	if (finish) {
		e.slot.flags = FH_SLOT_LAST;
		e.slot.finish = (uint8_t)finish;
	}
	peer_put(p, &e);
}

/* The end of a request, without a token. */
static inline void peer_over(struct peer *p, uint64_t id, uint32_t finish, int32_t error, uint32_t retry_us)
{
	struct fh_cqe e = {.slot = {.flags = FH_SLOT_LAST | FH_SLOT_NO_TOKEN, .finish = (uint8_t)finish},
			   .user_data = id,
			   .error = error,
			   .retry_us = retry_us};

	peer_put(p, &e);
}

/* An engine that echoes. */

#define PEER_ACTIVE 4096

struct peer_req {
	uint64_t id;
	uint32_t *ids, nr_ids, nr, max;
};

static inline void peer_begin(struct peer *p, struct peer_req *active, uint32_t *nr)
{
	struct fh_req_desc d;
	struct peer_req *r = &active[*nr];

	while (peer_peek(p, &d)) {
		if (d.flags & FH_REQ_CANCEL) {
			for (uint32_t i = 0; i < *nr; i++)
				if (active[i].id == d.user_data)
					active[i].max = 0;
			atomic_fetch_add(&p->nr_cancelled, 1);
			peer_consume(p);
			continue;
		}
		if (*nr == PEER_ACTIVE)
			return;
		r = &active[(*nr)++];
		*r = (struct peer_req){.id = d.user_data, .max = d.max_tokens};
		r->nr_ids = d.flags & FH_REQ_TEXT ? d.prompt_bytes : d.prompt_bytes / 4;
		r->ids = malloc(r->nr_ids * sizeof(*r->ids));
		for (uint32_t i = 0; i < r->nr_ids; i++)
			r->ids[i] = d.flags & FH_REQ_TEXT ? ((const uint8_t *)peer_prompt(p, &d))[i]
							  : ((const uint32_t *)peer_prompt(p, &d))[i];
		peer_consume(p);
	}
}

static inline void peer_sleep(struct peer *p)
{
	uint32_t *flags = peer_word(p, FH_AREA_RUNTIME, p->info.runtime_flags_off);
	uint32_t *tail = peer_word(p, FH_AREA_CLIENT, p->info.sq_tail_off);
	struct timespec ts = {0, 5000000};

	__atomic_store_n(flags, FH_RING_NEED_FUTEX, __ATOMIC_SEQ_CST); /* (I) */
	if (__atomic_load_n(tail, __ATOMIC_SEQ_CST) == p->sq_head)
		syscall(SYS_futex, tail, FUTEX_WAIT, p->sq_head, &ts, NULL, 0);
	__atomic_store_n(flags, 0, __ATOMIC_RELAXED);
}

static inline void *peer_engine(void *arg)
{
	struct peer *p = arg;
	struct peer_req *active = calloc(PEER_ACTIVE, sizeof(*active));
	uint32_t nr = 0;

	while (!atomic_load(&p->stop)) {
		uint32_t us = atomic_load(&p->token_us);

		peer_begin(p, active, &nr);
		for (uint32_t i = 0; i < nr && peer_room(p); i++) {
			struct peer_req *r = &active[i];

			if (!r->max) {
				peer_over(p, r->id, FH_FINISH_CANCELLED, 0, 0);
			} else {
				uint32_t token = r->ids[r->nr % r->nr_ids], at = r->nr++;

				peer_token(p, r->id, token, at, r->nr == r->max ? FH_FINISH_LENGTH : 0);
				if (r->nr < r->max)
					continue;
			}
			free(r->ids);
			*r = active[--nr];
			i--;
		}
		if (!nr)
			peer_sleep(p);
		else if (us)
			usleep(us);
	}
	for (uint32_t i = 0; i < nr; i++)
		free(active[i].ids);
	free(active);
	return NULL;
}

/* After fh_open(): the handshake's thread has ended. */
static inline void peer_join(struct peer *p)
{
	pthread_join(p->thread, NULL);
}

static inline void peer_serve(struct peer *p)
{
	p->serving = true;
	cr_assert_eq(pthread_create(&p->thread, NULL, peer_engine, p), 0);
}

#endif /* FH_TESTS_CHAN_PEER_H */
