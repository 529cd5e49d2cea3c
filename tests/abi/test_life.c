// SPDX-License-Identifier: Apache-2.0
/*
 * How channels end: death of either side at whatever moment, wherever the
 * file lives on; what can be done to a mapping; revocation; many at once.
 */
#include <fcntl.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>

#include "tests/abi/abi.h"

static void nap_ms(long ms)
{
	struct timespec ts = {.tv_sec = ms / 1000, .tv_nsec = ms % 1000 * 1000000};

	nanosleep(&ts, NULL);
}

static void forever(void)
{
	for (;;)
		pause();
}

static void kill_and_reap(pid_t pid)
{
	int status;

	CHECK(kill(pid, SIGKILL) == 0);
	CHECK(waitpid(pid, &status, 0) == pid && WIFSIGNALED(status));
}

static uint64_t now_ms(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (uint64_t)ts.tv_sec * 1000 + (uint64_t)ts.tv_nsec / 1000000;
}

/* The state of an accepted channel becomes this, and the runtime is told in every way. */
static void check_ended(int ctl, const struct chan *r, uint32_t state)
{
	struct fh_info info;

	CHECK(readable(ctl, POLLIN | POLLPRI, 5000));
	CHECK(readable(r->wake, POLLIN, 5000));
	CHECK(chan_state(r) == state);
	info = get_info(ctl);
	CHECK(info.out_nr_dead == 1 && info.out_dead_chan_id == r->id);
	CHECK_ERRNO(chan_kick(r), EPIPE);
	CHECK_ERRNO(chan_revoke(r, 0), EPIPE);
	/* What the client wrote can still be read. */
	if (r->area[FH_AREA_ARENA])
		CHECK(!touch_is_sigbus(r->area[FH_AREA_ARENA], false));
	CHECK(chan_destroy(r) == 0);
	CHECK(!readable(ctl, POLLPRI, 0));
	CHECK(get_info(ctl).out_nr_dead == 0);
}

/* --- the client's end ------------------------------------------------------------------ */

struct arg {
	int fd;	  /* of /dev/freehold, opened by the parent: it lives on there */
	int sock; /* to the parent */
	int how;
};

static void client_lives(void *p)
{
	struct arg *arg = p;
	struct chan c;

	chan_open(&c, arg->fd >= 0 ? arg->fd : open_client());
	forever();
}

static void kill_client(int fd)
{
	int ctl = open_runtime();
	struct arg arg = {.fd = fd};
	pid_t pid = spawn(client_lives, &arg);
	struct chan r;

	CHECK(readable(ctl, POLLIN, 20000));
	CHECK(chan_accept(&r, ctl, NULL) == 0);
	chan_map_all(&r);
	CHECK(chan_state(&r) == FH_CHAN_OPEN && !readable(ctl, POLLPRI, 0));
	kill_and_reap(pid);
	check_ended(ctl, &r, FH_CHAN_CLIENT_DEAD);
}

TEST(kill_client_alone)
{
	kill_client(-1);
}

/* Its file stays open in the parent: the mapping's end is what counts. */
TEST(kill_client_whose_file_lives_on)
{
	int fd = open_client();

	kill_client(fd);
	CHECK(fcntl(fd, F_GETFD) >= 0);
}

enum how { BY_EXIT, BY_EXEC, BY_UNMAP, BY_DESTROY, BY_DOFORK };

static void client_ends(void *p)
{
	struct arg *arg = p;
	struct chan c;
	char byte;

	chan_open(&c, arg->fd);
	CHECK(read(arg->sock, &byte, 1) == 1);
	switch (arg->how) {
	case BY_EXIT: return;
	case BY_EXEC:
		execl("/bin/sleep", "sleep", "60", NULL);
		CHECK(false);
		break;
	case BY_UNMAP: CHECK(munmap(c.info, 4096) == 0); break;
	case BY_DESTROY:
		CHECK(chan_destroy(&c) == 0);
		CHECK(chan_state(&c) == FH_CHAN_CLOSED);
		break;
	case BY_DOFORK:
		/* A copy in a child, made against our wish, is not this process's life. */
		CHECK(madvise(c.info, 4096, MADV_DOFORK) == 0);
		if (fork() == 0)
			forever();
		kill(getpid(), SIGKILL);
		break;
	}
	forever();
}

static void end_by(int how, uint32_t state)
{
	int ctl = open_runtime(), fd = open_client(), sock[2];
	struct arg arg = {.fd = fd, .how = how};
	struct chan r;
	pid_t pid;

	CHECK(socketpair(AF_UNIX, SOCK_STREAM, 0, sock) == 0);
	arg.sock = sock[0];
	pid = spawn(client_ends, &arg);
	CHECK(readable(ctl, POLLIN, 20000));
	CHECK(chan_accept(&r, ctl, NULL) == 0);
	chan_map_all(&r);
	CHECK(write(sock[1], "g", 1) == 1);
	check_ended(ctl, &r, state);
	kill(pid, SIGKILL);
}

TEST(end_by_exit)
{
	end_by(BY_EXIT, FH_CHAN_CLIENT_DEAD);
}

TEST(end_by_exec)
{
	end_by(BY_EXEC, FH_CHAN_CLIENT_DEAD);
}

TEST(end_by_unmap)
{
	end_by(BY_UNMAP, FH_CHAN_CLIENT_DEAD);
}

TEST(end_by_destroy)
{
	end_by(BY_DESTROY, FH_CHAN_CLOSED);
}

TEST(end_beside_dofork)
{
	end_by(BY_DOFORK, FH_CHAN_CLIENT_DEAD);
}

/* Closing the last descriptor ends nothing while the mappings are there: they hold the file. */
TEST(close_keeps_mapped)
{
	int ctl = open_runtime();
	struct chan c, r;

	chan_open(&c, open_client());
	CHECK(chan_accept(&r, ctl, NULL) == 0);
	chan_map_all(&r);
	close(c.fd);
	CHECK(chan_state(&c) == FH_CHAN_OPEN && !readable(ctl, POLLPRI, 50));
	c.area[FH_AREA_ARENA][0] = 'x';
	CHECK(r.area[FH_AREA_ARENA][0] == 'x');
	for (int i = FH_NR_AREAS - 1; i >= 0; i--)
		CHECK(munmap(c.area[i], c.info->areas[i].bytes) == 0);
	check_ended(ctl, &r, FH_CHAN_CLIENT_DEAD);
}

/* Never mapped, so never shown; its file's end is its end. */
TEST(never_mapped)
{
	int ctl = open_runtime(), fd = open_client();
	struct chan c;

	CHECK(chan_create(&c, fd, 8, 8, 4096) == 0);
	CHECK(!readable(ctl, POLLIN, 0));
	CHECK(state_count("channels") == 1);
	close(fd);
	for (int i = 0; i < 200 && state_count("channels"); i++)
		nap_ms(10);
	CHECK(state_count("channels") == 0);
}

/* fork alone gives the child nothing, and takes nothing from the parent. */
static void child_of_client(void *p)
{
	struct chan *c = p;
	unsigned char vec;

	CHECK_ERRNO(mincore(c->info, 4096, &vec), ENOMEM);
}

TEST(fork_copies_nothing)
{
	int ctl = open_runtime();
	struct chan c, r;

	chan_open(&c, open_client());
	CHECK(chan_accept(&r, ctl, NULL) == 0);
	reap(spawn(child_of_client, &c));
	CHECK(chan_state(&c) == FH_CHAN_OPEN && !readable(ctl, POLLPRI, 50));
}

/* Handed to another process by SCM_RIGHTS: it holds the file, not the life. */
static void pass_and_wait(void *p)
{
	struct arg *arg = p;
	struct chan c;

	chan_open(&c, open_client());
	send_fd(arg->sock, c.fd);
	forever();
}

TEST(passed_file)
{
	int ctl = open_runtime(), sock[2], fd;
	struct arg arg = {0};
	struct chan r;
	pid_t pid;

	CHECK(socketpair(AF_UNIX, SOCK_STREAM, 0, sock) == 0);
	arg.sock = sock[0];
	pid = spawn(pass_and_wait, &arg);
	fd = recv_fd(sock[1]);
	CHECK(chan_accept(&r, ctl, NULL) == 0);
	chan_map_info(&r);
	kill_and_reap(pid);
	check_ended(ctl, &r, FH_CHAN_CLIENT_DEAD);
	/* The new owner may have channels of its own through it. */
	struct chan mine;
	chan_open(&mine, fd);
	CHECK(chan_accept(&r, ctl, NULL) == 0);
	CHECK(chan_state(&mine) == FH_CHAN_OPEN);
}

/* --- the runtime's end ----------------------------------------------------------------- */

static void runtime_lives(void *p)
{
	struct arg *arg = p;
	int ctl = open_runtime();
	struct chan r;

	CHECK(write(arg->sock, "o", 1) == 1);
	if (arg->how) {
		CHECK(readable(ctl, POLLIN, 20000));
		CHECK(chan_accept(&r, ctl, NULL) == 0);
		chan_map_all(&r);
		if (arg->how == 2)
			send_fd(arg->sock, ctl);
	}
	forever();
}

static void kill_runtime(int how)
{
	int sock[2], held = -1;
	struct arg arg = {.how = how};
	struct chan c, r;
	uint64_t before;
	char byte;
	pid_t pid;

	CHECK(socketpair(AF_UNIX, SOCK_STREAM, 0, sock) == 0);
	arg.sock = sock[0];
	pid = spawn(runtime_lives, &arg);
	CHECK(read(sock[1], &byte, 1) == 1);
	chan_open(&c, open_client());
	if (how == 2)
		held = recv_fd(sock[1]);
	while (how && chan_state(&c) == FH_CHAN_WAITING)
		CHECK(readable(c.wake, POLLIN, 20000));
	event_take(c.wake);
	before = now_ms();
	kill_and_reap(pid);
	CHECK(readable(c.wake, POLLIN, 5000));
	CHECK(now_ms() - before < 2000);
	CHECK(chan_state(&c) == FH_CHAN_RUNTIME_DEAD);
	CHECK_ERRNO(chan_kick(&c), EPIPE);
	CHECK(!touch_is_sigbus(c.area[FH_AREA_CQ], false));
	CHECK(chan_destroy(&c) == 0);
	if (held >= 0) {
		CHECK_ERRNO(open(RUNTIME_DEV, O_RDWR), EBUSY);
		close(held);
	}
	/* The next one finds the house empty, and serves. */
	int ctl = open_runtime();
	CHECK_ERRNO(chan_accept(&r, ctl, NULL), EAGAIN);
	chan_open(&c, open_client());
	CHECK(chan_accept(&r, ctl, NULL) == 0);
	CHECK(chan_state(&c) == FH_CHAN_OPEN);
}

TEST(kill_runtime_before_accept)
{
	kill_runtime(0);
}

TEST(kill_runtime_after_accept)
{
	kill_runtime(1);
}

TEST(kill_runtime_whose_file_lives_on)
{
	kill_runtime(2);
}

/* Between creation and the first mapping the runtime goes: the client is told at once. */
TEST(runtime_goes_before_mapping)
{
	int ctl = open_runtime();
	struct chan c;

	CHECK(chan_create(&c, open_client(), 8, 8, 4096) == 0);
	close(ctl);
	chan_map_info(&c);
	CHECK(chan_state(&c) == FH_CHAN_RUNTIME_DEAD && readable(c.wake, POLLIN, 0));
}

/* --- mappings -------------------------------------------------------------------------- */

TEST(mremap_moves)
{
	int ctl = open_runtime();
	struct chan c, r;
	uint64_t bytes;
	char *to;

	CHECK(chan_create(&c, open_client(), 64, 512, 65536) == 0);
	chan_map_all(&c);
	CHECK(chan_accept(&r, ctl, NULL) == 0);
	chan_map_all(&r);
	for (int i = 0; i < FH_NR_AREAS; i++) {
		bytes = r.info->areas[i].bytes;
		to = mmap(NULL, bytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
		CHECK(to != MAP_FAILED);
		CHECK(mremap(c.area[i], bytes, bytes, MREMAP_MAYMOVE | MREMAP_FIXED, to) == to);
		c.area[i] = to;
		if (i == FH_AREA_INFO)
			c.info = (struct fh_chan_info *)to;
	}
	CHECK(chan_state(&c) == FH_CHAN_OPEN && !readable(ctl, POLLPRI, 50));
	c.area[FH_AREA_ARENA][65535] = 'm';
	CHECK(r.area[FH_AREA_ARENA][65535] == 'm');
	/* Duplicating by mremap is refused like growing. */
	CHECK_ERRNO((long)mremap(c.info, 0, 4096, MREMAP_MAYMOVE), EFAULT);
}

TEST(munmap_half)
{
	int ctl = open_runtime();
	struct chan c, r;

	CHECK(chan_create(&c, open_client(), 64, 512, 65536) == 0);
	chan_map_all(&c);
	CHECK(chan_accept(&r, ctl, NULL) == 0);
	chan_map_all(&r);
	/* The ring of 64 entries has two pages; the arena is cut in the middle. */
	CHECK(munmap(c.area[FH_AREA_SQ], 4096) == 0);
	CHECK(munmap(c.area[FH_AREA_ARENA] + 16384, 32768) == 0);
	CHECK(chan_state(&c) == FH_CHAN_OPEN && !readable(ctl, POLLPRI, 50));
	c.area[FH_AREA_SQ][4096] = 's';
	c.area[FH_AREA_ARENA][0] = 'a';
	c.area[FH_AREA_ARENA][65535] = 'z';
	CHECK(r.area[FH_AREA_SQ][4096] == 's' && r.area[FH_AREA_SQ][0] == 0);
	CHECK(r.area[FH_AREA_ARENA][0] == 'a' && r.area[FH_AREA_ARENA][65535] == 'z');
	CHECK(chan_map_area(&c, FH_AREA_SQ, PROT_READ | PROT_WRITE) != MAP_FAILED);
	/* A second mapping of the info page, and the first one may go. */
	struct fh_chan_info *again = mmap(NULL, 4096, PROT_READ, MAP_SHARED, c.fd, (off_t)c.mmap_off);
	CHECK(again != MAP_FAILED && munmap(c.info, 4096) == 0);
	c.info = again;
	CHECK(chan_state(&c) == FH_CHAN_OPEN && !readable(ctl, POLLPRI, 50));
	CHECK(munmap(again, 4096) == 0);
	CHECK(chan_state(&r) == FH_CHAN_CLIENT_DEAD);
}

TEST(dontneed_is_harmless)
{
	int ctl = open_runtime();
	struct chan c, r;

	chan_open(&c, open_client());
	CHECK(chan_accept(&r, ctl, NULL) == 0);
	chan_map_all(&r);
	c.area[FH_AREA_ARENA][5] = 'k';
	CHECK(madvise(c.area[FH_AREA_ARENA], 4096, MADV_DONTNEED) == 0);
	CHECK(c.area[FH_AREA_ARENA][5] == 'k' && r.area[FH_AREA_ARENA][5] == 'k');
}

/* --- revocation -------------------------------------------------------------------------- */

TEST(revoke)
{
	int ctl = open_runtime(), fd = open_client();
	struct chan c, other, r, r2;

	chan_open(&c, fd);
	chan_open(&other, fd);
	CHECK(chan_accept(&r, ctl, NULL) == 0 && chan_accept(&r2, ctl, NULL) == 0);
	chan_map_all(&r);
	for (int i = 0; i < FH_NR_AREAS; i++)
		CHECK(!touch_is_sigbus(c.area[i], false));
	event_take(c.wake);
	struct fh_chan_revoke bad = {.size = sizeof(bad), .chan_id = r.id, .reason = FH_REVOKE_DRAIN + 1};
	CHECK_ERRNO(ioctl(ctl, FH_IOCTL_CHAN_REVOKE, &bad), EINVAL);
	CHECK(chan_revoke(&r, FH_REVOKE_PROTOCOL) == 0);
	CHECK(event_take(c.wake) == 1);
	CHECK(chan_state(&c) == FH_CHAN_REVOKED && c.info->revoke_reason == FH_REVOKE_PROTOCOL);
	for (int i = FH_AREA_CLIENT; i < FH_NR_AREAS; i++) {
		CHECK(touch_is_sigbus(c.area[i], false));
		char *p = chan_map_area(&c, i, PROT_READ);
		CHECK(p != MAP_FAILED && touch_is_sigbus(p, false));
	}
	CHECK(touch_is_sigbus(c.area[FH_AREA_ARENA], true));
	/* The runtime reads on, and the channel beside it is as it was. */
	for (int i = 0; i < FH_NR_AREAS; i++)
		CHECK(!touch_is_sigbus(r.area[i], false) && !touch_is_sigbus(other.area[i], false));
	CHECK(chan_state(&other) == FH_CHAN_OPEN);
	CHECK(chan_revoke(&r, FH_REVOKE_LIMIT) == 0); /* again: nothing changes */
	CHECK(c.info->revoke_reason == FH_REVOKE_PROTOCOL);
	CHECK(chan_destroy(&r) == 0 && chan_destroy(&c) == 0 && chan_destroy(&r2) == 0);
	CHECK(chan_state(&other) == FH_CHAN_CLOSED);
}

static void writes_until_sigbus(void *p)
{
	struct chan c;

	(void)p;
	chan_open(&c, open_client());
	while (chan_state(&c) == FH_CHAN_WAITING)
		sched_yield();
	while (!touch_is_sigbus(c.area[FH_AREA_ARENA] + 8192, true))
		;
	CHECK(chan_state(&c) == FH_CHAN_REVOKED);
}

/* While the client writes as fast as it can. */
TEST(revoke_under_fire)
{
	int ctl = open_runtime();

	for (int round = 0; round < 20; round++) {
		pid_t pid = spawn(writes_until_sigbus, NULL);
		struct chan r;

		CHECK(readable(ctl, POLLIN, 20000));
		CHECK(chan_accept(&r, ctl, NULL) == 0);
		nap_ms(round % 5);
		CHECK(chan_revoke(&r, FH_REVOKE_NONE) == 0);
		reap(pid);
		CHECK(chan_destroy(&r) == 0);
	}
}

/* --- many ---------------------------------------------------------------------------------- */

#define NR_CLIENTS 256 /* as many as chan_max lets one uid have */

static void brief_client(void *p)
{
	int *start = p;
	struct chan c;
	char byte;

	CHECK(read(*start, &byte, 1) == 0);
	chan_open(&c, open_client());
	memset(c.area[FH_AREA_ARENA], (int)getpid() & 0xff, 4096);
	__atomic_store_n(chan_word(&c, FH_AREA_CLIENT, c.info->sq_tail_off), 1, __ATOMIC_RELEASE);
	while (chan_state(&c) == FH_CHAN_WAITING)
		CHECK(readable(c.wake, POLLIN, 60000));
	event_take(c.wake);
	while (!__atomic_load_n(chan_word(&c, FH_AREA_RUNTIME, c.info->cq_tail_off), __ATOMIC_ACQUIRE))
		CHECK(readable(c.wake, POLLIN, 60000));
	struct fh_cqe *e = (struct fh_cqe *)c.area[FH_AREA_CQ];
	CHECK(e->slot.token == (uint32_t)getpid());
}

TEST(many_clients)
{
	int ctl = open_runtime(), start[2];
	static struct chan r[NR_CLIENTS];
	static pid_t pids[NR_CLIENTS];
	struct fh_peer peer;

	CHECK(pipe(start) == 0);
	for (int i = 0; i < NR_CLIENTS; i++) {
		pids[i] = fork();
		CHECK(pids[i] >= 0);
		if (pids[i] == 0) {
			close(start[1]);
			close(ctl);
			brief_client(&start[0]);
			_exit(0);
		}
	}
	close(start[1]);
	for (int i = 0; i < NR_CLIENTS; i++) {
		CHECK(readable(ctl, POLLIN, 60000));
		while (chan_accept(&r[i], ctl, &peer))
			CHECK(errno == EAGAIN && readable(ctl, POLLIN, 60000));
		chan_map_all(&r[i]);
		while (!__atomic_load_n(chan_word(&r[i], FH_AREA_CLIENT, r[i].info->sq_tail_off), __ATOMIC_ACQUIRE))
			nap_ms(1);
		/* Each sees its own memory and no other's. */
		CHECK(r[i].area[FH_AREA_ARENA][4095] == (char)(peer.pid & 0xff));
		CHECK(r[i].area[FH_AREA_ARENA][4096] == 0);
		((struct fh_cqe *)r[i].area[FH_AREA_CQ])->slot.token = peer.pid;
		__atomic_store_n(chan_word(&r[i], FH_AREA_RUNTIME, r[i].info->cq_tail_off), 1, __ATOMIC_RELEASE);
		CHECK(chan_kick(&r[i]) == 0 || errno == EPIPE);
	}
	for (int i = 0; i < NR_CLIENTS; i++)
		reap(pids[i]);
	CHECK(get_info(ctl).out_nr_dead == NR_CLIENTS);
	for (int i = 0; i < NR_CLIENTS; i++)
		CHECK(chan_destroy(&r[i]) == 0);
	CHECK(get_info(ctl).out_nr_dead == 0);
}
