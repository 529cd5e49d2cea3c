// SPDX-License-Identifier: Apache-2.0
/*
 * TLS in front of the small service, on both backends: many clients at once,
 * certificates that change meanwhile, clients that leave at any moment.  The
 * client is OpenSSL's own; the certificate is made here.
 */
#include <arpa/inet.h>
#include <netinet/in.h>
#include <openssl/err.h>
#include <openssl/ssl.h>
#include <sys/socket.h>

#include "tests/unit/http_server.h"
#include "tests/unit/tls_cert.h"

#define NR_CLIENTS 4
#define NR_ROUNDS 12

static struct server *tls_up(bool epoll, uint32_t timeout_ms)
{
	struct server *s = server_make(epoll);

	make_cert();
	s->cfg.listen_tls[0] = true;
	s->cfg.tls_cert = cert_path;
	s->cfg.tls_key = key_path;
	s->cfg.tls_timeout_ms = timeout_ms;
	server_start(s);
	cr_assert(!strncmp(s->url, "https://", 8));
	return s;
}

static int dial(const struct server *s)
{
	struct sockaddr_in a = {.sin_family = AF_INET, .sin_port = htons((uint16_t)atoi(strrchr(s->url, ':') + 1))};
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

	a.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
	cr_assert_eq(connect(fd, (struct sockaddr *)&a, sizeof(a)), 0);
	return fd;
}

struct tls_client {
	const struct server *s;
	SSL_CTX *ctx;
	unsigned int nr_ok, seed;
};

/* A request of @n bytes of prompt; how many of the echo came back. */
static size_t ask(SSL *ssl, size_t n)
{
	char head[256], *body = malloc(n + 128), buf[8192];
	size_t got = 0, len = (size_t)sprintf(body, "{\"max_tokens\": 1, \"prompt\": \"");
	int m;

	memset(body + len, 'x', n);
	len += n;
	memcpy(body + len, "\"}", 2);
	len += 2;
	m = sprintf(head,
		    "POST /v1/completions HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: %zu\r\n\r\n",
		    len);
	if (SSL_write(ssl, head, m) == m && SSL_write(ssl, body, (int)len) == (int)len) {
		while ((m = SSL_read(ssl, buf, sizeof(buf) - 1)) > 0) {
			if (!got && !strncmp(buf, "HTTP/1.1 200", 12))
				got = 1;
		}
	}
	free(body);
	return got;
}

static void one_connection(struct tls_client *c, int round)
{
	int fd = dial(c->s);
	SSL *ssl = SSL_new(c->ctx);

	SSL_set_fd(ssl, fd);
	/* Some go away: after the first flight, after the handshake, in the midst of a request. */
	if (round % 4 == 1) {
		if (write(fd, "\x16\x03\x01\x02", 4) != 4)
			cr_expect_fail("write");
	} else if (SSL_connect(ssl) != 1) {
		cr_expect_fail("no handshake");
	} else if (round % 4 == 2) {
		SSL_write(ssl, "POST /v1/comp", 13);
	} else if (round % 4 == 3) {
		c->nr_ok += ask(ssl, 60000) == 1;
	} else {
		c->nr_ok += ask(ssl, 10) == 1;
	}
	SSL_free(ssl);
	close(fd);
}

static void *client_main(void *arg)
{
	struct tls_client *c = arg;

	for (int round = 0; round < NR_ROUNDS; round++)
		one_connection(c, round);
	return NULL;
}

HTTP_TEST(tls_many_clients_while_certificates_change)
{
	struct server *s = tls_up(epoll, 20000);
	SSL_CTX *ctx = SSL_CTX_new(TLS_client_method());
	struct tls_client c[NR_CLIENTS];
	pthread_t thread[NR_CLIENTS];
	struct fh_err err;

	for (int i = 0; i < NR_CLIENTS; i++) {
		c[i] = (struct tls_client){.s = s, .ctx = ctx};
		cr_assert_eq(pthread_create(&thread[i], NULL, client_main, &c[i]), 0);
	}
	for (int i = 0; i < 5; i++) {
		cr_expect_eq(fh_http_reload_tls(s->h, &err), 0, "%s", err.msg);
		usleep(2000);
	}
	for (int i = 0; i < NR_CLIENTS; i++) {
		pthread_join(thread[i], NULL);
		cr_expect_eq(c[i].nr_ok, NR_ROUNDS / 2, "client %d: %u", i, c[i].nr_ok);
	}
	SSL_CTX_free(ctx);
	server_down(s);
	forget_cert();
}

/* The run that the engine is told of: @apart: the body is in a record of its own, and comes later. */
static uint64_t run_of(struct server *s, SSL *ssl, bool apart)
{
	static const char request[] = "POST /v1/completions HTTP/1.1\r\nHost: x\r\nX-Freehold-Run-Id: agent-7\r\n"
				      "Content-Length: 300\r\n\r\n{\"max_tokens\": 1, \"prompt\": \"ab\"}";
	int head = (int)(strstr(request, "{") - request);
	char text[1024], got[4096] = "";

	snprintf(text, sizeof(text), "%-*s", head + 300, request);
	cr_assert_eq(SSL_write(ssl, text, apart ? head : head + 300), apart ? head : head + 300);
	usleep(20000);
	cr_assert(!apart || SSL_write(ssl, text + head, 300) == 300);
	for (int n = 0, m = 0; !strstr(got, "\"usage\""); n += m) {
		m = SSL_read(ssl, got + n, (int)sizeof(got) - 1 - n);
		cr_assert_gt(m, 0);
	}
	return atomic_load(&s->e.run);
}

HTTP_TEST(tls_a_run_is_that_of_the_head)
{
	struct server *s = tls_up(epoll, 20000);
	SSL_CTX *ctx = SSL_CTX_new(TLS_client_method());
	SSL *ssl = SSL_new(ctx);
	int fd = dial(s);
	uint64_t whole;

	SSL_set_fd(ssl, fd);
	cr_assert_eq(SSL_connect(ssl), 1);
	whole = run_of(s, ssl, false);
	cr_expect_neq(whole, 0);
	cr_expect_eq(run_of(s, ssl, true), whole);
	SSL_free(ssl);
	SSL_CTX_free(ctx);
	close(fd);
	server_down(s);
	forget_cert();
}

/* The end of the server comes while handshakes are under way and connections idle. */
HTTP_TEST(tls_stops_in_the_midst)
{
	struct server *s = tls_up(epoll, 20000);
	SSL_CTX *ctx = SSL_CTX_new(TLS_client_method());
	int fd[9];
	SSL *ssl = SSL_new(ctx);

	for (int i = 0; i < 9; i++)
		fd[i] = dial(s);
	SSL_set_fd(ssl, fd[0]);
	cr_assert_eq(SSL_connect(ssl), 1);
	for (int i = 1; i < 8; i++) {
		/* The helper may have it, or may not yet. */
		static const char hello[] = "\x16\x03\x01\x00\x05\x01\x00\x00\x01\x03";

		cr_expect_eq(write(fd[i], hello, (size_t)i), i);
	}
	server_down(s);
	SSL_free(ssl);
	SSL_CTX_free(ctx);
	for (int i = 0; i < 9; i++)
		close(fd[i]);
	forget_cert();
}

HTTP_TEST(tls_handshakes_have_their_time)
{
	struct server *s = tls_up(epoll, 400);
	int fd = dial(s);
	uint64_t begin_ns = fh_now_ns(), took_ms;
	char byte = 0x16;

	/* A byte each 50 ms: the whole must be over in 400 ms all the same. */
	while (send(fd, &byte, 1, MSG_NOSIGNAL) == 1 && fh_now_ns() - begin_ns < 20000000000u) {
		static const char next[] = "\x16\x03\x01\x40";
		static unsigned int at;

		byte = ++at < 4 ? next[at] : 1;
		usleep(50000);
	}
	took_ms = (fh_now_ns() - begin_ns) / 1000000;
	cr_expect_lt(took_ms, 10000, "%llu ms", (unsigned long long)took_ms);
	close(fd);
	server_down(s);
	forget_cert();
}

Test(http, tls_needs_files_that_fit)
{
	struct server *s = server_make(false);
	struct fh_err err;

	make_cert();
	s->cfg.listen_tls[0] = true;
	cr_expect_lt(fh_http_create(&s->cfg, &s->e.svc, &s->h, &err), 0);
	s->cfg.tls_cert = key_path;
	s->cfg.tls_key = key_path;
	cr_expect_lt(fh_http_create(&s->cfg, &s->e.svc, &s->h, &err), 0);
	cr_expect(strstr(err.msg, key_path), "%s", err.msg);
	s->cfg.tls_cert = cert_path;
	s->cfg.tls_ca = "/nonexistent";
	cr_expect_lt(fh_http_create(&s->cfg, &s->e.svc, &s->h, &err), 0);
	cr_expect(strstr(err.msg, "/nonexistent"), "%s", err.msg);
	free(s);
	forget_cert();
}
