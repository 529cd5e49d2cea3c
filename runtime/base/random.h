/* SPDX-License-Identifier: Apache-2.0 */
/* Numbers that need to differ, not to be secret, the same for the same seed: xoroshiro128+ (Blackman and Vigna, 2018).
 */
#ifndef FH_BASE_RANDOM_H
#define FH_BASE_RANDOM_H

#include <errno.h>
#include <stdint.h>
#include <sys/random.h>

struct fh_random {
	uint64_t s[2]; /* not both zero */
};

/* Seed it by the kernel. 0 or -errno. */
static inline int fh_random_seed(struct fh_random *r)
{
	if (getrandom(r->s, sizeof(r->s), 0) != (ssize_t)sizeof(r->s))
		return -EIO;
	r->s[0] |= 1;
	return 0;
}

static inline uint64_t fh_random_next(struct fh_random *r)
{
	uint64_t a = r->s[0], b = r->s[1], sum = a + b;

	b ^= a;
	r->s[0] = (a << 24 | a >> 40) ^ b ^ (b << 16);
	r->s[1] = b << 37 | b >> 27;
	return sum;
}

#endif /* FH_BASE_RANDOM_H */
