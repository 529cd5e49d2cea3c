// SPDX-License-Identifier: Apache-2.0
/*
 * The tokenizer on vocabularies small enough to work out by hand, on hostile
 * ones, and on the fixtures' (skipped where there are none).  How text is cut
 * into words is tested in test_tok_split.c, streaming in test_tok_detok.c.
 */
#include <criterion/criterion.h>
#include <dirent.h>
#include <pthread.h>
#include <time.h>
#include <unistd.h>

#include "tests/unit/tok_vocab.h"

#define NR(a) (sizeof(a) / sizeof((a)[0]))

static struct fh_tokenizer *open_ok(struct vocab v)
{
	struct fh_tokenizer *t;
	struct fh_err err = {0};

	cr_assert_eq(vocab_open(&v, &t, &err), 0, "%s", err.msg);
	vocab_free(&v);
	return t;
}

static void refused(struct vocab v, const char *want)
{
	struct fh_tokenizer *t;
	struct fh_err err = {0};
	int rc = vocab_open(&v, &t, &err);

	cr_expect_lt(rc, 0, "opened although: %s", want);
	cr_expect_eq(err.code, rc);
	cr_expect_not_null(strstr(err.msg, want), "said '%s', not '%s'", err.msg, want);
	vocab_free(&v);
}

/* The tokens' pieces joined by '|'. */
static const char *pieces_of(const struct fh_tokenizer *t, const char *text, size_t n, unsigned int flags)
{
	static char out[4096];
	uint32_t *ids, nr;
	size_t at = 0;

	cr_assert_eq(fh_tokenize(t, text, n, flags, &ids, &nr), 0);
	out[0] = 0;
	for (uint32_t i = 0; i < nr; i++) {
		struct fh_str s = fh_tokenizer_piece(t, ids[i]);

		at += (size_t)snprintf(out + at, sizeof(out) - at, "%s%.*s", i ? "|" : "", (int)s.n, s.p);
	}
	free(ids);
	return out;
}

#define expect(t, text, flags, want) cr_expect_str_eq(pieces_of(t, text, sizeof(text) - 1, flags), want)

static const struct piece spm_more[] = {
	{"\xe2\x96\x81", T_NORMAL, -10},
	{"a", T_NORMAL, -11},
	{"b", T_NORMAL, -12},
	{"c", T_NORMAL, -13},
	{"ab", T_NORMAL, -2},
	{"bc", T_NORMAL, -1},
	{"\xe2\x96\x81"
	 "a",
	 T_NORMAL, -3},
	{"abc", T_NORMAL, -4},
	{"\xe2\x96\x81"
	 "abc",
	 T_NORMAL, -5},
	{"<user>", T_USER, 0},
	{"<ctl>", T_CONTROL, 0},
	{"aa", T_NORMAL, -6},
	{"\xc3\xa9", T_NORMAL, -14},
	{"<|im_end|>", T_NORMAL, 0},
};

Test(tokenizer, spm_merges_by_score)
{
	struct fh_tokenizer *t = open_ok(spm_vocab(spm_more, NR(spm_more), true));

	/* "bc" (-1) goes before "ab" (-2), then "abc" (-4) before "\u2581a" could be had. */
	expect(t, "abc", 0,
	       "\xe2\x96\x81"
	       "abc");
	expect(t, "abab", 0, "\xe2\x96\x81|ab|ab");
	expect(t, "a", 0,
	       "\xe2\x96\x81"
	       "a");
	/* Leftmost among equals. */
	expect(t, "baaa", 0, "\xe2\x96\x81|b|aa|a");
	expect(t, "", 0, "");
	expect(t, " ", 0, "\xe2\x96\x81|\xe2\x96\x81");
	expect(t, "\xe2\x96\x81", 0, "\xe2\x96\x81|\xe2\x96\x81");
	fh_tokenizer_close(t);
}

Test(tokenizer, spm_falls_back_to_bytes)
{
	struct fh_tokenizer *t = open_ok(spm_vocab(spm_more, NR(spm_more), true));
	struct fh_tokenizer *poor = open_ok(spm_vocab(spm_more, NR(spm_more), false));

	expect(t, "a\xc3\xa9", 0,
	       "\xe2\x96\x81"
	       "a|\xc3\xa9");
	expect(t, "a\xe2\x82\xac", 0,
	       "\xe2\x96\x81"
	       "a|<0xE2>|<0x82>|<0xAC>");
	expect(t, "a\xff\xc3", 0,
	       "\xe2\x96\x81"
	       "a|<0xFF>|<0xC3>");
	expect(t, "a\0", 0,
	       "\xe2\x96\x81"
	       "a|<0x00>");
	expect(poor,
	       "a\xe2\x82\xac"
	       "b",
	       0,
	       "\xe2\x96\x81"
	       "a|<unk>|b");
	fh_tokenizer_close(t);
	fh_tokenizer_close(poor);
}

Test(tokenizer, spm_prefix_and_extra_spaces)
{
	struct vocab v = spm_vocab(spm_more, NR(spm_more), true);
	struct fh_tokenizer *t;

	v_key_bool(&v, "tokenizer.ggml.add_space_prefix", false);
	t = open_ok(v);
	expect(t, "abc a", 0,
	       "abc|\xe2\x96\x81"
	       "a");
	fh_tokenizer_close(t);
	v = spm_vocab(spm_more, NR(spm_more), true);
	v_key_bool(&v, "tokenizer.ggml.remove_extra_whitespaces", true);
	t = open_ok(v);
	expect(t, "  abc   a ", 0,
	       "\xe2\x96\x81"
	       "abc|\xe2\x96\x81"
	       "a");
	expect(t, "   ", 0, "");
	fh_tokenizer_close(t);
}

Test(tokenizer, spm_piece_across_a_space)
{
	/* "a\u2581b" forbids merging word by word. */
	static const struct piece more[] = {
		{"\xe2\x96\x81", T_NORMAL, -10},
		{"a", T_NORMAL, -11},
		{"b", T_NORMAL, -12},
		{"a\xe2\x96\x81", T_NORMAL, -1},
		{"a\xe2\x96\x81"
		 "b",
		 T_NORMAL, -2},
	};
	struct fh_tokenizer *t = open_ok(spm_vocab(more, NR(more), true));

	expect(t, "a b", 0,
	       "\xe2\x96\x81|a\xe2\x96\x81"
	       "b");
	fh_tokenizer_close(t);
}

Test(tokenizer, special_tokens_when_asked_for)
{
	struct fh_tokenizer *t = open_ok(spm_vocab(spm_more, NR(spm_more), true));

	/* A user-defined token always parses; the text after any special token is a beginning again. */
	expect(t, "a<user>a", 0,
	       "\xe2\x96\x81"
	       "a|<user>|\xe2\x96\x81"
	       "a");
	expect(t, "a<ctl>a", FH_TOK_SPECIAL,
	       "\xe2\x96\x81"
	       "a|<ctl>|\xe2\x96\x81"
	       "a");
	expect(t, "<ctl>", 0, "\xe2\x96\x81|<0x3C>|c|<0x74>|<0x6C>|<0x3E>");
	expect(t, "<s></s>", FH_TOK_SPECIAL, "<s>|</s>");
	expect(t, "<unk>", FH_TOK_SPECIAL, "<unk>");
	/* Well known by its text, whatever its type says. */
	expect(t, "<|im_end|>", FH_TOK_SPECIAL, "<|im_end|>");
	cr_expect(fh_tokenizer_is_eog(t, SPM_FIRST + 13));
	cr_expect(fh_tokenizer_is_special(t, SPM_FIRST + 9) && fh_tokenizer_is_special(t, SPM_FIRST + 10));
	cr_expect_not(fh_tokenizer_is_special(t, SPM_FIRST));
	cr_expect_not(fh_tokenizer_is_special(t, UINT32_MAX));
	fh_tokenizer_close(t);
}

Test(tokenizer, longest_special_token_wins)
{
	static const struct piece more[] = {{"<a>", T_CONTROL, 0},
					    {"<a><b>", T_USER, 0},
					    {"<b>", T_CONTROL, 0},
					    {"\n\n", T_USER, 0},
					    {"\n", T_USER, 0}};
	struct fh_tokenizer *t = open_ok(bpe_vocab("gpt-2", more, NR(more), NULL, 0));

	expect(t, "<a><b><b><a>", FH_TOK_SPECIAL, "<a><b>|<b>|<a>");
	expect(t, "<a><b><a>", 0, "<a><b>|<|a|>");
	expect(t, "\n\n\n", 0, "\n\n|\n");
	fh_tokenizer_close(t);
}

Test(tokenizer, phi3_swallows_white_space_after_specials)
{
	static const struct piece more[] = {{"<|user|>", T_CONTROL, 0}, {"<|endoftext|>", T_CONTROL, 0}};
	struct vocab v = spm_vocab(more, NR(more), true);
	struct fh_tokenizer *t;

	v_key_str(&v, "general.name", "Phi-3 Mini");
	v_key_bool(&v, "tokenizer.ggml.add_space_prefix", false);
	t = open_ok(v);
	expect(t, "<|user|> \n!", FH_TOK_SPECIAL, "<|user|>|<0x21>");
	expect(t, "<|endoftext|>\n", FH_TOK_SPECIAL, "<|endoftext|>|<0x0A>");
	fh_tokenizer_close(t);
}

Test(tokenizer, bos_and_eos_as_the_file_says)
{
	struct vocab v = spm_vocab(spm_more, NR(spm_more), true);
	struct fh_tokenizer *t = open_ok(v);

	expect(t, "a", FH_TOK_BOS,
	       "<s>|\xe2\x96\x81"
	       "a");
	expect(t, "", FH_TOK_BOS, "<s>");
	expect(t, "a", 0,
	       "\xe2\x96\x81"
	       "a");
	cr_expect_eq(fh_tokenizer_bos(t), 1);
	cr_expect_eq(fh_tokenizer_eos(t), 2);
	cr_expect(fh_tokenizer_is_eog(t, 2));
	fh_tokenizer_close(t);
	v = spm_vocab(spm_more, NR(spm_more), true);
	v_key_bool(&v, "tokenizer.ggml.add_bos_token", false);
	v_key_bool(&v, "tokenizer.ggml.add_eos_token", true);
	v_key_u32(&v, "tokenizer.ggml.eos_token_id", SPM_FIRST + 10);
	v_key_u32(&v, "tokenizer.ggml.bos_token_id", 1u << 30); /* out of range: ignored */
	v_key_u32(&v, "tokenizer.ggml.eot_token_id", SPM_FIRST + 2);
	t = open_ok(v);
	expect(t, "a", FH_TOK_BOS,
	       "\xe2\x96\x81"
	       "a|<ctl>");
	cr_expect_eq(fh_tokenizer_bos(t), 1);
	cr_expect(fh_tokenizer_is_eog(t, SPM_FIRST + 10) && fh_tokenizer_is_eog(t, SPM_FIRST + 2));
	fh_tokenizer_close(t);
	t = open_ok(bpe_vocab("gpt-2", NULL, 0, NULL, 0));
	cr_expect_eq(fh_tokenizer_bos(t), FH_NO_TOKEN);
	cr_expect_eq(fh_tokenizer_eos(t), FH_NO_TOKEN);
	expect(t, "a", FH_TOK_BOS, "a");
	fh_tokenizer_close(t);
}

Test(tokenizer, harmony_end_is_no_end)
{
	static const struct piece more[] = {{"<|end|>", T_CONTROL, 0},
					    {"<|return|>", T_CONTROL, 0},
					    {"<|call|>", T_CONTROL, 0},
					    {"<|channel|>", T_CONTROL, 0}};
	struct fh_tokenizer *t = open_ok(bpe_vocab("gpt-4o", more, NR(more), NULL, 0));
	struct fh_tokenizer *phi = open_ok(bpe_vocab("gpt-4o", more, 1, NULL, 0));
	char out[32];

	cr_expect_not(fh_tokenizer_is_eog(t, 256));
	cr_expect(fh_tokenizer_is_eog(t, 257) && fh_tokenizer_is_eog(t, 258));
	cr_expect_eq(fh_token_bytes(t, 258, true, out, sizeof(out)), 0);
	cr_expect_eq(fh_token_bytes(t, 259, true, out, sizeof(out)), strlen("<|channel|>"));
	cr_expect(fh_tokenizer_is_eog(phi, 256));
	fh_tokenizer_close(t);
	fh_tokenizer_close(phi);
}

static const char *const abc_merges[] = {"b c", "a b", "a bc", "a a", "aa aa", "\xc4\xa0 a"};
static const struct piece abc_more[] = {{"bc", T_NORMAL, 0},
					{"ab", T_NORMAL, 0},
					{"abc", T_NORMAL, 0},
					{"aa", T_NORMAL, 0},
					{"aaaa", T_NORMAL, 0},
					{"\xc4\xa0"
					 "a",
					 T_NORMAL, 0},
					{"xyz", T_NORMAL, 0}};

Test(tokenizer, bpe_merges_by_rank)
{
	struct fh_tokenizer *t = open_ok(bpe_vocab("gpt-2", abc_more, NR(abc_more), abc_merges, NR(abc_merges)));
	struct fh_tokenizer *whole =
		open_ok(bpe_vocab("llama-bpe", abc_more, NR(abc_more), abc_merges, NR(abc_merges)));

	expect(t, "abcab", 0, "abc|ab");
	expect(t, "aaaaaaa", 0, "aaaa|aa|a");
	expect(t, " ab a", 0,
	       "\xc4\xa0|ab|\xc4\xa0"
	       "a");
	/* No merge leads to "xyz", but Llama 3 takes a word that is a token as it is. */
	expect(t, "xyz", 0, "x|y|z");
	expect(whole, "xyz", 0, "xyz");
	expect(whole, "xyzz", 0, "x|y|z|z");
	fh_tokenizer_close(t);
	fh_tokenizer_close(whole);
}

Test(tokenizer, bpe_merges_through_what_is_no_token)
{
	/* "pq" is no token: it may lead to "pqr", and where it does not it is written as its bytes. */
	static const char *const merges[] = {"p q", "pq r", "< s>", "s >", "< s"};
	static const struct piece more[] = {{"pqr", T_NORMAL, 0}, {"<s>", T_CONTROL, 0}, {"s>", T_NORMAL, 0}};
	struct fh_tokenizer *t = open_ok(bpe_vocab("bloom", more, NR(more), merges, NR(merges)));

	expect(t, "pqr", 0, "pqr");
	expect(t, "pqx", 0, "p|q|x");
	/* Merges must not make a control token of plain text. */
	expect(t, "<s>", 0, "<|s>");
	expect(t, "<s>", FH_TOK_SPECIAL, "<s>");
	fh_tokenizer_close(t);
}

Test(tokenizer, unknown_pre_is_the_default)
{
	static const char *const text = "It's 12345 (or so)...  \t\n x";
	struct fh_tokenizer *def = open_ok(bpe_vocab("default", abc_more, NR(abc_more), abc_merges, NR(abc_merges)));
	struct fh_tokenizer *odd =
		open_ok(bpe_vocab("no-such-rule", abc_more, NR(abc_more), abc_merges, NR(abc_merges)));
	struct fh_tokenizer *none = open_ok(bpe_vocab(NULL, abc_more, NR(abc_more), abc_merges, NR(abc_merges)));
	char *want = strdup(pieces_of(def, text, strlen(text), 0));

	cr_expect_str_eq(pieces_of(odd, text, strlen(text), 0), want);
	cr_expect_str_eq(pieces_of(none, text, strlen(text), 0), want);
	free(want);
	fh_tokenizer_close(def);
	fh_tokenizer_close(odd);
	fh_tokenizer_close(none);
}

static struct vocab only_model(const char *model)
{
	struct vocab v = vocab_begin();

	v_key_str(&v, "tokenizer.ggml.model", model);
	return v;
}

Test(tokenizer, refuses_what_it_cannot_do)
{
	static const struct piece one[] = {{"a", T_NORMAL, 0}};
	struct vocab v;

	refused(vocab_begin(), "tokenizer.ggml.model is missing");
	refused(only_model("bert"), "\"bert\"; supported are");
	refused(only_model("t5"), "\"t5\"");
	refused(only_model("rwkv"), "\"rwkv\"");
	refused(only_model("llama"), "tokenizer.ggml.tokens is missing");
	v = only_model("llama");
	v_key_u32(&v, "tokenizer.ggml.tokens", 1);
	refused(v, "not an array of strings");
	v = only_model("llama");
	v_key_arr(&v, "tokenizer.ggml.tokens", FH_GGUF_STR, 0);
	refused(v, "not an array of strings");
	v = only_model("gpt2");
	v_pieces(&v, one, 1);
	refused(v, "tokenizer.ggml.merges is missing");
	v = only_model("gpt2");
	v_pieces(&v, one, 1);
	v_key_arr(&v, "tokenizer.ggml.merges", FH_GGUF_U8, 0);
	refused(v, "tokenizer.ggml.merges is not an array");
	v = only_model("llama");
	v_key_arr(&v, "tokenizer.ggml.tokens", FH_GGUF_STR, 1);
	v_str(&v, "a");
	v_key_arr(&v, "tokenizer.ggml.token_type", FH_GGUF_I32, 0);
	refused(v, "tokenizer.ggml.token_type is not an array of 1");
	v = only_model("llama");
	v_key_arr(&v, "tokenizer.ggml.tokens", FH_GGUF_STR, 1);
	v_str(&v, "a");
	v_key_arr(&v, "tokenizer.ggml.scores", FH_GGUF_STR, 1);
	v_str(&v, "1");
	refused(v, "tokenizer.ggml.scores is not an array of 1");
}

Test(tokenizer, refuses_a_token_too_long_to_stream)
{
	char text[2000];
	struct piece p = {text, T_NORMAL, 0};
	struct fh_tokenizer *t;

	memset(text, 'x', sizeof(text));
	text[1000] = 0;
	t = open_ok(bpe_vocab("gpt-2", &p, 1, NULL, 0));
	fh_tokenizer_close(t);
	text[1000] = 'x';
	text[1100] = 0;
	refused(bpe_vocab("gpt-2", &p, 1, NULL, 0), "token 256 has 1100 bytes");
	refused(spm_vocab(&p, 1, true), "token 259 has 1100 bytes");
	/* Control tokens are never written. */
	p.type = T_CONTROL;
	t = open_ok(bpe_vocab("gpt-2", &p, 1, NULL, 0));
	fh_tokenizer_close(t);
}

Test(tokenizer, bears_odd_files)
{
	static const struct piece more[] = {{"", T_NORMAL, 0},
					    {"", T_CONTROL, 0},
					    {"a", T_NORMAL, 0},
					    {"a", T_NORMAL, -1},
					    {"<0xZZ>", T_BYTE, 0},
					    {"\xff\xfe", T_NORMAL, 0},
					    {"\xe2\x82", T_USER, 0},
					    {"zz", 77, 0},
					    {"q", -3, 0},
					    {"<|eot_id|>", T_UNUSED, 0},
					    {"nan", T_NORMAL, __builtin_nanf("")},
					    {"na", T_NORMAL, __builtin_inff()}};
	static const char *const merges[] = {
		"", " ", "  ", "a", "a ", " a", "no such", "\xff \xfe", "a b c", "\xe2\x82\xac a", "a b", "a b"};
	struct fh_tokenizer *spm = open_ok(spm_vocab(more, NR(more), true));
	struct fh_tokenizer *bpe = open_ok(bpe_vocab("qwen2", more, NR(more), merges, NR(merges)));

	cr_expect_eq(fh_tokenizer_nr_vocab(bpe), 256 + NR(more));
	expect(spm, "\xe2\x82zznanana", 0, "\xe2\x82|<0x20>|zz|na|na|na");
	expect(bpe, "zab", 0, "z|a|b");
	expect(bpe, "\xe2\x82\xff", 0, "\xe2\x82|\xc3\xbf");
	cr_expect_null(fh_tokenizer_piece(bpe, 256 + NR(more)).p);
	cr_expect_eq(fh_tokenizer_piece(bpe, 256).n, 0);
	cr_expect(fh_tokenizer_is_eog(bpe, 256 + 9));
	fh_tokenizer_close(spm);
	fh_tokenizer_close(bpe);
}

#ifndef __SANITIZE_THREAD__ /* it has one thread, and would take a minute of the check */
static double seconds(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (double)ts.tv_sec + 1e-9 * (double)ts.tv_nsec;
}

/* A megabyte of one letter and its like.  What is quadratic takes minutes, what is not well under a second. */
Test(tokenizer, a_megabyte_of_anything)
{
	static const char *const units[] = {"a",    " ",  "1",	       "\n",  "A", "\xc3\xa9", "\xf0\x9f\x98\x80",
					    "\xff", " a", "a\xcc\x81", "\xe2"};
	/* Every kind of rule; those that differ in little only on the first units. */
	static const struct {
		const char *pre;
		size_t nr_units;
	} cases[] = {{"gpt-2", NR(units)},  {"gpt-4o", NR(units)}, {"deepseek-llm", NR(units)},
		     {NULL, NR(units)},	    {"llama-bpe", 3},	   {"qwen2", 3},
		     {"deepseek-coder", 3}, {"deepseek-v3", 4},	   {"falcon", 3},
		     {"tekken", 5},	    {"default", 3},	   {"jais-2", 2},
		     {"exaone-moe", 3},	    {"superbpe", 3},	   {"afmoe", 3}};
	size_t n = 1 << 20;
	char *text = malloc(n);

	cr_assert_not_null(text);
	for (size_t p = 0; p < NR(cases); p++) {
		struct fh_tokenizer *t = open_ok(
			cases[p].pre ? bpe_vocab(cases[p].pre, abc_more, NR(abc_more), abc_merges, NR(abc_merges))
				     : spm_vocab(spm_more, NR(spm_more), true));

		for (size_t u = 0; u < cases[p].nr_units; u++) {
			uint32_t *ids, nr;
			double begin;

			for (size_t i = 0; i < n; i++)
				text[i] = units[u][i % strlen(units[u])];
			begin = seconds();
			cr_assert_eq(fh_tokenize(t, text, n, 0, &ids, &nr), 0);
			cr_expect_lt(seconds() - begin, 20, "%s on unit %zu", cases[p].pre ? cases[p].pre : "spm", u);
			cr_expect_geq(nr, n / 8);
			free(ids);
		}
		fh_tokenizer_close(t);
	}
	free(text);
}
#endif

struct job {
	const struct fh_tokenizer *t;
	const char *text;
	size_t n;
	const uint32_t *want;
	uint32_t nr_want;
	int nr_wrong;
};

static void *tokenize_often(void *arg)
{
	struct job *j = arg;

	for (int i = 0; i < 50; i++) {
		uint32_t *ids, nr;

		if (fh_tokenize(j->t, j->text, j->n, 0, &ids, &nr)) {
			j->nr_wrong++;
			continue;
		}
		j->nr_wrong += nr != j->nr_want || memcmp(ids, j->want, nr * sizeof(*ids)) != 0;
		free(ids);
	}
	return NULL;
}

Test(tokenizer, one_for_many_threads)
{
	static const char text[] =
		"abc it's 123 aaaaaaaa \xf0\x9f\x98\x80 \xff and so on, abcabcabcabcabc abc abc abc bc ab abcab";
	struct fh_tokenizer *t = open_ok(bpe_vocab("deepseek-v3", abc_more, NR(abc_more), abc_merges, NR(abc_merges)));
	struct job jobs[4];
	pthread_t threads[4];
	uint32_t *want, nr;

	cr_assert_eq(fh_tokenize(t, text, sizeof(text), 0, &want, &nr), 0);
	for (int i = 0; i < 4; i++) {
		jobs[i] = (struct job){t, text, sizeof(text), want, nr, 0};
		cr_assert_eq(pthread_create(&threads[i], NULL, tokenize_often, &jobs[i]), 0);
	}
	for (int i = 0; i < 4; i++) {
		pthread_join(threads[i], NULL);
		cr_expect_eq(jobs[i].nr_wrong, 0);
	}
	free(want);
	fh_tokenizer_close(t);
}

static char *read_file(const char *path, size_t *n)
{
	FILE *f = fopen(path, "rb");
	char *p;

	cr_assert_not_null(f, "%s", path);
	fseek(f, 0, SEEK_END);
	*n = (size_t)ftell(f);
	rewind(f);
	p = calloc(*n + 1, 1);
	cr_assert(p && fread(p, 1, *n, f) == *n);
	fclose(f);
	return p;
}

/* One text of the vectors against its line of ids. */
static void check_vector(const struct fh_tokenizer *t, const char *name, const char *text, size_t n, char **line)
{
	uint32_t *ids, nr;
	char *end = strchr(*line, '\n');

	cr_assert_eq(fh_tokenize(t, text, n, 0, &ids, &nr), 0);
	if (end)
		*end = 0;
	for (uint32_t i = 0; i < nr; i++)
		cr_expect_eq(strtoul(*line, line, 10), ids[i], "%s: '%.*s': token %u", name, (int)n, text, i);
	*line += strspn(*line, " ");
	cr_expect_eq(**line, 0, "%s: '%.*s': too few tokens", name, (int)n, text);
	*line = end ? end + 1 : *line;
	free(ids);
}

static void check_vectors(const char *dir, const char *name)
{
	static const char sep[] = "\n__ggml_vocab_test__\n";
	char path[8192], *in, *out, *line, *at;
	struct fh_err err = {0};
	struct fh_tokenizer *t;
	struct fh_gguf *g;
	size_t n, unused;

	snprintf(path, sizeof(path), "%s/%s", dir, name);
	cr_assert_eq(fh_gguf_open(path, &g, &err), 0, "%s", err.msg);
	cr_assert_eq(fh_tokenizer_open(g, &t, &err), 0, "%s", err.msg);
	fh_gguf_close(g);
	snprintf(path, sizeof(path), "%s/%s.inp", dir, name);
	at = in = read_file(path, &n);
	snprintf(path, sizeof(path), "%s/%s.out", dir, name);
	line = out = read_file(path, &unused);
	for (;;) {
		char *end = memmem(at, (size_t)(in + n - at), sep, sizeof(sep) - 1);

		check_vector(t, name, at, (size_t)((end ? end : in + n) - at), &line);
		if (!end)
			break;
		at = end + sizeof(sep) - 1;
	}
	free(in);
	free(out);
	fh_tokenizer_close(t);
}

Test(tokenizer, vectors_of_the_fixtures)
{
	const char *shared = getenv("FREEHOLD_SHARED");
	struct dirent *e;
	char path[4000];
	int nr = 0;
	DIR *d;

	snprintf(path, sizeof(path), "%s/vocab", shared ? shared : "../shared");
	d = opendir(path);
	if (!d)
		cr_skip_test("no fixtures at %s (set FREEHOLD_SHARED)", path);
	while ((e = readdir(d))) {
		size_t n = strlen(e->d_name);

		if (n < 5 || strcmp(e->d_name + n - 5, ".gguf"))
			continue;
		check_vectors(path, e->d_name);
		nr++;
	}
	closedir(d);
	cr_expect_geq(nr, 1);
}
