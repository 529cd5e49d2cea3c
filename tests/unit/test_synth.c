// SPDX-License-Identifier: Apache-2.0
/*
 * freehold synth: the command itself, from the arguments to a file that opens.
 * Its sources are included, because the test programs are linked with the
 * library only.
 */
#include <criterion/criterion.h>
#include <math.h>
#include <sys/stat.h>

#include "kernels/kernels.h"
#include "runtime/model/model.h"
#include "tools/synth.c"
#include "tools/synth_quant.c"
#include "tools/synth_shapes.c"

#define ALL_TYPES(i)                                                                                                   \
	for (uint32_t i = 0; i < 64; i++)                                                                              \
		if (synth_type_ok(i))

static char dir[64];
static char path[96];

static void make_dir(void)
{
	strcpy(dir, "/tmp/fh-synth-XXXXXX");
	cr_assert_not_null(mkdtemp(dir));
	snprintf(path, sizeof(path), "%s/out.gguf", dir);
}

static void drop_dir(void)
{
	unlink(path);
	cr_expect_eq(rmdir(dir), 0, "something was left in %s", dir);
}

static int run(int argc, const char *const *args)
{
	char *argv[16] = {"synth"};

	for (int i = 0; i < argc; i++)
		argv[i + 1] = (char *)args[i];
	return cmd_synth(argc + 1, argv);
}

#define RUN(...) run((int)(sizeof((const char *[]){__VA_ARGS__}) / sizeof(char *)), (const char *[]){__VA_ARGS__})

/* What the kernels read back has the mean and the deviation that were asked for. */
Test(synth, weights_have_the_deviation_asked_for)
{
	enum { N = 1 << 16 };
	static uint8_t raw[4 * N];
	static float f[N];

	ALL_TYPES(type)
	{
		for (float std = 1.F; std > 5e-4F; std /= 8) {
			struct synth_rng rng;
			double sum = 0, squares = 0, slack = type == MXFP4 ? 0.45 : 0.08;

			synth_rng_seed(&rng, 1, type);
			synth_weights(&rng, type, raw, N, std);
			fhk_dequant(type, raw, f, N);
			for (int i = 0; i < N; i++) {
				cr_assert(isfinite(f[i]));
				sum += (double)f[i];
				squares += (double)f[i] * (double)f[i];
			}
			cr_expect_lt(fabs(sum / N), 0.13 * (double)std, "%s: mean %g for deviation %g",
				     fh_gguf_type(type)->name, sum / N, (double)std);
			cr_expect(fabs(sqrt(squares / N) / (double)std - 1) < slack, "%s: deviation %g, not %g",
				  fh_gguf_type(type)->name, sqrt(squares / N), (double)std);
		}
	}
}

/* Chunks do not matter, seeds and streams do. */
Test(synth, weights_are_deterministic)
{
	enum { N = 1 << 12 };
	static uint8_t a[4 * N], b[4 * N];

	ALL_TYPES(type)
	{
		uint64_t n = synth_bytes(type, N);
		struct synth_rng rng;

		synth_rng_seed(&rng, 1, 0);
		synth_weights(&rng, type, a, N, 0.1F);
		synth_rng_seed(&rng, 1, 0);
		synth_weights(&rng, type, b, N / 4, 0.1F);
		synth_weights(&rng, type, b + n / 4, 3 * N / 4, 0.1F);
		cr_expect_arr_eq(a, b, n);
		synth_rng_seed(&rng, 1, 1);
		synth_weights(&rng, type, b, N, 0.1F);
		cr_expect_arr_neq(a, b, n);
		synth_rng_seed(&rng, 2, 0);
		synth_weights(&rng, type, b, N, 0.1F);
		cr_expect_arr_neq(a, b, n);
	}
}

Test(synth, f16_rounds_to_nearest_even)
{
	static const struct {
		float f;
		uint16_t h;
	} cases[] = {
		{0.F, 0},
		{1.F, 0x3c00},
		{-2.F, 0xc000},
		{65504.F, 0x7bff},
		{0x1p-14F, 0x400},
		{0x1p-24F, 1},
		{0x1.8p-24F, 2},
		{0x1.002p0F, 0x3c00},
		{0x1.006p0F, 0x3c02},
		{0x1.ffep-15F, 0x400},
		{1.0009765625F, 0x3c01},
	};

	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++)
		cr_expect_eq(to_f16(cases[i].f), cases[i].h, "%a: %#x, not %#x", (double)cases[i].f, to_f16(cases[i].f),
			     cases[i].h);
}

/* The shapes are the published ones: so are their numbers of parameters (with the rotary factors as tensors). */
Test(synth, shapes_are_real)
{
	static const struct {
		const char *name;
		uint64_t nr_params;
	} known[] = {
		{"tinyllama-1.1b", 1100048384},
		{"llama-3.2-1b", 1235814400 + 32},
		{"llama-3.2-3b", 3212749824 + 64},
		{"llama-3.1-8b", 8030261248 + 64},
	};

	for (size_t i = 0; i < sizeof(known) / sizeof(known[0]); i++) {
		const struct synth_shape *s = synth_shape_by_name(known[i].name);
		uint64_t sum = 0;
		uint32_t nr;
		struct synth_tensor *plan = synth_plan(s, Q8_0, s->nr_vocab, &nr);

		cr_assert_not_null(plan);
		for (uint32_t k = 0; k < nr; k++)
			sum += plan[k].ne[0] * plan[k].ne[1] * plan[k].ne[2];
		cr_expect_eq(sum, known[i].nr_params, "%s: %lu", s->name, sum);
		free(plan);
	}
	cr_expect_null(synth_shape_by_name("llama"));
}

Test(synth, every_shape_fits_every_type)
{
	for (unsigned int i = 0; synth_shape_at(i); i++) {
		ALL_TYPES(type)
		{
			uint32_t nr;
			struct synth_tensor *plan = synth_plan(synth_shape_at(i), type, 1000, &nr);

			cr_assert_not_null(plan);
			for (uint32_t k = 0; k < nr; k++) {
				cr_expect_neq(synth_bytes(plan[k].type, plan[k].ne[0]), 0);
				cr_expect(plan[k].fill != SYNTH_RANDOM || plan[k].std > 0);
				cr_expect(plan[k].fill == SYNTH_RANDOM || plan[k].type == F32);
			}
			free(plan);
		}
	}
}

Test(synth, rope_factors_ramp_from_1_to_the_stretch)
{
	const struct synth_shape *s = synth_shape_by_name("llama-3.1-8b");
	float last = 1;

	cr_expect_eq(synth_rope_factor(s, 0, 64), 1);
	cr_expect_eq(synth_rope_factor(s, 63, 64), 8);
	for (uint32_t i = 0; i < 64; i++) {
		float f = synth_rope_factor(s, i, 64);

		cr_expect_geq(f, last);
		last = f;
	}
}

/* All types of a dense and a sparse model open as models that can run. */
Test(synth, files_open_as_models, .init = make_dir, .fini = drop_dir)
{
	static const char *const shape[] = {"tiny", "tiny-moe"};

	ALL_TYPES(type)
	{
		struct fh_model *m;
		struct fh_err err = {0};

		cr_assert_eq(RUN("--shape", shape[type & 1], "--type", fh_gguf_type(type)->name, "-o", path), 0);
		cr_assert_eq(fh_model_open(path, &m, &err), 0, "%s", err.msg);
		cr_expect_eq(m->nr_layers, 4);
		cr_expect_eq(m->nr_experts, type & 1 ? 8 : 0);
		cr_expect_eq(m->nr_vocab, 2048);
		cr_expect_eq(m->token_embd->type, synth_embd_type(type));
		cr_expect_eq(m->layers[3].q.w->type, type);
		cr_expect_not_null(fhk_type_info(type));
		fh_model_close(m);
	}
}

/* Each made-up piece is new, and the sum of two others, or merging would never reach it. */
Test(synth, made_up_vocabulary_is_sound, .init = make_dir, .fini = drop_dir)
{
	enum { N = 128256 };
	struct fh_gguf_writer *w = fh_gguf_writer_new();
	const struct synth_shape *s = synth_shape_by_name("llama-3.1-8b");
	struct fh_gguf_writer *names = fh_gguf_writer_new();
	const uint64_t ne = 1;
	struct fh_gguf *g, *index;
	struct fh_gguf_arr a;
	struct fh_err err = {0};
	const void *p;
	size_t n;

	cr_assert(w && names);
	synth_keys(w, s, F16, N, 100, NULL);
	cr_assert_eq(fh_gguf_writer_header(w, &p, &n), 0);
	cr_assert_eq(fh_gguf_open_mem(p, n, &g, &err), 0, "%s", err.msg);
	cr_assert_eq(fh_gguf_arr(g, "tokenizer.ggml.tokens", &a), 0);
	cr_assert_eq(a.n, N);
	/* The reader refuses tensors of one name, and finds them fast: it is our set of strings. */
	for (uint32_t i = 0; i < N; i++) {
		struct fh_str t = fh_gguf_arr_next(&a);
		char name[32];

		snprintf(name, sizeof(name), "%.*s", (int)t.n, t.p);
		fh_gguf_put_tensor(names, name, 24, 1, &ne);
	}
	cr_assert_eq(fh_gguf_writer_header(names, &p, &n), 0);
	uint8_t *whole = calloc(1, n + fh_gguf_writer_data_bytes(names));
	cr_assert_not_null(whole);
	memcpy(whole, p, n);
	cr_assert_eq(fh_gguf_open_mem(whole, n + fh_gguf_writer_data_bytes(names), &index, &err), 0, "%s", err.msg);
	for (uint32_t i = NR_SPECIAL + NR_BYTES + 95; i < N; i++) {
		struct fh_str t = fh_gguf_tensor_at(index, i)->name;
		bool found = false;

		for (size_t cut = 1; cut < t.n && !found; cut++) {
			char left[32], right[32];

			snprintf(left, sizeof(left), "%.*s", (int)cut, t.p);
			snprintf(right, sizeof(right), "%.*s", (int)(t.n - cut), t.p + cut);
			found = fh_gguf_tensor(index, left) && fh_gguf_tensor(index, right);
		}
		cr_assert(found, "'%.*s' is no sum of two", (int)t.n, t.p);
	}
	fh_gguf_close(index);
	fh_gguf_close(g);
	free(whole);
	fh_gguf_writer_free(names);
	fh_gguf_writer_free(w);
}

static uint64_t checksum(void)
{
	FILE *f = fopen(path, "rb");
	uint64_t sum = 0;
	int c;

	cr_assert_not_null(f);
	while ((c = getc(f)) != EOF)
		sum = sum * 0x100000001b3 + (uint64_t)c + 1;
	fclose(f);
	return sum;
}

Test(synth, seeds_and_vocabularies, .init = make_dir, .fini = drop_dir)
{
	char vocab[96];
	uint64_t first, again, other;
	struct fh_gguf *g;
	struct fh_err err = {0};
	uint32_t v;

	cr_assert_eq(RUN("--shape=tiny", "--type=q4_0", "--output", path), 0);
	first = checksum();
	cr_assert_eq(RUN("--shape=tiny", "--type=Q4_0", "--seed=1", "-o", path), 0);
	again = checksum();
	cr_assert_eq(RUN("--shape=tiny", "--type=Q4_0", "--seed=2", "-o", path), 0);
	other = checksum();
	cr_expect_eq(first, again);
	cr_expect_neq(first, other);
	snprintf(vocab, sizeof(vocab), "%s/vocab.gguf", dir);
	cr_assert_eq(rename(path, vocab), 0);
	cr_assert_eq(RUN("--shape=mixtral-mini", "--type=Q2_K", "--ctx=777", "--vocab", vocab, "-o", path), 0);
	cr_assert_eq(fh_gguf_open(path, &g, &err), 0, "%s", err.msg);
	cr_expect(!fh_gguf_u32(g, "llama.vocab_size", &v) && v == 2048);
	cr_expect(!fh_gguf_u32(g, "llama.context_length", &v) && v == 777);
	cr_expect(!fh_gguf_u32(g, "tokenizer.ggml.eos_token_id", &v) && v == 2);
	cr_expect_eq(fh_gguf_tensor(g, "token_embd.weight")->ne[1], 2048);
	fh_gguf_close(g);
	unlink(vocab);
}

/* The output's row of the next token of a circle is the token's embedding; the last one's next is the first. */
Test(synth, circles, .init = make_dir, .fini = drop_dir)
{
	struct fh_err err = {0};
	uint32_t nr_vocab;

	cr_assert_eq(RUN("--shape", "tiny", "--type", "Q2_K", "--repeat", "48", "-o", path), 0);
	for (int round = 0; round < 2; round++) {
		const struct fh_tensor *embd, *out;
		struct fh_gguf *g;
		size_t row;

		cr_assert_eq(fh_gguf_open(path, &g, &err), 0, "%s", err.msg);
		embd = fh_gguf_tensor(g, "token_embd.weight");
		out = fh_gguf_tensor(g, "output.weight");
		cr_assert_eq(embd->type, out->type);
		nr_vocab = (uint32_t)embd->ne[1];
		row = embd->bytes / nr_vocab;
		for (uint32_t t = 0; t < nr_vocab; t++) {
			uint32_t first = t / 48 * 48, last = first + 47 < nr_vocab ? first + 47 : nr_vocab - 1;
			const char *next = (const char *)out->data + row * (t == last ? first : t + 1);

			cr_assert_eq(memcmp((const char *)embd->data + row * t, next, row) == 0, round == 0, "token %u",
				     t);
		}
		fh_gguf_close(g);
		if (!round)
			cr_assert_eq(RUN("--shape", "tiny", "--type", "Q2_K", "-o", path), 0);
	}
}

Test(synth, says_what_is_wrong, .init = make_dir, .fini = drop_dir)
{
	static const char *const vocabless = "/dev/null";

	cr_expect_eq(RUN("--shape", "tiny", "--type", "Q4_0"), 2);
	cr_expect_eq(RUN("--shape", "tiny", "-o", path), 2);
	cr_expect_eq(RUN("--shape", "huge", "--type", "Q4_0", "-o", path), 2);
	cr_expect_eq(RUN("--shape", "tiny", "--type", "IQ1_S", "-o", path), 2);
	cr_expect_eq(RUN("--shape", "tiny", "--type", "Q4_9", "-o", path), 2);
	cr_expect_eq(RUN("--shape", "tiny", "--type", "Q4_0", "-o", path, "more"), 2);
	cr_expect_eq(RUN("--shape", "tiny", "--type", "Q4_0", "-o", path, "--seed", "x"), 2);
	cr_expect_eq(RUN("--shape", "tiny", "--type", "Q4_0", "-o", path, "--seed", "-1"), 2);
	cr_expect_eq(RUN("--shape", "tiny", "--type", "Q4_0", "-o", path, "--ctx", "0"), 2);
	cr_expect_eq(RUN("--shape", "tiny", "--type", "Q4_0", "-o", path, "--repeat", "1"), 2);
	cr_expect_eq(RUN("--what"), 2);
	cr_expect_eq(RUN("--help"), 0);
	cr_expect_eq(RUN("--shape", "tiny", "--type", "Q4_0", "-o", path, "--vocab", vocabless), 1);
	cr_expect_eq(RUN("--shape", "tiny", "--type", "Q4_0", "-o", "/nowhere/at/all"), 1);
	cr_expect_neq(access(path, F_OK), 0, "a failed run left a file");
}
