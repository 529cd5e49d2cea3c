// SPDX-License-Identifier: Apache-2.0
/*
 * Making, opening and mending a log.
 *
 * What a checkpoint vouches for is never mended: if it is not as signed, opening
 * fails and says where.  What lies beyond the checkpoint comes from the journal.
 */
#include "runtime/trust/log_priv.h"

#include <fcntl.h>
#include <inttypes.h>
#include <sodium.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "runtime/trust/reader.h"

#define JOURNAL_MAX (1u << 30)

/* ---- keys ---- */

/* "HOST/freehold-audit-1a2b3c4d": an origin should be unique and say whose it is. */
static void make_name(char out[FH_NOTE_NAME_MAX])
{
	char host[65] = "";

	if (gethostname(host, sizeof(host) - 1) || !*host)
		strcpy(host, "localhost");
	for (char *p = host; *p; p++)
		if ((unsigned char)*p <= ' ' || *p == '+' || (unsigned char)*p >= 0x7f)
			*p = '-';
	snprintf(out, FH_NOTE_NAME_MAX, "%s/freehold-audit-%08" PRIx32, host, randombytes_random());
}

static int put_keys(struct fh_log *l, bool secret, struct fh_err *err)
{
	char text[FH_NOTE_KEY_MAX + 1];
	int rc = 0;

	if (secret) {
		fh_note_key_private(&l->key, text);
		strcat(text, "\n");
		rc = fh_dir_put(&l->dir, "key", text, strlen(text));
		sodium_memzero(text, sizeof(text));
		/* Whoever finds key.pub may count on the key. */
		if (!rc)
			rc = fh_dir_sync_names(&l->dir);
	}
	snprintf(text, sizeof(text), "%s\n", l->verifier_key);
	if (!rc)
		rc = fh_dir_put(&l->dir, "key.pub", text, strlen(text));
	if (!rc)
		rc = fh_dir_sync_names(&l->dir);
	return rc ? fh_errf(err, rc, "the audit log's key cannot be stored: %s", strerror(-rc)) : 0;
}

static int exists(const struct fh_log *l, const char *name)
{
	struct stat st;

	return !fstatat(l->dir.fd, name, &st, 0);
}

static int make_key(struct fh_log *l, struct fh_log_report *report, struct fh_err *err)
{
	char name[FH_NOTE_NAME_MAX];

	if (exists(l, "checkpoint") || exists(l, "tile") || exists(l, "key.pub"))
		return fh_errf(
			err, -EBADMSG,
			"the audit log has no file 'key' but was begun; restore its key, or name an empty folder");
	make_name(name);
	fh_note_key_make(name, &l->key);
	fh_note_key_public(&l->key, l->verifier_key);
	report->created = true;
	return put_keys(l, true, err);
}

static int load_key(struct fh_log *l, struct fh_log_report *report, struct fh_err *err)
{
	char *text;
	size_t n;
	int rc = fh_dir_read(&l->dir, "key", FH_NOTE_KEY_MAX, &text, &n);

	if (rc == -ENOENT)
		return make_key(l, report, err);
	if (rc)
		return fh_errf(err, rc, "the audit log's key: %s", strerror(-rc));
	rc = fh_note_key_parse(text, &l->key, err);
	sodium_memzero(text, n);
	free(text);
	if (!rc && !l->key.can_sign)
		rc = fh_errf(err, -EINVAL, "the audit log's file 'key' holds a public key");
	if (rc)
		return rc;
	fh_note_key_public(&l->key, l->verifier_key);
	rc = fh_dir_read(&l->dir, "key.pub", FH_NOTE_KEY_MAX, &text, &n);
	if (rc == -ENOENT)
		return put_keys(l, false, err);
	if (!rc && (n != strlen(l->verifier_key) + 1 || memcmp(text, l->verifier_key, n - 1)))
		rc = -EBADMSG;
	free(text);
	return rc ? fh_errf(err, rc, "the audit log's key.pub is not that of its key") : 0;
}

/* ---- the published part ---- */

/* The rightmost tile of a level: its whole file. */
static int load_tile(struct fh_log *l, int level, uint64_t nr, char **out, size_t *n, struct fh_err *err)
{
	char path[FH_TILE_PATH_MAX];
	int rc;

	fh_tile_path(level, nr / FH_TILE_WIDTH, nr % FH_TILE_WIDTH, path);
	rc = fh_dir_read(&l->dir, path, level < 0 ? 1u << 25 : sizeof(l->edge.tree.hash[0]), out, n);
	return rc ? fh_errf(err, rc == -ENOENT ? -EBADMSG : rc, "the audit log's %s: %s", path, strerror(-rc)) : 0;
}

static int load_bundle(struct fh_log *l, struct fh_err *err)
{
	uint32_t nr = l->edge.tree.nr % FH_TILE_WIDTH, k = 0;
	struct fh_hash hash;
	size_t n, at = 0;
	char *text;
	int rc = load_tile(l, -1, l->edge.tree.nr, &text, &n, err);

	if (rc)
		return rc;
	for (; k < nr && n - at >= 2; k++) {
		size_t len = (size_t)(uint8_t)text[at] << 8 | (uint8_t)text[at + 1];

		if (len > n - at - 2)
			break;
		fh_leaf_hash(text + at + 2, len, &hash);
		if (memcmp(&hash, &l->edge.tree.hash[0][k], sizeof(hash)))
			break;
		at += 2 + len;
	}
	if (k < nr || at != n)
		rc = fh_errf(err, -EBADMSG, "the audit log's entry %" PRIu64 " is not what was signed",
			     l->edge.tree.nr - nr + k);
	else if (fh_grow_put(&l->edge.bundle, text, n))
		rc = fh_errf(err, -ENOMEM, "out of memory");
	free(text);
	return rc;
}

static int load_edge(struct fh_log *l, const struct fh_checkpoint *cp, struct fh_err *err)
{
	struct fh_hash root;
	char *text;
	size_t n;
	int rc = 0;

	l->edge.tree.nr = cp->size;
	for (unsigned int level = 0; level < FH_TILE_LEVELS && !rc; level++) {
		uint64_t nr = fh_level_nr(cp->size, level);

		if (!(nr % FH_TILE_WIDTH))
			continue;
		rc = load_tile(l, (int)level, nr, &text, &n, err);
		if (rc)
			return rc;
		if (n == nr % FH_TILE_WIDTH * sizeof(struct fh_hash))
			memcpy(l->edge.tree.hash[level], text, n);
		free(text);
	}
	fh_tree_root(&l->edge.tree, &root);
	if (memcmp(&root, &cp->root, sizeof(root)))
		return fh_errf(err, -EBADMSG,
			       "the audit log's tiles do not give the signed root hash of its %" PRIu64
			       " entries; `freehold audit verify` says where",
			       cp->size);
	l->root = root;
	return cp->size % FH_TILE_WIDTH ? load_bundle(l, err) : 0;
}

static int load_checkpoint(struct fh_log *l, struct fh_err *err)
{
	struct fh_checkpoint cp = {0};
	struct fh_err why = {0};
	char *note;
	size_t n;
	int rc = fh_dir_read(&l->dir, "checkpoint", FH_NOTE_MAX, &note, &n);

	if (rc == -ENOENT)
		return 0;
	if (rc)
		return fh_errf(err, rc, "the audit log's checkpoint: %s", strerror(-rc));
	rc = fh_checkpoint_open(note, n, &l->key, &cp, &why);
	free(note);
	if (rc)
		return fh_errf(err, -EBADMSG, "the audit log's checkpoint: %s", why.msg);
	l->nr = l->nr_durable = cp.size;
	l->cp = cp;
	return load_edge(l, &cp, err);
}

/* ---- bodies ---- */

struct body_files {
	uint64_t nr; /* entries that are published */
	bool any;
	uint64_t last;	 /* the last file that begins below them */
	uint64_t beyond; /* 1 + the last entry seen beyond them */
};

static int look_at_body(void *ctx, const char *name)
{
	struct body_files *b = ctx;
	uint64_t first;
	int n = 0;

	if (sscanf(name, "%" SCNu64 "%n", &first, &n) != 1 || name[n])
		return 0;
	if (first >= b->nr) {
		b->beyond = b->beyond > first + 1 ? b->beyond : first + 1;
		return 0;
	}
	b->last = b->any && b->last > first ? b->last : first;
	b->any = true;
	return 0;
}

/* The last entry with a body in a bundle of @nr entries, the first of which is @first. False: none has one. */
static bool last_in_bundle(const char *p, size_t n, uint32_t nr, uint64_t first, uint64_t *out)
{
	uint32_t at[FH_TILE_WIDTH + 1], whole = fh_bundle_split(p, n, nr, at);
	struct fh_record rec;
	bool any = false;
	size_t bad;

	for (uint32_t k = 0; k < whole; k++) {
		if (fh_record_decode((const uint8_t *)p + at[k] + 2, at[k + 1] - at[k] - 2, &rec, &bad) ||
		    !rec.num[FH_RN_SEALED_BYTES])
			continue;
		*out = first + k;
		any = true;
	}
	return any;
}

/* The last published entry with a body, which is @first or one after it. */
static bool last_body(struct fh_log *l, uint64_t first, uint64_t *out)
{
	uint64_t tile = l->nr / FH_TILE_WIDTH;
	char path[FH_TILE_PATH_MAX], *p;
	bool found;
	size_t n;

	if (last_in_bundle((const char *)l->edge.bundle.p, l->edge.bundle.n, l->nr % FH_TILE_WIDTH,
			   tile * FH_TILE_WIDTH, out))
		return true;
	while (tile-- > first / FH_TILE_WIDTH) {
		fh_tile_path(-1, tile, FH_TILE_WIDTH, path);
		if (fh_dir_read(&l->dir, path, 1u << 25, &p, &n))
			return false;
		found = last_in_bundle(p, n, FH_TILE_WIDTH, tile * FH_TILE_WIDTH, out);
		free(p);
		if (found)
			return true;
	}
	return false;
}

/*
 * How far the file goes with bodies of published entries, the last of which is
 * @last.  0: it does not come that far in order, so something was damaged.
 */
static uint64_t scan_bodies(const uint8_t *p, size_t n, uint64_t last, struct body_files *b)
{
	uint64_t good = 0, before = 0;
	size_t at = 0;

	while (n - at >= FH_BODY_FRAME_BYTES) {
		uint64_t index, len = fh_body_frame_read(p + at, &index);

		/* After the last one may come anything; but what looks like bodies says that the log was longer. */
		if (len > n - at - FH_BODY_FRAME_BYTES || (at && index <= before) || index > before + 65536 + b->nr ||
		    (!good && index > last))
			break;
		at += FH_BODY_FRAME_BYTES + (size_t)len;
		before = index;
		if (index == last)
			good = at;
		if (index >= b->nr)
			b->beyond = b->beyond > index + 1 ? b->beyond : index + 1;
	}
	return good;
}

static int find_bodies(struct fh_log *l, struct body_files *b, struct fh_log_report *report, struct fh_err *err)
{
	char path[FH_DIR_PATH_MAX], *p;
	uint64_t last;
	size_t n;
	int rc;

	b->nr = l->nr;
	rc = fh_dir_list(&l->dir, "body", look_at_body, b);
	if (rc || !b->any)
		return rc ? fh_errf(err, rc, "the audit log's bodies: %s", strerror(-rc)) : 0;
	fh_body_path(b->last, path);
	rc = fh_dir_read(&l->dir, path, FH_BODY_FILE_BYTES + 2 * FH_BODY_MAX, &p, &n);
	if (rc)
		return fh_errf(err, rc, "the audit log's %s: %s", path, strerror(-rc));
	l->body_first = b->last;
	l->body_bytes = last_body(l, b->last, &last) ? scan_bodies((uint8_t *)p, n, last, b) : 0;
	free(p);
	/* Damage is for the verifier to tell; here it is left alone, and the next body begins a file. */
	l->fill = l->body_bytes ? l->body_bytes : FH_BODY_FILE_BYTES;
	report->body_torn_bytes = l->body_bytes ? n - l->body_bytes : 0;
	return 0;
}

/* What a publication that did not come to its end has left: the journal has those bodies. */
static int cut_bodies(struct fh_log *l, const struct fh_log_report *report, struct fh_err *err)
{
	char path[FH_DIR_PATH_MAX];
	int fd, rc;

	if (!report->body_torn_bytes)
		return 0;
	fh_body_path(l->body_first, path);
	fd = fh_dir_open_file(&l->dir, path);
	rc = fd < 0 ? fd : fh_dir_truncate(&l->dir, fd, path, l->body_bytes);
	if (fd >= 0)
		close(fd);
	return rc ? fh_errf(err, rc, "the audit log's %s: %s", path, strerror(-rc)) : 0;
}

/* ---- the journal ---- */

/* Whole frames beyond a cut. They were never acknowledged, as what came before them was not. */
static uint64_t count_after(const struct fh_log *l, const uint8_t *p, size_t n)
{
	struct fh_record_bytes leaf, sealed;
	uint64_t index, nr = 0;
	bool new_file;

	for (size_t at = 0; at < n;) {
		size_t used = fh_journal_frame(&l->key, p + at, n - at, &index, &leaf, &sealed, &new_file);

		nr += used && index >= l->nr;
		at += used ? used : 1;
	}
	return nr;
}

/*
 * Bytes to a whole frame of the next entry, where there is no frame at @p; 0: there is none, and this is a torn tail.
 * An entry is never written behind one that is not whole, so what is broken before it is of those that are published.
 */
static size_t to_next(const struct fh_log *l, const uint8_t *p, size_t n)
{
	struct fh_record_bytes leaf, sealed;
	uint64_t index;
	bool new_file;

	for (size_t at = 1; at < n; at++)
		if (fh_journal_frame(&l->key, p + at, n - at, &index, &leaf, &sealed, &new_file) && index == l->nr)
			return at;
	return 0;
}

/* A body for the files of bodies, and not a text? */
static bool has_body(const struct fh_record_bytes *leaf)
{
	struct fh_record rec;
	size_t bad;

	return !fh_record_decode(leaf->p, leaf->n, &rec, &bad) && rec.num[FH_RN_SEALED_BYTES];
}

static int replay(struct fh_log *l, const uint8_t *p, size_t n, struct fh_log_report *report)
{
	struct fh_record_bytes leaf, sealed;
	size_t at = 0, used;
	uint64_t index;
	bool new_file;
	int rc = 0;

	for (; at < n && !rc; at += used) {
		used = fh_journal_frame(&l->key, p + at, n - at, &index, &leaf, &sealed, &new_file);
		if (!used && !report->nr_replayed) {
			used = to_next(l, p + at, n - at);
			report->broken_bytes += used;
			if (used)
				continue;
		}
		if (used && index > l->nr && !report->nr_replayed)
			return -EBADMSG;
		if (!used || index > l->nr || (index < l->nr && report->nr_replayed))
			break;
		if (index < l->nr)
			continue;
		if (!report->nr_replayed)
			l->journal_at = at;
		report->nr_replayed++;
		rc = fh_log_put_frame(l, leaf.p, leaf.n, sealed.p, sealed.n, new_file);
		if (!rc && has_body(&leaf))
			l->fill = (new_file ? 0 : l->fill) + FH_BODY_FRAME_BYTES + sealed.n;
	}
	if (!report->nr_replayed)
		l->journal_at = at;
	report->torn_at = at;
	report->torn_bytes = n - at;
	report->nr_after_torn = count_after(l, p + at, n - at);
	l->nr_written = l->frames.n;
	l->nr_at_write = l->nr;
	return rc;
}

/* The texts that the checkpoint signed for: they are never mended either. */
static int check_held(struct fh_log *l, struct fh_err *err)
{
	struct fh_held_text *texts;
	uint32_t nr;
	int rc;

	if (!l->cp.held.nr)
		return 0;
	rc = fh_held_find(&l->key, l->published.p, l->published.n, l->cp.size, &texts, &nr);
	if (rc)
		return fh_errf(err, rc, "out of memory");
	if (!fh_held_are(&l->cp, texts, nr))
		rc = fh_errf(err, -EBADMSG,
			     "the audit log's journal does not hold the %" PRIu64 " texts from entry %" PRIu64
			     " on as they were signed; `freehold audit verify` says more",
			     l->cp.held.nr, l->cp.held.first);
	free(texts);
	return rc;
}

static int load_journal(struct fh_log *l, const struct body_files *b, struct fh_log_report *report, struct fh_err *err)
{
	char *p = NULL;
	size_t n = 0;
	int rc = fh_dir_read(&l->dir, "journal", JOURNAL_MAX, &p, &n);

	if (rc && rc != -ENOENT)
		return fh_errf(err, rc, "the audit log's journal: %s", strerror(-rc));
	rc = p ? replay(l, (uint8_t *)p, n, report) : 0;
	/* Without texts that are held it may have been emptied, and be anything. */
	if (!rc && p && l->cp.held.nr)
		rc = fh_grow_put(&l->published, p, l->journal_at);
	free(p);
	if ((!rc || rc == -EBADMSG) && !l->nr && (exists(l, "tile") || exists(l, "body")))
		return fh_errf(err, -EBADMSG,
			       "the audit log's checkpoint is gone, and its journal does not begin at "
			       "entry 0; restore them, or name an empty folder");
	if (rc == -EBADMSG || (!rc && b->beyond > l->nr))
		return fh_errf(err, -EBADMSG,
			       "the audit log ends at entry %" PRIu64 ", but its %s beyond: an older "
			       "checkpoint was put in the place of the last",
			       l->nr, rc ? "journal begins" : "bodies go");
	/* Before anything of it is cut. */
	if (!rc && check_held(l, err))
		return -EBADMSG;
	if (!rc) {
		l->journal_fd = fh_dir_open_file(&l->dir, "journal");
		rc = l->journal_fd < 0 ? l->journal_fd : 0;
	}
	if (!rc && report->torn_bytes)
		rc = fh_dir_truncate(&l->dir, l->journal_fd, "journal", report->torn_at);
	return rc ? fh_errf(err, rc, "the audit log's journal: %s", strerror(-rc)) : 0;
}

static int note_repair(struct fh_log *l, const struct fh_log_report *report)
{
	struct fh_record r = {.kind = FH_REC_REPAIRED};
	struct timespec ts;
	char text[200];
	uint64_t index;

	clock_gettime(CLOCK_REALTIME, &ts);
	r.num[FH_RN_TIME_US] = (uint64_t)ts.tv_sec * 1000000 + (uint64_t)ts.tv_nsec / 1000;
	r.num[FH_RN_COUNT] = report->nr_replayed;
	snprintf(text, sizeof(text),
		 "the last run ended without notice: %" PRIu64 " entries from the journal; %" PRIu64
		 " bytes of a torn tail were cut",
		 report->nr_replayed, report->torn_bytes);
	fh_record_set_str(&r, FH_RS_TEXT, text, strlen(text));
	return fh_log_append(l, &r, NULL, NULL, 0, FH_BODY_NONE, &index);
}

static int take_lock(struct fh_log *l, const char *path, struct fh_err *err)
{
	l->lock_fd = fh_dir_open_file(&l->dir, "lock");
	if (l->lock_fd < 0)
		return fh_errf(err, l->lock_fd, "%s/lock: %s", path, strerror(-l->lock_fd));
	if (flock(l->lock_fd, LOCK_EX | LOCK_NB))
		return fh_errf(err, -EBUSY, "%s: another process writes this audit log", path);
	return 0;
}

static int restore_texts(struct fh_log *l, struct fh_err *err)
{
	int rc = fh_log_restore_texts(l);

	return rc ? fh_errf(err, rc, "the texts in the audit log's journal: %s", strerror(-rc)) : 0;
}

static int open_all(struct fh_log *l, struct fh_log_report *report, struct fh_err *err)
{
	struct body_files bodies = {0};
	uint64_t before;
	int rc = load_key(l, report, err);

	if (!rc)
		rc = load_checkpoint(l, err);
	if (!rc)
		rc = find_bodies(l, &bodies, report, err);
	if (!rc)
		rc = load_journal(l, &bodies, report, err);
	if (!rc)
		rc = restore_texts(l, err);
	if (!rc)
		rc = cut_bodies(l, report, err);
	if (rc)
		return rc;
	/* Made here, so that it belongs to whom the log belongs to, and not to who first has a wish. */
	rc = fh_dir_mkdir(&l->dir, "erase");
	before = l->edge.tree.nr;
	if (!rc && (report->nr_replayed || report->torn_bytes))
		rc = note_repair(l, report);
	if (!rc)
		rc = fh_log_publish(l);
	if (rc)
		return fh_errf(err, rc, "the audit log cannot be written: %s", strerror(-rc));
	fh_log_clean_partials(l, before ? before - 1 : 0);
	return 0;
}

int fh_log_open(const char *path, int (*watch)(void *ctx, const struct fh_dir_op *op), void *watch_ctx,
		struct fh_log **out, struct fh_log_report *report, struct fh_err *err)
{
	struct fh_log *l;
	int rc;

	*report = (struct fh_log_report){0};
	if (sodium_init() < 0)
		return fh_errf(err, -EIO, "libsodium does not start");
	l = calloc(1, sizeof(*l));
	if (!l)
		return fh_errf(err, -ENOMEM, "out of memory");
	l->lock_fd = l->journal_fd = -1;
	rc = fh_dir_open(&l->dir, path, true, err);
	l->dir.watch = watch;
	l->dir.watch_ctx = watch_ctx;
	if (!rc)
		rc = take_lock(l, path, err);
	if (!rc)
		rc = open_all(l, report, err);
	if (rc) {
		fh_log_free(l);
		return rc;
	}
	*out = l;
	return 0;
}
