// SPDX-License-Identifier: Apache-2.0
/*
 * The end of a step: hidden states to logits, tokens and embeddings.
 *
 * Where nothing but the largest logit of each row is asked for, no logits are
 * written: whoever multiplies some rows of the output matrix keeps the best of
 * them, and the threads' bests are merged at the end.  The largest value wins
 * and, among equals, the lowest id, so the order does not matter and the token
 * is the one that argmax() over the whole row would find.
 */
#include <math.h>
#include <string.h>

#include "runtime/accel/cpu.h"

static void out_token(struct fh_cpu *c, uint32_t thread, uint32_t i)
{
	(void)thread;
	c->k->rmsnorm(c->last.f32 + (size_t)i * c->last.ld, c->x + (size_t)c->outs[i].row * c->ld_x, c->output_norm,
		      c->m->dim, c->m->norm_eps);
	cpu_prepare(c, &c->last, c->output_forms, i);
}

/* Nothing but the largest logit is asked for. */
static bool is_plain_greedy(const struct fh_batch_seq *s)
{
	const struct fh_sampling *p = s->sampling;

	return p->temperature == 0 && p->repetition_penalty == 1 && p->presence_penalty == 0 &&
	       p->frequency_penalty == 0 && !p->nr_bias && !p->logprobs && !p->nr_top && !s->nr_banned && !s->mask;
}

static void put_greedy(struct fh_cpu *c, const struct fh_batch_seq *s, uint32_t sample, const float *logits)
{
	struct fh_slot slot = {.token = c->k->argmax(logits, c->m->nr_vocab), .stamp = s->index + sample + 1};

	s->slot[sample] = slot;
}

/* Tokens t0 .. t0 + nr - 1 of the output task: rows r0..r1 of their logits, of which the best may be better. */
void cpu_best_rows(struct fh_cpu *c, struct cpu_thread *th, const struct cpu_task *k, uint32_t t0, uint32_t nr,
		   uint32_t r0, uint32_t r1)
{
	c->k->matmul(&k->lin->mat, 0, k->x, c->identity + t0, nr, r0, r1, th->up, CPU_GLU_ROWS, 0);
	cpu_add_bias(c, k->lin, 0, nr, r0, r1, th->up, CPU_GLU_ROWS);
	for (uint32_t i = 0; i < nr; i++) {
		float *y = th->up + (size_t)i * CPU_GLU_ROWS;
		struct cpu_best *best = &th->best[t0 + i];
		uint32_t at;

		if (c->m->final_softcap > 0)
			c->k->softcap(y, r1 - r0, c->m->final_softcap);
		at = c->k->argmax(y, r1 - r0);
		if (y[at] > best->logit || (y[at] == best->logit && r0 + at < best->id))
			*best = (struct cpu_best){.logit = y[at], .id = r0 + at};
	}
}

/* Is the largest logit of each row all that anybody wants? */
static bool all_plain_greedy(const struct fh_cpu *c)
{
	for (uint32_t i = 0; i < c->nr_outs; i++) {
		const struct fh_batch_seq *s = &c->b->seqs[c->outs[i].seq];

		if (s->logits || !s->sampling || !is_plain_greedy(s))
			return false;
	}
	return true;
}

/* Nothing was better than minus infinity, or a number at all: argmax() says 0 there. */
static uint32_t merged_best(const struct fh_cpu *c, uint32_t i)
{
	struct cpu_best best = {.logit = -INFINITY, .id = UINT32_MAX};

	for (uint32_t t = 0; t < c->nr_threads; t++) {
		const struct cpu_best *b = &c->threads[t].best[i];

		if (b->logit > best.logit || (b->logit == best.logit && b->id < best.id))
			best = *b;
	}
	return best.id == UINT32_MAX ? 0 : best.id;
}

static void run_greedy(struct fh_cpu *c)
{
	for (uint32_t t = 0; t < c->nr_threads; t++)
		for (uint32_t i = 0; i < c->nr_outs; i++)
			c->threads[t].best[i] = (struct cpu_best){.logit = -INFINITY, .id = UINT32_MAX};
	c->tasks[0] = (struct cpu_task){.lin = &c->output, .x = &c->last, .nr = c->nr_outs, .best = true};
	c->nr_tasks = 1;
	cpu_matmuls(c);
	for (uint32_t i = 0; i < c->nr_outs; i++) {
		const struct fh_batch_seq *s = &c->b->seqs[c->outs[i].seq];
		uint32_t sample = c->outs[i].token - s->q_start + s->nr_draft + 1 - s->q_len;

		s->slot[sample] = (struct fh_slot){.token = merged_best(c, i), .stamp = s->index + sample + 1};
	}
}

/* A finished row of logits: to whoever wants it, and to the sampler. */
static void sample_token(struct fh_cpu *c, uint32_t thread, uint32_t i)
{
	const struct cpu_out *o = &c->outs[i];
	const struct fh_batch_seq *s = &c->b->seqs[o->seq];
	uint32_t nr_vocab = c->m->nr_vocab, q = o->token - s->q_start, sample = q + s->nr_draft + 1 - s->q_len;
	float *logits = c->logits + (size_t)i * c->ld_logits;
	struct fh_batch_seq one;

	if (c->m->final_softcap > 0)
		c->k->softcap(logits, nr_vocab, c->m->final_softcap);
	if (s->logits && q >= s->logits_from)
		memcpy(s->logits + (size_t)(q - s->logits_from) * nr_vocab, logits, sizeof(float) * nr_vocab);
	if (!s->sampling || q + s->nr_draft + 1 < s->q_len)
		return;
	if (is_plain_greedy(s)) {
		put_greedy(c, s, sample, logits);
		return;
	}
	one = fh_batch_sample(s, sample, nr_vocab);
	fh_sample(c->threads[thread].sampler, &one, logits);
}

/* The last token that a sequence sampled: with guesses the one in the place of the first wrong one. */
static void keep_prev(struct fh_cpu *c)
{
	for (uint32_t i = 0; i < c->b->nr_seqs; i++) {
		const struct fh_batch_seq *s = &c->b->seqs[i];
		const uint32_t *guess = c->b->tokens + s->q_start + s->q_len - s->nr_draft;
		uint32_t k = 0;

		if (!s->sampling)
			continue;
		while (k < s->nr_draft && s->slot[k].token == guess[k])
			k++;
		c->prev[s->seq] = s->slot[k].token;
	}
}

/* The sum over tokens runs in their order, so a prompt may come in chunks. */
static void pool_seq(struct fh_cpu *c, uint32_t thread, uint32_t i)
{
	const struct fh_batch_seq *s = &c->b->seqs[c->pooled[i]];
	float *row = c->threads[thread].row;
	uint32_t t = s->pooling == FH_POOL_LAST ? s->q_len - 1 : 0;

	for (; t < s->q_len; t++) {
		c->k->rmsnorm(row, c->x + (size_t)(s->q_start + t) * c->ld_x, c->output_norm, c->m->dim,
			      c->m->norm_eps);
		if (s->pooling == FH_POOL_LAST)
			memcpy(s->pooled, row, sizeof(float) * c->m->dim);
		else
			for (uint32_t d = 0; d < c->m->dim; d++)
				s->pooled[d] += row[d];
	}
}

void cpu_output(struct fh_cpu *c)
{
	if (c->nr_pooled)
		cpu_tokens(c, pool_seq, c->nr_pooled, c->m->dim * 1.0 * c->nr / c->nr_pooled);
	if (!c->nr_outs)
		return;
	cpu_tokens(c, out_token, c->nr_outs, c->m->dim * 0.5);
	if (all_plain_greedy(c)) {
		run_greedy(c);
	} else {
		c->tasks[0] = (struct cpu_task){
			.lin = &c->output, .x = &c->last, .nr = c->nr_outs, .y = c->logits, .ldy = c->ld_logits};
		c->nr_tasks = 1;
		cpu_matmuls(c);
		cpu_tokens(c, sample_token, c->nr_outs, c->m->nr_vocab * 0.5);
	}
	keep_prev(c);
}
