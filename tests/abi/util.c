// SPDX-License-Identifier: Apache-2.0
/* What the tests of this folder share; see abi.h. */
#include <fcntl.h>
#include <poll.h>
#include <setjmp.h>
#include <signal.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <sys/wait.h>

#include "tests/abi/abi.h"

int open_client(void)
{
	int fd = open(CLIENT_DEV, O_RDWR | O_CLOEXEC);

	CHECK(fd >= 0);
	return fd;
}

int open_runtime(void)
{
	int fd = open(RUNTIME_DEV, O_RDWR | O_CLOEXEC);

	CHECK(fd >= 0);
	return fd;
}

int chan_create(struct chan *c, int fd, uint32_t sq, uint32_t cq, uint64_t arena)
{
	int wake = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
	struct fh_chan_create cmd = {
		.size = sizeof(cmd), .sq_entries = sq, .cq_entries = cq, .arena_bytes = arena, .wake_fd = wake};

	CHECK(wake >= 0);
	if (ioctl(fd, FH_IOCTL_CHAN_CREATE, &cmd)) {
		int saved = errno;
		close(wake);
		errno = saved;
		return -1;
	}
	*c = (struct chan){.fd = fd, .wake = wake, .id = cmd.out_chan_id, .mmap_off = cmd.out_mmap_off, .client = true};
	return 0;
}

void chan_map_info(struct chan *c)
{
	c->info = mmap(NULL, 4096, PROT_READ, MAP_SHARED, c->fd, (off_t)c->mmap_off);
	CHECK(c->info != MAP_FAILED);
	CHECK(c->info->magic == FH_CHAN_MAGIC);
	CHECK(c->info->page_bytes == 4096);
	c->area[FH_AREA_INFO] = (char *)c->info;
}

void *chan_map_area(struct chan *c, int area, int prot)
{
	const struct fh_chan_area *a = &c->info->areas[area];

	return mmap(NULL, a->bytes, prot, MAP_SHARED, c->fd, (off_t)(c->mmap_off + a->off));
}

void chan_map_all(struct chan *c)
{
	chan_map_info(c);
	for (int i = FH_AREA_CLIENT; i < FH_NR_AREAS; i++) {
		bool mine = c->info->areas[i].writer == (c->client ? FH_WRITER_CLIENT : FH_WRITER_RUNTIME);

		c->area[i] = chan_map_area(c, i, PROT_READ | (mine ? PROT_WRITE : 0));
		CHECK(c->area[i] != MAP_FAILED);
	}
}

void chan_open(struct chan *c, int fd)
{
	CHECK(chan_create(c, fd, 8, 64, 16384) == 0);
	chan_map_all(c);
}

int chan_accept(struct chan *c, int ctl, struct fh_peer *peer)
{
	int wake = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
	struct fh_chan_accept cmd = {.size = sizeof(cmd), .wake_fd = wake};

	CHECK(wake >= 0);
	if (ioctl(ctl, FH_IOCTL_CHAN_ACCEPT, &cmd)) {
		int saved = errno;
		close(wake);
		errno = saved;
		return -1;
	}
	*c = (struct chan){.fd = ctl, .wake = wake, .id = cmd.out_chan_id, .mmap_off = cmd.out_mmap_off};
	if (peer)
		*peer = cmd.out_peer;
	return 0;
}

int chan_kick(const struct chan *c)
{
	struct fh_chan_kick cmd = {.size = sizeof(cmd), .chan_id = c->id};

	return ioctl(c->fd, FH_IOCTL_CHAN_KICK, &cmd);
}

int chan_revoke(const struct chan *c, uint32_t reason)
{
	struct fh_chan_revoke cmd = {.size = sizeof(cmd), .chan_id = c->id, .reason = reason};

	return ioctl(c->fd, FH_IOCTL_CHAN_REVOKE, &cmd);
}

int chan_destroy(const struct chan *c)
{
	struct fh_destroy cmd = {.size = sizeof(cmd), .id = c->id};

	return ioctl(c->fd, FH_IOCTL_DESTROY, &cmd);
}

uint32_t chan_state(const struct chan *c)
{
	return __atomic_load_n(&c->info->state, __ATOMIC_ACQUIRE);
}

uint32_t *chan_word(const struct chan *c, int area, uint32_t off)
{
	return (uint32_t *)(c->area[area] + off);
}

bool readable(int fd, short events, int timeout_ms)
{
	struct pollfd p = {.fd = fd, .events = events};

	return poll(&p, 1, timeout_ms) == 1 && (p.revents & events) == events;
}

uint64_t event_take(int fd)
{
	uint64_t n;

	return read(fd, &n, sizeof(n)) == sizeof(n) ? n : 0;
}

static sigjmp_buf sigbus_env;

static void on_sigbus(int sig)
{
	(void)sig;
	siglongjmp(sigbus_env, 1);
}

bool touch_is_sigbus(volatile char *p, bool write)
{
	struct sigaction sa = {.sa_handler = on_sigbus}, old;
	volatile bool hit = true;

	CHECK(sigaction(SIGBUS, &sa, &old) == 0);
	if (sigsetjmp(sigbus_env, 1) == 0) {
		if (write)
			*p = 1;
		else
			(void)*p;
		hit = false;
	}
	CHECK(sigaction(SIGBUS, &old, NULL) == 0);
	return hit;
}

pid_t spawn(void (*run)(void *arg), void *arg)
{
	pid_t pid;

	fflush(stdout);
	pid = fork();
	CHECK(pid >= 0);
	if (pid == 0) {
		run(arg);
		fflush(stdout);
		_exit(0);
	}
	return pid;
}

void reap(pid_t pid)
{
	int status;

	CHECK(waitpid(pid, &status, 0) == pid);
	CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 0);
}

struct fh_info get_info(int fd)
{
	struct fh_info info = {.size = sizeof(info)};

	CHECK(ioctl(fd, FH_IOCTL_INFO, &info) == 0);
	return info;
}

void send_fd(int sock, int fd)
{
	char byte = 'f', control[CMSG_SPACE(sizeof(int))] = {0};
	struct iovec iov = {.iov_base = &byte, .iov_len = 1};
	struct msghdr msg = {
		.msg_iov = &iov, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof(control)};
	struct cmsghdr *cmsg = CMSG_FIRSTHDR(&msg);

	cmsg->cmsg_level = SOL_SOCKET;
	cmsg->cmsg_type = SCM_RIGHTS;
	cmsg->cmsg_len = CMSG_LEN(sizeof(int));
	memcpy(CMSG_DATA(cmsg), &fd, sizeof(fd));
	CHECK(sendmsg(sock, &msg, 0) == 1);
}

int recv_fd(int sock)
{
	char byte, control[CMSG_SPACE(sizeof(int))] = {0};
	struct iovec iov = {.iov_base = &byte, .iov_len = 1};
	struct msghdr msg = {
		.msg_iov = &iov, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof(control)};
	int fd;

	CHECK(recvmsg(sock, &msg, MSG_CMSG_CLOEXEC) == 1);
	CHECK(CMSG_FIRSTHDR(&msg) && CMSG_FIRSTHDR(&msg)->cmsg_type == SCM_RIGHTS);
	memcpy(&fd, CMSG_DATA(CMSG_FIRSTHDR(&msg)), sizeof(fd));
	return fd;
}

void param_set(const char *name, unsigned int value)
{
	char path[128], text[16];
	int fd, n;

	snprintf(path, sizeof(path), "/sys/module/freehold/parameters/%s", name);
	n = snprintf(text, sizeof(text), "%u", value);
	fd = open(path, O_WRONLY | O_CLOEXEC);
	CHECK(fd >= 0);
	CHECK(write(fd, text, (size_t)n) == n);
	close(fd);
}

uint64_t state_count(const char *name)
{
	unsigned long long value, found = UINT64_MAX;
	char key[64];
	FILE *f = fopen("/sys/kernel/debug/freehold/state", "re");

	CHECK(f);
	while (fscanf(f, "%63s %llu", key, &value) == 2) {
		if (strcmp(key, name) == 0)
			found = value;
	}
	fclose(f);
	CHECK(found != UINT64_MAX);
	return found;
}

unsigned int setting(const char *name, unsigned int otherwise)
{
	const char *text = getenv(name);

	return text && *text ? (unsigned int)strtoul(text, NULL, 0) : otherwise;
}
