/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the UDP front end's files share; nobody else includes this.
 *
 *   udp.c          life: creation, start, drain, stop
 *   udp_loop.c     what it does meanwhile, on its own thread or the engine's
 *   udp_req.c      requests: descriptors in, the engine's tokens out
 *   udp_audit.c    requests and the audit log
 *   udp_span.c     what is told for traces
 *   udp_text.c     prompts that are text: what the tokenizer's thread does (text_worker.c)
 *   udp_keys.c     who may come
 *   udp_metrics.c  counters
 */
#ifndef FH_NET_UDP_PRIV_H
#define FH_NET_UDP_PRIV_H

#include <pthread.h>
#include <semaphore.h>
#include <stdatomic.h>

#include "runtime/base/auditor.h"
#include "runtime/base/random.h"
#include "runtime/base/region.h"
#include "runtime/net/desc.h"
#include "runtime/net/req_span.h"
#include "runtime/net/text_worker.h"
#include "runtime/net/udp.h"
#include "runtime/wire/server.h"

#define FH_UDP_SLOTS 256u	      /* token slots of a request: what may wait to be read by the client */
#define FH_UDP_TEXT_BYTES 16384u      /* a longer text goes to the tokenizer's thread */
#define FH_UDP_ENGINE_TEXT_BYTES 512u /* the same on the engine's thread, where every step waits for it */
#define FH_UDP_MAX_CLIENTS 4096u
#define FH_UDP_SPANS 256u /* ends of a turn that are told for traces after it; more are only counted */

struct fh_udp_client {
	char name[64];
	uint32_t tenant; /* for the scheduler, where no guard says another one */
	enum fh_guard_verdict verdict;
	struct fh_grant grant; /* with FH_GUARD_OK; else its who alone */
};

struct fh_udp_keys {
	uint32_t nr;
	struct fh_udp_client *clients;	/* [nr] */
	uint8_t (*keys)[FHW_KEY_BYTES]; /* [nr] */
};

/* What the audit log has of a request. */
struct fh_udp_audit {
	struct fh_audit_ticket *ticket;
	bool begun, ended;
	/* Strict: nothing is shown before the first is durable, and the last not before the second is; 0: none. */
	uint64_t begin_seq, end_seq;
	uint32_t *out; /* [nr_out] token ids that were generated, malloc'ed for max_out */
	uint32_t nr_out, max_out;
	bool waits; /* in fh_udp.waiting */
	struct fh_udp_req *next_waiting;
};

/* One request; preallocated, so that a request costs no allocation. */
struct fh_udp_req {
	struct fhw_sreq r; /* first: the protocol's view */
	struct fh_request req;
	struct fh_udp *u;
	struct fh_udp_req *next_free;
	struct fh_slot *slots;
	uint32_t *ids;	     /* malloc'ed by the tokenizer */
	uint32_t text_bytes; /* of a prompt that is text, at text */
	const char *text;
	int error;	/* of the tokenizer */
	bool in_engine; /* submitted, and not given back */
	bool cancelled;
	bool revoked;		/* its client may not any more: its end is an error */
	bool has_seed;		/* its client gave one */
	struct fh_identity who; /* when it began; keys may change */
	uint32_t seen;		/* slots that were looked at */
	bool told;		/* the last slot tells the end ... */
	uint8_t last;		/* ... and this, enum fh_finish; the slot itself may be sealed */
	uint8_t hidden;		/* enum fh_finish of a last slot that is not shown, because an END tells more */
	bool over; /* nobody but the protocol has it any more: it ends as @end says, or as the last slot does (told) */
	struct fhw_end end;
	struct fh_udp_audit audit;
};

/* One queue. The first is what others call the front end. */
struct fh_udp {
	struct fh_frontend fe;
	struct fh_udp *next; /* the other queues; only create, destroy and functions for all of them look at it */
	struct fh_udp_config cfg;
	const struct fh_service *svc;
	struct fh_udp_keys keys;		/* the thread's, once it runs */
	_Atomic(struct fh_udp_keys *) new_keys; /* to be taken over by the thread */
	_Atomic uint32_t nr_clients;
	struct fh_guard *guard;		      /* the thread's, once it runs; NULL: none */
	_Atomic(struct fh_guard *) new_guard; /* to be taken over by the thread */
	char clients_file[512];
	struct fhw_keypair key;
	uint8_t cookie_key[FHW_KEY_BYTES]; /* of all queues */
	struct fhw_server_config wire;
	struct fh_dgram_port *port; /* NULL once it is closed */
	struct fhw_server *srv;	    /* from start() on */
	struct fh_region region;    /* the slots of all requests */
	struct fh_udp_req *reqs, *free_reqs;
	struct fh_udp_req *waiting; /* for the audit log */
	bool ending;		    /* all sessions have ended: nobody is told anything */
	bool rings;		    /* requests were submitted that the engine was not told of */
	uint32_t nr_inside;	    /* requests that engine or tokenizer have */
	struct fh_text_worker text; /* of struct fh_udp_req */
	char url[192];

	pthread_t thread;
	bool started;
	sem_t opened;
	int start_rc;
	struct fh_err start_err;
	_Atomic uint32_t draining, stop;
	_Atomic uint64_t stop_us; /* when to give up what runs */
	bool said;		  /* goodbye, to all clients */
	/* On the engine's thread. */
	_Atomic uint32_t serves; /* started, and not over */
	sem_t ended;		 /* over */
	int broken;		 /* -errno: the port is */

	struct fh_dgram empty[FH_DGRAM_BURST]; /* to be filled: [nr_empty], from empty_at on */
	uint32_t empty_at, nr_empty;

	uint64_t now_us;  /* when the last datagrams were taken */
	uint64_t busy_us; /* while it stops: when engine or tokenizer were last seen to have something */
	uint64_t last_id;
	struct fh_random random;    /* seeds for requests without one */
	struct fh_turn_spans spans; /* FH_UDP_SPANS */
	uint64_t shown_us;	    /* when the counters were, on the engine's thread */
	/* What other threads may know: copied each turn. */
	pthread_mutex_t stats_lock;
	struct fhw_server_stats stats;
	uint64_t prompt_bytes, text_bytes, copied_bytes, nr_errors;
	struct {
		uint64_t prompt_bytes, text_bytes, copied_bytes, nr_errors;
	} shown;
};

/* udp_loop.c */
void *fh_udp_thread(void *u);
/* Without a thread: from here on the engine calls fh_udp_polled's functions. 0 or -errno, with u->start_err. */
int fh_udp_begin_on_engine(struct fh_udp *u);
extern const struct fh_polled_ops fh_udp_polled;

/* udp_req.c */
extern const struct fhw_server_ops fh_udp_wire_ops;
int fh_udp_reqs_create(struct fh_udp *u, struct fh_err *err);
void fh_udp_reqs_destroy(struct fh_udp *u);
/* What the engine and the tokenizer have finished. True: there was something. */
bool fh_udp_take_results(struct fh_udp *u);

/* Tell the client what is known of @q and what the log lets out. */
void fh_udp_show(struct fh_udp_req *q);

/* udp_audit.c; without a log they do nothing, and true is what they say */
/* @q->req has its prompt. 0; -errno: it is not to be run, and not logged as begun. */
int fh_udp_audit_begin(struct fh_udp_req *q);
/* Take note of the slots from @from to @to, while they are in the clear. */
void fh_udp_audit_tokens(struct fh_udp_req *q, uint32_t from, uint32_t to);
/* Its one end; of one that never began: that it was refused. */
void fh_udp_audit_end(struct fh_udp_req *q, enum fh_finish why, int error);
/* Is @q's event *seq durable, which is 0 then?  If not, @q is shown again when the log has moved. */
bool fh_udp_audit_allows(struct fh_udp_req *q, uint64_t *seq);
/* The last of an answer is kept back until its end is logged. */
bool fh_udp_audit_holds_last(const struct fh_udp *u);
/* Refused by the protocol, before there was a request object. */
void fh_udp_audit_refused(struct fh_udp *u, uint32_t client, uint32_t id, int error);
/* Show what waited and need not any more. True: there was something. */
bool fh_udp_audit_release(struct fh_udp *u);

/* udp_span.c */
/* @q is over: it is told at the end of the turn, when its client has been. */
void fh_udp_span_end(struct fh_udp_req *q, enum fh_finish why, int error);
/* The same of a request that the protocol refused, or gave up (no @error), before there was a request object. */
void fh_udp_span_refused(struct fh_udp *u, uint32_t client, uint32_t id, int error);

/* udp_text.c */
int fh_udp_text_start(struct fh_udp *u, struct fh_err *err);
/* Tokenize q->text: q->ids and q->req.nr_prompt, or -errno. */
int fh_udp_tokenize(struct fh_udp *u, struct fh_udp_req *q);

/* udp_keys.c */
/* @k is to be freed on failure, too. */
int fh_udp_keys_load(const char *path, struct fh_udp_keys *k, struct fh_err *err);
/* @from has a key. @to is empty on failure. */
int fh_udp_keys_copy(const struct fh_udp_keys *from, struct fh_udp_keys *to, struct fh_err *err);
void fh_udp_keys_free(struct fh_udp_keys *k);
/* Whose each client is, by the guard @g or without one. */
void fh_udp_keys_identify(struct fh_udp_keys *k, const struct fh_guard *g);
/* Requests of clients that may not come any more are cancelled. */
void fh_udp_reqs_recheck(struct fh_udp *u);

#endif /* FH_NET_UDP_PRIV_H */
