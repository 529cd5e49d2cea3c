// SPDX-License-Identifier: Apache-2.0
/*
 * The writer's thread with producers around it: no record lost or out of place,
 * durable means durable, a queue that is full, a disk that is full, strict and
 * relaxed.  ThreadSanitizer runs this.
 */
#include <fcntl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <time.h>

#include "runtime/base/clock.h"
#include "runtime/trust/audit.h"
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

static struct fh_audit *open_audit(const struct fh_audit_config *cfg)
{
	struct fh_log_report report;
	struct fh_audit *a = NULL;
	struct fh_err err = {0};

	cr_assert(!fh_audit_open(cfg, &a, &report, &err), "%s", err.msg);
	return a;
}

static void nap(void)
{
	nanosleep(&(struct timespec){.tv_nsec = 1000000}, NULL);
}

/* ---- many producers ---- */

enum { NR_PRODUCERS = 3, NR_EACH = 400 };

struct producer {
	struct fh_audit_source *s;
	pthread_t thread;
	_Atomic uint32_t woken;
	uint64_t nr_waits;
	int id;
};

static void wake(void *ctx)
{
	atomic_fetch_add(&((struct producer *)ctx)->woken, 1);
}

static void wait_durable(struct producer *p, uint64_t seq)
{
	for (;;) {
		uint32_t before = atomic_load(&p->woken);

		if (fh_audit_durable(p->s, seq))
			return;
		p->nr_waits++;
		/* Only the wake-up ends this wait: one that went missing makes the test run out of time. */
		while (atomic_load(&p->woken) == before)
			nap();
	}
}

static void *produce(void *arg)
{
	struct producer *p = arg;
	char text[100], tenant[16];

	snprintf(tenant, sizeof(tenant), "tenant-%d", p->id);
	for (int i = 0; i < NR_EACH; i++) {
		struct fh_record r = {.kind = FH_REC_BEGIN};
		struct fh_audit_ticket *t;
		uint64_t seq;
		int n = snprintf(text, sizeof(text), "no. %d of producer %d", i, p->id), rc;

		r.num[FH_RN_TIME_US] = (uint64_t)i + 1;
		do
			rc = fh_audit_begin(p->s, &r, tenant, text, (size_t)n, &t, &seq);
		while (rc == -EAGAIN);
		cr_assert(!rc && seq == 2 * (uint64_t)i + 1);
		if (i % 50 == 0)
			wait_durable(p, seq);
		r.kind = FH_REC_END;
		seq = fh_audit_end(p->s, t, &r, tenant, text, (size_t)n);
		cr_assert_eq(seq, 2 * (uint64_t)i + 2);
		if (i % 50 == 0)
			wait_durable(p, seq);
	}
	return NULL;
}

static void run_producers(bool strict, size_t arena)
{
	struct fh_audit_config cfg = {
		.dir = dir, .strict = strict, .nap_ms = 2, .publish_ms = 20, .queue_entries = 64, .arena_bytes = arena};
	struct fh_audit *a = open_audit(&cfg);
	static struct producer p[NR_PRODUCERS];
	struct fh_audit_state st;
	struct fh_err err;
	struct fh_verify v;

	for (int i = 0; i < NR_PRODUCERS; i++) {
		p[i] = (struct producer){.id = i};
		p[i].s = fh_audit_attach(a, wake, &p[i]);
		cr_assert(p[i].s);
	}
	cr_assert(!fh_audit_start(a, &err));
	for (int i = 0; i < NR_PRODUCERS; i++)
		pthread_create(&p[i].thread, NULL, produce, &p[i]);
	for (int i = 0; i < NR_PRODUCERS; i++)
		pthread_join(p[i].thread, NULL);
	fh_audit_state(a, &st);
	cr_assert(!st.error);
	cr_assert(!fh_audit_close(a));
	v = verify(dir, NULL, &found);
	cr_assert_eq(found.nr, 0, "%s", found.all);
	cr_expect_eq(v.nr_open, 0);
	/* Relaxed counts what found no room, and the log says how many. */
	cr_expect(strict ? v.nr_interactions == NR_PRODUCERS * NR_EACH : v.nr_interactions <= NR_PRODUCERS * NR_EACH);
	cr_expect_eq(v.nr_interactions + (strict ? 0 : st.nr_lost), NR_PRODUCERS * NR_EACH);
	cr_expect_eq(v.nr_opened, 2 * v.nr_interactions);
}

Test(writer, strict, .init = setup, .fini = teardown, .timeout = 120)
{
	run_producers(true, 0);
}

/* So small that it wraps all the time, and that some events do not fit. */
Test(writer, arena, .init = setup, .fini = teardown, .timeout = 120)
{
	run_producers(true, 5000);
}

Test(writer, arena_with_room, .init = setup, .fini = teardown, .timeout = 120)
{
	run_producers(true, 1u << 20);
}

/* ---- relaxed ---- */

Test(writer, relaxed_never_refuses, .init = setup, .fini = teardown, .timeout = 120)
{
	struct fh_audit_config cfg = {.dir = dir, .queue_entries = 8, .nap_ms = 20, .publish_ms = 50};
	struct fh_audit *a = open_audit(&cfg);
	struct fh_audit_source *s = fh_audit_attach(a, NULL, NULL);
	struct fh_record r = {.kind = FH_REC_BEGIN}, end = {.kind = FH_REC_END};
	struct fh_audit_ticket *t[10];
	struct fh_audit_state st;
	uint64_t seq, nr_in = 0;
	struct fh_err err;
	struct fh_verify v;

	r.num[FH_RN_TIME_US] = end.num[FH_RN_TIME_US] = 1;
	/* Without a writer the queue fills up: four requests, and room for their ends. */
	for (int i = 0; i < 10; i++) {
		cr_assert(!fh_audit_begin(s, &r, "t", "x", 1, &t[i], &seq));
		nr_in += t[i] != NULL;
		cr_assert_eq(!t[i], !seq);
	}
	cr_expect_eq(nr_in, 4);
	for (int i = 0; i < 10; i++)
		cr_assert(!t[i] == !fh_audit_end(s, t[i], &end, "t", "y", 1));
	cr_expect_eq(fh_audit_note(s, &(struct fh_record){.kind = FH_REC_KEYS}), 0);
	fh_audit_state(a, &st);
	cr_expect_eq(st.nr_lost, 7);
	cr_assert(!fh_audit_start(a, &err));
	while (!fh_audit_durable(s, 8))
		nap();
	cr_expect_eq(fh_audit_close(a), 0);
	v = verify(dir, NULL, &found);
	cr_expect_eq(found.nr, 0, "%s", found.all);
	cr_expect_eq(v.nr_interactions, 4);
	cr_expect_eq(v.nr_open, 0);
	/* Tenant, eight records, how many were lost, and the texts' segment. */
	cr_expect_eq(v.nr_entries, 11);
}

Test(writer, strict_refuses_when_full, .init = setup, .fini = teardown, .timeout = 120)
{
	struct fh_audit_config cfg = {.dir = dir, .strict = true, .queue_entries = 8};
	struct fh_audit *a = open_audit(&cfg);
	struct fh_audit_source *s = fh_audit_attach(a, NULL, NULL);
	struct fh_record r = {.kind = FH_REC_BEGIN}, end = {.kind = FH_REC_END};
	struct fh_audit_ticket *t[5];
	struct fh_err err;
	uint64_t seq;

	r.num[FH_RN_TIME_US] = end.num[FH_RN_TIME_US] = 1;
	for (int i = 0; i < 4; i++)
		cr_assert(!fh_audit_begin(s, &r, "t", "x", 1, &t[i], &seq));
	cr_expect_eq(fh_audit_begin(s, &r, "t", "x", 1, &t[4], &seq), -EAGAIN);
	cr_expect(!fh_audit_durable(s, 1));
	for (int i = 0; i < 4; i++)
		cr_expect(fh_audit_end(s, t[i], &end, "t", "y", 1));
	cr_assert(!fh_audit_start(a, &err));
	while (!fh_audit_durable(s, 8))
		nap();
	cr_expect(!fh_audit_begin(s, &r, "t", "x", 1, &t[4], &seq));
	cr_expect(fh_audit_end(s, t[4], &end, "t", "y", 1));
	cr_expect_eq(fh_audit_close(a), 0);
	verify(dir, NULL, &found);
	cr_expect_eq(found.nr, 0, "%s", found.all);
}

/* ---- a disk that fails ---- */

static _Atomic uint32_t disk_full;

static int full(void *ctx, const struct fh_dir_op *op)
{
	(void)ctx;
	return atomic_load(&disk_full) && (op->kind == FH_DIR_WRITE || op->kind == FH_DIR_SYNC) ? -ENOSPC : 0;
}

static int wait_error(struct fh_audit *a, bool want)
{
	struct fh_audit_state st;

	for (int i = 0; i < 5000; i++) {
		fh_audit_state(a, &st);
		if ((st.error != 0) == want)
			return st.error;
		nap();
	}
	cr_assert(false, "the state of the disk was not noticed");
	return 0;
}

static void fill_disk(bool strict)
{
	struct fh_audit_config cfg = {
		.dir = dir, .strict = strict, .nap_ms = 2, .publish_ms = 20, .watch = full, .give_up_ms = 300};
	struct fh_audit *a = open_audit(&cfg);
	struct fh_audit_source *s = fh_audit_attach(a, NULL, NULL);
	struct fh_record r = {.kind = FH_REC_BEGIN}, end = {.kind = FH_REC_END};
	struct fh_audit_ticket *t, *t2;
	struct fh_err err;
	struct fh_verify v;
	uint64_t seq, seq2;

	r.num[FH_RN_TIME_US] = end.num[FH_RN_TIME_US] = 1;
	cr_assert(!fh_audit_start(a, &err));
	cr_assert(!fh_audit_begin(s, &r, "t", "x", 1, &t, &seq));
	while (!fh_audit_durable(s, seq))
		nap();
	atomic_store(&disk_full, 1);
	seq = fh_audit_end(s, t, &end, "t", "y", 1);
	cr_expect_eq(wait_error(a, true), -ENOSPC);
	cr_expect(!fh_audit_durable(s, seq));
	cr_expect_eq(fh_audit_ready(s, 2), strict ? -ENOSPC : 0);
	cr_expect_eq(fh_audit_begin(s, &r, "t", "x", 1, &t2, &seq2), strict ? -ENOSPC : 0);
	if (!strict)
		cr_expect(fh_audit_end(s, t2, &end, "t", "z", 1));
	/* One that was taken before is logged anyway, once there is room. */
	cr_expect_eq(fh_audit_begin_anyway(s, &r, "t", "x", 1, &t2, &seq2), 0);
	cr_expect(fh_audit_end(s, t2, &end, "t", "z", 1));
	/* There is room again: everything is written. */
	atomic_store(&disk_full, 0);
	while (!fh_audit_durable(s, seq))
		nap();
	wait_error(a, false);
	cr_assert(!fh_audit_begin(s, &r, "t", "x", 1, &t, &seq));
	fh_audit_end(s, t, &end, "t", "y", 1);
	cr_assert(!fh_audit_close(a));
	v = verify(dir, NULL, &found);
	cr_expect_eq(found.nr, 0, "%s", found.all);
	cr_expect_eq(v.nr_interactions, strict ? 3 : 4);
	cr_expect_eq(v.nr_open, 0);
}

Test(writer, full_disk_strict, .init = setup, .fini = teardown, .timeout = 120)
{
	fill_disk(true);
}

Test(writer, full_disk_relaxed, .init = setup, .fini = teardown, .timeout = 120)
{
	fill_disk(false);
}

/* The end comes while nothing can be written: that is said, and what was durable stays. */
Test(writer, full_disk_at_the_end, .init = setup, .fini = teardown, .timeout = 120)
{
	struct fh_audit_config cfg = {.dir = dir, .strict = true, .watch = full, .give_up_ms = 100};
	struct fh_audit *a = open_audit(&cfg);
	struct fh_audit_source *s = fh_audit_attach(a, NULL, NULL);
	struct fh_record r = {.kind = FH_REC_BEGIN}, end = {.kind = FH_REC_END};
	struct fh_audit_ticket *t;
	struct fh_log_report report;
	struct fh_err err;
	struct fh_log *l;
	uint64_t seq;

	r.num[FH_RN_TIME_US] = end.num[FH_RN_TIME_US] = 1;
	cr_assert(!fh_audit_start(a, &err));
	cr_assert(!fh_audit_begin(s, &r, "t", "x", 1, &t, &seq));
	while (!fh_audit_durable(s, seq))
		nap();
	atomic_store(&disk_full, 1);
	fh_audit_end(s, t, &end, "t", "y", 1);
	cr_expect(fh_audit_close(a) < 0);
	atomic_store(&disk_full, 0);
	l = open_log(dir, &report);
	cr_expect_geq(fh_log_size(l), 2);
	cr_assert(!fh_log_close(l));
	verify(dir, NULL, &found);
	cr_expect_eq(found.nr, 0, "%s", found.all);
}

/* ---- wishes ---- */

Test(writer, erases_when_asked, .init = setup, .fini = teardown, .timeout = 120)
{
	struct fh_audit_config cfg = {.dir = dir, .strict = true, .publish_ms = 20};
	struct fh_audit *a = open_audit(&cfg);
	struct fh_audit_source *s = fh_audit_attach(a, NULL, NULL);
	struct fh_record r = {.kind = FH_REC_BEGIN}, end = {.kind = FH_REC_END};
	struct fh_audit_ticket *t;
	struct fh_err err;
	struct fh_verify v;
	struct fh_dir d;
	uint64_t seq;

	r.num[FH_RN_TIME_US] = end.num[FH_RN_TIME_US] = 1;
	cr_assert(!fh_audit_start(a, &err));
	cr_assert(!fh_audit_begin(s, &r, "t", "x", 1, &t, &seq));
	seq = fh_audit_end(s, t, &end, "t", "y", 1);
	while (!fh_audit_durable(s, seq))
		nap();
	cr_assert(!fh_dir_open(&d, dir, false, &err));
	close(fh_dir_open_file(&d, "erase/t"));
	while (!faccessat(d.fd, "erase/t", F_OK, 0))
		nap();
	cr_expect(faccessat(d.fd, "tenant/t", F_OK, 0));
	fh_dir_close(&d);
	cr_assert(!fh_audit_close(a));
	v = verify(dir, NULL, &found);
	cr_expect_eq(found.nr, 0, "%s", found.all);
	cr_expect_eq(v.nr_erased, 2);
}
