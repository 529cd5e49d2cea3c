/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What is told of a request that is over, for traces: when it came, left the
 * queue, had its first token and ended, and what it was; no text of it.
 *
 * It is handed over in one piece, so it holds no pointers.
 */
#ifndef FH_BASE_SPAN_H
#define FH_BASE_SPAN_H

#include <stdbool.h>
#include <stdint.h>

#include "runtime/base/identity.h"

#define FH_SPAN_CHOICES 8     /* whose ends are told */
#define FH_SPAN_STATE_MAX 512 /* bytes of tracestate that are passed on, which is what W3C asks for at least */

enum fh_span_operation { FH_SPAN_CHAT, FH_SPAN_COMPLETION, FH_SPAN_EMBEDDINGS };
/* How it came: FH_SPAN_UNIX is a Unix socket, of HTTP or that opened a channel; _SHARED_MEMORY a channel over the
 * driver. */
enum fh_span_transport { FH_SPAN_TCP, FH_SPAN_UNIX, FH_SPAN_UDP, FH_SPAN_SHARED_MEMORY };
enum fh_span_protocol { FH_SPAN_HTTP, FH_SPAN_CHANNEL, FH_SPAN_DATAGRAM };

/* W3C Trace Context: whose part a request is. */
struct fh_trace_context {
	bool known; /* the client said */
	bool sampled;
	uint8_t trace_id[16], parent_id[8];
};

struct fh_trace_span {
	struct fh_trace_context context; /* its trace_id is set in any case */
	uint8_t span_id[8];
	uint8_t operation; /* enum fh_span_operation */
	uint8_t transport; /* enum fh_span_transport */
	uint8_t protocol;  /* enum fh_span_protocol */
	bool sampled;	   /* it is exported */
	bool stream, has_seed;
	uint8_t nr_choices, finish[FH_SPAN_CHOICES]; /* enum fh_finish */
	uint16_t status;			     /* as HTTP counts; 499: the client went away */
	/* CLOCK_MONOTONIC; 0: that did not come. */
	uint64_t arrival_ns, started_ns, first_token_ns, done_ns, end_ns;
	uint64_t nr_prompt, nr_cached, nr_generated, nr_reasoning;
	uint64_t seed;
	uint64_t serial; /* what its client calls it, where the protocol has that: user_data, the number over UDP */
	uint32_t n, max_tokens, top_k;
	float temperature, top_p;
	char id[48];			   /* that the client was told */
	char error[48];			   /* code of a refusal or failure; "": none */
	char state[FH_SPAN_STATE_MAX + 1]; /* tracestate; "": none */
	char tenant[FH_IDENTITY_NAME_MAX + 1], user[FH_IDENTITY_NAME_MAX + 1]; /* "": not known */
};

#endif /* FH_BASE_SPAN_H */
