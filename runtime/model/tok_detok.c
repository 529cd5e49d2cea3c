// SPDX-License-Identifier: Apache-2.0
/*
 * From tokens to text, one token at a time.
 *
 * What is written is always whole characters: at most three bytes, the start
 * of a character that is well-formed so far, wait in struct fh_detok.  Broken
 * bytes are replaced as the Unicode Standard recommends (one U+FFFD for each
 * longest run that could have begun a character), so the sum of all pieces is
 * what a one-shot decoder would have made of the same bytes.
 */
#include "runtime/model/tok_impl.h"

#include <string.h>

#include "runtime/model/unicode.h"

/* SPM writes a space before the first word that was not in the text. */
static struct fh_str without_prefix(const struct fh_tokenizer *t, struct fh_str s, bool first)
{
	if (first && t->kind == FH_TOK_SPM && t->add_space_prefix && s.n && s.p[0] == ' ') {
		s.p++;
		s.n--;
	}
	return s;
}

struct writer {
	char *out;
	size_t n, cap;
	bool full; /* something did not fit: nothing after it may be written */
};

static void put(struct writer *w, const void *bytes, size_t n)
{
	w->full |= n > w->cap - w->n;
	if (w->full)
		return;
	memcpy(w->out + w->n, bytes, n);
	w->n += n;
}

static size_t smaller(size_t a, size_t b)
{
	return a < b ? a : b;
}

/* Broken: how many bytes one U+FFFD stands for. */
static size_t broken_run(const uint8_t *p, size_t n)
{
	size_t len = 1;

	while (len < smaller(n, 3) && fh_utf8_partial(p, len + 1) == len + 1)
		len++;
	return len;
}

/* Write the characters of @p; what is left unfinished at its end goes to @d. */
static void repair(struct writer *w, struct fh_detok *d, const uint8_t *p, size_t n)
{
	size_t at = 0, whole = 0;

	while (at < n) {
		uint32_t cp;
		unsigned int len = fh_utf8_decode(p + at, n - at, &cp);

		if (len) {
			at += len;
			continue;
		}
		put(w, p + whole, at - whole);
		whole = at;
		if (fh_utf8_partial(p + at, n - at)) {
			d->nr_pending = (uint8_t)(n - at);
			memcpy(d->pending, p + at, n - at);
			return;
		}
		put(w, FH_UTF8_REPLACEMENT, 3);
		at += broken_run(p + at, n - at);
		whole = at;
	}
	put(w, p + whole, at - whole);
}

size_t fh_detok_push(const struct fh_tokenizer *t, struct fh_detok *d, uint32_t id, char *out, size_t cap)
{
	struct writer w = {.out = out, .cap = cap};
	uint8_t joint[8];
	struct fh_str s;
	size_t held = d->nr_pending, taken;

	if (id >= t->nr_vocab)
		return 0;
	s = fh_pool_get(&t->outs, id);
	if (!s.n)
		return 0;
	s = without_prefix(t, s, !d->started);
	d->started = true;
	d->nr_pending = 0;
	if (!held) {
		repair(&w, d, (const uint8_t *)s.p, s.n);
		return w.n;
	}
	/* Continuation bytes go on where the last token stopped; anything else starts afresh. */
	memcpy(joint, d->pending, held);
	for (taken = 0; taken < s.n && held + taken < sizeof(joint) && ((uint8_t)s.p[taken] & 0xc0) == 0x80; taken++)
		joint[held + taken] = (uint8_t)s.p[taken];
	repair(&w, d, joint, held + taken);
	if (taken == s.n)
		return w.n;
	if (d->nr_pending) {
		d->nr_pending = 0;
		put(&w, FH_UTF8_REPLACEMENT, 3);
	}
	repair(&w, d, (const uint8_t *)s.p + taken, s.n - taken);
	return w.n;
}

size_t fh_detok_end(const struct fh_tokenizer *t, struct fh_detok *d, char *out, size_t cap)
{
	struct writer w = {.out = out, .cap = cap};

	(void)t;
	if (d->nr_pending)
		put(&w, FH_UTF8_REPLACEMENT, 3);
	d->nr_pending = 0;
	return w.n;
}

size_t fh_token_bytes(const struct fh_tokenizer *t, uint32_t id, bool first, char *out, size_t cap)
{
	struct fh_str s;

	if (id >= t->nr_vocab)
		return 0;
	s = without_prefix(t, fh_pool_get(&t->outs, id), first);
	s.n = smaller(s.n, cap);
	if (s.n)
		memcpy(out, s.p, s.n);
	return s.n;
}
