/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the server end's files share.
 *
 *   server.c        its life, sessions, timers, what is sent next
 *   server_hello.c  handshakes: cookies, refusals, new sessions
 *   server_req.c    requests: messages in, slots out
 */
#ifndef FH_WIRE_SERVER_PRIV_H
#define FH_WIRE_SERVER_PRIV_H

#include "runtime/wire/server.h"

#define FHW_MAX_SESSIONS 4096u
#define FHW_NR_REPLIES 64u
#define FHW_SOURCES 1024u
#define FHW_REPLY_BYTES FHW_RESP_BYTES

/* A datagram that is no part of a session, waiting to be sent. */
struct fhw_reply {
	struct fh_dgram_addr peer;
	uint32_t used, bytes; /* bytes: with the zeros behind */
	uint8_t data[FHW_REPLY_BYTES];
};

#define FHW_KEPT 16u	    /* packets of requests that are over */
#define FHW_KEPT_BYTES 128u /* of a body: eight slots, or an END */

struct fhw_srv_session {
	struct fhw_session s;
	struct fhw_server *srv;
	struct fhw_srv_session *next, **pprev; /* all */
	struct fhw_srv_session *next_active;
	bool active, confirmed, dead, close_owed, sweep;
	uint32_t client;
	uint64_t begin_us;
	uint8_t client_e[FHW_KEY_BYTES]; /* which handshake it came from */
	uint8_t resp[FHW_RESP_BYTES];	 /* its answer, until confirmed */
	uint32_t resp_bytes;
	struct fhw_sreq *reqs;
	uint32_t nr_reqs;
	struct fhw_sreq *out_head, **out_tail;
	/* Packets of requests that are over but for their acknowledgement. */
	struct fhw_kept {
		uint64_t since_us; /* when its request last moved */
		bool used;
		uint32_t bytes;
		uint8_t body[FHW_KEPT_BYTES];
	} kept[FHW_KEPT];
	uint32_t nr_kept;
	/* By request number modulo FHW_SLOTS: the newest that was seen, and its object while there is one. */
	struct {
		uint32_t id;
		struct fhw_sreq *r;
	} slots[FHW_SLOTS];
};

/* So many a second, and @burst at once. */
struct fhw_bucket {
	uint64_t full_us; /* when it is full again */
};

/* What one key has. */
struct fhw_client_use {
	uint32_t nr_sessions, nr_reqs; /* nr_reqs: that are open */
	uint64_t gathered;	       /* its part of gathered_now */
};

struct fhw_server {
	struct fhw_server_config cfg;
	uint8_t cookie_key[FHW_KEY_BYTES];
	struct fhw_srv_session *table[FHW_MAX_SESSIONS];
	struct fhw_srv_session *all, *active_head, **active_tail;
	struct fhw_client_use *use; /* [nr_clients + 1]; the last: of keys that went */
	uint32_t nr_clients_before;
	struct fhw_bucket handshakes, replies_rate;
	struct fhw_bucket sources[FHW_SOURCES]; /* handshakes, by a keyed hash of where they come from */
	uint8_t source_key[crypto_shorthash_KEYBYTES];
	struct fhw_reply replies[FHW_NR_REPLIES];
	uint32_t reply_head, reply_tail;
	uint64_t gathered_now, coarse_us;
	bool draining;
	struct fhw_server_stats st;
};

/* server.c */
bool fhw_bucket_take(struct fhw_bucket *b, uint64_t now_us, uint32_t per_second, uint32_t burst);
/* An empty reply to @peer, or NULL: too many wait. */
struct fhw_reply *fhw_server_reply(struct fhw_server *srv, const struct fh_dgram_addr *peer);
void fhw_session_activate(struct fhw_srv_session *s);
/* Its requests are cancelled; it goes when nothing of it is used any more. @say: tell the client. */
void fhw_session_kill(struct fhw_srv_session *s, bool say);
/* Free one whose handshake was never finished. */
void fhw_session_free(struct fhw_srv_session *s);

/* server_hello.c */
/* The place of a key in the list. */
bool fhw_find_client(const struct fhw_server *srv, const uint8_t key[FHW_KEY_BYTES], uint32_t *client);
void fhw_server_hello(struct fhw_server *srv, const struct fh_dgram *d, uint64_t now_us);

/* server_req.c */
/* A genuine packet of @s whose header is @h. True: @d is kept. */
bool fhw_server_data(struct fhw_srv_session *s, struct fh_dgram *d, const struct fhw_hdr *h, uint64_t now_us);
bool fhw_server_next_data(struct fhw_srv_session *s, struct fh_dgram *d, uint64_t now_us);
void fhw_server_on_acked(struct fhw_flow *f, struct fhw_rec *r);
void fhw_server_sweep(struct fhw_srv_session *s);
/* End those whose message is not whole after so long, or of which the client reads or acknowledges nothing. */
void fhw_server_expire(struct fhw_srv_session *s, uint64_t now_us);
/*
 * A probe was due: who has received all but acknowledged not the last of it may
 * be silent for long (a program that nobody calls), so requests that are over go
 * now, and what stands in their packets is kept apart, to be sent again.
 */
void fhw_server_linger(struct fhw_srv_session *s);
/* All of a dead session's requests; true: none is left. */
bool fhw_server_put_all(struct fhw_srv_session *s);
void fhw_server_cancel_all(struct fhw_srv_session *s);

#endif /* FH_WIRE_SERVER_PRIV_H */
