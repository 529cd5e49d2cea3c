// SPDX-License-Identifier: Apache-2.0
/*
 * The engine's side of an accelerator in a process of its own: see worker.h.
 * The proxy owns the mapping and the pipe; the nurse ends when the pipe does.
 */
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include "runtime/accel/worker_priv.h"
#include "runtime/base/clock.h"
#include "runtime/base/futex.h"
#include "runtime/base/log.h"

#define SPIN_NS 20000
#define NAP_NS 250000000u /* a wake-up that was missed costs no more */
#define STEP_TIMEOUT_MS 120000
#define CLOSE_TIMEOUT_MS 10000

static const struct fh_accel_ops worker_ops;

/* ---- waiting ---- */

static void nap(struct fh_worker *w, uint32_t bell, uint64_t until_ns)
{
	uint64_t now = fh_now_ns();

	if (now < until_ns)
		fh_futex_wait_shared(&w->s->bell, bell, until_ns - now < NAP_NS ? until_ns - now : NAP_NS);
}

static bool is_gone(const struct fh_worker *w)
{
	return atomic_load(&w->s->epoch) != w->epoch;
}

/* Until *@word is @value: 0; -EIO when the worker is gone; -ETIMEDOUT. */
static int wait_word(struct fh_worker *w, _Atomic uint32_t *word, uint32_t value, uint64_t until_ns)
{
	uint64_t spin_until = fh_now_ns() + SPIN_NS;

	while (atomic_load_explicit(word, memory_order_acquire) != value) {
		uint32_t bell = atomic_load(&w->s->bell);
		uint64_t now = fh_now_ns();

		if (now < spin_until) {
			fh_cpu_relax();
			continue;
		}
		if (atomic_load_explicit(word, memory_order_acquire) == value)
			return 0;
		if (is_gone(w))
			return -EIO;
		if (now >= until_ns)
			return -ETIMEDOUT;
		nap(w, bell, until_ns);
	}
	return 0;
}

static void describe_end(int status, char *out, size_t cap)
{
	if (WIFSIGNALED(status))
		snprintf(out, cap, "it died of signal %d (%s)", WTERMSIG(status), strsignal(WTERMSIG(status)));
	else
		snprintf(out, cap, "it ended with status %d", WEXITSTATUS(status));
}

/* What the worker held is lost; another one comes. @why NULL: it died by itself. */
static int lose(struct fh_worker *w, const char *why)
{
	char how[96];

	w->b = NULL;
	w->step = 0;
	if (!w->lost)
		w->lost_ns = fh_now_ns();
	w->lost = true;
	if (is_gone(w)) {
		describe_end(atomic_load(&w->s->status), how, sizeof(how));
		fh_error("%s: the worker process is gone (%s); another one is loading the model", w->name,
			 why ? why : how);
		return -EIO;
	}
	fh_error("%s: %s; the worker process is ended, and another one will load the model", w->name, why);
	if (write(w->pipe, "k", 1) != 1)
		fh_error("%s: nobody is there to start another worker: restart", w->name);
	return -EIO;
}

/* ---- calls ---- */

static void post(struct fh_worker *w, enum worker_op op)
{
	w->s->op = op;
	atomic_fetch_add(&w->s->cmd, 1);
	fh_futex_wake_shared(&w->s->cmd);
}

static uint64_t step_until(const struct fh_worker *w, uint64_t from_ns)
{
	return from_ns + (w->w.step_timeout_ms ? w->w.step_timeout_ms : STEP_TIMEOUT_MS) * 1000000ull;
}

/* Is there a worker to talk to? Sees, too, whether another one has taken its place. */
static int look(struct fh_worker *w)
{
	uint32_t epoch = atomic_load(&w->s->epoch), state = atomic_load(&w->s->state);

	if (w->lost || epoch != w->epoch)
		return -EIO;
	return state == WORKER_OPEN || state == WORKER_READY ? 0 : -EAGAIN;
}

/* Call and wait; what the inner call returned, or -EIO. */
static int call(struct fh_worker *w, enum worker_op op, uint64_t until_ns)
{
	int rc = look(w);

	if (rc)
		return -EIO;
	post(w, op);
	rc = wait_word(w, &w->s->done, atomic_load(&w->s->cmd), until_ns);
	if (rc)
		return lose(w, rc == -ETIMEDOUT ? "a call did not come back in time" : NULL);
	return w->s->rc;
}

/* Like call(), as long as it takes, showing the progress of loading. */
static int call_long(struct fh_worker *w, enum worker_op op, struct fh_err *err)
{
	uint64_t shown = UINT64_MAX;
	int rc = look(w);

	if (rc)
		return fh_errf(err, -EIO, "%s: the worker process is gone", w->name);
	post(w, op);
	do {
		uint64_t done = atomic_load(&w->s->load_done), total = atomic_load(&w->s->load_total);

		if (w->cfg.progress && total && done != shown)
			w->cfg.progress(w->cfg.progress_ctx, done, total);
		shown = done;
		rc = wait_word(w, &w->s->done, atomic_load(&w->s->cmd), fh_now_ns() + NAP_NS / 4);
	} while (rc == -ETIMEDOUT);
	if (rc) {
		lose(w, NULL);
		return fh_errf(err, -EIO, "%s: the worker process died; see above", w->name);
	}
	if (w->s->rc)
		return fh_errf(err, w->s->rc, "%s", w->s->err.msg);
	return 0;
}

/* ---- start and end ---- */

static int map(struct fh_worker *w, struct fh_err *err)
{
	size_t arena = worker_arena_bytes(&w->cfg, w->w.model);

	w->bytes = sizeof(*w->s) + arena;
	/* Most of it is never touched. */
	w->s = mmap(NULL, w->bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (w->s == MAP_FAILED) {
		w->s = NULL;
		return fh_errf(err, -ENOMEM, "%zu MiB of memory shared with a worker process: %s", w->bytes >> 20,
			       strerror(errno));
	}
	w->s->arena_bytes = arena;
	return 0;
}

static int spawn(struct fh_worker *w, struct fh_err *err)
{
	int fds[2];

	if (pipe2(fds, O_CLOEXEC))
		return fh_errf(err, -errno, "a pipe: %s", strerror(errno));
	fflush(NULL); /* or it is written twice */
	w->nurse = fork();
	if (!w->nurse) {
		close(fds[1]);
		worker_nurse(w, fds[0]);
	}
	close(fds[0]);
	w->pipe = fds[1];
	if (w->nurse < 0)
		return fh_errf(err, -EAGAIN, "no process for the accelerator: %s", strerror(errno));
	return 0;
}

/* Until the first worker has opened the accelerator, or has not. */
static int wait_open(struct fh_worker *w, struct fh_err *err)
{
	for (;;) {
		uint32_t bell = atomic_load(&w->s->bell), state = atomic_load(&w->s->state);

		if (state == WORKER_OPEN)
			break;
		if (state == WORKER_FAILED)
			return fh_errf(err, w->s->rc ? w->s->rc : -EIO, "%s", w->s->err.msg);
		nap(w, bell, UINT64_MAX);
	}
	w->epoch = atomic_load(&w->s->epoch);
	snprintf(w->name, sizeof(w->name), "%s", w->s->name);
	return 0;
}

static void worker_close(struct fh_accel *a)
{
	struct fh_worker *w = to_worker(a);

	if (!a)
		return;
	if (w->nurse > 0 && !look(w)) {
		post(w, OP_CLOSE);
		if (wait_word(w, &w->s->done, atomic_load(&w->s->cmd), fh_now_ns() + CLOSE_TIMEOUT_MS * 1000000ull) ==
		    -ETIMEDOUT)
			fh_warn("%s: the worker process does not end by itself", w->name);
		else
			/* Its last breath: what is said at the exit of a process belongs to the log, too. */
			wait_word(w, &w->s->epoch, w->epoch + 1, fh_now_ns() + CLOSE_TIMEOUT_MS * 1000000ull);
	}
	if (w->pipe >= 0)
		close(w->pipe);
	/* Where the system call filter is in the way, the nurse ends all the same. */
	if (w->nurse > 0)
		waitpid(w->nurse, NULL, 0);
	if (w->s)
		munmap(w->s, w->bytes);
	free(w);
}

int fh_worker_open(const struct fh_worker_config *wc, const struct fh_accel_config *cfg, struct fh_accel **out,
		   struct fh_err *err)
{
	struct fh_worker *w = calloc(1, sizeof(*w));
	int rc;

	if (!w)
		return fh_errf(err, -ENOMEM, "out of memory");
	w->base.ops = &worker_ops;
	w->w = *wc;
	w->cfg = *cfg;
	w->pipe = -1;
	if (cfg->isa) {
		snprintf(w->isa, sizeof(w->isa), "%s", cfg->isa);
		w->cfg.isa = w->isa;
	}
	snprintf(w->name, sizeof(w->name), "%s", wc->inner->name);
	rc = map(w, err);
	if (!rc)
		rc = spawn(w, err);
	if (!rc)
		rc = wait_open(w, err);
	if (rc) {
		worker_close(&w->base);
		return rc;
	}
	*out = &w->base;
	return 0;
}

/* As of an accelerator that is opened by its ops: this one is opened by fh_worker_open(). */
static int worker_open(const struct fh_accel_config *cfg, struct fh_accel **out, struct fh_err *err)
{
	(void)cfg;
	(void)out;
	return fh_errf(err, -ENOTSUP, "a worker is opened with fh_worker_open()");
}

/* ---- the accelerator's functions ---- */

static int worker_load(struct fh_accel *a, const struct fh_model *m, struct fh_err *err)
{
	struct fh_worker *w = to_worker(a);
	int rc;

	if (m != w->w.model)
		return fh_errf(err, -EINVAL, "a worker runs the model that it was made for");
	rc = call_long(w, OP_LOAD, err);
	if (!rc)
		w->s->loaded = true;
	return rc;
}

static uint64_t worker_kv_block_bytes(struct fh_accel *a)
{
	return to_worker(a)->s->kv_block_bytes;
}

static int worker_kv_alloc(struct fh_accel *a, uint32_t nr_blocks, struct fh_err *err)
{
	struct fh_worker *w = to_worker(a);
	int rc;

	w->s->args[0] = nr_blocks;
	rc = call_long(w, OP_KV_ALLOC, err);
	if (!rc)
		w->s->nr_blocks = nr_blocks;
	return rc;
}

static int worker_ready(struct fh_accel *a)
{
	struct fh_worker *w = to_worker(a);
	uint32_t epoch = atomic_load(&w->s->epoch);

	if (epoch != w->epoch) {
		bool news = !w->lost;

		if (news)
			lose(w, NULL);
		w->epoch = epoch;
		w->lost = false;
		if (news)
			return -EIO;
	}
	if (w->lost)
		return -EAGAIN; /* it is being ended */
	if (atomic_load(&w->s->state) != WORKER_READY)
		return -EAGAIN;
	if (w->lost_ns) {
		fh_info("%s: a new worker process is ready after %.1f s", w->name,
			(double)(fh_now_ns() - w->lost_ns) * 1e-9);
		w->lost_ns = 0;
	}
	return 0;
}

static int worker_submit(struct fh_accel *a, const struct fh_batch *b)
{
	struct fh_worker *w = to_worker(a);
	int rc;

	if (w->step)
		return -EINVAL;
	if (look(w))
		return -EIO;
	rc = worker_put_batch(w->s, &w->cfg, w->w.model, b);
	if (rc)
		return rc;
	w->step_ns = fh_now_ns();
	rc = call(w, OP_STEP, step_until(w, w->step_ns));
	if (rc == -EIO && !w->lost)
		return lose(w, "the device failed");
	if (rc)
		return rc;
	w->step = atomic_load(&w->s->cmd);
	w->b = b;
	return 0;
}

static int worker_reap(struct fh_accel *a, bool wait)
{
	struct fh_worker *w = to_worker(a);
	const struct fh_batch *b = w->b;
	int rc;

	if (!w->step)
		return w->lost ? -EIO : 0;
	rc = wait_word(w, &w->s->reaped, w->step, wait ? step_until(w, w->step_ns) : 0);
	if (rc == -ETIMEDOUT && !wait && fh_now_ns() < step_until(w, w->step_ns))
		return -EAGAIN;
	if (rc)
		return lose(w, rc == -ETIMEDOUT ? "a step did not end in time" : NULL);
	w->step = 0;
	w->b = NULL;
	if (w->s->reap_rc)
		return lose(w, "the device failed");
	worker_get_batch(w->s, w->w.model, b);
	return 0;
}

static int short_call(struct fh_worker *w, enum worker_op op)
{
	return w->step ? -EINVAL : call(w, op, step_until(w, fh_now_ns()));
}

static int worker_kv_copy(struct fh_accel *a, uint32_t dst, uint32_t src)
{
	struct fh_worker *w = to_worker(a);

	w->s->args[0] = dst;
	w->s->args[1] = src;
	return short_call(w, OP_KV_COPY);
}

static int worker_kv_swap(struct fh_accel *a, uint32_t block, void *host, bool out)
{
	struct fh_worker *w = to_worker(a);
	size_t bytes = w->s->kv_block_bytes;
	int rc;

	if (bytes > w->s->arena_bytes)
		return -EINVAL;
	w->s->args[0] = block;
	w->s->out = out;
	if (!out)
		memcpy(w->s->arena, host, bytes);
	rc = short_call(w, OP_KV_SWAP);
	if (!rc && out)
		memcpy(host, w->s->arena, bytes);
	return rc;
}

static void worker_set_prev(struct fh_accel *a, uint32_t seq, uint32_t token)
{
	struct fh_worker *w = to_worker(a);

	w->s->args[0] = seq;
	w->s->args[1] = token;
	short_call(w, OP_SET_PREV);
}

static void worker_info(struct fh_accel *a, struct fh_accel_info *out)
{
	struct fh_worker *w = to_worker(a);

	if (!w->step)
		short_call(w, OP_INFO);
	*out = w->s->info;
	out->name = w->name;
}

int fh_worker_pid(const struct fh_accel *a)
{
	return atomic_load(&((const struct fh_worker *)a)->s->pid);
}

static const struct fh_accel_ops worker_ops = {
	.name = "worker",
	.open = worker_open,
	.load = worker_load,
	.kv_block_bytes = worker_kv_block_bytes,
	.kv_alloc = worker_kv_alloc,
	.submit = worker_submit,
	.reap = worker_reap,
	.kv_copy = worker_kv_copy,
	.kv_swap = worker_kv_swap,
	.set_prev = worker_set_prev,
	.info = worker_info,
	.ready = worker_ready,
	.close = worker_close,
};
