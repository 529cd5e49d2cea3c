/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the proxy, the nurse and the worker share.
 *
 * The mapping is made before the forks, so it lies at the same address in all
 * three and pointers into it mean the same everywhere.
 *
 * A call: the proxy fills in op and its arguments and moves `cmd`, on which the
 * worker sleeps.  The worker stores rc, moves `done` to cmd's value, and rings
 * `bell`, on which the proxy sleeps.  A step is acknowledged twice: `done` when
 * it was submitted, `reaped` when it is over.  One call is under way at a time.
 *
 * `epoch` counts the workers: the nurse moves it, and rings the bell, when one is
 * gone.  Whoever sees it move knows that the call under way will not end.
 */
#ifndef FH_ACCEL_WORKER_PRIV_H
#define FH_ACCEL_WORKER_PRIV_H

#include <stdatomic.h>
#include <sys/types.h>

#include "runtime/accel/worker.h"
#include "runtime/model/model.h"

enum worker_state {
	WORKER_STARTING,
	WORKER_OPEN,   /* the accelerator is open; what follows is the proxy's to ask for */
	WORKER_READY,  /* it has its blocks: steps can be run */
	WORKER_FAILED, /* it could not be opened, loaded, or given its blocks: see err */
};

enum worker_op {
	OP_LOAD,
	OP_KV_ALLOC,
	OP_STEP,
	OP_KV_COPY,
	OP_KV_SWAP,
	OP_SET_PREV,
	OP_INFO,
	OP_CLOSE,
};

struct worker_shared {
	/* The proxy writes */
	_Alignas(64) _Atomic uint32_t cmd;
	enum worker_op op;
	uint32_t args[2];
	bool out;
	struct fh_batch batch;
	bool loaded;	    /* so a new worker loads, too ... */
	uint32_t nr_blocks; /* ... and allocates so many; 0: none yet */
	/* The worker writes */
	_Alignas(64) _Atomic uint32_t done;
	_Atomic uint32_t reaped;
	int rc, reap_rc;
	struct fh_err err;
	struct fh_accel_info info;
	char name[160];
	uint64_t kv_block_bytes;
	_Atomic uint64_t load_done, load_total;
	/* The worker and the nurse write */
	_Alignas(64) _Atomic uint32_t bell;
	_Atomic uint32_t state;
	_Atomic uint32_t epoch;
	_Atomic int pid, status; /* of the worker; how the last one ended, as waitpid() has it */
	/* Batches and what comes out of them; bytes of it. */
	size_t arena_bytes;
	_Alignas(64) uint8_t arena[];
};

struct fh_worker {
	struct fh_accel base;
	struct fh_worker_config w;
	struct fh_accel_config cfg;
	char isa[16]; /* cfg.isa, if there is one */
	struct worker_shared *s;
	size_t bytes; /* of the mapping */
	int pipe;     /* to the nurse: a byte asks for a new worker, its end for the end */
	pid_t nurse;
	char name[192];

	uint32_t epoch; /* of the worker that we know */
	bool lost;	/* ready() has to say that it changed */
	uint64_t lost_ns;
	/* The step under way */
	const struct fh_batch *b;
	uint32_t step; /* its cmd; 0: none */
	uint64_t step_ns;
};

static inline struct fh_worker *to_worker(struct fh_accel *a)
{
	return (struct fh_worker *)a;
}

/* worker_proc.c: the two processes. @wake: the pipe's other end. Never returns. */
void worker_nurse(struct fh_worker *w, int wake) __attribute__((noreturn));
void worker_ring(struct worker_shared *s);

/* worker_batch.c */
/* Bytes of arena that any batch of these limits takes, and a KV block. */
size_t worker_arena_bytes(const struct fh_accel_config *cfg, const struct fh_model *m);
/* Copy @b into the arena, with room for what comes out. 0, or -EINVAL. */
int worker_put_batch(struct worker_shared *s, const struct fh_accel_config *cfg, const struct fh_model *m,
		     const struct fh_batch *b);
/* Copy what came out to where @b wants it. */
void worker_get_batch(const struct worker_shared *s, const struct fh_model *m, const struct fh_batch *b);

#endif /* FH_ACCEL_WORKER_PRIV_H */
