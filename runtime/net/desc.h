/* SPDX-License-Identifier: Apache-2.0 */
/* What a client asks for in a struct fh_req_desc, whatever carries it: a ring's entry or a packet. */
#ifndef FH_NET_DESC_H
#define FH_NET_DESC_H

#include "runtime/base/request.h"

/* The part that is the front end's to act upon. */
struct fh_desc {
	bool is_cancel; /* no request at all: end the one with this user_data */
	bool is_text, has_seed;
	uint64_t prompt_off; /* in the sender's arena or message */
	uint32_t prompt_bytes;
};

/*
 * What the descriptor in @entry (a private copy, @entry_bytes of it, at least a
 * struct fh_req_desc) asks for, into @r: everything of its request but what
 * depends on the front end's objects.  Prompts lie in [0, @arena_bytes).  Pure.
 * 0 or -errno, for the client.
 */
int fh_desc_parse(const void *entry, uint32_t entry_bytes, uint64_t arena_bytes, uint32_t max_text_bytes,
		  struct fh_request *r, struct fh_desc *out);

#endif /* FH_NET_DESC_H */
