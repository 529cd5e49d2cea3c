// SPDX-License-Identifier: Apache-2.0
/*
 * Connections over TLS.
 *
 * A handshake costs the signature of a private key, so it is done on a thread of
 * its own: while that thread has the
 * session (in_helper) the I/O thread keeps what arrives in conn->in and touches
 * nothing else of it.  After the handshake the session is the I/O thread's: what
 * arrives is opened where it was received, what is sent is sealed into the buffer
 * that goes to the kernel.
 *
 * Who begins a handshake has tls_timeout_ms for all of it, however slowly bytes
 * drip, and HELLO_BYTES.  A connection that ends while the helper has its session
 * leaves it behind (conn == NULL); it is freed when it comes back.
 *
 * Where the kernel can, it seals: the key goes into the socket when the handshake
 * is over and before the first byte of an answer, and from then on `out` is sent as
 * it is.  Such a socket has a price at its end: the kernel reports a record as sent
 * that waits for room in TCP's queue, and forgets it when the socket is shut down or
 * closed.  So we wait until TCP's queue was seen empty at two looks, between which the
 * kernel's worker has put into it what it held.
 *
 * A key seals so many records and no more (FH_TLS_MAX_RECORDS).  OpenSSL takes another one in mid-connection.  What the
 * kernel seals ends with the answer to the first request after that, which says so (Connection: close).
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "runtime/base/thread.h"
#include "runtime/net/http_priv.h"

#define HELLO_BYTES 131072u /* that a client may send in its handshake, certificates included */
#define PLAIN_BYTES 16384u  /* of one record */
#define LOOK_MS 20	    /* between two looks at TCP's queue; the kernel's worker runs at once */
#define EMPTY_LOOKS 2

struct fh_conn_tls {
	struct fh_tls t;
	struct fh_conn *conn; /* NULL: it is gone; only the I/O thread looks at it */
	struct fh_conn_tls *next_job;
	struct fh_buf in; /* ciphertext for the handshake */
	size_t in_used;
	size_t nr_hello; /* bytes that its steps have used up, but for the last one */
	int result;	 /* of the last step */
	bool in_helper;
	/* While the kernel seals. */
	struct fh_tls_record record; /* an alert that is being sent */
	uint64_t acked, acked_ns;    /* closing: what the peer had at the last look that showed progress, and when */
	uint32_t nr_empty;	     /* looks in a row that found TCP's queue empty */
};

struct fh_http_tls {
	struct fh_http *h;
	struct fh_tls_lib *lib;
	struct fh_tls_files files;
	char sealer[160]; /* see fh_http_sealer() */
	char paths[3][512];
	struct ssl_ctx_st *ctx; /* the I/O thread's */
	_Atomic(struct ssl_ctx_st *) new_ctx;
	pthread_t thread;
	bool started;
	pthread_mutex_t lock;
	pthread_cond_t more;
	bool stop;
	struct fh_conn_tls *todo, **todo_tail, *done, **done_tail;
	_Atomic uint32_t nr_done;
	char plain[PLAIN_BYTES];
};

static void session_free(struct fh_conn_tls *s)
{
	fh_tls_free(&s->t);
	fh_buf_free(&s->in);
	free(s);
}

/* ---- the helper ---- */

static void *helper_main(void *arg)
{
	struct fh_http_tls *p = arg;
	struct fh_conn_tls *s;

	pthread_mutex_lock(&p->lock);
	while (!p->stop) {
		s = p->todo;
		if (!s) {
			pthread_cond_wait(&p->more, &p->lock);
			continue;
		}
		p->todo = s->next_job;
		if (!p->todo)
			p->todo_tail = &p->todo;
		pthread_mutex_unlock(&p->lock);
		s->t.src = s->in.data + s->in_used;
		s->t.nr_src = s->in.len - s->in_used;
		s->result = fh_tls_handshake(&s->t);
		s->in_used = s->in.len - s->t.nr_src;
		pthread_mutex_lock(&p->lock);
		s->next_job = NULL;
		*p->done_tail = s;
		p->done_tail = &s->next_job;
		atomic_fetch_add_explicit(&p->nr_done, 1, memory_order_release);
		fh_io_wake(p->h->io);
	}
	pthread_mutex_unlock(&p->lock);
	return NULL;
}

static void submit(struct fh_http_tls *p, struct fh_conn_tls *s)
{
	s->in_helper = true;
	s->next_job = NULL;
	pthread_mutex_lock(&p->lock);
	*p->todo_tail = s;
	p->todo_tail = &s->next_job;
	pthread_cond_signal(&p->more);
	pthread_mutex_unlock(&p->lock);
}

static struct fh_conn_tls *next_done(struct fh_http_tls *p)
{
	struct fh_conn_tls *s;

	if (!atomic_load_explicit(&p->nr_done, memory_order_acquire))
		return NULL;
	pthread_mutex_lock(&p->lock);
	s = p->done;
	p->done = s->next_job;
	if (!p->done)
		p->done_tail = &p->done;
	atomic_fetch_sub_explicit(&p->nr_done, 1, memory_order_relaxed);
	pthread_mutex_unlock(&p->lock);
	return s;
}

int fh_http_tls_start(struct fh_http *h, struct fh_err *err)
{
	struct fh_http_tls *p = h->tls;
	int rc;

	if (!p)
		return 0;
	rc = fh_thread_start(&p->thread, "fh-tls", helper_main, p);
	if (rc)
		return fh_errf(err, rc, "cannot start the thread for TLS handshakes: %s", strerror(-rc));
	p->started = true;
	return 0;
}

static void free_list(struct fh_conn_tls *s)
{
	struct fh_conn_tls *next;

	for (; s; s = next) {
		next = s->next_job;
		s->in_helper = false;
		/* Otherwise its connection will free it. */
		if (!s->conn)
			session_free(s);
	}
}

void fh_http_tls_stop(struct fh_http *h)
{
	struct fh_http_tls *p = h->tls;

	if (!p || !p->started)
		return;
	pthread_mutex_lock(&p->lock);
	p->stop = true;
	pthread_cond_signal(&p->more);
	pthread_mutex_unlock(&p->lock);
	pthread_join(p->thread, NULL);
	p->started = false;
	free_list(p->todo);
	free_list(p->done);
}

/* ---- certificates ---- */

static int keep_path(char to[512], const char *path, const char **out, struct fh_err *err)
{
	if (path && strlen(path) >= 512)
		return fh_errf(err, -ENAMETOOLONG, "TLS: the path of a file is too long");
	if (path)
		strcpy(to, path);
	*out = path ? to : NULL;
	return 0;
}

static int choose_sealer(struct fh_http_tls *p, struct fh_err *err)
{
	enum fh_http_offload how = p->h->cfg.tls_offload;
	struct fh_err why = {.msg = "as configured"};
	int rc = how == FH_HTTP_OFFLOAD_OFF ? -ECANCELED : fh_tls_kernel_probe(&why);

	p->files.offload = !rc;
	snprintf(p->sealer, sizeof(p->sealer), rc ? "OpenSSL (%.120s)" : "the kernel", why.msg);
	if (rc && how == FH_HTTP_OFFLOAD_ON)
		return fh_errf(err, rc, "TLS: the kernel is to seal what is sent (tls-offload = on), and cannot: %s",
			       why.msg);
	return 0;
}

const char *fh_http_sealer(const struct fh_http *h)
{
	return h->tls ? h->tls->sealer : NULL;
}

bool fh_http_tls_with_fds(const struct fh_http *h)
{
	return h->tls && h->tls->files.offload;
}

int fh_http_tls_create(struct fh_http *h, struct fh_err *err)
{
	const struct fh_http_config *c = &h->cfg;
	struct fh_http_tls *p;
	int rc;

	if (!c->tls_cert || !c->tls_key)
		return fh_errf(err, -EINVAL, "to listen with TLS a certificate and its key are needed");
	p = calloc(1, sizeof(*p));
	if (!p)
		return fh_errf(err, -ENOMEM, "TLS: no memory");
	p->h = h;
	p->todo_tail = &p->todo;
	p->done_tail = &p->done;
	p->files.required = c->tls_require;
	pthread_mutex_init(&p->lock, NULL);
	pthread_cond_init(&p->more, NULL);
	h->tls = p;
	rc = keep_path(p->paths[0], c->tls_cert, &p->files.cert, err);
	rc = rc ? rc : keep_path(p->paths[1], c->tls_key, &p->files.key, err);
	rc = rc ? rc : keep_path(p->paths[2], c->tls_ca, &p->files.ca, err);
	rc = rc ? rc : fh_tls_lib_open(&p->lib, err);
	rc = rc ? rc : choose_sealer(p, err);
	return rc ? rc : fh_tls_ctx_load(p->lib, &p->files, &p->ctx, err);
}

void fh_http_tls_destroy(struct fh_http *h)
{
	struct fh_http_tls *p = h->tls;

	if (!p)
		return;
	if (p->lib) {
		fh_tls_ctx_free(p->lib, p->ctx);
		fh_tls_ctx_free(p->lib, atomic_load(&p->new_ctx));
	}
	fh_tls_lib_close(p->lib);
	pthread_cond_destroy(&p->more);
	pthread_mutex_destroy(&p->lock);
	free(p);
	h->tls = NULL;
}

int fh_http_reload_tls(struct fh_http *h, struct fh_err *err)
{
	struct fh_http_tls *p = h->tls;
	struct ssl_ctx_st *ctx;
	int rc;

	if (!p)
		return fh_errf(err, -ENOENT, "the server was started without TLS");
	rc = fh_tls_ctx_load(p->lib, &p->files, &ctx, err);
	if (rc)
		return rc;
	fh_tls_ctx_free(p->lib, atomic_exchange(&p->new_ctx, ctx));
	return 0;
}

/* ---- connections, on the I/O thread ---- */

int fh_conn_tls_open(struct fh_conn *c)
{
	struct fh_http_tls *p = c->h->tls;
	struct fh_conn_tls *s;
	int rc;

	if (atomic_load_explicit(&p->new_ctx, memory_order_relaxed)) {
		fh_tls_ctx_free(p->lib, p->ctx);
		p->ctx = atomic_exchange(&p->new_ctx, NULL);
	}
	s = calloc(1, sizeof(*s));
	if (!s)
		return -ENOMEM;
	rc = fh_tls_init(&s->t, p->lib, p->ctx);
	if (rc) {
		free(s);
		return rc;
	}
	if (c->h->cfg.tls_max_records)
		s->t.max_records = c->h->cfg.tls_max_records;
	s->conn = c;
	c->tls = s;
	c->state = FH_CONN_HELLO;
	return 0;
}

void fh_conn_tls_close(struct fh_conn *c)
{
	struct fh_conn_tls *s = c->tls;

	c->tls = NULL;
	if (!s)
		return;
	s->conn = NULL;
	if (!s->in_helper)
		session_free(s);
}

const struct fh_guard_cert *fh_conn_cert(const struct fh_conn *c)
{
	return c->tls && c->tls->t.has_cert ? &c->tls->t.cert : NULL;
}

bool fh_conn_tls_pending(const struct fh_conn *c)
{
	return c->tls && !c->tls->in_helper && (c->tls->t.wire.len || c->tls->t.alert[0]);
}

bool fh_conn_tls_offloaded(const struct fh_conn *c)
{
	return c->tls && !c->tls->in_helper && c->tls->t.offloaded;
}

bool fh_conn_tls_worn(const struct fh_conn *c)
{
	return c->tls && !c->tls->in_helper && fh_tls_worn(&c->tls->t);
}

/* How many bytes of payload were copied on the way through OpenSSL. */
static void count_copies(struct fh_conn *c)
{
	c->h->c.copied_bytes += c->tls->t.nr_copied;
	c->tls->t.nr_copied = 0;
}

/* Nothing is being sent, and OpenSSL has written nothing since the handshake. */
static void hand_over(struct fh_conn *c)
{
	if (fh_tls_offload(&c->tls->t, fh_io_fd(&c->sock)))
		c->h->c.tls_offloaded++;
	else
		c->h->c.tls_not_offloaded++;
}

bool fh_conn_tls_seal(struct fh_conn *c)
{
	struct fh_conn_tls *s = c->tls;
	struct fh_buf sealed;

	if (s->in_helper)
		return true;
	if (s->t.tx.suite && c->state != FH_CONN_HELLO)
		hand_over(c);
	if (s->t.offloaded) {
		if (c->out.len && !fh_tls_kernel_sends(&s->t, c->out.len))
			return false;
		if (c->out.len)
			fh_conn_swap(c);
		else if (c->close_after)
			fh_tls_shutdown(&s->t);
		return true;
	}
	if (c->out.len && fh_tls_write(&s->t, c->out.data, c->out.len))
		return false;
	if (c->close_after && c->state != FH_CONN_HELLO)
		fh_tls_shutdown(&s->t);
	count_copies(c);
	c->h->c.tls_key_updates += s->t.nr_updates;
	s->t.nr_updates = 0;
	fh_buf_reset(&c->out, FH_KEEP_BYTES);
	if (s->t.wire.failed)
		return false;
	sealed = s->t.wire;
	s->t.wire = c->flight;
	c->flight = sealed;
	return true;
}

bool fh_conn_tls_alert(struct fh_conn *c)
{
	struct fh_conn_tls *s = c->tls;

	if (!s || s->in_helper || !s->t.offloaded || !s->t.alert[0])
		return false;
	fh_tls_record_alert(&s->record, s->t.alert[0], s->t.alert[1]);
	s->t.alert[0] = 0;
	/* Whatever it says, nothing follows. */
	s->t.closed = true;
	fh_io_sendmsg(&c->sock, &s->record.msg, sizeof(s->record.data));
	return true;
}

bool fh_conn_tls_draining(struct fh_conn *c)
{
	struct fh_conn_tls *s = c->tls;
	uint64_t acked = 0, now = fh_io_now_ns(c->h->io);
	bool empty;

	if (!fh_conn_tls_offloaded(c) || s->nr_empty >= EMPTY_LOOKS)
		return false;
	empty = fh_tls_kernel_drained(fh_io_fd(&c->sock), &acked);
	if (!s->acked_ns || acked != s->acked) {
		s->acked = acked;
		s->acked_ns = now;
	}
	s->nr_empty = empty ? s->nr_empty + 1 : 0;
	if (s->nr_empty >= EMPTY_LOOKS)
		return false;
	if (now - s->acked_ns >= c->h->cfg.write_timeout_ms * 1000000ull) {
		c->h->c.timeouts++;
		fh_conn_abort(c);
		return true;
	}
	fh_io_recv_start(&c->sock);
	fh_conn_arm(c, LOOK_MS);
	return true;
}

/*
 * The peer asked for new keys, and Linux takes no second one before 6.14: nothing
 * that is true can be sent any more but an alert.
 */
static void refuse_rekey(struct fh_conn *c)
{
	c->h->c.tls_rekeys_refused++;
	fh_tls_alert(&c->tls->t);
	fh_conn_break(c);
}

/* Open what was received, as far as the connection goes along. */
static void open_records(struct fh_conn *c, const char *data, size_t n)
{
	struct fh_conn_tls *s = c->tls;
	char *plain = c->h->tls->plain;
	ssize_t m = 0;

	s->t.src = data;
	s->t.nr_src = n;
	while (c->state != FH_CONN_DEAD && c->state != FH_CONN_LINGER &&
	       (m = fh_tls_read(&s->t, plain, PLAIN_BYTES)) > 0 && !s->t.rekey)
		fh_conn_input(c, plain, (size_t)m);
	count_copies(c);
	s->t.src = NULL;
	s->t.nr_src = 0;
	if (c->state == FH_CONN_DEAD || c->state == FH_CONN_LINGER)
		return;
	if (s->t.rekey)
		refuse_rekey(c);
	else if (m == -EPROTO && fh_conn_tls_pending(c))
		fh_conn_break(c);
	else if (m < 0)
		fh_conn_eof(c, m == -EPIPE ? 0 : m);
	else if (s->t.wire.len)
		fh_conn_flush(c); /* the answer to a key update */
}

static void say_hello(struct fh_conn *c)
{
	struct fh_conn_tls *s = c->tls;

	if (s->in_helper || !c->in.len)
		return;
	/* Not what is behind the handshake: a first request is sent with its last flight. */
	s->nr_hello += s->in_used;
	if (s->nr_hello > HELLO_BYTES) {
		c->h->c.tls_failed++;
		fh_conn_abort(c);
		return;
	}
	if (c->in.len > HELLO_BYTES / 2)
		fh_io_recv_start(&c->sock);
	if (s->in_used) {
		memmove(s->in.data, s->in.data + s->in_used, s->in.len - s->in_used);
		s->in.len -= s->in_used;
		s->in_used = 0;
	}
	fh_buf_put(&s->in, c->in.data, c->in.len);
	fh_buf_reset(&c->in, 0);
	if (s->in.failed)
		fh_conn_abort(c);
	else
		submit(c->h->tls, s);
}

void fh_conn_tls_recv(struct fh_conn *c, const char *data, size_t n)
{
	if (c->state != FH_CONN_HELLO) {
		open_records(c, data, n);
		return;
	}
	fh_buf_put(&c->in, data, n);
	if (c->in.failed) {
		fh_conn_abort(c);
		return;
	}
	/* The first request may be long, and come before the helper has looked at what is before it. */
	if (c->in.len > HELLO_BYTES / 2)
		fh_io_recv_stop(&c->sock);
	say_hello(c);
}

static void established(struct fh_conn *c)
{
	struct fh_conn_tls *s = c->tls;
	struct fh_buf early = c->in;

	c->h->c.tls_handshakes++;
	s->t.nr_copied = 0;
	c->state = FH_CONN_HEAD;
	c->in = (struct fh_buf){0};
	fh_conn_arm(c, c->h->cfg.idle_timeout_ms);
	fh_io_recv_start(&c->sock);
	/* The first request may have come with the last flight, or while that was looked at. */
	fh_buf_put(&s->in, early.data, early.len);
	fh_buf_free(&early);
	if (s->in.failed) {
		fh_conn_abort(c);
		return;
	}
	if (s->in.len > s->in_used)
		open_records(c, s->in.data + s->in_used, s->in.len - s->in_used);
	fh_buf_free(&s->in);
	s->in_used = 0;
}

void fh_http_tls_results(struct fh_http *h)
{
	struct fh_conn_tls *s;

	while (h->tls && (s = next_done(h->tls))) {
		struct fh_conn *c = s->conn;

		s->in_helper = false;
		if (!c) {
			session_free(s);
			continue;
		}
		if (c->state != FH_CONN_HELLO)
			continue;
		fh_conn_flush(c);
		if (s->result < 0) {
			/* The alert, if there is one, is sent first. */
			h->c.tls_failed++;
			c->close_after = true;
			c->linger = true;
			c->state = FH_CONN_LINGER;
		} else if (s->result) {
			established(c);
		} else {
			say_hello(c);
		}
	}
}
