// SPDX-License-Identifier: Apache-2.0
/*
 * The HTTP front end: its life, and the I/O thread's loop.
 *
 * A turn of the loop: poll sockets, take what the engine and the helper have
 * finished, flush every connection once.  Before it sleeps the thread says so
 * (fe.sleeping) and looks at its queue once more, as request.h asks, so that
 * the engine pays for a wake-up only when there is somebody to wake.
 */
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <unistd.h>

#include "runtime/base/log.h"
#include "runtime/base/thread.h"
#include "runtime/net/http_priv.h"

#define SPARE_FILES 64	      /* of the loop's table, beyond max_connections */
#define WAITING_NS 50000000u  /* calls that wait for room in the engine's queue look again after this */
#define GIVE_UP_NS 5000000000 /* after cancelling: how long the engine may take to give requests back */

#define container_of(ptr, type, member) ((type *)((char *)(ptr)-offsetof(type, member)))

static void wake(struct fh_frontend *fe)
{
	fh_io_wake(container_of(fe, struct fh_http, fe)->io);
}

/* The loop */

static void take_new_keys(struct fh_http *h)
{
	struct fh_auth *a;

	fh_http_take_guard(h);
	if (!atomic_load_explicit(&h->new_auth, memory_order_relaxed))
		return;
	a = atomic_exchange(&h->new_auth, NULL);
	fh_auth_free(h->auth);
	h->auth = a;
}

static void begin_drain(struct fh_http *h)
{
	struct fh_conn *c, *next;

	h->draining = true;
	fh_viewers_end(h);
	for (uint32_t i = 0; i < h->nr_listen; i++)
		fh_io_accept_stop(&h->listeners[i].l);
	for (c = h->conns; c; c = next) {
		next = c->next;
		/* Between requests, with nothing to send: go. The others are closed when they are done. */
		if (c->state == FH_CONN_HEAD && fh_conn_tls_offloaded(c))
			fh_conn_finish(c);
		else if (c->state == FH_CONN_HELLO ||
			 (c->state == FH_CONN_HEAD && !c->out.len && !fh_io_sending(&c->sock)))
			fh_conn_abort(c);
		else
			c->keep_alive = false;
	}
}

static void abort_all(struct fh_http *h)
{
	struct fh_conn *c, *next;

	for (c = h->conns; c; c = next) {
		next = c->next;
		fh_conn_abort(c);
	}
}

/* False when the loop is to end. */
static bool keep_going(struct fh_http *h, uint64_t *timeout_ns)
{
	uint64_t now, stop_ns;

	if (!atomic_load_explicit(&h->stop, memory_order_acquire))
		return true;
	if (!h->draining)
		begin_drain(h);
	if (!h->nr_conns && !h->nr_calls)
		return false;
	now = fh_now_ns();
	stop_ns = atomic_load_explicit(&h->stop_ns, memory_order_relaxed);
	if (now >= stop_ns) {
		abort_all(h);
		if (now >= stop_ns + GIVE_UP_NS)
			return false;
		stop_ns = now + 10000000;
	}
	*timeout_ns = *timeout_ns < stop_ns - now ? *timeout_ns : stop_ns - now;
	return true;
}

/* Work that came from other threads. */
static void take_results(struct fh_http *h)
{
	struct fh_call *call;

	/* First: whoever hands over keys and then a result means the result to be seen with the keys. */
	take_new_keys(h);
	fh_http_tls_results(h);
	fh_calls_drain_ready(h);
	fh_errands_take(h);
	while ((call = fh_helper_next(h)))
		fh_call_parsed(call);
}

static int turn(struct fh_http *h, uint64_t timeout_ns)
{
	int rc;

	if (h->waiting_head && timeout_ns > WAITING_NS)
		timeout_ns = WAITING_NS;
	atomic_store(&h->fe.sleeping, 1);
	if (fh_spsc_count(&h->fe.ready))
		timeout_ns = 0;
	rc = fh_io_poll(h->io, timeout_ns);
	atomic_store_explicit(&h->fe.sleeping, 0, memory_order_relaxed);
	return rc;
}

/* What only the thread that polls may do. Its outcome is what fh_http_start() returns. */
static int open_loop(struct fh_http *h)
{
	int rc = fh_io_start(h->io, &h->start_err);

	for (uint32_t i = 0; i < h->nr_listen && !rc; i++) {
		rc = fh_io_listen(h->io, &h->listeners[i].l, h->listeners[i].fd);
		if (rc)
			fh_errf(&h->start_err, rc, "%s: cannot accept: %s", h->listeners[i].url, strerror(-rc));
	}
	return rc;
}

static void *io_main(void *arg)
{
	struct fh_http *h = arg;
	uint64_t timeout_ns;
	int rc = open_loop(h);

	h->start_rc = rc;
	sem_post(&h->opened);
	if (rc)
		return NULL;
	for (timeout_ns = UINT64_MAX; !rc && keep_going(h, &timeout_ns); timeout_ns = UINT64_MAX) {
		take_new_keys(h);
		fh_http_recheck(h, &timeout_ns);
		/* keep_going() may have closed connections, whose calls may be over. */
		fh_flush_all(h);
		rc = turn(h, timeout_ns);
		take_results(h);
		fh_audit_release(h);
		fh_flush_all(h);
	}
	if (rc)
		fh_error("the HTTP front end's event loop failed: %s", strerror(-rc));
	return NULL;
}

/* Life */

static void set_defaults(struct fh_http_config *c)
{
	c->max_connections = c->max_connections ? c->max_connections : 4096;
	c->max_requests = c->max_requests ? c->max_requests : 2048;
	c->max_body_bytes = c->max_body_bytes ? c->max_body_bytes : 16u << 20;
	c->header_timeout_ms = c->header_timeout_ms ? c->header_timeout_ms : 10000;
	c->body_timeout_ms = c->body_timeout_ms ? c->body_timeout_ms : 60000;
	c->tls_timeout_ms = c->tls_timeout_ms ? c->tls_timeout_ms : 10000;
	c->idle_timeout_ms = c->idle_timeout_ms ? c->idle_timeout_ms : 120000;
	c->write_timeout_ms = c->write_timeout_ms ? c->write_timeout_ms : 60000;
	c->watch_period_ms = c->watch_period_ms ? c->watch_period_ms : 1000;
	c->version = c->version ? c->version : "unknown";
}

static int load_keys(struct fh_http *h, struct fh_err *err)
{
	if (!h->cfg.api_key_file)
		return 0;
	if (strlen(h->cfg.api_key_file) >= sizeof(h->key_file))
		return fh_errf(err, -ENAMETOOLONG, "the path of the API key file is too long");
	strcpy(h->key_file, h->cfg.api_key_file);
	return fh_auth_load(h->key_file, &h->auth, err);
}

static int open_listeners(struct fh_http *h, struct fh_err *err)
{
	int rc;

	if (!h->cfg.nr_listen || h->cfg.nr_listen > FH_HTTP_MAX_LISTEN)
		return fh_errf(err, -EINVAL, "%u addresses to listen on; 1 to %d are possible", h->cfg.nr_listen,
			       FH_HTTP_MAX_LISTEN);
	for (uint32_t i = 0; i < h->cfg.nr_listen; i++) {
		h->listeners[i].fd = -1;
		h->listeners[i].tls = h->cfg.listen_tls[i];
		if (h->listeners[i].tls && !h->tls) {
			rc = fh_http_tls_create(h, err);
			if (rc)
				return rc;
		}
		h->listeners[i].l.with_fds = h->listeners[i].tls && fh_http_tls_with_fds(h);
		rc = fh_listen_open(h, h->cfg.listen[i], &h->listeners[i], err);
		if (rc)
			return rc;
		h->nr_listen++;
	}
	return 0;
}

static int seed_random(struct fh_http *h, struct fh_err *err)
{
	if (getrandom(&h->id_nonce, sizeof(h->id_nonce), 0) != (ssize_t)sizeof(h->id_nonce) ||
	    fh_random_seed(&h->random))
		return fh_errf(err, -EIO, "getrandom: %s", strerror(errno));
	return 0;
}

int fh_http_create(const struct fh_http_config *cfg, const struct fh_service *svc, struct fh_http **out,
		   struct fh_err *err)
{
	struct fh_io_config ioc = {.force_epoll = cfg->force_epoll};
	struct fh_http *h = aligned_alloc(_Alignof(struct fh_http), sizeof(*h));
	int rc;

	if (!h)
		return fh_errf(err, -ENOMEM, "no memory for the HTTP front end");
	memset(h, 0, sizeof(*h));
	h->cfg = *cfg;
	set_defaults(&h->cfg);
	h->guard = cfg->guard ? fh_guard_get(cfg->guard) : NULL;
	h->svc = svc;
	h->fe.name = "http";
	h->fe.wake = wake;
	h->accepting = true;
	sem_init(&h->opened, 0, 0);
	h->flush_tail = &h->flush_head;
	h->waiting_tail = &h->waiting_head;
	ioc.max_socks = h->cfg.max_connections + SPARE_FILES;
	rc = fh_http_read_public(h, err);
	if (!rc)
		rc = fh_page_open(&h->page, err);
	if (!rc)
		rc = fh_http_watch_create(h, err);
	if (!rc)
		rc = seed_random(h, err);
	if (!rc)
		rc = load_keys(h, err);
	if (!rc)
		rc = fh_io_create(&ioc, &h->io, err);
	if (!rc)
		rc = open_listeners(h, err);
	if (rc) {
		fh_http_destroy(h);
		return rc;
	}
	*out = h;
	return 0;
}

struct fh_frontend *fh_http_frontend(struct fh_http *h)
{
	return &h->fe;
}

int fh_http_start(struct fh_http *h, struct fh_err *err)
{
	int rc = fh_helper_create(h, err);

	if (rc)
		return rc;
	rc = fh_http_tls_start(h, err);
	if (rc)
		goto err_helper;
	rc = fh_thread_start(&h->thread, "fh-http", io_main, h);
	if (rc) {
		fh_errf(err, rc, "cannot start the I/O thread: %s", strerror(-rc));
		goto err_tls;
	}
	while (sem_wait(&h->opened))
		;
	rc = h->start_rc;
	if (rc) {
		pthread_join(h->thread, NULL);
		fh_errf(err, rc, "%s", h->start_err.msg);
		goto err_tls;
	}
	h->started = true;
	return 0;

err_tls:
	fh_http_tls_stop(h);
err_helper:
	fh_helper_destroy(h);
	return rc;
}

const char *fh_http_url(const struct fh_http *h, uint32_t i)
{
	return i < h->nr_listen ? h->listeners[i].url : NULL;
}

uint64_t fh_http_id_nonce(const struct fh_http *h)
{
	return h->id_nonce;
}

const char *fh_http_backend(const struct fh_http *h)
{
	return fh_io_backend(h->io);
}

int fh_http_reload_keys(struct fh_http *h, struct fh_err *err)
{
	struct fh_auth *a;
	int rc;

	if (!h->key_file[0])
		return fh_errf(err, -ENOENT, "the server was started without an API key file");
	rc = fh_auth_load(h->key_file, &a, err);
	if (rc)
		return rc;
	fh_auth_free(atomic_exchange(&h->new_auth, a));
	fh_io_wake(h->io);
	return 0;
}

void fh_http_stop(struct fh_http *h, uint32_t drain_ms)
{
	if (!h->started)
		return;
	atomic_store_explicit(&h->stop_ns, fh_now_ns() + drain_ms * 1000000ull, memory_order_relaxed);
	atomic_store_explicit(&h->stop, 1, memory_order_release);
	fh_io_wake(h->io);
	pthread_join(h->thread, NULL);
	h->started = false;
	fh_http_tls_stop(h);
	fh_helper_destroy(h);
	for (uint32_t i = 0; i < h->nr_listen; i++)
		fh_listen_close(&h->listeners[i]);
}

void fh_http_destroy(struct fh_http *h)
{
	if (!h)
		return;
	fh_http_stop(h, 0);
	if (h->io)
		fh_io_destroy(h->io);
	for (uint32_t i = 0; i < h->nr_listen; i++)
		fh_listen_close(&h->listeners[i]);
	fh_conn_free_all(h);
	fh_seqs_free_all(h);
	fh_http_watch_destroy(h);
	fh_errands_free(h);
	fh_buf_free(&h->audit_body);
	fh_http_tls_destroy(h);
	fh_guard_put(h->guard);
	fh_guard_put(atomic_load(&h->new_guard));
	fh_auth_free(h->auth);
	fh_auth_free(atomic_load(&h->new_auth));
	sem_destroy(&h->opened);
	free(h);
}
