/* SPDX-License-Identifier: Apache-2.0 */
/* The options of freehold bench serve. */
#ifndef FH_TOOLS_BENCH_SERVE_H
#define FH_TOOLS_BENCH_SERVE_H

#include "tools/load/report.h"
#include "tools/load/search.h"

#define MAX_SWEEP 64
#define SERVE_ENDPOINT "/v1/completions" /* the default of --endpoint */

struct serve_options {
	struct load_target target;
	const char *model;
	const char *cacert; /* PEM: whose word is taken on an https:// server; NULL: the system's */
	bool insecure;	    /* anybody's */
	/* when */
	uint32_t nr, max_concurrency, nr_warmups;
	double rate, ramp_to, duration_s, timeout_s; /* rate 0: none was given */
	struct trace_arrivals arrivals;
	const char *arrivals_text;
	const char *trace;
	enum trace_format trace_format;
	uint64_t seed;
	/* what */
	struct trace_length in, out;
	bool words, same_prompts;
	const char *dataset;
	uint32_t prefix, first_id;
	double prefix_share;
	/* what is wanted */
	struct load_goals goals;
	double deadline_ttft_ms, deadline_tpot_ms, deadline_factor;
	const char *calibration, *save_calibration;
	uint32_t calibration_reps;
	double calibration_pause_s;
	bool calibrate_only;
	double search_start, search_share, search_precision, search_time_s;
	double sweep[MAX_SWEEP];
	uint32_t nr_sweep;
	/* output */
	const char *json, *csv, *svg, *label;
	const char *compare[2];
	bool detailed, plot, quiet, epoll;
};

extern const char serve_usage[];

/* True: go on. False: *status is the exit status. */
bool serve_parse_options(int argc, char **argv, struct serve_options *o, int *status);

#endif /* FH_TOOLS_BENCH_SERVE_H */
