// SPDX-License-Identifier: Apache-2.0
/*
 * freehold sim: the daemon's scheduler over a trace, on machines made of prices.
 * Says what of the load would be in time, and how many machines it needs.
 */
#include "tools/sim.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "runtime/base/clock.h"
#include "runtime/daemon/options.h"
#include "tools/cmd.h"

#define MAX_MACHINES 4096

struct sim_options {
	char *trace, *format, *arrivals, *prompt, *gen, *costs, *prices, *classes, *calibration;
	uint64_t requests, seed, kv_tokens;
	uint32_t max_seqs, max_queue, step_tokens, prefill_chunk, machines;
	float rate, ttft_ms, tpot_ms, ttft_times, tpot_times, noise, overhead_us, overhead_token_us, gap_us, target;
	bool search, json, help;
};

#define AT(field) offsetof(struct sim_options, field)

static const struct fhd_option options[] = {
	{"load:", 0, FHD_OPT_GROUP, 0, 0, 0, NULL, NULL},
	{"trace", 0, FHD_OPT_STR, AT(trace), 0, 0, "FILE",
	 "a trace of BurstGPT, of Azure's LLM inference, or of Mooncake\n(default: one is drawn)"},
	{"format", 0, FHD_OPT_CHOICE, AT(format), 0, 0, "auto|burstgpt|azure|mooncake", "of the trace (default: auto)"},
	{"rate", 0, FHD_OPT_FLOAT, AT(rate), 0, 1e7, "R",
	 "requests a second; a trace is stretched to it (default: 1,\nor the trace's own)"},
	{"requests", 'n', FHD_OPT_U64, AT(requests), 1, 1e9, "N",
	 "so many; of a trace the first (default: 10000, or all)"},
	{"arrivals", 0, FHD_OPT_STR, AT(arrivals), 0, 0, "HOW",
	 "constant, poisson, gamma:SHAPE or burst:N (default: poisson)"},
	{"prompt", 0, FHD_OPT_STR, AT(prompt), 0, 0, "LENGTH",
	 "tokens read: N, A:B, log:A:B or lognormal:MEDIAN:SIGMA\n(default: log:32:4096)"},
	{"gen", 0, FHD_OPT_STR, AT(gen), 0, 0, "LENGTH", "tokens written, likewise (default: log:16:512)"},
	{"seed", 0, FHD_OPT_U64, AT(seed), 0, 1e18, "N", "of all that is drawn (default: 1)"},
	{"machine:", 0, FHD_OPT_GROUP, 0, 0, 0, NULL, NULL},
	{"costs", 0, FHD_OPT_STR, AT(costs), 0, 0, "FILE",
	 "what steps cost, as freehold serve keeps it in its cache folder"},
	{"prices", 0, FHD_OPT_STR, AT(prices), 0, 0, "LIST",
	 "or in microseconds: "
	 "step=14000,prompt_token=2000,\ndecode_token=1400,drawn_token=0,kv_position=0,prompt_pair=0"},
	{"max-seqs", 0, FHD_OPT_U32, AT(max_seqs), 1, 4096, "N", "as freehold serve has it (default: 64)"},
	{"max-queue", 0, FHD_OPT_U32, AT(max_queue), 1, 1 << 20, "N", "likewise (default: 1024)"},
	{"step-tokens", 0, FHD_OPT_U32, AT(step_tokens), 1, 1 << 16, "N", "likewise (default: 512)"},
	{"prefill-chunk", 0, FHD_OPT_U32, AT(prefill_chunk), 1, 1 << 16, "N", "likewise (default: 256)"},
	{"kv-tokens", 0, FHD_OPT_U64, AT(kv_tokens), 1, 1e15, "N", "room for keys and values (default: 1000000)"},
	{"overhead-us", 0, FHD_OPT_FLOAT, AT(overhead_us), 0, 1e7, "US", "between client and engine (default: 0)"},
	{"overhead-token-us", 0, FHD_OPT_FLOAT, AT(overhead_token_us), 0, 1e4, "US",
	 "likewise, for each token of the prompt (default: 0)"},
	{"gap-us", 0, FHD_OPT_FLOAT, AT(gap_us), 0, 1e6, "US",
	 "between two steps (default: what the costs say, else 0)"},
	{"noise", 0, FHD_OPT_FLOAT, AT(noise), 0, 2, "S", "steps are off by so much: 0.1 is a tenth (default: 0)"},
	{"machines", 0, FHD_OPT_U32, AT(machines), 1, MAX_MACHINES, "N", "that take turns (default: 1)"},
	{"deadlines:", 0, FHD_OPT_GROUP, 0, 0, 0, NULL, NULL},
	{"ttft", 0, FHD_OPT_FLOAT, AT(ttft_ms), 0, 3.6e6, "MS", "to the first token (default: none)"},
	{"tpot", 0, FHD_OPT_FLOAT, AT(tpot_ms), 0, 3.6e6, "MS", "to each further one (default: none)"},
	{"ttft-times", 0, FHD_OPT_FLOAT, AT(ttft_times), 0, 1000, "X",
	 "times what the prompt takes on an idle machine"},
	{"tpot-times", 0, FHD_OPT_FLOAT, AT(tpot_times), 0, 1000, "X", "likewise of each further token"},
	{"calibration", 0, FHD_OPT_STR, AT(calibration), 0, 0, "FILE",
	 "then of the times that freehold bench serve measured\n(its --save-calibration), not of what these costs say"},
	{"classes", 0, FHD_OPT_STR, AT(classes), 0, 0, "I:B",
	 "shares of the interactive and of the batch class, which has\nno deadlines (default: 0:0)"},
	{"search", 0, FHD_OPT_ON, AT(search), 0, 0, NULL, "find the least number of machines that meets --target"},
	{"target", 0, FHD_OPT_FLOAT, AT(target), 0.01, 1, "P",
	 "share of all requests to be answered in time (default: 0.99)"},
	{"output:", 0, FHD_OPT_GROUP, 0, 0, 0, NULL, NULL},
	{"json", 0, FHD_OPT_ON, AT(json), 0, 0, NULL, "one JSON object"},
	{"help", 'h', FHD_OPT_ON, AT(help), 0, 0, NULL, "print this"},
};

static void help(FILE *out, const struct fhd_option_set *set)
{
	fputs("usage: freehold sim [--trace FILE] [--costs FILE | --prices LIST] [options]\n"
	      "\n"
	      "The scheduler of freehold serve over a load, on machines that are not there:\n"
	      "what would be in time, and how many machines it takes.\n",
	      out);
	fhd_options_help(out, set, 1);
	fputs("\n"
	      "examples:\n"
	      "  freehold sim --costs ~/.cache/freehold/costs-... --rate 2 --ttft-times 2 --tpot-times 2\n"
	      "  freehold sim --trace AzureLLMInferenceTrace_conv.csv --ttft 1000 --tpot 100 --search \\\n"
	      "      --prices step=9000,prompt_token=25,decode_token=60,kv_position=0.02\n",
	      out);
}

/* "NAME=US,...". */
static int read_prices(const char *text, struct fh_sched_cost *c, struct fh_err *err)
{
	fh_sched_cost_init(c, 0, 0);
	c->nr_steps = 1;
	while (*text) {
		size_t n = strcspn(text, "=");
		char *end;
		double us;
		int i = 0;

		while (i < FH_NR_COST_TERMS &&
		       (strlen(fh_sched_cost_names[i]) != n || strncmp(text, fh_sched_cost_names[i], n)))
			i++;
		if (i == FH_NR_COST_TERMS || i == FH_COST_EXPERTS || text[n] != '=')
			return fh_errf(err, -EINVAL,
				       "--prices: '%s': NAME=US is wanted, of step, prompt_token, decode_token, "
				       "drawn_token, kv_position and prompt_pair",
				       text);
		us = strtod(text + n + 1, &end);
		if (end == text + n + 1 || (*end && *end != ',') || !(us >= 0 && us <= 1e9))
			return fh_errf(err, -EINVAL, "--prices: '%s': a number of microseconds is wanted", text);
		c->ns[i] = us * 1e3;
		text = *end ? end + 1 : end;
	}
	if (!(c->ns[FH_COST_PROMPT] > 0 && c->ns[FH_COST_STEP] + c->ns[FH_COST_DECODE] + c->ns[FH_COST_SEQ] > 0))
		return fh_errf(err, -EINVAL,
			       "--prices: a prompt_token, and a step or a decode_token, must cost something");
	return 0;
}

static int read_costs(const char *path, struct fh_sched_cost *c, struct fh_err *err)
{
	FILE *f = fopen(path, "re");
	char text[4096];
	size_t n;

	if (!f)
		return fh_errf(err, -errno, "--costs %s: %s", path, strerror(errno));
	n = fread(text, 1, sizeof(text) - 1, f);
	fclose(f);
	text[n] = 0;
	if (!fh_sched_cost_scan(c, text))
		return fh_errf(err, -EINVAL, "--costs %s: this is not what freehold serve writes to its cache folder",
			       path);
	return 0;
}

static int read_load(const struct sim_options *o, struct trace *t, struct fh_err *err)
{
	struct trace_arrivals a = {.rate_per_s = o->rate > 0 ? o->rate : 1};
	enum trace_format format = TRACE_AUTO;
	struct trace_length prompt, gen;
	int rc;

	if (o->trace) {
		if (o->format)
			trace_format_parse(o->format, &format);
		rc = trace_load(o->trace, format, t, err);
		if (!rc && o->requests && o->requests < t->nr)
			t->nr = o->requests;
		if (!rc && o->rate > 0)
			trace_set_rate(t, o->rate);
		return rc;
	}
	rc = trace_arrivals_parse(o->arrivals ? o->arrivals : "poisson", &a, err);
	if (!rc)
		rc = trace_length_parse(o->prompt ? o->prompt : "log:32:4096", &prompt, err);
	if (!rc)
		rc = trace_length_parse(o->gen ? o->gen : "log:16:512", &gen, err);
	if (!rc && trace_draw(&a, &prompt, &gen, o->requests ? o->requests : 10000, o->seed, t))
		rc = fh_errf(err, -ENOMEM, "no memory for %llu requests", (unsigned long long)o->requests);
	return rc;
}

static int make_config(const struct sim_options *o, struct sim_config *c, struct fh_err *err)
{
	char *end;
	int rc;

	*c = (struct sim_config){
		.limits = {.max_step_tokens = o->step_tokens < o->max_seqs ? o->max_seqs : o->step_tokens,
			   .prefill_chunk = o->prefill_chunk,
			   .max_seqs = o->max_seqs,
			   .stall_us = 1000000000},
		.noise = o->noise,
		.kv_tokens = o->kv_tokens,
		.max_queue = o->max_queue,
		.overhead_ns = (uint64_t)(o->overhead_us * 1e3f),
		.overhead_token_ns = (double)o->overhead_token_us * 1e3,
		.ttft_us = (uint32_t)(o->ttft_ms * 1e3f),
		.tpot_us = (uint32_t)(o->tpot_ms * 1e3f),
		.ttft_times = o->ttft_times,
		.tpot_times = o->tpot_times,
		.seed = o->seed,
	};
	if (!o->costs == !o->prices)
		return fh_errf(err, -EINVAL, "what steps cost is wanted: --costs FILE or --prices LIST");
	if (o->classes) {
		c->interactive_share = strtod(o->classes, &end);
		c->batch_share = *end == ':' ? strtod(end + 1, &end) : -1;
		if (*end ||
		    !(c->interactive_share >= 0 && c->batch_share >= 0 && c->interactive_share + c->batch_share <= 1))
			return fh_errf(err, -EINVAL, "--classes %s: two shares that are at most 1 together are wanted",
				       o->classes);
	}
	rc = o->costs ? read_costs(o->costs, &c->cost, err) : read_prices(o->prices, &c->cost, err);
	if (!rc && o->calibration)
		rc = load_calibration_read(o->calibration, &c->unloaded, err);
	c->gap_ns = o->gap_us < 0 ? (uint64_t)c->cost.gap_ns : (uint64_t)(o->gap_us * 1e3f);
	return rc;
}

/* ---- results ---- */

struct summary {
	size_t nr, nr_refused, nr_in_time, nr_late_ttft, nr_late_tpot;
	double good_tokens;
	float *ttft, *tpot, *e2e; /* [nr_done, nr_tpot, nr_done] sorted */
	size_t nr_done, nr_tpot;
};

static int compare(const void *a, const void *b)
{
	float x = *(const float *)a, y = *(const float *)b;

	return (x > y) - (x < y);
}

static double percentile(const float *v, size_t n, double p)
{
	double at = p / 100 * (double)(n ? n - 1 : 0);
	size_t i = (size_t)at;

	if (!n)
		return 0;
	return i + 1 < n ? v[i] + (at - (double)i) * (v[i + 1] - v[i]) : v[n - 1];
}

static double mean(const float *v, size_t n)
{
	double sum = 0;

	for (size_t i = 0; i < n; i++)
		sum += v[i];
	return n ? sum / (double)n : 0;
}

/* With arrays only for the percentiles; @s->ttft NULL: just count. */
static void count(const struct sim_result *r, size_t nr, struct summary *s)
{
	s->nr = nr;
	for (size_t i = 0; i < nr; i++) {
		bool ttft_ok, tpot_ok;

		if (r[i].end == SIM_REFUSED) {
			s->nr_refused++;
			continue;
		}
		ttft_ok = !(r[i].ttft_due_s > 0) || r[i].ttft_s <= r[i].ttft_due_s;
		tpot_ok = !(r[i].tpot_due_s > 0) || r[i].tpot_s <= r[i].tpot_due_s;
		s->nr_late_ttft += !ttft_ok;
		s->nr_late_tpot += !tpot_ok;
		s->nr_in_time += ttft_ok && tpot_ok;
		s->good_tokens += ttft_ok && tpot_ok ? r[i].nr_gen : 0;
		if (!s->ttft)
			continue;
		s->ttft[s->nr_done] = r[i].ttft_s;
		s->e2e[s->nr_done++] = r[i].e2e_s;
		if (r[i].nr_gen > 1)
			s->tpot[s->nr_tpot++] = r[i].tpot_s;
	}
	if (s->ttft) {
		qsort(s->ttft, s->nr_done, sizeof(float), compare);
		qsort(s->e2e, s->nr_done, sizeof(float), compare);
		qsort(s->tpot, s->nr_tpot, sizeof(float), compare);
	}
}

static int run(const struct sim_config *c, const struct trace *t, uint32_t nr_machines, struct sim_result *r,
	       struct sim_totals *sum, struct fh_err *err)
{
	int rc = 0;

	*sum = (struct sim_totals){0};
	for (uint32_t i = 0; i < nr_machines && !rc; i++)
		rc = sim_machine(c, t, i, nr_machines, r, sum, err);
	return rc;
}

static int is_enough(const struct sim_config *c, const struct trace *t, double target, uint32_t nr,
		     struct sim_result *r, bool *yes, struct fh_err *err)
{
	struct sim_totals sum;
	struct summary s = {0};
	int rc = run(c, t, nr, r, &sum, err);

	if (!rc)
		count(r, t->nr, &s);
	*yes = !rc && (double)s.nr_in_time >= target * (double)s.nr;
	return rc;
}

/* The least number of machines; 0 when not even all do.  Twice as many until it is enough, then by halves. */
static int search(const struct sim_config *c, const struct trace *t, double target, struct sim_result *r, uint32_t *nr,
		  struct fh_err *err)
{
	uint32_t few = 0, enough = 1;
	bool yes = false;
	int rc;

	for (;; enough *= 2) {
		rc = is_enough(c, t, target, enough, r, &yes, err);
		if (rc || yes)
			break;
		few = enough;
		if (enough == MAX_MACHINES) {
			*nr = 0;
			return 0;
		}
	}
	while (!rc && few + 1 < enough) {
		uint32_t mid = few + (enough - few) / 2;

		rc = is_enough(c, t, target, mid, r, &yes, err);
		if (yes)
			enough = mid;
		else
			few = mid;
	}
	*nr = enough;
	return rc;
}

static void print_line(const char *what, const float *v, size_t n, double scale)
{
	printf("%-10s %10.2f %10.2f %10.2f %10.2f %10.2f %10.2f\n", what, scale * mean(v, n),
	       scale * percentile(v, n, 50), scale * percentile(v, n, 90), scale * percentile(v, n, 99),
	       scale * percentile(v, n, 99.9), scale * percentile(v, n, 100));
}

static void json_line(const char *what, const float *v, size_t n)
{
	printf("\"mean_%s_ms\":%.6g,\"median_%s_ms\":%.6g,\"p90_%s_ms\":%.6g,\"p99_%s_ms\":%.6g,\"p99.9_%s_ms\":%.6g,"
	       "\"max_%s_ms\":%.6g,",
	       what, 1e3 * mean(v, n), what, 1e3 * percentile(v, n, 50), what, 1e3 * percentile(v, n, 90), what,
	       1e3 * percentile(v, n, 99), what, 1e3 * percentile(v, n, 99.9), what, 1e3 * percentile(v, n, 100));
}

static void print(const struct sim_options *o, const struct summary *s, const struct sim_totals *sum, uint32_t machines,
		  double rate, double took_s)
{
	double end_s = sum->end_s > 0 ? sum->end_s : 1, all = s->nr ? (double)s->nr : 1;
	size_t nr_in = s->nr - s->nr_refused;

	if (o->json) {
		printf("{\"num_prompts\":%zu,\"completed\":%zu,\"refused\":%zu,\"machines\":%u,\"request_rate\":%.6g,"
		       "\"duration\":%.6g,",
		       s->nr, nr_in, s->nr_refused, machines, rate, end_s);
		printf("\"attainment\":%.6g,\"attainment_of_admitted\":%.6g,\"request_goodput\":%.6g,"
		       "\"output_goodput\":%.6g,\"request_throughput\":%.6g,\"output_throughput\":%.6g,",
		       (double)s->nr_in_time / all, nr_in ? (double)s->nr_in_time / (double)nr_in : 1,
		       (double)s->nr_in_time / end_s, s->good_tokens / end_s, (double)nr_in / end_s,
		       (double)sum->generated_tokens / end_s);
		json_line("ttft", s->ttft, s->nr_done);
		json_line("tpot", s->tpot, s->nr_tpot);
		json_line("e2el", s->e2e, s->nr_done);
		printf("\"late_ttft\":%zu,\"late_tpot\":%zu,\"preemptions\":%llu,\"steps\":%llu,\"busy\":%.6g,"
		       "\"simulation_s\":%.6g}\n",
		       s->nr_late_ttft, s->nr_late_tpot, (unsigned long long)sum->nr_preempted,
		       (unsigned long long)sum->nr_steps, sum->busy_s / end_s / machines, took_s);
		return;
	}
	printf("%zu requests at %.4g/s over %.0f s on %u machine%s, busy %.0f %%; simulated in %.1f s\n", s->nr, rate,
	       end_s, machines, machines == 1 ? "" : "s", 100 * sum->busy_s / end_s / machines, took_s);
	printf("in time    %.2f %% of all, %.2f %% of those admitted; refused %.2f %%; first token late %zu, others "
	       "%zu\n",
	       100 * (double)s->nr_in_time / all, nr_in ? 100 * (double)s->nr_in_time / (double)nr_in : 100,
	       100 * (double)s->nr_refused / all, s->nr_late_ttft, s->nr_late_tpot);
	printf("goodput    %.4g requests/s, %.5g tokens/s; throughput %.4g requests/s, %.5g tokens/s\n",
	       (double)s->nr_in_time / end_s, s->good_tokens / end_s, (double)nr_in / end_s,
	       (double)sum->generated_tokens / end_s);
	printf("\n%-10s %10s %10s %10s %10s %10s %10s\n", "ms", "mean", "p50", "p90", "p99", "p99.9", "max");
	print_line("TTFT", s->ttft, s->nr_done, 1e3);
	print_line("TPOT", s->tpot, s->nr_tpot, 1e3);
	print_line("E2EL", s->e2e, s->nr_done, 1e3);
}

static int simulate(const struct sim_options *o, struct fh_err *err)
{
	struct sim_result *r = NULL;
	struct trace t = {0};
	struct sim_config c;
	struct sim_totals sum;
	struct summary s = {0};
	uint64_t begin_ns = fh_now_ns();
	uint32_t machines = o->machines;
	int rc = make_config(o, &c, err);

	if (!rc)
		rc = read_load(o, &t, err);
	if (rc)
		goto out;
	r = calloc(t.nr, sizeof(*r));
	s.ttft = malloc(t.nr * sizeof(float));
	s.tpot = malloc(t.nr * sizeof(float));
	s.e2e = malloc(t.nr * sizeof(float));
	if (!r || !s.ttft || !s.tpot || !s.e2e)
		rc = fh_errf(err, -ENOMEM, "no memory for the results of %zu requests", t.nr);
	if (!rc && o->search)
		rc = search(&c, &t, o->target, r, &machines, err);
	if (!rc && !machines)
		rc = fh_errf(err, -ERANGE, "not even %d machines answer %g %% in time: some requests cannot be on any",
			     MAX_MACHINES, 100.0 * o->target);
	if (!rc)
		rc = run(&c, &t, machines, r, &sum, err);
	if (!rc) {
		count(r, t.nr, &s);
		print(o, &s, &sum, machines, trace_rate(&t), (double)(fh_now_ns() - begin_ns) * 1e-9);
	}
out:
	free(r);
	free(s.ttft);
	free(s.tpot);
	free(s.e2e);
	trace_free(&t);
	return rc;
}

int cmd_sim(int argc, char **argv)
{
	struct sim_options o = {.seed = 1,
				.gap_us = -1,
				.kv_tokens = 1000000,
				.max_seqs = 64,
				.max_queue = 1024,
				.step_tokens = 512,
				.prefill_chunk = 256,
				.machines = 1,
				.target = 0.99f};
	struct fhd_option_set set = {.opts = options, .nr = sizeof(options) / sizeof(options[0]), .base = &o};
	struct fh_err err = {0};
	int rc = fhd_options_argv(argc, argv, &set, 1, &err), status = 0;

	if (!rc && o.help) {
		help(stdout, &set);
	} else if (rc || (rc = simulate(&o, &err))) {
		fprintf(stderr, "freehold: sim: %s\n", err.msg);
		status = rc == -EINVAL ? 2 : 1;
	}
	fhd_options_free(&set);
	return status;
}
