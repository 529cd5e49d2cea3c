// SPDX-License-Identifier: Apache-2.0
/*
 * libFuzzer target: any bytes as a traceparent header.  What is taken for one has
 * identities that are not zero and is, printed, the beginning of what was read;
 * what is not leaves nothing behind.
 */
#include <assert.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "runtime/net/traceparent.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

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
	free(text);
	return 0;
}
