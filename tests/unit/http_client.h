/* SPDX-License-Identifier: Apache-2.0 */
/* A blocking HTTP client for tests: it shows what the server really sent. */
#ifndef FH_TESTS_HTTP_CLIENT_H
#define FH_TESTS_HTTP_CLIENT_H

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <sys/un.h>
#include <unistd.h>

struct reply {
	int status; /* 0: the connection ended or timed out first */
	char *head; /* header, terminated */
	char *body; /* de-chunked, terminated */
	size_t n;   /* of body */
	bool chunked;
};

struct client {
	int fd;
	char *in; /* what was received and not used */
	size_t n, cap;
};

/* @rcvbuf: SO_RCVBUF, 0 for the kernel's own choice. */
static inline struct client client_open_with(const char *url, int rcvbuf)
{
	struct client c = {.fd = -1};
	struct timeval tv = {.tv_sec = 10};

	if (!strncmp(url, "unix:", 5)) {
		struct sockaddr_un sa = {.sun_family = AF_UNIX};

		snprintf(sa.sun_path, sizeof(sa.sun_path), "%s", url + 5);
		c.fd = socket(AF_UNIX, SOCK_STREAM, 0);
		if (connect(c.fd, (struct sockaddr *)&sa, sizeof(sa))) {
			close(c.fd);
			c.fd = -1;
		}
	} else {
		struct sockaddr_in sa = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};

		sa.sin_port = htons((uint16_t)atoi(strrchr(url, ':') + 1));
		c.fd = socket(AF_INET, SOCK_STREAM, 0);
		if (rcvbuf)
			setsockopt(c.fd, SOL_SOCKET, SO_RCVBUF, &rcvbuf, sizeof(rcvbuf));
		if (connect(c.fd, (struct sockaddr *)&sa, sizeof(sa))) {
			close(c.fd);
			c.fd = -1;
		}
	}
	if (c.fd >= 0)
		setsockopt(c.fd, SOL_SOCKET, SO_RCVTIMEO, &tv, sizeof(tv));
	return c;
}

static inline struct client client_open(const char *url)
{
	return client_open_with(url, 0);
}

static inline void client_close(struct client *c)
{
	if (c->fd >= 0)
		close(c->fd);
	free(c->in);
	*c = (struct client){.fd = -1};
}

static inline bool client_send(struct client *c, const void *p, size_t n)
{
	while (n) {
		ssize_t k = send(c->fd, p, n, MSG_NOSIGNAL);

		if (k <= 0)
			return false;
		p = (const char *)p + k;
		n -= (size_t)k;
	}
	return true;
}

static inline bool client_puts(struct client *c, const char *s)
{
	return client_send(c, s, strlen(s));
}

/* Receive more. False at the end or after 10 s. */
static inline bool client_more(struct client *c)
{
	ssize_t k;

	if (c->cap - c->n < 131072) {
		c->cap = c->cap * 2 + 262144;
		c->in = realloc(c->in, c->cap);
	}
	/* A ring that was torn down before may still interrupt the thread that made it. */
	do
		k = recv(c->fd, c->in + c->n, 131071, 0);
	while (k < 0 && errno == EINTR);
	if (k <= 0)
		return false;
	c->n += (size_t)k;
	c->in[c->n] = '\0';
	return true;
}

static inline void client_use(struct client *c, size_t n)
{
	memmove(c->in, c->in + n, c->n - n + 1);
	c->n -= n;
}

/* True once the peer has closed and nothing is left to read. */
static inline bool client_at_eof(struct client *c)
{
	ssize_t k;
	char ch;

	do
		k = recv(c->fd, &ch, 1, 0);
	while (k < 0 && errno == EINTR);
	return !c->n && k == 0;
}

static inline const char *reply_header(const struct reply *r, const char *name)
{
	static __thread char value[512];
	size_t n = strlen(name);

	for (const char *p = strstr(r->head, "\r\n"); p; p = strstr(p, "\r\n")) {
		p += 2;
		if (!strncasecmp(p, name, n) && p[n] == ':') {
			snprintf(value, sizeof(value), "%.*s", (int)strcspn(p + n + 2, "\r"), p + n + 2);
			return value;
		}
	}
	return NULL;
}

static inline bool client_need(struct client *c, size_t n)
{
	while (c->n < n)
		if (!client_more(c))
			return false;
	return true;
}

static inline bool client_read_chunks(struct client *c, struct reply *r)
{
	for (;;) {
		char *end;
		size_t size, line;

		while (!c->n || !(end = strstr(c->in, "\r\n")))
			if (!client_more(c))
				return false;
		size = strtoul(c->in, NULL, 16);
		line = (size_t)(end - c->in) + 2;
		if (!client_need(c, line + size + 2))
			return false;
		/* Doubled at powers of two, so that long streams stay linear. */
		if (!r->n || (r->n ^ (r->n + size)) >= r->n)
			r->body = realloc(r->body, 2 * (r->n + size) + 2);
		memcpy(r->body + r->n, c->in + line, size);
		r->n += size;
		r->body[r->n] = '\0';
		client_use(c, line + size + 2);
		if (!size)
			return true;
	}
}

/* One response. @no_body: it answers HEAD. */
static inline struct reply client_reply_to(struct client *c, bool no_body)
{
	struct reply r = {0};
	const char *length, *te;
	char *end;

	while (!c->n || !(end = strstr(c->in, "\r\n\r\n")))
		if (!client_more(c))
			return r;
	r.head = strndup(c->in, (size_t)(end - c->in) + 2);
	client_use(c, (size_t)(end - c->in) + 4);
	r.status = atoi(r.head + 9);
	r.body = calloc(1, 1);
	if (r.status == 100 || no_body)
		return r;
	te = reply_header(&r, "Transfer-Encoding");
	r.chunked = te && !strcmp(te, "chunked");
	length = r.chunked ? NULL : reply_header(&r, "Content-Length");
	if (r.chunked) {
		if (!client_read_chunks(c, &r))
			r.status = 0;
	} else if (length) {
		r.n = strtoul(length, NULL, 10);
		if (!client_need(c, r.n)) {
			r.status = 0;
			return r;
		}
		r.body = realloc(r.body, r.n + 1);
		memcpy(r.body, c->in ? c->in : "", r.n);
		r.body[r.n] = '\0';
		if (r.n)
			client_use(c, r.n);
	} else {
		while (client_more(c))
			;
		free(r.body);
		r.body = strndup(c->in ? c->in : "", c->n);
		r.n = c->n;
		c->n = 0;
	}
	return r;
}

static inline struct reply client_reply(struct client *c)
{
	return client_reply_to(c, false);
}

static inline void reply_free(struct reply *r)
{
	free(r->head);
	free(r->body);
	*r = (struct reply){0};
}

static inline bool client_request(struct client *c, const char *method, const char *path, const char *extra,
				  const char *body)
{
	size_t cap = strlen(body) + 1024;
	char *text = malloc(cap);
	int n = snprintf(text, cap, "%s %s HTTP/1.1\r\nHost: test\r\n%sContent-Length: %zu\r\n\r\n%s", method, path,
			 extra ? extra : "", strlen(body), body);
	bool ok = client_send(c, text, (size_t)n);

	free(text);
	return ok;
}

/* One request on a connection of its own. */
static inline struct reply fetch(const char *url, const char *method, const char *path, const char *body)
{
	struct client c = client_open(url);
	struct reply r = {0};

	if (c.fd >= 0 && client_request(&c, method, path, NULL, body))
		r = client_reply_to(&c, !strcmp(method, "HEAD"));
	client_close(&c);
	return r;
}

#endif /* FH_TESTS_HTTP_CLIENT_H */
