// SPDX-License-Identifier: Apache-2.0
/*
 * The audit log's producers: events are copied, into memory that is there where
 * there is room, and pushed.  Nothing here waits, and nothing here runs on the
 * writer's thread but the freeing of what it is done with.
 */
#include <stdlib.h>
#include <string.h>

#include "runtime/base/futex.h"
#include "runtime/trust/audit_priv.h"

void fh_audit_free_wish(struct wish *w)
{
	if (w)
		free(w->text);
	free(w);
}

void fh_audit_free_event(struct fh_audit_source *s, struct event *e)
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

int fh_audit_make_arena(struct fh_audit_source *s, size_t bytes, uint32_t nr_tickets)
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

/* In the arena, or with malloc() where that is full. */
static struct event *take_memory(struct fh_audit_source *s, size_t bytes)
{
	struct arena *m = &s->arena;
	size_t need = (bytes + 63) & ~(size_t)63, at, skip, tail;
	struct event *e;

	if (m->bytes) {
		tail = atomic_load_explicit(&m->tail, memory_order_acquire);
		at = m->head % m->bytes;
		/* Nothing lies there: begin anew, where memory is in the cache, and was touched before. */
		skip = m->bytes - at < need || (at >= need && tail == m->head) ? m->bytes - at : 0;
		if (need + skip <= m->bytes - (m->head - tail)) {
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
	bool wanted = e->wish; /* somebody waits; and the event is not ours any more once it is pushed */

	/* Room was kept, or looked for, by the caller. */
	if (fh_spsc_push(&s->queue, e)) {
		/* A mistake of ours; an event in the arena stays there until the end. */
		atomic_fetch_add_explicit(&a->nr_lost, 1, memory_order_relaxed);
		return 0;
	}
	s->nr_pushed++;
	atomic_store(&a->bell, 1);
	if ((a->cfg.strict || wanted || fh_spsc_count(&s->queue) == a->cfg.queue_entries / 2) &&
	    atomic_load(&a->sleeping) && atomic_exchange(&a->sleeping, 0))
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
		fh_audit_free_wish(w);
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
				   const uint8_t salt[FH_RECEIPT_SALT_BYTES], void *cookie, bool *promised)
{
	uint64_t seq;
	struct wish *w = t ? calloc(1, sizeof(*w)) : NULL;

	*promised = false;
	if (!w)
		return fh_audit_end(s, t, r, tenant, body, n);
	w->source = s;
	w->cookie = cookie;
	memcpy(w->salt, salt, sizeof(w->salt));
	seq = end(s, t, r, tenant, body, n, w);
	*promised = seq;
	return seq;
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

bool fh_audit_head(const struct fh_audit *a, uint64_t *nr, uint8_t root[32])
{
	uint64_t word[4], turn;

	/* It changes once a second: a second look is rare, a third one does not happen. */
	for (int tries = 0; tries < 100; tries++) {
		turn = atomic_load(&a->head_turn);
		*nr = atomic_load(&a->head_nr);
		for (int i = 0; i < 4; i++)
			word[i] = atomic_load(&a->head_root[i]);
		if (!(turn & 1) && turn == atomic_load(&a->head_turn)) {
			memcpy(root, word, sizeof(word));
			return *nr;
		}
	}
	return false;
}
