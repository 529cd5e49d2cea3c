// SPDX-License-Identifier: Apache-2.0
/*
 * Packing with vectors gives the bytes of the packer in plain C: every type,
 * whole panels and rests, few columns and odd ones, experts, row ranges in any
 * order.  Sources are exactly as long as their rows and lie at odd addresses,
 * so that a sanitizer sees a read too far.
 */
#include "kernels/panel.h"
#include "tests/unit/kernels_util.h"

struct shape {
	uint32_t rows, cols, nr_experts;
};

/* @n random bytes: every pattern of scales and quants is legal to pack. */
static uint8_t *rnd_bytes(size_t n)
{
	uint8_t *p = malloc(n + 1); /* at an odd address, and nothing after the end */

	cr_assert_not_null(p);
	for (size_t i = 0; i < n; i++)
		p[1 + i] = (uint8_t)rnd();
	return p;
}

static void check(const struct fhk_ops *k, uint32_t type, const struct shape *s)
{
	const struct fhk_type_info *ti = fhk_type_info(type);
	size_t expert = (size_t)s->rows * (s->cols / ti->block_elems) * ti->block_bytes;
	uint8_t *file, *want, *got;
	struct fhk_mat m;

	cr_assert_eq(k->mat_plan(&m, type, s->rows, s->cols, s->nr_experts), 0);
	cr_assert_eq(m.packed_bytes, m.expert_bytes * s->nr_experts);
	file = rnd_bytes(expert * s->nr_experts);
	want = take(m.packed_bytes + FHK_ALIGN);
	got = take(m.packed_bytes + FHK_ALIGN);
	for (uint32_t e = 0; e < s->nr_experts; e++) {
		const uint8_t *src = file + 1 + e * expert;
		uint32_t cut = rnd_to(0, s->rows / FHK_PANEL) * FHK_PANEL;

		fhk_panel_pack(&m, e, src, 0, s->rows, want);
		k->mat_pack(&m, e, src, cut, s->rows, got);
		k->mat_pack(&m, e, src, 0, cut, got);
	}
	/* The bytes after the end too. */
	for (size_t i = 0; i < m.packed_bytes + FHK_ALIGN; i++)
		cr_assert_eq(got[i], want[i], "%s %s, %u x %u, %u experts: byte %zu is %u, not %u", k->name, ti->name,
			     s->rows, s->cols, s->nr_experts, i, got[i], want[i]);
	free(file);
	free(want);
	free(got);
}

Test(pack, as_in_plain_c)
{
	static const struct shape shapes[] = {{16, 256, 1}, {1, 256, 1},   {15, 512, 1}, {17, 256, 1},
					      {48, 768, 1}, {100, 256, 3}, {33, 1280, 2}};
	static const uint32_t cols[] = {1, 2, 3, 4, 7, 8, 9, 12, 24, 31, 32, 40, 64, 96, 224, 288, 320};
	const struct fhk_ops *k;
	uint32_t nr = 0;

	for_each_table(k)
	{
		struct fhk_mat m;

		/* The reference runs the file's own bytes. */
		if (!k->mat_plan(&m, FHK_Q8_0, 16, 32, 1) && !m.packed_bytes)
			continue;
		nr++;
		for (size_t t = 0; t < COUNT(all_types); t++) {
			uint32_t elems = fhk_type_info(all_types[t])->block_elems;

			for (size_t s = 0; s < COUNT(shapes); s++)
				check(k, all_types[t], &shapes[s]);
			for (size_t c = 0; c < COUNT(cols); c++) {
				struct shape s = {.rows = rnd_to(1, 40), .cols = cols[c], .nr_experts = 1};

				if (cols[c] % elems == 0)
					check(k, all_types[t], &s);
			}
		}
	}
#ifdef __x86_64__
	if (nr == 0)
		cr_skip_test("no table of this machine packs");
#else
	cr_assert_eq(nr, 0);
#endif
}
