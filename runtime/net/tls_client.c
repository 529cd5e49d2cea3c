// SPDX-License-Identifier: Apache-2.0
/* The client's side: a context that verifies, and a session that is pumped through a blocking socket. */
#include "runtime/net/tls_client.h"

#include <arpa/inet.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#include "runtime/net/tls.h"
#include "runtime/net/tls_lib.h"

struct fh_tls_dialer {
	struct fh_tls_lib *lib;
	SSL_CTX *ctx;
};

struct fh_tls_link {
	struct fh_tls t;
	int fd;
	char in[16384]; /* received; what of it was not opened yet is where t.src says */
};

/* What OpenSSL says first is closest to the cause. */
static int fail(struct fh_tls_lib *l, const char *where, const char *what, struct fh_err *err)
{
	unsigned long code = l->ERR_get_error();
	const char *why = ERR_SYSTEM_ERROR(code) ? strerror(ERR_GET_REASON(code)) : l->ERR_reason_error_string(code);

	l->ERR_clear_error();
	return fh_errf(err, -EINVAL, "%s: %s: %s", where, what, why ? why : "unknown reason");
}

static int set_up(struct fh_tls_lib *l, SSL_CTX *ctx, const struct fh_tls_trust *t, struct fh_err *err)
{
	static const unsigned char protocols[] = "\x08http/1.1";

	l->SSL_CTX_ctrl(ctx, SSL_CTRL_SET_MIN_PROTO_VERSION, TLS1_2_VERSION, NULL);
	l->SSL_CTX_set_options(ctx, SSL_OP_NO_RENEGOTIATION);
	l->SSL_CTX_set_verify(ctx, t->insecure ? SSL_VERIFY_NONE : SSL_VERIFY_PEER, NULL);
	l->SSL_CTX_set_alpn_protos(ctx, protocols, sizeof(protocols) - 1);
	if (!t->ca && !t->insecure && l->SSL_CTX_set_default_verify_paths(ctx) != 1)
		return fail(l, "TLS", "the system's CAs cannot be read", err);
	if (t->ca && l->SSL_CTX_load_verify_file(ctx, t->ca) != 1)
		return fail(l, t->ca, "no CA's certificate can be read from it", err);
	if (t->cert && l->SSL_CTX_use_certificate_chain_file(ctx, t->cert) != 1)
		return fail(l, t->cert, "no certificate can be read from it", err);
	if (t->cert && l->SSL_CTX_use_PrivateKey_file(ctx, t->key, SSL_FILETYPE_PEM) != 1)
		return fail(l, t->key, "no private key that fits the certificate can be read from it", err);
	return 0;
}

int fh_tls_dialer_open(const struct fh_tls_trust *trust, struct fh_tls_dialer **out, struct fh_err *err)
{
	struct fh_tls_dialer *d;
	int rc;

	if (!trust->cert != !trust->key)
		return fh_errf(err, -EINVAL, "TLS: a certificate and its key go together");
	d = calloc(1, sizeof(*d));
	if (!d)
		return fh_errf(err, -ENOMEM, "TLS: no memory");
	rc = fh_tls_lib_open(&d->lib, err);
	if (!rc) {
		d->lib->ERR_clear_error();
		d->ctx = d->lib->SSL_CTX_new(d->lib->TLS_client_method());
		rc = d->ctx ? set_up(d->lib, d->ctx, trust, err) : fail(d->lib, "TLS", "cannot begin", err);
	}
	if (rc)
		fh_tls_dialer_close(d);
	else
		*out = d;
	return rc;
}

void fh_tls_dialer_close(struct fh_tls_dialer *d)
{
	if (!d)
		return;
	if (d->ctx)
		fh_tls_ctx_free(d->lib, d->ctx);
	fh_tls_lib_close(d->lib);
	free(d);
}

/* ---- a connection ---- */

/* What the session has for the server. */
static int push(struct fh_tls_link *l)
{
	const char *p = l->t.wire.data;
	size_t n = l->t.wire.len;
	int rc = l->t.wire.failed ? -ENOMEM : 0;

	while (n && !rc) {
		ssize_t k = send(l->fd, p, n, MSG_NOSIGNAL);

		if (k < 0 && errno != EINTR)
			rc = errno == EAGAIN ? -ETIMEDOUT : -errno;
		p += k > 0 ? k : 0;
		n -= k > 0 ? (size_t)k : 0;
	}
	fh_buf_reset(&l->t.wire, 0);
	return rc;
}

/* Some more from the server; all before it was used. 0; -ECONNRESET: there is no more. */
static int pull(struct fh_tls_link *l)
{
	ssize_t n;

	do
		n = recv(l->fd, l->in, sizeof(l->in), 0);
	while (n < 0 && errno == EINTR);
	if (n < 0)
		return errno == EAGAIN ? -ETIMEDOUT : -errno;
	l->t.src = l->in;
	l->t.nr_src = (size_t)n;
	return n ? 0 : -ECONNRESET;
}

static int name_peer(struct fh_tls *t, const char *host, struct fh_err *err)
{
	struct fh_tls_lib *lib = t->lib;
	struct in6_addr addr;
	bool ok;

	lib->SSL_set_connect_state(t->ssl);
	if (inet_pton(AF_INET, host, &addr) == 1 || inet_pton(AF_INET6, host, &addr) == 1)
		ok = lib->X509_VERIFY_PARAM_set1_ip_asc(lib->SSL_get0_param(t->ssl), host) == 1;
	else
		ok = lib->SSL_set1_host(t->ssl, host) == 1 &&
		     lib->SSL_ctrl(t->ssl, SSL_CTRL_SET_TLSEXT_HOSTNAME, TLSEXT_NAMETYPE_host_name, (void *)host) == 1;
	return ok ? 0 : fail(lib, host, "no name for TLS", err);
}

int fh_tls_client_why(struct fh_tls *t, const char *host, struct fh_err *err)
{
	long verdict = t->lib->SSL_get_verify_result(t->ssl);

	if (verdict == X509_V_OK)
		return fail(t->lib, host, "no TLS with it", err);
	t->lib->ERR_clear_error();
	return fh_errf(err, -EACCES, "%s: its certificate is not trusted: %s", host,
		       t->lib->X509_verify_cert_error_string(verdict));
}

int fh_tls_client_init(struct fh_tls_dialer *d, const char *host, struct fh_tls *t, struct fh_err *err)
{
	int rc = fh_tls_init(t, d->lib, d->ctx);

	return rc ? fh_errf(err, rc, "TLS: no memory") : name_peer(t, host, err);
}

static int refused(struct fh_tls_link *l, const char *host, struct fh_err *err)
{
	/* The alert says why we go. */
	push(l);
	return fh_tls_client_why(&l->t, host, err);
}

static int shake_hands(struct fh_tls_link *l, const char *host, struct fh_err *err)
{
	struct fh_tls_lib *lib = l->t.lib;

	for (;;) {
		int rc, done;

		lib->ERR_clear_error();
		done = lib->SSL_do_handshake(l->t.ssl);
		if (done != 1 && lib->SSL_get_error(l->t.ssl, done) != SSL_ERROR_WANT_READ)
			return refused(l, host, err);
		rc = push(l);
		if (!rc && done == 1)
			return 0;
		if (!rc)
			rc = pull(l);
		if (rc)
			return fh_errf(err, rc, "%s: in the TLS handshake: %s", host, strerror(-rc));
	}
}

int fh_tls_dial(struct fh_tls_dialer *d, int fd, const char *host, struct fh_tls_link **out, struct fh_err *err)
{
	struct fh_tls_link *l = calloc(1, sizeof(*l));
	int rc;

	if (!l)
		return fh_errf(err, -ENOMEM, "TLS: no memory");
	l->fd = fd;
	rc = fh_tls_client_init(d, host, &l->t, err);
	if (!rc)
		rc = shake_hands(l, host, err);
	if (!rc) {
		*out = l;
		return 0;
	}
	fh_tls_free(&l->t);
	free(l);
	return rc;
}

int fh_tls_link_send(struct fh_tls_link *l, const char *p, size_t n)
{
	int rc = fh_tls_write(&l->t, p, n);

	return rc ? rc : push(l);
}

ssize_t fh_tls_link_recv(struct fh_tls_link *l, char *out, size_t cap)
{
	for (;;) {
		ssize_t n = fh_tls_read(&l->t, out, cap);
		int rc = push(l);

		if (n)
			return n == -EPIPE ? 0 : n;
		if (!rc)
			rc = pull(l);
		if (rc)
			return rc;
	}
}

void fh_tls_link_close(struct fh_tls_link *l)
{
	if (!l)
		return;
	fh_tls_shutdown(&l->t);
	push(l);
	fh_tls_free(&l->t);
	free(l);
}
