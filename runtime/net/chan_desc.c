// SPDX-License-Identifier: Apache-2.0
/*
 * What a client may ask for: geometries, indices, descriptors.
 *
 * Nothing here touches shared memory or keeps state, so that a fuzzer can drive
 * it: it is given private copies, and either refuses them or says what they
 * mean.
 */
#include <errno.h>
#include <math.h>
#include <string.h>

#include "runtime/net/chan_priv.h"

/* Words of the index areas must be whole lines apart, so that two sides do not write one line. */
static bool words_fit(const uint32_t off[3], uint64_t bytes)
{
	for (int i = 0; i < 3; i++) {
		if (off[i] % FH_LINE_BYTES || (uint64_t)off[i] + FH_LINE_BYTES > bytes)
			return false;
		for (int k = 0; k < i; k++)
			if (off[i] == off[k])
				return false;
	}
	return true;
}

static bool is_pow2(uint32_t n)
{
	return n && !(n & (n - 1));
}

int fh_chan_check_geometry(const struct fh_chan_info *info, struct fh_err *err)
{
	const uint32_t client[3] = {info->sq_tail_off, info->cq_head_off, info->client_flags_off};
	const uint32_t runtime[3] = {info->sq_head_off, info->cq_tail_off, info->runtime_flags_off};

	if (info->magic != FH_CHAN_MAGIC || info->nr_areas != FH_NR_AREAS)
		return fh_errf(err, -EINVAL, "magic %#x, %u areas: not a channel of this version", info->magic,
			       info->nr_areas);
	if (!is_pow2(info->sq_entries) || info->sq_entries > FH_SQ_ENTRIES_MAX || !is_pow2(info->cq_entries) ||
	    info->cq_entries > FH_CQ_ENTRIES_MAX)
		return fh_errf(err, -EINVAL, "rings of %u and %u entries: powers of two up to %u and %u are taken",
			       info->sq_entries, info->cq_entries, FH_SQ_ENTRIES_MAX, FH_CQ_ENTRIES_MAX);
	if (info->sq_entry_bytes != FH_SQ_ENTRY_BYTES || info->cq_entry_bytes % 8 ||
	    info->cq_entry_bytes < sizeof(struct fh_cqe))
		return fh_errf(err, -EINVAL, "entries of %u and %u bytes: %u and %zu are taken", info->sq_entry_bytes,
			       info->cq_entry_bytes, FH_SQ_ENTRY_BYTES, sizeof(struct fh_cqe));
	if (!words_fit(client, info->areas[FH_AREA_CLIENT].bytes) ||
	    !words_fit(runtime, info->areas[FH_AREA_RUNTIME].bytes))
		return fh_errf(err, -EINVAL, "indices that overlap or lie outside their area");
	if ((uint64_t)info->sq_entries * info->sq_entry_bytes > info->areas[FH_AREA_SQ].bytes ||
	    (uint64_t)info->cq_entries * info->cq_entry_bytes > info->areas[FH_AREA_CQ].bytes ||
	    info->arena_bytes > info->areas[FH_AREA_ARENA].bytes || !info->arena_bytes)
		return fh_errf(err, -EINVAL, "rings or an arena larger than their areas");
	return 0;
}

int fh_chan_check_tail(uint32_t tail, uint32_t head, uint32_t seen, uint32_t entries)
{
	return tail - seen > entries - (seen - head) ? -EPROTO : 0;
}

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
static int get_prompt(const struct fh_req_desc *d, uint64_t arena_bytes, uint32_t max_text_bytes, struct fh_chan_req *q)
{
	if (!d->prompt_bytes || d->prompt_off > arena_bytes || d->prompt_bytes > arena_bytes - d->prompt_off)
		return -EINVAL;
	q->text_off = d->prompt_off;
	q->text_bytes = d->prompt_bytes;
	q->is_text = d->flags & FH_REQ_TEXT;
	if (q->is_text)
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

int fh_chan_desc_parse(const void *entry, uint32_t entry_bytes, uint64_t arena_bytes, uint32_t max_text_bytes,
		       struct fh_chan_req *q)
{
	const uint32_t known = FH_REQ_TEXT | FH_REQ_IGNORE_EOS | FH_REQ_LOGPROBS | FH_REQ_SEED | FH_REQ_CANCEL;
	struct fh_request *r = &q->req;
	struct fh_req_desc d;

	memcpy(&d, entry, sizeof(d));
	r->user_data = d.user_data;
	q->is_cancel = false;
	if (check_size(entry, entry_bytes, d.size) || d.flags & ~known)
		return -EINVAL;
	if (d.flags & FH_REQ_CANCEL) {
		q->is_cancel = true;
		return 0;
	}
	if (!d.max_tokens || d.req_class > FH_CLASS_BATCH || d.__reserved[0] || d.__reserved[1] || d.__reserved[2] ||
	    get_sampling(&d, &r->sampling))
		return -EINVAL;
	q->has_seed = d.flags & FH_REQ_SEED;
	r->kind = FH_REQ_GENERATE;
	r->max_tokens = d.max_tokens;
	r->ignore_eos = d.flags & FH_REQ_IGNORE_EOS;
	r->class = d.req_class;
	r->ttft_us = d.ttft_us;
	r->tpot_us = d.tpot_us;
	memcpy(r->run_id, d.run_id, sizeof(r->run_id));
	r->budget_tokens = d.budget_tokens;
	return get_prompt(&d, arena_bytes, max_text_bytes, q);
}
