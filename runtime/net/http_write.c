// SPDX-License-Identifier: Apache-2.0
/*
 * A connection: from responses to bytes.
 *
 * Two buffers take turns: `out` is filled while `flight` is with the kernel,
 * so that whatever becomes ready during a turn leaves in one send.  Streams go
 * out in HTTP chunks, one a send: the chunk's size is written into room left
 * for it when the buffer is handed over.  A connection whose `out` has reached
 * FH_OUT_BACKLOG takes no more tokens until the kernel has taken it.
 */
#include <string.h>
#include <time.h>

#include "runtime/net/http_priv.h"

#define CHUNK_HEAD 10 /* eight hexadecimal digits, CR LF */

#define container_of(ptr, type, member) ((type *)((char *)(ptr)-offsetof(type, member)))

void fh_conn_arm(struct fh_conn *c, uint64_t after_ms)
{
	c->deadline_ns = fh_io_now_ns(c->h->io) + after_ms * 1000000u;
	if (!fh_io_sending(&c->sock))
		fh_io_timer_set(c->h->io, &c->timer, c->deadline_ns);
}

bool fh_conn_backlogged(const struct fh_conn *c)
{
	return c->out.len >= FH_OUT_BACKLOG;
}

/* The list of connections with something to send */

void fh_conn_flush(struct fh_conn *c)
{
	struct fh_http *h = c->h;

	if (c->flush_queued)
		return;
	c->flush_queued = true;
	c->next_flush = NULL;
	*h->flush_tail = c;
	h->flush_tail = &c->next_flush;
}

void fh_conn_unflush(struct fh_conn *c)
{
	struct fh_http *h = c->h;
	struct fh_conn **pp = &h->flush_head;

	if (!c->flush_queued)
		return;
	while (*pp != c)
		pp = &(*pp)->next_flush;
	*pp = c->next_flush;
	if (h->flush_tail == &c->next_flush)
		h->flush_tail = pp;
	c->flush_queued = false;
}

static void close_chunk(struct fh_conn *c)
{
	size_t n;
	char *p;

	if (!c->in_chunk)
		return;
	c->in_chunk = false;
	if (c->out.failed)
		return;
	n = c->out.len - c->chunk_at - CHUNK_HEAD;
	if (!n) {
		/* An empty chunk would be the end of the body. */
		c->out.len = c->chunk_at;
		return;
	}
	p = c->out.data + c->chunk_at;
	for (int i = 7; i >= 0; i--, n >>= 4)
		p[i] = "0123456789abcdef"[n & 15];
	fh_buf_lit(&c->out, "\r\n");
}

/* Everything has been sent, and the connection is not wanted any more. */
static void finish_close(struct fh_conn *c)
{
	if (fh_conn_tls_draining(c))
		return;
	if (!c->linger) {
		fh_conn_abort(c);
		return;
	}
	c->linger = false;
	c->close_after = false;
	c->state = FH_CONN_LINGER;
	fh_io_shutdown(&c->sock);
	fh_conn_arm(c, FH_LINGER_NS / 1000000u);
	fh_io_recv_start(&c->sock);
}

static void measure_send(struct fh_conn *c)
{
	struct fh_http *h = c->h;
	uint64_t now = fh_now_ns();

	if (c->first_byte_pending) {
		c->first_byte_pending = false;
		fh_hist_add(&h->c.first_byte, now - c->arrival_ns);
	}
	if (c->done_ns) {
		fh_hist_add(&h->c.done_to_wire, now > c->done_ns ? now - c->done_ns : 0);
		fh_frontend_way(&h->fe, now > c->done_ns ? now - c->done_ns : 0);
		c->done_ns = 0;
	}
}

void fh_conn_swap(struct fh_conn *c)
{
	struct fh_buf filled = c->out;

	c->out = c->flight;
	c->flight = filled;
}

static void conn_send(struct fh_conn *c)
{
	if (c->state == FH_CONN_DEAD || fh_io_sending(&c->sock))
		return;
	if (c->first_turn) {
		/* Accepted in this turn: the socket is attached by now. */
		c->first_turn = false;
		fh_conn_arm(c, c->tls ? c->h->cfg.tls_timeout_ms : c->h->cfg.idle_timeout_ms);
		fh_io_recv_start(&c->sock);
	}
	if (!fh_conn_audit_allows(c))
		return;
	close_chunk(c);
	if (c->out.failed) {
		fh_conn_abort(c);
		return;
	}
	if (c->tls && !fh_conn_tls_seal(c)) {
		fh_conn_abort(c);
		return;
	}
	if (!c->tls)
		fh_conn_swap(c);
	c->last_sent = c->sock.nr_sent;
	if (c->flight.len) {
		if (c->first_byte_pending || c->done_ns)
			measure_send(c);
		fh_io_send(&c->sock, c->flight.data, c->flight.len);
	} else if (!fh_conn_tls_alert(c)) {
		if (c->close_after)
			finish_close(c);
		return;
	}
	fh_io_timer_set(c->h->io, &c->timer, fh_io_now_ns(c->h->io) + c->h->cfg.write_timeout_ms * 1000000ull);
}

void fh_flush_all(struct fh_http *h)
{
	struct fh_conn *c;

	while ((c = h->flush_head)) {
		h->flush_head = c->next_flush;
		if (!h->flush_head)
			h->flush_tail = &h->flush_head;
		c->flush_queued = false;
		conn_send(c);
	}
}

void fh_conn_on_sent(struct fh_io_sock *s, int res)
{
	struct fh_conn *c = container_of(s, struct fh_conn, sock);

	if (c->state == FH_CONN_DEAD)
		return;
	if (res) {
		if (c->state == FH_CONN_BUSY && !c->viewer)
			c->h->c.client_gone++;
		fh_conn_abort(c);
		return;
	}
	c->h->c.sent_bytes += c->flight.len;
	fh_buf_reset(&c->flight, FH_KEEP_BYTES);
	if (c->deadline_ns != UINT64_MAX)
		fh_io_timer_set(c->h->io, &c->timer, c->deadline_ns);
	if (c->out.len || c->close_after || fh_conn_tls_pending(c))
		fh_conn_flush(c);
	if (fh_conn_backlogged(c))
		return;
	if (c->call && c->call->stalled)
		fh_call_resume(c->call);
	if (c->blocked) {
		c->blocked = false;
		fh_conn_resume(c);
	}
}

/* Responses */

static const char *status_text(unsigned int status)
{
	switch (status) {
	case 200: return "OK";
	case 400: return "Bad Request";
	case 401: return "Unauthorized";
	case 403: return "Forbidden";
	case 404: return "Not Found";
	case 405: return "Method Not Allowed";
	case 408: return "Request Timeout";
	case 411: return "Length Required";
	case 413: return "Content Too Large";
	case 414: return "URI Too Long";
	case 417: return "Expectation Failed";
	case 429: return "Too Many Requests";
	case 431: return "Request Header Fields Too Large";
	case 501: return "Not Implemented";
	case 409: return "Conflict";
	case 503: return "Service Unavailable";
	case 505: return "HTTP Version Not Supported";
	default: return "Internal Server Error";
	}
}

static void put_date(struct fh_conn *c)
{
	struct fh_http *h = c->h;
	struct timespec ts;
	struct tm tm;

	clock_gettime(CLOCK_REALTIME_COARSE, &ts);
	if ((uint64_t)ts.tv_sec != h->date_s) {
		h->date_s = (uint64_t)ts.tv_sec;
		gmtime_r(&ts.tv_sec, &tm);
		strftime(h->date, sizeof(h->date), "%a, %d %b %Y %H:%M:%S GMT", &tm);
	}
	fh_buf_put(&c->out, h->date, strlen(h->date));
}

/* Everything up to the framing of the body. */
static void put_head(struct fh_conn *c, unsigned int status, const char *type)
{
	struct fh_buf *b = &c->out;

	c->status = status;
	close_chunk(c);
	fh_buf_lit(b, "HTTP/1.1 ");
	fh_buf_u64(b, status);
	fh_buf_lit(b, " ");
	fh_buf_puts(b, status_text(status));
	fh_buf_lit(b, "\r\nServer: freehold\r\nDate: ");
	put_date(c);
	fh_buf_lit(b, "\r\nContent-Type: ");
	fh_buf_puts(b, type);
	fh_buf_lit(b, "\r\nX-Request-Id: ");
	if (c->has_id) {
		fh_buf_puts(b, c->request_id);
	} else {
		fh_buf_lit(b, "req-");
		fh_buf_hex(b, c->h->id_nonce, 8);
		fh_buf_hex(b, ++c->h->id_count, 12);
	}
	if (!c->keep_alive || c->h->draining)
		fh_buf_lit(b, "\r\nConnection: close");
	else if (c->minor0)
		fh_buf_lit(b, "\r\nConnection: keep-alive");
	fh_buf_lit(b, "\r\n");
	if (c->notice[0]) {
		fh_buf_puts(b, c->notice);
		c->notice[0] = 0;
	}
}

void fh_conn_respond(struct fh_conn *c, unsigned int status, const char *type, const char *extra, const char *body,
		     size_t n)
{
	put_head(c, status, type);
	fh_buf_lit(&c->out, "Content-Length: ");
	fh_buf_u64(&c->out, n);
	fh_buf_lit(&c->out, "\r\n");
	if (extra)
		fh_buf_puts(&c->out, extra);
	fh_buf_lit(&c->out, "\r\n");
	if (!c->head_only)
		fh_buf_put(&c->out, body, n);
	fh_conn_done(c);
}

void fh_conn_respond_error(struct fh_conn *c, const struct fh_oai_error *err, const char *extra)
{
	struct fh_buf b = {0};

	fh_oai_put_error(&b, err);
	fh_conn_respond(c, (unsigned int)err->status, "application/json", extra, b.data, b.len);
	fh_buf_free(&b);
}

void fh_conn_respond_json(struct fh_conn *c, unsigned int status, const char *extra, struct fh_buf *b)
{
	if (b->failed)
		fh_conn_abort(c);
	else
		fh_conn_respond(c, status, "application/json", extra, b->data, b->len);
	fh_buf_free(b);
}

void fh_conn_continue(struct fh_conn *c)
{
	fh_buf_lit(&c->out, "HTTP/1.1 100 Continue\r\n\r\n");
	fh_conn_flush(c);
}

void fh_conn_stream_begin(struct fh_conn *c)
{
	/* HTTP/1.0 has no chunks: the end of the connection is the end of the body. */
	c->chunked_out = !c->minor0;
	if (c->minor0)
		c->keep_alive = false;
	put_head(c, 200, "text/event-stream; charset=utf-8");
	fh_buf_lit(&c->out, "Cache-Control: no-cache\r\n");
	if (c->chunked_out)
		fh_buf_lit(&c->out, "Transfer-Encoding: chunked\r\n");
	fh_buf_lit(&c->out, "\r\n");
	fh_conn_flush(c);
}

void fh_conn_piece(struct fh_conn *c)
{
	if (!c->chunked_out || c->in_chunk)
		return;
	c->in_chunk = true;
	c->chunk_at = c->out.len;
	fh_buf_lit(&c->out, "00000000\r\n");
}

void fh_conn_stream_end(struct fh_conn *c)
{
	close_chunk(c);
	if (c->chunked_out)
		fh_buf_lit(&c->out, "0\r\n\r\n");
	c->chunked_out = false;
	fh_conn_done(c);
}
