/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A model ready to answer: model, tokenizer, template, accelerator, engine, and
 * the service that front ends are handed.  `serve` puts HTTP before it, `run`
 * the fake front end.
 *
 * Opened in two halves, because what comes between them (listening, giving up
 * rights) must come after the files are open and before threads run.
 */
#ifndef FH_DAEMON_CORE_H
#define FH_DAEMON_CORE_H

#include "runtime/accel/accel.h"
#include "runtime/base/service.h"
#include "runtime/daemon/config.h"
#include "runtime/daemon/text.h"
#include "runtime/engine/engine.h"
#include "runtime/model/model.h"

struct fhd_core {
	const struct fhd_config *cfg;
	struct fh_model *model;
	struct fh_tokenizer *tok;
	struct fhd_text *text;
	struct fh_accel *accel;
	struct fh_model *draft_model; /* NULL, as ... */
	struct fh_accel *draft;	      /* ... its device: no draft model */
	/* Called in a GPU's process before anything else; NULL: nothing. Set before fhd_core_spawn(). */
	int (*confine)(void *ctx, struct fh_err *err);
	void *confine_ctx;
	struct fh_engine *engine;
	struct fh_accel_info info;
	struct fh_service svc; /* its functions may be called from fhd_core_start() on */
	uint32_t nr_ctx, nr_blocks;
	uint32_t think_open, think_close; /* token ids; FH_NO_TOKEN: the model has no thoughts of its own */
	struct fh_ctl *ctl; /* to register weights and KV blocks with, set before fhd_core_load(); NULL: do not */
	/* What steps cost, from earlier runs: see costs.h. */
	int costs_fd; /* -1: not kept */
	char costs[2048];
	bool calibrate; /* measure a few steps at the start when nothing is known */
	/* Of the progress line. */
	bool show_progress;
	uint64_t load_begin_us, percent;
};

/* Map the file, read the vocabulary, parse the template.  Starts no thread. */
int fhd_core_open(struct fhd_core *c, const struct fhd_config *cfg, struct fh_err *err);
/*
 * Start the process that a GPU runs in, where --device asks for one; otherwise
 * nothing.  fhd_core_load() does it if it has not been done: a daemon does it
 * before it has sockets and gives up rights.
 */
int fhd_core_spawn(struct fhd_core *c, struct fh_err *err);
/* The two parts of fhd_core_start(): load the weights and allocate keys and values, which starts compute threads ... */
int fhd_core_load(struct fhd_core *c, struct fh_err *err);
/* ... and how the engine is made over them. */
void fhd_core_engine_config(const struct fhd_core *c, struct fh_engine_config *ec);
/* Load the weights, allocate keys and values, create the engine.  Starts compute threads. */
int fhd_core_start(struct fhd_core *c, struct fh_err *err);
/* Log what kind of memory was got: for whoever wonders why it is slower than elsewhere. */
void fhd_core_say_memory(const struct fhd_core *c);
/* Either half; after the engine was stopped. */
void fhd_core_close(struct fhd_core *c);

#endif /* FH_DAEMON_CORE_H */
