// SPDX-License-Identifier: Apache-2.0
/*
 * Requests over HTTP: a few connections, each with one request at a time, on
 * non-blocking sockets behind one epoll descriptor, which is what the caller
 * polls.
 *
 * A connection is idle (kept for the next request), connecting, sending or
 * receiving.  A request whose answer breaks off ends by itself, with
 * FH_FINISH_ERROR; the handle stays good, the next request connects anew.  A
 * kept connection that the server has closed meanwhile is replaced once,
 * before any byte of an answer has come.
 *
 * We own: the epoll descriptor, the connections, their sockets and buffers.
 */
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "runtime/lib/http.h"
#include "runtime/lib/http_answer.h"

#define RECV_BYTES 16384u
#define KEEP_IDLE 8u /* connections that wait for a request */

enum conn_state { CONN_FREE, CONN_IDLE, CONN_CONNECT, CONN_SEND, CONN_RECV };

struct conn {
	enum conn_state state;
	int fd;
	bool reused;	     /* it has carried a request before: the server may have closed it */
	struct fhl_req *req; /* whose answer is read; NULL: it has its last token, the rest is read over */
	int failure;	     /* -errno: nothing more comes for req */
	struct fhl_bytes out;
	size_t sent;
	struct fhl_answer answer;
};

struct http {
	int ep;
	struct sockaddr_storage addr;
	socklen_t addr_bytes;
	char host[280];	    /* of the Host field */
	struct conn *conns; /* [nr_conns] as many as requests */
	uint32_t nr_conns, nr_idle;
	uint32_t turn; /* the connection whose pieces are handed out first */
};

/* Sockets */

static void conn_close(struct http *h, struct conn *k)
{
	if (k->fd >= 0)
		close(k->fd); /* which takes it out of the epoll set */
	if (k->state == CONN_IDLE)
		h->nr_idle--;
	k->fd = -1;
	k->state = CONN_FREE;
	k->reused = false;
}

static int watch(struct http *h, struct conn *k, int op, uint32_t events)
{
	struct epoll_event e = {.events = events, .data.u32 = (uint32_t)(k - h->conns)};

	return epoll_ctl(h->ep, op, k->fd, &e) ? -errno : 0;
}

static int conn_open(struct http *h, struct conn *k)
{
	int one = 1, rc;

	k->fd = socket(h->addr.ss_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (k->fd < 0)
		return -errno;
	if (h->addr.ss_family != AF_UNIX)
		setsockopt(k->fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
	rc = connect(k->fd, (struct sockaddr *)&h->addr, h->addr_bytes) ? -errno : 0;
	k->state = rc == -EINPROGRESS ? CONN_CONNECT : CONN_SEND;
	if (rc == -EINPROGRESS)
		rc = 0;
	if (!rc)
		rc = watch(h, k, EPOLL_CTL_ADD, EPOLLIN | EPOLLOUT);
	if (rc)
		conn_close(h, k);
	return rc;
}

/* Send what is left. */
static int conn_send(struct http *h, struct conn *k)
{
	while (k->sent < k->out.n) {
		ssize_t n = send(k->fd, k->out.p + k->sent, k->out.n - k->sent, MSG_NOSIGNAL | MSG_DONTWAIT);

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0 && (errno == EAGAIN || errno == EWOULDBLOCK))
			return 0;
		if (n < 0)
			return -errno;
		k->sent += (size_t)n;
	}
	k->state = CONN_RECV;
	return watch(h, k, EPOLL_CTL_MOD, EPOLLIN);
}

/* Begin to send k->out, on a kept connection or a new one. */
static int conn_start(struct http *h, struct conn *k, bool stream)
{
	int rc = 0;

	k->sent = 0;
	fhl_answer_begin(&k->answer, stream);
	if (k->state == CONN_IDLE) {
		h->nr_idle--;
		k->state = CONN_SEND;
		k->reused = true;
		rc = watch(h, k, EPOLL_CTL_MOD, EPOLLIN | EPOLLOUT);
	} else {
		rc = conn_open(h, k);
	}
	if (!rc && k->state == CONN_SEND)
		rc = conn_send(h, k);
	if (rc && k->reused && (rc == -EPIPE || rc == -ECONNRESET)) {
		conn_close(h, k);
		return conn_start(h, k, stream);
	}
	if (rc)
		conn_close(h, k);
	return rc;
}

/* The answer has been read to its end. */
static void conn_rest(struct http *h, struct conn *k)
{
	if (k->answer.keep_alive && !k->req && h->nr_idle < KEEP_IDLE) {
		k->state = CONN_IDLE;
		h->nr_idle++;
		return;
	}
	if (!k->req)
		conn_close(h, k);
}

static int socket_error(int fd)
{
	int e = 0;
	socklen_t n = sizeof(e);

	return getsockopt(fd, SOL_SOCKET, SO_ERROR, &e, &n) ? -errno : -e;
}

/* Receive once, and read it. 0, or why the answer cannot go on. */
static int conn_recv(struct conn *k)
{
	char bytes[RECV_BYTES];
	ssize_t n = recv(k->fd, bytes, sizeof(bytes), MSG_DONTWAIT);

	if (n < 0 && (errno == EAGAIN || errno == EWOULDBLOCK || errno == EINTR))
		return 0;
	if (n < 0)
		return errno == ECONNRESET ? -EPIPE : -errno;
	return fhl_answer_feed(&k->answer, bytes, (size_t)n);
}

/* Something happened to @k's socket. 0, or why its request failed. */
static int conn_event(struct http *h, struct conn *k, uint32_t events)
{
	int rc = 0;

	if (k->state == CONN_IDLE) {
		/* An idle connection has nothing to say but that it closes. */
		conn_close(h, k);
		return 0;
	}
	if (k->state == CONN_CONNECT && (events & (EPOLLOUT | EPOLLERR | EPOLLHUP))) {
		rc = socket_error(k->fd);
		if (!rc)
			k->state = CONN_SEND;
	}
	if (!rc && k->state == CONN_SEND && (events & EPOLLOUT))
		rc = conn_send(h, k);
	/* A refusal may come before everything was sent. */
	if (events & (EPOLLIN | EPOLLHUP | EPOLLERR) && k->state != CONN_CONNECT) {
		int got = conn_recv(k);

		rc = got || k->answer.any ? got : rc;
	}
	if (rc && k->reused && !k->answer.any && (rc == -EPIPE || rc == -ECONNRESET)) {
		conn_close(h, k);
		rc = conn_start(h, k, k->answer.stream);
	}
	if (!rc && k->answer.complete)
		conn_rest(h, k);
	return rc;
}

/* As a transport */

static int failed(struct fh_client *c, struct conn *k, int rc)
{
	if (k->answer.message[0])
		return fh_errf(&c->err, rc, "%s: %s", c->where, k->answer.message);
	return fh_errf(&c->err, rc, "%s: %s", c->where,
		       rc == -EPIPE ? "the server closed the connection" : strerror(-rc));
}

/* The end of @k's request, which its server did not tell. */
static void end_badly(struct fh_client *c, struct conn *k, struct fh_token *t, uint32_t finish, int error)
{
	struct http *h = c->t;

	fhl_token_begin(t, k->req);
	t->flags = FH_SLOT_LAST | FH_SLOT_NO_TOKEN;
	t->finish = finish;
	t->error = error;
	fhl_req_put(c, k->req);
	k->req = NULL;
	conn_close(h, k);
}

static void translate(struct fh_client *c, struct conn *k, const struct fhl_piece *p, struct fh_token *t)
{
	struct fhl_req *r = k->req;

	fhl_token_begin(t, r);
	t->flags = p->flags;
	t->logprob = p->logprob;
	t->finish = p->finish;
	t->error = p->error;
	t->text = p->text_bytes ? k->answer.texts + p->text : "";
	t->text_bytes = p->text_bytes;
	if (!(p->flags & FH_SLOT_NO_TOKEN)) {
		t->token = p->token;
		r->nr_tokens++;
	}
	if (p->error) {
		t->retry_us = k->answer.retry_us;
		failed(c, k, p->error);
	}
	if (!(p->flags & FH_SLOT_LAST))
		return;
	fhl_req_put(c, r);
	k->req = NULL;
	if (k->answer.complete)
		conn_rest(c->t, k);
}

/* A piece that has been read already. */
static bool next_piece(struct fh_client *c, struct fh_token *t)
{
	struct http *h = c->t;

	for (uint32_t i = 0; i < h->nr_conns; i++) {
		struct conn *k = &h->conns[(h->turn + i) % h->nr_conns];
		const struct fhl_piece *p = k->req ? fhl_answer_next(&k->answer) : NULL;

		if (!k->req || (!p && !k->failure && !k->req->cancel))
			continue;
		h->turn = (uint32_t)(k - h->conns) + 1;
		if (k->req->cancel) {
			end_badly(c, k, t, FH_FINISH_CANCELLED, 0);
		} else if (p) {
			translate(c, k, p, t);
		} else {
			failed(c, k, k->failure);
			end_badly(c, k, t, FH_FINISH_ERROR, k->failure);
		}
		return true;
	}
	return false;
}

static int http_look(struct fh_client *c, struct fh_token *t)
{
	struct http *h = c->t;
	struct epoll_event e[16];
	int n;

	if (next_piece(c, t))
		return 0;
	n = epoll_wait(h->ep, e, 16, 0);
	for (int i = 0; i < n; i++) {
		struct conn *k = &h->conns[e[i].data.u32];
		int rc = k->state == CONN_FREE ? 0 : conn_event(h, k, e[i].events);

		if (!rc)
			continue;
		/* What came before it broke off is still told, by next_piece(). */
		k->failure = rc;
		conn_close(h, k);
	}
	return next_piece(c, t) ? 0 : -EAGAIN;
}

static struct conn *conn_get(struct http *h)
{
	struct conn *unused = NULL, *rest = NULL;

	for (uint32_t i = 0; i < h->nr_conns; i++) {
		struct conn *k = &h->conns[i];

		if (k->state == CONN_IDLE)
			return k;
		if (!k->req && k->state == CONN_FREE)
			unused = unused ? unused : k;
		else if (!k->req)
			rest = k;
	}
	/* A server that never ends its answers costs the reuse of its connections, and no more. */
	if (!unused && rest) {
		conn_close(h, rest);
		unused = rest;
	}
	return unused;
}

static int http_submit(struct fh_client *c, struct fhl_req *r, const struct fhl_prompt *prompt,
		       const struct fh_params *p)
{
	struct http *h = c->t;
	struct conn *k = conn_get(h);
	int rc;

	if (!k)
		return fh_errf(&c->err, -EAGAIN, "%s: all connections are in use: read tokens first", c->where);
	rc = fhl_request_completion(c, h->host, prompt, p, &k->out);
	if (rc)
		return rc;
	rc = conn_start(h, k, true);
	if (rc)
		return fh_errf(&c->err, rc == -ECONNREFUSED || rc == -ENOENT || rc == -ECONNRESET ? -EPIPE : rc,
			       "%s: %s: is the server still there?", c->where, strerror(-rc));
	k->req = r;
	k->failure = 0;
	return 0;
}

/* The server ends a request whose connection closes; that it ended is told by next_piece(). */
static int http_cancel(struct fh_client *c, struct fhl_req *r)
{
	(void)c;
	(void)r;
	return 0;
}

static int http_arm(struct fh_client *c)
{
	struct http *h = c->t;

	/* The epoll descriptor shows what the kernel has; what we have is shown by look(). */
	for (uint32_t i = 0; i < h->nr_conns; i++) {
		const struct conn *k = &h->conns[i];

		if (k->req && (k->failure || k->req->cancel || k->answer.next_piece < k->answer.nr_pieces))
			return -EALREADY;
	}
	return 0;
}

static int http_wait(struct fh_client *c, uint64_t until_ns)
{
	struct http *h = c->t;
	struct epoll_event e;

	return epoll_wait(h->ep, &e, 1, fhl_left_ms(until_ns, 60000)) < 0 && errno == EINTR ? -EINTR : 0;
}

static int http_fd(struct fh_client *c)
{
	return ((struct http *)c->t)->ep;
}

static void http_free(struct http *h)
{
	for (uint32_t i = 0; h->conns && i < h->nr_conns; i++) {
		conn_close(h, &h->conns[i]);
		fhl_bytes_free(&h->conns[i].out);
		fhl_answer_free(&h->conns[i].answer);
	}
	if (h->ep >= 0)
		close(h->ep);
	free(h->conns);
	free(h);
}

static void http_close(struct fh_client *c)
{
	http_free(c->t);
}

#define HTTP_OPS(transport)                                                                                            \
	{                                                                                                              \
		.name = transport, .submit = http_submit, .cancel = http_cancel, .look = http_look, .arm = http_arm,   \
		.wait = http_wait, .fd = http_fd, .close = http_close,                                                 \
	}

static const struct fhl_ops http_ops = HTTP_OPS("http");
static const struct fhl_ops http_unix_ops = HTTP_OPS("http+unix");

/* Opening */

/* The whole exchange of one request that brings no tokens. */
static int exchange(struct fh_client *c, struct http *h, struct conn *k)
{
	int rc = conn_start(h, k, false);

	while (!rc && !k->answer.complete) {
		struct pollfd p = {.fd = k->fd, .events = k->state == CONN_RECV ? POLLIN : POLLIN | POLLOUT};
		int left = fhl_left_ms(c->opt.open_deadline_ns, 60000);

		if (!left)
			return -ETIMEDOUT;
		if (poll(&p, 1, left) > 0)
			rc = conn_event(h, k, (uint32_t)p.revents); /* whose bits are epoll's */
	}
	return rc;
}

/* Is it a server that we can talk to, does it know our key, and which model has it? */
static int ask_model(struct fh_client *c, struct http *h)
{
	struct conn *k = &h->conns[0];
	int rc = fhl_request_get(c, h->host, "/v1/models", &k->out);

	if (rc)
		return rc;
	rc = exchange(c, h, k);
	if (rc)
		return failed(c, k, rc);
	if (k->answer.status == 401 || k->answer.status == 403)
		return fh_errf(&c->err, -EACCES, "%s: %s: set api_key in the options of fh_open()", c->where,
			       k->answer.message);
	if (k->answer.status != 200)
		return fh_errf(&c->err, -EPROTO, "%s: GET /v1/models: status %d: %s", c->where, k->answer.status,
			       k->answer.message);
	rc = fhl_answer_model(&k->answer, c->opt.model, c->model, sizeof(c->model), &c->nr_ctx);
	if (rc)
		return fh_errf(&c->err, rc,
			       rc == -ENOENT ? "%s: the server has no model '%s'"
					     : "%s: GET /v1/models: that is no list of models%s",
			       c->where, rc == -ENOENT && c->opt.model ? c->opt.model : "");
	return 0;
}

static int open_unix(struct fh_client *c, struct http *h, const char *path)
{
	struct sockaddr_un a = {.sun_family = AF_UNIX};

	if (strlen(path) >= sizeof(a.sun_path))
		return fh_errf(&c->err, -ENAMETOOLONG, "%s: a socket's path has at most %zu bytes", c->where,
			       sizeof(a.sun_path) - 1);
	strcpy(a.sun_path, path);
	memcpy(&h->addr, &a, sizeof(a));
	h->addr_bytes = sizeof(a);
	strcpy(h->host, "localhost");
	return ask_model(c, h);
}

static int open_tcp(struct fh_client *c, struct http *h, const char *host, const char *port)
{
	struct addrinfo hints = {.ai_socktype = SOCK_STREAM, .ai_flags = AI_ADDRCONFIG}, *list, *a;
	int rc;

	rc = getaddrinfo(host, port, &hints, &list);
	/* AI_ADDRCONFIG knows no loopback: a host with nothing else still has 127.0.0.1. */
	if (rc) {
		hints.ai_flags = 0;
		rc = getaddrinfo(host, port, &hints, &list);
	}
	if (rc)
		return fh_errf(&c->err, -ENXIO, "%s: %s", c->where, gai_strerror(rc));
	snprintf(h->host, sizeof(h->host), strchr(host, ':') ? "[%s]:%s" : "%s:%s", host, port);
	rc = -ENXIO;
	for (a = list; a; a = a->ai_next) {
		memcpy(&h->addr, a->ai_addr, a->ai_addrlen);
		h->addr_bytes = a->ai_addrlen;
		rc = ask_model(c, h);
		if (rc != -ECONNREFUSED && rc != -ENETUNREACH && rc != -EHOSTUNREACH && rc != -EADDRNOTAVAIL)
			break;
		conn_close(h, &h->conns[0]);
	}
	freeaddrinfo(list);
	return rc;
}

int fhl_http_open(struct fh_client *c, const char *host, const char *port, const char *path)
{
	struct http *h = calloc(1, sizeof(*h));
	int rc;

	if (!h)
		return fh_errf(&c->err, -ENOMEM, "out of memory");
	/* More than requests: one whose request has ended may still be reading its answer's end. */
	h->nr_conns = 2 * c->opt.max_requests;
	h->conns = calloc(h->nr_conns, sizeof(*h->conns));
	h->ep = epoll_create1(EPOLL_CLOEXEC);
	for (uint32_t i = 0; h->conns && i < h->nr_conns; i++)
		h->conns[i].fd = -1;
	if (!h->conns || h->ep < 0)
		rc = fh_errf(&c->err, h->conns ? -errno : -ENOMEM, "%s: %s", c->where,
			     h->conns ? strerror(errno) : "out of memory");
	else
		rc = path ? open_unix(c, h, path) : open_tcp(c, h, host, port);
	if (rc) {
		http_free(h);
		return rc;
	}
	c->ops = path ? &http_unix_ops : &http_ops;
	c->t = h;
	return 0;
}
