// SPDX-License-Identifier: Apache-2.0
/* Memory of the CUDA accelerator: on the device, and pinned on the host.  The arenas own theirs. */
#include <inttypes.h>
#include <string.h>

#include "runtime/accel/cuda.h"
#include "runtime/base/log.h"

#define MIB(n) (((uint64_t)(n) + (1u << 20) - 1) >> 20)

cu_ptr cuda_take(struct cuda_arena *a, uint64_t bytes)
{
	cu_ptr p = a->base ? a->base + a->used : 0;

	a->used += (bytes + CUDA_ALIGN - 1) / CUDA_ALIGN * CUDA_ALIGN;
	return p;
}

int cuda_arena_alloc(struct fh_cuda *c, struct cuda_arena *a, const char *what, struct fh_err *err)
{
	size_t free_bytes = 0, total = 0;
	uint64_t bytes = a->used ? a->used : CUDA_ALIGN;
	int rc = fh_cu_errf(&c->cu, c->cu.MemGetInfo(&free_bytes, &total), err, "%s: asking for free memory", c->name);
	cu_result r;

	if (rc)
		return rc;
	if (bytes > free_bytes)
		return fh_errf(err, -ENOMEM,
			       "%s: %s take %" PRIu64 " MiB, and %zu of %zu MiB are free: %" PRIu64
			       " MiB are missing; free some (nvidia-smi says who holds them), or take a smaller model, "
			       "--ctx or --max-seqs",
			       c->name, what, MIB(bytes), free_bytes >> 20, total >> 20, MIB(bytes - free_bytes));
	r = c->cu.MemAlloc(&a->base, bytes);
	if (r != CU_OK) {
		a->base = 0;
		return fh_cu_errf(&c->cu, r, err, "%s: %" PRIu64 " MiB for %s", c->name, MIB(bytes), what);
	}
	a->bytes = bytes;
	a->used = 0;
	return 0;
}

void cuda_arena_free(struct fh_cuda *c, struct cuda_arena *a)
{
	if (a->base)
		cuda_failed(c, c->cu.MemFree(a->base), "giving memory back");
	memset(a, 0, sizeof(*a));
}

int cuda_pinned(struct fh_cuda *c, size_t bytes, void **host, cu_ptr *dev, const char *what, struct fh_err *err)
{
	cu_result r = c->cu.MemHostAlloc(host, bytes, CU_HOSTALLOC_PORTABLE | CU_HOSTALLOC_DEVICEMAP);

	if (r != CU_OK) {
		*host = NULL;
		return fh_cu_errf(&c->cu, r, err, "%s: %" PRIu64 " MiB of pinned host memory for %s", c->name,
				  MIB(bytes), what);
	}
	if (dev)
		return fh_cu_errf(&c->cu, c->cu.MemHostGetDevicePointer(dev, *host, 0), err,
				  "%s: showing pinned memory to the device", c->name);
	return 0;
}

bool cuda_failed(struct fh_cuda *c, cu_result r, const char *what)
{
	struct fh_err err;

	if (r == CU_OK)
		return false;
	/* After the first sticky error every call says the same. */
	if (!c->lost) {
		fh_cu_errf(&c->cu, r, &err, "%s: %s", c->name, what);
		fh_error("%s", err.msg);
	}
	c->lost |= fh_cu_is_sticky(r);
	return true;
}

int cuda_fetch(struct fh_cuda *c, void *dst, cu_ptr src, size_t bytes)
{
	for (size_t at = 0; at < bytes; at += c->bounce_bytes) {
		size_t n = bytes - at < c->bounce_bytes ? bytes - at : c->bounce_bytes;

		if (cuda_failed(c, c->cu.MemcpyDtoHAsync(c->bounce, src + at, n, c->stream),
				"copying from the device") ||
		    cuda_failed(c, c->cu.StreamSynchronize(c->stream), "copying from the device"))
			return -EIO;
		memcpy((char *)dst + at, c->bounce, n);
	}
	return 0;
}

int cuda_send(struct fh_cuda *c, cu_ptr dst, const void *src, size_t bytes)
{
	for (size_t at = 0; at < bytes; at += c->bounce_bytes) {
		size_t n = bytes - at < c->bounce_bytes ? bytes - at : c->bounce_bytes;

		memcpy(c->bounce, (const char *)src + at, n);
		if (cuda_failed(c, c->cu.MemcpyHtoDAsync(dst + at, c->bounce, n, c->stream), "copying to the device") ||
		    cuda_failed(c, c->cu.StreamSynchronize(c->stream), "copying to the device"))
			return -EIO;
	}
	return 0;
}
