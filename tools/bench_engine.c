// SPDX-License-Identifier: Apache-2.0
/*
 * freehold bench engine: how fast a model reads prompts (prefill) and writes
 * (decode), without server, tokenizer or scheduler.
 *
 * Prompts are random ids; decoding is greedy, each step one token for each
 * sequence of the batch, and goes on from the prompt; both stand after --depth
 * tokens of context, which are read once.  One round more than is counted warms
 * the caches.  Medians, with the least and the most beside them.
 */
#include <getopt.h>
#include <jansson.h>
#include <stdlib.h>
#include <string.h>

#include "runtime/base/clock.h"
#include "tools/bench.h"
#include "tools/device.h"

#define MAX_REPS 1000u

struct options {
	const char *model, *device, *isa;
	uint32_t depth, prompt, gen, batch, threads, reps, chunk;
	enum fh_kv_type kv;
	bool json;
};

struct samples {
	double v[MAX_REPS];
	uint32_t n;
};

struct bench {
	const struct options *o;
	struct device dev;
	uint32_t *tokens; /* [max(chunk, batch)] of a step */
	uint32_t *prompt; /* [batch, max(prompt, depth)] */
	struct fh_batch_seq *seqs;
	struct fh_slot *slots; /* [batch] */
	struct fh_sampling sampling;
	struct samples prefill, decode, ttft_ms;
	double load_s;
};

static const char usage[] =
	"usage: freehold bench engine -m MODEL [options]\n"
	"\n"
	"  -m, --model MODEL  a GGUF file\n"
	"      --depth N      context that is there before the prompt, read once and not timed (default 0)\n"
	"      --prompt N     tokens of each prompt (default 256; 0: none)\n"
	"      --gen N        tokens written after it (default 64; 0: none)\n"
	"      --batch B      sequences side by side (default 1)\n"
	"      --threads T    (default: as many as this process may use)\n"
	"      --reps R       rounds, of which the median is told (default 5)\n"
	"      --chunk N      prompt tokens in one step (default 512)\n"
	"      --isa NAME     ref, avx2, avx512 or avx512_bf16 (default: the best)\n"
	"      --device D     auto, cpu or cuda[:N] (default: auto, the CPU)\n"
	"      --kv-type T    f16, bf16, q8_0 or f32 (default f16)\n"
	"      --json         one JSON object instead of lines for people\n"
	"\n"
	"example: freehold bench engine -m model.gguf --prompt 256 --gen 64 --batch 8 --threads 2 --json\n";

static int by_value(const void *a, const void *b)
{
	double x = *(const double *)a, y = *(const double *)b;

	return (x > y) - (x < y);
}

static double median(struct samples *s)
{
	if (!s->n)
		return 0;
	qsort(s->v, s->n, sizeof(s->v[0]), by_value);
	return s->n % 2 ? s->v[s->n / 2] : (s->v[s->n / 2 - 1] + s->v[s->n / 2]) / 2;
}

static int run_step(struct bench *b, uint32_t nr_seqs, uint32_t nr_tokens)
{
	struct fh_batch batch = {.nr_seqs = nr_seqs, .nr_tokens = nr_tokens, .tokens = b->tokens, .seqs = b->seqs};
	int rc = b->dev.accel->ops->submit(b->dev.accel, &batch);

	return rc ?: b->dev.accel->ops->reap(b->dev.accel, true);
}

static struct fh_batch_seq *add_seq(struct bench *b, uint32_t *nr_seqs, uint32_t seq, uint32_t at, uint32_t q_start,
				    uint32_t q_len)
{
	struct fh_batch_seq *s = &b->seqs[(*nr_seqs)++];

	*s = (struct fh_batch_seq){
		.seq = seq,
		.q_start = q_start,
		.q_len = q_len,
		.pos = at,
		.nr_blocks = b->dev.max_blocks,
		.blocks = b->dev.blocks + (size_t)seq * b->dev.max_blocks,
	};
	return s;
}

static void want_token(struct bench *b, struct fh_batch_seq *s, uint32_t index)
{
	s->sampling = &b->sampling;
	s->slot = &b->slots[s->seq];
	s->index = index;
	s->history = b->prompt;
	s->nr_prompt = s->nr_history = 1;
}

/*
 * @len tokens of each sequence from position @from on, as many a step as the
 * chunk holds; *ttft_ns: until the first sequence's first token.
 */
static int run_prefill(struct bench *b, uint32_t from, uint32_t len, uint64_t *ttft_ns)
{
	uint32_t total = len * b->o->batch;
	uint64_t begin = fh_now_ns();

	*ttft_ns = 0;
	for (uint32_t at = 0, nr; at < total; at += nr) {
		uint32_t nr_seqs = 0, q = 0, left;
		int rc;

		nr = total - at < b->o->chunk ? total - at : b->o->chunk;
		memcpy(b->tokens, b->prompt + at, sizeof(*b->tokens) * nr);
		for (; q < nr; q += left) {
			uint32_t seq = (at + q) / len, pos = (at + q) % len;
			struct fh_batch_seq *s;

			left = len - pos < nr - q ? len - pos : nr - q;
			s = add_seq(b, &nr_seqs, seq, from + pos, q, left);
			if (pos + left == len)
				want_token(b, s, 0);
		}
		rc = run_step(b, nr_seqs, nr);
		if (rc)
			return rc;
		if (!*ttft_ns && at + nr >= len)
			*ttft_ns = fh_now_ns() - begin;
	}
	return 0;
}

static int run_decode(struct bench *b)
{
	uint32_t before = b->o->depth + b->o->prompt, from = before ? before : 1;

	for (uint32_t i = 0; i < b->o->gen; i++) {
		uint32_t nr_seqs = 0;
		int rc;

		for (uint32_t seq = 0; seq < b->o->batch; seq++) {
			b->tokens[seq] = FH_TOKEN_PREV;
			want_token(b, add_seq(b, &nr_seqs, seq, from + i, seq, 1), i + 1);
		}
		rc = run_step(b, nr_seqs, b->o->batch);
		if (rc)
			return rc;
	}
	return 0;
}

static void note(struct samples *s, double v)
{
	if (s->n < MAX_REPS)
		s->v[s->n++] = v;
}

static int run_rounds(struct bench *b)
{
	uint64_t ttft;
	int rc = run_prefill(b, 0, b->o->depth, &ttft);

	for (uint32_t r = 0; r <= b->o->reps && !rc; r++) {
		uint64_t t0 = fh_now_ns(), t1, t2;

		rc = run_prefill(b, b->o->depth, b->o->prompt, &ttft);
		t1 = fh_now_ns();
		rc = rc ?: run_decode(b);
		t2 = fh_now_ns();
		if (rc || !r)
			continue; /* the warm-up */
		if (b->o->prompt) {
			note(&b->prefill, (double)b->o->prompt * b->o->batch / ((double)(t1 - t0) * 1e-9));
			note(&b->ttft_ms, (double)ttft * 1e-6);
		}
		if (b->o->gen)
			note(&b->decode, (double)b->o->gen * b->o->batch / ((double)(t2 - t1) * 1e-9));
	}
	return rc;
}

static json_t *spread(const struct samples *s) /* sorted by median() */
{
	return json_pack("[ff]", s->n ? s->v[0] : 0.0, s->n ? s->v[s->n - 1] : 0.0);
}

static void report(struct bench *b)
{
	double prefill = median(&b->prefill), decode = median(&b->decode), ttft = median(&b->ttft_ms);
	const struct options *o = b->o;
	json_t *j;

	if (!o->json) {
		printf("%s on %s, %u threads, batch %u", b->dev.model->name, b->dev.info.name, b->dev.info.nr_threads,
		       o->batch);
		if (o->depth)
			printf(", after %u tokens", o->depth);
		putchar('\n');
		if (o->prompt)
			printf("prefill %u: %.1f tokens/s (%.1f to %.1f), first token after %.2f ms\n", o->prompt,
			       prefill, b->prefill.v[0], b->prefill.v[b->prefill.n - 1], ttft);
		if (o->gen)
			printf("decode %u: %.1f tokens/s (%.1f to %.1f)\n", o->gen, decode, b->decode.v[0],
			       b->decode.v[b->decode.n - 1]);
		return;
	}
	j = json_pack("{ss ss ss ss si si si si si si si sf so sf so sf sf sI}", "model", b->dev.model->name, "file",
		      o->model, "arch", b->dev.model->arch, "device", b->dev.info.name, "threads",
		      (int)b->dev.info.nr_threads, "depth", (int)o->depth, "prompt", (int)o->prompt, "gen", (int)o->gen,
		      "batch", (int)o->batch, "chunk", (int)o->chunk, "reps", (int)o->reps, "prefill_tokens_per_s",
		      prefill, "prefill_spread", spread(&b->prefill), "decode_tokens_per_s", decode, "decode_spread",
		      spread(&b->decode), "ttft_ms", ttft, "load_s", b->load_s, "weight_bytes",
		      (json_int_t)b->dev.info.weight_bytes);
	if (j) {
		json_dumpf(j, stdout, JSON_REAL_PRECISION(8));
		putchar('\n');
		json_decref(j);
	}
}

static int open_bench(struct bench *b, struct fh_err *err)
{
	const struct options *o = b->o;
	uint32_t len = o->depth + o->prompt + o->gen + 1, step = o->chunk > o->batch ? o->chunk : o->batch;
	struct fh_accel_config cfg = {
		.nr_threads = o->threads,
		.max_seqs = o->batch,
		.max_tokens = step,
		.max_logits = o->batch,
		.max_blocks_per_seq = (len + FH_KV_BLOCK - 1) / FH_KV_BLOCK,
		.kv_type = o->kv,
		.isa = o->isa,
	};
	uint64_t begin = fh_now_ns(), random = 1;
	size_t nr = (size_t)(o->prompt > o->depth ? o->prompt : o->depth) * o->batch;
	int rc = device_open(&b->dev, o->model, o->device, &cfg, err);

	if (rc)
		return rc;
	b->load_s = (double)(fh_now_ns() - begin) * 1e-9;
	fh_sampling_default(&b->sampling);
	b->sampling.temperature = 0;
	b->tokens = calloc(step, sizeof(*b->tokens));
	b->prompt = calloc(nr + 1, sizeof(*b->prompt));
	b->seqs = calloc(o->batch, sizeof(*b->seqs));
	b->slots = calloc(o->batch, sizeof(*b->slots));
	if (!b->tokens || !b->prompt || !b->seqs || !b->slots)
		return fh_errf(err, -ENOMEM, "out of memory");
	for (size_t i = 0; i < nr; i++) {
		random = random * 6364136223846793005u + 1442695040888963407u;
		b->prompt[i] = (uint32_t)((random >> 33) % b->dev.info.nr_vocab);
	}
	return 0;
}

static bool parse_options(int argc, char **argv, struct options *o, int *status)
{
	static const struct option longs[] = {
		{"model", required_argument, NULL, 'm'},   {"depth", required_argument, NULL, 'd'},
		{"prompt", required_argument, NULL, 'p'},  {"gen", required_argument, NULL, 'g'},
		{"batch", required_argument, NULL, 'b'},   {"threads", required_argument, NULL, 't'},
		{"reps", required_argument, NULL, 'r'},	   {"chunk", required_argument, NULL, 'k'},
		{"isa", required_argument, NULL, 'i'},	   {"device", required_argument, NULL, 'D'},
		{"kv-type", required_argument, NULL, 'v'}, {"json", no_argument, NULL, 'j'},
		{"help", no_argument, NULL, 'h'},	   {0},
	};
	bool ok = true;
	int c;

	*status = 2;
	optind = 1;
	while (ok && (c = getopt_long(argc, argv, "m:h", longs, NULL)) != -1) {
		switch (c) {
		case 'm': o->model = optarg; break;
		case 'd': ok = device_number("--depth", optarg, 0, 1 << 20, &o->depth); break;
		case 'p': ok = device_number("--prompt", optarg, 0, 1 << 20, &o->prompt); break;
		case 'g': ok = device_number("--gen", optarg, 0, 1 << 20, &o->gen); break;
		case 'b': ok = device_number("--batch", optarg, 1, 1024, &o->batch); break;
		case 't': ok = device_number("--threads", optarg, 1, 1024, &o->threads); break;
		case 'r': ok = device_number("--reps", optarg, 1, MAX_REPS, &o->reps); break;
		case 'k': ok = device_number("--chunk", optarg, 1, 8192, &o->chunk); break;
		case 'i': o->isa = optarg; break;
		case 'D': o->device = optarg; break;
		case 'j': o->json = true; break;
		case 'v':
			ok = !device_kv_type(optarg, &o->kv);
			if (!ok)
				fprintf(stderr, "freehold: --kv-type %s: f16, bf16, q8_0 or f32 is wanted\n", optarg);
			break;
		case 'h':
			fputs(usage, stdout);
			*status = 0;
			return false;
		default: ok = false;
		}
	}
	if (ok && (!o->model || optind != argc || (!o->prompt && !o->gen))) {
		fputs(usage, stderr);
		ok = false;
	}
	return ok;
}

int bench_engine(int argc, char **argv)
{
	struct options o = {.prompt = 256, .gen = 64, .batch = 1, .reps = 5, .chunk = 512};
	struct fh_err err = {.msg = ""};
	struct bench *b;
	int rc, status;

	if (!parse_options(argc, argv, &o, &status))
		return status;
	b = calloc(1, sizeof(*b));
	if (!b)
		return 1;
	b->o = &o;
	rc = open_bench(b, &err);
	if (!rc) {
		rc = run_rounds(b);
		if (rc)
			fh_errf(&err, rc, "the accelerator refused a step");
	}
	if (rc)
		fprintf(stderr, "freehold: bench: %s\n", err.msg);
	else
		report(b);
	free(b->tokens);
	free(b->prompt);
	free(b->seqs);
	free(b->slots);
	device_close(&b->dev);
	free(b);
	return rc ? 1 : 0;
}
