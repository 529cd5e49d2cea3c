// SPDX-License-Identifier: Apache-2.0
/* Prices, as the settings have them: exact, in decimal, to the millionth. */
#include <ctype.h>
#include <fnmatch.h>
#include <string.h>

#include "runtime/daemon/config.h"

#define DECIMALS 6 /* of the price of a million tokens; one of them is one unit of money a token */

/* "1.50" as a whole number of its 10^-6; moves *text behind it. */
static bool read_price(const char **text, uint64_t *out)
{
	const char *p = *text;
	unsigned int decimals = 0;
	uint64_t v = 0;

	if (!isdigit((unsigned char)*p))
		return false;
	for (; isdigit((unsigned char)*p); p++) {
		v = v * 10 + (uint64_t)(*p - '0');
		if (v > 1000000)
			return false;
	}
	if (*p == '.')
		for (p++; isdigit((unsigned char)*p) && decimals < DECIMALS; p++, decimals++)
			v = v * 10 + (uint64_t)(*p - '0');
	for (; decimals < DECIMALS; decimals++)
		v *= 10;
	*text = p;
	*out = v;
	return true;
}

static bool read_prices(const char *p, struct fh_prices *out)
{
	p += strspn(p, " \t");
	if (!read_price(&p, &out->prompt) || *p++ != '/' || !read_price(&p, &out->cached) || *p++ != '/' ||
	    !read_price(&p, &out->completion))
		return false;
	out->reasoning = out->completion;
	if (*p == '/') {
		p++;
		if (!read_price(&p, &out->reasoning))
			return false;
	}
	return !*p && out->cached <= out->prompt;
}

int fhd_config_prices(const struct fhd_config *c, const char *model, bool thinks, struct fh_prices *out,
		      struct fh_err *err)
{
	bool found = false;

	*out = (struct fh_prices){0};
	for (uint32_t i = 0; i < c->price.n; i++) {
		const char *text = c->price.v[i];
		size_t n = strcspn(text, " \t");
		struct fh_prices p;
		char pattern[256];

		if (!n || n >= sizeof(pattern) || !read_prices(text + n, &p))
			return fh_errf(
				err, -EINVAL,
				"price = %s: a model, or a pattern, and three or four prices of a million tokens "
				"are wanted, such as \"llama* 0.50/0.05/1.50\"; the fourth is a thought's; a "
				"cached token costs no more than another, and six decimals are the most",
				text);
		memcpy(pattern, text, n);
		pattern[n] = 0;
		if (!found && !fnmatch(pattern, model, 0)) {
			*out = p;
			found = true;
		}
	}
	if (!thinks)
		out->reasoning = out->completion;
	return 0;
}
