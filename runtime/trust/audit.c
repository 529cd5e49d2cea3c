// SPDX-License-Identifier: Apache-2.0
/*
 * The audit writer's thread, and the queues that lead to it.
 *
 * Sleeping: the writer stores sleeping = 1, looks at the bell and sleeps while
 * it is 1; a producer pushes, rings the bell, looks at sleeping and, in strict mode
 * or when its queue is half full, exchanges it for 0 and wakes.  All four are
 * sequentially consistent: one of the two sees the other.  In relaxed mode nobody
 * wakes it for a few events: it looks every nap_ms, so that a request costs no
 * system call.
 */
#include "runtime/trust/audit_priv.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "runtime/base/clock.h"
#include "runtime/base/futex.h"
#include "runtime/base/log.h"
#include "runtime/base/spsc.h"

#define BATCH 512 /* events of a source in one turn */
#define RETRY_NS 200000000u

/* ---- the writer ---- */

static uint64_t wall_us(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_REALTIME, &ts);
	return (uint64_t)ts.tv_sec * 1000000 + (uint64_t)ts.tv_nsec / 1000;
}

static void note_error(struct fh_audit *a, int rc)
{
	int before = atomic_exchange(&a->error, rc);

	if (rc && rc != before)
		fh_error("audit: the log in %s cannot be written: %s; %s", a->cfg.dir, strerror(-rc),
			 a->cfg.strict ? "no new requests are taken" : "records are kept in memory");
	else if (!rc && before)
		fh_info("audit: the log in %s can be written again", a->cfg.dir);
}

static int append_event(struct fh_audit *a, struct fh_audit_source *s, struct event *e)
{
	uint64_t index;
	int rc;

	if (e->rec.kind == FH_REC_END)
		e->rec.num[FH_RN_REF] = e->ticket->index + 1;
	else if (e->rec.kind != FH_REC_START)
		e->rec.num[FH_RN_REF] = a->start_ref;
	rc = fh_log_append(a->log, &e->rec, e->has_tenant ? e->tenant : NULL, e->has_body ? e->body : NULL, e->n,
			   a->cfg.body, &index);
	/* Too long, or a tenant's key that was damaged: trying again would not help, and the rest must not wait for it.
	 */
	if (rc == -E2BIG || rc == -EBADMSG) {
		fh_error("audit: a body of tenant %s is kept as its hash only: %s", e->tenant,
			 rc == -E2BIG ? "it is too long" : "the tenant's key is damaged");
		rc = fh_log_append(a->log, &e->rec, e->tenant, e->body, e->n, FH_BODY_HASH, &index);
	}
	if (rc)
		return rc;
	a->dirty = true;
	if (e->rec.kind == FH_REC_BEGIN)
		e->ticket->index = index;
	else if (e->rec.kind == FH_REC_START)
		a->start_ref = index + 1;
	if (e->wish) {
		e->wish->begin = e->ticket->index;
		e->wish->end = index;
		e->wish->next = a->wishes;
		a->wishes = e->wish;
	}
	fh_audit_free_event(s, e);
	return 0;
}

/* What could not be taken in, once there is room again. */
static void log_lost(struct fh_audit *a)
{
	uint64_t lost = atomic_load_explicit(&a->nr_lost, memory_order_relaxed), index;
	struct fh_record r = {.kind = FH_REC_LOST};

	if (lost == a->nr_lost_logged || atomic_load(&a->error))
		return;
	r.num[FH_RN_TIME_US] = wall_us();
	r.num[FH_RN_REF] = a->start_ref;
	r.num[FH_RN_COUNT] = lost - a->nr_lost_logged;
	if (!fh_log_append(a->log, &r, NULL, NULL, 0, FH_BODY_NONE, &index)) {
		a->nr_lost_logged = lost;
		a->dirty = true;
	}
}

void fh_audit_note_last(struct fh_audit *a, const struct fh_record *r)
{
	a->last = *r;
}

static void log_last(struct fh_audit *a)
{
	uint64_t index;

	/* What texts are still to be sealed has its entry before. */
	if (!a->last.kind || atomic_load(&a->error) || fh_log_seal(a->log))
		return;
	a->last.num[FH_RN_REF] = a->start_ref;
	if (!fh_log_append(a->log, &a->last, NULL, NULL, 0, FH_BODY_NONE, &index))
		a->dirty = true;
}

/* Events of one source, as long as they can be appended. True if any was. */
static bool take(struct fh_audit *a, struct fh_audit_source *s)
{
	bool any = false;

	for (int i = 0; i < BATCH; i++) {
		int rc;

		/* Behind a log that cannot be written memory must not grow without end. */
		if (atomic_load_explicit(&a->error, memory_order_relaxed) &&
		    fh_log_pending(a->log) > FH_AUDIT_HELD_BYTES)
			break;
		if (!s->held)
			s->held = fh_spsc_pop(&s->queue);
		if (!s->held)
			break;
		rc = append_event(a, s, s->held);
		if (rc) {
			note_error(a, rc);
			break;
		}
		s->held = NULL;
		s->nr_taken++;
		any = true;
	}
	return any;
}

static void tell_durable(struct fh_audit *a)
{
	for (uint32_t i = 0; i < a->nr_sources; i++) {
		struct fh_audit_source *s = &a->source[i];

		if (atomic_load_explicit(&s->nr_durable, memory_order_relaxed) == s->nr_taken)
			continue;
		/* Sequentially consistent with fh_audit_durable(): it sees the number, or we see that it waits. */
		atomic_store(&s->nr_durable, s->nr_taken);
		if (atomic_exchange(&s->waiting, 0) && s->wake)
			s->wake(s->wake_ctx);
	}
	a->dirty = false;
}

/* For fh_audit_head(): who reads while it changes sees that it did. */
static void put_head(struct fh_audit *a)
{
	uint64_t word[4], turn = atomic_load(&a->head_turn);

	if (atomic_load(&a->head_nr) == fh_log_published(a->log))
		return;
	memcpy(word, fh_log_root(a->log), sizeof(word));
	atomic_store(&a->head_turn, turn + 1);
	atomic_store(&a->head_nr, fh_log_published(a->log));
	for (int i = 0; i < 4; i++)
		atomic_store(&a->head_root[i], word[i]);
	atomic_store(&a->head_turn, turn + 2);
}

static void put_levels(struct fh_audit *a)
{
	put_head(a);
	atomic_store_explicit(&a->nr_entries, fh_log_size(a->log), memory_order_relaxed);
	atomic_store_explicit(&a->nr_durable, fh_log_durable(a->log), memory_order_relaxed);
	atomic_store_explicit(&a->nr_published, fh_log_published(a->log), memory_order_relaxed);
}

/*
 * Receipts, once a checkpoint has what they are about; read like any reader would, so that what is handed out is what
 * lies there.  With a log that cannot be written relaxed gives up, strict waits.
 */
static void fulfil(struct fh_audit *a, bool published)
{
	struct wish *w = a->wishes, *next;
	struct fh_reader r;
	struct fh_err err;
	bool open;

	if (!w || (!published && a->cfg.strict))
		return;
	open = published && !fh_reader_open(&r, a->cfg.dir, NULL, &err);
	if (published && !open)
		fh_error("audit: no receipts: %s", err.msg);
	for (a->wishes = NULL; w; w = next) {
		struct fh_audit_source *s = w->source;
		int rc = open ? fh_receipt_make(&r, w->begin, w->end, w->salt, &w->text) : 0;

		if (rc)
			fh_error("audit: no receipt for entry %llu: %s", (unsigned long long)w->end, strerror(-rc));
		next = w->next;
		/* It has as many places as requests can be open. */
		if (fh_spsc_push(&s->receipts, w))
			fh_audit_free_wish(w);
		else if (s->wake)
			s->wake(s->wake_ctx);
	}
	if (open)
		fh_reader_close(&r);
}

/* That a wish cannot be fulfilled is no reason to stop serving; who wished it is told by its staying. */
static void note_wishes(struct fh_audit *a, int nr)
{
	if (nr < 0 && nr != a->wish_error)
		fh_error("audit: an erasure that %s/erase asks for failed: %s", a->cfg.dir, strerror(-nr));
	if (nr > 0)
		fh_info("audit: erased the keys of %d tenant%s", nr, nr == 1 ? "" : "s");
	a->wish_error = nr < 0 ? nr : 0;
}

/* Bodies that are old enough go, once in a while. */
static void expire(struct fh_audit *a)
{
	uint64_t now = fh_now_ns(), us = wall_us();
	struct fh_reader r;
	struct fh_err err;
	int nr;

	if (!a->cfg.retain_us || now < a->expire_ns || us < a->cfg.retain_us)
		return;
	a->expire_ns = now + a->cfg.expire_ms * 1000000ull;
	nr = fh_reader_open(&r, a->cfg.dir, NULL, &err);
	if (!nr) {
		nr = fh_log_expire(a->log, &r, us - a->cfg.retain_us, us);
		fh_reader_close(&r);
	}
	if (nr > 0)
		fh_info("audit: removed %d file%s of texts that were old enough", nr, nr == 1 ? "" : "s");
	else if (nr < 0)
		fh_error("audit: texts that are old enough cannot be removed: %s", strerror(-nr));
}

static void write_out(struct fh_audit *a, bool publish)
{
	bool sync = a->cfg.strict || publish;
	int rc = 0;

	fh_log_set_time(a->log, wall_us());
	/* One sync for both; strict's answers do not wait for the compressor. */
	if (publish && !a->cfg.strict)
		rc = fh_log_seal_due(a->log);
	if (!rc && (a->dirty || publish)) {
		rc = fh_log_commit(a->log, sync);
		if (!rc && sync && a->dirty) {
			atomic_fetch_add_explicit(&a->nr_syncs, 1, memory_order_relaxed);
			tell_durable(a);
		}
	}
	if (!rc && publish) {
		note_wishes(a, fh_log_do_erasures(a->log));
		rc = fh_log_publish(a->log);
		if (!rc)
			expire(a);
	}
	note_error(a, rc);
	put_levels(a);
	if (publish || rc)
		fulfil(a, !rc);
}

/* One round; true if there was something to do. */
static bool turn(struct fh_audit *a)
{
	uint64_t now = fh_now_ns();
	bool any = false, publish;

	if (atomic_load_explicit(&a->error, memory_order_relaxed) && now < a->retry_ns)
		return false;
	log_lost(a);
	for (uint32_t i = 0; i < a->nr_sources; i++)
		any |= take(a, &a->source[i]);
	publish = now >= a->publish_ns || a->wishes || fh_log_pending(a->log) > FH_LOG_PENDING_BYTES;
	if (publish)
		a->publish_ns = now + a->cfg.publish_ms * 1000000ull;
	if (any || a->dirty || publish)
		write_out(a, publish);
	if (atomic_load_explicit(&a->error, memory_order_relaxed)) {
		a->retry_ns = fh_now_ns() + RETRY_NS;
		a->publish_ns = 0;
		return false;
	}
	return any;
}

static bool all_empty(struct fh_audit *a)
{
	for (uint32_t i = 0; i < a->nr_sources; i++)
		if (a->source[i].held || fh_spsc_count(&a->source[i].queue))
			return false;
	return true;
}

static void rest(struct fh_audit *a)
{
	uint64_t now = fh_now_ns(), until = a->publish_ns > now ? a->publish_ns - now : 1000000;
	uint64_t nap = a->cfg.nap_ms * 1000000ull;
	bool rung;

	/* With nothing to publish an idle writer looks for erasures once a publish_ms, and else sleeps. */
	if (atomic_load_explicit(&a->error, memory_order_relaxed))
		until = RETRY_NS / 4;
	else if (!a->cfg.strict)
		until = until < nap ? until : nap;
	atomic_store(&a->sleeping, 1);
	rung = atomic_exchange(&a->bell, 0);
	if ((!rung || !a->cfg.strict || atomic_load(&a->error)) && !atomic_load(&a->stop))
		fh_futex_wait(&a->sleeping, 1, until);
	atomic_store(&a->sleeping, 0);
}

static void *writer(void *arg)
{
	struct fh_audit *a = arg;
	uint64_t give_up = 0;

	pthread_setname_np(pthread_self(), "fh-audit");
	for (;;) {
		if (turn(a))
			continue;
		if (!atomic_load(&a->stop)) {
			rest(a);
			continue;
		}
		if (!give_up)
			give_up = fh_now_ns() + a->cfg.give_up_ms * 1000000ull;
		if ((all_empty(a) && !atomic_load(&a->error)) || fh_now_ns() > give_up)
			return NULL;
		if (atomic_load(&a->error))
			nanosleep(&(struct timespec){.tv_nsec = RETRY_NS / 20}, NULL);
	}
}

/* ---- life ---- */

static void set_hold(struct fh_audit *a)
{
	uint64_t us = a->cfg.hold_ms * 1000ull, age = a->cfg.retain_us / 16;

	/* Nothing shall wait for long beside what it may stay. */
	fh_log_set_hold(a->log, age && age < us ? age : us);
}

int fh_audit_open(const struct fh_audit_config *cfg, struct fh_audit **out, struct fh_log_report *report,
		  struct fh_err *err)
{
	struct fh_audit *a = aligned_alloc(64, (sizeof(*a) + 63) / 64 * 64);
	int rc;

	if (!a)
		return fh_errf(err, -ENOMEM, "out of memory");
	memset(a, 0, sizeof(*a));
	a->cfg = *cfg;
	a->cfg.queue_entries = cfg->queue_entries ? cfg->queue_entries : 16384;
	a->cfg.nap_ms = cfg->nap_ms ? cfg->nap_ms : 100;
	a->cfg.publish_ms = cfg->publish_ms ? cfg->publish_ms : 1000;
	a->cfg.expire_ms = cfg->expire_ms ? cfg->expire_ms : 3600000;
	a->cfg.arena_bytes &= ~(size_t)63;
	a->cfg.hold_ms = cfg->hold_ms ? cfg->hold_ms : FH_AUDIT_HOLD_MS;
	a->cfg.give_up_ms = cfg->give_up_ms ? cfg->give_up_ms : 5000;
	rc = fh_log_open(cfg->dir, cfg->watch, cfg->watch_ctx, &a->log, report, err);
	if (rc) {
		free(a);
		return rc;
	}
	/* A file goes as a whole: it shall not be long before it can. */
	fh_log_set_file_age(a->log, cfg->retain_us / 16);
	set_hold(a);
	put_levels(a);
	*out = a;
	return 0;
}

struct fh_audit_source *fh_audit_attach(struct fh_audit *a, void (*wake)(void *ctx), void *ctx)
{
	struct fh_audit_source *s = &a->source[a->nr_sources];

	if (a->nr_sources == FH_AUDIT_MAX_SOURCES || fh_spsc_init(&s->queue, a->cfg.queue_entries))
		return NULL;
	if (fh_spsc_init(&s->receipts, a->cfg.queue_entries) ||
	    (a->cfg.arena_bytes && fh_audit_make_arena(s, a->cfg.arena_bytes, a->cfg.queue_entries))) {
		fh_spsc_destroy(&s->queue);
		fh_spsc_destroy(&s->receipts);
		return NULL;
	}
	s->a = a;
	s->wake = wake;
	s->wake_ctx = ctx;
	a->nr_sources++;
	return s;
}

int fh_audit_start(struct fh_audit *a, struct fh_err *err)
{
	int rc = pthread_create(&a->thread, NULL, writer, a);

	if (rc)
		return fh_errf(err, -rc, "cannot start the audit writer: %s", strerror(rc));
	a->started = true;
	return 0;
}

static void drop_event(struct fh_audit_source *s, struct event *e)
{
	atomic_fetch_add_explicit(&s->a->nr_lost, 1, memory_order_relaxed);
	fh_audit_free_wish(e->wish);
	fh_audit_free_event(s, e);
}

int fh_audit_close(struct fh_audit *a)
{
	uint64_t lost;
	int rc;

	if (!a)
		return 0;
	if (a->started) {
		atomic_store(&a->stop, 1);
		atomic_store(&a->sleeping, 0);
		fh_futex_wake(&a->sleeping, 1);
		pthread_join(a->thread, NULL);
	}
	for (uint32_t i = 0; i < a->nr_sources; i++) {
		struct fh_audit_source *s = &a->source[i];

		if (s->held)
			drop_event(s, s->held);
		while ((s->held = fh_spsc_pop(&s->queue)))
			drop_event(s, s->held);
		for (struct wish *w; (w = fh_spsc_pop(&s->receipts));)
			fh_audit_free_wish(w);
		fh_spsc_destroy(&s->queue);
		fh_spsc_destroy(&s->receipts);
		free(s->arena.p);
		free(s->tickets);
	}
	for (struct wish *w; (w = a->wishes);) {
		a->wishes = w->next;
		fh_audit_free_wish(w);
	}
	log_lost(a);
	log_last(a);
	lost = atomic_load(&a->nr_lost) - a->nr_lost_logged;
	rc = fh_log_close(a->log);
	if (rc || lost)
		fh_error("audit: the log in %s was not ended in order: %s", a->cfg.dir,
			 rc ? strerror(-rc) : "records were lost");
	free(a);
	return rc ? rc : lost ? -EIO : 0;
}

const char *fh_audit_verifier_key(const struct fh_audit *a)
{
	return fh_log_verifier_key(a->log);
}

struct fh_log *fh_audit_log(struct fh_audit *a)
{
	return a->log;
}

void fh_audit_keyed_hash(const struct fh_audit *a, const void *p, size_t n, uint8_t *out, size_t out_n)
{
	/* Of the log only its key is looked at, which never changes. */
	fh_log_keyed_hash(a->log, p, n, out, out_n);
}
