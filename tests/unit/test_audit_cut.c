// SPDX-License-Identifier: Apache-2.0
/*
 * Power cuts under the audit writer's thread, as the daemon runs it: producers hand
 * over begins and ends and ask what is durable, and the power is cut before any
 * change that the writer makes to its disk (audit_disk.h).
 *
 * What fh_audit_durable() had said of an event by then is a promise: strict lets a
 * first token and a last one out on it.  The log that is opened after the cut must
 * have every such event, in its order, with its text; must verify; must say that it
 * was mended, and go on; and the texts that the checkpoint signed for while they were in
 * the journal only must be those that it then has.  Relaxed promises the same of what it calls durable, which
 * is less, and that what a checkpoint had stays.
 */
#include <pthread.h>
#include <stdatomic.h>
#include <time.h>

#include "runtime/trust/audit_priv.h"
#include "runtime/trust/held.h"
#include "tests/unit/audit_disk.h"

enum { NR_PRODUCERS = 2, HOLD_MS = 60 };

static struct fh_audit *audit;
static struct fh_audit_source *source[NR_PRODUCERS];

/* On the writer's thread, which alone raises these numbers: nobody was told of more. */
static int note(void *ctx, const struct fh_dir_op *op)
{
	uint64_t known[DISK_KNOWN] = {0};

	(void)ctx;
	for (int i = 0; audit && i < NR_PRODUCERS; i++)
		known[i] = atomic_load(&source[i]->nr_durable);
	known[NR_PRODUCERS] = audit ? fh_log_published(audit->log) : 0;
	disk_note(op, known);
	return 0;
}

static int text_of(int producer, uint64_t event, char text[120])
{
	int n = snprintf(text, 120, "event %lu of producer %d: ", (unsigned long)event, producer);

	for (; n < 30 + (int)(event * 37 % 90); n++)
		text[n] = (char)('a' + (int)(event * 7 + (uint64_t)(n * n)) % 26);
	text[n] = 0;
	return n;
}

/* Event @seq of this source: its number stands in its record, as what the server made up for the request. */
static void fill(int producer, uint64_t seq, struct fh_record *r)
{
	struct timespec ts;

	/* By the clock that the writer looks at: texts are held until they are HOLD_MS old. */
	clock_gettime(CLOCK_REALTIME, &ts);
	r->num[FH_RN_TIME_US] = (uint64_t)ts.tv_sec * 1000000 + (uint64_t)ts.tv_nsec / 1000;
	r->num[FH_RN_SERIAL] = (uint64_t)producer << 32 | seq;
}

static void wait_for(struct fh_audit_source *s, uint64_t seq)
{
	while (!fh_audit_durable(s, seq))
		nanosleep(&(struct timespec){.tv_nsec = 100000}, NULL);
}

struct producer {
	pthread_t thread;
	int id, nr;
	bool waits;
};

static void *produce(void *arg)
{
	const struct producer *p = arg;
	struct fh_audit_source *s = source[p->id];
	char text[120], tenant[16];

	for (int i = 0; i < p->nr; i++) {
		struct fh_record r = {.kind = FH_REC_BEGIN}, end = {.kind = FH_REC_END};
		uint64_t seq = 2 * (uint64_t)i + 1, got;
		struct fh_audit_ticket *t;
		int n = text_of(p->id, seq, text);

		snprintf(tenant, sizeof(tenant), "tenant-%d", (p->id + i / 9) % 3);
		fill(p->id, seq, &r);
		cr_assert(!fh_audit_begin(s, &r, tenant, text, (size_t)n, &t, &got));
		cr_assert_eq(got, seq);
		if (p->waits && i % 3)
			wait_for(s, seq);
		n = text_of(p->id, seq + 1, text);
		fill(p->id, seq + 1, &end);
		cr_assert_eq(fh_audit_end(s, t, &end, tenant, text, (size_t)n), seq + 1);
		if (p->waits)
			wait_for(s, seq + 1);
		else
			nanosleep(&(struct timespec){.tv_nsec = 500000}, NULL);
	}
	return NULL;
}

static void run(const char *dir, bool strict, int nr)
{
	struct fh_audit_config cfg = {.dir = dir,
				      .strict = strict,
				      .nap_ms = 2,
				      .publish_ms = strict ? 7 : 20,
				      .hold_ms = HOLD_MS,
				      .arena_bytes = 8192,
				      .watch = note};
	struct producer p[NR_PRODUCERS];
	struct fh_log_report report;
	struct fh_audit *a;
	struct fh_err err;

	cr_assert(!fh_audit_open(&cfg, &a, &report, &err), "%s", err.msg);
	for (int i = 0; i < NR_PRODUCERS; i++)
		source[i] = fh_audit_attach(a, NULL, NULL);
	audit = a;
	cr_assert(!fh_audit_start(a, &err));
	for (int i = 0; i < NR_PRODUCERS; i++) {
		p[i] = (struct producer){.id = i, .nr = nr, .waits = strict};
		pthread_create(&p[i].thread, NULL, produce, &p[i]);
	}
	for (int i = 0; i < NR_PRODUCERS; i++)
		pthread_join(p[i].thread, NULL);
	/* What closing writes comes when all have gone; their numbers are the writer's until then. */
	cr_assert(!fh_audit_close(a));
	audit = NULL;
}

static uint64_t nr_torn, nr_replayed, nr_promised, nr_held;

/* The entries of @dir, each with its text: events of each producer from its first on, with none left out. */
static void check_entries(const char *dir, const struct op *o, uint32_t at, uint64_t seed, bool mended,
			  const struct fh_checkpoint *cut)
{
	uint64_t next[NR_PRODUCERS] = {1, 1}, nr_repaired = 0, gone;
	struct fh_record_bytes leaf;
	struct fh_opener *op;
	struct fh_record rec;
	struct fh_err err;
	struct fh_reader r;
	char want[120], *text;
	size_t n, bad;

	cr_assert(!fh_reader_open(&r, dir, NULL, &err), "%s", err.msg);
	cr_assert(!fh_opener_create(&r, &op));
	for (uint64_t i = 0; i < r.cp.size; i++) {
		uint64_t serial;
		int producer;

		cr_assert(!fh_reader_entry(&r, i, &leaf) && !fh_record_decode(leaf.p, leaf.n, &rec, &bad));
		nr_repaired += rec.kind == FH_REC_REPAIRED;
		serial = rec.num[FH_RN_SERIAL];
		if (!serial)
			continue;
		producer = (int)(serial >> 32);
		cr_assert_eq(serial & UINT32_MAX, next[producer]++, "cut before change %u, seed %lu: entry %lu", at,
			     seed, i);
		text_of(producer, serial & UINT32_MAX, want);
		cr_assert(!fh_opener_text(op, i, &rec, &text, &n), "cut before change %u, seed %lu: entry %lu", at,
			  seed, i);
		cr_assert(n == strlen(want) && !memcmp(text, want, n));
		free(text);
	}
	for (int p = 0; p < NR_PRODUCERS; p++)
		cr_assert_gt(next[p], o->known[p],
			     "cut before change %u, seed %lu: %lu events of producer %d were promised, %lu are there",
			     at, seed, o->known[p], p, next[p] - 1);
	cr_assert_geq(r.cp.size, o->known[NR_PRODUCERS]);
	cr_assert_eq(nr_repaired, mended);
	cr_assert(!fh_held_check(&r, op, cut, &gone), "cut before change %u, seed %lu", at, seed);
	fh_opener_free(op);
	fh_reader_close(&r);
}

/* The checkpoint as the cut left it, or an empty one. */
static struct fh_checkpoint checkpoint_of(const char *dir)
{
	struct fh_checkpoint cp = {0};
	struct fh_err err;
	struct fh_dir d;
	char *note;
	size_t n;

	cr_assert(!fh_dir_open(&d, dir, false, &err));
	if (!fh_dir_read(&d, "checkpoint", FH_NOTE_MAX, &note, &n)) {
		cr_assert(!fh_checkpoint_open(note, n, NULL, &cp, &err), "%s", err.msg);
		free(note);
	}
	fh_dir_close(&d);
	return cp;
}

static void check_cut(uint32_t at, uint64_t seed)
{
	struct fh_checkpoint cut;
	struct fh_log_report report;
	static struct findings found;
	struct fh_err err = {0};
	struct fh_log *l;
	char dir[40];
	bool mended;

	disk_rng_state = 0x9e3779b97f4a7c15u * (at * 64 + seed);
	new_folder(dir);
	disk_cut(dir);
	cut = checkpoint_of(dir);
	nr_held += cut.held.nr > 0;
	cr_assert(!fh_log_open(dir, NULL, NULL, &l, &report, &err), "cut before change %u, seed %lu: %s", at, seed,
		  err.msg);
	mended = report.nr_replayed || report.torn_bytes;
	nr_torn += report.torn_bytes > 0;
	nr_replayed += report.nr_replayed > 0;
	nr_promised += ops[at].known[0] + ops[at].known[1];
	/* It goes on. */
	add_pair(l, "tenant-0", 900, 60);
	cr_assert(!fh_log_close(l));
	verify(dir, NULL, &found);
	cr_assert_eq(found.nr, 0, "cut before change %u, seed %lu: %s", at, seed, found.all);
	check_entries(dir, &ops[at], at, seed, mended, &cut);
	remove_folder(dir);
}

/* ThreadSanitizer is about the threads that write, and not about what one thread finds after each cut. */
#ifdef __SANITIZE_THREAD__
enum { FEW_CUTS = 100 };
#else
enum { FEW_CUTS = 500 };
#endif

static void cut_everywhere(bool strict, int nr)
{
	const char *check = getenv("FREEHOLD_CHECK");
	uint64_t nr_cuts = check && !strcmp(check, "long") ? 5000 : FEW_CUTS, nr_seen = 0;
	char dir[40];

	new_folder(dir);
	run(dir, strict, nr);
	remove_folder(dir);
	cr_assert_gt(nr_ops, 100);
	for (uint32_t at = 0; at < nr_ops; at++) {
		/* At any of the changes alike, and as often as asked for. */
		for (uint64_t seed = 1; nr_seen < nr_cuts * (at + 1) / nr_ops; seed++, nr_seen++)
			check_cut(at, seed);
		disk_play(&ops[at]);
	}
	cr_log_info("%u changes, %lu cuts: %lu with a torn tail, %lu with entries from the journal, %lu with texts "
		    "held in it",
		    nr_ops, nr_seen, nr_torn, nr_replayed, nr_held);
	/* The cuts were where it hurts. */
	cr_assert_gt(nr_torn, nr_cuts / 50);
	cr_assert_gt(nr_replayed, nr_cuts / 10);
	cr_assert_gt(nr_promised, nr_cuts);
	cr_assert_gt(nr_held, nr_cuts / 4);
}

Test(cut, strict, .timeout = 600)
{
	cut_everywhere(true, 60);
}

Test(cut, relaxed, .timeout = 600)
{
	cut_everywhere(false, 150);
}
