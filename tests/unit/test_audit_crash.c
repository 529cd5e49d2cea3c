// SPDX-License-Identifier: Apache-2.0
/*
 * Power cuts, after each change that the log's writer makes (audit_disk.h).  The log that is opened there must have
 * every entry that was durable before the cut, must verify, and must go on.
 *
 * And a disk that is full for a while: what fails changes nothing, and what
 * follows is whole.
 */
#include "tests/unit/audit_disk.h"

static struct fh_log *writer;

static int note(void *ctx, const struct fh_dir_op *op)
{
	uint64_t known[DISK_KNOWN] = {writer ? fh_log_durable(writer) : 0};

	(void)ctx;
	disk_note(op, known);
	return 0;
}

/* ---- the run that is cut ---- */

/* @hold_us: texts stay in the journal for so long. */
static void run(const char *dir, uint64_t hold_us)
{
	struct fh_log_report report;
	struct fh_err err;

	cr_assert(!fh_log_open(dir, note, NULL, &writer, &report, &err), "%s", err.msg);
	fh_log_set_hold(writer, hold_us);
	for (uint64_t i = 0; i < 3; i++) {
		add_pair(writer, i % 2 ? "alice" : "bob", i, 60);
		cr_assert(!fh_log_commit(writer, true));
	}
	cr_assert(!fh_log_publish(writer));
	for (uint64_t i = 3; i < 6; i++) {
		add_pair(writer, "alice", i, 60);
		cr_assert(!fh_log_commit(writer, i % 2));
	}
	/* Over the border of a tile. */
	for (uint64_t i = 6; i < 130; i++)
		add_pair(writer, "alice", i, 30);
	cr_assert(!fh_log_publish(writer));
	add_pair(writer, "carol", 200, 60);
	cr_assert(!fh_log_commit(writer, true));
	cr_assert(!fh_log_erase_tenant(writer, "bob"));
	cr_assert(!fh_log_commit(writer, true));
	add_pair(writer, "carol", 201, 60);
	fh_log_close(writer);
	writer = NULL;
}

static void check_cut(uint32_t at, uint64_t seed)
{
	uint64_t durable = ops[at].known[0];
	struct fh_log_report report;
	static struct findings found;
	struct fh_err err = {0};
	struct fh_log *l;
	char dir[40];
	int rc;

	new_folder(dir);
	disk_cut(dir);
	rc = fh_log_open(dir, NULL, NULL, &l, &report, &err);
	cr_assert(!rc, "cut before change %u, seed %lu: %s", at, seed, err.msg);
	cr_assert_geq(fh_log_size(l), durable,
		      "cut before change %u, seed %lu: %lu entries were durable, %lu are there", at, seed, durable,
		      fh_log_size(l));
	add_pair(l, "alice", 900, 60);
	cr_assert(!fh_log_close(l));
	verify(dir, NULL, &found);
	/* Between the entry that says so and the erasure of a key the verifier sees a key too many. */
	if (!strstr(found.all, "tenant/bob"))
		cr_assert_eq(found.nr, 0, "cut before change %u, seed %lu: %s", at, seed, found.all);
	remove_folder(dir);
}

static void cut_everywhere(uint64_t hold_us, uint64_t nr_seeds)
{
	char dir[40];

	new_folder(dir);
	run(dir, hold_us);
	remove_folder(dir);
	cr_assert_gt(nr_ops, 60);
	for (uint32_t at = 0; at < nr_ops; at++) {
		for (uint64_t seed = 1; seed <= nr_seeds; seed++) {
			disk_rng_state = 0x9e3779b97f4a7c15u * (at * 16 + seed);
			check_cut(at, seed);
		}
		disk_play(&ops[at]);
	}
}

Test(crash, power_cuts, .timeout = 250)
{
	cut_everywhere(0, 8);
}

/* The same, of a log that holds texts back: to the end, and for the time of a hundred entries. */
Test(crash, power_cuts_while_texts_are_held, .timeout = 250)
{
	cut_everywhere(UINT64_MAX, 4);
}

Test(crash, power_cuts_while_some_are_held, .timeout = 250)
{
	cut_everywhere(100, 4);
}

/* ---- a full disk ---- */

static uint32_t fail_at, nr_seen;

static int fail_op(void *ctx, const struct fh_dir_op *op)
{
	bool grows = op->kind == FH_DIR_WRITE || op->kind == FH_DIR_MKDIR || op->kind == FH_DIR_SYNC;

	(void)ctx;
	return grows && fail_at && ++nr_seen >= fail_at && nr_seen < fail_at + 3 ? -ENOSPC : 0;
}

/* Three changes in a row fail, beginning with each that there is. */
Test(crash, full_disk, .timeout = 120)
{
	struct fh_log_report report;
	static struct findings found;
	struct fh_err err;
	struct fh_log *l;
	uint32_t nr_failed = 0;
	char dir[40];

	for (uint32_t at = 1; at < 60; at++) {
		struct fh_verify v;

		fail_at = nr_seen = 0;
		new_folder(dir);
		cr_assert(!fh_log_open(dir, fail_op, NULL, &l, &report, &err), "%s", err.msg);
		add_pair(l, "alice", 0, 60);
		fail_at = at;
		for (uint64_t i = 1; i < 20; i++) {
			uint64_t durable = fh_log_durable(l);
			int rc;

			add_pair(l, "alice", i, 60);
			rc = i % 3 ? fh_log_commit(l, true) : fh_log_publish(l);
			cr_assert(!rc || rc == -ENOSPC);
			cr_assert_geq(fh_log_durable(l), durable);
			cr_assert(rc || fh_log_durable(l) == fh_log_size(l));
			nr_failed += rc != 0;
		}
		fail_at = 0;
		cr_assert(!fh_log_close(l));
		v = verify(dir, NULL, &found);
		cr_assert_eq(found.nr, 0, "failing from change %u: %s", at, found.all);
		cr_assert_eq(v.nr_opened, 40);
		remove_folder(dir);
	}
	cr_expect_gt(nr_failed, 60);
}
