/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What a front end is handed by the daemon: the engine, the model's texts and
 * the model's facts, as tables of functions, so that net/ includes neither
 * engine nor model headers.
 */
#ifndef FH_BASE_SERVICE_H
#define FH_BASE_SERVICE_H

#include <stdio.h>

#include "runtime/base/err.h"
#include "runtime/base/request.h"

struct fh_service {
	void *ctx; /* of the functions below */
	/* As fh_engine_submit(), fh_engine_kick(), fh_engine_metrics() and fh_engine_health(). */
	int (*submit)(void *ctx, struct fh_request *r, uint32_t *retry_after_ms, struct fh_err *err);
	void (*kick)(void *ctx);
	void (*metrics)(void *ctx, FILE *out);
	int (*health)(void *ctx);
	struct fh_text_ops text;
	struct fh_model_info model;
};

#endif /* FH_BASE_SERVICE_H */
