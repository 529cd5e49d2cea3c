// SPDX-License-Identifier: Apache-2.0
/*
 * libFuzzer target: any bytes as a traceparent header, and a line each as the
 * fields of a tracestate header.  What is taken for a parent has identities that
 * are not zero and is, printed, the beginning of what was read; what is not leaves
 * nothing behind.  A state is text of at most 512 bytes, whose members all stand
 * in what was read, in order, and which read again is itself.
 */
#include <assert.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "runtime/net/traceparent.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check_state(const char *text, size_t size, const char *state)
{
	size_t n = strlen(state);
	char again[FH_SPAN_STATE_MAX + 1];

	assert(n <= FH_SPAN_STATE_MAX);
	for (const char *p = state, *from = text; *p;) {
		size_t member = strcspn(p, ",");

		assert(member >= 3 && memchr(p, '=', member) && p[0] != '=' && p[member - 1] != '=');
		from = memmem(from, size - (size_t)(from - text), p, member);
		assert(from);
		from += member;
		p += member;
		assert(!*p || p[1]);
		p += *p == ',';
	}
	for (size_t i = 0; i < n; i++)
		assert(state[i] >= ' ' && state[i] <= '~');
	memset(again, 0xaa, sizeof(again));
	assert(fh_tracestate_parse(&(struct fh_span){state, n}, 1, again) && !strcmp(again, state));
}

static void read_state(const char *text, size_t size)
{
	struct fh_span fields[FH_HTTP_MAX_STATES];
	char state[FH_SPAN_STATE_MAX + 1];
	uint32_t nr = 0;

	for (size_t at = 0; at <= size && nr < FH_HTTP_MAX_STATES;) {
		const char *end = memchr(text + at, '\n', size - at);
		size_t n = end ? (size_t)(end - text) - at : size - at;

		fields[nr++] = (struct fh_span){text + at, n};
		at += n + 1;
	}
	memset(state, 0xaa, sizeof(state));
	if (fh_tracestate_parse(fields, nr, state))
		check_state(text, size, state);
	else
		assert(!*state);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static const struct fh_trace_context none;
	char *text = malloc(size ? size : 1), ids[64];
	struct fh_trace_context c;
	size_t n = 0;

	if (!text)
		return 0;
	/* Its end is the end of the memory. */
	memcpy(text, data, size);
	memset(&c, 0xaa, sizeof(c));
	if (fh_traceparent_parse(text, size, &c)) {
		assert(c.known && size >= 55 && memcmp(text, "ff", 2));
		for (int i = 0; i < 16; i++)
			n += (size_t)snprintf(ids + n, sizeof(ids) - n, "%02x", c.trace_id[i]);
		n += (size_t)snprintf(ids + n, sizeof(ids) - n, "-");
		for (int i = 0; i < 8; i++)
			n += (size_t)snprintf(ids + n, sizeof(ids) - n, "%02x", c.parent_id[i]);
		assert(n == 49 && !memcmp(text + 3, ids, n));
		assert(memcmp(c.trace_id, none.trace_id, 16) && memcmp(c.parent_id, none.parent_id, 8));
	} else {
		assert(!memcmp(&c, &none, sizeof(c)));
	}
	read_state(text, size);
	free(text);
	return 0;
}
