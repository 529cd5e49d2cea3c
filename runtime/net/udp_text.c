// SPDX-License-Identifier: Apache-2.0
/*
 * Prompts that are text, tokenized where they lie: the message of one that is
 * with the tokenizer's thread stays, because it was not said to have been read.
 */
#include "runtime/net/udp_priv.h"

int fh_udp_tokenize(struct fh_udp *u, struct fh_udp_req *q)
{
	uint32_t nr = 0;
	int rc = fh_text_tokenize(&u->svc->text, q->text, q->text_bytes, &q->ids, &nr);

	q->req.nr_prompt = nr;
	return rc;
}

static void tokenize(void *ctx, void *job)
{
	struct fh_udp_req *q = job;

	q->error = fh_udp_tokenize(ctx, q);
}

static void wake(void *ctx)
{
	struct fh_udp *u = ctx;

	u->port->ops->wake(u->port);
}

static void refuse(void *job)
{
	((struct fh_udp_req *)job)->error = -ESHUTDOWN;
}

static const struct fh_text_worker_ops ops = {.tokenize = tokenize, .wake = wake, .refuse = refuse};

int fh_udp_text_start(struct fh_udp *u, struct fh_err *err)
{
	int rc = fh_text_worker_init(&u->text, u->cfg.max_requests, &ops, u);

	if (rc)
		return fh_errf(err, rc, "udp: no memory for the tokenizer's queues");
	rc = fh_text_worker_start(&u->text, "fh-udp-text");
	return rc ? fh_errf(err, rc, "udp: cannot start the tokenizer's thread: %s", strerror(-rc)) : 0;
}
