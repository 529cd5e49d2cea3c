// SPDX-License-Identifier: Apache-2.0
/* What the engine refuses to be made of, and the histogram that it keeps its times in. */
#include "runtime/base/hist.h"
#include "tests/unit/engine_oracle.h"

static void refused(struct fh_engine_config cfg, struct oracle *o, const char *word)
{
	struct fh_engine *e = NULL;
	struct fh_err err = {0};

	cfg.accel = &o->base;
	cr_assert_eq(fh_engine_create(&cfg, &e, &err), -EINVAL);
	cr_assert(strstr(err.msg, word), "\"%s\" does not say %s", err.msg, word);
	cr_assert_null(e);
}

Test(engine_config, what_cannot_work_is_refused)
{
	struct oracle *o = calloc(1, sizeof(*o));
	struct fh_engine_config cfg;

	o->base.ops = &oracle_ops;
	cfg = rig_config();
	cfg.nr_blocks = 0;
	refused(cfg, o, "KV blocks");
	cfg = rig_config();
	cfg.max_seqs = 0;
	refused(cfg, o, "sequences");
	cfg = rig_config();
	cfg.max_step_tokens = cfg.max_seqs - 1;
	refused(cfg, o, "step");
	cfg = rig_config();
	cfg.nr_ctx = 1;
	refused(cfg, o, "context");
	free(o);
}

/* What cannot be about guesses. */
Test(engine_config, guesses)
{
	struct fh_engine_config cfg = rig_config_guessing();
	struct oracle *o = oracle_new(&cfg), *small = oracle_new(&cfg);

	cfg.spec_tokens = FH_SPEC_MAX + 1;
	refused(cfg, o, "guesses");
	cfg = rig_config_guessing();
	cfg.max_step_logits = cfg.max_seqs - 1;
	refused(cfg, o, "logits");
	cfg = rig_config_guessing();
	cfg.draft = &small->base;
	small->nr_blocks = cfg.nr_blocks - 1;
	refused(cfg, o, "draft model");
	small->nr_blocks = cfg.nr_blocks;
	small->nr_vocab = NR_VOCAB - 1;
	refused(cfg, o, "draft model");
	free(o);
	free(small);
}

static void no_wake(struct fh_frontend *fe)
{
	(void)fe;
}

Test(engine_config, front_ends)
{
	struct fh_frontend fe[FH_MAX_FRONTENDS], stranger = {.name = "stranger"};
	struct fh_request r = {.fe = &stranger};
	struct fh_err err = {0};
	struct rig g;

	rig_open(&g, rig_config());
	for (int i = 0; i < FH_MAX_FRONTENDS; i++) {
		int want = i < FH_MAX_FRONTENDS - 1 ? 0 : -ENOSPC; /* the rig has one already */

		memset(&fe[i], 0, sizeof(fe[i]));
		fe[i].name = "many";
		fe[i].wake = no_wake;
		cr_assert_eq(fh_engine_attach(g.e, &fe[i], &err), want);
	}
	cr_assert_eq(fh_engine_submit(g.e, &r, NULL, &err), -EINVAL);
	cr_assert(strstr(err.msg, "not attached"));
	cr_assert_eq(fh_engine_start(g.e, &err), 0);
	cr_assert_eq(fh_engine_attach(g.e, &stranger, &err), -EBUSY);
	fh_engine_stop(g.e, 0);
	rig_close(&g);
}

/* Destroyed with requests inside: each gets its last word first. */
Test(engine_config, destroyed_while_at_work)
{
	struct job *j = calloc(1, sizeof(*j));
	struct rng r = {3};
	struct fh_err err = {0};
	struct rig g;

	rig_open(&g, rig_config());
	job_random(j, &r, 100, 1);
	j->call.req.max_tokens = j->call.req.min_tokens = 100;
	cr_assert_eq(fh_fake_submit(g.f, &j->call, NULL, &err), 0);
	for (int i = 0; i < 5; i++)
		fh_engine_step(g.e);
	fh_engine_destroy(g.e);
	cr_assert_eq(j->call.req.nr_generated > 0, true);
	cr_assert_gt(j->call.req.done_ns, 0);
	fh_fake_destroy(g.f);
	fh_tokenizer_close(g.tok);
	free(g.o);
	free(j->text);
	free(j);
}

Test(engine_config, histogram)
{
	static struct fh_hist h;
	char *text = NULL;
	size_t bytes;
	FILE *out;

	cr_assert_eq(fh_hist_quantile_ns(&h, 0.5), 0);
	for (uint64_t us = 1; us <= 1000; us++)
		fh_hist_add(&h, us * 1000);
	cr_assert_eq(fh_hist_count(&h), 1000);
	cr_assert_float_eq((double)fh_hist_quantile_ns(&h, 0.5), 500e3, 1e3);
	cr_assert_float_eq((double)fh_hist_quantile_ns(&h, 0.99), 990e3, 1e3);
	fh_hist_add(&h, 10000); /* a bound belongs to the bucket that it ends */
	fh_hist_add(&h, 3600000000000u);
	out = open_memstream(&text, &bytes);
	fh_hist_print(&h, "x_seconds", "Help.", out);
	fclose(out);
	cr_assert(strstr(text, "# TYPE x_seconds histogram\n"));
	cr_assert(strstr(text, "x_seconds_bucket{le=\"1e-05\"} 11\n"), "%s", text);
	cr_assert(strstr(text, "x_seconds_bucket{le=\"0.001\"} 1001\n"), "%s", text);
	cr_assert(strstr(text, "x_seconds_bucket{le=\"100\"} 1001\n"));
	cr_assert(strstr(text, "x_seconds_bucket{le=\"+Inf\"} 1002\n"));
	cr_assert(strstr(text, "x_seconds_count 1002\n"));
	free(text);
}

/* Where it begins to look hides no bound: each value lies in the first bucket whose bound it does not exceed. */
Test(engine_config, histogram_buckets)
{
	for (uint64_t ns = 1; ns < 1ull << 62; ns += ns / 64 + 1) {
		static struct fh_hist h;
		unsigned int i = 0;

		while (i < FH_HIST_BOUNDS && ns > fh_hist_bound_ns(i))
			i++;
		h = (struct fh_hist){0};
		fh_hist_add(&h, ns);
		cr_assert_eq(h.nr[i], 1, "%llu ns", (unsigned long long)ns);
	}
	for (unsigned int i = 0; i < FH_HIST_BOUNDS; i++) {
		static struct fh_hist h;

		h = (struct fh_hist){0};
		fh_hist_add(&h, fh_hist_bound_ns(i));
		fh_hist_add(&h, fh_hist_bound_ns(i) + 1);
		cr_assert(h.nr[i] == 1 && h.nr[i + 1] == 1, "bound %u", i);
	}
}
