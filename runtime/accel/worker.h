/* SPDX-License-Identifier: Apache-2.0 */
/*
 * An accelerator in a process of its own.
 *
 * After an illegal access, a launch that timed out and their like, CUDA wants a
 * new process.  So the device runs in one: the engine's side is a proxy, batches
 * and tokens lie in memory that both share.  A third process, the nurse, starts
 * the worker, waits for its death, and starts it again; it exists because the
 * engine's process may start none once it is confined.
 *
 * When the worker dies, or a step takes longer than its watchdog allows, the
 * step fails with -EIO, the worker is killed and another one loads the model
 * and allocates the KV blocks anew.  Until then ready() says -EAGAIN.  What the
 * blocks held is lost, and ready() says so once with -EIO; what had not begun is
 * not concerned.
 *
 * Any accelerator may run inside.
 */
#ifndef FH_ACCEL_WORKER_H
#define FH_ACCEL_WORKER_H

#include "runtime/accel/accel.h"

struct fh_worker_config {
	const struct fh_accel_ops *inner;
	const struct fh_model *model; /* that load() will be called with; open before the fork */
	uint32_t step_timeout_ms;     /* watchdog of one call; 0: two minutes */
	/* Called in the worker before anything of the device: gives up rights. May be NULL. */
	int (*confine)(void *ctx, struct fh_err *err);
	void *confine_ctx;
};

/**
 * fh_worker_open() - start the worker and open the accelerator there
 * @w: copied
 * @cfg: as for its open(); copied
 * @out: closed with its ops, like any
 * @err: the inner open()'s, too
 *
 * Forks: call it before there are threads, sockets or a sandbox that the worker
 * should not have.  Descriptors that are open then are the worker's as well.
 *
 * Return: 0, -ENOMEM, -EAGAIN (no process), or what the inner open() returns.
 */
int fh_worker_open(const struct fh_worker_config *w, const struct fh_accel_config *cfg, struct fh_accel **out,
		   struct fh_err *err);

/* The process that computes now, for tests; 0: none. */
int fh_worker_pid(const struct fh_accel *a);

#endif /* FH_ACCEL_WORKER_H */
