// SPDX-License-Identifier: Apache-2.0
/*
 * The fuzzer's threads and processes, and what must be so afterwards; see
 * fuzz.h.  Its length and its seed come from the environment (tests/vm/init.sh):
 * FH_FUZZ_ROUNDS steps a thread, or FH_FUZZ_S seconds; FH_SEED.  With the same
 * seed each thread makes the same steps; how they interleave is the machine's.
 */
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>

#include "tests/abi/fuzz.h"

#define NR_WORKERS 3
#define NR_THREADS 2
#define STEPS_A_LIFE 1500 /* then a worker begins anew, so that everything that it holds goes at once */

/* --- numbers -------------------------------------------------------------------------- */

static uint64_t next(struct fuzz_thread *t)
{
	/* xorshift64*: Vigna, "An experimental exploration of Marsaglia's xorshift generators, scrambled", 2016. */
	t->rng ^= t->rng >> 12;
	t->rng ^= t->rng << 25;
	t->rng ^= t->rng >> 27;
	return t->rng * 2685821657736338717ull;
}

uint32_t fuzz_rand(struct fuzz_thread *t, uint32_t below)
{
	return below ? (uint32_t)((next(t) >> 32) * below >> 32) : 0;
}

uint64_t fuzz_u64(struct fuzz_thread *t)
{
	uint64_t x = 1ull << fuzz_rand(t, 64);

	switch (fuzz_rand(t, 5)) {
	case 0: return next(t);
	case 1: return x - 1;
	case 2: return x + fuzz_rand(t, 2);
	case 3: return UINT64_MAX - fuzz_rand(t, 3);
	default: return fuzz_rand(t, 20);
	}
}

/* --- descriptors ------------------------------------------------------------------------- */

int fuzz_fd(struct fuzz_thread *t)
{
	int fd = -1;

	for (int tries = 0; tries < 8 && fd < 0; tries++)
		fd = __atomic_load_n(&t->fds[fuzz_rand(t, FUZZ_FDS)], __ATOMIC_RELAXED);
	return fuzz_rand(t, 64) ? fd : (int)fuzz_u64(t);
}

void fuzz_keep(struct fuzz_thread *t, int fd)
{
	int old;

	if (fd < 0)
		return;
	old = __atomic_exchange_n(&t->fds[fuzz_rand(t, FUZZ_FDS)], fd, __ATOMIC_RELAXED);
	if (old >= 0)
		close(old);
}

static void drop_fd(struct fuzz_thread *t)
{
	int old = __atomic_exchange_n(&t->fds[fuzz_rand(t, FUZZ_FDS)], -1, __ATOMIC_RELAXED);

	if (old >= 0)
		close(old);
}

/* To another worker, or from one. */
static void pass_fd(struct fuzz_thread *t)
{
	char byte = 'f', control[CMSG_SPACE(sizeof(int))] = {0};
	struct iovec iov = {.iov_base = &byte, .iov_len = 1};
	struct msghdr msg = {
		.msg_iov = &iov, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof(control)};
	struct cmsghdr *cmsg = CMSG_FIRSTHDR(&msg);
	int fd = fuzz_fd(t);

	if (fuzz_rand(t, 2)) {
		if (recvmsg(t->sock[0], &msg, MSG_DONTWAIT | MSG_CMSG_CLOEXEC) == 1 && (cmsg = CMSG_FIRSTHDR(&msg))) {
			memcpy(&fd, CMSG_DATA(cmsg), sizeof(fd));
			fuzz_keep(t, fd);
		}
		return;
	}
	cmsg->cmsg_level = SOL_SOCKET;
	cmsg->cmsg_type = SCM_RIGHTS;
	cmsg->cmsg_len = CMSG_LEN(sizeof(int));
	memcpy(CMSG_DATA(cmsg), &fd, sizeof(fd));
	sendmsg(t->sock[1], &msg, MSG_DONTWAIT);
}

/* --- faults are no end ----------------------------------------------------------------------- */

static __thread sigjmp_buf fault_env;
static __thread volatile sig_atomic_t guarded;

static void on_fault(int sig)
{
	if (guarded)
		siglongjmp(fault_env, 1);
	signal(sig, SIG_DFL);
}

bool fuzz_guard(void (*fn)(struct fuzz_thread *t, void *arg), struct fuzz_thread *t, void *arg)
{
	bool whole = false;

	guarded = 1;
	if (sigsetjmp(fault_env, 1) == 0) {
		fn(t, arg);
		whole = true;
	}
	guarded = 0;
	return whole;
}

/* --- steps ---------------------------------------------------------------------------------- */

/* A child that has our files, and of our mappings those that MADV_DOFORK gave it; some become another program. */
static void fork_one(struct fuzz_thread *t)
{
	pid_t pid = fork();

	if (pid == 0) {
		for (int i = 0; i < 6; i++) {
			fuzz_scribble(t);
			fuzz_map(t);
			fuzz_call(t);
		}
		if (fuzz_rand(t, 4) == 0)
			execl("/bin/true", "true", NULL);
		_exit(0);
	}
	if (pid > 0 && fuzz_rand(t, 2))
		waitpid(pid, NULL, 0);
}

static void look(struct fuzz_thread *t)
{
	static const char *const files[] = {"/sys/kernel/debug/freehold/state", "/sys/kernel/debug/freehold/channels",
					    "/sys/kernel/debug/freehold/regions", "/proc/self/maps"};
	struct pollfd p = {.fd = fuzz_fd(t), .events = POLLIN | POLLPRI};
	char path[64], text[512];
	int fd;

	poll(&p, 1, 0);
	snprintf(path, sizeof(path), "/proc/self/fdinfo/%d", p.fd);
	fd = open(fuzz_rand(t, 2) ? path : files[fuzz_rand(t, 4)], O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return;
	while (read(fd, text, sizeof(text)) > 0)
		;
	close(fd);
}

static void step(struct fuzz_thread *t)
{
	uint32_t what = fuzz_rand(t, 100);

	if (what < 40)
		fuzz_call(t);
	else if (what < 55)
		fuzz_map(t);
	else if (what < 70)
		fuzz_scribble(t);
	else if (what < 82)
		fuzz_unmap(t);
	else if (what < 89)
		fuzz_source(t);
	else if (what < 92)
		drop_fd(t);
	else if (what < 96)
		pass_fd(t);
	else if (what < 99)
		look(t);
	else
		fork_one(t);
}

struct shared {
	uint64_t steps; /* made by all, with atomics */
	uint64_t steps_max;
	struct timespec end; /* CLOCK_MONOTONIC, when steps_max is 0 */
};
static struct shared *shared;

static bool over(void)
{
	struct timespec now;

	if (shared->steps_max)
		return __atomic_load_n(&shared->steps, __ATOMIC_RELAXED) >= shared->steps_max;
	clock_gettime(CLOCK_MONOTONIC, &now);
	return now.tv_sec >= shared->end.tv_sec;
}

static void *thread(void *arg)
{
	struct fuzz_thread *t = arg;

	for (unsigned int i = 0; i < STEPS_A_LIFE && !over(); i++) {
		step(t);
		__atomic_fetch_add(&shared->steps, 1, __ATOMIC_RELAXED);
	}
	fuzz_unmap_all(t);
	return NULL;
}

static void worker(uint64_t seed, int sock[2], uint64_t target)
{
	struct fuzz_thread threads[NR_THREADS] = {0};
	struct sigaction sa = {.sa_handler = on_fault, .sa_flags = SA_NODEFER};
	pthread_t ids[NR_THREADS];
	int fds[FUZZ_FDS];

	sigaction(SIGBUS, &sa, NULL);
	sigaction(SIGSEGV, &sa, NULL);
	signal(SIGCHLD, SIG_IGN);
	setrlimit(RLIMIT_NOFILE, &(struct rlimit){256, 256});
	for (int i = 0; i < FUZZ_FDS; i++)
		fds[i] = -1;
	for (int i = 0; i < NR_THREADS; i++) {
		threads[i].rng = (seed * NR_THREADS + (uint64_t)i) * 0x9e3779b97f4a7c15ull | 1;
		threads[i].fds = fds;
		threads[i].sock[0] = sock[0];
		threads[i].sock[1] = sock[1];
		threads[i].target = target;
		fuzz_source(&threads[i]);
	}
	for (int i = 0; i < NR_THREADS; i++)
		CHECK(pthread_create(&ids[i], NULL, thread, &threads[i]) == 0);
	for (int i = 0; i < NR_THREADS; i++)
		pthread_join(ids[i], NULL);
	_exit(0);
}

/* --- the whole --------------------------------------------------------------------------------- */

static uint64_t edu_target(void)
{
	struct edu edu;

	return edu_open(&edu) ? edu.target : 0;
}

static void run_workers(uint64_t *seed, uint64_t target)
{
	int sock[NR_WORKERS][2];
	pid_t pid[NR_WORKERS] = {0};
	struct timespec nap = {.tv_nsec = 2000000};
	unsigned int kills = 1;

	for (int i = 0; i < NR_WORKERS; i++)
		CHECK(socketpair(AF_UNIX, SOCK_DGRAM, 0, sock[i]) == 0);
	while (!over()) {
		for (int i = 0; i < NR_WORKERS; i++) {
			int ends[2] = {sock[i][0], sock[(i + 1) % NR_WORKERS][1]};

			if (pid[i] && waitpid(pid[i], NULL, WNOHANG) != pid[i])
				continue;
			fflush(stdout);
			pid[i] = fork();
			CHECK(pid[i] >= 0);
			if (pid[i] == 0)
				worker((*seed)++ * NR_WORKERS + (uint64_t)i, ends, target);
			(*seed)++;
		}
		nanosleep(&nap, NULL);
		if (rand_r(&kills) % 100 == 0)
			kill(pid[rand_r(&kills) % NR_WORKERS], SIGKILL);
	}
	for (int i = 0; i < NR_WORKERS; i++) {
		kill(pid[i], SIGKILL);
		waitpid(pid[i], NULL, 0);
		close(sock[i][0]);
		close(sock[i][1]);
	}
}

TEST(fuzz)
{
	static const char *const names[] = {"runtime", "clients", "channels",	  "waiting",
					    "dead",    "regions", "region_bytes", "dma_maps"};
	unsigned int rounds = setting("FH_FUZZ_ROUNDS", 3000), seconds = setting("FH_FUZZ_S", 0);
	struct fh_info limits;
	uint64_t seed = setting("FH_SEED", 1);

	printf("  FH_SEED=%u FH_FUZZ_ROUNDS=%u FH_FUZZ_S=%u\n", (unsigned int)seed, rounds, seconds);
	alarm(seconds + 240);
	int fd = open_client();
	limits = get_info(fd);
	close(fd);
	shared = mmap(NULL, sizeof(*shared), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	CHECK(shared != MAP_FAILED);
	clock_gettime(CLOCK_MONOTONIC, &shared->end);
	shared->end.tv_sec += seconds;
	shared->steps_max = seconds ? 0 : (uint64_t)rounds * NR_WORKERS * NR_THREADS;
	/* A small machine: what one call may take is bounded, so that the others go on. */
	param_set("mem_mib_max", 32);
	param_set("chan_mib_max", 32);
	run_workers(&seed, edu_target());
	param_set("mem_mib_max", (unsigned int)(limits.out_mem_bytes_max >> 20));
	param_set("chan_mib_max", (unsigned int)(limits.out_chan_bytes_max >> 20));
	printf("  %llu steps\n", (unsigned long long)shared->steps);
	/* Children that the workers left behind go with the group; this process stays. */
	signal(SIGTERM, SIG_IGN);
	kill(0, SIGTERM);
	for (unsigned int i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
		struct timespec nap = {.tv_nsec = 10000000};

		for (int tries = 0; tries < 1000 && state_count(names[i]); tries++)
			nanosleep(&nap, NULL);
		if (state_count(names[i]))
			printf("  %s: %llu left\n", names[i], (unsigned long long)state_count(names[i]));
		CHECK(state_count(names[i]) == 0);
	}
}
