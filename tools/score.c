// SPDX-License-Identifier: Apache-2.0
/*
 * freehold score: force token ids through a model and say what it thought of
 * them.  Either JSON lines on stdin, or the perplexity of a text.
 *
 * It drives the accelerator itself: one sequence, in chunks, no engine.  KV is
 * F32 unless asked otherwise, so that what is seen is the weights' own noise.
 */
#include <getopt.h>
#include <jansson.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "runtime/model/tokenizer.h"
#include "tools/cmd.h"
#include "tools/device.h"

#define MAX_TOP 1024u
#define MAX_TEXT_BYTES (256u << 20)
#define LOGITS_BYTES (64ul << 20) /* of logits that one chunk may ask for */

struct options {
	const char *model, *device, *isa, *text;
	uint32_t nr_top, nr_threads, ctx, window, chunk;
	enum fh_kv_type kv;
};

struct scorer {
	struct device dev;
	uint32_t nr_ctx, chunk, nr_top;
	float *logits;	     /* [chunk, vocab] */
	struct fh_top *best; /* [nr_top], logprob holds the logit's bits */
};

/* A row of logits, after token @pos. -EIO ends the run. */
typedef int (*row_fn)(void *ctx, uint32_t pos, const float *logits);

static const char usage[] =
	"usage: freehold score -m MODEL [--logits K] [options] < JSONL\n"
	"       freehold score -m MODEL --text FILE [--window N] [options]\n"
	"\n"
	"Each line is {\"ids\":[...],\"steps\":[{\"id\":...},...]}: the ids are forced, then each step's id.\n"
	"For each a line comes out: {\"nll\":N,\"top\":[[[id,logit],...],...]}; nll is summed over ids[1..] in\n"
	"nats, top has the K best logits for each step, best first; top[0] follows the last of ids.\n"
	"With --text: the perplexity of FILE in windows, the second half of each scored.\n"
	"\n"
	"  -m, --model MODEL  a GGUF file\n"
	"      --logits K     how many of the best logits a step (default 5)\n"
	"      --text FILE    score a text\n"
	"      --window N     tokens in a window (default 512)\n"
	"      --ctx N        context (default 4096, or the model's if that is less)\n"
	"      --chunk N      tokens computed at once (default 64)\n"
	"      --threads N    (default: as many as this process may use)\n"
	"      --isa NAME     ref, avx2, avx512 or avx512_bf16 (default: the best)\n"
	"      --device D     auto, cpu or cuda[:N] (default: auto, the CPU)\n"
	"      --kv-type T    f32, f16, bf16 or q8_0 (default f32)\n"
	"\n"
	"example: echo '{\"ids\":[1,403,407],\"steps\":[{\"id\":261}]}' | freehold score -m model.gguf --logits 3\n";

static double log_sum_exp(const float *x, uint32_t n)
{
	float max = x[0];
	double sum = 0;

	for (uint32_t i = 1; i < n; i++)
		max = x[i] > max ? x[i] : max;
	for (uint32_t i = 0; i < n; i++)
		sum += exp((double)x[i] - max);
	return max + log(sum);
}

/* Run ids[0..nr) from an empty context; @fn sees the logits after every token from @from on. */
static int run_ids(struct scorer *s, const uint32_t *ids, uint32_t nr, uint32_t from, row_fn fn, void *ctx,
		   struct fh_err *err)
{
	uint32_t nr_vocab = s->dev.info.nr_vocab;
	int rc = 0;

	for (uint32_t at = 0, n; at < nr && !rc; at += n) {
		struct fh_batch_seq seq = {.pos = at, .nr_blocks = s->dev.max_blocks, .blocks = s->dev.blocks};
		struct fh_batch b = {.nr_seqs = 1, .tokens = ids + at, .seqs = &seq};

		n = nr - at < s->chunk ? nr - at : s->chunk;
		b.nr_tokens = n;
		seq.q_len = n;
		if (at + n > from) {
			seq.logits = s->logits;
			seq.logits_from = from > at ? from - at : 0;
		}
		rc = s->dev.accel->ops->submit(s->dev.accel, &b);
		rc = rc ?: s->dev.accel->ops->reap(s->dev.accel, true);
		if (rc)
			return fh_errf(err, rc, "%s",
				       s->dev.model->null ? "the null model has no logits to score with"
							  : "the accelerator refused the step");
		for (uint32_t i = seq.logits_from; seq.logits && i < n && !rc; i++)
			rc = fn(ctx, at + i, s->logits + (size_t)(i - seq.logits_from) * nr_vocab);
	}
	return rc;
}

/* The nr_top best of @x, best first, ties by id. */
static void find_top(struct scorer *s, const float *x)
{
	uint32_t n = 0;

	for (uint32_t i = 0; i < s->dev.info.nr_vocab; i++) {
		uint32_t at = n;
		float other;

		while (at) {
			memcpy(&other, &s->best[at - 1].logprob, 4);
			if (!(x[i] > other))
				break;
			at--;
		}
		if (at == s->nr_top)
			continue;
		n += n < s->nr_top;
		memmove(&s->best[at + 1], &s->best[at], sizeof(*s->best) * (n - at - 1));
		s->best[at].token = i;
		memcpy(&s->best[at].logprob, &x[i], 4);
	}
}

struct line {
	struct scorer *s;
	uint32_t *ids; /* [nr] forced: the line's ids, then its steps' without the last */
	uint32_t nr_ids, nr, nr_steps;
	double nll;
	FILE *out; /* the tops, in memory until the line is done */
};

static int line_row(void *ctx, uint32_t pos, const float *logits)
{
	struct line *l = ctx;
	struct scorer *s = l->s;

	if (pos + 1 < l->nr_ids)
		l->nll += log_sum_exp(logits, s->dev.info.nr_vocab) - logits[l->ids[pos + 1]];
	if (pos + 1 < l->nr_ids || !l->nr_steps)
		return 0;
	fprintf(l->out, "%s[", pos + 1 == l->nr_ids ? "" : ",");
	if (s->nr_top)
		find_top(s, logits);
	for (uint32_t i = 0; i < s->nr_top; i++) {
		float logit;

		memcpy(&logit, &s->best[i].logprob, 4);
		if (!isfinite(logit))
			return -EDOM;
		fprintf(l->out, "%s[%u,%.5f]", i ? "," : "", s->best[i].token, (double)logit);
	}
	fputc(']', l->out);
	return 0;
}

/* One id out of a line's JSON. */
static int take_id(struct line *l, const json_t *v, const char *what, size_t i, struct fh_err *err)
{
	json_int_t id = json_integer_value(v);

	if (!json_is_integer(v) || id < 0 || id >= (json_int_t)l->s->dev.info.nr_vocab)
		return fh_errf(err, -EINVAL, "%s[%zu] is not a token id below %u", what, i, l->s->dev.info.nr_vocab);
	l->ids[l->nr++] = (uint32_t)id;
	return 0;
}

static int parse_line(struct line *l, const json_t *root, struct fh_err *err)
{
	const json_t *ids = json_object_get(root, "ids"), *steps = json_object_get(root, "steps");
	size_t nr = json_array_size(ids), nr_steps = json_array_size(steps);
	int rc = 0;

	if (!json_is_array(ids) || !nr)
		return fh_errf(err, -EINVAL, "\"ids\" is not a list of at least one token id");
	if (steps && !json_is_array(steps))
		return fh_errf(err, -EINVAL, "\"steps\" is not a list");
	if (nr + nr_steps > (size_t)l->s->nr_ctx + 1)
		return fh_errf(err, -E2BIG, "%zu ids and %zu steps do not fit a context of %u (see --ctx)", nr,
			       nr_steps, l->s->nr_ctx);
	l->ids = malloc(sizeof(*l->ids) * (nr + nr_steps));
	if (!l->ids)
		return fh_errf(err, -ENOMEM, "out of memory");
	for (size_t i = 0; i < nr && !rc; i++)
		rc = take_id(l, json_array_get(ids, i), "ids", i, err);
	for (size_t i = 0; i < nr_steps && !rc; i++)
		rc = take_id(l, json_object_get(json_array_get(steps, i), "id"), "steps", i, err);
	l->nr_ids = (uint32_t)nr;
	l->nr_steps = (uint32_t)nr_steps;
	l->nr -= nr_steps > 0; /* nothing is asked after the last */
	return rc;
}

static int score_line(struct scorer *s, const json_t *root, struct fh_err *err)
{
	struct line l = {.s = s};
	char *tops = NULL;
	size_t bytes;
	int rc;

	rc = parse_line(&l, root, err);
	if (rc)
		goto out;
	l.out = open_memstream(&tops, &bytes);
	if (!l.out) {
		rc = fh_errf(err, -ENOMEM, "out of memory");
		goto out;
	}
	rc = run_ids(s, l.ids, l.nr, 0, line_row, &l, err);
	fclose(l.out);
	if (rc == -EDOM || (!rc && !isfinite(l.nll)))
		rc = fh_errf(err, -EDOM, "the model's logits are not finite numbers; its weights may be damaged");
	if (!rc)
		printf("{\"nll\":%.6f,\"top\":[%s]}\n", l.nll, tops);
out:
	free(tops);
	free(l.ids);
	return rc;
}

static int score_stdin(struct scorer *s, struct fh_err *err)
{
	struct fh_err why = {.msg = ""};
	size_t cap = 0, nr = 0;
	char *line = NULL;
	ssize_t n;
	int rc = 0;

	while (!rc && (n = getline(&line, &cap, stdin)) >= 0) {
		json_error_t je;
		json_t *root;

		nr++;
		if (strspn(line, " \t\r\n") == (size_t)n)
			continue;
		root = json_loadb(line, (size_t)n, JSON_REJECT_DUPLICATES, &je);
		if (!json_is_object(root))
			rc = fh_errf(err, -EINVAL, "line %zu: not a JSON object%s%s", nr, root ? "" : ": ",
				     root ? "" : je.text);
		else if ((rc = score_line(s, root, &why)))
			fh_errf(err, rc, "line %zu: %s", nr, why.msg);
		json_decref(root);
		fflush(stdout);
	}
	free(line);
	return rc;
}

struct window {
	const uint32_t *ids;
	uint32_t nr, nr_vocab;
	double nll;
};

static int window_row(void *ctx, uint32_t pos, const float *logits)
{
	struct window *w = ctx;

	if (pos + 1 < w->nr)
		w->nll += log_sum_exp(logits, w->nr_vocab) - logits[w->ids[pos + 1]];
	return 0;
}

static int read_file(const char *path, char **text, size_t *bytes, struct fh_err *err)
{
	FILE *f = fopen(path, "re");
	size_t cap = 0;
	int rc = 0;

	*text = NULL;
	*bytes = 0;
	if (!f)
		return fh_errf(err, -errno, "%s: %s", path, strerror(errno));
	while (!feof(f) && !ferror(f)) {
		char *more;

		if (*bytes == cap) {
			cap = cap ? 2 * cap : 1 << 16;
			more = cap <= MAX_TEXT_BYTES ? realloc(*text, cap) : NULL;
			if (!more) {
				rc = fh_errf(err, -EFBIG, "%s: more than %u MiB", path, MAX_TEXT_BYTES >> 20);
				break;
			}
			*text = more;
		}
		*bytes += fread(*text + *bytes, 1, cap - *bytes, f);
	}
	if (!rc && ferror(f))
		rc = fh_errf(err, -EIO, "%s: cannot be read", path);
	fclose(f);
	return rc;
}

/* Windows of @window tokens; the second half of each is scored, given the first (as llama.cpp's perplexity does). */
static int score_windows(struct scorer *s, uint32_t *ids, uint32_t nr, uint32_t window, uint32_t bos,
			 struct fh_err *err)
{
	uint32_t nr_windows = nr / window, scored = nr_windows * (window - window / 2 - 1);
	double nll = 0;

	if (!nr_windows)
		return fh_errf(err, -EINVAL, "the text has %u tokens, less than one window of %u", nr, window);
	for (uint32_t i = 0; i < nr_windows; i++) {
		struct window w = {ids + (size_t)i * window, window, s->dev.info.nr_vocab, 0};
		uint32_t first = w.ids[0];
		int rc;

		if (bos != FH_NO_TOKEN)
			ids[(size_t)i * window] = bos;
		rc = run_ids(s, w.ids, window - 1, window / 2, window_row, &w, err);
		ids[(size_t)i * window] = first;
		if (rc)
			return rc;
		nll += w.nll;
	}
	if (!isfinite(nll))
		return fh_errf(err, -EDOM, "the model's logits are not finite numbers; its weights may be damaged");
	printf("{\"perplexity\":%.4f,\"nll\":%.6f,\"tokens_scored\":%u,\"windows\":%u,\"window\":%u}\n",
	       exp(nll / scored), nll, scored, nr_windows, window);
	return 0;
}

static int score_text(struct scorer *s, const char *path, uint32_t window, struct fh_err *err)
{
	struct fh_tokenizer *tok = NULL;
	uint32_t *ids = NULL, nr = 0, bos;
	char *text = NULL;
	size_t bytes;
	int rc;

	rc = read_file(path, &text, &bytes, err);
	rc = rc ?: fh_tokenizer_open(s->dev.model->gguf, &tok, err);
	if (rc)
		goto out;
	rc = fh_tokenize(tok, text, bytes, FH_TOK_BOS, &ids, &nr);
	if (rc) {
		fh_errf(err, rc, "%s: cannot be tokenized", path);
		goto out;
	}
	bos = fh_tokenizer_bos(tok);
	if (!nr || ids[0] != bos)
		bos = FH_NO_TOKEN; /* the model wants none */
	rc = score_windows(s, ids, nr, window, bos, err);
out:
	free(ids);
	fh_tokenizer_close(tok);
	free(text);
	return rc;
}

static int open_scorer(struct scorer *s, const struct options *o, struct fh_err *err)
{
	struct fh_accel_config cfg = {
		.nr_threads = o->nr_threads,
		.max_seqs = 1,
		.max_tokens = o->chunk,
		.max_logits = o->chunk,
		.max_blocks_per_seq = (o->ctx + FH_KV_BLOCK - 1) / FH_KV_BLOCK,
		.kv_type = o->kv,
		.isa = o->isa,
	};
	int rc;

	rc = device_open(&s->dev, o->model, o->device, &cfg, err);
	if (rc)
		return rc;
	s->nr_ctx = o->ctx < s->dev.info.nr_ctx ? o->ctx : s->dev.info.nr_ctx;
	s->nr_top = o->nr_top < s->dev.info.nr_vocab ? o->nr_top : s->dev.info.nr_vocab;
	/* The model's vocabulary decides how many rows of logits fit at once. */
	s->chunk = (uint32_t)(LOGITS_BYTES / sizeof(float) / s->dev.info.nr_vocab);
	s->chunk = s->chunk < 1 ? 1 : s->chunk < o->chunk ? s->chunk : o->chunk;
	s->logits = malloc(sizeof(float) * s->chunk * s->dev.info.nr_vocab);
	s->best = malloc(sizeof(*s->best) * (s->nr_top + 1));
	if (!s->logits || !s->best)
		return fh_errf(err, -ENOMEM, "out of memory");
	if (o->text && o->window > s->nr_ctx)
		return fh_errf(err, -EINVAL, "--window %u: the context is %u", o->window, s->nr_ctx);
	return 0;
}

static bool parse_options(int argc, char **argv, struct options *o, int *status)
{
	static const struct option longs[] = {
		{"model", required_argument, NULL, 'm'},   {"logits", required_argument, NULL, 'l'},
		{"text", required_argument, NULL, 't'},	   {"window", required_argument, NULL, 'w'},
		{"ctx", required_argument, NULL, 'c'},	   {"chunk", required_argument, NULL, 'k'},
		{"threads", required_argument, NULL, 'n'}, {"isa", required_argument, NULL, 'i'},
		{"device", required_argument, NULL, 'D'},  {"kv-type", required_argument, NULL, 'v'},
		{"help", no_argument, NULL, 'h'},	   {0},
	};
	bool ok = true;
	int c;

	*status = 2;
	optind = 1;
	while (ok && (c = getopt_long(argc, argv, "m:h", longs, NULL)) != -1) {
		switch (c) {
		case 'm': o->model = optarg; break;
		case 'l': ok = device_number("--logits", optarg, 0, MAX_TOP, &o->nr_top); break;
		case 't': o->text = optarg; break;
		case 'w': ok = device_number("--window", optarg, 4, 1 << 20, &o->window); break;
		case 'c': ok = device_number("--ctx", optarg, 1, 1 << 24, &o->ctx); break;
		case 'k': ok = device_number("--chunk", optarg, 1, 4096, &o->chunk); break;
		case 'n': ok = device_number("--threads", optarg, 1, 1024, &o->nr_threads); break;
		case 'i': o->isa = optarg; break;
		case 'D': o->device = optarg; break;
		case 'v':
			ok = !device_kv_type(optarg, &o->kv);
			if (!ok)
				fprintf(stderr, "freehold: --kv-type %s: f32, f16, bf16 or q8_0 is wanted\n", optarg);
			break;
		case 'h':
			fputs(usage, stdout);
			*status = 0;
			return false;
		default: ok = false;
		}
	}
	if (ok && (!o->model || optind != argc)) {
		fputs(usage, stderr);
		ok = false;
	}
	return ok;
}

int cmd_score(int argc, char **argv)
{
	struct options o = {.nr_top = 5, .ctx = 4096, .window = 512, .chunk = 64, .kv = FH_KV_F32};
	struct fh_err err = {.msg = ""};
	struct scorer s = {.nr_ctx = 0};
	int rc, status;

	if (!parse_options(argc, argv, &o, &status))
		return status;
	rc = open_scorer(&s, &o, &err);
	if (!rc)
		rc = o.text ? score_text(&s, o.text, o.window, &err) : score_stdin(&s, &err);
	if (rc)
		fprintf(stderr, "freehold: score: %s\n", err.msg);
	free(s.logits);
	free(s.best);
	device_close(&s.dev);
	return rc ? 1 : 0;
}
