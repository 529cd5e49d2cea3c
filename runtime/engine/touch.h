/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Memory for keys and values is touched before it is needed.
 *
 * The kernel gives memory when it is first written, and a huge page is cleared
 * whole then: on a virtual machine whose host has to find it, too, that has been
 * seen to take 5 to 16 ms, in the middle of a step.  Touching all of it at the start
 * would take what may never be used.  So a thread of the lowest priority keeps
 * FH_TOUCH_AHEAD_BYTES ahead of the highest block that was ever handed out.
 *
 * It only writes back what it has read, in one atomic operation, so that it does
 * no harm to who writes there meanwhile.  Best effort: whoever comes first to a page pays for it.
 */
#ifndef FH_ENGINE_TOUCH_H
#define FH_ENGINE_TOUCH_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define FH_TOUCH_AHEAD_BYTES (64u << 20)
#define FH_TOUCH_PIECE_BYTES (2u << 20) /* it looks up that often */
#define FH_TOUCH_WAKE_BYTES (16u << 20) /* and is woken for no less */

struct fh_touch {
	uint8_t *base;
	size_t bytes;
	pthread_t thread;
	bool runs;
	size_t woken_at;	 /* of the caller's thread: what was in use when it was last woken */
	_Atomic uint32_t wanted; /* pieces from the base on, to be touched */
	_Atomic uint32_t quit;
};

/*
 * Begin to touch the first part of @base [bytes], which stays mapped until
 * fh_touch_stop().  Nothing where @base is NULL or no thread can be had.
 */
void fh_touch_start(struct fh_touch *t, uint8_t *base, size_t bytes);
void fh_touch_stop(struct fh_touch *t);
/* The first @bytes may be in use. From one thread; cheap where nothing follows from it. */
void fh_touch_used(struct fh_touch *t, size_t bytes);

#endif /* FH_ENGINE_TOUCH_H */
