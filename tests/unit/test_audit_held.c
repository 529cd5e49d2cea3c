// SPDX-License-Identifier: Apache-2.0
/*
 * Texts that are held: they lie in the journal over publications, until their tenant has said enough for a segment.
 * The checkpoint signs for them; readers, verifiers and the next start find them there; and who has kept a checkpoint
 * can see, once they are in a segment, that they are what was signed.
 */
#include <fcntl.h>
#include <sodium.h>
#include <sys/stat.h>

#include "runtime/trust/held.h"
#include "runtime/trust/log_priv.h"
#include "tests/unit/audit_util.h"

#define HOUR 3600000000ull

static char dir[40];
static struct findings found;

static void setup(void)
{
	new_folder(dir);
}

static void teardown(void)
{
	remove_folder(dir);
}

TestSuite(held, .init = setup, .fini = teardown, .timeout = 120);

static struct fh_log *open_holding(void)
{
	struct fh_log *l = open_log(dir, NULL);

	fh_log_set_hold(l, HOUR);
	return l;
}

static char *slurp(const char *name, size_t *n)
{
	struct fh_err err;
	struct fh_dir d;
	char *p;

	cr_assert(!fh_dir_open(&d, dir, false, &err));
	cr_assert(!fh_dir_read(&d, name, 1u << 30, &p, n));
	fh_dir_close(&d);
	return p;
}

static void spill(const char *name, const void *p, size_t n)
{
	char path[128];
	int fd;

	snprintf(path, sizeof(path), "%s/%s", dir, name);
	fd = open(path, O_WRONLY | O_CREAT | O_TRUNC, 0600);
	cr_assert(fd >= 0 && write(fd, p, n) == (ssize_t)n);
	close(fd);
}

/* The number of segments, and of texts that open, each as it was given. */
static uint64_t count(uint64_t *segments)
{
	struct fh_record_bytes leaf;
	struct fh_opener *o;
	struct fh_record rec;
	struct fh_reader r;
	struct fh_err err;
	uint64_t nr = 0;
	char want[64], *text;
	size_t n, bad;

	*segments = 0;
	cr_assert(!fh_reader_open(&r, dir, NULL, &err), "%s", err.msg);
	cr_assert(!fh_opener_create(&r, &o));
	for (uint64_t i = 0; i < r.cp.size; i++) {
		cr_assert(!fh_reader_entry(&r, i, &leaf) && !fh_record_decode(leaf.p, leaf.n, &rec, &bad));
		*segments += rec.kind == FH_REC_BODIES;
		if (rec.kind != FH_REC_BEGIN && rec.kind != FH_REC_END)
			continue;
		snprintf(want, sizeof(want), "{\"prompt\": \"%.*s asks no. %lu: ", (int)rec.str[0].n,
			 (const char *)rec.str[0].p, rec.num[FH_RN_TIME_US] - 1000000 - (rec.kind == FH_REC_END));
		cr_assert(!fh_opener_text(o, i, &rec, &text, &n), "entry %lu", i);
		cr_assert(!strncmp(text, want, strlen(want)), "%s", text);
		cr_assert_eq(n, rec.num[FH_RN_BODY_BYTES]);
		free(text);
		nr++;
	}
	fh_opener_free(o);
	fh_reader_close(&r);
	return nr;
}

static int check_again(const char *note, size_t n, uint64_t *nr_gone)
{
	struct fh_record_bytes leaf;
	struct fh_record rec;
	size_t bad;
	struct fh_checkpoint old;
	struct fh_opener *o;
	struct fh_reader r;
	struct fh_err err;
	int rc;

	cr_assert(!fh_reader_open(&r, dir, NULL, &err), "%s", err.msg);
	cr_assert(!fh_opener_create(&r, &o));
	cr_assert(!fh_checkpoint_open(note, n, &r.key, &old, &err), "%s", err.msg);
	for (uint64_t i = 0; i < r.cp.size; i++) {
		cr_assert(!fh_reader_entry(&r, i, &leaf) && !fh_record_decode(leaf.p, leaf.n, &rec, &bad));
		if (rec.kind == FH_REC_ERASED)
			cr_assert(!fh_opener_erased(o, &rec.str[FH_RS_TENANT - 64], i));
	}
	rc = fh_held_check(&r, o, &old, nr_gone);
	fh_opener_free(o);
	fh_reader_close(&r);
	return rc;
}

/* ---- when a segment is made ---- */

Test(held, until_they_are_old)
{
	struct fh_log *l = open_holding();
	struct fh_verify v;
	uint64_t segments;
	size_t n;

	for (uint64_t i = 0; i < 20; i++) {
		add_pair(l, i % 2 ? "alice" : "bob", i, 80);
		cr_assert(!fh_log_publish(l));
	}
	cr_expect_eq(count(&segments), 40);
	cr_expect_eq(segments, 0);
	v = verify(dir, NULL, &found);
	cr_expect_eq(found.nr, 0, "%s", found.all);
	cr_expect(v.nr_bodies == 40 && v.nr_opened == 40);
	cr_expect_eq(v.cp.held.nr, 40);
	/* Nothing comes any more: then the clock says it. */
	fh_log_set_time(l, 1000000 + HOUR - 1);
	cr_assert(!fh_log_publish(l));
	cr_expect(count(&segments) == 40 && segments == 0);
	fh_log_set_time(l, 1000000 + HOUR + 1);
	cr_assert(!fh_log_publish(l));
	cr_expect(count(&segments) == 40 && segments == 2);
	free(slurp("journal", &n));
	cr_expect_eq(n, 0);
	v = verify(dir, NULL, &found);
	cr_expect_eq(found.nr, 0, "%s", found.all);
	cr_expect_eq(v.cp.held.nr, 0);
	cr_assert(!fh_log_close(l));
}

/* One tenant's time has come; another's texts stay, and the journal with them. */
Test(held, each_tenant_by_himself)
{
	struct fh_log *l = open_holding();
	uint64_t segments;
	struct fh_verify v;

	add_pair(l, "alice", 0, 80);
	cr_assert(!fh_log_publish(l));
	add_pair(l, "bob", HOUR / 2, 80);
	cr_assert(!fh_log_publish(l));
	add_pair(l, "bob", HOUR + 5, 80);
	cr_assert(!fh_log_publish(l));
	cr_expect(count(&segments) == 6 && segments == 1);
	v = verify(dir, NULL, &found);
	cr_expect_eq(found.nr, 0, "%s", found.all);
	cr_expect_eq(v.cp.held.nr, 4);
	fh_log_abandon(l);
	l = open_log(dir, NULL);
	cr_assert(!fh_log_close(l));
	cr_expect(count(&segments) == 6 && segments == 2);
	verify(dir, NULL, &found);
	cr_expect_eq(found.nr, 0, "%s", found.all);
}

/* The time of the oldest text that lies in the journal, whoever may have sealed it already; UINT64_MAX: there is none.
 */
static uint64_t oldest_in_journal(const struct fh_log *l)
{
	struct fh_record_bytes leaf, sealed;
	uint64_t index, oldest = UINT64_MAX;
	struct fh_record rec;
	bool new_file;
	size_t n, used, bad;
	char *p = slurp("journal", &n);

	for (size_t at = 0; at < n; at += used) {
		used = fh_journal_frame(&l->key, (uint8_t *)p + at, n - at, &index, &leaf, &sealed, &new_file);
		cr_assert(used && !fh_record_decode(leaf.p, leaf.n, &rec, &bad));
		if (sealed.n && rec.kind != FH_REC_BODIES && rec.num[FH_RN_TIME_US] < oldest)
			oldest = rec.num[FH_RN_TIME_US];
	}
	free(p);
	return oldest;
}

static int expire(struct fh_log *l, uint64_t before_us, uint64_t now_us)
{
	struct fh_reader r;
	struct fh_err err;
	int nr;

	cr_assert(!fh_reader_open(&r, dir, NULL, &err), "%s", err.msg);
	nr = fh_log_expire(l, &r, before_us, now_us);
	fh_reader_close(&r);
	cr_assert(!fh_log_publish(l));
	return nr;
}

/* Of two tenants whose turns overlap one always has a text that is held: what has expired is not kept beside it. */
Test(held, the_journal_keeps_no_expired_text)
{
	struct fh_log *l = open_holding();
	uint64_t now = 0, oldest;
	uint32_t nr_held = 0, nr_expired = 0;
	int nr;

	fh_log_set_file_age(l, HOUR);
	for (uint64_t i = 0; i < 600; i++) {
		now = 1000000 + i * HOUR / 10;
		if (i % 6 == 0)
			add_pair(l, i / 6 % 2 ? "alice" : "bob", now - 1000000, 80);
		fh_log_set_time(l, now);
		cr_assert(!fh_log_publish(l));
		nr_held += l->nr_held > 0;
		oldest = oldest_in_journal(l);
		cr_assert(oldest == UINT64_MAX || now - oldest < FH_LOG_HELD_TURNS * HOUR, "turn %lu: %lu s old", i,
			  (now - oldest) / 1000000);
		if (now < 17 * HOUR)
			continue;
		nr = expire(l, now - 16 * HOUR, now);
		cr_assert_geq(nr, 0);
		nr_expired += (uint32_t)nr;
		cr_assert_geq(oldest, now - 16 * HOUR);
	}
	cr_expect_geq(nr_held, 500);
	cr_expect_geq(nr_expired, 10);
	verify(dir, NULL, &found);
	cr_expect_eq(found.nr, 0, "%s", found.all);
	cr_assert(!fh_log_close(l));
}

/* A crash after the checkpoint and before the journal was emptied: nothing new has to come. */
Test(held, a_journal_that_was_left_is_emptied)
{
	struct fh_log *l = open_holding();
	char *journal;
	size_t n, left;

	add_pair(l, "alice", 0, 80);
	cr_assert(!fh_log_publish(l));
	cr_assert(!fh_log_seal(l));
	cr_assert(!fh_log_commit(l, true));
	journal = slurp("journal", &n);
	cr_assert(!fh_log_close(l));
	spill("journal", journal, n);
	l = open_holding();
	cr_assert(!fh_log_publish(l));
	free(slurp("journal", &left));
	cr_expect_eq(left, 0);
	verify(dir, NULL, &found);
	cr_expect_eq(found.nr, 0, "%s", found.all);
	fh_log_abandon(l);
	free(journal);
}

Test(held, until_there_is_enough)
{
	struct fh_log *l = open_holding();
	uint64_t segments, i = 0;
	struct stat st;
	char path[128];
	off_t most = 0;

	snprintf(path, sizeof(path), "%s/journal", dir);
	/* 64 KiB of a tenant's. */
	for (; i < 30; i++) {
		add_pair(l, "alice", i, 3000);
		cr_assert(!fh_log_publish(l));
	}
	count(&segments);
	cr_expect_eq(segments, 2);
	/* The journal does not grow without end, whoever speaks: bob's few texts are made room with. */
	for (uint64_t k = 0; k < 2500; k++, i++) {
		add_pair(l, k % 500 ? "alice" : "bob", i, 3000);
		cr_assert(!fh_log_publish(l));
		cr_assert(!stat(path, &st));
		most = st.st_size > most ? st.st_size : most;
	}
	cr_expect_leq(most, (off_t)FH_LOG_HELD_BYTES + 65536);
	cr_expect_geq(most, (off_t)FH_LOG_HELD_BYTES - 65536);
	cr_assert(!fh_log_close(l));
	verify(dir, NULL, &found);
	cr_expect_eq(found.nr, 0, "%s", found.all);
	cr_expect_eq(count(&segments), 2 * i);
}

/* ---- after a crash ---- */

Test(held, come_back_after_a_crash)
{
	struct fh_log *l = open_holding();
	struct fh_log_report report;
	uint64_t segments, gone;
	char *note;
	size_t n;

	for (uint64_t i = 0; i < 6; i++) {
		add_pair(l, i % 3 ? "alice" : "bob", i, 80);
		cr_assert(!fh_log_publish(l));
	}
	note = slurp("checkpoint", &n);
	cr_expect(strstr(note, "\ntexts 12 "), "%s", note);
	add_pair(l, "bob", 6, 80);
	cr_assert(!fh_log_commit(l, true));
	add_pair(l, "bob", 7, 80);
	fh_log_abandon(l);
	l = open_log(dir, &report);
	cr_expect_eq(report.nr_replayed, 2);
	cr_assert(!fh_log_close(l));
	cr_expect(count(&segments) == 14 && segments == 2);
	verify(dir, NULL, &found);
	cr_expect_eq(found.nr, 0, "%s", found.all);
	cr_expect_eq(check_again(note, n, &gone), 0);
	/* And when nothing but them was in the journal. */
	l = open_holding();
	add_pair(l, "alice", 8, 80);
	cr_assert(!fh_log_publish(l));
	fh_log_abandon(l);
	l = open_log(dir, &report);
	cr_expect_eq(report.nr_replayed, 0);
	cr_assert(!fh_log_close(l));
	cr_expect(count(&segments) == 16 && segments == 3);
	free(note);
}

/* ---- damage ---- */

/* A log with four texts that are held, and two that are beyond the checkpoint; *whole: the journal's bytes before. */
static char *make_held(size_t *whole, size_t *n)
{
	struct fh_log *l = open_holding();

	add_pair(l, "alice", 0, 60);
	cr_assert(!fh_log_publish(l));
	add_pair(l, "bob", 1, 60);
	cr_assert(!fh_log_publish(l));
	free(slurp("journal", whole));
	add_pair(l, "bob", 2, 60);
	cr_assert(!fh_log_commit(l, true));
	fh_log_abandon(l);
	return slurp("journal", n);
}

/* What was signed is found changed wherever it is; what was not is a torn tail, as it always was. */
Test(held, any_byte_of_the_journal)
{
	size_t whole, n;
	char *journal = make_held(&whole, &n), path[128];
	struct fh_log_report report;
	struct fh_err err;
	struct fh_log *l;

	for (size_t at = 0; at < n; at++) {
		journal[at] ^= 1 << at % 8;
		spill("journal", journal, n);
		journal[at] ^= 1 << at % 8;
		verify(dir, NULL, &found);
		cr_assert(!strncmp(found.all, "journal: ", 9), "byte %zu: %s", at, found.all);
		cr_assert_eq(strstr(found.all, "4 texts from entry") != NULL, at < whole, "byte %zu: %s", at,
			     found.all);
		if (at >= whole)
			continue;
		cr_assert_eq(fh_log_open(dir, NULL, NULL, &l, &report, &err), -EBADMSG, "byte %zu", at);
		cr_assert(strstr(err.msg, "4 texts from entry"), "%s", err.msg);
	}
	/* Nothing of it was cut while it was refused. */
	free(slurp("journal", &whole));
	cr_expect_eq(whole, n);
	snprintf(path, sizeof(path), "%s/journal", dir);
	cr_assert(!unlink(path));
	verify(dir, NULL, &found);
	cr_expect(strstr(found.all, "4 texts from entry"), "%s", found.all);
	cr_expect_eq(fh_log_open(dir, NULL, NULL, &l, &report, &err), -EBADMSG);
	spill("journal", journal, n);
	l = open_log(dir, NULL);
	cr_assert(!fh_log_close(l));
	verify(dir, NULL, &found);
	cr_expect_eq(found.nr, 0, "%s", found.all);
	free(journal);
}

/* What is broken at @at bytes into it is in the tiles; what is behind it is in the journal alone, and taken from there.
 */
static bool open_broken(size_t at)
{
	struct fh_record rec = {.kind = FH_REC_KEYS, .num[FH_RN_TIME_US] = 1000002};
	struct fh_log *l = open_holding();
	struct fh_log_report report;
	uint64_t index, segments;
	size_t from, to, n;
	char *journal;

	add_pair(l, "alice", 0, 60);
	cr_assert(!fh_log_publish(l));
	free(slurp("journal", &from));
	cr_assert(!fh_log_append(l, &rec, NULL, NULL, 0, FH_BODY_NONE, &index));
	cr_assert(!fh_log_publish(l));
	free(slurp("journal", &to));
	cr_assert_lt(from, to);
	add_pair(l, "alice", 1, 60);
	cr_assert(!fh_log_commit(l, true));
	fh_log_abandon(l);
	if (at >= to - from)
		return false;
	journal = slurp("journal", &n);
	journal[from + at] ^= 1 << at % 8;
	spill("journal", journal, n);
	free(journal);
	l = open_log(dir, &report);
	cr_assert(report.nr_replayed == 2 && !report.torn_bytes && report.broken_bytes == to - from,
		  "byte %zu: %lu entries, %lu bytes torn, %lu broken", at, report.nr_replayed, report.torn_bytes,
		  report.broken_bytes);
	cr_assert(!fh_log_close(l));
	verify(dir, NULL, &found);
	cr_assert_eq(found.nr, 0, "byte %zu: %s", at, found.all);
	cr_assert_eq(count(&segments), 4, "byte %zu", at);
	return true;
}

Test(held, a_broken_frame_of_what_is_published)
{
	for (size_t at = 0; open_broken(at); at += 5) {
		teardown();
		setup();
	}
}

/* Another text of the same length in the place of the first, by who has all keys. */
static void forge(char *journal, size_t n, const struct fh_log *l)
{
	struct fh_record_bytes leaf, sealed;
	uint8_t key[FH_BODY_KEY_BYTES], *text;
	uint64_t index;
	bool new_file;
	size_t used;

	for (size_t at = 0; at < n; at += used) {
		used = fh_journal_frame(&l->key, (uint8_t *)journal + at, n - at, &index, &leaf, &sealed, &new_file);
		cr_assert(used);
		if (!sealed.n)
			continue;
		text = malloc(sealed.n);
		cr_assert(!fh_tenant_load(&l->dir, "alice", key));
		cr_assert(!fh_text_open(key, "alice", index, sealed.p, sealed.n, text));
		text[30] ^= 1;
		fh_text_seal(key, "alice", index, text, sealed.n - FH_TEXT_SEAL_BYTES, (uint8_t *)sealed.p);
		fh_journal_head(&l->key, index, leaf.n, sealed.n, new_file, (uint8_t *)journal + at);
		free(text);
		return;
	}
	cr_assert_fail("no text");
}

/* The first text in the place of another entry, which says nearly the same. */
static void forge_entry(char *journal, size_t n, const struct fh_log *l)
{
	struct fh_record_bytes leaf, sealed;
	struct fh_record was, rec;
	uint64_t index;
	bool new_file, done = false;
	size_t used, bad;

	for (size_t at = 0; at < n && !done; at += used) {
		used = fh_journal_frame(&l->key, (uint8_t *)journal + at, n - at, &index, &leaf, &sealed, &new_file);
		cr_assert(used);
		if (!sealed.n)
			continue;
		cr_assert(!fh_record_decode(leaf.p, leaf.n, &was, &bad));
		for (uint32_t i = 0; i < leaf.n && !done; i++) {
			((uint8_t *)leaf.p)[i] ^= 1;
			done = !fh_record_decode(leaf.p, leaf.n, &rec, &bad) && rec.kind == was.kind &&
			       rec.num[FH_RN_TIME_US] != was.num[FH_RN_TIME_US];
			if (!done)
				((uint8_t *)leaf.p)[i] ^= 1;
		}
		fh_journal_head(&l->key, index, leaf.n, sealed.n, new_file, (uint8_t *)journal + at);
	}
	cr_assert(done);
}

/* The checkpoint @note, signed anew for what @journal holds, into @again: its bytes. */
static size_t sign_again(const struct fh_note_key *key, const char *journal, size_t n, const char *note, size_t note_n,
			 char again[FH_CHECKPOINT_MAX])
{
	uint8_t sums[2][FH_HELD_BYTES];
	struct fh_held_text *texts;
	struct fh_checkpoint cp;
	struct fh_err err;
	uint32_t nr;
	int len;

	cr_assert(!fh_checkpoint_open(note, note_n, key, &cp, &err));
	cr_assert(!fh_held_find(key, (const uint8_t *)journal, n, cp.size, &texts, &nr));
	cr_assert_eq(nr, 2);
	memcpy(sums[0], texts[0].sum, FH_HELD_BYTES);
	memcpy(sums[1], texts[1].sum, FH_HELD_BYTES);
	fh_held_hash(sums, 2, cp.held.hash.b);
	free(texts);
	len = fh_checkpoint_sign(key, &cp, again);
	cr_assert_gt(len, 0);
	return (size_t)len;
}

/* It is found, with the journal there; and later by who kept the checkpoint, even if the head was signed anew. */
Test(held, a_text_is_changed_by_who_has_the_keys)
{
	struct fh_log *l = open_holding();
	uint64_t gone;
	char *journal, *note, again[FH_CHECKPOINT_MAX];
	size_t n, note_n, len;

	add_pair(l, "alice", 0, 60);
	cr_assert(!fh_log_publish(l));
	journal = slurp("journal", &n);
	note = slurp("checkpoint", &note_n);
	forge(journal, n, l);
	spill("journal", journal, n);
	verify(dir, NULL, &found);
	cr_expect(strstr(found.all, "journal: it does not hold the 2 texts"), "%s", found.all);
	/* Signed anew: to those who come now all is well. */
	len = sign_again(&l->key, journal, n, note, note_n, again);
	fh_log_abandon(l);
	spill("checkpoint", again, len);
	verify(dir, NULL, &found);
	cr_expect_eq(found.nr, 0, "%s", found.all);
	cr_expect_eq(check_again(note, note_n, &gone), -EBADMSG);
	l = open_log(dir, NULL);
	cr_assert(!fh_log_close(l));
	verify(dir, NULL, &found);
	cr_expect_eq(found.nr, 0, "%s", found.all);
	cr_expect_eq(check_again(note, note_n, &gone), -EBADMSG);
	cr_expect_eq(check_again(again, len, &gone), 0);
	free(journal);
	free(note);
}

/* A head that was signed for two different entries in one place: neither was changed since. */
Test(held, a_text_with_another_entry)
{
	struct fh_log *l = open_holding();
	char *journal, *note, again[FH_CHECKPOINT_MAX];
	size_t n, note_n;

	add_pair(l, "alice", 0, 60);
	cr_assert(!fh_log_publish(l));
	journal = slurp("journal", &n);
	note = slurp("checkpoint", &note_n);
	forge_entry(journal, n, l);
	spill("checkpoint", again, sign_again(&l->key, journal, n, note, note_n, again));
	fh_log_abandon(l);
	spill("journal", journal, n);
	verify(dir, NULL, &found);
	cr_expect(strstr(found.all, "lies there with another entry"), "%s", found.all);
	free(journal);
	free(note);
}

/* ---- keys that go ---- */

Test(held, erasure)
{
	struct fh_log *l = open_holding();
	struct fh_verify v;
	uint64_t gone;
	char *note;
	size_t n;

	add_pair(l, "alice", 0, 60);
	add_pair(l, "bob", 1, 60);
	cr_assert(!fh_log_publish(l));
	note = slurp("checkpoint", &n);
	cr_assert(!fh_log_erase_tenant(l, "alice"));
	fh_log_set_time(l, 2000000);
	cr_assert(!fh_log_publish(l));
	v = verify(dir, NULL, &found);
	cr_expect_eq(found.nr, 0, "%s", found.all);
	cr_expect(v.nr_bodies == 4 && v.nr_opened == 2 && v.nr_erased == 2);
	cr_expect_eq(v.cp.held.nr, 2);
	/* Nobody can say any more whether alice's are what they were. */
	cr_expect_eq(check_again(note, n, &gone), -ENOKEY);
	cr_expect_eq(gone, 2);
	cr_assert(!fh_log_close(l));
	verify(dir, NULL, &found);
	cr_expect_eq(found.nr, 0, "%s", found.all);
	free(note);
}

static void rename_in(const char *from, const char *to)
{
	char old[128], new[128];

	snprintf(old, sizeof(old), "%s/%s", dir, from);
	snprintf(new, sizeof(new), "%s/%s", dir, to);
	cr_assert(!rename(old, new));
}

/* A key that was only moved away, and a body that was only removed, are not what an erasure or retention is. */
Test(held, what_is_gone_and_no_entry_says_why)
{
	struct fh_log *l = open_holding();
	uint64_t gone;
	char *note;
	size_t n;

	add_pair(l, "alice", 0, 60);
	add_pair(l, "bob", 1, 60);
	cr_assert(!fh_log_publish(l));
	note = slurp("checkpoint", &n);
	cr_expect_eq(check_again(note, n, &gone), 0);
	rename_in("tenant/alice", "alice");
	cr_expect_eq(check_again(note, n, &gone), -EKEYREJECTED);
	cr_expect_eq(gone, 2);
	/* Another's erasure does not explain it. */
	cr_assert(!fh_log_erase_tenant(l, "bob"));
	fh_log_set_time(l, 2000000);
	cr_assert(!fh_log_publish(l));
	cr_expect_eq(check_again(note, n, &gone), -EKEYREJECTED);
	cr_expect_eq(gone, 2);
	/* Nor is a key that is damaged anything that was said of texts. */
	spill("tenant/alice", "short", 5);
	cr_expect_eq(check_again(note, n, &gone), -EKEYREJECTED);
	cr_expect_eq(gone, 2);
	rename_in("alice", "tenant/alice");
	cr_expect_eq(check_again(note, n, &gone), -ENOKEY);
	cr_expect_eq(gone, 2);
	/* The start finds a text and no key: it says that the text is lost, but not that anybody erased it. */
	rename_in("tenant/alice", "alice");
	fh_log_abandon(l);
	l = open_log(dir, NULL);
	cr_assert(!fh_log_close(l));
	cr_expect_eq(check_again(note, n, &gone), -EKEYREJECTED);
	rename_in("alice", "tenant/alice");
	cr_expect_eq(check_again(note, n, &gone), -EKEYREJECTED);
	free(note);
}

Test(held, what_expired)
{
	struct fh_log *l = open_holding();
	uint64_t gone, index;
	struct fh_reader r;
	struct fh_err err;
	char *note, path[FH_DIR_PATH_MAX];
	size_t n;

	add_pair(l, "alice", 0, 60);
	cr_assert(!fh_log_publish(l));
	note = slurp("checkpoint", &n);
	cr_assert(!fh_log_seal(l));
	cr_assert(!fh_log_publish(l));
	cr_expect_eq(check_again(note, n, &gone), 0);
	cr_assert(!fh_reader_open(&r, dir, NULL, &err), "%s", err.msg);
	cr_assert_eq(r.nr_body_files, 1);
	index = r.body_files[0];
	fh_reader_close(&r);
	fh_body_path(index, path);
	rename_in(path, "body-away");
	cr_expect_eq(check_again(note, n, &gone), -EKEYREJECTED);
	cr_expect_eq(gone, 2);
	rename_in("body-away", path);
	cr_expect_eq(expire(l, HOUR, 2 * HOUR), 1);
	cr_expect_eq(check_again(note, n, &gone), -ENOKEY);
	cr_expect_eq(gone, 2);
	cr_assert(!fh_log_close(l));
	free(note);
}

/* ---- who reads while it is written ---- */

Test(held, a_reader_who_comes_too_late)
{
	struct fh_log *l = open_holding();
	struct fh_opener *o;
	struct fh_reader r;
	struct fh_err err;
	uint64_t segments;

	add_pair(l, "alice", 0, 60);
	cr_assert(!fh_log_publish(l));
	cr_assert(!fh_reader_open(&r, dir, NULL, &err), "%s", err.msg);
	cr_assert(!fh_log_seal(l));
	cr_assert(!fh_log_publish(l));
	cr_expect_eq(fh_opener_create(&r, &o), -ESTALE);
	fh_reader_close(&r);
	cr_expect(count(&segments) == 2 && segments == 1);
	cr_assert(!fh_log_close(l));
}

/* The line of a checkpoint, and what is none. */
Test(held, the_line_in_the_checkpoint)
{
	static const char *const bad[] = {"texts 1 2",	   "texts 0 2 %s",  "texts 1 9 %s",  "texts 8 2 %s",
					  "texts 01 2 %s", "texts 1  2 %s", "texts 1 2 %s ", "texts 1 2 AAAA"};
	static const char *const good[] = {"texts 1 2 %s", "texts 7 2 %s", "another line", "texts"};
	static const char root[] = "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=";
	struct fh_checkpoint cp;
	struct fh_err err;
	char line[128], text[512];
	int n;

	cr_assert_geq(sodium_init(), 0);
	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		snprintf(line, sizeof(line), bad[i], root);
		n = snprintf(text, sizeof(text), "o\n9\n%s\n%s\n", root, line);
		cr_expect(fh_checkpoint_open(text, (size_t)n, NULL, &cp, &err) < 0, "%s", line);
	}
	for (size_t i = 0; i < sizeof(good) / sizeof(good[0]); i++) {
		snprintf(line, sizeof(line), good[i], root);
		n = snprintf(text, sizeof(text), "o\n9\n%s\n%s\n", root, line);
		cr_expect(!fh_checkpoint_open(text, (size_t)n, NULL, &cp, &err), "%s", line);
		cr_expect_eq(cp.held.nr, i == 0 ? 1 : i == 1 ? 7 : 0);
	}
}
