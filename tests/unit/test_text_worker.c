// SPDX-License-Identifier: Apache-2.0
/* The tokenizer's thread of a front end: order, bounds, and what is left when it is stopped. */
#include <criterion/criterion.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <string.h>

#include "runtime/net/text_worker.h"

enum { CAPACITY = 8 };

struct job {
	uint32_t nr;
	int error;
};

struct rig {
	struct fh_text_worker w;
	struct job jobs[CAPACITY + 1];
	pthread_mutex_t gate; /* who holds it holds the worker up */
	_Atomic uint32_t nr_begun, nr_wakes;
};

static void tokenize(void *ctx, void *job)
{
	struct rig *r = ctx;

	atomic_fetch_add(&r->nr_begun, 1);
	pthread_mutex_lock(&r->gate);
	pthread_mutex_unlock(&r->gate);
	((struct job *)job)->error = 0;
}

static void wake(void *ctx)
{
	struct rig *r = ctx;

	atomic_fetch_add(&r->nr_wakes, 1);
}

static void refuse(void *job)
{
	((struct job *)job)->error = -ESHUTDOWN;
}

static const struct fh_text_worker_ops ops = {.tokenize = tokenize, .wake = wake, .refuse = refuse};

static struct rig *rig_new(void)
{
	struct rig *r = aligned_alloc(_Alignof(struct rig), sizeof(*r));

	memset(r, 0, sizeof(*r));
	pthread_mutex_init(&r->gate, NULL);
	for (uint32_t i = 0; i <= CAPACITY; i++)
		r->jobs[i] = (struct job){.nr = i, .error = 1};
	cr_assert_eq(fh_text_worker_init(&r->w, CAPACITY, &ops, r), 0);
	return r;
}

static void rig_free(struct rig *r)
{
	fh_text_worker_destroy(&r->w);
	pthread_mutex_destroy(&r->gate);
	free(r);
}

Test(text_worker, jobs_come_back_in_order, .timeout = 120)
{
	struct rig *r = rig_new();
	uint32_t pushed = 0, popped = 0;
	struct job *j;

	cr_assert_eq(fh_text_worker_start(&r->w, "text"), 0);
	while (popped < 20000) {
		while (pushed - popped < CAPACITY) {
			r->jobs[pushed % CAPACITY] = (struct job){.nr = pushed, .error = 1};
			cr_assert_eq(fh_text_worker_push(&r->w, &r->jobs[pushed % CAPACITY]), 0);
			pushed++;
		}
		while ((j = fh_text_worker_pop(&r->w))) {
			cr_assert_eq(j->nr, popped);
			cr_assert_eq(j->error, 0);
			popped++;
		}
		/* On one core the worker finds its queue empty here, and sleeps. */
		sched_yield();
	}
	fh_text_worker_stop(&r->w);
	while (fh_text_worker_pop(&r->w))
		popped++;
	cr_assert_eq(popped, pushed);
	cr_assert_eq(atomic_load(&r->nr_wakes), atomic_load(&r->nr_begun));
	rig_free(r);
}

Test(text_worker, no_more_than_there_is_room_for, .timeout = 120)
{
	struct rig *r = rig_new();

	/* Wherever they are: with the thread, before it or behind it. */
	pthread_mutex_lock(&r->gate);
	cr_assert_eq(fh_text_worker_start(&r->w, "text"), 0);
	for (int i = 0; i < CAPACITY; i++)
		cr_assert_eq(fh_text_worker_push(&r->w, &r->jobs[i]), 0);
	while (!atomic_load(&r->nr_begun))
		sched_yield();
	cr_assert_eq(fh_text_worker_push(&r->w, &r->jobs[CAPACITY]), -EAGAIN);
	cr_assert_null(fh_text_worker_pop(&r->w));
	pthread_mutex_unlock(&r->gate);
	while (atomic_load(&r->nr_wakes) < CAPACITY)
		sched_yield();
	cr_assert_eq(fh_text_worker_push(&r->w, &r->jobs[CAPACITY]), -EAGAIN);
	cr_assert_eq(fh_text_worker_pop(&r->w), &r->jobs[0]);
	cr_assert_eq(fh_text_worker_push(&r->w, &r->jobs[CAPACITY]), 0);
	rig_free(r);
}

Test(text_worker, what_was_not_begun_is_refused, .timeout = 120)
{
	struct rig *r = rig_new();

	for (int i = 0; i < 3; i++)
		cr_assert_eq(fh_text_worker_push(&r->w, &r->jobs[i]), 0);
	fh_text_worker_stop(&r->w);
	fh_text_worker_stop(&r->w);
	for (int i = 0; i < 3; i++) {
		cr_assert_eq(fh_text_worker_pop(&r->w), &r->jobs[i]);
		cr_assert_eq(r->jobs[i].error, -ESHUTDOWN);
	}
	cr_assert_null(fh_text_worker_pop(&r->w));
	cr_assert_eq(atomic_load(&r->nr_begun), 0);
	rig_free(r);
}

Test(text_worker, one_that_was_never_made, .timeout = 120)
{
	struct fh_text_worker w = {0};

	cr_assert_null(fh_text_worker_pop(&w));
	fh_text_worker_stop(&w);
	fh_text_worker_destroy(&w);
	/* Any number will do. */
	cr_assert_eq(fh_text_worker_init(&w, 3, &ops, NULL), 0);
	fh_text_worker_destroy(&w);
}
