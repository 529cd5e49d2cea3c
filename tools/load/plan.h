/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What is sent and when: a trace (arrivals and lengths), and for each of its
 * requests a prompt, a deadline and, over HTTP, the bytes of the request.
 *
 * Everything follows from the seed, but for one number: the salt, which the
 * contents of random prompts take in.  Without it a second run with the same
 * seed would find the first one's prompts in the server's prefix cache and
 * measure that.
 */
#ifndef FH_TOOLS_LOAD_PLAN_H
#define FH_TOOLS_LOAD_PLAN_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/socket.h>

#include "runtime/base/err.h"
#include "runtime/net/buf.h"
#include "tools/load/dataset.h"
#include "tools/trace.h"

#define LOAD_MAX_HEADERS 16

/* Who is asked, and how. */
struct load_target {
	struct fh_tls_dialer *tls; /* NULL: https:// is refused */
	bool over_tls;
	char name[256];	 /* of the server, for its certificate */
	const char *url; /* http://HOST:PORT[/PREFIX], http+unix:PATH (or unix:PATH), channel:WHERE or udp://... */
	/* Not NULL: there is no HTTP; a channel's rings, at this place as fh_open() takes it. Points into url. */
	const char *channel;
	uint32_t nr_channels; /* open at once; 0: 1 */
	struct sockaddr_storage addr;
	socklen_t addr_len;
	char host[264];	     /* the Host header */
	char prefix[256];    /* of every path, from the URL */
	const char *path;    /* "/v1/completions" or another one; chat if it ends with chat/completions */
	char model[256];     /* "": the field is left out */
	const char *api_key; /* NULL: none */
	const char *header[LOAD_MAX_HEADERS];
	uint32_t nr_headers;
	const char *extra; /* members of a JSON object that are added to every body, without the braces; or NULL */
	bool chat, stream, ignore_eos;
	double temperature;
	uint32_t nr_vocab, nr_ctx; /* 0: not known */
};

/* What the URL says: fills channel, or addr, addr_len, host and prefix. */
int load_target_resolve(struct load_target *t, struct fh_err *err);

enum load_prompt_kind { LOAD_PROMPT_IDS, LOAD_PROMPT_WORDS, LOAD_PROMPT_DATASET };

struct load_prompts {
	enum load_prompt_kind kind;
	uint32_t first_id, nr_vocab; /* ids are drawn from [first_id, nr_vocab) */
	double words_per_token;	     /* LOAD_PROMPT_WORDS */
	uint32_t nr_prefix;	     /* tokens that requests share at their beginning */
	double prefix_share;	     /* of the requests have it */
	const struct load_dataset *data;
	uint64_t seed, salt;
};

/* Deadlines in ms; 0: none. */
struct load_deadline {
	double ttft_ms, tpot_ms;
};

struct load_plan {
	const struct load_target *target;
	struct load_prompts prompts;
	const struct trace *trace;
	const struct load_deadline *deadline; /* [trace->nr]; NULL: none are sent */
};

/* Append the whole request number @i to @out; nothing is appended but out->failed set when memory ends. */
void load_plan_request(const struct load_plan *p, uint32_t i, struct fh_buf *out);
/*
 * Append the prompt alone of request number @i, as a channel takes it: token
 * ids of four bytes, or UTF-8 for words and datasets.  They are the ids and words of load_plan_request().
 */
void load_plan_prompt(const struct load_plan *p, uint32_t i, struct fh_buf *out);
/* A GET of @path, which the target's prefix precedes. */
void load_get_request(const struct load_target *t, const char *path, struct fh_buf *out);

#endif /* FH_TOOLS_LOAD_PLAN_H */
