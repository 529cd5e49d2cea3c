/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The channel front end: requests and tokens in memory that a client process
 * and we share (uapi/freehold.h), without a thread between it and the engine.
 *
 * How a channel comes to be is a transport's business: a Unix socket over which
 * two memfds are exchanged (chan_sock.c, runtime/base/chan_sock.h), or the
 * kernel module.  One I/O thread serves all transports; it never sees a token.
 *
 * Order of use:
 *
 *   fh_chans_create(&cfg, &svc, &f, &err);       opens the listeners
 *   fh_engine_attach(engine, fh_chans_frontend(f), &err);
 *   fh_engine_start(engine, &err);
 *   fh_chans_start(f, &err);
 *   ...
 *   fh_chans_drain(f);                           refuses new requests
 *   fh_chans_stop(f, drain_ms);                  waits for the others
 *   fh_engine_stop(engine, 0);
 *   fh_engine_detach(engine, fh_chans_frontend(f));
 *   fh_chans_destroy(f);
 */
#ifndef FH_NET_CHAN_H
#define FH_NET_CHAN_H

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

#include "runtime/base/err.h"
#include "runtime/base/guard.h"
#include "runtime/base/request.h"
#include "runtime/base/service.h"

struct fh_chans;
struct fh_ctl;

struct fh_chans_config {
	const char *unix_path;	 /* of the listening socket; NULL: none */
	struct fh_ctl *ctl;	 /* the kernel module, which outlives the front end; NULL: it is not used */
	uint32_t max_channels;	 /* open at once, over all transports; 0: 512 */
	uint32_t max_per_uid;	 /* over the Unix socket; 0: 256 */
	uint64_t max_uid_bytes;	 /* that the channels of a uid take, over the Unix socket; 0: 1 GiB */
	uint32_t max_text_bytes; /* of one prompt that has to be tokenized; 0: 16 MiB */
	struct fh_guard *guard;	 /* whose a process is; the front end takes a reference; NULL: its user's own */
	bool force_epoll;	 /* do not try io_uring */
	bool no_futex;		 /* never sleep on a client's word: it has to send a kick */
};

/* Opens the listeners (so that a later sandbox may forbid socket()), starts nothing. @svc is borrowed. */
int fh_chans_create(const struct fh_chans_config *cfg, const struct fh_service *svc, struct fh_chans **out,
		    struct fh_err *err);
/* The part that the engine is attached to. */
struct fh_frontend *fh_chans_frontend(struct fh_chans *f);
int fh_chans_start(struct fh_chans *f, struct fh_err *err);
/*
 * Likewise, for channels to come; takes over a reference.  Open channels whose tenant @g locks out are given up in the
 * engine's next turn, with their requests.  Any thread.
 */
void fh_chans_set_guard(struct fh_chans *f, struct fh_guard *g);
/* "unix:PATH", or NULL where nothing listens. */
const char *fh_chans_url(const struct fh_chans *f);
/* Refuse new channels, and new requests of the open ones with -ESHUTDOWN; any thread, does not wait. */
void fh_chans_drain(struct fh_chans *f);
/* The same; let running requests end for at most @drain_ms, take the channels away, join the I/O thread. */
void fh_chans_stop(struct fh_chans *f, uint32_t drain_ms);
void fh_chans_destroy(struct fh_chans *f);

struct fh_chans_stats {
	uint32_t nr_open, nr_inside;	  /* channels; requests that the engine has of them */
	uint64_t nr_accepted, nr_refused; /* channels */
	uint64_t nr_violations;		  /* channels given up because the client broke the rules */
	uint64_t nr_requests, nr_request_errors;
	uint64_t nr_kicks_in, nr_kicks_out, nr_futex_wakes;
	uint64_t text_bytes;   /* of prompts that were copied for the tokenizer */
	uint64_t copied_bytes; /* payload that the CPU copied: prompts, those texts, tokens of guessing sequences */
};

/* Any thread; each field is read atomically. */
void fh_chans_stats(struct fh_chans *f, struct fh_chans_stats *out);
/* Append freehold_channel_* (Prometheus text format 0.0.4); any thread. */
void fh_chans_metrics(struct fh_chans *f, FILE *out);

#endif /* FH_NET_CHAN_H */
