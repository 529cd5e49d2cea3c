// SPDX-License-Identifier: Apache-2.0
/*
 * Give back the memory of tensors that were copied into another form, so that
 * a model is not resident twice.  Only pages of mapped files: a later read
 * fetches them again, and a handle over the caller's own memory is left alone.
 */
#include <sys/mman.h>
#include <unistd.h>

#include "runtime/model/gguf_priv.h"

void fh_gguf_forget(const struct fh_gguf *g, const struct fh_tensor *t)
{
	uintptr_t page = (uintptr_t)sysconf(_SC_PAGESIZE) - 1, at = (uintptr_t)t->data;

	for (uint32_t i = 0; i < g->nr_files; i++) {
		const struct gguf_file *f = &g->file[i];
		uintptr_t base = (uintptr_t)f->base;

		if (!f->mapped || at < base || at >= base + f->bytes)
			continue;
		/* A page shared with a neighbour is fetched again when that is read. */
		madvise((void *)(at & ~page), t->bytes + (at & page), MADV_DONTNEED);
	}
}
