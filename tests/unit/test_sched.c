// SPDX-License-Identifier: Apache-2.0
/* The scheduler's promises, over a million random states. */
#include <criterion/criterion.h>
#include <string.h>

#include "runtime/sched/sched.h"

enum { MAX = 40 };

static uint64_t rng_state = 0x1234567887654321u;

static uint32_t rng(uint32_t below)
{
	rng_state ^= rng_state << 13;
	rng_state ^= rng_state >> 7;
	rng_state ^= rng_state << 17;
	return (uint32_t)((rng_state * 2685821657736338717u >> 32) % below);
}

/* A cost model of some machine. */
static void random_cost(struct fh_sched_cost *c)
{
	fh_sched_cost_init(c, rng(4) ? 0 : 8, 2);
	c->ns[FH_COST_STEP] = 1e5 + rng(20000000);
	c->ns[FH_COST_PROMPT] = 1e4 + rng(2000000);
	c->ns[FH_COST_DECODE] = 1e4 + rng(2000000);
	c->ns[FH_COST_SEQ] = rng(300000);
	c->ns[FH_COST_KV] = rng(500);
	c->ns[FH_COST_PAIR] = rng(2) ? rng(100) : 0;
	c->ns[FH_COST_EXPERTS] = rng(10000000);
	c->nr_together = rng(2) ? 1 << rng(6) : 0;
	c->nr_steps = 1;
}

static void random_sched(struct fh_sched *s, uint32_t max_step_tokens)
{
	struct fh_sched_limits lim = {.max_step_tokens = max_step_tokens,
				      .prefill_chunk = 1 + rng(max_step_tokens),
				      .max_seqs = 1 + rng(MAX),
				      .stall_us = 50000};

	fh_sched_init(s, &lim);
	if (rng(5))
		random_cost(&s->cost);
	s->quantum_ns = rng(3) ? 0 : 1e6 + rng(300000000);
	s->ttft.factor = 1.02 + rng(100) / 100.0;
	s->tpot.factor = 1.02 + rng(100) / 100.0;
	s->mean_generated = rng(3) ? rng(400) : 0;
	s->mean_tpot_ns = rng(3) ? 1e6 + rng(200000000) : 0;
	s->cost.gap_ns = rng(2) ? rng(1000000) : 0;
}

#define NOW 1000000000000u

/* Running sequences in order of service, as the engine shows them. */
static void random_seqs(struct fh_sched_seq *s, uint32_t nr)
{
	uint64_t key_ns = NOW - 5000000000u;

	for (uint32_t i = 0; i < nr; i++) {
		s[i] = (struct fh_sched_seq){.ticket = i + 1,
					     .key_ns = key_ns += rng(1000000000),
					     .nr_left = 1 + (rng(2) ? 0 : rng(5000)),
					     .nr_context = rng(4000),
					     .nr_held = rng(4),
					     .class = rng(FH_SCHED_CLASSES),
					     .served_ns = NOW - rng(1000000000)};
		if (rng(2))
			s[i].tpot_us = 1000 + rng(200000);
		if (s[i].nr_left > 1 ? rng(2) : s[i].tpot_us)
			s[i].due_ns = NOW + rng(400000000) - 20000000;
		s[i].stalled_ns = rng(6) ? 0 : 1;
		s[i].nr_most = rng(3) ? 1 + rng(500) : 0;
	}
}

static double time_of(const struct fh_sched *s, const struct fh_sched_seq *seqs, const uint32_t *take, uint32_t nr)
{
	struct fh_sched_work w;

	fh_sched_work_of(&s->cost, seqs, take, nr, 0, &w);
	return fh_sched_cost_ns(&s->cost, &w);
}

static bool filler(const struct fh_sched_seq *q)
{
	return q->class == FH_CLASS_BATCH && !q->due_ns && !q->tpot_us;
}

static bool starving(const struct fh_sched_seq *q)
{
	return !q->due_ns && NOW >= q->served_ns + (filler(q) ? FH_SCHED_STARVE_BATCH_NS : FH_SCHED_STARVE_NS);
}

/* One state: a plan within all limits, in which whoever could go on does. */
static void check_plan(const struct fh_sched *s, const struct fh_sched_seq *q, uint32_t nr)
{
	uint32_t take[MAX], alone[MAX] = {0}, sum = 0, nr_decode = 0, nr_out = 0, nr_ready = 0, planned;
	double budget_ns = 1e18, decode_ns;
	bool prompts = false, pushed = false;

	planned = fh_sched_plan(s, q, nr, rng(1000), NOW, take);
	for (uint32_t i = 0; i < nr; i++) {
		bool decodes = !q[i].stalled_ns && q[i].nr_left == 1;

		sum += take[i];
		cr_assert_leq(take[i], q[i].nr_left);
		cr_assert(take[i] <= s->limits.prefill_chunk || take[i] == 1);
		cr_assert(!q[i].stalled_ns || !take[i], "planned without credit");
		nr_ready += !q[i].stalled_ns;
		nr_decode += decodes && !filler(&q[i]);
		nr_out += decodes && !filler(&q[i]) && !take[i];
		alone[i] = decodes && take[i];
		if (q[i].nr_left > 1 && take[i]) {
			prompts = true;
			pushed |= starving(&q[i]);
		}
		if (decodes && q[i].due_ns) {
			double ns = q[i].due_ns > NOW ? (double)(q[i].due_ns - NOW) / s->tpot.factor : 0;

			budget_ns = ns < budget_ns ? ns : budget_ns;
		}
	}
	cr_assert_eq(sum, planned);
	cr_assert_leq(sum, s->limits.max_step_tokens, "past the step's capacity");
	cr_assert(!nr_ready || sum, "someone could go on, and nobody does");
	cr_assert_eq(nr_out, nr_decode > s->limits.max_step_tokens ? nr_decode - s->limits.max_step_tokens : 0,
		     "a decode was left out though there was room");
	/* No deadline of a next token is missed for a prompt's sake, unless one has waited for too long. */
	decode_ns = time_of(s, q, alone, nr);
	if (fh_sched_cost_known(&s->cost) && budget_ns < 1e17 && prompts && !pushed && decode_ns < budget_ns)
		cr_assert_leq(time_of(s, q, take, nr), budget_ns * 1.001 + s->cost.ns[FH_COST_SEQ] * MAX,
			      "decodes miss their deadlines for prompts");
}

/* The first states always; all million of them where the build is fast. */
#ifdef __SANITIZE_ADDRESS__
#define NR_STATES 50000
#else
#define NR_STATES 1000000
#endif

Test(sched, a_million_plans_keep_to_their_limits)
{
	for (int round = 0; round < NR_STATES; round++) {
		struct fh_sched_seq q[MAX];
		uint32_t nr = rng(12);
		struct fh_sched s;

		random_sched(&s, 1 + rng(rng(2) ? 512 : 16));
		random_seqs(q, nr);
		check_plan(&s, q, nr);
	}
}

/* More decodes than a step holds: each gets its turn. */
Test(sched, nobody_starves)
{
	struct fh_sched_limits lim = {.max_step_tokens = 3, .prefill_chunk = 8, .max_seqs = 10};
	uint32_t take[10], got[10] = {0};
	struct fh_sched_seq q[10];
	struct fh_sched s;

	fh_sched_init(&s, &lim);
	memset(q, 0, sizeof(q));
	for (int i = 0; i < 10; i++)
		q[i].nr_left = 1;
	for (uint64_t turn = 0; turn < 100; turn++) {
		cr_assert_eq(fh_sched_plan(&s, q, 10, turn, NOW, take), 3);
		for (int i = 0; i < 10; i++)
			got[i] += take[i];
	}
	for (int i = 0; i < 10; i++)
		cr_assert_eq(got[i], 30);
}

/*
 * Decodes whose deadlines leave no time at all run for ever; beside them a
 * prompt and the batch class get on within their bounds.
 */
Test(sched, nobody_starves_behind_deadlines)
{
	for (int round = 0; round < 300; round++) {
		uint64_t now_ns = NOW, last_ns[4];
		struct fh_sched_seq q[4];
		struct fh_sched s;
		uint32_t take[4];

		random_sched(&s, 64);
		random_cost(&s.cost);
		random_seqs(q, 4);
		for (int i = 0; i < 4; i++) {
			q[i].stalled_ns = 0;
			q[i].served_ns = last_ns[i] = now_ns;
			q[i].due_ns = q[i].tpot_us = 0;
			q[i].nr_left = i < 2 ? 1 : 100000;
			q[i].class = i == 0 || i == 2 ? FH_CLASS_STANDARD : FH_CLASS_BATCH;
		}
		q[0].tpot_us = 1;
		for (uint64_t turn = 0; now_ns < NOW + 12000000000u; turn++) {
			double ns;

			q[0].due_ns = now_ns + 1000;
			fh_sched_plan(&s, q, 4, turn, now_ns, take);
			ns = time_of(&s, q, take, 4);
			now_ns += ns < 100000 ? 100000 : (uint64_t)ns;
			for (int i = 0; i < 4; i++) {
				uint64_t most_ns = filler(&q[i]) ? FH_SCHED_STARVE_BATCH_NS : FH_SCHED_STARVE_NS;

				if (take[i])
					q[i].served_ns = last_ns[i] = now_ns;
				/* Those before it in the order may take the step for which it was due. */
				cr_assert_leq(now_ns, last_ns[i] + 2 * most_ns + 4 * (uint64_t)ns, "%d starves", i);
			}
		}
	}
}

/* What waits in front of @item takes that long at the very least. */
static double least_ns(const struct fh_sched *s, const struct fh_sched_load *l, const struct fh_sched_item *item)
{
	double ns = fh_sched_cost_prompt_ns(&s->cost, item->nr_context, item->nr_tokens);

	for (uint32_t i = 0; i < l->nr_seqs; i++)
		if (l->seqs[i].nr_left > 1 && l->seqs[i].key_ns < item->key_ns)
			ns += fh_sched_cost_prompt_ns(&s->cost, l->seqs[i].nr_context, l->seqs[i].nr_left);
	for (uint32_t i = 0; i < l->queue->nr; i++) {
		const struct fh_sched_item *it = fh_sched_queue_at(l->queue, i);

		if (it->key_ns < item->key_ns && (it->due_ns || it->tpot_us))
			ns += fh_sched_cost_prompt_ns(&s->cost, it->nr_context, it->nr_tokens);
	}
	return ns;
}

static void random_item(const struct fh_sched *s, uint64_t ticket, struct fh_sched_item *out)
{
	struct fh_sched_ask ask = {.arrival_ns = NOW - rng(200000000),
				   .ticket = ticket,
				   .ttft_us = rng(3) ? 1000 + rng(5000000) : 0,
				   .tpot_us = rng(3) ? 1000 + rng(200000) : 0,
				   .class = rng(FH_SCHED_CLASSES),
				   .tenant = rng(3),
				   .nr_prompt = 1 + rng(4000),
				   .nr_most = rng(3) ? 1 + rng(500) : 0};

	ask.nr_cached = rng(4) ? 0 : rng(ask.nr_prompt);
	fh_sched_place(s, &ask, out);
}

/* Nobody is admitted whose first token is predicted after its deadline, and no prediction is better than can be. */
Test(sched, nobody_enters_who_would_be_late)
{
	static struct fh_sched_item room[2 * MAX + 2];
	uint32_t nr_admitted = 0, nr_refused = 0;

	for (int round = 0; round < NR_STATES / 4; round++) {
		struct fh_sched_item item, other;
		struct fh_sched_queue queue;
		struct fh_sched_seq q[MAX];
		struct fh_sched_load load = {.seqs = q, .nr_seqs = rng(8), .queue = &queue, .now_ns = NOW};
		enum fh_sched_verdict v;
		uint32_t retry_us, nr = rng(10);
		uint64_t first_ns;
		struct fh_sched s;

		random_sched(&s, 16 + rng(500));
		random_cost(&s.cost);
		random_seqs(q, load.nr_seqs);
		load.kv_free_tokens = rng(100000);
		fh_sched_queue_init(&queue, room, MAX);
		for (uint32_t i = 0; i < nr; i++) {
			random_item(&s, 100 + i, &other);
			fh_sched_queue_add(&queue, &other);
		}
		random_item(&s, 200, &item);
		v = fh_sched_admit(&s, &load, &item, &first_ns, &retry_us);
		if (!item.due_ns && !item.tpot_us) {
			cr_assert_eq(v, FH_SCHED_ADMIT, "who has no deadline waits");
			continue;
		}
		nr_admitted += v == FH_SCHED_ADMIT;
		nr_refused += v != FH_SCHED_ADMIT;
		if (first_ns)
			cr_assert_geq((double)(first_ns - NOW), least_ns(&s, &load, &item) * 0.999 - 10,
				      "a prediction that nothing could keep: %g, %g", (double)(first_ns - NOW),
				      least_ns(&s, &load, &item));
		if (v == FH_SCHED_ADMIT && item.due_ns)
			cr_assert(first_ns &&
				  NOW + (double)(first_ns - NOW) * s.ttft.factor <= (double)item.due_ns + 1);
		cr_assert(v == FH_SCHED_ADMIT || (retry_us >= 1000 && retry_us <= 60000000));
	}
	cr_assert(nr_admitted > 1000 && nr_refused > 1000, "%u admitted, %u refused: one side is not tested",
		  nr_admitted, nr_refused);
}

/* A machine whose steps take 10 ms, and 1 ms more for each token. */
static void even_sched(struct fh_sched *s)
{
	struct fh_sched_limits lim = {.max_step_tokens = 512, .prefill_chunk = 256, .max_seqs = 8};

	fh_sched_init(s, &lim);
	s->cost.ns[FH_COST_STEP] = 10e6;
	s->cost.ns[FH_COST_PROMPT] = s->cost.ns[FH_COST_DECODE] = 1e6;
	s->cost.nr_steps = 1;
	s->ttft.factor = s->tpot.factor = 1.02;
}

/* When the first token of a prompt of 600 tokens is predicted beside one that decodes, in ms. */
static double first_ms(const struct fh_sched *s, uint32_t nr_most, uint32_t tpot_us)
{
	static struct fh_sched_item room[2 * MAX + 2];
	struct fh_sched_seq q = {.key_ns = NOW - 1000000,
				 .ticket = 1,
				 .due_ns = tpot_us ? NOW + 1000ull * tpot_us : 0,
				 .tpot_us = tpot_us,
				 .nr_left = 1,
				 .nr_context = 100,
				 .nr_most = nr_most};
	struct fh_sched_queue queue;
	struct fh_sched_load load = {
		.seqs = &q, .nr_seqs = 1, .queue = &queue, .kv_free_tokens = 100000, .now_ns = NOW};
	struct fh_sched_ask ask = {.arrival_ns = NOW, .ticket = 2, .ttft_us = 100000000, .nr_prompt = 600};
	struct fh_sched_item item;
	uint32_t retry_us;
	uint64_t first_ns;

	fh_sched_queue_init(&queue, room, MAX);
	fh_sched_place(s, &ask, &item);
	cr_assert_eq(fh_sched_admit(s, &load, &item, &first_ns, &retry_us), FH_SCHED_ADMIT);
	return (double)(first_ns - NOW) / 1e6;
}

/*
 * Beside one that decodes a step of 22 ms leaves about 10 for a prompt; once its
 * answer is over the prompt has the machine for itself: 3 steps, 630 ms.
 */
Test(sched, answers_end_while_a_prompt_is_read)
{
	struct fh_sched s;
	double ms;

	even_sched(&s);
	cr_assert_float_eq(first_ms(&s, 0, 0), 743, 1, "nobody asks for anything: steps of 61 ms");
	ms = first_ms(&s, 10, 22000);
	cr_assert(ms > 700 && ms < 780, "10 steps beside it: %g ms", ms);
	ms = first_ms(&s, 1000, 22000);
	cr_assert(ms > 1200, "beside it all the time: %g ms", ms);
	/* It may write so much, but nobody does. */
	s.mean_generated = 5;
	cr_assert_lt(first_ms(&s, 1000, 22000), 780);
}

/* The step in which a prompt ends has others' tokens beside it only as far as its deadline leaves time. */
Test(sched, nobody_makes_a_first_token_late)
{
	struct fh_sched_seq q[2] = {{.ticket = 1, .nr_left = 30, .class = FH_CLASS_STANDARD},
				    {.ticket = 2, .nr_left = 4000, .class = FH_CLASS_STANDARD}};
	uint32_t take[2];
	struct fh_sched s;

	even_sched(&s);
	q[0].due_ns = NOW + 300000000;
	q[1].due_ns = NOW + 100000000000u;
	fh_sched_plan(&s, q, 2, 0, NOW, take);
	cr_assert(take[0] == 30 && take[1] > 150, "there is time: %u, %u", take[0], take[1]);
	q[0].due_ns = NOW + 100000000;
	fh_sched_plan(&s, q, 2, 0, NOW, take);
	cr_assert(take[0] == 30 && take[1] > 0 && take[1] <= 28, "70 ms in all: %u, %u", take[0], take[1]);
	q[0].due_ns = NOW + 41000000;
	fh_sched_plan(&s, q, 2, 0, NOW, take);
	cr_assert(take[0] == 30 && !take[1], "%u, %u", take[0], take[1]);
}

/* Steps are short for the sake of who may come, but not so short that who is there is late. */
Test(sched, a_first_token_that_would_be_late_makes_steps_longer)
{
	struct fh_sched_seq q = {.ticket = 1, .nr_left = 1000, .nr_most = 1};
	uint32_t calm, hurried;
	struct fh_sched s;

	even_sched(&s);
	s.quantum_ns = 45e6;
	q.due_ns = NOW + 10000000000u;
	calm = fh_sched_plan(&s, &q, 1, 0, NOW, &calm);
	cr_assert_eq(calm, 32);
	q.due_ns = NOW + 1200000000u;
	hurried = fh_sched_plan(&s, &q, 1, 0, NOW, &hurried);
	cr_assert_eq(hurried, 160);
}

/*
 * Who decodes could wait for 100 ms, but tokens of the others come every 40 or 80 ms: so do these, as far as prompts
 * keep half of the time, and unless a first token would be late.
 */
Test(sched, tokens_come_evenly_beside_a_prompt)
{
	struct fh_sched_seq q[2] = {
		{.ticket = 1, .nr_left = 1, .tpot_us = 100000, .due_ns = NOW + 100000000, .nr_most = 5},
		{.ticket = 2, .nr_left = 500}};
	uint32_t take[2];
	struct fh_sched s;

	even_sched(&s);
	fh_sched_plan(&s, q, 2, 0, NOW, take);
	cr_assert(take[0] == 1 && take[1] == 80, "nobody else was there: %u, %u", take[0], take[1]);
	s.mean_tpot_ns = 80e6;
	fh_sched_plan(&s, q, 2, 0, NOW, take);
	cr_assert(take[0] == 1 && take[1] == 64, "%u, %u", take[0], take[1]);
	s.mean_tpot_ns = 40e6;
	fh_sched_plan(&s, q, 2, 0, NOW, take);
	cr_assert(take[0] == 1 && take[1] == 32, "half of 87 ms: %u, %u", take[0], take[1]);
	q[1].due_ns = NOW + 1000000000;
	fh_sched_plan(&s, q, 2, 0, NOW, take);
	cr_assert(take[0] == 1 && take[1] == 32, "there is time: %u, %u", take[0], take[1]);
	q[1].due_ns = NOW + 650000000;
	fh_sched_plan(&s, q, 2, 0, NOW, take);
	cr_assert(take[0] == 1 && take[1] == 80, "there is none: %u, %u", take[0], take[1]);
}

/* What lies between two steps is part of what a prompt waits for, and of what a token takes. */
Test(sched, what_follows_a_step_is_foreseen)
{
	struct fh_sched s;
	double ms, later;

	even_sched(&s);
	ms = first_ms(&s, 1000, 44000);
	s.cost.gap_ns = 2e6;
	later = first_ms(&s, 1000, 44000);
	/* Steps of 43 ms have 32 tokens for the prompt, with 2 ms less 16: 19 steps and 38 are wanted. */
	cr_assert(later > ms + 19 * 11 + 38 * 2 - 15, "%g, %g", ms, later);
}

/* Beside the plan of one that decodes, a prompt that waited for long gets tokens only if no deadline gives it its
 * place. */
Test(sched, a_deadline_is_no_starving)
{
	struct fh_sched_seq q[2] = {{.ticket = 1, .nr_left = 1, .tpot_us = 11200, .due_ns = NOW + 11200000},
				    {.ticket = 2, .nr_left = 500, .served_ns = NOW - 10000000000u}};
	uint32_t take[2];
	struct fh_sched s;

	even_sched(&s);
	fh_sched_plan(&s, q, 2, 0, NOW, take);
	cr_assert(take[0] == 1 && take[1] == 16, "%u, %u", take[0], take[1]);
	q[1].due_ns = NOW + 100000000000u;
	fh_sched_plan(&s, q, 2, 0, NOW, take);
	cr_assert(take[0] == 1 && take[1] == 0, "%u, %u", take[0], take[1]);
}

/* Beside a plain list: the order, the places, and that nobody is lost. */
Test(sched, the_queue_loses_nobody)
{
	enum { N = 50 };
	static struct fh_sched_item room[2 * N + 2], list[N];
	struct fh_sched_tenants t = {0};
	struct fh_sched_queue q;
	uint64_t ticket = 0;
	uint32_t nr = 0;

	fh_sched_queue_init(&q, room, N);
	for (int round = 0; round < NR_STATES; round++) {
		uint32_t nr_due = 0, i;

		if (nr < N && (!nr || rng(2))) {
			struct fh_sched_item it = {.key_ns = rng(3) ? 1000 + rng(50) : ticket,
						   .ticket = ++ticket,
						   .due_ns = rng(2),
						   .ref = (uint32_t)ticket};

			list[nr++] = it;
			fh_sched_queue_add(&q, &it);
		} else {
			uint32_t place;

			i = rng(nr);
			place = fh_sched_queue_find(&q, list[i].key_ns, list[i].ticket);
			cr_assert_lt(place, q.nr);
			cr_assert_eq(fh_sched_queue_at(&q, place)->ref, list[i].ref);
			fh_sched_queue_remove(&q, place);
			cr_assert_eq(fh_sched_queue_find(&q, list[i].key_ns, list[i].ticket), q.nr);
			list[i] = list[--nr];
		}
		cr_assert_eq(q.nr, nr);
		for (i = 0; i < nr; i++)
			nr_due += list[i].due_ns != 0;
		cr_assert_eq(q.nr_due, nr_due);
		for (i = 1; i < nr; i++) {
			const struct fh_sched_item *a = fh_sched_queue_at(&q, i - 1), *b = fh_sched_queue_at(&q, i);

			cr_assert_lt(fh_sched_order(a->key_ns, a->ticket, b->key_ns, b->ticket), 0);
		}
	}
	cr_assert_leq(fh_sched_queue_next(&q, &t), q.nr);
}

/* Of two tenants without deadlines, one with a thousand requests and one with a few, each gets half. */
Test(sched, tenants_share_alike)
{
	static struct fh_sched_item room[2 * 1100 + 2];
	struct fh_sched_tenants t = {0};
	struct fh_sched_queue q;
	uint32_t got[3] = {0};

	fh_sched_queue_init(&q, room, 1100);
	for (uint32_t i = 0; i < 1000; i++) {
		struct fh_sched_item it = {.key_ns = 100 + i, .ticket = i + 1, .tenant = i < 900 ? 1 : 2};

		fh_sched_queue_add(&q, &it);
		fh_sched_tenant_enter(&t, it.tenant);
	}
	for (int i = 0; i < 150; i++) {
		uint32_t place = fh_sched_queue_next(&q, &t);
		struct fh_sched_item it = *fh_sched_queue_at(&q, place);

		fh_sched_queue_remove(&q, place);
		fh_sched_tenant_served(&t, it.tenant, 100, 10);
		fh_sched_tenant_leave(&t, it.tenant);
		got[it.tenant]++;
	}
	cr_assert_eq(got[1], 75);
	cr_assert_eq(got[2], 75);
	cr_assert_float_eq(fh_sched_tenant_ahead(&t, 1), 0, 1e-9);
	/* A deadline goes before all counters. */
	fh_sched_tenant_served(&t, 1, 100000, 0);
	cr_assert_float_eq(fh_sched_tenant_ahead(&t, 1), 100000, 1e-9);
	fh_sched_queue_add(&q, &(struct fh_sched_item){.key_ns = 1, .ticket = 5000, .due_ns = 1, .tenant = 1});
	cr_assert_eq(fh_sched_queue_next(&q, &t), 0);
	/* Who comes back after a pause has no credit from before. */
	fh_sched_tenant_enter(&t, 3);
	cr_assert_float_eq(fh_sched_tenant_ahead(&t, 3), 0, 1e-9);
	cr_assert_float_eq(t.served[3], t.served[2], 1e-9);
}

Test(sched, order_is_by_deadline_or_wish)
{
	struct fh_sched_limits lim = {.max_step_tokens = 64, .prefill_chunk = 64, .max_seqs = 8};
	struct fh_sched_item in, st, ba, due, old;
	struct fh_sched s;

	fh_sched_init(&s, &lim);
	fh_sched_place(&s, &(struct fh_sched_ask){.arrival_ns = NOW, .ticket = 1, .class = FH_CLASS_BATCH}, &ba);
	fh_sched_place(&s, &(struct fh_sched_ask){.arrival_ns = NOW, .ticket = 2}, &st);
	fh_sched_place(&s, &(struct fh_sched_ask){.arrival_ns = NOW, .ticket = 3, .class = FH_CLASS_INTERACTIVE}, &in);
	fh_sched_place(&s, &(struct fh_sched_ask){.arrival_ns = NOW, .ticket = 4, .ttft_us = 300000}, &due);
	cr_assert(due.key_ns < in.key_ns && in.key_ns < st.key_ns && st.key_ns < ba.key_ns);
	cr_assert_eq(due.due_ns, NOW + 300000000u);
	cr_assert(!in.due_ns && !st.due_ns && !ba.due_ns, "no class has deadlines of itself");
	/* In time everybody comes first. */
	fh_sched_place(&s,
		       &(struct fh_sched_ask){.arrival_ns = NOW - 601000000000u, .ticket = 5, .class = FH_CLASS_BATCH},
		       &old);
	cr_assert_lt(old.key_ns, due.key_ns);
	/* The class's own deadlines, and none at all. */
	s.limits.class[FH_CLASS_STANDARD] = (struct fh_sched_class){500000, 40000};
	fh_sched_place(&s, &(struct fh_sched_ask){.arrival_ns = NOW, .ticket = 6}, &st);
	cr_assert_eq(st.due_ns, NOW + 500000000u);
	cr_assert_eq(st.tpot_us, 40000);
	fh_sched_place(
		&s,
		&(struct fh_sched_ask){.arrival_ns = NOW, .ticket = 6, .ttft_us = UINT32_MAX, .tpot_us = UINT32_MAX},
		&st);
	cr_assert(!st.due_ns && !st.tpot_us);
	/* The way between the client and here comes off its deadline, but never most of it. */
	fh_sched_place(&s, &(struct fh_sched_ask){.arrival_ns = NOW, .ticket = 7, .ttft_us = 8000, .way_ns = 300000},
		       &due);
	cr_assert_eq(due.due_ns, NOW + 7700000u);
	cr_assert_eq(due.way_ns, 300000);
	fh_sched_place(&s, &(struct fh_sched_ask){.arrival_ns = NOW, .ticket = 8, .ttft_us = 800, .way_ns = 300000},
		       &due);
	cr_assert_eq(due.due_ns, NOW + 700000u);
	fh_sched_place(&s,
		       &(struct fh_sched_ask){.arrival_ns = NOW, .ticket = 9, .ttft_us = UINT32_MAX, .way_ns = 300000},
		       &in);
	cr_assert(!in.due_ns && !in.way_ns);
}

/* Steps of an answer take a tenth longer than was predicted: its mean is kept all the same. */
Test(sched, who_is_behind_catches_up)
{
	const uint32_t tpot_us = 1000;
	uint64_t now_ns = NOW, first_ns = NOW, due_ns;

	/* Ahead: as if it were not. Far behind: a quarter. */
	cr_assert_eq(fh_sched_next_due(NOW, NOW + 5000000, tpot_us), NOW + 1000000);
	cr_assert_eq(fh_sched_next_due(NOW, NOW - 100000, tpot_us), NOW + 900000);
	cr_assert_eq(fh_sched_next_due(NOW, NOW - 5000000, tpot_us), NOW + 750000);
	for (int i = 1; i <= 48; i++) {
		due_ns = fh_sched_next_due(now_ns, first_ns + (i - 1) * tpot_us * 1000ull, tpot_us);
		now_ns += (due_ns - now_ns) * 11 / 10;
	}
	cr_assert_leq(now_ns - first_ns, 48 * tpot_us * 1000ull + 200000);
}

/* The margin settles where one in so many is missed. */
Test(sched, the_margin_follows_what_is_missed)
{
	struct fh_sched_margin m = {.factor = 1.1};
	uint32_t nr_missed = 0;

	for (int i = 0; i < 400000; i++) {
		/* Reality is up to 1.5 times the prediction; the deadline is at @factor times. */
		bool kept = fh_sched_kept(&m, 1 + rng(5000) / 10000.0, m.factor);

		nr_missed += i >= 200000 && !kept;
	}
	cr_assert(nr_missed > 350 && nr_missed < 650, "%u of 200,000", nr_missed);
	for (int i = 0; i < 100000; i++)
		fh_sched_kept(&m, 1, 1);
	cr_assert_float_eq(m.factor, 1.02, 1e-9, "what is never missed costs nothing");
	for (int i = 0; i < 100; i++)
		cr_assert(!fh_sched_kept(&m, 1.3, 1));
	cr_assert_float_eq(m.factor, 1.02, 1e-9, "what was held up teaches nothing");
}

Test(sched, victims)
{
	const struct fh_sched_limits lim = {.stall_us = 50000};
	const uint64_t now_ns = 1000000000u;
	struct fh_sched_seq q[4];
	struct fh_sched s;

	fh_sched_init(&s, &lim);
	memset(q, 0, sizeof(q));
	cr_assert_eq(fh_sched_victim(&s, q, 4, false, now_ns), 4, "nobody holds anything");
	for (int i = 0; i < 4; i++)
		q[i].nr_held = 2;
	cr_assert_eq(fh_sched_victim(&s, q, 4, false, now_ns), 3, "the last in order");
	q[3].tpot_us = 1000;
	cr_assert_eq(fh_sched_victim(&s, q, 4, false, now_ns), 2, "the last without a deadline");
	q[3].tpot_us = 0;
	cr_assert_eq(fh_sched_victim(&s, q, 4, true, now_ns), 4);
	q[1].stalled_ns = now_ns - 40000000;
	cr_assert_eq(fh_sched_victim(&s, q, 4, false, now_ns), 3, "not stalled for long enough");
	q[1].stalled_ns = now_ns - 60000000;
	cr_assert_eq(fh_sched_victim(&s, q, 4, false, now_ns), 1);
	cr_assert_eq(fh_sched_victim(&s, q, 4, true, now_ns), 1);
	q[1].nr_held = 0;
	cr_assert_eq(fh_sched_victim(&s, q, 4, true, now_ns), 4);
}

/* Blocks are taken from who has no deadline and goes behind, and only for one that would be late otherwise. */
Test(sched, who_yields_to_a_deadline)
{
	const struct fh_sched_limits lim = {.max_step_tokens = 64, .prefill_chunk = 64, .max_seqs = 8};
	struct fh_sched_seq q[3];
	struct fh_sched s;

	fh_sched_init(&s, &lim);
	s.cost.ns[FH_COST_PROMPT] = 1e6;
	memset(q, 0, sizeof(q));
	for (uint32_t i = 0; i < 3; i++)
		q[i] = (struct fh_sched_seq){.key_ns = NOW + 1000000000ull * i, .nr_held = 1, .nr_left = 1};
	cr_assert_eq(fh_sched_yields(&s, q, 3, 0, 100, NOW), 3, "no deadline");
	cr_assert_eq(fh_sched_yields(&s, q, 3, NOW + 500000000, 100, NOW), 3, "it has time");
	cr_assert_eq(fh_sched_yields(&s, q, 3, NOW + 150000000, 100, NOW), 2);
	q[2].tpot_us = 5;
	cr_assert_eq(fh_sched_yields(&s, q, 3, NOW + 150000000, 100, NOW), 1);
	q[1].nr_held = 0;
	cr_assert_eq(fh_sched_yields(&s, q, 3, NOW + 150000000, 100, NOW), 3, "the first goes before it");
}

Test(sched, the_time_to_retry_follows_the_rate)
{
	struct fh_sched_rate rate = {0};
	uint64_t now_ns = 5000000000u;
	uint32_t first;

	cr_assert_geq(fh_sched_retry_ms(&rate, 0), 1);
	for (int i = 0; i < 500; i++)
		fh_sched_departed(&rate, now_ns += 20000000, false);
	first = fh_sched_retry_ms(&rate, 100);
	cr_assert(first >= 900 && first <= 1100, "51 departures of 20 ms each, not %u ms", first);
	/* A pause in which nobody waited does not count. */
	fh_sched_departed(&rate, now_ns += 20000000, true);
	now_ns += 3600000000000u;
	fh_sched_departed(&rate, now_ns, false);
	cr_assert_eq(fh_sched_retry_ms(&rate, 100), first);
	for (int i = 0; i < 500; i++)
		fh_sched_departed(&rate, now_ns += 10000, false);
	cr_assert_eq(fh_sched_retry_ms(&rate, 100), 1);
	for (int i = 0; i < 500; i++)
		fh_sched_departed(&rate, now_ns += 10000000000u, false);
	cr_assert_eq(fh_sched_retry_ms(&rate, 1000), 60000);
}
