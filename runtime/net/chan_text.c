// SPDX-License-Identifier: Apache-2.0
/*
 * Prompts that are text: each is copied out of its arena, once, and the copy is
 * tokenized.  Its channel stays while the tokenizer's thread has it, because its
 * object is used.
 */
#include <stdlib.h>
#include <string.h>

#include "runtime/net/chan_priv.h"

#define CAPACITY 1024u

static int tokenize_copy(struct fh_chans *f, struct fh_chan_req *q)
{
	char *copy = f->svc->text.tokenize ? malloc(q->text_bytes) : NULL;
	uint32_t nr = 0;
	int ret;

	if (!f->svc->text.tokenize)
		return -EINVAL; /* this model speaks token ids only */
	if (!copy)
		return -ENOMEM;
	memcpy(copy, (const char *)q->chan->area[FH_AREA_ARENA] + q->text_off, q->text_bytes);
	ret = fh_text_tokenize(&f->svc->text, copy, q->text_bytes, &q->ids, &nr);
	q->req.nr_prompt = nr;
	free(copy);
	return ret;
}

static void tokenize(void *ctx, void *job)
{
	struct fh_chan_req *q = job;

	q->error = tokenize_copy(ctx, q);
}

static void wake(void *ctx)
{
	struct fh_chans *f = ctx;

	f->svc->kick(f->svc->ctx);
}

static void refuse(void *job)
{
	((struct fh_chan_req *)job)->error = -ESHUTDOWN;
}

static const struct fh_text_worker_ops ops = {.tokenize = tokenize, .wake = wake, .refuse = refuse};

int fh_chan_text_create(struct fh_chans *f, struct fh_err *err)
{
	int ret = fh_text_worker_init(&f->text, CAPACITY, &ops, f);

	return ret ? fh_errf(err, ret, "channels: no memory for the tokenizer's queues") : 0;
}

int fh_chan_text_start(struct fh_chans *f, struct fh_err *err)
{
	int ret = fh_text_worker_start(&f->text, "fh-chan-text");

	return ret ? fh_errf(err, ret, "channels: cannot start the tokenizer's thread: %s", strerror(-ret)) : 0;
}
