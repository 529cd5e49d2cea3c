// SPDX-License-Identifier: Apache-2.0
/* Prompts from a file; see dataset.h. */
#include <jansson.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tools/load/dataset.h"

#define MAX_FILE ((size_t)4 << 30)
#define MAX_OUT (1 << 24)

static int add(struct load_dataset *d, const char *text, size_t bytes, uint32_t nr_out)
{
	char *copy;

	if (d->nr == d->cap) {
		uint32_t cap = d->cap ? 2 * d->cap : 256;
		struct load_text *grown = realloc(d->text, cap * sizeof(*grown));

		if (!grown)
			return -ENOMEM;
		d->text = grown;
		d->cap = cap;
	}
	copy = malloc(bytes + 1);
	if (!copy)
		return -ENOMEM;
	memcpy(copy, text, bytes);
	copy[bytes] = '\0';
	d->text[d->nr++] = (struct load_text){.text = copy, .bytes = bytes, .nr_out = nr_out};
	return 0;
}

/* The first user's words in a list of {role|from, content|value}. */
static json_t *first_turn(json_t *turns)
{
	json_t *turn = json_array_get(turns, 0), *text;

	text = json_object_get(turn, "value");
	return text ? text : json_object_get(turn, "content");
}

/* One entry of JSONL or ShareGPT. */
static int add_entry(struct load_dataset *d, json_t *entry)
{
	static const char *const names[] = {"prompt", "text", "question", "instruction"};
	json_t *text = NULL, *turns = json_object_get(entry, "conversations"), *out;

	for (size_t i = 0; i < sizeof(names) / sizeof(names[0]) && !json_is_string(text); i++)
		text = json_object_get(entry, names[i]);
	if (!json_is_string(text))
		text = first_turn(turns ? turns : json_object_get(entry, "messages"));
	if (!json_is_string(text) || !json_string_length(text)) {
		d->nr_skipped++;
		return 0;
	}
	out = json_object_get(entry, "output_tokens");
	if (!out)
		out = json_object_get(entry, "max_tokens");
	return add(d, json_string_value(text), json_string_length(text),
		   json_integer_value(out) > 0 && json_integer_value(out) < MAX_OUT ? (uint32_t)json_integer_value(out)
										    : 0);
}

static int parse_array(const char *data, size_t bytes, const char *name, struct load_dataset *d, struct fh_err *err)
{
	json_error_t e;
	json_t *all = json_loadb(data, bytes, 0, &e), *entry;
	size_t i;
	int rc = 0;

	if (!all)
		return fh_errf(err, -EINVAL, "%s:%d: %s", name, e.line, e.text);
	json_array_foreach (all, i, entry)
		if (!rc)
			rc = add_entry(d, entry);
	json_decref(all);
	return rc;
}

static int parse_line(const char *s, size_t n, const char *name, unsigned int line, bool json, struct load_dataset *d,
		      struct fh_err *err)
{
	json_error_t e;
	json_t *entry;
	int rc;

	if (n && s[n - 1] == '\r')
		n--;
	if (!n)
		return 0;
	if (!json)
		return add(d, s, n, 0);
	entry = json_loadb(s, n, 0, &e);
	if (!entry)
		return fh_errf(err, -EINVAL, "%s:%u: %s", name, line, e.text);
	rc = add_entry(d, entry);
	json_decref(entry);
	return rc;
}

int load_dataset_parse(const char *data, size_t bytes, const char *name, struct load_dataset *out, struct fh_err *err)
{
	unsigned int line = 0;
	int rc = 0;

	*out = (struct load_dataset){0};
	if (bytes && *data == '[') {
		rc = parse_array(data, bytes, name, out, err);
	} else {
		bool json = bytes && *data == '{';

		while (bytes && !rc) {
			const char *lf = memchr(data, '\n', bytes);
			size_t n = lf ? (size_t)(lf - data) : bytes;

			rc = parse_line(data, n, name, ++line, json, out, err);
			n += lf != NULL;
			data += n;
			bytes -= n;
		}
	}
	if (rc == -ENOMEM)
		return fh_errf(err, rc, "%s: no memory", name);
	if (!rc && !out->nr)
		return fh_errf(err, -EINVAL, "%s: it holds no prompt (want a prompt a line, JSONL or ShareGPT's JSON)",
			       name);
	return rc;
}

int load_dataset_read(const char *path, struct load_dataset *out, struct fh_err *err)
{
	FILE *f = fopen(path, "rb");
	char *data = NULL;
	long size = -1;
	int rc;

	*out = (struct load_dataset){0};
	if (!f)
		return fh_errf(err, -errno, "%s: %s", path, strerror(errno));
	if (!fseek(f, 0, SEEK_END))
		size = ftell(f);
	if (size < 0 || (size_t)size > MAX_FILE) {
		rc = fh_errf(err, -EINVAL, "%s: it is no file of at most 4 GiB", path);
		goto out;
	}
	rewind(f);
	data = malloc((size_t)size + 1);
	if (!data) {
		rc = fh_errf(err, -ENOMEM, "%s: no memory", path);
		goto out;
	}
	if (fread(data, 1, (size_t)size, f) != (size_t)size)
		rc = fh_errf(err, -EIO, "%s: cannot be read", path);
	else
		rc = load_dataset_parse(data, (size_t)size, path, out, err);
out:
	free(data);
	fclose(f);
	return rc;
}

void load_dataset_free(struct load_dataset *d)
{
	for (uint32_t i = 0; i < d->nr; i++)
		free(d->text[i].text);
	free(d->text);
	*d = (struct load_dataset){0};
}
