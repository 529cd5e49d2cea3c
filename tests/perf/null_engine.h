/* SPDX-License-Identifier: Apache-2.0 */
/*
 * An engine that runs the null model, for programs that measure a front end: everything but the model.  What fails ends
 * the program with status 2.
 */
#ifndef TESTS_PERF_NULL_ENGINE_H
#define TESTS_PERF_NULL_ENGINE_H

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

#include "runtime/accel/accel.h"
#include "runtime/base/service.h"
#include "runtime/engine/engine.h"
#include "runtime/model/model.h"

struct null_engine {
	struct fh_model *m;
	struct fh_tokenizer *tok;
	struct fh_accel *a;
	struct fh_engine *e;
	struct fh_service svc; /* for the front end */
};

_Noreturn static inline void die(const char *why)
{
	fprintf(stderr, "%s: %s\n", program_invocation_short_name, why);
	exit(2);
}

static inline void must(int rc, const struct fh_err *err)
{
	if (rc)
		die(err->msg);
}

static inline int null_engine_submit(void *ctx, struct fh_request *r, uint32_t *retry_after_ms, struct fh_err *err)
{
	return fh_engine_submit(ctx, r, retry_after_ms, err);
}

static inline void null_engine_kick(void *ctx)
{
	fh_engine_kick(ctx);
}

/* The vocabulary of the GGUF file @model; @max_seqs sequences of 256 tokens. */
static inline void null_engine_open(struct null_engine *n, const char *model, uint32_t max_seqs,
				    uint32_t max_step_tokens)
{
	struct fh_accel_config ac = {
		.max_seqs = max_seqs, .max_tokens = max_step_tokens, .max_logits = max_seqs, .max_blocks_per_seq = 8};
	struct fh_engine_config ec = {.nr_blocks = 8 * max_seqs,
				      .max_seqs = max_seqs,
				      .max_step_tokens = max_step_tokens,
				      .max_queue = 64,
				      .nr_ctx = 256};
	struct fh_err err = {0};
	char path[512];

	snprintf(path, sizeof(path), "null:%s", model);
	must(fh_model_open(path, &n->m, &err), &err);
	must(fh_tokenizer_open(n->m->gguf, &n->tok, &err), &err);
	must(fh_accel_null.open(&ac, &n->a, &err), &err);
	must(n->a->ops->load(n->a, n->m, &err), &err);
	must(n->a->ops->kv_alloc(n->a, ec.nr_blocks, &err), &err);
	ec.accel = n->a;
	ec.tok = n->tok;
	must(fh_engine_create(&ec, &n->e, &err), &err);
	n->svc = (struct fh_service){.ctx = n->e,
				     .submit = null_engine_submit,
				     .kick = null_engine_kick,
				     .model = {.id = "null", .nr_ctx = ec.nr_ctx}};
}

static inline void null_engine_start(struct null_engine *n, struct fh_frontend *fe)
{
	struct fh_err err = {0};

	must(fh_engine_attach(n->e, fe, &err), &err);
	must(fh_engine_start(n->e, &err), &err);
}

/* The front end has stopped; it is destroyed between this and close(). */
static inline void null_engine_stop(struct null_engine *n, struct fh_frontend *fe)
{
	fh_engine_stop(n->e, 0);
	fh_engine_detach(n->e, fe);
}

static inline void null_engine_close(struct null_engine *n)
{
	fh_engine_destroy(n->e);
	n->a->ops->close(n->a);
	fh_tokenizer_close(n->tok);
	fh_model_close(n->m);
}

static inline int compare_times(const void *a, const void *b)
{
	uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;

	return x < y ? -1 : x > y;
}

/* Times, sorted: the median of them is ns[n / 2]. */
static inline void sort_times(uint32_t *ns, size_t n)
{
	qsort(ns, n, sizeof(*ns), compare_times);
}

#endif /* TESTS_PERF_NULL_ENGINE_H */
