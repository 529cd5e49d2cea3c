// SPDX-License-Identifier: Apache-2.0
/* The two processes behind a worker's proxy: see worker.h. */
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "runtime/accel/worker_priv.h"
#include "runtime/base/clock.h"
#include "runtime/base/futex.h"
#include "runtime/base/log.h"

#ifndef SYS_pidfd_open
#define SYS_pidfd_open 434
#endif

#define SPIN_NS 20000
#define BACKOFF_MIN_MS 500
#define BACKOFF_MAX_MS 60000

void worker_ring(struct worker_shared *s)
{
	atomic_fetch_add(&s->bell, 1);
	fh_futex_wake_shared(&s->bell);
}

/* ---- the worker ---- */

static void progress(void *ctx, uint64_t done, uint64_t total)
{
	struct worker_shared *s = ctx;

	atomic_store_explicit(&s->load_total, total, memory_order_relaxed);
	atomic_store_explicit(&s->load_done, done, memory_order_relaxed);
	worker_ring(s);
}

static void note_info(struct fh_worker *w, struct fh_accel *a)
{
	struct worker_shared *s = w->s;

	a->ops->info(a, &s->info);
	snprintf(s->name, sizeof(s->name), "%s", s->info.name);
	s->info.name = s->name;
	/* Memory of another process is nothing to show. */
	s->info.weights = s->info.kv = NULL;
	s->kv_block_bytes = a->ops->kv_block_bytes(a);
}

static void step(struct worker_shared *s, struct fh_accel *a, uint32_t cmd)
{
	s->rc = a->ops->submit(a, &s->batch);
	atomic_store(&s->done, cmd);
	worker_ring(s);
	s->reap_rc = s->rc ? s->rc : a->ops->reap(a, true);
	atomic_store(&s->reaped, cmd);
	worker_ring(s);
}

/* One call; false after the last. */
static bool serve_one(struct fh_worker *w, struct fh_accel *a, uint32_t cmd)
{
	struct worker_shared *s = w->s;
	bool last = s->op == OP_CLOSE;

	switch (s->op) {
	case OP_LOAD: s->rc = a->ops->load(a, w->w.model, &s->err); break;
	case OP_KV_ALLOC: s->rc = a->ops->kv_alloc(a, s->args[0], &s->err); break;
	case OP_STEP: step(s, a, cmd); return true;
	case OP_KV_COPY: s->rc = a->ops->kv_copy(a, s->args[0], s->args[1]); break;
	case OP_KV_SWAP: s->rc = a->ops->kv_swap(a, s->args[0], s->arena, s->out); break;
	case OP_SET_PREV: a->ops->set_prev(a, s->args[0], s->args[1]); break;
	case OP_INFO: s->rc = 0; break;
	case OP_CLOSE:
		a->ops->close(a);
		s->rc = 0;
		break;
	}
	if (!last && !s->rc)
		note_info(w, a);
	if (s->op == OP_KV_ALLOC && !s->rc)
		atomic_store(&s->state, WORKER_READY);
	atomic_store(&s->done, cmd);
	worker_ring(s);
	return !last;
}

/* The next call, after the one with @seen. */
static uint32_t next_cmd(struct worker_shared *s, uint32_t seen)
{
	uint64_t until = fh_now_ns() + SPIN_NS;
	uint32_t cmd;

	while ((cmd = atomic_load_explicit(&s->cmd, memory_order_acquire)) == seen) {
		if (fh_now_ns() < until)
			fh_cpu_relax();
		else
			fh_futex_wait_shared(&s->cmd, seen, 0);
	}
	return cmd;
}

/* What the engine's process has registered for its own end is not ours to run. */
static void leave(int status) __attribute__((noreturn));

static void leave(int status)
{
	fflush(NULL);
	_exit(status);
}

static void worker_main(struct fh_worker *w) __attribute__((noreturn));

static void worker_main(struct fh_worker *w)
{
	struct worker_shared *s = w->s;
	uint32_t cmd = atomic_load(&s->cmd);
	struct fh_accel_config cfg = w->cfg;
	struct fh_accel *a = NULL;
	int rc = 0;

	cfg.progress = progress;
	cfg.progress_ctx = s;
	cfg.ctl = NULL; /* the kernel module's regions are another process's */
	if (w->w.confine)
		rc = w->w.confine(w->w.confine_ctx, &s->err);
	/* After that, since a change of user takes it back. */
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	if (!rc)
		rc = w->w.inner->open(&cfg, &a, &s->err);
	if (!rc && s->loaded)
		rc = a->ops->load(a, w->w.model, &s->err);
	if (!rc && s->nr_blocks)
		rc = a->ops->kv_alloc(a, s->nr_blocks, &s->err);
	if (!rc)
		note_info(w, a);
	s->rc = rc;
	atomic_store(&s->state, rc ? WORKER_FAILED : s->nr_blocks ? WORKER_READY : WORKER_OPEN);
	worker_ring(s);
	if (rc) {
		if (a)
			a->ops->close(a);
		leave(1);
	}
	do {
		cmd = next_cmd(s, cmd);
	} while (serve_one(w, a, cmd));
	leave(0);
}

/* ---- the nurse ---- */

static pid_t start(struct fh_worker *w, int wake)
{
	pid_t nurse = getpid(), pid;

	atomic_store(&w->s->state, WORKER_STARTING);
	atomic_store(&w->s->load_done, 0);
	pid = fork();
	if (!pid) {
		close(wake);
		prctl(PR_SET_NAME, "fh-worker");
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		if (getppid() != nurse)
			_exit(1);
		worker_main(w);
	}
	atomic_store(&w->s->pid, pid > 0 ? pid : 0);
	return pid;
}

/* Until the worker is dead or shall die. False: the engine's process is gone, or has had enough. */
static bool watch(int worker, int wake)
{
	struct pollfd p[] = {{.fd = worker, .events = POLLIN}, {.fd = wake, .events = POLLIN}};
	char byte;

	for (;;) {
		if (poll(p, 2, -1) < 0 && errno != EINTR)
			return false;
		if (p[1].revents && read(wake, &byte, 1) <= 0)
			return false;
		if (p[0].revents || p[1].revents)
			return true;
	}
}

/* Wait before another try; false: the engine's process is gone. Requests for a new worker are what is waited for. */
static bool back_off(int wake, int ms)
{
	struct pollfd p = {.fd = wake, .events = POLLIN};
	uint64_t until = fh_now_ns() + (uint64_t)ms * 1000000u;
	char byte;

	while (ms > 0 && poll(&p, 1, ms) > 0) {
		if (read(wake, &byte, 1) <= 0)
			return false;
		ms = fh_now_ns() < until ? (int)((until - fh_now_ns()) / 1000000u) : 0;
	}
	return true;
}

/* Signals that the terminal or the service manager sends to all of us are the engine's business. */
static void ignore_signals(void)
{
	static const int ignored[] = {SIGINT, SIGTERM, SIGHUP, SIGQUIT, SIGPIPE};
	sigset_t none;

	for (size_t i = 0; i < sizeof(ignored) / sizeof(ignored[0]); i++)
		signal(ignored[i], SIG_IGN);
	signal(SIGCHLD, SIG_DFL);
	sigemptyset(&none);
	sigprocmask(SIG_SETMASK, &none, NULL);
}

void worker_nurse(struct fh_worker *w, int wake)
{
	struct worker_shared *s = w->s;
	int backoff_ms = 0;

	prctl(PR_SET_NAME, "fh-nurse");
	ignore_signals();
	for (;;) {
		pid_t pid = start(w, wake);
		int fd = pid > 0 ? (int)syscall(SYS_pidfd_open, pid, 0) : -1, status = -1;
		bool was_up, go_on = fd >= 0 && watch(fd, wake);

		if (pid > 0) {
			kill(pid, SIGKILL);
			while (waitpid(pid, &status, 0) < 0 && errno == EINTR)
				;
		}
		if (fd >= 0)
			close(fd);
		else
			go_on = back_off(wake, BACKOFF_MIN_MS); /* no process to be had: try again */
		was_up = atomic_load(&s->state) == WORKER_OPEN || atomic_load(&s->state) == WORKER_READY;
		atomic_store(&s->pid, 0);
		atomic_store(&s->status, status);
		/* What could not be opened at the start is the start's failure: nobody waits for another try. */
		if (!was_up && !s->loaded && atomic_load(&s->state) != WORKER_FAILED)
			snprintf(s->err.msg, sizeof(s->err.msg),
				 "the worker process died while it started (status %#x)", status);
		if (!was_up && !s->loaded) {
			s->rc = atomic_load(&s->state) == WORKER_FAILED ? s->rc : -EIO;
			atomic_store(&s->state, WORKER_FAILED);
		} else {
			atomic_store(&s->state, WORKER_STARTING);
		}
		atomic_fetch_add(&s->epoch, 1);
		worker_ring(s);
		if (!go_on || (!was_up && !s->loaded))
			_exit(0);
		if (!was_up) {
			backoff_ms = !backoff_ms		       ? BACKOFF_MIN_MS
				     : backoff_ms > BACKOFF_MAX_MS / 2 ? BACKOFF_MAX_MS
								       : backoff_ms * 2;
			fh_error("the worker process could not load the model again (%s); the next try is in %d ms",
				 s->err.msg, backoff_ms);
			if (!back_off(wake, backoff_ms))
				_exit(0);
		} else {
			backoff_ms = 0;
		}
	}
}
