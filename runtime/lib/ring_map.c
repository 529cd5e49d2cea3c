// SPDX-License-Identifier: Apache-2.0
/*
 * What a channel's info area must say before anything in it is believed.
 *
 * The info area belongs to the kernel, or without the module to the runtime,
 * which may be broken or hostile: no offset or count is used before it has
 * been seen to lie inside its area.
 */
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "runtime/lib/ring.h"

/* The whole channel; far above what fh_chan_layout() can make of the largest numbers. */
#define CHAN_BYTES_MAX (4ull << 30)

static bool power_of_two(uint64_t v)
{
	return v && !(v & (v - 1));
}

static const char *wrong_areas(const struct fh_chan_info *i)
{
	static const uint32_t writers[FH_NR_AREAS] = {FH_WRITER_KERNEL, FH_WRITER_CLIENT,  FH_WRITER_RUNTIME,
						      FH_WRITER_CLIENT, FH_WRITER_RUNTIME, FH_WRITER_CLIENT};
	uint64_t end = 0;

	if (i->nr_areas < FH_NR_AREAS)
		return "it has too few areas";
	for (uint32_t a = 0; a < FH_NR_AREAS; a++) {
		const struct fh_chan_area *area = &i->areas[a];

		if (area->writer != writers[a])
			return "an area belongs to the wrong side";
		/* In their order, so that none lies on another. */
		if (area->off % i->page_bytes || area->bytes % i->page_bytes || !area->bytes || area->off < end ||
		    area->off > i->chan_bytes || area->bytes > i->chan_bytes - area->off)
			return "an area lies outside the channel or on another";
		end = area->off + area->bytes;
	}
	return NULL;
}

static const char *wrong_words(const struct fh_chan_info *i)
{
	const uint32_t words[2][3] = {{i->sq_tail_off, i->cq_head_off, i->client_flags_off},
				      {i->sq_head_off, i->cq_tail_off, i->runtime_flags_off}};

	for (int side = 0; side < 2; side++) {
		uint64_t bytes = i->areas[side ? FH_AREA_RUNTIME : FH_AREA_CLIENT].bytes;

		for (int k = 0; k < 3; k++)
			if (words[side][k] % 4 || words[side][k] > bytes - 4)
				return "an index lies outside its area";
		if (words[side][0] == words[side][1] || words[side][1] == words[side][2] ||
		    words[side][0] == words[side][2])
			return "two indices lie in one place";
	}
	return NULL;
}

static const char *wrong(const struct fh_chan_info *i)
{
	long page = sysconf(_SC_PAGESIZE);
	const char *why;

	if (i->magic != FH_CHAN_MAGIC)
		return "it does not begin as a channel does";
	if (i->abi_version != FH_ABI_VERSION)
		return "it has another version of the ABI";
	if (i->info_bytes < offsetof(struct fh_chan_info, peer))
		return "it says too little about itself";
	if (!power_of_two(i->page_bytes) || i->page_bytes % (uint64_t)page)
		return "its pages are not ours";
	if (i->chan_bytes > CHAN_BYTES_MAX)
		return "it is too large";
	if (!power_of_two(i->sq_entries) || i->sq_entries > FH_SQ_ENTRIES_MAX || !power_of_two(i->cq_entries) ||
	    i->cq_entries > FH_CQ_ENTRIES_MAX)
		return "its rings have a size that is no power of two or too large";
	if (i->sq_entry_bytes < sizeof(struct fh_req_desc) || i->sq_entry_bytes % 8 ||
	    i->cq_entry_bytes < sizeof(struct fh_cqe) || i->cq_entry_bytes % 8)
		return "its entries are too small";
	why = wrong_areas(i);
	if (!why)
		why = wrong_words(i);
	if (why)
		return why;
	if ((uint64_t)i->sq_entries * i->sq_entry_bytes > i->areas[FH_AREA_SQ].bytes ||
	    (uint64_t)i->cq_entries * i->cq_entry_bytes > i->areas[FH_AREA_CQ].bytes)
		return "a ring is larger than its area";
	if (i->arena_bytes > i->areas[FH_AREA_ARENA].bytes || i->arena_bytes < 8)
		return "the arena is larger than its area";
	return NULL;
}

int fhl_ring_check_info(struct fh_client *c, const struct fh_chan_info *info)
{
	const char *why = wrong(info);

	if (why)
		return fh_errf(&c->err, -EPROTO, "%s: the channel that the server laid out is not usable: %s", c->where,
			       why);
	return 0;
}

int fhl_ring_init(struct fhl_ring *r, struct fh_client *c, const struct fhl_link_ops *link,
		  const struct fh_chan_info *info, const struct fh_chan_info *shared, void *const *area)
{
	char *client = area[FH_AREA_CLIENT];
	const char *runtime = area[FH_AREA_RUNTIME];

	r->c = c;
	r->link = link;
	r->sq_tail_word = (uint32_t *)(client + info->sq_tail_off);
	r->cq_head_word = (uint32_t *)(client + info->cq_head_off);
	r->client_flags = (uint32_t *)(client + info->client_flags_off);
	r->sq_head_word = (const uint32_t *)(runtime + info->sq_head_off);
	r->cq_tail_word = (const uint32_t *)(runtime + info->cq_tail_off);
	r->runtime_flags = (const uint32_t *)(runtime + info->runtime_flags_off);
	r->state = &shared->state;
	r->revoke_reason = &shared->revoke_reason;
	r->sq = area[FH_AREA_SQ];
	r->cq = area[FH_AREA_CQ];
	r->arena = area[FH_AREA_ARENA];
	r->sq_entries = info->sq_entries;
	r->cq_entries = info->cq_entries;
	r->sq_entry_bytes = info->sq_entry_bytes;
	r->cq_entry_bytes = info->cq_entry_bytes;
	r->arena_bytes = info->arena_bytes & ~7ull;
	r->checked_ns = fh_now_ns();
	r->prompt_end = calloc(r->sq_entries, sizeof(*r->prompt_end));
	return r->prompt_end ? 0 : fh_errf(&c->err, -ENOMEM, "out of memory");
}

void fhl_ring_destroy(struct fhl_ring *r)
{
	free(r->prompt_end);
	r->prompt_end = NULL;
}
