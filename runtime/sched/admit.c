// SPDX-License-Identifier: Apache-2.0
/*
 * Who may enter: the queue is played forward.
 *
 * Prompts are read in order of service.  Those whose prompt has been read join
 * who decodes, and each leaves when its answer ends: after as many tokens as it
 * may have, or twice as many as answers have on average.  Until somebody joins or
 * leaves nothing changes, so the time of each first token follows from a few sums
 * for each that comes and goes, and the whole queue takes a pass.  The request is admitted only if its own first token,
 * and that of all who come behind it, is in time after the margin, and if the strictest of all who decode still gets
 * its tokens as fast as it asks.
 */
#include <math.h>
#include <string.h>

#include "runtime/sched/sched.h"

#define RETRY_LEAST_US 1000
#define RETRY_MOST_US 60000000
#define NR_LEAVERS 64
#define NEVER FH_SCHED_NEVER
#define HUGE_NS 1e18

/*
 * One or more that decode and leave together.  Of those whose lengths are near
 * to each other one entry is made when there are too many to be told apart.
 */
struct leaver {
	double at;	      /* it leaves when so many steps have been taken; NEVER: nobody knows */
	double nr, positions; /* sequences; keys and values that they hold */
	double tpot_ns;	      /* of the strictest; 0: nobody asks */
};

/* The queue at one moment of its future. */
struct play {
	const struct fh_sched *s;
	double t_ns, steps; /* from now */
	double first_ns;    /* when the step ends in which the last prompt was read */
	double nr_decoding, kv_positions;
	double nr_slots; /* in use */
	double kv_free;	 /* tokens */
	double step_ns;	 /* of the last steps, for when to try again */
	uint64_t now_ns;
	uint32_t nr;
	bool hurries;		      /* steps are as long as they may be for the sake of a first token */
	bool too_many;		      /* who decode take longer than the strictest allows */
	struct leaver of[NR_LEAVERS]; /* [nr] by who leaves first */
};

/* From one step in which all decode to the next. */
static double decode_ns(const struct play *p)
{
	struct fh_sched_work w = {
		.decode_tokens = p->nr_decoding, .seqs = p->nr_decoding, .kv_positions = p->kv_positions};

	return fh_sched_cost_ns(&p->s->cost, &w) + p->s->cost.gap_ns;
}

/* How long it may be from step to step, so that no token is late; huge: as long as it likes. */
static double pace_ns(const struct play *p)
{
	double least = HUGE_NS;

	for (uint32_t i = 0; i < p->nr; i++)
		if (p->of[i].tpot_ns > 0 && p->of[i].tpot_ns < least)
			least = p->of[i].tpot_ns;
	return least < HUGE_NS ? least / p->s->tpot.factor : least;
}

/* So many steps go by: some of those who decode leave. */
static void pass(struct play *p, double steps, double ns)
{
	uint32_t gone = 0;

	p->t_ns += ns;
	p->steps += steps;
	p->kv_positions += p->nr_decoding * steps;
	for (uint32_t i = 0; i < p->nr; i++)
		p->of[i].positions += p->of[i].nr * steps;
	for (; gone < p->nr && p->of[gone].at <= p->steps + 1e-6; gone++) {
		p->nr_decoding -= p->of[gone].nr;
		p->nr_slots -= p->of[gone].nr;
		p->kv_positions -= p->of[gone].positions;
		p->kv_free += p->of[gone].positions;
	}
	p->nr -= gone;
	memmove(p->of, p->of + gone, p->nr * sizeof(*p->of));
	if (!p->nr)
		p->nr_decoding = p->kv_positions = 0;
}

/* How many tokens of a prompt a step can take beside those who decode; less than 1: none. */
static double chunk_of(const struct play *p, double context, double left_ns)
{
	const struct fh_sched_limits *lim = &p->s->limits;
	double most = lim->max_step_tokens - p->nr_decoding, chunk;

	if (most > lim->prefill_chunk)
		most = lim->prefill_chunk;
	chunk = fh_sched_whole_chunk(fh_sched_cost_fit(&p->s->cost, p->nr_decoding, context, left_ns));
	return chunk < most ? chunk : most;
}

/* Until somebody leaves or @tokens after @context are read; how many were. */
static double read_some(struct play *p, double context, double tokens, bool due)
{
	double until = p->nr ? p->of[0].at - p->steps : NEVER, base_ns = decode_ns(p);
	double pace = pace_ns(p),
	       most_ns = fh_sched_quantum_ns(p->s) * (p->hurries ? FH_SCHED_HURRY : 1) + p->s->cost.gap_ns, chunk,
	       steps, each_ns;

	if (!p->hurries && pace < HUGE_NS && pace > base_ns)
		pace = fh_sched_even_ns(p->s, base_ns - p->s->cost.gap_ns, pace - p->s->cost.gap_ns) +
		       p->s->cost.gap_ns;
	if (pace >= HUGE_NS && p->nr_decoding >= 1 && base_ns + FH_SCHED_BESIDE_NS < most_ns)
		most_ns = base_ns + FH_SCHED_BESIDE_NS;
	chunk = chunk_of(p, context + tokens / 2, (pace < most_ns ? pace : most_ns) - base_ns);
	/* The quantum is a wish, a deadline is none. */
	if (chunk < FH_SCHED_PREFILL_LEAST && pace > most_ns)
		chunk = chunk_of(p, 0, HUGE_NS) < FH_SCHED_PREFILL_LEAST ? chunk_of(p, 0, HUGE_NS)
									 : FH_SCHED_PREFILL_LEAST;
	if (chunk < 1 && until < NEVER / 2 && (due || until * base_ns < FH_SCHED_STARVE_NS)) {
		/* It waits for one to leave. */
		p->step_ns = base_ns;
		pass(p, until, until * base_ns);
		return 0;
	}
	if (chunk < 1) {
		/* Only so that nobody starves. */
		p->too_many = p->too_many || pace < HUGE_NS;
		chunk = 1;
	}
	/* Of the last step, what it leaves is the next one's. */
	steps = tokens / chunk;
	if (steps > until) {
		steps = until;
		tokens = steps * chunk;
	}
	each_ns = fh_sched_cost_chunks_ns(&p->s->cost, context, tokens, chunk < tokens ? chunk : tokens) +
		  steps * fh_sched_cost_experts_ns(&p->s->cost, p->nr_decoding, chunk < tokens ? chunk : tokens);
	p->step_ns = base_ns + each_ns / (steps > 1 ? steps : 1);
	p->first_ns = p->t_ns + ceil(steps) * base_ns + each_ns;
	pass(p, steps, steps * base_ns + each_ns);
	return tokens;
}

static void read_prompt(struct play *p, double context, double tokens, bool due)
{
	while (tokens > 0) {
		double n = read_some(p, context, tokens, due);

		context += n;
		tokens -= n;
	}
}

/* Slots and memory become free when answers end. */
static void wait_room(struct play *p, double nr_slots, double tokens)
{
	/* With nobody who could leave, the place is among those who come before. */
	while ((p->nr_slots + nr_slots > p->s->limits.max_seqs || p->kv_free < tokens) && p->nr &&
	       p->of[0].at < NEVER / 2) {
		double steps = p->of[0].at - p->steps;

		p->step_ns = decode_ns(p);
		pass(p, steps, steps * p->step_ns);
	}
}

static void add(struct play *p, const struct leaver *l)
{
	uint32_t i = p->nr;

	p->nr_decoding += l->nr;
	p->kv_positions += l->positions;
	if (p->nr < NR_LEAVERS) {
		for (; i && l->at < p->of[i - 1].at; i--)
			p->of[i] = p->of[i - 1];
		p->of[i] = *l;
		p->nr++;
		return;
	}
	/* It leaves with one that leaves later. */
	for (i = 0; i + 1 < p->nr && p->of[i].at < l->at;)
		i++;
	p->of[i].at = p->of[i].at > l->at ? p->of[i].at : l->at;
	p->of[i].nr += l->nr;
	p->of[i].positions += l->positions;
	if (l->tpot_ns > 0 && (!(p->of[i].tpot_ns > 0) || l->tpot_ns < p->of[i].tpot_ns))
		p->of[i].tpot_ns = l->tpot_ns;
}

/* @most: tokens that it may still draw, 0: nobody knows. */
static void add_one(struct play *p, double positions, uint32_t tpot_us, uint32_t most)
{
	struct leaver l = {.at = p->steps + fh_sched_answer_left(p->s, most),
			   .nr = 1,
			   .positions = positions,
			   .tpot_ns = tpot_us * 1e3};

	add(p, &l);
}

static void join(struct play *p, double positions, uint32_t tpot_us, uint32_t most)
{
	add_one(p, positions, tpot_us, most);
	if (decode_ns(p) > pace_ns(p))
		p->too_many = true;
}

/* Without a deadline of its own the batch class waits where others are short of time. */
static bool decodes(const struct fh_sched_seq *q)
{
	return q->nr_left == 1 && !q->stalled_ns && (q->class != FH_CLASS_BATCH || q->tpot_us);
}

/* Everything that decodes now. How they fare is no question of who enters. */
static void begin(struct play *p, const struct fh_sched_load *load)
{
	for (uint32_t i = 0; i < load->nr_seqs; i++) {
		const struct fh_sched_seq *q = &load->seqs[i];

		p->nr_slots++;
		if (decodes(q))
			add_one(p, q->nr_context, q->tpot_us, q->nr_most);
	}
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
static bool is_held(struct play *p, const struct fh_sched_item *it)
{
	double nr = p->nr_decoding, positions = p->kv_positions, ns;

	if (it->due_ns || it->tpot_us || it->key_ns <= p->now_ns)
		return false;
	p->nr_decoding++;
	p->kv_positions += it->nr_context + it->nr_tokens;
	ns = decode_ns(p);
	p->nr_decoding = nr;
	p->kv_positions = positions;
	return ns > pace_ns(p);
}

/* One prompt, from the moment that its turn has come. */
static void play_item(struct play *p, const struct fh_sched_item *it, bool has_slot, bool has_blocks)
{
	double tokens = it->nr_context + it->nr_tokens;

	wait_room(p, !has_slot, has_blocks ? 0 : tokens);
	p->nr_slots += !has_slot;
	p->kv_free -= has_blocks ? 0 : tokens;
	read_prompt(p, it->nr_context, it->nr_tokens, it->due_ns);
	if (it->class != FH_CLASS_BATCH || it->tpot_us)
		join(p, tokens, it->tpot_us, it->nr_most > 1 ? it->nr_most - 1 : it->nr_most);
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
				      .nr_most = q->nr_most,
				      .class = q->class};
}

const char *fh_sched_verdict_name(enum fh_sched_verdict v)
{
	static const char *const name[] = {[FH_SCHED_ADMIT] = "",
					   [FH_SCHED_NO_TTFT] = "ttft",
					   [FH_SCHED_NO_TPOT] = "tpot",
					   [FH_SCHED_BREAKS] = "others"};

	return name[v];
}

/* May a play that has come to @it, of which @late_ns would be missing, go on? */
static enum fh_sched_verdict judge(const struct play *p, const struct fh_sched_item *it,
				   const struct fh_sched_item *new, double *late_ns)
{
	double due_ns = it->due_ns > p->now_ns ? (double)(it->due_ns - p->now_ns) : 0;

	if (it == new)
		due_ns -= handicap_ns(p->s, new, p->now_ns);
	*late_ns = p->first_ns * p->s->ttft.factor - due_ns;
	/* What is late already is late without us. */
	if (it->due_ns && *late_ns > 0 && (it == new || it->due_ns > p->now_ns))
		return it == new ? FH_SCHED_NO_TTFT : FH_SCHED_BREAKS;
	*late_ns = p->step_ns * (p->s->mean_generated > 1 ? p->s->mean_generated : 1) /
		   (p->nr_decoding > 1 ? p->nr_decoding : 1);
	return p->too_many ? FH_SCHED_NO_TPOT : FH_SCHED_ADMIT;
}

static enum fh_sched_verdict play(const struct fh_sched *s, const struct fh_sched_load *load,
				  const struct fh_sched_item *item, bool hurries, uint64_t *first_ns,
				  uint32_t *retry_us)
{
	struct play p = {.s = s, .now_ns = load->now_ns, .kv_free = (double)load->kv_free_tokens, .hurries = hurries};
	uint32_t i = 0, k = 0, nr_due = load->queue->nr_due;
	struct fh_sched_item running;
	bool met = false;

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
			*first_ns = load->now_ns + (uint64_t)(p.first_ns < HUGE_NS ? p.first_ns : HUGE_NS);
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

enum fh_sched_verdict fh_sched_admit(const struct fh_sched *s, const struct fh_sched_load *load,
				     const struct fh_sched_item *item, uint64_t *first_ns, uint32_t *retry_us)
{
	enum fh_sched_verdict v;

	*first_ns = 0;
	*retry_us = 0;
	if (!fh_sched_cost_known(&s->cost) || (!item->due_ns && !item->tpot_us))
		return FH_SCHED_ADMIT;
	v = play(s, load, item, false, first_ns, retry_us);
	/* The plan takes longer steps where it must. */
	if ((v == FH_SCHED_NO_TTFT || v == FH_SCHED_BREAKS) && s->quantum_ns > 0)
		v = play(s, load, item, true, first_ns, retry_us);
	return v;
}

/* Most often nobody asks for a pace, and then who decodes is no question. */
static bool any_paced(const struct fh_sched_load *load)
{
	for (uint32_t i = 0; i < load->nr_seqs; i++)
		if (load->seqs[i].tpot_us && decodes(&load->seqs[i]))
			return true;
	return false;
}

static bool keeps_pace_with_one_more(const struct fh_sched *s, const struct fh_sched_load *load)
{
	struct play p = {.s = s, .now_ns = load->now_ns};

	begin(&p, load);
	join(&p, p.nr_decoding > 0 ? p.kv_positions / p.nr_decoding : 0, 0, 0);
	return !p.too_many;
}

/* May one more begin that has no deadline? */
static bool has_room_for_one(const struct fh_sched *s, const struct fh_sched_load *load)
{
	return !fh_sched_cost_known(&s->cost) || !any_paced(load) || keeps_pace_with_one_more(s, load);
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
