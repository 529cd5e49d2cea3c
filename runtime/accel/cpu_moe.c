// SPDX-License-Identifier: Apache-2.0
/*
 * Mixture of experts: each token's router picks its experts, the (token, slot)
 * pairs are sorted by expert, and every expert that anybody picked runs once
 * over all of its tokens.  Absent experts cost nothing.
 *
 * The outputs are summed token by token in the order of the slots, never of
 * the experts' completion, so a token's sum does not depend on the batch.
 */
#include <math.h>
#include <string.h>

#include "runtime/accel/cpu.h"

#define AHEAD_EXPERTS 16 /* with more at once, memory is busy enough */

/* logits: [nr_experts], destroyed. Fills the token's experts, best first, and their weights. */
static void choose(struct fh_cpu *c, uint32_t t, float *logits)
{
	uint32_t nr = c->m->nr_experts, used = c->m->nr_experts_used;
	uint32_t *expert = c->pair_expert + (size_t)t * used;
	float *weight = c->pair_weight + (size_t)t * (used + 1);
	float max = logits[c->k->argmax(logits, nr)];
	double sum = 0;

	if (c->m->gating == FH_GATING_SOFTMAX)
		for (uint32_t e = 0; e < nr; e++)
			sum += exp((double)logits[e] - max);
	for (uint32_t s = 0; s < used; s++) {
		expert[s] = c->k->argmax(logits, nr);
		weight[s] = (float)exp((double)logits[expert[s]] - max);
		if (c->m->gating == FH_GATING_SOFTMAX_NORM)
			sum += exp((double)logits[expert[s]] - max);
		logits[expert[s]] = -INFINITY;
	}
	for (uint32_t s = 0; s < used; s++)
		weight[s] = (float)(weight[s] / sum);
}

void cpu_moe_route(struct fh_cpu *c, uint32_t thread, uint32_t t)
{
	const struct cpu_layer *l = c->layer;
	uint32_t used = c->m->nr_experts_used;
	float *row = c->threads[thread].row;

	c->k->matmul(&l->router.mat, 0, &c->norm, &t, 1, 0, c->m->nr_experts, row, c->m->nr_experts, 0);
	if (l->router.bias)
		c->k->axpy(row, 1, l->router.bias, c->m->nr_experts);
	choose(c, t, row);
	if (!l->shared_router.mat.rows)
		return;
	c->k->matmul(&l->shared_router.mat, 0, &c->norm, &t, 1, 0, 1, row, 1, 0);
	c->pair_weight[(size_t)t * (used + 1) + used] = 1 / (1 + expf(-row[0]));
}

/* Counting sort of the pairs by expert; within one, by token. */
static void sort_pairs(struct fh_cpu *c)
{
	uint32_t used = c->m->nr_experts_used, nr = c->m->nr_experts, nr_pairs = c->nr * used, at = 0;
	uint32_t *end = c->expert_end;

	memset(end, 0, sizeof(*end) * (nr + 1));
	for (uint32_t p = 0; p < nr_pairs; p++)
		end[c->pair_expert[p]]++;
	for (uint32_t e = 0; e < nr; e++) {
		uint32_t count = end[e];

		end[e] = at; /* its begin, which the next loop moves to its end */
		at += count;
	}
	for (uint32_t p = 0; p < nr_pairs; p++) {
		c->pair_pos[p] = end[c->pair_expert[p]]++;
		c->pair_token[c->pair_pos[p]] = p / used;
	}
}

static void gate_up_tasks(struct fh_cpu *c)
{
	const struct cpu_layer *l = c->layer;

	c->nr_tasks = 0;
	for (uint32_t e = 0, begin = 0; e < c->m->nr_experts; begin = c->expert_end[e++]) {
		if (c->expert_end[e] == begin)
			continue;
		c->tasks[c->nr_tasks++] = (struct cpu_task){
			.lin = &l->exp_gate,
			.up = &l->exp_up,
			.x = &c->norm,
			.idx = c->pair_token + begin,
			.expert = e,
			.nr = c->expert_end[e] - begin,
			.y = c->h.f32 + (size_t)begin * c->h.ld,
			.ldy = c->h.ld,
			.out = &c->h,
			.out_forms = l->down_forms,
			.out_row = begin,
		};
	}
	if (l->shared_gate.mat.rows)
		c->tasks[c->nr_tasks++] = (struct cpu_task){
			.lin = &l->shared_gate,
			.up = &l->shared_up,
			.x = &c->norm,
			.nr = c->nr,
			.y = c->sh.f32,
			.ldy = c->sh.ld,
			.out = &c->sh,
			.out_forms = l->shared_forms,
		};
}

static void down_tasks(struct fh_cpu *c)
{
	const struct cpu_layer *l = c->layer;

	c->nr_tasks = 0;
	for (uint32_t e = 0, begin = 0; e < c->m->nr_experts; begin = c->expert_end[e++]) {
		if (c->expert_end[e] == begin)
			continue;
		c->tasks[c->nr_tasks++] = (struct cpu_task){
			.lin = &l->exp_down,
			.x = &c->h,
			.idx = c->identity + begin,
			.expert = e,
			.nr = c->expert_end[e] - begin,
			.y = c->y + (size_t)begin * c->ld_x,
			.ldy = c->ld_x,
		};
	}
	if (l->shared_down.mat.rows)
		c->tasks[c->nr_tasks++] = (struct cpu_task){
			.lin = &l->shared_down,
			.x = &c->sh,
			.nr = c->nr,
			.y = c->y + (size_t)c->max_pairs * c->ld_x,
			.ldy = c->ld_x,
		};
}

/* The experts whose gates are the tasks at hand */
static void ahead_of_down(struct fh_cpu *c)
{
	struct cpu_ahead a[AHEAD_EXPERTS];
	uint32_t nr = 0;

	for (uint32_t i = 0; i < c->nr_tasks && nr < AHEAD_EXPERTS; i++)
		if (c->tasks[i].lin == &c->layer->exp_gate)
			a[nr++] = (struct cpu_ahead){.lin = &c->layer->exp_down, .expert = c->tasks[i].expert};
	if (nr < AHEAD_EXPERTS)
		cpu_ahead(c, a, nr);
}

void cpu_moe(struct fh_cpu *c)
{
	sort_pairs(c);
	gate_up_tasks(c);
	ahead_of_down(c);
	cpu_matmuls(c);
	down_tasks(c);
	cpu_ahead_of_next(c);
	cpu_matmuls(c);
}

void cpu_moe_sum(struct fh_cpu *c, uint32_t t)
{
	uint32_t used = c->m->nr_experts_used, dim = c->m->dim;
	const float *weight = c->pair_weight + (size_t)t * (used + 1);
	const uint32_t *pos = c->pair_pos + (size_t)t * used;
	float *x = c->x + (size_t)t * c->ld_x;

	for (uint32_t s = 0; s < used; s++)
		c->k->axpy(x, weight[s], c->y + (size_t)pos[s] * c->ld_x, dim);
	if (c->layer->shared_down.mat.rows)
		c->k->axpy(x, weight[used], c->y + (c->max_pairs + (size_t)t) * c->ld_x, dim);
}
