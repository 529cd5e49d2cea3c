// SPDX-License-Identifier: Apache-2.0
/*
 * How each pre-tokenizer cuts text into words.  The expected pieces follow
 * from the patterns in the models' published tokenizer.json files, worked out
 * by hand; '|' separates them, so no text here has one.
 */
#include <criterion/criterion.h>

#include "runtime/model/tok_impl.h"
#include "runtime/model/unicode.h"
#include "tests/unit/tok_vocab.h"

/* The work of a call, with what its words are collected in. */
struct collector {
	struct fh_tok_work work; /* first: the callback gets its address */
	char out[8192];
	size_t n;
};

static int collect(struct fh_tok_work *w, const char *real, size_t bytes)
{
	struct collector *c = (struct collector *)w;

	cr_assert_gt(bytes, 0);
	cr_assert_lt(c->n + bytes + 2, sizeof(c->out));
	if (c->n)
		c->out[c->n++] = '|';
	memcpy(c->out + c->n, real, bytes);
	c->n += bytes;
	c->out[c->n] = 0;
	return 0;
}

static void expect_cut(const char *pre, const char *text, const char *want)
{
	static struct collector c;
	struct vocab v = bpe_vocab(pre, NULL, 0, NULL, 0);
	struct fh_tokenizer *t;
	struct fh_err err = {0};
	size_t n = strlen(text);
	char *shadow = malloc(n + 1);

	cr_assert(shadow);
	cr_assert_eq(vocab_open(&v, &t, &err), 0, "%s", err.msg);
	vocab_free(&v);
	fh_unicode_shadow(text, n, shadow);
	c.n = 0;
	c.out[0] = 0;
	c.work.t = t;
	c.work.match = pcre2_match_data_create(1, NULL);
	cr_assert_eq(fh_tok_split(&c.work, shadow, text, n, collect), 0);
	cr_expect_str_eq(c.out, want, "%s: '%s': cut as '%s', not '%s'", pre, text, c.out, want);
	pcre2_match_data_free(c.work.match);
	free(shadow);
	fh_tokenizer_close(t);
}

#define NBSP "\xc2\xa0"
#define E_ACUTE "\xc3\xa9"
#define COMBINING_ACUTE "\xcc\x81"
#define ARABIC_12 "\xd9\xa1\xd9\xa2"
#define HAN_2 "\xe6\xbc\xa2\xe5\xad\x97"
#define KANA "\xe3\x82\xab"
#define IDEOGRAPHIC_SPACE "\xe3\x80\x80"
#define EMOJI "\xf0\x9f\x98\x80"
#define LONG_S "\xc5\xbf"

Test(tok_split, gpt2)
{
	expect_cut("gpt-2", "Hello world", "Hello| world");
	expect_cut("gpt-2", "it's I'M we'll they'Re", "it|'s| I|'|M| we|'ll| they|'|Re");
	expect_cut("gpt-2", "a  b   c ", "a| | b|  | c| ");
	expect_cut("gpt-2", "a\n\n b\t\tc", "a|\n\n| b|\t|\t|c");
	expect_cut("gpt-2", "x12y 345.6!?", "x|12|y| 345|.|6|!?");
	expect_cut("gpt-2", NBSP "a " NBSP, NBSP "|a| " NBSP);
	expect_cut("gpt-2", ARABIC_12 " " HAN_2 "!", ARABIC_12 "| " HAN_2 "|!");
	expect_cut("gpt-2", "e" COMBINING_ACUTE EMOJI, "e|" COMBINING_ACUTE EMOJI);
	/* U+180E is no white space, U+0085 is. */
	expect_cut("gpt-2",
		   "a\xe1\xa0\x8e"
		   "b\xc2\x85"
		   "c",
		   "a|\xe1\xa0\x8e|b|\xc2\x85|c");
	/* A letter of Unicode 15 is a letter, whatever the library's tables say. */
	expect_cut("gpt-2",
		   "a\xf0\xb1\x8d\x90"
		   "b!",
		   "a\xf0\xb1\x8d\x90"
		   "b|!");
	/* A broken byte is a sign. */
	expect_cut("gpt-2",
		   "a\xff"
		   "b \xff!",
		   "a|\xff|b| \xff!");
}

Test(tok_split, digits_one_by_one)
{
	expect_cut("starcoder", "a 123!", "a| |1|2|3|!");
	expect_cut("refact", "1 2", "1| |2");
	expect_cut("command-r", "it's  " ARABIC_12, "it|'s|  |\xd9\xa1|\xd9\xa2");
	expect_cut("smollm", "x  y", "x| | y");
}

Test(tok_split, llama3)
{
	expect_cut("llama-bpe", "Hello world's I'M", "Hello| world|'s| I|'M");
	expect_cut("llama3", "'" LONG_S "x", "'" LONG_S "x");
	expect_cut("llama-v3", "12345 6", "123|45| |6");
	expect_cut("falcon3", "#tag \tx .y", "#tag| |\tx| .|y");
	expect_cut("dbrx", "a \n\n  b", "a| \n\n| | b");
	expect_cut("dbrx", "end!\n\n x", "end|!\n\n| x");
	expect_cut("smaug-bpe", "a  ", "a|  ");
	expect_cut("llama-bpe", "\r\n\r\nx " EMOJI, "\r\n\r\n|x| " EMOJI);
	expect_cut("llama-bpe", "don" COMBINING_ACUTE "t", "don|" COMBINING_ACUTE "t");
}

Test(tok_split, qwen)
{
	expect_cut("qwen2", "a 123'LL", "a| |1|2|3|'LL");
	expect_cut("deepseek-r1-qwen", "x\n y", "x|\n| y");
	expect_cut("megrez", "caf" E_ACUTE "!", "caf" E_ACUTE "|!");
	/* Marks belong to words since Qwen 3.5. */
	expect_cut("qwen2", "e" COMBINING_ACUTE "e", "e|" COMBINING_ACUTE "e");
	expect_cut("qwen35", "e" COMBINING_ACUTE "e " COMBINING_ACUTE, "e" COMBINING_ACUTE "e| " COMBINING_ACUTE);
}

Test(tok_split, deepseek)
{
	expect_cut("deepseek-llm", "Hi there, 123", "Hi| there|,| |123");
	expect_cut("deepseek-llm", "a\r\nb  ", "a|\r|\n|b|  ");
	expect_cut("deepseek-llm", "x" HAN_2 "y", "x|" HAN_2 "|y");
	expect_cut("deepseek-llm", "x" IDEOGRAPHIC_SPACE HAN_2, "x|" IDEOGRAPHIC_SPACE "|" HAN_2);
	expect_cut("deepseek-llm", "a   b", "a|  | b");
	expect_cut("deepseek-coder", "if x1 == 23:", "if| x|1| == |2|3|:");
	expect_cut("deepseek-coder", "a, b" HAN_2, "a|,| b|" HAN_2);
	expect_cut("deepseek-v3", "a1234 .x", "a|123|4| .|x");
	expect_cut("deepseek-v3", "_abc!\n" HAN_2 KANA, "_abc|!\n|" HAN_2 KANA);
	expect_cut("deepseek-v3", "\x01\x02 e" COMBINING_ACUTE, "\x01\x02| e" COMBINING_ACUTE);
}

Test(tok_split, falcon)
{
	expect_cut("falcon", "a+b, 12345", "a|+|b|,| |123|45");
	expect_cut("falcon", "x=`1234`", "x|=`|123|4|`");
}

Test(tok_split, the_default)
{
	expect_cut("default", "It's (1234)", "It|'|s| |(|123|4|)");
	expect_cut("default", "a  b\n", "a| | b|\n");
}

Test(tok_split, cased)
{
	expect_cut("tekken", "HelloWORLDfoo", "Hello|WORLDfoo");
	expect_cut("tekken", "iPhone 12/\n", "i|Phone| |1|2|/\n");
	expect_cut("tekken", "it's", "it|'s");
	expect_cut("gpt-4o", "it's WE'LL", "it's| WE'LL");
	expect_cut("gpt-4o", "HTTPServer 1234", "HTTPServer| |123|4");
	expect_cut("o200k", "aB", "a|B");
	/* Letters outside ASCII count as either case. */
	expect_cut("gpt-4o", "A" E_ACUTE "A" E_ACUTE, "A" E_ACUTE "A" E_ACUTE);
	expect_cut("gpt-4o", E_ACUTE "AA", E_ACUTE "|AA");
	expect_cut("granite-embed-multi-97m", "e" COMBINING_ACUTE "x", "e" COMBINING_ACUTE "x");
}

Test(tok_split, groups_of_three_from_the_right)
{
	expect_cut("superbpe", "ab cd 1234567", "ab cd |1|234|567");
	expect_cut("tiny_aya", "1234567 12", "1|234|567| |12");
	expect_cut("afmoe", "x1234", "x|1|234");
}

Test(tok_split, spaces_by_halves)
{
	char text[1200], want[1300], *w = want;

	memset(text, ' ', sizeof(text));
	strcpy(text + 512 + 4 + 3 + 1, "1");
	for (int n = 512, at = 0; n; at += n, n = at == 512 ? 4 : at == 516 ? 2 : at == 518 ? 1 : 0) {
		memset(w, ' ', (size_t)n);
		w += n;
		*w++ = '|';
	}
	strcpy(w, " |1");
	expect_cut("jais-2", text, want);
	expect_cut("jais-2", "a   \n   b", "a|   \n|  | b");
}

Test(tok_split, others)
{
	expect_cut("poro-chat", "ab.cd, ef", "ab|.|cd|,| ef");
	expect_cut("viking", "ab12", "ab|1|2");
	expect_cut("kimi-k2", "x" HAN_2 "y's", "x|" HAN_2 "|y's");
	expect_cut("chameleon", "a<sentinel:12>  b1", "a|<|sentinel|:|1|2|>|  |b|1");
	expect_cut("exaone-moe", "ab cd e", "ab cd e");
	expect_cut("bailingmoe", "a's\n\n", "a|'s|\n\n");
	expect_cut("laguna", "a\n\nb c", "a|\n\n|b| c");
	expect_cut("minicpm5", "a1234", "a|123|4");
	expect_cut("seed-coder", "!\n", "!|\n");
	expect_cut("ufakzeka", "x'in", "x|'in");
	expect_cut("youtu", HAN_2 "a12", HAN_2 "|a|1|2");
}
