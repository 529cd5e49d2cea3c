// SPDX-License-Identifier: Apache-2.0
/*
 * Request descriptors; see desc.h.  Nothing here keeps state, so that a fuzzer can drive it.
 */
#include <errno.h>
#include <string.h>

#include "runtime/net/desc.h"

/* The value of the bits, which must be a number from @min to @max. */
static int get_f32(fh_f32 bits, float min, float max, float *out)
{
	memcpy(out, &bits, sizeof(*out));
	return *out >= min && *out <= max ? 0 : -EINVAL;
}

/* The ranges are those that HTTP takes (openai_fields.c). */
static int get_sampling(const struct fh_req_desc *d, struct fh_sampling *s)
{
	fh_sampling_default(s);
	s->top_k = d->top_k;
	s->seed = d->seed;
	s->logprobs = d->flags & FH_REQ_LOGPROBS;
	if (get_f32(d->temperature, 0, 100, &s->temperature) || get_f32(d->top_p, 0, 1, &s->top_p) ||
	    get_f32(d->min_p, 0, 1, &s->min_p) || get_f32(d->typical_p, 0, 1, &s->typical_p) ||
	    get_f32(d->repetition_penalty, 0.01f, 100, &s->repetition_penalty) ||
	    get_f32(d->presence_penalty, -2, 2, &s->presence_penalty) ||
	    get_f32(d->frequency_penalty, -2, 2, &s->frequency_penalty))
		return -EINVAL;
	return s->top_p > 0 && s->typical_p > 0 ? 0 : -EINVAL;
}

/* Where the prompt lies. */
static int get_prompt(const struct fh_req_desc *d, uint64_t arena_bytes, uint32_t max_text_bytes, struct fh_desc *out)
{
	if (!d->prompt_bytes || d->prompt_off > arena_bytes || d->prompt_bytes > arena_bytes - d->prompt_off)
		return -EINVAL;
	out->prompt_off = d->prompt_off;
	out->prompt_bytes = d->prompt_bytes;
	out->is_text = d->flags & FH_REQ_TEXT;
	if (out->is_text)
		return d->prompt_bytes > max_text_bytes ? -E2BIG : 0;
	return d->prompt_off % sizeof(uint32_t) || d->prompt_bytes % sizeof(uint32_t) ? -EINVAL : 0;
}

static int check_size(const void *entry, uint32_t entry_bytes, uint32_t size)
{
	const uint8_t *p = entry;

	if (size < sizeof(struct fh_req_desc) || size > entry_bytes)
		return -EINVAL;
	/* What a newer client knows and we do not must be zero. */
	for (uint32_t i = sizeof(struct fh_req_desc); i < size; i++)
		if (p[i])
			return -EINVAL;
	return 0;
}

int fh_desc_parse(const void *entry, uint32_t entry_bytes, uint64_t arena_bytes, uint32_t max_text_bytes,
		  struct fh_request *r, struct fh_desc *out)
{
	const uint32_t known = FH_REQ_TEXT | FH_REQ_IGNORE_EOS | FH_REQ_LOGPROBS | FH_REQ_SEED | FH_REQ_CANCEL;
	struct fh_req_desc d;

	memcpy(&d, entry, sizeof(d));
	r->user_data = d.user_data;
	*out = (struct fh_desc){0};
	if (check_size(entry, entry_bytes, d.size) || d.flags & ~known)
		return -EINVAL;
	if (d.flags & FH_REQ_CANCEL) {
		out->is_cancel = true;
		return 0;
	}
	if (!d.max_tokens || d.req_class > FH_CLASS_BATCH || d.__reserved[0] || d.__reserved[1] || d.__reserved[2] ||
	    get_sampling(&d, &r->sampling))
		return -EINVAL;
	out->has_seed = d.flags & FH_REQ_SEED;
	r->kind = FH_REQ_GENERATE;
	r->max_tokens = d.max_tokens;
	r->ignore_eos = d.flags & FH_REQ_IGNORE_EOS;
	r->class = d.req_class;
	r->ttft_us = d.ttft_us;
	r->tpot_us = d.tpot_us;
	memcpy(r->run_id, d.run_id, sizeof(r->run_id));
	r->budget_tokens = d.budget_tokens;
	return get_prompt(&d, arena_bytes, max_text_bytes, out);
}
