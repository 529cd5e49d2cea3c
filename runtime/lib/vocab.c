// SPDX-License-Identifier: Apache-2.0
/*
 * Tokens to text.
 *
 * The vocabulary (struct fh_vocab) comes from the server: as a sealed memfd,
 * which cannot shrink under us but whose bytes its maker could still change,
 * or as a file, which is copied.  Its header is copied and checked once; each
 * pair of offsets is checked when it is used.
 *
 * Broken bytes are replaced as the Unicode Standard recommends (3.9, U+FFFD
 * Substitution of Maximal Subparts), so that all pieces together are what a
 * decoder of the whole text would have made.
 */
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "runtime/base/chan_sock.h"
#include "runtime/lib/lib_priv.h"

#define VOCAB_BYTES_MAX (512ull << 20)
#define VOCAB_TOKENS_MAX (1u << 24)
#define PIECE_BYTES_MAX 65536u

static int copy_file(struct fhl_vocab *v, int fd)
{
	char *p = malloc(v->map_bytes);
	size_t at = 0;

	if (!p)
		return -ENOMEM;
	while (at < v->map_bytes) {
		ssize_t n = pread(fd, p + at, v->map_bytes - at, (off_t)at);

		if (n <= 0) {
			free(p);
			return n ? -errno : -EPROTO;
		}
		at += (size_t)n;
	}
	v->map = p;
	v->copied = true;
	return 0;
}

static int map_file(struct fhl_vocab *v, int fd, bool sealed)
{
	struct stat st;
	void *p;

	if (fstat(fd, &st))
		return -errno;
	if (st.st_size < (off_t)sizeof(struct fh_vocab) || st.st_size > (off_t)VOCAB_BYTES_MAX)
		return -EPROTO;
	v->map_bytes = (size_t)st.st_size;
	if (!sealed)
		return copy_file(v, fd);
	p = mmap(NULL, v->map_bytes, PROT_READ, MAP_SHARED, fd, 0);
	if (p == MAP_FAILED)
		return -errno;
	v->map = p;
	return 0;
}

/* Whether [off, off + bytes) lies in a file of @all bytes. */
static bool inside(uint64_t off, uint64_t bytes, uint64_t all)
{
	return off <= all && bytes <= all - off;
}

static int check_header(struct fh_client *c, struct fhl_vocab *v)
{
	struct fh_vocab h;

	memcpy(&h, v->map, sizeof(h));
	if (h.magic != FH_VOCAB_MAGIC || !h.nr_tokens || h.nr_tokens > VOCAB_TOKENS_MAX ||
	    h.total_bytes > v->map_bytes || h.off_off % 4 ||
	    !inside(h.off_off, (h.nr_tokens + 1ull) * 4, h.total_bytes) || h.bytes_off > h.total_bytes ||
	    !inside(h.model_bytes_off, h.model_bytes, h.total_bytes))
		return -EPROTO;
	v->nr_tokens = h.nr_tokens;
	v->nr_ctx = h.nr_ctx;
	v->off_off = h.off_off;
	v->bytes_off = h.bytes_off;
	v->pieces_bytes = h.total_bytes - h.bytes_off;
	snprintf(c->model, sizeof(c->model), "%.*s", (int)(h.model_bytes < 255 ? h.model_bytes : 255),
		 v->map + h.model_bytes_off);
	return 0;
}

int fhl_vocab_open(struct fh_client *c, int fd, bool sealed)
{
	struct fhl_vocab v = {0};
	int rc = map_file(&v, fd, sealed);

	if (!rc)
		rc = check_header(c, &v);
	c->vocab = v;
	if (rc) {
		fhl_vocab_close(c);
		return fh_errf(&c->err, rc, "%s: the vocabulary that the server handed out is broken: %s", c->where,
			       strerror(-rc));
	}
	c->nr_ctx = v.nr_ctx;
	c->nr_vocab = v.nr_tokens;
	return 0;
}

void fhl_vocab_close(struct fh_client *c)
{
	if (c->vocab.copied)
		free((void *)c->vocab.map);
	else if (c->vocab.map)
		munmap((void *)c->vocab.map, c->vocab.map_bytes);
	c->vocab = (struct fhl_vocab){0};
}

int fh_token_text(struct fh_client *c, uint32_t token, const char **text, size_t *bytes)
{
	const struct fhl_vocab *v = &c->vocab;
	const uint32_t *off;
	uint32_t from, to;

	*text = "";
	*bytes = 0;
	if (!v->map)
		return fh_errf(&c->err, -ENODATA, "%s brings no vocabulary: fh_decode() gives the text of its tokens",
			       c->where);
	if (token >= v->nr_tokens)
		return fh_errf(&c->err, -ERANGE, "token %u is not in the vocabulary of %u", token, v->nr_tokens);
	off = (const uint32_t *)(v->map + v->off_off) + token;
	from = __atomic_load_n(off, __ATOMIC_RELAXED);
	to = __atomic_load_n(off + 1, __ATOMIC_RELAXED);
	if (from > to || to > v->pieces_bytes || to - from > PIECE_BYTES_MAX)
		return fh_errf(&c->err, -EPROTO, "%s: the vocabulary is broken at token %u", c->where, token);
	*text = v->map + v->bytes_off + from;
	*bytes = to - from;
	return 0;
}

/* Characters */

/* 1: a whole character of *len bytes; 0: the beginning of one; -1: *len bytes that can begin none. @n > 0. */
static int next_char(const uint8_t *p, size_t n, size_t *len)
{
	uint8_t lo = 0x80, hi = 0xbf, lead = p[0];
	size_t need = lead < 0x80 ? 1 : lead < 0xc2 ? 0 : lead < 0xe0 ? 2 : lead < 0xf0 ? 3 : lead < 0xf5 ? 4 : 0;

	*len = 1;
	if (!need)
		return -1;
	/* Overlong forms, surrogates, and what lies above U+10FFFF, by their second byte. */
	if (lead == 0xe0)
		lo = 0xa0;
	else if (lead == 0xed)
		hi = 0x9f;
	else if (lead == 0xf0)
		lo = 0x90;
	else if (lead == 0xf4)
		hi = 0x8f;
	for (; *len < need; ++*len) {
		if (*len == n)
			return 0;
		if (p[*len] < lo || p[*len] > hi)
			return -1;
		lo = 0x80;
		hi = 0xbf;
	}
	return 1;
}

/* Whole characters of [@p, @n) to @out, which has room for three times as much; the rest to @d. */
static size_t repair(struct fh_decoder *d, const uint8_t *p, size_t n, char *out)
{
	size_t at = 0, w = 0, len;

	d->nr_held = 0;
	while (at < n) {
		int rc = next_char(p + at, n - at, &len);

		if (!rc) {
			d->nr_held = (uint32_t)(n - at);
			memcpy(d->held, p + at, n - at);
			break;
		}
		memcpy(out + w, rc > 0 ? (const char *)p + at : "\xef\xbf\xbd", rc > 0 ? len : 3);
		w += rc > 0 ? len : 3;
		at += len;
	}
	return w;
}

static int scratch_for(struct fh_client *c, size_t bytes)
{
	char *p;

	if (bytes <= c->scratch_bytes)
		return 0;
	p = realloc(c->scratch, bytes);
	if (!p)
		return fh_errf(&c->err, -ENOMEM, "out of memory");
	c->scratch = p;
	c->scratch_bytes = bytes;
	return 0;
}

/* The text of @t, not repaired. */
static int raw_text(struct fh_client *c, const struct fh_token *t, const char **text, size_t *bytes)
{
	int rc = 0;

	*text = t->text ? t->text : "";
	*bytes = t->text ? t->text_bytes : 0;
	if (t->text || (t->flags & FH_SLOT_NO_TOKEN))
		return 0;
	rc = fh_token_text(c, t->token, text, bytes);
	if (!rc && (t->flags & FH_SLOT_CUT) && *bytes > t->cut_bytes)
		*bytes = t->cut_bytes;
	return rc;
}

int fh_decode(struct fh_client *c, struct fh_decoder *d, const struct fh_token *t, const char **text, size_t *bytes)
{
	size_t held = d->nr_held <= 3 ? d->nr_held : 0, n, w, room;
	const char *raw;
	int rc = raw_text(c, t, &raw, &n);

	*text = "";
	if (bytes)
		*bytes = 0;
	if (!rc)
		rc = scratch_for(c, 4 * (held + n) + 8);
	if (rc)
		return rc;
	/* The joined bytes stand behind the room for what they become. */
	room = 3 * (held + n) + 4;
	memcpy(c->scratch + room, d->held, held);
	memcpy(c->scratch + room + held, raw, n);
	w = repair(d, (const uint8_t *)c->scratch + room, held + n, c->scratch);
	if (t->flags & FH_SLOT_LAST) {
		/* A cut ends inside a character only where the stop string does. */
		if (d->nr_held && !(t->flags & FH_SLOT_CUT)) {
			memcpy(c->scratch + w, "\xef\xbf\xbd", 3);
			w += 3;
		}
		d->nr_held = 0;
	}
	c->scratch[w] = '\0';
	*text = c->scratch;
	if (bytes)
		*bytes = w;
	return 0;
}
