// SPDX-License-Identifier: Apache-2.0
/* The thread that touches memory ahead of its use; touch.h says why. */
#include "runtime/engine/touch.h"

#include <sched.h>
#include <unistd.h>

#include "runtime/base/futex.h"
#include "runtime/base/thread.h"

/* Somebody may write the same byte, not atomically: then one of the two is there first, and both are right. */
__attribute__((no_sanitize("thread"))) static void touch(uint8_t *p)
{
	uint8_t was = __atomic_load_n(p, __ATOMIC_RELAXED);

	__atomic_compare_exchange_n(p, &was, was, false, __ATOMIC_RELAXED, __ATOMIC_RELAXED);
}

static void *touch_main(void *arg)
{
	struct fh_touch *t = arg;
	size_t page = (size_t)sysconf(_SC_PAGESIZE), at = 0;

	while (at < t->bytes) {
		/* Before quit is looked at: fh_touch_stop() changes it last. */
		uint32_t wanted = atomic_load(&t->wanted);
		size_t end = (size_t)wanted * FH_TOUCH_PIECE_BYTES;

		if (atomic_load(&t->quit))
			break;
		end = end < t->bytes ? end : t->bytes;
		for (size_t stop = at + FH_TOUCH_PIECE_BYTES; at < end && at < stop; at += page)
			touch(t->base + at);
		if (at >= end && at < t->bytes)
			fh_futex_wait(&t->wanted, wanted, 0);
	}
	return NULL;
}

static void want(struct fh_touch *t, size_t bytes)
{
	size_t pieces = (bytes + FH_TOUCH_AHEAD_BYTES + FH_TOUCH_PIECE_BYTES - 1) / FH_TOUCH_PIECE_BYTES;

	atomic_store(&t->wanted, pieces < UINT32_MAX ? (uint32_t)pieces : UINT32_MAX);
}

void fh_touch_start(struct fh_touch *t, uint8_t *base, size_t bytes)
{
	const struct sched_param none = {0};

	*t = (struct fh_touch){.base = base, .bytes = bytes};
	want(t, 0);
	t->runs = base && bytes && !fh_thread_start(&t->thread, "fh-touch", touch_main, t);
	/* From here: its own calls may be filtered already. */
	if (t->runs)
		pthread_setschedparam(t->thread, SCHED_IDLE, &none);
}

void fh_touch_stop(struct fh_touch *t)
{
	if (!t->runs)
		return;
	atomic_store(&t->quit, 1);
	atomic_fetch_xor(&t->wanted, 1);
	fh_futex_wake(&t->wanted, 1);
	pthread_join(t->thread, NULL);
	t->runs = false;
}

void fh_touch_used(struct fh_touch *t, size_t bytes)
{
	if (!t->runs || bytes < t->woken_at + FH_TOUCH_WAKE_BYTES)
		return;
	t->woken_at = bytes;
	want(t, bytes);
	fh_futex_wake(&t->wanted, 1);
}
