// SPDX-License-Identifier: Apache-2.0
/*
 * freehold synth: a model with random weights in a real shape.
 *
 * Speed and memory do not depend on what the weights say, so such a file stands
 * in for a model that is too large to fetch.  It is written as a stream through
 * one buffer, under a .part name until it is whole; the same seed gives the
 * same bytes on any machine.
 */
#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/statvfs.h>
#include <time.h>
#include <unistd.h>

#include "runtime/model/gguf_types.h"
#include "tools/cmd.h"
#include "tools/synth.h"

#define BUF_BYTES ((size_t)4 << 20)

struct synth {
	const struct synth_shape *shape;
	uint32_t type;
	uint64_t seed;
	uint32_t nr_ctx, nr_vocab, repeat;
	const char *vocab_path, *out_path;
	struct fh_gguf *vocab;
	int fd;
	uint8_t *buf;
	uint64_t total_bytes, done_bytes;
	time_t shown; /* when progress was printed last */
};

static void usage(FILE *f)
{
	fprintf(f, "usage: freehold synth --shape NAME --type TYPE -o FILE [--vocab FILE.gguf] [--seed N] [--ctx N]\n"
		   "                      [--repeat N]\n\n"
		   "Writes a GGUF model with random weights in the shape of a real one, for measuring.\n\n"
		   "  --shape NAME    one of:");
	for (unsigned int i = 0; synth_shape_at(i); i++)
		fprintf(f, "%s%s", i % 4 == 0 && i ? "\n                  " : " ", synth_shape_at(i)->name);
	fprintf(f, "\n  --type TYPE     one of:");
	for (uint32_t i = 0, n = 0; i < 64; i++) {
		if (synth_type_ok(i))
			fprintf(f, "%s%s", n++ % 8 == 7 ? "\n                  " : " ", fh_gguf_type(i)->name);
	}
	fprintf(f, "\n  --vocab FILE    take the tokenizer from this GGUF file (default: a made-up one)\n"
		   "  --seed N        another N, other weights (default 1)\n"
		   "  --ctx N         context length that the file states (default 8192)\n"
		   "  --repeat N      weights whose greedy text goes round in circles of N tokens\n"
		   "  -o, --output FILE\n\n"
		   "examples:\n"
		   "  freehold synth --shape llama-3.1-8b --type Q4_K -o 8b.gguf\n"
		   "  freehold synth --shape tiny-moe --type F16 --vocab vocab.gguf --seed 7 -o moe.gguf\n");
}

/* A decimal number of @min to @max; says what is wrong otherwise. */
static bool number(const char *flag, const char *text, uint64_t min, uint64_t max, uint64_t *out)
{
	char *end;

	errno = 0;
	*out = strtoull(text, &end, 10);
	if (errno || *end || end == text || *text == '-' || *out < min || *out > max) {
		fprintf(stderr, "freehold synth: %s %s: want a number from %" PRIu64 " to %" PRIu64 "\n", flag, text,
			min, max);
		return false;
	}
	return true;
}

/* 0: go on; 1: help was shown; 2: wrong arguments. */
static int parse_args(struct synth *s, int argc, char **argv)
{
	static const struct option options[] = {
		{"shape", required_argument, NULL, 's'},
		{"type", required_argument, NULL, 't'},
		{"vocab", required_argument, NULL, 'v'},
		{"seed", required_argument, NULL, 'n'},
		{"ctx", required_argument, NULL, 'c'},
		{"output", required_argument, NULL, 'o'},
		{"repeat", required_argument, NULL, 'r'},
		{"help", no_argument, NULL, 'h'},
		{0},
	};
	const char *shape = NULL, *type = NULL;
	uint64_t v;
	int opt;

	optind = 1;
	while ((opt = getopt_long(argc, argv, "o:h", options, NULL)) != -1) {
		switch (opt) {
		case 's': shape = optarg; break;
		case 't': type = optarg; break;
		case 'v': s->vocab_path = optarg; break;
		case 'o': s->out_path = optarg; break;
		case 'n':
			if (!number("--seed", optarg, 0, UINT64_MAX, &s->seed))
				return 2;
			break;
		case 'c':
			if (!number("--ctx", optarg, 1, 1 << 24, &v))
				return 2;
			s->nr_ctx = (uint32_t)v;
			break;
		case 'r':
			if (!number("--repeat", optarg, 2, 256, &v))
				return 2;
			s->repeat = (uint32_t)v;
			break;
		case 'h': usage(stdout); return 1;
		default: usage(stderr); return 2;
		}
	}
	if (!shape || !type || !s->out_path || optind != argc) {
		usage(stderr);
		return 2;
	}
	s->shape = synth_shape_by_name(shape);
	s->type = (uint32_t)fh_gguf_type_by_name(type);
	if (!s->shape || !synth_type_ok(s->type)) {
		fprintf(stderr, "freehold synth: no %s '%s'; `freehold synth --help` lists them\n",
			s->shape ? "type" : "shape", s->shape ? type : shape);
		return 2;
	}
	if (s->repeat * s->shape->dim > BUF_BYTES / 8) {
		fprintf(stderr, "freehold synth: --repeat %u: at most %zu for shape %s\n", s->repeat,
			BUF_BYTES / 8 / s->shape->dim, s->shape->name);
		return 2;
	}
	if (s->repeat && s->shape->tied) {
		fprintf(stderr, "freehold synth: --repeat needs a shape with an output matrix of its own, unlike %s\n",
			s->shape->name);
		return 2;
	}
	return 0;
}

/* The vocabulary, and how many tokens it has. */
static int open_vocab(struct synth *s)
{
	struct fh_gguf_arr tokens;
	struct fh_err err;

	s->nr_vocab = s->shape->nr_vocab;
	if (!s->vocab_path)
		return 0;
	if (fh_gguf_open(s->vocab_path, &s->vocab, &err)) {
		fprintf(stderr, "freehold synth: %s\n", err.msg);
		return -EINVAL;
	}
	if (fh_gguf_arr(s->vocab, "tokenizer.ggml.tokens", &tokens) || tokens.type != FH_GGUF_STR || tokens.n == 0 ||
	    tokens.n > 1 << 24) {
		fprintf(stderr,
			"freehold synth: %s: no tokenizer in it (key tokenizer.ggml.tokens); name another file\n",
			s->vocab_path);
		return -EINVAL;
	}
	s->nr_vocab = (uint32_t)tokens.n;
	return 0;
}

static int write_all(struct synth *s, const void *data, size_t n)
{
	const uint8_t *p = data;
	time_t now = time(NULL);

	while (n) {
		ssize_t k = write(s->fd, p, n);

		if (k < 0 && errno == EINTR)
			continue;
		if (k < 0) {
			fprintf(stderr, "\nfreehold synth: %s: writing at byte %" PRIu64 ": %s\n", s->out_path,
				s->done_bytes, strerror(errno));
			return -errno;
		}
		p += k;
		n -= (size_t)k;
		s->done_bytes += (uint64_t)k;
	}
	if (now != s->shown && isatty(STDERR_FILENO)) {
		fprintf(stderr, "\r%s: %3u %% of %.1f MB", s->out_path,
			(unsigned int)(100 * s->done_bytes / s->total_bytes), (double)s->total_bytes / 1e6);
		s->shown = now;
	}
	return 0;
}

/* @n weights, or as many as fit, at @s->buf; @at is the number of the first. */
static size_t fill(struct synth *s, struct synth_rng *r, const struct synth_tensor *t, uint64_t at, uint64_t n)
{
	float *f = (float *)(void *)s->buf;

	if (t->fill == SYNTH_RANDOM) {
		synth_weights(r, t->type, s->buf, n, t->std);
		return synth_bytes(t->type, n);
	}
	for (uint64_t i = 0; i < n; i++)
		f[i] = t->fill == SYNTH_ONES ? 1.F
					     : synth_rope_factor(s->shape, (uint32_t)(at + i), (uint32_t)t->ne[0]);
	return n * sizeof(*f);
}

/* Whole groups of rows lie at @s->buf: write each with its last row first. */
static int write_rotated(struct synth *s, const struct synth_tensor *t, size_t bytes)
{
	size_t row = synth_bytes(t->type, t->ne[0]), group = row * t->rotate;
	int rc = 0;

	for (size_t at = 0; at < bytes && !rc; at += group) {
		size_t n = bytes - at < group ? bytes - at : group;

		rc = write_all(s, s->buf + at + n - row, row);
		if (!rc)
			rc = write_all(s, s->buf + at, n - row);
	}
	return rc;
}

static int write_tensor(struct synth *s, const struct synth_tensor *t)
{
	static const uint8_t zeros[FH_GGUF_WRITE_ALIGN];
	uint64_t n = t->ne[0] * t->ne[1] * t->ne[2],
		 step = BUF_BYTES / 8; /* no type takes more than 4 bytes a weight */
	struct synth_rng rng;

	if (t->rotate)
		step -= step % (t->ne[0] * t->rotate);
	synth_rng_seed(&rng, s->seed, t->stream);
	for (uint64_t at = 0; at < n; at += step) {
		size_t bytes = fill(s, &rng, t, at, n - at < step ? n - at : step);
		int rc = t->rotate ? write_rotated(s, t, bytes) : write_all(s, s->buf, bytes);

		if (rc)
			return rc;
	}
	return write_all(s, zeros, -s->done_bytes % FH_GGUF_WRITE_ALIGN);
}

/*
 * Greedy text that goes round: the layers add little to a token's embedding,
 * and the output's row of the next token of its circle is that embedding.
 */
static void make_circles(const struct synth *s, struct synth_tensor *plan, uint32_t nr)
{
	uint32_t embd = 0;

	for (uint32_t i = 0; i < nr; i++) {
		struct synth_tensor *t = &plan[i];

		if (!strcmp(t->name, "token_embd.weight")) {
			t->std = 1;
			embd = i;
		} else if (!strcmp(t->name, "output.weight")) {
			t->std = 1;
			t->stream = embd;
			t->rotate = s->repeat;
		} else if (strstr(t->name, ".attn_output.") || strstr(t->name, ".ffn_down")) {
			t->std /= 16;
		}
	}
}

/* Is there room? Better said now than after minutes. */
static int check_room(const struct synth *s)
{
	struct statvfs fs;
	uint64_t room;

	if (fstatvfs(s->fd, &fs))
		return 0;
	room = (uint64_t)fs.f_bavail * fs.f_frsize;
	if (room >= s->total_bytes)
		return 0;
	fprintf(stderr, "freehold synth: %s: needs %.1f MB, but only %.1f MB are free there; write it elsewhere\n",
		s->out_path, (double)s->total_bytes / 1e6, (double)room / 1e6);
	return -ENOSPC;
}

static int write_model(struct synth *s)
{
	struct fh_gguf_writer *w = fh_gguf_writer_new();
	struct synth_tensor *plan = NULL;
	uint64_t nr_params = 0;
	uint32_t nr;
	const void *head;
	size_t head_bytes;
	int rc = -ENOMEM;

	s->buf = malloc(BUF_BYTES);
	if (w && s->buf)
		plan = synth_plan(s->shape, s->type, s->nr_vocab, &nr);
	if (!plan)
		goto out;
	synth_keys(w, s->shape, s->type, s->nr_vocab, s->nr_ctx, s->vocab);
	for (uint32_t i = 0; i < nr; i++)
		plan[i].stream = i;
	if (s->repeat)
		make_circles(s, plan, nr);
	for (uint32_t i = 0; i < nr; i++) {
		fh_gguf_put_tensor(w, plan[i].name, plan[i].type, plan[i].nr_dims, plan[i].ne);
		nr_params += plan[i].ne[0] * plan[i].ne[1] * plan[i].ne[2];
	}
	rc = fh_gguf_writer_header(w, &head, &head_bytes);
	if (rc)
		goto out;
	s->total_bytes = head_bytes + fh_gguf_writer_data_bytes(w);
	rc = check_room(s);
	if (!rc)
		rc = write_all(s, head, head_bytes);
	for (uint32_t i = 0; i < nr && !rc; i++)
		rc = write_tensor(s, &plan[i]);
	if (rc)
		goto out;
	assert(s->done_bytes == s->total_bytes);
	fprintf(stderr, "%s%s: %s %s, %.1f M parameters, %.1f MB\n", isatty(STDERR_FILENO) ? "\r" : "", s->out_path,
		s->shape->name, fh_gguf_type(s->type)->name, (double)nr_params / 1e6, (double)s->total_bytes / 1e6);
out:
	if (rc == -ENOMEM)
		fprintf(stderr, "freehold synth: no memory\n");
	free(s->buf);
	free(plan);
	fh_gguf_writer_free(w);
	return rc;
}

/* Write under a name of its own, so that nobody takes half a file for a whole one. */
static int write_file(struct synth *s)
{
	size_t n = strlen(s->out_path) + sizeof(".part");
	char *part = malloc(n);
	int rc;

	if (!part)
		return -ENOMEM;
	snprintf(part, n, "%s.part", s->out_path);
	s->fd = open(part, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
	if (s->fd < 0) {
		rc = -errno;
		fprintf(stderr, "freehold synth: %s: %s\n", part, strerror(errno));
		goto out;
	}
	rc = write_model(s);
	if (close(s->fd) && !rc)
		rc = -errno;
	if (!rc && rename(part, s->out_path)) {
		rc = -errno;
		fprintf(stderr, "freehold synth: %s: %s\n", s->out_path, strerror(errno));
	}
	if (rc)
		unlink(part);
out:
	free(part);
	return rc;
}

int cmd_synth(int argc, char **argv)
{
	struct synth s = {.seed = 1, .nr_ctx = 8192, .fd = -1};
	int rc = parse_args(&s, argc, argv);

	if (rc)
		return rc == 1 ? 0 : 2;
	rc = open_vocab(&s);
	if (!rc)
		rc = write_file(&s);
	fh_gguf_close(s.vocab);
	return rc ? 1 : 0;
}
