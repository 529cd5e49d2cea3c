// SPDX-License-Identifier: Apache-2.0
/*
 * The vocabulary that a client is handed, so that it can turn token ids into
 * text by itself: struct fh_vocab (runtime/base/chan_sock.h) in a memfd, made
 * once from the text functions of the model.
 */
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "runtime/net/chan_priv.h"

/* The bytes of piece @id into @out, [FH_DETOK_MAX]. */
static size_t piece(const struct fh_service *svc, uint32_t id, char *out)
{
	struct fh_detok d = {.started = true};
	size_t n;

	if (svc->text.token_bytes)
		return svc->text.token_bytes(svc->text.ctx, id, out, FH_DETOK_MAX);
	n = svc->text.detokenize(svc->text.ctx, &d, id, out, FH_DETOK_MAX);
	return n;
}

static uint64_t total_piece_bytes(const struct fh_service *svc)
{
	char text[FH_DETOK_MAX];
	uint64_t sum = 0;

	for (uint32_t id = 0; id < svc->model.nr_vocab; id++)
		sum += piece(svc, id, text);
	return sum;
}

static void fill(const struct fh_service *svc, struct fh_vocab *v)
{
	uint32_t *off = (uint32_t *)((char *)v + v->off_off);
	char *bytes = (char *)v + v->bytes_off, text[FH_DETOK_MAX];
	uint32_t at = 0;

	memcpy((char *)v + v->model_bytes_off, svc->model.id, v->model_bytes);
	for (uint32_t id = 0; id < v->nr_tokens; id++) {
		size_t n = piece(svc, id, text);

		off[id] = at;
		memcpy(bytes + at, text, n);
		at += (uint32_t)n;
	}
	off[v->nr_tokens] = at;
}

int fh_chan_vocab(const struct fh_service *svc, int *fd, struct fh_err *err)
{
	struct fh_vocab v = {.magic = FH_VOCAB_MAGIC, .nr_tokens = svc->model.nr_vocab, .nr_ctx = svc->model.nr_ctx};
	void *map;
	int rc;

	*fd = -1;
	if (!v.nr_tokens || (!svc->text.token_bytes && !svc->text.detokenize))
		return 0;
	v.model_bytes = svc->model.id ? (uint32_t)strlen(svc->model.id) : 0;
	v.off_off = (sizeof(v) + 63) & ~63ull;
	v.bytes_off = v.off_off + ((uint64_t)v.nr_tokens + 1) * sizeof(uint32_t);
	v.model_bytes_off = v.bytes_off + total_piece_bytes(svc);
	v.total_bytes = v.model_bytes_off + v.model_bytes;
	if (v.total_bytes > UINT32_MAX)
		return fh_errf(err, -EOVERFLOW, "channels: a vocabulary of %llu bytes is too large to hand out",
			       (unsigned long long)v.total_bytes);
	rc = fh_memfd_make("freehold-vocabulary", v.total_bytes, fd, &map, err);
	if (rc)
		return rc;
	memcpy(map, &v, sizeof(v));
	fill(svc, map);
	munmap(map, v.total_bytes);
	return 0;
}
