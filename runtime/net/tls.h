/* SPDX-License-Identifier: Apache-2.0 */
/*
 * TLS 1.3 (RFC 8446) by OpenSSL, as bytes in and bytes out: no sockets.
 *
 * libssl is loaded when TLS is asked for, so that the program runs where it is
 * not installed.  Only TLS 1.3 is spoken, without tickets, early data or
 * renegotiation; ALPN offers http/1.1.
 *
 * A session belongs to one thread at a time.  It reads ciphertext from where it
 * was received (src, nr_src) and leaves ciphertext in `wire`.
 */
#ifndef FH_NET_TLS_H
#define FH_NET_TLS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "runtime/base/err.h"
#include "runtime/base/guard.h"
#include "runtime/net/buf.h"

struct fh_tls_lib; /* libssl */
struct ssl_ctx_st; /* SSL_CTX: certificates and settings; counted by OpenSSL */
struct ssl_st;

int fh_tls_lib_open(struct fh_tls_lib **out, struct fh_err *err);
/* After every session and context is gone. NULL is fine. */
void fh_tls_lib_close(struct fh_tls_lib *lib);

struct fh_tls_files {
	const char *cert; /* PEM: the server's certificate, then those that it needs */
	const char *key;  /* PEM */
	const char *ca;	  /* PEM: whose word is taken on clients; NULL: clients are not asked */
	bool required;	  /* with ca: who shows no certificate is refused in the handshake */
};

/* Any thread. 0, or -errno with @err, which names the file. */
int fh_tls_ctx_load(struct fh_tls_lib *lib, const struct fh_tls_files *files, struct ssl_ctx_st **out,
		    struct fh_err *err);
/* Sessions that use it keep it. NULL is fine. */
void fh_tls_ctx_free(struct fh_tls_lib *lib, struct ssl_ctx_st *ctx);

struct fh_tls {
	struct fh_tls_lib *lib;
	struct ssl_st *ssl;
	const char *src; /* ciphertext to be read; the caller sets both before a call */
	size_t nr_src;
	struct fh_buf wire; /* ciphertext to be sent; the caller takes it */
	struct fh_guard_cert cert;
	bool has_cert; /* the client showed one, and it was verified */
	bool closed;   /* close_notify was written, or it is of no use */
};

/* -ENOMEM. */
int fh_tls_init(struct fh_tls *t, struct fh_tls_lib *lib, struct ssl_ctx_st *ctx);
void fh_tls_free(struct fh_tls *t);

/* 1: done, cert is set; 0: more is wanted; -EPROTO: failed, and an alert may be in `wire`. */
int fh_tls_handshake(struct fh_tls *t);
/* Bytes of plaintext; 0: all of src was read; -EPIPE: the peer says that nothing follows; -EPROTO: it is broken. */
ssize_t fh_tls_read(struct fh_tls *t, char *out, size_t cap);
/* Seal all of it. 0, -ENOMEM, -EPROTO. */
int fh_tls_write(struct fh_tls *t, const char *p, size_t n);
/* Write close_notify, once. */
void fh_tls_shutdown(struct fh_tls *t);

#endif /* FH_NET_TLS_H */
