/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A thread that tokenizes what its owner, the one thread of a front end, hands over, so that a megabyte of prompt holds
 * up nobody else's tokens.
 *
 * Two queues of the front end's request objects, there and back.  While a job is inside, the worker's thread alone
 * touches what its tokenize() touches; the owner keeps the object, and what lies at its text, where they are.
 */
#ifndef FH_NET_TEXT_WORKER_H
#define FH_NET_TEXT_WORKER_H

#include <pthread.h>
#include <stdbool.h>

#include "runtime/base/request.h"
#include "runtime/base/spsc.h"

struct fh_text_worker_ops {
	/* The worker's thread: tokenize @job's text; what came of it is noted in @job. */
	void (*tokenize)(void *ctx, void *job);
	/* The worker's thread: a job lies ready to be popped. */
	void (*wake)(void *ctx);
	/* Who stops the worker: @job was not begun, and this is noted in it. */
	void (*refuse)(void *job);
};

/* Zero it; nothing but init() may be done to one that is zero, except stop(), pop() and destroy(). */
struct fh_text_worker {
	const struct fh_text_worker_ops *ops;
	void *ctx;
	struct fh_spsc todo, done;
	uint32_t nr_inside; /* pushed and not popped; the owner's */
	uint32_t capacity;
	pthread_t thread;
	bool running;
	_Atomic uint32_t stop, bell; /* the thread sleeps while bell is 0 */
};

/* Room for @capacity jobs. 0 or -errno. */
int fh_text_worker_init(struct fh_text_worker *w, uint32_t capacity, const struct fh_text_worker_ops *ops, void *ctx);
/* Start the thread, called @name. 0 or -errno. */
int fh_text_worker_start(struct fh_text_worker *w, const char *name);
/* Join the thread; what it has not begun is refused, and is still to be popped. */
void fh_text_worker_stop(struct fh_text_worker *w);
void fh_text_worker_destroy(struct fh_text_worker *w);
/* The owner: 0, or -EAGAIN: as many as there is room for are inside. */
int fh_text_worker_push(struct fh_text_worker *w, void *job);
/* The owner: a job that is done, or NULL. */
void *fh_text_worker_pop(struct fh_text_worker *w);

/* Tokenize a prompt as one over HTTP is: *ids is malloc'ed. 0, or -errno: -EINVAL, the model speaks token ids only. */
int fh_text_tokenize(const struct fh_text_ops *ops, const char *text, size_t bytes, uint32_t **ids, uint32_t *nr);

#endif /* FH_NET_TEXT_WORKER_H */
