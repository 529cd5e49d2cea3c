/* SPDX-License-Identifier: Apache-2.0 */
/* What the files of the HTTP transport share. */
#ifndef FH_LIB_HTTP_H
#define FH_LIB_HTTP_H

#include "runtime/lib/lib_priv.h"

/* A request's bytes; malloc'ed. */
struct fhl_bytes {
	char *p;
	size_t n, cap;
	bool failed; /* out of memory; what was added is void */
};

void fhl_bytes_free(struct fhl_bytes *b);

/* GET @target. 0 or -ENOMEM. */
int fhl_request_get(struct fh_client *c, const char *host, const char *target, struct fhl_bytes *out);
/*
 * POST /v1/completions, streamed.  0; -EOPNOTSUPP: @p asks for what HTTP does
 * not carry; -EILSEQ: the prompt is no UTF-8; -ENOMEM; with c->err.
 */
int fhl_request_completion(struct fh_client *c, const char *host, const struct fhl_prompt *prompt,
			   const struct fh_params *p, struct fhl_bytes *out);

#endif /* FH_LIB_HTTP_H */
