// SPDX-License-Identifier: Apache-2.0
/*
 * The CPU as an accelerator: its life, its KV blocks, and the checks that a
 * batch has to pass.  The work is in cpu_step.c.
 *
 * submit() runs the whole step before it returns: the caller's thread is one
 * of those that compute.  reap() only says so.
 */
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "runtime/accel/check.h"
#include "runtime/accel/cpu.h"
#include "runtime/base/log.h"

_Static_assert(FH_KV_BLOCK == FHK_KV_BLOCK, "the engine's KV blocks are the kernels'");

static int check_config(const struct fh_accel_config *cfg, struct fh_err *err)
{
	int rc = fh_accel_check_config(cfg, err);

	if (!rc && cfg->nr_threads > 1024)
		return fh_errf(err, -EINVAL, "%u threads are asked for; at most 1024 can run", cfg->nr_threads);
	return rc;
}

/* Of one core; a modest guess where the system does not know. */
static size_t l2_bytes(void)
{
	long bytes = sysconf(_SC_LEVEL2_CACHE_SIZE);

	return bytes > 0 ? (size_t)bytes : 512u << 10;
}

static int cpu_open(const struct fh_accel_config *cfg, struct fh_accel **out, struct fh_err *err)
{
	static const uint32_t kv_types[] = {
		[FH_KV_F16] = FHK_F16,
		[FH_KV_Q8_0] = FHK_Q8_0,
		[FH_KV_F32] = FHK_F32,
		[FH_KV_BF16] = FHK_BF16,
	};
	struct fh_cpu *c;
	int rc;

	rc = check_config(cfg, err);
	if (rc)
		return rc;
	c = calloc(1, sizeof(*c));
	if (!c)
		return fh_errf(err, -ENOMEM, "out of memory");
	c->base.ops = &fh_accel_cpu;
	c->cfg = *cfg;
	c->kv_type = kv_types[cfg->kv_type];
	c->k = fhk_select(cfg->isa);
	if (!c->k) {
		rc = fh_errf(
			err, -ENOTSUP,
			"no kernels for \"%s\" on this CPU; ref always runs, avx2, avx512 and avx512_bf16 on x86-64",
			cfg->isa);
		goto err_free;
	}
	c->cfg.isa = c->k->name; /* the caller's string need not live on */
	snprintf(c->name, sizeof(c->name), "cpu/%s", c->k->name);
	c->nr_threads = cfg->nr_threads ? cfg->nr_threads : fh_pool_default_threads();
	c->ahead_bytes = l2_bytes() / 4;
	rc = fh_pool_create(c->nr_threads, &c->pool);
	if (rc) {
		fh_errf(err, rc, "cannot start %u threads", c->nr_threads);
		goto err_free;
	}
	*out = &c->base;
	return 0;

err_free:
	free(c);
	return rc;
}

static uint64_t cpu_kv_block_bytes(struct fh_accel *a)
{
	struct fh_cpu *c = to_cpu(a);
	size_t head;

	if (!c->m)
		return 0;
	head = c->k->kv_head_bytes(c->kv_type, c->m->head_dim);
	c->kv_head_bytes = (head + FHK_ALIGN - 1) / FHK_ALIGN * FHK_ALIGN;
	c->kv_layer_bytes = c->kv_head_bytes * c->m->nr_kv_heads * 2;
	c->kv_block_bytes = c->kv_layer_bytes * c->m->nr_layers;
	return c->kv_block_bytes;
}

/*
 * Show a region to the kernel module.  That pins all of it, so weights come here
 * once they are loaded.  A limit that is in the way costs the module's sight of
 * it, and nothing else.
 */
static void show_region(const struct fh_cpu *c, struct cpu_arena *a, const char *what)
{
	struct fh_err err;

	if (c->cfg.ctl && a->region.type && !a->region.ctl && fh_region_register(&a->region, c->cfg.ctl, &err))
		fh_warn("%s: %s; going on without", what, err.msg);
}

static int cpu_kv_alloc(struct fh_accel *a, uint32_t nr_blocks, struct fh_err *err)
{
	struct fh_cpu *c = to_cpu(a);
	uint64_t bytes = cpu_kv_block_bytes(a);
	int rc;

	if (!c->m || !nr_blocks || nr_blocks == FH_NO_BLOCK || bytes > SIZE_MAX / nr_blocks)
		return fh_errf(err, -EINVAL, "%u KV blocks cannot be had", nr_blocks);
	cpu_arena_unmap(&c->kv);
	c->nr_blocks = 0;
	cpu_arena_take(&c->kv, bytes * nr_blocks);
	rc = cpu_arena_map(&c->kv, c->cfg.pin_memory, true, err);
	if (rc)
		return rc;
	c->nr_blocks = nr_blocks;
	show_region(c, &c->weights, "weights");
	show_region(c, &c->kv, "KV blocks");
	return 0;
}

/* Note the rows of logits that are wanted; false when there are too many. */
static bool note_outs(struct fh_cpu *c, const struct fh_batch_seq *s, uint32_t seq)
{
	uint32_t nr = s->sampling ? s->nr_draft + 1 : 0;

	if (s->logits && s->q_len - s->logits_from > nr)
		nr = s->q_len - s->logits_from;
	if (nr > c->cfg.max_logits - c->nr_outs)
		return false;
	for (uint32_t i = 0; i < nr; i++) {
		uint32_t t = s->q_start + s->q_len - nr + i;

		c->outs[c->nr_outs++] = (struct cpu_out){.token = t, .seq = seq, .row = t};
	}
	if (s->pooled)
		c->pooled[c->nr_pooled++] = seq;
	return true;
}

static int cpu_submit(struct fh_accel *a, const struct fh_batch *b)
{
	struct fh_cpu *c = to_cpu(a);
	const struct fh_accel_room room = {.cfg = &c->cfg,
					   .nr_vocab = c->m ? c->m->nr_vocab : 0,
					   .nr_blocks = c->nr_blocks,
					   .seen = c->seen,
					   .step = ++c->step};
	uint32_t at = 0;

	c->nr_outs = 0;
	c->nr_pooled = 0;
	if (!fh_accel_check_batch(&room, b))
		return -EINVAL;
	for (uint32_t i = 0; i < b->nr_seqs; i++) {
		if (!note_outs(c, &b->seqs[i], i))
			return -EINVAL;
		for (uint32_t t = 0; t < b->seqs[i].q_len; t++)
			c->token_seq[at++] = i;
	}
	c->b = b;
	c->nr = b->nr_tokens;
	cpu_step(c);
	c->b = NULL;
	return 0;
}

static int cpu_reap(struct fh_accel *a, bool wait)
{
	(void)a;
	(void)wait;
	return 0;
}

static int cpu_kv_copy(struct fh_accel *a, uint32_t dst, uint32_t src)
{
	struct fh_cpu *c = to_cpu(a);

	if (dst >= c->nr_blocks || src >= c->nr_blocks)
		return -EINVAL;
	if (dst != src)
		memcpy(cpu_kv_head(c, dst, 0, 0, false), cpu_kv_head(c, src, 0, 0, false), c->kv_block_bytes);
	return 0;
}

static int cpu_kv_swap(struct fh_accel *a, uint32_t block, void *host, bool out)
{
	struct fh_cpu *c = to_cpu(a);
	void *p;

	if (block >= c->nr_blocks)
		return -EINVAL;
	p = cpu_kv_head(c, block, 0, 0, false);
	memcpy(out ? host : p, out ? p : host, c->kv_block_bytes);
	return 0;
}

static void cpu_set_prev(struct fh_accel *a, uint32_t seq, uint32_t token)
{
	struct fh_cpu *c = to_cpu(a);

	if (c->m && seq < c->cfg.max_seqs && token < c->m->nr_vocab)
		c->prev[seq] = token;
}

/* The kernels read a position's keys for CPU_ATTN_ROWS query heads at once, of a token those that share the KV head. */
static uint32_t nr_together(const struct fh_model *m)
{
	uint32_t group = m->nr_kv_heads ? m->nr_heads / m->nr_kv_heads : 0;

	return group && group < CPU_ATTN_ROWS ? CPU_ATTN_ROWS / group : 1;
}

static void cpu_info(struct fh_accel *a, struct fh_accel_info *out)
{
	struct fh_cpu *c = to_cpu(a);

	*out = (struct fh_accel_info){
		.name = c->name,
		.nr_threads = c->nr_threads,
		.weight_bytes = c->weights.bytes + c->unpacked_bytes,
		.kv_block_bytes = cpu_kv_block_bytes(a),
		.nr_blocks = c->nr_blocks,
		.drafts = true,
		.weights = c->weights.region.type ? &c->weights.region : NULL,
		.kv = c->kv.region.type ? &c->kv.region : NULL,
	};
	if (c->m) {
		out->nr_vocab = c->m->nr_vocab;
		out->nr_ctx = c->m->nr_ctx;
		out->dim = c->m->dim;
		out->nr_together = nr_together(c->m);
	}
}

static void cpu_close(struct fh_accel *a)
{
	struct fh_cpu *c;

	if (!a)
		return;
	c = to_cpu(a);
	fh_pool_destroy(c->pool);
	cpu_arena_unmap(&c->kv);
	cpu_unload(c);
	free(c);
}

const struct fh_accel_ops fh_accel_cpu = {
	.name = "cpu",
	.open = cpu_open,
	.load = cpu_load,
	.kv_block_bytes = cpu_kv_block_bytes,
	.kv_alloc = cpu_kv_alloc,
	.submit = cpu_submit,
	.reap = cpu_reap,
	.kv_copy = cpu_kv_copy,
	.kv_swap = cpu_kv_swap,
	.set_prev = cpu_set_prev,
	.info = cpu_info,
	.close = cpu_close,
};
