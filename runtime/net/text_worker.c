// SPDX-License-Identifier: Apache-2.0
/* The tokenizer's thread of a front end: see text_worker.h. */
#include "runtime/net/text_worker.h"

#include "runtime/base/futex.h"
#include "runtime/base/thread.h"

int fh_text_tokenize(const struct fh_text_ops *ops, const char *text, size_t bytes, uint32_t **ids, uint32_t *nr)
{
	return ops->tokenize ? ops->tokenize(ops->ctx, text, bytes, FH_TOK_BOS | FH_TOK_SPECIAL, ids, nr) : -EINVAL;
}

static void *worker_main(void *arg)
{
	struct fh_text_worker *w = arg;
	void *job;

	while (!atomic_load(&w->stop)) {
		job = fh_spsc_pop(&w->todo);
		if (!job) {
			/* Rung again after this: then the queue is looked at once more. */
			if (!atomic_exchange(&w->bell, 0))
				fh_futex_wait(&w->bell, 0, 0);
			continue;
		}
		w->ops->tokenize(w->ctx, job);
		fh_spsc_push(&w->done, job);
		w->ops->wake(w->ctx);
	}
	return NULL;
}

static void ring(struct fh_text_worker *w)
{
	if (!atomic_exchange(&w->bell, 1))
		fh_futex_wake(&w->bell, 1);
}

int fh_text_worker_push(struct fh_text_worker *w, void *job)
{
	/* Neither queue can be full then. */
	if (w->nr_inside == w->capacity)
		return -EAGAIN;
	w->nr_inside++;
	fh_spsc_push(&w->todo, job);
	ring(w);
	return 0;
}

void *fh_text_worker_pop(struct fh_text_worker *w)
{
	void *job = w->nr_inside ? fh_spsc_pop(&w->done) : NULL;

	w->nr_inside -= job != NULL;
	return job;
}

int fh_text_worker_init(struct fh_text_worker *w, uint32_t capacity, const struct fh_text_worker_ops *ops, void *ctx)
{
	uint32_t places = 1;
	int rc;

	while (places < capacity)
		places *= 2;
	rc = fh_spsc_init(&w->todo, places);
	if (!rc)
		rc = fh_spsc_init(&w->done, places);
	w->ops = ops;
	w->ctx = ctx;
	w->capacity = capacity;
	return rc;
}

int fh_text_worker_start(struct fh_text_worker *w, const char *name)
{
	int rc = fh_thread_start(&w->thread, name, worker_main, w);

	w->running = !rc;
	return rc;
}

void fh_text_worker_stop(struct fh_text_worker *w)
{
	void *job;

	if (w->running) {
		atomic_store(&w->stop, 1);
		ring(w);
		pthread_join(w->thread, NULL);
		w->running = false;
	}
	while (w->todo.slots && (job = fh_spsc_pop(&w->todo))) {
		w->ops->refuse(job);
		fh_spsc_push(&w->done, job);
	}
}

void fh_text_worker_destroy(struct fh_text_worker *w)
{
	fh_text_worker_stop(w);
	fh_spsc_destroy(&w->todo);
	fh_spsc_destroy(&w->done);
}
