/* SPDX-License-Identifier: Apache-2.0 */
/*
 * libfreehold from inside.
 *
 *   client.c        handles: requests in flight, waiting, the public calls
 *   where.c         fh_open(): which transport, and where to look
 *   ring.c          the client's half of a channel's rings, whatever carries them
 *   ring_map.c      what a channel's info area must say before it is believed
 *   chan_unix.c     a channel over a Unix socket and two memfds
 *   chan_dev.c      a channel over the kernel module
 *   http.c          requests over HTTP: connections
 *   http_request.c  a request's bytes
 *   http_answer.c   an answer's bytes
 *   udp.c           requests in encrypted UDP packets
 *   vocab.c         tokens to text
 *
 * Who owns what: a handle owns its transport (c->t), its table of requests and
 * its vocabulary.  Everything that comes from the other side, in shared memory
 * or in a socket, is copied once and then judged; a side that breaks the rules
 * costs the handle (-EPROTO, for good), never the process.
 */
#ifndef FH_LIB_LIB_PRIV_H
#define FH_LIB_LIB_PRIV_H

#include <stdbool.h>
#include <stdint.h>

#include "runtime/base/clock.h"
#include "runtime/base/err.h"
#include "runtime/lib/freehold.h"

#define FHL_MAX_REQUESTS 2048u
#define FHL_FLAGS (FH_REQ_IGNORE_EOS | FH_REQ_LOGPROBS | FH_REQ_SEED) /* that a caller may set */
#define FHL_SLOT_FLAGS (FH_SLOT_LAST | FH_SLOT_NO_TOKEN | FH_SLOT_CUT | FH_SLOT_LOGPROB)

/* One request in flight. Its place in the table is in the low bits of its id, which is never used again. */
struct fhl_req {
	uint64_t id; /* 0: free */
	uint64_t user_data;
	uint32_t nr_tokens; /* that have come */
	uint32_t next_free;
	bool cancel;  /* asked for ... */
	bool unasked; /* ... and the transport had no room to say so yet */
};

struct fhl_prompt {
	const void *data; /* token ids, or UTF-8 */
	size_t bytes;
	bool text;
};

struct fhl_vocab {
	const char *map; /* the file: mapped, or copied */
	size_t map_bytes;
	bool copied;
	uint32_t nr_tokens, nr_ctx;
	uint64_t off_off, bytes_off, pieces_bytes;
};

/* Copied from the caller, with the defaults filled in. */
struct fhl_options {
	char *api_key, *model, *udp_key_file; /* owned by the handle */
	uint32_t max_requests, sq_entries, cq_entries;
	uint64_t arena_bytes;
	uint64_t open_deadline_ns; /* CLOCK_MONOTONIC */
	uint64_t spin_ns;
};

/* A transport. Everything returns 0 or -errno with c->err; only wait() may block. */
struct fhl_ops {
	const char *name;
	int (*submit)(struct fh_client *c, struct fhl_req *r, const struct fhl_prompt *prompt,
		      const struct fh_params *p);
	/* -EAGAIN: no room now; it is asked again. */
	int (*cancel)(struct fh_client *c, struct fhl_req *r);
	/* One look: 0 with a token, or -EAGAIN. */
	int (*look)(struct fh_client *c, struct fh_token *t);
	/* Nothing was there: have the descriptor signalled. -EALREADY: something has come, look again. */
	int (*arm)(struct fh_client *c);
	/* Until something may be there, at most until @until_ns (CLOCK_MONOTONIC; UINT64_MAX: for ever). Or -EINTR. */
	int (*wait)(struct fh_client *c, uint64_t until_ns);
	int (*fd)(struct fh_client *c);
	void (*close)(struct fh_client *c);
};

struct fh_client {
	const struct fhl_ops *ops; /* NULL: not connected */
	void *t;		   /* the transport's own */
	int dead;		   /* 0, or -errno that every call returns from now on */
	bool polled;		   /* fh_fd() was called */
	uint32_t nr_inflight, nr_unasked;
	uint32_t free_req; /* index + 1; 0: none */
	uint64_t last_gen;
	struct fhl_req *reqs; /* [opt.max_requests] */
	struct fhl_options opt;
	struct fhl_vocab vocab;
	char where[256], model[256];
	uint32_t nr_ctx, nr_vocab;
	struct fh_peer peer; /* flags 0: not known */
	char *scratch;	     /* of fh_decode() */
	size_t scratch_bytes;
	struct fh_err err;
};

/* client.c */

/* The request that @id names, or NULL. */
struct fhl_req *fhl_req_find(struct fh_client *c, uint64_t id);
/* Begin @t with @r's names. */
void fhl_token_begin(struct fh_token *t, const struct fhl_req *r);
/* @r has ended; its id names nothing any more. */
void fhl_req_put(struct fh_client *c, struct fhl_req *r);
/* The handle is of no use any more: every call returns @code, and this is why. The first reason stays. */
int fhl_die(struct fh_client *c, int code, const char *fmt, ...) __attribute__((format(printf, 3, 4)));

/* where.c: connects @c, whose options are set. */
int fhl_connect(struct fh_client *c, const char *where);

/* The transports: 0 with c->ops and c->t set, or -errno with c->err and nothing left behind. */
int fhl_unix_open(struct fh_client *c, const char *path);
int fhl_dev_open(struct fh_client *c, const char *path);
int fhl_http_open(struct fh_client *c, const char *host, const char *port, const char *path);
int fhl_udp_open(struct fh_client *c, const char *server_key, const char *host, const char *port);

/* ring.c: what descriptors say of a request, but where its prompt lies. */
void fhl_fill_desc(struct fh_req_desc *d, const struct fhl_req *req, const struct fhl_prompt *prompt,
		   const struct fh_params *p);

/* vocab.c */

/* Take over the vocabulary in @fd, which stays the caller's: mapped if @sealed, else copied. */
int fhl_vocab_open(struct fh_client *c, int fd, bool sealed);
void fhl_vocab_close(struct fh_client *c);

/* What is left until @deadline_ns, for poll() and epoll_wait(): rounded up, at most @most_ms. */
static inline int fhl_left_ms(uint64_t deadline_ns, int most_ms)
{
	uint64_t now = fh_now_ns(), left;

	if (deadline_ns == UINT64_MAX)
		return most_ms;
	left = deadline_ns > now ? (deadline_ns - now + 999999) / 1000000 : 0;
	return left < (uint64_t)most_ms ? (int)left : most_ms;
}

#endif /* FH_LIB_LIB_PRIV_H */
