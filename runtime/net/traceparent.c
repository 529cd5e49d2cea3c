// SPDX-License-Identifier: Apache-2.0
/* VERSION "-" TRACE-ID "-" PARENT-ID "-" FLAGS, in lower-case hexadecimal digits; identities are not all zero. */
#include "runtime/net/traceparent.h"

#include <string.h>

#define LENGTH 55 /* of version 00, and of what is understood of later ones */

static int digit(char c)
{
	if (c >= '0' && c <= '9')
		return c - '0';
	return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

static bool read_hex(const char *text, uint8_t *out, size_t bytes)
{
	for (size_t i = 0; i < bytes; i++) {
		int high = digit(text[2 * i]), low = digit(text[2 * i + 1]);

		if (high < 0 || low < 0)
			return false;
		out[i] = (uint8_t)(high << 4 | low);
	}
	return true;
}

static bool is_zero(const uint8_t *p, size_t n)
{
	while (n && !p[n - 1])
		n--;
	return !n;
}

static bool parse(const char *text, size_t n, struct fh_trace_context *out)
{
	uint8_t version, flags;

	if (n < LENGTH || text[2] != '-' || text[35] != '-' || text[52] != '-')
		return false;
	if (!read_hex(text, &version, 1) || version == 0xff || (n > LENGTH && (!version || text[LENGTH] != '-')))
		return false;
	if (!read_hex(text + 3, out->trace_id, sizeof(out->trace_id)) ||
	    !read_hex(text + 36, out->parent_id, sizeof(out->parent_id)) || !read_hex(text + 53, &flags, 1))
		return false;
	out->known = true;
	out->sampled = flags & 1;
	return !is_zero(out->trace_id, sizeof(out->trace_id)) && !is_zero(out->parent_id, sizeof(out->parent_id));
}

bool fh_traceparent_parse(const char *text, size_t n, struct fh_trace_context *out)
{
	*out = (struct fh_trace_context){0};
	if (parse(text, n, out))
		return true;
	*out = (struct fh_trace_context){0};
	return false;
}
