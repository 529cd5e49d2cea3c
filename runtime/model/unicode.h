/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The little of UTF-8 and Unicode that tokenizers need beyond PCRE2: decoding
 * that names every broken byte, and a copy of a text that a UTF matcher takes.
 */
#ifndef FH_MODEL_UNICODE_H
#define FH_MODEL_UNICODE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define FH_UTF8_REPLACEMENT "\xef\xbf\xbd" /* U+FFFD */

/* Length that a lead byte promises: 1..4; 0 for a byte that starts no character. */
unsigned int fh_utf8_lead(uint8_t byte);

/*
 * Decode the character at the front of @p.  Returns its length, 1..4, with *cp
 * set; 0 when no well-formed character starts there (overlong forms,
 * surrogates and numbers above U+10FFFF are not well-formed).  @n > 0.
 */
unsigned int fh_utf8_decode(const uint8_t *p, size_t n, uint32_t *cp);

/* Write @cp, at most U+10FFFF; returns the length, 1..4. */
unsigned int fh_utf8_encode(uint32_t cp, char out[4]);

/*
 * How many bytes at the front of @p form the start of one well-formed
 * character that is not complete: 0..3.  0 also when the character is complete
 * or broken.
 */
unsigned int fh_utf8_partial(const uint8_t *p, size_t n);

/*
 * Is @text well-formed and free of characters younger than the Unicode tables
 * (14.0) of the oldest PCRE2 that we run on?  If so a matcher may have it as
 * it is.  Otherwise give it fh_unicode_shadow().
 */
bool fh_unicode_plain(const char *text, size_t bytes);

/*
 * A copy of @text, length and character borders unchanged, that is well-formed
 * and whose characters have the general categories of Unicode 15.1 under any
 * tables since 14.0: a younger character is replaced by an old one of its
 * category and length, a broken byte by U+0001.  @out: [bytes].
 */
void fh_unicode_shadow(const char *text, size_t bytes, char *out);

#endif /* FH_MODEL_UNICODE_H */
