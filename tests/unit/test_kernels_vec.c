// SPDX-License-Identifier: Apache-2.0
/* Norms, rotary embedding, gates and reductions in every table, against double precision. */
#include "tests/unit/kernels_util.h"

#define MAX_N 700

static float x[MAX_N + 8], y[MAX_N + 8], w[MAX_N + 8], u[MAX_N + 8];

static const uint32_t lengths[] = {1, 2, 7, 8, 15, 16, 17, 31, 32, 33, 64, 100, 172, 255, 688};

Test(vec, rmsnorm)
{
	const struct fhk_ops *k;

	for_each_table(k) for (size_t l = 0; l < COUNT(lengths); l++) for (int weighted = 0; weighted < 2; weighted++)
	{
		uint32_t n = lengths[l];
		double sum = 0;

		rnd_floats(x, n, 3);
		rnd_floats(w, n, 1);
		for (uint32_t i = 0; i < n; i++)
			sum += (double)x[i] * x[i];
		y[n] = 42;
		k->rmsnorm(y, x, weighted ? w : NULL, n, 1e-5f);
		for (uint32_t i = 0; i < n; i++) {
			double want = x[i] / sqrt(sum / n + 1e-5) * (weighted ? w[i] : 1);

			cr_assert_float_eq(y[i], want, 2e-6, "%s n %u", k->name, n);
		}
		cr_assert_eq(y[n], 42, "%s writes past %u", k->name, n);
		k->rmsnorm(x, x, weighted ? w : NULL, n, 1e-5f);
		cr_assert_arr_eq(x, y, n * sizeof(float), "%s in place", k->name);
	}
}

Test(vec, rope)
{
	const struct fhk_ops *k;

	for_each_table(k) for (uint32_t pairs = 1; pairs <= 128;
			       pairs += pairs < 20 ? 1 : 27) for (int interleaved = 0; interleaved < 2; interleaved++)
	{
		rnd_floats(x, 2 * pairs, 2);
		for (uint32_t i = 0; i < pairs; i++) {
			w[2 * i] = cosf(0.3f * i);
			w[2 * i + 1] = sinf(0.3f * i);
		}
		memcpy(y, x, sizeof(x));
		y[2 * pairs] = 42;
		k->rope(y, w, pairs, interleaved);
		cr_assert_eq(y[2 * pairs], 42, "%s", k->name);
		for (uint32_t i = 0; i < pairs; i++) {
			uint32_t a = interleaved ? 2 * i : i, b = interleaved ? 2 * i + 1 : i + pairs;
			double c = w[2 * i], s = w[2 * i + 1];

			cr_assert_float_eq(y[a], x[a] * c - x[b] * s, 1e-6, "%s %u", k->name, pairs);
			cr_assert_float_eq(y[b], x[b] * c + x[a] * s, 1e-6, "%s %u", k->name, pairs);
		}
	}
}

static double sigmoid(double v)
{
	return 1 / (1 + exp(-v));
}

static double glu_oracle(double g, double up, enum fhk_glu kind)
{
	switch (kind) {
	case FHK_GLU_SILU: return g * sigmoid(g) * up;
	case FHK_GLU_GELU: return g * 0.5 * (1 + tanh(sqrt(2 / M_PI) * (g + 0.044715 * g * g * g))) * up;
	default:
		g = fmin(g, 7);
		up = fmax(fmin(up, 7), -7);
		return g * sigmoid(1.702 * g) * (up + 1);
	}
}

Test(vec, glu)
{
	static const float spread[] = {1, 12, 300};
	const struct fhk_ops *k;

	for_each_table(k) for (size_t l = 0; l < COUNT(lengths); l++) for (size_t s = 0; s < COUNT(spread);
									   s++) for (int kind = 0; kind < 3; kind++)
	{
		uint32_t n = lengths[l];

		rnd_floats(x, n, spread[s]);
		rnd_floats(u, n, spread[s]);
		y[n] = 42;
		k->glu(y, x, u, n, kind);
		for (uint32_t i = 0; i < n; i++) {
			double want = glu_oracle(x[i], u[i], kind);

			cr_assert_float_eq(y[i], want, 2e-6 * (1 + fabs((double)x[i] * u[i])),
					   "%s kind %d (%g, %g): %g, not %g", k->name, kind, x[i], u[i], y[i], want);
		}
		cr_assert_eq(y[n], 42);
		k->glu(x, x, u, n, kind);
		cr_assert_arr_eq(x, y, n * sizeof(float), "%s in place", k->name);
	}
}

Test(vec, axpy_and_softcap)
{
	const struct fhk_ops *k;

	for_each_table(k) for (size_t l = 0; l < COUNT(lengths); l++)
	{
		uint32_t n = lengths[l];

		rnd_floats(x, n, 1);
		rnd_floats(w, n, 1);
		memcpy(y, w, sizeof(y));
		y[n] = 42;
		k->axpy(y, 0.7f, x, n);
		for (uint32_t i = 0; i < n; i++)
			cr_assert_float_eq(y[i], w[i] + 0.7f * (double)x[i], 1e-6, "%s", k->name);
		cr_assert_eq(y[n], 42);
		rnd_floats(x, n, 200);
		memcpy(y, x, sizeof(y));
		y[n] = 42;
		k->softcap(y, n, 30);
		for (uint32_t i = 0; i < n; i++)
			cr_assert_float_eq(y[i], 30 * tanh(x[i] / 30.0), 2e-5, "%s %g: %g", k->name, x[i], y[i]);
		cr_assert_eq(y[n], 42);
	}
}

Test(vec, argmax_breaks_ties_low_and_never_picks_nan)
{
	const struct fhk_ops *k;

	for_each_table(k) for (size_t l = 0; l < COUNT(lengths); l++)
	{
		uint32_t n = lengths[l], at = rnd_to(0, n - 1), later = rnd_to(at, n - 1);

		rnd_floats(x, n, 5);
		x[n] = 100; /* not ours */
		cr_assert_eq(x[k->argmax(x, n)] >= x[at], true);
		x[at] = x[later] = 7;
		cr_assert_eq(k->argmax(x, n), at, "%s n %u", k->name, n);
		for (uint32_t i = 0; i < n; i++)
			if (i != later && i % 2)
				x[i] = NAN;
		x[at] = at == later ? 7 : NAN;
		cr_assert_eq(k->argmax(x, n), later, "%s n %u", k->name, n);
		for (uint32_t i = 0; i < n; i++)
			x[i] = -3e38f;
		cr_assert_eq(k->argmax(x, n), 0);
	}
}

Test(vec, sumexp)
{
	const struct fhk_ops *k;

	for_each_table(k) for (size_t l = 0; l < COUNT(lengths); l++)
	{
		uint32_t n = lengths[l];
		float max, got;
		double sum = 0, top = -INFINITY;

		rnd_floats(x, n, l % 2 ? 10 : 300);
		x[n] = 1000;
		for (uint32_t i = 0; i < n; i++)
			top = fmax(top, x[i]);
		for (uint32_t i = 0; i < n; i++)
			sum += exp(x[i] - top);
		got = k->sumexp(x, n, &max);
		cr_assert_eq(max, (float)top, "%s n %u", k->name, n);
		cr_assert_float_eq(got, sum, 1e-5 * sum, "%s n %u: %g, not %g", k->name, n, got, sum);
	}
}
