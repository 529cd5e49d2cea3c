// SPDX-License-Identifier: Apache-2.0
/*
 * Byte-level BPE (Radford et al., 2019): a word is a row of bytes, and the
 * pair that comes first in the list of merges joins first.
 *
 * The vocabulary writes bytes as printable characters; all of that is undone
 * when it is loaded, so that merging a word looks up pairs of numbers only.
 */
#include "runtime/model/tok_impl.h"

#include <stdlib.h>
#include <string.h>

#include "runtime/model/unicode.h"

#define MAX_MERGES (1u << 24)

/*
 * Bytes that Latin-1 prints stand for themselves; the other 68, in ascending
 * order, are U+0100 and following.
 */
int fh_tok_byte_level(uint32_t cp)
{
	if ((cp >= 0x21 && cp <= 0x7e) || (cp >= 0xa1 && cp <= 0xac) || (cp >= 0xae && cp <= 0xff))
		return (int)cp;
	if (cp >= 0x100 && cp <= 0x120)
		return (int)(cp - 0x100);
	if (cp >= 0x121 && cp <= 0x142)
		return (int)(cp - 0x121 + 0x7f);
	return cp == 0x143 ? 0xad : -1;
}

/* The symbol of @key, made where there is none; -errno. */
static int64_t intern(struct fh_tokenizer *t, const char *key, size_t n)
{
	uint32_t known = fh_strmap_get(&t->by_key, &t->keys, key, n);
	int rc;

	if (known != FH_MAP_NONE)
		return known;
	rc = fh_pool_add(&t->keys, key, n);
	return rc ? rc : fh_strmap_add(&t->by_key, &t->keys, t->keys.nr - 1);
}

/* Undo the byte-level alphabet from @s into @out, [s.n]; the length, or -EINVAL for a foreign character. */
static int decode(struct fh_str s, char *out)
{
	int n = 0;

	while (s.n) {
		uint32_t cp;
		unsigned int len = fh_utf8_decode((const uint8_t *)s.p, s.n, &cp);
		int byte = len ? fh_tok_byte_level(cp) : -1;

		if (byte < 0)
			return -EINVAL;
		out[n++] = (char)byte;
		s.p += len;
		s.n -= len;
	}
	return n;
}

static bool out_of_reach(const struct fh_tokenizer *t, int64_t symbol)
{
	return symbol < t->nr_vocab && t->attr[symbol] & (FH_TA_CONTROL | FH_TA_UNKNOWN);
}

/*
 * One merge, "left right".  The separator is the first space that is not the
 * first character.  One that no text can lead to, or that would let plain text
 * become a control token, is left out.  @scratch: [word.n].
 */
static int add_merge(struct fh_tokenizer *t, struct fh_str word, uint32_t rank, char *scratch)
{
	const char *space = word.n > 1 ? memchr(word.p + 1, ' ', word.n - 1) : NULL;
	int64_t left, right, merged;
	int nl, nr;

	if (!space)
		return 0;
	nl = decode((struct fh_str){word.p, (size_t)(space - word.p)}, scratch);
	if (nl <= 0)
		return 0;
	nr = decode((struct fh_str){space + 1, (size_t)(word.p + word.n - space - 1)}, scratch + nl);
	if (nr <= 0)
		return 0;
	left = intern(t, scratch, (size_t)nl);
	right = left < 0 ? left : intern(t, scratch + nl, (size_t)nr);
	merged = right < 0 ? right : intern(t, scratch, (size_t)(nl + nr));
	if (merged < 0)
		return (int)merged;
	if (out_of_reach(t, left) || out_of_reach(t, right) || out_of_reach(t, merged))
		return 0;
	return fh_pairmap_add(&t->merges, (uint32_t)left, (uint32_t)right, (uint64_t)rank << 32 | (uint32_t)merged);
}

static int add_bytes(struct fh_tokenizer *t)
{
	for (int b = 0; b < 256; b++) {
		int64_t symbol = intern(t, &(char){(char)b}, 1);

		if (symbol < 0)
			return (int)symbol;
		t->byte_symbol[b] = (uint32_t)symbol;
	}
	return 0;
}

int fh_tok_load_merges(struct fh_tokenizer *t, const struct fh_gguf *g, struct fh_err *err)
{
	struct fh_gguf_arr merges;
	size_t scratch_bytes = 0;
	char *scratch = NULL;
	int rc = fh_gguf_arr(g, "tokenizer.ggml.merges", &merges);

	if (rc || merges.type != FH_GGUF_STR || merges.n > MAX_MERGES)
		return fh_errf(err, -EINVAL, "%s: tokenizer.ggml.merges %s; a \"gpt2\" vocabulary needs its merges",
			       fh_gguf_path(g),
			       rc == -ENOENT ? "is missing" : "is not an array of at most 16777216 strings");
	rc = fh_pairmap_init(&t->merges, merges.n, t->seed);
	if (!rc)
		rc = add_bytes(t);
	for (uint64_t i = 0; i < merges.n && !rc; i++) {
		struct fh_str word = fh_gguf_arr_next(&merges);

		if (word.n > scratch_bytes) {
			free(scratch);
			scratch_bytes = word.n * 2;
			scratch = malloc(scratch_bytes);
		}
		rc = scratch || !word.n ? add_merge(t, word, (uint32_t)i, scratch) : -ENOMEM;
	}
	free(scratch);
	return rc ? fh_errf(err, rc, "%s: no memory for %llu merges", fh_gguf_path(g), (unsigned long long)merges.n)
		  : 0;
}

static uint32_t bpe_pair(const struct fh_tokenizer *t, const char *word, const struct fh_tok_symbol *left,
			 const struct fh_tok_symbol *right, uint32_t *order)
{
	uint64_t found = fh_pairmap_get(&t->merges, left->id, right->id);

	(void)word;
	if (found == FH_PAIR_NONE)
		return FH_NO_TOKEN;
	*order = (uint32_t)(found >> 32);
	return (uint32_t)found;
}

/*
 * A symbol that the vocabulary lacks is written as its bytes' tokens.  A byte
 * that has none is lost, as it is with everyone: such vocabularies name their
 * end of text as the unknown token, which plain text must not produce.
 */
static int push_symbol(struct fh_tok_work *w, const char *word, const struct fh_tok_symbol *s)
{
	const struct fh_tokenizer *t = w->t;
	int rc = 0;

	if (s->id < t->nr_vocab)
		return fh_tok_push(w, s->id);
	for (uint32_t i = 0; i < s->bytes && !rc; i++) {
		uint32_t id = t->byte_symbol[(uint8_t)word[s->at + i]];

		if (id < t->nr_vocab)
			rc = fh_tok_push(w, id);
	}
	return rc;
}

int fh_tok_bpe_word(struct fh_tok_work *w, const char *word, size_t bytes)
{
	const struct fh_tokenizer *t = w->t;
	int rc;

	if (t->ignore_merges && bytes <= t->max_key_bytes) {
		uint32_t id = fh_strmap_get(&t->by_key, &t->keys, word, bytes);

		if (id < t->nr_vocab && !out_of_reach(t, id))
			return fh_tok_push(w, id);
	}
	rc = fh_tok_reserve(w, bytes);
	if (rc)
		return rc;
	for (size_t i = 0; i < bytes; i++)
		w->symbols[i] = (struct fh_tok_symbol){(uint32_t)i, 1, (uint32_t)i - 1, (uint32_t)i + 1,
						       t->byte_symbol[(uint8_t)word[i]]};
	w->symbols[0].prev = FH_NO_TOKEN;
	w->symbols[bytes - 1].next = FH_NO_TOKEN;
	fh_tok_merge(w, word, (uint32_t)bytes, bpe_pair);
	for (uint32_t i = 0; i != FH_NO_TOKEN && !rc; i = w->symbols[i].next)
		rc = push_symbol(w, word, &w->symbols[i]);
	return rc;
}
