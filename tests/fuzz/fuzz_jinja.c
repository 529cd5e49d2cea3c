// SPDX-License-Identifier: Apache-2.0
/*
 * libFuzzer: a chat template from an untrusted file.  The input is the
 * template; its variables are a small conversation with tools.  Limits are low
 * so that each run is short.
 */
#include <stdlib.h>

#include "runtime/model/chat.h"
#include "runtime/model/jinja.h"

static const char vars_json[] =
	"{\"messages\":[{\"role\":\"system\",\"content\":\" Be é. \"},{\"role\":\"user\",\"content\":\"Hi\\n\"},"
	"{\"role\":\"assistant\",\"content\":null,\"tool_calls\":[{\"id\":\"abcdefghi\",\"function\":{\"name\":\"f\","
	"\"arguments\":{\"a\":[1,2.5,true,null]}}}]},{\"role\":\"tool\",\"content\":\"20\"}],\"bos_token\":\"<s>\","
	"\"eos_token\":\"</s>\",\"add_generation_prompt\":true,\"n\":3,\"tools\":[{\"function\":{\"name\":\"f\","
	"\"parameters\":{\"type\":\"object\",\"properties\":{\"a\":{\"type\":\"array\"}}}}}]}";

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static const struct fh_jlimits lim = {
		.steps = 20000, .mem_bytes = 8u << 20, .out_bytes = 1u << 20, .depth = 200, .range = 1000, .now = 1};
	static json_t *vars;
	struct fh_template *t;
	struct fh_err err;
	char *out;
	size_t n;

	if (!vars)
		vars = json_loads(vars_json, 0, NULL);
	if (fh_template_parse((const char *)data, size, &t, &err))
		return 0;
	if (!fh_jrender(t, &lim, vars, &out, &n, &err))
		free(out);
	fh_template_free(t);
	return 0;
}
