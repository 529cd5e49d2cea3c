// SPDX-License-Identifier: Apache-2.0
/*
 * TLS sessions over a BIO of our own: it reads where bytes were received and
 * writes into a buffer that is sent as it is, so that OpenSSL's own copy into
 * and out of its record is the only one.
 */
#include "runtime/net/tls.h"

#include <dlfcn.h>
#include <limits.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include "runtime/net/tls_lib.h"

/* ---- the library ---- */

static long bio_ctrl(BIO *b, int cmd, long num, void *ptr)
{
	(void)b;
	(void)num;
	(void)ptr;
	return cmd == BIO_CTRL_FLUSH;
}

/*
 * OpenSSL hands its callbacks the BIO or the SSL alone, and only it can say whose
 * that is.  The two words that are not a session's: what dlsym() says, which is the
 * same each time, so that it is no state.
 */
static void *(*_Atomic bio_get_data)(BIO *b);
static void *(*_Atomic ssl_get_data)(const SSL *ssl, int n);

static struct fh_tls *tls_of(BIO *b)
{
	return bio_get_data(b);
}

static struct fh_tls *session_of(const SSL *ssl)
{
	return ssl_get_data(ssl, 0);
}

static int bio_read(BIO *b, char *out, int cap)
{
	struct fh_tls *t = tls_of(b);
	size_t n = t->nr_src < (size_t)cap ? t->nr_src : (size_t)cap;

	t->lib->BIO_clear_flags(b, BIO_FLAGS_RWS | BIO_FLAGS_SHOULD_RETRY);
	if (!n) {
		t->lib->BIO_set_flags(b, BIO_FLAGS_READ | BIO_FLAGS_SHOULD_RETRY);
		return -1;
	}
	memcpy(out, t->src, n);
	t->nr_copied += n;
	t->src += n;
	t->nr_src -= n;
	return (int)n;
}

static int bio_write(BIO *b, const char *p, int n)
{
	struct fh_tls *t = tls_of(b);

	/* Sealed with a key and a number that the kernel has used for something else: it must not be seen. */
	if (t->offloaded)
		return n;
	t->nr_copied += (size_t)n;
	fh_buf_put(&t->wire, p, (size_t)n);
	return t->wire.failed ? -1 : n;
}

static int load(void **so, const char *name, struct fh_err *err)
{
	*so = dlopen(name, RTLD_NOW | RTLD_LOCAL);
	return *so ? 0 : fh_errf(err, -ENOENT, "TLS: cannot load %s: %s; install libssl3", name, dlerror());
}

static void *find(void *so, const char *name, const char **missing)
{
	void *p = dlsym(so, name);

	if (!p)
		*missing = name;
	return p;
}

static int find_all(struct fh_tls_lib *l, struct fh_err *err)
{
	const char *missing = NULL;

#define FH_TLS_FIND_SSL(name) l->name = (__typeof__(l->name))find(l->ssl_so, #name, &missing);
#define FH_TLS_FIND_CRYPTO(name) l->name = (__typeof__(l->name))find(l->crypto_so, #name, &missing);
	FH_TLS_SSL_FUNCTIONS(FH_TLS_FIND_SSL)
	FH_TLS_CRYPTO_FUNCTIONS(FH_TLS_FIND_CRYPTO)
	return missing ? fh_errf(err, -ENOSYS, "TLS: this libssl has no %s; version 3.0 or later is wanted", missing)
		       : 0;
}

static int make_method(struct fh_tls_lib *l, struct fh_err *err)
{
	atomic_store_explicit(&bio_get_data, l->BIO_get_data, memory_order_relaxed);
	atomic_store_explicit(&ssl_get_data, l->SSL_get_ex_data, memory_order_relaxed);
	l->method = l->BIO_meth_new(l->BIO_get_new_index() | BIO_TYPE_SOURCE_SINK, "freehold");
	if (!l->method || !l->BIO_meth_set_read(l->method, bio_read) || !l->BIO_meth_set_write(l->method, bio_write) ||
	    !l->BIO_meth_set_ctrl(l->method, bio_ctrl))
		return fh_errf(err, -ENOMEM, "TLS: no memory");
	return 0;
}

int fh_tls_lib_open(struct fh_tls_lib **out, struct fh_err *err)
{
	struct fh_tls_lib *l = calloc(1, sizeof(*l));
	int rc;

	if (!l)
		return fh_errf(err, -ENOMEM, "TLS: no memory");
	rc = load(&l->ssl_so, "libssl.so.3", err);
	if (!rc)
		rc = load(&l->crypto_so, "libcrypto.so.3", err);
	if (!rc)
		rc = find_all(l, err);
	if (!rc)
		rc = make_method(l, err);
	if (!rc) {
		l->tls13_kdf = l->EVP_KDF_fetch(NULL, "TLS13-KDF", NULL);
		l->ERR_clear_error();
	}
	if (rc)
		fh_tls_lib_close(l);
	else
		*out = l;
	return rc;
}

void fh_tls_lib_close(struct fh_tls_lib *l)
{
	if (!l)
		return;
	if (l->method)
		l->BIO_meth_free(l->method);
	if (l->tls13_kdf)
		l->EVP_KDF_free(l->tls13_kdf);
	/* The libraries stay: OpenSSL leaves handlers behind for the end of threads and of the process. */
	free(l);
}

/* ---- contexts ---- */

/* What OpenSSL says first is closest to the cause. */
static int fail(struct fh_tls_lib *l, const char *path, const char *what, struct fh_err *err)
{
	unsigned long code = l->ERR_get_error();
	const char *why = ERR_SYSTEM_ERROR(code) ? strerror(ERR_GET_REASON(code)) : l->ERR_reason_error_string(code);

	l->ERR_clear_error();
	return fh_errf(err, -EINVAL, "%s: %s: %s", path, what, why ? why : "unknown reason");
}

/* A server has nobody to ask for a passphrase. */
static int no_passphrase(char *buf, int size, int rwflag, void *u)
{
	(void)buf;
	(void)size;
	(void)rwflag;
	(void)u;
	return -1;
}

static int choose_protocol(SSL *ssl, const unsigned char **out, unsigned char *n, const unsigned char *in,
			   unsigned int nr_in, void *arg)
{
	static const unsigned char ours[] = "\x08http/1.1";
	struct fh_tls_lib *l = arg;
	unsigned char *p;

	(void)ssl;
	if (l->SSL_select_next_proto(&p, n, ours, sizeof(ours) - 1, in, nr_in) != OPENSSL_NPN_NEGOTIATED)
		return SSL_TLSEXT_ERR_ALERT_FATAL;
	*out = p;
	return SSL_TLSEXT_ERR_OK;
}

/* Within the handshake. OpenSSL wipes the line. */
static void on_keylog(const SSL *ssl, const char *line)
{
	struct fh_tls *t = session_of(ssl);
	uint8_t secret[FH_TLS_SECRET_MAX];
	size_t n = t ? fh_tls_keylog_secret(line, secret) : 0;

	if (n) {
		memcpy(t->secret, secret, n);
		t->nr_secret = n;
		explicit_bzero(secret, sizeof(secret));
	}
}

static void set_up(struct fh_tls_lib *l, SSL_CTX *ctx)
{
	l->SSL_CTX_ctrl(ctx, SSL_CTRL_SET_MIN_PROTO_VERSION, TLS1_3_VERSION, NULL);
	l->SSL_CTX_ctrl(ctx, SSL_CTRL_SET_MAX_PROTO_VERSION, TLS1_3_VERSION, NULL);
	/* No finite fields: a handshake with them costs a client nothing and us some milliseconds. */
	l->SSL_CTX_ctrl(ctx, SSL_CTRL_SET_GROUPS_LIST, 0, (void *)"X25519:P-256:X448:P-384:P-521");
	/* Idle connections keep no record buffers, and a write takes what there is. */
	l->SSL_CTX_ctrl(ctx, SSL_CTRL_MODE, SSL_MODE_RELEASE_BUFFERS | SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER, NULL);
	l->SSL_CTX_ctrl(ctx, SSL_CTRL_SET_SESS_CACHE_MODE, SSL_SESS_CACHE_OFF, NULL);
	l->SSL_CTX_set_options(ctx, SSL_OP_NO_TICKET | SSL_OP_NO_RENEGOTIATION | SSL_OP_CIPHER_SERVER_PREFERENCE |
					    SSL_OP_PRIORITIZE_CHACHA);
	l->SSL_CTX_set_num_tickets(ctx, 0);
	l->SSL_CTX_set_alpn_select_cb(ctx, choose_protocol, l);
	l->SSL_CTX_set_default_passwd_cb(ctx, no_passphrase);
}

static int load_files(struct fh_tls_lib *l, SSL_CTX *ctx, const struct fh_tls_files *f, struct fh_err *err)
{
	STACK_OF(X509_NAME) * names;

	if (l->SSL_CTX_use_certificate_chain_file(ctx, f->cert) != 1)
		return fail(l, f->cert, "no certificate can be read from it", err);
	if (l->SSL_CTX_use_PrivateKey_file(ctx, f->key, SSL_FILETYPE_PEM) != 1)
		return fail(l, f->key, "no private key that fits the certificate can be read from it", err);
	if (l->SSL_CTX_check_private_key(ctx) != 1)
		return fail(l, f->key, "the key is not that of the certificate", err);
	if (!f->ca)
		return 0;
	if (l->SSL_CTX_load_verify_file(ctx, f->ca) != 1)
		return fail(l, f->ca, "no CA's certificate can be read from it", err);
	names = l->SSL_load_client_CA_file(f->ca);
	if (!names)
		return fail(l, f->ca, "no CA's name can be read from it", err);
	l->SSL_CTX_set_client_CA_list(ctx, names);
	l->SSL_CTX_set_verify(ctx, SSL_VERIFY_PEER | (f->required ? SSL_VERIFY_FAIL_IF_NO_PEER_CERT : 0), NULL);
	return 0;
}

int fh_tls_ctx_load(struct fh_tls_lib *l, const struct fh_tls_files *files, struct ssl_ctx_st **out, struct fh_err *err)
{
	SSL_CTX *ctx;
	int rc;

	l->ERR_clear_error();
	ctx = l->SSL_CTX_new(l->TLS_server_method());
	if (!ctx)
		return fail(l, "TLS", "cannot begin", err);
	set_up(l, ctx);
	if (files->offload)
		l->SSL_CTX_set_keylog_callback(ctx, on_keylog);
	rc = load_files(l, ctx, files, err);
	if (rc)
		l->SSL_CTX_free(ctx);
	else
		*out = ctx;
	return rc;
}

void fh_tls_ctx_free(struct fh_tls_lib *l, struct ssl_ctx_st *ctx)
{
	if (ctx)
		l->SSL_CTX_free(ctx);
}

/* ---- sessions ---- */

int fh_tls_init(struct fh_tls *t, struct fh_tls_lib *lib, struct ssl_ctx_st *ctx)
{
	BIO *bio;

	*t = (struct fh_tls){.lib = lib, .max_records = FH_TLS_MAX_RECORDS};
	t->ssl = lib->SSL_new(ctx);
	bio = t->ssl ? lib->BIO_new(lib->method) : NULL;
	if (!bio) {
		fh_tls_free(t);
		return -ENOMEM;
	}
	lib->SSL_set_ex_data(t->ssl, 0, t);
	lib->BIO_set_data(bio, t);
	lib->BIO_set_init(bio, 1);
	lib->BIO_up_ref(bio);
	lib->SSL_set0_rbio(t->ssl, bio);
	lib->SSL_set0_wbio(t->ssl, bio);
	lib->SSL_set_accept_state(t->ssl);
	return 0;
}

void fh_tls_free(struct fh_tls *t)
{
	if (t->ssl)
		t->lib->SSL_free(t->ssl);
	t->ssl = NULL;
	explicit_bzero(t->secret, sizeof(t->secret));
	fh_tls_tx_wipe(&t->tx);
	fh_buf_free(&t->wire);
}

/* A name with a NUL in it is not what it looks like, and one that does not fit is cut: neither is a name. */
static void read_name(struct fh_tls_lib *l, X509_NAME *subject, int nid, char out[FH_IDENTITY_NAME_MAX + 1])
{
	char text[4 * FH_IDENTITY_NAME_MAX];
	int n = l->X509_NAME_get_text_by_NID(subject, nid, text, sizeof(text));

	out[0] = 0;
	if (n > 0 && n <= FH_IDENTITY_NAME_MAX && strlen(text) == (size_t)n)
		strcpy(out, text);
}

static void read_cert(struct fh_tls *t)
{
	struct fh_tls_lib *l = t->lib;
	X509 *x = l->SSL_get1_peer_certificate(t->ssl);
	unsigned int n = sizeof(t->cert.sha256);

	if (!x)
		return;
	if (l->SSL_get_verify_result(t->ssl) == X509_V_OK &&
	    l->X509_digest(x, l->EVP_sha256(), t->cert.sha256, &n) == 1) {
		read_name(l, l->X509_get_subject_name(x), NID_organizationName, t->cert.organization);
		read_name(l, l->X509_get_subject_name(x), NID_commonName, t->cert.common_name);
		t->has_cert = true;
	}
	l->X509_free(x);
}

/* Nothing more can be said on it: OpenSSL must not be called again. */
static int broken(struct fh_tls *t)
{
	t->closed = true;
	t->lib->ERR_clear_error();
	return -EPROTO;
}

/* On the thread that computes handshakes. If it cannot be done, OpenSSL goes on to seal. */
static void derive(struct fh_tls *t)
{
	const SSL_CIPHER *c = t->lib->SSL_get_current_cipher(t->ssl);

	/* Records that were written since the keys changed, such as tickets, have used numbers of theirs. */
	if (t->nr_secret && c && !t->wire.len)
		fh_tls_derive(t->lib, t->lib->SSL_CIPHER_get_protocol_id(c), t->secret, t->nr_secret, &t->tx);
	explicit_bzero(t->secret, sizeof(t->secret));
	t->nr_secret = 0;
}

int fh_tls_handshake(struct fh_tls *t)
{
	int rc;

	t->lib->ERR_clear_error();
	rc = t->lib->SSL_do_handshake(t->ssl);
	if (rc == 1) {
		read_cert(t);
		derive(t);
		return 1;
	}
	if (t->lib->SSL_get_error(t->ssl, rc) == SSL_ERROR_WANT_READ && !t->wire.failed)
		return 0;
	return broken(t);
}

ssize_t fh_tls_read(struct fh_tls *t, char *out, size_t cap)
{
	int n;

	if (t->closed)
		return -EPIPE;
	t->lib->ERR_clear_error();
	n = t->lib->SSL_read(t->ssl, out, cap < INT_MAX ? (int)cap : INT_MAX);
	if (n > 0) {
		t->nr_copied += (uint64_t)n;
		t->nr_read++;
		return n;
	}
	switch (t->lib->SSL_get_error(t->ssl, n)) {
	case SSL_ERROR_WANT_READ: return t->wire.failed ? broken(t) : 0;
	case SSL_ERROR_ZERO_RETURN: return -EPIPE;
	default: return broken(t);
	}
}

static bool is_over(const struct fh_tls *t)
{
	return t->nr_sent >= t->max_records + t->max_records / 4;
}

/* The next write begins with a KeyUpdate, which asks for one where the peer's key has done its work, too. */
static void renew_keys(struct fh_tls *t)
{
	bool theirs = t->nr_read >= t->max_records;

	if (t->nr_sent < t->max_records && !theirs)
		return;
	if (t->lib->SSL_key_update(t->ssl, theirs ? SSL_KEY_UPDATE_REQUESTED : SSL_KEY_UPDATE_NOT_REQUESTED) != 1) {
		t->lib->ERR_clear_error();
		return;
	}
	t->nr_updates++;
	t->nr_sent = 0;
	t->nr_read = theirs ? 0 : t->nr_read;
}

int fh_tls_write(struct fh_tls *t, const char *p, size_t n)
{
	if (t->closed)
		return -EPROTO;
	t->lib->ERR_clear_error();
	renew_keys(t);
	if (is_over(t))
		return broken(t);
	while (n) {
		int most = n < INT_MAX ? (int)n : INT_MAX, done = t->lib->SSL_write(t->ssl, p, most);

		if (done <= 0 || t->wire.failed)
			return t->wire.failed ? -ENOMEM : broken(t);
		p += done;
		n -= (size_t)done;
		t->nr_sent += ((size_t)done + SSL3_RT_MAX_PLAIN_LENGTH - 1) / SSL3_RT_MAX_PLAIN_LENGTH;
	}
	return 0;
}

void fh_tls_shutdown(struct fh_tls *t)
{
	if (t->closed)
		return;
	t->closed = true;
	if (t->offloaded) {
		t->alert[0] = SSL3_AL_WARNING;
		t->alert[1] = SSL_AD_CLOSE_NOTIFY;
		return;
	}
	t->lib->ERR_clear_error();
	t->lib->SSL_shutdown(t->ssl);
	t->lib->ERR_clear_error();
}

void fh_tls_alert(struct fh_tls *t)
{
	t->closed = true;
	t->alert[0] = SSL3_AL_FATAL;
	t->alert[1] = SSL_AD_INTERNAL_ERROR;
}

/* What OpenSSL believes to have sent, now that the kernel sends; and what it would answer with its next write. */
static void on_message(int write_p, int version, int type, const void *buf, size_t n, SSL *ssl, void *arg)
{
	struct fh_tls *t = session_of(ssl);
	const uint8_t *b = buf;

	(void)version;
	(void)arg;
	if (write_p && type == SSL3_RT_ALERT && n == sizeof(t->alert))
		memcpy(t->alert, b, sizeof(t->alert));
	/* Its one byte, behind the header of a handshake message: an answer is wanted. */
	if (!write_p && type == SSL3_RT_HANDSHAKE && n > SSL3_HM_HEADER_LENGTH && b[0] == SSL3_MT_KEY_UPDATE &&
	    b[SSL3_HM_HEADER_LENGTH] == SSL_KEY_UPDATE_REQUESTED)
		t->rekey = true;
}

bool fh_tls_offload(struct fh_tls *t, int fd)
{
	/* Were new keys asked for, OpenSSL takes them with its next write; the kernel would go on with the old. */
	bool rekeys = t->lib->SSL_get_key_update_type(t->ssl) != SSL_KEY_UPDATE_NONE;

	if (t->tx.suite && !t->wire.len && !t->closed && !rekeys)
		t->offloaded = !fh_tls_kernel_seal(fd, &t->tx, 0);
	fh_tls_tx_wipe(&t->tx);
	if (t->offloaded)
		t->lib->SSL_set_msg_callback(t->ssl, on_message);
	return t->offloaded;
}

bool fh_tls_kernel_sends(struct fh_tls *t, size_t n)
{
	/* Where there is less room than was wanted, a record ends early: more of them than there need be. */
	t->nr_sent += n / 4096 + 1;
	return !is_over(t);
}

bool fh_tls_worn(const struct fh_tls *t)
{
	return t->offloaded && (t->nr_sent >= t->max_records || t->nr_read >= t->max_records);
}
