// SPDX-License-Identifier: Apache-2.0
/*
 * libFuzzer target: any text as the file in which step costs are kept.  What is
 * believed gives finite, non-negative times and can be written again; what is
 * not leaves the model as it was.
 */
#include <assert.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

/* The scheduler is left out of the fuzzers' library. */
#include "runtime/sched/cost.c"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct fh_sched_work w = {
		.prompt_tokens = 64, .decode_tokens = 3, .seqs = 3, .kv_positions = 500, .pairs = 9000};
	char *text = malloc(size + 1), again[4096];
	struct fh_sched_cost c, d;

	if (!text)
		return 0;
	if (size)
		memcpy(text, data, size);
	text[size] = 0;
	fh_sched_cost_init(&c, 8, 2);
	if (fh_sched_cost_scan(&c, text)) {
		double ns = fh_sched_cost_ns(&c, &w);

		assert(isfinite(ns) && ns >= 0);
		assert(fh_sched_cost_print(&c, again, sizeof(again)) < sizeof(again));
		fh_sched_cost_init(&d, 0, 0);
		assert(fh_sched_cost_scan(&d, again));
		fh_sched_cost_measured(&c, &w, 1000000);
		assert(isfinite(fh_sched_cost_ns(&c, &w)));
	} else {
		assert(!fh_sched_cost_known(&c) && c.nr_experts == 8);
	}
	free(text);
	return 0;
}
