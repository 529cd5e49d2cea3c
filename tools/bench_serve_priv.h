/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the parts of freehold bench serve share.  The bench owns all that was
 * drawn and recorded; of several runs only the last one's record is kept, and
 * each one's figures.
 */
#ifndef FH_TOOLS_BENCH_SERVE_PRIV_H
#define FH_TOOLS_BENCH_SERVE_PRIV_H

#include "tools/bench_serve.h"

#define MAX_POINTS 128

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

/* ---- bench_serve_unloaded.c: what one request at a time tells ---- */

/* How many words a token takes, by the server's own count of a long and a short prompt. */
int serve_measure_words(struct bench *b, struct fh_err *err);
/* --num-warmups requests that are not counted. */
int serve_warm_up(struct bench *b, struct fh_err *err);
/* Unloaded times by length: of each the median of some requests, one after the other. Once. */
int serve_calibrate(struct bench *b, struct fh_err *err);
/* For qsort() of doubles, ascending. */
int serve_by_value(const void *a, const void *b);

/* ---- bench_serve_draw.c: what is sent ---- */

/* Of how many requests a searched share has to be counted; 1 without a search. */
double serve_fewest(const struct serve_options *o);
/* A run's arrivals and lengths, into b->trace. @rate 0: a closed loop, or a trace at its own pace. */
int serve_draw(struct bench *b, double rate, struct fh_err *err);
/* Each request's deadlines, into b->deadline. */
int serve_set_deadlines(struct bench *b, struct fh_err *err);

/* ---- bench_serve_output.c ---- */

/* All that was asked for: text, JSON, CSV, plots. */
int serve_output(struct bench *b, struct fh_err *err);

#endif /* FH_TOOLS_BENCH_SERVE_PRIV_H */
