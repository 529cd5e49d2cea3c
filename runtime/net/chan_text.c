// SPDX-License-Identifier: Apache-2.0
/*
 * Prompts that are text: one thread copies each out of its arena, once, and
 * tokenizes the copy.
 *
 * Two queues of request objects, engine -> here and back, which never hold more
 * than CAPACITY together.  While an object is here this thread alone touches
 * its ids, nr_prompt and error; its channel stays, because the object is used.
 */
#include <stdlib.h>
#include <string.h>

#include "runtime/base/futex.h"
#include "runtime/base/spsc.h"
#include "runtime/net/chan_priv.h"

#define CAPACITY 1024u

struct fh_chan_text {
	struct fh_chans *f;
	struct fh_spsc todo, done;
	uint32_t nr_inside; /* engine's thread */
	pthread_t thread;
	bool running;
	_Atomic uint32_t stop;
	_Atomic uint32_t bell; /* the thread sleeps while it is 0 */
};

static int tokenize(struct fh_chans *f, struct fh_chan_req *q)
{
	const struct fh_text_ops *ops = &f->svc->text;
	char *copy = ops->tokenize ? malloc(q->text_bytes) : NULL;
	uint32_t nr = 0;
	int ret;

	if (!ops->tokenize)
		return -EINVAL; /* this model speaks token ids only */
	if (!copy)
		return -ENOMEM;
	memcpy(copy, (const char *)q->chan->area[FH_AREA_ARENA] + q->text_off, q->text_bytes);
	/* The same as a prompt over HTTP. */
	ret = ops->tokenize(ops->ctx, copy, q->text_bytes, FH_TOK_BOS | FH_TOK_SPECIAL, &q->ids, &nr);
	q->req.nr_prompt = nr;
	free(copy);
	return ret;
}

static void *text_main(void *arg)
{
	struct fh_chan_text *t = arg;
	struct fh_chan_req *q;

	while (!atomic_load(&t->stop)) {
		q = fh_spsc_pop(&t->todo);
		if (!q) {
			/* Rung again after this: then the queue is looked at once more. */
			if (!atomic_exchange(&t->bell, 0))
				fh_futex_wait(&t->bell, 0, 0);
			continue;
		}
		q->error = tokenize(t->f, q);
		fh_spsc_push(&t->done, q);
		t->f->svc->kick(t->f->svc->ctx);
	}
	return NULL;
}

static void ring(struct fh_chan_text *t)
{
	if (!atomic_exchange(&t->bell, 1))
		fh_futex_wake(&t->bell, 1);
}

int fh_chan_text_push(struct fh_chan_text *t, struct fh_chan_req *q)
{
	if (t->nr_inside == CAPACITY)
		return -EAGAIN;
	t->nr_inside++;
	fh_spsc_push(&t->todo, q);
	ring(t);
	return 0;
}

struct fh_chan_req *fh_chan_text_pop(struct fh_chan_text *t)
{
	struct fh_chan_req *q;

	if (!t->nr_inside)
		return NULL;
	q = fh_spsc_pop(&t->done);
	t->nr_inside -= q != NULL;
	return q;
}

int fh_chan_text_create(struct fh_chans *f, struct fh_err *err)
{
	struct fh_chan_text *t = aligned_alloc(_Alignof(struct fh_chan_text), sizeof(*t));
	int ret;

	if (!t)
		return fh_errf(err, -ENOMEM, "channels: no memory for the tokenizer's thread");
	memset(t, 0, sizeof(*t));
	t->f = f;
	f->text = t;
	ret = fh_spsc_init(&t->todo, CAPACITY);
	if (!ret)
		ret = fh_spsc_init(&t->done, CAPACITY);
	if (ret)
		return fh_errf(err, ret, "channels: no memory for the tokenizer's queues");
	return 0;
}

int fh_chan_text_start(struct fh_chans *f, struct fh_err *err)
{
	struct fh_chan_text *t = f->text;
	int rc = pthread_create(&t->thread, NULL, text_main, t);

	if (rc)
		return fh_errf(err, -rc, "channels: cannot start the tokenizer's thread: %s", strerror(rc));
	pthread_setname_np(t->thread, "fh-chan-text");
	t->running = true;
	return 0;
}

void fh_chan_text_stop(struct fh_chans *f)
{
	struct fh_chan_text *t = f->text;
	struct fh_chan_req *q;

	if (!t)
		return;
	if (t->running) {
		atomic_store(&t->stop, 1);
		ring(t);
		pthread_join(t->thread, NULL);
		t->running = false;
	}
	while (t->todo.slots && (q = fh_spsc_pop(&t->todo))) {
		q->error = -ESHUTDOWN;
		fh_spsc_push(&t->done, q);
	}
}

void fh_chan_text_destroy(struct fh_chans *f)
{
	struct fh_chan_text *t = f->text;

	if (!t)
		return;
	fh_chan_text_stop(f);
	fh_spsc_destroy(&t->todo);
	fh_spsc_destroy(&t->done);
	free(t);
	f->text = NULL;
}
