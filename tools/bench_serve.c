// SPDX-License-Identifier: Apache-2.0
/*
 * freehold bench serve: measures a server as its users see it, over HTTP or over
 * channels.
 *
 * First it finds out what it can about the server (model, context, vocabulary),
 * asks one question, and where deadlines follow from unloaded times measures
 * those.  Then it runs once, once a rate, or as often as the search for a rate
 * needs.
 */
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "runtime/base/clock.h"
#include "runtime/net/tls_client.h"
#include "tools/bench.h"
#include "tools/bench_serve_priv.h"

#define MAX_PROBES 40u

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
	int rc = serve_draw(b, rate, err);

	if (!rc && o->deadline_factor > 0)
		rc = serve_calibrate(b, err);
	if (!rc)
		rc = serve_set_deadlines(b, err);
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

/* About how long a probe at @rate takes that is not given up. */
static double probe_s(const struct serve_options *o, double rate)
{
	return o->duration_s > 0 ? fmax(o->duration_s, serve_fewest(o) / rate) : fmax(o->nr, serve_fewest(o)) / rate;
}

static void announce_search(const struct serve_options *o)
{
	if (!o->quiet)
		fprintf(stderr,
			"freehold: bench serve: a probe has %.0f requests at least, which take %.0f s at %g a second; "
			"at most "
			"%u probes and %.0f s (--search-time)\n",
			serve_fewest(o), probe_s(o, o->search_start), o->search_start, MAX_PROBES, o->search_time_s);
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
	if ((double)b->rec.nr < serve_fewest(o))
		return fh_errf(err, -EINVAL,
			       "%s: of its %u requests nobody can say that %g %% met a goal: %.0f are wanted", o->trace,
			       b->rec.nr, o->search_share * 100, serve_fewest(o));
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

/* ---- beginning and end ---- */

static int prepare(struct bench *b, struct fh_err *err)
{
	struct serve_options *o = b->o;
	struct load_target *t = &o->target;
	const struct fh_tls_trust trust = {.ca = o->cacert, .insecure = o->insecure};
	int rc = strncmp(t->url, "https://", 8) ? 0 : fh_tls_dialer_open(&trust, &t->tls, err);

	if (!rc)
		rc = load_target_resolve(t, err);
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
	rc = serve_warm_up(b, err);
	if (!rc && b->prompts.kind == LOAD_PROMPT_WORDS)
		rc = serve_measure_words(b, err);
	return rc;
}

static int run(struct bench *b, struct fh_err *err)
{
	const struct serve_options *o = b->o;
	int rc;

	if (o->calibrate_only) {
		rc = serve_draw(b, 0, err);
		return rc ? rc : serve_calibrate(b, err);
	}
	if (o->search_start > 0 || o->nr_sweep) {
		b->points = json_array();
		rc = o->nr_sweep ? run_sweep(b, err) : run_search(b, err);
	} else {
		rc = run_once(b, o->rate, false, err);
	}
	return rc ? rc : serve_output(b, err);
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
				  .calibration_pause_s = 0.2,
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
	fh_tls_dialer_close(o.target.tls);
	return status;
}
