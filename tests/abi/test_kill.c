// SPDX-License-Identifier: Apache-2.0
/*
 * kill -9 at a random moment, over and over: of a client, of the runtime, of
 * all of them.  Whoever is left goes on, meets no error but those that the
 * header names, and finds its peer again; when all are gone nothing is left.
 *
 * Clients have channels, children that hold their files, and pass files to each
 * other; the runtime accepts, imports every type of region, exports, and maps
 * for a device where there is one.
 */
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>

#include "tests/abi/abi.h"

#define NR_CLIENTS 3

static void nap_us(long us)
{
	struct timespec ts = {.tv_sec = us / 1000000, .tv_nsec = us % 1000000 * 1000};

	nanosleep(&ts, NULL);
}

/* --- a client ------------------------------------------------------------------------- */

/* Holds the file for a while, and nothing else. */
static void holds_on(void)
{
	pid_t pid = fork();

	if (pid == 0) {
		nap_us(3000);
		_exit(0);
	}
}

/* Into the pool of files that belong to nobody, and out of it again. */
static void pass_on(int pool, int fd, unsigned int *seed)
{
	char byte = 'f', control[CMSG_SPACE(sizeof(int))] = {0};
	struct iovec iov = {.iov_base = &byte, .iov_len = 1};
	struct msghdr msg = {
		.msg_iov = &iov, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof(control)};
	struct cmsghdr *cmsg = CMSG_FIRSTHDR(&msg);

	if (rand_r(seed) % 2) {
		int got;

		if (recvmsg(pool, &msg, MSG_DONTWAIT | MSG_CMSG_CLOEXEC) == 1 && (cmsg = CMSG_FIRSTHDR(&msg))) {
			memcpy(&got, CMSG_DATA(cmsg), sizeof(got));
			close(got);
		}
		return;
	}
	cmsg->cmsg_level = SOL_SOCKET;
	cmsg->cmsg_type = SCM_RIGHTS;
	cmsg->cmsg_len = CMSG_LEN(sizeof(int));
	memcpy(CMSG_DATA(cmsg), &fd, sizeof(fd));
	sendmsg(pool, &msg, MSG_DONTWAIT);
}

static void use_channel(struct chan *c, unsigned int *seed)
{
	chan_map_all(c);
	/* Taken away at any moment: SIGBUS is the answer that the header promises. */
	for (int at = 0; at < 16384; at += 4096)
		touch_is_sigbus(c->area[FH_AREA_ARENA] + at, true);
	touch_is_sigbus(c->area[FH_AREA_SQ], true);
	CHECK(chan_kick(c) == 0 || errno == EPIPE);
	if (rand_r(seed) % 4 == 0)
		nap_us(rand_r(seed) % 2000);
	if (rand_r(seed) % 4 == 0)
		CHECK(munmap(c->info, 4096) == 0);
	else if (rand_r(seed) % 2)
		CHECK(chan_destroy(c) == 0);
}

/* Its mappings, by their addresses alone: the info page may be gone, and a revoked area is still a mapping. */
static void drop_channel(struct chan *c, const struct fh_chan_area *areas)
{
	for (int i = FH_NR_AREAS - 1; i >= 0; i--)
		munmap(c->area[i], areas[i].bytes);
	close(c->wake);
}

static void client(int pool, unsigned int seed)
{
	struct fh_chan_info geo = {0};

	fh_chan_layout(&geo, 4096, 8, 64, 16384);
	for (;;) {
		int fd = open_client();
		struct chan c;

		if (chan_create(&c, fd, 8, 64, 16384) == 0) {
			if (rand_r(&seed) % 4 == 0)
				holds_on();
			if (rand_r(&seed) % 4 == 0)
				pass_on(pool, fd, &seed);
			use_channel(&c, &seed);
			drop_channel(&c, geo.areas);
		} else {
			/* No runtime, or those before are still on their way out. */
			CHECK(errno == ECONNREFUSED || errno == EDQUOT);
			nap_us(500);
		}
		close(fd);
		while (waitpid(-1, NULL, WNOHANG) > 0)
			;
	}
}

/* --- the runtime ------------------------------------------------------------------------- */

/* Everything that holds memory, and left to the end of the file. */
static void hold_regions(int ctl)
{
	static struct fh_dma_range ranges[64];
	char *p = mmap(NULL, 65536, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	int memfd = memfd_create("kill", MFD_ALLOW_SEALING | MFD_CLOEXEC);
	struct fh_mem_import pages = {.size = sizeof(pages), .type = FH_MEM_PAGES, .fd = -1, .length = 65536};
	struct fh_mem_import user = {
		.size = sizeof(user), .type = FH_MEM_USER, .fd = -1, .addr = (uintptr_t)p, .length = 65536};
	struct fh_mem_import file = {.size = sizeof(file), .type = FH_MEM_MEMFD, .fd = memfd, .length = 65536};
	struct fh_mem_export out = {.size = sizeof(out)};
	struct fh_mem_import back = {.size = sizeof(back), .type = FH_MEM_DMABUF};
	struct fh_dma_map map = {.target_type = FH_TARGET_PCI, .num_ranges = 64, .ranges = (uintptr_t)ranges};
	struct edu edu;

	CHECK(p != MAP_FAILED && memfd >= 0 && ftruncate(memfd, 65536) == 0);
	CHECK(fcntl(memfd, F_ADD_SEALS, F_SEAL_SHRINK) == 0);
	CHECK(ioctl(ctl, FH_IOCTL_MEM_IMPORT, &pages) == 0 && ioctl(ctl, FH_IOCTL_MEM_IMPORT, &user) == 0);
	CHECK(ioctl(ctl, FH_IOCTL_MEM_IMPORT, &file) == 0);
	close(memfd);
	out.mem_id = pages.out_mem_id;
	CHECK(ioctl(ctl, FH_IOCTL_MEM_EXPORT, &out) == 0);
	back.fd = out.out_fd;
	CHECK(ioctl(ctl, FH_IOCTL_MEM_IMPORT, &back) == 0);
	close(out.out_fd);
	p = mmap(NULL, 65536, PROT_READ | PROT_WRITE, MAP_SHARED, ctl, (off_t)pages.out_mmap_off);
	CHECK(p != MAP_FAILED);
	memset(p, 2, 65536);
	if (!(get_info(ctl).out_caps & FH_CAP_DMA_MAP) || !edu_open(&edu))
		return;
	map.target = edu.target;
	map.mem_id = back.out_mem_id;
	CHECK(dma_map(ctl, &map) == 0);
}

static void serve(int ctl, unsigned int *seed)
{
	struct fh_info info;
	struct chan r;

	while (chan_accept(&r, ctl, NULL) == 0) {
		struct fh_chan_info geo;

		chan_map_all(&r);
		geo = *r.info;
		memset(r.area[FH_AREA_CQ], 3, 64);
		CHECK(chan_kick(&r) == 0 || errno == EPIPE);
		if (rand_r(seed) % 4 == 0)
			CHECK(chan_revoke(&r, FH_REVOKE_LIMIT) == 0 || errno == EPIPE);
		if (rand_r(seed) % 8 == 0)
			CHECK(chan_destroy(&r) == 0);
		drop_channel(&r, geo.areas);
	}
	CHECK(errno == EAGAIN);
	while ((info = get_info(ctl)).out_nr_dead) {
		r = (struct chan){.fd = ctl, .id = info.out_dead_chan_id};
		CHECK(chan_destroy(&r) == 0);
	}
}

static void runtime(unsigned int seed)
{
	int ctl;

	/* The one before may still be on its way out. */
	while ((ctl = open(RUNTIME_DEV, O_RDWR | O_CLOEXEC)) < 0) {
		CHECK(errno == EBUSY);
		nap_us(200);
	}
	hold_regions(ctl);
	for (;;) {
		readable(ctl, POLLIN, 5);
		serve(ctl, &seed);
	}
}

/* --- the hunter ----------------------------------------------------------------------------- */

struct house {
	pid_t runtime;
	pid_t client[NR_CLIENTS];
	int pool[2];
	unsigned int seed;
};

/* Each is a process group: what it started goes with it, when all have to go. */
static pid_t start(struct house *h, bool is_runtime)
{
	unsigned int seed = (unsigned int)rand_r(&h->seed);
	pid_t pid;

	fflush(stdout);
	pid = fork();
	CHECK(pid >= 0);
	if (pid)
		return pid;
	if (is_runtime)
		runtime(seed);
	else
		client(h->pool[seed % 2], seed);
	_exit(0);
}

/* A process that has ended by itself has found something that should not be. */
static void kill_one(pid_t *pid)
{
	int status;

	if (!*pid)
		return;
	CHECK(kill(*pid, SIGKILL) == 0);
	CHECK(waitpid(*pid, &status, 0) == *pid);
	CHECK(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
	*pid = 0;
}

static void kill_all(struct house *h)
{
	kill_one(&h->runtime);
	for (int i = 0; i < NR_CLIENTS; i++)
		kill_one(&h->client[i]);
}

/* Files in the pool, and children of clients for some milliseconds, still hold what they hold. */
static void check_empty(struct house *h)
{
	static const char *const names[] = {"runtime", "clients", "channels", "regions", "region_bytes", "dma_maps"};

	close(h->pool[0]);
	close(h->pool[1]);
	for (unsigned int i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
		for (int tries = 0; tries < 1000 && state_count(names[i]); tries++)
			nap_us(5000);
		if (state_count(names[i]))
			printf("  %s: %llu left\n", names[i], (unsigned long long)state_count(names[i]));
		CHECK(state_count(names[i]) == 0);
	}
	CHECK(state_count("waiting") == 0 && state_count("dead") == 0);
}

static void open_pool(struct house *h)
{
	CHECK(socketpair(AF_UNIX, SOCK_DGRAM, 0, h->pool) == 0);
}

TEST(kill_either_at_random)
{
	unsigned int rounds = setting("FH_ROUNDS", 50), kills[3] = {0};
	struct house h = {.seed = setting("FH_SEED", 1)};

	alarm(120 + rounds);
	open_pool(&h);
	for (unsigned int round = 0; round < rounds; round++) {
		unsigned int victim = (unsigned int)rand_r(&h.seed) % 3;

		if (!h.runtime)
			h.runtime = start(&h, true);
		for (int i = 0; i < NR_CLIENTS; i++) {
			if (!h.client[i])
				h.client[i] = start(&h, false);
		}
		nap_us(rand_r(&h.seed) % 30000);
		kills[victim]++;
		if (victim == 0)
			kill_one(&h.client[rand_r(&h.seed) % NR_CLIENTS]);
		else if (victim == 1)
			kill_one(&h.runtime);
		else
			kill_all(&h);
		if (victim == 2) {
			check_empty(&h);
			open_pool(&h);
		}
	}
	kill_all(&h);
	check_empty(&h);
	printf("  %u clients, %u runtimes, %u times all\n", kills[0], kills[1], kills[2]);
	CHECK(kills[0] && kills[1] && kills[2]);
}
