// SPDX-License-Identifier: Apache-2.0
/*
 * What a client may ask for: geometries, indices, descriptors (desc.c).
 *
 * Nothing here touches shared memory or keeps state, so that a fuzzer can drive
 * it: it is given private copies, and either refuses them or says what they
 * mean.
 */
#include <errno.h>
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

int fh_chan_desc_parse(const void *entry, uint32_t entry_bytes, uint64_t arena_bytes, uint32_t max_text_bytes,
		       struct fh_chan_req *q)
{
	struct fh_desc d;
	int ret = fh_desc_parse(entry, entry_bytes, arena_bytes, max_text_bytes, &q->req, &d);

	q->is_cancel = d.is_cancel;
	q->has_seed = d.has_seed;
	q->is_text = d.is_text;
	q->text_off = d.prompt_off;
	q->text_bytes = d.prompt_bytes;
	return ret;
}
