/* SPDX-License-Identifier: GPL-2.0-only WITH Linux-syscall-note */
/*
 * Freehold: what the kernel module and userspace share.
 *
 * This is the only header that both sides include (installed as
 * <linux/freehold.h>).  It lays down the request descriptor and the token
 * slot before any transport is built, so that rings, UDP packets and HTTP
 * carry the same things under the same names.  Rules: little endian, fixed
 * sizes, explicit padding that must be zero, nothing is ever renumbered.
 * Floating-point values travel as their IEEE-754 binary32 bits (fh_f32): the
 * kernel moves them and never looks.
 */
#ifndef _UAPI_LINUX_FREEHOLD_H
#define _UAPI_LINUX_FREEHOLD_H

#include <linux/types.h>

#define FH_ABI_VERSION 1

/** typedef fh_f32 - the bits of an IEEE-754 binary32 number */
typedef __u32 fh_f32;

/**
 * enum fh_finish - why a sequence ended
 * @FH_FINISH_NONE: it has not ended
 * @FH_FINISH_STOP: an end-of-generation token, a stop token or a stop string
 * @FH_FINISH_LENGTH: max_tokens, or the context, is used up
 * @FH_FINISH_CANCELLED: the reader went away or asked for the end
 * @FH_FINISH_DEADLINE: a deadline that was promised can no longer be met
 * @FH_FINISH_BUDGET: the tenant's budget is used up
 * @FH_FINISH_ERROR: the device or the engine failed
 * @FH_FINISH_FILTER: a guard rail ended it
 */
enum fh_finish {
	FH_FINISH_NONE = 0,
	FH_FINISH_STOP = 1,
	FH_FINISH_LENGTH = 2,
	FH_FINISH_CANCELLED = 3,
	FH_FINISH_DEADLINE = 4,
	FH_FINISH_BUDGET = 5,
	FH_FINISH_ERROR = 6,
	FH_FINISH_FILTER = 7,
};

/* fh_slot.flags */
#define FH_SLOT_LAST 0x01     /* nothing follows; @finish says why */
#define FH_SLOT_NO_TOKEN 0x02 /* no token in here, only the end */
#define FH_SLOT_CUT 0x04      /* show only @cut_bytes bytes of the text */
#define FH_SLOT_LOGPROB 0x08  /* @logprob is valid */

/**
 * struct fh_slot - one generated token, where its reader will read it
 * @token: vocabulary id
 * @stamp: 1 + index of the token among those generated for its request, so
 *         that a slot once written is never zero; {@token, @stamp} is one
 *         aligned 64-bit word, which a device stores at once
 * @logprob: natural logarithm of the token's probability (fh_f32 bits)
 * @flags: FH_SLOT_*
 * @finish: enum fh_finish, valid with FH_SLOT_LAST
 * @cut_bytes: with FH_SLOT_CUT, how many bytes of this token's text come
 *             before the stop string that ended the sequence
 *
 * Writing a slot does not publish it: the reader looks only at slots below
 * the ring's tail, and only the engine moves the tail.
 */
struct fh_slot {
	__u32 token;
	__u32 stamp;
	fh_f32 logprob;
	__u8 flags;
	__u8 finish;
	__u16 cut_bytes;
} __attribute__((aligned(8)));

/**
 * struct fh_top - one of the most probable tokens at a position
 * @token: vocabulary id
 * @logprob: natural logarithm of its probability (fh_f32 bits)
 */
struct fh_top {
	__u32 token;
	fh_f32 logprob;
};

/* fh_req_desc.class: what the deadline defaults and the order come from */
enum fh_class {
	FH_CLASS_STANDARD = 0,
	FH_CLASS_INTERACTIVE = 1,
	FH_CLASS_BATCH = 2,
};

/* fh_req_desc.flags */
#define FH_REQ_TEXT 0x01       /* the prompt is UTF-8, not token ids */
#define FH_REQ_IGNORE_EOS 0x02 /* go on after an end-of-generation token */
#define FH_REQ_LOGPROBS 0x04   /* fill fh_slot.logprob */
#define FH_REQ_SEED 0x08       /* @seed is valid */

/**
 * struct fh_req_desc - one request, as a ring entry or a packet carries it
 * @size: bytes of this structure that the sender knows
 * @flags: FH_REQ_*; unknown bits are refused
 * @user_data: comes back with every answer
 * @prompt_off: where the prompt begins in the sender's arena or payload
 * @prompt_bytes: its length; a multiple of 4 without FH_REQ_TEXT
 * @max_tokens: at most this many tokens are generated
 * @ttft_us: deadline for the first token, from arrival; 0: the class's own
 * @tpot_us: deadline for each further token; 0: the class's own
 * @run_id: the agent run that this request is part of; zero: none
 * @budget_tokens: end with FH_FINISH_BUDGET after so many; 0: the tenant's
 * @seed: of the sampler, with FH_REQ_SEED
 * @top_k: keep so many candidates; 0: all
 * @temperature: 0 is greedy
 * @top_p: nucleus; 1 keeps all
 * @min_p: drop what is less probable than this share of the best; 0 keeps all
 * @typical_p: locally typical sampling; 1 keeps all
 * @repetition_penalty: over prompt and output; 1 is none
 * @presence_penalty: over the output; 0 is none
 * @frequency_penalty: over the output; 0 is none
 * @class: enum fh_class
 * @__reserved: zero
 */
struct fh_req_desc {
	__u32 size;
	__u32 flags;
	__aligned_u64 user_data;
	__aligned_u64 prompt_off;
	__u32 prompt_bytes;
	__u32 max_tokens;
	__u32 ttft_us;
	__u32 tpot_us;
	__u8 run_id[16];
	__aligned_u64 budget_tokens;
	__aligned_u64 seed;
	__u32 top_k;
	fh_f32 temperature;
	fh_f32 top_p;
	fh_f32 min_p;
	fh_f32 typical_p;
	fh_f32 repetition_penalty;
	fh_f32 presence_penalty;
	fh_f32 frequency_penalty;
	__u32 class;
	__u32 __reserved[3];
};

#endif /* _UAPI_LINUX_FREEHOLD_H */
