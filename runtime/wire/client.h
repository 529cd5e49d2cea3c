/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The client's end of the protocol: requests in, datagrams out; datagrams in,
 * tokens out, each once and in order.
 *
 * No socket, no clock, no thread, as at the server's end.  Memory is taken when
 * it is created and where a message is longer than those before.
 *
 *	IDLE --start()--> HELLO --RESP--> OPEN --silence, CLOSE--> DEAD
 *	                    |  ^  RETRY
 *	                    +--+
 *
 * A session that was silent for some seconds without requests may be forgotten by
 * the server; the next request then begins with a new handshake.
 */
#ifndef FH_WIRE_CLIENT_H
#define FH_WIRE_CLIENT_H

#include "runtime/wire/session.h"

struct fhw_client;

struct fhw_client_config {
	struct fhw_keypair key;
	uint8_t server[FHW_KEY_BYTES];
	struct fh_dgram_addr peer;
	uint32_t mtu;	       /* largest datagram to be tried; FH_DGRAM_MIN_MTU at least */
	uint32_t max_requests; /* at once, up to FHW_SLOTS */
	uint64_t open_us;      /* how long a handshake may take; 0: 5 s */
	uint64_t dead_us;      /* FHW_DEAD_US where 0 */
	bool no_aes;
	void *ctx;
	void (*random)(void *ctx, void *out, size_t bytes);
};

enum fhw_client_state { FHW_CLIENT_IDLE, FHW_CLIENT_HELLO, FHW_CLIENT_OPEN, FHW_CLIENT_DEAD };

/* What fhw_client_pop() returns: a token, or the end of a request that no slot tells. */
struct fhw_token {
	uint32_t request;
	uint64_t user;
	bool is_end; /* @end, not @slot */
	struct fh_slot slot;
	struct fhw_end end;
};

struct fhw_client_stats {
	uint64_t nr_malformed, nr_replayed, nr_forged, nr_rude, nr_hints;
	uint64_t nr_lost, nr_probes, nr_spurious, nr_handshakes, nr_duplicates;
	uint64_t srtt_us;
};

/* 0, -EINVAL, -ENOMEM, -EIO with @err. */
int fhw_client_create(const struct fhw_client_config *cfg, struct fhw_client **out, struct fh_err *err);
void fhw_client_destroy(struct fhw_client *c);

/* Begin the handshake. */
void fhw_client_start(struct fhw_client *c, uint64_t now_us);
enum fhw_client_state fhw_client_state(const struct fhw_client *c);
/* When it is dead: -errno, and the reason in words. */
int fhw_client_error(const struct fhw_client *c, const char **why);
/* What the server said of itself; valid from FHW_CLIENT_OPEN on. */
const struct fhw_welcome *fhw_client_welcome(const struct fhw_client *c);

/* A datagram came, whose payload is decrypted where it lies. */
void fhw_client_recv(struct fhw_client *c, struct fh_dgram *d, uint64_t now_us);
/* Write the next datagram to @d. False: there is none now. Never with a tail. */
bool fhw_client_next(struct fhw_client *c, struct fh_dgram *d, uint64_t now_us);
void fhw_client_tick(struct fhw_client *c, uint64_t now_us);
uint64_t fhw_client_next_us(const struct fhw_client *c);

/*
 * Submit a message: @desc, whose prompt_off and prompt_bytes are set here, and
 * the prompt; both are copied.  @user comes back with each token.  0 and *id;
 * -EAGAIN: too many are open; -E2BIG, -ENOMEM, or why it is dead.
 */
int fhw_client_submit(struct fhw_client *c, const struct fh_req_desc *desc, const void *prompt, uint32_t bytes,
		      uint64_t user, uint64_t now_us, uint32_t *id);
/* Its end will be told as of any other. -ENOENT: there is no such request. */
int fhw_client_cancel(struct fhw_client *c, uint32_t id, uint64_t now_us);
/*
 * The next token, or end, of any request. False: there is none. When the session
 * is dead every open request has its end, with the reason.
 */
bool fhw_client_pop(struct fhw_client *c, struct fhw_token *t);
/* Acknowledge now what was received: nobody may call for a while. */
void fhw_client_ack(struct fhw_client *c, uint64_t now_us);
/* Say goodbye: then fhw_client_next() until it says no. */
void fhw_client_close(struct fhw_client *c);
void fhw_client_stats(const struct fhw_client *c, struct fhw_client_stats *out);

#endif /* FH_WIRE_CLIENT_H */
