/* SPDX-License-Identifier: Apache-2.0 */
/* Monotonic time, in the two units that the runtime uses. */
#ifndef FH_BASE_CLOCK_H
#define FH_BASE_CLOCK_H

#include <stdint.h>
#include <time.h>

/* Nanoseconds of CLOCK_MONOTONIC. */
static inline uint64_t fh_now_ns(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (uint64_t)ts.tv_sec * 1000000000u + (uint64_t)ts.tv_nsec;
}

/* Microseconds of CLOCK_MONOTONIC. */
static inline uint64_t fh_now_us(void)
{
	return fh_now_ns() / 1000;
}

#endif /* FH_BASE_CLOCK_H */
