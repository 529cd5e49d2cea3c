// SPDX-License-Identifier: Apache-2.0
/*
 * Stop strings: the automaton against a naive search, then whole requests
 * against the text that the same request gives without stop strings, cut by a
 * naive search.  Pieces are short and of few letters, characters are split over
 * tokens, and some bytes never become one.
 */
#include "runtime/engine/stop.h"
#include "tests/unit/engine_oracle.h"

/* The first place where some string ends, then the earliest begin there; or SIZE_MAX. */
static size_t naive_find(const char *text, size_t n, const struct fh_stop *stop, uint32_t nr)
{
	for (size_t end = 1; end <= n; end++) {
		size_t begin = SIZE_MAX;

		for (uint32_t i = 0; i < nr; i++)
			if (stop[i].bytes <= end && !memcmp(text + end - stop[i].bytes, stop[i].text, stop[i].bytes) &&
			    end - stop[i].bytes < begin)
				begin = end - stop[i].bytes;
		if (begin != SIZE_MAX)
			return begin;
	}
	return SIZE_MAX;
}

Test(engine_stop, automaton_against_naive_search)
{
	struct rng r = {3};
	uint32_t nr_found = 0;

	for (int round = 0; round < 50000; round++) {
		static struct fh_stopper st;
		char text[200], strings[4][24];
		struct fh_stop stop[4];
		uint32_t nr = 1 + rnd(&r, 4), letters = 1 + rnd(&r, 3);
		size_t n = rnd(&r, sizeof(text)), at = 0, want;
		uint64_t begin = 0;
		bool found = false;

		for (size_t i = 0; i < n; i++)
			text[i] = (char)('a' + rnd(&r, letters));
		for (uint32_t i = 0; i < nr; i++) {
			stop[i] = (struct fh_stop){strings[i], 1 + rnd(&r, 23)};
			for (uint32_t k = 0; k < stop[i].bytes; k++)
				strings[i][k] = (char)('a' + rnd(&r, 2));
		}
		want = naive_find(text, n, stop, nr);
		fh_stop_init(&st, stop, nr);
		while (at < n && !found) {
			size_t step = 1 + rnd(&r, 9);

			step = step < n - at ? step : n - at;
			found = fh_stop_feed(&st, text + at, step, &begin);
			at += step;
			/* Safe text holds nothing of a stop string that may still come. */
			if (!found && want != SIZE_MAX)
				cr_assert_leq(fh_stop_safe(&st), want);
		}
		cr_assert_eq(found, want != SIZE_MAX);
		if (found)
			cr_assert_eq(begin, want);
		nr_found += found;
	}
	cr_assert_gt(nr_found, 10000);
}

/* The longest strings against a text that nearly matches for ever: no quadratic time, no overflow. */
Test(engine_stop, long_strings_of_one_letter)
{
	static char a[FH_MAX_STOP_BYTES], text[1 << 16];
	static struct fh_stopper st;
	struct fh_stop stop[FH_MAX_STOP];
	uint64_t begin;

	memset(a, 'a', sizeof(a));
	memset(text, 'a', sizeof(text));
	a[sizeof(a) - 1] = 'b';
	for (int i = 0; i < FH_MAX_STOP; i++)
		stop[i] = (struct fh_stop){a, sizeof(a)};
	fh_stop_init(&st, stop, FH_MAX_STOP);
	for (int i = 0; i < 64; i++)
		cr_assert(!fh_stop_feed(&st, text, sizeof(text), &begin));
	cr_assert_eq(fh_stop_safe(&st), 64 * sizeof(text) - (FH_MAX_STOP_BYTES - 1));
	cr_assert(fh_stop_feed(&st, "b", 1, &begin));
	cr_assert_eq(begin, 64 * sizeof(text) - (FH_MAX_STOP_BYTES - 1));
}

static void run(struct rig *g, struct job *j)
{
	struct fh_err err = {0};

	cr_assert_eq(fh_fake_run(g->f, &j->call, &err), 0, "%s", err.msg);
}

/*
 * Every request twice, without and with stop strings taken from its own text
 * or made up; small rings, so that what is released has to wait for its reader.
 */
Test(engine_stop, requests_against_naive_search)
{
	struct fh_engine_config cfg = rig_config();
	struct job *plain = calloc(1, sizeof(*plain)), *j = calloc(1, sizeof(*j));
	struct rng r = {5};
	uint32_t nr_stopped = 0, nr_cut = 0;
	struct rig g;

	cfg.nr_ctx = 300;
	rig_open(&g, cfg);
	for (int round = 0; round < 6000; round++) {
		char made[FH_MAX_STOP][12];
		struct fh_request *q = &j->call.req;
		size_t want;

		job_random(plain, &r, 40, 60);
		plain->call.req.nr_slots = 1u << rnd(&r, 4);
		plain->call.req.sampling.logprobs = rnd(&r, 2);
		plain->call.req.sampling.nr_top = rnd(&r, 3);
		plain->call.req.ignore_eos = rnd(&r, 2);
		run(&g, plain);
		job_check(plain, 300);

		job_init(j);
		memcpy(j->prompt, plain->prompt, sizeof(j->prompt));
		*q = (struct fh_request){.kind = FH_REQ_GENERATE,
					 .prompt = j->prompt,
					 .nr_prompt = plain->call.req.nr_prompt,
					 .max_tokens = plain->call.req.max_tokens,
					 .ignore_eos = plain->call.req.ignore_eos,
					 .sampling = plain->call.req.sampling,
					 .nr_slots = plain->call.req.nr_slots};
		q->nr_stop = 1 + rnd(&r, 3);
		for (uint32_t i = 0; i < q->nr_stop; i++) {
			uint32_t n = 1 + rnd(&r, 11);

			q->stop[i] = (struct fh_stop){made[i], n};
			if (rnd(&r, 2) && plain->text_bytes > n) {
				memcpy(made[i], plain->text + rnd(&r, (uint32_t)(plain->text_bytes - n)), n);
			} else {
				for (uint32_t k = 0; k < n; k++)
					made[i][k] = (char)('a' + rnd(&r, 2));
			}
		}
		run(&g, j);

		want = naive_find(plain->text, plain->text_bytes, q->stop, q->nr_stop);
		cr_assert_eq(j->nr_done, 1);
		cr_assert_eq(j->nr_last, 1);
		if (want == SIZE_MAX) {
			cr_assert_eq(j->call.finish, plain->call.finish);
			cr_assert_eq(j->text_bytes, plain->text_bytes);
			cr_assert_eq(j->nr_out, plain->nr_out);
		} else {
			cr_assert_eq(j->call.finish, FH_FINISH_STOP);
			cr_assert_eq(j->text_bytes, want, "round %d: %zu bytes shown, not %zu", round, j->text_bytes,
				     want);
			cr_assert_leq(j->nr_out, plain->nr_out);
			nr_stopped++;
			nr_cut += j->was_cut;
			cr_assert(!j->was_cut || j->text_bytes > j->text_before_cut,
				  "nothing of the last token is shown");
		}
		cr_assert(!j->text_bytes || !memcmp(j->text, plain->text, j->text_bytes));
		cr_assert_arr_eq(j->out, plain->out, j->nr_out * sizeof(*j->out));
		cr_assert_eq(naive_find(j->text, j->text_bytes, q->stop, q->nr_stop), SIZE_MAX,
			     "the reader saw a stop string");
	}
	cr_assert(nr_stopped > 2000 && nr_cut > 1000, "%u stopped, %u cut", nr_stopped, nr_cut);
	rig_close(&g);
	free(plain->text);
	free(j->text);
	free(plain);
	free(j);
}

/* Before min_tokens nothing stops, not even a string that began there. */
Test(engine_stop, not_before_min_tokens)
{
	struct job *j = calloc(1, sizeof(*j));
	struct rng r = {9};
	struct rig g;

	rig_open(&g, rig_config());
	for (int round = 0; round < 300; round++) {
		struct fh_request *q = &j->call.req;

		job_random(j, &r, 20, 1);
		q->max_tokens = 60;
		q->min_tokens = rnd(&r, 50);
		q->nr_stop = 2;
		q->stop[0] = (struct fh_stop){"a", 1};
		q->stop[1] = (struct fh_stop){"b", 1};
		run(&g, j);
		cr_assert_geq(j->nr_out, q->min_tokens);
		cr_assert_eq(j->call.finish, FH_FINISH_STOP);
	}
	rig_close(&g);
	free(j->text);
	free(j);
}

static int next_stamp(void *ctx, const struct fh_slot *slot, const struct fh_top *top)
{
	uint32_t *nr = ctx;

	(void)top;
	cr_assert_eq(slot->stamp, ++*nr);
	if (!(slot->flags & FH_SLOT_NO_TOKEN))
		cr_assert_eq(slot->token, *nr <= 300 ? 18 : *nr == 301 ? 9 : ID_EOS);
	return 0;
}

/*
 * Tokens without text behind the beginning of a stop string: what is held back
 * is bounded, and the same with guesses.
 */
Test(engine_stop, endless_tokens_without_text)
{
	struct job *j = calloc(1, sizeof(*j));
	uint32_t nr_generated[2], script[3000];

	for (uint32_t i = 0; i < 3000; i++)
		script[i] = i < 300    ? 18
			    : i == 300 ? 9
				       : ID_EOS; /* "c", "a", and what has no text and does not end it */
	for (int guessing = 0; guessing < 2; guessing++) {
		struct fh_engine_config cfg = guessing ? rig_config_guessing() : rig_config();
		struct fh_err err = {0};
		struct rng r = {3};
		uint32_t nr = 0;
		struct rig g;

		cfg.nr_ctx = 4096;
		rig_open(&g, cfg);
		g.o->script = script;
		job_random(j, &r, 1, 1);
		j->call.req.ignore_eos = true;
		j->call.req.max_tokens = 3000;
		j->call.req.nr_stop = 1;
		j->call.req.stop[0] = (struct fh_stop){"ab", 2};
		j->call.on_slot = next_stamp;
		j->call.ctx = &nr;
		j->call.on_text = NULL;
		j->call.on_done = NULL;
		cr_assert_eq(fh_fake_run(g.f, &j->call, &err), -EOVERFLOW);
		cr_assert_eq(j->call.finish, FH_FINISH_ERROR);
		cr_assert_lt(j->call.req.nr_generated, 2000);
		nr_generated[guessing] = j->call.req.nr_generated;
		cr_assert(g.o->nr_steps < 400 || !guessing);
		rig_close(&g);
	}
	cr_assert_eq(nr_generated[0], nr_generated[1]);
	free(j->text);
	free(j);
}
