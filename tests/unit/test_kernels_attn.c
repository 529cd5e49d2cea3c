// SPDX-License-Identifier: Apache-2.0
/*
 * Attention in every table: against a plain sum in double precision, and bit
 * for bit against itself however queries and contexts are cut up.
 *
 * Blocks are filled with 0xff (NaN in every type) before they are used, so that
 * a slot which nobody wrote cannot be read unnoticed.
 */
#include "tests/unit/kernels_util.h"

struct setup {
	const struct fhk_ops *k;
	uint32_t kv_type, head_dim, nr_group, len, window;
	float softcap;
	bool sinks;
	void **kb, **vb;
	uint32_t nr_blocks;
	float *keys, *values; /* [len, head_dim] as the cache rounds them */
	float *q;	      /* [len, nr_group, head_dim] */
	float sink[16];
	void *scratch;
};

static struct fhk_attn attn_of(const struct setup *s, uint32_t pos0, uint32_t nr_q, uint32_t split, uint32_t nr_splits,
			       float *out)
{
	size_t ld = (size_t)s->nr_group * s->head_dim;

	return (struct fhk_attn){
		.q = s->q + pos0 * ld,
		.q_ld = ld,
		.nr_q = nr_q,
		.pos0 = pos0,
		.nr_group = s->nr_group,
		.head_dim = s->head_dim,
		.kv_type = s->kv_type,
		.window = s->window,
		.scale = 1.0f / sqrtf(s->head_dim),
		.softcap = s->softcap,
		.sinks = s->sinks ? s->sink : NULL,
		.k = (const void *const *)s->kb,
		.v = (const void *const *)s->vb,
		.split = split,
		.nr_splits = nr_splits,
		.out = out,
		.out_ld = ld,
		.partial = out,
		.scratch = s->scratch,
	};
}

/* What the cache keeps of a vector */
static void round_kv(uint32_t kv_type, float *x, uint32_t n)
{
	for (uint32_t c = 0; c < n; c += 32) {
		uint32_t end = c + 32 < n ? c + 32 : n;
		float max = 0, d;

		for (uint32_t i = c; i < end; i++)
			max = fmaxf(max, fabsf(x[i]));
		d = fhk_f16_f32(fhk_f32_f16(max / 127));
		for (uint32_t i = c; i < end; i++) {
			if (kv_type == FHK_F16)
				x[i] = fhk_f16_f32(fhk_f32_f16(x[i]));
			else if (kv_type == FHK_BF16)
				x[i] = fhk_bf16_f32(fhk_f32_bf16(x[i]));
			else if (kv_type == FHK_Q8_0)
				x[i] = d > 0 ? fmaxf(fminf(rintf(x[i] * (1 / d)), 127), -127) * d : 0;
		}
	}
}

static void setup_open(struct setup *s)
{
	uint32_t hd = s->head_dim;
	size_t bytes = s->k->kv_head_bytes(s->kv_type, hd), n = (size_t)s->len * hd;

	s->nr_blocks = (s->len + FHK_KV_BLOCK - 1) / FHK_KV_BLOCK;
	s->kb = take(s->nr_blocks * sizeof(void *));
	s->vb = take(s->nr_blocks * sizeof(void *));
	cr_assert_eq(bytes % FHK_ALIGN, 0);
	for (uint32_t i = 0; i < s->nr_blocks; i++) {
		s->kb[i] = memset(take(bytes), 0xff, bytes);
		s->vb[i] = memset(take(bytes), 0xff, bytes);
	}
	s->keys = take(n * sizeof(float));
	s->values = take(n * sizeof(float));
	s->q = take(n * s->nr_group * sizeof(float));
	rnd_floats(s->keys, n, 2);
	rnd_floats(s->values, n, 1);
	rnd_floats(s->q, n * s->nr_group, 2);
	rnd_floats(s->sink, COUNT(s->sink), 3);
	for (uint32_t p = 0; p < s->len; p++) {
		s->k->kv_append(s->kv_type, hd, p % FHK_KV_BLOCK, s->kb[p / FHK_KV_BLOCK], s->vb[p / FHK_KV_BLOCK],
				s->keys + p * hd, s->values + p * hd);
		round_kv(s->kv_type, s->keys + p * hd, hd);
		round_kv(s->kv_type, s->values + p * hd, hd);
	}
	s->scratch = take(s->k->attn_scratch_bytes(s->len, s->nr_group, hd));
}

static void setup_close(struct setup *s)
{
	for (uint32_t i = 0; i < s->nr_blocks; i++) {
		free(s->kb[i]);
		free(s->vb[i]);
	}
	free(s->kb);
	free(s->vb);
	free(s->keys);
	free(s->values);
	free(s->q);
	free(s->scratch);
}

static void oracle(const struct setup *s, uint32_t pos, uint32_t g, double *out)
{
	uint32_t hd = s->head_dim, from = s->window && pos + 1 > s->window ? pos + 1 - s->window : 0;
	const float *q = s->q + ((size_t)pos * s->nr_group + g) * hd;
	double *scores = calloc(s->len, sizeof(double)), max = s->sinks ? s->sink[g] : -INFINITY, sum;

	for (uint32_t p = from; p <= pos; p++) {
		for (uint32_t c = 0; c < hd; c++)
			scores[p] += (double)q[c] * s->keys[p * hd + c];
		scores[p] /= sqrt(hd);
		if (s->softcap > 0)
			scores[p] = s->softcap * tanh(scores[p] / s->softcap);
		max = fmax(max, scores[p]);
	}
	sum = s->sinks ? exp(s->sink[g] - max) : 0;
	memset(out, 0, hd * sizeof(*out));
	for (uint32_t p = from; p <= pos; p++) {
		double w = exp(scores[p] - max);

		sum += w;
		for (uint32_t c = 0; c < hd; c++)
			out[c] += w * s->values[p * hd + c];
	}
	for (uint32_t c = 0; c < hd; c++)
		out[c] /= sum;
	free(scores);
}

/* Attend to positions pos0.. in @nr_splits splits; with @keep, as partials even if one would do. */
static void run(const struct setup *s, uint32_t pos0, uint32_t nr_q, uint32_t nr_splits, float *out)
{
	size_t ld = (size_t)s->nr_group * s->head_dim, part = (size_t)nr_q * s->nr_group * (s->head_dim + 2);
	float *partial = take(nr_splits * part * sizeof(float));

	for (uint32_t i = 0; i < nr_splits; i++) {
		struct fhk_attn a = attn_of(s, pos0, nr_q, i, nr_splits, out);

		a.partial = partial + i * part;
		s->k->attn(&a);
	}
	if (nr_splits > 1)
		s->k->attn_combine(partial, nr_splits, nr_q, s->nr_group, s->head_dim, out, ld);
	free(partial);
}

static void check_setup(struct setup *s)
{
	size_t ld = (size_t)s->nr_group * s->head_dim;
	uint32_t splits = (s->len + FHK_ATTN_SPLIT - 1) / FHK_ATTN_SPLIT;
	/* A table may round queries to eight bits where the cache has them, BF16 ones and weights to its own. */
	double slack = s->kv_type == FHK_Q8_0 ? 0.03 : s->kv_type == FHK_BF16 ? 0.01 : 2e-5, want[256];
	float *all, *some;

	setup_open(s);
	all = take(s->len * ld * sizeof(float));
	some = take(s->len * ld * sizeof(float));
	run(s, 0, s->len, splits, all);
	for (uint32_t p = 0; p < s->len; p += 1 + s->len / 40)
		for (uint32_t g = 0; g < s->nr_group; g++) {
			oracle(s, p, g, want);
			for (uint32_t c = 0; c < s->head_dim; c++)
				cr_assert_float_eq(
					all[p * ld + g * s->head_dim + c], want[c], slack,
					"%s kv %u dim %u group %u len %u window %u position %u head %u: %g, not %g",
					s->k->name, s->kv_type, s->head_dim, s->nr_group, s->len, s->window, p, g,
					all[p * ld + g * s->head_dim + c], want[c]);
		}
	/* Chunks of any size, and as many splits as the chunk needs or one more. */
	for (uint32_t p = 0; p < s->len;) {
		uint32_t n = rnd_to(1, 9), need;

		n = n < s->len - p ? n : s->len - p;
		need = (p + n + FHK_ATTN_SPLIT - 1) / FHK_ATTN_SPLIT;
		run(s, p, n, need + rnd_to(0, 1), some);
		cr_assert_arr_eq(some, all + p * ld, n * ld * sizeof(float),
				 "%s kv %u dim %u group %u len %u window %u: positions %u..%u differ", s->k->name,
				 s->kv_type, s->head_dim, s->nr_group, s->len, s->window, p, p + n - 1);
		p += n + (s->len > 200 ? rnd_to(0, 60) : 0);
	}
	free(all);
	free(some);
	setup_close(s);
}

static const uint32_t kv_types[] = {FHK_F32, FHK_F16, FHK_BF16, FHK_Q8_0};

Test(attention, shapes_windows_caps_and_sinks, .timeout = 300)
{
	static const uint32_t dims[] = {8, 16, 24, 32, 40, 64, 72, 128, 256};
	const struct fhk_ops *k;

	for_each_table(k) for (size_t t = 0; t < COUNT(kv_types); t++) for (size_t d = 0; d < COUNT(dims); d++)
	{
		struct setup s = {.k = k, .kv_type = kv_types[t], .head_dim = dims[d]};

		s.nr_group = rnd_to(1, 9);
		s.len = rnd_to(1, 80);
		s.window = d % 3 ? 0 : rnd_to(1, 40);
		s.softcap = d % 4 == 1 ? 4.0f : 0;
		s.sinks = d % 2;
		check_setup(&s);
	}
}

Test(attention, contexts_of_several_splits, .timeout = 300)
{
	const struct fhk_ops *k;

	for_each_table(k) for (size_t t = 0; t < COUNT(kv_types); t++) for (int window = 0; window < 3; window++)
	{
		struct setup s = {.k = k, .kv_type = kv_types[t], .head_dim = 32, .nr_group = 3, .len = 1100};

		s.window = (uint32_t[]){0, 100, 600}[window];
		s.sinks = window != 1;
		check_setup(&s);
	}
}

/* Infinite keys and values are held to what 16 bits can say, so that nobody else sees a NaN. */
Test(attention, values_out_of_range_stay_with_who_wrote_them)
{
	const struct fhk_ops *k;

	for_each_table(k) for (int bf16 = 0; bf16 < 2; bf16++)
	{
		struct setup s = {.k = k, .head_dim = 32, .nr_group = 1, .len = 6};
		float alone[4 * 32], beside[6 * 32], huge[32];

		s.kv_type = bf16 ? FHK_BF16 : FHK_F16;
		setup_open(&s);
		run(&s, 0, 4, 1, alone);
		for (int c = 0; c < 32; c++)
			huge[c] = c % 2 ? 1e30f : -INFINITY;
		k->kv_append(s.kv_type, 32, 4, s.kb[0], s.vb[0], huge, huge);
		run(&s, 0, 6, 1, beside);
		cr_assert_arr_eq(alone, beside, sizeof(alone), "%s", k->name);
		setup_close(&s);
	}
}
