/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The HTTP front end: OpenAI's API over HTTP/1.1, on io_uring or epoll.
 *
 * One I/O thread owns every socket.  Long bodies are parsed and
 * tokenized by helper threads.
 */
#ifndef FH_NET_HTTP_H
#define FH_NET_HTTP_H

#include <stdbool.h>
#include <stdint.h>

#include "runtime/base/err.h"
#include "runtime/base/guard.h"
#include "runtime/base/request.h"
#include "runtime/base/service.h"

struct fh_http;

/* Does the kernel seal what is sent over TLS?  ON: or the front end is not made. */
enum fh_http_offload { FH_HTTP_OFFLOAD_AUTO, FH_HTTP_OFFLOAD_OFF, FH_HTTP_OFFLOAD_ON };

#define FH_HTTP_MAX_LISTEN 8

struct fh_http_config {
	const char *listen[FH_HTTP_MAX_LISTEN]; /* "ADDR:PORT", "[V6]:PORT" or "unix:PATH" */
	bool listen_tls[FH_HTTP_MAX_LISTEN];	/* TLS is spoken there */
	uint32_t nr_listen;
	const char *api_key_file; /* one key a line, '#' comments; NULL: open to all who can connect */
	/* Nobody comes in but by the guard, or by the key file. */
	bool guarded;
	struct fh_guard *guard; /* the first; the front end takes a reference; NULL: fh_http_set_guard() gives it */
	const char *const
		*public_paths; /* [nr_public] endpoints that are not guarded, or "none"; none at all: /health */
	uint32_t nr_public;
	const char *tls_cert, *tls_key; /* PEM files */
	const char *tls_ca;		/* whose word is taken on clients; NULL: they are not asked for certificates */
	bool tls_require;		/* refuse those without one */
	uint8_t tls_offload;		/* enum fh_http_offload */
	uint32_t tls_timeout_ms;	/* for a whole handshake; 0: 10,000 */
	uint32_t tls_max_records;	/* for tests, of a key; 0: FH_TLS_MAX_RECORDS */
	uint32_t max_connections;	/* 0: 4096 */
	uint32_t max_requests;		/* outstanding in the engine; 0: 2048 */
	uint32_t max_body_bytes;	/* 0: 16 MiB */
	uint32_t header_timeout_ms;	/* whole header must arrive within; 0: 10,000 */
	uint32_t body_timeout_ms;	/* 0: 60,000 */
	uint32_t idle_timeout_ms;	/* between requests; 0: 120,000 */
	uint32_t write_timeout_ms;	/* no progress of a full socket; 0: 60,000 */
	uint32_t watch_period_ms;	/* between two events of those who watch; 0: 1,000 */
	bool force_epoll;		/* do not try io_uring */
	const char *version;		/* what GET /version says; NULL: "unknown" */
};

/* Opens the listeners (so that a later sandbox may forbid socket()), starts nothing. */
int fh_http_create(const struct fh_http_config *cfg, const struct fh_service *svc, struct fh_http **out,
		   struct fh_err *err);
/* The part that the engine is attached to. */
struct fh_frontend *fh_http_frontend(struct fh_http *h);
int fh_http_start(struct fh_http *h, struct fh_err *err);
/* Address of listener @i as "http://127.0.0.1:8080", "https://..." or "unix:PATH" (port 0 resolved). */
const char *fh_http_url(const struct fh_http *h, uint32_t i);
/* What the request ids that are made here begin with, "req-" and 16 hexadecimal digits. */
uint64_t fh_http_id_nonce(const struct fh_http *h);
/* "io_uring" or "epoll", and why the latter. */
const char *fh_http_backend(const struct fh_http *h);
/* What seals TLS records: "the kernel", or "OpenSSL" and why not the kernel; NULL: there is no TLS. */
const char *fh_http_sealer(const struct fh_http *h);
/* Re-read the key file; any thread. 0, or the old keys stay and @err says why. */
int fh_http_reload_keys(struct fh_http *h, struct fh_err *err);
/* Read certificate, key and CAs again, for connections to come; likewise. */
int fh_http_reload_tls(struct fh_http *h, struct fh_err *err);
/* Who may come in from now on; takes over a reference. Any thread. */
void fh_http_set_guard(struct fh_http *h, struct fh_guard *g);
/* The endpoints' paths, in the order of a grant's bits. [*nr] */
const char *const *fh_http_endpoints(uint32_t *nr);
/* Close listeners, end keep-alive, let running responses finish for at most @drain_ms. Joins the I/O thread. */
void fh_http_stop(struct fh_http *h, uint32_t drain_ms);
void fh_http_destroy(struct fh_http *h);

#endif /* FH_NET_HTTP_H */
