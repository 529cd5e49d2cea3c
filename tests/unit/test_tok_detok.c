// SPDX-License-Identifier: Apache-2.0
/*
 * From tokens to text: what a stream of tokens writes piece by piece against
 * what a decoder that sees all bytes at once makes of them.
 */
#include <criterion/criterion.h>

#include "runtime/model/unicode.h"
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

static bool whole_characters(const char *s, size_t n)
{
	for (size_t i = 0; i < n;) {
		uint32_t cp;
		unsigned int len = fh_utf8_decode((const uint8_t *)s + i, n - i, &cp);

		if (!len)
			return false;
		i += len;
	}
	return true;
}

/* Stream @ids; every step must write whole characters.  Returns the length of @out. */
static size_t stream(const struct fh_tokenizer *t, const uint32_t *ids, uint32_t nr, char *out)
{
	struct fh_detok d = {0};
	size_t n = 0, wrote;

	for (uint32_t i = 0; i <= nr; i++) {
		wrote = i < nr ? fh_detok_push(t, &d, ids[i], out + n, FH_DETOK_MAX)
			       : fh_detok_end(t, &d, out + n, FH_DETOK_MAX);
		cr_assert_leq(wrote, FH_DETOK_MAX);
		cr_assert(whole_characters(out + n, wrote), "token %u wrote part of a character", i);
		n += wrote;
	}
	return n;
}

static void expect_stream(const struct fh_tokenizer *t, const uint32_t *ids, uint32_t nr, const char *want)
{
	static char out[1 << 16];
	size_t n = stream(t, ids, nr, out);

	out[n] = 0;
	cr_expect_str_eq(out, want);
}

#define expect_text(t, want, ...)                                                                                      \
	expect_stream(t, (const uint32_t[]){__VA_ARGS__}, NR(((const uint32_t[]){__VA_ARGS__})), want)

/* Byte b of the small SPM vocabulary. */
#define B(b) (SPM_FIRST_BYTE + (b))

static const struct piece more[] = {
	{"\xe2\x96\x81hi", T_NORMAL, 0},
	{"<tool>", T_USER, 0},
	{"<ctl>", T_CONTROL, 0},
	{"unused", T_UNUSED, 0},
	{"a\xe2\x96\x81\xe2\x96\x81"
	 "b",
	 T_NORMAL, 0},
	{"\xe2\x96\x81", T_NORMAL, 0},
};

Test(tok_detok, spm_text)
{
	struct fh_tokenizer *t = open_ok(spm_vocab(more, NR(more), true));

	/* The first token that has text loses its space, whatever stands before; the others keep theirs. */
	expect_text(t, "hi hi", SPM_FIRST, SPM_FIRST);
	expect_text(t, "hi hi", 1, SPM_FIRST + 2, SPM_FIRST, 2, SPM_FIRST);
	expect_text(t, " hi", SPM_FIRST + 5, SPM_FIRST);
	expect_text(t, "<tool> hi", SPM_FIRST + 1, SPM_FIRST);
	expect_text(t, "a  b", SPM_FIRST + 4, SPM_FIRST + 3, 0, UINT32_MAX, SPM_FIRST + NR(more));
	fh_tokenizer_close(t);
}

Test(tok_detok, holds_back_part_of_a_character)
{
	struct fh_tokenizer *t = open_ok(spm_vocab(more, NR(more), true));
	struct fh_detok d = {0};
	char out[16];

	cr_expect_eq(fh_detok_push(t, &d, B(0xe2), out, sizeof(out)), 0);
	cr_expect_eq(fh_detok_push(t, &d, B(0x82), out, sizeof(out)), 0);
	cr_expect_eq(fh_detok_push(t, &d, 2, out, sizeof(out)), 0); /* a control token between changes nothing */
	cr_expect_eq(fh_detok_push(t, &d, B(0xac), out, sizeof(out)), 3);
	cr_expect_eq(memcmp(out, "\xe2\x82\xac", 3), 0);
	cr_expect_eq(d.nr_pending, 0);
	expect_text(t, "\xf0\x9f\x98\x80", B(0xf0), B(0x9f), B(0x98), B(0x80));
	fh_tokenizer_close(t);
}

#define R FH_UTF8_REPLACEMENT

Test(tok_detok, replaces_what_is_no_character)
{
	struct fh_tokenizer *t = open_ok(spm_vocab(more, NR(more), true));

	expect_text(t, R, B(0xff));
	expect_text(t, R R, B(0x80), B(0xbf));
	/* One for each longest run that could have begun a character (Unicode 15, section 3.9, table 3-8). */
	expect_text(t, "a" R R R "b" R "c" R R "d", B('a'), B(0xf1), B(0x80), B(0x80), B(0xe1), B(0x80), B(0xc2),
		    B('b'), B(0x80), B('c'), B(0x80), B(0xbf), B('d'));
	expect_text(t, R R R R "A" R R "B", B(0xc0), B(0xaf), B(0xe0), B(0x80), B('A'), B(0xc0), B(0xaf), B('B'));
	expect_text(t, R R R, B(0xed), B(0xa0), B(0x80));
	expect_text(t, R R R R, B(0xf4), B(0x90), B(0x80), B(0x80));
	expect_text(t, R, B(0xe2), B(0x82));
	expect_text(t, R " hi", B(0xe2), SPM_FIRST);
	fh_tokenizer_close(t);
}

Test(tok_detok, raw_bytes_of_a_token)
{
	struct fh_tokenizer *t = open_ok(spm_vocab(more, NR(more), true));
	char out[8];

	cr_expect_eq(fh_token_bytes(t, SPM_FIRST, true, out, sizeof(out)), 2);
	cr_expect_eq(memcmp(out, "hi", 2), 0);
	cr_expect_eq(fh_token_bytes(t, SPM_FIRST, false, out, sizeof(out)), 3);
	cr_expect_eq(memcmp(out, " hi", 3), 0);
	cr_expect_eq(fh_token_bytes(t, SPM_FIRST, false, out, 1), 1);
	cr_expect_eq(fh_token_bytes(t, B(0xe2), true, out, sizeof(out)), 1);
	cr_expect_eq((uint8_t)out[0], 0xe2);
	cr_expect_eq(fh_token_bytes(t, SPM_FIRST + 2, false, out, sizeof(out)), 0);
	cr_expect_eq(fh_token_bytes(t, UINT32_MAX, false, out, sizeof(out)), 0);
	fh_tokenizer_close(t);
}

Test(tok_detok, never_writes_beyond_the_buffer)
{
	struct fh_tokenizer *t = open_ok(spm_vocab(more, NR(more), true));
	struct fh_detok d = {.started = true};
	char out[4] = {0, 0, 0, 'x'};

	cr_expect_leq(fh_detok_push(t, &d, SPM_FIRST + 1, out, 3), 3);
	cr_expect_eq(fh_detok_push(t, &d, B(0xff), out, 2), 0);
	cr_expect_eq(out[3], 'x');
	fh_tokenizer_close(t);
}

static uint64_t next_random(uint64_t *state)
{
	*state = *state * 6364136223846793005u + 1442695040888963407u;
	return *state >> 33;
}

/* The same in one go, written anew: PCRE-free, state-free. */
static size_t decode_at_once(const uint8_t *p, size_t n, char *out)
{
	size_t w = 0;

	for (size_t i = 0; i < n;) {
		size_t len = p[i] < 0x80   ? 1
			     : p[i] < 0xc2 ? 0
			     : p[i] < 0xe0 ? 2
			     : p[i] < 0xf0 ? 3
			     : p[i] < 0xf5 ? 4
					   : 0,
		       k = 1;

		for (; k < len && i + k < n; k++) {
			uint8_t low = 0x80, high = 0xbf;

			if (k == 1 && p[i] == 0xe0)
				low = 0xa0;
			if (k == 1 && p[i] == 0xed)
				high = 0x9f;
			if (k == 1 && p[i] == 0xf0)
				low = 0x90;
			if (k == 1 && p[i] == 0xf4)
				high = 0x8f;
			if (p[i + k] < low || p[i + k] > high)
				break;
		}
		if (k == len)
			memcpy(out + w, p + i, len);
		else
			memcpy(out + w, R, 3);
		w += k == len ? len : 3;
		i += k;
	}
	return w;
}

/* Bytes that are likely to make, and to spoil, characters. */
static size_t random_bytes(uint64_t *seed, uint8_t *p, size_t max)
{
	static const uint8_t often[] = {'a',  ' ',  0x80, 0xbf, 0xc3, 0xe2, 0x82, 0xed,
					0xa0, 0xf0, 0x9f, 0x98, 0xf4, 0x90, 0xff};
	size_t n = next_random(seed) % max;

	for (size_t i = 0; i < n; i++) {
		p[i] = next_random(seed) % 4 ? often[next_random(seed) % NR(often)] : (uint8_t)next_random(seed);
		if (p[i] == 0x96)
			p[i]++; /* no U+2581: it comes back as a space */
	}
	return n;
}

Test(tok_detok, a_stream_equals_one_shot)
{
	static const char *const merges[] = {"\xc3\xa2 \xc4\xa4", "a \xc3\xb0", "\xc3\xb0 \xc5\x81"};
	static const struct piece made[] = {
		{"\xc3\xa2\xc4\xa4", T_NORMAL, 0}, {"a\xc3\xb0", T_NORMAL, 0}, {"\xc3\xb0\xc5\x81", T_NORMAL, 0}};
	struct fh_tokenizer *spm = open_ok(spm_vocab(more, NR(more), true));
	struct fh_tokenizer *bpe = open_ok(bpe_vocab("gpt-2", made, NR(made), merges, NR(merges)));
	static char streamed[4096], once[4096], back[512];
	uint64_t seed = 1;
	uint8_t raw[256];

	for (int round = 0; round < 20000; round++) {
		const struct fh_tokenizer *t = round & 1 ? spm : bpe;
		size_t n = random_bytes(&seed, raw, sizeof(raw)), nr_once, nr_streamed, nr_back = 0;
		uint32_t *ids, nr;

		cr_assert_eq(fh_tokenize(t, (const char *)raw, n, 0, &ids, &nr), 0);
		nr_streamed = stream(t, ids, nr, streamed);
		nr_once = decode_at_once(raw, n, once);
		cr_assert(nr_streamed == nr_once && !memcmp(streamed, once, nr_once), "round %d", round);
		/* And the raw bytes come back as they were. */
		for (uint32_t i = 0; i < nr; i++)
			nr_back += fh_token_bytes(t, ids[i], i == 0, back + nr_back, sizeof(back) - nr_back);
		cr_assert(nr_back == n && !memcmp(back, raw, n), "round %d", round);
		free(ids);
	}
	fh_tokenizer_close(spm);
	fh_tokenizer_close(bpe);
}

Test(tok_detok, utf8_of_every_number)
{
	char out[4];

	for (uint32_t cp = 0; cp <= 0x10ffff; cp++) {
		unsigned int len = fh_utf8_encode(cp, out);
		uint32_t back = 0;
		bool surrogate = cp >= 0xd800 && cp <= 0xdfff;

		cr_assert_eq(fh_utf8_decode((const uint8_t *)out, len, &back), surrogate ? 0 : len);
		cr_assert(surrogate || back == cp);
		if (!surrogate && len > 1)
			cr_assert_eq(fh_utf8_partial((const uint8_t *)out, len - 1), len - 1);
	}
	cr_expect_not(fh_unicode_plain("\xf0\xb1\x8d\x90", 4)); /* U+31350, a letter since Unicode 15 */
	cr_expect_not(fh_unicode_plain("abcdefgh\xff", 9));
	cr_expect(fh_unicode_plain("abcdefgh\xc3\xa9", 10));
}
