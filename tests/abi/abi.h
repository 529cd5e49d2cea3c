/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Tests of the kernel module through its two devices: a small harness, since
 * they run as part of a test kernel's first process, and what they share.
 *
 * Each test is a forked child with a time limit.  CHECK() says where it failed
 * and ends the child; descriptors and mappings go with it.
 */
#ifndef FH_TESTS_ABI_H
#define FH_TESTS_ABI_H

#include <errno.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/types.h>
#include <unistd.h>

#include "uapi/freehold.h"

#define CLIENT_DEV "/dev/freehold"
#define RUNTIME_DEV "/dev/freehold-ctl"
#define TEST_SKIPPED 77
#define SKIP_ROOM 256

#define CHECK(cond)                                                                                                    \
	do {                                                                                                           \
		if (!(cond)) {                                                                                         \
			printf("  %s:%d: not so: %s (errno %d, %s)\n", __FILE__, __LINE__, #cond, errno,               \
			       strerror(errno));                                                                       \
			fflush(stdout);                                                                                \
			_exit(1);                                                                                      \
		}                                                                                                      \
	} while (0)

/* The call fails, with this errno. */
#define CHECK_ERRNO(call, want)                                                                                        \
	do {                                                                                                           \
		errno = 0;                                                                                             \
		long got_ = (call);                                                                                    \
		if (got_ != -1 || errno != (want)) {                                                                   \
			printf("  %s:%d: %s gave %ld, errno %d (%s), not errno %d\n", __FILE__, __LINE__, #call, got_, \
			       errno, strerror(errno), want);                                                          \
			fflush(stdout);                                                                                \
			_exit(1);                                                                                      \
		}                                                                                                      \
	} while (0)

#define SKIP(reason)                                                                                                   \
	do {                                                                                                           \
		snprintf(skip_reason, SKIP_ROOM, "%s", reason);                                                        \
		_exit(TEST_SKIPPED);                                                                                   \
	} while (0)

struct test {
	const char *name;
	void (*run)(void);
	struct test *next;
};
void test_add(struct test *test);
extern char *skip_reason; /* [SKIP_ROOM], shared with the children */

/* TEST(name) { ... }: found by itself. */
#define TEST(fn)                                                                                                       \
	static void test_##fn(void);                                                                                   \
	static struct test test_entry_##fn = {.name = #fn, .run = test_##fn};                                          \
	__attribute__((constructor)) static void test_add_##fn(void)                                                   \
	{                                                                                                              \
		test_add(&test_entry_##fn);                                                                            \
	}                                                                                                              \
	static void test_##fn(void)

/* --- a channel, from either side ------------------------------------------------- */

/* A side's view: areas that it has not mapped are NULL. */
struct chan {
	int fd;
	int wake; /* eventfd, or -1 */
	uint32_t id;
	uint64_t mmap_off;
	struct fh_chan_info *info;
	char *area[FH_NR_AREAS];
	bool client;
};

int open_client(void);
int open_runtime(void);
int chan_create(struct chan *c, int fd, uint32_t sq, uint32_t cq, uint64_t arena); /* 0 or -1; maps nothing */
void chan_map_info(struct chan *c);
void chan_map_all(struct chan *c);
void *chan_map_area(struct chan *c, int area, int prot);	/* MAP_FAILED and errno */
void chan_open(struct chan *c, int fd);				/* create a small one and map all of it */
int chan_accept(struct chan *c, int ctl, struct fh_peer *peer); /* 0 or -1; maps nothing */
int chan_kick(const struct chan *c);
int chan_revoke(const struct chan *c, uint32_t reason);
int chan_destroy(const struct chan *c);
uint32_t chan_state(const struct chan *c); /* load-acquire */
uint32_t *chan_word(const struct chan *c, int area, uint32_t off);

/* --- QEMU's edu device: edu.c ------------------------------------------------------ */

enum { EDU_MEM = 0x40000, EDU_BYTES = 2048, EDU_TO_RAM = 2 }; /* its own memory; the direction */

struct edu {
	uint64_t target;       /* for struct fh_dma_map */
	volatile uint8_t *bar; /* its registers */
};

bool edu_open(struct edu *edu);
void edu_copy(const struct edu *edu, uint64_t from, uint64_t to, uint64_t bytes, uint64_t cmd);
int dma_map(int ctl, struct fh_dma_map *cmd);
uint64_t dma_bus(const struct fh_dma_range *r, uint32_t nr, uint64_t off);

/* --- small things ------------------------------------------------------------------ */

void cost(void);		 /* what calls cost, in instructions */
void load(unsigned int seconds); /* clients and runtimes that come and go, whatever happens */

bool readable(int fd, short events, int timeout_ms);
uint64_t event_take(int fd); /* the eventfd's count; 0 if there was none */
bool touch_is_sigbus(volatile char *p, bool write);
pid_t spawn(void (*run)(void *arg), void *arg); /* a child that exits 0 when run() returns */
void reap(pid_t pid);				/* and checks that it exited with 0 */
struct fh_info get_info(int fd);
void send_fd(int sock, int fd);
int recv_fd(int sock);
void param_set(const char *name, unsigned int value);
uint64_t state_count(const char *name);				/* a line of debugfs' state file */
unsigned int setting(const char *name, unsigned int otherwise); /* a number from the environment */

#endif /* FH_TESTS_ABI_H */
