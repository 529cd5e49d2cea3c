// SPDX-License-Identifier: Apache-2.0
/* The options of freehold bench serve; see bench_serve.h. */
#include <getopt.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "tools/bench_serve.h"

const char serve_usage[] =
	"usage: freehold bench serve --url URL (--request-rate R | --max-concurrency C | --trace FILE) [options]\n"
	"       freehold bench serve --compare A.json B.json [--svg FILE]\n"
	"\n"
	"Drives any OpenAI-compatible server, or Freehold over its channels and UDP, and tells how long its answers "
	"took,\n"
	"counted from when each request was to leave. Names are those of `vllm bench serve` where they mean the same.\n"
	"\n"
	"the server\n"
	"  --url URL                http://HOST:PORT[/PREFIX], https://...; http+unix:PATH, HTTP over a Unix socket\n"
	"                           (also unix:PATH);\n"
	"                           channel:dev, rings in memory by way of the kernel module; channel:unix:PATH, the\n"
	"                           same by way of a daemon's channel socket; udp://KEY@HOST:PORT, encrypted UDP\n"
	"                           packets (FREEHOLD_UDP_KEY names this client's key file)\n"
	"  --cacert FILE            https: CAs (PEM) that may certify the server (default: those of the system)\n"
	"  -k, --insecure           https: take any certificate\n"
	"  --channels N             open at once; requests are spread over them (default 1)\n"
	"  --endpoint PATH          /v1/completions (the default) or /v1/chat/completions\n"
	"  --model NAME             (default: the first of /v1/models)\n"
	"  --header 'NAME: VALUE'   one more in each request; OPENAI_API_KEY is sent as a bearer token\n"
	"  --extra-body JSON        an object whose members each body gets\n"
	"  --temperature T          (default 0)\n"
	"  --no-ignore-eos          let answers end before their length\n"
	"  --no-stream              ask for whole answers\n"
	"  --timeout S              of a request (default 600)\n"
	"\n"
	"when requests leave\n"
	"  --num-prompts N          (default 1000)\n"
	"  --duration S             as many as are due in S seconds, instead\n"
	"  --request-rate R         a second; inf: all at once\n"
	"  --arrivals A             poisson (the default), constant, gamma:SHAPE, burst:N\n"
	"  --burstiness SHAPE       gamma:SHAPE\n"
	"  --ramp-to R              the rate moves there evenly\n"
	"  --trace FILE             arrivals and lengths from BurstGPT, Azure or Mooncake; --request-rate rescales it\n"
	"  --trace-format F         auto (the default), burstgpt, azure, mooncake\n"
	"  --max-concurrency C      at most C at once; without a rate: a closed loop of C clients\n"
	"  --num-warmups N          requests before that are not counted (default 1)\n"
	"  --seed N                 of arrivals, lengths and prompts (default 1)\n"
	"\n"
	"what they ask\n"
	"  --input-len L            tokens: N, A:B, log:A:B or lognormal:MEDIAN:SIGMA (default 256)\n"
	"  --output-len L           (default 64)\n"
	"  --words                  prompts of words, not of random token ids (chat always has words)\n"
	"  --vocab-size N           ids are below (default: the server's word, else 32000)\n"
	"  --first-id N             and from here on (default 3)\n"
	"  --prefix-len N           tokens that prompts begin with in common (default 0)\n"
	"  --prefix-share S         share of the prompts that do (default 1)\n"
	"  --dataset-path FILE      prompts from a file: a line each, JSONL, or ShareGPT's JSON\n"
	"  --max-model-len N        longer prompts are cut (default: the server's word)\n"
	"  --same-prompts           the same prompts in each run of this seed; a prefix cache will know them\n"
	"\n"
	"what is wanted\n"
	"  --goodput ttft:MS tpot:MS e2el:MS\n"
	"                           count requests that met all that is named\n"
	"  --deadline-ttft-ms MS, --deadline-tpot-ms MS\n"
	"                           goals that are sent with each request, as x-freehold-ttft-ms and -tpot-ms, or in "
	"a\n"
	"                           channel's descriptors\n"
	"  --deadline-factor F      the same, F times the unloaded times of the prompt's length, measured before\n"
	"  --save-calibration FILE, --calibration FILE\n"
	"                           write those unloaded times; take them from there\n"
	"  --calibration-reps N     requests of each length (default 5); --calibrate-only: no more than that\n"
	"  --calibration-pause S    idle before each of them (default 0.2): who comes to a server that has nothing to "
	"do\n"
	"                           finds its caches and its clock cold\n"
	"  --search R               the largest rate that is kept, from R on: doubled, halved, bisected; the last two\n"
	"                           are tried again\n"
	"  --search-share S         kept means that this share of the requests met their goals (default 0.99)\n"
	"  --search-precision P     (default 0.05)\n"
	"  --search-time S          begin no probe that would end later (default 3600)\n"
	"  --sweep R1,R2,...        a run at each rate\n"
	"\n"
	"output\n"
	"  --json FILE              result; -: to standard output, and nothing else\n"
	"  --save-detailed          with the times of each request in it\n"
	"  --csv FILE               a line a request; of a search, of its last run\n"
	"  --svg FILE               latencies, or goals met over the rate\n"
	"  --plot                   the same on the terminal\n"
	"  --label TEXT             what JSON and plots call this server\n"
	"  --quiet                  no progress line\n"
	"  --epoll                  do not use io_uring\n"
	"\n"
	"examples:\n"
	"  freehold bench serve --url http://127.0.0.1:8080 --request-rate 4 --num-prompts 200 --goodput ttft:500 "
	"tpot:50\n"
	"  freehold bench serve --url http://127.0.0.1:8080 --max-concurrency 8 --input-len 32:512 --json r.json\n"
	"  freehold bench serve --url http://127.0.0.1:8080 --search 1 --duration 30 --goodput ttft:500 tpot:30\n"
	"  freehold bench serve --url channel:unix:/run/freehold/channel.sock --channels 4 --request-rate 100\n"
	"  freehold bench serve --url http://127.0.0.1:8080 --trace BurstGPT_1.csv --request-rate 2 --svg r.svg\n";

enum {
	OPT_URL = 256,
	OPT_CACERT,
	OPT_INSECURE,
	OPT_CHANNELS,
	OPT_ENDPOINT,
	OPT_MODEL,
	OPT_HEADER,
	OPT_EXTRA,
	OPT_TEMPERATURE,
	OPT_EOS,
	OPT_NO_EOS,
	OPT_NO_STREAM,
	OPT_TIMEOUT,
	OPT_NR,
	OPT_DURATION,
	OPT_RATE,
	OPT_ARRIVALS,
	OPT_BURSTINESS,
	OPT_RAMP,
	OPT_TRACE,
	OPT_TRACE_FORMAT,
	OPT_CONCURRENCY,
	OPT_WARMUPS,
	OPT_SEED,
	OPT_IN,
	OPT_OUT,
	OPT_WORDS,
	OPT_VOCAB,
	OPT_FIRST_ID,
	OPT_PREFIX,
	OPT_PREFIX_SHARE,
	OPT_DATASET,
	OPT_CTX,
	OPT_SAME,
	OPT_GOODPUT,
	OPT_D_TTFT,
	OPT_D_TPOT,
	OPT_D_FACTOR,
	OPT_CALIBRATION,
	OPT_SAVE_CALIBRATION,
	OPT_CALIBRATION_REPS,
	OPT_CALIBRATION_PAUSE,
	OPT_CALIBRATE_ONLY,
	OPT_SEARCH,
	OPT_SEARCH_SHARE,
	OPT_SEARCH_PRECISION,
	OPT_SEARCH_TIME,
	OPT_SWEEP,
	OPT_JSON,
	OPT_DETAILED,
	OPT_CSV,
	OPT_SVG,
	OPT_PLOT,
	OPT_LABEL,
	OPT_QUIET,
	OPT_EPOLL,
	OPT_COMPARE,
};

static const struct option longopts[] = {
	{"url", 1, NULL, OPT_URL},
	{"base-url", 1, NULL, OPT_URL},
	{"cacert", 1, NULL, OPT_CACERT},
	{"insecure", 0, NULL, OPT_INSECURE},
	{"channels", 1, NULL, OPT_CHANNELS},
	{"endpoint", 1, NULL, OPT_ENDPOINT},
	{"model", 1, NULL, OPT_MODEL},
	{"header", 1, NULL, OPT_HEADER},
	{"extra-body", 1, NULL, OPT_EXTRA},
	{"temperature", 1, NULL, OPT_TEMPERATURE},
	{"ignore-eos", 0, NULL, OPT_EOS},
	{"no-ignore-eos", 0, NULL, OPT_NO_EOS},
	{"no-stream", 0, NULL, OPT_NO_STREAM},
	{"timeout", 1, NULL, OPT_TIMEOUT},
	{"num-prompts", 1, NULL, OPT_NR},
	{"duration", 1, NULL, OPT_DURATION},
	{"request-rate", 1, NULL, OPT_RATE},
	{"arrivals", 1, NULL, OPT_ARRIVALS},
	{"burstiness", 1, NULL, OPT_BURSTINESS},
	{"ramp-to", 1, NULL, OPT_RAMP},
	{"trace", 1, NULL, OPT_TRACE},
	{"trace-format", 1, NULL, OPT_TRACE_FORMAT},
	{"max-concurrency", 1, NULL, OPT_CONCURRENCY},
	{"num-warmups", 1, NULL, OPT_WARMUPS},
	{"seed", 1, NULL, OPT_SEED},
	{"input-len", 1, NULL, OPT_IN},
	{"random-input-len", 1, NULL, OPT_IN},
	{"output-len", 1, NULL, OPT_OUT},
	{"random-output-len", 1, NULL, OPT_OUT},
	{"words", 0, NULL, OPT_WORDS},
	{"vocab-size", 1, NULL, OPT_VOCAB},
	{"first-id", 1, NULL, OPT_FIRST_ID},
	{"prefix-len", 1, NULL, OPT_PREFIX},
	{"random-prefix-len", 1, NULL, OPT_PREFIX},
	{"prefix-share", 1, NULL, OPT_PREFIX_SHARE},
	{"dataset-path", 1, NULL, OPT_DATASET},
	{"max-model-len", 1, NULL, OPT_CTX},
	{"same-prompts", 0, NULL, OPT_SAME},
	{"goodput", 1, NULL, OPT_GOODPUT},
	{"deadline-ttft-ms", 1, NULL, OPT_D_TTFT},
	{"deadline-tpot-ms", 1, NULL, OPT_D_TPOT},
	{"deadline-factor", 1, NULL, OPT_D_FACTOR},
	{"calibration", 1, NULL, OPT_CALIBRATION},
	{"save-calibration", 1, NULL, OPT_SAVE_CALIBRATION},
	{"calibration-reps", 1, NULL, OPT_CALIBRATION_REPS},
	{"calibration-pause", 1, NULL, OPT_CALIBRATION_PAUSE},
	{"calibrate-only", 0, NULL, OPT_CALIBRATE_ONLY},
	{"search", 1, NULL, OPT_SEARCH},
	{"search-share", 1, NULL, OPT_SEARCH_SHARE},
	{"search-precision", 1, NULL, OPT_SEARCH_PRECISION},
	{"search-time", 1, NULL, OPT_SEARCH_TIME},
	{"sweep", 1, NULL, OPT_SWEEP},
	{"json", 1, NULL, OPT_JSON},
	{"save-detailed", 0, NULL, OPT_DETAILED},
	{"csv", 1, NULL, OPT_CSV},
	{"svg", 1, NULL, OPT_SVG},
	{"plot", 0, NULL, OPT_PLOT},
	{"label", 1, NULL, OPT_LABEL},
	{"quiet", 0, NULL, OPT_QUIET},
	{"epoll", 0, NULL, OPT_EPOLL},
	{"compare", 1, NULL, OPT_COMPARE},
	{"help", 0, NULL, 'h'},
	{0},
};

static const char *name_of(int opt)
{
	for (const struct option *l = longopts; l->name; l++)
		if (l->val == opt)
			return l->name;
	return "";
}

static bool bad(int opt, const char *text, const char *want)
{
	fprintf(stderr, "freehold: bench serve: --%s %s: want %s\n", name_of(opt), text, want);
	return false;
}

static bool number(int opt, const char *text, double min, double max, double *out)
{
	char want[80], *end;

	*out = strtod(text, &end);
	if (end != text && !*end && *out >= min && *out <= max)
		return true;
	snprintf(want, sizeof(want), "a number from %g to %g", min, max);
	return bad(opt, text, want);
}

static bool whole(int opt, const char *text, uint32_t min, uint32_t max, uint32_t *out)
{
	char want[80], *end;
	unsigned long long v = strtoull(text, &end, 10);

	*out = (uint32_t)v;
	if (end != text && !*end && *text != '-' && v >= min && v <= max)
		return true;
	snprintf(want, sizeof(want), "a number from %u to %u", min, max);
	return bad(opt, text, want);
}

/* One of "ttft:MS", "tpot:MS", "e2el:MS". */
static bool goal(const char *text, struct load_goals *g)
{
	static const char names[3][6] = {"ttft:", "tpot:", "e2el:"};
	double *const into[3] = {&g->ttft_ms, &g->tpot_ms, &g->e2el_ms};

	for (int i = 0; i < 3; i++)
		if (!strncmp(text, names[i], 5))
			return number(OPT_GOODPUT, text + 5, 1e-3, 1e9, into[i]);
	return bad(OPT_GOODPUT, text, "ttft:MS, tpot:MS or e2el:MS");
}

/* Like vLLM's: the goals may follow as arguments of their own, or all in one. */
static bool goals(char *text, int argc, char **argv, struct load_goals *g)
{
	char *save = NULL;

	for (char *w = strtok_r(text, " ,", &save); w; w = strtok_r(NULL, " ,", &save))
		if (!goal(w, g))
			return false;
	while (optind < argc && strlen(argv[optind]) > 5 && argv[optind][4] == ':')
		if (!goal(argv[optind++], g))
			return false;
	return true;
}

static bool sweep(char *text, struct serve_options *o)
{
	char *save = NULL;

	o->nr_sweep = 0;
	for (char *w = strtok_r(text, " ,", &save); w; w = strtok_r(NULL, " ,", &save)) {
		if (o->nr_sweep == MAX_SWEEP)
			return bad(OPT_SWEEP, w, "at most 64 rates");
		if (!number(OPT_SWEEP, w, 1e-4, 1e7, &o->sweep[o->nr_sweep++]))
			return false;
	}
	return o->nr_sweep || bad(OPT_SWEEP, "", "R1,R2,...");
}

/* An object's inside, checked. */
static bool extra(const char *text, struct load_target *t)
{
	json_error_t e;
	json_t *j = json_loads(text, 0, &e);
	char *all;

	if (!json_is_object(j) || !json_object_size(j)) {
		json_decref(j);
		return bad(OPT_EXTRA, text, "a JSON object with members");
	}
	all = json_dumps(j, JSON_COMPACT);
	json_decref(j);
	if (!all)
		return false;
	all[strlen(all) - 1] = '\0'; /* lives as long as the process */
	t->extra = all + 1;
	return true;
}

static bool from_error(int rc, int opt, const struct fh_err *err)
{
	if (rc)
		fprintf(stderr, "freehold: bench serve: --%s: %s\n", name_of(opt), err->msg);
	return !rc;
}

static bool option_server(int opt, struct serve_options *o, bool *known)
{
	struct load_target *t = &o->target;

	switch (opt) {
	case OPT_URL: t->url = optarg; return true;
	case OPT_CACERT: o->cacert = optarg; return true;
	case OPT_INSECURE: o->insecure = true; return true;
	case OPT_CHANNELS: return whole(opt, optarg, 1, 64, &t->nr_channels);
	case OPT_ENDPOINT: t->path = optarg; return *optarg == '/' || bad(opt, optarg, "a path");
	case OPT_MODEL: o->model = optarg; return true;
	case OPT_HEADER:
		if (t->nr_headers == LOAD_MAX_HEADERS || !strchr(optarg, ':') || strpbrk(optarg, "\r\n"))
			return bad(opt, optarg, "'NAME: VALUE', at most 16 of them");
		t->header[t->nr_headers++] = optarg;
		return true;
	case OPT_EXTRA: return extra(optarg, t);
	case OPT_TEMPERATURE: return number(opt, optarg, 0, 10, &t->temperature);
	case OPT_EOS: t->ignore_eos = true; return true;
	case OPT_NO_EOS: t->ignore_eos = false; return true;
	case OPT_NO_STREAM: t->stream = false; return true;
	case OPT_TIMEOUT: return number(opt, optarg, 0.001, 1e6, &o->timeout_s);
	case OPT_VOCAB: return whole(opt, optarg, 2, 1u << 24, &t->nr_vocab);
	case OPT_CTX: return whole(opt, optarg, 2, TRACE_MAX_TOKENS, &t->nr_ctx);
	default: *known = false; return true;
	}
}

static bool option_load(int opt, struct serve_options *o, bool *known)
{
	char gamma[64];
	struct fh_err err;
	double seed;

	switch (opt) {
	case OPT_NR: return whole(opt, optarg, 1, 100000000, &o->nr);
	case OPT_DURATION: return number(opt, optarg, 0.1, 1e6, &o->duration_s);
	case OPT_RATE:
		if (!strcmp(optarg, "inf")) {
			o->rate = INFINITY;
			return true;
		}
		return number(opt, optarg, 1e-4, 1e7, &o->rate);
	case OPT_ARRIVALS:
		o->arrivals_text = optarg;
		return from_error(trace_arrivals_parse(optarg, &o->arrivals, &err), opt, &err);
	case OPT_BURSTINESS:
		snprintf(gamma, sizeof(gamma), "gamma:%.40s", optarg);
		o->arrivals_text = "gamma";
		return from_error(trace_arrivals_parse(gamma, &o->arrivals, &err), opt, &err);
	case OPT_RAMP: return number(opt, optarg, 1e-4, 1e7, &o->ramp_to);
	case OPT_TRACE: o->trace = optarg; return true;
	case OPT_TRACE_FORMAT:
		return !trace_format_parse(optarg, &o->trace_format) ||
		       bad(opt, optarg, "auto, burstgpt, azure or mooncake");
	case OPT_CONCURRENCY: return whole(opt, optarg, 1, 30000, &o->max_concurrency);
	case OPT_WARMUPS: return whole(opt, optarg, 0, 1000000, &o->nr_warmups);
	case OPT_SEED:
		if (!number(opt, optarg, 0, 9e15, &seed))
			return false;
		o->seed = (uint64_t)seed;
		return true;
	case OPT_IN: return from_error(trace_length_parse(optarg, &o->in, &err), opt, &err);
	case OPT_OUT: return from_error(trace_length_parse(optarg, &o->out, &err), opt, &err);
	case OPT_WORDS: o->words = true; return true;
	case OPT_FIRST_ID: return whole(opt, optarg, 0, 1u << 24, &o->first_id);
	case OPT_PREFIX: return whole(opt, optarg, 0, TRACE_MAX_TOKENS, &o->prefix);
	case OPT_PREFIX_SHARE: return number(opt, optarg, 0, 1, &o->prefix_share);
	case OPT_DATASET: o->dataset = optarg; return true;
	case OPT_SAME: o->same_prompts = true; return true;
	default: *known = false; return true;
	}
}

static bool option_rest(int opt, int argc, char **argv, struct serve_options *o)
{
	switch (opt) {
	case OPT_GOODPUT: return goals(optarg, argc, argv, &o->goals);
	case OPT_D_TTFT: return number(opt, optarg, 1e-3, 1e9, &o->deadline_ttft_ms);
	case OPT_D_TPOT: return number(opt, optarg, 1e-3, 1e9, &o->deadline_tpot_ms);
	case OPT_D_FACTOR: return number(opt, optarg, 1, 1e6, &o->deadline_factor);
	case OPT_CALIBRATION: o->calibration = optarg; return true;
	case OPT_SAVE_CALIBRATION: o->save_calibration = optarg; return true;
	case OPT_CALIBRATION_REPS: return whole(opt, optarg, 1, 1000, &o->calibration_reps);
	case OPT_CALIBRATION_PAUSE: return number(opt, optarg, 0, 60, &o->calibration_pause_s);
	case OPT_CALIBRATE_ONLY: o->calibrate_only = true; return true;
	case OPT_SEARCH: return number(opt, optarg, 1e-3, 1e6, &o->search_start);
	case OPT_SEARCH_SHARE: return number(opt, optarg, 0.01, 1, &o->search_share);
	case OPT_SEARCH_PRECISION: return number(opt, optarg, 0.001, 1, &o->search_precision);
	case OPT_SEARCH_TIME: return number(opt, optarg, 1, 1e7, &o->search_time_s);
	case OPT_SWEEP: return sweep(optarg, o);
	case OPT_JSON: o->json = optarg; return true;
	case OPT_DETAILED: o->detailed = true; return true;
	case OPT_CSV: o->csv = optarg; return true;
	case OPT_SVG: o->svg = optarg; return true;
	case OPT_PLOT: o->plot = true; return true;
	case OPT_LABEL: o->label = optarg; return true;
	case OPT_QUIET: o->quiet = true; return true;
	case OPT_EPOLL: o->epoll = true; return true;
	case OPT_COMPARE:
		if (optind >= argc || *argv[optind] == '-')
			return bad(opt, optarg, "two files");
		o->compare[0] = optarg;
		o->compare[1] = argv[optind++];
		return true;
	default: return false;
	}
}

static bool contradiction(const char *what)
{
	fprintf(stderr, "freehold: bench serve: %s\n", what);
	return false;
}

/* What a channel does not carry. */
static bool fits_transport(const struct serve_options *o)
{
	const struct load_target *t = &o->target;

	if ((o->cacert || o->insecure) && strncmp(t->url, "https://", 8))
		return contradiction("--cacert and --insecure go with --url https://...");
	if (strncmp(t->url, "channel:", 8) && strncmp(t->url, "udp:", 4))
		return !t->nr_channels || contradiction("--channels goes with --url channel:... and udp://...");
	if (strcmp(t->path, SERVE_ENDPOINT))
		return contradiction(
			"--url channel:... and udp://... have no HTTP in them: they go without --endpoint");
	if (t->nr_headers || t->extra)
		return contradiction("--url channel:... and udp://... have no HTTP in them: they go without --header "
				     "and --extra-body");
	return t->stream ||
	       contradiction("--url channel:... and udp://... bring token by token: they go without --no-stream");
}

/* What cannot be meant together. */
static bool consistent(const struct serve_options *o)
{
	bool goal = o->goals.ttft_ms > 0 || o->goals.tpot_ms > 0 || o->goals.e2el_ms > 0 || o->deadline_ttft_ms > 0 ||
		    o->deadline_tpot_ms > 0 || o->deadline_factor > 0;

	if (!fits_transport(o))
		return false;
	if (o->calibrate_only)
		return o->save_calibration || contradiction("--calibrate-only goes with --save-calibration FILE");
	if (!o->rate && !o->max_concurrency && !o->trace && !o->search_start && !o->nr_sweep)
		return contradiction(
			"say when requests leave: --request-rate, --max-concurrency, --trace, --sweep or --search");
	if (o->search_start > 0 && !goal)
		return contradiction("--search wants a goal: --goodput, --deadline-ttft-ms or --deadline-factor");
	if (o->search_start > 0 && (o->nr_sweep || o->rate || o->ramp_to))
		return contradiction("--search finds the rate: it goes without --request-rate, --ramp-to and --sweep");
	if (o->nr_sweep && (o->rate || o->ramp_to))
		return contradiction("--sweep names the rates: it goes without --request-rate and --ramp-to");
	if (o->ramp_to > 0 && (!(o->rate > 0) || isinf(o->rate) || o->trace))
		return contradiction("--ramp-to goes with a finite --request-rate to begin with, and no trace");
	if (o->duration_s > 0 && o->rate == INFINITY)
		return contradiction("--duration goes with a finite rate");
	if (o->duration_s > 0 && !o->rate && !o->search_start && !o->nr_sweep && !o->trace)
		return contradiction("--duration goes with a rate or a trace; a closed loop has --num-prompts");
	if (o->dataset && (o->deadline_factor > 0 || o->prefix))
		return contradiction(
			"--dataset-path: its prompts have no length that is known before, and a prefix of their own");
	if (o->deadline_factor > 0 && (o->deadline_ttft_ms > 0 || o->deadline_tpot_ms > 0))
		return contradiction("--deadline-factor or --deadline-ttft-ms and -tpot-ms, not both");
	if (!o->target.stream && (o->goals.tpot_ms > 0 || o->deadline_tpot_ms > 0))
		return contradiction("--no-stream: there is no time per token to have a goal for");
	return true;
}

bool serve_parse_options(int argc, char **argv, struct serve_options *o, int *status)
{
	bool ok = true;
	int opt;

	*status = 2;
	while (ok && (opt = getopt_long(argc, argv, "hk", longopts, NULL)) != -1) {
		bool known = true;

		if (opt == 'h') {
			fputs(serve_usage, stdout);
			*status = 0;
			return false;
		}
		opt = opt == 'k' ? OPT_INSECURE : opt;
		if (opt == '?') {
			fputs("`freehold bench serve --help` lists the options.\n", stderr);
			return false;
		}
		ok = option_server(opt, o, &known);
		if (!known) {
			known = true;
			ok = option_load(opt, o, &known);
		}
		if (!known)
			ok = option_rest(opt, argc, argv, o);
	}
	if (ok && (optind != argc || (!o->target.url && !o->compare[0]))) {
		fputs(serve_usage, stderr);
		return false;
	}
	return ok && (o->compare[0] || consistent(o));
}
