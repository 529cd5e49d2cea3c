// SPDX-License-Identifier: Apache-2.0
/*
 * libFuzzer target: tokenizer.  The first byte chooses a vocabulary, the
 * second how it is used, the rest is the text.  Small SPM and byte-level
 * vocabularies are built once; with the last choice the rest is not a text but
 * a vocabulary, of pieces and merges that the fuzzer makes up.
 *
 * Checked: decoding gives the text back (byte for byte, where no special token
 * and no normalization stands between), a stream of tokens writes what their
 * bytes are worth, ids are in range, and special tokens appear only if asked for.
 */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "runtime/base/log.h"
#include "runtime/model/unicode.h"
#include "tests/unit/tok_vocab.h"

int LLVMFuzzerInitialize(int *argc, char ***argv);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define NR(a) (sizeof(a) / sizeof((a)[0]))

/* One of each kind of rule. */
static const char *const pres[] = {
	"gpt-2",	"llama-bpe",
	"qwen2",	"qwen35",
	"deepseek-llm", "deepseek-coder",
	"deepseek-v3",	"falcon",
	"starcoder",	"tekken",
	"gpt-4o",	"default",
	"jais-2",	"exaone-moe",
	"superbpe",	"afmoe",
	"kimi-k2",	"chameleon",
	"viking",	"youtu",
	"tiny_aya",	"granite-embed-multi-97m",
	"laguna",	"bailingmoe",
	"minicpm5",	"seed-coder",
	"spark2_5",
};

#define NR_SPM 3
static struct fh_tokenizer *vocabs[NR_SPM + NR(pres)];

static const struct piece spm_pieces[] = {
	{"\xe2\x96\x81", T_NORMAL, -9},
	{"a", T_NORMAL, -11},
	{"b", T_NORMAL, -12},
	{"ab", T_NORMAL, -2},
	{"\xe2\x96\x81"
	 "a",
	 T_NORMAL, -3},
	{"aa", T_NORMAL, -4},
	{"aaaa", T_NORMAL, -5},
	{"\xe2\x96\x81\xe2\x96\x81", T_NORMAL, -1},
	{"<t>", T_USER, 0},
	{"<c>", T_CONTROL, 0},
	{"\xc3\xa9", T_NORMAL, -7},
};
static const struct piece crossing = {"a\xe2\x96\x81"
				      "b",
				      T_NORMAL, -1};
static const struct piece bpe_pieces[] = {
	{"aa", T_NORMAL, 0},
	{"aaaa", T_NORMAL, 0},
	{"\xc4\xa0"
	 "a",
	 T_NORMAL, 0},
	{"ab", T_NORMAL, 0},
	{"<t>", T_USER, 0},
	{"<c>", T_CONTROL, 0},
	{"\xc4\xa0\xc4\xa0", T_NORMAL, 0},
	{"\xc3\xa2\xc4\xa4", T_NORMAL, 0},
};
static const char *const bpe_merges[] = {"a a", "aa aa", "\xc4\xa0 a", "a b", "\xc4\xa0 \xc4\xa0", "\xc3\xa2 \xc4\xa4",
					 "< c", "<c >"};

static struct fh_tokenizer *open_ok(struct vocab v)
{
	struct fh_tokenizer *t;
	struct fh_err err;

	if (vocab_open(&v, &t, &err))
		abort();
	vocab_free(&v);
	return t;
}

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
	struct piece with_crossing[NR(spm_pieces) + 1];

	(void)argc, (void)argv;
	fh_log_setup(FH_LOG_ERROR, false); /* made-up vocabularies give reason to warn */
	memcpy(with_crossing, spm_pieces, sizeof(spm_pieces));
	with_crossing[NR(spm_pieces)] = crossing;
	vocabs[0] = open_ok(spm_vocab(spm_pieces, NR(spm_pieces), true));
	vocabs[1] = open_ok(spm_vocab(with_crossing, NR(with_crossing), true));
	vocabs[2] = open_ok(spm_vocab(spm_pieces, NR(spm_pieces), false)); /* no bytes: loses what it does not know */
	for (size_t i = 0; i < NR(pres); i++)
		vocabs[NR_SPM + i] =
			open_ok(bpe_vocab(pres[i], bpe_pieces, NR(bpe_pieces), bpe_merges, NR(bpe_merges)));
	return 0;
}

static void check_whole_characters(const char *s, size_t n)
{
	for (size_t i = 0; i < n;) {
		uint32_t cp;
		unsigned int len = fh_utf8_decode((const uint8_t *)s + i, n - i, &cp);

		if (!len)
			abort();
		i += len;
	}
}

/* The bytes of the tokens against the text, if it must come back, and what a stream of them writes. */
static void check_decoding(const struct fh_tokenizer *t, const uint32_t *ids, uint32_t nr, const char *text, size_t n,
			   bool exact)
{
	struct fh_detok d = {0};
	char out[FH_DETOK_MAX];
	size_t at = 0, streamed = 0, len;

	for (uint32_t i = 0; i < nr; i++) {
		len = fh_token_bytes(t, ids[i], i == 0, out, sizeof(out));
		if (exact && (len > n - at || memcmp(text + at, out, len)))
			abort();
		at += len;
		len = fh_detok_push(t, &d, ids[i], out, sizeof(out));
		check_whole_characters(out, len);
		if (exact && fh_unicode_plain(text, n) && memcmp(text + streamed, out, len))
			abort();
		streamed += len;
	}
	len = fh_detok_end(t, &d, out, sizeof(out));
	check_whole_characters(out, len);
	if (exact && (at != n || streamed + len < n / 4))
		abort();
	if (exact && fh_unicode_plain(text, n) && (len || streamed != n))
		abort();
}

static void tokenize(const struct fh_tokenizer *t, uint8_t how, const char *text, size_t n, bool ours, bool exact)
{
	unsigned int flags = how & (FH_TOK_BOS | FH_TOK_SPECIAL);
	uint32_t *ids, nr;

	if (fh_tokenize(t, text, n, flags, &ids, &nr))
		abort();
	for (uint32_t i = 0; i < nr; i++) {
		struct fh_str s = fh_tokenizer_piece(t, ids[i]);

		if (ids[i] >= fh_tokenizer_nr_vocab(t))
			abort();
		if (!(flags & FH_TOK_SPECIAL) && ours && s.n == 3 && !memcmp(s.p, "<c>", 3))
			abort();
	}
	check_decoding(t, ids, nr, text, n, exact && !flags);
	free(ids);
}

/* A vocabulary out of @p: pieces end at 0xfe, and from the first empty one on they are merges. */
static void made_up_vocab(uint8_t how, const uint8_t *p, size_t n)
{
	struct vocab v = vocab_begin();
	struct vocab list = {0};
	struct fh_tokenizer *t;
	struct fh_err err = {0};
	uint64_t nr_pieces = 0;
	size_t at = 0;

	while (at < n) {
		const uint8_t *end = memchr(p + at, 0xfe, n - at);
		size_t len = end ? (size_t)(end - p) - at : n - at;

		v_u64(&list, len);
		v_put(&list, p + at, len);
		nr_pieces++;
		at += len + 1;
	}
	v_key_str(&v, "tokenizer.ggml.model", how & 4 ? "llama" : "gpt2");
	v_key_str(&v, "tokenizer.ggml.pre", pres[how % NR(pres)]);
	v_key_arr(&v, "tokenizer.ggml.tokens", FH_GGUF_STR, nr_pieces);
	v_put(&v, list.p, list.n);
	v_key_arr(&v, "tokenizer.ggml.merges", FH_GGUF_STR, nr_pieces);
	v_put(&v, list.p, list.n);
	if (how & 8) {
		v_key_arr(&v, "tokenizer.ggml.token_type", FH_GGUF_U8, nr_pieces);
		v_put(&v, p, nr_pieces);
	}
	if (how & 16) {
		v_key_arr(&v, "tokenizer.ggml.scores", FH_GGUF_I8, nr_pieces);
		v_put(&v, p, nr_pieces);
	}
	if (n && how & 32)
		v_key_u32(&v, "tokenizer.ggml.bos_token_id", p[0]);
	if (!vocab_open(&v, &t, &err)) {
		tokenize(t, how, (const char *)p, n, false, false);
		fh_tokenizer_close(t);
	} else if (!err.msg[0] || err.code >= 0) {
		abort();
	}
	vocab_free(&v);
	vocab_free(&list);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	const char *text = (const char *)data + 2;
	size_t which;

	if (size < 2)
		return 0;
	which = data[0] % (NR(vocabs) + 1);
	size -= 2;
	if (which == NR(vocabs)) {
		made_up_vocab(data[1], data + 2, size);
	} else {
		/* U+2581 comes back as a space, <t> takes a space of its own, an unknown character is lost. */
		bool exact = which >= NR_SPM ||
			     (which < 2 && !memmem(text, size, "\xe2\x96\x81", 3) && !memmem(text, size, "<t>", 3));

		tokenize(vocabs[which], data[1], text, size, true, exact);
	}
	return 0;
}
