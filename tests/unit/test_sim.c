// SPDX-License-Identifier: Apache-2.0
/*
 * The scheduler as a whole, on simulated machines: nobody is lost, queues are as
 * long as theory says, and deadlines are kept whatever the load.  The sources
 * are included, because the test programs are linked with the library only.
 */
#include <criterion/criterion.h>

#include "tools/sim_machine.c"
#include "tools/trace.c"
#include "tools/trace_draw.c"

static struct fh_err err;

/* A small machine: 2 ms a prompt token, decodes that cost little more for more of them. */
static void small_machine(struct sim_config *c)
{
	*c = (struct sim_config){.limits = {.max_step_tokens = 512, .prefill_chunk = 256, .max_seqs = 64},
				 .kv_tokens = 200000,
				 .max_queue = 1024,
				 .seed = 1};
	fh_sched_cost_init(&c->cost, 0, 0);
	c->cost.ns[FH_COST_STEP] = 14e6;
	c->cost.ns[FH_COST_PROMPT] = 0.5e6;
	c->cost.ns[FH_COST_DECODE] = 0.7e6;
	c->cost.ns[FH_COST_KV] = 300;
	c->cost.ns[FH_COST_PAIR] = 60;
	c->cost.nr_steps = 1;
}

static void draw_trace(struct trace *t, const char *arrivals, double rate, const char *prompt, const char *gen,
		       size_t nr)
{
	struct trace_arrivals a = {.rate_per_s = rate};
	struct trace_length p, g;

	cr_assert_eq(trace_arrivals_parse(arrivals, &a, &err), 0);
	cr_assert_eq(trace_length_parse(prompt, &p, &err), 0);
	cr_assert_eq(trace_length_parse(gen, &g, &err), 0);
	cr_assert_eq(trace_draw(&a, &p, &g, nr, 5, t), 0);
}

static void draw_load(struct trace *t, double rate, const char *prompt, const char *gen, size_t nr)
{
	draw_trace(t, "poisson", rate, prompt, gen, nr);
}

static void draw_bursts(struct trace *t, double rate, size_t nr)
{
	draw_trace(t, "burst:6", rate, "64:1500", "lognormal:40:0.7", nr);
}

struct figures {
	size_t nr, nr_refused, nr_good;
	double mean_ttft_s, goodput_per_s;
};

static struct figures simulate_load(const struct sim_config *c, const struct trace *t)
{
	struct sim_result *r = calloc(t->nr, sizeof(*r));
	struct sim_totals sum = {0};
	struct figures f = {.nr = t->nr};

	cr_assert_not_null(r);
	cr_assert_eq(sim_machine(c, t, 0, 1, r, &sum, &err), 0, "%s", err.msg);
	for (size_t i = 0; i < t->nr; i++) {
		f.nr_refused += r[i].end == SIM_REFUSED;
		if (r[i].end == SIM_REFUSED)
			continue;
		f.mean_ttft_s += r[i].ttft_s;
		f.nr_good += (!(r[i].ttft_due_s > 0) || r[i].ttft_s <= r[i].ttft_due_s) &&
			     (!(r[i].tpot_due_s > 0) || r[i].tpot_s <= r[i].tpot_due_s);
	}
	f.mean_ttft_s /= (double)(f.nr - f.nr_refused ? f.nr - f.nr_refused : 1);
	f.goodput_per_s = (double)f.nr_good / sum.end_s;
	free(r);
	return f;
}

/* One server, equal work, random arrivals: the mean wait is known (Pollaczek and Khinchine). */
Test(sim, waits_as_long_as_theory_says)
{
	struct sim_config c;
	struct trace t;

	small_machine(&c);
	c.limits.max_seqs = 1;
	c.limits.max_step_tokens = c.limits.prefill_chunk = 1024;
	c.max_queue = 100000;
	for (double load = 0.3; load < 0.9; load += 0.25) {
		double each_s = sim_unloaded_ttft_s(&c, 300), want;
		struct figures f;

		draw_load(&t, load / each_s, "300", "1", 200000);
		f = simulate_load(&c, &t);
		want = each_s * (1 + load / (2 * (1 - load)));
		cr_assert_eq(f.nr_refused, 0);
		cr_assert_float_eq(f.mean_ttft_s, want, 0.03 * want, "at %g: %g s, theory says %g s", load,
				   f.mean_ttft_s, want);
		trace_free(&t);
	}
}

/* Who is alone gets what an idle machine gives. */
Test(sim, alone_it_is_as_fast_as_the_machine)
{
	struct sim_config c;
	struct trace t;
	struct sim_result r[50];
	struct sim_totals sum = {0};

	small_machine(&c);
	c.overhead_ns = 1000000;
	c.overhead_token_ns = 10000;
	c.gap_ns = 500000;
	draw_load(&t, 0.001, "log:32:4096", "2:20", 50);
	cr_assert_eq(sim_machine(&c, &t, 0, 1, r, &sum, &err), 0);
	for (int i = 0; i < 50; i++) {
		double want = sim_unloaded_ttft_s(&c, t.req[i].nr_prompt);

		cr_assert_float_eq(r[i].ttft_s, want, 0.001 * want);
		want = sim_unloaded_tpot_s(&c, t.req[i].nr_prompt, t.req[i].nr_gen);
		cr_assert_float_eq(r[i].tpot_s, want, 0.01 * want);
	}
	trace_free(&t);
}

/*
 * Deadlines of twice the idle machine's times, and steps that are off by a tenth:
 * from a third of what it can carry to three times as much, 99 % of the admitted
 * are in time, and overload does not cost goodput.
 */
Test(sim, who_is_admitted_is_in_time_whatever_the_load)
{
	static const double loads[] = {0.3, 0.6, 1, 1.5, 2, 3};
	double at_capacity = 0;
	struct sim_config c;
	struct trace t;

	small_machine(&c);
	c.noise = 0.1;
	c.ttft_times = c.tpot_times = 2;
	for (size_t i = 0; i < sizeof(loads) / sizeof(loads[0]); i++) {
		struct figures f;

		draw_load(&t, 0.8 * loads[i], "log:32:4096", "log:8:64", 20000);
		f = simulate_load(&c, &t);
		cr_assert_geq((double)f.nr_good, 0.99 * (double)(f.nr - f.nr_refused), "at %g: %zu of %zu in time",
			      loads[i], f.nr_good, f.nr - f.nr_refused);
		if (loads[i] == 1)
			at_capacity = f.goodput_per_s;
		if (loads[i] > 1)
			cr_assert_geq(f.goodput_per_s, 0.9 * at_capacity, "at %g: %g/s, at 1 %g/s", loads[i],
				      f.goodput_per_s, at_capacity);
		trace_free(&t);
	}
}

/* Refusing all who find the machine busy would keep every deadline, too: it may not come near to that. */
Test(sim, few_are_refused_while_there_is_room)
{
	static const struct {
		double rate, most;
	} at[] = {{0.01, 0.005}, {0.05, 0.03}, {0.24, 0.13}};
	struct sim_config c;
	struct trace t;

	small_machine(&c);
	c.noise = 0.1;
	c.ttft_times = c.tpot_times = 2;
	for (size_t i = 0; i < sizeof(at) / sizeof(at[0]); i++) {
		struct figures f;

		draw_load(&t, at[i].rate, "log:32:4096", "log:8:64", 10000);
		f = simulate_load(&c, &t);
		cr_assert_leq((double)f.nr_refused, at[i].most * (double)f.nr, "at %g: %zu refused", at[i].rate,
			      f.nr_refused);
		trace_free(&t);
	}
	/* A machine that is good at many at once. */
	c.cost.ns[FH_COST_STEP] = 9e6;
	c.cost.ns[FH_COST_PROMPT] = 25e3;
	c.cost.ns[FH_COST_DECODE] = 60e3;
	c.cost.ns[FH_COST_KV] = 20;
	c.cost.ns[FH_COST_PAIR] = 0;
	draw_load(&t, 5, "log:32:4096", "log:8:64", 10000);
	cr_assert_leq(simulate_load(&c, &t).nr_refused, 1200);
	trace_free(&t);
}

/* A bad spell has made the margins so large that nobody enters: some hundred refusals later somebody does. */
Test(sim, nobody_is_shut_out_for_ever)
{
	struct fh_sched s;

	fh_sched_init(&s, &(struct fh_sched_limits){.max_seqs = 1});
	for (int i = 0; i < 100; i++) {
		fh_sched_kept(&s.ttft, 1.1, 1);
		fh_sched_kept(&s.tpot, 1.1, 1);
	}
	for (int i = 0; i < 32; i++)
		fh_sched_refused(&s);
	cr_assert(s.ttft.factor > 1.59 && s.tpot.factor > 1.59, "overload alone is no reason");
	for (int i = 0; i < 200; i++)
		fh_sched_refused(&s);
	cr_assert(s.ttft.factor < 1.12 && s.tpot.factor < 1.12, "%g, %g", s.ttft.factor, s.tpot.factor);
}

/* Nothing is known of the load yet: margins have to be large enough before the first misses teach. */
Test(sim, the_first_ones_are_in_time_too)
{
	struct sim_config c;
	struct trace t;

	small_machine(&c);
	c.noise = 0.1;
	c.ttft_times = c.tpot_times = 2;
	for (double rate = 0.24; rate < 2.5; rate *= 1.5) {
		for (c.seed = 1; c.seed <= 3; c.seed++) {
			struct figures f;

			draw_load(&t, rate, "log:32:4096", "log:8:64", 3000);
			f = simulate_load(&c, &t);
			cr_assert_geq((double)f.nr_good, 0.99 * (double)(f.nr - f.nr_refused), "at %g: %zu of %zu",
				      rate, f.nr_good, f.nr - f.nr_refused);
			trace_free(&t);
		}
	}
}

/* No policy was tuned on this one: a machine with cheap prompts, bursts, fixed deadlines. */
Test(sim, bursts_on_another_machine)
{
	struct sim_config c;
	struct trace t;

	small_machine(&c);
	fh_sched_cost_init(&c.cost, 0, 0);
	c.cost.ns[FH_COST_STEP] = 9e6;
	c.cost.ns[FH_COST_PROMPT] = 25e3;
	c.cost.ns[FH_COST_DECODE] = 60e3;
	c.cost.ns[FH_COST_KV] = 20;
	c.cost.nr_steps = 1;
	c.limits.prefill_chunk = c.limits.max_step_tokens = 2048;
	c.noise = 0.15;
	c.ttft_us = 150000;
	c.tpot_us = 25000;
	for (double rate = 5; rate < 100; rate *= 2) {
		for (c.seed = 1; c.seed <= 3; c.seed++) {
			struct figures f;

			draw_bursts(&t, rate, 3000);
			f = simulate_load(&c, &t);
			cr_assert_geq((double)f.nr_good, 0.99 * (double)(f.nr - f.nr_refused), "at %g: %zu of %zu",
				      rate, f.nr_good, f.nr - f.nr_refused);
			trace_free(&t);
		}
	}
}

/* Too little memory, all classes, a burst: everybody is answered in the end. */
Test(sim, nobody_is_lost)
{
	struct sim_config c;
	struct trace t;
	struct figures f;

	small_machine(&c);
	c.kv_tokens = 6000;
	c.max_queue = 5000;
	c.batch_share = 0.5;
	c.interactive_share = 0.2;
	draw_load(&t, 1000, "log:32:4096", "log:8:512", 3000);
	f = simulate_load(&c, &t);
	cr_assert_eq(f.nr_refused, 0, "nobody asked for anything");
	cr_assert_eq(f.nr_good, f.nr);
	c.ttft_us = 3000000;
	c.tpot_us = 100000;
	f = simulate_load(&c, &t);
	cr_assert(f.nr_refused > 0 && f.nr_refused < f.nr);
	trace_free(&t);
	draw_load(&t, 1, "6000", "1", 1);
	cr_assert_eq(sim_machine(&c, &t, 0, 1, &(struct sim_result){0}, &(struct sim_totals){0}, &err), -EINVAL);
	cr_assert_not_null(strstr(err.msg, "--kv-tokens"));
	trace_free(&t);
}
