// SPDX-License-Identifier: Apache-2.0
/*
 * libFuzzer target: any JSON as what a server says of itself, printed as
 * `freehold top` prints it.  Whatever it is, only text comes out: nothing that a
 * terminal would obey, in UTF-8, and no more lines than there are rows.
 */
#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "runtime/net/buf.h"
#include "tools/top.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	const struct top_style style = {.columns = 80, .rows = size % 40, .eol = "\n"};
	json_t *j = json_loadb((const char *)data, size, JSON_ALLOW_NUL, NULL);
	static struct top_history h;
	char *text = NULL;
	uint32_t lines = 0;
	size_t n = 0;
	FILE *out;

	if (!j)
		return 0;
	out = open_memstream(&text, &n);
	assert(out);
	top_remember(&h, j);
	top_print(j, &h, &style, out);
	assert(!fclose(out));
	for (size_t i = 0; i < n; i++) {
		lines += text[i] == '\n';
		assert(text[i] == '\n' || ((unsigned char)text[i] >= 0x20 && text[i] != 0x7f));
	}
	assert(fh_utf8_valid(text, n));
	assert(!style.rows || lines <= style.rows);
	free(text);
	json_decref(j);
	return 0;
}
