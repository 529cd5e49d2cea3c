// SPDX-License-Identifier: Apache-2.0
/*
 * A connection whose keys have sealed as many records as they may, which is a few
 * here.  The client is OpenSSL's own.  Where the kernel seals, it is one that takes
 * every key and seals nothing, so that the client of that test reads what was given
 * to it.
 */
#include <arpa/inet.h>
#include <linux/tls.h>
#include <netinet/tcp.h>
#include <openssl/ssl.h>
#include <sys/socket.h>
#include <sys/syscall.h>

#include "tests/unit/http_server.h"
#include "tests/unit/tls_cert.h"

#define MAX_RECORDS 40

int setsockopt(int fd, int level, int name, const void *value, socklen_t n)
{
	if ((level == IPPROTO_TCP && name == TCP_ULP) || (level == SOL_TLS && name == TLS_TX))
		return 0;
	return (int)syscall(SYS_setsockopt, fd, level, name, value, n);
}

struct session {
	struct server *s;
	SSL_CTX *ctx;
	SSL *ssl;
	int fd;
	unsigned int nr_updates, nr_asked; /* KeyUpdates that came, and those that want one back */
};

static void on_message(int write_p, int version, int type, const void *buf, size_t n, SSL *ssl, void *arg)
{
	struct session *c = arg;
	const uint8_t *b = buf;

	(void)version;
	(void)ssl;
	if (write_p || type != SSL3_RT_HANDSHAKE || n != 5 || b[0] != SSL3_MT_KEY_UPDATE)
		return;
	c->nr_updates++;
	c->nr_asked += b[4];
}

static void client_up(struct session *c, bool epoll, enum fh_http_offload offload)
{
	struct sockaddr_in a = {.sin_family = AF_INET};

	*c = (struct session){.s = server_make(epoll)};
	make_cert();
	c->s->cfg.listen_tls[0] = true;
	c->s->cfg.tls_cert = cert_path;
	c->s->cfg.tls_key = key_path;
	c->s->cfg.tls_offload = (uint8_t)offload;
	c->s->cfg.tls_max_records = MAX_RECORDS;
	server_start(c->s);
	a.sin_port = htons((uint16_t)atoi(strrchr(c->s->url, ':') + 1));
	a.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
	c->fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	cr_assert_eq(connect(c->fd, (struct sockaddr *)&a, sizeof(a)), 0);
	c->ctx = SSL_CTX_new(TLS_client_method());
	c->ssl = SSL_new(c->ctx);
	SSL_set_fd(c->ssl, c->fd);
	SSL_set_msg_callback(c->ssl, on_message);
	SSL_set_msg_callback_arg(c->ssl, c);
	cr_assert_eq(SSL_connect(c->ssl), 1);
}

static void client_down(struct session *c)
{
	SSL_free(c->ssl);
	SSL_CTX_free(c->ctx);
	close(c->fd);
	server_down(c->s);
	forget_cert();
}

/* Ask once, in @nr_records of them; true: and it was answered well. @by_hand: not sealed. */
static bool ask(struct session *c, int nr_records, bool by_hand, char *got, size_t cap)
{
	static const char request[] = "GET /v1/models HTTP/1.1\r\nHost: x\r\n\r\n";
	int n = sizeof(request) - 1, at = 0, part = (n + nr_records - 1) / nr_records;
	size_t nr = 0;
	ssize_t m;

	for (; at < n; at += part)
		if (SSL_write(c->ssl, request + at, n - at < part ? n - at : part) <= 0)
			return false;
	got[0] = 0;
	while (!strstr(got, "\"list\"")) {
		m = by_hand ? recv(c->fd, got + nr, cap - 1 - nr, 0) : SSL_read(c->ssl, got + nr, (int)(cap - 1 - nr));
		if (m <= 0)
			return false;
		nr += (size_t)m;
		got[nr] = 0;
	}
	return !strncmp(got, "HTTP/1.1 200", 12);
}

HTTP_TEST(tls_openssl_takes_new_keys)
{
	struct session c;
	char got[4096];

	client_up(&c, epoll, FH_HTTP_OFFLOAD_OFF);
	for (int i = 0; i < MAX_RECORDS - 1; i++)
		cr_assert(ask(&c, 1, false, got, sizeof(got)), "request %d", i);
	cr_expect_eq(c.nr_updates, 0);
	for (int i = 0; i < 3 * MAX_RECORDS; i++)
		cr_assert(ask(&c, 1, false, got, sizeof(got)), "request %d after it", i);
	/* Both sides have sent as many: the client is asked for its own. */
	cr_expect_eq(c.nr_updates, 3);
	cr_expect_eq(c.nr_asked, 3);
	cr_expect(!strstr(got, "Connection: close"));
	client_down(&c);
}

/* A client that sends much more than it gets: its key is the one that wears out. */
HTTP_TEST(tls_the_clients_keys_wear_out)
{
	struct session c;
	char got[4096];

	client_up(&c, epoll, FH_HTTP_OFFLOAD_OFF);
	for (int i = 0; i < 12; i++)
		cr_assert(ask(&c, 19, false, got, sizeof(got)), "request %d", i);
	cr_expect_geq(c.nr_asked, 3);
	cr_expect_leq(c.nr_asked, 6);
	client_down(&c);
}

HTTP_TEST(tls_what_the_kernel_seals_ends_in_time)
{
	struct session c;
	char got[4096];
	int nr = 0;
	ssize_t n;

	client_up(&c, epoll, FH_HTTP_OFFLOAD_ON);
	do
		cr_assert(ask(&c, 1, true, got, sizeof(got)), "request %d", nr);
	while (++nr <= MAX_RECORDS && !strstr(got, "Connection: close"));
	/* The answer to the request that is the last record of a key says that it is the last one. */
	cr_expect_eq(nr, MAX_RECORDS, "%d", nr);
	do
		n = recv(c.fd, got, sizeof(got), 0);
	while (n > 0); /* an alert, which the kernel was to send */
	cr_expect_eq(n, 0);
	client_down(&c);
}
