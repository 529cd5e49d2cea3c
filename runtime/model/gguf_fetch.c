// SPDX-License-Identifier: Apache-2.0
/*
 * Bytes of tensors that are about to be copied into another form.  Of a file
 * they are read, not touched through its mapping: reading into a buffer that
 * stays in the cache costs a third of what it takes to enter every page into
 * our page table and to take it out again, nothing of the file is resident
 * beside the copy, and a file that became shorter is an error and no signal.
 */
#include <unistd.h>

#include "runtime/model/gguf_priv.h"

int fh_gguf_fetch(const struct fh_gguf *g, const void *at, size_t bytes, void *buf, const void **out)
{
	const struct gguf_file *f = gguf_file_of(g, at);
	uint64_t from = (uint64_t)((const uint8_t *)at - f->base);

	*out = at;
	if (!f->mapped)
		return 0;
	*out = buf;
	for (size_t have = 0; have < bytes;) {
		ssize_t n = pread(f->fd, (uint8_t *)buf + have, bytes - have, (off_t)(from + have));

		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			return n ? -errno : -ENODATA;
		have += (size_t)n;
	}
	return 0;
}
