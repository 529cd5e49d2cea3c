/* SPDX-License-Identifier: Apache-2.0 */
/* Sleeping on a 32-bit word (futex(2)), within one process. */
#ifndef FH_BASE_FUTEX_H
#define FH_BASE_FUTEX_H

#include <errno.h>
#include <linux/futex.h>
#include <stdatomic.h>
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

/* Wake at most @nr sleepers. */
static inline void fh_futex_wake(_Atomic uint32_t *word, int nr)
{
	int saved = errno;

	syscall(SYS_futex, word, FUTEX_WAKE_PRIVATE, nr, NULL, NULL, 0);
	errno = saved;
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
