// SPDX-License-Identifier: Apache-2.0
/* The verifier: what records say, bodies, tenants' keys, the journal, and files that do not belong there. */
#include <fcntl.h>
#include <inttypes.h>
#include <sodium.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include "runtime/trust/held.h"
#include "runtime/trust/log.h"
#include "runtime/trust/verify_priv.h"

#define PAIRED 0x80 /* of a BEGIN: its END was seen */

/* ---- tenants ---- */

/* The tenant of entry @i; *out NULL: it names none, which is told where it must. 0 or -ENOMEM. */
static int find_tenant(struct fh_verifier *x, uint64_t i, const struct fh_record *rec, bool tell,
		       struct fh_known_tenant **out)
{
	const struct fh_record_bytes *name = &rec->str[FH_RS_TENANT - 64];
	struct fh_known_tenant *more;

	*out = NULL;
	if (!name->n || name->n > FH_RECORD_NAME_MAX || memchr(name->p, 0, name->n)) {
		if (tell)
			fh_found(x, "entry %" PRIu64 ": a record of kind '%s' without a tenant's name", i,
				 fh_record_kind_name(rec->kind));
		return 0;
	}
	for (uint32_t k = 0; k < x->nr_tenants && !*out; k++)
		if (strlen(x->tenants[k].name) == name->n && !memcmp(x->tenants[k].name, name->p, name->n))
			*out = &x->tenants[k];
	if (*out)
		return 0;
	more = realloc(x->tenants, (x->nr_tenants + 1) * sizeof(*more));
	if (!more)
		return -ENOMEM;
	x->tenants = more;
	more += x->nr_tenants++;
	*more = (struct fh_known_tenant){0};
	memcpy(more->name, name->p, name->n);
	*out = more;
	return 0;
}

static bool key_is(const struct fh_verifier *x, const struct fh_known_tenant *t)
{
	uint8_t key[FH_BODY_KEY_BYTES], hash[32];

	if (!fh_tenant_name_ok(t->name) || fh_tenant_load(&x->r.dir, t->name, key))
		return false;
	fh_tenant_key_hash(key, hash);
	sodium_memzero(key, sizeof(key));
	return !memcmp(hash, t->hash, sizeof(hash));
}

static int note_tenant(struct fh_verifier *x, uint64_t i, const struct fh_record *rec)
{
	const struct fh_record_bytes *hash = &rec->str[FH_RS_HASH - 64];
	struct fh_known_tenant *t;
	int rc = find_tenant(x, i, rec, true, &t);

	if (!t)
		return rc;
	t->known = true;
	t->erased = rec->kind == FH_REC_ERASED;
	if (!t->erased && hash->n == sizeof(t->hash))
		memcpy(t->hash, hash->p, sizeof(t->hash));
	else if (!t->erased)
		fh_found(x, "entry %" PRIu64 ": the hash of a tenant's key has %u bytes", i, hash->n);
	t->key_bad = !t->erased && !key_is(x, t);
	return 0;
}

int fh_verify_erasures(struct fh_verifier *x)
{
	struct fh_record_bytes leaf;
	struct fh_record rec;
	size_t bad;
	int rc = 0;

	for (uint64_t i = 0; i < x->r.cp.size && !rc; i++) {
		if (fh_reader_entry(&x->r, i, &leaf) || fh_record_decode(leaf.p, leaf.n, &rec, &bad))
			continue;
		if (rec.kind == FH_REC_ERASED && rec.str[FH_RS_TENANT - 64].n)
			rc = fh_opener_erased(x->opener, &rec.str[FH_RS_TENANT - 64], i);
		else if (rec.kind == FH_REC_EXPIRED && rec.num[FH_RN_COUNT] <= i && rec.num[FH_RN_COUNT] > x->expired)
			x->expired = rec.num[FH_RN_COUNT];
	}
	return rc;
}

/* All keys at once: of a copy that came without them that is said once. */
static bool keys_are_gone(struct fh_verifier *x)
{
	uint32_t nr = 0;

	if (!faccessat(x->r.dir.fd, "tenant", F_OK, 0))
		return false;
	for (uint32_t i = 0; i < x->nr_tenants; i++)
		nr += x->tenants[i].known && !x->tenants[i].erased;
	if (nr)
		fh_found(x,
			 "tenant: the folder is gone, and with it the keys of %u tenants, of which no entry says that "
			 "they "
			 "were erased",
			 nr);
	return nr;
}

static void check_tenants(struct fh_verifier *x)
{
	bool all_gone = keys_are_gone(x);

	for (uint32_t i = 0; i < x->nr_tenants; i++) {
		const struct fh_known_tenant *t = &x->tenants[i];
		uint8_t key[FH_BODY_KEY_BYTES], hash[32];
		int rc = fh_tenant_name_ok(t->name) ? fh_tenant_load(&x->r.dir, t->name, key) : -EINVAL;

		if (t->nr_texts && !t->held && !x->damaged)
			fh_found(x, "entry %" PRIu64 ": its text, and %" PRIu64 " after it, are in no body",
				 t->texts_from, t->nr_texts - 1);
		/* Its own entry was damaged, and that has been told. */
		if (!t->known)
			continue;
		if (rc == -ENOENT && !t->erased && !all_gone)
			fh_found(x, "tenant/%s: the key is gone, and no entry says that it was erased", t->name);
		else if (!rc && t->erased)
			fh_found(x, "tenant/%s: an entry says that it was erased, and here is a key", t->name);
		else if (rc && rc != -ENOENT)
			fh_found(x, "tenant/%s: %s", t->name, rc == -EBADMSG ? "this is no key" : strerror(-rc));
		if (rc)
			continue;
		fh_tenant_key_hash(key, hash);
		if (!t->erased && memcmp(hash, t->hash, sizeof(hash)))
			fh_found(x, "tenant/%s: not the key that the log knows", t->name);
		sodium_memzero(key, sizeof(key));
	}
}

/* ---- bodies ---- */

/* Step over the bodies, before that of entry @i, of entries that were damaged: their records do not say that they are.
 */
static void skip_orphans(struct fh_verifier *x, uint64_t i)
{
	while (x->body_which >= 0 && !x->body_lost && x->r.body_n - x->body_at >= FH_BODY_FRAME_BYTES) {
		uint64_t index, n = fh_body_frame_read(x->r.body + x->body_at, &index);

		if (index >= i || x->kind[index] || n > x->r.body_n - x->body_at - FH_BODY_FRAME_BYTES)
			return;
		x->body_at += FH_BODY_FRAME_BYTES + (size_t)n;
	}
}

/* A file of bodies begins with entry @i, perhaps: then the one before must be at its end. */
static void next_body_file(struct fh_verifier *x, uint64_t i)
{
	uint32_t which = (uint32_t)(x->body_which + 1);
	int rc;

	skip_orphans(x, i);
	if (which >= x->r.nr_body_files || x->r.body_files[which] > i)
		return;
	if (x->body_which >= 0 && !x->body_lost && x->body_at != x->r.body_n)
		fh_found(x, "%s: byte %zu: %zu bytes that no entry knows", x->body_path, x->body_at,
			 x->r.body_n - x->body_at);
	x->body_which = which;
	x->body_at = 0;
	rc = fh_reader_body_file(&x->r, which, x->body_path);
	x->body_lost = rc;
	if (rc)
		fh_found(x, "%s: %s", x->body_path, strerror(-rc));
	else if (x->r.body_files[which] != i && x->kind[x->r.body_files[which]])
		fh_found(x, "%s: entry %" PRIu64 " has no body", x->body_path, x->r.body_files[which]);
}

/* Of a segment: that it has so many was looked at. */
static uint64_t nr_texts(const struct fh_record *rec)
{
	return rec->kind == FH_REC_BODIES ? rec->num[FH_RN_COUNT] : 1;
}

static int open_body(struct fh_verifier *x, uint64_t i, const struct fh_record *rec)
{
	struct fh_known_tenant *t;
	char *text;
	size_t n;
	int rc = find_tenant(x, i, rec, rec->kind != FH_REC_BODIES, &t);

	if (!t)
		return rc;
	rc = fh_opener_text(x->opener, i, rec, &text, &n);
	x->v->nr_opened += rc ? 0 : nr_texts(rec);
	x->v->nr_erased += rc == -ENOKEY ? nr_texts(rec) : 0;
	/* Of a tenant whose key was damaged nothing more is said for each body. */
	if ((rc == -EBADMSG || rc == -EINVAL) && !x->damaged && !t->key_bad)
		fh_found(x, "entry %" PRIu64 ": its body is as signed, but cannot be opened with its tenant's key", i);
	/* Erased, without its key here, lost: that is told elsewhere. */
	else if (rc && rc != -ENOKEY && rc != -EKEYREJECTED && rc != -ENODATA && !x->damaged && !t->key_bad)
		fh_found(x, "entry %" PRIu64 ": its body cannot be read: %s", i, strerror(-rc));
	if (!rc)
		free(text);
	return rc == -ENOMEM ? rc : 0;
}

static int check_body(struct fh_verifier *x, uint64_t i, const struct fh_record *rec)
{
	const struct fh_record_bytes *want = &rec->str[FH_RS_BODY_HASH - 64];
	uint64_t n = rec->num[FH_RN_SEALED_BYTES];
	uint8_t head[FH_BODY_FRAME_BYTES], hash[32];
	size_t at;

	if (!n)
		return 0;
	x->v->nr_bodies += nr_texts(rec);
	next_body_file(x, i);
	skip_orphans(x, i);
	at = x->body_at;
	/* Whole files go, from the oldest on: then none has been met yet. */
	if (x->body_which < 0 && i < x->expired) {
		x->v->nr_expired += nr_texts(rec);
		return 0;
	}
	if (x->body_which < 0 || x->body_lost) {
		x->damaged = true;
		fh_found(x, "entry %" PRIu64 ": its body is gone with its file", i);
		return 0;
	}
	if (x->r.body_n - at < FH_BODY_FRAME_BYTES || n > x->r.body_n - at - FH_BODY_FRAME_BYTES) {
		x->damaged = true;
		x->body_at = x->r.body_n;
		fh_found(x, "%s: byte %zu: the file ends before the body of entry %" PRIu64 " does", x->body_path, at,
			 i);
		return 0;
	}
	x->body_at += FH_BODY_FRAME_BYTES + (size_t)n;
	fh_body_frame(i, (uint32_t)n, rec->num[FH_RN_CHAPTER], head);
	crypto_hash_sha256(hash, (uint8_t *)x->r.body + at + sizeof(head), n);
	if (memcmp(head, x->r.body + at, sizeof(head)))
		fh_found(x, "%s: byte %zu: this is not the head of the body of entry %" PRIu64, x->body_path, at, i);
	else if (want->n != sizeof(hash) || memcmp(hash, want->p, sizeof(hash)))
		fh_found(x, "%s: byte %zu: the body of entry %" PRIu64 " was changed (%" PRIu64 " bytes)", x->body_path,
			 at + sizeof(head), i, n);
	else
		return open_body(x, i, rec);
	x->damaged = true;
	return 0;
}

/* ---- texts and segments ---- */

static int note_text(struct fh_verifier *x, uint64_t i, const struct fh_record *rec)
{
	struct fh_known_tenant *t;
	int rc;

	if (!fh_record_in_segment(rec))
		return 0;
	rc = find_tenant(x, i, rec, true, &t);
	if (!t)
		return rc;
	if (!t->nr_texts++)
		t->texts_from = i;
	t->text_bytes += rec->num[FH_RN_BODY_BYTES];
	return 0;
}

/* A segment has all texts of its tenant since the one before, and says so. */
static int check_segment(struct fh_verifier *x, uint64_t i, const struct fh_record *rec)
{
	struct fh_known_tenant *t;
	int rc;

	if (rec->kind != FH_REC_BODIES)
		return 0;
	rc = find_tenant(x, i, rec, true, &t);
	if (!t)
		return rc;
	/* Of entries that were damaged nobody knows whether they had a text. */
	if (!x->damaged && (rec->num[FH_RN_COUNT] != t->nr_texts || rec->num[FH_RN_BODY_BYTES] != t->text_bytes ||
			    (t->nr_texts && rec->num[FH_RN_REF] != t->texts_from + 1)))
		fh_found(x,
			 "entry %" PRIu64 ": says that it has %" PRIu64 " texts of tenant %s; there are %" PRIu64
			 " since the one before",
			 i, rec->num[FH_RN_COUNT], t->name, t->nr_texts);
	if (!rec->num[FH_RN_SEALED_BYTES])
		fh_found(x, "entry %" PRIu64 ": %" PRIu64 " texts of tenant %s were lost: %.*s", i,
			 rec->num[FH_RN_COUNT], t->name, (int)rec->str[FH_RS_TEXT - 64].n,
			 (const char *)rec->str[FH_RS_TEXT - 64].p);
	t->nr_texts = t->text_bytes = 0;
	return 0;
}

/* ---- records ---- */

static void check_end(struct fh_verifier *x, uint64_t i, const struct fh_record *rec)
{
	uint64_t ref = rec->num[FH_RN_REF] - 1;

	if (ref < i && !x->kind[ref])
		return; /* it was damaged, and that has been told */
	if (ref >= i || x->kind[ref] != FH_REC_BEGIN)
		fh_found(x, "entry %" PRIu64 ": an outcome of entry %" PRIu64 ", which is no request without one", i,
			 ref);
	else
		x->kind[ref] |= PAIRED;
}

int fh_verify_record(struct fh_verifier *x, uint64_t i, const struct fh_record_bytes *leaf, const char *path, size_t at)
{
	struct fh_record rec;
	size_t bad;

	if (fh_record_decode(leaf->p, leaf->n, &rec, &bad)) {
		fh_found(x, "%s: byte %zu: entry %" PRIu64 " is no record that this version can read", path, at + bad,
			 i);
		return 0;
	}
	x->kind[i] = rec.kind;
	if (!x->v->first_us)
		x->v->first_us = rec.num[FH_RN_TIME_US];
	/* A segment's is that of a text. */
	if (rec.kind != FH_REC_BODIES)
		x->v->last_us = rec.num[FH_RN_TIME_US];
	if (check_body(x, i, &rec) || note_text(x, i, &rec) || check_segment(x, i, &rec))
		return -ENOMEM;
	switch (rec.kind) {
	case FH_REC_END: check_end(x, i, &rec); return 0;
	case FH_REC_TENANT:
	case FH_REC_ERASED: return note_tenant(x, i, &rec);
	default: return 0;
	}
}

/* ---- the journal ---- */

static bool being_written(const struct fh_verifier *x)
{
	int fd = openat(x->r.dir.fd, "lock", O_RDONLY | O_CLOEXEC);
	bool busy;

	if (fd < 0)
		return false;
	busy = flock(fd, LOCK_SH | LOCK_NB) && errno == EWOULDBLOCK;
	close(fd);
	return busy;
}

static int check_journal(struct fh_verifier *x, bool busy)
{
	struct fh_record_bytes leaf, sealed;
	uint64_t index, next = x->r.cp.size;
	size_t n, at = 0, used;
	bool new_file;
	char *p;
	int rc = fh_dir_read(&x->r.dir, "journal", 1u << 30, &p, &n);

	if (rc == -ENOENT)
		return 0;
	if (rc)
		return rc;
	for (; at < n; at += used) {
		used = fh_journal_frame(&x->r.key, (uint8_t *)p + at, n - at, &index, &leaf, &sealed, &new_file);
		if (!used || index > next)
			break;
		next += index == next;
	}
	x->v->nr_journal = next - x->r.cp.size;
	if (at < n && !busy)
		fh_found(
			x,
			"journal: byte %zu: %zu bytes that are no entry that comes next: a tail that a crash tore (the "
			"next start cuts it), or damage",
			at, n - at);
	free(p);
	return 0;
}

/* ---- texts that are held there ---- */

static int check_held_text(struct fh_verifier *x, const struct fh_held_text *h)
{
	struct fh_known_tenant *t;
	struct fh_record_bytes leaf;
	struct fh_record rec;
	size_t bad, n;
	char *text;
	int rc = fh_reader_entry(&x->r, h->index, &leaf);

	if (rc)
		return rc == -ENOMEM ? rc : 0;
	if (leaf.n != h->leaf.n || memcmp(leaf.p, h->leaf.p, leaf.n)) {
		/* Both were signed; or else the entry was changed since, and that has been told. */
		if (x->kind[h->index])
			fh_found(x,
				 "journal: the text of entry %" PRIu64
				 " lies there with another entry than the one that was signed",
				 h->index);
		return 0;
	}
	if (fh_record_decode(h->leaf.p, h->leaf.n, &rec, &bad))
		return 0;
	rc = find_tenant(x, h->index, &rec, false, &t);
	if (!t)
		return rc;
	t->nr_texts -= t->nr_texts > 0;
	x->v->nr_bodies++;
	rc = fh_opener_text(x->opener, h->index, &rec, &text, &n);
	if (!rc)
		free(text);
	x->v->nr_opened += !rc;
	x->v->nr_erased += rc == -ENOKEY;
	if (rc == -EBADMSG && !t->key_bad)
		fh_found(x,
			 "journal: the text of entry %" PRIu64
			 " is as signed, but cannot be opened with its tenant's key",
			 h->index);
	return rc == -ENOMEM ? rc : 0;
}

static int check_held(struct fh_verifier *x)
{
	const struct fh_checkpoint *cp = &x->r.cp;
	uint32_t nr;
	const struct fh_held_text *h = fh_opener_held(x->opener, &nr);
	int rc = 0;

	if (!fh_held_are(cp, h, nr)) {
		fh_found(x,
			 "journal: it does not hold the %" PRIu64 " texts from entry %" PRIu64
			 " on as they were signed",
			 cp->held.nr, cp->held.first);
		for (uint32_t i = 0; i < x->nr_tenants; i++)
			x->tenants[i].held = x->tenants[i].texts_from >= cp->held.first;
		return 0;
	}
	for (uint32_t i = 0; i < nr && !rc; i++)
		rc = check_held_text(x, &h[i]);
	return rc;
}

/* ---- strangers ---- */

struct walk {
	struct fh_verifier *x;
	const char *folder;
	bool busy;
};

static int look_at(void *ctx, const char *name);

static int walk_folder(struct fh_verifier *x, const char *folder, bool busy)
{
	struct walk w = {x, folder, busy};

	return fh_dir_list(&x->r.dir, folder, look_at, &w);
}

/* A tile that the checkpoint has, or that the journal will give again. */
static bool tile_known(const struct walk *w, const char *path)
{
	uint64_t index, size = w->x->r.cp.size, nr;
	uint32_t width;
	int level;

	if (!fh_tile_parse(path, &level, &index, &width))
		return false;
	nr = fh_level_nr(size, level < 0 ? 0 : (unsigned int)level);
	if (width == FH_TILE_WIDTH ? index < nr / FH_TILE_WIDTH
				   : index == nr / FH_TILE_WIDTH && width == nr % FH_TILE_WIDTH)
		return true;
	nr = fh_level_nr(size + w->x->v->nr_journal, level < 0 ? 0 : (unsigned int)level);
	return index * FH_TILE_WIDTH + width <= nr;
}

static int look_at(void *ctx, const char *name)
{
	const struct walk *w = ctx;
	char path[FH_DIR_PATH_MAX + 64];
	struct stat st;
	size_t n;

	n = (size_t)snprintf(path, sizeof(path), "%s/%s", w->folder, name);
	if (n >= FH_DIR_PATH_MAX || fstatat(w->x->r.dir.fd, path, &st, AT_SYMLINK_NOFOLLOW))
		return 0;
	if (S_ISDIR(st.st_mode))
		return walk_folder(w->x, path, w->busy);
	/* What is half written is no part of the log, and harmless. */
	if (w->busy || (n > 4 && !strcmp(path + n - 4, ".tmp")))
		return 0;
	if (!tile_known(w, path))
		fh_found(w->x, "%s: no part of the log as it was signed", path);
	return 0;
}

static int look_at_body(void *ctx, const char *name)
{
	struct walk *w = ctx;
	char path[FH_DIR_PATH_MAX], *end;
	uint64_t first = strtoull(name, &end, 10);

	fh_body_path(first, path);
	if (*end || strcmp(path + 5, name))
		fh_found(w->x, "body/%.100s: no part of the log", name);
	else if (!w->busy && first >= w->x->r.cp.size + w->x->v->nr_journal)
		fh_found(w->x, "%s: begins beyond the end of the log as it was signed", path);
	return 0;
}

static void end_bodies(struct fh_verifier *x, bool busy)
{
	skip_orphans(x, x->r.cp.size);
	/* What the journal will bring may be there already. */
	if (x->body_which >= 0 && !x->body_lost && x->body_at != x->r.body_n && !busy && !x->v->nr_journal)
		fh_found(x, "%s: byte %zu: %zu bytes that no entry knows", x->body_path, x->body_at,
			 x->r.body_n - x->body_at);
}

/* Who may read the secret key sees whether it is still that of the log. */
static void check_key(struct fh_verifier *x)
{
	struct fh_note_key key;
	struct fh_err why;
	char *text;
	size_t n;

	if (fh_dir_read(&x->r.dir, "key", FH_NOTE_KEY_MAX, &text, &n))
		return;
	if (!n || text[n - 1] != '\n' || fh_note_key_parse(text, &key, &why) || !key.can_sign ||
	    memcmp(key.pub, x->r.key.pub, sizeof(key.pub)))
		fh_found(x, "key: not the key that the log is signed with");
	sodium_memzero(&key, sizeof(key));
	sodium_memzero(text, n);
	free(text);
}

int fh_verify_rest(struct fh_verifier *x)
{
	bool busy = being_written(x);
	struct walk w = {x, "body", busy};
	int rc = check_journal(x, busy);

	if (rc)
		return rc;
	rc = check_held(x);
	if (rc)
		return rc;
	check_key(x);
	end_bodies(x, busy);
	check_tenants(x);
	for (uint64_t i = 0; i < x->r.cp.size; i++) {
		x->v->nr_interactions += (x->kind[i] & ~PAIRED) == FH_REC_BEGIN;
		x->v->nr_open += x->kind[i] == FH_REC_BEGIN;
	}
	rc = walk_folder(x, "tile", busy);
	return rc ? rc : fh_dir_list(&x->r.dir, "body", look_at_body, &w);
}
