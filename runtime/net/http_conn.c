// SPDX-License-Identifier: Apache-2.0
/*
 * A connection: from bytes to requests.
 *
 * Requests of a connection are answered one after the other.  While one is
 * being answered (BUSY), later bytes wait in `in`; beyond FH_IN_BACKLOG of them
 * nothing more is received.  A request that comes in one piece is parsed where
 * it was received and never copied.
 *
 * Time limits: the whole head within header_timeout_ms of its first byte, the
 * whole body within body_timeout_ms of its head, however slowly single bytes
 * drip.  A peer that closes is a peer that no longer wants its answer: its
 * call is cancelled at once.
 */
#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "runtime/net/http_priv.h"
#include "runtime/net/traceparent.h"

#define container_of(ptr, type, member) ((type *)((char *)(ptr)-offsetof(type, member)))

static void conn_on_recv(struct fh_io_sock *s, const char *data, ssize_t n);
static void conn_on_closed(struct fh_io_sock *s);
static void conn_on_timer(struct fh_io_timer *t);

static const struct fh_io_sock_ops conn_ops = {
	.on_recv = conn_on_recv,
	.on_sent = fh_conn_on_sent,
	.on_closed = conn_on_closed,
};

bool fh_body_account(struct fh_http *h, size_t *accounted, size_t now)
{
	h->body_bytes += now - *accounted;
	*accounted = now;
	return h->body_bytes <= (uint64_t)FH_BODY_MEMORY * h->cfg.max_body_bytes;
}

/* Birth and death */

static void set_accepting(struct fh_http *h, bool on)
{
	if (h->accepting == on)
		return;
	h->accepting = on;
	for (uint32_t i = 0; i < h->nr_listen; i++) {
		if (on)
			fh_io_accept_start(&h->listeners[i].l);
		else
			fh_io_accept_stop(&h->listeners[i].l);
	}
}

struct fh_io_sock *fh_conn_accept(struct fh_io_listener *l, const struct fh_io_sock_ops **ops)
{
	struct fh_http_listener *at = container_of(l, struct fh_http_listener, l);
	struct fh_http *h = at->h;
	struct fh_conn *c = h->free_conns;

	if (h->draining || h->nr_conns >= h->cfg.max_connections) {
		h->c.refused++;
		return NULL;
	}
	if (c)
		h->free_conns = c->next;
	else
		c = malloc(sizeof(*c));
	if (!c) {
		h->c.refused++;
		return NULL;
	}
	*c = (struct fh_conn){.h = h, .deadline_ns = UINT64_MAX, .ep = FH_EP_NONE};
	c->timer.fn = conn_on_timer;
	fh_identity_nobody(&c->grant.who);
	if (at->tls && fh_conn_tls_open(c)) {
		c->next = h->free_conns;
		h->free_conns = c;
		h->c.refused++;
		return NULL;
	}
	c->next = h->conns;
	if (c->next)
		c->next->pprev = &c->next;
	c->pprev = &h->conns;
	h->conns = c;
	h->c.accepted++;
	/* At the limit the rest waits in the backlog, not in our memory. */
	if (++h->nr_conns >= h->cfg.max_connections)
		set_accepting(h, false);
	c->sock.state = 0;
	*ops = &conn_ops;
	c->first_turn = true;
	c->is_unix = at->file.path[0];
	fh_conn_flush(c);
	return &c->sock;
}

static void conn_free_buffers(struct fh_conn *c)
{
	fh_body_account(c->h, &c->body_accounted, 0);
	fh_buf_free(&c->in);
	fh_buf_free(&c->body);
	fh_buf_free(&c->out);
	fh_buf_free(&c->flight);
}

static void conn_on_closed(struct fh_io_sock *s)
{
	struct fh_conn *c = container_of(s, struct fh_conn, sock);
	struct fh_http *h = c->h;

	fh_conn_abort(c);
	fh_conn_unflush(c);
	fh_conn_tls_close(c);
	conn_free_buffers(c);
	explicit_bzero(c->shown.key, sizeof(c->shown.key));
	*c->pprev = c->next;
	if (c->next)
		c->next->pprev = c->pprev;
	c->next = h->free_conns;
	h->free_conns = c;
	h->nr_conns--;
	if (!h->draining)
		set_accepting(h, true);
}

/* Whatever was asked for on it is wanted no more. */
static void forget_answer(struct fh_conn *c)
{
	fh_conn_audit_forget(c);
	fh_errand_forget(c);
	if (fh_viewer_close(c))
		fh_metrics_count(c->h, c->ep, 200);
	if (c->call) {
		fh_metrics_count(c->h, c->ep, 499);
		fh_call_cancel(c->call);
		c->call = NULL;
	}
}

void fh_conn_abort(struct fh_conn *c)
{
	if (c->state == FH_CONN_DEAD)
		return;
	c->state = FH_CONN_DEAD;
	fh_io_timer_clear(c->h->io, &c->timer);
	forget_answer(c);
	fh_io_close(&c->sock);
}

void fh_conn_finish(struct fh_conn *c)
{
	c->close_after = true;
	c->linger = false;
	c->state = FH_CONN_LINGER;
	fh_conn_flush(c);
}

void fh_conn_break(struct fh_conn *c)
{
	if (c->state == FH_CONN_DEAD || c->state == FH_CONN_LINGER)
		return;
	if (c->state == FH_CONN_BUSY && !c->viewer)
		c->h->c.client_gone++;
	c->state = FH_CONN_LINGER;
	forget_answer(c);
	c->audit_seq = 0;
	c->audit_hold = false;
	fh_buf_reset(&c->out, 0);
	c->in_chunk = c->chunked_out = false;
	c->keep_alive = false;
	c->close_after = true;
	c->linger = true;
	fh_conn_flush(c);
}

void fh_conn_free_all(struct fh_http *h)
{
	struct fh_conn *c;

	while ((c = h->conns)) {
		h->conns = c->next;
		fh_errand_forget(c);
		fh_viewer_close(c);
		fh_conn_tls_close(c);
		conn_free_buffers(c);
		free(c);
	}
	while ((c = h->free_conns)) {
		h->free_conns = c->next;
		free(c);
	}
}

/* Reading */

/* Refuse and close: whatever follows on this connection cannot be trusted or is not wanted. */
static void refuse_and_close(struct fh_conn *c, unsigned int status, const char *why)
{
	fh_oai_errorf(&c->err, (int)status, NULL, NULL, "%s.", why);
	c->keep_alive = false;
	c->linger = true;
	if (fh_conn_audit_refusal(c))
		fh_conn_respond_error(c, &c->err, NULL);
	else
		fh_conn_abort(c);
}

static void respond_refusal(struct fh_conn *c)
{
	const char *extra = NULL;

	if (!fh_conn_audit_refusal(c)) {
		fh_conn_abort(c);
		return;
	}
	if (c->err.status == 401)
		extra = "WWW-Authenticate: Bearer realm=\"freehold\"\r\n";
	else if (c->err.status == 405)
		extra = fh_endpoint_allow(c->ep);
	fh_conn_respond_error(c, &c->err, extra);
}

static void request_complete(struct fh_conn *c, const char *body, size_t n)
{
	c->state = FH_CONN_BUSY;
	c->deadline_ns = UINT64_MAX;
	c->arrival_ns = fh_io_now_ns(c->h->io);
	c->first_byte_pending = true;
	/* Its body may have been long on its way. */
	if (c->refuse || !fh_conn_still_admitted(c))
		respond_refusal(c);
	else
		fh_dispatch(c, body, n);
	if (c->body.data) {
		fh_buf_reset(&c->body, FH_KEEP_BYTES);
		fh_body_account(c->h, &c->body_accounted, 0);
	}
}

/* The bytes that the head was read from go to others before its body is complete. */
static void forget_spans(struct fh_http_head *head)
{
	head->target = head->authorization = head->request_id = head->run_id = (struct fh_span){0};
	head->nr_states = 0;
}

/* A head has been read: decide what becomes of its body. */
static void head_complete(struct fh_conn *c, bool more_here)
{
	struct fh_http_head *head = &c->head;
	bool has_body = head->chunked || head->content_length;

	c->keep_alive = head->keep_alive && !c->h->draining;
	if (c->keep_alive && fh_conn_tls_worn(c)) {
		c->keep_alive = false;
		c->h->c.tls_worn++;
	}
	c->minor0 = head->minor == 0;
	c->head_only = head->method == FH_HTTP_HEAD;
	c->has_id = head->request_id.n;
	memcpy(c->request_id, head->request_id.p ? head->request_id.p : "", head->request_id.n);
	c->request_id[head->request_id.n] = '\0';
	c->serial = 0;
	c->refuse = false;
	*c->trace_state = '\0';
	if (head->trace.known && head->nr_states && c->h->svc->span)
		fh_tracestate_parse(head->states, head->nr_states, c->trace_state);
	fh_conn_run(c);
	fh_route(c);
	forget_spans(head);
	if (!c->refuse && head->method == FH_HTTP_POST && !head->chunked && !head->has_length) {
		c->refuse = true;
		fh_oai_errorf(&c->err, 411, NULL, NULL, "A POST needs a Content-Length or a chunked body.");
	}
	c->body_left = head->content_length;
	c->chunks = (struct fh_http_chunked){0};
	c->state = FH_CONN_BODY;
	if (!has_body)
		return;
	if (c->refuse && (head->expect_continue || head->chunked || head->content_length > FH_DISCARD_BYTES)) {
		c->keep_alive = false;
		c->linger = true;
		respond_refusal(c);
	} else if (!c->refuse && head->content_length > c->h->cfg.max_body_bytes) {
		refuse_and_close(c, 413, "The body is larger than this server accepts");
	} else {
		fh_conn_arm(c, c->h->cfg.body_timeout_ms);
		if (head->expect_continue && !more_here && head->minor == 1)
			fh_conn_continue(c);
	}
}

/* A head that could not be read is nobody's: nothing of the request before it is said of it. */
static void forget_request(struct fh_conn *c)
{
	c->ep = FH_EP_NONE;
	c->minor0 = c->head_only = c->has_id = false;
	c->serial = 0;
	memset(c->run_id, 0, sizeof(c->run_id));
	c->head.run_depth = 0;
	c->tenant = 0;
	c->grant = (struct fh_grant){0};
	fh_identity_nobody(&c->grant.who);
	c->arrival_ns = fh_io_now_ns(c->h->io);
}

/* Returns false when more bytes are needed. */
static bool step_head(struct fh_conn *c, const char *p, size_t n, size_t *off)
{
	const char *why = "";
	int rc;

	if (!n)
		return false;
	rc = fh_http_head_parse(p, n, &c->scanned, &c->head, &why);
	if (!rc)
		return false;
	c->scanned = 0;
	c->head_started = false;
	if (rc < 0) {
		forget_request(c);
		refuse_and_close(c, (unsigned int)-rc, why);
		return true;
	}
	*off += (size_t)rc;
	head_complete(c, n > (size_t)rc);
	return true;
}

/* Keep some bytes of a body that does not lie in one piece. False: refused. */
static bool keep_body(struct fh_conn *c, const char *p, size_t n)
{
	if (c->refuse)
		return true;
	if (c->body.len + n > c->h->cfg.max_body_bytes) {
		refuse_and_close(c, 413, "The body is larger than this server accepts");
		return false;
	}
	fh_buf_put(&c->body, p, n);
	if (c->body.failed || !fh_body_account(c->h, &c->body_accounted, c->body.cap)) {
		refuse_and_close(c, 503, "Too many large requests are being read at once; try again later");
		return false;
	}
	return true;
}

static bool step_chunked(struct fh_conn *c, const char *p, size_t n, size_t *off)
{
	size_t used = 0;

	while (used < n && !c->chunks.done) {
		const char *why = "";
		struct fh_span data;
		int rc = fh_http_chunked_next(&c->chunks, p + used, n - used, &data, &why);

		if (rc < 0) {
			refuse_and_close(c, (unsigned int)-rc, why);
			return true;
		}
		used += (size_t)rc;
		if (data.n && !keep_body(c, data.p, data.n))
			return true;
	}
	*off += used;
	if (!c->chunks.done)
		return false;
	request_complete(c, c->body.data, c->body.len);
	return true;
}

/* Returns false when more bytes are needed. */
static bool step_body(struct fh_conn *c, const char *p, size_t n, size_t *off)
{
	size_t take = n < c->body_left ? n : (size_t)c->body_left;

	if (c->head.chunked)
		return step_chunked(c, p, n, off);
	if (take == c->body_left && !c->body.len) {
		*off += take;
		request_complete(c, p, take);
		return true;
	}
	if (!keep_body(c, p, take))
		return true;
	*off += take;
	c->body_left -= take;
	if (c->body_left)
		return false;
	request_complete(c, c->body.data, c->body.len);
	return true;
}

/* Read as many requests as there are and may be answered now. Returns bytes consumed. */
static size_t process(struct fh_conn *c, const char *p, size_t n)
{
	size_t off = 0;
	bool more = true;

	c->processing = true;
	while (more) {
		switch (c->state) {
		case FH_CONN_HEAD:
			c->blocked = fh_conn_backlogged(c);
			more = !c->blocked && step_head(c, p + off, n - off, &off);
			break;
		case FH_CONN_BODY: more = step_body(c, p + off, n - off, &off); break;
		default: more = false; break;
		}
	}
	c->processing = false;
	return off;
}

/* Bytes that wait for a later turn. */
static void keep_input(struct fh_conn *c, const char *p, size_t n)
{
	if (c->state == FH_CONN_DEAD || c->state == FH_CONN_LINGER)
		return;
	fh_buf_put(&c->in, p, n);
	if (c->in.failed) {
		fh_conn_abort(c);
		return;
	}
	if (c->state == FH_CONN_HEAD && !c->blocked && !c->head_started && c->in.len) {
		c->head_started = true;
		fh_conn_arm(c, c->h->cfg.header_timeout_ms);
	}
	if (c->in.len > FH_IN_BACKLOG && (c->state == FH_CONN_BUSY || c->blocked))
		fh_io_recv_stop(&c->sock);
}

void fh_conn_resume(struct fh_conn *c)
{
	size_t used;

	if (c->state == FH_CONN_DEAD || c->processing)
		return;
	if (c->in.len && (c->state == FH_CONN_HEAD || c->state == FH_CONN_BODY)) {
		used = process(c, c->in.data, c->in.len);
		if (c->state == FH_CONN_DEAD)
			return;
		c->in.len -= used;
		if (c->in.len && used)
			memmove(c->in.data, c->in.data + used, c->in.len);
		if (!c->in.len)
			fh_buf_reset(&c->in, FH_KEEP_BYTES);
		else
			keep_input(c, "", 0);
	}
	if (c->state == FH_CONN_LINGER || c->in.len <= FH_IN_BACKLOG)
		fh_io_recv_start(&c->sock);
}

void fh_conn_input(struct fh_conn *c, const char *data, size_t n)
{
	size_t used;

	if (c->in.len || c->state == FH_CONN_BUSY || c->blocked) {
		keep_input(c, data, n);
		if (c->state != FH_CONN_BUSY && !c->blocked)
			fh_conn_resume(c);
		return;
	}
	used = process(c, data, n);
	if (used < n)
		keep_input(c, data + used, n - used);
}

void fh_conn_eof(struct fh_conn *c, ssize_t n)
{
	/* Who watches goes when he likes: his answer has no end. */
	if (c->state == FH_CONN_BUSY && !c->viewer)
		c->h->c.client_gone++;
	/* What the kernel has not sent yet is his all the same. */
	if (n == 0 && c->state == FH_CONN_LINGER && c->close_after && fh_conn_tls_offloaded(c))
		return;
	if (n == 0 && c->state != FH_CONN_BUSY && c->state != FH_CONN_HELLO &&
	    (fh_io_sending(&c->sock) || c->out.len || fh_conn_tls_offloaded(c))) {
		/* It asked, closed its side and still reads: let it have what is ready. */
		fh_conn_finish(c);
		return;
	}
	fh_conn_abort(c);
}

static void conn_on_recv(struct fh_io_sock *s, const char *data, ssize_t n)
{
	struct fh_conn *c = container_of(s, struct fh_conn, sock);

	if (c->state == FH_CONN_DEAD)
		return;
	if (n <= 0) {
		fh_conn_eof(c, n);
		return;
	}
	c->h->c.recv_bytes += (uint64_t)n;
	if (c->state == FH_CONN_LINGER)
		return;
	if (c->tls)
		fh_conn_tls_recv(c, data, (size_t)n);
	else
		fh_conn_input(c, data, (size_t)n);
}

/* Finishing */

void fh_conn_done(struct fh_conn *c)
{
	struct fh_http *h = c->h;

	fh_metrics_count(h, c->ep, c->status);
	fh_hist_add(&h->c.request_time, fh_io_now_ns(h->io) - c->arrival_ns);
	c->call = NULL;
	fh_conn_flush(c);
	if (!c->keep_alive || h->draining) {
		/* Bytes that nobody will read make the kernel reset the connection: let the answer arrive first. */
		c->linger |= c->in.len > 0;
		c->close_after = true;
		c->state = FH_CONN_LINGER;
		return;
	}
	c->state = FH_CONN_HEAD;
	fh_conn_arm(c, h->cfg.idle_timeout_ms);
	if (!c->processing)
		fh_conn_resume(c);
}

static void conn_on_timer(struct fh_io_timer *t)
{
	struct fh_conn *c = container_of(t, struct fh_conn, timer);
	uint64_t now = fh_io_now_ns(c->h->io);

	if (fh_io_sending(&c->sock)) {
		if (c->sock.nr_sent == c->last_sent) {
			c->h->c.timeouts++;
			fh_conn_abort(c);
			return;
		}
		c->last_sent = c->sock.nr_sent;
		fh_io_timer_set(c->h->io, t, now + c->h->cfg.write_timeout_ms * 1000000ull);
		return;
	}
	if (c->deadline_ns == UINT64_MAX)
		return;
	if (now < c->deadline_ns) {
		fh_io_timer_set(c->h->io, t, c->deadline_ns);
		return;
	}
	if (c->state == FH_CONN_LINGER && c->close_after && fh_conn_tls_offloaded(c)) {
		fh_conn_flush(c);
		return;
	}
	c->h->c.timeouts++;
	c->arrival_ns = now;
	if (c->state == FH_CONN_BODY || (c->state == FH_CONN_HEAD && c->in.len)) {
		if (c->state == FH_CONN_HEAD)
			forget_request(c);
		refuse_and_close(c, 408, "The request did not arrive in time");
	} else if (c->state == FH_CONN_HEAD && fh_conn_tls_offloaded(c)) {
		/* Idle for us; but of its last answer the kernel may hold what a slow reader has made no room for. */
		fh_conn_finish(c);
	} else {
		fh_conn_abort(c);
	}
}
