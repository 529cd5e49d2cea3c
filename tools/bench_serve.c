// SPDX-License-Identifier: Apache-2.0
/*
 * freehold bench serve: measures a server as its users see it, over HTTP or over
 * channels.
 *
 * First it finds out what it can about the server (model, context, vocabulary),
 * asks one question, and where deadlines follow from unloaded times measures
 * those.  Then it runs once, once a rate, or as often as the search for a rate
 * needs.  The bench owns all that was drawn and recorded; of several runs only
 * the last one's record is kept, and each one's figures.
 */
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "runtime/base/clock.h"
#include "tools/bench.h"
#include "tools/bench_serve.h"

#define MAX_POINTS 128
#define MAX_PROBES 40u
#define WORD_PROBE 32u /* few enough for the smallest contexts */
#define CALIBRATION_LENGTHS 8u
#define CURVE_POINTS 400u

struct bench {
	struct serve_options *o;
	struct load_dataset data;
	struct trace file; /* of --trace */
	struct load_prompts prompts;
	struct load_calibration cal;
	bool calibrated;
	uint64_t salt;
	uint32_t repeat; /* of a searched rate: its arrivals are others */
	uint32_t nr_cut; /* prompts that were shortened to fit the context */
	bool limited;	 /* a schedule and --max-concurrency */
	/* The last run. */
	struct trace trace;
	struct load_deadline *deadline; /* [trace.nr] or NULL */
	struct load_record rec;
	/* All of a sweep or search. */
	double rate[MAX_POINTS], attainment[MAX_POINTS];
	json_t *points;
	uint32_t nr_points;
	double max_rate;
	struct load_search search;
	double search_took_s;
};

static void progress(void *ctx, const struct load_progress *p)
{
	(void)ctx;
	fprintf(stderr,
		"\r\033[K%4.0f s: %u of %u sent, %u done, %u running, %u refused, %u failed; %.0f chunks/s; TTFT p50 "
		"%.1f p99 %.1f ms",
		p->at_s, p->nr_sent, p->nr, p->nr_done, p->nr_running, p->nr_refused, p->nr_failed, p->tokens_per_s,
		p->ttft_p50_ms, p->ttft_p99_ms);
	fflush(stderr);
}

static bool shows_progress(const struct serve_options *o)
{
	return !o->quiet && isatty(STDERR_FILENO);
}

/* ---- finding out ---- */

/* One request of @nr_in and @nr_out tokens with nobody beside; its result in @res, which has to be a success. */
static int ask(struct bench *b, uint32_t nr_in, uint32_t nr_out, struct load_result *res, struct fh_err *err)
{
	struct trace_req req = {.nr_prompt = nr_in, .nr_gen = nr_out};
	struct trace one = {.req = &req, .nr = 1, .cap = 1};
	struct load_plan plan = {.target = &b->o->target, .prompts = b->prompts, .trace = &one};
	struct load_job job = {.plan = &plan,
			       .max_concurrency = 1,
			       .closed = true,
			       .timeout_s = b->o->timeout_s,
			       .max_missed = UINT32_MAX,
			       .force_epoll = b->o->epoll};
	struct load_record rec;
	int rc;

	plan.prompts.salt = ++b->salt;
	rc = load_run(&job, &rec, err);
	if (!rc && rec.interrupted)
		rc = fh_errf(err, -EINTR, "interrupted");
	else if (!rc && rec.res[0].outcome != LOAD_OK)
		rc = fh_errf(err, -EIO, "%s%s: %s: %s", b->o->target.url, b->o->target.channel ? "" : b->o->target.path,
			     load_outcome_name(rec.res[0].outcome), rec.first_error);
	if (!rc)
		*res = rec.res[0];
	load_record_free(&rec);
	return rc;
}

/* How many words a token takes, by the server's own count of a long and a short prompt. */
static int measure_words(struct bench *b, struct fh_err *err)
{
	struct load_result few, many;
	int rc;

	b->prompts.words_per_token = 1;
	rc = ask(b, 1, 1, &few, err);
	if (!rc)
		rc = ask(b, 1 + WORD_PROBE, 1, &many, err);
	if (rc)
		return rc;
	/* Over a channel nobody counts a prompt's tokens: nr_in is what was planned. */
	if (!b->o->target.channel && many.counted && many.nr_in > few.nr_in)
		b->prompts.words_per_token = (double)WORD_PROBE / (many.nr_in - few.nr_in);
	else
		fprintf(stderr, "freehold: bench serve: the server counts no prompt tokens: a word is taken for one\n");
	return 0;
}

static int warm_up(struct bench *b, struct fh_err *err)
{
	struct load_result res;
	uint32_t nr_in = b->o->nr_warmups ? trace_length_draw(&b->o->in, &(struct trace_rng){.s = {1, 2}}) : 1;
	int rc = 0;

	if (b->o->target.nr_ctx && nr_in + 8 > b->o->target.nr_ctx)
		nr_in = b->o->target.nr_ctx > 8 ? b->o->target.nr_ctx - 8 : 1;
	for (uint32_t i = 0; i < b->o->nr_warmups && !rc; i++)
		rc = ask(b, nr_in, 4, &res, err);
	return rc;
}

static int by_value(const void *a, const void *b)
{
	double x = *(const double *)a, y = *(const double *)b;

	return (x > y) - (x < y);
}

/* Unloaded times by length: of each the median of some requests, one after the other. */
static int calibrate(struct bench *b, struct fh_err *err)
{
	uint32_t len[CALIBRATION_LENGTHS], nr, reps = b->o->calibration_reps, min = UINT32_MAX, max = 1, gen = 2;
	double *ttft, *tpot;
	int rc = 0;

	if (b->calibrated)
		return 0;
	for (size_t i = 0; i < b->trace.nr; i++) {
		min = b->trace.req[i].nr_prompt < min ? b->trace.req[i].nr_prompt : min;
		max = b->trace.req[i].nr_prompt > max ? b->trace.req[i].nr_prompt : max;
	}
	for (size_t i = 0; i < b->trace.nr && gen < 32; i++)
		gen = b->trace.req[i].nr_gen > gen ? b->trace.req[i].nr_gen : gen;
	gen = gen < 32 ? gen : 32;
	if (b->o->target.nr_ctx && max + gen > b->o->target.nr_ctx)
		max = b->o->target.nr_ctx > gen + min ? b->o->target.nr_ctx - gen : min;
	nr = load_calibration_lengths(min, max, CALIBRATION_LENGTHS, len);
	ttft = calloc(2 * reps, sizeof(*ttft));
	if (!ttft)
		return fh_errf(err, -ENOMEM, "no memory");
	tpot = ttft + reps;
	for (uint32_t i = 0; i < nr && !rc; i++) {
		for (uint32_t k = 0; k < reps && !rc; k++) {
			struct load_result res;

			rc = ask(b, len[i], gen, &res, err);
			if (rc)
				break;
			ttft[k] = load_ttft_ms(&res);
			tpot[k] = load_tpot_ms(&res);
		}
		qsort(ttft, reps, sizeof(*ttft), by_value);
		qsort(tpot, reps, sizeof(*tpot), by_value);
		b->cal.at[i].nr_prompt = len[i];
		b->cal.at[i].ttft_ms = load_percentile(ttft, reps, 0.5);
		b->cal.at[i].tpot_ms = load_percentile(tpot, reps, 0.5);
		b->cal.nr = i + 1;
		if (!rc && !b->o->json)
			printf("unloaded, %u tokens: TTFT %.3f ms, TPOT %.3f ms\n", len[i], b->cal.at[i].ttft_ms,
			       b->cal.at[i].tpot_ms);
	}
	free(ttft);
	b->calibrated = true;
	if (!rc && b->o->save_calibration)
		rc = load_calibration_write(b->o->save_calibration, &b->cal, err);
	return rc;
}

/* ---- what is sent ---- */

/* The rate goes from @a to @b evenly in time: stretch what was drawn at rate 1. */
static void ramp(struct trace *t, double a, double b)
{
	double t_s = 2.0 * (double)t->nr / (a + b), k = (b - a) / t_s;

	for (size_t i = 0; i < t->nr; i++) {
		double s = (double)t->req[i].at_ns / 1e9, root = a * a + 2 * k * s, at;

		if (fabs(k) * t_s < 1e-9 * a)
			at = s / a;
		else if (root <= b * b * (b < a))
			at = t_s + (s - (double)t->nr) / b; /* a falling rate's end goes on */
		else
			at = (sqrt(root) - a) / k;
		t->req[i].at_ns = (uint64_t)(at * 1e9);
	}
}

static int copy_trace(const struct bench *b, double rate, struct trace *out)
{
	size_t nr = b->file.nr, bytes;

	*out = (struct trace){.nr = nr, .cap = nr, .nr_hashes = b->file.nr_hashes, .cap_hashes = b->file.nr_hashes};
	bytes = nr * sizeof(*out->req);
	out->req = malloc(bytes ? bytes : 1);
	out->hash = malloc(b->file.nr_hashes ? b->file.nr_hashes * sizeof(*out->hash) : 1);
	if (!out->req || !out->hash)
		return -ENOMEM;
	memcpy(out->req, b->file.req, bytes);
	if (b->file.nr_hashes)
		memcpy(out->hash, b->file.hash, b->file.nr_hashes * sizeof(*out->hash));
	if (rate > 0 && !isinf(rate))
		trace_set_rate(out, rate);
	return 0;
}

/*
 * A searched share has to be counted among enough requests: of 200 for 99 %, so
 * that two may miss.  A run of fewer shows luck.
 */
static double fewest(const struct serve_options *o)
{
	if (!(o->search_start > 0))
		return 1;
	return o->search_share < 0.999 ? ceil(2 / (1 - o->search_share) - 1e-9) : 2000;
}

/* About how long a probe at @rate takes that is not given up. */
static double probe_s(const struct serve_options *o, double rate)
{
	return o->duration_s > 0 ? fmax(o->duration_s, fewest(o) / rate) : fmax(o->nr, fewest(o)) / rate;
}

/* Keep what is due within --duration, and at most --num-prompts where that was said. */
static void cut_short(struct bench *b)
{
	struct trace *t = &b->trace;
	double limit_ns = b->o->duration_s > 0 ? b->o->duration_s * 1e9 : INFINITY, least = fewest(b->o);
	size_t nr = 0;

	while (nr < t->nr &&
	       ((double)nr < least || (b->o->duration_s > 0 ? (double)t->req[nr].at_ns < limit_ns : nr < b->o->nr)))
		nr++;
	t->nr = nr ? nr : (t->nr > 0);
}

/* Cut prompts, then answers, to what the context holds; take a dataset's lengths. */
static void fit_lengths(struct bench *b)
{
	uint32_t ctx = b->o->target.nr_ctx;

	b->nr_cut = 0;
	for (size_t i = 0; i < b->trace.nr; i++) {
		struct trace_req *r = &b->trace.req[i];

		if (b->data.nr) {
			const struct load_text *x = &b->data.text[i % b->data.nr];

			r->nr_prompt = (uint32_t)(x->bytes / 4 + 1);
			r->nr_gen = x->nr_out ? x->nr_out : r->nr_gen;
			continue;
		}
		if (!ctx || (uint64_t)r->nr_prompt + r->nr_gen + 1 <= ctx)
			continue;
		r->nr_gen = r->nr_gen < ctx / 2 ? r->nr_gen : ctx / 2;
		if ((uint64_t)r->nr_prompt + r->nr_gen + 1 > ctx)
			r->nr_prompt = ctx > r->nr_gen + 2 ? ctx - r->nr_gen - 1 : 1;
		b->nr_cut++;
	}
}

/* A run's arrivals and lengths. @rate 0: a closed loop, or a trace at its own pace. */
static int draw(struct bench *b, double rate, struct fh_err *err)
{
	struct serve_options *o = b->o;
	struct trace_arrivals a = o->arrivals;
	double per_s = o->ramp_to > 0 ? (o->ramp_to + rate) / 2 : rate, nr = fmax(o->nr, fewest(o));
	int rc;

	trace_free(&b->trace);
	if (o->trace) {
		rc = copy_trace(b, rate, &b->trace);
	} else {
		if (o->duration_s > 0)
			nr = ceil(o->duration_s * per_s * 1.2 + 6 * sqrt(o->duration_s * per_s) + 10 + fewest(o));
		if (nr > 1e8)
			return fh_errf(err, -EINVAL, "%.3g requests are more than fit; lower the rate or the duration",
				       nr);
		a.rate_per_s = o->ramp_to > 0 || !(rate > 0) || isinf(rate) ? 1 : rate;
		rc = trace_draw(&a, &o->in, &o->out, (size_t)nr, o->seed + b->repeat * 0x9e3779b97f4a7c15u, &b->trace);
	}
	if (rc)
		return fh_errf(err, rc, "no memory for the requests");
	if (o->ramp_to > 0)
		ramp(&b->trace, rate, o->ramp_to);
	if (isinf(rate))
		for (size_t i = 0; i < b->trace.nr; i++)
			b->trace.req[i].at_ns = 0;
	cut_short(b);
	fit_lengths(b);
	return 0;
}

static int set_deadlines(struct bench *b, struct fh_err *err)
{
	struct serve_options *o = b->o;

	free(b->deadline);
	b->deadline = NULL;
	if (o->deadline_factor == 0 && o->deadline_ttft_ms == 0 && o->deadline_tpot_ms == 0)
		return 0;
	b->deadline = calloc(b->trace.nr ? b->trace.nr : 1, sizeof(*b->deadline));
	if (!b->deadline)
		return fh_errf(err, -ENOMEM, "no memory");
	for (size_t i = 0; i < b->trace.nr; i++)
		b->deadline[i] =
			o->deadline_factor > 0
				? load_calibration_deadline(&b->cal, b->trace.req[i].nr_prompt, o->deadline_factor)
				: (struct load_deadline){o->deadline_ttft_ms, o->deadline_tpot_ms};
	return 0;
}

/* One run at @rate.  With @give_up it ends once the searched share cannot be reached any more. */
static int run_once(struct bench *b, double rate, bool give_up, struct fh_err *err)
{
	struct serve_options *o = b->o;
	struct load_plan plan = {.target = &o->target};
	struct load_job job = {.plan = &plan,
			       .max_concurrency = o->max_concurrency,
			       .closed = !(rate > 0) && !o->trace,
			       .timeout_s = o->timeout_s,
			       .goals = o->goals,
			       .max_missed = UINT32_MAX,
			       .keep_itls = o->detailed,
			       .force_epoll = o->epoll,
			       .progress = shows_progress(o) ? progress : NULL};
	int rc = draw(b, rate, err);

	if (!rc && o->deadline_factor > 0)
		rc = calibrate(b, err);
	if (!rc)
		rc = set_deadlines(b, err);
	if (rc)
		return rc;
	plan.prompts = b->prompts;
	plan.prompts.salt = o->same_prompts ? 0 : ++b->salt;
	plan.trace = &b->trace;
	plan.deadline = b->deadline;
	if (give_up)
		job.max_missed = (uint32_t)((1 - o->search_share) * (double)b->trace.nr + 1e-9);
	b->limited = !job.closed && o->max_concurrency;
	load_record_free(&b->rec);
	rc = load_run(&job, &b->rec, err);
	if (shows_progress(o))
		fputc('\n', stderr);
	b->rec.fig.rate = job.closed ? 0 : rate > 0 ? rate : trace_rate(&b->trace);
	return rc;
}

/* ---- several runs ---- */

static void keep_point(struct bench *b, double rate, bool held)
{
	const struct load_figures *f = &b->rec.fig;
	/* A run that was given up has shown only that it misses; its share is what it had until then. */
	json_t *j = load_report_json(f, &b->o->goals, b->limited);

	json_object_set_new(j, "request_rate", json_real(rate));
	json_object_set_new(j, "given_up", json_boolean(b->rec.stopped));
	json_object_set_new(j, "held", json_boolean(held));
	json_object_set_new(j, "repeat", json_integer(b->repeat));
	json_array_append_new(b->points, j);
	if (b->nr_points < MAX_POINTS) {
		b->rate[b->nr_points] = rate;
		b->attainment[b->nr_points++] = f->attainment;
	}
	if (!b->o->json || strcmp(b->o->json, "-"))
		printf("%10.3f requests/s: %6.2f %% met%s, %5.2f %% refused; TTFT p50 %.2f p99 %.2f, TPOT p50 %.3f p99 "
		       "%.3f ms; %u requests%s%s\n",
		       rate, f->attainment * 100, b->rec.stopped ? " until given up" : "",
		       100.0 * (f->nr_by_outcome[LOAD_REFUSED] + f->nr_by_outcome[LOAD_UNAVAILABLE]) /
			       (f->nr ? f->nr : 1),
		       f->dist[LOAD_TTFT].median, f->dist[LOAD_TTFT].p99, f->dist[LOAD_TPOT].median,
		       f->dist[LOAD_TPOT].p99, f->nr - f->nr_by_outcome[LOAD_UNSENT], b->repeat ? " (again)" : "",
		       f->bottleneck[0] ? "  (the generator may have been the bottleneck)" : "");
	fflush(stdout);
}

/* What a run that was given up left behind is to be over before the next begins. */
static void settle(const struct bench *b)
{
	struct timespec s = {.tv_sec = b->rec.stopped ? 1 : 0, .tv_nsec = 200000000};

	nanosleep(&s, NULL);
}

static void announce_search(const struct serve_options *o)
{
	if (!o->quiet)
		fprintf(stderr,
			"freehold: bench serve: a probe has %.0f requests at least, which take %.0f s at %g a second; "
			"at most "
			"%u probes and %.0f s (--search-time)\n",
			fewest(o), probe_s(o, o->search_start), o->search_start, MAX_PROBES, o->search_time_s);
}

/* One probe at the rate that the search wants. */
static int probe(struct bench *b, bool *more, struct fh_err *err)
{
	const struct serve_options *o = b->o;
	struct load_search *s = &b->search;
	double rate = s->next;
	bool held;
	int rc;

	b->repeat = load_search_repeats(s);
	rc = run_once(b, rate, true, err);
	if (rc || b->rec.interrupted)
		return rc ? rc : fh_errf(err, -EINTR, "interrupted");
	if ((double)b->rec.nr < fewest(o))
		return fh_errf(err, -EINVAL,
			       "%s: of its %u requests nobody can say that %g %% met a goal: %.0f are wanted", o->trace,
			       b->rec.nr, o->search_share * 100, fewest(o));
	held = !b->rec.stopped && b->rec.fig.attainment >= o->search_share;
	keep_point(b, rate, held);
	*more = load_search_step(s, held);
	/* Goals that an idle server misses are met at no rate. */
	if ((!s->good && rate < o->search_start / 64) || rate > 1e6)
		*more = false;
	return 0;
}

static int run_search(struct bench *b, struct fh_err *err)
{
	const struct serve_options *o = b->o;
	uint64_t begin_ns = fh_now_ns();
	bool more = true;
	int rc = 0;

	announce_search(o);
	load_search_begin(&b->search, o->search_start, o->search_precision, MAX_PROBES);
	while (more && !rc) {
		rc = probe(b, &more, err);
		settle(b);
		b->search_took_s = (double)(fh_now_ns() - begin_ns) / 1e9;
		if (more && b->search_took_s + probe_s(o, b->search.next) > o->search_time_s) {
			fprintf(stderr,
				"freehold: bench serve: the search ends early: %.0f s have gone, the probe at %.3f "
				"requests/s "
				"would take %.0f more, and --search-time is %.0f\n",
				b->search_took_s, b->search.next, probe_s(o, b->search.next), o->search_time_s);
			more = false;
		}
	}
	b->max_rate = b->search.good;
	return rc;
}

static int run_sweep(struct bench *b, struct fh_err *err)
{
	for (uint32_t i = 0; i < b->o->nr_sweep; i++) {
		int rc = run_once(b, b->o->sweep[i], false, err);

		if (rc || b->rec.interrupted)
			return rc ? rc : fh_errf(err, -EINTR, "interrupted");
		keep_point(b, b->o->sweep[i], b->rec.fig.attainment >= b->o->search_share);
		settle(b);
	}
	return 0;
}

/* ---- output ---- */

static FILE *open_output(const char *path, struct fh_err *err)
{
	FILE *f = fopen(path, "we");

	if (!f)
		fh_errf(err, -errno, "%s: %s", path, strerror(errno));
	return f;
}

static int close_output(FILE *f, const char *path, struct fh_err *err)
{
	bool bad = ferror(f);

	return fclose(f) || bad ? fh_errf(err, -EIO, "%s: cannot be written", path) : 0;
}

static const char *backend_of(const struct load_target *t)
{
	if (!t->channel)
		return "openai";
	return strncmp(t->channel, "udp:", 4) ? "freehold-channel" : "freehold-udp";
}

static int write_json(struct bench *b, struct fh_err *err)
{
	const struct serve_options *o = b->o;
	json_t *j = load_report_json(&b->rec.fig, &o->goals, b->limited);
	double rate = b->rec.fig.rate;
	char date[32];
	time_t now = time(NULL);
	struct tm tm;
	int rc = 0;

	strftime(date, sizeof(date), "%Y%m%d-%H%M%S", localtime_r(&now, &tm));
	json_object_set_new(j, "date", json_string(date));
	json_object_set_new(j, "backend", json_string(backend_of(&o->target)));
	json_object_set_new(j, "label", o->label ? json_string(o->label) : json_null());
	json_object_set_new(j, "model_id", json_string(o->target.model));
	json_object_set_new(j, "endpoint", json_string(o->target.channel ? o->target.channel : o->target.path));
	json_object_set_new(j, "request_rate", rate > 0 && !isinf(rate) ? json_real(rate) : json_string("inf"));
	json_object_set_new(j, "arrivals", json_string(o->trace ? "trace" : rate > 0 ? o->arrivals_text : "closed"));
	if (o->arrivals.kind == TRACE_ARR_GAMMA || o->arrivals.kind == TRACE_ARR_POISSON)
		json_object_set_new(j, "burstiness", json_real(o->arrivals.shape > 0 ? o->arrivals.shape : 1));
	json_object_set_new(j, "max_concurrency", o->max_concurrency ? json_integer(o->max_concurrency) : json_null());
	json_object_set_new(j, "seed", json_integer((json_int_t)o->seed));
	json_object_set_new(j, "prompts_cut", json_integer(b->nr_cut));
	if (b->points) {
		json_object_set(j, "points", b->points);
		json_object_set_new(j, "search_share", json_real(o->search_share));
	}
	if (o->search_start > 0) {
		json_object_set_new(j, "max_rate", json_real(b->max_rate));
		json_object_set_new(j, "search_sure", json_boolean(b->search.sure));
		json_object_set_new(j, "search_missed_rate",
				    b->search.bad > 0 ? json_real(b->search.bad) : json_null());
		json_object_set_new(j, "search_time_s", json_real(b->search_took_s));
	}
	if (o->detailed)
		rc = load_report_detail(j, &b->rec);
	if (!rc && !strcmp(o->json, "-")) {
		rc = json_dumpf(j, stdout, JSON_INDENT(1)) || puts("") < 0;
	} else if (!rc) {
		rc = json_dump_file(j, o->json, JSON_INDENT(1));
	}
	json_decref(j);
	return rc ? fh_errf(err, -EIO, "%s: cannot be written", o->json) : 0;
}

/* The share of requests (%) whose time is at most x: of each kind a curve. [3][CURVE_POINTS] x and y. */
static uint32_t latency_curves(const struct load_record *r, struct load_curve *c, double *x, double *y)
{
	static const enum load_metric of[] = {LOAD_TTFT, LOAD_TPOT, LOAD_E2EL};
	double *v = malloc((r->nr ? r->nr : 1) * sizeof(*v));
	uint32_t nr = 0;

	for (int m = 0; m < 3 && v; m++) {
		size_t n = 0;

		for (uint32_t i = 0; i < r->nr; i++)
			if (r->res[i].outcome == LOAD_OK && (of[m] != LOAD_TPOT || r->res[i].nr_out > 1))
				v[n++] = of[m] == LOAD_TTFT   ? load_ttft_ms(&r->res[i])
					 : of[m] == LOAD_TPOT ? load_tpot_ms(&r->res[i])
							      : load_e2el_ms(&r->res[i]);
		if (n < 2)
			continue;
		qsort(v, n, sizeof(*v), by_value);
		c[nr] = (struct load_curve){.x = x + nr * CURVE_POINTS, .y = y + nr * CURVE_POINTS, .nr = CURVE_POINTS};
		snprintf(c[nr].name, sizeof(c[nr].name), "%s", load_metric_name(of[m]));
		for (uint32_t k = 0; k < CURVE_POINTS; k++) {
			c[nr].y[k] = 100.0 * k / (CURVE_POINTS - 1);
			c[nr].x[k] = load_percentile(v, n, (double)k / (CURVE_POINTS - 1));
		}
		nr++;
	}
	free(v);
	return nr;
}

/* Goals met over the rate, points in order of rate. */
static void rate_curve(struct bench *b, struct load_curve *c)
{
	for (uint32_t i = 1; i < b->nr_points; i++) {
		for (uint32_t k = i; k && b->rate[k] < b->rate[k - 1]; k--) {
			double r = b->rate[k], a = b->attainment[k];

			b->rate[k] = b->rate[k - 1];
			b->attainment[k] = b->attainment[k - 1];
			b->rate[k - 1] = r;
			b->attainment[k - 1] = a;
		}
	}
	for (uint32_t i = 0; i < b->nr_points; i++)
		b->attainment[i] *= 100;
	*c = (struct load_curve){.x = b->rate, .y = b->attainment, .nr = b->nr_points, .dots = true};
	snprintf(c->name, sizeof(c->name), "%s", b->o->label ? b->o->label : b->o->target.url);
}

static int write_plots(struct bench *b, struct fh_err *err)
{
	const struct serve_options *o = b->o;
	static double x[3 * CURVE_POINTS], y[3 * CURVE_POINTS];
	struct load_curve c[3];
	char mark[48];
	struct load_axes axes = {.title = "Share of requests within a time",
				 .x = "ms",
				 .y = "% of requests",
				 .log_x = true,
				 .y_max = 100};
	uint32_t nr;
	FILE *f;

	if (b->points) {
		rate_curve(b, &c[0]);
		snprintf(mark, sizeof(mark), "%g %%", o->search_share * 100);
		axes = (struct load_axes){.title = "Requests that met their goals",
					  .x = "requests a second",
					  .y = "% of requests",
					  .log_x = true,
					  .y_max = 100,
					  .mark_y = o->search_share * 100,
					  .mark = mark};
		nr = 1;
	} else {
		nr = latency_curves(&b->rec, c, x, y);
	}
	if (o->plot && (!o->json || strcmp(o->json, "-")))
		load_plot_text(&axes, c, nr, 100, stdout);
	if (!o->svg)
		return 0;
	f = open_output(o->svg, err);
	if (!f)
		return -EIO;
	load_plot_svg(&axes, c, nr, f);
	return close_output(f, o->svg, err);
}

static int write_csv(struct bench *b, struct fh_err *err)
{
	FILE *f = open_output(b->o->csv, err);

	if (!f)
		return -EIO;
	load_report_csv(&b->rec, b->deadline, &b->o->goals, f);
	return close_output(f, b->o->csv, err);
}

static int output(struct bench *b, struct fh_err *err)
{
	const struct serve_options *o = b->o;
	bool quiet = o->json && !strcmp(o->json, "-");
	int rc = 0;

	if (!quiet && !b->points)
		load_report_text(&b->rec.fig, &o->goals, b->limited, stdout);
	if (!quiet && o->search_start > 0 && !(b->max_rate > 0))
		printf("%g %% met their goals at no rate that was tried\n", o->search_share * 100);
	else if (!quiet && o->search_start > 0)
		printf("largest rate at which %g %% met their goals: %.3f requests/s%s\n", o->search_share * 100,
		       b->max_rate, b->search.sure ? "" : " (the search ended early)");
	if (quiet && b->rec.fig.bottleneck[0])
		fprintf(stderr, "freehold: bench serve: warning: the generator may have been the bottleneck: %s\n",
			b->rec.fig.bottleneck);
	if (b->nr_cut)
		fprintf(stderr, "freehold: bench serve: %u prompts were cut to fit the context of %u tokens\n",
			b->nr_cut, o->target.nr_ctx);
	if (b->rec.first_error[0])
		fprintf(stderr, "freehold: bench serve: the first request that failed: %s\n", b->rec.first_error);
	if (o->json)
		rc = write_json(b, err);
	if (!rc && o->csv)
		rc = write_csv(b, err);
	if (!rc && (o->svg || o->plot))
		rc = write_plots(b, err);
	return rc;
}

/* ---- beginning and end ---- */

static int prepare(struct bench *b, struct fh_err *err)
{
	struct serve_options *o = b->o;
	struct load_target *t = &o->target;
	int rc = load_target_resolve(t, err);

	if (rc)
		return rc;
	t->api_key = getenv("OPENAI_API_KEY");
	t->chat = strlen(t->path) >= 16 && !strcmp(t->path + strlen(t->path) - 16, "chat/completions");
	if (o->trace) {
		rc = trace_load(o->trace, o->trace_format, &b->file, err);
		if (!rc && !b->file.nr)
			rc = fh_errf(err, -EINVAL, "%s: it holds no request", o->trace);
	}
	if (!rc && o->dataset)
		rc = load_dataset_read(o->dataset, &b->data, err);
	if (!rc && o->calibration) {
		rc = load_calibration_read(o->calibration, &b->cal, err);
		b->calibrated = !rc;
	}
	if (!rc)
		rc = load_discover(t, o->model, err);
	if (rc)
		return rc;
	b->prompts = (struct load_prompts){
		.kind = o->dataset	      ? LOAD_PROMPT_DATASET
			: o->words || t->chat ? LOAD_PROMPT_WORDS
					      : LOAD_PROMPT_IDS,
		.first_id = o->first_id,
		.nr_vocab = t->nr_vocab,
		.nr_prefix = o->prefix,
		.prefix_share = o->prefix_share,
		.data = &b->data,
		.seed = o->seed,
	};
	/* Another run, another series of prompts: the server may have kept the last one's. */
	b->salt = o->same_prompts ? 0 : fh_now_ns() ^ ((uint64_t)getpid() << 40);
	rc = warm_up(b, err);
	if (!rc && b->prompts.kind == LOAD_PROMPT_WORDS)
		rc = measure_words(b, err);
	return rc;
}

static int run(struct bench *b, struct fh_err *err)
{
	const struct serve_options *o = b->o;
	int rc;

	if (o->calibrate_only) {
		rc = draw(b, 0, err);
		return rc ? rc : calibrate(b, err);
	}
	if (o->search_start > 0 || o->nr_sweep) {
		b->points = json_array();
		rc = o->nr_sweep ? run_sweep(b, err) : run_search(b, err);
	} else {
		rc = run_once(b, o->rate, false, err);
	}
	return rc ? rc : output(b, err);
}

int bench_serve(int argc, char **argv)
{
	struct serve_options o = {.target = {.path = SERVE_ENDPOINT, .stream = true, .ignore_eos = true},
				  .nr = 1000,
				  .nr_warmups = 1,
				  .timeout_s = 600,
				  .arrivals = {.kind = TRACE_ARR_POISSON, .shape = 1, .nr_burst = 1},
				  .arrivals_text = "poisson",
				  .seed = 1,
				  .in = {.kind = TRACE_LEN_FIXED, .a = 256, .b = 256},
				  .out = {.kind = TRACE_LEN_FIXED, .a = 64, .b = 64},
				  .first_id = 3,
				  .prefix_share = 1,
				  .calibration_reps = 5,
				  .search_share = 0.99,
				  .search_precision = 0.05,
				  .search_time_s = 3600};
	struct fh_err err = {.msg = ""};
	struct bench b = {.o = &o};
	int rc, status;

	if (!serve_parse_options(argc, argv, &o, &status))
		return status;
	if (o.compare[0]) {
		rc = load_compare(o.compare[0], o.compare[1], o.svg, stdout, &err);
	} else {
		rc = prepare(&b, &err);
		if (!rc)
			rc = run(&b, &err);
	}
	if (rc)
		fprintf(stderr, "freehold: bench serve: %s\n", err.msg);
	/* Of a sweep or search the last run may well be one that is refused whole. */
	status = rc || (!o.compare[0] && !b.points && b.rec.fig.nr && !b.rec.fig.nr_by_outcome[LOAD_OK]);
	load_record_free(&b.rec);
	load_dataset_free(&b.data);
	trace_free(&b.file);
	trace_free(&b.trace);
	free(b.deadline);
	json_decref(b.points);
	return status;
}
