/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What became of each request, and the figures that follow.
 *
 * Times are in ns since the run's beginning.  `due` is when the request was to
 * leave by the plan, and every latency counts from there: a server that stalls
 * is charged for the requests that came meanwhile, whether or not the generator
 * could send them.  Only a closed loop has no plan; there a request is due when
 * the one before it has ended.
 */
#ifndef FH_TOOLS_LOAD_RESULT_H
#define FH_TOOLS_LOAD_RESULT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "tools/load/hdr.h"
#include "tools/load/plan.h"

enum load_outcome {
	LOAD_UNSENT,	   /* the run ended before */
	LOAD_OK,	   /* answered in full */
	LOAD_REFUSED,	   /* 429 */
	LOAD_UNAVAILABLE,  /* 503 */
	LOAD_HTTP_ERROR,   /* another status */
	LOAD_STREAM_ERROR, /* an error after the status */
	LOAD_EMPTY,	   /* a good status, and no token */
	LOAD_CONNECT,	   /* no connection */
	LOAD_BROKEN,	   /* the connection was lost before the answer's end */
	LOAD_MALFORMED,	   /* no HTTP, or no events, that we understand */
	LOAD_TIMEOUT,
	LOAD_NR_OUTCOMES,
};

/* As figures and JSON name them. */
const char *load_outcome_name(enum load_outcome o);

struct load_result {
	uint64_t due_ns;   /* scheduled */
	uint64_t ready_ns; /* due, or later when --max-concurrency held it back */
	uint64_t sent_ns;  /* the kernel had taken all of it; 0: it never left */
	uint64_t first_ns, last_ns, end_ns;
	uint32_t nr_in, nr_out; /* tokens; the server's count where it gave one */
	uint32_t nr_events, nr_cached;
	uint16_t status;
	uint8_t outcome; /* enum load_outcome */
	bool counted;	 /* nr_out is the server's count */
};

struct load_goals {
	double ttft_ms, tpot_ms, e2el_ms; /* 0: none */
};

/* A distribution in ms; percentiles as numpy's, linear between ranks. */
struct load_dist {
	uint64_t nr;
	double mean, median, std, p90, p99, p999, max;
};

enum load_metric { LOAD_TTFT, LOAD_TPOT, LOAD_ITL, LOAD_E2EL, LOAD_SEND_DELAY, LOAD_CLIENT_QUEUE, LOAD_NR_METRICS };

/* What the generator saw of itself. */
struct load_self {
	double cpu_s, run_delay_s; /* processor time; time that it was ready to run and did not */
	uint64_t max_turn_ns;	   /* longest time between two looks at the sockets */
	uint32_t nr_opened, nr_retried;
	uint32_t nr_unopened; /* for want of something on this side */
	uint32_t nr_waited;   /* requests for which a channel's rings had no room when they were due */
	char backend[96];
};

struct load_figures {
	double duration_s;
	double rate; /* asked for; 0: closed loop; INFINITY */
	uint32_t nr, nr_by_outcome[LOAD_NR_OUTCOMES], nr_good;
	bool has_goals;
	double attainment;	    /* good / all that were sent */
	double admitted_attainment; /* good / those not refused (429, 503) */
	uint64_t input_tokens, output_tokens, cached_tokens, nr_events;
	double max_output_tokens_per_s; /* of any second */
	uint32_t max_concurrent;
	struct load_dist dist[LOAD_NR_METRICS];
	struct load_self self;
	bool uncounted;	      /* some token counts are our count of events */
	char bottleneck[400]; /* why the generator may have been one; "": it was not */
};

/* Time to the first token, per further token, to the last one; ms. */
double load_ttft_ms(const struct load_result *r);
double load_tpot_ms(const struct load_result *r);
double load_e2el_ms(const struct load_result *r);
/* Did it meet the goals and, if @d is not NULL, its own deadlines? */
bool load_is_good(const struct load_result *r, const struct load_goals *g, const struct load_deadline *d);

/* values: [nr], sorted here. */
void load_dist_of(double *values, size_t nr, struct load_dist *out);
void load_dist_of_hdr(const struct load_hdr *h, struct load_dist *out);
/* Percentile @q (0..1) of [nr] sorted values, linear between ranks; 0 when there are none. */
double load_percentile(const double *sorted, size_t nr, double q);

/*
 * Fill @f, whose self is filled in already, from @res: [nr].  @d: [nr] or NULL.
 * @itl: gaps between the events of answers.  @tokens: [nr_s], events of each second.  -ENOMEM.
 */
int load_figures(const struct load_result *res, uint32_t nr, const struct load_goals *g, const struct load_deadline *d,
		 const struct load_hdr *itl, const uint64_t *tokens, size_t nr_s, struct load_figures *f);

#endif /* FH_TOOLS_LOAD_RESULT_H */
