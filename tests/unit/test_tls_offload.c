// SPDX-License-Identifier: Apache-2.0
/*
 * What is handed to the kernel, and what is not: OpenSSL as the client, its bytes
 * carried by hand, and a kernel that takes every key.  Where setsockopt() is the
 * real one, tests/e2e/test_ktls.py looks at the records.
 */
#include <linux/tls.h>
#include <openssl/ssl.h>
#include <sys/socket.h>
#include <sys/syscall.h>

#include "runtime/net/tls.h"
#include "tests/unit/tls_cert.h"

static unsigned int nr_keys;

/* Of descriptor -1, which is the kernel's here. Criterion has sockets of its own. */
int setsockopt(int fd, int level, int name, const void *value, socklen_t n)
{
	if (fd != -1)
		return (int)syscall(SYS_setsockopt, fd, level, name, value, n);
	nr_keys += level == SOL_TLS && name == TLS_TX;
	return 0;
}

struct pair {
	struct fh_tls_lib *lib;
	struct ssl_ctx_st *ctx;
	struct fh_tls t;
	SSL_CTX *client_ctx;
	SSL *client;
	BIO *in, *out; /* the client's */
	char flight[16384];
};

/* Up to the client's last flight, which it has written and nobody has seen. */
static void pair_up(struct pair *p)
{
	struct fh_tls_files files = {.offload = true};
	struct fh_err err = {0};

	make_cert();
	files.cert = cert_path;
	files.key = key_path;
	cr_assert_eq(fh_tls_lib_open(&p->lib, &err), 0, "%s", err.msg);
	cr_assert_eq(fh_tls_ctx_load(p->lib, &files, &p->ctx, &err), 0, "%s", err.msg);
	cr_assert_eq(fh_tls_init(&p->t, p->lib, p->ctx), 0);
	p->client_ctx = SSL_CTX_new(TLS_client_method());
	p->client = SSL_new(p->client_ctx);
	p->in = BIO_new(BIO_s_mem());
	p->out = BIO_new(BIO_s_mem());
	SSL_set_bio(p->client, p->in, p->out);
	cr_assert_lt(SSL_connect(p->client), 0);
	p->t.nr_src = (size_t)BIO_read(p->out, p->flight, sizeof(p->flight));
	p->t.src = p->flight;
	cr_assert_eq(fh_tls_handshake(&p->t), 0);
	cr_assert_eq(BIO_write(p->in, p->t.wire.data, (int)p->t.wire.len), (int)p->t.wire.len);
	fh_buf_reset(&p->t.wire, 0);
	cr_assert_eq(SSL_connect(p->client), 1);
}

/* The server takes that flight and the request behind it. */
static void take_request(struct pair *p)
{
	char got[64];

	cr_assert_eq(SSL_write(p->client, "question", 8), 8);
	p->t.nr_src = (size_t)BIO_read(p->out, p->flight, sizeof(p->flight));
	p->t.src = p->flight;
	cr_assert_eq(fh_tls_handshake(&p->t), 1);
	cr_assert_gt(p->t.nr_src, 0, "the request came with the flight");
	cr_assert_eq(fh_tls_read(&p->t, got, sizeof(got)), 8);
	cr_assert_arr_eq(got, "question", 8);
}

static void pair_down(struct pair *p)
{
	SSL_free(p->client);
	SSL_CTX_free(p->client_ctx);
	fh_tls_free(&p->t);
	fh_tls_ctx_free(p->lib, p->ctx);
	fh_tls_lib_close(p->lib);
	forget_cert();
}

Test(tls_offload, key_of_the_handshake)
{
	struct pair p = {0};

	pair_up(&p);
	/* Of its own keys alone: ours stay. */
	cr_assert_eq(SSL_key_update(p.client, SSL_KEY_UPDATE_NOT_REQUESTED), 1);
	take_request(&p);
	cr_expect(fh_tls_offload(&p.t, -1));
	cr_expect_eq(nr_keys, 1);
	pair_down(&p);
}

/* New keys are asked for before the first answer: OpenSSL says so and seals with them; the kernel is given none. */
Test(tls_offload, key_update_behind_the_handshake)
{
	struct pair p = {0};
	char got[64];

	pair_up(&p);
	cr_assert_eq(SSL_key_update(p.client, SSL_KEY_UPDATE_REQUESTED), 1);
	take_request(&p);
	cr_expect(!fh_tls_offload(&p.t, -1));
	cr_expect_eq(nr_keys, 0);
	cr_assert_eq(fh_tls_write(&p.t, "answer", 6), 0);
	/* The answer's record, and a KeyUpdate before it. */
	cr_expect_gt(p.t.wire.len, 6 + 2 * (5 + 1 + 16));
	cr_assert_eq(BIO_write(p.in, p.t.wire.data, (int)p.t.wire.len), (int)p.t.wire.len);
	cr_assert_eq(SSL_read(p.client, got, sizeof(got)), 6);
	cr_expect_arr_eq(got, "answer", 6);
	pair_down(&p);
}
