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
#include "runtime/trust/audit.h"

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

/*
 * Of a pool, or allocated.  One of the pool is free again when its end was
 * pushed: the writer looks at it in the order of the queue, so that a later
 * begin cannot overtake the end before.
 */
struct fh_audit_ticket {
	uint64_t index;		      /* writer: the entry of the begin */
	struct fh_audit_ticket *next; /* producer: in the pool */
	bool pooled;
};

/*
 * Where events lie, oldest first, until the writer is done with them.  Positions
 * run freely; what does not fit before the end of the memory begins at its
 * beginning.
 */
struct arena {
	uint8_t *p;
	size_t bytes;
	size_t head;			  /* producer */
	_Alignas(64) _Atomic size_t tail; /* writer */
};

/* One piece of memory: the event, its strings, its body. */
struct event {
	size_t in_arena; /* bytes there, with what was skipped; 0: it is malloc'ed */
	struct fh_record rec;
	struct fh_audit_ticket *ticket;
	struct wish *wish; /* of an end: a receipt is wanted */
	bool has_tenant, has_body;
	char tenant[FH_RECORD_NAME_MAX + 1];
	size_t n;
	uint8_t *body; /* [n] */
};

/* For a receipt, on its way to the writer and back. */
struct wish {
	struct fh_audit_source *source;
	struct wish *next; /* writer */
	void *cookie;
	uint8_t salt[FH_RECEIPT_SALT_BYTES];
	uint64_t begin, end; /* entries */
	char *text;
};

struct fh_audit_source {
	struct fh_audit *a;
	struct fh_spsc queue;	 /* of struct event * */
	struct fh_spsc receipts; /* of struct wish *, back */
	void (*wake)(void *ctx);
	void *wake_ctx;
	/* Producer. */
	struct arena arena;
	struct fh_audit_ticket *tickets, *free_tickets; /* [queue_entries] */
	uint64_t nr_pushed;
	uint32_t nr_open; /* requests that have begun and not ended: each has a place kept */
	/* Writer. */
	struct event *held; /* could not be appended yet */
	uint64_t nr_taken;
	_Alignas(64) _Atomic uint64_t nr_durable;
	_Atomic uint32_t waiting; /* producer sets, writer clears: wake() is due */
};

struct fh_audit {
	struct fh_audit_config cfg;
	struct fh_log *log;
	struct fh_audit_source source[FH_AUDIT_MAX_SOURCES];
	uint32_t nr_sources;
	pthread_t thread;
	bool started;
	uint64_t start_ref; /* writer: 1 + entry of the last START */
	uint64_t publish_ns, retry_ns;
	bool dirty; /* writer: there are entries that are not known to be durable */
	uint64_t nr_lost_logged;
	struct wish *wishes; /* writer: whose ends are in the log */
	int wish_error;
	_Atomic uint32_t stop, sleeping, bell;
	_Atomic int error;
	_Atomic uint64_t nr_entries, nr_durable, nr_published, nr_lost, nr_syncs;
};

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

/* In the order in which they were made. */
static void free_event(struct fh_audit_source *s, struct event *e)
{
	if (e->rec.kind == FH_REC_END && !e->ticket->pooled)
		free(e->ticket);
	if (e->in_arena)
		atomic_store_explicit(&s->arena.tail,
				      atomic_load_explicit(&s->arena.tail, memory_order_relaxed) + e->in_arena,
				      memory_order_release);
	else
		free(e);
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
	free_event(s, e);
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

static void free_wish(struct wish *w)
{
	if (w)
		free(w->text);
	free(w);
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

static void put_levels(struct fh_audit *a)
{
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
			free_wish(w);
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

static void write_out(struct fh_audit *a, bool publish)
{
	bool sync = a->cfg.strict || publish;
	int rc = 0;

	if (a->dirty || publish) {
		rc = fh_log_commit(a->log, sync);
		if (!rc && sync && a->dirty) {
			atomic_fetch_add_explicit(&a->nr_syncs, 1, memory_order_relaxed);
			tell_durable(a);
		}
	}
	if (!rc && publish) {
		note_wishes(a, fh_log_do_erasures(a->log));
		rc = fh_log_publish(a->log);
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
	a->cfg.arena_bytes &= ~(size_t)63;
	a->cfg.give_up_ms = cfg->give_up_ms ? cfg->give_up_ms : 5000;
	rc = fh_log_open(cfg->dir, cfg->watch, cfg->watch_ctx, &a->log, report, err);
	if (rc) {
		free(a);
		return rc;
	}
	put_levels(a);
	*out = a;
	return 0;
}

static int make_arena(struct fh_audit_source *s, size_t bytes, uint32_t nr_tickets)
{
	/* Pages that nobody touches cost nothing. */
	s->arena = (struct arena){.p = calloc(1, bytes), .bytes = bytes};
	s->tickets = calloc(nr_tickets, sizeof(*s->tickets));
	if (!s->arena.p || !s->tickets) {
		free(s->arena.p);
		free(s->tickets);
		return -ENOMEM;
	}
	for (uint32_t i = nr_tickets; i--;) {
		s->tickets[i].pooled = true;
		s->tickets[i].next = s->free_tickets;
		s->free_tickets = &s->tickets[i];
	}
	return 0;
}

struct fh_audit_source *fh_audit_attach(struct fh_audit *a, void (*wake)(void *ctx), void *ctx)
{
	struct fh_audit_source *s = &a->source[a->nr_sources];

	if (a->nr_sources == FH_AUDIT_MAX_SOURCES || fh_spsc_init(&s->queue, a->cfg.queue_entries))
		return NULL;
	if (fh_spsc_init(&s->receipts, a->cfg.queue_entries) ||
	    (a->cfg.arena_bytes && make_arena(s, a->cfg.arena_bytes, a->cfg.queue_entries))) {
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
	free_wish(e->wish);
	free_event(s, e);
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
			free_wish(w);
		fh_spsc_destroy(&s->queue);
		fh_spsc_destroy(&s->receipts);
		free(s->arena.p);
		free(s->tickets);
	}
	for (struct wish *w; (w = a->wishes);) {
		a->wishes = w->next;
		free_wish(w);
	}
	log_lost(a);
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

/* ---- the producers ---- */

/* In the arena, or with malloc() where that is full. */
static struct event *take_memory(struct fh_audit_source *s, size_t bytes)
{
	struct arena *m = &s->arena;
	size_t need = (bytes + 63) & ~(size_t)63, at, skip;
	struct event *e;

	if (m->bytes) {
		at = m->head % m->bytes;
		skip = m->bytes - at < need ? m->bytes - at : 0;
		if (need + skip <= m->bytes - (m->head - atomic_load_explicit(&m->tail, memory_order_acquire))) {
			e = (struct event *)(m->p + (skip ? 0 : at));
			m->head += need + skip;
			e->in_arena = need + skip;
			return e;
		}
	}
	e = malloc(bytes);
	if (e)
		e->in_arena = 0;
	return e;
}

/* Everything that @r points to is copied behind the event. It is pushed next, or nothing is. */
static struct event *make_event(struct fh_audit_source *s, const struct fh_record *r, const char *tenant,
				const void *body, size_t n)
{
	size_t bytes = sizeof(struct event) + n;
	struct event *e;
	uint8_t *at;

	for (int i = 0; i < FH_NR_RS; i++)
		bytes += r->str[i].n;
	e = take_memory(s, bytes);
	if (!e)
		return NULL;
	e->rec = *r;
	e->wish = NULL;
	e->ticket = NULL;
	e->n = n;
	e->has_body = body;
	e->has_tenant = tenant;
	at = (uint8_t *)(e + 1);
	for (int i = 0; i < FH_NR_RS; i++) {
		if (!r->str[i].n)
			continue;
		memcpy(at, r->str[i].p, r->str[i].n);
		e->rec.str[i].p = at;
		at += r->str[i].n;
	}
	e->body = at;
	if (n)
		memcpy(at, body, n);
	if (tenant) {
		snprintf(e->tenant, sizeof(e->tenant), "%s", tenant);
		fh_record_set_str(&e->rec, FH_RS_TENANT, e->tenant, strlen(e->tenant));
	}
	return e;
}

static uint64_t push(struct fh_audit_source *s, struct event *e)
{
	struct fh_audit *a = s->a;

	/* Room was kept, or looked for, by the caller. */
	if (fh_spsc_push(&s->queue, e)) {
		/* A mistake of ours; an event in the arena stays there until the end. */
		atomic_fetch_add_explicit(&a->nr_lost, 1, memory_order_relaxed);
		return 0;
	}
	s->nr_pushed++;
	atomic_store(&a->bell, 1);
	if ((a->cfg.strict || fh_spsc_count(&s->queue) == a->cfg.queue_entries / 2) && atomic_load(&a->sleeping) &&
	    atomic_exchange(&a->sleeping, 0))
		fh_futex_wake(&a->sleeping, 1);
	return s->nr_pushed;
}

/* Is there room for @nr events beside the ends that are due? */
static bool has_room(struct fh_audit_source *s, uint32_t nr)
{
	return fh_spsc_count(&s->queue) + s->nr_open + nr <= s->a->cfg.queue_entries;
}

static int lose(struct fh_audit_source *s, int rc)
{
	if (s->a->cfg.strict)
		return rc;
	atomic_fetch_add_explicit(&s->a->nr_lost, 1, memory_order_relaxed);
	return 0;
}

int fh_audit_ready(struct fh_audit_source *s, uint32_t nr)
{
	int rc = atomic_load_explicit(&s->a->error, memory_order_relaxed);

	if (rc && s->a->cfg.strict)
		return rc;
	return has_room(s, nr) ? 0 : -EAGAIN;
}

static struct fh_audit_ticket *take_ticket(struct fh_audit_source *s)
{
	struct fh_audit_ticket *t = s->free_tickets;

	if (!t)
		return calloc(1, sizeof(*t));
	s->free_tickets = t->next;
	return t;
}

static void give_ticket(struct fh_audit_source *s, struct fh_audit_ticket *t)
{
	t->next = s->free_tickets;
	s->free_tickets = t;
}

int fh_audit_begin(struct fh_audit_source *s, const struct fh_record *r, const char *tenant, const void *body, size_t n,
		   struct fh_audit_ticket **t, uint64_t *seq)
{
	int rc = atomic_load_explicit(&s->a->error, memory_order_relaxed);

	*t = NULL;
	*seq = 0;
	return rc && s->a->cfg.strict ? rc : fh_audit_begin_anyway(s, r, tenant, body, n, t, seq);
}

int fh_audit_begin_anyway(struct fh_audit_source *s, const struct fh_record *r, const char *tenant, const void *body,
			  size_t n, struct fh_audit_ticket **t, uint64_t *seq)
{
	struct event *e;

	*t = NULL;
	*seq = 0;
	if (!has_room(s, 2))
		return lose(s, -EAGAIN);
	*t = take_ticket(s);
	e = *t ? make_event(s, r, tenant, body, n) : NULL;
	if (!e) {
		if (*t && (*t)->pooled)
			give_ticket(s, *t);
		else
			free(*t);
		*t = NULL;
		return lose(s, -ENOMEM);
	}
	e->ticket = *t;
	s->nr_open++;
	*seq = push(s, e);
	return 0;
}

static uint64_t end(struct fh_audit_source *s, struct fh_audit_ticket *t, const struct fh_record *r, const char *tenant,
		    const void *body, size_t n, struct wish *w)
{
	struct event *e;

	s->nr_open--;
	e = make_event(s, r, tenant, body, n);
	/* Rather an outcome without its text than none. */
	if (!e)
		e = make_event(s, r, tenant, NULL, 0);
	if (t->pooled)
		give_ticket(s, t);
	if (!e) {
		if (!t->pooled)
			free(t);
		free_wish(w);
		atomic_fetch_add_explicit(&s->a->nr_lost, 1, memory_order_relaxed);
		return 0;
	}
	e->ticket = t;
	e->wish = w;
	return push(s, e);
}

uint64_t fh_audit_end(struct fh_audit_source *s, struct fh_audit_ticket *t, const struct fh_record *r,
		      const char *tenant, const void *body, size_t n)
{
	return t ? end(s, t, r, tenant, body, n, NULL) : 0;
}

uint64_t fh_audit_end_with_receipt(struct fh_audit_source *s, struct fh_audit_ticket *t, const struct fh_record *r,
				   const char *tenant, const void *body, size_t n,
				   const uint8_t salt[FH_RECEIPT_SALT_BYTES], void *cookie)
{
	struct wish *w = t ? calloc(1, sizeof(*w)) : NULL;

	if (!w) {
		fh_audit_end(s, t, r, tenant, body, n);
		return 0;
	}
	w->source = s;
	w->cookie = cookie;
	memcpy(w->salt, salt, sizeof(w->salt));
	return end(s, t, r, tenant, body, n, w);
}

bool fh_audit_receipt(struct fh_audit_source *s, void **cookie, char **text)
{
	struct wish *w = fh_spsc_pop(&s->receipts);

	if (!w)
		return false;
	*cookie = w->cookie;
	*text = w->text;
	free(w);
	return true;
}

uint64_t fh_audit_note(struct fh_audit_source *s, const struct fh_record *r)
{
	struct event *e = has_room(s, 1) ? make_event(s, r, NULL, NULL, 0) : NULL;

	if (!e) {
		atomic_fetch_add_explicit(&s->a->nr_lost, 1, memory_order_relaxed);
		return 0;
	}
	return push(s, e);
}

bool fh_audit_durable(struct fh_audit_source *s, uint64_t seq)
{
	if (atomic_load_explicit(&s->nr_durable, memory_order_acquire) >= seq)
		return true;
	atomic_store(&s->waiting, 1);
	return atomic_load(&s->nr_durable) >= seq;
}

void fh_audit_state(const struct fh_audit *a, struct fh_audit_state *st)
{
	*st = (struct fh_audit_state){
		.error = atomic_load_explicit(&a->error, memory_order_relaxed),
		.nr_entries = atomic_load_explicit(&a->nr_entries, memory_order_relaxed),
		.nr_durable = atomic_load_explicit(&a->nr_durable, memory_order_relaxed),
		.nr_published = atomic_load_explicit(&a->nr_published, memory_order_relaxed),
		.nr_lost = atomic_load_explicit(&a->nr_lost, memory_order_relaxed),
		.nr_syncs = atomic_load_explicit(&a->nr_syncs, memory_order_relaxed),
	};
}
