// SPDX-License-Identifier: Apache-2.0
/*
 * libFuzzer target: any bytes as a GGUF file.  Whatever opens is then read in
 * full through the public interface, so that a pointer that leads outside the
 * bytes is found here and not by a model loader.
 */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "runtime/model/gguf.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* Read all elements of an array; returns something that depends on each. */
static uint64_t read_array(struct fh_gguf_arr *a)
{
	uint64_t sum = 0;

	for (uint64_t i = 0; i < a->n; i++) {
		if (a->type == FH_GGUF_STR) {
			struct fh_str s = fh_gguf_arr_next(a);

			for (size_t k = 0; k < s.n; k++)
				sum += (uint8_t)s.p[k];
		} else {
			sum += (uint64_t)fh_gguf_arr_i64(a, i) + (fh_gguf_arr_f64(a, i) > 0);
		}
	}
	return sum;
}

static uint64_t read_keys(const struct fh_gguf *g)
{
	uint64_t sum = 0;

	for (uint64_t i = 0; i < fh_gguf_nr_keys(g); i++) {
		struct fh_str name = fh_gguf_key_at(g, i, NULL), s;
		char *key = strndup(name.p, name.n), text[200];
		struct fh_gguf_arr a;
		uint64_t u;
		float f;
		bool b;

		if (!key)
			abort();
		/* Names are unique and free of zero bytes, so exactly one kind of getter fits. */
		if (fh_gguf_value_text(g, i, text, sizeof(text)) >= sizeof(text))
			abort();
		if (fh_gguf_u64(g, key, &u) == -ENOENT || fh_gguf_f32(g, key, &f) == -ENOENT)
			abort();
		if (!fh_gguf_str(g, key, &s) && s.n)
			sum += (uint8_t)s.p[s.n - 1];
		if (!fh_gguf_bool(g, key, &b))
			sum += b;
		if (!fh_gguf_arr(g, key, &a))
			sum += read_array(&a);
		free(key);
	}
	return sum;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct fh_gguf *g;
	struct fh_err err;
	volatile uint64_t sum;

	if (fh_gguf_open_mem(data, size, &g, &err)) {
		if (!err.msg[0] || strchr(err.msg, '\n') || err.code >= 0)
			abort();
		return 0;
	}
	sum = read_keys(g);
	for (uint64_t i = 0; i < fh_gguf_nr_tensors(g); i++) {
		const struct fh_tensor *t = fh_gguf_tensor_at(g, i);
		const uint8_t *p = t->data;

		if (p < data || t->bytes > (uint64_t)(data + size - p))
			abort();
		sum += p[0] + p[t->bytes - 1];
	}
	(void)sum;
	fh_gguf_close(g);
	return 0;
}
