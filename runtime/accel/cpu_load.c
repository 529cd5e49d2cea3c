// SPDX-License-Identifier: Apache-2.0
/*
 * Loading: from the model's description to matrices that the kernels run.
 *
 * Three walks over the same tensors.  The first plans every matrix and counts
 * what it takes; then one mapping is made, with huge pages where it is large;
 * the second gives every piece its place.  Then all threads pack, as one job
 * over the rows of all matrices: each reads some rows of the file into a buffer
 * of its own that its cache holds, and writes their panels to memory that it is
 * the first to touch.  The file's mapping is not touched for that, so the model
 * is never resident twice.  The third walk converts the small vectors, whose
 * pages are there by then.  Matrices that the kernels take as they are stay in
 * the file's mapping.
 */
#include <assert.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include "runtime/accel/cpu.h"
#include "runtime/base/log.h"

#define HUGE_PAGE (2ul << 20)
#define SMALL_BYTES (16ul << 20) /* weights that stay in the last cache */
#define PACK_BYTES (256ul << 10) /* of the file that one item reads, unless a panel takes more */

static size_t align_up(size_t n, size_t to)
{
	return (n + to - 1) / to * to;
}

void *cpu_arena_take(struct cpu_arena *a, size_t bytes)
{
	void *p = a->base ? a->base + a->used : NULL;

	a->used += align_up(bytes, FHK_ALIGN);
	return p;
}

/* Map what has been counted in @a->used and begin again at its head. */
int cpu_arena_map(struct cpu_arena *a, bool pin, bool huge, struct fh_err *err)
{
	struct fh_region *r = &a->region;
	uint32_t flags = (pin ? FH_REGION_LOCK : 0) | (huge && a->used >= 2 * HUGE_PAGE ? FH_REGION_HUGE : 0);
	int rc = fh_region_alloc(r, a->used ? a->used : 1, flags, err);

	if (rc)
		return rc;
	if (pin && !r->locked)
		fh_warn("cannot lock %zu MiB in memory (see RLIMIT_MEMLOCK); going on without", r->bytes >> 20);
	a->base = r->base;
	a->bytes = r->bytes;
	a->used = 0;
	return 0;
}

void cpu_arena_unmap(struct cpu_arena *a)
{
	fh_region_free(&a->region);
	memset(a, 0, sizeof(*a));
}

/* Where the pieces of a layer lie in the description and in ours. */
#define PAIR(field)                                                                                                    \
	{                                                                                                              \
		offsetof(struct fh_layer, field), offsetof(struct cpu_layer, field)                                    \
	}
static const struct {
	size_t from, to;
} vectors[] = {PAIR(attn_norm), PAIR(q_norm),	     PAIR(k_norm), PAIR(attn_post_norm),
	       PAIR(ffn_norm),	PAIR(ffn_post_norm), PAIR(sinks)},
  linears[] = {PAIR(q),		  PAIR(k),	   PAIR(v),	     PAIR(o),	   PAIR(gate),	   PAIR(up),
	       PAIR(down),	  PAIR(router),	   PAIR(exp_gate),   PAIR(exp_up), PAIR(exp_down), PAIR(shared_router),
	       PAIR(shared_gate), PAIR(shared_up), PAIR(shared_down)};
#define NR(a) (sizeof(a) / sizeof((a)[0]))

enum phase { PLAN, PLACE, FILL };

/* A matrix to pack. */
struct piece {
	struct cpu_lin *lin;
	const struct fh_linear *src;
	size_t row_bytes;
	uint32_t rows;	 /* that an item packs: whole panels */
	uint32_t groups; /* items an expert */
	uint32_t first;	 /* item */
};

struct loader {
	struct fh_cpu *c;
	const struct fh_model *m;
	struct fh_err *err;
	enum phase phase;
	struct piece *pieces; /* [nr_layers * NR(linears) + 1] */
	uint32_t nr_pieces, nr_items;
	uint8_t *bufs; /* [nr_threads][buf_bytes] */
	size_t buf_bytes;
	uint64_t total; /* bytes to pack */
	_Atomic uint64_t done;
	_Atomic(const struct piece *) failed; /* the first one */
	_Atomic int rc;			      /* why */
};

static const char *runnable_types(char *buf, size_t cap)
{
	size_t n = 0;

	for (uint32_t t = 0; t < 64 && n + 16 < cap; t++)
		if (fhk_type_info(t))
			n += (size_t)snprintf(buf + n, cap - n, "%s%s", n ? " " : "", fhk_type_info(t)->name);
	return buf;
}

/* Bytes of a row of @cols elements; 0, with the error filled in, for a type that we cannot run. */
static size_t row_bytes_of(struct loader *ld, const struct fh_tensor *t, uint64_t cols)
{
	const struct fhk_type_info *ti = fhk_type_info(t->type);
	char types[200];

	if (!ti) {
		fh_errf(ld->err, -ENOTSUP, "%s: tensor %.*s has type %u, which cannot be run; these can: %s",
			fh_gguf_path(ld->m->gguf), (int)t->name.n, t->name.p, t->type,
			runnable_types(types, sizeof(types)));
		return 0;
	}
	if (cols % ti->block_elems) {
		fh_errf(ld->err, -EINVAL, "%s: tensor %.*s: rows of %llu are no whole blocks of %s (%u)",
			fh_gguf_path(ld->m->gguf), (int)t->name.n, t->name.p, (unsigned long long)cols, ti->name,
			ti->block_elems);
		return 0;
	}
	return cols / ti->block_elems * ti->block_bytes;
}

/* @n floats of a small tensor, whatever its type; NULL in @out while planning. */
static int load_vector(struct loader *ld, const struct fh_tensor *t, size_t n, const float **out)
{
	size_t bytes;
	float *v;

	if (!t)
		return 0;
	bytes = row_bytes_of(ld, t, n);
	if (!bytes || bytes > t->bytes)
		return -ENOTSUP;
	v = cpu_arena_take(&ld->c->weights, sizeof(float) * n);
	if (ld->phase == FILL)
		fhk_dequant(t->type, t->data, v, n);
	*out = v;
	return 0;
}

static int plan_linear(struct loader *ld, const struct fh_linear *src, struct cpu_lin *lin, size_t row_bytes)
{
	if (ld->c->k->mat_plan(&lin->mat, src->w->type, src->rows, src->cols, src->nr_experts))
		return fh_errf(ld->err, -ENOTSUP,
			       "%s: tensor %.*s of type %s and %u columns cannot be run by the %s kernels",
			       fh_gguf_path(ld->m->gguf), (int)src->w->name.n, src->w->name.p,
			       fhk_type_info(src->w->type)->name, src->cols, ld->c->k->name);
	if (lin->mat.packed_bytes)
		return 0;
	/* Only plain matrices are taken apart, so experts lie one after the other. */
	assert(src->nr_experts == 1 || lin->mat.expert_bytes == src->w->bytes / src->nr_experts);
	lin->mat.data = (const uint8_t *)src->w->data + src->row0 * row_bytes;
	ld->c->unpacked_bytes += (uint64_t)src->rows * row_bytes * src->nr_experts;
	return 0;
}

static void add_piece(struct loader *ld, const struct fh_linear *src, struct cpu_lin *lin, size_t row_bytes)
{
	struct piece *p = &ld->pieces[ld->nr_pieces++];
	size_t rows = PACK_BYTES / row_bytes / FHK_PANEL * FHK_PANEL;

	rows = rows < FHK_PANEL ? FHK_PANEL : rows > src->rows ? align_up(src->rows, FHK_PANEL) : rows;
	*p = (struct piece){.lin = lin, .src = src, .row_bytes = row_bytes, .rows = (uint32_t)rows};
	p->groups = (src->rows + p->rows - 1) / p->rows;
	p->first = ld->nr_items;
	ld->nr_items += p->groups * src->nr_experts;
	ld->total += (uint64_t)src->rows * row_bytes * src->nr_experts;
	if (ld->buf_bytes < rows * row_bytes)
		ld->buf_bytes = align_up(rows * row_bytes, 4096);
}

static int load_linear(struct loader *ld, const struct fh_linear *src, struct cpu_lin *lin)
{
	size_t row_bytes;
	int rc = 0;

	if (!src->w)
		return 0;
	row_bytes = row_bytes_of(ld, src->w, src->cols);
	if (!row_bytes)
		return -ENOTSUP;
	if (ld->phase == PLAN)
		rc = plan_linear(ld, src, lin, row_bytes);
	if (!rc && lin->mat.packed_bytes) {
		lin->mat.data = cpu_arena_take(&ld->c->weights, lin->mat.packed_bytes);
		if (ld->phase == PLACE)
			add_piece(ld, src, lin, row_bytes);
	}
	return rc ?: load_vector(ld, src->bias, (size_t)src->rows * src->nr_experts, &lin->bias);
}

static size_t vector_len(const struct fh_tensor *t)
{
	size_t n = 1;

	for (uint32_t d = 0; t && d < t->nr_dims; d++)
		n *= t->ne[d];
	return n;
}

static int walk(struct loader *ld)
{
	struct fh_cpu *c = ld->c;
	int rc;

	for (uint32_t i = 0; i < ld->m->nr_layers; i++) {
		const char *from = (const char *)&ld->m->layers[i];
		char *to = (char *)&c->layers[i];

		for (size_t v = 0; v < NR(vectors); v++) {
			const struct fh_tensor *t = *(const struct fh_tensor *const *)(from + vectors[v].from);

			rc = load_vector(ld, t, vector_len(t), (const float **)(to + vectors[v].to));
			if (rc)
				return rc;
		}
		for (size_t l = 0; l < NR(linears); l++) {
			rc = load_linear(ld, (const struct fh_linear *)(from + linears[l].from),
					 (struct cpu_lin *)(to + linears[l].to));
			if (rc)
				return rc;
		}
	}
	rc = load_vector(ld, ld->m->output_norm, ld->m->dim, &c->output_norm);
	return rc ?: load_linear(ld, &ld->m->output, &c->output);
}

/* ---- packing ---- */

static const struct piece *piece_of(const struct loader *ld, uint32_t item)
{
	uint32_t lo = 0, hi = ld->nr_pieces;

	while (hi - lo > 1) {
		uint32_t mid = lo + (hi - lo) / 2;

		if (ld->pieces[mid].first <= item)
			lo = mid;
		else
			hi = mid;
	}
	return &ld->pieces[lo];
}

static void pack_item(void *ctx, uint32_t thread, uint32_t item)
{
	struct loader *ld = ctx;
	const struct fh_accel_config *cfg = &ld->c->cfg;
	const struct piece *p = piece_of(ld, item), *none = NULL;
	const struct fhk_mat *m = &p->lin->mat;
	uint32_t expert = (item - p->first) / p->groups, r0 = (item - p->first) % p->groups * p->rows;
	uint32_t r1 = r0 + p->rows < m->rows ? r0 + p->rows : m->rows;
	size_t panels = m->expert_bytes / ((m->rows + FHK_PANEL - 1) / FHK_PANEL) * (r0 / FHK_PANEL);
	size_t bytes = (size_t)(r1 - r0) * p->row_bytes;
	const uint8_t *at = p->src->w->data;
	struct fhk_mat some = *m; /* these rows alone: what is read begins with the first of them */
	const void *rows;
	int rc;

	if (atomic_load_explicit(&ld->failed, memory_order_relaxed))
		return;
	at += expert * (p->src->w->bytes / p->src->nr_experts) + (p->src->row0 + r0) * p->row_bytes;
	rc = fh_gguf_fetch(ld->m->gguf, at, bytes, ld->bufs + thread * ld->buf_bytes, &rows);
	if (rc) {
		if (atomic_compare_exchange_strong(&ld->failed, &none, p))
			ld->rc = rc;
		return;
	}
	some.rows = r1 - r0;
	ld->c->k->mat_pack(&some, 0, rows, 0, some.rows, (uint8_t *)m->data + expert * m->expert_bytes + panels);
	bytes += atomic_fetch_add_explicit(&ld->done, bytes, memory_order_relaxed);
	if (!thread && cfg->progress)
		cfg->progress(cfg->progress_ctx, bytes, ld->total);
}

static int pack(struct loader *ld)
{
	const struct fh_accel_config *cfg = &ld->c->cfg;
	const struct piece *p;

	if (!ld->nr_items)
		return 0;
	ld->bufs = aligned_alloc(4096, ld->buf_bytes * ld->c->nr_threads);
	if (!ld->bufs)
		return fh_errf(ld->err, -ENOMEM, "out of memory");
	fh_pool_run(ld->c->pool, ld->nr_items, pack_item, ld);
	free(ld->bufs);
	p = ld->failed;
	if (p)
		return fh_errf(ld->err, ld->rc, "%s: cannot read tensor %.*s: %s", fh_gguf_path(ld->m->gguf),
			       (int)p->src->w->name.n, p->src->w->name.p,
			       ld->rc == -ENODATA ? "the file has become shorter; replace models by renaming, "
						    "and start again"
						  : strerror(-ld->rc));
	if (cfg->progress)
		cfg->progress(cfg->progress_ctx, ld->total, ld->total);
	return 0;
}

/* ---- what the step wants to know ---- */

static uint8_t form_of(const struct cpu_lin *l)
{
	return l->mat.rows && l->mat.form != FHK_FORM_F32 ? (uint8_t)(1u << l->mat.form) : 0;
}

/* Add what one token costs in a matrix, of which @share of the experts is used. */
static void add_cost(struct fh_cpu *c, const struct fhk_mat *m, double share)
{
	double experts = m->nr_experts > 1 ? share * m->nr_experts : 1;
	struct fhk_mat only = *m;

	c->token_bytes_ns += experts * (double)m->expert_bytes / c->bytes_per_ns;
	only.expert_bytes = 0;
	c->token_macs_ns += experts * cpu_matmul_ns(c, &only, 1);
}

/* What the step needs to know of each layer, and a guess at its cost. */
static void finish_layers(struct fh_cpu *c)
{
	const struct fh_model *m = c->m;
	double share = m->nr_experts ? (double)m->nr_experts_used / m->nr_experts : 0;

	c->bytes_per_ns = c->weights.bytes + c->unpacked_bytes < SMALL_BYTES ? 60 : 15;
	c->token_macs_ns = c->token_bytes_ns = 0;
	add_cost(c, &c->output.mat, 1);
	for (uint32_t i = 0; i < m->nr_layers; i++) {
		struct cpu_layer *l = &c->layers[i];

		l->window = m->layers[i].window;
		l->attn_forms = form_of(&l->q) | form_of(&l->k) | form_of(&l->v);
		l->o_forms = form_of(&l->o);
		l->ffn_forms = form_of(&l->gate) | form_of(&l->up) | form_of(&l->router) | form_of(&l->exp_gate) |
			       form_of(&l->exp_up) | form_of(&l->shared_router) | form_of(&l->shared_gate) |
			       form_of(&l->shared_up);
		l->down_forms = form_of(&l->down) | form_of(&l->exp_down);
		l->shared_forms = form_of(&l->shared_down);
		for (size_t k = 0; k < NR(linears); k++)
			add_cost(c, &((const struct cpu_lin *)((char *)l + linears[k].to))->mat, share);
	}
	c->output_forms = form_of(&c->output);
}

/* The kernels' own limits on attention heads, which the description does not know. */
static int check_limits(struct fh_cpu *c, const struct fh_model *m, struct fh_err *err)
{
	struct loader ld = {.c = c, .m = m, .err = err};

	if (m->null)
		return fh_errf(err, -EINVAL, "%s is opened as the null model, which the CPU cannot run",
			       fh_gguf_path(m->gguf));
	if (m->head_dim % 8 || m->head_dim > 256)
		return fh_errf(err, -ENOTSUP, "%s: heads of %u cannot be run; multiples of 8 up to 256 can",
			       fh_gguf_path(m->gguf), m->head_dim);
	return row_bytes_of(&ld, m->token_embd, m->dim) ? 0 : -ENOTSUP;
}

/* The three walks, and what lies between them. */
static int fill(struct loader *ld)
{
	struct cpu_arena *weights = &ld->c->weights;
	int rc = walk(ld);

	if (!rc)
		rc = cpu_arena_map(weights, ld->c->cfg.pin_memory, true, ld->err);
	if (rc)
		return rc;
	ld->pieces = calloc((size_t)ld->m->nr_layers * NR(linears) + 1, sizeof(*ld->pieces));
	if (!ld->pieces)
		return fh_errf(ld->err, -ENOMEM, "out of memory");
	ld->phase = PLACE;
	rc = walk(ld);
	if (!rc)
		rc = pack(ld);
	free(ld->pieces);
	if (rc)
		return rc;
	ld->phase = FILL;
	weights->used = 0;
	return walk(ld);
}

int cpu_load(struct fh_accel *a, const struct fh_model *m, struct fh_err *err)
{
	struct fh_cpu *c = to_cpu(a);
	struct loader ld = {.c = c, .m = m, .err = err};
	int rc;

	if (c->m)
		return fh_errf(err, -EBUSY, "a model is loaded already");
	rc = check_limits(c, m, err);
	if (rc)
		return rc;
	c->layers = calloc(m->nr_layers, sizeof(*c->layers));
	if (!c->layers)
		return fh_errf(err, -ENOMEM, "out of memory");
	rc = fill(&ld);
	if (rc)
		goto err_unload;
	c->m = m;
	finish_layers(c);
	rc = cpu_scratch_alloc(c, err);
	if (rc)
		goto err_unload;
	return 0;

err_unload:
	cpu_unload(c);
	return rc;
}

void cpu_unload(struct fh_cpu *c)
{
	if (c->m)
		cpu_scratch_free(c);
	cpu_arena_unmap(&c->weights);
	free(c->layers);
	c->layers = NULL;
	c->unpacked_bytes = 0;
	c->m = NULL;
}
