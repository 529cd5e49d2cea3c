// SPDX-License-Identifier: Apache-2.0
/* Places in the order, steps, and who yields; admit.c has the door. sched.h says what all of it promises. */
#include "runtime/sched/sched.h"

#include <string.h>

/* When a request without a deadline should begin, by class. */
#define WISH_INTERACTIVE_NS 1000000000u
#define WISH_STANDARD_NS 10000000000u
#define WISH_BATCH_NS 600000000000u

/* A step takes at most this share of the shortest time to a first token that was asked for of late ... */
#define QUANTUM_SHARE (1.0 / 3)
/* ... and forgets it at this rate, a request. */
#define QUANTUM_GROWTH 1.02
#define QUANTUM_MOST_NS 1e9
#define QUANTUM_BASES 3 /* times what a step costs that does nothing */
/* Of the time that a first token has left, what the step may last that it comes from. */
#define FILL_SHARE 0.7

#define CATCH_UP 4 /* of a token's time the part that it may come earlier because those before it were late */
/* The way between a client and the scheduler is at most this part of a deadline, or all would be refused. */
#define WAY_MOST 8

/*
 * What is missed beyond the target until a margin that began at F has reached M is
 * (M - F) / STEP requests: so it begins large, and moves in large steps.
 */
#define MARGIN_FIRST 1.2
#define MARGIN_LEAST 1.02
#define MARGIN_MOST 1.6
#define MARGIN_STEP 0.03
#define MARGIN_BLIND 1.25  /* times its deadline: who comes later was held up by what no margin knows of */
#define MARGIN_PATIENCE 32 /* refusals in a row, after which ... */
#define MARGIN_DOUBT 0.01  /* ... each takes so much of what a margin has above the least */

#define GENERATED_WEIGHT (1.0 / 64)
#define TPOT_WEIGHT (1.0 / 32)
#define EVEN_SHARE                                                                                                     \
	0.5 /* of what a token's deadline leaves for prompts, what they get where tokens would come unevenly */
#define USUAL_ANSWER 2 /* times the mean: what an answer is taken to have at most */

/* The share of the newest departure in the average, and what is assumed before there was one. */
#define RATE_WEIGHT (1.0 / 32)
#define RATE_FIRST_NS 10e6

void fh_sched_init(struct fh_sched *s, const struct fh_sched_limits *limits)
{
	memset(s, 0, sizeof(*s));
	s->limits = *limits;
	s->ttft.factor = s->tpot.factor = MARGIN_FIRST;
	fh_sched_cost_init(&s->cost, 0, 0);
}

double fh_sched_quantum_ns(const struct fh_sched *s)
{
	double least_ns = QUANTUM_BASES * (s->cost.ns[FH_COST_STEP] * s->cost.speed + s->cost.gap_ns);

	if (s->cost.nr_experts > 0)
		least_ns += QUANTUM_BASES * s->cost.ns[FH_COST_EXPERTS] * s->cost.speed;
	if (!(s->quantum_ns > 0))
		return 1e18;
	return s->quantum_ns > least_ns ? s->quantum_ns : least_ns;
}

double fh_sched_even_ns(const struct fh_sched *s, double base_ns, double budget_ns)
{
	double even_ns = s->mean_tpot_ns / s->tpot.factor - s->cost.gap_ns,
	       least_ns = base_ns + (budget_ns - base_ns) * EVEN_SHARE;

	if (!(s->mean_tpot_ns > 0) || budget_ns >= 1e17)
		return budget_ns;
	even_ns = even_ns > least_ns ? even_ns : least_ns;
	return even_ns < budget_ns ? even_ns : budget_ns;
}

double fh_sched_answer_left(const struct fh_sched *s, uint32_t most)
{
	double n = s->mean_generated > 0 ? USUAL_ANSWER * s->mean_generated : FH_SCHED_NEVER;

	n = most && most < n ? most : n;
	return n > 1 ? n : 1;
}

/* ---- the order ---- */

static uint32_t or_class(uint32_t own_us, uint32_t class_us)
{
	return own_us == UINT32_MAX ? 0 : own_us ? own_us : class_us;
}

void fh_sched_place(const struct fh_sched *s, const struct fh_sched_ask *ask, struct fh_sched_item *out)
{
	uint32_t class = ask->class < FH_SCHED_CLASSES ? ask->class : FH_CLASS_STANDARD;
	const struct fh_sched_class *own = &s->limits.class[class];
	uint32_t ttft_us = or_class(ask->ttft_us, own->ttft_us);
	uint64_t wish_ns = class == FH_CLASS_INTERACTIVE ? WISH_INTERACTIVE_NS
			   : class == FH_CLASS_BATCH	 ? WISH_BATCH_NS
							 : WISH_STANDARD_NS;

	*out = (struct fh_sched_item){.ticket = ask->ticket,
				      .tpot_us = or_class(ask->tpot_us, own->tpot_us),
				      .nr_tokens = ask->nr_prompt - ask->nr_cached,
				      .nr_context = ask->nr_cached,
				      .nr_most = ask->nr_most,
				      .class = class,
				      .tenant = ask->tenant,
				      .ref = ask->ref};
	if (ttft_us) {
		uint64_t most_ns = ttft_us * 1000ull / WAY_MOST;

		out->way_ns = ask->way_ns < most_ns ? ask->way_ns : (uint32_t)most_ns;
		out->due_ns = ask->arrival_ns + ttft_us * 1000ull - out->way_ns;
	}
	out->key_ns = ttft_us ? out->due_ns : ask->arrival_ns + wish_ns;
}

void fh_sched_entered(struct fh_sched *s, const struct fh_sched_item *item, uint64_t arrival_ns)
{
	double ns = item->due_ns > arrival_ns ? (double)(item->due_ns - arrival_ns) * QUANTUM_SHARE : 0;

	s->quantum_ns *= QUANTUM_GROWTH;
	if (ns > 0 && (!(s->quantum_ns > 0) || ns < s->quantum_ns))
		s->quantum_ns = ns;
	if (s->quantum_ns > QUANTUM_MOST_NS)
		s->quantum_ns = 0;
	if (item->tpot_us)
		s->mean_tpot_ns += (item->tpot_us * 1e3 - s->mean_tpot_ns) * (s->mean_tpot_ns > 0 ? TPOT_WEIGHT : 1);
	fh_sched_tenant_enter(&s->tenants, item->tenant);
}

bool fh_sched_is_late(const struct fh_sched *s, uint64_t due_ns, uint32_t nr_context, uint32_t nr_tokens,
		      uint64_t now_ns)
{
	struct fh_sched_work w = {.seqs = 1};

	return due_ns &&
	       now_ns + fh_sched_cost_prompt_ns(&s->cost, nr_context, nr_tokens) + fh_sched_cost_ns(&s->cost, &w) >
		       (double)due_ns;
}

uint64_t fh_sched_next_due(uint64_t now_ns, uint64_t mean_due_ns, uint32_t tpot_us)
{
	uint64_t most_ns = tpot_us * 1000ull / CATCH_UP, behind_ns = now_ns > mean_due_ns ? now_ns - mean_due_ns : 0;

	return now_ns + tpot_us * 1000ull - (behind_ns < most_ns ? behind_ns : most_ns);
}

uint64_t fh_sched_late_key(uint64_t now_ns)
{
	return now_ns + FH_SCHED_LATE_NS;
}

/* ---- the step ---- */

struct plan {
	const struct fh_sched *s;
	const struct fh_sched_seq *seqs;
	uint32_t nr, left; /* tokens that the step still holds */
	uint64_t now_ns;
	uint32_t *take;
	struct fh_sched_work work; /* planned so far */
	double budget_ns;	   /* for the whole step, by the next tokens that are due; huge: none is */
	bool has_due;
};

static bool decodes(const struct fh_sched_seq *q)
{
	return !q->stalled_ns && q->nr_left == 1;
}

/* Gets what others leave. */
static bool is_filler(const struct fh_sched_seq *q)
{
	return q->class == FH_CLASS_BATCH && !q->due_ns && !q->tpot_us;
}

static void add_decode(struct plan *p, uint32_t i)
{
	p->take[i] = 1;
	p->left--;
	p->work.decode_tokens++;
	p->work.seqs++;
	p->work.kv_positions += p->seqs[i].nr_context + 1;
}

/* When the step should be over, for the sake of those whose next token is due. */
static void find_budget(struct plan *p)
{
	p->budget_ns = 1e18;
	for (uint32_t i = 0; i < p->nr; i++) {
		const struct fh_sched_seq *q = &p->seqs[i];
		double ns;

		if (!decodes(q) || !q->due_ns)
			continue;
		ns = q->due_ns > p->now_ns ? (double)(q->due_ns - p->now_ns) / p->s->tpot.factor : 0;
		p->budget_ns = ns < p->budget_ns ? ns : p->budget_ns;
		p->has_due = true;
	}
}

/* Who has a deadline has its place by it, and loses it when it is late. */
static bool starves(const struct plan *p, const struct fh_sched_seq *q)
{
	uint64_t most_ns = is_filler(q) ? FH_SCHED_STARVE_BATCH_NS : FH_SCHED_STARVE_NS;

	return q->served_ns && !q->due_ns && p->now_ns >= q->served_ns + most_ns;
}

static void plan_decodes(struct plan *p, uint64_t turn)
{
	uint32_t nr_decoding = 0, from = 0;
	int last = 0;

	for (uint32_t i = 0; i < p->nr; i++) {
		nr_decoding += decodes(&p->seqs[i]);
		last |= is_filler(&p->seqs[i]);
	}
	if (nr_decoding > p->left)
		from = (uint32_t)(turn % p->nr);
	for (int fillers = 0; fillers <= last; fillers++) {
		for (uint32_t k = 0; k < p->nr && p->left; k++) {
			uint32_t i = from + k < p->nr ? from + k : from + k - p->nr;
			struct fh_sched_work before = p->work;

			if (!decodes(&p->seqs[i]) || is_filler(&p->seqs[i]) != fillers)
				continue;
			add_decode(p, i);
			if (!fillers || !p->has_due || starves(p, &p->seqs[i]) ||
			    fh_sched_cost_ns(&p->s->cost, &p->work) <= p->budget_ns)
				continue;
			p->take[i] = 0;
			p->left++;
			p->work = before;
		}
	}
}

/*
 * Would a first token be late if prompts were read in steps of @quantum_ns, of
 * which @base_ns goes to everything else?  While answers are written, who decodes
 * sets the pace, so that as much time is lost as they take.
 */
static bool hurries(const struct plan *p, double quantum_ns, double base_ns)
{
	double gap_ns = p->s->cost.gap_ns, stretch = (quantum_ns + gap_ns) / (quantum_ns - base_ns), ns = 0, each_ns;

	for (uint32_t i = 0; i < p->nr; i++) {
		const struct fh_sched_seq *q = &p->seqs[i];

		each_ns = fh_sched_answer_left(p->s, q->nr_most) * (base_ns + gap_ns);
		if (q->nr_left == 1 && !q->stalled_ns && each_ns > ns)
			ns = each_ns;
	}
	for (uint32_t i = 0; i < p->nr; i++) {
		const struct fh_sched_seq *q = &p->seqs[i];

		if (q->nr_left == 1 || q->stalled_ns)
			continue;
		ns += stretch * fh_sched_cost_prompt_ns(&p->s->cost, q->nr_context, q->nr_left);
		if (q->due_ns && (double)p->now_ns + ns * p->s->ttft.factor > (double)q->due_ns)
			return true;
		ns += fh_sched_answer_left(p->s, q->nr_most) * (base_ns + gap_ns);
	}
	return false;
}

/* Time that prompts may take in this step. */
static double prompt_budget_ns(const struct plan *p)
{
	const struct fh_sched_cost *c = &p->s->cost;
	double base_ns = fh_sched_cost_ns(c, &p->work), most_ns = 1e18, least_ns, calm_ns,
	       experts_ns = fh_sched_cost_experts_ns(c, p->work.decode_tokens, FH_SCHED_PREFILL_LEAST),
	       quantum_ns = fh_sched_quantum_ns(p->s), budget_ns = p->budget_ns,
	       even_ns = p->has_due ? fh_sched_even_ns(p->s, base_ns, budget_ns) : budget_ns;

	if (!fh_sched_cost_known(c))
		return most_ns;
	if (p->work.decode_tokens > 0 && !p->has_due)
		most_ns = FH_SCHED_BESIDE_NS;
	calm_ns = quantum_ns < even_ns ? quantum_ns : even_ns;
	if (calm_ns < 1e17 && (calm_ns <= base_ns + experts_ns || hurries(p, calm_ns, base_ns + experts_ns)))
		quantum_ns *= FH_SCHED_HURRY;
	else
		budget_ns = even_ns;
	if (quantum_ns - base_ns < most_ns)
		most_ns = quantum_ns - base_ns;
	/* These two are wishes: a few tokens go through at any rate.  A deadline is none. */
	least_ns = fh_sched_cost_prompt_ns(c, 0, FH_SCHED_PREFILL_LEAST) + experts_ns;
	most_ns = most_ns > least_ns ? most_ns : least_ns;
	return budget_ns - base_ns < most_ns ? budget_ns - base_ns : most_ns;
}

/* How many tokens of prompt @i; 0 where none may go now. */
static uint32_t prompt_tokens(const struct plan *p, uint32_t i, double left_ns, bool alone)
{
	const struct fh_sched_seq *q = &p->seqs[i];
	uint32_t n = q->nr_left, least;
	double fit;

	n = n < p->s->limits.prefill_chunk ? n : p->s->limits.prefill_chunk;
	n = n < p->left ? n : p->left;
	least = n < FH_SCHED_PREFILL_LEAST ? n : FH_SCHED_PREFILL_LEAST;
	if (!fh_sched_cost_known(&p->s->cost))
		return n;
	fit = fh_sched_cost_fit(&p->s->cost, p->work.decode_tokens + p->work.prompt_tokens, q->nr_context, left_ns);
	if (fit < n)
		n = (uint32_t)fh_sched_whole_chunk(fit);
	/* Fewer are a waste while there is time, but where deadlines leave no more, they are what there is. */
	if (n < least && (starves(p, q) || (alone && !p->has_due)))
		n = least;
	return n;
}

static void plan_prompts(struct plan *p)
{
	double left_ns = prompt_budget_ns(p), end_ns = fh_sched_cost_ns(&p->s->cost, &p->work), spent_ns, due_ns;
	bool any = false;

	for (uint32_t i = 0; i < p->nr && p->left; i++) {
		const struct fh_sched_seq *q = &p->seqs[i];
		uint32_t n;

		if (q->stalled_ns || q->nr_left <= 1 || (any && left_ns <= 0 && !starves(p, q)))
			continue;
		n = prompt_tokens(p, i, left_ns, !any);
		p->take[i] = n;
		p->left -= n;
		spent_ns = fh_sched_cost_prompt_ns(&p->s->cost, q->nr_context, n) +
			   fh_sched_cost_experts_ns(&p->s->cost, p->work.decode_tokens + p->work.prompt_tokens, n);
		p->work.prompt_tokens += n;
		left_ns -= spent_ns;
		end_ns += spent_ns;
		/* Its first token comes when the step is over: others may make it later, but not late. */
		if (n == q->nr_left && q->due_ns) {
			due_ns = q->due_ns > p->now_ns
					 ? (double)(q->due_ns - p->now_ns) * FILL_SHARE / p->s->ttft.factor
					 : 0;
			left_ns = due_ns - end_ns < left_ns ? due_ns - end_ns : left_ns;
		}
		/* Who did not get all that it could take keeps those behind it from taking more. */
		if (n < q->nr_left && n < p->s->limits.prefill_chunk)
			left_ns = 0;
		any = true;
	}
}

uint32_t fh_sched_plan(const struct fh_sched *s, const struct fh_sched_seq *seqs, uint32_t nr, uint64_t turn,
		       uint64_t now_ns, uint32_t *take)
{
	struct plan p = {
		.s = s, .seqs = seqs, .nr = nr, .left = s->limits.max_step_tokens, .now_ns = now_ns, .take = take};

	memset(take, 0, nr * sizeof(*take));
	find_budget(&p);
	plan_decodes(&p, turn);
	plan_prompts(&p);
	/* Nothing else runs, so that nothing is gained by waiting for time. */
	for (uint32_t i = 0; i < nr && p.left == s->limits.max_step_tokens; i++) {
		uint32_t n = seqs[i].nr_left < FH_SCHED_PREFILL_LEAST ? seqs[i].nr_left : FH_SCHED_PREFILL_LEAST;

		if (seqs[i].stalled_ns)
			continue;
		n = n < s->limits.prefill_chunk ? n : s->limits.prefill_chunk;
		take[i] = n < p.left ? n : p.left;
		p.left -= take[i];
	}
	return s->limits.max_step_tokens - p.left;
}

void fh_sched_work_of(const struct fh_sched_cost *c, const struct fh_sched_seq *seqs, const uint32_t *take, uint32_t nr,
		      uint32_t nr_guesses, struct fh_sched_work *out)
{
	*out = (struct fh_sched_work){.decode_tokens = nr_guesses, .seqs = nr_guesses};
	for (uint32_t i = 0; i < nr; i++) {
		const struct fh_sched_seq *q = &seqs[i];

		if (!take[i])
			continue;
		out->seqs += take[i] == q->nr_left;
		if (q->nr_left == 1) {
			out->decode_tokens++;
			out->kv_positions += q->nr_context + 1;
		} else {
			out->prompt_tokens += take[i];
			out->pairs += (double)take[i] * (q->nr_context + take[i] / 2.0);
			out->kv_positions +=
				fh_sched_cost_passes(c, take[i], take[i]) * (q->nr_context + take[i] / 2.0);
		}
	}
}

/* ---- who yields ---- */

uint32_t fh_sched_victim(const struct fh_sched *s, const struct fh_sched_seq *seqs, uint32_t nr, bool stalled_only,
			 uint64_t now_ns)
{
	uint32_t last = nr, last_free = nr;

	for (uint32_t i = nr; i--;) {
		if (!seqs[i].nr_held)
			continue;
		if (seqs[i].stalled_ns && now_ns - seqs[i].stalled_ns >= (uint64_t)s->limits.stall_us * 1000)
			return i;
		if (last == nr)
			last = i;
		if (last_free == nr && !seqs[i].due_ns && !seqs[i].tpot_us)
			last_free = i;
	}
	return stalled_only ? nr : last_free < nr ? last_free : last;
}

uint32_t fh_sched_yields(const struct fh_sched *s, const struct fh_sched_seq *seqs, uint32_t nr, uint64_t due_ns,
			 uint32_t nr_tokens, uint64_t now_ns)
{
	double need_ns = 2 * s->ttft.factor * fh_sched_cost_prompt_ns(&s->cost, 0, nr_tokens);

	if (!due_ns || (double)now_ns + need_ns < (double)due_ns)
		return nr;
	for (uint32_t i = nr; i--;)
		if (seqs[i].nr_held && !seqs[i].due_ns && !seqs[i].tpot_us && seqs[i].key_ns > due_ns)
			return i;
	return nr;
}

/* ---- what it learns ---- */

bool fh_sched_kept(struct fh_sched_margin *m, double took, double promised)
{
	bool kept = took <= promised;

	if (kept) {
		m->nr_kept++;
		m->factor -= MARGIN_STEP / (FH_SCHED_MISS_ONE_IN - 1);
	} else {
		m->nr_missed++;
		m->factor += took <= MARGIN_BLIND * promised ? MARGIN_STEP : 0;
	}
	m->nr_refused = 0;
	m->factor = m->factor < MARGIN_LEAST ? MARGIN_LEAST : m->factor > MARGIN_MOST ? MARGIN_MOST : m->factor;
	return kept;
}

/* Under overload some are refused all the time, and that alone says nothing of the margin. */
static void refused(struct fh_sched_margin *m)
{
	if (m->nr_refused < MARGIN_PATIENCE)
		m->nr_refused++;
	else
		m->factor -= (m->factor - MARGIN_LEAST) * MARGIN_DOUBT;
}

void fh_sched_refused(struct fh_sched *s)
{
	refused(&s->ttft);
	refused(&s->tpot);
}

void fh_sched_ended(struct fh_sched *s, uint32_t nr_generated)
{
	s->mean_generated = s->mean_generated > 0
				    ? s->mean_generated + (nr_generated - s->mean_generated) * GENERATED_WEIGHT
				    : nr_generated;
}

void fh_sched_departed(struct fh_sched_rate *rate, uint64_t now_ns, bool idle)
{
	if (rate->last_ns && now_ns >= rate->last_ns) {
		double gap = (double)(now_ns - rate->last_ns);

		rate->interval_ns =
			rate->interval_ns > 0 ? rate->interval_ns + (gap - rate->interval_ns) * RATE_WEIGHT : gap;
	}
	rate->last_ns = idle ? 0 : now_ns;
}

uint32_t fh_sched_retry_ms(const struct fh_sched_rate *rate, uint32_t nr_waiting)
{
	double interval_ns = rate->interval_ns > 0 ? rate->interval_ns : RATE_FIRST_NS;
	double ms = (nr_waiting / 2 + 1) * interval_ns / 1e6;

	return ms < 1 ? 1 : ms > 60000 ? 60000 : (uint32_t)ms;
}
