// SPDX-License-Identifier: Apache-2.0
/*
 * libFuzzer target: any bytes as an HTTP connection.
 *
 * Heads, bodies with a length and chunked bodies are read one after the other,
 * once from the whole input and once byte by byte; both must come to the same
 * requests and bodies, and agree whether to refuse.
 */
#include <assert.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "runtime/net/http_parse.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

struct reader {
	const char *in;
	size_t n;    /* bytes that have arrived */
	size_t from; /* where the present head or body begins */
	size_t scanned;
	bool in_body;
	struct fh_http_head head;
	struct fh_http_chunked chunks;
	uint64_t left;
	/* What it has understood. */
	uint64_t nr_requests, nr_body, hash;
	int status; /* 0, or what it was refused with */
};

static void mix(struct reader *r, const char *p, size_t n)
{
	for (size_t i = 0; i < n; i++)
		r->hash = (r->hash ^ (uint8_t)p[i]) * 0x100000001b3u;
	r->nr_body += n;
}

/* Returns false when more is needed, or after a refusal. */
static bool read_head(struct reader *r)
{
	const char *why;
	int rc = fh_http_head_parse(r->in + r->from, r->n - r->from, &r->scanned, &r->head, &why);

	if (rc <= 0) {
		r->status = rc;
		return false;
	}
	assert((size_t)rc <= r->n - r->from && (size_t)rc <= FH_HTTP_MAX_HEAD + 2);
	assert(r->head.target.n && r->head.target.n <= FH_HTTP_MAX_TARGET);
	assert(!(r->head.chunked && r->head.has_length));
	mix(r, r->head.target.p, r->head.target.n);
	mix(r, r->head.authorization.n ? r->head.authorization.p : "", r->head.authorization.n);
	r->from += (size_t)rc;
	r->scanned = 0;
	r->in_body = true;
	r->left = r->head.content_length;
	r->chunks = (struct fh_http_chunked){0};
	return true;
}

static bool read_body(struct reader *r)
{
	size_t have = r->n - r->from;
	struct fh_span d = {0};
	const char *why;

	if (r->head.chunked) {
		int rc = fh_http_chunked_next(&r->chunks, r->in + r->from, have, &d, &why);

		if (rc < 0) {
			r->status = rc;
			return false;
		}
		assert((size_t)rc <= have && d.n <= (size_t)rc);
		mix(r, d.n ? d.p : "", d.n);
		r->from += (size_t)rc;
		if (!r->chunks.done)
			return rc > 0;
	} else {
		size_t take = have < r->left ? have : (size_t)r->left;

		mix(r, r->in + r->from, take);
		r->from += take;
		r->left -= take;
		if (r->left)
			return false;
	}
	r->in_body = false;
	r->nr_requests++;
	return true;
}

static void feed(struct reader *r, size_t n)
{
	r->n = n;
	while (!r->status && (r->in_body ? read_body(r) : r->from < r->n && read_head(r)))
		;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	/* Copies of exactly the right size: AddressSanitizer sees a byte too far. */
	char *copy = malloc(size ? size : 1);
	struct reader whole = {.in = copy}, slow = {.in = copy};

	memcpy(copy, data, size);
	feed(&whole, size);
	for (size_t n = 1; n <= size; n++)
		feed(&slow, n);
	assert(whole.nr_requests == slow.nr_requests && whole.nr_body == slow.nr_body && whole.hash == slow.hash);
	/* A refusal may come sooner when bytes drip, but never instead of an acceptance. */
	assert(!whole.status == !slow.status);
	free(copy);
	return 0;
}
