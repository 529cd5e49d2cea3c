// SPDX-License-Identifier: Apache-2.0
/* Stop strings (Knuth, Morris, Pratt: Fast pattern matching in strings, 1977); see stop.h. */
#include <assert.h>
#include <string.h>

#include "runtime/engine/stop.h"

void fh_stop_init(struct fh_stopper *st, const struct fh_stop *stop, uint32_t nr)
{
	assert(nr <= FH_MAX_STOP);
	st->stop = stop;
	st->nr = nr;
	st->offset = 0;
	for (uint32_t i = 0; i < nr; i++) {
		const char *s = stop[i].text;
		uint32_t k = 0;

		assert(stop[i].bytes && stop[i].bytes <= FH_MAX_STOP_BYTES);
		st->nr_matched[i] = 0;
		st->border[i][0] = 0;
		for (uint32_t j = 1; j < stop[i].bytes; j++) {
			while (k && s[j] != s[k])
				k = st->border[i][k - 1];
			k += s[j] == s[k];
			st->border[i][j] = (uint8_t)k;
		}
	}
}

bool fh_stop_feed(struct fh_stopper *st, const char *text, size_t bytes, uint64_t *begin)
{
	for (size_t at = 0; at < bytes; at++) {
		uint32_t longest = 0;

		st->offset++;
		for (uint32_t i = 0; i < st->nr; i++) {
			const struct fh_stop *s = &st->stop[i];
			uint32_t k = st->nr_matched[i];

			while (k && s->text[k] != text[at])
				k = st->border[i][k - 1];
			k += s->text[k] == text[at];
			st->nr_matched[i] = (uint16_t)k;
			if (k == s->bytes && k > longest)
				longest = k;
		}
		if (longest) {
			*begin = st->offset - longest;
			return true;
		}
	}
	return false;
}

void fh_stop_skip(struct fh_stopper *st, size_t bytes)
{
	st->offset += bytes;
	memset(st->nr_matched, 0, sizeof(st->nr_matched));
}

uint64_t fh_stop_safe(const struct fh_stopper *st)
{
	uint32_t most = 0;

	for (uint32_t i = 0; i < st->nr; i++)
		most = st->nr_matched[i] > most ? st->nr_matched[i] : most;
	return st->offset - most;
}
