/* SPDX-License-Identifier: Apache-2.0 */
/*
 * OpenAI's requests as data: a JSON body in, a struct fh_oai out, or an error
 * in OpenAI's words.
 *
 * Parsing takes no lock, touches no socket and keeps no state, so that it runs
 * on the I/O thread for short bodies and on the helper thread for long ones.
 */
#ifndef FH_NET_OPENAI_H
#define FH_NET_OPENAI_H

#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>

#include "runtime/base/request.h"
#include "runtime/net/buf.h"

#define FH_OAI_MAX_SEQS 2048	 /* prompts times best_of, in one request */
#define FH_OAI_MAX_N 128	 /* choices of one prompt */
#define FH_OAI_MAX_BIAS 1024	 /* entries of logit_bias */
#define FH_OAI_MAX_DEPTH 64	 /* of a JSON body */
#define FH_OAI_DEFAULT_TOKENS 16 /* max_tokens of /v1/completions, as OpenAI has it */

enum fh_oai_kind { FH_OAI_COMPLETION, FH_OAI_CHAT, FH_OAI_EMBED, FH_OAI_TOKENIZE, FH_OAI_DETOKENIZE };

/* An answer {"error":{"message","type","param","code"}}. */
struct fh_oai_error {
	int status;		 /* of HTTP; 0: no error */
	const char *type, *code; /* literals; code may be NULL */
	char param[64];		 /* the field at fault; empty: null */
	char message[600];
};

struct fh_oai_prompt {
	uint32_t *ids; /* malloc'ed */
	uint32_t nr;
	const char *text; /* as the client wrote it, for echo; NULL when it sent ids */
	size_t text_bytes;
};

struct fh_oai {
	enum fh_oai_kind kind;
	struct fh_oai_prompt *prompts; /* [nr_prompts] */
	uint32_t nr_prompts;
	struct fh_sampling sampling; /* seed valid only with has_seed */
	bool has_seed;
	uint32_t max_tokens, min_tokens;
	uint32_t n, best_of;
	uint32_t ttft_us, tpot_us; /* deadlines; 0: not given, UINT32_MAX: none */
	enum fh_class class;
	bool has_class;
	bool ignore_eos, echo, stream, include_usage;
	bool logprobs;	  /* wanted, with sampling.nr_top alternatives */
	bool base64;	  /* embeddings as base64 of little-endian binary32 */
	bool special;	  /* add BOS and EOS as the model asks */
	bool has_special; /* the client said so */
	bool no_generation_prompt;
	bool token_strs; /* /tokenize: the pieces too */
	bool token_ids;	 /* the ids of prompt and answer beside the text */
	enum fh_pooling pooling;
	uint32_t nr_stop, nr_stop_ids;
	struct fh_stop stop[FH_MAX_STOP]; /* text lies in root */
	uint32_t stop_ids[FH_MAX_STOP];
	struct fh_logit_bias *bias; /* [sampling.nr_bias] */
	struct fh_buf reply;	    /* /tokenize and /detokenize: the answer */
	uint64_t tokenize_ns;	    /* time spent in tokenizer and template */
	json_t *root;		    /* the body; the pointers below borrow from it */
	json_t *prompt, *messages, *input, *tokens, *template_vars, *reasoning_effort;
};

/*
 * Parse and check @body; tokenize its prompts.  0, or -EINVAL with @err.
 * fh_oai_free() is due in both cases.
 */
int fh_oai_parse(enum fh_oai_kind kind, const char *body, size_t bytes, const struct fh_text_ops *text,
		 const struct fh_model_info *model, struct fh_oai *o, struct fh_oai_error *err);
void fh_oai_free(struct fh_oai *o);

/* Fill @err; returns -EINVAL. @param: NULL for none. */
int fh_oai_errorf(struct fh_oai_error *err, int status, const char *code, const char *param, const char *fmt, ...)
	__attribute__((format(printf, 5, 6)));
/* The error as a JSON body. */
void fh_oai_put_error(struct fh_buf *b, const struct fh_oai_error *err);

/* One token's own text and raw bytes, for logprobs. Each at most FH_DETOK_MAX. */
size_t fh_oai_token_text(const struct fh_text_ops *text, uint32_t id, char *out);
size_t fh_oai_token_bytes(const struct fh_text_ops *text, uint32_t id, char *out);

#endif /* FH_NET_OPENAI_H */
