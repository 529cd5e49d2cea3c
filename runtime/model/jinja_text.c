// SPDX-License-Identifier: Apache-2.0
/*
 * Chat templates: what strings can do.  Strings are UTF-8 and counted in
 * characters, as Python counts them; results share the original's bytes where
 * they can.  Case is known for Latin, Greek and Cyrillic.
 */
#include "runtime/model/jinja.h"
#include "runtime/model/unicode.h"

#include <math.h>
#include <string.h>

size_t fh_jutf8(const char *p, const char *end, uint32_t *cp)
{
	unsigned int len = fh_utf8_decode((const uint8_t *)p, (size_t)(end - p), cp);

	if (!len)
		*cp = 0xfffd; /* a broken byte is a character of its own */
	return len ? len : 1;
}

size_t fh_jutf8_put(char out[4], uint32_t cp)
{
	return fh_utf8_encode(cp >= 0xd800 && cp < 0xe000 ? 0xfffd : cp, out); /* no half of a surrogate pair */
}

size_t fh_jutf8_len(struct fh_jv s)
{
	const char *p = s.s, *end = p + s.n;
	uint32_t cp;
	size_t n = 0;

	for (; p < end; n++)
		p += fh_jutf8(p, end, &cp);
	return n;
}

size_t fh_jutf8_at(struct fh_jv s, size_t i)
{
	const char *p = s.s, *end = p + s.n;
	uint32_t cp;

	for (; i && p < end; i--)
		p += fh_jutf8(p, end, &cp);
	return (size_t)(p - s.s);
}

bool fh_jis_space(uint32_t cp)
{
	if (cp < 0x80)
		return cp == ' ' || (cp >= 9 && cp <= 13) || (cp >= 0x1c && cp <= 0x1f);
	return cp == 0x85 || cp == 0xa0 || cp == 0x1680 || (cp >= 0x2000 && cp <= 0x200a) || cp == 0x2028 ||
	       cp == 0x2029 || cp == 0x202f || cp == 0x205f || cp == 0x3000;
}

/* Distance from the lower-case letter to its upper case; 0 when @cp is none. */
static int32_t to_upper_delta(uint32_t cp)
{
	if ((cp >= 'a' && cp <= 'z') || (cp >= 0xe0 && cp <= 0xfe && cp != 0xf7) ||
	    (cp >= 0x3b1 && cp <= 0x3cb && cp != 0x3c2) || (cp >= 0x430 && cp <= 0x44f))
		return -32;
	if (cp >= 0x450 && cp <= 0x45f)
		return -80;
	if (cp >= 0x100 && cp <= 0x17e && cp != 0x131 && cp != 0x138 && cp != 0x149) {
		bool odd_is_lower = cp <= 0x137 || (cp >= 0x14a && cp <= 0x177);

		return (cp & 1) == odd_is_lower && cp != 0x178 ? -1 : 0;
	}
	return cp == 0xff ? 0x178 - 0xff : 0;
}

uint32_t fh_jto_upper(uint32_t cp)
{
	return (uint32_t)((int32_t)cp + to_upper_delta(cp));
}

uint32_t fh_jto_lower(uint32_t cp)
{
	static const uint8_t steps[] = {32, 80, 1};

	if (cp == 0x178)
		return 0xff;
	for (size_t i = 0; i < sizeof(steps); i++)
		if (to_upper_delta(cp + steps[i]) == -(int32_t)steps[i])
			return cp + steps[i];
	return cp;
}

bool fh_jis_alpha(uint32_t cp)
{
	return fh_jto_upper(cp) != cp || fh_jto_lower(cp) != cp || cp == 0xdf;
}

struct fh_jv fh_jrecase(struct fh_jctx *c, struct fh_jv s, enum fh_jcase how)
{
	const char *p = s.s, *end = p + s.n;
	struct fh_jbuf b = {0};
	bool first = true, in_word = false;
	uint32_t cp;
	char out[4];

	if (fh_jcharge(c, s.n / 16))
		return FH_JV_UNDEF;
	while (p < end && !c->failed) {
		size_t n = fh_jutf8(p, end, &cp);
		bool upper = how == FH_JCASE_UPPER || (how == FH_JCASE_CAPITALIZE && first) ||
			     (how == FH_JCASE_TITLE && !in_word);

		in_word = fh_jis_alpha(cp);
		first = false;
		cp = upper ? fh_jto_upper(cp) : fh_jto_lower(cp);
		fh_jbuf_put(c, &b, out, fh_jutf8_put(out, cp));
		p += n;
	}
	return fh_jbuf_str(&b);
}

static bool in_set(struct fh_jv set, uint32_t cp)
{
	const char *p, *end;
	uint32_t member;

	if (set.type != FH_J_STR)
		return fh_jis_space(cp);
	p = set.s;
	end = p + set.n;
	while (p < end) {
		p += fh_jutf8(p, end, &member);
		if (member == cp)
			return true;
	}
	return false;
}

struct fh_jv fh_jstrip(struct fh_jctx *c, struct fh_jv s, struct fh_jv chars, bool left, bool right)
{
	const char *p = s.s, *end = p + s.n;
	uint64_t cost = chars.type == FH_J_STR ? chars.n / 4 : 0;
	uint32_t cp;

	while (left && p < end) {
		size_t n = fh_jutf8(p, end, &cp);

		if (!in_set(chars, cp) || (c && fh_jcharge(c, cost)))
			break;
		p += n;
	}
	while (right && p < end) {
		const char *q = end - 1;

		while (q > p && end - q < 4 && ((uint8_t)*q & 0xc0) == 0x80)
			q--;
		if (fh_jutf8(q, end, &cp) != (size_t)(end - q))
			break; /* not UTF-8 */
		if (!in_set(chars, cp) || (c && fh_jcharge(c, cost)))
			break;
		end = q;
	}
	return fh_jstr(p, (size_t)(end - p));
}

const char *fh_jfind(struct fh_jv hay, size_t from, struct fh_jv needle)
{
	if (from > hay.n)
		return NULL;
	if (!needle.n)
		return hay.s + from;
	return memmem(hay.s + from, hay.n - from, needle.s, needle.n);
}

struct fh_jv fh_jreplace(struct fh_jctx *c, struct fh_jv s, struct fh_jv old, struct fh_jv new_s, int64_t count)
{
	struct fh_jbuf b = {0};
	bool found = false;
	size_t at = 0;

	if (fh_jcharge(c, s.n / 32))
		return FH_JV_UNDEF;
	while (count-- && !fh_jcharge(c, 1)) {
		const char *hit = fh_jfind(s, at, old);
		uint32_t cp;

		if (!hit)
			break;
		found = true;
		fh_jbuf_put(c, &b, s.s + at, (size_t)(hit - s.s) - at);
		fh_jbuf_put(c, &b, new_s.s, new_s.n);
		at = (size_t)(hit - s.s) + old.n;
		if (old.n)
			continue;
		if (at >= s.n) { /* the empty string is found between all characters, and at the end */
			at = s.n;
			break;
		}
		cp = (uint32_t)fh_jutf8(s.s + at, s.s + s.n, &cp);
		fh_jbuf_put(c, &b, s.s + at, cp);
		at += cp;
	}
	if (!found)
		return s;
	fh_jbuf_put(c, &b, s.s + at, s.n - at);
	return fh_jbuf_str(&b);
}

struct percent {
	bool left, zero, plus;
	int width, precision; /* precision -1: none */
	char conv;
};

/* One conversion behind '%' at @p; returns where it ends, NULL when it is not understood. */
static const char *parse_percent(const char *p, const char *end, struct percent *o)
{
	*o = (struct percent){.precision = -1};
	for (; p < end && (*p == '-' || *p == '0' || *p == '+' || *p == ' '); p++) {
		o->left |= *p == '-';
		o->zero |= *p == '0';
		o->plus |= *p == '+';
	}
	for (; p < end && *p >= '0' && *p <= '9'; p++)
		if ((o->width = o->width * 10 + (*p - '0')) > 4096)
			return NULL;
	if (p < end && *p == '.')
		for (p++, o->precision = 0; p < end && *p >= '0' && *p <= '9'; p++)
			if ((o->precision = o->precision * 10 + (*p - '0')) > 64)
				return NULL;
	if (p == end)
		return NULL;
	o->conv = *p;
	return p + 1;
}

/* A number by the C library; the text lies in @buf. */
static struct fh_jv percent_number(struct fh_jctx *c, const struct percent *o, struct fh_jv v, char *buf, size_t cap)
{
	char fmt[16] = "%";
	bool whole = o->conv == 'd' || o->conv == 'i' || o->conv == 'x' || o->conv == 'X' || o->conv == 'o';
	int n;

	if (!fh_jis_num(v))
		return fh_jfail(c, "%%%c format: a number is required, not %s", o->conv, fh_jtype_name(v));
	strcat(fmt, o->plus ? "+" : "");
	if (whole) {
		snprintf(fmt + strlen(fmt), 8, "ll%c", o->conv);
		if (v.type == FH_J_FLOAT && !(fabs(v.f) < 9e18))
			return fh_jfail(c, "%%%c format: the number is too large", o->conv);
		n = snprintf(buf, cap, fmt, v.type == FH_J_FLOAT ? (long long)v.f : (long long)fh_jget_int(v));
	} else {
		snprintf(fmt + strlen(fmt), 8, ".*%c", o->conv);
		n = snprintf(buf, cap, fmt, o->precision < 0 ? 6 : o->precision, fh_jget_num(v));
	}
	return fh_jstr(buf, (size_t)n < cap ? (size_t)n : cap - 1);
}

static void put_padded(struct fh_jctx *c, struct fh_jbuf *b, const struct percent *o, struct fh_jv text, bool number)
{
	size_t len = fh_jutf8_len(text), pad = (size_t)o->width > len ? (size_t)o->width - len : 0;
	bool zero = o->zero && number && !o->left;

	if (zero && text.n && (*text.s == '-' || *text.s == '+')) {
		fh_jbuf_put(c, b, text.s++, 1);
		text.n--;
	}
	for (size_t i = 0; !o->left && i < pad; i++)
		fh_jbuf_put(c, b, zero ? "0" : " ", 1);
	fh_jbuf_put(c, b, text.s, text.n);
	for (size_t i = 0; o->left && i < pad; i++)
		fh_jbuf_put(c, b, " ", 1);
}

struct fh_jv fh_jpercent(struct fh_jctx *c, struct fh_jv fmt, const struct fh_jargs *a)
{
	const char *p = fmt.s, *end = p + fmt.n;
	struct fh_jbuf b = {0};
	uint32_t used = 0;
	char num[512];

	while (p < end && !fh_jcharge(c, 1)) {
		const char *hit = memchr(p, '%', (size_t)(end - p));
		struct fh_jv v = FH_JV_UNDEF;
		struct percent o;

		fh_jbuf_put(c, &b, p, (size_t)((hit ? hit : end) - p));
		if (!hit)
			break;
		p = parse_percent(hit + 1, end, &o);
		if (!p || !strchr("%srdixXofFeEgG", o.conv))
			return fh_jfail(c, "unsupported format after '%%'");
		if (o.conv == '%') {
			fh_jbuf_put(c, &b, "%", 1);
			continue;
		}
		if (used == a->nr)
			return fh_jfail(c, "not enough arguments for format string");
		v = a->pos[used++];
		if (o.conv == 's' || o.conv == 'r') {
			struct fh_jbuf text = {0};

			if (o.conv == 's')
				fh_jprint(c, &text, v);
			else
				fh_jrepr(c, &text, v);
			v = fh_jbuf_str(&text);
			if (o.precision >= 0)
				v.n = (uint32_t)fh_jutf8_at(v, (size_t)o.precision);
			put_padded(c, &b, &o, v, false);
			continue;
		}
		v = percent_number(c, &o, v, num, sizeof(num));
		if (v.type == FH_J_STR)
			put_padded(c, &b, &o, v, true);
	}
	if (used < a->nr)
		return fh_jfail(c, "not all arguments converted during string formatting");
	return fh_jbuf_str(&b);
}
