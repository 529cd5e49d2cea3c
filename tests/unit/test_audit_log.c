// SPDX-License-Identifier: Apache-2.0
/*
 * The audit log on a real folder: what is written verifies, reads back, goes on
 * after a close and after a crash; and every bit of a small log that is flipped,
 * every file that is removed, every entry that is changed, swapped or dropped is
 * found, in the right place.
 */
#include <dirent.h>
#include <fcntl.h>
#include <sys/stat.h>

#include "runtime/trust/reader.h"
#include "tests/unit/audit_util.h"

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

TestSuite(audit, .init = setup, .fini = teardown);

/* ---- files ---- */

static char *slurp(const char *name, size_t *n)
{
	struct fh_dir d = {.fd = open(dir, O_RDONLY | O_DIRECTORY)};
	char *p = NULL;

	cr_assert(!fh_dir_read(&d, name, 1u << 30, &p, n), "%s", name);
	close(d.fd);
	return p;
}

static void spill(const char *name, const char *p, size_t n)
{
	char path[256];
	FILE *f;

	snprintf(path, sizeof(path), "%s/%s", dir, name);
	f = fopen(path, "w");
	cr_assert(f && fwrite(p, 1, n, f) == n && !fclose(f));
}

static char files[200][128];
static uint32_t nr_files;

static int note_file(const char *path, const struct stat *st, int type, struct FTW *ftw)
{
	(void)st;
	(void)ftw;
	if (type == FTW_F && nr_files < 200)
		snprintf(files[nr_files++], sizeof(files[0]), "%s", path + strlen(dir) + 1);
	return 0;
}

static void list_files(void)
{
	nr_files = 0;
	nftw(dir, note_file, 16, FTW_PHYS);
}

/* ---- writing and reading ---- */

Test(audit, small_and_large)
{
	static const uint32_t sizes[] = {1, 3, 127, 128, 129, 300, 700};
	struct fh_log_report report;
	struct fh_verify v;
	struct fh_log *l;
	uint64_t nr = 0;

	for (size_t i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++) {
		l = open_log(dir, &report);
		cr_expect_eq(report.created, !i);
		cr_expect_eq(report.nr_replayed, 0);
		for (uint32_t k = 0; k < sizes[i]; k++)
			add_pair(l, k % 3 ? "alice" : "bob", nr++, 40 + k);
		cr_assert(!fh_log_close(l));
		v = verify(dir, NULL, &found);
		cr_assert_eq(v.nr_findings, 0, "%s", found.all);
		cr_expect_eq(v.nr_interactions, nr);
		cr_expect_eq(v.nr_open, 0);
		cr_expect_eq(v.nr_opened, 2 * nr);
	}
}

Test(audit, goes_on_after_a_crash)
{
	struct fh_log_report report;
	struct fh_log *l = open_log(dir, NULL);
	struct fh_verify v;

	add_pair(l, "alice", 0, 100);
	cr_assert(!fh_log_publish(l));
	add_pair(l, "alice", 1, 100);
	add_pair(l, "bob", 2, 100);
	cr_assert(!fh_log_commit(l, true));
	cr_expect_eq(fh_log_durable(l), fh_log_size(l));
	add_pair(l, "bob", 3, 100); /* in memory only */
	fh_log_abandon(l);
	v = verify(dir, NULL, &found);
	cr_expect_eq(v.nr_findings, 0, "%s", found.all);
	cr_expect_eq(v.nr_journal, 5); /* bob's key, too */
	l = open_log(dir, &report);
	cr_expect_eq(report.nr_replayed, 5);
	cr_expect_eq(report.torn_bytes, 0);
	add_pair(l, "bob", 4, 100);
	cr_assert(!fh_log_close(l));
	v = verify(dir, NULL, &found);
	cr_expect_eq(v.nr_findings, 0, "%s", found.all);
	cr_expect_eq(v.nr_interactions, 4);
	cr_expect_eq(v.nr_opened, 8);
}

/* Texts that only the journal has, sealed with a key that somebody has removed: the log opens, says so, and goes on. */
Test(audit, texts_whose_key_is_gone)
{
	struct fh_log *l = open_log(dir, NULL);
	struct fh_verify v;
	char path[128];

	add_pair(l, "alice", 0, 100);
	add_pair(l, "bob", 1, 100);
	cr_assert(!fh_log_commit(l, true));
	fh_log_abandon(l);
	snprintf(path, sizeof(path), "%s/tenant/alice", dir);
	cr_assert(!unlink(path));
	l = open_log(dir, NULL);
	add_pair(l, "bob", 2, 100);
	cr_assert(!fh_log_close(l));
	v = verify(dir, NULL, &found);
	cr_expect_eq(v.nr_opened, 4);
	cr_expect(strstr(found.all, "2 texts of tenant alice were lost: the key"), "%s", found.all);
	cr_expect_eq(access(path, F_OK), -1);
}

/* The journal cut, and damaged, at each byte of its last entry. */
Test(audit, torn_tails)
{
	struct fh_log_report report;
	struct fh_log *l = open_log(dir, NULL);
	size_t n, whole;
	char *journal;

	add_pair(l, "alice", 0, 60);
	cr_assert(!fh_log_publish(l));
	add_pair(l, "alice", 1, 60);
	cr_assert(!fh_log_commit(l, true));
	free(slurp("journal", &whole));
	add_pair(l, "alice", 2, 60);
	cr_assert(!fh_log_commit(l, true));
	fh_log_abandon(l);
	journal = slurp("journal", &n);
	for (size_t cut = whole; cut < n; cut++) {
		char copy[40];
		char cmd[200];

		strcpy(copy, dir);
		snprintf(cmd, sizeof(cmd), "rm -rf %s.x && cp -a %s %s.x", dir, dir, dir);
		cr_assert(!system(cmd));
		strcat(dir, ".x");
		spill("journal", journal, cut);
		if (cut % 2) { /* every other time it is not cut but damaged */
			journal[cut] ^= 0x20;
			spill("journal", journal, n);
			journal[cut] ^= 0x20;
		}
		l = open_log(dir, &report);
		cr_expect_geq(report.nr_replayed, 2);
		cr_expect_leq(report.nr_replayed, 3);
		cr_expect(report.torn_bytes || cut == whole || report.nr_replayed == 3, "cut at %zu", cut);
		add_pair(l, "alice", 7, 60);
		cr_assert(!fh_log_close(l));
		verify(dir, NULL, &found);
		cr_assert_eq(found.nr, 0, "cut at %zu: %s", cut, found.all);
		remove_folder(dir);
		strcpy(dir, copy);
	}
	free(journal);
}

Test(audit, bodies_come_back)
{
	struct fh_log *l = open_log(dir, NULL);
	struct fh_record_bytes leaf;
	struct fh_opener *o;
	struct fh_record rec;
	struct fh_reader r;
	struct fh_err err;
	char want[64], *text;
	uint64_t seen = 0;
	size_t n, bad;

	for (uint64_t i = 0; i < 300; i++)
		add_pair(l, i % 2 ? "alice" : "bob", i, 80);
	cr_assert(!fh_log_close(l));
	cr_assert(!fh_reader_open(&r, dir, NULL, &err), "%s", err.msg);
	cr_assert(!fh_opener_create(&r, &o));
	/* In order, and then backwards, where each has to be found through its chapter. */
	for (uint64_t k = 0; k < r.cp.size + 40; k++) {
		uint64_t i = k < r.cp.size ? k : r.cp.size - 1 - 7 * (k - r.cp.size);

		cr_assert(!fh_reader_entry(&r, i, &leaf));
		cr_assert(!fh_record_decode(leaf.p, leaf.n, &rec, &bad));
		if (rec.kind != FH_REC_BEGIN)
			continue;
		/* The record is borrowed from the reader, which opening makes read on. */
		snprintf(want, sizeof(want), "{\"prompt\": \"%.*s asks no. %lu: ", (int)rec.str[0].n,
			 (const char *)rec.str[0].p, rec.num[FH_RN_TIME_US] - 1000000);
		cr_assert(!fh_opener_text(o, i, &rec, &text, &n), "entry %lu", i);
		cr_expect(!strncmp(text, want, strlen(want)), "%s", text);
		free(text);
		seen++;
	}
	cr_expect_geq(seen, 310);
	fh_opener_free(o);
	fh_reader_close(&r);
}

Test(audit, large_bodies_begin_files)
{
	struct fh_log *l = open_log(dir, NULL);
	struct fh_record r = {.kind = FH_REC_BEGIN};
	const size_t n = 6u << 20;
	uint8_t *noise = malloc(n);
	struct fh_verify v;
	uint64_t index;

	for (size_t i = 0; i < n; i++)
		noise[i] = (uint8_t)(i * 2654435761u >> 13 ^ i >> 5);
	r.num[FH_RN_TIME_US] = 1;
	for (int i = 0; i < 6; i++) {
		fh_record_set_str(&r, FH_RS_TENANT, "alice", 5);
		for (size_t k = 0; k < n; k += 3)
			noise[k] = (uint8_t)(noise[k] * 31 + 7 + (uint8_t)i);
		cr_assert(!fh_log_append(l, &r, "alice", noise, n, FH_BODY_FULL, &index));
		if (i == 2)
			cr_assert(!fh_log_publish(l));
	}
	cr_assert(!fh_log_close(l));
	v = verify(dir, NULL, &found);
	cr_expect_eq(found.nr, 0, "%s", found.all);
	cr_expect_eq(v.nr_opened, 6);
	free(noise);
}

/* ---- tenants ---- */

Test(audit, erasing_a_tenant)
{
	struct fh_log *l = open_log(dir, NULL);
	struct fh_verify v;
	char path[128];

	for (uint64_t i = 0; i < 20; i++)
		add_pair(l, i % 2 ? "alice" : "bob", i, 80);
	cr_expect_eq(fh_log_erase_tenant(l, "carol"), -ENOENT);
	cr_expect_eq(fh_log_erase_tenant(l, "../key"), -EINVAL);
	cr_assert(!fh_log_erase_tenant(l, "alice"));
	add_pair(l, "bob", 20, 80);
	add_pair(l, "alice", 21, 80); /* comes again, with a new key */
	cr_assert(!fh_log_close(l));
	v = verify(dir, NULL, &found);
	cr_expect_eq(found.nr, 0, "%s", found.all);
	cr_expect_eq(v.nr_erased, 20);
	cr_expect_eq(v.nr_opened, 24);
	/* By wish, as the tool leaves it. */
	spill("erase/alice", "", 0);
	spill("erase/nobody", "", 0);
	l = open_log(dir, NULL);
	cr_expect_eq(fh_log_do_erasures(l), 1);
	cr_expect_eq(fh_log_do_erasures(l), 0);
	cr_assert(!fh_log_close(l));
	v = verify(dir, NULL, &found);
	cr_expect_eq(found.nr, 0, "%s", found.all);
	cr_expect_eq(v.nr_erased, 22);
	/* Without an entry that says so, a key must not be gone. */
	snprintf(path, sizeof(path), "%s/tenant/bob", dir);
	cr_assert(!unlink(path));
	verify(dir, NULL, &found);
	cr_expect(strstr(found.all, "tenant/bob: the key is gone"), "%s", found.all);
}

/* ---- damage ---- */

static void make_small_log(void)
{
	struct fh_log *l = open_log(dir, NULL);

	for (uint64_t i = 0; i < 4; i++)
		add_pair(l, i % 2 ? "alice" : "bob", i, 50);
	cr_assert(!fh_log_publish(l));
	cr_assert(!fh_log_close(l));
}

/* Whoever reads the finding must come to the right file. */
static void expect_place(const char *file, size_t byte)
{
	bool tile = !strncmp(file, "tile/", 5) || !strncmp(file, "body/", 5) || !strncmp(file, "tenant/", 7);
	char where[160];

	cr_assert(found.nr, "%s: a flipped bit in byte %zu was not found", file, byte);
	snprintf(where, sizeof(where), "%s", file);
	cr_expect(strstr(found.all, where), "%s: byte %zu: %s", file, byte, found.all);
	/* Nothing beside is blamed: one finding, or, for the head of an entry that shifts the others, those of one
	 * file. */
	for (char *line = found.all; *line && tile; line = strchr(line, '\n') + 1)
		cr_expect(!strncmp(line, where, strlen(where)), "%s: byte %zu: %s", file, byte, found.all);
}

/* A sanitizer's build is slow: one bit of each byte there, all eight elsewhere. */
#ifdef __SANITIZE_ADDRESS__
#define BITS_OF_BYTE(i) (i) % 8, bit_end = (i) % 8 + 1
#else
#define BITS_OF_BYTE(i) 0, bit_end = 8
#endif

Test(audit, every_flipped_bit_is_found)
{
	struct fh_log *l;

	make_small_log();
	/* And entries that only the journal has. */
	l = open_log(dir, NULL);
	add_pair(l, "alice", 9, 50);
	cr_assert(!fh_log_commit(l, true));
	fh_log_abandon(l);
	list_files();
	cr_assert_geq(nr_files, 8);
	for (uint32_t f = 0; f < nr_files; f++) {
		size_t n;
		char *p = slurp(files[f], &n);

		cr_assert(n || !strcmp(files[f], "lock"), "%s is empty", files[f]);
		for (size_t i = 0; i < n; i++) {
			for (size_t bit = BITS_OF_BYTE(i); bit < bit_end; bit++) {
				p[i] ^= (char)(1 << bit);
				spill(files[f], p, n);
				verify(dir, NULL, &found);
				expect_place(files[f], i);
				p[i] ^= (char)(1 << bit);
			}
		}
		spill(files[f], p, n);
		free(p);
	}
	verify(dir, NULL, &found);
	cr_expect_eq(found.nr, 0, "%s", found.all);
}

/* The same with whole tiles and two levels, at some bytes of each file. */
Test(audit, flipped_bits_in_a_larger_log)
{
	struct fh_log *l = open_log(dir, NULL);

	for (uint64_t i = 0; i < 400; i++)
		add_pair(l, "alice", i, 50);
	cr_assert(!fh_log_close(l));
	list_files();
	for (uint32_t f = 0; f < nr_files; f++) {
		size_t n;
		char *p = slurp(files[f], &n);

		for (size_t i = f * 7 % 40; i < n; i += 1 + n / 16) {
			p[i] ^= (char)(1 << i % 8);
			spill(files[f], p, n);
			verify(dir, NULL, &found);
			expect_place(files[f], i);
			p[i] ^= (char)(1 << i % 8);
		}
		spill(files[f], p, n);
		free(p);
	}
}

Test(audit, every_missing_file_is_found)
{
	make_small_log();
	list_files();
	for (uint32_t f = 0; f < nr_files; f++) {
		char path[256], aside[64];

		if (!strcmp(files[f], "lock") || !strcmp(files[f], "journal") || !strcmp(files[f], "key"))
			continue; /* the lock says nothing; an empty journal is none; a reader may lack the key */
		snprintf(path, sizeof(path), "%s/%s", dir, files[f]);
		snprintf(aside, sizeof(aside), "%s.aside", dir);
		cr_assert(!rename(path, aside));
		verify(dir, NULL, &found);
		cr_expect(found.nr, "%s was missed by nobody", files[f]);
		cr_assert(!rename(aside, path));
	}
	verify(dir, NULL, &found);
	cr_expect_eq(found.nr, 0, "%s", found.all);
}

/* The entries of the bundle, so that they can be put together otherwise. */
static uint32_t split(const char *p, size_t n, uint32_t at[FH_TILE_WIDTH + 1])
{
	uint32_t nr = fh_bundle_split(p, n, FH_TILE_WIDTH, at);

	cr_assert_eq(at[nr], n);
	return nr;
}

/* Put a changed bundle in place, with tiles that agree with it, as a forger without the key would. */
static void forge(const char *name, const char *p, size_t n, bool hashes_too)
{
	uint32_t at[FH_TILE_WIDTH + 1], nr = split(p, n, at);
	struct fh_hash h[FH_TILE_WIDTH];
	char tile[FH_TILE_PATH_MAX];

	spill(name, p, n);
	for (uint32_t k = 0; k < nr; k++)
		fh_leaf_hash(p + at[k] + 2, at[k + 1] - at[k] - 2, &h[k]);
	fh_tile_path(0, 0, nr, tile);
	if (hashes_too && strstr(name, strrchr(tile, '.')))
		spill(tile, (char *)h, nr * sizeof(h[0]));
}

Test(audit, dropped_swapped_and_forged_entries_are_found)
{
	uint32_t at[FH_TILE_WIDTH + 1], nr;
	char name[FH_TILE_PATH_MAX], *p, *q;
	struct fh_err err;
	struct fh_reader r;
	size_t n;

	make_small_log();
	cr_assert(!fh_reader_open(&r, dir, NULL, &err));
	fh_tile_path(-1, 0, (uint32_t)r.cp.size, name);
	fh_reader_close(&r);
	p = slurp(name, &n);
	nr = split(p, n, at);
	q = malloc(n);
	for (uint32_t k = 0; k < nr; k++) {
		uint32_t len = at[k + 1] - at[k];

		/* Dropped. */
		memcpy(q, p, at[k]);
		memcpy(q + at[k], p + at[k + 1], n - at[k + 1]);
		forge(name, q, n - len, false);
		verify(dir, NULL, &found);
		cr_expect(found.nr, "entry %u was dropped unseen", k);
		/* Changed, with its hash. */
		memcpy(q, p, n);
		q[at[k] + 2 + (len - 2) / 2] ^= 1;
		forge(name, q, n, true);
		verify(dir, NULL, &found);
		cr_expect(found.nr, "entry %u was forged unseen", k);
		if (k + 1 == nr)
			continue;
		/* Swapped with the next, with their hashes. */
		memcpy(q, p, n);
		memcpy(q + at[k], p + at[k + 1], at[k + 2] - at[k + 1]);
		memcpy(q + at[k] + at[k + 2] - at[k + 1], p + at[k], len);
		forge(name, q, n, true);
		verify(dir, NULL, &found);
		cr_expect(found.nr, "entries %u and %u were swapped unseen", k, k + 1);
	}
	forge(name, p, n, true);
	verify(dir, NULL, &found);
	cr_expect_eq(found.nr, 0, "%s", found.all);
	free(p);
	free(q);
}

/* Somebody writes the whole log anew, with a key of his own. */
Test(audit, another_key_is_found)
{
	char key[FH_NOTE_KEY_MAX];
	struct fh_log *l = open_log(dir, NULL);

	strcpy(key, fh_log_verifier_key(l));
	add_pair(l, "alice", 1, 50);
	cr_assert(!fh_log_close(l));
	verify(dir, key, &found);
	cr_expect_eq(found.nr, 0, "%s", found.all);
	remove_folder(dir);
	make_small_log();
	verify(dir, NULL, &found);
	cr_expect_eq(found.nr, 0, "%s", found.all);
	verify(dir, key, &found);
	cr_expect(strstr(found.all, "not with the key given"), "%s", found.all);
}

/* An older checkpoint, with its edge, in the place of the last. */
Test(audit, a_rollback_is_found)
{
	struct fh_log_report report;
	struct fh_err err = {0};
	struct fh_log *l = open_log(dir, NULL);
	char cmd[400];

	for (uint64_t i = 0; i < 10; i++)
		add_pair(l, "alice", i, 50);
	cr_assert(!fh_log_publish(l));
	snprintf(cmd, sizeof(cmd), "cp -a %s %s.old", dir, dir);
	cr_assert(!system(cmd));
	for (uint64_t i = 10; i < 200; i++)
		add_pair(l, "alice", i, 50);
	cr_assert(!fh_log_close(l));
	snprintf(cmd, sizeof(cmd), "cp -a %s.old/checkpoint %s/ && cp -a %s.old/tile/. %s/tile/ && rm -rf %s.old", dir,
		 dir, dir, dir, dir);
	cr_assert(!system(cmd));
	verify(dir, NULL, &found);
	cr_expect(strstr(found.all, "tile/0/000: no part of the log"), "%s", found.all);
	cr_expect_eq(fh_log_open(dir, NULL, NULL, &l, &report, &err), -EBADMSG);
	cr_expect(strstr(err.msg, "older"), "%s", err.msg);
}

/* ---- refusals ---- */

Test(audit, what_cannot_be_opened)
{
	struct fh_log_report report;
	struct fh_log *l = open_log(dir, NULL), *second;
	struct fh_err err = {0};
	char path[128], *p;
	size_t n;

	cr_expect_eq(fh_log_open(dir, NULL, NULL, &second, &report, &err), -EBUSY);
	cr_expect(strstr(err.msg, "another process"), "%s", err.msg);
	add_pair(l, "alice", 1, 50);
	cr_assert(!fh_log_close(l));
	/* The checkpoint is gone. */
	p = slurp("checkpoint", &n);
	snprintf(path, sizeof(path), "%s/checkpoint", dir);
	unlink(path);
	cr_expect_eq(fh_log_open(dir, NULL, NULL, &l, &report, &err), -EBADMSG);
	cr_expect(strstr(err.msg, "checkpoint is gone"), "%s", err.msg);
	/* It was changed. */
	p[3] ^= 1;
	spill("checkpoint", p, n);
	cr_expect_eq(fh_log_open(dir, NULL, NULL, &l, &report, &err), -EBADMSG);
	p[3] ^= 1;
	spill("checkpoint", p, n);
	free(p);
	/* The key is gone. */
	snprintf(path, sizeof(path), "%s/key", dir);
	unlink(path);
	cr_expect_eq(fh_log_open(dir, NULL, NULL, &l, &report, &err), -EBADMSG);
	cr_expect(strstr(err.msg, "no file 'key'"), "%s", err.msg);
}

/* ---- retention ---- */

static int expire(struct fh_log *l, uint64_t before_us)
{
	struct fh_reader r;
	struct fh_err err;
	int nr;

	cr_assert(!fh_log_publish(l));
	cr_assert(!fh_reader_open(&r, dir, NULL, &err), "%s", err.msg);
	nr = fh_log_expire(l, &r, before_us, 7);
	fh_reader_close(&r);
	cr_assert(!fh_log_publish(l));
	return nr;
}

/*
 * Requests of a microsecond each.  A file begins with what is ten after the first of the one before, which is an
 * outcome: the first has 19 bodies, the others 20.  What is old enough goes, and the log is as good as before.
 */
Test(audit, old_texts_are_removed, .init = setup, .fini = teardown, .timeout = 60)
{
	struct fh_log *l = open_log(dir, NULL);
	struct fh_verify v;
	uint64_t nr = 0;

	fh_log_set_file_age(l, 10);
	for (; nr < 100; nr++)
		add_pair(l, nr % 2 ? "a" : "b", nr, 200);
	/* Nothing is older than its beginning. */
	cr_expect_eq(expire(l, 1000000), 0);
	cr_expect_eq(expire(l, 1000055), 5);
	v = verify(dir, NULL, &found);
	cr_expect_eq(found.nr, 0, "%s", found.all);
	cr_expect_eq(v.nr_bodies, 200);
	cr_expect_eq(v.nr_expired, 99);
	cr_expect_eq(v.nr_opened, 101);
	/* And again, after a start and with more of them. */
	cr_assert(!fh_log_close(l));
	l = open_log(dir, NULL);
	fh_log_set_file_age(l, 10);
	for (; nr < 120; nr++)
		add_pair(l, "a", nr, 200);
	cr_expect_eq(expire(l, 1000055), 0);
	cr_expect_eq(expire(l, UINT64_MAX), 9);
	v = verify(dir, NULL, &found);
	cr_expect_eq(found.nr, 0, "%s", found.all);
	cr_expect_eq(v.nr_bodies, 240);
	cr_expect_eq(v.nr_expired, 240);
	cr_expect_eq(v.nr_opened, 0);
	/* The last file too; what comes then begins another. */
	add_pair(l, "a", nr, 200);
	cr_assert(!fh_log_publish(l));
	add_pair(l, "b", nr + 1, 200);
	cr_assert(!fh_log_close(l));
	v = verify(dir, NULL, &found);
	cr_expect_eq(found.nr, 0, "%s", found.all);
	cr_expect_eq(v.nr_expired, 240);
	cr_expect_eq(v.nr_opened, 4);
}

/*
 * A clock that is wrong after a start makes nothing old: not what was written before, and not what was written after
 * it had been set while the file was in use, though that file begins and the next one begins long ago.
 */
Test(audit, a_wrong_clock_removes_nothing_recent)
{
	static const uint64_t recent = 5000000; /* + 1000000: add_pair() */
	static const uint64_t times[][2] = {{recent, recent + 1}, {2, 2 * recent}, {3, 4}, {5, 6}};
	struct fh_log *l;
	struct fh_verify v;

	for (size_t i = 0; i < sizeof(times) / sizeof(times[0]); i++) {
		l = open_log(dir, NULL);
		/* The first of a start begins a file, and no other. */
		fh_log_set_file_age(l, 10);
		add_pair(l, "a", times[i][0], 200);
		fh_log_set_file_age(l, 0);
		add_pair(l, "a", times[i][1], 200);
		fh_log_set_file_age(l, 10);
		cr_assert(!fh_log_close(l));
		l = open_log(dir, NULL);
		cr_expect_eq(expire(l, 2000000), 0, "after start %zu", i);
		cr_assert(!fh_log_close(l));
	}
	l = open_log(dir, NULL);
	cr_expect_eq(expire(l, 2000000 + recent), 1);
	cr_expect_eq(expire(l, UINT64_MAX), 3);
	cr_assert(!fh_log_close(l));
	v = verify(dir, NULL, &found);
	cr_expect_eq(found.nr, 0, "%s", found.all);
	cr_expect_eq(v.nr_expired, 16);
	cr_expect_eq(v.nr_opened, 0);
}

/* A file that is gone although no entry says so is found, also after others expired. */
Test(audit, a_missing_file_is_not_taken_for_expired, .init = setup, .fini = teardown, .timeout = 60)
{
	struct fh_log *l = open_log(dir, NULL);
	struct fh_dir d;
	struct fh_reader r;
	struct fh_err err;
	char path[FH_DIR_PATH_MAX];

	fh_log_set_file_age(l, 10);
	for (uint64_t nr = 0; nr < 60; nr++)
		add_pair(l, "a", nr, 200);
	cr_expect_eq(expire(l, 1000025), 2);
	cr_assert(!fh_log_close(l));
	cr_assert(!fh_reader_open(&r, dir, NULL, &err));
	fh_body_path(r.body_files[0], path);
	fh_reader_close(&r);
	cr_assert(!fh_dir_open(&d, dir, false, &err));
	cr_assert(!fh_dir_unlink(&d, path, false));
	fh_dir_close(&d);
	verify(dir, NULL, &found);
	cr_expect_gt(found.nr, 0);
}
