// SPDX-License-Identifier: Apache-2.0
/*
 * freehold bench speculate: what guessing tokens brings, through the real
 * engine, without and with it in turn.
 *
 * The prompt repeats itself: a text, or ids one after the other, several times
 * over; a model of `freehold synth --repeat` goes on with those.  Answers are
 * greedy; both ways must give the same tokens, or there is no figure but an
 * error.  The rate is of the tokens from when every answer has its first one.
 */
#include <getopt.h>
#include <inttypes.h>
#include <jansson.h>
#include <stdlib.h>
#include <string.h>

#include "runtime/base/clock.h"
#include "runtime/daemon/core.h"
#include "runtime/net/fake.h"
#include "tools/bench.h"
#include "tools/device.h"

#define MAX_REPS 1000u
#define FIRST_ID 1024u /* about; where a circle of the prompt's length begins */
#define SLOTS 256u     /* token slots of a request, as HTTP gives */

struct options {
	const char *model, *draft, *isa, *text;
	uint32_t prompt, repeat, gen, batch, tokens, threads, reps;
	bool json;
};

struct bench;

struct answer {
	struct fh_fake_call call;
	struct bench *b;
	uint32_t *ids; /* [gen] */
	uint32_t nr;
};

/* What one way gave. */
struct way {
	double rate[MAX_REPS]; /* tokens a second, a round each */
	uint32_t *ids;	       /* [batch, gen] of the first round */
	uint64_t nr_steps, draft_tokens, accepted_tokens;
};

struct bench {
	const struct options *o;
	struct fhd_config cfg;
	struct fhd_core core;
	uint32_t *prompt, nr_prompt;
	struct answer *answer; /* [batch] */
	uint32_t nr_started;   /* answers with a token */
	uint64_t nr_tokens, begin_ns;
	struct way plain, guessing;
};

static const char usage[] =
	"usage: freehold bench speculate -m MODEL [options]\n"
	"\n"
	"  -m, --model MODEL         a GGUF file\n"
	"      --draft-model FILE    a smaller model that guesses, too (default: none)\n"
	"      --text TEXT           the prompt's text (default: ids in a row)\n"
	"      --prompt N            so many ids (default 64)\n"
	"      --repeat N            times that the prompt says it (default 3)\n"
	"      --gen N               tokens of each answer (default 256)\n"
	"      --batch B             requests side by side (default 1)\n"
	"      --speculate-tokens K  guesses of each in a step, at most (default: serve's)\n"
	"      --threads T           (default: as many as this process may use)\n"
	"      --reps R              rounds of each way, of which the median is told (default 5)\n"
	"      --isa NAME            ref, avx2, avx512 or avx512_bf16 (default: the best)\n"
	"      --json                one JSON object instead of lines for people\n"
	"\n"
	"examples:\n"
	"  freehold bench speculate -m model.gguf --text 'All work and no play makes Jack a dull boy. ' --json\n"
	"  freehold synth --shape tinyllama-1.1b --type Q4_K --repeat 64 -o r.gguf\n"
	"  freehold bench speculate -m r.gguf\n";

static int by_value(const void *a, const void *b)
{
	double x = *(const double *)a, y = *(const double *)b;

	return (x > y) - (x < y);
}

static double median(const double *v, uint32_t n)
{
	static double sorted[MAX_REPS];

	memcpy(sorted, v, n * sizeof(*v));
	qsort(sorted, n, sizeof(*sorted), by_value);
	return n % 2 ? sorted[n / 2] : (sorted[n / 2 - 1] + sorted[n / 2]) / 2;
}

static int on_slot(void *ctx, const struct fh_slot *slot, const struct fh_top *top)
{
	struct answer *a = ctx;

	(void)top;
	if (slot->flags & FH_SLOT_NO_TOKEN)
		return 0;
	a->ids[a->nr++] = slot->token;
	a->b->nr_tokens++;
	/* From here on all write. */
	if (a->nr == 1 && ++a->b->nr_started == a->b->o->batch) {
		a->b->nr_tokens = 0;
		a->b->begin_ns = fh_now_ns();
	}
	return 0;
}

/* All requests once, on engine @e. *rate: tokens a second from when each has its first. */
static int ask(struct bench *b, struct fh_fake *f, double *rate, struct fh_err *err)
{
	uint64_t done_ns = 0;
	int rc = 0;

	b->nr_started = 0;
	for (uint32_t i = 0; i < b->o->batch && !rc; i++) {
		struct answer *a = &b->answer[i];

		fh_fake_call_init(&a->call);
		a->nr = 0;
		a->b = b;
		a->call.req.prompt = b->prompt;
		a->call.req.nr_prompt = b->nr_prompt;
		a->call.req.max_tokens = b->o->gen;
		a->call.req.nr_slots = SLOTS;
		a->call.req.ignore_eos = true;
		a->call.on_slot = on_slot;
		a->call.ctx = a;
		rc = fh_fake_submit(f, &a->call, NULL, err);
	}
	while (!rc && fh_fake_poll(f, true))
		;
	for (uint32_t i = 0; i < b->o->batch && !rc; i++) {
		const struct fh_request *r = &b->answer[i].call.req;

		if (r->error || b->answer[i].nr != b->o->gen)
			rc = fh_errf(err, -EIO, "an answer has %u tokens, not %u", b->answer[i].nr, b->o->gen);
		done_ns = r->done_ns > done_ns ? r->done_ns : done_ns;
	}
	*rate = (double)b->nr_tokens / ((double)(done_ns - b->begin_ns) * 1e-9);
	return rc;
}

/* The answers of this round are those of the first round, and of the other way. */
static int compare(struct bench *b, struct way *w, struct fh_err *err)
{
	for (uint32_t i = 0; i < b->o->batch; i++) {
		size_t at = (size_t)i * b->o->gen, bytes = b->o->gen * sizeof(*w->ids);

		if (!w->nr_steps)
			memcpy(w->ids + at, b->answer[i].ids, bytes);
		if (memcmp(w->ids + at, b->answer[i].ids, bytes) || memcmp(b->plain.ids + at, w->ids + at, bytes))
			return fh_errf(err, -EILSEQ, "guesses changed the answer: this is a mistake of freehold's");
	}
	return 0;
}

/* One round of one way, on an engine of its own over the same weights. */
static int run_way(struct bench *b, struct way *w, uint32_t spec_tokens, uint32_t round, struct fh_err *err)
{
	struct fh_engine_config ec;
	struct fh_engine_stats st;
	struct fh_engine *e = NULL;
	struct fh_fake *f = NULL;
	struct fh_service svc = b->core.svc;
	double rate = 0;
	int rc;

	fhd_core_engine_config(&b->core, &ec);
	ec.spec_tokens = spec_tokens;
	ec.prefix_cache = false;
	rc = fh_engine_create(&ec, &e, err);
	if (rc)
		return rc;
	b->core.engine = e; /* whom the service speaks to */
	rc = fh_fake_create(&svc, &f, err);
	if (!rc)
		rc = fh_engine_attach(e, fh_fake_frontend(f), err);
	if (!rc)
		rc = fh_engine_start(e, err);
	/* Caches and the measure of costs warm up in the first answer. */
	if (!rc)
		rc = ask(b, f, &rate, err);
	if (!rc)
		rc = ask(b, f, &rate, err);
	if (!rc)
		rc = compare(b, w, err);
	w->rate[round] = rate;
	fh_engine_stats(e, &st);
	w->nr_steps += st.nr_steps;
	w->draft_tokens += st.draft_tokens;
	w->accepted_tokens += st.accepted_tokens;
	fh_engine_stop(e, 0);
	if (f) {
		fh_engine_detach(e, fh_fake_frontend(f));
		fh_fake_destroy(f);
	}
	fh_engine_destroy(e);
	b->core.engine = NULL;
	return rc;
}

static void report(const struct bench *b)
{
	const struct options *o = b->o;
	double plain = median(b->plain.rate, o->reps), guessing = median(b->guessing.rate, o->reps);
	double right = b->guessing.draft_tokens ? (double)b->guessing.accepted_tokens / b->guessing.draft_tokens : 0;
	uint32_t k = fhd_config_spec_tokens(&b->cfg);
	json_t *j;

	if (!o->json) {
		printf("%s on %s, %u threads, batch %u, %u tokens after %u, %u guesses at most\n", b->core.model->name,
		       b->core.info.name, b->core.info.nr_threads, o->batch, o->gen, b->nr_prompt, k);
		printf("decode: %.1f tokens/s plain, %.1f speculating: %.2fx; the same tokens\n", plain, guessing,
		       guessing / plain);
		printf("guesses: %" PRIu64 ", %.0f %% of them right; %" PRIu64 " steps instead of %" PRIu64 "\n",
		       b->guessing.draft_tokens, right * 100, b->guessing.nr_steps, b->plain.nr_steps);
		return;
	}
	j = json_pack("{ss ss ss si si si si si si sf sf sf sI sI sI sI}", "model", b->core.model->name, "file",
		      o->model, "device", b->core.info.name, "threads", (int)b->core.info.nr_threads, "prompt",
		      (int)b->nr_prompt, "gen", (int)o->gen, "batch", (int)o->batch, "reps", (int)o->reps,
		      "speculate_tokens", (int)k, "plain_tokens_per_s", plain, "speculating_tokens_per_s", guessing,
		      "ratio", guessing / plain, "draft_tokens", (json_int_t)b->guessing.draft_tokens,
		      "accepted_tokens", (json_int_t)b->guessing.accepted_tokens, "plain_steps",
		      (json_int_t)b->plain.nr_steps, "speculating_steps", (json_int_t)b->guessing.nr_steps);
	if (j) {
		json_dumpf(j, stdout, JSON_REAL_PRECISION(8));
		putchar('\n');
		json_decref(j);
	}
}

/* The prompt: --text, or ids in a row, --repeat times. */
static int make_prompt(struct bench *b, struct fh_err *err)
{
	const struct options *o = b->o;
	uint32_t *ids = NULL, nr = o->prompt;

	if (o->text) {
		if (fh_tokenize(b->core.tok, o->text, strlen(o->text), 0, &ids, &nr) || !nr) {
			free(ids);
			return fh_errf(err, -EINVAL, "--text cannot be tokenized");
		}
	} else {
		ids = calloc(nr, sizeof(*ids));
		for (uint32_t i = 0; ids && i < nr; i++)
			ids[i] = (FIRST_ID / nr * nr + i) % b->core.model->nr_vocab;
	}
	b->nr_prompt = nr * o->repeat;
	b->prompt = calloc(b->nr_prompt, sizeof(*b->prompt));
	if (!ids || !b->prompt) {
		free(ids);
		return fh_errf(err, -ENOMEM, "out of memory");
	}
	for (uint32_t i = 0; i < b->nr_prompt; i++)
		b->prompt[i] = ids[i % nr];
	free(ids);
	return 0;
}

static int open_bench(struct bench *b, struct fh_err *err)
{
	const struct options *o = b->o;
	size_t nr = (size_t)o->batch * o->gen;
	int rc = fhd_core_open(&b->core, &b->cfg, err);

	if (!rc)
		rc = make_prompt(b, err);
	if (rc)
		return rc;
	b->answer = aligned_alloc(_Alignof(struct answer), o->batch * sizeof(*b->answer));
	b->plain.ids = calloc(3 * nr, sizeof(uint32_t));
	if (!b->answer || !b->plain.ids)
		return fh_errf(err, -ENOMEM, "out of memory");
	memset(b->answer, 0, o->batch * sizeof(*b->answer));
	b->guessing.ids = b->plain.ids + nr;
	for (uint32_t i = 0; i < o->batch; i++)
		b->answer[i].ids = b->plain.ids + 2 * nr + (size_t)i * o->gen;
	return fhd_core_load(&b->core, err);
}

static bool parse_options(int argc, char **argv, struct options *o, int *status)
{
	static const struct option longs[] = {
		{"model", required_argument, NULL, 'm'},
		{"draft-model", required_argument, NULL, 'd'},
		{"text", required_argument, NULL, 'x'},
		{"prompt", required_argument, NULL, 'p'},
		{"repeat", required_argument, NULL, 'n'},
		{"gen", required_argument, NULL, 'g'},
		{"batch", required_argument, NULL, 'b'},
		{"reps", required_argument, NULL, 'r'},
		{"speculate-tokens", required_argument, NULL, 'k'},
		{"isa", required_argument, NULL, 'i'},
		{"threads", required_argument, NULL, 't'},
		{"json", no_argument, NULL, 'j'},
		{"help", no_argument, NULL, 'h'},
		{0},
	};
	bool ok = true;
	int c;

	*status = 2;
	optind = 1;
	while (ok && (c = getopt_long(argc, argv, "m:h", longs, NULL)) != -1) {
		switch (c) {
		case 'm': o->model = optarg; break;
		case 'x': o->text = optarg; break;
		case 'd': o->draft = optarg; break;
		case 'p': ok = device_number("--prompt", optarg, 1, 1 << 16, &o->prompt); break;
		case 'n': ok = device_number("--repeat", optarg, 1, 1 << 10, &o->repeat); break;
		case 'g': ok = device_number("--gen", optarg, 2, 1 << 16, &o->gen); break;
		case 'b': ok = device_number("--batch", optarg, 1, 1024, &o->batch); break;
		case 'k': ok = device_number("--speculate-tokens", optarg, 1, FH_SPEC_MAX, &o->tokens); break;
		case 't': ok = device_number("--threads", optarg, 1, 1024, &o->threads); break;
		case 'r': ok = device_number("--reps", optarg, 1, MAX_REPS, &o->reps); break;
		case 'i': o->isa = optarg; break;
		case 'j': o->json = true; break;
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

/* The settings of `serve`, but for what the options say. */
static int configure(struct bench *b, struct fh_err *err)
{
	const struct options *o = b->o;
	char *argv[8] = {(char *)"bench", (char *)"--model", (char *)o->model};
	int argc = 3, rc;

	if (o->isa) {
		argv[argc++] = (char *)"--isa";
		argv[argc++] = (char *)o->isa;
	}
	if (o->draft) {
		argv[argc++] = (char *)"--draft-model";
		argv[argc++] = (char *)o->draft;
	}
	rc = fhd_config_load(&b->cfg, FHD_USE_SERVE, argc, argv, NULL, err);
	if (rc)
		return rc;
	b->cfg.threads = o->threads;
	b->cfg.max_seqs = o->batch;
	b->cfg.pin_memory = false;
	if (b->cfg.step_tokens < o->batch)
		b->cfg.step_tokens = o->batch;
	if (o->tokens)
		b->cfg.speculate_tokens = o->tokens;
	return 0;
}

int bench_speculate(int argc, char **argv)
{
	struct options o = {.prompt = 64, .repeat = 3, .gen = 256, .batch = 1, .reps = 5};
	struct fh_err err = {.msg = ""};
	struct bench *b;
	int rc, status;

	if (!parse_options(argc, argv, &o, &status))
		return status;
	b = calloc(1, sizeof(*b));
	if (!b)
		return 1;
	b->o = &o;
	rc = configure(b, &err);
	if (!rc)
		rc = open_bench(b, &err);
	for (uint32_t r = 0; r < o.reps && !rc; r++) {
		rc = run_way(b, &b->plain, 0, r, &err);
		if (!rc)
			rc = run_way(b, &b->guessing, fhd_config_spec_tokens(&b->cfg), r, &err);
	}
	if (rc)
		fprintf(stderr, "freehold: bench: %s\n", err.msg);
	else
		report(b);
	fhd_core_close(&b->core);
	fhd_config_free(&b->cfg);
	free(b->prompt);
	free(b->answer);
	free(b->plain.ids);
	free(b);
	return rc ? 1 : 0;
}
