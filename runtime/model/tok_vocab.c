// SPDX-License-Identifier: Apache-2.0
/*
 * The vocabulary: pieces, types and scores of tokenizer.ggml.*, and what
 * follows from them: the text that a token is written out as and the text
 * that it is found by.
 *
 * The file is not trusted: an array that is too short or of the wrong type is
 * refused, an id out of range is no id, an empty or repeated piece is legal
 * and is never found in a text (of equal pieces the first one is).
 */
#include "runtime/model/tok_impl.h"

#include <assert.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "runtime/base/log.h"
#include "runtime/model/unicode.h"

#define MAX_TOKENS (1u << 24)
#define SPACE_MARK "\xe2\x96\x81" /* U+2581, SentencePiece's space */
#define SPACE_MARK_BYTES 3

static int load_pieces(struct fh_tokenizer *t, const struct fh_gguf *g, struct fh_err *err)
{
	struct fh_gguf_arr tokens;
	int rc = fh_gguf_arr(g, "tokenizer.ggml.tokens", &tokens);

	if (rc || tokens.type != FH_GGUF_STR || !tokens.n)
		return fh_errf(err, -EINVAL,
			       "%s: tokenizer.ggml.tokens %s; a model that serves text needs a vocabulary",
			       fh_gguf_path(g), rc == -ENOENT ? "is missing" : "is not an array of strings");
	if (tokens.n > MAX_TOKENS)
		return fh_errf(err, -EINVAL, "%s: tokenizer.ggml.tokens has %llu entries; at most %u are supported",
			       fh_gguf_path(g), (unsigned long long)tokens.n, MAX_TOKENS);
	t->nr_vocab = (uint32_t)tokens.n;
	for (uint32_t i = 0; i < t->nr_vocab; i++) {
		struct fh_str s = fh_gguf_arr_next(&tokens);

		rc = fh_pool_add(&t->pieces, s.p, s.n);
		if (rc)
			return fh_errf(err, rc, "%s: no memory for the vocabulary at token %u", fh_gguf_path(g), i);
	}
	return 0;
}

/* <0xNN>: the byte, or -1. */
static int byte_piece(struct fh_str s)
{
	static const char digits[] = "0123456789abcdef0123456789ABCDEF";
	const char *hi, *lo;

	if (s.n != 6 || memcmp(s.p, "<0x", 3) || s.p[5] != '>' || !s.p[3] || !s.p[4])
		return -1;
	hi = strchr(digits, s.p[3]);
	lo = strchr(digits, s.p[4]);
	return hi && lo ? (int)((hi - digits) % 16 * 16 + (lo - digits) % 16) : -1;
}

static void default_types(struct fh_tokenizer *t)
{
	for (uint32_t i = 0; i < t->nr_vocab; i++)
		t->attr[i] = t->kind == FH_TOK_SPM && byte_piece(fh_pool_get(&t->pieces, i)) >= 0 ? FH_TA_BYTE
												  : FH_TA_NORMAL;
	if (t->bos != FH_NO_TOKEN)
		t->attr[t->bos] = FH_TA_CONTROL;
	if (t->eos != FH_NO_TOKEN)
		t->attr[t->eos] = FH_TA_CONTROL;
	if (t->unk != FH_NO_TOKEN)
		t->attr[t->unk] = FH_TA_UNKNOWN;
}

static int load_types(struct fh_tokenizer *t, const struct fh_gguf *g, struct fh_err *err)
{
	/* GGUF's numbers; unused (5) and undefined (0) tokens have no bit. */
	static const uint8_t bits[] = {0, FH_TA_NORMAL, FH_TA_UNKNOWN, FH_TA_CONTROL, FH_TA_USER, 0, FH_TA_BYTE};
	struct fh_gguf_arr types;
	int rc = fh_gguf_arr(g, "tokenizer.ggml.token_type", &types);

	t->attr = calloc(t->nr_vocab, 1);
	if (!t->attr)
		return fh_errf(err, -ENOMEM, "no memory for %u token types", t->nr_vocab);
	if (rc == -ENOENT) {
		default_types(t);
		return 0;
	}
	if (rc || types.type == FH_GGUF_STR || types.type == FH_GGUF_ARR || types.n < t->nr_vocab)
		return fh_errf(err, -EINVAL, "%s: tokenizer.ggml.token_type is not an array of %u numbers, one a token",
			       fh_gguf_path(g), t->nr_vocab);
	for (uint32_t i = 0; i < t->nr_vocab; i++) {
		int64_t type = fh_gguf_arr_i64(&types, i);

		t->attr[i] = type >= 0 && type < (int64_t)sizeof(bits) ? bits[type] : 0;
		if (t->attr[i] == FH_TA_BYTE && byte_piece(fh_pool_get(&t->pieces, i)) < 0)
			t->attr[i] = FH_TA_NORMAL;
	}
	return 0;
}

/* Turn a score around so that the best is the lowest number; equal scores stay equal. */
static uint32_t order_of_score(float score)
{
	uint32_t bits;

	if (isnan(score))
		return UINT32_MAX;
	score += 0.0f; /* -0 is 0 */
	memcpy(&bits, &score, sizeof(bits));
	return bits & 0x80000000u ? bits : ~(bits | 0x80000000u);
}

static int load_scores(struct fh_tokenizer *t, const struct fh_gguf *g, struct fh_err *err)
{
	struct fh_gguf_arr scores;
	int rc = fh_gguf_arr(g, "tokenizer.ggml.scores", &scores);

	t->order = calloc(t->nr_vocab, sizeof(*t->order));
	if (!t->order)
		return fh_errf(err, -ENOMEM, "no memory for %u scores", t->nr_vocab);
	if (rc == -ENOENT)
		return 0;
	if (rc || scores.type == FH_GGUF_STR || scores.type == FH_GGUF_ARR || scores.n < t->nr_vocab)
		return fh_errf(err, -EINVAL, "%s: tokenizer.ggml.scores is not an array of %u numbers, one a token",
			       fh_gguf_path(g), t->nr_vocab);
	for (uint32_t i = 0; i < t->nr_vocab; i++)
		t->order[i] = order_of_score((float)fh_gguf_arr_f64(&scores, i));
	return 0;
}

/* Append @s to the last string of @pool with spaces for U+2581. */
static int grow_unmarked(struct fh_pool *pool, struct fh_str s)
{
	while (s.n) {
		const char *mark = memmem(s.p, s.n, SPACE_MARK, SPACE_MARK_BYTES);
		size_t n = mark ? (size_t)(mark - s.p) : s.n;
		int rc = fh_pool_grow(pool, s.p, n);

		if (!rc && mark)
			rc = fh_pool_grow(pool, " ", 1);
		if (rc)
			return rc;
		n += mark ? SPACE_MARK_BYTES : 0;
		s.p += n;
		s.n -= n;
	}
	return 0;
}

/*
 * Append @s with each character of the byte-level alphabet as its byte.  Any
 * other character stays as it is, or is refused if @strict.
 */
static int grow_byte_level(struct fh_pool *pool, struct fh_str s, bool strict)
{
	int rc = 0;

	while (s.n && !rc) {
		uint32_t cp;
		unsigned int len = fh_utf8_decode((const uint8_t *)s.p, s.n, &cp);
		int byte = len ? fh_tok_byte_level(cp) : -1;

		if (!len)
			len = 1;
		if (byte >= 0)
			rc = fh_pool_grow(pool, &(char){(char)byte}, 1);
		else
			rc = strict ? -EINVAL : fh_pool_grow(pool, s.p, len);
		s.p += len;
		s.n -= len;
	}
	return rc;
}

/* What token @i is written out as.  A control token has no text, nor has one that is unused. */
static int add_out(struct fh_tokenizer *t, uint32_t i)
{
	struct fh_str piece = fh_pool_get(&t->pieces, i);
	uint8_t attr = t->attr[i];
	int rc = fh_pool_add(&t->outs, NULL, 0);

	if (rc || attr & (FH_TA_CONTROL | FH_TA_UNKNOWN))
		return rc;
	if (attr & FH_TA_BYTE)
		return fh_pool_grow(&t->outs, &(char){(char)byte_piece(piece)}, 1);
	if (attr & (FH_TA_NORMAL | FH_TA_USER) && t->kind == FH_TOK_SPM)
		return grow_unmarked(&t->outs, piece);
	if (attr & FH_TA_USER)
		return fh_pool_grow(&t->outs, piece.p, piece.n);
	return attr & FH_TA_NORMAL ? grow_byte_level(&t->outs, piece, false) : 0;
}

/* Make token @i known by its key. */
static int add_found(struct fh_tokenizer *t, uint32_t i)
{
	struct fh_str key = fh_pool_get(&t->keys, i);
	int64_t known = fh_strmap_add(&t->by_key, &t->keys, i);

	if (key.n > t->max_key_bytes)
		t->max_key_bytes = (uint32_t)key.n;
	for (size_t k = 1; k < key.n; k++)
		if (key.p[k] == ' ' && key.p[k - 1] != ' ')
			t->cut_at_spaces = false;
	return known < 0 ? (int)known : 0;
}

/*
 * What token @i is found by in a text.  SPM: nothing for a token that plain
 * text must never produce.  Byte-level: such tokens are found too, and those
 * who look must mind the attribute (the merges need to know them).
 */
static int add_key(struct fh_tokenizer *t, uint32_t i)
{
	struct fh_str piece = fh_pool_get(&t->pieces, i);
	int rc = fh_pool_add(&t->keys, NULL, 0);

	if (rc || !piece.n || t->attr[i] & FH_TA_BYTE)
		return rc;
	if (t->kind == FH_TOK_SPM) {
		if (t->attr[i] & (FH_TA_CONTROL | FH_TA_UNKNOWN))
			return 0;
		if (memchr(piece.p, ' ', piece.n))
			return 0; /* merging sees U+2581 only; the special tokens find this one */
		rc = grow_unmarked(&t->keys, piece);
	} else {
		rc = grow_byte_level(&t->keys, piece, true);
		if (rc == -EINVAL) {
			fh_pool_cut(&t->keys);
			return 0;
		}
	}
	return rc ? rc : add_found(t, i);
}

/* A token longer than this might not fit a front end's buffer once broken bytes have become U+FFFD. */
static int check_length(const struct fh_tokenizer *t, const struct fh_gguf *g, uint32_t i, struct fh_err *err)
{
	struct fh_str out = fh_pool_get(&t->outs, i);
	size_t worst = 16; /* what was held back of earlier tokens, repaired */

	for (size_t k = 0; k < out.n;) {
		uint32_t cp;
		unsigned int len = fh_utf8_decode((const uint8_t *)out.p + k, out.n - k, &cp);

		worst += len ? len : 3;
		k += len ? len : 1;
	}
	if (worst <= FH_DETOK_MAX)
		return 0;
	return fh_errf(err, -EINVAL, "%s: token %u has %zu bytes of text; at most about %d are supported",
		       fh_gguf_path(g), i, out.n, FH_DETOK_MAX);
}

/* SPM: a byte that no piece covers is written <0xNN>. */
static void find_byte_tokens(struct fh_tokenizer *t)
{
	for (int b = 0; b < 256; b++)
		t->byte_symbol[b] = FH_NO_TOKEN;
	for (uint32_t i = t->nr_vocab; i-- > 0;) {
		int b = t->attr[i] & FH_TA_BYTE ? byte_piece(fh_pool_get(&t->pieces, i)) : -1;

		if (b >= 0)
			t->byte_symbol[b] = i;
	}
	for (int b = 0; b < 256; b++)
		if (t->byte_symbol[b] == FH_NO_TOKEN)
			t->byte_symbol[b] = fh_strmap_get(&t->by_key, &t->keys, &(char){(char)b}, 1);
}

static void load_id(const struct fh_tokenizer *t, const struct fh_gguf *g, const char *key, uint32_t *id)
{
	uint32_t v;

	if (*id != FH_NO_TOKEN && *id >= t->nr_vocab)
		*id = FH_NO_TOKEN; /* a default that this vocabulary is too small for */
	if (fh_gguf_u32(g, key, &v))
		return;
	if (v < t->nr_vocab)
		*id = v;
	else
		fh_warn("%s: %s is %u, but there are only %u tokens; ignored", fh_gguf_path(g), key, v, t->nr_vocab);
}

static void load_ids(struct fh_tokenizer *t, const struct fh_gguf *g)
{
	bool spm = t->kind == FH_TOK_SPM;

	/* SentencePiece's habit, where the file does not say. */
	t->unk = spm ? 0 : FH_NO_TOKEN;
	t->bos = spm ? 1 : FH_NO_TOKEN;
	t->eos = spm ? 2 : FH_NO_TOKEN;
	t->eot = t->eom = FH_NO_TOKEN;
	load_id(t, g, "tokenizer.ggml.unknown_token_id", &t->unk);
	load_id(t, g, "tokenizer.ggml.bos_token_id", &t->bos);
	load_id(t, g, "tokenizer.ggml.eos_token_id", &t->eos);
	load_id(t, g, "tokenizer.ggml.eot_token_id", &t->eot);
	load_id(t, g, "tokenizer.ggml.eom_token_id", &t->eom);
}

int fh_tok_load_vocab(struct fh_tokenizer *t, const struct fh_gguf *g, struct fh_err *err)
{
	int rc = load_pieces(t, g, err);

	if (rc)
		return rc;
	load_ids(t, g);
	rc = load_types(t, g, err);
	if (!rc && t->kind == FH_TOK_SPM)
		rc = load_scores(t, g, err);
	if (rc)
		return rc;
	fh_tok_mark_special(t, g);
	rc = fh_strmap_init(&t->by_key, t->nr_vocab, t->seed);
	t->cut_at_spaces = true;
	for (uint32_t i = 0; i < t->nr_vocab && !rc; i++) {
		rc = add_out(t, i);
		if (!rc)
			rc = add_key(t, i);
		if (!rc && check_length(t, g, i, err))
			return -EINVAL;
	}
	if (rc)
		return fh_errf(err, rc, "%s: no memory for the vocabulary", fh_gguf_path(g));
	if (t->kind == FH_TOK_SPM)
		find_byte_tokens(t);
	return 0;
}
