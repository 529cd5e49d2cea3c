// SPDX-License-Identifier: Apache-2.0
/*
 * Texts and segments.
 *
 * A text is durable in the journal, sealed alone, as soon as its entry is.  What a
 * tenant has there is kept as it is, too, and becomes one body, compressed and
 * sealed at once, when there is enough of it, or it gets old, or the journal long
 * (or, where texts are not held, whenever the log is published).  Until then the
 * checkpoint signs for them (held.h).  A crash in between loses nothing: the texts
 * are taken from the journal.
 */
#include <sodium.h>
#include <stdlib.h>
#include <string.h>

#include "runtime/trust/log_priv.h"

void fh_texts_free(struct fh_texts *x)
{
	if (x->p)
		sodium_memzero(x->p, x->cap);
	free(x->p);
	*x = (struct fh_texts){0};
}

static int make_room_for_text(struct fh_texts *x, size_t n)
{
	size_t cap = x->cap ? x->cap : 4096;
	uint8_t *p;

	if (x->cap - x->n >= n)
		return 0;
	while (cap - x->n < n)
		cap *= 2;
	p = malloc(cap);
	if (!p)
		return -ENOMEM;
	if (x->n)
		memcpy(p, x->p, x->n);
	/* Not with realloc(), which leaves texts behind in memory. */
	if (x->p)
		sodium_memzero(x->p, x->cap);
	free(x->p);
	x->p = p;
	x->cap = cap;
	return 0;
}

/* There is room for it. @text: NULL if it lies there already. */
static void note_text(struct fh_log *l, struct fh_texts *x, uint64_t index, uint64_t us, const void *text, size_t n)
{
	if (!x->nr) {
		x->first = index;
		x->from_us = x->to_us = us;
	}
	x->nr++;
	x->from_us = us < x->from_us ? us : x->from_us;
	x->to_us = us > x->to_us ? us : x->to_us;
	if (text && n)
		memcpy(x->p + x->n, text, n);
	x->n += n;
	if (!l->texts_since_us)
		l->texts_since_us = us;
}

static int make_room_to_hold(struct fh_log *l)
{
	uint32_t cap = l->cap_held ? 2 * l->cap_held : 64;
	uint8_t(*held)[FH_HELD_BYTES];
	uint64_t *of;

	if (l->nr_held < l->cap_held)
		return 0;
	of = realloc(l->held_of, cap * sizeof(*of));
	l->held_of = of ? of : l->held_of;
	held = of ? realloc(l->held, cap * sizeof(*held)) : NULL;
	if (!held)
		return -ENOMEM;
	l->held = held;
	l->cap_held = cap;
	return 0;
}

/* There is room for it. @frame: its own, of the last entry. */
static void hold_text(struct fh_log *l, const struct fh_tenant *t, const uint8_t *frame, const uint8_t *sealed)
{
	fh_held_sum(l->nr - 1, frame, sealed, l->held[l->nr_held]);
	l->held_of[l->nr_held++] = t->id;
}

static void let_go(struct fh_log *l, const struct fh_tenant *t)
{
	uint32_t nr = 0;

	for (uint32_t i = 0; i < l->nr_held; i++) {
		if (l->held_of[i] == t->id)
			continue;
		memmove(l->held[nr], l->held[i], FH_HELD_BYTES);
		l->held_of[nr++] = l->held_of[i];
	}
	l->nr_held = nr;
}

static void forget_texts(struct fh_texts *x)
{
	/* What one large text needed is not kept. */
	if (x->cap > 2 * FH_SEGMENT_BYTES) {
		fh_texts_free(x);
		return;
	}
	*x = (struct fh_texts){.p = x->p, .cap = x->cap};
}

/* ---- sealing ---- */

/* Only so many streams are open. */
static void close_oldest_stream(struct fh_log *l, const struct fh_tenant *except)
{
	struct fh_tenant *oldest = NULL;
	uint32_t nr = 0;

	for (uint32_t i = 0; i < l->nr_tenants; i++) {
		struct fh_tenant *t = &l->tenants[i];

		if (!t->stream || t == except)
			continue;
		nr++;
		if (!oldest || t->used < oldest->used)
			oldest = t;
	}
	if (nr >= FH_TENANTS_OPEN)
		fh_stream_close(oldest);
}

int fh_log_seal_tenant(struct fh_log *l, struct fh_tenant *t)
{
	struct fh_texts *x = &t->texts;
	struct fh_record r = {.kind = FH_REC_BODIES};
	uint8_t leaf[FH_RECORD_MAX], hash[32], *sealed;
	size_t sealed_n, most = fh_body_sealed_most(x->n);
	bool chapter, new_file = !l->fill || l->fill + FH_BODY_FRAME_BYTES + most > FH_BODY_FILE_BYTES;
	int rc;

	if (!x->nr)
		return 0;
	new_file |= l->file_age_us && x->from_us >= l->fill_since_us + l->file_age_us;
	close_oldest_stream(l, t);
	t->used = ++l->clock;
	for (uint32_t i = 0; i < l->nr_tenants && new_file; i++)
		fh_stream_close(&l->tenants[i]);
	rc = fh_body_seal(t, l->nr, x->p, x->n, false, &sealed, &sealed_n, &chapter);
	if (rc)
		return rc;
	crypto_hash_sha256(hash, sealed, sealed_n);
	fh_record_set_str(&r, FH_RS_TENANT, t->name, strlen(t->name));
	fh_record_set_str(&r, FH_RS_BODY_HASH, hash, sizeof(hash));
	r.num[FH_RN_TIME_US] = x->to_us;
	r.num[FH_RN_REF] = x->first + 1;
	r.num[FH_RN_COUNT] = x->nr;
	r.num[FH_RN_BODY_BYTES] = x->n;
	r.num[FH_RN_SEALED_BYTES] = sealed_n;
	r.num[FH_RN_CHAPTER] = chapter;
	rc = fh_log_put_frame(l, leaf, fh_record_encode(&r, leaf), sealed, sealed_n, new_file);
	free(sealed);
	if (rc) {
		/* The stream knows texts that the log does not: what comes next must not build on it. */
		fh_stream_close(t);
		return rc;
	}
	l->fill = (new_file ? 0 : l->fill) + FH_BODY_FRAME_BYTES + sealed_n;
	if (new_file)
		l->fill_since_us = x->from_us;
	forget_texts(x);
	let_go(l, t);
	return 0;
}

int fh_log_seal(struct fh_log *l)
{
	int rc = 0;

	for (uint32_t i = 0; i < l->nr_tenants && !rc; i++)
		rc = fh_log_seal_tenant(l, &l->tenants[i]);
	if (!rc)
		l->texts_since_us = 0;
	return rc;
}

/* Are @us over since @from_us? By a clock that was set back, they are. */
static bool is_over(const struct fh_log *l, uint64_t from_us, uint64_t us)
{
	return l->now_us < from_us || l->now_us - from_us >= us;
}

/*
 * A text that is in a segment lies in the journal as well until nobody's is held there.  Tenants whose turns overlap
 * would keep it there for good: so all are sealed now and then.
 */
static bool journal_is_due(const struct fh_log *l)
{
	return l->journal_at + l->frames.n > FH_LOG_HELD_BYTES ||
	       (l->journal_since_us && is_over(l, l->journal_since_us, FH_LOG_HELD_TURNS * l->hold_us));
}

int fh_log_seal_due(struct fh_log *l)
{
	int rc = 0;

	if (!l->hold_us || journal_is_due(l))
		return fh_log_seal(l);
	l->texts_since_us = 0;
	for (uint32_t i = 0; i < l->nr_tenants; i++) {
		struct fh_tenant *t = &l->tenants[i];

		if (!rc && t->texts.nr && is_over(l, t->texts.from_us, l->hold_us))
			rc = fh_log_seal_tenant(l, t);
		if (t->texts.nr && (!l->texts_since_us || t->texts.from_us < l->texts_since_us))
			l->texts_since_us = t->texts.from_us;
	}
	return rc;
}

/* ---- texts ---- */

int fh_log_append_text(struct fh_log *l, struct fh_record *r, struct fh_tenant *t, const void *text, size_t n)
{
	uint64_t now = r->num[FH_RN_TIME_US];
	uint8_t leaf[FH_RECORD_MAX], *sealed;
	size_t from;
	int rc = 0;

	if (n > FH_BODY_MAX)
		return -E2BIG;
	if (t->texts.nr && t->texts.n + n > FH_SEGMENT_BYTES)
		rc = fh_log_seal_tenant(l, t);
	/* What lies in one file is of about the same age. */
	if (!rc && l->file_age_us && l->texts_since_us && now >= l->texts_since_us + l->file_age_us)
		rc = fh_log_seal(l);
	if (!rc)
		rc = make_room_for_text(&t->texts, n);
	if (!rc)
		rc = make_room_to_hold(l);
	if (rc)
		return rc;
	sealed = malloc(n + FH_TEXT_SEAL_BYTES);
	if (!sealed)
		return -ENOMEM;
	fh_text_seal(t->key, t->name, l->nr, text, n, sealed);
	r->num[FH_RN_BODY_BYTES] = n;
	from = l->frames.n;
	rc = fh_log_put_frame(l, leaf, fh_record_encode(r, leaf), sealed, n + FH_TEXT_SEAL_BYTES, false);
	if (!rc) {
		note_text(l, &t->texts, l->nr - 1, now, text, n);
		l->journal_since_us = l->journal_since_us ? l->journal_since_us : now;
		hold_text(l, t, l->frames.p + from, sealed);
	}
	free(sealed);
	return rc;
}

/* ---- after a crash ---- */

/* A tenant in the journal. */
struct met {
	char name[FH_RECORD_NAME_MAX + 1];
	uint64_t sealed_at; /* entry of its last segment */
	bool sealed;
	/* Texts that are in no segment, and whose key is not there any more. */
	struct fh_texts lost;
};

struct restore {
	struct fh_log *l;
	struct met *met; /* [nr] */
	uint32_t nr;
};

static struct met *meet(struct restore *w, const struct fh_record_bytes *name)
{
	struct met *more;

	for (uint32_t i = 0; i < w->nr; i++)
		if (strlen(w->met[i].name) == name->n && !memcmp(w->met[i].name, name->p, name->n))
			return &w->met[i];
	more = name->n <= FH_RECORD_NAME_MAX ? realloc(w->met, (w->nr + 1) * sizeof(*more)) : NULL;
	if (!more)
		return NULL;
	w->met = more;
	more += w->nr++;
	*more = (struct met){0};
	memcpy(more->name, name->p, name->n);
	return more;
}

/* Which segments are there? */
static int note_segment(struct restore *w, uint64_t index, const struct fh_record *rec,
			const struct fh_record_bytes *sealed)
{
	struct met *m;

	(void)sealed;
	if (rec->kind != FH_REC_BODIES)
		return 0;
	m = meet(w, &rec->str[FH_RS_TENANT - 64]);
	if (!m)
		return -ENOMEM;
	m->sealed = true;
	m->sealed_at = index;
	return 0;
}

static int restore_text(struct restore *w, uint64_t index, const struct fh_record *rec,
			const struct fh_record_bytes *sealed)
{
	uint64_t us = rec->num[FH_RN_TIME_US];
	uint8_t key[FH_BODY_KEY_BYTES];
	struct fh_tenant *t;
	struct met *m;
	size_t n;
	int rc;

	if (!fh_record_in_segment(rec))
		return 0;
	m = meet(w, &rec->str[FH_RS_TENANT - 64]);
	if (!m)
		return -ENOMEM;
	if (m->sealed && index < m->sealed_at)
		return 0;
	/* A key that is gone is not made anew for what it cannot open. */
	rc = m->lost.nr ? -ENOENT : fh_tenant_load(&w->l->dir, m->name, key);
	sodium_memzero(key, sizeof(key));
	if (!rc)
		rc = fh_log_tenant(w->l, m->name, &t);
	n = sealed->n >= FH_TEXT_SEAL_BYTES ? sealed->n - FH_TEXT_SEAL_BYTES : 0;
	if (!rc)
		rc = make_room_for_text(&t->texts, n);
	if (!rc)
		rc = fh_text_open(t->key, t->name, index, sealed->p, sealed->n, t->texts.p + t->texts.n);
	if (rc == -ENOENT || rc == -EBADMSG) {
		note_text(w->l, &m->lost, index, us, NULL, (size_t)rec->num[FH_RN_BODY_BYTES]);
		return 0;
	}
	if (!rc)
		note_text(w->l, &t->texts, index, us, NULL, n);
	return rc;
}

/* An entry that says that there are texts in no segment, which never will be in one. */
static int log_lost_texts(struct fh_log *l, const struct met *m)
{
	static const char why[] = "the key of the tenant was gone when the journal was read";
	struct fh_record r = {.kind = FH_REC_BODIES};
	uint64_t index;

	if (!m->lost.nr)
		return 0;
	r.num[FH_RN_TIME_US] = m->lost.to_us;
	r.num[FH_RN_REF] = m->lost.first + 1;
	r.num[FH_RN_COUNT] = m->lost.nr;
	r.num[FH_RN_BODY_BYTES] = m->lost.n;
	fh_record_set_str(&r, FH_RS_TENANT, m->name, strlen(m->name));
	fh_record_set_str(&r, FH_RS_TEXT, why, sizeof(why) - 1);
	return fh_log_append(l, &r, NULL, NULL, 0, FH_BODY_NONE, &index);
}

/* Calls @fn with each of the first @n bytes of frames, as long as they are in order. */
static int each_frame(struct restore *w, const uint8_t *p, size_t n,
		      int (*fn)(struct restore *w, uint64_t index, const struct fh_record *rec,
				const struct fh_record_bytes *sealed))
{
	struct fh_record_bytes leaf, sealed;
	struct fh_record rec;
	uint64_t index, next = 0;
	size_t used, bad;
	bool new_file;
	int rc = 0;

	for (size_t at = 0; at < n && !rc; at += used) {
		used = fh_journal_frame(&w->l->key, p + at, n - at, &index, &leaf, &sealed, &new_file);
		if (!used || index < next)
			break;
		next = index + 1;
		if (!fh_record_decode(leaf.p, leaf.n, &rec, &bad))
			rc = fn(w, index, &rec, &sealed);
	}
	return rc;
}

int fh_log_restore_texts(struct fh_log *l)
{
	struct restore w = {.l = l};
	size_t before = l->published.n, n = l->frames.n;
	/* A copy: records of tenants may be appended meanwhile. */
	uint8_t *p = malloc(before + n + 1);
	int rc;

	if (!p)
		return -ENOMEM;
	if (before)
		memcpy(p, l->published.p, before);
	if (n)
		memcpy(p + before, l->frames.p, n);
	rc = each_frame(&w, p, before, note_segment);
	if (!rc)
		rc = each_frame(&w, p + before, n, note_segment);
	if (!rc)
		rc = each_frame(&w, p, before, restore_text);
	if (!rc)
		rc = each_frame(&w, p + before, n, restore_text);
	fh_grow_free(&l->published);
	for (uint32_t i = 0; i < w.nr && !rc; i++)
		rc = log_lost_texts(l, &w.met[i]);
	free(w.met);
	free(p);
	return rc;
}
