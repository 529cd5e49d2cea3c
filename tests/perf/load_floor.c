// SPDX-License-Identifier: Apache-2.0
/*
 * What no loading of weights can be faster than: how long a file in the page
 * cache takes to be read, and to be copied into fresh memory on huge pages.
 *
 *   build/tests/perf/load_floor FILE [THREADS]
 *
 *   zero   touch the memory, so that the kernel fills it with zeros
 *   read   the file, into a buffer that the cache holds
 *   map    the file, its pages populated, nothing read; and unmapped again
 *   copy   the file, read into the fresh memory
 *   touch  the file, mapped and copied to the fresh memory
 *
 * Everything is done twice, and the second time is printed: on a virtual
 * machine the first touch of memory can be the host's work.
 */
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "runtime/base/clock.h"

#define HUGE_PAGE (2ul << 20)
#define PIECE (256ul << 10)
#define MAX_THREADS 64

enum work { ZERO, READ, MAP, COPY, TOUCH, NR_WORKS };
static const char *const names[] = {"zero", "read", "map", "copy", "touch"};

/* One thread's part of the file. */
struct part {
	pthread_t thread;
	enum work work;
	int fd;
	size_t from, to;
	uint8_t *dst, *map;
};

static void stop(const char *what)
{
	fprintf(stderr, "load_floor: %s: %s\n", what, strerror(errno));
	exit(1);
}

static void read_all(int fd, uint8_t *to, size_t bytes, size_t at)
{
	while (bytes) {
		ssize_t n = pread(fd, to, bytes, (off_t)at);

		if (n <= 0)
			stop("read");
		to += n;
		at += (size_t)n;
		bytes -= (size_t)n;
	}
}

static void *run(void *arg)
{
	struct part *p = arg;
	uint8_t *buf = malloc(PIECE);

	if (!buf)
		stop("memory");
	for (size_t at = p->from; at < p->to; at += PIECE) {
		size_t n = p->to - at < PIECE ? p->to - at : PIECE;

		switch (p->work) {
		case ZERO: *(volatile uint8_t *)(p->dst + at) = 1; break;
		case READ: read_all(p->fd, buf, n, at); break;
		case MAP:
			if (madvise(p->map + at, n, MADV_POPULATE_READ))
				stop("MADV_POPULATE_READ");
			break;
		case COPY: read_all(p->fd, p->dst + at, n, at); break;
		default: memcpy(p->dst + at, p->map + at, n); break;
		}
	}
	free(buf);
	return NULL;
}

static double once(enum work work, int fd, size_t bytes, uint32_t nr_threads)
{
	static struct part parts[MAX_THREADS];
	size_t map_bytes = bytes + HUGE_PAGE;
	uint8_t *mem =
		mmap(NULL, map_bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	uint8_t *map = mmap(NULL, bytes, PROT_READ, MAP_PRIVATE, fd, 0), *dst;
	uint64_t begin, ns;

	if (mem == MAP_FAILED || map == MAP_FAILED)
		stop("mmap");
	dst = (uint8_t *)(((uintptr_t)mem + HUGE_PAGE - 1) & ~(HUGE_PAGE - 1));
	madvise(dst, bytes, MADV_HUGEPAGE);
	begin = fh_now_ns();
	for (uint32_t i = 0; i < nr_threads; i++) {
		parts[i] = (struct part){.work = work, .fd = fd, .dst = dst, .map = map};
		parts[i].from = bytes / PIECE * i / nr_threads * PIECE;
		parts[i].to = i + 1 < nr_threads ? bytes / PIECE * (i + 1) / nr_threads * PIECE : bytes;
		if (pthread_create(&parts[i].thread, NULL, run, &parts[i]))
			stop("thread");
	}
	for (uint32_t i = 0; i < nr_threads; i++)
		pthread_join(parts[i].thread, NULL);
	/* A loader gives the file's pages back; its own memory it keeps. */
	munmap(map, bytes);
	ns = fh_now_ns() - begin;
	munmap(mem, map_bytes);
	return (double)ns * 1e-9;
}

int main(int argc, char **argv)
{
	int nr_threads = argc == 3 ? atoi(argv[2]) : 2;
	struct stat st;
	int fd;

	if (argc < 2 || argc > 3 || nr_threads < 1 || nr_threads > MAX_THREADS) {
		fprintf(stderr, "usage: load_floor FILE [THREADS]\n");
		return 2;
	}
	fd = open(argv[1], O_RDONLY | O_CLOEXEC);
	if (fd < 0 || fstat(fd, &st) || st.st_size == 0)
		stop(argv[1]);
	for (int w = 0; w < NR_WORKS; w++) {
		double s;

		once((enum work)w, fd, (size_t)st.st_size, (uint32_t)nr_threads);
		s = once((enum work)w, fd, (size_t)st.st_size, (uint32_t)nr_threads);
		printf("%-6s %.3f s  %5.1f GB/s\n", names[w], s, (double)st.st_size / s * 1e-9);
		fflush(stdout);
	}
	return 0;
}
