// SPDX-License-Identifier: Apache-2.0
/*
 * freehold tokenize: what a model's tokenizer makes of a text, and back.
 *
 * Standard input is taken byte for byte; it is read whole before anything is
 * printed, because a token may span any two reads.
 */
#include <errno.h>
#include <getopt.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "runtime/model/gguf.h"
#include "runtime/model/tokenizer.h"
#include "tools/cmd.h"

#define MAX_INPUT ((size_t)1 << 30)

static const char usage[] =
	"usage: freehold tokenize -m MODEL [--ids] [--no-bos] [--special] < text\n"
	"       freehold tokenize -m MODEL --decode < ids\n"
	"\n"
	"Print the tokens of the text on standard input, one a line: id, tab, text.\n"
	"MODEL is a GGUF file; one that holds a vocabulary only will do.\n"
	"\n"
	"  -m, --model MODEL  the model, or one of its splits\n"
	"      --ids          print the ids alone, on one line, separated by spaces\n"
	"      --no-bos       do not add the begin- and end-of-text tokens that the model asks for\n"
	"      --special      read the texts of special tokens, such as <|eot_id|>, as those tokens\n"
	"      --decode       the other way: read ids, print their text\n"
	"  -h, --help         print this\n"
	"\n"
	"examples:\n"
	"  printf 'Hello world' | freehold tokenize -m model.gguf\n"
	"  freehold tokenize -m model.gguf --ids --no-bos < prompt.txt\n"
	"  printf 'Hello' | freehold tokenize -m model.gguf --ids | freehold tokenize -m model.gguf --decode\n";

struct options {
	const char *model;
	bool ids, no_bos, special, decode, help;
};

static int parse_options(int argc, char **argv, struct options *o)
{
	static const struct option longs[] = {
		{"model", required_argument, NULL, 'm'},
		{"ids", no_argument, NULL, 'i'},
		{"no-bos", no_argument, NULL, 'n'},
		{"special", no_argument, NULL, 's'},
		{"decode", no_argument, NULL, 'd'},
		{"help", no_argument, NULL, 'h'},
		{NULL, 0, NULL, 0},
	};
	int c;

	optind = 1;
	while ((c = getopt_long(argc, argv, "m:h", longs, NULL)) != -1) {
		switch (c) {
		case 'm': o->model = optarg; break;
		case 'i': o->ids = true; break;
		case 'n': o->no_bos = true; break;
		case 's': o->special = true; break;
		case 'd': o->decode = true; break;
		case 'h': o->help = true; return 0;
		default: fputs("try: freehold tokenize --help\n", stderr); return -EINVAL;
		}
	}
	if (optind < argc) {
		fprintf(stderr, "freehold tokenize: %s: unexpected; the text is read from standard input\n",
			argv[optind]);
		return -EINVAL;
	}
	if (!o->model) {
		fputs("freehold tokenize: no model; give one with -m\n", stderr);
		return -EINVAL;
	}
	return 0;
}

/* All of standard input, malloc'ed.  0 or -errno, said on stderr. */
static int read_input(char **text, size_t *bytes)
{
	size_t cap = 1 << 16, n = 0;
	char *buf = malloc(cap), *bigger;
	int rc = -ENOMEM;

	while (buf) {
		ssize_t got = read(STDIN_FILENO, buf + n, cap - n);

		if (got < 0 && errno == EINTR)
			continue;
		if (got < 0) {
			rc = -errno;
			break;
		}
		if (!got) {
			*text = buf;
			*bytes = n;
			return 0;
		}
		n += (size_t)got;
		if (n < cap)
			continue;
		if (cap >= MAX_INPUT) {
			rc = -EFBIG;
			break;
		}
		bigger = realloc(buf, cap * 2);
		if (!bigger)
			break;
		buf = bigger;
		cap *= 2;
	}
	free(buf);
	fprintf(stderr, "freehold tokenize: standard input: %s%s\n", strerror(-rc),
		rc == -EFBIG ? "; at most 1 GiB is supported" : "");
	return rc;
}

static void print_quoted(const char *s, size_t n)
{
	putchar('"');
	for (size_t i = 0; i < n; i++) {
		unsigned char c = (unsigned char)s[i];

		if (c == '"' || c == '\\')
			printf("\\%c", c);
		else if (c == '\n')
			fputs("\\n", stdout);
		else if (c == '\r')
			fputs("\\r", stdout);
		else if (c == '\t')
			fputs("\\t", stdout);
		else if (c < 0x20 || c == 0x7f)
			printf("\\x%02x", c);
		else
			putchar(c);
	}
	putchar('"');
}

/* A token that is part of a character only is shown as its bytes, so that the output stays UTF-8. */
static void print_token(const struct fh_tokenizer *t, uint32_t id)
{
	char text[FH_DETOK_MAX], whole[FH_DETOK_MAX];
	size_t n = fh_token_bytes(t, id, false, text, sizeof(text)), nr_whole;
	struct fh_detok d = {.started = true};

	printf("%u\t", id);
	nr_whole = fh_detok_push(t, &d, id, whole, sizeof(whole));
	if (!n) {
		struct fh_str piece = fh_tokenizer_piece(t, id);

		print_quoted(piece.p, piece.n);
	} else if (nr_whole == n && !memcmp(text, whole, n)) {
		print_quoted(text, n);
	} else {
		putchar('"');
		for (size_t i = 0; i < n; i++)
			printf("\\x%02x", (unsigned char)text[i]);
		putchar('"');
	}
	putchar('\n');
}

static int encode(const struct fh_tokenizer *t, const struct options *o, const char *text, size_t bytes)
{
	unsigned int flags = (o->no_bos ? 0 : FH_TOK_BOS) | (o->special ? FH_TOK_SPECIAL : 0);
	uint32_t *ids, nr;
	int rc = fh_tokenize(t, text, bytes, flags, &ids, &nr);

	if (rc) {
		fprintf(stderr, "freehold tokenize: %zu bytes of text: %s\n", bytes, strerror(-rc));
		return rc;
	}
	for (uint32_t i = 0; i < nr; i++) {
		if (o->ids)
			printf(i ? " %u" : "%u", ids[i]);
		else
			print_token(t, ids[i]);
	}
	if (o->ids)
		putchar('\n');
	free(ids);
	return 0;
}

/* @text: ids separated by white space; ends with a zero byte. */
static int decode(const struct fh_tokenizer *t, const char *text)
{
	char out[FH_DETOK_MAX];
	struct fh_detok d = {0};

	for (;;) {
		unsigned long long id;
		char *end;

		text += strspn(text, " \t\r\n");
		if (!*text)
			break;
		errno = 0;
		id = strtoull(text, &end, 10);
		if (end == text || errno || *text == '-' || id >= fh_tokenizer_nr_vocab(t)) {
			fprintf(stderr, "freehold tokenize: \"%.*s\" is no token id; they are 0 to %u\n",
				(int)strcspn(text, " \t\r\n"), text, fh_tokenizer_nr_vocab(t) - 1);
			return -EINVAL;
		}
		fwrite(out, 1, fh_detok_push(t, &d, (uint32_t)id, out, sizeof(out)), stdout);
		text = end;
	}
	fwrite(out, 1, fh_detok_end(t, &d, out, sizeof(out)), stdout);
	return 0;
}

static int open_tokenizer(const char *path, struct fh_tokenizer **t)
{
	struct fh_err err = {0};
	struct fh_gguf *g;
	int rc = fh_gguf_open(path, &g, &err);

	if (!rc) {
		rc = fh_tokenizer_open(g, t, &err);
		fh_gguf_close(g);
	}
	if (rc)
		fprintf(stderr, "freehold tokenize: %s\n", err.msg);
	return rc;
}

int cmd_tokenize(int argc, char **argv)
{
	struct options o = {0};
	struct fh_tokenizer *t;
	char *text = NULL;
	size_t bytes = 0;
	int rc = parse_options(argc, argv, &o);

	if (rc)
		return 2;
	if (o.help) {
		fputs(usage, stdout);
		return 0;
	}
	if (open_tokenizer(o.model, &t))
		return 1;
	rc = read_input(&text, &bytes);
	if (!rc && o.decode) {
		/* A zero byte ends the ids; read_input() leaves room, but for exactly full buffers. */
		char *ids = realloc(text, bytes + 1);

		rc = ids ? 0 : -ENOMEM;
		if (ids) {
			text = ids;
			text[bytes] = 0;
			rc = decode(t, text);
		}
	} else if (!rc) {
		rc = encode(t, &o, text, bytes);
	}
	free(text);
	fh_tokenizer_close(t);
	if (fflush(stdout) && !rc) {
		fprintf(stderr, "freehold tokenize: standard output: %s\n", strerror(errno));
		rc = -EIO;
	}
	return rc ? 1 : 0;
}
