// SPDX-License-Identifier: Apache-2.0
/* Texts that are in the journal and in no segment yet: finding them, and what is signed of them. */
#include "runtime/trust/held.h"

#include <sodium.h>
#include <stdlib.h>
#include <string.h>

#include "runtime/trust/log.h"

void fh_held_sum(uint64_t index, const uint8_t *frame, const uint8_t nonce[FH_TEXT_NONCE_BYTES],
		 uint8_t out[FH_HELD_BYTES])
{
	for (int i = 0; i < 8; i++)
		out[i] = (uint8_t)(index >> 8 * (7 - i));
	memcpy(out + 8, frame, FH_JOURNAL_SUM_BYTES);
	memcpy(out + 8 + FH_JOURNAL_SUM_BYTES, nonce, FH_TEXT_NONCE_BYTES);
}

uint64_t fh_held_index(const uint8_t sum[FH_HELD_BYTES])
{
	uint64_t index = 0;

	for (int i = 0; i < 8; i++)
		index = index << 8 | sum[i];
	return index;
}

void fh_held_hash(uint8_t (*sums)[FH_HELD_BYTES], uint32_t nr, uint8_t out[FH_HASH_BYTES])
{
	crypto_generichash(out, FH_HASH_BYTES, (const uint8_t *)sums, (unsigned long long)nr * FH_HELD_BYTES, NULL, 0);
}

/* A tenant, and the entry of a segment of it; 0: there is none. */
struct last_segment {
	uint8_t name[FH_RECORD_NAME_MAX];
	uint32_t n;
	uint64_t entry;
};

struct search {
	struct fh_held_text *texts;
	uint32_t *of; /* [nr] its tenant */
	uint32_t nr, cap;
	struct last_segment *tenants;
	uint32_t nr_tenants;
};

/* *out: which of them has the name that @rec has. */
static int tenant_of(struct search *s, const struct fh_record *rec, uint32_t *out)
{
	const struct fh_record_bytes *name = &rec->str[FH_RS_TENANT - 64];
	struct last_segment *more;

	for (*out = 0; *out < s->nr_tenants; ++*out)
		if (s->tenants[*out].n == name->n && !memcmp(s->tenants[*out].name, name->p, name->n))
			return 0;
	more = realloc(s->tenants, (s->nr_tenants + 1) * sizeof(*more));
	if (!more)
		return -ENOMEM;
	s->tenants = more;
	more += s->nr_tenants++;
	*more = (struct last_segment){.n = name->n};
	memcpy(more->name, name->p, name->n);
	return 0;
}

/* Has it to do with texts in segments? What has no tenant's name is none. */
static bool concerns(const struct fh_record *rec)
{
	uint32_t n = rec->str[FH_RS_TENANT - 64].n;

	return n && n <= FH_RECORD_NAME_MAX && (rec->kind == FH_REC_BODIES || fh_record_in_segment(rec));
}

static int note_text(struct search *s, uint64_t index, const uint8_t *frame, const struct fh_record_bytes *leaf,
		     const struct fh_record_bytes *sealed, uint32_t tenant)
{
	struct fh_held_text *t;

	if (s->nr == s->cap) {
		uint32_t cap = s->cap ? 2 * s->cap : 64, *of = realloc(s->of, cap * sizeof(*of));

		s->of = of ? of : s->of;
		t = of ? realloc(s->texts, cap * sizeof(*t)) : NULL;
		if (!t)
			return -ENOMEM;
		s->texts = t;
		s->cap = cap;
	}
	s->of[s->nr] = tenant;
	t = &s->texts[s->nr++];
	*t = (struct fh_held_text){.index = index, .leaf = *leaf, .sealed = *sealed};
	fh_held_sum(index, frame, sealed->p, t->sum);
	return 0;
}

static int note_frame(struct search *s, uint64_t index, const uint8_t *frame, const struct fh_record_bytes *leaf,
		      const struct fh_record_bytes *sealed)
{
	struct fh_record rec;
	uint32_t tenant;
	size_t bad;

	if (fh_record_decode(leaf->p, leaf->n, &rec, &bad) || !concerns(&rec) ||
	    (rec.kind != FH_REC_BODIES && sealed->n < FH_TEXT_SEAL_BYTES))
		return 0;
	if (tenant_of(s, &rec, &tenant))
		return -ENOMEM;
	if (rec.kind != FH_REC_BODIES)
		return note_text(s, index, frame, leaf, sealed, tenant);
	s->tenants[tenant].entry = index;
	return 0;
}

int fh_held_find(const struct fh_note_key *key, const uint8_t *p, size_t n, uint64_t size, struct fh_held_text **out,
		 uint32_t *nr)
{
	struct fh_record_bytes leaf, sealed;
	uint64_t index, next = 0;
	struct search s = {0};
	bool new_file;
	size_t used;
	int rc = 0;

	*out = NULL;
	*nr = 0;
	for (size_t at = 0; at < n && !rc; at += used) {
		used = fh_journal_frame(key, p + at, n - at, &index, &leaf, &sealed, &new_file);
		if (!used || index < next || index >= size)
			break;
		next = index + 1;
		rc = note_frame(&s, index, p + at, &leaf, &sealed);
	}
	for (uint32_t i = 0; i < s.nr && !rc; i++)
		if (s.texts[i].index > s.tenants[s.of[i]].entry)
			s.texts[(*nr)++] = s.texts[i];
	free(s.of);
	free(s.tenants);
	if (rc || !*nr)
		free(s.texts);
	else
		*out = s.texts;
	return rc;
}

bool fh_held_are(const struct fh_checkpoint *cp, const struct fh_held_text *t, uint32_t nr)
{
	crypto_generichash_state state;
	uint8_t hash[FH_HASH_BYTES];

	if (nr != cp->held.nr || (nr && t->index != cp->held.first))
		return false;
	crypto_generichash_init(&state, NULL, 0, sizeof(hash));
	for (uint32_t i = 0; i < nr; i++)
		crypto_generichash_update(&state, t[i].sum, sizeof(t[i].sum));
	crypto_generichash_final(&state, hash, sizeof(hash));
	return !nr || !memcmp(hash, cp->held.hash.b, sizeof(hash));
}

/* ---- looking at them again ---- */

static int read_record(struct fh_reader *r, uint64_t i, uint8_t bytes[FH_RECORD_MAX], struct fh_record *rec, size_t *n)
{
	struct fh_record_bytes leaf;
	size_t bad;
	int rc = fh_reader_entry(r, i, &leaf);

	if (rc || leaf.n > FH_RECORD_MAX)
		return rc ? rc : -EBADMSG;
	/* The reader's own bytes do not stay. */
	memcpy(bytes, leaf.p, leaf.n);
	*n = leaf.n;
	return fh_record_decode(bytes, leaf.n, rec, &bad) ? -EBADMSG : 0;
}

/* Of the entries from @first to before @size: which have a text that no segment among them has? @is [size - first]. */
static int mark_held(struct fh_reader *r, uint64_t first, uint64_t size, uint8_t *is)
{
	uint8_t bytes[FH_RECORD_MAX];
	struct search s = {0};
	struct fh_record rec;
	size_t n;
	int rc = 0;

	/* From the end: a tenant whose segment was met has none before it. */
	for (uint64_t i = size; i > first && !rc; i--) {
		uint32_t tenant = 0;

		rc = read_record(r, i - 1, bytes, &rec, &n);
		if (rc || !concerns(&rec))
			continue;
		rc = tenant_of(&s, &rec, &tenant);
		if (!rc && rec.kind == FH_REC_BODIES)
			s.tenants[tenant].entry = i;
		else if (!rc)
			is[i - 1 - first] = !s.tenants[tenant].entry;
	}
	free(s.tenants);
	return rc;
}

/* The key of the tenant of @rec is there, but no key: that says nothing of his texts. */
static bool key_is_damaged(struct fh_reader *r, const struct fh_record *rec)
{
	const struct fh_record_bytes *tenant = &rec->str[FH_RS_TENANT - 64];
	char name[FH_RECORD_NAME_MAX + 1] = "";
	uint8_t key[FH_BODY_KEY_BYTES];
	int rc;

	if (!tenant->n || tenant->n > FH_RECORD_NAME_MAX)
		return false;
	memcpy(name, tenant->p, tenant->n);
	rc = fh_tenant_load(&r->dir, name, key);
	sodium_memzero(key, sizeof(key));
	return rc == -EBADMSG;
}

/* What would be signed of the text of entry @i: it is opened and sealed again. */
static int sum_again(struct fh_reader *r, struct fh_opener *o, uint64_t i, uint8_t sum[FH_HELD_BYTES])
{
	uint8_t bytes[FH_RECORD_MAX], key[FH_BODY_KEY_BYTES], *frame, *sealed;
	char name[FH_RECORD_NAME_MAX + 1] = "", *text;
	struct fh_record rec;
	size_t leaf_n, n;
	int rc = read_record(r, i, bytes, &rec, &leaf_n);

	if (!rc) {
		rc = fh_opener_text(o, i, &rec, &text, &n);
		if (rc == -EBADMSG && key_is_damaged(r, &rec))
			rc = -EKEYREJECTED;
	}
	if (rc)
		return rc;
	memcpy(name, rec.str[FH_RS_TENANT - 64].p, rec.str[FH_RS_TENANT - 64].n);
	rc = fh_tenant_load(&r->dir, name, key);
	if (rc == -ENOENT)
		rc = -EKEYREJECTED; /* it was there just now */
	frame = malloc(FH_JOURNAL_FRAME_BYTES + leaf_n + n + FH_TEXT_SEAL_BYTES);
	if (!rc && !frame)
		rc = -ENOMEM;
	if (!rc) {
		memcpy(frame + FH_JOURNAL_FRAME_BYTES, bytes, leaf_n);
		sealed = frame + FH_JOURNAL_FRAME_BYTES + leaf_n;
		fh_text_seal(key, name, i, text, n, sealed);
		fh_journal_head(&r->key, i, leaf_n, n + FH_TEXT_SEAL_BYTES, false, frame);
		fh_held_sum(i, frame, sealed, sum);
	}
	sodium_memzero(key, sizeof(key));
	free(frame);
	free(text);
	return rc;
}

/* What the log says of texts that are gone, from the old checkpoint on. */
struct told {
	bool known;
	struct search s;  /* of each tenant the first segment then, plus one: it has the texts that were held */
	uint64_t expired; /* bodies of entries before it were removed */
	uint64_t nr, nr_gone;
};

static int find_told(struct fh_reader *r, uint64_t size, struct told *told)
{
	uint8_t bytes[FH_RECORD_MAX];
	struct fh_record rec;
	uint32_t tenant;
	size_t n;
	int rc = 0;

	for (uint64_t i = size; i < r->cp.size && !rc; i++) {
		rc = read_record(r, i, bytes, &rec, &n);
		if (!rc && rec.kind == FH_REC_EXPIRED && rec.num[FH_RN_COUNT] <= i &&
		    rec.num[FH_RN_COUNT] > told->expired)
			told->expired = rec.num[FH_RN_COUNT];
		if (rc || rec.kind != FH_REC_BODIES || !concerns(&rec))
			continue;
		rc = tenant_of(&told->s, &rec, &tenant);
		if (!rc && !told->s.tenants[tenant].entry)
			told->s.tenants[tenant].entry = i + 1;
	}
	told->known = !rc;
	return rc;
}

/* The body with the text of entry @i is not here: was it removed when it was old, and an entry says so? */
static int note_removed(struct fh_reader *r, uint64_t i, uint64_t size, struct told *told)
{
	uint8_t bytes[FH_RECORD_MAX];
	struct fh_record rec;
	uint32_t tenant;
	uint64_t entry;
	size_t n;
	int rc = told->known ? 0 : find_told(r, size, told);

	if (!rc)
		rc = read_record(r, i, bytes, &rec, &n);
	if (!rc)
		rc = tenant_of(&told->s, &rec, &tenant);
	if (rc)
		return rc;
	entry = told->s.tenants[tenant].entry;
	told->nr += entry && entry - 1 < told->expired;
	return 0;
}

/* Why the text of entry @i cannot be compared. */
static int note_gone(struct fh_reader *r, uint64_t i, uint64_t size, int why, struct told *told)
{
	told->nr_gone++;
	switch (why) {
	case -ENOKEY: told->nr++; return 0;
	case -ENOENT: return note_removed(r, i, size, told);
	case -EKEYREJECTED:
	case -ENODATA: return 0;
	default: return why;
	}
}

static int sum_marked(struct fh_reader *r, struct fh_opener *o, const struct fh_checkpoint *old, const uint8_t *is,
		      uint8_t (*sums)[FH_HELD_BYTES], struct told *told)
{
	uint64_t nr = 0;
	int rc = 0;

	for (uint64_t i = old->held.first; i < old->size && !rc; i++) {
		if (!is[i - old->held.first])
			continue;
		rc = nr < old->held.nr ? sum_again(r, o, i, sums[nr++]) : -EBADMSG;
		if (rc)
			rc = note_gone(r, i, old->size, rc, told);
	}
	return rc ? rc : nr != old->held.nr ? -EBADMSG : 0;
}

int fh_held_check(struct fh_reader *r, struct fh_opener *o, const struct fh_checkpoint *old, uint64_t *nr)
{
	uint8_t *is, (*sums)[FH_HELD_BYTES], hash[FH_HASH_BYTES];
	struct told told = {0};
	int rc = -ENOMEM;

	*nr = 0;
	if (!old->held.nr)
		return 0;
	/* It was signed for that checkpoint, and that is no longer than the log: see parse_held(). */
	if (old->size > r->cp.size)
		return -EBADMSG;
	is = calloc(old->size - old->held.first, 1);
	sums = calloc(old->held.nr, sizeof(*sums));
	if (is && sums)
		rc = mark_held(r, old->held.first, old->size, is);
	if (!rc)
		rc = sum_marked(r, o, old, is, sums, &told);
	if (!rc && told.nr_gone) {
		*nr = told.nr_gone - told.nr;
		rc = *nr ? -EKEYREJECTED : -ENOKEY;
		*nr = *nr ? *nr : told.nr;
	}
	if (!rc) {
		fh_held_hash(sums, (uint32_t)old->held.nr, hash);
		rc = memcmp(hash, old->held.hash.b, sizeof(hash)) ? -EBADMSG : 0;
	}
	free(told.s.tenants);
	free(is);
	free(sums);
	return rc;
}
