/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A bounded queue of pointers between exactly one producer thread and one
 * consumer thread.
 *
 * Indices run freely and are masked on use.  Each side keeps a private copy of
 * the other's index and refreshes it only when the copy says full or empty, so
 * that in steady state neither touches the other's cache line.
 *
 *   producer                         consumer
 *   slot[tail & mask] = p            load-acquire tail    (A)
 *   store-release tail + 1  (A)      p = slot[head & mask]
 *   load-acquire head       (B)      store-release head + 1  (B)
 *
 * A full queue is a refusal (-EAGAIN), never a wait.
 */
#ifndef FH_BASE_SPSC_H
#define FH_BASE_SPSC_H

#include <errno.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdlib.h>

struct fh_spsc {
	void **slots; /* [mask + 1], owned */
	uint32_t mask;
	_Alignas(64) _Atomic uint32_t tail; /* producer writes */
	uint32_t head_cache;		    /* producer's copy of head */
	_Alignas(64) _Atomic uint32_t head; /* consumer writes */
	uint32_t tail_cache;		    /* consumer's copy of tail */
};

/* @entries: a power of two.  Returns 0 or -EINVAL, -ENOMEM. */
static inline int fh_spsc_init(struct fh_spsc *q, uint32_t entries)
{
	if (!entries || (entries & (entries - 1)))
		return -EINVAL;
	*q = (struct fh_spsc){.mask = entries - 1};
	q->slots = calloc(entries, sizeof(*q->slots));
	return q->slots ? 0 : -ENOMEM;
}

/* Whatever was in it is gone: it is empty for who still asks. */
static inline void fh_spsc_destroy(struct fh_spsc *q)
{
	free(q->slots);
	*q = (struct fh_spsc){0};
}

/* Producer only.  Returns 0, or -EAGAIN when full. */
static inline int fh_spsc_push(struct fh_spsc *q, void *p)
{
	uint32_t tail = atomic_load_explicit(&q->tail, memory_order_relaxed);

	if (tail - q->head_cache > q->mask) {
		q->head_cache = atomic_load_explicit(&q->head, memory_order_acquire);
		if (tail - q->head_cache > q->mask)
			return -EAGAIN;
	}
	q->slots[tail & q->mask] = p;
	atomic_store_explicit(&q->tail, tail + 1, memory_order_release);
	return 0;
}

/* Consumer only.  Returns the oldest entry, or NULL when empty. */
static inline void *fh_spsc_pop(struct fh_spsc *q)
{
	uint32_t head = atomic_load_explicit(&q->head, memory_order_relaxed);
	void *p;

	if (head == q->tail_cache) {
		q->tail_cache = atomic_load_explicit(&q->tail, memory_order_acquire);
		if (head == q->tail_cache)
			return NULL;
	}
	p = q->slots[head & q->mask];
	atomic_store_explicit(&q->head, head + 1, memory_order_release);
	return p;
}

/* Either side; exact only for the side that asks about its own end. */
static inline uint32_t fh_spsc_count(struct fh_spsc *q)
{
	return atomic_load_explicit(&q->tail, memory_order_acquire) -
	       atomic_load_explicit(&q->head, memory_order_acquire);
}

#endif /* FH_BASE_SPSC_H */
