// SPDX-License-Identifier: Apache-2.0
/*
 * libFuzzer target: any bytes as a trace.  What is read must be in order, begin
 * at 0 and hold no request that is empty; what is refused must say why.
 */
#include <assert.h>
#include <stdlib.h>
#include <string.h>

/* Tools are no part of the library that fuzzers are linked with. */
#include "tools/trace.c"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct fh_err err = {0};
	struct trace t;
	char *copy = malloc(size ? size : 1);

	if (!copy)
		return 0;
	if (size)
		memcpy(copy, data, size);
	if (trace_parse(copy, size, "fuzz", TRACE_AUTO, &t, &err)) {
		assert(!strncmp(err.msg, "fuzz:", 5));
	} else {
		assert(t.nr && !t.req[0].at_ns);
		for (size_t i = 0; i < t.nr; i++) {
			const struct trace_req *q = &t.req[i];

			assert(!i || q->at_ns >= q[-1].at_ns);
			assert(q->nr_prompt && q->nr_gen);
			assert(q->nr_prompt <= TRACE_MAX_TOKENS && q->nr_gen <= TRACE_MAX_TOKENS);
			assert(q->hashes_from + q->nr_hashes <= t.nr_hashes);
		}
	}
	trace_free(&t);
	free(copy);
	return 0;
}
