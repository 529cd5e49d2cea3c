// SPDX-License-Identifier: Apache-2.0
/*
 * From a GGUF file to a model's description: read the hyper-parameters, hold
 * each of them to sane bounds, then find every tensor and hold its shape to
 * the hyper-parameters.
 *
 * The file is untrusted.  Bounds on every size (MAX_*) come first, so that no
 * product of two of them overflows later.  A tensor that no rule names is an
 * error: to ignore it would be to compute something else than was published.
 */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "runtime/model/model_family.h"

#define MAX_DIM (1u << 18)
#define MAX_HEAD_DIM 256u
#define MAX_HEADS 4096u
#define MAX_FFN (1u << 20)
#define MAX_EXPERTS 1024u
#define MAX_LAYERS 1024u
#define MAX_VOCAB (1u << 22)
#define MAX_CTX (1u << 27)

#define NULL_CTX (1u << 20) /* tokens that a sequence of the null model may hold */

static const char *path_of(const struct fh_model *m)
{
	return fh_gguf_path(m->gguf);
}

static int key_error(const struct fh_model *m, const char *key, const char *want, struct fh_err *err)
{
	return fh_errf(err, -EINVAL, "%s: key %s.%s is not %s", path_of(m), m->arch, key, want);
}

/* A number, or an array of the same number for every layer. */
int fh_model_key_u32(const struct fh_model *m, const char *key, uint32_t *v, struct fh_err *err)
{
	struct fh_gguf_arr arr;
	char full[128];
	int64_t first;
	int rc;

	snprintf(full, sizeof(full), "%s.%s", m->arch, key);
	rc = fh_gguf_u32(m->gguf, full, v);
	if (!rc || rc == -ENOENT)
		return 0;
	if (fh_gguf_arr(m->gguf, full, &arr) || arr.type == FH_GGUF_STR || arr.type == FH_GGUF_ARR ||
	    arr.type == FH_GGUF_F32 || arr.type == FH_GGUF_F64 || !arr.n)
		return key_error(m, key, "a number that fits 32 bits", err);
	first = fh_gguf_arr_i64(&arr, 0);
	for (uint64_t i = 1; i < arr.n; i++)
		if (fh_gguf_arr_i64(&arr, i) != first)
			return fh_errf(
				err, -ENOTSUP,
				"%s: key %s.%s differs between layers; only models whose layers are alike can be run",
				path_of(m), m->arch, key);
	if (first < 0 || first > UINT32_MAX)
		return key_error(m, key, "a number that fits 32 bits", err);
	*v = (uint32_t)first;
	return 0;
}

int fh_model_key_f32(const struct fh_model *m, const char *key, float *v, struct fh_err *err)
{
	char full[128];
	float f;
	int rc;

	snprintf(full, sizeof(full), "%s.%s", m->arch, key);
	rc = fh_gguf_f32(m->gguf, full, &f);
	if (rc == -ENOENT)
		return 0;
	if (rc || !isfinite(f))
		return key_error(m, key, "a finite number", err);
	*v = f;
	return 0;
}

/* Read a size and hold it to min..max. @dflt 0: the key must be there. */
static int size_get(const struct fh_model *m, const char *key, uint32_t dflt, uint32_t min, uint32_t max, uint32_t *v,
		    struct fh_err *err)
{
	int rc;

	*v = dflt;
	rc = fh_model_key_u32(m, key, v, err);
	if (rc)
		return rc;
	if (!dflt && !*v && min)
		return fh_errf(err, -EINVAL, "%s: key %s.%s is missing or 0", path_of(m), m->arch, key);
	if (*v < min || *v > max)
		return fh_errf(err, -EINVAL, "%s: key %s.%s is %u; %u to %u can be run", path_of(m), m->arch, key, *v,
			       min, max);
	return 0;
}

/* Keys that would change the arithmetic in a way that no field of ours says. */
static int refuse_keys(const struct fh_model *m, struct fh_err *err)
{
	uint32_t gating = 0;
	float clamp = 0, scale = 0;
	bool causal = true;
	char key[96];
	int rc = 0;

	snprintf(key, sizeof(key), "%s.attention.causal", m->arch);
	fh_gguf_bool(m->gguf, key, &causal);
	rc = rc ?: fh_model_key_f32(m, "attention.clamp_kqv", &clamp, err);
	rc = rc ?: fh_model_key_f32(m, "expert_weights_scale", &scale, err);
	rc = rc ?: fh_model_key_u32(m, "expert_gating_func", &gating, err);
	if (rc)
		return rc;
	if (!causal)
		return fh_errf(err, -ENOTSUP, "%s: %s is false; only causal (generating) models can be run", path_of(m),
			       key);
	if (clamp != 0)
		return fh_errf(err, -ENOTSUP, "%s: %s.attention.clamp_kqv is %g; only 0 can be run", path_of(m),
			       m->arch, (double)clamp);
	if (scale != 0 && scale != 1)
		return fh_errf(err, -ENOTSUP, "%s: %s.expert_weights_scale is %g; only 1 can be run", path_of(m),
			       m->arch, (double)scale);
	if (gating != 0 && gating != 1 && gating != 3)
		return fh_errf(err, -ENOTSUP, "%s: %s.expert_gating_func is %u; only softmax (1, 3) can be run",
			       path_of(m), m->arch, gating);
	return 0;
}

static int read_sizes(struct fh_model *m, const struct fh_family *fam, struct fh_err *err)
{
	bool may_moe = !(fam->has & FAM_MOE_NEVER), must_moe = fam->has & FAM_MOE_ONLY;
	uint32_t value_length, ffn, ctx;
	int rc = 0;

	rc = rc ?: size_get(m, "embedding_length", 0, 8, MAX_DIM, &m->dim, err);
	rc = rc ?: size_get(m, "block_count", 0, 1, MAX_LAYERS, &m->nr_layers, err);
	rc = rc ?: size_get(m, "context_length", 0, 1, MAX_CTX, &ctx, err);
	rc = rc ?: size_get(m, "attention.head_count", 0, 1, MAX_HEADS, &m->nr_heads, err);
	if (rc)
		return rc;
	m->nr_ctx = ctx;
	rc = rc ?: size_get(m, "attention.head_count_kv", m->nr_heads, 1, m->nr_heads, &m->nr_kv_heads, err);
	rc = rc ?: size_get(m, "attention.key_length", m->dim / m->nr_heads, 8, MAX_HEAD_DIM, &m->head_dim, err);
	rc = rc ?: size_get(m, "attention.value_length", m->head_dim, 8, MAX_HEAD_DIM, &value_length, err);
	rc = rc ?: size_get(m, "expert_count", 0, must_moe, may_moe ? MAX_EXPERTS : 0, &m->nr_experts, err);
	rc = rc ?: size_get(m, "feed_forward_length", 0, m->nr_experts == 0, MAX_FFN, &ffn, err);
	if (rc)
		return rc;
	if (m->head_dim % 8)
		return fh_errf(err, -ENOTSUP, "%s: key %s.attention.key_length is %u; only multiples of 8 can be run",
			       path_of(m), m->arch, m->head_dim);
	if (value_length != m->head_dim)
		return fh_errf(err, -ENOTSUP,
			       "%s: %s.attention.value_length is %u and key_length %u; only equal ones can be run",
			       path_of(m), m->arch, value_length, m->head_dim);
	if (m->nr_heads % m->nr_kv_heads)
		return fh_errf(err, -EINVAL, "%s: %s.attention.head_count %u is no multiple of head_count_kv %u",
			       path_of(m), m->arch, m->nr_heads, m->nr_kv_heads);
	if (m->nr_experts) {
		rc = rc ?: size_get(m, "expert_used_count", 0, 1, m->nr_experts, &m->nr_experts_used, err);
		rc = rc ?: size_get(m, "expert_feed_forward_length", ffn, 1, MAX_FFN, &m->expert_ffn_dim, err);
		if (fam->has & FAM_SHARED_EXPERT)
			rc = rc
				     ?: size_get(m, "expert_shared_feed_forward_length", ffn, 1, MAX_FFN,
						 &m->shared_ffn_dim, err);
	} else {
		m->ffn_dim = ffn;
	}
	return rc;
}

static int read_numbers(struct fh_model *m, const struct fh_family *fam, struct fh_err *err)
{
	bool wide = fam->wide_scale_layers && m->nr_layers == fam->wide_scale_layers;
	bool norm = fam->gating == FH_GATING_SOFTMAX_NORM;
	char key[96];
	int rc = 0;

	m->glu = fam->glu;
	m->embd_scale = fam->has & FAM_EMBD_SQRT ? sqrtf((float)m->dim) : 1;
	m->attn_scale = 1 / sqrtf(wide ? (float)m->dim / (float)m->nr_heads : (float)m->head_dim);
	rc = rc ?: fh_model_key_f32(m, "attention.layer_norm_rms_epsilon", &m->norm_eps, err);
	rc = rc ?: fh_model_key_f32(m, "attention.scale", &m->attn_scale, err);
	rc = rc ?: fh_model_key_f32(m, "attn_logit_softcapping", &m->attn_softcap, err);
	rc = rc ?: fh_model_key_f32(m, "final_logit_softcapping", &m->final_softcap, err);
	if (rc)
		return rc;
	if (!(m->norm_eps > 0 && m->norm_eps < 1))
		return fh_errf(err, -EINVAL, "%s: key %s.attention.layer_norm_rms_epsilon is missing or not in 0..1",
			       path_of(m), m->arch);
	if (!(m->attn_scale > 0) || m->attn_softcap < 0 || m->final_softcap < 0)
		return fh_errf(err, -EINVAL,
			       "%s: one of %s.attention.scale, attn_logit_softcapping and "
			       "final_logit_softcapping is negative",
			       path_of(m), m->arch);
	snprintf(key, sizeof(key), "%s.expert_weights_norm", m->arch);
	fh_gguf_bool(m->gguf, key, &norm);
	m->gating = norm ? FH_GATING_SOFTMAX_NORM : FH_GATING_SOFTMAX;
	return refuse_keys(m, err);
}

/* Which layers see only a window.  The pattern's key is a period, or one bool a layer. */
static int read_windows(struct fh_model *m, const struct fh_family *fam, struct fh_err *err)
{
	uint32_t window = fam->window_default, period = fam->window_period;
	struct fh_gguf_arr arr;
	bool has_arr = false;
	char key[128];
	int rc;

	rc = fh_model_key_u32(m, "attention.sliding_window", &window, err);
	if (rc)
		return rc;
	snprintf(key, sizeof(key), "%s.attention.sliding_window_pattern", m->arch);
	if (!fh_gguf_arr(m->gguf, key, &arr)) {
		if (arr.n < m->nr_layers || arr.type == FH_GGUF_STR || arr.type == FH_GGUF_ARR ||
		    arr.type == FH_GGUF_F32 || arr.type == FH_GGUF_F64)
			return fh_errf(err, -EINVAL, "%s: key %s is not one bool for each of %u layers", path_of(m),
				       key, m->nr_layers);
		has_arr = true;
	} else {
		rc = fh_model_key_u32(m, "attention.sliding_window_pattern", &period, err);
		if (rc)
			return rc;
	}
	for (uint32_t i = 0; i < m->nr_layers; i++) {
		bool on = has_arr ? fh_gguf_arr_i64(&arr, i) != 0 : period < 2 || i % period != period - 1;

		m->layers[i].window = on ? window : 0;
	}
	return 0;
}

static uint32_t dim_of(const struct fh_model *m, enum fh_dim d)
{
	uint32_t q = m->nr_heads * m->head_dim, kv = m->nr_kv_heads * m->head_dim;

	switch (d) {
	case D_ONE: return 1;
	case D_DIM: return m->dim;
	case D_Q: return q;
	case D_KV: return kv;
	case D_QKV: return q + 2 * kv;
	case D_HEAD: return m->head_dim;
	case D_NR_HEADS: return m->nr_heads;
	case D_FFN: return m->ffn_dim;
	case D_FFN2: return 2 * m->ffn_dim;
	case D_EXPERTS: return m->nr_experts;
	case D_EXPERT_FFN: return m->expert_ffn_dim;
	case D_SHARED_FFN: return m->shared_ffn_dim;
	}
	return 0;
}

static uint64_t ne(const struct fh_tensor *t, unsigned int i)
{
	return i < t->nr_dims ? t->ne[i] : 1;
}

/* Is @t of shape [a, b, c], a contiguous? Files write trailing ones or leave them out. */
static int check_shape(const struct fh_model *m, const struct fh_tensor *t, uint64_t a, uint64_t b, uint64_t c,
		       struct fh_err *err)
{
	if (ne(t, 0) == a && ne(t, 1) == b && ne(t, 2) == c && ne(t, 3) == 1)
		return 0;
	return fh_errf(err, -EINVAL,
		       "%s: tensor %.*s is %llu x %llu x %llu x %llu; the file's own keys make it %llu x %llu x %llu",
		       path_of(m), (int)t->name.n, t->name.p, (unsigned long long)ne(t, 0),
		       (unsigned long long)ne(t, 1), (unsigned long long)ne(t, 2), (unsigned long long)ne(t, 3),
		       (unsigned long long)a, (unsigned long long)b, (unsigned long long)c);
}

/* Fill in one field of a layer by its rule, if the file has the tensor. */
static int apply_rule(struct fh_model *m, struct fh_layer *l, uint32_t index, const struct fh_rule *r, uint32_t has,
		      struct fh_err *err)
{
	uint32_t rows = dim_of(m, r->rows), cols = dim_of(m, r->cols), experts = dim_of(m, r->experts);
	void *field = (char *)l + r->offset;
	const struct fh_tensor *t;
	struct fh_linear *lin = field;
	char name[96];

	if (!(has & (r->need | r->allow)))
		return 0;
	snprintf(name, sizeof(name), "blk.%u.%s", index, r->name);
	t = fh_gguf_tensor(m->gguf, name);
	if (!t) {
		if (has & r->need)
			return fh_errf(err, -EINVAL, "%s: tensor %s is missing; a file of architecture %s must have it",
				       path_of(m), name, m->arch);
		return 0;
	}
	switch (r->kind) {
	case R_VECTOR: *(const struct fh_tensor **)field = t; return check_shape(m, t, rows, 1, 1, err);
	case R_BIAS: lin->bias = t; return check_shape(m, t, rows, experts, 1, err);
	case R_LINEAR:
		lin->w = t;
		lin->rows = rows;
		lin->cols = cols;
		lin->nr_experts = experts;
		return check_shape(m, t, cols, rows, experts, err);
	}
	return 0;
}

/* Rows @row0.. of the tensor that @whole maps with. */
static void take_rows(struct fh_linear *part, const struct fh_linear *whole, uint32_t row0, uint32_t rows)
{
	part->w = whole->w;
	part->cols = whole->cols;
	part->nr_experts = whole->nr_experts;
	part->row0 = row0;
	part->rows = rows;
}

static int read_layers(struct fh_model *m, const struct fh_family *fam, uint32_t has, struct fh_err *err)
{
	uint32_t q = dim_of(m, D_Q), kv = dim_of(m, D_KV);
	int rc;

	for (uint32_t i = 0; i < m->nr_layers; i++) {
		struct fh_layer *l = &m->layers[i];

		for (unsigned int r = 0; r < fh_nr_layer_rules; r++) {
			rc = apply_rule(m, l, i, &fh_layer_rules[r], has, err);
			if (rc)
				return rc;
		}
		if (has & FILE_FUSED_QKV) {
			take_rows(&l->k, &l->q, q, kv);
			take_rows(&l->v, &l->q, q + kv, kv);
			l->q.rows = q;
		}
		if (has & FAM_FUSED_GLU) {
			take_rows(&l->up, &l->gate, m->ffn_dim, m->ffn_dim);
			l->gate.rows = m->ffn_dim;
		}
	}
	return read_windows(m, fam, err);
}

static int read_globals(struct fh_model *m, struct fh_err *err)
{
	const struct fh_tensor *embd = fh_gguf_tensor(m->gguf, "token_embd.weight");
	const struct fh_tensor *out = fh_gguf_tensor(m->gguf, "output.weight");
	const struct fh_tensor *norm = fh_gguf_tensor(m->gguf, "output_norm.weight");
	struct fh_gguf_arr tokens;
	int rc;

	if (!embd || !norm)
		return fh_errf(err, -EINVAL,
			       "%s: tensor %s is missing; this may be a file with a vocabulary only, "
			       "which serves as null:%s",
			       path_of(m), embd ? "output_norm.weight" : "token_embd.weight", path_of(m));
	if (ne(embd, 1) < 1 || ne(embd, 1) > MAX_VOCAB)
		return fh_errf(err, -EINVAL, "%s: tensor token_embd.weight has %llu rows; 1 to %u can be run",
			       path_of(m), (unsigned long long)ne(embd, 1), MAX_VOCAB);
	m->nr_vocab = (uint32_t)ne(embd, 1);
	if (!fh_gguf_arr(m->gguf, "tokenizer.ggml.tokens", &tokens) && tokens.n > m->nr_vocab)
		return fh_errf(err, -EINVAL, "%s: tokenizer.ggml.tokens has %llu tokens, but token_embd.weight only %u",
			       path_of(m), (unsigned long long)tokens.n, m->nr_vocab);
	m->tied = !out;
	m->token_embd = embd;
	m->output_norm = norm;
	m->output = (struct fh_linear){
		.w = out ? out : embd,
		.rows = m->nr_vocab,
		.cols = m->dim,
		.nr_experts = 1,
	};
	rc = check_shape(m, embd, m->dim, m->nr_vocab, 1, err);
	rc = rc ?: check_shape(m, m->output.w, m->dim, m->nr_vocab, 1, err);
	return rc ?: check_shape(m, norm, m->dim, 1, 1, err);
}

static bool str_is(struct fh_str s, const char *lit)
{
	return s.n == strlen(lit) && !memcmp(s.p, lit, s.n);
}

/* Does any rule, or the reader of globals and rotary factors, look at a tensor of this name? */
static bool is_known(const struct fh_model *m, struct fh_str name, uint32_t has)
{
	static const char *const globals[] = {
		"token_embd.weight", "output_norm.weight",	 "output.weight",
		"rope_freqs.weight", "rope_factors_long.weight", "rope_factors_short.weight",
	};
	struct fh_str rest = name;
	uint32_t layer = 0, digits = 0;

	for (unsigned int i = 0; i < sizeof(globals) / sizeof(globals[0]); i++)
		if (str_is(name, globals[i]))
			return true;
	if (name.n < 4 || memcmp(name.p, "blk.", 4))
		return false;
	for (rest.p += 4, rest.n -= 4; rest.n && *rest.p >= '0' && *rest.p <= '9' && digits < 6; rest.p++, rest.n--) {
		layer = layer * 10 + (uint32_t)(*rest.p - '0');
		digits++;
	}
	if (!digits || layer >= m->nr_layers || !rest.n || *rest.p != '.')
		return false;
	rest.p++;
	rest.n--;
	if (str_is(rest, "attn_rot_embd.weight") || str_is(rest, "rope_freqs.weight"))
		return true; /* old converters left a copy of the frequencies in each layer */
	for (unsigned int r = 0; r < fh_nr_layer_rules; r++)
		if ((has & (fh_layer_rules[r].need | fh_layer_rules[r].allow)) && str_is(rest, fh_layer_rules[r].name))
			return true;
	return false;
}

static int refuse_leftovers(struct fh_model *m, uint32_t has, struct fh_err *err)
{
	for (uint64_t i = 0; i < fh_gguf_nr_tensors(m->gguf); i++) {
		const struct fh_tensor *t = fh_gguf_tensor_at(m->gguf, i);

		if (!is_known(m, t->name, has))
			return fh_errf(err, -ENOTSUP,
				       "%s: tensor %.*s has no place in the architecture %s as we run it; "
				       "results without it would be wrong",
				       path_of(m), (int)(t->name.n < 128 ? t->name.n : 128), t->name.p, m->arch);
		for (uint64_t n = 1, d = 0; d < 4; d++) {
			n *= ne(t, (unsigned int)d);
			m->nr_params += d == 3 ? n : 0;
		}
	}
	return 0;
}

static void set_name(struct fh_model *m)
{
	const char *path = path_of(m), *slash = strrchr(path, '/');
	struct fh_str s;

	if (fh_gguf_str(m->gguf, "general.name", &s) || !s.n) {
		s.p = slash ? slash + 1 : path;
		s.n = strlen(s.p);
	}
	snprintf(m->name, sizeof(m->name), "%.*s", (int)(s.n < sizeof(m->name) ? s.n : sizeof(m->name) - 1), s.p);
	for (char *c = m->name; *c; c++)
		if ((unsigned char)*c < ' ' || *c == 0x7f)
			*c = '?';
}

static int fill(struct fh_model *m, struct fh_err *err)
{
	const struct fh_family *fam;
	struct fh_str arch;
	uint32_t has;
	int rc;

	rc = fh_gguf_str(m->gguf, "general.architecture", &arch);
	if (rc)
		return fh_errf(err, -EINVAL, "%s: key general.architecture is missing", path_of(m));
	fam = fh_family_find(arch);
	if (!fam)
		return fh_errf(err, -ENOTSUP, "%s: architecture \"%.*s\" cannot be run; these can: %s", path_of(m),
			       (int)(arch.n < 64 ? arch.n : 64), arch.p, fh_model_families());
	m->arch = fam->arch;
	set_name(m);
	rc = read_sizes(m, fam, err);
	rc = rc ?: read_numbers(m, fam, err);
	rc = rc ?: read_globals(m, err);
	if (rc)
		return rc;
	m->layers = calloc(m->nr_layers, sizeof(*m->layers));
	if (!m->layers)
		return fh_errf(err, -ENOMEM, "out of memory");
	has = fam->has | FAM_ALWAYS;
	has |= fh_gguf_tensor(m->gguf, "blk.0.attn_qkv.weight") ? FILE_FUSED_QKV : FILE_SPLIT_QKV;
	has |= m->nr_experts ? FILE_EXPERTS : FILE_DENSE;
	has |= !m->nr_experts && !(fam->has & FAM_FUSED_GLU) ? FILE_GATE : 0;
	rc = read_layers(m, fam, has, err);
	rc = rc ?: fh_model_rope(m, fam, err);
	return rc ?: refuse_leftovers(m, has, err);
}

int fh_model_from_gguf(struct fh_gguf *g, struct fh_model **out, struct fh_err *err)
{
	struct fh_model *m = calloc(1, sizeof(*m));
	int rc;

	if (!m)
		return fh_errf(err, -ENOMEM, "out of memory");
	m->gguf = g;
	rc = fill(m, err);
	if (rc) {
		m->gguf = NULL; /* the caller's still */
		fh_model_close(m);
		return rc;
	}
	*out = m;
	return 0;
}

int fh_model_open(const char *path, struct fh_model **out, struct fh_err *err)
{
	struct fh_gguf *g;
	int rc;

	if (!strncmp(path, "null:", 5))
		return fh_model_open_null(path + 5, out, err);
	rc = fh_gguf_open(path, &g, err);
	if (rc)
		return rc;
	rc = fh_model_from_gguf(g, out, err);
	if (rc)
		fh_gguf_close(g);
	return rc;
}

int fh_model_open_null(const char *path, struct fh_model **out, struct fh_err *err)
{
	struct fh_gguf_arr tokens;
	struct fh_model *m;
	int rc;

	m = calloc(1, sizeof(*m));
	if (!m)
		return fh_errf(err, -ENOMEM, "out of memory");
	rc = fh_gguf_open(path, &m->gguf, err);
	if (rc)
		goto err_close;
	rc = -EINVAL;
	if (fh_gguf_arr(m->gguf, "tokenizer.ggml.tokens", &tokens) || !tokens.n || tokens.n > MAX_VOCAB) {
		fh_errf(err, rc, "%s: tokenizer.ggml.tokens is not a list of 1 to %u tokens", path, MAX_VOCAB);
		goto err_close;
	}
	m->null = true;
	m->arch = "null";
	m->nr_vocab = (uint32_t)tokens.n;
	m->nr_ctx = NULL_CTX;
	set_name(m);
	*out = m;
	return 0;

err_close:
	fh_model_close(m);
	return rc;
}

void fh_model_close(struct fh_model *m)
{
	if (!m)
		return;
	if (m->gguf)
		fh_gguf_close(m->gguf);
	free((void *)m->rope.freq);
	free(m->layers);
	free(m);
}
