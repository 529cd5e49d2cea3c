// SPDX-License-Identifier: Apache-2.0
/*
 * One simulated machine.  A turn is the engine's: take in what has come, move
 * back who is late, give out slots and memory, plan, let the step's time pass,
 * hand out tokens.  While nobody comes and all decode, many steps are taken at
 * once: the plan would be the same each time.
 */
#include "tools/sim.h"

#include <assert.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#define LEAP 64 /* steps at once, at most: what they read grows only a little meanwhile */

/* A request that has a slot; its view lies beside it at the same index. */
struct live {
	uint32_t req;
	uint32_t nr_left; /* tokens still to be generated */
	uint64_t promised_ns, first_ns, last_ns;
	bool late;
};

struct sim {
	const struct sim_config *c;
	const struct trace *t;
	struct sim_result *out;
	struct sim_totals *sum;
	struct fh_sched s;
	struct trace_rng rng;
	uint64_t now_ns;
	size_t next, stride; /* requests of the trace */
	uint64_t ticket, nr_turns;
	struct fh_sched_queue queue;
	struct fh_sched_item *items;
	struct fh_sched_seq *seq; /* [max_seqs], in order of service */
	struct live *live;	  /* [max_seqs] */
	uint32_t *take;		  /* [max_seqs] */
	uint32_t nr;
	uint64_t kv_used;
};

/* ---- an idle machine ---- */

static double chunks_ns(const struct sim_config *c, uint32_t nr_prompt)
{
	uint32_t chunk = c->limits.prefill_chunk < c->limits.max_step_tokens ? c->limits.prefill_chunk
									     : c->limits.max_step_tokens;
	double ns = 0;

	for (uint32_t at = 0; at < nr_prompt; at += chunk) {
		uint32_t n = nr_prompt - at < chunk ? nr_prompt - at : chunk;
		struct fh_sched_work w = {.prompt_tokens = n, .pairs = n * (at + n / 2.0), .seqs = at + n == nr_prompt};

		if (n == 1) {
			w.decode_tokens = 1;
			w.kv_positions = nr_prompt;
			w.prompt_tokens = w.pairs = 0;
		}
		ns += fh_sched_cost_ns(&c->cost, &w) + (double)c->gap_ns;
	}
	return ns;
}

/* What lies between a client and the engine. */
static double way_ns(const struct sim_config *c, uint32_t nr_prompt)
{
	return (double)c->overhead_ns + c->overhead_token_ns * nr_prompt;
}

/* After the last step there is none to wait for. */
double sim_unloaded_ttft_s(const struct sim_config *c, uint32_t nr_prompt)
{
	return (chunks_ns(c, nr_prompt) - (double)c->gap_ns + way_ns(c, nr_prompt)) * 1e-9;
}

double sim_unloaded_tpot_s(const struct sim_config *c, uint32_t nr_prompt, uint32_t nr_gen)
{
	struct fh_sched_work w = {.decode_tokens = 1, .seqs = 1, .kv_positions = nr_prompt + nr_gen / 2.0};

	return (fh_sched_cost_ns(&c->cost, &w) + (double)c->gap_ns) * 1e-9;
}

/* ---- coming in ---- */

static uint32_t to_us(double s)
{
	return s <= 0 ? 0 : s >= 3600 ? 3600000000u : s < 1e-6 ? 1 : (uint32_t)(s * 1e6);
}

/* Its deadlines where they are times of an idle machine's; a first token's counts at the client. */
static void times_of(const struct sim_config *c, const struct trace_req *q, struct fh_sched_ask *ask)
{
	struct load_deadline d = load_calibration_deadline(&c->unloaded, q->nr_prompt, 1);
	double ttft_s = c->unloaded.nr ? d.ttft_ms * 1e-3 : sim_unloaded_ttft_s(c, q->nr_prompt),
	       tpot_s = c->unloaded.nr ? d.tpot_ms * 1e-3 : sim_unloaded_tpot_s(c, q->nr_prompt, q->nr_gen);

	if (c->ttft_times > 0)
		ask->ttft_us = to_us(c->ttft_times * ttft_s - way_ns(c, q->nr_prompt) * 1e-9);
	if (c->tpot_times > 0)
		ask->tpot_us = to_us(c->tpot_times * tpot_s);
}

static void ask_of(struct sim *m, size_t i, struct fh_sched_ask *ask)
{
	const struct sim_config *c = m->c;
	const struct trace_req *q = &m->t->req[i];
	double which = c->batch_share > 0 || c->interactive_share > 0 ? trace_rng_unit(&m->rng) : 1;

	*ask = (struct fh_sched_ask){.arrival_ns = q->at_ns + 1,
				     .ticket = ++m->ticket,
				     .ttft_us = c->ttft_us,
				     .tpot_us = c->tpot_us,
				     .nr_prompt = q->nr_prompt,
				     .nr_most = q->nr_gen,
				     .ref = (uint32_t)i};
	times_of(c, q, ask);
	if (which < c->batch_share) {
		ask->class = FH_CLASS_BATCH;
		ask->ttft_us = ask->tpot_us = 0;
	} else if (which < c->batch_share + c->interactive_share) {
		ask->class = FH_CLASS_INTERACTIVE;
	}
}

static void come(struct sim *m, size_t i)
{
	struct fh_sched_load load = {.seqs = m->seq,
				     .nr_seqs = m->nr,
				     .queue = &m->queue,
				     .kv_free_tokens = m->c->kv_tokens - m->kv_used,
				     .now_ns = m->now_ns};
	struct sim_result *r = &m->out[i];
	enum fh_sched_verdict v = FH_SCHED_ADMIT;
	struct fh_sched_item item;
	struct fh_sched_ask ask;
	uint64_t first_ns;
	uint32_t retry_us;

	ask_of(m, i, &ask);
	fh_sched_place(&m->s, &ask, &item);
	*r = (struct sim_result){.end = SIM_REFUSED, .nr_gen = m->t->req[i].nr_gen};
	r->ttft_due_s =
		item.due_ns ? (float)((double)(item.due_ns - ask.arrival_ns) + way_ns(m->c, ask.nr_prompt)) * 1e-9f : 0;
	r->tpot_due_s = (float)item.tpot_us * 1e-6f;
	if (m->queue.nr == m->c->max_queue)
		return;
	if (item.due_ns || item.tpot_us)
		v = fh_sched_admit(&m->s, &load, &item, &first_ns, &retry_us);
	if (v != FH_SCHED_ADMIT) {
		fh_sched_refused(&m->s);
		return;
	}
	fh_sched_entered(&m->s, &item, ask.arrival_ns);
	fh_sched_queue_add(&m->queue, &item);
}

static void intake(struct sim *m)
{
	for (; m->next < m->t->nr && m->t->req[m->next].at_ns + 1 <= m->now_ns; m->next += m->stride)
		come(m, m->next);
}

/* ---- slots and memory ---- */

static void insert(struct sim *m, const struct fh_sched_seq *q, const struct live *l)
{
	uint32_t i = m->nr++;

	for (; i && fh_sched_order(q->key_ns, q->ticket, m->seq[i - 1].key_ns, m->seq[i - 1].ticket) < 0; i--) {
		m->seq[i] = m->seq[i - 1];
		m->live[i] = m->live[i - 1];
	}
	m->seq[i] = *q;
	m->live[i] = *l;
}

static void drop(struct sim *m, uint32_t i)
{
	m->nr--;
	memmove(m->seq + i, m->seq + i + 1, (m->nr - i) * sizeof(*m->seq));
	memmove(m->live + i, m->live + i + 1, (m->nr - i) * sizeof(*m->live));
}

/* It keeps its slot, and computes what it had again. */
static void preempt(struct sim *m, uint32_t i)
{
	struct fh_sched_seq *q = &m->seq[i];

	m->kv_used -= q->nr_held;
	q->nr_left += q->nr_context;
	q->nr_context = 0;
	q->nr_held = 0;
	q->stalled_ns = m->now_ns; /* not planned until it has memory again */
	m->sum->nr_preempted++;
}

static bool has_room(struct sim *m, uint32_t tokens, uint64_t due_ns)
{
	while (m->kv_used + tokens > m->c->kv_tokens) {
		uint32_t v = fh_sched_yields(&m->s, m->seq, m->nr, due_ns, tokens, m->now_ns);

		if (v == m->nr)
			return false;
		preempt(m, v);
	}
	return true;
}

/* Who was preempted comes first: memory, then slots for those who wait. */
static void start(struct sim *m)
{
	struct fh_sched_load load = {.seqs = m->seq, .queue = &m->queue, .now_ns = m->now_ns};

	for (uint32_t i = 0; i < m->nr; i++) {
		struct fh_sched_seq *q = &m->seq[i];

		if (!q->stalled_ns)
			continue;
		if (!has_room(m, q->nr_left, 0))
			return;
		m->kv_used += q->nr_held = q->nr_left;
		q->stalled_ns = 0;
		q->served_ns = m->now_ns;
	}
	while (m->nr < m->c->limits.max_seqs && m->queue.nr) {
		struct fh_sched_item it;
		uint32_t place;

		load.nr_seqs = m->nr;
		place = fh_sched_next(&m->s, &load, m->c->limits.max_seqs - m->nr);
		if (place == m->queue.nr)
			return;
		it = *fh_sched_queue_at(&m->queue, place);
		if (!has_room(m, it.nr_tokens, it.due_ns))
			return;
		fh_sched_queue_remove(&m->queue, place);
		m->kv_used += it.nr_tokens;
		insert(m,
		       &(struct fh_sched_seq){.key_ns = it.key_ns,
					      .ticket = it.ticket,
					      .due_ns = it.due_ns,
					      .served_ns = m->now_ns,
					      .tpot_us = it.tpot_us,
					      .nr_left = it.nr_tokens,
					      .nr_held = it.nr_tokens,
					      .nr_most = it.nr_most,
					      .class = it.class},
		       &(struct live){.req = it.ref, .nr_left = m->t->req[it.ref].nr_gen, .promised_ns = it.due_ns});
	}
}

static void relegate(struct sim *m)
{
	while (m->queue.nr_due) {
		struct fh_sched_item it = *fh_sched_queue_at(&m->queue, 0);

		if (!fh_sched_is_late(&m->s, it.due_ns, it.nr_context, it.nr_tokens, m->now_ns))
			break;
		fh_sched_queue_remove(&m->queue, 0);
		it.key_ns = fh_sched_late_key(m->now_ns);
		it.due_ns = 0;
		fh_sched_queue_add(&m->queue, &it);
		m->sum->nr_late++;
	}
	for (uint32_t i = 0; i < m->nr; i++) {
		struct fh_sched_seq q = m->seq[i];
		struct live l = m->live[i];

		if (l.first_ns || !q.due_ns || !fh_sched_is_late(&m->s, q.due_ns, q.nr_context, q.nr_left, m->now_ns))
			continue;
		drop(m, i--);
		q.key_ns = fh_sched_late_key(m->now_ns);
		q.due_ns = 0;
		insert(m, &q, &l);
		m->sum->nr_late++;
	}
}

/* ---- the step ---- */

static void finish(struct sim *m, uint32_t i)
{
	const struct live *l = &m->live[i];
	const struct trace_req *q = &m->t->req[l->req];
	struct sim_result *r = &m->out[l->req];
	double overhead_s = way_ns(m->c, q->nr_prompt) * 1e-9;

	r->end = SIM_DONE;
	r->ttft_s = (float)((double)(l->first_ns - q->at_ns) * 1e-9 + overhead_s);
	r->e2e_s = (float)((double)(l->last_ns - q->at_ns) * 1e-9 + overhead_s);
	r->tpot_s = q->nr_gen > 1 ? (float)((double)(l->last_ns - l->first_ns) * 1e-9 / (q->nr_gen - 1)) : 0;
	m->kv_used -= m->seq[i].nr_held;
	if (m->seq[i].tpot_us && q->nr_gen > 1)
		fh_sched_kept(&m->s.tpot, r->tpot_s * 1e6f, m->seq[i].tpot_us);
	fh_sched_tenant_leave(&m->s.tenants, 0);
	fh_sched_ended(&m->s, q->nr_gen);
	m->sum->prompt_tokens += q->nr_prompt;
	m->sum->generated_tokens += q->nr_gen;
	drop(m, i);
}

/* @nr tokens of sequence @i were drawn. */
static void draw(struct sim *m, uint32_t i, uint32_t nr)
{
	struct fh_sched_seq *q = &m->seq[i];
	struct live *l = &m->live[i];
	uint64_t mean_due_ns;
	float gap_s;

	if (!l->first_ns) {
		l->first_ns = m->now_ns;
		if (l->promised_ns)
			fh_sched_kept(&m->s.ttft, (double)(m->now_ns - m->t->req[l->req].at_ns),
				      (double)(l->promised_ns - m->t->req[l->req].at_ns));
	} else {
		gap_s = (float)((double)(m->now_ns - l->last_ns) * 1e-9 / nr);
		if (gap_s > m->out[l->req].itl_max_s)
			m->out[l->req].itl_max_s = gap_s;
	}
	l->last_ns = m->now_ns;
	/* The drawn token is what the next step computes. */
	q->nr_left = 1;
	q->nr_held += nr;
	m->kv_used += nr;
	l->nr_left -= nr;
	mean_due_ns = l->first_ns + (m->t->req[l->req].nr_gen - l->nr_left - 1) * (q->tpot_us * 1000ull);
	q->due_ns = q->tpot_us ? fh_sched_next_due(m->now_ns, mean_due_ns, q->tpot_us) : 0;
	q->nr_most = l->nr_left ? l->nr_left : 1;
}

/* How many times this plan can be repeated: nobody comes, ends, or asks for anything else. */
static uint32_t leap(const struct sim *m, double step_ns)
{
	uint32_t n = LEAP;
	double until_ns;

	if (m->queue.nr)
		return 1;
	for (uint32_t i = 0; i < m->nr && n > 1; i++) {
		const struct fh_sched_seq *q = &m->seq[i];

		if (q->nr_left != 1 || !m->take[i] || !m->live[i].first_ns ||
		    (q->due_ns && (double)m->now_ns + step_ns > (double)q->due_ns))
			return 1;
		n = m->live[i].nr_left < n ? m->live[i].nr_left : n;
	}
	if (m->next < m->t->nr) {
		until_ns = (double)m->t->req[m->next].at_ns - (double)m->now_ns;
		if (until_ns < n * step_ns)
			n = until_ns < step_ns ? 1 : (uint32_t)(until_ns / step_ns) + 1;
	}
	if (m->kv_used + (uint64_t)n * m->nr > m->c->kv_tokens)
		n = 1;
	return n;
}

/* Somebody gives way until all that decode have room for their tokens. */
static void find_room(struct sim *m)
{
	uint32_t nr = 0;

	for (uint32_t i = 0; i < m->nr; i++)
		nr += m->take[i] && m->take[i] == m->seq[i].nr_left;
	while (m->kv_used + nr > m->c->kv_tokens) {
		uint32_t v = fh_sched_victim(&m->s, m->seq, m->nr, false, m->now_ns);

		if (v == m->nr)
			return;
		nr -= m->take[v] && m->take[v] == m->seq[v].nr_left;
		preempt(m, v);
		m->take[v] = 0;
	}
}

static double noise_of(struct sim *m)
{
	if (!(m->c->noise > 0))
		return 1;
	return exp(m->c->noise * sqrt(-2 * log(trace_rng_unit(&m->rng))) *
		   cos(6.283185307179586 * trace_rng_unit(&m->rng)));
}

static bool step(struct sim *m)
{
	struct fh_sched_work w;
	double step_ns, gap_ns = (double)m->c->gap_ns;
	uint32_t n;

	if (!m->nr || !fh_sched_plan(&m->s, m->seq, m->nr, m->nr_turns++, m->now_ns, m->take))
		return false;
	find_room(m);
	fh_sched_work_of(&m->s.cost, m->seq, m->take, m->nr, 0, &w);
	step_ns = fh_sched_cost_ns(&m->c->cost, &w) * noise_of(m);
	n = leap(m, step_ns + gap_ns);
	/* Its last token is there before what follows a step. */
	m->now_ns += (uint64_t)((step_ns + gap_ns) * n - gap_ns) + 1;
	m->sum->busy_s += (step_ns + gap_ns) * n * 1e-9;
	m->sum->nr_steps += n;
	for (uint32_t i = 0; i < m->nr; i++) {
		struct fh_sched_seq *q = &m->seq[i];

		if (!m->take[i])
			continue;
		q->served_ns = m->now_ns;
		q->nr_context += m->take[i] * n;
		q->nr_left -= m->take[i];
		if (!q->nr_left)
			draw(m, i, n);
	}
	for (uint32_t i = m->nr; i--;)
		if (!m->live[i].nr_left)
			finish(m, i);
	m->now_ns += (uint64_t)gap_ns;
	return true;
}

static int alloc(struct sim *m)
{
	uint32_t n = m->c->limits.max_seqs;

	m->items = calloc(fh_sched_queue_cap(m->c->max_queue), sizeof(*m->items));
	m->seq = calloc(n, sizeof(*m->seq));
	m->live = calloc(n, sizeof(*m->live));
	m->take = calloc(n, sizeof(*m->take));
	if (!m->items || !m->seq || !m->live || !m->take)
		return -ENOMEM;
	fh_sched_queue_init(&m->queue, m->items, m->c->max_queue);
	return 0;
}

int sim_machine(const struct sim_config *c, const struct trace *t, uint32_t machine, uint32_t nr_machines,
		struct sim_result *out, struct sim_totals *sum, struct fh_err *err)
{
	struct sim m = {.c = c, .t = t, .out = out, .sum = sum, .next = machine, .stride = nr_machines};
	int rc = alloc(&m);

	if (rc)
		fh_errf(err, rc, "no memory for %u sequences and a queue of %u", c->limits.max_seqs, c->max_queue);
	for (size_t i = machine; !rc && i < t->nr; i += nr_machines)
		if ((uint64_t)t->req[i].nr_prompt + t->req[i].nr_gen > c->kv_tokens)
			rc = fh_errf(err, -EINVAL,
				     "request %zu has %u tokens to read and %u to write, and there is room for %llu "
				     "(--kv-tokens)",
				     i, t->req[i].nr_prompt, t->req[i].nr_gen, (unsigned long long)c->kv_tokens);
	fh_sched_init(&m.s, &c->limits);
	m.s.cost = c->cost;
	m.s.cost.gap_ns = (double)c->gap_ns;
	trace_rng_init(&m.rng, c->seed + machine);
	while (!rc) {
		intake(&m);
		relegate(&m);
		start(&m);
		if (step(&m))
			continue;
		if (m.next >= t->nr)
			break;
		m.now_ns = t->req[m.next].at_ns + 1;
	}
	assert(rc || (!m.nr && !m.queue.nr));
	if ((double)m.now_ns * 1e-9 > sum->end_s)
		sum->end_s = (double)m.now_ns * 1e-9;
	free(m.items);
	free(m.seq);
	free(m.live);
	free(m.take);
	return rc;
}
