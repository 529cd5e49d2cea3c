// SPDX-License-Identifier: Apache-2.0
/* Reading a log: the bodies. */
#include <stdlib.h>
#include <string.h>

#include "runtime/trust/held.h"

int fh_reader_body_file(struct fh_reader *r, uint32_t which, char path[FH_DIR_PATH_MAX])
{
	int rc;

	fh_body_path(r->body_files[which], path);
	if (r->body_file == (int64_t)which)
		return 0;
	free(r->body);
	r->body = NULL;
	r->body_seen = 0;
	r->body_file = -1;
	rc = fh_dir_read(&r->dir, path, FH_BODY_FILE_BYTES + 2 * FH_BODY_MAX, &r->body, &r->body_n);
	if (!rc)
		r->body_file = which;
	return rc;
}

int fh_reader_body(struct fh_reader *r, uint64_t i, struct fh_record_bytes *sealed, char path[FH_DIR_PATH_MAX],
		   uint64_t *at)
{
	uint32_t which = r->nr_body_files;
	int rc;

	while (which && r->body_files[which - 1] > i)
		which--;
	if (!which)
		return -ENOENT;
	rc = fh_reader_body_file(r, which - 1, path);
	if (rc)
		return rc;
	/* Who reads on begins where the last body was found. */
	for (size_t off = r->body_seen && r->body_seen_entry <= i ? r->body_seen : 0;
	     r->body_n - off >= FH_BODY_FRAME_BYTES;) {
		uint64_t index, len = fh_body_frame_read(r->body + off, &index);

		off += FH_BODY_FRAME_BYTES;
		if (len > r->body_n - off || index > i)
			return -EBADMSG;
		if (index == i) {
			r->body_seen = off - FH_BODY_FRAME_BYTES;
			r->body_seen_entry = i;
			*sealed = (struct fh_record_bytes){(uint8_t *)r->body + off, (uint32_t)len};
			*at = off;
			return 0;
		}
		off += len;
	}
	return -ENOENT;
}

/* ---- opening them ---- */

#define JOURNAL_MAX (1u << 30)

/* A text of the segment in hand. */
struct part {
	uint64_t entry;
	size_t at, n;
};

struct open_tenant {
	char name[FH_RECORD_NAME_MAX + 1];
	uint8_t key[FH_BODY_KEY_BYTES];
	int key_rc;
	struct fh_body_reader *body;
	uint64_t next;	    /* entry: bodies before it have been through the stream; 0: none */
	uint64_t erased_at; /* entries before it were sealed with a key that is gone */
	/* The segment that was opened last. */
	char *segment;
	uint64_t segment_entry; /* its own entry; 0: there is none */
	struct part *parts;	/* [nr_parts] by entry */
	uint32_t nr_parts;
	uint64_t none_from; /* no entry from here on is a segment; 0: not known */
	/* The last segment that could not be opened, why, and from which entry on its texts lie before it; rc 0: none.
	 */
	uint64_t failed_from, failed_entry;
	int failed_rc;
	struct open_tenant *more;
};

struct fh_opener {
	struct fh_reader *r;
	char *journal;
	struct fh_held_text *held; /* [nr_held] */
	uint32_t nr_held;
	struct open_tenant *tenants;
};

/* Is there another checkpoint by now? */
static bool has_gone_on(const struct fh_reader *r)
{
	char *note;
	size_t n;
	bool other;

	if (fh_dir_read(&r->dir, "checkpoint", FH_NOTE_MAX, &note, &n))
		return false;
	other = n != r->note_n || memcmp(note, r->note, n);
	free(note);
	return other;
}

static int load_held(struct fh_opener *o)
{
	struct fh_reader *r = o->r;
	size_t n = 0;
	int rc;

	if (!r->cp.held.nr)
		return 0;
	rc = fh_dir_read(&r->dir, "journal", JOURNAL_MAX, &o->journal, &n);
	if (rc && rc != -ENOENT)
		return rc;
	rc = fh_held_find(&r->key, (const uint8_t *)o->journal, n, r->cp.size, &o->held, &o->nr_held);
	if (!rc && !fh_held_are(&r->cp, o->held, o->nr_held) && has_gone_on(r))
		rc = -ESTALE;
	return rc;
}

int fh_opener_create(struct fh_reader *r, struct fh_opener **out)
{
	struct fh_opener *o = calloc(1, sizeof(*o));
	int rc;

	*out = NULL;
	if (!o)
		return -ENOMEM;
	o->r = r;
	rc = load_held(o);
	if (rc) {
		fh_opener_free(o);
		return rc;
	}
	*out = o;
	return 0;
}

const struct fh_held_text *fh_opener_held(const struct fh_opener *o, uint32_t *nr)
{
	*nr = o->nr_held;
	return o->held;
}

void fh_opener_free(struct fh_opener *o)
{
	struct open_tenant *t;

	if (!o)
		return;
	while ((t = o->tenants)) {
		o->tenants = t->more;
		fh_body_reader_free(t->body);
		free(t->segment);
		free(t->parts);
		explicit_bzero(t, sizeof(*t));
		free(t);
	}
	free(o->held);
	free(o->journal);
	free(o);
}

/* Could it be a tenant's name? What is asked for by another has no text. */
static bool is_name(const struct fh_record_bytes *name)
{
	return name->n && name->n <= FH_RECORD_NAME_MAX;
}

/* @name: is_name(). */
static struct open_tenant *find_tenant(struct fh_opener *o, const struct fh_record_bytes *name)
{
	struct open_tenant *t;

	for (t = o->tenants; t; t = t->more)
		if (strlen(t->name) == name->n && !memcmp(t->name, name->p, name->n))
			return t;
	t = calloc(1, sizeof(*t));
	if (!t || fh_body_reader_create(&t->body)) {
		free(t);
		return NULL;
	}
	memcpy(t->name, name->p, name->n);
	t->key_rc = !memchr(name->p, 0, name->n) && fh_tenant_name_ok(t->name)
			    ? fh_tenant_load(&o->r->dir, t->name, t->key)
			    : -EBADMSG;
	t->more = o->tenants;
	o->tenants = t;
	return t;
}

static bool is_body_of(const struct fh_record *rec, const struct open_tenant *t)
{
	const struct fh_record_bytes *name = &rec->str[FH_RS_TENANT - 64];

	return rec->num[FH_RN_SEALED_BYTES] && name->n == strlen(t->name) && !memcmp(name->p, t->name, name->n);
}

/* The entry of @t whose body begins the chapter of entry @i; or t->next, if there is none from there on. */
static int find_chapter(struct fh_opener *o, const struct open_tenant *t, uint64_t i, uint64_t *out)
{
	struct fh_record_bytes leaf;
	struct fh_record rec;
	size_t bad;

	for (*out = i;; (*out)--) {
		int rc = fh_reader_entry(o->r, *out, &leaf);

		if (!rc)
			rc = fh_record_decode(leaf.p, leaf.n, &rec, &bad);
		if (rc)
			return -EBADMSG;
		if (is_body_of(&rec, t) && rec.num[FH_RN_CHAPTER])
			return 0;
		if (*out == t->next)
			return t->next ? 0 : -EBADMSG;
	}
}

static int open_one(struct fh_opener *o, struct open_tenant *t, uint64_t i, const struct fh_record *rec, char **text)
{
	struct fh_record_bytes sealed;
	char path[FH_DIR_PATH_MAX];
	uint64_t at;
	int rc = fh_reader_body(o->r, i, &sealed, path, &at);

	if (rc)
		return rc;
	return fh_body_open(t->body, t->key, t->name, i, rec->num[FH_RN_CHAPTER], rec->version != 1, sealed.p, sealed.n,
			    rec->num[FH_RN_BODY_BYTES], text);
}

int fh_opener_erased(struct fh_opener *o, const struct fh_record_bytes *tenant, uint64_t i)
{
	struct open_tenant *t = is_name(tenant) ? find_tenant(o, tenant) : NULL;

	if (!t)
		return is_name(tenant) ? -ENOMEM : 0;
	t->erased_at = i;
	return 0;
}

/* The body of entry @i of @t. */
static int open_body(struct fh_opener *o, struct open_tenant *t, uint64_t i, const struct fh_record *rec, char **text,
		     size_t *n)
{
	uint64_t from = i;
	int rc = 0;

	*text = NULL;
	/* What the stream has seen already need not be seen again. */
	if (t->next > i)
		t->next = 0;
	if (!rec->num[FH_RN_CHAPTER])
		rc = find_chapter(o, t, i, &from);
	*n = (size_t)rec->num[FH_RN_BODY_BYTES];
	for (; from <= i && !rc; from++) {
		struct fh_record_bytes leaf;
		struct fh_record other;
		size_t bad;

		free(*text);
		*text = NULL;
		rc = fh_reader_entry(o->r, from, &leaf);
		if (!rc && fh_record_decode(leaf.p, leaf.n, &other, &bad))
			rc = -EBADMSG;
		if (!rc && is_body_of(&other, t))
			rc = open_one(o, t, from, &other, text);
	}
	/* Its own entry names it otherwise. */
	if (!rc && !*text)
		rc = -EBADMSG;
	t->next = rc ? 0 : i + 1;
	if (rc) {
		free(*text);
		*text = NULL;
	}
	return rc;
}

/* ---- texts in segments ---- */

static int read_record(struct fh_opener *o, uint64_t i, struct fh_record *rec)
{
	struct fh_record_bytes leaf;
	size_t bad;
	int rc = fh_reader_entry(o->r, i, &leaf);

	return rc ? rc : fh_record_decode(leaf.p, leaf.n, rec, &bad) ? -EBADMSG : 0;
}

static bool is_of(const struct fh_record *rec, const struct open_tenant *t)
{
	const struct fh_record_bytes *name = &rec->str[FH_RS_TENANT - 64];

	return name->n == strlen(t->name) && !memcmp(name->p, t->name, name->n);
}

/* The entry of the segment that has the text of entry @i: the first of its tenant's after it. */
static int find_segment(struct fh_opener *o, struct open_tenant *t, uint64_t i, uint64_t *out, struct fh_record *rec)
{
	uint64_t from = i;

	if (t->none_from && i >= t->none_from)
		return -EBADMSG;
	for (i++; i < o->r->cp.size; i++) {
		int rc = read_record(o, i, rec);

		if (rc)
			return rc;
		if (rec->kind == FH_REC_BODIES && is_of(rec, t)) {
			*out = i;
			return 0;
		}
	}
	t->none_from = from;
	return -EBADMSG;
}

/* Where the texts of the segment of entry @at, which is @segment, lie in it: one after the other. */
static int find_parts(struct fh_opener *o, struct open_tenant *t, uint64_t at, const struct fh_record *segment)
{
	uint64_t nr = segment->num[FH_RN_COUNT], bytes = segment->num[FH_RN_BODY_BYTES], seen = 0;
	uint64_t from = segment->num[FH_RN_REF] - 1;
	struct fh_record rec;

	t->nr_parts = 0;
	if (!nr || from >= at || nr > at - from)
		return -EBADMSG;
	free(t->parts);
	t->parts = calloc(nr, sizeof(*t->parts));
	if (!t->parts)
		return -ENOMEM;
	for (; from < at; from++) {
		int rc = read_record(o, from, &rec);

		if (rc)
			return rc;
		if (!fh_record_in_segment(&rec) || !is_of(&rec, t))
			continue;
		if (t->nr_parts == nr || rec.num[FH_RN_BODY_BYTES] > bytes - seen)
			return -EBADMSG;
		t->parts[t->nr_parts++] = (struct part){from, (size_t)seen, (size_t)rec.num[FH_RN_BODY_BYTES]};
		seen += rec.num[FH_RN_BODY_BYTES];
	}
	return t->nr_parts == nr && seen == bytes ? 0 : -EBADMSG;
}

/* Whole files go, from the oldest on. */
static bool is_expired(const struct fh_opener *o, uint64_t i)
{
	return !o->r->nr_body_files || o->r->body_files[0] > i;
}

/* The segment of entry @at, which is @rec. */
static int open_parts(struct fh_opener *o, struct open_tenant *t, uint64_t at, struct fh_record *rec)
{
	size_t n;
	int rc;

	if (!rec->num[FH_RN_SEALED_BYTES])
		return -ENODATA;
	if (is_expired(o, at))
		return -ENOENT;
	rc = find_parts(o, t, at, rec);
	/* What was read last was another entry. */
	if (!rc)
		rc = read_record(o, at, rec);
	return rc ? rc : open_body(o, t, at, rec, &t->segment, &n);
}

static int open_segment(struct fh_opener *o, struct open_tenant *t, uint64_t i)
{
	uint64_t at, first;
	struct fh_record rec;
	int rc;

	/* Its other texts need not find that out once more. */
	if (t->failed_rc && i >= t->failed_from && i < t->failed_entry)
		return t->failed_rc;
	rc = find_segment(o, t, i, &at, &rec);
	if (rc)
		return rc;
	first = rec.num[FH_RN_REF] - 1;
	free(t->segment);
	t->segment = NULL;
	t->segment_entry = 0;
	rc = open_parts(o, t, at, &rec);
	if (!rc)
		t->segment_entry = at;
	if (rc && rc != -ENOMEM) {
		t->failed_rc = rc;
		t->failed_from = first < i ? first : i;
		t->failed_entry = at;
	}
	return rc;
}

static int part_of_segment(struct fh_opener *o, struct open_tenant *t, uint64_t i, char **text, size_t *n)
{
	uint32_t lo = 0, hi;
	int rc = 0;

	if (!t->segment_entry || i >= t->segment_entry || i < t->parts[0].entry)
		rc = open_segment(o, t, i);
	if (rc)
		return rc;
	for (hi = t->nr_parts; lo < hi;) {
		uint32_t mid = lo + (hi - lo) / 2;

		if (t->parts[mid].entry < i)
			lo = mid + 1;
		else
			hi = mid;
	}
	if (lo == t->nr_parts || t->parts[lo].entry != i)
		return -EBADMSG;
	*n = t->parts[lo].n;
	*text = malloc(*n + 1);
	if (!*text)
		return -ENOMEM;
	memcpy(*text, t->segment + t->parts[lo].at, *n);
	(*text)[*n] = 0;
	return 0;
}

static const struct fh_held_text *find_held(const struct fh_opener *o, uint64_t i)
{
	uint32_t lo = 0, hi = o->nr_held;

	while (lo < hi) {
		uint32_t mid = lo + (hi - lo) / 2;

		if (o->held[mid].index < i)
			lo = mid + 1;
		else
			hi = mid;
	}
	return lo < o->nr_held && o->held[lo].index == i ? &o->held[lo] : NULL;
}

static int open_held(const struct open_tenant *t, const struct fh_held_text *held, uint64_t want, char **text,
		     size_t *n)
{
	int rc;

	*n = held->sealed.n - FH_TEXT_SEAL_BYTES;
	if (*n != want)
		return -EBADMSG;
	*text = malloc(*n + 1);
	if (!*text)
		return -ENOMEM;
	rc = fh_text_open(t->key, t->name, held->index, held->sealed.p, held->sealed.n, (uint8_t *)*text);
	(*text)[*n] = 0;
	if (rc) {
		free(*text);
		*text = NULL;
	}
	return rc;
}

int fh_opener_text(struct fh_opener *o, uint64_t i, const struct fh_record *rec, char **text, size_t *n)
{
	const struct fh_held_text *held = find_held(o, i);
	bool in_segment = fh_record_in_segment(rec);
	struct open_tenant *t;

	*text = NULL;
	if (!rec->num[FH_RN_SEALED_BYTES] && !in_segment)
		return -ENOENT;
	if (!is_name(&rec->str[FH_RS_TENANT - 64]))
		return -EBADMSG;
	t = find_tenant(o, &rec->str[FH_RS_TENANT - 64]);
	if (!t)
		return -ENOMEM;
	if (i < t->erased_at)
		return -ENOKEY;
	if (t->key_rc)
		return t->key_rc == -ENOENT ? -EKEYREJECTED : t->key_rc;
	if (in_segment && held)
		return open_held(t, held, rec->num[FH_RN_BODY_BYTES], text, n);
	return in_segment ? part_of_segment(o, t, i, text, n) : open_body(o, t, i, rec, text, n);
}
