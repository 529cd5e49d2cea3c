// SPDX-License-Identifier: Apache-2.0
/*
 * freehold inspect: what is in a GGUF file, for people and, with --json, for
 * programs.  Any well-formed file is described, whether we can run it or not;
 * if not, it says which tensor, type or key is the reason.
 */
#include <getopt.h>
#include <inttypes.h>
#include <jansson.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/kernels.h"
#include "runtime/model/gguf.h"
#include "runtime/model/gguf_types.h"
#include "runtime/model/model.h"
#include "tools/cmd.h"

enum {
	MAX_TYPES = 64,	 /* type numbers in fh_gguf_type() are below this */
	LONG_ARRAY = 64, /* longer ones are cut in JSON, unless --full */
	CUT_TO = 8,
};

struct type_sum {
	uint64_t nr_tensors, nr_weights, bytes;
};

struct inspect {
	const char *path;
	bool json, tensors, full;
	struct fh_gguf *g;
	char arch[64];
	struct type_sum all, by_type[MAX_TYPES];
	const char *reason; /* why we cannot run it; NULL: we can */
	struct fh_err why;
};

static void usage(FILE *f)
{
	fputs("usage: freehold inspect MODEL.gguf [--tensors] [--json [--full]]\n\n"
	      "Says what is in a GGUF file: shape, weights by type, tokenizer, keys, and whether it can run here.\n\n"
	      "  --tensors   list every tensor too\n"
	      "  --json      everything, as one JSON object; arrays of more than 64 elements are cut short\n"
	      "  --full      whole arrays in JSON\n\n"
	      "examples:\n"
	      "  freehold inspect model.gguf\n"
	      "  freehold inspect model-00001-of-00004.gguf --tensors     any part of a split model will do\n"
	      "  freehold inspect model.gguf --json | jq .bits_per_weight\n"
	      "  freehold inspect model.gguf --json --full | jq -r '.metadata.\"tokenizer.chat_template\"'\n",
	      f);
}

static uint64_t weights_of(const struct fh_tensor *t)
{
	return t->ne[0] * t->ne[1] * t->ne[2] * t->ne[3];
}

static void sum_tensors(struct inspect *in)
{
	for (uint64_t i = 0; i < fh_gguf_nr_tensors(in->g); i++) {
		const struct fh_tensor *t = fh_gguf_tensor_at(in->g, i);
		struct type_sum *sums[2] = {&in->all, &in->by_type[t->type % MAX_TYPES]};

		for (int k = 0; k < 2; k++) {
			sums[k]->nr_tensors++;
			sums[k]->nr_weights += weights_of(t);
			sums[k]->bytes += t->bytes;
		}
	}
}

/* Whether the model can run is for the model's and the kernels' code to say. */
static void judge(struct inspect *in)
{
	struct fh_model *m;

	if (fh_gguf_nr_tensors(in->g) == 0) {
		in->reason = "a vocabulary only, without weights (`freehold tokenize` and null:FILE work)";
		return;
	}
	if (fh_model_open(in->path, &m, &in->why)) {
		in->reason = in->why.msg;
		return;
	}
	fh_model_close(m);
	for (uint64_t i = 0; i < fh_gguf_nr_tensors(in->g); i++) {
		const struct fh_tensor *t = fh_gguf_tensor_at(in->g, i);

		if (fhk_type_info(t->type))
			continue;
		fh_errf(&in->why, -ENOTSUP,
			"tensor '%.*s' has type %s, which has no kernel here; use Q4_K_M, Q8_0 or F16",
			(int)(t->name.n < 100 ? t->name.n : 100), t->name.p, fh_gguf_type(t->type)->name);
		in->reason = in->why.msg;
		return;
	}
}

/* Index of key "ARCH.@suffix", or of @suffix where it begins with a dot; -1: none. */
static int64_t key_index(const struct inspect *in, const char *suffix)
{
	char want[128];

	if (*suffix == '.')
		snprintf(want, sizeof(want), "%s", suffix + 1);
	else
		snprintf(want, sizeof(want), "%s.%s", in->arch, suffix);
	for (uint64_t i = 0; i < fh_gguf_nr_keys(in->g); i++) {
		struct fh_str s = fh_gguf_key_at(in->g, i, NULL);

		if (s.n == strlen(want) && !memcmp(s.p, want, s.n))
			return (int64_t)i;
	}
	return -1;
}

/* The value as text, or "" where the key is absent. */
static const char *value(const struct inspect *in, const char *suffix, char *out, size_t cap)
{
	int64_t i = key_index(in, suffix);

	*out = '\0';
	if (i >= 0)
		fh_gguf_value_text(in->g, (uint64_t)i, out, cap);
	return out;
}

static uint64_t nr_tokens(const struct inspect *in)
{
	struct fh_gguf_arr a;

	return fh_gguf_arr(in->g, "tokenizer.ggml.tokens", &a) ? 0 : a.n;
}

static double bits_per_weight(const struct inspect *in)
{
	return in->all.nr_weights ? 8.0 * (double)in->all.bytes / (double)in->all.nr_weights : 0;
}

static void line(const char *what, const char *text)
{
	if (*text)
		printf("%-16s%s\n", what, text);
}

static void print_shape(const struct inspect *in)
{
	static const char *const rows[][2] = {
		{"context", "context_length"},	       {"layers", "block_count"},
		{"embedding", "embedding_length"},     {"feed-forward", "feed_forward_length"},
		{"heads", "attention.head_count"},     {"KV heads", "attention.head_count_kv"},
		{"head size", "attention.key_length"}, {"window", "attention.sliding_window"},
		{"experts", "expert_count"},	       {"experts used", "expert_used_count"},
		{"rope base", "rope.freq_base"},       {"rope scaling", "rope.scaling.type"},
	};
	char s[200];

	for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++)
		line(rows[i][0], value(in, rows[i][1], s, sizeof(s)));
}

static void print_tokenizer(const struct inspect *in)
{
	char model[100], pre[100], s[300];
	struct fh_str template;

	if (!*value(in, ".tokenizer.ggml.model", model, sizeof(model))) {
		line("tokenizer", "none");
		return;
	}
	value(in, ".tokenizer.ggml.pre", pre, sizeof(pre));
	snprintf(s, sizeof(s), "%s%s%s, %" PRIu64 " tokens", model, *pre ? ", " : "", pre, nr_tokens(in));
	line("tokenizer", s);
	if (fh_gguf_str(in->g, "tokenizer.chat_template", &template))
		strcpy(s, "none");
	else
		snprintf(s, sizeof(s), "%zu bytes", template.n);
	line("chat template", s);
}

static void print_summary(struct inspect *in)
{
	char s[200];

	line("file", in->path);
	printf("%-16sGGUF v%" PRIu32 ", %.1f MB\n", "format", fh_gguf_version(in->g),
	       (double)fh_gguf_file_bytes(in->g) / 1e6);
	line("name", value(in, ".general.name", s, sizeof(s)));
	line("architecture", in->arch);
	line("runs here", in->reason ? "no" : "yes");
	line("reason", in->reason ? in->reason : "");
	if (in->all.nr_weights)
		printf("%-16s%.1f M, %.3f bytes a weight (%.2f bits)\n", "parameters", (double)in->all.nr_weights / 1e6,
		       bits_per_weight(in) / 8, bits_per_weight(in));
	print_shape(in);
	print_tokenizer(in);
}

static void print_types(const struct inspect *in)
{
	if (in->all.nr_tensors == 0)
		return;
	printf("\ntype       tensors     weights (M)         MB\n");
	for (uint32_t i = 0; i < MAX_TYPES; i++) {
		const struct type_sum *t = &in->by_type[i];

		if (t->nr_tensors)
			printf("%-10s %7" PRIu64 " %15.2f %10.2f\n", fh_gguf_type(i)->name, t->nr_tensors,
			       (double)t->nr_weights / 1e6, (double)t->bytes / 1e6);
	}
}

/* A name from the file, on one line whatever it holds. */
static void print_name(struct fh_str s, int width)
{
	int n = 0;

	for (size_t i = 0; i < s.n; i++, n++)
		putchar((uint8_t)s.p[i] < 0x20 || s.p[i] == 0x7f ? '?' : s.p[i]);
	printf("%*s", n < width ? width - n : 1, "");
}

static void print_keys(const struct inspect *in)
{
	char s[120];

	printf("\n%" PRIu64 " keys\n", fh_gguf_nr_keys(in->g));
	for (uint64_t i = 0; i < fh_gguf_nr_keys(in->g); i++) {
		size_t n = fh_gguf_value_text(in->g, i, s, sizeof(s));

		printf("  ");
		print_name(fh_gguf_key_at(in->g, i, NULL), 44);
		printf("%s%s\n", s, n + 4 >= sizeof(s) ? "..." : "");
	}
}

static void print_tensors(const struct inspect *in)
{
	printf("\n%" PRIu64 " tensors\n", fh_gguf_nr_tensors(in->g));
	for (uint64_t i = 0; i < fh_gguf_nr_tensors(in->g); i++) {
		const struct fh_tensor *t = fh_gguf_tensor_at(in->g, i);

		printf("  ");
		print_name(t->name, 36);
		printf("%-8s %12" PRIu64 " bytes  [", fh_gguf_type(t->type)->name, t->bytes);
		for (uint32_t d = 0; d < t->nr_dims; d++)
			printf("%s%" PRIu64, d ? ", " : "", t->ne[d]);
		printf("]\n");
	}
}

/* A JSON string of any bytes: what is no UTF-8 becomes U+FFFD. */
static json_t *text_json(struct fh_str s)
{
	json_t *j = json_stringn(s.p, s.n);
	char *fixed;
	size_t n = 0;

	if (j)
		return j;
	fixed = malloc(3 * s.n + 1);
	for (size_t i = 0; fixed && i < s.n; i++) {
		uint8_t lead = (uint8_t)s.p[i];
		size_t len = lead < 0x80 ? 1 : lead < 0xe0 ? 2 : lead < 0xf0 ? 3 : 4;
		json_t *one = i + len <= s.n ? json_stringn(s.p + i, len) : NULL;

		if (one) {
			memcpy(fixed + n, s.p + i, len);
			n += len;
			i += len - 1;
		} else {
			memcpy(fixed + n, "\xef\xbf\xbd", 3);
			n += 3;
		}
		json_decref(one);
	}
	j = fixed ? json_stringn(fixed, n) : NULL;
	free(fixed);
	return j;
}

static json_t *element_json(struct fh_gguf_arr *a, uint64_t i)
{
	switch (a->type) {
	case FH_GGUF_STR: return text_json(fh_gguf_arr_next(a));
	case FH_GGUF_BOOL: return json_boolean(fh_gguf_arr_i64(a, i) != 0);
	case FH_GGUF_F32:
	case FH_GGUF_F64: {
		json_t *j = json_real(fh_gguf_arr_f64(a, i));

		return j ? j : json_null(); /* JSON has no infinity */
	}
	default: return json_integer(fh_gguf_arr_i64(a, i));
	}
}

static json_t *array_json(const struct inspect *in, struct fh_gguf_arr *a)
{
	bool cut = a->n > LONG_ARRAY && !in->full;
	json_t *list = json_array();

	for (uint64_t i = 0; i < a->n && (!cut || i < CUT_TO); i++)
		json_array_append_new(list, element_json(a, i));
	return cut ? json_pack("{s:I, s:o}", "length", (json_int_t)a->n, "first", list) : list;
}

/* Value @i of key @name. Scalars go through their text, which is JSON but for nan, inf and the largest integers. */
static json_t *value_json(const struct inspect *in, const char *name, uint64_t i, enum fh_gguf_vtype type)
{
	struct fh_gguf_arr a;
	struct fh_str s;
	char text[64];
	json_t *j;

	if (type == FH_GGUF_STR && !fh_gguf_str(in->g, name, &s))
		return text_json(s);
	if (type == FH_GGUF_ARR && !fh_gguf_arr(in->g, name, &a))
		return array_json(in, &a);
	fh_gguf_value_text(in->g, i, text, sizeof(text));
	j = json_loads(text, JSON_DECODE_ANY, NULL);
	return j ? j : json_string(text);
}

static json_t *metadata_json(const struct inspect *in)
{
	json_t *o = json_object();

	for (uint64_t i = 0; i < fh_gguf_nr_keys(in->g); i++) {
		enum fh_gguf_vtype type;
		struct fh_str s = fh_gguf_key_at(in->g, i, &type);
		char *name = strndup(s.p, s.n);
		json_t *key = text_json(s);

		if (name && key)
			json_object_set_new(o, json_string_value(key), value_json(in, name, i, type));
		json_decref(key);
		free(name);
	}
	return o;
}

static json_t *tensors_json(const struct inspect *in)
{
	json_t *list = json_array();

	for (uint64_t i = 0; i < fh_gguf_nr_tensors(in->g); i++) {
		const struct fh_tensor *t = fh_gguf_tensor_at(in->g, i);
		json_t *shape = json_array();

		for (uint32_t d = 0; d < t->nr_dims; d++)
			json_array_append_new(shape, json_integer((json_int_t)t->ne[d]));
		json_array_append_new(list, json_pack("{s:o, s:s, s:o, s:I}", "name", text_json(t->name), "type",
						      fh_gguf_type(t->type)->name, "shape", shape, "bytes",
						      (json_int_t)t->bytes));
	}
	return list;
}

static json_t *types_json(const struct inspect *in)
{
	json_t *list = json_array();

	for (uint32_t i = 0; i < MAX_TYPES; i++) {
		const struct type_sum *t = &in->by_type[i];

		if (t->nr_tensors)
			json_array_append_new(list,
					      json_pack("{s:s, s:I, s:I, s:I}", "type", fh_gguf_type(i)->name,
							"tensors", (json_int_t)t->nr_tensors, "weights",
							(json_int_t)t->nr_weights, "bytes", (json_int_t)t->bytes));
	}
	return list;
}

/* The value of a key under a name that does not depend on the architecture; null where absent. */
static void copy_value(const struct inspect *in, json_t *o, const char *as, const char *suffix)
{
	int64_t i = key_index(in, suffix);
	enum fh_gguf_vtype type;
	char name[128];

	if (i < 0) {
		json_object_set_new(o, as, json_null());
		return;
	}
	snprintf(name, sizeof(name), "%.*s", (int)fh_gguf_key_at(in->g, (uint64_t)i, &type).n,
		 fh_gguf_key_at(in->g, (uint64_t)i, NULL).p);
	json_object_set_new(o, as, value_json(in, name, (uint64_t)i, type));
}

static int print_json(const struct inspect *in)
{
	static const char *const copies[][2] = {
		{"name", ".general.name"},
		{"context_length", "context_length"},
		{"layers", "block_count"},
		{"embedding_length", "embedding_length"},
		{"feed_forward_length", "feed_forward_length"},
		{"heads", "attention.head_count"},
		{"kv_heads", "attention.head_count_kv"},
		{"head_size", "attention.key_length"},
		{"experts", "expert_count"},
		{"experts_used", "expert_used_count"},
		{"tokenizer", ".tokenizer.ggml.model"},
		{"pre_tokenizer", ".tokenizer.ggml.pre"},
	};
	struct fh_str s;
	json_t *o = json_pack(
		"{s:o, s:i, s:I, s:o, s:b, s:o, s:I, s:I, s:f, s:I, s:b}", "path",
		text_json((struct fh_str){.p = in->path, .n = strlen(in->path)}), "version",
		(int)fh_gguf_version(in->g), "file_bytes", (json_int_t)fh_gguf_file_bytes(in->g), "architecture",
		text_json((struct fh_str){.p = in->arch, .n = strlen(in->arch)}), "runnable", !in->reason, "reason",
		in->reason ? text_json((struct fh_str){.p = in->reason, .n = strlen(in->reason)}) : json_null(),
		"parameters", (json_int_t)in->all.nr_weights, "tensor_bytes", (json_int_t)in->all.bytes,
		"bits_per_weight", bits_per_weight(in), "tokens", (json_int_t)nr_tokens(in), "chat_template",
		!fh_gguf_str(in->g, "tokenizer.chat_template", &s));
	int rc;

	if (!o) {
		fprintf(stderr, "freehold inspect: no memory\n");
		return 1;
	}
	for (size_t i = 0; i < sizeof(copies) / sizeof(copies[0]); i++)
		copy_value(in, o, copies[i][0], copies[i][1]);
	json_object_set_new(o, "types", types_json(in));
	json_object_set_new(o, "metadata", metadata_json(in));
	json_object_set_new(o, "tensors", tensors_json(in));
	rc = json_dumpf(o, stdout, JSON_INDENT(2) | JSON_REAL_PRECISION(9));
	putchar('\n');
	json_decref(o);
	return rc ? 1 : 0;
}

static int inspect(struct inspect *in)
{
	struct fh_err err;
	int rc = 0;

	if (fh_gguf_open(in->path, &in->g, &err)) {
		fprintf(stderr, "freehold inspect: %s\n", err.msg);
		return 1;
	}
	value(in, ".general.architecture", in->arch, sizeof(in->arch));
	sum_tensors(in);
	judge(in);
	if (in->json) {
		rc = print_json(in);
	} else {
		print_summary(in);
		print_types(in);
		print_keys(in);
		if (in->tensors)
			print_tensors(in);
	}
	if (fflush(stdout)) {
		fprintf(stderr, "freehold inspect: writing the answer failed\n");
		rc = 1;
	}
	fh_gguf_close(in->g);
	return rc;
}

int cmd_inspect(int argc, char **argv)
{
	static const struct option options[] = {
		{"json", no_argument, NULL, 'j'},
		{"tensors", no_argument, NULL, 't'},
		{"full", no_argument, NULL, 'f'},
		{"help", no_argument, NULL, 'h'},
		{0},
	};
	struct inspect in = {0};
	int opt;

	optind = 1;
	while ((opt = getopt_long(argc, argv, "h", options, NULL)) != -1) {
		switch (opt) {
		case 'j': in.json = true; break;
		case 't': in.tensors = true; break;
		case 'f': in.full = true; break;
		case 'h': usage(stdout); return 0;
		default: usage(stderr); return 2;
		}
	}
	if (optind != argc - 1) {
		usage(stderr);
		return 2;
	}
	in.path = argv[optind];
	return inspect(&in);
}
