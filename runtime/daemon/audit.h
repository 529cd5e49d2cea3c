/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The audit log in the daemon: `serve --audit DIR`.  Opens it, hands each front
 * end its auditor, and notes the start, the weights, the keys and the stop.
 *
 * Order of use
 *   fhd_audit_open()     once the process has become who it will be, before threads
 *   fhd_audit_attach()   each front end, before it starts
 *   fhd_audit_start()    the writer; the start is noted
 *   ...
 *   fhd_audit_stop()     after the front ends and the engine have ended
 */
#ifndef FH_DAEMON_AUDIT_H
#define FH_DAEMON_AUDIT_H

#include <stdio.h>

#include "runtime/base/guard.h"
#include "runtime/base/request.h"
#include "runtime/base/vitals.h"
#include "runtime/daemon/config.h"
#include "runtime/model/gguf.h"

#define FH_AUDIT_SETTINGS_MAX 1024

struct fhd_audit;

/* *out: NULL without --audit. */
int fhd_audit_open(const struct fhd_config *cfg, struct fhd_audit **out, struct fh_err *err);
/* @kick and @ctx: how a polled front end, which has no wake(), is woken. */
int fhd_audit_attach(struct fhd_audit *a, struct fh_frontend *fe, void (*kick)(void *ctx), void *ctx,
		     struct fh_err *err);
/*
 * Start the writer, and note @model and @settings, which are copied.  The files of @weights and of @draft, which must
 * stay until fhd_audit_stop(), are hashed beside; NULL: there are none.
 */
int fhd_audit_start(struct fhd_audit *a, const char *model, const char *settings, const struct fh_gguf *weights,
		    const struct fh_gguf *draft, struct fh_err *err);
/* The keys in @path were read, at the start or again. Main thread. */
void fhd_audit_keys(struct fhd_audit *a, const char *path);
/* The table of keys that is good from now on. From one thread at a time that is not main's. */
void fhd_audit_key_table(struct fhd_audit *a, struct fh_guard *g);
/*
 * The next table that differs does so because @by (copied) has revoked the key @id over HTTP: the entry says so.  The
 * thread of the above.
 */
void fhd_audit_key_by(struct fhd_audit *a, const struct fh_identity *by, const char *id);
/* May a key be changed now?  0, or -errno: the log is strict and cannot be written. The thread of the above. */
int fhd_audit_key_change(struct fhd_audit *a);
/* It was, and the table was told of. Strict: waits until that is durable; -ETIMEDOUT: not within some seconds. */
int fhd_audit_key_changed(struct fhd_audit *a);
/* No front end is woken any more, because their threads have ended. What they still tell is logged. */
void fhd_audit_quiet(struct fhd_audit *a);
/* @drained: nothing was running any more. 0, or -errno: not everything could be written. */
int fhd_audit_stop(struct fhd_audit *a, bool drained);
/* Append freehold_audit_* (Prometheus text format 0.0.4). Any thread. */
void fhd_audit_metrics(const struct fhd_audit *a, FILE *out);

/* The same for those who watch. Any thread. */
void fhd_audit_vitals(const struct fhd_audit *a, struct fh_vitals_audit *out);

/* Of the folder, for the sandbox's filter; -1 for NULL. */
int fhd_audit_fd(const struct fhd_audit *a);

#endif /* FH_DAEMON_AUDIT_H */
