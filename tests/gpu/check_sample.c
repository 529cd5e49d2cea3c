// SPDX-License-Identifier: Apache-2.0
/*
 * The sampler against runtime/accel/sample.c: the same token for every mix of
 * parameters, penalties, bans and masks, ties and rows without a number, and
 * the slot as the host finds it.  Then what a sequence sampled last.
 */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "runtime/accel/sample.h"
#include "tests/gpu/gpu.h"

#define MAX_HISTORY 64
#define ROWS 6

struct draw {
	struct fh_sampling p;
	struct fh_batch_seq seq;
	struct fh_slot slot;
	struct fh_logit_bias bias[8];
	uint32_t history[MAX_HISTORY], banned[4];
	uint32_t *mask;
	struct fhk_cu_adj adj[MAX_HISTORY + 16];
	struct fhk_cu_out out;
	float *logits;
};

static struct fhk_cu_adj *adj_of(struct draw *d, uint32_t token)
{
	for (uint32_t i = 0; i < d->out.nr_adj; i++)
		if (d->adj[i].token == token)
			return &d->adj[i];
	d->adj[d->out.nr_adj] = (struct fhk_cu_adj){.token = token};
	return &d->adj[d->out.nr_adj++];
}

/* The list that the host makes of history, bias and bans. */
static void make_adj(struct draw *d)
{
	for (uint32_t i = 0; i < d->p.nr_bias; i++)
		adj_of(d, d->bias[i].token)->bias = d->bias[i].bias;
	for (uint32_t i = 0; i < d->seq.nr_history; i++) {
		adj_of(d, d->history[i])->flags |= FHK_CU_ADJ_SEEN;
		adj_of(d, d->history[i])->count += i >= d->seq.nr_prompt;
	}
	for (uint32_t i = 0; i < d->seq.nr_banned; i++)
		adj_of(d, d->banned[i])->flags |= FHK_CU_ADJ_BAN;
}

static void make_params(struct fh_sampling *p)
{
	fh_sampling_default(p);
	p->temperature = rnd_below(5) ? 0.2f + (float)rnd_below(200) / 100 : 0;
	p->top_k = rnd_below(2) ? rnd_in(1, 100) : 0;
	p->top_p = rnd_below(2) ? (float)rnd_below(101) / 100 : 1;
	p->min_p = rnd_below(3) ? 0 : (float)rnd_below(60) / 100;
	p->repetition_penalty = rnd_below(3) ? 1 : 0.5f + (float)rnd_below(150) / 100;
	p->presence_penalty = rnd_below(3) ? 0 : (float)rnd_below(30) / 10;
	p->frequency_penalty = rnd_below(3) ? 0 : (float)rnd_below(30) / 10;
	p->seed = (uint64_t)rnd() << 32 | rnd();
	p->logprobs = rnd_below(2);
}

/* Smooth, with many ties, nearly all ruled out, or without a number. */
static void make_logits(float *x, uint32_t n, uint32_t kind)
{
	for (uint32_t i = 0; i < n; i++) {
		float v = rnd_float() * 4;

		if (kind == 1)
			v = floorf(v);
		else if (kind == 2)
			v = rnd_below(n) > 3 ? -INFINITY : v;
		else if (kind == 3)
			v = rnd_below(9) ? v : NAN;
		else if (kind == 4)
			v = -INFINITY;
		x[i] = v;
	}
}

static void make_draw(struct draw *d, uint32_t vocab)
{
	memset(d, 0, sizeof(*d));
	make_params(&d->p);
	d->logits = host_alloc(sizeof(float) * vocab);
	make_logits(d->logits, vocab, rnd_below(3) ? 0 : rnd_below(5));
	d->seq.sampling = &d->p;
	d->seq.index = rnd_below(1000);
	d->seq.slot = &d->slot;
	d->seq.history = d->history;
	d->seq.banned = d->banned;
	d->seq.nr_history = rnd_below(MAX_HISTORY);
	d->seq.nr_prompt = rnd_below(d->seq.nr_history + 1);
	d->seq.nr_banned = rnd_below(4);
	for (uint32_t i = 0; i < d->seq.nr_history; i++)
		d->history[i] = rnd_below(vocab < 40 ? vocab : 40);
	for (uint32_t i = 0; i < d->seq.nr_banned; i++)
		d->banned[i] = rnd_below(vocab < 40 ? vocab : 40);
	d->p.bias = d->bias;
	d->p.nr_bias = rnd_below(2) ? 0 : rnd_in(1, 8);
	for (uint32_t i = 0; i < d->p.nr_bias; i++)
		d->bias[i] =
			(struct fh_logit_bias){.token = (rnd_below(50) * 8 + i) % (vocab + 9), .bias = rnd_float() * 5};
	if (!rnd_below(3)) {
		d->mask = host_alloc((vocab + 31) / 32 * 4);
		for (uint32_t i = 0; i < (vocab + 31) / 32; i++)
			d->mask[i] = rnd_below(3) ? UINT32_MAX : rnd();
		d->seq.mask = d->mask;
	}
	d->out = (struct fhk_cu_out){
		.flags = FHK_CU_OUT_SAMPLE | (d->p.logprobs ? FHK_CU_OUT_LOGPROB : 0),
		.index = d->seq.index,
		.top_k = d->p.top_k,
		.seed = d->p.seed,
		.mask = d->mask ? gpu_up(d->mask, (vocab + 31) / 32 * 4) : 0,
		.temperature = d->p.temperature,
		.top_p = d->p.top_p,
		.min_p = d->p.min_p,
		.repetition = d->p.repetition_penalty,
		.presence = d->p.presence_penalty,
		.frequency = d->p.frequency_penalty,
	};
	make_adj(d);
}

static bool bias_is_unique(const struct draw *d)
{
	for (uint32_t i = 0; i < d->p.nr_bias; i++)
		for (uint32_t k = 0; k < i; k++)
			if (d->bias[i].token == d->bias[k].token)
				return false;
	return true;
}

/* All rows in one launch; @wrong counts tokens, slots and records that differ from the CPU's. */
static void sample_rows(struct draw *d, uint32_t vocab, uint32_t *wrong, double *error)
{
	uint32_t ld = vocab + 5, nr_adj = 0, *sampled;
	float *logits = host_alloc(sizeof(float) * ROWS * ld);
	struct fhk_cu_out *outs = host_alloc(sizeof(*outs) * ROWS);
	struct fhk_cu_adj *adj = host_alloc(sizeof(*adj) * ROWS * (MAX_HISTORY + 16));
	struct fhk_cu_plan plan = {.nr_outs = ROWS};
	uint64_t slots = gpu_zero(sizeof(struct fh_slot) * ROWS);
	struct fh_slot *got;
	struct fh_sampler *s;
	struct fhk_cu_sample_args a;

	for (uint32_t i = 0; i < ROWS; i++) {
		d[i].out.adj_off = nr_adj;
		d[i].out.slot = slots + sizeof(struct fh_slot) * i;
		memcpy(adj + nr_adj, d[i].adj, sizeof(*adj) * d[i].out.nr_adj);
		nr_adj += d[i].out.nr_adj;
		outs[i] = d[i].out;
		memcpy(logits + (size_t)i * ld, d[i].logits, sizeof(float) * vocab);
	}
	a = (struct fhk_cu_sample_args){
		.plan = gpu_up(&plan, sizeof(plan)),
		.outs = gpu_up(outs, sizeof(*outs) * ROWS),
		.adj = gpu_up(adj, sizeof(*adj) * (nr_adj + 1)),
		.logits = gpu_up(logits, sizeof(float) * ROWS * ld),
		.sampled = gpu_alloc(sizeof(uint32_t) * ROWS),
		.nr_vocab = vocab,
		.ld = ld,
	};
	gpu_launch(FHK_CU_SAMPLE, fhk_cu_sample_grid(ROWS + 1, vocab), &a);
	sampled = gpu_down(a.sampled, sizeof(uint32_t) * ROWS);
	got = gpu_down(slots, sizeof(struct fh_slot) * ROWS);
	if (fh_sampler_create(vocab, &s))
		abort();
	for (uint32_t i = 0; i < ROWS; i++) {
		float ours, theirs;

		fh_sample(s, &d[i].seq, d[i].logits);
		*wrong += sampled[i] != d[i].slot.token || got[i].token != d[i].slot.token ||
			  got[i].stamp != d[i].slot.stamp || got[i].flags != d[i].slot.flags || got[i].finish ||
			  got[i].cut_bytes;
		memcpy(&ours, &got[i].logprob, 4);
		memcpy(&theirs, &d[i].slot.logprob, 4);
		*error = fmax(*error, fabs((double)ours - theirs) / (1 + fabs((double)theirs)));
	}
	fh_sampler_destroy(s);
}

/* Sequence i sampled row 2 i (and 2 i + 1, if it had guesses): what is kept? */
static void check_prev(void)
{
	struct fhk_cu_plan plan = {.nr_seqs = 4};
	struct fhk_cu_token tokens[8] = {{.id = 5}, {.id = 9}, {.id = 5}, {.id = 8}, {.id = 1}, {.id = 2}};
	/* all guesses right; the first wrong; none made; nothing sampled */
	struct fhk_cu_seq seqs[4] = {
		{.slot = 2, .q_start = 0, .q_len = 2, .out = 0, .nr_draft = 1},
		{.slot = 0, .q_start = 2, .q_len = 2, .out = 2, .nr_draft = 1},
		{.slot = 3, .q_start = 4, .q_len = 1, .out = 4},
		{.slot = 1, .q_start = 5, .q_len = 1, .out = FHK_CU_NONE},
	};
	const uint32_t sampled[5] = {9, 7, 6, 7, 4}, before[5] = {50, 51, 52, 53, 54}, after[5] = {6, 51, 7, 4, 54};
	struct fhk_cu_prev_args a = {
		.plan = gpu_up(&plan, sizeof(plan)),
		.tokens = gpu_up(tokens, sizeof(tokens)),
		.seqs = gpu_up(seqs, sizeof(seqs)),
		.sampled = gpu_up(sampled, sizeof(sampled)),
		.prev = gpu_up(before, sizeof(before)),
	};

	check_part("right, wrong, no guess, no sample");
	gpu_launch(FHK_CU_PREV, fhk_cu_prev_grid(4), &a);
	check_equal("prev", gpu_down(a.prev, sizeof(before)), after, sizeof(after));
	gpu_end_test();
}

void check_sample(void)
{
	static struct draw d[ROWS];
	uint32_t wrong = 0, nr = 0, launches = check_small ? 8 : 40;
	double error = 0;

	check_prev();
	for (uint32_t i = 0; i < launches; i++) {
		uint32_t vocab = i % 8 == 7 ? rnd_in(1, 40) : rnd_in(40, check_small ? 700 : 5000);

		for (uint32_t k = 0; k < ROWS; k++) {
			do
				make_draw(&d[k], vocab);
			while (!bias_is_unique(&d[k]));
		}
		sample_rows(d, vocab, &wrong, &error);
		nr += ROWS;
		gpu_end_test();
	}
	check_part("%u rows, parameters at random", nr);
	check("sample, tokens and slots", wrong, 0);
	check("sample, log-probabilities", error, 1e-6);
}
