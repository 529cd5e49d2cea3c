// SPDX-License-Identifier: Apache-2.0
/*
 * The stand-in's streams: operations wait in order and run when somebody asks
 * for their end.  An operation that fails takes what is behind it with it, as
 * on a GPU; the error comes out where somebody waits.
 */
#include <stdlib.h>
#include <string.h>

#include "tests/gpu/libcuda/sim.h"
#include "tests/gpu/simt/simt.h"

static void free_op(struct sim_op *op)
{
	if (op->kind == SIM_OP_LAUNCH)
		free(op->launch.param);
	free(op);
}

void sim_ops_free(struct sim_ops *ops)
{
	while (ops->head) {
		struct sim_op *op = ops->head;

		ops->head = op->next;
		if (op->kind == SIM_OP_GRAPH)
			op->graph->nr_pending--;
		free_op(op);
	}
	ops->tail = &ops->head;
}

static void append(struct sim_ops *ops, struct sim_op *op)
{
	op->next = NULL;
	*ops->tail = op;
	ops->tail = &op->next;
}

void sim_ops_copy(struct sim_ops *dst, const struct sim_ops *src)
{
	dst->head = NULL;
	dst->tail = &dst->head;
	for (const struct sim_op *op = src->head; op; op = op->next) {
		struct sim_op *copy = malloc(sizeof(*copy));

		*copy = *op;
		if (op->kind == SIM_OP_LAUNCH) {
			copy->launch.param = malloc(op->launch.param_bytes);
			memcpy(copy->launch.param, op->launch.param, op->launch.param_bytes);
		}
		append(dst, copy);
	}
}

static cu_result run_launch(struct sim_op *op)
{
	char why[256] = "";
	int rc = fhk_simt_launch(op->launch.f->name, op->launch.grid, op->launch.block, op->launch.shared_bytes,
				 op->launch.param, op->launch.param_bytes, why, sizeof(why));

	sim.nr_launches_run++;
	if (!rc)
		return CU_OK;
	fprintf(stderr, "libcuda stand-in: %s: %s\n", op->launch.f->name, why);
	return CU_ILLEGAL_ADDRESS;
}

static cu_result run_op(struct sim_op *op)
{
	cu_result r = op->fail;

	if (r != CU_OK)
		return r;
	switch (op->kind) {
	case SIM_OP_COPY: memmove(op->copy.dst, op->copy.src, op->copy.bytes); break;
	case SIM_OP_SET: memset(op->set.dst, op->set.value, op->set.bytes); break;
	case SIM_OP_LAUNCH: return run_launch(op);
	case SIM_OP_EVENT: op->event.e->done = op->event.generation; break;
	case SIM_OP_GRAPH:
		for (struct sim_op *o = op->graph->ops.head; o && r == CU_OK; o = o->next) {
			r = run_op(o);
			sim.nr_graph_ops++;
		}
		op->graph->nr_pending--;
		break;
	}
	return r;
}

bool sim_run_one(cu_stream s)
{
	struct sim_op *op = s->ops.head;
	cu_result r;

	if (!op || op->hang)
		return false;
	s->ops.head = op->next;
	if (!op->next)
		s->ops.tail = &s->ops.head;
	sim_mem_open();
	r = run_op(op);
	sim_mem_close();
	free_op(op);
	if (r != CU_OK) {
		/* Whatever the code: work that failed on the device leaves nothing to go on with. */
		sim.sticky = r;
		sim_ops_free(&s->ops);
	}
	return true;
}

cu_result sim_run_all(cu_stream s)
{
	while (sim.sticky == CU_OK && sim_run_one(s))
		;
	return sim.sticky != CU_OK ? sim.sticky : s->ops.head ? CU_NOT_READY : CU_OK;
}

void sim_push(cu_stream s, struct sim_op *op)
{
	if (s->capture) {
		append(&s->capture->ops, op);
		return;
	}
	append(&s->ops, op);
	if (sim.early)
		sim_run_all(s);
}
