// SPDX-License-Identifier: Apache-2.0
/*
 * Rotary embedding: every scaling that files name, worked out into a table of
 * frequencies and a magnitude.
 *
 *   none, linear   freq / factor
 *   yarn           between the two, by wavelength (Peng et al., arXiv 2309.00071)
 *   llama3         rope_freqs.weight divides the frequencies
 *   longrope       rope_factors_{short,long}.weight do, by the context (arXiv 2402.13753)
 *
 * The tables belong to the model.
 */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "runtime/model/model_family.h"

struct scaling {
	double base, factor; /* positions are divided by factor */
	bool yarn;
	double beta_fast, beta_slow, orig_ctx;
};

/* Where in the table the wavelength makes @turns turns within the original context. */
static double yarn_pair(const struct scaling *s, uint32_t nr_dims, double turns)
{
	return nr_dims * log(s->orig_ctx / (turns * 2 * M_PI)) / (2 * log(s->base));
}

/* factors: [nr_pairs] f32, any alignment, or NULL. freq: [nr_pairs] */
static void fill_freqs(const struct scaling *s, uint32_t nr_pairs, const void *factors, double *freq)
{
	double low = floor(yarn_pair(s, 2 * nr_pairs, s->beta_fast));
	double high = ceil(yarn_pair(s, 2 * nr_pairs, s->beta_slow));

	low = fmax(low, 0);
	high = fmin(high, 2.0 * nr_pairs - 1);
	for (uint32_t i = 0; i < nr_pairs; i++) {
		double f = pow(s->base, -(double)i / nr_pairs), keep = 0;
		float div = 1;

		if (factors)
			memcpy(&div, (const char *)factors + 4ul * i, 4);
		f /= div;
		if (s->yarn) /* fast pairs stay as they are, slow ones are stretched */
			keep = 1 - fmin(fmax((i - low) / fmax(0.001, high - low), 0), 1);
		freq[i] = f / s->factor * (1 - keep) + f * keep;
	}
}

/* A tensor of nr_pairs positive numbers. */
static int factors_get(const struct fh_model *m, const char *name, const void **out, struct fh_err *err)
{
	const struct fh_tensor *t = fh_gguf_tensor(m->gguf, name);

	*out = NULL;
	if (!t)
		return 0;
	if (t->type != 0 || t->nr_dims != 1 || t->ne[0] != m->rope.nr_pairs)
		return fh_errf(err, -EINVAL, "%s: %s must be %u numbers in F32, half of %s.rope.dimension_count",
			       fh_gguf_path(m->gguf), name, m->rope.nr_pairs, m->arch);
	for (uint32_t i = 0; i < m->rope.nr_pairs; i++) {
		float f;

		memcpy(&f, (const char *)t->data + 4ul * i, 4);
		if (!(f > 1e-6f && f < 1e6f))
			return fh_errf(err, -EINVAL, "%s: %s[%u] is %g, not a sane rotary factor",
				       fh_gguf_path(m->gguf), name, i, (double)f);
	}
	*out = t->data;
	return 0;
}

static int read_scaling(struct fh_model *m, struct scaling *s, struct fh_err *err)
{
	float base = 10000, factor = 0, attn = 1, fast = 32, slow = 1, ext = 1;
	uint32_t orig = m->nr_ctx;
	struct fh_str type = {"linear", 6};
	char key[96];
	int rc = 0;

	rc = rc ?: fh_model_key_f32(m, "rope.freq_base", &base, err);
	rc = rc ?: fh_model_key_f32(m, "rope.scale_linear", &factor, err);
	rc = rc ?: fh_model_key_f32(m, "rope.scaling.factor", &factor, err);
	rc = rc ?: fh_model_key_u32(m, "rope.scaling.original_context_length", &orig, err);
	rc = rc ?: fh_model_key_f32(m, "rope.scaling.attn_factor", &attn, err);
	rc = rc ?: fh_model_key_f32(m, "rope.scaling.yarn_attn_factor", &attn, err);
	rc = rc ?: fh_model_key_f32(m, "rope.scaling.yarn_ext_factor", &ext, err);
	rc = rc ?: fh_model_key_f32(m, "rope.scaling.yarn_beta_fast", &fast, err);
	rc = rc ?: fh_model_key_f32(m, "rope.scaling.yarn_beta_slow", &slow, err);
	if (rc)
		return rc;
	snprintf(key, sizeof(key), "%s.rope.scaling.type", m->arch);
	fh_gguf_str(m->gguf, key, &type);
	factor = factor == 0 ? 1 : factor; /* files write 0 for none */
	if (!(base > 1 && base < 1e12f) || !(factor >= 1e-3f && factor < 1e6f) || !(attn > 1e-3f && attn < 1e3f) ||
	    !(fast > 0 && fast < 1e6f) || !(slow > 0 && slow < 1e6f) || orig == 0)
		return fh_errf(err, -EINVAL, "%s: one of %s.rope.freq_base and %s.rope.scaling.* is out of bounds",
			       fh_gguf_path(m->gguf), m->arch, m->arch);
	*s = (struct scaling){base, factor, false, fast, slow, orig};
	m->rope.mscale = attn;
	m->rope.ctx_long = orig;
	if (type.n == 4 && !memcmp(type.p, "none", 4)) {
		s->factor = 1;
	} else if (type.n == 4 && !memcmp(type.p, "yarn", 4)) {
		if (ext != 1)
			return fh_errf(err, -ENOTSUP, "%s: %s.rope.scaling.yarn_ext_factor is %g; only 1 can be run",
				       fh_gguf_path(m->gguf), m->arch, (double)ext);
		s->yarn = true;
		m->rope.mscale *= (float)(1 + 0.1 * log(factor));
	} else if (type.n == 8 && !memcmp(type.p, "longrope", 8)) {
		s->factor = 1; /* the factor tensors say it all */
	} else if (type.n != 6 || memcmp(type.p, "linear", 6)) {
		return fh_errf(err, -ENOTSUP,
			       "%s: %s is \"%.*s\"; none, linear, yarn and longrope (and rope_freqs.weight) can be run",
			       fh_gguf_path(m->gguf), key, (int)(type.n < 64 ? type.n : 64), type.p);
	}
	return 0;
}

int fh_model_rope(struct fh_model *m, const struct fh_family *fam, struct fh_err *err)
{
	const void *factors, *factors_long;
	uint32_t nr_dims = m->head_dim;
	struct scaling s;
	double *freq;
	int rc;

	rc = fh_model_key_u32(m, "rope.dimension_count", &nr_dims, err);
	if (rc)
		return rc;
	if (nr_dims < 2 || nr_dims > m->head_dim || nr_dims % 2)
		return fh_errf(err, -EINVAL, "%s: %s.rope.dimension_count is %u; it must be even, 2 to %u (the head)",
			       fh_gguf_path(m->gguf), m->arch, nr_dims, m->head_dim);
	m->rope.nr_pairs = nr_dims / 2;
	m->rope.interleaved = fam->has & FAM_INTERLEAVED;
	rc = read_scaling(m, &s, err);
	if (!rc)
		rc = factors_get(m, "rope_factors_long.weight", &factors_long, err);
	if (!rc)
		rc = factors_get(m, factors_long ? "rope_factors_short.weight" : "rope_freqs.weight", &factors, err);
	if (rc)
		return rc;
	if (factors_long && !factors)
		return fh_errf(err, -EINVAL, "%s: rope_factors_long.weight has no rope_factors_short.weight beside it",
			       fh_gguf_path(m->gguf));
	freq = calloc(2ul * m->rope.nr_pairs, sizeof(*freq));
	if (!freq)
		return fh_errf(err, -ENOMEM, "out of memory");
	fill_freqs(&s, m->rope.nr_pairs, factors, freq);
	m->rope.freq = freq;
	if (factors_long) {
		fill_freqs(&s, m->rope.nr_pairs, factors_long, freq + m->rope.nr_pairs);
		m->rope.freq_long = freq + m->rope.nr_pairs;
	}
	return 0;
}
