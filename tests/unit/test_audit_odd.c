// SPDX-License-Identifier: Apache-2.0
/*
 * Logs that nobody but the holder of their key could have made: entries that make no
 * sense, as signed.  Readers say so, and go on.  And small things about keys and
 * bodies that the other tests do not come to.
 */
#include <sodium.h>
#include <stdio.h>

#include "runtime/trust/log_priv.h"
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

TestSuite(odd, .init = setup, .fini = teardown);

/* Append @r as it is. */
static uint64_t put(struct fh_log *l, const struct fh_record *r, const void *sealed, size_t n, bool new_file)
{
	uint8_t leaf[FH_RECORD_MAX];

	cr_assert(!fh_log_put_frame(l, leaf, fh_record_encode(r, leaf), sealed, n, new_file));
	return l->nr - 1;
}

Test(odd, entries_that_name_no_tenant)
{
	static const uint8_t kinds[] = {FH_REC_BEGIN, FH_REC_BODIES, FH_REC_TENANT, FH_REC_ERASED};
	static const char too_long[] = "a2345678901234567890123456789012345678901234567890123456789012345";
	struct fh_log *l = open_log(dir, NULL);
	struct fh_verify v;
	char line[80];

	for (size_t i = 0; i < 3 * sizeof(kinds); i++) {
		struct fh_record r = {.kind = kinds[i / 3]};

		r.num[FH_RN_TIME_US] = 1;
		r.num[FH_RN_REF] = 1;
		r.num[FH_RN_COUNT] = 1;
		r.num[FH_RN_BODY_BYTES] = i / 3 < 2 ? 4 : 0;
		if (i % 3)
			fh_record_set_str(&r, FH_RS_TENANT, i % 3 == 1 ? "ali\0ce" : too_long, i % 3 == 1 ? 6 : 65);
		put(l, &r, NULL, 0, false);
	}
	add_pair(l, "alice", 0, 60);
	cr_assert(!fh_log_close(l));
	v = verify(dir, NULL, &found);
	for (size_t i = 0; i < 3 * sizeof(kinds); i++) {
		snprintf(line, sizeof(line), "entry %zu: a record of kind '%s' without a tenant's name\n", i,
			 fh_record_kind_name(kinds[i / 3]));
		cr_expect(strstr(found.all, line), "%s is missing in\n%s", line, found.all);
	}
	/* It went on to the end. */
	cr_expect_eq(v.nr_opened, 2);
	cr_expect_eq(found.nr, 3 * sizeof(kinds), "%s", found.all);
}

Test(odd, lengths_beyond_the_file)
{
	struct fh_log *l = open_log(dir, NULL);
	struct fh_record r = {.kind = FH_REC_BEGIN};

	add_pair(l, "alice", 0, 60);
	cr_assert(!fh_log_publish(l));
	r.num[FH_RN_TIME_US] = 1;
	r.num[FH_RN_BODY_BYTES] = 4;
	fh_record_set_str(&r, FH_RS_TENANT, "alice", 5);
	for (uint64_t n = 0; n < 2 * FH_BODY_FRAME_BYTES; n++) {
		r.num[FH_RN_SEALED_BYTES] = UINT64_MAX - n;
		put(l, &r, NULL, 0, false);
	}
	cr_assert(!fh_log_close(l));
	verify(dir, NULL, &found);
	cr_expect(strstr(found.all, "the file ends before the body of entry 4 does"), "%s", found.all);
	cr_expect_geq(found.nr, 2 * FH_BODY_FRAME_BYTES);
}

/* A body that hangs on one in a file that was old enough to go: that is no expiry of its own. */
Test(odd, a_body_that_cannot_be_read_is_told)
{
	struct fh_log *l = open_log(dir, NULL);
	struct fh_record r = {.kind = FH_REC_BEGIN};
	struct fh_tenant *t;
	uint64_t first = 0, at;
	uint8_t hash[32], *sealed;
	char path[128];
	bool chapter;
	size_t n;

	cr_assert(!fh_log_tenant(l, "alice", &t));
	for (int i = 0; i < 2; i++) {
		cr_assert(!fh_body_seal(t, l->nr, "text", 4, false, &sealed, &n, &chapter));
		cr_assert_eq(chapter, !i);
		r.num[FH_RN_TIME_US] = 1;
		r.num[FH_RN_BODY_BYTES] = 4;
		r.num[FH_RN_SEALED_BYTES] = n;
		r.num[FH_RN_CHAPTER] = chapter;
		crypto_hash_sha256(hash, sealed, n);
		fh_record_set_str(&r, FH_RS_BODY_HASH, hash, sizeof(hash));
		fh_record_set_str(&r, FH_RS_TENANT, "alice", 5);
		at = put(l, &r, sealed, n, true);
		first = i ? first : at;
		free(sealed);
	}
	r = (struct fh_record){.kind = FH_REC_EXPIRED};
	r.num[FH_RN_TIME_US] = 2;
	r.num[FH_RN_COUNT] = at;
	put(l, &r, NULL, 0, false);
	cr_assert(!fh_log_close(l));
	verify(dir, NULL, &found);
	cr_expect_eq(found.nr, 0, "%s", found.all);
	snprintf(path, sizeof(path), "%s/body/%012lu", dir, first);
	cr_assert(!unlink(path));
	verify(dir, NULL, &found);
	snprintf(path, sizeof(path), "entry %lu: its body cannot be read: No such file", at);
	cr_expect(strstr(found.all, path), "%s", found.all);
}

Test(odd, a_tenant_with_a_zero_in_its_name)
{
	struct fh_log *l = open_log(dir, NULL);
	struct fh_record rec = {.kind = FH_REC_BEGIN, .version = 1};
	struct fh_opener *o;
	struct fh_reader r;
	struct fh_err err;
	char *text;
	size_t n;

	add_pair(l, "alice", 0, 60);
	cr_assert(!fh_log_close(l));
	cr_assert(!fh_reader_open(&r, dir, NULL, &err), "%s", err.msg);
	cr_assert(!fh_opener_create(&r, &o));
	rec.num[FH_RN_SEALED_BYTES] = 20;
	rec.num[FH_RN_BODY_BYTES] = 5;
	fh_record_set_str(&rec, FH_RS_TENANT, "alice\0x", 7);
	for (uint64_t i = 0; i < r.cp.size; i++)
		cr_expect_eq(fh_opener_text(o, i, &rec, &text, &n), -EBADMSG);
	fh_opener_free(o);
	fh_reader_close(&r);
}

/* Texts of a segment that is gone are not looked for once each. */
Test(odd, expired_texts_cost_little)
{
	struct fh_log *l = open_log(dir, NULL);
	struct fh_record_bytes leaf;
	struct fh_opener *o;
	struct fh_record rec;
	struct fh_reader r;
	struct fh_err err;
	char path[128], *text;
	uint64_t gone = 0;
	size_t n, bad;

	for (uint64_t i = 0; i < 400; i++)
		add_pair(l, "alice", i, 40);
	cr_assert(!fh_log_close(l));
	cr_assert(!fh_reader_open(&r, dir, NULL, &err), "%s", err.msg);
	snprintf(path, sizeof(path), "%s/body/%012lu", dir, r.body_files[0]);
	fh_reader_close(&r);
	cr_assert(!unlink(path));
	cr_assert(!fh_reader_open(&r, dir, NULL, &err), "%s", err.msg);
	cr_assert(!fh_opener_create(&r, &o));
	for (uint64_t i = 0; i < r.cp.size; i++) {
		cr_assert(!fh_reader_entry(&r, i, &leaf) && !fh_record_decode(leaf.p, leaf.n, &rec, &bad));
		if (fh_record_in_segment(&rec))
			gone += fh_opener_text(o, i, &rec, &text, &n) == -ENOENT;
	}
	cr_expect_eq(gone, 800);
	cr_expect_lt(r.nr_read, 4 * r.cp.size, "%lu entries were read for %lu", r.nr_read, r.cp.size);
	fh_opener_free(o);
	fh_reader_close(&r);
}

/* ---- keys and bodies ---- */

/* The file in which a key is made is nobody else's key. */
Test(odd, names_that_look_temporary)
{
	uint8_t first[FH_BODY_KEY_BYTES], second[FH_BODY_KEY_BYTES], got[FH_BODY_KEY_BYTES];
	struct fh_err err;
	struct fh_dir d;

	cr_assert(!fh_dir_open(&d, dir, true, &err));
	cr_assert(!fh_tenant_make(&d, "a.tmp", first));
	cr_assert(!fh_tenant_make(&d, "a", second));
	cr_assert(!fh_tenant_load(&d, "a.tmp", got));
	cr_expect_arr_eq(got, first, sizeof(got));
	cr_assert(!fh_tenant_load(&d, "a", got));
	cr_expect_arr_eq(got, second, sizeof(got));
	fh_dir_close(&d);
}

Test(odd, a_body_is_as_long_as_its_record_says)
{
	struct fh_tenant t = {.name = "alice", .key = {1}};
	struct fh_body_reader *r;
	char big[3000], *text;
	uint8_t *sealed;
	bool chapter;
	size_t n;

	for (size_t i = 0; i < sizeof(big); i++)
		big[i] = (char)(i * i >> 3);
	cr_assert(!fh_body_reader_create(&r));
	for (size_t want = 0; want <= sizeof(big) + 100; want += 100) {
		int rc;

		cr_assert(!fh_body_seal(&t, 7, big, sizeof(big), true, &sealed, &n, &chapter));
		rc = fh_body_open(r, t.key, "alice", 7, true, true, sealed, n, want, &text);
		cr_expect_eq(rc, want == sizeof(big) ? 0 : -EINVAL, "%zu bytes of %zu: %d", want, sizeof(big), rc);
		free(text);
		free(sealed);
	}
	fh_body_reader_free(r);
	fh_stream_close(&t);
}

#if !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
/* How often @key lies in memory that can be written. The search itself has only its complement. */
static int copies(const uint8_t inverted[FH_BODY_KEY_BYTES])
{
	FILE *maps = fopen("/proc/self/maps", "re");
	unsigned long from, to;
	char line[512], perms[8];
	int nr = 0;

	cr_assert(maps);
	while (fgets(line, sizeof(line), maps)) {
		if (sscanf(line, "%lx-%lx %7s", &from, &to, perms) != 3 || perms[1] != 'w' || !strstr(line, "[heap]"))
			continue;
		for (const uint8_t *p = (const uint8_t *)from; p + FH_BODY_KEY_BYTES <= (const uint8_t *)to; p++) {
			int k = 0;

			while (k < FH_BODY_KEY_BYTES && (p[k] ^ inverted[k]) == 0xff)
				k++;
			nr += k == FH_BODY_KEY_BYTES;
		}
	}
	fclose(maps);
	return nr;
}

/* The table of tenants grows, and what it was before holds no keys. */
Test(odd, keys_leave_no_copies)
{
	struct fh_log *l = open_log(dir, NULL);
	uint8_t inverted[FH_BODY_KEY_BYTES];
	struct fh_tenant *t;
	void *wall[40];
	char name[16];

	for (int i = 0; i < 40; i++) {
		snprintf(name, sizeof(name), "tenant-%d", i);
		cr_assert(!fh_log_tenant(l, name, &t));
		for (int k = 0; k < FH_BODY_KEY_BYTES && !i; k++)
			inverted[k] = (uint8_t)~t->key[k];
		/* So that what grows has to move. */
		wall[i] = malloc(100);
	}
	cr_expect_eq(copies(inverted), 1);
	cr_assert(!fh_log_close(l));
	cr_expect_eq(copies(inverted), 0);
	for (int i = 0; i < 40; i++)
		free(wall[i]);
}
#endif
