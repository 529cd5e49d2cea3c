/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Sends what a plan says when the plan says so, and writes down what happened.
 *
 * One thread and one event loop.  A request that is due leaves before the next
 * event is handled, whatever else is waiting, and its bytes were made before.
 * What carries it, HTTP connections or channels, is in conn.c and chan.c.
 */
#ifndef FH_TOOLS_LOAD_RUN_H
#define FH_TOOLS_LOAD_RUN_H

#include "tools/load/result.h"

struct load_progress {
	double at_s;
	uint32_t nr, nr_sent, nr_done, nr_refused, nr_failed, nr_running;
	double tokens_per_s; /* events with text, since the last report */
	double ttft_p50_ms, ttft_p99_ms;
};

struct load_job {
	const struct load_plan *plan;
	uint32_t max_concurrency; /* 0: no limit */
	bool closed;		  /* no schedule: send when an answer is complete, up to max_concurrency at once */
	double timeout_s;	  /* of a request */
	struct load_goals goals;
	uint32_t max_missed; /* end the run once more requests than that have missed the goals; UINT32_MAX: never */
	bool keep_itls;
	bool force_epoll;
	void (*progress)(void *ctx, const struct load_progress *p); /* once a second; may be NULL */
	void *progress_ctx;
};

struct load_itls {
	float *ms;
	uint32_t nr;
};

/* All of it belongs to whoever called load_run(). */
struct load_record {
	struct load_result *res; /* [nr] */
	struct load_itls *itls;	 /* [nr], or NULL */
	uint32_t nr;
	struct load_figures fig;
	bool stopped;	       /* before the end: max_missed, or a signal */
	bool interrupted;      /* by SIGINT */
	char first_error[256]; /* what the first request that failed met; "": none did */
};

/*
 * 0 when the run took place, however badly.  -errno when it could not.  SIGINT
 * ends it early; it is blocked meanwhile.  load_record_free() is due in every case.
 */
int load_run(const struct load_job *job, struct load_record *out, struct fh_err *err);
void load_record_free(struct load_record *r);

/*
 * What the server says of itself: fills t->model, unless it was named, t->nr_ctx
 * and t->nr_vocab (a smaller context than was asked for counts).  0, or -errno
 * when nobody is there, or when it does not say what has to be known.
 */
int load_discover(struct load_target *t, const char *model, struct fh_err *err);
/* The same over a channel. */
int load_chan_discover(struct load_target *t, const char *model, struct fh_err *err);

/* GET @path: 0 and the body in @out (to be freed), or -errno. */
int load_get(const struct load_target *t, const char *path, struct fh_buf *out, struct fh_err *err);

#endif /* FH_TOOLS_LOAD_RUN_H */
