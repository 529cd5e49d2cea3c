// SPDX-License-Identifier: Apache-2.0
/*
 * UTF-8 by the table of well-formed sequences (Unicode 15, table 3-7), and the
 * shadow text.  No state; nothing is allocated.
 */
#include "runtime/model/unicode.h"

#include <assert.h>
#include <string.h>

unsigned int fh_utf8_lead(uint8_t byte)
{
	if (byte < 0x80)
		return 1;
	if (byte < 0xc2 || byte > 0xf4)
		return 0;
	return byte < 0xe0 ? 2 : byte < 0xf0 ? 3 : 4;
}

/* The second byte's range depends on the first: no overlong forms, no surrogates, nothing above U+10FFFF. */
static bool second_ok(uint8_t lead, uint8_t byte)
{
	switch (lead) {
	case 0xe0: return byte >= 0xa0 && byte <= 0xbf;
	case 0xed: return byte >= 0x80 && byte <= 0x9f;
	case 0xf0: return byte >= 0x90 && byte <= 0xbf;
	case 0xf4: return byte >= 0x80 && byte <= 0x8f;
	default: return (byte & 0xc0) == 0x80;
	}
}

unsigned int fh_utf8_decode(const uint8_t *p, size_t n, uint32_t *cp)
{
	unsigned int len = fh_utf8_lead(p[0]);

	if (len == 1) {
		*cp = p[0];
		return 1;
	}
	if (!len || len > n || !second_ok(p[0], p[1]))
		return 0;
	*cp = p[0] & (0x7fu >> len);
	for (unsigned int i = 1; i < len; i++) {
		if ((p[i] & 0xc0) != 0x80)
			return 0;
		*cp = *cp << 6 | (p[i] & 0x3f);
	}
	return len;
}

unsigned int fh_utf8_encode(uint32_t cp, char out[4])
{
	assert(cp <= 0x10ffff);
	if (cp < 0x80) {
		out[0] = (char)cp;
		return 1;
	}
	if (cp < 0x800) {
		out[0] = (char)(0xc0 | cp >> 6);
		out[1] = (char)(0x80 | (cp & 0x3f));
		return 2;
	}
	if (cp < 0x10000) {
		out[0] = (char)(0xe0 | cp >> 12);
		out[1] = (char)(0x80 | (cp >> 6 & 0x3f));
		out[2] = (char)(0x80 | (cp & 0x3f));
		return 3;
	}
	out[0] = (char)(0xf0 | cp >> 18);
	out[1] = (char)(0x80 | (cp >> 12 & 0x3f));
	out[2] = (char)(0x80 | (cp >> 6 & 0x3f));
	out[3] = (char)(0x80 | (cp & 0x3f));
	return 4;
}

unsigned int fh_utf8_partial(const uint8_t *p, size_t n)
{
	unsigned int len = fh_utf8_lead(p[0]);

	if (len < 2 || n >= len)
		return 0;
	if (n > 1 && !second_ok(p[0], p[1]))
		return 0;
	if (n > 2 && (p[2] & 0xc0) != 0x80)
		return 0;
	return (unsigned int)n;
}

enum category { LETTER, MARK, NUMBER, PUNCT, SYMBOL };

/* What Unicode 15.0 and 15.1 added to 14.0, by major category (DerivedGeneralCategory.txt), ascending. */
static const struct {
	uint32_t first, last;
	enum category category;
} young[] = {
	{0x00cf3, 0x00cf3, MARK},   {0x00ece, 0x00ece, MARK},	{0x02ffc, 0x02fff, SYMBOL}, {0x031ef, 0x031ef, SYMBOL},
	{0x10efd, 0x10eff, MARK},   {0x1123f, 0x11240, LETTER}, {0x11241, 0x11241, MARK},   {0x11b00, 0x11b09, PUNCT},
	{0x11f00, 0x11f01, MARK},   {0x11f02, 0x11f02, LETTER}, {0x11f03, 0x11f03, MARK},   {0x11f04, 0x11f10, LETTER},
	{0x11f12, 0x11f33, LETTER}, {0x11f34, 0x11f3a, MARK},	{0x11f3e, 0x11f42, MARK},   {0x11f43, 0x11f4f, PUNCT},
	{0x11f50, 0x11f59, NUMBER}, {0x1342f, 0x1342f, LETTER}, {0x13440, 0x13440, MARK},   {0x13441, 0x13446, LETTER},
	{0x13447, 0x13455, MARK},   {0x1b132, 0x1b132, LETTER}, {0x1b155, 0x1b155, LETTER}, {0x1d2c0, 0x1d2d3, NUMBER},
	{0x1df25, 0x1df2a, LETTER}, {0x1e030, 0x1e06d, LETTER}, {0x1e08f, 0x1e08f, MARK},   {0x1e4d0, 0x1e4eb, LETTER},
	{0x1e4ec, 0x1e4ef, MARK},   {0x1e4f0, 0x1e4f9, NUMBER}, {0x1f6dc, 0x1f6dc, SYMBOL}, {0x1f774, 0x1f776, SYMBOL},
	{0x1f77b, 0x1f77f, SYMBOL}, {0x1f7d9, 0x1f7d9, SYMBOL}, {0x1fa75, 0x1fa77, SYMBOL}, {0x1fa87, 0x1fa88, SYMBOL},
	{0x1faad, 0x1faaf, SYMBOL}, {0x1fabb, 0x1fabd, SYMBOL}, {0x1fabf, 0x1fabf, SYMBOL}, {0x1face, 0x1facf, SYMBOL},
	{0x1fada, 0x1fadb, SYMBOL}, {0x1fae8, 0x1fae8, SYMBOL}, {0x1faf7, 0x1faf8, SYMBOL}, {0x2b739, 0x2b739, LETTER},
	{0x2ebf0, 0x2ee5d, LETTER}, {0x31350, 0x323af, LETTER},
};

/* Old characters of the same category and length that no pre-tokenizer's pattern names. */
static uint32_t old_for(uint32_t cp, enum category category)
{
	static const uint32_t four[] = {
		[LETTER] = 0x10000, [MARK] = 0x101fd, [NUMBER] = 0x10107, [PUNCT] = 0x10100, [SYMBOL] = 0x10137};

	if (cp >= 0x10000)
		return four[category];
	return category == MARK ? 0x0c00 : 0x2ff0;
}

/* @cp, or an older character that stands in for it. */
static uint32_t stand_in(uint32_t cp)
{
	size_t lo = 0, hi = sizeof(young) / sizeof(young[0]);

	if (cp < young[0].first)
		return cp;
	while (lo < hi) {
		size_t mid = (lo + hi) / 2;

		if (cp > young[mid].last)
			lo = mid + 1;
		else
			hi = mid;
	}
	if (lo == sizeof(young) / sizeof(young[0]) || cp < young[lo].first)
		return cp;
	return old_for(cp, young[lo].category);
}

bool fh_unicode_plain(const char *text, size_t bytes)
{
	const uint8_t *p = (const uint8_t *)text, *end = p + bytes;

	while (p < end) {
		unsigned int len;
		uint64_t eight;
		uint32_t cp;

		if (end - p >= 8) {
			memcpy(&eight, p, 8);
			if (!(eight & 0x8080808080808080u)) {
				p += 8;
				continue;
			}
		}
		len = fh_utf8_decode(p, (size_t)(end - p), &cp);
		if (!len || stand_in(cp) != cp)
			return false;
		p += len;
	}
	return true;
}

void fh_unicode_shadow(const char *text, size_t bytes, char *out)
{
	for (size_t i = 0; i < bytes;) {
		uint32_t cp;
		unsigned int len = fh_utf8_decode((const uint8_t *)text + i, bytes - i, &cp);

		if (!len) {
			out[i++] = 1;
			continue;
		}
		fh_utf8_encode(stand_in(cp), out + i);
		i += len;
	}
}
