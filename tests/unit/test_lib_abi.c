// SPDX-License-Identifier: Apache-2.0
/*
 * The binary interface of libfreehold: sizes, offsets and numbers that programs
 * were compiled with.  A field may be added at the end of a structure that
 * begins with its size; then a line is added here, and none is changed.
 */
#include <criterion/criterion.h>
#include <stddef.h>

#include "runtime/lib/freehold.h"

#define SIZE(type, bytes) cr_expect_eq(sizeof(type), bytes, #type " has %zu bytes", sizeof(type))
#define OFFSET(type, field, off)                                                                                       \
	cr_expect_eq(offsetof(type, field), off, #type "." #field " lies at %zu", offsetof(type, field))

Test(lib_abi, open_options)
{
	SIZE(struct fh_open_options, 56);
	OFFSET(struct fh_open_options, size, 0);
	OFFSET(struct fh_open_options, flags, 4);
	OFFSET(struct fh_open_options, api_key, 8);
	OFFSET(struct fh_open_options, model, 16);
	OFFSET(struct fh_open_options, max_requests, 24);
	OFFSET(struct fh_open_options, cq_entries, 28);
	OFFSET(struct fh_open_options, arena_bytes, 32);
	OFFSET(struct fh_open_options, open_us, 40);
	OFFSET(struct fh_open_options, spin_us, 44);
	OFFSET(struct fh_open_options, udp_key_file, 48);
}

Test(lib_abi, params)
{
	SIZE(struct fh_params, 96);
	OFFSET(struct fh_params, size, 0);
	OFFSET(struct fh_params, flags, 4);
	OFFSET(struct fh_params, user_data, 8);
	OFFSET(struct fh_params, max_tokens, 16);
	OFFSET(struct fh_params, ttft_us, 20);
	OFFSET(struct fh_params, tpot_us, 24);
	OFFSET(struct fh_params, req_class, 28);
	OFFSET(struct fh_params, budget_tokens, 32);
	OFFSET(struct fh_params, run_id, 40);
	OFFSET(struct fh_params, seed, 56);
	OFFSET(struct fh_params, temperature, 64);
	OFFSET(struct fh_params, top_k, 68);
	OFFSET(struct fh_params, top_p, 72);
	OFFSET(struct fh_params, min_p, 76);
	OFFSET(struct fh_params, typical_p, 80);
	OFFSET(struct fh_params, repetition_penalty, 84);
	OFFSET(struct fh_params, presence_penalty, 88);
	OFFSET(struct fh_params, frequency_penalty, 92);
}

Test(lib_abi, token)
{
	SIZE(struct fh_token, 64);
	OFFSET(struct fh_token, id, 0);
	OFFSET(struct fh_token, user_data, 8);
	OFFSET(struct fh_token, token, 16);
	OFFSET(struct fh_token, index, 20);
	OFFSET(struct fh_token, logprob, 24);
	OFFSET(struct fh_token, flags, 28);
	OFFSET(struct fh_token, finish, 32);
	OFFSET(struct fh_token, error, 36);
	OFFSET(struct fh_token, retry_us, 40);
	OFFSET(struct fh_token, cut_bytes, 44);
	OFFSET(struct fh_token, text, 48);
	OFFSET(struct fh_token, text_bytes, 56);
	SIZE(struct fh_decoder, 16);
	OFFSET(struct fh_decoder, nr_held, 4);
}

Test(lib_abi, client_info)
{
	SIZE(struct fh_client_info, 56);
	OFFSET(struct fh_client_info, size, 0);
	OFFSET(struct fh_client_info, flags, 4);
	OFFSET(struct fh_client_info, transport, 8);
	OFFSET(struct fh_client_info, where, 16);
	OFFSET(struct fh_client_info, model, 24);
	OFFSET(struct fh_client_info, nr_ctx, 32);
	OFFSET(struct fh_client_info, nr_vocab, 36);
	OFFSET(struct fh_client_info, uid, 40);
	OFFSET(struct fh_client_info, gid, 44);
	OFFSET(struct fh_client_info, pid, 48);
	cr_expect(FH_INFO_PEER == 1 && FH_INFO_VOCAB == 2);
}

Test(lib_abi, initialisers)
{
	struct fh_open_options o;
	struct fh_params p;

	memset(&o, 0xff, sizeof(o));
	memset(&p, 0xff, sizeof(p));
	fh_open_options_init(&o);
	fh_params_init(&p);
	cr_expect(o.size == sizeof(o) && !o.flags && !o.api_key && !o.spin_us);
	cr_expect(p.size == sizeof(p) && !p.flags && !p.max_tokens && !p.seed);
}
