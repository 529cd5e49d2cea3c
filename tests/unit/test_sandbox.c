// SPDX-License-Identifier: Apache-2.0
/*
 * The sandbox from inside: a child confines itself as the daemon does and then
 * tries what must not work, and what must.  Each try reports 0 or its errno.
 */
#include <criterion/criterion.h>
#include <arpa/inet.h>
#include <fcntl.h>
#include <linux/io_uring.h>
#include <netinet/in.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include "runtime/base/log.h"
#include "runtime/daemon/sandbox.h"
#include "uapi/freehold.h"

/* What the tries may use; made before the confinement. */
struct stage {
	char dir[64], model[96], secret[96], socket[96];
	int listener; /* TCP on loopback */
	struct sockaddr_in addr;
	struct fhd_sandbox_state state;
};

static void make_file(const char *path, const char *text)
{
	int fd = open(path, O_CREAT | O_WRONLY | O_TRUNC, 0644);

	cr_assert(fd >= 0, "%s", path);
	cr_assert_eq(write(fd, text, strlen(text)), (ssize_t)strlen(text));
	close(fd);
}

static void set_stage(struct stage *s)
{
	socklen_t len = sizeof(s->addr);
	char sub[96];

	memset(s, 0, sizeof(*s));
	strcpy(s->dir, "/tmp/freehold-sandbox-XXXXXX");
	cr_assert(mkdtemp(s->dir));
	cr_assert_eq(chmod(s->dir, 0777), 0);
	snprintf(sub, sizeof(sub), "%s/models", s->dir);
	cr_assert_eq(mkdir(sub, 0755), 0);
	snprintf(s->model, sizeof(s->model), "%s/models/m.gguf", s->dir);
	snprintf(s->secret, sizeof(s->secret), "%s/secret", s->dir);
	snprintf(sub, sizeof(sub), "%s/run", s->dir);
	cr_assert_eq(mkdir(sub, 0777), 0);
	cr_assert_eq(chmod(sub, 0777), 0);
	snprintf(s->socket, sizeof(s->socket), "%s/run/s", s->dir);
	make_file(s->model, "model");
	make_file(s->secret, "secret");
	make_file(s->socket, "");
	s->listener = socket(AF_INET, SOCK_STREAM, 0);
	s->addr = (struct sockaddr_in){.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	cr_assert_eq(bind(s->listener, (struct sockaddr *)&s->addr, sizeof(s->addr)), 0);
	cr_assert_eq(listen(s->listener, 8), 0);
	cr_assert_eq(getsockname(s->listener, (struct sockaddr *)&s->addr, &len), 0);
}

static void clear_stage(struct stage *s)
{
	char sub[96];

	close(s->listener);
	unlink(s->model);
	unlink(s->secret);
	unlink(s->socket);
	snprintf(sub, sizeof(sub), "%s/models", s->dir);
	rmdir(sub);
	snprintf(sub, sizeof(sub), "%s/run", s->dir);
	rmdir(sub);
	rmdir(s->dir);
}

static bool with_gpus; /* whose energy is measured through their driver */
static bool as_client; /* the exporter's walls instead of the server's */

/* As the daemon does it; the process ends when it cannot. */
static void confine(struct stage *s, bool filter)
{
	char models[96], run[96];
	struct fhd_sandbox box = {
		.readable = {models}, .nr_readable = 1, .removable = {run}, .nr_removable = 1, .connects = as_client};
	struct fh_err err;

	snprintf(models, sizeof(models), "%s/models", s->dir);
	snprintf(run, sizeof(run), "%s/run", s->dir);
	fh_log_setup(FH_LOG_ERROR, false);
	if (fhd_sandbox_enter(&box, &s->state, &err) ||
	    (filter && (as_client ? fhd_sandbox_filter_client(&s->state, &err)
				  : fhd_sandbox_filter(&s->state, -1, with_gpus, &err)))) {
		fprintf(stderr, "confine: %s\n", err.msg);
		_exit(250);
	}
}

/* Run @attempt confined, in a child; its result, or 1000 + the signal that ended it. */
static int attempt_in(bool filter, int (*before)(struct stage *), int (*attempt)(struct stage *))
{
	struct stage s;
	int status;
	pid_t pid;

	set_stage(&s);
	pid = fork();
	cr_assert(pid >= 0);
	if (!pid) {
		if (before && before(&s))
			_exit(251);
		confine(&s, filter);
		_exit(attempt(&s));
	}
	cr_assert_eq(waitpid(pid, &status, 0), pid);
	clear_stage(&s);
	return WIFSIGNALED(status) ? 1000 + WTERMSIG(status) : WEXITSTATUS(status);
}

static int confined(int (*attempt)(struct stage *))
{
	return attempt_in(true, NULL, attempt);
}

static int result(long rc)
{
	return rc < 0 ? errno : 0;
}

/* ---- what must not work ---- */

static int prepared_fd; /* in the child only: opened before the confinement */

static int open_tcp(struct stage *s)
{
	(void)s;
	prepared_fd = socket(AF_INET, SOCK_STREAM, 0);
	return prepared_fd < 0;
}

static int try_connect(struct stage *s)
{
	return result(connect(prepared_fd, (struct sockaddr *)&s->addr, sizeof(s->addr)));
}

static int try_socket_inet(struct stage *s)
{
	(void)s;
	return result(socket(AF_INET, SOCK_STREAM, 0));
}

static int try_socket_udp(struct stage *s)
{
	(void)s;
	return result(socket(AF_INET, SOCK_DGRAM, 0));
}

static int try_socket_unix(struct stage *s)
{
	(void)s;
	return result(socket(AF_UNIX, SOCK_STREAM, 0));
}

static int try_bind(struct stage *s)
{
	struct sockaddr_in any = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};

	(void)s;
	return result(bind(prepared_fd, (struct sockaddr *)&any, sizeof(any)));
}

static int try_write_shadow(struct stage *s)
{
	(void)s;
	return result(open("/etc/shadow", O_WRONLY));
}

static int try_write_model(struct stage *s)
{
	return result(open(s->model, O_RDWR));
}

static int try_create(struct stage *s)
{
	char path[160];

	snprintf(path, sizeof(path), "%s/models/new", s->dir);
	return result(open(path, O_WRONLY | O_CREAT, 0600));
}

static int try_read_secret(struct stage *s)
{
	return result(open(s->secret, O_RDONLY));
}

static int try_unlink_model(struct stage *s)
{
	return result(unlink(s->model));
}

static int try_exec(struct stage *s)
{
	static char *const argv[] = {(char *)(uintptr_t) "true", NULL};

	(void)s;
	return result(execve("/bin/true", argv, NULL));
}

static int try_ptrace(struct stage *s)
{
	(void)s;
	return result(syscall(SYS_ptrace, 16, getppid(), 0, 0));
}

static int try_kill(struct stage *s)
{
	(void)s;
	return result(kill(getppid(), SIGCONT));
}

static int try_exec_memory(struct stage *s)
{
	(void)s;
	return mmap(NULL, 4096, PROT_READ | PROT_WRITE | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0) == MAP_FAILED
		       ? errno
		       : 0;
}

/* A request that /dev/null does not know: ENOTTY says that it got there. */
static int try_ioctl_of_the_module(struct stage *s)
{
	struct fh_info info = {.size = sizeof(info)};

	(void)s;
	return ioctl(STDIN_FILENO, FH_IOCTL_INFO, &info) ? errno : 0;
}

/* Of NVIDIA's driver: type 'F', whatever its number and size. There is no such driver behind this descriptor. */
static int try_ioctl_of_nvidia(struct stage *s)
{
	char data[64] = "";

	(void)s;
	return ioctl(STDIN_FILENO, _IOWR('F', 42, data), data) ? errno : 0;
}

static int try_other_ioctl(struct stage *s)
{
	int n;

	(void)s;
	return ioctl(STDIN_FILENO, FIONREAD, &n) ? errno : 0;
}

/* Bus addresses are asked for before the daemon serves, or not at all. */
static int try_dma_map(struct stage *s)
{
	struct fh_dma_map map = {.size = sizeof(map)};

	(void)s;
	return ioctl(STDIN_FILENO, FH_IOCTL_DMA_MAP, &map) ? errno : 0;
}

static int try_fork(struct stage *s)
{
	pid_t pid = fork();

	(void)s;
	if (!pid)
		_exit(0);
	return result(pid);
}

static int try_new_ring(struct stage *s)
{
	struct io_uring_params p = {0};

	(void)s;
	return result(syscall(SYS_io_uring_setup, 4, &p));
}

Test(sandbox, it_cannot_call_out)
{
	cr_expect_eq(attempt_in(true, open_tcp, try_connect), EPERM);
	cr_expect_eq(attempt_in(true, open_tcp, try_bind), EPERM);
	cr_expect_eq(confined(try_socket_inet), EPERM);
	cr_expect_eq(confined(try_socket_udp), EPERM);
	cr_expect_eq(confined(try_socket_unix), EPERM);
	cr_expect_neq(confined(try_new_ring), 0);
}

Test(sandbox, it_cannot_write_or_read_elsewhere)
{
	cr_expect_eq(confined(try_write_shadow), EPERM);
	cr_expect_eq(confined(try_write_model), EPERM);
	cr_expect_eq(confined(try_create), EPERM);
	if (fhd_landlock_abi()) {
		cr_expect_eq(confined(try_read_secret), EACCES);
		cr_expect_eq(confined(try_unlink_model), EACCES);
	}
}

Test(sandbox, it_cannot_become_something_else)
{
	cr_expect_eq(confined(try_exec), 1000 + SIGSYS);
	cr_expect_eq(confined(try_ptrace), 1000 + SIGSYS);
	cr_expect_eq(confined(try_kill), EPERM);
	cr_expect_eq(confined(try_fork), EPERM);
	cr_expect_eq(confined(try_exec_memory), EPERM);
	cr_expect_eq(confined(try_other_ioctl), EPERM);
	cr_expect_eq(confined(try_dma_map), EPERM);
	cr_expect_eq(confined(try_ioctl_of_the_module), ENOTTY);
	cr_expect_eq(confined(try_ioctl_of_nvidia), EPERM);
	with_gpus = true;
	cr_expect_eq(confined(try_ioctl_of_nvidia), ENOTTY);
	cr_expect_eq(confined(try_other_ioctl), EPERM);
	with_gpus = false;
}

/* Landlock alone, below the filter: TCP is refused, and the file system. */
static int try_socket_packet(struct stage *s)
{
	(void)s;
	return result(socket(AF_PACKET, SOCK_DGRAM, 0));
}

static int try_listen(struct stage *s)
{
	(void)s;
	return result(listen(prepared_fd, 8));
}

static int try_code_of_a_file(struct stage *s)
{
	int fd = open(s->model, O_RDONLY);

	return fd < 0 || mmap(NULL, 4096, PROT_READ | PROT_EXEC, MAP_PRIVATE, fd, 0) == MAP_FAILED ? errno : 0;
}

/* It calls out, and does nothing else that the server may not; nor what only the server does. */
Test(sandbox, a_client_is_one)
{
	as_client = true;
	cr_expect_eq(attempt_in(true, open_tcp, try_connect), 0);
	cr_expect_eq(confined(try_socket_udp), 0);
	cr_expect_eq(confined(try_code_of_a_file), 0, "as where the C library loads a part of itself");
	cr_expect_eq(attempt_in(true, open_tcp, try_bind), EPERM);
	cr_expect_eq(attempt_in(true, open_tcp, try_listen), EPERM);
	cr_expect_eq(confined(try_socket_packet), EPERM);
	cr_expect_eq(confined(try_new_ring), EPERM);
	cr_expect_eq(confined(try_write_model), EPERM);
	cr_expect_eq(confined(try_create), EPERM);
	cr_expect_eq(confined(try_unlink_model), EPERM);
	cr_expect_eq(confined(try_exec_memory), EPERM);
	cr_expect_eq(confined(try_fork), EPERM);
	cr_expect_eq(confined(try_kill), EPERM);
	cr_expect_eq(confined(try_exec), 1000 + SIGSYS);
	cr_expect_eq(confined(try_ptrace), 1000 + SIGSYS);
	if (fhd_landlock_abi())
		cr_expect_eq(confined(try_read_secret), EACCES);
}

Test(sandbox, landlock_stands_alone)
{
	if (fhd_landlock_abi() < 4)
		cr_skip_test("the kernel's Landlock knows no TCP");
	cr_expect_eq(attempt_in(false, open_tcp, try_connect), EACCES);
	cr_expect_eq(attempt_in(false, open_tcp, try_bind), EACCES);
	cr_expect_eq(attempt_in(false, NULL, try_write_model), EACCES);
	cr_expect_eq(attempt_in(false, NULL, try_create), EACCES);
}

/* ---- io_uring, by hand: a ring that nobody restricted ---- */

static struct {
	int fd;
	char *sq, *cq;
	struct io_uring_params p;
	struct io_uring_sqe *sqes;
} ring;

static int open_ring_and_tcp(struct stage *s)
{
	ring.fd = (int)syscall(SYS_io_uring_setup, 4, &ring.p);
	if (ring.fd < 0)
		return 1;
	ring.sq = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, ring.fd, IORING_OFF_SQ_RING);
	ring.cq = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, ring.fd, IORING_OFF_CQ_RING);
	ring.sqes = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, ring.fd, IORING_OFF_SQES);
	return open_tcp(s);
}

static int try_ring_connect(struct stage *s)
{
	unsigned int *tail = (unsigned int *)(ring.sq + ring.p.sq_off.tail);
	struct io_uring_cqe *cqe = (struct io_uring_cqe *)(ring.cq + ring.p.cq_off.cqes);

	ring.sqes[0] = (struct io_uring_sqe){
		.opcode = IORING_OP_CONNECT,
		.fd = prepared_fd,
		.addr = (uintptr_t)&s->addr,
		.off = sizeof(s->addr),
	};
	((unsigned int *)(ring.sq + ring.p.sq_off.array))[0] = 0;
	atomic_store((_Atomic unsigned int *)tail, *tail + 1);
	if (syscall(SYS_io_uring_enter, ring.fd, 1, 1, IORING_ENTER_GETEVENTS, NULL, 0) != 1)
		return 252;
	return -cqe->res;
}

Test(sandbox, a_ring_cannot_call_out_either)
{
	struct io_uring_params p = {0};
	int fd = (int)syscall(SYS_io_uring_setup, 4, &p);

	if (fd < 0)
		cr_skip_test("io_uring is refused here");
	close(fd);
	if (fhd_landlock_abi() < 4)
		cr_skip_test("the kernel's Landlock knows no TCP; the daemon's ring is restricted");
	cr_expect_eq(attempt_in(true, open_ring_and_tcp, try_ring_connect), EACCES);
}

/* ---- what must work ---- */

static int try_model(struct stage *s)
{
	int fd = open(s->model, O_RDONLY | O_CLOEXEC);
	char text[8] = "";
	void *p;

	if (fd < 0)
		return errno;
	p = mmap(NULL, 5, PROT_READ, MAP_PRIVATE, fd, 0);
	if (p == MAP_FAILED || memcmp(p, "model", 5) || read(fd, text, 5) != 5)
		return 252;
	return 0;
}

static int try_remove_socket(struct stage *s)
{
	return result(unlink(s->socket));
}

static void *thread_main(void *arg)
{
	free(malloc(100000));
	*(int *)arg = 7;
	return NULL;
}

static int try_thread(struct stage *s)
{
	pthread_t t;
	int got = 0;

	(void)s;
	if (pthread_create(&t, NULL, thread_main, &got) || pthread_join(t, NULL))
		return 252;
	return got == 7 ? 0 : 253;
}

static int connect_peer(struct stage *s)
{
	if (open_tcp(s))
		return 1;
	return connect(prepared_fd, (struct sockaddr *)&s->addr, sizeof(s->addr));
}

static int try_serve(struct stage *s)
{
	int fd = accept4(s->listener, NULL, NULL, SOCK_CLOEXEC);
	char c = 0;

	if (fd < 0)
		return errno;
	if (send(prepared_fd, "x", 1, 0) != 1 || recv(fd, &c, 1, 0) != 1 || c != 'x')
		return 252;
	return 0;
}

static int try_abort(struct stage *s)
{
	(void)s;
	signal(SIGABRT, SIG_DFL);
	abort();
}

Test(sandbox, it_still_serves)
{
	cr_expect_eq(confined(try_model), 0);
	cr_expect_eq(confined(try_remove_socket), 0);
	cr_expect_eq(confined(try_thread), 0);
	cr_expect_eq(attempt_in(true, connect_peer, try_serve), 0);
	cr_expect_eq(confined(try_abort), 1000 + SIGABRT);
}

/* ---- threads ---- */

static _Atomic int go, thread_result;

static void *late_caller(void *arg)
{
	(void)arg;
	while (!atomic_load(&go))
		usleep(1000);
	atomic_store(&thread_result, result(socket(AF_INET, SOCK_STREAM, 0)));
	return NULL;
}

static pthread_t early;

static int start_thread(struct stage *s)
{
	(void)s;
	return pthread_create(&early, NULL, late_caller, NULL);
}

static int try_in_early_thread(struct stage *s)
{
	(void)s;
	atomic_store(&go, 1);
	pthread_join(early, NULL);
	return atomic_load(&thread_result);
}

Test(sandbox, the_filter_reaches_threads_that_run)
{
	cr_expect_eq(attempt_in(true, start_thread, try_in_early_thread), EPERM);
}

static int try_rights(struct stage *s)
{
	char line[256];
	FILE *f = fopen("/proc/self/status", "re");
	int good = 0;

	(void)s;
	while (f && fgets(line, sizeof(line), f)) {
		good += !strcmp(line, "CapEff:\t0000000000000000\n");
		good += !strcmp(line, "CapPrm:\t0000000000000000\n");
		good += !strcmp(line, "CapAmb:\t0000000000000000\n");
		good += !strcmp(line, "NoNewPrivs:\t1\n");
		good += !strcmp(line, "Seccomp:\t2\n");
	}
	return f ? good : errno;
}

static int allow_proc(struct stage *s)
{
	/* The test's model folder is the one readable place: make it /proc for once. */
	char models[96];

	unlink(s->model);
	snprintf(models, sizeof(models), "%s/models", s->dir);
	return rmdir(models) || symlink("/proc/self", models);
}

Test(sandbox, no_rights_are_left)
{
	struct stage s;
	int status;
	pid_t pid;

	set_stage(&s);
	pid = fork();
	if (!pid) {
		if (allow_proc(&s))
			_exit(251);
		confine(&s, true);
		_exit(try_rights(&s));
	}
	cr_assert_eq(waitpid(pid, &status, 0), pid);
	cr_expect(WIFEXITED(status));
	cr_expect_eq(WEXITSTATUS(status), 5);
	unlink(strcat(s.dir, "/models"));
	s.dir[strlen(s.dir) - 7] = 0;
	clear_stage(&s);
}

Test(sandbox, an_unknown_user_is_refused)
{
	const struct fhd_sandbox box = {.user = "no-such-user-here"};
	struct fhd_sandbox_state state;
	struct fh_err err;

	if (geteuid())
		cr_skip_test("only root can become another user");
	cr_expect_eq(fhd_sandbox_enter(&box, &state, &err), -ENOENT);
	cr_expect(strstr(err.msg, "no-such-user-here"), "%s", err.msg);
}

static int try_user(struct stage *s)
{
	return geteuid() && getuid() && !strcmp(s->state.user, "nobody") && !s->state.root ? 0 : 1;
}

Test(sandbox, root_becomes_the_user)
{
	struct fhd_sandbox box = {.user = "nobody"};
	struct stage s = {0};
	int status;
	pid_t pid;

	if (geteuid())
		cr_skip_test("only root can become another user");
	pid = fork();
	if (!pid) {
		struct fh_err err;

		if (fhd_sandbox_enter(&box, &s.state, &err) || fhd_sandbox_filter(&s.state, -1, false, &err))
			_exit(250);
		_exit(try_user(&s));
	}
	cr_assert_eq(waitpid(pid, &status, 0), pid);
	cr_expect_eq(status, 0);
}

/* A GPU's driver names its threads in /proc/self/task, also once the process is another user's. */
Test(sandbox, a_drivers_process_keeps_its_proc)
{
	const struct fhd_sandbox box = {.user = "nobody", .driver = true};
	int status;
	pid_t pid;

	if (geteuid())
		cr_skip_test("only root can become another user");
	pid = fork();
	if (!pid) {
		struct fhd_sandbox_state state;
		struct fh_err err;
		struct stat st;

		if (fhd_sandbox_enter(&box, &state, &err) || stat("/proc/self/task", &st))
			_exit(250);
		_exit(geteuid() && st.st_uid == geteuid() ? 0 : 1);
	}
	cr_assert_eq(waitpid(pid, &status, 0), pid);
	cr_expect_eq(status, 0);
}
