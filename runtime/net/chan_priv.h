/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the channel front end's files share; nobody else includes this.
 *
 *   chan.c        life: creation, the I/O thread, drain, stop; statistics
 *   chan_poll.c   the engine's side: submission rings in, completions out
 *   chan_desc.c   descriptors and geometry: what a client may ask for
 *   chan_text.c   prompts that are text: what the tokenizer's thread does (text_worker.c)
 *   chan_sock.c   the transport without the module: handshake, memfds, death
 *   chan_packet.c its packets, as bytes
 *   chan_memfd.c  making memfds, and judging those of others
 *   chan_peer.c   who is at the other end of a socket
 *   chan_vocab.c  the vocabulary that clients are handed
 *   chan_ctl.c    the transport over the module: accept, ends, kicks
 *   chan_audit.c  what the audit log is told; completions that wait for it
 *   chan_span.c   what is told for traces
 *
 * A channel's life
 *
 *   transport (I/O thread)                    engine's thread
 *   ----------------------                    ---------------
 *   maps the areas, fills in the first part
 *   of struct fh_chan
 *   fh_chan_open()            ------------->  poll() finds it in f->arrivals
 *   fh_chan_gone() when the
 *   client has died           ------------->  cancels its requests: their KV blocks
 *                                             are free in that turn
 *                             <-------------  ops->revoke(), when the client broke a rule
 *                             <-------------  ops->release(), once no request of it is
 *   unmaps, frees                             left: the front end's last touch
 *
 * Every channel that fh_chan_open() took is released exactly once, whether or
 * not fh_chan_gone() was called; a transport frees it only then.  When the
 * engine no longer runs, fh_chans_destroy() releases what is left.
 *
 * Nothing that the client may write is read twice: an index, a flag and a
 * descriptor are copied and then judged, a prompt goes straight into the
 * sequence and is judged there.
 */
#ifndef FH_NET_CHAN_PRIV_H
#define FH_NET_CHAN_PRIV_H

#include <pthread.h>
#include <semaphore.h>
#include <stdatomic.h>
#include <time.h>

#include "runtime/base/chan_sock.h"
#include "runtime/base/identity.h"
#include "runtime/base/io.h"
#include "runtime/base/random.h"
#include "runtime/base/sink.h"
#include "runtime/net/chan.h"
#include "runtime/net/desc.h"
#include "runtime/net/req_span.h"
#include "runtime/net/text_worker.h"

struct fh_chan;
struct fh_chan_req;

struct fh_chan_ops {
	const char *name; /* of the transport, for the log: "unix", "driver" */
	enum fh_span_transport transport;
	/* Wake the client, which asked for it with FH_RING_NEED_WAKEUP.  Engine's thread; must not block. */
	void (*kick)(struct fh_chan *c);
	/*
	 * Take the channel from the client and let it know (@reason: enum
	 * fh_revoke_reason).  At most once, before release().  Engine's thread,
	 * or that of fh_chans_stop(); must not block.
	 */
	void (*revoke)(struct fh_chan *c, uint32_t reason);
	/*
	 * The front end touches neither the channel nor its memory any more.
	 * Same threads; must not block, so it leaves unmapping to the I/O
	 * thread (push it on a list of its own, fh_io_wake()).
	 */
	void (*release)(struct fh_chan *c);
};

#define FH_CHAN_GATES 16u
#define FH_CHAN_SPANS 512u /* ends of a turn that are told for traces after it; more are only counted */

/* Entries from @pos on wait until the audit log has event @seq. */
struct fh_chan_gate {
	uint32_t pos;
	uint64_t seq;
};

/* Embed it, aligned as it says; zero it. */
struct fh_chan {
	/* The transport fills these in before fh_chan_open(). */
	const struct fh_chan_ops *ops;
	void *area[FH_NR_AREAS];  /* mapped, page aligned: [info.areas[i].bytes] each; stay mapped until release() */
	struct fh_chan_info info; /* a private copy; its geometry is checked by fh_chan_open() */
	struct fh_peer peer;	  /* as the kernel vouches for it */
	bool can_futex;		  /* client and we may sleep on each other's words with a shared futex */

	/* The front end's own. */
	struct fh_chans *f;
	struct fh_grant grant; /* whose it is, as of its opening */
	uint32_t guard_nr;     /* as of f->guard_nr, the table that was asked last */
	struct fh_chan *next_arrival;
	struct fh_chan *next_released; /* free for the transport's use from release() on */
	_Atomic uint32_t gone;	       /* enum fh_chan_state, set by fh_chan_gone(); 0: it lives */
	const char *why;	       /* why it was given up, for the log, from ops->revoke() on */
	char who[96];		       /* for the log: "unix channel 7 (uid 1000, pid 4711, cgroup 12345)" */

	/* The engine's thread's. */
	bool given_up;	    /* nothing is read from it or written to it any more */
	bool stuck;	    /* the descriptor at sq_seen waits for an object */
	uint32_t sq_tail;   /* as last read, and believed */
	uint32_t sq_seen;   /* descriptors below it were read ... */
	uint32_t sq_head;   /* ... and below it their prompts, too: as published */
	uint64_t *sq_taken; /* a bit an entry in [sq_head, sq_seen): its prompt was read */
	const _Atomic uint32_t *sq_tail_word, *client_flags;
	_Atomic uint32_t *sq_head_word, *runtime_flags;
	struct fh_sink sink;
	struct fh_chan_req *reqs;		    /* [sq_entries] owned */
	struct fh_chan_req *free;		    /* those without a request */
	struct fh_chan_req *open_head;		    /* those with one */
	struct fh_chan_req *owed_head, **owed_tail; /* ended, without room to say so */
	uint32_t nr_used;			    /* not free */
	uint32_t asked;				    /* what stands in *runtime_flags */
	/* With an audit log: what is held back of the sink. */
	uint32_t turn_tail; /* the sink's tail when the turn began */
	uint32_t gate_from, nr_gates;
	struct fh_chan_gate gate[FH_CHAN_GATES]; /* a ring, in order of both */
};

/* The front end's side of one request; preallocated, so that a request costs no allocation. */
struct fh_chan_req {
	struct fh_request req; /* .fe_private is this */
	struct fh_chan *chan;
	struct fh_chan_req *next, **pprev; /* in chan->free (no pprev), chan->open_head or chan->owed_head */
	uint32_t sq_index;		   /* of its descriptor */
	bool holds_entry;		   /* its prompt was not read yet */
	bool is_cancel;			   /* no request at all: end the one with this user_data */
	bool is_text, has_seed;
	/* A prompt that is text. */
	uint64_t text_off;
	uint32_t text_bytes;
	uint32_t *ids; /* malloc'ed by the tokenizer */
	/* With an audit log. */
	struct fh_audit_ticket *ticket;
	bool audit_begun, audit_ended;
	/* What its end will say. */
	enum fh_finish finish;
	int32_t error;
	uint32_t retry_us;
};

/* A transport, as the I/O thread serves it. Embedded in the transport's own struct. */
struct fh_chan_transport {
	const char *name;
	struct fh_chans *f;
	/* On the I/O thread, before its first turn; 0 or -errno with @err. */
	int (*start)(struct fh_chan_transport *t, struct fh_err *err);
	/* On the I/O thread, after each turn of the loop: what other threads left to do (releases). */
	void (*turn)(struct fh_chan_transport *t);
	/* On the I/O thread: accept nothing any more. */
	void (*drain)(struct fh_chan_transport *t);
	/* After the I/O thread and the engine have ended and all channels were released: free everything. */
	void (*destroy)(struct fh_chan_transport *t);
};

#define FH_CHAN_MAX_TRANSPORTS 2

/* Counters; several writers. */
struct fh_chan_counters {
	_Atomic uint32_t nr_open, nr_inside, nr_gated; /* gated: channels of which something waits for the audit log */
	_Atomic uint64_t nr_accepted, nr_refused, nr_violations, nr_requests, nr_request_errors;
	_Atomic uint64_t nr_kicks_in, nr_kicks_out, nr_futex_wakes, text_bytes, copied_bytes;
};

struct fh_chans {
	struct fh_frontend fe;
	struct fh_chans_config cfg;
	const struct fh_service *svc;
	struct fh_chan_counters st;
	_Atomic uint32_t draining; /* nothing new is taken */
	_Atomic uint32_t closing;  /* the engine takes every channel away */
	_Atomic uint32_t stop;	   /* the I/O thread ends */

	/* The I/O thread. */
	struct fh_io *io;
	pthread_t thread;
	bool started;
	sem_t opened;
	int start_rc;
	struct fh_err start_err;
	struct fh_chan_transport *transport[FH_CHAN_MAX_TRANSPORTS];
	uint32_t nr_transports;

	pthread_mutex_t guard_lock; /* of guard, for who opens a channel and who changes it */
	struct fh_guard *guard;	    /* NULL: none */
	_Atomic uint32_t guard_nr;  /* counts those that were set */

	uint64_t log_second; /* see fh_chan_may_log() */
	uint32_t nr_logged, nr_unlogged;

	struct fh_text_worker text; /* of struct fh_chan_req; its owner is the engine's thread */

	/* Pushed by transports, taken whole by the engine. */
	_Atomic(struct fh_chan *) arrivals;
	_Atomic uint32_t nr_gone; /* fh_chan_gone() calls that poll() has not looked at */

	/* The engine's thread's. */
	struct fh_chan **open; /* [max_channels] */
	uint32_t nr_open;
	struct fh_sink *dirty; /* those that got something in this turn */
	uint32_t guard_seen;   /* every open channel was asked about at this guard_nr */
	bool sweep;	       /* a channel that was given up may be ready to go */
	uint64_t last_id;
	struct fh_chan_req spare;   /* what a descriptor is parsed into when its channel has no object */
	uint32_t turn_at;	    /* the channel that is served first, for fairness */
	struct fh_random random;    /* seeds for requests without one, identities of spans */
	struct fh_turn_spans spans; /* FH_CHAN_SPANS */
};

/* ---- for transports ---- */

/*
 * Hand over an accepted, mapped channel.  Any thread.  0: it is the front
 * end's until ops->release(); otherwise it stays the transport's: -EINVAL for
 * a geometry that we do not take, -ENOMEM, -EDQUOT for max_channels,
 * -ESHUTDOWN, with @err.
 */
int fh_chan_open(struct fh_chans *f, struct fh_chan *c, struct fh_err *err);
/* The other side is gone, or the channel is closed (@why: enum fh_chan_state above FH_CHAN_OPEN).  Any thread. */
void fh_chan_gone(struct fh_chan *c, uint32_t why);
/* A client sent a kick: somebody asked for it. Any thread. */
void fh_chan_kicked(struct fh_chans *f);
/* A geometry that we take? Pure. 0, or -EINVAL with @err. */
int fh_chan_check_geometry(const struct fh_chan_info *info, struct fh_err *err);
/* False when there were too many lines in this second; then it counts one that is missing. I/O thread. */
bool fh_chan_may_log(struct fh_chans *f);
/* Log that a channel came, or (after release()) that it went. I/O thread. */
void fh_chan_log_open(struct fh_chan *c);
void fh_chan_log_end(struct fh_chan *c);

/* chan_sock.c: opens the listener at cfg.unix_path. */
int fh_chan_sock_create(struct fh_chans *f, struct fh_chan_transport **out, struct fh_err *err);
const char *fh_chan_sock_url(const struct fh_chan_transport *t);

/*
 * chan_ctl.c: over the kernel module; @ctl is borrowed and outlives the front
 * end.  Writes the vocabulary file.
 */
int fh_chan_ctl_create(struct fh_chans *f, struct fh_ctl *ctl, struct fh_chan_transport **out, struct fh_err *err);
/* Its clients' vocabulary, into the file @path (absolute), which is replaced by renaming. */
int fh_chan_vocab_file(const struct fh_service *svc, const char *path, struct fh_err *err);

/* ---- inside ---- */

extern const struct fh_polled_ops fh_chan_polled;
/* Take @c, which was not given up, from its client, and log @why. Engine's thread, or once that has stopped. */
void fh_chan_give_up(struct fh_chan *c, uint32_t reason, const char *why);
/* The engine has stopped: end and release every channel that is left. */
void fh_chan_release_all(struct fh_chans *f);

/*
 * chan_desc.c: what the descriptor in @entry (a private copy, @entry_bytes of
 * it) asks for, into @q: everything of its request but what depends on the
 * channel's objects.  Pure.  0 or -errno, for the client.
 */
int fh_chan_desc_parse(const void *entry, uint32_t entry_bytes, uint64_t arena_bytes, uint32_t max_text_bytes,
		       struct fh_chan_req *q);
/*
 * How far a submission ring's tail has come: 0, or -EPROTO when @tail is not in
 * [@seen, @head + @entries].  Pure.
 */
int fh_chan_check_tail(uint32_t tail, uint32_t head, uint32_t seen, uint32_t entries);

/* chan_audit.c; all of it does nothing while there is no audit log. */
/* 0, or -errno: the log is strict and cannot be written, or is behind. */
int fh_chan_audit_ready(struct fh_chans *f);
/* The engine has read its prompt. False: it cannot be logged, which a strict log does not allow. */
bool fh_chan_audit_begin(struct fh_chan_req *q);
/* It has ended, or was refused. The first time counts. */
void fh_chan_audit_end(struct fh_chan_req *q, enum fh_finish why, int error);
/* Below which entries of its sink may be shown. */
uint32_t fh_chan_audit_limit(struct fh_chan *c);

/* chan_span.c; all of it does nothing while nobody wants traces. */
/* A request is over: it is told when the turn is. Once. */
void fh_chan_span_end(struct fh_chan_req *q, enum fh_finish why, int error);

/*
 * chan_text.c: f->text tokenizes what @q->is_text, @q->text_off and
 * @q->text_bytes say; then there is q->error, or q->ids and req.nr_prompt.
 */
int fh_chan_text_create(struct fh_chans *f, struct fh_err *err);
int fh_chan_text_start(struct fh_chans *f, struct fh_err *err);

/* ---- the Unix socket's parts ---- */

/* What a connection may send when. */
enum fh_sock_stage { FH_STAGE_HELLO, FH_STAGE_ATTACH, FH_STAGE_OPEN };

/*
 * chan_packet.c: is this packet, of @bytes (as it was sent, perhaps more than
 * @buf holds) with @nr_fds descriptors, allowed at @stage?  Pure.  0 with the
 * copied @hello where it is one; else -EPROTO, or -EINVAL for a hello with
 * values that we do not take, with @err for the client.
 */
int fh_sock_packet(const void *buf, size_t bytes, uint32_t nr_fds, enum fh_sock_stage stage,
		   struct fh_sock_hello *hello, struct fh_err *err);

/* chan_memfd.c: a new memfd of @bytes, mapped read-write at *@map and sealed so that others can only read it. */
int fh_memfd_make(const char *name, uint64_t bytes, int *fd, void **map, struct fh_err *err);
/* Map another's memfd of exactly @bytes read-only: kind, length and seals are checked first. */
int fh_memfd_map(int fd, uint64_t bytes, void **map, struct fh_err *err);

/* chan_peer.c: who connected @fd; what cannot be found out is flagged. 0 or -errno. */
int fh_chan_peer(int fd, struct fh_peer *p);

/* chan_vocab.c: the model's vocabulary (struct fh_vocab) in a sealed memfd; *fd is -1 where there is none. */
int fh_chan_vocab(const struct fh_service *svc, int *fd, struct fh_err *err);

#endif /* FH_NET_CHAN_PRIV_H */
