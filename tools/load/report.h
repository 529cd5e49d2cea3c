/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Figures for people and for programs: tables on the terminal, JSON in the
 * names of `vllm bench serve` with what we know beside, a CSV line a request,
 * comparisons of two JSON files, and plots (plot.c).
 */
#ifndef FH_TOOLS_LOAD_REPORT_H
#define FH_TOOLS_LOAD_REPORT_H

#include <jansson.h>
#include <stdio.h>

#include "tools/load/run.h"

/* "ttft", "tpot", "itl", "e2el", "send_delay", "client_queue_time": part of the JSON's names. */
const char *load_metric_key(enum load_metric m);
const char *load_metric_name(enum load_metric m);

/* A table of @f. @limited: --max-concurrency held requests of a schedule back. */
void load_report_text(const struct load_figures *f, const struct load_goals *g, bool limited, FILE *out);
/* New reference, or NULL without memory. */
json_t *load_report_json(const struct load_figures *f, const struct load_goals *g, bool limited);
/* Adds input_lens, output_lens, ttfts, itls, start_times, errors of each request: vLLM's --save-detailed. */
int load_report_detail(json_t *into, const struct load_record *r);
/* A line a request. @t: what was asked; @d: [r->nr] or NULL. */
void load_report_csv(const struct load_record *r, const struct trace *t, const struct load_deadline *d,
		     const struct load_goals *g, FILE *out);

/*
 * Two JSON files' figures side by side, B over A; with @svg also a plot of both
 * there, which wants files of --sweep or --search.  0, or -errno with a message.
 */
int load_compare(const char *path_a, const char *path_b, const char *svg, FILE *out, struct fh_err *err);

/* A curve of a plot. */
struct load_curve {
	char name[96];
	double *x, *y; /* [nr]; the plot does not own them */
	size_t nr;
	bool dots; /* a mark at each point */
};

struct load_axes {
	const char *title, *x, *y;
	bool log_x, log_y;
	double y_max;	  /* 0: as the curves need */
	double mark_y;	  /* a dashed line across; 0: none */
	const char *mark; /* what it says */
};

/* An SVG that is readable on light and dark pages. */
void load_plot_svg(const struct load_axes *a, const struct load_curve *c, size_t nr, FILE *out);
/* The same in characters, @width columns. */
void load_plot_text(const struct load_axes *a, const struct load_curve *c, size_t nr, int width, FILE *out);

#endif /* FH_TOOLS_LOAD_REPORT_H */
