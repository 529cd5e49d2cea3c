// SPDX-License-Identifier: Apache-2.0
/*
 * The helper threads: long bodies are parsed, rendered and tokenized here, so
 * that a megabyte of prompt holds up nobody else's tokens.  There are two, so
 * that it does not hold up the next long prompt either.
 *
 * Two lists under one lock.  While a call is here (call->in_helper) the I/O
 * thread touches only its `conn`, which these threads never read.
 */
#include <stdlib.h>
#include <string.h>

#include "runtime/base/thread.h"
#include "runtime/net/http_priv.h"

#define NR_THREADS 2

struct job_list {
	struct fh_call *head, **tail;
};

struct fh_helper {
	struct fh_http *h;
	pthread_t threads[NR_THREADS];
	unsigned int nr_threads;
	pthread_mutex_t lock;
	pthread_cond_t more;
	bool stop;
	struct job_list todo, done;
	_Atomic uint32_t nr_done; /* so that the I/O thread takes the lock only when there is something */
};

static void list_push(struct job_list *l, struct fh_call *call)
{
	call->next_job = NULL;
	*l->tail = call;
	l->tail = &call->next_job;
}

static struct fh_call *list_pop(struct job_list *l)
{
	struct fh_call *call = l->head;

	if (!call)
		return NULL;
	l->head = call->next_job;
	if (!l->head)
		l->tail = &l->head;
	return call;
}

static void *helper_main(void *arg)
{
	struct fh_helper *p = arg;
	const struct fh_service *svc = p->h->svc;
	struct fh_call *call;

	pthread_mutex_lock(&p->lock);
	while (!p->stop) {
		call = list_pop(&p->todo);
		if (!call) {
			pthread_cond_wait(&p->more, &p->lock);
			continue;
		}
		pthread_mutex_unlock(&p->lock);
		/* The outcome is in call->err.status. */
		fh_oai_parse(call->oai.kind, call->body.data, call->body.len, &svc->text, &svc->model, &call->oai,
			     &call->err);
		pthread_mutex_lock(&p->lock);
		list_push(&p->done, call);
		atomic_fetch_add_explicit(&p->nr_done, 1, memory_order_release);
		fh_io_wake(p->h->io);
	}
	pthread_mutex_unlock(&p->lock);
	return NULL;
}

static void stop_threads(struct fh_helper *p)
{
	pthread_mutex_lock(&p->lock);
	p->stop = true;
	pthread_cond_broadcast(&p->more);
	pthread_mutex_unlock(&p->lock);
	while (p->nr_threads)
		pthread_join(p->threads[--p->nr_threads], NULL);
	pthread_mutex_destroy(&p->lock);
	pthread_cond_destroy(&p->more);
}

int fh_helper_create(struct fh_http *h, struct fh_err *err)
{
	struct fh_helper *p = calloc(1, sizeof(*p));
	int rc;

	if (!p)
		return fh_errf(err, -ENOMEM, "no memory for the tokenizer's threads");
	p->h = h;
	p->todo.tail = &p->todo.head;
	p->done.tail = &p->done.head;
	pthread_mutex_init(&p->lock, NULL);
	pthread_cond_init(&p->more, NULL);
	for (; p->nr_threads < NR_THREADS; p->nr_threads++) {
		rc = fh_thread_start(&p->threads[p->nr_threads], "fh-tokenize", helper_main, p);
		if (rc) {
			stop_threads(p);
			free(p);
			return fh_errf(err, rc, "cannot start the tokenizer's threads: %s", strerror(-rc));
		}
	}
	h->helper = p;
	return 0;
}

/* What still lies in the lists stays with its calls, which the I/O thread has let go of or frees. */
void fh_helper_destroy(struct fh_http *h)
{
	struct fh_helper *p = h->helper;

	if (!p)
		return;
	stop_threads(p);
	for (struct fh_call *call; (call = list_pop(&p->todo)) || (call = list_pop(&p->done));)
		fh_call_discard(call);
	free(p);
	h->helper = NULL;
}

void fh_helper_submit(struct fh_http *h, struct fh_call *call)
{
	struct fh_helper *p = h->helper;

	call->in_helper = true;
	pthread_mutex_lock(&p->lock);
	list_push(&p->todo, call);
	pthread_cond_signal(&p->more);
	pthread_mutex_unlock(&p->lock);
}

struct fh_call *fh_helper_next(struct fh_http *h)
{
	struct fh_helper *p = h->helper;
	struct fh_call *call;

	if (!atomic_load_explicit(&p->nr_done, memory_order_acquire))
		return NULL;
	pthread_mutex_lock(&p->lock);
	call = list_pop(&p->done);
	if (call)
		atomic_fetch_sub_explicit(&p->nr_done, 1, memory_order_relaxed);
	pthread_mutex_unlock(&p->lock);
	if (call)
		call->in_helper = false;
	return call;
}
