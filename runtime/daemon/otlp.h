/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Traces: a span of each request, with its time in the queue, its prompt and its
 * answer, to an OpenTelemetry collector (OTLP 1.x over HTTP, JSON).
 *
 * The server hands a finished request to a process of its own over a socket,
 * without waiting; that process makes JSON of it and posts it.  So nothing here
 * can hold up a request, and the server itself, which may open no connection,
 * needs no such right: the exporter is made before the sandbox is entered, closes
 * what it has inherited, gives up its rights but for reading /etc and connecting,
 * and ends when the server's end of the socket is closed.
 *
 * What finds no room is dropped and counted: in the socket, or in the exporter's
 * queue while the collector does not answer.
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
	_Atomic uint64_t nr_no_room;  /* dropped: socket or queue were full */
	_Atomic uint64_t nr_failed;   /* dropped: refused, or tried for too long */
	_Atomic uint64_t nr_retries;  /* posts that had to be repeated */
	_Atomic uint32_t nr_queued;   /* that wait in the exporter */
};

/* What the exporter has to know; texts are borrowed. */
struct fhd_otlp_setup {
	char url[512];	     /* empty: nothing is posted, requests are only logged */
	const char *headers; /* "NAME=VALUE,NAME=VALUE"; NULL: none */
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
/* Its part of /metrics; nothing without @o. */
void fhd_otlp_metrics(const struct fhd_otlp *o, FILE *out);
/* Let the exporter post what it has, for a short time. After the front ends. */
void fhd_otlp_close(struct fhd_otlp *o);

/* Is a request of this context sampled?  As the client said, else @ratio of all traces, the same ones everywhere. */
bool fhd_otlp_sampled(const struct fh_trace_context *c, double ratio);

/* ---- otlp_json.c ---- */

/* ExportTraceServiceRequest of @spans [nr], malloc'ed; NULL: no memory. @offset_ns: Unix time less CLOCK_MONOTONIC. */
char *fhd_otlp_json(const struct fhd_otlp_setup *s, const struct fh_trace_span *spans, uint32_t nr, int64_t offset_ns);
/* A log record with a line's end, malloc'ed; NULL: no memory. */
char *fhd_otlp_log_line(const struct fhd_otlp_setup *s, const struct fh_trace_span *span, int64_t offset_ns);

/* ---- otlp_post.c ---- */

/* The exporter: tell @fd whether it could begin (text, empty: yes), then read spans from it to its end. */
void fhd_otlp_run(const struct fhd_otlp_setup *s, int fd);

#endif /* FH_DAEMON_OTLP_H */
