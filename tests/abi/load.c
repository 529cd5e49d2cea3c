// SPDX-License-Identifier: Apache-2.0
/*
 * Load without expectations: clients and runtimes that open the devices, use
 * them and let go, and take every refusal as it comes, since the module may be
 * unloaded under them at any time.
 */
#include <fcntl.h>
#include <signal.h>
#include <sys/wait.h>

#include "tests/abi/abi.h"

#define NR_LOADERS 3

static void pause_us(unsigned int us)
{
	usleep(us);
}

/* Now and then nobody holds anything: that is when the module can go. */
static void rest(void)
{
	pause_us(1000 + (unsigned int)rand() % 30000);
}

static void client_once(void)
{
	struct fh_chan_create cmd = {
		.size = sizeof(cmd), .sq_entries = 8, .cq_entries = 64, .arena_bytes = 16384, .wake_fd = -1};
	int fd = open(CLIENT_DEV, O_RDWR | O_CLOEXEC);
	struct fh_chan_info *info;

	if (fd < 0)
		return pause_us(1000);
	if (ioctl(fd, FH_IOCTL_CHAN_CREATE, &cmd) == 0) {
		info = mmap(NULL, 4096, PROT_READ, MAP_SHARED, fd, (off_t)cmd.out_mmap_off);
		close(fd);
		if (info != MAP_FAILED) {
			pause_us(500);
			munmap(info, 4096);
		}
		return;
	}
	close(fd);
}

static void runtime_once(void)
{
	struct fh_mem_import mem = {.size = sizeof(mem), .type = FH_MEM_PAGES, .fd = -1, .length = 65536};
	int fd = open(RUNTIME_DEV, O_RDWR | O_CLOEXEC);

	if (fd < 0)
		return pause_us(1000);
	if (ioctl(fd, FH_IOCTL_MEM_IMPORT, &mem) == 0) {
		char *p = mmap(NULL, 65536, PROT_READ | PROT_WRITE, MAP_SHARED, fd, (off_t)mem.out_mmap_off);

		if (p != MAP_FAILED) {
			memset(p, 1, 65536);
			munmap(p, 65536);
		}
	}
	for (int i = 0; i < 20; i++) {
		struct fh_chan_accept acc = {.size = sizeof(acc), .wake_fd = -1};

		if (ioctl(fd, FH_IOCTL_CHAN_ACCEPT, &acc))
			pause_us(200);
	}
	close(fd);
}

static void loop(void (*once)(void), unsigned int seed)
{
	srand(seed);
	for (;;) {
		once();
		rest();
	}
}

static void on_term(int sig)
{
	(void)sig;
}

/* Until the time is over, or SIGTERM. */
void load(unsigned int seconds)
{
	struct sigaction sa = {.sa_handler = on_term};
	pid_t pids[NR_LOADERS];

	sigaction(SIGTERM, &sa, NULL);

	for (int i = 0; i < NR_LOADERS; i++) {
		pids[i] = fork();
		if (pids[i] == 0)
			loop(i ? client_once : runtime_once, (unsigned int)i);
	}
	sleep(seconds);
	for (int i = 0; i < NR_LOADERS; i++) {
		if (pids[i] > 0 && kill(pids[i], SIGKILL) == 0)
			waitpid(pids[i], NULL, 0);
	}
}
