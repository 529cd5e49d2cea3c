// SPDX-License-Identifier: Apache-2.0
/*
 * From text to tokens: special tokens are cut out first, what lies between
 * them is normalized, cut into words and merged.
 *
 * A call works in one struct fh_tok_work on its stack; only a long word, a
 * long SPM text, text that is not well-formed and the result need the heap.
 */
#include "runtime/model/tok_impl.h"

#include <ctype.h>
#include <stdlib.h>
#include <string.h>

#include "runtime/model/unicode.h"

#define SPACE_MARK "\xe2\x96\x81"
#define SPACE_MARK_BYTES 3

/*
 * SentencePiece's normalization, as far as GGUF carries it: U+2581 is a space,
 * a space goes before the first word, runs of spaces shrink to one (and vanish
 * at the ends) where the model says so.  @out: [bytes + 1].  Returns its length.
 */
static size_t spm_normalize(const struct fh_tokenizer *t, const char *text, size_t bytes, bool prefix, char *out)
{
	size_t n = 0, first;

	if (prefix)
		out[n++] = ' ';
	first = n;
	for (size_t i = 0; i < bytes; i++) {
		char c = text[i];

		if (c == SPACE_MARK[0] && bytes - i >= SPACE_MARK_BYTES &&
		    !memcmp(text + i, SPACE_MARK, SPACE_MARK_BYTES)) {
			c = ' ';
			i += SPACE_MARK_BYTES - 1;
		}
		if (c == ' ' && t->remove_extra_spaces && (n == first || out[n - 1] == ' '))
			continue;
		out[n++] = c;
	}
	if (t->remove_extra_spaces) {
		while (n > first && out[n - 1] == ' ')
			n--;
		if (n == first)
			n = 0;
	}
	return n;
}

static int spm_fragment(struct fh_tok_work *w, const char *text, size_t bytes, bool after_special)
{
	bool prefix = w->t->add_space_prefix && after_special;
	char fixed[2048], *buf = fixed;
	size_t n;
	int rc;

	if (!prefix && !w->t->remove_extra_spaces && !memmem(text, bytes, SPACE_MARK, SPACE_MARK_BYTES))
		return fh_tok_spm_text(w, text, bytes);
	fixed[0] = 0;
	if (bytes + 1 > sizeof(fixed)) {
		buf = malloc(bytes + 1);
		if (!buf)
			return -ENOMEM;
	}
	n = spm_normalize(w->t, text, bytes, prefix, buf);
	rc = fh_tok_spm_text(w, buf, n);
	if (buf != fixed)
		free(buf);
	return rc;
}

static int bpe_fragment(struct fh_tok_work *w, const char *text, size_t bytes)
{
	char *shadow;
	int rc;

	if (!w->match) {
		w->match = pcre2_match_data_create(1, NULL);
		if (!w->match)
			return -ENOMEM;
	}
	if (fh_unicode_plain(text, bytes))
		return fh_tok_split(w, text, text, bytes, fh_tok_bpe_word);
	shadow = malloc(bytes);
	if (!shadow)
		return -ENOMEM;
	fh_unicode_shadow(text, bytes, shadow);
	rc = fh_tok_split(w, shadow, text, bytes, fh_tok_bpe_word);
	free(shadow);
	return rc;
}

static int fragment(struct fh_tok_work *w, const char *text, size_t bytes, bool after_special)
{
	if (!bytes)
		return 0;
	return w->t->kind == FH_TOK_SPM ? spm_fragment(w, text, bytes, after_special) : bpe_fragment(w, text, bytes);
}

static bool is_space(char c)
{
	return c == ' ' || (c >= '\t' && c <= '\r');
}

static int encode(struct fh_tok_work *w, const char *text, size_t bytes, bool all)
{
	const struct fh_tokenizer *t = w->t;
	const bool *first = all ? t->first_special : t->first_user;
	bool after_special = true;
	size_t start = 0, at = 0;
	int rc = 0;

	while (at < bytes && !rc) {
		size_t len = 0, end = at;
		uint32_t id = FH_NO_TOKEN;

		if (first[(uint8_t)text[at]])
			id = fh_tok_special_at(t, text + at, bytes - at, all, &len);
		if (id == FH_NO_TOKEN) {
			at++;
			continue;
		}
		while (t->attr[id] & FH_TA_LSTRIP && end > start && is_space(text[end - 1]))
			end--;
		rc = fragment(w, text + start, end - start, after_special);
		if (!rc)
			rc = fh_tok_push(w, id);
		after_special = true;
		at += len;
		while (t->attr[id] & FH_TA_RSTRIP && at < bytes && is_space(text[at]))
			at++;
		start = at;
	}
	return rc ? rc : fragment(w, text + start, bytes - start, after_special);
}

int fh_tokenize(const struct fh_tokenizer *t, const char *text, size_t bytes, unsigned int flags, uint32_t **ids,
		uint32_t *nr)
{
	struct fh_tok_work w;
	int rc = 0;

	*ids = NULL;
	*nr = 0;
	if (bytes >= UINT32_MAX / 2)
		return -E2BIG;
	w.t = t;
	w.nr_ids = 0;
	w.ids_cap = bytes / 4 + 16;
	w.symbols = w.fixed_symbols;
	w.heap = w.fixed_heap;
	w.symbols_cap = FH_TOK_FIXED;
	w.match = NULL;
	w.ids = malloc(w.ids_cap * sizeof(*w.ids));
	if (!w.ids)
		return -ENOMEM;
	if (flags & FH_TOK_BOS && t->add_bos && t->bos != FH_NO_TOKEN)
		rc = fh_tok_push(&w, t->bos);
	if (!rc)
		rc = encode(&w, text, bytes, flags & FH_TOK_SPECIAL);
	if (!rc && flags & FH_TOK_BOS && t->add_eos && t->eos != FH_NO_TOKEN)
		rc = fh_tok_push(&w, t->eos);
	pcre2_match_data_free(w.match);
	if (w.symbols != w.fixed_symbols) {
		free(w.symbols);
		free(w.heap);
	}
	if (rc) {
		free(w.ids);
		return rc;
	}
	*ids = w.ids;
	*nr = w.nr_ids;
	return 0;
}
