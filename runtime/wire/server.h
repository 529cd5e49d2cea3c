/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The server's end of the protocol: datagrams in, requests out; tokens in,
 * datagrams out.
 *
 * No socket, no clock, no thread: time is an argument (microseconds,
 * CLOCK_MONOTONIC or any other), what is to be sent is asked for with
 * fhw_server_next().  Memory is taken for a new session and for a message of
 * several packets, never for a packet.
 *
 * Who is who
 *   Before it has proved its address with a cookie, nothing is remembered of a
 *   client and nothing longer is sent to it than what came.  Its key is then
 *   looked up in the list.  A session is confirmed by its first genuine packet.
 *
 * A request's life
 *   get()      a piece of its message came first: an object for it
 *   begin()    the message is whole, at r->msg: the user is to run it
 *   fhw_server_message_read()   its memory may go
 *   fhw_server_tokens()         slots below a tail are published
 *   credit()   the client has read slots: r->head moved
 *   cancel()   nobody wants it any more (asked for, or the session ended)
 *   fhw_server_done()           the user's last word; the slots stay
 *   put()      all was received, or there is nobody: the object is free again
 */
#ifndef FH_WIRE_SERVER_H
#define FH_WIRE_SERVER_H

#include "runtime/wire/session.h"

struct fhw_server;
struct fhw_srv_session;

/* One request; the user embeds it. */
struct fhw_sreq {
	/* The user's, before get() returns it: token slots in memory that tails may lie in. */
	struct fh_slot *slots; /* [nr_slots], a power of two */
	uint32_t nr_slots;
	/* For begin(). */
	const uint8_t *msg; /* [total], aligned to 4; struct fh_req_desc, then the prompt */
	uint32_t total;
	uint32_t client; /* which of the keys: its place in the list */
	uint32_t head;	 /* slots below it were read by the client */
	bool gathered;	 /* the message was copied together from several packets */
	/* The protocol's. */
	uint32_t id;
	struct fhw_srv_session *s;
	struct fhw_sreq *next, **pprev; /* of the session */
	struct fhw_sreq *next_out;	/* that have something to send */
	bool in_out, running, cancelled, ended, end_owed;
	bool stays; /* fhw_server_linger()'s */
	uint32_t tail, sent;
	uint32_t nr_recs; /* packets that are not acknowledged */
	uint32_t told;	  /* slots below it were read by the client; head follows when nothing sends them any more */
	struct fhw_end end;
	struct fh_dgram held; /* the packet that msg lies in; data NULL: none */
	uint8_t *buf;	      /* or the pieces together, malloc'ed */
	uint64_t *have;	      /* a bit a piece */
	uint32_t nr_have;
	uint64_t begin_us; /* when the first piece came */
	uint64_t moved_us; /* when the client last did its part: read, acknowledged, or had nothing to do */
};

struct fhw_server_ops {
	/* An object, with its first two fields set; NULL: there is none. */
	struct fhw_sreq *(*get)(void *ctx);
	void (*put)(void *ctx, struct fhw_sreq *r);
	void (*begin)(void *ctx, struct fhw_sreq *r);
	void (*cancel)(void *ctx, struct fhw_sreq *r);
	void (*credit)(void *ctx, struct fhw_sreq *r);
	/* The protocol ended request @id of @client itself, before begin(): 0 or -errno. NULL: nobody wants to know. */
	void (*refused)(void *ctx, uint32_t client, uint32_t id, int error);
	/* A datagram that fhw_server_recv() kept. */
	void (*release)(void *ctx, struct fh_dgram *d);
	/* Cryptographically strong. */
	void (*random)(void *ctx, void *out, size_t bytes);
};

struct fhw_server_config {
	void *ctx;
	const struct fhw_server_ops *ops;
	struct fhw_keypair key;
	const uint8_t (*clients)[FHW_KEY_BYTES]; /* [nr_clients] public keys; borrowed */
	uint32_t nr_clients;
	struct fhw_welcome welcome;   /* mtu: the largest that the server sends or takes */
	uint32_t max_sessions;	      /* at most 4096; 0: 1024 */
	uint32_t max_client_sessions; /* of one key; 0: 64 */
	uint32_t max_client_requests; /* of one key, over its sessions; 0: no limit but the objects */
	uint32_t max_message_bytes;   /* of one request; 0: 16 MiB */
	uint64_t max_gathered_bytes; /* of messages that were put together; 0: 256 MiB; one key has 3/4 of it at most */
	uint32_t max_held;	     /* datagrams that may be kept for their messages; more are copied */
	/* [FHW_KEY_BYTES] random, of all servers at one address, so that each takes the others' cookies; NULL: its own
	 */
	const uint8_t *cookie_key;
	uint64_t idle_us; /* a session without requests ends after; 0: 60 s */
	bool no_aes;	  /* tests: always ChaCha20-Poly1305 */
};

/* Since the server began. */
struct fhw_server_stats {
	uint64_t nr_malformed, nr_replayed, nr_forged, nr_rude, nr_unknown; /* packets that changed nothing else */
	uint64_t nr_bad_mac, nr_bad_cookie, nr_bad_handshake, nr_unlisted, nr_limited;
	uint64_t nr_retries, nr_resets, nr_refused;
	uint64_t nr_sessions_total, nr_sessions_dead; /* confirmed; ended by silence */
	uint64_t nr_requests, nr_tokens, nr_token_packets;
	uint64_t nr_lost, nr_probes, nr_spurious;
	uint64_t gathered_bytes, copied_bytes; /* of messages in several packets; those, and what could not be kept */
	uint32_t nr_sessions, nr_open, nr_held;
	uint32_t nr_kept; /* packets of requests that are over, which wait for their acknowledgement */
};

/* 0, -EINVAL, -ENOMEM, -EIO with @err. */
int fhw_server_create(const struct fhw_server_config *cfg, struct fhw_server **out, struct fh_err *err);
/* Ends all sessions at once, without a word; no tail is out and no request runs any more. */
void fhw_server_destroy(struct fhw_server *srv);

/*
 * A datagram came. True: it is kept until ops->release(), which may have been called before this returns; otherwise it
 * is the caller's, its bytes in any state.
 */
bool fhw_server_recv(struct fhw_server *srv, struct fh_dgram *d, uint64_t now_us);
/*
 * Write the next datagram to @d (data, room): bytes, peer and perhaps a tail are
 * set.  False: there is none now.  Who does not send it after all calls the
 * tail's done().
 */
bool fhw_server_next(struct fhw_server *srv, struct fh_dgram *d, uint64_t now_us);
/* Timers. When to call it, or fhw_server_next(), at the latest: FHW_NEVER or a time. */
void fhw_server_tick(struct fhw_server *srv, uint64_t now_us);
uint64_t fhw_server_next_us(const struct fhw_server *srv);

/* Slots below @tail are published. The last one may have FH_SLOT_LAST: then it tells the end. */
void fhw_server_tokens(struct fhw_server *srv, struct fhw_sreq *r, uint32_t tail);
void fhw_server_message_read(struct fhw_server *srv, struct fhw_sreq *r);
/*
 * The user is done with it: @end is told behind the slots that were published,
 * unless it is NULL: the last slot has told it.
 */
void fhw_server_done(struct fhw_server *srv, struct fhw_sreq *r, const struct fhw_end *end);

/*
 * Another list of clients, borrowed until the next one: sessions of keys that are
 * not on it any more end.  0, or -ENOMEM: the old one stays.
 */
int fhw_server_set_clients(struct fhw_server *srv, const uint8_t (*clients)[FHW_KEY_BYTES], uint32_t nr_clients);
/* Take no new session or request: those that come are refused (-ESHUTDOWN). */
void fhw_server_drain(struct fhw_server *srv);
/* End all sessions, with a word: running requests are cancelled. Then fhw_server_next() until it says no. */
void fhw_server_close_all(struct fhw_server *srv);
void fhw_server_stats(const struct fhw_server *srv, struct fhw_server_stats *out);

#endif /* FH_WIRE_SERVER_H */
