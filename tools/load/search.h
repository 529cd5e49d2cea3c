/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The largest rate that a server keeps: doubled while it holds, halved while
 * it does not, then the gap is bisected.  A probe is a sample, and near the
 * limit chance decides it; so the two rates on which the answer rests are tried
 * again, and where two probes of a rate disagree a third decides.  And the
 * unloaded times by which deadlines are set.  Pure: whoever uses it runs the
 * probes.
 */
#ifndef FH_TOOLS_LOAD_SEARCH_H
#define FH_TOOLS_LOAD_SEARCH_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "tools/load/plan.h"

#define LOAD_MAX_PROBES 64

struct load_search {
	double good, bad; /* the largest rate that held, the smallest above it that did not; 0: none yet */
	double precision; /* 0.05: until bad is at most 5 % above good */
	double next;	  /* the rate to try */
	uint32_t left;	  /* probes */
	bool sure;	  /* both good and bad were tried twice, and more than half of it said the same */
	struct {
		double rate;
		uint32_t nr_held, nr_missed;
	} tried[LOAD_MAX_PROBES];
	uint32_t nr_tried;
};

/* @max_probes: up to LOAD_MAX_PROBES. */
void load_search_begin(struct load_search *s, double start, double precision, uint32_t max_probes);
/* What came of s->next. False: the search is over, s->good is the answer. */
bool load_search_step(struct load_search *s, bool held);
/* How often s->next was tried before. */
uint32_t load_search_repeats(const struct load_search *s);

#define LOAD_MAX_CALIBRATION 64

/* Unloaded times of one prompt length; ascending by length. */
struct load_calibration {
	struct {
		uint32_t nr_prompt;
		double ttft_ms, tpot_ms;
	} at[LOAD_MAX_CALIBRATION];
	uint32_t nr;
};

/* At most @want lengths from @min to @max, each about as far above the last as the next is above it.  Their number. */
uint32_t load_calibration_lengths(uint32_t min, uint32_t max, uint32_t want, uint32_t *out);
/* @factor times the unloaded times of a prompt of @nr_prompt tokens, linear between lengths. */
struct load_deadline load_calibration_deadline(const struct load_calibration *c, uint32_t nr_prompt, double factor);
int load_calibration_read(const char *path, struct load_calibration *out, struct fh_err *err);
int load_calibration_write(const char *path, const struct load_calibration *c, struct fh_err *err);

#endif /* FH_TOOLS_LOAD_SEARCH_H */
