// SPDX-License-Identifier: Apache-2.0
/*
 * Requests over HTTP: the wire that is connections; see run_priv.h.
 *
 * Connections are kept alive and used again, the last one first, so that idle
 * ones do not hold a server's worker threads; where none is idle one is opened.
 * A connection's memory stays until the run is over.
 *
 * Over TLS the same thread shakes hands, seals and opens.  A request on a new
 * connection is sealed when the handshake is over, and has left when the send that
 * holds it is done: the handshake is part of its delay, as the opening of the
 * connection is.
 */
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "runtime/base/clock.h"
#include "runtime/net/tls.h"
#include "runtime/net/tls_client.h"
#include "tools/load/answer.h"
#include "tools/load/run_priv.h"

struct conn {
	struct load_flight f; /* the request under way */
	struct fh_io_sock sock;
	struct load_answer answer;
	struct fh_buf req;
	struct fh_tls tls;    /* its ssl is NULL: plain */
	struct fh_buf flight; /* ciphertext that is being sent */
	bool shaking;	      /* the handshake is not over */
	bool sealed, leaving; /* the request is in tls.wire, in the flight */
	bool opening, used, again;
	bool parked; /* answered before the loop reported that the request had left */
	uint64_t flushed_ns, turn;
	struct conn *next; /* in memory that waits to be used again */
};

struct conns {
	struct conn **all, **idle; /* [cap], both */
	struct conn *spare;
	uint32_t nr_all, nr_idle, cap;
};

static struct conns *conns_of(const struct load_run *r)
{
	return r->wire_own;
}

static struct conn *conn_of(struct fh_io_sock *s)
{
	return (struct conn *)((char *)s - offsetof(struct conn, sock));
}

static bool is_idle(const struct conn *c)
{
	return c->f.nr == LOAD_NONE;
}

/* ---- a request's end ---- */

static void conn_finish(struct conn *c, enum load_outcome outcome, uint64_t now)
{
	struct load_result *res = &c->f.run->out->res[c->f.nr];

	if (!res->sent_ns && c->answer.begin_ns)
		res->sent_ns = load_run_since(c->f.run, c->flushed_ns);
	load_run_finish(&c->f, outcome, c->answer.status, now);
}

static void fail(struct conn *c, enum load_outcome outcome, const char *what)
{
	load_run_failure(c->f.run, what);
	if (!is_idle(c))
		conn_finish(c, outcome, fh_now_ns());
	fh_io_close(&c->sock);
}

static void take_figures(struct conn *c, struct load_result *res)
{
	const struct load_answer *a = &c->answer;
	struct load_run *r = c->f.run;

	res->first_ns = load_run_since(r, a->first_ns ? a->first_ns : a->choice_ns);
	res->last_ns = load_run_since(r, a->last_choice_ns);
	res->nr_events = a->nr_events;
	res->counted = a->completion_tokens != 0;
	res->nr_out = res->counted ? (uint32_t)a->completion_tokens : a->nr_events;
	res->nr_cached = (uint32_t)a->cached_tokens;
	if (a->prompt_tokens)
		res->nr_in = (uint32_t)a->prompt_tokens;
}

/* The answer on @c is complete: which outcome is it? */
static void on_answer(struct conn *c, uint64_t now)
{
	struct load_answer *a = &c->answer;
	struct load_run *r = c->f.run;
	enum load_outcome outcome = LOAD_OK;
	char what[256];

	take_figures(c, &r->out->res[c->f.nr]);
	if (a->status == 429)
		outcome = LOAD_REFUSED;
	else if (a->status == 503)
		outcome = LOAD_UNAVAILABLE;
	else if (a->status != 200)
		outcome = LOAD_HTTP_ERROR;
	else if (a->failed)
		outcome = LOAD_STREAM_ERROR;
	else if (!a->choice_ns)
		outcome = LOAD_EMPTY;
	else if (a->streamed && !a->finished)
		outcome = LOAD_BROKEN; /* it ended with the connection, and not by itself */
	if (outcome != LOAD_OK) {
		snprintf(what, sizeof(what), "status %d%s: %s", a->status, a->failed ? ", then an error" : "",
			 a->error[0]		  ? a->error
			 : outcome == LOAD_BROKEN ? "the stream ended without [DONE] and without a finish_reason"
						  : "no token");
		load_run_failure(r, what);
	}
	conn_finish(c, outcome, now);
	c->used = true;
	if (a->closes)
		fh_io_close(&c->sock);
	else if (fh_io_sending(&c->sock))
		c->parked = true;
	else
		conns_of(r)->idle[conns_of(r)->nr_idle++] = c;
}

static void on_text(struct load_answer *a, uint64_t now)
{
	load_run_text(&((struct conn *)((char *)a - offsetof(struct conn, answer)))->f, now);
}

/* ---- connections ---- */

static bool conn_open(struct conn *c);
static void conn_send(struct conn *c);

static void forget_idle(struct load_run *r, struct conn *c)
{
	struct conns *s = conns_of(r);

	for (uint32_t i = s->nr_idle; i--;) {
		if (s->idle[i] != c)
			continue;
		memmove(&s->idle[i], &s->idle[i + 1], (s->nr_idle - i - 1) * sizeof(struct conn *));
		s->nr_idle--;
		return;
	}
}

/* The connection is gone, by the peer's will. */
static void on_lost(struct conn *c, ssize_t n, uint64_t now)
{
	struct load_run *r = c->f.run;
	char what[160];

	if (is_idle(c)) {
		forget_idle(r, c);
		fh_io_close(&c->sock);
		return;
	}
	if (n == 0 && load_answer_eof(&c->answer, now)) {
		c->answer.closes = true;
		on_answer(c, now);
		return;
	}
	if (c->answer.error[0]) {
		fail(c, LOAD_MALFORMED, c->answer.error);
		return;
	}
	/* It had carried an answer and was closed between two: ask again on a new one (RFC 9112, 9.3.1). */
	if (c->used && !c->answer.begin_ns) {
		c->again = true;
		r->out->fig.self.nr_retried++;
		fh_io_close(&c->sock);
		return;
	}
	snprintf(what, sizeof(what), "%s: %s",
		 c->opening	      ? "no connection"
		 : c->answer.begin_ns ? "the connection was lost"
				      : "no answer",
		 n ? strerror((int)-n) : "closed by the server");
	fail(c, c->opening ? LOAD_CONNECT : LOAD_BROKEN, what);
}

/* Some bytes of an answer. False: the connection is being closed. */
static bool take(struct conn *c, const char *data, size_t n, uint64_t now)
{
	if (is_idle(c)) {
		/* Nobody asked. */
		forget_idle(c->f.run, c);
		fh_io_close(&c->sock);
		return false;
	}
	if (!load_answer_take(&c->answer, data, n, now)) {
		fail(c, LOAD_MALFORMED, c->answer.error);
		return false;
	}
	if (c->answer.state != LOAD_DONE)
		return true;
	on_answer(c, now);
	return !c->answer.closes;
}

/* ---- TLS ---- */

/* Send what the session has for the server, if nothing is on its way. */
static void pump(struct conn *c)
{
	struct fh_buf sent = c->flight;

	if (fh_io_sending(&c->sock) || !c->tls.wire.len)
		return;
	c->flight = c->tls.wire;
	c->tls.wire = sent;
	fh_buf_reset(&c->tls.wire, SIZE_MAX);
	fh_io_send(&c->sock, c->flight.data, c->flight.len);
	fh_io_flush(c->f.run->io);
	if (!c->sealed)
		return;
	c->sealed = false;
	c->leaving = true;
	c->flushed_ns = fh_now_ns();
	c->turn = c->f.run->turn;
}

static bool seal(struct conn *c)
{
	c->sealed = !fh_tls_write(&c->tls, c->req.data, c->req.len);
	return c->sealed;
}

/* False: it has failed. */
static bool shake_hands(struct conn *c)
{
	int rc = fh_tls_handshake(&c->tls);

	c->shaking = rc != 1;
	return rc >= 0 && (!rc || seal(c));
}

static void fail_to_shake(struct conn *c)
{
	struct fh_err err;

	fh_tls_client_why(&c->tls, c->f.run->job->plan->target->name, &err);
	fail(c, LOAD_CONNECT, err.msg);
}

static void open_records(struct conn *c, const char *data, size_t n, uint64_t now)
{
	char plain[16384];
	ssize_t m = 0;

	c->tls.src = data;
	c->tls.nr_src = n;
	if (c->shaking && !shake_hands(c)) {
		fail_to_shake(c);
		return;
	}
	while (!c->shaking && (m = fh_tls_read(&c->tls, plain, sizeof(plain))) > 0)
		if (!take(c, plain, (size_t)m, now))
			return;
	if (m < 0)
		on_lost(c, m == -EPIPE ? 0 : m, now);
	else
		pump(c);
}

static void on_recv(struct fh_io_sock *s, const char *data, ssize_t n)
{
	struct conn *c = conn_of(s);
	struct load_run *r = c->f.run;
	uint64_t now = fh_now_ns();

	if (n <= 0)
		on_lost(c, n, now);
	else if (c->tls.ssl)
		open_records(c, data, (size_t)n, now);
	else
		take(c, data, (size_t)n, now);
	load_run_issue_due(r);
}

static void on_sent(struct fh_io_sock *s, int res)
{
	struct conn *c = conn_of(s);
	struct load_run *r = c->f.run;

	if (!res && c->parked)
		conns_of(r)->idle[conns_of(r)->nr_idle++] = c;
	c->parked = false;
	if (c->tls.ssl) {
		bool left = c->leaving;

		c->leaving = false;
		if (!res)
			pump(c);
		if (!left)
			return;
	}
	/* Failed: on_recv() hears of it too, or of an answer that was sent before. */
	if (res || is_idle(c))
		return;
	/*
	 * The loop told the kernel when it flushed; that the send is done shows
	 * in its next turn.  Later than that, or on a connection that was only
	 * being made, it was not done at once.
	 */
	if (c->opening || r->turn > c->turn + 1)
		c->flushed_ns = fh_now_ns();
	c->opening = false;
	r->out->res[c->f.nr].sent_ns = load_run_since(r, c->flushed_ns);
}

static void on_closed(struct fh_io_sock *s)
{
	struct conn *c = conn_of(s);
	struct load_run *r = c->f.run;

	r->nr_open--;
	fh_tls_free(&c->tls);
	if (c->again) {
		c->again = c->used = false;
		if (conn_open(c)) {
			conn_send(c);
			return;
		}
		load_run_failure(r, "no new connection");
		conn_finish(c, LOAD_CONNECT, fh_now_ns());
	}
	c->next = conns_of(r)->spare;
	conns_of(r)->spare = c;
}

static void on_timeout(struct fh_io_timer *t)
{
	struct conn *c = (struct conn *)((char *)t - offsetof(struct conn, f.timer));

	if (!is_idle(c))
		fail(c, LOAD_TIMEOUT, "a request took longer than --timeout");
}

static const struct fh_io_sock_ops sock_ops = {.on_recv = on_recv, .on_sent = on_sent, .on_closed = on_closed};

static bool conn_open(struct conn *c)
{
	const struct load_target *t = c->f.run->job->plan->target;
	struct load_run *r = c->f.run;
	int fd = socket(t->addr.ss_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0), one = 1;
	struct fh_err err;
	char what[160];

	if (fd < 0)
		goto failed;
	if (t->addr.ss_family != AF_UNIX)
		setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
	if (connect(fd, (const struct sockaddr *)&t->addr, t->addr_len) && errno != EINPROGRESS)
		goto failed;
	if (t->over_tls && fh_tls_client_init(t->tls, t->name, &c->tls, &err)) {
		fh_tls_free(&c->tls);
		errno = ENOMEM;
		goto failed;
	}
	if (fh_io_attach(r->io, &c->sock, &sock_ops, fd)) {
		fh_tls_free(&c->tls);
		goto failed;
	}
	r->nr_open++;
	r->out->fig.self.nr_opened++;
	c->opening = true;
	c->used = c->parked = c->sealed = c->leaving = false;
	c->shaking = t->over_tls;
	fh_io_recv_start(&c->sock);
	return true;
failed:
	snprintf(what, sizeof(what), "cannot connect to %s: %s", t->url, strerror(errno));
	load_run_failure(r, what);
	/* These are limits of this side, not the server's. */
	if (errno == EMFILE || errno == ENFILE || errno == EADDRNOTAVAIL)
		r->out->fig.self.nr_unopened++;
	if (fd >= 0)
		close(fd);
	return false;
}

static struct conn *conn_new(struct load_run *r)
{
	struct conns *s = conns_of(r);
	struct conn *c = s->spare;

	if (c) {
		s->spare = c->next;
		return c;
	}
	if (s->nr_all == s->cap)
		return NULL;
	c = calloc(1, sizeof(*c));
	if (!c)
		return NULL;
	c->f.run = r;
	c->f.nr = LOAD_NONE;
	c->f.timer.fn = on_timeout;
	c->answer.on_text = on_text;
	s->all[s->nr_all++] = c;
	return c;
}

/* ---- sending ---- */

/* Let the bytes of c->req go. */
static void conn_send(struct conn *c)
{
	struct load_run *r = c->f.run;

	load_answer_reset(&c->answer);
	if (c->tls.ssl) {
		c->flushed_ns = fh_now_ns();
		c->turn = r->turn;
		/* What fails shows when the connection ends. */
		if (c->shaking ? shake_hands(c) : seal(c))
			pump(c);
		else
			fh_io_shutdown(&c->sock);
		return;
	}
	fh_io_send(&c->sock, c->req.data, c->req.len);
	fh_io_flush(r->io);
	c->flushed_ns = fh_now_ns();
	c->turn = r->turn;
}

/* ---- as a wire ---- */

static int http_setup(struct load_run *r, uint32_t most, struct fh_err *err)
{
	struct conns *s = r->wire_own = calloc(1, sizeof(*s));

	if (!s)
		return fh_errf(err, -ENOMEM, "no memory");
	s->cap = most + 64; /* closing ones overlap with new ones */
	s->all = calloc(s->cap, sizeof(struct conn *));
	s->idle = calloc(s->cap, sizeof(struct conn *));
	return s->all && s->idle ? 0 : fh_errf(err, -ENOMEM, "no memory for %u connections", s->cap);
}

static bool http_issue(struct load_run *r, uint32_t i)
{
	struct conns *s = conns_of(r);
	struct conn *c = s->nr_idle ? s->idle[--s->nr_idle] : NULL;
	struct fh_buf *bytes = load_run_bytes(r, i), swap;
	bool fresh = !c;

	if (!c)
		c = conn_new(r);
	if (!c)
		r->out->fig.self.nr_unopened++;
	if (!c || (fresh && !conn_open(c))) {
		load_run_failure(r, "no memory, or no descriptor, for one more connection");
		if (c) {
			c->next = s->spare;
			s->spare = c;
		}
		return false;
	}
	swap = c->req;
	c->req = *bytes;
	*bytes = swap;
	c->f.nr = i;
	conn_send(c);
	load_run_begin(&c->f, i, c->flushed_ns);
	return true;
}

static void http_hang_up(struct load_run *r)
{
	struct conns *s = conns_of(r);

	for (uint32_t i = 0; i < s->nr_all; i++) {
		struct conn *c = s->all[i];

		load_run_drop(&c->f);
		c->again = false;
		if (c->sock.io)
			fh_io_close(&c->sock);
	}
}

static void http_free(struct load_run *r)
{
	struct conns *s = conns_of(r);

	for (uint32_t i = 0; s && i < s->nr_all; i++) {
		load_answer_free(&s->all[i]->answer);
		fh_buf_free(&s->all[i]->req);
		fh_buf_free(&s->all[i]->flight);
		fh_tls_free(&s->all[i]->tls);
		free(s->all[i]->f.gap_ms);
		free(s->all[i]);
	}
	if (s) {
		free(s->all);
		free(s->idle);
	}
	free(s);
}

const struct load_wire load_wire_http = {
	.setup = http_setup,
	.make = load_plan_request,
	.issue = http_issue,
	.hang_up = http_hang_up,
	.free = http_free,
};
