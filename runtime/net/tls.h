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
 *
 * What is sent can be handed to the kernel (tls_kernel.h).  OpenSSL goes on to
 * read; what it would send by itself never leaves, for the kernel has used that
 * record number: an alert is kept to be sent by the kernel, and the answer that a
 * key update wants cannot be given, because Linux takes a second key only from
 * 6.14 on.
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
#include "runtime/net/tls_kernel.h"

#define FH_TLS_SECRET_MAX 48

/*
 * Records that a key is used for before another one is wanted.  AES-GCM bears 2^24.5 of full size (RFC 8446, 5.5),
 * which leaves what runs 7 million more; a quarter more than this is the end.
 */
#define FH_TLS_MAX_RECORDS (1u << 24)

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
	bool offload;	  /* sessions keep what fh_tls_offload() needs */
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
	/* For fh_tls_offload(): of the handshake, and what was made of it; suite 0: it cannot be handed over. */
	uint8_t secret[FH_TLS_SECRET_MAX];
	size_t nr_secret;
	struct fh_tls_tx tx;
	bool offloaded;		   /* the kernel seals */
	bool rekey;		   /* and the peer has asked for new keys, which it cannot have */
	uint8_t alert[2];	   /* for the kernel to send, once: level, and what; level 0: none */
	uint64_t nr_sent, nr_read; /* records since a key of ours, or of the peer's, was last known to be new */
	uint64_t max_records;	   /* of either; for tests: may be set after fh_tls_init() */
	uint64_t nr_updates;	   /* KeyUpdates that were written; whoever reports them may clear it */
	uint64_t nr_copied;	   /* bytes of records that were copied, on top of being sealed or opened */
};

/* -ENOMEM. */
int fh_tls_init(struct fh_tls *t, struct fh_tls_lib *lib, struct ssl_ctx_st *ctx);
void fh_tls_free(struct fh_tls *t);

/* 1: done, cert is set; 0: more is wanted; -EPROTO: failed, and an alert may be in `wire`. */
int fh_tls_handshake(struct fh_tls *t);
/* Bytes of plaintext; 0: all of src was read; -EPIPE: the peer says that nothing follows; -EPROTO: it is broken. */
ssize_t fh_tls_read(struct fh_tls *t, char *out, size_t cap);
/* Seal all of it, with a new key where that is due. 0, -ENOMEM, -EPROTO. */
int fh_tls_write(struct fh_tls *t, const char *p, size_t n);
/* Write close_notify, once; offloaded: into alert. */
void fh_tls_shutdown(struct fh_tls *t);

/* Offloaded: internal_error into alert. */
void fh_tls_alert(struct fh_tls *t);

/*
 * After the handshake, while nothing is left to be sent, `wire` included: let the
 * kernel seal what @fd sends.  True: fh_tls_write() is not called any more.  It is
 * tried once; the key is gone afterwards.
 */
bool fh_tls_offload(struct fh_tls *t, int fd);

/* Offloaded: the kernel is given @n bytes to send. False: it must not, for its key has sealed too much. */
bool fh_tls_kernel_sends(struct fh_tls *t, size_t n);
/* Offloaded, which leaves no way to a new key, and one is wanted: nothing new should be begun. */
bool fh_tls_worn(const struct fh_tls *t);

/* tls_key.c */
/*
 * Key and IV of a traffic secret. 0; -EINVAL: the suite is not one of ours, or the
 * secret's length not the suite's; -EIO.
 */
int fh_tls_derive(struct fh_tls_lib *lib, uint16_t suite, const uint8_t *secret, size_t nr_secret,
		  struct fh_tls_tx *out);
/* The server's first traffic secret, if that is what a line of the key log (NSS's format) holds: its bytes, or 0. */
size_t fh_tls_keylog_secret(const char *line, uint8_t out[FH_TLS_SECRET_MAX]);

#endif /* FH_NET_TLS_H */
