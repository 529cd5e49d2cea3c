// SPDX-License-Identifier: Apache-2.0
/*
 * The shared header: sizes and offsets that can never change again, and where
 * fh_chan_layout() puts the areas of a channel.
 */
#include <criterion/criterion.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "uapi/freehold.h"

#define SIZE(type, bytes) cr_assert_eq(sizeof(type), bytes, #type " has %zu bytes", sizeof(type))
#define OFFSET(type, field, off)                                                                                       \
	cr_assert_eq(offsetof(type, field), off, #type "." #field " lies at %zu", offsetof(type, field))

Test(uapi, sizes)
{
	SIZE(struct fh_slot, 16);
	SIZE(struct fh_req_desc, 120);
	SIZE(struct fh_cqe, 32);
	SIZE(struct fh_peer, 40);
	SIZE(struct fh_chan_area, 24);
	SIZE(struct fh_chan_info, 72 + 16 + 6 * 24 + 40);
	SIZE(struct fh_info, 80);
	SIZE(struct fh_destroy, 8);
	SIZE(struct fh_chan_create, 40);
	SIZE(struct fh_chan_accept, 72);
	SIZE(struct fh_chan_kick, 16);
	SIZE(struct fh_chan_revoke, 16);
	SIZE(struct fh_mem_import, 48);
	SIZE(struct fh_mem_export, 16);
	SIZE(struct fh_dma_range, 16);
	SIZE(struct fh_dma_map, 40);
}

Test(uapi, offsets)
{
	OFFSET(struct fh_slot, stamp, 4);
	OFFSET(struct fh_req_desc, user_data, 8);
	OFFSET(struct fh_req_desc, run_id, 40);
	OFFSET(struct fh_req_desc, budget_tokens, 56);
	OFFSET(struct fh_req_desc, req_class, 104);
	OFFSET(struct fh_cqe, user_data, 16);
	OFFSET(struct fh_cqe, error, 24);
	OFFSET(struct fh_peer, start_boottime_ns, 16);
	OFFSET(struct fh_chan_info, state, 16);
	OFFSET(struct fh_chan_info, arena_bytes, 72);
	OFFSET(struct fh_chan_info, areas, 88);
	OFFSET(struct fh_chan_info, peer, 232);
	OFFSET(struct fh_chan_create, out_mmap_off, 32);
	OFFSET(struct fh_chan_accept, out_peer, 32);
	OFFSET(struct fh_dma_map, ranges, 32);
}

/* The areas follow each other without gaps, whole pages, in their order, and every word lies in its own area. */
static void check_layout(uint32_t page, uint32_t sq, uint32_t cq, uint64_t arena)
{
	struct fh_chan_info info = {0};
	uint64_t off = 0;

	cr_assert_eq(fh_chan_layout(&info, page, sq, cq, arena), 0);
	for (uint32_t i = 0; i < info.nr_areas; i++) {
		cr_assert_eq(info.areas[i].off, off);
		cr_assert_gt(info.areas[i].bytes, 0);
		cr_assert_eq(info.areas[i].bytes % page, 0);
		off += info.areas[i].bytes;
	}
	cr_assert_eq(info.chan_bytes, off);
	cr_assert_geq(info.areas[FH_AREA_INFO].bytes, sizeof(info));
	cr_assert_geq(info.areas[FH_AREA_SQ].bytes, (uint64_t)sq * info.sq_entry_bytes);
	cr_assert_geq(info.areas[FH_AREA_CQ].bytes, (uint64_t)cq * info.cq_entry_bytes);
	cr_assert_geq(info.areas[FH_AREA_ARENA].bytes, arena);
	cr_assert_geq(info.sq_entry_bytes, sizeof(struct fh_req_desc));
	cr_assert_eq(info.cq_entry_bytes, sizeof(struct fh_cqe));

	const uint32_t words[2][3] = {{info.sq_tail_off, info.cq_head_off, info.client_flags_off},
				      {info.sq_head_off, info.cq_tail_off, info.runtime_flags_off}};
	for (int side = 0; side < 2; side++) {
		uint32_t lines = 0;
		for (int w = 0; w < 3; w++) {
			cr_assert_eq(words[side][w] % 4, 0);
			cr_assert_leq(words[side][w] + 4, info.areas[side ? FH_AREA_RUNTIME : FH_AREA_CLIENT].bytes);
			lines |= 1u << (words[side][w] / 64);
		}
		cr_assert_eq(__builtin_popcount(lines), 3, "two words share a cache line");
	}
	/* One area, one writer; what a side writes never includes what the other writes. */
	cr_assert_eq(info.areas[FH_AREA_INFO].writer, FH_WRITER_KERNEL);
	cr_assert_eq(info.areas[FH_AREA_CLIENT].writer, FH_WRITER_CLIENT);
	cr_assert_eq(info.areas[FH_AREA_RUNTIME].writer, FH_WRITER_RUNTIME);
	cr_assert_eq(info.areas[FH_AREA_SQ].writer, FH_WRITER_CLIENT);
	cr_assert_eq(info.areas[FH_AREA_CQ].writer, FH_WRITER_RUNTIME);
	cr_assert_eq(info.areas[FH_AREA_ARENA].writer, FH_WRITER_CLIENT);
}

Test(uapi, layout)
{
	for (uint32_t page = 4096; page <= 65536; page *= 4) {
		check_layout(page, 1, 1, 1);
		check_layout(page, 64, 1024, 65536);
		check_layout(page, FH_SQ_ENTRIES_MAX, FH_CQ_ENTRIES_MAX, FH_ARENA_BYTES_MAX);
		check_layout(page, 2, 8, page);
		check_layout(page, 2, 8, page + 1);
	}
}

Test(uapi, layout_refuses)
{
	struct fh_chan_info info = {0}, zero = {0};

	cr_assert_eq(fh_chan_layout(&info, 2048, 1, 1, 1), -1);
	cr_assert_eq(fh_chan_layout(&info, 5000, 1, 1, 1), -1);
	cr_assert_eq(fh_chan_layout(&info, 0, 1, 1, 1), -1);
	cr_assert_eq(fh_chan_layout(&info, 4096, 0, 1, 1), -1);
	cr_assert_eq(fh_chan_layout(&info, 4096, 3, 1, 1), -1);
	cr_assert_eq(fh_chan_layout(&info, 4096, FH_SQ_ENTRIES_MAX * 2, 1, 1), -1);
	cr_assert_eq(fh_chan_layout(&info, 4096, 1, 0, 1), -1);
	cr_assert_eq(fh_chan_layout(&info, 4096, 1, 5, 1), -1);
	cr_assert_eq(fh_chan_layout(&info, 4096, 1, FH_CQ_ENTRIES_MAX * 2, 1), -1);
	cr_assert_eq(fh_chan_layout(&info, 4096, 1, 1, 0), -1);
	cr_assert_eq(fh_chan_layout(&info, 4096, 1, 1, FH_ARENA_BYTES_MAX + 1), -1);
	cr_assert_eq(fh_chan_layout(&info, 4096, 1, 1, UINT64_MAX), -1);
	cr_assert_eq(memcmp(&info, &zero, sizeof(info)), 0, "a refused layout wrote something");
}
