/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The UDP front end: the wire protocol (runtime/wire/) between a carrier of
 * datagrams (dgram.h) and the engine.
 *
 * One thread owns the port and everything of the protocol, its own or (on_engine) the engine's.  Token slots lie in
 * one region that the carrier knows, and a prompt of one packet stays in it until
 * its sequence has read it.
 *
 * A device with several queues sends all packets of a flow, and so of a session,
 * to one of them.  Each queue has a port, a thread, sessions and requests of its
 * own, and is a front end of its own to the engine; what one knows the others
 * need not, but for the key of the cookies.  max_sessions and max_requests are
 * parted among them, at least one each, and a client has at most three quarters of
 * a queue's requests; max_text_bytes is each one's.  All functions but
 * fh_udp_frontend() are for all of them together.
 *
 * Order of use:
 *
 *   fh_udp_create(&cfg, &svc, &u, &err);         opens the socket or the device
 *   fh_engine_attach(engine, fh_udp_frontend(u, i), &err);     each i below fh_udp_nr_queues(u)
 *   fh_engine_start(engine, &err);
 *   fh_udp_start(u, &err);
 *   ...
 *   fh_udp_drain(u);                             refuses new sessions and requests
 *   fh_udp_stop(u, drain_ms);                    waits for the others
 *   fh_engine_stop(engine, 0);
 *   fh_engine_detach(engine, fh_udp_frontend(u, i));
 *   fh_udp_destroy(u);
 */
#ifndef FH_NET_UDP_H
#define FH_NET_UDP_H

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

#include "runtime/base/err.h"
#include "runtime/base/guard.h"
#include "runtime/base/request.h"
#include "runtime/base/service.h"
#include "runtime/net/dgram.h"

struct fh_udp;

#define FH_UDP_MAX_QUEUES 4u

struct fh_udp_config {
	const char *listen; /* "ADDR:PORT" or "[V6]:PORT" of a kernel socket, unless ... */
	/* ... queues of another carrier are given, which are the front end's from create() on */
	struct fh_dgram_port *ports[FH_UDP_MAX_QUEUES];
	uint32_t nr_ports;
	const char *key_file;	  /* our secret key */
	const char *clients_file; /* who may come: a line each, "NAME PUBLIC-KEY" */
	uint32_t max_sessions;	  /* 0: 1024 */
	uint32_t max_requests;	  /* open at once, over all sessions; 0: 1024 */
	uint32_t max_text_bytes;  /* of one prompt that has to be tokenized; 0: 16 MiB */
	uint32_t mtu;		  /* largest datagram; 0: what the carrier sends */
	struct fh_guard *guard;	  /* whose a client is; the front end takes a reference; NULL: its own tenant */
	bool force_plain;	  /* do not try io_uring */
	/* No thread: the engine's carries it, between two steps. For one core, and models whose steps are short. */
	bool on_engine;
};

/* 0, or -errno with @err; @cfg->ports are closed then. @svc is borrowed, and complete when fh_udp_start() is called. */
int fh_udp_create(const struct fh_udp_config *cfg, const struct fh_service *svc, struct fh_udp **out,
		  struct fh_err *err);
uint32_t fh_udp_nr_queues(const struct fh_udp *u);
struct fh_frontend *fh_udp_frontend(struct fh_udp *u, uint32_t queue);
int fh_udp_start(struct fh_udp *u, struct fh_err *err);
/* "udp://PUBLIC-KEY@ADDR:PORT", as fh_open() takes it. */
const char *fh_udp_url(const struct fh_udp *u);
/* "io_uring", "socket" or another carrier's name. */
const char *fh_udp_backend(const struct fh_udp *u);
/* How many clients may come. */
uint32_t fh_udp_nr_clients(const struct fh_udp *u);
/* Read the clients' file again; sessions of keys that went end. On failure the old list stays, at all queues. One
 * thread at a time, any. */
int fh_udp_reload(struct fh_udp *u, struct fh_err *err);
/* Whose clients are, from the next request on; takes over a reference. Any thread. */
void fh_udp_set_guard(struct fh_udp *u, struct fh_guard *g);
void fh_udp_drain(struct fh_udp *u);
/* The same; let running requests end for at most @drain_ms, say goodbye, join the thread. */
void fh_udp_stop(struct fh_udp *u, uint32_t drain_ms);
/* The engine has stopped. */
void fh_udp_destroy(struct fh_udp *u);
/* Append freehold_udp_* (Prometheus text format 0.0.4); any thread. */
void fh_udp_metrics(struct fh_udp *u, FILE *out);

#endif /* FH_NET_UDP_H */
