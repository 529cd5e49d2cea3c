/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Stop strings, found in a stream of text whatever the token borders.
 *
 * One Knuth-Morris-Pratt automaton a string: amortised constant time a byte and
 * string, however the text tries.  The first string to end decides; among those
 * that end at the same byte the one that begins first.
 *
 * Offsets count the bytes of the text since the beginning.  The text is what a
 * reader's detokenizer prints (whole characters, U+FFFD for broken ones), so
 * that what is promised about it holds for what people see.
 */
#ifndef FH_ENGINE_STOP_H
#define FH_ENGINE_STOP_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "runtime/base/request.h"

struct fh_stopper {
	const struct fh_stop *stop; /* [nr], borrowed */
	uint32_t nr;
	uint64_t offset; /* bytes seen */
	uint16_t nr_matched[FH_MAX_STOP];
	/* border[i][k]: length of the longest proper prefix of string i that ends its first k + 1 bytes. */
	uint8_t border[FH_MAX_STOP][FH_MAX_STOP_BYTES];
};

/* @stop: [nr], lengths 1..FH_MAX_STOP_BYTES, unchanged while in use. */
void fh_stop_init(struct fh_stopper *st, const struct fh_stop *stop, uint32_t nr);

/*
 * More text.  True when a stop string ends in it; *@begin is then the offset at
 * which it begins, and nothing more may be fed.
 */
bool fh_stop_feed(struct fh_stopper *st, const char *text, size_t bytes, uint64_t *begin);

/* More text in which nothing is looked for, and which no stop string may begin in. */
void fh_stop_skip(struct fh_stopper *st, size_t bytes);

/* The text before this offset can no longer become part of a stop string. */
uint64_t fh_stop_safe(const struct fh_stopper *st);

#endif /* FH_ENGINE_STOP_H */
