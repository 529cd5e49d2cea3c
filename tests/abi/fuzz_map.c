// SPDX-License-Identifier: Apache-2.0
/* Mappings at random places, and everything that can be done to one; see fuzz.h. */
#include <fcntl.h>
#include <sys/uio.h>

#include "tests/abi/fuzz.h"

#define CHAN_WINDOW_SHIFT 32
#define MEM_WINDOW_BASE (1ull << 61)
#define MEM_WINDOW_SHIFT 40

/* Where an object may lie: its beginning, an area's, or anywhere at all. */
static uint64_t place(struct fuzz_thread *t)
{
	uint64_t id = 1 + fuzz_rand(t, 12), off = fuzz_rand(t, 2) ? fuzz_rand(t, 8) : fuzz_rand(t, 80);

	switch (fuzz_rand(t, 12)) {
	case 0: return fuzz_u64(t) & ~4095ull;
	case 1:
	case 2:
	case 3: return MEM_WINDOW_BASE + (id << MEM_WINDOW_SHIFT) + (fuzz_rand(t, 2) ? 0 : off * 4096);
	case 4:
	case 5: return off * 4096; /* a dma-buf, a memfd */
	default: return (id << CHAN_WINDOW_SHIFT) + off * 4096;
	}
}

static int protection(struct fuzz_thread *t)
{
	return fuzz_rand(t, 12) ? PROT_READ | (fuzz_rand(t, 4) ? PROT_WRITE : 0) : (int)fuzz_rand(t, 8);
}

static size_t pages(struct fuzz_thread *t)
{
	static const uint8_t usual[] = {1, 1, 1, 2, 4, 16};

	return 4096 * (size_t)(fuzz_rand(t, 4) ? usual[fuzz_rand(t, sizeof(usual))] : 1 + fuzz_rand(t, 70));
}

void fuzz_map(struct fuzz_thread *t)
{
	unsigned int i = fuzz_rand(t, FUZZ_MAPS);
	size_t bytes = pages(t);
	char *p;

	p = mmap(NULL, bytes, protection(t),
		 (fuzz_rand(t, 12) ? MAP_SHARED : MAP_PRIVATE) | (fuzz_rand(t, 8) ? 0 : MAP_POPULATE),
		 fuzz_rand(t, 10) ? fuzz_fd(t) : -1, (off_t)place(t));
	if (p == MAP_FAILED && !fuzz_rand(t, 6))
		p = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (p == MAP_FAILED)
		return;
	if (t->map[i].p)
		munmap(t->map[i].p, t->map[i].bytes);
	t->map[i].p = p;
	t->map[i].bytes = bytes;
}

static void move(struct fuzz_thread *t, unsigned int i)
{
	size_t from = t->map[i].bytes, to = fuzz_rand(t, 2) ? from : pages(t);
	char *p;

	/* An old length of zero asks for a second mapping of the same. */
	p = mremap(t->map[i].p, fuzz_rand(t, 8) ? from : 0, to, MREMAP_MAYMOVE);
	if (p == MAP_FAILED)
		return;
	if (p != t->map[i].p)
		munmap(t->map[i].p, from);
	t->map[i].p = p;
	t->map[i].bytes = to;
}

void fuzz_unmap(struct fuzz_thread *t)
{
	static const int advice[] = {MADV_DONTNEED, MADV_DOFORK,	 MADV_REMOVE,	 MADV_WILLNEED,
				     MADV_FREE,	    MADV_HUGEPAGE,	 MADV_MERGEABLE, MADV_COLD,
				     MADV_PAGEOUT,  MADV_POPULATE_WRITE, MADV_DODUMP,	 MADV_KEEPONFORK};
	unsigned int i = fuzz_rand(t, FUZZ_MAPS);
	char *p = t->map[i].p;
	size_t bytes = t->map[i].bytes, off, part;

	if (!p)
		return;
	off = fuzz_rand(t, (uint32_t)(bytes >> 12)) * 4096ull;
	part = 4096 * (size_t)(1 + fuzz_rand(t, (uint32_t)((bytes - off) >> 12)));
	switch (fuzz_rand(t, 8)) {
	case 0:
		munmap(p, bytes);
		t->map[i].p = NULL;
		break;
	case 1: munmap(p + off, part); break;
	case 2: move(t, i); break;
	case 3:
	case 4: mprotect(p + off, part, protection(t)); break;
	case 5: mlock(p + off, part); break;
	default: madvise(p + off, part, advice[fuzz_rand(t, sizeof(advice) / sizeof(advice[0]))]); break;
	}
}

static void write_words(struct fuzz_thread *t, void *arg)
{
	uint64_t *p = arg;

	for (unsigned int i = 0; i < 512; i += 1 + fuzz_rand(t, 64))
		p[i] = fuzz_u64(t);
}

static void write_index(struct fuzz_thread *t, void *arg)
{
	uint32_t *p = arg;

	/* The words that a side publishes lie at the beginning of three lines. */
	__atomic_store_n(p + 16 * fuzz_rand(t, 3), (uint32_t)fuzz_u64(t), __ATOMIC_RELEASE);
}

/* Pins of a moment, and copies that the kernel makes. */
static void pass_through_pipe(struct fuzz_thread *t, char *p, size_t bytes)
{
	struct iovec iov = {.iov_base = p, .iov_len = bytes};
	int fd[2];

	if (pipe2(fd, O_NONBLOCK | O_CLOEXEC))
		return;
	if (fuzz_rand(t, 2))
		vmsplice(fd[1], &iov, 1, SPLICE_F_NONBLOCK);
	else if (write(fd[1], p, bytes < 4096 ? bytes : 4096) > 0)
		iov.iov_len = (size_t)read(fd[0], p, 128);
	close(fd[0]);
	close(fd[1]);
}

void fuzz_scribble(struct fuzz_thread *t)
{
	unsigned int i = fuzz_rand(t, FUZZ_MAPS);
	char *p = t->map[i].p;

	if (!p)
		return;
	p += fuzz_rand(t, (uint32_t)(t->map[i].bytes >> 12)) * 4096ull;
	switch (fuzz_rand(t, 6)) {
	case 0: pass_through_pipe(t, p, 4096); break;
	case 1:
	case 2: fuzz_guard(write_index, t, p); break;
	default: fuzz_guard(write_words, t, p); break;
	}
}

void fuzz_unmap_all(struct fuzz_thread *t)
{
	for (unsigned int i = 0; i < FUZZ_MAPS; i++) {
		if (t->map[i].p)
			munmap(t->map[i].p, t->map[i].bytes);
		t->map[i].p = NULL;
	}
}
