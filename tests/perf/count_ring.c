// SPDX-License-Identifier: Apache-2.0
/*
 * A fixed amount of work for an instruction counter: one request with
 * NR_IDS prompt tokens, and NR_TOKENS of its answer, over WHERE.
 *
 *   valgrind --tool=callgrind count_ring WHERE NR_IDS NR_TOKENS
 *
 * The answer is read when it is whole, so that no wait is counted: two runs
 * differ by what their prompts and their tokens cost, and by nothing else.
 * tests/e2e/test_lib_cost.py holds those differences under a bound.
 */
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <time.h>

#include "runtime/lib/freehold.h"

#define READY_S 1 /* by then a model that computes nothing has written all of it */

static int work(struct fh_client *c, size_t nr_ids, uint32_t nr_tokens)
{
	struct timespec ready = {READY_S, 0};
	/* Zeros from the kernel: filling it in is not counted. */
	uint32_t *ids = mmap(NULL, nr_ids * sizeof(*ids), PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	struct fh_params p;
	struct fh_token t;
	uint32_t nr = 0;
	int rc;

	fh_params_init(&p);
	p.flags = FH_REQ_IGNORE_EOS;
	p.max_tokens = nr_tokens;
	rc = ids != MAP_FAILED ? fh_generate(c, ids, nr_ids, &p, NULL) : -1;
	if (rc)
		return rc;
	nanosleep(&ready, NULL);
	do {
		rc = fh_try_next(c, &t);
		if (rc)
			return rc;
		nr += !(t.flags & FH_SLOT_NO_TOKEN);
	} while (!(t.flags & FH_SLOT_LAST));
	return nr == nr_tokens ? 0 : -1;
}

int main(int argc, char **argv)
{
	struct fh_client *c = NULL;
	int rc;

	if (argc != 4) {
		fprintf(stderr, "usage: count_ring WHERE NR_IDS NR_TOKENS\n");
		return 2;
	}
	rc = fh_open(argv[1], NULL, &c);
	if (!rc)
		rc = work(c, (size_t)atoi(argv[2]), (uint32_t)atoi(argv[3]));
	if (rc)
		fprintf(stderr, "count_ring: %d: %s\n", rc, fh_error_message(c));
	fh_close(c);
	return rc ? 1 : 0;
}
