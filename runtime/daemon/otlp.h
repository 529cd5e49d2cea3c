/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Traces: a span of each request, with its time in the queue, its prompt and its
 * answer, to an OpenTelemetry collector (OTLP 1.x over HTTP, JSON).
 *
 * The server hands a finished request to a process of its own over a socket,
 * without waiting; that process makes JSON of it and posts it.  So nothing here
 * can hold up a request, and the server itself, which may open no connection,
 * needs no such right: the exporter is made before the sandbox is entered and any
 * key is read, closes what it has inherited, loads libcurl, gives up its rights but
 * for connecting and for reading what names and certificates are looked up by, and
 * ends when the server's end of the socket is closed.
 *
 * What finds no room is dropped and counted: in the socket, or in the exporter's
 * queue while the collector does not answer.  An exporter that has died is not
 * made anew (the server may not); that is said, and counted.
 */
#ifndef FH_DAEMON_OTLP_H
#define FH_DAEMON_OTLP_H

#include <stdatomic.h>
#include <stdio.h>

#include "runtime/base/span.h"
#include "runtime/daemon/config.h"

struct fhd_otlp;

/* In memory that both processes share. */
struct fhd_otlp_counters {
	_Atomic uint64_t nr_exported; /* spans' requests that a collector took */
	_Atomic uint64_t nr_no_room;  /* dropped: the exporter's queue was full */
	_Atomic uint64_t nr_failed;   /* dropped: refused, or tried for too long */
	_Atomic uint64_t nr_retries;  /* posts that had to be repeated */
	_Atomic uint32_t nr_queued;   /* that wait in the exporter */
	/* The server's. */
	_Atomic uint64_t nr_sent; /* to the exporter: sampled ones */
	_Atomic uint64_t nr_full; /* dropped: the socket was, or a turn of channels */
	_Atomic uint64_t nr_gone; /* dropped: they were with an exporter that has died, or came later */
};

/* What the exporter has to know; texts are borrowed. */
struct fhd_otlp_setup {
	char url[512];	 /* empty: nothing is posted, requests are only logged */
	char shown[512]; /* scheme, host and port of it: what may be logged */
	char **headers;	 /* as libcurl takes them, up to NULL; owned; NULL: none */
	char **resource; /* attributes of the environment, see fhd_otlp_attributes(); owned; NULL: none */
	uint32_t timeout_s, max_queue;
	bool log_requests;
	const char *service, *version, *model;
	struct fhd_otlp_counters *c;
};

/*
 * Start the exporter, if settings or environment (OTEL_*) want one, else *out is
 * NULL.  Before the sandbox and before threads.  -EINVAL, -ENOENT (no libcurl),
 * -errno, with @err.  @model: what clients call it; borrowed.
 */
int fhd_otlp_open(const struct fhd_config *cfg, const char *model, struct fhd_otlp **out, struct fh_err *err);
/* A request is over; any thread; never waits. Decides whether it is sampled. */
void fhd_otlp_span(struct fhd_otlp *o, struct fh_trace_span *s);
/* So many are over, and nothing can be told of them: count them as dropped. Any thread. */
void fhd_otlp_lost(struct fhd_otlp *o, uint32_t nr);
/* Its part of /metrics; nothing without @o. */
void fhd_otlp_metrics(struct fhd_otlp *o, FILE *out);
/* Let the exporter post what it has, for a short time. After the front ends. */
void fhd_otlp_close(struct fhd_otlp *o);

/* ---- otlp_env.c ---- */

struct fhd_otlp_sampler {
	double ratio; /* of all traces, the same ones everywhere */
	bool obeys;   /* where the client says, as it says */
};

/*
 * url, shown, headers, resource and service of @s, and @sampler, from settings and environment; an empty url: no
 * traces. *what: the setting or variable that has the url, or is wrong.  -EINVAL, -ENOMEM, with @err.
 */
int fhd_otlp_settings(const struct fhd_config *cfg, struct fhd_otlp_setup *s, struct fhd_otlp_sampler *sampler,
		      const char **what, struct fh_err *err);
/* Is a request of this context sampled? */
bool fhd_otlp_sampled(const struct fh_trace_context *c, const struct fhd_otlp_sampler *s);
/*
 * "NAME=VALUE,NAME=VALUE" with values that are percent-encoded, as OTEL_EXPORTER_OTLP_HEADERS has them (after W3C
 * Baggage), as lines for libcurl's list, up to NULL.  -EINVAL, -ENOMEM, with @err, which quotes nothing.
 */
int fhd_otlp_headers(const char *text, char ***out, struct fh_err *err);
/*
 * Likewise OTEL_RESOURCE_ATTRIBUTES: a key, its value, the next key ... up to NULL, each decoded, and UTF-8; of a key
 * that is there twice the last.  Any error is one of the whole list.
 */
int fhd_otlp_attributes(const char *text, char ***out, struct fh_err *err);
/* The value of @key in such a list; NULL: it has none. */
const char *fhd_otlp_attribute(char *const *list, const char *key);
/* Free either list. */
void fhd_otlp_list_free(char **list);
/* Scheme, host and port of @url, without a name and a password. */
void fhd_otlp_shown(const char *url, char *out, size_t cap);

/* ---- otlp_json.c ---- */

/* ExportTraceServiceRequest of @spans [nr], malloc'ed; NULL: no memory. @offset_ns: Unix time less CLOCK_MONOTONIC. */
char *fhd_otlp_json(const struct fhd_otlp_setup *s, const struct fh_trace_span *spans, uint32_t nr, int64_t offset_ns);
/* A log record with a line's end, malloc'ed; NULL: no memory. */
char *fhd_otlp_log_line(const struct fhd_otlp_setup *s, const struct fh_trace_span *span, int64_t offset_ns);

/* ---- otlp_post.c ---- */

/*
 * The exporter: load libcurl, let @confine give up rights, tell @fd whether it could begin (text, empty: yes), then
 * read spans from it to its end.  A thread may be left that has not ended in time: the process should.
 */
void fhd_otlp_run(const struct fhd_otlp_setup *s, int fd, int (*confine)(const void *ctx, struct fh_err *err),
		  const void *ctx);

#endif /* FH_DAEMON_OTLP_H */
