// SPDX-License-Identifier: Apache-2.0
/*
 * libFuzzer target: any bytes as an HTTP server's answer, as libfreehold reads
 * it.
 *
 * The first byte chooses between a stream of tokens and a list of models.  The
 * answer is fed whole and byte by byte; both must come to the same tokens and
 * texts, and agree whether it can be read.  Texts lie inside the answer.
 */
#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "runtime/lib/http_answer.h"
#include "uapi/freehold.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

struct seen {
	uint64_t nr, hash, text_bytes;
	bool last;
	int rc;
};

static void mix(struct seen *s, const void *p, size_t n)
{
	for (size_t i = 0; i < n; i++)
		s->hash = (s->hash ^ ((const uint8_t *)p)[i]) * 0x100000001b3u;
}

static void take(struct fhl_answer *a, struct seen *s)
{
	const struct fhl_piece *p;

	while ((p = fhl_answer_next(a))) {
		assert(!s->last);
		assert(p->text_bytes <= a->texts_bytes && p->text <= a->texts_bytes - p->text_bytes);
		s->nr++;
		s->last = p->flags & FH_SLOT_LAST;
		assert(!p->error || p->finish == FH_FINISH_ERROR);
		mix(s, &p->token, sizeof(p->token));
		mix(s, &p->flags, sizeof(p->flags));
		mix(s, &p->finish, sizeof(p->finish));
		if (p->text_bytes)
			mix(s, a->texts + p->text, p->text_bytes);
		s->text_bytes += p->text_bytes;
	}
}

static void feed(struct fhl_answer *a, struct seen *s, const char *p, size_t n)
{
	if (!s->rc)
		s->rc = fhl_answer_feed(a, p, n);
	take(a, s);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	bool stream = size && data[0] & 1;
	struct seen whole = {0}, slow = {0};
	struct fhl_answer a = {0};
	char *copy, id[32];
	uint32_t nr_ctx;

	if (!size)
		return 0;
	data++;
	size--;
	/* Of exactly the right size: AddressSanitizer sees a byte too far. */
	copy = malloc(size ? size : 1);
	memcpy(copy, data, size);
	fhl_answer_begin(&a, stream);
	if (size)
		feed(&a, &whole, copy, size);
	feed(&a, &whole, "", 0);
	if (!stream && a.complete)
		fhl_answer_model(&a, NULL, id, sizeof(id), &nr_ctx);
	fhl_answer_begin(&a, stream);
	for (size_t i = 0; i < size; i++)
		feed(&a, &slow, copy + i, 1);
	feed(&a, &slow, "", 0);
	assert(whole.nr == slow.nr && whole.hash == slow.hash && whole.text_bytes == slow.text_bytes);
	assert(whole.rc == slow.rc);
	fhl_answer_free(&a);
	free(copy);
	return 0;
}
