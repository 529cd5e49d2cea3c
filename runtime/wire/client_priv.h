/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the client end's files share.
 *
 *   client.c        its life, timers, what is sent next, packets of a session
 *   client_hello.c  the handshake
 *   client_req.c    requests: messages out, slots in
 */
#ifndef FH_WIRE_CLIENT_PRIV_H
#define FH_WIRE_CLIENT_PRIV_H

#include "runtime/wire/client.h"

struct fhw_creq {
	uint32_t id; /* 0: free */
	uint64_t user;
	uint8_t *msg; /* [total], owned; kept for the next request in this place */
	uint32_t msg_cap, total;
	uint32_t sent; /* bytes of the message that were sent once */
	bool in_out, in_ready, cancelled, has_end;
	/* Slots that have come: at index modulo nr_slots, a stamp of 0 where none has. */
	struct fh_slot *slots;	   /* [nr_slots] owned, or NULL: none yet */
	uint32_t read;		   /* slots below it were popped */
	uint32_t told;		   /* and the server knows of so many */
	uint32_t high;		   /* above the highest that came */
	uint64_t begin_us, due_us; /* submitted; when its first token is wanted, or FHW_NEVER */
	uint32_t end_seq;
	struct fhw_end end;
	struct fhw_creq *next_out, *next_ready, *next_free;
};

#define FHW_REFUSE_GONE 0x100u /* beside enum fhw_refuse: the network says that nobody listens there */

struct fhw_client {
	struct fhw_client_config cfg;
	enum fhw_client_state state;
	int error;
	const char *why;
	struct fhw_welcome welcome;
	struct fhw_session s;
	/* The handshake. */
	struct fhw_noise noise;
	uint8_t noise1[FHW_NOISE1_BYTES], cookie[FHW_MAC_BYTES], mac[FHW_MAC_BYTES];
	uint32_t index, try_mtu;
	bool init_due;
	uint32_t nr_sent, nr_retries, refusal;
	uint64_t begin_us, init_us, again_us;
	/* The session. */
	uint64_t wait_us;      /* when the first of the open requests was submitted */
	uint64_t hint_us;      /* somebody said that the server knows us no more; 0: nobody */
	uint32_t close_owed;   /* goodbyes to be said */
	uint64_t ping_us;      /* how long silence lasts until we ask */
	uint32_t last_request; /* that tokens came for: the one that an acknowledgement names */
	/* Requests. */
	struct fhw_creq **by_id; /* [FHW_SLOTS] */
	struct fhw_creq *reqs;	 /* [max_requests] */
	struct fhw_creq *free_head, *out_head, **out_tail, *ready_head, **ready_tail;
	uint32_t nr_open, last_id;
	uint64_t due_us; /* of the open requests the earliest, at the latest; FHW_NEVER */
	struct fhw_client_stats st;
};

/* client.c */
void fhw_client_die(struct fhw_client *c, int error, const char *why);
bool fhw_client_is_stale(const struct fhw_client *c, uint64_t now_us);

/* client_hello.c */
void fhw_hello_retry(struct fhw_client *c, const struct fh_dgram *d, uint64_t now_us);
void fhw_hello_refuse(struct fhw_client *c, const struct fh_dgram *d);
void fhw_hello_resp(struct fhw_client *c, const struct fh_dgram *d, uint64_t now_us);
void fhw_hello_next(struct fhw_client *c, struct fh_dgram *d, uint64_t now_us);
void fhw_hello_tick(struct fhw_client *c, uint64_t now_us);

/* client_req.c */
struct fhw_creq *fhw_creq_find(struct fhw_client *c, uint32_t id);
void fhw_creq_tokens(struct fhw_client *c, const struct fhw_hdr *h, const uint8_t *body, uint32_t bytes);
void fhw_creq_end(struct fhw_client *c, const struct fhw_hdr *h, const struct fhw_end *e);
bool fhw_creq_next(struct fhw_client *c, struct fh_dgram *d, uint64_t now_us);
/* End those whose first token was wanted by now, if the server was never heard since. */
void fhw_creq_tick(struct fhw_client *c, uint64_t now_us);
/* All that are open end with this. */
void fhw_creq_fail_all(struct fhw_client *c, int error);

#endif /* FH_WIRE_CLIENT_PRIV_H */
