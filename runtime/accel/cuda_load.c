// SPDX-License-Identifier: Apache-2.0
/*
 * Loading: from the file to matrices that the kernels multiply with.
 *
 * Two walks over the same tensors.  The first counts; then one piece of device
 * memory is allocated; the second fills it.  Rows are read from the file into
 * pinned memory, copied to the device as they are, and repacked there by a
 * kernel, two stages deep, so that reading, copying and repacking overlap.  The
 * file's mapping is not touched.
 */
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "runtime/accel/cuda.h"
#include "runtime/base/log.h"

#define NR(a) (sizeof(a) / sizeof((a)[0]))

struct stage {
	uint8_t *host; /* pinned */
	cu_ptr dev;
	cu_event done;
	bool busy;
};

struct loader {
	struct fh_cuda *c;
	const struct fh_model *m;
	struct fh_err *err;
	bool fill; /* the second walk */
	struct stage stage[CUDA_STAGES];
	uint32_t next;
	size_t stage_bytes;
	struct cuda_arena staging;
	uint8_t *raw; /* [stage_bytes] of a vector, before it becomes f32 */
	uint64_t done, total;
};

/* Where the pieces of a layer lie in the description and in ours. */
#define PAIR(field)                                                                                                    \
	{                                                                                                              \
		offsetof(struct fh_layer, field), offsetof(struct cuda_layer, field)                                   \
	}
static const struct {
	size_t from, to;
} vectors[] = {PAIR(attn_norm), PAIR(q_norm),	     PAIR(k_norm), PAIR(attn_post_norm),
	       PAIR(ffn_norm),	PAIR(ffn_post_norm), PAIR(sinks)},
  linears[] = {PAIR(o),		PAIR(gate),	  PAIR(up),	  PAIR(down),	       PAIR(router),
	       PAIR(exp_gate),	PAIR(exp_up),	  PAIR(exp_down), PAIR(shared_router), PAIR(shared_gate),
	       PAIR(shared_up), PAIR(shared_down)};

/* ---- the way to the device ---- */

static int failed(const struct loader *ld, cu_result r, const struct fh_tensor *t)
{
	return fh_cu_errf(&ld->c->cu, r, ld->err, "%s: loading tensor %.*s", ld->c->name, (int)t->name.n, t->name.p);
}

static int fetch(struct loader *ld, const struct fh_tensor *t, const uint8_t *at, size_t bytes, void *to)
{
	const void *where;
	int rc = fh_gguf_fetch(ld->m->gguf, at, bytes, to, &where);

	if (rc)
		return fh_errf(ld->err, rc, "%s: cannot read tensor %.*s: %s", fh_gguf_path(ld->m->gguf),
			       (int)t->name.n, t->name.p,
			       rc == -ENODATA
				       ? "the file has become shorter; replace models by renaming, and start again"
				       : strerror(-rc));
	if (where != to)
		memcpy(to, where, bytes);
	return 0;
}

/* A stage whose last use is over; NULL with the error set. */
static struct stage *next_stage(struct loader *ld, const struct fh_tensor *t)
{
	struct stage *s = &ld->stage[ld->next++ % CUDA_STAGES];

	if (s->busy && failed(ld, ld->c->cu.EventSynchronize(s->done), t))
		return NULL;
	s->busy = false;
	return s;
}

static int end_stage(struct loader *ld, struct stage *s, const struct fh_tensor *t)
{
	s->busy = true;
	return failed(ld, ld->c->cu.EventRecord(s->done, ld->c->stream), t);
}

static void advance(struct loader *ld, uint64_t bytes)
{
	const struct fh_accel_config *cfg = &ld->c->cfg;

	ld->done += bytes;
	if (cfg->progress)
		cfg->progress(cfg->progress_ctx, ld->done, ld->total);
}

/* @rows rows of the file at @at to @dst: repacked, or (@cols == 0) as they are. */
static int send_rows(struct loader *ld, const struct fh_tensor *t, const uint8_t *at, size_t row_bytes, uint32_t rows,
		     uint32_t cols, cu_ptr dst, uint64_t unit_stride)
{
	uint32_t most = (uint32_t)(ld->stage_bytes / row_bytes / FHK_CU_ROWS * FHK_CU_ROWS);
	bool as_is = !cols || t->type == FHK_F32;
	struct fh_cuda *c = ld->c;

	for (uint32_t r = 0; r < rows; r += most) {
		uint32_t nr = rows - r < most ? rows - r : most;
		size_t bytes = nr * row_bytes;
		struct stage *s = next_stage(ld, t);
		struct fhk_cu_repack_args args;
		int rc;

		if (!s)
			return -EIO;
		rc = fetch(ld, t, at + r * row_bytes, bytes, s->host);
		if (rc)
			return rc;
		rc = failed(ld, c->cu.MemcpyHtoDAsync(as_is ? dst + r * row_bytes : s->dev, s->host, bytes, c->stream),
			    t);
		if (rc)
			return rc;
		args = (struct fhk_cu_repack_args){.src = s->dev,
						   .dst = dst + r / FHK_CU_ROWS * unit_stride,
						   .dst_stride = unit_stride,
						   .type = t->type,
						   .rows = nr,
						   .cols = cols};
		if (!as_is && cuda_launch(c, CUDA_K_fhk_cu_repack, fhk_cu_repack_grid(t->type, nr, cols), &args))
			return fh_errf(ld->err, -EIO, "%s: tensor %.*s could not be repacked", c->name, (int)t->name.n,
				       t->name.p);
		rc = end_stage(ld, s, t);
		if (rc)
			return rc;
		advance(ld, bytes);
	}
	return 0;
}

/* ---- tensors ---- */

/* Bytes of a row of @cols elements; 0, with the error filled in, for a type that the kernels cannot run. */
static size_t row_bytes_of(struct loader *ld, const struct fh_tensor *t, uint64_t cols, bool vector)
{
	const struct fhk_type_info *ti = fhk_type_info(t->type);

	if (!ti || (!vector && !fhk_cu_type_known(t->type))) {
		fh_errf(ld->err, -ENOTSUP,
			"%s: tensor %.*s has type %s, which the CUDA kernels cannot run; F32 F16 BF16 Q8_0 Q4_0 Q4_K "
			"Q5_K "
			"Q6_K MXFP4 can; --device cpu runs more",
			fh_gguf_path(ld->m->gguf), (int)t->name.n, t->name.p, ti ? ti->name : "unknown");
		return 0;
	}
	if (cols % ti->block_elems) {
		fh_errf(ld->err, -EINVAL, "%s: tensor %.*s: rows of %" PRIu64 " are no whole blocks of %s (%u)",
			fh_gguf_path(ld->m->gguf), (int)t->name.n, t->name.p, cols, ti->name, ti->block_elems);
		return 0;
	}
	return cols / ti->block_elems * ti->block_bytes;
}

/* @n floats of a small tensor, whatever its type, to @dst. */
static int send_vector(struct loader *ld, const struct fh_tensor *t, size_t n, cu_ptr dst)
{
	const struct fhk_type_info *ti = fhk_type_info(t->type);
	size_t most = ld->stage_bytes / sizeof(float) / 256 * 256;

	for (size_t i = 0; i < n; i += most) {
		size_t nr = n - i < most ? n - i : most, bytes = nr / ti->block_elems * ti->block_bytes;
		struct stage *s = next_stage(ld, t);
		int rc;

		if (!s)
			return -EIO;
		rc = fetch(ld, t, (const uint8_t *)t->data + i / ti->block_elems * ti->block_bytes, bytes, ld->raw);
		if (rc)
			return rc;
		fhk_dequant(t->type, ld->raw, (float *)s->host, nr);
		rc = failed(
			ld,
			ld->c->cu.MemcpyHtoDAsync(dst + i * sizeof(float), s->host, nr * sizeof(float), ld->c->stream),
			t);
		if (!rc)
			rc = end_stage(ld, s, t);
		if (rc)
			return rc;
	}
	return 0;
}

static size_t vector_len(const struct fh_tensor *t)
{
	size_t n = 1;

	for (uint32_t d = 0; t && d < t->nr_dims; d++)
		n *= t->ne[d];
	return n;
}

static int load_vector(struct loader *ld, const struct fh_tensor *t, size_t n, cu_ptr *out)
{
	size_t bytes;

	if (!t)
		return 0;
	bytes = row_bytes_of(ld, t, n, true);
	if (!bytes || bytes > t->bytes)
		return -ENOTSUP;
	*out = cuda_take(&ld->c->weights, sizeof(float) * n);
	return ld->fill ? send_vector(ld, t, n, *out) : 0;
}

/* What @lin looks like on the device, without its place there. */
static int plan_mat(struct loader *ld, const struct fh_linear *lin, struct cuda_mat *mat)
{
	size_t row_bytes = row_bytes_of(ld, lin->w, lin->cols, false);

	if (!row_bytes)
		return -ENOTSUP;
	if (ld->stage_bytes < row_bytes * FHK_CU_ROWS)
		ld->stage_bytes = row_bytes * FHK_CU_ROWS;
	if (!ld->fill)
		ld->total += (uint64_t)lin->rows * row_bytes * lin->nr_experts;
	*mat = (struct cuda_mat){.type = lin->w->type,
				 .rows = lin->rows,
				 .cols = lin->cols,
				 .nr_experts = lin->nr_experts,
				 .unit_stride = fhk_cu_unit_bytes(lin->w->type, lin->cols),
				 .expert_stride = fhk_cu_mat_bytes(lin->w->type, lin->rows, lin->cols)};
	return 0;
}

static int send_mat(struct loader *ld, const struct fh_linear *lin, const struct cuda_mat *mat, cu_ptr dst)
{
	size_t row_bytes = row_bytes_of(ld, lin->w, lin->cols, false);
	int rc = 0;

	for (uint32_t e = 0; e < lin->nr_experts && !rc; e++)
		rc = send_rows(ld, lin->w,
			       (const uint8_t *)lin->w->data + e * (lin->w->bytes / lin->nr_experts) +
				       lin->row0 * row_bytes,
			       row_bytes, lin->rows, lin->cols, dst + e * mat->expert_stride, mat->unit_stride);
	return rc;
}

static int load_mat(struct loader *ld, const struct fh_linear *lin, struct cuda_mat *mat)
{
	int rc;

	if (!lin->w)
		return 0;
	rc = plan_mat(ld, lin, mat);
	if (rc)
		return rc;
	mat->w = cuda_take(&ld->c->weights, mat->expert_stride * mat->nr_experts);
	rc = ld->fill ? send_mat(ld, lin, mat, mat->w) : 0;
	return rc ? rc : load_vector(ld, lin->bias, (size_t)lin->rows * lin->nr_experts, &mat->bias);
}

/* q, k and v may be multiplied at once: of one type, and each but the last whole units. */
static bool can_join(const struct fh_layer *l)
{
	return l->q.w->type == l->k.w->type && l->q.w->type == l->v.w->type && l->q.rows % FHK_CU_ROWS == 0 &&
	       l->k.rows % FHK_CU_ROWS == 0;
}

static int load_qkv(struct loader *ld, const struct fh_layer *l, struct cuda_layer *to)
{
	const struct fh_linear *lin[] = {&l->q, &l->k, &l->v};
	bool bias = l->q.bias || l->k.bias || l->v.bias;
	uint32_t rows = l->q.rows + l->k.rows + l->v.rows, row = 0;
	struct cuda_mat part;
	cu_ptr b;
	int rc = 0;

	to->joined = can_join(l);
	for (int i = 0; i < 3 && !rc && !to->joined; i++)
		rc = load_mat(ld, lin[i], &to->qkv[i]);
	if (rc || !to->joined)
		return rc;
	rc = plan_mat(ld, &l->q, &to->qkv[0]);
	if (rc)
		return rc;
	to->qkv[0].rows = rows;
	to->qkv[0].expert_stride = fhk_cu_mat_bytes(to->qkv[0].type, rows, l->q.cols);
	to->qkv[0].w = cuda_take(&ld->c->weights, to->qkv[0].expert_stride);
	b = to->qkv[0].bias = bias ? cuda_take(&ld->c->weights, sizeof(float) * rows) : 0;
	if (b && ld->fill)
		rc = failed(ld, ld->c->cu.MemsetD8Async(b, 0, sizeof(float) * rows, ld->c->stream), l->q.w);
	for (int i = 0; i < 3 && !rc; row += lin[i++]->rows) {
		/* The first has been counted; F32 has rows where the others have units. */
		if (i && !rc)
			rc = plan_mat(ld, lin[i], &part);
		if (rc || !ld->fill)
			continue;
		rc = send_mat(ld, lin[i], &to->qkv[0],
			      to->qkv[0].w + fhk_cu_mat_bytes(to->qkv[0].type, row, l->q.cols));
		if (!rc && lin[i]->bias)
			rc = send_vector(ld, lin[i]->bias, lin[i]->rows, b + sizeof(float) * row);
	}
	return rc;
}

/* The embedding's rows stay as the file has them. */
static int load_embedding(struct loader *ld)
{
	const struct fh_tensor *t = ld->m->token_embd;
	size_t row_bytes = row_bytes_of(ld, t, ld->m->dim, false);

	if (!row_bytes)
		return -ENOTSUP;
	if (ld->stage_bytes < row_bytes * FHK_CU_ROWS)
		ld->stage_bytes = row_bytes * FHK_CU_ROWS;
	if (!ld->fill)
		ld->total += row_bytes * ld->m->nr_vocab;
	ld->c->embd = cuda_take(&ld->c->weights, row_bytes * ld->m->nr_vocab);
	return ld->fill ? send_rows(ld, t, t->data, row_bytes, ld->m->nr_vocab, 0, ld->c->embd, 0) : 0;
}

static int load_freq(struct loader *ld)
{
	const struct fh_rope *r = &ld->m->rope;
	size_t bytes = sizeof(double) * r->nr_pairs;
	const double *freq = r->freq;

	if (r->freq_long && (uint64_t)ld->c->cfg.max_blocks_per_seq * FH_KV_BLOCK > r->ctx_long)
		freq = r->freq_long;
	ld->c->freq = cuda_take(&ld->c->weights, bytes);
	if (!ld->fill || !bytes)
		return 0;
	return cuda_send(ld->c, ld->c->freq, freq, bytes)
		       ? fh_errf(ld->err, -EIO, "%s: the rotary table could not be copied", ld->c->name)
		       : 0;
}

static int walk(struct loader *ld)
{
	struct fh_cuda *c = ld->c;
	int rc = load_embedding(ld);

	for (uint32_t i = 0; i < ld->m->nr_layers && !rc; i++) {
		const char *from = (const char *)&ld->m->layers[i];
		char *to = (char *)&c->layers[i];

		c->layers[i].window = ld->m->layers[i].window;
		for (size_t v = 0; v < NR(vectors) && !rc; v++) {
			const struct fh_tensor *t = *(const struct fh_tensor *const *)(from + vectors[v].from);

			rc = load_vector(ld, t, vector_len(t), (cu_ptr *)(to + vectors[v].to));
		}
		if (!rc)
			rc = load_qkv(ld, &ld->m->layers[i], &c->layers[i]);
		for (size_t l = 0; l < NR(linears) && !rc; l++)
			rc = load_mat(ld, (const struct fh_linear *)(from + linears[l].from),
				      (struct cuda_mat *)(to + linears[l].to));
	}
	if (!rc)
		rc = load_vector(ld, ld->m->output_norm, ld->m->dim, &c->output_norm);
	if (!rc)
		rc = load_mat(ld, &ld->m->output, &c->output);
	return rc ? rc : load_freq(ld);
}

/* ---- all of it ---- */

static int open_stages(struct loader *ld)
{
	struct fh_cuda *c = ld->c;
	int rc;

	ld->raw = malloc(ld->stage_bytes);
	if (!ld->raw)
		return fh_errf(ld->err, -ENOMEM, "out of memory");
	ld->staging.used = ld->stage_bytes * CUDA_STAGES;
	rc = cuda_arena_alloc(c, &ld->staging, "buffers for loading", ld->err);
	for (int i = 0; i < (int)CUDA_STAGES && !rc; i++) {
		struct stage *s = &ld->stage[i];

		s->dev = cuda_take(&ld->staging, ld->stage_bytes);
		rc = cuda_pinned(c, ld->stage_bytes, (void **)&s->host, NULL, "loading", ld->err);
		if (!rc)
			rc = fh_cu_errf(&c->cu, c->cu.EventCreate(&s->done, CU_EVENT_DISABLE_TIMING), ld->err,
					"%s: an event", c->name);
	}
	return rc;
}

static void close_stages(struct loader *ld)
{
	struct fh_cuda *c = ld->c;

	cuda_failed(c, c->cu.StreamSynchronize(c->stream), "loading");
	for (int i = 0; i < (int)CUDA_STAGES; i++) {
		if (ld->stage[i].done)
			cuda_failed(c, c->cu.EventDestroy(ld->stage[i].done), "an event");
		if (ld->stage[i].host)
			cuda_failed(c, c->cu.MemFreeHost(ld->stage[i].host), "giving pinned memory back");
	}
	cuda_arena_free(c, &ld->staging);
	free(ld->raw);
}

int cuda_load_weights(struct fh_cuda *c, const struct fh_model *m, struct fh_err *err)
{
	struct loader ld = {.c = c, .m = m, .err = err, .stage_bytes = CUDA_STAGE_BYTES};
	int rc = walk(&ld);

	if (rc)
		return rc;
	/* First, so that what cannot be had is known before minutes of reading. */
	rc = cuda_arena_alloc(c, &c->weights, "the weights", err);
	if (rc)
		return rc;
	rc = open_stages(&ld);
	ld.fill = true;
	if (!rc)
		rc = walk(&ld);
	if (!rc)
		rc = fh_cu_errf(&c->cu, c->cu.StreamSynchronize(c->stream), err, "%s: loading %s", c->name, m->name);
	close_stages(&ld);
	return rc;
}
