// SPDX-License-Identifier: Apache-2.0
/*
 * Writes a model anew with its matrices in another type, for the accuracy test.
 *
 *   requantise IN.gguf TYPE OUT.gguf
 *
 * Matrices and stacks of them are quantised, the router of a mixture of experts
 * and everything of one dimension stay as they are.  All keys are copied but
 * general.file_type.  Prints the root of the mean squared error, over that of
 * the weights.  The same input gives the same bytes everywhere.
 */
#include <errno.h>
#include <math.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/kernels.h"
#include "runtime/model/gguf_write.h"
#include "tests/accuracy/quantise.h"

struct job {
	struct fh_gguf *in;
	uint32_t type;
	FILE *out;
	double error, weight; /* sums of squares */
};

static bool is_matrix(const struct fh_tensor *t)
{
	static const char router[] = "ffn_gate_inp.weight";
	const size_t n = sizeof(router) - 1;

	return t->nr_dims >= 2 && !(t->name.n >= n && !memcmp(t->name.p + t->name.n - n, router, n));
}

static int find_type(const char *name, uint32_t *type)
{
	for (uint32_t i = 0; i < 64; i++) {
		const struct fhk_type_info *ti = fhk_type_info(i);

		if (ti && !strcmp(ti->name, name)) {
			*type = i;
			return 0;
		}
	}
	return -1;
}

static int put_bytes(struct job *j, const void *p, size_t bytes)
{
	static const char zeros[FH_GGUF_WRITE_ALIGN];
	size_t pad = -bytes % FH_GGUF_WRITE_ALIGN;

	return fwrite(p, 1, bytes, j->out) == bytes && fwrite(zeros, 1, pad, j->out) == pad ? 0 : -EIO;
}

static int put_matrix(struct job *j, const struct fh_tensor *t)
{
	const struct fhk_type_info *ti = fhk_type_info(j->type);
	size_t n = 1, bytes;
	float *x, *y;
	void *q;
	int rc = -ENOMEM;

	for (uint32_t i = 0; i < t->nr_dims; i++)
		n *= t->ne[i];
	bytes = n / ti->block_elems * ti->block_bytes;
	x = malloc(n * sizeof(*x));
	y = malloc(n * sizeof(*y));
	q = malloc(bytes);
	if (x && y && q) {
		fhk_dequant(t->type, t->data, x, n);
		quantise(j->type, x, q, n);
		fhk_dequant(j->type, q, y, n);
		for (size_t i = 0; i < n; i++) {
			j->error += ((double)x[i] - y[i]) * ((double)x[i] - y[i]);
			j->weight += (double)x[i] * x[i];
		}
		rc = put_bytes(j, q, bytes);
	}
	free(x);
	free(y);
	free(q);
	return rc;
}

static int put_header(struct job *j, struct fh_gguf_writer *w)
{
	const void *head;
	size_t bytes;
	int rc;

	for (uint64_t i = 0; i < fh_gguf_nr_keys(j->in); i++) {
		enum fh_gguf_vtype vt;
		struct fh_str key = fh_gguf_key_at(j->in, i, &vt);

		if (key.n != strlen("general.file_type") || memcmp(key.p, "general.file_type", key.n))
			fh_gguf_put_copy(w, j->in, i);
	}
	for (uint64_t i = 0; i < fh_gguf_nr_tensors(j->in); i++) {
		const struct fh_tensor *t = fh_gguf_tensor_at(j->in, i);
		char name[128];

		snprintf(name, sizeof(name), "%.*s", (int)t->name.n, t->name.p);
		fh_gguf_put_tensor(w, name, is_matrix(t) ? j->type : t->type, t->nr_dims, t->ne);
	}
	rc = fh_gguf_writer_header(w, &head, &bytes);
	if (!rc && fwrite(head, 1, bytes, j->out) != bytes)
		rc = -EIO;
	return rc;
}

static int requantise(struct job *j)
{
	struct fh_gguf_writer *w = fh_gguf_writer_new();
	int rc = w ? put_header(j, w) : -ENOMEM;

	for (uint64_t i = 0; i < fh_gguf_nr_tensors(j->in) && !rc; i++) {
		const struct fh_tensor *t = fh_gguf_tensor_at(j->in, i);

		rc = is_matrix(t) ? put_matrix(j, t) : put_bytes(j, t->data, t->bytes);
	}
	fh_gguf_writer_free(w);
	return rc;
}

static bool whole_blocks(const struct job *j)
{
	uint32_t elems = fhk_type_info(j->type)->block_elems;

	for (uint64_t i = 0; i < fh_gguf_nr_tensors(j->in); i++) {
		const struct fh_tensor *t = fh_gguf_tensor_at(j->in, i);

		if (is_matrix(t) && (t->ne[0] % elems || !fhk_type_info(t->type))) {
			fprintf(stderr, "requantise: %.*s: its rows are no whole blocks, or its type is unknown\n",
				(int)t->name.n, t->name.p);
			return false;
		}
	}
	return true;
}

int main(int argc, char **argv)
{
	struct job j = {0};
	struct fh_err err;
	int rc = 1;

	if (argc != 4 || find_type(argv[2], &j.type)) {
		fprintf(stderr, "usage: requantise IN.gguf TYPE OUT.gguf\n");
		return 2;
	}
	if (fh_gguf_open(argv[1], &j.in, &err)) {
		fprintf(stderr, "requantise: %s\n", err.msg);
		return 1;
	}
	if (!whole_blocks(&j))
		goto out;
	j.out = fopen(argv[3], "we");
	if (j.out) {
		rc = requantise(&j);
		rc = fclose(j.out) ? -EIO : rc;
	} else {
		rc = -errno;
	}
	if (rc)
		fprintf(stderr, "requantise: %s: %s\n", argv[3], strerror(-rc));
	else
		printf("%s: error %.6f of the weights\n", argv[2], sqrt(j.error / j.weight));
out:
	fh_gguf_close(j.in);
	return rc ? 1 : 0;
}
