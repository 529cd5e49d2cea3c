/* SPDX-License-Identifier: Apache-2.0 */
/*
 * libfreehold: ask a Freehold server on this host, or any server that speaks
 * OpenAI's completions, for tokens.
 *
 *	struct fh_client *c;
 *	struct fh_params p;
 *	struct fh_token t;
 *	uint64_t id;
 *
 *	if (fh_open(NULL, NULL, &c))
 *		... fh_error_message(c) says what to do; fh_close(c) ...
 *	fh_params_init(&p);
 *	p.max_tokens = 16;
 *	fh_generate_text(c, "Once upon a time", 16, &p, &id);
 *	while (!fh_next_token(c, &t, -1) && !(t.flags & FH_SLOT_LAST))
 *		... t.token ...
 *	fh_close(c);
 *
 * The same calls work over the kernel module, over a Unix socket with shared
 * memory, over HTTP, and in encrypted UDP packets; fh_open() says which by its
 * first argument.
 *
 * Rules
 *   - Functions return 0 or a negative errno, and fh_error_message() says the
 *     last failure of a handle in words.
 *   - A handle is used by one thread at a time.  Two handles share nothing.
 *   - The library starts no thread, installs no signal handler, prints nothing
 *     and keeps nothing outside its handles.
 *   - A handle belongs to the process that opened it.  After fork() the child
 *     leaves it alone, fh_close() too.
 *   - Structures that the caller fills in begin with their size, so that they
 *     can grow; zero is a sensible value for all that follows.
 */
#ifndef FREEHOLD_H
#define FREEHOLD_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "uapi/freehold.h"

#ifdef __cplusplus
extern "C" {
#endif

#define FH_API __attribute__((visibility("default")))

/** struct fh_client - a handle; opaque */
struct fh_client;

/**
 * struct fh_open_options - how to open; NULL in its place, or zeros, is the default
 * @size: sizeof(struct fh_open_options)
 * @flags: zero
 * @api_key: HTTP: sent as a bearer token; NULL: none
 * @model: HTTP: the model to ask for; NULL: the first one that the server names
 * @max_requests: in flight at once on this handle, up to 2048; 0: 64
 * @cq_entries: rings: tokens that may wait to be read, a power of two; 0: 1024
 * @arena_bytes: rings: room for prompts that the server has not read yet; 0: 1 MiB
 * @open_us: how long fh_open() may take; 0: 5 seconds
 * @spin_us: rings: how long fh_next_token() watches memory before it sleeps;
 *           0: 50; negative: it sleeps at once
 * @udp_key_file: UDP: file of this client's secret key; NULL: what the
 *                environment variable FREEHOLD_UDP_KEY names
 *
 * Strings are copied.
 */
struct fh_open_options {
	uint32_t size;
	uint32_t flags;
	const char *api_key;
	const char *model;
	uint32_t max_requests;
	uint32_t cq_entries;
	uint64_t arena_bytes;
	uint32_t open_us;
	int32_t spin_us;
	const char *udp_key_file;
};

/**
 * struct fh_params - one request
 * @size: sizeof(struct fh_params)
 * @flags: FH_REQ_IGNORE_EOS, FH_REQ_LOGPROBS, FH_REQ_SEED
 * @user_data: comes back with every token; the library does not look at it
 * @max_tokens: from 1
 * @ttft_us: deadline for the first token; 0: the class's own, UINT32_MAX: none
 * @tpot_us: deadline for the mean time of each further token; likewise
 * @req_class: enum fh_class
 * @budget_tokens: end with FH_FINISH_BUDGET after so many; 0: the tenant's
 * @run_id: the agent run that this is part of; zero: none
 * @seed: of the sampler, with FH_REQ_SEED
 * @temperature: 0 takes the most probable token
 * @top_k: keep so many candidates; 0: all
 * @top_p: keep the most probable ones up to this share; 0 and 1: all
 * @min_p: drop what is less probable than this share of the best; 0: none
 * @typical_p: locally typical sampling; 0 and 1: all
 * @repetition_penalty: over prompt and output; 0 and 1: none
 * @presence_penalty: over the output; 0: none
 * @frequency_penalty: over the output; 0: none
 *
 * HTTP carries no budget or run id: there a value other than zero is
 * -EOPNOTSUPP.  Deadlines and class go in header fields that freehold serve
 * knows and other servers pass over.
 */
struct fh_params {
	uint32_t size;
	uint32_t flags;
	uint64_t user_data;
	uint32_t max_tokens;
	uint32_t ttft_us;
	uint32_t tpot_us;
	uint32_t req_class;
	uint64_t budget_tokens;
	uint8_t run_id[16];
	uint64_t seed;
	float temperature;
	uint32_t top_k;
	float top_p;
	float min_p;
	float typical_p;
	float repetition_penalty;
	float presence_penalty;
	float frequency_penalty;
};

/**
 * struct fh_token - what fh_next_token() and fh_try_next() return
 * @id: the request, as fh_generate() named it
 * @user_data: of its struct fh_params
 * @token: vocabulary id, without FH_SLOT_NO_TOKEN
 * @index: of the token among those generated for the request, from 0
 * @logprob: with FH_SLOT_LOGPROB, its natural logarithm of probability
 * @flags: FH_SLOT_LAST: nothing follows for this request; FH_SLOT_NO_TOKEN:
 *         there is no token in here; FH_SLOT_CUT: only @cut_bytes of its text
 *         come before the stop string; FH_SLOT_LOGPROB
 * @finish: with FH_SLOT_LAST, enum fh_finish
 * @error: with FH_FINISH_ERROR, negative errno: -EAGAIN is a refusal,
 *         -EINVAL a request that is wrong, -EPIPE a lost connection; with
 *         FH_FINISH_DEADLINE -EAGAIN: its deadline could not be kept
 * @retry_us: with -EAGAIN, when trying again may help; 0: not known
 * @cut_bytes: with FH_SLOT_CUT
 * @text: HTTP: the text that came with it, valid until the next call with the
 *        handle; otherwise NULL.  fh_decode() knows what to do with either.
 * @text_bytes: its length
 *
 * Over HTTP, a server that does not tell token ids gives text alone: then
 * FH_SLOT_NO_TOKEN is set on every one.
 */
struct fh_token {
	uint64_t id;
	uint64_t user_data;
	uint32_t token;
	uint32_t index;
	float logprob;
	uint32_t flags;
	uint32_t finish;
	int32_t error;
	uint32_t retry_us;
	uint32_t cut_bytes;
	const char *text;
	uint64_t text_bytes;
};

/**
 * struct fh_decoder - the end of a text that is no whole character yet
 *
 * One for each request; zero it to begin.
 */
struct fh_decoder {
	uint8_t held[4];
	uint32_t nr_held;
	uint64_t __reserved;
};

/* fh_client_info.flags */
#define FH_INFO_PEER 0x01  /* uid, gid and pid are the server's, as the kernel vouches for them */
#define FH_INFO_VOCAB 0x02 /* fh_token_text() has the vocabulary */

/**
 * struct fh_client_info - what a handle is connected to
 * @size: in: sizeof(struct fh_client_info); out: how much of it was filled in
 * @flags: FH_INFO_*
 * @transport: "dev", "unix", "http", "http+unix" or "udp"
 * @where: as fh_open() takes it
 * @model: its id; empty: not known
 * @nr_ctx: tokens that prompt and answer may have together; 0: not known
 * @nr_vocab: token ids are below this; 0: not known
 * @uid: of the server's process
 * @gid: of the server's process
 * @pid: of the server's process
 * @__reserved: zero
 *
 * Strings live as long as the handle.
 */
struct fh_client_info {
	uint32_t size;
	uint32_t flags;
	const char *transport;
	const char *where;
	const char *model;
	uint32_t nr_ctx;
	uint32_t nr_vocab;
	uint32_t uid;
	uint32_t gid;
	uint32_t pid;
	uint32_t __reserved;
};

/** fh_open_options_init() - zeros, with the size */
static inline void fh_open_options_init(struct fh_open_options *o)
{
	memset(o, 0, sizeof(*o));
	o->size = (uint32_t)sizeof(*o);
}

/** fh_params_init() - zeros, with the size: greedy; max_tokens is still to be set */
static inline void fh_params_init(struct fh_params *p)
{
	memset(p, 0, sizeof(*p));
	p->size = (uint32_t)sizeof(*p);
}

/**
 * fh_open() - connect
 * @where: "dev:" the kernel module, "unix:PATH" a daemon's channel socket,
 *         "http://HOST[:PORT]" or "http+unix:PATH", "udp://KEY@HOST:PORT" with
 *         the server's public key.  NULL or empty: what the
 *         environment variable FREEHOLD says; without it the first of
 *         /dev/freehold, /run/freehold/channel.sock and
 *         http://127.0.0.1:8080 that answers
 * @options: or NULL
 * @out: the handle; on failure, too, if there was memory for one: then only
 *       fh_error_message() and fh_close() take it
 *
 * May block for @options->open_us, and a host name is looked up.
 *
 * Return: 0; -ENOENT, -ECONNREFUSED: nobody is there; -EACCES: not for this
 * user, or the API key is wrong; -EINVAL: broken arguments; -E2BIG: options
 * of a newer library; -EPROTO: the other side breaks the rules; -EDQUOT: a
 * limit of the server; -ETIMEDOUT; -ENOMEM.
 */
FH_API int fh_open(const char *where, const struct fh_open_options *options, struct fh_client **out);

/** fh_close() - end what is in flight and free the handle; NULL is fine */
FH_API void fh_close(struct fh_client *c);

/**
 * fh_generate() - submit a prompt of token ids; never waits
 * @c: the handle
 * @ids: [@nr_ids], copied before this returns
 * @nr_ids: from 1
 * @params: sizes and limits as struct fh_params says
 * @id: names the request; never 0; may be NULL
 *
 * Return: 0; -EAGAIN: there is no room now: read tokens first; -E2BIG: larger
 * than the arena will ever take; -EINVAL; -EOPNOTSUPP: this transport does not
 * carry what @params asks for; -EPIPE: the server is gone, open again;
 * -EPROTO: it broke the rules, and the handle is of no use any more; -ENOMEM.
 */
FH_API int fh_generate(struct fh_client *c, const uint32_t *ids, size_t nr_ids, const struct fh_params *params,
		       uint64_t *id);

/** fh_generate_text() - the same with UTF-8 text, which the server tokenizes; -EILSEQ: it is no UTF-8 */
FH_API int fh_generate_text(struct fh_client *c, const char *text, size_t text_bytes, const struct fh_params *params,
			    uint64_t *id);

/**
 * fh_next_token() - the next token of any request of this handle
 * @c: the handle
 * @t: the token
 * @timeout_us: wait at most so long; 0: do not wait; negative: for ever
 *
 * Tokens of one request come in their order.  It watches memory for a bounded
 * time and then sleeps.
 *
 * Return: 0; -ETIMEDOUT; -EINTR: a signal came; -ENODATA: nothing is in
 * flight; -EPIPE, -EPROTO as above, within 100 ms of the server's death.
 */
FH_API int fh_next_token(struct fh_client *c, struct fh_token *t, int64_t timeout_us);

/**
 * fh_try_next() - the same without waiting; -EAGAIN: there is none now
 *
 * Once fh_fd() was called, -EAGAIN means also that the server was asked to
 * make that descriptor readable.  Read until -EAGAIN, then poll, and make no
 * other call with the handle between the two.  -ENODATA, nothing is in flight,
 * means the same: old wake-ups are taken, and what makes the descriptor
 * readable then is the server's end.
 */
FH_API int fh_try_next(struct fh_client *c, struct fh_token *t);

/**
 * fh_fd() - a descriptor for poll() and epoll, POLLIN
 *
 * It is the handle's: do not read, write or close it.  Return: the descriptor,
 * or a negative errno.
 */
FH_API int fh_fd(struct fh_client *c);

/**
 * fh_cancel() - ask for the end of a request
 *
 * Tokens that are on their way may still come; the last one has
 * FH_FINISH_CANCELLED, or how it ended before.  Return: 0; -ENOENT: it has
 * ended; -EPIPE, -EPROTO.
 */
FH_API int fh_cancel(struct fh_client *c, uint64_t id);

/**
 * fh_token_text() - a token's own text, from the vocabulary
 * @c: the handle
 * @token: vocabulary id
 * @text: not terminated, no whole characters perhaps, empty for control
 *        tokens; valid as long as the handle
 * @bytes: its length
 *
 * Return: 0; -ERANGE: no such id; -ENODATA: this transport brings no vocabulary.
 */
FH_API int fh_token_text(struct fh_client *c, uint32_t token, const char **text, size_t *bytes);

/**
 * fh_decode() - the text that a token completes
 * @c: the handle that it came from
 * @d: of its request
 * @t: the token
 * @text: whole UTF-8 characters, terminated; valid until the next fh_decode()
 *        with this handle
 * @bytes: its length, without the terminator; may be NULL
 *
 * An unfinished character is held back in @d; what is broken becomes U+FFFD.
 * Works with every transport but UDP, which carries token ids alone.
 *
 * Return: 0; -ERANGE, -ENODATA as fh_token_text(); -ENOMEM.
 */
FH_API int fh_decode(struct fh_client *c, struct fh_decoder *d, const struct fh_token *t, const char **text,
		     size_t *bytes);

/** fh_get_info() - what the handle is connected to; -EINVAL: @info->size is not set */
FH_API int fh_get_info(const struct fh_client *c, struct fh_client_info *info);

/**
 * fh_error_message() - the last failure in words: what, where, what to do
 *
 * Return: one line, valid until the next call with the handle; empty if
 * nothing has failed.  With NULL: that memory is short.
 */
FH_API const char *fh_error_message(const struct fh_client *c);

/** fh_library_version() - "MAJOR.MINOR.PATCH" */
FH_API const char *fh_library_version(void);

#ifdef __cplusplus
}
#endif

#endif /* FREEHOLD_H */
