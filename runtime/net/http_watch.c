// SPDX-License-Identifier: Apache-2.0
/*
 * Those who watch: live numbers as server-sent events, and once as JSON.
 *
 * One timer samples for all of them together, once a second, and only while
 * there are any; what is sent is put together once.  A viewer whose socket has
 * not taken the last event gets none meanwhile, and goes when that has lasted a
 * few seconds: nothing is kept for him.
 *
 * A stream has no end, but a key may have one: before each event the viewer is
 * let in anew, by the key that he came with.
 */
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "runtime/net/http_priv.h"

#define MAX_VIEWERS 16
#define MAX_BEHIND 5 /* events that a viewer may miss in a row */

#define container_of(ptr, type, member) ((type *)((char *)(ptr)-offsetof(type, member)))

struct fh_viewer {
	struct fh_conn *c;
	struct fh_viewer *next, **pprev; /* of those that watch; pprev NULL: not yet */
	uint32_t behind;
	size_t nr_key;
	char key[]; /* [nr_key] the header field that it came with */
};

struct fh_http_watch {
	struct fh_http *h;
	struct fh_io_timer timer;
	bool ticking;
	struct fh_viewer *viewers;
	uint32_t nr_viewers;
	bool counted; /* somebody counts what tenants use; then ... */
	uint32_t nr_tenants;
	struct fh_tenant_use tenants[FH_WATCH_MAX_TENANTS]; /* ... those that used most today */
	struct fh_buf common, all; /* the event of this second: what everybody gets, and what administrators get */
	uint64_t nr_events, nr_dropped;
	struct fh_watch w;
};

static void on_tick(struct fh_io_timer *t);

int fh_http_watch_create(struct fh_http *h, struct fh_err *err)
{
	struct fh_http_watch *w = h->svc->vitals ? calloc(1, sizeof(*w)) : NULL;

	if (!h->svc->vitals)
		return 0;
	if (!w)
		return fh_errf(err, -ENOMEM, "no memory for those who watch");
	w->h = h;
	w->timer.fn = on_tick;
	fh_watch_begin(&w->w, fh_now_ns());
	h->watch = w;
	return 0;
}

void fh_http_watch_destroy(struct fh_http *h)
{
	struct fh_http_watch *w = h->watch;

	if (!w)
		return;
	fh_buf_free(&w->common);
	fh_buf_free(&w->all);
	free(w);
	h->watch = NULL;
}

/* ---- samples ---- */

static uint64_t unix_ms(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_REALTIME, &ts);
	return (uint64_t)ts.tv_sec * 1000 + (uint64_t)ts.tv_nsec / 1000000;
}

static uint64_t period_ns(const struct fh_http_watch *w)
{
	return w->h->cfg.watch_period_ms * 1000000ull;
}

/* Between two ticks nothing is read anew, however many ask. */
static bool is_fresh(const struct fh_http_watch *w)
{
	return w->common.len && fh_now_ns() - fh_watch_at_ns(&w->w) < period_ns(w) / 10 * 9;
}

static void take_sample(struct fh_http_watch *w)
{
	const struct fh_service *svc = w->h->svc;
	struct fh_watch_facts f = {.version = w->h->cfg.version,
				   .model = svc->model.id,
				   .time_ms = unix_ms(),
				   .nr_viewers = w->nr_viewers};
	struct fh_vitals v;
	int rc;

	w->counted = svc->tenants && svc->tenant;
	if (w->counted)
		w->nr_tenants = svc->tenants(svc->ctx, w->tenants, FH_WATCH_MAX_TENANTS);
	f.health = fh_http_health(w->h, &rc);
	svc->vitals(svc->ctx, &v);
	fh_watch_add(&w->w, &v, fh_now_ns());
	fh_buf_reset(&w->common, FH_KEEP_BYTES);
	fh_buf_reset(&w->all, FH_KEEP_BYTES);
	fh_watch_json(&w->w, &f, &w->common);
	fh_watch_tenants_json(w->counted ? w->tenants : NULL, w->nr_tenants, f.time_ms / 1000, &w->all);
}

static bool is_admin(const struct fh_conn *c)
{
	return c->grant.endpoints & FH_GRANT_ADMIN;
}

/* What the tenant of @c has used; it has a @name. */
static void put_own(struct fh_http_watch *w, const struct fh_conn *c, bool name, struct fh_buf *b)
{
	const struct fh_service *svc = w->h->svc;
	uint32_t account = c->grant.account[FH_BUDGET_TENANT];
	struct fh_tenant_use own;
	bool found = name && w->counted && account && svc->tenant(svc->ctx, account, &own);

	fh_watch_tenants_json(name && w->counted ? &own : NULL, found, unix_ms() / 1000, b);
}

/* The whole object, for who asks on @c. */
static void put_object(struct fh_http_watch *w, const struct fh_conn *c, struct fh_buf *b)
{
	const char *who = c->grant.tenant_nr ? c->grant.who.tenant : ""; /* only the guard gives names */

	fh_buf_put(b, w->common.data, w->common.len);
	fh_buf_lit(b, ",\"you\":{\"tenant\":");
	if (*who) {
		fh_buf_lit(b, "\"");
		fh_buf_json(b, who, strlen(who));
		fh_buf_lit(b, "\"");
	} else {
		fh_buf_lit(b, "null");
	}
	fh_buf_printf(b, ",\"admin\":%s},\"tenants\":", is_admin(c) ? "true" : "false");
	if (is_admin(c))
		fh_buf_put(b, w->all.data, w->all.len);
	else
		put_own(w, c, *who != 0, b);
	fh_buf_lit(b, "}");
	b->failed |= w->common.failed || w->all.failed;
}

void fh_conn_answer_status(struct fh_conn *c)
{
	struct fh_http_watch *w = c->h->watch;
	struct fh_buf b = {0};

	if (!w) {
		fh_oai_errorf(&c->err, 501, NULL, NULL, "This server keeps no numbers.");
		fh_conn_respond_error(c, &c->err, NULL);
		return;
	}
	if (!is_fresh(w))
		take_sample(w);
	put_object(w, c, &b);
	fh_conn_respond_json(c, 200, FH_NO_STORE, &b);
}

/* ---- viewers ---- */

int fh_viewer_open(struct fh_conn *c)
{
	struct fh_span key = c->head.authorization;
	struct fh_viewer *v = malloc(sizeof(*v) + key.n);

	if (!v)
		return -ENOMEM;
	fh_viewer_close(c);
	*v = (struct fh_viewer){.c = c, .nr_key = key.n};
	if (key.n)
		memcpy(v->key, key.p, key.n);
	c->viewer = v;
	return 0;
}

bool fh_viewer_close(struct fh_conn *c)
{
	struct fh_viewer *v = c->viewer;
	bool watched = v && v->pprev;

	c->viewer = NULL;
	if (watched) {
		*v->pprev = v->next;
		if (v->next)
			v->next->pprev = v->pprev;
		c->h->watch->nr_viewers--;
	}
	if (v) {
		explicit_bzero(v->key, v->nr_key);
		free(v);
	}
	return watched;
}

/* Is he still let in? Sets c->grant anew. */
static bool admitted(struct fh_viewer *v)
{
	struct fh_conn *c = v->c;
	bool ok;

	c->head.authorization = (struct fh_span){v->key, v->nr_key};
	ok = fh_conn_admit(c);
	c->head.authorization = (struct fh_span){0};
	c->refuse = false;
	return ok;
}

/* A whole last chunk, so that the client knows that the stream was ended and not cut; then the connection goes. */
static void end_stream(struct fh_conn *c)
{
	fh_viewer_close(c);
	c->keep_alive = false;
	c->arrival_ns = fh_io_now_ns(c->h->io); /* how long somebody watched is no response time */
	fh_conn_stream_end(c);
}

static void send_event(struct fh_http_watch *w, struct fh_viewer *v)
{
	struct fh_conn *c = v->c;

	if (!admitted(v)) {
		end_stream(c);
		return;
	}
	if (c->out.len || fh_io_sending(&c->sock)) {
		if (++v->behind > MAX_BEHIND) {
			w->nr_dropped++;
			fh_conn_abort(c);
		}
		return;
	}
	v->behind = 0;
	w->nr_events++;
	fh_conn_piece(c);
	fh_buf_lit(&c->out, "data: ");
	put_object(w, c, &c->out);
	fh_buf_lit(&c->out, "\n\n");
	fh_conn_flush(c);
}

static void on_tick(struct fh_io_timer *t)
{
	struct fh_http_watch *w = container_of(t, struct fh_http_watch, timer);
	struct fh_viewer *v, *next;

	w->ticking = w->nr_viewers != 0;
	if (!w->ticking)
		return;
	/* Who asked once a moment ago has had them read. */
	if (!is_fresh(w))
		take_sample(w);
	for (v = w->viewers; v; v = next) {
		next = v->next;
		send_event(w, v);
	}
	fh_io_timer_set(w->h->io, t, fh_io_now_ns(w->h->io) + period_ns(w));
}

void fh_conn_answer_events(struct fh_conn *c)
{
	struct fh_http_watch *w = c->h->watch;
	struct fh_viewer *v = c->viewer;

	if (w && c->h->draining) {
		fh_viewer_close(c);
		fh_oai_errorf(&c->err, 503, NULL, NULL, "The server is shutting down.");
		fh_conn_respond_error(c, &c->err, NULL);
		return;
	}
	if (!w || w->nr_viewers >= MAX_VIEWERS) {
		fh_viewer_close(c);
		fh_oai_errorf(&c->err, w ? 503 : 501, w ? "too_many_viewers" : NULL, NULL,
			      w ? "There are %d viewers already; '/v1/freehold/status' says the same once."
				: "This server keeps no numbers.",
			      MAX_VIEWERS);
		fh_conn_respond_error(c, &c->err, w ? "Retry-After: 10\r\n" : NULL);
		return;
	}
	if (c->head_only) {
		fh_viewer_close(c);
		fh_conn_respond(c, 200, "text/event-stream; charset=utf-8", "Cache-Control: no-cache\r\n", "", 0);
		return;
	}
	v->next = w->viewers;
	if (v->next)
		v->next->pprev = &v->next;
	v->pprev = &w->viewers;
	w->viewers = v;
	w->nr_viewers++;
	fh_conn_stream_begin(c);
	/* Whoever comes between two ticks need not wait for the next one. */
	if (!is_fresh(w))
		take_sample(w);
	fh_conn_piece(c);
	fh_buf_lit(&c->out, "retry: 2000\ndata: ");
	put_object(w, c, &c->out);
	fh_buf_lit(&c->out, "\n\n");
	if (!w->ticking) {
		w->ticking = true;
		fh_io_timer_set(c->h->io, &w->timer, fh_io_now_ns(c->h->io) + period_ns(w));
	}
}

void fh_viewers_end(struct fh_http *h)
{
	while (h->watch && h->watch->viewers)
		end_stream(h->watch->viewers->c);
}

void fh_watch_metrics(const struct fh_http *h, FILE *out)
{
	const struct fh_http_watch *w = h->watch;

	if (!w)
		return;
	fprintf(out,
		"# HELP freehold_http_viewers Dashboards that are open.\n# TYPE freehold_http_viewers gauge\n"
		"freehold_http_viewers %u\n",
		w->nr_viewers);
	fprintf(out,
		"# HELP freehold_http_viewer_events_total Events sent to them.\n"
		"# TYPE freehold_http_viewer_events_total counter\nfreehold_http_viewer_events_total %llu\n",
		(unsigned long long)w->nr_events);
	fprintf(out,
		"# HELP freehold_http_viewers_dropped_total Dashboards that did not read and were hung up on.\n"
		"# TYPE freehold_http_viewers_dropped_total counter\nfreehold_http_viewers_dropped_total %llu\n",
		(unsigned long long)w->nr_dropped);
}
