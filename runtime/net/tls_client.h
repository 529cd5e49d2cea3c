/* SPDX-License-Identifier: Apache-2.0 */
/*
 * TLS from the client's side: on a connected, blocking socket for tools that ask
 * a server now and then, or as a session whose bytes its owner carries.  TLS 1.2
 * and 1.3, for what is between may be a proxy.  The server's certificate is
 * verified, and has to be of the name that was asked for, unless the dialer was
 * told not to look.
 */
#ifndef FH_NET_TLS_CLIENT_H
#define FH_NET_TLS_CLIENT_H

#include <stdbool.h>
#include <stddef.h>
#include <sys/types.h>

#include "runtime/base/err.h"

struct fh_tls;
struct fh_tls_dialer; /* whom to trust, and who we are */
struct fh_tls_link;   /* one connection */

struct fh_tls_trust {
	const char *ca;		/* PEM: CAs; NULL: those of the system */
	const char *cert, *key; /* PEM: who we are; NULL: nobody */
	bool insecure;		/* take any certificate: for measurements, not for secrets */
};

/* 0, or -errno with @err, which names the file. */
int fh_tls_dialer_open(const struct fh_tls_trust *trust, struct fh_tls_dialer **out, struct fh_err *err);
/* After its links. NULL is fine. */
void fh_tls_dialer_close(struct fh_tls_dialer *d);

/*
 * A session with @host that begins at its first fh_tls_handshake() (tls.h), for a caller who carries its bytes.  0, or
 * -errno with @err; then, too, fh_tls_free() is due.
 */
int fh_tls_client_init(struct fh_tls_dialer *d, const char *host, struct fh_tls *t, struct fh_err *err);
/* Why its handshake failed, into @err: never 0. */
int fh_tls_client_why(struct fh_tls *t, const char *host, struct fh_err *err);

/* The handshake with @host, a name or an address. @fd stays the caller's. 0, or -errno with @err. */
int fh_tls_dial(struct fh_tls_dialer *d, int fd, const char *host, struct fh_tls_link **out, struct fh_err *err);
/* All of it. 0 or -errno. */
int fh_tls_link_send(struct fh_tls_link *l, const char *p, size_t n);
/* Bytes; 0: the server has said that nothing follows; -ECONNRESET: it is gone without a word; -errno. */
ssize_t fh_tls_link_recv(struct fh_tls_link *l, char *out, size_t cap);
/* Says that nothing follows. NULL is fine. */
void fh_tls_link_close(struct fh_tls_link *l);

#endif /* FH_NET_TLS_CLIENT_H */
