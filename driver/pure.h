/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * The driver's arithmetic: functions of their arguments alone, with neither
 * locks nor memory of their own, so that KUnit can go through them.
 */
#ifndef FH_DRIVER_PURE_H
#define FH_DRIVER_PURE_H

#include <linux/types.h>

#include "uapi/freehold.h"

/*
 * mmap offsets.  A file's channels lie in windows of 4 GiB, so that a 32-bit
 * client (whose mmap2 takes 32 bits of pages) reaches 4,095 of them; regions
 * lie far above in windows of 1 TiB.
 */
#define FH_CHAN_WINDOW_SHIFT 32
#define FH_MEM_WINDOW_SHIFT 40
#define FH_MEM_WINDOW_BASE BIT_ULL(61)
#define FH_CHAN_ID_MAX ((u32)(BIT(44 - FH_CHAN_WINDOW_SHIFT) - 1))
#define FH_MEM_BYTES_MAX BIT_ULL(FH_MEM_WINDOW_SHIFT)
#define FH_ID_MAX ((u32)(BIT(20) - 1))

/**
 * struct fh_window - which object an mmap offset means, and where in it
 * @mem: a region, not a channel
 * @id: of the object
 * @off: in bytes from its beginning
 */
struct fh_window {
	bool mem;
	u32 id;
	u64 off;
};

u64 fh_chan_mmap_off(u32 id);
u64 fh_mem_mmap_off(u32 id);
int fh_window_find(u64 off, struct fh_window *win);
int fh_area_find(const struct fh_chan_info *info, u64 off, u64 bytes);
bool fh_area_writable(const struct fh_chan_info *info, int area, enum fh_writer side);
int fh_range_check(u64 addr, u64 length, u64 page_bytes, u64 max);
u32 fh_ranges_add(struct fh_dma_range *ranges, u32 room, u32 nr, u64 addr, u64 length);

#endif /* FH_DRIVER_PURE_H */
