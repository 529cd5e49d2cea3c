/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A run from inside: the schedule and the loop (run.c), and what carries
 * requests, its wire: HTTP connections (conn.c) or channels' rings (chan.c).
 *
 * The run owns results, prepared requests and the event loop; a wire owns its
 * connections and the requests under way on them, each of which embeds a struct
 * load_flight.  A wire tells the run of text and of ends; the run tells the
 * wire what to send, and that it is over.
 */
#ifndef FH_TOOLS_LOAD_RUN_PRIV_H
#define FH_TOOLS_LOAD_RUN_PRIV_H

#include "runtime/base/io.h"
#include "tools/load/run.h"

#define LOAD_AHEAD 256u	     /* requests whose bytes are made before they are due */
#define LOAD_NONE UINT32_MAX /* no request */

struct load_run;

/* One request under way. Embed it; zero it; set nr to LOAD_NONE; fill in timer.fn. */
struct load_flight {
	struct load_run *run;
	struct fh_io_timer timer; /* --timeout */
	uint32_t nr;		  /* which request; LOAD_NONE: idle */
	uint64_t last_text_ns;	  /* 0: none yet */
	float *gap_ms;		  /* with keep_itls; the wire frees it in the end */
	uint32_t nr_gaps, cap_gaps;
};

struct load_wire {
	/* Before the run begins, with the loop there; at most @most requests are under way at once. */
	int (*setup)(struct load_run *r, uint32_t most, struct fh_err *err);
	/* Append the bytes of request @i. */
	void (*make)(const struct load_plan *p, uint32_t i, struct fh_buf *out);
	/*
	 * Send request @i, whose bytes are in load_run_bytes(); the wire may swap
	 * that buffer for another.  False: it cannot be sent, load_run_failure()
	 * has heard why.
	 */
	bool (*issue)(struct load_run *r, uint32_t i);
	/* Before each poll: what could not be done at once. Ns until it wants to be called again; or NULL. */
	uint64_t (*turn)(struct load_run *r);
	/* Drop what is under way with load_run_drop(), begin to close; r->nr_open falls to 0 in the loop. */
	void (*hang_up)(struct load_run *r);
	/* After the loop, or a setup that failed. */
	void (*free)(struct load_run *r);
};

struct load_run {
	const struct load_job *job;
	struct load_record *out;
	struct fh_io *io;
	const struct load_wire *wire;
	void *wire_own;	  /* of the wire */
	uint32_t nr_open; /* descriptors that the wire has in the loop */
	struct fh_buf ahead[LOAD_AHEAD];
	uint32_t next, made; /* requests that were issued; whose bytes were made */
	uint32_t nr_running, nr_done, nr_missed, nr_refused, nr_failed;
	uint64_t begin_ns, turn;
	uint64_t slot_ns;   /* when max_concurrency last let one more go */
	uint64_t margin_ns; /* what a sleep is shortened by */
	struct load_hdr gaps, ttft;
	uint64_t *tokens; /* [nr_tokens] events of each second */
	size_t nr_tokens;
	uint64_t nr_text, text_told, told_ns;
	bool stop, broken;
};

extern const struct load_wire load_wire_http, load_wire_chan;

/* Ns since the run's beginning. */
static inline uint64_t load_run_since(const struct load_run *r, uint64_t ns)
{
	return ns > r->begin_ns ? ns - r->begin_ns : 0;
}

static inline struct fh_buf *load_run_bytes(struct load_run *r, uint32_t i)
{
	return &r->ahead[i % LOAD_AHEAD];
}

/* The first failure is told in the end. */
void load_run_failure(struct load_run *r, const char *what);
/* @f carries request @i from @at_ns on: its timer runs. */
void load_run_begin(struct load_flight *f, uint32_t i, uint64_t at_ns);
/* Text has come on @f. */
void load_run_text(struct load_flight *f, uint64_t now);
/* The request on @f is over; the result's times of text and counts are filled in already. */
void load_run_finish(struct load_flight *f, enum load_outcome outcome, int status, uint64_t now);
/* The run is over before the request on @f is: it counts as not sent. */
void load_run_drop(struct load_flight *f);
/* Whatever should have left by now leaves now: called between two events. */
void load_run_issue_due(struct load_run *r);

#endif /* FH_TOOLS_LOAD_RUN_PRIV_H */
