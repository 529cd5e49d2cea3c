// SPDX-License-Identifier: Apache-2.0
/*
 * libFuzzer target: any bytes as a server's answer to the load generator.
 *
 * Taken whole, byte by byte, and in pieces of a size that the first byte names;
 * all must come to the same: the same status, events, counts, and whether the
 * answer was complete or malformed.
 */
#include <assert.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "tools/load/answer.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void on_text(struct load_answer *a, uint64_t now_ns)
{
	assert(a->status == 200 && now_ns == 1);
}

static bool feed(struct load_answer *a, const uint8_t *data, size_t size, size_t step)
{
	bool ok = true;

	*a = (struct load_answer){.on_text = on_text};
	load_answer_reset(a);
	for (size_t at = 0; at < size && ok; at += step) {
		size_t n = size - at < step ? size - at : step;
		/* A copy of exactly its size: AddressSanitizer sees a byte too far. */
		char *copy = malloc(n);

		memcpy(copy, data + at, n);
		ok = load_answer_take(a, copy, n, 1);
		free(copy);
	}
	return ok && load_answer_eof(a, 1);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	size_t steps[3] = {size ? size : 1, 1, size ? 2 + data[0] % 61u : 1};
	struct load_answer a[3];
	bool ok[3];

	if (size)
		data++, size--;
	for (int i = 0; i < 3; i++)
		ok[i] = feed(&a[i], data, size, steps[i]);
	for (int i = 1; i < 3; i++) {
		assert(ok[i] == ok[0] && a[i].status == a[0].status && a[i].nr_events == a[0].nr_events);
		assert(a[i].completion_tokens == a[0].completion_tokens && a[i].prompt_tokens == a[0].prompt_tokens);
		assert(a[i].failed == a[0].failed && a[i].finished == a[0].finished && a[i].state == a[0].state);
		assert(!strcmp(a[i].error, a[0].error));
	}
	for (int i = 0; i < 3; i++)
		load_answer_free(&a[i]);
	return 0;
}
