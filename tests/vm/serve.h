/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The daemon and clients of /dev/freehold together, in a test kernel: what the
 * tests of serve_*.c share.  The harness is that of tests/abi.
 *
 * A client here is written against the ABI alone, with no library of ours, so
 * that it can also do what no library would.
 */
#ifndef FH_TESTS_VM_SERVE_H
#define FH_TESTS_VM_SERVE_H

#include "tests/abi/abi.h"

#define PROMPT "Once upon a time"
#define CLIENT_UID 4711

/* ---- the daemon ---- */

/* The program under test. */
const char *freehold(void);

struct daemon {
	pid_t pid;
	char log[64]; /* its standard error */
};

/* Start it, and wait until it is ready; @more: NULL-terminated further arguments, or NULL. */
void daemon_start(struct daemon *d, const char *const *more);
/* SIGTERM; checks that it ends in order. */
void daemon_stop(struct daemon *d);
/* kill -9, and wait. */
void daemon_kill(struct daemon *d);
bool daemon_alive(const struct daemon *d);
/* The first line of its log with @what in it, without its end; NULL when there is none within @timeout_ms. Static. */
char *daemon_said(const struct daemon *d, const char *what, int timeout_ms);
/* A value of /metrics, over HTTP on a Unix socket; @name with its labels. */
double metric(const char *name);
/* KV blocks that requests hold. */
unsigned int blocks_held(void);
/*
 * Within how many microseconds a client must know of its daemon's death: 100 ms, as promised; on an emulated kernel
 * with the checkers, where each access to memory costs many, twenty times that.
 */
uint64_t death_known_us(void);
/* Standard output of `freehold run` on PROMPT, greedy; malloc'ed. */
char *run_greedy(unsigned int tokens);

/* ---- a client ---- */

struct ring {
	struct chan c;
	uint32_t sq_tail, cq_head; /* as published */
};

/* 0, or -1 with errno (ECONNREFUSED: no runtime); waits for the runtime to accept. */
int ring_open(struct ring *r, uint32_t cq_entries);
/* A descriptor for PROMPT as text, greedy. */
struct fh_req_desc ring_desc(uint64_t user_data, uint32_t max_tokens, uint32_t flags);
/* Publish @d, whose prompt lies in the arena, and kick where asked for. */
void ring_publish(struct ring *r, const struct fh_req_desc *d);
/* The same, after PROMPT has been put there. */
void ring_submit(struct ring *r, const struct fh_req_desc *d);
/* The next entry: true; false when the channel has ended or nothing came within @timeout_ms. */
bool ring_next(struct ring *r, struct fh_cqe *out, int timeout_ms);
void ring_close(struct ring *r);
/* Generate @max_tokens greedily and append the text of the tokens to @out, by the vocabulary file. 0 or -1. */
int ring_text(struct ring *r, uint32_t max_tokens, char *out, size_t cap);

uint64_t now_us(void);
void nap_us(unsigned int us);

#endif /* FH_TESTS_VM_SERVE_H */
