// SPDX-License-Identifier: Apache-2.0
/*
 * Who may enter: the queue is played forward.
 *
 * Prompts are read in order of service.  Between two of them nothing changes
 * but the number that decode: those whose prompt has been read join, and those
 * who end leave, as often as answers are long on average.  So the time of each
 * first token follows from a few sums a request, and the whole queue takes a
 * pass.  The request is admitted only if its own first token, and that of all
 * who come behind it, is in time after the margin, and if the strictest of all
 * who decode still gets its tokens as fast as it asks.
 */
#include <math.h>

#include "runtime/sched/sched.h"

#define RETRY_LEAST_US 1000
#define RETRY_MOST_US 60000000

/* The queue at one moment of its future. */
struct play {
	const struct fh_sched *s;
	double t_ns; /* from now */
	double nr_decoding, kv_positions;
	double tpot_ns;	 /* of the strictest that decodes by then, less the margin; 0: nobody asks */
	double nr_slots; /* in use */
	double kv_free;	 /* tokens */
	double step_ns;	 /* of the last steps, for who leaves */
	uint64_t now_ns;
	bool too_many; /* who decode take longer than the strictest allows */
};

/* A step in which all decode and @tokens of prompts are read, the prompts' own time left out. */
static double decode_ns(const struct play *p, double tokens)
{
	const struct fh_sched_cost *c = &p->s->cost;
	struct fh_sched_work w = {
		.decode_tokens = p->nr_decoding, .seqs = p->nr_decoding, .kv_positions = p->kv_positions};
	double ns = fh_sched_cost_ns(c, &w);

	if (c->nr_experts > 0)
		ns += (fh_sched_cost_experts(c, p->nr_decoding + tokens) - fh_sched_cost_experts(c, p->nr_decoding)) *
		      c->ns[FH_COST_EXPERTS] * c->speed;
	return ns;
}

/* How long a step may take. */
static double budget_ns(const struct play *p, double base_ns)
{
	double ns = fh_sched_quantum_ns(p->s);

	if (p->tpot_ns > 0)
		return p->tpot_ns < ns ? p->tpot_ns : ns;
	if (p->nr_decoding >= 1 && base_ns + FH_SCHED_BESIDE_NS < ns)
		return base_ns + FH_SCHED_BESIDE_NS;
	return ns;
}

/* Time until @tokens after @context are read, beside those who decode. */
static double read_ns(struct play *p, double context, double tokens)
{
	const struct fh_sched_limits *lim = &p->s->limits;
	double base_ns = decode_ns(p, FH_SCHED_PREFILL_LEAST), left_ns = budget_ns(p, base_ns) - base_ns;
	double most = lim->max_step_tokens - p->nr_decoding, chunk, nr_steps, each_ns;

	if (most > lim->prefill_chunk)
		most = lim->prefill_chunk;
	chunk = fh_sched_whole_chunk(fh_sched_cost_fit(&p->s->cost, context + tokens / 2, left_ns));
	if (chunk < FH_SCHED_PREFILL_LEAST && p->tpot_ns <= 0)
		chunk = FH_SCHED_PREFILL_LEAST;
	chunk = chunk < most ? chunk : most;
	if (chunk < 1) {
		/* Only so that nobody starves. */
		p->too_many = p->too_many || p->tpot_ns > 0;
		chunk = 1;
	}
	nr_steps = ceil(tokens / chunk);
	each_ns = fh_sched_cost_prompt_ns(&p->s->cost, context, tokens);
	p->step_ns = base_ns + each_ns / nr_steps;
	return nr_steps * base_ns + each_ns;
}

/* @ns go by: some of those who decode leave. */
static void pass(struct play *p, double ns)
{
	double mean = p->s->mean_generated,
	       gone = mean > 0 && p->step_ns > 0 ? p->nr_decoding * ns / p->step_ns / mean : 0;

	if (gone > p->nr_decoding)
		gone = p->nr_decoding;
	if (p->nr_decoding > 0) {
		p->kv_free += p->kv_positions * gone / p->nr_decoding;
		p->kv_positions *= 1 - gone / p->nr_decoding;
	}
	p->nr_decoding -= gone;
	p->nr_slots -= gone;
	p->t_ns += ns;
}

/* Slots and memory become free when answers end. */
static void wait_room(struct play *p, double nr_slots, double tokens)
{
	double over = p->nr_slots + nr_slots - p->s->limits.max_seqs, mean = p->s->mean_generated, each;

	/* With nobody who could leave, the place is among those who come before. */
	if (p->nr_decoding < 0.5)
		return;
	each = p->kv_positions / p->nr_decoding;
	if (p->kv_free < tokens && each > 0 && (tokens - p->kv_free) / each > over)
		over = (tokens - p->kv_free) / each;
	if (!(over > 0))
		return;
	over = over < p->nr_decoding ? over : p->nr_decoding;
	p->step_ns = decode_ns(p, 0);
	pass(p, over * p->step_ns * (mean > 0 ? mean : 1) / p->nr_decoding);
}

static void join(struct play *p, double positions, uint32_t tpot_us)
{
	double tpot_ns = tpot_us * 1e3 / p->s->tpot.factor;

	p->nr_decoding++;
	p->kv_positions += positions;
	if (tpot_us && (!(p->tpot_ns > 0) || tpot_ns < p->tpot_ns))
		p->tpot_ns = tpot_ns;
	if (p->tpot_ns > 0 && decode_ns(p, 0) > p->tpot_ns)
		p->too_many = true;
}

/* Everything that decodes now. */
static void begin(struct play *p, const struct fh_sched_load *load)
{
	for (uint32_t i = 0; i < load->nr_seqs; i++) {
		const struct fh_sched_seq *q = &load->seqs[i];

		p->nr_slots++;
		/* Without a deadline of its own the batch class waits where others are short of time. */
		if (q->nr_left == 1 && !q->stalled_ns && (q->class != FH_CLASS_BATCH || q->tpot_us))
			join(p, q->nr_context, q->tpot_us);
	}
	/* How they fare is no question of who enters. */
	p->too_many = false;
}

/* The next prompt of those that have slots, from *@i on. */
static const struct fh_sched_seq *next_seq(const struct fh_sched_load *load, uint32_t *i)
{
	while (*i < load->nr_seqs && load->seqs[*i].nr_left == 1)
		++*i;
	return *i < load->nr_seqs ? &load->seqs[*i] : NULL;
}

static bool goes_before(const struct fh_sched_item *a, const struct fh_sched_item *b)
{
	return a && (!b || fh_sched_order(a->key_ns, a->ticket, b->key_ns, b->ticket) < 0);
}

static uint32_t clip_retry(double ns)
{
	double us = ns / 1e3;

	return us < RETRY_LEAST_US ? RETRY_LEAST_US : us > RETRY_MOST_US ? RETRY_MOST_US : (uint32_t)us;
}

/* Would it be held, because it has no deadline and one more that decodes would be too many? */
static bool is_held(const struct play *p, const struct fh_sched_item *it)
{
	struct play with = *p;

	if (it->due_ns || it->tpot_us || !(p->tpot_ns > 0) || it->key_ns <= p->now_ns)
		return false;
	with.nr_decoding++;
	with.kv_positions += it->nr_context + it->nr_tokens;
	return decode_ns(&with, 0) > p->tpot_ns;
}

/* One prompt, from the moment that its turn has come. */
static void play_item(struct play *p, const struct fh_sched_item *it, bool has_slot, bool has_blocks)
{
	double tokens = it->nr_context + it->nr_tokens;

	wait_room(p, !has_slot, has_blocks ? 0 : tokens);
	p->nr_slots += !has_slot;
	p->kv_free -= has_blocks ? 0 : tokens;
	pass(p, read_ns(p, it->nr_context, it->nr_tokens));
	if (it->class != FH_CLASS_BATCH || it->tpot_us)
		join(p, tokens, it->tpot_us);
}

/* Whose tenant had more than others must have the more to spare. */
static double handicap_ns(const struct fh_sched *s, const struct fh_sched_item *it, uint64_t now_ns)
{
	double ns = fh_sched_tenant_ahead(&s->tenants, it->tenant) * s->cost.ns[FH_COST_PROMPT] * s->cost.speed;
	double most = it->due_ns > now_ns ? (double)(it->due_ns - now_ns) / 2 : 0;

	return ns < most ? ns : most;
}

static struct fh_sched_item item_of(const struct fh_sched_seq *q)
{
	return (struct fh_sched_item){.key_ns = q->key_ns,
				      .ticket = q->ticket,
				      .due_ns = q->due_ns,
				      .tpot_us = q->tpot_us,
				      .nr_tokens = q->nr_left,
				      .nr_context = q->nr_context,
				      .class = q->class};
}

/* May a play that has come to @it, of which @late_ns would be missing, go on? */
static enum fh_sched_verdict judge(const struct play *p, const struct fh_sched_item *it,
				   const struct fh_sched_item *new, double *late_ns)
{
	double due_ns = it->due_ns > p->now_ns ? (double)(it->due_ns - p->now_ns) : 0;

	if (it == new)
		due_ns -= handicap_ns(p->s, new, p->now_ns);
	*late_ns = p->t_ns * p->s->ttft.factor - due_ns;
	/* What is late already is late without us. */
	if (it->due_ns && *late_ns > 0 && (it == new || it->due_ns > p->now_ns))
		return it == new ? FH_SCHED_NO_TTFT : FH_SCHED_BREAKS;
	*late_ns = p->step_ns * (p->s->mean_generated > 1 ? p->s->mean_generated : 1) /
		   (p->nr_decoding > 1 ? p->nr_decoding : 1);
	return p->too_many ? FH_SCHED_NO_TPOT : FH_SCHED_ADMIT;
}

enum fh_sched_verdict fh_sched_admit(const struct fh_sched *s, const struct fh_sched_load *load,
				     const struct fh_sched_item *item, uint64_t *first_ns, uint32_t *retry_us)
{
	struct play p = {.s = s, .now_ns = load->now_ns, .kv_free = (double)load->kv_free_tokens};
	uint32_t i = 0, k = 0, nr_due = load->queue->nr_due;
	struct fh_sched_item running;
	bool met = false;

	*first_ns = 0;
	*retry_us = 0;
	if (!fh_sched_cost_known(&s->cost) || (!item->due_ns && !item->tpot_us))
		return FH_SCHED_ADMIT;
	begin(&p, load);
	/* To the last that has something to lose. */
	while (!met || nr_due || i < load->nr_seqs) {
		const struct fh_sched_seq *seq = next_seq(load, &i);
		const struct fh_sched_item *waits = k < load->queue->nr ? fh_sched_queue_at(load->queue, k) : NULL;
		const struct fh_sched_item *it = met ? NULL : item;
		enum fh_sched_verdict v;
		double late_ns;

		if (seq) {
			running = item_of(seq);
			it = goes_before(&running, it) ? &running : it;
		}
		it = goes_before(waits, it) ? waits : it;
		if (!it)
			break;
		i += it == &running;
		k += it == waits;
		nr_due -= it == waits && waits->due_ns;
		if (it == &running && running.due_ns && seq->stalled_ns)
			running.due_ns = 0;
		if (it == waits && is_held(&p, it))
			continue;
		play_item(&p, it, it == &running, it == &running && seq->nr_held);
		if (it == item) {
			*first_ns = load->now_ns + (uint64_t)p.t_ns;
			met = true;
		} else if (!met) {
			/* Who goes before is not harmed, and how many there are is no fault of ours. */
			p.too_many = false;
			continue;
		}
		v = judge(&p, it, item, &late_ns);
		if (v != FH_SCHED_ADMIT) {
			*retry_us = clip_retry(late_ns);
			return v;
		}
	}
	return FH_SCHED_ADMIT;
}

/* May one more begin that has no deadline? */
static bool has_room_for_one(const struct fh_sched *s, const struct fh_sched_load *load)
{
	struct play p = {.s = s, .now_ns = load->now_ns};

	if (!fh_sched_cost_known(&s->cost))
		return true;
	begin(&p, load);
	if (!(p.tpot_ns > 0))
		return true;
	join(&p, p.nr_decoding > 0 ? p.kv_positions / p.nr_decoding : 0, 0);
	return !p.too_many;
}

uint32_t fh_sched_next(const struct fh_sched *s, const struct fh_sched_load *load, uint32_t nr_free)
{
	const struct fh_sched_queue *q = load->queue;
	uint32_t place = fh_sched_queue_next(q, &s->tenants), end = q->nr < FH_SCHED_LOOK ? q->nr : FH_SCHED_LOOK;
	bool batch = nr_free > s->limits.max_seqs / 8, others;

	if (!q->nr || !nr_free)
		return q->nr;
	if (fh_sched_queue_at(q, place)->due_ns)
		return place;
	others = has_room_for_one(s, load);
	for (uint32_t i = 0; i <= end; i++) {
		uint32_t at = i ? i - 1 : place;
		const struct fh_sched_item *it = fh_sched_queue_at(q, at);

		if (it->due_ns || it->tpot_us ||
		    (it->class == FH_CLASS_BATCH ? batch : others || it->key_ns <= load->now_ns))
			return at;
	}
	return q->nr;
}
