/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the JSON of a completion says that a load generator wants to know: the
 * whole answer, one event of a stream, or an error.
 *
 * One pass over the bytes, no memory.  Any OpenAI-compatible server's: text may
 * lie in choices[].text, .delta.content, .delta.reasoning_content (or
 * .reasoning), or in .message; what is not known is stepped over.
 */
#ifndef FH_TOOLS_LOAD_CHUNK_H
#define FH_TOOLS_LOAD_CHUNK_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct load_chunk {
	bool has_choices; /* at least one */
	bool has_text;	  /* that is not empty */
	bool finished;	  /* a finish_reason that is not null */
	bool has_error;
	uint64_t prompt_tokens, completion_tokens; /* by the server's count; 0: it did not say */
	uint64_t cached_tokens;
	char error[200]; /* the error's message, or the error itself, cut to fit */
};

/* False: this is no JSON object. */
bool load_chunk_parse(const char *s, size_t n, struct load_chunk *c);

#endif /* FH_TOOLS_LOAD_CHUNK_H */
