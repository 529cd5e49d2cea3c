/* SPDX-License-Identifier: Apache-2.0 */
/* Sleeping on a 32-bit word (futex(2)): within one process, or on words that another one moves. */
#ifndef FH_BASE_FUTEX_H
#define FH_BASE_FUTEX_H

#include <errno.h>
#include <linux/futex.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

/* Sleep while *@word is @value, at most @timeout_ns (0: for ever). Wakes without a reason, too: look again. */
static inline void fh_futex_wait(_Atomic uint32_t *word, uint32_t value, uint64_t timeout_ns)
{
	struct timespec ts = {(time_t)(timeout_ns / 1000000000u), (long)(timeout_ns % 1000000000u)};
	int saved = errno;

	syscall(SYS_futex, word, FUTEX_WAIT_PRIVATE, value, timeout_ns ? &ts : NULL, NULL, 0);
	errno = saved;
}

/* The same on a word of memory that processes share. */
static inline void fh_futex_wait_shared(_Atomic uint32_t *word, uint32_t value, uint64_t timeout_ns)
{
	struct timespec ts = {(time_t)(timeout_ns / 1000000000u), (long)(timeout_ns % 1000000000u)};
	int saved = errno;

	syscall(SYS_futex, word, FUTEX_WAIT, value, timeout_ns ? &ts : NULL, NULL, 0);
	errno = saved;
}

/* Wake at most @nr sleepers. */
static inline void fh_futex_wake(_Atomic uint32_t *word, int nr)
{
	int saved = errno;

	syscall(SYS_futex, word, FUTEX_WAKE_PRIVATE, nr, NULL, NULL, 0);
	errno = saved;
}

/* Wake who sleeps on a word of memory that processes share: one, however many another process may let sleep there. */
static inline void fh_futex_wake_shared(_Atomic uint32_t *word)
{
	int saved = errno;

	syscall(SYS_futex, word, FUTEX_WAKE, 1, NULL, NULL, 0);
	errno = saved;
}

/*
 * Sleeping on several words at once (futex_waitv(2), since Linux 5.16); spelled
 * out, because the headers of the build machine may be older.
 */
#define FH_FUTEX_WAITV_MAX 128
#ifndef SYS_futex_waitv
#define SYS_futex_waitv 449
#endif

struct fh_futex_waitv {
	uint64_t value;
	uint64_t addr;
	uint32_t flags;
	uint32_t reserved;
};

static inline struct fh_futex_waitv fh_futex_entry(const _Atomic uint32_t *word, uint32_t value, bool shared)
{
	return (struct fh_futex_waitv){.value = value,
				       .addr = (uintptr_t)word,
				       .flags = 2u | (shared ? 0 : FUTEX_PRIVATE_FLAG)}; /* 2: 32 bits */
}

/* Sleep while every word has its value, at most @timeout_ns. 0, or -errno: -ENOSYS where the kernel has no such call.
 */
static inline int fh_futex_waitv(struct fh_futex_waitv *w, uint32_t nr, uint64_t timeout_ns)
{
	struct timespec until;
	int saved = errno, ret;

	clock_gettime(CLOCK_MONOTONIC, &until);
	timeout_ns += (uint64_t)until.tv_nsec;
	until.tv_sec += (time_t)(timeout_ns / 1000000000u);
	until.tv_nsec = (long)(timeout_ns % 1000000000u);
	ret = syscall(SYS_futex_waitv, w, nr, 0, &until, CLOCK_MONOTONIC) < 0 ? -errno : 0;
	errno = saved;
	return ret;
}

/* Whether there is such a call: without a word it is an error, but not that of a missing call or of a filter. */
static inline bool fh_futex_has_waitv(void)
{
	int saved = errno;
	bool has = syscall(SYS_futex_waitv, NULL, 0, 0, NULL, 0) < 0 && errno == EINVAL;

	errno = saved;
	return has;
}

/* Tell the CPU that this is a spin loop. */
static inline void fh_cpu_relax(void)
{
#if defined(__x86_64__)
	__builtin_ia32_pause();
#elif defined(__aarch64__)
	__asm__ volatile("yield");
#endif
}

#endif /* FH_BASE_FUTEX_H */
