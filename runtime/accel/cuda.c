// SPDX-License-Identifier: Apache-2.0
/*
 * An NVIDIA GPU as an accelerator: its life, its KV blocks, and the way of a
 * step.  What a step launches is in cuda_step.c, what it reads in cuda_plan.c.
 *
 * submit() returns as soon as the work is in the stream; reap() waits for the
 * event behind it and takes the tokens out of pinned memory.  One step is under
 * way at a time.  Any thread may call, one at a time: the context is made
 * current at each call, which costs the driver a few instructions.
 *
 * After a sticky error nothing of CUDA works any more in this process, so all
 * that is left is to say -EIO; runtime/accel/worker.c keeps the device in a process
 * of its own for that reason.
 */
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "runtime/accel/check.h"
#include "runtime/accel/cuda.h"
#include "runtime/base/clock.h"
#include "runtime/base/futex.h"
#include "runtime/base/log.h"

#define SPIN_NS 50000 /* that reap() asks the event itself, before it sleeps on it */

static int check_config(const struct fh_accel_config *cfg, struct fh_err *err)
{
	int rc = fh_accel_check_config(cfg, err);

	if (!rc && cfg->kv_type == FH_KV_F32)
		return fh_errf(err, -ENOTSUP, "--kv-type f32 is for the CPU; a GPU keeps f16, bf16 or q8_0");
	return rc;
}

/* ---- opening ---- */

static int find_device(struct fh_cuda *c, struct fh_err *err)
{
	int nr = fh_cu_nr_devices(&c->cu, err), rc;

	if (nr < 0)
		return nr;
	if (!nr)
		return fh_cu_errf(&c->cu, CU_NO_DEVICE, err, "looking for a GPU");
	if (c->cfg.gpu >= (uint32_t)nr)
		return fh_errf(err, -ENODEV,
			       "--device cuda:%u: there %s %d GPU%s, numbered from 0 (nvidia-smi -L lists them)",
			       c->cfg.gpu, nr == 1 ? "is" : "are", nr, nr == 1 ? "" : "s");
	rc = fh_cu_device(&c->cu, (int)c->cfg.gpu, &c->dev, err);
	if (!rc)
		rc = fh_cu_device_usable(&c->dev, err);
	snprintf(c->name, sizeof(c->name), "cuda/%s (%s)", c->dev.name, c->dev.where);
	return rc;
}

static int load_image(struct fh_cuda *c, const void *image, struct fh_err *err)
{
	char log[512] = "";
	unsigned int options[] = {CU_JIT_ERROR_LOG_BUFFER, CU_JIT_ERROR_LOG_BUFFER_BYTES};
	void *values[] = {log, (void *)sizeof(log)};
	cu_result r = c->cu.ModuleLoadDataEx(&c->modules[c->nr_modules], image, 2, options, values);

	if (r == CU_OK) {
		c->nr_modules++;
		return 0;
	}
	log[sizeof(log) - 1] = 0;
	log[strcspn(log, "\n")] = 0;
	return fh_cu_errf(&c->cu, r, err, "%s (compute capability %d.%d): loading the kernels%s%.80s", c->name,
			  c->dev.cc / 10, c->dev.cc % 10, log[0] ? ": " : "", log);
}

static int load_images(struct fh_cuda *c, struct fh_err *err)
{
	void *file = NULL;
	int rc = cuda_image_file(&file, err);

	if (rc)
		return rc;
	if (!file && !fh_cuda_nr_images())
		return fh_errf(
			err, -ENOTSUP,
			"this freehold was built without CUDA kernels: `make cuda && make` where nvcc is builds them "
			"in");
	c->modules = calloc(fh_cuda_nr_images() + 1, sizeof(*c->modules));
	if (!c->modules)
		rc = fh_errf(err, -ENOMEM, "out of memory");
	if (!rc && file)
		rc = load_image(c, file, err);
	for (uint32_t i = 0; i < fh_cuda_nr_images() && !file && !rc; i++)
		rc = load_image(c, cuda_image(i).data, err);
	free(file);
	return rc;
}

/* Every kernel, in whichever module it is, and none that spills to local memory unseen. */
static int find_kernels(struct fh_cuda *c, struct fh_err *err)
{
	static const char *const names[] = {
#define KERNEL_NAME(name, args) #name,
		FHK_CU_KERNELS(KERNEL_NAME)
#undef KERNEL_NAME
	};

	for (uint32_t k = 0; k < CUDA_NR_KERNELS; k++) {
		cu_result r = CU_NOT_FOUND;
		int local = 0, rc;

		for (uint32_t i = 0; i < c->nr_modules && r == CU_NOT_FOUND; i++)
			r = c->cu.ModuleGetFunction(&c->fn[k], c->modules[i], names[k]);
		if (r == CU_OK)
			r = c->cu.FuncGetAttribute(&local, CU_FUNC_LOCAL_BYTES, c->fn[k]);
		rc = fh_cu_errf(&c->cu, r, err, "%s: looking for the kernel %s", c->name, names[k]);
		if (rc)
			return rc;
		if (local)
			fh_debug("%s: %s keeps %d bytes a thread in local memory", c->name, names[k], local);
	}
	return 0;
}

static int open_context(struct fh_cuda *c, struct fh_err *err)
{
	cu_result r;

	/* Refused where somebody else has made the context already: then it is as it is. */
	r = c->cu.DevicePrimaryCtxSetFlags(c->dev.dev, CU_SCHED_BLOCKING_SYNC);
	if (r != CU_OK && r != CU_PRIMARY_CONTEXT_ACTIVE)
		return fh_cu_errf(&c->cu, r, err, "%s: setting up its context", c->name);
	r = c->cu.DevicePrimaryCtxRetain(&c->ctx, c->dev.dev);
	if (r != CU_OK) {
		c->ctx = NULL;
		return fh_cu_errf(&c->cu, r, err, "%s: making its context", c->name);
	}
	r = c->cu.CtxSetCurrent(c->ctx);
	if (r == CU_OK)
		r = c->cu.StreamCreate(&c->stream, CU_STREAM_NON_BLOCKING);
	if (r == CU_OK)
		r = c->cu.EventCreate(&c->done, CU_EVENT_DISABLE_TIMING | CU_EVENT_BLOCKING_SYNC);
	return fh_cu_errf(&c->cu, r, err, "%s: making a stream", c->name);
}

static void cuda_close(struct fh_accel *a);

static int cuda_open(const struct fh_accel_config *cfg, struct fh_accel **out, struct fh_err *err)
{
	static const uint32_t kv_types[] = {
		[FH_KV_F16] = FHK_F16, [FH_KV_Q8_0] = FHK_Q8_0, [FH_KV_F32] = FHK_F32, [FH_KV_BF16] = FHK_BF16};
	const char *graphs = getenv("FREEHOLD_CUDA_GRAPHS");
	struct fh_cuda *c;
	int rc = check_config(cfg, err);

	if (rc)
		return rc;
	c = calloc(1, sizeof(*c));
	if (!c)
		return fh_errf(err, -ENOMEM, "out of memory");
	c->base.ops = &fh_accel_cuda;
	c->cfg = *cfg;
	c->kv_type = kv_types[cfg->kv_type];
	c->no_graphs = graphs && !strcmp(graphs, "0");
	/* Before cuInit: a kernel that is loaded at its first launch waits for all that runs. */
	setenv("CUDA_MODULE_LOADING", "EAGER", 0);
	rc = fh_cu_load(&c->cu, err);
	if (!rc)
		rc = find_device(c, err);
	if (!rc)
		rc = open_context(c, err);
	if (!rc)
		rc = load_images(c, err);
	if (!rc)
		rc = find_kernels(c, err);
	if (!rc) {
		c->bounce_bytes = CUDA_BOUNCE_BYTES;
		rc = cuda_pinned(c, c->bounce_bytes, (void **)&c->bounce, NULL, "copies", err);
	}
	if (rc) {
		cuda_close(&c->base);
		return rc;
	}
	*out = &c->base;
	return 0;
}

/* ---- loading ---- */

/* The kernels' own limits, which the description does not know. */
static int check_limits(const struct fh_model *m, struct fh_err *err)
{
	const char *path = fh_gguf_path(m->gguf);

	if (m->null)
		return fh_errf(err, -EINVAL, "%s is opened as the null model, which no GPU is needed for", path);
	if (m->head_dim % 8 || m->head_dim > FHK_CU_MAX_HEAD)
		return fh_errf(err, -ENOTSUP, "%s: heads of %u cannot be run; multiples of 8 up to %u can", path,
			       m->head_dim, FHK_CU_MAX_HEAD);
	if (m->nr_experts > FHK_CU_MAX_EXPERTS || m->nr_experts_used > FHK_CU_MAX_USED)
		return fh_errf(err, -ENOTSUP, "%s: %u of %u experts a token cannot be run on the GPU; %u of %u can",
			       path, m->nr_experts_used, m->nr_experts, FHK_CU_MAX_USED, FHK_CU_MAX_EXPERTS);
	if (m->nr_vocab > FHK_CU_MAX_SPANS * FHK_CU_SPAN)
		return fh_errf(err, -ENOTSUP, "%s: a vocabulary of %u cannot be run on the GPU; %u can", path,
			       m->nr_vocab, FHK_CU_MAX_SPANS * FHK_CU_SPAN);
	return 0;
}

static int bind(struct fh_cuda *c)
{
	return cuda_failed(c, c->cu.CtxSetCurrent(c->ctx), "entering its context") ? -EIO : 0;
}

static void unload(struct fh_cuda *c)
{
	cuda_graphs_free(c);
	cuda_work_free(c);
	cuda_arena_free(c, &c->kv);
	cuda_arena_free(c, &c->weights);
	free(c->layers);
	c->layers = NULL;
	c->nr_blocks = 0;
	c->m = NULL;
}

static int cuda_load(struct fh_accel *a, const struct fh_model *m, struct fh_err *err)
{
	struct fh_cuda *c = to_cuda(a);
	int rc;

	if (c->m)
		return fh_errf(err, -EBUSY, "a model is loaded already");
	rc = check_limits(m, err);
	if (rc)
		return rc;
	if (bind(c))
		return fh_errf(err, -EIO, "%s is lost", c->name);
	c->layers = calloc(m->nr_layers, sizeof(*c->layers));
	if (!c->layers)
		return fh_errf(err, -ENOMEM, "out of memory");
	c->m = m;
	c->kv_head_bytes = fhk_cu_kv_head_bytes(c->kv_type, m->head_dim);
	c->kv_layer_bytes = c->kv_head_bytes * m->nr_kv_heads * 2;
	c->kv_block_bytes = c->kv_layer_bytes * m->nr_layers;
	rc = cuda_load_weights(c, m, err);
	if (!rc)
		rc = cuda_work_alloc(c, err);
	if (!rc)
		rc = cuda_allow_shared(c, err);
	if (rc)
		unload(c);
	return rc;
}

/* ---- keys and values ---- */

static uint64_t cuda_kv_block_bytes(struct fh_accel *a)
{
	return to_cuda(a)->m ? to_cuda(a)->kv_block_bytes : 0;
}

static int cuda_kv_alloc(struct fh_accel *a, uint32_t nr_blocks, struct fh_err *err)
{
	struct fh_cuda *c = to_cuda(a);
	char what[160];
	int rc;

	if (!c->m || !nr_blocks || nr_blocks == FH_NO_BLOCK || c->kv_block_bytes > SIZE_MAX / nr_blocks)
		return fh_errf(err, -EINVAL, "%u KV blocks cannot be had", nr_blocks);
	if (bind(c))
		return fh_errf(err, -EIO, "%s is lost", c->name);
	cuda_arena_free(c, &c->kv);
	cuda_graphs_free(c); /* they know where it was */
	c->nr_blocks = 0;
	snprintf(what, sizeof(what), "keys and values of %" PRIu64 " tokens", (uint64_t)nr_blocks * FH_KV_BLOCK);
	cuda_take(&c->kv, c->kv_block_bytes * nr_blocks);
	rc = cuda_arena_alloc(c, &c->kv, what, err);
	if (!rc)
		c->nr_blocks = nr_blocks;
	return rc;
}

static int cuda_kv_copy(struct fh_accel *a, uint32_t dst, uint32_t src)
{
	struct fh_cuda *c = to_cuda(a);

	if (dst >= c->nr_blocks || src >= c->nr_blocks)
		return -EINVAL;
	if (dst == src)
		return 0;
	if (bind(c) ||
	    cuda_failed(c,
			c->cu.MemcpyDtoDAsync(c->kv.base + dst * c->kv_block_bytes,
					      c->kv.base + src * c->kv_block_bytes, c->kv_block_bytes, c->stream),
			"copying a KV block"))
		return -EIO;
	return 0;
}

static int cuda_kv_swap(struct fh_accel *a, uint32_t block, void *host, bool out)
{
	struct fh_cuda *c = to_cuda(a);
	cu_ptr p = c->kv.base + block * c->kv_block_bytes;

	if (block >= c->nr_blocks)
		return -EINVAL;
	if (bind(c))
		return -EIO;
	return out ? cuda_fetch(c, host, p, c->kv_block_bytes) : cuda_send(c, p, host, c->kv_block_bytes);
}

/* ---- steps ---- */

/* Embeddings go on from what earlier chunks of the same text gave. */
static int send_pooled(struct fh_cuda *c, const struct fh_batch *b)
{
	int rc = 0;

	for (uint32_t i = 0; i < c->nr_pools && !rc; i++)
		rc = cuda_send(c, c->pooled + (uint64_t)i * c->ld_x * sizeof(float), b->seqs[c->pools[i]].pooled,
			       sizeof(float) * c->m->dim);
	return rc;
}

static int cuda_submit(struct fh_accel *a, const struct fh_batch *b)
{
	struct fh_cuda *c = to_cuda(a);
	struct cuda_shape shape;
	int rc;

	if (c->lost)
		return -EIO;
	if (c->in_flight || !c->nr_blocks)
		return -EINVAL;
	rc = cuda_plan_batch(c, b, &shape);
	if (rc)
		return rc;
	if (bind(c) || send_pooled(c, b) ||
	    cuda_failed(c, c->cu.MemcpyHtoDAsync(c->plan.dev, c->plan.host, c->plan.used, c->stream),
			"copying the plan") ||
	    cuda_step_graph(c, &shape) || cuda_failed(c, c->cu.EventRecord(c->done, c->stream), "an event")) {
		/* What is in the stream already has to end before its memory is written again. */
		if (!c->lost)
			cuda_failed(c, c->cu.StreamSynchronize(c->stream), "ending a step that could not be launched");
		return -EIO;
	}
	c->b = b;
	c->in_flight = true;
	return 0;
}

/* A short step ends while we look; a long one is slept through. */
static cu_result wait_done(struct fh_cuda *c)
{
	uint64_t until = fh_now_ns() + SPIN_NS;
	cu_result r;

	do {
		r = c->cu.EventQuery(c->done);
		if (r != CU_NOT_READY)
			return r;
		fh_cpu_relax();
	} while (fh_now_ns() < until);
	return c->cu.EventSynchronize(c->done);
}

static int cuda_reap(struct fh_accel *a, bool wait)
{
	struct fh_cuda *c = to_cuda(a);
	cu_result r;
	int rc;

	if (!c->in_flight)
		return c->lost ? -EIO : 0;
	if (bind(c)) {
		c->in_flight = false;
		return -EIO;
	}
	r = wait ? wait_done(c) : c->cu.EventQuery(c->done);
	if (r == CU_NOT_READY)
		return -EAGAIN;
	rc = cuda_failed(c, r, "a step") ? -EIO : cuda_finish(c);
	c->in_flight = false;
	c->b = NULL;
	return rc;
}

static void cuda_set_prev(struct fh_accel *a, uint32_t seq, uint32_t token)
{
	struct fh_cuda *c = to_cuda(a);

	if (!c->m || seq >= c->cfg.max_seqs || token >= c->m->nr_vocab)
		return;
	c->prev_token[seq] = token;
	c->prev_on_device[seq] = false;
}

static void cuda_info(struct fh_accel *a, struct fh_accel_info *out)
{
	struct fh_cuda *c = to_cuda(a);
	size_t free_bytes = 0, total = 0;

	*out = (struct fh_accel_info){
		.name = c->name,
		.nr_threads = 1,
		.weight_bytes = c->weights.bytes,
		.kv_block_bytes = cuda_kv_block_bytes(a),
		.nr_blocks = c->nr_blocks,
		.drafts = true,
	};
	if (!bind(c) && c->cu.MemGetInfo(&free_bytes, &total) == CU_OK)
		out->free_bytes = free_bytes;
	if (c->m) {
		out->nr_vocab = c->m->nr_vocab;
		out->nr_ctx = c->m->nr_ctx;
		out->dim = c->m->dim;
	}
}

static void cuda_close(struct fh_accel *a)
{
	struct fh_cuda *c;

	if (!a)
		return;
	c = to_cuda(a);
	if (c->ctx)
		bind(c);
	if (c->stream)
		cuda_failed(c, c->cu.StreamSynchronize(c->stream), "ending");
	unload(c);
	if (c->bounce)
		cuda_failed(c, c->cu.MemFreeHost(c->bounce), "giving pinned memory back");
	for (uint32_t i = 0; i < c->nr_modules; i++)
		cuda_failed(c, c->cu.ModuleUnload(c->modules[i]), "unloading the kernels");
	if (c->done)
		cuda_failed(c, c->cu.EventDestroy(c->done), "an event");
	if (c->stream)
		cuda_failed(c, c->cu.StreamDestroy(c->stream), "a stream");
	if (c->ctx)
		cuda_failed(c, c->cu.DevicePrimaryCtxRelease(c->dev.dev), "giving its context back");
	free(c->modules);
	free(c);
}

const struct fh_accel_ops fh_accel_cuda = {
	.name = "cuda",
	.open = cuda_open,
	.load = cuda_load,
	.kv_block_bytes = cuda_kv_block_bytes,
	.kv_alloc = cuda_kv_alloc,
	.submit = cuda_submit,
	.reap = cuda_reap,
	.kv_copy = cuda_kv_copy,
	.kv_swap = cuda_kv_swap,
	.set_prev = cuda_set_prev,
	.info = cuda_info,
	.close = cuda_close,
};
