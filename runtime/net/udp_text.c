// SPDX-License-Identifier: Apache-2.0
/*
 * Long prompts that are text: one thread tokenizes them where they lie, so that
 * a megabyte of prompt holds up nobody else's tokens.
 *
 * Two queues of request objects, the front end's thread -> here and back, as
 * large as there are objects.  While an object is here this thread alone touches
 * its ids, nr_prompt and error; its message stays, because it was not said to
 * have been read.
 */
#include <stdlib.h>

#include "runtime/base/futex.h"
#include "runtime/base/spsc.h"
#include "runtime/net/udp_priv.h"

struct fh_udp_text {
	struct fh_spsc todo, done;
	pthread_t thread;
	bool running;
	_Atomic uint32_t stop, bell; /* the thread sleeps while bell is 0 */
};

int fh_udp_tokenize(struct fh_udp *u, struct fh_udp_req *q)
{
	const struct fh_text_ops *ops = &u->svc->text;
	uint32_t nr = 0;
	int rc;

	if (!ops->tokenize)
		return -EINVAL; /* this model speaks token ids only */
	/* The same as a prompt over HTTP. */
	rc = ops->tokenize(ops->ctx, q->text, q->text_bytes, FH_TOK_BOS | FH_TOK_SPECIAL, &q->ids, &nr);
	q->req.nr_prompt = nr;
	return rc;
}

static void *text_main(void *arg)
{
	struct fh_udp *u = arg;
	struct fh_udp_text *t = u->text;
	struct fh_udp_req *q;

	while (!atomic_load(&t->stop)) {
		q = fh_spsc_pop(&t->todo);
		if (!q) {
			/* Rung again after this: then the queue is looked at once more. */
			if (!atomic_exchange(&t->bell, 0))
				fh_futex_wait(&t->bell, 0, 0);
			continue;
		}
		q->error = fh_udp_tokenize(u, q);
		fh_spsc_push(&t->done, q);
		u->port->ops->wake(u->port);
	}
	return NULL;
}

static void ring(struct fh_udp_text *t)
{
	if (!atomic_exchange(&t->bell, 1))
		fh_futex_wake(&t->bell, 1);
}

void fh_udp_text_push(struct fh_udp *u, struct fh_udp_req *q)
{
	q->in_text = true;
	fh_spsc_push(&u->text->todo, q);
	ring(u->text);
}

struct fh_udp_req *fh_udp_text_pop(struct fh_udp *u)
{
	struct fh_udp_req *q = fh_spsc_pop(&u->text->done);

	if (q)
		q->in_text = false;
	return q;
}

int fh_udp_text_create(struct fh_udp *u, struct fh_err *err)
{
	struct fh_udp_text *t = aligned_alloc(_Alignof(struct fh_udp_text), sizeof(*t));
	int rc;

	if (!t)
		return fh_errf(err, -ENOMEM, "udp: no memory for the tokenizer's thread");
	memset(t, 0, sizeof(*t));
	u->text = t;
	rc = fh_spsc_init(&t->todo, u->cfg.max_requests);
	if (!rc)
		rc = fh_spsc_init(&t->done, u->cfg.max_requests);
	if (rc)
		return fh_errf(err, rc, "udp: no memory for the tokenizer's queues");
	rc = pthread_create(&t->thread, NULL, text_main, u);
	if (rc)
		return fh_errf(err, -rc, "udp: cannot start the tokenizer's thread: %s", strerror(rc));
	pthread_setname_np(t->thread, "fh-udp-text");
	t->running = true;
	return 0;
}

void fh_udp_text_stop(struct fh_udp *u)
{
	struct fh_udp_text *t = u->text;
	struct fh_udp_req *q;

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

void fh_udp_text_destroy(struct fh_udp *u)
{
	if (!u->text)
		return;
	fh_udp_text_stop(u);
	fh_spsc_destroy(&u->text->todo);
	fh_spsc_destroy(&u->text->done);
	free(u->text);
	u->text = NULL;
}
