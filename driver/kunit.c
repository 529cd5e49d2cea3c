// SPDX-License-Identifier: GPL-2.0-only
/*
 * KUnit: the driver's arithmetic (pure.c) and the layout of a channel, as the
 * kernel's compiler makes them.
 */
#include <kunit/test.h>
#include <linux/mm.h>
#include <linux/module.h>

#include "driver/pure.c"

static void windows(struct kunit *test)
{
	static const u32 ids[] = { 1, 2, 77, FH_CHAN_ID_MAX, FH_ID_MAX };
	struct fh_window win;
	int i;

	for (i = 0; i < ARRAY_SIZE(ids); i++) {
		KUNIT_ASSERT_EQ(test, fh_window_find(fh_chan_mmap_off(ids[i]) + 4096, &win), 0);
		KUNIT_EXPECT_FALSE(test, win.mem);
		KUNIT_EXPECT_EQ(test, win.id, ids[i]);
		KUNIT_EXPECT_EQ(test, win.off, 4096ull);
		KUNIT_ASSERT_EQ(test, fh_window_find(fh_mem_mmap_off(ids[i]) + FH_MEM_BYTES_MAX - 1, &win), 0);
		KUNIT_EXPECT_TRUE(test, win.mem);
		KUNIT_EXPECT_EQ(test, win.id, ids[i]);
		KUNIT_EXPECT_EQ(test, win.off, FH_MEM_BYTES_MAX - 1);
	}
	/* A file offset is a signed number of bytes. */
	KUNIT_EXPECT_LT(test, fh_mem_mmap_off(FH_ID_MAX) + FH_MEM_BYTES_MAX, (u64)S64_MAX);
	KUNIT_EXPECT_EQ(test, fh_window_find(0, &win), -EINVAL);
	KUNIT_EXPECT_EQ(test, fh_window_find(4096, &win), -EINVAL);
	KUNIT_EXPECT_EQ(test, fh_window_find(fh_chan_mmap_off(FH_ID_MAX + 1), &win), -EINVAL);
	KUNIT_EXPECT_EQ(test, fh_window_find(FH_MEM_WINDOW_BASE, &win), -EINVAL);
	KUNIT_EXPECT_EQ(test, fh_window_find(U64_MAX, &win), -EINVAL);
}

static void areas(struct kunit *test)
{
	struct fh_chan_info info = {};
	int i;

	KUNIT_ASSERT_EQ(test, fh_chan_layout(&info, PAGE_SIZE, 64, 1024, 3 * PAGE_SIZE), 0);
	for (i = 0; i < FH_NR_AREAS; i++) {
		const struct fh_chan_area *area = &info.areas[i];

		KUNIT_EXPECT_EQ(test, fh_area_find(&info, area->off, area->bytes), i);
		KUNIT_EXPECT_EQ(test, fh_area_find(&info, area->off, PAGE_SIZE), i);
		KUNIT_EXPECT_EQ(test, fh_area_find(&info, area->off + area->bytes - PAGE_SIZE, PAGE_SIZE), i);
		KUNIT_EXPECT_EQ(test, fh_area_find(&info, area->off, area->bytes + PAGE_SIZE), -EINVAL);
		KUNIT_EXPECT_EQ(test, fh_area_find(&info, area->off, 0), -EINVAL);
	}
	KUNIT_EXPECT_EQ(test, fh_area_find(&info, 0, info.chan_bytes), -EINVAL);
	KUNIT_EXPECT_EQ(test, fh_area_find(&info, info.chan_bytes, PAGE_SIZE), -EINVAL);
	KUNIT_EXPECT_EQ(test, fh_area_find(&info, PAGE_SIZE, U64_MAX), -EINVAL);
	KUNIT_EXPECT_EQ(test, fh_area_find(&info, U64_MAX - PAGE_SIZE + 1, PAGE_SIZE), -EINVAL);
}

/* Nobody writes what the other writes, and nobody but the kernel the info area. */
static void writers(struct kunit *test)
{
	struct fh_chan_info info = {};
	int i;

	KUNIT_ASSERT_EQ(test, fh_chan_layout(&info, PAGE_SIZE, 1, 1, 1), 0);
	for (i = 0; i < FH_NR_AREAS; i++) {
		bool client = fh_area_writable(&info, i, FH_WRITER_CLIENT);
		bool runtime = fh_area_writable(&info, i, FH_WRITER_RUNTIME);

		KUNIT_EXPECT_FALSE(test, fh_area_writable(&info, i, FH_WRITER_KERNEL));
		KUNIT_EXPECT_FALSE(test, client && runtime);
		KUNIT_EXPECT_EQ(test, client || runtime, i != FH_AREA_INFO);
	}
}

static void layout(struct kunit *test)
{
	struct fh_chan_info info = {};
	u64 off = 0;
	int i;

	KUNIT_ASSERT_EQ(test,
			fh_chan_layout(&info, PAGE_SIZE, FH_SQ_ENTRIES_MAX, FH_CQ_ENTRIES_MAX, FH_ARENA_BYTES_MAX), 0);
	for (i = 0; i < FH_NR_AREAS; i++) {
		KUNIT_EXPECT_EQ(test, info.areas[i].off, off);
		off += info.areas[i].bytes;
	}
	KUNIT_EXPECT_EQ(test, info.chan_bytes, off);
	/* The largest channel fits its window. */
	KUNIT_EXPECT_LE(test, off, BIT_ULL(FH_CHAN_WINDOW_SHIFT));
	KUNIT_EXPECT_NE(test, fh_chan_layout(&info, PAGE_SIZE, 3, 1, 1), 0);
	KUNIT_EXPECT_NE(test, fh_chan_layout(&info, PAGE_SIZE, 1, 0, 1), 0);
	KUNIT_EXPECT_NE(test, fh_chan_layout(&info, PAGE_SIZE, 1, 1, U64_MAX), 0);
	KUNIT_EXPECT_NE(test, fh_chan_layout(&info, 100, 1, 1, 1), 0);
}

static void ranges_check(struct kunit *test)
{
	const u64 max = FH_MEM_BYTES_MAX;

	KUNIT_EXPECT_EQ(test, fh_range_check(0, 4096, 4096, max), 0);
	KUNIT_EXPECT_EQ(test, fh_range_check(4096, max, 4096, max), 0);
	KUNIT_EXPECT_EQ(test, fh_range_check(0, 0, 4096, max), -EINVAL);
	KUNIT_EXPECT_EQ(test, fh_range_check(1, 4096, 4096, max), -EINVAL);
	KUNIT_EXPECT_EQ(test, fh_range_check(0, 4097, 4096, max), -EINVAL);
	KUNIT_EXPECT_EQ(test, fh_range_check(0, max + 4096, 4096, max), -EINVAL);
	KUNIT_EXPECT_EQ(test, fh_range_check(-4096ull, 8192, 4096, max), -EINVAL);
}

static void ranges_join(struct kunit *test)
{
	struct fh_dma_range r[2] = {};
	u32 nr = 0;

	nr = fh_ranges_add(r, 2, nr, 0x1000, 0x1000);
	nr = fh_ranges_add(r, 2, nr, 0x2000, 0x3000);
	KUNIT_EXPECT_EQ(test, nr, 1u);
	KUNIT_EXPECT_EQ(test, r[0].length, 0x4000ull);
	nr = fh_ranges_add(r, 2, nr, 0x9000, 0x1000);
	nr = fh_ranges_add(r, 2, nr, 0x20000, 0x1000);
	KUNIT_EXPECT_EQ(test, nr, 3u);
	KUNIT_EXPECT_EQ(test, r[1].dma_addr, 0x9000ull);
	KUNIT_EXPECT_EQ(test, r[1].length, 0x1000ull);
	/* Beyond the room nothing is written, and nothing is read. */
	nr = fh_ranges_add(r, 2, nr, 0x21000, 0x1000);
	KUNIT_EXPECT_EQ(test, nr, 4u);
	KUNIT_EXPECT_EQ(test, fh_ranges_add(NULL, 0, 0, 0x1000, 0x1000), 1u);
	KUNIT_EXPECT_EQ(test, fh_ranges_add(NULL, 0, 1, 0x2000, 0x1000), 2u);
}

static struct kunit_case cases[] = {
	KUNIT_CASE(windows),
	KUNIT_CASE(areas),
	KUNIT_CASE(writers),
	KUNIT_CASE(layout),
	KUNIT_CASE(ranges_check),
	KUNIT_CASE(ranges_join),
	{},
};

static struct kunit_suite suite = {
	.name = "freehold",
	.test_cases = cases,
};

kunit_test_suite(suite);

MODULE_DESCRIPTION("Freehold: KUnit tests of the driver's arithmetic");
MODULE_LICENSE("GPL");
