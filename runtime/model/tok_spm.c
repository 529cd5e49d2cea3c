// SPDX-License-Identifier: Apache-2.0
/*
 * SentencePiece's BPE: characters join into the piece with the best score
 * (Kudo and Richardson, 2018; the merging is that of Sennrich et al., 2016).
 * What is no piece in the end is written as its bytes, <0xNN>, or as the
 * unknown token where the vocabulary has no bytes.
 *
 * Text arrives with plain spaces, which the keys have too (see tok_impl.h).
 */
#include "runtime/model/tok_impl.h"

#include "runtime/model/unicode.h"

static uint32_t spm_pair(const struct fh_tokenizer *t, const char *word, const struct fh_tok_symbol *left,
			 const struct fh_tok_symbol *right, uint32_t *order)
{
	uint32_t bytes = left->bytes + right->bytes, id;

	if (bytes > t->max_key_bytes)
		return FH_NO_TOKEN;
	id = fh_strmap_get(&t->by_key, &t->keys, word + left->at, bytes);
	if (id == FH_MAP_NONE)
		return FH_NO_TOKEN;
	*order = t->order[id];
	return id;
}

static int push_symbol(struct fh_tok_work *w, const char *word, const struct fh_tok_symbol *s)
{
	const struct fh_tokenizer *t = w->t;
	uint32_t id = s->id;

	if (id == FH_NO_TOKEN)
		id = fh_strmap_get(&t->by_key, &t->keys, word + s->at, s->bytes);
	if (id != FH_NO_TOKEN)
		return fh_tok_push(w, id);
	for (uint32_t i = 0; i < s->bytes; i++)
		if (t->byte_symbol[(uint8_t)word[s->at + i]] == FH_NO_TOKEN)
			return t->unk == FH_NO_TOKEN ? 0 : fh_tok_push(w, t->unk);
	for (uint32_t i = 0; i < s->bytes; i++) {
		int rc = fh_tok_push(w, t->byte_symbol[(uint8_t)word[s->at + i]]);

		if (rc)
			return rc;
	}
	return 0;
}

static int spm_word(struct fh_tok_work *w, const char *word, size_t bytes)
{
	uint32_t nr = 0;
	int rc = fh_tok_reserve(w, bytes);

	if (rc)
		return rc;
	for (size_t i = 0; i < bytes; nr++) {
		uint32_t cp;
		unsigned int len = fh_utf8_decode((const uint8_t *)word + i, bytes - i, &cp);

		if (!len)
			len = 1; /* a broken byte is a symbol of its own */
		w->symbols[nr] = (struct fh_tok_symbol){(uint32_t)i, len, nr - 1, nr + 1, FH_NO_TOKEN};
		i += len;
	}
	w->symbols[0].prev = FH_NO_TOKEN;
	w->symbols[nr - 1].next = FH_NO_TOKEN;
	fh_tok_merge(w, word, nr, spm_pair);
	for (uint32_t i = 0; i != FH_NO_TOKEN && !rc; i = w->symbols[i].next)
		rc = push_symbol(w, word, &w->symbols[i]);
	return rc;
}

int fh_tok_spm_text(struct fh_tok_work *w, const char *text, size_t bytes)
{
	int rc = 0;

	if (!bytes)
		return 0;
	if (!w->t->cut_at_spaces)
		return spm_word(w, text, bytes);
	/* No merge crosses from another character to a space, so the words between are merged one by one. */
	for (size_t at = 0, end; at < bytes && !rc; at = end) {
		end = at;
		while (end < bytes && text[end] == ' ')
			end++;
		while (end < bytes && text[end] != ' ')
			end++;
		rc = spm_word(w, text + at, end - at);
	}
	return rc;
}
