// SPDX-License-Identifier: GPL-2.0-only
/*
 * The driver's arithmetic; see pure.h.  Everything here is reached with
 * numbers from user space, so nothing may overflow, and nothing is trusted.
 */
#include <linux/bits.h>
#include <linux/errno.h>
#include <linux/overflow.h>

#include "driver/pure.h"

u64 fh_chan_mmap_off(u32 id)
{
	return (u64)id << FH_CHAN_WINDOW_SHIFT;
}

u64 fh_mem_mmap_off(u32 id)
{
	return FH_MEM_WINDOW_BASE | (u64)id << FH_MEM_WINDOW_SHIFT;
}

/**
 * fh_window_find() - take an mmap offset apart
 * @off: in bytes
 * @win: what it means
 *
 * Return: 0, or -EINVAL when no object can lie there.
 */
int fh_window_find(u64 off, struct fh_window *win)
{
	u64 id;

	win->mem = off >= FH_MEM_WINDOW_BASE;
	if (win->mem) {
		off -= FH_MEM_WINDOW_BASE;
		id = off >> FH_MEM_WINDOW_SHIFT;
		win->off = off & (BIT_ULL(FH_MEM_WINDOW_SHIFT) - 1);
	} else {
		id = off >> FH_CHAN_WINDOW_SHIFT;
		win->off = off & (BIT_ULL(FH_CHAN_WINDOW_SHIFT) - 1);
	}
	if (!id || id > FH_ID_MAX)
		return -EINVAL;
	win->id = id;
	return 0;
}

/**
 * fh_area_find() - the one area that a range lies in
 * @info: the channel's geometry, from the kernel's own copy
 * @off: from the beginning of the channel
 * @bytes: length, not zero
 *
 * Return: enum fh_area, or -EINVAL when the range leaves an area.
 */
int fh_area_find(const struct fh_chan_info *info, u64 off, u64 bytes)
{
	u64 end;
	int i;

	if (!bytes || check_add_overflow(off, bytes, &end))
		return -EINVAL;
	for (i = 0; i < FH_NR_AREAS; i++) {
		const struct fh_chan_area *area = &info->areas[i];

		if (off >= area->off && end <= area->off + area->bytes)
			return i;
	}
	return -EINVAL;
}

bool fh_area_writable(const struct fh_chan_info *info, int area, enum fh_writer side)
{
	return side != FH_WRITER_KERNEL && info->areas[area].writer == side;
}

/**
 * fh_range_check() - is this a range of whole pages?
 * @addr: where it begins
 * @length: how long it is
 * @page_bytes: a power of two
 * @max: longest that is let through
 *
 * Return: 0 or -EINVAL.
 */
int fh_range_check(u64 addr, u64 length, u64 page_bytes, u64 max)
{
	u64 end;

	if (!length || length > max || (addr | length) & (page_bytes - 1))
		return -EINVAL;
	return check_add_overflow(addr, length, &end) ? -EINVAL : 0;
}

/**
 * fh_ranges_add() - append a piece to a list of ranges, or lengthen the last
 * @ranges: array, written only below @room; may be NULL with @room 0
 * @room: its entries
 * @nr: how many there are so far, counting those that found no room
 * @addr: of the piece
 * @length: of the piece
 *
 * Pieces are joined only among the entries that are there, so a list that was
 * cut short counts at least as many ranges as it needs.
 *
 * Return: how many there are now.
 */
u32 fh_ranges_add(struct fh_dma_range *ranges, u32 room, u32 nr, u64 addr, u64 length)
{
	if (nr && nr <= room && ranges[nr - 1].dma_addr + ranges[nr - 1].length == addr) {
		ranges[nr - 1].length += length;
		return nr;
	}
	if (nr < room) {
		ranges[nr].dma_addr = addr;
		ranges[nr].length = length;
	}
	return nr + 1;
}
