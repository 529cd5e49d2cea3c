// SPDX-License-Identifier: Apache-2.0
/*
 * Cutting text into words: the stages of a pre-tokenizer, one inside the
 * other.  Each stage cuts the pieces of the one before it, sees nothing beyond
 * its piece (so the end of a piece is the end of the text to a lookahead), and
 * hands every piece on at once: nothing is collected, nothing is copied.
 *
 * The compiled patterns belong to the tokenizer and are only read; the match
 * data belongs to the call.
 */
#include "runtime/model/tok_impl.h"

#include "runtime/model/unicode.h"

static int compile(pcre2_code **code, const char *pattern, struct fh_err *err)
{
	PCRE2_UCHAR text[160];
	PCRE2_SIZE at;
	int rc;

	*code = pcre2_compile((PCRE2_SPTR)pattern, PCRE2_ZERO_TERMINATED, PCRE2_UTF, &rc, &at, NULL);
	if (!*code) {
		pcre2_get_error_message(rc, text, sizeof(text));
		return fh_errf(err, -EINVAL, "a pre-tokenizer's pattern does not compile: %s at %zu", text, at);
	}
	/* Where executable memory is refused, the interpreter does the work, several times slower. */
	pcre2_jit_compile(*code, PCRE2_JIT_COMPLETE);
	return 0;
}

int fh_tok_pre_compile(struct fh_tokenizer *t, const struct fh_pre_rule *rule, struct fh_err *err)
{
	for (uint32_t i = 0; i < FH_PRE_MAX_STAGES; i++) {
		const struct fh_pre_stage *s = &rule->stages[i];
		int rc = 0;

		if (s->how == FH_PRE_REGEX && !s->pattern)
			break;
		t->stages[t->nr_stages++] = *s;
		if (s->how == FH_PRE_REGEX)
			rc = compile(&t->codes[i], s->pattern, err);
		else if (s->how == FH_PRE_DIGIT_GROUPS)
			rc = compile(&t->codes[i], "\\p{N}++", err);
		else if (s->how == FH_PRE_ASCII_GROUPS)
			rc = compile(&t->codes[i], "[0-9]++", err);
		if (rc)
			return rc;
	}
	return 0;
}

/* A piece on its way through the stages. */
struct piece {
	const char *text, *real;
	size_t bytes;
};

static int run_stage(struct fh_tok_work *w, uint32_t stage, struct piece p, fh_tok_word_fn word);

/* Hand @bytes at @at of @p to the next stage. */
static int pass_on(struct fh_tok_work *w, uint32_t stage, struct piece p, size_t at, size_t bytes, fh_tok_word_fn word)
{
	if (!bytes)
		return 0;
	return run_stage(w, stage + 1, (struct piece){p.text + at, p.real + at, bytes}, word);
}

/*
 * Pass on the digits from @from to @end in groups of three characters, the
 * first one being the shorter.  The first group takes along what stands before
 * it from @at on: a later stage cuts that off, but sees that a digit follows.
 */
static int pass_groups(struct fh_tok_work *w, uint32_t stage, struct piece p, size_t at, size_t from, size_t end,
		       fh_tok_word_fn word)
{
	size_t nr = 0;
	int rc = 0;

	for (size_t i = from; i < end; i++)
		nr += ((uint8_t)p.text[i] & 0xc0) != 0x80;
	while (from < end && !rc) {
		size_t take = nr % 3 ? nr % 3 : 3;

		nr -= take;
		while (take--)
			from += fh_utf8_lead((uint8_t)p.text[from]);
		rc = pass_on(w, stage, p, at, from - at, word);
		at = from;
	}
	return rc;
}

/* Find the next match in @p from @at.  1: found, between *from and *to; 0: none; -errno. */
static int next_match(struct fh_tok_work *w, uint32_t stage, struct piece p, size_t at, size_t *from, size_t *to)
{
	const pcre2_code *code = w->t->codes[stage];
	const PCRE2_SIZE *ends;
	int rc = pcre2_match(code, (PCRE2_SPTR)p.text, p.bytes, at, PCRE2_NO_UTF_CHECK, w->match, NULL);

	if (rc == PCRE2_ERROR_JIT_STACKLIMIT)
		rc = pcre2_match(code, (PCRE2_SPTR)p.text, p.bytes, at, PCRE2_NO_UTF_CHECK | PCRE2_NO_JIT, w->match,
				 NULL);
	if (rc == PCRE2_ERROR_NOMATCH)
		return 0;
	if (rc < 0)
		return rc == PCRE2_ERROR_NOMEMORY ? -ENOMEM : -EINVAL;
	ends = pcre2_get_ovector_pointer(w->match);
	*from = ends[0];
	*to = ends[1];
	return ends[1] > ends[0];
}

static int run_regex(struct fh_tok_work *w, uint32_t stage, struct piece p, fh_tok_word_fn word)
{
	enum fh_pre_how how = w->t->stages[stage].how;
	size_t at = 0, from = 0, to = 0;

	while (at < p.bytes) {
		int rc = next_match(w, stage, p, at, &from, &to);

		if (!rc)
			break;
		if (rc > 0)
			rc = how == FH_PRE_DIGIT_GROUPS ? 0 : pass_on(w, stage, p, at, from - at, word);
		if (!rc && how == FH_PRE_REGEX)
			rc = pass_on(w, stage, p, from, to - from, word);
		else if (!rc)
			rc = pass_groups(w, stage, p, how == FH_PRE_DIGIT_GROUPS ? at : from, from, to, word);
		if (rc < 0)
			return rc;
		at = to;
	}
	return pass_on(w, stage, p, at, p.bytes - at, word);
}

/* Does @p end with white space that is no line end? */
static bool ends_blank(struct piece p)
{
	size_t at = p.bytes - 1;
	uint32_t cp;

	while (at && ((uint8_t)p.text[at] & 0xc0) == 0x80)
		at--;
	fh_utf8_decode((const uint8_t *)p.text + at, p.bytes - at, &cp);
	return cp == ' ' || cp == '\t' || cp == 0x0b || cp == 0x0c || cp == 0x85 || cp == 0xa0 || cp == 0x1680 ||
	       (cp >= 0x2000 && cp <= 0x200a) || cp == 0x2028 || cp == 0x2029 || cp == 0x202f || cp == 0x205f ||
	       cp == 0x3000;
}

static int run_space_halving(struct fh_tok_work *w, uint32_t stage, struct piece p, fh_tok_word_fn word)
{
	size_t nr = 0, at = 0;
	int rc = 0;

	if (!ends_blank(p))
		return pass_on(w, stage, p, 0, p.bytes, word);
	for (size_t i = 0; i < p.bytes; i++)
		nr += ((uint8_t)p.text[i] & 0xc0) != 0x80;
	for (size_t take = 512; nr && !rc;) {
		size_t to = at;

		if (take > nr) {
			take /= 2;
			continue;
		}
		for (size_t i = 0; i < take; i++)
			to += fh_utf8_lead((uint8_t)p.text[to]);
		nr -= take;
		rc = pass_on(w, stage, p, at, to - at, word);
		at = to;
	}
	return rc;
}

static int run_lines(struct fh_tok_work *w, uint32_t stage, struct piece p, fh_tok_word_fn word)
{
	int rc = 0;

	for (size_t at = 0, to; at < p.bytes && !rc; at = to) {
		bool feed = p.text[at] == '\n';

		for (to = at + 1; to < p.bytes && (p.text[to] == '\n') == feed; to++)
			;
		rc = pass_on(w, stage, p, at, to - at, word);
	}
	return rc;
}

static int run_stage(struct fh_tok_work *w, uint32_t stage, struct piece p, fh_tok_word_fn word)
{
	if (stage == w->t->nr_stages)
		return word(w, p.real, p.bytes);
	switch (w->t->stages[stage].how) {
	case FH_PRE_SPACE_HALVING: return run_space_halving(w, stage, p, word);
	case FH_PRE_LINES: return run_lines(w, stage, p, word);
	default: return run_regex(w, stage, p, word);
	}
}

int fh_tok_split(struct fh_tok_work *w, const char *text, const char *real, size_t bytes, fh_tok_word_fn word)
{
	return run_stage(w, 0, (struct piece){text, real, bytes}, word);
}
