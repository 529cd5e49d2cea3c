// SPDX-License-Identifier: Apache-2.0
/*
 * Requests with nobody beside: warming up, counting words, and the unloaded
 * times that deadlines follow from.
 */
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "tools/bench_serve_priv.h"

#define WORD_PROBE 32u /* few enough for the smallest contexts */
#define CALIBRATION_LENGTHS 8u

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
int serve_measure_words(struct bench *b, struct fh_err *err)
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

int serve_warm_up(struct bench *b, struct fh_err *err)
{
	struct load_result res;
	uint32_t nr_in = b->o->nr_warmups ? trace_length_draw(&b->o->in, &(struct trace_rng){.random.s = {1, 2}}) : 1;
	int rc = 0;

	if (b->o->target.nr_ctx && nr_in + 8 > b->o->target.nr_ctx)
		nr_in = b->o->target.nr_ctx > 8 ? b->o->target.nr_ctx - 8 : 1;
	for (uint32_t i = 0; i < b->o->nr_warmups && !rc; i++)
		rc = ask(b, nr_in, 4, &res, err);
	return rc;
}

int serve_by_value(const void *a, const void *b)
{
	double x = *(const double *)a, y = *(const double *)b;

	return (x > y) - (x < y);
}

static void idle(double s)
{
	struct timespec t = {.tv_sec = (time_t)s, .tv_nsec = (long)((s - (double)(time_t)s) * 1e9)};

	nanosleep(&t, NULL);
}

/* Unloaded times by length: of each the median of some requests, one after the other. */
int serve_calibrate(struct bench *b, struct fh_err *err)
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

			idle(b->o->calibration_pause_s);
			rc = ask(b, len[i], gen, &res, err);
			if (rc)
				break;
			ttft[k] = load_ttft_ms(&res);
			tpot[k] = load_tpot_ms(&res);
		}
		qsort(ttft, reps, sizeof(*ttft), serve_by_value);
		qsort(tpot, reps, sizeof(*tpot), serve_by_value);
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
